"""Parity with the original implementation: its checkpoint and what it computed from it, in ../shared/golden."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from everwave import ops, signal
from everwave.config import AutoencoderConfig, Config, GeneratorConfig, SignalConfig
from everwave.musika import read_checkpoint

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "musika_small"

pytestmark = pytest.mark.skipif(
    not (GOLDEN / "expected.npz").is_file(), reason=f"no golden data of the original implementation in {GOLDEN}"
)


@pytest.fixture(scope="module")
def checkpoint():
    return read_checkpoint(GOLDEN, GOLDEN)


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module", params=["numpy", "numba"])
def run(request, checkpoint):
    """run(network, x) -> outputs, in float32, without noise (the golden noise scalars are zero)."""
    if request.param == "numba" and importlib.util.find_spec("numba") is None:
        pytest.skip("Numba is not installed")
    config, parameters = checkpoint

    def run(network, x):
        compute = ops.make_network(network, config, parameters[network], backend=request.param, precision="float32")
        return tuple(y.copy() for y in compute(np.ascontiguousarray(x)))

    return run


def decode(run, latents, config):
    """Latents (T, 64) of one channel -> frame latents, log-magnitude and phase of all windows (T / 4, 64, ...)."""
    (frames,) = run("chunk_decoder", latents.reshape(-1, 4, config.autoencoder.latents))
    return frames, *run("frame_decoder", frames)


def test_the_config_follows_from_the_shapes(checkpoint):
    assert checkpoint[0] == Config(SignalConfig(44100, 64), AutoencoderConfig(64, 16, 64), GeneratorConfig(width=16))


def test_latents(run, expected):
    windows = expected["coordinates"].reshape(-1, 128, 128)
    (latents,) = run("generator", windows)
    assert np.abs(latents.reshape(3, 256, 128) - expected["latents"][:, 0]).max() < 1e-4


def test_frame_latents_magnitude_and_phase(run, checkpoint, expected):
    left = expected["latents"].reshape(-1, 128)[:, :64]
    frames, magnitude, phase = decode(run, left, checkpoint[0])
    assert np.abs(frames.reshape(-1, 128, 16) - expected["frame_latents_ch0"][:, 0]).max() < 1e-4
    stored = len(expected["magnitude_ch0"])  # pairs of windows
    assert np.abs(magnitude.reshape(-1, 128, 129)[:stored] - expected["magnitude_ch0"]).max() < 1e-4
    assert np.abs(phase.reshape(-1, 128, 129)[:stored] - expected["phase_ch0"]).max() < 1e-4


@pytest.mark.parametrize("synthesize", [signal.synthesize, signal.synthesize_numpy])
def test_waveform(run, checkpoint, expected, synthesize):
    config = checkpoint[0]
    stereo = np.empty_like(expected["waveform"])
    for channel in range(2):
        latents = expected["latents"].reshape(-1, 2, 64)[:, channel]
        _, magnitude, phase = decode(run, latents, config)
        stereo[:, channel] = synthesize(magnitude, phase, config.signal)
    assert np.abs(np.clip(stereo, -1, 1) - expected["waveform"]).max() < 1e-3


def test_encoder_levels(run, checkpoint, expected):
    log_magnitude = signal.analyse(expected["encode_input"], checkpoint[0].signal)
    assert np.abs(log_magnitude - expected["log_magnitude"]).max() < 1e-4
    (frames,) = run("frame_encoder", expected["log_magnitude"].reshape(-1, 64, 129))
    assert np.abs(frames.reshape(512, 16) - expected["encoded_level1"]).max() < 1e-4
    (latents,) = run("chunk_encoder", frames.reshape(32, 16, 16))
    assert np.abs(latents.reshape(32, 64) - expected["encoded_level2"]).max() < 1e-4
