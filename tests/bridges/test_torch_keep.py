"""`accelerate(keep=)`: PyTorch's layers trained in less memory, with the same gradients."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastrnn.torch has nothing to accelerate")

from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402

from fastrnn import segments  # noqa: E402
from fastrnn.torch import accelerate, restore  # noqa: E402

T, B = 600, 3


def gradients(layer: Any, keep: Any, **options: Any) -> list[Any]:
    accelerate(layer, keep=keep)
    torch.manual_seed(5)
    x = torch.randn(T, B, 4, requires_grad=True)
    given = pack_padded_sequence(x, [T, 300, 20]) if options.get("packed") else x
    with torch.autocast("cpu", enabled=options.get("autocast", False)):
        y, state = layer(given)
    y = y.data if options.get("packed") else y
    state = state if isinstance(state, tuple) else (state,)
    loss = (y.float() ** 2).sum() + sum((t.float() ** 3).sum() for t in state)
    return [y, *torch.autograd.grad(loss, [x, *layer.parameters()])]


@pytest.mark.parametrize("cls", [torch.nn.LSTM, torch.nn.GRU])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "dropout": 0.4}, {"bidirectional": True, "num_layers": 2}])
@pytest.mark.parametrize("call", [{}, {"packed": True}, {"autocast": True}])
def test_the_same_bits(cls: Any, options: dict[str, Any], call: dict[str, bool], monkeypatch: Any) -> None:
    torch.manual_seed(0)
    layer = cls(4, 5, **options)
    expected = gradients(layer, "all", **call)
    cut = []
    monkeypatch.setattr(segments, "_run", lambda *args, run=segments._run: cut.append(args) or run(*args))
    for keep in ("states", 256):
        for a, b in zip(gradients(layer, keep, **call), expected, strict=True):
            assert torch.equal(a, b)
        assert cut
        cut.clear()


def test_the_output_may_be_changed_and_differentiated_twice() -> None:
    layer = accelerate(torch.nn.LSTM(4, 5).double(), keep="states")
    x = torch.randn(4, 1100, 4, requires_grad=True, dtype=torch.float64)  # so many rows may be cut at every step
    y, _ = layer(x)
    (first,) = torch.autograd.grad(y.sum(), x, retain_graph=True, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    restore(layer)
    (expected,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
    (again,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, again)


def test_how_it_is_switched() -> None:
    model = torch.nn.Sequential(torch.nn.LSTM(4, 5), torch.nn.GRU(5, 5))
    accelerate(model, keep=100)
    assert [part._keep for part in model] == [100, 100]
    accelerate(model)
    assert [part._keep for part in model] == ["all", "all"]
    for wrong in ("some", 0, 1.5, None):
        with pytest.raises((TypeError, ValueError), match=r'^keep: expected "all", "states" or a number of steps'):
            accelerate(model, keep=wrong)
    restore(model)
    assert not any(hasattr(part, "_keep") for part in model)
