"""Music that Debian 12 distributes: which packages, which files in them, their styles and licences, as data.

The styles were settled once, from titles, tags and package notes, and where these are silent by a measured steady beat:
over windows of 20 s, the mean normalised autocorrelation of the spectral flux at one to four beats (70 to 190 per
minute), the median of a track's windows. At 0.45 and more a track counts as techno, below as ambient; orchestral tags
lie below 0.45 in 34 of 37 tracks. "techno" is meant widely: techno, breakbeat, industrial, electronic with a beat.
"other" is what neither settles.

Left out: fretsonfire-songs-* (guitar and band are separate files), drascula-music (may not be sold),
planetblupi-music-ogg and fillets-ng-data (22 kHz mono).
"""

from __future__ import annotations

import fnmatch
import re
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
    within: str = ""  # the music's folder in that zip
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
        fits = path.suffix.lower() in MUSIC_SUFFIXES and path.is_relative_to(self.within)
        return fits and not _named(path.stem, self.omit)


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
        styles=(("rock", "brokenlight desert3 ninesix sixtyfour* stairs"),),
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
        "Simon Green (Psymong), Al Riddoch or OpenArena",
        "ambient",
        styles=(
            ("techno", "Crystan-Battlescape* Crystan-Geosphere* Crystan-Tutorial Crystan-Credits dynamictest-battle-*"),
            ("techno", "PsymongN[12] PsymongO[126] TheThings-Slippycurb MarineIndustrial dbsea dawn space ufo2"),
            ("other", "David0* Marine* van_* alBasrahM greecei turinItalyM"),
        ),
        licences=(
            ("CC-BY-3.0", "David Reeves (Destructavator)", "David0*"),
            ("CC-BY-3.0", "Manuel Marino (Vanethian)", "van_*"),
            ("CC-BY-3.0", "azrael1322", "azrael1"),
            ("CC-BY-3.0", "Karl Macklin", "karlmacklin_geoscape"),
            ("CC-BY-SA-3.0", "Christian Hoffmann (Crystan)", "Crystan-*"),
            ("CC-BY-SA-3.0", '"Marine" Baklund', "Marine*"),
            ("CC-BY-SA-3.0", "Slippycurb", "TheThings-Slippycurb"),
            ("CC-BY-SA-3.0", "Gren or Christian Hoffmann", "dynamictest-* returnjourney"),
            ("public domain", "Independent.nu or Golgotha", "alBasrahM greecei turinItalyM"),
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
        "0ad-data",
        "games/0ad/mods/public",
        "CC-BY-SA-3.0",
        "Wildfire Games",
        "orchestral",
        omit="0_8Bit_Bonus_Track",
        archive="public.zip",
        within="audio/music",
    ),
    Package(
        "widelands-data",
        "games/widelands/data/music",
        "GPL-2.0-or-later",
        "The Widelands Development Team",
        "orchestral",
        licences=(("CC-BY-SA-3.0", "Stuart Marshall", "ingame_2[456]"),),
        held_out=True,
    ),
    Package(
        "freecol",
        "games/freecol/default/resources/music",
        "CC-BY-4.0",
        "Alexander Zhelanov and Stian Grenborgen",
        "orchestral",
        held_out=True,
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
    Package(
        "hedgewars-data",
        "games/hedgewars/Data/Music",
        "GPL-2.0",
        "The Hedgewars musicians",
        "other",
        licences=(
            ("GPL-2.0", "HSR", "City Rock"),
            ("GPL-2.0", "HG", "Compost"),
            ("GPL-2.0", "Jonatan Nilsson", "EarthRise oriental pirate snow"),
            ("GPL-2.0", "Valentin Kraevskiy", "Fruit Jungle"),
            ("GPL-2.0", "John Dum", "Nature"),
            ("GPL-2.0", "yd", "olympics_sd"),
        ),
        omit="sdmusic",  # by Kevin MacLeod, whose own licence the package does not give
    ),
    Package("marsshooter-data", "games/marsshooter/audio", "CC-BY-SA-3.0", "Obsidian Shell", "rock"),
    Package(
        "openclonk-data",
        "games/openclonk/Music.ocg",
        "CC-BY-3.0",
        "Martin Strohmeier (K-Pone)",
        "other",
        styles=(
            ("techno", "@CrushedIceCocktail"),
            ("ambient", "LucidDream"),
            ("orchestral", "UrbanBolero"),
            ("rock", "Motorway TheSkylands"),
        ),
    ),
    Package(
        "hyperrogue-music",
        "hyperrogue/music",
        "CC-BY-SA-3.0",
        "Shawn Parrotte",
        "other",
        licences=(
            ("CC-BY-SA-3.0", "Lincoln Domina", "hr-domina-*"),
            ("CC-BY-SA-3.0", "Will Savino", "hr-savino-*"),
        ),
    ),
    Package(
        "pushover-data",
        "pushover/themes",
        "GPL-3.0-or-later",
        "Roberto Lorenz",
        "other",
        styles=(("techno", "electro"),),
    ),
    Package(
        "warzone2100-music",
        "games/warzone2100/music",
        "CC-BY-SA-3.0 or GPL-2.0-or-later",
        "LupusMechanicus",
        "techno",
        styles=(("ambient", "menu track16 track26"),),
        licences=(
            ("GPL-2.0-or-later", "Martin Severn", "track[123] menu"),
            ("GPL-2.0-or-later", "LupusMechanicus after Martin Severn", "track3_enhanced"),
        ),
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


def obtain(package: str, cache: Path) -> Path:
    """The .deb of the package of this name in the folder `cache`, downloaded with apt-get if it is not there."""
    if found := list(cache.glob(f"{package}_*.deb")):
        return max(found, key=_version)
    if shutil.which("apt-get") is None:
        raise PackageError(
            f"{package}: apt-get is needed to download it; on another system put {package}_*.deb from "
            f"https://packages.debian.org/bookworm/{package} into {cache}"
        )
    cache.mkdir(parents=True, exist_ok=True)
    # apt-get writes the file in place: a broken-off download must not look like a whole one
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        _command(["apt-get", "-q", "download", package], package, Path(folder))
        downloaded = next(Path(folder).glob("*.deb"))
        return downloaded.rename(cache / downloaded.name)


def _version(deb: Path) -> list[str | int]:
    """By which later ones sort behind: 1.10 after 1.9. Text and numbers take turns."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", deb.name)]


def unpack(deb: Path, folder: Path) -> None:
    """Unpack the files of a .deb into `folder`, without installing anything."""
    _command(["dpkg-deb", "-x", str(deb.resolve()), "."], deb.name.partition("_")[0], folder)


def _command(command: list[str], package: str, folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise PackageError(f"{package}: {command[0]} is not installed; it comes with Debian's dpkg") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise PackageError(f"{package}: `{' '.join(command)}` failed: {reason}") from None


@contextmanager
def unpacked(package: Package, deb: Path, scratch: Path) -> Iterator[list[Source]]:
    """The package's music, unpacked into the folder `scratch`, which is removed afterwards."""
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed run left
    scratch.mkdir()
    try:
        unpack(deb, scratch)
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
