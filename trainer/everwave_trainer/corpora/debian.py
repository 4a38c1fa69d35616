"""Music that Debian 12 distributes: which packages, which files in them, their styles and licences, as data.

Styles were settled once, by hand, from titles, tags and package notes, and where these say nothing by the steadiness of
the beat: the mean autocorrelation of the onset strength at one to four beats, measured over 90 s, where the drum and
synth tracks with a known style lie above 0.45 and the orchestral ones below 0.4.
"""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from everwave.errors import EverwaveError, UsageError

from .build import Source

STYLES = ("techno", "ambient", "orchestral", "rock", "other")
MINIMUM_SECONDS = 20.0  # what is shorter are jingles and sound effects
MUSIC_SUFFIXES = (".ogg", ".opus", ".flac", ".wav", ".mp3")


@dataclass(frozen=True)
class Package:
    """What to take from one Debian package. Files are named without folder and suffix; the first rule that fits wins."""

    name: str
    folder: str  # the music's folder, below usr/share; searched with all its subfolders
    licence: str
    author: str  # where the file's own tags name no artist
    style: str  # of files that `styles` does not name
    styles: tuple[tuple[str, str], ...] = ()  # (style, names or patterns, parted by blanks; "?" stands for a blank)
    licences: tuple[tuple[str, str, str], ...] = ()  # (licence, author, names or patterns)
    omit: str = ""  # names or patterns that are not taken
    archive: str = ""  # a zip in `folder` that holds the music
    held_out: bool = False  # for evaluation, never for training

    def source(self, path: Path, name: str) -> Source:
        """The file `path`, called `name` inside the package, with what the table says of it."""
        stem = PurePosixPath(name).stem
        style = next((style for style, names in self.styles if _named(stem, names)), self.style)
        rules = ((licence, author) for licence, author, names in self.licences if _named(stem, names))
        licence, author = next(rules, (self.licence, self.author))
        split = "held-out" if self.held_out else "train"
        return Source(path, name, self.name, style, licence, author, split, minimum_seconds=MINIMUM_SECONDS)

    def takes(self, name: str) -> bool:
        """Whether the file called `name` inside the package is music to take."""
        path = PurePosixPath(name)
        return path.suffix.lower() in MUSIC_SUFFIXES and not _named(path.stem, self.omit)


def _named(stem: str, patterns: str) -> bool:
    return any(fnmatch.fnmatchcase(stem, pattern) for pattern in patterns.split())


_KENTA_CHO = ("BSD-2-Clause", "Kenta Cho", "techno")

PACKAGES = (
    Package(
        "nexuiz-music",
        "games/nexuiz/data",
        "GPL-2.0-or-later",
        "Alientrap and the Nexuiz musicians",
        "techno",
        styles=(("rock", "brokenlight desert3 ninesix sixtyfour* stairs"), ("ambient", "northern-lights")),
        omit="thunder",  # weather, not music
        archive="music.pk3",
    ),
    Package(
        "singularity-music",
        "games/singularity/music",
        "CC-BY-SA-3.0",
        "Max McCracken (Maxstack)",
        "techno",
        styles=(("ambient", "Awakening Enemy?Unknown Chimes?They?Fade March?Thee?to?Dis"),),
        omit="Through?Space",  # also in starfighter-data, which is held out
    ),
    Package(
        "ufoai-music",
        "games/ufoai/base",
        "GPL-2.0",
        "The UFO:AI team",
        "other",
        styles=(
            ("techno", "Crystan-Battlescape* Crystan-Geosphere* PsymongN* PsymongO* PsymongR* Marine*"),
            ("ambient", "AlexFightmare azrael1 dbsea dawn space TheThings-Slippycurb returnjourney"),
            ("orchestral", "David0* van_*"),
        ),
        licences=(
            (
                "CC-BY-3.0",
                "Manuel Marino (Vanethian), Gren, David Reeves (Destructavator), azrael1322 or Karl Macklin",
                "David0* azrael1 karlmacklin_geoscape van_*",
            ),
            (
                "CC-BY-SA-3.0",
                'Christian Hoffmann (Crystan), "Marine" Baklund, Gren or Slippycurb',
                "Crystan-* Marine* TheThings-Slippycurb dynamictest-* returnjourney",
            ),
            ("public domain", "Independent.nu, Golgotha", "alBasrahM greecei turinItalyM"),
            ("GPL-2.0", "Simon Green (Psymong), Al Riddoch or OpenArena", "*"),
        ),
        archive="0music.pk3",
    ),
    Package(
        "freedroidrpg-data",
        "freedroidrpg/data/sound/music",
        "GPL-2.0-or-later",
        "The FreedroidRPG team",
        "techno",
        styles=(("ambient", "Ambience TheBeginning"), ("other", "Hyperbattle")),
    ),
    Package(
        "starfighter-data",
        "starfighter/music",
        "GPL-2.0-or-later",
        "Zander Noriega, Maxstack, Deceased Superior Technician, Matthew Pablo, tgfcoder, JunglistMilitia, neocrey, "
        "WeskerHunter, Jan125 or Alexandr Zhelanov",
        "techno",
        styles=(("ambient", "walking_among_androids"), ("other", "frozen_jam")),
        held_out=True,
    ),
    Package(
        "colobot-common-sounds",
        "games/colobot/music",
        "GPL-3.0-or-later",
        "Daniel Roux, EPSITEC SA and TerranovaTeam",
        "techno",
        styles=(("ambient", "music00[3-9] music010"), ("other", "music002 music01[1-3] Intro1")),
    ),
    Package("noiz2sa-data", "games/noiz2sa/sounds", *_KENTA_CHO),
    Package("torus-trooper-data", "games/torus-trooper/sounds/musics", *_KENTA_CHO),
    Package("gunroar-data", "games/gunroar/sounds/musics", *_KENTA_CHO),
    Package("parsec47-data", "games/parsec47/sounds", *_KENTA_CHO),
    Package("mu-cade-data", "games/mu-cade/sounds/musics", *_KENTA_CHO),
    Package("tumiki-fighters-data", "games/tumiki-fighters/sounds", *_KENTA_CHO),
    Package("titanion-data", "games/titanion/sounds/musics", *_KENTA_CHO, held_out=True),
    Package(
        "wesnoth-1.16-music",
        "games/wesnoth/1.16/data/core/music",
        "GPL-2.0-or-later",
        "The Battle for Wesnoth musicians",
        "orchestral",
    ),
    Package(
        "unknown-horizons",
        "unknown-horizons/content/audio/music",
        "CC-BY-SA-3.0",
        "The Unknown Horizons team",
        "orchestral",
        styles=(("ambient", "nightdream newfrontier"), ("other", "seafight irelands_coast")),
    ),
    Package(
        "megaglest-data",
        "games/megaglest",
        "CC-BY-SA-3.0",
        "The Glest and MegaGlest teams",
        "orchestral",
        styles=(("other", "asak-jadeflange aminos-together_together manolo_camp-medieval music_indian"),),
        licences=(
            ("CC-BY-SA-3.0", "Mattias Westlund", "romans"),
            ("CC-BY-SA-3.0", "Aminos", "aminos-together_together music_indian"),
            ("CC-BY-SA-3.0", "Margaras", "asak-jadeflange"),
            ("CC-BY-SA-3.0", "Manolo Camp", "manolo_camp-medieval"),
        ),
        # the sounds of the tile sets
        omit="wind desertday night nightime day sunny_day rain hell",
    ),
    Package(
        "flare-game",
        "games/flare/mods/fantasycore/music",
        "CC-BY-SA-3.0",
        "The Flare musicians",
        "ambient",
        styles=(("orchestral", "battle_theme boss_theme title_theme"),),
        omit="wind_ambient",  # weather, not music
        held_out=True,
    ),
    Package(
        "supertux-data",
        "games/supertux2/music",
        "GPL-2.0-or-later",
        "The SuperTux musicians",
        "other",
        styles=(("orchestral", "airship_remix intro"),),
        omit="battle_theme",  # also in flare-game, which is held out
    ),
    Package("hedgewars-data", "games/hedgewars/Data/Music", "GPL-2.0", "The Hedgewars musicians", "other"),
    Package(
        "warzone2100-music",
        "games/warzone2100/music",
        "CC-BY-SA-3.0 or GPL-2.0-or-later",
        "LupusMechanicus",
        "techno",
        styles=(("ambient", "menu"),),
        licences=(("GPL-2.0-or-later", "Martin Severn", "track[123] track3_enhanced menu"),),
    ),
)


class PackageError(EverwaveError):
    """A Debian package cannot be had or unpacked."""


def find_packages(names: list[str]) -> list[Package]:
    """The packages of these names, all if there are none; UsageError for a name that the table lacks."""
    known = {package.name: package for package in PACKAGES}
    for name in names:
        if name not in known:
            raise UsageError(f"--packages {name}: not in the table; known are {', '.join(known)}")
    return [known[name] for name in names] or list(PACKAGES)


def obtain(package: Package, cache: Path) -> Path:
    """The package's .deb in the folder `cache`, downloaded with apt-get if it is not there."""
    found = sorted(cache.glob(f"{package.name}_*.deb"))
    if found:
        return found[-1]
    if shutil.which("apt-get") is None:
        raise PackageError(
            f"{package.name}: apt-get is needed to download it; on another system put {package.name}_*.deb from "
            f"https://packages.debian.org/bookworm/{package.name} into {cache}"
        )
    cache.mkdir(parents=True, exist_ok=True)
    # apt-get writes the file in place: a broken-off download must not look like a whole one
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        _command(["apt-get", "-q", "download", package.name], package, Path(folder))
        downloaded = next(Path(folder).glob("*.deb"))
        return downloaded.rename(cache / downloaded.name)


def _command(command: list[str], package: Package, folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise PackageError(f"{package.name}: {command[0]} is not installed; it comes with Debian's dpkg") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise PackageError(f"{package.name}: `{' '.join(command)}` failed: {reason}") from None


@contextmanager
def unpacked(package: Package, deb: Path, scratch: Path) -> Iterator[list[Source]]:
    """The package's music, unpacked into the folder `scratch`, which is removed afterwards."""
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed run left
    scratch.mkdir()
    try:
        _command(["dpkg-deb", "-x", str(deb.resolve()), "."], package, scratch)
        music = scratch / "usr/share" / package.folder
        if package.archive:
            music = _unzip(package, music / package.archive, scratch / "archive")
        files = (path for path in sorted(music.rglob("*")) if path.is_file() and not path.is_symlink())
        named = [(path, path.relative_to(music).as_posix()) for path in files]
        sources = [package.source(path, name) for path, name in named if package.takes(name)]
        if not sources:
            raise PackageError(f"{deb}: no music below usr/share/{package.folder}; the table fits another version")
        yield sources
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unzip(package: Package, archive: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(folder, [name for name in zipped.namelist() if package.takes(name)])
    except (OSError, zipfile.BadZipFile) as error:
        raise PackageError(f"{package.name}: {archive.name} cannot be unpacked ({error})") from None
    return folder
