"""To the sound card, through the optional package sounddevice (the extra `[play]`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .errors import AudioError, UsageError

BUFFER_SECONDS = 2.0  # that the card is asked to hold: a busy machine may wake a program 0.6 s late


def sounddevice() -> Any:
    """The package of that name; UsageError where it is not installed."""
    try:
        import sounddevice as package
    except (ImportError, OSError) as error:  # OSError: the package is there, PortAudio is not
        raise UsageError(f"no sound card without sounddevice ({error}); `pip install sounddevice`") from None
    return package


def play(blocks: Iterable[np.ndarray], sample_rate: int) -> int:
    """Play float32 blocks (n, 2) until they end; how often the card ran dry. UsageError without sounddevice."""
    package, dry = sounddevice(), 0
    try:
        with package.OutputStream(samplerate=sample_rate, channels=2, dtype="float32", latency=BUFFER_SECONDS) as card:
            for block in blocks:
                dry += bool(card.write(np.ascontiguousarray(block)))
    except package.PortAudioError as error:
        text = " ".join(str(error).split())
        raise AudioError(
            f"the sound card cannot play {sample_rate} Hz stereo ({text}); try `everwave stream | aplay`"
        ) from None
    return dry
