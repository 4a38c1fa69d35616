"""The command `everwave`: it calls the model as its options say, and reports. Anything heavy is imported when it is needed."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import commands
from .errors import EverwaveError, UsageError
from .options import parser

if TYPE_CHECKING:
    from .encoding import Recording
    from .model import Model

COMPARISON = ("--rounds", "3", "--batches", "16", "64", "--tuning-seconds", "10", "--output", ".")  # of bench --compare


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the result is the exit code: 0, 1 failure, 2 bad use, 128 + a signal's number."""
    options = parser(COMMANDS).parse_args(arguments)
    for library in ("OPENBLAS", "MKL", "OMP", "VECLIB"):  # the workers are the threads
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    if sys.stderr is not None and sys.stderr.isatty():
        _say_when_kernels_are_compiled()
    return commands.run("everwave", lambda: options.run(options), options.debug)


# -- commands -----------------------------------------------------------------------------------------------------


def generate(options: argparse.Namespace) -> None:
    from . import checks, pieces, weights
    from .audio import Writer
    from .model import load

    default = f"{weights.called(options.model)}.wav"
    outputs = pieces.outputs(default if options.output is None else options.output, options.count)
    if options.spectrogram is not None:
        from .files import checked

        if options.count > 1:
            raise UsageError(f"--spectrogram with --count {options.count}; ask for one piece")
        if Path(options.spectrogram).resolve() == Path(outputs[0]).resolve():
            raise UsageError(f"--spectrogram {options.spectrogram}: is where the audio goes; choose another name")
        if Path(options.spectrogram).suffix.lower() != ".png":
            raise UsageError(f"--spectrogram {options.spectrogram}: it is a PNG; let its name end in .png")
        checked(options.spectrogram)
    model = load(options.model, options.threads, options.precision)
    seed = _seed(options)
    checks.seed(seed + options.count - 1)
    with pieces.open_piece(model, options, seed) as piece:  # checks the options before kernels are compiled
        for output in outputs:
            Writer(output, model.sample_rate, frames=piece.frames)  # checks where it is to be
    model.prepare()
    for i, output in enumerate(outputs):
        pieces.write(model, options, output, seed + i)


def stream(options: argparse.Namespace) -> None:
    from . import pieces
    from .audio import Writer
    from .model import load

    model = load(options.model, options.threads, options.precision)
    seed = _seed(options)
    if options.play:
        from .playing import play, sounddevice

        sounddevice()
        with pieces.stream(model, options, seed, None) as blocks:
            _say(f"playing {options.model}, seed {seed}; Ctrl-C ends it")
            play(blocks, model.sample_rate)
        return
    with (
        pieces.stream(model, options, seed, None) as blocks,
        Writer(
            options.output, model.sample_rate, format=options.format, tags=pieces.tags(model, options, seed)
        ) as writer,
    ):
        if sys.stderr.isatty():
            _say(f"{options.model}, seed {seed}")
        for block in blocks:
            writer.write(block)


def encode(options: argparse.Namespace) -> int:
    from . import encoding, latent_files, pieces

    problems: list[str] = []

    def failed(problem: str) -> None:
        problems.append(problem)
        _say(f"error: {problem}")

    store = latent_files.open_store(Path(options.output), options.overwrite)
    found = list(encoding.recordings(options.inputs, failed))
    if store.single and len(found) > 1:
        raise UsageError(f"-o {options.output}: one .npy holds one recording, not {len(found)}; give a folder or a .h5")
    model, digest = _model_and_hash(options)
    about = encoding.about_all(model, digest, options.pool)
    with store:
        reported = len(problems)
        todo = list(encoding.unfinished(found, store, about, failed))
        kept = len(found) - len(todo) - (len(problems) - reported)
        with commands.only_our_lines(options.debug), pieces.seconds_bar(lambda: _seconds(todo)) as progress:
            encoding.encode_all(model, todo, store, about, options.pool, failed, progress)
    if len(found) > 1 and (problems or kept):
        _say(f"{len(found)} recordings, {kept} of them were done already; problems: {len(problems)}")
    return commands.FAILURE if problems else 0


def decode(options: argparse.Namespace) -> None:
    from . import encoding, latent_files, pieces
    from .audio import Writer

    with latent_files.opened(Path(options.latents), options.item) as (latents, about):
        if about.get("pooled"):
            raise UsageError(f"{options.latents}: is pooled over time; encode without --pool to decode")
        model, digest = _model_and_hash(options)
        foreign = about.get("autoencoder") not in (None, digest)
        try:
            length, channels = encoding.length(about, len(latents), model, options.latents)
        except EverwaveError:
            if not foreign:
                raise
            raise UsageError(
                f"{options.latents}: was made by another autoencoder than that of {options.model}, of other sizes; give its model as --model"
            ) from None
        if foreign:
            _say(
                f"warning: {options.latents} was made by another autoencoder than {options.model}; "
                "it may sound like noise"
            )
        blocks = model.decode_blocks(latents, options.seed or 0)
        left = length
        with Writer(options.output, model.sample_rate, channels, frames=length) as writer:
            for block in pieces.with_progress(blocks, length, model.sample_rate):
                writer.write(block[:left, :channels])
                left -= min(left, len(block))


def bench(options: argparse.Namespace) -> int:
    from . import bench as benchmark
    from . import checks
    from .model import load, random_model

    if options.random_weights == (options.preset is None):
        raise UsageError("--preset and --random-weights go together: `everwave bench --preset full --random-weights`")

    def model(threads: int | None) -> Model:
        if options.preset:
            return random_model(options.preset, 0, threads, options.precision)
        return load(options.model, threads, options.precision)

    if options.compare:
        if not options.preset:
            raise UsageError(
                "--compare needs --preset and --random-weights: the contenders run the same random networks"
            )
        given = ["--preset", options.preset, "--seconds", f"{options.seconds:.15g}", *COMPARISON]
        return benchmark.compare([*given, *(["--threads", str(options.threads)] if options.threads else [])])
    if options.json:
        print(json.dumps(benchmark.run(lambda: model(options.threads), options.seconds)))
    else:
        benchmark.survey(model, options.seconds, checks.threads(options.threads), options.precision, print)
    return 0


def info(options: argparse.Namespace) -> None:
    from .audio import ENDINGS, SUBTYPES
    from .latent_files import described
    from .model import load
    from .weights import available

    if options.model is None:
        models = available()
        print(json.dumps({"models": models}) if options.json else f"shipped models: {', '.join(models) or 'none'}")
        return
    ending = Path(options.model).suffix.lower()
    is_audio = ending in ENDINGS or ending.lstrip(".") in SUBTYPES
    with commands.only_our_lines(options.debug):
        if is_audio:
            facts = _about_audio(options.model)
        else:
            facts = described(Path(options.model)) or load(options.model, 1).info()
    if options.json:
        print(json.dumps(facts))
        return
    for key, value in facts.items():
        print(f"{key:20} {json.dumps(value) if isinstance(value, dict | list) else value}")


def _about_audio(path: str) -> dict[str, Any]:
    from . import audio

    header = audio.info(path)
    length = {"sample_rate": header.sample_rate, "channels": header.channels, "frames": header.frames}
    tags, seconds = audio.tags(path), header.frames / header.sample_rate
    if (words := tags.get("comment", "")).startswith("everwave stream "):  # which did not know when it would end
        tags["comment"] = words.replace("stream", "generate", 1) + f" --seconds {seconds!r}"
    return length | {"seconds": round(seconds, 3)} | tags


def bundle(options: argparse.Namespace) -> None:
    from . import weights
    from .files import checked

    checked(options.output)
    path = weights.find(options.model)
    weights.write(options.output, weights.bundle(weights.read(path), path))


def import_musika(options: argparse.Namespace) -> None:
    from . import weights
    from .files import checked
    from .musika import import_checkpoint

    checked(options.output)
    found = import_checkpoint(options.checkpoint, options.autoencoder, options.sample_rate)
    weights.write(options.output, found, "float32")
    if not options.sample_rate:
        rate = found.config.signal.sample_rate
        _say(f"warning: a checkpoint does not say its sample rate; {rate} Hz assumed, --sample-rate gives another")


def serve(options: argparse.Namespace) -> None:
    try:
        from .web.server import serve as serve_web
    except ModuleNotFoundError as error:
        raise UsageError(f"serve needs {error.name}; `pip install starlette uvicorn websockets`") from None
    models = options.model or []
    names = options.name or []
    serve_web(models, options.host, options.port, options.threads, options.precision, options.listeners, names)


def warmup(options: argparse.Namespace) -> None:
    from . import ops
    from .model import warm_up

    begin = time.perf_counter()
    precisions = warm_up(options.threads)
    if ops.uses_numpy("auto"):
        print("networks run in NumPy here, without kernels")
    else:
        print(f"kernels ready for {', '.join(precisions)} in {time.perf_counter() - begin:.1f} s")


COMMANDS = (generate, stream, encode, decode, bench, info, bundle, import_musika, serve, warmup)


# -- parts of commands --------------------------------------------------------------------------------------------


def _model_and_hash(options: argparse.Namespace) -> tuple[Model, str]:
    """The model, and the SHA-256 of its autoencoder."""
    from . import weights
    from .model import Model

    path = weights.find(options.model)
    file = weights.read(path)
    model = Model.from_parts(weights.resolve(file, path), options.threads, options.precision)
    return model, weights.autoencoder_digest(file, path)


def _seed(options: argparse.Namespace) -> int:
    """The one asked for, else a new one; the last line shows it so that a piece can be made again."""
    return options.seed if options.seed is not None else int.from_bytes(os.urandom(4), "little")


def _seconds(todo: Sequence[Recording]) -> float:
    """How long the recordings are, as far as can be told."""
    from . import audio

    total = 0.0
    for recording in todo:
        with contextlib.suppress(EverwaveError):  # reported when its turn comes
            header = audio.info(recording.path)
            total += header.frames / header.sample_rate
    return total


def _say_when_kernels_are_compiled() -> None:
    """A line before the first of them is, as nothing else is to be seen or heard for a while."""
    import logging

    log = logging.getLogger("everwave.kernels.native")  # by its name: nothing heavy is imported yet

    def once(record: logging.LogRecord) -> bool:
        log.removeFilter(once)
        _say("compiling kernels, once for this machine and version: some ten seconds")
        return True

    log.setLevel(logging.INFO)
    log.addFilter(once)


def _say(message: str) -> None:
    commands.say("everwave", message)
