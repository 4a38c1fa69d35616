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
MAX_RATIO = 1 << 17  # keeps the filter below 140 MB


class Resampler:
    """A stream from one sample rate to another in constant memory: `push` blocks, then `flush` the rest.

    What comes out is the same however the stream is cut, has no delay, and is ceil(frames * to_rate / from_rate) long.
    UsageError if the ratio of the rates has terms above 131072 in lowest form.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int) -> None:
        for rate in (from_rate, to_rate):
            if rate != int(rate) or rate < 1:
                raise UsageError(f"sample rate {rate!r}; it must be a whole number of Hz above 0")
        divisor = math.gcd(int(from_rate), int(to_rate))
        self.up, self.down = int(to_rate) // divisor, int(from_rate) // divisor
        if max(self.up, self.down) > MAX_RATIO:
            raise UsageError(f"{from_rate} Hz to {to_rate} Hz is {self.up}/{self.down}; convert to 48000 Hz first")
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
        result = self._filter(end - self._made) if self._half else self._pending
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


@lru_cache(maxsize=4)
def anti_alias_filter(up: int, down: int) -> Array:
    """Kaiser-windowed sinc, float64 (2 * 64 * max(up, down) + 1,), at `up` times the input rate; sums to `up`."""
    ratio = max(up, down)
    time = np.arange(-ZERO_CROSSINGS * ratio, ZERO_CROSSINGS * ratio + 1) / ratio
    cutoff = 1 - TRANSITION / 2
    taps = np.sinc(cutoff * time) * np.kaiser(len(time), 0.1102 * (ATTENUATION - 8.7))
    return taps * (up / taps.sum())


def resample(samples: Array, from_rate: int, to_rate: int) -> Array:
    """float32 (frames,) or (frames, channels) at `from_rate` Hz -> ceil(frames * to_rate / from_rate) at `to_rate` Hz.

    Flat to 0.9 of the lower Nyquist frequency, 100 dB down from there on up; see `Resampler` for streams.
    """
    columns = samples[:, None] if samples.ndim == 1 else samples
    resampler = Resampler(from_rate, to_rate, columns.shape[1])
    pieces = [resampler.push(columns[i : i + BLOCK_FRAMES]) for i in range(0, len(columns), BLOCK_FRAMES)]
    result = np.concatenate([*pieces, resampler.flush()])
    return result[:, 0] if samples.ndim == 1 else result
