"""Corpora as latents: what the GAN trains on.

A latents folder holds `latents.json` and one float16 array (shifts, T, channels) per track: the track encoded
at several offsets within one latent step, so that crops can start between the steps too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from everwave import weights
from everwave.conditioning import channels
from everwave.config import Condition
from everwave.errors import EverwaveError, UsageError

from .corpora.store import fingerprint, together

VERSION = 2
SHIFTS = 4
UNITS = {"bpm": "beats per minute", "density": "onsets per second"}
TIMES = {"bpm": "beats", "density": "onsets"}  # the label with the times of what a condition counts, in seconds
CLOCKS = (1, 4)  # of these per turn of the clocks that go with a condition where their times are known
Label = float | list[float]  # a constant, or one value per latent step; times


@dataclass(frozen=True)
class Piece:
    """One track's latents: float16 (shifts, steps, channels) in `file`, its labels by condition name, and its style."""

    file: str
    title: str
    package: str
    steps: int
    labels: dict[str, Label]
    style: str = ""
    sha256: str = ""  # of the audio file that the track was decoded from
    speed: float = 1.0  # at which it was played
    loudest: list[float] | None = None  # log-magnitude of any frame, in bands of CEILING_BINS bins; None: not known


@dataclass(frozen=True)
class Latents:
    """An opened latents folder; `files` are where the arrays of `pieces` lie, in their order."""

    pieces: tuple[Piece, ...]
    files: tuple[Path, ...]
    autoencoder: dict[str, str]  # file name and sha256 of the weights that made them
    sources: dict[str, Any]
    latent_rate: float  # steps per second
    folder: Path

    @property
    def autoencoder_path(self) -> Path:
        """The copy of the autoencoder that the folder keeps, so that what is trained on it can be heard."""
        return self.folder / self.autoencoder["file"]

    @classmethod
    def open(cls, folder: Path) -> Latents:
        data = read(folder)
        if data is None:
            raise EverwaveError(f"{folder}: no latents.json; make it with `everwave-train encode -o {folder}`")
        pieces = tuple(Piece(**p) for p in data["pieces"])
        files = tuple(folder / piece.file for piece in pieces)
        return cls(pieces, files, data["autoencoder"], data["sources"], data["latent_rate"], folder)

    @classmethod
    def join(cls, folders: Sequence[Path]) -> Latents:
        """Several folders as one, which keeps the first one's autoencoder; UsageError unless all were made with the same."""
        all_of = [cls.open(folder) for folder in folders]
        first = all_of[0]
        for other in all_of[1:]:
            if other.autoencoder["sha256"] != first.autoencoder["sha256"]:
                raise UsageError(
                    f"{other.folder}: its autoencoder is not that of {first.folder}; encode both with the same one"
                )
        pieces = tuple(piece for one in all_of for piece in one.pieces)
        # a track that is there at several speeds is one
        steps = {piece.sha256 or piece.file: piece.speed * piece.steps for piece in pieces}
        hours = sum(steps.values()) / first.latent_rate / 3600
        return replace(
            first,
            pieces=pieces,
            files=tuple(file for one in all_of for file in one.files),
            sources=together([one.sources for one in all_of], hours),
        )

    def array(self, index: int) -> np.ndarray:
        """A piece's latents as a read-only memory map, to let go of soon: each holds a file open, and a system allows few."""
        try:
            return np.load(self.files[index], mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise EverwaveError(f"{self.files[index]}: {error}; delete it and encode the corpus again") from None

    def labelled(self, names: Sequence[str], known: Sequence[Condition] = ()) -> Latents:
        """Only the pieces that have all labels called `names`, and say when the beats or onsets are if most of those do.

        The name of a style, which a piece here is of or a condition `known` before has choices for, is a label of every piece: 1
        of those of that style, 0 of the others. A model that has `names` for conditions needs those times where they have clocks.
        UsageError if no piece is left.
        """
        styled = self._styled(names, known)
        needed = styled._needed(names, known)
        kept = [i for i, piece in enumerate(styled.pieces) if needed <= set(piece.labels)]
        if not kept:
            raise UsageError(
                f"conditions {' '.join(names)}: no piece in {self.folder} has all labels that they need"
                f" ({self.lacking(names, known)}); label the corpus and encode it again, or train without such a condition"
            )
        return replace(self, pieces=tuple(styled.pieces[i] for i in kept), files=tuple(self.files[i] for i in kept))

    def lacking(self, names: Sequence[str], known: Sequence[Condition] = ()) -> str:
        """How many pieces lack which of the labels by which `labelled` would choose, in words."""
        styled = self._styled(names, known)
        counts = {x: sum(x not in p.labels for p in styled.pieces) for x in sorted(styled._needed(names, known))}
        return ", ".join(f"{count} of {len(self.pieces)} lack {label}" for label, count in counts.items() if count)

    def _styled(self, names: Sequence[str], known: Sequence[Condition]) -> Latents:
        """With labels for those of `names` that are styles."""
        styles = ({piece.style for piece in self.pieces} | {c.name for c in known if c.choices}) & set(names)
        pieces = (
            replace(piece, labels={**{style: float(piece.style == style) for style in styles}, **piece.labels})
            for piece in self.pieces
        )
        return replace(self, pieces=tuple(pieces))

    def _needed(self, names: Sequence[str], known: Sequence[Condition]) -> set[str]:
        """What a piece must have: labels called `names`, and times of what some of them count."""
        trained_on = {c.name: c for c in known} if [c.name for c in known] == list(names) else {}
        having = [piece for piece in self.pieces if set(names) <= set(piece.labels)]
        needed = set(names)
        for name in TIMES.keys() & needed:
            timed = sum(TIMES[name] in piece.labels for piece in having)
            # a few pieces are not worth their clocks; one alone would leave out all others
            wanted = bool(trained_on[name].clocks) if trained_on else 2 * timed >= len(having)
            if timed and wanted:
                needed.add(TIMES[name])
        return needed

    def conditions(self, names: Sequence[str]) -> tuple[Condition, ...]:
        """Normalisation of the labels called `names`, which every piece has: mean, standard deviation, range as found.

        A condition gets clocks where every piece has the times of what it counts, and choices where it is a style.
        """
        conditions, styles = [], {piece.style for piece in self.pieces}
        for name in names:
            flat = np.concatenate([np.broadcast_to(p.labels[name], p.steps) for p in self.pieces])
            scale = max(float(flat.std()), 1e-3)
            low, high = float(flat.min()), float(flat.max())
            clocks = CLOCKS if all(TIMES.get(name) in p.labels for p in self.pieces) else ()
            choices = tuple(sorted({low, high})) if name in styles else ()
            conditions.append(
                Condition(name, UNITS.get(name, ""), float(flat.mean()), scale, low, high, clocks, choices)
            )
        return tuple(conditions)

    def ceiling(self) -> tuple[float, ...]:
        """How loud this music is where it is loudest, for `GeneratorConfig.ceiling`: each band as its neighbours may be, as notes
        lie on either side of a border. Empty if that of a piece is not known."""
        known = [piece.loudest for piece in self.pieces if piece.loudest]
        if len(known) < len(self.pieces):
            return ()
        bands = np.pad(np.max(known, axis=0), 1, mode="edge")
        return tuple(np.maximum(np.maximum(bands[:-2], bands[1:-1]), bands[2:]).tolist())

    def fingerprint(self, conditions: Sequence[Condition]) -> str:
        """Of all that training with `conditions` sees, wherever the folder lies."""
        seen = {c.name for c in conditions} | {TIMES[c.name] for c in conditions if c.clocks}
        pieces = [
            (p.file, p.sha256, p.speed, p.steps, {name: p.labels[name] for name in seen if name in p.labels})
            for p in self.pieces
        ]
        return fingerprint([self.autoencoder.get("sha256"), self.latent_rate, pieces])

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel (channels,), the same for left and right."""
        count, total, squares = 0, 0.0, 0.0
        for index in range(len(self.pieces)):
            sides = np.concatenate(np.split(np.asarray(self.array(index)[0], np.float64), 2, axis=1))
            count, total, squares = count + len(sides), total + sides.sum(axis=0), squares + (sides**2).sum(axis=0)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
        return np.tile(mean, 2).astype(np.float32), np.tile(deviation, 2).astype(np.float32)

    def places(self, length: int) -> np.ndarray:
        """How many crops of `length` latents each piece has (len(pieces),). EverwaveError if none has one."""
        places = np.array([max(p.steps - length + 1, 0) for p in self.pieces])
        if not places.any():
            raise EverwaveError(
                f"{self.folder}: no piece has the {length} latents ({length / self.latent_rate:.0f} s) that one crop needs;"
                " add longer ones"
            )
        return places

    def crops(
        self, length: int, batch: int, seed: int, step: int, conditions: Sequence[Condition] = ()
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Latents (batch, length, channels) and the network's inputs for `conditions` (batch, length, n) of one step,
        and where they are from: piece and first latent (batch,).

        A pure function of (seed, step). Left and right are swapped at random; a swapped piece counts as another one,
        len(pieces) further on.
        """
        rng = np.random.default_rng([seed, step])
        usable = self.places(length)
        chosen = rng.choice(len(usable), batch, p=usable / usable.sum())
        latents = []
        signals = np.empty((batch, length, sum(c.channels for c in conditions)), np.float32)
        origins, starts = chosen.copy(), np.empty(batch)
        for row, index in enumerate(chosen):
            piece, start, shift = self.pieces[index], int(rng.integers(usable[index])), int(rng.integers(SHIFTS))
            array = self.array(index)
            crop = array[shift % len(array), start : start + length]
            swapped = int(rng.integers(2))
            latents.append(np.roll(crop, crop.shape[1] // 2 * swapped, axis=1))
            origins[row] += swapped * len(self.pieces)
            starts[row] = start + shift / SHIFTS
            columns = [column for c in conditions for column in self._inputs(piece, c, start, shift, length)]
            signals[row] = np.reshape(columns, (-1, length)).T
        return np.stack(latents).astype(np.float32), signals, origins, starts

    def _inputs(self, piece: Piece, condition: Condition, start: int, shift: int, length: int) -> list[np.ndarray]:
        """A condition's network inputs (length,) for a crop, as `everwave.conditioning` makes them from wishes."""
        values = np.broadcast_to(piece.labels[condition.name], piece.steps)[start : start + length]
        beats = np.zeros(length)
        if condition.clocks:
            middle = (start + np.arange(length) + 0.5 + shift / SHIFTS) / self.latent_rate
            beats = beats_at(np.asarray(piece.labels[TIMES[condition.name]], np.float64), middle)
        return channels(condition, values, beats)


def read(folder: Path) -> dict[str, Any] | None:
    """What `latents.json` says, or None where there is none yet. EverwaveError if it is damaged, or of another version."""
    path = folder / "latents.json"
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise EverwaveError(f"{path}: damaged ({error}); delete it and encode the corpus again") from None
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise EverwaveError(f"{path}: not of version {VERSION}; delete it and encode the corpus again")
    return data


def beats_at(times: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Beats (T,) passed at times `t`, from those of the beats (K >= 2,); before and after them the tempo is held."""
    inside = np.interp(t, times, np.arange(len(times)))
    before = np.minimum(t - times[0], 0) / (times[1] - times[0])
    after = np.maximum(t - times[-1], 0) / (times[-1] - times[-2])
    return inside + before + after


def same_encoders(a: Mapping[str, weights.Parameters], b: Mapping[str, weights.Parameters]) -> bool:
    """Whether the networks in `a` and `b`, by name, make the same latents; other decoders leave those as they are."""
    return all(
        a[name].keys() == b[name].keys() and all(np.array_equal(a[name][key], b[name][key]) for key in a[name])
        for name in ("frame_encoder", "chunk_encoder")
    )
