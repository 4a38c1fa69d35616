"""A refiner learns to take noise away, its file holds the same network, what does not fit it is said; and what is trained after it."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import everwave
import numpy as np
import pytest
from everwave import networks, weights
from everwave.config import PRESETS, Condition
from everwave.errors import EverwaveError, UsageError
from everwave.networks import AUTOENCODER
from everwave.ops.numpy_ops import NumpyOps
from everwave_trainer import backend, cli, loop, moments, variation
from everwave_trainer.latents import Latents
from everwave_trainer.posttrain import HEADS_ALONE, SHARE, PostTrainer
from everwave_trainer.refiner import LARGER, NOISE, RefinerTrainer, unit
from keras import ops

TINY = PRESETS["tiny"]
DENSITY = Condition("density", "onsets per second", 4.0, 2.0, 0.0, 9.0)
CONFIG = replace(TINY, generator=replace(TINY.generator, conditions=(DENSITY,)))
CHANNELS = 2 * TINY.autoencoder.latents


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Music of three numbers per latent, far from mean 0 and deviation 1, and a generator that knows nothing of it."""
    folder, rng = tmp_path_factory.mktemp("refiner"), np.random.default_rng(0)
    model = weights.random_model(CONFIG)
    own = weights.ModelFile(CONFIG, "autoencoder", {k: model.parameters[k] for k in AUTOENCODER}, "CC0-1.0")
    weights.write(folder / "autoencoder.h5", own)
    reference = weights.reference(folder / "autoencoder.h5")
    parts = {k: model.parameters[k] for k in ("generator", "chunk_decoder")}
    provenance = {"steps": 7, "metrics": {"tempo": 1}}
    domain = weights.ModelFile(CONFIG, "domain", parts, "CC0-1.0", provenance, reference)
    weights.write(folder / "model.h5", domain)
    mix = rng.standard_normal((3, CHANNELS)) * np.linspace(0.2, 3, CHANNELS)
    pieces, arrays = [], np.repeat(rng.standard_normal((3, 1, 75, 3)), 4, axis=2) @ mix + np.linspace(-2, 2, CHANNELS)
    for i, piece in enumerate(arrays):
        np.save(folder / f"{i}.npy", piece.astype(np.float16))
        labels = {"density": np.linspace(0, 9, 300).tolist()}
        pieces.append({"file": f"{i}.npy", "title": "", "package": "", "steps": 300, "labels": labels})
    data = {"version": 2, "autoencoder": reference, "sources": {}, "latent_rate": 10.0, "pieces": pieces}
    (folder / "latents.json").write_text(json.dumps(data))
    return folder


def trainer(folder, init="model.h5", steps=150):
    new = RefinerTrainer(folder / init, Latents.open(folder), steps=steps, batch_size=4, learning_rate=3e-3)
    assert new.config.generator.refiner == TINY.generator.width  # which the file's generator has
    return new


@pytest.fixture(scope="module")
def trained(folder):
    learned = trainer(folder)
    losses = [float(learned.step(i, *learned.batch(i))["loss"]) for i in range(150)]
    assert losses[0] == pytest.approx(1.0, abs=0.2)  # the mean is its first guess
    assert np.mean(losses[-20:]) < 0.6
    return learned


def test_noise_is_taken_away_from_music_that_it_has_not_seen(trained):
    """By the network as files hold it, in the runtime's NumPy, on latents as they are."""
    real, conditions, _, _ = trained.latents.crops(128, 6, 99, 0, trained.config.generator.conditions)
    noisy = real + NOISE * trained.deviation * np.random.default_rng(1).standard_normal(real.shape)
    smaller = trained.mean + (noisy - trained.mean) / LARGER
    x = np.concatenate([smaller, conditions], axis=2).astype(np.float32)
    refined = networks.refiner(NumpyOps(trained.average_parameters()), x, trained.config)
    guess = refined - trained.mean
    target = real - trained.mean
    error = lambda a: np.mean(np.square((a - target) / trained.deviation))  # noqa: E731
    assert error(guess) < 0.75
    assert error(noisy - trained.mean) > 1.3
    assert error((noisy - trained.mean) / unit(NOISE) ** 2) > error(guess) + 0.05  # no more than to make it smaller


def test_files_hold_what_was_trained(trained):
    real, conditions = trained.batch(200)
    average = trained.average.parameters()
    inside = networks.refiner(
        NumpyOps(average), np.concatenate([LARGER / unit(NOISE) * real, conditions], axis=2), trained.config
    )
    raw = np.concatenate([real * trained.deviation + trained.mean, conditions], axis=2)
    outside = networks.refiner(NumpyOps(trained.average_parameters()), raw.astype(np.float32), trained.config)
    np.testing.assert_allclose(outside, inside * trained.deviation + trained.mean, rtol=1e-3, atol=2e-3)
    for name, value in trained._normalised(trained.average_parameters(), NOISE, LARGER).items():
        np.testing.assert_allclose(value, average[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_run_resumes_exactly_and_leaves_a_model(folder, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    backend.deterministic()
    loop.run(trainer(folder, steps=4), whole, 4)
    loop.run(trainer(folder, steps=4), halves, 2)
    loop.run(trainer(folder, steps=4), halves, 4)
    with np.load(whole / "checkpoint.npz") as a, np.load(halves / "checkpoint.npz") as b:
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    before, after = weights.read(folder / "model.h5"), weights.read(halves / "model.h5")
    assert set(after.parameters) == {"generator", "refiner", "chunk_decoder"}
    for name, value in before.parameters["generator"].items():
        np.testing.assert_array_equal(after.parameters["generator"][name], value)
    assert after.provenance["steps"] == 7
    assert after.provenance["refiner"]["steps"] == 4
    assert "metrics" not in after.provenance  # they were measured without it
    assert everwave.load(halves / "model.h5").generate(0.3, seed=1, density=4).std() > 0


def test_one_is_trained_on(folder, trained, tmp_path):
    """From a model with a refiner, training begins with that one."""
    trained.sample(tmp_path, 150)
    again = trainer(folder, tmp_path / "model.h5")
    _same_but_the_last_layer(again, trained)
    assert np.mean([float(again.step(i, *again.batch(i))["loss"]) for i in range(5)]) < 0.7
    other = RefinerTrainer(folder / "model.h5", Latents.open(folder), steps=1, noise=0.5, larger=2.0)
    assert (other.noise, other.larger) != (NOISE, LARGER) == (trained.noise, trained.larger)
    other.sample(tmp_path, 0)
    again = trainer(folder, tmp_path / "model.h5")
    assert (again.noise, again.larger) == (0.5, 2.0)  # for which its weights were made
    _same_but_the_last_layer(again, other)
    assert trainer(folder, tmp_path / "model.h5").config == other.config


def _same_but_the_last_layer(again, before):
    """That is fitted to guess music again, as a file's may be stretched."""
    expected = before.average.parameters()
    for name, value in again.average.parameters().items():
        if not name.startswith("out/"):
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_what_is_exported_varies_as_music_does(folder, trained, tmp_path, capsys):
    """Along every principal component, unless that hardly varies; about the mean that it had."""
    trained.sample(tmp_path, 150)
    words = ["export", str(tmp_path), "--licence", "CC0-1.0", "--float32", "-o", str(tmp_path / "out.h5")]
    assert cli.main([*words, "--noise", "2", "--vary-as", str(folder)]) == 0
    after = weights.read(tmp_path / "out.h5")
    guess = weights.read(tmp_path / "model.h5").parameters["refiner"]
    assert "vary_as" in after.provenance
    before = replace(after, parameters=after.parameters | {"refiner": guess})
    before, after = variation.generated(before), variation.generated(after)
    np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), atol=0.02)
    real = trained.latents.crops(144, 500, 1, 1)[0].reshape(-1, CHANNELS)
    components = np.linalg.eigh(np.corrcoef(real, rowvar=False))[1][:, -3:]  # this music has three
    real, before, after = ((x / real.std(axis=0) @ components).std(axis=0) for x in (real, before, after))
    np.testing.assert_allclose(after, np.minimum(real, variation.MOST * before), rtol=0.1)
    assert np.abs(after / before - 1).max() > 0.5
    shutil.copy(folder / "model.h5", tmp_path / "model.h5")
    assert cli.main([*words, "--vary-as", str(folder)]) == 2
    assert "has no refiner; name the run of a model that has" in capsys.readouterr().err


def test_each_component_is_stretched_by_its_own_factor():
    """Two channels whose sum was guessed 1.25 times too large and whose difference 1.6 or 10 times too small."""
    rng = np.random.default_rng(0)
    both, apart = 2 * rng.standard_normal(50_000), rng.standard_normal(50_000)
    unit = {"in/bias": np.ones(2, np.float32), "out/kernel": np.eye(2)[None], "out/bias": np.zeros(2)}
    for smaller, expected in ((1.6, 1.0), (10, variation.MOST / 10)):
        guess = np.stack([1.25 * both + apart / smaller, 1.25 * both - apart / smaller], axis=1) + np.array([3, -1])
        found = variation.stretched(unit, guess, np.stack([both + apart, both - apart], axis=1))
        out = guess @ found["out/kernel"][0] + found["out/bias"]
        assert found["in/bias"] is unit["in/bias"]
        np.testing.assert_allclose(out.mean(axis=0), guess.mean(axis=0), atol=1e-3)
        np.testing.assert_allclose((out[:, 0] + out[:, 1]).std() / 2, 2.0, rtol=0.01)
        np.testing.assert_allclose((out[:, 0] - out[:, 1]).std() / 2, expected, rtol=0.01)


def test_one_command_and_what_does_not_fit(folder, tmp_path, capsys):
    words = ["refiner", str(folder), "--init", str(folder / "model.h5"), "--steps", "1", "--width", "2"]
    assert cli.main([*words, "-o", str(tmp_path / "run")]) == 0
    assert cli.main(["export", str(tmp_path / "run"), "--licence", "MIT", "-o", str(tmp_path / "out.h5")]) == 0
    exported = weights.read(tmp_path / "out.h5")
    assert exported.config.generator.refiner == 2
    assert exported.licence == "CC0-1.0 AND MIT"  # that of what it began with, too
    assert {a.dtype for a in exported.parameters["refiner"].values()} == {np.dtype("float16")}
    assert cli.main([*words[:-1], "0", "-o", str(tmp_path / "run")]) == 2
    assert cli.main(["refiner", str(folder), "--init", str(folder / "autoencoder.h5"), "-o", str(tmp_path / "x")]) == 2
    assert "has no generator; give a model that has one" in capsys.readouterr().err
    file = weights.read(folder / "model.h5")
    weights.write(
        tmp_path / "other.h5", replace(file, autoencoder={"file": "autoencoder.h5", "sha256": "0" * 64}), "float16"
    )
    with pytest.raises(UsageError, match="its autoencoder is not"):
        RefinerTrainer(tmp_path / "other.h5", Latents.open(folder), steps=1)


@pytest.fixture(scope="module")
def whole_model(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    trained.sample(folder, 150)
    return folder / "model.h5"


def test_heads_on_a_refiner_tell_music_and_are_pleased(folder, whole_model, monkeypatch):
    """First they learn alone; then what generator and refiner make comes nearer to what they take for music."""
    monkeypatch.setattr("everwave_trainer.critics.LISTENED", ("down2",))  # fewer are compiled sooner
    trainer = PostTrainer(whole_model, Latents.open(folder), steps=400, batch_size=4, learning_rate=1e-3)
    values = lambda group: [ops.convert_to_numpy(v).copy() for v in group]  # noqa: E731
    networks = [v for network in trainer.networks.values() for v in network.trainable_variables]
    frozen, before = trainer.features.found.variables, values(networks)
    as_it_was = values(frozen)
    alone = [trainer.step(i, *trainer.batch(i)) for i in range(HEADS_ALONE)]
    assert float(alone[0]["hinge"]) == pytest.approx(1.0, abs=0.1)
    assert float(alone[-1]["real"]) > float(alone[-1]["fake"]) + 0.8
    # this music has nothing to do with its density
    assert float(alone[-1]["real"]) < float(alone[-1]["wrong"]) + 0.3
    for a, b in zip(before, values(networks), strict=True):
        np.testing.assert_array_equal(a, b)
    fake = [float(trainer.step(i, *trainer.batch(i))["fake"]) for i in range(HEADS_ALONE, HEADS_ALONE + 60)]
    assert np.mean(fake[-10:]) > np.mean(fake[:10]) + 0.3
    for a, b in zip(as_it_was, values(frozen), strict=True):
        np.testing.assert_array_equal(a, b)


def test_heads_mind_whether_music_is_what_was_asked_for(folder, whole_model, tmp_path, monkeypatch):
    monkeypatch.setattr("everwave_trainer.critics.LISTENED", ("down1",))
    file, init = weights.read(whole_model), tmp_path / "model.h5"
    # this music has nothing to do with its density, so the refiner knew nothing of it
    file.parameters["refiner"]["in/kernel"][:, -1] = 1.0
    weights.write(init, file, "float32")
    trainer = PostTrainer(init, Latents.open(folder), steps=400, batch_size=8, learning_rate=1e-3)

    def music(count, step):
        """Each crop of a density of its own, and higher where that is."""
        real, _, wished = PostTrainer._music(trainer, count, step)
        drawn = np.random.default_rng(step).uniform(-2, 2, (count, 1, 1)).astype(np.float32)
        conditions = np.broadcast_to(drawn, wished[..., :1].shape)
        return real + conditions, conditions, np.concatenate([wished[..., :-1], np.roll(conditions, 1, axis=0)], axis=2)

    monkeypatch.setattr(trainer, "_music", music)
    said = [trainer.step(i, *trainer.batch(i)) for i in range(HEADS_ALONE)]
    apart = [float(x["real"]) - float(x["wrong"]) for x in said]
    assert abs(apart[0]) < 0.05
    assert np.mean(apart[-10:]) > 0.15


def test_how_much_changes_where_windows_meet_is_learned(folder, whole_model, monkeypatch):
    """However little heads mind: here four times as much as elsewhere counts as right, so that there is something to learn."""
    monkeypatch.setattr("everwave_trainer.critics.LISTENED", ("down2",))
    monkeypatch.setattr("everwave_trainer.posttrain.HEADS_ALONE", 0)
    monkeypatch.setattr("everwave_trainer.posttrain.MEETING_WEIGHT", 10.0)
    found = moments.where_windows_meet
    monkeypatch.setattr(moments, "where_windows_meet", lambda *x: (found(*x)[0] / 4, found(*x)[1]))
    trainer = PostTrainer(whole_model, Latents.open(folder), steps=400, batch_size=4, learning_rate=1e-3)
    wished = np.concatenate([trainer.batch(1000 + i)[2] for i in range(8)])

    def more() -> float:
        meet, elsewhere = found(trainer.generate(wished), trainer.config.generator.window)
        return float(meet / elsewhere)

    before = more()
    assert before < 1.5  # what a model of three steps happens to have; four are asked for
    said = [float(trainer.step(i, *trainer.batch(i))["meeting"]) for i in range(60)]
    assert max(2.5, 3 * before) < more() < 6.5
    assert np.mean(said[:10]) < -1
    assert abs(np.mean(said[-10:])) < 0.7


def test_features_are_those_of_music_as_it_is(folder, whole_model, tmp_path):
    """The refiner is given noisy latents as it was when it learned; all that it finds in music has mean 0 and deviation 1."""
    RefinerTrainer(whole_model, Latents.open(folder), steps=1, larger=2.0).sample(tmp_path, 0)
    trainer = PostTrainer(tmp_path / "model.h5", Latents.open(folder), steps=1)
    real, conditions, _ = trainer._music(64, 3)
    noisy = real + NOISE * np.random.default_rng(2).standard_normal(real.shape).astype(np.float32)
    *_, guess = trainer.features._of(ops.convert_to_tensor(np.concatenate([noisy, conditions], axis=2)))
    smaller = np.concatenate([noisy * trainer.deviation / 2.0 + trainer.mean, conditions], axis=2)
    parameters = weights.read(tmp_path / "model.h5").parameters["refiner"]
    itself = networks.refiner(NumpyOps(parameters), smaller, trainer.config)
    np.testing.assert_allclose(ops.convert_to_numpy(guess), itself, rtol=1e-3, atol=2e-3)
    for x in trainer.features(ops.convert_to_tensor(np.concatenate([noisy, conditions], axis=2))):
        assert abs(float(ops.mean(x))) < 0.3
        assert 0.5 < float(ops.std(x)) < 2.5


def test_post_training_resumes_exactly_and_leaves_a_model(folder, whole_model, tmp_path, monkeypatch):
    monkeypatch.setattr("everwave_trainer.posttrain.HEADS_ALONE", 0)
    monkeypatch.setattr("everwave_trainer.critics.LISTENED", ("down2",))  # fewer are compiled sooner
    backend.deterministic()
    # fast, or nothing would move in four steps
    settings = {"steps": 4, "batch_size": 2, "learning_rate": 0.05}
    trainer = lambda: PostTrainer(whole_model, Latents.open(folder), **settings)  # noqa: E731
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    loop.run(trainer(), whole, 4)
    loop.run(trainer(), halves, 2)
    loop.run(trainer(), halves, 4)
    with np.load(whole / "checkpoint.npz") as a, np.load(halves / "checkpoint.npz") as b:
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    before, after = weights.read(whole_model), weights.read(halves / "model.h5")
    assert (after.config, after.provenance["posttrained"]["steps"]) == (before.config, 4)
    for name, values in before.parameters.items():
        changed = any((after.parameters[name][key] != value).any() for key, value in values.items())
        assert changed == (name in ("generator", "refiner"))
    assert everwave.load(halves / "model.h5").generate(0.3, seed=1, density=4).std() > 0
    further = PostTrainer(whole_model, Latents.open(folder), **settings, share=1.0)
    loop.run(further, halves, 4)  # has ended, and leaves another model
    for name in ("generator", "refiner"):
        for key, value in weights.read(halves / "model.h5").parameters[name].items():
            there = before.parameters[name][key]
            between = there + SHARE * (value - there)
            np.testing.assert_allclose(after.parameters[name][key], between, rtol=1e-4, atol=1e-5)
        assert np.abs(value - there).max() > 1e-3  # of the last, so that this says something
    other = PostTrainer(halves / "model.h5", Latents.open(folder), **settings, denoiser=whole_model)
    with pytest.raises(EverwaveError, match="trained with another --init"):
        loop.run(other, halves, 4)


def test_the_refiner_of_another_file_may_judge(folder, whole_model, tmp_path, monkeypatch):
    monkeypatch.setattr("everwave_trainer.critics.LISTENED", ("down2",))
    latents = Latents.open(folder)
    narrower = RefinerTrainer(whole_model, latents, steps=1, width=3)
    narrower.sample(tmp_path, 0)
    own, judged = (PostTrainer(whole_model, latents, steps=1, denoiser=d) for d in (None, tmp_path / "model.h5"))
    assert judged.features.shapes[1][1] < own.features.shapes[1][1]
    for a, b in zip(own.networks["refiner"].variables, judged.networks["refiner"].variables, strict=True):
        np.testing.assert_array_equal(a, b)  # what is trained is the file's own
    assert judged.config == own.config
    (tmp_path / "after").mkdir()
    judged.sample(tmp_path / "after", 1)
    with pytest.raises(UsageError, match=r"it was post-trained, .* as --denoiser"):
        PostTrainer(tmp_path / "after" / "model.h5", latents, steps=1)
    PostTrainer(tmp_path / "after" / "model.h5", latents, steps=1, denoiser=whole_model)
    with pytest.raises(UsageError, match=r"--denoiser .*model\.h5: it has no refiner"):
        PostTrainer(whole_model, latents, steps=1, denoiser=folder / "model.h5")


def test_between_weights_of_float16_lies_float32():
    """Or what is exported would be rounded twice."""
    rng = np.random.default_rng(0)
    before, after = rng.standard_normal(1000).astype(np.float16), rng.standard_normal(1000).astype(np.float32)
    average = SimpleNamespace(parameters=lambda: {"a": after})
    file = SimpleNamespace(parameters={"refiner": {"a": before}})
    found = PostTrainer.average_parameters(SimpleNamespace(share=0.7, file=file, averages={"refiner": average}))
    exact = 0.3 * before.astype(np.float64) + 0.7 * after
    np.testing.assert_allclose(found["refiner"]["a"], exact, rtol=0, atol=1e-6)


def test_post_training_needs_a_refiner(folder, tmp_path, capsys):
    words = ["posttrain", str(folder), "--init", str(folder / "model.h5"), "-o", str(tmp_path)]
    assert cli.main(words) == 2
    assert "train one with `everwave-train refiner`" in capsys.readouterr().err
