"""From a score to samples: one-shots and voices on their buses, echo, reverberation, side-chain, saturation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import resample

from ..reverb import LINES, reverb
from . import kernels
from .kernels import CONTROL
from .kits import Kit, OneShot
from .patches import Patch
from .score import UNIT, Part, Score

SOFT_ATTACK = 0.05  # seconds: what swells longer has no onset
PEAK = 0.97


@dataclass(frozen=True)
class Mixed:
    """A finished track: float32 (frames, 2), when things begin in it (frames, rising), and the one-shots it uses."""

    samples: np.ndarray
    onsets: np.ndarray
    one_shots: list[OneShot]


def mix(score: Score, kit: Kit, sample_rate: int, rng: np.random.Generator) -> Mixed:
    """Play a score on a kit; `rng` is for noise and for which notes glide."""
    return _Desk(score, kit, sample_rate, rng).run()


class _Desk:
    def __init__(self, score: Score, kit: Kit, sample_rate: int, rng: np.random.Generator) -> None:
        self.score, self.kit, self.rate, self.rng = score, kit, sample_rate, rng
        self.frames = self.at(score.steps)
        self.master, self.to_echo, self.to_reverb = (np.zeros((self.frames, 2), np.float32) for _ in range(3))
        self.onsets: set[int] = set()
        self.used: dict[str, OneShot] = {}
        kick = next(part for part in score.parts if part.role == "kick")
        beats = [u * UNIT + b for u, s in enumerate(score.sections) if s == "break" for b in range(0, UNIT, 4)]
        # the pumping goes on through the breaks, so that the beat is felt there too
        self.kicks = np.array(sorted({self.at(step) for step in [*beats, *(s for s, _ in kick.hits)]}), np.int64)

    def at(self, step: float) -> int:
        """The frame on which a step falls."""
        return round(self.score.seconds(step) * self.rate)

    def run(self) -> Mixed:
        bus = np.zeros((self.frames, 2), np.float32)
        for part in self.score.parts:
            if not (part.patch or part.echo or part.reverb):
                self.drum(part, self.master)
                continue
            bus.fill(0)
            if part.patch:
                self.voice(part, part.patch, bus)
            else:
                self.drum(part, bus)
            if part.duck:
                kernels.duck(bus, self.kicks, part.duck, min(0.4, 50 / self.score.bpm), self.rate)
            kernels.send(bus, self.master, self.to_echo, part.echo, self.to_reverb, part.reverb)
        self.risers()
        self.effects()
        return Mixed(self.finished(), np.array(sorted(self.onsets)), list(self.used.values()))

    def drum(self, part: Part, bus: np.ndarray) -> None:
        shots = self.kit[part.role]
        shot = shots[int(part.choice * len(shots))]
        self.used[shot.name] = shot
        sample = _transposed(shot.samples, part.transpose)
        if part.held:
            # 60 dB down when the time is over
            frames = np.arange(min(len(sample), self.at(part.held))) * np.float32(-6.9 / self.at(part.held))
            sample = sample[: len(frames)] * np.exp(frames)[:, None]
        sample = sample * np.sqrt([1 - part.pan, 1 + part.pan]).astype(np.float32)
        starts = np.array([self.at(step) for step, _ in part.hits], np.int64)
        gains = np.array([part.level * velocity for _, velocity in part.hits], np.float32)
        kernels.place(bus, sample, starts, gains)
        self.onsets.update(starts.tolist())

    def voice(self, part: Part, patch: Patch, bus: np.ndarray) -> None:
        starts = np.array([self.at(step) for step, *_ in part.notes], np.int64)
        stops = np.array([self.at(step + held) for step, held, *_ in part.notes], np.int64)
        freqs = 440 * 2 ** ((np.array([pitch for *_, pitch, _ in part.notes], np.float64) - 69) / 12)
        velocities = np.array([velocity for *_, velocity in part.notes], np.float64)
        glides = np.where(self.rng.random(len(freqs)) < patch.glide, np.concatenate([freqs[:1], freqs[:-1]]), freqs)
        kernels.play(
            bus, starts, stops - starts, glides, freqs, velocities, patch.shape, patch.width, patch.modulation,
            *patch.oscillators(), patch.attack, patch.decay, patch.sustain, patch.release,
            patch.cutoff * 2 ** self.curve(part.octaves), patch.octaves, patch.fall, patch.resonance, float(self.rate),
        )  # fmt: skip
        bus *= np.float32(part.level / _loudness(bus))
        if patch.drive:
            gain = np.float32(patch.drive / (3 * part.level))
            kernels.saturate(bus, gain)
            bus /= gain
        if patch.attack <= SOFT_ATTACK:
            self.onsets.update(starts.tolist())

    def curve(self, values: list[float]) -> np.ndarray:
        """Values at the starts of the units (and at the end) -> one per CONTROL frames."""
        knots = [self.at(unit * UNIT) for unit in range(len(values))]
        return np.interp(np.arange(0, self.frames + CONTROL, CONTROL), knots, values)

    def risers(self) -> None:
        """Noise that rises into every drop after a break or build."""
        for unit, (section, following) in enumerate(zip(self.score.sections, self.score.sections[1:], strict=False)):
            if following != "drop" or section not in ("break", "build"):
                continue
            stop = self.at((unit + 1) * UNIT)
            start = self.at((unit + 1) * UNIT - UNIT / (2 if section == "break" else 4))
            noise = self.rng.standard_normal((stop - start, 2)).astype(np.float32)
            ramp = np.linspace(0, 1, stop - start, dtype=np.float32)[:, None]
            rise = np.geomspace(300, 9000, (stop - start) // CONTROL + 1)
            kernels.sweep(noise, rise, 0.5, False, float(self.rate))
            noise *= 0.05 * ramp**2
            kernels.sweep(noise, rise / 3, 0.2, True, float(self.rate))
            self.master[start:stop] += noise
            self.to_reverb[start:stop] += 0.2 * noise

    def effects(self) -> None:
        score = self.score
        beat = 60 / score.bpm
        kernels.echo(self.to_echo, round(score.echo_steps * beat / 4 * self.rate), 0.5, 0.35)
        self.to_reverb += np.float32(0.25) * self.to_echo
        lengths = (LINES * self.rate / 44100 * 0.9).astype(np.int64)
        # each pass through the longest line loses what makes 60 dB in the stated time
        feedback = 10 ** (-3 * lengths.mean() / (score.reverb_seconds * self.rate))
        reverb(self.to_reverb, lengths, feedback, 0.45)
        kernels.duck(self.to_reverb, self.kicks, 0.5, 0.25, self.rate)
        self.master += self.to_echo
        self.master += self.to_reverb

    def finished(self) -> np.ndarray:
        """Rumble below 28 Hz out, saturated, scaled to PEAK, faded over the last beat's length."""
        master = self.master
        kernels.sweep(master, np.full(self.frames // CONTROL + 1, 28.0), 0.3, True, float(self.rate))
        kernels.saturate(master, np.float32(self.score.drive))
        master *= np.float32(PEAK / np.abs(master).max())
        fade = round(60 / self.score.bpm * self.rate)
        master[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)[:, None]
        return master


def _transposed(samples: np.ndarray, semitones: float) -> np.ndarray:
    length = round(len(samples) / 2 ** (semitones / 12))
    return np.ascontiguousarray(resample(samples, length, axis=0).astype(np.float32))


def _loudness(bus: np.ndarray) -> float:
    """Root mean square of what is louder than silence."""
    power = (bus[::16] ** 2).mean(axis=1)
    return float(np.sqrt(power[power > 1e-7].mean()))
