"""Tempo and onsets of clips, by librosa or by a program in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from everwave.errors import EverwaveError, UsageError
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
    labels = (with_librosa(_int16(clip), sample_rate, BPM_RANGE) for clip in bar)
    return [0.0 if what == "bpm" and label.bpm is None else getattr(label, what) for label in labels]


def _external(tool: str, what: str, python: Path, clips: Sequence[Samples], sample_rate: int) -> list[Any]:
    program = Path(external.__file__).parent / external.TOOLS[tool].script
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.wav" for i in range(len(clips))]
        for file, clip in zip(files, clips, strict=True):
            soundfile.write(file, np.clip(clip, -1, 1), sample_rate, subtype="PCM_16")
        try:
            words = "".join(f"{file}\n" for file in files)
            done = subprocess.run([python, program], input=words, stdout=subprocess.PIPE, text=True, check=False)
        except OSError as error:
            raise UsageError(f"--{tool} {python}: cannot be run ({error.strerror})") from None
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for answer in answers:
        if "error" in answer:
            raise EverwaveError(f"{tool}: {answer['error']}")
    if len(answers) < len(clips):
        raise EverwaveError(
            f"{tool}: answered {len(answers)} of {len(clips)} clips, see above; is it installed for {python}?"
        )
    return [answer[what] for answer in answers]


def _int16(samples: Samples) -> np.ndarray:
    return np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16)
