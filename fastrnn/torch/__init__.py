"""PyTorch's recurrent layers, run by fastrnn's kernels: the same classes, parameters and gradients, on the CPU.

>>> model = fastrnn.torch.accelerate(model)            # every torch.nn.LSTM, GRU and RNN in it, in place
>>> lstm = fastrnn.torch.LSTM(input_size, hidden_size) # or one of its own
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from fastrnn.torch.calls import recognise
from fastrnn.torch.function import run
from fastrnn.torch.masks import run_masked

__all__ = ["GRU", "LSTM", "RNN", "accelerate", "restore"]

Module = TypeVar("Module", bound=torch.nn.Module)


class _Accelerated:
    """What makes one of PyTorch's recurrent layers ask the kernels first."""

    def forward(self: Any, input: Any, hx: Any = None, *, mask: Any = None, masked_output: str = "zero") -> Any:
        """Run the layer; arguments, results and errors are those of PyTorch's layer, which has no masks.

        Parameters
        ----------
        input, hx
            As for PyTorch's layer. With a mask, `input` is a tensor.
        mask : Tensor of bool, optional
            Shaped as `input` without its last axis: which steps are run. The others leave the state as it is. Default:
            all.
        masked_output : {"zero", "hold"}, default "zero"
            What the output is at the others, as for `fastrnn.LSTM`.
        """
        if isinstance(input, torch.fx.Proxy):
            masked = {} if mask is None else {"mask": mask, "masked_output": masked_output}
            return _as_leaf(self, input, hx, masked)
        if mask is not None:
            return run_masked(self, input, hx, mask, masked_output)
        call = recognise(self, input, hx)
        if call is None:
            return super().forward(input, hx)  # type: ignore[misc]
        y, *state = run(call)
        if call.packing is None:
            return y, tuple(state) if call.stack.has_c else state[0]
        _, batch_sizes, sorted_indices, unsorted_indices = input
        hx = self.permute_hidden(tuple(state) if call.stack.has_c else state[0], unsorted_indices)
        return PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices), hx

    def __prepare_scriptable__(self) -> Any:
        """What torch.jit.script puts into the model instead: it compiles source code, so it must be PyTorch's."""
        return restore(self)


class LSTM(_Accelerated, torch.nn.LSTM):
    """`torch.nn.LSTM`, run by fastrnn's kernels where they serve the call, else by PyTorch; see docs/bridges.md."""


class GRU(_Accelerated, torch.nn.GRU):
    """`torch.nn.GRU`, run by fastrnn's kernels where they serve the call, else by PyTorch; see docs/bridges.md."""


class RNN(_Accelerated, torch.nn.RNN):
    """`torch.nn.RNN`, run by fastrnn's kernels where they serve the call, else by PyTorch; see docs/bridges.md."""


_FAST: dict[Any, Any] = {torch.nn.LSTM: LSTM, torch.nn.GRU: GRU, torch.nn.RNN: RNN}
_OWN = {fast: own for own, fast in _FAST.items()}


def accelerate(module: Module) -> Module:
    """Let fastrnn's kernels run every torch.nn.LSTM, GRU and RNN inside a module, in place.

    Modules keep their identity, parameters, hooks and state_dict; only their class changes. Subclasses that somebody
    else has made are left alone, for they may compute something else.

    Parameters
    ----------
    module : torch.nn.Module
        Itself included.

    Returns
    -------
    torch.nn.Module
        `module`.

    Raises
    ------
    TypeError
        If `module` is not a torch.nn.Module.
    """
    return _switch(module, _FAST)


def restore(module: Module) -> Module:
    """Undo `accelerate`: hand every recurrent layer inside a module back to PyTorch, in place.

    Parameters, returns and errors are those of `accelerate`.
    """
    return _switch(module, _OWN)


def _switch(module: Module, classes: dict[Any, Any]) -> Module:
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    for part in module.modules():
        cls = type(part)
        if cls in classes:
            part.__class__ = classes[cls]
        elif parametrize.is_parametrized(part) and cls.__base__ in classes:
            # PyTorch has made a class for this module and its copies: another one, over the other base.
            own = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
            part.__class__ = type(cls.__name__, (classes[cls.__base__],), own)
    return module


def _as_leaf(module: torch.nn.Module, input: Any, hx: Any, masked: dict[str, Any]) -> Any:
    """A call that torch.fx traces: one node, as PyTorch's own layers are."""
    args = (input,) if hx is None else (input, hx)
    return input.tracer.create_proxy("call_module", input.tracer.path_of_module(module), args, masked)
