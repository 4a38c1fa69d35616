"""The weights format: HDF5 with one plain dataset per parameter, and a header that says what they must be.

Root attributes: `format` "everwave", `format_version`, `config`, `kind`, `conditions`, `licence`, `provenance`; in domain
files `autoencoder`. `crc32` of the parameters as stored, which we write and others may leave out, finds damage in them.
Datasets are /network/layer/what, contiguous little-endian float16 or float32.

A reader trusts nothing: every name, shape, type and size is compared with the traced networks of the config before a
number is read. Only hard links are followed, and only contiguous storage inside the file is read: no filter, chunk,
external file or virtual dataset, hence no shape bomb, as every byte must be there.
"""

from __future__ import annotations

import json
import math
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import hdf5
from .config import Condition, Config
from .errors import ModelError
from .files import check_room, checked, mode, whole
from .networks import AUTOENCODER, of_domain
from .ops.trace import trace

Array = np.ndarray
Parameters = dict[str, Array]

FORMAT, VERSION = "everwave", 1
MAX_ATTRIBUTE = 60_000  # bytes; an attribute of plain HDF5 files has at most 64 KiB
ATTRIBUTES = 1 << 20  # bytes that names and attributes take at most
MAX_OVERHEAD = 1 << 23  # bytes that HDF5 may take besides the parameters
DTYPES = ("float16", "float32")

# what a file of each kind holds, and what it may hold besides
KINDS: dict[str, Callable[[Config], tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "autoencoder": lambda config: (AUTOENCODER, ()),
    "domain": lambda config: (of_domain(config), ("chunk_decoder",)),
    "bundle": lambda config: ((*AUTOENCODER, *of_domain(config)), ()),
}


@dataclass(frozen=True, eq=False)
class ModelFile:
    """What a weights file holds. `parameters[network][layer/what]` are float16 or float32 arrays shaped as `trace` says.

    kind           "autoencoder", "domain" (a generator, its refiner, and a chunk decoder if it has its own) or "bundle" (all)
    provenance     data, steps, metrics, the trainer's version: anything JSON can hold
    autoencoder    of a domain file: {"file": the name of the file it needs, "sha256": that file's hash}
    """

    config: Config
    kind: str
    parameters: dict[str, Parameters]
    licence: str
    provenance: dict[str, Any] = field(default_factory=dict)
    autoencoder: dict[str, str] | None = None


# -- reading --------------------------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> ModelFile:
    """The file, its parameters copied as they are stored; ModelError, one line that names it, if anything is wrong with it."""
    import h5py

    with named(path, "read"):
        if not stat.S_ISREG(there := mode(Path(path))):
            raise ModelError("is no file; give a weights file" if there else "no such file")
        with h5py.File(path, "r", locking=False) as file:  # locks fail on read-only network shares
            header = _header(file)
            datasets = _datasets(file, header)
            _check_storage(datasets, Path(path).stat().st_size)
            checksum = _integer(file, "crc32") if "crc32" in file.attrs else None
            return replace(header, parameters=_numbers(datasets, checksum))


def _header(file: Any) -> ModelFile:
    """The root attributes, checked; parameters are still empty."""
    if "format" not in file.attrs or _text(file, "format") != FORMAT:
        raise ModelError(
            "an HDF5 file, but no everwave weights; `everwave decode` plays latents, `everwave import-musika` reads Musika's checkpoints"
        )
    version = _integer(file, "format_version")
    if version != VERSION:
        raise ModelError(f"format_version {version}; this everwave reads {VERSION}, so upgrade everwave or the file")
    kind, config, licence = _text(file, "kind"), Config.from_dict(_json(file, "config")), _text(file, "licence")
    if kind not in KINDS:
        raise ModelError(f"kind {kind!r}; it must be one of {', '.join(KINDS)}")
    if _json(file, "conditions") != _mirror(config):
        raise ModelError("its attribute 'conditions' differs from the conditions in 'config'; export it again")
    provenance = _json(file, "provenance")
    if not isinstance(provenance, dict):
        raise ModelError("its attribute 'provenance' must be a JSON object")
    reference = check_reference(_json(file, "autoencoder")) if kind == "domain" else None
    return ModelFile(config, kind, {}, licence, provenance, reference)


def check_reference(value: Any) -> dict[str, str]:
    if (
        not isinstance(value, dict)
        or set(value) != {"file", "sha256"}
        or not all(isinstance(v, str) for v in value.values())
    ):
        raise ModelError("a domain file names its autoencoder as {'file': name, 'sha256': hash}; see weights.reference")
    name, digest = value["file"], value["sha256"]
    if Path(name).name != name or "\\" in name or "\0" in name or name in ("", ".", ".."):
        raise ModelError(f"autoencoder file {name!r}; it must be the name of a file, without a folder")
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ModelError(f"autoencoder sha256 {digest!r}; it must be 64 hexadecimal digits")
    return value


def _mirror(config: Config) -> list[dict[str, Any]]:
    """The conditions as readers of other languages find them; the config is what counts."""
    return [_condition(c) for c in config.generator.conditions]


def _condition(c: Condition) -> dict[str, Any]:
    plain = {"name": c.name, "unit": c.unit, "mean": c.mean, "scale": c.scale, "range": [c.low, c.high]}
    lists = {"clocks": list(c.clocks), "choices": list(c.choices)}
    return plain | {name: values for name, values in lists.items() if values}


def _attribute(file: Any, name: str) -> Any:
    if name not in file.attrs:
        raise ModelError(f"its attribute {name!r} is missing; export it again")
    attribute = hdf5.scalar(file, name, MAX_ATTRIBUTE)
    if attribute is None:
        raise ModelError(f"its attribute {name!r} is over-long; the limit is {MAX_ATTRIBUTE} bytes")
    return attribute


def _text(file: Any, name: str) -> str:
    from h5py import h5t

    if not isinstance(_attribute(file, name).get_type(), h5t.TypeStringID):
        raise ModelError(f"its attribute {name!r} must be a string")
    value = file.attrs[name]  # h5py's own strings, whose length shows only now, are never longer than the file
    text = value.decode() if isinstance(value, bytes) else value.encode().decode()  # raises if it is no Unicode
    if len(text) > MAX_ATTRIBUTE:
        raise ModelError(f"its attribute {name!r} has {len(text)} characters; the limit is {MAX_ATTRIBUTE}")
    return text


def _integer(file: Any, name: str) -> int:
    if _attribute(file, name).dtype.kind not in "iu":
        raise ModelError(f"its attribute {name!r} must be an integer")
    return int(file.attrs[name])


def _json(file: Any, name: str) -> Any:
    def refuse(constant: str) -> None:
        raise ModelError(f"its attribute {name!r} holds {constant}; numbers must be finite")

    try:
        return json.loads(_text(file, name), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise ModelError(f"its attribute {name!r} is no JSON") from None


def _datasets(file: Any, header: ModelFile) -> dict[str, dict[str, Any]]:
    """The dataset of every parameter in the order of the trace; ModelError for any that is missing, other or extra."""
    required, optional = KINDS[header.kind](header.config)
    names = (*required, *(name for name in optional if hdf5.hard_link(file, name) is not None))
    _check_members(file, names)
    return {name: _network(file, name, trace(name, header.config).parameters) for name in names}


def _network(file: Any, network: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    group = _group(file, network)
    layers: dict[str, list[str]] = {}
    for parameter in shapes:
        layer, what = parameter.split("/")
        layers.setdefault(layer, []).append(what)
    _check_members(group, tuple(layers))
    for layer, whats in layers.items():
        _check_members(_group(group, layer), tuple(whats))
    return {name: _checked(group[name], f"/{network}/{name}", shape) for name, shape in shapes.items()}


def _check_members(group: Any, names: tuple[str, ...]) -> None:
    """ModelError unless the group has exactly these members, all of them by hard links."""
    for name in names:
        member, hard = f"{group.name.rstrip('/')}/{name}", hdf5.hard_link(group, name)
        if hard is None:
            raise ModelError(f"{member} is missing; the file is no model of the config it states")
        if not hard:
            raise ModelError(f"{member} is a soft or external link; only plain ones are read")
    if len(group) != len(names):
        raise ModelError(f"{group.name} holds {len(group)} entries; expected {len(names)}: {', '.join(names)}")


def _group(parent: Any, name: str) -> Any:
    import h5py

    group = parent[name]
    if not isinstance(group, h5py.Group):
        raise ModelError(f"{group.name} must be a group")
    return group


def _checked(dataset: Any, name: str, shape: tuple[int, ...]) -> Any:
    import h5py
    from h5py import h5t

    if not isinstance(dataset, h5py.Dataset):
        raise ModelError(f"{name} must be a dataset")
    kind = dataset.id.get_type()
    if not (kind.equal(h5t.IEEE_F16LE) or kind.equal(h5t.IEEE_F32LE)):
        raise ModelError(f"{name} has type {dataset.dtype}; it must be little-endian {' or '.join(DTYPES)}")
    if dataset.shape != shape:
        raise ModelError(f"{name} has shape {dataset.shape}; the config makes it {shape}")
    if hdf5.layout(dataset) != "contiguous":
        raise ModelError(f"{name} is stored in chunks, compressed, or outside; it must be contiguous in the file")
    return dataset


def _check_storage(datasets: dict[str, dict[str, Any]], file_size: int) -> None:
    """ModelError unless every number is in the file, and little else."""
    total = 0
    for dataset in (d for parameters in datasets.values() for d in parameters.values()):
        size, offset = math.prod(dataset.shape) * dataset.id.get_type().get_size(), dataset.id.get_offset()
        total += size
        if dataset.id.get_storage_size() != size or offset is None or offset + size > file_size:
            raise ModelError(f"{dataset.name} is cut off or has no data; get the file again")
    if not total <= file_size <= total + MAX_OVERHEAD:
        raise ModelError(
            f"{file_size} bytes for {total} bytes of parameters; it holds something else, or one part twice"
        )


def _numbers(datasets: dict[str, dict[str, Any]], checksum: int | None) -> dict[str, Parameters]:
    found = 0
    parameters: dict[str, Parameters] = {network: {} for network in datasets}
    for network, members in datasets.items():
        for name, dataset in members.items():
            stored = np.empty(dataset.shape, dataset.dtype)
            dataset.read_direct(stored)
            found = zlib.crc32(stored.data, found)
            parameters[network][name] = _finite(stored, f"/{network}/{name}")
    if checksum not in (None, found):
        raise ModelError("its parameters do not match its checksum: it is damaged; get it again")
    return parameters


def _finite(array: Array, name: str) -> Array:
    whole = np.dtype(f"u{array.dtype.itemsize}")
    infinity, sign = np.array([np.inf, -0.0], array.dtype).view(whole)
    if (array.view(whole) & ~sign).max(initial=0) >= infinity:  # of float16 `isfinite` takes ten times as long
        raise ModelError(f"{name} holds NaN or infinity; every parameter must be finite")
    return array


@contextmanager
def named(path: str | os.PathLike[str], action: str) -> Iterator[None]:
    """Every error as one line that starts with the file's name; h5py raises nearly every kind there is."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{os.fspath(path)}: {error}") from None
    except Exception as error:
        reason = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
        hint = "it is damaged or no weights file" if action == "read" else "choose another place"
        raise ModelError(f"{os.fspath(path)}: cannot be {action} ({reason}); {hint}") from None


# -- writing --------------------------------------------------------------------------------------------------------


def write(path: str | os.PathLike[str], model_file: ModelFile, dtype: str = "float16") -> None:
    """Write the file in one step: it is whole, or as it was before. The same content gives the same bytes.

    ModelError if a parameter is missing, misshapen, not finite or too large for `dtype`; OutputError if the place is not writable.
    """
    import h5py

    target = checked(path)
    with named(path, "written"):
        stored = _stored(model_file, dtype)
        attributes = _attributes(model_file)
    size = sum(array.nbytes for parameters in stored.values() for array in parameters.values())
    check_room(target.parent, size + ATTRIBUTES, path)  # the HDF5 library crashes where a disk is full
    with whole(target) as part, named(path, "written"), h5py.File(part, "w", locking=False) as file:
        hdf5.set_attributes(file, attributes | {"format_version": VERSION})
        file.attrs["crc32"] = _write_datasets(file, stored)


def _write_datasets(file: Any, stored: dict[str, Parameters]) -> np.uint32:
    checksum = 0
    for network, parameters in stored.items():
        for name, array in parameters.items():
            file.create_dataset(f"{network}/{name}", data=array, track_times=False)
            checksum = zlib.crc32(array.data, checksum)
    return np.uint32(checksum)


def _attributes(model_file: ModelFile) -> dict[str, str]:
    if not model_file.licence:
        raise ModelError("a model needs a licence: name it, or say 'unstated'")
    header = {"config": model_file.config.to_dict(), "conditions": _mirror(model_file.config)}
    values: dict[str, Any] = header | {"provenance": model_file.provenance}
    if model_file.kind == "domain":
        values["autoencoder"] = check_reference(model_file.autoencoder)
    texts = {name: json.dumps(value, allow_nan=False) for name, value in values.items()}
    Config.from_dict(json.loads(texts["config"]))  # raises if `read` would
    texts |= {"format": FORMAT, "kind": model_file.kind, "licence": model_file.licence}
    for name, text in texts.items():
        if len(text.encode()) > MAX_ATTRIBUTE:
            raise ModelError(f"{name} has {len(text.encode())} bytes; the limit is {MAX_ATTRIBUTE}")
    return texts


def _stored(model_file: ModelFile, dtype: str) -> dict[str, Parameters]:
    """The parameters in the order and type of the file."""
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r}; choose {' or '.join(DTYPES)}")
    if model_file.kind not in KINDS:
        raise ModelError(f"kind {model_file.kind!r}; it must be one of {', '.join(KINDS)}")
    required, optional = KINDS[model_file.kind](model_file.config)
    names = (*required, *(name for name in optional if name in model_file.parameters))
    if set(names) != set(model_file.parameters):
        present = ", ".join(model_file.parameters)
        raise ModelError(f"a file of kind {model_file.kind} holds {', '.join(names)}, not {present}")
    return {name: _cast(name, model_file, dtype) for name in names}


def _cast(network: str, model_file: ModelFile, dtype: str) -> Parameters:
    shapes, values = trace(network, model_file.config).parameters, model_file.parameters[network]
    if set(shapes) != set(values):
        odd = ", ".join(sorted(set(shapes) ^ set(values))[:5])
        raise ModelError(f"/{network}: parameters missing or unknown: {odd}")
    for name, shape in shapes.items():
        if np.shape(values[name]) != shape:
            raise ModelError(f"/{network}/{name} has shape {np.shape(values[name])}; the config makes it {shape}")
    return {name: _fit(np.asarray(values[name], np.float32), f"/{network}/{name}", dtype) for name in shapes}


def _fit(array: Array, name: str, dtype: str) -> Array:
    largest = np.abs(_finite(array, name)).max()
    if largest > np.finfo(dtype).max:
        raise ModelError(f"{name} reaches {largest:g}, more than {dtype} holds; write it as float32")
    return np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<"))
