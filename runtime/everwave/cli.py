"""The command `everwave`: it reads options, calls the model and reports. Anything heavy is imported when it is needed."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import EverwaveError, UsageError
from .stopping import stopped_by_signals

if TYPE_CHECKING:
    from .model import Model

BAD_USE, FAILURE, SIGNALLED = 2, 1, 128  # SIGNALLED + the number of the signal, as shells have it
COMPARISON = ("--rounds", "3", "--batches", "16", "64", "--tuning-seconds", "10", "--output", ".")  # of bench --compare


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the result is the exit code: 0, 1 failure, 2 bad use, 128 + a signal's number."""
    options = _parser().parse_args(arguments)
    with stopped_by_signals():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    for library in ("OPENBLAS", "MKL", "OMP", "VECLIB"):  # the workers are the threads
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    try:
        return options.run(options) or 0
    except KeyboardInterrupt as stop:
        number = getattr(stop, "number", signal.SIGINT)
        _say("interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}")
        return SIGNALLED + number
    except BrokenPipeError:  # the reader of our output has left; there is no one to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.debug:
            raise
        _say(f"error: {_one_line(error)}")
        return error.exit_code if isinstance(error, EverwaveError) else FAILURE


# -- commands -----------------------------------------------------------------------------------------------------


def generate(options: argparse.Namespace) -> None:
    from . import pieces
    from .model import load

    outputs = pieces.outputs(options.output or f"{Path(options.model).stem}.wav", options.count)
    if options.spectrogram:
        from .latent_files import check_writable

        if options.count > 1:
            raise UsageError(f"--spectrogram with --count {options.count}; ask for one piece")
        check_writable(Path(options.spectrogram))
    model = load(options.model, options.threads, options.precision)
    seed = _seed(options)
    pieces.open_piece(model, options, seed).close()  # checks the options before kernels are compiled
    if (seconds := model.prepare()) > 3 and sys.stderr.isatty():
        _say(f"kernels compiled in {seconds:.0f} s, once for this machine and version")
    for i, output in enumerate(outputs):
        pieces.write(model, options, output, seed + i)


def stream(options: argparse.Namespace) -> None:
    from . import pieces
    from .audio import Writer
    from .model import load

    model = load(options.model, options.threads, options.precision)
    seed = _seed(options)
    if options.play:
        from .playing import play

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
        for block in blocks:
            writer.write(block)


def encode(options: argparse.Namespace) -> int:
    from . import encoding, latent_files

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
        todo = [recording for recording in found if not encoding.finished(recording, store, about)]
        with contextlib.nullcontext() if options.debug else _only_our_lines(), _encoding_bar(todo) as progress:
            encoding.encode_all(model, todo, store, about, options.pool, failed, progress)
    if len(found) > 1 and (problems or len(todo) < len(found)):
        kept = len(found) - len(todo)
        _say(f"{len(found)} recordings, {kept} of them were done already; problems: {len(problems)}")
    return FAILURE if problems else 0


def decode(options: argparse.Namespace) -> None:
    from . import encoding, latent_files, pieces
    from .audio import Writer

    with latent_files.opened(Path(options.latents), options.item) as (latents, about):
        if about.get("pooled"):
            raise UsageError(f"{options.latents}: is pooled over time; encode without --pool to decode")
        model, digest = _model_and_hash(options)
        length, channels = encoding.length(about, len(latents), model, options.latents)
        if about.get("autoencoder") not in (None, digest):
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
        given = ["--preset", options.preset, "--seconds", f"{options.seconds:g}", *COMPARISON]
        return benchmark.compare([*given, *(["--threads", str(options.threads)] if options.threads else [])])
    if options.json:
        print(json.dumps(benchmark.run(lambda: model(options.threads), options.seconds)))
    else:
        benchmark.survey(model, options.seconds, checks.threads(options.threads), options.precision, print)
    return 0


def info(options: argparse.Namespace) -> None:
    from .audio import SUBTYPES
    from .model import load
    from .weights import available

    if options.model is None:
        print("shipped models: " + (", ".join(available()) or "none"))
        return
    is_audio = Path(options.model).suffix.lstrip(".").lower() in SUBTYPES
    facts = _about_audio(options.model) if is_audio else load(options.model, 1).info()
    if options.json:
        print(json.dumps(facts))
        return
    for key, value in facts.items():
        print(f"{key:20} {json.dumps(value) if isinstance(value, dict | list) else value}")


def _about_audio(path: str) -> dict[str, Any]:
    from . import audio

    header = audio.info(path)
    length = {"sample_rate": header.sample_rate, "channels": header.channels, "frames": header.frames}
    return length | {"seconds": round(header.frames / header.sample_rate, 3)} | audio.tags(path)


def bundle(options: argparse.Namespace) -> None:
    from . import weights
    from .latent_files import check_writable

    check_writable(Path(options.output))
    path = weights.find(options.model)
    weights.write(options.output, weights.bundle(weights.read(path), path))


def import_musika(options: argparse.Namespace) -> None:
    from . import weights
    from .latent_files import check_writable
    from .musika import import_checkpoint

    check_writable(Path(options.output))
    found = import_checkpoint(options.checkpoint, options.autoencoder, options.sample_rate)
    weights.write(options.output, found, "float32")
    if not options.sample_rate:
        rate = found.config.signal.sample_rate
        _say(f"warning: a checkpoint does not say its sample rate; {rate} Hz assumed, --sample-rate gives another")


def serve(options: argparse.Namespace) -> None:
    try:
        from .web.server import serve as serve_web
    except ModuleNotFoundError as error:
        raise UsageError(f"serve needs {error.name}; install it with: pip install 'everwave[web]'") from None
    models = options.model or []
    serve_web(models, options.host, options.port, options.threads, options.precision, options.listeners)


def warmup(options: argparse.Namespace) -> None:
    from .model import warm_up

    begin = time.perf_counter()
    precisions = warm_up(options.threads)
    print(f"kernels ready for {', '.join(precisions)} in {time.perf_counter() - begin:.1f} s")


# -- parts of commands --------------------------------------------------------------------------------------------


def _model_and_hash(options: argparse.Namespace) -> tuple[Model, str]:
    """The model, and the SHA-256 of its autoencoder."""
    from . import encoding, weights
    from .model import Model

    path = weights.find(options.model)
    file = weights.read(path)
    model = Model.from_parts(weights.resolve(file, path), options.threads, options.precision)
    return model, encoding.autoencoder_hash(file, path)


def _seed(options: argparse.Namespace) -> int:
    """The one asked for, else a new one; the last line shows it so that a piece can be made again."""
    return options.seed if options.seed is not None else int.from_bytes(os.urandom(4), "little")


@contextlib.contextmanager
def _encoding_bar(todo: Sequence[Any]) -> Iterator[Callable[[float], object]]:
    """What `encode_all` calls with seconds; a bar on a terminal."""
    if not sys.stderr.isatty():
        yield lambda seconds: None
        return
    from tqdm import tqdm

    from . import audio

    total = 0.0
    for recording in todo:
        with contextlib.suppress(EverwaveError):  # reported when its turn comes
            header = audio.info(recording.path)
            total += header.frames / header.sample_rate
    bar_format = "{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
    with tqdm(total=total, bar_format=bar_format, leave=False) as bar:
        yield bar.update


@contextlib.contextmanager
def _only_our_lines() -> Iterator[None]:
    """What is written to standard error, less what libmpg123 has to say of MP3 files and no option silences."""
    stream = sys.stderr
    try:
        copy = os.dup(stream.fileno())
    except (AttributeError, OSError, ValueError):  # no file: closed, or a test's
        yield
        return
    with open(copy, "w", buffering=1, encoding=stream.encoding) as ours, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
        sys.stderr = ours
        try:
            yield
        finally:
            sys.stderr = stream
            os.dup2(ours.fileno(), stream.fileno())


def _say(message: str) -> None:
    with contextlib.suppress(OSError):
        print(f"everwave: {message}", file=sys.stderr)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (
        text if isinstance(error, EverwaveError) and text else f"{type(error).__name__}: {text} (--debug shows where)"
    )


# -- options ------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Bad use is one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_USE, f"everwave: error: {message}; see `{self.prog} --help`\n")


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from . import __version__

        print(f"everwave {__version__}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="everwave", description=__doc__ and "Endless stereo music on any CPU.", allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(run: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(run.__name__.replace("_", "-"), help=text, description=text, allow_abbrev=False)
        added.set_defaults(run=run)
        added.add_argument("--debug", action="store_true", help="show where an error came from")
        return added

    made = command(generate, "generate a piece of music")
    _control_options(made)
    made.add_argument("--seconds", type=float, default=60.0, help="length (default 60)")
    made.add_argument("--loop", action="store_true",
                      help="the end goes on into the start; whole latents, or whole bars where there is a tempo")  # fmt: skip
    made.add_argument("--count", type=int, default=1, help="how many pieces, with seeds SEED, SEED + 1, ...")
    made.add_argument("--spectrogram", metavar="PNG", help="also draw the spectrogram")
    made.add_argument("-o", "--output", help="WAV, FLAC, OGG or MP3 by its ending, - for stdout (default MODEL.wav)")

    made = command(stream, "generate without end")
    _control_options(made)
    made.add_argument("--format", choices=("wav", "raw"), help="raw: interleaved float32, little-endian")
    made.add_argument("-o", "--output", default="-", help="file, - for stdout (default)")
    made.add_argument("--play", action="store_true", help="to the sound card; needs everwave[play]")

    made = command(encode, "turn recordings into latents")
    made.add_argument("inputs", nargs="+", metavar="IN", help="audio files, folders, globs, - for stdin")
    made.add_argument("--pool", action="store_true",
                      help="one vector per recording: mean and standard deviation over time, left and right averaged")  # fmt: skip
    made.add_argument("--overwrite", action="store_true", help="also encode what is already there and unchanged")
    made.add_argument("-o", "--output", required=True, help="OUT.npy, OUT.h5 or a folder")
    _model_options(made, default="autoencoder")

    made = command(decode, "turn latents into audio")
    made.add_argument("latents", metavar="LATENTS", help=".npy or .h5 as `encode` writes")
    made.add_argument("--item", help="the recording, if the .h5 holds several")
    made.add_argument("--seed", type=int, help="of the noise that the decoders add (default 0)")
    made.add_argument("-o", "--output", required=True, help="audio file, - for stdout")
    _model_options(made, default="autoencoder")

    made = command(bench, "measure how many times faster than real time this machine is")
    _model_options(made)
    made.add_argument("--preset", choices=("full", "lite", "tiny"), help="sizes of a model with random weights")
    made.add_argument("--random-weights", action="store_true")
    made.add_argument("--seconds", type=float, default=60.0)
    made.add_argument("--json", action="store_true", help="one run only, printed as one JSON object")
    made.add_argument("--compare", action="store_true",
                      help="also run the same networks in Keras, ONNX Runtime, OpenVINO and PyTorch, what is installed")  # fmt: skip

    made = command(info, "say what is in a model, or how an audio file was made")
    made.add_argument(
        "model", metavar="FILE", nargs="?", help="a model, its shipped name, or audio; without it, all shipped names"
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")

    made = command(bundle, "put a model and the autoencoder it needs into one file")
    made.add_argument("model", metavar="MODEL")
    made.add_argument("-o", "--output", required=True)

    made = command(import_musika, "turn a checkpoint of the original Musika into a model")
    made.add_argument("checkpoint", metavar="CHECKPOINT", nargs="?",
                      help="gen_ema.h5 or its folder; without it, the autoencoder alone")  # fmt: skip
    made.add_argument("--autoencoder", required=True, metavar="FOLDER", help="of enc.h5, enc2.h5, dec.h5 and dec2.h5")
    made.add_argument("--sample-rate", type=int, help="Hz; the files do not say (default 44100)")
    made.add_argument("-o", "--output", required=True)

    made = command(serve, "a web radio: a page to listen and steer, and an API")
    made.add_argument("--model", action="append", help="a shipped name or a file, several times for several "
                      "(default: every shipped model that generates)")  # fmt: skip
    made.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine only)")
    made.add_argument("--port", type=int, default=8000, help="default 8000; 0 takes one that is free")
    made.add_argument("--listeners", type=int, default=100, help="at most (default 100; fewer if the machine is busy)")
    _engine_options(made)

    made = command(warmup, "compile all kernels now instead of when they are first used")
    made.add_argument("--threads", type=int)
    return parser


def _model_options(parser: argparse.ArgumentParser, default: str = "techno") -> None:
    parser.add_argument("--model", default=default, help=f"a shipped name or a file (default {default})")
    _engine_options(parser)


def _engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, help="workers (default EVERWAVE_THREADS, else all cores)")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")


def _control_options(parser: argparse.ArgumentParser) -> None:
    _model_options(parser)
    parser.add_argument("--seed", type=int, help="the same seed gives the same samples (default: a new one)")
    parser.add_argument("--bpm", help="tempo: a number, or a CSV file of time,value")
    parser.add_argument("--density", help="notes per second: a number, or a CSV file of time,value")
    parser.add_argument("--style", type=int, help="another seed, whose style to take")
    parser.add_argument("--truncation", type=float, default=2.0, help="how far from the usual, 0 to 8")
    parser.add_argument("--start", type=float, default=0.0, help="seconds into the piece (default 0)")
