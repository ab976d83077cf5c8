"""NaN, infinities, huge and tiny values travel as IEEE says, and within their own row of the batch."""

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from float_flags import FLUSH, ROUND_UP, control, controlled, readable
from generators import build_layer, random_call
from oracle import FINAL, INITIAL, Call, Results, infer, oracle, parts, train
from running import in_threads
from tolerances import assert_close

import fastrnn
from fastrnn._core import native

SIZES = [(3, 5), (17, 33)]  # below and above one vector
OPTIONS = [
    pytest.param({}, id="plain"),
    pytest.param({"num_layers": 2, "bidirectional": True}, id="2 layers, both ways"),
]


def by_row(results: Results) -> Results:
    """Results that belong to rows of the batch, with that axis first; gradients in parameters belong to none."""
    named = ("y", "grad x", *FINAL, *INITIAL)
    return {name: np.moveaxis(results[name], 1, 0) for name in named if name in results}


def assert_others_close(actual: Results, expected: Results, row: int) -> None:
    for name, value in by_row(actual).items():
        others = np.arange(len(value)) != row
        what = "gradient" if name.startswith("grad") else "value"
        assert np.isfinite(value[others]).all(), name
        assert_close(value[others], by_row(expected)[name][others], what, name)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_it_stays_in_its_row(engine: str, variant: str, size: tuple, options: dict, value: float) -> None:
    """Forwards and backwards, in the first, a middle and the last row of the batch, in every argument."""
    layer = build_layer(variant, *size, **options)
    B = 7
    call = random_call(layer, 4, B, np.random.default_rng(3))
    expected = train(layer, call)
    for row in (0, 3, B - 1):
        for where in ("x", "h", "c", "dy", "dh", "dc") if layer.cell.has_c else ("x", "h", "dy", "dh"):
            struck = call.map(np.copy)
            target = {
                "x": struck.x, "dy": struck.dy, "h": parts(struck.state)[0], "c": parts(struck.state)[-1],
                "dh": parts(struck.dstate)[0], "dc": parts(struck.dstate)[-1],
            }[where]  # fmt: skip
            target[1 if where in ("x", "dy") else 0, row, 1] = value
            actual = train(layer, struck)
            assert_others_close(actual, expected, row)
            assert_others_close(infer(layer, struck), {k: v for k, v in expected.items() if k[:4] != "grad"}, row)
            if where in ("dy", "dh", "dc"):
                assert_close(actual["y"], expected["y"])


@pytest.mark.parametrize("size", SIZES)
def test_nan_reaches_all_that_depends_on_it(engine: str, variant: str, size: tuple) -> None:
    layer = build_layer(variant, *size)
    units = layer.output_size // layer.cell.heads
    head = slice(1 // units * units, (1 // units + 1) * units)  # all units, or those that see unit 1
    call = random_call(layer, 4, 3, np.random.default_rng(3))
    x, h = call.map(np.copy), call.map(np.copy)
    x.x[1, 1, 1] = np.nan
    parts(h.state)[0][0, 1, 1] = np.nan
    for struck, step, reached in ((x, 1, slice(None)), (h, 0, head)):
        for y in (infer(layer, struck)["y"], train(layer, struck)["y"]):
            assert np.isfinite(y[:step, 1]).all()
            seen = slice(1, 2) if layer.cell.unconnected and struck is h else reached
            assert np.isnan(y[step:, 1, seen]).all()
            assert np.isfinite(y[:, [0, 2]]).all()
    if layer.cell.has_c:
        call.state[1][0, 1, 1] = np.nan
        y = infer(layer, call)["y"]
        assert np.isnan(y[0, 1]).any()  # its own unit
        assert np.isnan(y[1:, 1, head]).all()  # and every unit through it


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_input_saturates_as_in_the_equations(engine: str, variant: str, size: tuple, value: float) -> None:
    """Each gate is exactly 0, 1 or -1, or NaN where infinities of both signs meet; then all goes on from there."""
    layer = build_layer(variant, *size)
    call = random_call(layer, 4, 3, np.random.default_rng(3))
    call.x[1, 1, 0] = value
    expected = oracle(layer, call)
    for actual in (train(layer, call), infer(layer, call)):
        for name in ("y", *FINAL):
            if name in actual:
                assert_close(actual[name], expected[name], "value", name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [30.0, 1e4, 1e30])
def test_saturation(engine: str, variant: str, scale: float, dtype: type) -> None:
    layer = build_layer(variant, 5, 17, dtype=dtype)
    call = random_call(layer, 5, 4, np.random.default_rng(3))
    call.x *= dtype(scale)
    if layer.cell.norm_values and scale**2 > float(np.finfo(dtype).max):  # a variance is infinite, unlike the oracle's
        assert np.isfinite(infer(layer, call)["y"]).all()
        return
    expected = oracle(layer, replace(call, dy=None, dstate=None))
    actual = train(layer, call)
    for name in expected:
        assert_close(actual[name], expected[name], "value", name)
    if not layer.cell.unconnected:  # where candidates, and so gradients of weights, are as large as x
        assert all(np.isfinite(value).all() for value in actual.values())
    assert_close(infer(layer, call)["y"], expected["y"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pre_activations_that_overflow(engine: str, variant: str, dtype: type) -> None:
    """Products beyond the largest number are infinite, not garbage: the bounded cells give bounded values."""
    layer = build_layer(variant, 3, 17, dtype=dtype)
    for name, param in layer.params.items():
        if name.startswith("weight_ih"):
            param[...] = np.abs(param) * 100  # one sign, so that no infinities meet
    x = np.full((1, 4, 3), np.finfo(dtype).max, dtype)
    y, _ = layer(x)  # one step: the relu's infinities would meet in the next
    if layer.cell.norm_values:  # the mean is infinite, and infinities meet
        assert np.isnan(y).all()
        return
    assert not np.isnan(y).any()
    if variant == "rnn-relu" or layer.cell.unconnected:
        assert np.isinf(y).all()
    else:
        assert (np.abs(y) <= 17).all()


@pytest.mark.parametrize("tiny", [-0.0, 1e-40, -1e-42, 5e-324])
def test_negative_zero_and_denormals_are_as_good_as_zero(engine: str, build: Callable, tiny: float) -> None:
    layer = build(5, 17, dtype=np.float64 if tiny == 5e-324 else np.float32)
    call = random_call(layer, 4, 3, np.random.default_rng(3))
    zero = replace(call.map(np.zeros_like), dy=call.dy)
    small = replace(call.map(lambda a: np.full_like(a, tiny)), dy=call.dy)
    expected, actual = train(layer, zero), train(layer, small)
    for name, value in actual.items():
        what = "gradient" if name.startswith("grad") else "value"
        assert_close(value, expected[name], what, name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_state_that_decays_into_denormals(engine: str, dtype: type) -> None:
    """c halves at every step: exact until it is denormal, and from there on zero or as small as it should be."""
    layer = fastrnn.LSTM(2, 17, dtype=dtype, rng=0)
    for param in layer.params.values():
        param[...] = 0  # f = 1/2, and g = 0 adds nothing
    tiny = float(np.finfo(dtype).tiny)
    c0 = np.full((1, 3, 17), 2.0**20 * tiny, dtype)
    steps = 20 + np.finfo(dtype).nmant + 10
    _, _, tape = layer.forward(np.zeros((steps, 3, 2), dtype), (np.zeros_like(c0), c0))
    expected = c0 * 0.5 ** np.arange(1, steps + 1)[:, None, None]
    c = tape.gates()["c"]
    normal = expected >= tiny
    np.testing.assert_array_equal(c[normal], expected[normal])
    assert (c[~normal] >= 0).all()
    assert (c[~normal] < tiny).all()
    # A gradient decays in the same way on its way back.
    dc0 = layer.backward(tape, dstate=(np.zeros_like(c0), c0)).state[1]
    assert (np.abs(dc0) < tiny).all()


def test_the_callers_floating_point_state_is_left_alone(engine: str, build: Callable) -> None:
    """Denormals are flushed to zero, if at all, inside a call only."""
    layer = build(17, 33)
    call = random_call(layer, 20, 16, np.random.default_rng(3))
    with fastrnn.num_threads(2):
        train(layer, call)
        infer(layer, call)
        layer.freeze().stream(16).step(call.x[0])
    smallest = np.full(64, np.finfo(np.float32).tiny)
    assert (smallest / np.float32(4) > 0).all()
    assert (np.full(64, 1e-310) * 1.0 > 0).all()
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        np.float32(1) / np.zeros(1, np.float32)


@pytest.mark.skipif(not readable, reason="needs glibc on x86-64 or aarch64, whose fenv_t is known")
@pytest.mark.parametrize("flags", [0, FLUSH, ROUND_UP, FLUSH | ROUND_UP])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_callers_floating_point_flags_are_as_before(
    compiled: str, build: Callable, flags: int, threads: int
) -> None:
    """After every call, those that fail too, in whatever thread: what the caller had set stays set."""
    layer = build(17, 83)
    call = random_call(layer, 5, 16, np.random.default_rng(3), lengths=True)
    frozen = layer.freeze()
    streams = threading.local()  # a thread has its own
    out = np.empty((16, layer.output_size), np.float32)
    tape = layer.forward(call.x)[2]
    wrong = np.zeros((16, 18), np.float32)
    calls: list[Callable] = [
        lambda: infer(layer, call), lambda: train(layer, call), layer.freeze, lambda: infer(frozen, call),
        lambda: streams.own.step(call.x[0]), lambda: streams.own.step(call.x[0], out),
        lambda: layer(wrong), lambda: layer.forward(wrong), lambda: layer.backward(tape, wrong), lambda: frozen(wrong),
        lambda: streams.own.step(wrong, out), lambda: layer(call.x, lengths=np.full(16, 6)),
        lambda: layer.backward(None),
    ]  # fmt: skip

    def run() -> list[tuple[int, int, bool]]:
        seen, streams.own = [], frozen.stream(16)
        with controlled(flags), fastrnn.num_threads(threads):
            for function in calls:
                before, failed = control(), False
                try:
                    function()
                except (TypeError, ValueError):
                    failed = True
                seen.append((before, control(), failed))
        return seen

    native.insist_on_teams("rows" if threads > 1 else None)
    try:
        everywhere = [run(), *in_threads(compiled, [run, run])]
    finally:
        native.insist_on_teams(None)
    for seen in everywhere:
        assert [failed for _, _, failed in seen] == [False] * 6 + [True] * 7
        for before, after, _ in seen:
            assert before & flags == flags
            assert after == before


def test_no_warnings(engine: str, build: Callable, recwarn: pytest.WarningsRecorder) -> None:
    """Saturation is how a gate works: exp overflowing inside it is nobody's business."""
    layer = build(3, 5)
    call = random_call(layer, 4, 3, np.random.default_rng(3))
    call.x[0] = 1e30
    call.x[1] = np.nan
    call.x[2] = -np.inf
    with np.errstate(all="warn"):
        infer(layer, call)
        train(layer, call)
    assert not recwarn.list


def test_in_a_stream(engine: str, build: Callable, rng: np.random.Generator) -> None:
    layer = build(17, 33)
    frozen = layer.freeze()
    clean, struck = frozen.stream(7), frozen.stream(7)
    for t in range(3):
        x = rng.standard_normal((7, 17), np.float32)
        expected = clean.step(x)
        x[4] = np.nan if t == 1 else x[4]
        actual = struck.step(x)
        others = np.arange(7) != 4
        assert_close(actual[others], expected[others])
        assert np.isnan(actual[4]).all() == (t > 0)
    struck.reset(4)
    assert np.isfinite(struck.step(x)).all()


def test_a_nan_in_a_weight_is_seen(engine: str, build: Callable, rng: np.random.Generator) -> None:
    """In the unit that it belongs to, here of the last gate; where rows are normalised or projected, in all units."""
    layer = build(3, 5)
    layer.params["weight_ih_l0"][-3, 1] = np.nan
    y = infer(layer, Call(rng.standard_normal((1, 2, 3), np.float32)))["y"]
    if "weight_hr_l0" in layer.params or layer.cell.norm_values:
        assert np.isnan(y).all()
    else:
        assert np.isnan(y[..., 2]).all()
        assert np.isfinite(np.delete(y, 2, axis=2)).all()
