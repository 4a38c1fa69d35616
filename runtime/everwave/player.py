"""What a stream does: it plans segments, has them made ahead, joins them, and takes changes of controls on the way.

What is heard is a function of the model and of the stream's log: seed, controls, and every change with the frame at
which it took effect. So a log can be played again, sample for sample, however fast the first player pulled.

Work ahead is a queue of segments. A change of controls throws away the far end of it and plans it anew: that is the
delay of a control. Frames are counted as they are heard; `Run`s, the stretches between seeks, place them in the piece.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Collection, Mapping
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from . import checks, signal
from .conditioning import TEMPO
from .config import DECODER_LATENTS
from .controls import RAMP_SECONDS, Envelope, Piece, State, plain
from .errors import EverwaveError, UsageError
from .pipeline import CHANNELS, SEGMENT_WINDOWS, SEGMENTS_PER_WORKER, Pipeline, segment_size

Array = np.ndarray
AHEAD_SECONDS = 6.0  # an endless stream's work ahead
KEPT_SECONDS = (
    0.75  # work ahead that a change of controls leaves alone, so that a player has something to play meanwhile
)
LIVE_WINDOWS = 2  # decoder windows in a segment of an endless stream: what is finest for a control
ECHO_HOPS = 8  # 46 ms: how long what was heard last fades out after a jump
MAX_AHEAD = 3600.0
WORKERS_GONE = "the stream's workers were shut down; keep them until the stream is closed"


class Run(NamedTuple):
    """What is played without a jump: from sample `first` of the piece on, heard from frame `heard` on."""

    first: int
    heard: int

    def sample(self, heard: int) -> int:
        return self.first + heard - self.heard

    def heard_at(self, sample: int) -> int:
        return self.heard + sample - self.first


class Cursor(NamedTuple):
    """Where planning has come to: the next decoder window, the controls there, how many turns are taken."""

    run: Run
    window: int
    state: State
    turns: int
    size: int = 1  # windows of the next segment; they grow, for early audio


class Segment(NamedTuple):
    begin: Cursor
    end: Cursor
    result: Future[Array]


class Player:
    """The work behind a `Stream`. Every method may be called from any thread; blocks are taken by one at a time."""

    def __init__(self, pipeline: Pipeline, piece: Piece, log: Mapping[str, Any], frames: int | None,
                 ahead: float | None) -> None:  # fmt: skip
        self.pipeline, self.piece, self.frames, self.heard = pipeline, piece, frames, 0
        self.rate, self.window, self.carry = pipeline.config.signal.sample_rate, pipeline.window_samples, pipeline.carry
        self.first, self.controls = log["start"], dict(log["controls"])  # what it began with
        self.values = dict(self.controls)  # what was asked for last
        self.turns: list[dict[str, Any]] = []  # changes of everything but the gain, in order
        self.levels: list[dict[str, Any]] = []  # those of the gain
        self.envelope = Envelope(self.values["gain"])
        self.windows_ahead, self.largest = SEGMENTS_PER_WORKER * pipeline.threads * SEGMENT_WINDOWS, SEGMENT_WINDOWS
        if frames is None or ahead is not None:
            seconds = AHEAD_SECONDS if ahead is None else checks.number("ahead", ahead, 0, MAX_AHEAD)
            self.windows_ahead, self.largest = math.ceil(seconds * self.rate / self.window), LIVE_WINDOWS
        self.lock = threading.RLock()
        self.workers = ExitStack()
        self.pool: Executor | None = None
        self.process = os.getpid()
        self.closed = False
        run = Run(self.first, 0)
        self.cursor = self.taken = Cursor(run, self._first_window(run), piece.state(self.values), 0)
        self.pending: deque[Segment] = deque()
        self.run, self.state = run, self.cursor.state  # of the next block
        self.overlap = signal.OverlapAdd(pipeline.config.signal, len(CHANNELS))
        self.ready = self.tail = self.echo = np.empty((0, len(CHANNELS)), np.float32)
        self.settled = 0  # no change may be put before this frame
        self.scripted = bool(log["changes"])
        for change in sorted(log["changes"], key=lambda change: change["at"]):
            piece.check(_controls(change))
            self._record(dict(change))

    # -- changes ---------------------------------------------------------------------------------------------------

    def change(self, wishes: Mapping[str, Any], glide: float) -> None:
        wishes = {name: plain(name, value, self.piece.config) for name, value in wishes.items()}
        with self.lock:
            self._refuse_scripted()
            self.piece.check(wishes)
            if wishes.keys() - {"gain"}:
                self._forget(round(KEPT_SECONDS * self.rate))
                begun = self.cursor.window > self._first_window(self.cursor.run)
                earliest = self.cursor.window * self.window - self.carry
                at = self.settled = max(self.cursor.run.heard + begun, self.cursor.run.heard_at(earliest), self.settled)
            self.values = self.values | wishes  # states hold the old ones
            if "gain" in wishes:
                self._record({"at": self.heard, "gain": wishes.pop("gain"), "glide": glide})
            if wishes:
                self._record({"at": at, **wishes, "glide": glide})

    def seek(self, seconds: float) -> None:
        with self.lock:
            self._refuse_scripted()
            for turn in self.turns[self.taken.turns :]:  # asked for before the jump: it holds after it
                turn["at"] = self.heard
            self.settled = self.heard
            self._forget(0)
            self._record({"at": self.heard, "seek": seconds})
            self.taken = self.cursor = self._turned(self.cursor)
            self.state = self.cursor.state
            self._jump(self.cursor.run)

    def position(self) -> float:
        return self.run.sample(self.heard) / self.rate

    def beat(self) -> float | None:
        names = [condition.name for condition in self.piece.config.generator.conditions]
        if TEMPO not in names:
            return None
        with self.lock:  # latent n stands for its middle
            at = self.run.sample(self.heard) / self.piece.config.signal.latent_samples - 0.5
            n = max(math.floor(at), 0)
            before, after = self.state.conditions.beats(names.index(TEMPO), np.array([n, n + 1]))
        return float(before + (after - before) * (at - n))

    def log(self) -> dict[str, Any]:
        with self.lock:
            changes = sorted([*self.turns, *self.levels], key=lambda change: change["at"])
            return {
                "sample_rate": self.rate, "seed": self.piece.seed, "start": self.first, "frames": self.heard,
                "controls": dict(self.controls), "changes": [dict(change) for change in changes],
            }  # fmt: skip

    def _record(self, change: dict[str, Any]) -> None:
        """Put a change where it belongs in time; of several of one control at one frame the last counts."""
        at = change["at"]
        if "gain" in change:
            if self.levels and self.levels[-1]["at"] == at:
                self.levels.pop()
            self.levels.append(change)
            self.envelope.add(at, change["gain"], round(max(change["glide"], RAMP_SECONDS) * self.rate))
            return
        i = len(self.turns)
        while i > self.taken.turns and self.turns[i - 1]["at"] > at:
            i -= 1
        if "seek" not in change:
            begin = i
            while (
                begin > self.taken.turns and self.turns[begin - 1]["at"] == at and "seek" not in self.turns[begin - 1]
            ):
                begin -= 1
            others = [_without(turn, _controls(change)) for turn in self.turns[begin:i]]
            together = {k: v for turn in others if turn["glide"] == change["glide"] for k, v in turn.items()}
            change = together | change
            apart = [turn for turn in others if turn["glide"] != change["glide"] and _controls(turn)]
            self.turns[begin:i], i = apart, begin + len(apart)
        self.turns.insert(i, change)

    def _forget(self, keep: int) -> None:
        """Drop work ahead beyond `keep` frames and what is planned from there on."""
        kept, length = 0, len(self.ready)
        while kept < len(self.pending) and length < keep:
            segment = self.pending[kept]
            length += (segment.end.window - segment.begin.window) * self.window
            kept += 1
        while len(self.pending) > kept:
            self.pending.pop().result.cancel()
        self.cursor = self.pending[-1].end if self.pending else self.taken
        self.cursor = self.cursor._replace(size=1)

    def _refuse_scripted(self) -> None:
        if self.scripted:
            raise UsageError("this stream plays a log, its changes are all in there; start one with `stream`")

    # -- planning --------------------------------------------------------------------------------------------------

    def _turned(self, cursor: Cursor) -> Cursor:
        """`cursor` after the changes that are due at its window."""
        while cursor.turns < len(self.turns):
            turn, run = self.turns[cursor.turns], cursor.run
            if cursor.window < self._border(run, turn["at"]):
                break
            if "seek" in turn:
                run = Run(round(turn["seek"] * self.rate), turn["at"])
                cursor = Cursor(run, self._first_window(run), self.piece.state(cursor.state.controls), cursor.turns + 1)
            else:
                first, glide = cursor.window * DECODER_LATENTS, turn["glide"] * self.piece.config.signal.latent_rate
                changes = _controls(turn)
                # at the start of a run there is nothing to come from
                before = cursor.state if cursor.window > self._first_window(run) else None
                state = self.piece.state({**cursor.state.controls, **changes}, first, glide, before, changes)
                cursor = cursor._replace(state=state, turns=cursor.turns + 1, size=1)
        return cursor

    def _first_window(self, run: Run) -> int:
        return run.first // self.window

    def _border(self, run: Run, heard: int) -> int:
        """The first window of `run` that adds nothing to what is heard before frame `heard`."""
        if heard <= run.heard:
            return self._first_window(run)
        return -(-(run.sample(heard) + self.carry) // self.window)

    def _plan(self) -> Segment | None:
        """The next segment, begun; None where the stream ends."""
        begin = self._turned(self.cursor)
        stop = None if self.frames is None else self._border(begin.run, self.frames)
        if stop is not None and begin.window >= stop:
            return None
        count = begin.size
        if stop is not None:
            count = segment_size(count, stop - begin.window, self.pipeline.threads)
        if begin.turns < len(self.turns):
            count = min(count, self._border(begin.run, self.turns[begin.turns]["at"]) - begin.window)
        size = min(2 * begin.size, self.largest)
        self.cursor = begin._replace(window=begin.window + count, size=size)
        latents = self.piece.latents(begin.state, begin.window * DECODER_LATENTS, count * DECODER_LATENTS)
        if self.pool is None:
            self.pool = self.workers.enter_context(self.pipeline.pool())
        job = partial(self.pipeline.perform, latents, self.piece.seed, begin.window, count)
        try:
            return Segment(begin, self.cursor, self.pool.submit(job))
        except RuntimeError:  # after its shutdown
            raise EverwaveError(WORKERS_GONE) from None

    # -- blocks ----------------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Begin work until enough lies ahead."""
        if os.getpid() != self.process:
            raise EverwaveError("this stream was begun before a fork and its workers stayed there; start a new one")
        ahead = sum(segment.end.window - segment.begin.window for segment in self.pending)
        while not self.closed and (not (self.pending or len(self.ready)) or ahead < self.windows_ahead):
            segment = self._plan()
            if segment is None:
                return
            self.pending.append(segment)
            ahead += segment.end.window - segment.begin.window

    def accept(self, segment: Segment, result: Array) -> None:
        """Take the result of the first segment, unless that has been thrown away; nothing may be `ready`."""
        with self.lock:
            if not self.pending or self.pending[0] is not segment:
                return
            self.pending.popleft()
            self.taken, self.state = segment.end, segment.begin.state
            if segment.begin.run != self.run:
                self._jump(segment.begin.run)
            with self.pipeline.stages("overlap_add"):
                samples = self.overlap.push(result)
                at = segment.begin.window * self.window - self.carry  # the sample of the piece that comes out first
                begin = max(self.run.sample(self.heard) - at, 0)
                stop = self._stop(segment.end)
                end = len(samples) if stop is None else min(len(samples), self.run.sample(stop) - at)
                self.ready = samples[begin : max(end, begin)]

    def hand_out(self, most: int) -> Array | None:
        """The next block, if one is ready; none is longer than a decoder window, or than `most` frames."""
        if not len(self.ready):
            return None
        length = min(self.window, most)
        block, self.ready = self.ready[:length], self.ready[length:]
        if len(self.echo):
            block = self._faded(block)
        echo = ECHO_HOPS * self.piece.config.signal.hop_length
        self.tail = np.concatenate([self.tail, block[-echo:]])[-echo:]
        block = self.envelope.apply(block, self.heard)
        self.heard += len(block)
        return block

    def close(self) -> None:
        if os.getpid() != self.process:  # the workers, and whoever held the lock, are another process's
            return
        with self.lock:
            self.closed = True
            self.forget()
            self.pending.clear()
            self.ready = self.ready[:0]
        self.workers.close()

    def forget(self) -> None:
        """Nobody will take what is planned. Waits for nothing: the garbage collector calls this in any thread."""
        if os.getpid() == self.process:
            for segment in self.pending:
                segment.result.cancel()

    def _stop(self, cursor: Cursor) -> int | None:
        """The frame at which what is heard of the run ends, if that is before `cursor`."""
        for i in range(cursor.turns, len(self.turns)):
            at = self.turns[i]["at"]
            if cursor.window < self._border(cursor.run, at):
                break
            if "seek" in self.turns[i]:
                return at
        return self.frames

    def _jump(self, run: Run) -> None:
        self.run, self.echo = run, self.tail[::-1]
        self.overlap = signal.OverlapAdd(self.piece.config.signal, len(CHANNELS))
        self.ready = self.ready[:0]

    def _faded(self, block: Array) -> Array:
        """After a jump: what was heard last, backwards, fades into what comes, so that neither is cut off."""
        done, length = self.heard - self.run.heard, len(self.echo)
        n = np.arange(done, min(done + len(block), length))
        weight = np.sin(np.pi / 2 * (n + 0.5)[:, None] / length).astype(np.float32) ** 2
        block[: len(n)] = weight * block[: len(n)] + (1 - weight) * self.echo[n]
        if done + len(block) >= length:
            self.echo = self.echo[:0]
        return block


def _controls(change: Mapping[str, Any]) -> dict[str, Any]:
    return _without(change, ("at", "glide", "seek"))


def _without(change: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in change.items() if name not in names}
