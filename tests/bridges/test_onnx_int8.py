"""ONNX Runtime's DynamicQuantizeLSTM as a single operator, and the weights that to_onnx writes for it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tolerances import assert_close

from fastrnn import GRU, LSTM, RNN, weights
from fastrnn.onnx import general, run_grad, run_op, spec

Arrays = dict[str, NDArray]
OP = "DynamicQuantizeLSTM"
GOLDEN = sorted((Path(__file__).parents[1] / "golden" / "operators").glob("*.npz"))
DIRECTIONS = {1: "forward", 2: "bidirectional"}
LAYERS = {
    "plain": LSTM(4, 5, rng=0), "no bias": LSTM(4, 5, bias=False, rng=0),
    "bidirectional": LSTM(4, 5, bidirectional=True, rng=0),
    "peephole": LSTM(4, 5, peephole=True, bidirectional=True, rng=0), "coupled": LSTM(4, 5, coupled=True, rng=0),
}  # fmt: skip


def attributes(layer: Any) -> dict[str, Any]:
    return {"hidden_size": layer.hidden_size, "direction": DIRECTIONS[1 + layer.bidirectional]} | (
        {"input_forget": 1} if layer.cell.options["coupled"] else {}
    )


def random_inputs(
    dtype: str = "int8", per_channel: bool = True, D: int = 1, T: int = 5, B: int = 3, seed: int = 0
) -> Arrays:
    """Inputs with everything that an operator may have. The weights fit into int8."""
    rng, I, H = np.random.default_rng(seed), 4, 5

    def numbers(*shape: int) -> NDArray:
        return 0.5 * rng.standard_normal(shape, np.float32)

    def integers(*shape: int) -> NDArray:
        # of 7 bits: on machines without VNNI, ONNX Runtime's sums of larger ones saturate
        return (rng.integers(-64, 65, shape) + (128 if dtype == "uint8" else 0)).astype(dtype)

    scales = (D, 4 * H) if per_channel else (D,)
    zero = np.full(scales, 128 if dtype == "uint8" else 0, dtype)
    return {
        "X": numbers(T, B, I), "W": integers(D, I, 4 * H), "R": integers(D, H, 4 * H), "B": numbers(D, 8 * H),
        "P": numbers(D, 3 * H), "initial_h": numbers(D, B, H), "initial_c": numbers(D, B, H),
        "sequence_lens": rng.integers(0, T + 1, B).astype(np.int32),
        "W_scale": rng.uniform(0.002, 0.01, scales).astype(np.float32), "W_zero_point": zero,
        "R_scale": rng.uniform(0.002, 0.01, scales).astype(np.float32), "R_zero_point": zero,
    }  # fmt: skip


def dequantized(inputs: Arrays) -> Arrays:
    """Inputs of an LSTM of ONNX with the same weights."""
    arrays = {name: a for name, a in inputs.items() if name in spec.INPUTS["LSTM"]}
    for name in ("W", "R"):
        scale, zero = (inputs[name + suffix].reshape(len(inputs[name]), 1, -1) for suffix in ("_scale", "_zero_point"))
        arrays[name] = ((inputs[name].astype(np.int32) - zero) * scale).astype(np.float32).swapaxes(1, 2).copy()
    return arrays


def assert_same(actual: Arrays, expected: Arrays) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


# ---- Single operators ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_to_onnx_is_what_freeze_computes(layer: Any, rng: np.random.Generator) -> None:
    """With the same bits: the same integers, scales and rounding of activations."""
    x = rng.standard_normal((6, 3, 4), np.float32)
    frozen = layer.freeze(precision="int8")
    y, (h, c) = frozen(x)
    for exported in (weights.to_onnx(layer, precision="int8"), weights.to_onnx(frozen)):
        (tensors,) = exported
        D, H = 1 + layer.bidirectional, layer.hidden_size
        assert tensors["W"].shape == (D, 4, 4 * H)
        assert tensors["R"].shape == (D, H, 4 * H)
        assert all(tensors[f"{name}_scale"].shape == (D, 4 * H) for name in "WR")
        assert tensors["W"].dtype == tensors["R_zero_point"].dtype == np.int8
        outputs = run_op(OP, {"X": x, **tensors}, attributes(layer))
        np.testing.assert_array_equal(outputs["Y"].swapaxes(1, 2).reshape(6, 3, -1), y)
        assert_same(outputs, {"Y": outputs["Y"], "Y_h": h, "Y_c": c})


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_near_the_lstm_of_the_same_weights(direction: str, per_channel: bool, dtype: str) -> None:
    inputs = random_inputs(dtype, per_channel, 1 + (direction == "bidirectional"))
    attrs = {"direction": direction, "hidden_size": 5}
    outputs = run_op(OP, inputs, attrs)
    for name, expected in run_op("LSTM", dequantized(inputs), attrs).items():
        assert_close(outputs[name], expected, "int8", name)


def test_zero_points_and_types_say_the_same_weights() -> None:
    """Per tensor or per row; of int8 from -128 on, or of uint8."""
    inputs = random_inputs(per_channel=False, D=2)
    inputs["W"][0, 0, 0] = inputs["R"][0, 0, 0] = -128
    expected = run_op(OP, inputs, {"direction": "bidirectional"})
    rows = {name: np.repeat(inputs[name][:, None], 20, axis=1) for name in spec.QUANTIZATION}
    assert_same(run_op(OP, inputs | rows, {"direction": "bidirectional"}), expected)
    unsigned = {name: (inputs[name].astype(np.int16) + 128).astype(np.uint8) for name in ("W", "R")}
    unsigned |= {name: np.full((2, 20), 128, np.uint8) for name in ("W_zero_point", "R_zero_point")}
    assert_same(run_op(OP, inputs | unsigned, {"direction": "bidirectional"}), expected)
    # one for each row, which ONNX Runtime does not take
    inputs = random_inputs()
    moved = np.arange(-10, 10, dtype=np.int8)
    shifted = {"W": inputs["W"] + moved, "W_zero_point": moved[None]}
    assert_same(run_op(OP, inputs | shifted), run_op(OP, inputs))


def test_what_needs_more_than_8_bits_is_float32() -> None:
    inputs = random_inputs("uint8")
    inputs["R"][0, 0, 0], inputs["R_zero_point"] = 255, inputs["R_zero_point"] - 1
    outputs = run_op(OP, inputs, explain=True)
    assert outputs.pop("explain").endswith("weights in float32: less their zero points they need more than 8 bits")
    assert_same(outputs, run_op("LSTM", dequantized(inputs)))


def test_a_row_depends_on_nothing_else() -> None:
    inputs = random_inputs(B=4)
    together = run_op(OP, inputs)
    for b in range(4):
        row = slice(b, b + 1)
        alone = inputs | {name: inputs[name][:, row] for name in ("X", "initial_h", "initial_c")}
        outputs = run_op(OP, alone | {"sequence_lens": inputs["sequence_lens"][row]})
        np.testing.assert_array_equal(outputs["Y"], together["Y"][:, :, row])


@pytest.mark.parametrize("attrs", [{"clip": 1e-40}, {"activations": ["HardSigmoid", "Softsign", "Tanh"]}], ids=repr)
def test_general_path(attrs: dict[str, Any]) -> None:
    inputs = random_inputs()
    outputs = run_op(OP, inputs, attrs, explain=True)
    assert outputs["explain"].startswith("general path")
    for name, expected in run_op("LSTM", dequantized(inputs), attrs).items():
        assert_close(outputs[name], expected, "int8", name)


@pytest.mark.parametrize("attrs", [{}, {"input_forget": 1}, {"direction": "reverse"}, {"clip": 0.5}], ids=repr)
def test_both_paths_agree(attrs: dict[str, Any]) -> None:
    inputs = random_inputs()
    slow = general.run(spec.read_call(spec.read_node(OP, attrs), inputs))
    for name, value in run_op(OP, inputs, attrs).items():
        assert_close(value, slow[name], "int8", name)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_onnx_runtime_computed(path: Path) -> None:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    attrs = json.loads(str(arrays["attributes"]))
    inputs = {name.removeprefix("input/"): a for name, a in arrays.items() if name.startswith("input/")}
    own, same_scale = run_op(OP, inputs, attrs), run_op(OP, inputs, attrs, activation_scale="onnxruntime")
    for name in ("Y", "Y_h", "Y_c"):
        assert_close(same_scale[name], arrays[f"output/{name}"], name=name)
        assert_close(own[name], arrays[f"output/{name}"], "int8", name)


def test_there_are_golden_files() -> None:
    assert len(GOLDEN) == 2


GIVEN = random_inputs()
ERRORS = {
    "X": ({"X": GIVEN["X"].astype(np.float64)}, "X: expected an array of float32, got float64"),
    "W": ({"W": GIVEN["W"].astype(np.float32)}, "W: expected int8 or uint8"),
    "R": ({"R": GIVEN["R"].astype(np.uint8)}, "R: expected int8, as W is, got uint8"),
    "zero point": ({"R_zero_point": np.zeros(1, np.int32)}, "R_zero_point: expected int8, as W is, got int32"),
    "scale": ({"W_scale": np.ones(1)}, "W_scale: expected an array of float32, as X is, got float64"),
    "no scale": ({"W_scale": None}, "W_scale: expected an array, got none"),
    "no zero point": ({"R_zero_point": None}, "R_zero_point: expected an array, got none"),
    "not transposed": ({"W": GIVEN["W"].swapaxes(1, 2)}, "W: expected (1, 4, 20) for direction='forward'"),
    "R not transposed": ({"R": GIVEN["R"].swapaxes(1, 2)}, "W: expected (1, 4, 80) for direction='forward'"),
    "R's axes": ({"R": GIVEN["R"][0]}, "R: expected (num_directions, hidden_size, 4*hidden_size), got (5, 20)"),
    "scale's shape": ({"W_scale": np.ones((20,), np.float32)}, "W_scale: expected (1,) or (1, 20) for direction="),
    "zero point's shape": ({"R_zero_point": np.zeros((), np.int8)}, "R_zero_point: expected (1,) or (1, 20) for"),
    "scale of NaN": (
        {"R_scale": np.full(1, np.nan, np.float32)},
        "R_scale: expected finite numbers, got infinities or",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    change, message = ERRORS[name]
    with pytest.raises((TypeError, ValueError), match="^" + re.escape(message)):
        run_op(OP, GIVEN | change)


def test_errors_of_attributes() -> None:
    with pytest.raises(ValueError, match=r"attrs: expected DynamicQuantizeLSTM's .*, got layout"):
        run_op(OP, GIVEN, {"layout": 0})
    with pytest.raises(ValueError, match=r"inputs: expected LSTM's .*, got W_scale"):
        run_op("LSTM", dequantized(GIVEN) | {"W_scale": GIVEN["W_scale"]})
    with pytest.raises(ValueError, match="activation_scale: expected one of 'row', 'onnxruntime', got 'batch'"):
        run_op(OP, GIVEN, activation_scale="batch")
    with pytest.raises(ValueError, match="activation_scale: expected 'row' for LSTM, which rounds nothing"):
        run_op("LSTM", dequantized(GIVEN), activation_scale="onnxruntime")
    with pytest.raises(ValueError, match="op_type: expected one of 'RNN', 'GRU', 'LSTM', got 'DynamicQuantizeLSTM'"):
        run_grad(OP, GIVEN, {}, {})


# ---- Weights ---------------------------------------------------------------------------------------------------------


def test_to_onnx_of_frozen_layers() -> None:
    layer = LSTM(4, 5, num_layers=2, rng=0)
    plain = weights.to_onnx(layer)
    for a, b in zip(weights.to_onnx(layer.freeze()), plain, strict=True):
        assert_same(a, b)
    mixed = weights.to_onnx(layer.freeze(precision=("float32", "int8")))
    assert [tensors["W"].dtype.name for tensors in mixed] == ["float32", "int8"]
    assert_same(mixed[0], plain[0])
    assert [t["W"].dtype.name for t in weights.to_onnx(layer, precision=("int8", "float32"))] == ["int8", "float32"]
    # back to float32: the values that the weights of fewer bits have
    widened = weights.to_onnx(layer.freeze(precision="int8"), precision="float32")[0]
    int8 = weights.to_onnx(layer, precision="int8")[0]
    assert_same({"W": widened["W"], "R": widened["R"]}, {k: v for k, v in dequantized(int8).items() if k in "WR"})
    narrow = weights.to_onnx(layer.freeze(precision="bfloat16"))[0]["W"]
    assert narrow.dtype == np.float32
    assert not (narrow.view(np.uint32) & 0xFFFF).any()


def test_to_onnx_of_a_frozen_gru_that_replaces(rng: np.random.Generator) -> None:
    layer = GRU(4, 5, update_gate="replace", rng=0)
    (tensors,) = weights.to_onnx(layer.freeze(precision="bfloat16"))
    x = rng.standard_normal((6, 3, 4), np.float32)
    y, _ = weights.from_onnx(tensors, reset_after=True)(x)
    assert_close(y, weights.from_onnx(weights.to_onnx(layer)[0], reset_after=True)(x)[0], "bfloat16")


@pytest.mark.parametrize(
    ("layer", "precision", "message"),
    [
        (GRU(4, 5, rng=0), "int8", "precision: expected int8 of an LSTM only, as ONNX Runtime has it, got a GRU"),
        (RNN(4, 5, rng=0).freeze(precision="int8"), None, "precision: expected int8 of an LSTM only"),
        (LSTM(4, 5, rng=0), "bfloat16", "precision: expected float32 or int8, for ONNX has no such operators of"),
        (LSTM(4, 5, rng=0), "int4", "precision: expected one of 'float32', 'bfloat16', 'int8', got 'int4'"),
        (LSTM(4, 5, rng=0), 8, "precision: expected str, or a sequence of them, got int"),
        (LSTM(4, 5, dtype=np.float64, rng=0), "int8", "precision: expected one of 'float64', got 'int8'"),
        (LSTM(4, 5, proj_size=2, rng=0).freeze(), None, "layer: expected one that ONNX has, got a projection"),
        (LSTM(4, 5, learn_initial_state=True, rng=0).freeze(), None, "layer: expected one that ONNX has, got one with"),
    ],
    ids=str,
)  # fmt: skip
def test_errors_of_to_onnx(layer: Any, precision: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match="^" + re.escape(message)):
        weights.to_onnx(layer, precision=precision)


@pytest.mark.parametrize("convert", [weights.to_torch, weights.to_keras], ids=["torch", "keras"])
def test_others_take_no_frozen_layers(convert: Any) -> None:
    with pytest.raises(TypeError, match="layer: expected an RNN, LSTM or GRU, got Frozen"):
        convert(LSTM(4, 5, rng=0).freeze(precision="int8"))


def test_weights_that_are_not_finite() -> None:
    layer = LSTM(4, 5, rng=0)
    layer.params["weight_ih_l0"][0, 0] = np.inf
    with pytest.raises(ValueError, match="precision: expected finite weights for int8, got infinities or NaN"):
        weights.to_onnx(layer, precision="int8")
