"""Whole ONNX models: ONNX Runtime alone beside fastrnn.onnx.session, in turn, on the same number of threads.

python benchmarks/onnx_session.py [--threads 1] [--seconds 1] [--only LSTM]

A model is a convolution over time (kernel 3) or a linear layer from 40 features to H, Relu, L recurrent layers of H
units, and a linear layer to 32 outputs. With T = 1 states are inputs and outputs, as in models for streams, and layers
run forwards only. Outputs are compared first. The table has ONNX Runtime's time over the session's: the median of
the ratios of rounds of about 10 ms each.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

import fastrnn
import fastrnn.onnx

FEATURES, OUTPUTS = 40, 32
ROUND_SECONDS = 0.01
MODELS = [  # cell, H, L, directions, front
    ("LSTM", 64, 2, 1, "linear"), ("LSTM", 256, 2, 1, "convolution"), ("LSTM", 128, 3, 2, "convolution"),
    ("LSTM", 512, 4, 1, "linear"), ("GRU", 128, 2, 1, "linear"), ("GRU", 256, 3, 2, "convolution"),
]  # fmt: skip


def model_of(cell: str, H: int, L: int, D: int, front: str, states: bool) -> bytes:
    """The model, as PyTorch's exporter writes it for layers with the batch first."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "linear": rng.standard_normal((FEATURES, H), np.float32) / FEATURES**0.5,
        "kernel": rng.standard_normal((H, FEATURES, 3), np.float32) / (3 * FEATURES) ** 0.5,
        "back": rng.standard_normal((D * H, OUTPUTS), np.float32) / H**0.5,
        "bias": rng.standard_normal(OUTPUTS, np.float32), "one": np.array([1]), "zero": np.array([0]),
        "merge": np.array([0, 0, -1]),
    }  # fmt: skip
    nodes: list[Any] = []

    def add(op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        nodes.append(helper.make_node(op_type, inputs, outputs, **attributes))

    if front == "convolution":
        add("Transpose", ["x"], ["channels"], perm=[0, 2, 1])
        add("Conv", ["channels", "kernel"], ["convolved"], pads=[1, 1])
        add("Relu", ["convolved"], ["front"])
        add("Transpose", ["front"], ["x0"], perm=[2, 0, 1])
    else:
        add("MatMul", ["x", "linear"], ["projected"])
        add("Relu", ["projected"], ["front"])
        add("Transpose", ["front"], ["x0"], perm=[1, 0, 2])
    layer = getattr(fastrnn, cell)(H, H, num_layers=L, bidirectional=D == 2, rng=0)
    roles = ("h", "c") if cell == "LSTM" else ("h",)
    for k, tensors in enumerate(fastrnn.weights.to_onnx(layer)):
        arrays |= {f"{name}{k}": a for name, a in tensors.items()}
        arrays |= {f"from{k}": np.array([k * D]), f"to{k}": np.array([k * D + D])}
        for role in roles if states else ():
            add("Slice", [role, f"from{k}", f"to{k}", "zero"], [f"{role}{k}"])
        inputs = [f"x{k}", f"W{k}", f"R{k}", f"B{k}", *(["", *(f"{role}{k}" for role in roles)] if states else [])]
        attributes = {"hidden_size": H, "direction": "bidirectional" if D == 2 else "forward"}
        attributes |= {"linear_before_reset": 1} if cell == "GRU" else {}
        add(cell, inputs, [f"Y{k}", *(f"Y_{role}{k}" for role in roles)], **attributes)
        if D == 2:
            add("Transpose", [f"Y{k}"], [f"t{k}"], perm=[0, 2, 1, 3])
            add("Reshape", [f"t{k}", "merge"], [f"x{k + 1}"])
        else:
            add("Squeeze", [f"Y{k}", "one"], [f"x{k + 1}"])
    add("Transpose", [f"x{L}"], ["last"], perm=[1, 0, 2])
    add("MatMul", ["last", "back"], ["scores"])
    add("Add", ["scores", "bias"], ["y"])
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "T", FEATURES])]
    results = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", "T", OUTPUTS])]
    for role in roles if states else ():
        add("Concat", [f"Y_{role}{k}" for k in range(L)], [f"{role}_out"], axis=0)
        for name, of in ((role, values), (f"{role}_out", results)):
            of.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [L * D, "B", H]))
    read = {name for node in nodes for name in node.input}
    initializers = [numpy_helper.from_array(a, name) for name, a in arrays.items() if name in read]
    graph = helper.make_graph(nodes, "model", values, results, initializers)
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


def ratio(runtime: Any, ours: Any, feed: dict[str, Any], seconds: float) -> tuple[float, float]:
    """ONNX Runtime's time over the session's, and the session's least time in seconds."""
    for a, b in zip(runtime.run(None, feed), ours.run(None, feed), strict=True):
        assert np.abs(a - b).max() <= 1e-4 * max(1, np.abs(a).max())
    begin = time.perf_counter()
    runtime.run(None, feed)
    count = max(1, int(ROUND_SECONDS / (time.perf_counter() - begin)))

    def once(session: Any) -> float:
        session.run(None, feed)
        begin = time.perf_counter()
        for _ in range(count):
            session.run(None, feed)
        return (time.perf_counter() - begin) / count

    ratios, least, end = [], float("inf"), time.perf_counter() + seconds
    while len(ratios) < 3 or time.perf_counter() < end:
        theirs, own = once(runtime), once(ours)
        ratios.append(theirs / own)
        least = min(least, own)
    return statistics.median(ratios), least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=fastrnn.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0, help="for each entry of the table")
    parser.add_argument("--only", default="", help="models whose cell has this name")
    options = parser.parse_args()
    fastrnn.set_num_threads(options.threads)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    print(f"onnxruntime {onnxruntime.__version__}, {options.threads} thread(s): its time / the session's (least us)")
    batches = (1, 8, 32)
    print("| model | T | " + " | ".join(f"B = {B}" for B in batches) + " |")
    print("|---" * (2 + len(batches)) + "|")
    rng = np.random.default_rng(0)
    for cell, H, L, D, front in MODELS:
        if options.only not in ("", cell):
            continue
        for T in (1, 100) if D == 1 else (100,):
            content = model_of(cell, H, L, D, front, states=T == 1)
            runtime = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
            ours = fastrnn.onnx.session(ModelProto.FromString(content))
            row, roles = [], ("h", "c")[: 1 + (cell == "LSTM")] if T == 1 else ()
            for B in batches:
                feed = {"x": rng.standard_normal((B, T, FEATURES), np.float32)}
                feed |= {role: rng.standard_normal((L * D, B, H), np.float32) for role in roles}
                times, least = ratio(runtime, ours, feed, options.seconds)
                row.append(f"{times:.2f} ({least * 1e6:.0f})")
            directions = ", both directions" if D == 2 else ""
            print(f"| {front}, {L} {cell} of {H}{directions} | {T} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
