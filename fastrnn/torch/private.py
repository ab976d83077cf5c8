"""Names of PyTorch that it does not document, looked up once, here and nowhere else.

A release may lack one of them. `missing` then has its name, and calls take a longer way: `fastrnn.torch.operators`, for
which PyTorch itself decides who computes a call. Models run in any case.
"""

from __future__ import annotations

import importlib
import operator
import warnings
from collections.abc import Callable, MutableMapping
from operator import is_
from typing import Any

import torch
from torch import Tensor

from fastrnn.pages import page
from fastrnn.torch.compiler import constant

__all__ = [
    "as_usual", "by_tensor", "flat_weights", "is_dense", "missing", "parameters", "transformed", "version", "warn",
    "weight_names",
]  # fmt: skip

missing: list[str] = []


def _find(path: str) -> Any:
    """What is at "module:name.name"; where there is nothing, None, and `missing` gets the path."""
    module, name = path.split(":")
    try:
        return operator.attrgetter(name)(importlib.import_module(module))
    except (AttributeError, ImportError):
        missing.append(path.replace(":", "."))
        return None


# Who looks on while PyTorch computes.
_tracing_state = _find("torch._C:_get_tracing_state")
_transforms = _find("torch._C:_functorch.peek_interpreter_stack")
_dispatch_modes = _find("torch._C:_len_torch_dispatch_stack")
_function_modes = _find("torch._C:_len_torch_function_stack")
_function_mode_stack = _find("torch.overrides:_get_current_function_mode_stack")
_default_device = _find("torch.utils._device:DeviceContext")
_find("torch.autograd.forward_ad:_current_level")  # a number, which changes
_forward_ad = torch.autograd.forward_ad

# Tensors.
_dispatch_keys = _find("torch._C:_dispatch_keys")
_find("torch._C:DispatchKeySet.raw_repr")
_version = _find("torch:Tensor._version.__get__")
_by_tensor = _find("torch.utils.weak:WeakTensorKeyDictionary")

# Modules.
_update_flat_weights = _find("torch.nn:RNNBase._update_flat_weights")
_attributes = ("_parameters", "_flat_weights", "_flat_weights_names")
_layer = torch.nn.RNN(1, 1, device="meta")
missing += [f"torch.nn.RNN(...).{name}" for name in _attributes if not hasattr(_layer, name)]
_has_flat_weights = not any(name.startswith("torch.nn") for name in missing)


def warn() -> None:
    """Warn if names are missing. (Python shows a warning once for each place that it comes from.)"""
    if missing:
        warnings.warn(
            f"fastrnn.torch: PyTorch {torch.__version__} has no {', '.join(missing)}. Results are the same, but calls "
            "take some 40 microseconds longer, and under torch.func PyTorch may raise errors. The releases with which "
            f"fastrnn.torch is tested are on {page('bridges')}",
            stacklevel=3,
        )


def as_usual() -> bool:
    """Whether PyTorch just computes: nothing traces, transforms or reroutes what it is told to do.

    Autocast and compilers are asked for elsewhere. False where this cannot be told.
    """
    return not (
        missing
        or _tracing_state() is not None
        or _transforms() is not None
        or _dispatch_modes()
        or _forward_ad._current_level >= 0
        or (_function_modes() and not _only_default_device())
    )


@constant
def transformed() -> bool:
    """Whether a transform of torch.func is active, also in the code that torch.compile is tracing."""
    return _transforms is not None and _transforms() is not None


def _only_default_device() -> bool:
    """Whether all modes are default devices, which do not matter to tensors that are there."""
    return all(type(mode) is _default_device for mode in _function_mode_stack())


def _raw(t: Tensor) -> Any:
    return _dispatch_keys(t).raw_repr()


_PLAIN: set[Any] = set()
if not missing:
    with torch.inference_mode():
        _PLAIN.add(_raw(torch.empty(0, device="cpu")))
    _PLAIN.add(_raw(torch.empty(0, device="cpu")))


def is_dense(t: Tensor) -> bool:
    """Whether a tensor is dense, and on the CPU, recorded or in inference mode.

    Whatever is sparse, nested, negated lazily, fake, or wrapped by a transform is dispatched with another set of keys.
    """
    if not missing:
        return _dispatch_keys(t).raw_repr() in _PLAIN
    return t.layout is torch.strided and t.device.type == "cpu" and not t.is_neg()


def _no_version(t: Tensor) -> int:
    raise RuntimeError("PyTorch counts no changes of this tensor")


version: Callable[[Tensor], int] = _version or _no_version  # a RuntimeError where changes are not counted


def by_tensor() -> MutableMapping[Tensor, Any] | None:
    """A dictionary of tensors, by identity, that does not keep them alive; None where there is no such thing."""
    return None if _by_tensor is None else _by_tensor()


# ---- The weights of a module ----------------------------------------------------------------------------------------


def weight_names(layer: Any) -> list[str]:
    """The names of a layer's flat weights, in PyTorch's order: of each layer and direction what it has of these."""
    parts = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if layer.bias else [])]
    parts += ["weight_hr"] if layer.proj_size else []
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    return [f"{part}_l{k}{suffix}" for k in range(layer.num_layers) for suffix in directions for part in parts]


def flat_weights(module: Any) -> list[Any]:
    """The module's flat weights, up to date as its own forward would have them."""
    if not _has_flat_weights:
        return [getattr(module, name, None) for name in weight_names(module)]
    registered = map(module._parameters.get, module._flat_weights_names)
    if not all(map(is_, registered, module._flat_weights)):  # parametrized, normalised or called functionally
        _update_flat_weights(module)
    return module._flat_weights


def parameters(module: Any) -> list[Any] | None:
    """The parameters that are a module's flat weights themselves; None if weights are computed at each call."""
    if _has_flat_weights:
        found, names = list(module._parameters.values()), module._flat_weights_names
    else:
        found, names = [p for _, p in module.named_parameters(recurse=False)], weight_names(module)
    return found if len(found) == len(names) else None
