"""What several test files need: the smallest model there is, so that a file of it is read in milliseconds."""

import signal

import pytest
from everwave.config import AutoencoderConfig, Condition, Config, GeneratorConfig, SignalConfig
from everwave.weights import ModelFile, random_model

TEMPO = Condition("bpm", "1/min", mean=140.0, scale=10.0, low=120.0, high=160.0)


@pytest.fixture(scope="session")
def smallest() -> Config:
    """Every width as small as the format allows, one condition."""
    generator = GeneratorConfig(width=2, anchor=2, style=2, conditions=(TEMPO,))
    return Config(SignalConfig(hop_length=16), AutoencoderConfig(width=2, frame_latents=2, latents=2), generator)


@pytest.fixture(scope="session")
def smallest_model(smallest: Config) -> ModelFile:
    """A bundle of random weights of that size."""
    return random_model(smallest, seed=1)


@pytest.fixture(autouse=True, scope="session")
def listen_to_signals():
    """A test run in the background (`nohup make test &`) ignores SIGINT and SIGHUP, and so would what it starts."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)
