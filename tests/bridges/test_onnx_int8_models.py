"""Models with weights of integers: DynamicQuantizeLSTM and DequantizeLinear, and what ONNX Runtime makes of them."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_onnx_int8 import LAYERS, OP, assert_same, attributes, dequantized, random_inputs
from tolerances import assert_close

import fastrnn
from fastrnn import GRU, LSTM, weights
from fastrnn.engines.precision import Int8

onnx = pytest.importorskip("onnx", reason="onnx is not installed: no models to run")

from onnx import helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from test_onnx_models import model_of, node_of, stacked, value  # noqa: E402

from fastrnn.onnx import load, ops, run_op, spec  # noqa: E402

FEEDS = ("X", "sequence_lens", "initial_h", "initial_c")  # what models take at run time; the rest is in the file


def quantized_node(source: str, y: str, tensors: dict[str, NDArray], attrs: dict[str, Any], **options: Any) -> Any:
    """A node whose tensors are initializers by the names that `named` gives."""
    names = {"X": source} | {name: name if name in FEEDS else f"{y}_{name}" for name in tensors if name != "X"}
    inputs = [names.get(name, "") for name in spec.INPUTS[OP]]
    outputs = [y, f"{y}_h", f"{y}_c"]
    return helper.make_node(OP, inputs, outputs, **{"name": y, "domain": "com.microsoft", **attrs, **options})


def named(y: str, tensors: dict[str, NDArray]) -> list[Any]:
    return [numpy_helper.from_array(a, f"{y}_{name}") for name, a in tensors.items() if name not in FEEDS]


def model_with(nodes: list[Any], initializers: list[Any], outputs: list[str], inputs: list[Any] | None = None) -> Any:
    model = model_of(nodes, initializers, outputs, inputs)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def quantized_model(inputs: dict[str, NDArray], attrs: dict[str, Any]) -> Any:
    """A model of one node, which takes those of `inputs` that are no weights."""
    types = {name: helper.np_dtype_to_tensor_dtype(inputs[name].dtype) for name in FEEDS if name in inputs}
    values = [value(name, *inputs[name].shape, dtype=dtype) for name, dtype in types.items()]
    node = quantized_node("X", "Y", inputs, attrs)
    return model_with([node], named("Y", inputs), list(node.output), values)


def integers_of(frozen: Any) -> list[Int8]:
    matrices = [matrix for w in frozen._weights for matrix in (w.weight_ih, w.weight_hh)]
    assert all(isinstance(matrix, Int8) for matrix in matrices)
    return matrices


# ---- DynamicQuantizeLSTM ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_a_node_is_a_frozen_layer_of_int8(layer: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    x = rng.standard_normal((6, 3, 4), np.float32)
    (tensors,) = weights.to_onnx(layer, precision="int8")
    path = tmp_path / "model.onnx"
    onnx.save(quantized_model({"X": x, **tensors}, attributes(layer)), path)
    (loaded,) = load(path).values()
    frozen = layer.freeze(precision="int8")
    assert loaded.precision == "int8"
    assert repr(loaded) == repr(frozen)
    for a, b in zip(integers_of(loaded), integers_of(frozen), strict=True):
        assert_same({"values": a.values, "scales": a.scales}, {"values": b.values, "scales": b.scales})
    y, (h, c) = frozen(x)
    for again in (loaded, pickle.loads(pickle.dumps(loaded))):
        actual, (actual_h, actual_c) = again(x)
        assert_same({"y": actual, "h": actual_h, "c": actual_c}, {"y": y, "h": h, "c": c})
    outputs = ReferenceEvaluator(str(path), new_ops=ops).run(None, {"X": x})
    np.testing.assert_array_equal(outputs[0].swapaxes(1, 2).reshape(y.shape), y)


def test_nodes_that_are_a_stack(rng: np.random.Generator) -> None:
    """Also of a layer in float32 and one of integers."""
    layer, x = LSTM(4, 5, num_layers=2, bidirectional=True, rng=0), rng.standard_normal((6, 3, 4), np.float32)
    for precision in (("int8", "int8"), ("float32", "int8")):
        model = stacked(layer)
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        recurrent = [k for k, node in enumerate(model.graph.node) if node.op_type == "LSTM"]
        for index, (k, tensors) in enumerate(zip(recurrent, weights.to_onnx(layer, precision=precision), strict=True)):
            if precision[index] == "int8":
                node = model.graph.node[k]
                new = quantized_node(node.input[0], f"Y{index}", tensors, attributes(layer), name=node.name)
                model.graph.initializer.extend(named(f"Q{index}", tensors))
                new.input[1:] = [name and name.replace("Y", "Q", 1) for name in new.input[1:]]
                new.output[:] = node.output
                node.CopyFrom(new)
        (loaded,) = load(model).values()
        frozen = layer.freeze(precision=precision)
        assert loaded.precision == frozen.precision
        np.testing.assert_array_equal(loaded(x)[0], frozen(x)[0])


def test_the_precision_that_a_caller_wants() -> None:
    inputs = {name: a for name, a in random_inputs().items() if name not in FEEDS} | {
        "X": np.ones((2, 1, 4), np.float32)
    }
    quantized = quantized_model(inputs, {"hidden_size": 5})
    assert load(quantized, precision="int8")["Y"].precision == "int8"
    wide = load(quantized, precision="float32")["Y"]
    assert wide.precision == "float32"
    expected = run_op("LSTM", dequantized(inputs))
    assert_close(wide(inputs["X"])[0], expected["Y"][:, 0])
    for precision in ("float32", "bfloat16", "int8"):
        assert load(stacked(GRU(4, 5, rng=0)), precision=precision)["rnn/0"].precision == precision
    with pytest.raises(ValueError, match="precision: expected one of 'float32', 'bfloat16', 'int8', got 'int4'"):
        load(quantized, precision="int4")
    with pytest.raises(TypeError, match=r"precision: expected one of .*, got tuple"):
        load(quantized, precision=("int8",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="precision: expected one of 'float64', got 'int8'"):
        load(stacked(LSTM(4, 5, dtype=np.float64, rng=0)), precision="int8")


def test_what_needs_more_than_8_bits_is_a_float32_layer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fastrnn.onnx")
    inputs = {name: a for name, a in random_inputs("uint8").items() if name not in FEEDS}
    inputs |= {"X": np.ones((2, 1, 4), np.float32), "R_zero_point": np.full(1, 10, np.uint8)}
    frozen = load(quantized_model(inputs, {"hidden_size": 5}))["Y"]
    assert frozen.precision == "float32"
    assert caplog.messages == [f"{OP} Y is float32: less their zero points its weights need more than 8 bits"]
    expected = run_op("LSTM", dequantized(inputs))
    assert_close(frozen(inputs["X"])[0], expected["Y"][:, 0])


def test_damage_and_other_domains(caplog: pytest.LogCaptureFixture) -> None:
    inputs = random_inputs()
    model = quantized_model(inputs | {"W": inputs["W"].swapaxes(1, 2)}, {"hidden_size": 5})
    with pytest.raises(ValueError, match="model: DynamicQuantizeLSTM Y: W: expected"):
        load(model)
    model = quantized_model(inputs, {"hidden_size": 5})
    model.graph.node[0].domain = ""
    assert not load(model)
    model.graph.node[0].domain = "ours"
    assert not load(model)
    assert [message.partition(" is left out: ")[2] for message in caplog.messages if "left out" in message] == [
        "it is no operator of ONNX", "it is an operator of ours",
    ]  # fmt: skip
    loose = quantized_model(inputs, {"hidden_size": 5})
    loose.graph.node[0].input[8] = "X"
    assert not load(loose)
    assert "W_scale is not constant: 'X' is an input" in caplog.text


# ---- Weights behind QuantizeLinear and DequantizeLinear --------------------------------------------------------------


def qdq_model(layer: Any, dtype: str, axis: int | None, folded: bool) -> tuple[Any, dict[str, NDArray]]:
    """A node whose W and R are integers, or float32 rounded by QuantizeLinear; and what W and R are then."""
    node, tensors = node_of(layer, 0, "X", ["Y"], name="rnn")
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    nodes, known = [], {}
    for name in ("Y_W", "Y_R"):
        a = arrays.pop(name)
        over = tuple(k for k in range(3) if k != axis)
        scale = np.abs(a).max(axis=over).astype(np.float32) / np.float32(100)
        zero = np.full(scale.shape, 128 if dtype == "uint8" else 0, dtype)
        shape = [1, 1, 1]
        if axis is not None:
            shape[axis] = -1
        q = (np.rint(a / scale.reshape(shape)) + zero.reshape(shape)).astype(dtype)
        known[name[-1]] = (q.astype(np.float32) - zero.reshape(shape).astype(np.float32)) * scale.reshape(shape)
        arrays |= {f"{name}_scale": scale, f"{name}_zero": zero, f"{name}_{'q' if folded else 'f'}": q if folded else a}
        options = {} if axis is None else {"axis": axis}
        if not folded:
            inputs = [f"{name}_f", f"{name}_scale", f"{name}_zero"]
            nodes.append(helper.make_node("QuantizeLinear", inputs, [f"{name}_q"], **options))
        inputs = [f"{name}_q", f"{name}_scale", f"{name}_zero"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [name], **options))
    return model_of([*nodes, node], [numpy_helper.from_array(a, name) for name, a in arrays.items()], ["Y"]), known


@pytest.mark.parametrize("folded", [True, False], ids=["integers", "floats"])
@pytest.mark.parametrize("axis", [None, 0, 1, -2], ids=["per tensor", "directions", "rows", "rows from the end"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("layer", [LSTM(4, 5, bidirectional=True, rng=0), GRU(4, 5, rng=0)], ids=["lstm", "gru"])
def test_weights_behind_dequantize_linear(layer: Any, dtype: str, axis: int | None, folded: bool) -> None:
    """They are a float32 layer's, and with precision="int8" the same values again."""
    model, known = qdq_model(layer, dtype, axis, folded)
    frozen = load(model)["rnn"]
    assert frozen.precision == "float32"
    tensors = weights.to_onnx(frozen)[0]
    assert_same({name: tensors[name] for name in "WR"}, known)
    int8 = load(model, precision="int8")["rnn"]
    assert int8.precision == "int8"
    tensors = weights.to_onnx(int8, precision="float32")[0]
    assert_same({name: tensors[name] for name in "WR"}, known)


def test_scales_of_columns_are_rounded_once_more() -> None:
    """int8 has a scale for each row only."""
    model, known = qdq_model(LSTM(4, 5, rng=0), "int8", 2, True)
    tensors = weights.to_onnx(load(model, precision="int8")["rnn"], precision="float32")[0]
    for name in "WR":
        assert not np.array_equal(tensors[name], known[name])
        assert_close(tensors[name], known[name], "int8")


# ---- ONNX Runtime ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def onnxruntime() -> Any:
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: nothing to compare with")


def run_by(onnxruntime: Any, model: Any, feeds: dict[str, NDArray]) -> list[NDArray]:
    """A model's outputs by ONNX Runtime on one thread: the rows of a batch that share a thread share a scale."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    content = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, feeds)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("dtype", "per_channel"), [("int8", True), ("int8", False), ("uint8", True)])
def test_the_scales_of_onnxruntime(onnxruntime: Any, direction: str, dtype: str, per_channel: bool) -> None:
    """Within float32's rounding, with all inputs. (A tanh that rounds otherwise may move an h to the next integer.)"""
    inputs = random_inputs(dtype, per_channel, D=2 if direction == "bidirectional" else 1, T=4)
    inputs["sequence_lens"] = np.array([4, 1, 3], np.int32)  # ONNX Runtime gives zeros as the final state of length 0
    attrs = {"hidden_size": 5, "direction": direction}
    expected = run_by(onnxruntime, quantized_model(inputs, attrs), {name: inputs[name] for name in FEEDS})
    outputs = run_op(OP, inputs, attrs, activation_scale="onnxruntime", explain=True)
    assert outputs["explain"] == "general path: the kernels do not have the scales of ONNX Runtime"
    own = run_op(OP, inputs, attrs)
    for name, a in zip(("Y", "Y_h", "Y_c"), expected, strict=True):
        assert_close(outputs[name], a, "value", name)
        assert_close(own[name], a, "int8", name)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_onnxruntime_takes_what_to_onnx_writes(onnxruntime: Any, layer: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 3, 4), np.float32)
    (tensors,) = weights.to_onnx(layer, precision="int8")
    outputs = run_by(onnxruntime, quantized_model({"X": x, **tensors}, attributes(layer)), {"X": x})
    y, (h, c) = layer(x)
    assert_close(outputs[0].swapaxes(1, 2).reshape(y.shape), y, "int8")
    assert_close(outputs[1], h, "int8")
    assert_close(outputs[2], c, "int8")


def exported(path: Path, x: NDArray, **options: Any) -> NDArray:
    """Write an LSTM of PyTorch, and return its output."""
    torch = pytest.importorskip("torch", reason="torch is not installed: no model to export")
    torch.manual_seed(0)
    module, x = torch.nn.LSTM(8, 16, **options).eval(), torch.from_numpy(x)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), str(path), dynamo=False, input_names=["X"], opset_version=14)
        return module(x)[0].numpy()


def test_a_model_of_pytorch_with_dynamic_quantization(
    onnxruntime: Any, rng: np.random.Generator, tmp_path: Path
) -> None:  # fmt: skip
    """What ONNX Runtime makes of an exported LSTM; loaded, it is as near to the float32 one as ONNX Runtime is."""
    from onnxruntime.quantization import quantize_dynamic

    plain, quantized = str(tmp_path / "plain.onnx"), str(tmp_path / "quantized.onnx")
    x = rng.standard_normal((10, 3, 8), np.float32)
    y = exported(Path(plain), x, num_layers=2, bidirectional=True)
    assert_close(fastrnn.onnx.session(plain).run(None, {"X": x})[0].reshape(y.shape), y)
    for per_channel in (False, True):
        quantize_dynamic(plain, quantized, per_channel=per_channel)
        assert [node.op_type for node in onnx.load(quantized).graph.node].count(OP) == 2
        (layer,) = load(quantized).values()
        assert (layer.precision, layer.num_layers, layer.bidirectional) == ("int8", 2, True)
        ours, theirs = layer(x)[0], run_by(onnxruntime, quantized, {"X": x})[0].reshape(y.shape)
        evaluated = ReferenceEvaluator(quantized, new_ops=ops).run(None, {"X": x})[0]
        np.testing.assert_array_equal(evaluated.reshape(y.shape), ours)
        in_session, *_ = fastrnn.onnx.session(quantized).run(None, {"X": x})
        np.testing.assert_array_equal(in_session.reshape(y.shape), ours)
        assert_close(ours, y, "int8")
        ours_off, theirs_off = (np.sqrt(np.mean((a - y) ** 2)) for a in (ours, theirs))
        assert ours_off < 1.1 * theirs_off  # both have the same weights; only activations are rounded otherwise


def test_a_model_of_pytorch_with_static_quantization(
    onnxruntime: Any, rng: np.random.Generator, tmp_path: Path
) -> None:  # fmt: skip
    """An LSTM with QuantizeLinear and DequantizeLinear around x, W, R and B."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    x = rng.standard_normal((10, 3, 8), np.float32)

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"X": x}]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    plain, quantized = str(tmp_path / "plain.onnx"), str(tmp_path / "quantized.onnx")
    y = exported(Path(plain), x)
    options = {"quant_format": QuantFormat.QDQ, "op_types_to_quantize": ["LSTM"]}
    quantize_static(plain, quantized, Batches(), **options, extra_options={"ActivationSymmetric": True})
    assert "LSTM" in [node.op_type for node in onnx.load(quantized).graph.node]
    in_session, *_ = (whole := fastrnn.onnx.session(quantized)).run(None, {"X": x})
    assert [runs_in for _, _, runs_in, *_ in whole.nodes] == ["fastrnn"]
    assert_close(in_session.reshape(y.shape), y, "int8")
    wide, int8 = (load(quantized, precision=precision)["/LSTM"] for precision in ("float32", "int8"))
    for layer in (wide, int8):
        assert_close(layer(x)[0], y, "int8")
    for a, b in zip(integers_of(int8), (wide._weights[0].weight_ih, wide._weights[0].weight_hh), strict=True):
        np.testing.assert_array_equal(a.widened(), b)
