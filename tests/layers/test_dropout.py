"""Dropout: between layers, in training only, reproducible, with its expectation kept and its gradients right."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from differences import central_differences
from generators import random_call
from oracle import INITIAL, infer, named_state, parts, train
from tolerances import assert_close, assert_results_close

import fastrnn


def test_inference_knows_nothing_of_it(engine: str, build: Callable, rng: np.random.Generator) -> None:
    plain, dropping = build(3, 5, num_layers=2), build(3, 5, num_layers=2, dropout=0.5)
    call = random_call(plain, 6, 4, rng)
    expected = infer(plain, call)
    for layer in (dropping, dropping.freeze(), dropping):
        assert_results_close(infer(layer, call), expected)
    stream = dropping.freeze().stream(4)
    stream.state = call.state
    assert_close(stream.step(call.x[0]), expected["y"][0])


def test_inference_draws_no_random_numbers(engine: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 4, 3), np.float32)
    one, other = (fastrnn.GRU(3, 5, num_layers=2, dropout=0.5, rng=0) for _ in range(2))
    one(x)
    np.testing.assert_array_equal(one.forward(x)[0], other.forward(x)[0])


def test_the_last_layer_is_not_dropped(engine: str, build: Callable, rng: np.random.Generator) -> None:
    plain, dropping = build(3, 5), build(3, 5, dropout=0.9)
    call = random_call(plain, 6, 4, rng)
    assert_results_close(train(dropping, call), train(plain, call))


def test_a_seed_reproduces_it(engine: str, build: Callable, rng: np.random.Generator) -> None:
    one, other, third = (build(3, 5, num_layers=3, bidirectional=True, dropout=0.4, rng=seed) for seed in (7, 7, 8))
    third.load_state_dict(one.params)
    call = random_call(one, 6, 4, rng, lengths=True)
    first, second = train(one, call), train(one, call)
    assert (first["y"] != second["y"]).any(), "each run draws anew"
    assert (first["y"] != train(third, call)["y"]).any()
    for expected in (first, second):
        actual = train(other, call)
        for name, value in expected.items():
            np.testing.assert_array_equal(actual[name], value)


def test_a_generator_is_drawn_from(engine: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 4, 3), np.float32)
    generator = np.random.default_rng(7)
    layer = fastrnn.GRU(3, 5, num_layers=2, dropout=0.4, rng=generator)
    before = copy.deepcopy(generator.bit_generator.state)
    expected = layer.forward(x)[0]
    assert generator.bit_generator.state != before
    generator.bit_generator.state = before
    np.testing.assert_array_equal(layer.forward(x)[0], expected)


def transparent(dropout: float, width: int) -> Any:
    """Layer 0 puts out ones, and layer 1 shows what it is given: y is the mask with its scale."""
    layer = fastrnn.RNN(1, width, num_layers=2, nonlinearity="relu", dropout=dropout, rng=0)
    for param in layer.params.values():
        param[...] = 0
    layer.params["bias_ih_l0"][...] = 1
    layer.params["weight_ih_l1"][...] = np.eye(width)
    return layer


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_values_are_zeroed_with_this_probability_and_the_rest_scaled(engine: str, dropout: float) -> None:
    y = transparent(dropout, 20).forward(np.zeros((50, 40, 1), np.float32))[0]
    kept = y != 0
    np.testing.assert_allclose(y[kept], 1 / (1 - dropout), rtol=1e-6)
    n, deviation = y.size, np.sqrt(dropout * (1 - dropout) / y.size)  # of the share of zeros among n draws
    assert n == 40_000
    assert abs((~kept).mean() - dropout) < 5 * deviation
    assert abs(y.mean() - 1) < 5 * deviation / (1 - dropout)
    for axis in [(1, 2), (0, 2), (0, 1)]:  # every step, row and unit draws its own
        assert kept.mean(axis).std() < 5 * np.sqrt(dropout * (1 - dropout) / (n / kept.shape[3 - sum(axis)]))


def test_without_it_nothing_is_drawn(engine: str) -> None:
    generator = np.random.default_rng(7)
    layer = fastrnn.GRU(3, 5, num_layers=2, rng=generator)
    before = generator.bit_generator.state
    layer.forward(np.zeros((2, 2, 3), np.float32))
    assert generator.bit_generator.state == before


def test_gradients_against_central_differences(engine: str, build: Callable) -> None:
    """Under one mask: every run starts from the same state of the random numbers."""
    layer = build(2, 4, num_layers=2, dropout=0.4, bidirectional=True, batch_first=True, dtype=np.float64)
    call = random_call(layer, 3, 2, np.random.default_rng(5), lengths=True)
    start = layer._rng.bit_generator.state

    def loss() -> np.ndarray:
        layer._rng.bit_generator.state = start
        y, state, _ = layer.forward(call.x, call.state, lengths=call.lengths)
        of_state = sum((d * s).sum() for d, s in zip(parts(call.dstate), parts(state), strict=True))
        return np.array([(call.dy * y).sum() + of_state])

    layer._rng.bit_generator.state = start
    exact = train(layer, call)
    variables = {"grad x": call.x} | {f"grad {name}": value for name, value in layer.params.items()}
    variables |= named_state(call.state, INITIAL)
    for name, numeric in central_differences(loss, variables).items():
        assert_close(exact[name], numeric[0], "difference", name)


def test_dropout_may_be_changed(engine: str) -> None:
    """It is a public attribute, and training schedules use it; a tape keeps what it was made with."""
    layer = transparent(0.5, 20)
    x = np.zeros((5, 4, 1), np.float32)
    y, _, tape = layer.forward(x)
    layer.params["weight_hh_l0"][...] = 0
    expected = layer.backward(tape, np.ones_like(y)).params["bias_ih_l0"]
    layer.dropout = 0.0
    np.testing.assert_array_equal(layer.backward(tape, np.ones_like(y)).params["bias_ih_l0"], expected)
    assert (layer.forward(x)[0] == 1).all()
