"""fastrnn.onnx.session: whole models give what ONNX Runtime alone gives, however they are split, and streams go on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from running import run_python
from tolerances import assert_close

from fastrnn import GRU, LSTM, RNN, weights

onnx = pytest.importorskip("onnx", reason="onnx is not installed: no models to run")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: it runs most nodes of a model")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from fastrnn.onnx import run_op, session, spec, steps  # noqa: E402

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


# ---- Models ---------------------------------------------------------------------------------------------------------


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """A node; "-" is an input or output that is not there."""
    names = [[name.replace("-", "") for name in several.split()] for several in (inputs, outputs)]
    return helper.make_node(op_type, *names, **attributes)


def value(name: str, *shape: Any, dtype: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape or None)


def model_of(nodes: list[Any], inputs: list[Any], outputs: list[Any], arrays: dict[str, Any], **options: Any) -> Any:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **options)


def tensors(layer: Any, prefix: str = "", index: int = 0) -> dict[str, NDArray]:
    return {prefix + name: a for name, a in weights.to_onnx(layer)[index].items()}


def recurrent(layer: Any, source: str, outputs: str, prefix: str = "", states: str = "", **attributes: Any) -> Any:
    """A node with the weights of `tensors`."""
    options = {"direction": "bidirectional"} if layer.bidirectional else {}
    options |= {"linear_before_reset": 1} if isinstance(layer, GRU) else {}
    options |= {"hidden_size": layer.hidden_size, **attributes}
    return node(
        type(layer).__name__, f"{source} {prefix}W {prefix}R {prefix}B {states or '-'}", outputs, **options
    )  # fmt: skip


def exported(layer: Any, states: bool = False) -> Any:
    """A model as PyTorch's exporter writes it: a front, a layer with the batch first, and a linear layer.

    Without `states`, they are zeros of a size that is computed from x; with them, they are cut out of inputs.
    """
    L, D, H, has_c = layer.num_layers, 1 + layer.bidirectional, layer.hidden_size, isinstance(layer, LSTM)
    nodes = [node("MatMul", "x front", "front_out"), node("Relu", "front_out", "relu"),
             node("Transpose", "relu", "x0", perm=[1, 0, 2])]  # fmt: skip
    arrays: dict[str, Any] = {"front": np.eye(4, dtype="f"), "one": np.array([1]), "zero": np.array([0])}
    arrays |= {"merge": np.array([0, 0, -1]), "back": np.ones((D * H, 3), "f"), "LD": np.array([L * D])}
    arrays["H"] = np.array([H])
    if not states:
        nodes += [
            node("Shape", "x", "sizes"), node("Gather", "sizes zero", "B"),
            node("Concat", "LD B H", "state_sizes", axis=0), node("ConstantOfShape", "state_sizes", "h"),
        ]  # fmt: skip
    for k in range(L):
        arrays |= tensors(layer, f"l{k}", k) | {f"s{k}": np.array([k * D]), f"e{k}": np.array([k * D + D])}
        c = "c" if states else "h"
        nodes += [node("Slice", f"h s{k} e{k} zero", f"h{k}"), node("Slice", f"{c} s{k} e{k} zero", f"c{k}")]
        outputs = f"Y{k} Yh{k} Yc{k}" if has_c else f"Y{k} Yh{k}"
        nodes.append(recurrent(layer, f"x{k}", outputs, f"l{k}", f"- h{k} c{k}" if has_c else f"- h{k}"))
        if D == 1:
            nodes.append(node("Squeeze", f"Y{k} one", f"x{k + 1}"))
        else:
            nodes += [
                node("Transpose", f"Y{k}", f"t{k}", perm=[0, 2, 1, 3]),
                node("Reshape", f"t{k} merge", f"x{k + 1}"),
            ]
    nodes += [node("Transpose", f"x{L}", "y_last", perm=[1, 0, 2]), node("MatMul", "y_last back", "y")]
    inputs, results = [value("x", "B", "T", 4)], [value("y", "B", "T", 3)]
    if states:
        for role in ("h", "c")[: 1 + has_c]:
            nodes.append(node("Concat", " ".join(f"Y{role}{k}" for k in range(L)), f"{role}n", axis=0))
            inputs.append(value(role, L * D, "B", H))
            results.append(value(f"{role}n", L * D, "B", H))
    if not (states and has_c):
        nodes = [n for n in nodes if n.output[0] not in {f"c{k}" for k in range(L)} or (has_c and not states)]
    return model_of(nodes, inputs, results, arrays)


def runtime_of(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def compared(model: Any, feed: dict[str, NDArray], what: str = "value", **options: Any) -> Any:
    """A session whose outputs have been compared with ONNX Runtime's."""
    runtime, ours = runtime_of(model), session(model, **options)
    expected = runtime.run(None, feed)
    for _ in range(2):  # the second run uses what the first one has left
        for a, b, argument in zip(ours.run(None, feed), expected, runtime.get_outputs(), strict=True):
            assert a.dtype == b.dtype
            assert_close(a.astype(np.float32), b.astype(np.float32), what, argument.name)
    for own, theirs in ((ours.get_inputs(), runtime.get_inputs()), (ours.get_outputs(), runtime.get_outputs())):
        assert [(a.name, a.type) for a in own] == [(a.name, a.type) for a in theirs]
    assert [a.shape for a in ours.get_inputs()] == [a.shape for a in runtime.get_inputs()]
    return ours


def kinds(of: Any) -> list[str]:
    return [type(step).__name__ for step in of._steps]


def by(of: Any) -> dict[str, str]:
    return {name: runs_in for name, _, runs_in, *_ in of.nodes}


@pytest.fixture
def x(rng: np.random.Generator) -> NDArray:
    return rng.standard_normal((6, 3, 4), np.float32)


def layers() -> list[Any]:
    return [
        LSTM(4, 5, num_layers=3, rng=0), LSTM(4, 3, num_layers=2, bidirectional=True, rng=0),
        GRU(4, 5, num_layers=2, rng=0), GRU(4, 3, num_layers=2, bidirectional=True, rng=0), RNN(4, 5, rng=0),
    ]  # fmt: skip


# ---- Whole models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 7])
@pytest.mark.parametrize("layer", layers(), ids=repr)
def test_as_exporters_write_models(layer: Any, T: int, rng: np.random.Generator) -> None:
    """All layers are one, nothing is computed for states of zeros, and two pieces are left."""
    ours = compared(exported(layer), {"x": rng.standard_normal((2, T, 4), np.float32)})
    assert [kind for kind in kinds(ours) if kind != "_Move"] == ["Dense", "Layers", "Dense"]
    assert set(by(ours).values()) == {"fastrnn"}


@pytest.mark.parametrize("T", [1, 7])
@pytest.mark.parametrize("layer", layers(), ids=repr)
def test_states_as_inputs_and_outputs(layer: Any, T: int, rng: np.random.Generator) -> None:
    feed = {"x": rng.standard_normal((2, T, 4), np.float32)}
    for role in ("h", "c")[: 1 + isinstance(layer, LSTM)]:
        feed[role] = rng.standard_normal(
            (layer.num_layers * (1 + layer.bidirectional), 2, layer.hidden_size), np.float32
        )
    ours = compared(exported(layer, states=True), feed)
    assert [kind for kind in kinds(ours) if kind != "_Move"] == ["Dense", "Layers", "Dense"]


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [
        (["MatMul a w p", "Add p b q", "Relu q y"], "Dense"),
        (["MatMul a w p", "Add b p y"], "Dense"),
        (["Relu a p", "MatMul p w q", "Relu q y", "MatMul p v z"], "Dense"),  # p is used twice
        (["MatMul a w p", "Relu p y", "Relu p z"], "Dense"),  # and here, so that it stays as it is
        (["MatMul a w y", "Relu y z"], "Dense"),  # an output stays as it is, too
        (["MatMul a w p", "Add p one y"], "Part"),  # one number for all units
        (["MatMul a w p", "Add p p y"], "Part"),
        (["MatMul a a2 y"], "Part"),  # no constant
        (["Sigmoid a y"], "Part"),
        (["MatMul a large p", "ReduceSum p y"], "Part"),
        (["MatMul a large y"], "Part"),
    ],
)
def test_small_linear_layers_and_relu_are_no_calls_of_onnxruntime(
    nodes: list[str], kind: str, rng: np.random.Generator
) -> None:
    words = [text.split() for text in nodes]
    given = [node(op_type, " ".join(inputs), output) for op_type, *inputs, output in words]
    outputs = [name for *_, name in words if name in "yz"]
    shapes = {"w": (5, 6), "v": (5, 7), "b": (6,), "one": (1,)}
    arrays = {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}
    arrays |= {"large": np.ones((5, 1 << 18), "f")} if "large" in nodes[0] else {}
    layer = GRU(4, 5, rng=0)
    front = [recurrent(layer, "X", "Y"), node("Squeeze", "Y axis", "a"), node("Transpose", "a", "a2", perm=[0, 2, 1])]
    model = model_of(
        front + given, [value("X", "T", "B", 4)], [value(name) for name in outputs],
        arrays | tensors(layer) | {"axis": np.array([1])},
    )  # fmt: skip
    ours = compared(model, {"X": rng.standard_normal((6, 6, 4)).astype("f")})
    assert [name for name in kinds(ours) if name in ("Dense", "Part")] == [kind]


def test_a_small_linear_layer_says_what_it_expected(x: NDArray) -> None:
    arrays = {"w": np.ones((3, 4), "f")} | tensors(GRU(4, 5, rng=0))
    nodes = [node("MatMul", "x w", "X"), recurrent(GRU(4, 5, rng=0), "X", "Y")]
    ours = session(model_of(nodes, [value("x", "T", "B", "I")], [value("Y")], arrays))
    assert kinds(ours) == ["Dense", "Layers"]
    with pytest.raises(ValueError, match=r"MatMul with w: expected \(\.\.\., 3\), got shape \(7, 2, 4\)"):
        ours.run(None, {"x": np.ones((7, 2, 4), "f")})
    (y,) = ours.run(None, {"x": np.ones((0, 2, 3), "f")})
    assert y.shape == (0, 1, 2, 5)


def test_a_model_of_recurrent_nodes_alone_needs_no_piece(x: NDArray) -> None:
    layer = LSTM(4, 5, rng=0)
    model = model_of(
        [recurrent(layer, "X", "Y H C")], [value("X", "T", "B", 4)], [value("Y"), value("C")], tensors(layer)
    )
    assert kinds(compared(model, {"X": x})) == ["Layers"]


@pytest.mark.parametrize("outputs", ["Y H", "- H"])
def test_lengths_directions_and_outputs_that_are_not_used(outputs: str, x: NDArray) -> None:
    layer = GRU(4, 5, bidirectional=True, rng=0)
    nodes, results = [recurrent(layer, "X", outputs, "", "L")], [value("H")]
    if "Y" in outputs:
        nodes.append(node("Shape", "Y", "sizes"))
        results.append(value("sizes", dtype=INT64))
    model = model_of(nodes, [value("X", "T", "B", 4), value("L", "B", dtype=INT32)], results, tensors(layer))
    compared(model, {"X": x, "L": np.array([6, 2, 4], np.int32)})


def test_a_layer_that_starts_from_the_final_state_of_the_one_below(x: NDArray) -> None:
    """They look like a stack, and cannot be one layer."""
    lower, upper = LSTM(4, 5, rng=0), LSTM(5, 5, rng=1)
    nodes = [
        recurrent(lower, "X", "Y H C", "a"), node("Squeeze", "Y one", "S"),
        recurrent(upper, "S", "Y2 H2", "b", "- H C"),
    ]  # fmt: skip
    arrays = {**tensors(lower, "a"), **tensors(upper, "b"), "one": np.array([1])}
    ours = compared(model_of(nodes, [value("X", "T", "B", 4)], [value("Y2"), value("H2")], arrays), {"X": x})
    assert kinds(ours).count("Layers") == 2
    with pytest.raises(
        ValueError, match=r"stream: expected recurrent nodes whose .* Y2 starts from a state that the model computes"
    ):
        ours.stream()


@pytest.mark.parametrize("flag", [True, False])
def test_what_stays_with_onnxruntime(flag: bool, x: NDArray) -> None:
    """Nodes in bodies, other activations, weights that are computed; with the reason."""
    layer = GRU(4, 5, rng=0)
    branches = {
        "then_branch": helper.make_graph([recurrent(layer, "X", "inner")], "then", [], [value("inner")]),
        "else_branch": helper.make_graph([node("Mul", "Z Z", "other")], "else", [], [value("other")]),
    }
    nodes = [
        recurrent(layer, "X", "Z"), node("If", "flag", "Q", **branches),
        recurrent(layer, "X", "hard", activations=["HardSigmoid", "Tanh"]),
        node("Mul", "W two", "W2"), node("GRU", "X W2 R B", "loose", hidden_size=5),
    ]  # fmt: skip
    names = ["Z", "Q", "hard", "loose"]
    inputs = [value("X", "T", "B", 4), value("flag", dtype=TensorProto.BOOL), value("two", 1)]
    feed = {"X": x, "flag": np.array(flag), "two": np.array([2], np.float32)}
    ours = compared(model_of(nodes, inputs, [value(name) for name in names], tensors(layer)), feed)
    assert by(ours) == {"Z": "fastrnn", "inner": "onnxruntime", "hard": "onnxruntime", "loose": "onnxruntime"}
    reasons = {name: reason for name, _, _, reason, _ in ours.nodes}
    assert reasons["inner"] == "it is in a body of If"
    assert reasons["hard"] == "the kernels do not have activations HardSigmoid, Tanh"
    assert reasons["loose"].startswith("W is not constant")
    assert kinds(ours) == ["Layers", "Part"]


def test_clip(x: NDArray) -> None:
    """Where both mean the same by it: ONNX Runtime does not clip an LSTM's C before its tanh."""
    gru, lstm = GRU(4, 5, rng=0), LSTM(5, 5, rng=1)
    nodes = [
        recurrent(gru, "X", "Y", "a", clip=0.3), node("Squeeze", "Y one", "S"),
        recurrent(lstm, "S", "Z", "b", clip=0.3),
    ]  # fmt: skip
    arrays = {**tensors(gru, "a"), **tensors(lstm, "b"), "one": np.array([1])}
    ours = compared(model_of(nodes, [value("X", "T", "B", 4)], [value("Z")], arrays), {"X": x})
    assert by(ours) == {"Y": "fastrnn", "Z": "onnxruntime"}


def test_a_model_without_a_node_for_fastrnn(x: NDArray) -> None:
    layer = GRU(4, 5, rng=0)
    odd = recurrent(layer, "X", "Y", activations=["HardSigmoid", "Tanh"])
    ours = compared(model_of([odd], [value("X", "T", "B", 4)], [value("Y")], tensors(layer)), {"X": x})
    assert kinds(ours) == ["Part"]
    with pytest.raises(ValueError, match="Y is run by ONNX Runtime, which keeps no state"):
        ours.stream()


def test_float16(x: NDArray) -> None:
    layer, half = LSTM(4, 5, rng=0), TensorProto.FLOAT16
    arrays = {name: a.astype(np.float16) for name, a in tensors(layer).items()}
    nodes = [recurrent(layer, "X", "Y H C"), node("Add", "Y Y", "Q")]
    outputs = [value(name, dtype=half) for name in ("Q", "H")]
    compared(
        model_of(nodes, [value("X", "T", "B", 4, dtype=half)], outputs, arrays), {"X": x.astype(np.float16)}, "bfloat16"
    )


@pytest.mark.parametrize("precision", ["int8", "bfloat16", "float32"])
def test_precision(precision: str, x: NDArray) -> None:
    layer = LSTM(4, 5, rng=0)
    model = model_of([recurrent(layer, "X", "Y")], [value("X", "T", "B", 4)], [value("Y")], tensors(layer))
    what = "value" if precision == "float32" else precision
    (actual,) = compared(model, {"X": x}, what, precision=precision).run(None, {"X": x})
    assert (actual[:, 0] == layer.freeze(precision)(x)[0]).all()


def test_weights_of_integers(x: NDArray) -> None:
    layer = LSTM(4, 5, rng=0)
    (arrays,) = weights.to_onnx(layer, precision="int8")
    inputs = " ".join(name if name == "X" or name in arrays else "-" for name in spec.INPUTS["DynamicQuantizeLSTM"])
    quantized = node("DynamicQuantizeLSTM", inputs, "Y", domain="com.microsoft", hidden_size=5)
    model = model_of([quantized, node("Neg", "Y", "Q")], [value("X", "T", "B", 4)], [value("Q")], arrays)
    assert by(compared(model, {"X": x}, "int8")) == {"Y": "fastrnn"}


def test_outputs_have_memory_of_their_own(x: NDArray) -> None:
    layer = LSTM(4, 5, rng=0)
    nodes = [recurrent(layer, "X", "Y H"), node("Squeeze", "Y one", "S"), node("Identity", "X", "same")]
    names = ["Y", "S", "same", "H"]
    arrays = {**tensors(layer), "one": np.array([1])}
    outputs = [*(value(name) for name in names), value("one", 1, dtype=INT64)]
    ours = compared(model_of(nodes, [value("X", "T", "B", 4)], outputs, arrays), {"X": x})
    results = [*ours.run([*names, "one"], {"X": x}), x]
    for k, a in enumerate(results):
        assert a.flags.c_contiguous
        assert not any(np.shares_memory(a, other) for other in results[:k])
    results[-2][0] = 2
    assert ours.run(["one"], {"X": x})[0] == 1


def test_the_batch_first_in_a_node(x: NDArray) -> None:
    """Layout 1, which ONNX Runtime does not have: against the same model without it."""
    layer = LSTM(4, 5, bidirectional=True, rng=0)
    inputs = [value("X", "B", "T", 4), value("h", "B", 2, 5), value("c", "B", 2, 5)]
    first = recurrent(layer, "X", "Y H C", "", "- h c", layout=1)
    model = model_of([first], inputs, [value(n) for n in "YHC"], tensors(layer))
    h, c = x[:3, :2, :1].repeat(5, 2), x[3:, :2, :1].repeat(5, 2)
    states = {"initial_h": h.swapaxes(0, 1), "initial_c": c.swapaxes(0, 1)}
    expected = run_op("LSTM", {"X": x, **tensors(layer), **states}, {"direction": "bidirectional"})
    actual = session(model).run(None, {"X": x.swapaxes(0, 1), "h": h, "c": c})
    assert_close(actual[0], expected["Y"].transpose(2, 0, 1, 3))
    assert_close(actual[1], expected["Y_h"].swapaxes(0, 1))
    assert_close(actual[2], expected["Y_c"].swapaxes(0, 1))


def mixed() -> Any:
    """A residual around a recurrent node, which starts from constants, with weights behind a node."""
    layer, rng = LSTM(4, 5, rng=0), np.random.default_rng(0)
    arrays: dict[str, Any] = tensors(layer)
    arrays |= {"Wt": arrays.pop("W").swapaxes(1, 2).copy(), "one": np.array([1])}
    arrays |= {"h0": rng.standard_normal((1, 3, 5), np.float32), "M": rng.standard_normal((4, 5), np.float32)}
    nodes = [
        node("Transpose", "Wt", "W", perm=[0, 2, 1]), node("Relu", "X", "positive"),
        recurrent(layer, "positive", "Y H C", "", "- h0 h0", name="rnn"), node("Squeeze", "Y one", "S"),
        node("MatMul", "positive M", "other"), node("Add", "S other", "O"),
    ]  # fmt: skip
    return model_of(nodes, [value("X", "T", 3, 4)], [value("O"), value("C")], arrays)


def test_tensors_in_a_file_of_their_own(x: NDArray, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(mixed(), path, save_as_external_data=True, size_threshold=60, location="tensors")
    compared(path, {"X": x})


def test_tensors_that_a_serialized_model_cannot_hold(x: NDArray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MOST_BYTES", 10)
    monkeypatch.setattr(steps, "SMALL_BYTES", 32)
    compared(mixed(), {"X": x})
    with pytest.raises(ValueError, match="sess_options: expected None for a model with more than 10 bytes of tensors"):
        session(mixed(), sess_options=onnxruntime.SessionOptions())


def test_memory_that_layers_may_take(x: NDArray) -> None:
    ours = compared(mixed(), {"X": x}, max_bytes=1500)
    assert by(ours) == {"rnn": "onnxruntime"}
    assert "give max_bytes=" in ours.nodes[0].reason


@settings(max_examples=12)
@given(data=st.data())
def test_any_split(data: st.DataObject) -> None:
    """Random graphs of recurrent and other nodes."""
    layer, both = GRU(4, 4, rng=0), LSTM(4, 2, bidirectional=True, rng=0)
    arrays: dict[str, Any] = {
        **tensors(layer, "g"), **tensors(both, "l"), "one": np.array([1]), "merge": np.array([0, 0, 4]),
        "M": np.eye(4, dtype="f") / 2,
    }  # fmt: skip
    nodes, values, states = [], ["X"], []
    for k in range(data.draw(st.integers(1, 7))):
        kind = data.draw(st.sampled_from(["GRU", "GRU", "LSTM", "MatMul", "Add", "Tanh", "Transpose", "Concat"]))
        source, other, name = data.draw(st.sampled_from(values)), data.draw(st.sampled_from(values)), f"v{k}"
        if kind == "GRU":
            start = data.draw(st.sampled_from(["", *states]))
            nodes += [
                recurrent(layer, source, f"Y{k} H{k}", "g", start and f"- {start}"),
                node("Squeeze", f"Y{k} one", name),
            ]
            states.append(f"H{k}")
        elif kind == "LSTM":
            nodes += [recurrent(both, source, f"Y{k}", "l"), node("Transpose", f"Y{k}", f"t{k}", perm=[0, 2, 1, 3]),
                      node("Reshape", f"t{k} merge", name)]  # fmt: skip
        elif kind == "Transpose":
            nodes += [node(kind, source, f"t{k}", perm=[1, 0, 2]), node(kind, f"t{k}", name, perm=[1, 0, 2])]
        elif kind == "Concat" and states:
            pair = f"{data.draw(st.sampled_from(states))} {data.draw(st.sampled_from(states))}"
            nodes += [node(kind, pair, f"c{k}", axis=0), node("ReduceMean", f"c{k}", f"m{k}", axes=[0], keepdims=1),
                      node("Add", f"{source} m{k}", name)]  # fmt: skip
        else:
            inputs = {"MatMul": f"{source} M", "Add": f"{source} {other}"}.get(kind, source)
            nodes.append(node("Tanh" if kind == "Concat" else kind, inputs, name))
        values.append(name)
    outputs = data.draw(st.lists(st.sampled_from(values[1:] + states), min_size=1, max_size=3, unique=True))
    model = model_of(nodes, [value("X", "T", "B", 4)], [value(name) for name in outputs], arrays)
    compared(model, {"X": np.random.default_rng(0).standard_normal((5, 2, 4), np.float32)})


# ---- Streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("states", [False, True], ids=["inside", "inputs"])
@pytest.mark.parametrize("layer", [LSTM(4, 5, num_layers=2, rng=0), GRU(4, 5, num_layers=2, rng=0)], ids=repr)
def test_a_stream_gives_what_one_run_gives(layer: Any, states: bool, x: NDArray) -> None:
    """To the bit, whatever the cuts; rows can be reset, and states taken and given back."""
    ours = session(exported(layer, states))
    x = x.swapaxes(0, 1)
    roles = ("h", "c")[: 1 + isinstance(layer, LSTM)] if states else ()
    zeros = {role: np.zeros((2, 3, 5), np.float32) for role in roles}
    (whole,) = ours.run(["y"], {"x": x, **zeros})
    stream = ours.stream(3)
    for cuts in ((1, 2, 3), (1, 1, 1, 1, 1, 1), (6,)):
        parts, at = [], 0
        for count in cuts:
            parts += stream.run(None, {"x": x[:, at : at + count]})
            at += count
        assert (np.concatenate(parts, axis=1) == whole).all()
        stream.reset()
    stream.run(None, {"x": x[:, :2]})
    kept = stream.state
    stream.reset([1])
    (y,) = stream.run(["y"], {"x": x[:, [2]]})
    assert (y[[0, 2]] == whole[[0, 2], 2:3]).all()
    stream.reset()
    stream.state = kept
    (y,) = stream.run(["y"], {"x": x[:, [2]]})
    assert (y == whole[:, 2:3]).all()
    assert list(kept) == (list(roles) if states else [f"Y0.{role}" for role in ("h", "c")[: len(kept)]])


def test_a_stream_from_constants_and_one_with_lengths(x: NDArray) -> None:
    ours = session(mixed())
    (whole,), stream = ours.run(["O"], {"X": x}), ours.stream(3)
    assert (np.concatenate([stream.run(["O"], {"X": x[k : k + 2]})[0] for k in (0, 2, 4)]) == whole).all()
    layer = GRU(4, 5, rng=0)
    inputs = [value("X", "T", "B", 4), value("L", "B", dtype=INT32)]
    stream = session(model_of([recurrent(layer, "X", "Y H", "", "L")], inputs, [value("H")], tensors(layer))).stream(3)
    stream.run(None, {"X": x, "L": np.array([6, 0, 2], np.int32)})
    (h,) = stream.run(None, {"X": x, "L": np.array([0, 6, 3], np.int32)})
    series = [x, x, np.concatenate([x[:2], x[:4]])]
    for row, length in enumerate((6, 6, 5)):
        assert_close(h[0, row], layer(series[row][:length, row])[1][0])


def test_more_states_than_those_of_recurrent_nodes(x: NDArray) -> None:
    """A sum over time that the model hands on itself."""
    layer = GRU(4, 5, rng=0)
    nodes = [
        recurrent(layer, "X", "Y"), node("ReduceSum", "X zero", "now", keepdims=0), node("Add", "now sum", "sum_out"),
    ]  # fmt: skip
    inputs, outputs = [value("X", "T", "B", 4), value("sum", "B", 4)], [value("Y"), value("sum_out", "B", 4)]
    ours = session(model_of(nodes, inputs, outputs, {**tensors(layer), "zero": np.array([0])}))
    stream = ours.stream(3, states={"sum": "sum_out"})
    for k in range(0, 6, 2):
        (y,) = stream.run(None, {"X": x[k : k + 2]})
    assert_close(stream.state["sum"], x.sum(0))
    assert_close(y[:, 0], layer(x)[0][4:])
    stream.reset([0])
    assert (stream.state["sum"][0] == 0).all()
    assert (stream.state["sum"][1] != 0).all()


def test_errors_of_streams(x: NDArray) -> None:
    ours = session(exported(LSTM(4, 5, rng=0), states=True))
    stream, x = ours.stream(2), x.swapaxes(0, 1)
    with pytest.raises(ValueError, match="input_feed: expected no value for h, which the stream carries, got one"):
        stream.run(None, {"x": x[:2], "h": np.zeros((1, 2, 5), np.float32)})
    stream.run(None, {"x": x[:2]})
    before = stream.state
    with pytest.raises(ValueError, match=r"expected float32 of shape \(1, 3, 5\), got float32 of \(1, 2, 5\)"):
        stream.run(None, {"x": x})
    assert all((before[name] == a).all() for name, a in stream.state.items())
    with pytest.raises(ValueError, match="state: expected h, c, got h"):
        stream.state = {"h": before["h"]}
    with pytest.raises(ValueError, match=r"state\['c'\]: expected \(1, 2, 5\), got \(1, 3, 5\)"):
        stream.state = before | {"c": np.zeros((1, 3, 5), np.float32)}
    with pytest.raises(IndexError, match="rows"):
        stream.reset([2])
    with pytest.raises(ValueError, match="batch_size"):
        ours.stream(0)
    with pytest.raises(ValueError, match="states: expected outputs among y, hn, cn, got 'z'"):
        ours.stream(states={"h": "z"})
    with pytest.raises(ValueError, match="expected recurrent nodes whose states can be carried: Y0 starts at the end"):
        session(exported(GRU(4, 3, bidirectional=True, rng=0))).stream()
    inside = session(exported(LSTM(4, 5, rng=0))).stream(2)
    with pytest.raises(ValueError, match="Y0: X: expected a batch of 2, got 3"):
        inside.run(None, {"x": x})
    with stream._alone(), pytest.raises(RuntimeError, match="in use by another thread"):
        stream.run(None, {"x": x[:2]})


# ---- Callers --------------------------------------------------------------------------------------------------------


def test_several_threads_run_one_session(x: NDArray) -> None:
    ours = session(exported(LSTM(4, 5, num_layers=2, rng=0)))
    series = [x[:T].swapaxes(0, 1) for T in (1, 3, 6)]
    expected = [ours.run(None, {"x": part})[0] for part in series]
    wrong: list[int] = []

    def call(k: int) -> None:
        stream = ours.stream(3)
        for _ in range(20):
            if (ours.run(None, {"x": series[k]})[0] != expected[k]).any():
                wrong.append(k)
            stream.reset()
            if (stream.run(None, {"x": series[0]})[0] != expected[0]).any():
                wrong.append(k)

    threads = [threading.Thread(target=call, args=(k % 3,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_errors_of_arguments(x: NDArray) -> None:
    ours = session(exported(LSTM(4, 5, rng=0)))
    x = x.swapaxes(0, 1)
    for feed, error, match in (
        (3, TypeError, "input_feed: expected a mapping from names, got int"),
        ({}, ValueError, "input_feed: expected a value for 'x', got none"),
        ({"x": x, "z": x}, ValueError, "input_feed: expected names among x, got z"),
        ({"x": x.astype(np.float64)}, TypeError, "x: expected an array of float32, got float64"),
        ({"x": x[0]}, ValueError, r"x: expected \(B, T, 4\), got \(6, 4\)"),
        ({"x": x[:, :, :3]}, ValueError, r"x: expected \(B, T, 4\), got \(3, 6, 3\)"),
    ):
        with pytest.raises(error, match=match):
            ours.run(None, feed)
    assert_close(ours.run(None, {"x": x.tolist()})[0], ours.run(["y"], {"x": x})[0])
    with pytest.raises(ValueError, match="output_names: expected names among y, got 'z'"):
        ours.run(["z"], {"x": x})
    with pytest.raises(TypeError, match="output_names"):
        ours.run("y", {"x": x})
    with pytest.raises(TypeError, match=r"model: expected an onnx.ModelProto or a path, got bytes"):
        session(b"")
    with pytest.raises(TypeError, match=r"sess_options: expected onnxruntime.SessionOptions, got int"):
        session(mixed(), sess_options=3)
    with pytest.raises(ValueError, match="precision"):
        session(mixed(), precision="int4")


def test_damaged_models(tmp_path: Path) -> None:
    """A ValueError that names the path; ONNX Runtime says what it does not like of its pieces."""
    path = tmp_path / "model.onnx"
    for change, match in (("cut", "protobuf"), ("nowhere", "'nowhere' is nowhere given"), ("circle", "on themselves"),
                          ("operator", "NoSuchOperator")):  # fmt: skip
        model = mixed()
        if change == "nowhere":
            model.graph.node[1].input[0] = "nowhere"
        elif change == "circle":
            model.graph.node[1].input[0] = "O"
        elif change == "operator":
            model.graph.node[1].op_type = "NoSuchOperator"
        path.write_bytes(model.SerializeToString()[: 100 if change == "cut" else None])
        with pytest.raises(ValueError, match=match) as caught:
            session(path)
        assert str(path) in str(caught.value)


def test_two_nodes_that_give_the_same_name(x: NDArray) -> None:
    """A fuzzer found that this took forever."""
    model = mixed()
    model.graph.node.append(model.graph.node[2])
    assert len(session(model).run(["C"], {"X": x})) == 1


def test_without_onnxruntime() -> None:
    code = "import sys; sys.modules['onnxruntime'] = None; import fastrnn.onnx; fastrnn.onnx.session"
    message = 'ImportError: fastrnn.onnx.session needs onnxruntime: pip install "fastrnn[onnxruntime]"; https://'
    assert message in run_python(code).stderr
