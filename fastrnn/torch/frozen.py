"""Modules whose weights are final: `accelerate(model, frozen=True)` packs them once, maybe in fewer bits.

Calls then compare no bytes, and a single frame goes by the shortest way. Each call only looks whether the parameters
are the same tensors, at the same addresses and with the same counts of changes, as when they were packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any, NamedTuple, TypeAlias
from weakref import ref

import torch
from torch import Tensor

from fastrnn import engines
from fastrnn._core import native
from fastrnn.engines import Engine
from fastrnn.engines.seam import Weights
from fastrnn.stack import Stack
from fastrnn.torch.calls import described, records
from fastrnn.torch.function import PACKING, step
from fastrnn.torch.kept import Kept, Packed, pack
from fastrnn.torch.private import flat_weights, parameters, version, weight_names
from fastrnn.torch.tensors import DTYPES, array, plain

__all__ = ["Frozen"]


# Parameters (which are kept, so that no others get their ids; or references), their ids, addresses, counts of changes.
_Looks: TypeAlias = "tuple[list[Any], list[int], list[int], list[int]]"
_StateShapes: TypeAlias = "tuple[tuple[int, ...], tuple[int, ...] | None]"  # of h, and of c if there is one


class _Final(NamedTuple):
    """What is kept of weights that are final."""

    dtype: torch.dtype
    packed: Packed
    frame: native.NativeFrame | None  # None for two directions
    input_size: int
    shapes: _StateShapes  # of a single frame
    unbatched_shapes: _StateShapes


class Frozen(Kept):
    """What is kept of a module whose weights are final. Copies and pickles of it are empty; the first call packs.

    `precision` is what the matrices are kept in; None: the module's dtype. `has_fewer_bits` says whether it is less.
    """

    __slots__ = ("_final", "_known", "has_fewer_bits", "precision")
    final = True

    def __init__(self, precision: str | None = None) -> None:
        super().__init__()
        self.precision, self.has_fewer_bits = precision, precision in ("bfloat16", "int8")
        self._final: _Final | None = None
        self._known: _Looks | None = None  # of parameters that have the values that were packed

    def __reduce__(self) -> Any:
        return Frozen, (self.precision,)

    @property
    def narrow(self) -> list[Weights] | None:  # type: ignore[override]
        """See `Kept.narrow`."""
        return self._final.packed.weights if self._final is not None and self.has_fewer_bits else None

    @classmethod
    def of_weights(cls, module: Any, precision: str | None = None) -> Frozen:
        """What to keep of a module, packed now; errors are those of `pack`."""
        frozen = cls(precision)
        frozen.pack(module)
        return frozen

    def pack(self, module: Any) -> None:
        """Take the module's weights as they are now.

        Raises
        ------
        ValueError
            If the kernels cannot take them, or not in this precision.
        """
        self._pack(flat_weights(module), module)
        self._known = _looks(parameters(module))

    def follow(self, weights: Sequence[Tensor], layer: Any) -> None:
        """Take weights of which nobody says when they change: as they are now, unless they are as they were."""
        looks, known = _looks(weights), self._known
        same = looks is not None and known is not None and looks[1:] == known[1:]
        if known is None or not same or not all(map(is_, weights, [known_ref() for known_ref in known[0]])):
            if self._final is None or self._changed(weights) is not None:
                self._pack(weights, layer)
            # Unlike a module's, these weights belong to somebody who may be gone before this object is.
            self._known = None if looks is None else (list(map(ref, weights)), *looks[1:])

    def _pack(self, weights: Sequence[Tensor], layer: Any) -> None:
        dtype = getattr(weights[0], "dtype", None)
        if dtype not in DTYPES or not all(plain(w, dtype) for w in weights):
            found = sorted({f"{w.dtype} on {w.device}" if isinstance(w, Tensor) else repr(w) for w in weights})
            raise ValueError(
                "module: expected weights that are all ordinary float32 or all ordinary float64 tensors on the CPU, "
                f"to freeze them, got a {layer.mode.split('_')[0]} of {', '.join(found)}"
            )
        if self.precision is not None and dtype is not torch.float32:
            raise ValueError(f"module: expected float32 weights with precision={self.precision!r}, got {dtype}")
        stack, places, shapes, _ = described(layer, dtype)
        if tuple(w.shape for w in weights) != shapes:
            got = ", ".join(str(tuple(w.shape)) for w in weights)
            raise ValueError(f"module: expected weights of {', '.join(map(str, shapes))}, got {got}")
        made_for = PACKING, native.isa_selected(), stack, places
        packed = pack(made_for, [array(w.contiguous()).copy() for w in weights], False, self.precision)
        frame = native.NativeFrame(packed.prepared, stack.has_c > 0) if stack.directions == (False,) else None
        h, *cs = stack.state_shapes(1)
        batched, unbatched = (h, cs[0] if cs else None), (h[::2], cs[0][::2] if cs else None)
        self._final = _Final(dtype, packed, frame, stack.cells[0].input_size, batched, unbatched)
        self._packed = {False: packed}

    def check(self, module: Any) -> None:
        """Look whether a call may use the packed weights.

        Raises
        ------
        RuntimeError
            If weights have changed, the call would have to give them gradients, or they are kept in fewer bits and the
            module is in training mode.
        """
        if self.has_fewer_bits and module.training:
            raise RuntimeError(
                f"frozen: expected a module in evaluation mode with precision={self.precision!r}, got one in training "
                "mode; call model.eval()"
            )
        if self._final is None:
            self.pack(module)
        if records():
            for name, w in zip(weight_names(module), flat_weights(module), strict=True):
                if w.requires_grad:
                    raise RuntimeError(
                        f"frozen: expected a call that needs no gradients of the weights, got {name}, which requires "
                        "one; call under torch.no_grad() or torch.inference_mode(), or after requires_grad_(False)"
                    )
        looks = _looks(parameters(module))
        if looks is None or self._known is None or looks[1:] != self._known[1:]:
            changed = self._changed(flat_weights(module))
            if changed is not None:
                raise RuntimeError(
                    "frozen: expected weights as they were when they were packed, got another "
                    f"{weight_names(module)[changed]}; fastrnn.torch.accelerate(model, frozen=True) packs them again"
                )
            self._known = looks

    def _changed(self, weights: Sequence[Tensor]) -> int | None:
        """Which of the weights is the first that has other values than those that were packed."""
        assert self._final is not None
        dtype = self._final.dtype
        for k, (w, a) in enumerate(zip(weights, self._final.packed.arrays, strict=True)):
            same = plain(w, dtype) and w.shape == a.shape
            if not same or not native.holds([w.contiguous().data_ptr()], [a]):
                return k
        return None

    def packed(
        self, engine: Engine, stack: Stack, places: Sequence[int], flat: Sequence[Tensor], backward: bool
    ) -> Packed | None:
        """The weights packed for a pass; None if they were packed for other cells."""
        assert self._final is not None
        made_for, forward = (engine, native.isa_selected(), stack, places), self._final.packed
        if forward.made_for[:2] != made_for[:2] or forward.made_for[2].cells != stack.cells:
            return None
        found = self._packed.get(backward)
        if found is None:
            assert not self.has_fewer_bits
            found = self._packed[backward] = pack(made_for, forward.arrays, backward)
        return found

    def step(self, module: Any, x: Any, hx: Any) -> tuple[Tensor, Any] | None:
        """The results of a call that is a single frame; None if it is another one, or not as simple."""
        if self._final is None or engines.current() is not PACKING:
            return None
        dtype, _, frame, input_size, shapes, unbatched_shapes = self._final
        if frame is None or not plain(x, dtype) or x.numel() != input_size or x.shape[-1] != input_size:
            return None
        batched = x.dim() == 3
        if not (batched or x.dim() == 2) or (module.training and module.dropout):
            return None
        h_shape, c_shape = shapes if batched else unbatched_shapes
        h0, c0 = hx if c_shape is not None and type(hx) is tuple and len(hx) == 2 else (hx, None)
        if hx is not None and not (_fits(h0, dtype, h_shape) and (c_shape is None or _fits(c0, dtype, c_shape))):
            return None
        if records() and any(t is not None and t.requires_grad for t in (x, h0, c0)):
            return None
        y, h, *c = step(frame, x.contiguous(), h0, c0, batched, torch.get_num_threads())
        return y, (h, *c) if c else h


def _fits(t: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    """Whether this is a state whose memory can be read as it lies."""
    return plain(t, dtype) and t.shape == shape and t.is_contiguous()


def _looks(params: Sequence[Tensor] | None) -> _Looks | None:
    """How parameters look while nobody changes them; None where that cannot be told."""
    if params is None:  # parametrized: weights are computed at each call
        return None
    try:
        return list(params), list(map(id, params)), list(map(Tensor.data_ptr, params)), list(map(version, params))
    except (RuntimeError, TypeError):  # no memory, no count of changes (made in inference mode), or None
        return None
