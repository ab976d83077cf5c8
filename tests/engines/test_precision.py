"""Frozen layers of fewer bits: the compiled engines against the reference engine's scheme, and the promises."""

import pickle
from typing import Any

import numpy as np
import pytest
from generators import VARIANTS, build_layer, random_call
from oracle import infer, parts
from tolerances import assert_close

import fastrnn
from fastrnn._core import native
from fastrnn.engines import precision

NARROW = ("bfloat16", "int8")


def reference(layer: Any, chosen: Any) -> Any:
    with fastrnn.engines.use("reference"):
        return layer.freeze(chosen)


@pytest.mark.parametrize("chosen", NARROW)
@pytest.mark.parametrize("hidden_size", [1, 16, 37, 130])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_reference(compiled: str, variant: str, hidden_size: int, chosen: str) -> None:
    with fastrnn.engines.use(compiled):
        layer = build_layer(variant, 3 + hidden_size // 2, hidden_size, bidirectional=hidden_size == 37, num_layers=2)
        call = random_call(layer, 6, 9, np.random.default_rng(1), lengths=True, resets=True)
        actual, expected = infer(layer.freeze(chosen), call), infer(reference(layer, chosen), call)
    for name, value in expected.items():
        assert actual[name].dtype == np.float32
        assert_close(actual[name], value, chosen, name)  # where a sum is rounded otherwise, so is the next step's h


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "proj" not in name and "before" not in name])
def test_a_step_of_int8_differs_from_the_reference_as_gates_do(variant: str) -> None:
    # From the same inputs and states the pre-activations have the same bits. (A projection and r*h_{t-1} are quantised
    # anew in the middle of a step.)
    layer = build_layer(variant, 50, 70)
    call = random_call(layer, 1, 33, np.random.default_rng(2))
    actual, expected = infer(layer.freeze("int8"), call), infer(reference(layer, "int8"), call)
    for name in expected:
        assert_close(actual[name], expected[name], name=name)


@pytest.mark.parametrize("chosen", NARROW)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("split", ["rows", "units"])
def test_bits_depend_on_the_row_alone(variant: str, split: str, chosen: str) -> None:
    frozen = build_layer(variant, 19, 83).freeze(chosen)
    x = np.random.default_rng(3).standard_normal((12, 61, 19)).astype(np.float32)
    lengths = np.arange(61) % 13
    y, state = frozen(x, lengths=lengths)
    native.insist_on_teams(split)
    try:
        for threads in (2, 3, 7):
            with fastrnn.num_threads(threads):
                y_n, state_n = frozen(x, lengths=lengths)
            np.testing.assert_array_equal(y, y_n)
            for a, b in zip(parts(state), parts(state_n), strict=True):
                np.testing.assert_array_equal(a, b)
    finally:
        native.insist_on_teams(None)
    for rows in (slice(0, 1), slice(3, 5), slice(7, 16)):
        np.testing.assert_array_equal(y[:, rows], frozen(x[:, rows], lengths=lengths[rows])[0])
    first, state = frozen(x[:5, 12:13])
    np.testing.assert_array_equal(np.concatenate([first, frozen(x[5:, 12:13], state)[0]]), y[:, 12:13])
    stream = frozen.stream(61)
    for t in range(12):
        still = lengths > t
        np.testing.assert_array_equal(stream.step(x[t])[still], y[t, still])


@pytest.mark.parametrize("chosen", NARROW)
def test_two_directions_at_once(chosen: str) -> None:
    frozen = fastrnn.LSTM(40, 96, bidirectional=True, rng=0).freeze(chosen)
    x = np.random.default_rng(4).standard_normal((30, 1, 40)).astype(np.float32)
    with fastrnn.num_threads(1):
        y, _ = frozen(x)
    for threads in (2, 4, 5):
        native.insist_on_teams("units")
        try:
            with fastrnn.num_threads(threads):
                np.testing.assert_array_equal(frozen(x)[0], y)
        finally:
            native.insist_on_teams(None)


def test_a_precision_for_each_layer() -> None:
    layer = fastrnn.GRU(10, 24, num_layers=3, rng=0)
    x = np.random.default_rng(5).standard_normal((7, 4, 10)).astype(np.float32)
    frozen = layer.freeze(("float32", "int8", "bfloat16"))
    assert frozen.precision == ("float32", "int8", "bfloat16")
    y = x
    for k, chosen in enumerate(("float32", "int8", "bfloat16")):
        single = fastrnn.GRU(10 if k == 0 else 24, 24)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            single.params[f"{name}_l0"] = layer.params[f"{name}_l{k}"]
        y = single.freeze(chosen)(y)[0]
    np.testing.assert_array_equal(frozen(x)[0], y)


@pytest.mark.parametrize("chosen", ["float32", *NARROW, ("int8", "float32")])
def test_pickles_keep_the_precision(chosen: Any) -> None:
    layer = fastrnn.LSTM(9, 20, num_layers=2, peephole=True, proj_size=7, learn_initial_state=True, rng=0)
    frozen = layer.freeze(chosen)
    again = pickle.loads(pickle.dumps(frozen))
    assert repr(again) == repr(frozen)
    assert again.precision == frozen.precision == chosen
    assert (f"precision={chosen!r}" in repr(frozen)) == (chosen != "float32")
    assert again.weight_bytes == frozen.weight_bytes
    x = np.random.default_rng(6).standard_normal((5, 3, 9)).astype(np.float32)
    np.testing.assert_array_equal(again(x)[0], frozen(x)[0])


def test_weights_take_a_quarter_or_a_half() -> None:
    layer = fastrnn.LSTM(128, 128, bias=False)
    size = layer.freeze().weight_bytes
    assert size == sum(a.nbytes for a in layer.params.values())
    assert layer.freeze("bfloat16").weight_bytes == size / 2
    assert layer.freeze("int8").weight_bytes < 0.27 * size


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_nan_with_int8(bad: float) -> None:
    frozen = fastrnn.GRU(20, 33, rng=0).freeze("int8")
    x = np.random.default_rng(7).standard_normal((4, 8, 20)).astype(np.float32)
    expected, _ = frozen(x)
    x[2, 5, 7] = bad
    y, _ = frozen(x)
    assert np.isnan(y[2:, 5]).all()
    y[2:, 5] = expected[2:, 5]
    np.testing.assert_array_equal(y, expected)


def test_tiny_inputs_count_as_zeros_with_int8() -> None:
    frozen = fastrnn.RNN(20, 8, rng=0).freeze("int8")
    tiny = np.full((1, 1, 20), 2.0**-101, np.float32)
    np.testing.assert_array_equal(frozen(tiny)[0], frozen(np.zeros_like(tiny))[0])
    huge = np.full((1, 1, 20), 3e38, np.float32)
    assert np.isfinite(frozen(huge)[0]).all()


def test_nothing_saturates() -> None:
    # Sums at both ends of what an int32 holds, of weights and inputs that are all the largest.
    K = precision.MOST_SUMMED
    layer = fastrnn.RNN(K, 3, nonlinearity="relu", bias=False)
    layer.params["weight_ih_l0"][...] = np.array([1, -1, 1], np.float32)[:, None]
    layer.params["weight_ih_l0"][2, ::2] = -1
    x = np.ones((1, 2, K), np.float32)
    x[0, 1] = -1
    scale = np.float32(1) / np.float32(127) * (np.float32(1) / np.float32(127))
    largest = np.float32(K * 127 * 127) * scale
    y, _ = layer.freeze("int8")(x)
    np.testing.assert_array_equal(y[0], [[largest, 0, 0], [0, largest, 0]])


def test_bad_arguments() -> None:
    layer = fastrnn.LSTM(3, 4, num_layers=2)
    with pytest.raises(ValueError, match="precision: expected one of 'float32', 'bfloat16', 'int8', got 'int4'"):
        layer.freeze("int4")
    with pytest.raises(TypeError, match="precision: expected str, or a sequence of them, got int"):
        layer.freeze(8)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"precision: expected one of .*, got int"):
        layer.freeze(("int8", 8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="precision: expected one for each of 2 layers, got 3"):
        layer.freeze(("int8",) * 3)
    with pytest.raises(ValueError, match="precision: expected one of 'float64', got 'int8'"):
        fastrnn.GRU(3, 4, dtype=np.float64).freeze("int8")
    with pytest.raises(ValueError, match="at most 131072 weights a row for int8, got 131073"):
        fastrnn.RNN(precision.MOST_SUMMED + 1, 1).freeze("int8")
    layer.params["weight_hh_l1"][0, 0] = np.inf
    with pytest.raises(ValueError, match="expected finite weights for int8"):
        layer.freeze("int8")


def test_rounding_to_bfloat16() -> None:
    values = np.array([[1, 1 + 2**-9, 1 + 3 * 2**-9, -1 - 2**-8 - 2**-20, np.inf, np.nan, 0, 2.0**-133]], np.float32)
    rounded = precision.BFloat16.of(values).widened()
    np.testing.assert_array_equal(rounded, [[1, 1, 1 + 2**-7, -1 - 2**-7, np.inf, np.nan, 0, 2.0**-133]])
