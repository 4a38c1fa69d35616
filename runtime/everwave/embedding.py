"""Embeddings for scikit-learn, which is needed for this alone: `pip install scikit-learn`.

features = make_pipeline(EmbeddingTransformer(), StandardScaler())
make_pipeline(features, LogisticRegression()).fit(paths, labels)
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from .errors import UsageError, short
from .model import load


class EmbeddingTransformer(TransformerMixin, BaseEstimator):
    """Paths of audio files -> one vector each, float32 (files, 2 * latents), as `Model.embed` gives; nothing is learned."""

    def __init__(self, model: str | os.PathLike[str] = "autoencoder", threads: int | None = None) -> None:
        self.model = model
        self.threads = threads

    def fit(self, X: Any, y: Any = None) -> EmbeddingTransformer:
        return self

    def transform(self, X: Iterable[str | os.PathLike[str]]) -> np.ndarray:
        """A list, a column or a series of paths. AudioError for the first file that cannot be read."""
        if isinstance(X, str | os.PathLike):
            raise UsageError(f"transform({short(X)}): one path; give a list of them")
        paths = np.asarray(X if hasattr(X, "__array__") else list(X), object)
        if paths.ndim > 1 and paths.shape[1] != 1:
            raise UsageError(f"transform: {paths.shape[1]} columns; give the one of the paths")
        for row, path in enumerate(paths := paths.ravel()):
            if not isinstance(path, str | os.PathLike):
                raise UsageError(f"transform: row {row} is {short(path)}; give the path of an audio file")
        model = load(self.model, self.threads)
        width = 2 * model.config.autoencoder.latents
        return np.array([model.embed(path) for path in paths], np.float32).reshape(-1, width)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """embedding0, embedding1 ... for scikit-learn's `set_output`."""
        width = 2 * load(self.model, self.threads).config.autoencoder.latents
        return np.array([f"embedding{i}" for i in range(width)], object)

    def __sklearn_is_fitted__(self) -> bool:
        return True
