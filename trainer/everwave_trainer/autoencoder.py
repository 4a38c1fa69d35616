"""Training of the two autoencoders, in stages.

level1    frame encoder and decoder on log-magnitudes and on the waveform they decode to; phases are learned through the
          consistency of overlapping frames and from how true ones change, seams through two neighbouring windows side by side
level2    chunk encoder and decoder on the latents of the frozen level 1, which they learn to repeat; nothing is decoded
finish    both decoders, on latents as they are and, half of every batch, as level 2 leaves them: they never hear others when
          music is generated, and critics judge that half; latents keep their meaning
phases    the layers of the frame decoder that only phases need, and with them how far partials lie from the middle of their bins
          ("tuned" phases, which come from this stage alone); half of every batch as level 2 leaves it; magnitudes stay what they are
chunk     the chunk decoder alone, for one kind of music: latents keep their meaning, a domain file takes it along

Every stage is mono: a crop is one channel of one track.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from everwave import weights
from everwave.config import DECODER_FRAMES, DECODER_LATENTS, FRAMES_PER_LATENT, OVERLAP, PRESETS, Config
from everwave.errors import UsageError
from everwave.networks import AUTOENCODER
from keras import ops

from . import backend, checkpoint, losses, signal
from .corpora.store import fingerprint, random_crops, sources
from .critics import spectrum_critic
from .export import UNSTATED, config_key, save_autoencoder
from .layers import build, set_parameters
from .rates import adam

RESOLUTIONS = (256, 1024, 4096)  # FFT sizes of the spectral losses: transients, the decoder's own frames, pitch
WEIGHTS = {
    "latents": 1.0, "magnitude": 2.0, "onsets": 8.0, "log_spectrum": 2.0, "convergence": 1.0, "frequency": 0.3, "delay": 0.3,
    "mel": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """What a stage trains, on what, and by which losses."""

    trained: tuple[str, ...]
    networks: tuple[str, ...] = AUTOENCODER
    layers: tuple[str, ...] = ()  # of those trained, where not all
    frames: int = 128  # of a crop
    weights: Mapping[str, float] = field(default_factory=dict)  # of losses, where they are not WEIGHTS
    resolutions: tuple[int, ...] = RESOLUTIONS
    lags: tuple[int, ...] = (1,)  # frames over which phases are compared
    critic_weight: float = 0.0  # a critic beats an untrained decoder at once
    half: bool = False  # half of every batch goes through level 2 and is judged, the other through level 1 alone


LEVEL1 = ("frame_encoder", "frame_decoder")
STAGES = {
    "level1": Stage(LEVEL1, networks=LEVEL1),
    # latents are the only loss there; it weighs so much that the gradients of every step are clipped to the same norm
    "level2": Stage(("chunk_encoder", "chunk_decoder"), frames=256, weights={"latents": 100.0}),
    "phases": Stage(
        ("frame_decoder",),
        layers=("p1", "p0", "phase"),
        weights={"latents": 0.0, "magnitude": 0.0, "onsets": 0.0},
        resolutions=(*RESOLUTIONS, 16384),  # the last hears pitch to 3 Hz, if crops are as long
        lags=(1, 4, 16),  # a partial a little off is soon out of phase
        half=True,
    ),
    # critics ask for textures that cannot be the true ones bin by bin: mel bands hold them to the right level instead;
    # and what is heard are samples, so magnitudes need not be the true ones where the phases beside them are not
    "finish": Stage(
        ("chunk_decoder", "frame_decoder"),
        weights={"magnitude": 0.0, "log_spectrum": 1.0, "convergence": 0.8, "mel": 8.0},
        critic_weight=0.03,
        half=True,  # what it leaves to level 1 alone is known so well that critics could only spoil it
    ),
    "chunk": Stage(("chunk_decoder",), frames=256),
}
CRITIC_SCALES = (1, 4)  # FFT sizes of the critics, in n_fft: one for textures and attacks, one for pitches and beating
GAIN = (0.25, 1.0)  # random level of a crop, so that quiet music is known too


def find(init: str) -> Path:
    """The run folder, or the weights file, that `init` names: a path or a shipped name."""
    return Path(init) if Path(init).is_dir() else weights.find(init)


def choose_config(preset: str, init: Path | None, stage: str = "level1") -> Config:
    """The sizes of what `init`, a run folder or a weights file, holds; without one those of `preset`, with phases as vectors.

    Stage phases makes "tuned" phases of vectors; UsageError if `init` has angles. All but level1 begin at one, or UsageError.
    """
    if init is None and stage != "level1":
        raise UsageError(f"--stage {stage}: begins where another has ended; give its run, or a weights file, as --init")
    if init is None:
        config = PRESETS[preset]
        config = replace(config, autoencoder=replace(config.autoencoder, phase="vector"))
    else:
        config = checkpoint.config(init) if init.is_dir() else weights.read(init).config
    if stage != "phases":
        return config
    if config.autoencoder.phase == "angle":
        raise UsageError(
            f"--stage phases, --init {init}: begins at an autoencoder with phases as vectors; give one as --init"
        )
    return replace(config, autoencoder=replace(config.autoencoder, phase="tuned"))


class AutoencoderTrainer:
    """One stage of the autoencoder; `loop.run` drives it."""

    def __init__(self, stage: str, config: Config, tracks: Sequence[Any], *, steps: int, batch_size: int = 16,
                 learning_rate: float = 3e-4, critic_weight: float | None = None, seed: int = 0,
                 held_out: Sequence[Any] = ()) -> None:  # fmt: skip
        self.stage, self.config, self.tracks, self.held_out = stage, config, tracks, held_out
        self.plan = plan = STAGES[stage]
        critic_weight = plan.critic_weight if critic_weight is None else critic_weight
        if stage == "level2" and critic_weight:
            raise UsageError(
                f"--critic-weight {critic_weight:g}: level2 decodes nothing that could be judged; finish does"
            )
        self.batch_size, self.seed, self.critic_weight = batch_size, seed, critic_weight
        self.settings: dict[str, Any] = {
            "stage": stage, "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed,
            "critic_weight": critic_weight, "config": config_key(config),
            "init": None,  # what is known of what it begins with
            "data": fingerprint([(t.source_sha256, t.frames, t.sample_rate) for t in tracks]),
            "precision": keras.mixed_precision.global_policy().name,
        }  # fmt: skip
        self.weights = WEIGHTS | dict(plan.weights)
        # of a batch: what goes through level 2 where there is one, and what critics judge
        self.judged = slice(batch_size // 2 if plan.half else 0, None)
        keras.utils.set_random_seed(seed)
        self.random = keras.random.SeedGenerator(seed)
        self.networks = {
            name: build(name, config, self.random, any_length=name == "frame_encoder")  # it works frame by frame
            for name in plan.networks
        }
        layers = [layer for name in plan.trained for layer in self.networks[name].layers]
        self.trained = [v for x in layers if x.name in (plan.layers or (x.name,)) for v in x.trainable_variables]
        self.optimizer = adam(learning_rate, steps)
        self.optimizer.build(self.trained)
        sizes = [scale * config.signal.n_fft for scale in CRITIC_SCALES] if critic_weight else []
        self.critics = {n_fft: spectrum_critic(config, f"critic_{n_fft}") for n_fft in sizes}
        self.judging = [v for critic in self.critics.values() for v in critic.trainable_variables]
        if self.critics:
            self.critic_optimizer = adam(learning_rate, steps, beta_1=0.5)
            self.critic_optimizer.build(self.judging)
        update: Callable[..., dict[str, Any]] = self._adversarial_update if self.critics else self._update
        state = [v for group in self.variables().values() for v in group]
        self._compiled = backend.compiled(update, [*state, self.random.state])

    def variables(self) -> Mapping[str, Sequence[Any]]:
        groups: dict[str, Sequence[Any]] = {name: m.trainable_variables for name, m in self.networks.items()}
        groups["optimizer"] = self.optimizer.variables
        if self.critics:
            groups["critic"] = self.judging
            groups["critic_optimizer"] = self.critic_optimizer.variables
        return groups

    def initialise(self, source: Path) -> None:
        """Start from the networks of the previous stage's run folder, or of a weights file, as far as it has them.

        UsageError if it lacks one that this stage leaves as it is. Stage phases takes vectors too, a run's from the weights in its folder: their tunings begin at 0.
        Its licence and provenance stay with what is made of it.
        """
        self.settings["init"] = _known(source)
        if source.is_dir() and self.stage == "phases":
            if not (source / "autoencoder.h5").exists():
                raise UsageError(f"--init {source}: it has no whole autoencoder yet; give the run of stage level2")
            source = source / "autoencoder.h5"
        if source.is_dir():
            groups = {name: model.trainable_variables for name, model in self.networks.items()}
            found = checkpoint.load_groups(source, groups)
        else:
            parameters = weights.read(source).parameters
            found = self.networks.keys() & parameters
            for name in found:
                network = self.networks[name]
                set_parameters(network, _widened(parameters[name], network.outputs[-1].shape[2]))
        if lacking := [name for name in self.networks if name not in (*self.plan.trained, *found)]:
            raise UsageError(
                f"--init {source}: it has no {' and no '.join(lacking)}, which stage {self.stage} needs as it is;"
                " give the run of a later stage, or a weights file"
            )

    def batch(self, step: int) -> tuple[np.ndarray]:
        """Crops (batch, samples) of random tracks, one channel each, at a random level."""
        s = self.config.signal
        length = (self.plan.frames + OVERLAP - 1) * s.hop_length
        crops = random_crops(self.tracks, length, self.batch_size, self.seed, step)
        rng = np.random.default_rng([self.seed, step, 1])
        channel = rng.integers(0, 2, self.batch_size)
        gain = np.exp(rng.uniform(np.log(GAIN[0]), np.log(GAIN[1]), (self.batch_size, 1))).astype(np.float32)
        return (gain * crops[np.arange(self.batch_size), :, channel],)

    def step(self, step: int, *batch: np.ndarray) -> dict[str, Any]:
        backend.reseed(self.random, self.seed, step)
        return self._compiled(*map(ops.convert_to_tensor, batch))

    def encode(self, log_magnitude: Any) -> Any:
        """(B, T, bins) -> frame latents (B, T, frame latents)."""
        return self.networks["frame_encoder"](log_magnitude, training=True)

    def decode(self, latents: Any) -> tuple[Any, Any]:
        """Frame latents (B, T, C) -> log-magnitude (B, T, bins), phase (B, T, bins or 2 bins and tunings), window by window."""
        windows = ops.reshape(latents, (-1, DECODER_FRAMES, latents.shape[2]))
        outputs = self.networks["frame_decoder"](windows, training=True)
        magnitude, phase = (ops.reshape(x, (-1, latents.shape[1], x.shape[2])) for x in outputs)
        return magnitude, phase

    def compress(self, latents: Any) -> Any:
        """Frame latents (B, T, C) -> the same through the chunk autoencoder."""
        chunks = ops.reshape(latents, (-1, FRAMES_PER_LATENT, latents.shape[2]))
        codes = self.networks["chunk_encoder"](chunks, training=True)
        windows = ops.reshape(codes, (-1, DECODER_LATENTS, codes.shape[2]))
        return ops.reshape(self.networks["chunk_decoder"](windows, training=True), (-1, *latents.shape[1:]))

    def _latents(self, spectrum: signal.PAIR) -> tuple[Any, Any, dict[str, Any]]:
        """Log-magnitudes of a spectrum, the frame latents to decode, and how far level 2 leaves them from the true ones."""
        target = signal.log_magnitude(spectrum)
        latents = self.encode(target)
        if "chunk_decoder" not in self.networks:
            return target, latents, {}
        codes = self.compress(latents[self.judged])
        distance = ops.mean(ops.square(codes - latents[self.judged]))
        return target, ops.concatenate([latents[: self.judged.start], codes], axis=0), {"latents": distance}

    def _reconstruct(self, samples: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Decoded and true samples where all frames overlap, and the reconstruction losses."""
        s = self.config.signal
        spectrum = self._stft(samples)
        target, latents, scalars = self._latents(spectrum)
        magnitude, phase = self.decode(latents)
        phasors = signal.phasor(phase, s.bins)
        waveform = signal.istft(signal.spectrum(magnitude, phasors), s)
        edge = (OVERLAP - 1) * s.hop_length  # fewer than four frames cover the edges
        ours, theirs = waveform[:, edge:-edge], samples[:, edge:-edge]
        sizes = [n for n in self.plan.resolutions if n <= ours.shape[1]]
        distances = [losses.spectral_distance(theirs, ours, n, s.sample_rate) for n in sizes]
        scalars["magnitude"] = losses.log_distance(magnitude, target, s.sample_rate)
        scalars["onsets"] = losses.onset_distance(magnitude, target, s.sample_rate)
        scalars["log_spectrum"] = sum(d[0] for d in distances) / len(distances)
        scalars["convergence"] = sum(d[1] for d in distances) / len(distances)
        scalars["frequency"], scalars["delay"] = losses.phase_distance(phasors, spectrum, self.plan.lags)
        if self.weights["mel"]:
            scalars["mel"] = losses.mel_distance(ours, theirs, s.sample_rate)
        return ours, theirs, scalars

    def _stft(self, samples: Any) -> signal.PAIR:
        return signal.stft(samples, self.config.signal.n_fft, self.config.signal.hop_length)

    def _reconstruction(self, scalars: dict[str, Any]) -> Any:
        return sum(self.weights[name] * value for name, value in scalars.items())

    def _update(self, samples: Any) -> dict[str, Any]:
        def compute() -> tuple[Any, ...]:
            *_, scalars = self._latents(self._stft(samples)) if self.stage == "level2" else self._reconstruct(samples)
            return self._reconstruction(scalars), scalars

        (loss, scalars), gradients = backend.gradients(compute, self.trained)
        self.optimizer.apply(gradients, self.trained)
        return {"loss": loss, **scalars}

    def _adversarial_update(self, samples: Any) -> dict[str, Any]:
        def compute() -> tuple[Any, ...]:
            ours, theirs, scalars = self._reconstruct(samples)
            heard = self._heard(ours[self.judged])
            fooled = sum(ops.mean(score) for score in self._scores(heard)) / len(heard)
            loss = self._reconstruction(scalars) - self.critic_weight * fooled
            return loss, scalars | {"fooled": fooled}, heard, self._heard(theirs[self.judged])

        (loss, scalars, fake, real), gradients = backend.gradients(compute, self.trained)
        self.optimizer.apply(gradients, self.trained)
        fake = [ops.stop_gradient(x) for x in fake]

        def judge() -> tuple[Any, ...]:
            pairs = zip(self._scores(real), self._scores(fake), strict=True)
            return (sum(losses.hinge_real(r) + losses.hinge_fake(f) for r, f in pairs) / len(self.critics),)

        (hinge,), gradients = backend.gradients(judge, self.judging)
        self.critic_optimizer.apply(gradients, self.judging)
        return {"loss": loss, **scalars, "critic": hinge}

    def _heard(self, samples: Any) -> list[Any]:
        """Samples (B, N) -> what each critic hears: log-magnitudes (B, T, bins), of long FFTs the lowest bins."""
        bins = self.config.signal.bins
        spectra = (signal.stft(samples, n_fft, n_fft // OVERLAP) for n_fft in self.critics)
        return [signal.log_magnitude(s, signal.SPECTRAL_FLOOR)[:, :, :bins] for s in spectra]

    def _scores(self, heard: Sequence[Any]) -> list[Any]:
        return [critic(x, training=True) for critic, x in zip(self.critics.values(), heard, strict=True)]

    def sample(self, folder: Path, step: int) -> None:
        """Held-out clips, real and reconstructed, as audio and pictures; the weights when all are there."""
        if self.held_out:
            from .evaluate.samples import save_reconstructions

            save_reconstructions(self, folder / "samples", step)
        if "chunk_decoder" in self.networks:
            provenance = {"steps": step, "batch_size": self.batch_size, "data": sources(self.tracks)}
            init = self.settings["init"]
            if init and init["provenance"]:
                provenance["init"] = init["provenance"]
            licence = init["licence"] if init else UNSTATED
            save_autoencoder(folder / "autoencoder.h5", self.config, self.networks, provenance, licence)


def _known(source: Path) -> dict[str, Any] | None:
    """The licence and the provenance of a weights file or a run folder; of one of level 1, which has no such file, of what it began with."""
    if source.is_dir() and not (source / "autoencoder.h5").exists():
        return checkpoint.settings(source).get("init")
    file = weights.read(source / "autoencoder.h5" if source.is_dir() else source)
    # what was measured of it is not said of what comes after it
    return {"licence": file.licence, "provenance": {k: v for k, v in file.provenance.items() if k != "metrics"}}


def _widened(values: Mapping[str, np.ndarray], width: int) -> dict[str, np.ndarray]:
    """A network's weights; those of phases, if it has any, with zeros up to `width` channels."""
    phase = {k: values[k] for k in ("phase/kernel", "phase/bias") if k in values}
    return {**values} | {k: np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])]) for k, x in phase.items()}
