"""What is random within layers in training: the right values, reproducible, with their expectation and gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from differences import central_differences
from generators import random_call
from numpy.typing import NDArray
from oracle import infer, oracle, parts, train
from tolerances import assert_close, assert_results_close

import fastrnn

DROPOUTS = ("input_dropout", "state_dropout", "candidate_dropout", "weight_dropout")
GATED = {"candidate_dropout": 0.2}
CELLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "rnn": (fastrnn.RNN, {}),
    "lstm": (fastrnn.LSTM, {"proj_size": 2, "peephole": True, "zoneout_cell": 0.25} | GATED),
    "lstm-coupled": (fastrnn.LSTM, {"coupled": True, "zoneout_cell": 0.25} | GATED),
    "gru": (fastrnn.GRU, GATED),
    "gru-before": (fastrnn.GRU, {"reset_after": False} | GATED),
}


@pytest.fixture(params=CELLS)
def noisy(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Build a layer that has all that its cell may have: ``noisy(I, H, **options)``."""
    cell, own = CELLS[request.param]
    options = {"input_dropout": 0.2, "state_dropout": 0.3, "weight_dropout": 0.3, "zoneout": 0.3, "rng": 0} | own
    return lambda *sizes, **more: cell(*sizes, **(options | more))


@pytest.mark.parametrize("name", DROPOUTS)
def test_inference_knows_nothing_of_dropout(engine: str, name: str, rng: np.random.Generator) -> None:
    plain, dropping = fastrnn.GRU(3, 5, num_layers=2, rng=0), fastrnn.GRU(3, 5, num_layers=2, rng=0, **{name: 0.5})
    call = random_call(plain, 6, 4, rng)
    expected = infer(plain, call)
    for layer in (dropping, dropping.freeze()):
        assert_results_close(infer(layer, call), expected)
    assert (train(dropping, call)["y"] != expected["y"]).any()


@pytest.mark.parametrize("name", DROPOUTS)
def test_a_probability_may_be_assigned_and_is_checked(name: str) -> None:
    layer = fastrnn.LSTM(3, 5, rng=0, **{name: 0.25})
    assert getattr(layer, name) == 0.25
    assert f"{name}=0.25" in repr(layer)
    setattr(layer, name, 0)
    assert name not in repr(layer)
    for wrong, error in ((1.0, ValueError), (-0.1, ValueError), ("0.1", TypeError), (True, TypeError)):
        with pytest.raises(error, match=f"^{name}: expected"):
            setattr(layer, name, wrong)
        with pytest.raises(error, match=f"^{name}: expected"):
            fastrnn.LSTM(3, 5, **{name: wrong})


def test_a_seed_reproduces_it_and_a_call_draws_one_key(engine: str, noisy: Callable, rng: np.random.Generator) -> None:
    layer = noisy(3, 5, num_layers=2, bidirectional=True)
    x = rng.standard_normal((6, 4, 3), np.float32)
    (y, _, _), (again, _, _), (other, _, _) = (layer.forward(x, rng=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(again, y)
    assert (other != y).any()
    drawn, expected = np.random.default_rng(7), np.random.default_rng(7)
    layer.forward(x, rng=drawn)
    expected.integers(1 << 64, dtype=np.uint64)
    assert drawn.bit_generator.state == expected.bit_generator.state


@pytest.mark.parametrize("steps", [{"lengths": True, "resets": True}, {"mask": True, "resets": True}])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_engine_agrees_with_the_reference(
    compiled: str, noisy: Callable, steps: dict, dtype: type, rng: np.random.Generator
) -> None:
    for size, B, options in (((3, 5), 4, {"num_layers": 2, "bidirectional": True}), ((17, 83), 3, {})):
        layer = noisy(*size, dtype=dtype, **options)
        call = random_call(layer, 5, B, rng, **steps)
        expected = oracle(layer, call)  # of the numbers that the next run draws
        assert_results_close(train(layer, call), expected)


def test_gradients_against_central_differences(noisy: Callable) -> None:
    """Under one mask: every run starts from the same state of the random numbers. (Other engines agree: see above.)"""
    layer = noisy(2, 3, num_layers=2, dtype=np.float64)
    call = random_call(layer, 5, 3, np.random.default_rng(5), mask=True, resets=True)
    start = layer._rng.bit_generator.state

    def loss() -> NDArray:
        layer._rng.bit_generator.state = start
        y, state, _ = layer.forward(call.x, call.state, **call.steps)
        of_state = sum((d * s).sum() for d, s in zip(parts(call.dstate), parts(state), strict=True))
        return np.array([(call.dy * y).sum() + of_state])

    layer._rng.bit_generator.state = start
    exact = train(layer, call)
    variables = {"grad x": call.x} | {f"grad {name}": value for name, value in layer.params.items()}
    variables |= dict(zip(("grad h0", "grad c0"), parts(call.state), strict=False))
    for name, numeric in central_differences(loss, variables).items():
        assert_close(exact[name], numeric[0], "difference", name)


def test_a_row_has_the_same_masks_in_any_batch(engine: str, noisy: Callable, rng: np.random.Generator) -> None:
    """Rows keep their numbers: those of a smaller batch are the first of a larger one."""
    layer = noisy(3, 5, dtype=np.float64)
    x = rng.standard_normal((6, 9, 3))
    lengths = rng.integers(1, 7, 9)
    y = layer.forward(x, lengths=lengths, rng=7)[0]
    part = layer.forward(x[:, :4], lengths=lengths[:4], rng=7)[0]
    assert_close(part, y[:, :4])


def test_masked_steps_change_no_mask(engine: str, noisy: Callable, rng: np.random.Generator) -> None:
    """A sequence with masked steps is the sequence without them."""
    layer = noisy(3, 5, dtype=np.float64, bidirectional=True)
    x = rng.standard_normal((9, 4, 3))
    mask = rng.random((9, 4)) < [0.4, 0.9, 0.5, 0.7]
    y = layer.forward(x, mask=mask, rng=7)[0]
    moved = np.zeros_like(x)
    for b in range(4):
        moved[: mask[:, b].sum(), b] = x[mask[:, b], b]
    expected = layer.forward(moved, lengths=mask.sum(0), rng=7)[0]
    for b in range(4):
        assert_close(y[mask[:, b], b], expected[: mask[:, b].sum(), b])


# ---- Which values --------------------------------------------------------------------------------------------------


def assert_share(kept: NDArray, probability: float) -> None:
    """The share of values that stay is what chance gives, within six standard deviations; also along each axis."""
    assert abs(kept.mean() - (1 - probability)) < 6 * np.sqrt(probability * (1 - probability) / kept.size)
    for axis in range(kept.ndim):
        others = tuple(k for k in range(kept.ndim) if k != axis)
        n = kept.size / kept.shape[axis]
        assert np.abs(kept.mean(others) - (1 - probability)).max() < 6 * np.sqrt(probability * (1 - probability) / n)


@pytest.mark.parametrize("p", [0.1, 0.6])
def test_input_dropout_is_one_mask_for_a_sequence_of_each_layer(engine: str, p: float) -> None:
    """Layers that put out what they are given: y is the product of their masks."""
    layer = fastrnn.RNN(200, 200, nonlinearity="relu", input_dropout=p, rng=0)
    for param in layer.params.values():
        param[...] = 0
    layer.params["weight_ih_l0"][...] = np.eye(200)
    y, _, tape = layer.forward(np.ones((3, 100, 200), np.float32))
    kept = y[0] != 0
    np.testing.assert_allclose(y[0][kept], 1 / (1 - p), rtol=1e-6)
    np.testing.assert_array_equal(y[1:], y[:2])
    assert_share(kept, p)
    np.testing.assert_array_equal(layer.backward(tape, np.ones_like(y)).x, y)


@pytest.mark.parametrize("p", [0.1, 0.6])
def test_weight_dropout_is_one_mask_for_a_call(engine: str, p: float) -> None:
    """A layer of one step that shows U h0: with h0 = 1 it is a row's sum."""
    layer = fastrnn.RNN(1, 300, nonlinearity="relu", weight_dropout=p, num_layers=2, rng=0)
    for name, param in layer.params.items():
        param[...] = name.startswith("weight_hh")
    h0 = np.stack([np.eye(300, dtype=np.float32)] * 2)  # row b shows column b
    _, h, tape = layer.forward(np.zeros((1, 300, 1), np.float32), h0)
    kept = h != 0
    np.testing.assert_allclose(h[kept], 1 / (1 - p), rtol=1e-6)
    for mask in kept:
        assert_share(mask, p)
    assert abs((kept[0] == kept[1]).mean() - (p * p + (1 - p) ** 2)) < 0.02, "layers have masks of their own"
    grads = layer.backward(tape, None, np.ones_like(h))
    for k in range(2):
        np.testing.assert_array_equal(grads.params[f"weight_hh_l{k}"] != 0, kept[k].T)
    np.testing.assert_array_equal(layer.params["weight_hh_l0"], 1)
