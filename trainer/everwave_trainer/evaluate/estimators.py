"""Tempo and onsets of clips, by librosa or by a program in an environment of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from everwave.errors import EverwaveError
from everwave.wav import quantise
from tqdm import tqdm

from ..labels import external
from ..labels.estimate import with_librosa

BPM_RANGE = (60.0, 240.0)  # two octaves around 120: nothing that is asked for is folded into place

Samples = np.ndarray
Estimator = Callable[[Sequence[Samples], int], list[Any]]  # clips float32 (n, 2) and their rate -> one answer each


def tempo(tempocnn: Path | None) -> dict[str, Estimator]:
    """Beats per minute by librosa (0 where it hears none), and by Tempo-CNN if the interpreter that has it is given."""
    found: dict[str, Estimator] = {"librosa": partial(_librosa, "bpm")}
    return found | ({"tempocnn": partial(_external, "tempocnn", "bpm", tempocnn)} if tempocnn else {})


def onsets(madmom: Path | None) -> dict[str, Estimator]:
    """Onset times in seconds by librosa, and by madmom if the interpreter that has it is given."""
    found: dict[str, Estimator] = {"librosa": partial(_librosa, "onsets")}
    return found | ({"madmom": partial(_external, "madmom", "onsets", madmom)} if madmom else {})


def _librosa(what: str, clips: Sequence[Samples], sample_rate: int) -> list[Any]:
    bar = tqdm(clips, desc="librosa", disable=None, leave=False)
    labels = (with_librosa(quantise(clip, 16, "<i2"), sample_rate, BPM_RANGE) for clip in bar)
    return [0.0 if what == "bpm" and label.bpm is None else getattr(label, what) for label in labels]


def _external(tool: str, what: str, python: Path, clips: Sequence[Samples], sample_rate: int) -> list[Any]:
    found = []
    sounds = ((np.clip(clip, -1, 1), sample_rate) for clip in tqdm(clips, desc=tool, disable=None, leave=False))
    for answer in external.answers(external.TOOLS[tool], python, sounds):
        if "error" in answer:
            raise EverwaveError(f"{tool}: {answer['error']}")
        found.append(answer[what])
    return found
