"""Latents on disk: .npy with a JSON beside it, or HDF5 with one dataset per recording. Nothing is pickled.

What is known about a recording goes with its latents, as attributes of its dataset or in `NAME.npy.json`:

    sample_rate, frames, channels    of what `decode` gives back: as many seconds and channels as the source
    latents_per_second, autoencoder  of the model; the SHA-256 of its file, that of its autoencoder if it names one
    pooled                           the statistic, "" for latents over time
    source, source_sample_rate, source_channels, source_frames, source_modified

A file appears under its name when it is complete. Latents of any length are written in constant memory. What is there
is only replaced, unless that is asked for, by latents of the same source, which is an absolute path ("stdin", or a
relative one, in older files), of the same statistic and the same autoencoder.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .errors import EverwaveError, OutputError, UsageError, printable
from .files import checked, whole
from .stopping import signals_held

Array = np.ndarray
About = dict[str, Any]
Latents = Array | Iterable[Array]  # one array, or blocks (k, channels) of one

HDF5 = (".h5", ".hdf5")
NPY = b"\x93NUMPY"
FORMAT = "everwave latents"
NUMBERS = ("sample_rate", "frames", "channels", "latents_per_second",
           "source_sample_rate", "source_channels", "source_frames", "source_modified")  # fmt: skip
TEXTS = ("autoencoder", "pooled", "source")
CHUNK_ROWS = 256
MAX_RECORDINGS, MAX_DEPTH = 1_000_000, 64
MAX_ABOUT = 1 << 16  # bytes
RESERVE = 1 << 22  # bytes left on a disk: the HDF5 library crashes where one is full


class Store(Protocol):
    """Where `encode` puts what it makes; a context manager, whose methods several threads may call."""

    def finished(self, name: str, about: Mapping[str, Any]) -> bool:
        """Whether the latents of `name` are there, whole, and made from what `about` says; OutputError if others are."""
        ...

    def save(self, name: str, latents: Latents, about: Callable[[], About]) -> None:
        """Write the latents, then what `about()` says of them once they are worked out."""
        ...


def open_store(output: Path, overwrite: bool = False) -> Any:
    """The Store of OUT.npy, OUT.h5 or a folder; UsageError if it cannot be written."""
    if output.suffix.lower() in HDF5:
        return Hdf5Store(output, overwrite)
    return NpyStore(output, overwrite)


# -- .npy ----------------------------------------------------------------------------------------------------------


class NpyStore:
    """One .npy per recording in a folder that is made when needed, or one .npy alone."""

    def __init__(self, output: Path, overwrite: bool = False) -> None:
        self._output, self._overwrite = output, overwrite
        self.single = output.suffix.lower() == ".npy"
        if self.single:
            checked(output)
        else:
            _check_folder(output)

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
        same = _unchanged(str(path), stored, about)
        try:
            _load_npy(path)  # raises if it is cut off
        except (OSError, ValueError):
            return False
        return same

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
                part.write_text(json.dumps(about(), indent=1) + "\n")
        except OSError as error:  # what goes wrong with the audio is an AudioError
            raise EverwaveError(f"{path}: cannot be written ({error.strerror or error})") from error


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
        raise ValueError(_first_line(error)) from None
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
        return _checked(json.loads(text))
    except (ValueError, RecursionError):
        raise ValueError(f"{_json_path(path).name} beside it is damaged; delete that") from None


# -- HDF5 ----------------------------------------------------------------------------------------------------------


class Hdf5Store:
    """One dataset per recording; a file that is there is added to, and replaced when all is done or interrupted.

    `overwrite`: what is there is encoded again, and a file that holds no latents is replaced.
    """

    single = False

    def __init__(self, output: Path, overwrite: bool = False) -> None:
        checked(output)
        self._output, self._overwrite = output, overwrite
        self._lock = threading.Lock()  # h5py has one too, but not around a whole recording
        self._kept: dict[str, About] = {}
        self._used = False  # is there anything new?
        self._seen: tuple[int, int] | None = None  # which file was added to
        self._stack = ExitStack()
        self._file: Any = None

    def __enter__(self) -> Hdf5Store:
        import h5py

        with ExitStack() as stack:
            part = stack.enter_context(whole(self._output, lambda: self._used))
            self._file = stack.enter_context(h5py.File(part, "w", libver="v110"))  # it checks what it reads
            _set(self._file, {"format": FORMAT})
            self._copy_existing()
            self._stack = stack.pop_all()
        return self

    def _copy_existing(self) -> None:
        """What the file holds and this run has not made, if it is another one than last time."""
        if not self._output.exists() or self._seen == (seen := _identity(self._output)):
            return
        self._seen = seen
        self._check_space(self._output.stat().st_size)
        try:
            with _opened(self._output) as old:
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
                _set(self._file, {key: values.pop()})

    def finished(self, name: str, about: Mapping[str, Any]) -> bool:
        name = printable(name)
        if self._overwrite or name not in self._kept:
            return False
        return _unchanged(f"{name} in {self._output}", self._kept[name], about)

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
                _set(self._file[part], about())
                self._check_name(name)
                if name in self._file:
                    del self._file[name]
                self._file.move(part, name)
                self._used = True
        except EverwaveError:
            raise
        except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
            raise EverwaveError(f"{self._output}: {name!r} cannot be stored ({_first_line(error)})") from error
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


def _identity(path: Path) -> tuple[int, int]:
    """What changes when a file is replaced."""
    about = path.stat()
    return about.st_ino, about.st_mtime_ns


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The open file, which may be anybody's."""
    import h5py

    with _explained(path), h5py.File(path, "r") as file:
        yield file


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What goes wrong in reading is one line."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, EverwaveError):
            raise
        reason = getattr(error, "strerror", None) or _first_line(error)
        step = "give one that can be read" if getattr(error, "errno", None) else "make it anew"
        raise EverwaveError(f"{path}: cannot be read as latents ({reason}); {step}") from error


def _is_ours(file: Any) -> bool:
    return "format" in file.attrs and _attribute(file, "format") == FORMAT


def _names(group: Any, prefix: str = "", depth: int = MAX_DEPTH) -> list[str]:
    """Every dataset that hard links lead to, "folder/name", sorted; links that go round end at `depth`."""
    import h5py

    names: list[str] = []
    if not depth:
        raise ValueError(f"groups nested more than {MAX_DEPTH} deep")
    for name in group:
        if name.startswith(".") or not isinstance(group.get(name, getlink=True), h5py.HardLink):
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
    if dataset.external or dataset.is_virtual or dataset.id.get_create_plist().get_nfilters():
        raise ValueError(f"{name} is compressed or outside the file")
    if dataset.id.get_storage_size() < dataset.nbytes:
        raise ValueError(f"{name} is not there in full")
    return dataset


def _attributes(dataset: Any) -> About:
    found = {key: _attribute(dataset, key) for key in (*NUMBERS, *TEXTS) if key in dataset.attrs}
    return _checked({key: value for key, value in found.items() if value is not None})


def _attribute(holder: Any, key: str) -> Any:
    """A number, or a text of fixed length as `_set` writes them; None for one of variable length, which is not read:
    damage in those makes the HDF5 library hang or crash."""
    attribute = holder.attrs.get_id(key)
    if attribute.shape != () or attribute.get_storage_size() > MAX_ABOUT:
        raise ValueError(f"attribute {key} is over-long")
    if attribute.dtype.kind not in "iufS":
        return None
    value = holder.attrs[key]
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def _set(holder: Any, about: Mapping[str, Any]) -> None:
    """Attributes; texts of fixed length, UTF-8."""
    import h5py

    for key, value in about.items():
        if isinstance(value, str):
            data = value.encode("utf-8", "surrogateescape")
            holder.attrs.create(key, data, dtype=h5py.string_dtype("utf-8", max(len(data), 1)))
        else:
            holder.attrs[key] = value


# -- both ----------------------------------------------------------------------------------------------------------


class Stored:
    """Latents in an open file: a slice of rows is read when it is asked for."""

    def __init__(self, path: Path, read: Callable[[slice], Array], shape: tuple[int, ...]) -> None:
        self._path, self._read, self.shape = path, read, shape
        if not shape:
            raise ValueError("it holds a single number")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        with _explained(self._path):
            return np.asarray(self._read(rows), np.float32)


@contextmanager
def opened(path: Path, item: str | None = None) -> Iterator[tuple[Stored, About]]:
    """The latents in `path` and what is known about them; `item` names the recording if a file holds several."""
    with _explained(path):
        if not path.is_file():
            raise EverwaveError(f"{path}: no such file; `everwave encode` makes one")
    with ExitStack() as stack:
        if path.suffix.lower() in HDF5:
            import h5py

            with _explained(path):
                file = stack.enter_context(h5py.File(path, "r"))
                if not _is_ours(file) and "format" in file.attrs:
                    raise ValueError("it holds something else, a model perhaps")
                dataset = _dataset(file, _chosen(path, _names(file), item))
                stored, about = Stored(path, dataset.__getitem__, dataset.shape), _attributes(dataset)
        elif item is not None:
            raise UsageError(f"--item {item}: {path} holds one recording; only .h5 files hold several")
        else:
            with _explained(path):
                stored, about = Stored(path, partial(_read_npy, path), _load_npy(path).shape), _beside(path)
        yield stored, about


def read(path: Path, item: str | None = None) -> tuple[Array, About]:
    """What `opened` gives, all in memory."""
    with opened(path, item) as (stored, about):
        return stored[:], about


def _chosen(path: Path, names: list[str], item: str | None) -> str:
    some = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
    if item is None and len(names) != 1:
        raise UsageError(f"{path}: holds {len(names)} recordings ({some}); choose one with --item")
    if item is not None and item not in names:
        raise UsageError(f"--item {item}: not in {path}, which holds {some or 'nothing'}")
    return names[0] if item is None else item


def _checked(about: Any) -> About:
    """Only what we know the meaning of, each of its type; ValueError else."""
    if not isinstance(about, dict):
        raise ValueError("no JSON object")
    known = {key: about[key] for key in (*NUMBERS, *TEXTS) if key in about}
    for key, value in known.items():
        if not isinstance(value, str if key in TEXTS else int | float):
            raise ValueError(f"{key}={value!r}")
    return known


def _unchanged(where: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether what is there needs no new latents; OutputError if it is not to be replaced by those that are `wanted`."""
    if not {"source", "pooled", "autoencoder"} <= set(stored):
        what = "no latents that `encode` made"
    elif os.path.abspath(stored["source"]) != os.path.abspath(wanted["source"]):
        what = f"latents of {stored['source']}"
    elif stored["pooled"] != wanted["pooled"]:
        what = f"latents {'pooled ' if stored['pooled'] else ''}over time"
    elif stored["autoencoder"] != wanted["autoencoder"]:
        what = "latents of another model"
    else:
        return wanted["source_modified"] is not None and stored.get("source_modified") == wanted["source_modified"]
    raise OutputError(f"{where} holds {what}; choose another place, or replace it with --overwrite")


def _check_folder(folder: Path) -> None:
    """OutputError unless `folder` is one that can be written to, or can be made."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.is_symlink() or path.exists())
    except OSError as error:  # a name that is too long
        raise OutputError(f"{folder}: cannot be made ({error.strerror or error}); choose another name") from None
    if not there.is_dir():
        at = "" if there == folder else f"{there} "
        raise OutputError(f"{folder}: {at}is no folder; name OUT.npy, OUT.h5 or a folder")
    if not os.access(there, os.W_OK):
        raise OutputError(f"{folder}: no permission to write there; choose another place")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
