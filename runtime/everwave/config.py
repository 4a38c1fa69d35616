"""What a model is made of: frozen dataclasses, no behaviour beyond derived sizes.

Sizes follow Musika (Pasini & Schlueter, ISMIR 2022); `PRESETS` names the ones we ship.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from typing import Any

from .errors import ModelError, short

FRAMES_PER_LATENT = 16  # the chunk encoder's down-sampling
DECODER_LATENTS = 4  # latents in one window of the chunk decoder
DECODER_FRAMES = DECODER_LATENTS * FRAMES_PER_LATENT
SAMPLE_RATES = (8000, 192000)  # Hz, of models
REFINERS = (0, 256)  # widths of refiners
REFINER_MARGIN = 8  # latents on either side of a window that its refiner sees too
OVERLAP = 4  # n_fft / hop_length; every sample is covered by this many frames
TUNED = 8  # of so many bins the lowest one has a tuning, where phases are "tuned": up to 2.8 kHz
PHASES = ("angle", "vector", "tuned")
SIZES = {  # of each section, lowest and highest
    "signal": {"sample_rate": SAMPLE_RATES, "hop_length": (16, 1024)},
    "autoencoder": {"width": (2, 1024), "frame_latents": (1, 1024), "latents": (1, 1024)},
    "generator": {"width": (2, 1024), "window": (64, 128), "anchor": (1, 1024), "style": (1, 1024), "refiner": REFINERS},
}  # fmt: skip
CEILING_BINS = 16  # 690 Hz at 44.1 kHz
TAKEN = {  # names that no condition may have: they stand beside these in calls, in requests, in logs and on streams
    "self", "model", "seed", "seconds", "start", "loop", "bars", "truncation", "style", "gain", "glide", "at",
    "ahead", "workers", "progress", "cancel", "set", "read", "seek", "position", "beat", "log", "frames", "stages", "close",
}  # fmt: skip


@dataclass(frozen=True)
class SignalConfig:
    """Sample rate in Hz and hop in samples; FFT and window are four hops long."""

    sample_rate: int = 44100
    hop_length: int = 256

    @property
    def n_fft(self) -> int:
        return OVERLAP * self.hop_length

    @property
    def bins(self) -> int:
        return self.n_fft // 2 + 1

    @property
    def latent_samples(self) -> int:
        """Samples that one latent step stands for."""
        return FRAMES_PER_LATENT * self.hop_length

    @property
    def latent_rate(self) -> float:
        """Latent steps per second."""
        return self.sample_rate / self.latent_samples


@dataclass(frozen=True)
class AutoencoderConfig:
    """Layer widths are multiples of `width`; the two latent sizes are per channel.

    `phase` is how the frame decoder says it: as Musika's "angle" / pi, or as a "vector" of any length, which has no jump where
    the angle wraps, beside the turn that a partial in the middle of its bin makes; or "tuned": vectors, and how far from
    the middle partials of the lowest eighth of bins lie (`signal.phasor`).
    """

    width: int = 256
    frame_latents: int = 64
    latents: int = 64
    phase: str = "angle"


@dataclass(frozen=True)
class Condition:
    """Extra coordinate channels: what they mean and how a value becomes a network input.

    The network sees (value - mean) / scale. `low` and `high` bound what a user may ask for. A value that counts
    something over time (beats per minute, onsets per second) may come with `clocks`: for each of these numbers of beats,
    cosine and sine of a hand that turns once in so many. A window then knows when the next one comes, where in the bar it
    is, and the beat goes on across the seams of windows. `choices` are the values that a model was trained on, where those are
    few, as of what a piece is or is not: 0 or 1. Others lie between them.
    """

    name: str
    unit: str
    mean: float
    scale: float
    low: float
    high: float
    clocks: tuple[int, ...] = ()  # beats (of a tempo; onsets of a density) per turn
    choices: tuple[float, ...] = ()

    @property
    def seconds(self) -> float:
        """What the value counts per: a beat comes every `seconds` / value seconds."""
        return 60.0 if self.unit.endswith("per minute") else 1.0

    @property
    def channels(self) -> int:
        return 1 + 2 * len(self.clocks)


@dataclass(frozen=True)
class GeneratorConfig:
    """Widths are multiples of `width`; a window is 128 latents, 64 in Musika's "small" variant.

    The widths of the refiner behind it are multiples of `refiner`; 0: there is none, as in Musika. `ceiling` is the
    log-magnitude of the loudest frames of the music that was learned, in bands of CEILING_BINS bins; empty: none is known.
    """

    width: int = 128
    window: int = 128
    anchor: int = 64
    style: int = 64
    conditions: tuple[Condition, ...] = ()
    refiner: int = 0
    ceiling: tuple[float, ...] = ()

    @property
    def small(self) -> bool:
        return self.window == 64

    @property
    def coordinates(self) -> int:
        """Channels of the coordinate sequence: anchor, style, conditions."""
        return self.anchor + self.style + self.condition_channels

    @property
    def condition_channels(self) -> int:
        return sum(condition.channels for condition in self.conditions)

    @property
    def anchor_spacing(self) -> int:
        """Latents between two anchors: 3/2 of two windows."""
        return 3 * self.window

    @property
    def offset(self) -> int:
        """Where on the anchor line a piece starts: half a window in."""
        return self.window // 2


@dataclass(frozen=True)
class Config:
    """Everything that decides the shapes of the networks and of the signal path."""

    signal: SignalConfig = field(default_factory=SignalConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)

    def to_dict(self) -> dict[str, Any]:
        """As files keep it; what is as in Musika is left out, so that everwaves from before there was another kind read them."""
        data = asdict(self)
        if self.autoencoder.phase == AutoencoderConfig.phase:
            del data["autoencoder"]["phase"]
        if self.generator.refiner == GeneratorConfig.refiner:
            del data["generator"]["refiner"]
        if not self.generator.ceiling:
            del data["generator"]["ceiling"]
        for condition in data["generator"]["conditions"]:
            if not condition["choices"]:
                del condition["choices"]
        return data

    @classmethod
    def from_dict(cls, data: Any) -> Config:
        """The config of a weights file; ModelError unless every field is present, typed and in range."""
        signal = SignalConfig(**_fields(data, "signal"))
        autoencoder = AutoencoderConfig(**_fields(data, "autoencoder", phase=AutoencoderConfig.phase))
        if autoencoder.phase not in PHASES:
            raise ModelError(f"config: autoencoder.phase={autoencoder.phase!r}; it must be {' or '.join(PHASES)}")
        generator = GeneratorConfig(
            **_fields(data, "generator", refiner=GeneratorConfig.refiner, conditions=(), ceiling=())
        )
        if not isinstance(generator.conditions, list | tuple) or len(generator.conditions) > 16:
            raise ModelError("config: generator.conditions must be a list of at most 16 conditions")
        if generator.window not in (64, 128):
            raise ModelError(f"config: generator.window={generator.window}; it must be 64 or 128")
        if (width := generator.width) % 2:
            raise ModelError(f"config: generator.width={width}; it must be even, as channels are shuffled in pairs")
        conditions = tuple(map(_condition, generator.conditions))
        names = [condition.name for condition in conditions]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ModelError(f"config: generator.conditions has {min(twice)!r} twice; call each by a name of its own")
        ceiling = _ceiling(generator.ceiling, signal)
        return cls(signal, autoencoder, replace(generator, conditions=conditions, ceiling=ceiling))


def _fields(data: Any, section: str, **defaults: Any) -> dict[str, Any]:
    """A section of a config, with what it may leave out; of that, what is no size is for the caller to check."""
    given = data.get(section) if isinstance(data, dict) else None
    if not isinstance(given, dict):
        raise ModelError(f"config: section {section!r} is missing")
    values, bounds = defaults | given, SIZES[section]
    found = {key for key in values if key in bounds or key not in defaults}
    if found != set(bounds):
        raise ModelError(f"config: {section} has fields {sorted(found)}; expected {sorted(bounds)}")
    for key, (low, high) in bounds.items():
        value = values[key]
        if type(value) is not int or not low <= value <= high:
            raise ModelError(f"config: {section}.{key}={value!r}; expected an integer in {low}..{high}")
    return values


def _ceiling(data: Any, signal: SignalConfig) -> tuple[float, ...]:
    bands = -(-signal.bins // CEILING_BINS)
    numbers = isinstance(data, list | tuple) and all(type(value) in (int, float) and -2 <= value <= 2 for value in data)
    if not numbers or len(data) not in (0, bands):
        raise ModelError(f"config: generator.ceiling={short(data)}; expected {bands} numbers in -2..2, or none")
    return tuple(map(float, data))


def _condition(data: Any) -> Condition:
    try:
        numbers = {k: float(data[k]) for k in ("mean", "scale", "low", "high")}
        clocks = tuple(data.get("clocks", ()))
        choices = tuple(float(value) for value in data.get("choices", ()))
        condition = Condition(str(data["name"]), str(data["unit"]), **numbers, clocks=clocks, choices=choices)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelError(
            f"config: {data!r} is no condition (name, unit, mean, scale, low, high, clocks, choices)"
        ) from None
    this = f"config: condition {condition.name!r}"
    if not condition.name or condition.name in TAKEN:
        raise ModelError(f"{this} is called as something else that is asked for, or nothing; give it another name")
    if len(condition.clocks) > 8 or not all(type(beats) is int and 1 <= beats <= 1024 for beats in condition.clocks):
        raise ModelError(f"{this} has clocks {data['clocks']!r}; at most 8, 1 to 1024 beats")
    if not all(map(isfinite, numbers.values())) or condition.scale <= 0 or condition.low > condition.high:
        raise ModelError(f"{this} needs finite numbers, scale > 0 and low <= high")
    if len(condition.choices) > 64 or not all(condition.low <= c <= condition.high for c in condition.choices):
        raise ModelError(f"{this} has choices {data['choices']!r}; at most 64, each of them in its range")
    return condition


PRESETS = {
    "full": Config(),
    "lite": Config(autoencoder=AutoencoderConfig(width=128), generator=GeneratorConfig(width=64)),
    "tiny": Config(  # for tests and for learning the code: seconds instead of hours
        SignalConfig(hop_length=64),
        AutoencoderConfig(width=8, frame_latents=16, latents=16),
        GeneratorConfig(width=4, anchor=16, style=16),
    ),
}
