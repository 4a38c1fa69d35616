"""A picture of a piece: log-mel spectrogram as PNG, time from left to right, low tones at the bottom, -80..0 dB.

Written with zlib alone. A piece of any length keeps within a fixed number of columns: when they run out,
neighbours are merged and each column stands for twice the time.
"""

from __future__ import annotations

import os
import struct
import zlib
from functools import lru_cache

import numpy as np

from .axes import HERTZ, framed
from .errors import UsageError
from .files import whole

Array = np.ndarray

WIDTH, BANDS, PIXELS_PER_BAND = 1600, 128, 3
LOWEST_HZ = 30.0
RANGE_DB = 80.0
# Dark to light by even steps of lightness: ink, indigo, violet, crimson, orange, sand. Interpolated to 256 colours.
COLOURS = ((5, 5, 18), (34, 18, 78), (86, 26, 118), (148, 37, 112), (206, 64, 80), (240, 114, 48), (249, 178, 70), (252, 244, 196))  # fmt: skip


def save(path: str | os.PathLike[str], samples: Array, sample_rate: int) -> None:
    """Draw samples (frames,) or (frames, channels), mixed to mono. UsageError where `path` cannot be written."""
    picture = Spectrogram(sample_rate)
    picture.push(samples)
    picture.save(path)


class Spectrogram:
    """Collects a piece block by block in constant memory; `save` draws what has come so far."""

    def __init__(self, sample_rate: int, width: int = WIDTH, bands: int = BANDS) -> None:
        self._n_fft = 1 << round(np.log2(0.08 * sample_rate))  # 80 ms: 4096 at 44.1 kHz
        self._hop = self._n_fft // 4
        self._window = np.hanning(self._n_fft + 1)[:-1].astype(np.float32)
        self._filters = mel_filters(sample_rate, self._n_fft, bands)
        self._width, self._rate, self._samples = width, sample_rate, 0
        self._tail = np.zeros(self._n_fft // 2, np.float32)  # silence before the piece: frames are centred
        self._columns: list[Array] = []  # sums of mel power over `_merged` frames
        self._merged = 1
        self._sum = np.zeros(bands)
        self._count = 0

    def push(self, samples: Array) -> None:
        """The next samples, (n,) or (n, channels)."""
        mono = np.asarray(samples, np.float32)
        self._samples += len(mono)
        self._add(mono.mean(axis=1) if mono.ndim == 2 else mono)

    def image(self) -> Array:
        """(bands * 3, width) uint8: 0 is -80 dB below the loudest spot, 255 is that spot; top row is the highest band."""
        columns = [*self._columns, self._sum / self._count * self._merged] if self._count else self._columns
        power = np.array(columns).T if columns else np.zeros((len(self._filters), 1))
        decibels = 10 * np.log10(np.maximum(power / max(power.max(), 1e-10 * self._merged), 1e-10))
        shades = np.clip(np.rint(255 * (1 + decibels / RANGE_DB)), 0, 255).astype(np.uint8)
        spread = np.arange(self._width) * power.shape[1] // self._width
        return np.repeat(shades[::-1, spread], PIXELS_PER_BAND, axis=0)

    def save(self, path: str | os.PathLike[str], axes: bool = False) -> None:
        """Write the PNG, with time, frequency and decibels around it if wanted; the piece may go on afterwards.

        UsageError where `path` cannot be written.
        """
        saved = self._tail, self._columns[:], self._merged, self._sum.copy(), self._count
        self._add(np.zeros(self._n_fft // 2, np.float32))
        image = framed(self.image(), self._samples / self._rate, self._rows()) if axes else self.image()
        self._tail, self._columns, self._merged, self._sum, self._count = saved
        try:
            with whole(path) as part:
                part.write_bytes(png(image, colour_map()))
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"{path}: the spectrogram cannot be written ({reason}); choose another place") from None

    def _rows(self) -> dict[int, float]:
        """Where frequencies are in the image: the middle of band b lies at the (b + 1)th of the bands + 1 steps of mel."""
        bands, low, high = len(self._filters), mel(LOWEST_HZ), mel(self._rate / 2)
        shares = {hertz: float((mel(hertz) - low) / (high - low)) for hertz in HERTZ if hertz < 0.97 * self._rate / 2}
        return {hertz: (bands + 0.5 - share * (bands + 1)) * PIXELS_PER_BAND for hertz, share in shares.items()}

    def _add(self, mono: Array) -> None:
        for first in range(0, len(mono), 2**18):  # bounded memory for blocks of any length
            samples = np.concatenate([self._tail, mono[first : first + 2**18]])
            frames = max(0, 1 + (len(samples) - self._n_fft) // self._hop)
            self._tail = samples[frames * self._hop :]
            if frames:
                windows = np.lib.stride_tricks.sliding_window_view(samples, self._n_fft)[:: self._hop][:frames]
                spectrum = np.fft.rfft(windows * self._window)
                power = (spectrum.real**2 + spectrum.imag**2) @ self._filters.T
                for column in power:
                    self._push_column(column)

    def _push_column(self, power: Array) -> None:
        self._sum += power
        self._count += 1
        if self._count == self._merged:
            self._columns.append(self._sum)
            self._sum, self._count = np.zeros_like(self._sum), 0
        if len(self._columns) == 2 * self._width:
            pairs = zip(self._columns[::2], self._columns[1::2], strict=True)
            self._columns, self._merged = [a + b for a, b in pairs], 2 * self._merged


def mel(hertz: Array | float) -> Array:
    return 2595 * np.log10(1 + np.asarray(hertz) / 700)


def mel_filters(sample_rate: int, n_fft: int, bands: int) -> Array:
    """(bands, bins) float32 triangles of equal mean, evenly spaced in mel = 2595 log10(1 + f / 700) (O'Shaughnessy)."""

    edges = 700 * (10 ** (np.linspace(mel(LOWEST_HZ), mel(sample_rate / 2), bands + 2) / 2595) - 1)
    width = sample_rate / n_fft
    low = np.minimum(edges[:-2], edges[1:-1] - width)[:, None]  # never narrower than a bin on either side
    high = np.maximum(edges[2:], edges[1:-1] + width)[:, None]
    centre, bins = edges[1:-1, None], np.arange(n_fft // 2 + 1) * width
    triangles = np.maximum(0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    return (triangles / triangles.sum(axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=1)
def colour_map() -> Array:
    """(256, 3) uint8, dark to light."""
    steps = np.linspace(0, len(COLOURS) - 1, 256)
    channels = [np.interp(steps, range(len(COLOURS)), channel) for channel in np.array(COLOURS).T]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


def png(image: Array, colours: Array) -> bytes:
    """Shades (height, width) uint8 and their colours (256, 3) as a palette PNG (W3C PNG, 2nd edition)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits, palette
    rows = np.insert(image, 0, 0, axis=1).tobytes()  # every row begins with its filter: 0, none
    parts = [(b"IHDR", header), (b"PLTE", colours.tobytes()), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
