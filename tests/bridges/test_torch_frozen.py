"""accelerate(model, frozen=True): weights are packed once, results are the same, and a change of them is an error."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastrnn.torch has nothing to accelerate")

from torch.nn.utils import parametrizations  # noqa: E402
from torch.nn.utils.rnn import pack_sequence  # noqa: E402
from twins import CELLS, assert_close, parts, twins  # noqa: E402

import fastrnn.torch  # noqa: E402
from fastrnn import engines  # noqa: E402
from fastrnn.torch import accelerate, restore  # noqa: E402
from fastrnn.torch.kept import Kept  # noqa: E402

CHANGED = r"frozen: expected weights as they were when they were packed, got another weight_hh_l0"


def frozen_twins(cell: str, *args: Any, **options: Any) -> tuple[Any, Any]:
    own, fast = twins(cell, *args, **options)
    return own, accelerate(fast, frozen=True)


def state(layer: Any, B: int | None) -> Any:
    """An initial state that is not zero."""
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    out = layer.proj_size or layer.hidden_size
    h, c = (
        torch.linspace(-1, 1, rows * (B or 1) * n, dtype=layer.weight_ih_l0.dtype) for n in (out, layer.hidden_size)
    )
    shape = (rows, -1) if B is None else (rows, B, -1)
    return (h.view(shape), c.view(shape)) if layer.mode == "LSTM" else h.view(shape)


def assert_same(own: Any, fast: Any, x: Any, hx: Any = None) -> None:
    with torch.no_grad():
        for a, b in zip(parts(fast(x, hx)), parts(own(x, hx)), strict=True):
            assert_close(a, b, "output", "output")
            assert a.is_contiguous()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_same_results(cell: str, options: dict[str, Any], dtype: Any) -> None:
    own, fast = frozen_twins(cell, 3, 5, dtype=dtype, **options)
    for shape in ((1, 1, 3), (1, 3), (4, 2, 3), (6, 3), (300, 2, 3)):
        x = torch.randn(shape, dtype=dtype)
        assert_same(own, fast, x)
        assert_same(own, fast, x, state(own, shape[1] if len(shape) == 3 else None))
    strided = torch.randn(1, 1, 6, dtype=dtype)[..., ::2]
    assert_same(own, fast, strided)
    wide = torch.randn(2 * own.num_layers, 1, 5, dtype=dtype)
    if not options.get("bidirectional"):
        assert_same(own, fast, strided, (wide[::2], wide[1::2]) if cell == "LSTM" else wide[::2])
    assert_same(own, fast, pack_sequence([torch.randn(n, 3, dtype=dtype) for n in (4, 2)]))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_projection() -> None:
    own, fast = frozen_twins("LSTM", 3, 5, 2, proj_size=2)
    assert_same(own, fast, torch.randn(1, 1, 3), state(own, 1))


@pytest.mark.parametrize("cell", CELLS)
def test_packed_once(cell: str) -> None:
    _, fast = frozen_twins(cell, 3, 4)
    kept = Kept.of(fast)._packed[False]
    with torch.inference_mode():
        steps = [fast(torch.randn(T, 1, 3))[0] for T in (1, 2, 300)]
    assert all(y.isfinite().all() for y in steps)
    assert Kept.of(fast)._packed[False] is kept


@pytest.mark.parametrize("cell", CELLS)
def test_a_frame_has_the_bits_of_a_longer_call(cell: str) -> None:
    _, fast = frozen_twins(cell, 19, 33, 2)
    x = torch.randn(5, 1, 19)
    with torch.no_grad():
        whole, end = fast(x)
        hx, found = None, []
        for x_t in x.split(1):
            y, hx = fast(x_t, hx)
            found.append(y)
    assert torch.equal(torch.cat(found), whole)
    for a, b in zip(parts((whole, hx)), parts((whole, end)), strict=True):
        assert torch.equal(a, b)


# ---- Changes ---------------------------------------------------------------------------------------------------------


def in_place(layer: Any) -> None:
    with torch.no_grad():
        layer.weight_hh_l0.mul_(1.5)


def data_assigned(layer: Any) -> None:
    layer.weight_hh_l0.data = layer.weight_hh_l0.data * 1.5


def another_parameter(layer: Any) -> None:
    layer.weight_hh_l0 = torch.nn.Parameter(layer.weight_hh_l0.detach() * 1.5)


def loaded(layer: Any) -> None:
    layer.load_state_dict(layer.state_dict() | {"weight_hh_l0": 1.5 * layer.weight_hh_l0.detach()})


def stepped(layer: Any) -> None:
    layer.weight_hh_l0.grad = torch.ones_like(layer.weight_hh_l0)
    torch.optim.SGD(layer.parameters(), lr=0.1).step()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("change", [in_place, data_assigned, another_parameter, loaded, stepped])
@pytest.mark.parametrize("T", [1, 3])
def test_a_change_is_an_error(cell: str, change: Callable[[Any], None], T: int) -> None:
    own, fast = frozen_twins(cell, 3, 4)
    x = torch.randn(T, 1, 3)
    assert_same(own, fast, x)
    change(own)
    change(fast)
    for _ in range(2):
        with torch.no_grad(), pytest.raises(RuntimeError, match=CHANGED):
            fast(x)
    accelerate(fast, frozen=True)
    assert_same(own, fast, x)
    change(own)
    change(fast)
    assert_same(own, accelerate(fast), x)


def test_other_dtypes_are_a_change() -> None:
    _, fast = frozen_twins("GRU", 3, 4)
    fast.double()
    with torch.no_grad(), pytest.raises(RuntimeError, match="frozen: expected weights as they were"):
        fast(torch.randn(1, 1, 3, dtype=torch.float64))


def test_the_same_values_elsewhere_are_no_change() -> None:
    own, fast = frozen_twins("LSTM", 3, 4)
    x = torch.randn(1, 1, 3)
    fast.load_state_dict(own.state_dict())
    assert_same(own, fast, x)
    fast.share_memory()
    assert_same(own, fast, x)
    fast.eval().to("cpu").float()
    assert_same(own, fast, x)
    fast.load_state_dict({name: value.clone() for name, value in own.state_dict().items()}, assign=True)
    assert_same(own, fast, x)
    with torch.no_grad():
        given = {name: p.clone() for name, p in own.named_parameters()}
        assert_close(torch.func.functional_call(fast, given, (x,))[0], own(x)[0], "output", "y")
        with pytest.raises(RuntimeError, match="frozen: expected weights as they were"):
            torch.func.functional_call(fast, {name: 2 * p for name, p in given.items()}, (x,))


def test_parametrized_weights() -> None:
    own, fast = (parametrizations.weight_norm(layer, "weight_hh_l0") for layer in twins("GRU", 3, 4))
    accelerate(fast, frozen=True)
    x = torch.randn(1, 1, 3)
    assert_same(own, fast, x)
    with torch.no_grad():
        fast.parametrizations.weight_hh_l0.original0.mul_(1.5)
        with pytest.raises(RuntimeError, match=CHANGED):
            fast(x)


def test_weights_made_in_inference_mode() -> None:
    """They have no count of changes, so their values are compared."""
    with torch.inference_mode():
        own, fast = frozen_twins("LSTM", 3, 4)
        x = torch.randn(1, 1, 3)
        assert_same(own, fast, x)
        fast.weight_hh_l0.mul_(1.5)
        with pytest.raises(RuntimeError, match=CHANGED):
            fast(x)


# ---- Gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("T", [1, 3])
def test_gradients_of_weights_are_an_error(cell: str, T: int) -> None:
    own, fast = frozen_twins(cell, 3, 4)
    x = torch.randn(T, 1, 3)
    with pytest.raises(
        RuntimeError, match="frozen: expected a call that needs no gradients of the weights, got weight"
    ):
        fast(x)
    with torch.inference_mode(), torch.enable_grad():
        fast(x)
    own.requires_grad_(False)
    fast.requires_grad_(False)
    assert not fast(x)[0].requires_grad
    gradients = []
    for layer in (own, fast):
        leaf = x.clone().requires_grad_()
        layer(leaf, state(layer, 1))[0].square().sum().backward()
        gradients.append(leaf.grad)
    assert_close(gradients[1], gradients[0], "gradient", "dx")
    hx = state(fast, 1)
    for t in hx if cell == "LSTM" else (hx,):
        t.requires_grad_()
    assert fast(x, hx)[0].requires_grad


def test_dropout_acts_in_training_mode() -> None:
    own, fast = frozen_twins("LSTM", 3, 4, 2, dropout=0.5)
    for x in (torch.randn(1, 1, 3), torch.randn(4, 2, 3)):
        found = []
        for layer in (own, fast):
            torch.manual_seed(5)
            with torch.no_grad():
                found.append(layer(x)[0])
        assert_close(found[1], found[0], "output", "y")


# ---- Copies, and the way back ----------------------------------------------------------------------------------------


def through_a_file(layer: Any) -> Any:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("through", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), through_a_file, copy.copy])
def test_copies_are_frozen(through: Callable[[Any], Any]) -> None:
    own, fast = frozen_twins("LSTM", 3, 4)
    x = torch.randn(1, 1, 3)
    other = through(fast)
    assert_same(own, other, x)
    in_place(other)
    with torch.no_grad(), pytest.raises(RuntimeError, match=CHANGED):
        other(x)


def test_state_dict_and_restore() -> None:
    own, fast = frozen_twins("GRU", 3, 4)
    assert list(fast.state_dict()) == list(own.state_dict())
    assert type(restore(fast)) is torch.nn.GRU
    assert vars(fast).keys() == vars(own).keys()
    in_place(fast)
    in_place(own)
    x = torch.randn(1, 1, 3)
    assert_same(own, fast, x)
    assert_same(own, accelerate(fast), x)
    assert Kept.of(fast).final is False


def test_whole_models_and_subclasses() -> None:
    class Mine(fastrnn.torch.LSTM):
        pass

    model = torch.nn.ModuleList([torch.nn.LSTM(3, 4), Mine(3, 4), torch.nn.Linear(2, 2), fastrnn.torch.GRU(3, 4)])
    accelerate(model, frozen=True)
    assert [type(m) for m in model] == [fastrnn.torch.LSTM, Mine, torch.nn.Linear, fastrnn.torch.GRU]
    with torch.no_grad():
        for k in (0, 1, 3):
            in_place(model[k])
            with pytest.raises(RuntimeError, match=CHANGED):
                model[k](torch.randn(1, 1, 3))
        restore(model)
        for k in (0, 1, 3):
            model[k](torch.randn(1, 1, 3))


def test_other_engines() -> None:
    own, fast = frozen_twins("GRU", 3, 4)
    for name in engines.available():
        with engines.use(name):
            for T in (1, 3):
                assert_same(own, fast, torch.randn(T, 1, 3))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_pytorchs_own_calls_read_the_parameters() -> None:
    own, fast = frozen_twins("LSTM", 3, 4)
    x = torch.randn(1, 1, 3)
    with torch.no_grad():
        traced = torch.jit.trace(fast, (x,))
        assert_close(traced(x)[0], own(x)[0], "output", "traced")
        model = torch.nn.Sequential(copy.deepcopy(fast))
        assert_close(torch.jit.script(model)(x)[0], own(x)[0], "output", "scripted")
        assert type(model[0]) is torch.nn.LSTM
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert fast(x)[0].shape == (1, 1, 4)
        with pytest.raises(RuntimeError, match=r"input\.size"):
            fast(torch.randn(1, 1, 2))
        with pytest.raises(RuntimeError, match="Expected hidden"):
            fast(x, (torch.zeros(1, 1, 3), torch.zeros(1, 1, 4)))


def test_errors() -> None:
    model = torch.nn.ModuleList([torch.nn.LSTM(3, 4), torch.nn.GRU(3, 4, dtype=torch.float16)])
    with pytest.raises(ValueError, match=r"to freeze them, got a GRU of torch\.float16 on cpu"):
        accelerate(model, frozen=True)
    assert type(model[0]) is torch.nn.LSTM
    with pytest.raises(TypeError, match="frozen: expected True or False, got 1"):
        accelerate(model, frozen=1)
    with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.Module, got int"):
        accelerate(3, frozen=True)
    odd = torch.nn.LSTM(3, 4)
    odd.weight_hh_l0 = torch.nn.Parameter(torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r"module: expected weights of \(16, 3\), .*, got \(16, 3\), \(4, 4\)"):
        accelerate(odd, frozen=True)
    with pytest.raises(ValueError, match="on meta"):
        accelerate(torch.nn.LSTM(3, 4, device="meta"), frozen=True)
