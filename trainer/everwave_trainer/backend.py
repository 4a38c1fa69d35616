"""What differs between Keras backends: gradients, compilation, devices. One file each, chosen by KERAS_BACKEND."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
from everwave.errors import UsageError

SEEDS = 1000  # of random tensors; more than a step draws
KNOWN = ("tensorflow", "jax")

if keras.backend.backend() not in KNOWN:
    raise UsageError(f"KERAS_BACKEND={keras.backend.backend()}: training runs on {' or '.join(KNOWN)}; set one of them")
_chosen = importlib.import_module(f"{__package__}.backend_{keras.backend.backend()}")


def reseed(random: keras.random.SeedGenerator, seed: int, step: int) -> None:
    """What a step draws is a function of (seed, step). The generator counts on from there, so the next step begins far away: noise that
    comes back a step later, elsewhere, is learned by critics."""
    random.state.assign([seed, SEEDS * step % 2**32])


def compiled(step: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    """`step(*tensors)`, which may assign `variables` and no others, as one compiled graph."""
    return _chosen.compiled(step, variables)


def gradients(losses: Callable[[], tuple[Any, ...]], variables: Sequence[Any]) -> tuple[tuple[Any, ...], list[Any]]:
    """Run `losses` and differentiate the first of its results by `variables`; within a compiled step.

    The other results may be lists and dicts of tensors, and come back as such.
    """
    return _chosen.gradients(losses, variables)


def input_gradient(f: Callable[[Any], Any], x: Any) -> tuple[Any, Any]:
    """f(x) and the gradient of its sum by x; itself differentiable, for gradient penalties."""
    return _chosen.input_gradient(f, x)


def start() -> None:
    """Look for devices now: what the backend has to say of those that it lacks it says then."""
    _chosen.start()


def deterministic() -> None:
    """Make every operation repeat bit for bit (slower; used to check that training resumes exactly)."""
    _chosen.deterministic()


def distribute(batch_size: int) -> None:
    """Split every batch over the devices that the backend sees, before any variable is made; UsageError if it cannot."""
    _chosen.distribute(batch_size)


def scalar_writer(folder: str) -> Callable[[int, dict[str, float]], None]:
    """A function that logs named scalars of a step for TensorBoard."""
    from tensorboard.summary import Writer

    writer = Writer(folder)

    def write(step: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write
