"""Lower precision: computed in float32, returned in the dtypes that PyTorch returns, forwards and backwards."""

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastrnn.torch has nothing to accelerate")

from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402
from twins import CELLS, parts, twins  # noqa: E402

import fastrnn.torch  # noqa: E402
from fastrnn.torch import accelerate, operators  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")

# PyTorch rounds each operation; these are a few roundings of values near 1.
TOLERANCE = {torch.float16: 0.01, torch.bfloat16: 0.06, torch.float32: 0.06, torch.float64: 1e-9}
BF16, F32 = torch.bfloat16, torch.float32


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    run = operators.function.run
    monkeypatch.setattr(operators.function, "run", lambda call: calls.append(call.x.dtype) or run(call))
    return calls


def results(layer: Any, x: Any, hx: Any, grads: bool) -> list[Any]:
    """y, h and c, and the gradients."""
    leaf = (x.data if isinstance(x, PackedSequence) else x).detach().clone().requires_grad_(grads)
    x = PackedSequence(leaf, *x[1:]) if isinstance(x, PackedSequence) else leaf
    with torch.set_grad_enabled(grads):
        found = parts(layer(x, hx))
    if not grads:
        return found
    leaves = [leaf, *layer.parameters()]
    return [*found, *torch.autograd.grad(sum(t.float().square().sum() for t in found), leaves)]


def assert_alike(actual: list[Any], expected: list[Any]) -> None:
    assert [t.dtype for t in actual] == [t.dtype for t in expected]
    for a, b in zip(actual, expected, strict=True):
        scale = max(1.0, float(b.detach().abs().max()))
        assert float((a.double() - b.double()).detach().abs().max()) <= TOLERANCE[b.dtype] * scale


FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "inference": {"grads": False},
    "packed": {"packed": (3, 5)},
    "packed, equal lengths": {"packed": (5, 5)},
    "stacked, batch first": {"options": {"num_layers": 2, "bidirectional": True, "batch_first": True}},
    "projected": {"options": {"proj_size": 2}},
    "a state": {"state": F32},
    "a narrow state": {"state": BF16},
}


def compare(cell: str, x: Any, weights: Any, autocast: Any, form: dict[str, Any]) -> None:
    options, packed, grads = form.get("options", {}), form.get("packed"), form.get("grads", True)
    if cell != "LSTM" and "proj_size" in options:
        return
    own, fast = (layer.to(weights) for layer in twins(cell, 3, 4, **options))
    given: Any = torch.randn(5, 2, 3).to(x)
    given = pack_padded_sequence(given, torch.tensor(packed), enforce_sorted=False) if packed else given
    hx: Any = None
    if "state" in form:
        hx = torch.randn(1, 2, 4).to(form["state"])
        hx = (hx, hx) if cell == "LSTM" else hx
    with torch.autocast("cpu", BF16, enabled=autocast):
        assert_alike(results(fast, given, hx, grads), results(own, given, hx, grads))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_autocast(cell: str, form: dict[str, Any], ran: list[Any]) -> None:
    for x, weights in ((F32, F32), (BF16, F32), (BF16, BF16)):
        compare(cell, x, weights, True, form)
    assert set(ran) <= {F32}
    assert ran or (cell != "LSTM" and "proj_size" in form.get("options", {}))
    if "state" not in form:
        compare(cell, torch.float64, torch.float64, True, form)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [torch.float16, BF16], ids=str)
@pytest.mark.parametrize("form", ["plain", "inference", "packed", "stacked, batch first"])
def test_narrow_modules(cell: str, dtype: Any, form: str, ran: list[Any]) -> None:
    compare(cell, dtype, dtype, False, FORMS[form])
    assert ran == [F32]


def mixed(layer: Any) -> Any:
    return layer(torch.zeros(5, 2, 3, dtype=BF16))


def half_autocast(layer: Any) -> Any:
    with torch.autocast("cpu", torch.float16):
        return layer(torch.zeros(5, 2, 3), torch.zeros(1, 2, 4, dtype=torch.float64))


@pytest.mark.parametrize("call", [mixed, half_autocast])
def test_errors_are_pytorchs(call: Callable[[Any], Any]) -> None:
    own, fast = twins("GRU", 3, 4)
    with pytest.raises((RuntimeError, ValueError)) as expected:
        call(own)
    with pytest.raises((RuntimeError, ValueError)) as found:
        call(fast)
    assert str(found.value) == str(expected.value)


def test_masks_and_frozen_weights() -> None:
    layer = fastrnn.torch.LSTM(3, 4).eval()
    x, mask = torch.randn(5, 2, 3), torch.rand(5, 2) > 0.4
    frozen = accelerate(torch.nn.LSTM(3, 4).eval(), precision="int8")
    with torch.no_grad():
        expected, of_frozen = parts(layer(x, mask=mask)), parts(frozen(x))
        with torch.autocast("cpu", BF16):
            for found, wide in ((parts(layer(x, mask=mask)), expected), (parts(frozen(x)), of_frozen)):
                for a, b in zip(found, wide, strict=True):
                    assert (a.float() - b).abs().max() < 0.01
