"""The Python interface: what it gives, what it refuses, and that threads may share it."""

from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import everwave
import numpy as np
import pytest
from everwave import checks, coordinates, weights
from everwave.config import PHASES, PRESETS, REFINER_MARGIN, Condition
from everwave.model import Model
from everwave.networks import AUTOENCODER

TINY = PRESETS["tiny"]
BPM = Condition("bpm", "beats per minute", mean=140.0, scale=10.0, low=120.0, high=160.0)
STEERED = replace(TINY, generator=replace(TINY.generator, conditions=(BPM,)))
REFINED = replace(STEERED, generator=replace(STEERED.generator, refiner=4))


@pytest.fixture(scope="module")
def model() -> Model:
    return everwave.random_model("tiny", threads=2, backend="numpy")


@pytest.fixture(scope="module")
def steered() -> Model:
    return Model.from_parts(weights.random_model(STEERED, seed=1), threads=2, backend="numpy")


def test_generate_gives_the_seconds_asked_for(model: Model) -> None:
    audio = model.generate(seconds=0.5, seed=7)
    assert audio.shape == (22050, 2)
    assert audio.dtype == np.float32
    assert np.abs(audio).max() <= 1


def test_start_is_a_slice(model: Model) -> None:
    whole = model.generate(seconds=3.0, seed=5)
    np.testing.assert_array_equal(model.generate(seconds=1.0, seed=5, start=2.0), whole[2 * 44100 :])


@pytest.mark.parametrize("start", [0.0, 1.7])
def test_stream_is_generate_without_end(model: Model, start: float) -> None:
    blocks = []
    with model.stream(seed=5, start=start) as stream:
        while sum(map(len, blocks)) < 4 * 44100:
            blocks.append(next(stream))
    streamed = np.concatenate(blocks)
    np.testing.assert_array_equal(streamed, model.generate(len(streamed) / 44100, seed=5, start=start))


def test_blocks_are_the_callers_own(model: Model) -> None:
    with model.stream(seed=5) as stream:
        first, *_ = blocks = list(islice(stream, 4))
        copies = [b.copy() for b in blocks]
        first[:] = 0
        next(stream)
    for block, copied in zip(blocks[1:], copies[1:], strict=True):
        np.testing.assert_array_equal(block, copied)


def test_progress_counts_up_to_all_frames(model: Model) -> None:
    calls: list[tuple[int, int]] = []
    model.generate(0.5, progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert len(calls) > 1
    assert calls[-1] == (22050, 22050)


def test_cancel(model: Model) -> None:
    answers = iter([False, False, True])
    with pytest.raises(everwave.Cancelled, match="cancelled after"):
        model.generate(3.0, cancel=lambda: next(answers))


def test_several_threads_share_a_model(model: Model) -> None:
    alone = [model.generate(1.0, seed=seed) for seed in range(3)]
    latents = model.encode(alone[0], 44100)
    with ThreadPoolExecutor(4) as pool:
        together = [pool.submit(model.generate, 1.0, seed=seed) for seed in range(3)]
        encoded = pool.submit(model.encode, alone[0], 44100)
        for future, audio in zip(together, alone, strict=True):
            np.testing.assert_array_equal(future.result(), audio)
        np.testing.assert_array_equal(encoded.result(), latents)


def test_two_threads_start_a_fresh_engine_together() -> None:
    pytest.importorskip("numba")
    model = everwave.random_model("tiny", threads=2, backend="numba", precision="float32")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: model.generate(0.5, seed=1), range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("phase", PHASES)
def test_the_engine_sounds_like_the_reference(phase: str) -> None:
    pytest.importorskip("numba")
    file = weights.random_model(replace(TINY, autoencoder=replace(TINY.autoencoder, phase=phase)))
    fast, slow = (
        Model.from_parts(file, backend=backend, precision="float32").generate(0.5, seed=1)
        for backend in ("numba", "numpy")
    )
    assert np.abs(slow).max() > 1e-2
    np.testing.assert_allclose(fast, slow, atol=1e-3)


def test_info_is_json_and_adds_up(steered: Model) -> None:
    info = json.loads(json.dumps(steered.info()))
    parameters = info["parameters"]
    assert parameters.pop("total") == sum(parameters.values())
    assert set(parameters) == {"frame_encoder", "chunk_encoder", "chunk_decoder", "frame_decoder", "generator"}
    assert info["conditions"][0]["name"] == "bpm"
    assert info["sample_rate"] == steered.sample_rate == 44100
    steered.info()["conditions"][0]["high"] = 1e9  # what it says is the caller's
    assert steered.info()["conditions"][0]["high"] == info["conditions"][0]["high"]


# -- conditions ----------------------------------------------------------------------------------------------------


def test_the_refiner_is_told_what_was_asked_for() -> None:
    model = Model.from_parts(weights.random_model(REFINED), backend="numpy")
    size, asked = TINY.generator.window, TINY.generator.anchor + TINY.generator.style
    x = np.random.default_rng(0).standard_normal((size, asked + 1)).astype(np.float32)
    seen, made = size + 2 * REFINER_MARGIN, []
    for i, window in enumerate((x, np.repeat(x[-1:], size, axis=0))):  # as if the last row went on for ever
        noise = coordinates.layer_noise(5, "generator", "both", i)
        made.append(model.network("generator")(window[None], noise)[0][0].copy())
    wishes = np.concatenate([x, np.repeat(x[-1:], size, axis=0)])[:, asked:]
    rows = np.concatenate([np.concatenate(made), wishes], axis=1)[None, :seen]
    (refined,) = model.network("refiner")(rows)
    np.testing.assert_array_equal(model.latents(x, seed=5), refined[0, :size])
    rows[:, :, -1] = 0
    (other,) = model.network("refiner")(rows)
    assert np.abs(refined - other).max() > 1e-3


def test_a_condition_changes_the_piece(steered: Model) -> None:
    slow, fast = (steered.generate(0.3, seed=1, bpm=bpm) for bpm in (125, 155))
    assert not np.array_equal(slow, fast)


def test_a_condition_may_change_while_it_plays(steered: Model) -> None:
    before, after = (steered.generate(9.0, seed=1, bpm=bpm) for bpm in (125, 155))
    window = TINY.generator.window * TINY.signal.latent_samples
    with steered.stream(seed=1, bpm=125) as stream:
        assert stream.bpm == 125
        blocks = list(islice(stream, 3))
        stream.bpm = 155
        changed = sum(map(len, blocks))
        while sum(map(len, blocks)) < 8 * 44100:
            blocks.append(next(stream))
    audio = np.concatenate(blocks)[: 8 * 44100]
    np.testing.assert_array_equal(audio[:changed], before[:changed])
    np.testing.assert_array_equal(audio[changed + window :], after[changed + window : len(audio)])


def test_a_refused_change_leaves_the_stream_as_it_was(steered: Model) -> None:
    with steered.stream(seed=1, bpm=125) as stream:
        for name, value in (("bpm", 500), ("bpm", float("nan")), ("tempo", 125)):
            with pytest.raises(everwave.UsageError):
                setattr(stream, name, value)
        assert stream.bpm == 125
        next(stream)


def test_unknown_condition(model: Model, steered: Model) -> None:
    with pytest.raises(everwave.UsageError, match="bpm"):
        model.generate(1.0, bpm=120)
    with pytest.raises(everwave.UsageError, match="density"):
        steered.generate(1.0, bpm=120, density=3)


# -- bad arguments -------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "arguments",
    [
        {"seconds": -1}, {"seconds": 0}, {"seconds": NAN}, {"seconds": INF}, {"seconds": 1e12}, {"seconds": "long"},
        {"seconds": None}, {"seed": -1}, {"seed": 2**64}, {"seed": 1.5}, {"seed": "x"}, {"truncation": 9},
        {"truncation": NAN}, {"truncation": -1}, {"truncation": 1e9}, {"start": -1}, {"start": NAN}, {"start": 1e300},
        {"seconds": 10**400}, {"seed": True}, {"start": 10**400}, {"truncation": 10**400},
    ],
)  # fmt: skip
def test_generate_refuses(model: Model, arguments: dict[str, Any]) -> None:
    name = next(iter(arguments))
    with pytest.raises(everwave.UsageError, match=f"{name}=") as error:
        model.generate(**{"seconds": 0.1, **arguments})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [0, -1, NAN, 1.5, 10**9, "many"])
def test_threads_are_checked(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(everwave.UsageError, match="threads="):
        everwave.random_model("tiny", threads=value)
    monkeypatch.setenv("EVERWAVE_THREADS", str(value))
    with pytest.raises(everwave.UsageError, match="EVERWAVE_THREADS="):
        everwave.random_model("tiny")


def test_threads_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERWAVE_THREADS", "3")
    assert everwave.random_model("tiny").threads == 3
    assert everwave.random_model("tiny", threads=2).threads == 2


@pytest.mark.parametrize("options", [{"precision": "int3"}, {"backend": "abacus"}, {"preset": "huge"}])
def test_unknown_choices(options: dict[str, str]) -> None:
    with pytest.raises(everwave.UsageError, match=next(iter(options))):
        everwave.random_model(**{"preset": "tiny", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((4, 31)),
        np.zeros(32),
        np.zeros((0, 32)),
        np.full((4, 32), NAN),
        np.full((4, 32), 3e38),
        [["a"] * 32],
        None,
        np.zeros((1, 4, 32)),
        [[10**400] * 32],
    ],
)
def test_decode_and_latents_refuse(model: Model, value: Any) -> None:
    for call in (model.decode, model.latents):
        with pytest.raises(everwave.UsageError):
            call(value)


def test_latents_at_the_bound_give_finite_samples(model: Model) -> None:
    assert np.isfinite(model.decode(np.full((70, 32), checks.MAX_VALUE))).all()
    with pytest.raises(everwave.UsageError, match=r"latents reach 2e\+06; .*scale them back"):
        model.decode(np.full((4, 32), -2 * checks.MAX_VALUE))


def test_encode_takes_mono_and_stereo_at_any_rate(model: Model) -> None:
    t = np.arange(44100) / 44100
    mono = (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    latents = model.encode(mono, 44100)
    np.testing.assert_array_equal(latents[:, :16], latents[:, 16:])  # one channel is both
    np.testing.assert_array_equal(model.encode(np.stack([mono, mono], axis=1), 44100), latents)
    np.testing.assert_array_equal(model.encode(list(mono), 44100), latents)
    half = (0.5 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)).astype(np.float32)
    np.testing.assert_allclose(model.encode(half, 22050)[3:-3], latents[3:-3], atol=0.05)


def test_encode_resamples_a_stream_as_it_does_the_whole(model: Model) -> None:
    audio = np.random.default_rng(0).uniform(-1, 1, (30001, 2)).astype(np.float32)
    blocks = np.split(audio, [1, 500, 7000, 7001, 20000])
    np.testing.assert_array_equal(model.encode(iter(blocks), 32000), model.encode(audio, 32000))


@pytest.mark.parametrize(
    "value", [np.zeros(0), np.zeros((0, 2)), np.full(100, NAN), np.zeros((2, 2, 2)), np.array(["a"]), None, iter([])]
)
def test_encode_refuses(model: Model, value: Any) -> None:
    with pytest.raises(everwave.UsageError):
        model.encode(value, 44100)


@pytest.mark.parametrize("rate", [0, -44100, NAN, 10**9, "fast"])
def test_encode_refuses_rates(model: Model, rate: Any) -> None:
    with pytest.raises(everwave.UsageError, match="sample_rate="):
        model.encode(np.zeros(1000, np.float32), rate)


def test_a_file_without_a_generator_says_so(model: Model) -> None:
    file = weights.random_model(TINY)
    parts = {k: file.parameters[k] for k in AUTOENCODER}
    autoencoder = Model.from_parts(replace(file, kind="autoencoder", parameters=parts), backend="numpy")
    with pytest.raises(everwave.UsageError, match="no generator"):
        autoencoder.generate(1.0)
    assert autoencoder.decode(autoencoder.encode(np.zeros(5000, np.float32), 44100)).shape == (6 * 1024, 2)


def test_load_of_an_unknown_name_lists_the_rest() -> None:
    with pytest.raises(everwave.EverwaveError, match="no-such-model"):
        everwave.load("no-such-model")


def test_a_model_is_pickled_as_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it can be given to other processes; `everwave.load` of what it was loaded of."""
    weights.write(tmp_path / "tiny.h5", weights.random_model(TINY, seed=1))
    monkeypatch.chdir(tmp_path)
    model = everwave.load("tiny.h5", threads=1, precision="float32", backend="numpy")
    data = pickle.dumps(model)
    assert len(data) < 1000
    monkeypatch.chdir("/")
    for again in (pickle.loads(data), copy.deepcopy(model)):
        assert (again.threads, again.precision, again.backend) == (1, "float32", "numpy")
        np.testing.assert_array_equal(again.generate(0.1, 7), model.generate(0.1, 7))
    with pytest.raises(TypeError, match="write its weights to one"):
        pickle.dumps(everwave.random_model("tiny"))


def test_models_without_a_generator_are_prepared_to_encode() -> None:
    file = weights.random_model(PRESETS["tiny"], seed=1)
    encoders = {name: part for name, part in file.parameters.items() if name != "generator"}
    model = Model.from_parts(replace(file, parameters=encoders, kind="autoencoder"), threads=1, backend="numpy")
    assert model.prepare() > 0
    assert "frame_encoder" in model._networks
