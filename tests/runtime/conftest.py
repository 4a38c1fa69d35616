"""What several test files need: the smallest model there is, so that a file of it is read in milliseconds."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from everwave.config import AutoencoderConfig, Condition, Config, GeneratorConfig, SignalConfig
from everwave.model import Model
from everwave.weights import ModelFile, random_model

if TYPE_CHECKING:
    from radio_client import Served

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


@pytest.fixture(scope="session")
def small(smallest_model: ModelFile) -> dict[str, Model]:
    """What a radio with that model serves; it needs no compilation."""
    return {"small": Model.from_parts(smallest_model, 1, backend="numpy")}


@pytest.fixture(scope="module")
def radio(small: dict[str, Model]) -> Iterator[Served]:
    """A radio that runs as long as the tests of a file."""
    from radio_client import served  # skips where the extra [web] is not installed

    with served(small) as running:
        yield running


class NumpyOfWindows:
    """NumPy 1.26 on Windows: whole numbers have 32 bits, unless somebody asks for more."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        return partial(self.shortened, found) if name in ("arange", "argsort", "array", "cumsum") else found

    def shortened(self, function: Callable[..., np.ndarray], *arguments: Any, **options: Any) -> np.ndarray:
        result = function(*arguments, **options)
        asked = len(arguments) > 1 if function is np.array else "dtype" in options
        return result.astype(np.int32) if result.dtype == np.int64 and not asked else result


@pytest.fixture
def numpy_of_windows() -> NumpyOfWindows:
    return NumpyOfWindows()


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network share on which no file can be locked."""

    class File(h5py.File):
        def __init__(self, *arguments: Any, locking: bool | None = None, **options: Any) -> None:
            if locking is not False:
                raise OSError(errno.ENOLCK, "unable to lock file (No locks available)")
            super().__init__(*arguments, locking=False, **options)

    monkeypatch.setattr(h5py, "File", File)


@pytest.fixture(autouse=True, scope="session")
def listen_to_signals():
    """A test run in the background (`nohup make test &`) ignores SIGINT and SIGHUP, and so would what it starts."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)
