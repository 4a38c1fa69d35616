"""The picture shows what was played, where and when, in bounded memory; the file is a PNG that others can read."""

import numpy as np
import pytest
from everwave import axes
from everwave.axes import clock, ticks
from everwave.errors import UsageError
from everwave.spectrogram import BANDS, PIXELS_PER_BAND, WIDTH, Spectrogram, colour_map, mel_filters, save

RATE = 16000


def tone(hertz, seconds):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


def test_filters_cover_every_band_and_tone():
    for rate, n_fft in [(44100, 4096), (8000, 512), (96000, 8192)]:
        filters = mel_filters(rate, n_fft, BANDS)
        assert filters.sum(axis=1) == pytest.approx(np.ones(BANDS), rel=1e-5)
        assert (filters[:, 40:-1].sum(axis=0) > 0).all()


def test_colours_grow_lighter():
    lightness = colour_map().astype(float) ** 2.2 @ [0.2126, 0.7152, 0.0722]
    assert colour_map().shape == (256, 3)
    assert (np.diff(lightness) > -1).all()
    assert lightness[-1] > 50 * lightness[0]


def test_time_runs_right_and_pitch_up():
    picture = Spectrogram(RATE)
    picture.push(np.concatenate([tone(200, 2), tone(4000, 2)])[:, None] * [1, 1])
    image = picture.image()
    assert image.shape == (3 * BANDS, WIDTH)
    early, late = image[:, WIDTH // 4].argmax(), image[:, 3 * WIDTH // 4].argmax()
    assert early > 0.8 * len(image)
    assert late < 0.4 * len(image)
    assert image.max() == 255
    assert image[len(image) // 2, WIDTH // 4] < 30


def test_blocks_make_no_difference_and_columns_are_bounded():
    samples = np.random.default_rng(0).standard_normal(RATE * 20).astype(np.float32) * tone(0.05, 20)
    whole, parts = Spectrogram(RATE, width=50), Spectrogram(RATE, width=50)
    whole.push(samples)
    for first in range(0, len(samples), 777):
        parts.push(samples[first : first + 777])
    assert len(parts._columns) < 100
    assert np.abs(whole.image().astype(int) - parts.image()).max() <= 1
    assert whole.image()[:, 12].mean() > whole.image()[:, 25].mean() + 10  # loud at 5 s, nearly silent at 10 s


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(5), np.zeros((50000, 2)), tone(440, 0.01), tone(440, 1)])
def test_any_length_gives_a_readable_png(tmp_path, samples):
    matplotlib = pytest.importorskip("matplotlib.image")
    save(tmp_path / "a.png", samples, RATE)
    pixels = matplotlib.imread(tmp_path / "a.png")
    assert pixels.shape[:2] == (3 * BANDS, WIDTH)
    assert np.isfinite(pixels).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("seconds", "last"),
    [(0.5, "0.5 s"), (4, "4.0 s"), (5.6, "0:05"), (61, "1:00"), (3700, "1:00:00"), (86400, "24:00:00")],
)
def test_times_are_round_and_few(seconds, last):
    labels = [clock(at, seconds) for at in ticks(seconds)]
    assert labels[-1] == last
    assert len(set(labels)) == len(labels)
    assert 4 <= len(ticks(seconds)) <= 12


def test_axes_are_beside_the_picture(tmp_path):
    matplotlib = pytest.importorskip("matplotlib.image")
    picture = Spectrogram(RATE)
    picture.push(tone(2000, 4))
    picture.save(tmp_path / "a.png", axes=True)
    picture.save(tmp_path / "b.png")
    page, plain = ((matplotlib.imread(tmp_path / n)[..., :3] * 255).round().astype(int) for n in ("a.png", "b.png"))
    inside = page[axes.TOP : -axes.BOTTOM, axes.LEFT : -axes.RIGHT]
    assert np.array_equal(inside, plain)
    brightest = inside[:, WIDTH // 2].sum(axis=1).argmax()
    assert abs(brightest - picture._rows()[2000]) <= 2 * PIXELS_PER_BAND  # the tick is at its tone
    ink = (page == colour_map()[axes.INK]).all(axis=2)
    for margin in (ink[:, : axes.LEFT], ink[-axes.BOTTOM :], ink[:, -axes.RIGHT + 40 :]):
        assert margin.sum() > 100


def test_silence_is_dark_and_saving_does_not_end_the_piece(tmp_path):
    picture = Spectrogram(RATE)
    picture.push(np.zeros(RATE))
    assert picture.image().max() == 0
    picture.save(tmp_path / "a.png")
    again = Spectrogram(RATE)
    for s in (picture, again):
        s.push(tone(300, 1) if s is picture else np.concatenate([np.zeros(RATE), tone(300, 1)]))
    assert np.array_equal(picture.image(), again.image())


def test_an_unwritable_path_is_named(tmp_path):
    with pytest.raises(UsageError, match="create it first"):
        save(tmp_path / "no" / "such.png", np.zeros(10), RATE)
    save(tmp_path / f"{'x' * 251}.png", np.zeros(10), RATE)  # the name that it has until it is complete is no longer
