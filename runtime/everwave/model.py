"""A model with its weights, ready to generate, stream, encode and decode; the checks of every argument are here."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import audio as audio_files
from . import checks, conditioning, coordinates, ops, weights
from .audio import to_stereo
from .checks import matrix, number
from .config import DECODER_FRAMES, PRESETS, Condition, Config
from .controls import Piece, plain
from .errors import AudioError, UsageError, short
from .looping import Loop
from .pipeline import Pipeline
from .player import Player
from .pooling import pool
from .resampling import BLOCK_FRAMES, Resampler
from .signal import synthesize
from .streaming import Progress, Stream, read_log

Array = np.ndarray

MAX_IN_MEMORY = 6 * 3600.0  # 7.6 GB of float32 stereo at 44.1 kHz


def load(name_or_path: str | os.PathLike[str] = "techno", threads: int | None = None, precision: str = "auto",
         backend: str = "auto") -> Model:  # fmt: skip
    """The model called `name_or_path`: a shipped name or the path of a weights file.

    `threads`: worker threads; default EVERWAVE_THREADS, else every core this process may use.
    `precision`: "auto", "float32" or "bfloat16"; `backend`: "auto", "numba" or "numpy" (slow).
    UsageError for bad arguments, ModelError for a missing or damaged file.
    """
    path = weights.find(name_or_path)
    model = Model.from_parts(weights.resolve(weights.read(path), path), threads, precision, backend)
    found_as_it_is = path == Path(name_or_path)  # else it is a shipped name, which stands for another file elsewhere
    model.origin = str(path.absolute()) if found_as_it_is else name_or_path, threads, precision, backend
    return model


def random_model(preset: str = "full", seed: int = 0, threads: int | None = None, precision: str = "auto",
                 backend: str = "auto") -> Model:  # fmt: skip
    """A model of random weights in the sizes of `preset` (a name in config.PRESETS): for benchmarks and tests."""
    if preset not in PRESETS:
        raise UsageError(f"preset={preset!r}; presets are {', '.join(PRESETS)}")
    return Model.from_parts(weights.random_model(PRESETS[preset], seed), threads, precision, backend)


def warm_up(threads: int | None = None) -> list[str]:
    """Compile every kernel for every precision this CPU has, and for weights of float16 and of float32; the precisions.

    UsageError if there is none, as EVERWAVE_PATH names a path that there is not.
    """
    threads = checks.threads(threads)
    file, done = weights.random_model(PRESETS["tiny"]), []
    refused: UsageError | None = None
    # no float16 holds these
    longer = {name: {k: v * np.float32(1.0001) for k, v in part.items()} for name, part in file.parameters.items()}
    for precision in ("float32", "bfloat16"):
        try:
            for parameters in (file.parameters, longer):
                model = Model.from_parts(replace(file, parameters=parameters), threads, precision)
                model.encode(model.generate(1.0), model.sample_rate)
        except UsageError as error:  # this CPU has no such products
            refused = error
            continue
        done.append(precision)
    if refused and not done:
        raise refused
    for preset in PRESETS.values():  # the inverse FFT alone is compiled for its size, and for angles and vectors
        magnitude = np.zeros((1, DECODER_FRAMES, preset.signal.bins), np.float32)
        for phase in (magnitude, np.concatenate([magnitude, magnitude], axis=2)):
            synthesize(magnitude, phase, preset.signal)
    return done


class Model:
    """Weights and how to run them. Immutable, so several threads may use one; workers live as long as a call.

    config: Config    sample_rate: Hz    conditions: what `generate` and `stream` take as keywords
    """

    def __init__(self, file: weights.ModelFile, threads: int, precision: str, backend: str) -> None:
        self.config: Config = file.config
        self.threads = threads
        self.precision = precision
        self.backend = backend
        self.origin: tuple[Any, ...] | None = None  # what `load` was asked for
        self._about = replace(file, parameters={})
        self._sizes = {name: sum(array.size for array in p.values()) for name, p in file.parameters.items()}
        self._parameters = dict(file.parameters)  # of the networks that are not made yet
        self._networks: dict[str, ops.Network] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_parts(cls, file: weights.ModelFile, threads: int | None = None, precision: str = "auto",
                   backend: str = "auto") -> Model:  # fmt: skip
        """A model of what `weights.read` and `weights.resolve` gave."""
        if precision not in ("auto", "float32", "bfloat16"):
            raise UsageError(f"precision={precision!r}; choose auto, float32 or bfloat16")
        if backend not in ("auto", "numba", "numpy"):
            raise UsageError(f"backend={backend!r}; choose auto, numba or numpy")
        return cls(file, checks.threads(threads), precision, backend)

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle or a copy of a model is made of its file."""
        if self.origin is None:
            raise TypeError("this model was not loaded from a file; write its weights to one and `load` that")
        return load, self.origin

    def __repr__(self) -> str:
        controls = "".join(f", {c.name} {c.low:g} to {c.high:g}" for c in self.conditions)
        return f"<everwave.Model: {self._about.kind}, {self.sample_rate} Hz{controls}>"

    @property
    def sample_rate(self) -> int:
        return self.config.signal.sample_rate

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Name, unit and range of every keyword that steers the generator; empty for an unconditional model."""
        return self.config.generator.conditions

    @property
    def used_precision(self) -> str:
        """What "auto" came to on this machine: "float32" or "bfloat16"."""
        return self.network("frame_decoder").precision

    def prepare(self) -> float:
        """Make everything ready that `generate` needs, or else `encode`, compiled kernels too; the seconds it took."""
        begin = time.perf_counter()
        if "generator" in self._sizes:
            for _ in self.stream(seconds=1 / self.sample_rate):
                pass
        else:
            self.encode(np.zeros(1, np.float32), self.sample_rate)
        return time.perf_counter() - begin

    def info(self) -> dict[str, Any]:
        """What the weights file says of itself: kind, config, parameters, conditions, licence, provenance."""
        return {
            "kind": self._about.kind,
            "sample_rate": self.sample_rate,
            "latents_per_second": round(self.config.signal.latent_rate, 3),
            "config": self.config.to_dict(),
            "parameters": self._sizes | {"total": sum(self._sizes.values())},
            "conditions": [asdict(c) for c in self.conditions],
            "licence": self._about.licence,
            "provenance": self._about.provenance,
            "autoencoder": self._about.autoencoder,
        }

    # -- generate ------------------------------------------------------------------------------------------------

    def generate(self, seconds: float | None = None, seed: int = 0, truncation: float = checks.TRUNCATION,
                 start: float = 0.0, *, style: Any = None, loop: bool = False, bars: int | None = None,
                 progress: Progress | None = None, cancel: Callable[[], bool] | None = None,
                 **conditions: Any) -> Array:  # fmt: skip
        """`seconds` of the piece of `seed`, from `start` seconds on: float32 (frames, 2) in [-1, 1].

        The piece is endless and fixed by seed, truncation, style and conditions: any part of it is the same samples
        whatever the start and the number of threads. Anchors and style are normal numbers cut at +-`truncation`: less is
        tamer. `style`: the seed whose style to take, or a vector; default: that of `seed`. A condition (see
        `conditions`) is a number, one number per latent, (seconds, value) pairs, or a CSV file of those.
        With `loop`, the end goes on into the start; where the tempo is constant it is the nearest number of bars of
        four beats. `bars` in place of `seconds`: a loop of so many.
        `progress(done, total)` is called with frames; when `cancel()` is true, Cancelled is raised.
        """
        options: dict[str, Any] = {"style": style, "progress": progress, "cancel": cancel, **conditions}
        source: Stream | Loop
        if loop or bars is not None:
            if start:
                raise UsageError(f"start={start!r} with loop; a loop has no later part, leave it out")
            source = self.loop(seconds, seed, truncation, bars=bars, **options)
            number("seconds", source.seconds, 0, MAX_IN_MEMORY, "; for more take blocks of a `loop`")
        else:
            seconds = number("seconds", seconds, 0, MAX_IN_MEMORY, "; for more take blocks of a `stream`")
            source = self.stream(seed, truncation, start, seconds=seconds, **options)
        with source:
            result = np.empty((source.frames or 0, 2), np.float32)
            done = 0
            for block in source:
                result[done : done + len(block)] = block
                done += len(block)
        return result

    def loop(self, seconds: float | None = None, seed: int = 0, truncation: float = checks.TRUNCATION, *,
             bars: int | None = None, style: Any = None, progress: Progress | None = None,
             cancel: Callable[[], bool] | None = None, **conditions: Any) -> Loop:  # fmt: skip
        """A piece whose end goes on into its start, of `bars`, or of `seconds` or the nearest number of bars; see `Loop`."""
        self._needs("generator", "chunk_decoder", "frame_decoder")
        if (seconds is None) == (bars is None):
            raise UsageError(f"seconds={short(seconds)} and bars={short(bars)}; give one of them")
        if seconds is not None:
            seconds = number("seconds", seconds, 1 / self.sample_rate, checks.MAX_SECONDS, " (30 days)")
        if "gain" in conditions:
            raise UsageError(f"gain={short(conditions['gain'])}; a loop has none, multiply its samples")
        controls = self._plain({"truncation": truncation, "style": style, **conditions})
        return Loop(self._pipeline(), checks.seed(seed), controls, seconds, bars, progress, cancel)

    def stream(self, seed: int = 0, truncation: float = checks.TRUNCATION, start: float = 0.0, *, seconds: float | None = None,
               style: Any = None, gain: float = 1.0, ahead: float | None = None, workers: Executor | None = None,
               progress: Progress | None = None, cancel: Callable[[], bool] | None = None,
               **conditions: Any) -> Stream:  # fmt: skip
        """The same samples as `generate`, as blocks (n, 2), endless unless `seconds` is given; see `Stream`.

        Memory stays constant. Controls can be changed as it plays: `stream.bpm = 140`. `gain` multiplies samples before
        they are held within +-1, so less of it saves loud ones.
        `ahead`: seconds that are worked on in the background before they are pulled; default 6, more where `seconds`
        are given and there are many threads. `workers`: threads that several streams share.
        """
        controls = {"truncation": truncation, "style": style, "gain": gain, **conditions}
        frames = None
        if seconds is not None:
            frames = round(number("seconds", seconds, 0, checks.MAX_SECONDS, " (30 days)") * self.sample_rate)
            if not frames:
                raise UsageError(f"seconds={seconds!r}; ask for at least one sample, {1 / self.sample_rate:.6f} s")
        log = {
            "sample_rate": self.sample_rate,
            "seed": checks.seed(seed),
            "start": round(number("start", start, 0, checks.MAX_START) * self.sample_rate),
            "controls": self._plain(controls),
            "changes": [],
        }
        return self._stream(log, frames, ahead, workers, progress, cancel)

    def replay(self, log: Mapping[str, Any], *, ahead: float | None = None, workers: Executor | None = None,
               progress: Progress | None = None, cancel: Callable[[], bool] | None = None) -> Stream:  # fmt: skip
        """The samples that a stream with this `log` (see `Stream.log`) has given, exactly, as blocks.

        A log says nothing of weights: give it to the model that made it. It may come from anywhere: UsageError if
        anything in it is out of range or does not fit this model.
        """
        checked, frames = read_log(log, self.config)
        return self._stream(checked, frames, ahead, workers, progress, cancel)

    def _stream(self, log: Mapping[str, Any], frames: int | None, ahead: float | None, workers: Executor | None,
                progress: Progress | None, cancel: Callable[[], bool] | None) -> Stream:  # fmt: skip
        self._needs("generator", "chunk_decoder", "frame_decoder")
        pipeline = self._pipeline(workers)
        return Stream(Player(pipeline, Piece(pipeline, log["seed"]), log, frames, ahead), progress, cancel)

    def style(self, seed: int, truncation: float = checks.TRUNCATION) -> Array:
        """The style (config.generator.style,) float32 that `seed` draws, to be mixed with others: `style=(a + b) / 2`."""
        self._needs("generator")
        number("truncation", truncation, 0, checks.MAX_TRUNCATION)
        return coordinates.style(self.config, checks.seed(seed, "style"), truncation)

    def latents(self, coordinates: Any, seed: int = 0) -> Array:
        """The generator, with its refiner, alone: (T, coordinates) from latent 0 of a piece on -> float32 (T, 2 * latents) = left | right.

        A coordinate is [anchor | style | one normalised value per condition]; clocks follow from the tempo.
        `seed` fixes the noise that the generator injects.
        """
        self._needs("generator")
        g = self.config.generator
        x = matrix("coordinates", coordinates, g.anchor + g.style + len(g.conditions))
        return self._pipeline().latents(conditioning.with_clocks(self.config, x), checks.seed(seed))

    # -- encode and decode -------------------------------------------------------------------------------------

    def encode(self, audio: Any | Iterable[Any], sample_rate: int) -> Array:
        """Samples (frames,) or (frames, channels) at any rate -> latents float32 (steps, 2 * latents) = left | right.

        Steps are latent_samples (4096) apart: ceil((frames + 3 hops) / latent_samples) of them, the tail filled
        with silence. An iterable of such arrays (a stream of blocks) is encoded in constant memory, to the same
        latents, bit for bit. Mono is taken as both channels; of more than two, the first two are taken.
        """
        return np.concatenate(list(self.encode_blocks(audio, sample_rate)))

    def encode_blocks(self, audio: Any | Iterable[Any], sample_rate: int,
                      workers: Executor | None = None) -> Iterator[Array]:  # fmt: skip
        """`encode`, a block of latents (k, 2 * latents) at a time; `workers` are threads that several calls may share."""
        self._needs("frame_encoder", "chunk_encoder")
        if isinstance(audio, str | os.PathLike | bytes | io.IOBase):
            raise UsageError(f"audio={short(audio)}; give samples, or a file to `encode_file` or `embed`")
        rate = checks.whole("sample_rate", sample_rate, 1000, 1_000_000)
        return self._pipeline(workers).encode(_stereo(audio, Resampler(rate, self.sample_rate, 2)))

    def encode_file(self, file: audio_files.Source) -> Array:
        """`encode` of an audio file of any format and length: its path, or one open in binary mode, as uploads are.

        AudioError if it cannot be read.
        """
        self._needs("frame_encoder", "chunk_encoder")
        rate, blocks = audio_files.blocks(file)
        with _named(file):
            return self.encode(blocks, rate)

    def embed(self, audio: audio_files.Source | Any | Iterable[Any], sample_rate: int | None = None) -> Array:
        """One vector, float32 (2 * latents,), of a file (see `encode_file`), or of samples (frames,) or (frames, channels) and their rate.

        Mean and standard deviation of the latents over time, averaged over left and right; see `pooling`.
        """
        self._needs("frame_encoder", "chunk_encoder")
        if isinstance(audio, str | os.PathLike) or (sample_rate is None and hasattr(audio, "read")):
            file: Any = audio
            sample_rate, blocks = audio_files.blocks(file)
            with _named(file):
                return pool(self.encode_blocks(blocks, sample_rate))
        if sample_rate is None:
            what = "an array of samples" if hasattr(audio, "__array__") else f"audio={short(audio)}"
            raise UsageError(f"sample_rate=None beside {what}; give it, in Hz, or a file")
        return pool(self.encode_blocks(audio, sample_rate))

    def decode(self, latents: Any, seed: int = 0) -> Array:
        """Latents (T, 2 * latents) -> float32 (latent_samples * T, 2) in [-1, 1]; `seed` fixes the injected noise."""
        return np.concatenate(list(self.decode_blocks(latents, seed)))

    def decode_blocks(self, latents: Any, seed: int = 0) -> Iterator[Array]:
        """`decode`, a block (n, 2) at a time.

        What has a shape and gives arrays when sliced, like an open HDF5 dataset, is read as it is needed.
        """
        self._needs("chunk_decoder", "frame_decoder")
        on_disk = hasattr(latents, "shape") and not hasattr(latents, "__array_interface__")
        rows = (checks.Rows if on_disk else matrix)("latents", latents, 2 * self.config.autoencoder.latents)
        return self._pipeline().decode(rows, checks.seed(seed))

    # -- inside --------------------------------------------------------------------------------------------------

    def network(self, name: str) -> ops.Network:
        """The network called `name`, made ready when first asked for: (x, noise=None) -> outputs."""
        with self._lock:
            if name not in self._networks:
                parameters, options = self._parameters[name], {"backend": self.backend, "precision": self.precision}
                self._networks[name] = ops.make_network(name, self.config, parameters, **options)
                del self._parameters[name]  # the engine has them in an order of its own
            return self._networks[name]

    def _pipeline(self, workers: Executor | None = None) -> Pipeline:
        if workers is not None:
            from concurrent.futures import ProcessPoolExecutor  # 20 ms that only those who share workers need

            if isinstance(workers, ProcessPoolExecutor):
                raise UsageError("workers: processes do not share the model's memory; give a ThreadPoolExecutor")
        return Pipeline(self.config, self.network, self.threads, ops.uses_numpy(self.backend), workers)

    def _plain(self, controls: Mapping[str, Any]) -> dict[str, Any]:
        return {name: plain(name, value, self.config) for name, value in controls.items()}

    def _needs(self, *networks: str) -> None:
        missing = [name for name in networks if name not in self._sizes]
        if missing:
            raise UsageError(f"this {self._about.kind} file has no {' and no '.join(missing)}; load one that has")


# -- checks of arguments ------------------------------------------------------------------------------------------


def _stereo(audio: Any, resampler: Resampler) -> Iterator[Array]:
    """Checked blocks (n, 2) at the model's rate of an array, or of an iterable of arrays."""
    frames = 0
    for block in audio if checks.is_stream(audio) else [audio]:
        samples = to_stereo(checks.samples(block))
        frames += len(samples)
        for i in range(0, len(samples), BLOCK_FRAMES):
            yield resampler.push(samples[i : i + BLOCK_FRAMES])
    if not frames:
        raise UsageError("audio holds no samples; give at least one")
    yield resampler.flush()


@contextlib.contextmanager
def _named(file: audio_files.Source) -> Iterator[None]:
    """What is wrong with samples is wrong with their file: AudioError says so."""
    try:
        yield
    except UsageError as error:
        raise AudioError(f"{audio_files.name(file)}: {error}") from None
