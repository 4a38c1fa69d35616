"""Estimators that cannot share this environment: each runs as a program of its own, in its own interpreter.

The program reads the paths of WAV files, one a line, and answers each with one line of JSON: {"bpm": 128.0},
{"onsets": [0.1, 0.6]} or {"error": "why"}.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from everwave.errors import EverwaveError, UsageError
from tqdm import tqdm

from ..corpora.store import Track
from .estimate import folded
from .store import TrackLabels, read, write


@dataclass(frozen=True)
class Tool:
    """A program beside this file, what it is called with, and the labels it gives."""

    name: str
    script: str
    names: tuple[str, ...]


TOOLS = {
    "tempocnn": Tool("tempocnn", "tempocnn_program.py", ("bpm",)),
    "madmom": Tool("madmom", "madmom_program.py", ("onsets",)),
}


def run(
    tool: Tool, python: Path, tracks: Sequence[Track], corpus: Path, bpm_range: tuple[float, float]
) -> list[str]:  # fmt: skip
    """Label tracks with the tool in `python`'s environment; returns a line for each that it could not label."""
    problems = []
    sounds = ((track.samples, track.sample_rate) for track in tracks)
    bar = tqdm(tracks, unit="track", disable=None, leave=False)
    for track, answer in zip(bar, answers(tool, python, sounds), strict=True):
        if "error" in answer:
            problems.append(f"{track.id}: {tool.name}: {answer['error']}")
            continue
        bpm, onsets = answer.get("bpm"), answer.get("onsets")
        found = TrackLabels(
            None if bpm is None else folded(float(bpm), bpm_range),
            None if onsets is None else tuple(map(float, onsets)),
            sources=dict.fromkeys(tool.names, tool.name),
        )
        write(corpus, track.id, read(corpus, track.id).updated(found))
    return problems


def answers(tool: Tool, python: Path, sounds: Iterable[tuple[np.ndarray, int]]) -> Iterator[dict[str, Any]]:
    """What the tool in `python`'s environment says of each sound, samples (n, 2) and their rate, one after the other.

    UsageError if `python` cannot be run, EverwaveError if the program ends before it has answered.
    """
    import soundfile

    with tempfile.TemporaryDirectory() as folder, _started(tool, python) as process:
        assert process.stdout
        for samples, sample_rate in sounds:
            wav = Path(folder) / "sound.wav"
            soundfile.write(wav, samples, sample_rate, subtype="PCM_16")
            _ask(process, wav)
            line = next((line for line in process.stdout if line.startswith("{")), None)
            if line is None:
                raise EverwaveError(f"{tool.name}: its program ended, see above; is it installed for {python}?")
            yield json.loads(line)


def _ask(process: subprocess.Popen[str], wav: Path) -> None:
    """Send a path to the program; one that has ended gets nothing, and has no answer either."""
    assert process.stdin
    try:
        process.stdin.write(f"{wav}\n")
        process.stdin.flush()
    except OSError:  # a broken pipe, which Windows calls an invalid argument
        with contextlib.suppress(OSError):
            process.stdin.close()  # else the end of `with` sends it again, and its error would hide ours


def _started(tool: Tool, python: Path) -> subprocess.Popen[str]:
    program = Path(__file__).parent / tool.script
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:surrogateescape"}  # for names of folders on every system
    try:
        return subprocess.Popen(
            [python, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, encoding="utf-8",
            errors="surrogateescape",
        )  # fmt: skip
    except OSError as error:
        raise UsageError(
            f"{python}: cannot be run ({error.strerror}); name the interpreter that has {tool.name}"
        ) from None
