"""Gradients of rows: what an embedding gives, as NumPy sees it, and as optimisers take it."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastrnn
from fastrnn import nn, optim
from fastrnn._core import native
from fastrnn.nn.layers import sum_rows
from fastrnn.params import RowGradient

OPTIMIZERS = [
    lambda params: optim.SGD(params, 0.1),
    lambda params: optim.SGD(params, 0.1, momentum=0.9),
    lambda params: optim.SGD(params, 0.1, momentum=0.9, nesterov=True, weight_decay=0.2),
    lambda params: optim.SGD(params, 0.1, weight_decay=0.2),
    lambda params: optim.Adam(params, 0.1),
    lambda params: optim.AdamW(params, 0.1, weight_decay=0.2),
]


@pytest.fixture
def teams() -> Iterator[None]:
    """Work is shared among threads however small it is."""
    native.insist_on_teams("rows")
    yield
    native.insist_on_teams(None)


def random_rows(seed, V=7, E=5, dtype=np.float64):
    rng = np.random.default_rng(seed)
    ids = np.flatnonzero(rng.random(V) < 0.5)
    return RowGradient(ids, rng.standard_normal((len(ids), E)).astype(dtype), (V, E))


# ---- Sums of rows ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5000), max_size=60), st.integers(0, 20), st.sampled_from([np.float32, np.float64]))
def test_rows_are_summed_in_their_order(engine, ids, E, dtype):
    values = np.random.default_rng(len(ids)).standard_normal((len(ids), E)).astype(dtype)
    distinct, sums = sum_rows(np.array(ids, np.intp), values)
    np.testing.assert_array_equal(distinct, sorted(set(ids)))
    assert sums.dtype == dtype
    for k, row in zip(distinct, sums, strict=True):
        total = np.zeros(E, dtype)
        for value in values[np.array(ids) == k]:
            total += value
        np.testing.assert_array_equal(row, total)


@pytest.mark.parametrize("largest", [0, 10, 2047, 2048, 1 << 22, 1 << 40, (1 << 62) + 5])
def test_ids_of_any_size_are_sorted(engine, largest):
    ids = np.random.default_rng(0).integers(0, largest, 500, endpoint=True)
    distinct, sums = sum_rows(ids, np.ones((500, 1)))
    expected, counts = np.unique(ids, return_counts=True)
    np.testing.assert_array_equal(distinct, expected)
    np.testing.assert_array_equal(sums[:, 0], counts)


def test_sums_of_rows_are_the_same_for_any_number_of_threads(compiled, teams):
    rng = np.random.default_rng(0)
    ids, values = rng.integers(0, 50, 3000) ** 2, rng.standard_normal((3000, 37)).astype(np.float32)
    with fastrnn.num_threads(1):
        _, expected = sum_rows(ids, values)
    for threads in (2, 3, 7):
        with fastrnn.num_threads(threads):
            np.testing.assert_array_equal(sum_rows(ids, values)[1], expected)


def test_an_embedding_gives_its_rows(engine):
    layer = nn.Embedding(100, 3, rng=0)
    y, tape = layer.forward([[7, 2], [7, 99]])
    gradient = layer.backward(tape, np.ones_like(y)).params["weight"]
    assert isinstance(gradient, RowGradient)
    np.testing.assert_array_equal(gradient.ids, [2, 7, 99])
    np.testing.assert_array_equal(gradient.rows[:, 0], [1, 2, 1])
    assert gradient.shape == (100, 3)
    tape.ids[0, 0] = 100
    with pytest.raises(IndexError, match=r"tape.ids: expected integers in 0..99, got 100"):
        layer.backward(tape, np.ones_like(y))


# ---- As NumPy sees them ----------------------------------------------------------------------------------------------


def test_numpy_sees_the_whole_array():
    g = random_rows(1)
    dense = g.dense()
    assert (g.shape, g.ndim, g.dtype) == (dense.shape, dense.ndim, dense.dtype)
    np.testing.assert_array_equal(np.asarray(g), dense)
    assert np.asarray(g, np.float32).dtype == np.float32
    for result, expected in (
        (g + g, 2 * dense), (g - 1, dense - 1), (1 - g, 1 - dense), (g * g, dense**2), (g**2, dense**2),
        (dense * g, dense**2), (g / dense.shape[0], dense / 7), (-g, -dense), (g == 0, dense == 0),
        (np.abs(g), np.abs(dense)), (np.add.reduce(g), dense.sum(axis=0)), (np.float64(3) * g, 3 * dense),
    ):  # fmt: skip
        np.testing.assert_array_equal(result, expected)
    total = dense.copy()
    total += g
    np.testing.assert_array_equal(total, 2 * dense)
    assert repr(g) == f"RowGradient({len(g.ids)} rows of (7, 5), float64)"


def test_scaling_keeps_the_rows():
    g = random_rows(1)
    dense = g.dense()
    for scaled, factor in ((g * 3, 3), (3.0 * g, 3), (g / 2, 0.5)):
        assert isinstance(scaled, RowGradient)
        np.testing.assert_array_equal(scaled, factor * dense)
    same = g
    same *= 3
    same /= 2
    assert same is g
    np.testing.assert_array_equal(g, dense * 3 / 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda g: g.__iadd__(1), TypeError, "out: expected an array, got a RowGradient"),
        (lambda g: g.__imul__(np.ones((7, 5))), TypeError, "out: expected an array, got a RowGradient"),
        (lambda g: np.add.at(g, 0, 1), TypeError, "out: expected an array, got a RowGradient"),
        (lambda g: g.__array__(copy=False), ValueError, "copy: .* got False"),
    ],
)
def test_what_cannot_be_done_in_place(call, error, message):
    with pytest.raises(error, match=message):
        call(random_rows(1))


# ---- As optimisers take them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", OPTIMIZERS)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([np.float32, np.float64]), st.integers(0, 99))
def test_a_step_with_rows_is_the_dense_step(engine, build, V, E, dtype, seed):
    start = np.random.default_rng(seed).standard_normal((V, E)).astype(dtype)
    with_rows, dense = start.copy(), start.copy()
    ours, other = build({"p": with_rows}), build({"p": dense})
    for step in range(3):
        g = random_rows(3 * seed + step, V, E, dtype)
        ours.step({"p": g}, 5.0)
        other.step({"p": g.dense()}, 5.0)
    tolerance = 2e-6 if dtype == np.float32 else 1e-13  # as in test_optim.py: norms differ in the last bit
    np.testing.assert_allclose(with_rows, dense, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("build", OPTIMIZERS)
def test_a_step_with_rows_has_the_bits_of_the_dense_step(compiled, build, teams):
    start = np.random.default_rng(0).standard_normal((700, 33)).astype(np.float32)
    for threads in (1, 3):
        with_rows, dense = start.copy(), start.copy()
        ours, other = build({"p": with_rows}), build({"p": dense})
        with fastrnn.num_threads(threads):
            for step in range(3):
                g = random_rows(step, 700, 33, np.float32)
                ours.step({"p": g})
                other.step({"p": g.dense()})
        np.testing.assert_array_equal(with_rows, dense)
        for name, value in ours.state_dict().items():
            np.testing.assert_array_equal(value, other.state_dict()[name])


def sparse_adam(p, gs, lr, betas, eps=1e-8):
    """torch.optim.SparseAdam, written down."""
    p, m, v = p.copy(), np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gs, 1):
        for k, row in zip(g.ids, g.rows, strict=True):
            m[k] += (1 - betas[0]) * (row - m[k])
            v[k] += (1 - betas[1]) * (row * row - v[k])
            rate = lr * np.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
            p[k] -= rate * m[k] / (np.sqrt(v[k]) + eps)
    return p


@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW])
def test_lazy_adam_is_sparse_adam(engine, kind):
    options = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 0.01}
    start, gs = np.random.default_rng(0).standard_normal((7, 5)), [random_rows(seed) for seed in range(6)]
    p, others = start.copy(), np.ones(3)
    plain = {} if kind is optim.Adam else {"weight_decay": 0.0}
    optimizer = kind({"p": p, "others": others}, **options, **plain, lazy=True)
    dense = optim.Adam({"others": (expected := np.ones(3))}, **options)
    for g in gs:
        optimizer.step({"p": g, "others": np.arange(3.0)})
        dense.step({"others": np.arange(3.0)})
    np.testing.assert_allclose(p, sparse_adam(start, gs, **options), rtol=1e-12)
    np.testing.assert_array_equal(others, expected)


def test_lazy_adam_is_torchs_sparse_adam():
    torch = pytest.importorskip("torch")
    options = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 0.01}
    p, gs = np.random.default_rng(0).standard_normal((7, 5)), [random_rows(seed) for seed in range(6)]
    tensor = torch.tensor(p, requires_grad=True)
    theirs, ours = torch.optim.SparseAdam([tensor], **options), optim.Adam({"p": p}, **options, lazy=True)
    for g in gs:
        tensor.grad = torch.sparse_coo_tensor(
            torch.tensor(g.ids)[None], torch.tensor(g.rows), g.shape, check_invariants=True
        )
        theirs.step()
        ours.step({"p": g})
    np.testing.assert_allclose(p, tensor.detach().numpy(), rtol=1e-12)


def test_lazy_weight_decay_leaves_other_rows(engine):
    p = np.ones((4, 2))
    optimizer = optim.AdamW({"p": p}, 0.1, weight_decay=0.5, lazy=True)
    optimizer.step({"p": RowGradient(np.array([1]), np.zeros((1, 2)), (4, 2))})
    np.testing.assert_allclose(p, [[1, 1], [0.95, 0.95], [1, 1], [1, 1]])


def test_plain_sgd_touches_only_the_rows(engine):
    p = np.full((4, 2), np.nan)
    p[1] = 1
    optim.SGD({"p": p}, 0.1).step({"p": RowGradient(np.array([1]), np.ones((1, 2)), (4, 2))})
    np.testing.assert_allclose(p[1], 0.9)


def test_clipping_scales_the_rows(engine):
    g, dense = random_rows(3), {"g": random_rows(3).dense(), "h": np.ones(4)}
    grads = {"g": g, "h": np.ones(4)}
    assert optim.clip_grad_norm(grads, 0.1) == pytest.approx(optim.clip_grad_norm(dense, 0.1))
    np.testing.assert_allclose(grads["g"], dense["g"])
    np.testing.assert_allclose(grads["h"], dense["h"])


P = {"a": np.ones((4, 2)), "b": np.ones(3)}
ZERO = np.zeros(3)


@pytest.mark.parametrize(
    ("ids", "rows", "shape", "error", "message"),
    [
        ([1], np.ones((1, 2)), (5, 2), ValueError, r"grads\['a'\]: expected \(4, 2\), got \(5, 2\)"),
        ([1], np.ones((1, 2), np.float32), (4, 2), TypeError, r"grads\['a'\].rows: expected an array of float64"),
        ([1], np.ones((1, 3)), (4, 2), ValueError, r"ids \(N,\) and rows \(N, 2\), got \(1,\) and \(1, 3\)"),
        ([[1]], np.ones((1, 2)), (4, 2), ValueError, r"ids \(N,\) and rows \(N, 2\), got \(1, 1\)"),
        ([1.0], np.ones((1, 2)), (4, 2), TypeError, r"grads\['a'\].ids: expected integers, got float64"),
        ([-1], np.ones((1, 2)), (4, 2), ValueError, r"grads\['a'\].ids: expected rising ids in 0..3"),
        ([4], np.ones((1, 2)), (4, 2), ValueError, r"grads\['a'\].ids: expected rising ids in 0..3"),
        ([1, 1], np.ones((2, 2)), (4, 2), ValueError, r"grads\['a'\].ids: expected rising ids in 0..3"),
        ([2, 1], np.ones((2, 2)), (4, 2), ValueError, r"grads\['a'\].ids: expected rising ids in 0..3"),
    ],
)
def test_rows_that_do_not_fit(ids, rows, shape, error, message):
    for optimizer in (optim.SGD(P, 0.1), optim.Adam(P, lazy=True)):
        with pytest.raises(error, match=message):
            optimizer.step({"a": RowGradient(np.array(ids), rows, shape), "b": ZERO})
    with pytest.raises(ValueError, match=r"grads\['b'\]: expected \(3,\), got \(3, 1\)"):
        optim.SGD(P, 0.1).step({"a": P["a"], "b": RowGradient(np.array([0]), np.ones((1, 1)), (3, 1))})
    assert (P["a"] == 1).all()
    assert (P["b"] == 1).all()


def test_rows_in_any_layout():
    p = np.zeros((4, 2))
    rows, ids = np.ones((2, 4)).T[::2], np.array([0, 9, 3, 9], np.int32)[::2]
    optim.SGD({"p": p}, 1.0).step({"p": RowGradient(ids, rows, (4, 2))})
    np.testing.assert_array_equal(p[:, 0], [-1, 0, 0, -1])
    optim.SGD({"p": p}, 1.0).step({"p": RowGradient(ids[:0], rows[:0], (4, 2))}, 1.0)
    np.testing.assert_array_equal(p[:, 0], [-1, 0, 0, -1])
