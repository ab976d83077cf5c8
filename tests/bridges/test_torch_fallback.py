"""What the kernels do not serve is PyTorch's: the same numbers, the same errors, and never the kernels' business."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastrnn.torch has nothing to accelerate")

from torch.autograd import forward_ad  # noqa: E402
from torch.nn.utils.rnn import PackedSequence  # noqa: E402
from twins import assert_close, twins  # noqa: E402

import fastrnn.torch  # noqa: E402

Function = Callable[[Any, Any], Any]


class Net(torch.nn.Module):
    """A layer inside a model."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0] * 2


def first(layer: Any) -> Callable[[Any], Any]:
    return lambda x: layer(x)[0]


def outcome(function: Function, layer: Any, x: Any) -> Any:
    """What comes out: a tensor, or the error's type and text."""
    try:
        return function(layer, x)
    except Exception as error:
        return type(error).__name__, str(error)


def compare(function: Function, cell: str, *given: Any) -> bool:
    """Compare both layers; whether the kernels took part."""
    own, fast = twins(cell, 3, 4)
    x = given[0] if given else torch.randn(5, 2, 3)
    calls: list[Any] = []
    run = fastrnn.torch.run
    fastrnn.torch.run = lambda call: calls.append(call) or run(call)
    try:
        expected, actual = outcome(function, own, x), outcome(function, fast, x)
    finally:
        fastrnn.torch.run = run
    if isinstance(expected, torch.Tensor):
        assert isinstance(actual, torch.Tensor), actual
        assert_close(actual.float().detach(), expected.float().detach(), "gradient", "result")
    else:
        assert actual == expected
    return bool(calls)


def meta(layer: Any, x: Any) -> Any:
    return copy.deepcopy(layer).to("meta")(x.to("meta"))[0].shape


def forward_mode(layer: Any, x: Any) -> Any:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(layer(forward_ad.make_dual(x, torch.ones_like(x)))[0]).tangent


def fake(layer: Any, x: Any) -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return tuple(layer(mode.from_tensor(x))[0].shape)


def flops(layer: Any, x: Any) -> Any:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        layer(x)
    return counter.get_total_flops()


def seen_by_mode(layer: Any, x: Any) -> Any:
    from torch.overrides import TorchFunctionMode

    names = []

    class Names(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    with Names():
        layer(x)
    return [name for name in names if name in ("lstm", "gru", "rnn_tanh")]


def subclass(layer: Any, x: Any) -> Any:
    class Tagged(torch.Tensor):
        pass

    y = layer(x.as_subclass(Tagged))[0]
    assert type(y) is Tagged
    return y.as_subclass(torch.Tensor)


def negated_lazily(layer: Any, x: Any) -> Any:
    return layer(torch.view_as_complex(torch.stack([x, x], -1)).conj().imag)[0]


def misaligned(layer: Any, x: Any) -> Any:
    memory = bytearray(4 * x.numel() + 1)
    memory[1:] = x.numpy().tobytes()
    return layer(torch.frombuffer(memory, dtype=torch.float32, offset=1).view(x.shape))[0]


PYTORCHS: dict[str, Function] = {
    "meta": meta,
    "fake": fake,
    "counted": flops,
    "function mode": seen_by_mode,
    "subclass": subclass,
    "negated lazily": negated_lazily,
    "misaligned": misaligned,
    "forward mode": forward_mode,
    "jvp": lambda layer, x: torch.func.jvp(first(layer), (x,), (x,))[1],
    "vmap": lambda layer, x: torch.func.vmap(first(layer))(torch.stack([x, x])),
    "func.grad": lambda layer, x: torch.func.grad(lambda x: layer(x)[0].sum())(x),
    "jacrev": lambda layer, x: torch.func.jacrev(first(layer))(x),
    "no steps": lambda layer, x: layer(x[:0])[0],
    "no rows": lambda layer, x: layer(x[:, :0])[0],
}


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("function", PYTORCHS.values(), ids=PYTORCHS)
def test_is_pytorchs(function: Function, cell: str) -> None:
    assert not compare(function, cell)


def jacobian(layer: Any, x: Any) -> Any:
    return torch.autograd.functional.jacobian(first(layer), x, vectorize=True)


def default_device(layer: Any, x: Any) -> Any:
    torch.set_default_device("cpu")
    try:
        with torch.device("cpu"):
            return layer(x)[0]
    finally:
        torch.set_default_device(None)


def anomaly(layer: Any, x: Any) -> Any:
    x = x.clone().requires_grad_()
    with torch.autograd.detect_anomaly(check_nan=True):
        layer(x)[0].sum().backward()
    return x.grad


def made_in_inference_mode(layer: Any, x: Any) -> Any:
    with torch.inference_mode():
        x = x.clone()
    return layer(x)[0]


SERVED: dict[str, Function] = {
    "plain": lambda layer, x: layer(x)[0],
    "jacobian": jacobian,
    "hessian": lambda layer, x: torch.autograd.functional.hessian(lambda x: layer(x)[0].sum(), x),
    "default device": default_device,
    "functional_call": lambda layer, x: torch.func.functional_call(
        layer, {name: 2 * p for name, p in layer.named_parameters()}, (x,)
    )[0],
    "made in inference mode": made_in_inference_mode,
    "anomaly": anomaly,
    "fx": lambda layer, x: torch.fx.symbolic_trace(Net(layer))(x),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("cell", ["GRU", "RNN"])  # PyTorch's LSTM, which is one opaque operation, has no hessian
@pytest.mark.parametrize("function", SERVED.values(), ids=SERVED)
def test_is_served(function: Function, cell: str) -> None:
    assert compare(function, cell)


# ---- Tracers and compilers -----------------------------------------------------------------------------------------

TRACERS: dict[str, Function] = {
    "compile": lambda layer, x: torch.compile(Net(layer), backend="aot_eager")(x),
    "export": lambda layer, x: torch.export.export(Net(layer), (x,)).module()(x),
    "export, strict": lambda layer, x: torch.export.export(Net(layer), (x,), strict=True).module()(x),
    "jit.trace": lambda layer, x: torch.jit.trace(Net(layer), x, check_trace=False)(x),
    "jit.script": lambda layer, x: torch.jit.script(Net(layer))(x),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("function", TRACERS.values(), ids=TRACERS)
def test_tracers(function: Function, cell: str) -> None:
    compare(function, cell)
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripting_restores() -> None:
    net = Net(fastrnn.torch.LSTM(3, 4))
    layer = net.layer
    torch.jit.script(net)
    assert net.layer is layer
    assert type(layer) is torch.nn.LSTM


# ---- Errors --------------------------------------------------------------------------------------------------------

x3 = torch.zeros(5, 2, 3)


def state(*shape: int, dtype: Any = torch.float32) -> Callable[[Any], Any]:
    """A state of a shape, as the layer takes it."""
    return lambda layer: (
        (torch.zeros(shape, dtype=dtype),) * 2 if layer.mode == "LSTM" else torch.zeros(shape, dtype=dtype)
    )


WRONG: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "None": (None, lambda layer: None),
    "an array": (np.zeros((5, 2, 3), np.float32), lambda layer: None),
    "integers": (x3.long(), lambda layer: None),
    "double": (x3.double(), lambda layer: None),
    "complex": (x3.to(torch.complex64), lambda layer: None),
    "one axis": (x3[0, 0], lambda layer: None),
    "four axes": (x3[None], lambda layer: None),
    "features": (x3[:, :, :2], lambda layer: None),
    "sparse": (x3.to_sparse(), lambda layer: None),
    "state, rows": (x3, state(1, 3, 4)),
    "state, units": (x3, state(1, 2, 5)),
    "state, layers": (x3, state(2, 2, 4)),
    "state, axes": (x3, state(1, 4)),
    "state, unbatched": (x3[:, 0], state(1, 2, 4)),
    "state, dtype": (x3, state(1, 2, 4, dtype=torch.float64)),
    "state, list": (x3, lambda layer: [torch.zeros(1, 2, 4)]),
    "state, three": (x3, lambda layer: (torch.zeros(1, 2, 4),) * 3),
    "state, array": (x3, lambda layer: np.zeros((1, 2, 4), np.float32)),
    "packed, features": (PackedSequence(torch.zeros(3, 2), torch.tensor([2, 1])), lambda layer: None),
    "packed, too few": (PackedSequence(torch.zeros(2, 3), torch.tensor([2, 1])), lambda layer: None),
    "packed, rising": (PackedSequence(torch.zeros(3, 3), torch.tensor([1, 2])), lambda layer: None),
    "packed, state": (PackedSequence(torch.zeros(3, 3), torch.tensor([2, 1])), state(1, 3, 4)),
}


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(("x", "hx"), WRONG.values(), ids=WRONG)
def test_errors_are_pytorchs(x: Any, hx: Callable[[Any], Any], cell: str) -> None:
    assert not compare(lambda layer, x: layer(x, hx(layer))[0].sum(), cell, x)


def test_weights_of_a_wrong_shape() -> None:
    def shrink(layer: Any, x: Any) -> Any:
        layer.weight_hh_l0 = torch.nn.Parameter(torch.zeros(12, 3))
        return layer(x)[0]

    assert not compare(shrink, "GRU")  # of an LSTM PyTorch reads beyond its end


def test_a_freed_storage() -> None:
    layer = fastrnn.torch.GRU(3, 4)
    layer.weight_hh_l0.untyped_storage().resize_(0)
    assert fastrnn.torch.recognise(layer, x3, None) is None
