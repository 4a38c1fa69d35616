"""Audio files in and out: every format libsndfile knows, any length, any rate. Reading is here, the Writer in `audio_writing`.

Samples are float32 (frames, channels) in [-1, 1].
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .audio_writing import SUBTYPES, FormatError, OutputError, Writer, reason
from .errors import AudioError
from .files import mode
from .mpeg import stating_length
from .resampling import Resampler, resample
from .wav import INFO_IDS

__all__ = [
    "ENDINGS",
    "SUBTYPES",
    "FormatError",
    "Info",
    "OutputError",
    "Resampler",
    "Writer",
    "blocks",
    "files_below",
    "info",
    "name",
    "on_disk",
    "read",
    "resample",
    "tags",
    "to_stereo",
]

Array = np.ndarray
Source = str | os.PathLike[str] | BinaryIO  # a file that is open in binary mode is read from where it is

ENDINGS = (".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".rf64", ".snd", ".w64",
           ".wav", ".wave")  # fmt: skip
COPIED_BYTES = 1 << 20
READ_SAMPLES = 1 << 17  # of all channels together, which may be a thousand
UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile says of a FLAC that was written to a pipe
CHAIN_START = 4096  # bytes within which all streams of an Ogg file begin that are played together
OGG_TAIL_SECONDS = 0.2  # more than there is, as the last page of some whole files has it; `_ogg_ends` sees cut ones


def files_below(folder: str | os.PathLike[str], failed: Callable[[str], object]) -> Iterator[Path]:
    """The audio files in `folder` and below it, sorted, by their ENDINGS; what is hidden is left alone.

    OSError if `folder` itself cannot be looked into; of another one below it `failed` is told in a line.
    """

    def unreadable(error: OSError) -> None:
        if error.filename == os.fspath(folder):
            raise error
        failed(f"{error.filename}: cannot be looked into ({error.strerror}); make it readable, or leave it out")

    for root, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in ENDINGS:
                yield Path(root, name)


class Info(NamedTuple):
    """What the header says; of an MP3 or a FLAC that does not say its length, how many frames there are."""

    sample_rate: int
    channels: int
    frames: int


def info(source: Source) -> Info:
    """Header of an audio file. AudioError if it is missing, no audio, cut off or empty."""
    with _opened(source) as file:
        known = file.frames < UNKNOWN_FRAMES
        frames = file.frames if known else sum(map(len, _checked_blocks(file, name(source))))
        return Info(file.samplerate, file.channels, frames)


def tags(source: Source) -> dict[str, str]:
    """What a file says of itself: those of title, comment, software and copyright that it has."""
    with _opened(source) as file:
        found = {name: str(getattr(file, name) or "") for name in INFO_IDS}
        if file.format == "MP3":
            found = {name: _undone(text) for name, text in found.items()}
        return {name: text for name, text in found.items() if text}


def _undone(text: str) -> str:
    """UTF-8 that was taken for Latin-1, as libsndfile does with long tags that it wrote itself; any other text as it is."""
    with contextlib.suppress(UnicodeError):
        return text.encode("latin-1").decode()
    return text


def read(source: Source) -> tuple[Array, int]:
    """(float32 samples (frames, channels), sample rate in Hz) of a whole file; see `blocks` for long ones.

    AudioError if it cannot be read, is cut off, is empty, or holds NaN or infinity.
    """
    with _opened(source) as file:  # the header's length is not trusted with an allocation
        return np.concatenate(list(_checked_blocks(file, name(source)))), file.samplerate


def blocks(source: Source) -> tuple[int, Iterator[Array]]:
    """(sample rate in Hz, float32 blocks (n, channels)): a file of any length in constant memory.

    Raises as `read` does; what the header shows, at once. The file stays open until the last block, or until they are dropped.
    """

    def opened() -> Iterator[Any]:
        with _opened(source) as file:
            yield file.samplerate
            yield from _checked_blocks(file, name(source))

    stream = opened()
    return next(stream), stream


@contextlib.contextmanager
def on_disk(source: Source) -> Iterator[str | os.PathLike[str]]:
    """A path that can be read from any position: a file that is open, which may be a pipe, goes to a temporary one first.

    AudioError if it gives no bytes.
    """
    if isinstance(source, str | os.PathLike):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="everwave-") as folder:
        path = os.path.join(folder, "audio")
        with open(path, "wb") as copy:
            while len(block := source.read(COPIED_BYTES)):
                if not isinstance(block, bytes | bytearray | memoryview):
                    raise AudioError(
                        f"{name(source)}: reads as {type(block).__name__}, not bytes; "
                        "give a file open in binary mode, or samples and their rate"
                    )
                copy.write(block)
        yield path


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[Any]:
    """A soundfile.SoundFile; whatever libsndfile says becomes an AudioError that names the file."""
    import soundfile

    called = name(source)
    try:
        with contextlib.ExitStack() as stack:
            path = Path(stack.enter_context(on_disk(source)))
            if not stat.S_ISREG(there := mode(path)):
                what = "is a folder" if stat.S_ISDIR(there) else "is a pipe or a device" if there else "no such file"
                raise AudioError(f"{called}: {what}; give an audio file")
            path.open("rb").close()  # the system's reason, where libsndfile knows none
            # bytes: soundfile encodes text strictly, and names may be anything
            file = stack.enter_context(soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path))
            if file.format == "MP3" and (whole := stating_length(path)):
                file = stack.enter_context(soundfile.SoundFile(stack.enter_context(whole)))
            _refuse_truncated(file, path, called)
            if file.frames <= 0:
                raise AudioError(f"{called}: holds no samples; give a file that does")
            if file.frames == UNKNOWN_FRAMES:
                file.seekable = lambda: False  # or soundfile would seek after every read, which fails
            yield file
    except OSError as error:
        raise AudioError(f"{called}: cannot be read ({error.strerror or error}); give one that can") from None
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:  # LibsndfileError is a RuntimeError
        why = reason(error)
        if why.startswith("File does not exist"):  # it does: what libsndfile says of an MP3 in which nothing is one
            why = "no known format"
        raise AudioError(f"{called}: cannot be read as audio ({why}); convert or replace it") from None


def _checked_blocks(file: Any, called: str) -> Iterator[Array]:
    done, size = 0, max(READ_SAMPLES // file.channels, 1)
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        if not np.isfinite(block).all():
            frame, channel = np.argwhere(~np.isfinite(block))[0]
            where = f"frame {done + frame} ({(done + frame) / file.samplerate:.3f} s), channel {channel}"
            raise AudioError(f"{called}: {block[frame, channel]} at {where}; samples must be finite, repair the file")
        done += len(block)
        yield block
    tolerated = OGG_TAIL_SECONDS * file.samplerate if file.format == "OGG" else 0
    if done + tolerated < file.frames < UNKNOWN_FRAMES:
        raise AudioError(f"{called}: cut off after {done} of {file.frames} frames; get a complete copy")


def _refuse_truncated(file: Any, path: Path, called: str) -> None:
    """libsndfile takes a file that was cut off for a shorter one, but its log tells."""
    for chunk, stated, present in re.findall(r"(\w[\w ]*?) *: (\d+) \(should be (\d+)\)", file.extra_info):
        # the outermost size is often a little wrong in good files; one near a limit means "until the end"
        audio_chunk = chunk.lower() in ("data", "ssnd", "data size") or file.format in ("RF64", "W64")
        if audio_chunk and int(present) + 1 < int(stated) < 0x7FFF0000:
            raise AudioError(f"{called}: cut off, {present} of {stated} bytes are there; get a complete copy")
    if file.format == "OGG":
        if not _ogg_ends(path):
            raise AudioError(f"{called}: cut off, its last page is missing; get a complete copy")
        if _ogg_is_chained(path):
            raise AudioError(
                f"{called}: several recordings in a row, of which only the first can be read; split or convert it"
            )


def _ogg_ends(path: Path) -> bool:
    """Whether the last page of an Ogg file is whole and says that it is the last (RFC 3533, section 6)."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - (1 << 17), 0))  # a page has at most 65307 bytes
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    return len(page) >= 27 and bool(page[5] & 4) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _ogg_is_chained(path: Path) -> bool:
    """Whether a stream begins after others have (RFC 3533, section 4), as in what Icecast records."""
    begin, last = b"OggS\0\x02", b""
    with path.open("rb") as file:
        file.seek(CHAIN_START)
        while block := file.read(1 << 20):
            if begin in last + block:
                return True
            last = block[1 - len(begin) :]
    return False


def name(source: Source) -> str:
    """What messages call it."""
    called = os.fspath(source) if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    return called if isinstance(called, str) else "audio"  # a pipe's is a number


def to_stereo(samples: Array) -> Array:
    """(frames,) or (frames, channels) -> (frames, 2).

    Mono is doubled. Of more than two channels the first two are taken: front left and right in WAV and FLAC.
    """
    samples = samples[:, None] if samples.ndim == 1 else samples
    return np.repeat(samples, 2, axis=1) if samples.shape[1] == 1 else samples[:, :2]
