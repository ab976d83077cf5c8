"""Engines that are given the valid rows alone (`Steps.starts`) compute what they compute of padded sequences."""

import itertools
from typing import Any

import numpy as np
import pytest
from generators import build_layer
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tolerances import assert_close

import fastrnn
from fastrnn._core import native
from fastrnn.arguments import weights
from fastrnn.engines import memory
from fastrnn.engines.seam import BackwardArgs, ForwardArgs, Record, Steps, Weights

COMPILED = [name for name in fastrnn.engines.available() if name != "reference"]


def run(cell: Any, w: Weights, steps: Steps, arrays: list[NDArray], first: NDArray | None) -> dict[str, Any]:
    """Results and gradients of a run over x, with dy; dx is added to `first` unless that is None."""
    engine, (x, dy, h0, c0, dh, dc) = fastrnn.engines.current(), arrays
    y, dx = np.full_like(dy, np.nan), np.full_like(x, np.nan) if first is None else first.copy()
    h_n, c_n, dh0, dc0 = (np.full_like(a, np.nan) for a in (h0, c0, h0, c0))
    c = (c0, c_n, dc, dc0) if cell.has_c else (None,) * 4
    record = Record._make(None if a is None else np.full_like(a, np.nan) for a in memory.new_record(cell, *x.shape[:2]))
    dw = Weights._make(None if a is None else np.full_like(a, np.nan) for a in w)
    engine.forward([ForwardArgs(engine.prepare(cell, w), steps, x, h0, c[0], y, h_n, c[1], record)])
    engine.backward([BackwardArgs(
        engine.prepare(cell, w, backward=True), steps, x, y, h0, c[0], record, dy, dh, c[2], dx, first is not None, dh0,
        c[3], dw,
    )])  # fmt: skip
    found = {"y": y, "dx": dx, "h_n": h_n, "dh0": dh0, "record": record, **dw._asdict()}
    return found | ({"c_n": c_n, "dc0": dc0} if cell.has_c else {})


@pytest.mark.parametrize(
    ("engine", "split"),
    [("reference", None), *itertools.product(COMPILED, (None, "rows", "units"))],  # the reference has no teams
    indirect=["engine"],
)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    sizes=st.tuples(st.integers(1, 20), st.integers(2, 40)),
    reverse=st.booleans(),
    adds=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 99),
)
@example([300, 260], (3, 4), True, True, np.float32, 0)  # several chunks
@example([2] * 400 + [1], (1, 200), False, False, np.float32, 0)  # several blocks of rows
def test_valid_rows_alone_give_what_padded_ones_give(
    engine: str, variant: str, split: str | None, lengths: list[int], sizes: tuple[int, int], reverse: bool, adds: bool,
    dtype: Any, seed: int,
) -> None:  # fmt: skip
    layer = build_layer(variant, *sizes, dtype=dtype)
    cell, (w,) = layer.cell, weights(layer._stack, layer.params)
    rng = np.random.default_rng(seed)
    n = np.sort(np.array(lengths))[::-1].copy()
    T, B, O, H = n[0], len(n), cell.output_size, cell.hidden_size
    C = cell.has_c * H
    shapes = [(T, B, sizes[0]), (T, B, O), (B, O), (B, C), (B, O), (B, C), (T, B, sizes[0])]
    *arrays, first = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    if cell.has_c > 1:
        arrays[3][:, H : 2 * H] = 1 + np.abs(arrays[3][:, H : 2 * H])  # n, a sum of positive terms
    valid = np.arange(T)[:, None] < n
    counts = valid.sum(axis=1)
    order = np.arange(B)

    def packed(a: NDArray) -> NDArray:
        return np.ascontiguousarray(a[valid][:, None])

    native.insist_on_teams(split)
    try:
        with fastrnn.num_threads(3):
            padded = run(cell, w, Steps(n, order, None, reverse), arrays, first if adds else None)
            alone = run(
                cell, w, Steps(n, order, None, reverse, np.cumsum(counts) - counts),
                [*map(packed, arrays[:2]), *arrays[2:]], packed(first) if adds else None,
            )  # fmt: skip
    finally:
        native.insist_on_teams(None)
    for name, value in alone.items():
        expected = padded[name]
        if isinstance(value, Record):
            for a, b in zip(value, expected, strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    assert_close(a[:, 0], b[valid], name=name)
        elif value is not None:
            series = name in ("y", "dx")
            assert_close(value[:, 0] if series else value, expected[valid] if series else expected, "gradient", name)
