"""Inputs of tests: variants of the cells, random calls, layouts of arrays, and hypothesis strategies over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import Call

import fastrnn

__all__ = ["FORMS", "LAYOUTS", "VARIANTS", "WIDTHS", "Case", "build_layer", "cases", "random_call", "random_mask"]

# Every cell with every option of its own. Zoneout and dropouts, which draw in training, are for test_noise.py.
VARIANTS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "rnn": (fastrnn.RNN, {}),
    "rnn-relu": (fastrnn.RNN, {"nonlinearity": "relu"}),
    "lstm": (fastrnn.LSTM, {}),
    "lstm-peephole": (fastrnn.LSTM, {"peephole": True}),
    "lstm-proj": (fastrnn.LSTM, {"proj_size": "half"}),
    "lstm-coupled-peephole-proj": (fastrnn.LSTM, {"coupled": True, "peephole": True, "proj_size": "half"}),
    "lstm-peephole-proj-clip": (fastrnn.LSTM, {"peephole": True, "proj_size": "half", "clip": 0.5}),
    "gru": (fastrnn.GRU, {}),
    "gru-replace": (fastrnn.GRU, {"update_gate": "replace"}),
    "gru-before": (fastrnn.GRU, {"reset_after": False}),
    "slstm-heads": (fastrnn.SLSTM, {"num_heads": "some"}),
    # With few units a variance may be near 0, and rounding errors grow by up to 1/sqrt(eps).
    "lstm-norm-peephole-proj": (
        fastrnn.LSTM, {"layer_norm": "separate", "peephole": True, "proj_size": "half", "layer_norm_eps": 0.1}
    ),
    "lstm-coupled-norm-sum": (fastrnn.LSTM, {"layer_norm": "sum", "coupled": True, "layer_norm_eps": 0.1}),
    "gru-norm": (fastrnn.GRU, {"layer_norm": "separate", "layer_norm_eps": 0.1}),
    "gru-before-norm": (fastrnn.GRU, {"layer_norm": "separate", "reset_after": False, "layer_norm_eps": 0.1}),
    "mingru": (fastrnn.MinGRU, {}),
    "minlstm-linear": (fastrnn.MinLSTM, {"nonlinearity": "linear"}),
}  # fmt: skip

# Enough of them for tests of what stands above the engines, which knows the states of a cell and the sizes of its
# parameters, and nothing else.
FORMS = ("rnn", "lstm-peephole-proj-clip", "gru-before", "slstm-heads")

# Sizes at, just below and just above the widths of vectors (4, 8, 16 values) and of tiles of several vectors.
WIDTHS = (1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 33, 64, 83)


def build_layer(variant: str, input_size: int, hidden_size: int, **options: Any) -> Any:
    """Build a layer of the variant; its parameters are drawn from seed 0 unless `rng` says otherwise."""
    cell, own = VARIANTS[variant]
    options = {"rng": 0} | own | options
    if options.get("proj_size") == "half":
        options["proj_size"] = hidden_size // 2  # 0, so no projection, where there is one hidden unit only
    if options.get("num_heads") == "some":  # of 16 and more units where that can be, else of a few or of one
        options["num_heads"] = next((n for n in (4, 3, 2, 11, 5, 17, 31) if hidden_size % n == 0), 1)
    layer = cell(input_size, hidden_size, **options)
    for name, value in layer.params.items():
        if name.startswith(("norm", "bias_c")):  # which start as ones and zeros
            value += np.random.default_rng(value.size).uniform(-0.5, 0.5, value.shape).astype(value.dtype)
    return layer


def random_call(
    layer: Any, T: int, B: int, rng: np.random.Generator, *, batched: bool = True, state: bool = True,
    lengths: bool = False, resets: bool = False, mask: bool = False, masked_output: str = "zero",
) -> Call:  # fmt: skip
    """Draw the arguments of a run, and the gradients of its results, from a normal distribution."""

    def normal(*shape: int) -> NDArray:
        return rng.standard_normal(shape).astype(layer.dtype)

    def lay_out(a: NDArray) -> NDArray:
        return a[:, 0] if not batched else a.swapaxes(0, 1).copy() if layer.batch_first else a

    def random_state(gradient: bool = False) -> Any:
        drawn = [normal(*shape) for shape in layer.state_shapes(B)]
        if "n" in layer.cell.states and not gradient:  # a sum of positive terms; c/n is as inexact as n is small
            n = drawn[layer.cell.states.index("n")]
            n[...] = 1 + np.abs(n)
        drawn = drawn if batched else [a[:, 0] for a in drawn]
        return tuple(drawn) if len(drawn) > 1 else drawn[0]

    assert batched or B == 1
    return Call(
        x=lay_out(normal(T, B, layer.input_size)),
        state=random_state() if state else None,
        lengths=rng.integers(0, T + 1, B) if lengths else None,
        resets=lay_out(rng.random((T, B)) < 0.25) if resets else None,
        dy=lay_out(normal(T, B, layer.output_size)),
        dstate=random_state(gradient=True),
        mask=lay_out(random_mask(T, B, rng)) if mask else None,
        masked_output=masked_output,
    )


def random_mask(T: int, B: int, rng: np.random.Generator) -> NDArray:
    """Draw a mask (T, B): padding at either end, the same with gaps, or gaps only, many or few; now and then full."""
    starts, ends = rng.integers(0, T + 1, (2, B)) * [[rng.integers(2)], [1]]
    padded = (np.arange(T)[:, None] >= starts) & (np.arange(T)[:, None] < np.maximum(starts, ends))
    gaps = rng.random((T, B)) < rng.choice([0.1, 0.5, 0.9, 1.0])
    return [padded, padded & gaps, gaps][rng.integers(3)]


# ---- Layouts: the same values, arranged differently in memory ----------------------------------------------------


def _spaced(a: NDArray) -> NDArray:
    """Every axis has gaps between its elements."""
    wide = np.zeros([3 * n for n in a.shape], a.dtype)
    wide[tuple(slice(1, None, 3) for _ in a.shape)] = a
    return wide[tuple(slice(1, None, 3) for _ in a.shape)]


def _padded(a: NDArray) -> NDArray:
    """The last axis is contiguous, the rows have gaps between them."""
    wide = np.zeros((*a.shape[:-1], a.shape[-1] + 3), a.dtype)
    wide[..., 1 : 1 + a.shape[-1]] = a
    return wide[..., 1 : 1 + a.shape[-1]]


def _misaligned(a: NDArray) -> NDArray:
    """Elements start at odd addresses."""
    room = np.zeros(a.nbytes + 1, np.uint8)
    view = room[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def _read_only(a: NDArray) -> NDArray:
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS: dict[str, Callable[[NDArray], NDArray]] = {
    "contiguous": lambda a: a,
    "fortran": lambda a: np.asfortranarray(a),
    "swapped": lambda a: np.ascontiguousarray(a.swapaxes(0, -1)).swapaxes(0, -1),
    "negative first": lambda a: a[::-1].copy()[::-1],
    "negative last": lambda a: a[..., ::-1].copy()[..., ::-1],
    "negative": lambda a: np.flip(np.flip(a).copy()),
    "spaced": _spaced,
    "padded rows": _padded,
    "misaligned": _misaligned,
    "read-only": _read_only,
}


# ---- Strategies --------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """A layer and a call of it in a short form, so that a failing example can be read and run again."""

    variant: str
    input_size: int
    hidden_size: int
    options: dict[str, Any]
    T: int
    B: int
    batched: bool
    state: bool
    lengths: bool
    resets: bool
    mask: bool
    masked_output: str
    seed: int

    def layer(self, **options: Any) -> Any:
        options = self.options | options
        return build_layer(self.variant, self.input_size, self.hidden_size, rng=self.seed, **options)

    def call(self, layer: Any) -> Call:
        return random_call(
            layer, self.T, self.B, np.random.default_rng(self.seed), batched=self.batched, state=self.state,
            lengths=self.lengths, resets=self.resets, mask=self.mask, masked_output=self.masked_output,
        )  # fmt: skip


@st.composite
def cases(draw: Any, variant: str | None = None, **fixed: Any) -> Case:
    """Draw any layer and call; `fixed` gives fields of `Case`, or options of the layer, that shall not vary."""

    def pick(name: str, strategy: Any) -> Any:
        return fixed[name] if name in fixed else draw(strategy)

    batched = pick("batched", st.sampled_from((True, True, True, False)))
    options = {
        "dtype": pick("dtype", st.sampled_from((np.float32, np.float64))),
        "bias": pick("bias", st.sampled_from((True, True, False))),
        "num_layers": pick("num_layers", st.sampled_from((1, 1, 2, 3))),
        "bidirectional": pick("bidirectional", st.booleans()),
        "batch_first": pick("batch_first", st.booleans()),
    }
    return Case(
        variant=variant or draw(st.sampled_from(sorted(VARIANTS))),
        input_size=pick("input_size", st.sampled_from((1, 2, 3, 5, 8, 16, 17, 40, 83))),
        hidden_size=pick("hidden_size", st.sampled_from(WIDTHS)),
        options=options,
        T=pick("T", st.sampled_from((0, 1, 2, 3, 5, 9))),
        B=pick("B", st.sampled_from((0, 1, 2, 3, 4, 5, 7, 8, 9, 13, 33))) if batched else 1,
        batched=batched,
        state=pick("state", st.booleans()),
        lengths=pick("lengths", st.booleans()),
        resets=pick("resets", st.booleans()),
        mask=pick("mask", st.booleans()),
        masked_output=pick("masked_output", st.sampled_from(("zero", "zero", "hold"))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
