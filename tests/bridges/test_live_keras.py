"""fastrnn against Keras 3, live, where it is installed; else these tests skip.

Keras's layers draw their own weights, fastrnn takes them by `weights.from_keras`, and both run; back again, a new Keras
layer gets them by `to_keras`. Keras runs on whichever backend KERAS_BACKEND names, or on one that is installed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_here import imported

import fastrnn
from fastrnn import weights

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # Keras's own

TOLERANCE = 2e-5  # float32; backends' own products and nonlinearities differ by as much among themselves


@pytest.fixture(scope="module")
def keras() -> Any:
    return imported()


LAYERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # Keras's class, its options, ours
    "lstm": ("LSTM", {}, {}),
    "lstm without bias": ("LSTM", {"use_bias": False}, {}),
    "gru after": ("GRU", {"reset_after": True}, {}),
    "gru before": ("GRU", {"reset_after": False}, {}),
    "gru before without bias": ("GRU", {"reset_after": False, "use_bias": False}, {"reset_after": False}),
    "rnn": ("SimpleRNN", {}, {}),
    "rnn relu": ("SimpleRNN", {"activation": "relu"}, {"nonlinearity": "relu"}),
}


def built(keras: Any, name: str, bidirectional: bool, input_size: int, rng: np.random.Generator) -> Any:
    """A Keras layer with random weights, biases too."""
    kind, options, _ = LAYERS[name]
    layer = getattr(keras.layers, kind)(9, return_sequences=True, return_state=True, **options)
    layer = keras.layers.Bidirectional(layer) if bidirectional else layer
    layer.build((None, None, input_size))
    layer.set_weights([rng.uniform(-0.5, 0.5, w.shape).astype(np.float32) for w in layer.get_weights()])
    return layer


def run(keras: Any, layer: Any, x: np.ndarray, mask: np.ndarray | None = None) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(a) for a in layer(keras.ops.convert_to_tensor(x), mask=mask)]


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_weights_both_ways(keras: Any, name: str, bidirectional: bool, num_layers: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 7, 5), np.float32)
    sizes = [5] + [18 if bidirectional else 9] * (num_layers - 1)
    stack = [built(keras, name, bidirectional, size, rng) for size in sizes]
    layer = weights.from_keras([keras_layer.get_weights() for keras_layer in stack], **LAYERS[name][2])
    y, state = layer(x)
    expected = x
    finals: list[np.ndarray] = []
    for keras_layer in stack:
        expected, *states = run(keras, keras_layer, expected)
        finals += states
    np.testing.assert_allclose(y, expected, rtol=TOLERANCE, atol=TOLERANCE)
    parts = state if isinstance(state, tuple) else (state,)
    for k, part in enumerate(parts):
        np.testing.assert_allclose(part, np.stack(finals[k :: len(parts)]), rtol=TOLERANCE, atol=TOLERANCE)

    for keras_layer, arrays, size in zip(stack, weights.to_keras(layer), sizes, strict=True):
        for ours, theirs in zip(arrays, keras_layer.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        built(keras, name, bidirectional, size, rng).set_weights(arrays)


@pytest.mark.parametrize("file", ["model.keras", "model.weights.h5", "model.h5"])
def test_files(keras: Any, file: str, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    layers = keras.layers
    inputs = keras.Input((6, 5))
    x = layers.LSTM(4, return_sequences=True, name="first")(inputs)
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True, dropout=0.5), name="both")(x)
    x = layers.RNN(layers.StackedRNNCells([layers.LSTMCell(4), layers.LSTMCell(4)]), True, name="stack")(x)
    model = keras.Model(inputs, layers.SimpleRNN(3, return_sequences=True, name="last")(x))
    (model.save_weights if "weights" in file else model.save)(tmp_path / file)
    for name in ("first", "both", "stack", "last"):
        layer = fastrnn.load(tmp_path / file, name)
        x = np.random.default_rng(0).standard_normal((2, 6, layer.input_size), np.float32)
        expected = keras.ops.convert_to_numpy(model.get_layer(name)(keras.ops.convert_to_tensor(x)))
        np.testing.assert_allclose(layer(x)[0], expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_lengths_are_masks(keras: Any) -> None:
    rng = np.random.default_rng(1)
    x, lengths = rng.standard_normal((3, 6, 5), np.float32), np.array([6, 2, 4])
    keras_layer = built(keras, "gru after", True, 5, rng)
    for inner in (keras_layer.forward_layer, keras_layer.backward_layer):
        inner.zero_output_for_mask = True
    expected = run(keras, keras_layer, x, np.arange(6) < lengths[:, None])[0]
    y, _ = weights.from_keras(keras_layer.get_weights())(x, lengths=lengths)
    np.testing.assert_allclose(y, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("direction", ["forwards", "backwards", "both"])
@pytest.mark.parametrize("name", LAYERS)
def test_masks(keras: Any, name: str, direction: str, zeros: bool) -> None:
    """Anywhere in a sequence: padding before it, gaps, padding after it, all of these, and nothing valid at all."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((5, 8, 5), np.float32)
    mask = np.array([[0, 0, 0, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0, 0, 0]], bool)
    mask = np.concatenate([mask, [mask[0] & mask[1][::-1], np.zeros(8, bool)]])
    keras_layer = built(keras, name, direction == "both", 5, rng)
    inner = [keras_layer.forward_layer, keras_layer.backward_layer] if direction == "both" else [keras_layer]
    for layer in inner:
        layer.zero_output_for_mask = zeros
        if direction == "backwards":
            layer.go_backwards = True
    expected = run(keras, keras_layer, x, mask)
    if direction == "backwards":  # Keras gives the outputs in running order
        x, mask = x[:, ::-1], mask[:, ::-1]
    layer = weights.from_keras(keras_layer.get_weights(), **LAYERS[name][2])
    y, state = layer(x, mask=mask, masked_output="zero" if zeros else "hold")
    np.testing.assert_allclose(y, expected[0], rtol=TOLERANCE, atol=TOLERANCE)
    states = state if isinstance(state, tuple) else (state,)
    for k, part in enumerate(states):
        np.testing.assert_allclose(part, np.stack(expected[1:][k :: len(states)]), rtol=TOLERANCE, atol=TOLERANCE)
