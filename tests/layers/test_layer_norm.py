"""Layer normalisation: against a loop in PyTorch, its options and parameters, and files. Promises: VARIANTS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generators import random_call
from oracle import train
from tolerances import assert_close

import fastrnn
from fastrnn import GRU, LSTM, RNN

CELLS = {
    "lstm": (LSTM, {"layer_norm": "separate"}),
    "lstm-sum": (LSTM, {"layer_norm": "sum"}),
    "gru": (GRU, {"layer_norm": "separate"}),
    "gru-before": (GRU, {"layer_norm": "separate", "reset_after": False}),
    "rnn": (RNN, {"layer_norm": "separate"}),
    "rnn-relu-sum": (RNN, {"layer_norm": "sum", "nonlinearity": "relu"}),
}


def build(name: str, input_size: int, hidden_size: int, **options: Any) -> Any:
    """A layer whose gains and biases of normalisation are random, too."""
    cell, own = CELLS[name]
    layer = cell(input_size, hidden_size, rng=0, **(own | options))
    rng = np.random.default_rng(1)
    for field, value in layer.params.items():
        if field.startswith(("norm", "bias_c")):
            value[...] = rng.uniform(0.5, 1.5, value.shape)
    return layer


def torch_step(torch: Any, layer: Any, w: dict[str, Any], x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """One step as PyTorch's users write it, with F.layer_norm: the new h and c."""
    H, eps, own = layer.hidden_size, layer.cell.layer_norm_eps, torch.nn.functional.layer_norm

    def norm(v: Any, gain: Any, bias: Any) -> Any:
        return own(v, v.shape[-1:], gain, bias, eps)

    if layer.cell.layer_norm == "sum":
        a, G = x @ w["weight_ih"].T + h @ w["weight_hh"].T, len(layer.cell.gates)
        gates = [
            norm(part, *rows)
            for part, *rows in zip(*(v.split(H, -1) for v in (a, w["norm"], w["bias_ih"] + w["bias_hh"])), strict=True)
        ]
        assert len(gates) == G
    else:
        ih = norm(x @ w["weight_ih"].T, w["norm_ih"], w["bias_ih"]).split(H, -1)
        if isinstance(layer, GRU) and not layer.cell.reset_after:
            gain, bias, U = w["norm_hh"], w["bias_hh"], w["weight_hh"]
            hr, hz = norm(h @ U[: 2 * H].T, gain[: 2 * H], bias[: 2 * H]).split(H, -1)
            r, z = torch.sigmoid(ih[0] + hr), torch.sigmoid(ih[1] + hz)
            n = torch.tanh(ih[2] + norm((r * h) @ U[2 * H :].T, gain[2 * H :], bias[2 * H :]))
            return (1 - z) * n + z * h, c
        hh = norm(h @ w["weight_hh"].T, w["norm_hh"], w["bias_hh"]).split(H, -1)
        if isinstance(layer, GRU):
            r, z = torch.sigmoid(ih[0] + hh[0]), torch.sigmoid(ih[1] + hh[1])
            return (1 - z) * torch.tanh(ih[2] + r * hh[2]) + z * h, c
        gates = [a + b for a, b in zip(ih, hh, strict=True)]
    if isinstance(layer, RNN):
        return (torch.tanh if layer.cell.nonlinearity == "tanh" else torch.relu)(gates[0]), c
    i, f, g, o = gates
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(norm(c, w["norm_c"], w["bias_c"])), c


@pytest.mark.parametrize("name", CELLS)
def test_a_loop_in_pytorch(engine: str, name: str) -> None:
    torch = pytest.importorskip("torch")
    for dtype in (np.float32, np.float64):
        layer = build(name, 5, 37, dtype=dtype)
        call = random_call(layer, 6, 3, np.random.default_rng(2))
        actual = train(layer, call)
        w = {field: torch.from_numpy(value).requires_grad_() for field, value in layer.params.items()}
        state = call.state if isinstance(call.state, tuple) else (call.state,)
        x, *start = (torch.from_numpy(a).requires_grad_() for a in (call.x, *state))
        h, c = start[0][0], start[1][0] if len(start) > 1 else None
        outputs = []
        for x_t in x:
            h, c = torch_step(torch, layer, {field[:-3]: value for field, value in w.items()}, x_t, h, c)
            outputs.append(h)
        y = torch.stack(outputs)
        finals = [h, c] if c is not None else [h]
        dstate = call.dstate if isinstance(call.dstate, tuple) else (call.dstate,)
        loss = (y * torch.from_numpy(call.dy)).sum()
        for final, d in zip(finals, dstate, strict=True):
            loss = loss + (final * torch.from_numpy(d[0])).sum()
        loss.backward()
        assert_close(actual["y"], y.detach().numpy(), name="y")
        assert_close(actual["grad x"], x.grad.numpy(), "gradient", "x")
        for field, value in w.items():
            assert_close(actual[f"grad {field}"], value.grad.numpy(), "gradient", field)
        for state_name, value in zip(("grad h0", "grad c0"), start, strict=False):
            assert_close(actual[state_name], value.grad.numpy(), "gradient", state_name)


@pytest.mark.parametrize("name", ["rnn", "rnn-relu-sum", "lstm-sum", "gru-before"])
@pytest.mark.parametrize("split", ["rows", "units"])
def test_threads_do_not_change_bits(name: str, split: str) -> None:
    native = fastrnn._core.native  # type: ignore[attr-defined]
    layer = build(name, 9, 130, bidirectional=True)
    call = random_call(layer, 7, 5, np.random.default_rng(3), lengths=True, resets=True)
    with fastrnn.engines.use("packed"):
        with fastrnn.num_threads(1):
            alone = train(layer, call)
        native.insist_on_teams(split)
        try:
            for threads in (2, 3, 4):
                with fastrnn.num_threads(threads):
                    for field, value in train(layer, call).items():
                        np.testing.assert_array_equal(value, alone[field], f"{field}, {threads} threads")
        finally:
            native.insist_on_teams(None)


def test_a_mean_far_from_zero_costs_no_precision(engine: str) -> None:
    """A constant that all rows of W add to W x is taken away again."""
    layer = build("rnn", 2, 64, dtype=np.float32)
    layer.params["weight_ih_l0"][:, 1] = 1
    x = np.random.default_rng(5).standard_normal((3, 2, 2)).astype(np.float32)
    x[..., 1] = 0
    expected, _ = layer(x)
    x[..., 1] = 1024  # whose square has an error of 0.06 in float32, more than the variance
    assert np.abs(layer(x)[0] - expected).max() < 0.02


def test_one_unit_is_normalised_to_zero(engine: str) -> None:
    layer = build("rnn", 3, 1)
    y, _ = layer(np.ones((2, 4, 3), np.float32))
    np.testing.assert_allclose(y, np.tanh(layer.params["bias_ih_l0"] + layer.params["bias_hh_l0"])[0], rtol=1e-6)
    y, _, tape = layer.forward(np.ones((2, 4, 3), np.float32))
    assert np.abs(layer.backward(tape, np.ones_like(y)).x).max() < 1e-4


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_keep_the_options(tmp_path: Path, suffix: str) -> None:
    for name in CELLS:
        layer = build(name, 3, 4, num_layers=2, layer_norm_eps=0.125)
        for saved in (layer, layer.freeze()):
            fastrnn.save(tmp_path / f"layer{suffix}", saved)
            loaded = fastrnn.load(tmp_path / f"layer{suffix}")
            assert loaded.cell == layer.cell
            for field, value in layer.params.items():
                np.testing.assert_array_equal(loaded.params[field], value)


def test_an_update_gate_turned_round_negates_gains() -> None:
    layer = build("gru", 3, 5, dtype=np.float64)
    turned = fastrnn.weights.from_torch(layer.params, update_gate="replace", weights_update_gate="keep")
    x = np.random.default_rng(6).standard_normal((4, 2, 3))
    np.testing.assert_allclose(turned(x)[0], layer(x)[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"layer_norm": "both"}, ValueError, "layer_norm: expected one of 'separate', 'sum', got 'both'"),
        ({"layer_norm": True}, TypeError, "layer_norm: expected one of 'separate', 'sum', got bool"),
        ({"layer_norm": "sum", "layer_norm_eps": -1}, ValueError, "layer_norm_eps: expected a number of at least 0"),
        ({"layer_norm_eps": "small"}, TypeError, "layer_norm_eps: expected a number, got str"),
        ({"layer_norm_eps": 10**400}, ValueError, "layer_norm_eps: expected a finite number"),
    ],
)
def test_errors(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        LSTM(3, 4, **options)


def test_a_gru_normalises_no_sums() -> None:
    with pytest.raises(ValueError, match="layer_norm: expected one of 'separate', got 'sum'"):
        GRU(3, 4, layer_norm="sum")


def test_others_do_not_have_it() -> None:
    for to in (fastrnn.weights.to_torch, fastrnn.weights.to_keras, fastrnn.weights.to_onnx):
        with pytest.raises(ValueError, match="has, got layer normalisation"):
            to(build("lstm-sum", 3, 4))
