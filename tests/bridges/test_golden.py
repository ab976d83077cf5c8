"""fastrnn against what PyTorch, Keras and ONNX computed, as kept in tests/golden (see make_golden.py there)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastrnn

FILES = sorted((Path(__file__).parents[1] / "golden").glob("*.npz"))


class Golden:
    """One golden file: its arrays, the layer that it is about, and the comparison at its tolerance."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.arrays = {name: file[name] for name in file.files}
        self.made_by = str(self.arrays["made_by"])
        self.config = json.loads(str(self.arrays["config"]))
        self.has_gradients = "dy" in self.arrays
        self.lengths = self.arrays.get("lengths")

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): a for name, a in self.arrays.items() if name.startswith(prefix)}

    def state(self, h: str, c: str) -> Any:
        """The arrays of these names as the state is passed: (h, c) for an LSTM, else h."""
        return (self.arrays[h], self.arrays[c]) if self.config["cell"] == "LSTM" else self.arrays[h]

    def layer(self) -> Any:
        config = self.config
        cell, dtype = getattr(fastrnn, config["cell"]), np.dtype(config["dtype"])
        layer = cell(config["input_size"], config["hidden_size"], **config["kwargs"], dtype=dtype)
        layer.load_state_dict(self.group("param/"))
        return layer

    def check(self, kind: str, name: str, actual: np.ndarray) -> None:
        expected, tolerance = self.arrays[name], self.config["tolerance"][kind]
        assert actual.dtype == expected.dtype, name
        # An element that is small because large terms cancel has the error of the large terms.
        scale = max(1.0, float(np.abs(expected).max(initial=0)))
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * scale, err_msg=name)

    def check_state(self, kind: str, names: tuple[str, str], state: Any) -> None:
        assert isinstance(state, tuple) == (self.config["cell"] == "LSTM")
        for name, part in zip(names, state if isinstance(state, tuple) else (state,), strict=False):
            self.check(kind, name, part)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def test_every_framework_is_represented() -> None:
    assert FILES, "tests/golden has no .npz files: run tests/golden/make_golden.py"
    frameworks = {Golden(path).made_by.split()[0] for path in FILES}
    assert frameworks == {"torch", "keras", "onnx", "onnxruntime"}


def test_outputs(golden: Golden, engine: Any) -> None:
    y, state = golden.layer()(golden.arrays["x"], golden.state("h0", "c0"), lengths=golden.lengths)
    golden.check("output", "y", y)
    golden.check_state("output", ("h_n", "c_n"), state)


def test_outputs_and_gradients_of_training(golden: Golden, engine: Any) -> None:
    layer = golden.layer()
    y, state, tape = layer.forward(golden.arrays["x"], golden.state("h0", "c0"), lengths=golden.lengths)
    golden.check("output", "y", y)
    golden.check_state("output", ("h_n", "c_n"), state)

    if not golden.has_gradients:  # ONNX is about inference
        return
    grads = layer.backward(tape, golden.arrays["dy"], golden.state("dh_n", "dc_n"))
    golden.check("gradient", "grad/x", grads.x)
    golden.check_state("gradient", ("grad/h0", "grad/c0"), grads.state)
    assert set(grads.params) == set(layer.params)
    expected = golden.group("grad/param/")
    # Keras has no second bias, so its gradient is the one thing that a file may lack.
    assert all(name.startswith("bias_hh") for name in set(grads.params) - set(expected))
    for name in expected:
        golden.check("gradient", f"grad/param/{name}", grads.params[name])
