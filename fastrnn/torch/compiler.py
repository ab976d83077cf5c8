"""What torch.compile is told of our layers, as soon as it is there: to import it takes a second.

It breaks its graph wherever it meets a recurrent layer, unless a switch of its configuration is set. PyTorch's own
layers cannot be compiled for training with that switch; ours can (fastrnn/torch/operators.py), so it is set while
torch.compile looks at one of ours. A release in which this is not possible breaks its graph: then the layers run in
between, as they do uncompiled. Besides, torch.compile is told which functions it is not to trace.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["constant", "eagerly", "prepare"]

_constants: list[Callable[..., Any]] = []
_eager: dict[Callable[..., Any], Callable[..., Any]] = {}
_classes: list[type] = []


def constant(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function that torch.compile is to call, with constants, instead of tracing it: a decorator."""
    _constants.append(function)
    return function


def eagerly(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function from code that is compiled. The graph breaks, and the function runs as it does uncompiled."""
    return _eager[function](*args)


def prepare(layers: type, *functions: Callable[..., Any]) -> None:
    """Tell torch.compile, now or when it is imported, of our layers' class and what `eagerly` may be called with."""
    _classes.append(layers)
    _eager.update(zip(functions, functions, strict=True))
    if "torch._dynamo" in sys.modules:
        _tell()
    else:
        sys.meta_path.insert(0, _BeforeImport())


def _tell() -> None:
    for function in _constants:
        torch.compiler.assume_constant_result(function)
    for function in _eager:
        _eager[function] = torch.compiler.disable(function, reason="the shapes of this call depend on values")
    try:
        _allow_layers()
    except (ImportError, AttributeError):
        pass


def _allow_layers() -> None:
    """Set the switch while torch.compile looks at one of our layers."""
    from torch._dynamo import config
    from torch._dynamo.variables.builder import VariableBuilder

    wrap, patch = VariableBuilder.wrap_module, config.patch
    if not hasattr(config, "allow_rnn"):  # it has never refused
        return

    def wrap_module(self: Any, value: torch.nn.Module) -> Any:
        if not isinstance(value, tuple(_classes)):
            return wrap(self, value)
        with patch(allow_rnn=True):
            return wrap(self, value)

    VariableBuilder.wrap_module = wrap_module


class _BeforeImport(importlib.abc.MetaPathFinder):
    """Has `_tell` called at the end of the import."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """How to import the package; None for all others."""
        if name != "torch._dynamo":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_tell(module: Any) -> None:
                execute(module)
                _tell()

            spec.loader.exec_module = execute_and_tell  # type: ignore[method-assign]
        return spec
