"""How PyTorch, fastrnn, Keras and ONNX keep the weights of a recurrent layer."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from fastrnn.engines.cell import CELLS

__all__ = ["CONVENTIONS", "KERAS", "ONNX", "TORCH", "Convention", "convention_table"]

_PLAIN = {kind: cell(1, 1, np.dtype(np.float32)) for kind, cell in CELLS.items()}  # all options at their defaults


@dataclass(frozen=True, slots=True)
class Convention:
    """How a framework keeps the weights of one layer.

    Gates are named as in docs/math.md: what Keras and ONNX call c (LSTM) and h (GRU) is g and n. Shapes are in T, B, I,
    H, D and G, the number of gates' blocks: RNN 1, GRU 3, LSTM 4. An array's name is the framework's own.
    """

    framework: str
    gates: dict[str, str]  # kind -> order of the gates' blocks
    peephole: str  # order of peepholes; empty where there are none
    transposed: bool  # weights act from the right: x W
    input: tuple[str, tuple[str, ...]]  # weights that act on x_t: name and shape
    recurrent: tuple[str, tuple[str, ...]]  # weights that act on h_{t-1}
    biases: str
    peepholes: str
    resets: str  # of a GRU
    directions: str


CONVENTIONS = {
    convention.framework: convention
    for convention in (
        Convention(
            "PyTorch", {kind: cell.torch.gates for kind, cell in CELLS.items() if cell.torch.gates}, "", False,
            ("weight_ih", ("G*H", "I")), ("weight_hh", ("G*H", "H")),
            "bias_ih (G*H,), bias_hh (G*H,)", "-", "after", "names that end in _reverse",
        ),
        Convention(
            "fastrnn", {kind: cell.gates for kind, cell in _PLAIN.items()}, _PLAIN["lstm"].peepholes, False,
            ("weight_ih", ("G*H", "I")), ("weight_hh", ("G*H", "H")),
            "bias_ih (G*H,), bias_hh (G*H,)", "peephole (3, H)", "reset_after=True or False",
            "names that end in _reverse",
        ),
        Convention(
            "Keras", {kind: cell.keras.gates for kind, cell in CELLS.items() if cell.keras.gates}, "", True,
            ("kernel", ("I", "G*H")), ("recurrent_kernel", ("H", "G*H")),
            "bias (G*H,); GRU that resets after: bias (2, G*H), input's and state's", "-",
            "reset_after=True or False", "the arrays of the forward layer, then those of the backward layer",
        ),
        Convention(
            "ONNX", {kind: cell.onnx.gates for kind, cell in CELLS.items() if cell.onnx.gates},
            CELLS["lstm"].onnx.peepholes, False,
            ("W", ("D", "G*H", "I")), ("R", ("D", "G*H", "H")),
            "B (D, 2*G*H), W's and R's", "P (D, 3*H)", "linear_before_reset=1 or 0", "first axis",
        ),
    )
}  # fmt: skip
TORCH, KERAS, ONNX = (CONVENTIONS[name] for name in ("PyTorch", "Keras", "ONNX"))


def convention_table() -> str:
    """Return `CONVENTIONS` as a table in Markdown."""

    def order(letters: str) -> str:
        return ", ".join(letters) or "-"

    def array(named: tuple[str, tuple[str, ...]]) -> str:
        return f"{named[0]} ({', '.join(named[1])})"

    rows = {
        "LSTM gates": lambda c: order(c.gates["lstm"]),
        "GRU gates": lambda c: order(c.gates["gru"]),
        "input weights": lambda c: array(c.input),
        "recurrent weights": lambda c: array(c.recurrent),
        "product": lambda c: "x W" if c.transposed else "W x",
        "biases": lambda c: c.biases,
        "peepholes": lambda c: f"{c.peepholes}: {order(c.peephole)}" if c.peephole else "-",
        "GRU resets": lambda c: c.resets,
        "backward direction": lambda c: c.directions,
    }
    lines = ["| | " + " | ".join(CONVENTIONS) + " |", "|---" * (len(CONVENTIONS) + 1) + "|"]
    lines += [f"| {head} | {' | '.join(map(cell, CONVENTIONS.values()))} |" for head, cell in rows.items()]
    table = "\n".join(lines) + "\n"
    return re.sub(r"\([^()]*\*[^()]*\)", r"`\g<0>`", table)  # two products in a line would be emphasis
