"""The vector activations keep the error bounds that csrc/simd/activations.h states, on every instruction set."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fastrnn._core import native

BOUND = {
    ("tanh", np.float32): 2, ("sigmoid", np.float32): 2, ("log_sigmoid", np.float32): 3,
    ("tanh", np.float64): 3, ("sigmoid", np.float64): 3, ("log_sigmoid", np.float64): 3,
}  # fmt: skip
EXACT = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "log_sigmoid": lambda x: np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x))),
}


def computed(name: str, x: NDArray) -> NDArray:
    y = np.empty_like(x)
    native.activation(name, x, y)
    return y


@pytest.mark.parametrize("name", EXACT)
def test_float32_over_a_stratified_million(isa: str, name: str) -> None:
    """One float in 4096 of all, so every exponent and sign has its share."""
    x = np.arange(0, 2**32, 4096 - 1, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = x[np.isfinite(x)]
    with np.errstate(over="ignore"):
        exact = EXACT[name](x.astype(np.float64))
    y, least = computed(name, x), float(np.finfo(np.float32).tiny)
    if name == "log_sigmoid":
        least *= 2  # its e^-x is at least e^-87
    normal = np.abs(exact) >= least
    ulp = np.exp2(np.floor(np.log2(np.abs(exact[normal]))) - 23)
    assert (np.abs(y[normal] - exact[normal]) / ulp).max() <= BOUND[name, np.float32]
    assert np.abs(y[~normal] - exact[~normal]).max(initial=0) < least


@pytest.mark.parametrize("name", EXACT)
def test_float64_sampled(isa: str, name: str) -> None:
    rng = np.random.default_rng(0)
    n = 1 << 15
    near = np.exp(rng.uniform(-40, 3, n)) * rng.choice([-1, 1], n)
    x = np.concatenate([rng.uniform(-1, 1, n), rng.uniform(-25, 25, n), near])
    wide = x.astype(np.longdouble)
    if np.finfo(np.longdouble).nmant <= 52:
        pytest.skip("long double is no wider than double here: nothing to measure against")
    exact = EXACT[name](wide)
    ulp = np.exp2(np.floor(np.log2(np.abs(exact))) - 52)
    assert float((np.abs(computed(name, x) - exact) / ulp).max()) <= BOUND[name, np.float64]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(isa: str, dtype: type) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30], dtype)
    tanh, sigmoid, log_sigmoid = (computed(name, x) for name in EXACT)
    np.testing.assert_array_equal(tanh, np.array([np.nan, 1, -1, 0, 0, 1, -1], dtype))
    assert np.signbit(tanh[4])
    assert not np.signbit(tanh[3])
    np.testing.assert_array_equal(sigmoid[[0, 1, 3, 4, 5]], np.array([np.nan, 1, 0.5, 0.5, 1], dtype))
    assert (sigmoid[[2, 6]] < np.finfo(dtype).tiny).all()
    np.testing.assert_array_equal(log_sigmoid[[0, 2, 6]], np.array([np.nan, -np.inf, -1e30], dtype))
    np.testing.assert_allclose(log_sigmoid[[1, 3, 4, 5]], np.array([0, -np.log(2), -np.log(2), 0], dtype), atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", EXACT)
def test_a_partial_vector_gives_the_same_bits(isa: str, name: str, dtype: type) -> None:
    x = np.random.default_rng(1).uniform(-5, 5, 67).astype(dtype)
    whole = computed(name, x)
    for n in range(1, 20):
        np.testing.assert_array_equal(computed(name, x[:n]), whole[:n])


@pytest.mark.parametrize("name", EXACT)
def test_tanh_is_odd_and_all_rise(isa: str, name: str) -> None:
    x = np.linspace(-12, 12, 20001).astype(np.float32)
    y = computed(name, x)
    assert (np.diff(y) >= -2e-7 * max(1, np.abs(y).max())).all()  # within the error bound, rising
    if name == "tanh":
        np.testing.assert_array_equal(computed(name, -x), -y)
