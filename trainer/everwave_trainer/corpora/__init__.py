"""Music for training: Debian's free music packages by name, and any folder of audio (`everwave-train corpus`).

tracks = select([Path("corpora/real")], split="train", styles=["techno"])
crops = random_crops(tracks, length=32768, batch=16, seed=0, step=1234)   # float32 (16, 32768, 2)
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from everwave.audio import ENDINGS, files_below
from everwave.errors import UsageError, printable

from .store import Corpus, CorpusError, Track, hours, random_crops, select

if TYPE_CHECKING:
    from .build import Builder, Source

FEW = 4  # tracks, of which one can be spared
UNKNOWN = "not stated"  # of an author or a licence

__all__ = ["Corpus", "CorpusError", "Track", "add_arguments", "hours", "random_crops", "run", "select"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `everwave-train corpus`."""
    parser.description = (
        "Build a corpus: decode music once to int16 stereo that training reads fast. Takes Debian's free music packages, "
        "or your own files with --audio. Run it again to add more or to go on after an interruption."
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="the corpus folder, made or added to")
    parser.add_argument(
        "--audio", type=Path, nargs="+", default=[], metavar="PATH", help="your own audio files or folders"
    )
    parser.add_argument(
        "--packages",
        nargs="*",
        metavar="NAME",
        help="Debian packages (default: all of --list, none with --audio, --midi or --composed)",
    )
    parser.add_argument(
        "--composed", type=float, metavar="HOURS", help="techno composed by program, with exact tempo, beats and onsets"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of --composed (default: 0)")
    parser.add_argument(
        "--midi", type=Path, metavar="FOLDER", help="MIDI files to play on the piano, with exact onsets"
    )
    parser.add_argument(
        "--soundfont", type=Path, metavar="FILE", help="the piano of --midi (default: Debian's MuseScore General)"
    )
    parser.add_argument("--list", action="store_true", help="list the known Debian packages and stop")
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="where .deb files lie or go (default: FOLDER/debs)"
    )
    parser.add_argument(
        "--hold-out",
        type=float,
        default=0.1,
        metavar="FRACTION",
        help="share of --audio kept from training; of --midi half by folders, half by pieces",
    )
    parser.add_argument(
        "--style", help="style of the --audio or --midi files (default: what was said before, else other, piano)"
    )
    parser.add_argument(
        "--licence",
        help="licence of the --audio or --midi files, for the attribution list (default: what was said before, else"
        " not stated)",
    )
    parser.add_argument("--sample-rate", type=int, default=44100, metavar="HZ", help="default: 44100")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="tracks decoded at a time (default: 2)")


def run(args: argparse.Namespace) -> int:
    """Build the corpus; returns the exit code: 0, or 1 if any file or package was skipped."""
    if args.list:
        return _list_packages()
    from .build import Builder
    from .debian import find_packages

    if args.output is None:
        raise UsageError("-o FOLDER: required, the corpus is built there")
    if not 0 <= args.hold_out <= 1:
        raise UsageError(f"--hold-out {args.hold_out}: must be between 0 and 1")
    made = bool(args.audio or args.midi) or args.composed is not None
    packages = [] if args.packages is None and made else find_packages(args.packages or [])
    own = own_sources(args.audio, args.hold_out, args.style, args.licence)
    builder = Builder(args.output, args.sample_rate, args.jobs)
    cache = args.cache or args.output / "debs"
    builder.add(own)
    if args.composed is not None:
        from .techno.build import add_composed

        add_composed(builder, args.composed, args.seed, cache)
    if args.midi:
        from .piano.build import add_piano

        add_piano(builder, list(_midi_sources(args)), args.soundfont, cache)
    _add_packages(builder, packages, cache)
    return report(builder)


def _list_packages() -> int:
    from .debian import PACKAGES

    for package in PACKAGES:
        styles = dict.fromkeys([package.style, *(style for style, _ in package.styles)])
        held_out = "held-out" if package.held_out else "train"
        print(f"{package.name:24} {held_out:9} {'/'.join(styles):30} {package.licence}")
    return 0


def _add_packages(builder: Builder, packages: list, cache: Path) -> None:
    from .debian import PackageError, obtain, unpacked

    for package in packages:
        print(f"{package.name}: unpacking", file=sys.stderr)
        try:
            with unpacked(package, obtain(package.name, cache), builder.folder / ".unpacked") as sources:
                builder.forget(package.name, keep={source.id for source in sources})
                builder.add(sources)
        except PackageError as error:
            builder.problems.append(str(error))


def own_sources(
    audio: Sequence[Path], hold_out: float | None, style: str | None, licence: str | None, output: Path | None = None
) -> list[Source]:
    """Somebody's own files, of which `hold_out` says what share is kept from training; what lies in folders is found by its suffix.

    What is None stays as it was said of a track before; else its style is other, its licence not stated, and it is trained on.
    In `output` and below it lies what a model made, and no music.
    """
    from .build import Source

    found = []
    for given in audio:
        if not given.exists():
            raise UsageError(f"{given}: no such file or folder; give your music")
        root = given if given.is_dir() else given.parent
        found += [(path, root) for path in _audio_files(given, output)]
    kept = chosen([path.name for path, _ in found], hold_out or 0.0)
    unsaid = _unsaid(split=hold_out, style=style, licence=licence)
    sources = []
    for path, root in found:
        name, folder = printable(path.relative_to(root).as_posix()), root.resolve()
        split, package = "held-out" if path.name in kept else "train", printable(folder.name)
        sources.append(
            Source(
                path, name, package, style or "other", licence or UNKNOWN, UNKNOWN, split,
                folder=printable(str(folder)), unsaid=unsaid,
            )
        )  # fmt: skip
    return sources


def _unsaid(**said: object) -> frozenset[str]:
    return frozenset(name for name, value in said.items() if value is None)


def _midi_sources(args: argparse.Namespace) -> Iterator[Source]:
    """The MIDI files below --midi: by whole folders (of composers) and by pieces, some are held out."""
    from .build import Source
    from .piano import midi
    from .piano.build import SOUNDFONT

    files = sorted(path for path in args.midi.rglob("*") if path.suffix.lower() in (".mid", ".midi"))
    if not files:
        raise UsageError(f"--midi {args.midi}: no .mid or .midi files in this folder or below it")
    for path in files:
        name = path.relative_to(args.midi)
        kept = held_out(name.parent.as_posix(), args.hold_out / 2) or held_out(path.name, args.hold_out / 2)
        split = "held-out" if kept else "train"
        folder, style = args.midi.resolve(), args.style or "piano"
        title, copyright = midi.texts(path)
        soundfont = printable(args.soundfont.name) if args.soundfont else SOUNDFONT
        author = f"{copyright or UNKNOWN}; played on {soundfont}"
        yield Source(
            path, printable(name.as_posix()), printable(folder.name), style, args.licence or UNKNOWN, author, split, title,
            folder=printable(str(folder)), unsaid=_unsaid(style=args.style, licence=args.licence),
        )  # fmt: skip


def _audio_files(given: Path, output: Path | None) -> list[Path]:
    if given.is_file():
        return [given]
    try:
        found = sorted(files_below(given, lambda problem: print(f"skipped: {problem}", file=sys.stderr)))
    except OSError as error:
        raise UsageError(f"--audio {given}: cannot be looked into ({error.strerror}); make it readable") from None
    if output:
        made = output.resolve()
        found = [path for path in found if not path.resolve().is_relative_to(made)]
    if not found:
        besides = f", besides what lies in {output}" if output else ""
        raise UsageError(
            f"--audio {given}: no audio files in this folder or below it{besides}; known endings are {' '.join(ENDINGS)}"
        )
    return found


def chosen(file_names: Sequence[str], fraction: float) -> set[str]:
    """Those of `file_names` that are kept from training: none of fewer than FEW, else one at least and never all.

    Of FEW and more what `held_out` chooses does not change as others come; a single one that it did not choose may.
    """
    names = set(file_names)
    if len(names) < FEW or not fraction:
        return names if fraction == 1 else set()
    kept = {name for name in names if held_out(name, fraction)}
    return kept if 0 < len(kept) < len(names) or fraction == 1 else {min(names, key=_lot)}


def held_out(file_name: str, fraction: float) -> bool:
    """Whether a file is kept from training: decided by its name alone, so it never changes sides as others come."""
    return _lot(file_name) < fraction


def _lot(file_name: str) -> float:
    """A number in [0, 1] that a name draws, always the same."""
    return int.from_bytes(hashlib.sha256(printable(file_name).encode()).digest()[:8], "big") / 2**64


def report(builder: Builder) -> int:
    """Say what the corpus holds and what was skipped; returns the exit code."""
    print(Corpus.open(builder.folder).summary())
    for copy in builder.copies:
        print(copy, file=sys.stderr)
    for problem in builder.problems:
        print(f"skipped: {problem}", file=sys.stderr)
    if builder.problems:
        print(f"{len(builder.problems)} skipped, see above; the rest is in {builder.folder}", file=sys.stderr)
    return 1 if builder.problems else 0
