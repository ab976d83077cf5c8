"""fastrnn.keras: accelerated models of Keras compute what they did before, on each of its backends.

The tests run on the backend of this process; `test_other_backends` runs them on the others, each in a process of its
own, where these are installed.
"""

import copy
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_here import imported

import fastrnn

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # Keras's own

TOLERANCE = {"float32": 2e-6, "float64": 1e-12, "bfloat16": 0.03}
B, T, I, H = 5, 7, 3, 4
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("LSTM", {}),
    "lstm without bias": ("LSTM", {"use_bias": False, "implementation": 1}),
    "gru": ("GRU", {}),
    "gru before": ("GRU", {"reset_after": False}),
    "rnn relu": ("SimpleRNN", {"activation": "relu"}),
}
MASKS = {
    "no mask": None,
    "suffix": np.arange(T) < np.array([3, T, 1, 0, 5])[:, None],
    "anywhere": np.array([[0, 0, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0, 0], [1] * T, [0] * T], bool),
}


@pytest.fixture(scope="module")
def keras() -> Any:
    return imported()


@pytest.fixture(scope="module")
def bridge(keras: Any) -> Any:
    import fastrnn.keras

    return fastrnn.keras


def randomised(layer: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(a) for a in layer.get_weights()]
    layer.set_weights([rng.uniform(-0.5, 0.5, a.shape).astype(a.dtype) if a.dtype.kind == "f" else a for a in arrays])
    return layer


def made(keras: Any, name: str, wrap: Any = "alone", **options: Any) -> Any:
    kind, own = LAYERS[name]
    layer = getattr(keras.layers, kind)(H, **own, **options)
    layer = layer if wrap == "alone" else keras.layers.Bidirectional(layer, merge_mode=wrap)
    layer.build((B, T, I))
    return randomised(layer)


def numbers(keras: Any, values: Any) -> list[np.ndarray]:
    to_numpy = keras.ops.convert_to_numpy
    return [to_numpy(keras.ops.cast(keras.ops.stop_gradient(v), "float64")) for v in keras.tree.flatten(values)]


def compare(
    keras: Any, bridge: Any, layer: Any, dtype: str = "float32", runs_on: str = "fastrnn", **given: Any
) -> None:
    """A call of a layer, before and after, and what is said of it."""
    x = np.random.default_rng(1).standard_normal((B, T, I))
    given = {"sequences": keras.ops.convert_to_tensor(x, dtype=dtype)} | given
    expected = numbers(keras, layer(**given))
    bridge.accelerate(layer)
    found = numbers(keras, layer(**given))
    assert {part.runs_on for part in bridge.explain(layer)} == {runs_on}, bridge.explain(layer)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    bridge.restore(layer)


CASES = [
    (name, mask, wrap, options)
    for k, name in enumerate(LAYERS)
    for n, mask in enumerate(MASKS)
    for wrap, options in (
        ("alone", {"return_sequences": True, "return_state": True, "zero_output_for_mask": (k + n) % 2 == 0}),
        ("alone", {"return_sequences": bool(n % 2), "go_backwards": True}),
        (("concat", "sum", "ave", "mul", None)[(k + n) % 5], {"return_sequences": k % 2 == 0, "return_state": True}),
    )
]


@pytest.mark.parametrize(("name", "mask", "wrap", "options"), CASES)
def test_layers(keras: Any, bridge: Any, name: str, mask: str, wrap: Any, options: dict[str, Any]) -> None:
    layer = made(keras, name, wrap, **options)
    given: dict[str, Any] = {} if MASKS[mask] is None else {"mask": keras.ops.convert_to_tensor(MASKS[mask])}
    if "return_state" in options:  # with an initial state, which may show where nothing has run yet
        count = (1 + (LAYERS[name][0] == "LSTM")) * (1 if wrap == "alone" else 2)
        rng = np.random.default_rng(2)
        states = [keras.ops.convert_to_tensor(rng.standard_normal((B, H)).astype(np.float32)) for _ in range(count)]
        given["initial_state"] = states
    compare(keras, bridge, layer, **given)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_dtypes(keras: Any, bridge: Any, dtype: str) -> None:
    if dtype == "float64" and keras.config.backend() in ("jax", "numpy"):
        pytest.skip("JAX has no float64 by default, and Keras's backend NumPy rounds in between")
    compare(keras, bridge, made(keras, "gru", dtype=dtype, return_sequences=True, recurrent_initializer="zeros"), dtype)
    if dtype == "bfloat16":
        compare(keras, bridge, made(keras, "lstm", "concat", dtype="mixed_bfloat16"), dtype)


def test_a_stateful_layer_goes_on(keras: Any, bridge: Any) -> None:
    x = np.random.default_rng(0).standard_normal((B, T, I)).astype(np.float32)
    layers = [made(keras, "lstm", stateful=True) for _ in range(2)]
    bridge.accelerate(layers[1])
    for _ in range(2):
        (a,), (b,) = (numbers(keras, layer(keras.ops.convert_to_tensor(x))) for layer in layers)
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


REFUSED: dict[str, Any] = {
    "activation": lambda layers: layers.LSTM(H, activation="elu"),
    "recurrent activation": lambda layers: layers.GRU(H, recurrent_activation="hard_sigmoid"),
    "stacked cells": lambda layers: layers.RNN([layers.LSTMCell(H), layers.LSTMCell(H)]),
    "a subclass": lambda layers: type("Own", (layers.LSTM,), {})(H),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_stays_with_keras(keras: Any, bridge: Any, name: str) -> None:
    layer = REFUSED[name](keras.layers)
    layer.build((B, T, I))
    compare(keras, bridge, layer, runs_on="keras")
    (placement,) = bridge.explain(layer)
    assert placement.why


def model_of(keras: Any) -> Any:
    layers = keras.layers
    keras.utils.set_random_seed(3)
    model = keras.Sequential([
        keras.Input((T,)), layers.Embedding(20, 5, mask_zero=True),
        layers.Bidirectional(layers.LSTM(4, return_sequences=True)), layers.GRU(3), layers.Dense(2, "softmax"),
    ])  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def ids() -> np.ndarray:
    x = np.random.default_rng(0).integers(1, 20, (12, T))
    x[np.arange(T) >= np.random.default_rng(1).integers(1, T + 1, (12, 1))] = 0
    return x


def test_predict(keras: Any, bridge: Any) -> None:
    """Also where the backend compiles it."""
    x = np.random.default_rng(0).standard_normal((B, T, I)).astype(np.float32)
    model = keras.Sequential([keras.Input((T, I)), keras.layers.Bidirectional(keras.layers.LSTM(H))])
    expected = model.predict(x, verbose=0)  # now there is a compiled function to forget
    bridge.accelerate(model)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6)
    assert [part.runs_on for part in bridge.explain(model)] == ["fastrnn"] * 2


def test_a_model(keras: Any, bridge: Any, tmp_path: Path) -> None:
    """predict, fit, evaluate, weights that change, files, copies, and the way back."""
    x, y = ids(), np.arange(12) % 2
    own, model = model_of(keras), model_of(keras)
    model.predict(x, verbose=0)  # so that there is a compiled function to forget
    assert bridge.accelerate(model) is model

    def same(other: Any = model) -> None:
        a, b = other.predict(x, verbose=0), own.predict(x, verbose=0)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    same()
    assert [part.runs_on for part in bridge.explain(model)] == ["fastrnn"] * 3
    if keras.config.backend() != "numpy":
        losses = [m.fit(x, y, epochs=2, batch_size=6, shuffle=False, verbose=0).history["loss"] for m in (own, model)]
        np.testing.assert_allclose(*losses, rtol=1e-5)
        on = "fastrnn" if keras.config.backend() == "torch" else "keras"
        assert [part.runs_on for part in bridge.explain(model)] == [on] * 3
        same()
        np.testing.assert_allclose(model.evaluate(x, y, verbose=0), own.evaluate(x, y, verbose=0), rtol=1e-5)
    randomised(model, 5).save(tmp_path / "model.keras")
    own.load_weights(tmp_path / "model.keras")
    same()
    same(keras.models.load_model(tmp_path / "model.keras"))
    same(copy.deepcopy(model))
    model.get_layer(index=-1).get_weights()
    bridge.restore(model)
    assert {part.why for part in bridge.explain(model)} == {"not accelerated"}
    same()


def test_gradients_on_torch(keras: Any, bridge: Any) -> None:
    if keras.config.backend() != "torch":
        pytest.skip("of the backend torch")
    import torch

    for name, mask, wrap, options in CASES[::2]:
        layer = made(keras, name, wrap, **options)
        given = {} if MASKS[mask] is None else {"mask": torch.from_numpy(MASKS[mask])}
        found = []
        for change in (lambda layer: layer, bridge.accelerate):
            change(layer)
            x = torch.randn(B, T, I, generator=torch.Generator().manual_seed(0)).requires_grad_()
            results = keras.tree.flatten(layer(x, **given))
            loss = sum(((1 + k) * r * r).sum() for k, r in enumerate(results))
            found.append(torch.autograd.grad(loss, [x, *(w.value for w in layer.trainable_weights)]))
        assert {part.runs_on for part in bridge.explain(layer)} == {"fastrnn"}
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_second_derivatives_on_torch(keras: Any, bridge: Any) -> None:
    """Also of a GRU that resets before, which PyTorch does not have, with a mask and without."""
    if keras.config.backend() != "torch":
        pytest.skip("of the backend torch")
    import torch

    for given in ({}, {"mask": torch.from_numpy(MASKS["anywhere"])}):
        layer, found = made(keras, "gru before"), []
        for change in (lambda layer: layer, bridge.accelerate):
            change(layer)
            x = torch.randn(B, T, I, generator=torch.Generator().manual_seed(0)).requires_grad_()
            (first,) = torch.autograd.grad(layer(x, **given).square().sum(), x, create_graph=True)
            found.append(torch.autograd.grad(first.square().sum(), x)[0])
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_dropouts_are_nothing_in_inference(keras: Any, bridge: Any, name: str) -> None:
    """Layers that have them are accelerated in inference, and their weights become a layer of ours."""
    layer = made(keras, name, return_sequences=True, dropout=0.3, recurrent_dropout=0.5)
    compare(keras, bridge, layer)
    x = np.random.default_rng(1).standard_normal((B, T, I)).astype(np.float32)
    y, _ = fastrnn.weights.from_keras(layer.get_weights())(x)
    (expected,) = numbers(keras, layer(keras.ops.convert_to_tensor(x)))
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=2e-6)


def test_dropout_in_training_on_torch(keras: Any, bridge: Any) -> None:
    """Dropout of inputs draws Keras's numbers; recurrent dropout is Keras's."""
    if keras.config.backend() != "torch":
        pytest.skip("of the backend torch")
    x = keras.ops.convert_to_tensor(np.random.default_rng(1).standard_normal((B, T, I)).astype(np.float32))
    for options, runs_on in (({"dropout": 0.5}, "fastrnn"), ({"recurrent_dropout": 0.5}, "keras")):
        for name in ("gru", "lstm"):
            layers = [made(keras, name, seed=7, **options) for _ in range(2)]
            bridge.accelerate(layers[1])
            a, b = (numbers(keras, layer(x, training=True)) for layer in layers)
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
            assert bridge.explain(layers[1])[0].runs_on == runs_on


def test_transforms_on_jax(keras: Any, bridge: Any) -> None:
    """Compiled, mapped and differentiated, without `training`."""
    if keras.config.backend() != "jax":
        pytest.skip("of the backend jax")
    import jax

    layer, found = made(keras, "gru", "concat", return_sequences=True), []
    x = np.random.default_rng(1).standard_normal((2, B, T, I)).astype(np.float32)
    mask = MASKS["anywhere"]
    state = [v.value for v in layer.trainable_variables], [v.value for v in layer.non_trainable_variables]

    def loss(trainable: Any, x: Any) -> Any:
        return (layer.stateless_call(trainable, state[1], x, mask=mask)[0] ** 2).sum()

    for change in (lambda layer: layer, bridge.accelerate):
        change(layer)
        results = [jax.vmap(lambda x: loss(state[0], x))(x), jax.jit(jax.grad(loss))(state[0], x[0])]
        found.append(jax.tree.leaves([*results, jax.jit(loss)(state[0], x[1]), jax.grad(loss, 1)(state[0], x[0])]))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_wrong_arguments(bridge: Any) -> None:
    for function in (bridge.accelerate, bridge.restore, bridge.explain):
        with pytest.raises(TypeError, match=r"model: expected a keras.Model or a layer, got int"):
            function(3)


@pytest.mark.parametrize("backend", ["numpy", "jax", "tensorflow"])
def test_other_backends(keras: Any, backend: str) -> None:
    """Some of these tests in another process. (JAX and TensorFlow compile each case.)"""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    if keras.config.backend() != "torch":
        pytest.skip("this is one of them")
    chosen = "test_predict or (test_layers and anywhere)" if backend == "numpy" else "test_predict or test_transforms"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", chosen, __file__],
        env=os.environ | {"KERAS_BACKEND": backend}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
