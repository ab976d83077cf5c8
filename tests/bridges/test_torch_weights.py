"""fastrnn.weights.from_torch of live modules and tensors."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastrnn  # noqa: E402
from fastrnn.weights import from_arrays, from_keras, from_torch, to_torch  # noqa: E402

LAYERS = {
    "RNN": {"nonlinearity": "relu", "batch_first": True},
    "LSTM": {"num_layers": 2, "bidirectional": True, "dropout": 0.25},
    "GRU": {"bias": False, "num_layers": 2},
}


@pytest.mark.parametrize("cell", LAYERS)
def test_modules(cell: str) -> None:
    """They say what weights do not show."""
    torch.manual_seed(0)
    own = getattr(torch.nn, cell)(3, 4, **LAYERS[cell])
    layer = from_torch(own)
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        expected = own.eval()(x)[0].numpy()
    np.testing.assert_allclose(layer(x.numpy())[0], expected, atol=1e-6)
    assert (layer.batch_first, layer.dropout) == (own.batch_first, own.dropout)
    model = torch.nn.ModuleDict({"encoder": torch.nn.ModuleDict({"rnn": own})})
    assert repr(from_torch(model, "encoder.rnn.")) == repr(layer)
    assert from_torch(own, batch_first=not own.batch_first).batch_first is not own.batch_first
    accelerated = pytest.importorskip("fastrnn.torch").accelerate(own)
    assert repr(from_torch(accelerated)) == repr(layer)


@pytest.mark.parametrize("cell", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells(cell: str) -> None:
    own = getattr(torch.nn, cell)(3, 4, **({"nonlinearity": "relu"} if cell == "RNNCell" else {}))
    x = torch.randn(1, 2, 3)
    with torch.no_grad():
        h = own(x[0])
    y, _ = from_torch(own)(x.numpy())
    np.testing.assert_allclose(y[0], (h[0] if isinstance(h, tuple) else h).numpy(), atol=1e-6)


def test_parametrized_weights() -> None:
    own = torch.nn.utils.parametrizations.weight_norm(torch.nn.LSTM(3, 4), "weight_hh_l0")
    assert (from_torch(own).params["weight_hh_l0"] == own.weight_hh_l0.detach().numpy()).all()


def test_tensors_that_require_gradients() -> None:
    own = torch.nn.LSTM(3, 4)
    layer = from_torch(dict(own.named_parameters()))
    for name, value in layer.params.items():
        assert (value == own.state_dict()[name].numpy()).all()
        assert not np.shares_memory(value, own.state_dict()[name].numpy())
    one = {"weight_ih": own.weight_ih_l0, "weight_hh": own.weight_hh_l0, "bias": own.bias_ih_l0}
    assert (from_arrays(one).params["weight_ih_l0"] == layer.params["weight_ih_l0"]).all()
    keras = [own.weight_ih_l0.t(), own.weight_hh_l0.t(), own.bias_ih_l0]
    assert (from_keras(keras).params["weight_ih_l0"] == layer.params["weight_ih_l0"]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_widened(dtype: Any) -> None:
    own = torch.nn.GRU(3, 4, dtype=dtype)
    for given in (own, own.state_dict()):
        layer = from_torch(given)
        assert layer.dtype == np.float32
        for name, value in layer.params.items():
            assert (value == own.state_dict()[name].float().numpy()).all()


def test_there_and_back() -> None:
    own = torch.nn.GRU(3, 4)
    own.load_state_dict({name: torch.from_numpy(a) for name, a in to_torch(fastrnn.GRU(3, 4, rng=0)).items()})
    assert (from_torch(own).params["weight_ih_l0"] == fastrnn.GRU(3, 4, rng=0).params["weight_ih_l0"]).all()


def test_errors() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LSTM(3, 4))
    for prefix, got in (("", "'', where Sequential is"), ("0.", "'0.', where Linear is"), ("1", "where no module is")):
        with pytest.raises(ValueError, match=rf"prefix: expected that of a torch.nn.RNN, .*{got}; there are: '1.'"):
            from_torch(model, prefix)
    with pytest.raises(ValueError, match="there is none"):
        from_torch(model[0])
    with pytest.raises(TypeError, match="prefix: expected a str, got NoneType"):
        from_torch(model, None)
    with pytest.raises(TypeError, match=r"weight_ih_l0: expected a tensor that can become an array, got torch.float32"):
        from_torch(torch.nn.LSTM(3, 4, device="meta"))
    sparse = {name: value.to_sparse() for name, value in model[1].state_dict().items()}
    with pytest.raises(TypeError, match="weight_ih_l0: expected a tensor that can become an array"):
        from_torch(sparse)
