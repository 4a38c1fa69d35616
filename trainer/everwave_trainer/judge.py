"""A critic and how it learns: hinge loss and an R1 penalty with an adaptive weight.

Source: Musika, arXiv 2208.08706, section 3.3; constants as in its published code.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from . import backend, losses

MAX_R1_WEIGHT = 10.0
R1_RATE = 1e-4  # change of the weight per step, as a share of its maximum
R1_INTERVAL = 4  # steps from one penalty to the next, which weighs as much more: a third of the work saved
CERTAIN = 0.9  # the critic's certainty above which the penalty grows


class Judge:
    """`critic` maps sequences (B, T, C) to scores (B, 1); the last `given` channels say what was asked for."""

    def __init__(self, critic: keras.Model, learning_rate: Any, given: int = 0) -> None:
        self.critic, self.judged = critic, critic.input_shape[2] - given
        self.optimizer = keras.optimizers.Adam(learning_rate, beta_1=0.5)
        self.optimizer.build(critic.trainable_variables)
        self.r1_weight = keras.Variable(MAX_R1_WEIGHT, trainable=False)

    def scores(self, x: Any) -> Any:
        return self.critic(x, training=True)

    def learn(self, penalised: bool, real: Any, fake: Any, fake_score: Any) -> dict[str, Any]:
        """One step on real and generated (B, T, C), of which the latter have `fake_score` on average."""
        ours, given = real[:, :, : self.judged], real[:, :, self.judged :]

        def judge() -> tuple[Any, ...]:
            r1_penalty = ops.zeros(())
            if penalised:
                score, slope = backend.input_gradient(lambda x: self.scores(ops.concatenate([x, given], axis=2)), ours)
                r1_penalty = ops.mean(ops.sum(ops.square(slope), axis=(1, 2)))
            else:
                score = self.scores(real)
            hinge = (losses.hinge_real(score) + losses.hinge_fake(self.scores(fake))) / 2
            said = {"hinge": hinge, "real": ops.mean(score)} | ({"r1_penalty": r1_penalty} if penalised else {})
            return hinge + self.r1_weight * R1_INTERVAL * r1_penalty, said

        (_, said), gradients = backend.gradients(judge, self.critic.trainable_variables)
        self.optimizer.apply(gradients, self.critic.trainable_variables)
        certainty = ops.clip(said["real"] - fake_score, 0.0, 2.0) / 2
        change = ops.where(certainty > CERTAIN, R1_RATE, -R1_RATE) * MAX_R1_WEIGHT
        self.r1_weight.assign(ops.clip(self.r1_weight + change, 0.0, MAX_R1_WEIGHT))
        weight = ops.convert_to_tensor(self.r1_weight)
        return said | {"fake": fake_score, "r1_weight": weight}
