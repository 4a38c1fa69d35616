"""What differs between Keras backends: gradients and compilation. TensorFlow here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def compiled(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step` as one compiled graph."""
    return tf.function(step, autograph=False)


def gradients(losses: Callable[[], tuple[Any, ...]], variables: Sequence[Any]) -> tuple[tuple[Any, ...], list[Any]]:
    """Run `losses` (its first result is minimised) and differentiate with respect to `variables`."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([v.value for v in variables])
        results = losses()
    return results, tape.gradient(results[0], [v.value for v in variables])


def input_gradient(f: Callable[[Any], Any], x: Any) -> tuple[Any, Any]:
    """f(x) and its gradient with respect to x; itself differentiable, for gradient penalties."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    return y, tape.gradient(y, x)


def deterministic() -> None:
    """Make every operation repeat bit for bit (slower; used to check that training resumes exactly)."""
    tf.config.experimental.enable_op_determinism()


def scalar_writer(folder: str) -> Callable[[int, dict[str, float]], None]:
    """A function that logs named scalars of a step for TensorBoard."""
    writer = tf.summary.create_file_writer(folder)

    def write(step: int, scalars: dict[str, float]) -> None:
        with writer.as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        writer.flush()

    return write
