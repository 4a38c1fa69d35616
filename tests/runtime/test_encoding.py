"""`encode` and `decode` as tools: which files, what is kept, what goes wrong, and that nothing is lost on the way."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import unicodedata
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from signal import SIGINT, raise_signal
from types import SimpleNamespace

import everwave
import h5py
import numpy as np
import pytest
import soundfile
from everwave import audio, latent_files, latent_hdf5, signal, weights
from everwave.audio import resample
from everwave.cli import main
from everwave.config import DECODER_LATENTS, AutoencoderConfig, Config, SignalConfig
from everwave.errors import AudioError, EverwaveError, UsageError
from everwave.model import Model
from everwave.pipeline import SEGMENT_WINDOWS
from everwave.pooling import STATISTIC, pool

Array = np.ndarray


@pytest.fixture(autouse=True)
def _fast_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EVERWAVE_PATH", "numpy")  # no compilation
    monkeypatch.setenv("EVERWAVE_THREADS", "2")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(smallest_model: weights.ModelFile, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A path; latents are 256 samples apart and have 2 channels a side."""
    path = tmp_path_factory.mktemp("model") / "smallest.h5"
    weights.write(path, smallest_model)
    return str(path)


def noise(seconds: float, rate: int = 44100, channels: int = 2, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.5, 0.5, (round(seconds * rate), channels)).astype(np.float32)


def write(name: str, seconds: float = 0.1, rate: int = 44100, channels: int = 2, seed: int = 0) -> Array:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(name, noise(seconds, rate, channels, seed), rate)
    return soundfile.read(name, dtype="float32", always_2d=True)[0]


def about(path: str) -> dict[str, object]:
    return json.loads(Path(f"{path}.json").read_text())


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    return output.err.splitlines()


# -- round trips ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "channels", "seconds"),
    [
        (8000, 1, 0.1),
        (22050, 2, 0.37),
        (44100, 1, 0.37),
        (44100, 6, 0.1),
        (48000, 1, 0.1),
        (48000, 2, 0.37),
        (96000, 2, 0.1),
    ],
)
def test_seconds_and_channels_come_back(model: str, rate: int, channels: int, seconds: float) -> None:
    frames = len(write("in.wav", seconds, rate, channels))
    assert main(["encode", "in.wav", "--model", model, "-o", "in.npy"]) == 0
    assert main(["encode", "in.wav", "--model", model, "-o", "in.h5"]) == 0
    assert main(["decode", "in.npy", "--model", model, "-o", "a.wav"]) == 0
    assert main(["decode", "in.h5", "--model", model, "-o", "b.wav"]) == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()
    back = soundfile.info("a.wav")
    assert (back.samplerate, back.channels) == (44100, min(channels, 2))
    assert back.frames == -(-frames * 44100 // rate)


def test_what_is_known_goes_with_the_latents(model: str) -> None:
    frames = len(write("in.flac", 0.2, 48000, 1))
    assert main(["encode", "in.flac", "--model", model, "-o", "in.npy"]) == 0
    assert main(["encode", "in.flac", "--model", model, "-o", "in.h5"]) == 0
    expected = {
        "sample_rate": 44100,
        "frames": 8820,
        "channels": 1,
        "latents_per_second": 44100 / 256,
        "source": os.path.abspath("in.flac"),
        "source_sample_rate": 48000,
        "source_channels": 1,
        "source_frames": frames,
        "source_modified": Path("in.flac").stat().st_mtime_ns,
        "autoencoder": weights.reference(model)["sha256"],
        "pooled": "",
    }
    assert about("in.npy") == expected
    with h5py.File("in.h5") as file:
        assert latent_hdf5._attributes(file["in"]) == expected
        assert file["in"].attrs["source"].decode() == os.path.abspath("in.flac")
        assert file["in"].dtype == np.float32
        np.testing.assert_array_equal(file["in"][()], np.load("in.npy"))
        assert {"format", "sample_rate", "latents_per_second"} <= set(file.attrs)


def test_files_streams_and_arrays_give_the_same_latents(model: str) -> None:
    samples = write("in.wav", 3.0, 32000)
    loaded = everwave.load(model)
    latents = loaded.encode(samples, 32000)
    np.testing.assert_array_equal(loaded.encode_file("in.wav"), latents)
    np.testing.assert_array_equal(loaded.encode(iter(np.array_split(samples, 7)), 32000), latents)
    assert main(["encode", "in.wav", "--model", model, "-o", "in.npy"]) == 0
    np.testing.assert_array_equal(np.load("in.npy"), latents)
    np.testing.assert_array_equal(np.load("in.npy", mmap_mode="r"), latents)


@pytest.mark.parametrize("ending", ["wav", "mp3", "ogg"])
def test_files_that_are_open(model: str, ending: str) -> None:
    """As uploads are, and pipes, which cannot seek."""
    write(f"in.{ending}", 3.0, 32000)
    loaded, content = everwave.load(model), Path(f"in.{ending}").read_bytes()
    latents, vector = loaded.encode_file(f"in.{ending}"), loaded.embed(f"in.{ending}")
    with tempfile.SpooledTemporaryFile() as upload, open(f"in.{ending}", "rb") as file:
        upload.write(content)
        upload.seek(0)
        np.testing.assert_array_equal(loaded.encode_file(upload), latents)
        np.testing.assert_array_equal(loaded.embed(file), vector)
    with subprocess.Popen(["cat", f"in.{ending}"], stdout=subprocess.PIPE) as cat:
        np.testing.assert_array_equal(loaded.encode_file(cat.stdout), latents)
    with pytest.raises(AudioError, match=r"audio: .*cut off"):
        loaded.embed(io.BytesIO(content[: len(content) // 2]))
    with (
        open(f"in.{ending}", encoding="latin-1") as text,
        pytest.raises(AudioError, match=rf"in\.{ending}: reads as str"),
    ):
        loaded.embed(text)


def test_a_stream_of_samples_is_no_file(model: str) -> None:
    with pytest.raises(AudioError, match="audio: reads as ndarray, not bytes"):
        everwave.load(model).embed(SimpleNamespace(read=lambda size: np.zeros((size, 2))))


def test_an_array_alone_is_decoded_whole(model: str) -> None:
    np.save("bare.npy", np.zeros((5, 4)))
    assert main(["decode", "bare.npy", "--model", model, "-o", "out.wav"]) == 0
    assert soundfile.info("out.wav").frames == 5 * 256


def test_what_does_not_fit_its_latents_is_refused(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("in.wav")
    main(["encode", "in.wav", "--model", model, "-o", "in.npy"])
    known = about("in.npy")
    for change in ({"frames": 10**9}, {"channels": 7}, {"sample_rate": 48000}, {"frames": "all"}):
        Path("in.npy.json").write_text(json.dumps({**known, **change}))
        assert main(["decode", "in.npy", "--model", model, "-o", "out.wav"]) == 1
        assert len(lines(capsys)) == 1
    assert not Path("out.wav").exists()


def test_latents_of_another_autoencoder_are_warned_of(
    model: str, smallest_model: weights.ModelFile, capsys: pytest.CaptureFixture[str]
) -> None:
    write("in.wav")
    main(["encode", "in.wav", "--model", model, "-o", "in.npy"])
    weights.write("other.h5", weights.random_model(smallest_model.config, seed=2))
    assert main(["decode", "in.npy", "--model", model, "-o", "out.wav"]) == 0
    assert lines(capsys) == []
    assert main(["decode", "in.npy", "--model", "other.h5", "-o", "out.wav"]) == 0
    assert lines(capsys) == [
        "everwave: warning: in.npy was made by another autoencoder than other.h5; it may sound like noise"
    ]


def test_notes_of_libraries_are_not_ours(model: str) -> None:
    """libmpg123 comments on a damaged MP3 straight to the standard error."""
    soundfile.write("in.mp3", noise(1.0), 44100, format="MP3")
    data = Path("in.mp3").read_bytes()
    Path("in.mp3").write_bytes(data[: len(data) // 2] + b"\0" * 900 + data[len(data) // 2 + 500 :])
    Path("text.mp3").write_text("no music")
    for words, said in (
        (["encode", "in.mp3", "--model", model, "-o", "out.npy"], "in.mp3: cut off"),
        (["info", "text.mp3"], "text.mp3: cannot be read as audio"),
    ):
        done = subprocess.run([sys.executable, "-m", "everwave", *words], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"everwave: error: {said}")


# -- which files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def album() -> list[str]:
    """Names of the latents of what is in the folder `album`."""
    for i, name in enumerate(["b.wav", "a.flac", "side/a.ogg", "side/deep/c.wav", ".hidden.wav"]):
        write(f"album/{name}", seed=i)
    Path("album/cover.txt").write_text("no audio")
    return ["a", "b", "side/a", "side/deep/c"]


def test_a_folder_keeps_its_shape(model: str, album: list[str]) -> None:
    assert main(["encode", "album", "--model", model, "-o", "latents"]) == 0
    assert sorted(str(p) for p in Path("latents").rglob("*.npy")) == [f"latents/{name}.npy" for name in album]
    assert main(["encode", "album", "--model", model, "-o", "latents.h5"]) == 0
    with h5py.File("latents.h5") as file:
        for name in album:
            np.testing.assert_array_equal(file[name][()], np.load(f"latents/{name}.npy"))
    assert main(["decode", "latents.h5", "--item", "side/a", "--model", model, "-o", "out.wav"]) == 0


def test_globs(model: str, album: list[str]) -> None:
    assert main(["encode", "album/**/*.wav", "--model", model, "-o", "latents"]) == 0
    assert sorted(str(p) for p in Path("latents").rglob("*.npy")) == ["latents/b.npy", "latents/side/deep/c.npy"]


def test_stdin(model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write("in.wav")
    main(["encode", "in.wav", "--model", model, "-o", "in.npy"])
    for _ in range(2):  # never taken for finished
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(Path("in.wav").read_bytes())))
        assert main(["encode", "-", "--model", model, "-o", "piped.npy"]) == 0
        assert sys.stdin.buffer.read() == b""
    np.testing.assert_array_equal(np.load("piped.npy"), np.load("in.npy"))
    assert about("piped.npy")["source"] == "stdin"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"no audio")))
    assert main(["encode", "-", "--model", model, "-o", "bad.npy"]) == 1
    assert [line for line in lines(capsys) if line.startswith("everwave: error: stdin: cannot be read")]


def test_stdin_where_an_open_file_is_its_owners_alone(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows: what NamedTemporaryFile has open nobody opens again."""
    real = tempfile.NamedTemporaryFile

    def exclusive(**options: object) -> object:
        file = real(**options, delete=False)
        os.remove(file.name)
        return file

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", exclusive)
    write("in.wav")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(Path("in.wav").read_bytes())))
    assert main(["encode", "-", "--model", model, "-o", "piped.npy"]) == 0


@pytest.mark.parametrize("output", ["latents", "latents.h5"])
def test_bad_files_are_reported_and_the_others_encoded(
    model: str, album: list[str], output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("album/garbage.wav").write_text("no audio at all " * 30)
    data = Path("album/b.wav").read_bytes()
    Path("album/cut.wav").write_bytes(data[:-1000])
    soundfile.write("album/nan.wav", np.array([[0.1], [np.nan]] * 3000), 44100, subtype="FLOAT")
    soundfile.write("album/loud.wav", np.full((3000, 1), 1e30), 44100, subtype="FLOAT")
    soundfile.write("album/empty.wav", np.zeros((0, 2)), 44100)
    soundfile.write("album/silent.wav", np.zeros((3000, 2)), 44100)
    assert main(["encode", "album", "missing.wav", "*.xyz", "--model", model, "-o", output]) == 1
    said = lines(capsys)
    bad = [
        "album/garbage.wav",
        "album/cut.wav",
        "album/nan.wav",
        "album/loud.wav",
        "album/empty.wav",
        "missing.wav",
        "*.xyz",
    ]
    for name in bad:
        assert len([line for line in said if name in line]) == 1, (name, said)
    assert len(said) == len(bad) + 1
    names = [*album, "silent"]
    if output.endswith(".h5"):
        with h5py.File(output) as file:
            assert sorted(latent_hdf5._names(file)) == sorted(names)
            assert all(np.isfinite(file[name][()]).all() for name in names)
    else:
        assert sorted(str(p) for p in Path(output).rglob("*") if p.is_file()) == sorted(
            f"latents/{name}.npy{end}" for name in names for end in ("", ".json")
        )


def test_two_of_one_name(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("a.wav", seed=1)
    write("x/a.flac", seed=2)
    write("y/a.wav", seed=3)
    assert main(["encode", "a.wav", "x", "y", "--model", model, "-o", "out"]) == 0
    for name, source in (("a", "a.wav"), ("a.flac", "x/a.flac"), ("a.wav", "y/a.wav")):
        assert about(f"out/{name}.npy")["source"] == os.path.abspath(source)
    write("z/y/a.wav", seed=4)
    assert main(["encode", "a.wav", "a.wav", "x", "y", "z/y", "--model", model, "-o", "out"]) == 1
    assert any("a.wav: would be called a like a.wav" in line for line in lines(capsys))
    assert about("out/y/a.npy")["source"] == os.path.abspath("z/y/a.wav")


def test_names_that_are_one_on_other_disks(model: str) -> None:
    """Windows and macOS do not tell a from A, nor an accented letter from a letter and its accent."""
    names = ["x/song.wav", "y/Song.wav", "z/caf\u00e9.wav", "v/cafe\u0301.wav"]
    for seed, name in enumerate(names):
        write(name, seed=seed)
    assert main(["encode", "x", "y", "z", "v", "--model", model, "-o", "out"]) == 0
    made = {unicodedata.normalize("NFD", path.name).lower(): path for path in Path("out").glob("*.npy")}
    assert len(made) == len(names)
    assert {about(str(path))["source"] for path in made.values()} == {os.path.abspath(name) for name in names}


def test_a_damaged_recording_takes_no_name_from_a_good_one(model: str) -> None:
    write("x/a.wav", seed=1)
    Path("x/a.flac").write_text("no music")
    assert main(["encode", "x", "--model", model, "--pool", "-o", "out.h5"]) == 1
    with h5py.File("out.h5") as file:
        assert list(file) == ["a.wav"]


def test_hidden_recordings_that_are_asked_for_are_stored(model: str) -> None:
    for name in (".a.wav", ".b/.c.wav"):
        write(name)
    for _ in range(2):  # what is there is found again
        assert main(["encode", ".*.wav", ".b/.*.wav", "--model", model, "-o", "out.h5"]) == 0
    with h5py.File("out.h5") as file:
        assert latent_hdf5._names(file) == ["a", "c"]


def test_folders_that_cannot_be_read_are_named(
    model: str, album: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refused(path: str) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert main(["encode", "album", "--model", model, "-o", "out"]) == 1
    assert lines(capsys)[0].startswith("everwave: error: album/side/deep: cannot be looked into (Permission denied)")
    assert sorted(str(p) for p in Path("out").rglob("*.npy")) == [f"out/{name}.npy" for name in album[:-1]]
    assert main(["encode", "album/side/deep", "--model", model, "-o", "out"]) == 1
    assert len(lines(capsys)) == 1


def test_names_that_are_no_text(model: str) -> None:
    if os.name == "nt":
        pytest.skip("names are text here")
    write("s.wav")
    os.rename("s.wav", "s\udcff.wav")
    for output in ("out", "out.h5"):
        for options in ([], ["--overwrite"]):
            assert main(["encode", "s\udcff.wav", "--model", model, "-o", output, *options]) == 0
    with h5py.File("out.h5") as file:
        assert latent_hdf5._names(file) == ["s\\udcff"]
        assert latent_hdf5._attributes(file["s\\udcff"])["source"] == os.path.abspath("s\udcff.wav")
    np.testing.assert_array_equal(latent_files.read(Path("out.h5"))[0], np.load("out/s\udcff.npy"))


def test_long_names(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 246
    write(f"{name}.wav")
    assert main(["encode", f"{name}.wav", "--model", model, "-o", "out"]) == 0
    assert sorted(os.listdir("out")) == [f"{name}.npy", f"{name}.npy.json"]
    write(f"{name}y.wav")
    assert main(["encode", f"{name}y.wav", "--model", model, "-o", "out"]) == 1  # its JSON's would be too long
    assert "choose another name" in lines(capsys)[0]
    assert len(os.listdir("out")) == 2


# -- what is kept --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["out.npy", "out", "out.h5"])
def test_finished_files_are_not_done_again(
    model: str, output: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write("a.wav")
    done: list[str] = []
    from everwave import encoding

    encode = encoding._encode
    monkeypatch.setattr(encoding, "_encode", lambda *a: (done.append(a[1].name), encode(*a)))

    def run(*options: str) -> list[str]:
        done.clear()
        assert main(["encode", "a.wav", "--model", model, "-o", output, *options]) == 0
        return list(done)

    assert run() == ["a"]
    first = latent_files.read(Path("out/a.npy" if output == "out" else output))[0].copy()
    assert run() == []
    assert run("--overwrite") == ["a"]
    monkeypatch.chdir("..")
    done.clear()
    here = [str(tmp_path / "a.wav"), "--model", model, "-o", str(tmp_path / output)]
    assert main(["encode", *here]) == 0  # the same file by another path
    assert done == []
    monkeypatch.chdir(tmp_path)
    write("a.wav", seed=5)
    os.utime("a.wav", (10**9, 10**9))  # changed, even if to something that looks older
    assert run() == ["a"]
    assert not np.array_equal(latent_files.read(Path("out/a.npy" if output == "out" else output))[0], first)
    if output != "out.h5":
        path = Path("out/a.npy" if output == "out" else output)
        path.write_bytes(path.read_bytes()[:-4])  # cut off
        assert run() == ["a"]
    assert run() == []


@pytest.mark.parametrize("output", ["out", "out.h5"])
def test_what_is_there_is_not_replaced_by_something_else(
    model: str, smallest_model: weights.ModelFile, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, name in enumerate(("x/a.wav", "y/a.wav")):
        write(name, seed=i)
        os.utime(name, (10**9, 10**9))
    weights.write("other.h5", weights.random_model(smallest_model.config, seed=2))
    path = Path("out/a.npy" if output == "out" else output)
    store = ["--model", model, "-o", output]
    assert main(["encode", "x/a.wav", *store]) == 0
    first = path.read_bytes()
    for words, said in (
        (["y/a.wav", *store], f"holds latents of {os.path.abspath('x/a.wav')}; "),
        (["x/a.wav", *store, "--pool"], "holds latents over time; "),
        (["x/a.wav", "--model", "other.h5", "-o", output], "holds latents of another model; "),
    ):
        assert main(["encode", *words]) == 1
        (line,) = lines(capsys)
        assert said in line
        assert "--overwrite" in line
        assert path.read_bytes() == first
        assert main(["encode", *words, "--overwrite"]) == 0
        assert main(["encode", "x/a.wav", *store, "--overwrite"]) == 0
        assert lines(capsys) == []
        first = path.read_bytes()
    assert main(["encode", "x/a.wav", *store, "--pool", "--overwrite"]) == 0
    assert main(["encode", "x/a.wav", *store]) == 1
    assert "holds latents pooled over time; " in lines(capsys)[0]


def test_a_song_that_is_saved_again_while_it_is_encoded_is_encoded_anew(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("in.wav", seed=1)
    first = os.stat("in.wav").st_mtime_ns
    opened = audio.blocks

    def saved_meanwhile(path: str) -> tuple[int, Iterator[Array]]:
        rate, blocks = opened(path)

        def stream() -> Iterator[Array]:
            for block in blocks:
                os.utime("in.wav", ns=(first, first + 10**9))
                yield block

        return rate, stream()

    command = ["encode", "in.wav", "--model", model, "-o", "latents"]
    with monkeypatch.context() as while_it_is_read:
        while_it_is_read.setattr(audio, "blocks", saved_meanwhile)
        assert main(command) == 0
    assert about("latents/in.npy")["source_modified"] == first
    write("in.wav", seed=2)  # another song, which begins at once
    os.utime("in.wav", ns=(first, first + 10**9))
    assert main(command) == 0
    assert main(["encode", "in.wav", "--model", model, "-o", "alone.npy"]) == 0
    np.testing.assert_array_equal(np.load("latents/in.npy"), np.load("alone.npy"))


def test_a_file_that_is_named_takes_the_latents_of_another_recording(model: str) -> None:
    for name in ("x/a.wav", "y/a.wav"):
        write(name, seed=ord(name[0]))
        os.utime(name, (10**9, 10**9))
        assert main(["encode", name, "--model", model, "-o", "a.npy"]) == 0
        assert about("a.npy")["source"] == os.path.abspath(name)
    assert main(["encode", "y/a.wav", "--model", model, "-o", "a.npy", "--pool"]) == 0
    assert np.load("a.npy").ndim == 1
    assert main(["encode", "y/a.wav", "--model", model, "-o", "a.npy"]) == 0
    assert np.load("a.npy").ndim == 2


def test_arrays_that_encode_did_not_make_stay(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("a.wav")
    np.save("mine.npy", np.zeros(3))
    Path("noted.npy.json").write_text('{"mine": 1}')
    assert main(["encode", "a.wav", "--model", model, "-o", "broken.npy"]) == 0
    Path("broken.npy.json").write_text("{")
    for name in ("mine.npy", "noted.npy", "broken.npy"):
        before = {path: path.read_bytes() for path in Path().glob(f"{name}*")}
        assert main(["encode", "a.wav", "--model", model, "-o", name]) == 1
        assert f"{name} holds no latents that `encode` made" in lines(capsys)[0]
        assert {path: path.read_bytes() for path in Path().glob(f"{name}*")} == before
        assert main(["encode", "a.wav", "--model", model, "-o", name, "--overwrite"]) == 0
        assert about(name)["source"] == os.path.abspath("a.wav")


@pytest.mark.parametrize("output", ["a.npy", "out.h5"])
def test_relative_sources_of_older_files_are_known(model: str, output: str) -> None:
    write("a.wav")
    encode = ["encode", "a.wav", "--model", model, "-o", output]
    assert main(encode) == 0
    if output == "a.npy":
        Path("a.npy.json").write_text(json.dumps(about("a.npy") | {"source": "a.wav"}))
    else:
        with h5py.File("out.h5", "a") as file:
            file["a"].attrs["source"] = np.bytes_("a.wav")
    before = Path(output).stat().st_mtime_ns
    assert main(encode) == 0
    assert Path(output).stat().st_mtime_ns == before


def test_an_hdf5_file_is_added_to(model: str) -> None:
    for name in ("a", "b"):
        write(f"{name}.wav", seed=ord(name))
        assert main(["encode", f"{name}.wav", "--model", model, "-o", "out.h5"]) == 0
    with h5py.File("out.h5") as file:
        assert sorted(file) == ["a", "b"]
    assert main(["encode", "b.wav", "--model", model, "--overwrite", "-o", "out.h5"]) == 0
    with h5py.File("out.h5") as file:
        assert sorted(file) == ["a", "b"]  # what this run had nothing to do with stays


def test_a_closed_stdin_leaves_the_other_recordings(model: str) -> None:
    write("a.wav")
    command = [sys.executable, "-m", "everwave", "encode", "-", "a.wav", "--model", model, "-o", "out"]
    done = subprocess.run(["bash", "-c", f"{shlex.join(command)} <&-"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "stdin is closed" in done.stderr
    assert sorted(os.listdir("out")) == ["a.npy", "a.npy.json"]


@pytest.mark.usefixtures("no_locks")
def test_hdf5_where_nothing_can_be_locked(model: str) -> None:
    for name in ("a", "b"):  # into a new file, and into one that is there
        write(f"{name}.wav")
        assert main(["encode", f"{name}.wav", "--model", model, "-o", "out.h5"]) == 0
    assert main(["decode", "out.h5", "--item", "a", "--model", model, "-o", "again.wav"]) == 0


def test_two_runs_may_add_to_an_hdf5_file_at_the_same_time(model: str) -> None:
    write("a.wav", seed=1)
    write("b.wav", seed=2)
    with latent_files.open_store(Path("out.h5")) as store:
        store.save("first", np.ones((3, 32), np.float32), dict)
        command = ["encode", "a.wav", "b.wav", "--model", model, "-o", "out.h5"]
        subprocess.run([sys.executable, "-m", "everwave", *command], check=True)
    with h5py.File("out.h5") as file:
        assert sorted(file) == ["a", "b", "first"]


def test_a_recording_called_like_a_folder_of_others_does_not_replace_them(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.makedirs("album/mix")
    for name in ("mix/drums", "mix"):
        write(f"album/{name}.wav")
    assert main(["encode", "album/mix", "--model", model, "-o", "out.h5"]) == 0
    os.rename("album/mix/drums.wav", "drums.wav")
    with h5py.File("out.h5", "a") as file:
        file.move("drums", "mix/drums")
    assert main(["encode", "album/mix.wav", "--model", model, "-o", "out.h5"]) == 1
    assert "'mix' cannot be stored beside the folder of recordings 'mix'" in capsys.readouterr().err
    with h5py.File("out.h5") as file:
        assert [*file["mix"]] == ["drums"]


def test_a_file_that_is_not_ours_is_left_alone(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("a.wav")
    before = Path(model).read_bytes()
    assert main(["encode", "a.wav", "--model", model, "-o", model]) == 2
    Path("text.h5").write_text("notes")
    assert main(["encode", "a.wav", "--model", model, "-o", "text.h5"]) == 1
    assert len(lines(capsys)) == 2
    assert Path(model).read_bytes() == before
    assert Path("text.h5").read_text() == "notes"


@pytest.mark.parametrize("output", ["out", "out.h5"])
def test_ctrl_c_keeps_what_is_finished(model: str, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from everwave import encoding

    monkeypatch.setenv("EVERWAVE_THREADS", "1")
    for name in ("a", "b", "c"):
        write(f"{name}.wav")
    encode, main_thread = encoding._encode, threading.main_thread()

    def interrupted(model: object, recording: encoding.Recording, *rest: object) -> None:
        if recording.name == "b":
            import _thread

            _thread.interrupt_main()
            main_thread.join(0.5)
        encode(model, recording, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(encoding, "_encode", interrupted)
    assert main(["encode", "a.wav", "b.wav", "c.wav", "--model", model, "-o", output]) == 130
    if output == "out":
        assert sorted(os.listdir("out")) == ["a.npy", "a.npy.json"]
    else:
        with h5py.File(output) as file:
            assert list(file) == ["a"]
    assert not [name for name in os.listdir() if name.endswith(".part")]


def test_every_wait_for_recordings_has_an_end(model: str, album: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows Ctrl-C does not end one that has none."""

    class Limited(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            return super().wait(timeout)

    monkeypatch.setattr(futures._base, "threading", SimpleNamespace(**vars(threading) | {"Event": Limited}))
    assert main(["encode", "album", "--model", model, "-o", "out"]) == 0
    assert len(list(Path("out").rglob("*.npy"))) == len(album)


def test_a_signal_while_the_hdf5_file_is_closed_waits(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.wav")
    describe = latent_files.Hdf5Store._describe

    def interrupted(self: latent_files.Hdf5Store) -> None:
        raise_signal(SIGINT)
        describe(self)

    monkeypatch.setattr(latent_files.Hdf5Store, "_describe", interrupted)
    assert main(["encode", "a.wav", "--model", model, "-o", "out.h5"]) == 130
    assert latent_files.read(Path("out.h5"))[1]["source"] == os.path.abspath("a.wav")


# -- pooling -------------------------------------------------------------------------------------------------------


def test_pool_is_mean_and_deviation_over_time() -> None:
    latents = np.random.default_rng(0).normal(3, 2, (1000, 6)).astype(np.float32)
    expected = np.concatenate([s.reshape(2, 3).mean(axis=0) for s in (latents.mean(0), latents.std(0))])
    np.testing.assert_allclose(pool([latents]), expected, rtol=1e-5)
    np.testing.assert_allclose(pool(np.split(latents, [1, 10, 500])), expected, rtol=1e-5)
    assert pool([latents]).dtype == np.float32
    constant = np.full((100_000, 2), 0.1, np.float32)  # no cancellation
    assert pool(np.split(constant, 100))[1] < 1e-9


def test_embed_and_pool_agree(model: str) -> None:
    samples = write("a.wav", 1.0, 22050, 1)
    loaded = everwave.load(model)
    vector = loaded.embed("a.wav")
    assert vector.shape == (4,)
    np.testing.assert_array_equal(loaded.embed(Path("a.wav")), vector)
    np.testing.assert_array_equal(loaded.embed(samples, 22050), vector)
    np.testing.assert_allclose(vector, pool([loaded.encode(samples, 22050)]), rtol=1e-5)
    with pytest.raises(UsageError, match="sample_rate=None"):
        loaded.embed(samples)
    for output in ("a.npy", "a.h5"):
        assert main(["encode", "a.wav", "--model", model, "--pool", "-o", output]) == 0
        stored, known = latent_files.read(Path(output))
        np.testing.assert_array_equal(stored, vector)
        assert known["pooled"] == STATISTIC
        assert main(["decode", output, "--model", model, "-o", "out.wav"]) == 2


def test_scikit_learn_takes_embeddings(model: str) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from everwave.embedding import EmbeddingTransformer
    from sklearn.base import clone
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline

    for name in "ab":
        write(f"{name}.wav", seed=ord(name))
    transformer = EmbeddingTransformer(model, threads=1)
    expected = [everwave.load(model).embed(f"{name}.wav") for name in "ab"]
    np.testing.assert_array_equal(clone(transformer).fit_transform(["a.wav", Path("b.wav")]), expected)
    classifier = make_pipeline(transformer, KNeighborsClassifier(1)).fit(["a.wav", "b.wav"], ["first", "second"])
    assert list(classifier.predict(["b.wav", "a.wav"])) == ["second", "first"]
    with pytest.raises(EverwaveError, match=r"c\.wav: no such file"):
        transformer.transform(["c.wav"])
    np.testing.assert_array_equal(transformer.transform(np.array([["a.wav"], ["b.wav"]])), expected)  # a column
    np.testing.assert_array_equal(transformer.transform(name for name in ("a.wav", Path("b.wav"))), expected)
    assert transformer.transform([]).shape == (0, len(expected[0]))
    with pytest.raises(UsageError, match="one path"):
        transformer.transform("a.wav")
    with pytest.raises(UsageError, match="row 1 is None; give the path"):
        transformer.transform(["a.wav", None])
    with pytest.raises(UsageError, match="2 columns"):
        transformer.transform(np.array([["a.wav", "b.wav"]]))
    assert list(transformer.get_feature_names_out())[::3] == ["embedding0", "embedding3"]
    assert len(transformer.get_feature_names_out()) == len(expected[0])


def test_integers_and_loud_samples_are_explained(model: str) -> None:
    loaded = everwave.load(model)
    with pytest.raises(UsageError, match="32768"):
        loaded.encode(np.zeros(100, np.int16), 44100)
    with pytest.raises(UsageError, match="peaks at 32000"):
        loaded.encode(np.full(100, 32000.0), 44100)
    soundfile.write("loud.wav", np.full((100, 2), 32000.0), 44100, subtype="FLOAT")
    for read in (loaded.embed, loaded.encode_file):
        with pytest.raises(AudioError, match=r"loud\.wav: audio peaks at 32000"):
            read("loud.wav")
    with pytest.raises(UsageError, match=r"audio=a\.wav; give samples, or a file to `encode_file`"):
        loaded.encode("a.wav", 44100)
    with pytest.raises(UsageError, match=r"audio=.*BytesIO.*; give samples, or a file to `encode_file`"):
        loaded.encode(io.BytesIO(), 44100)
    with pytest.raises(UsageError, match=r"sample_rate=None beside audio=\[0\.5\]"):
        loaded.embed([0.5])


# -- long ones -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["x.h5", "x.npy"])
def test_decode_reads_a_little_at_a_time(
    path: str, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded, read = everwave.load(model), []
    latents = np.random.default_rng(0).normal(size=(1001, 4)).astype(np.float32)
    with latent_files.open_store(Path(path)) as store:
        store.save("x", iter(np.split(latents, [300, 900])), lambda: {})
    getitem = latent_files.Stored.__getitem__

    def spied(self: latent_files.Stored, rows: slice) -> Array:
        read.append(getitem(self, rows))
        return read[-1]

    monkeypatch.setattr(latent_files.Stored, "__getitem__", spied)
    assert main(["decode", path, "--model", model, "-o", "out.raw"]) == 0
    np.testing.assert_array_equal(np.concatenate(read), latents)  # each once
    assert max(map(len, read)) <= SEGMENT_WINDOWS * DECODER_LATENTS
    decoded = np.fromfile("out.raw", "<f4").reshape(-1, 2)
    np.testing.assert_array_equal(decoded, loaded.decode(latents))
    read.clear()
    with latent_files.opened(Path(path)) as (stored, _):
        next(loaded.decode_blocks(stored))
    assert sum(map(len, read)) < 500  # what is ahead is bounded


def test_decode_takes_an_open_dataset_and_checks_it_on_the_way(model: str) -> None:
    loaded = everwave.load(model)
    latents = np.random.default_rng(0).normal(size=(401, 4)).astype(np.float32)
    with h5py.File("any.h5", "w") as file:
        dataset = file.create_dataset("x", data=latents)
        np.testing.assert_array_equal(loaded.decode(dataset), loaded.decode(latents))
        dataset[399, 2] = np.nan
        with pytest.raises(UsageError, match="NaN or infinity"):
            loaded.decode(dataset)
        for shape in ((0, 4), (401, 3), (401,)):
            with pytest.raises(UsageError, match=r"this model needs \(T, 4\)"):
                loaded.decode(file.create_dataset(str(shape), shape, np.float32))


@pytest.mark.parametrize("path", ["x.h5", "x.npy"])
def test_a_single_number_is_no_latents(path: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    if path == "x.npy":
        np.save(path, np.float32(1))
    else:
        with h5py.File(path, "w") as file:
            file["x"] = np.float32(1)
    assert main(["decode", path, "--model", model, "-o", "out.wav"]) == 1
    assert "single number" in lines(capsys)[0]


# -- timing --------------------------------------------------------------------------------------------------------


class Transparent:
    """Networks that lose nothing: latents are the log-magnitudes themselves, and the phases are remembered beside them."""

    config = Config(SignalConfig(hop_length=16), AutoencoderConfig(width=2, frame_latents=33, latents=16 * 33))

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.phases: dict[bytes, Array] = {}
        monkeypatch.setattr(signal, "analyse", self.analyse)
        self.model = Model.from_parts(weights.random_model(self.config), threads=2, backend="numpy")
        self.model._networks = {
            "frame_encoder": lambda x, noise=None: (x,),
            "chunk_encoder": lambda x, noise=None: (x.reshape(len(x), 1, -1),),
            "chunk_decoder": lambda x, noise=None: (x.reshape(len(x), 64, 33),),
            "frame_decoder": lambda x, noise=None: (
                x,
                np.stack([[self.phases[row.tobytes()] for row in w] for w in x]),
            ),
        }

    def analyse(self, samples: Array, s: SignalConfig) -> Array:
        spectrum = signal.stft(samples, s)
        rows = signal.log_magnitude(spectrum)
        for row, frame in zip(rows, spectrum, strict=True):
            self.phases[row.tobytes()] = (np.angle(frame) / np.pi).astype(np.float32)
        return rows


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("frames", [100, 4410, 40000])
def test_no_sample_moves(rate: int, frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With networks that lose nothing, decode gives back every sample, the first and the last too, in its place."""
    model = Transparent(monkeypatch).model
    audio = 0.3 * np.random.default_rng(0).standard_normal((frames, 2)).astype(np.float32).clip(-3, 3)
    expected = resample(audio, rate, 44100)
    decoded = model.decode(model.encode(audio, rate))
    assert len(decoded) >= len(expected)
    np.testing.assert_allclose(decoded[: len(expected)], expected.clip(-1, 1), atol=2e-3)


# -- hostile latents -----------------------------------------------------------------------------------------------


def hdf5(change: object) -> None:
    with h5py.File("x.h5", "w") as file:
        change(file)  # type: ignore[operator]


def ring(file: h5py.File) -> None:
    file["a"] = file.create_group("b")
    file["b"]["c"] = file["b"]


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4, 4), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4, 4))
    file.create_virtual_dataset("a", layout)


HOSTILE = {
    "nothing": lambda f: None,
    "only a group": lambda f: f.create_group("a"),
    "groups in a ring": ring,
    "soft link": lambda f: f.__setitem__("a", h5py.SoftLink("/b")),
    "external link": lambda f: f.__setitem__("a", h5py.ExternalLink("/etc/hostname", "/")),
    "external storage": lambda f: f.create_dataset("a", (4, 4), "f4", external=[("/etc/hostname", 0, 64)]),
    "virtual": virtual,
    "shape bomb": lambda f: f.create_dataset("a", (10**7, 10**5), "f4", chunks=(1, 4)),
    "compressed bomb": lambda f: f.create_dataset("a", data=np.zeros((10**5, 4), "f4"), compression="gzip"),
    "strings": lambda f: f.create_dataset("a", data=[b"text"]),
    "nothing in it": lambda f: f.create_dataset("a", data=h5py.Empty("f4")),
    "scalar": lambda f: f.create_dataset("a", data=1.0),
    "NaN": lambda f: f.create_dataset("a", data=np.full((4, 4), np.nan, "f4")),
    "huge": lambda f: f.create_dataset("a", data=np.full((4, 4), 1e300)),
    "long attribute": lambda f: f.create_dataset("a", data=np.zeros((4, 4))).attrs.create("frames", np.zeros(8000)),
    "text for a number": lambda f: f.create_dataset("a", data=np.zeros((4, 4))).attrs.create(
        "frames", np.bytes_("many")
    ),
    "infinite frames": lambda f: f.create_dataset("a", data=np.zeros((4, 4))).attrs.create("frames", np.inf),
    "negative frames": lambda f: f.create_dataset("a", data=np.zeros((4, 4))).attrs.create("frames", -1),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_hdf5_is_refused_in_one_line(case: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    hdf5(HOSTILE[case])
    assert main(["decode", "x.h5", "--model", model, "-o", "out.wav"]) in (1, 2)
    assert len(lines(capsys)) == 1
    assert os.listdir() == ["x.h5"]


def test_what_holds_no_latents_is_named(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("song.wav")
    Path("song.npy").write_bytes(Path("song.wav").read_bytes())
    for path, said in (("song.wav", "no .npy file"), ("song.npy", "no .npy file"), (model, "something else")):
        assert main(["decode", path, "--model", model, "-o", "out.wav"]) == 1
        (line,) = lines(capsys)
        assert said in line
        assert "pickle" not in line


@pytest.mark.parametrize(
    "output", ["file/out", "file/deep/out", "/dev/null/out", "file/out.npy", "file/out.h5", "out.txt", "out.NPZ"]
)
def test_outputs_that_cannot_be(output: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Known before any work is done."""
    write("a.wav")
    Path("file").write_text("")
    assert main(["encode", "a.wav", "--model", model, "-o", output]) == 2
    assert output in lines(capsys)[0]


@pytest.mark.parametrize("output", ["loop.h5", "loop.npy", "loop"])
def test_links_that_go_round(output: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("a.wav")
    os.symlink(output, "other")
    os.symlink("other", output)
    assert main(["encode", "a.wav", "--model", model, "-o", output]) == 2
    assert output in lines(capsys)[0]


def test_a_name_that_is_too_long_is_said_to_be(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", "x" * 300 + ".npy", "--model", model, "-o", "out.wav"]) == 1
    assert "cannot be read as latents (File name too long); give one that can be read" in lines(capsys)[0]


@pytest.mark.parametrize("output", ["out", "out.npy", "out.h5"])
def test_a_full_disk(
    output: str, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.wav", 3.0)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(latent_files, "_write_npy", full)
    monkeypatch.setattr(latent_files.Hdf5Store, "_append", full)
    assert main(["encode", "a.wav", "--model", model, "-o", output]) == 1
    (line,) = lines(capsys)
    assert "No space left on device" in line
    assert "Errno" not in line or output.endswith(".h5")
    assert [path.name for path in Path().rglob("*") if path.is_file()] == ["a.wav"]


def test_hostile_npy_is_refused(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    bomb = latent_files._npy_header((10**12, 4))
    zipped = io.BytesIO()
    np.savez(zipped, a=np.zeros((4, 4)))
    integers = io.BytesIO()
    np.save(integers, np.zeros((4, 4), int))
    for data in (
        b"",
        bomb,
        bomb[:50],
        bomb.replace(b"}", b"("),  # Python's tokenizer gives up
        zipped.getvalue(),
        integers.getvalue(),
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70000,
    ):
        Path("x.npy").write_bytes(data)
        assert main(["decode", "x.npy", "--model", model, "-o", "out.wav"]) in (1, 2)
        assert len(lines(capsys)) == 1


@pytest.mark.parametrize("seed", range(30))
def test_damaged_latents_never_crash(seed: int) -> None:
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(40, 4)).astype(np.float32)
    with latent_files.open_store(Path("x.h5")) as store:
        store.save("a/b", iter([latents]), lambda: {"frames": 5, "source": "x"})
    data = bytearray(Path("x.h5").read_bytes())
    if seed % 3:
        for position in rng.integers(0, len(data), 12):
            data[position] ^= 1 << int(rng.integers(8))
    else:
        del data[int(rng.integers(len(data))) :]
    Path("x.h5").write_bytes(data)
    with contextlib.suppress(EverwaveError):
        found, _ = latent_files.read(Path("x.h5"))
        assert found.dtype == np.float32
        assert found.nbytes <= len(data)


def test_info_tells_what_latents_are(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        write(f"{name}.wav")
    assert main(["encode", "a.wav", "--model", model, "-o", "a.npy"]) == 0
    assert main(["encode", "a.wav", "b.wav", "--model", model, "-o", "both.h5"]) == 0
    capsys.readouterr()
    rows, columns = np.load("a.npy").shape
    assert main(["info", "a.npy", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["latents"] == [rows, columns]
    assert alone["source"] == str(Path("a.wav").absolute())
    assert main(["info", "both.h5", "--json"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert both["a"] == alone
    assert list(both) == ["a", "b"]
    assert main(["info", "a.npy"]) == 0
    assert f"[{rows}, {columns}]" in capsys.readouterr().out


def test_info_of_what_is_no_latents(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.npy").write_text("no array")
    Path("bad.h5").write_text("no HDF5")
    assert main(["info", "bad.npy"]) == 1
    assert "cannot be read as latents" in capsys.readouterr().err
    assert main(["info", "bad.h5"]) == 1
    assert "no weights file" in capsys.readouterr().err
    assert main(["info", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "bundle"
