"""accelerate(model, precision=): PyTorch's layers with weights in fewer bits, for inference."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastrnn.torch has nothing to accelerate")

from torch.nn.utils.rnn import pack_sequence  # noqa: E402
from twins import CELLS, parts  # noqa: E402

from fastrnn import engines  # noqa: E402
from fastrnn.torch import accelerate, restore  # noqa: E402
from fastrnn.weights import from_torch  # noqa: E402

NARROW = ("bfloat16", "int8")


def build(cell: str = "LSTM", *args: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return getattr(torch.nn, cell)(*(args or (19, 33)), **options).eval()


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}, {"bias": False}], ids=str)
def test_the_bits_of_a_frozen_layer(cell: str, options: dict[str, Any], precision: str) -> None:
    own = build(cell, **options)
    frozen, fast = from_torch(own).freeze(precision), accelerate(copy.deepcopy(own), precision=precision)
    with torch.inference_mode():
        for shape in ((1, 1, 19), (1, 19), (5, 1, 19), (6, 3, 19), (300, 2, 19)):
            x = torch.randn(shape)
            found, expected = fast(x), frozen(x.numpy())
            for a, b in zip(parts(found), parts(expected), strict=True):
                assert a.dtype is torch.float32
                np.testing.assert_array_equal(a, b)
            for each in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
                assert torch.equal(each(x)[0], found[0])
        with engines.use("reference"):
            assert (fast(x)[0] - found[0]).abs().max() < 0.02
        lengths = (4, 2)
        packed = pack_sequence([torch.randn(n, 19) for n in lengths])
        y, _ = frozen(torch.nn.utils.rnn.pad_packed_sequence(packed)[0].numpy(), lengths=lengths)
        np.testing.assert_array_equal(torch.nn.utils.rnn.pad_packed_sequence(fast(packed)[0])[0], y)


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("cell", CELLS)
def test_a_frame_has_the_bits_of_a_longer_call(cell: str, precision: str) -> None:
    fast = accelerate(build(cell, 5, 1100 if cell == "RNN" else 40, 2), precision=precision)
    x, hx = torch.randn(4, 2 if cell == "RNN" else 1, 5), None
    with torch.no_grad():
        whole, steps = fast(x)[0], []
        for x_t in x.split(1):
            y, hx = fast(x_t, hx)
            steps.append(y)
    assert torch.equal(torch.cat(steps), whole)


def test_what_stays_pytorchs() -> None:
    own = torch.nn.Sequential(build(), torch.nn.Identity())
    fast = accelerate(copy.deepcopy(own), precision="int8")
    assert repr(fast[0]) == "LSTM(19, 33, precision='int8')"
    assert fast.state_dict().keys() == own.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(fast.state_dict().values(), own.state_dict().values(), strict=True))
    x = torch.randn(3, 2, 19)
    with torch.no_grad():
        expected = own(x)[0]
        assert torch.equal(restore(fast)(x)[0], expected)
        assert repr(accelerate(fast, precision="float32")[0]) == "LSTM(19, 33)"
        torch.testing.assert_close(fast(x)[0], expected)
        accelerate(fast)  # ends it
    fast.train()(x)[0].sum().backward()


def test_a_change_of_weights_is_an_error_until_they_are_packed_again() -> None:
    fast, x = accelerate(build(), precision="int8"), torch.randn(3, 2, 19)
    with torch.no_grad():
        before = fast(x)[0]
        fast.weight_hh_l0.mul_(2)
        with pytest.raises(RuntimeError, match="frozen: expected weights as they were when they were packed"):
            fast(x)
        accelerate(fast, precision="int8")
        assert not torch.equal(fast(x)[0], before)


def test_errors() -> None:
    x = torch.randn(3, 2, 19)
    layer = torch.nn.Sequential(build().train())
    for precision in NARROW:
        with pytest.raises(ValueError, match=r"module: expected one in evaluation mode .* got a LSTM in training mode"):
            accelerate(layer, precision=precision)
    assert type(layer[0]) is torch.nn.LSTM
    for precision in ("float32", *NARROW):
        with pytest.raises(ValueError, match=r"module: expected float32 weights with precision=.*, got torch.float64"):
            accelerate(build(dtype=torch.float64), precision=precision)
    for wrong, kind in (("int4", ValueError), (8, TypeError)):
        with pytest.raises(kind, match="precision: expected"):
            accelerate(build(), precision=wrong)
    bad = build()
    bad.weight_ih_l0.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="precision: expected finite weights for int8"):
        accelerate(bad, precision="int8")
    fast = accelerate(build(), precision="int8")
    with pytest.raises(RuntimeError, match="frozen: expected a call that needs no gradients of the weights"):
        fast(x)
    fast.requires_grad_(False)
    assert fast(x)[0].isfinite().all()
    with pytest.raises(RuntimeError, match="frozen: expected a call that needs no gradients, as weights are kept in"):
        fast(x.clone().requires_grad_())
    with pytest.raises(RuntimeError, match="frozen: expected a module in evaluation mode with precision='int8'"):
        fast.train()(x)
