"""How sound moves is measured so that forwards and backwards, sharp and blurred differ, and generators are told."""

import math

import numpy as np
import pytest
from everwave_trainer import losses, sound
from keras import ops

RATE, BINS = 44100, 513


def sums(levels):
    return sound.sums(ops.convert_to_tensor(levels.astype(np.float32)), ops.ones((len(levels), 1)))


def notes(rng, frames=1200, bands=6):
    """Levels (1, frames, bands) that jump when a note begins and die away over the next 0.2 s."""
    begins = rng.random((frames, bands)) < 0.02
    level = np.zeros((frames, bands))
    for i in range(1, frames):
        level[i] = np.where(begins[i], 4.0, 0.97 * level[i - 1])
    return level[None]


def test_forwards_and_backwards_have_one_spectrum_and_move_otherwise():
    real, other = (sums(notes(np.random.default_rng(i))) for i in range(2))
    backwards = sums(notes(np.random.default_rng(0))[:, ::-1])
    (forth,), (back,) = sound.moments(real), sound.moments(backwards)
    np.testing.assert_allclose(forth[:3], back[:3], rtol=1e-4)
    squares = forth[4::6] + forth[7::6], back[4::6] + back[7::6]  # of rises and of falls: of all changes
    np.testing.assert_allclose(*squares, rtol=1e-4)
    assert float(sound.distance(real, real)) == 0
    assert float(sound.distance(real, backwards)) > 5 * float(sound.distance(real, other))


def test_blurred_attacks_are_far():
    levels = notes(np.random.default_rng(0))
    blurred = sum(np.roll(levels, i, axis=1) for i in range(8)) / 8
    other = sums(notes(np.random.default_rng(1)))
    assert float(sound.distance(other, sums(blurred))) > 5 * float(sound.distance(other, sums(levels)))


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
    assert float(sound.distance(sums(levels), sums(scale * levels))) > 1


def test_each_kind_of_music_has_moments_of_its_own():
    """As if its excerpts were alone, in the mean over batches too; a batch without any of a kind says nothing of it."""
    rng = np.random.default_rng(0)
    excerpts = np.concatenate([notes(rng) for _ in range(5)]).astype(np.float32)
    kinds = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [1, 0]], np.float32)
    batches = [
        sound.sums(*map(ops.convert_to_tensor, pair))
        for pair in zip(np.split(excerpts, [3]), np.split(kinds, [3]), strict=True)
    ]
    both = sound.moments(0.6 * batches[0] + 0.4 * batches[1])
    (first,), (second,) = sound.moments(sums(excerpts[[0, 2, 3, 4]])), sound.moments(sums(excerpts[[1]]))
    np.testing.assert_allclose(both[0], first, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(both[1], second, rtol=1e-4, atol=1e-6)
    swapped = 0.6 * batches[0] + 0.4 * batches[1]
    assert float(sound.distance(swapped, swapped)) == 0
    assert float(sound.distance(swapped, ops.flip(swapped, axis=0))) > 0.01
