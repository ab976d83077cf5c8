"""fastrnn.torch with masks: what the layers of NumPy compute, in PyTorch's graph, and by PyTorch where it must."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastrnn.torch has nothing to accelerate")

from generators import random_mask  # noqa: E402
from twins import CELLS, assert_close, parts, twins  # noqa: E402

import fastrnn  # noqa: E402
import fastrnn.torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

OPTIONS = [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}]


def states(layer: Any, B: int, rng: np.random.Generator) -> Any:
    rows = layer.num_layers * (1 + layer.bidirectional)
    sizes = [layer.proj_size or layer.hidden_size, layer.hidden_size][: 2 if layer.mode == "LSTM" else 1]
    drawn = [torch.from_numpy(rng.standard_normal((rows, B, n))) for n in sizes]
    return tuple(drawn) if len(drawn) == 2 else drawn[0]


@given(
    cell=st.sampled_from(CELLS),
    options=st.sampled_from(OPTIONS),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 5)),
    given_state=st.booleans(),
    masked_output=st.sampled_from(["zero", "hold"]),
    seed=st.integers(0, 999),
)
def test_results_and_gradients_are_the_layers(
    cell: str, options: dict[str, Any], sizes: tuple[int, int], given_state: bool, masked_output: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    _, fast = twins(cell, 3, 4, dtype=torch.float64, **options)
    layer = fastrnn.weights.from_torch(fast.state_dict(), kind=cell.lower(), batch_first=fast.batch_first)
    (T, B), transposed = sizes, fast.batch_first
    x, mask = rng.standard_normal((T, B, 3)), random_mask(T, B, rng)
    x, mask = (x.swapaxes(0, 1).copy(), mask.T.copy()) if transposed else (x, mask)
    state = states(fast, B, rng) if given_state else None
    inputs = [torch.from_numpy(x), *([] if state is None else state if isinstance(state, tuple) else [state])]
    for t in inputs:
        t.requires_grad_()
    inputs[0].data[~torch.from_numpy(mask)] = torch.nan

    results = parts(fast(inputs[0], state, mask=torch.from_numpy(mask), masked_output=masked_output))
    as_arrays = [t.detach().numpy() for t in inputs[1:]]
    ours = None if state is None else tuple(as_arrays) if len(as_arrays) == 2 else as_arrays[0]
    y, final, tape = layer.forward(x, ours, mask=mask, masked_output=masked_output)
    finals = final if isinstance(final, tuple) else (final,)
    for k, (a, b) in enumerate(zip(results, (y, *finals), strict=True)):
        assert_close(a, torch.from_numpy(b), "output", f"result {k}")

    cotangents = [torch.from_numpy(rng.standard_normal(t.shape)) for t in results]
    found = torch.autograd.grad(results, [*inputs, *fast.parameters()], cotangents)
    dy, *dstate = (d.numpy() for d in cotangents)
    grads = layer.backward(tape, dy, tuple(dstate) if len(dstate) == 2 else dstate[0])
    of_state = grads.state if isinstance(grads.state, tuple) else (grads.state,)
    expected = [
        grads.x,
        *(of_state if given_state else ()),
        *(grads.params[name] for name, _ in fast.named_parameters()),
    ]
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert_close(a, torch.from_numpy(b), "gradient", f"gradient {k}")


@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched(batch_first: bool) -> None:
    _, fast = twins("LSTM", 3, 4, batch_first=batch_first)
    x, mask = torch.randn(7, 3), torch.tensor([0, 1, 1, 0, 0, 1, 0], dtype=torch.bool)
    state = torch.randn(1, 4), torch.randn(1, 4)
    for hx in (None, state):
        y, final = fast(x, hx, mask=mask)
        y_alone, final_alone = fast(x[mask], hx)
        assert y.shape == (7, 4)
        assert not y[~mask].any()
        torch.testing.assert_close(y[mask], y_alone)
        torch.testing.assert_close(final, final_alone)


def test_what_pytorch_must_run() -> None:
    """The kernels have no bfloat16: PyTorch runs the same valid rows."""
    _, fast = twins("GRU", 3, 4)
    x, mask = torch.randn(6, 2, 3), torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0], [1, 1], [0, 0]], dtype=torch.bool)
    expected = parts(fast(x, mask=mask))
    for a, b in zip(parts(fast.bfloat16()(x.bfloat16(), mask=mask)), expected, strict=True):
        assert a.dtype is torch.bfloat16
        torch.testing.assert_close(a.float(), b, rtol=0.05, atol=0.05)


def test_a_batch_without_valid_steps_has_gradients() -> None:
    _, fast = twins("LSTM", 3, 4)
    x = torch.full((5, 2, 3), torch.nan, requires_grad=True)
    y, _ = fast(x, mask=torch.zeros(5, 2, dtype=torch.bool))
    y.sum().backward()
    assert not y.any()
    assert not x.grad.any()
    assert not any(p.grad.any() for p in fast.parameters())


def test_a_mask_in_a_traced_graph_is_an_argument() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = twins("GRU", 3, 4)[1]

        def forward(self, x: Any, mask: Any) -> Any:
            return self.rnn(x, mask=mask, masked_output="hold")[0]

    model, x = Model(), torch.randn(6, 2, 3)
    mask = torch.rand(6, 2) < 0.5
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x, mask), model(x, mask))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f, x: f(x, mask=[[True]]), TypeError, "mask: expected a tensor of booleans, got list"),
        (lambda f, x: f(x, mask=torch.ones(5, 2)), TypeError, "mask: expected a tensor of booleans, got torch.float32"),
        (lambda f, x: f(x, mask=torch.ones(2, 5).bool()), ValueError, r"mask: expected \(5, 2\), got \(2, 5\)"),
        (lambda f, x: f(x, mask=torch.ones(5, 2).bool(), masked_output="last"), ValueError, "masked_output: expected"),
        (lambda f, x: f([x], mask=torch.ones(5, 2).bool()), TypeError, "input: expected with a mask a tensor"),
        (lambda f, x: f(x, torch.ones(1, 3, 4), mask=torch.zeros(5, 2).bool()), RuntimeError, "Expected hidden size"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    _, fast = twins("GRU", 3, 4)
    with pytest.raises(error, match=message):
        call(fast, torch.randn(5, 2, 3))
