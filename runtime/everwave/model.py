"""A model with its weights, ready to generate, stream, encode and decode; the checks of every argument are here."""

from __future__ import annotations

import math
import operator
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import numpy as np

from . import audio as audio_files
from . import conditioning, ops, weights
from .audio import READ_FRAMES, to_stereo
from .config import DECODER_FRAMES, PRESETS, Condition, Config
from .errors import Cancelled, UsageError
from .pipeline import Pipeline, Stages
from .pooling import pool
from .resampling import Resampler
from .signal import synthesize

Array = np.ndarray
Progress = Callable[[int, int], object]  # (frames done, frames in all)

MAX_START = 1e9  # seconds; 30 years into a piece
MAX_SECONDS = 30 * 86400.0
MAX_IN_MEMORY = 6 * 3600.0  # 7.6 GB of float32 stereo at 44.1 kHz
MAX_TRUNCATION = 8.0
MAX_THREADS = 1024
MAX_CHANNELS = 64
MAX_LEVEL = 256.0  # times full scale; beyond it samples are integers that nobody scaled, or damaged


def load(name_or_path: str | os.PathLike[str] = "techno", threads: int | None = None, precision: str = "auto",
         backend: str = "auto") -> Model:  # fmt: skip
    """The model called `name_or_path`: a shipped name or the path of a weights file.

    `threads`: worker threads; default EVERWAVE_THREADS, else every core this process may use.
    `precision`: "auto", "float32" or "bfloat16"; `backend`: "auto", "numba" or "numpy" (slow).
    UsageError for bad arguments, ModelError for a missing or damaged file.
    """
    path = weights.find(name_or_path)
    return Model.from_parts(weights.resolve(weights.read(path), path), threads, precision, backend)


def random_model(preset: str = "full", seed: int = 0, threads: int | None = None, precision: str = "auto",
                 backend: str = "auto") -> Model:  # fmt: skip
    """A model of random weights in the sizes of `preset` (a name in config.PRESETS): for benchmarks and tests."""
    if preset not in PRESETS:
        raise UsageError(f"preset={preset!r}; presets are {', '.join(PRESETS)}")
    return Model.from_parts(weights.random_model(PRESETS[preset], seed), threads, precision, backend)


def warm_up(threads: int | None = None) -> list[str]:
    """Compile every kernel for every precision this CPU has; their names."""
    done = []
    for precision in ("float32", "bfloat16"):
        model = random_model("tiny", 0, threads, precision)
        try:
            audio = model.generate(1.0)
        except UsageError:  # this CPU has no such products
            continue
        model.encode(audio, model.sample_rate)
        done.append(precision)
    for preset in PRESETS.values():  # the inverse FFT alone is compiled for its size
        shape = (1, DECODER_FRAMES, preset.signal.bins)
        synthesize(np.zeros(shape, np.float32), np.zeros(shape, np.float32), preset.signal)
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
        return cls(file, _threads(threads), precision, backend)

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
        path = getattr(self.network("frame_decoder"), "path", None)
        return getattr(path, "precision", "float32")

    def prepare(self) -> float:
        """Make everything ready that `generate` needs, compiled kernels too; the seconds it took."""
        begin = time.perf_counter()
        for _ in self.stream(seconds=1 / self.sample_rate):
            pass
        return time.perf_counter() - begin

    def info(self) -> dict[str, Any]:
        """What the weights file says of itself: kind, config, parameters, conditions, licence, provenance."""
        return {
            "kind": self._about.kind,
            "sample_rate": self.sample_rate,
            "latents_per_second": round(self.config.signal.latent_rate, 3),
            "config": self.config.to_dict(),
            "parameters": self._sizes | {"total": sum(self._sizes.values())},
            "conditions": [vars(c) for c in self.conditions],
            "licence": self._about.licence,
            "provenance": self._about.provenance,
            "autoencoder": self._about.autoencoder,
        }

    # -- generate ------------------------------------------------------------------------------------------------

    def generate(self, seconds: float, seed: int = 0, truncation: float = 2.0, start: float = 0.0, *,
                 progress: Progress | None = None, cancel: Callable[[], bool] | None = None,
                 **conditions: Any) -> Array:  # fmt: skip
        """`seconds` of the piece of `seed`, from `start` seconds on: float32 (frames, 2) in [-1, 1].

        The piece is endless and fixed by seed, truncation and conditions: any part of it is the same samples
        whatever the start and the number of threads. Anchors are normal numbers cut at +-`truncation`: less is
        tamer. A condition (see `conditions`) is a number, or a curve as in `conditioning`.
        `progress(done, total)` is called with frames; when `cancel()` is true, Cancelled is raised.
        """
        seconds = _number("seconds", seconds, 0, MAX_IN_MEMORY, "; `stream` has no such limit")
        with self.stream(seed, truncation, start, seconds=seconds, **conditions) as stream:
            result = np.empty((stream.frames or 0, 2), np.float32)
            done = 0
            for block in stream:
                if cancel is not None and cancel():
                    raise Cancelled(f"cancelled after {done / self.sample_rate:.1f} of {seconds} seconds")
                result[done : done + len(block)] = block
                done += len(block)
                if progress is not None:
                    progress(done, len(result))
        return result

    def stream(self, seed: int = 0, truncation: float = 2.0, start: float = 0.0, *, seconds: float | None = None,
               **conditions: Any) -> Stream:  # fmt: skip
        """The same samples as `generate`, as float32 blocks (n, 2), endless unless `seconds` is given.

        Memory stays constant. Conditions can be changed as it plays: `stream.bpm = 140`.
        """
        self._needs("generator", "chunk_decoder", "frame_decoder")
        first = round(_number("start", start, 0, MAX_START) * self.sample_rate)
        frames = None
        if seconds is not None:
            frames = round(_number("seconds", seconds, 0, MAX_SECONDS) * self.sample_rate)
            if not frames:
                raise UsageError(f"seconds={seconds!r}; ask for at least one sample, {1 / self.sample_rate:.6f} s")
        truncation = _number("truncation", truncation, 0, MAX_TRUNCATION)
        return Stream(self._pipeline(), _seed(seed), truncation, first, frames, conditions)

    def latents(self, coordinates: Any, seed: int = 0) -> Array:
        """The generator alone: (T, coordinates) from latent 0 of a piece on -> float32 (T, 2 * latents) = left | right.

        A coordinate is [anchor | style | one normalised value per condition]; clocks follow from the tempo.
        `seed` fixes the noise that the generator injects.
        """
        self._needs("generator")
        g = self.config.generator
        x = _matrix("coordinates", coordinates, g.anchor + g.style + len(g.conditions))
        return self._pipeline().latents(conditioning.with_clocks(self.config, x), _seed(seed))

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
        rate = int(_number("sample_rate", sample_rate, 1000, 1_000_000))
        return self._pipeline(workers).encode(_stereo(audio, Resampler(rate, self.sample_rate, 2)))

    def encode_file(self, path: str | os.PathLike[str]) -> Array:
        """`encode` of an audio file of any format and length; AudioError if it cannot be read."""
        rate, blocks = audio_files.blocks(path)
        return self.encode(blocks, rate)

    def embed(self, audio: str | os.PathLike[str] | Any | Iterable[Any], sample_rate: int | None = None) -> Array:
        """One vector, float32 (2 * latents,), of a file, or of samples (frames,) or (frames, channels) and their rate.

        Mean and standard deviation of the latents over time, averaged over left and right; see `pooling`.
        """
        if isinstance(audio, str | os.PathLike):
            sample_rate, audio = audio_files.blocks(audio)
        return pool(self.encode_blocks(audio, sample_rate))  # type: ignore[arg-type]  # None is refused there

    def decode(self, latents: Any, seed: int = 0) -> Array:
        """Latents (T, 2 * latents) -> float32 (latent_samples * T, 2) in [-1, 1]; `seed` fixes the injected noise."""
        return np.concatenate(list(self.decode_blocks(latents, seed)))

    def decode_blocks(self, latents: Any, seed: int = 0) -> Iterator[Array]:
        """`decode`, a block (n, 2) at a time."""
        self._needs("chunk_decoder", "frame_decoder")
        return self._pipeline().decode(_matrix("latents", latents, 2 * self.config.autoencoder.latents), _seed(seed))

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
        return Pipeline(self.config, self.network, self.threads, ops.uses_numpy(self.backend), workers)

    def _needs(self, *networks: str) -> None:
        missing = [name for name in networks if name not in self._sizes]
        if missing:
            raise UsageError(f"this {self._about.kind} file has no {' and no '.join(missing)}; load one that has")


class Stream:
    """Blocks (n, 2) of a piece, in order. A condition is an attribute: set it between blocks and later ones follow.

    A change is heard after the few segments that are already begun: within one generator window (12 s).
    frames: samples per channel in all, None if endless.    stages: CPU seconds spent so far in each stage.
    """

    _pipeline: Pipeline
    _values: dict[str, Any]
    _seed: int
    _current: list[Any]  # the conditioning.Signal in force, shared with the source of latents
    _blocks: Iterator[Array]
    frames: int | None

    def __init__(self, pipeline: Pipeline, seed: int, truncation: float, first: int, frames: int | None,
                 conditions: dict[str, Any]) -> None:  # fmt: skip
        current: list[Any] = [
            None
        ]  # what the source asks; it holds no reference to the stream, which can so be forgotten at any time
        self.__dict__.update(_pipeline=pipeline, _values={}, _seed=seed, _current=current, frames=frames)
        self.set(**conditions)
        source = pipeline.generated(seed, truncation, lambda: current[0])
        blocks = pipeline.play(source, seed, first, None if frames is None else first + frames)
        self.__dict__["_blocks"] = blocks

    def set(self, **conditions: Any) -> None:
        """Change several conditions at once; UsageError if one is unknown or out of its range."""
        values = self._values | conditions
        self._current[0] = conditioning.signal(self._pipeline.config, values, self._seed)
        self.__dict__["_values"] = values

    @property
    def stages(self) -> Stages:
        return self._pipeline.stages

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__.get("_values", {})
        if name in values:
            return values[name]
        raise AttributeError(f"this stream has no condition {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        self.set(**{name: value})

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Array:
        return next(self._blocks)

    def close(self) -> None:
        """Stop the workers; called by `with` and when the stream is forgotten."""
        self._blocks.close()  # type: ignore[attr-defined]

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


# -- checks of arguments ------------------------------------------------------------------------------------------


def _number(name: str, value: Any, low: float, high: float, hint: str = "") -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{name}={value!r}; expected a number") from None
    if not low <= number <= high:  # NaN is in no range
        raise UsageError(f"{name}={value!r}; it must be between {low:g} and {high:g}{hint}")
    return number


def _seed(seed: Any) -> int:
    try:
        number = operator.index(seed)
    except TypeError:
        raise UsageError(f"seed={seed!r}; expected a whole number") from None
    if not 0 <= number < 2**64:
        raise UsageError(f"seed={seed!r}; it must be between 0 and 2**64 - 1")
    return number


def _threads(threads: int | None) -> int:
    """The argument, else EVERWAVE_THREADS, else the cores that this process may use."""
    name, wanted = "threads", threads
    if threads is None:
        name, wanted = "EVERWAVE_THREADS", os.environ.get("EVERWAVE_THREADS") or _cores()  # type: ignore[assignment]
    number = _number(name, wanted, 1, MAX_THREADS)
    if number != math.floor(number):
        raise UsageError(f"{name}={wanted!r}; expected a whole number")
    return int(number)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _matrix(name: str, value: Any, columns: int) -> Array:
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise UsageError(f"{name} of type {type(value).__name__}; expected numbers, shape (T, {columns})") from None
    if array.ndim != 2 or array.shape[1] != columns or not len(array):
        raise UsageError(f"{name} have shape {array.shape}; this model needs (T, {columns}) with T > 0")
    if not np.isfinite(array).all():
        raise UsageError(f"{name} hold NaN or infinity; every value must be finite")
    return array


def _stereo(audio: Any, resampler: Resampler) -> Iterator[Array]:
    """Checked blocks (n, 2) at the model's rate of an array, or of an iterable of arrays."""
    frames = 0
    for block in audio if _is_stream(audio) else [audio]:
        samples = to_stereo(_samples(block))
        frames += len(samples)
        for i in range(0, len(samples), READ_FRAMES):
            yield resampler.push(samples[i : i + READ_FRAMES])
    if not frames:
        raise UsageError("audio holds no samples; give at least one")
    yield resampler.flush()


def _is_stream(audio: Any) -> bool:
    """Whether `audio` is several arrays, not one; a list of numbers is one."""
    if isinstance(audio, list | tuple):
        return bool(audio) and hasattr(audio[0], "shape")
    return isinstance(audio, Iterable) and not hasattr(audio, "__array__")


def _samples(value: Any) -> Array:
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind != "f":
        raise UsageError(f"audio of type {array.dtype}; give floating-point samples in [-1, 1] (int16 / 32768)")
    if array.ndim not in (1, 2) or (array.ndim == 2 and not array.shape[1]):
        raise UsageError(f"audio of shape {array.shape}; give (frames,) or (frames, channels)")
    if array.ndim == 2 and array.shape[1] > max(array.shape[0], MAX_CHANNELS):
        raise UsageError(f"audio of shape {array.shape} looks like (channels, frames); give (frames, channels)")
    if not np.isfinite(array).all():
        raise UsageError("audio holds NaN or infinity; every sample must be finite")
    if len(array) and (level := float(np.abs(array).max())) > MAX_LEVEL:
        raise UsageError(f"audio peaks at {level:g}; samples must be in [-1, 1], divide integers by their full scale")
    return array.astype(np.float32, copy=False)
