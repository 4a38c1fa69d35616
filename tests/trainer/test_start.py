"""What a run on latents starts from: the same autoencoder, conditions that the music has, and, resumed, the same file."""

import json
from dataclasses import replace

import numpy as np
import pytest
from everwave import weights
from everwave.config import PRESETS, Condition
from everwave.errors import EverwaveError, UsageError
from everwave.networks import AUTOENCODER
from everwave_trainer import cli
from everwave_trainer.latents import Latents
from everwave_trainer.refiner import RefinerTrainer
from everwave_trainer.start import choose_conditions, model_of, with_conditions

TINY = PRESETS["tiny"]
TEMPO = Condition("bpm", "beats per minute", 130.0, 10.0, 116.0, 144.0, clocks=(1, 4))


def a_model(folder, name, conditions=(), seed=1, autoencoder="autoencoder.h5"):
    """A random domain file with a refiner and a chunk decoder of its own."""
    config = replace(TINY, generator=replace(TINY.generator, conditions=conditions, refiner=2))
    parts = {n: weights.random_parameters(n, config, seed) for n in ("generator", "refiner", "chunk_decoder")}
    reference = weights.reference(folder / autoencoder)
    path = folder / name
    weights.write(
        path, weights.ModelFile(config, "domain", parts, "CC0-1.0", {"posttrained": {}}, reference), "float32"
    )
    return path


def some_latents(folder, *labels, steps=300):
    """Random latents of one piece for each of `labels`."""
    model = weights.random_model(TINY)
    parts = {name: model.parameters[name] for name in AUTOENCODER}
    weights.write(folder / "autoencoder.h5", weights.ModelFile(TINY, "autoencoder", parts, "CC0-1.0"), "float32")
    shape = (2, steps, 2 * TINY.autoencoder.latents)
    np.save(folder / "0.npy", np.random.default_rng(0).standard_normal(shape).astype(np.float16))
    pieces = [{"file": "0.npy", "title": "", "package": "", "steps": steps, "labels": x} for x in labels]
    reference = weights.reference(folder / "autoencoder.h5")
    data = {"version": 2, "autoencoder": reference, "sources": {}, "latent_rate": 10.0, "pieces": pieces}
    (folder / "latents.json").write_text(json.dumps(data))
    return Latents.open(folder)


def steady(bpm):
    return {"bpm": bpm, "beats": [0.0, 60 / bpm, 120 / bpm]}


def test_a_label_called_as_something_else_is_no_condition(tmp_path):
    with pytest.raises(UsageError, match="--conditions gain"):
        with_conditions(TINY, some_latents(tmp_path, {"gain": 1.0}), ["gain"])


def test_a_tempo_that_the_music_has_may_be_asked_for_and_no_other(tmp_path):
    config = replace(TINY, generator=replace(TINY.generator, conditions=(TEMPO,)))
    (tempo,) = choose_conditions(config, some_latents(tmp_path, steady(172.0), steady(174.0)), ["bpm"])
    assert tempo == replace(TEMPO, low=172.0, high=174.0)  # what the network sees keeps its meaning
    density = Condition("density", "onsets per second", 4.0, 2.0, 1.0, 10.0)
    config = replace(TINY, generator=replace(TINY.generator, conditions=(density,)))
    curve = some_latents(tmp_path, {"density": [15.0] * 300})
    assert choose_conditions(config, curve, ["density"]) == (density,)  # 10 is what it was found to obey


def test_music_without_beats_is_refused_by_whatever_needs_them(tmp_path):
    latents = some_latents(tmp_path, {"bpm": 120.0})
    with pytest.raises(UsageError, match="no piece says when its beats are"):
        RefinerTrainer(a_model(tmp_path, "clocked.h5", (TEMPO,)), latents, steps=1)


def test_pieces_that_lack_a_label_are_told(tmp_path, capsys):
    _, kept = with_conditions(TINY, some_latents(tmp_path, steady(120.0), {}), ["bpm"])
    assert len(kept.pieces) == 1
    assert capsys.readouterr().err == "1 pieces are left out: 1 of 2 lack beats, 1 of 2 lack bpm\n"


def test_one_piece_with_beats_does_not_leave_out_all_others(tmp_path, capsys):
    """They are worth more than its clocks; but a model that has clocks cannot go on without."""
    latents = some_latents(tmp_path, steady(120.0), {"bpm": 130.0}, {"bpm": 140.0}, {})
    config, kept = with_conditions(TINY, latents, ["bpm"])
    assert [piece.labels["bpm"] for piece in kept.pieces] == [120.0, 130.0, 140.0]
    assert config.generator.conditions[0].clocks == ()
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "1 pieces are left out: 1 of 4 lack bpm",
        "bpm has no clocks: 1 of 3 pieces say when their beats are",
    ]
    clocked = replace(TINY, generator=replace(TINY.generator, conditions=(TEMPO,)))
    _, kept = with_conditions(clocked, latents, ["bpm"])
    assert [piece.labels["bpm"] for piece in kept.pieces] == [120.0]
    assert capsys.readouterr().err == "3 pieces are left out: 3 of 4 lack beats, 1 of 4 lack bpm\n"
    plain = replace(TINY, generator=replace(TINY.generator, conditions=(replace(TEMPO, clocks=()),)))
    assert len(with_conditions(plain, latents, ["bpm"])[1].pieces) == 3


def test_what_the_gan_cannot_be_asked_for(tmp_path, capsys):
    words = ["gan", str(tmp_path), "-o", str(tmp_path / "run")]
    for option, value in (("--alone", "-1"), ("--critic-width", "0"), ("--critic-width", "-4")):
        assert cli.main([*words, option, value]) == 2
        assert f"{option}={value}" in capsys.readouterr().err


def test_latents_that_are_damaged_are_named(tmp_path):
    for text in ('{"version": 2, "pie', "[]", '{"version": 1}'):
        (tmp_path / "latents.json").write_text(text)
        with pytest.raises(EverwaveError, match=r"latents\.json: .*; delete it and encode the corpus again"):
            Latents.open(tmp_path)


def test_latents_of_another_autoencoder_are_refused(tmp_path):
    latents = some_latents(tmp_path)
    other = weights.random_model(TINY, seed=7)
    parts = {name: other.parameters[name] for name in AUTOENCODER}
    weights.write(tmp_path / "other.h5", weights.ModelFile(TINY, "autoencoder", parts, "CC0-1.0"), "float32")
    with pytest.raises(UsageError, match=r"--denoiser .*model\.h5: its autoencoder is not the autoencoder\.h5"):
        model_of(a_model(tmp_path, "model.h5", autoencoder="other.h5"), latents, "--denoiser")
    bundle = tmp_path / "bundle.h5"
    weights.write(bundle, other, "float32")
    with pytest.raises(UsageError, match=r"--init .*bundle\.h5: its autoencoder is not"):
        model_of(bundle, latents)
    parts = dict(weights.read(tmp_path / "autoencoder.h5").parameters)
    parts["frame_decoder"] = other.parameters["frame_decoder"]  # which latents know nothing of
    weights.write(bundle, replace(other, parameters=other.parameters | parts), "float32")
    assert "generator" in model_of(bundle, latents).parameters


@pytest.mark.parametrize("command", ["gan", "refiner"])
def test_a_run_goes_on_only_with_the_file_that_it_began_with(command, tmp_path, capsys):
    some_latents(tmp_path, {})
    one, other = (a_model(tmp_path, f"{seed}.h5", seed=seed) for seed in (1, 2))
    words = [command, tmp_path, "--steps", 1, "--batch-size", 2, "-o", tmp_path / "run", "--init"]
    run = lambda *init: cli.main([str(word) for word in (*words, *init)])  # noqa: E731
    assert run(one) == 0
    made = weights.read(tmp_path / "run" / "model.h5")
    own = weights.read(one).parameters["chunk_decoder"]
    for name, value in made.parameters["chunk_decoder"].items():  # stays, and so does what is known of the model
        np.testing.assert_array_equal(value, own[name])
    assert "posttrained" in made.provenance
    data = json.loads((tmp_path / "latents.json").read_text())
    data["pieces"] *= 2
    (tmp_path / "latents.json").write_text(json.dumps(data))
    assert run(other) == 1
    said = capsys.readouterr().err.splitlines()
    assert "was trained with another --init, other music, or other labels of it; use the same" in said[-1]
    assert len([line for line in said if "listening to the music" in line]) == (command == "gan")  # the first run alone


def test_latents_are_the_same_wherever_they_lie_until_training_sees_others(tmp_path):
    (there := tmp_path / "there").mkdir()
    latents = some_latents(there, steady(120.0), steady(140.0))
    seen = latents.fingerprint([TEMPO])
    there.rename(tmp_path / "here")
    moved = Latents.open(tmp_path / "here")
    assert moved.fingerprint([TEMPO]) == seen
    faster = replace(moved.pieces[1], labels=steady(141.0))
    other = replace(moved, pieces=(moved.pieces[0], faster))
    assert other.fingerprint([TEMPO]) != seen
    assert other.fingerprint([]) == moved.fingerprint([])  # without the condition nobody looks at the label
    again = replace(moved.pieces[1], sha256="of another song")
    assert replace(moved, pieces=(moved.pieces[0], again)).fingerprint([]) != moved.fingerprint([])


def test_too_little_music_is_said_at_once(tmp_path):
    latents = some_latents(tmp_path, {}, steps=40)
    assert latents.places(40).tolist() == [1]
    with pytest.raises(EverwaveError, match="no piece has the 41 latents"):
        latents.places(41)


def test_heads_alone_are_no_training(tmp_path, capsys):
    some_latents(tmp_path, {})
    words = ["posttrain", tmp_path, "--init", a_model(tmp_path, "m.h5"), "--steps", 60, "-o", tmp_path / "run"]
    assert cli.main([str(word) for word in words]) == 2
    assert "--steps 60: in the first 60 the heads learn alone" in capsys.readouterr().err
    assert cli.main([*(str(word) for word in words), "--seed", "-1"]) == 2
