"""Constants, curves and files become one normalised network input per latent; everything else is refused by name."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
from everwave.conditioning import Constant, Glide, Lines, _read_csv, drawn, signal, with_clocks
from everwave.config import TAKEN, Condition, Config, GeneratorConfig, SignalConfig
from everwave.errors import UsageError
from everwave.model import Model
from everwave.streaming import Stream

BPM = Condition("bpm", "beats per minute", mean=140, scale=10, low=110, high=170)
DENSITY = Condition("density", "onsets per second", mean=5, scale=2, low=0, high=16)
CONFIG = Config(SignalConfig(16000, 100), generator=GeneratorConfig(conditions=(BPM, DENSITY)))  # 10 latents a second


def bpm(value, start=0, count=4, **more):
    return signal(CONFIG, {"bpm": value, "density": 5})(start, count, **more)[:, 0] * 10 + 140


def test_constants_are_normalised_in_the_models_order():
    got = signal(CONFIG, {"density": 9, "bpm": np.float32(120)})(1000, 3)
    assert got.dtype == np.float32
    assert got.tolist() == [[-2, 2]] * 3


def test_a_string_may_be_a_number():
    assert bpm("128.5") == pytest.approx([128.5] * 4)


def test_one_number_per_latent_is_indexed_and_the_last_one_held():
    assert bpm([120, 130, 150], start=1, count=4) == pytest.approx([130, 150, 150, 150])


def test_pairs_are_joined_by_straight_lines_and_held_at_both_ends():
    curve = [(1.0, 120), (2.0, 140)]  # latent n stands for (n + 1/2) / 10 s
    assert bpm(curve, 9, 3) == pytest.approx([120, 121, 123])
    assert bpm(curve, 0, 1) == pytest.approx([120])
    assert bpm(curve, 10**9, 1) == pytest.approx([140])


def test_any_stretch_is_a_slice_of_the_whole_and_loops_repeat():
    wishes = signal(CONFIG, {"bpm": [(0, 115), (7, 165)], "density": np.linspace(0, 16, 90)})
    whole = wishes(0, 200)
    assert np.array_equal(wishes(37, 80), whole[37:117])
    assert np.array_equal(wishes(30, 80, period=50), whole[np.arange(30, 110) % 50])


def test_csv_files_with_another_sign_between_are_explained(tmp_path):
    path = tmp_path / "curve.csv"
    for text in ("0;120\n2;130\n", "0;120\n2,130\n", "time;bpm\n0;120\n", "0\t120\n"):
        path.write_text(text)
        with pytest.raises(UsageError, match="a comma between"):
            _read_csv("bpm", path)


@pytest.mark.parametrize("text", ["time,bpm\n0,120\n2, 140\n", "0,120\n\n2,140", "\ufeff0,120\r\n2,140\r\n"])
def test_csv_files_with_or_without_a_header(tmp_path, text):
    path = tmp_path / "curve.csv"
    path.write_text(text, encoding="utf-8", newline="")
    assert bpm(path, 9, 2) == pytest.approx([129.5, 130.5])
    assert bpm(str(path), 9, 2) == pytest.approx([129.5, 130.5])


def test_what_is_left_out_is_drawn_from_the_training_distribution():
    values = np.array([drawn(BPM, seed) for seed in range(400)])
    assert abs(values.mean() - 140) < 2
    assert abs(values.std() - 10) < 2
    assert values.min() >= 110
    assert values.max() <= 170
    assert values[7] == drawn(BPM, 7)
    got = signal(CONFIG, {"density": None}, seed=7)(5, 3)
    assert np.all(got == got[0])
    assert got[0, 0] * 10 + 140 == pytest.approx(drawn(BPM, 7), rel=1e-6)


def test_of_a_few_choices_one_is_drawn_and_any_value_between_may_be_asked_for():
    piano = Condition("piano", "", mean=0.5, scale=0.5, low=0, high=1, choices=(0.0, 1.0))
    values = [drawn(piano, seed) for seed in range(400)]
    assert set(values) == {0.0, 1.0}
    assert 150 < sum(values) < 250
    config = replace(CONFIG, generator=replace(CONFIG.generator, conditions=(piano,)))
    assert signal(config, {"piano": 0.75}, seed=7)(0, 1) == 0.5
    with pytest.raises(UsageError, match="takes 0 to 1"):
        signal(config, {"piano": 1.5}, seed=7)


TEMPO = Condition("bpm", "beats per minute", mean=140, scale=10, low=110, high=170, clocks=(1, 4))
TICKING = Config(SignalConfig(16000, 100), generator=GeneratorConfig(conditions=(DENSITY, TEMPO)))


def beats_of(columns):
    """Beats within the bar, 0 to 4, from the hand that turns once in four."""
    return np.arctan2(columns[:, 5], columns[:, 4]) / (2 * np.pi) * 4 % 4


def test_clocks_turn_with_the_tempo_and_any_stretch_is_a_slice_of_the_whole():
    wishes = signal(TICKING, {"bpm": 120})
    whole = wishes(0, 100)
    assert whole.shape == (100, 6)
    assert beats_of(whole) == pytest.approx((np.arange(100) + 0.5) / 10 * 2 % 4, abs=1e-5)
    assert whole[:, 2] + 1j * whole[:, 3] == pytest.approx(np.exp(2j * np.pi * (np.arange(100) + 0.5) / 5), abs=1e-5)
    assert np.array_equal(wishes(41, 20), whole[41:61])
    far = 10**9  # latents: three years in
    assert beats_of(wishes(far, 3)) == pytest.approx((far + np.arange(3) + 0.5) / 10 * 2 % 4, abs=1e-4)


@pytest.mark.parametrize(
    "wish", [[(1.0, 115), (4.0, 165), (6.5, 130)], list(np.linspace(112, 168, 60)), [150], [(3, 120)]]
)
def test_clocks_sum_up_a_tempo_that_changes(wish):
    n = np.arange(120)
    wishes = signal(TICKING, {"bpm": wish})
    fine = np.arange(0, 12, 1e-4)  # the slow twin: add up the tempo in tiny steps
    at = fine if np.ndim(wish) == 2 else fine // 0.1 * 0.1
    tempo = (
        np.interp(at, *np.transpose(wish))
        if np.ndim(wish) == 2
        else np.asarray(wish)[np.minimum((fine / 0.1).astype(int), len(wish) - 1)]
    )
    beats = np.interp((n + 0.5) / 10, fine, np.cumsum(tempo) * 1e-4 / 60)
    assert wishes.beats(1, n) == pytest.approx(beats, abs=2e-3)


def test_a_changed_tempo_goes_on_from_the_same_beat():
    slow = signal(TICKING, {"bpm": 120})
    fast = signal(TICKING, {"bpm": 165}).turned(slow, ["bpm"], 37, 0, 10)
    assert fast.beats(1, np.array([37])) == pytest.approx(slow.beats(1, np.array([37])))
    assert np.diff(fast.beats(1, np.array([37, 47]))) == pytest.approx([165 / 60])
    again = signal(TICKING, {"bpm": 110}).turned(fast, ["bpm"], 80, 5.5, 10)
    assert again.beats(1, np.array([80])) == pytest.approx(fast.beats(1, np.array([80])))


def test_what_is_not_changed_stays_as_it_is():
    before = signal(TICKING, {"bpm": 120}).turned(signal(TICKING, {"bpm": 160}), ["bpm"], 10, 100.5, 10)
    after = signal(TICKING, {"bpm": 150, "density": 9}).turned(before, ["density"], 40, 0, 10)
    n = np.arange(200)
    np.testing.assert_array_equal(after.values(n)[1], before.values(n)[1])
    np.testing.assert_array_equal(after.beats(1, n), before.beats(1, n))
    assert after.values(n)[0] == pytest.approx(9)


@pytest.mark.parametrize("after", [Constant(115.0, 10.0), Lines(np.array([0.0, 20.0]), np.array([120.0, 160.0]), 10.0)])
@pytest.mark.parametrize(("first", "length"), [(8, 50.5), (20, 3.0), (0, 0.25), (33, 1.0)])
def test_a_glide_is_a_straight_line_and_its_integral_that_of_its_values(after, first, length):
    glide, n = Glide(140.0, after, first, length, 10.0), np.arange(150)
    share = np.clip((n + 0.5 - first) / length, 0, 1)
    np.testing.assert_allclose(glide(n), 140 + share * (after(n) - 140), rtol=1e-12)
    steps = (glide(n)[1:] + glide(n)[:-1]) / 2 / 10  # trapezoids
    here = n[1:] > first  # before that it is one value always, as if nothing would come
    np.testing.assert_allclose(np.diff(glide.integral(n))[here], steps[here], rtol=1e-9)
    np.testing.assert_allclose(glide.integral(n[: first + 1]), 140 * (n[: first + 1] + 0.5) / 10, rtol=1e-12)
    for part in (np.arange(3), np.arange(40, 50), np.array([first]), np.array([20, 149])):
        np.testing.assert_array_equal(glide.integral(part), glide.integral(n)[part])


def test_the_clocks_of_a_loop_have_whole_turns():
    wishes = signal(TICKING, {"bpm": 123})
    around = wishes(0, 300, period=100)
    assert np.allclose(around[:100], around[100:200])
    steps = np.diff(wishes.beats(1, np.arange(100), 100))
    assert steps == pytest.approx(np.full(99, 20 / 100))  # 20.5 beats become five bars


def test_the_clocks_of_a_density_turn_with_its_onsets():
    notes = Condition("density", "onsets per second", mean=5, scale=3, low=0, high=12, clocks=(1, 4))
    config = Config(SignalConfig(16000, 100), generator=GeneratorConfig(conditions=(notes,)))
    t = (np.arange(200) + 0.5) / 10
    assert signal(config, {"density": 3})(0, 200)[:, 3] == pytest.approx(np.cos(2 * np.pi * 3 * t / 4), abs=1e-5)
    rising = signal(config, {"density": [(0.0, 0.0), (10.0, 10.0)]})  # t^2 / 2 notes have come after t seconds
    assert rising.beats(0, np.arange(99)) == pytest.approx(t[:99] ** 2 / 2)
    silence = signal(config, {"density": 0})(0, 40, period=20)
    assert np.isfinite(silence).all()


def test_coordinates_with_values_alone_get_their_clocks():
    x = np.random.default_rng(0).standard_normal((50, 130)).astype(np.float32)
    x[:, 129] = -1.0
    got = with_clocks(TICKING, x)
    assert got.shape == (50, TICKING.generator.coordinates)
    assert np.array_equal(got[:, :129], x[:, :129])
    assert got[:, 129:] == pytest.approx(signal(TICKING, {"bpm": 130})(0, 50)[:, 1:], abs=1e-5)


def test_an_unconditional_model_gets_no_columns():
    assert signal(Config())(0, 5).shape == (5, 0)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"tempo": 120}, r"tempo=120: .*takes bpm \(110 to 170"),
        ({"bpm": 60}, "bpm=60: this model takes 110 to 170 beats per minute"),
        ({"bpm": float("nan")}, "bpm=nan"),
        ({"bpm": "inf"}, "bpm=inf"),
        ({"bpm": [120, 130, 171]}, "bpm=171"),
        ({"bpm": [(0, 120), (1, np.nan)]}, "bpm=nan"),
        ({"bpm": [(0, 120), (0, 130)]}, "time 0 s comes after 0 s"),
        ({"bpm": [(2, 120), (1, 130)]}, "time 1 s comes after 2 s"),
        ({"bpm": [(float("nan"), 120)]}, "not a finite"),
        ({"bpm": [(-1e308, 120), (1e308, 130)]}, r"time -1e\+308 s; times must be between -1e\+10 and 1e\+10 s"),
        ({"bpm": []}, "shape"),
        ({"bpm": np.zeros((2, 3))}, r"shape \(2, 3\)"),
        ({"bpm": [[1, 2], [3]]}, "give a number"),
        ({"bpm": {"a": 1}}, "give a number"),
        ({"bpm": "fast"}, "neither a number nor a readable CSV file"),
        ({"bpm": "no/such.csv"}, "No such file"),
        ({"bpm": "a\0b.csv"}, "neither a number nor a readable CSV file"),
    ],
)
def test_bad_wishes_are_named_in_one_line(wish, message):
    with pytest.raises(UsageError, match=message) as caught:
        signal(CONFIG, wish)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no line"),
        (b"time,bpm\n", "no line"),
        (b"0,120\n1\n", "line 2: 1 is not"),
        (b"0,120,7\n0,120,7\n", "line 1"),
        (b"0,12O\n1,130\n", "line 1: 0,12O is not"),
        (b"0,120\nx,y\n", "line 2"),
        (b"\xff\xfe\x00\x00\x9c", "readable CSV"),
        (b"0,120\n1,999\n", "bpm=999"),
        (b"0,120\n1,nan\n", "bpm=nan"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "curve.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        signal(CONFIG, {"bpm": path})
    assert "\n" not in str(caught.value)


def test_no_condition_is_called_as_what_stands_beside_it():
    calls = (Model.generate, Model.loop, Model.stream, Stream.set)
    beside = {p.name for call in calls for p in inspect.signature(call).parameters.values() if p.kind != p.VAR_KEYWORD}
    beside |= {name for name in dir(Stream) if not name.startswith("_")}
    assert beside <= TAKEN
    assert not TAKEN & {"bpm", "density", "piano"}


def test_an_unconditional_model_says_so():
    with pytest.raises(UsageError, match="bpm=128: this model takes no conditions"):
        signal(Config(), {"bpm": 128})
