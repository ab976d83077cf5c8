"""PyTorch's recurrent layers, run by fastrnn's kernels: the same classes, parameters and gradients, on the CPU.

>>> model = fastrnn.torch.accelerate(model)            # every torch.nn.LSTM, GRU and RNN in it, in place
>>> lstm = fastrnn.torch.LSTM(input_size, hidden_size) # or one of its own
>>> model = fastrnn.torch.accelerate(model.eval(), precision="int8")  # for inference, with weights of 8 bits
"""

from __future__ import annotations

from typing import Any, TypeVar

from fastrnn.pages import needs

try:
    import torch
except ImportError as error:
    raise ImportError(needs("fastrnn.torch", "PyTorch", "fastrnn[torch]", "how-to/pytorch"), name="torch") from error

from torch import Tensor
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from fastrnn import validate
from fastrnn.engines.precision import PRECISIONS
from fastrnn.segments import Keep, checked_keep
from fastrnn.torch.calls import recognise
from fastrnn.torch.compiler import eagerly, prepare
from fastrnn.torch.dtypes import NARROW
from fastrnn.torch.frozen import Frozen
from fastrnn.torch.function import run
from fastrnn.torch.masks import run_masked
from fastrnn.torch.operators import rows_are_known, run_operator
from fastrnn.torch.private import as_usual, missing, transformed, warn

__all__ = ["GRU", "LSTM", "RNN", "accelerate", "restore"]

Module = TypeVar("Module", bound=torch.nn.Module)


class Accelerated:
    """What makes one of PyTorch's recurrent layers ask the kernels first."""

    _frozen: Frozen | None = None
    _keep: Keep = "all"

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
        if not torch.compiler.is_compiling():
            return _run(self, input, hx, mask, masked_output)
        if self._keep != "all" and torch.is_grad_enabled() and not torch.compiler.is_exporting():
            return eagerly(_run, self, input, hx, mask, masked_output)  # a compiled graph would keep all
        if mask is None and rows_are_known(input, hx) and not transformed():
            results = run_operator(self, input, hx)
            if results is not None:
                return results
        if not torch.compiler.is_exporting():
            return eagerly(_run, self, input, hx, mask, masked_output)
        if mask is not None:
            raise NotImplementedError(
                "mask: expected None under torch.export, as which rows are run is not known before the call; "
                "pass a PackedSequence, or zeros at the end of sequences whose output there is not used"
            )
        return self._run_pytorch(input, hx)

    def _run_pytorch(self: Any, input: Any, hx: Any) -> Any:
        """A call by PyTorch's own layer."""
        return super().forward(input, hx)  # type: ignore[misc]

    def extra_repr(self: Any) -> str:
        """The options, and the precision of weights in fewer bits."""
        own = super().extra_repr()  # type: ignore[misc]
        frozen = self._frozen
        return f"{own}, precision={frozen.precision!r}" if frozen is not None and frozen.has_fewer_bits else own

    def __prepare_scriptable__(self) -> Any:
        """What torch.jit.script puts into the model instead: it compiles source code, so it must be PyTorch's."""
        return restore(self)


class LSTM(Accelerated, torch.nn.LSTM):
    """`torch.nn.LSTM`, run by fastrnn's kernels where they serve the call, else by PyTorch; see docs/bridges.md."""


class GRU(Accelerated, torch.nn.GRU):
    """`torch.nn.GRU`, run by fastrnn's kernels where they serve the call, else by PyTorch; see docs/bridges.md."""


class RNN(Accelerated, torch.nn.RNN):
    """`torch.nn.RNN`, run by fastrnn's kernels where they serve the call, else by PyTorch; see docs/bridges.md."""


def _run(module: Any, input: Any, hx: Any, mask: Any, masked_output: Any) -> Any:
    """A call that nobody compiles."""
    if isinstance(input, torch.fx.Proxy):
        return _as_leaf(module, input, hx, {} if mask is None else {"mask": mask, "masked_output": masked_output})
    frozen = module._frozen
    if frozen is not None and as_usual():
        frozen.check(module)
    else:
        frozen = None
    if mask is not None:
        return run_masked(module, input, hx, mask, masked_output)
    if torch.is_autocast_enabled("cpu") or missing:
        results = run_operator(module, input, hx) if missing or as_usual() else None
        return module._run_pytorch(input, hx) if results is None else results
    if frozen is not None:
        results = frozen.step(module, input, hx)
        if results is not None:
            return results
    call = recognise(module, input, hx)
    if call is None:
        x = input.data if isinstance(input, PackedSequence) else input
        narrow = isinstance(x, Tensor) and x.dtype in NARROW and as_usual()
        results = run_operator(module, input, hx) if narrow else None
        return module._run_pytorch(input, hx) if results is None else results
    y, *state = run(call)
    if call.packing is None:
        return y, tuple(state) if call.stack.has_c else state[0]
    _, batch_sizes, sorted_indices, unsorted_indices = input
    hx = module.permute_hidden(tuple(state) if call.stack.has_c else state[0], unsorted_indices)
    return PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices), hx


_FAST: dict[Any, Any] = {torch.nn.LSTM: LSTM, torch.nn.GRU: GRU, torch.nn.RNN: RNN}
_OWN = {fast: own for own, fast in _FAST.items()}

prepare(Accelerated, _run)
warn()


def accelerate(
    module: Module, *, frozen: bool = False, precision: str | None = None, keep: Keep = "all"
) -> Module:  # fmt: skip
    """Let fastrnn's kernels run every torch.nn.LSTM, GRU and RNN inside a module, in place.

    Modules keep their identity, parameters, hooks and state_dict; only their class changes. Subclasses that somebody
    else has made are left alone, for they may compute something else.

    Parameters
    ----------
    module : torch.nn.Module
        Itself included.
    frozen : bool, default False
        Whether the weights are final. They are packed now, once, which makes short calls faster. A later call with
        changed weights, or one that needs gradients of the weights, raises a RuntimeError. Copies and loaded pickles
        are frozen, too, and pack the weights that they have at their first call. `restore`, or `accelerate` without
        `frozen`, ends it; `accelerate` with it packs again.
    precision : {"float32", "bfloat16", "int8"}, optional
        What the matrices are kept in; with it the weights are final, as with `frozen`. Parameters, inputs, outputs and
        states stay float32. In fewer bits, the module has to be in evaluation mode, and a call in training mode or one
        that needs gradients raises a RuntimeError. docs/math.md has the scheme. Default: the weights' dtype.
    keep : {"all", "states"} or int, default "all"
        What a call keeps for its gradients, as for `fastrnn.LSTM.forward`: with "states" only the states every so many
        steps, between which the layer runs once more. Gradients are the same. torch.compile breaks its graph at such
        layers where it records gradients.

    Returns
    -------
    torch.nn.Module
        `module`.

    Raises
    ------
    TypeError
        If `module` is not a torch.nn.Module, `frozen` is not a bool, `precision` is not a str, or `keep` is neither a
        str nor an int.
    ValueError
        If weights to be frozen are not all float32 or all float64 on the CPU; with `precision`, if they are not
        float32, or fewer bits are asked for in training mode, or for weights of int8 that are not finite; or if `keep`
        is none of these. Nothing is changed then.
    """
    frozen, keep = validate.flag("frozen", frozen), checked_keep("keep", keep)
    classes = _classes(module, _FAST)
    if precision is not None:
        frozen, precision = True, validate.choice("precision", precision, tuple(PRECISIONS))
        training = [part for part in classes if part.training]
        if training and precision != "float32":
            raise ValueError(
                f"module: expected one in evaluation mode with precision={precision!r}, got a "
                f"{type(training[0]).__name__} in training mode; call model.eval() first"
            )
    kept = {part: Frozen.of_weights(part, precision) for part in classes} if frozen else {}
    for part, cls in classes.items():
        part.__class__ = cls
        for name, value, wanted in (("_frozen", kept.get(part), frozen), ("_keep", keep, keep != "all")):
            part.__dict__.pop(name, None)
            part.__dict__.update({name: value} if wanted else {})
    return module


def restore(module: Module) -> Module:
    """Undo `accelerate`: hand every recurrent layer inside a module back to PyTorch, in place.

    Parameters, returns and errors are those of `accelerate`.
    """
    for part, cls in _classes(module, _OWN).items():
        part.__class__ = cls
        part.__dict__.pop("_frozen", None)
        part.__dict__.pop("_keep", None)
    return module


def _classes(module: torch.nn.Module, classes: dict[Any, Any]) -> dict[Any, Any]:
    """The recurrent layers inside a module and the class that each is to have."""
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    found = {}
    for part in module.modules():
        cls = type(part)
        if cls in classes:
            found[part] = classes[cls]
        elif parametrize.is_parametrized(part) and cls.__base__ in classes:
            # PyTorch has made a class for this module and its copies: another one, over the other base.
            own = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
            found[part] = type(cls.__name__, (classes[cls.__base__],), own)
        elif isinstance(part, Accelerated):
            found[part] = cls
    return found


def _as_leaf(module: torch.nn.Module, input: Any, hx: Any, masked: dict[str, Any]) -> Any:
    """A call that torch.fx traces: one node, as PyTorch's own layers are."""
    args = (input,) if hx is None else (input, hx)
    return input.tracer.create_proxy("call_module", input.tracer.path_of_module(module), args, masked)
