"""Frozen layers and models in files: the small weights are written, and come back with the same bits."""

import json
from typing import Any

import numpy as np
import pytest
from generators import VARIANTS, build_layer
from models import MODELS, build_model

import fastrnn
from fastrnn import nn, serialization

NARROW = ("bfloat16", "int8")
F = np.float32


@pytest.fixture(params=["npz", "safetensors"])
def path(request: Any, tmp_path: Any) -> Any:
    return tmp_path / f"saved.{request.param}"


def assert_same_params(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert found[name].tobytes() == value.tobytes()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8", ("float32", "int8"), ("int8", "bfloat16")])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_frozen_layer(variant: str, precision: Any, path: Any) -> None:
    layer = build_layer(variant, 3, 5, num_layers=2, bidirectional=True, learn_initial_state=True)
    layer.load_state_dict({k: np.random.default_rng(0).standard_normal(p.shape, F) for k, p in layer.params.items()})
    frozen = layer.freeze(precision)
    fastrnn.save(path, frozen, "a.")
    found = fastrnn.load(path, "a.")
    assert type(found) is fastrnn.Frozen
    assert repr(found) == repr(frozen)
    assert_same_params(found.params, frozen.params)
    x = np.random.default_rng(1).standard_normal((4, 2, 3), F)
    np.testing.assert_array_equal(found(x)[0], frozen(x)[0])


def test_frozen_float64(path: Any) -> None:
    frozen = fastrnn.GRU(3, 4, dtype="f8", batch_first=True, reset_after=False, update_gate="replace").freeze()
    fastrnn.save(path, frozen)
    found = fastrnn.load(path)
    assert repr(found) == repr(frozen)
    assert_same_params(found.params, frozen.params)


@pytest.mark.parametrize("precision", [None, *NARROW])
@pytest.mark.parametrize("name", MODELS)
def test_a_frozen_model(name: str, precision: Any, path: Any) -> None:
    model, batch = build_model(name, dtype=F)
    frozen = model.freeze(precision)
    frozen.notes["accuracy"] = 0.5
    frozen.save(path)
    found = nn.load(path)
    assert repr(found) == repr(frozen)
    assert found.notes == frozen.notes
    assert_same_params(found.params, frozen.params)
    assert found.loss(batch).value == frozen.loss(batch).value


def test_files_are_small(path: Any) -> None:
    model = nn.ManyToMany(fastrnn.LSTM(128, 128, 2), nn.Linear(128, 500), nn.Embedding(500, 128))
    model.save(path)
    whole = path.stat().st_size
    for precision, share in (("bfloat16", 0.51), ("int8", 0.27)):
        model.freeze(precision).save(path)
        assert path.stat().st_size < share * whole
        fastrnn.save(path, model.rnn.freeze(precision))
        assert path.stat().st_size < share * 1056768  # the layer's in float32


def test_one_layer_of_a_model(path: Any) -> None:
    model, _ = build_model("tagger", dtype=F)
    frozen = model.freeze("int8", keep=["rnn.0"])
    frozen.save(path)
    layer = fastrnn.load(path, prefix="rnn.")
    assert layer.precision == ("float32", "int8")
    assert_same_params(layer.params, frozen.rnn.params)


def test_bfloat16_for_others(tmp_path: Any) -> None:
    theirs = pytest.importorskip("safetensors.torch", reason="safetensors or PyTorch is not installed")
    layer = fastrnn.LSTM(3, 4, rng=0)
    fastrnn.save(tmp_path / "layer.safetensors", layer.freeze("bfloat16"))
    found = theirs.load_file(tmp_path / "layer.safetensors")
    assert str(found["weight_ih_l0"].dtype) == "torch.bfloat16"
    bits = layer.freeze("bfloat16").params["weight_ih_l0"]
    np.testing.assert_array_equal(found["weight_ih_l0"].float().numpy().view(np.uint32) >> 16, bits)


def test_names_of_bfloat16_are_checked(path: Any) -> None:
    bits = np.array([0x3F80, 0x7FC1, 0xFF80], np.uint16)
    serialization.save(path, {"a": bits, "b": bits}, bfloat16=["b"])
    found, _ = serialization.load(path)
    np.testing.assert_array_equal(found["a"], bits)
    if path.suffix == ".safetensors":
        np.testing.assert_array_equal(found["b"].view(np.uint32) >> 16, bits)
    for wrong in ({"a": bits.astype(np.int16)}, {}):
        with pytest.raises(TypeError, match="bfloat16: expected names of arrays of uint16, got 'a'"):
            serialization.save(path, wrong, bfloat16=["a"])


# ---- Damage --------------------------------------------------------------------------------------------------------


def changed_layer(path: Any, precision: str, change: Any, saved: Any = None) -> None:
    """A file of a frozen layer with something changed, as by somebody who writes the digest, too."""
    frozen = fastrnn.GRU(3, 4, num_layers=2, rng=0).freeze(precision)
    words = {"kind": "gru", "batch_first": False, "precision": [precision] * 2} | (saved or {})
    tensors = frozen.state_dict()
    change(tensors)
    serialization.save(path, tensors, {"fastrnn.layer:": json.dumps(words)})


def put(name: str, value: Any) -> Any:
    return lambda tensors: tensors.update({name: value(tensors[name])})


W, S = "weight_hh_l1", "weight_hh_l1.scale"


def at_most(value: float) -> Any:
    return lambda a: np.append(a[:-1], F(value))


WRONG: list[tuple[str, Any, Any, str]] = [
    ("int8", lambda tensors: tensors.pop(S), None, f"{S}: expected a vector, got no such array"),
    ("int8", lambda tensors: tensors.pop(W), None, "missing"),
    ("int8", put(W, lambda a: a.astype(np.int16)), None, "expected all float32 or all float64"),
    ("int8", put(W, lambda a: a.astype(F)), None, f"{W}: expected int8, got float32"),
    ("int8", put(W, lambda a: a[:, :2]), None, "weight_hh"),
    ("int8", put(W, lambda a: a[0]), None, "weight_hh"),
    ("int8", put(S, lambda a: a[:-1]), None, f"{S}: expected (12,) of float32, finite and at least 0"),
    ("int8", put(S, lambda a: a[:, None]), None, f"{S}: expected a vector"),
    ("int8", put(S, lambda a: a.astype(np.float64)), None, f"{S}: expected (12,) of float32"),
    ("int8", put(S, at_most(-1)), None, f"{S}: expected (12,) of float32, finite and at least 0"),
    ("int8", put(S, at_most(np.nan)), None, f"{S}: expected (12,) of float32, finite and at least 0"),
    ("int8", put(S, at_most(np.inf)), None, f"{S}: expected (12,) of float32, finite and at least 0"),
    ("int8", put("bias_hh_l1", lambda a: a.astype(np.int8)), None, ""),
    ("int8", put("bias_hh_l1", lambda a: a[:-1]), None, "bias_hh_l1"),
    ("bfloat16", put(W, lambda a: np.full(a.shape, 0.1, F)), None, f"{W}: expected values of bfloat16, got float32"),
    ("bfloat16", put(W, lambda a: a.astype(np.int8)), None, f"{W}: expected values of bfloat16, got int8"),
    ("float32", put(W, lambda a: a.astype(np.int8)), None, f"{W}: expected float32, got int8"),
    ("int8", lambda tensors: None, {"precision": ["int8"]}, "precision: expected one for each of 2 layers, got 1"),
    ("int8", lambda tensors: None, {"precision": ["int4"] * 2}, "precision: expected one of"),
    ("int8", lambda tensors: None, {"precision": {"a": 1}}, "precision: expected str, or a sequence of them, got dict"),
    ("int8", lambda tensors: None, {"precision": [["int8"]] * 2}, "precision"),
    ("int8", lambda tensors: None, {"precision": None}, "expected all float32 or all float64"),
    ("int8", lambda tensors: None, {"kind": "rnn"}, "kind: expected weights of 'rnn'"),
]


@pytest.mark.parametrize(("precision", "change", "saved", "says"), WRONG)
def test_a_damaged_layer_is_refused(precision: str, change: Any, saved: Any, says: str, path: Any) -> None:
    changed_layer(path, precision, change, saved)
    with pytest.raises(ValueError, match=str(path)) as caught:
        fastrnn.load(path)
    assert says in str(caught.value)


def test_what_a_caller_asks_for(path: Any) -> None:
    fastrnn.save(path, fastrnn.GRU(3, 4).freeze("int8"))
    assert fastrnn.load(path, kind="gru", dtype="f4", batch_first=True).batch_first
    with pytest.raises(ValueError, match="dtype: expected float32, that of a frozen layer, got float64"):
        fastrnn.load(path, dtype="f8")
    with pytest.raises(ValueError, match="kind: expected weights of 'rnn'"):
        fastrnn.load(path, kind="rnn")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors, words: tensors.pop("output.weight.scale"), "weight.scale: expected a vector"),
        (lambda tensors, words: tensors.update({"output.more": np.zeros(1, F)}), "unknown ['more']"),
        (lambda tensors, words: tensors.update({"output.bias": np.zeros(2, F)}), "bias: expected (3,)"),
        (lambda tensors, words: tensors.update({"output.bias": np.zeros(3)}), "bias: expected"),
        (lambda tensors, words: tensors.update({"embedding.weight": np.zeros((9, 4))}), "weight: expected int8"),
        (lambda tensors, words: words["model"]["parts"]["output"]["options"].pop("precision"), "precision"),
        (lambda tensors, words: words["model"]["parts"]["output"]["options"].update(precision="int4"), "weight: "),
        (lambda tensors, words: words["model"]["parts"]["embedding"]["options"].update(columns=-1), "columns"),
        (lambda tensors, words: words["model"]["parts"]["rnn"].update({"class": "GRU"}), "expected GRU, got Frozen"),
    ],
)
def test_a_damaged_model_is_refused(change: Any, says: str, path: Any) -> None:
    build_model("tagger", dtype=F)[0].freeze("int8").save(path)
    tensors, words = serialization.load(path)
    described = json.loads(words["fastrnn.model"])
    change(tensors, described)
    serialization.save(path, tensors, words | {"fastrnn.model": json.dumps(described)})
    with pytest.raises(ValueError, match=str(path)) as caught:
        nn.load(path)
    assert says in str(caught.value)
