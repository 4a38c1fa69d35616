"""Keras, NumPy and Numba compute the same networks from the same weights and the same noise."""

from dataclasses import replace

import numpy as np
import pytest
from everwave import ops, weights
from everwave.config import PRESETS
from everwave.networks import NETWORKS, input_shape
from everwave.ops.trace import trace
from everwave_trainer import layers

CONFIG = replace(PRESETS["tiny"], generator=replace(PRESETS["tiny"].generator, refiner=4))
COUNTS = {  # of the released sizes, from the paper's published models
    "frame_encoder": 4_790_336,
    "chunk_encoder": 3_984_960,
    "chunk_decoder": 6_639_303,
    "frame_decoder": 12_673_291,
    "generator": 15_499_530,
}


@pytest.mark.parametrize("network", NETWORKS)
def test_keras_numpy_and_numba_agree_with_noise(network):
    rng = np.random.default_rng(0)
    values = weights.random_parameters(network, CONFIG, seed=3)
    values = {k: v * 3 if k.endswith("/noise") else v for k, v in values.items()}  # so that noise matters
    model = layers.build(network, CONFIG, given_noise=True)
    layers.set_parameters(model, values)
    x = rng.standard_normal((3, *input_shape(network, CONFIG))).astype(np.float32)
    noise = {k: rng.standard_normal((3, v.shape[1], 1)).astype(np.float32) for k, v in model.input[1].items()}

    def given(layer, batch, steps):
        assert noise[layer].shape == (batch, steps, 1)
        return np.ascontiguousarray(noise[layer][..., 0])

    keras_outputs = model([x, noise])
    keras_outputs = keras_outputs if isinstance(keras_outputs, list | tuple) else [keras_outputs]
    numpy_outputs = ops.make_network(network, CONFIG, values, backend="numpy")(x, given)
    numba_outputs = ops.make_network(network, CONFIG, values, backend="numba", precision="float32")(x, given)
    silent = ops.make_network(network, CONFIG, values, backend="numpy")(x, None)
    for a, b, c, without in zip(keras_outputs, numpy_outputs, numba_outputs, silent, strict=True):
        np.testing.assert_allclose(np.asarray(a), b, atol=1e-4)
        np.testing.assert_allclose(c, b, atol=1e-4)
        assert not noise or np.abs(without - b).max() > 1e-3


def test_released_sizes_have_the_published_parameter_counts():
    assert {n: trace(n, PRESETS["full"]).parameter_count for n in COUNTS} == COUNTS


def test_parameters_survive_the_way_through_keras():
    values = weights.random_parameters("generator", CONFIG, seed=1)
    model = layers.build("generator", CONFIG)
    layers.set_parameters(model, values)
    back = layers.parameters(model)
    assert back.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(back[name], value)
