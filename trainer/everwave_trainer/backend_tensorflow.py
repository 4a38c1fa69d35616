"""TensorFlow, the default backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def start() -> None:
    tf.config.list_physical_devices()


def compiled(step: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    return tf.function(step, autograph=False)


def gradients(losses: Callable[[], tuple[Any, ...]], variables: Sequence[Any]) -> tuple[tuple[Any, ...], list[Any]]:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([v.value for v in variables])
        results = losses()
    return results, tape.gradient(results[0], [v.value for v in variables])


def input_gradient(f: Callable[[Any], Any], x: Any) -> tuple[Any, Any]:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    return y, tape.gradient(y, x)


def deterministic() -> None:
    tf.config.experimental.enable_op_determinism()


def distribute(batch_size: int) -> None:
    """Keras distributes on JAX only; TensorFlow trains on its first device."""
