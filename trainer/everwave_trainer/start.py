"""What a run on latents starts from: sizes or a weights file, and the conditions that it and the music have."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from everwave import weights
from everwave.config import PRESETS, TAKEN, Condition, Config
from everwave.errors import UsageError

from .latents import TIMES, Latents, same_encoders


def model_of(init: Path, latents: Latents, option: str = "--init") -> weights.ModelFile:
    """The model in the weights file `init`, which `option` names; UsageError unless it has a generator of latents like these."""
    file = weights.read(init)
    if "generator" not in file.parameters:
        raise UsageError(f"{option} {init}: kind {file.kind!r} has no generator; give a model that has one")
    made_by = weights.read(latents.autoencoder_path)
    advice = f"{latents.autoencoder['file']} that made the latents in {latents.folder}; encode the corpus with the autoencoder of the model"
    if (file.config.signal, file.config.autoencoder) != (made_by.config.signal, made_by.config.autoencoder):
        raise UsageError(f"{option} {init}: its autoencoder has other sizes than the {advice}")
    if file.autoencoder:
        same = file.autoencoder["sha256"] == latents.autoencoder["sha256"]
    else:
        same = same_encoders(file.parameters, made_by.parameters)
    if not same:
        raise UsageError(f"{option} {init}: its autoencoder is not the {advice}")
    return file


def choose_config(preset: str, init: Path | None, latents: Latents) -> Config:
    """Generator sizes of `init` if there is one, else of the preset; the rest is that of the latents' autoencoder."""
    if init is not None:
        return model_of(init, latents).config
    made_by = weights.read(latents.autoencoder_path).config
    return dataclasses.replace(PRESETS[preset], signal=made_by.signal, autoencoder=made_by.autoencoder)


def with_conditions(config: Config, latents: Latents, names: Sequence[str]) -> tuple[Config, Latents]:
    """`config` with the conditions called `names` as a run will train them, and the pieces that have their labels."""
    if taken := TAKEN & {*names}:
        raise UsageError(f"--conditions {min(taken)}: is the name of something else; label the corpus with another one")
    known = config.generator.conditions
    kept = latents.labelled(names, known)
    if left_out := len(latents.pieces) - len(kept.pieces):
        print(f"{left_out} pieces are left out: {latents.lacking(names, known)}", file=sys.stderr)
    chosen = choose_conditions(config, kept, names)
    for name in (c.name for c in chosen if c.name in TIMES and not c.clocks):
        if timed := sum(TIMES[name] in piece.labels for piece in kept.pieces):
            print(
                f"{name} has no clocks: {timed} of {len(kept.pieces)} pieces say when their {TIMES[name]} are",
                file=sys.stderr,
            )
    ceiling = kept.ceiling() or config.generator.ceiling
    generator = dataclasses.replace(config.generator, conditions=chosen, ceiling=ceiling)
    return dataclasses.replace(config, generator=generator), kept


def choose_conditions(config: Config, latents: Latents, names: Sequence[str]) -> tuple[Condition, ...]:
    """Those of `config` if they are called `names`, for a model that is trained on; else as the labels have them.

    Of a model that is trained on the network's inputs keep their meaning, and what may be asked for is what this music has.
    """
    known = config.generator.conditions
    if [c.name for c in known] == list(names):
        chosen = tuple(_trained_on(c, [piece.labels[c.name] for piece in latents.pieces]) for c in known)
    else:
        chosen = latents.conditions(names)
    for needed in {TIMES[c.name] for c in chosen if c.clocks}:
        if not all(needed in piece.labels for piece in latents.pieces):
            raise UsageError(
                f"{latents.folder}: no piece says when its {needed} are, as the model's clocks need; label the corpus and"
                " encode it again, or, where the music has no steady ones, begin with a model without such a condition"
            )
    return chosen


def _trained_on(condition: Condition, values: Sequence[Any]) -> Condition:
    """The condition of a model that goes on with pieces of these `values`: its choices, or the range where they are constants.

    A curve's range stays: it is what the model was found to obey, and less than the music has.
    """
    if condition.choices:
        return _left(condition, set(values))
    constants = [value for value in values if isinstance(value, int | float)]
    if not constants:
        return condition
    return dataclasses.replace(condition, low=float(min(constants)), high=float(max(constants)))


def _left(condition: Condition, values: Set[Any]) -> Condition:
    """The condition with only those of its choices that are among `values`; UsageError if it lacks one of those."""
    if lacking := sorted(values - set(condition.choices)):
        raise UsageError(
            f"--init: its {condition.name} can be {', '.join(f'{c:g}' for c in condition.choices)}, but in this music it is also"
            f" {lacking[0]:g}; choose other music, or a model that was trained on such"
        )
    left = tuple(value for value in condition.choices if value in values)
    return dataclasses.replace(condition, choices=left, low=min(left), high=max(left))
