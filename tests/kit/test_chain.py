"""Chains: gradients, masks, lengths, files, and what is refused. tests/bridges/test_keras_models.py has Keras's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn import nn
from fastrnn.data import Batch
from fastrnn.inspect import check_gradients

T, B = 6, 4
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 8, (T, B))
MASKED = RNG.standard_normal((T, B, 3))
MASKED[RNG.random((T, B)) < 0.3] = -1
LENGTHS = np.array([6, 3, 0, 5])


def chain(loss: str, returns: str, merge: str, masked_output: str, features: bool = False) -> nn.Chain:
    f8: Any = {"dtype": np.float64, "rng": 0}
    outputs = {"cross_entropy": 3, "binary_cross_entropy": 1, "mse": 2}[loss]
    first = {"masking": nn.Masking(-1.0)} if features else {"masking": nn.Masking(0), "table": nn.Embedding(8, 3, **f8)}
    last = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid"}.get(loss)
    both = fastrnn.GRU(4, 3, bidirectional=True, **f8)
    return nn.Chain(
        {
            **first, "dropout": nn.Dropout(0.2),
            "backwards": nn.Recurrence(fastrnn.LSTM(3, 4, **f8), reverse=True, masked_output=masked_output),
            "both": nn.Recurrence(both, returns=returns, merge=merge, masked_output=masked_output),
            "squash": nn.Activation("sigmoid"), "output": nn.Linear(6 if merge == "concat" else 3, outputs, **f8),
            **({} if last is None else {"last": nn.Activation(last)}),
        },
        loss=loss,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "returns", "merge", "masked_output"),
    [
        ("cross_entropy", "sequence", "concat", "hold"), ("cross_entropy", "last", "mul", "zero"),
        ("binary_cross_entropy", "last", "ave", "hold"), ("binary_cross_entropy", "sequence", "sum", "zero"),
        ("mse", "last", "concat", "zero"), ("mse", "sequence", "mul", "hold"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("features", [False, True])
def test_gradients(loss: str, returns: str, merge: str, masked_output: str, features: bool) -> None:
    model = chain(loss, returns, merge, masked_output, features)
    shape = (T, B) if returns == "sequence" else (B,)
    rng = np.random.default_rng(1)
    y = (
        rng.standard_normal((*shape, 2))
        if loss == "mse"
        else rng.integers(0, 3 if loss == "cross_entropy" else 2, shape)
    )
    batch = Batch(x=MASKED if features else IDS, x_lengths=LENGTHS, y=y)
    assert max(check_gradients(model, batch, samples=6).values()) < 1e-5
    assert len(model.predict_batch(batch)) == B


@pytest.mark.parametrize("kind", ["tanh", "relu", "sigmoid", "softmax"])
def test_activations(kind: str) -> None:
    part, x, dy = nn.Activation(kind), RNG.standard_normal((3, 4)), RNG.standard_normal((3, 4))
    y, tape = part.forward(x)
    step = 1e-6 * RNG.standard_normal((3, 4))
    change = ((part(x + step) - part(x - step)) * dy).sum() / 2
    assert (part.backward(tape, dy).x * step).sum() == pytest.approx(change, rel=1e-6)
    if kind == "softmax":
        np.testing.assert_allclose(y, nn.softmax(x), rtol=1e-12)
    np.testing.assert_array_equal(part(np.float32([-1e4, 1e4])) == 1, [False, kind != "relu"])


def test_lengths_are_a_mask() -> None:
    """What lies behind the end of a sequence has no effect."""
    model, lengths = chain("mse", "last", "concat", "hold"), np.array([6, 3, 1, 5])
    padded = np.where(np.arange(T)[:, None] < lengths, IDS, 7)
    np.testing.assert_array_equal(
        model(padded, lengths), model(np.where(np.arange(T)[:, None] < lengths, IDS, 0))
    )  # fmt: skip


def test_files(tmp_path: Path) -> None:
    model = chain("cross_entropy", "last", "sum", "zero")
    for name, saved in (("model.npz", model), ("frozen.safetensors", model.freeze())):
        saved.save(tmp_path / name)
        loaded = nn.load(tmp_path / name)
        assert repr(loaded) == repr(saved)
        np.testing.assert_array_equal(loaded(IDS, LENGTHS), model(IDS, LENGTHS))


def test_errors() -> None:
    rnn = fastrnn.GRU(3, 4, bidirectional=True, rng=0)
    with pytest.raises(ValueError, match="reverse: expected False for a layer of two directions"):
        nn.Recurrence(rnn, reverse=True)
    with pytest.raises(ValueError, match="merge: expected one of"):
        nn.Recurrence(rnn, merge="max")
    with pytest.raises(TypeError, match="value: expected a number, got str"):
        nn.Masking("0")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"parts\['b'\]: expected a part that reads 8 values, got one for 4"):
        nn.Chain({"a": nn.Recurrence(rnn), "b": nn.Linear(4, 2)})
    model = nn.Chain({"a": nn.Recurrence(rnn, returns="last"), "b": nn.Linear(8, 2)})
    x = np.zeros((T, B, 3), np.float32)
    with pytest.raises(ValueError, match=r"lengths: expected \(4,\) integers in 0..6"):
        model(x, lengths=[1, 2, 3, 7])
    with pytest.raises(ValueError, match=r"batch.y: expected \(4, 2\), got \(4,\)"):
        model.loss(Batch(x=x, x_lengths=None, y=np.zeros(B, np.float32)))
