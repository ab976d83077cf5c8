"""A learnt initial state is a parameter like others, and what a run starts with where no state is given."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from generators import build_layer, random_call
from numpy.typing import NDArray
from oracle import parts

import fastrnn
from fastrnn import nn, weights

OPTIONS = [{}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 2, "batch_first": True}]


@pytest.fixture(params=OPTIONS, ids=["plain", "both ways", "batch first"])
def layer(request: pytest.FixtureRequest, variant: str, rng: np.random.Generator) -> Any:
    layer = build_layer(variant, 3, 5, **request.param, learn_initial_state=True)
    for name in initial(layer):
        layer.params[name][...] = rng.uniform(-0.9, 0.9, layer.params[name].shape)
        if name.startswith("initial_n"):  # an sLSTM's, a sum of positive terms
            layer.params[name] += 1
    return layer


def initial(layer: Any) -> list[str]:
    return [name for name in layer.params if name.startswith("initial_")]


def given(layer: Any, B: int) -> Any:
    """The initial state as a caller would give it to each row."""
    state = tuple(np.repeat(part[:, None], B, axis=1) for part in parts(layer.initial_state))
    return state if len(state) > 1 else state[0]


def equal(a: Any, b: Any) -> None:
    for x, y in zip(parts(a), parts(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_is_the_state_of_calls_without_one(engine: str, layer: Any, rng: np.random.Generator) -> None:
    """Forwards and backwards; the gradient in it is the sum over the rows, and zero where it was not used."""
    call = random_call(layer, 4, 3, rng, lengths=True)
    y, state, tape = layer.forward(call.x, lengths=call.lengths)
    explicit = layer.forward(call.x, given(layer, 3), lengths=call.lengths)
    equal(y, explicit[0])
    equal(state, explicit[1])
    equal(layer(call.x, lengths=call.lengths)[0], y)
    equal(layer.freeze()(call.x, lengths=call.lengths)[0], y)
    grads = layer.backward(tape, call.dy, call.dstate)
    other = layer.backward(explicit[2], call.dy, call.dstate)
    assert grads.params.keys() == other.params.keys() == layer.params.keys()
    sums = [part.sum(axis=1) for part in parts(grads.state)]
    for name in layer.params:
        if name not in initial(layer):
            np.testing.assert_array_equal(grads.params[name], other.params[name])
            continue
        assert grads.params[name].dtype == layer.dtype
        assert not other.params[name].any()
        k = [n for n in initial(layer) if n.startswith(name[: len("initial_h")])].index(name)
        np.testing.assert_allclose(grads.params[name], sums["hcnm".index(name[8])][k], rtol=1e-5, atol=1e-6)
    one = layer(call.x[0] if layer.batch_first else call.x[:, 0])[1]
    assert [part.shape for part in parts(one)] == [part.shape for part in parts(layer.initial_state)]


def test_has_a_parameter_for_each_layer_and_direction() -> None:
    layer = fastrnn.LSTM(3, 5, 2, bidirectional=True, proj_size=2, learn_initial_state=True, dtype=np.float64, rng=0)
    plain = fastrnn.LSTM(3, 5, 2, bidirectional=True, proj_size=2, dtype=np.float64, rng=0)
    suffixes = ("_l0", "_l0_reverse", "_l1", "_l1_reverse")
    assert initial(layer) == [f"initial_{part}{suffix}" for suffix in suffixes for part in "hc"]
    assert layer.params["initial_h_l1"].shape == (2,)
    assert layer.params["initial_c_l1_reverse"].shape == (5,)
    assert not any(layer.params[name].any() for name in initial(layer))
    for name, value in plain.params.items():
        np.testing.assert_array_equal(layer.params[name], value)
    assert "learn_initial_state=True" in repr(layer)
    assert plain.initial_state is None


def test_is_where_streams_start(engine: str, variant: str, rng: np.random.Generator) -> None:
    layer = build_layer(variant, 3, 5, num_layers=2, learn_initial_state=True)
    for name in initial(layer):
        layer.params[name][...] = rng.uniform(-0.9, 0.9, layer.params[name].shape)
    x = rng.standard_normal((4, 2, 3), np.float32)
    expected, final = layer(x)
    stream = layer.freeze().stream(2)
    for rows in (None, [0, 1], [True, True]):
        for x_t, y_t in zip(x, expected, strict=True):
            np.testing.assert_allclose(stream.step(x_t), y_t, atol=1e-6)
        stream.reset(rows)
        equal(stream.state, given(layer, 2))
    stream.state = final
    stream.reset(1)
    equal(tuple(part[:, 0] for part in parts(stream.state)), tuple(part[:, 0] for part in parts(final)))
    equal(tuple(part[:, 1] for part in parts(stream.state)), parts(layer.initial_state))
    stream.state = None
    equal(stream.state, given(layer, 2))


@pytest.mark.parametrize("how", ["save", "state_dict", "model", "pickle", "copy", "frozen pickle"])
def test_is_kept_with_the_weights(layer: Any, how: str, tmp_path: Any, rng: np.random.Generator) -> None:
    expected, call = layer.initial_state, random_call(layer, 4, 3, rng)
    y = layer(call.x)[0]
    if how == "frozen pickle":
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(layer.freeze()))(call.x)[0], y)
        return
    if how == "save":
        fastrnn.save(tmp_path / "layer.npz", layer, "rnn.")
        other = fastrnn.load(tmp_path / "layer.npz", "rnn.")
    elif how == "state_dict":
        gate = {"weights_update_gate": "replace"} if layer.cell.replaces else {}
        other = weights.from_torch(layer.state_dict(), kind=layer.cell.kind, **gate, **keywords(layer))
    elif how == "model":
        if layer.batch_first:
            return
        model = nn.ManyToMany(layer, nn.Linear(layer.output_size, 2, rng=0))
        model.save(tmp_path / "model.npz")
        other = nn.load(tmp_path / "model.npz").parts["rnn"]
    else:
        other = pickle.loads(pickle.dumps(layer)) if how == "pickle" else copy.deepcopy(layer)
    assert repr(other) == repr(layer)
    equal(other.initial_state, expected)
    np.testing.assert_array_equal(other(call.x)[0], y)


def keywords(layer: Any) -> dict[str, Any]:
    return {"batch_first": layer.batch_first} | layer.cell.hidden_options


def test_is_trained(rng: np.random.Generator) -> None:
    """To give a first output that the weights and the input cannot."""
    layer = fastrnn.GRU(1, 4, learn_initial_state=True, rng=0)
    x, target = np.zeros((1, 2, 1), np.float32), np.float32(0.7)
    optimizer = fastrnn.optim.Adam({name: layer.params[name] for name in initial(layer)}, 0.05)
    for _ in range(200):
        y, _, tape = layer.forward(x)
        grads = layer.backward(tape, 2 * (y - target))
        optimizer.step({name: grads.params[name] for name in initial(layer)})
    assert np.abs(layer(x)[0] - target).max() < 0.01


def errors(layer: Any) -> list[tuple[Callable[[], Any], str]]:
    x: NDArray = np.zeros((4, 3, 3), np.float32)
    resets = np.zeros((4, 3), bool)
    return [
        (lambda: layer(x, resets=resets), "resets: expected None.*learnt"),
        (lambda: layer.freeze()(x, resets=resets), "resets: expected None.*learnt"),
        (lambda: weights.to_torch(layer), "layer: expected one that PyTorch has, got .* learnt initial state"),
        (lambda: weights.to_onnx(layer), "layer: expected one that ONNX has, got .* learnt initial state"),
        (lambda: layer.load_state_dict(fastrnn.GRU(3, 5).params), "mapping: .* missing .'initial_h_l0'"),
    ]


@pytest.mark.parametrize("k", range(5))
def test_errors(k: int) -> None:
    call, message = errors(fastrnn.GRU(3, 5, learn_initial_state=True, rng=0))[k]
    with pytest.raises(ValueError, match=message):
        call()
