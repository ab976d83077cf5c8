"""fastrnn.nn.from_keras: whole models of Keras, from the model and from its files, predict the same here."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_here import imported

from fastrnn import nn
from fastrnn.data import Batch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # Keras's own

T, B = 9, 7
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 20, (B, T))  # zeros anywhere
PADDED = np.where(np.arange(T) < RNG.integers(0, T + 1, (B, 1)), IDS, 0)
FEATURES = RNG.standard_normal((B, T, 4)).astype(np.float32)
FEATURES[RNG.random((B, T)) < 0.3] = -1


@pytest.fixture(scope="module")
def keras() -> Any:
    return imported()


def randomised(model: Any) -> Any:
    rng = np.random.default_rng(3)
    arrays = [np.asarray(a) for a in model.get_weights()]
    model.set_weights([rng.uniform(-0.5, 0.5, a.shape).astype(a.dtype) if a.dtype.kind == "f" else a for a in arrays])
    return model


def classifier(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential([
        keras.Input((None,)), layers.Embedding(20, 5, mask_zero=True),
        layers.Bidirectional(layers.LSTM(4, return_sequences=True, dropout=0.2)), layers.Dropout(0.3), layers.LSTM(3),
        layers.Dense(4, activation="relu"), layers.Dense(1, activation="sigmoid"),
    ])  # fmt: skip


def tagger(keras: Any) -> Any:
    layers = keras.layers
    x = keras.Input((T,))
    y = layers.Embedding(20, 8, mask_zero=True, name="table")(x)
    y = layers.Bidirectional(layers.GRU(4, return_sequences=True), merge_mode="sum", name="both")(y)
    y = layers.GRU(6, return_sequences=True, use_bias=False)(y)
    y = layers.TimeDistributed(layers.Dense(5, activation="tanh"))(y)
    return keras.Model(x, layers.Dense(3, activation="softmax", name="output")(y))


def regressor(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential([
        keras.Input((None, 4)), layers.Masking(-1.0), layers.Dense(3, activation="tanh"),
        layers.GRU(4, return_sequences=True, go_backwards=True, reset_after=False),
        layers.SimpleRNN(4, activation="relu", return_sequences=True, zero_output_for_mask=True),
        layers.Bidirectional(layers.LSTM(3), merge_mode="mul"), layers.Dense(2),
    ])  # fmt: skip


def without_mask(keras: Any) -> Any:
    layers = keras.layers
    x = keras.Input((T, 4))
    y = layers.LSTM(4, return_sequences=True, go_backwards=True)(x)
    return keras.Model(x, layers.Activation("softmax")(layers.Dense(3)(layers.GRU(4)(y))))


MODELS = {"classifier": (classifier, [IDS, PADDED]), "tagger": (tagger, [IDS, PADDED])} | {
    "regressor": (regressor, [FEATURES]),
    "without mask": (without_mask, [FEATURES]),
}


def swapped(a: np.ndarray) -> np.ndarray:
    return a.swapaxes(0, 1)


@pytest.mark.parametrize("name", MODELS)
def test_predictions(keras: Any, name: str, tmp_path: Path) -> None:
    make, inputs = MODELS[name]
    theirs = randomised(make(keras))
    ours = nn.from_keras(theirs)
    for x in inputs:
        expected = theirs.predict(x, verbose=0)
        y = ours(swapped(x))
        np.testing.assert_allclose(swapped(y) if y.ndim == 3 else y, expected, rtol=1e-5, atol=1e-6)
    x = swapped(inputs[0])
    ours.save(tmp_path / "ours.npz")
    np.testing.assert_array_equal(nn.load(tmp_path / "ours.npz")(x), ours(x))
    frozen = ours.freeze("int8")
    np.testing.assert_allclose(frozen(x), ours(x), atol=0.01)
    frozen.save(tmp_path / "int8.safetensors")
    np.testing.assert_array_equal(nn.load(tmp_path / "int8.safetensors")(x), frozen(x))
    pytest.importorskip("h5py", reason="h5py is not installed")
    for file in {"classifier": ("theirs.keras",), "tagger": ("theirs.h5",)}.get(name, ()):
        theirs.save(tmp_path / file)
        again = nn.from_keras(tmp_path / file)
        assert repr(again) == repr(ours)
        for key, value in ours.params.items():
            np.testing.assert_array_equal(again.params[key], value)


def test_training_goes_on(keras: Any) -> None:
    """The loss and its gradients are those of Keras, which leaves hidden steps out, too."""
    if keras.config.backend() != "torch":
        pytest.skip("Keras's gradients are taken on the backend torch")
    import torch

    x, classes = IDS, np.random.default_rng(5).integers(0, 3, (B, T))
    cases = (
        (randomised(tagger(keras)), keras.losses.SparseCategoricalCrossentropy(), swapped(classes), classes),
        (randomised(classifier(keras)), keras.losses.BinaryCrossentropy(), classes[:, 0] % 2, classes[:, :1] % 2),
    )
    for theirs, criterion, y, targets in cases:
        ours = nn.from_keras(theirs)
        for part in ours.parts.values():
            if isinstance(part, nn.Dropout):
                part.probability = 0.0
        batch = Batch(x=swapped(x), x_lengths=None, y=y)
        found = ours.loss_and_grads(batch, rng=0)
        assert found.value == pytest.approx(ours.loss(batch).value, rel=1e-5)
        outputs = theirs(torch.from_numpy(x))
        loss = criterion(torch.from_numpy(targets), outputs)
        assert found.value == pytest.approx(float(loss), rel=1e-5)
        loss.backward()
        table = theirs.layers[0] if theirs.layers[0].name.startswith("embedding") else theirs.get_layer("table")
        name = next(name for name in found.grads if name.endswith(f"{table.name}.weight"))
        np.testing.assert_allclose(
            np.asarray(found.grads[name]), table.embeddings.value.grad.numpy(), rtol=1e-3, atol=1e-6
        )


def test_file_without_keras(keras: Any, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    theirs = randomised(classifier(keras))
    theirs.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", swapped(IDS))
    program = (
        "import sys; sys.modules['keras'] = None; import numpy as np; from fastrnn import nn\n"
        "np.save('y.npy', nn.from_keras('model.keras')(np.load('x.npy')))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), theirs.predict(IDS, verbose=0), rtol=1e-5, atol=1e-6)


REFUSED: dict[str, tuple[Any, str]] = {
    "a layer": (lambda k, x: k.layers.Conv1D(3, 2, name="odd")(x), r"layer 'odd' \(Conv1D\): expected one of Masking"),
    "an activation": (lambda k, x: k.layers.Dense(3, "gelu", name="odd")(x), "'odd' .*activation linear, tanh.*'gelu'"),
    "of a cell": (lambda k, x: k.layers.LSTM(3, activation="elu", name="odd")(x), "'odd' .*activation='tanh'"),
    "stateful": (lambda k, x: k.layers.GRU(3, stateful=True, name="odd")(x), "'odd' .*stateful=False"),
    "a branch": (
        lambda k, x: k.layers.Add(name="odd")([x, k.layers.Dense(4)(x)]),
        "'odd': expected one that reads one",
    ),
    "no merging": (
        lambda k, x: k.layers.Bidirectional(k.layers.LSTM(3), merge_mode=None, name="odd")(x)[0],
        "'odd' .*merge_mode 'concat', 'sum', 'ave' or 'mul', got None",
    ),
    "another mask": (
        lambda k, x: k.layers.LSTM(3, name="odd")(x, mask=k.ops.not_equal(x[:, :, 0], 2.0)),
        "expected layers that are one chain",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_carried_over(keras: Any, name: str) -> None:
    make, message = REFUSED[name]
    x = keras.Input(batch_shape=(2, T, 4))
    with pytest.raises(ValueError, match=message):
        nn.from_keras(keras.Model(x, make(keras, x)))


def test_wrong_files(keras: Any, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    with pytest.raises(TypeError, match=r"model: expected a keras.Model or a path, got int"):
        nn.from_keras(3)
    with pytest.raises(ValueError, match=r"ends in .keras or .h5"):
        nn.from_keras("model.npz")
    with pytest.raises(FileNotFoundError):
        nn.from_keras(tmp_path / "none.keras")
    model = randomised(classifier(keras))
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match=r"model.weights.h5: .*got weights alone"):
        nn.from_keras(tmp_path / "model.weights.h5")
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config, data = json.loads(archive.read("config.json")), archive.read("model.weights.h5")
    for change, message in (
        (lambda layers: layers[1]["config"].pop("name"), "KeyError"),
        (
            lambda layers: layers[-1]["config"].update(units="many", use_bias=False),
            "expected 1 arrays of weights, got 2",
        ),
    ):
        changed = json.loads(json.dumps(config))
        change(changed["config"]["layers"])
        with zipfile.ZipFile(tmp_path / "bad.keras", "w") as archive:
            archive.writestr("config.json", json.dumps(changed))
            archive.writestr("model.weights.h5", data)
        with pytest.raises(ValueError, match=f"bad.keras: .*{message}"):
            nn.from_keras(tmp_path / "bad.keras")
