"""Tempo and note density of music: read, estimated, and turned into what a GAN is conditioned on."""

from __future__ import annotations

import argparse
from pathlib import Path

from everwave.errors import UsageError

BPM_RANGE = (90.0, 180.0)  # where tempi are looked for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `everwave-train label`."""
    parser.description = (
        "Label the tracks of a corpus with tempo and onsets. What is exact (composed music, MIDI) is never replaced; "
        "what the same tool has labelled before is kept."
    )
    parser.add_argument("corpus", type=Path, help="folder made by `everwave-train corpus`")
    parser.add_argument(
        "--with", dest="tool", default="librosa", metavar="TOOL",
        help="librosa (default; bpm and onsets), tempocnn (bpm), madmom (onsets), or a labels file: CSV or JSON",
    )  # fmt: skip
    parser.add_argument("--python", type=Path, help="interpreter of the environment that holds tempocnn or madmom")
    parser.add_argument("--styles", nargs="+", help="only tracks of these styles")
    parser.add_argument(
        "--bpm-range", type=float, nargs=2, default=BPM_RANGE, metavar=("LOW", "HIGH"),
        help="where tempi are looked for; others' are doubled or halved into it (default: 90 180)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Label the corpus; returns the exit code: 0, or 1 if some tracks could not be labelled."""
    from .command import label

    low, high = args.bpm_range
    if not (low > 0 and 2 * low <= high <= 1000):
        raise UsageError(f"--bpm-range {low:g} {high:g}: must span an octave at least, as 80 160")
    return label(args.corpus, args.tool, args.python, args.styles, (low, high))
