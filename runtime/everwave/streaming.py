"""A stream: blocks of a piece in order, under controls that may change as it plays; and the log of what it has played."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from typing import Any, NoReturn

import numpy as np

from . import checks
from .config import Config
from .controls import OWN, plain
from .errors import Cancelled, EverwaveError, UsageError, short
from .pipeline import Stages
from .player import WORKERS_GONE, Player, Segment

Array = np.ndarray
Progress = Callable[[int, int], object]  # (frames done, frames in all or 0 if endless)

MAX_READ = 1 << 28  # frames, 2 GB
MAX_CHANGES = 1_000_000  # in a log from somewhere


class Stream:
    """Blocks (n, 2) of a piece, float32 in [-1, 1], in order: an iterator, and an asynchronous one; or `read` any number.

    Controls are attributes; set one between blocks, from any thread, and later blocks follow: `stream.bpm = 140`,
    `stream.gain = 0.5`. `set` changes several at once and can let them glide.

    Work goes on in the background up to `ahead` seconds beyond what was pulled, and no further: not to pull is to
    pause. The gain follows with the next block; other controls after what is in work for the next 0.75 s at least, and
    within 2 s, well before the next generator window (12 s); within 6 s where `seconds` are given and `ahead` is not, as
    such a stream is made in larger pieces. `with`, `close` or forgetting the stream ends its workers.

    frames: samples per channel in all, None if endless    stages: CPU seconds spent so far in each stage
    """

    _player: Player
    _progress: Progress | None
    _cancel: Callable[[], bool] | None

    def __init__(self, player: Player, progress: Progress | None = None,
                 cancel: Callable[[], bool] | None = None) -> None:  # fmt: skip
        self.__dict__.update(_player=player, _progress=progress, _cancel=cancel)

    def set(self, *, glide: float = 0.0, **controls: Any) -> None:
        """Change controls: `truncation`, `style` (a seed, or a vector as `coordinates` takes), `gain`, any condition.

        These controls move from where they are to their new values in a straight line over `glide` seconds; without,
        they change at once and only the latents of old and new fade over 0.4 s. Others that glide go on doing so. None
        puts a style or condition back to what the seed gives. UsageError if one is unknown or out of its range; then
        nothing changes.
        """
        known = self._controls()
        for name, value in controls.items():
            if name not in known:
                raise UsageError(
                    f"{name}={short(value)}: no control of this stream; it has {', '.join(known)}, and `seek`"
                )
        self._player.change(controls, checks.number("glide", glide, 0, checks.MAX_GLIDE))

    def seek(self, seconds: float) -> None:
        """Go on at `seconds` of the piece, exactly, after a fade of 8 hops (46 ms); the controls stay as they are."""
        self._player.seek(checks.number("seconds", seconds, 0, checks.MAX_START))

    @property
    def position(self) -> float:
        """Seconds into the piece of the next block."""
        return self._player.position()

    @property
    def beat(self) -> float | None:
        """Beats from the start of the piece to the next block, whole ones where the music's are; None without a tempo."""
        return self._player.beat()

    @property
    def log(self) -> dict[str, Any]:
        """All that decides what was heard so far, for JSON: `model.replay(stream.log)` gives the same samples.

        seed, start and frames (samples), controls at the start, and changes: {"at": frame heard, control: value,
        "glide": seconds} or {"at": frame heard, "seek": seconds}. Each takes 0.4 KB; of
        several of one control between two blocks the last is kept.
        """
        return self._player.log()

    @property
    def frames(self) -> int | None:
        return self._player.frames

    @property
    def stages(self) -> Stages:
        return self._player.pipeline.stages

    def _controls(self) -> tuple[str, ...]:
        return *OWN, *(c.name for c in self._player.piece.config.generator.conditions)

    def __getattr__(self, name: str) -> Any:
        if "_player" in self.__dict__ and name in self._controls():
            return self._player.values.get(name)
        raise AttributeError(f"this stream has no control {name!r}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._controls()]

    def __repr__(self) -> str:
        controls = "".join(f", {name}={short(getattr(self, name))}" for name in self._controls())
        return f"<everwave.Stream: seed={self._player.piece.seed}, at {self.position:.1f} s{controls}>"

    def __setattr__(self, name: str, value: Any) -> None:
        self.set(**{name: value})

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Array:
        block = self._next()
        if block is None:
            raise StopIteration
        return block

    def read(self, frames: int) -> Array:
        """The next `frames` samples (frames, 2), for callbacks that ask for their own number; fewer at the end only."""
        left, blocks = checks.whole("frames", frames, 0, MAX_READ), [np.empty((0, 2), np.float32)]
        while left and (block := self._next(left)) is not None:
            blocks.append(block)
            left -= len(block)
        return np.concatenate(blocks)

    def _next(self, most: int = MAX_READ) -> Array | None:
        """The next block, of no more than `most` frames, or None at the end."""
        while True:
            block, segment = self._step(most)
            if block is not None or segment is None:
                return block
            try:
                result = segment.result.result()
            except CancelledError:
                self._refuse_lost(segment)
                continue
            except Exception:
                self.close()
                raise
            self._player.accept(segment, result)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Array:
        import asyncio  # 20 ms that only those who await need

        while True:
            block, segment = self._step()
            if block is not None:
                return block
            if segment is None:
                raise StopAsyncIteration
            waiting = asyncio.wrap_future(segment.result)
            await asyncio.wait([waiting])  # to give up waiting does not give up the work
            if waiting.cancelled():
                self._refuse_lost(segment)
                continue
            if (error := waiting.exception()) is not None:
                self.close()
                raise error
            self._player.accept(segment, waiting.result())

    def _step(self, most: int = MAX_READ) -> tuple[Array | None, Segment | None]:
        """The next block, or the segment to wait for, or neither at the end."""
        player = self._player
        if not player.closed and self._cancel is not None and self._cancel():
            self.close()
            raise Cancelled(f"cancelled after {player.heard / player.rate:.1f} seconds")
        with player.lock:
            player.fill()
            block = player.hand_out(most)
            segment = player.pending[0] if player.pending else None
        if block is None and segment is None:
            self.close()
        if block is not None and self._progress is not None:
            self._progress(player.heard, player.frames or 0)
        return block, segment

    def _refuse_lost(self, segment: Segment) -> None:
        """Work is cancelled by a change of controls, or with the stream; else its workers have gone."""
        if segment in self._player.pending:
            self.close()
            raise EverwaveError(WORKERS_GONE)

    def close(self) -> None:
        """Stop the workers; called by `with` and at the end. A stream that is forgotten does not wait for them."""
        self._player.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *error: object) -> None:
        import asyncio

        await asyncio.to_thread(self.close)  # which waits for what is in work

    def __reduce__(self) -> NoReturn:
        raise TypeError("a stream cannot be copied or pickled; `model.replay(stream.log)` plays it again, anywhere")

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if "_player" in self.__dict__ and not ending():  # at the interpreter's end the workers have gone
            self._player.forget()


def read_log(data: Any, config: Config) -> tuple[dict[str, Any], int]:
    """(the log, its frames), checked as what anybody may have written; whether conditions fit is checked when it is played."""
    rate = config.signal.sample_rate

    def whole(name: str, entry: Mapping[str, Any], limit: float) -> int:
        return checks.whole(f"log: {name}", entry.get(name), 0, limit)

    def control(name: str, value: Any) -> Any:
        if isinstance(value, str):  # a number, or else the name of a file
            raise UsageError(f"log: {name}={value!r}; expected a number")
        return plain(name, value, config)

    if not isinstance(data, Mapping) or not isinstance(data.get("controls"), Mapping):
        raise UsageError("log: expected what `Stream.log` gives: sample_rate, seed, start, frames, controls, changes")
    if data.get("sample_rate") != rate:
        raise UsageError(f"log: sample_rate={data.get('sample_rate')!r}; this model has {rate} Hz")
    changes = data.get("changes")
    if not isinstance(changes, list) or len(changes) > MAX_CHANGES or not all(isinstance(c, Mapping) for c in changes):
        raise UsageError(f"log: changes; expected a list of at most {MAX_CHANGES} changes")
    checked = []
    for change in changes:
        at = whole("at", change, checks.MAX_SECONDS * rate)
        if "seek" in change:
            if beside := sorted(change.keys() - {"at", "seek"}):
                raise UsageError(f"log: {beside[0]} beside a seek; make it a change of its own")
            checked.append({"at": at, "seek": checks.number("log: seek", change["seek"], 0, checks.MAX_START)})
            continue
        glide = checks.number("log: glide", change.get("glide", 0), 0, checks.MAX_GLIDE)
        wishes = {name: control(name, value) for name, value in change.items() if name not in ("at", "glide")}
        if "gain" in wishes:
            checked.append({"at": at, "gain": wishes.pop("gain"), "glide": glide})
        if wishes:
            checked.append({"at": at, **wishes, "glide": glide})
    values = {"truncation": checks.TRUNCATION, "style": None, "gain": 1.0, **data["controls"]}
    log = {
        "seed": checks.seed(data.get("seed")),
        "start": whole("start", data, checks.MAX_START * rate),
        "controls": {name: control(name, value) for name, value in values.items()},
        "changes": checked,
    }
    return log, whole("frames", data, checks.MAX_SECONDS * rate)
