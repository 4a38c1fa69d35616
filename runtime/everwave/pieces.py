"""What `everwave generate` and `stream` share: pieces from options, into files that say how to make them again."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import __version__, checks, weights
from .audio import Writer
from .errors import UsageError, short
from .looping import Loop
from .model import Model
from .spectrogram import Spectrogram
from .streaming import Stream

CONTROLS = (
    "bpm",
    "density",
    "style",
)  # options of their own; which conditions a model has is checked when it is loaded

MAX_COUNT = 10_000  # whose outputs are checked in a moment


def write(model: Model, options: argparse.Namespace, output: str, seed: int) -> None:
    picture = Spectrogram(model.sample_rate) if options.spectrogram else None
    begin = time.perf_counter()
    with (
        open_piece(model, options, seed) as piece,
        Writer(output, model.sample_rate, frames=piece.frames, tags=tags(model, options, seed)) as writer,
    ):
        for block in with_progress(piece, piece.frames, model.sample_rate):
            writer.write(block)
            if picture:
                picture.push(block)
    if picture:
        picture.save(options.spectrogram, axes=True)
    seconds, wall = (piece.frames or 0) / model.sample_rate, time.perf_counter() - begin
    print(
        f"{output}: {seconds:.1f} s of audio in {wall:.2f} s, {seconds / wall:.1f} times real time, "
        f"RTF {wall / seconds:.4f}, seed {seed}{_about_loop(piece)}",
        file=sys.stderr if output == "-" else sys.stdout,
    )


def controls(model: Model, options: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in CONTROLS if getattr(options, name) is not None}
    return given | conditions(model, options)


def conditions(model: Model, options: argparse.Namespace) -> dict[str, str]:
    """What `--set NAME=VALUE` gave."""
    given: dict[str, str] = {}
    for word in options.set or ():
        name, equals, value = word.partition("=")
        if not equals or name not in [condition.name for condition in model.conditions]:
            known = ", ".join(condition.name for condition in model.conditions) or "none"
            raise UsageError(f"--set {short(word)}: give a condition of the model ({known}) and its value, NAME=VALUE")
        if name in given or (name in CONTROLS and getattr(options, name) is not None):
            raise UsageError(f"--set {short(word)}: {name} is given already; give it once")
        given[name] = value
    return given


def stream(model: Model, options: argparse.Namespace, seed: int, seconds: float | None) -> Stream:
    return model.stream(seed, options.truncation, options.start, seconds=seconds, **controls(model, options))


def open_piece(model: Model, options: argparse.Namespace, seed: int) -> Stream | Loop:
    if not options.loop and options.bars is None:
        return stream(model, options, seed, options.seconds)
    if options.start:
        raise UsageError(f"--start {options.start} with a loop, which has no later part; leave it out")
    seconds = options.seconds if options.bars is None else None
    return model.loop(seconds, seed, options.truncation, bars=options.bars, **controls(model, options))


def _about_loop(piece: Stream | Loop) -> str:
    if not isinstance(piece, Loop):
        return ""
    bars = f", {piece.bars} bar{'s' * (piece.bars != 1)} of {piece.bpm:.2f} bpm" if piece.bars else ""
    return f", a loop of {piece.frames} samples{bars}"


def tags(model: Model, options: argparse.Namespace, seed: int) -> dict[str, str]:
    """How to make a file again: the command, and the version and weights that its bits depend on."""
    name = Path(options.model).name  # without folders: they are nobody else's business
    words = ["everwave", options.run.__name__, "--model", name, "--seed", str(seed)]
    if options.run.__name__ == "generate":
        length = ["--seconds", f"{options.seconds:.15g}"] if options.bars is None else ["--bars", str(options.bars)]
        words += [*length, *(["--loop"] if options.loop else [])]
    given = {
        "truncation": options.truncation if options.truncation != checks.TRUNCATION else None,
        "start": options.start or None,
    }
    given |= {name: getattr(options, name) for name in CONTROLS}
    for option, value in given.items():
        words += [f"--{option}", _without_folders(value)] if value is not None else []
    for condition, value in conditions(model, options).items():
        words += ["--set", f"{condition}={_without_folders(value)}"]
    words += ["--precision", model.used_precision]
    version = f"everwave {__version__}, weights {weights.digest(weights.find(options.model))[:12]}"
    licence = str(model.info()["licence"] or "")
    return {
        "title": f"{weights.called(options.model)} {seed}",
        "comment": shlex.join(words),
        "software": version,
        "copyright": licence,
    }


def _without_folders(value: Any) -> str:
    """A value as a command has it; of a curve's file the name alone."""
    return (Path(value).name or value) if isinstance(value, str) else str(value)


def outputs(output: str, count: int) -> list[str]:
    """The file of each piece: out.wav, or out-01.wav ... so that names sort."""
    if not 1 <= count <= MAX_COUNT:
        raise UsageError(f"--count {count}; ask for 1 to {MAX_COUNT} pieces, and for more with another --seed")
    if count == 1:
        return [output]
    if output == "-":
        raise UsageError(f"--count {count} with -o -; only one piece can go to stdout")
    path = Path(output)
    return [str(path.with_stem(f"{path.stem}-{i:0{len(str(count))}d}")) for i in range(1, count + 1)]


def with_progress(blocks: Any, frames: int | None, sample_rate: int) -> Iterator[Any]:
    """The blocks themselves, and a bar of their seconds on a terminal."""
    with seconds_bar(lambda: (frames or 0) / sample_rate) as done:
        for block in blocks:
            yield block
            done(len(block) / sample_rate)


@contextlib.contextmanager
def seconds_bar(total: Callable[[], float]) -> Iterator[Callable[[float], object]]:
    """A bar of `total()` seconds on a terminal; what is yielded is called with those that are done."""
    if not sys.stderr.isatty():
        yield lambda seconds: None
        return
    from tqdm import tqdm

    bar_format = "{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
    columns, lines = shutil.get_terminal_size()  # 80 x 24 where the terminal does not say
    with tqdm(total=total(), bar_format=bar_format, leave=False, ncols=columns, nrows=lines) as bar:
        yield bar.update
