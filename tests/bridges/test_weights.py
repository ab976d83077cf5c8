"""fastrnn.weights, fastrnn.save and load: no bit is lost to another framework and back, and shapes tell the rest."""

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generators import VARIANTS, build_layer, random_call
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import infer
from test_golden import FILES, Golden

import fastrnn
from fastrnn import GRU, LSTM, RNN, serialization, weights

DOCS = Path(__file__).parents[2] / "docs"
ROUND = {
    "torch": (weights.to_torch, weights.from_torch),
    "keras": (weights.to_keras, weights.from_keras),
    "onnx": (weights.to_onnx, weights.from_onnx),
}


def hidden_options(layer: Any) -> dict[str, Any]:
    """Options that weights do not show."""
    return {"batch_first": layer.batch_first} | layer.cell.hidden_options


def assert_same(actual: Any, expected: Any) -> None:
    """The same kind of layer, and the same bits."""
    assert repr(actual) == repr(expected)
    assert list(actual.params) == list(expected.params)
    for name, value in expected.params.items():
        assert actual.params[name].tobytes() == value.tobytes(), name
        assert actual.params[name].flags.c_contiguous


@st.composite
def layers(draw: Any, **fixed: Any) -> Any:
    variant = draw(st.sampled_from(sorted(VARIANTS)))
    sizes = st.sampled_from((2, 3, 5, 6))
    options: dict[str, Any] = {
        "num_layers": draw(st.sampled_from((1, 2, 3))),
        "bidirectional": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "dtype": draw(st.sampled_from((np.float32, np.float64))),
        "rng": draw(st.integers(0, 1000)),
    }
    return build_layer(variant, draw(sizes), draw(sizes), **options | fixed)


def one_bias(layer: Any) -> Any:
    """The layer with bias_hh zero, as it is from a framework with one bias."""
    for name, value in layer.params.items():
        if name.startswith("bias_hh"):
            value[:] = 0
    return layer


# ---- Round trips ---------------------------------------------------------------------------------------------------


@given(layers())
def test_torch_and_back(layer: Any) -> None:
    if "PyTorch" in layer.cell.missing:
        with pytest.raises(ValueError, match="that PyTorch has, got"):
            weights.to_torch(layer)
        return
    state_dict = weights.to_torch(layer, "a.b.")
    assert set(state_dict) == {f"a.b.{name}" for name in layer.params}
    options = hidden_options(layer)
    if options.get("update_gate") == "replace":
        options["weights_update_gate"] = "keep"  # as PyTorch's
    assert_same(weights.from_torch(state_dict, "a.b.", **options), layer)


@given(layers(), st.booleans())
def test_keras_and_back(layer: Any, flat: bool) -> None:
    if "Keras" in layer.cell.missing:
        with pytest.raises(ValueError, match="that Keras has, got"):
            weights.to_keras(layer)
        return
    if not (isinstance(layer, GRU) and layer.cell.reset_after):
        one_bias(layer)
    lists = weights.to_keras(layer)
    flat = flat and layer.hidden_size != 2  # the next test
    given: Any = list(chain(*lists)) if flat else lists
    options = hidden_options(layer) | ({"bidirectional": layer.bidirectional} if flat else {})
    assert_same(weights.from_keras(given, **options), layer)


@given(layers())
def test_onnx_and_back(layer: Any) -> None:
    if "ONNX" in layer.cell.missing:
        with pytest.raises(ValueError, match="that ONNX has, got"):
            weights.to_onnx(layer)
        return
    nodes = weights.to_onnx(layer)
    assert len(nodes) == layer.num_layers
    assert_same(weights.from_onnx(nodes, **hidden_options(layer)), layer)


@given(layers(), st.sampled_from((".npz", ".safetensors")), st.sampled_from(("", "encoder.rnn.")))
def test_files_and_back(tmp_path_factory: Any, layer: Any, suffix: str, prefix: str) -> None:
    path = tmp_path_factory.mktemp("layers") / f"layer{suffix}"
    layer.dropout = 0.25
    fastrnn.save(path, layer, prefix, {"more": "words"})
    assert serialization.load(path)[1]["more"] == "words"
    assert_same(fastrnn.load(path, prefix), layer)


@pytest.mark.parametrize(
    ("variant", "missing"),
    [
        ("rnn-relu", {}),
        ("lstm", {}),
        ("lstm-peephole", {"torch": "peepholes", "keras": "peepholes"}),
        ("lstm-proj", {"keras": "a projection", "onnx": "a projection"}),
        ("gru-replace", {}),
        ("gru-before", {"torch": "a GRU with reset_after=False"}),
        ("mingru", {"torch": "a MinGRU", "keras": "a MinGRU", "onnx": "a MinGRU"}),
    ],
)
def test_what_other_frameworks_do_not_have(variant: str, missing: dict[str, str]) -> None:
    for framework, (there, _) in ROUND.items():
        layer = one_bias(build_layer(variant, 3, 4))
        if framework in missing:
            with pytest.raises(ValueError, match=f"has, got {missing[framework]}$"):
                there(layer)
        else:
            there(layer)


@pytest.mark.parametrize("framework", ROUND)
def test_nothing_is_shared(framework: str) -> None:
    there, back = ROUND[framework]
    layer = one_bias(LSTM(3, 4, rng=0))
    before = {name: value.copy() for name, value in layer.params.items()}
    exported: Any = there(layer)
    imported = back(exported)
    for arrays in [exported] if isinstance(exported, dict) else exported:
        for a in arrays.values() if isinstance(arrays, dict) else arrays:
            a[...] = 9
    for name, value in before.items():
        assert (layer.params[name] == value).all()
        assert (imported.params[name] == value).all()


def test_replacing_update_gate_computes_the_same_elsewhere() -> None:
    """Other frameworks' update gates keep: the exported weights, in a layer that keeps, give the same function."""
    layer = GRU(3, 5, update_gate="replace", dtype=np.float64, rng=0)
    call = random_call(layer, 4, 2, np.random.default_rng(0))
    expected = infer(layer, call)["y"]
    for there, back in ROUND.values():
        options = {"reset_after": True} if back is weights.from_onnx else {}
        options |= {"batch_first": False} if back is weights.from_keras else {}
        np.testing.assert_allclose(infer(back(there(layer), **options), call)["y"], expected, rtol=1e-12, atol=1e-14)


# ---- Other frameworks' own numbers ----------------------------------------------------------------------------------

# Written out by hand, not by the table: at which place among theirs our gates i, f, g, o or r, z, n are.
KERAS_COLUMNS = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 1, 2, 3]}
ONNX_ROWS = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 2, 3, 1]}


def placed(rows: np.ndarray, positions: list[int]) -> np.ndarray:
    """Our gates' rows, each at its position there."""
    blocks = np.split(rows, len(positions))
    return np.concatenate([blocks[positions.index(k)] for k in range(len(positions))])


def suffixes(golden: Golden) -> list[list[str]]:
    kwargs = golden.config["kwargs"]
    ends = ("", "_reverse")[: 1 + bool(kwargs.get("bidirectional"))]
    return [[f"_l{layer}{end}" for end in ends] for layer in range(kwargs.get("num_layers", 1))]


@pytest.mark.parametrize("path", [p for p in FILES if p.name.startswith("keras")], ids=lambda p: p.stem)
def test_keras_lists_of_golden_files(path: Path) -> None:
    golden = Golden(path)
    cell, params, kwargs = golden.config["cell"], golden.group("param/"), golden.config["kwargs"]
    lists = []
    for layer in suffixes(golden):
        lists.append([])
        for suffix in layer:
            lists[-1] += [placed(params[f"weight_{k}{suffix}"], KERAS_COLUMNS[cell]).T for k in ("ih", "hh")]
            if f"bias_ih{suffix}" in params:
                two = [placed(params[f"bias_{k}{suffix}"], KERAS_COLUMNS[cell]) for k in ("ih", "hh")]
                lists[-1].append(np.stack(two) if kwargs.get("reset_after") else two[0])
    options = {name: kwargs[name] for name in ("nonlinearity",) if name in kwargs}
    if cell == "GRU" and not kwargs.get("bias", True):
        options["reset_after"] = kwargs["reset_after"]  # without a bias nothing shows it
    layer = weights.from_keras(lists, batch_first=False, **options)
    assert_same(layer, golden.layer())
    y, _ = layer(golden.arrays["x"], golden.state("h0", "c0"), lengths=golden.lengths)
    golden.check("output", "y", y)
    for theirs, ours in zip(lists, weights.to_keras(layer), strict=True):
        for a, b in zip(theirs, ours, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("path", [p for p in FILES if p.name.startswith("onnx")], ids=lambda p: p.stem)
def test_onnx_tensors_of_golden_files(path: Path) -> None:
    golden = Golden(path)
    cell, params = golden.config["cell"], golden.group("param/")
    (layer,) = suffixes(golden)
    tensors = {
        "W": np.stack([placed(params[f"weight_ih{s}"], ONNX_ROWS[cell]) for s in layer]),
        "R": np.stack([placed(params[f"weight_hh{s}"], ONNX_ROWS[cell]) for s in layer]),
    }
    biases = [[placed(params[f"bias_{k}{s}"], ONNX_ROWS[cell]) for k in ("ih", "hh")] for s in layer]
    tensors["B"] = np.stack([np.concatenate(two) for two in biases])
    if golden.config["kwargs"].get("peephole"):
        tensors["P"] = np.stack([params[f"peephole{s}"][[0, 2, 1]].reshape(-1) for s in layer])
    options = {k: v for k, v in golden.config["kwargs"].items() if k in ("nonlinearity", "reset_after")}
    imported = weights.from_onnx(tensors, **options)
    assert_same(imported, golden.layer())
    (exported,) = weights.to_onnx(imported)
    for name, value in tensors.items():
        np.testing.assert_array_equal(exported[name], value)


@pytest.mark.parametrize("path", [p for p in FILES if "torch_" in p.name and "float64" in p.name], ids=lambda p: p.stem)
def test_torch_state_dicts_of_golden_files(path: Path, tmp_path: Path) -> None:
    """In a file beside other things, as a model's state dict is."""
    golden = Golden(path)
    others = {"fc.weight": np.zeros((2, 3)), "encoder.rnn2.weight_ih_l0": np.zeros((4, 1)), "weight_ih": np.zeros(3)}
    model = {f"encoder.rnn.{name}": value for name, value in golden.group("param/").items()}
    np.savez(tmp_path / "model.npz", **(others | model))
    options = {k: v for k, v in golden.config["kwargs"].items() if k == "nonlinearity"}
    assert_same(fastrnn.load(tmp_path / "model.npz", "encoder.rnn.", **options), golden.layer())


# ---- What is read off, and what is said ----------------------------------------------------------------------------


def test_a_cell_of_torch() -> None:
    layer = GRU(3, 4, rng=0)
    assert_same(weights.from_torch({name[:-3]: value for name, value in layer.params.items()}), layer)


def test_dtype_and_kind() -> None:
    layer = RNN(3, 4, rng=0)
    whole = {name: value.astype(np.int32) for name, value in layer.params.items()}
    with pytest.raises(TypeError, match=r"weights: expected all float32 or all float64, got int32; give dtype="):
        weights.from_torch(whole)
    assert weights.from_torch(whole, dtype=np.float32, kind="rnn").dtype == np.float32
    for odd in (np.complex64, "S4"):
        with pytest.raises(TypeError, match="weights: expected arrays of real numbers, got "):
            weights.from_torch({name: value.astype(odd) for name, value in layer.params.items()}, dtype=np.float32)
    with pytest.raises(ValueError, match="kind: expected weights of 'gru', got those of 'rnn'"):
        weights.from_torch(layer.params, kind="gru")


def test_half_precision_is_widened() -> None:
    layer = GRU(3, 4, rng=0)
    half = {name: value.astype(np.float16) for name, value in layer.params.items()}
    widened = weights.from_torch(half)
    assert widened.dtype == np.float32
    assert all((widened.params[name] == value).all() for name, value in half.items())
    mixed = weights.from_torch(half | {"weight_ih_l0": layer.params["weight_ih_l0"]})
    assert (mixed.params["weight_ih_l0"] == layer.params["weight_ih_l0"]).all()
    assert weights.from_torch(half, dtype=np.float64).dtype == np.float64


def test_what_the_update_gate_of_weights_does_is_never_guessed() -> None:
    replaces = GRU(3, 4, update_gate="replace", dtype=np.float64, rng=0)
    own, theirs = replaces.state_dict(), weights.to_torch(replaces)
    for state_dict in (own, theirs):
        with pytest.raises(ValueError, match='update_gate="replace": expected weights_update_gate with it, got none'):
            weights.from_torch(state_dict, update_gate="replace")
    assert_same(weights.from_torch(own, weights_update_gate="replace"), replaces)
    assert_same(weights.from_torch(own, weights_update_gate="replace", update_gate="replace"), replaces)
    assert_same(weights.from_torch(theirs, weights_update_gate="keep", update_gate="replace"), replaces)
    keeps = weights.from_torch(theirs)
    assert_same(weights.from_torch(theirs, weights_update_gate="keep"), keeps)
    assert_same(weights.from_torch(own, weights_update_gate="replace", update_gate="keep"), keeps)
    call = random_call(replaces, 4, 2, np.random.default_rng(0))
    np.testing.assert_allclose(infer(keeps, call)["y"], infer(replaces, call)["y"], rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="weights_update_gate: expected one of 'keep', 'replace', got 'new'"):
        weights.from_torch(own, weights_update_gate="new")


# ---- Plain arrays ----------------------------------------------------------------------------------------------------


def in_order(layer: Any, order: str, name: str) -> np.ndarray:
    """A parameter with the gates' blocks in another order."""
    blocks = dict(zip(layer.cell.gates, np.split(layer.params[name], len(order)), strict=True))
    return np.concatenate([blocks[gate] for gate in order])


@pytest.mark.parametrize(
    ("variant", "order"),
    [("lstm", "ifog"), ("lstm", "igfo"), ("lstm-peephole", "ofgi"), ("lstm-coupled-peephole-proj", "ogi"),
     ("gru", "zrn"), ("gru-replace", "nzr"), ("lstm-proj", "ifog")],
)  # fmt: skip
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_arrays_in_any_order(variant: str, order: str, transposed: bool, apart: bool) -> None:
    layer = one_bias(build_layer(variant, 3, 4, num_layers=2, bidirectional=True, rng=0))
    arrays: list[dict[str, Any]] = []
    for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        arrays.append({})
        for name in ("weight_ih", "weight_hh", "bias_ih"):
            a = in_order(layer, order, name + suffix)
            blocks = np.split(a, len(order))
            if transposed:
                a, blocks = a.T, [block.T for block in blocks]
            key = "bias" if name == "bias_ih" else name
            arrays[-1][key] = dict(zip(order, blocks, strict=True)) if apart else a
        if f"weight_hr{suffix}" in layer.params:
            hr = layer.params[f"weight_hr{suffix}"]
            arrays[-1]["weight_hr"] = hr.T if transposed else hr
        if f"peephole{suffix}" in layer.params:
            rows = layer.params[f"peephole{suffix}"]
            arrays[-1]["peephole"] = dict(zip(layer.cell.peepholes, rows, strict=True)) if apart else rows
    options = {name: v for name, v in hidden_options(layer).items() if name != "coupled"}
    built = weights.from_arrays(
        arrays, order=None if apart else order, transposed=transposed, bidirectional=True, **options
    )
    assert_same(built, layer)


def test_biases_of_arrays() -> None:
    layer = LSTM(3, 4, rng=0)
    own = {name.removesuffix("_l0"): value for name, value in layer.params.items()}
    assert_same(weights.from_arrays(own), layer)
    matrices = {name: own[name] for name in ("weight_ih", "weight_hh")}
    assert list(weights.from_arrays(matrices).params) == ["weight_ih_l0", "weight_hh_l0"]
    hh = weights.from_arrays(matrices | {"bias_hh": own["bias_hh"]})
    assert (hh.params["bias_hh_l0"] == own["bias_hh"]).all()
    assert not hh.params["bias_ih_l0"].any()
    for arrays in (own, matrices):
        plain, more = weights.from_arrays(arrays), weights.from_arrays(arrays, forget_bias=1.0)
        for name, value in plain.params.items():
            added = np.array([0, 1, 0, 0], np.float32).repeat(4) if name == "bias_ih_l0" else 0
            np.testing.assert_array_equal(more.params[name], value + added)
        assert more.params["bias_ih_l0"].any()
    half = {name: value.astype(np.float16) for name, value in own.items()}
    assert weights.from_arrays(half, forget_bias=1).dtype == np.float32


def test_a_basic_lstm_cell_of_tensorflow_1() -> None:
    """One kernel for x and h, gates i, j, f, o, and 1.0 that is added to f when it runs."""
    rng = np.random.default_rng(0)
    I, H = 3, 4
    kernel, bias = rng.standard_normal((I + H, 4 * H)), rng.standard_normal(4 * H)
    arrays = {"weight_ih": kernel[:I], "weight_hh": kernel[I:], "bias": bias}
    layer = weights.from_arrays(arrays, order="igfo", transposed=True, forget_bias=1.0)
    x, h, c = rng.standard_normal((5, I)), np.zeros(H), np.zeros(H)

    def sigmoid(a: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-a))

    expected = []
    for x_t in x:
        i, j, f, o = np.split(np.concatenate([x_t, h]) @ kernel + bias, 4)
        c = c * sigmoid(f + 1.0) + sigmoid(i) * np.tanh(j)
        h = np.tanh(c) * sigmoid(o)
        expected.append(h)
    np.testing.assert_allclose(layer(x)[0], expected, rtol=1e-12)


def test_layers_of_haste() -> None:
    """x W, gates i, g, f, o and z, r, h; what it adds to the forget gate at first is in the bias."""
    rng = np.random.default_rng(0)
    I, H = 3, 4

    def arrays(G: int, **biases: str) -> tuple[dict[str, NDArray], list[NDArray]]:
        found = [rng.standard_normal(shape) for shape in ((I, G * H), (H, G * H), *[(G * H,)] * len(biases))]
        return dict(zip(("weight_ih", "weight_hh", *biases), found, strict=True)), found

    def sigmoid(a: NDArray) -> NDArray:
        return 1 / (1 + np.exp(-a))

    x, h, c, expected = rng.standard_normal((5, I)), np.zeros(H), np.zeros(H), []
    given, (kernel, recurrent_kernel, bias) = arrays(4, bias="bias")
    for x_t in x:
        i, g, f, o = np.split(x_t @ kernel + h @ recurrent_kernel + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        expected.append(h)
    lstm = weights.from_arrays(given, order="igfo", transposed=True)
    np.testing.assert_allclose(lstm(x)[0], expected, rtol=1e-12)

    given, (kernel, recurrent_kernel, bias, recurrent_bias) = arrays(3, bias_ih="bias", bias_hh="recurrent_bias")
    h, expected = np.zeros(H), []
    for x_t in x:
        (xz, xr, xh), (hz, hr, hh) = (
            np.split(x_t @ kernel + bias, 3),
            np.split(h @ recurrent_kernel + recurrent_bias, 3),
        )
        z, r = sigmoid(xz + hz), sigmoid(xr + hr)
        h = z * h + (1 - z) * np.tanh(xh + r * hh)
        expected.append(h)
    gru = weights.from_arrays(given, order="zrn", transposed=True)
    np.testing.assert_allclose(gru(x)[0], expected, rtol=1e-12)


def test_options_go_before_those_in_the_file(tmp_path: Path) -> None:
    layer = GRU(3, 4, reset_after=False, update_gate="replace", batch_first=True, dropout=0.5, num_layers=2, rng=0)
    fastrnn.save(tmp_path / "gru.npz", layer)
    assert repr(fastrnn.load(tmp_path / "gru.npz")) == repr(layer)
    loaded = fastrnn.load(tmp_path / "gru.npz", batch_first=False, kind="gru", dtype=np.float64)
    assert (loaded.batch_first, loaded.dtype, loaded.dropout) == (False, np.float64, 0.5)


def test_several_layers_in_one_file(tmp_path: Path) -> None:
    a, b = LSTM(3, 4, rng=0), GRU(4, 5, reset_after=False, rng=1)
    fastrnn.save(tmp_path / "a.npz", a, "a.")
    fastrnn.save(tmp_path / "b.npz", b, "b.")
    (tensors_a, words_a), (tensors_b, words_b) = (serialization.load(tmp_path / f"{n}.npz") for n in "ab")
    serialization.save(tmp_path / "both.npz", tensors_a | tensors_b, words_a | words_b)
    assert_same(fastrnn.load(tmp_path / "both.npz", "a."), a)
    assert_same(fastrnn.load(tmp_path / "both.npz", "b."), b)


def test_keras_shapes_that_tell_two_stories() -> None:
    square = [np.zeros((4, 16), np.float32), np.zeros((4, 16), np.float32), np.zeros(16, np.float32)] * 2
    with pytest.raises(ValueError, match="bidirectional: expected True or False, for these shapes may be 2 layers or"):
        weights.from_keras(square)
    assert weights.from_keras(square, bidirectional=True).num_layers == 1
    assert weights.from_keras(square, bidirectional=False).num_layers == 2
    assert weights.from_keras([square[:3], square[3:]]).num_layers == 2
    assert weights.from_keras([square]).bidirectional


def test_keras_biases() -> None:
    layer = LSTM(3, 4, num_layers=2, rng=0)
    with pytest.raises(ValueError, match=r"bias_hh_l0: expected zeros, for Keras has one bias here; sum_biases=True"):
        weights.to_keras(layer)
    summed = weights.from_keras(weights.to_keras(layer, sum_biases=True), batch_first=False)
    call = random_call(layer, 4, 2, np.random.default_rng(0))
    np.testing.assert_allclose(infer(summed, call)["y"], infer(layer, call)["y"], atol=1e-6)
    assert not summed.params["bias_hh_l0"].any()


def test_keras_kernels_that_look_like_biases() -> None:
    """All arrays of a GRU of 2 units that reads 2 inputs are (2, 6): kernels, recurrent kernels, pairs of biases."""
    for layer in (GRU(2, 2, num_layers=3, bias=False, rng=0), GRU(2, 2, num_layers=2, rng=0)):
        lists = weights.to_keras(layer)
        assert_same(weights.from_keras(lists, batch_first=False), layer)
        with pytest.raises(ValueError, match="or no bias, got either; a list for each layer tells"):
            weights.from_keras(list(chain(*lists)))


F = np.float32
TORCH_LSTM = {"weight_ih_l0": np.zeros((20, 3), F), "weight_hh_l0": np.zeros((20, 5), F)}
KERAS_LSTM = [np.zeros((3, 20), F), np.zeros((5, 20), F), np.zeros(20, F)]
ARRAYS = {"weight_ih": np.zeros((20, 3), F), "weight_hh": np.zeros((20, 5), F)}
ONNX_LSTM = {"W": np.zeros((1, 20, 3), F), "R": np.zeros((1, 20, 5), F)}

ERRORS: dict[str, tuple[Any, type[Exception], str]] = {
    "torch: Keras's": (
        lambda: weights.from_torch({"weight_ih_l0": KERAS_LSTM[0], "weight_hh_l0": KERAS_LSTM[1]}), ValueError,
        "weights: expected PyTorch's weight_ih (G*H, I) and weight_hh (G*H, H), G = 1, 3 or 4, got (3, 20) and (5, 20);"
        " they look like Keras's LSTM",
    ),
    "torch: ONNX's": (
        lambda: weights.from_torch({"weight_ih_l0": ONNX_LSTM["W"], "weight_hh_l0": ONNX_LSTM["R"]}), ValueError,
        "they look like ONNX's LSTM",
    ),
    "keras: PyTorch's": (
        lambda: weights.from_keras(list(TORCH_LSTM.values())), ValueError,
        "weights: expected Keras's kernel (I, G*H) and recurrent_kernel (H, G*H), G = 1, 3 or 4, got (20, 3) and"
        " (20, 5); they look like PyTorch's LSTM",
    ),
    "onnx: PyTorch's": (
        lambda: weights.from_onnx({"W": TORCH_LSTM["weight_ih_l0"], "R": TORCH_LSTM["weight_hh_l0"]}), ValueError,
        "they look like PyTorch's LSTM",
    ),
    "torch: nobody's": (
        lambda: weights.from_torch({"weight_ih_l0": np.zeros((7, 3), F), "weight_hh_l0": np.zeros((7, 5), F)}),
        ValueError, "got (7, 3) and (7, 5)",
    ),
    "torch: another prefix": (
        lambda: weights.from_torch({f"a.{name}": value for name, value in TORCH_LSTM.items()}), ValueError,
        "prefix: expected names such as weight_ih_l0, got none; prefixes of recurrent layers there: 'a.'",
    ),
    "torch: nothing": (lambda: weights.from_torch({"fc.weight": F(0)}), ValueError, "no recurrent layer there"),
    "torch: a layer missing": (
        lambda: weights.from_torch({"r.weight_ih_l1": F(0), "r.weight_hh_l1": F(0)}, "r."), ValueError,
        "missing ['r.weight_hh_l0', 'r.weight_ih_l0']",
    ),
    "torch: a bias missing": (
        lambda: weights.from_torch(TORCH_LSTM | {"bias_ih_l0": np.zeros(20, F)}), ValueError, "missing ['bias_hh_l0']",
    ),
    "torch: a wrong bias": (
        lambda: weights.from_torch(TORCH_LSTM | {"bias_ih_l0": np.zeros(20, F), "bias_hh_l0": np.zeros(5, F)}),
        ValueError, "bias_hh_l0: expected (20,), got (5,)",
    ),
    "torch: a wrong projection": (
        lambda: weights.from_torch(TORCH_LSTM | {"weight_hr_l0": np.zeros((5, 4), F)}), ValueError,
        "expected weight_hr (P, H) and weight_hh (4*H, P), got (5, 4) and (20, 5)",
    ),
    "torch: a layer and a cell": (
        lambda: weights.from_torch(TORCH_LSTM | {"weight_ih": F(0)}), ValueError, "got the names of both",
    ),
    "torch: mixed dtypes": (
        lambda: weights.from_torch(TORCH_LSTM | {"weight_ih_l0": np.zeros((20, 3))}), TypeError,
        "expected all float32 or all float64, got float32, float64",
    ),
    "torch: an option that shapes show": (
        lambda: weights.from_torch(TORCH_LSTM, num_layers=1), TypeError,
        "num_layers: expected only options that weights do not show",
    ),
    "torch: a name that is none": (
        lambda: weights.from_torch({3: np.zeros(3)}), TypeError,
        "state_dict: expected names (str), got 3, which is int",
    ),
    "torch: a prefix that is none": (
        lambda: weights.from_torch(TORCH_LSTM, prefix=None), TypeError, "prefix: expected a str, got NoneType",
    ),
    "to torch: a prefix that is none": (
        lambda: weights.to_torch(LSTM(3, 4), prefix=None), TypeError, "prefix: expected a str, got NoneType",
    ),
    "torch: None": (
        lambda: weights.from_torch(None), TypeError,
        "expected names and arrays, or a module, got NoneType",
    ),
    "torch: no kind": (lambda: weights.from_torch(TORCH_LSTM, kind=3), TypeError, "kind: expected one of 'rnn', "),
    "torch: no dtype": (lambda: weights.from_torch(TORCH_LSTM, dtype="int"), TypeError, "dtype: expected float32 or"),
    "keras: None": (lambda: weights.from_keras(None), TypeError, "weights: expected a list from layer.get_weights()"),
    "keras: no flag": (
        lambda: weights.from_keras(KERAS_LSTM, bidirectional="both"), TypeError,
        "bidirectional: expected True or False, got 'both'",
    ),
    "keras: no flag of a reset": (
        lambda: weights.from_keras(KERAS_LSTM, reset_after="yes"), TypeError, "reset_after: expected True or False",
    ),
    "to keras: no flag": (
        lambda: weights.to_keras(LSTM(3, 4), sum_biases="yes"), TypeError, "sum_biases: expected True or False",
    ),
    "arrays: nothing": (
        lambda: weights.from_arrays([]), ValueError,
        "arrays: expected 1 mappings for each layer, got 0",
    ),
    "arrays: None": (lambda: weights.from_arrays(None), TypeError, "arrays: expected names and arrays, got NoneType"),
    "arrays: one direction": (
        lambda: weights.from_arrays(ARRAYS, bidirectional=True), ValueError,
        "expected 2 mappings for each layer, got 1",
    ),
    "arrays: names": (
        lambda: weights.from_arrays([ARRAYS | {"W": F(0)}]), ValueError, "arrays[0]: expected weight_ih, weight_hh and",
    ),
    "arrays: names that are none": (
        lambda: weights.from_arrays({3: F(0)}), ValueError, "arrays: expected weight_ih, weight_hh and maybe",
    ),
    "arrays: biases": (
        lambda: weights.from_arrays(ARRAYS | {"bias": F(0), "bias_hh": F(0)}), ValueError,
        "bias, or bias_ih and bias_hh",
    ),
    "arrays: biases in some": (
        lambda: weights.from_arrays([ARRAYS, ARRAYS | {"bias": np.zeros(20, F)}]), ValueError, "the same names in all",
    ),
    "arrays: letters": (
        lambda: weights.from_arrays(ARRAYS, order="ifco"), ValueError,
        "order: expected the letters of 'h', 'ifgo', 'igo', 'rzn', 'ifzo', 'zn', 'ifn' in any order, got 'ifco'; what",
    ),
    "arrays: twice a letter": (lambda: weights.from_arrays(ARRAYS, order="iifo"), ValueError, "got 'iifo'"),
    "arrays: no letters": (lambda: weights.from_arrays(ARRAYS, order=4), TypeError, "order: expected a str, a letter"),
    "arrays: blocks": (
        lambda: weights.from_arrays(ARRAYS, order="rzn"), ValueError,
        "arrays['weight_ih']: expected as many rows for each of the gates 'rzn', got shape (20, 3)",
    ),
    "arrays: a number": (
        lambda: weights.from_arrays(ARRAYS | {"bias": 3.0}, order="ifog"), ValueError,
        "arrays['bias']: expected as many",
    ),
    "arrays: a gate missing": (
        lambda: weights.from_arrays(ARRAYS | {"bias": dict.fromkeys("ifg", np.zeros(5))}), ValueError,
        "arrays['bias']: expected the letters of",
    ),
    "arrays: gates in one": (
        lambda: weights.from_arrays(ARRAYS | {"bias": dict.fromkeys(("if", "go"), np.zeros(10))}), ValueError,
        "arrays['bias']: expected a letter for each gate, got ['if', 'go']",
    ),
    "arrays: gates of different shapes": (
        lambda: weights.from_arrays(ARRAYS | {"bias": dict(zip("ifgo", map(np.zeros, (5, 5, 5, 4)), strict=True))}),
        ValueError, "arrays['bias']: expected arrays of one shape",
    ),
    "arrays: two kinds": (
        lambda: weights.from_arrays(ARRAYS | {"bias": dict.fromkeys("rzn", np.zeros(5, F))}, order="ifog"), ValueError,
        "arrays: expected the gates of one kind of layer, got fgio and nrz",
    ),
    "arrays: another order's shape": (
        lambda: weights.from_arrays(ARRAYS | {"weight_hh": np.zeros((20, 4), F)}, order="ifgo"), ValueError,
        "G = 1, 3 or 4, got (20, 3) and (20, 4)",
    ),
    "arrays: a peephole": (
        lambda: weights.from_arrays(ARRAYS | {"peephole": {"g": np.zeros(5, F)}}), ValueError,
        "arrays['peephole']: expected arrays (H,) of the gates i, f and o, got those of ['g']",
    ),
    "arrays: no forget gate": (
        lambda: weights.from_arrays({name: a[:15] for name, a in ARRAYS.items()}, forget_bias=1), ValueError,
        "forget_bias: expected 0 for a layer without a gate f, got 1.0",
    ),
    "arrays: a forget bias": (
        lambda: weights.from_arrays(ARRAYS, forget_bias="1"), TypeError, "forget_bias: expected a number, got str",
    ),
    "arrays: an endless forget bias": (
        lambda: weights.from_arrays(ARRAYS, forget_bias=np.inf), ValueError, "forget_bias: expected a finite number",
    ),
    "arrays: no flag": (
        lambda: weights.from_arrays(ARRAYS, transposed="T"), TypeError, "transposed: expected True or False, got 'T'",
    ),
    "torch: no mapping": (lambda: weights.from_torch([1]), TypeError, "state_dict: expected names and arrays"),
    "keras: nothing": (lambda: weights.from_keras([]), TypeError, "weights: expected a list from layer.get_weights()"),
    "keras: a lone kernel": (
        lambda: weights.from_keras([*KERAS_LSTM, KERAS_LSTM[0]]), ValueError,
        "expected kernel, recurrent_kernel and bias of each, or no bias, got shapes [(3, 20), (5, 20), (20,), (3, 20)]",
    ),
    "keras: layers that do not fit": (
        lambda: weights.from_keras([KERAS_LSTM, KERAS_LSTM]), ValueError, "weight_ih_l1: expected (20, 5), got (20, 3)",
    ),
    "keras: flat layers that do not fit": (
        lambda: weights.from_keras(KERAS_LSTM * 3), ValueError,
        "expected layers that read each other (H = 5), got kernels for input sizes [3, 3, 3]",
    ),
    "keras: biases in some": (
        lambda: weights.from_keras([KERAS_LSTM[:2], KERAS_LSTM]), ValueError, "expected biases in all layers",
    ),
    "keras: the other reset": (
        lambda: weights.from_keras([np.zeros((3, 15), F), np.zeros((5, 15), F), np.zeros(15, F)], reset_after=True),
        ValueError, "reset_after=True: expected biases of shape (2, 3*H), got (15,)",
    ),
    "keras: a reset of an LSTM": (
        lambda: weights.from_keras(KERAS_LSTM, reset_after=True), TypeError, "reset_after: expected only for a GRU",
    ),
    "onnx: a wrong B": (
        lambda: weights.from_onnx(ONNX_LSTM | {"B": np.zeros((1, 20), F)}), ValueError,
        "B: expected (1, 40), got (1, 20)",
    ),
    "onnx: nothing": (
        lambda: weights.from_onnx(None), TypeError,
        "tensors: expected names and arrays, or a list of such, got NoneType",
    ),
    "onnx: a name": (lambda: weights.from_onnx({3: 3, **ONNX_LSTM}), ValueError, "W, R and maybe B and P, got 3, W, R"),
    "onnx: complex": (
        lambda: weights.from_onnx({name: a + 0j for name, a in ONNX_LSTM.items()}, dtype=F), TypeError,
        "tensors['W']: expected an array of real numbers, got complex",
    ),
    "onnx: reset_after": (
        lambda: weights.from_onnx(ONNX_LSTM, reset_after="no"), TypeError,
        "reset_after: expected True or False, got 'no'",
    ),
    "onnx: peepholes of an RNN": (
        lambda: weights.from_onnx({"W": np.ones((1, 5, 4)), "R": np.ones((1, 5, 5)), "P": np.ones((1, 15))}),
        ValueError, "tensors: expected P only of an LSTM, got it of RNN",
    ),
    "onnx: no R": (lambda: weights.from_onnx({"W": ONNX_LSTM["W"]}), ValueError, "expected W, R and maybe B and P"),
    "onnx: directions differ": (
        lambda: weights.from_onnx([ONNX_LSTM, {name: np.concatenate([a, a]) for name, a in ONNX_LSTM.items()}]),
        ValueError, "expected nodes of 1 or of 2 directions, got [1, 2]",
    ),
    "to: no layer": (lambda: weights.to_torch({}), TypeError, "layer: expected an RNN, LSTM or GRU, got a dict of 0"),
    "save: arrays": (lambda: fastrnn.save("x.npz", {}), TypeError, "layer: expected an RNN, LSTM or GRU"),
}  # fmt: skip


@pytest.mark.parametrize("what", ERRORS)
def test_errors(what: str) -> None:
    call, error, message = ERRORS[what]
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_errors_of_a_file_name_it(tmp_path: Path) -> None:
    serialization.save(tmp_path / "odd.npz", {"fc.weight": np.zeros(3)})
    with pytest.raises(ValueError, match=r"odd\.npz: prefix: expected names such as weight_ih_l0"):
        fastrnn.load(tmp_path / "odd.npz")
    layer = RNN(2, 3)
    for words in ("{", "[]", json.dumps({"kind": "mlp"}), json.dumps({"nonlinearity": 3})):
        serialization.save(tmp_path / "odd.npz", layer.params, {"fastrnn.layer:": words})
        with pytest.raises((TypeError, ValueError), match=r"odd\.npz: "):
            fastrnn.load(tmp_path / "odd.npz")


# ---- Documents -----------------------------------------------------------------------------------------------------


def test_table_in_the_documents() -> None:
    text = (DOCS / "bridges.md").read_text()
    assert weights.convention_table() in text, f"docs/bridges.md has another table than:\n{weights.convention_table()}"
