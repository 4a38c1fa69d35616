"""A page to listen to and to look at: players and spectrograms of real, reconstructed and generated music."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from everwave import spectrogram
from everwave.spectrogram import WIDTH
from tqdm import tqdm

from ..corpora.store import Track
from .control import densities, tempi
from .samples import held_out_crop

SECONDS, LONG_SECONDS = 23.0, 240.0
REAL = 3  # held-out tracks
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;background:#0b0b12;color:#ddd}
h1,h2{font-weight:600}h2{margin-top:2.5rem}figure{margin:0 0 1.5rem}figcaption{margin-bottom:.3rem}
.pair,.row{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr))}.pair{grid-template-columns:1fr 1fr}
img,svg{display:block;width:100%;height:9rem;border-radius:4px}.row img,.pair img{height:7rem}
svg{height:4rem;background:#15151f;margin-top:2px}audio{width:100%;margin-top:.3rem}
polyline{fill:none;stroke:#f9b246;stroke-width:2;vector-effect:non-scaling-stroke}"""

Curve = list[tuple[float, float]]  # seconds, value


def write(model: Any, tracks: Sequence[Track], folder: Path, title: str) -> Path:
    """Fill `folder` with `index.html`, its audio and its pictures; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    page = Page(folder, model.sample_rate)
    sections = [_real(page, model, tracks)]
    if "generator" in model.info()["parameters"]:
        names = {c.name: c for c in model.conditions}
        sections.append(_free(page, model))
        if "bpm" in names:
            sections.append(_tempi(page, model, names["bpm"]))
        if "density" in names:
            sections.append(_densities(page, model, names["density"]))
        sections += [_choices(page, model, condition) for condition in model.conditions if condition.choices]
    body = "\n".join(sections)
    index = folder / "index.html"
    index.write_text(
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<style>{STYLE}</style>\n<h1>{html.escape(title)}</h1>\n"
        f"<p>Spectrograms: time from left to right, 30 Hz to {model.sample_rate // 2000} kHz from bottom to top, 80 dB.</p>\n{body}\n</html>\n",
        encoding="utf-8",
    )
    return index


class Page:
    """Writes audio and pictures, and gives the HTML that shows them."""

    def __init__(self, folder: Path, sample_rate: int) -> None:
        self.folder, self.sample_rate = folder, sample_rate
        self.bar = tqdm(unit="clip", disable=None, leave=False)

    def figure(self, name: str, caption: str, samples: np.ndarray, curve: Curve | None = None, top: float = 1.0) -> str:
        """One clip; `curve` is drawn below it, from 0 to `top`."""
        with soundfile.SoundFile(
            self.folder / f"{name}.ogg", "w", self.sample_rate, 1 if samples.ndim == 1 else 2
        ) as file:
            for start in range(0, len(samples), self.sample_rate):  # libvorbis overflows its stack on minutes at once
                file.write(np.clip(samples[start : start + self.sample_rate], -1, 1))
        spectrogram.save(self.folder / f"{name}.png", samples, self.sample_rate)
        self.bar.update()
        drawn = ""
        if curve:
            end = len(samples) / self.sample_rate
            points = " ".join(f"{WIDTH * t / end:.0f},{100 - 100 * v / top:.1f}" for t, v in curve)
            drawn = f'<svg viewBox="0 -4 {WIDTH} 108" preserveAspectRatio="none"><polyline points="{points}"/></svg>'
        return (
            f'<figure id="{name}"><figcaption>{html.escape(caption)}</figcaption>'
            f'<img src="{name}.png" alt="spectrogram of {html.escape(caption)}" loading="lazy">{drawn}'
            f'<audio controls preload="none" src="{name}.ogg"></audio></figure>'
        )


def _section(title: str, figures: Iterator[str], kind: str) -> str:
    return f'<h2>{html.escape(title)}</h2>\n<div class="{kind}">\n' + "\n".join(figures) + "\n</div>"


def _real(page: Page, model: Any, tracks: Sequence[Track]) -> str:
    longest = sorted({t.package: t for t in sorted(tracks, key=lambda t: t.seconds)}.values(), key=lambda t: -t.seconds)
    chosen = [*longest, *(t for t in tracks if t not in longest)][:REAL]

    def figures() -> Iterator[str]:
        for i, track in enumerate(chosen):
            real = held_out_crop(track, SECONDS)
            yield page.figure(f"real-{i}", f"real: {track.title} ({track.package})", real)
            again = model.decode(model.encode(real, page.sample_rate))[: len(real)]
            yield page.figure(f"reconstructed-{i}", f"reconstructed: {track.title}", again)

    return _section("Held-out music through the autoencoder", figures(), "pair")


def _free(page: Page, model: Any) -> str:
    def figures() -> Iterator[str]:
        for seed in range(4):
            yield page.figure(f"free-{seed}", f"{SECONDS:g} s, seed {seed}", model.generate(SECONDS, seed=seed))

    long = page.figure("long", f"{LONG_SECONDS / 60:g} min, seed 7", model.generate(LONG_SECONDS, seed=7))
    return _section("Generated", figures(), "row") + "\n" + long


def _tempi(page: Page, model: Any, condition: Any) -> str:
    def figures() -> Iterator[str]:
        for bpm in tempi(condition):
            yield page.figure(f"bpm-{bpm:g}", f"{bpm:g} bpm", model.generate(SECONDS, seed=1, bpm=bpm))

    return _section("Tempo", figures(), "row")


def _choices(page: Page, model: Any, condition: Any) -> str:
    def figures() -> Iterator[str]:
        for seed in range(3):
            for i, value in enumerate(condition.choices):
                samples = model.generate(SECONDS, seed=seed, **{condition.name: value})
                yield page.figure(f"{condition.name}-{seed}-{i}", f"{condition.name} {value:g}, seed {seed}", samples)

    return _section(condition.name.capitalize(), figures(), "row")


def _densities(page: Page, model: Any, condition: Any) -> str:
    low, high = densities(condition)

    def constants() -> Iterator[str]:
        for i, value in enumerate(np.linspace(low, high, 6)):
            samples = model.generate(SECONDS, seed=1, density=float(value))
            yield page.figure(
                f"density-{i}", f"{value:.1f} onsets per second", samples, [(0, value), (SECONDS, value)], high
            )

    def random() -> Iterator[str]:
        times = np.arange(0, 2 * SECONDS + 6, 6)
        for seed in range(3):
            values = np.random.default_rng(seed).uniform(low, high, len(times))
            samples = model.generate(2 * SECONDS, seed=seed, density=np.stack([times, values], axis=1))
            yield page.figure(
                f"curve-{seed}", f"random density, seed {seed}", samples, list(zip(times, values, strict=True)), high
            )

    return _section("Note density, constant", constants(), "row") + _section("Note density, random", random(), "row")
