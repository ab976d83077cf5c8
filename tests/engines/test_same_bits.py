"""The packed engine's promise: a row's bits depend on that row alone.

Not on the number of threads, the batch around it, whether the layer is frozen, how time is cut into calls, or the
rounding mode.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from float_flags import readable
from generators import VARIANTS, build_layer
from numpy.typing import NDArray
from running import output_of

import fastrnn
from fastrnn._core import native
from fastrnn.stack import State

SIZES = [(3, 5), (17, 83), (70, 64), (130, 128)]  # (I, H)


@pytest.fixture(autouse=True, params=["rows", "units"])
def packed(request: pytest.FixtureRequest) -> Iterator[None]:
    native.insist_on_teams(request.param)  # these sizes are small: on their own they would stay on one thread
    with fastrnn.engines.use("packed"):
        yield
    native.insist_on_teams(None)


@pytest.fixture(params=VARIANTS)
def build(request: pytest.FixtureRequest) -> Callable[..., fastrnn.LSTM]:
    return lambda *args, **kwargs: build_layer(request.param, *args, rng=0, **kwargs)


def numbers(*shape: int, dtype: type = np.float32) -> NDArray:
    return np.random.default_rng(5).standard_normal(shape).astype(dtype)


def parts(state: State) -> tuple[NDArray, ...]:
    return state if isinstance(state, tuple) else (state,)


def assert_same(a: State, b: State) -> None:
    for x, y in zip(parts(a), parts(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("B", [3, 13, 61])
def test_for_any_number_of_threads(build: Callable, size: tuple[int, int], B: int, dtype: type) -> None:
    layer = build(*size, dtype=dtype, bidirectional=True)
    x = numbers(12, B, size[0], dtype=dtype)

    def run(threads: int) -> tuple:
        with fastrnn.num_threads(threads):
            y, state, tape = layer.forward(x)
            return y, state, layer.backward(tape, y)

    y, state, grads = run(1)
    for threads in (2, 3, 7):
        y_n, state_n, grads_n = run(threads)
        assert_same(y, y_n)
        assert_same(state, state_n)
        assert_same(grads.x, grads_n.x)
        assert_same(grads.state, grads_n.state)
        for name in grads.params:
            np.testing.assert_array_equal(grads.params[name], grads_n.params[name], err_msg=name)


@pytest.mark.parametrize("size", SIZES)
def test_for_any_batch_around_it(build: Callable, size: tuple[int, int]) -> None:
    layer = build(*size)
    x = numbers(9, 29, size[0])
    lengths = np.arange(29) % 10
    y, state = layer(x, lengths=lengths)
    for rows in (slice(0, 1), slice(3, 5), slice(7, 16), slice(4, 29)):
        y_r, state_r = layer(np.ascontiguousarray(x[:, rows]), lengths=lengths[rows])
        assert_same(y[:, rows], y_r)
        assert_same(tuple(s[:, rows] for s in parts(state)), parts(state_r))


@pytest.mark.parametrize("size", SIZES)
def test_wherever_steps_are_masked(build: Callable, size: tuple[int, int]) -> None:
    layer = build(*size, bidirectional=True)
    x = numbers(23, 5, size[0])
    mask = np.random.default_rng(6).random((23, 5)) < [0.1, 0.5, 0.9, 1, 0.5]
    y, state = layer(x, mask=mask)
    for b in range(5):
        y_b, state_b = layer(np.ascontiguousarray(x[mask[:, b], b]))
        np.testing.assert_array_equal(y[mask[:, b], b], y_b)
        assert_same(tuple(s[:, b] for s in parts(state)), parts(state_b))


@pytest.mark.parametrize("size", SIZES)
def test_for_any_cut_of_time(build: Callable, size: tuple[int, int]) -> None:
    layer = build(*size, num_layers=2)
    x = numbers(23, 3, size[0])
    whole, final = layer(x)
    trained = layer.forward(x)
    frozen = layer.freeze()
    stream = frozen.stream(3)
    pieces, state = [], None
    for piece in np.split(x, [1, 4, 11]):
        y, state = frozen(piece, state)
        pieces.append(y)
    for y in (np.concatenate(pieces), trained[0], np.stack([stream.step(x_t) for x_t in x])):
        np.testing.assert_array_equal(whole, y)
    for s in (state, trained[1], stream.state):
        assert_same(final, s)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("size", SIZES[1::2])
def test_whichever_rows_of_a_stream_advance(build: Callable, size: tuple[int, int], precision: str) -> None:
    frozen = build(*size, num_layers=2).freeze(precision=precision)
    stream, singles = frozen.stream(21), [frozen.stream() for _ in range(21)]
    rng = np.random.default_rng(6)
    for count, threads in ((13, 1), (1, 1), (21, 2), (0, 2), (5, 3)):
        x, rows = numbers(count, size[0]), rng.permutation(21)[:count]
        with fastrnn.num_threads(threads):
            y = stream.step(x, rows=rows)
        for k, b in enumerate(rows):
            np.testing.assert_array_equal(y[k], singles[b].step(x[k]))
    for b, single in enumerate(singles):
        assert_same(tuple(s[:, b : b + 1] for s in parts(stream.state)), single.state)


@pytest.mark.skipif(not readable, reason="needs glibc on x86-64 or aarch64, whose fenv_t is known")
@pytest.mark.parametrize("threading", native.threading_names())
def test_for_any_rounding_mode(threading: str) -> None:
    """The caller's own, and that in which the threads were hired."""
    code = """
        import hashlib
        import numpy as np
        import fastrnn
        from fastrnn._core import native
        from float_flags import ROUND_UP, controlled

        native.insist_on_teams("units")
        layer = fastrnn.GRU(17, 83, bidirectional=True, rng=0)
        x = np.random.default_rng(0).standard_normal((5, 4, 17)).astype(np.float32)

        def digest(flags, threads):
            with controlled(flags), fastrnn.num_threads(threads):
                y, state, tape = layer.forward(x)
                grads = layer.backward(tape, y)
            arrays = [y, state, grads.x, *grads.params.values()]
            return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()

        print(*{digest(flags, threads) for threads in (3, 1) for flags in (ROUND_UP, 0)})
    """
    assert len(output_of(code, FASTRNN_ENGINE="packed", FASTRNN_THREADING=threading).split()) == 1
