"""Keras, imported on one of its backends, for tests of several files."""

import importlib.util
import os
from typing import Any

import pytest

__all__ = ["imported"]


def imported() -> Any:
    """Keras on the backend that KERAS_BACKEND names, or on one that is installed; else the test skips."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("Keras is not installed")
    backend = next((name for name in ("torch", "jax", "tensorflow") if importlib.util.find_spec(name)), "numpy")
    os.environ.setdefault("KERAS_BACKEND", backend)
    import keras

    keras.utils.set_random_seed(0)
    return keras
