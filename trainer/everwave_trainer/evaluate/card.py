"""Model cards, written from what a weights file says of itself (`everwave-train card`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from everwave import weights
from everwave.errors import UsageError


def read_metrics(path: Path) -> dict[str, Any]:
    """What `evaluate` has written; UsageError if it is not there, damaged, or nothing that a card could tell."""
    advice = "give the metrics.json of `everwave-train evaluate`"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--metrics {path}: {reason}; {advice}") from None
    try:
        told = list(_measures(metrics))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"--metrics {path}: not of the form that is expected ({error!r}); {advice}") from None
    if not told:
        raise UsageError(f"--metrics {path}: holds no measure; {advice}")
    return metrics


def card(name: str, metrics: Mapping[str, Any] | None = None) -> str:
    """Markdown on a shipped name or weights file; `metrics` (of `evaluate`) in place of those in the file."""
    path = weights.find(name)
    file = weights.read(path)
    provenance = dict(file.provenance)
    metrics = metrics or provenance.pop("metrics", None)
    return "\n".join([*_head(path, file, provenance), *_measures(metrics or {})]) + "\n"


def _head(path: Path, file: weights.ModelFile, provenance: Mapping[str, Any]) -> Iterator[str]:
    data = provenance.get("data", {})
    config = file.config
    yield f"## {path.stem}\n"
    yield f"- **File**: `{path.name}`, {path.stat().st_size / 1e6:.1f} MB, {file.kind}; networks: {', '.join(file.parameters)}"
    if file.autoencoder:
        yield f"- **Needs**: `{file.autoencoder['file']}`, sha256 {file.autoencoder['sha256'][:16]}..."
    yield f"- **Sizes**: {config.signal.sample_rate} Hz, widths {config.autoencoder.width} and {config.generator.width}"
    for c in config.generator.conditions:
        known = f"mean {c.mean:.4g}, deviation {c.scale:.3g}"
        known = " or ".join(f"{value:g}" for value in c.choices) or known
        yield f"- **Condition**: {c.name}, {c.low:g} to {c.high:g} {c.unit}".rstrip() + f" (training: {known})"
    yield f"- **Licence**: {file.licence}"
    if isinstance(data, str):
        yield f"- **Data**: {data}"
    elif data:
        licences = f". Licences: {', '.join(data['licences'])}" if data.get("licences") else ""
        yield f"- **Data**: {data['hours']:.1f} h of {', '.join(data['packages'])}{licences}"
    facts = {k: v for k, v in provenance.items() if k not in ("data", "metrics")}
    if facts:
        yield "- **Training**: " + "; ".join(f"{k.replace('_', ' ')} {_plain(v)}" for k, v in facts.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k.replace('_', ' ')} {_plain(v)}" for k, v in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _measures(metrics: Mapping[str, Any]) -> Iterator[str]:
    writers = {
        "reconstruction": _reconstruction,
        "pitch": _pitch,
        "tempo": _tempo,
        "density": _density,
        "precision": _precision,
        "distribution": _distribution,
    }
    rows = [row for name, write in writers.items() if name in metrics for row in write(metrics[name])]
    if not rows:
        return
    corpus = metrics.get("corpus", {})
    yield f"\nMeasured on {corpus.get('tracks', '?')} held-out tracks ({corpus.get('minutes', '?')} min: {', '.join(corpus.get('packages', []))})"
    yield "by `everwave-train evaluate`:\n\n| measure | figure | beside it |\n|---|---|---|"
    yield from (f"| {measure} | {figure} | {beside} |" for measure, figure, beside in rows)


Rows = Iterator[tuple[str, str, str]]


def _reconstruction(m: Mapping[str, Any]) -> Rows:
    clips = f"{m['clips']} clips of {m['seconds']:g} s"
    yield f"log-mel error, both levels ({clips})", f"{m['log_mel_error_db']:.2f} dB", ""
    griffin = f"80 mel bands and Griffin-Lim {m['log_mel_error_mel_griffin_lim_db']:.2f} dB"
    yield "log-mel error, level 1 alone", f"{m['log_mel_error_level1_db']:.2f} dB", griffin
    for n in (256, 1024, 4096):
        true, random, lim = (m[f"convergence_{n}_{kind}_phase"] for kind in ("true", "random", "griffin_lim"))
        beside = f"true phases {true:.2f}, random {random:.2f}, 32 x Griffin-Lim {lim:.2f}"
        yield f"spectral convergence at FFT {n}, decoded phases", f"{m[f'convergence_{n}_decoded_phase']:.2f}", beside
    if "convergence_1024_true_bass_phase" in m:  # not in files of older evaluations
        bass, ours, true = (
            m[f"convergence_1024_{kind}_phase"] for kind in ("true_bass", "both_levels_decoded", "both_levels_true")
        )
        yield "the same at 1024, true phases below 700 Hz alone", f"{bass:.2f}", ""
        yield "spectral convergence at FFT 1024, both levels", f"{ours:.2f}", f"true phases {true:.2f}"
    yield "inconsistency of decoded spectra", f"{m['inconsistency']:.2f}", "0 is the spectrum of a signal"


def _pitch(m: Mapping[str, Any]) -> Rows:
    centres = f"at the centres of their bins {m['bin_centres']['median_cents']:.0f} cents, {m['bin_centres']['within_50_cents']:.0%}"
    for name, levels in (("level1", "level 1"), ("both_levels", "both levels")):
        figure = f"{m[name]['median_cents']:.0f} cents, {m[name]['within_50_cents']:.0%}"
        yield f"pitch of partials below 2 kHz, {levels}: median error, within a quarter tone", figure, centres


def _tempo(m: Mapping[str, Any]) -> Rows:
    for name in (k for k, v in m.items() if isinstance(v, dict)):
        ours, total = m[name]["generated"], m["clips"]
        beside = [f"chance {m[name]['chance']:.1f}"]
        for kind in ("real", "reconstructed"):
            if kind in m[name]:
                beside.append(f"{kind} music {m[name][kind]['within_4_percent']} of {m[name][kind]['clips']}")
        yield f"tempo within 4 %, 120-160 bpm ({name})", f"{ours['within_4_percent']} of {total}", ", ".join(beside)
        yield (
            f"tempo up to an octave ({name})",
            f"{ours['up_to_octave']} of {total}",
            f"median error {ours['median_error_bpm']} bpm",
        )


def _density(m: Mapping[str, Any]) -> Rows:
    for name in (k for k, v in m.items() if isinstance(v, dict)):
        d = m[name]
        real = ", ".join(f"{kind} music {d[kind]:.2f}" for kind in ("real", "reconstructed") if kind in d)
        yield (
            f"density, Spearman, constants ({name})",
            f"{d['constants']:.2f}",
            f"95 % of shuffles below {d['constants_chance_95']:.2f}",
        )
        yield (
            f"density, Spearman, random curves ({name})",
            f"{d['curves']:.2f}",
            f"chance {d['curves_chance']:.2f}; {real}",
        )


def _precision(m: Mapping[str, Any]) -> Rows:
    pieces = f"{m['pieces']} pieces of {m['seconds']:g} s; the largest {m['largest_db']:.3f} dB"
    yield "log-mel difference, bfloat16 from float32", f"{m['log_mel_difference_db']:.3f} dB", pieces


def _distribution(m: Mapping[str, Any]) -> Rows:
    f, d, n = m["frechet_to_held_out"], m["diversity"], m["nearest"]
    # metrics from before it was measured lack it
    floor = f"; reconstructed {f['training_reconstructed']:.2f}" if "training_reconstructed" in f else ""
    yield (
        "Frechet distance to held-out music: reconstructed",
        f"{f['reconstructed']:.2f}",
        f"training music {f['training']:.2f}{floor} ({m['windows']} windows each)",
    )
    if "generated" in f:
        yield (
            "Frechet distance to held-out music: generated",
            f"{f['generated']:.2f}",
            f"{f['generated_over_reconstructed']:.2f} x reconstructed",
        )
        yield (
            "diversity: distance between pieces",
            f"{d['generated']:.2f}",
            f"{d['generated_over_training']:.2f} x that of training music, held-out {d['held_out']:.2f}",
        )
        yield (
            "nearest window of the training music",
            f"{n['generated_to_training']:.2f}",
            f"held-out music {n['held_out_to_training']:.2f}, a copy {n['copy']:.2f}",
        )
        if levels := m.get("level"):  # metrics from before it was measured lack it
            ours, theirs = levels["generated"], levels["held_out"]
            yield (
                "samples at full scale, generated",
                f"{ours['full_scale_percent']:.2f} %",
                f"held-out music {theirs['full_scale_percent']:.2f} %; level {ours['rms_db']:.1f} dB, {theirs['rms_db']:.1f}",
            )
