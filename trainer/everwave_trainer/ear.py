"""Whether notes are heard when they were asked for: generated latents through the frozen decoders, as a listener hears them.

Where the onsets of a piece lie is a small part of its latents, so neither a critic nor moments nor a network that guesses the
density from latents (which is soon fooled) makes a generator place them. What decides is the sound: its log-magnitudes shall
rise when the clock of the density says that a note begins, and not between.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
from everwave import weights
from everwave.config import DECODER_FRAMES, DECODER_LATENTS, FRAMES_PER_LATENT, Condition, Config
from keras import ops

from . import losses
from .layers import build, set_parameters

CONTRAST = 2.0  # of rises near asked onsets to those elsewhere; more is not asked for
LENGTH = 16  # latents of one channel that are listened to in a step
FIRST, LAST = -3, 3  # frames around an onset in which log-magnitudes rise: a window is four hops long


class Ear:
    """The decoders of an autoencoder, not trained, and what is heard of generated latents."""

    def __init__(self, autoencoder: Path, config: Config, random: keras.random.SeedGenerator) -> None:
        self.config, self.random, self.hand = config, random, slowest_hand(config.generator.conditions)
        parameters = weights.read(autoencoder).parameters
        self.networks = {name: build(name, config, random) for name in ("chunk_decoder", "frame_decoder")}
        for name, network in self.networks.items():
            set_parameters(network, parameters[name])

    def excerpt(self, latents: Any, inputs: Any) -> tuple[Any, Any]:
        """LENGTH latents of one channel, left and right in turn, from a random place (B, LENGTH, C); and the inputs there.

        latents (B, T, 2 C): of both channels, T >= LENGTH. inputs (B, T, n): the conditions that were asked for.
        """
        size = latents.shape[2] // 2
        places = (latents.shape[1] - LENGTH) // DECODER_LATENTS + 1
        start = DECODER_LATENTS * keras.random.randint((), 0, places, seed=self.random)
        here = ops.arange(LENGTH) + start
        right = (np.arange(latents.shape[0]) % 2 == 1)[:, None, None]
        latents = ops.take(latents, here, axis=1)
        return ops.where(right, latents[:, :, size:], latents[:, :, :size]), ops.take(inputs, here, axis=1)

    def heard(self, latents: Any) -> Any:
        """One channel's latents (B, T, C) -> decoded log-magnitudes (B, 16 T, bins)."""
        a = self.config.autoencoder
        windows = ops.reshape(latents, (-1, DECODER_LATENTS, a.latents))
        frames = ops.reshape(
            self.networks["chunk_decoder"](windows, training=True), (-1, DECODER_FRAMES, a.frame_latents)
        )
        level, _ = self.networks["frame_decoder"](frames, training=True)
        return ops.reshape(level, (-1, FRAMES_PER_LATENT * latents.shape[1], level.shape[2]))

    def rises(self, heard: Any) -> Any:
        """Log-magnitudes (B, T, bins) -> how much those of all mels rise (B, T - RISE)."""
        weights = losses.mel_weights(heard.shape[2], self.config.signal.sample_rate)
        return ops.mean(losses.rises(heard) * weights, axis=2)

    def missed(self, heard: Any, inputs: Any) -> Any:
        """How much less than CONTRAST times as strong as elsewhere rises near asked onsets are: mean logarithm, 0 if none is.

        heard (B, 16 T, bins): log-magnitudes. inputs (B, T, n): the conditions that were asked for.
        """
        assert self.hand is not None
        place, turn = self.hand
        hands, rises = inputs[:, :, place], self.rises(heard)
        near = near_onsets(hands, turn)
        first = FRAMES_PER_LATENT // 2
        rises = rises[:, first : first + near.shape[1]]
        inner = np.ones(near.shape[1], np.float32)
        inner[: LAST + 1] = inner[FIRST:] = 0.0  # an onset may lie just before or after
        away = (1.0 - near) * inner
        there = ops.sum(rises * near, axis=1) / (ops.sum(near, axis=1) + 1e-3)
        # fourth powers: one rise as strong as a note's is a note that nobody asked for, many weak ones are none
        elsewhere = (ops.sum(rises**4 * away, axis=1) / (ops.sum(away, axis=1) + 1e-3) + 1e-12) ** 0.25
        # where no note is asked for, rises shall be weak beside those of the other crops' notes
        common = ops.sum(rises * near) / (ops.sum(near) + 1e-3)
        there = ops.where(ops.sum(near, axis=1) > 0, there, common)
        some = ops.cast(ops.sum(away, axis=1) > 0, rises.dtype)
        lacking = ops.relu(math.log(CONTRAST) + ops.log(elsewhere + 1e-4) - ops.log(there + 1e-4))
        return ops.sum(some * lacking) / ops.maximum(ops.sum(some), 1.0)


def near_onsets(hands: Any, turn: int) -> Any:
    """Hands (B, T, 2) that turn once in `turn` onsets, at the middles of latents -> 1 near onsets, else 0: (B, 16 (T - 1)) frames.

    The first frame is that of the first latent's middle.
    """
    counted = ops.arctan2(hands[:, :, 1], hands[:, :, 0]) * (turn / (2 * math.pi))
    steps = ops.mod(counted[:, 1:] - counted[:, :-1], turn)[:, :, None]
    shares = ops.arange(FRAMES_PER_LATENT + 1, dtype="float32") / FRAMES_PER_LATENT
    passed = ops.floor(counted[:, :-1, None] + steps * shares)
    onsets = ops.cast(passed[:, :, 1:] > passed[:, :, :-1], "float32")
    onsets = ops.reshape(onsets, (-1, onsets.shape[1] * FRAMES_PER_LATENT, 1))
    wide = ops.pad(onsets, ((0, 0), (LAST, -FIRST), (0, 0)))
    return ops.max_pool(wide, LAST - FIRST + 1, 1)[:, :, 0]


def slowest_hand(conditions: tuple[Condition, ...]) -> tuple[slice, int] | None:
    """Where among the network's inputs the slowest hand of a density's clock is, and in how many onsets it turns once."""
    at = 0
    for condition in conditions:
        if condition.name == "density" and condition.clocks:
            turn = max(condition.clocks)
            first = at + 1 + 2 * condition.clocks.index(turn)
            return slice(first, first + 2), turn
        at += condition.channels
    return None
