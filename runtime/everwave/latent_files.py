"""Latents on disk: .npy, or HDF5 with one dataset per recording. Nothing is pickled; nothing half-written is left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .errors import EverwaveError, UsageError

HDF5 = (".h5", ".hdf5")
MAX_LATENTS = 2**31  # numbers in one array: 8 GB


def write_npy(path: Path, latents: np.ndarray) -> None:
    """One array, float32."""
    with _whole(path) as part, part.open("wb") as file:
        np.save(file, latents, allow_pickle=False)


def write_hdf5(path: Path, recordings: Mapping[str, Callable[[], np.ndarray]], attributes: Mapping[str, Any]) -> None:
    """One dataset per recording, worked out as it is written; `attributes` say what the numbers are."""
    import h5py

    with _whole(path) as part, h5py.File(part, "w") as file:
        file.attrs.update(attributes)
        for name, latents in recordings.items():
            file.create_dataset(name, data=latents(), track_times=False)


def read(path: Path, item: str | None = None) -> np.ndarray:
    """The latents in `path`; `item` names the recording in an HDF5 file that holds several."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; `everwave encode` makes one")
    try:
        return _read_hdf5(path, item) if path.suffix.lower() in HDF5 else np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise EverwaveError(f"{path}: cannot be read as latents ({_first_line(error)}); make it anew") from error


def _read_hdf5(path: Path, item: str | None) -> np.ndarray:
    import h5py

    with h5py.File(path, "r") as file:
        names = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
        if item is None and len(names) != 1:
            raise UsageError(
                f"{path}: holds {len(names)} recordings ({', '.join(names[:5])} ...); choose one with --item"
            )
        name = names[0] if item is None else item
        if name not in names:
            raise UsageError(f"--item {name}: not in {path}, which holds {', '.join(names[:5])} ...")
        dataset = file[name]
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f" or dataset.external or dataset.is_virtual:
            raise ValueError(f"{name} is no plain array of floating-point numbers")
        if dataset.size > MAX_LATENTS:
            raise ValueError(f"{name} holds {dataset.size} numbers, more than {MAX_LATENTS}")
        return np.asarray(dataset[()], np.float32)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when all went well, and is removed when not."""
    check_writable(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """UsageError unless a file can be made at `path`."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: its folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise UsageError(f"{path}: cannot be written; choose another place with -o")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
