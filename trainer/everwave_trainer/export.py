"""From training runs to the runtime's weight files."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import everwave
import keras
import numpy as np
from everwave import weights
from everwave.config import Config, GeneratorConfig
from everwave.errors import EverwaveError, ModelError, UsageError
from everwave.networks import AUTOENCODER

from . import checkpoint, disk, variation
from .evaluate.card import read_metrics
from .latents import Latents, same_encoders
from .layers import parameters
from .start import model_of

EXPORTS = (weights.RUN_FILE, "autoencoder.h5")  # what a trainer leaves in its run folder at every checkpoint
UNSTATED = "unstated"


def config_key(config: Config) -> dict[str, Any]:
    """The config as it comes back from JSON (lists for tuples), to compare with a checkpoint's."""
    return json.loads(json.dumps(config.to_dict()))


def save_autoencoder(
    path: Path, config: Config, networks: Mapping[str, keras.Model], provenance: dict[str, Any], licence: str = UNSTATED
) -> None:
    """Write the four networks of an autoencoder as one weights file, float32; `licence` is that of what they began with."""
    values = {name: parameters(model) for name, model in networks.items()}
    weights.write(path, weights.ModelFile(config, "autoencoder", values, licence, provenance, None), dtype="float32")


def save_domain(
    path: Path,
    config: Config,
    networks: Mapping[str, Mapping[str, np.ndarray]],
    autoencoder: dict[str, str],
    provenance: dict[str, Any],
    licence: str = UNSTATED,
) -> None:
    """Write a generator, and what goes with it, as a domain file that names its autoencoder, float32."""
    parts = {name: dict(values) for name, values in networks.items()}
    weights.write(path, weights.ModelFile(config, "domain", parts, licence, provenance, autoencoder), dtype="float32")


def save_trained_on(
    folder: Path, file: weights.ModelFile, config: Config, networks: Mapping[str, Mapping[str, np.ndarray]],
    latents: Latents, provenance: dict[str, Any],
) -> None:  # fmt: skip
    """Write `folder`/model.h5 beside the autoencoder of `latents`: the domain that `file` is, but for these networks and what is said of them.

    What was measured of it before is left out, and its licence stays: what goes on from its weights is made of them.
    """
    disk.copy(latents.autoencoder_path, folder / latents.autoencoder["file"])
    # in any other kind the chunk decoder is the autoencoder's
    own = ("generator", "refiner", "chunk_decoder") if file.kind == "domain" else ("generator", "refiner")
    parts = {name: values for name, values in file.parameters.items() if name in own} | dict(networks)
    known = {key: value for key, value in file.provenance.items() if key != "metrics"}
    save_domain(folder / weights.RUN_FILE, config, parts, latents.autoencoder, known | provenance, file.licence)


def export_run(
    folder: Path, path: Path, *, licence: str, dtype: str = "float16", metrics: Path | None = None,
    autoencoder: str | None = None, chunk_decoder: Path | None = None,
    ranges: Sequence[tuple[str, float, float]] = (), spread: float = 1.0, noise: float = 1.0,
    mean_with: Sequence[Path] = (), vary_as: Sequence[Path] = (),
) -> None:  # fmt: skip
    """Copy the newest weights of a run to `path` in `dtype`, with their licence.

    licence: of the music; those of the model which the run began with, and of whatever else goes into the file, are added.
    metrics: a JSON file of `everwave-train evaluate`, kept in the provenance.
    autoencoder: for a generator, the shipped file that it shall name; its encoders are those of the run's own, to float16.
    chunk_decoder: for a generator, the run of stage `chunk` whose decoder goes into its file.
    ranges: (condition, low, high) that a user may ask for, where the model obeys less than its training data had.
    spread: for a generator, how many times as far styles and anchors lie from the middle: little training makes pieces too much
        alike. A generator of before training cut normals off, as the runtime does, had them 1.14 times as far.
    noise: for a generator, how many times as strong the noise is that its layers inject. A layer adds the same number to all of
        its channels, so what the noise varies is not all that varies in music; less of it can be nearer.
    mean_with: runs that began with the same weights, as post-training with other seeds does: the mean of them all is written.
    vary_as: latents folders of the music that a model with a refiner has learned; along each of their principal components, what it
        plays shall vary as they do.
    """
    newest = _newest(folder)
    model = weights.read(newest)
    # what was measured of other weights is not said of these
    provenance = {k: v for k, v in model.provenance.items() if k != "metrics"} | {"trainer": everwave.__version__}
    if metrics is not None:
        provenance["metrics"] = read_metrics(metrics)
    networks, licences = dict(model.parameters), [model.licence]
    if mean_with:
        others = [_alike(model, other) for other in mean_with]
        networks = _mean([model, *others])
        licences += [other.licence for other in others]
        provenance["mean_of"] = 1 + len(mean_with)
    if chunk_decoder is not None:
        if model.kind != "domain":
            raise UsageError(f"--chunk-decoder: {newest} is no generator; an autoencoder has its chunk decoder")
        theirs = weights.read(chunk_decoder / "autoencoder.h5")
        networks["chunk_decoder"] = theirs.parameters["chunk_decoder"]
        provenance["chunk_decoder"] = theirs.provenance
        licences.append(theirs.licence)
    for option, factor, change in (("spread", spread, _spread), ("noise", noise, _noise)):
        if factor != 1.0:
            if "generator" not in networks:
                raise UsageError(f"--{option}: {newest} is no generator; name the run of one, or leave the option out")
            networks["generator"] = change(networks["generator"], model.config.generator, factor)
            provenance[option] = factor
    for name, low, high in ranges:
        model = dataclasses.replace(model, config=_narrowed(model.config, name, low, high))
    if vary_as:
        if "refiner" not in networks:
            raise UsageError(
                f"--vary-as: {newest} has no refiner; name the run of a model that has, or leave the option out"
            )
        latents = Latents.join(vary_as)
        model_of(newest, latents, "--vary-as:")
        networks["refiner"] = variation.refiner_as(dataclasses.replace(model, parameters=networks), latents)
        provenance["vary_as"] = latents.sources
    reference = _shipped(autoencoder, model, newest) if autoencoder else model.autoencoder
    model = dataclasses.replace(
        model,
        licence=joined_licences(*licences, licence),
        parameters=networks,
        provenance=provenance,
        autoencoder=reference,
    )
    weights.write(path, model, dtype=dtype)
    _say_what_it_needs(model, path, weights.find(autoencoder) if autoencoder else folder)


def _say_what_it_needs(model: weights.ModelFile, path: Path, place: Path) -> None:
    """A line if the autoencoder of the model written to `path` will not be found from there; it is at `place`, or in that folder."""
    if model.autoencoder is None:
        return
    try:
        weights.autoencoder_path(model, path)
    except ModelError:
        name = model.autoencoder["file"]
        there = place / name if place.is_dir() else place
        print(
            f"{path}: plays only with {name} beside it: copy {there} there; `everwave bundle` makes one file of both",
            file=sys.stderr,
        )


def joined_licences(*licences: str) -> str:
    """Licences as one SPDX expression, which names each once; UNSTATED if none of them says anything."""
    stated = [text for text in licences if text != UNSTATED]
    parts = [f"({text})" if " OR " in text and "(" not in text else text for text in stated]
    return " AND ".join(dict.fromkeys(part for text in parts for part in text.split(" AND "))) or UNSTATED


def result(folder: Path) -> Path:
    """The newest weights of the run in `folder`; of one of level 1, which has none, its checkpoint."""
    found = (folder / name for name in (*EXPORTS, checkpoint.FILE))
    return next((path for path in found if path.exists()), folder)


def _newest(folder: Path) -> Path:
    found = [folder / name for name in EXPORTS if (folder / name).exists()]
    if not found:
        raise EverwaveError(f"{folder}: neither {' nor '.join(EXPORTS)} there; train at least to the first checkpoint")
    return found[0]


def _alike(model: weights.ModelFile, folder: Path) -> weights.ModelFile:
    """The newest weights of the run in `folder`; UsageError for what cannot have begun as `model` did."""
    other = weights.read(_newest(folder))
    if any(getattr(other, what) != getattr(model, what) for what in ("kind", "config", "autoencoder")) or (
        other.parameters.keys() != model.parameters.keys()
    ):
        raise UsageError(
            f"--mean-with {folder}: it has other networks or conditions than the run, or another autoencoder; give runs"
            " that began with the same weights"
        )
    return other


def _mean(models: Sequence[weights.ModelFile]) -> dict[str, weights.Parameters]:
    """Means of the parameters of models that are alike (arXiv 2203.05482)."""

    def mean(name: str, key: str) -> np.ndarray:
        return np.stack([m.parameters[name][key] for m in models]).mean(axis=0, dtype=np.float32)

    return {name: {key: mean(name, key) for key in values} for name, values in models[0].parameters.items()}


def _shipped(autoencoder: str, model: weights.ModelFile, path: Path) -> dict[str, str]:
    """What the model read from `path` says of the file that `autoencoder` names. UsageError unless its latents are those it learned."""
    if model.kind != "domain":
        raise UsageError(f"--autoencoder: {path} is no generator; name the run of one, or leave the option out")
    shipped, trained_with = weights.find(autoencoder), weights.autoencoder_path(model, path)
    own, other = weights.read(trained_with), weights.read(shipped)
    sizes, others = ((c.signal, c.autoencoder) for c in (model.config, other.config))
    if other.kind == "domain" or sizes != others or not same_encoders(_rounded(own), _rounded(other)):
        raise UsageError(
            f"--autoencoder {autoencoder}: not the one that the run was trained with, {trained_with}; give that one, or an"
            " export of it"
        )
    return weights.reference(shipped)


def _rounded(model: weights.ModelFile) -> dict[str, weights.Parameters]:
    """Its autoencoder's parameters as a shipped file has them."""
    return {
        name: {key: value.astype(np.float16) for key, value in model.parameters[name].items()} for name in AUTOENCODER
    }


def _spread(parameters: Mapping[str, np.ndarray], generator: GeneratorConfig, factor: float) -> dict[str, np.ndarray]:
    """Parameters of the generator that takes styles and anchors for `factor` times as long, and conditions as before.

    Coordinates enter by products only, so their rows of the kernels are multiplied.
    """
    if not 0 < factor <= 4:
        raise UsageError(
            f"--spread {factor:g}: choose a number above 0 and up to 4; 1 leaves the model as it was trained"
        )
    rows = np.full(generator.coordinates, factor, np.float32)
    rows[generator.anchor + generator.style :] = 1.0  # conditions
    stem = parameters["stem/kernel"]  # reads a few steps of coordinates, one after the other
    spread = {name: value * rows[:, None] for name, value in parameters.items() if name.endswith("/style_kernel")}
    spread["stem/kernel"] = stem * np.tile(rows, len(stem) // len(rows))[:, None]
    return {**parameters, **spread}


def _noise(parameters: Mapping[str, np.ndarray], generator: GeneratorConfig, factor: float) -> dict[str, np.ndarray]:
    """Parameters of the generator whose layers inject `factor` times as strong noise."""
    if not 0 <= factor <= 4:
        raise UsageError(f"--noise {factor:g}: choose a number from 0 to 4; 1 leaves the model as it was trained")
    return {name: factor * value if name.endswith("/noise") else value for name, value in parameters.items()}


def _narrowed(config: Config, name: str, low: float, high: float) -> Config:
    """`config` with the range of the condition `name` made smaller; UsageError if there is none, or it would not be smaller."""
    conditions = {c.name: c for c in config.generator.conditions}
    if name not in conditions:
        raise UsageError(f"--range {name}: the model has the conditions {list(conditions)}")
    ours = conditions[name]
    if not ours.low <= low < high <= ours.high:
        raise UsageError(
            f"--range {name} {low:g} {high:g}: must lie within {ours.low:g} to {ours.high:g}, as the data has it"
        )
    conditions[name] = dataclasses.replace(ours, low=low, high=high)
    generator = dataclasses.replace(config.generator, conditions=tuple(conditions.values()))
    return dataclasses.replace(config, generator=generator)
