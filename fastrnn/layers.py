"""The layers: RNN, LSTM and GRU with any number of layers and directions, forwards and backwards."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastrnn import engines, validate
from fastrnn.engines import memory
from fastrnn.engines.cell import Cell, Record, Weights
from fastrnn.frozen import Frozen, infer
from fastrnn.params import Gradients, Parameters
from fastrnn.stack import Stack, State, at, direction_part, state_to_caller
from fastrnn.validate import Arguments

__all__ = ["GRU", "LSTM", "RNN", "Gradients", "Tape"]


class Tape:
    """What a forward run kept for `backward`.

    It shares x, the initial state, y and the parameters with the caller: do not change them in place before
    `backward`. Per step and row it owns (G + 1)*H values for an LSTM, G*H for a GRU (one H more with reset_after),
    none for an RNN; between layers, one y more, and with dropout that again and one byte a value.
    """

    __slots__ = ("_args", "_dropout", "_engine", "_inputs", "_masks", "_outputs", "_records", "_stack", "_weights")

    def __init__(
        self, stack: Stack, engine: engines.Engine, args: Arguments, weights: list[Weights], inputs: list[NDArray],
        dropout: float, masks: list[NDArray | None], outputs: list[NDArray], records: list[Record],
    ) -> None:  # fmt: skip
        self._stack, self._engine, self._args, self._weights = stack, engine, args, weights
        self._inputs, self._dropout, self._masks = inputs, dropout, masks
        self._outputs, self._records = outputs, records

    def gates(self, layer: int = 0, direction: int = 0) -> dict[str, NDArray]:
        """Return what each gate did at each step.

        Parameters
        ----------
        layer, direction : int
            Which layer (from 0, the lowest) and which direction (0 forwards, 1 backwards).

        Returns
        -------
        dict of str to ndarray
            Read-only views (T, B, H) under the names of the equations, zero past a sequence's end.
            LSTM: i, f, g, o and c. GRU: r, z, n and, with reset_after, hn (U_n h + b_hn). RNN: h.

        Raises
        ------
        IndexError
            If there is no such layer or direction.
        """
        directions = self._stack.directions
        layer = validate.index("layer", layer, len(self._stack.cells))
        direction = validate.index("direction", direction, directions)
        record, cell = self._records[layer * directions + direction], self._stack.cells[layer]
        views = {}
        if record.gates is not None:
            views = {name: record.gates[:, :, k] for k, name in enumerate(cell.recorded)}
        if record.cells is not None:
            views["c"] = record.cells[:]
        if cell.kind == "rnn":
            views["h"] = direction_part(self._outputs[layer], direction, cell.output_size)
        for view in views.values():
            view.flags.writeable = False
        return views


class Recurrent(Parameters):
    """What RNN, LSTM and GRU share: parameters, and runs over the stack of layers and directions."""

    def __init__(
        self, kind: str, input_size: int, hidden_size: int, num_layers: int, bias: bool, batch_first: bool,
        dropout: float, bidirectional: bool, dtype: DTypeLike, rng: Any, *, proj_size: int = 0, **options: Any,
    ) -> None:  # fmt: skip
        input_size = validate.size("input_size", input_size)
        hidden_size = validate.size("hidden_size", hidden_size)
        num_layers = validate.size("num_layers", num_layers)
        proj_size = validate.size("proj_size", proj_size, minimum=0)
        if proj_size >= hidden_size and proj_size > 0:
            raise ValueError(f"proj_size: expected less than hidden_size ({hidden_size}), got {proj_size}")
        self.dropout = dropout
        directions = 2 if validate.flag("bidirectional", bidirectional) else 1
        above = directions * (proj_size or hidden_size)  # input size of layers > 0
        options |= {"bias": validate.flag("bias", bias), "dtype": validate.dtype(dtype), "proj_size": proj_size}
        bottom = Cell(kind, input_size, hidden_size, **options)
        upper = Cell(kind, above, hidden_size, **options)
        validate.layers_addressable(num_layers, (bottom, upper))
        self._stack = Stack(
            (bottom, *[upper] * (num_layers - 1)), directions, validate.flag("batch_first", batch_first)
        )
        try:
            self._rng = np.random.default_rng(rng)
        except (TypeError, ValueError) as error:
            raise type(error)(f"rng: expected a seed or a numpy.random.Generator, got {rng!r} ({error})") from None
        bound = 1 / np.sqrt(hidden_size)
        self.params: dict[str, NDArray] = {
            name: self._rng.uniform(-bound, bound, shape).astype(bottom.dtype)
            for layer in range(num_layers)
            for direction in range(directions)
            for name, shape in self._stack.names(layer, direction).values()
        }

    @property
    def input_size(self) -> int:
        """I: size of x's last axis."""
        return self._stack.cells[0].input_size

    @property
    def hidden_size(self) -> int:
        """H: hidden units a layer and direction."""
        return self._stack.cells[0].hidden_size

    @property
    def num_layers(self) -> int:
        """L: layers, one upon the other."""
        return len(self._stack.cells)

    @property
    def bidirectional(self) -> bool:
        """Whether each layer also runs from the end to the start."""
        return self._stack.directions == 2

    @property
    def batch_first(self) -> bool:
        """Whether arrays are (B, T, .) instead of (T, B, .)."""
        return self._stack.batch_first

    @property
    def dtype(self) -> np.dtype:
        """The dtype of parameters, inputs and outputs."""
        return self._stack.dtype

    @property
    def dropout(self) -> float:
        """Probability of zeroing a value between layers in `forward`; may be assigned."""
        return self._dropout

    @dropout.setter
    def dropout(self, value: float) -> None:
        self._dropout = validate.probability("dropout", value)

    def __repr__(self) -> str:
        cell = self._stack.cells[0]
        options = [f"{cell.input_size}, {cell.hidden_size}"]
        options += [f"num_layers={self.num_layers}"] if self.num_layers > 1 else []
        options += ["bias=False"] if not cell.bias else []
        options += ["batch_first=True"] if self.batch_first else []
        options += [f"dropout={self.dropout}"] if self.dropout else []
        options += ["bidirectional=True"] if self.bidirectional else []
        options += [f"proj_size={cell.proj_size}"] if cell.proj_size else []
        options += ["peephole=True"] if cell.peephole else []
        options += [f"nonlinearity={cell.nonlinearity!r}"] if cell.nonlinearity != "tanh" else []
        options += ["reset_after=False"] if not cell.reset_after else []
        options += [f"update_gate={cell.update_gate!r}"] if cell.update_gate != "keep" else []
        options += [f"dtype={self.dtype.name}"] if self.dtype != np.float32 else []
        return f"{type(self).__name__}({', '.join(options)})"

    def __call__(
        self, x: Any, state: Any = None, *, lengths: Any = None, resets: Any = None
    ) -> tuple[NDArray, State]:  # fmt: skip
        """Run the layer and keep nothing: inference.

        Parameters
        ----------
        x : array_like
            (T, B, I), with batch_first (B, T, I), or (T, I) for one sequence; the layer's dtype.
        state : array_like or tuple of array_like, optional
            Initial state: h (L*D, B, O), or (h, c) with c (L*D, B, H) for an LSTM, where O is proj_size or else H;
            layer-major, directions inside. (L*D, .) for an unbatched x. Default: zeros.
        lengths : array_like of int, optional
            (B,), each in 0..T, in any order: how many steps of each sequence are valid. Default: all.
        resets : array_like of bool, optional
            Shaped as x without its last axis: the state is set to zero before the steps where it is true. In the
            backward direction a reset at t is the boundary between t-1 and t.

        Returns
        -------
        y : ndarray
            (T, B, D*O), laid out as x is; zero past a sequence's end.
        state : ndarray or tuple of ndarray
            Final state, shaped as the initial one: after each sequence's last valid step.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong type, dtype, shape or value; before any work.
        """
        args = validate.arguments(self._stack, x, state, lengths, resets)
        engine = engines.current()
        weights = validate.weights(self._stack, self.params)
        prepared = [engine.prepare(self._stack.cells[k // self._stack.directions], w) for k, w in enumerate(weights)]
        return infer(self._stack, engine, prepared, args)

    def forward(
        self, x: Any, state: Any = None, *, lengths: Any = None, resets: Any = None, rng: Any = None
    ) -> tuple[NDArray, State, Tape]:
        """Run the layer for training: as a call does, with dropout, and with a tape for `backward`.

        Parameters
        ----------
        x, state, lengths, resets
            As for a call.
        rng : seed or numpy.random.Generator, optional
            Source of dropout. Default: the layer's own.

        Returns
        -------
        y, state
            As for a call.
        tape : Tape
            What `backward` needs. It shares x, state, y and the parameters: see `Tape`.

        Raises
        ------
        TypeError, ValueError
            As for a call.
        """
        stack, engine, dropout = self._stack, engines.current(), self.dropout
        rng = self._rng if rng is None else np.random.default_rng(rng)
        args = validate.arguments(stack, x, state, lengths, resets, taped=True)
        weights = validate.weights(stack, self.params)
        (T, B), D = args.x.shape[:2], stack.directions
        h_n = np.empty_like(args.h0)
        c_n = None if args.c0 is None else np.empty_like(args.c0)
        inputs: list[NDArray] = [args.x]
        masks: list[NDArray | None] = []
        outputs: list[NDArray] = []
        records: list[Record] = []
        for layer, cell in enumerate(stack.cells):
            last = layer == len(stack.cells) - 1
            y = stack.empty(T, B, stack.output_size) if last else memory.empty((T, B, stack.output_size), stack.dtype)
            calls = []
            for d in range(D):
                k = layer * D + d
                records.append(cell.new_record(T, B, zeroed=args.lengths is not None))
                calls.append((
                    cell, engine.prepare(cell, weights[k]), args.steps(d), inputs[layer], args.h0[k], at(args.c0, k),
                    direction_part(y, d, cell.output_size), h_n[k], at(c_n, k), records[k],
                ))  # fmt: skip
            engine.forward_directions(calls)
            outputs.append(y)
            if not last:
                masks.append(rng.random(y.shape, np.float32) >= dropout if dropout else None)
                inputs.append(_dropped(y, masks[layer], dropout))
        tape = Tape(stack, engine, args, weights, inputs, dropout, masks, outputs, records)
        return stack.to_caller(outputs[-1], args.batched), state_to_caller(h_n, c_n, args.batched), tape

    def backward(self, tape: Tape, dy: Any = None, dstate: Any = None, *, wants_x: bool = True) -> Gradients:
        """Differentiate a run of `forward`.

        A pure function of its arguments: nothing accumulates, and any number of threads may run it at once.

        Parameters
        ----------
        tape : Tape
            From a `forward` of this layer.
        dy : array_like, optional
            Gradient of the loss in y; y's shape. Default: zeros. Ignored past a sequence's end.
        dstate : array_like or tuple of array_like, optional
            Gradient of the loss in the final state; the state's shape. Default: zeros.
        wants_x : bool, default True
            Whether the gradient in x is computed. Where x is data, leaving it out saves up to a quarter of the work.

        Returns
        -------
        Gradients
            `x`, which is None if it was not wanted, `state` and `params`.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong type, dtype or shape, if the tape is another layer's, or if neither gradient
            is given; before any work.
        """
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected a Tape from forward(), got {type(tape).__name__}")
        if tape._stack is not self._stack:
            raise ValueError("tape: expected one from this layer's forward(), got another layer's")
        if dy is None and dstate is None:
            raise ValueError("dy, dstate: expected at least one of them, got neither")
        wants_x = validate.flag("wants_x", wants_x)
        stack, engine, args = self._stack, tape._engine, tape._args
        T, B, _ = args.x.shape
        D = stack.directions
        dh_n, dc_n = validate.state_like(stack, "dstate", dstate, B, args.batched)
        dy = None if dy is None else validate.cotangent(stack, dy, T, B, args.batched)
        dh0 = np.empty_like(args.h0)
        dc0 = None if args.c0 is None else np.empty_like(args.c0)
        params: dict[str, NDArray] = {}
        dweights = [self._zero_weights(layer, d, params) for layer in range(len(stack.cells)) for d in range(D)]
        for layer in reversed(range(len(stack.cells))):
            cell = stack.cells[layer]
            dx: NDArray | None = None
            if layer > 0:
                dx = memory.empty((T, B, cell.input_size), stack.dtype)
            elif wants_x:
                dx = stack.empty(T, B, cell.input_size)
            for d in range(D):
                k = layer * D + d
                weights = engine.prepare_backward(cell, tape._weights[k])
                y_d = direction_part(tape._outputs[layer], d, cell.output_size)
                dy_d = None if dy is None else direction_part(dy, d, cell.output_size)
                engine.backward(
                    cell, weights, args.steps(d), tape._inputs[layer], args.h0[k], at(args.c0, k), y_d,
                    tape._records[k], dy_d, dh_n[k], at(dc_n, k), dx, dh0[k], at(dc0, k), dweights[k], d > 0,
                )  # fmt: skip
            if layer > 0 and dx is not None:
                dy = _dropped(dx, tape._masks[layer - 1], tape._dropout)
        state = state_to_caller(dh0, dc0, args.batched)
        return Gradients(None if dx is None else stack.to_caller(dx, args.batched), state, params)

    def freeze(self) -> Frozen:
        """Return an immutable copy for inference: weights packed once, safe to share among threads.

        Returns
        -------
        Frozen
            Keeps the parameters of this moment, and the engine in force now.
        """
        return Frozen(self._stack, engines.current(), validate.weights(self._stack, self.params))

    def _zero_weights(self, layer: int, direction: int, params: dict[str, NDArray]) -> Weights:
        """Zeros for the gradients of one direction of one layer, entered into `params` under their full names."""
        fields: dict[str, NDArray | None] = dict.fromkeys(Weights._fields)
        for field, (name, shape) in self._stack.names(layer, direction).items():
            fields[field] = params[name] = memory.zeros(shape, self.dtype)
        return Weights(**fields)  # type: ignore[arg-type]


class RNN(Recurrent):
    """Vanilla (Elman) recurrent layer: h_t = act(W x_t + b_ih + U h_{t-1} + b_hh).

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int, default 1
        L. Layer l > 0 reads the concatenation of the directions of layer l - 1.
    nonlinearity : {"tanh", "relu"}, default "tanh"
        act.
    bias : bool, default True
        Whether there are bias_ih and bias_hh.
    batch_first : bool, default False
        Arrays are (B, T, .) instead of (T, B, .); states are not affected.
    dropout : float, default 0.0
        Probability of zeroing a value between layers, in `forward` only.
    bidirectional : bool, default False
        Whether each layer also runs from the end to the start; D is 2 then, else 1.
    dtype : float32 or float64, default float32
        Of parameters, inputs and outputs.
    rng : seed or numpy.random.Generator, optional
        Source of the initial parameters, uniform in +-1/sqrt(H), and of dropout.

    Attributes
    ----------
    params : dict of str to ndarray
        The parameters, under PyTorch's names: weight_ih_l0 (H, I), weight_hh_l0 (H, H), bias_ih_l0 and bias_hh_l0
        (H,); _l1 and so on above, with suffix _reverse for the direction from the end.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

    References
    ----------
    J. L. Elman, "Finding structure in time", Cognitive Science 14 (1990).
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *,
        dtype: DTypeLike = np.float32, rng: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            "rnn", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, rng,
            nonlinearity=validate.choice("nonlinearity", nonlinearity, ("tanh", "relu")),
        )  # fmt: skip


class LSTM(Recurrent):
    """Long short-term memory: c_t = f*c_{t-1} + i*g, h_t = o*tanh(c_t); gates i, f, o = sigmoid(.), g = tanh(.).

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, rng
        As for `RNN`.
    proj_size : int, default 0
        P > 0: h_t = W_hr (o*tanh(c_t)) of size P < H.
    peephole : bool, default False
        i and f also see p_i*c_{t-1} and p_f*c_{t-1}, o sees p_o*c_t.

    Attributes
    ----------
    params : dict of str to ndarray
        As for `RNN` with rows of gates i, f, g, o: weight_ih_l0 (4*H, I), weight_hh_l0 (4*H, O), bias_ih_l0 and
        bias_hh_l0 (4*H,); with a projection weight_hr_l0 (P, H); with peepholes peephole_l0 (3, H), rows i, f, o.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

    References
    ----------
    F. A. Gers, J. Schmidhuber, F. Cummins, "Learning to forget", Neural Computation 12 (2000); peepholes:
    F. A. Gers, N. Schraudolph, J. Schmidhuber, JMLR 3 (2002); projection: H. Sak, A. Senior, F. Beaufays,
    arXiv:1402.1128 (2014).
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, *, peephole: bool = False,
        dtype: DTypeLike = np.float32, rng: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            "lstm", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, rng,
            proj_size=proj_size, peephole=validate.flag("peephole", peephole),
        )  # fmt: skip


class GRU(Recurrent):
    """Gated recurrent unit: gates r, z = sigmoid(.), candidate n = tanh(.), h_t a blend of n and h_{t-1} by z.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, rng
        As for `RNN`.
    reset_after : bool, default True
        n = tanh(W_n x + b_in + r*(U_n h + b_hn)), as in PyTorch, cuDNN and Keras; else
        n = tanh(W_n x + b_in + U_n (r*h) + b_hn), as in Cho et al. and ONNX's default.
    update_gate : {"keep", "replace"}, default "keep"
        h_t = (1 - z)*n + z*h_{t-1} ("keep": PyTorch, Keras, ONNX) or z*n + (1 - z)*h_{t-1} ("replace").

    Attributes
    ----------
    params : dict of str to ndarray
        As for `RNN` with rows of gates r, z, n: weight_ih_l0 (3*H, I), weight_hh_l0 (3*H, H), bias_ih_l0 and
        bias_hh_l0 (3*H,).

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

    References
    ----------
    K. Cho et al., "Learning phrase representations using RNN encoder-decoder", arXiv:1406.1078 (2014).
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, *, reset_after: bool = True, update_gate: str = "keep",
        dtype: DTypeLike = np.float32, rng: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            "gru", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, rng,
            reset_after=validate.flag("reset_after", reset_after),
            update_gate=validate.choice("update_gate", update_gate, ("keep", "replace")),
        )  # fmt: skip


def _dropped(a: NDArray, mask: NDArray | None, dropout: float) -> NDArray:
    """Zero where the mask says so, and scale the rest so that the expectation stays."""
    return a if mask is None else a * (mask * a.dtype.type(1 / (1 - dropout)))
