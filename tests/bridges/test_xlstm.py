"""SLSTM against the sLSTM of the package xlstm, whose vanilla forward run is written down here, and its weights."""

from typing import Any

import numpy as np
import pytest
from tolerances import assert_close

import fastrnn
from fastrnn import weights

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

SIZES = [(8, 1), (12, 4), (64, 4)]


def state_dict(H: int, N: int, backend: str, rng: np.random.Generator, layer: bool) -> dict[str, Any]:
    """Names and shapes as sLSTMCell and sLSTMLayer have them."""
    size = H // N
    shape = (N, 4 * size, size) if backend == "vanilla" else (N, size, 4 * size)
    named = {"_recurrent_kernel_": rng.standard_normal(shape) / 3, "_bias_": rng.standard_normal(4 * H)}
    if layer:
        named = {f"slstm_cell.{name}": value for name, value in named.items()}
        named |= {f"{gate}gate.weight": rng.standard_normal((N, size, size)) for gate in "fizo"}
    return {name: torch.tensor(value, requires_grad=True) for name, value in named.items()}


def slstm(Wx: Any, kernel: Any, bias: Any, state: Any) -> tuple[Any, Any]:
    """(T, B, H) and the state (4, B, H), of pre-activations (T, B, 4*H): a loop as the backend "vanilla" runs it."""
    N, _, size = kernel.shape
    B, outputs = Wx.shape[1], []
    for x in Wx:
        h = state[0].reshape(B, N, 1, size)
        Uh = (h @ kernel.transpose(1, 2)).reshape(B, N, 4, size).transpose(1, 2).reshape(B, -1)
        i, f, z, o = (x + Uh + bias).reshape(B, 4, -1).unbind(1)
        _, c, n, m = state
        kept = m + torch.nn.functional.logsigmoid(f)
        m = i if bool((n == 0).all()) else torch.maximum(i, kept)
        i, f = torch.exp(i - m), torch.exp(kept - m)
        c, n = f * c + i * torch.tanh(z), f * n + i
        state = torch.stack([torch.sigmoid(o) * c / n, c, n, m])
        outputs.append(state[0])
    return torch.stack(outputs), state


def vanilla_of(kernel: Any, bias: Any) -> tuple[Any, Any]:
    """The parameters of a cell of backend "cuda" as those of "vanilla"."""
    N, size, _ = kernel.shape
    kernel = kernel.reshape(N, size, 4, size).permute(0, 2, 3, 1).reshape(N, 4 * size, size)
    return kernel, bias.reshape(N, 4, size).transpose(0, 1).reshape(-1)


@pytest.mark.parametrize("backend", ["vanilla", "cuda"])
@pytest.mark.parametrize(("H", "N"), SIZES)
def test_a_cell(engine: str, H: int, N: int, backend: str, rng: np.random.Generator) -> None:
    """Values, final state and gradients, also in the weights, from a state of zeros and from another one."""
    given = state_dict(H, N, backend, rng, layer=False)
    layer = weights.from_xlstm(given)
    assert (layer.cell.heads, layer.input_size, layer.hidden_size) == (N, 4 * H, H)
    x, dy, dstate = (torch.tensor(rng.standard_normal(shape)) for shape in ((9, 3, 4 * H), (9, 3, H), (4, 3, H)))
    x.requires_grad_()
    other = rng.standard_normal((4, 3, H))
    other[2] = 1 + np.abs(other[2])
    for start in (np.zeros((4, 3, H)), other):
        kernel, bias = (given[name] for name in ("_recurrent_kernel_", "_bias_"))
        if backend == "cuda":
            kernel, bias = vanilla_of(kernel, bias)
        expected_y, expected = slstm(x, kernel, bias, torch.tensor(start))
        y, state, tape = layer.forward(x.detach().numpy(), tuple(start[:, None]))
        assert_close(y, expected_y.detach().numpy())
        for part, value in zip(state, expected, strict=True):
            assert_close(part[0], value.detach().numpy())
        for tensor in (x, *given.values()):
            tensor.grad = None
        ((expected_y * dy).sum() + (expected * dstate).sum()).backward()
        grads = layer.backward(tape, dy.numpy(), tuple(dstate.numpy()[:, None]))
        assert_close(grads.x, x.grad.numpy(), "gradient", "x")
        back = weights.to_xlstm(_with(layer, grads.params), backend=backend)
        for name, tensor in given.items():
            assert_close(back[name], tensor.grad.numpy(), "gradient", name)


def _with(layer: Any, params: dict[str, np.ndarray]) -> Any:
    """The layer with gradients in the place of its parameters; both biases have the same one."""
    params = params | {"weight_ih_l0": layer.params["weight_ih_l0"], "bias_hh_l0": 0 * params["bias_hh_l0"]}
    twin = fastrnn.SLSTM(layer.input_size, layer.hidden_size, num_heads=layer.cell.heads, dtype=layer.dtype)
    twin.load_state_dict(params)
    return twin


@pytest.mark.parametrize("convolution", [False, True])
def test_a_layer(convolution: bool, rng: np.random.Generator) -> None:
    """Each gate's input weights act on the heads of x. The package's fgate makes the input gate, igate the other."""
    H, N = 12, 3
    given = state_dict(H, N, "vanilla", rng, layer=True)
    if convolution:
        given["conv1d.conv.weight"] = torch.zeros(H, 1, 4)
    layer = weights.from_xlstm({f"a.{name}": value for name, value in given.items()}, "a.")
    x = torch.tensor(rng.standard_normal((9, 3, H)))
    convolved = torch.tensor(rng.standard_normal((9, 3, H))) if convolution else x
    pairs = ((convolved, "f"), (convolved, "i"), (x, "z"), (x, "o"))
    products = [
        torch.einsum("tbhd,hod->tbho", a.reshape(9, 3, N, -1), given[f"{gate}gate.weight"]) for a, gate in pairs
    ]
    Wx = torch.cat([a.reshape(9, 3, H) for a in products], dim=-1)
    kernel, bias = given["slstm_cell._recurrent_kernel_"], given["slstm_cell._bias_"]
    expected, _ = slstm(Wx, kernel, bias, torch.zeros(4, 3, H, dtype=torch.float64))
    inputs = torch.cat([convolved, x], dim=-1) if convolution else x
    y, _ = layer(inputs.numpy())
    assert_close(y, expected.detach().numpy())
    back = weights.to_xlstm(layer, "b.")
    assert back.keys() == {f"b.{name}" for name in given if not name.startswith("conv1d.")}
    for name, value in back.items():
        np.testing.assert_array_equal(value, given[name[2:]].detach().numpy())


def test_errors(rng: np.random.Generator) -> None:
    given = {name: value.detach().numpy() for name, value in state_dict(12, 3, "vanilla", rng, layer=True).items()}
    with pytest.raises(TypeError, match=r"^state_dict: expected names and arrays, got a list of 0"):
        weights.from_xlstm([])
    with pytest.raises(ValueError, match=r"^state_dict: .* missing \['x\._recurrent_kernel_', 'x\._bias_'\]"):
        weights.from_xlstm(given, "x.")
    wrong = {"slstm_cell._recurrent_kernel_": (3, 4, 4), "slstm_cell._bias_": (12,), "zgate.weight": (3, 4)}
    for name, shape in wrong.items():
        with pytest.raises(ValueError, match=rf"^{name}: expected .* got \({shape[0]},"):
            weights.from_xlstm(given | {name: np.zeros(shape)})
    with pytest.raises(TypeError, match=r"^layer: expected an SLSTM, got LSTM"):
        weights.to_xlstm(fastrnn.LSTM(3, 4))
    for layer in (fastrnn.SLSTM(4, 4, num_heads=2), fastrnn.SLSTM(3, 4)):
        with pytest.raises(ValueError, match=r"^layer: expected a weight_ih whose gates are blocks of heads"):
            weights.to_xlstm(layer)
    with pytest.raises(ValueError, match=r"^layer: expected one layer and direction"):
        weights.to_xlstm(fastrnn.SLSTM(4, 4, bidirectional=True))
    with pytest.raises(ValueError, match=r"^num_heads: expected a divisor of hidden_size \(4\), got 3"):
        fastrnn.SLSTM(4, 4, num_heads=3)
