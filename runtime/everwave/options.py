"""What every command of `everwave` may be told, and the help that says so."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from .errors import UsageError

Command = Callable[[argparse.Namespace], int | None]


class Parser(argparse.ArgumentParser):
    """Bad use is one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(UsageError.exit_code, f"{self.prog.split()[0]}: error: {message}; see `{self.prog} --help`\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """What a command does not know is its own error, whose help says what it does know."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from . import __version__

        print(f"everwave {__version__}")
        parser.exit()


def parser(commands: Iterable[Command]) -> argparse.ArgumentParser:
    """The options of every command; parsing them gives a namespace whose `run` is the one of `commands` that was named."""
    by_name = {run.__name__: run for run in commands}
    parser = Parser(prog="everwave", description="Endless stereo music on any CPU.", allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = subparsers.add_parser(name.replace("_", "-"), help=text, description=text, allow_abbrev=False)
        added.set_defaults(run=by_name[name])
        added.add_argument("--debug", action="store_true", help="show where an error came from")
        return added

    made = command("generate", "generate a piece of music")
    _control_options(made)
    length = made.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=60.0, help="length (default 60)")
    length.add_argument("--bars", type=int, help="a loop of so many bars, where there is a tempo")
    made.add_argument("--loop", action="store_true",
                      help="the end goes on into the start; of --seconds the nearest number of bars where there is a tempo")  # fmt: skip
    made.add_argument("--count", type=int, default=1, help="how many pieces, with seeds SEED, SEED + 1, ...")
    made.add_argument("--spectrogram", metavar="PNG", help="also draw the spectrogram")
    made.add_argument(
        "-o", "--output", help="wav, flac, ogg, opus, mp3 or aiff by its ending, - for stdout (default MODEL.wav)"
    )

    made = command("stream", "generate without end")
    _control_options(made)
    made.add_argument("--format", choices=("wav", "raw"), help="raw: interleaved float32, little-endian")
    made.add_argument("-o", "--output", default="-", help="file, - for stdout (default)")
    made.add_argument("--play", action="store_true", help="to the sound card; needs sounddevice")

    made = command("encode", "turn recordings into latents")
    made.add_argument("inputs", nargs="+", metavar="IN", help="audio files, folders, globs, - for stdin")
    made.add_argument("--pool", action="store_true",
                      help="one vector per recording: mean and standard deviation over time, left and right averaged")  # fmt: skip
    made.add_argument(
        "--overwrite", action="store_true", help="also replace what is there: unchanged, or of something else"
    )
    made.add_argument("-o", "--output", required=True, help="OUT.npy, OUT.h5 or a folder")
    _model_options(made, default="autoencoder")

    made = command("decode", "turn latents into audio")
    made.add_argument("latents", metavar="LATENTS", help=".npy or .h5 as `encode` writes")
    made.add_argument("--item", help="the recording, if the .h5 holds several")
    made.add_argument("--seed", type=int, help="of the noise that the decoders add (default 0)")
    made.add_argument("-o", "--output", required=True, help="audio file, - for stdout")
    _model_options(made, default="autoencoder")

    made = command("bench", "measure how many times faster than real time this machine is")
    measured = made.add_mutually_exclusive_group()
    _model_option(measured)
    measured.add_argument("--preset", choices=("full", "lite", "tiny"), help="sizes of a model with random weights")
    _engine_options(made)
    made.add_argument("--random-weights", action="store_true")
    made.add_argument("--seconds", type=float, default=60.0, help="length (default 60)")
    made.add_argument("--json", action="store_true", help="one run only, printed as one JSON object")
    made.add_argument("--compare", action="store_true",
                      help="also run the same networks in Keras, ONNX Runtime, OpenVINO and PyTorch, what is installed")  # fmt: skip

    made = command("info", "say what is in a model or in latents, or how an audio file was made")
    made.add_argument(
        "model",
        metavar="FILE",
        nargs="?",
        help="a model, its shipped name, latents or audio; without it, all shipped names",
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")

    made = command("bundle", "put a model and the autoencoder it needs into one file")
    made.add_argument("model", metavar="MODEL", help="a shipped name or a file")
    made.add_argument("-o", "--output", required=True, help="OUT.h5")

    made = command("import_musika", "turn a checkpoint of the original Musika into a model")
    made.add_argument("checkpoint", metavar="CHECKPOINT", nargs="?",
                      help="gen_ema.h5 or its folder; without it, the autoencoder alone")  # fmt: skip
    made.add_argument("--autoencoder", required=True, metavar="FOLDER", help="of enc.h5, enc2.h5, dec.h5 and dec2.h5")
    made.add_argument("--sample-rate", type=int, help="Hz; the files do not say (default 44100)")
    made.add_argument("-o", "--output", required=True)

    made = command("serve", "a web radio: a page to listen and steer, and an API")
    made.add_argument("--model", action="append", help="a shipped name or a file, several times for several "
                      "(default: every shipped model that generates)")  # fmt: skip
    made.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine only)")
    made.add_argument("--name", action="append", help="another host name to answer to, as a proxy in front passes it on; "
                      "several times for several (needed with a --host of this machine only)")  # fmt: skip
    made.add_argument("--port", type=int, default=8000, help="default 8000; 0 takes one that is free")
    made.add_argument("--listeners", type=int, default=100, help="at most (default 100; fewer if the machine is busy)")
    _engine_options(made)

    made = command("warmup", "compile all kernels now instead of when they are first used")
    made.add_argument("--threads", type=int)
    return parser


def _model_options(parser: argparse.ArgumentParser, default: str = "techno") -> None:
    _model_option(parser, default)
    _engine_options(parser)


def _model_option(parser: argparse._ActionsContainer, default: str = "techno") -> None:
    parser.add_argument("--model", default=default, help=f"a shipped name or a file (default {default})")


def _engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, help="workers (default EVERWAVE_THREADS, else all cores)")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")


def _control_options(parser: argparse.ArgumentParser) -> None:
    _model_options(parser)
    parser.add_argument("--seed", type=int, help="the same seed gives the same samples (default: a new one)")
    parser.add_argument("--bpm", help="tempo: a number, or a CSV file of time,value")
    parser.add_argument("--density", help="notes per second: a number, or a CSV file of time,value")
    parser.add_argument("--set", metavar="NAME=VALUE", action="append",
                        help="any other condition of the model (see `everwave info MODEL`), in the same way")  # fmt: skip
    parser.add_argument("--style", type=int, help="another seed, whose style to take")
    parser.add_argument("--truncation", type=float, default=2.0, help="how far from the usual, 0 to 8 (default 2)")
    parser.add_argument("--start", type=float, default=0.0, help="seconds into the piece (default 0)")
