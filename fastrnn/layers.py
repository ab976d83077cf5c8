"""The layers: RNN, LSTM, GRU and others with any number of layers and directions, forwards and backwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastrnn import engines, run, segments, validate
from fastrnn.arguments import Arguments, arguments, cotangent, initial_state, layers_fit, state_like
from fastrnn.arguments import weights as checked_weights
from fastrnn.engines import philox
from fastrnn.engines.cell import Cell, GRUCell, LSTMCell, MinGRUCell, MinLSTMCell, RNNCell, SLSTMCell
from fastrnn.engines.seam import Weights
from fastrnn.frozen import Frozen, checked_precision
from fastrnn.noise import NO_DROPOUTS, Dropouts, Noise
from fastrnn.params import Gradients, Parameters
from fastrnn.stack import Stack, StackOwner, State, direction_part, parts_of_c, state_to_caller

__all__ = ["GRU", "LAYERS", "LSTM", "RNN", "SLSTM", "Gradients", "MinGRU", "MinLSTM", "Recurrent", "Tape"]

MOST_LAYERS = 10_000  # each has Python objects of its own, however small its parameters are


class Tape:
    """What a forward run kept for `backward`.

    It shares x, the initial state, y and the parameters with the caller: do not change them in place before
    `backward`. Per step and row it owns (G + 1)*H values for an LSTM, G*H for a GRU (one H more with reset_after),
    MinGRU and MinLSTM, 8*H for an sLSTM, none for an RNN; between layers, one y more. Layer normalisation adds 2*G*H
    values, or G*H if it is of sums, and a few for each row. Of a masked call it has the steps that were run only, and x
    and y at them as copies of its own. With weight dropout it owns each weight_hh as the run used it. With
    ``keep="states"`` it has states every so many steps instead, and not y; of a bidirectional layer also one y between
    layers.
    """

    __slots__ = ("_args", "_dropout", "_engine", "_kept", "_noise", "_stack", "_weights")

    def __init__(
        self, stack: Stack, engine: engines.Engine, args: Arguments, weights: list[Weights], dropout: _Dropout | None,
        kept: run.Kept | segments.Kept, noise: Noise | None = None,
    ) -> None:  # fmt: skip
        self._stack, self._engine, self._args, self._weights = stack, engine, args, weights
        self._dropout, self._kept, self._noise = dropout, kept, noise

    @property
    def cell(self) -> Cell:
        """What one direction of the lowest layer computes."""
        return self._stack.cells[0]

    @property
    def lengths(self) -> NDArray:
        """(B,): where each sequence ends, behind the last step that was run."""
        args = self._args
        if args.valid is not None:
            return args.valid.ends
        return np.full(args.x.shape[1], len(args.x)) if args.lengths is None else args.lengths

    def gates(self, layer: int = 0, direction: int = 0) -> dict[str, NDArray]:
        """Return what each gate did at each step.

        Parameters
        ----------
        layer, direction : int
            Which layer (from 0, the lowest) and which direction (0 forwards, 1 backwards).

        Returns
        -------
        dict of str to ndarray
            Read-only views (T, B, H) under the names of the equations, zero at steps that were not run. (Of a call
            whose mask is more than lengths they are copies. Where the tape keeps states only, they are computed again,
            and take the memory that ``keep="all"`` takes.)
            LSTM: i, f, g, o and c. GRU: r, z, n and, with reset_after, hn (U_n h + b_hn). RNN: h. sLSTM: i, f, z, o,
            k = sigmoid(-a_f), and c, n, m. MinGRU: z, n. MinLSTM: i, f, n.

        Raises
        ------
        IndexError
            If there is no such layer or direction.
        """
        D = len(self._stack.directions)
        layer = validate.index("layer", layer, self._stack.num_layers)
        direction = validate.index("direction", direction, D)
        k = layer * D + direction
        cell = self._stack.cells[k]
        kept = segments.whole(
            self._stack, self._engine, self._args, self._weights, self._kept, self._dropout, self._noise
        )
        views = cell.views(kept.records[k], direction_part(kept.outputs[layer], direction, cell.output_size))
        if self._args.valid is not None:
            scatter, time_major = self._args.valid.scatter, self._stack.time_major
            views = {name: time_major(scatter(view), self._args.batched) for name, view in views.items()}
        for view in views.values():
            view.flags.writeable = False
        return views


class _Dropout:
    """Dropout between layers in a `forward`: of each value or none, at random."""

    def __init__(self, probability: float, rng: np.random.Generator, operations: engines.Operations) -> None:
        self._probability, self._rng, self._operations = probability, rng, operations

    def draw(self, shape: tuple[int, ...]) -> int:
        """The key of a mask."""
        return philox.new_key(self._rng)

    def apply(self, a: NDArray, drawn: int, first: int = 0) -> NDArray:
        """Zero some values, and scale those that stay so that the expectation does."""
        return self._operations.dropout(a, drawn, self._probability, first * a[:1].size)


def _assignable(name: str, says: str) -> Any:
    """The property of one of a layer's `Dropouts`."""

    def get(layer: Recurrent) -> float:
        value: float = getattr(layer._dropouts, name)
        return value

    def assign(layer: Recurrent, value: float) -> None:
        layer._dropouts = layer._dropouts._replace(**{name: validate.probability(name, value)})

    return property(get, assign, doc=f"Probability of zeroing {says}, in `forward`; may be assigned.")


class Recurrent(StackOwner, Parameters):
    """What all layers share: parameters, and runs over the stack of layers and directions."""

    _cell: ClassVar[type[Cell]]
    _keep: segments.Keep = "all"

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int, bias: bool, batch_first: bool, dropout: float,
        bidirectional: bool, learn_initial_state: bool, dtype: DTypeLike, rng: Any,
        dropouts: Dropouts = NO_DROPOUTS, **options: Any,
    ) -> None:  # fmt: skip
        input_size = validate.size("input_size", input_size)
        hidden_size = validate.size("hidden_size", hidden_size)
        num_layers = validate.size("num_layers", num_layers, maximum=MOST_LAYERS)
        self.dropout = dropout
        self._dropouts = Dropouts(*map(validate.probability, Dropouts._fields, dropouts))
        directions = (False, True) if validate.flag("bidirectional", bidirectional) else (False,)
        bias, dtype = validate.flag("bias", bias), validate.dtype(dtype)
        bottom = self._cell(input_size, hidden_size, dtype, bias, **options)
        cells = Stack.of(bottom, 2, directions, False).cells
        layers_fit(num_layers, cells[: len(directions)], cells[len(directions) :])
        self._stack = Stack.of(
            bottom, num_layers, directions, validate.flag("batch_first", batch_first),
            validate.flag("learn_initial_state", learn_initial_state),
        )  # fmt: skip
        self._rng = validate.generator("rng", rng)
        bound = 1 / np.sqrt(hidden_size)
        starts = self._cell.starts
        self.params: dict[str, NDArray] = {
            name: np.full(shape, starts[field], dtype) if field in starts
            else self._rng.uniform(-bound, bound, shape).astype(dtype)
            for k in range(len(self._stack.cells))
            for field, (name, shape) in self._stack.names(k).items()
        }  # fmt: skip
        for k in range(len(self._stack.cells)):
            for name, shape in self._stack.initial_names(k).items():  # of an empty state, n = 0, nothing can be learnt
                self.params[name] = np.full(shape, name.startswith("initial_n"), dtype)

    @classmethod
    def _norm_options(cls, layer_norm: Any, eps: Any, clip: Any) -> dict[str, Any]:
        """The options of layer normalisation, checked. ONNX, whose clip this is, has none."""
        if layer_norm is not None:
            validate.choice("layer_norm", layer_norm, cls._cell.layer_norms)
            if clip is not None:
                raise ValueError(f"clip: expected None where layer_norm is given, got {clip}")
        return {"layer_norm": layer_norm, "layer_norm_eps": validate.at_least_zero("layer_norm_eps", eps)}

    @property
    def batch_first(self) -> bool:
        """Whether arrays are (B, T, .) instead of (T, B, .)."""
        return self._stack.batch_first

    @property
    def initial_state(self) -> State | None:
        """A copy of the learnt initial state of a sequence: h (L*D, O), or (h, c). None where it is not learnt."""
        initial = initial_state(self._stack, self.params)
        return None if initial is None else state_to_caller(*initial, True, self._stack.has_c)

    @property
    def dropout(self) -> float:
        """Probability of zeroing a value between layers in `forward`; may be assigned."""
        return self._dropout

    @dropout.setter
    def dropout(self, value: float) -> None:
        self._dropout = validate.probability("dropout", value)

    @property
    def keep(self) -> segments.Keep:
        """What tapes of `forward` keep where it is not told: "all", "states" or a number of steps; may be assigned."""
        return self._keep

    @keep.setter
    def keep(self, value: segments.Keep) -> None:
        self._keep = segments.checked_keep("keep", value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._stack.options(self.dropout, **self._dropouts._asdict())})"

    def __call__(
        self, x: Any, state: Any = None, *, lengths: Any = None, resets: Any = None, mask: Any = None,
        masked_output: str = "zero",
    ) -> tuple[NDArray, State]:  # fmt: skip
        """Run the layer and keep nothing: inference.

        Parameters
        ----------
        x : array_like
            (T, B, I), with batch_first (B, T, I), or (T, I) for one sequence; the layer's dtype.
        state : array_like or tuple of array_like, optional
            Initial state: h (L*D, B, O), or (h, c) with c (L*D, B, H) for an LSTM, where O is proj_size or else H, or
            (h, c, n, m) for an sLSTM; layer-major, directions inside. (L*D, .) for an unbatched x. Default: zeros, or
            the learnt initial state.
        lengths : array_like of int, optional
            (B,), each in 0..T, in any order: how many steps of each sequence are valid. Default: all.
        resets : array_like of bool, optional
            Shaped as x without its last axis: the state is set to zero before the steps where it is true. In the
            backward direction a reset at t is the boundary between t-1 and t. Not with a learnt initial state.
        mask : array_like of bool, optional
            Shaped as x without its last axis: which steps are run. The others leave the state as it is and read
            nothing of x, wherever they are; with `lengths`, steps past the end are not run either. Default: all.
        masked_output : {"zero", "hold"}, default "zero"
            What y is at the steps that are not run: zeros, or the direction's last output before them, in its running
            order (zeros if there is none).

        Returns
        -------
        y : ndarray
            (T, B, D*O), laid out as x is; `masked_output` past a sequence's end and where `mask` is false.
        state : ndarray or tuple of ndarray
            Final state, shaped as the initial one: after each sequence's last valid step.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong type, dtype, shape or value; before any work.
        """
        stack, engine = self._stack, engines.current()
        args = arguments(stack, x, state, lengths, resets, mask, masked_output, initial_state(stack, self.params))
        prepared = run.prepare(stack, engine, checked_weights(stack, self.params))
        y, h, c = run.infer(stack, engine, prepared, args)
        return args.results(stack, y, h, c)

    def forward(
        self, x: Any, state: Any = None, *, lengths: Any = None, resets: Any = None, mask: Any = None,
        masked_output: str = "zero", rng: Any = None, keep: segments.Keep | None = None,
    ) -> tuple[NDArray, State, Tape]:  # fmt: skip
        """Run the layer for training: as a call does, with dropout, and with a tape for `backward`.

        Parameters
        ----------
        x, state, lengths, resets, mask, masked_output
            As for a call.
        rng : seed or numpy.random.Generator, optional
            Source of dropout. Default: the layer's own.
        keep : {"all", "states"} or int, optional
            What the tape keeps: "all" that happened at each step, or only the states every so many steps, between
            which `backward` runs the layer again. Results and gradients are the same, with the packed engine to the
            bit. With "states" the number of steps is that which needs the least memory, about 2*sqrt(T) steps' worth,
            for the price of one more forward run; a number is rounded up to where the engine's sums over steps may be
            cut (a power of two, at most 256). A run of fewer steps keeps all. docs/memory.md has sizes and times.
            Default: the layer's own `keep`, which is "all" at first.

        Returns
        -------
        y, state
            As for a call.
        tape : Tape
            What `backward` needs. It shares x, state, y and the parameters: see `Tape`.

        Raises
        ------
        TypeError, ValueError
            As for a call, or if `keep` is none of these.
        """
        stack, engine = self._stack, engines.current()
        rng = self._rng if rng is None else validate.generator("rng", rng)
        keep = self._keep if keep is None else segments.checked_keep("keep", keep)
        dropout = _Dropout(self.dropout, rng, engine.operations) if self.dropout else None
        initial = initial_state(stack, self.params)
        args = arguments(stack, x, state, lengths, resets, mask, masked_output, initial, taped=True)
        weights = checked_weights(stack, self.params)
        noise = None
        if any(self._dropouts) or any(self.cell.zoneouts):
            noise = Noise(philox.new_key(rng), self._dropouts, engine.operations)
        weights = weights if noise is None else noise.weights(weights)
        y, h, c, kept = segments.forward(stack, engine, args, weights, keep, dropout, noise)
        y, state = args.results(stack, y, h, c)
        return y, state, Tape(stack, engine, args, weights, dropout, kept, noise)

    def backward(self, tape: Tape, dy: Any = None, dstate: Any = None, *, wants_x: bool = True) -> Gradients:
        """Differentiate a run of `forward`.

        A pure function of its arguments: nothing accumulates, and any number of threads may run it at once.

        Parameters
        ----------
        tape : Tape
            From a `forward` of this layer.
        dy : array_like, optional
            Gradient of the loss in y; y's shape. Default: zeros. Not read where y is zero because no
            step was run.
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
        stack, args = self._stack, tape._args
        dh_n, dc_n = state_like(stack, "dstate", dstate, args.h0.shape[1], args.batched)
        dy = None if dy is None else cotangent(stack, dy, args)
        if args.valid is not None:
            dh_n, dc_n = args.valid.sorted(dh_n, dc_n)
        dx, dh0, dc0, dweights = segments.backward(
            stack, tape._engine, args, tape._weights, tape._kept, dy, dh_n, dc_n, tape._dropout, wants_x,
            tape._noise,
        )  # fmt: skip
        dweights = dweights if tape._noise is None else tape._noise.weights(dweights)
        params: dict[str, NDArray] = {}
        for k, gradients in enumerate(dweights):
            there = [a for a in gradients if a is not None]
            params |= {name: a for (name, _), a in zip(stack.names(k).values(), there, strict=True)}
        for k in range(len(stack.cells)):
            dinitial = (dh0, *parts_of_c(dc0, stack.has_c)) if stack.learn_initial_state else ()
            for (name, shape), d in zip(stack.initial_names(k).items(), dinitial, strict=True):
                params[name] = d[k].sum(axis=0) if args.state_is_learnt else np.zeros(shape, stack.dtype)
        if args.valid is not None:
            dx, (dh0, dc0) = None if dx is None else args.valid.scatter(dx), args.valid.unsorted(dh0, dc0)
        elif dx is not None:
            dx = stack.to_caller(dx, args.batched)
        return Gradients(dx, state_to_caller(dh0, dc0, args.batched, stack.has_c), params)

    def freeze(self, precision: str | Sequence[str] | None = None) -> Frozen:
        """Return an immutable copy for inference: weights packed once, safe to share among threads.

        Parameters
        ----------
        precision : {"float32", "bfloat16", "int8"} or sequence of these, optional
            What the matrices are kept in: for all layers, or for each, from the lowest to the highest. Default: the
            layer's dtype. Inputs, outputs, states, biases and gates stay float32. docs/math.md has the scheme.

        Returns
        -------
        Frozen
            Keeps the parameters of this moment, and the engine in force now.

        Raises
        ------
        TypeError, ValueError
            If `precision` is none of these, the layer is not float32 and fewer bits are asked for, or int8 is and a
            weight is not finite or a layer has more than 131,072 inputs.
        """
        stack = self._stack
        chosen = checked_precision(stack, precision)
        weights, initial = checked_weights(stack, self.params), initial_state(stack, self.params)
        return Frozen(stack, engines.current(), weights, initial, chosen)


class Droppable(Recurrent):
    """What RNN, LSTM and GRU share: dropout within layers."""

    input_dropout = _assignable("input_dropout", "a value of x of each layer, at all steps")
    state_dropout = _assignable("state_dropout", "a value of h where it meets weight_hh, at all steps")
    weight_dropout = _assignable("weight_dropout", "an element of weight_hh")


class RNN(Droppable):
    """Vanilla (Elman) recurrent layer: h_t = act(W x_t + b_ih + U h_{t-1} + b_hh).

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int, default 1
        L, at most 10,000. Layer l > 0 reads the concatenation of the directions of layer l - 1.
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
    clip : float, optional
        Bounds what activations are given to -clip..clip, as ONNX's attribute does. Default: nothing is bounded.
    learn_initial_state : bool, default False
        Whether the state before the first step is a parameter, which starts as zeros. It is used where a call is given
        no state, and a stream starts with it and is reset to it. `resets` are an error then.
    layer_norm : {None, "separate", "sum"}, default None
        Layer normalisation of the pre-activations of each row, before the biases are added: of W x and of U h, each
        with a gain of its own ("separate"), or of W x + U h ("sum").
    layer_norm_eps : float, default 1e-5
        What is added to the variance, as in torch.nn.LayerNorm.
    input_dropout : float, default 0.0
        Probability of zeroing a value of the x of each layer, in `forward` only: one mask a sequence, the same at all
        steps (Gal and Ghahramani 2016).
    state_dropout : float, default 0.0
        Likewise of h_{t-1} where it meets weight_hh: all gates read the same values, and h_{t-1} itself stays.
    weight_dropout : float, default 0.0
        Probability of zeroing an element of each weight_hh, in `forward` only: one mask a call (Merity et al. 2018).
    zoneout : float, default 0.0
        Probability with which a unit of h_t keeps its value of the step before (Krueger et al. 2017), in `forward`.
        Inference computes the expectation, h_{t-1} + (1 - zoneout)*(h - h_{t-1}) where h is what the cell makes.
    dtype : float32 or float64, default float32
        Of parameters, inputs and outputs.
    rng : seed or numpy.random.Generator, optional
        Source of the initial parameters, uniform in +-1/sqrt(H), and of dropout.

    Attributes
    ----------
    params : dict of str to ndarray
        The parameters, under PyTorch's names: weight_ih_l0 (H, I), weight_hh_l0 (H, H), bias_ih_l0 and bias_hh_l0
        (H,); _l1 and so on above, with suffix _reverse for the direction from the end. With `learn_initial_state` also
        initial_h_l0 (O,) and so on, and for an LSTM initial_c_l0 (H,). With `layer_norm` also the gains, which start
        as ones: norm_ih_l0 and norm_hh_l0, or norm_l0, each (H,).

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value, or the parameters are more than the machine's memory.

    References
    ----------
    J. L. Elman, "Finding structure in time", Cognitive Science 14 (1990); layer normalisation: J. L. Ba, J. R. Kiros,
    G. E. Hinton, arXiv:1607.06450 (2016); input_dropout: Y. Gal, Z. Ghahramani, "A theoretically grounded application
    of dropout in recurrent neural networks", NIPS 2016, as state_dropout; weight_dropout: S. Merity, N. S. Keskar, R.
    Socher, "Regularizing and optimizing LSTM language models", ICLR 2018; zoneout: D. Krueger et al., "Zoneout:
    regularizing RNNs by randomly preserving hidden activations", ICLR 2017.
    """

    _cell = RNNCell

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *,
        clip: float | None = None, learn_initial_state: bool = False, input_dropout: float = 0.0,
        state_dropout: float = 0.0, weight_dropout: float = 0.0, zoneout: float = 0.0,
        layer_norm: str | None = None, layer_norm_eps: float = 1e-5, dtype: DTypeLike = np.float32, rng: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, learn_initial_state,
            dtype, rng, Dropouts(input_dropout, state_dropout, 0.0, weight_dropout),
            nonlinearity=validate.choice("nonlinearity", nonlinearity, ("tanh", "relu")),
            clip=validate.clip("clip", clip), zoneout=validate.probability("zoneout", zoneout),
            **self._norm_options(layer_norm, layer_norm_eps, clip),
        )  # fmt: skip


class LSTM(Droppable):
    """Long short-term memory: c_t = f*c_{t-1} + i*g, h_t = o*tanh(c_t); gates i, f, o = sigmoid(.), g = tanh(.).

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, learn_initial_state, dtype, rng
        As for `RNN`; likewise input_dropout, state_dropout, weight_dropout and zoneout.
    proj_size : int, default 0
        P > 0: h_t = W_hr (o*tanh(c_t)) of size P < H.
    peephole : bool, default False
        i and f also see p_i*c_{t-1} and p_f*c_{t-1}, o sees p_o*c_t.
    coupled : bool, default False
        Input and forget gate are one: f = 1 - i. There is no gate f then, and weights have three gates instead of four.
    clip : float, optional
        As for `RNN`; c is bounded where it is given to tanh, and stays as it is.
    layer_norm : {None, "separate", "sum"}, default None
        As for `RNN`: "separate" normalises all gates of W x, and of U h, together, "sum" each gate of W x + U h by
        itself. With either h_t = o*tanh(LN(c_t)), where c_t goes on as it is.
    layer_norm_eps : float, default 1e-5
        As for `RNN`.
    candidate_dropout : float, default 0.0
        Probability of zeroing a value of g, in `forward` only: another mask at each step (Semeniuta et al. 2016).
    zoneout_cell : float, default 0.0
        As zoneout, of c_t. h_t is made of the c_t before zoneout.

    Attributes
    ----------
    params : dict of str to ndarray
        As for `RNN` with rows of gates i, f, g, o: weight_ih_l0 (4*H, I), weight_hh_l0 (4*H, O), bias_ih_l0 and
        bias_hh_l0 (4*H,); with a projection weight_hr_l0 (P, H); with peepholes peephole_l0 (3, H), rows i, f, o.
        With `coupled` gates i, g, o, 3*H for 4*H, and peephole_l0 (2, H), rows i, o. With `layer_norm` norm_ih_l0 and
        norm_hh_l0, or norm_l0, each (4*H,), and norm_c_l0 and bias_c_l0 (H,); bias_c_l0 starts as zeros.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

    References
    ----------
    F. A. Gers, J. Schmidhuber, F. Cummins, "Learning to forget", Neural Computation 12 (2000); peepholes:
    F. A. Gers, N. Schraudolph, J. Schmidhuber, JMLR 3 (2002); projection: H. Sak, A. Senior, F. Beaufays,
    arXiv:1402.1128 (2014); coupled gates: K. Greff et al., "LSTM: a search space odyssey", IEEE TNNLS 28 (2017); layer
    normalisation: J. L. Ba, J. R. Kiros, G. E. Hinton, arXiv:1607.06450 (2016); candidate_dropout: S. Semeniuta, A.
    Severyn, E. Barth, "Recurrent dropout without memory loss", COLING 2016.
    """

    _cell = LSTMCell
    candidate_dropout = _assignable("candidate_dropout", "a value of g")

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, *, peephole: bool = False,
        coupled: bool = False, clip: float | None = None, learn_initial_state: bool = False, input_dropout: float = 0.0,
        state_dropout: float = 0.0, candidate_dropout: float = 0.0, weight_dropout: float = 0.0, zoneout: float = 0.0,
        zoneout_cell: float = 0.0,
        layer_norm: str | None = None, layer_norm_eps: float = 1e-5, dtype: DTypeLike = np.float32, rng: Any = None,
    ) -> None:  # fmt: skip
        hidden_size = validate.size("hidden_size", hidden_size)
        proj_size = validate.size("proj_size", proj_size, minimum=0)
        if proj_size >= hidden_size:
            raise ValueError(f"proj_size: expected less than hidden_size ({hidden_size}), got {proj_size}")
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, learn_initial_state,
            dtype, rng, Dropouts(input_dropout, state_dropout, candidate_dropout, weight_dropout),
            proj_size=proj_size, peephole=validate.flag("peephole", peephole),
            coupled=validate.flag("coupled", coupled), clip=validate.clip("clip", clip),
            zoneout=validate.probability("zoneout", zoneout),
            zoneout_cell=validate.probability("zoneout_cell", zoneout_cell),
            **self._norm_options(layer_norm, layer_norm_eps, clip),
        )  # fmt: skip


class GRU(Droppable):
    """Gated recurrent unit: gates r, z = sigmoid(.), candidate n = tanh(.), h_t a blend of n and h_{t-1} by z.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, learn_initial_state, dtype, rng
        As for `RNN`; likewise input_dropout, state_dropout, weight_dropout and zoneout.
    reset_after : bool, default True
        n = tanh(W_n x + b_in + r*(U_n h + b_hn)), as in PyTorch, cuDNN and Keras; else
        n = tanh(W_n x + b_in + U_n (r*h) + b_hn), as in Cho et al. and ONNX's default.
    update_gate : {"keep", "replace"}, default "keep"
        h_t = (1 - z)*n + z*h_{t-1} ("keep": PyTorch, Keras, ONNX) or z*n + (1 - z)*h_{t-1} ("replace").
    clip : float, optional
        As for `RNN`.
    layer_norm : {None, "separate"}, default None
        As for `RNN`: all gates of W x, and of U h, are normalised together. Without `reset_after` U_n (r*h) is
        normalised by itself, and so are the other gates of U h.
    layer_norm_eps : float, default 1e-5
        As for `RNN`.
    candidate_dropout : float, default 0.0
        Probability of zeroing a value of n, in `forward` only: another mask at each step (Semeniuta et al. 2016).

    Attributes
    ----------
    params : dict of str to ndarray
        As for `RNN` with rows of gates r, z, n: weight_ih_l0 (3*H, I), weight_hh_l0 (3*H, H), bias_ih_l0 and
        bias_hh_l0 (3*H,). With `layer_norm` also norm_ih_l0 and norm_hh_l0 (3*H,).

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

    References
    ----------
    K. Cho et al., "Learning phrase representations using RNN encoder-decoder", arXiv:1406.1078 (2014).
    """

    _cell = GRUCell
    candidate_dropout = _assignable("candidate_dropout", "a value of n")

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, *, reset_after: bool = True, update_gate: str = "keep",
        clip: float | None = None, learn_initial_state: bool = False, input_dropout: float = 0.0,
        state_dropout: float = 0.0, candidate_dropout: float = 0.0, weight_dropout: float = 0.0, zoneout: float = 0.0,
        layer_norm: str | None = None, layer_norm_eps: float = 1e-5,
        dtype: DTypeLike = np.float32, rng: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, learn_initial_state,
            dtype, rng, Dropouts(input_dropout, state_dropout, candidate_dropout, weight_dropout),
            reset_after=validate.flag("reset_after", reset_after),
            update_gate=validate.choice("update_gate", update_gate, ("keep", "replace")),
            clip=validate.clip("clip", clip), zoneout=validate.probability("zoneout", zoneout),
            **self._norm_options(layer_norm, layer_norm_eps, clip),
        )  # fmt: skip


class SLSTM(Recurrent):
    """sLSTM of xLSTM: c_t = f*c_{t-1} + i*z, n_t = f*n_{t-1} + i, h_t = o*c_t/n_t; gates i = e^a_i, f = sigmoid(a_f).

    The input gate is an exponential and n_t sums what was written, so h_t is an average that a new input can outweigh.
    All is kept divided by e^m_t, m_t = max(a_i, log f + m_{t-1}), so that nothing overflows. Units may be in heads,
    each of which sees its own units of h_{t-1} only.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, rng
        As for `RNN`.
    num_heads : int, default 1
        N, which divides H. U is block-diagonal: N blocks of H/N units.
    learn_initial_state : bool, default False
        As for `RNN`, but n starts as ones, because where n is 0 a state is empty, and nothing of it can be learnt.

    Attributes
    ----------
    params : dict of str to ndarray
        As for `RNN` with rows of gates i, f, z, o: weight_ih_l0 (4*H, I), weight_hh_l0 (4*H, H/N), bias_ih_l0 and
        bias_hh_l0 (4*H,). Row u of a gate's block of weight_hh acts on the h_{t-1} of u's own head. With
        `learn_initial_state` also initial_h_l0, initial_c_l0, initial_n_l0 and initial_m_l0 (H,).

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value, or `num_heads` does not divide `hidden_size`.

    Notes
    -----
    The state is (h, c, n, m), each (L*D, B, H). From zeros it is what the package xlstm computes, whose weights
    `fastrnn.weights.from_xlstm` reads. The convolution and the normalisation around the cell in that package's layers
    are no part of this layer.

    References
    ----------
    M. Beck et al., "xLSTM: extended long short-term memory", NeurIPS 2024, arXiv:2405.04517.
    """

    _cell = SLSTMCell

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, *, num_heads: int = 1, learn_initial_state: bool = False,
        dtype: DTypeLike = np.float32, rng: Any = None,
    ) -> None:  # fmt: skip
        hidden_size, num_heads = validate.size("hidden_size", hidden_size), validate.size("num_heads", num_heads)
        if hidden_size % num_heads:
            raise ValueError(f"num_heads: expected a divisor of hidden_size ({hidden_size}), got {num_heads}")
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, learn_initial_state,
            dtype, rng,
            num_heads=num_heads,
        )  # fmt: skip


class MinGRU(Recurrent):
    """minGRU: h_t = (1 - z)*h_{t-1} + z*n, where gate z = sigmoid(.) and candidate n see x_t only.

    No step waits for the one before but in this line, so the work of a GRU's steps becomes one product over many steps.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, learn_initial_state, dtype, rng
        As for `RNN`.
    nonlinearity : {"positive", "linear"}, default "positive"
        What makes n of a = W_n x + b_n: "positive" is a + 1/2 where a >= 0, else sigmoid(a), which is what lets others
        compute with logarithms; "linear" is a itself.

    Attributes
    ----------
    params : dict of str to ndarray
        As for `RNN`, but without weight_hh and bias_hh, with rows of gates z, n: weight_ih_l0 (2*H, I) and bias_ih_l0
        (2*H,).

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

    References
    ----------
    L. Feng et al., "Were RNNs all we needed?", arXiv:2410.01201 (2024), section 3.1 and, for "positive", appendix B.
    """

    _cell = MinGRUCell

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, *, nonlinearity: str = "positive",
        learn_initial_state: bool = False, dtype: DTypeLike = np.float32, rng: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, learn_initial_state,
            dtype, rng,
            nonlinearity=validate.choice("nonlinearity", nonlinearity, ("positive", "linear")),
        )  # fmt: skip


class MinLSTM(Recurrent):
    """minLSTM: h_t = (f*h_{t-1} + i*n)/(f + i), where gates f, i = sigmoid(.) and candidate n see x_t only.

    The state is h alone.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, learn_initial_state, dtype, rng
        As for `RNN`.
    nonlinearity : {"positive", "linear"}, default "positive"
        As for `MinGRU`.

    Attributes
    ----------
    params : dict of str to ndarray
        As for `RNN`, but without weight_hh and bias_hh, with rows of gates i, f, n: weight_ih_l0 (3*H, I) and
        bias_ih_l0 (3*H,).

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

    References
    ----------
    L. Feng et al., "Were RNNs all we needed?", arXiv:2410.01201 (2024), section 3.2 and, for "positive", appendix B.
    """

    _cell = MinLSTMCell

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, *, nonlinearity: str = "positive",
        learn_initial_state: bool = False, dtype: DTypeLike = np.float32, rng: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, learn_initial_state,
            dtype, rng,
            nonlinearity=validate.choice("nonlinearity", nonlinearity, ("positive", "linear")),
        )  # fmt: skip


LAYERS: dict[str, type[RNN | LSTM | GRU | SLSTM | MinGRU | MinLSTM]] = {
    layer._cell.kind: layer for layer in (RNN, LSTM, GRU, SLSTM, MinGRU, MinLSTM)
}
