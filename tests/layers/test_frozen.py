"""Frozen layers never change; streams take a step at a time and equal one call; both are safe in many threads."""

import tracemalloc
import weakref
from collections.abc import Callable
from itertools import repeat
from typing import Any

import numpy as np
import pytest
from generators import FORMS, LAYOUTS, Case, build_layer, cases, random_call
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Call, infer, named_state, oracle, parts
from running import in_threads
from tolerances import assert_close, assert_results_close

import fastrnn


def run_stream(stream: Any, call: Call) -> dict[str, np.ndarray]:
    """A call, made step by step."""
    stream.state = call.state
    outputs = [stream.step(x) for x in call.x]
    return {"y": np.stack(outputs), **named_state(stream.state)}


def sizes(layer: Any) -> list[Any]:
    """What layers, frozen layers and streams say of themselves."""
    names = ("input_size", "hidden_size", "output_size", "num_layers", "bidirectional", "dtype", "cell")
    return [*(getattr(layer, name) for name in names), layer.state_shapes(3)]


WAYS_TO_GIVE: dict[str, Callable] = LAYOUTS | {
    "a memoryview": memoryview,
    "of a subclass": lambda x: x.view(np.recarray),
    "just before out": None,
    "over out": None,
}


class TestFrozen:
    @settings(max_examples=10)
    @given(data=st.data())
    def test_equals_the_layer(self, engine: str, variant: str, data: st.DataObject) -> None:
        case: Case = data.draw(cases(variant, dropout=0.0))
        layer = case.layer()
        call = case.call(layer)
        assert_results_close(infer(layer.freeze(), call), infer(layer, call))

    @pytest.mark.parametrize("how", ["in place", "replaced", "loaded", "removed"])
    def test_does_not_follow_the_layer(self, engine: str, build: Callable, how: str, rng: np.random.Generator) -> None:
        layer = build(3, 5, num_layers=2)
        call = random_call(layer, 4, 2, rng)
        expected = infer(layer, call)
        frozen = layer.freeze()
        stream = frozen.stream(2)
        if how == "in place":
            for param in layer.params.values():
                param += 1
        elif how == "replaced":
            layer.params = {name: value + 1 for name, value in layer.params.items()}
        elif how == "loaded":
            layer.load_state_dict({name: value + 1 for name, value in layer.params.items()})
        else:
            layer.params.clear()
        for _ in range(2):
            assert_results_close(infer(frozen, call), expected)
            assert_results_close(run_stream(stream, call), expected)

    def test_has_nothing_to_set(self, engine: str, build: Callable) -> None:
        frozen = build(3, 5).freeze()
        for name in ("params", "state", "dropout"):
            with pytest.raises(AttributeError):
                setattr(frozen, name, None)

    def test_keeps_no_state_between_calls(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        frozen = build(3, 5).freeze()
        x = rng.standard_normal((4, 2, 3), np.float32)
        first = frozen(x)[0]
        frozen(rng.standard_normal((9, 5, 3), np.float32))
        np.testing.assert_array_equal(frozen(x)[0], first)

    def test_outlives_its_layer(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        layer = build(17, 33)
        call = random_call(layer, 4, 2, rng)
        expected = infer(layer, call)
        stream = layer.freeze().stream(2)
        gone = weakref.ref(layer)
        del layer
        assert gone() is None
        rubbish = [np.full(10_000, np.nan) for _ in range(50)]  # over whatever was freed
        assert_results_close(run_stream(stream, call), expected)
        assert len(rubbish) == 50

    @pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
    def test_in_many_threads(self, compiled: str, build: Callable, options: dict, rng: np.random.Generator) -> None:
        layer = build(17, 33, **options)
        frozen = layer.freeze()
        calls = [random_call(layer, T, B, rng, lengths=True) for T, B in [(40, 3), (7, 20), (90, 1), (40, 3)]]
        expected = [infer(frozen, call) for call in calls]
        jobs = [lambda call=call: [infer(frozen, call) for _ in range(10)] for call in calls]
        for results, once in zip(in_threads(compiled, jobs), expected, strict=True):
            for result in results:
                assert_results_close(result, once)

    def test_says_what_it_is(self, engine: str, variant: str) -> None:
        layer = build_layer(variant, 3, 4, num_layers=2, bidirectional=True, batch_first=True, dtype=np.float64)
        frozen = layer.freeze()
        assert repr(frozen) == f"Frozen({layer!r}, engine={engine!r})"
        assert frozen.batch_first
        assert sizes(frozen) == sizes(layer)
        _, state = layer(np.zeros((5, 7, 3)))
        assert layer.state_shapes(5) == tuple(part.shape for part in parts(state))
        assert layer.output_size == layer(np.zeros((5, 7, 3)))[0].shape[2]


class TestStream:
    def test_says_what_it_is(self, engine: str, variant: str) -> None:
        frozen = build_layer(variant, 3, 4, num_layers=2).freeze()
        stream = frozen.stream(5)
        assert repr(stream) == f"Stream({frozen!r}, batch_size=5)"
        assert stream.batch_size == 5
        assert sizes(stream) == sizes(frozen)
        assert stream.step(np.zeros((5, 3), np.float32)).shape == (5, stream.output_size)

    @settings(max_examples=10)
    @given(data=st.data())
    def test_steps_equal_one_call(self, engine: str, variant: str, data: st.DataObject) -> None:
        plain = {"bidirectional": False, "batch_first": False, "batched": True, "lengths": False, "resets": False}
        plain |= {"mask": False}
        T, B = data.draw(st.tuples(st.sampled_from((1, 2, 5)), st.sampled_from((1, 2, 3, 5, 8, 17, 33))))
        case: Case = data.draw(cases(variant, T=T, B=B, **plain))
        layer = case.layer()
        call = case.call(layer)
        expected = infer(layer, call)
        assert_results_close(run_stream(layer.freeze().stream(case.B), call), expected)
        call.dy = call.dstate = None
        assert_results_close(expected, oracle(layer, call))

    @pytest.mark.parametrize("batch_first", [False, True])
    def test_starts_from_zeros(self, engine: str, build: Callable, batch_first: bool, rng: np.random.Generator) -> None:
        layer = build(3, 5, num_layers=2, batch_first=batch_first)
        stream = layer.freeze().stream(4)
        for part, shape in zip(parts(stream.state), layer.state_shapes(4), strict=False):
            assert part.shape == shape
        assert not any(part.any() for part in parts(stream.state))
        x = rng.standard_normal((4, 3), np.float32)
        expected = infer(layer, Call(x[:, None] if batch_first else x[None]))["y"]
        assert_close(stream.step(x), expected[:, 0] if batch_first else expected[0])

    def test_one_row_is_the_default(self, engine: str, build: Callable) -> None:
        stream = build(3, 5).freeze().stream()
        assert stream.step(np.zeros((1, 3), np.float32)).shape[0] == 1

    def test_one_row_may_come_without_its_axis(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        layer = build(3, 5, num_layers=2)
        one, other = (layer.freeze().stream() for _ in range(2))
        out = np.empty(layer.output_size, np.float32)
        for x in rng.standard_normal((4, 3), np.float32):
            y = one.step(x)
            np.testing.assert_array_equal(y, other.step(x[None])[0])
            assert y.shape == (layer.output_size,)
            assert one.step(x, out) is out
            np.testing.assert_array_equal(out, other.step(x[None])[0])
        x = np.zeros(layer.output_size, np.float32)  # where x is written to, too
        square = build(layer.output_size, 5).freeze()
        expected = square.stream().step(x)
        np.testing.assert_array_equal(square.stream().step(x, x), expected)

    def test_state_is_taken_and_given_as_copies(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        layer = build(3, 5, num_layers=2)
        call = random_call(layer, 4, 2, rng)
        stream = layer.freeze().stream(2)
        given = call.map(np.copy).state
        stream.state = given
        for part in parts(given):
            part[...] = 99
        for a, b in zip(parts(stream.state), parts(call.state), strict=True):
            np.testing.assert_array_equal(a, b)
        for part in parts(stream.state):
            part[...] = 99
        for a, b in zip(parts(stream.state), parts(call.state), strict=True):
            np.testing.assert_array_equal(a, b)
        stream.state = None
        assert not any(part.any() for part in parts(stream.state))

    def test_state_may_be_saved_and_restored(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        layer = build(3, 5, num_layers=2)
        x = rng.standard_normal((4, 2, 3), np.float32)
        stream, other = layer.freeze().stream(2), layer.freeze().stream(2)
        stream.step(x[0])
        other.state = saved = stream.state
        expected = [stream.step(x_t) for x_t in x[1:]]
        np.testing.assert_array_equal([other.step(x_t) for x_t in x[1:]], expected)
        stream.state = saved
        np.testing.assert_array_equal([stream.step(x_t) for x_t in x[1:]], expected)

    @pytest.mark.parametrize(
        ("rows", "mask"),
        [
            (None, [1, 1, 1, 1]),
            (2, [0, 0, 1, 0]),
            (np.int32(0), [1, 0, 0, 0]),
            (np.array(3), [0, 0, 0, 1]),
            ([0, 3], [1, 0, 0, 1]),
            ((3, 3, 1), [0, 1, 0, 1]),
            (range(1, 3), [0, 1, 1, 0]),
            (np.array([2], np.uint8), [0, 0, 1, 0]),
            ([True, False, False, True], [1, 0, 0, 1]),
            (np.array([False] * 4), [0, 0, 0, 0]),
            ([], [0, 0, 0, 0]),
        ],
    )
    def test_reset(self, engine: str, build: Callable, rows: Any, mask: list[int]) -> None:
        layer = build(3, 5, num_layers=2)
        rng = np.random.default_rng(4)
        call = random_call(layer, 3, 4, rng)
        stream = layer.freeze().stream(4)
        stream.state = call.state
        stream.step(call.x[0])
        before = parts(stream.state)
        assert stream.reset(rows) is None
        cleared = np.array(mask, bool)
        for a, b in zip(parts(stream.state), before, strict=True):
            assert not a[:, cleared].any()
            np.testing.assert_array_equal(a[:, ~cleared], b[:, ~cleared])
        # From here on it is as if `resets` had said so.
        resets = np.zeros((3, 4), bool)
        resets[1] = cleared
        expected = infer(layer, Call(call.x, call.state, resets=resets))["y"]
        assert_close(stream.step(call.x[1]), expected[1])
        assert_close(stream.step(call.x[2]), expected[2])

    def test_select(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        layer = build(3, 5, num_layers=2)
        call = random_call(layer, 3, 4, rng)
        stream = layer.freeze().stream(4)
        stream.state = call.state
        stream.step(call.x[0])
        before = parts(stream.state)
        rows = [2, 0, 0, 3]
        assert stream.select(rows) is None
        for a, b in zip(parts(stream.state), before, strict=True):
            np.testing.assert_array_equal(a, b[:, rows])
        for bad, error, message in (
            ([0, 1], ValueError, r"rows: expected \(4,\), got \(2,\)"),
            ([0, 1, 2, 4], IndexError, "rows: expected rows in 0..3, got 4"),
            ([True] * 4, TypeError, "rows: expected integers, got booleans"),
            ([0.0] * 4, TypeError, "rows: expected integers"),
        ):
            with pytest.raises(error, match=message):
                stream.select(bad)

    def test_out_is_written_and_returned(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        layer = build(3, 5, num_layers=2)
        x = rng.standard_normal((6, 2, 3), np.float32)
        plain, into = layer.freeze().stream(2), layer.freeze().stream(2)
        out = np.full((2, layer.output_size), np.nan, np.float32)
        for x_t in x:
            expected = plain.step(x_t)
            assert into.step(x_t, out=out) is out
            np.testing.assert_array_equal(out, expected)

    def test_streams_do_not_know_of_each_other(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        layer = build(3, 5)
        frozen = layer.freeze()
        calls = [random_call(layer, 6, B, rng) for B in (1, 4, 1)]
        streams = [frozen.stream(call.x.shape[1]) for call in calls]
        for stream, call in zip(streams, calls, strict=True):
            stream.state = call.state
        outputs = [[stream.step(call.x[t]) for stream, call in zip(streams, calls, strict=True)] for t in range(6)]
        for k, call in enumerate(calls):
            assert_close(np.stack([row[k] for row in outputs]), infer(layer, call)["y"])

    def test_many_threads_with_one_stream(self, compiled: str) -> None:
        """A step while another one runs is an error; all the others go on."""
        stream = fastrnn.LSTM(64, 256, rng=0).freeze().stream(16)
        x = np.ones((16, 64), np.float32)

        def steps() -> int:
            refused = 0
            for k in range(200):
                try:
                    if k % 2:
                        stream.step(x)
                    else:
                        stream.step(x[:9], rows=range(k % 7, k % 7 + 9))
                except RuntimeError:
                    refused += 1
            return refused

        for _ in range(20):
            if sum(in_threads(compiled, [steps] * 8)) > 0:
                break
        else:
            raise AssertionError("no step was refused")
        stream.step(x)
        assert np.isfinite(stream.state[0]).all()

    def test_many_threads_with_a_stream_each(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        layer = build(17, 33, num_layers=2)
        frozen = layer.freeze()
        calls = [random_call(layer, 60, B, rng) for B in (1, 3, 1, 8)]
        expected = [infer(layer, call) for call in calls]
        jobs = [lambda call=call: run_stream(frozen.stream(call.x.shape[1]), call) for call in calls]
        for actual, serial in zip(in_threads(engine, jobs), expected, strict=True):
            assert_results_close(actual, serial)

    @pytest.mark.parametrize("batch_size", [1, 8])
    def test_steps_with_out_keep_no_memory(self, compiled: str, build: Callable, batch_size: int) -> None:
        stream, x, out, _ = self.warm(build, batch_size, None)
        tracemalloc.start()
        held = []
        for _ in range(4):  # NumPy keeps freed buffers for reuse, more of them at first
            for _ in range(200):
                stream.step(x, out=out)
            held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert np.diff(held).min() < 200 * 20  # the smallest object a step would be more

    @pytest.mark.parametrize(("batch_size", "rows"), [(1, None), (8, None), (8, [6, 1, 4])])
    def test_steps_with_out_allocate_nothing(
        self, compiled: str, build: Callable, batch_size: int, rows: list[int] | None
    ) -> None:
        """No array and no Python object; test_memory.py counts what is not Python's."""
        stream, x, out, rows = self.warm(build, batch_size, rows)
        peaks = []
        for _ in range(3):  # the interpreter's own caches may grow once
            steps = repeat(None, 200)  # a range would make numbers
            tracemalloc.start()
            stream.step(x, out, rows)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            for _ in steps:
                stream.step(x, out, rows)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
            tracemalloc.stop()
        assert min(peaks) == 0

    @pytest.mark.parametrize("given", WAYS_TO_GIVE)
    def test_any_way_of_giving_a_step_is_the_same(self, engine: str, build: Callable, given: str) -> None:
        """What is ready for the engine goes there at once; the rest is copied first. (Errors: test_errors.py)"""
        frozen = build(5, 5).freeze()
        x = np.random.default_rng(6).standard_normal((3, 5)).astype(np.float32)
        expected = frozen.stream(3).step(x)
        memory = np.zeros(15 + expected.size, np.float32)
        out = memory[15:].reshape(expected.shape)
        if given.startswith("over"):
            first = min(5, expected.size)
            memory[first : first + 15] = x.ravel()
            x = memory[first : first + 15].reshape(3, 5)
        elif given.startswith("just"):
            memory[:15] = x.ravel()
            x = memory[:15].reshape(3, 5)
        else:
            x = WAYS_TO_GIVE[given](x)
        assert frozen.stream(3).step(x, out) is out
        np.testing.assert_array_equal(out, expected)

    def warm(self, build: Callable, batch_size: int, rows: list[int] | None) -> tuple[Any, ...]:
        """A stream that has made steps, and the arguments of the next ones."""
        layer = build(64, 128, num_layers=2)
        stream, n = layer.freeze().stream(batch_size), batch_size if rows is None else len(rows)
        x, out = np.ones((n, 64), np.float32), np.empty((n, layer.output_size), np.float32)
        numbers = None if rows is None else np.array(rows)
        for _ in range(3):
            stream.step(x, out, numbers)
        return stream, x, out, numbers


class TestRows:
    """A step of some rows."""

    @pytest.fixture(params=FORMS)
    def variant(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @settings(max_examples=8)
    @given(data=st.data())
    def test_each_row_is_a_stream_of_its_own(self, engine: str, variant: str, data: st.DataObject) -> None:
        plain = {"bidirectional": False, "batch_first": False, "batched": True, "lengths": False, "resets": False}
        B = data.draw(st.sampled_from((1, 2, 5, 19)))
        case: Case = data.draw(cases(variant, T=4, B=B, mask=False, **plain))
        frozen = case.layer().freeze()
        call = case.call(frozen)
        stream, singles = frozen.stream(B), [frozen.stream() for _ in range(B)]
        if call.state is not None:
            stream.state = call.state
            for b, single in enumerate(singles):
                single.state = call.map(lambda a, b=b: a[:, b : b + 1]).state
        for x in call.x:
            rows = data.draw(st.lists(st.integers(0, B - 1), unique=True))
            expected = np.array([singles[b].step(x[b]) for b in rows]).reshape(len(rows), stream.output_size)
            out = np.full((len(rows), stream.output_size), np.nan, x.dtype) if data.draw(st.booleans()) else None
            y = stream.step(x[rows], out, rows=np.array(rows, np.int64))
            assert out is None or y is out
            assert_close(y, expected)
        for b, single in enumerate(singles):
            for a, own in zip(parts(stream.state), parts(single.state), strict=True):
                assert_close(a[:, b : b + 1], own)

    @pytest.mark.parametrize(
        ("rows", "numbers"),
        [
            (2, [2]),
            (np.int32(0), [0]),
            (np.array(3), [3]),
            ([3, 0], [3, 0]),
            ((1,), [1]),
            (range(1, 3), [1, 2]),
            (np.array([2, 1], np.uint8), [2, 1]),
            (np.array([2, 1], ">i8"), [2, 1]),
            (np.arange(8)[::-2] // 2, [3, 2, 1, 0]),
            (np.zeros(0, np.int64), []),
            ([], []),
        ],
    )
    @pytest.mark.parametrize("given", [False, True])
    def test_may_be_given_in_any_way(
        self, engine: str, build: Callable, rows: Any, numbers: list[int], given: bool
    ) -> None:
        layer = build(3, 5, num_layers=2)
        call = random_call(layer, 1, 4, np.random.default_rng(4))
        stream, all_rows = layer.freeze().stream(4), layer.freeze().stream(4)
        stream.state = all_rows.state = call.state
        out = np.full((len(numbers), layer.output_size), np.nan, np.float32) if given else None
        y = stream.step(call.x[0, numbers], out, rows=rows)
        assert out is None or y is out
        assert_close(y, all_rows.step(call.x[0])[numbers])
        others = np.setdiff1d(np.arange(4), numbers)
        for a, advanced, before in zip(*map(parts, (stream.state, all_rows.state, call.state)), strict=True):
            assert_close(a[:, numbers], advanced[:, numbers])
            np.testing.assert_array_equal(a[:, others], before[:, others])

    def test_one_may_come_without_its_axis(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        frozen = build(3, 5).freeze()
        one, other = frozen.stream(4), frozen.stream(4)
        out = np.empty(frozen.output_size, np.float32)
        for x in rng.standard_normal((3, 3), np.float32):
            assert one.step(x, out, rows=2) is out
            np.testing.assert_array_equal(out[None], other.step(x[None], rows=[2]))

    @pytest.mark.parametrize("mask", [[0, 0, 1, 0], [1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
    @pytest.mark.parametrize("given", [False, True])
    def test_by_a_mask_are_a_masked_step(self, engine: str, build: Callable, mask: list[int], given: bool) -> None:
        layer = build(3, 5, num_layers=2)
        call = random_call(layer, 3, 4, np.random.default_rng(4))
        call.mask = np.ones((3, 4), bool)
        call.mask[1] = mask
        call.x[~call.mask] = np.nan
        stream = layer.freeze().stream(4)
        stream.state = call.state
        out = np.full((4, layer.output_size), np.nan, np.float32) if given else None
        steps = [stream.step(x, out, rows=call.mask[1] if t == 1 else None).copy() for t, x in enumerate(call.x)]
        assert_results_close({"y": np.stack(steps), **named_state(stream.state)}, infer(layer, call))

    def test_may_lie_where_the_output_does(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        """They are copied before anything is written."""
        frozen = build(3, 8).freeze()
        stream, other = frozen.stream(9), frozen.stream(9)
        x, out = rng.standard_normal((2, 3), np.float32), np.zeros((2, frozen.output_size), np.float32)
        rows = out.reshape(-1)[:4].view(np.int64)
        rows[:] = 7, 2
        expected = other.step(x, rows=[7, 2])
        np.testing.assert_array_equal(stream.step(x, out, rows=rows), expected)
        for a, b in zip(parts(stream.state), parts(other.state), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_are_forgotten_by_the_next_step(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        layer = build(3, 5, num_layers=2)
        call = random_call(layer, 2, 4, rng)
        stream = layer.freeze().stream(4)
        stream.step(call.x[0, :2], rows=[3, 1])
        stream.state = call.state
        call.x = call.x[1:]
        assert_results_close({"y": stream.step(call.x[0])[None], **named_state(stream.state)}, infer(layer, call))


def test_a_stream_in_use_is_for_nobody_else(engine: str, build: Callable) -> None:
    """A step, or a change of the state, is an error while another one runs; and leaves all as it was."""
    stream, x = build(3, 5).freeze().stream(2), np.ones((2, 3), np.float32)
    stream.step(x)
    out, state, before = np.zeros((2, stream.output_size), np.float32), stream.state, parts(stream.state)
    calls = (
        lambda: stream.step(x), lambda: stream.step(x, out), lambda: stream.step(x, out, rows=np.arange(2)),
        lambda: stream.step(x, rows=[True, False]), lambda: stream.reset(), lambda: stream.reset([1]),
        lambda: stream.select([1, 0]), lambda: setattr(stream, "state", None),
    )  # fmt: skip
    with stream._gate:
        for call in calls:
            with pytest.raises(RuntimeError, match="stream: expected one thread at a time"):
                call()
        for a, b in zip(parts(stream.state), before, strict=True):
            np.testing.assert_array_equal(a, b)
    for call in calls:
        call()
    stream.state = state


def test_a_long_stream_stays_right(engine: str) -> None:
    """Errors do not pile up over thousands of steps: the cell forgets them as it forgets its inputs."""
    layer = build_layer("lstm", 2, 8)
    call = random_call(layer, 2000, 1, np.random.default_rng(3))
    call.dy = call.dstate = None
    assert_results_close(run_stream(layer.freeze().stream(1), call), oracle(layer, call))
