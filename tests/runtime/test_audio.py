"""Audio in and out: round trips, headers, resampling in numbers, and what a failure or Ctrl-C leaves behind."""

import errno
import io
import logging
import math
import os
import shutil
import signal
import time
import tracemalloc
import wave
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from everwave import audio, audio_writing, errors, files, mpeg, resampling, wav
from everwave.audio import FormatError, OutputError, Resampler, Writer, resample, to_stereo
from everwave.errors import AudioError, Cancelled, NoRoom, UsageError
from everwave.resampling import anti_alias_filter, resample_circle
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample as scipy_resample
from scipy.signal import resample_poly

RATE = 44100
STEP = {"PCM_16": 2.0**-15, "PCM_24": 2.0**-23, "FLOAT": 0.0}
LOSSLESS = [
    (ending, s) for ending, subtypes in audio.SUBTYPES.items() for s in subtypes if s in STEP and ending != "raw"
]
LOSSY = [("ogg", "VORBIS"), ("ogg", "OPUS"), ("opus", "OPUS"), ("mp3", "MPEG_LAYER_III")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """A fifth of a second of stereo, some of it beyond full scale."""
    return np.random.default_rng(0).normal(0, 0.4, (RATE // 5 + 1, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def music() -> np.ndarray:
    """A second of two quiet tones, which lossy formats keep."""
    time = np.arange(RATE)[:, None] / RATE
    return (0.3 * np.sin(2 * np.pi * np.array([440, 1000]) * time)).astype(np.float32)


def write(path: str, samples: np.ndarray, rate: int = RATE, block: int = 3000, **options) -> None:
    with Writer(path, rate, samples.shape[1], **options) as writer:
        for i in range(0, len(samples), block):
            writer.write(samples[i : i + block])


# -- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "subtype"), LOSSLESS)
def test_lossless_formats(noise: np.ndarray, ending: str, subtype: str) -> None:
    write(f"a.{ending}", noise, subtype=subtype)
    samples, rate = audio.read(f"a.{ending}")
    info = soundfile.info(f"a.{ending}")
    assert (rate, samples.dtype, samples.shape, info.subtype) == (RATE, np.float32, noise.shape, subtype)
    inside = np.abs(noise) < 1 - 2 * STEP[subtype]
    assert np.abs(samples - noise)[inside].max() <= STEP[subtype] / 2  # rounded, not cut off
    assert np.abs(samples).max() == pytest.approx(1, abs=STEP[subtype])  # clipped, not wrapped around


@pytest.mark.parametrize(("ending", "subtype"), LOSSY)
def test_lossy_formats(music: np.ndarray, ending: str, subtype: str) -> None:
    write(f"a.{ending}", music, subtype=subtype)
    samples, rate = audio.read(f"a.{ending}")
    assert rate == (48000 if subtype == "OPUS" else RATE)
    assert soundfile.info(f"a.{ending}").subtype == subtype
    assert len(samples) / rate == pytest.approx(1, abs=1e-4)
    error = resample(samples, rate, RATE)[2000:-2000] - music[2000:-2000]
    assert np.sqrt(np.mean(error**2)) < 0.02


@pytest.mark.parametrize("ending", ["wav", "flac", "aiff"])
def test_defaults_are_16_bits(noise: np.ndarray, ending: str) -> None:
    write(f"a.{ending}", noise)
    assert soundfile.info(f"a.{ending}").subtype == "PCM_16"


def test_format_and_subtype_can_be_named(noise: np.ndarray) -> None:
    write("no-ending", noise, format="FLAC", subtype="pcm_24")
    assert (soundfile.info("no-ending").format, soundfile.info("no-ending").subtype) == ("FLAC", "PCM_24")
    write("a.raw", noise[:, :1], subtype="FLOAT")
    np.testing.assert_array_equal(np.fromfile("a.raw", "<f4"), np.clip(noise[:, 0], -1, 1))


@pytest.mark.parametrize(("ending", "subtype"), LOSSLESS)
def test_same_samples_same_bytes(noise: np.ndarray, ending: str, subtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the samples are cut into blocks, and whenever: no header holds the time."""
    write(f"a.{ending}", noise, subtype=subtype)
    if (ending, subtype) == ("wav", "FLOAT"):
        time.sleep(1.1)
    write(f"b.{ending}", noise, subtype=subtype, block=701)
    assert Path(f"a.{ending}").read_bytes() == Path(f"b.{ending}").read_bytes()


def test_other_readers_take_our_wav(noise: np.ndarray) -> None:
    write("a.wav", noise)
    with wave.open("a.wav") as file:
        assert file.getparams()[:4] == (2, 2, RATE, len(noise))


@pytest.mark.parametrize("subtype", audio.SUBTYPES["wav"])
def test_samples_in_any_order(noise: np.ndarray, subtype: str) -> None:
    write("a.wav", noise, subtype=subtype)
    write("b.wav", np.asfortranarray(noise), subtype=subtype)
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()


def test_odd_chunks_are_padded() -> None:
    write("a.wav", np.zeros((3, 1), np.float32), subtype="PCM_24")
    assert Path("a.wav").stat().st_size % 2 == 0
    assert "(should be" not in soundfile.SoundFile("a.wav").extra_info
    assert len(audio.read("a.wav")[0]) == 3


@pytest.mark.parametrize("subtype", audio.SUBTYPES["wav"])
@pytest.mark.parametrize("extra", [0, 1])
def test_wav_becomes_rf64_past_the_limit(caplog: pytest.LogCaptureFixture, subtype: str, extra: int) -> None:
    """The limit is lowered to the exact size of 1000 frames: one frame more does not fit in a RIFF header."""
    samples = np.random.default_rng(1).uniform(-1, 1, (1000 + extra, 2)).astype(np.float32)
    write("small.wav", samples[:1000], subtype=subtype)
    riff_size = Path("small.wav").stat().st_size - 8
    with caplog.at_level(logging.WARNING):
        write("a.wav", samples, subtype=subtype, riff_limit=riff_size + 1, block=300)
    assert soundfile.info("a.wav").format == ("RF64" if extra else "WAV")
    assert ("RF64" in caplog.text) == bool(extra)
    read, _ = audio.read("a.wav")
    assert len(read) == len(samples)
    assert np.abs(read - samples).max() <= STEP[subtype]


def test_rf64_header_counts_past_4_gib() -> None:
    layout = wav.Layout(RATE, 2, "FLOAT")
    frames = 2**31 + 5
    header = layout.header(frames)
    assert header[:4] == b"RF64"
    assert header[12:16] == b"ds64"
    sizes = np.frombuffer(header[20:44], "<u8")
    assert sizes.tolist() == [8 * frames + len(header) - 8, 8 * frames, frames]
    assert len(header) == len(layout.header(1)) == len(layout.header(None))
    assert layout.header(2**29 - 100)[:4] == b"RIFF"


def test_aiff_holds_what_fits_below_its_limit(noise: np.ndarray) -> None:
    frames = (20_000 - audio_writing.HEADER_ROOM) // 4
    with pytest.raises(AudioError, match=r"^a\.aiff: AIFF holds at most 4 GiB") as caught:
        write("a.aiff", noise, riff_limit=20_000)
    assert "part" not in str(caught.value)
    assert os.listdir() == ["a.aiff"]
    assert len(audio.read("a.aiff")[0]) == frames > 3000  # to the last frame, not to the last block
    with pytest.raises(FormatError, match="4 GiB"):
        Writer("b.aiff", RATE, frames=10_000, riff_limit=20_000)


# -- stdout -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [None, "all"])
@pytest.mark.parametrize("subtype", audio.SUBTYPES["wav"])
def test_wav_to_stdout(noise: np.ndarray, capfdbinary, subtype: str, frames: str | None) -> None:
    write("-", noise, subtype=subtype, frames=len(noise) if frames else None)
    stream = capfdbinary.readouterr().out
    for source in (io.BytesIO(stream), _file("piped.wav", stream)):
        samples, rate = audio.read(source)
        assert (rate, len(samples)) == (RATE, len(noise))
        assert np.abs(samples - np.clip(noise, -1, 1)).max() <= STEP[subtype]
    if frames:
        write("a.wav", noise, subtype=subtype)
        assert stream == Path("a.wav").read_bytes()


@pytest.mark.parametrize(("subtype", "kind"), [("FLOAT", "<f4"), ("PCM_16", "<i2")])
def test_raw_to_stdout(noise: np.ndarray, capfdbinary, subtype: str, kind: str) -> None:
    write("-", noise, format="raw", subtype=subtype)
    samples = np.frombuffer(capfdbinary.readouterr().out, kind).reshape(-1, 2)
    scale = 1 if kind == "<f4" else 32768
    assert np.abs(samples / scale - np.clip(noise, -1, 1)).max() <= STEP[subtype]


def test_a_reader_that_leaves(noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb", buffering=0) as pipe:
        monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=pipe, isatty=lambda: False))
        with pytest.raises(BrokenPipeError):
            write("-", noise)


def test_a_reader_that_leaves_on_windows(noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """There it is an invalid argument; with other systems, and in files, that is what it says."""

    class Left(io.RawIOBase):
        def write(self, data: object) -> int:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=Left(), isatty=lambda: False))
    with pytest.raises(OutputError, match="Invalid argument"):
        write("-", noise)
    monkeypatch.setattr(errors, "os", SimpleNamespace(name="nt"))
    with pytest.raises(BrokenPipeError):
        write("-", noise)


def test_no_samples_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(FormatError, match="terminal"):
        Writer("-", RATE)


def _file(name: str, content: bytes) -> str:
    Path(name).write_bytes(content)
    return name


# -- what cannot be written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "options", "expected", "code"),
    [
        ("a.xyz", {}, "unknown format 'xyz'", 2),
        ("a", {}, "unknown format ''", 2),
        ("a.wav", {"format": "mp4"}, "unknown format 'mp4'", 2),
        ("a.flac", {"subtype": "FLOAT"}, "flac has PCM_16, PCM_24", 2),
        ("-", {"format": "flac"}, "stdout", 2),
        ("missing/a.wav", {}, "create it first", 2),
        ("folder.wav", {}, "is a folder", 2),
        ("", {}, "unknown format", 2),
        ("x" * 300 + ".wav", {}, "cannot be written", 2),
        ("a.wav", {"frames": 10**15}, "choose another disk", 1),
        ("a.mp3", {"frames": 10**15}, "choose another disk", 1),
    ],
)
def test_unusable_outputs_are_refused_before_any_work(path: str, options: dict, expected: str, code: int) -> None:
    os.mkdir("folder.wav")
    with pytest.raises(AudioError) as caught, Writer(path, RATE, **options):
        pytest.fail("it was opened")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (caught.value.exit_code, isinstance(caught.value, UsageError)) == (code, code == 2)
    assert os.listdir() == ["folder.wav"]


@pytest.mark.parametrize(("ending", "rate", "channels"), [("mp3", 96000, 2), ("mp3", 44100, 6), ("flac", 44100, 9)])
def test_settings_a_format_lacks(ending: str, rate: int, channels: int) -> None:
    with pytest.raises(FormatError, match=f"cannot be written as {rate} Hz, {channels} channels"):
        Writer(f"a.{ending}", rate, channels).__enter__()
    assert os.listdir() == []


def test_devices_are_not_replaced() -> None:
    if not Path("/dev/null").exists():
        pytest.skip("this system has no /dev/null")
    with pytest.raises(OutputError, match="device"):
        Writer("/dev/null", RATE, format="wav")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(folder: Path) -> None:
    folder.chmod(0o500)
    try:
        with pytest.raises(AudioError, match="permission"):
            Writer("a.wav", RATE)
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("name", ["x" * 251 + ".wav", "x" * 250 + ".flac", "é" * 125 + ".mp3"])
def test_the_longest_names(noise: np.ndarray, name: str) -> None:
    """The name that a file has until it is complete is no longer."""
    write(name, noise)
    assert os.listdir() == [name]


def test_names_that_are_no_text(noise: np.ndarray) -> None:
    if os.name == "nt":
        pytest.skip("names are text here")
    for ending in ("wav", "flac", "aiff"):
        write(f"a\udcff.{ending}", noise, tags={"title": "a\udcff", "comment": "everwave"})
        assert audio.tags(f"a\udcff.{ending}")["title"] == "a\\udcff"


def test_links_that_go_round() -> None:
    os.symlink("a.wav", "b.wav")
    os.symlink("b.wav", "a.wav")
    with pytest.raises(OutputError, match=r"^a\.wav: cannot be written \(.*choose another name"):
        Writer("a.wav", RATE)


def test_a_link_is_followed(noise: np.ndarray) -> None:
    os.mkdir("elsewhere")
    os.symlink("elsewhere/real.wav", "a.wav")
    write("a.wav", noise)
    assert Path("a.wav").is_symlink()
    assert sorted(os.listdir("elsewhere")) == ["real.wav"]


# -- failures and interrupts ------------------------------------------------------------------------------------------


def write_until(error: type[BaseException], path: str, samples: np.ndarray, **options) -> None:
    """One block, then the error."""
    with Writer(path, RATE, **options) as writer:
        writer.write(samples)
        raise error


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "opus", "mp3", "aiff"])
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, Cancelled])
def test_an_interrupt_keeps_what_was_written(music: np.ndarray, ending: str, interrupt: type) -> None:
    with pytest.raises(interrupt):
        write_until(interrupt, f"a.{ending}", music[:30_000])
    samples, rate = audio.read(f"a.{ending}")
    assert len(samples) / rate == pytest.approx(30_000 / RATE, abs=1e-4)
    assert os.listdir() == [f"a.{ending}"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Cancelled, audio_writing.Full])
@pytest.mark.parametrize("ending", ["wav", "flac", "opus"])
def test_only_whole_files_if_wanted(music: np.ndarray, ending: str, stop: type) -> None:
    with pytest.raises(stop):
        write_until(stop, f"a.{ending}", music, keep_partial=False)
    assert os.listdir() == []
    write(f"a.{ending}", music, keep_partial=False)
    assert os.listdir() == [f"a.{ending}"]


@pytest.mark.parametrize("ending", ["wav", "flac", "aiff"])
def test_a_signal_while_the_file_is_closed_waits(
    music: np.ndarray, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = wav.WavSink if ending == "wav" else audio_writing.LibsndfileSink
    close = sink.close

    def interrupted(self: audio_writing.Sink) -> None:
        signal.raise_signal(signal.SIGINT)
        close(self)

    monkeypatch.setattr(sink, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(f"a.{ending}", music)
    assert os.listdir() == [f"a.{ending}"]
    assert len(audio.read(f"a.{ending}")[0]) == len(music)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_in_the_middle_of_a_block(music: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a block is in the file when Ctrl-C comes: the header counts whole frames of whole blocks."""
    written = wav.WavSink.write

    def torn(self: wav.WavSink, samples: np.ndarray) -> None:
        written(self, samples)
        self._file.write(b"\1\2\3")

    monkeypatch.setattr(wav.WavSink, "write", torn)
    with pytest.raises(KeyboardInterrupt):
        write_until(KeyboardInterrupt, "a.wav", music[:5000])
    assert "(should be" not in soundfile.SoundFile("a.wav").extra_info
    assert len(audio.read("a.wav")[0]) == 5000


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_an_error_leaves_what_was_there(music: np.ndarray, ending: str) -> None:
    Path(f"a.{ending}").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write_until(ZeroDivisionError, f"a.{ending}", music)
    assert os.listdir() == [f"a.{ending}"]
    assert Path(f"a.{ending}").read_bytes() == b"old"


def test_an_interrupt_before_the_first_block_leaves_nothing() -> None:
    with pytest.raises(KeyboardInterrupt), Writer("a.wav", RATE):
        raise KeyboardInterrupt
    assert os.listdir() == []


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3"])
def test_a_full_disk(noise: np.ndarray, ending: str) -> None:
    """A limit on file sizes stands for the full disk."""
    resource = pytest.importorskip("resource", reason="no such limits on this system")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(AudioError, match="cannot be written, the disk is full"):
            write(f"a.{ending}", np.tile(noise, (40, 1)), block=500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    if ending == "wav":
        assert len(audio.read("a.wav")[0]) == 1000  # whole blocks
    assert os.listdir() == (["a.wav"] if ending == "wav" else [])


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "opus", "mp3", "aiff"])
def test_a_disk_that_fills_up_keeps_what_was_written(
    music: np.ndarray, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter(
        [10**9, *(files.RESERVE + n for n in (60_000, 50_000, 40_000, 30_000)), *range(files.RESERVE, 0, -10_000)]
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=next(free)))
    monkeypatch.setattr(Writer, "_check_size", lambda *_: next(free))
    with pytest.raises(AudioError, match=r"the disk is full after 0\.3"):
        write(f"a.{ending}", music)
    samples, rate = audio.read(f"a.{ending}")
    assert len(samples) / rate == pytest.approx(12_000 / RATE, abs=1e-3)
    assert os.listdir() == [f"a.{ending}"]


TAGS = {"title": "techno 7", "comment": "everwave generate --model 'my café.h5' --seed 7", "software": "everwave 0.1.0"}


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "opus", "mp3", "aiff"])
def test_tags(noise: np.ndarray, ending: str) -> None:
    write(f"a.{ending}", noise, tags=TAGS | {"copyright": "CC0-1.0"})
    found = audio.tags(f"a.{ending}")
    assert found["title"] == TAGS["title"]
    if ending == "mp3":  # libsndfile keeps no others there
        assert found["comment"] == f"{TAGS['comment']}  # {TAGS['software']}; CC0-1.0"
    else:
        assert found["comment"] == TAGS["comment"]
        assert found["software"].startswith("everwave 0.1.0")
        assert found["copyright"] == "CC0-1.0"
    write(f"b.{ending}", noise)
    assert "comment" not in audio.tags(f"b.{ending}")
    np.testing.assert_array_equal(audio.read(f"a.{ending}")[0], audio.read(f"b.{ending}")[0])


@pytest.mark.parametrize("title", ["café", "Музыка", "a long name of a café " * 4, "Музыка " * 12])
@pytest.mark.parametrize("ending", ["flac", "ogg", "opus", "mp3"])
def test_tags_in_other_alphabets(noise: np.ndarray, ending: str, title: str) -> None:
    write(f"a.{ending}", noise, tags={"title": title.strip()})
    assert audio.tags(f"a.{ending}")["title"] == title.strip()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_nan_is_written(noise: np.ndarray, bad: float) -> None:
    samples = noise.copy()
    samples[4000, 1] = bad
    with pytest.raises(AudioError, match="NaN or infinity"):
        write("a.wav", samples)
    assert os.listdir() == []


def test_wrong_blocks() -> None:
    with Writer("a.wav", RATE) as writer, pytest.raises(UsageError, match=r"\(10, 3\)"):
        writer.write(np.zeros((10, 3), np.float32))
    with pytest.raises(UsageError, match="with"):
        Writer("b.wav", RATE).write(np.zeros((10, 2), np.float32))
    assert os.listdir() == ["a.wav"]


# -- reading ----------------------------------------------------------------------------------------------------------


def test_blocks_join_to_the_whole(noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.flac", noise)
    whole = audio.read("a.flac")[0]
    monkeypatch.setattr(audio, "READ_SAMPLES", 2000)
    rate, blocks = audio.blocks("a.flac")
    parts = list(blocks)
    assert (rate, {len(part) for part in parts[:-1]}) == (RATE, {1000})
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert audio.info("a.flac") == (RATE, 2, len(noise))


def test_blocks_of_many_channels_are_short() -> None:
    soundfile.write("a.wav", np.zeros((2000, 1024), np.float32), RATE)
    assert {block.size for block in audio.blocks("a.wav")[1]} <= {audio.READ_SAMPLES, 2000 * 1024 % audio.READ_SAMPLES}


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (22050, 1), (8000, 1)], ids=["1", "2", "2.5"])  # MPEG
def test_mp3_files_that_do_not_say_their_length(mode: str, rate: int, channels: int) -> None:
    """Silence, then noise: from the first frame alone the length of a variable bit rate cannot be guessed."""
    samples = np.zeros((6 * rate, channels), np.float32)
    samples[2 * rate :] = np.random.default_rng(0).uniform(-0.5, 0.5, (4 * rate, channels))
    soundfile.write("stated.mp3", samples, rate, format="MP3", bitrate_mode=mode, compression_level=0.5)
    data = Path("stated.mp3").read_bytes()
    assert mpeg.stating_length("stated.mp3") is None
    music = data.index(data[:2], 2)  # the frame after the one with the tag
    Path("plain.mp3").write_bytes(data[music:])
    Path("tagged.mp3").write_bytes(b"ID3\4\0\0\0\0\2\0" + b"\xff" * 256 + data[music:] + b"TAG".ljust(128, b"\0"))
    stated, plain, tagged = (audio.read(f"{name}.mp3")[0] for name in ("stated", "plain", "tagged"))
    assert 0 <= len(plain) - len(stated) < 3000  # what the encoder put before and after is not cut off
    np.testing.assert_array_equal(tagged, plain)
    assert audio.info("plain.mp3").frames == len(plain)
    quiet, loud = np.sqrt(np.mean(plain[: rate // 2] ** 2)), np.sqrt(np.mean(plain[-2 * rate : -rate] ** 2))
    assert quiet < 0.01 < 0.2 < loud


def test_open_files_are_read(noise: np.ndarray) -> None:
    write("a.flac", noise)
    with open("a.flac", "rb") as file:
        assert len(audio.read(file)[0]) == len(noise)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_is_found_and_named(bad: float) -> None:
    samples = np.zeros((RATE * 2, 2), np.float32)
    samples[RATE + 1, 1] = bad
    soundfile.write("a.wav", samples, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=rf"a\.wav: {bad} at frame 44101 \(1\.000 s\), channel 1"):
        audio.read("a.wav")
    with pytest.raises(AudioError, match="frame 44101"):
        list(audio.blocks("a.wav")[1])


def test_unreadable_files() -> None:
    soundfile.write("empty.wav", np.zeros((0, 2)), RATE)
    os.mkdir("folder")
    for path, content, expected in (
        ("empty.wav", None, "no samples"),
        ("missing.wav", None, "no such file"),
        ("folder", None, "is a folder"),
        ("nothing.wav", b"", "cannot be read"),
        ("text.mp3", b"no audio at all\n" * 99, "cannot be read"),
        ("a.raw", b"\0" * 999, "cannot be read"),
        ("x" * 300, None, "cannot be read"),
    ):
        if content is not None:
            Path(path).write_bytes(content)
        for reader in (audio.read, audio.info, audio.blocks):
            with pytest.raises(AudioError, match=expected) as caught:
                reader(path)
            assert str(caught.value).startswith(f"{path}: ")
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", ["WAV", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF"])
def test_truncated_files_are_refused(music: np.ndarray, format: str) -> None:
    soundfile.write("whole", music, RATE, format=format)
    whole = Path("whole").read_bytes()
    assert len(audio.read("whole")[0]) == pytest.approx(RATE, abs=2)
    for share in (0.9, 0.5, 0.1):
        with pytest.raises(AudioError, match=r"cut off|cannot be read"):
            audio.read(_file("cut", whole[: int(share * len(whole))]))


def test_wav_of_unknown_length_is_read_to_its_end(noise: np.ndarray) -> None:
    """As programs write it to a pipe: all ones, or the largest number of 31 bits."""
    write("a.wav", noise)
    whole = bytearray(Path("a.wav").read_bytes())
    for length in (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"):
        whole[4:8] = whole[76:80] = length
        assert whole[72:76] == b"data"
        assert len(audio.read(_file("stream.wav", bytes(whole)))[0]) == len(noise)


def test_flac_of_unknown_length_is_read_to_its_end(noise: np.ndarray) -> None:
    """As programs write it to a pipe: the number of samples is 0."""
    write("a.flac", noise)
    data = bytearray(Path("a.flac").read_bytes())
    assert int.from_bytes(data[21:26], "big") & (1 << 36) - 1 == len(noise)
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    Path("b.flac").write_bytes(data)
    assert audio.info("b.flac") == audio.info("a.flac")
    np.testing.assert_array_equal(audio.read("b.flac")[0], audio.read("a.flac")[0])
    rate, blocks = audio.blocks("b.flac")
    assert (rate, sum(map(len, blocks))) == (RATE, len(noise))


def test_damaged_files_raise_audio_error_or_give_finite_samples(music: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    for format in ("WAV", "FLAC", "OGG", "AIFF"):
        soundfile.write("whole", music[:4000], RATE, format=format)
        whole = np.frombuffer(Path("whole").read_bytes(), np.uint8)
        for _ in range(30):
            damaged = whole.copy()
            places = rng.integers(0, min(len(whole), rng.choice([64, 100_000])), 3)
            damaged[places] ^= (1 << rng.integers(0, 8, 3)).astype(np.uint8)
            try:
                samples, _ = audio.read(_file("damaged", damaged.tobytes()))
            except AudioError:
                continue
            assert np.isfinite(samples).all()


# -- channels and rates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["ogg", "opus"])
def test_ogg_files_in_a_row_are_not_taken_for_the_first(noise: np.ndarray, ending: str) -> None:
    write(f"a.{ending}", np.tile(noise, (5, 1)))
    whole = Path(f"a.{ending}").read_bytes()
    Path(f"b.{ending}").write_bytes(whole + whole)
    assert len(audio.read(f"a.{ending}")[0]) > 0
    with pytest.raises(AudioError, match="several recordings in a row"):
        audio.read(f"b.{ending}")


def ogg_checksum(page: bytes) -> int:
    """CRC-32 of a page whose own checksum is zero, most significant bits first (RFC 3533)."""
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = ((crc << 1) ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    return crc


@pytest.mark.parametrize("more", [104, RATE])
def test_an_ogg_file_may_promise_a_little_more_than_it_has(noise: np.ndarray, more: int) -> None:
    """As files in Debian's packages do."""
    write("a.ogg", np.tile(noise, (20, 1)))  # several pages
    whole = Path("a.ogg").read_bytes()
    last = whole.rfind(b"OggS")
    page = bytearray(whole[last:])
    page[6:14] = (int.from_bytes(page[6:14], "little") + more).to_bytes(8, "little")
    page[22:26] = bytes(4)
    page[22:26] = ogg_checksum(page).to_bytes(4, "little")
    Path("b.ogg").write_bytes(whole[:last] + page)
    if more == RATE:
        with pytest.raises(AudioError, match="cut off"):
            audio.read("b.ogg")
    else:
        assert 0 <= len(audio.read("b.ogg")[0]) - len(audio.read("a.ogg")[0]) < more


def test_to_stereo() -> None:
    samples = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(to_stereo(samples), samples[:, :2])
    np.testing.assert_array_equal(to_stereo(samples[:, :1]), samples[:, [0, 0]])
    np.testing.assert_array_equal(to_stereo(samples[0]), np.stack([samples[0]] * 2, axis=1))


RATES = [(48000, 44100), (44100, 48000), (22050, 44100), (96000, 44100), (44100, 8000), (8000, 44100), (44100, 44100)]


@pytest.mark.parametrize(("from_rate", "to_rate"), RATES)
def test_resampler_is_scipys_with_our_filter(from_rate: int, to_rate: int) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (from_rate // 10 + 7, 2)).astype(np.float32)
    divisor = math.gcd(from_rate, to_rate)
    up, down = to_rate // divisor, from_rate // divisor
    expected = resample_poly(samples.astype(float), up, down, window=anti_alias_filter(up, down) / up)
    result = resample(samples, from_rate, to_rate)
    assert result.dtype == np.float32
    assert result.shape == expected.shape == (math.ceil(len(samples) * to_rate / from_rate), 2)
    tolerance = 1e-7 if from_rate != to_rate else 1
    np.testing.assert_allclose(result, expected if from_rate != to_rate else samples, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("from_rate", "to_rate"), [(48000, 44100), (8000, 44100), (96000, 44100), (44100, 22050)])
def test_a_table_filters_as_the_phases_do(from_rate: int, to_rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (9000, 2)).astype(np.float32)
    expected = resample(samples, from_rate, to_rate)
    monkeypatch.setattr(resampling, "MAX_PHASES", 1)
    np.testing.assert_allclose(resample(samples, from_rate, to_rate), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rate", [44101, 11111, 131071, 999983])
def test_rates_without_a_common_divisor(rate: int) -> None:
    """In little memory, and the same however the stream is cut."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate // 20) / rate).astype(np.float32)[:, None]
    resampler, parts = Resampler(rate, 44100, 1), np.array_split(tone, 5)
    tracemalloc.start()
    result = np.concatenate([*map(resampler.push, parts), resampler.flush()])
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
    np.testing.assert_array_equal(result, resample(tone, rate, 44100))
    expected = np.sin(2 * np.pi * 1000 * np.arange(len(result)) / 44100)
    assert np.abs(result[:, 0] - expected)[500:-500].max() < 1e-5


def test_positions_are_exact_where_whole_numbers_are_short(
    numpy_of_windows: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At these rates the product of a position and a rate passes 2^31 within a tenth of a second."""
    samples = np.random.default_rng(0).uniform(-1, 1, (99_998, 1)).astype(np.float32)
    expected = resample(samples, 999983, 44100)
    monkeypatch.setattr(resampling, "np", numpy_of_windows)
    np.testing.assert_array_equal(resample(samples, 999983, 44100), expected)


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(RATES), st.lists(st.integers(0, 3000), max_size=8))
def test_streamed_resampling_equals_the_whole(rates: tuple[int, int], cuts: list[int]) -> None:
    samples = np.random.default_rng(1).uniform(-1, 1, (sum(cuts), 3)).astype(np.float32)
    resampler = Resampler(*rates, channels=3)
    pieces = [resampler.push(piece) for piece in np.split(samples, np.cumsum(cuts))]
    streamed = np.concatenate([*pieces, resampler.flush()])
    whole = resample(samples, *rates)
    assert streamed.shape == whole.shape
    np.testing.assert_allclose(streamed, whole, atol=1e-6, rtol=0)


def test_resampler_keeps_a_constant_amount() -> None:
    resampler, held = Resampler(48000, 44100, 2), set()
    for _ in range(40):
        resampler.push(np.zeros((4800, 2), np.float32))
        held.add(resampler._pending.shape[1])
    assert max(held) < 200


@pytest.mark.parametrize(("from_rate", "to_rate"), [(48000, 44100), (44100, 22050), (22050, 44100), (96000, 44100)])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.85, 0.9])
def test_tones_keep_level_and_phase(from_rate: int, to_rate: int, share: float) -> None:
    """Up to 0.9 of the lower Nyquist frequency, to -90 dB; no delay."""
    frequency = share * min(from_rate, to_rate) / 2
    tone = np.sin(2 * np.pi * frequency * np.arange(from_rate // 4) / from_rate).astype(np.float32)
    result = resample(tone, from_rate, to_rate)
    expected = np.sin(2 * np.pi * frequency * np.arange(len(result)) / to_rate)
    assert np.abs(result - expected)[1000:-1000].max() < 10 ** (-90 / 20)


@pytest.mark.parametrize(("from_rate", "to_rate"), [(48000, 44100), (44100, 22050), (96000, 44100), (44100, 8000)])
@pytest.mark.parametrize("share", [1.0, 1.05, 1.5])
def test_what_the_lower_rate_cannot_hold_is_gone(from_rate: int, to_rate: int, share: float) -> None:
    """100 dB down from the Nyquist frequency on: nothing folds back."""
    frequency = share * to_rate / 2
    if frequency >= from_rate / 2:
        frequency = 0.999 * from_rate / 2
    tone = np.cos(2 * np.pi * frequency * np.arange(from_rate // 2) / from_rate + 1).astype(np.float32)
    assert np.abs(resample(tone, from_rate, to_rate))[1000:-1000].max() < 10 ** (-98 / 20)


def test_upsampling_adds_no_images() -> None:
    tone = np.sin(2 * np.pi * 0.9 * 11025 * np.arange(22050) / 22050).astype(np.float32)
    result = resample(tone, 22050, 44100)[1000:-1000]
    spectrum = np.abs(np.fft.rfft(result * np.blackman(len(result))))
    upper = np.fft.rfftfreq(len(result), 1 / 44100) > 11025
    assert spectrum[upper].max() < spectrum.max() * 10 ** (-95 / 20)


@pytest.mark.parametrize("rates", [(0, 44100), (44100, -1), (44100.5, 48000)])
def test_rates_that_cannot_be(rates: tuple) -> None:
    with pytest.raises(UsageError):
        Resampler(*rates, channels=1)


def test_disk_space_is_that_of_the_target(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or (10**9, 0, 10**6))
    most = (10**6 - files.RESERVE) // 4  # a disk that this fills up is full before the last of it
    Writer("a.wav", RATE, frames=most)
    with pytest.raises(NoRoom, match=r"needs up to 1\.0 MB, 1\.0 MB are free; make room"):
        Writer("a.wav", RATE, frames=most + 1)
    assert asked == [folder, folder]


@settings(deadline=None)
@given(st.integers(2, 3000), st.integers(1, 3000))
def test_a_circle_is_resampled_as_scipy_does(before: int, after: int) -> None:
    """All but what lies at the Nyquist frequency itself, which scipy halves and we leave out."""
    samples = np.random.default_rng(before).standard_normal((before, 2)).astype(np.float32)
    spectrum = np.fft.rfft(samples.astype(float), axis=0)
    spectrum[(min(before, after) + 1) // 2 :] = 0
    expected = scipy_resample(np.fft.irfft(spectrum, before, axis=0), after)
    result = resample_circle(samples, after)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=2e-5)


@pytest.mark.parametrize(("before", "after"), [(331776, 330750), (84992, 84672), (4096, 6043), (4097, 4095)])
def test_whole_waves_of_a_circle_stay_whole_waves(before: int, after: int) -> None:
    def waves(length: int) -> np.ndarray:
        turns = np.array([[3, 440], [1, 1500]])
        return np.sin(2 * np.pi * turns * np.arange(length)[:, None, None] / length).sum(axis=2) / 2

    np.testing.assert_allclose(resample_circle(waves(before).astype(np.float32), after), waves(after), atol=2e-6)
