"""The whole way from audio files to generated music, tiny; and that interrupted training loses nothing."""

import dataclasses
import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import everwave
import numpy as np
import pytest
import soundfile
from everwave import networks, weights
from everwave import signal as runtime_signal
from everwave.config import CEILING_BINS, DECODER_FRAMES, PRESETS, TUNED, Condition, Config
from everwave.errors import EverwaveError, UsageError
from everwave.networks import AUTOENCODER
from everwave.ops.numpy_ops import NumpyOps
from everwave.stopping import Stopped
from everwave_trainer import backend, checkpoint, cli, disk, loop
from everwave_trainer.autoencoder import AutoencoderTrainer, choose_config, find
from everwave_trainer.corpora.store import Track, select
from everwave_trainer.encode import _at_speed
from everwave_trainer.export import UNSTATED, joined_licences
from everwave_trainer.latents import Latents
from everwave_trainer.start import choose_conditions, with_conditions
from keras import ops

TINY = ["--preset", "tiny", "--batch-size", "2", "--deterministic"]


def test_errors_are_one_line(corpus, tmp_path, capsys, monkeypatch):
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        cli.main(["gan"])
    for stage in ("level2", "finish", "chunk", "phases"):
        assert cli.main(["autoencoder", str(corpus), *TINY, "--stage", stage, "-o", str(tmp_path / "run")]) == 2
    monkeypatch.setitem(sys.modules, "keras", None)
    monkeypatch.delitem(sys.modules, "everwave_trainer.export")
    monkeypatch.delattr("everwave_trainer.export")
    assert cli.main(["export", "run", "--licence", "CC0-1.0", "-o", str(tmp_path / "model.h5")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 + 4 + 1
    assert all(line.startswith("everwave-train: error: ") for line in lines)
    assert all("as --init" in line for line in lines[1:5])
    assert "pip install tensorflow keras" in lines[5]
    with pytest.raises(ModuleNotFoundError):
        cli.main(["export", "run", "--licence", "CC0-1.0", "-o", str(tmp_path / "model.h5"), "--debug"])


class InMemory(SimpleNamespace):
    """A track that is in no file."""

    excerpt = Track.excerpt


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """A folder of three short stereo files: chords with a beat."""
    folder = tmp_path_factory.mktemp("music")
    rng = np.random.default_rng(0)
    time_axis = np.arange(12 * 44100) / 44100
    for i in range(3):
        tones = sum(np.sin(2 * np.pi * f * time_axis) for f in rng.uniform(80, 2000, 4)) / 12
        beat = np.exp(-8 * (time_axis % 0.5))
        left = tones * beat + 0.01 * rng.standard_normal(len(time_axis))
        soundfile.write(folder / f"piece{i}.wav", np.stack([left, np.roll(left, 500)], axis=1), 44100)
    return folder


@pytest.fixture(scope="module")
def corpus(music, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    assert cli.main(["corpus", "--audio", str(music), "-o", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def autoencoders(tmp_path_factory):
    """Three autoencoder files: random ones, the same with another decoder, the same with another encoder."""
    folder = tmp_path_factory.mktemp("autoencoders")
    model = weights.random_model(PRESETS["tiny"], 1)
    kept = {name: model.parameters[name] for name in AUTOENCODER}
    other = weights.random_model(PRESETS["tiny"], 2).parameters
    files = []
    for name in (None, "frame_decoder", "frame_encoder"):
        files.append(folder / f"{name}.h5")
        parameters = kept | ({name: other[name]} if name else {})
        weights.write(files[-1], dataclasses.replace(model, kind="autoencoder", parameters=parameters))
    return files


def arrays(folder):
    with np.load(folder / checkpoint.FILE, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def assert_same_checkpoint(one, other):
    a, b = arrays(one), arrays(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def assert_only_changed(networks, one, other):
    """Of the autoencoder's four networks, in two run folders."""
    before, after = arrays(one), arrays(other)
    for name in AUTOENCODER:
        key = f"{name}:0"
        changed = key not in before or (before[key] != after[key]).any()  # level 1 has no chunks yet
        assert changed == (name in networks)


def test_what_an_autoencoder_begins_with_may_have_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("autoencoder") == weights.find("autoencoder")
    (tmp_path / "autoencoder").mkdir()  # a run
    assert find("autoencoder") == Path("autoencoder")


def test_an_angle_stays_one_when_it_is_trained_on(autoencoders):
    assert choose_config("full", autoencoders[0]) == PRESETS["tiny"]
    assert choose_config("tiny", None).autoencoder.phase == "vector"


def assert_phases_alone_change(run, level2, tmp_path, capsys):
    """Stage phases: its layers learn, tunings among them; vectors come along, everything else stays."""
    phases, angles = tmp_path / "phases", tmp_path / "angles.h5"
    assert run("--stage", "phases", "--init", level2, "-o", phases) == 0
    before, after = (weights.read(folder / "autoencoder.h5") for folder in (level2, phases))
    assert after.config.autoencoder == dataclasses.replace(before.config.autoencoder, phase="tuned")
    for network, values in before.parameters.items():
        for name, value in values.items():
            learned = network == "frame_decoder" and name.split("/")[0] in ("p1", "p0", "phase")
            now = after.parameters[network][name]
            if name.startswith("phase/"):
                tunings = now[..., value.shape[-1] :]
                assert tunings.shape[-1] == before.config.signal.bins // TUNED
                assert tunings.any()
                now = now[..., : value.shape[-1]]
                np.testing.assert_allclose(now, value, atol=0.01)  # three steps from where it was
            assert (now != value).any() == learned, name
    weights.write(angles, weights.random_model(PRESETS["tiny"]))
    assert run("--stage", "phases", "--init", angles, "-o", tmp_path / "none") == 2
    assert "begins at an autoencoder with phases as vectors" in capsys.readouterr().err


def test_corpus_to_generated_music(corpus, tmp_path, capsys):
    run = lambda *words: cli.main([str(w) for w in words])  # noqa: E731
    level1, level2 = tmp_path / "level1", tmp_path / "level2"
    train = ["autoencoder", corpus, *TINY, "--steps", 3]
    assert run(*train, "--stage", "level1", "-o", level1) == 0
    assert run(*train, "--stage", "level2", "--init", level1, "-o", level2) == 0
    assert_only_changed({"chunk_encoder", "chunk_decoder"}, level1, level2)
    assert choose_config("full", level1) == choose_config("tiny", None)  # what is trained on has its own sizes
    assert run(*train, "--stage", "level2", "--init", level1, "--critic-weight", 0.1, "-o", tmp_path / "judged") == 2
    assert "level2 decodes nothing" in capsys.readouterr().err
    finish, autoencoder = tmp_path / "finish", tmp_path / "autoencoder.h5"
    assert run(*train, "--stage", "finish", "--init", level2, "-o", finish) == 0
    assert_only_changed({"frame_decoder", "chunk_decoder"}, level2, finish)
    assert "critic:0" in arrays(finish)
    assert run("export", finish, "-o", autoencoder, "--licence", "CC0-1.0") == 0
    assert_phases_alone_change(lambda *words: run(*train, *words), level2, tmp_path, capsys)
    last = tmp_path / "last"
    assert run(*train, "--stage", "chunk", "--init", tmp_path / "phases", "-o", last) == 0
    assert_only_changed({"chunk_decoder"}, tmp_path / "phases", last)

    chunk, own = tmp_path / "chunk", tmp_path / "own.h5"
    assert run(*train, "--stage", "chunk", "--init", level2, "-o", chunk) == 0
    assert_only_changed({"chunk_decoder"}, level2, chunk)

    latents = tmp_path / "latents"
    assert run("encode", corpus, "--autoencoder", autoencoder, "-o", latents) == 0
    opened = Latents.open(latents)
    assert len(opened.pieces) == 3
    real, conditions, origins, starts = opened.crops(64, 4, seed=1, step=0)
    assert real.shape == (4, 64, 32)
    assert conditions.shape == (4, 64, 0)
    for crop, origin, start in zip(real, origins, starts, strict=True):  # where it says it is from, there it is
        first, shift = divmod(round(4 * start), 4)
        there = opened.array(origin % 3)[shift, first : first + 64]
        np.testing.assert_array_equal(crop, np.roll(there, 16, axis=1) if origin >= 3 else there)
    gan = tmp_path / "gan"
    assert run("gan", latents, *TINY, "--steps", 3, "-o", gan) == 0
    model_file = tmp_path / "tiny.h5"
    assert run("export", gan, "-o", model_file, "--licence", "CC0-1.0") == 0
    model = everwave.load(model_file)
    audio = model.generate(seconds=2, seed=7)
    assert run("export", gan, "-o", own, "--licence", "CC0-1.0", "--chunk-decoder", chunk) == 0
    assert np.abs(everwave.load(own).generate(seconds=2, seed=7) - audio).max() > 0
    assert run("export", level2, "-o", own, "--licence", "CC0-1.0", "--chunk-decoder", chunk) == 2
    assert audio.shape == (2 * 44100, 2)
    assert np.isfinite(audio).all()
    assert np.abs(audio).max() > 0
    assert model.info()["licence"] == "CC0-1.0"


def test_an_autoencoder_that_lacks_what_a_stage_leaves_as_it_is(corpus, tmp_path, capsys):
    """Or that would be trained beside random networks, and nobody would hear of it."""
    words = ["autoencoder", corpus, *TINY, "--steps", 1, "-o"]
    assert cli.main([*map(str, words), str(tmp_path / "level1"), "--stage", "level1"]) == 0
    for stage in ("chunk", "finish", "phases"):
        begin = ["--stage", stage, "--init", tmp_path / "level1"]
        assert cli.main([*map(str, [*words, tmp_path / stage, *begin])]) != 0
        assert "--init" in capsys.readouterr().err.splitlines()[-1]
        assert not (tmp_path / stage / "autoencoder.h5").exists()


def test_a_corpus_of_another_rate_is_refused_before_any_work(music, tmp_path, capsys):
    low = str(tmp_path / "low")
    assert cli.main(["corpus", "--audio", str(music), "--sample-rate", "22050", "--hold-out", "1", "-o", low]) == 0
    assert cli.main(["evaluate", "techno", low, "--measures", "reconstruction"]) == 2
    assert cli.main(["corpus", "--audio", str(music), "--sample-rate", "22050", "--hold-out", "0", "-o", low]) == 0
    assert cli.main(["autoencoder", low, *TINY, "--stage", "level1", "-o", str(tmp_path / "run")]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert all("22050 Hz, but" in line and "works at 44100 Hz" in line for line in errors)
    assert len(errors) == 2


def test_a_song_that_changes_is_encoded_anew_and_loses_its_labels(autoencoders, tmp_path):
    from everwave_trainer.corpora.store import Corpus
    from everwave_trainer.labels.store import TrackLabels, read, write

    song, corpus, latents = (tmp_path / name for name in ("a/song.wav", "corpus", "latents"))
    song.parent.mkdir()

    def encoded(seed):
        samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (3 * 44100, 2))
        soundfile.write(song, samples, 44100)
        build = ["corpus", "--audio", song.parent, "--hold-out", 0, "-o", corpus]
        encode = ["encode", corpus, "--autoencoder", autoencoders[0], "-o", latents]
        assert [cli.main(list(map(str, words))) for words in (build, encode)] == [0, 0]
        (track,), opened = Corpus.open(corpus).tracks, Latents.open(latents)
        assert len(opened.files) == 1
        return track, np.array(opened.array(0))

    track, one = encoded(1)
    write(corpus, track.id, TrackLabels(120.0, sources={"bpm": "me.csv"}))
    _, again = encoded(1)
    np.testing.assert_array_equal(one, again)
    assert read(corpus, track.id).bpm == 120.0
    _, two = encoded(2)  # as long, as large, and of the same name
    assert two.shape == one.shape
    assert np.abs(two - one).max() > 0.01
    assert read(corpus, track.id) == TrackLabels()


def test_corpora_of_folders_that_are_called_alike_are_not_mixed_up(autoencoders, tmp_path, capsys):
    """What both have is one track, and no error."""
    for i, name in enumerate(("one", "two")):
        (tmp_path / name / "music").mkdir(parents=True)
        for song, seed in (("same.wav", 0), ("song.wav", 1 + i)):
            samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (2 * 44100, 2))
            soundfile.write(tmp_path / name / "music" / song, samples, 44100)
        words = ["corpus", "--audio", tmp_path / name / "music", "--hold-out", 0, "-o", tmp_path / f"corpus-{name}"]
        assert cli.main(list(map(str, words))) == 0
    corpora = [tmp_path / "corpus-one", tmp_path / "corpus-two"]
    words = ["encode", *corpora, "--autoencoder", autoencoders[0], "-o", tmp_path / "latents"]
    assert cli.main(list(map(str, words))) == 2
    assert "'music--song-" in (said := capsys.readouterr().err)
    assert "encode each into a folder of its own" in said
    assert not (tmp_path / "latents").exists()


def test_any_model_names_the_autoencoder_to_encode_with(corpus, tmp_path):
    """Its domain's file does, and so does the copy in the folder itself."""
    latents = tmp_path / "latents"
    for words in (["techno"], ["techno"], [str(latents / "autoencoder.h5")]):
        assert cli.main(["encode", str(corpus), "-o", str(latents), "--autoencoder", *words]) == 0
    assert len(Latents.open(latents).pieces) == 3


def test_latents_of_several_folders(corpus, autoencoders, tmp_path, capsys):
    one, other_decoders, other_encoders = autoencoders
    encode = lambda file, folder, *words: cli.main(  # noqa: E731
        ["encode", str(corpus), "--autoencoder", str(file), "-o", str(tmp_path / folder), *words]
    )
    assert encode(one, "slow", "--speeds", "0.9") == 0
    assert encode(one, "fast", "--speeds", "1.1", "1", "1.0") == 0  # which is no speed of its own
    folders = [tmp_path / "slow", tmp_path / "fast"]
    slow, fast = map(Latents.open, folders)
    both = Latents.join(folders)
    assert both.pieces == slow.pieces + fast.pieces
    assert len(both.files) == 9
    assert (
        slow.sources["hours"] == fast.sources["hours"] == pytest.approx(both.sources["hours"], abs=0.002)
    )  # one music
    assert both.sources["packages"] == slow.sources["packages"]

    before = (tmp_path / "fast" / "latents.json").read_text()
    assert encode(other_encoders, "fast") == 2  # their latents would stand beside those of others
    assert "from other encoders" in capsys.readouterr().err
    assert (tmp_path / "fast" / "latents.json").read_text() == before
    assert encode(other_decoders, "fast") == 0
    with pytest.raises(UsageError, match="autoencoder"):
        Latents.join(folders)


def test_what_is_trained_on_latents_knows_how_loud_their_music_is(corpus, autoencoders, tmp_path):
    """The largest log-magnitude of any frame, band by band, or a neighbour's; of latents of before, when they are encoded again."""
    folder, config = tmp_path / "latents", PRESETS["tiny"]
    words = ["encode", str(corpus), "--autoencoder", str(autoencoders[0]), "--speeds", "1", "0.9", "-o", str(folder)]
    assert cli.main(words) == 0
    latents, bins = Latents.open(folder), config.signal.bins
    top = np.full(bins, -1.0)
    for track in select([corpus], "train"):
        for samples in (track.samples, _at_speed(track, 0.9)):
            for channel in samples.T.astype(np.float32) / 32768:
                top = np.maximum(
                    top, runtime_signal.log_magnitude(runtime_signal.stft(channel, config.signal)).max(axis=0)
                )
    bands = [top[i : i + CEILING_BINS].max() for i in range(0, bins, CEILING_BINS)]
    expected = [max(bands[max(i - 1, 0) : i + 2]) for i in range(len(bands))]
    assert latents.ceiling() == pytest.approx(expected, abs=1e-3)
    assert with_conditions(config, latents, [])[0].generator.ceiling == latents.ceiling()
    assert Config.from_dict(with_conditions(config, latents, [])[0].to_dict()).generator.ceiling == latents.ceiling()

    data = json.loads((folder / "latents.json").read_text())
    del data["pieces"][0]["loudest"]
    (folder / "latents.json").write_text(json.dumps(data))
    assert Latents.open(folder).ceiling() == ()
    loud = dataclasses.replace(config, generator=dataclasses.replace(config.generator, ceiling=(0.5,) * len(bands)))
    assert with_conditions(loud, Latents.open(folder), [])[0].generator.ceiling == loud.generator.ceiling
    assert cli.main(words) == 0
    assert Latents.open(folder) == latents


def test_gan_with_a_condition_resumes_exactly_and_is_averaged(tmp_path, monkeypatch):
    from everwave_trainer import gan

    monkeypatch.setattr(gan, "EAR_CROPS", 2 * gan.EAR_BATCH)
    backend.deterministic()  # also where no test before this one asked for it
    rng = np.random.default_rng(0)
    latents = tmp_path / "latents"
    latents.mkdir()
    tiny = weights.random_model(PRESETS["tiny"])
    networks = {name: tiny.parameters[name] for name in AUTOENCODER}
    weights.write(latents / "a.h5", weights.ModelFile(tiny.config, "autoencoder", networks, "CC0-1.0"))
    pieces = []
    for i in range(3):
        np.save(latents / f"{i}.npy", rng.standard_normal((2, 300, 32)).astype(np.float16))
        density = np.linspace(0, 9, 300).tolist() if i else 4.0
        pieces.append({"file": f"{i}.npy", "title": "", "package": "", "steps": 300, "labels": {"density": density}})
    data = {
        "version": 2,
        "autoencoder": {"file": "a.h5", "sha256": ""},
        "sources": {},
        "latent_rate": 10.0,
        "pieces": pieces,
    }
    (latents / "latents.json").write_text(json.dumps(data))

    def trainer():
        new = gan.GanTrainer(PRESETS["tiny"], Latents.open(latents), steps=4, batch_size=2, conditions=["density"])
        new.sample = lambda folder, step: None
        return new

    def watch(step, *batch):
        nonlocal wanted
        result = averaged_step(step, *batch)
        decay = (2 + step) / (11 + step)
        wanted = [decay * x + (1 - decay) * y for x, y in zip(wanted, values(), strict=True)]
        return result

    whole, halves = tmp_path / "whole", tmp_path / "halves"
    averaged = trainer()
    values = lambda: [ops.convert_to_numpy(v) for v in averaged.generator.trainable_variables]  # noqa: E731
    wanted, averaged_step, averaged.step = values(), averaged.step, watch
    loop.run(averaged, whole, 4)
    half = trainer()
    half.sample = lambda folder, step: signal.raise_signal(signal.SIGTERM) if step == 2 else None
    with pytest.raises(Stopped) as stop:
        loop.run(half, halves, 4, minutes=1e-9)
    assert stop.value.number == signal.SIGTERM
    assert json.loads(arrays(halves)["meta"].tobytes())["step"] == 2
    loop.run(trainer(), halves, 4)
    assert_same_checkpoint(whole, halves)
    condition = averaged.config.generator.conditions[0]
    assert (condition.name, condition.low, condition.high) == ("density", 0.0, 9.0)
    for variable, average, now in zip(averaged.average.variables, wanted, values(), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(variable), average, rtol=1e-5, atol=1e-7)
        assert np.abs(now - average).max() > 0 or not now.any()


def test_the_rate_falls_alone_and_falls_again_when_the_critic_joins():
    from everwave_trainer.rates import Falling

    rate = Falling(8.0, 3.0, alone=100, steps=1000)
    half = lambda share: 0.02 + 0.98 * (1 + np.cos(np.pi * share)) / 2  # noqa: E731
    wanted = {0: 8.0, 25: 8 * half(0.25), 99: 8 * half(0.99), 100: 3.0, 550: 3 * half(0.5), 1000: 0.06, 5000: 0.06}
    np.testing.assert_allclose([float(rate(step)) for step in wanted], list(wanted.values()), rtol=1e-5)
    never = Falling(8.0, 3.0, alone=5000, steps=1000)  # no critic at all: the whole run is one fall
    np.testing.assert_allclose([float(never(step)) for step in (0, 500, 1000)], [8.0, 8 * half(0.5), 3.0], rtol=1e-5)


def test_a_rate_that_rises_first_ends_at_a_fiftieth():
    from everwave_trainer.rates import falling

    rate = falling(8.0, 1000, rise=50)
    np.testing.assert_allclose([float(rate(step)) for step in (0, 25, 50)], [0.0, 4.0, 8.0], rtol=1e-5)
    middle, end = 8 * (0.02 + 0.98 / 2), 8 * 0.02
    np.testing.assert_allclose([float(rate(step)) for step in (525, 1000, 5000)], [middle, end, end], rtol=1e-5)


@pytest.mark.parametrize(("name", "value", "times"), [("bpm", 120.0, "beats"), ("density", 2.0, "onsets")])
def test_clocks_follow_the_labels_as_the_runtime_follows_the_wish(tmp_path, name, value, times):
    """A piece of 120 bpm whose first bar begins at 0: the crop's inputs are those that `bpm=120` gives a generator."""
    from everwave import conditioning
    from everwave.config import Config, GeneratorConfig, SignalConfig
    from everwave_trainer.latents import beats_at

    steps = np.arange(300, dtype=np.float16)[:, None]
    np.save(tmp_path / "0.npy", np.stack([np.repeat(steps + shift / 4, 4, axis=1) for shift in range(4)]))
    labels = {name: value, times: (np.arange(8) / 2).tolist()}
    pieces = [{"file": "0.npy", "title": "", "package": "", "steps": 300, "labels": labels}]
    data = {"version": 2, "autoencoder": {}, "sources": {}, "latent_rate": 10.0, "pieces": pieces}
    (tmp_path / "latents.json").write_text(json.dumps(data))
    latents = Latents.open(tmp_path)
    (condition,) = latents.conditions([name])
    assert condition.clocks == (1, 4)
    crops, inputs, _, _ = latents.crops(20, 8, seed=0, step=0, conditions=[condition])
    config = Config(SignalConfig(16000, 100), generator=GeneratorConfig(conditions=(condition,)))
    wished = conditioning.signal(config, {name: value})
    for crop, got in zip(crops, inputs, strict=True):
        n = crop[:, 0].astype(np.float64)  # the latents say where they are
        clocks = conditioning.channels(condition, np.full(20, value), wished.beats(0, n))
        np.testing.assert_allclose(got, np.stack(clocks, axis=1), atol=1e-5)
    assert beats_at(np.array([1.0, 1.5, 2.5]), np.array([0.0, 1.0, 1.75, 2.0, 4.5])) == pytest.approx(
        [-2, 0, 1.25, 1.5, 4]
    )


def test_an_export_may_offer_less_than_the_data_had_and_never_more(tmp_path):
    from dataclasses import replace

    from everwave import weights
    from everwave.config import PRESETS, Condition

    config, condition = PRESETS["tiny"], Condition("density", "onsets per second", 5.0, 3.0, 0.0, 20.0)
    config = replace(config, generator=replace(config.generator, conditions=(condition,)))
    weights.write(tmp_path / "model.h5", replace(weights.random_model(config), licence="CC0-1.0"), "float32")
    run = lambda *words: cli.main(["export", str(tmp_path), "--licence", "CC0-1.0", *map(str, words)])  # noqa: E731
    out = tmp_path / "out.h5"
    assert run("-o", out, "--range", "density", 3, 9) == 0
    assert weights.read(out).config.generator.conditions == (replace(condition, low=3.0, high=9.0),)
    assert run("-o", out, "--range", "density", 3, 21) == 2
    assert run("-o", out, "--range", "density", 9, 3) == 2
    assert run("-o", out, "--range", "density", "few", "many") == 2
    assert run("-o", out, "--range", "bpm", 3, 9) == 2


def test_an_export_may_spread_styles_and_anchors_and_not_conditions(tmp_path):
    bpm = Condition("bpm", "beats per minute", 140.0, 10.0, 110.0, 170.0, (1, 4))
    config = dataclasses.replace(
        PRESETS["tiny"], generator=dataclasses.replace(PRESETS["tiny"].generator, conditions=(bpm,))
    )
    trained = dataclasses.replace(weights.random_model(config), licence="CC0-1.0")
    weights.write(tmp_path / "model.h5", trained, "float32")
    run = lambda *words: cli.main(["export", str(tmp_path), "--licence", "CC0-1.0", *map(str, words)])  # noqa: E731
    out = tmp_path / "out.h5"
    assert run("-o", out, "--float32", "--spread", 1.5) == 0
    exported = weights.read(out)
    assert exported.provenance["spread"] == 1.5
    g = config.generator
    x = np.random.default_rng(0).standard_normal((1, g.window, g.coordinates)).astype(np.float32)
    longer = x.copy()
    longer[:, :, : g.anchor + g.style] *= 1.5
    pieces = [
        networks.generator(NumpyOps(m.parameters["generator"]), y, config)
        for m, y in ((exported, x), (trained, longer))
    ]
    np.testing.assert_allclose(*pieces, atol=1e-5 * np.abs(pieces[1]).max())
    assert np.abs(pieces[0] - networks.generator(NumpyOps(trained.parameters["generator"]), x, config)).max() > 0.01
    assert run("-o", out, "--spread", 0) == 2


def test_an_export_names_an_autoencoder_of_its_own_latents(autoencoders, tmp_path, capsys):
    """Its own in float16, with other decoders or not; not one of other encoders or sizes, nor a file without one."""
    one, other_decoders, other_encoders = autoencoders
    own = weights.read(one)
    exact = {
        name: {k: v.astype(np.float32) * np.float32(1 + 1e-5) for k, v in p.items()}
        for name, p in own.parameters.items()
    }
    weights.write(tmp_path / "own.h5", dataclasses.replace(own, parameters=exact), "float32")
    generator = {"generator": weights.random_model(PRESETS["tiny"]).parameters["generator"]}
    domain = weights.ModelFile(own.config, "domain", generator, "CC0-1.0", {}, weights.reference(tmp_path / "own.h5"))
    weights.write(tmp_path / "model.h5", domain)
    wide = dataclasses.replace(own.config.signal, hop_length=2 * own.config.signal.hop_length)
    wider = dataclasses.replace(own.config, signal=wide)
    weights.write(tmp_path / "wider.h5", weights.random_model(wider))

    def export(run, name):
        words = ["export", run, "--licence", "CC0-1.0", "--autoencoder", name, "-o", tmp_path / "out.h5"]
        return cli.main(list(map(str, words)))

    for file in (one, other_decoders):
        assert export(tmp_path, file) == 0
        assert weights.read(tmp_path / "out.h5").autoencoder == weights.reference(file)
    for file in (other_encoders, tmp_path / "wider.h5", tmp_path / "model.h5"):
        assert export(tmp_path, file) == 2
        assert "not the one that the run was trained with" in capsys.readouterr().err
    assert "beside it" not in capsys.readouterr().err
    (tmp_path / "there").mkdir()
    words = ["export", tmp_path, "--licence", "CC0-1.0", "-o", tmp_path / "there" / "out.h5"]
    for more, place in (([], tmp_path / "own.h5"), (["--autoencoder", one], one)):
        assert cli.main(list(map(str, [*words, *more]))) == 0  # and where it was put it would not play
        assert f"out.h5: plays only with {place.name} beside it: copy {place} there" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "autoencoder.h5").write_bytes(one.read_bytes())
    assert export(tmp_path / "run", one) == 2
    assert "is no generator" in capsys.readouterr().err


def test_licences_of_what_a_model_is_made_of_are_named_once():
    assert joined_licences(UNSTATED, "CC0-1.0") == "CC0-1.0"
    assert joined_licences("MIT", "not stated") == "MIT AND not stated"
    assert joined_licences("CC0-1.0 AND MIT", "MIT AND GPL-2.0-only") == "CC0-1.0 AND MIT AND GPL-2.0-only"
    assert joined_licences("CC-BY-SA-3.0 OR GPL-2.0-only", "MIT") == "(CC-BY-SA-3.0 OR GPL-2.0-only) AND MIT"
    assert joined_licences("MIT", "MIT", UNSTATED, "CC0-1.0") == "MIT AND CC0-1.0"
    assert joined_licences(UNSTATED, UNSTATED) == UNSTATED


def test_an_autoencoder_carries_the_licence_of_what_it_began_with(tmp_path):
    """Through a run of level 1, which leaves no weights file, too; and a chunk decoder into the model that takes it along."""
    model = dataclasses.replace(weights.random_model(PRESETS["tiny"]), licence="GPL-2.0-only")
    start = dataclasses.replace(model, provenance={"steps": 7, "metrics": {"of": "another"}})
    weights.write(tmp_path / "start.h5", start)
    track = InMemory(source_sha256="", frames=9, sample_rate=44100, package="p", licence="MIT", seconds=1.0)
    for name in ("level1", "level2"):
        (tmp_path / name).mkdir()
    level1 = AutoencoderTrainer("level1", model.config, [track], steps=1)
    level1.initialise(tmp_path / "start.h5")
    checkpoint.save(tmp_path / "level1", 1, level1.variables(), level1.settings)
    level2 = AutoencoderTrainer("level2", model.config, [track], steps=1)
    level2.initialise(tmp_path / "level1")
    level2.sample(tmp_path / "level2", 3)
    made = weights.read(tmp_path / "level2" / "autoencoder.h5")
    assert (made.licence, made.provenance["init"], made.provenance["steps"]) == ("GPL-2.0-only", {"steps": 7}, 3)
    weights.write(tmp_path / "model.h5", dataclasses.replace(model, licence="CC0-1.0", kind="bundle"))
    words = ["export", tmp_path, "--licence", "MIT", "--chunk-decoder", tmp_path / "level2", "-o", tmp_path / "out.h5"]
    assert cli.main(list(map(str, words))) == 2  # which a bundle has
    domain = {"generator": model.parameters["generator"]}
    reference = weights.reference(tmp_path / "start.h5")
    file = weights.ModelFile(model.config, "domain", domain, "CC0-1.0", {}, reference)
    weights.write(tmp_path / "model.h5", file)
    assert cli.main(list(map(str, words))) == 0
    assert weights.read(tmp_path / "out.h5").licence == "CC0-1.0 AND GPL-2.0-only AND MIT"


def test_an_export_may_be_the_mean_of_runs_that_began_alike(tmp_path, capsys):
    domains = []
    for seed, name in enumerate(("one", "two", "three")):
        file = weights.random_model(PRESETS["tiny"], seed)
        file = dataclasses.replace(file, licence="CC0-1.0", provenance={"metrics": {"of": "another"}})
        (tmp_path / name).mkdir()
        weights.write(tmp_path / name / "model.h5", file, "float32" if seed else "float16")
        domains.append(weights.read(tmp_path / name / "model.h5"))
    other = dataclasses.replace(PRESETS["tiny"], generator=dataclasses.replace(PRESETS["tiny"].generator, style=3))
    (tmp_path / "other").mkdir()
    weights.write(tmp_path / "other" / "model.h5", weights.random_model(other))
    out = tmp_path / "out.h5"

    def export(*runs):
        words = ["export", tmp_path / "one", "--licence", "CC0-1.0", "-o", out, "--float32", "--mean-with"]
        return cli.main([*map(str, words), *(str(tmp_path / run) for run in runs)])

    assert export("two", "three") == 0
    exported = weights.read(out)
    assert exported.provenance["mean_of"] == 3
    assert "metrics" not in exported.provenance
    for name, parameters in exported.parameters.items():
        for key, value in parameters.items():
            expected = np.mean([d.parameters[name][key].astype(np.float64) for d in domains], axis=0)
            np.testing.assert_allclose(value, expected, atol=1e-6)
    assert export("two", "other") == 2
    assert "began with the same weights" in capsys.readouterr().err
    assert export("nothing") == 1


def test_an_export_may_inject_less_noise(tmp_path):
    trained = dataclasses.replace(weights.random_model(PRESETS["tiny"]), licence="CC0-1.0")
    weights.write(tmp_path / "model.h5", trained, "float32")
    out = tmp_path / "out.h5"
    export = ["export", str(tmp_path), "--licence", "CC0-1.0", "-o", str(out), "--float32", "--noise"]
    assert cli.main([*export, "0.5"]) == 0
    exported = weights.read(out)
    assert exported.provenance["noise"] == 0.5
    g = PRESETS["tiny"].generator
    x = np.random.default_rng(0).standard_normal((1, g.window, g.coordinates)).astype(np.float32)

    def piece(model, strength):
        rng = np.random.default_rng(1)
        noise = lambda layer, batch, steps: strength * rng.standard_normal((batch, steps)).astype(np.float32)  # noqa: E731
        return networks.generator(NumpyOps(model.parameters["generator"], noise), x, PRESETS["tiny"])

    np.testing.assert_allclose(piece(exported, 1.0), piece(trained, 0.5), atol=1e-5)
    assert np.abs(piece(exported, 1.0) - piece(trained, 1.0)).max() > 1e-3
    assert cli.main([*export, "-1"]) == 2


def test_a_style_is_a_condition_of_every_piece(tmp_path):
    folders = []
    for style in ("piano", "orchestral"):
        folder = tmp_path / style
        folder.mkdir()
        np.save(folder / "0.npy", np.zeros((4, 20, 8), np.float16))
        pieces = [{"file": "0.npy", "title": "", "package": "", "steps": 20, "labels": {}, "style": style}]
        data = {"version": 2, "autoencoder": {"sha256": ""}, "sources": {}, "latent_rate": 10.0, "pieces": pieces}
        (folder / "latents.json").write_text(json.dumps(data))
        folders.append(folder)
    latents = Latents.join(folders).labelled(["piano"])
    assert [p.labels["piano"] for p in latents.pieces] == [1.0, 0.0]
    (piano,) = latents.conditions(["piano"])
    assert piano == Condition("piano", "", 0.5, 0.5, 0.0, 1.0, choices=(0.0, 1.0))
    _, inputs, origins, _ = latents.crops(16, 50, 0, 0, [piano])
    np.testing.assert_array_equal(inputs[:, 0, 0], np.where(origins % 2 == 0, 1.0, -1.0))
    with pytest.raises(UsageError, match="jazz"):
        latents.labelled(["jazz"])
    orchestral = dataclasses.replace(piano, choices=(0.0,), high=0.0)
    config = dataclasses.replace(
        PRESETS["tiny"], generator=dataclasses.replace(PRESETS["tiny"].generator, conditions=(orchestral,))
    )
    with pytest.raises(UsageError, match="its piano can be 0, but in this music it is also 1"):
        choose_conditions(config, latents, ["piano"])


def test_pieces_without_the_labels_are_left_out(tmp_path):
    np.save(tmp_path / "0.npy", np.zeros((4, 10, 4), np.float16))
    labels = [
        {},
        {"bpm": 100.0},
        {"bpm": 120.0, "beats": [0.0, 0.5]},
        {"bpm": 140.0, "beats": [0.0, 0.5], "density": 3.0},
    ]
    pieces = [{"file": "0.npy", "title": "", "package": "", "steps": 10, "labels": x} for x in labels]
    data = {"version": 2, "autoencoder": {}, "sources": {}, "latent_rate": 10.0, "pieces": pieces}
    (tmp_path / "latents.json").write_text(json.dumps(data))
    latents = Latents.open(tmp_path)
    assert len(latents.labelled([]).pieces) == 4
    assert [p.labels["bpm"] for p in latents.labelled(["bpm"]).pieces] == [120, 140]  # those with beats, as some have
    assert [p.labels["bpm"] for p in latents.labelled(["bpm", "density"]).pieces] == [140]
    with pytest.raises(UsageError, match="tempo: no piece"):
        latents.labelled(["tempo"])


def test_pieces_hold_no_files_open(tmp_path):
    """Or a corpus of a thousand would need more than a system allows, usually 1,024."""
    pieces = []
    for i in range(100):
        np.save(tmp_path / f"{i}.npy", np.full((4, 10, 4), i, np.float16))
        pieces.append({"file": f"{i}.npy", "title": "", "package": "", "steps": 10, "labels": {}})
    data = {"version": 2, "autoencoder": {}, "sources": {}, "latent_rate": 10.0, "pieces": pieces}
    (tmp_path / "latents.json").write_text(json.dumps(data))
    before = len(os.listdir("/dev/fd"))
    latents = Latents.open(tmp_path)
    crops, _, origins, _ = latents.crops(8, 200, seed=0, step=0)
    np.testing.assert_array_equal(crops[:, 0, 0], origins % 100)
    np.testing.assert_allclose(latents.statistics()[0], 49.5)
    assert len(os.listdir("/dev/fd")) < before + 50
    (tmp_path / "7.npy").unlink()
    with pytest.raises(EverwaveError, match=r"7\.npy: .*encode the corpus again"):
        latents.statistics()


def test_killed_training_ends_in_the_same_weights(corpus, tmp_path):
    def start(folder, minutes):
        words = ["autoencoder", corpus, *TINY, "--stage", "level1", "--steps", "12", "--minutes", minutes, "-o", folder]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen([sys.executable, "-m", "everwave_trainer.cli", *map(str, words)], env=environment)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, 5).wait(timeout=170) == 0
    process = start(killed, 1e-6)  # a checkpoint after every step
    deadline = time.monotonic() + 120
    while not (killed / checkpoint.FILE).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = json.loads(arrays(killed)["meta"].tobytes())["step"]
    assert 0 < steps < 12, "killed too late to show anything"
    assert start(killed, 5).wait(timeout=170) == 0
    assert_same_checkpoint(whole, killed)


class Counts:
    """A trainer whose weight is the number of its steps."""

    settings: ClassVar = {}

    def __init__(self):
        import keras

        self.weight, self.samples = keras.Variable(0.0), []

    def variables(self):
        return {"weight": [self.weight]}

    def batch(self, step):
        return ()

    def step(self, step):
        self.weight.assign(self.weight + 1)
        return {"loss": 1.0}

    def sample(self, folder, step):
        self.samples.append(step)


def test_every_checkpoint_is_written_once_and_never_behind_its_weights(tmp_path):
    from everwave.errors import EverwaveError

    counts = Counts()
    assert loop.run(counts, tmp_path, 3, minutes=1e-9) == 3
    assert counts.samples == [1, 2, 3]
    assert loop.run(Counts(), tmp_path, 5) == 5
    with pytest.raises(EverwaveError, match="has 5 steps already"):
        loop.run(Counts(), tmp_path, 4)
    again = Counts()
    assert checkpoint.restore(tmp_path, again.variables(), {}) == 5 == float(again.weight)


@pytest.fixture(params=["SIGINT", "SIGTERM", "SIGHUP"])
def number(request):
    """A signal that is not ignored, as a test run in the background has some."""
    number = getattr(signal, request.param)
    before = signal.signal(number, signal.default_int_handler)
    yield number
    assert signal.signal(number, before) is signal.default_int_handler  # whoever took it gave it back


class Hears(Counts):
    """A trainer that gets the signal `number` in its step `step`, or in the checkpoint after `sample` steps."""

    def __init__(self, number, *, step=None, sample=None):
        super().__init__()
        self.number, self.places = number, (step, sample)

    def step(self, step):
        if step == self.places[0]:
            signal.raise_signal(self.number)
        return super().step(step)

    def sample(self, folder, step):
        if step == self.places[1]:
            signal.raise_signal(self.number)
        super().sample(folder, step)


@pytest.mark.parametrize(("place", "steps"), [({"step": 1}, 2), ({"sample": 4}, 4), ({"step": 3}, 4)])
def test_every_signal_that_asks_to_end_is_heard_and_costs_no_step(number, place, steps, tmp_path):
    """The last checkpoint is no exception: what called the run shall not go on."""
    with pytest.raises(Stopped) as stop:
        loop.run(Hears(number, **place), tmp_path, 4)
    assert stop.value.number == number
    again = Counts()
    assert checkpoint.restore(tmp_path, again.variables(), {}) == steps == float(again.weight)
    assert loop.run(Counts(), tmp_path, 4) == 4


def test_a_signal_that_is_ignored_stays_so(number, tmp_path):
    """As `nohup` has it."""
    signal.signal(number, signal.SIG_IGN)
    try:
        assert loop.run(Hears(number, step=1), tmp_path, 4) == 4
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, signal.default_int_handler)


def test_the_first_signal_says_what_is_waited_for(tmp_path, capsys):
    with pytest.raises(Stopped):
        loop.run(Hears(signal.SIGTERM, step=1), tmp_path, 4)
    assert capsys.readouterr().err.count(f"{tmp_path}: finishing the checkpoint") == 1


def test_a_run_may_end_by_the_clock(tmp_path, monkeypatch, capsys):
    """Its bar is one of minutes then."""

    class Shown(loop.tqdm):
        def __init__(self, **words):
            super().__init__(**words | {"disable": False, "mininterval": 0})

    monkeypatch.setattr(loop, "tqdm", Shown)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=itertools.count(0.0, 10.0).__next__))
    assert 0 < loop.run(Counts(), tmp_path, 1_000_000, minutes=np.inf, limit=1.0) < 10
    bar = capsys.readouterr().err
    assert "/1.0 min, step=" in bar
    assert "1000000" not in bar


def test_a_full_disk_names_the_folder(tmp_path):
    class Full(Counts):
        def sample(self, folder, step):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(EverwaveError) as error:
        loop.run(Full(), tmp_path, 2)
    assert str(error.value) == (
        f"{tmp_path}: No space left on device; what was finished is kept: mend it, or make room, and run again"
    )


def test_a_copy_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    def half(source, target):
        target.write(source.read(3))
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_bytes(b"whole")
    monkeypatch.setattr(disk.shutil, "copyfileobj", half)
    with pytest.raises(OSError, match="No space"):
        disk.copy(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    monkeypatch.undo()
    disk.copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"whole"


def test_training_in_a_thread(tmp_path):
    """Where Python lets nobody handle signals."""
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(loop.run, Counts(), tmp_path, 3).result() == 3


def test_held_out_tracks_shorter_than_a_window_of_the_decoder_are_no_samples(tmp_path):
    s = PRESETS["tiny"].signal
    window = s.n_fft + (DECODER_FRAMES - 1) * s.hop_length
    short, long = (
        InMemory(samples=np.ones((n, 2), np.int16), frames=n, sample_rate=s.sample_rate, source_sha256="")
        for n in (window - 1, window)
    )
    trainer = AutoencoderTrainer("level1", PRESETS["tiny"], [long], steps=1, held_out=[short, long, short])
    trainer.sample(tmp_path, 7)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["step0000007-0.flac", "step0000007-0.png"]
    heard, _ = soundfile.read(tmp_path / "samples" / "step0000007-0.flac")
    assert len(heard) == 2 * window + s.sample_rate // 4  # real, a quarter of a second of silence, reconstructed


@pytest.mark.parametrize("hop", [16, 1024])
def test_the_shortest_and_the_longest_hop_can_be_trained(hop):
    """At 16 the lowest of 33 bins is wider than a band of onset strength."""
    tiny = PRESETS["tiny"]
    config = dataclasses.replace(tiny, signal=dataclasses.replace(tiny.signal, hop_length=hop))
    samples = np.random.default_rng(0).integers(-9000, 9000, (200 * hop, 2), np.int16)
    track = InMemory(samples=samples, frames=len(samples), sample_rate=44100, source_sha256="")
    trainer = AutoencoderTrainer("level1", config, [track], steps=1, batch_size=1)
    scalars = trainer.step(0, *trainer.batch(0))
    assert all(np.isfinite(float(value)) for value in scalars.values())


def test_not_a_number_stops_training_and_keeps_the_last_good_checkpoint(tmp_path):
    from everwave.errors import EverwaveError

    class Diverges(Counts):
        def step(self, step):
            return super().step(step) | ({"loss": np.nan} if step == 5 else {})

    with pytest.raises(EverwaveError, match=r"step 5: .*last good one"):
        loop.run(Diverges(), tmp_path, 10, minutes=1e-9)
    restored = Diverges()
    assert checkpoint.restore(tmp_path, restored.variables(), {}) == 5
    assert float(restored.weight) == 5.0


def test_weights_that_are_not_numbers_replace_no_checkpoint(tmp_path):
    """A loss is of the weights before the step, so theirs may be the first to show it."""

    class Diverges(Counts):
        def step(self, step):
            if step == 5:
                self.weight.assign(np.nan)
            return super().step(step)

    with pytest.raises(EverwaveError, match=r"step 6: weight is not finite; there is no checkpoint in .*with a lower"):
        loop.run(Diverges(), tmp_path / "long", 6)
    assert not checkpoint.exists(tmp_path / "long")
    with pytest.raises(EverwaveError, match=r"step 6: weight is not finite; .*last good one: .*--init and a lower"):
        loop.run(Diverges(), tmp_path, 10, minutes=1e-9)
    restored = Diverges()
    assert checkpoint.restore(tmp_path, restored.variables(), {}) == 5
    assert float(restored.weight) == 5.0


def test_a_signal_ends_a_run_with_its_number_after_a_checkpoint(corpus, tmp_path, monkeypatch, capsys):
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *x: (save(*x), signal.raise_signal(signal.SIGTERM)))
    words = ["autoencoder", corpus, *TINY, "--stage", "level1", "--steps", 5, "--minutes", 1e-9, "-o", tmp_path]
    assert cli.main(list(map(str, words))) == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert json.loads(arrays(tmp_path)["meta"].tobytes())["step"] == 1


def test_a_refused_run_says_so_in_one_line_and_leaves_nothing(corpus, autoencoders, tmp_path, capsys):
    """TensorFlow starts before the condition is looked for; what it writes to standard error by itself is no line of ours."""
    latents = tmp_path / "latents"
    assert cli.main(["encode", str(corpus), "--autoencoder", str(autoencoders[0]), "-o", str(latents)]) == 0
    command = [sys.executable, "-m", "everwave_trainer.cli", "gan", latents, *TINY, "--conditions", "no-such", "-o"]
    done = subprocess.run([*command, tmp_path / "run"], capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert line.startswith("everwave-train: error: conditions no-such: no piece")
    assert "(3 of 3 lack no-such); label the corpus" in line
    assert (done.returncode, (tmp_path / "run").exists()) == (2, False)
    capsys.readouterr()
    taken = tmp_path / "taken"
    taken.write_text("somebody's")
    for arguments in (
        ["gan", latents],
        ["encode", corpus, "--autoencoder", autoencoders[0]],
        ["evaluate", autoencoders[0], corpus],
    ):
        assert cli.main([*map(str, arguments), "-o", str(taken / "run")]) == 2
        assert f"{taken} is no folder" in capsys.readouterr().err
    assert taken.read_text() == "somebody's"
    assert (
        cli.main(
            [
                "encode",
                str(corpus),
                "--autoencoder",
                str(autoencoders[0]),
                "--styles",
                "no-such",
                "-o",
                str(tmp_path / "none"),
            ]
        )
        == 2
    )
    assert not (tmp_path / "none").exists()


def test_a_reader_that_leaves_is_no_error(autoencoders):
    command = [sys.executable, "-m", "everwave_trainer.cli", "card", str(autoencoders[0])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    from everwave.errors import EverwaveError

    checkpoint.save(tmp_path, 3, {}, {"seed": 0})
    path = tmp_path / checkpoint.FILE
    for contents in (path.read_bytes()[:100], b"", b"no archive"):
        path.write_bytes(contents)
        with pytest.raises(EverwaveError, match=r"checkpoint\.npz: damaged .* --init"):
            checkpoint.restore(tmp_path, {}, {})


def test_other_settings_are_refused_on_resume(tmp_path):
    from everwave.errors import EverwaveError

    checkpoint.save(tmp_path, 3, {}, {"seed": 0})
    with pytest.raises(EverwaveError, match="seed=0, not 1"):
        checkpoint.restore(tmp_path, {}, {"seed": 1})
    assert checkpoint.restore(tmp_path, {}, {"seed": 0, "data": "which an earlier trainer did not note"}) == 3


def test_of_other_settings_only_what_differs_is_said(tmp_path):
    config = {"generator": {"width": 4, "window": 128, "conditions": [{"name": "bpm", "low": 90.0}]}}
    settings = {"seed": 0, "init": 64 * "a", "data": 64 * "b", "config": config}
    checkpoint.save(tmp_path, 3, {}, settings)
    wide = {"generator": config["generator"] | {"width": 64, "conditions": [{"name": "bpm", "low": 100.0}]}}
    with pytest.raises(EverwaveError) as error:
        checkpoint.check(tmp_path, {"seed": 0, "init": 64 * "c", "data": 64 * "d", "config": wide})
    said = str(error.value).removeprefix(f"{tmp_path}: the checkpoint was trained with ")
    assert said == (
        "another --init, other music, or other labels of it, generator.width=4, not 64, "
        "generator.conditions.0.low=90.0, not 100.0; use the same or another folder"
    )


def test_a_checkpoint_of_an_earlier_trainer_is_refused_in_one_line(tmp_path):
    import keras
    from everwave.errors import EverwaveError

    checkpoint.save(tmp_path, 3, {"weight": [keras.Variable(1.0)]}, {})
    variables = {"weight": [keras.Variable(0.0)], "moments": [keras.Variable(0.0)]}
    with pytest.raises(EverwaveError, match=r"no 'moments'.*--init"):
        checkpoint.restore(tmp_path, variables, {})
    assert float(variables["weight"][0]) == 0.0  # nothing half loaded
    with pytest.raises(EverwaveError, match=r"no 'weight' of these sizes.*--init"):
        checkpoint.restore(tmp_path, {"weight": [keras.Variable([0.0, 0.0])]}, {})


def test_a_checkpoint_to_begin_with_that_does_not_fit_is_not_called_damaged(tmp_path):
    import keras

    checkpoint.save(tmp_path, 3, {"a": [keras.Variable(1.0)], "b": [keras.Variable([2.0, 2.0])]}, {})
    variables = {"a": [keras.Variable(0.0)], "b": [keras.Variable(0.0)], "c": [keras.Variable(0.0)]}
    with pytest.raises(
        EverwaveError, match=r"no 'b' of these sizes, as another trainer wrote it; give the weights file"
    ):
        checkpoint.load_groups(tmp_path, variables)
    assert float(variables["a"][0]) == 0.0  # nothing half loaded
    variables["b"] = [keras.Variable([0.0, 0.0])]
    assert checkpoint.load_groups(tmp_path, variables) == {"a", "b"}
    assert [float(variables["a"][0]), *np.array(variables["b"][0])] == [1.0, 2.0, 2.0]
