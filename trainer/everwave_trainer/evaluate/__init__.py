"""`everwave-train evaluate`: every measure of a model in one JSON, and pictures or a page to look at.

Beside each figure stand a floor and a reference, because none of them means anything alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import everwave
from everwave.errors import UsageError
from everwave.files import checked_folder

from ..corpora.store import Corpus, Track, check_rate, hours, select

SECONDS = 10.0
MEASURES = ("reconstruction", "pitch", "tempo", "density", "precision", "distribution")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="shipped name or weights file")
    parser.add_argument(
        "corpora",
        type=Path,
        nargs="+",
        metavar="CORPUS",
        help="folder made by `everwave-train corpus`; its held-out tracks are used",
    )
    parser.add_argument("-o", "--output", type=Path, help="folder for metrics.json and spectrogram pictures")
    parser.add_argument("--measures", nargs="+", choices=MEASURES, help="default: all that the model has")
    parser.add_argument("--clips", type=int, default=24, help="reconstruction: held-out clips of 10 s (default 24)")
    parser.add_argument("--seeds", type=int, default=2, help="tempo and density: clips for every value (default 2)")
    parser.add_argument(
        "--labelled", type=Path, help="corpus with exact labels, for what the estimators reach on music"
    )
    parser.add_argument(
        "--tempocnn", type=Path, metavar="PYTHON", help="interpreter that has tempocnn, to estimate too"
    )
    parser.add_argument("--madmom", type=Path, metavar="PYTHON", help="interpreter that has madmom, to estimate too")
    parser.add_argument("--styles", nargs="+", help="distribution: only tracks of these styles, as many pieces of each")
    parser.add_argument(
        "--pieces", type=int, default=100, help="distribution: pieces of seven windows of each kind (default 100)"
    )
    parser.add_argument(
        "--musicnn", type=Path, metavar="WHEEL", help="distribution: the file of `pip download --no-deps musicnn`"
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--gallery", type=Path, metavar="FOLDER", help="only write a page with players and spectrograms")
    only.add_argument("--retrieval", action="store_true", help="only how well embeddings find excerpts of their track")


def run(arguments: argparse.Namespace) -> None:
    """Print the measures as JSON; with an output folder, write them and the pictures there."""
    for name, least in (("clips", 1), ("seeds", 1), ("pieces", 2)):  # of one piece there is no diversity
        if getattr(arguments, name) < least:
            raise UsageError(f"--{name} {getattr(arguments, name)}: must be at least {least}")
    if arguments.output:
        checked_folder(arguments.output)
    model = everwave.load(arguments.model)
    for folder in [*arguments.corpora, *filter(None, [arguments.labelled])]:
        check_rate(Corpus.open(folder).tracks, model.sample_rate, arguments.model)
    if arguments.retrieval:
        from . import retrieval

        print(json.dumps(retrieval.evaluate(model, select(arguments.corpora, "held-out"), SECONDS), indent=1))
        return
    if arguments.gallery:
        from . import gallery

        tracks = select(arguments.corpora, "held-out", arguments.styles)
        title = f"everwave: {Path(arguments.model).stem}"
        print(gallery.write(model, tracks, arguments.gallery, title))
        return
    metrics = measure(arguments, model)
    print(json.dumps(metrics, indent=1))
    if arguments.output:
        from .reconstruction import save_pictures

        save_pictures(model, select(arguments.corpora, "held-out"), arguments.output, SECONDS)


def measure(a: argparse.Namespace, model: Any) -> dict[str, Any]:
    """All measures that the model has and that were asked for; kept in the output folder after each of them."""
    held_out = select(a.corpora, "held-out")
    metrics: dict[str, Any] = {"model": Path(a.model).name, "corpus": _described(held_out)}
    for name, run_measure in _chosen(a, model, held_out).items():
        metrics[name] = run_measure()
        if a.output:
            a.output.mkdir(parents=True, exist_ok=True)
            (a.output / "metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    return metrics


def _chosen(a: argparse.Namespace, model: Any, held_out: Sequence[Track]) -> dict[str, Callable[[], dict[str, Any]]]:
    """What will be measured; UsageError if something was asked for by name that cannot be, a line if by default."""
    from . import musicnn, precision

    conditions = {c.name for c in model.conditions}
    possible: dict[str, Callable[[], dict[str, Any]]] = {
        "reconstruction": lambda: _reconstruction(a, model, held_out),
        "pitch": lambda: _pitch(model),
    }
    problems: dict[str, str] = {}
    labelled = select([a.labelled], "held-out") if a.labelled else held_out
    for name, condition, measured in (("tempo", "bpm", _tempo), ("density", "density", _density)):
        if condition in conditions:
            possible[name] = lambda measured=measured: measured(a, model, labelled)  # type: ignore[misc]
        else:
            problems[name] = f"{a.model} has no condition {condition!r}"
    try:
        precision.check(a.model, model)
        possible["precision"] = lambda: precision.evaluate(a.model)
    except UsageError as error:
        problems["precision"] = str(error)
    try:
        network = musicnn.load(a.musicnn)
        possible["distribution"] = lambda: _distribution(a, model, network)
    except UsageError as error:
        problems["distribution"] = str(error)
    for name, problem in problems.items():
        if name in (a.measures or ()) or (name == "distribution" and a.musicnn):
            raise UsageError(problem)
        if not a.measures:
            print(f"{name}: left out: {problem}", file=sys.stderr)
    return {name: run for name, run in possible.items() if name in (a.measures or possible)}


def _reconstruction(a: argparse.Namespace, model: Any, held_out: Sequence[Track]) -> dict[str, Any]:
    from .reconstruction import evaluate

    return evaluate(model, held_out, a.clips, SECONDS)


def _pitch(model: Any) -> dict[str, Any]:
    from .pitch import evaluate

    return evaluate(model)


def _tempo(a: argparse.Namespace, model: Any, labelled: Sequence[Track]) -> dict[str, Any]:
    from . import control, estimators

    return control.tempo(model, labelled, estimators.tempo(a.tempocnn), a.seeds)


def _density(a: argparse.Namespace, model: Any, labelled: Sequence[Track]) -> dict[str, Any]:
    from . import control, estimators

    return control.density(model, labelled, estimators.onsets(a.madmom), a.seeds)


def _distribution(a: argparse.Namespace, model: Any, network: Any) -> dict[str, Any]:
    from . import distribution

    held_out, training = (
        [select(a.corpora, split, [style]) for style in a.styles] if a.styles else [select(a.corpora, split)]
        for split in ("held-out", "train")
    )
    styles = {"styles": a.styles} if a.styles else {}
    return styles | distribution.evaluate(model, network, held_out, training, a.pieces)


def _described(tracks: Sequence[Track]) -> dict[str, Any]:
    packages = sorted({t.package for t in tracks})
    return {"tracks": len(tracks), "minutes": round(60 * hours(tracks), 1), "packages": packages}
