"""fastrnn.optim: steps against hand-written formulas and against PyTorch, resuming, clipping, errors."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastrnn
from fastrnn import RowGradient, optim
from fastrnn._core import native

SHAPES = {"weight": (5, 3), "bias": (4,), "long": (70_007,), "empty": (0, 3)}
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-13}


def arrays(dtype, seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


def formula_sgd(p, gs, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    b = np.zeros_like(p)
    for g in gs:
        g = g + weight_decay * p
        b = momentum * b + g
        p = p - lr * (g + momentum * b if nesterov else b)
    return p


def formula_adam(p, gs, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    m = v = np.zeros_like(p)
    for t, g in enumerate(gs, 1):
        p = p - lr * weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        p = p - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    return p


def formula_adamw(p, gs, weight_decay=0.01, **options):
    return formula_adam(p, gs, weight_decay=weight_decay, **options)


CASES = [
    (optim.SGD, formula_sgd, {"lr": 0.1}),
    (optim.SGD, formula_sgd, {"lr": 0.1, "weight_decay": 0.2}),
    (optim.SGD, formula_sgd, {"lr": 0.1, "momentum": 0.9}),
    (optim.SGD, formula_sgd, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2}),
    (optim.SGD, formula_sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (optim.SGD, formula_sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.2}),
    (optim.Adam, formula_adam, {}),
    (optim.Adam, formula_adam, {"lr": 0.1, "betas": (0.5, 0.8), "eps": 0.1}),
    (optim.Adam, formula_adam, {"betas": (0.0, 0.0)}),
    (optim.AdamW, formula_adamw, {}),
    (optim.AdamW, formula_adamw, {"lr": 0.1, "weight_decay": 0.5}),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("kind", "formula", "options"), CASES)
def test_five_steps_are_the_formula(engine, kind, formula, options, dtype):
    params, grads = arrays(dtype, 0), [arrays(dtype, seed) for seed in range(1, 6)]
    start = {name: p.astype(np.float64) for name, p in params.items()}
    optimizer = kind(params, **options)
    for g in grads:
        for value in g.values():
            value.flags.writeable = False
        optimizer.step(g)
    for name, p in params.items():
        expected = formula(start[name], [g[name].astype(np.float64) for g in grads], **options)
        np.testing.assert_allclose(p, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize(("kind", "formula", "options"), CASES)
def test_steps_in_c_are_those_of_the_reference_on_every_instruction_set(isa, kind, formula, options):
    sizes = [*range(20), *range(30, 36), *range(62, 70)]  # to beyond four of the widest vectors
    results, drawn = [], [arrays(np.float32, seed)["long"] for seed in range(3)]
    for engine in ("packed", "reference"):
        params = {str(n): drawn[n % 3][n : 2 * n].copy() for n in sizes}
        optimizer = kind(params, **options)
        with fastrnn.engines.use(engine):
            for gradient in drawn:
                optimizer.step({str(n): gradient[:n] for n in sizes}, 3.0)
        results.append({**params, **optimizer.state_dict()})
    for name, value in results[0].items():
        np.testing.assert_allclose(value, results[1][name], rtol=2e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("kind", "formula", "options"), CASES)
def test_bits_are_the_same_for_any_number_of_threads(compiled, kind, formula, options):
    tied = np.ones(50_000, np.float32)  # under two names: the one steps after the other

    def run(threads):
        params = {**arrays(np.float32, 0), "tied": tied.copy()}
        params["again"] = params["tied"]
        optimizer = kind(params, **options)
        native.insist_on_teams("rows")
        try:
            with fastrnn.num_threads(threads):
                for seed in range(3):
                    grads = arrays(np.float32, seed)
                    grads |= {"tied": grads["long"][:50_000], "again": grads["long"][-50_000:]}
                    norm = optimizer.step(grads, 1.0)
        finally:
            native.insist_on_teams(None)
        return {**params, **optimizer.state_dict(), "norm": norm}

    expected = run(1)
    for threads in (2, 3, 7):
        for name, value in run(threads).items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize(("kind", "formula", "options"), CASES)
def test_five_steps_are_torchs(kind, formula, options):
    torch = pytest.importorskip("torch")
    params, grads = arrays(np.float64, 0), [arrays(np.float64, seed) for seed in range(1, 6)]
    tensors = {name: torch.tensor(p, requires_grad=True) for name, p in params.items()}
    theirs = getattr(torch.optim, kind.__name__)(tensors.values(), **options)
    ours = kind(params, **options)
    for g in grads:
        ours.step(g)
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(g[name])
        theirs.step()
    for name, p in params.items():
        np.testing.assert_allclose(p, tensors[name].detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kind", "formula", "options"), CASES)
def test_resuming_goes_on_with_the_same_bits(kind, formula, options):
    params, grads = arrays(np.float32, 0), [arrays(np.float32, seed) for seed in range(1, 5)]
    optimizer = kind(params, **options)
    for g in grads[:2]:
        optimizer.step(g)
    optimizer.lr = 0.05
    copies = {name: p.copy() for name, p in params.items()}
    resumed = kind(copies, **options)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.lr == 0.05
    for g in grads[2:]:
        optimizer.step(g)
        resumed.step(g)
    for name, p in params.items():
        np.testing.assert_array_equal(p, copies[name])


def test_an_array_with_two_names_is_one_parameter(engine):
    table, grads = arrays(np.float64, 0)["weight"], [arrays(np.float64, k)["weight"] for k in (1, 2)]
    alone = table.copy()
    rows = RowGradient(np.array([1, 3]), grads[1][[1, 3]], table.shape)
    for second in (grads[1], rows):
        tied, one = optim.Adam({"a": table, "b": np.ones(2), "c": table}, 0.1), optim.Adam({"a": alone}, 0.1)
        for _ in range(2):
            norm = tied.step({"a": grads[0], "b": np.zeros(2), "c": second}, 1.0)
            assert norm == one.step({"a": grads[0] + np.asarray(second)}, 1.0)
        np.testing.assert_array_equal(table, alone)
        assert tied.state_dict().keys() == {"step", "lr", "m.a", "m.b", "v.a", "v.b"}


def test_averages_are_means_of_the_parameters():
    params, grads = arrays(np.float64, 0), [arrays(np.float64, seed) for seed in range(1, 13)]
    params["tied"] = params["weight"]
    grads = [g | {"tied": g["weight"]} for g in grads]
    optimizer = optim.Averaged(optim.SGD(params, 0.1), decay=0.8)
    seen, mean = [], None
    for t, g in enumerate(grads, 1):
        assert optimizer.step(g, math.inf) is not None
        seen.append(params["weight"].copy())
        mean = seen[0] if mean is None else mean + (params["weight"] - mean) / min(t, 5)
        np.testing.assert_allclose(optimizer.averages["weight"], mean, rtol=1e-12, atol=1e-15)
        if t == 5:
            np.testing.assert_allclose(mean, np.mean(seen, axis=0), rtol=1e-12, atol=1e-15)
    assert optimizer.averages["tied"] is optimizer.averages["weight"]
    assert math.isnan(optimizer.step(grads[0] | {"bias": np.full(4, np.nan)}, 1.0))
    np.testing.assert_allclose(optimizer.averages["weight"], mean, rtol=1e-12, atol=1e-15)
    with pytest.raises(ValueError, match=r"mapping: .* missing"):
        optimizer.load_state_dict(optimizer.optimizer.state_dict())


@pytest.mark.parametrize("max_norm", [0.0, 0.7, 1e9, math.inf])
@pytest.mark.parametrize(("kind", "formula", "options"), CASES)
def test_a_step_that_clips_is_clipping_and_a_step(engine, kind, formula, options, max_norm):
    params, copies, grads = arrays(np.float64, 0), arrays(np.float64, 0), arrays(np.float64, 1)
    before = {name: g.copy() for name, g in grads.items()}
    assert kind(copies, **options).step(grads) is None
    copies = arrays(np.float64, 0)
    norm = kind(params, **options).step(grads, max_norm)
    for name, g in grads.items():
        np.testing.assert_array_equal(g, before[name])
    assert norm == optim.clip_grad_norm(grads, max_norm)
    kind(copies, **options).step(grads)
    for name, p in params.items():
        np.testing.assert_allclose(p, copies[name], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_step_whose_norm_is_not_finite_does_nothing(engine, bad):
    params = {"p": np.ones(3), "q": np.ones(2)}
    optimizer = optim.AdamW(params)
    norm = optimizer.step({"p": np.array([1, bad, 1]), "q": np.ones(2)}, 1.0)
    assert norm == math.inf or math.isnan(norm)
    assert (params["p"] == 1).all()
    assert (params["q"] == 1).all()
    assert optimizer.state_dict()["step"] == 0
    assert not optimizer.state_dict()["m.q"].any()


def test_moments_that_fade_away_become_zero(compiled):
    params = {"p": np.ones(4, np.float32)}
    optimizer = optim.Adam(params, betas=(0.1, 0.1))
    optimizer.step({"p": np.ones(4, np.float32)})
    for _ in range(60):  # 0.1^60 is below the least normal float32
        optimizer.step({"p": np.zeros(4, np.float32)})
    assert not optimizer.state_dict()["m.p"].any()
    assert np.isfinite(params["p"]).all()


def test_lr_may_change_between_steps():
    p = {"p": np.ones(1)}
    optimizer = optim.SGD(p, lr=0.1)
    optimizer.lr = np.float64(0.5)
    optimizer.step({"p": np.ones(1)})
    assert p["p"][0] == 0.5


def test_mixed_dtypes_and_strided_gradients():
    params = {"a": np.ones((4, 3), np.float32), "b": np.ones(2)}
    optim.SGD(params, lr=1.0).step({"a": np.ones((3, 4), np.float32).T, "b": np.ones(4)[::2]})
    assert not params["a"].any()
    assert not params["b"].any()


def test_a_step_allocates_nothing_that_grows_with_the_parameters():
    params = {"p": np.ones(1 << 20, np.float32)}
    grads = {"p": np.ones(1 << 20, np.float32)}
    optimizer = optim.AdamW(params)
    optimizer.step(grads)
    tracemalloc.start()
    optimizer.step(grads)
    optim.clip_grad_norm(grads, 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


@given(st.lists(st.integers(0, 30), max_size=4), st.floats(0.01, 100))
def test_clipping_is_the_formula(engine, sizes, max_norm):
    rng = np.random.default_rng(len(sizes))
    grads = {str(k): rng.standard_normal(n).astype(np.float32) for k, n in enumerate(sizes)}
    before = {name: g.copy() for name, g in grads.items()}
    norm = optim.clip_grad_norm(grads, max_norm)
    expected = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in before.values()))
    assert norm == pytest.approx(expected, rel=1e-12)
    for name, g in grads.items():
        np.testing.assert_allclose(g, before[name] * min(1.0, max_norm / (expected + 1e-6)), rtol=1e-6)


def test_clipping_measures_what_float32_cannot_square():
    grads = {"g": np.full(4, 1e30, np.float32)}
    assert optim.clip_grad_norm(grads, np.inf) == pytest.approx(2e30)
    assert grads["g"][0] == np.float32(1e30)
    optim.clip_grad_norm(grads, 1.0)
    np.testing.assert_allclose(grads["g"], 0.5)


def test_clipping_a_norm_that_is_not_finite_is_torchs():
    grads = {"a": np.array([np.inf, 1.0]), "b": np.ones(2)}
    with np.errstate(invalid="ignore"):
        assert optim.clip_grad_norm(grads, 1.0) == math.inf
    np.testing.assert_array_equal(grads["a"], [np.nan, 0])
    np.testing.assert_array_equal(grads["b"], 0)
    grads = {"a": np.array([np.nan, 1.0]), "b": np.ones(2)}
    assert math.isnan(optim.clip_grad_norm(grads, 1.0))
    assert np.isnan(grads["b"]).all()


def test_clipping_is_torchs():
    torch = pytest.importorskip("torch")
    grads = arrays(np.float64, 3)
    tensors = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in grads.values()]
    for tensor, g in zip(tensors, grads.values(), strict=True):
        tensor.grad = torch.tensor(g)
    norm = torch.nn.utils.clip_grad_norm_(tensors, 0.7)
    assert optim.clip_grad_norm(grads, 0.7) == pytest.approx(float(norm))
    for tensor, g in zip(tensors, grads.values(), strict=True):
        np.testing.assert_allclose(g, tensor.grad.numpy(), rtol=1e-12)


P = {"a": np.ones(2), "b": np.ones((2, 3), np.float32)}
FROZEN = np.ones(2)
FROZEN.flags.writeable = False
UNALIGNED = np.zeros(17, np.uint8)[1:].view(np.float64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: optim.Adam({}), ValueError, "params: expected at least one"),
        (lambda: optim.Adam([np.ones(2)]), TypeError, "params: expected names and arrays, got list"),
        (lambda: optim.Adam({"a": [1.0]}), TypeError, r"params\['a'\]: expected a NumPy array .* got list"),
        (lambda: optim.Adam({"a": np.ones(2, int)}), TypeError, r"params\['a'\]: .* got int64"),
        (lambda: optim.Adam({"a": np.ones((2, 3)).T}), ValueError, r"params\['a'\]: .*contiguous"),
        (lambda: optim.Adam({"a": FROZEN}), ValueError, r"params\['a'\]: .*writeable"),
        (lambda: optim.Adam({"a": UNALIGNED}), ValueError, r"params\['a'\]: .*aligned"),
        (lambda: optim.Adam(P, lazy=1), TypeError, "lazy: expected True or False"),
        (lambda: optim.Adam(P).step(P, -1), ValueError, "max_norm: .* got -1"),
        (lambda: optim.Adam(P, lr=-1), ValueError, "lr: .* got -1"),
        (lambda: optim.Adam(P, lr=math.nan), ValueError, "lr: .* got nan"),
        (lambda: optim.Adam(P, betas=(0.9, 1.0)), ValueError, r"betas\[1\]: .* got 1.0"),
        (lambda: optim.SGD(P, 0.1, nesterov=True), ValueError, "nesterov: expected a momentum"),
        (lambda: optim.Averaged(P), TypeError, "optimizer: expected an Optimizer, got dict"),
        (lambda: optim.Averaged(optim.Adam(P), 1.5), ValueError, "decay: .* at most 1, got 1.5"),
        (lambda: optim.SGD(P, "fast"), TypeError, "lr: expected a number, got str"),
        (lambda: optim.SGD(P, 0.1).step({"a": P["a"]}), ValueError, r"grads: .* missing \['b'\], unknown \[\]"),
        (lambda: optim.SGD(P, 0.1).step({**P, "c": P["a"]}), ValueError, r"grads: .* unknown \['c'\]"),
        (lambda: optim.SGD(P, 0.1).step({**P, "b": np.ones((2, 3))}), TypeError, r"grads\['b'\]: .* got float64"),
        (
            lambda: optim.SGD(P, 0.1).step({**P, "a": np.ones(3)}),
            ValueError,
            r"grads\['a'\]: expected \(2,\), got \(3,\)",
        ),
        (lambda: optim.Adam(P).load_state_dict(optim.SGD(P, 0.1).state_dict()), ValueError, "mapping: .* missing"),
        (lambda: optim.clip_grad_norm(P, -1), ValueError, "max_norm: .* got -1"),
        (lambda: optim.clip_grad_norm({"a": FROZEN}, 1), ValueError, r"grads\['a'\]: expected a writeable"),
        (lambda: optim.clip_grad_norm({"a": [1.0]}, 1), TypeError, r"grads\['a'\]: expected a NumPy array"),
    ],
)
def test_errors_name_the_argument_and_change_nothing(call, error, message):
    with pytest.raises(error, match=message):
        call()
    assert (P["a"] == 1).all()
    assert (P["b"] == 1).all()
