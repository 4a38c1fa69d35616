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

from .model import load


class EmbeddingTransformer(TransformerMixin, BaseEstimator):
    """Paths of audio files -> one vector each, float32 (files, 2 * latents), as `Model.embed` gives; nothing is learned."""

    def __init__(self, model: str | os.PathLike[str] = "autoencoder", threads: int | None = None) -> None:
        self.model = model
        self.threads = threads

    def fit(self, X: Any, y: Any = None) -> EmbeddingTransformer:
        return self

    def transform(self, X: Iterable[str | os.PathLike[str]]) -> np.ndarray:
        """AudioError for the first file that cannot be read."""
        model = load(self.model, self.threads)
        return np.stack([model.embed(path) for path in X])

    def __sklearn_is_fitted__(self) -> bool:
        return True
