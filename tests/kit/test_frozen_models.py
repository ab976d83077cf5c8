"""model.freeze(precision=): models that answer as before, in fewer bits, and cannot be trained."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from models import CELLS, MODELS, build_model

import fastrnn
from fastrnn import data, engines, nn, optim
from fastrnn.engines.precision import BFloat16, Int8

NARROW = ("bfloat16", "int8")
RNG = np.random.default_rng(0)
F = np.float32


def small(name: str, **options: Any) -> tuple[Any, Any]:
    return build_model(name, dtype=F, **options)


def assert_same(answers: Any, expected: Any) -> None:
    for a, b in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", MODELS)
def test_answers_as_the_model(name: str, cell: str) -> None:
    model, batch = small(name, cell=cell, bidirectional=True)
    frozen = model.freeze()
    assert type(frozen) is type(model)
    assert model.precision is None
    assert frozen.precision == "float32"
    assert_same(frozen.predict_batch(batch), model.predict_batch(batch))
    assert frozen.loss(batch).value == pytest.approx(model.loss(batch).value, abs=1e-6)


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("name", MODELS)
def test_fewer_bits(name: str, precision: str) -> None:
    model, batch = small(name)
    before, frozen = model.state_dict(), model.freeze(precision)
    with engines.use("reference"):
        reference = model.freeze(precision)
        expected = reference.loss(batch).value
    assert frozen.precision == precision
    assert f"precision='{precision}'" in repr(frozen)
    assert frozen.loss(batch).value == pytest.approx(expected, abs=2e-3)
    assert abs(expected - model.loss(batch).value) < 0.01
    assert len(frozen.predict_batch(batch)) == len(model.predict_batch(batch))
    for each in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert repr(each) == repr(frozen)
        assert_same(each.predict_batch(batch), frozen.predict_batch(batch))
    assert_same(model.params.values(), before.values())


def test_what_is_kept_in_what() -> None:
    model, _ = small("words_and_more")
    frozen = model.freeze("int8")
    kinds = {name: value.dtype.name for name, value in frozen.params.items()}
    assert kinds["embedding.characters.weight"] == kinds["rnn.weight_ih_l0"] == kinds["output.weight"] == "int8"
    assert kinds["output.weight.scale"] == kinds["output.bias"] == kinds["rnn.bias_hh_l0"] == "float32"
    table = Int8.of(model.params["embedding.words.weight"])
    ids = np.array([[3, 1], [0, 8]])
    np.testing.assert_array_equal(frozen.embedding.words(ids), table.widened()[ids].reshape(2, -1))
    np.testing.assert_array_equal(frozen.params["embedding.words.weight.scale"], table.scales)
    half = model.freeze("bfloat16")
    np.testing.assert_array_equal(half.params["output.weight"], BFloat16.of(model.params["output.weight"]).bits)


def test_parts_that_are_kept() -> None:
    model, batch = small("tagger")
    frozen = model.freeze("int8", keep=["output", "rnn.0"])
    assert frozen.precision == {"embedding": "int8", "rnn": ("float32", "int8"), "output": "float32"}
    assert frozen.loss(batch).value != model.freeze("int8").loss(batch).value
    np.testing.assert_array_equal(frozen.params["rnn.weight_hh_l0"], model.params["rnn.weight_hh_l0"])
    assert model.freeze("int8", keep=("embedding", "rnn", "output")).precision == "float32"
    translator, _ = small("attend")
    frozen = translator.freeze("bfloat16", keep=("decoder.output", "decoder.attention.keys"))
    decoder = frozen.precision["decoder"]
    assert (decoder["output"], decoder["attention"]["keys"], decoder["bridge"]) == ("float32", "float32", "bfloat16")


def test_streams_and_generation() -> None:
    model = nn.ManyToMany(fastrnn.GRU(6, 16, 2, rng=0), nn.Linear(16, 9, rng=0), nn.Embedding(9, 6, rng=0))
    ids = RNG.integers(0, 9, (7, 3))
    for precision in ("float32", *NARROW):
        frozen = model.freeze(precision)
        stream, whole = frozen.stream(3), frozen(ids)[0]
        for t, step in enumerate(ids):
            np.testing.assert_array_equal(stream.step(step), whole[t])
        text = frozen.generate([1, 2], temperature=0)
        assert all(0 <= next(text) < 9 for _ in range(5))
    writer, batch = small("attend")
    unfrozen = writer.generate(batch.x, batch.x_lengths, rng=1, max_length=5)
    assert_same(writer.freeze().generate(batch.x, batch.x_lengths, rng=1, max_length=5), unfrozen)
    answers = writer.freeze("int8").predict_batch(batch, beams=3, max_length=5)
    assert len(answers) == len(unfrozen)


@pytest.mark.parametrize("name", MODELS)
def test_training_is_an_error(name: str) -> None:
    model, batch = small(name)
    frozen = model.freeze("bfloat16")
    with pytest.raises(TypeError, match="forward: expected what can be trained, got a Frozen"):
        frozen.loss_and_grads(batch)
    with pytest.raises(ValueError, match=r"expected a parameter that can be written, got a read-only array"):
        frozen.load_state_dict(frozen.state_dict())
    with pytest.raises(ValueError, match="read-only"):
        next(iter(frozen.params.values()))[...] = 0
    with pytest.raises((TypeError, ValueError), match="params"):
        optim.Adam(frozen.params)
    with pytest.raises(TypeError, match=r"freeze: expected a .* of which nothing is frozen, got <"):
        frozen.freeze()


def test_a_frozen_model_keeps_its_time() -> None:
    model, batch = small("words")
    model.vocabularies["words"], model.notes["scale"] = data.Vocabulary("abc"), [1.0]
    frozen = model.freeze()
    expected = frozen.predict_batch(batch)
    for value in model.params.values():
        value += 1
    model.notes["scale"][0] = 2.0
    assert_same(frozen.predict_batch(batch), expected)
    assert frozen.notes == {"scale": [1.0]}
    assert frozen.vocabularies == {"words": model.vocabularies["words"]}


class Doubled:
    """A part of a user's."""

    output_size = None

    def __init__(self) -> None:
        self.params = {"factor": np.full(1, 2, F)}
        self.options: dict[str, Any] = {}

    @classmethod
    def from_arrays(cls, arrays: Any) -> "Doubled":
        part = cls()
        part.params["factor"][...] = arrays["factor"]
        return part

    def __call__(self, x: Any) -> Any:
        return x * self.params["factor"]


class Scaled(nn.Linear):
    def __call__(self, x: Any) -> Any:
        return 2 * super().__call__(x)


def test_parts_of_others(tmp_path: Any) -> None:
    output = nn.Sequential(Doubled(), nn.Linear(5, 2, rng=0))
    model = nn.ManyToOne(fastrnn.RNN(3, 5, rng=0), output)
    x = RNG.standard_normal((4, 2, 3)).astype(F)
    frozen = model.freeze()
    np.testing.assert_array_equal(frozen(x), model(x))
    output.parts["0"].params["factor"][...] = 3
    assert not np.array_equal(frozen(x), model(x))
    frozen.save(tmp_path / "model.npz")
    np.testing.assert_array_equal(nn.load(tmp_path / "model.npz", classes=[Doubled])(x), frozen(x))
    with pytest.raises(TypeError, match="freeze: expected a Linear, got a Scaled without its own `freeze`"):
        nn.ManyToOne(fastrnn.RNN(3, 5), Scaled(5, 2)).freeze()


ERRORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"precision": "int4"}, ValueError, "precision: expected one of 'float32', 'bfloat16', 'int8', got 'int4'"),
    ({"precision": 8}, TypeError, "precision: expected"),
    ({"precision": ["int8"]}, TypeError, "precision: expected"),
    ({"keep": "output"}, TypeError, "keep: expected names of parts, got str"),
    ({"keep": None}, TypeError, "keep: expected names of parts, got NoneType"),
    ({"keep": [1]}, TypeError, r"keep: expected names \(str\), got int"),
    ({"keep": ["outptu"]}, ValueError, r"keep: expected names of parts \(embedding, rnn, output\), got 'outptu'"),
    ({"keep": ["rnn.2"]}, ValueError, "keep: expected one of rnn, rnn.0, rnn.1, got 'rnn.2'"),
    ({"keep": ["output.x"]}, ValueError, "keep: expected one of output, got 'output.x'"),
]


@pytest.mark.parametrize(("given", "kind", "says"), ERRORS)
def test_errors(given: dict[str, Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        small("tagger")[0].freeze(**given)


def test_what_cannot_be_kept_in_fewer_bits() -> None:
    with pytest.raises(ValueError, match="precision: expected one of 'float64', got 'int8'"):
        build_model("tagger")[0].freeze("int8")
    assert build_model("tagger")[0].freeze().precision == "float64"
    for part in (nn.Linear(3, 4, dtype="f8"), nn.Embedding(3, 4, dtype="f8")):
        with pytest.raises(ValueError, match="precision: expected one of 'float64', got 'bfloat16'"):
            part.freeze("bfloat16")
    for part in (nn.Linear(3, 4), nn.Embedding(3, 4)):
        part.params["weight"][1, 1] = np.inf
        with pytest.raises(ValueError, match="precision: expected finite weights for int8"):
            part.freeze("int8")
        assert part.freeze("bfloat16").precision == "bfloat16"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("I", "O", "N"), [(1, 1, 1), (3, 5, 2), (67, 130, 60), (5, 40, 1030)])
@pytest.mark.parametrize("precision", NARROW)
def test_linear(compiled: str, precision: str, I: int, O: int, N: int, bias: bool) -> None:
    layer, x = nn.Linear(I, O, bias, rng=0), RNG.standard_normal((N, I)).astype(F)
    with engines.use("reference"):
        expected = layer.freeze(precision)(x)
    with engines.use(compiled):
        frozen = layer.freeze(precision)
        with fastrnn.num_threads(1):
            y = frozen(x)
        for threads in (2, 3):
            with fastrnn.num_threads(threads):
                np.testing.assert_array_equal(frozen(x), y)
        np.testing.assert_array_equal(frozen(x[N // 2]), y[N // 2])
        np.testing.assert_array_equal(frozen(x.reshape(1, N, 1, I)), y.reshape(1, N, 1, O))
        assert frozen(x[:0]).shape == (0, O)
    if precision == "int8":
        np.testing.assert_array_equal(y, expected)
    else:
        np.testing.assert_allclose(y, expected, atol=0.03)
