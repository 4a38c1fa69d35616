"""Run by test_backends.py under either Keras backend: first steps of every tiny trainer, from one checkpoint each.

    KERAS_BACKEND=jax python backend_steps.py FOLDER losses|resume level1|level2|finish|gan|refiner|posttrain|ear ...

losses: the first backend to run leaves the checkpoints in FOLDER that the others start from; prints them as JSON.
resume: prints whether runs that were interrupted end in the same variables.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from everwave import weights
from everwave.config import PRESETS, Condition
from everwave_trainer import backend, checkpoint, loop
from everwave_trainer import posttrain as after_training
from everwave_trainer.autoencoder import AutoencoderTrainer, choose_config
from everwave_trainer.gan import GanTrainer
from everwave_trainer.latents import TIMES, Latents, Piece
from everwave_trainer.refiner import RefinerTrainer
from keras import ops

BATCH, STEPS = 2, 3
TINY, VECTORS = PRESETS["tiny"], choose_config("tiny", None)  # with phases as angles and as vectors


def same_noise(shape, dtype=None, seed=None):
    """Backends draw different random numbers; these stand in for them: any fixed ones with mean 0 will do."""
    values = np.cos(np.arange(np.prod(shape[1:])) ** 2).reshape(1, *shape[1:])
    return ops.cast(ops.broadcast_to(values, shape), dtype)


class Music(AutoencoderTrainer):
    """Noise that grows and fades, in place of crops of a corpus."""

    def batch(self, step):
        frames = {"level1": 128, "level2": 256, "finish": 128}[self.stage]
        samples = np.random.default_rng(step).standard_normal((BATCH, (frames + 3) * 64)) * 0.1
        return ((samples * np.sin(np.arange(samples.shape[1]) / 900)).astype(np.float32),)

    def sample(self, folder, step):
        pass


class Techno(GanTrainer):
    def sample(self, folder, step):
        pass


def latents(*labels):
    rng = np.random.default_rng(0)
    pieces = tuple(Piece("", "", "", 300, x) for x in labels)
    files = tuple(Path(sys.argv[1]) / f"{i}.npy" for i in range(len(pieces)))
    for path in files:
        np.save(path, rng.standard_normal((2, 300, 32)).astype(np.float16))
    file = Path(sys.argv[1]) / "autoencoder.h5"  # the ear reads it
    weights.write(file, weights.random_model(TINY), "float32")
    return Latents(pieces, files, {"file": file.name}, {}, TINY.signal.latent_rate, file.parent)


def gan(*labels):
    conditions = [name for name in labels[0] if name not in TIMES.values()]
    return Techno(TINY, latents(*labels), steps=100, batch_size=BATCH, conditions=conditions)


class Refiner(RefinerTrainer):
    def sample(self, folder, step):
        pass


def refiner():
    model = Path(sys.argv[1]) / "model.h5"
    weights.write(model, weights.random_model(TINY))
    return Refiner(model, latents({}, {}), steps=100, batch_size=BATCH, width=2)


class After(after_training.PostTrainer):
    def sample(self, folder, step):
        pass


def posttrain():
    model, music = Path(sys.argv[1]) / "refined.h5", latents({"bpm": 120.0}, {"bpm": 121.0})
    bpm = Condition("bpm", "", 120.5, 0.5, 120.0, 121.0)
    config = replace(TINY, generator=replace(TINY.generator, refiner=2, conditions=(bpm,)))
    own = weights.random_model(config)
    own.parameters["refiner"]["out/kernel"] *= 1e-4  # random ones make latents that no music has
    weights.write(model, own, "float32")
    return After(model, music, steps=100, batch_size=BATCH)


TRAINERS = {
    "level1": lambda: Music("level1", TINY, [], steps=100, batch_size=BATCH),
    "level2": lambda: Music("level2", TINY, [], steps=100, batch_size=BATCH),
    "finish": lambda: Music("finish", VECTORS, [], steps=100, batch_size=BATCH),
    "gan": lambda: gan({"bpm": 120.0}, {"bpm": 121.0}),
    "refiner": refiner,
    "posttrain": posttrain,
    "ear": lambda: gan({"density": 2.0, "onsets": (np.arange(20) / 2).tolist()}),
}


def losses(make, folder):
    trainer = make()
    if checkpoint.exists(folder):
        assert checkpoint.restore(folder, trainer.variables(), trainer.settings) == 0
    else:
        folder.mkdir()
        checkpoint.save(folder, 0, trainer.variables(), trainer.settings)
    steps = [trainer.step(i, *trainer.batch(i)) for i in range(STEPS)]
    return [{name: float(ops.convert_to_numpy(value)) for name, value in step.items()} for step in steps]


def resumes_exactly(make, folder):
    whole, halves = folder / "whole", folder / "halves"
    loop.run(make(), whole, 4)
    loop.run(make(), halves, 2)
    loop.run(make(), halves, 4)
    with np.load(whole / checkpoint.FILE) as a, np.load(halves / checkpoint.FILE) as b:
        return all(np.array_equal(a[name], b[name]) for name in a.files)


def main():
    folder = Path(sys.argv[1])
    backend.distribute(BATCH)
    after_training.HEADS_ALONE = 1
    report = {}
    for name in sys.argv[3:]:
        if sys.argv[2] == "resume":
            report[name] = resumes_exactly(TRAINERS[name], folder / f"resumed-{name}")
        else:
            keras.random.normal = same_noise
            keras.random.uniform = lambda shape, low, high, seed=None: ops.full(shape, (low + high) / 2)
            keras.random.randint = lambda shape, low, high, seed=None: ops.convert_to_tensor(high // 2)
            report[name] = losses(TRAINERS[name], folder / name)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
