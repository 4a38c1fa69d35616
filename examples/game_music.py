"""Music that follows a game: 60 times a second the loop takes the samples of one frame, and says how tense it is.

This one plays a made-up minute of a game into a WAV file; a real one would give the samples to its mixer instead.
"""

from __future__ import annotations

import argparse
import math

import everwave
from everwave.audio import Writer

FRAMES_PER_SECOND = 60


class Music:
    """A stream that works ahead in the background, so that the loop never waits for it."""

    def __init__(self, model: everwave.Model, seed: int) -> None:
        self.stream = model.stream(seed=seed, ahead=4.0)
        self.level = -1

    def intensity(self, tension: float) -> None:
        """From 0, calm, to 1. Only a new level is a change: every change plans the music ahead anew."""
        level = round(4 * tension)
        if level != self.level:
            self.level = level
            self.stream.set(truncation=0.5 + 0.5 * level, style=100 + level // 2, gain=0.4 + 0.15 * level, glide=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="techno")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("-o", "--output", default="game.wav")
    options = parser.parse_args()
    model = everwave.load(options.model)
    music = Music(model, seed=7)
    with Writer(options.output, model.sample_rate) as mixer:
        for frame in range(round(options.seconds * FRAMES_PER_SECOND)):
            enemies = 0.5 - 0.5 * math.cos(2 * math.pi * frame / FRAMES_PER_SECOND / 20)  # come and go every 20 s
            music.intensity(enemies)
            mixer.write(music.stream.read(model.sample_rate // FRAMES_PER_SECOND))
    music.stream.close()
    print(f"{options.output}: {len(music.stream.log['changes'])} changes of intensity")


if __name__ == "__main__":
    main()
