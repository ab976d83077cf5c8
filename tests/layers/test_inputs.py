"""Arrays however they lie in memory and whatever holds them; never modified; results are new arrays."""

import array
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from generators import FORMS, LAYOUTS, Case, cases, random_call
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Call, infer, parts, train
from tolerances import assert_close, assert_results_close

import fastrnn

ALL_OPTIONS = {"num_layers": 2, "bidirectional": True}


@pytest.fixture(params=FORMS)
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


def run_all(layer: Any, call: Call) -> dict[str, np.ndarray]:
    return train(layer, call) | {f"inferred {name}": value for name, value in infer(layer, call).items()}


class TestLayouts:
    @pytest.mark.parametrize("batch_first", [False, True])
    @pytest.mark.parametrize("input_size", [1, 4])  # with one input, the last axis may have any stride
    def test_of_every_argument(
        self, engine: str, build: Callable, batch_first: bool, input_size: int, rng: np.random.Generator,
        subtests: pytest.Subtests,
    ) -> None:  # fmt: skip
        layer = build(input_size, 5, batch_first=batch_first, **ALL_OPTIONS)
        call = random_call(layer, 4, 3, rng, lengths=True, resets=True)
        expected = run_all(layer, call)
        for name, lay_out in LAYOUTS.items():
            with subtests.test(name):
                assert_results_close(run_all(layer, call.map(lay_out)), expected)

    def test_of_parameters(
        self, engine: str, build: Callable, rng: np.random.Generator, subtests: pytest.Subtests
    ) -> None:
        layer = build(3, 5, **ALL_OPTIONS)
        call = random_call(layer, 4, 3, rng)
        params, expected = dict(layer.params), run_all(layer, call)
        frozen_expected = infer(layer.freeze(), call)
        for layout, lay_out in LAYOUTS.items():
            with subtests.test(layout):
                for name, value in params.items():
                    layer.params[name] = lay_out(value)
                assert_results_close(run_all(layer, call), expected)
                assert_results_close(infer(layer.freeze(), call), frozen_expected)

    def test_of_a_step(self, engine: str, build: Callable, rng: np.random.Generator, subtests: pytest.Subtests) -> None:
        layer = build(3, 5, num_layers=2)
        call = random_call(layer, 4, 3, rng)
        expected = infer(layer, call)["y"]
        stream = layer.freeze().stream(3)
        for layout, lay_out in LAYOUTS.items():
            with subtests.test(layout):
                stream.state = call.map(lay_out).state
                for x, y in zip(call.x, expected, strict=True):
                    assert_close(stream.step(lay_out(x)), y)

    def test_of_unbatched_arguments(
        self, engine: str, build: Callable, rng: np.random.Generator, subtests: pytest.Subtests
    ) -> None:
        layer = build(3, 5, **ALL_OPTIONS)
        call = random_call(layer, 4, 1, rng, batched=False, resets=True)
        expected = run_all(layer, call)
        for layout, lay_out in LAYOUTS.items():
            with subtests.test(layout):
                assert_results_close(run_all(layer, call.map(lay_out)), expected)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_broadcast(self, engine: str, build: Callable, axis: int, rng: np.random.Generator) -> None:
        """Stride 0 along one axis, as numpy.broadcast_to gives."""
        layer = build(3, 5, **ALL_OPTIONS)
        call = random_call(layer, 4, 3, rng, resets=True)

        def broadcast(a: np.ndarray) -> np.ndarray:
            one = a.take([0], min(axis, a.ndim - 1))
            return np.broadcast_to(one, a.shape)

        stretched = call.map(broadcast)
        assert 0 in stretched.x.strides
        assert_results_close(run_all(layer, stretched), run_all(layer, stretched.map(np.array)))

    @settings(max_examples=10)
    @given(data=st.data())
    def test_mixed(self, engine: str, variant: str, data: st.DataObject) -> None:
        """Any layout for each argument, any axes in any order, on any layer."""
        case: Case = data.draw(cases(variant, hidden_size=5, dtype=np.float64))
        layer = case.layer()
        call = case.call(layer)
        names = st.sampled_from(sorted(LAYOUTS))
        mixed = call.map(lambda a: LAYOUTS[data.draw(names)](a))
        assert_results_close(run_all(layer, mixed), run_all(layer, call))


class TestNotModified:
    @pytest.mark.parametrize("options", [{}, ALL_OPTIONS, {"batch_first": True}])
    def test_no_argument_and_no_parameter_is(
        self, engine: str, build: Callable, options: dict, rng: np.random.Generator
    ) -> None:
        layer = build(3, 5, **options)
        call = random_call(layer, 4, 3, rng, lengths=True, resets=True)
        before, params = call.map(np.copy), layer.state_dict()
        run_all(layer, call)
        infer(layer.freeze(), call)
        for a, b in zip(call.arrays(), before.arrays(), strict=True):
            np.testing.assert_array_equal(a, b)
        for name, value in params.items():
            np.testing.assert_array_equal(layer.params[name], value)

    def test_nothing_a_stream_is_given_is(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        layer = build(3, 5)
        call = random_call(layer, 1, 2, rng)
        x, before = call.x[0], call.map(np.copy)
        stream = layer.freeze().stream(2)
        stream.state = call.state
        for _ in range(3):
            stream.step(x)
        rows = np.array([1])
        stream.reset(rows)
        stream.step(x[:1], rows=rows)
        for a, b in zip(call.arrays(), before.arrays(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert rows == [1]

    def test_lengths_and_resets_may_change_before_backward(
        self, engine: str, build: Callable, rng: np.random.Generator
    ) -> None:
        layer = build(3, 5, bidirectional=True)
        call = random_call(layer, 4, 3, rng, lengths=True, resets=True)
        expected = train(layer, call)
        _, _, tape = layer.forward(call.x, call.state, lengths=call.lengths, resets=call.resets)
        call.lengths[:] = 4
        call.resets[:] = True
        assert_close(layer.backward(tape, call.dy, call.dstate).x, expected["grad x"], "gradient")


class OnlyArray:
    """Offers __array__ and nothing else."""

    def __init__(self, a: np.ndarray) -> None:
        self.a = a

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.a


class OnlyDLPack:
    """Offers DLPack and nothing else, as tensors of some libraries do."""

    def __init__(self, a: np.ndarray) -> None:
        self.a = a.copy()  # writeable: older NumPy exports no other

    def __dlpack__(self, **options: Any) -> Any:
        return self.a.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.a.__dlpack_device__()


class Subclass(np.ndarray):
    """Must not leak into results, nor change what operators mean."""

    def __mul__(self, other: Any) -> Any:
        raise AssertionError

    __matmul__ = __add__ = __mul__


HOLDERS: dict[str, Callable[[np.ndarray], Any]] = {
    "__array__": OnlyArray,
    "DLPack": OnlyDLPack,
    "memoryview": lambda a: memoryview(np.ascontiguousarray(a)),
    "read-only memoryview": lambda a: memoryview(a.tobytes()).cast(a.dtype.char, a.shape),
    "list of arrays": list,
    "subclass": lambda a: a.view(Subclass),
    "memmap": lambda a: a.view(np.memmap),
}


class TestHolders:
    def test_of_every_argument(
        self, engine: str, build: Callable, rng: np.random.Generator, subtests: pytest.Subtests
    ) -> None:
        layer = build(3, 5, **ALL_OPTIONS)
        call = random_call(layer, 4, 3, rng, lengths=True, resets=True)
        expected = run_all(layer, call)
        for holds, holder in HOLDERS.items():
            wrapped = call.map(holder)
            if holder is list:  # a state as a list of arrays could be (h, c) or h: it is not taken
                wrapped = replace(
                    call, **{name: list(getattr(call, name)) for name in ("x", "lengths", "resets", "dy")}
                )
            with subtests.test(holds):
                actual = run_all(layer, wrapped)
                assert all(type(value) is np.ndarray for value in actual.values())
                assert_results_close(actual, expected)

    def test_of_parameters(
        self, engine: str, build: Callable, rng: np.random.Generator, subtests: pytest.Subtests
    ) -> None:
        layer, x = build(3, 5), rng.standard_normal((4, 2, 3), np.float32)
        expected = layer(x)[0]
        for holds, holder in HOLDERS.items():
            with subtests.test(holds):
                held, other = {name: holder(value) for name, value in layer.params.items()}, build(3, 5, rng=1)
                other.load_state_dict(held)
                np.testing.assert_array_equal(other(x)[0], expected)
                other.params.update(held)
                np.testing.assert_array_equal(other(x)[0], expected)

    def test_of_a_step(self, engine: str, build: Callable, rng: np.random.Generator, subtests: pytest.Subtests) -> None:
        frozen, x = build(3, 5).freeze(), rng.standard_normal((2, 3), np.float32)
        expected = frozen.stream(2).step(x)
        for name, holder in HOLDERS.items():
            if holder is not list:
                with subtests.test(name):
                    np.testing.assert_array_equal(frozen.stream(2).step(holder(x)), expected)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_lists_of_numbers(self, engine: str, build: Callable, dtype: type, rng: np.random.Generator) -> None:
        """They have no dtype, and are taken as the layer's."""
        layer = build(3, 5, dtype=dtype)
        call = random_call(layer, 4, 3, rng, lengths=True, resets=True)
        results = run_all(layer, call.map(np.ndarray.tolist))
        for name, value in run_all(layer, call).items():
            np.testing.assert_array_equal(results[name], value)
        stream, other = layer.freeze().stream(3), layer.freeze().stream(3)
        stream.state = call.map(np.ndarray.tolist).state
        other.state = call.state
        np.testing.assert_array_equal(stream.step(call.x[0].tolist()), other.step(call.x[0]))
        y = layer([[1, 0, 2], [0, 1, 0]])[0]  # integers
        np.testing.assert_array_equal(y, layer(np.array([[1, 0, 2], [0, 1, 0]], dtype))[0])
        assert y.dtype == dtype

    def test_array_array(self, engine: str, rng: np.random.Generator) -> None:
        layer = fastrnn.GRU(3, 5, rng=0)
        x = rng.standard_normal((4, 2, 3), np.float32)
        expected, _ = layer(x, lengths=np.array([4, 2]))
        np.testing.assert_array_equal(layer(x, lengths=array.array("q", [4, 2]))[0], expected)
        as_array = array.array("f", x.ravel().tolist())
        viewed = memoryview(as_array).cast("B").cast("f", x.shape)
        np.testing.assert_array_equal(layer(viewed, lengths=[4, 2])[0], expected)
        other = fastrnn.GRU(3, 5, rng=1)
        other.load_state_dict(layer.params | {"bias_ih_l0": array.array("f", layer.params["bias_ih_l0"].tolist())})
        np.testing.assert_array_equal(other.params["bias_ih_l0"], layer.params["bias_ih_l0"])

    @pytest.mark.parametrize("dtype", "bBhHiIlLqQ")
    def test_lengths_of_any_integer_type(self, engine: str, dtype: str, rng: np.random.Generator) -> None:
        layer = fastrnn.GRU(3, 5, rng=0)
        x = rng.standard_normal((4, 2, 3), np.float32)
        expected, _ = layer(x, lengths=[4, 2])
        np.testing.assert_array_equal(layer(x, lengths=np.array([4, 2], dtype))[0], expected)


class TestOutputs:
    @pytest.mark.parametrize("T", [0, 1, 4])
    @pytest.mark.parametrize("options", [{}, ALL_OPTIONS, {"batch_first": True}])
    def test_are_new_and_contiguous(
        self, engine: str, build: Callable, options: dict, T: int, rng: np.random.Generator
    ) -> None:
        """Also where nothing is computed: no result shares memory with an argument, a parameter or another result."""
        layer = build(3, 5, **options)
        call = random_call(layer, T, 2, rng, lengths=True)
        for results in (infer(layer, call), train(layer, call), infer(layer.freeze(), call)):
            seen = [*call.arrays(), *layer.params.values()]
            for name, value in results.items():
                assert type(value) is np.ndarray
                assert value.flags.c_contiguous, name
                assert value.flags.writeable, name
                assert value.dtype == layer.dtype, name
                assert not any(np.shares_memory(value, other) for other in seen), name
                seen.append(value)

    def test_of_two_calls_are_two(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        layer = build(3, 5)
        call = random_call(layer, 4, 2, rng)
        for run in (infer, train):
            first, second = run(layer, call), run(layer, call)
            for name in first:
                np.testing.assert_array_equal(first[name], second[name])
                assert not np.shares_memory(first[name], second[name])

    def test_of_a_stream_do_not_follow_it(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        stream = build(3, 5).freeze().stream(2)
        x = rng.standard_normal((2, 3), np.float32)
        y, state = stream.step(x), stream.state
        before = [y.copy(), *(part.copy() for part in parts(state))]
        stream.step(x)
        stream.reset()
        for a, b in zip([y, *parts(state)], before, strict=True):
            np.testing.assert_array_equal(a, b)
            a[...] = 99
        assert not any((part == 99).any() for part in parts(stream.state))
