"""Loops: whole latents or bars, every overlap wrapped, and a seam that is like the rest of the piece."""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace
from itertools import pairwise
from typing import Any

import everwave
import numpy as np
import pytest
from everwave import looping, weights
from everwave.config import PRESETS, REFINER_MARGIN, Condition
from everwave.controls import LOOP_FADE_LATENTS, Piece
from everwave.model import Model
from everwave.pipeline import Pipeline, clipped
from everwave.resampling import resample_circle

TINY = PRESETS["tiny"]
BPM = Condition("bpm", "beats per minute", mean=140.0, scale=10.0, low=60.0, high=240.0, clocks=(1, 4))
LATENT, RATE = TINY.signal.latent_samples, TINY.signal.sample_rate
HOP = TINY.signal.hop_length


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.from_parts(weights.random_model(TINY, seed=1), threads=2, backend="numpy")


@pytest.fixture(scope="module")
def steered() -> Model:
    config = replace(TINY, generator=replace(TINY.generator, conditions=(BPM,)))
    return Model.from_parts(weights.random_model(config, seed=1), threads=2, backend="numpy")


@pytest.mark.parametrize(("seconds", "latents"), [(0.116, 5), (1.0, 43), (2.97, 128), (4.0, 172)])
def test_a_loop_is_as_long_as_was_asked_for(model: Model, seconds: float, latents: int) -> None:
    assert model.loop(seconds, seed=3).latents == latents
    loop = model.generate(seconds, seed=3, loop=True)
    assert loop.shape == (round(seconds * RATE), 2)
    assert loop.dtype == np.float32
    assert 0 < np.abs(loop).max() <= 1


@pytest.mark.parametrize(("seconds", "bpm", "bars"), [(4.0, 120, 2), (0.1, 120, 1), (7.0, 131.3, 4)])
def test_with_a_tempo_a_loop_is_whole_bars(steered: Model, seconds: float, bpm: float, bars: int) -> None:
    loop = steered.loop(seconds, seed=3, bpm=bpm)
    assert loop.bars == bars
    assert loop.latents == round(bars * 240 / bpm * TINY.signal.latent_rate)
    assert loop.frames == round(bars * 240 / bpm * RATE)
    assert loop.bpm == pytest.approx(bpm, rel=0.5 / loop.frames)
    assert sum(map(len, loop)) == loop.frames


@pytest.mark.parametrize(("bars", "bpm"), [(1, 120), (4, 131.3), (3, None)])
def test_a_loop_of_bars(steered: Model, bars: int, bpm: float | None) -> None:
    controls = {} if bpm is None else {"bpm": bpm}
    loop = steered.loop(bars=bars, seed=3, **controls)
    assert loop.bars == bars
    assert loop.bpm == pytest.approx(bpm or _drawn_tempo(steered), rel=1e-4)
    assert loop.seconds == pytest.approx(bars * 240 / loop.bpm)
    samples = steered.generate(bars=bars, seed=3, **controls)
    np.testing.assert_array_equal(samples, np.concatenate(list(loop)))
    np.testing.assert_array_equal(samples, steered.generate(loop.seconds, seed=3, loop=True, **controls))


def _drawn_tempo(model: Model) -> float:
    return float(model.loop(seconds=4.0, seed=3).bpm or 0)


def test_bars_need_a_tempo_that_stays(model: Model, steered: Model) -> None:
    refused: list[tuple[Model, dict[str, Any], str]] = [
        (model, {"bars": 4}, "bars=4 without a tempo that stays the same; ask for seconds"),
        (steered, {"bars": 4, "bpm": [(0, 120), (4, 140)]}, "ask for seconds"),
        (steered, {"bars": 0}, "bars=0; it must be between 1 and"),
        (steered, {"bars": 10**7, "bpm": 120}, "bars=10000000; it must be between 1 and 1.296e"),
        (steered, {"bars": 1.5}, "bars=1.5; expected a whole number"),
        (steered, {"bars": "four"}, "bars=four; expected a number"),
        (steered, {"bars": 4, "seconds": 8.0}, "seconds=8.0 and bars=4; give one of them"),
    ]
    for who, wish, message in refused:
        for ask in (who.loop, who.generate):
            with pytest.raises(everwave.UsageError, match=message):
                ask(**wish)
    with pytest.raises(everwave.UsageError, match="seconds=None and bars=None"):
        model.loop()
    with pytest.raises(everwave.UsageError, match="seconds=None"):
        model.generate()
    with pytest.raises(everwave.UsageError, match=r"start=3\.0 with loop"):
        steered.generate(bars=1, start=3.0)
    with pytest.raises(everwave.UsageError, match="take blocks of a `loop`"):
        steered.generate(bars=20000, bpm=120)


def test_a_loop_is_brought_to_its_tempo_around_its_circle(steered: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    loop = steered.generate(4.0, seed=3, bpm=131, loop=True, progress=lambda *now: calls.append(now))
    assert calls[-1] == (len(loop), len(loop))
    monkeypatch.setattr(looping, "MAX_EXACT_SECONDS", 1)
    source = steered.loop(4.0, seed=3, bpm=131)
    assert source.bpm == pytest.approx(131, rel=0.5 / source.latents)
    made = np.concatenate(list(source))
    assert len(made) == source.frames == source.latents * LATENT != len(loop)
    np.testing.assert_array_equal(loop, clipped(resample_circle(made, len(loop))))


def test_a_loop_is_a_latent_at_least(model: Model) -> None:
    assert model.generate(0.001, seed=3, loop=True).shape == (LATENT, 2)


def test_a_tempo_that_is_drawn_gives_bars_and_a_curve_seconds(steered: Model) -> None:
    assert steered.loop(4.0, seed=3).bars
    assert steered.loop(4.0, seed=3, bpm=[(0, 120), (4, 140)]).bars is None
    assert steered.loop(4.0, seed=3, bpm=[(0, 120), (4, 120)]).bars == 2
    assert steered.loop(4.0, seed=3, bpm=[120.0]).bars == 2


@pytest.mark.parametrize("exact", [True, False])
def test_nothing_comes_of_a_loop_that_was_closed(model: Model, monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    if not exact:
        monkeypatch.setattr(looping, "MAX_EXACT_SECONDS", 0)
    closed = model.loop(4.0, seed=3)
    closed.close()
    assert list(closed) == []
    loops: list[looping.Loop] = []
    loops.append(model.loop(60.0, seed=3, progress=lambda done, total: loops[0].close()))
    assert sum(map(len, loops[0])) < (1 if exact else loops[0].frames / 2)
    loop = model.loop(60.0, seed=3)
    reader = threading.Thread(target=lambda: list(loop), daemon=True)
    reader.start()
    loop.close()  # whatever the other one is about
    reader.join(timeout=20)
    assert not reader.is_alive()
    assert list(loop) == []


@pytest.mark.parametrize("latents", [1, 3, 43, 130])
def test_frames_wrap_around(model: Model, latents: int) -> None:
    """As if the same latents were decoded twice in a row, each time by the same windows."""
    run = Pipeline(TINY, model.network, 1)
    piece = Piece(run, 3, period=latents)
    state = piece.state({"truncation": 2.0, "style": None})
    last = -(-latents // 4) - 1
    frames = (latents - 4 * last) * 16
    once = np.zeros((latents * LATENT + 3 * HOP, 2))
    for i in range(last + 1):
        part = run.render(piece.looped(state, 4 * i, 4), 3, i, 1, frames if i == last else 64)
        once[4 * i * LATENT :][: len(part)] += part
    once[: 3 * HOP] += once[latents * LATENT :]
    loop = model.generate(latents * LATENT / RATE, seed=3, loop=True)
    np.testing.assert_allclose(loop, np.clip(once[: latents * LATENT], -1, 1), atol=1e-6)


def test_the_end_of_the_last_window_becomes_the_beginning(model: Model) -> None:
    run = Pipeline(TINY, model.network, 1)
    piece = Piece(run, 3, period=200)
    state = piece.state({"truncation": 2.0, "style": None})
    latents = piece.looped(state, 0, 400)(run.stages)
    np.testing.assert_array_equal(latents[:200], latents[200:])
    whole = piece.latents(state, 0, 256)(run.stages)
    np.testing.assert_array_equal(latents[LOOP_FADE_LATENTS:200], whole[LOOP_FADE_LATENTS:200])
    seam = np.abs(latents[200] - latents[199]).mean()
    inside = [np.abs(b - a).mean() for a, b in pairwise(whole[130:200])]
    assert seam < 2 * np.median(inside)


def test_windows_on_a_circle_are_refined_with_their_neighbours() -> None:
    """A loop of two whole windows: what comes before the first is the last."""
    config = replace(TINY, generator=replace(TINY.generator, refiner=4))
    model = Model.from_parts(weights.random_model(config, seed=1), backend="numpy")
    run, size = Pipeline(config, model.network, 1), TINY.generator.window
    piece = Piece(run, 3, period=2 * size)
    state = piece.state({"truncation": 2.0, "style": None})
    made = np.concatenate([run.generate_window(piece.coordinates(state, i * size, size), 3, i) for i in range(2)])
    for first in (0, size):
        rows = np.arange(first - REFINER_MARGIN, first + size + REFINER_MARGIN) % (2 * size)
        (refined,) = model.network("refiner")(made[None, rows])
        expected = refined[0, REFINER_MARGIN : REFINER_MARGIN + size]
        np.testing.assert_array_equal(piece.looped(state, first, size)(run.stages), expected)


def test_threads_change_no_sample(model: Model) -> None:
    one = Model.from_parts(weights.random_model(TINY, seed=1), threads=1, backend="numpy")
    np.testing.assert_array_equal(one.generate(5.0, seed=3, loop=True), model.generate(5.0, seed=3, loop=True))


def test_progress_cancel_and_bad_use(model: Model, steered: Model) -> None:
    calls: list[tuple[int, int]] = []
    model.generate(1.0, loop=True, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (RATE, RATE)
    with pytest.raises(TypeError, match="from its seed"):
        pickle.dumps(model.loop(1.0))
    with pytest.raises(everwave.Cancelled):
        model.generate(1.0, loop=True, cancel=lambda: True)
    answers = iter([False, True])
    with pytest.raises(everwave.Cancelled, match=r"after \d+ of"):
        steered.generate(60.0, loop=True, bpm=131, cancel=lambda: next(answers))
    with pytest.raises(everwave.UsageError, match="start="):
        model.generate(1.0, loop=True, start=3.0)
    with pytest.raises(everwave.UsageError, match="seconds="):
        model.generate(-1.0, loop=True)
