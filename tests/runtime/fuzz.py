"""Damaged and hostile files against the command line, each case in a process of its own: `python fuzz.py --cases 3000`.

A case takes a good file, damages it (cut off, bits flipped, bytes overwritten, pieces doubled or left out) and gives it to a
command. It fails if the process crashes, hangs, takes more than MEMORY, shows a traceback, ends otherwise than with 0, 1 or
2, says nothing where it failed, or leaves a part of a file behind. Case number n is a function of n alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

os.environ |= {"EVERWAVE_PATH": "numpy", "EVERWAVE_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}

SECONDS = 60  # a case takes a tenth of a second on a free machine
MEMORY = 600e6  # bytes in all; the interpreter with its libraries takes 120 MB
ENDINGS = ("wav", "flac", "ogg", "mp3", "aiff", "opus", "au", "caf", "w64", "rf64")
Case = tuple[list[str], Path]  # what the command is given, and which of the files is damaged
Rng = np.random.Generator
Damage = Callable[[bytes, Rng], bytes]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    begin, ends, largest, problems = time.time(), Counter[str](), 0.0, []
    with tempfile.TemporaryDirectory(prefix="everwave-fuzz-") as name:
        good = Path(name) / "good"
        subprocess.run([sys.executable, __file__, "--prepare", str(good)], check=True)  # threads and all
        import_everything()
        for kind in options.kinds:  # what is not damaged works
            problem, code, _ = run(kind, 0, good, Path(name) / "case", lambda data, rng: data)
            assert (problem, code) == ("", 0), kind
        for number in range(options.first, options.first + options.cases):
            kind = options.kinds[number % len(options.kinds)]
            problem, code, memory = run(kind, number, good, Path(name) / "case", damage)
            ends[f"{kind}: exit {code}"] += 1
            largest = max(largest, memory)
            if problem:
                problems.append(f"case {number} ({kind}): {problem}")
                print(problems[-1], file=sys.stderr, flush=True)
    took = round(time.time() - begin)
    print(json.dumps({"cases": options.cases, "problems": len(problems), "seconds": took, "peak_mb": round(largest / 1e6),
                      "ends": dict(sorted(ends.items()))}))  # fmt: skip
    return bool(problems)


# -- one case --------------------------------------------------------------------------------------------------------


def run(kind: str, number: int, good: Path, folder: Path, damage: Damage) -> tuple[str, int, float]:
    """(what is wrong or "", exit code, peak memory in bytes)"""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    rng = np.random.default_rng([number, sorted(KINDS).index(kind)])
    words, damaged = KINDS[kind](folder, rng)
    damaged.write_bytes(damage(damaged.read_bytes(), rng))
    before = {path for path in folder.rglob("*") if path.is_file()}
    child = os.fork()
    if not child:
        _child(words, folder)
    status, usage = _wait(child)
    said = (folder / "said").read_text(errors="replace")
    left = [path.name for path in set(folder.rglob("*")) - before if path.name.endswith(".part")]
    code = os.waitstatus_to_exitcode(status)
    memory = usage.ru_maxrss * 1024.0
    lines = said.splitlines()
    problem = ""
    if code not in (0, 1, 2):
        problem = f"ended with {code}"
    elif "Traceback" in said or any(not line.startswith("everwave: ") for line in lines):
        problem = "said something else than a line of ours"
    elif code and not lines:
        problem = "failed and said nothing"
    elif any("--debug shows where" in line for line in lines):
        problem = "met an error that it does not know"
    elif memory > MEMORY:
        problem = f"took {memory / 1e6:.0f} MB"
    elif left:
        problem = f"left {left} behind"
    return f"{problem}; everwave {' '.join(words)}: {said.strip()[-600:]}" if problem else "", code, memory


def _child(words: list[str], folder: Path) -> None:
    from everwave.cli import main

    code = 70
    try:
        os.chdir(folder)
        sink = os.open("said", os.O_WRONLY | os.O_CREAT)
        os.dup2(sink, 2)
        os.dup2(os.open("out", os.O_WRONLY | os.O_CREAT), 1)
        code = main(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 71
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int) -> tuple[int, resource.struct_rusage]:
    end = time.time() + SECONDS
    while time.time() < end:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return status, usage
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return os.wait4(child, 0)[1:]


def damage(data: bytes, rng: Rng) -> bytes:
    """The file with one to three things wrong; headers are hit as often as what comes after."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if not changed:
            break
        front = min(len(changed), 4096)
        at = int(rng.integers(front if rng.random() < 0.5 else len(changed)))
        many = int(rng.integers(1, 64))
        match int(rng.integers(6)):
            case 0:
                del changed[at:]
            case 1:
                for position in rng.integers(0, front if rng.random() < 0.5 else len(changed), many):
                    changed[position] ^= 1 << int(rng.integers(8))
            case 2:
                changed[at : at + many] = rng.bytes(many)
            case 3:
                changed[at : at + 8] = bytes([int(rng.choice([0x00, 0x7F, 0x80, 0xFF]))]) * int(
                    rng.choice([1, 2, 4, 8])
                )
            case 4:
                del changed[at : at + many]
            case _:
                changed[at:at] = changed[at : at + many * 16]
    return bytes(changed)


# -- what is damaged, and what is done with it ---------------------------------------------------------------------------


def encode(folder: Path, rng: Rng) -> Case:
    song = f"song.{rng.choice(ENDINGS)}"
    output = ["out.npy", "out.h5"][int(rng.integers(2))]
    return ["encode", song, "--model", "model.h5", "-o", output, *(["--pool"] * int(rng.integers(2)))], folder / song


def decode(folder: Path, rng: Rng) -> Case:
    file = str(rng.choice(["latents.npy", "latents.npy.json", "latents.h5"]))
    return ["decode", file.removesuffix(".json"), "--model", "model.h5", "-o", "out.wav"], folder / file


def add(folder: Path, rng: Rng) -> Case:
    """More recordings for an HDF5 file of latents, or a folder of them, that is damaged."""
    file = str(rng.choice(["latents.h5", "latents.npy", "latents.npy.json"]))
    output = file if file.endswith(".h5") else "latents.npy"
    song = folder.with_name("good") / "song.wav"  # the one that they are of
    return ["encode", str(song), "--model", "model.h5", "-o", output], folder / file


def model(folder: Path, rng: Rng) -> Case:
    """Half of them without a checksum, so that damaged numbers are computed with."""
    file = str(rng.choice(["model.h5", "unchecked.h5"]))
    play = ["generate", "--model", file, "--seconds", "0.05", "--bpm", "130", "-o", "out.wav"]
    words = [["info", file], play, ["bundle", file, "-o", "out.h5"]]
    return words[int(rng.integers(3))], folder / file


def curve(folder: Path, rng: Rng) -> Case:
    words = ["generate", "--model", "model.h5", "--seconds", "0.05", "--bpm", "curve.csv", "-o", "out.wav"]
    return words, folder / "curve.csv"


def musika(folder: Path, rng: Rng) -> Case:
    file = str(rng.choice(["enc.h5", "enc2.h5", "dec.h5", "dec2.h5", "gen_ema.h5"]))
    return ["import-musika", "musika", "--autoencoder", "musika", "-o", "out.h5"], folder / "musika" / file


KINDS: dict[str, Callable[[Path, Rng], Case]] = {f.__name__: f for f in (encode, decode, add, model, curve, musika)}


# -- good files ----------------------------------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    import h5py
    import soundfile
    import test_musika
    from everwave import weights
    from everwave.cli import main
    from everwave.config import AutoencoderConfig, Condition, Config, GeneratorConfig, SignalConfig

    folder.mkdir()
    os.chdir(folder)
    tempo = Condition("bpm", "1/min", mean=140.0, scale=10.0, low=120.0, high=160.0)
    generator = GeneratorConfig(width=2, anchor=2, style=2, conditions=(tempo,))
    config = Config(SignalConfig(hop_length=16), AutoencoderConfig(width=2, frame_latents=2, latents=2), generator)
    weights.write("model.h5", weights.random_model(config, seed=1))
    shutil.copy("model.h5", "unchecked.h5")
    with h5py.File("unchecked.h5", "r+") as file:
        del file.attrs["crc32"]
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (4800, 2)).astype(np.float32)
    for ending in ENDINGS:
        container = {"opus": "OGG"}.get(ending, ending.upper())
        soundfile.write(
            f"song.{ending}", samples, 48000, format=container, subtype="OPUS" if ending == "opus" else None
        )
    for output in ("latents.npy", "latents.h5"):
        assert main(["encode", "song.wav", "--model", "model.h5", "-o", output]) == 0
    Path("curve.csv").write_text("seconds,bpm\n0,120\n1,130\n2,160\n")
    Path("musika").mkdir()
    test_musika.write_checkpoint(Path("musika"), test_musika.NORMAL)


def import_everything() -> None:
    """What commands import when they need it, so that a forked case begins at once; no thread is started."""
    import csv
    import glob

    import everwave.audio
    import everwave.bench
    import everwave.encoding
    import everwave.musika
    import everwave.ops.numpy_ops
    import everwave.spectrogram
    import scipy.signal
    import soundfile

    assert all((csv, glob, everwave, scipy.signal, soundfile))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prepare"]:
        prepare(Path(sys.argv[2]))
    else:
        raise SystemExit(main())
