"""Notes to samples on the grand piano of a soundfont, every note on its own sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np
from everwave.errors import UsageError

from ..reverb import LINES, reverb
from .midi import Note

TAIL_SECONDS = 3.0  # after the last key is released
LONGEST_CALL = 8192  # frames that the synthesiser makes at a time
VOICES = 256
PEAK = 0.9
ROOM = 0.12  # of the reverberation, beside the dry piano
ROOM_SECONDS = 1.2


class Piano:
    """A soundfont's first preset. One note is played at a time by whoever holds the lock."""

    def __init__(self, soundfont: Path, sample_rate: int) -> None:
        try:
            import tinysoundfont
        except ImportError:
            raise UsageError(
                "--midi: tinysoundfont is not installed; `pip install --no-deps tinysoundfont` (what it depends on is for playing aloud)"
            ) from None
        self.sample_rate, self.lock = sample_rate, Lock()
        self.synth = tinysoundfont.Synth(samplerate=sample_rate)
        try:
            font = self.synth.sfload(str(soundfont), max_voices=VOICES)
            self.synth.program_select(0, font, 0, 0)
        except Exception as error:  # the binding raises what it likes
            raise UsageError(f"--soundfont {soundfont}: cannot be loaded ({error})") from None

    def play(self, notes: Sequence[Note]) -> np.ndarray:
        """float32 (frames, 2), peak PEAK, in a small room; time 0 is frame 0."""
        with self.lock:
            dry = self._dry(notes)
        wet = dry.copy()
        lengths = (LINES * self.sample_rate / 44100).astype(np.int64)
        reverb(wet, lengths, 10 ** (-3 * lengths.mean() / (ROOM_SECONDS * self.sample_rate)), 0.5)
        dry += np.float32(ROOM) * wet
        dry *= np.float32(PEAK / max(float(np.abs(dry).max()), 1e-6))
        return dry

    def _dry(self, notes: Sequence[Note]) -> np.ndarray:
        self.synth.sounds_off()
        # of two events on one frame, ends come first: a key may be struck on the frame that released it
        events = sorted(
            [(round(note.end * self.sample_rate), 0, note.pitch, 0) for note in notes]
            + [(round(note.start * self.sample_rate), 1, note.pitch, note.velocity) for note in notes]
        )
        out = np.zeros((events[-1][0] + round(TAIL_SECONDS * self.sample_rate), 2), np.float32)
        at = 0
        for frame, on, pitch, velocity in events:
            self._fill(out[at:frame])
            at = frame
            if on:
                self.synth.noteon(0, pitch, velocity)
            else:
                self.synth.noteoff(0, pitch)
        self._fill(out[at:])
        return out

    def _fill(self, out: np.ndarray) -> None:
        for start in range(0, len(out), LONGEST_CALL):
            block = out[start : start + LONGEST_CALL]
            self.synth.generate_simple(len(block), block.data.cast("B"))
