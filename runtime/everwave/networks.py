"""The networks, each written once as a plain function of an op set.

`nn` decides what happens: `ops.numpy_ops` computes, `ops.trace` lists parameters and work, the runtime's
engine compiles the trace into a plan, and the trainer's Keras op set builds trainable layers. The first
argument of every block names its weights. Shapes are (batch, time, channels). Blocks are whole: convolution,
bias, injected noise, AdaIN, activation; the activation of every `_block` is swish(x) = x * sigmoid(x).

Source of the architectures: Musika, arXiv 2208.08706; the refiner is ours.
"""

from __future__ import annotations

from typing import Any

from .config import DECODER_FRAMES, DECODER_LATENTS, FRAMES_PER_LATENT, REFINER_MARGIN, TUNED, Config

Tensor = Any
OpSet = Any

ROOT_HALF = 0.5**0.5  # keeps the variance of a sum of two branches


def frame_encoder(nn: OpSet, x: Tensor, config: Config) -> Tensor:
    """Log-magnitude (B, T, bins) -> frame latents (B, T, frame_latents); every frame by itself."""
    for i in range(5):
        x = nn.conv_block(f"c{i}", x, 4 * config.autoencoder.width, kernel=1)
    return nn.conv("out", x, config.autoencoder.frame_latents, activation="tanh")


def chunk_encoder(nn: OpSet, x: Tensor, config: Config) -> Tensor:
    """Frame latents (B, 16, frame_latents) -> latents (B, 1, latents)."""
    w = config.autoencoder.width
    x = nn.conv_block("c0", x, w)
    x = nn.conv_block("c1", x, 3 * w // 2, stride=2, padding="valid")
    x = nn.conv_block("c2", x, 3 * w // 2)
    x = nn.conv_block("c3", x, 2 * w, stride=2, padding="valid")
    x = nn.conv_block("c4", x, 2 * w)
    x = nn.conv_block("c5", x, 3 * w, padding="valid")
    x = nn.conv_block("c6", x, 3 * w, kernel=1)
    return nn.conv("out", x, config.autoencoder.latents, activation="tanh")


def chunk_decoder(nn: OpSet, x: Tensor, config: Config) -> Tensor:
    """Latents (B, 4, latents) -> frame latents (B, 64, frame_latents)."""
    w = config.autoencoder.width
    x = nn.conv_block("c0", x, 3 * w, noise=True)
    x = nn.up_block("u0", x, 5 * w // 2)
    x = nn.conv_block("c1", x, 5 * w // 2, noise=True)
    x = nn.up_block("u1", x, 2 * w)
    x = nn.conv_block("c2", x, 2 * w, noise=True)
    x = nn.up_block("u2", x, 3 * w // 2)
    x = nn.up_block("u3", x, w)
    return nn.conv("out", x, config.autoencoder.frame_latents)


def frame_decoder(nn: OpSet, x: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """Frame latents (B, 64, frame_latents) -> log-magnitude in [-1, 1] (B, 64, bins), and phase.

    Phase is an angle / pi in [-1, 1] (B, 64, bins), or vectors, x before y (B, 64, 2 bins), which tunings may follow.
    """
    w, bins = config.autoencoder.width, config.signal.bins
    d0 = nn.conv_block("d0", x, 3 * w, noise=True)
    d1 = nn.conv_block("d1", d0, 3 * w, stride=2, noise=True)
    d2 = nn.conv_block("d2", d1, 2 * w, stride=2, noise=True)
    d3 = nn.conv_block("d3", d2, w, stride=2, noise=True)
    u2 = nn.up_block("u2", d3, 2 * w)
    u1 = nn.up_block("u1", u2 + d2, 3 * w)
    u0 = nn.up_block("u0", u1 + d1, 3 * w)
    log_magnitude = nn.conv("magnitude", u0 + d0, bins, activation="clip")
    p1 = nn.up_block("p1", u2, 3 * w)
    p0 = nn.up_block("p0", p1 + u1, 3 * w)
    if config.autoencoder.phase == "angle":
        phase = nn.conv("phase", p0 + u0, bins, activation="clip")
    else:
        tuned = bins // TUNED if config.autoencoder.phase == "tuned" else 0
        phase = nn.conv("phase", p0 + u0, 2 * bins + tuned)
    return log_magnitude, phase


def generator(nn: OpSet, coordinates: Tensor, config: Config) -> Tensor:
    """Coordinates (B, window, coordinates) -> latents (B, window, 2 * latents) = left | right."""
    b, small = config.generator.width, config.generator.small
    pooled = [coordinates]  # pooled[i] has window / 2**i steps; the last one has two
    while pooled[-1].shape[1] > 2:
        pooled.append(nn.average_pool(pooled[-1]))
    styles = iter(pooled[-2::-1])  # from 4 steps up to the whole window
    style = next(styles)
    x = nn.styled_dense("stem", pooled[-1], style, steps=4, width=7 * b)
    for i, width in enumerate((6 * b, 5 * b, 4 * b, 3 * b)):
        if small and i == 0:  # one level fewer: the first keeps its length and looks at single steps
            y = nn.scale(ROOT_HALF, nn.styled_block("up0", x, style, width, kernel=1))
            y = nn.scale(ROOT_HALF, nn.styled_block("conv0", y, style, width, kernel=1))
            x = y + nn.conv("skip0", x, width)
        else:
            style = next(styles)
            y = nn.scale(ROOT_HALF, nn.styled_up(f"up{i}", x, style, width))
            y = nn.scale(ROOT_HALF, nn.styled_block(f"conv{i}", y, style, width))
            x = y + nn.conv(f"skip{i}", nn.pixel_shuffle(x), width)
    x = nn.styled_up("up4", x, next(styles), 2 * b)
    return nn.conv("out", x, 2 * config.autoencoder.latents, kernel=4)


def refiner(nn: OpSet, x: Tensor, config: Config) -> Tensor:
    """Generated latents beside the conditions that were asked for (B, T, 2 * latents + n) -> latents (B, T, 2 * latents).

    It has learned to guess real latents from noisy ones, and makes of a generator's what those would be without their faults:
    four levels of time, each of half as many steps as the one above it, and back. T is a window and what lies beside it.
    """
    r = config.generator.refiner
    widths = (3 * r, 4 * r, 4 * r, 4 * r)
    x = _residuals(nn, "d0", nn.conv("in", x, widths[0]))  # one step: inputs are normalised by its weights, edges too
    skips = []
    for i, width in enumerate(widths[1:], start=1):
        skips.append(x)
        x = _residuals(nn, f"d{i}", nn.conv_block(f"down{i}", x, width, kernel=4, stride=2))
    for i, skip in reversed(list(enumerate(skips))):
        x = _residuals(nn, f"u{i}", nn.up_block(f"up{i}", x, widths[i], noise=False) + skip)
    return nn.conv("out", x, 2 * config.autoencoder.latents, kernel=3)


def _residuals(nn: OpSet, name: str, x: Tensor) -> Tensor:
    """Two residual blocks."""
    width = x.shape[2]
    for block in ("a", "b"):
        x = x + nn.conv(f"{name}{block}_add", nn.conv_block(f"{name}{block}", x, width), width, kernel=3)
    return x


def input_shape(network: str, config: Config) -> tuple[int, int]:
    """(time, channels) of one window of the network called `network`."""
    a, g = config.autoencoder, config.generator
    return {
        "frame_encoder": (DECODER_FRAMES, config.signal.bins),
        "chunk_encoder": (FRAMES_PER_LATENT, a.frame_latents),
        "chunk_decoder": (DECODER_LATENTS, a.latents),
        "frame_decoder": (DECODER_FRAMES, a.frame_latents),
        "generator": (g.window, g.coordinates),
        "refiner": (g.window + 2 * REFINER_MARGIN, 2 * a.latents + g.condition_channels),
    }[network]


NETWORKS = {f.__name__: f for f in (frame_encoder, chunk_encoder, chunk_decoder, frame_decoder, generator, refiner)}
AUTOENCODER = ("frame_encoder", "chunk_encoder", "chunk_decoder", "frame_decoder")


def of_domain(config: Config) -> tuple[str, ...]:
    """The networks that make latents of coordinates: a generator, and a refiner where `config` has one."""
    return ("generator", "refiner") if config.generator.refiner else ("generator",)
