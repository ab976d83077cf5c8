"""How far a result may be from the expected one: a table of tolerances, and the comparisons that read it.

The measure is the scaled error, max|a - b| / max(1, max|b|). It is relative to the largest element, because an element
that is small only because large terms cancel has the error of the large terms.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOLERANCE", "assert_close", "assert_results_close", "scaled_error"]

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
EPS = {dtype: float(np.finfo(dtype).eps) for dtype in (F32, F64)}

TOLERANCE = {
    # Values of y and of states. A pre-activation sums up to about 300 products, each rounded by half an eps at most,
    # which gives an error of about sqrt(300)/2 = 9 eps. The nonlinearities add a few eps. The recurrence carries over
    # part of the error of the steps before. Measured: 10 eps; sums in another order may have a few times that.
    "value": {dtype: 50 * eps for dtype, eps in EPS.items()},
    # Values of y and of states with weights of fewer bits, compared with float32. With int8, weights and activations
    # are rounded to a 254th of their row's range: 0.5 % in sums of few products of random numbers. Measured: 0.3 %.
    # With bfloat16, to a 512th of each number's size, and steps carry over errors of those before.
    "int8": {F32: 0.02},
    "bfloat16": {F32: 0.01},
    # Gradients pass through every step a second time, and gradients of weights are sums over T*B rows (here up to about
    # 1,000). Measured: 16 eps.
    "gradient": {dtype: 100 * eps for dtype, eps in EPS.items()},
    # Central differences with step 1e-5. The truncation error is 1e-10 times a third derivative over 6, the rounding
    # error 1e-16 * |loss| / 1e-5. In float32 differences are too inexact to be of use.
    "difference": {F64: 5e-9},
}


def scaled_error(actual: NDArray, expected: NDArray) -> float:
    """Return max|a - b| / max(1, max|b|) over the finite elements of b."""
    finite = np.isfinite(expected)
    actual, expected = np.asarray(actual, np.float64)[finite], np.asarray(expected, np.float64)[finite]
    return float(np.abs(actual - expected).max(initial=0) / np.abs(expected).max(initial=1))


def assert_close(actual: NDArray, expected: NDArray, what: str = "value", name: str = "result") -> None:
    """Assert the same shape, NaN and infinities in the same places, and all else within the tolerance of the dtype."""
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    same = np.isnan(actual) == np.isnan(expected)
    assert same.all(), f"{name}: NaN where there should be none, or none where there should be, at {np.argwhere(~same)}"
    infinite = np.isinf(expected)
    assert (actual[infinite] == expected[infinite]).all(), f"{name}: infinities differ"
    error, tolerance = scaled_error(actual, expected), TOLERANCE[what][actual.dtype]
    assert error <= tolerance, f"{name}: scaled error {error:.2e}, tolerance {tolerance:.0e}"


def assert_results_close(actual: dict[str, NDArray], expected: dict[str, NDArray]) -> None:
    """Compare results by name, as `oracle.infer` and `oracle.train` give them."""
    assert actual.keys() == expected.keys()
    for name in actual:
        assert_close(actual[name], expected[name], "gradient" if name.startswith("grad") else "value", name)
