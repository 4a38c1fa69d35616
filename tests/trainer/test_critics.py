"""What the critics say of latents: of every place at every scale."""

from dataclasses import replace

import numpy as np
import pytest
from everwave.config import PRESETS
from everwave_trainer.critics import latent_critic


@pytest.mark.parametrize("window", [64, 128])
def test_a_score_is_of_a_place_and_the_last_one_of_the_whole(window):
    tiny = PRESETS["tiny"]
    config = replace(tiny, generator=replace(tiny.generator, window=window))
    critic = latent_critic(config, 4)
    latents = np.random.default_rng(0).standard_normal((1, 2 * window, 2 * tiny.autoencoder.latents))
    latents = latents.astype(np.float32)
    before = np.asarray(critic(latents))
    assert before.shape == (1, window // 2, 5)
    for scale, span in enumerate((4, 8, 16, 32, 2 * window)):  # latents that share a score
        np.testing.assert_array_equal(np.ptp(before[0, : span // 4, scale]), 0)
    latents[:, -1] += 1.0
    changed = (np.asarray(critic(latents)) != before)[0]
    first = changed.argmax(axis=0) * 4  # the first latent whose score hears the last one
    assert changed[-1].all()
    assert 2 * window - 32 < first[0] < 2 * window  # three seconds and less
    assert (np.diff(first) <= 0).all()
    assert first[-1] == 0
