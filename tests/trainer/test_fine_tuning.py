"""Fine-tuning: an imported checkpoint of the original is a model like any other; sizes come from files, not from presets."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import everwave
import numpy as np
import pytest
import soundfile
from everwave import weights
from everwave.config import PRESETS, Condition, GeneratorConfig
from everwave.errors import UsageError
from everwave.musika import import_checkpoint
from everwave.ops.numpy_ops import NumpyNetwork
from everwave.stopping import Stopped
from everwave_trainer import checkpoint, cli, corpora, finetune, loop
from everwave_trainer.corpora.store import Corpus
from everwave_trainer.gan import GanTrainer
from everwave_trainer.latents import Latents
from everwave_trainer.layers import variables
from everwave_trainer.start import choose_config
from keras import ops


def _musika_tests():
    """What writes checkpoints as the original does."""
    path = Path(__file__).parents[1] / "runtime" / "test_musika.py"
    spec = importlib.util.spec_from_file_location("musika_files", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A weights file with sizes that no preset has."""
    folder = tmp_path_factory.mktemp("imported")
    files = _musika_tests()
    files.write_checkpoint(folder, files.SMALL)
    weights.write(folder / "model.h5", import_checkpoint(folder, folder, 44100), "float32")
    return folder / "model.h5"


@pytest.fixture(scope="module")
def latents(imported, tmp_path_factory):
    """Noise, encoded by the imported autoencoder through the command line."""
    music, corpus, folder = (tmp_path_factory.mktemp(name) for name in ("music", "corpus", "latents"))
    rng = np.random.default_rng(0)
    for i in range(2):
        soundfile.write(music / f"{i}.wav", rng.uniform(-0.5, 0.5, (3 * 44100, 2)), 44100)
    assert cli.main(["corpus", "--audio", str(music), "-o", str(corpus)]) == 0
    assert cli.main(["encode", str(corpus), "--autoencoder", str(imported), "-o", str(folder)]) == 0
    return folder


def held_to(ceiling, config):
    """What is trained on music is held to how loud that is."""
    assert ceiling
    return replace(config, generator=replace(config.generator, ceiling=ceiling))


def test_training_starts_from_an_imported_generator(imported, latents):
    opened = Latents.open(latents)
    trainer = GanTrainer(choose_config("lite", imported, opened), opened, steps=1, batch_size=2)
    trainer.initialise(imported)
    original = weights.read(imported)
    assert trainer.config == held_to(opened.ceiling(), original.config)
    for name, value in trainer.average_parameters().items():
        np.testing.assert_allclose(value, original.parameters["generator"][name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_fine_tuned_import_generates(imported, latents, tmp_path, capsys):
    words = ["gan", latents, "--init", imported, "--steps", 1, "--batch-size", 2, "-o", tmp_path / "run"]
    assert cli.main([str(w) for w in words]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run' / 'model.h5'}: step 1\n"
    model = everwave.load(tmp_path / "run" / "model.h5")
    assert model.config == held_to(Latents.open(latents).ceiling(), weights.read(imported).config)
    assert model.generate(seconds=0.5, seed=1).shape == (22050, 2)


def test_a_generator_learns_what_its_refiner_makes_of_it(refined, latents):
    """What is compared with real music is what the runtime plays."""
    opened = Latents.open(latents)
    trainer = GanTrainer(choose_config("lite", refined, opened), opened, steps=1, batch_size=2)
    trainer.initialise(refined)
    for name, variable in variables(trainer.generator).items():  # which the runtime draws from its own generator
        if name.endswith("noise"):
            variable.assign([0.0])
    file, size = weights.read(refined), trainer.config.generator.window
    network = lambda name: NumpyNetwork(name, file.config, file.parameters[name])  # noqa: E731
    x = np.random.default_rng(0).standard_normal((2 * size, trainer.config.generator.coordinates)).astype(np.float32)
    made = [network("generator")(half[None])[0] for half in np.split(x, 2)]
    (expected,) = network("refiner")(np.concatenate(made, axis=1))
    played = ops.convert_to_numpy(trainer.generate(x[None])) * trainer.deviation + trainer.mean
    np.testing.assert_allclose(played, expected, rtol=1e-3, atol=1e-4)


def test_a_refiner_stays_behind_a_generator_that_is_trained_on(refined, latents, tmp_path):
    words = ["gan", latents, "--init", refined, "--steps", 1, "--batch-size", 2, "-o", tmp_path / "run"]
    assert cli.main([str(w) for w in words]) == 0
    before, after = weights.read(refined), weights.read(tmp_path / "run" / "model.h5")
    assert after.config == held_to(Latents.open(latents).ceiling(), before.config)
    for name, value in before.parameters["refiner"].items():
        np.testing.assert_array_equal(after.parameters["refiner"][name], value)


def test_a_new_generator_takes_the_sizes_of_the_autoencoder(imported, latents):
    config = choose_config("tiny", None, Latents.open(latents))
    expected = weights.read(imported).config
    assert (config.signal, config.autoencoder) == (expected.signal, expected.autoencoder)
    assert config.generator == PRESETS["tiny"].generator


def test_what_does_not_fit_is_said(imported, latents, tmp_path):
    opened = Latents.open(latents)
    other = tmp_path / "other.h5"
    weights.write(other, weights.random_model(PRESETS["tiny"]))
    with pytest.raises(UsageError, match="other sizes"):
        choose_config("tiny", other, opened)
    autoencoder = replace(weights.read(imported), kind="autoencoder")
    del autoencoder.parameters["generator"]
    weights.write(tmp_path / "a.h5", autoencoder)
    with pytest.raises(UsageError, match="no generator"):
        choose_config("tiny", tmp_path / "a.h5", opened)
    trainer = GanTrainer(choose_config("tiny", None, opened), opened, steps=1, batch_size=2)
    trainer.config = replace(
        trainer.config, generator=GeneratorConfig(conditions=(everwave.config.Condition("bpm", "", 0, 1, 0, 1),))
    )
    with pytest.raises(UsageError, match="conditions"):
        trainer.initialise(imported)


def test_music_of_none_of_the_styles_that_a_model_chooses_from(imported, latents, tmp_path):
    """The model goes on with what its condition says of other music, and offers nothing else any more."""
    file, piano = weights.read(imported), Condition("piano", "", 0.5, 0.5, 0.0, 1.0, choices=(0.0, 1.0))
    config = replace(file.config, generator=replace(file.config.generator, conditions=(piano,)))
    generator = {"generator": weights.random_parameters("generator", config, seed=5)}
    init = tmp_path / "init.h5"
    weights.write(init, replace(file, config=config, parameters=file.parameters | generator), "float32")
    words = ["gan", latents, "--init", init, "--steps", 1, "--batch-size", 2, "-o", tmp_path / "run"]
    assert cli.main([str(w) for w in words]) == 0
    model = everwave.load(tmp_path / "run" / "model.h5")
    assert model.conditions == (replace(piano, choices=(0.0,), high=0.0),)
    np.testing.assert_array_equal(model.generate(0.2, seed=1), model.generate(0.2, seed=1, piano=0))


def test_a_model_of_several_styles_is_compared_in_the_one_that_is_trained(imported, latents, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "PIECES", 4)
    monkeypatch.setattr(finetune, "SECONDS", 2.0)
    file, piano = weights.read(imported), Condition("piano", "", 0.5, 0.5, 0.0, 1.0, choices=(0.0, 1.0))
    both, one = (
        replace(file.config, generator=replace(file.config.generator, conditions=(condition,)))
        for condition in (piano, replace(piano, choices=(0.0,), high=0.0))
    )
    generator = {"generator": weights.random_parameters("generator", both, seed=5)}
    for name, config in (("both.h5", both), ("one.h5", one)):
        weights.write(tmp_path / name, replace(file, config=config, parameters=file.parameters | generator), "float32")
    compared = finetune.Comparison(Latents.open(latents), "music")
    assert compared.distance(tmp_path / "both.h5", one) == compared.distance(tmp_path / "one.h5")
    assert compared.distance(tmp_path / "both.h5") != compared.distance(tmp_path / "one.h5")


@pytest.fixture(scope="module")
def refined(imported):
    """The same with a refiner."""
    file = weights.read(imported)
    config = replace(file.config, generator=replace(file.config.generator, refiner=2))
    refiner = {"refiner": weights.random_parameters("refiner", config, seed=5)}
    refiner["refiner"]["out/kernel"] *= (
        0.005  # random ones make latents that no music has, and of them gradients that overflow
    )
    path = imported.with_name("refined.h5")
    weights.write(path, replace(file, config=config, parameters=file.parameters | refiner), "float32")
    return path


@pytest.mark.parametrize("init", ["imported", "refined"])
def test_one_command_fine_tunes_on_a_folder_of_audio(init, tmp_path, capsys, request, monkeypatch):
    imported = request.getfixturevalue(init)
    monkeypatch.setattr(finetune, "PIECES", 6)
    if init == "refined":  # as if it were nearest to the music as it is, before any training
        monkeypatch.setattr(
            finetune.Comparison, "distance", lambda _, model, config=None: 1.0 if model == imported else 2.0
        )
    music, rng = tmp_path / "music", np.random.default_rng(0)
    music.mkdir()
    out = music / "out"
    for i in range(12):  # of these names some are held out
        soundfile.write(music / f"{i}.wav", rng.uniform(-0.5, 0.5, (2 * 44100, 2)), 44100)
    (music / "broken.wav").write_text("no music")
    words = ["finetune", music, "--init", imported, "--minutes", 0.001, "--licence", "CC0-1.0", "-o", out]
    assert cli.main([str(w) for w in words]) == 0
    said, told = capsys.readouterr()[::-1]
    assert "broken.wav: cannot be read" in said
    assert ", held out " in said
    stays = "nothing was gained, distance to held-out music 1 -> 2: give more music"
    assert (stays if init == "refined" else "distance to held-out music ") in told.splitlines()[-1]
    assert "step 0: distance to held-out music" in said  # what it begins with counts, too
    trained, before = weights.read(out / "model.h5"), weights.read(imported)
    # as wide as the generator
    with_refiner = replace(before.config, generator=replace(before.config.generator, refiner=2))
    expected = held_to(Latents.open(out / "latents").ceiling(), with_refiner)
    assert (trained.licence, trained.config) == (f"{before.licence} AND CC0-1.0", expected)
    assert everwave.load(out / "model.h5").generate(seconds=0.5, seed=1).shape == (22050, 2)
    best = weights.read(out / "run" / "best.h5").parameters
    for network in ("generator", "refiner"):
        for name, value in trained.parameters[network].items():
            np.testing.assert_array_equal(value, best[network][name].astype(np.float16))
    if init == "refined":
        denoiser = weights.read(out / "refiner" / "model.h5").parameters["refiner"]
        own, kernel = before.parameters["refiner"], "d0a/kernel"
        assert 0 < np.abs(denoiser[kernel] - own[kernel]).max() < 0.1  # it learned; and what was nearer is kept
        np.testing.assert_allclose(trained.parameters["refiner"][kernel], own[kernel], atol=1e-3)
    split = [t.split for t in Corpus.open(out / "corpus").tracks]
    assert len(Latents.open(out / "latents").pieces) == 3 * split.count("train")
    assert len(Latents.open(out / "held-out").pieces) == split.count("held-out") > 0
    other = {"imported": "refined", "refined": "imported"}[init]
    words[words.index("--init") + 1] = request.getfixturevalue(other)
    assert cli.main([str(w) for w in words]) == 1  # another model goes into another folder
    assert "was trained with another --init" in capsys.readouterr().err
    assert [t.split for t in Corpus.open(out / "corpus").tracks] == split  # none of its own samples among them
    assert weights.read(out / "model.h5").provenance == trained.provenance


def a_song(path, seed, seconds=2.0):
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, (int(seconds * 44100), 2)), 44100)


@pytest.fixture
def collect(tmp_path):
    """Makes the corpus of a folder of songs, as the command does before it trains with 1.5 s at a time."""
    (tmp_path / "music").mkdir()
    config = PRESETS["tiny"]
    config = replace(config, generator=replace(config.generator, window=round(0.75 * config.signal.latent_rate)))

    def collect(licence=None):
        sources = corpora.own_sources([tmp_path / "music"], None, None, licence, tmp_path / "out")
        return {t.source: t for t in finetune._collect(sources, tmp_path / "out", config)}

    return collect


def test_what_is_held_out_was_stored_and_is_long_enough(collect, tmp_path, capsys):
    music = tmp_path / "music"
    for i in range(4):
        a_song(music / f"{i}.wav", i)
    names = [f"short{i}.wav" for i in range(20)]
    assert any(corpora.held_out(name, finetune.HOLD_OUT) for name in names)
    for i, name in enumerate(names):
        a_song(music / name, 10 + i, seconds=1.2)
    tracks = collect()
    kept = {name for name, track in tracks.items() if track.split == "held-out"}
    assert kept
    assert kept < {f"{i}.wav" for i in range(4)}
    (music / "0.wav").write_text("no music")
    (tmp_path / "out" / "corpus" / "manifest.json").unlink()
    capsys.readouterr()
    assert {track.split for track in collect().values()} == {"train"}
    assert "no track is held out: 3 of 23 have the 1 s that training needs, and 4 must" in capsys.readouterr().err


def test_training_goes_on_with_the_music_that_it_began_with(collect, tmp_path):
    """Or a song that it has learned would be held out, or a new one be used by half of the training."""
    music = tmp_path / "music"
    for i in range(4):
        a_song(music / f"{i}.wav", i)
    (music / "broken.wav").write_text("no music")
    collect("MIT")
    a_song(music / "4.wav", 4)
    before = collect()  # nothing is trained yet
    assert {(track.licence, len(before)) for track in before.values()} == {("MIT", 5), ("not stated", 5)}
    checkpoint.save(tmp_path / "out" / "corpus", 1, {}, {})
    (tmp_path / "out" / "refiner").mkdir()
    (tmp_path / "out" / "corpus" / checkpoint.FILE).rename(tmp_path / "out" / "refiner" / checkpoint.FILE)
    assert collect() == before
    assert {track.licence for track in collect("CC0-1.0").values()} == {"CC0-1.0"}
    (music / "4.wav").rename(music / "another name.wav")
    assert collect().keys() == before.keys()
    a_song(music / "5.wav", 5)
    with pytest.raises(UsageError, match=r"out: its training began with other music \(5\.wav is new or another\)"):
        collect()
    (music / "5.wav").unlink()
    (music / "3.wav").unlink()
    with pytest.raises(UsageError, match=r"3\.wav is missing\); choose another -o"):
        collect()
    (tmp_path / "out" / "music.json").unlink()  # as if an earlier version had begun it
    a_song(music / "5.wav", 5)
    collect()
    # nothing of it has gone into the corpus
    assert {t.source for t in Corpus.open(tmp_path / "out" / "corpus").tracks} == before.keys()


def test_what_was_gained_is_said():
    assert finetune._gain("music", 41.2, 17.0, 300, True) == "distance to music 41.2 -> 17, of step 300"
    assert finetune._gain("music", 41.2, 17.0, 0, False).endswith("17, by its refiner alone")
    for after in (17.0, 16.9):  # by another rounding
        said = finetune._gain("music", 17.0, after, 0, True)
        assert said.startswith(f"nothing was gained, distance to music 17 -> {after:g}: give more music")


def test_a_refiner_that_was_stopped_is_not_done(imported, latents, tmp_path, monkeypatch):
    def stopped(trainer, folder, steps, **_):
        folder.mkdir(parents=True, exist_ok=True)
        trainer.sample(folder, 3)
        raise Stopped(15)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run", stopped)
        with pytest.raises(Stopped):
            finetune._refine(imported, Latents.open(latents), tmp_path / "refiner", 1.0, 0)
    assert (tmp_path / "refiner" / "model.h5").exists()
    done = finetune._refine(imported, Latents.open(latents), tmp_path / "refiner", 1e-9, 0)
    assert weights.read(done).provenance["refiner"]["steps"] == 1
    before = weights.digest(done)
    assert finetune._refine(imported, Latents.open(latents), tmp_path / "refiner", 1e-9, 0) == done
    assert weights.digest(done) == before


def test_what_cannot_be_fine_tuned_is_said_before_any_work(imported, tmp_path, capsys, monkeypatch):
    words = ["finetune", str(tmp_path / "nowhere"), "-o", str(tmp_path / "out"), "--init"]
    assert cli.main([*words, str(imported)]) == 2
    assert "nowhere: no such file or folder" in capsys.readouterr().err
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "librosa" else find(name))
    assert cli.main([*words, "techno"]) == 2
    assert "pip install librosa" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_speeds_scale_length_and_labels(imported, tmp_path):
    from everwave_trainer.labels.store import TrackLabels, write

    music, corpus, folder = (tmp_path / name for name in ("music", "corpus", "latents"))
    music.mkdir()
    soundfile.write(music / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, (8 * 44100, 2)), 44100)
    assert cli.main(["corpus", "--audio", str(music), "--hold-out", "0", "-o", str(corpus)]) == 0
    (track,) = Corpus.open(corpus).tracks
    write(corpus, track.id, TrackLabels(120.0, None, (0.0, 0.5, 1.0), {"bpm": "me", "beats": "me"}))
    words = ["encode", corpus, "--autoencoder", imported, "--speeds", 1, 1.25, "-o", folder]
    assert cli.main([str(w) for w in words]) == 0
    plain, fast = Latents.open(folder).pieces
    assert fast.steps == pytest.approx(plain.steps / 1.25, abs=2)
    assert (fast.labels["bpm"], fast.labels["beats"]) == (150.0, [0.0, 0.4, 0.8])
    assert (plain.labels["bpm"], plain.labels["beats"]) == (120.0, [0.0, 0.5, 1.0])
    assert cli.main([str(w) for w in [*words[:4], "--speeds", 3, "-o", folder]]) == 2
