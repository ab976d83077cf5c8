"""fastrnn.inspect: gates as the tape has them, norms against whole backward runs, wrong gradients found, precisions
compared, plots.
"""

import numpy as np
import pytest
from models import build_model

import fastrnn
from fastrnn import inspect, nn
from fastrnn.data import Batch, Chunks
from fastrnn.nn import decoder
from fastrnn.nn.losses import log_softmax
from fastrnn.nn.states import pack
from fastrnn.train import evaluate

F8 = {"dtype": np.float64, "rng": 0}


@pytest.mark.parametrize("kind", [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN])
def test_gates_are_those_of_one_sequence(kind):
    layer = kind(3, 4, 2, bidirectional=True, **F8)
    x = np.random.default_rng(0).standard_normal((6, 2, 3))
    _, _, tape = layer.forward(x, lengths=[6, 4])
    for name, values in inspect.gates(tape, 1, layer=1, direction=1).items():
        np.testing.assert_array_equal(values, tape.gates(1, 1)[name][:4, 1])
        assert values.shape == (4, 4)
    with pytest.raises(IndexError, match="row: expected 0 to 1, got 2"):
        inspect.gates(tape, 2)


@pytest.mark.parametrize("kind", [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN])
def test_norms_are_those_of_backward_from_each_step(kind):
    layer, rng = kind(3, 4, 2, **F8), np.random.default_rng(0)
    x, dy = rng.standard_normal((7, 2, 3)), rng.standard_normal((2, 4))
    norms = inspect.gradient_norms(layer, x, dy)
    assert norms["h"].shape == (8, 2, 2)
    np.testing.assert_allclose(norms["h"][7], [[0, 0], np.linalg.norm(dy, axis=1)])
    for t in (0, 3, 6):
        state = layer(x[:t])[1]
        y, _, tape = layer.forward(x[t:], state)
        d_last = np.zeros_like(y)
        d_last[-1] = dy
        grads = layer.backward(tape, d_last).state
        for name, grad in zip("hc", grads if isinstance(grads, tuple) else (grads,), strict=False):
            np.testing.assert_allclose(norms[name][t], np.linalg.norm(grad, axis=-1), rtol=1e-9, atol=1e-14)
    default = inspect.gradient_norms(layer, x)["h"]
    np.testing.assert_allclose(default[7, 1], 1)
    with pytest.raises(ValueError, match="layer: expected a unidirectional one"):
        inspect.gradient_norms(kind(3, 4, bidirectional=True, **F8), x)
    with pytest.raises(TypeError, match="x: expected an array of float64"):
        inspect.gradient_norms(layer, x.astype(np.float32))


def test_an_lstm_keeps_gradients_that_an_rnn_loses():
    x = np.random.default_rng(0).standard_normal((60, 4, 3)).astype(np.float32)
    lstm, rnn = fastrnn.LSTM(3, 16, rng=0), fastrnn.RNN(3, 16, rng=0)
    nn.set_forget_bias(lstm, 3.0)
    for layer in (lstm, rnn):
        layer.params["weight_hh_l0"] *= 0.5
    assert inspect.gradient_norms(lstm, x)["c"][0].mean() > 1e3 * inspect.gradient_norms(rnn, x)["h"][0].mean()


class Wrong(nn.Model):
    """Forgets part of a gradient."""

    def __init__(self, layer):
        self.layer = layer
        super().__init__({"layer": layer})

    def loss_and_grads(self, batch, rng=None):
        y, tape = self.layer.forward(batch.x)
        grads = nn.parameters({"layer": self.layer.backward(tape, 2 * y)})
        grads["layer.bias"][1] *= 0.99
        return float((y * y).sum()), grads


def test_wrong_gradients_are_found():
    model = Wrong(nn.Linear(3, 4, **F8))
    batch = Batch(np.random.default_rng(0).standard_normal((5, 3)))
    before = model.state_dict()
    errors = inspect.check_gradients(model, batch)
    assert errors["layer.weight"] < 1e-6
    assert errors["layer.bias"] > 1e-4
    for name, value in model.params.items():
        np.testing.assert_array_equal(value, before[name])


def test_a_gradient_that_is_missing_is_found():
    model, batch = build_model("last")
    whole = model.loss_and_grads

    def without(batch, rng=None):
        loss = whole(batch, rng)
        return loss.value, {**loss.grads, "rnn.bias_hh_l1": np.zeros_like(loss.grads["rnn.bias_hh_l1"])}

    model.loss_and_grads = without
    assert inspect.check_gradients(model, batch)["rnn.bias_hh_l1"] > 0.1


def test_a_check_needs_float64_and_the_parameters_names():
    model = nn.ManyToOne(fastrnn.GRU(2, 3), nn.Linear(3, 2))
    with pytest.raises(TypeError, match=r"params\['rnn.weight_ih_l0'\]: expected float64"):
        inspect.check_gradients(model, None)
    model, batch = build_model("last")
    model.loss_and_grads = lambda batch, rng=None: (0.0, {"a": np.zeros(1)})
    with pytest.raises(ValueError, match="grads: expected"):
        inspect.check_gradients(model, batch)
    with pytest.raises(TypeError, match="samples: expected an integer"):
        inspect.check_gradients(model, batch, samples=np.ma.array(-3.0))


@pytest.mark.parametrize("kind", [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN])
def test_plots_are_drawn(kind, tmp_path):
    pytest.importorskip("matplotlib")
    layer = kind(3, 5, rng=0)
    x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
    _, _, tape = layer.forward(x)
    inspect.plot_gates(tape, ["a", "b", " ", "d"], row=1).savefig(tmp_path / "gates.png")
    figure = inspect.plot_gates(tape, "abcd", units=[3, 1], names=[next(iter(tape.gates()))])
    assert len(figure.axes) == 2  # a heat map and its scale
    inspect.plot_gradient_norms({kind.__name__: inspect.gradient_norms(layer, x)["h"]}).savefig(tmp_path / "norms.png")
    report = inspect.precision(layer, x, lambda frozen: 0.5, rounds=1)
    report.plot().savefig(tmp_path / "precisions.png")
    assert len(report.plot().axes) == 5
    assert all(path.stat().st_size > 1000 for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match="tokens: expected 4, one a step, got 3"):
        inspect.plot_gates(tape, "abc")
    with pytest.raises(ValueError, match="names: expected one of"):
        inspect.plot_gates(tape, "abcd", names=["k"])


@pytest.mark.parametrize("kind", [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN])
def test_precisions_of_a_layer_are_compared_with_float32(kind):
    layer, rng = kind(5, 9, 2, rng=0), np.random.default_rng(0)
    x = [rng.standard_normal((T, 3, 5)).astype(np.float32) for T in (4, 7)]
    report = inspect.precision(layer, x, precisions=["bfloat16", "int8", ["float32", "int8"]], rounds=1)
    assert list(report) == ["float32", "bfloat16", "int8", ("float32", "int8")]
    for name, row in report.items():
        frozen = layer.freeze(precision=name)
        distances = [np.abs(frozen(each)[0].astype(np.float64) - layer(each)[0]) for each in x]
        assert row.largest == max(d.max() for d in distances)
        assert row.mean == pytest.approx(np.concatenate([d.ravel() for d in distances]).mean())
        assert row.weight_bytes == frozen.weight_bytes
        assert row.score is None
        assert row.seconds > 0
    assert report["float32"].largest == 0
    assert report["float32"].speed == 1
    assert 0 < report["bfloat16"].mean < report["int8"].mean < 0.05
    assert len(str(report).splitlines()) == 5
    assert "float32, int8" in str(report)
    one = inspect.precision(layer, x[0], lambda frozen: frozen(x[1])[0].sum(), rounds=1)
    assert one["int8"].score == pytest.approx(float(layer.freeze(precision="int8")(x[1])[0].sum()))


@pytest.mark.parametrize("name", ["caption", "caption_fed", "translate", "attend"])
def test_a_writers_outputs_are_those_that_its_loss_is_of(name):
    model, batch = build_model(name)
    _, targets, lengths = decoder._shifted(batch.y, batch.y_lengths)
    logits, _ = inspect._model_outputs(model, batch, None)
    chosen = np.take_along_axis(log_softmax(logits), pack(targets, lengths)[:, None], axis=1)
    assert -chosen.mean() == pytest.approx(model.loss(batch).value)


def test_precisions_of_a_model_are_compared_by_its_loss_with_the_state_carried():
    rng = np.random.default_rng(0)
    model = nn.ManyToMany(fastrnn.GRU(6, 20, rng=rng), nn.Linear(20, 9, rng=rng), nn.Embedding(9, 6, rng=rng))
    chunks = Chunks.to_evaluate(rng.integers(0, 9, 200), columns=3, steps=10)
    report = inspect.precision(model, chunks, rounds=1)
    state, distances = [None, None], []
    frozen = [model.freeze(precision=name) for name in ("float32", "int8")]
    for batch in chunks:
        (exact, state[0]), (found, state[1]) = (m(batch.x, state=s) for m, s in zip(frozen, state, strict=True))
        distances.append(np.abs(exact - found).max())
    assert report["int8"].largest == pytest.approx(max(distances))
    for name in ("float32", "int8"):
        assert report[name].score == evaluate(model.freeze(precision=name), chunks)
    assert report["int8"].score == pytest.approx(report["float32"].score, rel=0.02)
    assert report["int8"].weight_bytes < 0.5 * report["float32"].weight_bytes
    kept = {"int8": {"precision": "int8"}, "but the ends": {"precision": "int8", "keep": ["embedding", "output"]}}
    report = inspect.precision(model, chunks, precisions=kept, rounds=1)
    assert report["but the ends"].mean < report["int8"].mean


def test_a_difference_that_is_nan_shows():
    layer = fastrnn.RNN(2, 3, nonlinearity="relu", rng=0)
    x = np.full((2, 1, 2), np.inf, np.float32)
    with np.errstate(invalid="ignore"):
        assert np.isnan(inspect.precision(layer, x, rounds=1)["int8"].largest)


def test_a_comparison_of_precisions_says_what_it_needs():
    layer, x = fastrnn.LSTM(2, 3, rng=0), np.zeros((2, 1, 2), np.float32)
    with pytest.raises(TypeError, match="model: expected an RNN, LSTM or GRU, or a model"):
        inspect.precision(np.zeros(3), x)
    with pytest.raises(ValueError, match="batches: expected at least one"):
        inspect.precision(layer, [])
    with pytest.raises(TypeError, match="precisions: expected a sequence"):
        inspect.precision(layer, x, precisions="int8")
    with pytest.raises(TypeError, match="precisions: expected str or sequences of str, got int"):
        inspect.precision(layer, x, precisions=[8])
    with pytest.raises(ValueError, match="precision: expected one of"):
        inspect.precision(layer, x, precisions=["int4"])
    with pytest.raises(ValueError, match="rounds"):
        inspect.precision(layer, x, rounds=0)
