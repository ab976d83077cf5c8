"""Make the golden files: what other frameworks compute, for models so small that their numbers fit in a few kilobytes.

The tests (tests/bridges/test_golden.py) compare fastrnn with these files, so they need none of the frameworks. To make
the files anew, in an environment with these packages (the files in the repository came from these versions):

    torch==2.13.0 (CPU)   keras==3.15.1   onnx==1.23.2   onnxruntime==1.31.1   numpy==2.4.6

    python tests/golden/make_golden.py [--out DIRECTORY]

The same versions on the same kind of CPU give the same bytes; another CPU may differ in the last bits, for the
frameworks choose their kernels by instruction set. All numbers that are drawn come from NumPy, seeded by the name of
the case, so a case that is added or removed leaves the others as they are.

A file holds, under fastrnn's names (which are PyTorch's), shapes and gate orders, time-major:

    made_by              framework and version
    config               JSON: cell, input_size, hidden_size, kwargs of the layer, dtype, tolerance {output, gradient}
    x, h0 (c0), lengths  the inputs; lengths only where the sequences differ in length
    param/NAME           every parameter
    y, h_n (c_n)         the outputs
    dy, dh_n (dc_n)      random cotangents of all outputs, applied together ...
    grad/x, grad/h0 (grad/c0), grad/param/NAME         ... and the gradients that they give

ONNX is about inference: its files end with the outputs. Keras has one bias where fastrnn has two (but for the GRU
with reset_after), so there bias_hh is zero and has no gradient in the file. Where lengths are given, x and dy are
random beyond the sequences' ends too, because what stands there must not matter.

The folder operators/ has ONNX Runtime's DynamicQuantizeLSTM, with the operator's own names: made_by, attributes (JSON),
input/NAME and output/NAME.
"""

import argparse
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"  # keras reads it at import
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the files are about the CPU
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras
import numpy as np
import onnx
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator

Arrays = dict[str, np.ndarray]

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
# The largest error allowed, relative to the values and to the largest magnitude in the array. float32 frameworks
# and fastrnn each err by some units in the last place at each step, and a gradient sums over all steps and rows.
TOLERANCE = {"float64": {"output": 1e-12, "gradient": 1e-11}, "float32": {"output": 5e-6, "gradient": 2e-5}}

# Keyword arguments that many cases share.
BEFORE: dict[str, Any] = {"reset_after": False}
AFTER: dict[str, Any] = {"reset_after": True}
TWO: dict[str, Any] = {"bidirectional": True, "hidden_size": 3}


class Case:
    """What is drawn for one file, before a framework has seen it."""

    def __init__(
        self,
        name: str,
        cell: str,
        dtype: str,
        *,
        steps: int = 6,
        batch: int = 4,
        input_size: int = 4,
        hidden_size: int = 5,
        lengths: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        self.name = f"{name}_{dtype}"
        self.cell, self.dtype, self.kwargs = cell, dtype, kwargs
        self.input_size, self.hidden_size = input_size, hidden_size
        self.num_layers = int(kwargs.get("num_layers", 1))
        self.directions = 2 if kwargs.get("bidirectional") else 1
        self.proj_size = int(kwargs.get("proj_size", 0))
        self.rng = np.random.default_rng(zlib.crc32(self.name.encode()))

        output_size = self.proj_size or hidden_size
        rows = self.num_layers * self.directions
        self.inputs = {"x": self.normal(steps, batch, input_size), "h0": self.normal(rows, batch, output_size)}
        self.cotangents = {
            "dy": self.normal(steps, batch, self.directions * output_size),
            "dh_n": self.normal(rows, batch, output_size),
        }
        if cell == "LSTM":
            self.inputs["c0"] = self.normal(rows, batch, hidden_size)
            self.cotangents["dc_n"] = self.normal(rows, batch, hidden_size)
        self.lengths = None if lengths is None else np.array(lengths)
        self.params = {name: self.parameter(shape) for name, shape in self.parameter_shapes().items()}

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(self.dtype)

    def parameter(self, shape: tuple[int, ...]) -> np.ndarray:
        # Wider than the usual initial values, so that the gates are well away from 1/2.
        bound = 2 / np.sqrt(self.hidden_size)
        if self.kwargs.get("nonlinearity") == "relu":
            bound /= 2  # nothing saturates, and the states would grow
        return self.rng.uniform(-bound, bound, shape).astype(self.dtype)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        gate_rows = GATES[self.cell] * self.hidden_size
        output_size = self.proj_size or self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.num_layers):
            layer_input = self.input_size if layer == 0 else self.directions * output_size
            for suffix in ("", "_reverse")[: self.directions]:
                shapes[f"weight_ih_l{layer}{suffix}"] = (gate_rows, layer_input)
                shapes[f"weight_hh_l{layer}{suffix}"] = (gate_rows, output_size)
                if self.kwargs.get("bias", True):
                    shapes[f"bias_ih_l{layer}{suffix}"] = (gate_rows,)
                    shapes[f"bias_hh_l{layer}{suffix}"] = (gate_rows,)
                if self.proj_size:
                    shapes[f"weight_hr_l{layer}{suffix}"] = (self.proj_size, self.hidden_size)
                if self.kwargs.get("peephole"):
                    shapes[f"peephole_l{layer}{suffix}"] = (3, self.hidden_size)
        return shapes

    def save(self, directory: Path, made_by: str, outputs: Arrays, gradients: Arrays | None = None) -> int:
        """Write the file and return its size. Without gradients (ONNX) the cotangents are left out as well."""
        config = {
            "cell": self.cell,
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "kwargs": self.kwargs,
            "dtype": self.dtype,
            "tolerance": TOLERANCE[self.dtype],
        }
        arrays = {"made_by": np.array(made_by), "config": np.array(json.dumps(config)), **self.inputs}
        if self.lengths is not None:
            arrays["lengths"] = self.lengths
        arrays |= {f"param/{name}": value for name, value in self.params.items()}
        arrays |= outputs
        if gradients is not None:
            arrays |= self.cotangents
            arrays |= {f"grad/{name}": value for name, value in gradients.items()}
        for name, value in arrays.items():
            if value.dtype.kind == "f":
                assert value.dtype == self.dtype, f"{self.name}: {name} is {value.dtype}"
                assert np.isfinite(value).all(), f"{self.name}: {name} is not finite"
        path = directory / f"{self.name}.npz"
        contiguous: dict[str, Any] = {name: np.array(value, order="C") for name, value in arrays.items()}
        np.savez_compressed(path, **contiguous)
        return path.stat().st_size


def backpropagate(
    outputs: dict[str, torch.Tensor], cotangents: Arrays, inputs: dict[str, torch.Tensor]
) -> tuple[Arrays, Arrays]:
    """Outputs and gradients as arrays. The n-th cotangent belongs to the n-th output."""
    gradients = torch.autograd.grad(
        list(outputs.values()), list(inputs.values()), [torch.from_numpy(value) for value in cotangents.values()]
    )
    return (
        {name: value.detach().numpy() for name, value in outputs.items()},
        {name: value.numpy() for name, value in zip(inputs, gradients, strict=True)},
    )


# PyTorch ------------------------------------------------------------------------------------------------------------


def torch_cases(dtype: str) -> list[Case]:
    cells: list[tuple[str, str, dict[str, Any]]] = [
        ("lstm", "LSTM", {}),
        ("gru", "GRU", {"reset_after": True}),
        ("rnn_tanh", "RNN", {"nonlinearity": "tanh"}),
        ("rnn_relu", "RNN", {"nonlinearity": "relu"}),
    ]
    deep: dict[str, Any] = {
        "num_layers": 2,
        "bidirectional": True,
        "steps": 5,
        "batch": 3,
        "input_size": 2,
        "hidden_size": 3,
    }
    cases = []
    for name, cell, kwargs in cells:
        cases += [
            Case(f"torch_{name}", cell, dtype, **kwargs),
            Case(f"torch_{name}_bidirectional_2layers", cell, dtype, **kwargs, **deep),
            Case(f"torch_{name}_no_bias", cell, dtype, **kwargs, bias=False),
            Case(f"torch_{name}_lengths", cell, dtype, **kwargs, lengths=[3, 6, 1, 4]),
            # No sequence is as long as x: y still has all steps, the last of them zero.
            Case(f"torch_{name}_bidirectional_2layers_lengths", cell, dtype, **kwargs, **deep, lengths=[2, 4, 1]),
        ]
    cases += [
        Case("torch_lstm_proj", "LSTM", dtype, proj_size=2),
        Case("torch_lstm_proj_bidirectional_2layers_lengths", "LSTM", dtype, proj_size=2, **deep, lengths=[4, 1, 5]),
    ]
    return cases


def run_torch(case: Case, directory: Path) -> int:
    kwargs = {name: value for name, value in case.kwargs.items() if name != "reset_after"}  # PyTorch's only kind
    layer = getattr(torch.nn, case.cell)(case.input_size, case.hidden_size, **kwargs, dtype=getattr(torch, case.dtype))
    layer.load_state_dict({name: torch.from_numpy(value) for name, value in case.params.items()})
    inputs = {name: torch.from_numpy(value).requires_grad_() for name, value in case.inputs.items()}
    x, state = inputs["x"], (inputs["h0"], inputs["c0"]) if case.cell == "LSTM" else inputs["h0"]
    if case.lengths is None:
        y, state_n = layer(x, state)
    else:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.from_numpy(case.lengths), enforce_sorted=False)
        y, state_n = layer(packed, state)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=len(x))
    outputs = {"y": y, "h_n": state_n[0], "c_n": state_n[1]} if case.cell == "LSTM" else {"y": y, "h_n": state_n}
    wanted = inputs | {f"param/{name}": value for name, value in layer.named_parameters()}
    return case.save(directory, f"torch {torch.__version__}", *backpropagate(outputs, case.cotangents, wanted))


# Keras --------------------------------------------------------------------------------------------------------------

# Where fastrnn's gates stand among Keras's columns: Keras has LSTM i, f, c, o and GRU z, r, h.
KERAS_ORDER = {"LSTM": [0, 1, 2, 3], "GRU": [1, 0, 2], "RNN": [0]}


def keras_cases() -> list[Case]:
    """float32 only: Keras on PyTorch rounds every matmul of a float64 layer to float32 (TensorFlow's does not)."""
    dtype = "float32"
    lengths = [3, 6, 1, 4]
    cases = [
        Case("keras_lstm", "LSTM", dtype),
        Case("keras_lstm_no_bias", "LSTM", dtype, bias=False),
        Case("keras_lstm_mask", "LSTM", dtype, lengths=lengths),
        Case("keras_lstm_2layers_mask", "LSTM", dtype, num_layers=2, hidden_size=3, lengths=lengths),
        Case("keras_lstm_2layers", "LSTM", dtype, num_layers=2, hidden_size=3),
        Case("keras_lstm_bidirectional", "LSTM", dtype, **TWO),
        Case("keras_lstm_bidirectional_mask", "LSTM", dtype, **TWO, lengths=lengths),
        Case("keras_gru_reset_after", "GRU", dtype, **AFTER),
        Case("keras_gru_reset_after_mask", "GRU", dtype, **AFTER, lengths=lengths),
        Case("keras_gru_reset_before", "GRU", dtype, **BEFORE),
        Case("keras_gru_reset_before_no_bias", "GRU", dtype, **BEFORE, bias=False),
        Case("keras_gru_reset_before_mask", "GRU", dtype, **BEFORE, lengths=lengths),
        Case("keras_gru_reset_before_2layers", "GRU", dtype, **BEFORE, num_layers=2, hidden_size=3),
        Case("keras_gru_reset_before_bidirectional_mask", "GRU", dtype, **BEFORE, **TWO, lengths=lengths),
        Case("keras_rnn_tanh", "RNN", dtype, nonlinearity="tanh"),
        Case("keras_rnn_relu_mask", "RNN", dtype, nonlinearity="relu", lengths=lengths),
    ]
    for case in cases:
        if not keras_has_two_biases(case):
            for name in case.params:
                if name.startswith("bias_hh"):
                    case.params[name][:] = 0
    return cases


def keras_has_two_biases(case: Case) -> bool:
    return case.cell == "GRU" and bool(case.kwargs["reset_after"])


def reorder_gates(rows: np.ndarray, order: list[int]) -> np.ndarray:
    """(G*H, ...) -> the same shape; block k of the result is block order[k] of rows."""
    blocks = np.split(rows, len(order))
    return np.concatenate([blocks[gate] for gate in order])


def to_keras(case: Case, suffix: str) -> list[np.ndarray]:
    """One layer's and direction's weights as Keras keeps them: kernel, recurrent_kernel, bias."""
    order = [int(gate) for gate in np.argsort(KERAS_ORDER[case.cell])]  # the way back
    value = {
        kind: reorder_gates(case.params[f"{kind}_{suffix}"], order)
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        if f"{kind}_{suffix}" in case.params
    }
    weights = [value["weight_ih"].T, value["weight_hh"].T]
    if "bias_ih" in value:
        two_rows = np.stack([value["bias_ih"], value["bias_hh"]]) if keras_has_two_biases(case) else value["bias_ih"]
        weights.append(two_rows)
    return weights


def from_keras(case: Case, suffix: str, weights: list[np.ndarray]) -> Arrays:
    """The inverse of to_keras, for gradients: what Keras does not have is not in the result."""
    order = KERAS_ORDER[case.cell]
    result = {
        f"weight_ih_{suffix}": reorder_gates(weights[0].T, order),
        f"weight_hh_{suffix}": reorder_gates(weights[1].T, order),
    }
    if len(weights) == 3:
        rows = weights[2].reshape(-1, len(order) * case.hidden_size)
        for kind, row in zip(("bias_ih", "bias_hh"), rows, strict=False):
            result[f"{kind}_{suffix}"] = reorder_gates(row, order)
    return result


def keras_layer(case: Case) -> keras.layers.Layer:
    kwargs: dict[str, Any] = {
        "dtype": case.dtype,
        "use_bias": case.kwargs.get("bias", True),
        "return_sequences": True,
        "return_state": True,
        "zero_output_for_mask": True,  # else Keras repeats the last valid output
    }
    if case.cell == "RNN":
        layer = keras.layers.SimpleRNN(case.hidden_size, activation=case.kwargs["nonlinearity"], **kwargs)
    elif case.cell == "GRU":
        # use_cudnn=False here and below: Keras's own equations, not a call of another framework's layer.
        reset_after = case.kwargs["reset_after"]
        layer = keras.layers.GRU(case.hidden_size, reset_after=reset_after, use_cudnn=False, **kwargs)
    else:
        layer = keras.layers.LSTM(case.hidden_size, use_cudnn=False, **kwargs)
    if case.directions == 2:
        layer = keras.layers.Bidirectional(layer, merge_mode="concat", dtype=case.dtype)
    return layer


def run_keras(case: Case, directory: Path) -> int:
    inputs = {name: torch.from_numpy(value).requires_grad_() for name, value in case.inputs.items()}
    mask = None
    if case.lengths is not None:
        mask = torch.from_numpy(np.arange(len(case.inputs["x"])) < case.lengths[:, None])  # (B, T)
    states = [inputs["h0"], inputs["c0"]] if case.cell == "LSTM" else [inputs["h0"]]

    y = inputs["x"].swapaxes(0, 1)  # Keras is batch-major
    final: list[list[torch.Tensor]] = [[] for _ in states]
    weights: dict[str, list[torch.Tensor]] = {}
    for index in range(case.num_layers):
        layer = keras_layer(case)
        layer.build(tuple(y.shape))
        suffixes = [f"l{index}", f"l{index}_reverse"][: case.directions]
        layer.set_weights([value for suffix in suffixes for value in to_keras(case, suffix)])
        variables = [variable.value for variable in layer.trainable_weights]
        per_direction = len(variables) // case.directions
        for direction, suffix in enumerate(suffixes):
            weights[suffix] = variables[direction * per_direction :][:per_direction]
        # All states of the forward direction, then all of the backward direction.
        rows = [index * case.directions + direction for direction in range(case.directions)]
        y, *state_n = layer(y, mask=mask, initial_state=[state[row] for row in rows for state in states])
        for position, value in enumerate(state_n):
            final[position % len(states)].append(value)

    outputs = {"y": y.swapaxes(0, 1)}
    outputs |= {name: torch.stack(values) for name, values in zip(("h_n", "c_n"), final, strict=False)}
    wanted = inputs | {f"{suffix}/{k}": weight for suffix, group in weights.items() for k, weight in enumerate(group)}
    output_arrays, raw = backpropagate(outputs, case.cotangents, wanted)
    gradients = {name: raw[name] for name in inputs}
    for suffix, group in weights.items():
        converted = from_keras(case, suffix, [raw[f"{suffix}/{k}"] for k in range(len(group))])
        gradients |= {f"param/{name}": value for name, value in converted.items()}
    return case.save(directory, f"keras {keras.__version__} (torch {torch.__version__})", output_arrays, gradients)


# ONNX ---------------------------------------------------------------------------------------------------------------

# Where ONNX's gates stand among fastrnn's: ONNX has LSTM i, o, f, c, GRU z, r, h and peepholes i, o, f.
ONNX_ORDER = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2], "RNN": [0]}
ONNX_PEEPHOLE_ORDER = [0, 2, 1]
# Older than the newest, so that every evaluator of the last years takes the model.
ONNX_OPSET, ONNX_IR_VERSION = 14, 8


def onnx_cases() -> list[Case]:
    """For the reference evaluator, which computes in the model's type."""
    return [
        Case("onnx_lstm", "LSTM", "float64"),
        Case("onnx_lstm_bidirectional", "LSTM", "float64", **TWO),
        Case("onnx_lstm_peephole", "LSTM", "float64", peephole=True),
        Case("onnx_lstm_peephole_bidirectional", "LSTM", "float64", peephole=True, **TWO),
        Case("onnx_gru_reset_before", "GRU", "float64", **BEFORE),
        Case("onnx_gru_reset_before_bidirectional", "GRU", "float64", **BEFORE, **TWO),
        Case("onnx_gru_reset_after", "GRU", "float64", **AFTER),
        Case("onnx_gru_reset_after_bidirectional", "GRU", "float64", **AFTER, **TWO),
        Case("onnx_rnn_tanh", "RNN", "float64", nonlinearity="tanh"),
        Case("onnx_rnn_tanh_bidirectional", "RNN", "float64", nonlinearity="tanh", **TWO),
    ]


def onnxruntime_cases() -> list[Case]:
    """What the reference evaluator leaves out: it ignores sequence_lens, and its RNN has no relu.

    ONNX Runtime computes in float32 only.
    """
    lengths = [3, 6, 1, 4]
    return [
        Case("onnxruntime_lstm_lengths", "LSTM", "float32", lengths=lengths),
        Case("onnxruntime_lstm_bidirectional_lengths", "LSTM", "float32", **TWO, lengths=lengths),
        Case("onnxruntime_lstm_peephole_lengths", "LSTM", "float32", peephole=True, lengths=lengths),
        Case(
            "onnxruntime_lstm_peephole_bidirectional_lengths", "LSTM", "float32", peephole=True, **TWO, lengths=lengths
        ),
        Case("onnxruntime_gru_reset_before_lengths", "GRU", "float32", **BEFORE, lengths=lengths),
        Case("onnxruntime_gru_reset_before_bidirectional_lengths", "GRU", "float32", **BEFORE, **TWO, lengths=lengths),
        Case("onnxruntime_gru_reset_after_bidirectional_lengths", "GRU", "float32", **AFTER, **TWO, lengths=lengths),
        Case(
            "onnxruntime_rnn_tanh_bidirectional_lengths", "RNN", "float32", nonlinearity="tanh", **TWO, lengths=lengths
        ),
        Case("onnxruntime_rnn_relu", "RNN", "float32", nonlinearity="relu"),
        Case(
            "onnxruntime_rnn_relu_bidirectional_lengths", "RNN", "float32", nonlinearity="relu", **TWO, lengths=lengths
        ),
    ]


def onnx_model(case: Case) -> tuple[onnx.ModelProto, Arrays]:
    """A model of one node and what to feed it; the weights are inputs too."""

    def stack(kind: str) -> np.ndarray:
        """(directions, ...) of one kind of parameter, gates in ONNX's order."""
        order = ONNX_PEEPHOLE_ORDER if kind == "peephole" else ONNX_ORDER[case.cell]
        suffixes = ("l0", "l0_reverse")[: case.directions]
        return np.stack([reorder_gates(case.params[f"{kind}_{suffix}"], order) for suffix in suffixes])

    feeds = {
        "X": case.inputs["x"],
        "W": stack("weight_ih"),
        "R": stack("weight_hh"),
        "B": np.concatenate([stack("bias_ih"), stack("bias_hh")], axis=1),
        "initial_h": case.inputs["h0"],
    }
    if case.lengths is not None:
        feeds["sequence_lens"] = case.lengths.astype(np.int32)
    outputs = {"Y": 4, "Y_h": 3}  # name -> rank
    if case.cell == "LSTM":
        feeds["initial_c"] = case.inputs["c0"]
        outputs["Y_c"] = 3
    if case.kwargs.get("peephole"):
        feeds["P"] = stack("peephole").reshape(case.directions, -1)

    attributes: dict[str, Any] = {
        "hidden_size": case.hidden_size,
        "direction": "bidirectional" if case.directions == 2 else "forward",
    }
    if case.cell == "GRU":
        attributes["linear_before_reset"] = int(bool(case.kwargs["reset_after"]))
    if case.cell == "RNN":
        attributes["activations"] = [str(case.kwargs["nonlinearity"]).capitalize()] * case.directions
    slots = ["X", "W", "R", "B", "sequence_lens", "initial_h"] + ["initial_c", "P"] * (case.cell == "LSTM")
    node = onnx.helper.make_node(
        case.cell, [slot if slot in feeds else "" for slot in slots], list(outputs), name=case.name, **attributes
    )

    def value_info(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    element_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(case.dtype))
    graph = onnx.helper.make_graph(
        [node],
        case.name,
        [value_info(name, array) for name, array in feeds.items()],
        [onnx.helper.make_tensor_value_info(name, element_type, [None] * rank) for name, rank in outputs.items()],
    )
    opset = onnx.helper.make_opsetid("", ONNX_OPSET)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=ONNX_IR_VERSION)
    onnx.checker.check_model(model)
    return model, feeds


def save_onnx(case: Case, directory: Path, made_by: str, outputs: list[np.ndarray]) -> int:
    y = outputs[0]  # (T, directions, B, H)
    steps, directions, batch, hidden_size = y.shape
    named = {"y": y.swapaxes(1, 2).reshape(steps, batch, directions * hidden_size)}
    named |= dict(zip(("h_n", "c_n"), outputs[1:], strict=False))
    return case.save(directory, made_by, named)


def run_onnx(case: Case, directory: Path) -> int:
    model, feeds = onnx_model(case)
    return save_onnx(case, directory, f"onnx {onnx.__version__}", ReferenceEvaluator(model).run(None, feeds))


def run_onnxruntime(case: Case, directory: Path) -> int:
    model, feeds = onnx_model(case)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return save_onnx(case, directory, f"onnxruntime {onnxruntime.__version__}", session.run(None, feeds))


def run_quantized(name: str, dtype: str, per_channel: bool, directory: Path) -> int:
    """DynamicQuantizeLSTM with random weights of 7 bits: without VNNI, ONNX Runtime's sums of larger ones saturate."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    D, T, B, I, H = 2, 6, 4, 7, 5

    def numbers(*shape: int) -> np.ndarray:
        return 0.5 * rng.standard_normal(shape, np.float32)

    def integers(*shape: int) -> np.ndarray:
        return (rng.integers(-64, 65, shape) + (128 if dtype == "uint8" else 0)).astype(dtype)

    scales = (D, 4 * H) if per_channel else (D,)
    inputs = {
        "X": numbers(T, B, I),
        "W": integers(D, I, 4 * H),
        "R": integers(D, H, 4 * H),
        "B": numbers(D, 8 * H),
        "sequence_lens": np.array([6, 2, 5, 6], np.int32),
        "initial_h": numbers(D, B, H),
        "initial_c": numbers(D, B, H),
        "P": numbers(D, 3 * H),
    }
    for weight in ("W", "R"):
        inputs[f"{weight}_scale"] = rng.uniform(0.002, 0.01, scales).astype(np.float32)
        inputs[f"{weight}_zero_point"] = np.full(scales, 128 if dtype == "uint8" else 0, dtype)
    weights = [key for key in inputs if key[0] in "WR"]
    attributes = {"hidden_size": H, "direction": "bidirectional"}
    node = onnx.helper.make_node(
        "DynamicQuantizeLSTM", list(inputs), ["Y", "Y_h", "Y_c"], domain="com.microsoft", **attributes
    )
    element = {key: onnx.helper.np_dtype_to_tensor_dtype(a.dtype) for key, a in inputs.items()}
    graph = onnx.helper.make_graph(
        [node],
        name,
        [onnx.helper.make_tensor_value_info(k, element[k], a.shape) for k, a in inputs.items() if k not in weights],
        [onnx.helper.make_tensor_value_info(k, element["X"], None) for k in ("Y", "Y_h", "Y_c")],
        [onnx.numpy_helper.from_array(inputs[key], key) for key in weights],
    )
    opsets = [onnx.helper.make_opsetid("", ONNX_OPSET), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=ONNX_IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {key: a for key, a in inputs.items() if key not in weights})
    (directory / "operators").mkdir(exist_ok=True)
    path = directory / "operators" / f"{name}.npz"
    np.savez_compressed(
        path,
        made_by=f"onnxruntime {onnxruntime.__version__}",
        attributes=json.dumps(attributes),
        **{f"input/{key}": a for key, a in inputs.items()},
        **{f"output/{key}": a for key, a in zip(("Y", "Y_h", "Y_c"), outputs, strict=True)},
    )
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the golden files of tests/golden.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where to write (default: beside me)")
    directory: Path = parser.parse_args().out
    directory.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    work: list[tuple[Callable[[Case, Path], int], list[Case]]] = [
        (run_torch, torch_cases("float64") + torch_cases("float32")),
        (run_keras, keras_cases()),
        (run_onnx, onnx_cases()),
        (run_onnxruntime, onnxruntime_cases()),
    ]
    sizes = {case.name: run(case, directory) for run, cases in work for case in cases}
    for dtype, per_channel in (("int8", True), ("uint8", False)):
        name = f"onnxruntime_dynamic_quantize_lstm_{dtype}"
        sizes[name] = run_quantized(name, dtype, per_channel, directory)
    for name, size in sizes.items():
        print(f"{size:8,} {name}.npz")
    print(f"{sum(sizes.values()):8,} bytes in {len(sizes)} files")


if __name__ == "__main__":
    main()
