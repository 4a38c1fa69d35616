"""Streams as a player meets them: in real time for long, and what a change of controls does to the sound.

    python benchmarks/stream.py real-time --minutes 30 --threads 1
    python benchmarks/stream.py changes --count 60
    python benchmarks/stream.py loops --count 20

Each prints one JSON object. `real-time` pulls as a player does that holds `--buffer` seconds: it sleeps until so long before
the moment at which the last block will have been played, and counts an underrun whenever the next one comes later than that.
`changes` and `loops` compare spectral flux: the sum over bins of the rise of the magnitude from one frame of 1024
samples to the next 256 later, over the sum of magnitudes. At a change, what counts is the largest flux in the 20 ms
around it, against the same of windows of 20 ms everywhere else in the piece, the borders of decoder windows included.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import everwave
import numpy as np
from everwave import weights
from everwave.bench import status_mb
from everwave.config import Condition
from everwave.playing import BUFFER_SECONDS

Array = np.ndarray

N_FFT, HOP = 1024, 256
AROUND = 882  # samples on either side of a change: 20 ms
LOOP_SECONDS = (2.0, 4.0, 8.0, 15.0, 23.8, 30.0)  # 23.8: two whole generator windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("real-time", "changes", "loops"))
    parser.add_argument("--model", default="techno")
    parser.add_argument("--random-tempo", action="store_true",
                        help="in front of the model's decoders, a random generator of the same size that has a tempo")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--buffer", type=float, default=BUFFER_SECONDS, help="seconds; default: that of stream --play")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.random_tempo:
        model = with_random_tempo(options.model, options.threads)
    else:
        model = everwave.load(options.model, options.threads)
    model.prepare()
    run: dict[str, Callable[[], dict[str, Any]]] = {
        "real-time": lambda: real_time(model, 60 * options.minutes, options.buffer),
        "changes": lambda: changes(model, options.count),
        "loops": lambda: loops(model, options.count),
    }
    name = options.model + (" with a random generator" if options.random_tempo else "")
    print(json.dumps({"model": name, "threads": options.threads} | run[options.what]()))


def with_random_tempo(name: str, threads: int) -> everwave.Model:
    path = weights.find(name)
    file = weights.resolve(weights.read(path), path)
    bpm = Condition("bpm", "beats per minute", 140.0, 12.0, 120.0, 160.0, clocks=(1, 4))
    config = replace(file.config, generator=replace(file.config.generator, conditions=(bpm,), refiner=0))
    generator = {"generator": weights.random_model(config, seed=1).parameters["generator"]}
    return everwave.Model.from_parts(replace(file, config=config, parameters=file.parameters | generator), threads)


# -- real time -----------------------------------------------------------------------------------------------------


def real_time(model: everwave.Model, seconds: float, buffer: float) -> dict[str, Any]:
    """Listen for `seconds`, with other controls every minute."""
    late, overslept, waits, delays, memory = [], [], [], [], []
    rate, minute = model.sample_rate, 0
    cpu = time.process_time()
    with model.stream(seed=7) as stream:
        played = len(next(stream))  # how much there is to play: it begins as soon as there is something
        begin = time.monotonic()
        while played < seconds * rate:
            if played >= 60 * rate * (minute + 1):
                minute += 1
                delays.append(turn(model, stream, minute))
            room = max(begin + played / rate - buffer, time.monotonic())  # when the buffer takes more
            time.sleep(max(0.0, room - time.monotonic()))
            asked = time.monotonic()
            overslept.append(asked - room)
            block = next(stream)
            waits.append(time.monotonic() - asked)
            late.append(time.monotonic() - (begin + played / rate))
            played += len(block)
            if minute > len(memory) - 1:
                memory.append(round(status_mb("VmRSS"), 1))
    return {
        "buffer_seconds": buffer,
        "minutes": round(played / rate / 60, 2),
        "blocks": len(late),
        "underruns": sum(x > 0 for x in late),
        "of_them_the_player_itself_woke_too_late": sum(
            x > 0 and y > buffer for x, y in zip(late, overslept, strict=True)
        ),
        "longest_wait_for_a_block_seconds": round(max(waits), 3),
        "player_woke_late_by_at_most_seconds": round(max(overslept), 3),
        "least_slack_seconds": round(-max(late), 3),
        "changes": minute,
        "control_delay_seconds": {"median": round(float(np.median(delays)), 2), "largest": round(max(delays), 2)},
        "cpu_share": round((time.process_time() - cpu) / seconds, 4),
        "resident_mb_each_minute": memory,
    }


def turn(model: everwave.Model, stream: everwave.Stream, minute: int) -> float:
    """Change what the model has; seconds from here, which will be played next, until the change is heard."""
    controls: dict[str, Any] = {"truncation": (1.0, 2.0, 3.0)[minute % 3], "style": minute}
    for condition in model.conditions:
        controls[condition.name] = condition.low + (condition.high - condition.low) * (minute % 5) / 4
    heard = stream.log["frames"]
    stream.set(**controls, gain=(1.0, 0.7)[minute % 2], glide=(0.0, 10.0)[minute % 2])
    last = max(change["at"] for change in stream.log["changes"])
    return (last - heard) / model.sample_rate


# -- what is heard -------------------------------------------------------------------------------------------------


def changes(model: everwave.Model, number: int) -> dict[str, Any]:
    """Change each control in turn every few seconds; the flux there against the rest."""
    kinds: list[dict[str, Any]] = [{"truncation": 1.0}, {"truncation": 3.0}, {"style": 1}, {"style": 2}, {"gain": 0.3}]
    kinds += [{"gain": 1.0}, {"style": 3, "glide": 2.0}, {"seek": 0.0}]
    for condition in model.conditions:
        kinds += [{condition.name: condition.low}, {condition.name: condition.high}]
    blocks = []
    with model.stream(seed=7) as stream:
        for i in range(number):
            for _ in range(9):
                blocks.append(next(stream))
            kind = dict(kinds[i % len(kinds)])
            if "seek" in kind:
                stream.seek(60.0 + 7.3 * i)
            else:
                stream.set(**({k: v + 10 * i if k == "style" else v for k, v in kind.items()}))
        log = stream.log
    audio = np.concatenate(blocks)
    at: dict[str, list[int]] = {}
    for change in log["changes"]:
        for name in change.keys() - {"at", "glide"}:
            if AROUND < change["at"] < len(audio) - AROUND - N_FFT:
                at.setdefault(name + (" with glide" if change.get("glide") else ""), []).append(change["at"])
    return compare(model, audio, at)


def loops(model: everwave.Model, number: int) -> dict[str, Any]:
    """Loops of several lengths, each played twice in a row; the flux around the seam against that around other moments."""
    shares: dict[float, list[float]] = {}
    for seed in range(number):
        seconds = LOOP_SECONDS[seed % len(LOOP_SECONDS)]
        loop = model.generate(seconds, seed=seed, loop=True)
        near = around(flux_of(np.concatenate([loop, loop])))
        seam = (len(loop) - AROUND) // HOP
        others = np.concatenate([near[: seam - 2 * AROUND // HOP], near[seam + 2 * AROUND // HOP :]])
        shares.setdefault(seconds, []).append(float((others < near[seam]).mean()))
    return {"share of other moments with less flux than the seam": {k: quantiles(v) for k, v in shares.items()}}


def compare(model: everwave.Model, audio: Array, at: dict[str, list[int]]) -> dict[str, Any]:
    """The largest flux around each change, and around every other moment."""
    flux = flux_of(audio)
    rest = np.ones(len(flux), bool)
    for place in (p for places in at.values() for p in places):
        rest[(place - 2 * AROUND) // HOP : (place + 4 * AROUND) // HOP] = False
    rest &= np.arange(len(flux)) > model.sample_rate // HOP  # a piece begins out of silence
    near = around(flux)
    moments = near[rest[AROUND // HOP :][: len(near)]]
    result: dict[str, Any] = {
        "seconds": round(len(audio) / model.sample_rate, 1), "no change": quantiles(moments) | {"moments": len(moments)}
    }  # fmt: skip
    for name, places in at.items():
        found = np.array([near[(p - AROUND) // HOP] for p in places])
        above = int((found > moments.max()).sum())
        result[name] = quantiles(found) | {"changes": len(found), "above all of no change": above}
    return result


def around(flux: Array) -> Array:
    """The largest flux of each stretch of 2 AROUND samples, by its first frame."""
    return np.lib.stride_tricks.sliding_window_view(flux, 2 * AROUND // HOP + 1).max(axis=1)


def flux_of(audio: Array) -> Array:
    """(frames,) spectral flux of both channels together."""
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(audio.mean(axis=1), N_FFT)[::HOP]
    magnitude = np.concatenate(
        [np.abs(np.fft.rfft(frames[i : i + 4096] * window)) for i in range(0, len(frames), 4096)]
    )
    rise = np.maximum(np.diff(magnitude, axis=0), 0).sum(axis=1)
    return rise / (magnitude[1:].sum(axis=1) + magnitude[:-1].sum(axis=1) + 1e-3)


def quantiles(values: Any) -> dict[str, float]:
    return {name: round(float(np.quantile(values, q)), 4) for name, q in (("median", 0.5), ("p99", 0.99), ("max", 1.0))}


if __name__ == "__main__":
    main()
