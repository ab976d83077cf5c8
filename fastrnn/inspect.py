"""A look inside: gates and cell states over time, how far gradients reach, whether a model's gradients are right, and
what weights of fewer bits change.

What is plotted is what another function returns. Plots need matplotlib (pip install fastrnn[plot]).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import train, validate
from fastrnn.data import BOS
from fastrnn.layers import Recurrent, Tape
from fastrnn.pages import needs
from fastrnn.params import added, names_of_arrays

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "PrecisionReport",
    "PrecisionRow",
    "check_gradients",
    "gates",
    "gradient_norms",
    "plot_gates",
    "plot_gradient_norms",
    "precision",
]


def gates(tape: Tape, row: int = 0, *, layer: int = 0, direction: int = 0) -> dict[str, NDArray]:
    """Return what each gate did for one sequence of a batch.

    Parameters
    ----------
    tape : Tape
        From the forward run of a recurrent layer.
    row : int, default 0
        Index of the sequence in the batch.
    layer, direction : int, default 0
        Index of the layer, from the lowest, and of the direction.

    Returns
    -------
    dict of str to ndarray
        (T, H) under the names of `Tape.gates`, where T is the length of this sequence.

    Raises
    ------
    IndexError
        If there is no such row, layer or direction.
    """
    if not isinstance(tape, Tape):
        raise TypeError(f"tape: expected a Tape from forward(), got {type(tape).__name__}")
    views = tape.gates(layer, direction)
    T = int(tape.lengths[validate.index("row", row, len(tape.lengths))])
    return {name: view[:T, row].copy() for name, view in views.items()}


def plot_gates(
    tape: Tape, tokens: Sequence[str], row: int = 0, *, layer: int = 0, direction: int = 0,
    names: Sequence[str] | None = None, units: Any = None,
) -> Figure:  # fmt: skip
    """Draw what `gates` returns as heat maps: a row for each unit, a column for each token.

    Parameters
    ----------
    tape, row, layer, direction
        As for `gates`.
    tokens : sequence of str
        (T,), the tokens that were read.
    names : sequence of str, optional
        Which gates to draw. Default: f, i, o and c of an LSTM; z, r and n of a GRU; h of an RNN.
    units : index of units, optional
        Which units to draw, in which order. Default: all.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig("gates.png")`` writes it.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If there are not as many tokens as steps, or a gate's name is unknown.
    """
    data = gates(tape, row, layer=layer, direction=direction)
    panels = tape.cell.panels
    names = tuple(name for name in panels if name in data) if names is None else tuple(names)
    for name in names:
        validate.choice("names", name, tuple(data))
    T = len(data[names[0]])
    if len(tokens) != T:
        raise ValueError(f"tokens: expected {T}, one a step, got {len(tokens)}")
    figure = _figure((max(4.0, 0.22 * T + 1.5), 1.9 * len(names) + 0.3))
    axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for ax, name in zip(axes, names, strict=True):
        values = data[name] if units is None else data[name][:, units]
        gate = name in tape.cell.sigmoids
        limit = 1.0 if gate else float(np.abs(values).max(initial=1e-9))
        image = ax.imshow(
            values.T, aspect="auto", cmap="viridis" if gate else "RdBu_r", vmin=0 if gate else -limit, vmax=limit,
            interpolation="nearest",
        )  # fmt: skip
        ax.set_ylabel("unit")
        ax.set_title(panels.get(name, name), loc="left", fontsize=9)
        ax.set_xticks(range(T), [token if token.strip() else "\N{OPEN BOX}" for token in tokens], fontsize=8)
        figure.colorbar(image, ax=ax, pad=0.01)
    return figure


def gradient_norms(layer: Recurrent, x: Any, dy: Any = None, *, rng: Any = 0) -> dict[str, NDArray]:
    """Return the norms of the gradients of a loss at the last step with respect to all states before it.

    They show how fast the gradient vanishes or explodes. The loss is dy . y_T, so it depends on the last output only.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        Unidirectional, batch_first=False.
    x : array_like
        (T, B, I), the layer's dtype.
    dy : array_like, optional
        (B, O). Default: for each row a random vector of length 1.
    rng : seed or numpy.random.Generator, default 0
        Source of dy.

    Returns
    -------
    dict of str to ndarray
        "h" (T + 1, L, B): ``|dL/dh_t|`` of each layer, from t = 0, the initial state, to T. For an LSTM also "c", for
        an sLSTM also "c", "n" and "m".

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or shape, or the layer is bidirectional.
    """
    if not isinstance(layer, Recurrent):
        raise TypeError(f"layer: expected an RNN, LSTM or GRU, got {type(layer).__name__}")
    if layer.bidirectional or layer.batch_first:
        raise ValueError("layer: expected a unidirectional one with batch_first=False, got another")
    x = validate.array("x", x, layer.dtype)
    if x.ndim != 3:
        raise ValueError(f"x: expected (T, B, {layer.input_size}), got {x.shape}")
    tapes, state = [], None
    for t in range(len(x)):
        _, state, tape = layer.forward(x[t : t + 1], state)
        tapes.append(tape)
    B, size = x.shape[1], layer.output_size
    if dy is None:
        dy = validate.generator("rng", rng).standard_normal((B, size))
        dy = (dy / np.linalg.norm(dy, axis=1, keepdims=True)).astype(layer.dtype)
    dh, *dc = (np.zeros(shape, layer.dtype) for shape in layer.state_shapes(B))
    dh[-1] = dy
    dstate: Any = (dh, *dc) if layer.cell.has_c else dh
    found = [dstate]
    for tape in reversed(tapes):
        dstate = layer.backward(tape, None, dstate).state
        found.append(dstate)
    found.reverse()
    if not layer.cell.has_c:
        return {"h": _norms(found)}
    return {name: _norms([state[k] for state in found]) for k, name in enumerate(layer.cell.states)}


def plot_gradient_norms(norms: Mapping[str, NDArray]) -> Figure:
    """Draw norms of gradients over time on a logarithmic scale, with a line for each name.

    Parameters
    ----------
    norms : mapping of str to ndarray
        (T + 1, ...) each, as from `gradient_norms`. Over all axes but the first, the geometric mean is drawn.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    figure = _figure((6.4, 3.6))
    ax = figure.subplots()
    for name, values in norms.items():
        values = np.asarray(values, np.float64).reshape(len(values), -1)
        with np.errstate(divide="ignore"):
            mean = np.exp(np.log(values).mean(axis=1))
        back = np.arange(len(mean))[::-1]  # steps before the end
        ax.plot(back, np.where(mean > 0, mean, np.nan), label=name)
    ax.set_yscale("log")
    ax.set_xlabel("steps back from the end")
    ax.set_ylabel("norm of dL/dh")
    ax.grid(alpha=0.3)
    ax.legend()
    return figure


def check_gradients(model: Any, batch: Any, *, samples: int = 20, step: float = 1e-5, rng: Any = 0) -> dict[str, float]:
    """Compare a model's gradients with central differences of its loss.

    Parameters
    ----------
    model : Model or Trainable
        With `params` of float64, and `loss_and_grads(batch, rng)`. Parameters are changed, and restored at the end.
    batch : object
        A batch that the model takes.
    samples : int, default 20
        How many elements of each parameter are checked. They are drawn at random: half of them from those whose
        gradient is 0, half from the others, as far as there are enough of either.
    step : float, default 1e-5
        How far an element is moved up and down for the difference.
    rng : seed, default 0
        Seed of this choice, and of the model's dropout, which is the same in all runs.

    Returns
    -------
    dict of str to float
        For each parameter the largest difference. It is relative to the largest gradient among its elements checked, or
        to 1e-3 of the largest gradient of the model, if that is more. With right gradients it is about 1e-6; a value of
        1e-3 means that they are wrong. The gradients of an array that has two names are added before.

    Raises
    ------
    TypeError
        If a parameter is not float64.
    ValueError
        If the gradients' names or shapes are not those of the parameters.
    """
    samples = validate.size("samples", samples)
    params = model.params
    for name, p in params.items():
        if p.dtype != np.float64:
            raise TypeError(f"params[{name!r}]: expected float64, as differences are no use in less, got {p.dtype}")
    grads = {name: np.asarray(g) for name, g in model.loss_and_grads(batch, rng=rng)[1].items()}
    shapes = {name: g.shape for name, g in grads.items()}
    if shapes != (expected := {name: p.shape for name, p in params.items()}):
        raise ValueError(f"grads: expected {expected}, got {shapes}")
    for names in names_of_arrays(params):
        grads |= dict.fromkeys(names, added([grads[name] for name in names]))
    generator = validate.generator("rng", rng)
    step = validate.at_least_zero("step", step)
    if not step:
        raise ValueError("step: expected a number above 0, got 0")
    floor = 1e-3 * max((float(np.abs(g).max(initial=0)) for g in grads.values()), default=0.0) or 1.0
    errors = {}
    for name, p in params.items():
        error, largest = 0.0, floor
        for index in _chosen(grads[name], samples, generator):
            kept = p[index]
            losses = []
            for sign in (1, -1):
                p[index] = kept + sign * step
                losses.append(float(model.loss_and_grads(batch, rng=rng)[0]))
            p[index] = kept
            slope, gradient = (losses[0] - losses[1]) / (2 * step), float(grads[name][index])
            error, largest = max(error, abs(slope - gradient)), max(largest, abs(gradient), abs(slope))
        errors[name] = error / largest
    return errors


@dataclasses.dataclass(frozen=True, slots=True)
class PrecisionRow:
    """What one precision changes.

    Attributes
    ----------
    precision : str or tuple of str
        What was compared: a name, one for each layer, or the label of the arguments.
    largest, mean : float
        The largest and the mean absolute difference of an output from that in float32.
    score : float or None
        What the `score` function returned; None for a layer without one.
    seconds : float
        Time for all batches: the median, if they were run several times.
    speed : float
        float32's time over this precision's, above 1 if this one is faster: the median over the rounds.
    weight_bytes : int
        Bytes of all parameters, as they are kept and stored in a file.
    """

    precision: str | tuple[str, ...]
    largest: float
    mean: float
    score: float | None
    seconds: float
    speed: float
    weight_bytes: int


class PrecisionReport(Mapping[Any, PrecisionRow]):
    """The result of `precision`: a row for each precision, float32 first. ``print(report)`` shows a table."""

    def __init__(self, rows: Iterable[PrecisionRow]) -> None:
        self._rows = {row.precision: row for row in rows}

    def __getitem__(self, precision: Any) -> PrecisionRow:
        return self._rows[precision]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"PrecisionReport({list(self.values())})"

    def __str__(self) -> str:
        titles = ["precision", "score", "largest difference", "mean", "seconds", "speed", "bytes of weights"]
        cells = [
            [
                _name(row.precision), "" if row.score is None else f"{row.score:.5g}", f"{row.largest:.2g}",
                f"{row.mean:.2g}", f"{row.seconds:.3g}", f"{row.speed:.2f} x", f"{row.weight_bytes:,}",
            ]
            for row in self.values()
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
        lines = [[text.rjust(width) for text, width in zip(line, widths, strict=True)] for line in (titles, *cells)]
        return "\n".join("  ".join([line[0].strip().ljust(widths[0]), *line[1:]]) for line in lines)

    def plot(self) -> Figure:
        """Draw scores, differences, speeds and bytes as bars, one for each precision.

        Returns
        -------
        matplotlib.figure.Figure
            ``figure.savefig("precision.png")`` writes it.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        rows = list(self.values())
        scored = all(row.score is not None for row in rows)
        panels = {
            **({"score": [row.score for row in rows]} if scored else {}),
            "largest difference": [row.largest for row in rows],
            "mean difference": [row.mean for row in rows],
            "speed, float32 = 1": [row.speed for row in rows],
            "bytes of weights": [row.weight_bytes for row in rows],
        }
        figure = _figure((2.4 * len(panels), 2.8))
        names = [_name(row.precision).replace(", ", "\n") for row in rows]
        for ax, (title, values) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            ax.bar(names, values, color=[f"C{k}" for k in range(len(rows))])
            ax.set_title(title, loc="left", fontsize=9)
            ax.tick_params(labelsize=8)
        return figure


def precision(
    model: Any, batches: Any, score: Callable[[Any], float] | None = None, *,
    precisions: Sequence[str | Sequence[str]] | Mapping[Any, Mapping[str, Any]] = ("bfloat16", "int8"),
    rounds: int = 15,
) -> PrecisionReport:  # fmt: skip
    """Compare a model with weights of fewer bits with the same model in float32.

    Parameters
    ----------
    model : RNN, LSTM, GRU or fastrnn.nn.Model
        Of float32. It is frozen in each precision, and not changed.
    batches : iterable of Batch; for a layer ndarray, or iterable of ndarray
        What the models read. For a layer: x, or several of them, as a call takes them.
    score : callable, optional
        From a frozen model to a number, such as an accuracy. Default: for a model `fastrnn.train.evaluate`, the mean
        loss on the batches; for a layer none.
    precisions : sequence, or mapping of str to mapping, default ("bfloat16", "int8")
        Each as `freeze` takes it. A mapping has all arguments of `freeze` for a label, such as
        ``{"int8, first layer not": {"precision": "int8", "keep": ["rnn.0"]}}``. float32 is compared in any case.
    rounds : int, default 15
        In how many rounds times are measured, at least. In a round all precisions run one batch, in turn, so that other
        work of the machine hardly changes their ratio. If there are fewer batches, they are run again.

    Returns
    -------
    PrecisionReport
        A mapping from float32 and each of `precisions` to its `PrecisionRow`. It prints as a table, and has `plot()`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value, the model is not float32, or there are no batches.

    Notes
    -----
    Outputs are what the model computes last: y of a layer, the logits or numbers of a model, the probabilities of an
    `Ensemble`. A writer's are its logits where it reads the targets.
    """
    if not callable(getattr(model, "freeze", None)):
        raise TypeError(f"model: expected an RNN, LSTM or GRU, or a model of fastrnn.nn, got {type(model).__name__}")
    if isinstance(precisions, str) or not isinstance(precisions, Iterable):
        raise TypeError(f"precisions: expected a sequence or a mapping, got {precisions!r}")
    rounds = validate.size("rounds", rounds)
    is_layer = isinstance(model, Recurrent)
    batches = [batches] if isinstance(batches, np.ndarray) else list(batches)
    if not batches:
        raise ValueError("batches: expected at least one, got none")
    chosen: dict[Any, Mapping[str, Any]] = {"float32": {"precision": "float32"}}
    for name in precisions:
        if not isinstance(name, (str, tuple, list)):
            raise TypeError(f"precisions: expected str or sequences of str, got {type(name).__name__}")
        label = tuple(name) if isinstance(name, list) else name
        chosen[label] = precisions[label] if isinstance(precisions, Mapping) else {"precision": name}
    frozen = [model.freeze(**arguments) for arguments in chosen.values()]
    if score is None and not is_layer:

        def score(model: Any) -> float:
            return train.evaluate(model, batches)

    outputs = _layer_outputs if is_layer else _model_outputs
    differences = [[0.0, 0.0, 0] for _ in chosen]  # the largest, the sum, how many
    seconds = np.zeros((-(-rounds // len(batches)), len(batches), len(chosen)))
    for each in frozen:
        outputs(each, batches[0], None)  # a first call is slower
    for r in range(len(seconds)):
        states: list[Any] = [None] * len(chosen)
        for b, batch in enumerate(batches):
            exact: Any = None  # float32's outputs
            for k, each in enumerate(frozen):
                begin = time.perf_counter()
                found, states[k] = outputs(each, batch, states[k])
                seconds[r, b, k] = time.perf_counter() - begin
                exact = exact if k else found
                if r == 0:
                    _note(differences[k], found, exact)
    speeds = np.median((seconds[:, :, :1] / seconds).reshape(-1, len(chosen)), axis=0)
    return PrecisionReport(
        PrecisionRow(
            name, largest, total / max(count, 1), None if score is None else float(score(each)),
            median(seconds[:, :, k].sum(axis=1).tolist()), float(speeds[k]),
            sum(a.nbytes for a in each.params.values()),
        )
        for k, (name, each, (largest, total, count)) in enumerate(zip(chosen, frozen, differences, strict=True))
    )  # fmt: skip


def _layer_outputs(layer: Any, x: NDArray, state: Any) -> tuple[NDArray, None]:
    return layer(x)[0], None


def _model_outputs(model: Any, batch: Any, state: Any) -> tuple[NDArray, Any]:
    """The outputs of a frozen model for a batch, and the state that the next one may follow from."""
    if callable(model):
        if getattr(batch, "follows", False):
            result = model(batch.x, batch.x_lengths, state)
        else:
            result = model(batch.x, batch.x_lengths)
        y, state = result if isinstance(result, tuple) else (result, None)
        return _valid(y, batch.x_lengths) if y.ndim == 3 else y, state
    steps = model.steps(batch.x, batch.x_lengths)
    read = [np.full(batch.y.shape[1], BOS), *batch.y]  # what the steps take: teacher forcing
    lengths = None if batch.y_lengths is None else np.add(batch.y_lengths, 1)
    return _valid(np.stack([steps.step(ids).copy() for ids in read]), lengths), None


def _valid(y: NDArray, lengths: Any) -> NDArray:
    """The valid steps of outputs (T, B, K)."""
    return y if lengths is None else y[np.arange(len(y))[:, None] < lengths]


def _note(difference: list[Any], found: NDArray, exact: NDArray) -> None:
    """Add the differences of an array to those found before."""
    distance = np.abs(np.subtract(found, exact, dtype=np.float64))
    difference[0] = float(np.maximum(difference[0], distance.max(initial=0)))  # NaN stays
    difference[1] += float(distance.sum())
    difference[2] += distance.size


def _name(precision: Any) -> str:
    return precision if isinstance(precision, str) else ", ".join(map(str, precision))


def _chosen(grad: NDArray, samples: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Return the places of some elements whose gradient is not 0, and of some whose gradient is 0."""
    some, none = np.flatnonzero(grad), np.flatnonzero(grad == 0)
    without = min(len(none), max(samples // 2, samples - len(some)))
    places = [*rng.permutation(some)[: samples - without], *rng.permutation(none)[:without]]
    return [tuple(int(i) for i in np.unravel_index(place, grad.shape)) for place in places]


def _norms(states: Sequence[NDArray]) -> NDArray:
    return np.linalg.norm(np.stack(states), axis=-1)


def _figure(size: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(needs("a plot", "matplotlib", "fastrnn[plot]", "gallery")) from None
    return Figure(figsize=size, layout="constrained", dpi=110)
