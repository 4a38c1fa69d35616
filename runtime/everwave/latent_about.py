"""What is known about latents on disk, whatever file they are in, and whether those of a recording may be replaced.

    sample_rate, frames, channels    of what `decode` gives back: as many seconds and channels as the source
    latents_per_second, autoencoder  of the model; the SHA-256 of its file, that of its autoencoder if it names one
    pooled                           the statistic, "" for latents over time
    source, source_sample_rate, source_channels, source_frames, source_modified

What is there under a recording's name is only replaced, unless that is asked for, by latents of the same source, which is
an absolute path ("stdin", or a relative one, in older files), of the same statistic and the same autoencoder. A file that the
user named takes the latents of any.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .errors import EverwaveError, OutputError, first_line

Array = np.ndarray
About = dict[str, Any]
Latents = Array | Iterable[Array]  # one array, or blocks (k, channels) of one

NUMBERS = ("sample_rate", "frames", "channels", "latents_per_second",
           "source_sample_rate", "source_channels", "source_frames", "source_modified")  # fmt: skip
TEXTS = ("autoencoder", "pooled", "source")
MAX_ABOUT = 1 << 16  # bytes


def known(about: Any) -> About:
    """Only what we know the meaning of, each of its type; ValueError else."""
    if not isinstance(about, dict):
        raise ValueError("no JSON object")
    found = {key: about[key] for key in (*NUMBERS, *TEXTS) if key in about}
    for key, value in found.items():
        if not isinstance(value, str if key in TEXTS else int | float):
            raise ValueError(f"{key}={value!r}")
    return found


def unchanged(where: str, stored: Mapping[str, Any], wanted: Mapping[str, Any], named: bool = False) -> bool:
    """Whether what is there needs no new latents; OutputError if it is not to be replaced by those that are `wanted`.

    `named`: the user named that very file, so latents of another recording, statistic or model take its place.
    """
    ours = {"source", "pooled", "autoencoder"} <= set(stored)
    if not ours:
        what = "no latents that `encode` made"
    elif os.path.abspath(stored["source"]) != os.path.abspath(wanted["source"]):
        what = f"latents of {stored['source']}"
    elif stored["pooled"] != wanted["pooled"]:
        what = f"latents {'pooled ' if stored['pooled'] else ''}over time"
    elif stored["autoencoder"] != wanted["autoencoder"]:
        what = "latents of another model"
    else:
        return wanted["source_modified"] is not None and stored.get("source_modified") == wanted["source_modified"]
    if ours and named:
        return False
    raise OutputError(f"{where} holds {what}; choose another place, or replace it with --overwrite")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What goes wrong in reading is one line."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, EverwaveError):
            raise
        reason = getattr(error, "strerror", None) or first_line(error)
        step = "give one that can be read" if getattr(error, "errno", None) else "make it anew"
        raise EverwaveError(f"{path}: cannot be read as latents ({reason}); {step}") from error
