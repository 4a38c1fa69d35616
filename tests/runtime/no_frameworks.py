"""A pytest plugin (`-p no_frameworks`): in its process, importing a deep-learning framework or the trainer fails."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import Any

FORBIDDEN = frozenset({"tensorflow", "keras", "jax", "torch", "everwave_trainer"})


class Blocker(MetaPathFinder):
    """Finds nothing, and refuses what the runtime must do without."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"{name} is blocked: the runtime must work without it", name=name)


def install() -> None:
    sys.meta_path.insert(0, Blocker())


install()
