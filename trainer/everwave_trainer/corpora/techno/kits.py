"""One-shot samples that Debian 12 distributes, by role: what the composed techno is played on."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..build import stereo_blocks
from ..debian import PackageError, obtain, unpack

FLOOR = 0.02  # of a sample's peak: what is softer at its start is no attack yet, at its end no longer heard
FADE_SECONDS = 0.005
LONGEST_SECONDS = 2.5


@dataclass(frozen=True)
class Bank:
    """A folder of one-shots in a Debian package."""

    package: str
    folder: str  # below usr/share
    suffix: str
    licence: str
    author: str


SONIC_PI = Bank("sonic-pi-samples", "sonic-pi/samples", ".flac", "CC0-1.0", "musicians of freesound.org")
_HYDROGEN = "hydrogen/data/drumkits"
TR808 = Bank("hydrogen-data", f"{_HYDROGEN}/TR808EmulationKit", ".flac", "GPL-2.0-or-later", "Artemiy Pavlov")
EMPIRE = Bank("hydrogen-drumkits", f"{_HYDROGEN}/ElectricEmpireKit", ".flac", "GPL-2.0-or-later", "Artemiy Pavlov")
ELECTRO = Bank("hydrogen-drumkits", f"{_HYDROGEN}/HardElectro1", ".flac", "GPL-2.0-or-later", "Artemiy Pavlov")
BREAKS = Bank("hydrogen-drumkits", f"{_HYDROGEN}/VariBreaks", ".flac", "GPL-2.0-or-later", "Artemiy Pavlov")

# role: (bank, file names for training, file names that only held-out tracks use), parted by commas
SAMPLES: dict[str, tuple[tuple[Bank, str, str], ...]] = {
    "kick": (
        (SONIC_PI, "bd_ada,bd_fat,bd_gas,bd_haus,bd_klub,bd_tek,bd_zome,bd_808,drum_heavy_kick,drum_bass_hard", "bd_sone,bd_zum"),
        (TR808, "808_Kick_Short,808_Kick_Long", ""),
        (EMPIRE, "EE_Kick_Dist,EE_Kick_Hard_1,EE_Kick_Lite_1,EE_Kick_Low_1,EE_Kick_Old,EE_Kick_Stomp", "EE_Kick_Power,EE_Kick_Hard_2"),
        (ELECTRO, "HardHse_K_02,PowR_BD_1", "HardHse_K_03_B"),
        (BREAKS, "VP Kick 1,VP Kick 2", "VP Kick 3"),
    ),
    "snare": (
        (SONIC_PI, "drum_snare_hard,elec_hi_snare,elec_snare,elec_filt_snare,sn_dolf,sn_dub", "sn_zome"),
        (TR808, "808_Snare_1", "808_Snare_2"),
        (EMPIRE, "EE_Snare_1,EE_Snare_3,EE_Snare_Low,EE_Snare_Ring", "EE_Snare_2"),
        (ELECTRO, "PowR_SN_1", ""),
        (BREAKS, "VP Snare 1,VP Snare 2", "VP Snare 3"),
    ),
    "clap": (
        (SONIC_PI, "perc_snap", "perc_snap2"),
        (TR808, "808_Clap", ""),
        (EMPIRE, "EE_Clap_Hard", "EE_Clap"),
        (ELECTRO, "Amp_Clap_1", "Clap_1"),
    ),
    "closed hat": (
        (SONIC_PI, "drum_cymbal_closed", "drum_cymbal_pedal"),
        (TR808, "808_Hat_Closed,808_Shaker", "808_Hat_Pedal"),
        (EMPIRE, "EE_Hat_Cl_Bs,EE_Hat_Low,EE_Hat_Ring_1,EE_Hat_Ring_2", "EE_Hat_Cl_Dirty"),
        (ELECTRO, "CHH_1,FX_Chh_01,Hard_CHH_01,PowR_HH_1", "Hard_CHH_02,PowR_HH_2"),
        (BREAKS, "VP Hat 1 Cl,VP Hat 2 Cl", "VP Hat 3 Cl"),
    ),
    "open hat": (
        (SONIC_PI, "drum_cymbal_open,elec_cymbal", "drum_cymbal_soft"),
        (TR808, "808_Hat_Open", ""),
        (EMPIRE, "EE_Hat_Op_Phaser", "EE_Hat_Op_Dirty"),
        (ELECTRO, "Hard_Hse_OHH_1", ""),
        (BREAKS, "VP Hat 1 Op", ""),
    ),
    "percussion": (
        (
            SONIC_PI,
            "elec_blip,elec_blip2,elec_bong,elec_flip,elec_plip,elec_pop,elec_tick,elec_wood,elec_bell,drum_cowbell,"
            "drum_tom_hi_hard,drum_tom_mid_hard,elec_hollow_kick,elec_fuzz_tom",
            "elec_ping,elec_twip,elec_beep,drum_tom_lo_hard",
        ),
        (TR808, "808_Clave,808_Conga,808_Cowbell,808_Tom_Hi,808_Tom_Low", "808_Tom_Mid"),
        (EMPIRE, "EE_Click,EE_Conga_1,EE_Drum_1", "EE_Conga_2,EE_Drum_2"),
        (BREAKS, "VP Click,VP Drum,VP Tom Hi,VP Tom Low", "VP Tom Mid"),
    ),
    "crash": ((SONIC_PI, "drum_splash_hard,drum_cymbal_hard", "drum_splash_soft"), (TR808, "808_Cymbal", "")),
}  # fmt: skip


@dataclass(frozen=True)
class OneShot:
    """One sample: float32 (frames, 2), peak 1, beginning with its attack and faded out at its end."""

    name: str
    bank: Bank
    samples: np.ndarray


Kit = dict[str, list[OneShot]]  # by role


def load(cache: Path, sample_rate: int) -> dict[str, Kit]:
    """The one-shots of each split ("train", "held-out"), from the .deb files in `cache`, downloaded if absent.

    PackageError if a package cannot be had or is of another version than the table.
    """
    kits: dict[str, Kit] = {"train": {}, "held-out": {}}
    with tempfile.TemporaryDirectory() as scratch:
        banks = {bank.package for entries in SAMPLES.values() for bank, *_ in entries}
        for package in sorted(banks):
            unpack(obtain(package, cache), Path(scratch))
        for role, entries in SAMPLES.items():
            for bank, *names in entries:
                for split, listed in zip(kits, names, strict=True):
                    one_shots = [_read(bank, name, Path(scratch), sample_rate) for name in listed.split(",") if name]
                    kits[split].setdefault(role, []).extend(one_shots)
    return kits


def _read(bank: Bank, name: str, root: Path, sample_rate: int) -> OneShot:
    path = root / "usr/share" / bank.folder / (name + bank.suffix)
    if not path.exists():
        raise PackageError(
            f"{bank.package}: holds no usr/share/{bank.folder}/{path.name}; the table fits another version"
        )
    return OneShot(name, bank, trimmed(np.concatenate(list(stereo_blocks(path, sample_rate))), sample_rate))


def trimmed(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """(frames, 2) of any level -> the same from its attack on, peak 1, faded out, at most LONGEST_SECONDS long."""
    level = np.abs(samples).max(axis=1)
    heard = np.flatnonzero(level > FLOOR * level.max())
    samples = samples[heard[0] : heard[-1] + 1][: int(LONGEST_SECONDS * sample_rate)] / level.max()
    fade = min(int(FADE_SECONDS * sample_rate), len(samples))
    samples[len(samples) - fade :] *= np.linspace(1, 0, fade)[:, None]
    return np.ascontiguousarray(samples, np.float32)
