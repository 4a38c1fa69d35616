"""From one sample rate to another: a polyphase filter by Kaiser's design, over streams in constant memory.

scipy.signal.resample_poly with the same filter gives the same for a whole signal; its default filter, ten zero
crossings long, lets a tone of 23 kHz at 48 kHz fold back into 44.1 kHz at -10 dB.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from .errors import UsageError

Array = np.ndarray

BLOCK_FRAMES = 1 << 16

# Kaiser's design: 64 zero crossings a side leave 100 dB of attenuation over a transition of a tenth of the band, which
# ends at the Nyquist frequency of the lower rate: nothing below 19.8 kHz is touched in 44.1 kHz audio, nothing folds.
ZERO_CROSSINGS = 64
TRANSITION = 0.1
ATTENUATION = 100.0  # dB

MAX_PHASES = 1024  # of a polyphase filter; 44101 Hz to 44100 Hz would take 44100 of them, half a gigabyte
TABLE_STEPS = 2048  # a zero crossing; straight lines in between are wrong by -130 dB
DIRECT_TAPS = 1 << 19  # at once: 4 MB of coefficients


class Resampler:
    """A stream from one sample rate to another in constant memory: `push` blocks, then `flush` the rest.

    What comes out is the same however the stream is cut, has no delay, and is ceil(frames * to_rate / from_rate) long.
    UsageError for rates that are no whole numbers of Hz.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int) -> None:
        for rate in (from_rate, to_rate):
            if rate != int(rate) or rate < 1:
                raise UsageError(f"sample rate {rate!r}; it must be a whole number of Hz above 0")
        divisor = math.gcd(int(from_rate), int(to_rate))
        self.up, self.down = int(to_rate) // divisor, int(from_rate) // divisor
        # in steps of the rate `up * from_rate`; output m needs the input from (m * down - half) / up to (m * down + half) / up
        self._half = ZERO_CROSSINGS * max(self.up, self.down) if self.up != self.down else 0
        self._pending = np.zeros((channels, 0), np.float32)
        self._first = 0  # position of pending[:, 0] in the input
        self._made = 0  # output frames given so far

    def push(self, block: Array) -> Array:
        """Input (n, channels) -> the output (m, channels), float32, that is settled by now."""
        self._pending = np.concatenate([self._pending, np.asarray(block, np.float32).T], axis=1)
        return self._make((self._end() * self.up - 1 - self._half) // self.down + 1)

    def flush(self) -> Array:
        """The rest (m, channels), with silence after the end of the input."""
        return self._make(-(-self._end() * self.up // self.down))

    def _end(self) -> int:
        return self._first + self._pending.shape[1]

    def _make(self, end: int) -> Array:
        """Output frames made .. end; input that no later frame needs is forgotten."""
        if end <= self._made:
            return np.zeros((0, len(self._pending)), np.float32)
        if not self._half:
            result = self._pending
        elif max(self.up, self.down) <= MAX_PHASES:
            result = self._filter(end - self._made)
        else:
            frames, size = np.arange(self._made, end, dtype=np.int64), max(DIRECT_TAPS * self.up // (2 * self._half), 1)
            parts = [self._filter_directly(frames[i : i + size]) for i in range(0, len(frames), size)]
            result = np.concatenate(parts, axis=1)
        needed = max(-((self._half - end * self.down) // self.up), self._first)
        self._pending = self._pending[:, needed - self._first :].copy()
        self._first, self._made = needed, end
        return np.ascontiguousarray(result.T)

    def _filter(self, count: int) -> Array:
        """y[m] = sum_k x[k] h[m down - k up + half]; zeros before h make its first index a multiple of `down`."""
        from scipy.signal import upfirdn

        taps = anti_alias_filter(self.up, self.down)
        start = self._made * self.down - self._first * self.up + self._half
        zeros = -start % self.down
        skip = (start + zeros) // self.down
        taps = np.concatenate([np.zeros(zeros), taps])
        return upfirdn(taps, self._pending, self.up, self.down)[:, skip : skip + count].astype(np.float32)

    def _filter_directly(self, frames: Array) -> Array:
        """y[m] = sum_n x[n] h(n - m down / up) with h from a table: for ratios that would need too many phases."""
        stretch = max(
            self.down / self.up, 1.0
        )  # of the filter, so that nothing above the lower Nyquist frequency folds
        reach = math.ceil(ZERO_CROSSINGS * stretch)
        centre, rest = np.divmod(frames * self.down, self.up)
        offsets = np.arange(-reach, reach + 2)
        time = np.abs(offsets - (rest / self.up)[:, None]) * (TABLE_STEPS / stretch)
        table, rise = _filter_table()
        index = np.minimum(time.astype(np.int64), len(table) - 1)
        taps = (table[index] + rise[index] * (time - index)) / stretch
        padded = np.pad(self._pending, ((0, 0), (reach + 1, reach + 2)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(offsets), axis=1)
        # each sum by itself, so that it does not depend on what else is asked for
        return np.stack([(x[centre - self._first + 1] * taps).sum(axis=1) for x in windows]).astype(np.float32)


@lru_cache(maxsize=4)
def anti_alias_filter(up: int, down: int) -> Array:
    """Kaiser-windowed sinc, float64 (2 * 64 * max(up, down) + 1,), at `up` times the input rate; sums to `up`."""
    taps = _windowed_sinc(max(up, down))
    return taps * (up / taps.sum())


@lru_cache(maxsize=1)
def _filter_table() -> tuple[Array, Array]:
    """The same filter from its middle to its end and a zero, TABLE_STEPS a zero crossing, and the rise to the next value.

    Its whole integral is 1.
    """
    taps = _windowed_sinc(TABLE_STEPS)
    table = np.append(taps[len(taps) // 2 :] * (TABLE_STEPS / taps.sum()), 0)
    return table, np.append(np.diff(table), 0)


def _windowed_sinc(steps: int) -> Array:
    """float64 (2 * 64 * steps + 1,), `steps` a zero crossing; 1 in the middle."""
    time = np.arange(-ZERO_CROSSINGS * steps, ZERO_CROSSINGS * steps + 1) / steps
    return np.sinc((1 - TRANSITION / 2) * time) * np.kaiser(len(time), 0.1102 * (ATTENUATION - 8.7))


def resample(samples: Array, from_rate: int, to_rate: int) -> Array:
    """float32 (frames,) or (frames, channels) at `from_rate` Hz -> ceil(frames * to_rate / from_rate) at `to_rate` Hz.

    Flat to 0.9 of the lower Nyquist frequency, 100 dB down from there on up; see `Resampler` for streams.
    """
    columns = samples[:, None] if samples.ndim == 1 else samples
    resampler = Resampler(from_rate, to_rate, columns.shape[1])
    pieces = [resampler.push(columns[i : i + BLOCK_FRAMES]) for i in range(0, len(columns), BLOCK_FRAMES)]
    result = np.concatenate([*pieces, resampler.flush()])
    return result[:, 0] if samples.ndim == 1 else result


def resample_circle(samples: Array, frames: int) -> Array:
    """float32 (n, channels) whose end goes on into its start -> the same in `frames` samples, float32.

    What repeats is a sum of whole waves, so nothing is lost but what lies at or above the new Nyquist frequency.
    """
    from scipy import fft

    waves = (min(len(samples), frames) + 1) // 2
    result = np.empty((frames, samples.shape[1]), np.float32)
    for channel in range(samples.shape[1]):  # one at a time: minutes of them take memory
        spectrum = fft.rfft(np.ascontiguousarray(samples[:, channel], np.float32))[:waves]
        result[:, channel] = fft.irfft(spectrum, frames)
    result *= frames / len(samples)
    return result
