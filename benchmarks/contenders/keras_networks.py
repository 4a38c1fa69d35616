"""The trainer's own Keras models as TensorFlow graphs: what someone would run who never heard of everwave's engine.

CONTENDER_XLA=1 compiles the graphs with XLA; CONTENDER_POLICY names Keras's dtype policy. Noise is keras.random.normal.
Threads come from TF_NUM_INTRAOP_THREADS, since TensorFlow takes no other word for them once it has begun.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from . import Setting, Source

if TYPE_CHECKING:
    from . import Run


def load(network: str, source: Source, batch: int, setting: Setting, precision: str) -> Run:
    """A graph for windows of exactly `batch`; outputs are float32 under every policy."""
    import keras
    import tensorflow as tf
    from everwave.networks import input_shape
    from everwave_trainer import layers

    keras.config.set_dtype_policy(os.environ.get("CONTENDER_POLICY", "float32"))
    model = layers.build(network, source.config)
    layers.set_parameters(model, source.parameters(network))
    graph = tf.function(lambda x: model(x), jit_compile=os.environ.get("CONTENDER_XLA") == "1")
    compiled = graph.get_concrete_function(tf.TensorSpec((batch, *input_shape(network, source.config))))

    def run(x: np.ndarray) -> tuple[np.ndarray, ...]:
        result = compiled(tf.constant(x))
        return tuple(y.numpy() for y in (result if isinstance(result, list | tuple) else (result,)))

    return run
