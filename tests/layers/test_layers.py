"""Every engine computes what the oracle computes: outputs, states and all gradients, over every option."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from generators import Case, build_layer, cases, random_call
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracle import FINAL, INITIAL, Call, float64_twin, infer, named_state, oracle, train
from tolerances import assert_close, assert_results_close

import fastrnn


def near_a_kink(layer: Any, call: Call) -> bool:
    """Whether some relu's argument is so near 0 that rounding may decide its gradient."""
    if layer.cell.options.get("nonlinearity") != "relu":
        return False
    twin, call, rng = float64_twin(layer), call.astype(np.float64), np.random.default_rng(0)

    def active(x: np.ndarray) -> list[np.ndarray]:
        tape = twin.forward(x, call.state, **call.steps)[2]
        return [
            tape.gates(layer, direction)["h"] > 0
            for layer in range(twin.num_layers)
            for direction in range(1 + twin.bidirectional)
        ]

    with fastrnn.engines.use("reference"):
        before, after = (active(call.x + noise) for noise in (0, 1e-5 * rng.standard_normal(call.x.shape)))
    return any((a != b).any() for a, b in zip(before, after, strict=True))


def check(layer: Any, call: Call) -> None:
    """Inference, training and gradients of the current engine against the oracle."""
    expected = oracle(layer, call)
    actual = train(layer, call)
    for name, value in actual.items():
        assert value.dtype == layer.dtype, name
    if near_a_kink(layer, call):  # outputs are continuous, gradients are not
        actual, expected = ({k: v for k, v in r.items() if not k.startswith("grad")} for r in (actual, expected))
    assert_results_close(actual, expected)
    assert_results_close(infer(layer, call), {name: expected[name] for name in expected if not name.startswith("grad")})


@given(data=st.data())
def test_any_layer(engine: str, variant: str, data: st.DataObject) -> None:
    case: Case = data.draw(cases(variant))
    layer = case.layer()
    check(layer, case.call(layer))


@settings(max_examples=10)
@given(data=st.data())
def test_gradient_of_either_result_alone(engine: str, variant: str, data: st.DataObject) -> None:
    case: Case = data.draw(cases(variant))
    layer = case.layer()
    call = case.call(layer)
    assume(not near_a_kink(layer, call))
    dy, call.dy = call.dy, None
    assert_results_close(train(layer, call), oracle(layer, call))
    call.dy, call.dstate = dy, None
    assert_results_close(train(layer, call), oracle(layer, call))


# Large enough that work is split into blocks, chunks of time and shares of threads, with remainders in each.
@pytest.mark.parametrize(("T", "B", "I", "H"), [(21, 50, 150, 130), (200, 1, 40, 257), (1, 300, 9, 65), (150, 2, 3, 7)])
@pytest.mark.parametrize("variant", ["rnn", "lstm", "lstm-peephole-proj-clip", "gru", "gru-before"])
def test_large(compiled: str, variant: str, T: int, B: int, I: int, H: int) -> None:
    layer = build_layer(variant, I, H)
    check(layer, random_call(layer, T, B, np.random.default_rng(7), lengths=B > 1, resets=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_width(engine: str, variant: str, dtype: type) -> None:
    """Hidden sizes, inputs and batches from 1 to past two vectors, one after the other: no remainder is forgotten."""
    for n in range(1, 36):
        layer = build_layer(variant, 1 + n % 5, n, dtype=dtype)
        call = random_call(layer, 2, 1 + 36 % n % 7, np.random.default_rng(n))
        if not near_a_kink(layer, call):
            assert_results_close(train(layer, call), oracle(layer, call))


def test_stacked_layers_are_layers_one_upon_the_other(engine: str, build: Callable, rng: np.random.Generator) -> None:
    stacked = build(3, 5, num_layers=3, bidirectional=True, dtype=np.float64)
    call = random_call(stacked, 6, 4, rng, lengths=True, resets=True)
    y, state = stacked(call.x, call.state, lengths=call.lengths, resets=call.resets)

    def of_layer(k: int, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(of_layer(k, part) for part in value)
        return value[2 * k : 2 * k + 2]

    below = call.x
    for k in range(3):
        single = build(below.shape[2], 5, bidirectional=True, dtype=np.float64)
        for name in single.params:
            single.params[name] = stacked.params[name.replace("_l0", f"_l{k}")]
        results = infer(single, Call(below, of_layer(k, call.state), call.lengths, call.resets))
        below = results.pop("y")
        expected = of_layer(k, state)
        for actual, part in zip(
            results.values(), expected if isinstance(expected, tuple) else (expected,), strict=True
        ):
            assert_close(actual, part)
    assert_close(below, y)


def test_batch_first_is_the_transpose(engine: str, build: Callable, rng: np.random.Generator) -> None:
    native = build(3, 5, num_layers=2, bidirectional=True)
    batch_first = build(3, 5, num_layers=2, bidirectional=True, batch_first=True)
    call = random_call(native, 6, 4, rng, lengths=True, resets=True)
    expected = train(native, call)
    call.x, call.resets, call.dy = (a.swapaxes(0, 1) for a in (call.x, call.resets, call.dy))
    actual = train(batch_first, call)
    for name in ("y", "grad x"):
        expected[name] = expected[name].swapaxes(0, 1)
    assert_results_close(actual, expected)


@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched_is_a_batch_of_one(engine: str, build: Callable, batch_first: bool) -> None:
    layer = build(3, 5, num_layers=2, bidirectional=True, batch_first=batch_first)
    rng = np.random.default_rng(3)
    call = random_call(layer, 6, 1, rng, batched=False, resets=True)
    call.lengths = np.array([5])
    actual = train(layer, call)
    assert actual["y"].shape == (6, layer.output_size)
    time_axis, batch_axis = (1, 0) if batch_first else (0, 1)
    batched = Call(
        np.expand_dims(call.x, batch_axis),
        tuple(s[:, None] for s in call.state) if isinstance(call.state, tuple) else call.state[:, None],
        call.lengths,
        np.expand_dims(call.resets, batch_axis),
        np.expand_dims(call.dy, batch_axis),
        tuple(s[:, None] for s in call.dstate) if isinstance(call.dstate, tuple) else call.dstate[:, None],
    )
    expected = train(layer, batched)
    assert expected["y"].shape[time_axis] == 6
    for name in ("y", "grad x"):
        expected[name] = expected[name].squeeze(batch_axis)
    for name in (*FINAL, *INITIAL):
        if name in expected:
            expected[name] = expected[name][:, 0]
    assert_results_close(actual, expected)


@pytest.mark.parametrize("length", [4, np.int32(4), np.array(4)])
def test_unbatched_length_may_be_a_number(engine: str, length: Any, rng: np.random.Generator) -> None:
    layer = fastrnn.GRU(3, 5, bidirectional=True, rng=0)
    x = rng.standard_normal((6, 3), np.float32)
    y, h = layer(x, lengths=length)
    expected, h_expected = layer(x[:4])
    assert_close(y[:4], expected)
    assert_close(h, h_expected)
    assert not y[4:].any()


class TestEmpty:
    """T = 0 and B = 0 give empty results of the right shapes, and gradients of nothing."""

    @pytest.mark.parametrize("bidirectional", [False, True])
    @pytest.mark.parametrize("batch_first", [False, True])
    def test_no_steps(
        self, engine: str, build: Callable, batch_first: bool, bidirectional: bool, rng: np.random.Generator
    ) -> None:
        layer = build(3, 4, num_layers=2, batch_first=batch_first, bidirectional=bidirectional)
        call = random_call(layer, 0, 2, rng, lengths=True, resets=True)
        results = train(layer, call)
        width = layer.output_size
        assert results["y"].shape == ((2, 0, width) if batch_first else (0, 2, width))
        assert results["grad x"].shape == call.x.shape
        state, dstate = call.state, call.dstate  # nothing happens to them
        for name, value in {**named_state(state), **named_state(dstate, INITIAL)}.items():
            np.testing.assert_array_equal(results[name], value)
        for name, param in layer.params.items():
            assert results[f"grad {name}"].shape == param.shape
            assert not results[f"grad {name}"].any()

    @pytest.mark.parametrize("bidirectional", [False, True])
    @pytest.mark.parametrize("batch_first", [False, True])
    def test_no_rows(
        self, engine: str, build: Callable, batch_first: bool, bidirectional: bool, rng: np.random.Generator
    ) -> None:
        layer = build(3, 4, num_layers=2, batch_first=batch_first, bidirectional=bidirectional)
        call = random_call(layer, 5, 0, rng, lengths=True, resets=True)
        results = train(layer, call)
        width = layer.output_size
        assert results["y"].shape == ((0, 5, width) if batch_first else (5, 0, width))
        assert results["h_n"].shape == layer.state_shapes(0)[0]
        assert results["grad x"].shape == call.x.shape
        for name, param in layer.params.items():
            assert results[f"grad {name}"].shape == param.shape
            assert not results[f"grad {name}"].any()

    def test_an_empty_list_of_lengths(self, engine: str) -> None:
        y, h = fastrnn.GRU(3, 4)(np.zeros((5, 0, 3), np.float32), lengths=[])
        assert y.shape == (5, 0, 4)
        assert h.shape == (1, 0, 4)

    def test_an_unbatched_sequence_of_no_steps(self, engine: str) -> None:
        y, (h, c) = fastrnn.LSTM(3, 4)(np.zeros((0, 3), np.float32))
        assert y.shape == (0, 4)
        assert h.shape == c.shape == (1, 4)
        assert not h.any()
        assert not c.any()
