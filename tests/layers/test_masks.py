"""Masks mean what they say: a masked step is skipped, wherever it is, and what it is given has no effect."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from generators import Case, build_layer, cases, random_call, random_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import INITIAL, Call, Results, infer, named_state, parts, train
from tolerances import assert_close, assert_results_close

import fastrnn
import fastrnn.run
from fastrnn.arguments import weights
from fastrnn.engines.reference import STEP

OPTIONS = [
    pytest.param({}, id="plain"),
    pytest.param({"num_layers": 2, "bidirectional": True, "batch_first": True}, id="2 layers, both ways, batch first"),
]


def step_by_step(layer: Any, call: Call) -> Results:
    """What a call should give: a loop over the steps of each row, which passes over the masked ones."""
    stack, D = layer._stack, 1 + layer.bidirectional
    time_major = (lambda a: a.swapaxes(0, 1)) if layer.batch_first else (lambda a: a)
    x, mask = time_major(call.x), np.ones(call.x.shape[:2], bool) if call.mask is None else call.mask
    resets = np.zeros_like(mask) if call.resets is None else call.resets
    mask, resets = time_major(mask), time_major(resets)
    T, B = mask.shape
    if call.lengths is not None:
        mask = mask & (np.arange(T)[:, None] < call.lengths)
    state = [a.copy() for a in parts(call.state)]
    for k, (cell, w) in enumerate(zip(stack.cells, weights(stack, layer.params), strict=True)):
        reverse = k % D == 1
        if not reverse:
            x, below = np.zeros((T, B, D * cell.output_size)), x
        for b in range(B):
            h, c = state[0][k, b], np.concatenate([a[k, b] for a in state[1:]]) if cell.has_c else None
            shown, cut, started = np.zeros(cell.output_size), False, False
            for t in reversed(range(T)) if reverse else range(T):
                cut |= resets[t, b] and not reverse
                if mask[t, b]:
                    if cut and (started or not reverse):
                        h, c = 0 * h, None if c is None else 0 * c
                    c = None if c is None else c[None]
                    h_t, c_t, _ = STEP[cell.native](cell, w, below[t, b][None], h[None], c)
                    h, c, cut, started = h_t[0], None if c_t is None else c_t[0], False, True
                    shown = h
                if mask[t, b] or call.masked_output == "hold":
                    x[t, b, k % D * cell.output_size :][: cell.output_size] = shown
                cut |= resets[t, b] and reverse
            state[0][k, b] = h
            for part, value in zip(state[1:], np.split(c, cell.has_c) if cell.has_c else (), strict=True):
                part[k, b] = value
    return {"y": time_major(x), **named_state(tuple(state))}


@settings(max_examples=15)
@given(data=st.data())
def test_any_masked_call(engine: str, variant: str, data: st.DataObject) -> None:
    sizes = {"input_size": 3, "hidden_size": 5, "T": data.draw(st.sampled_from((0, 1, 2, 4, 9)))}
    fixed = {"batched": True, "state": True, "mask": True, "dtype": np.float64}
    case: Case = data.draw(cases(variant, B=data.draw(st.sampled_from((0, 1, 3, 6))), **sizes, **fixed))
    layer = case.layer()
    call = case.call(layer)
    expected = step_by_step(layer, call)
    assert_results_close(infer(layer, call), expected)
    assert_results_close(infer(layer.freeze(), call), expected)
    assert_results_close(train(layer, replace(call, dy=None, dstate=None)), expected)


@pytest.mark.parametrize("masked_output", ["zero", "hold"])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_mask_that_says_no_more_than_lengths(
    compiled: str, build: Callable, options: dict, masked_output: str, rng: np.random.Generator
) -> None:
    """The same bits, and for zeros the same work: nothing is moved."""
    layer = build(3, 5, **options)
    call = random_call(layer, 6, 4, rng, resets=True)
    lengths = np.array([6, 0, 3, 1])
    mask = np.arange(6)[:, None] < lengths
    mask = mask.T if layer.batch_first else mask
    for steps in ({"mask": mask}, {"mask": mask, "lengths": np.array([6, 6, 4, 1])}):
        masked = replace(call, masked_output=masked_output, **steps)
        as_lengths = replace(call, masked_output=masked_output, lengths=lengths)
        for name, value in train(layer, masked).items():
            np.testing.assert_array_equal(value, train(layer, as_lengths)[name], name)
        tape = layer.forward(masked.x, masked.state, **masked.steps)[2]
        np.testing.assert_array_equal(tape.lengths, lengths)
        assert np.shares_memory(tape._args.x, call.x) == (masked_output == "zero")
    every = replace(call, mask=np.ones_like(mask), masked_output=masked_output)
    for name, value in train(layer, every).items():
        np.testing.assert_array_equal(value, train(layer, call)[name], name)


@pytest.mark.parametrize("masked_output", ["zero", "hold"])
def test_nothing_valid(engine: str, build: Callable, masked_output: str, rng: np.random.Generator) -> None:
    layer = build(3, 5, num_layers=2, bidirectional=True)
    call = random_call(layer, 4, 3, rng, resets=True)
    call.mask, call.masked_output = np.zeros((4, 3), bool), masked_output
    results = train(layer, call)
    assert not results["y"].any()
    assert not results["grad x"].any()
    for name, value in named_state(call.state).items():
        np.testing.assert_array_equal(results[name], value)
    for name, value in named_state(call.dstate, INITIAL).items():
        np.testing.assert_array_equal(results[name], value)
    assert not any(results[f"grad {name}"].any() for name in layer.params)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("options", OPTIONS)
def test_masked_steps_are_not_read(
    engine: str, build: Callable, options: dict, bad: float, rng: np.random.Generator
) -> None:
    layer = build(3, 5, **options)
    call = random_call(layer, 9, 4, rng, mask=True, lengths=True)
    call.mask = rng.random(call.mask.shape) < 0.5
    expected = train(layer, call)
    call.x[~call.mask] = bad
    call.dy[~call.mask] = bad
    for name, value in train(layer, call).items():
        np.testing.assert_array_equal(value, expected[name], name)
    for name, value in infer(layer, call).items():
        np.testing.assert_array_equal(value, expected[name], name)


@pytest.mark.parametrize("chunk_bytes", [1, 300])
def test_inference_in_chunks_of_time(
    engine: str, build: Callable, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(fastrnn.run, "CHUNK_BYTES", chunk_bytes)
    layer = build(3, 5, num_layers=3)
    call = random_call(layer, 11, 4, rng, resets=True)
    call.mask = rng.random((11, 4)) < [0.5, 0, 0.9, 1]
    assert_results_close(infer(layer, call), train(layer, replace(call, dy=None, dstate=None)))


class TestTape:
    @pytest.mark.parametrize("options", OPTIONS)
    def test_gates_lie_where_their_steps_do(
        self, engine: str, build: Callable, options: dict, rng: np.random.Generator
    ) -> None:
        """Those of a row are those of its valid steps alone, and zero elsewhere."""
        layer = build(3, 5, **options)
        call = random_call(layer, 8, 3, rng, state=False)
        mask = rng.random((8, 3)) < [0.3, 0.6, 0]
        tape = layer.forward(call.x, mask=mask.T if layer.batch_first else mask)[2]
        for b in range(3):
            steps = np.flatnonzero(mask[:, b])
            alone = layer.forward((call.x[b] if layer.batch_first else call.x[:, b])[steps])[2]
            assert tape.lengths[b] == (steps[-1] + 1 if len(steps) else 0)
            for direction in range(1 + layer.bidirectional):
                gates, expected = (t.gates(layer.num_layers - 1, direction) for t in (tape, alone))
                assert list(gates) == list(expected)
                for name, gate in gates.items():
                    assert gate.shape == (8, 3, 5 if name != "h" else layer.cell.output_size)
                    assert not gate.flags.writeable
                    assert_close(gate[steps, b], expected[name][:, 0], name=name)
                    assert not gate[~mask[:, b], b].any()

    def test_the_mask_may_change_before_backward(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        layer = build(3, 5)
        call = random_call(layer, 8, 3, rng, mask=True, resets=True, masked_output="hold")
        call.mask = rng.random((8, 3)) < 0.5
        expected = train(layer, call)
        _, _, tape = layer.forward(call.x, call.state, **call.steps)
        call.mask[...] = ~call.mask
        call.resets[...] = True
        grads = layer.backward(tape, call.dy, call.dstate)
        assert_close(grads.x, expected["grad x"], "gradient")
        for name, gradient in grads.params.items():
            assert_close(gradient, expected[f"grad {name}"], "gradient", name)

    def test_has_valid_steps_only(self, engine: str) -> None:
        layer = fastrnn.LSTM(3, 8)
        mask = np.zeros((40, 5), bool)
        mask[::4] = True
        tape = layer.forward(np.zeros((40, 5, 3), np.float32), mask=mask)[2]
        record = tape._kept.records[0]
        assert record.gates.nbytes + record.cells.nbytes == 10 * 5 * 5 * 8 * 4


def test_dropout_sees_the_valid_rows_alone(engine: str, build: Callable, rng: np.random.Generator) -> None:
    """With a seed, a masked sequence drops what its valid steps, put together, drop."""
    layer = build(3, 5, num_layers=2, dropout=0.5)
    x, dy = rng.standard_normal((9, 3), np.float32), rng.standard_normal((9, layer.output_size), np.float32)
    mask = np.array([0, 1, 1, 0, 0, 1, 0, 1, 1], bool)
    y, _, tape = layer.forward(x, mask=mask, rng=7)
    y_alone, _, alone = layer.forward(x[mask], rng=7)
    assert_close(y[mask], y_alone)
    assert_close(layer.backward(tape, dy).x[mask], layer.backward(alone, dy[mask]).x, "gradient")


def held_by_hand(y: NDArray, mask: NDArray, reverse: bool) -> NDArray:
    """y (T, B, .) with each masked step's replaced by that of the step run before it."""
    held, last = np.zeros_like(y), np.zeros_like(y[0])
    for t in reversed(range(len(y))) if reverse else range(len(y)):
        last = np.where(mask[t, :, None], y[t], last)
        held[t] = last
    return held


@given(seed=st.integers(0, 2**32 - 1), T=st.integers(1, 12), B=st.integers(1, 5), bidirectional=st.booleans())
def test_outputs_held(engine: str, seed: int, T: int, B: int, bidirectional: bool) -> None:
    """y repeats its valid steps, and their gradients are the sums of their repetitions'."""
    rng = np.random.default_rng(seed)
    layer = build_layer("gru", 3, 4, bidirectional=bidirectional, dtype=np.float64)
    call = random_call(layer, T, B, rng)
    call.mask = random_mask(T, B, rng)
    y = train(layer, call)["y"]
    dy = np.zeros_like(call.dy)
    for d in range(1 + bidirectional):
        part = np.s_[..., 4 * d : 4 * d + 4]
        assert_close(
            train(layer, replace(call, masked_output="hold"))["y"][part], held_by_hand(y[part], call.mask, d == 1)
        )
        for t, b in np.argwhere(call.mask):
            one = np.zeros_like(y[part])
            one[t, b] = 1
            dy[part][t, b] = (held_by_hand(one, call.mask, d == 1) * call.dy[part]).sum((0, 1))
    held = train(layer, replace(call, masked_output="hold"))
    summed = train(layer, replace(call, dy=dy))
    assert_results_close({k: v for k, v in held.items() if k != "y"}, {k: v for k, v in summed.items() if k != "y"})
