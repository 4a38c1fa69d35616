"""Coordinates -> latents -> frames -> audio, and back from audio to latents: in parallel, in order, in bounded memory.

Windows of every network lie at absolute positions, and a window's result does not depend on what it is batched with.
So the cut into segments, the number of threads and the sample at which a piece starts never change a sample.

Samples of a piece are counted from 0; sample n is sample n + 3 hops of the overlap-add, so four frames cover it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np

from . import coordinates, signal
from .checks import Rows
from .config import CEILING_BINS, DECODER_FRAMES, DECODER_LATENTS, FRAMES_PER_LATENT, OVERLAP, REFINER_MARGIN, Config
from .ops import Network

Array = np.ndarray
Result = TypeVar("Result")
Latents = Callable[["Stages"], Array]  # worked out by a worker: (count, 2 * latents)
Source = Callable[[int, int], Latents]  # (first, count) -> what a worker will call; itself called in order

CHANNELS = ("left", "right")
SEGMENT_WINDOWS = 12  # decoder windows in a segment, 4.5 s of 44.1 kHz audio; two channels fill tiles of 6 and 8 rows
LEAST_WINDOWS = 4  # in a segment at the end of a piece: a window by itself takes twice as long as one of twelve
SEGMENTS_PER_WORKER = 3  # finished or waiting, at most: what bounds memory


class Stages:
    """CPU seconds that workers spent in each stage, summed over threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begin = time.thread_time()
        try:
            yield
        finally:
            spent = time.thread_time() - begin
            with self._lock:
                self.seconds[name] = self.seconds.get(name, 0.0) + spent


class Pipeline:
    """The networks of one model joined up; holds no state but `stages`, so make one per run.

    `networks` gives a network by its name; `threads` workers run segments, each on one core. `uses_blas`: the
    networks are NumPy's, whose BLAS would start threads of its own. `workers`: threads shared with other runs, instead
    of threads of its own.
    """

    def __init__(self, config: Config, networks: Callable[[str], Network], threads: int, uses_blas: bool = False,
                 workers: Executor | None = None) -> None:  # fmt: skip
        self.config = config
        self.networks = networks
        self.threads = threads
        self.uses_blas = uses_blas
        self.workers = workers
        self.stages = Stages()
        ceiling = np.repeat(np.array(config.generator.ceiling, np.float32), CEILING_BINS)
        self.ceiling = ceiling[: config.signal.bins] if len(ceiling) else None
        self.window_samples = DECODER_FRAMES * config.signal.hop_length
        self.carry = (OVERLAP - 1) * config.signal.hop_length

    # -- latents ---------------------------------------------------------------------------------------------------

    def latents(self, x: Array, seed: int) -> Array:
        """Coordinates (T, coordinates) of latents 0... -> latents (T, 2 * latents), as if the last row were repeated for ever."""
        g = self.config.generator
        size, windows = g.window, -(-len(x) // g.window)
        made = windows + 1 if g.refiner else windows  # what comes after the last one is seen, too
        padded = x[np.minimum(np.arange(made * size), len(x) - 1)]
        jobs = (partial(self.generate_window, padded[i * size :][:size], seed, i) for i in range(made))
        latents = np.concatenate(list(self._in_order(jobs)))
        if g.refiner:
            rows = np.concatenate([latents, padded[:, g.anchor + g.style :]], axis=1)
            seen = (refiner_rows(size, i) for i in range(windows))
            jobs = (partial(self.refine_window, rows[r.start : r.stop], i * size - r.start) for i, r in enumerate(seen))
            latents = np.concatenate(list(self._in_order(jobs)))
        return latents[: len(x)]

    def generate_window(self, x: Array, seed: int, index: int) -> Array:
        """One window of coordinates (window, coordinates) -> its latents (window, 2 * latents), not refined yet.

        By itself, as the dense stem is a product whose rounding could depend on the batch.
        """
        noise = coordinates.layer_noise(seed, "generator", "both", index)
        (latents,) = self.networks("generator")(np.ascontiguousarray(x[None], np.float32), noise)
        return latents[0].copy()

    def refine_window(self, rows: Array, at: int) -> Array:
        """Latents beside conditions (window + 2 margins, 2 * latents + n) -> the refined latents (window, 2 * latents) from row `at` on."""
        (latents,) = self.networks("refiner")(np.ascontiguousarray(rows[None], np.float32))
        return latents[0, at : at + self.config.generator.window].copy()

    # -- latents to audio --------------------------------------------------------------------------------------------

    def decode(self, latents: Array | Rows, seed: int) -> Iterator[Array]:
        """Latents (T, 2 * latents) -> blocks (n, 2) of all T * latent_samples samples; a part window repeats the last row."""

        def source(first: int, count: int) -> Latents:
            rows = latents[first : first + count]  # read here, in order; workers may not read at the same time
            return lambda stages: rows[np.minimum(np.arange(count), len(rows) - 1)]

        sizes = segments(0, -(-len(latents) // DECODER_LATENTS), self.threads)
        jobs = (partial(self.render, source(i * DECODER_LATENTS, n * DECODER_LATENTS), seed, i, n) for i, n in sizes)
        overlap = signal.OverlapAdd(self.config.signal, len(CHANNELS))
        before, left = self.carry, len(latents) * self.config.signal.latent_samples  # of the piece, and still to come
        for block in self._in_order(jobs):
            with self.stages("overlap_add"):
                samples = clipped(overlap.push(block)[before : before + left])
            before, left = 0, left - len(samples)
            yield samples
        if left:
            yield clipped(overlap.flush()[:left])

    def loop(self, source: Source, seed: int, latents: int) -> Iterator[Array]:
        """All latents * latent_samples samples of a loop as blocks (n, 2): its last frames overlap with its first.

        Its last window stands for less than four latents where their number is not a multiple of four.
        """
        last = -(-latents // DECODER_LATENTS) - 1
        frames = (latents - last * DECODER_LATENTS) * FRAMES_PER_LATENT
        with self.pool() as pool:
            end = pool.submit(
                self.perform, source(last * DECODER_LATENTS, DECODER_LATENTS), seed, last, 1, frames
            ).result()
        sizes = segments(0, last, self.threads)
        jobs = (partial(self.perform, source(i * DECODER_LATENTS, n * DECODER_LATENTS), seed, i, n) for i, n in sizes)
        overlap = signal.OverlapAdd(self.config.signal, len(CHANNELS))
        overlap.push(end.copy())  # what is left of it lies over the beginning
        for block in self._in_order(jobs):
            yield clipped(overlap.push(block))
        yield clipped(overlap.push(end))

    def perform(self, latents_of: Latents, seed: int, first: int, count: int, frames: int = DECODER_FRAMES) -> Array:
        """`render` of what the generator makes: no louder, at any frequency, than the music that it has learned.

        Now and then its latents are such as no music has, and decoders make bursts of those, up to 25 dB too loud.
        """
        return self.render(latents_of, seed, first, count, frames, self.ceiling)

    def render(self, latents_of: Latents, seed: int, first: int, count: int, frames: int = DECODER_FRAMES,
               ceiling: Array | None = None) -> Array:  # fmt: skip
        """Decoder windows first... of both channels -> (count * window_samples + 3 hops, 2), not yet overlapped.

        `frames`: how many of the first window's frames are wanted, if that is the only one. `ceiling`: the largest
        log-magnitude (bins,) that is heard.
        """
        size, half = self.config.autoencoder.latents, count
        latents = latents_of(self.stages).reshape(count, DECODER_LATENTS, len(CHANNELS), size)
        x = np.ascontiguousarray(latents.transpose(2, 0, 1, 3).reshape(-1, DECODER_LATENTS, size), np.float32)
        with self.stages("chunk_decoder"):
            (codes,) = self.networks("chunk_decoder")(x, _stereo_noise(seed, "chunk_decoder", first))
        with self.stages("frame_decoder"):
            log_magnitude, phase = self.networks("frame_decoder")(codes, _stereo_noise(seed, "frame_decoder", first))
        with self.stages("signal"):
            if ceiling is not None:
                np.minimum(log_magnitude, ceiling, out=log_magnitude)
            length = count * frames * self.config.signal.hop_length + self.carry
            block = np.empty((length, len(CHANNELS)), np.float32)
            for channel, rows in enumerate((slice(half), slice(half, None))):
                block[:, channel] = signal.synthesize(
                    log_magnitude[rows, :frames], phase[rows, :frames], self.config.signal
                )
        return block

    # -- audio to latents --------------------------------------------------------------------------------------------

    def encode(self, blocks: Iterable[Array]) -> Iterator[Array]:
        """Blocks (n, 2) of samples -> blocks (k, 2 * latents); in all ceil((samples + 3 hops) / latent_samples) rows."""
        jobs = (partial(self._analyse, samples, rows) for samples, rows in self._encoder_segments(blocks))
        yield from self._in_order(jobs)

    def _encoder_segments(self, blocks: Iterable[Array]) -> Iterator[tuple[Array, int]]:
        """(samples (n windows + 3 hops, 2), latents wanted); three hops of silence come first, the tail is filled up."""
        largest = SEGMENT_WINDOWS * self.window_samples
        held: list[Array] = [np.zeros((self.carry, len(CHANNELS)), np.float32)]
        length = self.carry
        for block in blocks:
            held.append(np.asarray(block, np.float32))
            length += len(block)
            if length >= largest + self.carry:
                joined, at = np.concatenate(held), 0
                while length - at >= largest + self.carry:
                    yield joined[at : at + largest + self.carry], SEGMENT_WINDOWS * DECODER_LATENTS
                    at += largest
                held, length = [joined[at:].copy()], length - at
        rows = -(-length // self.config.signal.latent_samples)
        windows = -(-rows // DECODER_LATENTS)
        held.append(np.zeros((windows * self.window_samples + self.carry - length, len(CHANNELS)), np.float32))
        yield np.concatenate(held), rows

    def _analyse(self, samples: Array, rows: int) -> Array:
        """Samples (n windows + 3 hops, 2) -> the first `rows` of their latents (n * 4, 2 * latents)."""
        config = self.config
        count = (len(samples) - self.carry) // self.window_samples
        with self.stages("signal"):
            x = np.empty((len(CHANNELS), count, DECODER_FRAMES, config.signal.bins), np.float32)
            for channel in range(len(CHANNELS)):
                for i in range(count):  # a window at a time: the same bits wherever a segment begins
                    part = samples[i * self.window_samples :][: self.window_samples + self.carry, channel]
                    x[channel, i] = signal.analyse(part, config.signal)
        with self.stages("frame_encoder"):
            (frames,) = self.networks("frame_encoder")(x.reshape(-1, *x.shape[2:]))
        with self.stages("chunk_encoder"):
            chunks = frames.reshape(-1, FRAMES_PER_LATENT, config.autoencoder.frame_latents)
            (latents,) = self.networks("chunk_encoder")(chunks)
        stereo = latents.reshape(len(CHANNELS), count * DECODER_LATENTS, -1)
        return np.concatenate(stereo, axis=1)[:rows]

    # -- workers -----------------------------------------------------------------------------------------------------

    @contextmanager
    def pool(self) -> Iterator[Executor]:
        """Where jobs run: the shared workers, else `threads` of its own; the `with` ends when they have, unless it is forgotten."""
        with OneBlasThread() if self.uses_blas else nullcontext():
            if self.workers:
                yield self.workers
            else:
                own, forgotten = ThreadPoolExecutor(self.threads, thread_name_prefix="everwave"), False
                try:
                    yield own
                except GeneratorExit:  # in any thread, in the middle of anything: whoever waited might wait for itself
                    forgotten = True
                    raise
                finally:
                    own.shutdown(wait=not forgotten, cancel_futures=forgotten)

    def _in_order(self, jobs: Iterable[Callable[[], Result]]) -> Iterator[Result]:
        """Results of `jobs` in order; a bounded number of them is begun beyond the one that is waited for."""
        pending: deque[Future[Result]] = deque()
        with self.pool() as pool:
            try:
                for job in jobs:
                    pending.append(pool.submit(job))
                    if len(pending) > SEGMENTS_PER_WORKER * self.threads:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:  # an error, Ctrl-C or a reader that has had enough: begin nothing more
                for future in pending:
                    future.cancel()


def refiner_rows(size: int, index: int, around: bool = False) -> range:
    """The latents that the refiner sees for window `index` of `size`: a margin before and after it.

    Nothing comes before the first, unless windows lie `around` a circle.
    """
    first = index * size - REFINER_MARGIN
    first = first if around else max(first, 0)
    return range(first, first + size + 2 * REFINER_MARGIN)


def segments(first: int, end: int, threads: int) -> Iterator[tuple[int, int]]:
    """(first window, windows) of each segment: small at first, for early audio."""
    size = 1
    while first < end:
        count = segment_size(size, end - first, threads)
        yield first, count
        first, size = first + count, min(2 * size, SEGMENT_WINDOWS)


def segment_size(wanted: int, left: int, threads: int) -> int:
    """Windows of the next segment of `left`: as `wanted`, fewer at last so that no worker idles for long."""
    return min(wanted, left, max(LEAST_WINDOWS, -(-left // (2 * threads))))


class OneBlasThread:
    """While any run with NumPy's networks goes on, BLAS starts no threads inside workers, if threadpoolctl is there.

    The command line also sets OPENBLAS_NUM_THREADS and the like before NumPy loads. The setting is the process's, so
    the first run makes it and the last one puts back what was there.
    """

    _lock = threading.Lock()
    _runs = 0
    _limits: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if OneBlasThread._runs == 0:
                with suppress(ImportError):
                    from threadpoolctl import threadpool_limits

                    OneBlasThread._limits = threadpool_limits(1, "blas")
            OneBlasThread._runs += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            OneBlasThread._runs -= 1
            if OneBlasThread._runs == 0 and OneBlasThread._limits is not None:
                OneBlasThread._limits.restore_original_limits()
                OneBlasThread._limits = None


def _stereo_noise(seed: int, network: str, first: int) -> Callable[[str, int, int], Array]:
    """Noise of a batch of left windows first... followed by the right windows of the same positions."""
    sides = [coordinates.layer_noise(seed, network, channel, first) for channel in CHANNELS]

    def noise(layer: str, batch: int, steps: int) -> Array:
        return np.concatenate([side(layer, batch // len(sides), steps) for side in sides])

    return noise


def clipped(samples: Array) -> Array:
    """`samples` themselves, held within +-1."""
    return np.clip(samples, -1, 1, out=samples)
