"""Latents as HDF5: one dataset per recording, with what is known about it as its attributes."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from . import hdf5
from .errors import EverwaveError, UsageError, first_line, printable
from .files import checked, whole
from .latent_about import MAX_ABOUT, NUMBERS, TEXTS, About, Array, Latents, explained, known, unchanged
from .stopping import signals_held

FORMAT = "everwave latents"
CHUNK_ROWS = 256
MAX_RECORDINGS, MAX_DEPTH = 1_000_000, 64
RESERVE = 1 << 22  # bytes left on a disk: the HDF5 library crashes where one is full


class Hdf5Store:
    """One dataset per recording; a file that is there is added to, and replaced when all is done or interrupted.

    `overwrite`: what is there is encoded again, and a file that holds no latents is replaced. See `latent_files.Store`.
    """

    single = False

    def __init__(self, output: Path, overwrite: bool = False) -> None:
        checked(output)
        self._output, self._overwrite = output, overwrite
        self._lock = threading.Lock()  # h5py has one too, but not around a whole recording
        self._kept: dict[str, About] = {}
        self._used = False  # is there anything new?
        self._seen: tuple[int, int] | None = None  # inode and time of the file that was added to
        self._stack = ExitStack()
        self._file: Any = None

    def __enter__(self) -> Hdf5Store:
        import h5py

        with ExitStack() as stack:
            part = stack.enter_context(whole(self._output, lambda: self._used))
            options = {"libver": "v110", "locking": False}  # this format checks what is read
            self._file = stack.enter_context(h5py.File(part, "w", **options))
            hdf5.set_attributes(self._file, {"format": FORMAT})
            self._copy_existing()
            self._stack = stack.pop_all()
        return self

    def _copy_existing(self) -> None:
        """What the file holds and this run has not made, if it is another one than last time."""
        import h5py

        there = self._output.stat() if self._output.exists() else None
        if there is None or self._seen == (seen := (there.st_ino, there.st_mtime_ns)):
            return
        self._seen = seen
        self._check_space(there.st_size)
        try:
            with explained(self._output), h5py.File(self._output, "r", locking=False) as old:
                if not _is_ours(old):
                    raise UsageError(
                        f"{self._output}: is there and holds no latents; choose another name, or --overwrite"
                    )
                for name in _names(old):
                    if name not in self._file:
                        old.copy(_dataset(old, name), self._file, name)
                        self._kept[name] = _attributes(old[name])
        except EverwaveError:
            if not self._overwrite:
                raise

    def __exit__(self, *error: object) -> None:
        with signals_held(), self._stack, self._lock:
            self._used = self._used and len(self._file) > 0
            if self._used:
                self._copy_existing()  # another run may have added to it meanwhile
                self._describe()

    def _describe(self) -> None:
        """What all recordings have in common is said once more, on the file."""
        every = [_attributes(self._file[name]) for name in _names(self._file)]
        for key in ("sample_rate", "latents_per_second", "autoencoder", "pooled"):
            values = {about.get(key) for about in every}
            if len(values) == 1 and None not in values:
                hdf5.set_attributes(self._file, {key: values.pop()})

    def finished(self, name: str, about: Mapping[str, Any]) -> bool:
        name = printable(name)
        if self._overwrite or name not in self._kept:
            return False
        return unchanged(f"{name} in {self._output}", self._kept[name], about)

    def save(self, name: str, latents: Latents, about: Callable[[], About]) -> None:
        name = printable(name)
        part = f".{name.encode().hex()}"  # no recording is called so: hidden files are not looked for
        try:
            if isinstance(latents, np.ndarray):
                with self._lock:
                    self._check_space(latents.nbytes)
                    self._file.create_dataset(part, data=latents, track_times=False)
            else:
                for block in latents:
                    with self._lock:
                        self._append(part, block)
            with self._lock:
                hdf5.set_attributes(self._file[part], about())
                self._check_name(name)
                if name in self._file:
                    del self._file[name]
                self._file.move(part, name)
                self._used = True
        except EverwaveError:
            raise
        except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
            raise EverwaveError(f"{self._output}: {name!r} cannot be stored ({first_line(error)})") from error
        finally:
            with self._lock, suppress(KeyError):
                del self._file[part]

    def _check_name(self, name: str) -> None:
        """EverwaveError for a name that is a folder of other recordings, or lies in a folder called like one."""
        for path in (name, *map(str, list(Path(name).parents)[:-1])):
            there = self._file.get(path)
            is_recording = hasattr(there, "shape")
            if there is not None and is_recording != (path == name):
                what = "recording" if is_recording else "folder of recordings"
                raise EverwaveError(f"{self._output}: {name!r} cannot be stored beside the {what} {path!r}; rename one")

    def _check_space(self, size: int) -> None:
        if shutil.disk_usage(self._output.absolute().parent).free < RESERVE + size:
            raise EverwaveError(
                f"{self._output}: cannot be written, the disk is full; make room, or choose another disk"
            )

    def _append(self, name: str, block: Array) -> None:
        self._check_space(block.nbytes)
        if name not in self._file:
            shape, columns = (0, block.shape[1]), block.shape[1]
            options = {"maxshape": (None, columns), "chunks": (CHUNK_ROWS, columns), "track_times": False}
            self._file.create_dataset(name, shape, np.float32, **options)
        dataset = self._file[name]
        dataset.resize(len(dataset) + len(block), axis=0)
        dataset[-len(block) :] = block


def recording(path: Path, item: str | None, stack: ExitStack) -> tuple[Any, About]:
    """The dataset, which can be read while `stack` keeps the file open, and what is known about it.

    UsageError unless `item` is a recording there, or None where there is but one; ValueError and what h5py raises for damage.
    """
    import h5py

    file = stack.enter_context(h5py.File(path, "r", locking=False))  # locks fail on some network shares
    if not _is_ours(file) and "format" in file.attrs:
        raise ValueError("it holds something else, a model perhaps")
    dataset = _dataset(file, _chosen(path, _names(file), item))
    return dataset, _attributes(dataset)


def recordings(path: Path) -> dict[str, tuple[tuple[int, ...], About]] | None:
    """Shape of every recording in an HDF5 file and what is known about it; None if it holds something else.

    ValueError and what h5py raises for damage.
    """
    import h5py

    if not h5py.is_hdf5(path):
        return None
    with h5py.File(path, "r", locking=False) as file:
        if not _is_ours(file):
            return None
        return {name: (_dataset(file, name).shape, _attributes(file[name])) for name in _names(file)}


def _chosen(path: Path, names: list[str], item: str | None) -> str:
    some = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
    if item is None and len(names) != 1:
        raise UsageError(f"{path}: holds {len(names)} recordings ({some}); choose one with --item")
    if item is not None and item not in names:
        raise UsageError(f"--item {item}: not in {path}, which holds {some or 'nothing'}")
    return names[0] if item is None else item


def _is_ours(file: Any) -> bool:
    return "format" in file.attrs and _attribute(file, "format") == FORMAT


def _names(group: Any, prefix: str = "", depth: int = MAX_DEPTH) -> list[str]:
    """Every dataset that hard links lead to, "folder/name", sorted; links that go round end at `depth`."""
    import h5py

    names: list[str] = []
    if not depth:
        raise ValueError(f"groups nested more than {MAX_DEPTH} deep")
    for name in group:
        if name.startswith(".") or not hdf5.hard_link(group, name):
            continue
        member = group[name]
        is_group = isinstance(member, h5py.Group)
        names += _names(member, f"{prefix}{name}/", depth - 1) if is_group else [f"{prefix}{name}"]
        if len(names) > MAX_RECORDINGS:
            raise ValueError(f"more than {MAX_RECORDINGS} recordings")
    return names


def _dataset(file: Any, name: str) -> Any:
    """A dataset of plain numbers that are all in the file, so that reading takes no more memory than the file has bytes."""
    import h5py

    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f" or dataset.shape is None:
        raise ValueError(f"{name} is no array of floating-point numbers")
    if not hdf5.layout(dataset):
        raise ValueError(f"{name} is compressed or outside the file")
    if dataset.id.get_storage_size() < dataset.nbytes:
        raise ValueError(f"{name} is not there in full")
    return dataset


def _attributes(dataset: Any) -> About:
    found = {key: _attribute(dataset, key) for key in (*NUMBERS, *TEXTS) if key in dataset.attrs}
    return known({key: value for key, value in found.items() if value is not None})


def _attribute(holder: Any, key: str) -> Any:
    """A number, or a text of fixed length; None for one of variable length, which is not read (`hdf5.set_attributes`)."""
    attribute = hdf5.scalar(holder, key, MAX_ABOUT)
    if attribute is None:
        raise ValueError(f"attribute {key} is over-long")
    if attribute.dtype.kind not in "iufS":
        return None
    value = holder.attrs[key]
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value
