"""fastrnn.onnx.run_op and run_grad: the specification's equations, spelled out number by number, and differences."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from differences import central_differences
from generators import LAYOUTS
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from running import output_of
from test_golden import FILES, Golden
from tolerances import assert_close

import fastrnn
from fastrnn import weights
from fastrnn.onnx import general, kernels, run_grad, run_op, spec
from fastrnn.pages import page

Arrays = dict[str, NDArray]

# ---- The oracle: one number at a time, written from the specification alone -----------------------------------------

SCALAR: dict[str, Callable[[float, float, float], float]] = {
    "Relu": lambda x, a, b: max(0.0, x),
    "Tanh": lambda x, a, b: math.tanh(x),
    "Sigmoid": lambda x, a, b: 1 / (1 + math.exp(min(-x, 700))),
    "Affine": lambda x, a, b: a * x + b,
    "LeakyRelu": lambda x, a, b: x if x >= 0 else a * x,
    "ThresholdedRelu": lambda x, a, b: x if x >= a else 0.0,
    "ScaledTanh": lambda x, a, b: a * math.tanh(b * x),
    "HardSigmoid": lambda x, a, b: min(max(a * x + b, 0.0), 1.0),
    "Elu": lambda x, a, b: x if x >= 0 else a * (math.exp(x) - 1),
    "Softsign": lambda x, a, b: x / (1 + abs(x)),
    "Softplus": lambda x, a, b: math.log(1 + math.exp(x)),
}
TAKES = {  # which have an alpha, a beta
    "Affine": (True, True), "LeakyRelu": (True, False), "ThresholdedRelu": (True, False), "ScaledTanh": (True, True),
    "HardSigmoid": (True, True), "Elu": (True, False),
}  # fmt: skip
DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
GATES = {"RNN": "i", "GRU": "zrh", "LSTM": "iofc"}


def spelled_out(
    op_type: str, inputs: Arrays, activations: list[tuple[str, float, float]], direction: str, clip: float = math.inf,
    linear_before_reset: int = 0, input_forget: int = 0,
) -> Arrays:  # fmt: skip
    """Outputs for layout 0 in float64; an activation for each of f, g, h of each direction."""
    X, W, R = inputs["X"], inputs["W"], inputs["R"]
    (T, B, I), (D, _, H), names = X.shape, R.shape, GATES[op_type]
    b = inputs.get("B", np.zeros((D, 2 * len(names) * H)))
    p = inputs.get("P", np.zeros((D, 3 * H)))
    Y = np.zeros((T, D, B, H))
    Y_h = np.array(inputs.get("initial_h", np.zeros((D, B, H))), np.float64)
    Y_c = np.array(inputs.get("initial_c", np.zeros((D, B, H))), np.float64)
    per = len(DEFAULTS[op_type])
    for d in range(D):
        acts = activations[d * per : (d + 1) * per]
        functions = [lambda x, a=a: SCALAR[a[0]](max(-clip, min(clip, x)), a[1], a[2]) for a in acts]
        f, g, last = [*functions, *[None] * (3 - per)]
        for row in range(B):
            length = int(inputs["sequence_lens"][row]) if "sequence_lens" in inputs else T
            backwards = direction == "reverse" or d == 1
            for t in reversed(range(length)) if backwards else range(length):
                x, h, c = X[t, row], list(Y_h[d, row]), list(Y_c[d, row])

                def from_x(gate: str, j: int, x: Any = x, d: int = d) -> float:
                    k = names.index(gate) * H + j
                    return sum(W[d, k, n] * x[n] for n in range(I)) + b[d, k]

                def from_h(gate: str, j: int, h: Any, bias: bool = True, d: int = d) -> float:
                    k = names.index(gate) * H + j
                    return sum(R[d, k, n] * h[n] for n in range(H)) + b[d, len(names) * H + k] * bias

                r = [f(from_x("r", j) + from_h("r", j, h)) for j in range(H)] if op_type == "GRU" else []
                for j in range(H):
                    if op_type == "RNN":
                        new = f(from_x("i", j) + from_h("i", j, h))
                    elif op_type == "GRU":
                        z = f(from_x("z", j) + from_h("z", j, h))
                        if linear_before_reset:
                            new = g(from_x("h", j) + r[j] * from_h("h", j, h))
                        else:
                            new = g(from_x("h", j) + from_h("h", j, [r[n] * h[n] for n in range(H)]))
                        new = (1 - z) * new + z * h[j]
                    else:
                        i = f(from_x("i", j) + from_h("i", j, h) + p[d, j] * c[j])
                        forget = f(from_x("f", j) + from_h("f", j, h) + p[d, 2 * H + j] * c[j])
                        forget = 1 - i if input_forget else forget
                        C = forget * c[j] + i * g(from_x("c", j) + from_h("c", j, h))
                        o = f(from_x("o", j) + from_h("o", j, h) + p[d, H + j] * C)
                        new = o * last(C)
                        Y_c[d, row, j] = C
                    Y[t, d, row, j] = Y_h[d, row, j] = new
    return {"Y": Y, "Y_h": Y_h} | ({"Y_c": Y_c} if op_type == "LSTM" else {})


def random_inputs(op_type: str, D: int, T: int, B: int, I: int, H: int, optional: set[str], seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    rows = len(GATES[op_type]) * H
    shapes = {
        "X": (T, B, I), "W": (D, rows, I), "R": (D, rows, H), "B": (D, 2 * rows), "P": (D, 3 * H),
        "initial_h": (D, B, H), "initial_c": (D, B, H),
    }  # fmt: skip
    # Small, for activations without bounds make of larger ones numbers that rounding is all of.
    arrays = {name: 0.3 * rng.standard_normal(shape) for name, shape in shapes.items()}
    arrays["sequence_lens"] = rng.integers(0, T + 1, B).astype(np.int32)
    wanted = {"X", "W", "R"} | (optional & set(spec.INPUTS[op_type]))
    return {name: a for name, a in arrays.items() if name in wanted}


def batch_first(arrays: Arrays) -> Arrays:
    """From layout 0 to layout 1, or back."""
    axes = {"Y": (2, 0, 1, 3), "X": (1, 0, 2)} | dict.fromkeys(("initial_h", "initial_c", "Y_h", "Y_c"), (1, 0, 2))
    return {name: np.ascontiguousarray(a.transpose(axes[name])) if name in axes else a for name, a in arrays.items()}


def assert_outputs(actual: Arrays, expected: Arrays) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(actual[name], value, "value", name)
        assert actual[name].flags.c_contiguous


@st.composite
def nodes(draw: Any, served: bool = False) -> tuple[str, Arrays, dict[str, Any], list[tuple[str, float, float]]]:
    """An operator, its inputs in layout 0, its attributes but for layout, and its activations with their values."""
    op_type = draw(st.sampled_from(("RNN", "GRU", "LSTM")))
    direction = draw(st.sampled_from(("forward", "reverse", "bidirectional")))
    D = 2 if direction == "bidirectional" else 1
    T, B, I, H = draw(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(1, 4), st.integers(1, 4)))
    optional = draw(st.sets(st.sampled_from(("B", "P", "sequence_lens", "initial_h", "initial_c"))))
    inputs = random_inputs(op_type, D, T, B, I, H, optional, draw(st.integers(0, 2**32 - 1)))
    attrs: dict[str, Any] = {"hidden_size": H} if draw(st.booleans()) else {}
    if direction != "forward" or draw(st.booleans()):
        attrs["direction"] = direction
    if op_type == "GRU":
        attrs["linear_before_reset"] = draw(st.sampled_from((0, 1)))
    names = DEFAULTS[op_type] * D
    if draw(st.booleans()):
        attrs["clip"] = draw(st.sampled_from((0.1, 0.5, 100.0, 1000.0)))
    if served:
        if op_type == "RNN":
            names = draw(st.lists(st.sampled_from(("Tanh", "Relu")), min_size=D, max_size=D))
            attrs["activations"] = names
        return op_type, inputs, attrs, [(name, 0.0, 0.0) for name in names]
    if op_type == "LSTM":
        attrs["input_forget"] = draw(st.sampled_from((0, 1)))
    values = st.sampled_from((0.125, 0.5, 1.25))
    activations = [(name, 0.0, 0.0) for name in names]
    if draw(st.booleans()):
        names = draw(st.lists(st.sampled_from(sorted(SCALAR)), min_size=len(names), max_size=len(names)))
        activations = [(name, draw(values), draw(values)) for name in names]
        attrs["activations"] = [draw(st.sampled_from((str, str.lower, str.upper, str.encode)))(name) for name in names]
        for k, key in ((0, "activation_alpha"), (1, "activation_beta")):
            consumed = [a[1 + k] for a in activations if TAKES.get(a[0], (False, False))[k]]
            one_for_each = [a[1 + k] for a in activations]
            attrs[key] = draw(st.sampled_from((consumed, one_for_each)))
    return op_type, inputs, attrs, activations


@given(nodes(), st.sampled_from((0, 1)))
def test_any_node(node: tuple[str, Arrays, dict[str, Any], list[tuple[str, float, float]]], layout: int) -> None:
    op_type, inputs, attrs, activations = node
    options = {name: attrs[name] for name in ("clip", "linear_before_reset", "input_forget") if name in attrs}
    expected = spelled_out(op_type, inputs, activations, attrs.get("direction", "forward"), **options)
    if layout:
        actual = run_op(op_type, batch_first(inputs), attrs | {"layout": 1})
        expected = batch_first(expected)
    else:
        actual = run_op(op_type, inputs, attrs)
    assert_outputs(actual, expected)


@given(nodes(served=True), st.sampled_from((np.float32, np.float64)))
def test_both_paths_agree(node: Any, dtype: Any) -> None:
    """On what the kernels have; and they do have it."""
    op_type, inputs, attrs, _ = node
    inputs = {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in inputs.items()}
    read = spec.read_node(op_type, attrs)
    assert kernels.obstacle(read, np.dtype(dtype)) == ""
    slow = general.run(spec.read_call(read, inputs))
    assert_outputs(kernels.run(spec.read_call(read, inputs)), slow)
    assert_outputs(run_op(op_type, inputs, attrs), slow)


@given(nodes(served=True), st.sampled_from((0, 1)), st.sets(st.sampled_from(("Y", "Y_h", "Y_c")), min_size=1))
def test_gradients(node: Any, layout: int, wanted: set[str]) -> None:
    """Against differences of the general path; of tanh only, for relu has a kink, and a clip has two."""
    op_type, inputs, attrs, _ = node
    smooth = {name: value for name, value in attrs.items() if name not in ("activations", "clip")}
    inputs, attrs = dict(inputs), smooth | {"layout": layout}
    inputs = batch_first(inputs) if layout else inputs
    read = spec.read_node(op_type, attrs)

    def outputs() -> Arrays:
        return general.run(spec.read_call(read, inputs))

    rng = np.random.default_rng(0)
    out_grads = {name: rng.standard_normal(a.shape) for name, a in outputs().items() if name in wanted}
    if not out_grads:
        return
    variables = {name: a for name, a in inputs.items() if a.dtype.kind == "f"}
    expected = (
        central_differences(
            lambda: np.array([sum((outputs()[name] * dy).sum() for name, dy in out_grads.items())]), variables
        )
        if all(a.size for a in variables.values())
        else {}
    )
    grads = run_grad(op_type, inputs, attrs, out_grads)
    assert list(grads) == [name for name in spec.INPUTS[op_type] if name in variables]
    for name, grad in grads.items():
        assert (grad.shape, grad.dtype) == (inputs[name].shape, inputs[name].dtype)
        if expected:
            assert_close(grad, expected[name][0], "difference", name)


@pytest.mark.parametrize("op_type", DEFAULTS)
def test_gradients_of_relu_and_of_wider_layers(op_type: str, engine: str) -> None:
    """As the layer's, which are tested elsewhere."""
    rng = np.random.default_rng(0)
    kwargs: dict[str, Any] = {"bidirectional": True, "rng": 0}
    attrs: dict[str, Any] = {"direction": "bidirectional"}
    if op_type == "RNN":
        kwargs["nonlinearity"], attrs["activations"] = "relu", ["Relu", "Relu"]
    if op_type == "GRU":
        attrs["linear_before_reset"] = 1
    layer = getattr(fastrnn, op_type)(17, 33, **kwargs)
    x, dy = rng.standard_normal((6, 5, 17), np.float32), rng.standard_normal((6, 2, 5, 33), np.float32)
    lengths = [6, 0, 3, 1, 5]
    (tensors,) = weights.to_onnx(layer)
    grads = run_grad(op_type, {"X": x, **tensors, "sequence_lens": lengths}, attrs, {"Y": dy})
    _, _, tape = layer.forward(x, lengths=lengths)
    expected = layer.backward(tape, dy.transpose(0, 2, 1, 3).reshape(6, 5, 66).copy())
    assert (grads["X"] == expected.x).all()
    params = layer.params
    layer.params = expected.params  # reordered as parameters are
    (by_name,) = weights.to_onnx(layer)
    layer.params = params
    for name, value in by_name.items():
        assert (grads[name] == value).all(), name


# ---- Other implementations' numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [p for p in FILES if p.name.startswith("onnx")], ids=lambda p: p.stem)
def test_golden_files(path: Any, engine: str) -> None:
    golden = Golden(path)
    layer, arrays = golden.layer(), golden.arrays
    cell = layer.cell
    attrs: dict[str, Any] = {"direction": "bidirectional" if layer.bidirectional else "forward"}
    attrs |= {attribute: int(cell.options[option]) for option, attribute in cell.onnx.attributes.items()}
    if cell.options.get("nonlinearity") == "relu":
        attrs["activations"] = ["Relu"] * (1 + layer.bidirectional)
    inputs = {"X": arrays["x"], **weights.to_onnx(layer)[0], "sequence_lens": golden.lengths}
    inputs |= {"initial_h": arrays["h0"], "initial_c": arrays.get("c0")}
    if not cell.has_c:
        del inputs["initial_c"]
    outputs = run_op(golden.config["cell"], inputs, attrs)
    y = outputs["Y"].transpose(0, 2, 1, 3)
    golden.check("output", "y", y.reshape(*y.shape[:2], -1))
    golden.check("output", "h_n", outputs["Y_h"])


# ---- Which path, dtypes, layouts ------------------------------------------------------------------------------------


def lstm_inputs(**changed: Any) -> dict[str, Any]:
    inputs = random_inputs("LSTM", 1, 5, 3, 2, 4, {"B", "initial_h", "initial_c", "P"}, 0)
    return {name: a.astype(np.float32) for name, a in inputs.items()} | changed


@pytest.mark.parametrize(
    ("attrs", "says"),
    [
        ({}, "kernels: packed"),
        ({"clip": 89.0}, "kernels: packed"),
        ({"clip": 2.5}, "kernels: packed"),
        ({"clip": 1e-40}, "general path: the kernels do not have clip=1e-40"),
        ({"input_forget": 1}, "kernels: packed"),
        (
            {"activations": ["Sigmoid", "Relu", "Tanh"]},
            "general path: the kernels do not have activations Sigmoid, Relu, Tanh",
        ),
    ],
)
def test_says_which_path(attrs: dict[str, Any], says: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "fastrnn.onnx")
    with fastrnn.engines.use("packed"):
        outputs = run_op("LSTM", lstm_inputs(), attrs, explain=True)
    assert outputs["explain"] == says
    assert set(outputs) == {"Y", "Y_h", "Y_c", "explain"}
    assert caplog.messages == [f"LSTM: {says}"]


def test_clip_that_cannot_be_felt() -> None:
    """Pre-activations of hundreds, clipped where the kernels run, are as the general path has them."""
    inputs = lstm_inputs(X=np.full((2, 3, 2), 500, np.float32), W=np.full((1, 16, 2), -1, np.float32))
    read = spec.read_node("LSTM", {"clip": 89.0})
    assert kernels.obstacle(read, np.dtype(np.float32)) == ""
    assert_outputs(run_op("LSTM", inputs, {"clip": 89.0}), general.run(spec.read_call(read, inputs)))


def test_activations_in_threes_and_twos() -> None:
    """The schema of RNN has two default names whatever the direction; one direction uses the first."""
    inputs = random_inputs("RNN", 1, 3, 2, 2, 3, set(), 0)
    expected = run_op("RNN", inputs, {"activations": ["Relu"]})
    assert_outputs(run_op("RNN", inputs, {"activations": ["Relu", "Tanh"]}), expected)


def test_values_of_activations() -> None:
    """Consumed in order by those that have them; defaults for the rest; as many as activations are one for each."""
    activations = ["HardSigmoid", "Tanh", "LeakyRelu"]

    def read(**attrs: Any) -> list[tuple[float, float]]:
        (functions,) = spec.read_node("LSTM", {"activations": activations, **attrs}).activations
        return [(function.alpha, function.beta) for function in functions]

    assert read() == [(0.2, 0.5), (0, 0), (0.01, 0)]
    assert read(activation_alpha=[0.3]) == [(0.3, 0.5), (0, 0), (0.01, 0)]
    assert read(activation_alpha=[0.3, 0.4], activation_beta=[0.6]) == [(0.3, 0.6), (0, 0), (0.4, 0)]
    assert [alpha for alpha, _ in read(activation_alpha=[0.3, 9, 0.4])] == [0.3, 0, 0.4]


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("attrs", [{}, {"activations": ["Sigmoid", "Relu", "Tanh"]}])
def test_halves_are_computed_in_float32(name: str, attrs: dict[str, Any]) -> None:
    if name == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: NumPy has no bfloat16")
    dtype = np.dtype(name)
    inputs = {key: a.astype(dtype) for key, a in lstm_inputs().items()}
    exact = {key: a.astype(np.float32) for key, a in inputs.items()}
    for key, value in run_op("LSTM", exact, attrs).items():
        actual = run_op("LSTM", inputs, attrs)[key]
        assert actual.dtype == dtype
        assert (actual == value.astype(dtype)).all()
    if not attrs:
        dy = np.ones((5, 1, 3, 4))
        grads = run_grad("LSTM", inputs, attrs, {"Y": dy.astype(dtype)})
        for key, value in run_grad("LSTM", exact, attrs, {"Y": dy.astype(np.float32)}).items():
            assert grads[key].dtype == dtype
            assert (grads[key] == value.astype(dtype)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("attrs", [{"layout": 0}, {"layout": 1}, {"activations": ["Sigmoid", "Relu", "Tanh"]}])
def test_memory_layouts(layout: str, attrs: dict[str, Any]) -> None:
    inputs = batch_first(lstm_inputs()) if attrs.get("layout") else lstm_inputs()
    before = {name: a.copy() for name, a in inputs.items()}
    laid_out = {name: LAYOUTS[layout](a) for name, a in inputs.items()}
    expected, actual = run_op("LSTM", inputs, attrs), run_op("LSTM", laid_out, attrs)
    for name, value in expected.items():
        assert (actual[name] == value).all()
        assert all(not np.may_share_memory(value, a) for a in inputs.values())
    if "activations" not in attrs:
        run_grad("LSTM", laid_out, attrs, {"Y_h": LAYOUTS[layout](expected["Y_h"])})
    for name, value in before.items():
        assert (inputs[name] == value).all(), "inputs are never modified"
        assert (laid_out[name] == value).all()


@pytest.mark.parametrize("attrs", [{}, {"activations": ["Sigmoid", "Tanh", "Relu"]}])
def test_nan_beyond_the_end_is_not_seen(attrs: dict[str, Any]) -> None:
    x = lstm_inputs()["X"].copy()
    x[2:, 1] = np.nan
    outputs = run_op("LSTM", lstm_inputs(X=x, sequence_lens=[5, 2, 0]), attrs)
    assert all(np.isfinite(a).all() for a in outputs.values())
    assert not outputs["Y"][2:, :, 1].any()
    assert (outputs["Y_h"][:, 2] == lstm_inputs()["initial_h"][:, 2]).all()


# ---- Errors ---------------------------------------------------------------------------------------------------------

W, R, B = (lstm_inputs()[name] for name in ("W", "R", "B"))
X = lstm_inputs()["X"]
ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "operator": (
        lambda: run_op("Gru", {}, {}), ValueError,
        "op_type: expected one of 'RNN', 'GRU', 'LSTM', 'DynamicQuantizeLSTM', got 'Gru'",
    ),
    "inputs": (lambda: run_op("LSTM", [X], {}), TypeError, "inputs: expected a mapping from names, got list"),
    "operator's type": (
        lambda: run_op(["GRU"], {}), TypeError,
        "op_type: expected one of 'RNN', 'GRU', 'LSTM', 'DynamicQuantizeLSTM', got list",
    ),
    "input's name": (lambda: run_op("LSTM", {3: X}), TypeError, "inputs: expected names that are str, got 3"),
    "no hidden units": (
        lambda: run_op("RNN", {"X": X, "W": np.ones((1, 0, 2), np.float32), "R": np.ones((1, 0, 0), np.float32)}),
        ValueError, "X, R: expected an input_size and a hidden_size of at least 1, got (5, 3, 2) and (1, 0, 0)",
    ),
    "unknown input": (
        lambda: run_op("GRU", {"X": X, "initial_c": X}, {}), ValueError,
        "inputs: expected GRU's X, W, R, B, sequence_lens, initial_h, got initial_c",
    ),
    "missing input": (lambda: run_op("LSTM", {"X": X, "W": W, "R": None}), ValueError, "R: expected an array, got"),
    "rank of X": (
        lambda: run_op("LSTM", lstm_inputs(X=X[0])), ValueError,
        "X: expected (seq_length, batch_size, input_size), got shape (3, 2)",
    ),
    "rank of X, layout 1": (
        lambda: run_op("LSTM", lstm_inputs(X=X[0]), {"layout": 1}), ValueError,
        "X: expected (batch_size, seq_length, input_size), got shape (3, 2)",
    ),
    "rank of R": (
        lambda: run_op("LSTM", lstm_inputs(R=R[0])), ValueError,
        "R: expected (num_directions, 4*hidden_size, hidden_size), got (16, 4)",
    ),
    "shape of W": (
        lambda: run_op("LSTM", lstm_inputs(W=W[:, :, :1])), ValueError,
        "W: expected (1, 16, 2) for direction='forward', hidden_size=4, X of shape (5, 3, 2), got (1, 16, 1)",
    ),
    "directions": (
        lambda: run_op("LSTM", lstm_inputs(), {"direction": "bidirectional"}), ValueError,
        "W: expected (2, 16, 2) for direction='bidirectional'",
    ),
    "hidden_size": (
        lambda: run_op("LSTM", lstm_inputs(), {"hidden_size": 5}), ValueError, "W: expected (1, 20, 2) for direction",
    ),
    "shape of B": (lambda: run_op("LSTM", lstm_inputs(B=B[:, :16])), ValueError, "B: expected (1, 32)"),
    "shape of P": (lambda: run_op("LSTM", lstm_inputs(P=B)), ValueError, "P: expected (1, 12)"),
    "shape of initial_h": (
        lambda: run_op("LSTM", lstm_inputs(), {"layout": 1}), ValueError, "initial_h: expected (5, 1, 4)",
    ),
    "dtype of X": (
        lambda: run_op("LSTM", lstm_inputs(X=X.astype(int))), TypeError,
        "X: expected an array of float32, float64, float16, bfloat16, got int64",
    ),
    "dtype of B": (
        lambda: run_op("LSTM", lstm_inputs(B=B.astype(np.float64))), TypeError,
        "B: expected an array of float32, as X is, got float64",
    ),
    "lengths": (
        lambda: run_op("LSTM", lstm_inputs(sequence_lens=[5, 6, 0])), ValueError,
        "sequence_lens: expected integers in 0..5, got 6",
    ),
    "dtype of lengths": (
        lambda: run_op("LSTM", lstm_inputs(sequence_lens=[5.0, 1, 0])), TypeError,
        "sequence_lens: expected integers, got float64",
    ),
    "unknown attribute": (
        lambda: run_op("RNN", lstm_inputs(), {"input_forget": 1}), ValueError, "attrs: expected RNN's activation_alpha",
    ),
    "direction": (
        lambda: run_op("LSTM", lstm_inputs(), {"direction": "backward"}), ValueError,
        "direction: expected one of 'forward', 'reverse', 'bidirectional', got 'backward'",
    ),
    "layout": (lambda: run_op("LSTM", lstm_inputs(), {"layout": 2}), ValueError, "layout: expected one of 0, 1, got 2"),
    "clip": (lambda: run_op("LSTM", lstm_inputs(), {"clip": 0.0}), ValueError, "clip: expected a number above 0"),
    "number of activations": (
        lambda: run_op("LSTM", lstm_inputs(), {"activations": ["Tanh"]}), ValueError,
        "activations: expected 3 names for 1 direction(s) of LSTM, got ['Tanh']",
    ),
    "activations": (
        lambda: run_op("RNN", lstm_inputs(), {"activations": ["Swish"]}), ValueError,
        "activations: expected names among Relu, Tanh, Sigmoid, Affine",
    ),
    "out_grads": (
        lambda: run_grad("LSTM", lstm_inputs(), {}, {"Z": X}), ValueError,
        "out_grads: expected one or more of Y, Y_h, Y_c, got Z",
    ),
    "no out_grads": (
        lambda: run_grad("LSTM", lstm_inputs(), {}, {"Y": None}), ValueError, "one or more of Y, Y_h, Y_c, got none",
    ),
    "shape of out_grads": (
        lambda: run_grad("LSTM", lstm_inputs(), {}, {"Y": X}), ValueError,
        "out_grads['Y']: expected (5, 1, 3, 4), got (5, 3, 2)",
    ),
    "dtype of out_grads": (
        lambda: run_grad("LSTM", lstm_inputs(), {}, {"Y_h": np.zeros((1, 3, 4))}), TypeError,
        "out_grads['Y_h']: expected an array of float32, as X is, got float64",
    ),
    "gradients of the general path": (
        lambda: run_grad("LSTM", lstm_inputs(), {"clip": 1e-40}, {"Y_h": np.zeros((1, 3, 4), np.float32)}),
        NotImplementedError, "run_grad: expected what the kernels have, got clip=1e-40, which only run_op has",
    ),
}  # fmt: skip


ATTRIBUTES: list[tuple[Any, str]] = [
    ([], "attrs: expected a mapping from names, got list"),
    (0, "attrs: expected a mapping from names, got int"),
    ({3: 1}, "attrs: expected names that are str, got 3"),
    ({"clip": "1"}, "clip: expected a number, got str"),
    ({"clip": [1.0]}, "clip: expected a number, got list"),
    ({"clip": True}, "clip: expected a number, got bool"),
    ({"clip": 10**400}, "clip: expected a number that a float can be, got a larger one"),
    ({"activations": "Tanh"}, "activations: expected a list, got str"),
    ({"activations": 3}, "activations: expected a list, got int"),
    ({"activations": ["Tanh", 3, None]}, "activations: expected str, got int"),
    ({"activation_alpha": 1.0}, "activation_alpha: expected a list, got float"),
    ({"activation_beta": [None]}, "activation_beta: expected a number, got NoneType"),
    ({"activation_beta": np.ones((1, 1))}, "activation_beta: expected a list, got ndarray"),
    ({"direction": 1}, "direction: expected str, got int"),
    ({"direction": b"\xff"}, "direction: expected one of 'forward', 'reverse', 'bidirectional', got"),
    ({"hidden_size": 4.0}, "hidden_size: expected an integer, got float"),
    ({"layout": "1"}, "layout: expected an integer, got str"),
    ({"input_forget": None, "layout": [1]}, "layout: expected an integer, got list"),
]


@pytest.mark.parametrize(("attrs", "message"), ATTRIBUTES, ids=repr)
def test_attributes_of_wrong_types(attrs: Any, message: str) -> None:
    for call in (lambda: run_op("LSTM", lstm_inputs(), attrs), lambda: run_grad("LSTM", lstm_inputs(), attrs, {})):
        with pytest.raises((TypeError, ValueError), match=re.escape(message)):
            call()


@pytest.mark.parametrize("what", ERRORS)
def test_errors(what: str) -> None:
    call, error, message = ERRORS[what]
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_imports_what_it_needs_and_no_more() -> None:
    """As if onnx were not there: operators run, the rest says what to install."""
    code = """
        import sys
        sys.modules["onnx"] = None
        import numpy as np, fastrnn
        assert "fastrnn.onnx" not in sys.modules
        from fastrnn.onnx import run_grad, run_op
        one = np.ones((1, 1, 1), np.float32)
        run_op("RNN", {"X": one, "W": one, "R": one}, {"activations": ["Elu"]})
        run_grad("RNN", {"X": one, "W": one, "R": one}, {}, {"Y_h": one})
        for name in ("ops", "load"):
            try:
                getattr(fastrnn.onnx, name)
            except ImportError as error:
                print(error)
    """
    assert output_of(code).splitlines() == [
        f'fastrnn.onnx.ops needs onnx: pip install "fastrnn[onnx]"; {page("how-to/onnx")}',
        f'fastrnn.onnx.load needs onnx: pip install "fastrnn[onnx]"; {page("how-to/onnx")}',
    ]
