"""fastrnn.load of the files of others: .keras and .h5 through h5py, .pt through PyTorch, and without these."""

import io
import json
import pickle
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn import GRU, LSTM, RNN, weights

F = np.float32


def assert_same(found: Any, layer: Any) -> None:
    assert repr(found) == repr(layer)
    for name, value in layer.params.items():
        np.testing.assert_array_equal(found.params[name], value)


def one_bias(layer: Any) -> Any:
    """The layer, with the zeros that Keras's single bias becomes."""
    for name, value in layer.params.items():
        if name.startswith("bias_hh"):
            value[...] = 0
    return layer


# ---- Keras, without Keras: files as it lays them out -----------------------------------------------------------------

LAYERS = {
    "enc": one_bias(LSTM(3, 4, batch_first=True, rng=0)),
    "both": GRU(4, 4, bidirectional=True, batch_first=True, rng=1),
    "before": one_bias(GRU(4, 4, reset_after=False, batch_first=True, rng=2)),
    "relu": one_bias(RNN(4, 2, nonlinearity="relu", batch_first=True, rng=3)),
    "stack": one_bias(LSTM(2, 4, 12, batch_first=True, rng=4)),
}


def described(name: str) -> dict[str, Any]:
    """A layer's configuration."""
    layer = LAYERS[name]
    kind = {RNN: "SimpleRNN"}.get(type(layer), type(layer).__name__)
    config = {"name": name, "units": 4, "go_backwards": False, "activation": "tanh"}
    if kind == "SimpleRNN":
        config["activation"] = layer.cell.nonlinearity
    else:
        config["recurrent_activation"] = "sigmoid"
    if kind == "GRU":
        config["reset_after"] = layer.cell.reset_after
    if name == "stack":
        cells = [{"class_name": "LSTMCell", "config": config | {"name": f"c{k}"}} for k in range(layer.num_layers)]
        return {
            "class_name": "RNN",
            "config": {"name": name, "cell": {"class_name": "StackedRNNCells", "config": {"cells": cells}}},
        }
    if name == "both":
        inner = {"class_name": kind, "config": config | {"name": "forward_both"}}
        return {"class_name": "Bidirectional", "config": {"name": name, "merge_mode": "concat", "layer": inner}}
    return {"class_name": kind, "config": config}


def cells(name: str) -> dict[str, list[Any]]:
    """A layer's arrays by the group of the cell in Keras 3."""
    lists = weights.to_keras(LAYERS[name])
    if name == "both":
        return {"forward_layer/cell": lists[0][:3], "backward_layer/cell": lists[0][3:]}
    if name == "stack":
        return {f"cell/cells/lstm_cell{f'_{k}' if k else ''}": arrays for k, arrays in enumerate(lists)}
    return {"cell": lists[0]}


def keras_3(root: Any) -> None:
    for k, name in enumerate(LAYERS):
        root.create_group(f"layers/layer_{k}/vars").attrs["name"] = name
        for group, arrays in cells(name).items():
            for n, a in enumerate(arrays):
                root[f"layers/layer_{k}/{group}/vars/{n}"] = a
        root.create_group(f"layers/layer_{k}/{group}/seed_generator/vars")["0"] = np.zeros(2, np.uint32)
    root["layers/dense/vars/0"], root["layers/dense/vars/1"] = np.zeros((4, 2), F), np.zeros(2, F)


def keras_2(root: Any, end: str = ":0") -> None:
    groups = {"forward_layer/cell": "forward_gru/gru_cell", "backward_layer/cell": "backward_gru/gru_cell_1"}
    for name in LAYERS:
        for group, arrays in cells(name).items():
            group = groups.get(group, group.replace("cell/cells", "stacked_rnn_cells"))
            group = "lstm_cell" if group == "cell" else group
            for array, a in zip(("kernel", "recurrent_kernel", "bias"), arrays, strict=False):
                root[f"model_weights/{name}/{name}/{group}/{array}{end}"] = a
    root["model_weights/dense/dense/kernel:0"] = np.zeros((4, 2), F)


CONFIG = {"class_name": "Functional", "config": {"name": "model", "layers": [described(name) for name in LAYERS]}}


def write(path: Path, fill: Any = keras_3, config: Any = CONFIG) -> Path:
    """Write a file of Keras's; its name says of which kind."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    target = io.BytesIO() if path.suffix == ".keras" else path
    with h5py.File(target, "w") as root:
        fill(root)
        if path.suffix == ".h5" and config is not None:
            root.attrs["model_config"] = config if isinstance(config, str) else json.dumps(config)
    if path.suffix == ".keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
            archive.writestr("model.weights.h5", target.getvalue())
    return path


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("kind", ["m.keras", "m.weights.h5", "old.h5", "new.h5"])
def test_layers_of_keras_files(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    fill = {"old.h5": keras_2, "new.h5": lambda root: keras_2(root, "")}.get(kind, keras_3)
    write(path, fill, None if "weights" in kind else CONFIG)
    options = {"nonlinearity": "relu"} if name == "relu" and "weights" in kind else {}
    assert_same(fastrnn.load(path, name, **options), LAYERS[name])


def test_the_only_layer_needs_no_name(tmp_path: Path) -> None:
    def fill(root: Any) -> None:
        root["layers/lstm/cell/vars/0"], root["layers/lstm/cell/vars/1"] = (
            a.T for a in LSTM(3, 4, bias=False, rng=0).params.values()
        )

    layer = fastrnn.load(write(tmp_path / "m.weights.h5", fill, None), batch_first=False, kind="lstm", dtype=np.float64)
    assert repr(layer) == "LSTM(3, 4, bias=False, dtype=float64)"
    with pytest.raises(ValueError, match=r"m\.weights\.h5: kind: expected weights of 'gru'"):
        fastrnn.load(tmp_path / "m.weights.h5", kind="gru")


def changed(name: str, **options: Any) -> dict[str, Any]:
    layer = described(name)
    layer["config"].update(options)
    return {"class_name": "Sequential", "config": {"layers": [layer]}}


@pytest.mark.parametrize(
    ("prefix", "config", "says"),
    [
        ("", CONFIG, "prefix: expected the name of a recurrent layer, got ''; there are: 'before', 'both'"),
        ("dense", CONFIG, "got 'dense'; there are"),
        ("enc", changed("enc", activation="relu"), "expected activation='tanh'"),
        ("enc", changed("enc", activation={"class_name": "mine"}), "expected activation='tanh'"),
        ("enc", changed("enc", recurrent_activation="hard_sigmoid"), "expected recurrent_activation='sigmoid'"),
        ("enc", changed("enc", go_backwards=True), "go_backwards=True"),
        ("both", changed("both", merge_mode="sum"), "merge_mode='concat', got 'sum'"),
        ("before", changed("before", reset_after=True), "reset_after=True: expected biases"),
        ("stack", changed("stack", cell=None), "TypeError"),
        ("enc", "[" * 100000, "nested too deeply"),
        ("enc", "1", "expected a JSON object"),
    ],
)
def test_what_fastrnn_does_not_have(prefix: str, config: Any, says: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.keras", keras_3, config)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        fastrnn.load(path, prefix)
    assert says in str(caught.value)


def test_hostile_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    secret = write(tmp_path / "secret.h5", keras_3)
    (tmp_path / "raw").write_bytes(bytes(1000))

    def external_link(root: Any) -> None:
        root["layers"] = h5py.ExternalLink(secret, "layers")

    def soft_link(root: Any) -> None:
        keras_3(root)
        root.move("layers", "others")
        root["layers"] = h5py.SoftLink("/others")
        root["others/layer_0/cell/vars"].move("0", "9")
        root["others/layer_0/cell/vars/0"] = h5py.ExternalLink(secret, "layers/layer_0/cell/vars/0")

    def external_storage(root: Any) -> None:
        root.create_dataset("layers/lstm/cell/vars/0", (3, 16), F, external=[(str(tmp_path / "raw"), 0, 192)])
        root["layers/lstm/cell/vars/1"] = np.zeros((4, 16), F)

    def virtual(root: Any) -> None:
        layout = h5py.VirtualLayout((3, 16), F)
        layout[:] = h5py.VirtualSource(secret, "layers/layer_0/cell/vars/0", (3, 16))
        root.create_virtual_dataset("layers/lstm/cell/vars/0", layout)
        root["layers/lstm/cell/vars/1"] = np.zeros((4, 16), F)

    def bomb(root: Any) -> None:
        options = {"chunks": (1024, 1024), "compression": "gzip"}
        root.create_dataset("layers/lstm/cell/vars/0", (1 << 14, 1 << 14), F, **options)
        root.create_dataset("layers/lstm/cell/vars/1", (1 << 20, 1 << 20), F, **options)

    def circle(root: Any) -> None:
        group = root.create_group("layers/a")
        group["a"], group["b"], group["c"] = group, group, root["layers"]

    def objects(root: Any) -> None:
        root["layers/lstm/cell/vars/0"], root["layers/lstm/cell/vars/1"] = np.zeros((4, 16), F), ["text"]

    for fill, says in (
        (external_link, "none"), (soft_link, "expected"), (external_storage, "in this file"),
        (virtual, "in this file"), (bomb, "max_bytes"), (circle, "none"), (objects, "in this file"),
    ):  # fmt: skip
        path = write(tmp_path / f"{fill.__name__}.h5", fill, None)
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            fastrnn.load(path, "" if fill is not soft_link else "enc")
        assert says in str(caught.value), fill


def test_damaged_files_of_keras(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("m.keras", "m.h5"):
        path = write(tmp_path / kind)
        whole = path.read_bytes()
        for trial in range(12):
            broken = bytearray(whole[: rng.integers(len(whole))] if trial % 4 == 0 else whole)
            for place in rng.integers(len(broken), size=trial % 4) if broken else ():
                broken[place] = rng.integers(256)
            path.write_bytes(broken)
            try:
                fastrnn.load(path, "enc")
            except ValueError as error:
                assert str(path) in str(error)  # noqa: PT017


# ---- PyTorch ---------------------------------------------------------------------------------------------------------


def test_state_dicts_of_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    theirs = torch.nn.GRU(3, 4, 2, bidirectional=True)
    path = tmp_path / "model.pt"
    for legacy in (False, True):
        torch.save({"model": {f"rnn.{k}": v for k, v in theirs.state_dict().items()}, "epoch": 3}, path,
                   _use_new_zipfile_serialization=not legacy)  # fmt: skip
        layer = fastrnn.load(path, "model.rnn.")
        assert_same(layer, weights.from_torch({k: v.detach().numpy() for k, v in theirs.state_dict().items()}))
    with pytest.raises(ValueError, match=r"model\.pt: prefix: .* there: 'model.rnn.'"):
        fastrnn.load(path)


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploded"),))


def test_hostile_files_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "m.pth"

    def refused(says: str) -> None:
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            fastrnn.load(path)
        assert says in str(caught.value)
        assert len(str(caught.value)) < 1000

    path.write_bytes(pickle.dumps(Bomb()))
    refused("weights_only")
    torch.save(Bomb(), path)
    refused("weights_only")
    assert not Path("exploded").exists()
    torch.save({"weight_ih_l0": torch.zeros(1).expand(1 << 40), "weight_hh_l0": torch.zeros(1)}, path)
    refused("no larger than its storage")
    whole = io.BytesIO()
    torch.save({"weight_ih_l0": torch.zeros(1 << 25)}, whole)
    with zipfile.ZipFile(whole) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as deflated:
        for name in stored.namelist():
            deflated.writestr(name, stored.read(name))
    refused("max_bytes")
    torch.save({"weight_ih_l0": torch.zeros(12, 2)}, path)
    damaged = path.read_bytes()
    for size in range(0, len(damaged), 37):
        path.write_bytes(damaged[:size])
        refused("")


# ---- Where the package is missing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "name", "says"),
    [
        ("torch", "m.pt", r"m\.pt: needs PyTorch .*safetensors\.torch\.save_file"),
        ("h5py", "m.keras", r"m\.keras: needs h5py .*fastrnn\.weights\.from_keras"),
        ("h5py", "m.h5", r"m\.h5: needs h5py .*fastrnn\.weights\.from_keras"),
    ],
)
def test_missing_packages_are_said_with_a_way_without(
    package: str, name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=says):
        fastrnn.load(name)


def test_suffixes_that_are_said() -> None:
    with pytest.raises(ValueError, match=r"path: .* \.npz, \.safetensors, \.pt, \.pth, \.keras, \.h5, got 'm\.bin'"):
        fastrnn.load("m.bin")
