"""Measures of models: right on made-up data whose answer is known, and one command that gives them all."""

import importlib.util
import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from everwave import weights
from everwave.config import PRESETS, Condition
from everwave.errors import EverwaveError, UsageError
from everwave.kernels import paths
from everwave.networks import AUTOENCODER
from everwave_trainer import cli
from everwave_trainer.corpora.store import Track
from everwave_trainer.evaluate import (
    card,
    control,
    distribution,
    mel_distance,
    musicnn,
    precision,
    reconstruction,
    tensor_bundle,
)
from everwave_trainer.labels import store

RATE = 44100


class InMemory(SimpleNamespace):
    """A track that is in no file."""

    excerpt = Track.excerpt


def test_frechet_distance_of_known_normals():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200_000, 3)) * [1, 2, 3]
    y = rng.standard_normal((200_000, 3)) * [2, 2, 1] + [0, 1, 0]
    assert abs(distribution.frechet_distance(x, y) - (1 + 1 + 4)) < 0.1
    assert distribution.frechet_distance(x, x) < 1e-9


def test_mean_distance_between_rows():
    assert distribution.pairwise(np.array([[0.0, 0], [3, 4], [0, 0]])) == pytest.approx(10 / 3)


def test_level_of_a_clipped_sine():
    sine = np.sin(np.linspace(0, 2000 * np.pi, 200_001)[:-1])[:, None] * [1.0, 1.0]
    assert distribution.level(0.5 * sine) == {"rms_db": pytest.approx(-9.03, abs=0.01), "full_scale_percent": 0.0}
    loud = distribution.level(np.clip(2 * sine, -1, 1))  # |sin| > 1 / 2 two thirds of the time
    assert loud["full_scale_percent"] == pytest.approx(66.7, abs=0.5)
    assert distribution.level(np.zeros((10, 2)))["rms_db"] == -100


def test_a_generator_that_repeats_its_training_music_is_as_far_as_that_reconstructed():
    """Pieces of noise of a level each, decoders that make them half as loud, an ear that hears levels."""
    rng = np.random.default_rng(0)
    length = 22 * RATE

    def track(level):
        samples = np.round(32767 * level * rng.uniform(-1, 1, (length, 2))).astype(np.int16)
        return InMemory(seconds=length / RATE, sample_rate=RATE, samples=samples)

    training, held_out = ([[track(x) for x in levels]] for levels in ((0.4, 0.8), (0.2, 0.3)))
    excerpts = list(distribution.pieces(training, 2))
    # the mean of two channels of uniform noise is a third of its level on average; heard is thirty times the level, twice
    heard = lambda x, rate: 90 * np.abs(x[: 7 * RATE]).reshape(7, -1).mean(axis=1)[:, None] * np.ones(2)  # noqa: E731
    model = SimpleNamespace(
        sample_rate=RATE,
        encode=lambda x, rate: x / 2,
        decode=lambda latents: latents,
        generate=lambda seconds, seed: excerpts[seed] / 2,
        info=lambda: {"parameters": {"generator": 1}},
    )
    found = distribution.evaluate(model, SimpleNamespace(embed=heard), held_out, training, 2)["frechet_to_held_out"]
    assert found["generated"] == found["training_reconstructed"] < found["training"]
    means, deviations = 2 * 30**2 * (0.3 - 0.25) ** 2, 2 * 30**2 * (0.1 - 0.05) ** 2
    assert found["training_reconstructed"] == pytest.approx(means + deviations, rel=0.1)


def test_mel_distance_hears_levels_and_which_way_they_move():
    rate, rng = 22050, np.random.default_rng(0)

    def notes(gain=1.0):
        """12 s in which noise begins at once, twice a second, and dies away."""
        falling = np.exp(-(np.arange(12 * rate) % (rate // 2)) / (rate / 12))
        return gain * 0.1 * rng.standard_normal((12 * rate, 2)) * falling[:, None]

    music = mel_distance.windows([notes() for _ in range(6)], rate)
    assert music.shape == (6 * 7, 10 * 80)  # windows of 3 s, by halves
    distance = lambda *sounds: mel_distance.mel_distance(mel_distance.windows(sounds, rate), music)  # noqa: E731
    assert mel_distance.mel_distance(music, music) == pytest.approx(0, abs=1e-3)
    others = distance(*(notes() for _ in range(6)))
    assert distance(*(notes(0.5) for _ in range(6))) > 5 * others
    assert distance(*(notes()[::-1] for _ in range(6))) > 5 * others
    assert distance(notes()[:4096]) > others  # a single short window is no error


def test_tempo_agreement_counts_octaves_apart():
    found = control.tempo_agreement([120, 120, 140, 160], [121, 60, 150, 160])
    assert found == {"clips": 4, "within_4_percent": 2, "up_to_octave": 3, "median_error_bpm": 5.5}
    assert control.chance([120, 160], [120, 160]) == 1.0


def test_tempi_are_those_that_a_model_takes():
    def tempi(low, high):
        return control.tempi(Condition("bpm", "beats per minute", 140.0, 15.0, low, high))

    assert tempi(116, 164) == list(range(120, 161, 5))
    assert tempi(128, 136) == list(range(128, 137))
    assert tempi(150, 190) == [150, 151.25, 152.5, 153.75, 155, 156.25, 157.5, 158.75, 160]
    assert tempi(60, 100) == list(range(60, 101, 5))  # nothing between 120 and 160


def test_the_truth_is_what_is_exact_itself(tmp_path):
    """Not the tempo that was estimated of a track whose onsets are exact."""
    track = InMemory(id="a", corpus=tmp_path, seconds=30.0, sample_rate=100, samples=np.ones((3000, 2), np.int16))
    sources = {"bpm": "librosa 0.11.0", "onsets": "MIDI"}
    store.write(tmp_path, "a", store.TrackLabels(120.0, (4.0, 10.0), sources=sources))
    model = SimpleNamespace(sample_rate=100, encode=lambda x, rate: x, decode=lambda latents: latents)
    assert control._labelled(model, [track], "bpm")["real"] == ([], [])
    truth, (heard,) = control._labelled(model, [track], "onsets")["real"]
    assert truth == [[0.5, 6.5]]  # within the 23 s in the middle
    assert heard.shape == (2300, 2)


def test_rank_correlation_of_densities():
    onsets = np.concatenate([np.arange(0, 10, 0.5), np.arange(10, 20, 0.125)])
    rates = control.per_second(onsets, 20)
    assert rates.shape == (20,)
    assert np.allclose(rates[2:8], 2, atol=0.3)
    assert np.allclose(rates[12:18], 8, atol=0.3)
    assert control.spearman(np.arange(5), np.arange(5) ** 3) == 1
    assert control.spearman(np.arange(5), np.ones(5)) == 0


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def table(tensors):
    """A checkpoint's index and data as TensorFlow writes them: one data block, keys that share their beginnings."""
    data, block, key = b"", b"\0\0\x02" + b"\x08\x01", b""  # the header entry has an empty key
    for name, array in sorted(tensors.items()):
        shape = b"".join(b"\x12" + varint(len(d)) + d for d in (b"\x08" + varint(n) for n in array.shape))
        raw = array.astype("<f4").tobytes()
        entry = b"\x08\x01\x12" + varint(len(shape)) + shape + b"\x20" + varint(len(data)) + b"\x28" + varint(len(raw))
        shared = len(next((k for k in [key] if k and name.encode().startswith(k)), b""))
        block += varint(shared) + varint(len(name) - shared) + varint(len(entry)) + name.encode()[shared:] + entry
        data, key = data + raw, name.encode()
    block += struct.pack("<II", 0, 1)
    handle = varint(0) + varint(len(block))
    index_block = b"\0\x01" + varint(len(handle)) + b"z" + handle + struct.pack("<II", 0, 1)
    footer = varint(0) + varint(0) + varint(len(block) + 5) + varint(len(index_block))
    whole = block + bytes(5) + index_block + bytes(5)
    return whole + footer.ljust(40, b"\0") + tensor_bundle.MAGIC, data


def musicnn_tensors():
    """Random parameters in musicnn's shapes."""
    rng = np.random.default_rng(0)
    kernels = [(7, 38, 1, 204), (7, 67, 1, 204), (128, 1, 1, 51), (64, 1, 1, 51), (32, 1, 1, 51)]
    kernels += [(7, 561, 1, 64), (7, 64, 1, 64), (7, 64, 1, 64)]
    tensors = {}
    for i, shape in enumerate(kernels):
        tensors[f"conv2d{f'_{i}' * (i > 0)}/kernel"] = rng.standard_normal(shape) / np.sqrt(np.prod(shape[:3]))
        tensors[f"conv2d{f'_{i}' * (i > 0)}/bias"] = 0.1 * rng.standard_normal(shape[-1])
    for i, width in enumerate([1, 204, 204, 51, 51, 51, 64, 64, 64, 2 * 753, 200]):
        name = f"batch_normalization{f'_{i}' * (i > 0)}"
        tensors[f"{name}/moving_mean"] = 0.1 * rng.standard_normal(width)
        tensors[f"{name}/moving_variance"] = rng.uniform(0.5, 2, width)
        tensors[f"{name}/gamma"] = rng.standard_normal(width)  # some below zero: highest becomes lowest
        tensors[f"{name}/beta"] = 0.1 * rng.standard_normal(width)
    tensors["dense/kernel"] = rng.standard_normal((2 * 753, 200)) / 40
    tensors["dense/bias"] = rng.standard_normal(200)
    return {name: value.astype(np.float32) for name, value in tensors.items()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A file like musicnn's wheel, with random parameters."""
    path = tmp_path_factory.mktemp("wheel") / "musicnn-0.whl"
    index, data = table(musicnn_tensors())
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(musicnn.FOLDER + ".index", index)
        file.writestr(musicnn.FOLDER + ".data-00000-of-00001", data)
    return path


def test_checkpoints_are_read_without_tensorflow(wheel, tmp_path):
    tensors = musicnn_tensors()
    read = musicnn.load(wheel).tensors
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(read[name], value, err_msg=name)
    with pytest.raises(EverwaveError, match="not a TensorFlow table"):
        tensor_bundle.read(b"x" * 100, b"")
    (tmp_path / "other.whl").write_bytes(b"PK")
    with pytest.raises(UsageError, match="pip download --no-deps musicnn"):
        musicnn.load(tmp_path / "other.whl")


def test_real_checkpoints_are_read(tmp_path):
    """As TensorFlow itself writes them."""
    tf = pytest.importorskip("tensorflow")
    values = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "a/kernel_1": np.ones((1, 2, 1), np.float32)}
    values["b"] = np.float32(7).reshape(())
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "x"), tensor_names=list(values), shape_and_slices=[""] * 3, tensors=list(values.values())
    )
    read = tensor_bundle.read((tmp_path / "x.index").read_bytes(), (tmp_path / "x.data-00000-of-00001").read_bytes())
    assert read.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(read[name], value)


def test_musicnn_is_its_own_graph_in_keras(wheel):
    """The same layers as musicnn's models.py defines them, one by one in Keras."""
    from keras import ops

    t = musicnn_tensors()
    x = np.random.default_rng(1).gamma(0.3, 1, (2, musicnn.FRAMES, musicnn.BANDS)).astype(np.float32)

    def normalised(y, i):
        name = f"batch_normalization{f'_{i}' * (i > 0)}"
        gain = t[f"{name}/gamma"] / np.sqrt(t[f"{name}/moving_variance"] + 1e-3)
        return (y - t[f"{name}/moving_mean"]) * gain + t[f"{name}/beta"]

    def conv(y, i, padding="valid"):
        name = f"conv2d{f'_{i}' * (i > 0)}"
        return normalised(ops.relu(ops.conv(y, t[f"{name}/kernel"], padding=padding) + t[f"{name}/bias"]), i + 1)

    pad = ((0, 0), (3, 3), (0, 0), (0, 0))
    y = normalised(x[..., None], 0)
    front = [ops.max(conv(ops.pad(y, pad), i), axis=2) for i in (0, 1)]
    front += [ops.max(conv(y, i, "same"), axis=2) for i in (2, 3, 4)]
    front = ops.concatenate(front, axis=2)[..., None]
    layers = [front]
    for i in (5, 6, 7):
        new = ops.transpose(conv(ops.pad(layers[-1], pad), i), (0, 1, 3, 2))
        layers.append(new if i == 5 else new + layers[-1])
    features = ops.concatenate(layers, axis=2)
    pooled = ops.concatenate([ops.max(features, axis=1), ops.mean(features, axis=1)], axis=2)
    hidden = ops.relu(ops.matmul(normalised(ops.reshape(pooled, (2, -1)), 9), t["dense/kernel"]) + t["dense/bias"])
    expected = ops.convert_to_numpy(normalised(hidden, 10))
    np.testing.assert_allclose(musicnn.load(wheel).penultimate(x), expected, atol=2e-3)


@pytest.mark.skipif(importlib.util.find_spec("librosa") is None, reason="librosa is not installed (extra: label)")
def test_mel_bands_are_those_of_librosa():
    import librosa

    np.testing.assert_allclose(
        musicnn.slaney_filters().T, librosa.filters.mel(sr=16000, n_fft=512, n_mels=96), atol=1e-6
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Six pieces of 25 s: a tone and clicks, with labels as if they were composed."""
    music, folder = tmp_path_factory.mktemp("music"), tmp_path_factory.mktemp("corpus")
    seconds = np.arange(25 * RATE) / RATE
    for i in range(6):
        period = 60 / (110 + 10 * i)
        clicks = np.exp(-60 * (seconds % period)) * np.sin(2 * np.pi * 300 * 2 ** (i / 3) * seconds)
        soundfile.write(music / f"{i}.flac", 0.5 * clicks, RATE)
    assert cli.main(["corpus", "--audio", str(music), "--hold-out", "0.5", "-o", str(folder)]) == 0
    for track in json.loads((folder / "manifest.json").read_text())["tracks"]:
        bpm = 110 + 10 * int(track["title"])
        onsets = tuple(np.arange(0, 25, 60 / bpm))
        store.write(
            folder, track["id"], store.TrackLabels(bpm, onsets, sources={"bpm": "composed", "onsets": "composed"})
        )
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Random weights with tempo, density, and a choice."""
    conditions = (
        Condition("bpm", "bpm", 140, 12, 115, 165),
        Condition("density", "onsets per second", 5, 2, 0, 12),
        Condition("piano", "", 0.5, 0.5, 0, 1, choices=(0.0, 1.0)),
    )
    tiny = PRESETS["tiny"]
    path = tmp_path_factory.mktemp("model") / "tiny.h5"
    weights.write(path, weights.random_model(replace(tiny, generator=replace(tiny.generator, conditions=conditions))))
    return path


def test_one_command_measures_everything(model, corpus, wheel, tmp_path, capsys, monkeypatch):
    pytest.importorskip("librosa")
    monkeypatch.setattr(control, "TEMPI", range(120, 161, 20))
    monkeypatch.setattr(control, "CONSTANTS", 3)
    monkeypatch.setattr(control, "CURVES", 2)
    monkeypatch.setattr(control, "CURVE_SECONDS", 12.0)
    monkeypatch.setattr(control, "SECONDS", 18.0)  # sixteen beats at 60 bpm are 16
    monkeypatch.setattr(control, "REAL_CLIPS", 2)
    monkeypatch.setattr(distribution, "SECONDS", 6.5)
    monkeypatch.setattr("everwave_trainer.evaluate.SECONDS", 3.0)
    out = tmp_path / "report"
    words = ["evaluate", str(model), str(corpus), "-o", str(out), "--musicnn", str(wheel)]
    assert cli.main([*words, "--clips", "2", "--pieces", "2", "--seeds", "1"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics == json.loads((out / "metrics.json").read_text())
    assert metrics["reconstruction"]["clips"] == 2
    centres = {"median_cents": 162.9, "within_50_cents": 0.228}  # of bins of 172 Hz, whatever the weights
    assert metrics["pitch"]["bin_centres"] == pytest.approx(centres, rel=0.01)
    assert metrics["pitch"]["level1"]["within_50_cents"] < 0.9  # random ones keep no pitch
    tempo = metrics["tempo"]["librosa"]
    assert tempo["real"]["up_to_octave"] == tempo["real"]["clips"] > 0  # the estimator knows clicks
    assert tempo["generated"]["clips"] == 3
    density = metrics["density"]["librosa"]
    assert len(density["measured"]) == 3
    assert density["constants"] == control.spearman(density["asked"], density["measured"])
    distances = metrics["distribution"]
    assert distances["windows"] == 4
    assert distances["diversity"]["held_out"] > 0
    assert distances["nearest"]["generated_to_training"] > 0
    assert -60 < distances["level"]["held_out"]["rms_db"] < 0
    assert distances["level"]["held_out"]["full_scale_percent"] == 0  # its clicks are half as loud

    assert cli.main(["card", str(model), "--metrics", str(out / "metrics.json")]) == 0
    written = capsys.readouterr().out
    for text in (
        "bpm, 115 to 165",
        "log-mel error",
        "quarter tone",
        "tempo within 4 %",
        "density, Spearman",
        "Frechet distance",
        "full scale",
    ):
        assert text in written


def test_pieces_are_shared_out_evenly_among_groups():
    def track(value, seconds):
        samples = np.full((seconds * RATE, 2), value, np.int16)
        return InMemory(samples=samples, seconds=seconds, sample_rate=RATE)

    groups = [[track(1, 30)], [track(2, 40), track(3, 60), track(4, 20)]]  # the last is too short for a piece
    found = [set(np.unique(32768 * piece)) for piece in distribution.pieces(groups, 6)]
    assert found == [{1}, {1}, {1}, {2}, {3}, {3}]


def test_tracks_that_are_too_short_say_how_long_they_are():
    tracks = [InMemory(seconds=seconds, sample_rate=RATE) for seconds in (2.0, 4.25)]
    for excerpts in (lambda: reconstruction.clips(tracks, 1, 10.0), lambda: list(distribution.pieces([tracks], 1))):
        with pytest.raises(UsageError, match=r"^no .* s .*; the longest has 4\.2 s: add longer music to the corpus$"):
            excerpts()


def test_metrics_that_are_missing_or_damaged_are_one_line(model, tmp_path, capsys):
    (tmp_path / "damaged.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "half.json").write_text('{"reconstruction": {"clips": 2}}')
    for name, reason in (
        ("missing.json", "No such file"),
        ("damaged.json", "Expecting property name"),
        ("list.json", "holds no measure"),
        ("other.json", "holds no measure"),
        ("half.json", "not of the form that is expected (KeyError('seconds')); give the metrics.json"),
    ):
        assert cli.main(["card", str(model), "--metrics", str(tmp_path / name)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{name}: {reason}" in line


def test_several_corpora_are_measured_as_one(model, corpus, wheel, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(distribution, "SECONDS", 6.5)
    other = tmp_path / "other"
    rng = np.random.default_rng(0)
    for i in range(4):
        soundfile.write(tmp_path / f"{i}.flac", 0.1 * rng.standard_normal((9 * RATE, 2)), RATE)
    made = ["corpus", "--audio", str(tmp_path), "--style", "noise", "--hold-out", "0.5", "-o", str(other)]
    assert cli.main(made) == 0
    words = ["evaluate", str(model), str(corpus), str(other), "--measures", "distribution", "--musicnn", str(wheel)]
    capsys.readouterr()
    assert cli.main([*words, "--pieces", "4", "--styles", "other", "noise"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["corpus"]["tracks"] == 1 + 1
    assert metrics["distribution"]["styles"] == ["other", "noise"]
    assert metrics["distribution"]["windows"] == 8
    assert metrics["distribution"]["held_out_minutes_there_are"] == pytest.approx((25 + 9) / 60, abs=0.06)
    assert cli.main([*words, "--styles", "polka"]) == 2
    assert "--styles polka: " in capsys.readouterr().err


def test_what_cannot_be_measured_is_one_line(corpus, tmp_path, capsys, monkeypatch):
    plain = tmp_path / "plain.h5"
    weights.write(plain, weights.random_model(PRESETS["tiny"]))
    assert cli.main(["evaluate", str(plain), str(corpus), "--measures", "tempo"]) == 2
    assert "no condition 'bpm'" in capsys.readouterr().err
    assert cli.main(["evaluate", str(plain), str(corpus), "--measures", "distribution", "--musicnn", "none.whl"]) == 2
    assert "pip download --no-deps musicnn" in capsys.readouterr().err
    with monkeypatch.context() as lesser:
        lesser.setenv(paths.ENVIRONMENT, "generic")
        assert cli.main(["evaluate", str(plain), str(corpus), "--measures", "precision"]) == 2
    assert "'bfloat16' is not available" in capsys.readouterr().err
    for option, value, least in (("clips", 0, 1), ("seeds", 0, 1), ("pieces", 1, 2)):
        assert cli.main(["evaluate", str(plain), str(corpus), f"--{option}", str(value)]) == 2
        assert f"--{option} {value}: must be at least {least}" in capsys.readouterr().err
    autoencoder = tmp_path / "autoencoder.h5"
    whole = weights.read(plain)
    networks = {name: whole.parameters[name] for name in AUTOENCODER}
    weights.write(autoencoder, replace(whole, kind="autoencoder", parameters=networks))
    assert cli.main(["evaluate", str(autoencoder), str(corpus), "--measures", "precision"]) == 2
    assert "has no generator; give a model that has one" in capsys.readouterr().err


def test_a_card_tells_how_far_bfloat16_is_off(model):
    found = {"pieces": 4, "seconds": 40.0, "log_mel_difference_db": 0.0967, "largest_db": 0.1108}
    row = "| log-mel difference, bfloat16 from float32 | 0.097 dB | 4 pieces of 40 s; the largest 0.111 dB |"
    assert row in card.card(str(model), {"precision": found})


def test_bfloat16_is_measured_where_the_cpu_has_it(model, corpus, capsys, monkeypatch):
    monkeypatch.setattr(precision, "PIECES", 2)
    monkeypatch.setattr(precision, "SECONDS", 3.0)
    if paths.choose().precision != "bfloat16":
        pytest.skip("this CPU has no bfloat16 products")
    assert cli.main(["evaluate", str(model), str(corpus), "--measures", "precision"]) == 0
    found = json.loads(capsys.readouterr().out)["precision"]
    assert 0 < found["log_mel_difference_db"] <= found["largest_db"] < 0.5


def test_text_is_utf_8_on_every_system(tmp_path, monkeypatch):
    """Windows takes a code page that lacks most letters, unless it is told."""
    from everwave_trainer.evaluate import gallery

    for name in ("read_text", "write_text"):
        plain = getattr(Path, name)
        monkeypatch.setattr(
            Path, name, lambda *a, plain=plain, encoding="cp1252", **k: plain(*a, encoding=encoding, **k)
        )
    model = SimpleNamespace(sample_rate=RATE, info=lambda: {"parameters": {}})
    page = gallery.write(model, [], tmp_path, "音楽 č")
    assert "<title>音楽 č</title>" in page.read_text(encoding="utf-8")
    metrics = {
        "model": "音楽",
        "precision": {"pieces": 4, "seconds": 40.0, "log_mel_difference_db": 0.1, "largest_db": 0.2},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics, ensure_ascii=False), encoding="utf-8")
    assert card.read_metrics(tmp_path / "metrics.json") == metrics


def test_gallery_shows_every_control(model, corpus, tmp_path, monkeypatch):
    from everwave_trainer.evaluate import gallery

    monkeypatch.setattr(gallery, "SECONDS", 2.0)
    monkeypatch.setattr(gallery, "LONG_SECONDS", 4.0)
    assert cli.main(["evaluate", str(model), str(corpus), "--gallery", str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text()
    for name in (
        "real-0",
        "reconstructed-0",
        "free-0",
        "long",
        "bpm-120",
        "bpm-160",
        "density-5",
        "curve-2",
        "piano-2-1",
    ):
        assert f'id="{name}"' in page
        assert soundfile.info(tmp_path / f"{name}.ogg").duration >= 1.9
        assert (tmp_path / f"{name}.png").stat().st_size > 200
    assert page.count("<polyline") == 9
