"""minGRU and minLSTM: what only cells have whose gates do not see the state."""

from typing import Any

import numpy as np
import pytest
from tolerances import assert_close

import fastrnn
from fastrnn import weights

LAYERS = [fastrnn.MinGRU, fastrnn.MinLSTM]


def sigmoid(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


@pytest.mark.parametrize("layer", LAYERS)
def test_one_step_by_hand(engine: str, layer: Any) -> None:
    """Pre-activations that give round numbers; the candidate is a + 1/2 of one unit, sigmoid(a) of the other."""
    one = layer(1, 2, dtype=np.float64)
    one.params["weight_ih_l0"][:] = 0
    third = np.log(3)
    gates = [[third, -third]] if layer is fastrnn.MinGRU else [[third, -third], [0, 0]]  # 3/4, 1/4; 1/2, 1/2
    one.params["bias_ih_l0"][:] = np.ravel([*gates, [1.5, -third]])  # candidates 2, 1/4
    y, _ = one(np.ones((1, 1, 1)), np.full((1, 1, 2), 4.0))
    shares = np.array([0.75, 0.25] if layer is fastrnn.MinGRU else [0.75 / 1.25, 0.25 / 0.75])
    assert_close(y[0, 0], (1 - shares) * 4 + shares * [2, 0.25])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gates_of_minlstm_that_are_almost_nothing(engine: str, dtype: type) -> None:
    """Both gates' sigmoids would be 0 in float32: what counts is their ratio, down to a = -80."""
    layer = fastrnn.MinLSTM(1, 4, nonlinearity="linear", dtype=dtype)
    layer.params["weight_ih_l0"][:] = 0
    layer.params["bias_ih_l0"][:] = [-78, -79, -500, 100, -79, -78, -1e30, -500, 1, 1, 1, 1]
    h0 = np.zeros((1, 1, 4), dtype)
    y, _, tape = layer.forward(np.ones((1, 1, 1), dtype), h0)
    share = sigmoid(1)
    assert_close(y[0, 0], np.array([share, 1 - share, 0.5, 1], dtype))
    grads = layer.backward(tape, np.ones_like(y))
    assert all(np.isfinite(a).all() for a in grads.params.values())
    slope = share * (1 - share)
    assert_close(grads.params["bias_ih_l0"][:2], np.array([slope, slope], dtype), "gradient")


def test_parameters() -> None:
    layer = fastrnn.MinLSTM(3, 4, num_layers=2, bidirectional=True)
    assert {name.split("_l")[0] for name in layer.params} == {"weight_ih", "bias_ih"}
    assert layer.params["weight_ih_l1_reverse"].shape == (12, 8)
    assert repr(layer.freeze()).startswith("Frozen(MinLSTM(3, 4, ")
    assert fastrnn.MinGRU(3, 4, bias=False).params.keys() == {"weight_ih_l0"}


@pytest.mark.parametrize(("layer", "order"), [(fastrnn.MinGRU, "nz"), (fastrnn.MinLSTM, "nfi")])
def test_weights_of_packages(layer: Any, order: str, rng: np.random.Generator) -> None:
    """minGRU-pytorch has one matrix without a bias, the candidate's rows first: to_hidden_and_gate.weight."""
    matrix = rng.standard_normal((len(order) * 4, 3)).astype(np.float32)
    ours = weights.from_arrays({"weight_ih": matrix}, order=order, batch_first=True)
    assert type(ours) is layer
    blocks = dict(zip(order, np.split(matrix, len(order)), strict=True))
    np.testing.assert_array_equal(ours.params["weight_ih_l0"], np.concatenate([blocks[g] for g in ours.cell.gates]))
    assert list(ours.params) == ["weight_ih_l0"]
    same = weights.from_arrays({"weight_ih": blocks, "bias": np.zeros(len(matrix), np.float32)})
    np.testing.assert_array_equal(same.params["weight_ih_l0"], ours.params["weight_ih_l0"])
    assert list(same.params) == ["weight_ih_l0", "bias_ih_l0"]
    with pytest.raises(ValueError, match=r"arrays: expected weight_ih and maybe \('bias', 'bias_ih'\), got"):
        weights.from_arrays({"weight_ih": matrix, "weight_hh": matrix}, order=order)
    again = weights.from_torch(ours.state_dict(), kind=ours.cell.kind)
    np.testing.assert_array_equal(again.params["weight_ih_l0"], ours.params["weight_ih_l0"])
    with pytest.raises(ValueError, match=r"every layer and direction to have .*weight_hh"):
        weights.from_torch(ours.state_dict())
    with pytest.raises(ValueError, match=r"weight_ih \(G\*H, I\), G = 2 of a MinGRU or 3 of a MinLSTM"):
        weights.from_torch({"weight_ih_l0": np.ones((7, 2), np.float32)}, kind=ours.cell.kind)
