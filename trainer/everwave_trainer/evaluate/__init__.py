"""`everwave-train evaluate`: how well a model reconstructs held-out music, in one JSON, and pictures to look at."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="shipped name or weights file")
    parser.add_argument(
        "corpus", type=Path, help="folder made by `everwave-train corpus`; its held-out tracks are used"
    )
    parser.add_argument("--clips", type=int, default=24, help="held-out clips of 10 s (default 24)")
    parser.add_argument("--retrieval", action="store_true", help="how well embeddings find excerpts of the same track")
    parser.add_argument("-o", "--output", type=Path, help="folder for metrics.json and spectrogram pictures")


def run(arguments: argparse.Namespace) -> None:
    """Print the measures as JSON; with an output folder, write them and the pictures there."""
    if arguments.retrieval:
        from . import retrieval

        print(json.dumps(retrieval.evaluate(arguments.model, arguments.corpus, SECONDS), indent=1))
        return
    from .reconstruction import evaluate, save_pictures

    metrics: dict[str, Any] = evaluate(arguments.model, arguments.corpus, arguments.clips, SECONDS)
    print(json.dumps(metrics, indent=1))
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "metrics.json").write_text(json.dumps(metrics, indent=1))
        save_pictures(arguments.model, arguments.corpus, arguments.output, SECONDS)
