"""fastrnn.onnx.load with damaged and crafted models: clear errors or warnings, bounded memory, no file but its own."""

from __future__ import annotations

import os
import random
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tolerances import assert_close

from fastrnn import LSTM, weights

onnx = pytest.importorskip("onnx", reason="onnx is not installed: no models to read")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.external_data_helper import set_external_data  # noqa: E402

from fastrnn.onnx import load, run_op  # noqa: E402

TENSORS = weights.to_onnx(LSTM(4, 5, rng=0))[0]
TYPE = TensorProto.FLOAT


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(op_type, inputs.split(), outputs.split(), **attributes)


def value(name: str) -> Any:
    return helper.make_tensor_value_info(name, TYPE, None)


def model_of(*before: Any, constants: Any = (), lstm: str = "X W R B", **attributes: Any) -> Any:
    """An LSTM, with nodes before it and more constants than its weights."""
    arrays = {**TENSORS, **dict(constants)}
    initializers = [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]
    nodes = [*before, node("LSTM", lstm, "Y", **{"hidden_size": 5, **attributes})]
    graph = helper.make_graph(nodes, "graph", [value("X")], [value("Y")], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def saved(model: Any, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def tensor(model: Any, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def error_of(path: Path) -> str:
    try:
        load(path)
    except ValueError as error:
        return str(error)
    return "none"


# ---- Damage ---------------------------------------------------------------------------------------------------------


def test_any_damage_gives_a_value_error_with_the_path(tmp_path: Path) -> None:
    """Bytes changed, left out and put in: a layer, or a ValueError that names the path."""
    shape = node("ConstantOfShape", "shape", "zeros")
    model = model_of(shape, node("Add", "B zeros", "B2"), constants={"shape": [1, 40]}, lstm="X W R B2")
    data, rng = model.SerializeToString(), random.Random(0)
    path = tmp_path / "model.onnx"
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(damaged))
            where = slice(at, at + rng.choice([0, 1, 1, 1, 20]))
            damaged[where] = rng.randbytes(rng.choice([0, 1, 1, 1, 5]))
        path.write_bytes(damaged)
        assert error_of(path).startswith((f"{path}: ", "none"))


@pytest.mark.parametrize("data", [b"", b"not a model", TENSORS["W"].tobytes()], ids=["empty", "text", "numbers"])
def test_files_that_are_no_models(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(f"{path}: not an ONNX model in protobuf (")):
        load(path)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        load(tmp_path / "none.onnx")
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        load(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match=r"expected a regular file: .*pipe"):
            load(tmp_path / "pipe")


def damaged(change: str) -> Any:
    model = model_of()
    w, lstm = tensor(model, "W"), model.graph.node[0]
    if change == "too few bytes":
        w.raw_data = w.raw_data[:-4]
    elif change == "a size below zero":
        w.dims[:] = [-1, 20, -4]
    elif change == "too many values":
        w.CopyFrom(TensorProto(name="W", data_type=TYPE, dims=[1, 20, 4], float_data=[1.0] * 81))
    elif change == "too many sizes":
        w.dims[:] = [1] * 40
    elif change == "text":
        w.CopyFrom(helper.make_tensor("W", TensorProto.STRING, [1], [b"a"]))
    elif change == "a type that does not exist":
        w.data_type = 99
    elif change == "integers":
        w.CopyFrom(numpy_helper.from_array(np.ones((1, 20, 4), np.int64), "W"))
    elif change == "another rank":
        w.dims[:] = [20, 4]
    elif change == "no weights":
        del lstm.input[1:]
    elif change == "an attribute's type":
        lstm.attribute[0].CopyFrom(helper.make_attribute("hidden_size", "five"))
    elif change == "an attribute that is a graph":
        lstm.attribute.append(helper.make_attribute("clip", model.graph))
    elif change == "an attribute's reference":
        lstm.attribute.add(name="clip", type=onnx.AttributeProto.FLOAT, ref_attr_name="outer")
    elif change == "an attribute's name":
        lstm.attribute.append(helper.make_attribute("clap", 1.0))
    elif change == "bytes that are no text":
        lstm.attribute.append(helper.make_attribute("direction", b"\xff"))
    return model


DAMAGE = {
    "too few bytes": "LSTM Y: tensor 'W': expected 320 bytes, got 316",
    "a size below zero": "LSTM Y: tensor 'W': expected at most 32 sizes of at least 0, got [-1, 20, -4]",
    "too many values": "LSTM Y: tensor 'W': expected values for sizes [1, 20, 4]",
    "too many sizes": "LSTM Y: tensor 'W': expected at most 32 sizes of at least 0",
    "text": "LSTM Y: tensor 'W': expected real numbers or booleans of whole bytes, got type 8",
    "a type that does not exist": "LSTM Y: tensor 'W': expected real numbers or booleans of whole bytes, got type 99",
    "integers": "LSTM Y: W: expected an array of float32, float64, float16, bfloat16, got int64",
    "another rank": "LSTM Y: W: expected num_directions and two more axes, got shape (20, 4)",
    "no weights": "LSTM Y: W: expected an array, got none",
    "an attribute's type": "LSTM Y: hidden_size: expected an integer, got bytes",
    "an attribute that is a graph": "LSTM Y: clip: expected a number, got GraphProto",
    "an attribute's reference": "LSTM Y: Cannot get value of reference attribute",
    "an attribute's name": "LSTM Y: attrs: expected LSTM's",
    "bytes that are no text": "LSTM Y: direction: expected one of 'forward', 'reverse', 'bidirectional', got",
}


@pytest.mark.parametrize("change", DAMAGE)
def test_damage_is_named(change: str, tmp_path: Path) -> None:
    path = saved(damaged(change), tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {DAMAGE[change]}")):
        load(path)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = saved(model_of(), tmp_path)
    path.write_bytes(path.read_bytes().replace(b"\x01Y", b"\x01\xff"))
    (name,) = load(path)
    assert isinstance(name, str)


# ---- What cannot be computed, or takes too much ---------------------------------------------------------------------

TOO_MUCH = "expected contents of at most"
HUGE = 1 << 40
BODY = helper.make_graph([node("Identity", "X", "same")], "body", [], [value("same")])
DOUBLED = [node("Concat", f"w{k} w{k}", f"w{k + 1}", axis=0) for k in range(60)]
LEFT_OUT: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "ConstantOfShape": ([node("ConstantOfShape", "huge", "w")], {"huge": [1, 20, HUGE]}, TOO_MUCH),
    "Tile": ([node("Tile", "W repeats", "w")], {"repeats": [1, 1, HUGE]}, TOO_MUCH),
    "Expand": ([node("Expand", "one huge", "w")], {"one": 1.0, "huge": [1, 20, HUGE]}, TOO_MUCH),
    "Range": ([node("Range", "a b c", "w")], {"a": 0, "b": HUGE, "c": 1}, TOO_MUCH),
    "Gather": ([node("Gather", "one many", "w")], {"one": np.ones((1, 4000)), "many": np.zeros(9999, int)}, TOO_MUCH),
    "Concat": ([node("Concat", "W " * 10**6, "w", axis=0)], {}, TOO_MUCH),
    "MatMul": ([node("MatMul", "a b", "w")], {"a": np.ones((5000, 1)), "b": np.ones((1, 5000))}, TOO_MUCH),
    "Add": ([node("Add", "a b", "w")], {"a": np.ones((5000, 1)), "b": np.ones((1, 5000))}, TOO_MUCH),
    "Concat again and again": (
        [node("Identity", "W", "w0"), *DOUBLED, node("Identity", "w60", "w")], {}, TOO_MUCH,
    ),
    "a circle": ([node("Identity", "v", "w"), node("Identity", "w", "v")], {}, "depends on itself"),
    "sizes that overflow": ([node("ConstantOfShape", "huge", "w")], {"huge": [1 << 62] * 9}, TOO_MUCH),
    "sizes below zero": ([node("ConstantOfShape", "huge", "w")], {"huge": [-1, 20, 4]}, "cannot be computed"),
    "a step of zero": ([node("Range", "a b c", "w")], {"a": 0, "b": 5, "c": 0}, "cannot be computed"),
    "other sizes": ([node("Reshape", "W sizes", "w")], {"sizes": [7, 7]}, "cannot be computed"),
    "no inputs": ([node("Tile", "", "w")], {}, "cannot be computed"),
    "no attribute": ([node("Cast", "W", "w")], {}, "cannot be computed"),
    "text": ([node("Cast", "W", "w", to=TensorProto.STRING)], {}, "gives no real numbers"),
    "an If": (
        [node("If", "yes", "w", then_branch=BODY, else_branch=BODY)], {"yes": True},
        "comes from If, which is not computed",
    ),
    "a graph that nobody asked for": (
        [node("Identity", "W", "w", body=BODY)], {}, "with an attribute that it does not have",
    ),
    "an operator of others": ([node("Identity", "W", "w", domain="ours")], {}, "which is not computed"),
    "an operator that does not exist": ([node("Identitty", "W", "w")], {}, "comes from Identitty, which is not"),
    "a Constant of text": ([node("Constant", "", "w", value_string="abc")], {}, "has no dense numbers"),
    "nothing": ([], {}, "'w' is nowhere given"),
}  # fmt: skip


@pytest.mark.parametrize("what", LEFT_OUT)
def test_nodes_are_left_out_within_bounds(what: str, caplog: pytest.LogCaptureFixture) -> None:
    """With a warning that says why, in little memory; the other node is loaded."""
    before, constants, why = LEFT_OUT[what]
    model = model_of(*before, constants=constants, lstm="X w R B")
    model.graph.node.append(node("LSTM", "X W R B", "Z"))
    tracemalloc.start()
    try:
        names = list(load(model))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert names[-1] == "Z"
    assert "Y" not in names
    message = next(
        message for message in caplog.messages if message.startswith("LSTM Y is left out: W is not constant")
    )
    assert why in message
    assert peak < 200 << 20


def test_max_bytes(caplog: pytest.LogCaptureFixture) -> None:
    model = model_of(node("Tile", "W ones", "w"), constants={"ones": [1, 1, 1]}, lstm="X w R B")
    assert list(load(model, max_bytes=10**5)) == ["Y"]
    assert not load(model, max_bytes=700)  # enough for W
    assert not load(model, max_bytes=0)
    assert re.search(
        "LSTM Y is left out: expected contents of at most 700 bytes, .* give max_bytes=", caplog.messages[0]
    )
    assert re.search("LSTM Y is left out: W is not constant: Tile 'w' .* give max_bytes=", caplog.messages[1])
    with pytest.raises(TypeError, match="max_bytes: expected an integer, got str"):
        load(model, max_bytes="1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_bytes: expected an integer of at least 0, got -1"):
        load(model, max_bytes=-1)


def test_many_nodes_of_the_same_tensors_take_no_more_memory() -> None:
    """300 layers of 8 MB."""
    tensors = {"W": np.ones((1, 2048, 512), np.float32), "R": np.ones((1, 2048, 512), np.float32)}
    model = model_of(constants=tensors, lstm="X W R", hidden_size=512)
    model.graph.node.extend(node("LSTM", "X W R", f"Y{k}") for k in range(300))
    tracemalloc.start()
    try:
        assert len(load(model)) == 301
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_chains_of_any_length() -> None:
    chain = [node("Identity", f"w{k}", f"w{k + 1}") for k in range(3000)]
    model = model_of(*chain, constants={"w0": TENSORS["W"]}, lstm="X w3000 R B")
    assert list(load(model)) == ["Y"]


def test_graphs_within_graphs() -> None:
    model = model_of()
    graph = model.graph
    for _ in range(60):
        choice = graph.node.add(op_type="If")
        graph = choice.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
        graph.name = "graph"
    with pytest.raises(ValueError, match="model: expected graphs nested at most 50 deep, got more"):
        load(model)


@pytest.mark.parametrize("what", ["circle", "doubling", "deep", "wrong"])
def test_functions_that_cannot_be_written_out(what: str) -> None:
    """One that calls itself; 60 that each call the next one twice; 60 that call the next one; one of other outputs."""
    count = {"circle": 1, "doubling": 30, "deep": 60, "wrong": 1}[what]
    opsets = [helper.make_opsetid("", 14), helper.make_opsetid("ours", 1)]
    functions = []
    for k in range(count):
        called = {"circle": "f0", "wrong": "nothing"}.get(what, f"f{k + 1}")
        nodes = [node(called, "x", f"y{n}", domain="ours") for n in range(1 + (what == "doubling"))]
        functions.append(helper.make_function("ours", f"f{k}", ["x"], ["y0"], nodes, opsets))
    if what == "wrong":
        functions[0].node[0].output[0] = "other"
    model = model_of(node("f0", "X", "Z", domain="ours"))
    model.opset_import.append(opsets[1])
    model.functions.extend(functions)
    if what == "wrong":
        assert list(load(model)) == ["Y"]
    else:
        why = "expected contents of at most" if what == "doubling" else "expected calls at most 50 deep, got more"
        with pytest.raises(ValueError, match=f"model: .*{why}"):
            load(model)


# ---- Tensors in files of their own ----------------------------------------------------------------------------------


def external(folder: Path, location: str = "w.data", offset: int | None = 8, length: int | None = 320) -> Path:
    """A model whose W lies in another file."""
    model = model_of()
    (folder / "w.data").write_bytes(bytes(8) + tensor(model, "W").raw_data)
    set_external_data(tensor(model, "W"), location, offset, length)
    tensor(model, "W").ClearField("raw_data")
    return saved(model, folder)


def test_tensors_in_files_of_their_own(tmp_path: Path, rng: np.random.Generator) -> None:
    x: NDArray = rng.standard_normal((3, 2, 4), np.float32)
    expected = run_op("LSTM", {"X": x, **TENSORS})["Y"][:, 0]
    (tmp_path / "folder").mkdir()
    for path in (external(tmp_path), external(tmp_path, "folder/../w.data", length=None)):
        assert_close(load(path)["Y"](x)[0], expected)
    onnx.save(model_of(), tmp_path / "other.onnx", save_as_external_data=True, size_threshold=0)
    assert_close(load(tmp_path / "other.onnx")["Y"](x)[0], expected)


@pytest.mark.parametrize(
    ("location", "offset", "length", "why"),
    [
        ("../w.data", "8", 320, "expected a file in the model's directory for its values, got '../w.data'"),
        ("/etc/passwd", "8", 320, "expected a file in the model's directory for its values, got '/etc/passwd'"),
        ("outside.data", "8", 320, "expected a file in the model's directory for its values, got 'outside.data'"),
        ("missing.data", "8", 320, "expected a file in the model's directory for its values, got 'missing.data'"),
        (".", "8", 320, "expected a file in the model's directory for its values, got '.'"),
        ("w.data", "9", 320, "expected 320 bytes in a file of 328, got 320 from byte 9 on"),
        ("w.data", "-1", 320, "expected 320 bytes in a file of 328, got 320 from byte -1 on"),
        ("w.data", "8", 100, "expected 320 bytes in a file of 328, got 100 from byte 8 on"),
        ("w.data", "many", 320, "expected numbers for offset and length of its values"),
    ],
)
def test_files_that_are_not_read(location: str, offset: str, length: int, why: str, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "w.data").write_bytes(bytes(1000))
    (tmp_path / "inside" / "outside.data").symlink_to(tmp_path / "w.data")
    path = external(tmp_path / "inside", location, 8, length)
    model = onnx.load(path, load_external_data=False)
    next(entry for entry in tensor(model, "W").external_data if entry.key == "offset").value = offset
    saved(model, path.parent)
    with pytest.raises(ValueError, match=re.escape(f"{path}: LSTM Y: tensor 'W': {why}")):
        load(path)


def test_models_in_memory_read_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load(external(tmp_path), load_external_data=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match="tensor 'W': expected its values in the model, got a file's name; give load the"
    ):
        load(model)
    constant = node("Constant", "", "w", value=tensor(model, "W"))
    with pytest.raises(
        ValueError, match="tensor 'W': expected its values in the model, got a file's name; give load the"
    ):
        load(model_of(constant, lstm="X w R B"))
    zeros = node("ConstantOfShape", "shape", "w", value=tensor(model, "W"))
    assert not load(model_of(zeros, constants={"shape": [1, 20, 4]}, lstm="X w R B"))


def test_names_that_are_there_twice() -> None:
    """Two nodes that read each other's output, and one that is left out by the same name."""
    upper = dict.fromkeys(("W1", "R1"), TENSORS["R"])
    model = model_of(
        node("LSTM", "X nothing R B", "Z"),
        node("Squeeze", "Y one", "x"),
        node("LSTM", "x W1 R1", "Z"),
        node("Squeeze", "Z one", "X"),
        node("LSTM", "X W1 R1", "Y"),
        constants={**upper, "one": [1]},
    )
    assert set(load(model)) <= {"Y", "Z", "Y#2", "Z#2"}
