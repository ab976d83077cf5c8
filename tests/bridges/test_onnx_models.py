"""fastrnn.onnx with models: ONNX's own node cases, whole models by ReferenceEvaluator, and their nodes as layers."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tolerances import assert_close

import fastrnn
from fastrnn import GRU, LSTM, RNN, weights

onnx = pytest.importorskip("onnx", reason="onnx is not installed: no models to run")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.inliner import inline_local_functions  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from fastrnn.onnx import load, ops, run_op, spec  # noqa: E402

FLOAT = TensorProto.FLOAT
RECURRENT = ("RNN", "GRU", "LSTM")


# ---- ONNX's node cases ----------------------------------------------------------------------------------------------

NODE_CASES = (
    "test_gru_batchwise", "test_gru_bidirectional", "test_gru_defaults", "test_gru_reverse", "test_gru_seq_length",
    "test_gru_with_initial_bias", "test_lstm_batchwise", "test_lstm_bidirectional", "test_lstm_defaults",
    "test_lstm_reverse", "test_lstm_with_initial_bias", "test_lstm_with_peepholes", "test_rnn_seq_length",
    "test_simple_rnn_batchwise", "test_simple_rnn_bidirectional", "test_simple_rnn_defaults",
    "test_simple_rnn_reverse", "test_simple_rnn_with_initial_bias",
)  # fmt: skip


@pytest.fixture(scope="module")
def node_cases() -> dict[str, Any]:
    """Cases of onnx.backend.test that have a recurrent node. Making all cases takes seconds."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    return {case.name: case for case in cases if any(node.op_type in RECURRENT for node in case.model.graph.node)}


@pytest.mark.parametrize("name", NODE_CASES)
def test_node_case(name: str, node_cases: dict[str, Any]) -> None:
    if name not in node_cases:
        pytest.skip(f"onnx {onnx.__version__} has no such case")
    case = node_cases[name]
    for inputs, outputs in case.data_sets:
        model = ReferenceEvaluator(case.model, new_ops=ops)
        actual = model.run(None, dict(zip(model.input_names, inputs, strict=True)))
        for a, b in zip(actual, outputs, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # theirs: 1e-3 and 1e-7


def test_node_cases_are_all(node_cases: dict[str, Any]) -> None:
    missing = node_cases.keys() - set(NODE_CASES)
    assert not missing, f"onnx {onnx.__version__} has more cases: {sorted(missing)}"


# ---- Models ---------------------------------------------------------------------------------------------------------


def value(name: str, *shape: Any, dtype: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape or None)


def node_of(layer: Any, index: int, source: str, outputs: list[str], **options: Any) -> tuple[Any, list[Any]]:
    """A node for one layer of a fastrnn layer, and its initializers."""
    cell = layer.cell
    tensors = weights.to_onnx(layer)[index]
    names = {name: f"{outputs[0]}_{name}" for name in tensors}
    given = {"X": source, **names}
    inputs = [given.get(name, "") for name in spec.INPUTS[cell.onnx.operator]]
    while not inputs[-1]:
        inputs.pop()
    attrs: dict[str, Any] = {"hidden_size": cell.hidden_size}
    attrs["direction"] = "bidirectional" if layer.bidirectional else "forward"
    attrs |= {attribute: int(cell.options[option]) for option, attribute in cell.onnx.attributes.items()}
    if cell.options.get("nonlinearity") == "relu":
        attrs["activations"] = ["Relu"] * (1 + layer.bidirectional)
    node = helper.make_node(cell.onnx.operator, inputs, outputs, **(attrs | options))
    return node, [numpy_helper.from_array(a, names[name]) for name, a in tensors.items()]


def model_of(
    nodes: list[Any], initializers: list[Any], outputs: list[str], inputs: list[Any] | None = None, opset: int = 14
) -> Any:
    graph = helper.make_graph(
        nodes, "graph", inputs or [value("X", "T", "B", "I")], [value(name) for name in outputs], initializers
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def stacked(layer: Any) -> Any:
    """A model of all layers of a fastrnn layer: Y (T, D, B, H) of one becomes X (T, B, D*H) of the next."""
    nodes, initializers, source = [], [numpy_helper.from_array(np.array([0, 0, -1]), "shape")], "X"
    for index in range(layer.num_layers):
        node, tensors = node_of(layer, index, source, [f"Y{index}", f"Y_h{index}"], name=f"rnn/{index}")
        source = f"X{index + 1}"
        nodes += [
            node,
            helper.make_node("Transpose", [f"Y{index}"], [f"Z{index}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"Z{index}", "shape"], [source]),
        ]
        initializers += tensors
    return model_of(nodes, initializers, [source, f"Y_h{layer.num_layers - 1}"])


@pytest.fixture
def x(rng: np.random.Generator) -> NDArray:
    return rng.standard_normal((6, 3, 4), np.float32)


LAYERS = [
    LSTM(4, 5, num_layers=3, bidirectional=True, rng=0),
    LSTM(4, 5, num_layers=2, peephole=True, bias=False, rng=0),
    GRU(4, 5, num_layers=2, rng=0),
    GRU(4, 5, num_layers=2, reset_after=False, bidirectional=True, rng=0),
    RNN(4, 5, num_layers=2, nonlinearity="relu", rng=0),
]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_a_model_of_several_layers_from_a_file(layer: Any, x: NDArray, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(stacked(layer), path)
    y, state = layer(x)
    h_n = state[0] if isinstance(state, tuple) else state
    actual, actual_h = ReferenceEvaluator(str(path), new_ops=ops).run(None, {"X": x})
    assert_close(actual, y)
    assert_close(actual_h, h_n[-1 - layer.bidirectional :])

    (frozen,) = (loaded := load(path)).values()
    assert list(loaded) == ["rnn/0"]
    assert isinstance(frozen, fastrnn.Frozen)
    assert frozen.num_layers == layer.num_layers
    actual, state = frozen(x)
    assert_close(actual, y)
    assert_close(state[0] if isinstance(state, tuple) else state, h_n)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("op_type", RECURRENT)
def test_a_node_as_a_layer(op_type: str, direction: str, layout: int, x: NDArray, engine: str) -> None:
    """By its first output's name; a reversed one too."""
    layer = getattr(fastrnn, op_type)(4, 5, rng=0)
    node, tensors = node_of(layer, 0, "X", ["Y"], direction=direction, layout=layout)
    (frozen,) = (loaded := load(model_of([node], tensors, ["Y"]))).values()
    assert list(loaded) == ["Y"]
    attrs = {"direction": direction, "linear_before_reset": 1} if op_type == "GRU" else {"direction": direction}
    lengths = np.array([6, 0, 2])
    expected = run_op(op_type, {"X": x, **weights.to_onnx(layer)[0], "sequence_lens": lengths}, attrs)
    for copy in (frozen, pickle.loads(pickle.dumps(frozen))):
        y, state = copy(x.swapaxes(0, 1) if layout else x, lengths=lengths)
        assert_close(y.swapaxes(0, 1) if layout else y, expected["Y"][:, 0])
        assert_close(state[0] if op_type == "LSTM" else state, expected["Y_h"])
    assert ("reverse=True" in repr(frozen)) == (direction == "reverse")
    if direction == "reverse":
        with pytest.raises(ValueError, match="stream: expected a layer that runs forwards, got one that starts at the"):
            frozen.stream()
    else:
        stream = frozen.stream(3)
        steps = np.stack([stream.step(x_t) for x_t in x])
        assert_close(steps, run_op(op_type, {"X": x, **weights.to_onnx(layer)[0]}, attrs)["Y"][:, 0])


def test_in_loops_and_branches(x: NDArray) -> None:
    """A GRU fed its own output 3 times, by a body that reads weights from outside, within a branch of an If."""
    layer = GRU(4, 4, rng=0)
    node, tensors = node_of(layer, 0, "in", ["Y"], name="inner")
    body = helper.make_graph(
        [node, helper.make_node("Squeeze", ["Y", "axes"], ["out"]), helper.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [value("i", dtype=TensorProto.INT64), value("go", dtype=TensorProto.BOOL), value("in")],
        [value("go_on", dtype=TensorProto.BOOL), value("out")],
    )
    loop = helper.make_node("Loop", ["three", "yes", "X"], ["looped"], body=body)
    then_branch = helper.make_graph([loop], "then", [], [value("looped")])
    else_branch = helper.make_graph([helper.make_node("Identity", ["X"], ["same"])], "else", [], [value("same")])
    branch = helper.make_node("If", ["flag"], ["Q"], then_branch=then_branch, else_branch=else_branch)
    constants = {"axes": np.array([1]), "three": np.array(3), "yes": np.array(True)}
    tensors += [numpy_helper.from_array(a, name) for name, a in constants.items()]
    model = model_of([branch], tensors, ["Q"], [value("X", 6, 3, 4), value("flag", dtype=TensorProto.BOOL)])

    class Counting(ops[1]):  # type: ignore[name-defined,misc]
        runs = 0

        def _run(self, *inputs: Any, **attrs: Any) -> Any:
            Counting.runs += 1
            return super()._run(*inputs, **attrs)

    Counting.__name__ = "GRU"
    evaluator = ReferenceEvaluator(model, new_ops=[Counting])
    expected = layer(layer(layer(x)[0])[0])[0]
    assert_close(evaluator.run(None, {"X": x, "flag": np.array(True)})[0], expected)
    assert Counting.runs == 3
    assert_close(evaluator.run(None, {"X": x, "flag": np.array(False)})[0], x)
    assert_close(load(model)["inner"](x)[0], layer(x)[0])


def test_in_functions(x: NDArray) -> None:
    layer = GRU(4, 5, rng=0)
    node, tensors = node_of(layer, 0, "X", ["Y"], clip=0.5)  # which the reference's own GRU ignores
    opsets = [helper.make_opsetid("", 14), helper.make_opsetid("ours", 1)]
    function = helper.make_function("ours", "Recur", list(node.input), ["Y"], [node], opsets[:1])
    call = helper.make_node("Recur", list(node.input), ["Q"], domain="ours")
    graph = helper.make_graph([call], "graph", [value("X", 6, 3, 4)], [value("Q")], tensors)
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)
    inputs = {"X": x, **weights.to_onnx(layer)[0]}
    expected = run_op("GRU", inputs, {"clip": 0.5, "linear_before_reset": 1})["Y"]
    inlined = inline_local_functions(model)  # for the evaluator does not hand new_ops to functions
    assert_close(ReferenceEvaluator(inlined, new_ops=ops).run(None, {"X": x})[0], expected)
    (frozen,) = load(model).values()
    assert frozen.cell.clip == 0.5
    clipping = GRU(4, 5, clip=0.5)
    clipping.load_state_dict(layer.state_dict())
    assert_close(frozen(x)[0], clipping(x)[0])


@pytest.mark.parametrize("opset", [7, 11, 14, 21, 22])
def test_opsets(opset: int, x: NDArray) -> None:
    layer = LSTM(4, 5, bidirectional=True, rng=0)
    node, tensors = node_of(layer, 0, "X", ["", "Y_h", "Y_c"])
    h_n, c_n = ReferenceEvaluator(model_of([node], tensors, ["Y_h", "Y_c"], opset=opset), new_ops=ops).run(
        None, {"X": x}
    )
    _, (h, c) = layer(x)
    assert_close(h_n, h)
    assert_close(c_n, c)


def test_what_the_reference_leaves_out(x: NDArray) -> None:
    """onnx.reference ignores sequence_lens and clip; fastrnn's nodes do not."""
    layer = GRU(4, 5, rng=0)
    node, tensors = node_of(layer, 0, "X", ["Y"], clip=0.5)
    node.input.append("lens")
    model = model_of([node], tensors, ["Y"], [value("X", 6, 3, 4), value("lens", 3, dtype=TensorProto.INT32)])
    lens = np.array([2, 6, 4], np.int32)
    (y,) = ReferenceEvaluator(model, new_ops=ops).run(None, {"X": x, "lens": lens})
    inputs = {"X": x, **weights.to_onnx(layer)[0], "sequence_lens": lens}
    assert_close(y, run_op("GRU", inputs, {"clip": 0.5, "linear_before_reset": 1})["Y"])


# ---- Stacks, and branches of an If ----------------------------------------------------------------------------------


def stack_with(layer: Any, between: Any, constants: dict[str, Any], options: Any = None, outputs: Any = ()) -> Any:
    """A model of two layers with these nodes from Y0 to X1."""
    first, tensors = node_of(layer, 0, "X", ["Y0", "h0"], name="first", **(options or {}))
    second, more = node_of(layer, 1, "X1", ["Y1", "h1"], name="second", **(options or {}))
    named = [numpy_helper.from_array(np.array(a), name) for name, a in constants.items()]
    return model_of([first, *between, second], [*tensors, *more, *named], ["Y1", *outputs])


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(op_type, inputs.split(), outputs.split(), **attributes)


UNI = LSTM(4, 5, num_layers=2, rng=0)
BI = GRU(4, 5, num_layers=2, bidirectional=True, rng=0)

BETWEEN: dict[str, tuple[Any, list[Any], dict[str, Any]]] = {
    "PyTorch": (UNI, [node("Squeeze", "Y0 one", "X1")], {"one": [1]}),
    "PyTorch, bidirectional, sizes computed": (
        BI,
        [
            node("Transpose", "Y0", "t", perm=[0, 2, 1, 3]),
            node("Shape", "t", "shape"),
            node("Slice", "shape zero two", "TB"),
            node("Slice", "shape two three", "D"),
            node("Slice", "shape three four", "H"),
            node("Mul", "D H", "DH"),
            node("Concat", "TB DH", "sizes", axis=0),
            node("Reshape", "t sizes", "X1"),
        ],
        {"zero": [0], "two": [2], "three": [3], "four": [4]},
    ),
    "PyTorch, bidirectional, sizes fixed": (
        BI,
        [node("Transpose", "Y0", "t", perm=[0, 2, 1, 3]), node("Reshape", "t sizes", "X1")],
        {"sizes": [6, 3, 10]},
    ),
    "tf2onnx, batch first around each layer": (
        UNI,
        [
            node("Squeeze", "Y0 one", "s"),
            node("Transpose", "s", "b", perm=[1, 0, 2]),
            node("Dropout", "b", "d"),
            node("Identity", "d", "i"),
            node("Transpose", "i", "X1", perm=[1, 0, 2]),
        ],
        {"one": [1]},
    ),
    "tf2onnx, bidirectional": (
        BI,
        [
            node("Slice", "Y0 zero one one", "f4"),
            node("Slice", "Y0 one two one", "b4"),
            node("Squeeze", "f4 one", "f"),
            node("Squeeze", "b4 one", "b"),
            node("Transpose", "f", "ft", perm=[1, 0, 2]),
            node("Transpose", "b", "bt", perm=[1, 0, 2]),
            node("Concat", "ft bt", "fb", axis=2),
            node("Transpose", "fb", "X1", perm=[1, 0, 2]),
        ],
        {"zero": [0], "one": [1], "two": [2]},
    ),
    "directions split": (
        BI,
        [
            node("Split", "Y0", "f4 b4", axis=1),
            node("Concat", "f4 b4", "c", axis=-1),
            node("Squeeze", "c one", "s"),
            node("Unsqueeze", "s zero", "u"),
            node("Squeeze", "u zero", "X1"),
        ],
        {"zero": [0], "one": [1]},
    ),
}


@pytest.mark.parametrize("how", BETWEEN)
def test_nodes_that_are_a_stack_are_one_layer(how: str, x: NDArray, caplog: pytest.LogCaptureFixture) -> None:
    layer, between, constants = BETWEEN[how]
    model = stack_with(layer, between, constants)
    caplog.set_level("INFO", "fastrnn.onnx")
    (frozen,) = (loaded := load(model)).values()
    assert list(loaded) == ["first"]
    assert caplog.messages == ["first, second are one layer"]
    (y,) = ReferenceEvaluator(model, new_ops=ops).run(None, {"X": x})
    assert_close(frozen(x)[0], y.swapaxes(1, 2).reshape(6, 3, -1))
    assert_close(frozen(x)[0], layer(x)[0])


def test_a_stack_in_reverse_and_batch_first(x: NDArray) -> None:
    layer = LSTM(4, 5, num_layers=2, rng=0)
    options = {"direction": "reverse", "layout": 1}
    model = stack_with(layer, [node("Squeeze", "Y0 two", "X1")], {"two": [2]}, options)
    (frozen,) = load(model).values()
    expected = x.swapaxes(0, 1)
    for tensors in weights.to_onnx(layer):
        expected = run_op("LSTM", {"X": expected, **tensors}, options)["Y"][:, :, 0]
    assert_close(frozen(x.swapaxes(0, 1))[0], expected)
    assert (frozen.num_layers, frozen.batch_first) == (2, True)


SQUEEZE = node("Squeeze", "Y0 one", "X1")
ONE = {"one": [1]}
SAME = LSTM(5, 5, num_layers=2, rng=0)  # whose layers can be exchanged
APART: dict[str, tuple[Any, list[Any], dict[str, Any], Any]] = {
    "something is between": (UNI, [node("Squeeze", "Y0 one", "s"), node("Relu", "s", "X1")], ONE, {}),
    "its own output, read by others": (UNI, [SQUEEZE, node("Relu", "X1", "r")], ONE, {}),
    "its own output, the model's too": (UNI, [SQUEEZE], ONE, {"outputs": ["X1"]}),
    "steps for rows": (
        UNI, [node("Squeeze", "Y0 one", "s"), node("Transpose", "s", "X1", perm=[1, 0, 2])], ONE, {},
    ),
    "the other direction first": (
        BI,
        [
            node("Split", "Y0", "f4 b4", axis=1),
            node("Concat", "b4 f4", "c", axis=-1),
            node("Squeeze", "c one", "X1"),
        ],
        ONE,
        {},
    ),
    "units and directions in another order": (
        BI,
        [node("Transpose", "Y0", "t", perm=[0, 2, 3, 1]), node("Reshape", "t sizes", "X1")],
        {"sizes": [0, 0, 10]},
        {},
    ),
    "dropout in training": (
        UNI, [node("Squeeze", "Y0 one", "s"), node("Dropout", "s half yes", "X1")],
        {"one": [1], "half": np.float32(0.5), "yes": True}, {},
    ),
    "part of the steps": (
        UNI, [node("Squeeze", "Y0 one", "s"), node("Slice", "s one two zero", "X1")],
        {"zero": [0], "one": [1], "two": [2]}, {},
    ),
    "the states, not the sequence": (SAME, [node("Identity", "h0", "X1")], ONE, {}),
}  # fmt: skip


@pytest.mark.parametrize("why", APART)
def test_nodes_that_are_no_stack_stay_apart(why: str) -> None:
    layer, between, constants, options = APART[why]
    assert list(load(stack_with(layer, between, constants, **options))) == ["first", "second"]


def test_layers_of_other_kinds_stay_apart() -> None:
    """Another direction, other activations, other lengths, other sizes."""
    for change in ("direction", "activations", "lengths", "hidden_size"):
        model = stack_with(UNI, [SQUEEZE], ONE)
        second = model.graph.node[-1]
        if change == "direction":
            next(a for a in second.attribute if a.name == "direction").s = b"reverse"
        elif change == "activations":
            second.op_type = "RNN"
            del second.input[3:]
            for a in list(second.attribute):
                if a.name not in ("hidden_size", "direction"):
                    second.attribute.remove(a)
            for tensor, size in (("Y1_W", (1, 5, 5)), ("Y1_R", (1, 5, 5))):
                found = next(t for t in model.graph.initializer if t.name == tensor)
                found.CopyFrom(numpy_helper.from_array(np.ones(size, np.float32), tensor))
        elif change == "lengths":
            second.input.append("lens")
        else:
            other, tensors = node_of(LSTM(5, 6, rng=0), 0, "X1", ["Z"], name="second")
            second.CopyFrom(other)
            model.graph.initializer.extend(tensors)
        assert list(load(model)) == ["first", "second"], change


def test_branches_of_an_if_that_are_the_same_layer(x: NDArray, caplog: pytest.LogCaptureFixture) -> None:
    """As PyTorch's scripts are exported: each branch has all nodes of a stack, and its own copies of the weights."""
    layer, other = LSTM(4, 5, num_layers=2, bidirectional=True, rng=0), LSTM(4, 5, rng=1)

    def branch(name: str, *layers: Any) -> Any:
        nodes, tensors = [], []
        for number, one in enumerate(layers):
            graph = stacked(one).graph
            for item in graph.node:
                copy = onnx.NodeProto()
                copy.CopyFrom(item)
                copy.name = f"{name}/{number}/{item.name}" if item.name else ""
                for names in (copy.input, copy.output):
                    names[:] = [f"{number}{text}" if text and text != "X" else text for text in names]
                nodes.append(copy)
            for tensor in graph.initializer:
                tensor.name = f"{number}{tensor.name}"
                tensors.append(tensor)
        return helper.make_graph(nodes, name, [], [value(f"0X{layers[0].num_layers}")], tensors)

    choice = helper.make_node(
        "If", ["flag"], ["Q"], then_branch=branch("then", layer), else_branch=branch("else", layer)
    )
    inputs = [value("X", 6, 3, 4), value("flag", dtype=TensorProto.BOOL)]
    caplog.set_level("INFO", "fastrnn.onnx")
    (frozen,) = (loaded := load(model_of([choice], [], ["Q"], inputs))).values()
    assert list(loaded) == ["then/0/rnn/0"]
    assert_close(frozen(x)[0], layer(x)[0])
    assert caplog.messages[-1] == (
        "then/0/rnn/0, then/0/rnn/1 and else/0/rnn/0, else/0/rnn/1, in branches of an If, are one layer"
    )

    # The branch where the condition holds comes first, though onnx.helper writes attributes by their names. A layer
    # that a branch has twice is twice in the other one, or there are two.
    choice = helper.make_node(
        "If", ["flag"], ["Q"],
        then_branch=branch("then", other, layer, layer), else_branch=branch("else", layer, LSTM(4, 5, rng=2)),
    )  # fmt: skip
    assert list(load(model_of([choice], [], ["Q"], inputs))) == [
        "then/0/rnn/0", "then/1/rnn/0", "then/2/rnn/0", "else/1/rnn/0",
    ]  # fmt: skip


def test_nodes_that_share_tensors_share_a_layer() -> None:
    first, tensors = node_of(LSTM(4, 5, rng=0), 0, "X", ["Y"], name="a")
    second = onnx.NodeProto()
    second.CopyFrom(first)
    second.name, second.output[0] = "b", "Z"
    loaded = load(model_of([first, second], tensors, ["Y"]))
    assert list(loaded) == ["a", "b"]
    assert loaded["a"] is loaded["b"]


# ---- Which nodes, by which names -----------------------------------------------------------------------------------


def test_weights_behind_other_nodes(x: NDArray) -> None:
    """As exporters leave them: a Constant, a Transpose, a Concat of two directions, half precision and a Cast."""
    layer = LSTM(4, 5, bidirectional=True, rng=0)
    for parameter in layer.params.values():
        parameter[...] = parameter.astype(np.float16)
    node, _ = node_of(layer, 0, "X", ["Y"], name="lstm")
    tensors = weights.to_onnx(layer)[0]
    initializers = [
        numpy_helper.from_array(np.ascontiguousarray(tensors["W"].swapaxes(1, 2)), "Wt"),
        numpy_helper.from_array(tensors["R"][:1], "R_forward"),
        numpy_helper.from_array(tensors["R"][1:], "R_backward"),
    ]
    nodes = [
        helper.make_node("Transpose", ["Wt"], ["Y_W"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["R_forward", "R_backward"], ["Y_R"], axis=0),
        helper.make_node("Constant", [], ["B16"], value=numpy_helper.from_array(tensors["B"].astype(np.float16))),
        helper.make_node("Cast", ["B16"], ["Y_B"], to=FLOAT),
        node,
    ]
    assert_close(load(model_of(nodes, initializers, ["Y"]))["lstm"](x)[0], layer(x)[0])


def test_half_precision(x: NDArray) -> None:
    layer = GRU(4, 5, rng=0)
    node, _ = node_of(layer, 0, "X", ["Y"])
    half = {name: a.astype(np.float16) for name, a in weights.to_onnx(layer)[0].items()}
    tensors = [numpy_helper.from_array(a, f"Y_{name}") for name, a in half.items()]
    twin = weights.from_onnx(half, reset_after=True, dtype=np.float32)
    assert_close(load(model_of([node], tensors, ["Y"]))["Y"](x)[0], twin(x)[0])


def test_names(x: NDArray) -> None:
    layer = RNN(4, 4, rng=0)
    nodes: list[Any] = []
    tensors: list[Any] = []
    for source, output, name in (("X", "a", "same"), ("X", "b", "same"), ("X", "c", ""), ("X", "d", "c")):
        node, more = node_of(layer, 0, source, [output], name=name)
        nodes, tensors = [*nodes, node], tensors + more
    assert list(load(model_of(nodes, tensors, ["a"]))) == ["same", "same#2", "c", "c#2"]


def test_nodes_that_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    layer = LSTM(4, 5, rng=0)
    other, tensors = node_of(layer, 0, "X", ["a"], activations=["Sigmoid", "Relu", "Tanh"])
    loose, more = node_of(layer, 0, "X", ["b"])
    served, last = node_of(layer, 0, "X", ["c"])
    random = helper.make_node("RandomNormal", [], ["b_R"], shape=[1, 20, 5])
    more = [tensor for tensor in more if tensor.name not in ("b_W", "b_R")]
    model = model_of(
        [random, other, loose, served], tensors + more + last, ["a"], [value("X", 6, 3, 4), value("b_W", 1, 20, 4)]
    )
    assert list(load(model)) == ["c"]
    assert caplog.messages == [
        "LSTM a is left out: the kernels do not have activations Sigmoid, Relu, Tanh",
        "LSTM b is left out: W is not constant: 'b_W' is an input; "
        "R is not constant: 'b_R' comes from RandomNormal, which is not computed",
    ]


def test_what_is_not_in_a_layer_is_said(caplog: pytest.LogCaptureFixture) -> None:
    layer = GRU(4, 5, rng=0)
    node, tensors = node_of(layer, 0, "X", ["Y"], name="gru")
    node.input.extend(["", "h0"])
    another = helper.make_node("AttnLSTM", ["X"], ["Q"], name="q", domain="com.microsoft")
    model = model_of([node, another], [*tensors, numpy_helper.from_array(np.ones((1, 3, 5), np.float32), "h0")], ["Y"])
    assert list(load(model)) == ["gru"]
    assert not load(model_of([helper.make_node("Identity", ["X"], ["Y"])], [], ["Y"]))
    assert caplog.messages == [
        "GRU gru: its initial_h is not zero, and not part of the layer",
        "AttnLSTM q is left out: it is an operator of com.microsoft",
        "the model has no RNN, GRU or LSTM",
    ]


@pytest.mark.parametrize("op_type", ["RandomNormalLike", "RandomUniformLike", "Bernoulli", "Dropout", "Multinomial"])
def test_what_is_random_is_not_constant(op_type: str, caplog: pytest.LogCaptureFixture) -> None:
    """A layer of it would be another one at each load."""
    node, tensors = node_of(LSTM(4, 5, rng=0), 0, "X", ["Y"])
    node.input[1] = "random"
    inputs = ["Y_W", "", "yes"] if op_type == "Dropout" else ["Y_W"]
    tensors.append(numpy_helper.from_array(np.array(True), "yes"))
    model = model_of([helper.make_node(op_type, inputs, ["random"]), node], tensors, ["Y"], opset=15)
    assert not load(model)
    assert caplog.messages == [
        f"LSTM Y is left out: W is not constant: 'random' comes from {op_type}, which is not computed"
    ]


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"model: expected an onnx\.ModelProto or a path, got int"):
        load(3)
    with pytest.raises(OSError, match="none"):
        load(tmp_path / "none.onnx")
    node, tensors = node_of(LSTM(4, 5, rng=0), 0, "X", ["Y"], hidden_size=6)
    with pytest.raises(ValueError, match=r"LSTM Y: W: expected \(1, 24, 4\) for direction='forward'"):
        load(model_of([node], tensors, ["Y"]))
