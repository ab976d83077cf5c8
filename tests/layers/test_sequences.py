"""Lengths, resets, directions and chunks mean what they say: each equals plain runs put together by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from generators import Case, cases, random_call
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import FINAL, INITIAL, Call, Results, infer, named_state, parts, train
from tolerances import assert_close, assert_results_close

import fastrnn
import fastrnn.frozen

OPTIONS = [
    pytest.param({}, id="plain"),
    pytest.param({"bidirectional": True}, id="bidirectional"),
    pytest.param({"num_layers": 2, "bidirectional": True, "batch_first": True}, id="2 layers, both ways, batch first"),
]


def pieces(layer: Any, call: Call) -> Results:
    """What `train(layer, call)` should give, from plain runs of one row between two resets: no lengths, no resets.

    A row's pieces share nothing but the initial state, which goes to the first piece for the forward direction and
    to the last one for the backward direction, and the sum of the gradients of the parameters.
    """
    results = {name: np.zeros_like(value) for name, value in train(layer, call).items()}
    T, B = (call.x.swapaxes(0, 1) if layer.batch_first else call.x).shape[:2]
    D = 1 + layer.bidirectional
    for b in range(B):
        length = T if call.lengths is None else int(call.lengths[b])
        resets = np.zeros(T, bool)
        if call.resets is not None:
            resets = call.resets[b] if layer.batch_first else call.resets[:, b]
        starts = [0, *(t for t in range(1, length) if resets[t])]
        for start, end in zip(starts, [*starts[1:], length], strict=True):
            where = (b, slice(start, end)) if layer.batch_first else (slice(start, end), b)
            x, dy = call.x[where], call.dy[where]
            state, dstate = [], []
            # Where this piece begins and ends, for each direction, is where the row does; else there is zero.
            begins = [start == 0 and not (length and resets[0]), end == length][:D]
            ends = [end == length, start == 0][:D]
            for source, target, mask in ((call.state, state, begins), (call.dstate, dstate, ends)):
                for part in parts(source):
                    target.append(part[:, b] * np.tile(mask, layer.num_layers)[:, None].astype(layer.dtype))
            piece = train(layer, Call(x, as_state(state), dy=dy, dstate=as_state(dstate)))
            results["y"][where] = piece["y"]
            results["grad x"][where] = piece["grad x"]
            for name in (*FINAL, *INITIAL):
                if name in results:
                    mask = np.tile(ends if name.endswith("n") else begins, layer.num_layers)
                    results[name][mask, b] = piece[name][mask]
            for name in layer.params:
                results[f"grad {name}"] += piece[f"grad {name}"]
    return results


def as_state(arrays: list[np.ndarray]) -> Any:
    return tuple(arrays) if len(arrays) > 1 else arrays[0]


@settings(max_examples=15)
@given(data=st.data())
def test_lengths_and_resets_cut_sequences_into_plain_pieces(engine: str, variant: str, data: st.DataObject) -> None:
    case: Case = data.draw(
        cases(
            variant,
            input_size=3,
            hidden_size=data.draw(st.sampled_from((1, 5, 17))),
            T=data.draw(st.sampled_from((1, 2, 4, 7))),
            B=data.draw(st.sampled_from((1, 3, 6))),
            batched=True,
            state=True,
            mask=False,
            masked_output="zero",
            dtype=np.float64,  # where a kink of relu is hit by rounding once in a million years
        )
    )
    layer = case.layer()
    call = case.call(layer)
    assert_results_close(train(layer, call), pieces(layer, call))
    assert_results_close(infer(layer, call), {k: v for k, v in pieces(layer, call).items() if not k.startswith("grad")})


class TestLengths:
    @pytest.mark.parametrize("options", OPTIONS)
    def test_y_is_zero_past_the_end(
        self, engine: str, build: Callable, options: dict, rng: np.random.Generator
    ) -> None:
        layer = build(3, 5, **options)
        call = random_call(layer, 6, 4, rng)
        call.lengths = np.array([6, 0, 3, 1])
        for results in (infer(layer, call), train(layer, call)):
            y = results["y"].swapaxes(0, 1) if layer.batch_first else results["y"]
            for b, length in enumerate(call.lengths):
                assert (y[length:, b] == 0).all()
                assert length == 0 or y[:length, b].any()

    @pytest.mark.parametrize("options", OPTIONS)
    def test_a_row_of_length_zero_keeps_its_state(
        self, engine: str, build: Callable, options: dict, rng: np.random.Generator
    ) -> None:
        layer = build(3, 5, **options)
        call = random_call(layer, 6, 4, rng, resets=True)
        call.lengths = np.array([6, 0, 3, 0])
        results = train(layer, call)
        for name, value in named_state(call.state).items():
            np.testing.assert_array_equal(results[name][:, [1, 3]], value[:, [1, 3]])
        for name, value in named_state(call.dstate, INITIAL).items():
            np.testing.assert_array_equal(results[name][:, [1, 3]], value[:, [1, 3]])

    def test_the_final_state_is_that_of_the_last_valid_step(
        self, engine: str, build: Callable, rng: np.random.Generator
    ) -> None:
        layer = build(3, 5)
        call = random_call(layer, 6, 4, rng)
        call.lengths = np.array([2, 6, 1, 4])
        results = infer(layer, call)
        for b, length in enumerate(call.lengths):
            np.testing.assert_array_equal(results["h_n"][0, b], results["y"][length - 1, b])

    @pytest.mark.parametrize("options", OPTIONS)
    @pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
    def test_padding_is_never_read(
        self, engine: str, build: Callable, options: dict, junk: float, rng: np.random.Generator
    ) -> None:
        """Neither x past the end nor the gradient of y past the end."""
        layer = build(3, 5, **options)
        call = random_call(layer, 6, 4, rng, resets=True)
        call.lengths = np.array([6, 0, 3, 1])
        clean, dirty = replace(call, x=call.x.copy(), dy=call.dy.copy()), call
        past = np.arange(6)[:, None] >= call.lengths
        past = past.T if layer.batch_first else past
        clean.x[past], clean.dy[past] = 0, 0
        dirty.x[past], dirty.dy[past] = junk, junk
        expected, actual = train(layer, clean), train(layer, dirty)
        assert all(np.isfinite(value).all() for value in actual.values())
        assert (actual["grad x"][past] == 0).all()
        assert_results_close(actual, expected)
        assert_results_close(infer(layer, dirty), infer(layer, clean))

    @pytest.mark.parametrize("options", OPTIONS)
    def test_full_lengths_are_no_lengths(
        self, engine: str, build: Callable, options: dict, rng: np.random.Generator
    ) -> None:
        layer = build(3, 5, **options)
        call = random_call(layer, 6, 4, rng)
        expected = train(layer, call)
        call.lengths = np.full(4, 6)
        assert_results_close(train(layer, call), expected)


class TestResets:
    @pytest.mark.parametrize("options", OPTIONS)
    def test_no_reset_is_no_resets(self, engine: str, build: Callable, options: dict, rng: np.random.Generator) -> None:
        layer = build(3, 5, **options)
        call = random_call(layer, 6, 4, rng)
        expected = train(layer, call)
        call.resets = np.zeros(call.x.shape[:2], bool)
        assert_results_close(train(layer, call), expected)

    def test_a_reset_at_the_start_forgets_the_initial_state(
        self, engine: str, build: Callable, rng: np.random.Generator
    ) -> None:
        layer = build(3, 5)
        call = random_call(layer, 4, 2, rng)
        call.resets = np.zeros((4, 2), bool)
        call.resets[0] = True
        actual = train(layer, call)
        expected = train(layer, replace(call, state=None, resets=None))
        for name in INITIAL:
            if name in actual:
                assert (actual[name] == 0).all()
                expected[name][...] = 0
        assert_results_close(actual, expected)

    def test_a_reset_stops_the_backward_direction_at_the_same_boundary(
        self, engine: str, build: Callable, rng: np.random.Generator
    ) -> None:
        """A reset at t parts t-1 from t in both directions, and at 0 it does nothing to the backward one."""
        layer = build(3, 5, bidirectional=True)
        call = random_call(layer, 6, 1, rng, state=False)
        call.resets = np.zeros((6, 1), bool)
        call.resets[[0, 2]] = True
        y = infer(layer, call)["y"]
        for part in (slice(0, 2), slice(2, 6)):
            assert_close(y[part], infer(layer, Call(call.x[part]))["y"])

    @pytest.mark.parametrize("options", OPTIONS)
    def test_nan_does_not_pass_a_reset(
        self, engine: str, build: Callable, options: dict, rng: np.random.Generator
    ) -> None:
        """The state is set to zero, not multiplied by it; in gradients too."""
        layer = build(3, 5, **options)
        call = random_call(layer, 6, 2, rng)
        call.resets = np.zeros(call.x.shape[:2], bool)
        x, resets, dy = (a.swapaxes(0, 1) if layer.batch_first else a for a in (call.x, call.resets, call.dy))
        resets[[2, 4], 0] = True
        x[3, 0] = np.nan  # in the second of three pieces
        results = train(layer, call)
        for name in ("y", "grad x"):
            value = results[name].swapaxes(0, 1) if layer.batch_first else results[name]
            # A relu's gradient at NaN may be 0, as at any argument that is not above 0.
            assert name == "grad x" or np.isnan(value[2:4, 0]).any()
            assert np.isfinite(value[:2, 0]).all(), name
            assert np.isfinite(value[4:, 0]).all(), name
            assert np.isfinite(value[:, 1]).all(), name
        for name in (*FINAL, *INITIAL):
            assert np.isfinite(results.get(name, np.zeros(1))).all(), name

        x[3, 0], dy[3, 0] = 0, np.nan
        gradient = train(layer, call)["grad x"]
        gradient = gradient.swapaxes(0, 1) if layer.batch_first else gradient
        assert np.isnan(gradient[3, 0]).any()
        assert np.isfinite(gradient[:2, 0]).all()
        assert np.isfinite(gradient[4:, 0]).all()

    def test_a_reset_past_the_end_does_nothing(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        layer = build(3, 5, bidirectional=True, num_layers=2)
        call = random_call(layer, 6, 2, rng)
        call.lengths = np.array([3, 0])
        expected = train(layer, call)
        call.resets = np.zeros((6, 2), bool)
        call.resets[3:] = True
        call.resets[:, 1] = True
        assert_results_close(train(layer, call), expected)


class TestBackwardDirection:
    def reversed_in_time(self, a: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        flipped = a.copy()
        for b, length in enumerate(lengths):
            flipped[:length, b] = a[:length, b][::-1]
        return flipped

    def test_it_is_the_forward_direction_of_the_reversed_sequence(
        self, engine: str, build: Callable, rng: np.random.Generator
    ) -> None:
        both, forward = build(3, 5, bidirectional=True), build(3, 5)
        for name in forward.params:
            forward.params[name] = both.params[f"{name}_reverse"]
        width = forward.output_size
        call = random_call(both, 6, 4, rng)
        call.lengths = np.array([6, 0, 3, 1])
        actual = train(both, call)
        backwards = Call(
            self.reversed_in_time(call.x, call.lengths),
            as_state([part[1:] for part in parts(call.state)]),
            call.lengths,
            dy=self.reversed_in_time(call.dy[:, :, width:], call.lengths),
            dstate=as_state([part[1:] for part in parts(call.dstate)]),
        )
        expected = train(forward, backwards)
        assert_close(self.reversed_in_time(actual["y"][:, :, width:], call.lengths), expected["y"])
        for name in FINAL:
            if name in actual:
                assert_close(actual[name][1:], expected[name], "value", name)
        for name in INITIAL:
            if name in actual:
                assert_close(actual[name][1:], expected[name], "gradient", name)
        for name in forward.params:
            assert_close(actual[f"grad {name}_reverse"], expected[f"grad {name}"], "gradient", name)

    def test_the_forward_half_does_not_know_of_it(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        both, forward = build(3, 5, bidirectional=True), build(3, 5)
        for name in forward.params:
            forward.params[name] = both.params[name]
        call = random_call(forward, 6, 4, rng, state=False)
        assert_close(infer(both, call)["y"][:, :, : forward.output_size], infer(forward, call)["y"])


class TestChunks:
    @pytest.mark.parametrize("num_layers", [1, 2])
    @pytest.mark.parametrize("size", [1, 3, 4])
    def test_chunks_with_the_state_carried_equal_one_call(
        self, engine: str, build: Callable, size: int, num_layers: int, rng: np.random.Generator
    ) -> None:
        layer = build(3, 5, num_layers=num_layers)
        call = random_call(layer, 10, 4, rng, resets=True)
        expected = infer(layer, call)
        state, outputs = call.state, []
        for start in range(0, 10, size):
            chunk = slice(start, start + size)
            y, state = layer(call.x[chunk], state, resets=call.resets[chunk])
            outputs.append(y)
        assert_results_close({"y": np.concatenate(outputs), **named_state(state)}, expected)

    @pytest.mark.parametrize("num_layers", [1, 2])
    def test_gradients_through_chunks_add_up_to_those_of_one_call(
        self, engine: str, build: Callable, num_layers: int, rng: np.random.Generator
    ) -> None:
        layer = build(3, 5, num_layers=num_layers, dtype=np.float64)
        call = random_call(layer, 9, 4, rng)
        expected = train(layer, call)
        chunks = [slice(0, 4), slice(4, 5), slice(5, 9)]
        state, tapes = call.state, []
        for chunk in chunks:
            _, state, tape = layer.forward(call.x[chunk], state)
            tapes.append(tape)
        dstate, dx = call.dstate, []
        totals = {name: np.zeros_like(value) for name, value in layer.params.items()}
        for chunk, tape in zip(reversed(chunks), reversed(tapes), strict=True):
            grads = layer.backward(tape, call.dy[chunk], dstate)
            dstate = grads.state
            dx.insert(0, grads.x)
            for name, gradient in grads.params.items():
                totals[name] += gradient
        actual = {"grad x": np.concatenate(dx), **named_state(dstate, INITIAL)}
        actual |= {f"grad {name}": total for name, total in totals.items()}
        assert_results_close(actual, {name: expected[name] for name in actual})

    @pytest.mark.parametrize("num_layers", [1, 2])
    def test_truncated_backpropagation(
        self, engine: str, build: Callable, num_layers: int, rng: np.random.Generator
    ) -> None:
        """The state is carried and the gradient cut: each chunk's gradients know of its own outputs only."""
        layer = build(3, 5, num_layers=num_layers, dtype=np.float64)
        call = random_call(layer, 8, 4, rng)
        first, second = slice(0, 5), slice(5, 8)
        _, state, tape = layer.forward(call.x[first], call.state)
        cut = layer.backward(tape, call.dy[first])
        expected = train(layer, replace(call, dy=np.where(np.arange(8)[:, None, None] < 5, call.dy, 0), dstate=None))
        assert_close(cut.x, expected["grad x"][first], "gradient")
        for name, gradient in cut.params.items():
            assert_close(gradient, expected[f"grad {name}"], "gradient", name)
        # The second chunk is a run of its own from a state that is a constant.
        carried = train(layer, Call(call.x[second], state, dy=call.dy[second], dstate=call.dstate))
        whole = train(layer, call)
        assert_close(carried["y"], whole["y"][second])
        assert_close(carried["grad x"], whole["grad x"][second], "gradient")

    @pytest.mark.parametrize("chunk_bytes", [1, 300, 1 << 20])
    def test_inference_in_chunks_of_time(
        self, engine: str, build: Callable, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
    ) -> None:
        """A stack of unidirectional layers is run in chunks; wherever they end, lengths and resets hold."""
        monkeypatch.setattr(fastrnn.run, "CHUNK_BYTES", chunk_bytes)
        layer = build(3, 5, num_layers=3)
        call = random_call(layer, 11, 4, rng, resets=True)
        call.lengths = np.array([11, 0, 3, 7])
        trained = train(layer, replace(call, dy=None, dstate=None))
        assert_results_close(infer(layer, call), trained)
