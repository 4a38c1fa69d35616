"""An exponential moving average of a network's weights: what is exported, as the last steps alone go to and fro."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from .layers import numbers, variables


class Average:
    """`variables` follow those of `model` and remember about 1 / (1 - decay) steps, at first no more than there were."""

    def __init__(self, model: keras.Model, decay: float) -> None:
        self.model, self.decay = model, decay
        self.variables = [keras.Variable(ops.convert_to_numpy(v), trainable=False) for v in model.trainable_variables]

    def begin(self) -> None:
        """Forget all; the model was given other weights."""
        for average, variable in zip(self.variables, self.model.trainable_variables, strict=True):
            average.assign(variable)

    def follow(self, steps: Any) -> None:
        """After `steps` of training; within a compiled step."""
        steps = ops.cast(steps, "float32")
        decay = ops.minimum(self.decay, (1 + steps) / (10 + steps))
        for average, variable in zip(self.variables, self.model.trainable_variables, strict=True):
            average.assign(decay * average + (1 - decay) * variable)

    def parameters(self) -> dict[str, np.ndarray]:
        """Under the runtime's names, float32."""
        return numbers(dict(zip(variables(self.model), self.variables, strict=True)))
