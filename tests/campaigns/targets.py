"""What is fuzzed: a target takes bytes, and raises where fastrnn does with them what it should not.

Loaders get the bytes as a file. Functions that take arrays get arguments that are drawn from the bytes (`Draws`; what
hypothesis draws takes ten times as long). Every target allows the errors that its function documents, and no other.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mutations
import numpy as np
from numpy.typing import NDArray

import fastrnn
import fastrnn.onnx
from fastrnn import data, nn, optim, serialization, train, weights
from fastrnn.formats import npz, safetensors
from fastrnn.formats.reading import refusing

try:
    import onnx
    from onnx import helper, numpy_helper

    import fastrnn.onnx.models
    import fastrnn.onnx.split
except ImportError:  # then there is no target "onnx"
    onnx = None

__all__ = ["FOLDER", "TARGETS", "Target"]

FOLDER = Path(tempfile.mkdtemp(prefix="fastrnn-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


class FindingError(Exception):
    """fastrnn raised nothing, but did something wrong."""


@dataclasses.dataclass
class Target:
    """Something to fuzz.

    Attributes
    ----------
    run : callable
        From an input; raises where there is a finding.
    seeds : list of bytes
        Inputs to begin with.
    mutate : mutations.Mutation or None
        A change that keeps the form of inputs.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    mutate: mutations.Mutation | None = None


TARGETS: dict[str, Target] = {}


class Draws:
    """Choices made by bytes; when these are used up, all are the first."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def integer(self, lowest: int, highest: int) -> int:
        """An integer of this range, of at most 2**16."""
        width = 1 if highest - lowest < 256 else 2
        part = self._content[self._at : self._at + width]
        self._at += width
        return lowest + int.from_bytes(part, "little") % (highest - lowest + 1)

    def choice(self, options: Sequence[Any]) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def chance(self, n: int) -> bool:
        """True once in n times."""
        return self.integer(1, n) == n


# ---- Files: one error, a ValueError that names the path ------------------------------------------------------------


def _loader(suffix: str, load: Callable[[Path], Any], use: Callable[[Any], None]) -> Callable[[bytes], None]:
    path = FOLDER / f"input{suffix}"

    def run(content: bytes) -> None:
        path.write_bytes(content)
        try:
            loaded = load(path)
        except ValueError as error:
            if path.name not in str(error):
                raise FindingError(f"a message that does not name the path: {error}") from error
            return
        use(loaded)

    return run


def _used(layer: Any) -> None:
    """Run a layer that came from a file, if it is small: its parameters have to fit what it says of itself."""
    if layer.input_size * layer.hidden_size * layer.num_layers > 10**5:
        return
    x = np.zeros((2, 2, layer.input_size), layer.dtype)
    y, _ = layer(x)
    if y.shape != (2, 2, layer.output_size):
        raise FindingError(f"expected (2, 2, {layer.output_size}), got {y.shape}, of {layer!r}")


def _written(save: Callable[[Path], None], suffix: str) -> bytes:
    path = FOLDER / f"seed{suffix}"
    path.unlink(missing_ok=True)
    save(path)
    content = path.read_bytes()
    path.unlink()
    return content


def _layers() -> list[Any]:
    return [
        fastrnn.GRU(3, 4, reset_after=False, update_gate="replace", rng=0),
        fastrnn.LSTM(2, 4, num_layers=2, bidirectional=True, peephole=True, proj_size=2, rng=0, dtype=np.float64),
        fastrnn.LSTM(1, 2, coupled=True, batch_first=True, dropout=0.5, num_layers=2, bias=False, rng=0),
        fastrnn.RNN(3, 2, nonlinearity="relu", rng=0),
        fastrnn.LSTM(3, 4, num_layers=2, learn_initial_state=True, rng=0).freeze(("bfloat16", "int8")),
    ]


def _npz_of_others() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **fastrnn.LSTM(3, 4, rng=0).params)
    return file.getvalue()


for _suffix, _mutation in ((".npz", mutations.zipped), (".safetensors", mutations.safetensors)):

    def _layer_seeds(suffix: str = _suffix) -> list[bytes]:
        seeds = [_written(lambda path, layer=layer: fastrnn.save(path, layer), suffix) for layer in _layers()]
        if suffix == ".npz":
            return [*seeds, _npz_of_others()]
        return [seeds[0], *(seed.replace(b"fastrnn.sha256", b"fastrnn.none!!") for seed in seeds)]  # as files of others

    TARGETS[_suffix.lstrip(".")] = Target(_loader(_suffix, fastrnn.load, _used), _layer_seeds, _mutation)


# ---- Models and checkpoints ----------------------------------------------------------------------------------------


def _models() -> list[Any]:
    rng = np.random.default_rng(0)
    reader = fastrnn.GRU(3, 2, bidirectional=True, rng=rng)
    tagger = nn.ManyToMany(reader, nn.Linear(4, 3, rng=rng), nn.Embedding(5, 3, rng=rng), dropout=0.1)
    tagger.vocabularies["words"] = data.Vocabulary("abc", ("<pad>", "<unk>"))
    tagger.notes["scale"] = [1.5, None, {"a": True}]
    first = nn.Convolution(nn.Linear(4, 2, rng=rng), (3, 3, 1), 2)
    picture = nn.Sequential(first, nn.Activation("tanh"), nn.Dropout(0.1))
    decoder = nn.Decoder(
        nn.Embedding(5, 3, rng=rng), fastrnn.LSTM(3, 2, rng=rng), nn.Linear(2, 5, rng=rng), nn.Linear(8, 4, rng=rng)
    )
    translator = nn.EncoderDecoder(
        fastrnn.LSTM(3, 2, rng=rng),
        nn.Decoder(
            nn.Embedding(5, 3, rng=rng), fastrnn.RNN(3, 2, rng=rng), nn.Linear(2, 5, rng=rng), nn.Linear(2, 2, rng=rng),
            attention=nn.Attention(2, 2, rng=rng),
        ),
        nn.Embedding(5, 3, rng=rng),
    )  # fmt: skip
    return [tagger, nn.OneToMany(decoder, picture), translator, tagger.freeze("int8"), translator.freeze("bfloat16")]


def _model_used(model: Any) -> None:
    if not isinstance(model, nn.Model):
        raise FindingError(f"expected a model, got {type(model)}")
    model.state_dict()


TARGETS["model"] = Target(
    _loader(".npz", nn.load, _model_used),
    lambda: [_written(model.save, ".npz") for model in _models()],
    mutations.zipped,
)


def _training(path: Path) -> train.Trainer:
    model = nn.ManyToOne(fastrnn.LSTM(2, 2, rng=0), nn.Linear(2, 2, rng=0))
    x = np.random.default_rng(0).standard_normal((4, 3, 2)).astype(np.float32)
    batches = data.Batches(data.Dataset(list(x), [0, 1, 0, 1]), 2)
    return train.Trainer(model, optim.Adam(model.params), batches, list(batches), steps=3, checkpoint=path)


def _training_used(trainer: train.Trainer) -> None:
    for report in trainer:
        if not isinstance(report.loss, float):
            raise FindingError(f"expected a loss, got {report}")
        break
    trainer.save()


def _checkpoint(path: Path) -> None:
    trainer = _training(path)
    for _ in trainer:
        break
    trainer.save()


TARGETS["checkpoint"] = Target(
    _loader(".npz", _training, lambda trainer: None), lambda: [_written(_checkpoint, ".npz")], mutations.zipped
)


# ---- Damage: what is read is what was written, or an error ---------------------------------------------------------

_WHOLE = {
    suffix: _written(lambda path: fastrnn.save(path, _layers()[0]), suffix) for suffix in (".npz", ".safetensors")
}
# How a digest is announced; a file without it is as a file of others, which has none.
_ANNOUNCED = {".npz": npz.COMMENT, ".safetensors": f'"{safetensors.DIGEST}":'.encode()}


def damaged(content: bytes) -> None:
    """A file with some bits flipped, or some bytes lost, zero or doubled."""
    draws = Draws(content)
    suffix = draws.choice(sorted(_WHOLE))
    content = whole = _WHOLE[suffix]
    for _ in range(draws.integer(1, 3)):
        action = draws.choice(("flip", "flip", "cut", "fill", "repeat"))
        place, amount = draws.integer(0, len(whole)), draws.integer(0, 2**11)
        if action == "flip":
            bit = 1 << amount % 8
            content = content[:place] + bytes(b ^ bit for b in content[place : place + 1]) + content[place + 1 :]
        else:
            part = content[place : place + amount]
            new = {"cut": b"", "fill": bytes(len(part)), "repeat": part * 2}[action]
            content = content[:place] + new + content[place + len(part) :]
    path = FOLDER / f"input{suffix}"
    path.write_bytes(content)
    try:
        tensors, words = serialization.load(path)
    except ValueError:
        return
    if _ANNOUNCED[suffix] not in content:
        return
    path.write_bytes(whole)
    expected, expected_words = serialization.load(path)
    alike = tensors.keys() == expected.keys() and words == expected_words
    if not alike or any(
        a.shape != expected[k].shape or a.tobytes() != expected[k].tobytes() for k, a in tensors.items()
    ):
        raise FindingError("a damaged file was read as something else than what was written")


# ---- ONNX ----------------------------------------------------------------------------------------------------------


def _onnx_run(content: bytes) -> None:
    path = FOLDER / "input.onnx"
    path.write_bytes(content)
    precision = (None, None, "int8", "bfloat16")[len(content) % 4]
    try:
        layers = fastrnn.onnx.load(path, precision=precision)
        _onnx_plan(path, precision)
    except ValueError:
        return
    except OSError:  # of the file that holds a tensor's values
        return
    for layer in layers.values():
        if layer.input_size * layer.hidden_size < 10**5:
            x = np.zeros((2, 2, layer.input_size), layer.dtype)
            layer(x)


def _onnx_plan(path: Path, precision: str | None) -> None:
    """What a session makes of a model, up to what is ONNX Runtime's."""
    with refusing(path):
        model, _ = fastrnn.onnx.models.opened_model(path, precision, None)
        planner = fastrnn.onnx.split.Planner(fastrnn.onnx.models.Loading(model, precision, None))
        try:
            made = planner.plan()
        except fastrnn.onnx.split.CannotSplitError as error:
            made = planner.whole(str(error))
        for step in made.steps:
            if isinstance(step, fastrnn.onnx.split.Piece):
                types = collections.defaultdict(lambda: helper.make_tensor_type_proto(1, None), made.types)
                step.model(types).SerializeToString()


def _onnx_seeds() -> list[bytes]:
    def tensors(layer: Any, names: str = "WRBP") -> dict[str, NDArray]:
        return {name: a for name, a in weights.to_onnx(layer)[0].items() if name in names}

    def node(layer: Any, arrays: dict[str, Any], **options: Any) -> Any:
        inputs = ["X", *(f"n{k}" if k in arrays else "" for k in "WRB")]
        inputs += ["", "", "", "nP"] if "P" in arrays else []
        inputs = [name.replace("n", options.get("name", "n")) for name in inputs]
        direction = "bidirectional" if layer.bidirectional else "forward"
        return helper.make_node(
            layer.cell.onnx.operator, inputs, [options.get("name", "n") + "Y"], hidden_size=layer.hidden_size,
            direction=direction, **options,
        )  # fmt: skip

    def model(nodes: list[Any], arrays: dict[str, Any], functions: tuple[Any, ...] = (), opset: int = 22) -> bytes:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes, "g", [value("X", 1, ["T", "B", 3])], [value("nY", 1, None)],
            [numpy_helper.from_array(a, name) for name, a in arrays.items()],
        )  # fmt: skip
        opsets = [helper.make_opsetid(domain, v) for domain, v in (("", opset), ("ours", 1), ("com.microsoft", 1))]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions).SerializeToString()

    lstm, gru = (
        fastrnn.LSTM(3, 2, bidirectional=True, peephole=True, rng=0),
        fastrnn.GRU(3, 2, reset_after=False, rng=0),
    )
    named = [{f"n{name}": a for name, a in tensors(layer).items()} for layer in (lstm, gru)]
    seeds = [
        model([node(lstm, tensors(lstm), activations=["Sigmoid", "Tanh", "Tanh"] * 2)], named[0]),
        model([node(gru, tensors(gru), linear_before_reset=0, layout=1)], named[1], opset=14),
    ]
    # Weights behind other nodes, that a loader has to compute.
    arrays = {"Wt": named[1]["nW"].swapaxes(1, 2).copy(), "shape": np.array([1, 6, 2]), "nB": named[1]["nB"]}
    folded = [
        helper.make_node("Transpose", ["Wt"], ["nW"], perm=[0, 2, 1]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("RandomNormalLike", ["zeros"], ["noise"]),
        helper.make_node("Tile", ["zeros", "ones"], ["tiled"]),
        helper.make_node("Constant", [], ["ones"], value_ints=[1, 1, 1]),
        helper.make_node("Concat", ["tiled", "tiled"], ["twice"], axis=0),
        helper.make_node("Slice", ["twice", "from", "to", "from"], ["nR"]),
    ]
    arrays |= {"from": np.array([0]), "to": np.array([1])}
    seeds.append(model([*folded, node(gru, {"W": 1, "R": 1, "B": 1})], arrays))
    inner = helper.make_graph([node(gru, tensors(gru))], "then", [], [helper.make_tensor_value_info("nY", 1, None)])
    flagged = helper.make_node("If", ["flag"], ["nY"], then_branch=inner, else_branch=inner)
    seeds.append(model([flagged], named[1] | {"flag": np.array(True)}))
    call = node(gru, tensors(gru))
    function = helper.make_function(
        "ours", "Recur", list(call.input), ["nY"], [call], [helper.make_opsetid("", 22)]
    )  # fmt: skip
    seeds.append(model([helper.make_node("Recur", list(call.input), ["nY"], domain="ours")], named[1], (function,)))
    # Weights of integers.
    int8 = {f"n{name}": a for name, a in weights.to_onnx(lstm, precision="int8")[0].items()}
    roles = fastrnn.onnx.spec.INPUTS["DynamicQuantizeLSTM"]
    inputs = ["X", *(f"n{role}" if f"n{role}" in int8 else "" for role in roles[1:])]
    options = {"domain": "com.microsoft", "hidden_size": 2, "direction": "bidirectional"}
    seeds.append(model([helper.make_node("DynamicQuantizeLSTM", inputs, ["nY"], **options)], int8))
    behind, nodes = {"nB": named[1]["nB"]}, []
    for name in ("nW", "nR"):
        behind |= {
            f"{name}f": named[1][name],
            f"{name}s": np.full(6, 0.01, np.float32),
            f"{name}z": np.zeros(6, np.int8),
        }
        nodes += [
            helper.make_node(op_type, [f"{name}{source}", f"{name}s", f"{name}z"], [result], axis=1)
            for op_type, source, result in (("QuantizeLinear", "f", f"{name}q"), ("DequantizeLinear", "q", name))
        ]
    seeds.append(model([*nodes, node(gru, tensors(gru))], behind, opset=13))
    # Nodes between and around layers, and states that are computed.
    lower = helper.make_node("GRU", ["relu", "nW", "nR", "", "", "zeros"], ["Y", "H"], hidden_size=2)
    upper = helper.make_node("GRU", ["S", "uW", "nR", "", "", "H"], ["Y2"], hidden_size=2)
    around = [
        helper.make_node("Relu", ["X"], ["relu"]), helper.make_node("ConstantOfShape", ["shape"], ["zeros"]), lower,
        helper.make_node("Squeeze", ["Y", "one"], ["S"]), upper, helper.make_node("Squeeze", ["Y2", "one"], ["S2"]),
        helper.make_node("Transpose", ["S2"], ["T2"], perm=[1, 0, 2]), helper.make_node("Neg", ["T2"], ["nY"]),
    ]  # fmt: skip
    arrays = {"nW": named[1]["nW"], "nR": named[1]["nR"], "uW": named[1]["nR"], "one": np.array([1])}
    seeds.append(model(around, arrays | {"shape": np.array([1, 2, 2])}))
    return seeds


if onnx is not None:
    TARGETS["onnx"] = Target(_onnx_run, _onnx_seeds, mutations.onnx)


# ---- Arguments -----------------------------------------------------------------------------------------------------

_DTYPES = ("<f4", "<f8", ">f4", "<f2", "<i4", "<i8", "|u1", "|b1", "<c8", "<U2", "|O", "|V4", "<M8[s]")
_SCALARS = (
    None, True, False, 0, 1, 2, 3, -1, 2**31, 2**63, 10**30, 0.5, -1.0, 1e300, float("nan"), float("inf"), 1j, "", "x",
    "lstm", "tanh", b"tanh", b"", object(), int, np.float64(1), np.int8(1), {}, [], (), [[]], {"W": 1}, [1, "x"],
    range(3),
)  # fmt: skip


def array(draws: Draws, shape: tuple[int, ...] | None = None, dtype: str | None = None) -> NDArray:
    """An array of the shape and dtype, or of a small shape and any dtype; it may be strided or not aligned."""
    if shape is None:
        shape = tuple(draws.integer(0, 8) for _ in range(draws.integer(0, 4)))
    kind = np.dtype(draws.choice(_DTYPES) if dtype is None else dtype)
    values = np.random.default_rng(draws.integer(0, 9)).standard_normal(shape)
    if draws.chance(20):
        values.flat[:1] = draws.choice((np.nan, np.inf, -np.inf, 1e300))
    with np.errstate(all="ignore"):
        a = np.zeros(shape, kind) if kind.kind in "VM" else values.astype(kind)
    layout = draws.choice(("plain",) * 5 + ("fortran", "reversed", "misaligned", "read-only"))
    if layout == "fortran":
        a = np.asfortranarray(a)
    elif layout == "reversed" and a.ndim:
        a = a[::-1]
    elif layout == "misaligned" and a.dtype.kind in "fiu":
        room = np.zeros(a.nbytes + 1, np.uint8)
        room[1:] = np.frombuffer(a.tobytes(), np.uint8)
        a = np.ndarray(a.shape, a.dtype, room.data, 1)
    elif layout == "read-only":
        a.flags.writeable = False
    return a


def anything(draws: Draws) -> Any:
    return draws.choice(_SCALARS) if draws.chance(2) else array(draws)


def mostly(draws: Draws, value: Any) -> Any:
    """The value, or now and then something else."""
    return anything(draws) if draws.chance(12) else value


def changed(draws: Draws, mapping: dict[str, Any]) -> Any:
    """The mapping with something else in it, without something, or with more."""
    mapping = {key: mostly(draws, value) for key, value in mapping.items() if not draws.chance(16)}
    if draws.chance(16):
        mapping[draws.choice(("", "x", "W", "weight_ih_l7", "bias_ih_l0_reverse", 3, None))] = anything(draws)
    return mostly(draws, mapping)


def checked(
    function: Callable[..., Any], *args: Any, allowed: tuple[type[Exception], ...] = (), **options: Any
) -> None:
    """Call, with no error but those that are documented, and with the arguments as they were."""
    before = copied([list(args), options])
    with contextlib.suppress(TypeError, ValueError, *allowed):
        function(*args, **options)
    if not same(before, [list(args), options]):
        raise FindingError(f"{function.__name__} changed its arguments")


def copied(value: Any, depth: int = 5) -> Any:
    """A copy of the arrays in a value, as far as it is that deep."""
    if isinstance(value, np.ndarray):
        return value.copy(order="K")
    if type(value) not in (dict, list, tuple) or not depth:
        return value
    if isinstance(value, dict):
        return {key: copied(inner, depth - 1) for key, inner in value.items()}
    return type(value)(copied(inner, depth - 1) for inner in value)


def same(a: Any, b: Any) -> bool:
    """Whether two values have the same arrays in them."""
    if isinstance(a, np.ndarray):
        alike = isinstance(b, np.ndarray) and a.shape == b.shape and a.dtype == b.dtype
        return alike and (a.dtype.kind == "O" or a.tobytes() == b.tobytes())
    if a is b:
        return True
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if type(a) in (list, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (type(a) not in (int, float, str, bool) or a == b or a != a)


_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4, "DynamicQuantizeLSTM": 4}
_ACTIVATIONS = {"RNN": 1, "GRU": 2, "LSTM": 3}
_FUNCTIONS = ("Tanh", "Sigmoid", "Relu", "tanh", "HardSigmoid", "LeakyRelu", "Affine", "Elu", "x", b"Tanh")


def _operator(draws: Draws) -> tuple[Any, Any, Any, Any]:
    """Arguments for run_op, and gradients of its results."""
    op, direction = draws.choice(tuple(_GATES)), draws.choice(("forward", "reverse", "bidirectional"))
    T, B, I, H = (draws.integer(0, 5) for _ in range(4))
    layout, dtype = draws.integer(0, 1), draws.choice(("<f4",) * 6 + ("<f8", "<f2"))
    D, G = 1 + (direction == "bidirectional"), _GATES[op]
    if op == "DynamicQuantizeLSTM":
        return _operator_of_integers(draws, direction, (T, B, I, H, D))
    state = (B, D, H) if layout else (D, B, H)
    shapes = {"X": (B, T, I) if layout else (T, B, I), "W": (D, G * H, I), "R": (D, G * H, H), "B": (D, 2 * G * H)}
    shapes |= {"initial_h": state} | ({"initial_c": state, "P": (D, 3 * H)} if op == "LSTM" else {})
    inputs: dict[str, Any] = {
        name: array(draws, shape, dtype) for name, shape in shapes.items() if name in "XWR" or draws.chance(2)
    }
    if draws.chance(2):
        lengths = np.array([draws.integer(-1, 6) for _ in range(B)], np.int64)
        inputs["sequence_lens"] = lengths.astype(draws.choice(("<i4", "<i8", "|u1")))
    count = D * _ACTIVATIONS[op]
    numbers = (0.0, 0.5, -1.0, 1e30, float("nan"), float("inf"))
    options: dict[str, Any] = {"direction": direction, "layout": layout}
    more = {
        "hidden_size": lambda: H,
        "clip": lambda: draws.choice(numbers),
        "activations": lambda: [draws.choice(_FUNCTIONS) for _ in range(count)],
        "activation_alpha": lambda: [draws.choice(numbers) for _ in range(draws.integer(0, count))],
        "activation_beta": lambda: [draws.choice(numbers) for _ in range(draws.integer(0, count))],
        {"GRU": "linear_before_reset"}.get(op, "input_forget"): lambda: draws.integer(0, 1),
    }
    options |= {name: value() for name, value in more.items() if draws.chance(3)}
    gradients = {"Y": (B, T, D, H) if layout else (T, D, B, H), "Y_h": state} | ({"Y_c": state} if op == "LSTM" else {})
    grads = {name: array(draws, shape, dtype) for name, shape in gradients.items()}
    return mostly(draws, op), changed(draws, inputs), changed(draws, options), changed(draws, grads)


def _operator_of_integers(
    draws: Draws, direction: str, sizes: tuple[int, int, int, int, int]
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    T, B, I, H, D = sizes
    dtype = draws.choice(("|i1", "|u1"))
    inputs = {"X": array(draws, (T, B, I), "<f4")}
    for name, K in (("W", I), ("R", H)):
        per = draws.choice(((D,), (D, 4 * H)))
        inputs |= {name: array(draws, (D, K, 4 * H), dtype), f"{name}_scale": array(draws, per, "<f4")}
        inputs[f"{name}_zero_point"] = array(draws, draws.choice(((D,), per)), dtype)
    options = {"direction": direction, "input_forget": draws.integer(0, 1)}
    return mostly(draws, "DynamicQuantizeLSTM"), changed(draws, inputs), changed(draws, options), {}


def run_op(content: bytes) -> None:
    draws = Draws(content)
    op, inputs, attrs, _ = _operator(draws)
    scale = draws.choice(("row", "row", "onnxruntime", "", None))
    checked(fastrnn.onnx.run_op, op, inputs, attrs, activation_scale=scale)


def run_grad(content: bytes) -> None:
    checked(fastrnn.onnx.run_grad, *_operator(Draws(content)), allowed=(NotImplementedError,))


def _options(draws: Draws) -> dict[str, Any]:
    """Options that conversions take, right ones and wrong ones."""
    choices = {
        "kind": (None, "rnn", "lstm", "gru", "x"), "dtype": (None, "float32", "f8", "i4"), "reset_after": (True, False),
        "coupled": (True, False), "bidirectional": (True, False), "prefix": ("a.", ""), "dropout": (0, 0.5),
        "update_gate": ("keep", "replace"), "nonlinearity": ("tanh", "relu"), "batch_first": (True, False),
        "rng": (0, 1),
    }  # fmt: skip
    return {name: mostly(draws, draws.choice(values)) for name, values in choices.items() if draws.chance(6)}


def _stack(draws: Draws) -> Any:
    """A layer with everything that conversions read off shapes."""
    kind = draws.choice((fastrnn.RNN, fastrnn.LSTM, fastrnn.GRU))
    I, H, L = draws.integer(1, 4), draws.integer(1, 4), draws.integer(1, 2)
    own = {"peephole": draws.chance(2), "proj_size": draws.integer(0, H - 1)} if kind is fastrnn.LSTM else {}
    dtype = draws.choice((np.float32, np.float64))
    return kind(I, H, L, bias=draws.chance(2), bidirectional=draws.chance(2), rng=0, dtype=dtype, **own)


def from_torch(content: bytes) -> None:
    draws = Draws(content)
    given = changed(draws, _stack(draws).state_dict())
    if isinstance(given, dict) and draws.chance(4):
        given = {f"a.{name}": value for name, value in given.items()}
    checked(weights.from_torch, given, **_options(draws))


def from_arrays(content: bytes) -> None:
    draws = Draws(content)
    order = draws.choice(("ifgo", "ofig", "igo", "rzn", "nzr", "h", "", "if"))
    I, H, G = draws.integer(0, 4), draws.integer(0, 4), len(order)
    shapes = {
        "weight_ih": (G * H, I), "weight_hh": (G * H, H), "bias": (G * H,), "bias_ih": (G * H,), "bias_hh": (G * H,),
        "weight_hr": (H - 1, H), "peephole": (3, H),
    }  # fmt: skip
    options = _options(draws)
    if draws.chance(2):
        shapes = {name: shape[::-1] if name.startswith("weight") else shape for name, shape in shapes.items()}
        options["transposed"] = mostly(draws, True)

    def blocks(shape: tuple[int, ...]) -> Any:
        shape = tuple(max(n, 0) for n in shape)
        if draws.chance(4) and order:
            return changed(draws, {gate: array(draws, shape, "<f4") for gate in order})
        return array(draws, shape, "<f4")

    parts = [
        changed(draws, {name: blocks(shapes[name]) for name in shapes if name[-2:] in ("ih", "hh") or draws.chance(3)})
        for _ in range(draws.integer(1, 3))
    ]
    options |= {"order": mostly(draws, order)} | ({"forget_bias": mostly(draws, 1.0)} if draws.chance(3) else {})
    checked(weights.from_arrays, mostly(draws, parts if draws.chance(2) else parts[0]), **options)


def from_keras(content: bytes) -> None:
    draws = Draws(content)
    G, I, H = draws.choice((1, 3, 4)), draws.integer(1, 4), draws.integer(1, 4)
    bias = draws.choice(([(G * H,)], [(2, 3 * H)], []))
    groups = [
        [mostly(draws, array(draws, shape, "<f4")) for shape in [(H if layer else I, G * H), (H, G * H), *bias]]
        for layer in range(draws.integer(1, 3))
    ]
    given = mostly(draws, [a for group in groups for a in group] if draws.chance(2) else groups)
    checked(weights.from_keras, given, **_options(draws))


def from_onnx(content: bytes) -> None:
    draws = Draws(content)
    G, I, H, D = draws.choice((1, 3, 4)), draws.integer(0, 4), draws.integer(0, 4), draws.integer(0, 3)
    shapes = {"W": (D, G * H, I), "R": (D, G * H, H), "B": (D, 2 * G * H), "P": (D, 3 * H)}
    nodes = [
        changed(draws, {name: array(draws, shapes[name], "<f4") for name in shapes if name in "WR" or draws.chance(2)})
        for _ in range(draws.integer(1, 2))
    ]
    checked(weights.from_onnx, mostly(draws, nodes if draws.chance(2) else nodes[0]), **_options(draws))


def load_state_dict(content: bytes) -> None:
    """Into layers, parts and optimisers: all or, on an error, nothing."""
    draws = Draws(content)
    layer = _stack(draws)
    subject: Any = draws.choice((
        lambda: layer, lambda: nn.Linear(2, 3, rng=0), lambda: optim.Adam(layer.params),
        lambda: optim.SGD(layer.params, 0.1, momentum=0.9),
    ))()  # fmt: skip
    before = copied(subject.state_dict())
    given = changed(draws, copied(before))
    try:
        subject.load_state_dict(given)
    except (TypeError, ValueError):
        if not same(before, subject.state_dict()):
            raise FindingError(f"{type(subject).__name__}.load_state_dict changed something before an error") from None


def _random_seeds() -> list[bytes]:
    rng = random.Random(0)
    return [bytes(64), *(rng.randbytes(n) for n in (32, 64, 64, 128, 128, 256, 256))]


for _run in (damaged, run_op, run_grad, from_torch, from_arrays, from_keras, from_onnx, load_state_dict):
    TARGETS[_run.__name__] = Target(_run, _random_seeds)
