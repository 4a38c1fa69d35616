"""The same training on every Keras backend: same losses from the same checkpoint, exact resume, two devices."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STEPS = Path(__file__).with_name("backend_steps.py")
TRAINERS = ("level1", "level2", "finish", "gan", "refiner", "posttrain")
needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed (extra: jax)")
# nearly all of the time is compilation
FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def run(folder, what, *trainers, **environment):
    settings = (
        os.environ | {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FAST_COMPILE} | environment
    )
    settings |= {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    words = [sys.executable, STEPS, folder, what, *trainers]
    done = subprocess.run(words, env=settings, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def assert_same_losses(ours, theirs):
    for name, expected in theirs.items():
        for step, (a, b) in enumerate(zip(expected, ours[name], strict=True)):
            assert b == pytest.approx(a, rel=2e-3, abs=1e-4), (name, step)


@needs_jax
def test_jax_trains_as_tensorflow_does(tmp_path):
    theirs = run(tmp_path, "losses", *TRAINERS, KERAS_BACKEND="tensorflow")
    ours = run(tmp_path, "losses", *TRAINERS, KERAS_BACKEND="jax")
    assert theirs["gan"][0]["latents_r1_penalty"] > 0
    assert theirs["gan"][0]["sound_r1_penalty"] > 0
    assert_same_losses(ours, theirs)


@needs_jax
def test_two_devices_train_as_one_does(tmp_path):
    trainers = "finish", "gan", "posttrain", "ear"  # the ear's half of a batch of two does not divide
    one = run(tmp_path, "losses", *trainers, KERAS_BACKEND="jax")
    devices = f"{FAST_COMPILE} --xla_force_host_platform_device_count=2"
    assert_same_losses(run(tmp_path, "losses", *trainers, KERAS_BACKEND="jax", XLA_FLAGS=devices), one)


@needs_jax
def test_jax_resumes_exactly(tmp_path):
    trainers = "level1", "gan", "ear", "refiner", "posttrain"
    assert run(tmp_path, "resume", *trainers, KERAS_BACKEND="jax") == dict.fromkeys(trainers, True)


def test_no_noise_of_a_step_comes_back_in_the_next():
    import keras
    from everwave_trainer import backend

    random, drawn = keras.random.SeedGenerator(0), set()
    for step in range(3):
        backend.reseed(random, 7, step)
        drawn |= {float(keras.random.normal((), seed=random)) for _ in range(50)}
    assert len(drawn) == 150
    backend.reseed(random, 7, 2**32)  # as far as anybody will get
    keras.random.normal((), seed=random)


def test_an_unknown_backend_is_one_clear_line():
    done = subprocess.run(
        [sys.executable, "-c", "import keras; keras.backend.backend = lambda: 'torch'; import everwave_trainer.backend"],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1].endswith(
        "KERAS_BACKEND=torch: training runs on tensorflow or jax; set one of them"
    )
