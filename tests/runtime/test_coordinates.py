"""Random numbers are functions of their position; coordinates are the original's recipe in closed form."""

import importlib.util
from itertools import pairwise

import numpy as np
import pytest
from everwave import philox
from everwave.config import Condition, Config, GeneratorConfig
from everwave.coordinates import coordinates, layer_noise, truncated_normals
from everwave.errors import UsageError
from hypothesis import given, settings
from hypothesis import strategies as st

NORMAL, SMALL = Config(), Config(generator=GeneratorConfig(window=64))

KNOWN_ANSWERS = [  # counter, key, words: the vectors published with Random123
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text):
    return np.array([int(word, 16) for word in text.split()], np.uint64)


def original_recipe(anchors, style, window):
    """Two lines of `linspace` between three anchors, averaged with the next step, cropped at window / 2."""
    spacing = 3 * window
    steps = np.linspace(0, 1, spacing + 1)[:, None]
    lines = [a + (b - a) * steps for a, b in pairwise(anchors)]
    line = np.concatenate([piece[:-1] for piece in lines] + [lines[-1][-1:]])
    line = np.concatenate([line, np.broadcast_to(style, line.shape)], axis=1)
    return ((line + np.roll(line, -1, axis=0)) / 2)[:-1][window // 2 :]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_vectors(counter, key, expected):
    assert np.array_equal(philox.philox(words(counter), words(key)), words(expected))


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="Numba is not installed")
@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**60), st.integers(0, 70))
def test_kernel_and_numpy_twin_agree_bit_for_bit(seed, first, count):
    kernel = philox.normals(seed, "test", first, count)
    assert np.array_equal(kernel, philox.normals_numpy(seed, "test", first, count))


@pytest.mark.parametrize("normals", [philox.normals, philox.normals_numpy])
def test_any_stretch_is_a_slice_of_the_whole(normals):
    whole = normals(7, "test", 0, 200)
    for first, count in [(0, 200), (1, 3), (2, 1), (63, 66), (199, 1), (50, 0)]:
        assert np.array_equal(normals(7, "test", first, count), whole[first : first + count])


def test_normals_are_normal():
    z = philox.normals(3, "test", 0, 200_000).astype(float)
    assert abs(z.mean()) < 0.01
    assert abs(z.var() - 1) < 0.02
    assert abs((z**4).mean() - 3) < 0.1
    assert abs((z[1:] * z[:-1]).mean()) < 0.01


def test_seeds_and_purposes_are_independent():
    streams = [philox.normals(s, p, 0, 20_000) for s, p in [(0, "a"), (1, "a"), (2**32, "a"), (0, "b")]]
    assert np.abs(np.corrcoef(streams) - np.eye(4)).max() < 0.03


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "7", True, None])
def test_a_bad_seed_is_named(seed):
    with pytest.raises(UsageError, match="seed="):
        philox.normals_numpy(seed, "test", 0, 1)


@pytest.mark.parametrize("config", [NORMAL, SMALL], ids=["window 128", "window 64"])
def test_closed_form_equals_the_original_recipe(config):
    window, spacing = config.generator.window, config.generator.anchor_spacing
    anchors = [truncated_normals(5, "anchor", i, 64, 2.0) for i in range(5)]
    expected = original_recipe(anchors, truncated_normals(5, "style", 0, 64, 2.0), window)
    got = coordinates(config, 5, 0, 4 * spacing - window // 2)
    assert np.abs(got - expected).max() < 1e-6


@pytest.mark.parametrize("config", [NORMAL, SMALL], ids=["window 128", "window 64"])
def test_generation_may_start_anywhere(config):
    whole = coordinates(config, 11, 0, 2000)
    for start, count in [(0, 1), (1, 127), (319, 2), (320, 128), (1999, 1), (700, 1300), (5, 0)]:
        assert np.array_equal(coordinates(config, 11, start, count), whole[start : start + count])


def test_far_positions_stay_exact():
    far = 3 * NORMAL.generator.window * 10**12
    step = coordinates(NORMAL, 1, far, 3)[:, :64].astype(float)
    assert np.abs(step[2] - 2 * step[1] + step[0]).max() < 1e-6  # on one straight line
    assert np.abs(step[1] - step[0]).max() > 1e-5


@pytest.mark.parametrize("truncation", [0.1, 1.0, 2.0, 8.0])
def test_truncation_bounds_and_shapes_the_vectors(truncation):
    x = np.concatenate([truncated_normals(2, "anchor", i, 64, truncation) for i in range(100)])
    assert np.abs(x).max() <= truncation
    assert np.abs(x).max() > min(0.95 * truncation, 3)
    assert abs(x.mean()) < 0.05 * truncation


@pytest.mark.parametrize("period", [1, 100, 384, 700, 1000, 3 * 384])
def test_a_loop_repeats_and_has_no_corner_at_its_seam(period):
    twice = coordinates(NORMAL, 9, 0, 2 * period, period=period).astype(float)
    assert np.array_equal(twice[:period], twice[period:])
    slope = np.abs(np.diff(twice, axis=0)).max(axis=1)
    assert slope[period - 1] <= 1.001 * slope.max()
    assert slope.max() < 4.1 / (384 * 2 / 3)  # two anchors differ by at most 4; spacing shrinks by a third at most


def test_style_and_conditions_are_appended():
    config = Config(generator=GeneratorConfig(conditions=(Condition("bpm", "1/min", 135, 12, 60, 200),)))
    signal = np.arange(10, dtype=np.float32)[:, None]
    got = coordinates(config, 1, 0, 10, conditions=signal, style=np.full(64, 0.25))
    assert got.dtype == np.float32
    assert got.shape == (10, 129)
    assert np.all(got[:, 64:128] == 0.25)
    assert np.array_equal(got[:, 128:], signal)
    with pytest.raises(UsageError, match="conditions of shape None"):
        coordinates(config, 1, 0, 10)


@pytest.mark.parametrize(
    "arguments",
    [{"start": -1}, {"count": -5}, {"truncation": -1}, {"truncation": np.nan}, {"period": 0},
     {"style": np.zeros(3)}, {"style": np.full(64, np.nan)}, {"seed": -3}],
)  # fmt: skip
def test_bad_arguments_are_named(arguments):
    with pytest.raises(UsageError, match=next(iter(arguments))):
        coordinates(NORMAL, **{"seed": 1, "start": 0, "count": 4, **arguments})


def test_layer_noise_depends_on_the_window_not_on_the_batch():
    whole = layer_noise(7, "chunk_decoder", "left", 0)("u0", 9, 6)
    assert np.array_equal(layer_noise(7, "chunk_decoder", "left", 4)("u0", 2, 6), whole[4:6])
    others = [("chunk_decoder", "right", "u0"), ("frame_decoder", "left", "u0"), ("chunk_decoder", "left", "u1")]
    for network, channel, layer in others:
        assert not np.isin(layer_noise(7, network, channel, 0)(layer, 9, 6), whole).any()
