#!/usr/bin/env python3
"""everwave against everything else that could run the same networks on this CPU.

    python benchmarks/compare.py --rounds 5 --seconds 60 --preset full

Every installed contender and `everwave bench` run in turn, each in a fresh process, `--rounds` times; ratios are
taken within a round and their median counts, so that a machine whose speed drifts favours nobody. Contenders run the
networks only, with the batch size and the split into workers that are fastest for them here; everwave does the whole
job: random numbers, networks, inverse STFT, WAV file. Results go to benchmarks/results/NAME.json and NAME.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, Setting
from report import markdown, put_between_markers, summary

HERE = Path(__file__).resolve().parent
PATHS = [HERE, HERE.parent / "runtime", HERE.parent / "trainer"]
OURS = {"everwave-float32": "float32", "everwave-bf16": "bfloat16"}
OUR_PACKAGES = ("numpy", "numba", "soundfile")
BATCHES = (16, 32, 64, 128)
COMPILING_SECONDS = 4.0  # a piece generated only to fill everwave's compilation cache
TIMEOUT = 900  # seconds for one process
VERSIONS = """
import importlib.metadata as m, json, sys
found = {}
for name in sys.argv[1:]:
    try: found[name] = m.version(name)
    except m.PackageNotFoundError: sys.exit(f"{name} is not installed")
print(json.dumps({"python": sys.version.split()[0], **found}))
"""

Row = dict[str, Any]


class Failed(Exception):
    """A child process gave no result; the message is the last line of what it said."""


@dataclass
class Session:
    """What all runs have in common, who takes part, and who cannot and why."""

    options: argparse.Namespace
    folder: Path
    names: list[str]
    skipped: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def present(self) -> list[str]:
        return [name for name in self.names if name not in self.skipped]

    def attempt(self, run: Callable[..., Row], name: str, *arguments: Any, **keywords: Any) -> Row | None:
        """run(name, ...), or None: then the contender is skipped from now on and the reason is kept."""
        if name in self.skipped:
            return None
        try:
            return run(name, *arguments, **keywords)
        except Failed as error:
            self.skipped[name] = str(error)
            say(f"{name}: skipped, {error}")
            return None

    def ours(self, name: str, preset: str, threads: int, seconds: float) -> Row:
        piece = ["--preset", preset, "--random-weights", "--seconds", f"{seconds:g}"]
        how = ["--threads", str(threads), "--precision", OURS[name], "--json"]
        return self._child(name, "-m", "everwave", "bench", *piece, *how)

    def theirs(self, name: str, preset: str, task: str, **options: Any) -> Row:
        given = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        fixed = ["--preset", preset, "--task", task, "--folder", str(self.folder)]
        return self._child(name, "-m", "contenders.worker", name, *fixed, *given)

    def installed(self, name: str) -> Row:
        return self._child(name, "-c", VERSIONS, *(OUR_PACKAGES if name in OURS else CONTENDERS[name].packages))

    def _child(self, name: str, *arguments: str) -> Row:
        """What a fresh interpreter prints as its last line, a JSON object. `--python openvino=PATH` chooses which one."""
        python = next((path for prefix, path in self.options.python if name.startswith(prefix)), sys.executable)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS))}
        try:
            done = subprocess.run(
                [python, *arguments], env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failed(str(error)) from None
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or [""]
            raise Failed(f"exit status {done.returncode}: {said[0]}" if done.returncode < 0 else said[0])
        result: Row = json.loads(done.stdout.splitlines()[-1])
        if self.options.clock == "cpu" and "cpu_seconds" in result:
            result["times_real_time"] = round(result["audio_seconds"] / result["cpu_seconds"], 3)
        return result


def main() -> None:
    options = _parser().parse_args()
    names = [name for name in (*OURS, *CONTENDERS) if not options.only or name.startswith(tuple(options.only))]
    with tempfile.TemporaryDirectory(prefix="contenders-") as folder:
        session = Session(options, Path(folder), names)
        differences = prepare(session)
        tried = list(tune(session))
        runs = list(measure(session, best(tried)))
    results = {
        "clock": options.clock,
        "command": " ".join(["python", "benchmarks/compare.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": session.versions,
        "skipped": session.skipped,
        "differences": differences,
        "tried": tried,
        "runs": runs,
        **summary(runs),
    }
    write(results, options)


def prepare(session: Session) -> list[Row]:
    """Who is installed? Fills everwave's cache, writes the ONNX files, compares every contender with the reference."""
    differences = []
    for name in session.names:
        session.versions |= session.attempt(session.installed, name) or {}
        for preset in session.options.preset:
            if name in OURS:
                session.attempt(session.ours, name, preset, 1, COMPILING_SECONDS)
                continue
            if "onnx" in CONTENDERS[name].packages:
                session.attempt(session.theirs, name, preset, "export")
            if found := session.attempt(session.theirs, name, preset, "check"):
                differences.append({"contender": name, "preset": preset, **found})
                say(f"{name} {preset}: off the reference by {max(found.values()):.1e} of its deviation")
    return differences


def tune(session: Session) -> Iterator[Row]:
    """Short runs of every contender with every batch size and split into workers; or those of an earlier results file."""
    options = session.options
    if options.tuned:
        yield from json.loads(options.tuned.read_text())["tried"]
        return
    for preset, threads, name in product(options.preset, options.threads, session.present()):
        if name in OURS:
            continue
        for batch, workers in product(options.batches, sorted({1, threads})):
            setting = Setting(threads, batch, workers)
            run = session.attempt(
                session.theirs, name, preset, "time", seconds=options.tuning_seconds, repeats=2, **asdict(setting)
            )
            if run:
                say(
                    f"{name} {preset}, {threads} threads, {batch} x {workers}: {run['times_real_time']:.1f} x real time"
                )
                yield {"contender": name, "preset": preset, **run}


def best(tried: list[Row]) -> dict[tuple[str, str, int], Setting]:
    """The fastest setting of every (contender, preset, threads)."""
    return {
        (row["contender"], row["preset"], row["threads"]): Setting(row["threads"], row["batch"], row["workers"])
        for row in sorted(tried, key=lambda row: row["times_real_time"])
    }


def measure(session: Session, settings: dict[tuple[str, str, int], Setting]) -> Iterator[Row]:
    """All rounds; each begins with another contender, and what belongs to one ratio runs close together."""
    options = session.options
    for number in range(options.rounds):
        for preset, threads, seconds in product(options.preset, options.threads, options.seconds):
            names = session.present()
            first = number % max(len(names), 1)
            for name in names[first:] + names[:first]:
                if name in OURS:
                    run = session.attempt(session.ours, name, preset, threads, seconds)
                elif (name, preset, threads) in settings:
                    how = asdict(settings[name, preset, threads])
                    run = session.attempt(session.theirs, name, preset, "time", seconds=seconds, **how)
                else:
                    session.skipped[name] = f"{options.tuned} has no setting for {preset} on {threads} threads"
                    run = None
                if run:
                    say(
                        f"round {number + 1}: {name} {preset} {threads} threads {seconds:g} s: {run['times_real_time']:.1f}"
                    )
                    yield {"round": number, "contender": name, "preset": preset, "seconds": seconds, **run}


def machine() -> Row:
    from everwave.bench import cpu_name, extensions
    from everwave.cpus import cores

    return {"cpu": cpu_name(), "cores": cores(), "system": platform.platform(), "features": extensions()}


def write(results: Row, options: argparse.Namespace) -> None:
    text = markdown(results)
    path = options.output / f"{options.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(text)
    if options.readme:
        put_between_markers(options.readme, text)
    print(text)
    say(f"wrote {path} and {path.with_suffix('.md')}")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _python(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not any(known.startswith(name) for known in (*OURS, *CONTENDERS)):
        raise argparse.ArgumentTypeError(f"{text!r}; write NAME=PATH, with the beginning of a contender's name")
    return name, path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = os.cpu_count() or 1
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0], help="lengths of the pieces (default 60)")
    parser.add_argument("--preset", nargs="+", choices=("full", "lite", "tiny"), default=["full"])
    parser.add_argument("--threads", type=int, nargs="+", default=[cores], help=f"default {cores}, all cores")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall",
                        help="cpu: audio per second of CPU time, for machines that others use too; with --threads 1")  # fmt: skip
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"beginnings of: {', '.join((*OURS, *CONTENDERS))}")
    parser.add_argument("--python", type=_python, action="append", default=[], metavar="NAME=PATH",
                        help="the interpreter of the contenders that begin with NAME")  # fmt: skip
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), help="windows per call to try")
    parser.add_argument("--tuning-seconds", type=float, default=20.0, help="length of the pieces that try settings")
    parser.add_argument("--tuned", type=Path, metavar="JSON", help="take the settings of these earlier results")
    parser.add_argument("--name", default=platform.machine(), help="name of the results (default the kind of CPU)")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--readme", type=Path, help="also put the table between the markers of this file")
    return parser


if __name__ == "__main__":
    sys.path[:0] = map(str, PATHS)
    main()
