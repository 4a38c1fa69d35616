"""What is played: from (seed, index) to a score. All times are in steps, sixteenths of a bar of four beats."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .patches import PATCHES, Patch
from .patterns import (
    BASS_LINES,
    CHORD_STEPS,
    GENRES,
    HATS,
    KICKS,
    MODES,
    OPEN_HATS,
    PROGRESSIONS,
    SNARES,
    Genre,
    euclid,
    steps_of,
)

BAR = 16
UNIT = 8 * BAR  # sections are whole units of eight bars
BPM_RANGE = (115.0, 165.0)
GOLDEN = 0.6180339887498949
SECONDS_RANGE = (120.0, 240.0)


@dataclass
class Part:
    """One instrument's part: `hits` (step, velocity) of a one-shot, or `notes` (step, steps held, pitch, velocity)."""

    role: str
    level: float  # peak of a one-shot, root mean square of a voice
    pan: float = 0.0  # -1 left, 1 right
    duck: float = 0.0
    reverb: float = 0.0
    echo: float = 0.0
    transpose: float = 0.0  # of a one-shot, in semitones
    held: float = 0.0  # steps in which a one-shot dies away; 0: as long as it is
    choice: float = 0.0  # which of the kit's one-shots of this role, as a fraction of their list
    patch: Patch | None = None
    hits: list[tuple[float, float]] = field(default_factory=list)
    notes: list[tuple[float, float, float, float]] = field(default_factory=list)
    octaves: list[float] = field(default_factory=list)  # the filter's opening at every start of a unit, and at the end


@dataclass
class Score:
    """A whole track. `sections` has one name per unit."""

    genre: str
    bpm: float
    swing: float  # of a step: how much later the odd ones come
    sections: list[str]
    parts: list[Part]
    echo_steps: int
    reverb_seconds: float
    drive: float

    @property
    def steps(self) -> int:
        """Length of the track in steps."""
        return UNIT * len(self.sections)

    def seconds(self, step: float) -> float:
        """When a step sounds; between two steps, in proportion."""
        whole = int(step)
        late = self.swing * (1 - (step - whole) if whole % 2 else step - whole)
        return (step + late) * 15 / self.bpm


def tempo(seed: int, index: int) -> float:
    """Beats per minute of track `index`: any run of indices covers the range evenly, whatever the genres."""
    start = np.random.default_rng([seed, 0]).random()
    low, high = BPM_RANGE
    return round(low + (high - low) * ((start + GOLDEN * index) % 1.0), 2)


def compose(seed: int, index: int) -> Score:
    """The score of track `index`: a pure function of its arguments."""
    return _Composer(seed, index).score()


class _Composer:
    """Draws what a track is made of once, then writes it unit by unit."""

    def __init__(self, seed: int, index: int) -> None:
        self.rng = rng = np.random.default_rng([seed, 1, index])
        self.bpm = tempo(seed, index)
        weights = np.array([g.weight for g in GENRES])
        self.genre: Genre = GENRES[rng.choice(len(GENRES), p=weights / weights.sum())]
        self.swing = float(rng.uniform(*self.genre.swing))
        bars = rng.uniform(*SECONDS_RANGE) * self.bpm / 240
        self.sections = self._plan(max(round(bars / 8), 6))
        mode = MODES[self._pick(self.genre.modes)]
        self.scale = np.array(mode)
        self.root = 28 + int(rng.integers(12))  # E1 to D#2, as MIDI numbers
        self.progression = [int(d) for d in PROGRESSIONS[self._pick(self.genre.progressions)].split()]
        self.bars_per_chord = int(rng.choice([1, 2])) if len(self.progression) > 1 else 1

    def _pick(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def _plan(self, units: int) -> list[str]:
        """Names of the sections: an intro that builds, drops parted by short breaks, an outro."""
        plan = ["intro", "build"]
        since = 0
        while len(plan) < units - 1:
            left = units - 1 - len(plan)
            if since >= 3 and left >= 2 and self.rng.random() < 0.6:
                plan += ["break", "drop"]
                since = 1
            else:
                plan.append("main" if since % 2 == 0 else "drop")
                since += 1
        return [*plan, "outro"]

    def score(self) -> Score:
        """Write every part that the genre has."""
        rng, genre = self.rng, self.genre
        parts = self._drums()
        writers = {"stab": self._stab, "pad": self._pad, "arp": self._arp, "lead": self._lead}
        voices = [writers[role]() for role, chance in genre.voices if rng.random() < chance]
        voiced = {int(step // UNIT) for part in voices for step, *_ in part.notes}
        parts += [*voices, self._bass(voiced)]
        return Score(
            genre.name, self.bpm, self.swing, self.sections, [p for p in parts if p.hits or p.notes],
            echo_steps=int(rng.choice([2, 3, 3, 6])), reverb_seconds=float(rng.uniform(1.0, 3.5)),
            drive=float(rng.uniform(*genre.drive)),
        )  # fmt: skip

    # -- which part plays when

    def _active(self, entry: tuple[float, float], in_break: float) -> list[bool]:
        """Whether a part plays in each unit: where the section's energy reaches the part's own threshold."""
        energy = {"intro": 0.3, "build": 0.6, "main": 0.8, "drop": 1.0, "outro": 0.4}
        threshold = self.rng.uniform(*entry)
        rests = self.rng.random(len(self.sections))
        return [
            rests[i] < in_break if s == "break" else energy[s] >= threshold and (s == "drop" or rests[i] < 0.88)
            for i, s in enumerate(self.sections)
        ]

    def _opening(self, depth: float) -> list[float]:
        """A filter's opening in octaves at every start of a unit: wanders, rises into drops."""
        values, value = [], float(self.rng.uniform(-depth, 0))
        for section in [*self.sections, "outro"]:
            target = {"intro": -0.8, "build": -0.3, "main": 0.0, "drop": 0.5, "break": -0.7, "outro": -0.5}[section]
            value = 0.3 * value + 0.7 * depth * (target + float(self.rng.uniform(-0.4, 0.4)))
            values.append(value)
        return values

    # -- drums

    def _drum(self, role: str, level: float, **extra: Any) -> Part:
        return Part(role, level * float(self.rng.uniform(0.85, 1.15)), choice=float(self.rng.random()), **extra)

    def _fill(self, part: Part, patterns: list[str], active: list[bool]) -> Part:
        """Repeat the patterns (of a bar each, in turn) through the active units."""
        bars = [steps_of(pattern) for pattern in patterns]
        for unit in _units(active):
            for bar in range(8):
                at = unit * UNIT + bar * BAR
                part.hits += [(at + s, v * float(self.rng.uniform(0.92, 1.0))) for s, v in bars[bar % len(bars)]]
        return part

    def _drums(self) -> list[Part]:
        rng, genre = self.rng, self.genre
        kick = self._drum("kick", 0.9, transpose=float(rng.uniform(-1.5, 1.5)))
        base = self._pick(KICKS[genre.drums])
        patterns = [base, base, base, self._pick(KICKS[genre.drums])]
        self.kick_active = [s != "break" for s in self.sections]
        self._fill(kick, patterns, self.kick_active)
        parts = [kick]
        backbeat = "snare" if genre.drums != "four" or rng.random() < 0.3 else "clap"
        snare = self._drum(backbeat, 0.6, reverb=float(rng.uniform(0.03, 0.2)), transpose=float(rng.uniform(-2, 2)))
        first = self._pick(SNARES[genre.drums])
        self._fill(snare, [first, first, first, self._pick(SNARES[genre.drums])], self._active((0.1, 0.5), 0.3))
        parts.append(snare)
        closed = self._drum(
            "closed hat", 0.32, pan=float(rng.uniform(-0.3, 0.3)), transpose=float(rng.uniform(-2, 3)),
            held=float(rng.uniform(1.0, 2.5)),
        )  # fmt: skip
        parts.append(self._fill(closed, [self._pick(HATS)], self._active((0.0, 0.45), 1.0)))
        opened = self._drum(
            "open hat", 0.36, pan=float(rng.uniform(-0.2, 0.2)), transpose=float(rng.uniform(-2, 2)),
            held=float(rng.uniform(2.5, 5.0)),
        )  # fmt: skip
        open_patterns = OPEN_HATS["four" if genre.drums == "four" else "broken"]
        parts.append(self._fill(opened, [self._pick(open_patterns)], self._active((0.4, 0.7), 0.15)))
        for _ in range(int(rng.integers(1, 4))):
            drum = self._drum(
                "percussion", 0.22, pan=float(rng.uniform(-0.7, 0.7)), transpose=float(rng.uniform(-4, 4)),
                reverb=float(rng.uniform(0, 0.25)), echo=float(rng.choice([0.0, 0.0, 0.35])),
            )  # fmt: skip
            count, turn = int(rng.choice([2, 3, 5, 7])), int(rng.integers(BAR))
            parts.append(self._fill(drum, [euclid(count, BAR, turn)], self._active((0.1, 0.9), 0.5)))
        self._transitions(parts, kick, snare)
        return parts

    def _transitions(self, parts: list[Part], kick: Part, snare: Part) -> None:
        """Fills at the ends of units, rolls into drops, a crash where a drop begins."""
        crash = self._drum("crash", 0.3, reverb=0.1)
        for unit, section in enumerate(self.sections):
            end = (unit + 1) * UNIT
            following = self.sections[unit + 1] if unit + 1 < len(self.sections) else ""
            if following == "drop" and section in ("break", "build"):
                roll = 2 * BAR if section == "break" else BAR
                strokes = [s for s in range(roll) if s >= roll / 2 or s % 2 == 0]
                snare.hits += [(end - roll + s, 0.25 + 0.6 * s / roll) for s in strokes]
            elif section != "break" and self.rng.random() < 0.5:
                silent = int(self.rng.choice([2, 4, 8]))
                kick.hits = [
                    hit for hit in kick.hits if not end - silent <= hit[0] < end or (silent > 4 and hit[0] % 4)
                ]
                toms = self._drum("percussion", 0.35, transpose=float(self.rng.uniform(-5, 2)))
                toms.hits = [
                    (end - 8 + s, 0.5 + 0.06 * s) for s, _ in steps_of(euclid(5, 8, int(self.rng.integers(8))))
                ]
                parts.append(toms)
            if section == "drop" or (unit and self.sections[unit - 1] == "break"):
                crash.hits.append((unit * UNIT, 1.0))
        parts.append(crash)

    # -- harmony

    def _degree(self, step: float) -> int:
        """The chord's scale degree at a step."""
        return self.progression[int(step // BAR // self.bars_per_chord) % len(self.progression)]

    def _pitch(self, degree: int, octave: int = 0) -> int:
        """MIDI number of a scale degree above the root."""
        return self.root + 12 * octave + 12 * (degree // 7) + int(self.scale[degree % 7])

    def _chord(self, step: float, size: int) -> list[int]:
        """A chord around middle C, in the inversion that moves least from chord to chord."""
        notes = [self._pitch(self._degree(step) + third, 2) for third in (0, 2, 4, 6)[:size]]
        return sorted(55 + (note - 55) % 12 for note in notes)

    def _voice(self, role: str, kinds: tuple[str, ...], level: float, depth: float, **extra: Any) -> Part:
        patch = PATCHES[self._pick(kinds)].varied(self.rng)
        part = Part(role, level * float(self.rng.uniform(0.8, 1.2)), patch=patch, **extra)
        part.octaves = self._opening(depth)
        return part

    # -- voices

    def _bass(self, voiced: set[int]) -> Part:
        """The bass line; it goes on through breaks that no other voice fills."""
        kind = self._pick(self.genre.basses)
        patch, lines, octave, level = BASS_LINES[kind]
        part = self._voice(
            "bass", (patch,), level, 2.2 if kind == "acid" else 1.2, duck=float(self.rng.uniform(0.5, 0.9))
        )
        part.echo = 0.15 if kind == "acid" else 0.0
        line = self._acid_line() if kind == "acid" else [(s, 0, v) for s, v in steps_of(self._pick(lines))]
        if kind not in ("acid", "sub"):
            line = [(s, int(self.rng.choice([0, 0, 0, 0, 4, 7])) if s % 8 else 0, v) for s, d, v in line]
        held = {"sub": 6.0, "offbeat": 1.6}.get(kind, 0.85)
        active = self._active((0.25, 0.6), 0.2)
        active = [
            a or (s == "break" and u not in voiced) for u, (a, s) in enumerate(zip(active, self.sections, strict=True))
        ]
        for unit in _units(active):
            for bar in range(8):
                at = unit * UNIT + bar * BAR
                for step, degree, velocity in line:
                    pitch = self._pitch(self._degree(at + step) + degree, octave)
                    part.notes.append((at + step, held, pitch, velocity))
        return part

    def _acid_line(self) -> list[tuple[int, int, float]]:
        rng = self.rng
        degrees = rng.choice([0, 0, 0, 7, 2, 4, -1, 6], size=BAR)
        return [
            (s, int(degrees[s]), float(rng.choice([0.55, 0.7, 1.0])))
            for s in range(BAR)
            if s == 0 or rng.random() < 0.75
        ]

    def _stab(self) -> Part:
        part = self._voice(
            "stab", ("saw stab", "dub chord", "organ", "hoover"), 0.055, 1.5,
            duck=float(self.rng.uniform(0.3, 0.7)), reverb=float(self.rng.uniform(0.1, 0.4)),
            echo=float(self.rng.uniform(0.0, 0.5)),
        )  # fmt: skip
        rhythm = steps_of(self._pick(CHORD_STEPS))
        size = int(self.rng.choice([3, 3, 4]))
        for unit in _units(self._active((0.5, 0.9), 0.5)):
            for bar in range(8):
                at = unit * UNIT + bar * BAR
                part.notes += [(at + s, 1.2, p, v) for s, v in rhythm for p in self._chord(at + s, size)]
        return part

    def _pad(self) -> Part:
        part = self._voice(
            "pad", ("warm pad", "wide pad", "glass pad"), 0.04, 1.5,
            duck=float(self.rng.uniform(0.5, 0.9)), reverb=float(self.rng.uniform(0.2, 0.5)),
        )  # fmt: skip
        length = BAR * self.bars_per_chord
        for unit in _units(self._active((0.3, 1.0), 0.95)):
            for at in range(unit * UNIT, (unit + 1) * UNIT, length):
                part.notes += [(at, length - 0.5, pitch, 0.8) for pitch in self._chord(at, 4)]
        return part

    def _arp(self) -> Part:
        part = self._voice(
            "arp", ("pluck", "square pluck", "bell"), 0.045, 1.8,
            duck=float(self.rng.uniform(0.2, 0.6)), reverb=float(self.rng.uniform(0.1, 0.3)),
            echo=float(self.rng.uniform(0.2, 0.6)),
        )  # fmt: skip
        span = int(self.rng.choice([3, 4, 6, 8]))
        order = self.rng.permutation(span) if self.rng.random() < 0.4 else np.arange(span)
        every = int(self.rng.choice([1, 1, 2]))
        mask = self.rng.random(BAR) < self.rng.uniform(0.6, 1.0)
        for unit in _units(self._active((0.5, 0.95), 0.8)):
            for at in range(unit * UNIT, (unit + 1) * UNIT, every):
                if mask[at % BAR]:
                    chord = self._chord(at, 3)
                    place = int(order[(at // every) % span])
                    pitch = chord[place % 3] + 12 * (place // 3)
                    part.notes.append((at, 0.7 * every, pitch, 1.0 if at % 4 == 0 else 0.7))
        return part

    def _lead(self) -> Part:
        part = self._voice(
            "lead", ("saw lead", "square lead", "bell"), 0.05, 1.2,
            duck=float(self.rng.uniform(0.2, 0.5)), reverb=float(self.rng.uniform(0.15, 0.4)),
            echo=float(self.rng.uniform(0.2, 0.5)),
        )  # fmt: skip
        motif = self._motif(2 * BAR)
        for unit in _units(self._active((0.75, 1.0), 0.6)):
            for at in range(unit * UNIT, (unit + 1) * UNIT, 2 * BAR):
                for step, held, degree in motif:
                    pitch = self._pitch(self._degree(at) + degree, 3)
                    part.notes.append((at + step, held, pitch - 12 * (pitch > 84), 0.9))
        return part

    def _motif(self, steps: int) -> list[tuple[int, float, int]]:
        """A melody of a few notes: chord tones on beats, neighbours between."""
        rng, step, degree, motif = self.rng, int(self.rng.choice([0, 2, 4])), 4, []
        while step < steps:
            length = int(rng.choice([2, 3, 4, 6]))
            degree = int(np.clip(degree + rng.integers(-2, 3), 0, 8))
            tone = degree // 2 * 2 if step % 4 == 0 else degree
            motif.append((step, 0.8 * length, tone))
            step += length
        return motif


def _units(active: list[bool]) -> list[int]:
    return [unit for unit, plays in enumerate(active) if plays]
