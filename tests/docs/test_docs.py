"""The documents' Python: all blocks of a file run in their order in one namespace, and print what the file says.

A ```text block behind a block of Python is what it prints. A comment right above a block, such as

    <!-- given: a PyTorch model -->

says what it takes for granted; GIVEN has functions that make these things, and skip where an extra is not installed.
"""

import ast
import contextlib
import importlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from keras_here import imported

import fastrnn
from fastrnn import nn, weights
from fastrnn.data import Batches, Dataset, Vocabulary
from fastrnn.train import Trainer

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"^(?:<!-- given: (?P<given>[^\n]*) -->\n)?"
    r"```python\n(?P<code>.*?)^```\n"
    r"(?:\s*```text\n(?P<text>.*?)^```)?",
    re.MULTILINE | re.DOTALL,
)
FILES = [p for p in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))) if "```python" in p.read_text("utf-8")]


class Block(NamedTuple):
    given: list[str]
    code: str
    text: str | None
    line: int  # of the file, of the code's first


def blocks(path: Path) -> list[Block]:
    document = path.read_text("utf-8")
    return [
        Block(
            m["given"].split(", ") if m["given"] else [],
            m["code"],
            m["text"],
            document.count("\n", 0, m.start("code")) + 1,
        )
        for m in BLOCK.finditer(document)
    ]


def compiled(path: Path, block: Block) -> CodeType:
    """Code whose tracebacks name the document and its lines."""
    tree = ast.increment_lineno(ast.parse(block.code), block.line - 1)
    return compile(tree, str(path), "exec")


# ---- what snippets take for granted ---------------------------------------------------------------------------------


def reviews() -> dict[str, Any]:
    texts = ["good", "bad", "very good", "very bad"] * 20
    vocabulary = Vocabulary.build(texts)
    data = Dataset([vocabulary.encode(text) for text in texts], [1, 0] * 40)
    return {
        "vocabulary": vocabulary, "train": data.take(np.arange(60)), "valid": data.take(np.arange(60, 80)),
        "Batches": Batches, "Trainer": Trainer,
    }  # fmt: skip


def a_state_dict() -> dict[str, Any]:
    arrays = fastrnn.LSTM(4, 5, 2, rng=0).state_dict()
    fastrnn.serialization.save("model.safetensors", {f"encoder.rnn.{name}": a for name, a in arrays.items()})
    return {}


class KerasLayer:
    """As much of a layer of Keras as snippets use."""

    def __init__(self, units: int, features: int) -> None:
        self.weights = weights.to_keras(fastrnn.GRU(features, units, rng=0))[0]

    def get_weights(self) -> list[Any]:
        return self.weights

    def set_weights(self, arrays: list[Any]) -> None:
        assert [a.shape for a in arrays] == [a.shape for a in self.weights]
        self.weights = arrays


def keras_layers() -> dict[str, Any]:
    lower, upper = KerasLayer(5, 4), KerasLayer(5, 5)
    x = np.zeros((2, 3, 4), np.float32)
    return {"keras_layer": lower, "lower": lower, "upper": upper, "keras_layers": [lower, upper], "x": x}


def a_model_of_keras() -> dict[str, Any]:
    keras = imported()
    model = keras.Sequential([keras.Input((6, 4)), keras.layers.LSTM(5), keras.layers.Dense(2)])
    return {"model": model, "x": np.zeros((3, 6, 4), np.float32)}


def an_onnx_model() -> dict[str, Any]:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    importlib.import_module("onnx.reference")
    from onnx import TensorProto, helper, numpy_helper

    arrays = arrays_in_onnx(3)
    graph = helper.make_graph(
        [helper.make_node("GRU", ["X", "W", "R"], ["Y"], name="node name", hidden_size=5)],
        "graph",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, arrays["x"].shape)],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(arrays[name.lower()], name) for name in "WR"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])
    model.ir_version = 10  # the version that came with opset 22; runtimes refuse versions that they do not know
    onnx.save(model, "model.onnx")
    return {"onnx": onnx}


def an_onnx_model_of_8_bits() -> dict[str, Any]:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    from onnx import TensorProto, helper, numpy_helper

    lstm = fastrnn.LSTM(4, 5, rng=0)
    (tensors,) = weights.to_onnx(lstm, precision="int8")
    inputs = [
        name if name in tensors or name == "X" else "" for name in fastrnn.onnx.spec.INPUTS["DynamicQuantizeLSTM"]
    ]
    graph = helper.make_graph(
        [helper.make_node("DynamicQuantizeLSTM", inputs, ["Y"], name="node name", domain="com.microsoft")],
        "graph",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, (3, 2, 4))],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, name) for name, a in tensors.items()],
    )
    onnx.save(helper.make_model(graph), "model-int8.onnx")
    return {"lstm": lstm, "x": np.zeros((3, 2, 4), np.float32)}


def arrays_in_onnx(gates: int) -> dict[str, Any]:
    importlib.import_module("fastrnn.onnx")  # snippets that use it say so
    rng = np.random.default_rng(0)
    shapes = {"x": (3, 2, 4), "w": (1, gates * 5, 4), "r": (1, gates * 5, 5), "b": (1, gates * 10), "dy_h": (1, 2, 5)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def a_pytorch_model() -> dict[str, Any]:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    import fastrnn.torch

    return {"model": torch.nn.Sequential(torch.nn.LSTM(4, 5)), "fastrnn": fastrnn, "torch": torch}


def arrays_of_others() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    arrays = {f"W_{gate}": rng.standard_normal((32, 64)) for gate in "ifoc"}
    arrays |= {f"U_{gate}": rng.standard_normal((32, 32)) for gate in "ifoc"}
    arrays |= {"kernel": rng.standard_normal((64 + 32, 4 * 32)), "bias": rng.standard_normal(4 * 32)}
    return arrays | {"to_hidden_and_gate": rng.standard_normal((2 * 32, 64))}


def installed(name: str) -> dict[str, Any]:
    pytest.importorskip(name, reason=f"{name} is not installed")
    return {}


def a_group() -> dict[str, Any]:
    return {"group": None}  # of this process alone; tests/kit/test_distributed.py has others


class Here:
    """As much of Dask's client and of a Spark session as snippets use, in this process; the examples have real ones."""

    def scatter(self, model: Any, broadcast: bool) -> Any:
        return model

    map = staticmethod(lambda function, parts, model: [function(part, model) for part in parts])
    gather = staticmethod(list)
    sparkContext = property(lambda self: self)  # noqa: N815

    def broadcast(self, model: Any) -> Any:
        return SimpleNamespace(value=model)


def a_dask_client() -> dict[str, Any]:
    return {"client": Here(), "parts": [np.ones((5, 3), int)] * 2}


def a_spark_table() -> dict[str, Any]:
    x = np.zeros((4, 50, 16), np.float32)

    def udf(make: Any, return_type: Any, batch_size: int, input_tensor_shapes: Any) -> Any:
        return lambda column: make()(x)

    model = nn.ManyToOne(fastrnn.GRU(16, 8, rng=0), nn.Linear(8, 3, rng=0))
    table = SimpleNamespace(select=lambda answers: answers)
    return {"spark": Here(), "table": table, "predict_batch_udf": udf, "LongType": int, "model": model}


def a_spark_table_of_ids() -> dict[str, Any]:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"id": [1, 2], "words": [np.array([1, 2]), np.array([3])]})
    model = nn.ManyToOne(fastrnn.GRU(4, 8, rng=0), nn.Linear(8, 3, rng=0), nn.Embedding(5, 4, rng=0))
    texts = SimpleNamespace(mapInPandas=lambda function, schema: pandas.concat(function(iter([frame]))))
    return {"spark": Here(), "texts": texts, "model": model}


def two_vocabularies() -> dict[str, Any]:
    return {"words": Vocabulary("abc"), "source": Vocabulary("xyz")}


GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "reviews": reviews,
    "a group": a_group,
    "a Dask client": a_dask_client,
    "a Spark table": a_spark_table,
    "a Spark table of ids": a_spark_table_of_ids,
    "two vocabularies": two_vocabularies,
    "a state dict": a_state_dict,
    "layers of Keras": keras_layers,
    "a model of Keras": a_model_of_keras,
    "an ONNX model": an_onnx_model,
    "an ONNX model of 8 bits": an_onnx_model_of_8_bits,
    "a GRU's arrays in ONNX": lambda: arrays_in_onnx(3),
    "an LSTM's arrays in ONNX": lambda: arrays_in_onnx(4),
    "a PyTorch model": a_pytorch_model,
    "arrays of others": arrays_of_others,
    "ONNX Runtime": lambda: installed("onnxruntime"),
    "threadpoolctl": lambda: installed("threadpoolctl"),
    "joblib": lambda: installed("joblib"),
    "scikit-learn": lambda: installed("sklearn"),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras with PyTorch
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_blocks_run_and_print_what_the_document_says(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks(path)
    document = path.read_text("utf-8")
    assert len(found) == document.count("```python"), "a block is not as BLOCK has it"
    assert sum(block.text is not None for block in found) == document.count("```text"), "what printed this text?"
    namespace: dict[str, Any] = {"np": np, "fastrnn": fastrnn, "__name__": path.name}
    left_out = []
    for block in found:
        printed = io.StringIO()
        try:
            for name in block.given:
                namespace |= GIVEN[name]()
        except pytest.skip.Exception as skipped:
            left_out.append(f"line {block.line}: {skipped.msg}")
            continue
        with contextlib.redirect_stdout(printed):
            exec(compiled(path, block), namespace)
        if block.text is not None:
            expected, got = ([line.rstrip() for line in text.splitlines()] for text in (block.text, printed.getvalue()))
            assert got == expected, f"{path.name}, line {block.line}"
    if left_out:
        pytest.skip(f"all but some blocks ran; left out: {'; '.join(left_out)}")
