"""The measure of embeddings: right on made-up vectors, and reachable from the command line."""

import json

import numpy as np
import soundfile
from everwave import weights
from everwave.config import PRESETS
from everwave_trainer import cli
from everwave_trainer.evaluate import retrieval


def test_perfect_vectors_find_their_own_and_random_ones_do_as_chance_says():
    labels = np.repeat(np.arange(40), 5)
    rng = np.random.default_rng(0)
    own = rng.standard_normal((40, 64))[labels] + 0.1 * rng.standard_normal((200, 64))
    assert retrieval.nearest_agrees(own, labels) == 1
    assert abs(retrieval.chance(labels) - 4 / 199) < 1e-12
    agreed = [retrieval.nearest_agrees(rng.standard_normal((200, 8)), labels) for _ in range(30)]
    assert abs(np.mean(agreed) - retrieval.chance(labels)) < 0.01


def test_command(tmp_path, capsys, monkeypatch):
    model, music, corpus = tmp_path / "tiny.h5", tmp_path / "music", tmp_path / "corpus"
    weights.write(model, weights.random_model(PRESETS["tiny"]))
    music.mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):  # a tone each, in a little noise
        tone = np.sin(2 * np.pi * 200 * 2**i * np.arange(4 * 44100) / 44100)
        soundfile.write(music / f"{i}.wav", 0.5 * tone + 0.01 * rng.uniform(-1, 1, 4 * 44100), 44100)
    assert cli.main(["corpus", "--audio", str(music), "--hold-out", "0.9", "-o", str(corpus)]) == 0
    capsys.readouterr()
    words = ["evaluate", str(model), str(corpus), "--retrieval"]
    assert cli.main(words) == 2
    assert "60 s long, as 6 excerpts need; the longest has 4.0 s: add longer music" in capsys.readouterr().err
    monkeypatch.setattr("everwave_trainer.evaluate.SECONDS", 0.5)
    assert cli.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["excerpts"] == 6 * result["tracks"]
    assert result["same_track_mel"] > 0.9 > result["same_track_chance"]
    assert result["same_track_embedding"] > 2 * result["same_track_chance"]
    assert result["same_package_chance"] == 1  # all from one folder
