"""fastrnn.torch against torch.nn, live: results and gradients, over random layers and calls."""

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastrnn.torch has nothing to accelerate")

from running import ended  # noqa: E402
from twins import CELLS, Trial, assert_close, parts, run, trials, twins  # noqa: E402

import fastrnn  # noqa: E402
import fastrnn.torch  # noqa: E402
from fastrnn.engines import memory  # noqa: E402
from fastrnn.engines.cell import Cell  # noqa: E402
from fastrnn.engines.seam import Record  # noqa: E402
from fastrnn.torch import openmp  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls that the kernels took, which here are all that they can take, however small."""
    calls: list[Any] = []
    monkeypatch.setattr(fastrnn.torch.calls, "_pytorch_is_faster", lambda *_: False)
    monkeypatch.setattr(fastrnn.torch, "run", lambda call, run=fastrnn.torch.run: calls.append(call) or run(call))
    return calls


@given(trial=trials())
def test_results_and_gradients(trial: Trial, served: list[Any]) -> None:
    own, fast = trial.build()
    served.clear()
    expected, actual = run(trial, own), run(trial, fast)
    assert len(served) == 1
    for k, (a, b) in enumerate(zip(actual[0], expected[0], strict=True)):
        assert_close(a, b, "output", f"result {k}")
        assert a.requires_grad == b.requires_grad
    for k, (a, b) in enumerate(zip(actual[1], expected[1], strict=True)):
        assert_close(a, b, "gradient", f"gradient {k}")


@given(trial=trials(graded=(False,) * 4))
def test_inference(trial: Trial, engine: str) -> None:
    own, fast = trial.build()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            (expected, _), (actual, _) = run(trial, own), run(trial, fast)
        for k, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_close(a, b, "output", f"result {k}")
            assert a.is_inference() == b.is_inference()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("T", [1, 6])
def test_inference_mode_records_nothing_even_under_enable_grad(cell: str, T: int) -> None:
    own, fast = twins(cell, 3, 4)
    x = torch.randn(T, 1, 3)
    with torch.inference_mode(), torch.enable_grad():
        expected, actual = own(x)[0], fast(x)[0]
    assert_close(actual, expected, "output", "y")
    assert (actual.requires_grad, actual.is_inference()) == (expected.requires_grad, expected.is_inference())
    with torch.inference_mode(), torch.inference_mode(False), torch.enable_grad():
        assert fast(x)[0].requires_grad


@pytest.mark.parametrize("form", ["batched", "packed"])
@pytest.mark.parametrize(
    ("cell", "options"),
    [(cell, options) for cell in CELLS for options in ({}, {"num_layers": 2, "bidirectional": True})]
    + [("LSTM", {"proj_size": 2})],
)
def test_gradcheck(cell: str, form: str, options: dict[str, Any]) -> None:
    _, layer = twins(cell, 2, 3, dtype=torch.float64, **options)
    names = [name for name, _ in layer.named_parameters()]
    rows = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    sizes = [options.get("proj_size", 3), 3][: 2 if cell == "LSTM" else 1]

    def call(x: Any, *rest: Any) -> Any:
        state, weights = rest[: len(sizes)], rest[len(sizes) :]
        hx = state if cell == "LSTM" else state[0]
        if form == "packed":
            x = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([2, 4, 1]), enforce_sorted=False)
        return parts(torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x, hx)))

    inputs = [torch.randn(4, 3, 2), *(torch.randn(rows, 3, n) for n in sizes), *layer.parameters()]
    inputs = [t.detach().double().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(call, inputs, check_batched_grad=form == "batched" and cell != "LSTM")
    assert torch.autograd.gradgradcheck(lambda x, h: call(x, h, *inputs[2:]), inputs[:2])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("form", ["batched", "packed"])
def test_dropout_draws_as_pytorch_does(cell: str, form: str) -> None:
    own, fast = twins(cell, 3, 8, 3, dropout=0.5)
    x = torch.randn(5, 4, 3)
    if form == "packed":
        x = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3, 2, 1]))
    after = []
    for layer in (own, fast):
        torch.manual_seed(7)
        y = parts(layer(x))[0]
        after.append((y, torch.rand(4)))
    assert_close(after[1][0], after[0][0], "output", "y")
    assert torch.equal(after[0][1], after[1][1]), "the generator is elsewhere"
    with torch.no_grad():  # training mode drops there, too
        torch.manual_seed(7)
        assert_close(parts(fast(x))[0], after[0][0], "output", "y")


@pytest.mark.parametrize("cell", CELLS)
def test_nobody_looks_past_a_rows_end(cell: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(cell: Cell, T: int, B: int) -> Record:
        parts = new_record(cell, T, B)
        for part in parts:
            if part is not None:
                part.fill(np.nan)
        return parts

    new_record = memory.new_record
    monkeypatch.setattr(memory, "new_record", poisoned)
    own, fast = twins(cell, 3, 20, 2, bidirectional=True)
    x = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(7, 5, 3), torch.tensor([7, 5, 2, 2, 1]))
    found = []
    for layer in (own, fast):
        parts(layer(x))[0].square().sum().backward()
        found.append([p.grad for p in layer.parameters()])
    for a, b in zip(found[1], found[0], strict=True):
        assert_close(a, b, "gradient", "gradient")


# ---- What PyTorch's graph does with a node -------------------------------------------------------------------------


@pytest.fixture(params=CELLS)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    """Twins, and an input that wants a gradient."""
    own, fast = twins(request.param, 3, 4, dtype=torch.float64)
    return own, fast, torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)


def assert_same_on_both(pair: tuple[Any, Any, Any], results: Callable[[Any, Any], list[Any]]) -> None:
    """What `results` finds with a layer and x is the same for both layers."""
    own, fast, x = pair
    found = []
    for layer in (own, fast):
        found.append(results(layer, x))
        x.grad = None
    for k, (a, b) in enumerate(zip(found[1], found[0], strict=True)):
        assert_close(a, b, "gradient", f"value {k}")


def test_backward_twice(pair: tuple[Any, Any, Any]) -> None:
    def results(layer: Any, x: Any) -> list[Any]:
        loss = layer(x)[0].square().sum()
        for _ in range(2):
            loss.backward(retain_graph=True)
        found = x.grad.clone()
        loss.backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            loss.backward()
        return [found]

    assert_same_on_both(pair, results)


def test_shared_weights_and_several_calls(pair: tuple[Any, Any, Any]) -> None:
    def results(layer: Any, x: Any) -> list[Any]:
        layer.weight_hh_l0 = layer.weight_hh_l0  # as a user who ties it would
        y, h = layer(x)
        y2, _ = layer(x.flip(0), h)
        (y * y2).sum().backward()
        return [layer.weight_hh_l0.grad, layer.weight_ih_l0.grad]

    assert_same_on_both(pair, results)


def test_double_backward(pair: tuple[Any, Any, Any]) -> None:
    def results(layer: Any, x: Any) -> list[Any]:
        (dx,) = torch.autograd.grad(layer(x)[0].cos().sum(), x, create_graph=True)
        dx.square().sum().backward()
        return [dx, x.grad, layer.weight_hh_l0.grad]

    assert_same_on_both(pair, results)


def test_state_that_depends_on_x(pair: tuple[Any, Any, Any]) -> None:
    def results(layer: Any, x: Any) -> list[Any]:
        h = torch.cat([x[:1], x[:1, :, :1]], dim=2)
        y, _ = layer(x, (h, h) if layer.mode == "LSTM" else h)
        (dx,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        return [dx, torch.autograd.grad(dx.square().sum(), x)[0]]

    assert_same_on_both(pair, results)


@pytest.mark.parametrize("what", ["weight_hh_l0", "x", "state"])
def test_changes_in_place_are_noticed(pair: tuple[Any, Any, Any], what: str) -> None:
    _, fast, x = pair
    x, h = x.detach().clone(), torch.zeros(1, 2, 4, dtype=x.dtype)
    y, _ = fast(x, (h, h.clone()) if fast.mode == "LSTM" else h)
    with torch.no_grad():
        {"weight_hh_l0": fast.weight_hh_l0, "x": x, "state": h}[what].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("change", ["relu", "a part"])
def test_y_may_be_changed_in_place(pair: tuple[Any, Any, Any], change: str) -> None:
    def results(layer: Any, x: Any) -> list[Any]:
        y, _ = layer(x)
        y.relu_() if change == "relu" else y[0].mul_(2)
        y.sum().backward()
        return [y, x.grad, layer.weight_hh_l0.grad]

    assert_same_on_both(pair, results)


def test_y_is_saved_itself_as_by_pytorchs_lstm() -> None:
    """What no count of changes sees, y.data, changes gradients: of weight_hh, and in float32 in PyTorch's LSTM, too."""
    found = []
    for layer in twins("LSTM", 3, 4):
        for factor in (1, 2):
            torch.manual_seed(3)
            y, _ = layer(torch.randn(5, 2, 3))
            loss = (y * torch.randn_like(y)).sum()
            y.data.mul_(factor)
            found.append(torch.autograd.grad(loss, list(layer.parameters())))
    own, own_changed, fast, fast_changed = found
    for k, (a, b) in enumerate(zip(own_changed + own, fast_changed + fast, strict=True)):
        assert_close(b, a, "gradient", f"gradient {k}")
    assert [torch.equal(a, b) for a, b in zip(fast, fast_changed, strict=True)] == [True, False, True, True]


def test_deterministic(pair: tuple[Any, Any, Any]) -> None:
    _, fast, x = pair
    runs = []
    for threads in (1, 2, 3, 1):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            y, _ = fast(x)
            runs.append([y, *torch.autograd.grad(y.sum(), [x, *fast.parameters()])])
        finally:
            torch.set_num_threads(before)
    for other in runs[1:]:
        assert all(map(torch.equal, other, runs[0]))


def test_backward_in_several_threads(pair: tuple[Any, Any, Any]) -> None:
    own, fast, x = pair
    expected = torch.autograd.grad(own(x)[0].square().sum(), x)[0]
    y = fast(x)[0].square().sum()
    found: list[Any] = [None] * 6

    def work(k: int) -> None:
        if k % 2:  # one graph for all of them
            found[k] = torch.autograd.grad(y, x, retain_graph=True)[0]
        else:
            mine = x.detach().clone().requires_grad_()
            found[k] = torch.autograd.grad(fast(mine)[0].square().sum(), mine)[0]

    workers = [threading.Thread(target=work, args=(k,)) for k in range(len(found))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for dx in found:
        assert_close(dx, expected, "gradient", "x")


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(pair: tuple[Any, Any, Any], reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    own, fast, x = pair
    found = []
    for layer in (own, fast):
        checkpoint(lambda x, layer=layer: layer(x)[0].cos(), x, use_reentrant=reentrant).sum().backward()
        found.append([x.grad, layer.weight_hh_l0.grad])
        x.grad = None
    for a, b in zip(found[1], found[0], strict=True):
        assert_close(a, b, "gradient", "x")


def test_saved_tensors_are_pytorchs_to_keep(pair: tuple[Any, Any, Any]) -> None:
    _, fast, x = pair
    with torch.autograd.graph.save_on_cpu():
        y, _ = fast(x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert_close(dx, torch.autograd.grad(fast(x)[0].sum(), x)[0], "gradient", "x")


def test_threads_follow_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastrnn.engines.compiled import BlasEngine

    seen: list[int] = []

    def watched(original: Any) -> Any:
        def run(*args: Any) -> None:
            seen.append(fastrnn.get_num_threads())
            original(*args)

        return run

    for name in ("forward", "backward"):
        monkeypatch.setattr(BlasEngine, name, watched(getattr(BlasEngine, name)))
    before, ours = torch.get_num_threads(), fastrnn.get_num_threads()
    layer, x = fastrnn.torch.GRU(3, 4), torch.randn(2, 2, 3)
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            layer(x)[0].sum().backward()
            with torch.no_grad():
                layer(x)
            assert set(seen) == {threads}
            seen.clear()
            assert fastrnn.get_num_threads() == ours
    finally:
        torch.set_num_threads(before)


def test_storages_stay_resizable() -> None:
    layer, x = fastrnn.torch.LSTM(3, 4), torch.randn(2, 2, 3)
    layer(x)[0].sum().backward()
    assert x.untyped_storage().resizable()
    assert all(p.untyped_storage().resizable() for p in layer.parameters())


# ---- PyTorch's threads ---------------------------------------------------------------------------------------------


@pytest.fixture
def large() -> Any:
    """A call that is worth sending PyTorch's threads away for; it runs a forward and a backward."""
    layer, x = fastrnn.torch.GRU(128, 128), torch.randn(20, 64, 128)
    assert fastrnn.torch.recognise(layer, x, None).operations > 2 * openmp.WORTHWHILE

    def call() -> float:
        y, _ = layer(x)
        y.sum().backward()
        return float(y.detach().sum())

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield call
    torch.set_num_threads(before)


@pytest.mark.skipif(openmp._pause is None, reason="PyTorch does not use libgomp here")
def test_pytorchs_threads_are_sent_away_only_for_large_work(large: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[int] = []
    monkeypatch.setattr(openmp, "_pause", kinds.append)
    large()
    assert kinds == [openmp.SOFT] * 2
    fastrnn.torch.GRU(3, 4)(torch.zeros(5, 2, 3))
    torch.set_num_threads(1)
    large()
    assert len(kinds) == 2


def test_pytorchs_threads_come_back(large: Any) -> None:
    a = torch.randn(300, 300)
    expected, y = a @ a + a, large()
    for _ in range(20):
        assert torch.equal(a @ a + a, expected)
        assert large() == y


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_its_parents_threads(large: Any) -> None:
    torch.randn(1000, 1000).add(1)
    large()
    child = os.fork()
    if child == 0:
        # Only what fastrnn does: PyTorch itself hangs in a forked child that runs its threads.
        openmp.make_room(10**12, 2)
        os._exit(7)
    assert os.waitstatus_to_exitcode(ended(child)) == 7
