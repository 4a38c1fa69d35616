"""How sound moves is measured so that forwards and backwards, sharp and blurred differ, and generators are told."""

import math

import numpy as np
import pytest
from everwave_trainer import losses, sound
from keras import ops

RATE, BINS = 44100, 513


def moments(levels):
    return sound.moments(ops.convert_to_tensor(levels.astype(np.float32)))


def notes(rng, frames=1200, bands=6):
    """Levels (1, frames, bands) that jump when a note begins and die away over the next 0.2 s."""
    begins = rng.random((frames, bands)) < 0.02
    level = np.zeros((frames, bands))
    for i in range(1, frames):
        level[i] = np.where(begins[i], 4.0, 0.97 * level[i - 1])
    return level[None]


def test_forwards_and_backwards_have_one_spectrum_and_move_otherwise():
    real, other = (moments(notes(np.random.default_rng(i))) for i in range(2))
    backwards = moments(notes(np.random.default_rng(0))[:, ::-1])
    np.testing.assert_allclose(real[:3], backwards[:3], rtol=1e-4)
    squares = real[4::6] + real[7::6], backwards[4::6] + backwards[7::6]  # of rises and of falls: of all changes
    np.testing.assert_allclose(*squares, rtol=1e-4)
    assert float(sound.distance(real, real)) == 0
    assert float(sound.distance(real, backwards)) > 5 * float(sound.distance(real, other))


def test_blurred_attacks_are_far():
    levels = notes(np.random.default_rng(0))
    blurred = sum(np.roll(levels, i, axis=1) for i in range(8)) / 8
    other = moments(notes(np.random.default_rng(1)))
    assert float(sound.distance(other, moments(blurred))) > 5 * float(sound.distance(other, moments(levels)))


def test_levels_are_the_mean_powers_of_bands_in_logarithms():
    bands = losses.mel_bands(BINS, RATE, sound.BANDS)
    assert 70 < bands.shape[1] <= sound.BANDS
    np.testing.assert_allclose(bands.sum(axis=0), 1, rtol=1e-5)
    log_magnitude = np.random.default_rng(0).uniform(-0.5, 0.8, (2, 5, BINS)).astype(np.float32)
    power = np.exp(log_magnitude.astype(np.float64) * 7.5 * math.log(10))  # 75 dB are 1
    levels = ops.convert_to_numpy(sound.levels(ops.convert_to_tensor(log_magnitude), RATE))
    np.testing.assert_allclose(levels, np.log(power @ bands + 1e-6), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_quieter_and_louder_changes_are_told_apart(scale):
    levels = notes(np.random.default_rng(0))
    assert float(sound.distance(moments(levels), moments(scale * levels))) > 1
