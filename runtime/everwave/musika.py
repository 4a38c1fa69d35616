"""Musika's own checkpoints (Keras 2 weight files) as everwave models, read with h5py alone.

A file lists its layers in `layer_names`, and each layer its arrays in `weight_names`. Autoencoder layers are
auto-numbered, so they are matched by order; generator layers have names. Kernels are 2-D with height 1. The sizes
follow from the shapes; the sample rate is stored nowhere. As in `weights`, nothing in a file is trusted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from . import hdf5
from .config import PRESETS, SAMPLE_RATES, Config
from .errors import ModelError, UsageError, first_line
from .networks import AUTOENCODER
from .ops.trace import trace
from .weights import ModelFile, digest

Array = np.ndarray
Parameters = dict[str, Array]  # "layer/what" -> float32
Layers = dict[str, dict[str, Any]]  # layer -> "kernel", "bias" or "noise_weight" -> h5py dataset

FILES = {
    "frame_encoder": "enc.h5",
    "chunk_encoder": "enc2.h5",
    "frame_decoder": "dec.h5",
    "chunk_decoder": "dec2.h5",
    "generator": "gen_ema.h5",
}
# Keras stores layers by depth, which puts the branches of this network side by side.
FRAME_DECODER_ORDER = ("d0", "d1", "d2", "d3", "u2", "u1", "p1", "u0", "p0", "magnitude", "phase")
STYLE = 64  # channels of the style; the rest of a coordinate is the anchor
ASSUMED_SAMPLE_RATE = 44100
MAX_PARAMETERS = 500_000_000
CHILD_SECONDS, CHILD_BYTES, CHILD_REFUSED = 60, 8 << 30, 3  # what a process that tries the files may use
SAID = ("utf-8", "surrogateescape")  # how it writes names, which may be no text, or none that a console's code page has
MAX_NAMES = 1024
MAX_ATTRIBUTE = 2**16  # bytes
KINDS = ("kernel", "bias", "noise_weight")


def import_checkpoint(
    generator: str | os.PathLike[str] | None,
    autoencoder: str | os.PathLike[str],
    sample_rate: int | None = None,
) -> ModelFile:
    """A self-contained model of a domain's `gen_ema.h5` (or its folder) and the autoencoder folder it was made with.

    Without a generator the result is an autoencoder. `sample_rate` None assumes 44100 and says so in the provenance.
    ModelError, one line naming the file, for anything that is missing, swapped, damaged or of other sizes; UsageError
    for a sample rate that no model has.
    """
    low, high = SAMPLE_RATES
    if sample_rate is not None and not low <= sample_rate <= high:
        raise UsageError(f"sample_rate={sample_rate!r}; it must be {low} to {high} Hz")
    paths = _paths(generator, autoencoder)
    _try_in_child(paths)
    config, parameters = read_checkpoint(generator, autoencoder, sample_rate or ASSUMED_SAMPLE_RATE)
    provenance: dict[str, Any] = {
        "source": "Musika checkpoint",
        "files": {path.name: digest(path) for path in paths.values()},
        "sample_rate": "given" if sample_rate else "assumed",
    }
    kind = "autoencoder" if generator is None else "bundle"
    return ModelFile(config, kind, parameters, "as its source; not stated in the checkpoint", provenance)


def read_checkpoint(
    generator: str | os.PathLike[str] | None,
    autoencoder: str | os.PathLike[str],
    sample_rate: int = ASSUMED_SAMPLE_RATE,
) -> tuple[Config, dict[str, Parameters]]:
    """The config and all parameters (network -> "layer/what" -> float32) of a checkpoint; see `import_checkpoint`."""
    found = {network: _read(network, path) for network, path in _paths(generator, autoencoder).items()}
    config = _config(found, sample_rate)
    for network, parameters in found.items():
        _check_shapes(network, parameters, config)
    return config, found


# -- damaged files -------------------------------------------------------------------------------------------------


def _try_in_child(paths: Mapping[str, Path]) -> None:
    """Read the files in a process of their own first: damaged names can make the HDF5 library hang, crash or fill memory.

    (Keras stores names with variable length, on HDF5's global heap; our own format has none of that.)
    """
    code = "from everwave.musika import _child; _child()"
    # -P: what lies in the current folder is no library
    command = [sys.executable, "-P", "-c", code, *paths, *map(str, paths.values())]
    path = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONIOENCODING": ":".join(SAID)}
    try:
        child = subprocess.run(command, capture_output=True, timeout=CHILD_SECONDS, env=environment)
        said, ended = child.stdout, child.returncode
    except subprocess.TimeoutExpired as error:
        said, ended = error.stdout or b"", -1
    if ended:
        lines = said.decode(*SAID).splitlines() or ["the checkpoint"]
        known = ended == CHILD_REFUSED
        raise ModelError(lines[-1] if known else f"{lines[-1]}: so damaged that the HDF5 library fails; get it again")


def _child() -> None:
    """What `_try_in_child` runs: says which file comes next, then reads it."""
    names = sys.argv[1:]
    with suppress(ImportError, ValueError, OSError):  # not on every system, nor above every limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (CHILD_BYTES, CHILD_BYTES))
    for network, path in zip(names[: len(names) // 2], names[len(names) // 2 :], strict=True):
        print(path, flush=True)
        try:
            _read(network, Path(path))
        except ModelError as error:
            print(error, flush=True)
            raise SystemExit(CHILD_REFUSED) from None


# -- which files, and what they hold -------------------------------------------------------------------------------


def _paths(generator: str | os.PathLike[str] | None, autoencoder: str | os.PathLike[str]) -> dict[str, Path]:
    """Network -> file, each of which exists."""
    paths = {network: Path(autoencoder) / FILES[network] for network in AUTOENCODER}
    if generator is not None:
        given = Path(generator)
        paths["generator"] = given / FILES["generator"] if given.is_dir() else given
    for network, path in paths.items():
        if not path.is_file():
            folder = "the domain's folder" if network == "generator" else "the autoencoder folder"
            raise ModelError(f"{path}: no such file; {folder} holds the {_spoken(network)} in {FILES[network]}")
    return paths


def _read(network: str, path: Path) -> Parameters:
    """ "layer/what" -> float32, by our names and in our layouts, from a file that is known to hold `network`."""
    with _opened(path) as file:
        datasets = _renamed(network, _layers(file))
        if (count := sum(prod(dataset.shape) for dataset in datasets.values())) > MAX_PARAMETERS:
            raise ModelError(f"{count} parameters; at most {MAX_PARAMETERS}")
        return {name: _values(name, dataset) for name, dataset in datasets.items()}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The open HDF5 file; whatever goes wrong inside, the library's own errors included, names the file in one line."""
    import h5py

    try:
        with open(path, "rb") as raw:
            if raw.read(8) != b"\x89HDF\r\n\x1a\n":
                raise ModelError("no HDF5 file")
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise ModelError(f"{path}: damaged, or no Keras 2 weight file ({first_line(error)})") from None


def _values(name: str, dataset: Any) -> Array:
    values = np.asarray(dataset[()], np.float32)
    if not np.isfinite(values).all():
        raise ModelError(f"{name} holds NaN or infinity")
    if values.ndim == 4:
        if len(values) != 1:
            raise ModelError(f"{name} has height {len(values)}; Musika's kernels have height 1")
        values = values[0]
        if len(values) == 4 and name[0] in "up":  # transposed convolutions, which Keras stores as (4, C_out, C_in)
            values = values.swapaxes(1, 2)
    return np.ascontiguousarray(values)


def _layers(file: Any) -> Layers:
    """Layers that hold weights, in stored order; no data is read yet."""
    import h5py

    layers: Layers = {}
    for layer in _name_list(file, "layer_names"):
        group = _member(file, layer, h5py.Group)
        for name in _name_list(group, "weight_names"):
            what = name.rsplit("/", 1)[-1].removesuffix(":0")
            if what not in KINDS:
                raise ModelError(f"layer {layer!r} holds {what!r}; expected a kernel, a bias or a noise weight")
            if what in layers.setdefault(layer, {}):
                raise ModelError(f"layer {layer!r} holds two of {what!r}")
            layers[layer][what] = _member(group, name, h5py.Dataset)
    return layers


def _name_list(group: Any, attribute: str) -> list[str]:
    """A list of names, which Keras splits into `attribute`0, `attribute`1, ... where it is long."""
    import h5py

    parts = [attribute] if attribute in group.attrs else [f"{attribute}{i}" for i in range(MAX_NAMES)]
    names: list[str] = []
    for part in parts:
        if part not in group.attrs:
            break
        kind, shape = group.attrs.get_id(part).get_type(), group.attrs.get_id(part).shape
        if shape == (0,):
            return names
        if len(shape) != 1 or kind.get_class() != h5py.h5t.STRING:
            raise ModelError(f"{part} of {group.name!r} is no list of names")
        if kind.get_size() * prod(shape) > MAX_ATTRIBUTE or len(names) + shape[0] > MAX_NAMES:
            raise ModelError(f"{part} of {group.name!r} is too long")
        names += [name if isinstance(name, str) else bytes(name).decode("utf-8") for name in group.attrs[part]]
    if not names and parts[0] not in group.attrs:
        raise ModelError(f"{group.name!r} has no {attribute}; this is no Keras 2 weight file")
    return names


def _member(group: Any, path: str, kind: type) -> Any:
    """What `path` names inside `group`, by hard links only; a dataset of plain numbers kept in the file itself."""
    import h5py

    for step in path.split("/"):
        if not isinstance(group, h5py.Group) or not hdf5.hard_link(group, step):
            raise ModelError(f"{path!r} is not in the file itself")
        group = group[step]
    if not isinstance(group, kind):
        raise ModelError(f"{path!r} is no {kind.__name__.lower()}")
    if isinstance(group, h5py.Dataset):
        plain = hdf5.layout(group) in ("contiguous", "compact")
        if not plain or group.dtype.kind != "f" or group.dtype.itemsize > 8:
            raise ModelError(f"{path!r} is not stored as plain numbers in the file itself")
        if group.id.get_storage_size() != group.dtype.itemsize * prod(group.shape):
            raise ModelError(f"{path!r} is not stored in full")
    return group


# -- Musika's layers by our names ------------------------------------------------------------------------------------


def _renamed(network: str, layers: Layers) -> dict[str, Any]:
    """ "layer/what" -> dataset, by our names; ModelError where the file holds another network."""
    if (holds := _recognised(layers)) != network:
        what = f"holds the {_spoken(holds)}, {FILES[holds]}" if holds else "is none of Musika's networks"
        raise ModelError(f"{what}; expected the {_spoken(network)}, {FILES[network]}")
    return dict(_generator_names(layers) if network == "generator" else _names_by_order(network, layers))


def _recognised(layers: Layers) -> str | None:
    """The network that these layers make, by the number of taps of its kernels in order."""
    if "00d" in layers:
        return "generator"
    shapes = [group["kernel"].shape for group in layers.values() if "kernel" in group]
    taps = [shape[1] if len(shape) == 4 else 0 for shape in shapes]
    for network in AUTOENCODER:
        if taps == [_reference(network)[f"{name}/kernel"][0] for name in _order(network)]:
            return network
    return None


def _names_by_order(network: str, layers: Layers) -> Iterator[tuple[str, Any]]:
    kernels = [group for group in layers.values() if "kernel" in group]
    noises = [group["noise_weight"] for group in layers.values() if "noise_weight" in group]
    noisy = [name for name in _order(network) if f"{name}/noise" in _reference(network)]
    if len(noises) != len(noisy):
        raise ModelError(f"{len(noises)} noise layers; the {_spoken(network)} has {len(noisy)}")
    for name, group in zip(_order(network), kernels, strict=True):
        for what, dataset in group.items():
            yield f"{name}/{what}", dataset
    for name, dataset in zip(noisy, noises, strict=True):
        yield f"{name}/noise", dataset


def _generator_names(layers: Layers) -> Iterator[tuple[str, Any]]:
    """`00d 00n 00ai` is the stem; `<i>c <i>r <i>ai` are up (even i) and convolution (odd i); `res<i>c` the skips."""
    for layer, group in layers.items():
        plain = layer.replace("_small", "")
        if plain.startswith("res"):
            ours = f"skip{int(plain[3:-1]) - 1}" if plain[3:-1].isdigit() else ""
        elif plain.startswith("00"):
            ours = "stem"
        elif plain == "9c":
            ours = "out"
        else:
            ours = f"{'conv' if int(plain[0]) % 2 else 'up'}{int(plain[0]) // 2}" if plain[:1].isdigit() else ""
        if not ours:
            raise ModelError(f"unexpected layer {layer!r} in a generator")
        for what, dataset in group.items():
            name = "noise" if what == "noise_weight" else f"style_{what}" if plain.endswith("ai") else what
            yield f"{ours}/{name}", dataset


def _reference(network: str) -> Mapping[str, tuple[int, ...]]:
    """Names, and shapes of the full size; order, taps and noise are the same at any size."""
    return trace(network, PRESETS["full"]).parameters


def _order(network: str) -> tuple[str, ...]:
    if network == "frame_decoder":
        return FRAME_DECODER_ORDER
    return tuple(dict.fromkeys(name.split("/")[0] for name in _reference(network)))


# -- sizes -----------------------------------------------------------------------------------------------------------


def _config(found: Mapping[str, Parameters], sample_rate: int) -> Config:
    """The sizes that the shapes tell; whether everything fits them is checked afterwards."""
    _, bins, quadruple = _shape(found, "frame_encoder", "c0/kernel")
    generator = PRESETS["full"].to_dict()["generator"]
    if "generator" in found:
        inputs, outputs = _shape(found, "generator", "stem/kernel")
        taps, _, _ = _shape(found, "generator", "up0/kernel")
        generator = {
            "width": outputs // 28, "window": 64 if taps == 1 else 128, "anchor": inputs // 2 - STYLE, "style": STYLE,
        }  # fmt: skip
    return Config.from_dict({
        "signal": {"sample_rate": sample_rate, "hop_length": (bins - 1) // 2},
        "autoencoder": {
            "width": quadruple // 4,
            "frame_latents": _shape(found, "frame_encoder", "out/kernel")[-1],
            "latents": _shape(found, "chunk_encoder", "out/kernel")[-1],
        },
        "generator": generator,
    })  # fmt: skip


def _shape(found: Mapping[str, Parameters], network: str, name: str) -> tuple[int, ...]:
    expected = len(_reference(network)[name])
    if name not in found[network] or found[network][name].ndim != expected:
        raise ModelError(f"{FILES[network]}: {name} is missing or has not {expected} dimensions")
    return found[network][name].shape


def _check_shapes(network: str, parameters: Parameters, config: Config) -> None:
    expected = trace(network, config).parameters
    for name, shape in expected.items():
        if name not in parameters:
            raise ModelError(f"{FILES[network]}: {name} is missing")
        if parameters[name].shape != shape:
            raise ModelError(
                f"{FILES[network]}: {name} has shape {parameters[name].shape}; beside the other files of this"
                f" checkpoint it must be {shape}; do the files belong together?"
            )
    if extra := sorted(parameters.keys() - expected.keys()):
        raise ModelError(f"{FILES[network]}: unexpected {extra[0]}")


def _spoken(network: str) -> str:
    return network.replace("_", " ")
