"""From the runs of `compare.py` to medians, ratios within a round, and a Markdown table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

from contenders import CONTENDERS

BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
OURS = {"float32": "everwave-float32", "bfloat16": "everwave-bf16"}
KERAS = "keras-float32"
WHAT = {"wall": "Times real time", "cpu": "Seconds of audio per second of CPU time"}

Row = dict[str, Any]
Place = tuple[str, int, float]  # preset, threads, seconds of the piece
Speeds = dict[str, float]  # contender -> times real time, in one round


def precision(name: str) -> str:
    return CONTENDERS[name].precision if name in CONTENDERS else "float32" if name == OURS["float32"] else "bfloat16"


def label(name: str) -> str:
    return CONTENDERS[name].label if name in CONTENDERS else "**everwave, the whole job**"


def summary(runs: list[Row]) -> Row:
    """`summary`: medians of every contender at every place; `ratios`: the claims, each the median over rounds."""
    places = list(dict.fromkeys(_place(run) for run in runs))
    rows, ratios = [], []
    for place in places:
        here = [run for run in runs if _place(run) == place]
        rounds = _rounds(here)
        where = dict(zip(("preset", "threads", "seconds"), place, strict=True))
        for name in dict.fromkeys(run["contender"] for run in here):
            rows.append({**where, "contender": name, **_medians(name, here, rounds)})
        ratios += [{**where, **claim} for claim in _claims(rounds)]
    return {"summary": rows, "ratios": ratios + _lite_against_full(runs)}


def _place(run: Row) -> Place:
    return run["preset"], run["threads"], run["seconds"]


def _rounds(runs: list[Row]) -> list[Speeds]:
    numbers = dict.fromkeys(run["round"] for run in runs)
    return [{r["contender"]: r["times_real_time"] for r in runs if r["round"] == number} for number in numbers]


def _medians(name: str, runs: list[Row], rounds: list[Speeds]) -> Row:
    mine = [run for run in runs if run["contender"] == name]
    speeds = [run["times_real_time"] for run in mine]
    return {
        "times_real_time": median(speeds),
        "slowest": min(speeds),
        "fastest": max(speeds),
        "everwave_is_faster": _ratio(rounds, lambda s: s[OURS[precision(name)]], lambda s: s[name]),
        "peak_rss_mb": median(run["peak_rss_mb"] for run in mine),
        "batch": mine[0].get("batch"),
        "workers": mine[0].get("workers"),
    }


def _ratio(rounds: Iterable[Speeds], over: Callable[[Speeds], float], under: Callable[[Speeds], float]) -> float | None:
    """Median over rounds; a round in which one of the two did not run has no ratio."""
    found = []
    for speeds in rounds:
        try:
            found.append(over(speeds) / under(speeds))
        except (KeyError, ValueError):
            continue
    return round(median(found), 3) if found else None


def _claims(rounds: list[Speeds]) -> list[Row]:
    """What the README may say: against the best contender of each round, whichever it was."""

    def best(wanted: str) -> Callable[[Speeds], float]:
        return lambda speeds: max(v for n, v in speeds.items() if n in CONTENDERS and precision(n) == wanted)

    claims = {
        "float32 against the best float32 contender": (OURS["float32"], best("float32")),
        "bfloat16 against the best bfloat16 contender": (OURS["bfloat16"], best("bfloat16")),
        "bfloat16 against Keras/TensorFlow float32": (OURS["bfloat16"], lambda speeds: speeds[KERAS]),
        "bfloat16 against our own float32": (OURS["bfloat16"], lambda speeds: speeds[OURS["float32"]]),
    }
    found = {claim: _ratio(rounds, lambda s, o=ours: s[o], under) for claim, (ours, under) in claims.items()}  # type: ignore[misc]
    return [{"claim": claim, "ratio": ratio} for claim, ratio in found.items() if ratio is not None]


def _lite_against_full(runs: list[Row]) -> list[Row]:
    claims = []
    for name in OURS.values():
        for threads, seconds in dict.fromkeys((run["threads"], run["seconds"]) for run in runs):
            here = [r for r in runs if (r["contender"], r["threads"], r["seconds"]) == (name, threads, seconds)]
            rounds = _rounds([{**run, "contender": run["preset"]} for run in here])
            ratio = _ratio(rounds, lambda speeds: speeds["lite"], lambda speeds: speeds["full"])
            if ratio is not None:
                claim = f"lite against full, {precision(name)}"
                claims.append(
                    {"preset": "lite", "threads": threads, "seconds": seconds, "claim": claim, "ratio": ratio}
                )
    return claims


# -- Markdown -------------------------------------------------------------------------------------------------------


def markdown(results: Row) -> str:
    """One table per preset, the claims, and everything needed to repeat it."""
    rows = results["summary"]
    parts = [
        _table(preset, rows, results.get("clock", "wall")) for preset in dict.fromkeys(row["preset"] for row in rows)
    ]
    if results["ratios"]:
        parts.append(_claims_table(results["ratios"]))
    return "\n\n".join([*parts, _footnotes(results)]) + "\n"


def _table(preset: str, rows: list[Row], clock: str) -> str:
    rows = [row for row in rows if row["preset"] == preset]
    places = sorted({(row["threads"], row["seconds"]) for row in rows})
    heads = [f"{threads} thread{'s' * (threads > 1)}, {seconds:g} s" for threads, seconds in places]
    names = sorted(
        {row["contender"] for row in rows}, key=lambda name: (precision(name), _speed(rows, name, places[-1]))
    )
    lines = [
        f"{WHAT[clock]} at `{preset}`; in brackets, how many times as fast everwave is at the same precision",
        "",
        "| networks run by | precision | " + " | ".join(heads) + " | peak MB |",
        "|---|---|" + "---|" * len(heads) + "---|",
    ]
    for name in names:
        cells = [_cell(rows, name, place) for place in places]
        memory = max(row["peak_rss_mb"] for row in rows if row["contender"] == name)
        lines.append(f"| {label(name)} | {precision(name)} | " + " | ".join(cells) + f" | {memory:.0f} |")
    return "\n".join(lines)


def _find(rows: list[Row], name: str, place: tuple[int, float]) -> Row | None:
    return next((r for r in rows if r["contender"] == name and (r["threads"], r["seconds"]) == place), None)


def _speed(rows: list[Row], name: str, place: tuple[int, float]) -> float:
    row = _find(rows, name, place)
    return row["times_real_time"] if row else 0.0


def _cell(rows: list[Row], name: str, place: tuple[int, float]) -> str:
    row = _find(rows, name, place)
    if row is None:
        return "-"
    speed = f"{row['times_real_time']:.1f}"
    if name not in CONTENDERS:
        return f"**{speed}**"
    return f"{speed} ({row['everwave_is_faster']:.2f} x)" if row["everwave_is_faster"] else speed


def _claims_table(ratios: list[Row]) -> str:
    lines = [
        "| everwave, median of the ratios inside a round | preset | threads | piece | ratio |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['claim']} | {r['preset']} | {r['threads']} | {r['seconds']:g} s | {r['ratio']:.2f} x |" for r in ratios
    ]
    return "\n".join(lines)


def _footnotes(results: Row) -> str:
    machine = results["machine"]
    rounds = 1 + max((run["round"] for run in results["runs"]), default=-1)
    settings = {
        f"{row['contender']} ({row['threads']} threads) {row['batch']} x {row['workers']}"
        for row in results["summary"]
        if row["batch"] is not None
    }
    lines = [
        f"{rounds} round{'s' * (rounds != 1)} on {results['date'][:10]}, every run in a fresh process; {machine['cpu']}, "
        f"{machine['cores']} cores ({', '.join(machine['features'])}), {machine['system']}. Contenders run the networks only, everwave also makes the "
        "coordinates, does the inverse STFT and writes the file.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".",
        *(
            ["Fastest setting found for each, windows per call x calls at once: " + ", ".join(sorted(settings)) + "."]
            if settings
            else []
        ),
        *(f"Skipped: {name}: {reason}" for name, reason in results["skipped"].items()),
        f"Command: `{results['command']}`",
    ]
    return "\n\n".join(lines)


def put_between_markers(path: Path, text: str) -> None:
    """Replace what stands between the two markers of the file; ValueError if it lacks them."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path}: no {BEGIN} ... {END} to put the table between")
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}")
