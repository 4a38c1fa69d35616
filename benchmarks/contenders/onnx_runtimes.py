"""ONNX Runtime and OpenVINO: both read the file that `onnx_ops` writes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from . import Setting, Source

if TYPE_CHECKING:
    from . import Run


def load_onnxruntime(network: str, source: Source, batch: int, setting: Setting, precision: str) -> Run:
    """One session serves all workers; it computes in float32 only."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads_per_worker
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(source.onnx(network), options, providers=["CPUExecutionProvider"])
    return lambda x: tuple(session.run(None, {"x": x}))


def load_openvino(network: str, source: Source, batch: int, setting: Setting, precision: str) -> Run:
    """Compiled for windows of exactly `batch`; every worker has a stream and an inference request of its own."""
    import openvino
    from everwave.networks import input_shape

    core = openvino.Core()
    model = core.read_model(source.onnx(network))
    model.reshape([batch, *input_shape(network, source.config)])
    hints = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": setting.threads,
        "NUM_STREAMS": setting.workers,
    }
    compiled = core.compile_model(model, "CPU", hints)
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if used != hints["INFERENCE_PRECISION_HINT"]:
        raise RuntimeError(f"OpenVINO computes in {used}, not in {precision}: this CPU lacks it")
    outputs, mine = range(len(compiled.outputs)), threading.local()

    def run(x: np.ndarray) -> tuple[np.ndarray, ...]:
        if not hasattr(mine, "request"):
            mine.request = compiled.create_infer_request()
        result = mine.request.infer([x], share_inputs=True, share_outputs=True)  # valid until the next call
        return tuple(result[i] for i in outputs)

    run(np.zeros((batch, *input_shape(network, source.config)), np.float32))  # two first calls at once can deadlock
    del mine.request  # and its memory
    return run
