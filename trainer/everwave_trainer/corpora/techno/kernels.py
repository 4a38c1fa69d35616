"""Voices and effects, sample by sample: arrays and scalars only. Stereo buffers are float32 (frames, 2), worked in place."""

from __future__ import annotations

import math

import numpy as np
from numpy import ndarray as Array

from ..jit import kernel

CONTROL = 64  # frames per value of a cutoff curve
BLOCK = 32  # frames for which a voice keeps its pitch and cutoff
SAW, PULSE, SINE = 0, 1, 2  # oscillators; the sine is phase-modulated by another an octave above


@kernel()
def place(out: Array, sample: Array, starts: Array, gains: Array) -> None:
    """Add the one-shot (n, 2) to `out` at every start frame."""
    for i in range(len(starts)):
        start, gain = starts[i], gains[i]
        for n in range(min(len(sample), len(out) - start)):
            out[start + n, 0] += gain * sample[n, 0]
            out[start + n, 1] += gain * sample[n, 1]


@kernel(fastmath=True)
def _blep(phase: np.float32, inverse: np.float32) -> np.float32:
    """The polynomial band-limited step: what a naive saw lacks within a sample (1 / `inverse`) of its jump."""
    zero = np.float32(0)
    before, after = 1 - (1 - phase) * inverse, 1 - phase * inverse
    before, after = before if before > 0 else zero, after if after > 0 else zero
    return before * before - after * after


@kernel(fastmath=True)
def _oscillate(
    block: Array, shape: int, phase: float, step: float, width: float, modulation: float, left: float, right: float
) -> float:
    """Add a block of one oscillator to the columns of `block`; returns its phase afterwards."""
    inverse, one = np.float32(1 / step), np.float32(1)
    for n in range(block.shape[1]):
        p = np.float32(phase + n * step)
        p -= np.floor(p)
        if shape == SAW:
            value = 2 * p - one - _blep(p, inverse)
        elif shape == PULSE:
            q = p + one - np.float32(width)
            q -= np.floor(q)
            value = 2 * (q - p) - _blep(q, inverse) + _blep(p, inverse)  # two saws, of mean 0 each
        else:
            value = np.float32(math.sin(2 * math.pi * p + modulation * math.sin(4 * math.pi * p)))
        block[0, n] += np.float32(left) * value
        block[1, n] += np.float32(right) * value
    phase += block.shape[1] * step
    return phase - math.floor(phase)


@kernel()
def play(
    out: Array, starts: Array, holds: Array, glides: Array, freqs: Array, velocities: Array,
    shape: int, width: float, modulation: float, detunes: Array, left: Array, right: Array,
    attack: float, decay: float, sustain: float, release: float,
    cutoffs: Array, octaves: float, fall: float, resonance: float, rate: float,
) -> None:  # fmt: skip
    """Add notes to `out`: detuned oscillators, envelope, resonant low-pass that opens by `octaves` and falls back.

    Per note: start frame, frames held, frequency that it glides from, frequency, velocity. Per oscillator: frequency
    ratio, gains to the left and right. `attack`, `decay`, `release`, `fall` in seconds; `cutoffs` in Hz per CONTROL.
    """
    phases, block = np.zeros(len(detunes)), np.zeros((2, BLOCK), np.float32)
    rise = max(int(attack * rate), 1)
    to_sustain, to_zero = 1 - math.exp(-1 / (decay * rate)), 1 - math.exp(-6.9 / (release * rate))
    damp = 2.0 - 1.9 * resonance
    for i in range(len(starts)):
        start, hold = starts[i], holds[i]
        length = min(hold + int(release * rate), len(out) - start)
        for k in range(len(detunes)):
            phases[k] = (0.7548776662 * i + 0.5698402910 * k) % 1.0
        level, l1, l2, r1, r2 = 0.0, 0.0, 0.0, 0.0, 0.0
        for first in range(0, length, BLOCK):
            t = first / rate
            step = freqs[i] * (glides[i] / freqs[i]) ** math.exp(-t / 0.025) / rate
            block[:] = 0
            for k in range(len(detunes)):
                phases[k] = _oscillate(
                    block, shape, phases[k], step * detunes[k], width, modulation * level, left[k], right[k]
                )
            # state-variable filter in its trapezoidal form (Simper, "Linear trapezoidal integrated SVF", 2013)
            cutoff = cutoffs[(start + first) // CONTROL] * 2.0 ** (octaves * velocities[i] * math.exp(-t / fall))
            g = math.tan(math.pi * min(cutoff, 0.42 * rate) / rate)
            a1 = 1 / (1 + g * (g + damp))
            a2, a3 = g * a1, g * g * a1
            for n in range(first, min(first + BLOCK, length)):
                if n < rise:
                    level = min(n, hold) / rise
                elif n < hold:
                    level += (sustain - level) * to_sustain
                else:
                    level -= level * to_zero
                v3, w3 = block[0, n - first] - l2, block[1, n - first] - r2
                v1, w1 = a1 * l1 + a2 * v3, a1 * r1 + a2 * w3
                v2, w2 = l2 + a2 * l1 + a3 * v3, r2 + a2 * r1 + a3 * w3
                l1, l2 = 2 * v1 - l1, 2 * v2 - l2
                r1, r2 = 2 * w1 - r1, 2 * w2 - r2
                out[start + n, 0] += level * velocities[i] * v2
                out[start + n, 1] += level * velocities[i] * w2


@kernel()
def send(bus: Array, master: Array, to_echo: Array, echoed: float, to_reverb: Array, reverberated: float) -> None:
    """Add the bus to the master and, in these proportions, to the effects."""
    for n in range(len(bus)):
        for c in range(2):
            master[n, c] += bus[n, c]
            to_echo[n, c] += echoed * bus[n, c]
            to_reverb[n, c] += reverberated * bus[n, c]


@kernel(fastmath=True)
def saturate(bus: Array, gain: np.float32) -> None:
    """tanh(gain * bus) by its rational approximation, which reaches 1 at 3."""
    flat = bus.reshape(-1)
    for n in range(len(flat)):
        x = min(max(gain * flat[n], np.float32(-3)), np.float32(3))
        flat[n] = x * (27 + x * x) / (27 + 9 * x * x)


@kernel()
def sweep(bus: Array, cutoffs: Array, resonance: float, high_pass: bool, rate: float) -> None:
    """Filter a bus by a cutoff curve in Hz, one value per CONTROL frames: low-pass, or high-pass."""
    k_damp = 2.0 - 1.9 * resonance
    state = np.zeros((2, 2))
    a1, a2, a3 = 0.0, 0.0, 0.0
    for n in range(len(bus)):
        if n % CONTROL == 0:
            g = math.tan(math.pi * min(cutoffs[n // CONTROL], 0.42 * rate) / rate)
            a1 = 1 / (1 + g * (g + k_damp))
            a2, a3 = g * a1, g * g * a1
        for c in range(2):
            x = bus[n, c]
            v3 = x - state[c, 1]
            v1 = a1 * state[c, 0] + a2 * v3
            v2 = state[c, 1] + a2 * state[c, 0] + a3 * v3
            state[c, 0] = 2 * v1 - state[c, 0]
            state[c, 1] = 2 * v2 - state[c, 1]
            bus[n, c] = x - k_damp * v1 - v2 if high_pass else v2


@kernel()
def duck(bus: Array, kicks: Array, depth: float, seconds: float, rate: float) -> None:
    """Side-chain: lower the bus by `depth` at every kick (start frames, rising), back within `seconds`."""
    length, at = int(seconds * rate), 0
    smooth = 1.0
    for n in range(len(bus)):
        while at + 1 < len(kicks) and kicks[at + 1] <= n:
            at += 1
        gain = 1.0
        if len(kicks) and kicks[at] <= n < kicks[at] + length:
            x = (n - kicks[at]) / length
            gain = 1.0 - depth * (1.0 - x) * (1.0 - x)
        smooth += 0.01 * (gain - smooth)  # within 2 ms: no click
        bus[n, 0] *= smooth
        bus[n, 1] *= smooth


@kernel()
def echo(bus: Array, frames: int, feedback: float, damping: float) -> None:
    """Turn the bus into its own ping-pong echoes, each `frames` after the one before and duller."""
    line = np.zeros((frames, 2))
    low = np.zeros(2)
    at = 0
    for n in range(len(bus)):
        left, right = line[at, 0], line[at, 1]
        low[0] += (right - low[0]) * damping
        low[1] += (left - low[1]) * damping
        line[at, 0] = 0.7 * (bus[n, 0] + bus[n, 1]) + feedback * low[0]
        line[at, 1] = feedback * low[1]
        bus[n, 0], bus[n, 1] = left, right
        at += 1
        if at == frames:
            at = 0
