"""The benchmarks compare like with like: other engines compute our networks, and the report's arithmetic is right."""

import sys
from pathlib import Path

import numpy as np
import pytest
from everwave.networks import AUTOENCODER, input_shape
from everwave.ops.numpy_ops import NumpyNetwork

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import compare
import contenders
import report
from contenders import worker
from contenders.worker import piece

BATCH = 3
SETTING = contenders.Setting(threads=1, batch=BATCH)
PLAIN = [name for name, c in contenders.CONTENDERS.items() if not c.environment]  # the others want a fresh process


def contender(name):
    found = contenders.CONTENDERS[name]
    for package in found.packages:
        pytest.importorskip(package, reason=f"{package} is not installed: pip install {' '.join(found.packages)}")
    return found


def run(name, network, source):
    x = np.random.default_rng(1).standard_normal((BATCH, *input_shape(network, source.config)), np.float32)
    try:
        compiled = contender(name).load(network, source, BATCH, SETTING)
    except RuntimeError as error:
        if "this CPU lacks it" in str(error):
            pytest.skip(str(error))
        raise
    return x, lambda: [np.array(y) for y in compiled(x)]


@pytest.mark.parametrize("network", [*AUTOENCODER, "generator"])  # presets have no refiner
@pytest.mark.parametrize("name", PLAIN)
def test_contenders_compute_the_reference(name, network, tmp_path):
    source = contenders.Source("tiny", tmp_path, silent=True)
    x, compute = run(name, network, source)
    expected = NumpyNetwork(network, source.config, source.parameters(network))(x)
    for given, wanted in zip(compute(), expected, strict=True):
        assert given.dtype == np.float32
        if contenders.CONTENDERS[name].precision == "float32":
            np.testing.assert_allclose(given, wanted, atol=1e-4)
        else:  # bfloat16 keeps 8 bits; exact results would mean that it was not used
            assert 1e-4 < np.sqrt(np.square(given - wanted).mean()) / wanted.std() < 0.05


@pytest.mark.parametrize("network", contenders.NETWORKS)
@pytest.mark.parametrize("name", PLAIN)
def test_contenders_draw_new_noise_in_every_call(name, network, tmp_path):
    _, noisy = run(name, network, contenders.Source("tiny", tmp_path))
    _, silent = run(name, network, contenders.Source("tiny", tmp_path, silent=True))
    assert np.abs(noisy()[0] - noisy()[0]).max() > 1e-3
    np.testing.assert_array_equal(silent()[0], silent()[0])


@pytest.mark.parametrize("name", ["onnxruntime-float32", "openvino-float32", "torch-float32"])
def test_a_measured_piece_is_at_least_as_long_as_asked(name, tmp_path):
    setting = contenders.Setting(threads=2, batch=4, workers=2)
    found = worker.measure(contender(name), contenders.Source("tiny", tmp_path), setting, seconds=1.0)
    assert found["audio_seconds"] >= 1.0
    assert found["times_real_time"] == pytest.approx(found["audio_seconds"] / found["wall_seconds"], rel=0.01)


def test_pieces_are_whole_batches_for_every_worker(tmp_path):
    source = contenders.Source("full", tmp_path)
    windows, generator_windows, seconds = piece(source, contenders.Setting(threads=2, batch=16, workers=2), 60)
    assert (windows, generator_windows) == (352, 6)  # 324 windows of 64 frames, rounded up to 11 x 2 x 16
    assert seconds == pytest.approx(352 / 2 * 64 * 256 / 44100)


def rounds(*speeds):
    return [
        {"round": i, "contender": name, "preset": "full", "threads": 2, "seconds": 60.0, "times_real_time": speed,
         "peak_rss_mb": 100.0}
        for i, speeds_of_round in enumerate(speeds) for name, speed in speeds_of_round.items()
    ]  # fmt: skip


def test_ratios_are_taken_within_a_round_against_the_best_of_it():
    runs = rounds(
        {"everwave-float32": 40, "everwave-bf16": 80, "keras-float32": 20, "torch-float32": 10, "openvino-bf16": 40},
        {"everwave-float32": 10, "everwave-bf16": 20, "keras-float32": 2, "torch-float32": 4, "openvino-bf16": 20},
        {"everwave-float32": 30, "keras-float32": 10, "torch-float32": 5},  # here bfloat16 failed
    )
    found = report.summary(runs)
    claims = {row["claim"]: row["ratio"] for row in found["ratios"]}
    assert claims == {
        "float32 against the best float32 contender": 2.5,  # 2, 2.5, 3
        "bfloat16 against the best bfloat16 contender": 1.5,  # 2, 1
        "bfloat16 against Keras/TensorFlow float32": 7.0,  # 4, 10
        "bfloat16 against our own float32": 2.0,
    }
    keras = next(row for row in found["summary"] if row["contender"] == "keras-float32")
    assert (keras["times_real_time"], keras["everwave_is_faster"]) == (10, 3)  # 2, 5, 3


def test_lite_is_compared_with_full_in_the_same_round():
    runs = rounds({"everwave-float32": 10}, {"everwave-float32": 20})
    runs += [{**run, "preset": "lite", "times_real_time": 4 * run["times_real_time"]} for run in runs]
    found = [row for row in report.summary(runs)["ratios"] if row["claim"].startswith("lite")]
    assert [row["ratio"] for row in found] == [4.0]


def test_the_fastest_setting_of_each_contender_is_kept():
    common = {"preset": "full", "contender": "torch-bf16"}
    tried = [
        {**common, "threads": 2, "batch": 16, "workers": 1, "times_real_time": 5.0},
        {**common, "threads": 2, "batch": 128, "workers": 2, "times_real_time": 9.0},
        {**common, "threads": 2, "batch": 64, "workers": 1, "times_real_time": 7.0},
        {**common, "threads": 1, "batch": 32, "workers": 1, "times_real_time": 4.0},
    ]
    assert compare.best(tried) == {
        ("torch-bf16", "full", 2): contenders.Setting(2, 128, 2),
        ("torch-bf16", "full", 1): contenders.Setting(1, 32, 1),
    }


def test_the_table_names_everyone_and_goes_between_the_markers(tmp_path):
    runs = rounds({"everwave-float32": 40, "keras-float32": 20})
    results = {
        "command": "python compare.py", "date": "2026-01-01T00:00", "machine": {"cpu": "Z80", "cores": 1, "features": [], "system": "CP/M"},
        "versions": {"numpy": "9"}, "skipped": {"torch-bf16": "torch is not installed"}, "runs": runs, **report.summary(runs),
    }  # fmt: skip
    text = report.markdown(results)
    for part in (
        "| Keras/TensorFlow | float32 | 20.0 (2.00 x) | 100 |",
        "**40.0**",
        "Z80",
        "numpy 9",
        "torch-bf16: torch is",
    ):
        assert part in text
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n")
    for _ in range(2):
        report.put_between_markers(readme, text)
    assert readme.read_text() == f"above\n{report.BEGIN}\n{text}{report.END}\nbelow\n"
    readme.write_text("no markers")
    with pytest.raises(ValueError, match=r"README\.md: no <!-- benchmark:begin"):
        report.put_between_markers(readme, text)
