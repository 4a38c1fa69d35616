"""Estimators that cannot share this environment: each runs as a program of its own, in its own interpreter.

The program reads the paths of WAV files, one a line, and answers each with one line of JSON: {"bpm": 128.0},
{"onsets": [0.1, 0.6]} or {"error": "why"}.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from everwave.errors import EverwaveError, UsageError

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
    tool: Tool, python: Path, tracks: Iterable[Track], corpus: Path, bpm_range: tuple[float, float]
) -> list[str]:  # fmt: skip
    """Label tracks with the tool in `python`'s environment; returns a line for each that it could not label."""
    import soundfile

    problems = []
    with tempfile.TemporaryDirectory() as folder, _started(tool, python) as process:
        assert process.stdin
        assert process.stdout
        for track in tracks:
            wav = Path(folder) / "track.wav"
            soundfile.write(wav, track.samples, track.sample_rate, subtype="PCM_16")
            answer = _ask(tool, process.stdin, process.stdout, wav)
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


def _started(tool: Tool, python: Path) -> subprocess.Popen:
    program = Path(__file__).parent / tool.script
    try:
        return subprocess.Popen([python, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        raise UsageError(f"--python {python}: cannot be run ({error.strerror})") from None


def _ask(tool: Tool, stdin: IO[str], stdout: IO[str], wav: Path) -> dict:
    try:
        stdin.write(f"{wav}\n")
        stdin.flush()
    except BrokenPipeError:
        pass  # it has ended; it has no answer either
    line = stdout.readline()
    if not line:
        raise EverwaveError(f"{tool.name}: its program ended, see above; is it installed where --python points?")
    return json.loads(line)
