"""Latents on disk: .npy with a JSON beside it, or HDF5 (`latent_hdf5`); what is known of them is in `latent_about`.

A file appears under its name when it is complete. Latents of any length are written in constant memory. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .errors import EverwaveError, UsageError, first_line
from .files import checked, checked_folder, mode, whole
from .latent_about import MAX_ABOUT, About, Array, Latents, explained, known, unchanged
from .latent_hdf5 import Hdf5Store, recording, recordings

HDF5 = (".h5", ".hdf5")
FILES = (".csv", ".flac", ".json", ".mp3", ".npz", ".ogg", ".pkl", ".pt", ".txt", ".wav")  # that nobody calls a folder
NPY = b"\x93NUMPY"


class Store(Protocol):
    """Where `encode` puts what it makes; a context manager, whose methods several threads may call."""

    single: bool  # whether there is room for one recording only

    def __enter__(self) -> Store: ...

    def __exit__(self, *error: object) -> bool | None: ...

    def finished(self, name: str, about: About) -> bool:
        """Whether the latents of `name` are there, whole, and made from what `about` says; OutputError if others are."""

    def save(self, name: str, latents: Latents, about: Callable[[], About]) -> None:
        """Write the latents, then what `about()` says of them once they are worked out."""


class NpyStore:
    """One .npy per recording in a folder that is made when needed, or one .npy alone."""

    def __init__(self, output: Path, overwrite: bool = False) -> None:
        self._output, self._overwrite = output, overwrite
        self.single = output.suffix.lower() == ".npy"
        if self.single:
            checked(output)
        else:
            checked_folder(output)

    def __enter__(self) -> NpyStore:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def path(self, name: str) -> Path:
        return self._output if self.single else self._output / f"{name}.npy"

    def finished(self, name: str, about: Mapping[str, Any]) -> bool:
        path = self.path(name)
        if self._overwrite or not (os.path.exists(path) or os.path.exists(_json_path(path))):
            return False
        stored: About = {}
        with suppress(OSError, ValueError):
            stored = _beside(path)
        same = unchanged(str(path), stored, about, named=self.single)
        with suppress(OSError, ValueError):
            _load_npy(path)  # raises if it is cut off
            return same
        return False

    def save(self, name: str, latents: Latents, about: Callable[[], About]) -> None:
        path = self.path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            checked(_json_path(path))  # its name is the longer one
            with whole(path) as part:
                with part.open("wb") as file:
                    _write_npy(file, latents)
                _json_path(path).unlink(missing_ok=True)  # at no time do latents lie beside what is said of others
            with whole(_json_path(path)) as part:
                part.write_text(json.dumps(about(), indent=1) + "\n", encoding="utf-8")
        except OSError as error:  # what goes wrong with the audio is an AudioError
            raise EverwaveError(
                f"{path}: cannot be written ({error.strerror or error}); make room, or choose another place"
            ) from error


def open_store(output: Path, overwrite: bool = False) -> Store:
    """The Store of OUT.npy, OUT.h5 or a folder; UsageError if it cannot be written."""
    ending = output.suffix.lower()
    if ending in HDF5:
        return Hdf5Store(output, overwrite)
    if ending in FILES and not output.is_dir():
        raise UsageError(f"{output}: latents are no {ending}; give a name that ends in .npy or .h5, or a folder")
    return NpyStore(output, overwrite)


class Stored:
    """Latents in an open file: a slice of rows is read when it is asked for."""

    def __init__(self, path: Path, read: Callable[[slice], Array], shape: tuple[int, ...]) -> None:
        self._path, self._read, self.shape = path, read, shape
        if not shape:
            raise ValueError("it holds a single number")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        with explained(self._path):
            return np.asarray(self._read(rows), np.float32)


@contextmanager
def opened(path: Path, item: str | None = None) -> Iterator[tuple[Stored, About]]:
    """The latents in `path` and what is known about them; `item` names the recording if a file holds several."""
    with ExitStack() as stack:
        with explained(path):
            if not stat.S_ISREG(mode(path)):
                raise EverwaveError(f"{path}: no such file; `everwave encode` makes one")
            if path.suffix.lower() in HDF5:
                dataset, about = recording(path, item, stack)
                stored = Stored(path, dataset.__getitem__, dataset.shape)
            elif item is not None:
                raise UsageError(f"--item {item}: {path} holds one recording; only .h5 files hold several")
            else:
                stored, about = Stored(path, partial(_read_npy, path), _load_npy(path).shape), _beside(path)
        yield stored, about


def described(path: Path) -> dict[str, Any] | None:
    """What is in a file of latents: their shape and what is known about them, each recording's under its name if it is HDF5; None if it is none."""
    if path.suffix.lower() == ".npy" and path.is_file():
        with opened(path) as (stored, about):
            return {"latents": list(stored.shape), **about}
    with explained(path):
        found = recordings(path) if path.suffix.lower() in HDF5 else None
    return found and {name: {"latents": list(shape), **about} for name, (shape, about) in found.items()}


def read(path: Path, item: str | None = None) -> tuple[Array, About]:
    """What `opened` gives, all in memory."""
    with opened(path, item) as (stored, about):
        return stored[:], about


def _write_npy(file: Any, latents: Latents) -> None:
    if isinstance(latents, np.ndarray):
        np.save(file, latents, allow_pickle=False)
        return
    rows = columns = 0
    file.write(_npy_header((0, 0)))  # the length is known at the end
    for block in latents:
        file.write(np.ascontiguousarray(block, "<f4").data)
        rows, columns = rows + len(block), block.shape[1]
    file.seek(0)
    file.write(_npy_header((rows, columns)))


def _npy_header(shape: tuple[int, int]) -> bytes:
    """The 128 bytes before the numbers (NEP 1, format version 1.0)."""
    text = repr({"descr": "<f4", "fortran_order": False, "shape": shape})
    return NPY + b"\x01\x00" + struct.pack("<H", 118) + text.ljust(117).encode() + b"\n"


def _load_npy(path: Path) -> Array:
    with path.open("rb") as file:
        if file.read(len(NPY)) != NPY:  # NumPy would go on to speak of pickles
            raise ValueError("no .npy file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header's shape allocates nothing
    except OSError:
        raise
    except Exception as error:  # parsing a damaged header raises almost anything, TokenError for one
        raise ValueError(first_line(error)) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise ValueError("no array of floating-point numbers")
    return array


def _read_npy(path: Path, rows: slice) -> Array:
    """Mapped anew each time: pages that are mapped count as memory, and those of ten hours are 200 MB."""
    return np.array(_load_npy(path)[rows])


def _json_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _beside(path: Path) -> About:
    """What the JSON beside an .npy says; nothing if there is none."""
    try:
        with _json_path(path).open("rb") as file:
            text = file.read(MAX_ABOUT)
    except FileNotFoundError:
        return {}
    try:
        return known(json.loads(text))
    except (ValueError, RecursionError):
        raise ValueError(f"{_json_path(path).name} beside it is damaged; delete that") from None
