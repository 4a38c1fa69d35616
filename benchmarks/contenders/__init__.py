"""What else could run our networks on a CPU: the same functions and weights in other people's engines.

A loader is `load(network, source, batch, setting, precision) -> run`; `run(x)` takes and gives float32 arrays and
may be called by `setting.workers` threads at once. Nothing heavy is imported before a contender is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from everwave.config import Config

    Run = Callable[[np.ndarray], tuple[np.ndarray, ...]]

NETWORKS = ("generator", "chunk_decoder", "frame_decoder")
SEED = 0  # of the random weights; `everwave bench --random-weights` has the same


@dataclass(frozen=True)
class Contender:
    """`loader` is "module:function"; `packages` must be installed; `environment` is set before they are imported."""

    name: str
    label: str
    precision: str
    loader: str
    packages: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def load(self, network: str, source: Source, batch: int, setting: Setting) -> Run:
        module, function = self.loader.split(":")
        return getattr(import_module(f".{module}", __package__), function)(
            network, source, batch, setting, self.precision
        )


ONNX_RUNTIME, OPENVINO, TORCH, KERAS = (
    ("onnx", "onnxruntime"),
    ("onnx", "openvino"),
    ("torch",),
    ("tensorflow", "keras"),
)

CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("keras-float32", "Keras/TensorFlow", "float32", "keras_networks:load", KERAS),
        Contender("keras-xla", "Keras/TensorFlow, XLA", "float32", "keras_networks:load", KERAS, {"CONTENDER_XLA": "1"}),
        Contender(
            "keras-onednn-bf16", "Keras/TensorFlow, oneDNN's bf16 mode", "bfloat16", "keras_networks:load", KERAS,
            {"TF_SET_ONEDNN_FPMATH_MODE": "BF16", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"},
        ),
        Contender(
            "keras-mixed-bf16", "Keras/TensorFlow, mixed_bfloat16", "bfloat16", "keras_networks:load", KERAS,
            {"CONTENDER_POLICY": "mixed_bfloat16"},
        ),
        Contender("onnxruntime-float32", "ONNX Runtime", "float32", "onnx_runtimes:load_onnxruntime", ONNX_RUNTIME),
        Contender("openvino-float32", "OpenVINO", "float32", "onnx_runtimes:load_openvino", OPENVINO),
        Contender("openvino-bf16", "OpenVINO", "bfloat16", "onnx_runtimes:load_openvino", OPENVINO),
        Contender("torch-float32", "PyTorch eager", "float32", "torch_ops:load", TORCH),
        Contender("torch-bf16", "PyTorch eager", "bfloat16", "torch_ops:load", TORCH),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """How a contender spreads its work: `workers` calls at once, each on threads / workers threads, of `batch` windows."""

    threads: int
    batch: int
    workers: int = 1

    @property
    def threads_per_worker(self) -> int:
        return max(self.threads // self.workers, 1)


@dataclass(frozen=True)
class Source:
    """Where contenders get the networks: random weights of `preset`; `folder` keeps ONNX files between processes.

    `silent` sets the learned noise scalars to 0, so that results can be compared: the graphs stay the same.
    """

    preset: str
    folder: Path
    silent: bool = False

    @property
    def config(self) -> Config:
        from everwave.config import PRESETS

        return PRESETS[self.preset]

    def parameters(self, network: str) -> dict[str, np.ndarray]:
        from everwave.weights import random_parameters

        values = random_parameters(network, self.config, SEED)
        return {name: value * (not (self.silent and name.endswith("/noise"))) for name, value in values.items()}

    def onnx(self, network: str) -> Path:
        """The network as an ONNX file, written when it is first asked for."""
        path = self.folder / f"{self.preset}-{network}{'-silent' if self.silent else ''}.onnx"
        if not path.exists():
            from .onnx_ops import export

            export(network, self.config, self.parameters(network), path)
        return path
