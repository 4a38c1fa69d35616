"""Synthesiser voices, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .kernels import PULSE, SAW, SINE


@dataclass(frozen=True)
class Patch:
    """One voice: oscillators, envelope in seconds, low-pass."""

    shape: int
    attack: float
    decay: float
    sustain: float
    release: float
    cutoff: float  # Hz
    octaves: float = 0.0  # that the filter opens further at the start of a note
    fall: float = 0.2  # seconds in which it falls back
    resonance: float = 0.1  # 0 to 1
    voices: int = 1  # detuned oscillators, spread over the stereo field
    detune: float = 0.0  # of the outermost, in semitones
    octave_below: bool = False  # one more oscillator an octave below
    width: float = 0.5  # of a pulse
    modulation: float = 0.0  # of a sine's phase, in radians
    glide: float = 0.0  # chance that a note glides from the one before
    drive: float = 0.0  # saturation after the filter

    def varied(self, rng: np.random.Generator) -> Patch:
        """The same voice with its controls turned a little."""
        turn = {
            name: getattr(self, name) * float(rng.uniform(0.7, 1.4))
            for name in ("cutoff", "decay", "fall", "detune", "modulation")
        }
        return replace(
            self, **turn, octaves=self.octaves * float(rng.uniform(0.8, 1.2)),
            resonance=min(self.resonance * float(rng.uniform(0.7, 1.3)), 0.93), width=float(rng.uniform(0.3, 0.5)),
        )  # fmt: skip

    def oscillators(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frequency ratios and gains to the left and the right (voices,)."""
        place = np.linspace(-1, 1, self.voices) if self.voices > 1 else np.zeros(1)
        ratios = 2 ** (place * self.detune / 12)
        left, right = np.sqrt((1 - 0.9 * place) / 2), np.sqrt((1 + 0.9 * place) / 2)
        if self.octave_below:
            ratios, left, right = np.append(ratios, 0.5), np.append(left, 0.7), np.append(right, 0.7)
        return ratios, left / len(ratios), right / len(ratios)


PATCHES = {
    "saw bass": Patch(
        SAW, 0.002, 0.2, 0.4, 0.04, 350, octaves=2.5, fall=0.08, resonance=0.3, octave_below=True, drive=1.5
    ),
    "round bass": Patch(SAW, 0.003, 0.15, 0.5, 0.03, 220, octaves=1.5, fall=0.06, resonance=0.2, drive=2.0),
    "square bass": Patch(PULSE, 0.002, 0.2, 0.5, 0.04, 400, octaves=2.0, fall=0.1, resonance=0.3, drive=1.5),
    "sub bass": Patch(SINE, 0.005, 0.5, 0.8, 0.06, 900, modulation=0.6, drive=1.5),
    "reese bass": Patch(
        SAW, 0.005, 0.5, 0.9, 0.06, 380, voices=3, detune=0.25, octave_below=True, octaves=1.0, fall=0.3, drive=2.0
    ),
    "acid": Patch(SAW, 0.002, 0.25, 0.3, 0.02, 260, octaves=3.2, fall=0.12, resonance=0.85, glide=0.25, drive=2.5),
    "saw stab": Patch(SAW, 0.002, 0.15, 0.1, 0.12, 700, octaves=3.0, fall=0.12, resonance=0.3, voices=3, detune=0.15),
    "dub chord": Patch(SAW, 0.003, 0.25, 0.1, 0.25, 450, octaves=2.0, fall=0.2, resonance=0.45, voices=2, detune=0.1),
    "organ": Patch(SINE, 0.002, 0.2, 0.4, 0.06, 5000, modulation=1.3),
    "hoover": Patch(
        PULSE, 0.01, 0.3, 0.5, 0.1, 1400, octaves=1.5, fall=0.2, resonance=0.2, voices=4, detune=0.3, octave_below=True
    ),
    "warm pad": Patch(SAW, 0.4, 1.0, 0.8, 0.8, 900, resonance=0.15, voices=3, detune=0.15),
    "wide pad": Patch(SAW, 0.15, 1.0, 0.9, 0.6, 2200, resonance=0.1, voices=4, detune=0.22),
    "glass pad": Patch(SINE, 0.3, 1.0, 0.8, 0.9, 6000, modulation=1.6, voices=2, detune=0.12),
    "pluck": Patch(SAW, 0.001, 0.12, 0.0, 0.12, 900, octaves=3.0, fall=0.08, resonance=0.25, voices=2, detune=0.12),
    "square pluck": Patch(PULSE, 0.001, 0.15, 0.1, 0.1, 1400, octaves=2.0, fall=0.1, resonance=0.3),
    "bell": Patch(SINE, 0.001, 0.35, 0.0, 0.3, 9000, modulation=2.5),
    "saw lead": Patch(
        SAW, 0.005, 0.4, 0.6, 0.12, 2400, octaves=1.0, fall=0.2, resonance=0.2, voices=4, detune=0.2, glide=0.2
    ),
    "square lead": Patch(PULSE, 0.005, 0.4, 0.6, 0.1, 2800, octaves=0.8, fall=0.2, resonance=0.25, glide=0.3),
}
