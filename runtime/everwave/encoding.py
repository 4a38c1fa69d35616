"""Many recordings to latents: which files, what they are called, several at once, and what went wrong with which."""

from __future__ import annotations

import glob
import os
import queue
import sys
import threading
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import audio
from .config import OVERLAP
from .errors import Cancelled, EverwaveError, OutputError, UsageError, one_line
from .latent_files import About, Store
from .model import Model
from .pooling import STATISTIC, pool

FILES_AT_ONCE = 4  # each reads and resamples; the networks' work of all of them is shared out among all threads
WAIT_SECONDS = 0.5
Failed = Callable[[str], object]  # called with one line that names the recording


@dataclass(frozen=True)
class Recording:
    """name: of its latents, "folder/song"    path: the file    source: what the user calls it"""

    name: str
    path: Path
    source: str


# -- which files ---------------------------------------------------------------------------------------------------


def recordings(inputs: Sequence[str], failed: Failed) -> Iterator[Recording]:
    """What files, folders, globs and "-" (stdin) stand for, in order, each name once.

    A file's latents are called as it is, without its ending; what a folder or a glob holds keeps its path inside it.
    Where two would be called alike the later one keeps its ending, or has the name of what was given in front. Names
    that differ in case or in how accents are coded are alike: on many disks they are one file.
    """
    taken: dict[str, str] = {}  # by `_as_disks_see_it`
    for given in inputs:
        try:
            found = [*_expanded(given, failed)]
        except OSError as error:
            failed(f"{given}: cannot be looked for ({error.strerror or error}); give what can be read")
            continue
        if not found:
            failed(f"{given}: no audio file there; known endings are {' '.join(audio.ENDINGS)}")
        for path, name in found:
            if taken.get(_as_disks_see_it(name), str(path)) != str(path):
                others = (name + path.suffix, f"{Path(given).resolve().name}/{name}")
                name = next((other for other in others if _as_disks_see_it(other) not in taken), name)
            if there := taken.get(_as_disks_see_it(name)):
                failed(f"{path}: would be called {name} like {there}; encode it apart, to another place")
                continue
            taken[_as_disks_see_it(name)] = str(path)
            yield Recording(name, path, "stdin" if given == "-" else str(path))


def _expanded(given: str, failed: Failed) -> Iterator[tuple[Path, str]]:
    """(file, name of its latents)"""
    path = Path(given)
    if given == "-":
        yield path, "stdin"
    elif path.is_dir():
        for file in audio.files_below(path, failed):
            yield file, _called(file.relative_to(path))
    elif path.exists() or not glob.has_magic(given):  # one that is missing is reported when its turn comes
        yield path, _called(Path(path.name))
    else:
        fixed = Path(*_until_magic(path.parts))
        for file in map(Path, sorted(glob.glob(given, recursive=True))):
            if file.is_file():
                yield file, _called(file.relative_to(fixed))


def _as_disks_see_it(name: str) -> str:
    """The same for names that Windows or macOS take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _called(file: Path) -> str:
    """The name of its latents. One that begins with a dot would be nobody's recording."""
    return "/".join(part for name in file.with_suffix("").parts if (part := name.lstrip(".")))


def _until_magic(parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


# -- the work ------------------------------------------------------------------------------------------------------


def encode_all(model: Model, todo: Sequence[Recording], store: Store, about: About, pooled: bool, failed: Failed,
               progress: Callable[[float], object]) -> None:  # fmt: skip
    """Encode every recording into `store`; one that fails is reported and the others go on.

    `about`: what is said of all of them; `progress`: called with the seconds of audio that are done since last time.
    """
    stop = threading.Event()

    def one(recording: Recording, path: Path, workers: Executor) -> None:
        def count(seconds: float) -> None:
            if stop.is_set():
                raise Cancelled(f"{recording.source}: cancelled")
            progress(seconds)

        _encode(model, recording, path, store, about, pooled, workers, count)

    at_once = min(FILES_AT_ONCE, model.threads, max(len(todo), 1))
    with (
        ExitStack() as stack,
        ThreadPoolExecutor(model.threads, "everwave") as workers,
        ThreadPoolExecutor(at_once, "everwave-file") as files,
    ):
        futures = {}
        try:
            for recording in todo:
                try:
                    path = stack.enter_context(_on_disk(recording))  # here, not in a worker: Ctrl-C ends it
                except (EverwaveError, OSError) as error:
                    failed(_explained(recording, recording.source, error))
                    continue
                futures[files.submit(one, recording, path, workers)] = recording, str(path)
            for future in _as_completed(futures):
                if trouble := future.exception():
                    failed(_explained(*futures[future], trouble))
        finally:  # Ctrl-C: begin nothing more, and leave what is begun at its next block
            stop.set()
            files.shutdown(wait=True, cancel_futures=True)


def _as_completed(futures: Collection[Future[None]]) -> Iterator[Future[None]]:
    """As in concurrent.futures, but Ctrl-C ends the wait on Windows too, where it cannot end one without a limit."""
    done: queue.SimpleQueue[Future[None]] = queue.SimpleQueue()
    for future in futures:
        future.add_done_callback(done.put)
    left = len(futures)
    while left:
        with suppress(queue.Empty):
            yield done.get(timeout=WAIT_SECONDS)
            left -= 1


def _encode(model: Model, recording: Recording, path: Path, store: Store, about: About, pooled: bool,
            workers: Executor, progress: Callable[[float], object]) -> None:  # fmt: skip
    when = modified(recording)  # before anything is read, so that a later change shows
    rate, blocks = audio.blocks(path)
    frames = channels = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal frames, channels
        for block in blocks:
            frames, channels = frames + len(block), block.shape[1]
            yield block

    def latents() -> Iterator[np.ndarray]:
        for block in model.encode_blocks(counted(), rate, workers):
            progress(len(block) / model.config.signal.latent_rate)
            yield block

    def told() -> About:
        return {
            **about,
            **({} if when is None else {"source_modified": when}),
            "frames": -(-frames * model.sample_rate // rate),
            "channels": min(channels, 2),
            "source": _origin(recording),
            "source_sample_rate": rate,
            "source_channels": channels,
            "source_frames": frames,
        }

    store.save(recording.name, pool(latents()) if pooled else latents(), told)


def about_all(model: Model, autoencoder: str, pooled: bool) -> About:
    """What is said of all recordings; `autoencoder` is the SHA-256 of the weights."""
    return {
        "sample_rate": model.sample_rate,
        "latents_per_second": model.config.signal.latent_rate,
        "autoencoder": autoencoder,
        "pooled": STATISTIC if pooled else "",
    }


def unfinished(found: Sequence[Recording], store: Store, about: About, failed: Failed) -> Iterator[Recording]:
    """Those whose latents are not there, made from the file as it is now; what must not be replaced is reported."""
    for recording in found:
        try:
            known = {**about, "source": _origin(recording), "source_modified": modified(recording)}
            if not store.finished(recording.name, known):
                yield recording
        except OutputError as error:
            failed(f"{recording.source}: {error}")


def _origin(recording: Recording) -> str:
    """What is said of its latents: the same by whichever path it was given."""
    return recording.source if str(recording.path) == "-" else os.path.abspath(recording.path)


def modified(recording: Recording) -> int | None:
    """When the file was last changed, nanoseconds; None for stdin and for what is not there."""
    try:
        return None if str(recording.path) == "-" else recording.path.stat().st_mtime_ns
    except OSError:
        return None


def length(about: About, steps: int, model: Model, name: str) -> tuple[int, int]:
    """(samples, channels) to give back for `steps` latents: those of the source where they are known, else all."""
    longest = steps * model.config.signal.latent_samples
    if "frames" not in about:
        return longest, 2
    frames, channels = about["frames"], about.get("channels", 2)
    shortest = longest - model.config.signal.latent_samples - (OVERLAP - 1) * model.config.signal.hop_length
    if (
        about.get("sample_rate") != model.sample_rate
        or channels not in (1, 2)
        or not max(shortest, 0) < frames <= longest
    ):
        known = {key: about.get(key) for key in ("sample_rate", "frames", "channels")}
        raise EverwaveError(
            f"{name}: {known}, as is said of it, does not fit {steps} latents of a model at {model.sample_rate} Hz; "
            f"latents that were changed are decoded in full without {Path(name).name}.json"
        )
    return int(frames), int(channels)


@contextmanager
def _on_disk(recording: Recording) -> Iterator[Path]:
    """A path that can be read from any position: stdin goes to a temporary file first."""
    if str(recording.path) != "-":
        yield recording.path
        return
    if sys.stdin is None:
        raise UsageError("stdin is closed; give a file, or send audio there")
    with audio.on_disk(sys.stdin.buffer) as path:
        yield Path(path)


def _explained(recording: Recording, path: str, error: BaseException) -> str:
    """`path`: where the recording was on disk, which users know by its source."""
    text = one_line(error).replace(path, recording.source)
    return text if recording.source in text else f"{recording.source}: {text}"
