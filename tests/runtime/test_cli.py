"""The command line from end to end, with a tiny model of random weights: results, exit codes, and what is left behind."""

from __future__ import annotations

import errno
import importlib.util
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from everwave import audio, bench, cli, commands, errors, load, pieces, playing, weights
from everwave.audio import Writer
from everwave.cli import main
from everwave.config import PRESETS, Condition
from everwave.model import Model
from everwave.networks import AUTOENCODER

TINY = PRESETS["tiny"]
BPM = Condition("bpm", "beats per minute", mean=140.0, scale=10.0, low=120.0, high=160.0)
BENCH_KEYS = {
    "times_real_time", "real_time_factor", "audio_seconds", "wall_seconds", "first_audio_seconds", "load_seconds",
    "peak_rss_mb", "threads", "precision", "cpu", "stages", "versions",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _fast_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # both also for the processes that tests start
    monkeypatch.setenv("EVERWAVE_PATH", "numpy")  # no compilation
    monkeypatch.setenv("PYTHONPATH", str(Path(weights.__file__).parents[1]))  # where this is not installed
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "tiny.h5"
    weights.write(path, weights.random_model(TINY, seed=1))
    return str(path)


@pytest.fixture(scope="session")
def steered(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "steered.h5"
    config = replace(TINY, generator=replace(TINY.generator, conditions=(BPM,)))
    weights.write(path, weights.random_model(config, seed=1))
    return str(path)


def everwave(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "everwave", *arguments]


def samples(path: str | Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32", always_2d=True)[0]


# -- generate --------------------------------------------------------------------------------------------------------


def test_generate_writes_a_file_and_says_how_fast(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--model", tiny, "--seconds", "0.5", "--seed", "7", "-o", "out.wav"]) == 0
    assert samples("out.wav").shape == (22050, 2)
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 1
    for part in ("0.5 s of audio", "times real time", "RTF", "seed 7"):
        assert part in output.out
    assert output.err == ""  # no bar: this is no terminal
    assert os.listdir() == ["out.wav"]


def test_threads_change_no_byte_and_start_is_a_slice(tiny: str) -> None:
    for name, options in {"1": ["--threads", "1"], "2": ["--threads", "2"], "tail": ["--start", "1"]}.items():
        seconds = "1" if name == "tail" else "2"
        assert (
            main(["generate", "--model", tiny, "--seed", "7", "--seconds", seconds, *options, "-o", f"{name}.wav"]) == 0
        )
    assert Path("1.wav").read_bytes() == Path("2.wav").read_bytes()
    np.testing.assert_array_equal(samples("tail.wav"), samples("1.wav")[44100:])


@pytest.mark.parametrize("ending", ["flac", "ogg", "mp3"])
def test_formats(tiny: str, ending: str) -> None:
    assert main(["generate", "--model", tiny, "--seconds", "0.5", "-o", f"out.{ending}"]) == 0
    assert abs(len(samples(f"out.{ending}")) - 22050) < 3000  # MP3 pads to whole frames


def test_count_makes_names_that_sort(tiny: str) -> None:
    assert main(["generate", "--model", tiny, "--seconds", "0.1", "--seed", "3", "--count", "10", "-o", "a.wav"]) == 0
    assert sorted(os.listdir()) == [f"a-{i:02}.wav" for i in range(1, 11)]
    assert main(["generate", "--model", tiny, "--seconds", "0.1", "--seed", "5", "-o", "b.wav"]) == 0
    assert Path("b.wav").read_bytes() == Path("a-03.wav").read_bytes()


def test_a_runs_model_is_called_by_its_folder(tiny: str) -> None:
    """Training writes every model as model.h5."""
    for folder in ("mine", "yours"):
        Path(folder).mkdir()
        Path(folder, "model.h5").write_bytes(Path(tiny).read_bytes())
        assert main(["generate", "--model", f"{folder}/model.h5", "--seconds", "0.1", "--seed", "7"]) == 0
        assert audio.tags(f"{folder}.wav")["title"] == f"{folder} 7"
    assert [weights.called(name) for name in ("techno", "model.h5", "mine/other.h5")] == ["techno", "model", "other"]


def test_without_a_seed_every_piece_is_new(tiny: str) -> None:
    for name in ("a.wav", "b.wav"):
        assert main(["generate", "--model", tiny, "--seconds", "0.1", "-o", name]) == 0
    assert Path("a.wav").read_bytes() != Path("b.wav").read_bytes()


def test_stdout_gets_audio_and_nothing_else(tiny: str) -> None:
    result = subprocess.run(
        everwave("generate", "--model", tiny, "--seconds", "0.5", "-o", "-"), capture_output=True, check=True
    )
    Path("piped.wav").write_bytes(result.stdout)
    assert len(samples("piped.wav")) == 22050
    assert b"times real time" in result.stderr


def test_spectrogram(tiny: str) -> None:
    assert main(["generate", "--model", tiny, "--seconds", "0.5", "--spectrogram", "out.png", "-o", "out.wav"]) == 0
    assert Path("out.png").read_bytes().startswith(b"\x89PNG")


def test_names_that_a_terminal_cannot_show(tiny: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = everwave("generate", "--model", tiny, "--seconds", "0.1", "-o", "音楽.flac")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("\\u97f3\\u697d.flac: 0.1 s of audio")


def test_models_and_curves_whose_names_are_no_text(steered: str, capsys: pytest.CaptureFixture[str]) -> None:
    if os.name == "nt":
        pytest.skip("names are text here")
    Path("t\udcff.h5").write_bytes(Path(steered).read_bytes())
    Path("c\udcff.csv").write_text("0,125\n")
    words = ["--model", "t\udcff.h5", "--bpm", "c\udcff.csv", "--seconds", "0.1"]
    for ending in ("wav", "flac"):
        assert main(["generate", *words, "-o", f"a.{ending}"]) == 0
        capsys.readouterr()
        assert main(["info", f"a.{ending}", "--json"]) == 0
        assert r"--bpm 'c\udcff.csv'" in json.loads(capsys.readouterr().out)["comment"]


def test_conditions(steered: str) -> None:
    for bpm in ("125", "155"):
        assert (
            main(["generate", "--model", steered, "--seed", "1", "--seconds", "0.2", "--bpm", bpm, "-o", f"{bpm}.wav"])
            == 0
        )
    Path("curve.csv").write_text("time,bpm\n0,125\n10,125\n")
    assert (
        main(["generate", "--model", steered, "--seed", "1", "--seconds", "0.2", "--bpm", "curve.csv", "-o", "c.wav"])
        == 0
    )
    np.testing.assert_array_equal(samples("125.wav"), samples("c.wav"))
    assert not np.array_equal(samples("125.wav"), samples("155.wav"))


def test_any_condition_is_set_by_its_name(steered: str, capsys: pytest.CaptureFixture[str]) -> None:
    generate = ["generate", "--model", steered, "--seconds", "0.3", "--seed", "1"]
    assert main([*generate, "--bpm", "125", "-o", "a.wav"]) == 0
    assert main([*generate, "--set", "bpm=125", "-o", "b.wav"]) == 0
    np.testing.assert_array_equal(samples("a.wav"), samples("b.wav"))
    capsys.readouterr()
    assert main(["info", "b.wav", "--json"]) == 0
    assert "--set bpm=125" in json.loads(capsys.readouterr().out)["comment"]
    for word, error in (
        ("bpm", "--set bpm: give a condition of the model (bpm) and its value"),
        ("=3", "give a condition"),
        ("seconds=3", "give a condition"),  # which is no condition
        ("bpm=300", "bpm=300: this model takes 120 to 160"),
    ):
        assert main([*generate, "--set", word, "-o", "c.wav"]) == 2
        assert error in capsys.readouterr().err
    assert not os.path.exists("c.wav")


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "opus", "mp3", "aiff"])
def test_a_file_says_how_to_make_it_again(
    tiny: str, steered: str, ending: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--seconds", "0.3", "--bpm", "125.5", "--style", "9", "--truncation", "1.5", "--start", "1"]
    assert main(["generate", "--model", steered, *options, "-o", f"a.{ending}"]) == 0
    capsys.readouterr()
    assert main(["info", f"a.{ending}", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    command = shlex.split(about["comment"], comments=True)
    assert command[:2] == ["everwave", "generate"]
    assert os.sep not in about["comment"]
    told = about["comment"] if ending == "mp3" else about["software"] + about["copyright"]  # MP3 has one text for all
    assert "everwave 0.1.0, weights " in told
    assert "CC0" in told
    assert about["seconds"] == pytest.approx(0.3, abs=0.05)
    first, again = Path(f"a.{ending}").absolute(), Path(f"again.{ending}").absolute()
    monkeypatch.chdir(Path(steered).parent)
    assert main([*command[1:], "-o", str(again)]) == 0
    np.testing.assert_array_equal(samples(again), samples(first))


@pytest.mark.parametrize("closed", ["2>&-", "| true", ">/dev/full"])
def test_output_that_nobody_takes(tiny: str, closed: str) -> None:
    """No traceback, not even at the interpreter's end, and the file is made."""
    if closed == ">/dev/full" and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    command = shlex.join(everwave("generate", "--model", tiny, "--seed", "1", "--seconds", "0.1", "-o", "a.wav"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} {closed}"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == (1 if closed == ">/dev/full" else 0), done.stderr
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr
    assert len(samples("a.wav")) == 4410


def test_what_was_said_before_an_error_is_not_lost(tiny: str) -> None:
    """Nor is it written twice. A pipe's lines wait in a buffer; the second piece fails."""
    program = """
import sys
from everwave import cli, pieces
from everwave.errors import EverwaveError

def write(model, options, output, seed, first=pieces.write):
    if seed == 2:
        raise EverwaveError("no more")
    first(model, options, output, seed)

pieces.write = write
sys.exit(cli.main(sys.argv[1:]))
"""
    words = f"generate --model {tiny} --seconds 0.1 --seed 1 --count 2 -o a.wav".split()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "everwave: error: no more\n")
    assert done.stdout.startswith("a-1.wav: 0.1 s of audio")
    assert done.stdout.count("a-1.wav") == 1


def test_of_a_curve_s_file_the_name_is_told_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pieces._without_folders("mine/curve.csv") == "curve.csv"
    assert pieces._without_folders("128") == pieces._without_folders(128) == "128"
    monkeypatch.setattr(pieces, "Path", PureWindowsPath)
    with monkeypatch.context() as windows:
        windows.setattr(os, "sep", "\\")
        told = [pieces._without_folders(f"C:{sep}Users{sep}me{sep}curve.csv") for sep in "/\\"]
    assert told == ["curve.csv", "curve.csv"]


def test_a_loop_without_a_tempo_is_refused(steered: str, capsys: pytest.CaptureFixture[str]) -> None:
    for bpm in ("0", "nan", "inf"):
        assert main(["generate", "--model", steered, "--loop", "--bpm", bpm, "-o", "a.wav"]) == 2
        assert "bpm" in capsys.readouterr().err


def test_what_is_no_file_is_not_read_or_replaced(tiny: str, steered: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe")
    assert main(["generate", "--model", steered, "--bpm", "pipe", "-o", "a.wav"]) == 2
    assert "neither a number nor a file" in capsys.readouterr().err
    os.mkfifo("pipe.png")
    generate = ["generate", "--model", tiny, "--seconds", "0.1", "-o", "a.wav", "--spectrogram", "pipe.png"]
    for command in (generate, ["bundle", tiny, "-o", "pipe"]):
        assert main(command) == 2
        assert "is a device or a pipe" in capsys.readouterr().err
    assert main(["encode", "pipe", "--model", tiny, "-o", "a.npy"]) == 1
    assert "is a pipe or a device" in capsys.readouterr().err


def test_a_loop_says_its_length(tiny: str, steered: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--model", tiny, "--seconds", "1", "--seed", "3", "--loop", "-o", "a.wav"]) == 0
    assert len(samples("a.wav")) == 44100
    assert "a loop of 44100 samples" in capsys.readouterr().out
    assert main(["generate", "--model", steered, "--seconds", "2", "--bpm", "125", "--loop", "-o", "b.flac"]) == 0
    assert "a loop of 84672 samples, 1 bar of 125.00 bpm" in capsys.readouterr().out
    assert len(samples("b.flac")) == 84672
    assert main(["generate", "--model", steered, "--bars", "2", "--bpm", "125", "--seed", "3", "-o", "c.wav"]) == 0
    assert "a loop of 169344 samples, 2 bars of 125.00 bpm" in capsys.readouterr().out
    assert main(["info", "c.wav"]) == 0
    again = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("comment"))
    assert "--bars 2 --bpm 125" in again
    assert "--seconds" not in again
    for wrong, message in ((["2", "--start", "8"], "--start 8.0 with a loop"), (["0"], "bars=0; it must be")):
        assert main(["generate", "--model", steered, "-o", "d.wav", "--bars", *wrong]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "--model", steered, "-o", "d.wav", "--bars", "2", "--seconds", "8"])
    assert "not allowed with argument" in capsys.readouterr().err
    assert not Path("d.wav").exists()


def test_a_stream_tells_a_terminal_its_seed(
    tiny: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Writer, block: np.ndarray) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Writer, "write", stop)
    assert main(["stream", "--model", tiny, "-o", "out.wav"]) == 130
    assert "seed" not in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["stream", "--model", tiny, "-o", "out.wav", "--seed", "12"]) == 130
    assert "seed 12\n" in capsys.readouterr().err


def test_a_stream_that_ended_can_be_made_again_by_what_info_says(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(
        everwave("stream", "--model", tiny, "--seed", "7", "-o", "s.wav"), stderr=subprocess.PIPE
    ) as process:
        while not any(path.stat().st_size > 300_000 for path in Path().glob(".s.wav.*")):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
    assert main(["info", "s.wav", "--json"]) == 0
    command = shlex.split(json.loads(capsys.readouterr().out)["comment"])
    assert command[:2] == ["everwave", "generate"]
    command[command.index("--model") + 1] = tiny  # folders are left out
    assert main([*command[1:], "-o", "again.wav"]) == 0
    np.testing.assert_array_equal(samples("again.wav"), samples("s.wav"))


def test_playing_without_a_sound_card_says_why(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("sounddevice"):
        pytest.skip("sounddevice is installed here")
    assert main(["stream", "--model", tiny, "--play"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install sounddevice" in line


def test_the_sound_card_gets_every_block_and_is_asked_to_hold_some(monkeypatch: pytest.MonkeyPatch) -> None:
    played, asked = [], {}

    class Card:
        def __init__(self, **options: object) -> None:
            asked.update(options)

        def __enter__(self) -> Card:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def write(self, block: np.ndarray) -> bool:
            played.append(block)
            return len(played) == 2  # had run dry

    stub = SimpleNamespace(OutputStream=Card, PortAudioError=type("PortAudioError", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "sounddevice", stub)
    blocks = [np.full((n, 2), n, np.float32) for n in (3, 1, 2)]
    assert playing.play(iter(blocks), 44100) == 1
    np.testing.assert_array_equal(np.concatenate(played), np.concatenate(blocks))
    assert asked == {"samplerate": 44100, "channels": 2, "dtype": "float32", "latency": playing.BUFFER_SECONDS}


# -- the other commands ------------------------------------------------------------------------------------------------


def test_encode_and_decode(tiny: str) -> None:
    main(["generate", "--model", tiny, "--seconds", "1", "--seed", "1", "-o", "in.wav"])
    assert main(["encode", "in.wav", "--model", tiny, "-o", "in.npy"]) == 0
    latents = np.load("in.npy")
    assert latents.shape == (-(-(44100 + 192) // 1024), 32)
    assert main(["decode", "in.npy", "--model", tiny, "-o", "out.wav"]) == 0
    assert len(samples("out.wav")) == 44100
    assert main(["encode", "in.wav", "--model", tiny, "-o", "in.h5"]) == 0
    assert main(["decode", "in.h5", "--model", tiny, "-o", "again.wav"]) == 0
    assert Path("again.wav").read_bytes() == Path("out.wav").read_bytes()


def test_bench_prints_the_keys_of_the_contract(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--preset", "tiny", "--random-weights", "--seconds", "2", "--threads", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == BENCH_KEYS | {"memory_mb", "cpu_seconds"}
    assert result["audio_seconds"] == 2
    assert result["threads"] == 2
    assert result["times_real_time"] == pytest.approx(1 / result["real_time_factor"], rel=1e-2)
    assert 0 < result["first_audio_seconds"] <= result["wall_seconds"]
    assert {"generator", "chunk_decoder", "frame_decoder", "signal", "write"} <= set(result["stages"])
    assert all(seconds > 0 for seconds in result["stages"].values())


def test_bench_surveys_every_path(
    tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from everwave.kernels import paths

    monkeypatch.delenv("EVERWAVE_PATH")
    fastest = paths.choose("float32")  # one is enough: each is compiled
    monkeypatch.setattr(paths, "available", lambda: (fastest,))
    assert main(["bench", "--model", tiny, "--seconds", "1", "--threads", "2", "--precision", "float32"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    runs = [row for row in rows if len(row) == 8][1:]
    assert [(row[0].strip("| "), row[2]) for row in runs] == [(fastest.name, "2"), (fastest.name, "1")]
    for row in runs:
        assert float(row[3]) > 0
        assert float(row[5]) > 0
        assert 0 < float(row[6].rstrip("%")) < 130
    assert {"generator", "frame_decoder", "signal"} <= {row[0].strip("| ") for row in rows if len(row) == 3}
    assert os.environ.get("EVERWAVE_PATH") is None


def test_bench_where_memory_is_not_told_and_the_clock_is_slow(
    tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Windows: no /proc, no getrusage, and threads' clocks tick in 16 ms; here in a second."""
    from everwave.kernels import paths

    thread_time = time.thread_time
    monkeypatch.setattr(time, "thread_time", lambda: math.floor(thread_time()))
    monkeypatch.setattr(bench, "status_mb", lambda name: math.nan)
    monkeypatch.setitem(sys.modules, "resource", None)
    assert main(["bench", "--preset", "tiny", "--random-weights", "--seconds", "0.1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert result["peak_rss_mb"] is result["memory_mb"] is None
    monkeypatch.delenv("EVERWAVE_PATH")
    fastest = paths.choose("float32")
    monkeypatch.setattr(paths, "available", lambda: (fastest,))
    assert main(["bench", "--model", tiny, "--seconds", "0.1", "--threads", "1", "--precision", "float32"]) == 0
    assert capsys.readouterr().out.count("| - | - | - |") == 1
    assert bench._peak(fastest) > 0


def test_bench_compare_runs_the_contenders_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "COMPARISON", ("--rounds", "1", "--only", "everwave-float32", "--output", str(tmp_path)))
    how = ["--preset", "tiny", "--random-weights", "--seconds", "1", "--threads", "1"]
    assert main(["bench", *how, "--compare"]) == 0
    assert "everwave, the whole job" in capfd.readouterr().out
    assert len(list(tmp_path.glob("*.json"))) == 1
    assert main(["bench", "--compare"]) == 2


def test_the_seconds_of_a_file_are_told_in_full(tiny: str) -> None:
    options = cli.parser(cli.COMMANDS).parse_args(
        ["generate", "--model", tiny, "--seconds", "1234.5678", "-o", "a.wav"]
    )
    assert "--seconds 1234.5678 " in pieces.tags(load(tiny), options, 1)["comment"]


def test_info(steered: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", steered]) == 0
    output = capsys.readouterr().out
    for part in ("config", "parameters", "bpm", "licence", "provenance"):
        assert part in output
    assert main(["info", steered, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conditions"][0]["name"] == "bpm"
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"models": weights.available()}


def test_bundle(tiny: str) -> None:
    """A generator and the autoencoder that it names, joined, are the bundle that they came from."""
    whole = weights.read(tiny)
    autoencoder = {name: whole.parameters[name] for name in AUTOENCODER}
    weights.write("autoencoder.h5", replace(whole, kind="autoencoder", parameters=autoencoder))
    named = {"file": "autoencoder.h5", "sha256": weights.digest(Path("autoencoder.h5"))}
    generator = {"generator": whole.parameters["generator"]}
    weights.write("domain.h5", replace(whole, kind="domain", parameters=generator, autoencoder=named))
    assert main(["bundle", "domain.h5", "-o", "one.h5"]) == 0
    os.remove("autoencoder.h5")
    for model, name in ((tiny, "a.wav"), ("one.h5", "b.wav")):
        assert main(["generate", "--model", model, "--seed", "1", "--seconds", "0.2", "-o", name]) == 0
    assert np.array_equal(samples("a.wav"), samples("b.wav"))


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="Numba is not installed")
def test_warmup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["warmup"]) == 0
    assert capsys.readouterr().out == "networks run in NumPy here, without kernels\n"
    monkeypatch.delenv("EVERWAVE_PATH")
    monkeypatch.setattr("everwave.model.warm_up", lambda threads: ["float32"])
    assert main(["warmup"]) == 0
    assert capsys.readouterr().out.startswith("kernels ready for float32 in ")


def test_warmup_of_a_path_that_there_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERWAVE_PATH", "nonsense")
    assert main(["warmup"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "nonsense" in output.err


WARM = """
import numpy as np
from dataclasses import replace
from everwave import kernels, weights
from everwave.config import PRESETS
from everwave.model import Model, warm_up

warm_up()
known = set(kernels.run.compiled)
file = weights.random_model(PRESETS["tiny"])
for dtype in (np.float16, np.float32):
    parameters = {n: {k: (v * np.float32(1.01)).astype(dtype) for k, v in p.items()} for n, p in file.parameters.items()}
    model = Model.from_parts(replace(file, parameters=parameters))
    model.encode(model.generate(0.1), model.sample_rate)
assert known and set(kernels.run.compiled) == known, set(kernels.run.compiled) - known
"""


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="Numba is not installed")
def test_nothing_is_left_to_compile_after_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERWAVE_PATH")
    subprocess.run([sys.executable, "-c", WARM], check=True)


TERMINAL = """
import sys
sys.stderr.isatty = lambda: True
from everwave.cli import main
from everwave.kernels import native
compile = native.Kernel._compile
def one(self, kinds):
    assert self.name == "fill_normals", "it is enough"
    print("now", file=sys.stderr)
    return compile(self, kinds)
native.Kernel._compile = one
main(["generate", "--model", "{model}", "--seconds", "0.1", "-o", "out.wav"])
"""


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="Numba is not installed")
def test_a_terminal_is_told_before_kernels_are_compiled(tiny: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "EVERWAVE_PATH"}
    code = TERMINAL.format(model=tiny)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"NUMBA_CACHE_DIR": str(tmp_path / "empty")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    first, second, *_ = done.stderr.splitlines()
    assert "compiling kernels, once for this machine and version" in first
    assert second == "now"
    assert done.stderr.count("compiling") == 1


def test_a_checkpoint_of_musika(capsys: pytest.CaptureFixture[str]) -> None:
    golden = Path(__file__).parents[3] / "shared" / "golden" / "musika_small"
    if not golden.is_dir():
        pytest.skip("../shared/golden, the original's own files, is not here")
    assert main(["import-musika", str(golden), "--autoencoder", str(golden), "-o", "golden.h5"]) == 0
    assert main(["generate", "--model", "golden.h5", "--seconds", "0.2", "-o", "out.wav"]) == 0
    assert len(samples("out.wav")) == 8820


def test_stream_until_the_reader_leaves(tiny: str) -> None:
    process = subprocess.Popen(
        everwave("stream", "--model", tiny, "--seed", "7", "--format", "raw"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    streamed = np.frombuffer(process.stdout.read(44100 * 8), "<f4").reshape(-1, 2)
    process.stdout.close()
    assert process.wait(30) == 0
    assert process.stderr.read() == b""
    process.stderr.close()
    main(["generate", "--model", tiny, "--seed", "7", "--seconds", "1", "-o", "out.wav"])
    np.testing.assert_allclose(samples("out.wav"), streamed, atol=2e-4)  # 16 bits


@pytest.mark.parametrize(
    ("number", "says", "ending"),
    [
        (signal.SIGINT, "interrupted", "wav"),
        (signal.SIGTERM, "stopped by SIGTERM", "flac"),
        (signal.SIGHUP, "stopped by SIGHUP", "ogg"),
    ],
)
def test_signals_leave_a_valid_file(tiny: str, number: signal.Signals, says: str, ending: str) -> None:
    process = subprocess.Popen(
        everwave("generate", "--model", tiny, "--seed", "7", "--seconds", "2000", "-o", f"out.{ending}"),
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while (
        process.poll() is None
        and sum(p.stat().st_size for p in Path().iterdir()) < 500_000
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert (error.decode().splitlines(), process.returncode) == ([f"everwave: {says}"], 128 + number)
    assert os.listdir() == [f"out.{ending}"]
    kept = samples(f"out.{ending}")
    assert len(kept) > 44100
    main(["generate", "--model", tiny, "--seed", "7", "--seconds", "1", "-o", "start.wav"])
    assert np.abs(kept[:44100] - samples("start.wav")).mean() <= (0.03 if ending == "ogg" else 0)


# -- bad use -------------------------------------------------------------------------------------------------------------

BAD_USE = {
    "negative length": "generate --model TINY --seconds -5 -o out.wav",
    "length of nothing": "generate --model TINY --seconds 0 -o out.wav",
    "length NaN": "generate --model TINY --seconds nan -o out.wav",
    "length without end": "generate --model TINY --seconds inf -o out.wav",
    "length that is no number": "generate --model TINY --seconds long -o out.wav",
    "huge length": "generate --model TINY --seconds 1e15 -o out.wav",
    "negative seed": "generate --model TINY --seed -1 -o out.wav",
    "seed of 65 bits": "generate --model TINY --seed 18446744073709551616 -o out.wav",
    "truncation 9": "generate --model TINY --truncation 9 -o out.wav",
    "negative start": "generate --model TINY --start -1 -o out.wav",
    "no threads": "generate --model TINY --threads 0 -o out.wav",
    "unknown precision": "generate --model TINY --precision int4 -o out.wav",
    "count 0": "generate --model TINY --count 0 -o out.wav",
    "two pieces to stdout": "generate --model TINY --count 2 -o -",
    "condition the model lacks": "generate --model TINY --bpm 120 -o out.wav",
    "condition out of range": "generate --model STEERED --bpm 500 -o out.wav",
    "condition NaN": "generate --model STEERED --bpm nan -o out.wav",
    "condition of a missing file": "generate --model STEERED --bpm missing.csv -o out.wav",
    "unknown format": "generate --model TINY --seconds 1 -o out.xyz",
    "unknown option": "generate --speed 3",
    "unknown command": "sing",
    "no command": "",
    "encode without output": "encode in.wav",
    "several recordings in one .npy": "encode a.wav b.wav --model TINY -o out.npy",
    "preset without random weights": "bench --preset tiny",
    "a preset and a model": "bench --model TINY --preset tiny --random-weights",
    "no threads to warm up": "warmup --threads 0",
    "a picture that is no PNG": "generate --model TINY --seconds 1 --spectrogram out.jpg -o out.wav",
    "a format by another name": "stream --model TINY --format wav -o out.flac",
    "bare samples by another name": "stream --model TINY --format raw -o out.flac",
    "a condition that is given twice": "generate --model STEERED --seconds 1 --bpm 130 --set bpm=140 -o out.wav",
    "a condition that is set twice": "generate --model STEERED --seconds 1 --set bpm=130 --set bpm=140 -o out.wav",
    "too many pieces": "generate --model TINY --seconds 1 --count 100000000 -o out.wav",
    "bench of no seconds": "bench --preset tiny --random-weights --seconds 0",
    "missing model": "generate --model missing.h5 --seconds 1 -o out.wav",
    "unknown model": "generate --model no-such-name --seconds 1 -o out.wav",
    "bundle of a missing model": "bundle missing.h5 -o out.h5",
    "bench of a missing model": "bench --model missing.h5",
    "a name that is empty": "generate --model TINY --seconds 1 -o=",
    "a picture without a name": "generate --model TINY --seconds 1 --spectrogram= -o out.wav",
    "latents of other sizes": "decode foreign.npy --model TINY -o out.wav",
    "seeds beyond the last": "generate --model TINY --seconds 1 --seed 18446744073709551615 --count 2 -o out.wav",
}

FAILURES = {
    "decode of nothing": "decode missing.npy --model TINY -o out.wav",
    "truncated model": "generate --model TRUNCATED --seconds 1 -o out.wav",
    "model that is text": "info garbage.wav",
    "unreadable audio": "encode garbage.wav --model TINY -o out.npy",
    "an MP3 that is none": "encode garbage.mp3 --model TINY -o out.npy",
    "missing audio": "encode missing.wav --model TINY -o out.npy",
    "latents of garbage": "decode garbage.npy --model TINY -o out.wav",
    "pickled latents": "decode pickled.npy --model TINY -o out.wav",
    "latents of a wrong shape": "decode wrong.npy --model TINY -o out.wav",
    "more than the disk holds": "generate --model TINY --seconds 2592000 -o out.wav",
    "missing checkpoint": "import-musika missing --autoencoder missing -o out.h5",
}

OUTPUTS = {
    "generate": "generate --model TINY --seconds 1 -o OUT.wav",
    "generate as libsndfile writes it": "generate --model TINY --seconds 1 -o OUT.flac",
    "a picture": "generate --model TINY --seconds 1 --spectrogram OUT.png -o out.wav",
    "stream": "stream --model TINY -o OUT.wav",
    "encode": "encode good.wav --model TINY -o OUT.npy",
    "encode into HDF5": "encode good.wav --model TINY -o OUT.h5",
    "decode": "decode good.npy --model TINY -o OUT.wav",
    "bundle": "bundle TINY -o OUT.h5",
    "import-musika": "import-musika --autoencoder missing -o OUT.h5",
}


def run_bad(
    command: str, tiny: str, steered: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> int:
    """The exit code; asserts that there is one clear line and that nothing was written."""
    Path("garbage.wav").write_text("this is no audio and no model, only text, " * 20)
    Path("garbage.mp3").write_text("no music")
    Path("garbage.npy").write_bytes(b"\x93NUMPY but not really")
    Path("folder.wav").mkdir()
    np.save("pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save("wrong.npy", np.zeros((3, 7), np.float32))
    np.save("good.npy", np.zeros((3, 4), np.float32))
    np.save("foreign.npy", np.zeros((3, 4), np.float32))
    about = {"sample_rate": 44100, "frames": 44100, "channels": 2, "autoencoder": "0" * 64, "pooled": ""}
    Path("foreign.npy.json").write_text(json.dumps(about))
    soundfile.write("good.wav", np.zeros((4410, 2)), 44100)
    Path("truncated.h5").write_bytes(Path(tiny).read_bytes()[:5000])
    monkeypatch.setattr("shutil.disk_usage", lambda _: (10**10, 10**10, 10**9))
    before = sorted(Path().rglob("*"))
    command = command.replace("TINY", tiny).replace("STEERED", steered).replace("TRUNCATED", "truncated.h5")
    try:
        code = main(command.split())
    except SystemExit as stop:
        code = int(stop.code or 0)
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1, output.err
    assert output.err.startswith("everwave: error: ")
    assert "Traceback" not in output.err
    assert "File does not exist" not in output.err  # what libsndfile says of files that do
    assert sorted(Path().rglob("*")) == before
    return code


@pytest.mark.parametrize("case", BAD_USE)
def test_bad_use(
    case: str, tiny: str, steered: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_bad(BAD_USE[case], tiny, steered, capsys, monkeypatch) == 2


@pytest.mark.parametrize("case", OUTPUTS)
@pytest.mark.parametrize("out", ["missing/out", "folder", "garbage.wav/out", "x" * 300])
def test_outputs_that_cannot_be_written_are_bad_use(
    case: str, out: str, tiny: str, steered: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for ending in ("npy", "h5", "png", "flac"):
        Path(f"folder.{ending}").mkdir()
    assert run_bad(OUTPUTS[case].replace("OUT", out), tiny, steered, capsys, monkeypatch) == 2


def test_every_output_is_checked_before_the_first_piece(
    tiny: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a-2.wav").mkdir()
    monkeypatch.setattr(Model, "prepare", lambda _: pytest.fail("kernels were compiled"))
    for command, said in (("--count 2 -o a.wav", "a-2.wav: is a folder"), ("-o b.xyz", "unknown format 'xyz'")):
        assert main(["generate", "--model", tiny, "--seconds", "0.1", *command.split()]) == 2
        assert said in capsys.readouterr().err
    assert os.listdir() == ["a-2.wav"]


@pytest.mark.parametrize("case", FAILURES)
def test_failures(
    case: str, tiny: str, steered: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_bad(FAILURES[case], tiny, steered, capsys, monkeypatch) in (1, 2)


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_bar_on_a_terminal_that_does_not_say_its_size(tiny: str) -> None:
    ours, theirs = os.openpty()  # of no columns and no lines, as nobody has set them
    command = [sys.executable, "-m", "everwave", "generate", "--model", tiny, "--seconds", "1", "-o", "out.wav"]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=theirs, check=True)
    os.close(theirs)
    with open(ours, "rb", buffering=0) as terminal:
        assert b"0%|" in terminal.read(4096)


def test_what_a_library_makes_of_a_signal_is_a_signal(capsys: pytest.CaptureFixture[str]) -> None:
    def import_that_is_interrupted() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("PLEASE READ THIS") from None

    assert commands.run("everwave", import_that_is_interrupted) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "everwave: stopped by SIGTERM\n"


def test_a_reader_that_leaves_on_windows_is_no_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*name: str) -> None:
        raise OSError(errno.EINVAL, "Invalid argument", *name)

    assert commands.run("everwave", refused) == 1
    monkeypatch.setattr(errors, "os", SimpleNamespace(name="nt"))
    assert "Invalid argument" in capsys.readouterr().err
    assert commands.run("everwave", refused) == 0
    assert capsys.readouterr().err == ""
    assert commands.run("everwave", lambda: refused("a?.wav")) == 1  # that is about a file


def test_an_unknown_option_is_the_command_s_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "--nosuch", "1"])
    line = "everwave: error: unrecognized arguments: --nosuch 1; see `everwave generate --help`\n"
    assert capsys.readouterr().err == line


def test_debug_shows_where(tiny: str) -> None:
    with pytest.raises(ValueError, match="seconds="):
        main(["generate", "--debug", "--model", tiny, "--seconds", "-1", "-o", "out.wav"])


def test_a_full_disk_leaves_nothing(
    tiny: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the middle of writing, unlike Ctrl-C, removes what was written."""
    from everwave.audio import Writer

    written = Writer.write

    def failing(self: Writer, block: np.ndarray) -> None:
        written(self, block)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Writer, "write", failing)
    assert main(["generate", "--model", tiny, "--seconds", "2", "-o", "out.wav"]) == 1
    assert "No space left" in capsys.readouterr().err
    assert os.listdir() == []
