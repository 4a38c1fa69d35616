"""Endless, controllable stereo music on any CPU, without a deep-learning framework.

    model = everwave.load("techno")               # a shipped name or a path
    audio = model.generate(seconds=30, seed=7)    # float32 (frames, 2) at model.sample_rate
    for block in model.stream(seed=7): ...        # endless, in constant memory
    latents = model.encode(audio, sample_rate)    # (steps, 2 * latents)
    audio = model.decode(latents)

Names are imported when they are first used, so that `import everwave` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import AudioError, Cancelled, EverwaveError, ModelError, UsageError

if TYPE_CHECKING:
    from .config import Condition
    from .looping import Loop
    from .model import Model, load, random_model
    from .streaming import Stream
    from .weights import available

    __version__: str

_LAZY = {
    "Condition": "config", "Loop": "looping", "Model": "model", "Stream": "streaming", "load": "model",
    "random_model": "model", "available": "weights",
}  # fmt: skip

__all__ = [
    "AudioError",
    "Cancelled",
    "Condition",
    "EverwaveError",
    "Loop",
    "Model",
    "ModelError",
    "Stream",
    "UsageError",
    "__version__",
    "available",
    "load",
    "random_model",
]


if not TYPE_CHECKING:  # checkers know the names above, and no others

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return _version()
        if name not in _LAZY:
            raise AttributeError(f"module 'everwave' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f".{_LAZY[name]}", __name__), name)
        return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    """The installed distribution's version; in a bare clone, that of pyproject.toml; "unknown" for code copied elsewhere."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("everwave")
    except PackageNotFoundError:
        import tomllib
        from pathlib import Path

        try:
            project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
            return str(project["version"]) if project["name"] == "everwave" else "unknown"
        except (OSError, ValueError, LookupError, TypeError):
            return "unknown"
