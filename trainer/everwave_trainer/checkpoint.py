"""Training state on disk: every variable and the step number, in one file that is replaced in one move."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from everwave.config import Config
from everwave.errors import EverwaveError, short
from keras import ops

from .files import whole

FILE = "checkpoint.npz"
# settings that stand for files: what is said where they are not the same
OTHERS = {"init": "another --init", "denoiser": "another --denoiser", "data": "other music, or other labels of it"}


def save(folder: Path, step: int, variables: Mapping[str, Sequence[Any]], settings: Mapping[str, Any]) -> None:
    """Write `variables` (named groups of Keras variables) so that a crash leaves the old file or the new one.

    EverwaveError if one is not finite; the old file stays then.
    """
    arrays = {f"{group}:{i}": ops.convert_to_numpy(v) for group, vs in variables.items() for i, v in enumerate(vs)}
    # a loss is of the variables as they were before the step
    if bad := sorted({name.partition(":")[0] for name, array in arrays.items() if not np.isfinite(array).all()}):
        raise not_finite(", ".join(bad), step, folder)
    arrays["meta"] = np.frombuffer(json.dumps({"step": step, "settings": dict(settings)}).encode(), np.uint8)
    with whole(folder / FILE) as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())


def not_finite(what: object, step: int, folder: Path) -> EverwaveError:
    """What ends the run in `folder` at `step`: from there on it would learn nothing."""
    # another rate is another setting, so the run cannot go on with it
    then = (
        f"the checkpoint in {folder} is the last good one: begin a new run from the weights beside it with --init and"
        if exists(folder)
        else f"there is no checkpoint in {folder} yet: begin again with"
    )
    return EverwaveError(f"step {step}: {what} is not finite; {then} a lower --learning-rate")


def exists(folder: Path) -> bool:
    return (folder / FILE).exists()


def restore(folder: Path, variables: Mapping[str, Sequence[Any]], settings: Mapping[str, Any]) -> int:
    """Load the checkpoint in `folder` into `variables`; returns its step. The settings must be the same."""
    with _opened(folder) as data:
        meta = _meta(data)
        _check_settings(folder, meta, settings)
        found = {group: _members(data, group) for group in variables}
    _assign(
        folder, variables, found,
        "so the music has changed since, or the trainer; begin a new run from its weights with --init",
    )  # fmt: skip
    return int(meta["step"])


def _assign(
    folder: Path, variables: Mapping[str, Sequence[Any]], found: Mapping[str, Sequence[np.ndarray]], then: str
) -> None:
    """Give the groups of `variables` their values, all or none; EverwaveError, with what to do `then`, if the sizes differ."""
    for group, members in variables.items():
        if [x.shape for x in found[group]] != [tuple(v.shape) for v in members]:
            raise EverwaveError(f"{folder}: the checkpoint has no {group!r} of these sizes, {then}")
    for group, members in variables.items():
        for variable, value in zip(members, found[group], strict=True):
            variable.assign(value)


def config(folder: Path) -> Config:
    """The sizes of the networks that the checkpoint in `folder` holds."""
    return Config.from_dict(settings(folder)["config"])


def settings(folder: Path) -> dict[str, Any]:
    """What the checkpoint in `folder` was trained with."""
    with _opened(folder) as data:
        return _meta(data)["settings"]


def _meta(data: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The step and the settings of an opened checkpoint."""
    return json.loads(data["meta"].tobytes())


def _members(data: Mapping[str, np.ndarray], group: str) -> list[np.ndarray]:
    """The variables of a group in an opened checkpoint."""
    return [data[f"{group}:{i}"] for i in range(sum(name.startswith(f"{group}:") for name in data))]


@contextmanager
def _opened(folder: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The checkpoint in `folder`. EverwaveError if there is none, or it is damaged."""
    if not exists(folder):
        raise EverwaveError(f"{folder}: no {FILE} there; name a run folder")
    try:
        with np.load(folder / FILE, allow_pickle=False) as data:
            yield data
    except EverwaveError:
        raise
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise EverwaveError(
            f"{folder / FILE}: damaged ({error}); delete it, and begin again from the weights beside it with --init"
        ) from None


def check(folder: Path, settings: Mapping[str, Any]) -> None:
    """EverwaveError unless the checkpoint in `folder` was trained with these settings."""
    with _opened(folder) as data:
        _check_settings(folder, _meta(data), settings)


def _check_settings(folder: Path, meta: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """EverwaveError that names what differs; a checkpoint of before a setting was kept is taken as it is."""
    before = meta["settings"]
    if differing := [x for key, now in settings.items() if key in before for x in _differences(key, before[key], now)]:
        raise EverwaveError(
            f"{folder}: the checkpoint was trained with {', '.join(differing)}; use the same or another folder"
        )


def _differences(name: str, before: Any, now: Any) -> Iterator[str]:
    """How the setting `name` differs, which may hold others; a digest is not shown, as nobody knows it."""
    if before == now:
        return
    if name in OTHERS:
        yield OTHERS[name]
    elif isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            inner = key if name == "config" else f"{name}.{key}"
            yield from _differences(inner, before.get(key), now.get(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, pair in enumerate(zip(before, now, strict=True)):
            yield from _differences(f"{name}.{i}", *pair)
    else:
        yield f"{name}={short(before)}, not {short(now)}"


def load_groups(folder: Path, variables: Mapping[str, Sequence[Any]]) -> set[str]:
    """Load those named groups that the checkpoint in `folder` has, whatever else it holds; returns their names."""
    with _opened(folder) as data:
        found = {group: _members(data, group) for group in variables if f"{group}:0" in data}
    _assign(
        folder, {group: variables[group] for group in found}, found,
        "as another trainer wrote it; give the weights file beside it as --init",
    )  # fmt: skip
    return set(found)
