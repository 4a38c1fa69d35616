"""The HDF5 weights format: read, check, write, find.

Root attributes are fixed-length UTF-8 strings: `format` "everwave", `format_version`, `kind`, `config` (JSON),
`conditions` (JSON, a copy of the config's for other readers), `licence`, `provenance` (JSON) and, in a domain file,
`autoencoder` (JSON: file, sha256). One contiguous float16 or float32 dataset per parameter: `/generator/up0/kernel`.

Readers trust nothing. Names, shapes, types and sizes are compared with the traced networks before any data is
read; links other than hard ones, other types, filters, external or virtual storage, and anything that is not
expected are refused. There is no pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from .config import Config
from .errors import ModelError
from .networks import AUTOENCODER, NETWORKS
from .ops.trace import trace

Array = np.ndarray
Parameters = dict[str, dict[str, Array]]

FORMAT, VERSION = "everwave", 1
KINDS = {  # networks that must be there, networks that may be there
    "autoencoder": (set(AUTOENCODER), set(AUTOENCODER)),
    "domain": ({"generator"}, {"generator", "chunk_decoder"}),
    "bundle": (set(AUTOENCODER), set(NETWORKS)),
}
ATTRIBUTES = ("format", "format_version", "kind", "config", "conditions", "licence", "provenance")
MAX_ATTRIBUTE = 60_000  # bytes; HDF5 itself keeps attributes below 64 KiB
MAX_PARAMETERS = 500_000_000
SUFFIX = ".h5"


@dataclass(frozen=True)
class ModelFile:
    """What a weights file holds. kind: "autoencoder", "domain" (a generator and perhaps its own chunk decoder, which
    needs the file that `autoencoder` names: {"file", "sha256"}) or "bundle" (everything in one)."""

    config: Config
    kind: str
    parameters: Parameters  # network -> "layer/what" -> float32
    licence: str
    provenance: dict[str, Any]
    autoencoder: dict[str, str] | None = None


# -- read ------------------------------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> ModelFile:
    """The checked content of a weights file, as float32. ModelError, one line naming the file, for anything else."""
    path = Path(path)
    with _opened(path) as file:
        header = _header(file)
        config = Config.from_dict(header["config"])
        if header["conditions"] != _plain(config)["generator"]["conditions"]:
            raise ModelError("the attribute 'conditions' contradicts the config")
        names = _check_members(file, header["kind"])
        datasets = {name: _check_network(file[name], name, config) for name in names}
        parameters = {name: {key: _values(d, key) for key, d in ds.items()} for name, ds in datasets.items()}
    return ModelFile(
        config, header["kind"], parameters, header["licence"], header["provenance"], header.get("autoencoder")
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The open HDF5 file; whatever goes wrong inside, the library's own errors included, names the file in one line."""
    import h5py

    if not path.is_file():
        raise ModelError(f"{path}: no such file; `everwave info` lists the shipped models")
    try:
        with open(path, "rb") as raw:
            if raw.read(8) != b"\x89HDF\r\n\x1a\n":
                raise ModelError("not an HDF5 file")
        with h5py.File(path, "r") as file:
            yield file
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: damaged or not a weights file ({reason}); get it again") from None


def _header(file: Any) -> dict[str, Any]:
    texts = {name: _text(file, name) for name in ATTRIBUTES}
    if texts["format"] != FORMAT or texts["format_version"] != str(VERSION):
        raise ModelError(f"format {texts['format']!r} {texts['format_version']!r}; expected {FORMAT!r} '{VERSION}'")
    if texts["kind"] not in KINDS:
        raise ModelError(f"kind {texts['kind']!r}; expected one of {', '.join(KINDS)}")
    header: dict[str, Any] = {"kind": texts["kind"], "licence": texts["licence"]}
    for name in ("config", "conditions", "provenance"):
        header[name] = _json(name, texts[name])
    if not isinstance(header["provenance"], dict):
        raise ModelError("the attribute 'provenance' is no JSON object")
    if texts["kind"] == "domain":
        needs = _json("autoencoder", _text(file, "autoencoder"))
        if not (isinstance(needs, dict) and needs.keys() == {"file", "sha256"} and all(map(_is_name, needs.values()))):
            raise ModelError("the attribute 'autoencoder' must give the file's name and its sha256")
        header["autoencoder"] = needs
    return header


def _is_name(value: Any) -> bool:
    """A plain file name or hash: a weights file cannot point elsewhere on the disk."""
    return isinstance(value, str) and value == os.path.basename(value) and value not in ("", ".", "..")


def _text(file: Any, name: str) -> str:
    import h5py

    if name not in file.attrs:
        raise ModelError(f"the attribute {name!r} is missing")
    attribute = file.attrs.get_id(name)
    kind = attribute.get_type()
    if kind.get_class() != h5py.h5t.STRING or kind.is_variable_str() or attribute.shape != ():
        raise ModelError(f"the attribute {name!r} is no fixed-length string")
    if attribute.get_storage_size() > MAX_ATTRIBUTE:
        raise ModelError(f"the attribute {name!r} has {attribute.get_storage_size()} bytes; at most {MAX_ATTRIBUTE}")
    value = file.attrs[name]
    return value if isinstance(value, str) else bytes(value).decode("utf-8")


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ModelError(f"the attribute {name!r} is no JSON") from None


def _check_members(file: Any, kind: str) -> list[str]:
    required, allowed = KINDS[kind]
    found = set(_names(file))
    if missing := sorted(required - found):
        raise ModelError(f"kind {kind!r} without {', '.join(missing)}")
    if extra := sorted(found - allowed):
        raise ModelError(f"kind {kind!r} with unexpected {extra[0]!r}")
    return [name for name in NETWORKS if name in found]


def _names(group: Any) -> list[str]:
    """The members of a group, all of which must be hard links."""
    import h5py

    if not isinstance(group, h5py.Group):
        raise ModelError(f"{group.name!r} is no group")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ModelError(f"{group.name}/{name} is a soft or external link; weights hold their own data")
    return list(group)


def _check_network(group: Any, network: str, config: Config) -> dict[str, Any]:
    """Datasets by parameter name, all of them checked against the traced network; nothing is read yet."""
    expected = trace(network, config).parameters
    if sum(map(prod, expected.values())) > MAX_PARAMETERS:
        raise ModelError(f"{network} of this config would have more than {MAX_PARAMETERS} parameters")
    found = [f"{layer}/{what}" for layer in _names(group) for what in _names(group[layer])]
    if missing := [name for name in expected if name not in found]:
        raise ModelError(f"{network}/{missing[0]} is missing")
    if extra := [name for name in found if name not in expected]:
        raise ModelError(f"unexpected {network}/{extra[0]}")
    return {name: _checked(group[name], f"{network}/{name}", shape) for name, shape in expected.items()}


def _checked(dataset: Any, name: str, shape: tuple[int, ...]) -> Any:
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise ModelError(f"{name} is no dataset")
    if dataset.dtype not in (np.dtype("<f4"), np.dtype("<f2")):
        raise ModelError(f"{name} has type {dataset.dtype}; expected float16 or float32")
    if dataset.shape != shape:
        raise ModelError(f"{name} has shape {dataset.shape}; this config needs {shape}")
    layout = dataset.id.get_create_plist()
    plain = layout.get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
    if not plain or layout.get_external_count() or layout.get_nfilters():
        raise ModelError(f"{name} is not stored as plain contiguous numbers in the file itself")
    if dataset.id.get_storage_size() != dataset.dtype.itemsize * prod(shape):
        raise ModelError(f"{name} is not stored in full")
    return dataset


def _values(dataset: Any, name: str) -> Array:
    values = np.ascontiguousarray(dataset[()], np.float32)
    if not np.isfinite(values).all():
        raise ModelError(f"{name} holds NaN or infinity")
    return values


# -- write -----------------------------------------------------------------------------------------------------------


def write(path: str | os.PathLike[str], model: ModelFile, dtype: str = "float16") -> None:
    """Write `model` in `dtype`, "float16" or "float32": first beside `path`, then moved there in one step."""
    import h5py

    path = Path(path)
    if dtype not in ("float16", "float32"):
        raise ModelError(f"dtype={dtype!r}; weights are float16 or float32")
    required, allowed = KINDS[model.kind]
    if not required <= model.parameters.keys() <= allowed:
        raise ModelError(f"kind {model.kind!r} cannot hold {sorted(model.parameters)}; it needs {sorted(required)}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with h5py.File(temporary, "w") as file:
            for name, text in _attributes(model).items():
                if len(text.encode()) > MAX_ATTRIBUTE:
                    raise ModelError(f"{path}: {name} has {len(text.encode())} bytes; at most {MAX_ATTRIBUTE}")
                file.attrs[name] = np.bytes_(text.encode())
            for network, values in model.parameters.items():
                for name, shape in trace(network, model.config).parameters.items():
                    file.create_dataset(f"{network}/{name}", data=_stored(values, network, name, shape, dtype))
        temporary.replace(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def _attributes(model: ModelFile) -> dict[str, str]:
    config = _plain(model.config)
    texts = {
        "format": FORMAT, "format_version": str(VERSION), "kind": model.kind, "config": json.dumps(config),
        "conditions": json.dumps(config["generator"]["conditions"]), "licence": model.licence or "unstated",
        "provenance": json.dumps(model.provenance),
    }  # fmt: skip
    if model.kind == "domain":
        texts["autoencoder"] = json.dumps(model.autoencoder)
    return texts


def _stored(values: Mapping[str, Array], network: str, name: str, shape: tuple[int, ...], dtype: str) -> Array:
    array = np.asarray(values.get(name))
    if array.shape != shape:
        raise ModelError(f"{network}/{name} has shape {array.shape}; the config needs {shape}")
    with np.errstate(over="ignore"):
        stored = array.astype(f"<f{2 if dtype == 'float16' else 4}")
    if not np.isfinite(stored).all():
        raise ModelError(f"{network}/{name} has values that {dtype} cannot hold (up to {np.abs(array).max():.3g})")
    return stored


def _plain(config: Config) -> dict[str, Any]:
    """The config as JSON gives it back: lists, no tuples."""
    return json.loads(json.dumps(config.to_dict()))


# -- find and join -----------------------------------------------------------------------------------------------------


def folders() -> list[Path]:
    """Where shipped models are looked for: EVERWAVE_WEIGHTS, the installed package, a clone's `weights/`."""
    package = Path(__file__).resolve().parent
    own = [Path(os.environ["EVERWAVE_WEIGHTS"])] if os.environ.get("EVERWAVE_WEIGHTS") else []
    return [*own, package / "shipped", package.parent.parent / "weights"]


def available() -> list[str]:
    """Names of the shipped models."""
    return sorted({path.stem for folder in folders() for path in folder.glob(f"*{SUFFIX}")})


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a shipped name, or the path itself. ModelError if there is neither."""
    text = os.fspath(name_or_path)
    if os.path.exists(text):
        return Path(text)
    if _is_name(text):
        for folder in folders():
            for candidate in (folder / text, folder / (text + SUFFIX)):
                if candidate.is_file():
                    return candidate
    raise ModelError(f"{text}: no such model; shipped are {', '.join(available()) or 'none'}, or give a file's path")


def digest(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolve(model: ModelFile, path: str | os.PathLike[str]) -> ModelFile:
    """A domain file (read from `path`) joined with its autoencoder; other kinds as they are.

    The autoencoder is looked for beside `path`, then among the shipped models. Its hash must be the one named.
    """
    if model.kind != "domain":
        return model
    assert model.autoencoder is not None
    name = model.autoencoder["file"]
    beside = Path(path).parent / name
    try:
        file = beside if beside.is_file() else find(name)
    except ModelError:
        raise ModelError(f"{path}: needs the autoencoder {name}; put it in {Path(path).parent}") from None
    if (found := digest(file)) != model.autoencoder["sha256"]:
        wanted = model.autoencoder["sha256"]
        raise ModelError(f"{path}: needs the {name} whose sha256 is {wanted[:12]}..., but {file} has {found[:12]}...")
    return bundle(model, read(file))


def bundle(domain: ModelFile, autoencoder: ModelFile) -> ModelFile:
    """One self-contained model; a domain's own chunk decoder wins over the universal one."""
    for section in ("signal", "autoencoder"):
        ours, theirs = getattr(domain.config, section), getattr(autoencoder.config, section)
        if ours != theirs:
            raise ModelError(f"the generator was made for {ours}, the autoencoder has {theirs}; they do not belong together")
    provenance = domain.provenance | {"autoencoder": autoencoder.provenance}
    return replace(
        domain, kind="bundle", parameters=autoencoder.parameters | domain.parameters, provenance=provenance, autoencoder=None
    )


# -- random weights ----------------------------------------------------------------------------------------------------


def random_parameters(network: str, config: Config, seed: int = 0) -> dict[str, Array]:
    """Weights as training starts from (He-uniform kernels), but with biases and noise that are not zero."""
    rng = np.random.default_rng([seed, zlib.crc32(network.encode())])
    parameters = {}
    for name, shape in trace(network, config).parameters.items():
        limit = np.sqrt(6 / prod(shape[:-1])) if name.endswith("kernel") else 0.05
        if name.endswith("style_bias"):  # AdaIN multiplies: gains around one
            parameters[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            parameters[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
    return parameters


def random_model(config: Config, seed: int = 0) -> ModelFile:
    """A bundle of random weights: for benchmarks and tests."""
    parameters = {name: random_parameters(name, config, seed) for name in NETWORKS}
    return ModelFile(config, "bundle", parameters, "CC0-1.0", {"random": seed})
