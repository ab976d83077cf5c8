"""The equations: numbers worked by hand, and every gradient against central differences."""

from collections.abc import Callable
from math import log, tanh
from typing import Any

import numpy as np
import pytest
from differences import central_differences
from generators import random_call
from oracle import INITIAL, named_state, parts, train
from tolerances import assert_close

import fastrnn

# Pre-activations that give round numbers: sigma(LN3) = 3/4, sigma(-LN3) = 1/4, sigma(0) = 1/2, tanh(LN2) = 3/5.
LN2, LN3 = log(2), log(3)


def with_preactivations(layer: Any, wanted: list[float], x: float, h: float) -> Any:
    """Set the weights of a layer of one unit so that these are the gates' pre-activations, each term with a share."""
    for k, a in enumerate(wanted):
        layer.params["weight_hh_l0"][k] = 0.5 + k
        layer.params["bias_ih_l0"][k] = 0.25 - k
        layer.params["bias_hh_l0"][k] = 0.125 * k
        layer.params["weight_ih_l0"][k] = (a - (0.5 + k) * h - (0.25 - k) - 0.125 * k) / x
    return layer


def run_one(layer: Any, x: float, *state: float) -> tuple[float, ...]:
    """y and the final state of one step of one unit."""
    initial = tuple(np.full((1, 1, 1), s) for s in state)
    y, final = layer(np.full((1, 1, 1), x), initial if len(state) == 2 else initial[0])
    return (y.item(), *(part.item() for part in parts(final)))


def one_unit(cell: Callable, **options: Any) -> Any:
    return cell(1, 1, dtype=np.float64, rng=0, **options)


class TestByHand:
    def test_rnn_tanh(self, engine: str) -> None:
        layer = with_preactivations(one_unit(fastrnn.RNN), [LN2], x=2.0, h=3.0)
        assert run_one(layer, 2.0, 3.0) == pytest.approx((0.6, 0.6), abs=1e-15)

    @pytest.mark.parametrize(("a", "h"), [(1.5, 1.5), (-0.5, 0.0)])
    def test_rnn_relu(self, engine: str, a: float, h: float) -> None:
        layer = with_preactivations(one_unit(fastrnn.RNN, nonlinearity="relu"), [a], x=2.0, h=3.0)
        assert run_one(layer, 2.0, 3.0) == pytest.approx((h, h), abs=1e-15)

    def test_lstm(self, engine: str) -> None:
        layer = with_preactivations(one_unit(fastrnn.LSTM), [LN3, -LN3, LN2, 0.0], x=2.0, h=3.0)
        c0 = 4 * (LN2 - 0.45)
        # c = 1/4 c0 + 3/4 * 3/5 = ln 2, and h = 1/2 tanh(c) = 3/10.
        assert run_one(layer, 2.0, 3.0, c0) == pytest.approx((0.3, 0.3, LN2), abs=1e-15)

    def test_lstm_peephole(self, engine: str) -> None:
        c0 = 4 * (LN2 - 0.45)
        p_i, p_f, p_o = 0.7, -0.3, 0.2
        seen = [p_i * c0, p_f * c0, 0.0, p_o * LN2]  # p_o sees the new c, which is ln 2
        wanted = [a - p for a, p in zip([LN3, -LN3, LN2, 0.0], seen, strict=True)]
        layer = with_preactivations(one_unit(fastrnn.LSTM, peephole=True), wanted, x=2.0, h=3.0)
        layer.params["peephole_l0"][:] = [[p_i], [p_f], [p_o]]
        assert run_one(layer, 2.0, 3.0, c0) == pytest.approx((0.3, 0.3, LN2), abs=1e-15)

    def test_lstm_projection(self, engine: str) -> None:
        layer = fastrnn.LSTM(1, 2, proj_size=1, dtype=np.float64, rng=0)
        for param in layer.params.values():
            param[...] = 0
        layer.params["bias_ih_l0"][:] = np.repeat([LN3, -LN3, LN2, 0.0], 2)  # two equal units
        layer.params["weight_hh_l0"][:] = np.repeat([1.0, -1.0, 0.0, 0.5], 2)[:, None]
        layer.params["weight_hr_l0"][:] = [[2.0, -1.0]]
        c0 = 4 * (LN2 - 0.45)
        y, (h, c) = layer(np.zeros((1, 1, 1)), (np.zeros((1, 1, 1)), np.full((1, 1, 2), c0)))
        assert y.shape == h.shape == (1, 1, 1)
        assert y.item() == h.item() == pytest.approx(2 * 0.3 - 0.3, abs=1e-15)
        assert c.ravel() == pytest.approx([LN2, LN2], abs=1e-15)
        # The projected h is what returns: with h = 1, i = sigma(LN3 + 1) and so on.
        _, (_, c) = layer(np.zeros((1, 1, 1)), (np.ones((1, 1, 1)), np.full((1, 1, 2), c0)))
        i, f = 1 / (1 + np.exp(-LN3 - 1)), 1 / (1 + np.exp(LN3 + 1))
        assert c.ravel() == pytest.approx([f * c0 + i * 0.6] * 2, abs=1e-15)

    # r = 3/4, z = 1/4, h_{t-1} = 2, and in the candidate U_n = 1/2, b_hn = 1/5.
    @pytest.mark.parametrize(
        ("reset_after", "recurrent"),
        [
            pytest.param(True, 0.75 * (0.5 * 2.0 + 0.2), id="reset after: r*(U_n h + b_hn)"),
            pytest.param(False, 0.5 * (0.75 * 2.0) + 0.2, id="reset before: U_n (r*h) + b_hn"),
        ],
    )
    @pytest.mark.parametrize(
        ("update_gate", "h"),
        [
            pytest.param("keep", 0.75 * 0.6 + 0.25 * 2.0, id="keep: (1-z)*n + z*h"),
            pytest.param("replace", 0.25 * 0.6 + 0.75 * 2.0, id="replace: z*n + (1-z)*h"),
        ],
    )
    def test_gru(self, engine: str, reset_after: bool, recurrent: float, update_gate: str, h: float) -> None:
        layer = one_unit(fastrnn.GRU, reset_after=reset_after, update_gate=update_gate)
        with_preactivations(layer, [LN3, -LN3, 0.0], x=3.0, h=2.0)
        layer.params["weight_hh_l0"][2] = 0.5
        layer.params["bias_hh_l0"][2] = 0.2
        layer.params["bias_ih_l0"][2] = -0.1
        layer.params["weight_ih_l0"][2] = (LN2 + 0.1 - recurrent) / 3.0
        assert run_one(layer, 3.0, 2.0) == pytest.approx((h, h), abs=1e-15)

    def test_replace_is_keep_with_the_update_gate_negated(self, engine: str, rng: np.random.Generator) -> None:
        keep = fastrnn.GRU(3, 5, dtype=np.float64, rng=1)
        replace = fastrnn.GRU(3, 5, update_gate="replace", dtype=np.float64, rng=1)
        for param in replace.params.values():
            param[5:10] *= -1
        x = rng.standard_normal((6, 2, 3))
        assert_close(replace(x)[0], keep(x)[0])

    def test_two_steps_and_two_units(self, engine: str) -> None:
        layer = fastrnn.RNN(1, 2, dtype=np.float64, rng=0)
        layer.load_state_dict(
            {
                "weight_ih_l0": np.array([[1.0], [2.0]]),
                "weight_hh_l0": np.array([[0.0, 1.0], [0.5, 0.0]]),  # unit 0 sees unit 1, and unit 1 half of unit 0
                "bias_ih_l0": np.array([0.1, 0.0]),
                "bias_hh_l0": np.array([0.0, -0.1]),
            }
        )
        y, h = layer(np.array([[[0.3]], [[-0.2]]]))
        first = [tanh(0.3 + 0.1), tanh(0.6 - 0.1)]
        second = [tanh(-0.2 + first[1] + 0.1), tanh(-0.4 + 0.5 * first[0] - 0.1)]
        assert y[:, 0] == pytest.approx(np.array([first, second]), abs=1e-15)
        assert h[0, 0] == pytest.approx(second, abs=1e-15)


# The structures around a cell; each runs on every variant.
STRUCTURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "no bias, no initial state": ({"bias": False}, {"state": False}),
    "lengths and resets": ({}, {"lengths": True, "resets": True}),
    "bidirectional, 2 layers, lengths, resets": (
        {"bidirectional": True, "num_layers": 2, "batch_first": True},
        {"lengths": True, "resets": True},
    ),
    "mask": ({}, {"mask": True}),
    "bidirectional, 2 layers, mask, resets, outputs held": (
        {"bidirectional": True, "num_layers": 2, "batch_first": True},
        {"resets": True, "mask": True, "masked_output": "hold"},
    ),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_gradient_against_central_differences(engine: str, build: Callable, structure: str) -> None:
    """Of <dy, y> and of <dstate, final state>, each alone and both together."""
    options, arguments = STRUCTURES[structure]
    layer = build(2, 3, dtype=np.float64, **options)
    call = random_call(layer, 4, 3, np.random.default_rng(5), **arguments)
    if call.lengths is not None:
        call.lengths[:] = 4, 0, 2
    if call.resets is not None:
        call.resets[:] = False
        # At the start, in the middle, past the end of the third sequence, and at the boundary to its padding.
        for t, b in [(0, 0), (2, 0), (1, 2), (2, 2), (3, 2)]:
            call.resets[(b, t) if layer.batch_first else (t, b)] = True
    if call.mask is not None:
        mask = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]], bool)
        call.mask = mask if layer.batch_first else mask.T

    def losses() -> np.ndarray:
        y, state = layer(call.x, call.state, **call.steps)
        of_state = sum((d * s).sum() for d, s in zip(parts(call.dstate), parts(state), strict=True))
        return np.array([(call.dy * y).sum(), of_state])

    variables = {"grad x": call.x} | {f"grad {name}": value for name, value in layer.params.items()}
    if call.state is not None:
        variables |= named_state(call.state, INITIAL)
    numeric = central_differences(losses, variables)

    dy, dstate = call.dy, call.dstate
    for what, weights in {"dy": (1, 0), "dstate": (0, 1), "both": (1, 1)}.items():
        call.dy, call.dstate = dy if weights[0] else None, dstate if weights[1] else None
        exact = train(layer, call)
        for name, (of_y, of_state) in numeric.items():
            expected = weights[0] * of_y + weights[1] * of_state
            assert_close(exact[name], expected, "difference", f"{name} of {what}")
