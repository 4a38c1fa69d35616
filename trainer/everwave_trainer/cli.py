"""`everwave-train`: corpus | label | autoencoder | encode | gan | refiner | posttrain | finetune | export | evaluate | card."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from everwave import checks, commands
from everwave.errors import UsageError
from everwave.files import checked_folder
from everwave.options import Parser

MANY = 10**6  # more steps, or channels, than anybody will want

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported; its INFO lines are noise


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command; returns the exit code (2 bad use, 1 failure, 128 + a signal's number)."""
    arguments = parser().parse_args(argv)
    return commands.run("everwave-train", lambda: _run(arguments), arguments.debug)


def _run(arguments: argparse.Namespace) -> int | None:
    try:
        code: int | None = arguments.run(arguments)
        return code
    except ModuleNotFoundError as error:
        if arguments.debug or error.name not in ("keras", "tensorflow", "tensorboard"):
            raise
        raise UsageError(f"{error.name} is not installed; `pip install tensorflow keras tensorboard`") from None


def parser() -> argparse.ArgumentParser:
    from . import corpora, labels

    top = Parser(prog="everwave-train", description="Train the models that everwave plays.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    corpus = commands.add_parser("corpus", help="prepare music for training")
    corpora.add_arguments(corpus)
    corpus.set_defaults(run=corpora.run)

    label = commands.add_parser("label", help="estimate or read the tempo and the onsets of a corpus")
    labels.add_arguments(label)
    label.set_defaults(run=labels.run)

    auto = commands.add_parser("autoencoder", help="train the spectrogram autoencoders on a corpus")
    _add_training_arguments(auto, steps=20000, learning_rate=3e-4, batch_size=16)
    auto.add_argument("corpora", type=Path, nargs="+", metavar="CORPUS", help="folder made by `everwave-train corpus`")
    auto.add_argument("--stage", choices=["level1", "level2", "phases", "finish", "chunk"], required=True)
    auto.add_argument(
        "--preset",
        default="lite",
        choices=["full", "lite", "tiny"],
        help="sizes where there is no --init (default lite)",
    )
    auto.add_argument(
        "--init",
        help="folder of the previous stage, a weights file or the shipped `autoencoder`, to start from; it has the sizes",
    )
    auto.add_argument("--critic-weight", type=float, help="default: 0.03 for finish, else 0, which means no critic")
    auto.set_defaults(run=_autoencoder)

    encode = commands.add_parser("encode", help="turn a corpus into latents for the GAN")
    encode.add_argument("corpora", type=Path, nargs="+", metavar="CORPUS")
    encode.add_argument(
        "--autoencoder",
        required=True,
        help="a weights file with the four autoencoder networks, or the shipped `autoencoder`",
    )
    encode.add_argument("--styles", nargs="+", help="only tracks of these styles")
    encode.add_argument("--split", default="train", choices=["train", "held-out"], help="default: train")
    encode.add_argument(
        "--speeds",
        type=float,
        nargs="+",
        default=[1.0],
        help="play each track so fast, too (of little music: 0.94 1 1.06)",
    )
    encode.add_argument("-o", "--output", type=Path, required=True, help="folder for the latents")
    encode.set_defaults(run=_encode)

    gan = commands.add_parser("gan", help="train a generator on latents")
    _add_training_arguments(gan, steps=20000, learning_rate=1e-4, batch_size=32)
    gan.add_argument("latents", type=Path, nargs="+", help="folder made by `everwave-train encode`")
    gan.add_argument(
        "--preset", default="lite", choices=["full", "lite", "tiny"], help="of the generator, without --init"
    )
    gan.add_argument(
        "--init",
        help="model whose generator is trained on, an imported one too; it has the sizes; its refiner stays behind it",
    )
    gan.add_argument(
        "--conditions", nargs="*", metavar="LABEL",
        help="labels of the latents to condition on (bpm, density, or the name of a style; default: those of --init); pieces without are left out",
    )  # fmt: skip
    gan.add_argument("--critic-width", type=int, help="default: the generator's; half is twice as fast")
    gan.add_argument("--alone", type=int, default=2000, help="first steps without a critic (default 2000)")
    gan.set_defaults(run=_gan)

    refiner = commands.add_parser("refiner", help="train a network that refines what a generator makes")
    _add_training_arguments(refiner, steps=5000, learning_rate=1e-3, batch_size=16)
    refiner.add_argument("latents", type=Path, nargs="+", help="folder made by `everwave-train encode`")
    refiner.add_argument(
        "--init", required=True,
        help="model whose generator it is for, a run's or a shipped one; if it has a refiner, that is trained on",
    )  # fmt: skip
    refiner.add_argument("--width", type=int, help="a third of its narrowest layers (default: the generator's width)")
    refiner.add_argument(
        "--noise", type=float,
        help="deviation of the noise it learns to take away, real latents having 1 (default 1.2, or that of --init)",
    )  # fmt: skip
    refiner.add_argument(
        "--larger", type=float,
        help="how many times as large a generator's latents go in (default 1.25, or that of --init); another one may be"
        " asked for when the run has ended",
    )  # fmt: skip
    refiner.set_defaults(run=_refiner)

    post = commands.add_parser(
        "posttrain", help="train a generator and its refiner on as one, against what the refiner knows"
    )
    _add_training_arguments(post, steps=1000, learning_rate=2e-4, batch_size=8)
    post.add_argument("latents", type=Path, nargs="+", help="folder made by `everwave-train encode`")
    post.add_argument("--init", required=True, help="model that has a refiner, a run's or a shipped one")
    post.add_argument(
        "--denoiser", help="model whose refiner judges (default --init, which must not have been post-trained then)"
    )
    post.add_argument(
        "--share", type=float, default=0.75,
        help="how far of the way from the weights of --init to those found the model's shall be (default 0.75): with more"
        " it has changed more and obeys less; another one may be asked for when the run has ended",
    )  # fmt: skip
    post.set_defaults(run=_posttrain)

    tune = commands.add_parser("finetune", help="go on training a model on your own music, in one command")
    tune.add_argument("audio", type=Path, nargs="+", help="audio files or folders; half an hour is enough")
    tune.add_argument("--init", required=True, help="model to start from: a shipped name or a weights file")
    tune.add_argument(
        "-o", "--output", type=Path, required=True, help="folder: corpus, latents, run, model.h5; resumed"
    )
    tune.add_argument("--minutes", type=float, default=15.0, help="of training at most (default 15)")
    tune.add_argument(
        "--licence", help="of the music (default: what was said before, else not stated); that of --init is added to it"
    )
    tune.add_argument("--seed", type=int, default=0)
    tune.set_defaults(run=_finetune)

    export = commands.add_parser("export", help="write a training run's model as a weights file")
    export.add_argument("run_folder", type=Path, metavar="RUN")
    export.add_argument("-o", "--output", type=Path, required=True)
    export.add_argument(
        "--licence", required=True, help="of the training data; that of the model which the run began with is added"
    )
    export.add_argument("--metrics", type=Path, help="metrics.json of `evaluate`, to keep with the weights")
    export.add_argument("--autoencoder", help="for a generator: the shipped autoencoder that it shall name")
    export.add_argument(
        "--chunk-decoder", type=Path, help="for a generator: run of stage chunk whose decoder it shall have"
    )
    export.add_argument(
        "--range", nargs=3, action="append", default=[], metavar=("CONDITION", "LOW", "HIGH"),
        help="for a generator: what may be asked for, where it obeys less than its training data had",
    )  # fmt: skip
    export.add_argument(
        "--spread", type=float, default=1.0,
        help="for a generator: how many times as far from each other its pieces shall lie as it was trained (default 1)",
    )  # fmt: skip
    export.add_argument(
        "--noise", type=float, default=1.0,
        help="for a generator: how many times as strong its injected noise shall be as it was trained (default 1)",
    )  # fmt: skip
    export.add_argument("--mean-with", type=Path, nargs="+", default=[], metavar="RUN",
                        help="write the mean of the run and of these, which began with the same weights")  # fmt: skip
    export.add_argument("--vary-as", type=Path, nargs="+", default=[], metavar="LATENTS",
                        help="for a model with a refiner that was not post-trained: latents of its music, as which what it plays shall vary")  # fmt: skip
    export.add_argument("--float32", action="store_true", help="full precision (default: float16)")
    export.set_defaults(run=_export)

    from . import evaluate

    evaluation = commands.add_parser("evaluate", help="measure a model on held-out music")
    evaluate.add_arguments(evaluation)
    evaluation.set_defaults(run=evaluate.run)

    card = commands.add_parser("card", help="print a model's card: data, licence, training, measures")
    card.add_argument("model", help="shipped name or weights file")
    card.add_argument("--metrics", type=Path, help="metrics.json of `evaluate` (default: those kept in the file)")
    card.set_defaults(run=_card)
    for command in commands.choices.values():
        command.add_argument("--debug", action="store_true", help="show where an error came from")
    return top


def _add_training_arguments(p: argparse.ArgumentParser, *, steps: int, learning_rate: float, batch_size: int) -> None:
    p.add_argument("-o", "--output", type=Path, required=True, help="run folder: checkpoints, samples, logs; resumed")
    p.add_argument(
        "--steps", type=int, default=steps, help=f"over which the learning rate falls to a fiftieth (default {steps})"
    )
    p.add_argument("--batch-size", type=int, default=batch_size)
    p.add_argument("--learning-rate", type=float, default=learning_rate)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--minutes", type=float, default=5.0, help="between checkpoints")
    p.add_argument("--precision", default="float32", choices=["float32", "mixed_bfloat16"])
    p.add_argument("--deterministic", action="store_true", help="repeat bit for bit (slower)")


def _train(a: argparse.Namespace, trainer: Any) -> None:
    from . import backend, loop
    from .export import result

    steps = loop.run(trainer, a.output, a.steps, minutes=a.minutes, log=backend.scalar_writer(str(a.output / "logs")))
    print(f"{result(a.output)}: step {steps}")


def _prepare(a: argparse.Namespace) -> None:
    for name in ("steps", "batch_size", "learning_rate", "minutes"):
        if not getattr(a, name) > 0:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(a, name)}: must be greater than 0")
    checks.number("--seed", a.seed, 0, 2**32 - 1)
    checked_folder(a.output)
    _start_keras(a)
    import keras

    from . import backend

    keras.mixed_precision.set_global_policy(a.precision)
    if a.deterministic:
        backend.deterministic()
    backend.distribute(a.batch_size)


def _start_keras(a: argparse.Namespace) -> None:
    """Keras and its backend, without what TensorFlow writes to standard error when it starts."""
    with commands.only_our_lines(a.debug):
        from . import backend

        backend.start()


def _autoencoder(a: argparse.Namespace) -> None:
    from .corpora.store import Corpus, check_rate, select

    tracks = select(a.corpora, "train")
    held_out = [t for folder in a.corpora for t in Corpus.open(folder).tracks if t.split == "held-out"]
    _prepare(a)
    from .autoencoder import AutoencoderTrainer, choose_config, find

    init = find(a.init) if a.init else None
    config = choose_config(a.preset, init, a.stage)
    check_rate([*tracks, *held_out], config.signal.sample_rate, a.init or f"--preset {a.preset}")
    trainer = AutoencoderTrainer(
        a.stage, config, tracks, steps=a.steps, batch_size=a.batch_size,
        learning_rate=a.learning_rate, critic_weight=a.critic_weight, seed=a.seed, held_out=held_out,
    )  # fmt: skip
    if init:
        trainer.initialise(init)
    _train(a, trainer)


def _encode(a: argparse.Namespace) -> None:
    from .encode import encode_corpus

    for speed in a.speeds:
        if not 0.5 <= speed <= 2:
            raise UsageError(f"--speeds {speed:g}: must be between 0.5 and 2")
    encode_corpus(a.corpora, a.autoencoder, a.output, styles=a.styles, split=a.split, speeds=a.speeds)


def _gan(a: argparse.Namespace) -> None:
    from everwave import weights

    from .latents import Latents

    checks.whole("--alone", a.alone, 0, MANY)
    if a.critic_width is not None:
        checks.whole("--critic-width", a.critic_width, 1, MANY)
    latents = Latents.join(a.latents)
    _prepare(a)
    from .gan import GanTrainer
    from .start import choose_config

    init = weights.find(a.init) if a.init else None
    config = choose_config(a.preset, init, latents)
    names = [c.name for c in config.generator.conditions] if a.conditions is None else a.conditions
    trainer = GanTrainer(
        config,
        latents,
        steps=a.steps,
        batch_size=a.batch_size,
        learning_rate=a.learning_rate,
        seed=a.seed,
        conditions=names,
        critic_width=a.critic_width,
        alone=a.alone,
        init=init,
        run=a.output,
    )
    if init:
        trainer.initialise(init)
    _train(a, trainer)


def _refiner(a: argparse.Namespace) -> None:
    from everwave import weights
    from everwave.config import REFINERS

    from .latents import Latents

    latents = Latents.join(a.latents)
    for name, low, high in (("width", 1, REFINERS[1]), ("noise", 0.01, 10), ("larger", 0.01, 10)):
        if (value := getattr(a, name)) is not None:
            checks.number(f"--{name}", value, low, high)
    _prepare(a)
    from .refiner import RefinerTrainer

    trainer = RefinerTrainer(weights.find(a.init), latents, steps=a.steps, batch_size=a.batch_size,
                             learning_rate=a.learning_rate, seed=a.seed, width=a.width, noise=a.noise,
                             larger=a.larger)  # fmt: skip
    _train(a, trainer)


def _posttrain(a: argparse.Namespace) -> None:
    from everwave import weights

    from .latents import Latents

    latents = Latents.join(a.latents)
    checks.number("--share", a.share, 0, 1)
    _prepare(a)
    from .posttrain import HEADS_ALONE, PostTrainer

    if a.steps <= HEADS_ALONE:
        raise UsageError(f"--steps {a.steps}: in the first {HEADS_ALONE} the heads learn alone; ask for more")
    denoiser = weights.find(a.denoiser) if a.denoiser else None
    trainer = PostTrainer(weights.find(a.init), latents, steps=a.steps, batch_size=a.batch_size, seed=a.seed,
                          learning_rate=a.learning_rate, share=a.share, denoiser=denoiser)  # fmt: skip
    _train(a, trainer)


def _finetune(a: argparse.Namespace) -> None:
    if not a.minutes > 0:
        raise UsageError(f"--minutes {a.minutes}: must be greater than 0")
    _start_keras(a)
    from .finetune import finetune

    finetune(a.audio, a.init, a.output, minutes=a.minutes, licence=a.licence, seed=a.seed)


def _export(a: argparse.Namespace) -> None:
    _start_keras(a)
    from .export import export_run

    dtype = "float32" if a.float32 else "float16"
    try:
        ranges = [(name, float(low), float(high)) for name, low, high in a.range]
    except ValueError:
        raise UsageError(f"--range {a.range}: give a condition and two numbers") from None
    export_run(a.run_folder, a.output, licence=a.licence, dtype=dtype, metrics=a.metrics, autoencoder=a.autoencoder,
               chunk_decoder=a.chunk_decoder, ranges=ranges, spread=a.spread, noise=a.noise, mean_with=a.mean_with, vary_as=a.vary_as)  # fmt: skip


def _card(a: argparse.Namespace) -> None:
    from .evaluate.card import card, read_metrics

    print(card(a.model, read_metrics(a.metrics) if a.metrics else None), end="")


if __name__ == "__main__":
    sys.exit(main())
