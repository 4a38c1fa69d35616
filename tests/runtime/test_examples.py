"""The examples, run as a reader would run them, with a small model and little time."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import everwave
import numpy as np
import pytest
from everwave import audio, weights
from everwave.config import PRESETS

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "tiny.h5"
    weights.write(path, weights.random_model(PRESETS["tiny"], seed=1))
    return str(path)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EVERWAVE_PATH", "numpy")
    monkeypatch.setenv("PYTHONPATH", str(Path(everwave.__file__).parents[1]))
    monkeypatch.chdir(tmp_path)


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_every_example_is_run_here() -> None:
    assert {p.name for p in EXAMPLES.glob("*.py")} == {"radio.py", "game_music.py", "batch.py", "search.py"}


def test_radio(tiny: str) -> None:
    command = [sys.executable, str(EXAMPLES / "radio.py"), "--model", tiny, "--minute", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        heard = process.stdout.read(80 + 4 * 44100 * 4)  # a header and four seconds
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(120)
    samples = np.frombuffer(heard[80:], "<i2").reshape(-1, 2) / 32768
    plain = everwave.load(tiny).generate(4.0, seed=7)
    np.testing.assert_allclose(samples[:44100], plain[:44100], atol=3.1e-5)
    assert not np.allclose(samples[3 * 44100 :], plain[3 * 44100 :], atol=1e-2)  # other styles
    lines = [line for line in (EXAMPLES / "radio.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= 20


def test_game_music(tiny: str) -> None:
    assert "changes of intensity" in run("game_music.py", "--model", tiny, "--seconds", "12", "-o", "game.wav")
    samples, rate = audio.read("game.wav")
    assert len(samples) == 12 * rate
    loudness = [np.abs(samples[i * rate :][: 2 * rate]).mean() for i in (0, 9)]
    assert loudness[1] > 1.5 * loudness[0]  # it is tense around the tenth second


def test_batch(tiny: str) -> None:
    options = ("--model", tiny, "--count", "12", "--seconds", "0.2", "-o", "pieces")
    assert "12 pieces made" in run("batch.py", *options)
    os.remove("pieces/0000007.flac")
    assert "1 pieces made, 11 were there" in run("batch.py", *options)
    assert "0 pieces made, 3 were there" in run("batch.py", *options, "--count", "3")
    assert "0 pieces made, 12 were there" in run("batch.py", *options)
    with open("pieces/pieces.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == sorted(p.name for p in Path("pieces").glob("*.flac"))
    expected = everwave.load(tiny).generate(0.2, seed=11, style=1)
    np.testing.assert_allclose(audio.read("pieces/0000011.flac")[0], expected, atol=3.1e-5)


def test_a_batch_that_is_interrupted_leaves_no_fragment(tiny: str) -> None:
    command = [sys.executable, str(EXAMPLES / "batch.py"), "--model", tiny, "--seconds", "3000", "-o", "deep/pieces"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not sum(p.stat().st_size for p in Path("deep").rglob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "run it again" in process.communicate(timeout=60)[1]
    assert os.listdir("deep/pieces") == []


@pytest.mark.parametrize(
    "words",
    [
        ["batch.py", "--model", "missing.h5"],
        ["batch.py", "--count", "1", "-o", "file/pieces"],
        ["search.py", "folder", "missing.wav"],
        ["search.py", "missing", "missing.wav"],
    ],
)
def test_bad_paths_are_one_line(tiny: str, words: list[str]) -> None:
    Path("file").touch()
    Path("folder").mkdir()
    with audio.Writer("folder/a.wav", 44100) as writer:
        writer.write(np.zeros((4410, 2), np.float32))
    model = [] if "--model" in words else ["--model", tiny]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / words[0]), *words[1:], *model], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_search(tiny: str) -> None:
    Path("folder").mkdir()
    Path("folder/broken.flac").write_text("no music")
    Path("folder/b.wav").mkdir()
    time = np.arange(44100)[:, None] / 44100 * [1, 1]
    for hertz in (110, 440, 1760, 7040):
        with audio.Writer(f"folder/{hertz}.flac", 44100) as writer:
            writer.write((0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32))
    with audio.Writer("query.wav", 44100) as writer:
        writer.write((0.3 * np.sin(2 * np.pi * 1700 * time)).astype(np.float32))
    found = run("search.py", "folder", "query.wav", "--model", tiny, "--count", "4").splitlines()
    assert len(found) == 4
    assert "1760.flac" in found[0]
