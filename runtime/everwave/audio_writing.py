"""Audio files out: every format libsndfile knows, WAV of any length, stdout.

libsndfile writes all but WAV, which `wav.py` does: libsndfile's break silently past 4 GiB, cannot go to a pipe, and carry
the time of writing.

Integers by default: 16 bits reach 96 dB, below the noise floor of what the decoders make, and play everywhere;
24 bits would only store noise, which does not compress. `subtype` asks for more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from . import files
from .errors import AudioError, Cancelled, OutputError, UsageError, printable, reader_left
from .resampling import Resampler
from .stopping import signals_held
from .wav import BYTES, UNKNOWN, Layout, RawSink, WavSink, quantise

Array = np.ndarray

WRITE_FRAMES = 1 << 17  # at once: a block of the pipeline, not a recording that is given as a whole
STACK_FRAMES = 1 << 14  # libsndfile's Vorbis encoder keeps a whole write on the stack
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
LOSSY_BYTES_PER_SECOND = 40_000  # 320 kbit/s, the most that lossy formats take

SUBTYPES = {  # by the ending of the file's name; the first is the default
    "wav": ("PCM_16", "PCM_24", "FLOAT"),
    "flac": ("PCM_16", "PCM_24"),
    "ogg": ("VORBIS", "OPUS"),
    "opus": ("OPUS",),
    "mp3": ("MPEG_LAYER_III",),
    "aiff": ("PCM_16", "PCM_24"),
    "aif": ("PCM_16", "PCM_24"),
    "raw": ("FLOAT", "PCM_16", "PCM_24"),  # samples without a header, little-endian
}
FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
HEADER_ROOM = 4096  # AIFF counts to 4 GiB, header included
CONTAINERS = {"opus": "OGG", "aif": "AIFF"}  # where libsndfile's name is another one


class FormatError(OutputError):
    """A format that cannot be written, or not with these settings."""


class Full(AudioError):
    """No room for more, on the disk or in the format; what was written is kept where that is a valid file."""


class Writer:
    """A file that is written block by block and appears under its name when it is complete.

        with Writer("out.flac", 44100) as writer:
            writer.write(block)  # float32 (n, channels)

    path        file name, or "-" for stdout (wav or raw)
    format      a key of SUBTYPES; default: the ending of the name, wav for stdout
    subtype     how samples are stored; default: the first of SUBTYPES[format]
    frames      how many will come, if known: the disk is checked for space, and a piped WAV states its length
    tags        title, comment, software, copyright: kept by every format but raw; MP3 has the last two in its comment
    keep_partial    False: a file that is not complete leaves nothing, whatever ended it

    Everything that can be checked is checked before the first block: OutputError, FormatError for unknown formats.
    Ctrl-C, Cancelled, a full disk and AIFF's 4 GiB keep what was written so far as a valid file; any other exception
    leaves nothing, and so does a disk that fills without warning (a quota) in formats other than wav and raw. A WAV
    that passes 4 GiB becomes RF64 and says so in the log. The same samples give the same bytes, except in Ogg, whose
    streams carry random serial numbers. A reader that leaves stdout raises BrokenPipeError.
    """

    def __init__(self, path: str | os.PathLike[str], sample_rate: int, channels: int = 2, format: str | None = None,
                 subtype: str | None = None, *, frames: int | None = None, tags: Mapping[str, str] | None = None,
                 keep_partial: bool = True, riff_limit: int = UNKNOWN) -> None:  # fmt: skip
        self.name = os.fspath(path)
        self.sample_rate, self.channels = sample_rate, channels
        if self.name != "-" and os.path.isdir(self.name):
            files.checked(self.name)  # says so
        self.format, self.subtype = _format(self.name, format, subtype)
        self.frames = 0  # written so far
        self._expected, self._riff_limit, self._keep_partial = frames, riff_limit, keep_partial
        self._tags = {name: printable(text) for name, text in (tags or {}).items()}
        self._folder: Path | None = None
        self._part: Path | None = None
        self._kept = False
        self._stack = contextlib.ExitStack()
        self._sink: Sink | None = None
        self._resampler: Resampler | None = None
        self._begun = False  # the file could be made
        self._closable = False  # the disk is full, but not so full that the file could not be ended
        if self.name == "-":
            _check_stdout()
        else:
            self._folder = files.checked(self.name).parent
            self._check_size(self._folder, frames or 0)

    def __enter__(self) -> Writer:
        if self._folder:
            self._part = self._stack.enter_context(files.whole(self.name, lambda: self._kept))
        try:
            with self._explained():
                self._sink = self._open()
        except BaseException:
            self._finish(None, keep=False)
            raise
        self._begun = True
        return self

    def write(self, block: Array) -> None:
        """Append float32 samples (n, channels), clipped to +-1; AudioError for NaN, and where there is no more room."""
        block = np.asarray(block, np.float32)
        if block.ndim != 2 or block.shape[1] != self.channels:
            raise UsageError(f"{self.name}: a block of shape {block.shape}; expected (frames, {self.channels})")
        low, high = block.min(initial=0), block.max(initial=0)
        if not np.isfinite(low + high):
            raise AudioError(f"{self.name}: NaN or infinity after frame {self.frames}; the model's weights are damaged")
        if self._folder and shutil.disk_usage(self._folder).free < files.RESERVE + self._size(len(block)):
            self._closable = True
            raise Full(self._full())
        fits = block[: self._most_frames - self.frames]
        if self._resampler:
            self._put(self._resampler.push(fits))
        else:
            self._put(fits, clip=low < -1 or high > 1)
        self.frames += len(fits)
        if len(fits) < len(block):
            self._closable = True
            seconds = self.frames / self.sample_rate
            raise Full(
                f"{self.name}: AIFF holds at most 4 GiB, {seconds:.1f} s; go on with --start, or use wav or flac"
            )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with signals_held():  # a file that is finished is not lost
            keep = kind is None
            if kind and self._keep_partial and self.frames:
                closable = self._closable or self.format in ("wav", "raw")
                keep = issubclass(kind, KeyboardInterrupt | Cancelled) or (issubclass(kind, Full) and closable)
            try:
                if keep and self._resampler:
                    self._put(self._resampler.flush())
            except BaseException:
                keep = self._keep_partial
                raise
            finally:
                sink, self._sink = self._sink, None
                self._finish(sink, keep)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _put(self, samples: Array, clip: bool = True) -> None:
        if self._sink is None:
            raise UsageError(f"{self.name}: not open; use the Writer in a `with` statement")
        with self._explained():
            for i in range(0, len(samples), WRITE_FRAMES):
                part = samples[i : i + WRITE_FRAMES]
                self._sink.write(np.clip(part, -1, 1) if clip else part)

    def _finish(self, sink: Sink | None, keep: bool) -> None:
        with self._explained(), self._stack:
            with contextlib.nullcontext() if keep else contextlib.suppress(Exception):
                if sink:
                    sink.close()
            self._kept = keep

    def _open(self) -> Sink:
        if self.format not in ("wav", "raw"):
            return self._open_libsndfile()
        pipe = self._part is None
        file: Any = self._part.open("wb", buffering=0) if self._part else sys.stdout.buffer
        if self.format == "raw":
            return RawSink(file, self.subtype, pipe)
        layout = Layout(self.sample_rate, self.channels, self.subtype, self._riff_limit, self._tags)
        return WavSink(file, layout, self.name, pipe, self._expected)

    def _open_libsndfile(self) -> Sink:
        rate = self.sample_rate
        if self.subtype == "OPUS" and rate not in OPUS_RATES:
            rate = 48000
            self._resampler = Resampler(self.sample_rate, rate, self.channels)
        container = CONTAINERS.get(self.format, self.format.upper())
        path = os.fsencode(self._part or "") if os.name == "posix" else str(self._part)  # it encodes text strictly
        return LibsndfileSink(path, rate, self.channels, container, self.subtype, self._tags)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """System errors as AudioError, as OutputError until the file could be made; libsndfile's, which knows no others then, as FormatError."""
        try:
            yield
        except (BrokenPipeError, AudioError):
            raise
        except OSError as error:
            if self.name == "-" and reader_left(error):
                raise BrokenPipeError(errno.EPIPE, "the reader of stdout has left") from None
            if error.errno in FULL:
                raise Full(self._full()) from None
            kind = AudioError if self._begun else OutputError
            raise kind(f"{self.name}: cannot be written ({error.strerror or error}); choose another place") from None
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            if self._sink and "System error" in str(error):  # all that libsndfile says of a write that failed
                raise Full(self._full()) from None
            settings = f"{self.sample_rate} Hz, {self.channels} channels, {self.subtype}"
            raise FormatError(
                f"{self.name}: cannot be written as {settings} ({reason(error)}); choose another format"
            ) from None

    def _full(self) -> str:
        return (
            f"{self.name}: cannot be written, the disk is full after {self.frames / self.sample_rate:.1f} s; "
            "make room and go on with --start, or choose another disk"
        )

    def _size(self, frames: int) -> int:
        """Bytes that so many frames take in the file, at most."""
        size = BYTES.get(self.subtype)
        return frames * self.channels * size if size else frames * LOSSY_BYTES_PER_SECOND // self.sample_rate

    def _check_size(self, folder: Path, frames: int) -> None:
        files.check_room(folder, self._size(frames), self.name)
        if frames > self._most_frames:
            raise FormatError(
                f"{self.name}: AIFF holds at most 4 GiB, this is {self._size(frames) / 2**30:.1f}; use wav or flac"
            )

    @property
    def _most_frames(self) -> int:
        if self.format not in ("aiff", "aif"):
            return sys.maxsize
        return (self._riff_limit - HEADER_ROOM) // (self.channels * BYTES[self.subtype])


def _format(name: str, format: str | None, subtype: str | None) -> tuple[str, str]:
    ending = Path(name).suffix.lstrip(".").lower()
    chosen = (format or ("wav" if name == "-" else ending)).lower()
    if chosen not in SUBTYPES:
        raise FormatError(f"{name}: unknown format {chosen!r}; use one of {', '.join(SUBTYPES)}")
    if format and ending not in ("", chosen):
        raise FormatError(f"{name}: as {chosen} its name must end in .{chosen}; rename it, or leave the format out")
    if name == "-" and chosen not in ("wav", "raw"):
        raise FormatError(f"{chosen} cannot go to stdout; use wav or raw, or name a file")
    kind = (subtype or SUBTYPES[chosen][0]).upper()
    if kind not in SUBTYPES[chosen]:
        raise FormatError(f"{name}: subtype {kind!r}; {chosen} has {', '.join(SUBTYPES[chosen])}")
    return chosen, kind


def _check_stdout() -> None:
    if sys.stdout is None:
        raise OutputError("stdout is closed; name a file")
    if sys.stdout.isatty():
        raise FormatError("stdout is a terminal; send it to a program or a file, or name a file")


# -- where samples go -----------------------------------------------------------------------------------------------


class Sink(Protocol):
    """Takes float32 samples (n, channels) in [-1, 1]."""

    def write(self, samples: Array) -> None: ...

    def close(self) -> None: ...


class LibsndfileSink:
    """Everything but WAV. Integers are rounded here, as libsndfile cuts them off."""

    def __init__(self, path: str | bytes, rate: int, channels: int, container: str, subtype: str,
                 tags: Mapping[str, str]) -> None:  # fmt: skip
        import soundfile

        self._subtype = subtype
        self._file = soundfile.SoundFile(path, "w", rate, channels, subtype, format=container)
        more = "; ".join(tags[name] for name in ("software", "copyright") if tags.get(name))
        if container == "MP3" and more:  # libsndfile keeps neither of them there
            tags = {**tags, "comment": f"{tags.get('comment', '')}  # {more}"}
        for name, text in tags.items():
            setattr(self._file, name, text)

    def write(self, samples: Array) -> None:
        if self._subtype == "PCM_16":
            samples = quantise(samples, 16, "i2")
        elif self._subtype == "PCM_24":
            samples = quantise(samples, 24) << 8  # libsndfile takes the upper bits
        for i in range(0, len(samples), STACK_FRAMES):
            self._file.write(samples[i : i + STACK_FRAMES])

    def close(self) -> None:
        self._file.close()


def reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "error_string", None) or error or type(error).__name__).split()).rstrip(".")
