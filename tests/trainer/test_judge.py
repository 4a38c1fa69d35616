"""A judge learns what is generated, by what was asked for too, and is kept smooth."""

import numpy as np
import pytest
from everwave_trainer.critics import SpectralConv, sound_critic
from everwave_trainer.judge import MAX_R1_WEIGHT, R1_RATE, Judge
from keras import ops


def score(judge, x):
    return ops.mean(judge.scores(x))


@pytest.fixture
def judge():
    return Judge(sound_critic(5 + 1, 4), 3e-3, given=1)


def side(rng, shift):
    """Levels (8, 64, 5) that follow what was asked for, which is beside them, `shift` frames late: (8, 64, 6)."""
    asked = np.cumsum(rng.standard_normal((8, 64, 1)), axis=1) / 4
    levels = np.roll(asked, shift, axis=1) + 0.1 * rng.standard_normal((8, 64, 5))
    return ops.convert_to_tensor(np.concatenate([levels, asked], axis=2).astype(np.float32))


def test_what_does_not_follow_is_told_from_what_does(judge):
    rng = np.random.default_rng(0)
    said = []
    for step in range(150):
        real, fake = side(rng, 0), side(rng, 16)
        said.append(judge.learn(step % 4 == 0, real, fake, score(judge, fake)))
    hinges = np.array([float(s["hinge"]) for s in said])
    assert hinges[-20:].mean() < 0.6 * hinges[:5].mean()
    assert float(score(judge, side(rng, 0))) > float(score(judge, side(rng, 16)))
    assert "r1_penalty" in said[0]
    assert "r1_penalty" not in said[1]


def test_the_penalty_grows_while_the_judge_is_certain_and_is_bounded(judge):
    sides = side(np.random.default_rng(0), 0), side(np.random.default_rng(0), 16)
    judge.r1_weight.assign(5.0)
    judge.learn(False, *sides, score(judge, sides[0]) - 10.0)
    assert float(judge.r1_weight) == pytest.approx(5.0 + R1_RATE * MAX_R1_WEIGHT)
    judge.learn(False, *sides, score(judge, sides[0]) + 10.0)
    assert float(judge.r1_weight) == pytest.approx(5.0)
    judge.r1_weight.assign(MAX_R1_WEIGHT)
    judge.learn(False, *sides, score(judge, sides[0]) - 10.0)
    assert float(judge.r1_weight) == MAX_R1_WEIGHT


def test_a_spectral_convolution_divides_by_its_norm():
    layer = SpectralConv(8, 3)
    impulses = np.zeros((5, 3, 5), np.float32)
    impulses[np.arange(5), 1, np.arange(5)] = 1
    answer = ops.convert_to_numpy(layer(impulses))  # of each channel: its kernel, backwards
    kernel = ops.convert_to_numpy(layer.kernel)
    expected = kernel[::-1].transpose(1, 0, 2) / np.linalg.norm(kernel.reshape(-1, 8), 2)
    np.testing.assert_allclose(answer, expected, rtol=0.1, atol=1e-3)
