"""JAX: a step that assigns variables is traced as a function from state to state."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras
from everwave.errors import UsageError

_scopes: list[keras.StatelessScope] = []  # of the step that is being traced


def compiled(step: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    known = {id(v) for v in variables}

    def pure(state: list[Any], batch: list[Any]) -> tuple[Any, list[Any]]:
        with keras.StatelessScope(zip(variables, state, strict=True)) as scope:
            _scopes.append(scope)
            try:
                results = step(*batch)
            finally:
                _scopes.pop()
        assert scope.state_mapping.keys() == known, "the step assigns a variable that is not listed"
        return results, [scope.get_current_value(v) for v in variables]

    jitted = jax.jit(pure)

    def run(*batch: Any) -> Any:
        results, state = jitted([v.value for v in variables], [_split(x) for x in batch])
        for variable, value in zip(variables, state, strict=True):
            variable.assign(value)
        return results

    return run


def gradients(losses: Callable[[], tuple[Any, ...]], variables: Sequence[Any]) -> tuple[tuple[Any, ...], list[Any]]:
    scope = _scopes[-1]
    state = scope.state_mapping  # id of a variable -> its value
    trained = {id(v) for v in variables}

    def differentiated(values: list[Any]) -> tuple[Any, Any]:
        scope.state_mapping = state | {id(v): x for v, x in zip(variables, values, strict=True)}
        results = losses()
        # what `losses` assigns (the state of random generators) leaves as a result, or it would be a leaked tracer
        return results[0], (results, {k: v for k, v in scope.state_mapping.items() if k not in trained})

    differentiate = jax.value_and_grad(differentiated, has_aux=True)
    (_, (results, others)), slopes = differentiate([v.value for v in variables])
    scope.state_mapping = state | others
    return results, slopes


def input_gradient(f: Callable[[Any], Any], x: Any) -> tuple[Any, Any]:
    def total(x: Any) -> tuple[Any, Any]:
        y = f(x)
        return y.sum(), y

    (_, y), slope = jax.value_and_grad(total, has_aux=True)(x)
    return y, slope


def start() -> None:
    """JAX looks for devices when it is first asked to compute, and a flag of `deterministic` has to be set by then."""


def deterministic() -> None:
    """The CPU always repeats; a GPU does with this flag, read when JAX first looks for devices."""
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"


def distribute(batch_size: int) -> None:
    devices = keras.distribution.list_devices()
    if len(devices) == 1:
        return
    if batch_size % len(devices):
        raise UsageError(f"--batch-size {batch_size}: must be a multiple of the {len(devices)} devices that JAX sees")
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))


def _split(x: Any) -> Any:
    distribution = keras.distribution.distribution()
    if distribution is None or x.shape[0] % len(keras.distribution.list_devices()):
        return x  # what does not divide is on every device
    return keras.distribution.distribute_tensor(x, distribution.get_data_layout(x.shape))
