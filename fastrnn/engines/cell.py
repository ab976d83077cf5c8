"""The cells: each is described here once, and computed in `reference.py` and in csrc/.

A cell is what one direction of one layer computes. Its description says which gates, parameters and options it has,
what a tape keeps of it, and what other frameworks call it; everything that depends on the cell reads it from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fastrnn.engines.seam import Record

__all__ = [
    "CELLS", "Cell", "GRUCell", "KerasNames", "LSTMCell", "MinGRUCell", "MinLSTMCell", "ONNXNames", "RNNCell",
    "SLSTMCell", "TorchNames",
]  # fmt: skip

Options = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]


# In these, gates have our letters: what Keras and ONNX call c (LSTM) and h (GRU) is g and n here. A framework that does
# not have the cell has no gates.


class TorchNames(NamedTuple):
    """What PyTorch calls a cell."""

    gates: str  # in the order of the weights' rows
    modes: dict[str, Options]  # `mode` of a module -> the cell's options


class KerasNames(NamedTuple):
    """What Keras calls a cell."""

    gates: str  # in the order of the weights' columns
    two_biases: str = ""  # the option with which Keras has two biases, the input's and the state's, instead of one


class ONNXNames(NamedTuple):
    """What ONNX calls a cell."""

    operator: str
    gates: str  # in the order of the weights' rows
    activations: dict[tuple[str, ...], Options]  # of a direction -> the cell's options
    attributes: dict[str, str]  # option -> the attribute that is 1 where the option is True
    peepholes: str = ""  # in the order of P


@dataclass(frozen=True)
class Cell:
    """One recurrent cell with its sizes and options. Equations: docs/math.md.

    What a subclass adds as fields are its options, with the defaults of its layer's constructor.
    """

    input_size: int
    hidden_size: int
    dtype: np.dtype
    bias: bool = True

    kind: ClassVar[str]
    states: ClassVar[str] = "h"  # what is carried from step to step, a letter each
    sigmoids: ClassVar[str] = ""  # the gates whose values lie between 0 and 1
    panels: ClassVar[dict[str, str]]  # what is drawn of it -> what that says
    starts: ClassVar[dict[str, float]] = {}  # parameters that begin with a number instead of random ones
    layer_norms: ClassVar[tuple[str, ...]] = ()  # the kinds of layer normalisation that it may have
    unconnected: ClassVar[bool] = False  # gates do not see h_{t-1}: there are no weight_hh and bias_hh
    # Without gates where the framework does not have the cell.
    torch: ClassVar[TorchNames] = TorchNames("", {})
    keras: ClassVar[KerasNames] = KerasNames("")
    onnx: ClassVar[ONNXNames] = ONNXNames("", "", {}, {})

    # ---- What it computes ------------------------------------------------------------------------------------------

    @property
    def gates(self) -> str:
        """Names of the G gates, a letter each, in the order of the weights' rows."""
        raise NotImplementedError

    @property
    def native(self) -> str:
        """The name of the cell in C."""
        raise NotImplementedError

    @property
    def layer(self) -> str:
        """The name of its layer's class."""
        return self.kind.upper()

    @property
    def replaces(self) -> bool:
        """Whether an update gate z weighs the new state instead of the old one."""
        return False

    @cached_property
    def zoneouts(self) -> tuple[float, float]:
        """With which probabilities a unit of h_t, and of c_t, keeps the value of the step before."""
        return getattr(self, "zoneout", 0.0), getattr(self, "zoneout_cell", 0.0)

    @property
    def output_size(self) -> int:
        """O: size of h_t."""
        return self.hidden_size

    @cached_property
    def has_c(self) -> int:
        """How many states there are besides h. Engines have them side by side, as one array c: (., has_c*H)."""
        return len(self.states) - 1

    @property
    def heads(self) -> int:
        """How many blocks weight_hh has: each head of H/heads units sees its own part of h_{t-1} only."""
        return 1

    @property
    def norm_eps(self) -> float:
        """What layer normalisation adds to a variance; 0 of a cell that has none."""
        return 0.0

    # ---- What a tape keeps -----------------------------------------------------------------------------------------

    @property
    def recorded(self) -> tuple[str, ...]:
        """Names of the K values that a tape keeps for each step, row and unit, besides y and c."""
        return ()

    @property
    def norm_values(self) -> int:
        """How many values a tape keeps for each step and row of what layer normalisation did."""
        return 0

    @property
    def records_fresh(self) -> bool:
        """Whether a tape keeps c_t before zoneout or, of a cell without gates, h_t before zoneout."""
        of_h, of_c = self.zoneouts
        return of_c > 0 if self.has_c else of_h > 0 and not self.recorded

    @property
    def kept_values(self) -> int:
        """How many values a tape keeps for each step and row, besides y."""
        return (len(self.recorded) + self.has_c + self.records_fresh) * self.hidden_size + self.norm_values

    def views(self, record: Record, y: NDArray) -> dict[str, NDArray]:
        """What a tape shows, (T, B, H) by name. Of a cell that needs no record that is its output."""
        views = {}
        if record.gates is not None:
            views = {name: record.gates[:, :, k] for k, name in enumerate(self.recorded)}
        if record.cells is not None:
            H = self.hidden_size
            views |= {name: record.cells[:, :, k * H : (k + 1) * H] for k, name in enumerate(self.states[1:])}
        return views or {"h": y}

    # ---- Options and parameters ------------------------------------------------------------------------------------

    @classmethod
    def defaults(cls) -> Options:
        """The options of this kind of cell, at their defaults."""
        return {field.name: field.default for field in fields(cls)[len(fields(Cell)) :]}

    @property
    def options(self) -> Options:
        """The values of the options."""
        return {name: getattr(self, name) for name in self.defaults()}

    @property
    def hidden_options(self) -> Options:
        """The values of those options that the shapes of parameters do not show, or not always."""
        first, *others = self.structures({})
        shown = [name for name in first if all(other[name] == first[name] for other in others)]
        return {name: value for name, value in self.options.items() if name not in shown}

    @classmethod
    def structures(cls, shapes: Shapes) -> list[Options]:
        """Return the values that options may have if parameters have these shapes.

        Of options on which shapes depend only: a dict of all these options for each way to read the shapes. The cell's
        own shapes then say whether the way is right.
        """
        return [{}]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name (without layer and direction) -> shape, in the order of `seam.Weights`."""
        rows = len(self.gates) * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, self.input_size)}
        if not self.unconnected:
            shapes["weight_hh"] = (rows, self.output_size // self.heads)
        if self.bias:
            shapes["bias_ih"] = (rows,)
        if self.bias and not self.unconnected:
            shapes["bias_hh"] = (rows,)
        return shapes

    @property
    def peepholes(self) -> str:
        """The gates that see c, in the order of the peepholes' rows."""
        return ""

    # ---- Elsewhere -------------------------------------------------------------------------------------------------

    @property
    def missing(self) -> dict[str, str]:
        """Framework -> what of this cell it does not have; nothing for a framework that has all."""
        gates = {"PyTorch": self.torch.gates, "Keras": self.keras.gates, "ONNX": self.onnx.gates}
        missing = {framework: f"a {self.layer}" for framework, there in gates.items() if not there}
        missing |= dict.fromkeys(("PyTorch", "Keras"), "clip") if self.options.get("clip") else {}
        return missing | (dict.fromkeys(("PyTorch", "Keras", "ONNX"), "zoneout") if any(self.zoneouts) else {})


@dataclass(frozen=True)
class NormalizedCell(Cell):
    """A cell whose layers may have layer normalisation."""

    layer_norm: str | None = None  # or "separate": of W x and U h each; or "sum": of each gate of W x + U h
    layer_norm_eps: float = 1e-5

    layer_norms: ClassVar[tuple[str, ...]] = ("separate", "sum")
    starts: ClassVar = {"norm_ih": 1.0, "norm_hh": 1.0, "norm": 1.0, "norm_c": 1.0, "bias_c": 0.0}

    @property
    def norm_products(self) -> int:
        """Products with parts of U in a step, each of which "separate" normalises by itself."""
        return 1

    @property
    def norm_eps(self) -> float:
        return self.layer_norm_eps if self.layer_norm else 0.0

    @property
    def norm_values(self) -> int:
        # Normalised pre-activations, then 1/deviation of each row that was normalised, then mean and 1/deviation of c.
        G, c = len(self.gates), 2 if self.has_c else 0
        if self.layer_norm == "separate":
            return 2 * G * self.hidden_size + 1 + self.norm_products + c
        return G * self.hidden_size + G + c if self.layer_norm else 0

    @classmethod
    def structures(cls, shapes: Shapes) -> list[Options]:
        found = "separate" if "norm_hh" in shapes else "sum" if "norm" in shapes else None
        return [{"layer_norm": found if found in cls.layer_norms else None}]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return super().shapes() | self._norm_shapes()

    def _norm_shapes(self) -> dict[str, tuple[int, ...]]:
        rows, H = len(self.gates) * self.hidden_size, self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        if self.layer_norm == "separate":
            shapes = {"norm_ih": (rows,), "norm_hh": (rows,)}
        elif self.layer_norm:
            shapes = {"norm": (rows,)}
        if self.layer_norm and self.has_c:
            shapes |= {"norm_c": (H,), "bias_c": (H,)} if self.bias else {"norm_c": (H,)}
        return shapes

    @property
    def missing(self) -> dict[str, str]:
        normalised = dict.fromkeys(("PyTorch", "Keras", "ONNX"), "layer normalisation") if self.layer_norm else {}
        return super().missing | normalised


@dataclass(frozen=True)
class RNNCell(NormalizedCell):
    """The vanilla (Elman) cell."""

    nonlinearity: str = "tanh"  # or "relu"
    zoneout: float = 0.0  # probability with which a unit of h_t keeps its value of the step before
    clip: float | None = None  # activations are given nothing outside -clip..clip

    kind = "rnn"
    panels: ClassVar = {"h": "state: h"}
    torch = TorchNames("h", {"RNN_TANH": {"nonlinearity": "tanh"}, "RNN_RELU": {"nonlinearity": "relu"}})
    keras = KerasNames("h")
    onnx = ONNXNames("RNN", "h", {("Tanh",): {"nonlinearity": "tanh"}, ("Relu",): {"nonlinearity": "relu"}}, {})

    @property
    def gates(self) -> str:
        return "h"

    @property
    def native(self) -> str:
        return f"rnn_{self.nonlinearity}"


@dataclass(frozen=True)
class LSTMCell(NormalizedCell):
    """Long short-term memory."""

    proj_size: int = 0  # P > 0: h_t is projected to P values
    peephole: bool = False  # gates see c
    coupled: bool = False  # there is no gate f; what i does not write is kept: f = 1 - i
    zoneout: float = 0.0  # as of an RNN
    zoneout_cell: float = 0.0  # likewise of c_t
    clip: float | None = None  # activations are given nothing outside -clip..clip

    kind = "lstm"
    states = "hc"
    sigmoids = "ifo"
    panels: ClassVar = {"f": "kept: f", "i": "written: i", "o": "shown: o", "c": "cell: c"}
    torch = TorchNames("ifgo", {"LSTM": {}})
    keras = KerasNames("ifgo")
    onnx = ONNXNames("LSTM", "iofg", {("Sigmoid", "Tanh", "Tanh"): {}}, {"coupled": "input_forget"}, "iof")

    @property
    def gates(self) -> str:
        return "igo" if self.coupled else "ifgo"

    @property
    def native(self) -> str:
        return "lstm_coupled" if self.coupled else "lstm"

    @property
    def output_size(self) -> int:
        return self.proj_size or self.hidden_size

    @property
    def recorded(self) -> tuple[str, ...]:
        return ("i", "g", "o") if self.coupled else ("i", "f", "g", "o")

    @property
    def peepholes(self) -> str:
        return "io" if self.coupled else "ifo"  # i and f see c_{t-1}, o sees c_t

    @classmethod
    def structures(cls, shapes: Shapes) -> list[Options]:
        projected = "weight_hr" in shapes
        read = {"proj_size": shapes["weight_hr"][0] if projected else 0, "peephole": "peephole" in shapes}
        read |= super().structures(shapes)[0]
        return [read | {"coupled": coupled} for coupled in (False, True)]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = Cell.shapes(self)
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size)
        if self.peephole:
            shapes["peephole"] = (len(self.peepholes), self.hidden_size)
        return shapes | self._norm_shapes()

    @property
    def missing(self) -> dict[str, str]:
        missing = super().missing
        if self.proj_size:
            missing |= {"Keras": "a projection", "ONNX": "a projection"}
        if self.peephole:
            missing |= {"PyTorch": "peepholes", "Keras": "peepholes"}
        if self.coupled:
            missing |= {"PyTorch": "coupled gates", "Keras": "coupled gates"}
        return missing


@dataclass(frozen=True)
class GRUCell(NormalizedCell):
    """The gated recurrent unit."""

    reset_after: bool = True  # whether the reset gate is applied after U_n h, or to h itself
    update_gate: str = "keep"  # z weighs the old state; or "replace": the new one
    zoneout: float = 0.0  # as of an RNN
    clip: float | None = None  # activations are given nothing outside -clip..clip

    kind = "gru"
    layer_norms: ClassVar[tuple[str, ...]] = ("separate",)
    sigmoids = "rz"
    panels: ClassVar = {"z": "update: z", "r": "reset: r", "n": "candidate: n"}
    torch = TorchNames("rzn", {"GRU": {}})
    keras = KerasNames("zrn", two_biases="reset_after")
    onnx = ONNXNames("GRU", "zrn", {("Sigmoid", "Tanh"): {}}, {"reset_after": "linear_before_reset"})

    @property
    def gates(self) -> str:
        return "rzn"

    @property
    def native(self) -> str:
        return "gru_after" if self.reset_after else "gru_before"

    @property
    def replaces(self) -> bool:
        return self.update_gate == "replace"

    @property
    def norm_products(self) -> int:
        return 1 if self.reset_after else 2

    @property
    def recorded(self) -> tuple[str, ...]:
        return ("r", "z", "n", "hn") if self.reset_after else ("r", "z", "n")  # hn is U_n h + b_hn

    @property
    def missing(self) -> dict[str, str]:
        return ({} if self.reset_after else {"PyTorch": "a GRU with reset_after=False"}) | super().missing


@dataclass(frozen=True)
class SLSTMCell(Cell):
    """The sLSTM: an LSTM with exponential gates, a normaliser and a stabiliser."""

    num_heads: int = 1  # divides hidden_size

    kind = "slstm"
    states = "hcnm"
    sigmoids = "ifo"
    panels: ClassVar = {"f": "kept: f", "i": "written: i", "o": "shown: o", "c": "cell: c", "n": "normaliser: n"}

    @property
    def gates(self) -> str:
        return "ifzo"

    @property
    def native(self) -> str:
        return "slstm"

    @property
    def heads(self) -> int:
        return self.num_heads

    @property
    def recorded(self) -> tuple[str, ...]:
        return ("i", "f", "z", "o", "k")  # k = sigmoid(-a_f), the slope of log(sigmoid(a_f))

    @classmethod
    def structures(cls, shapes: Shapes) -> list[Options]:
        rows, units = shapes.get("weight_hh", (4, 1))
        return [{"num_heads": max(1, rows // 4 // max(1, units))}]

    @property
    def missing(self) -> dict[str, str]:
        return dict.fromkeys(("PyTorch", "Keras", "ONNX"), "an sLSTM")


@dataclass(frozen=True)
class MinGRUCell(Cell):
    """minGRU: a GRU whose gates do not see the state."""

    nonlinearity: str = "positive"  # of the candidate n; or "linear"

    kind = "mingru"
    sigmoids = "z"
    panels: ClassVar = {"z": "update: z", "n": "candidate: n"}
    unconnected = True

    @property
    def gates(self) -> str:
        return "zn"

    @property
    def layer(self) -> str:
        return "MinGRU"

    @property
    def native(self) -> str:
        return "min_gru"

    @property
    def recorded(self) -> tuple[str, ...]:
        return ("z", "n")


@dataclass(frozen=True)
class MinLSTMCell(Cell):
    """minLSTM: input and forget gate, which do not see the state, share h_t out between the candidate and h_{t-1}."""

    nonlinearity: str = "positive"  # of the candidate n; or "linear"

    kind = "minlstm"
    sigmoids = "if"
    panels: ClassVar = {"f": "forget: f", "i": "input: i", "n": "candidate: n"}
    unconnected = True

    @property
    def gates(self) -> str:
        return "ifn"

    @property
    def layer(self) -> str:
        return "MinLSTM"

    @property
    def native(self) -> str:
        return "min_lstm"

    @property
    def recorded(self) -> tuple[str, ...]:
        return ("i", "f", "n")


CELLS: dict[str, type[Cell]] = {
    cell.kind: cell for cell in (RNNCell, LSTMCell, GRUCell, SLSTMCell, MinGRUCell, MinLSTMCell)
}
