"""What the ear takes for asked onsets, and that it tells notes on time from notes that are not."""

import math
from dataclasses import replace

import keras
import numpy as np
import pytest
from everwave import weights
from everwave.config import PRESETS, Condition
from everwave.networks import AUTOENCODER
from everwave_trainer import ear, gan
from everwave_trainer.ear import Ear, near_onsets, slowest_hand
from everwave_trainer.gan import STEADY, GanTrainer
from everwave_trainer.latents import Latents, Piece
from keras import ops

DENSITY = Condition("density", "onsets per second", 5.0, 3.0, 0.0, 12.0, clocks=(1, 4))


def hands(onsets, steps):
    """The slowest hand (1, steps, 2) at the middles of latents when onsets come at these times in latents."""
    counted = np.interp(np.arange(steps) + 0.5, onsets, np.arange(len(onsets)))
    return np.stack([np.cos(math.pi / 2 * counted), np.sin(math.pi / 2 * counted)], axis=1)[None].astype(np.float32)


def test_frames_near_onsets_are_where_the_clock_passes_whole_numbers():
    onsets = 0.2 + 1.7 * np.arange(8)
    near = ops.convert_to_numpy(near_onsets(ops.convert_to_tensor(hands(onsets, 12)), 4))[0]
    frames = 8 + np.arange(11 * 16)
    distance = frames[:, None] - np.floor(16 * onsets[1:-1])
    wanted = ((distance >= ear.FIRST - 1) & (distance <= ear.LAST + 1)).any(axis=1)
    surely = ((distance >= ear.FIRST + 1) & (distance <= ear.LAST - 1)).any(axis=1)
    assert near[surely].all()
    assert not near[~wanted].any()


def test_the_hand_is_found_behind_other_conditions():
    tempo = Condition("bpm", "beats per minute", 140.0, 15.0, 115.0, 165.0, clocks=(1, 4))
    assert slowest_hand((tempo, DENSITY)) == (slice(8, 10), 4)
    assert slowest_hand((tempo,)) is None
    assert slowest_hand((Condition("density", "onsets per second", 5.0, 3.0, 0.0, 12.0),)) is None


@pytest.fixture
def listener(tmp_path):
    file = tmp_path / "a.h5"
    model = weights.random_model(PRESETS["tiny"])
    networks = {name: model.parameters[name] for name in AUTOENCODER}
    weights.write(file, weights.ModelFile(model.config, "autoencoder", networks, "CC0-1.0"), "float32")
    tiny = PRESETS["tiny"]
    return Ear(
        file, replace(tiny, generator=replace(tiny.generator, conditions=(DENSITY,))), keras.random.SeedGenerator(0)
    )


def test_notes_on_time_are_heard_and_late_ones_are_missed(listener, monkeypatch):
    """With log-magnitudes that rise where channel 0 of the latents says, in the middle of a latent."""

    def rises(heard):  # here of latents themselves
        place = np.zeros(16, np.float32)
        place[8] = 1.0  # the frame in which the middle of the latent is
        frames = ops.reshape(heard[:, :, :1] * place, (heard.shape[0], -1))
        return frames[:, :-2] + 0.01

    monkeypatch.setattr(listener, "rises", rises)
    onsets = np.arange(0.5, 40, 4)  # every fourth latent, in its middle
    asked = np.zeros((4, 36, DENSITY.channels), np.float32)
    asked[:, :, 3:] = hands(onsets, 36)
    latents = np.zeros((4, 36, 1), np.float32)
    latents[:, ::4] = 1.0
    late = np.roll(latents, 2, axis=1)
    on_time, missed = (
        float(listener.missed(ops.convert_to_tensor(x), ops.convert_to_tensor(asked))) for x in (latents, late)
    )
    assert on_time == 0
    assert missed > math.log(ear.CONTRAST)
    asked[0], latents[0] = asked[0, :1], latents[0, :1]  # no note is asked for in one crop, which is full of them
    one = float(listener.missed(ops.convert_to_tensor(latents), ops.convert_to_tensor(asked)))
    assert 0 < one < missed


def test_rises_come_from_the_decoders(listener):
    latents = np.random.default_rng(0).standard_normal((2, 8, PRESETS["tiny"].autoencoder.latents)).astype(np.float32)
    heard = ops.convert_to_numpy(listener.rises(listener.heard(ops.convert_to_tensor(latents))))
    assert heard.shape == (2, 8 * 16 - 2)
    assert (heard >= 0).all()
    assert heard.std() > 0


def test_an_excerpt_is_of_left_and_right_in_turn_and_of_what_was_asked_there(listener):
    latents = np.arange(3 * 40 * 64, dtype=np.float32).reshape(3, 40, 64)
    inputs = np.arange(3 * 40, dtype=np.float32).reshape(3, 40, 1)
    starts = set()
    for _ in range(40):
        heard, asked = map(
            ops.convert_to_numpy, listener.excerpt(ops.convert_to_tensor(latents), ops.convert_to_tensor(inputs))
        )
        start = int(asked[0, 0, 0])
        here = slice(start, start + ear.LENGTH)
        np.testing.assert_array_equal(asked, inputs[:, here])
        for i, channel in enumerate((slice(0, 32), slice(32, 64), slice(0, 32))):
            np.testing.assert_array_equal(heard[i], latents[i, here, channel])
        starts.add(start)
    assert starts == set(range(0, 25, 4))


@pytest.fixture
def trainer(listener, tmp_path):
    piece = Piece("", "", "", 300, {"density": 2.0, "onsets": (np.arange(60) / 2).tolist()})
    file = tmp_path / "0.npy"
    np.save(file, np.random.default_rng(0).standard_normal((4, 300, 32)).astype(np.float16))
    rate = PRESETS["tiny"].signal.latent_rate
    latents = Latents((piece,), (file,), {"file": "a.h5"}, {}, rate, tmp_path)  # where `listener` has its autoencoder
    return GanTrainer(PRESETS["tiny"], latents, steps=4, batch_size=8, conditions=["density"], alone=4)


def test_no_more_is_asked_than_real_music_gives(trainer, monkeypatch):
    crops, inputs, _, _ = trainer.latents.crops(ear.LENGTH, 200, 5, 0, trainer.config.generator.conditions)
    excerpts, asked = trainer.ear.excerpt(ops.convert_to_tensor(crops), ops.convert_to_tensor(inputs))
    real = float(trainer.ear.missed(trainer.ear.heard(excerpts), asked))
    assert trainer.bearable == pytest.approx(real, rel=0.3)
    assert 0 < trainer.bearable < math.log(ear.CONTRAST) + 1
    batch = trainer.batch(0)
    state = [*trainer.learned, *trainer.recent_moments, trainer.recent_sound, trainer.random.state]
    before = [ops.convert_to_numpy(v) for v in state]

    def learned(weight):
        for variable, value in zip(state, before, strict=True):
            variable.assign(value)
        monkeypatch.setattr(gan, "EAR_WEIGHT", weight)
        trainer.optimizer = keras.optimizers.SGD(1e-3)
        trainer._update("alone", *map(ops.convert_to_tensor, batch))
        return np.concatenate([np.ravel(ops.convert_to_numpy(v)) for v in trainer.learned])

    trainer.bearable = 100.0  # generated music never misses as much: the ear is content
    assert np.abs(learned(40.0) - learned(0.0)).max() < 1e-6
    trainer.bearable = 0.0
    assert np.abs(learned(40.0) - learned(0.0)).max() > 1e-4


def test_the_ear_also_asks_for_constant_densities(trainer):
    """Windows of which each has one density, its hands turning with it; and a step of training hears them."""
    rate = trainer.config.signal.latent_rate
    (condition,) = trainer.config.generator.conditions
    *_, coordinates, asked = batch = trainer.batch(0)
    np.testing.assert_array_equal(coordinates[..., -asked.shape[2] :], asked)
    assert asked.shape == (4, 128, 5)
    values = condition.mean + condition.scale * asked[..., 0]
    assert (np.ptp(values, axis=1) < 1e-4).all()
    assert (values > STEADY[0]).all()
    assert (values < STEADY[1]).all()
    turned = np.angle((asked[:, 1:, 3] + 1j * asked[:, 1:, 4]) * (asked[:, :-1, 3] - 1j * asked[:, :-1, 4]))
    np.testing.assert_allclose(turned / (2 * np.pi) * 4 * rate, values[:, 1:], rtol=1e-3)
    assert float(trainer.step(0, *batch)["missed"]) > 0
