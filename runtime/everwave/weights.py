"""Models by name or path: finding files, joining a domain with its autoencoder, random weights.

The format itself, what is checked and how, is in `weights_format`.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from .config import Config
from .errors import ModelError, UnknownModel, UsageError, short
from .files import mode
from .networks import AUTOENCODER, of_domain
from .ops.trace import trace
from .weights_format import ModelFile, Parameters, check_reference, named, read, write

__all__ = [
    "ModelFile",
    "autoencoder_path",
    "available",
    "bundle",
    "called",
    "find",
    "random_model",
    "random_parameters",
    "read",
    "reference",
    "resolve",
    "write",
]

Array = np.ndarray
SHIPPED = "EVERWAVE_WEIGHTS"  # a folder that is searched first
RUN_FILE = "model.h5"  # what training writes, a folder for each run


# -- finding --------------------------------------------------------------------------------------------------------


def folders() -> list[Path]:
    """Where shipped models are looked for, in order: EVERWAVE_WEIGHTS, the installed package, the clone around it.

    ModelError if EVERWAVE_WEIGHTS is no folder.
    """
    package = Path(__file__).resolve().parent
    candidates = [package / "shipped"]
    if package.parent.name == "runtime":  # a clone or an editable install, not site-packages
        candidates.append(package.parents[1] / "weights")
    if own := os.environ.get(SHIPPED):
        if not Path(own).is_dir():
            raise ModelError(f"{SHIPPED}={own}: no such folder; set it to one of .h5 files, or unset it")
        candidates.insert(0, Path(own))
    return [folder for folder in candidates if folder.is_dir()]


def available() -> list[str]:
    """Names of the shipped models, sorted."""
    return sorted({path.stem for folder in folders() for path in folder.glob("*.h5") if path.is_file()})


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a shipped name such as "techno", or the path itself if it is one; ModelError if there is none.

    What has a folder or an ending in it is a path; anything else is a shipped name first.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise UsageError(f"{short(name_or_path)}: no model; give the path of a .h5 file, or a shipped name")
    path = Path(name_or_path)
    with named(path, "read"):
        if len(path.parts) == 1 and not path.suffix:
            for folder in folders():
                if (shipped := folder / f"{path.name}.h5").is_file():
                    return shipped
        if stat.S_ISREG(mode(path)):
            return path
    names = ", ".join(available()) or f"none, set {SHIPPED} to a folder of .h5 files"
    raise UnknownModel(
        f"{os.fspath(name_or_path)!r}: no such model; give the path of a .h5 file, or a shipped name ({names})"
    )


def called(name_or_path: str | os.PathLike[str]) -> str:
    """What a model is called: the shipped name, or the file's without its ending; of a training run's model.h5 its folder's."""
    path = Path(name_or_path)
    return path.parent.name if path.name == RUN_FILE and path.parent.name else path.stem


# -- joining --------------------------------------------------------------------------------------------------------


def reference(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a domain file says of the autoencoder file at `path` that it was trained with."""
    with named(path, "read"):
        return {"file": Path(path).name, "sha256": digest(Path(path))}


def resolve(model_file: ModelFile, path: str | os.PathLike[str]) -> ModelFile:
    """A domain file, read from `path`, joined with the autoencoder it names; other kinds as they are.

    The autoencoder is looked for beside the file, then among the shipped ones, and must have the hash the file states.
    A chunk decoder of the domain's own wins.
    """
    if model_file.kind != "domain":
        return model_file
    return replace(model_file, parameters=_autoencoder(model_file, path).parameters | model_file.parameters)


def bundle(model_file: ModelFile, path: str | os.PathLike[str]) -> ModelFile:
    """A domain file, read from `path`, and its autoencoder as one that needs no other; both licences and histories."""
    if model_file.kind == "bundle":
        return model_file
    if model_file.kind != "domain":
        raise ModelError(f"{os.fspath(path)}: kind {model_file.kind!r} has no generator; bundle a domain file")
    autoencoder = _autoencoder(model_file, path)
    licences = dict.fromkeys((model_file.licence, autoencoder.licence))
    return ModelFile(
        model_file.config,
        "bundle",
        autoencoder.parameters | model_file.parameters,
        "; autoencoder: ".join(licences),
        model_file.provenance | {"autoencoder": autoencoder.provenance | (model_file.autoencoder or {})},
    )


def autoencoder_path(model_file: ModelFile, path: str | os.PathLike[str]) -> Path:
    """The file that holds the autoencoder of the model read from `path`: that one, or the one that a domain file names."""
    if model_file.kind != "domain":
        return Path(path)
    with named(path, "read"):
        wanted = check_reference(model_file.autoencoder)
        places = [folder / wanted["file"] for folder in (Path(path).parent, *folders())]
        found = [place for place in places if place.is_file()]
        if not found:
            raise ModelError(f"it needs {wanted['file']!r}, which is not beside it and not among the shipped models")
        matching = next((place for place in found if digest(place) == wanted["sha256"]), None)
        if matching is None:
            raise ModelError(
                f"it needs the {wanted['file']!r} of SHA-256 {wanted['sha256'][:12]}...; {found[0]} is another version"
            )
    return matching


def _autoencoder(model_file: ModelFile, path: str | os.PathLike[str]) -> ModelFile:
    place = autoencoder_path(model_file, path)
    autoencoder = read(place)
    own, other = model_file.config, autoencoder.config
    if autoencoder.kind == "domain" or (own.signal, own.autoencoder) != (other.signal, other.autoencoder):
        raise ModelError(f"{place}: does not fit {os.fspath(path)}: another kind, or another signal or latent size")
    return replace(autoencoder, parameters={name: autoencoder.parameters[name] for name in AUTOENCODER})


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def autoencoder_digest(file: ModelFile, path: Path) -> str:
    """The SHA-256 of the autoencoder that `file`, read from `path`, holds or names, so that it is one for all of them."""
    bundled = file.provenance.get("autoencoder")
    named = file.autoencoder or (bundled if isinstance(bundled, dict) else {})
    return str(named.get("sha256") or reference(path)["sha256"])


# -- random weights -------------------------------------------------------------------------------------------------


def random_parameters(network: str, config: Config, seed: int) -> Parameters:
    """He-uniform kernels, a tenth of that in what residual blocks add; biases and noise scalars are small but not zero, so that a test sees each of them.

    Float32 numbers that float16 holds exactly, as those of a shipped file are. A parameter depends on the seed and its
    own name only.
    """
    return {
        name: _random(f"{network}/{name}", shape, seed) for name, shape in trace(network, config).parameters.items()
    }


def _random(name: str, shape: tuple[int, ...], seed: int) -> Array:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    fan_in = math.prod(shape[:-1])
    limit = math.sqrt(6 / fan_in) if name.endswith("kernel") else 0.1  # He et al. 2015
    limit *= 0.1 if name.endswith("_add/kernel") else 1.0  # else each residual block doubles what passes through
    values = (rng.random(shape, dtype=np.float32) * 2 - 1) * np.float32(limit)
    return values.astype(np.float16).astype(np.float32)


def random_model(config: Config, seed: int = 0) -> ModelFile:
    """A bundle of random weights, for tests and benchmarks: float16, as those of a shipped file."""
    parameters = {
        network: {name: values.astype(np.float16) for name, values in random_parameters(network, config, seed).items()}
        for network in (*AUTOENCODER, *of_domain(config))
    }
    return ModelFile(config, "bundle", parameters, "CC0-1.0", {"data": "none, random weights", "seed": seed})
