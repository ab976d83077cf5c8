"""What is kept of a module between calls: whatever changes its weights, in whatever way, the next call sees it."""

import copy
import gc
import os
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastrnn.torch has nothing to accelerate")

import instruction_sets  # noqa: E402
from running import ended  # noqa: E402
from torch.nn.utils import parametrizations, parametrize, vector_to_parameters  # noqa: E402
from twins import CELLS, assert_close, parts, twins  # noqa: E402

import fastrnn.torch  # noqa: E402
from fastrnn import engines  # noqa: E402
from fastrnn._core import native  # noqa: E402
from fastrnn.torch import calls  # noqa: E402
from fastrnn.torch.kept import _MODULES, Kept  # noqa: E402

CALLS = 4  # the first sees the weights, the second keeps them packed, the others use them
SHAPES = {"frame": (1, 1), "short": (3, 2)}  # T, B: with weights where they are, and packed


@pytest.fixture(params=[(cell, shape) for cell in CELLS for shape in SHAPES], ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    """Twins, of which the accelerated one keeps what it can, and an input."""
    cell, shape = request.param
    own, fast = twins(cell, 3, 4, 2)
    x = torch.randn(*SHAPES[shape], 3)
    assert_same(own, fast, x)
    return own, fast, x


def call(layer: Any, x: Any) -> list[Any]:
    """Return y and the state; the initial state is not zero, so that all weights take part in a single step."""
    h = torch.linspace(-1, 1, x.shape[1] * 4 * layer.num_layers, dtype=x.dtype).view(layer.num_layers, x.shape[1], 4)
    return parts(layer(x, (h, -h) if layer.mode == "LSTM" else h))


def assert_same(own: Any, fast: Any, x: Any) -> None:
    """Assert equal results of several calls, each kind of which may keep something."""
    with torch.no_grad():
        expected = call(own, x)
        for k in range(CALLS):
            for a, b in zip(call(fast, x), expected, strict=True):
                assert_close(a, b, "output", f"call {k}")
    with torch.inference_mode():
        assert_close(call(fast, x)[0], expected[0], "output", "in inference mode")
    gradients = []
    for layer, times in ((own, 1), (fast, CALLS)):
        for _ in range(times):
            layer.zero_grad()
            call(layer, x)[0].square().sum().backward()
            gradients.append([p.grad for p in layer.parameters()])
    for found in gradients[1:]:
        for a, b in zip(found, gradients[0], strict=True):
            assert_close(a, b, "gradient", "gradient")


# ---- Ways to change weights ----------------------------------------------------------------------------------------


def in_place(layer: Any) -> None:
    with torch.no_grad():
        layer.weight_hh_l1.mul_(1.5)


def one_value(layer: Any) -> None:
    with torch.no_grad():
        layer.weight_hh_l1[-1, -1] += 1


def bias(layer: Any) -> None:
    with torch.no_grad():
        layer.bias_hh_l1[-1] += 1


def in_place_in_inference_mode(layer: Any) -> None:
    with torch.inference_mode():
        layer.weight_ih_l0.mul_(1.5)


def foreach(layer: Any) -> None:
    with torch.no_grad():
        torch._foreach_mul_(list(layer.parameters()), 1.5)


def data_in_place(layer: Any) -> None:
    layer.weight_hh_l0.data.mul_(1.5)


def data_assigned(layer: Any) -> None:
    layer.weight_hh_l0.data = layer.weight_hh_l0.data * 1.5


def data_transposed(layer: Any) -> None:
    """The same memory, read in another order."""
    square = layer.weight_hh_l0.data[:4].clone().repeat(len(layer.weight_hh_l0) // 4, 1).contiguous()
    layer.weight_hh_l0.data = square
    if len(square) == 4:  # an RNN's
        layer(torch.zeros(3, 2, 3))
        layer.weight_hh_l0.data = square.t()


def data_negated(layer: Any) -> None:
    layer.weight_hh_l0.data = torch._neg_view(layer.weight_hh_l0.data)


def numpy_view(layer: Any) -> None:
    array = layer.weight_hh_l1.detach().numpy()
    array *= np.float32(1.5)


def dlpack(layer: Any) -> None:
    np.from_dlpack(layer.weight_ih_l1.detach())  # that NumPy can see it
    torch.utils.dlpack.from_dlpack(layer.weight_ih_l1.detach()).mul_(1.5)


def storage(layer: Any) -> None:
    layer.weight_hh_l0.untyped_storage().copy_((layer.weight_hh_l0.detach() * 1.5).untyped_storage())


def set_(layer: Any) -> None:
    with torch.no_grad():
        layer.weight_hh_l0.set_(layer.weight_hh_l0.detach() * 1.5)


def from_vector(layer: Any) -> None:
    vector_to_parameters(torch.linspace(-1, 1, sum(p.numel() for p in layer.parameters())), layer.parameters())


def another_parameter(layer: Any) -> None:
    layer.weight_hh_l0 = torch.nn.Parameter(layer.weight_hh_l0.detach() * 1.5)


def initialised(layer: Any) -> None:
    torch.manual_seed(5)
    layer.reset_parameters()


def loaded(layer: Any) -> None:
    layer.load_state_dict({name: 1.5 * p for name, p in layer.state_dict().items()})


def assigned(layer: Any) -> None:
    layer.load_state_dict({name: 1.5 * p for name, p in layer.state_dict().items()}, assign=True)


def optimizer(name: str, **options: Any) -> Callable[[Any], None]:
    def step(layer: Any) -> None:
        for p in layer.parameters():
            p.grad = torch.ones_like(p)
        getattr(torch.optim, name)(layer.parameters(), lr=0.3, **options).step()

    return step


def version_preserved(layer: Any) -> None:
    with torch.no_grad(), torch.autograd._unsafe_preserve_version_counter(layer.weight_hh_l0):
        layer.weight_hh_l0.mul_(1.5)


def parametrized(layer: Any) -> None:
    if not parametrize.is_parametrized(layer):
        parametrizations.weight_norm(layer, "weight_hh_l0")
    with torch.no_grad():
        layer.parametrizations.weight_hh_l0.original0.mul_(1.5)


def parametrized_and_back(layer: Any) -> None:
    parametrized(layer)
    layer(torch.zeros(3, 2, 3))
    parametrize.remove_parametrizations(layer, "weight_hh_l0")


def there_and_back(layer: Any) -> None:
    layer.double()
    layer(torch.zeros(3, 2, 3, dtype=torch.float64))
    in_place(layer)
    layer.float()


def shared(layer: Any) -> None:
    layer.share_memory()
    in_place(layer)


def from_another_thread(layer: Any) -> None:
    worker = threading.Thread(target=numpy_view, args=(layer,))
    worker.start()
    worker.join()


CHANGES: dict[str, Callable[[Any], None]] = {
    change.__name__: change
    for change in (
        in_place, one_value, bias, in_place_in_inference_mode, foreach, data_in_place, data_assigned, data_transposed,
        data_negated, numpy_view, dlpack, storage, set_, from_vector, another_parameter, initialised, loaded,
        assigned, version_preserved, parametrized, parametrized_and_back, there_and_back, shared, from_another_thread,
    )
} | {
    "SGD": optimizer("SGD", foreach=False), "SGD, foreach": optimizer("SGD", foreach=True),
    "SGD, fused": optimizer("SGD", fused=True), "AdamW, fused": optimizer("AdamW", fused=True),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_are_seen(case: tuple[Any, Any, Any], change: Callable[[Any], None]) -> None:
    own, fast, x = case
    with torch.no_grad():
        before = call(own, x)[0]
    for k in range(2):
        for layer in (own, fast):
            change(layer)
        assert_same(own, fast, x)
        with torch.no_grad():
            assert k > 0 or not torch.equal(call(own, x)[0], before), "the change changes nothing"


def test_functional_call(case: tuple[Any, Any, Any]) -> None:
    own, fast, x = case
    with torch.no_grad():
        for factor in (2, 2, 2, 1, 2):
            given = {name: factor * p for name, p in own.named_parameters()}
            results = [torch.func.functional_call(layer, given, (x,))[0] for layer in (fast, own)]
            assert_close(*results, "output", "y")


def test_other_settings(case: tuple[Any, Any, Any]) -> None:
    _, fast, x = case
    with torch.no_grad():
        expected = fast(x)[0]
        before = native.isa_selected()
        try:
            for isa in instruction_sets.DISTINCT:
                native.isa_select(isa)
                for engine in engines.available():
                    with engines.use(engine):
                        for _ in range(CALLS):
                            assert_close(fast(x)[0], expected, "output", f"{isa}, {engine}")
        finally:
            native.isa_select(before)
        fast.batch_first = True
        assert_close(fast(x.transpose(0, 1))[0].transpose(0, 1), expected, "output", "batch first")


# ---- Copies, threads, processes, memory ----------------------------------------------------------------------------


@pytest.mark.parametrize("through", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), copy.copy])
def test_copies_are_without(case: tuple[Any, Any, Any], through: Callable[[Any], Any]) -> None:
    own, fast, x = case
    keys = set(vars(own))
    assert set(vars(fast)) == keys
    other = through(fast)
    assert other not in _MODULES
    numpy_view(other)
    for layer in (other, fast):
        with torch.no_grad():
            expected = fastrnn.torch.restore(copy.deepcopy(layer))(x)[0]
        for _ in range(CALLS):
            with torch.no_grad():
                assert_close(layer(x)[0], expected, "output", "y")


@pytest.mark.parametrize("cell", CELLS)
def test_goes_with_the_module(cell: str) -> None:
    _, fast = twins(cell, 3, 4)
    assert_same(fast, fast, torch.randn(5, 2, 3))
    weight, array = weakref.ref(fast.weight_hh_l0), weakref.ref(Kept.of(fast)._packed[False].arrays[0])
    gc.collect()
    count = len(_MODULES)
    del fast
    gc.collect()
    assert len(_MODULES) == count - 1
    assert weight() is None
    assert array() is None


def test_weights_are_kept_from_the_second_call_on_while_nothing_changes() -> None:
    _, fast = twins("GRU", 3, 4)
    x, kept = torch.randn(5, 2, 3), Kept.of(fast)
    found = []
    with torch.no_grad():
        for _ in range(3):
            fast(x)
            found.append(kept._packed.get(False))
        assert found[0] is None
        assert found[1] is not None
        assert found[2] is found[1]
        fast.weight_hh_l0.mul_(2)
        fast(x)
        assert kept._packed[False] is None
        fast(torch.randn(100, 3, 3))
        fast(torch.randn(100, 3, 3))
        assert kept._packed[False] is None, "long calls keep nothing"


def test_training_keeps_nothing() -> None:
    _, fast = twins("GRU", 3, 4)
    steps = torch.optim.SGD(fast.parameters(), lr=0.1)
    for _ in range(5):
        steps.zero_grad()
        fast(torch.randn(5, 2, 3))[0].sum().backward()
        steps.step()
        assert not any(Kept.of(fast)._packed.values())


def test_threads_that_share_a_module(case: tuple[Any, Any, Any]) -> None:
    own, fast, x = case
    inputs = [torch.randn_like(x) for _ in range(6)]
    with torch.no_grad():
        expected = [own(x)[0] for x in inputs]
    wrong: list[Any] = []

    def work(k: int) -> None:
        for _ in range(50):
            with torch.no_grad():
                if not torch.allclose(fast(inputs[k])[0], expected[k], atol=1e-5):
                    wrong.append(k)

    for _ in range(3):
        workers = [threading.Thread(target=work, args=(k,)) for k in range(len(inputs))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        Kept.of(fast)._packed.clear()
    assert not wrong


def test_weights_that_another_thread_changes_meanwhile() -> None:
    _, fast = twins("LSTM", 8, 16)
    x, end = torch.randn(1, 1, 8), threading.Event()

    def change() -> None:
        while not end.is_set():
            fast.weight_hh_l0.data = fast.weight_hh_l0.data.clone()

    worker = threading.Thread(target=change)
    worker.start()
    try:
        with torch.no_grad():
            for _ in range(300):
                assert fast(x)[0].isfinite().all()
                fast(x.expand(1, 3, 8))
    finally:
        end.set()
        worker.join()
    with torch.no_grad():
        assert_close(fast(x)[0], fastrnn.torch.restore(copy.deepcopy(fast))(x)[0], "output", "y")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_forked_children(case: tuple[Any, Any, Any]) -> None:
    own, fast, x = case
    changed = copy.deepcopy(own)
    numpy_view(changed)
    with torch.no_grad():
        expected = call(changed, x)[0].numpy()
    child = os.fork()
    if child == 0:  # only what fastrnn does: PyTorch itself may hang in a forked child
        status = 1
        try:
            numpy_view(fast)
            with torch.no_grad():
                status = 7 if np.allclose(call(fast, x)[0].numpy(), expected, atol=1e-5) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(ended(child)) == 7
    assert_same(own, fast, x)


# ---- What is PyTorch's because of its size -------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "steps"), [("GRU", 2), ("RNN", 4), ("LSTM", 1)])
def test_short_training_is_pytorchs(cell: str, steps: int) -> None:
    own, fast = twins(cell, 3, 4)
    for T in range(1, 5):
        x = torch.randn(T, 2, 3)
        assert (calls.recognise(fast, x, None) is not None) == (steps <= T)
        with torch.no_grad():
            assert calls.recognise(fast, x, None) is not None
        if steps > T:
            assert torch.equal(fast(x)[0], own(x)[0])


def test_short_runs_of_a_large_rnn_are_pytorchs() -> None:
    fast = fastrnn.torch.RNN(1024, 1024)
    with torch.no_grad():
        taken = [calls.recognise(fast, torch.zeros(T, 2, 1024), None) is not None for T in (1, 3, 4)]
        assert taken == [False, False, True]
        assert calls.recognise(fast, torch.zeros(1, 1, 1024), None) is not None


@pytest.mark.parametrize("cell", CELLS)
def test_a_frame_has_the_same_bits_on_any_number_of_threads(cell: str) -> None:
    fast, x = getattr(fastrnn.torch, cell)(70, 83, 2, bidirectional=True), torch.randn(1, 1, 70)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with torch.no_grad():
                found.append(fast(x)[0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(y, found[0]) for y in found)
