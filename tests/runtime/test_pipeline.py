"""The promise of the pipeline: how the work is cut up never changes a sample."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pytest
from everwave import coordinates, looping, pipeline, player, signal, weights
from everwave.config import CEILING_BINS, DECODER_LATENTS, PRESETS, REFINER_MARGIN
from everwave.controls import Kept, Piece
from everwave.model import Model
from everwave.ops.numpy_ops import NumpyNetwork
from everwave.pipeline import Pipeline, segments
from hypothesis import given, settings
from hypothesis import strategies as st

CONFIG = replace(PRESETS["tiny"], generator=replace(PRESETS["tiny"].generator, refiner=4))
WINDOW = 64 * CONFIG.signal.hop_length  # samples of one decoder window
LATENT = CONFIG.signal.latent_samples
CARRY = 3 * CONFIG.signal.hop_length
PIECE = 140 * LATENT + 1234  # longer than one generator window of 128 latents, and no multiple of anything


@pytest.fixture(scope="module")
def file() -> weights.ModelFile:
    return weights.random_model(CONFIG, seed=3)


@pytest.fixture(scope="module")
def model(file: weights.ModelFile) -> Model:
    return Model.from_parts(file, threads=2, backend="numpy")


def play(model: Model, start: int, stop: int, seed: int = 7, threads: int = 2) -> np.ndarray:
    """Samples start..stop of a piece, as users get them."""
    same = object.__new__(Model)
    same.__dict__.update(model.__dict__, threads=threads)
    with same.stream(seed, start=start / same.sample_rate, seconds=(stop - start) / same.sample_rate) as blocks:
        return np.concatenate(list(blocks))


@pytest.fixture(scope="module")
def piece(model: Model) -> np.ndarray:
    return play(model, 0, PIECE)


def generated(model: Model, seed: int, windows: int) -> np.ndarray:
    """Latents as they come from the generator; without conditions, which a refiner would get, too."""
    size, made = CONFIG.generator.window, []
    for i in range(windows):
        x = coordinates.coordinates(CONFIG, seed, i * size, size)[None]
        made.append(model.network("generator")(x, coordinates.layer_noise(seed, "generator", "both", i))[0][0].copy())
    return np.concatenate(made)


def test_the_slow_twin_gives_the_same_piece(model: Model, piece: np.ndarray) -> None:
    """One window after the other, then one inverse STFT of all frames of the piece."""
    size, half, seed = CONFIG.generator.window, CONFIG.autoencoder.latents, 7
    made = generated(model, seed, 3)
    (first,) = model.network("refiner")(made[None, : size + 2 * REFINER_MARGIN])
    (second,) = model.network("refiner")(made[None, size - REFINER_MARGIN : 2 * size + REFINER_MARGIN])
    latents = np.concatenate([first[0, :size], second[0, REFINER_MARGIN:][:size]])
    assert np.abs(latents - made[: 2 * size]).max() > 0.01
    for channel, name in enumerate(("left", "right")):
        frames = []
        for w in range(-(-(PIECE + CARRY) // WINDOW)):
            x = latents[w * DECODER_LATENTS :][None, :DECODER_LATENTS, channel * half :][:, :, :half]
            for network in ("chunk_decoder", "frame_decoder"):
                result = model.network(network)(x, coordinates.layer_noise(seed, network, name, w))
                x = result[0]
            frames.append(result)
        log_magnitude, phase = (np.concatenate([f[i][0] for f in frames]) for i in (0, 1))
        whole = np.clip(signal.istft(log_magnitude, phase, CONFIG.signal), -1, 1)
        np.testing.assert_allclose(piece[:, channel], whole[CARRY : CARRY + PIECE], atol=2e-5)


def test_a_refiner_sees_across_the_borders_of_windows(file: weights.ModelFile, model: Model) -> None:
    """Beside the whole piece refined at once: a window by itself is wrong where it ends, with what lies beyond it less so."""
    size = CONFIG.generator.window
    made, refiner = generated(model, 7, 4), NumpyNetwork("refiner", CONFIG, file.parameters["refiner"])
    (whole,) = refiner(made[None])
    run = Pipeline(CONFIG, model.network, 1)
    piece = Piece(run, 7)
    latents = piece.latents(piece.state({"truncation": 2.0, "style": None}), 0, 3 * size)(run.stages)
    alone = np.concatenate([refiner(made[None, i * size :][:, :size])[0][0] for i in range(3)])
    borders = np.concatenate([np.arange(b - 2, b + 2) for b in (size, 2 * size)])
    error = lambda x: np.sqrt(np.square(x[borders] - whole[0, borders]).mean())  # noqa: E731
    assert error(latents) < 0.2 * error(alone)


def test_what_is_generated_is_nowhere_louder_than_the_music_that_was_learned(
    file: weights.ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a stream and in a loop; what is decoded for somebody is as it is."""
    bands = -(-CONFIG.signal.bins // CEILING_BINS)
    ceiling = tuple(np.linspace(0.1, -0.7, bands).tolist())
    quiet = replace(CONFIG, generator=replace(CONFIG.generator, ceiling=ceiling))
    model = Model.from_parts(replace(file, config=quiet), threads=2, backend="numpy")
    free = Model.from_parts(file, threads=2, backend="numpy")
    limit = np.repeat(ceiling, CEILING_BINS)[: CONFIG.signal.bins]
    loudest: list[np.ndarray] = []

    def synthesize(log_magnitude: np.ndarray, *rest: Any) -> np.ndarray:
        loudest.append(log_magnitude.max(axis=(0, 1)))
        return signal.synthesize_numpy(log_magnitude, *rest)

    monkeypatch.setattr(pipeline.signal, "synthesize", synthesize)
    for make in (lambda: model.generate(1.0, 7), lambda: model.generate(1.0, 7, loop=True)):
        loudest.clear()
        make()
        over = np.max(loudest, axis=0) - limit
        assert over.max() <= 1e-6
        assert (over > -1e-6).mean() > 0.2  # and it has something to hold
    latents = np.random.default_rng(0).standard_normal((8, 2 * CONFIG.autoencoder.latents))
    np.testing.assert_array_equal(model.decode(latents), free.decode(latents))


def test_a_piece_is_stereo_and_not_silent(piece: np.ndarray) -> None:
    assert piece.shape == (PIECE, 2)
    assert piece.dtype == np.float32
    assert piece.std() > 1e-3
    assert not np.array_equal(piece[:, 0], piece[:, 1])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("largest", [1, 3, 16])
def test_threads_and_segments_change_nothing(
    model: Model, piece: np.ndarray, threads: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(player, "SEGMENT_WINDOWS", largest)
    np.testing.assert_array_equal(play(model, 0, PIECE, threads=threads), piece)


@settings(max_examples=25, deadline=None)
@given(start=st.integers(0, PIECE - 1), length=st.integers(1, 5 * WINDOW))
def test_any_part_is_the_slice_of_the_whole(model: Model, piece: np.ndarray, start: int, length: int) -> None:
    stop = min(start + length, PIECE)
    np.testing.assert_array_equal(play(model, start, stop), piece[start:stop])


@pytest.mark.parametrize(
    "start", [0, 1, WINDOW - CARRY, WINDOW - 1, WINDOW, WINDOW + 1, 128 * LATENT - 1, 128 * LATENT]
)
def test_the_edges_of_windows(model: Model, piece: np.ndarray, start: int) -> None:
    for length in (1, CARRY, WINDOW):
        np.testing.assert_array_equal(play(model, start, start + length), piece[start : start + length])


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), start=st.integers(0, 10**9))
def test_far_into_any_piece(model: Model, seed: int, start: int) -> None:
    whole = play(model, start, start + 3 * WINDOW, seed, threads=2)
    part = play(model, start + WINDOW + 5, start + 2 * WINDOW, seed, threads=1)
    np.testing.assert_array_equal(part, whole[WINDOW + 5 : 2 * WINDOW])
    assert np.abs(whole).max() <= 1


def test_seeds_differ(model: Model, piece: np.ndarray) -> None:
    assert not np.array_equal(play(model, 0, WINDOW, seed=8), piece[:WINDOW])


def test_the_engine_keeps_the_promise_too(file: weights.ModelFile) -> None:
    pytest.importorskip("numba")
    fast = Model.from_parts(file, backend="numba", precision="float32")
    whole = play(fast, 0, 5 * WINDOW, threads=3)
    np.testing.assert_array_equal(play(fast, 0, 5 * WINDOW, threads=1), whole)
    np.testing.assert_array_equal(play(fast, WINDOW + 99, 3 * WINDOW, threads=2), whole[WINDOW + 99 : 3 * WINDOW])


# -- segments and workers ------------------------------------------------------------------------------------------


@given(first=st.integers(0, 10**6), windows=st.integers(1, 500), threads=st.integers(1, 64))
def test_segments_cover_every_window_once(first: int, windows: int, threads: int) -> None:
    cut = list(segments(first, first + windows, threads))
    assert [i for f, n in cut for i in range(f, f + n)] == list(range(first, first + windows))
    assert cut[0] == (first, 1)  # early audio
    assert cut[-1][1] <= pipeline.LEAST_WINDOWS  # no worker waits long for the last
    assert max(n for _, n in cut) <= pipeline.SEGMENT_WINDOWS


def test_never_more_than_the_look_ahead_is_begun(model: Model) -> None:
    run, begun, lock = Pipeline(CONFIG, model.network, 3), [0], threading.Lock()

    def job(i: int) -> int:
        with lock:
            begun[0] += 1
        return i

    for done, result in enumerate(run._in_order(partial(job, i) for i in range(200))):
        assert result == done  # in order
        assert begun[0] <= done + 1 + 3 * pipeline.SEGMENTS_PER_WORKER


def test_an_error_in_a_worker_reaches_the_caller_and_stops_the_rest(model: Model) -> None:
    run, begun = Pipeline(CONFIG, model.network, 2), []

    def job(i: int) -> int:
        begun.append(i)
        if i == 3:
            raise ArithmeticError("boom")
        return i

    with pytest.raises(ArithmeticError, match="boom"):
        list(run._in_order(partial(job, i) for i in range(1000)))
    assert len(begun) < 50


def test_an_abandoned_stream_leaves_no_thread(model: Model) -> None:
    before = set(threading.enumerate())
    stream = model.stream(seed=1)
    next(stream)
    assert set(threading.enumerate()) > before
    stream.close()
    assert set(threading.enumerate()) == before
    stream = model.stream(seed=1)
    next(stream)
    del stream
    assert threads_become(before)


def threads_become(expected: set[threading.Thread]) -> bool:
    end = time.monotonic() + 20
    while set(threading.enumerate()) != expected and time.monotonic() < end:
        time.sleep(0.01)
    return set(threading.enumerate()) == expected


class Session:
    """Keeps itself, as parts of applications do, so that only the garbage collector frees it."""

    def __init__(self, blocks: Any) -> None:
        self.blocks, self.itself = blocks, self


@pytest.mark.parametrize("kind", ["stream", "loop", "decode", "encode"])
def test_the_garbage_collector_waits_for_no_worker(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """It runs in any thread, in the middle of anything: in one, here, that holds what a worker waits for."""
    before, calls, waiting, held = set(threading.enumerate()), count(), threading.Event(), threading.Event()
    for name in ("render", "_analyse"):
        monkeypatch.setattr(Pipeline, name, _waiting(getattr(Pipeline, name), calls, waiting, held))
    monkeypatch.setattr(looping, "MAX_EXACT_SECONDS", 0)  # so that a loop comes in blocks
    one = Model.from_parts(weights.random_model(PRESETS["tiny"]), threads=1)
    begin: dict[str, Callable[[], Any]] = {
        "stream": lambda: one.stream(seed=1),
        "loop": lambda: one.loop(40.0, seed=1),
        "decode": lambda: one.decode_blocks(np.zeros((400, 2 * CONFIG.autoencoder.latents), np.float32)),
        "encode": lambda: one.encode_blocks(np.zeros((44100 * 60, 2), np.float32), 44100),
    }
    session = Session(begin[kind]())
    next(session.blocks)
    assert waiting.wait(20)
    begun = time.monotonic()
    del session
    gc.collect()
    assert time.monotonic() - begun < 10
    assert set(threading.enumerate()) > before
    held.set()
    assert threads_become(before)


def _waiting(
    work: Callable[..., Any], calls: Iterator[int], waiting: threading.Event, held: threading.Event
) -> Callable[..., Any]:
    """`work`, which waits from its third call on until it is let go."""

    def job(*arguments: Any) -> Any:
        if next(calls) > 1:
            waiting.set()
            held.wait(30)
        return work(*arguments)

    return job


def test_blas_threads_are_as_they_were_after_overlapping_runs(model: Model) -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="optional: keeps BLAS from starting threads of its own")

    def blas() -> list[int]:
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

    before = blas()
    first, second = model.stream(seed=1), model.stream(seed=2)
    next(first), next(second)
    assert set(blas()) == {1}
    first.close()
    assert set(blas()) == {1}
    second.close()
    assert blas() == before


def test_kept_results_are_made_once() -> None:
    kept, made = Kept(4), []
    barrier = threading.Barrier(4)

    def make() -> np.ndarray:
        made.append(1)
        time.sleep(0.02)  # long enough for the others to ask
        return np.ones(1)

    def ask() -> None:
        barrier.wait()
        kept.get("key", make)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


# -- decode and encode -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 17])
def test_decode_gives_every_row_its_samples(model: Model, rows: int) -> None:
    latents = np.random.default_rng(rows).uniform(-1, 1, (rows, 32)).astype(np.float32)
    audio = model.decode(latents)
    assert audio.shape == (rows * LATENT, 2)
    if rows > 4:  # windows are independent, so the first one does not know what follows
        np.testing.assert_array_equal(model.decode(latents[:4])[: WINDOW - CARRY], audio[: WINDOW - CARRY])


def test_decoding_generated_latents_is_generating(model: Model, piece: np.ndarray) -> None:
    latents = model.latents(coordinates.coordinates(CONFIG, 7, 0, 256), seed=7)
    audio = model.decode(latents[:128], seed=7)  # the last window was not shown what comes after it
    complete = len(audio) - CARRY  # the frames after the last latent are missing
    np.testing.assert_array_equal(audio[:complete], piece[:complete])


@settings(max_examples=20, deadline=None)
@given(frames=st.integers(1, 9 * WINDOW), cuts=st.lists(st.integers(0, 9 * WINDOW), max_size=8))
def test_encode_of_a_stream_is_encode_of_the_whole(model: Model, frames: int, cuts: list[int]) -> None:
    audio = np.random.default_rng(frames).uniform(-1, 1, (frames, 2)).astype(np.float32)
    whole = model.encode(audio, model.sample_rate)
    assert whole.shape == (-(-(frames + CARRY) // LATENT), 32)
    blocks = np.split(audio, sorted(min(c, frames) for c in cuts))
    np.testing.assert_array_equal(model.encode(iter(blocks), model.sample_rate), whole)


@pytest.mark.parametrize(
    "frames", [LATENT - CARRY, 4 * LATENT - CARRY, 4 * LATENT, 16 * LATENT - CARRY + 1, 16 * LATENT]
)
def test_the_last_sample_is_heard(model: Model, frames: int) -> None:
    silence = np.zeros((frames, 2), np.float32)
    click = silence.copy()
    click[-1] = 1
    difference = model.encode(click, model.sample_rate) - model.encode(silence, model.sample_rate)
    assert np.abs(difference[-2:]).max() > 0


def test_encode_is_the_networks_on_the_padded_stft(model: Model) -> None:
    frames = 5 * LATENT + 77
    audio = np.random.default_rng(0).uniform(-1, 1, (frames, 2)).astype(np.float32)
    rows = -(-(frames + CARRY) // LATENT)
    latents = model.encode(audio, model.sample_rate)
    for channel in (0, 1):
        padded = np.concatenate([np.zeros(CARRY), audio[:, channel], np.zeros(rows * LATENT - frames)]).astype(
            np.float32
        )
        x = signal.log_magnitude(signal.stft(padded, CONFIG.signal))
        (codes,) = model.network("frame_encoder")(x[None])
        (expected,) = model.network("chunk_encoder")(codes.reshape(rows, 16, -1))
        np.testing.assert_allclose(latents[:, channel * 16 :][:, :16], expected[:, 0], atol=1e-5)


def test_left_and_right_do_not_mix(model: Model) -> None:
    audio = np.random.default_rng(0).uniform(-1, 1, (3 * WINDOW, 2)).astype(np.float32)
    latents, swapped = (model.encode(a, model.sample_rate) for a in (audio, audio[:, ::-1]))
    np.testing.assert_array_equal(latents, np.roll(swapped, 16, axis=1))
