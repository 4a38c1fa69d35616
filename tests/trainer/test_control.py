"""What makes a generator controllable before its critic has learned anything: places of real pieces, moments of conditions."""

import numpy as np
import pytest
from everwave.checks import TRUNCATION
from everwave.config import PRESETS, Condition
from everwave.coordinates import coordinates
from everwave_trainer import losses, moments
from everwave_trainer.atlas import Atlas
from everwave_trainer.windows import DEVIATION, training_coordinates

TEMPO = Condition("bpm", "beats per minute", 140.0, 15.0, 115.0, 165.0, clocks=(1, 4))


def clocked(phase):
    """Network inputs of a tempo (B, T, 5) whose beats have come as far as `phase` (B, T)."""
    hands = [f(2 * np.pi * phase / turn) for turn in TEMPO.clocks for f in (np.cos, np.sin)]
    return np.stack([np.full_like(phase, 0.5), *hands], axis=2).astype(np.float32)


def test_features_are_the_harmonics_of_the_hands():
    phase = np.random.default_rng(0).uniform(0, 40, (2, 50))
    found = np.asarray(moments.features(clocked(phase), [TEMPO]))
    expected = [np.ones_like(phase), np.full_like(phase, 0.5)]
    for turn in TEMPO.clocks:
        for harmonic in range(1, moments.HARMONICS + 1):
            angle = 2 * np.pi * phase * harmonic / turn
            expected += [np.cos(angle), np.sin(angle)]
    np.testing.assert_allclose(found, np.stack(expected, axis=2), atol=1e-4)


def test_a_beat_shows_in_the_moments_and_noise_does_not():
    rng = np.random.default_rng(0)
    phase = np.arange(256) * 0.21 + rng.uniform(0, 4, (64, 1))
    inputs = clocked(phase)
    noise = rng.standard_normal((64, 256, 3)).astype(np.float32)
    beat = noise + np.cos(2 * np.pi * phase)[:, :, None].astype(np.float32)
    summaries = [moments.over_crops(moments.moments(x, moments.features(inputs, [TEMPO]))) for x in (noise, beat)]
    quiet, loud = (np.asarray(mean)[:, :3] for mean, _ in summaries)  # of the latents; their changes come after
    np.testing.assert_allclose(loud[2], 0.5, atol=0.05)  # the mean of cos * cos, first harmonic of the beat
    np.testing.assert_allclose(loud[16], 0.5, atol=0.05)  # of the bar's fourth, the same hand
    assert np.abs(quiet).max() < 0.05
    far, near = (float(moments.distance(summaries[1], summaries[i])) for i in (0, 1))
    assert far > 1.0
    assert near == 0.0
    changes = np.asarray(summaries[0][0])[0, 3:]
    np.testing.assert_allclose(changes, 2.0, atol=0.1)  # of noise of variance 1, the mean squared difference


def test_changes_where_windows_meet():
    latents = np.zeros((2, 24, 3), np.float32)
    latents[:, 8:] += 2.0  # where the first window of 8 ends
    latents[0, 20:] += 1.0  # and within the third
    meet, elsewhere = moments.where_windows_meet(latents, 8)
    assert float(meet) == pytest.approx(4 / 2)
    assert float(elsewhere) == pytest.approx(1 / (2 * 21))


def test_moments_hear_what_changes_slowly():
    """Noise that is new in every latent, and noise that repeats itself every four: what a beat for ever sounds like."""
    rng = np.random.default_rng(0)
    alive = rng.standard_normal((200, 256, 4)).astype(np.float32)
    repeated = np.tile(alive[:, :4], (1, 64, 1))
    one = np.ones((200, 256, 1), np.float32)
    found = [np.asarray(moments.moments(x, one)).mean(axis=0)[0].reshape(-1, 4) for x in (alive, repeated)]
    assert len(found[0]) == 1 + len(moments.LAGS)
    np.testing.assert_allclose(found[0][1:], 2.0, atol=0.1)  # twice the variance, at every lag
    np.testing.assert_allclose(found[1][1], found[0][1], atol=0.3)
    np.testing.assert_allclose(found[1][2:], 0.0, atol=1e-6)  # all lags but the first are multiples of four
    assert moments.moments(alive[:, :16], one[:, :16]).shape[2] == 4 * 3  # lags of 16 and 64 do not fit


def test_running_moments_do_not_reward_crops_that_are_all_alike():
    """The mean of four crops scatters: by batches, crops that vary as they should look far off. In the running mean they do not."""
    rng = np.random.default_rng(0)
    crops = rng.standard_normal((400, 4, 1, 6)).astype(np.float32)  # moments of crops, in batches of four
    real = recent = moments.over_crops(crops.reshape(-1, 1, 6))
    alike = real[0], np.square(real[0])  # as if every crop were the mean
    single = []
    for batch in crops[:300]:
        now = moments.over_crops(batch)
        single.append(float(moments.distance(real, now)))
        recent = moments.blend(recent, now, 0.95)
    right, flat = (float(moments.distance(real, x)) for x in (recent, alike))
    assert right < 0.1 * np.mean(single)
    assert right < 0.1 * flat


def test_a_place_is_a_line_between_the_pieces_own_anchors():
    g = PRESETS["tiny"].generator
    steps = [3 * g.anchor_spacing + 5, g.anchor_spacing // 2]
    atlas = Atlas(g, steps, seed=1)
    starts = np.array([2 * g.anchor_spacing + 3.75, 0.0])
    found = np.asarray(atlas.coordinates(*atlas.locate(np.array([0, 1]), starts, 2 * g.window)))
    assert found.shape == (2, 2 * g.window, g.anchor + g.style)
    unit = [v.numpy() / np.linalg.norm(v.numpy(), axis=1, keepdims=True) for v in atlas.variables]
    styles, anchors = (DEVIATION * v.shape[1] ** 0.5 * v for v in unit)
    for row, (start, first) in enumerate(zip(starts, (0, 3 + 2), strict=True)):
        np.testing.assert_allclose(found[row, :, g.anchor :], np.tile(styles[row], (2 * g.window, 1)), rtol=1e-4)
        for t in (0, 2 * g.window - 1):
            index, share = divmod((start + t + 0.5) / g.anchor_spacing, 1)
            expected = (1 - share) * anchors[first + int(index)] + share * anchors[first + int(index) + 1]
            np.testing.assert_allclose(found[row, t, : g.anchor], expected, rtol=1e-3, atol=1e-4)


def test_guesses_score_best_when_they_are_distributed_as_the_truth():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((20, 200, 8)).astype(np.float32)  # of which nothing can be known

    def score(spread: float, error: float = 0.0) -> float:
        once, again = (error + spread * rng.standard_normal(truth.shape).astype(np.float32) for _ in range(2))
        return float(losses.energy_score(once, again, truth))

    assert score(1.0) < min(score(0.0), score(0.7), score(1.4), score(1.0, error=0.3))


def test_places_and_random_coordinates_are_of_the_kind_that_is_played():
    """The same mean square in styles, and in anchors, between which it is less."""
    g = PRESETS["lite"].generator
    atlas = Atlas(g, [10 * g.anchor_spacing] * 20, seed=0)
    starts = np.random.default_rng(0).uniform(0, 9 * g.anchor_spacing, 20)
    ours = np.asarray(atlas.coordinates(*atlas.locate(np.arange(20), starts, 2 * g.window)))
    drawn = training_coordinates(PRESETS["lite"], 200, np.random.default_rng(0))
    played = np.stack([coordinates(PRESETS["lite"], i, i % 3 * g.window, 2 * g.window) for i in range(210)])
    for part in (slice(0, g.anchor), slice(g.anchor, None)):
        heard = np.mean(played[..., part] ** 2)
        np.testing.assert_allclose(np.mean(drawn[..., part] ** 2), heard, rtol=0.03)
        np.testing.assert_allclose(np.mean(ours[..., part] ** 2), heard, rtol=0.1)
    assert np.abs(drawn).max() <= TRUNCATION
