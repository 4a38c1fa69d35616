"""Controls that change as a stream plays: when they are heard, that they do not click, that a log repeats them exactly."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

import everwave
import numpy as np
import pytest
from everwave import weights
from everwave.config import PRESETS, Condition
from everwave.controls import FADE_LATENTS, Envelope
from everwave.model import Model
from everwave.player import ECHO_HOPS, KEPT_SECONDS, LIVE_WINDOWS
from hypothesis import given, settings
from hypothesis import strategies as st

TINY = PRESETS["tiny"]
BPM = Condition("bpm", "beats per minute", mean=140.0, scale=10.0, low=120.0, high=160.0, clocks=(1, 4))
DENSITY = Condition("density", "notes per second", mean=5.0, scale=3.0, low=0.0, high=20.0)
CONFIG = replace(TINY, generator=replace(TINY.generator, conditions=(BPM, DENSITY)))
RATE = CONFIG.signal.sample_rate
WINDOW = 64 * CONFIG.signal.hop_length  # samples of a decoder window, 93 ms
GENERATOR_WINDOW = CONFIG.generator.window * CONFIG.signal.latent_samples
LATE = round(KEPT_SECONDS * RATE) + (LIVE_WINDOWS + 1) * WINDOW  # the latest that a change is heard


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.from_parts(weights.random_model(CONFIG, seed=1), threads=2, backend="numpy")


def pull(stream: everwave.Stream, frames: int) -> np.ndarray:
    blocks = [next(stream)]
    while sum(map(len, blocks)) < frames:
        blocks.append(next(stream))
    return np.concatenate(blocks)


# -- what a change does ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"density": 9}, {"truncation": 0.5}, {"style": 99}, {"style": [0.5] * 16}])
def test_a_change_is_heard_soon_and_then_wholly(model: Model, change: dict[str, Any]) -> None:
    before = model.generate(12.0, seed=1, bpm=125)
    after = model.generate(12.0, seed=1, **{"bpm": 125, **change})
    with model.stream(seed=1, bpm=125) as stream:
        start = pull(stream, RATE)
        stream.set(**change)
        audio = np.concatenate([start, pull(stream, 10 * RATE)])
    changed = np.flatnonzero((audio != before[: len(audio)]).any(axis=1))[0]
    assert len(start) <= changed <= len(start) + LATE
    whole = changed + FADE_LATENTS * CONFIG.signal.latent_samples + WINDOW
    np.testing.assert_array_equal(audio[whole:], after[whole : len(audio)])


def test_a_glide_is_slow_and_ends_at_its_aim(model: Model) -> None:
    before, after = model.generate(20.0, seed=1), model.generate(20.0, seed=1, style=99)
    with model.stream(seed=1) as stream:
        pull(stream, RATE)
        stream.set(style=99, glide=6.0)
        (change,) = stream.log["changes"]
    audio = np.concatenate(list(model.replay(stream.log | {"frames": 20 * RATE})))
    at = change["at"]
    far = [np.abs(audio[i : i + RATE] - before[i : i + RATE]).mean() for i in range(at, at + 6 * RATE, RATE)]
    assert far[0] < 0.3 * far[-1]
    end = at + 6 * RATE + GENERATOR_WINDOW  # the window in which it arrives knows where it came from
    np.testing.assert_array_equal(audio[end:], after[end:])


def test_the_beat_goes_on_across_changes(model: Model) -> None:
    with model.stream(seed=1, bpm=120, ahead=0) as stream:
        pull(stream, RATE)
        stream.bpm = 150
        pull(stream, 2 * RATE)
        stream.set(bpm=125, glide=2.0)
        pull(stream, RATE)
        state = stream._player.cursor.state
    n = np.arange(400)
    (tempo, _), beats = state.conditions.values(n), state.conditions.beats(0, n)
    per_latent = np.diff(beats) * 60 * CONFIG.signal.latent_rate
    later = n[1:] > state.first  # windows are made as if 150 had always been there
    assert per_latent[later] == pytest.approx((tempo[1:] + tempo[:-1])[later] / 2, rel=1e-9)
    assert tempo[0] == pytest.approx(150)
    assert tempo[-1] == pytest.approx(125)
    assert np.ptp(np.diff(tempo)) > 0


def test_a_change_leaves_the_glides_of_others_alone(model: Model) -> None:
    with model.stream(seed=1, bpm=120, ahead=0) as stream:
        pull(stream, RATE)
        stream.set(bpm=160, style=99, glide=20.0)
        pull(stream, RATE)
        before = stream._player.cursor.state
        stream.density = 9
        pull(stream, RATE)
        stream.set(bpm=130, glide=1.0)
        pull(stream, RATE)
        after = stream._player.cursor.state
    n = np.arange(before.first, before.first + 900)
    assert np.ptp(before.conditions.values(n)[0]) == pytest.approx(40, rel=0.01)
    np.testing.assert_array_equal(after.style.share(n), before.style.share(n))
    assert after.style.before is before.style.before
    tempo, notes = after.conditions.values(n[n > after.first])
    assert before.conditions.values(np.array([after.first]))[0] == pytest.approx(tempo[0], abs=2)
    assert (tempo[-1], notes[0]) == (130, 9)


def test_a_truncation_takes_a_drawn_style_with_it(model: Model) -> None:
    """It is drawn from the seed within the truncation; on its way to another one, it keeps its time."""
    with model.stream(seed=1, ahead=0) as stream:
        pull(stream, RATE)
        stream.set(style=99, glide=5.0)
        pull(stream, RATE)
        glide = stream._player.cursor.state.style
        stream.truncation = 0.5
        pull(stream, RATE)
        style = stream._player.cursor.state.style
    np.testing.assert_allclose(style.before, glide.at(style.first), atol=1e-6)
    assert style.first + style.length == pytest.approx(glide.first + glide.length)
    assert np.abs(style.after).max() <= 0.5 < np.abs(glide.after).max()


def test_of_changes_together_each_keeps_its_own_glide(model: Model) -> None:
    with model.stream(seed=1) as stream:
        pull(stream, RATE)
        stream.set(bpm=160, density=2, glide=10.0)
        stream.set(truncation=1.0)
        stream.set(density=9, gain=0.1)
        stream.set(style=4, glide=10.0)
        stream.gain = 0.5
        changes = stream.log["changes"]
    assert len({change.pop("at") for change in changes if "gain" not in change}) == 1
    assert sorted(changes, key=len) == [
        {"at": changes[0]["at"], "gain": 0.5, "glide": 0.0},
        {"density": 9.0, "truncation": 1.0, "glide": 0.0},
        {"bpm": 160.0, "style": 4, "glide": 10.0},
    ]


@pytest.mark.parametrize("glide", [0.2, 60.0])
def test_any_number_of_glides_may_overlap(model: Model, glide: float) -> None:
    """Each begins where its control is, so that none is worked out from those before it."""
    heard = []
    with model.stream(seed=1, ahead=0) as stream:
        for i in range(100):
            stream.set(bpm=120 + i % 40, style=i, glide=glide)
            heard.append(next(stream))
        state, log = stream._player.cursor.state, stream.log
    assert state.previous is not None
    assert state.previous.previous is None
    assert len(log["changes"]) > 50
    np.testing.assert_array_equal(np.concatenate(list(model.replay(log))), np.concatenate(heard))


def test_a_log_may_have_many_changes_in_one_window(model: Model) -> None:
    changes = [{"at": RATE + i, "style": i, "bpm": 120 + i % 40, "gain": i / 480, "glide": i % 3} for i in range(480)]
    stream = model.replay(LOG | {"frames": 2 * RATE, "changes": changes})
    assert sum(map(len, stream)) == 2 * RATE


def test_any_number_of_samples_can_be_read(model: Model) -> None:
    whole = model.generate(2.0, seed=1, bpm=125)
    with model.stream(seed=1, bpm=125, seconds=2.0) as stream:
        parts = [stream.read(0), stream.read(1), stream.read(735), next(stream), stream.read(3 * WINDOW)]
        assert [len(part) for part in parts[:3]] == [0, 1, 735]
        assert len(parts[4]) == 3 * WINDOW
        parts += [stream.read(10 * RATE), stream.read(10)]
        with pytest.raises(everwave.UsageError, match="frames=-1"):
            stream.read(-1)
    assert parts[-1].shape == (0, 2)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_what_is_read_by_the_frame_is_steered_by_the_frame(model: Model) -> None:
    with model.stream(seed=1, bpm=125) as stream:
        heard = []
        for i in range(60):
            stream.gain = 1 - i % 2 / 2
            heard.append(stream.read(RATE // 60))
        changes = stream.log["changes"]
    assert [change["at"] for change in changes] == [i * (RATE // 60) for i in range(60)]
    np.testing.assert_array_equal(np.concatenate(list(model.replay(stream.log))), np.concatenate(heard))


def test_streams_say_what_they_are(model: Model) -> None:
    with model.stream(seed=7, bpm=125) as stream:
        stream.read(RATE)
        assert (
            repr(stream)
            == "<everwave.Stream: seed=7, at 1.0 s, truncation=2.0, style=None, gain=1.0, bpm=125.0, density=None>"
        )
        assert {"gain", "style", "truncation", "bpm", "density", "set", "read"} <= set(dir(stream))
        with pytest.raises(
            everwave.UsageError, match=r"position=3: no control of this stream; it has truncation, .* and `seek`"
        ):
            stream.position = 3
    assert repr(model) == "<everwave.Model: bundle, 44100 Hz, bpm 120 to 160, density 0 to 20>"


def test_the_beat_is_where_the_next_block_is(model: Model) -> None:
    with model.stream(seed=1, bpm=120, ahead=0) as stream:
        assert stream.beat == pytest.approx(0, abs=1e-9)
        stream.read(RATE)
        assert stream.beat == pytest.approx(2)
        stream.seek(30.25)
        assert stream.beat == pytest.approx(60.5)
        stream.set(bpm=150)
        stream.read(LATE)
        before = stream.beat
        stream.read(2 * RATE)
        assert before is not None
        assert stream.beat == pytest.approx(before + 5)
    curve = [120.0 + i % 7 for i in range(2000)]
    with model.stream(seed=1, bpm=curve, start=1.3) as stream:
        beats = np.cumsum(np.repeat(curve, CONFIG.signal.latent_samples)) / 60 / RATE
        assert stream.beat == pytest.approx(beats[round(1.3 * RATE) - 1], abs=1e-3)
    plain = Model.from_parts(weights.random_model(TINY, seed=1), backend="numpy")
    assert plain.stream(seed=1).beat is None


def test_styles_can_be_mixed(model: Model) -> None:
    vector = model.style(99)
    assert vector.shape == (CONFIG.generator.style,)
    np.testing.assert_array_equal(model.generate(1.0, 3, style=vector), model.generate(1.0, 3, style=99))
    assert np.abs(model.style(99, truncation=0.1)).max() <= 0.1


def test_a_stream_is_closed_beside_the_event_loop(model: Model) -> None:
    async def listen() -> everwave.Stream:
        async with model.stream(seed=1) as stream:
            async for block in stream:
                assert len(block)
                return stream
        raise AssertionError

    stream = asyncio.run(listen())
    assert list(stream) == []


def test_controls_can_be_read(model: Model) -> None:
    with model.stream(seed=1, bpm=125, truncation=1.5) as stream:
        assert (stream.bpm, stream.truncation, stream.gain, stream.style) == (125, 1.5, 1.0, None)
        stream.set(bpm=130, gain=0.5)
        assert (stream.bpm, stream.gain) == (130, 0.5)
        assert not hasattr(stream, "colour")
        with model.stream(seed=1) as drawn:
            assert drawn.bpm is None


def test_a_change_before_the_first_block_is_there_from_the_start(model: Model) -> None:
    with model.stream(seed=1, start=0.7, bpm=125) as stream:
        stream.bpm = 155
        stream.seek(1.7)
        stream.truncation = 1.0
        audio = pull(stream, RATE)
    np.testing.assert_array_equal(audio[:RATE], model.generate(1.0, seed=1, start=1.7, truncation=1.0, bpm=155))


def test_gain_follows_with_the_next_block_and_ramps(model: Model) -> None:
    plain = model.generate(2.0, seed=1)
    with model.stream(seed=1) as stream:
        first = pull(stream, WINDOW)
        stream.gain = 0.25
        audio = np.concatenate([first, pull(stream, RATE)])
    gain = audio / plain[: len(audio)]
    at, done = len(first), len(first) + round(0.05 * RATE)
    np.testing.assert_array_equal(audio[:at], plain[:at])
    np.testing.assert_allclose(gain[at:done, 0], np.linspace(1, 0.25, done - at, endpoint=False), atol=1e-3)
    np.testing.assert_array_equal(audio[done:], plain[done : len(audio)] * np.float32(0.25))


def test_a_louder_stream_stays_in_range(model: Model) -> None:
    with model.stream(seed=1, gain=4.0) as stream:
        assert np.abs(pull(stream, RATE)).max() == 1


@given(
    points=st.lists(st.tuples(st.integers(0, 300), st.floats(0, 4), st.integers(1, 80)), max_size=6),
    cuts=st.lists(st.integers(1, 399), max_size=6),
)
@settings(deadline=None)
def test_gain_does_not_depend_on_blocks(points: list[tuple[int, float, int]], cuts: list[int]) -> None:
    samples = np.random.default_rng(0).uniform(-0.2, 0.2, (400, 2)).astype(np.float32)
    envelope = Envelope(1.0)
    for point in points:
        envelope.add(*point)
    edges = [0, *sorted(set(cuts)), 400]
    parts = [envelope.apply(samples[a:b], a) for a, b in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), envelope.apply(samples, 0))


# -- seek, pause, close ----------------------------------------------------------------------------------------------


def test_seek_is_exact_after_its_fade(model: Model) -> None:
    fade = ECHO_HOPS * CONFIG.signal.hop_length
    with model.stream(seed=1, bpm=125) as stream:
        pull(stream, RATE)
        stream.seek(100.123)
        assert stream.position == pytest.approx(100.123, abs=1 / RATE)
        audio = pull(stream, RATE)[:RATE]
        np.testing.assert_array_equal(audio[fade:], model.generate(1.0, seed=1, start=100.123, bpm=125)[fade:])
        stream.seek(0)
        assert len(next(stream)) == round(stream.position * RATE)


def test_a_jump_does_not_click(model: Model) -> None:
    """The step at a jump is no larger than steps in the music."""
    with model.stream(seed=1) as stream:
        parts = [pull(stream, WINDOW)]
        for seconds in range(10, 40):
            stream.seek(seconds)
            parts.append(pull(stream, WINDOW))
    steps = [np.abs(b[0] - a[-1]).max() for a, b in pairwise(parts)]
    music = np.abs(np.diff(np.concatenate(parts), axis=0)).max(axis=1)
    assert np.mean(steps) < 2 * np.mean(music)
    assert max(steps) < music.max()


def test_position_counts_what_was_given(model: Model) -> None:
    with model.stream(seed=1, start=5.0) as stream:
        audio = pull(stream, RATE)
        assert stream.position == pytest.approx(5.0 + len(audio) / RATE, abs=1 / RATE)


def test_work_goes_on_in_the_background_up_to_its_bound(model: Model) -> None:
    with model.stream(seed=1, ahead=2.0) as stream:
        next(stream)
        player = stream._player
        for segment in list(player.pending):
            segment.result.result(timeout=60)
        ahead = sum(s.end.window - s.begin.window for s in player.pending) * WINDOW
        assert 2.0 <= ahead / RATE <= 2.0 + LIVE_WINDOWS * WINDOW / RATE


def test_no_work_ahead(model: Model) -> None:
    with model.stream(seed=1, ahead=0) as stream:
        audio = pull(stream, RATE)
    np.testing.assert_array_equal(audio[:RATE], model.generate(1.0, seed=1))


def test_a_stream_is_not_copied(model: Model) -> None:
    stream = model.stream(seed=1)
    next(stream)
    for take in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied"):
            take(stream)
    next(stream)
    stream.close()


def test_a_gain_comes_before_samples_are_held_within_one() -> None:
    file = weights.random_model(CONFIG, seed=1)
    file.parameters["frame_decoder"]["magnitude/bias"] = file.parameters["frame_decoder"]["magnitude/bias"] + 0.5
    model = Model.from_parts(file, threads=1, backend="numpy")
    loud, soft = (np.concatenate(list(model.stream(seed=1, seconds=2.0, gain=gain))) for gain in (1.0, 0.25))
    fits = np.abs(loud) < 1
    assert 0.5 < fits.mean() < 0.999
    np.testing.assert_array_equal(soft[fits], loud[fits] / 4)
    assert np.abs(soft[~fits]).min() >= 0.25
    assert np.abs(soft).max() > 0.3


def test_a_loop_has_no_gain(model: Model) -> None:
    for take in (model.loop, lambda seconds, **controls: model.generate(seconds, loop=True, **controls)):
        with pytest.raises(everwave.UsageError, match="a loop has none"):
            take(1.0, gain=0.5)


def test_closing_from_another_thread_ends_the_wait(model: Model) -> None:
    stream = model.stream(seed=1)
    next(stream)
    reader = threading.Thread(target=lambda: list(stream), daemon=True)
    reader.start()
    time.sleep(0.3)
    stream.close()
    reader.join(timeout=20)
    assert not reader.is_alive()
    assert list(stream) == []


def test_controls_from_another_thread(model: Model) -> None:
    done = threading.Event()
    failures = []

    def turn_knobs() -> None:
        rng = np.random.default_rng(0)
        try:
            while not done.is_set():
                stream.set(bpm=rng.uniform(120, 160), gain=rng.uniform(0, 1), truncation=rng.uniform(0, 3))
                time.sleep(0.001)
        except Exception as error:
            failures.append(error)

    with model.stream(seed=1, ahead=1.0) as stream:
        hand = threading.Thread(target=turn_knobs)
        hand.start()
        audio = pull(stream, 2 * RATE)
        done.set()
        hand.join()
        log = stream.log
    assert not failures
    np.testing.assert_array_equal(np.concatenate(list(model.replay(log))), audio)


def test_streams_may_share_workers(model: Model) -> None:
    with ThreadPoolExecutor(2) as workers:
        streams = [model.stream(seed=seed, ahead=0.5, workers=workers) for seed in range(8)]
        for _ in range(4):
            for stream in streams:
                next(stream)
        for seed, stream in enumerate(streams):
            audio = pull(stream, WINDOW)
            np.testing.assert_array_equal(
                audio[:100], model.generate(0.1, seed=seed, start=0.0 + _at(stream, audio))[:100]
            )
            stream.close()


def _at(stream: everwave.Stream, audio: np.ndarray) -> float:
    return stream.position - len(audio) / RATE


def test_workers_that_are_shut_down_end_the_stream(model: Model) -> None:
    workers = ThreadPoolExecutor(1)
    stream = model.stream(seed=1, workers=workers)
    next(stream)
    workers.shutdown(cancel_futures=True)
    with pytest.raises(everwave.EverwaveError, match="workers were shut down; keep them"):
        list(stream)
    with pytest.raises(everwave.UsageError, match="give a ThreadPoolExecutor"), ProcessPoolExecutor(1) as processes:
        model.stream(seed=1, workers=processes)


# -- asyncio ---------------------------------------------------------------------------------------------------------


def test_asyncio(model: Model) -> None:
    async def listen(seed: int) -> np.ndarray:
        blocks = []
        async for block in model.stream(seed=seed, seconds=1.0):
            blocks.append(block)
        return np.concatenate(blocks)

    async def main() -> list[np.ndarray]:
        return await asyncio.gather(*[listen(seed) for seed in range(3)])

    for seed, audio in enumerate(asyncio.run(main())):
        np.testing.assert_array_equal(audio, model.generate(1.0, seed=seed))


def test_a_listener_that_gave_up_waiting_has_missed_nothing(model: Model) -> None:
    async def main() -> np.ndarray:
        stream, blocks = model.stream(seed=1, seconds=1.0), []
        while True:
            try:
                blocks.append(await asyncio.wait_for(anext(stream), 0.001))
            except TimeoutError:
                continue
            except StopAsyncIteration:
                return np.concatenate(blocks)

    np.testing.assert_array_equal(asyncio.run(main()), model.generate(1.0, seed=1))


# -- progress and cancel ---------------------------------------------------------------------------------------------


def test_progress_and_cancel(model: Model) -> None:
    calls: list[tuple[int, int]] = []
    stream = model.stream(
        seed=1, progress=lambda done, total: calls.append((done, total)), cancel=lambda: len(calls) == 3
    )
    with pytest.raises(everwave.Cancelled, match="cancelled after"):
        list(stream)
    assert len(calls) == 3
    assert 0 < calls[0][0] < calls[1][0] < calls[2][0]
    assert {total for _, total in calls} == {0}
    assert list(stream) == []


# -- logs ------------------------------------------------------------------------------------------------------------

KNOBS: dict[str, st.SearchStrategy[Any]] = {
    "bpm": st.one_of(st.none(), st.floats(120, 160), st.just([(0, 125.0), (3, 150.0)])),
    "density": st.floats(0, 20),
    "truncation": st.floats(0, 4),
    "style": st.one_of(st.none(), st.integers(0, 9), st.just([0.1] * 16)),
    "gain": st.floats(0, 2),
}
SETTINGS = st.fixed_dictionaries({}, optional=KNOBS)
ACTIONS = st.one_of(
    st.tuples(st.just("pull"), st.integers(1, 8)),
    st.tuples(st.just("set"), SETTINGS, st.sampled_from([0.0, 0.1, 1.0, 5.0])),
    st.tuples(st.just("seek"), st.floats(0, 30)),
)


@settings(max_examples=25, deadline=None)
@given(
    actions=st.lists(ACTIONS, max_size=8),
    start=st.sampled_from([0.0, 0.0901, 2.9]),
    ahead=st.sampled_from([0.0, 1.0, 6.0]),
    frames=st.sampled_from([None, 3 * RATE]),
)
def test_a_log_gives_the_same_samples(
    model: Model, actions: list[tuple[Any, ...]], start: float, ahead: float, frames: int | None
) -> None:
    """Whatever a listener does, and however far work was ahead when they did it."""
    heard: list[np.ndarray] = []
    with model.stream(seed=3, start=start, ahead=ahead, seconds=frames and frames / RATE) as stream:
        for action, *values in [("pull", 1), *actions, ("pull", 8)]:
            if action == "pull":
                heard.extend(islice(stream, values[0]))
            elif action == "set":
                stream.set(**values[0], glide=values[1])
            else:
                stream.seek(values[0])
        log = json.loads(json.dumps(stream.log))
    audio = np.concatenate(heard)
    assert len(audio) == log["frames"]
    again = np.concatenate(list(model.replay(log)))
    np.testing.assert_array_equal(again, audio)


def test_a_log_is_a_script_that_cannot_be_changed(model: Model) -> None:
    with model.stream(seed=3) as stream:
        next(stream)
        stream.bpm = 150
        pull(stream, LATE)
    again = model.replay(stream.log)
    with pytest.raises(everwave.UsageError, match="plays a log"):
        again.bpm = 120
    with pytest.raises(everwave.UsageError, match="plays a log"):
        again.seek(0)


def test_a_curve_from_a_file_is_in_the_log(model: Model, tmp_path: Any) -> None:
    curve = tmp_path / "curve.csv"
    curve.write_text("0,125\n4,150\n")
    with model.stream(seed=3, bpm=str(curve), seconds=1.0) as stream:
        audio = np.concatenate(list(stream))
    curve.unlink()
    assert json.loads(json.dumps(stream.log))["controls"]["bpm"] == [[0.0, 125.0], [4.0, 150.0]]
    np.testing.assert_array_equal(np.concatenate(list(model.replay(stream.log))), audio)


LOG = {"sample_rate": RATE, "seed": 3, "start": 0, "frames": 1000, "controls": {}, "changes": []}
BAD_LOGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing": lambda log: None,
    "a list": lambda log: [],
    "no controls": lambda log: {k: v for k, v in log.items() if k != "controls"},
    "another rate": lambda log: log | {"sample_rate": 48000},
    "no seed": lambda log: log | {"seed": None},
    "start NaN": lambda log: log | {"start": float("nan")},
    "negative frames": lambda log: log | {"frames": -1},
    "endless": lambda log: log | {"frames": 1e18},
    "changes of text": lambda log: log | {"changes": ["louder"]},
    "too many changes": lambda log: log | {"changes": [{"at": 0, "gain": 1}] * 1_000_001},
    "a change without a time": lambda log: log | {"changes": [{"gain": 1}]},
    "a file as a condition": lambda log: log | {"controls": {"bpm": "/etc/passwd"}},
    "a file in a change": lambda log: log | {"changes": [{"at": 5, "bpm": "/etc/passwd"}]},
    "unknown control": lambda log: log | {"controls": {"colour": 3}},
    "unknown control later": lambda log: log | {"changes": [{"at": 5, "colour": 3}]},
    "bpm out of range": lambda log: log | {"controls": {"bpm": 500}},
    "bpm out of range later": lambda log: log | {"changes": [{"at": 5, "bpm": 500}]},
    "half a frame": lambda log: log | {"frames": 1000.5},
    "a change within a frame": lambda log: log | {"changes": [{"at": 12.9, "gain": 1}]},
    "a seek and more": lambda log: log | {"changes": [{"at": 5, "seek": 1, "gain": 1}]},
    "seek out of range": lambda log: log | {"changes": [{"at": 5, "seek": -1}]},
    "glide NaN": lambda log: log | {"changes": [{"at": 5, "gain": 1, "glide": float("nan")}]},
    "style of a wrong size": lambda log: log | {"controls": {"style": [0.0] * 3}},
    "style of text": lambda log: log | {"controls": {"style": "blue"}},
}


@pytest.mark.parametrize("case", BAD_LOGS)
def test_bad_logs(model: Model, case: str) -> None:
    with pytest.raises(everwave.UsageError) as error:
        model.replay(BAD_LOGS[case](LOG))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"gain": -1}, {"gain": float("nan")}, {"gain": 9}, {"glide": -1}, {"glide": float("inf"), "gain": 1},
        {"style": -1}, {"style": "blue"}, {"style": [float("nan")] * 16}, {"style": np.zeros(3)}, {"truncation": 99},
        {"bpm": 500, "gain": 0.5}, {"colour": 3},
    ],
)  # fmt: skip
def test_a_refused_change_changes_nothing(model: Model, change: dict[str, Any]) -> None:
    with model.stream(seed=3) as stream:
        next(stream)
        with pytest.raises(everwave.UsageError):
            stream.set(**change)
        assert stream.gain == 1
        assert stream.log["changes"] == []
