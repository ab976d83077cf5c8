"""The steps of a plan made ready to run: each reads values by their names, and adds to them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from fastrnn import run as walk
from fastrnn import validate
from fastrnn.arguments import Arguments
from fastrnn.engines.seam import Stepper
from fastrnn.engines.threads import get_num_threads
from fastrnn.frozen import Frozen
from fastrnn.onnx import reading, spec
from fastrnn.onnx.dense import dense
from fastrnn.onnx.models import Loading
from fastrnn.onnx.split import CannotSplitError, Moved, Piece, Plan, Recurrence, empty_y

__all__ = ["ELEMENTS", "Layers", "Part", "Runtime", "States", "Step", "ready"]

PROVIDERS = ["CPUExecutionProvider"]

# ONNX Runtime's threads spin during a run, and sleep after it: else they would keep ours from their cores.
SPINNING = ("session.force_spinning_stop", "1")
FOLDER = "session.model_external_initializers_file_folder_path"

MOST_BYTES = (1 << 31) - (1 << 26)  # of initializers in a serialized model, which protobuf ends at 2 GiB
MOST_BATCHES = 8  # batch sizes for which states of single steps are kept
SMALL_BYTES = 1 << 10  # shapes, axes and the like: ONNX Runtime wants to see these in the model

# Types of elements by the names that ONNX Runtime has for them.
ELEMENTS = {f"tensor({name.lower()})": number for name, number in onnx.TensorProto.DataType.items()}

Values = dict[str, Any]
States = dict[str, NDArray]


class Step(Protocol):
    """A step of a session."""

    def run(self, values: Values, states: States | None, run_options: Any) -> None:
        """Add to the values; where there are states of recurrent nodes, replace them by those at the end."""


def ready(made: Plan, loading: Loading, runtime: Runtime) -> list[Step]:
    """The steps of a plan, with their weights.

    Raises
    ------
    CannotSplitError
        If ONNX Runtime has to run all of the model.
    """
    types, steps = dict(made.types), list[Step]()
    frozen: dict[Any, Frozen] = {}
    names: set[str] = set()
    for step in made.steps:
        if isinstance(step, Piece):
            steps.append(dense(step, types, runtime.tensors) or runtime.part(step, types))
        elif isinstance(step, Moved):
            steps.append(_Move(step))
        else:
            key = (step.layer.stack, tuple(map(id, step.layer.calls)))
            if key not in frozen:
                try:
                    frozen[key] = loading.frozen(step.layer)
                except ValueError as error:  # it takes more memory than it may
                    raise CannotSplitError(str(error)) from None
            steps.append(Layers(step, frozen[key], made.constants, names))
    return steps


class _Move:
    """A node that only moves axes."""

    def __init__(self, moved: Moved) -> None:
        self._move, self._data, self._names = moved.move, moved.data, list(moved.node.output)
        self._is_plain = len(self._data) == len(self._names) == 1  # most are

    def run(self, values: Values, states: States | None, run_options: Any) -> None:
        if self._is_plain:
            (values[self._names[0]],) = self._move((values[self._data[0]],))
        else:
            values.update(zip(self._names, self._move([values[name] for name in self._data]), strict=True))


# ---- Recurrent nodes ------------------------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """Rows of a state (L*D, B, .), of one node or of all, and where they come from and go to."""

    rows: slice
    key: str  # of the state in a stream; empty if it comes from a value
    value: str  # empty if it is zeros


class _Single(NamedTuple):
    """What single steps of a batch size are run on: one thread's at a time."""

    stepper: Stepper
    starts: list[tuple[NDArray, _Rows]]  # where initial states are written to
    ends: list[tuple[NDArray, str]]  # where final states are
    shape: tuple[int, ...]  # of Y
    rows: tuple[int, int]  # its rows and units


class Layers:
    """Recurrent nodes that are one layer."""

    def __init__(
        self, recurrence: Recurrence, frozen: Frozen, constants: Mapping[str, NDArray], taken: set[str]
    ) -> None:  # fmt: skip
        layer, self._stack = recurrence.layer, frozen._stack
        self._engine, self._prepared, self._dtype = frozen._engine, frozen._prepared, layer.calls[0].dtype
        self._x, self._lengths, self._y, self._order = recurrence.x, recurrence.lengths, recurrence.y, recurrence.order
        self._what, self._first = ", ".join(layer.names), self._stack.batch_first
        self._size = self._stack.cells[0].input_size
        self._constants = {name: a for name, a in constants.items() if name in recurrence.sources}
        keys = [_unique(name, taken) for name in layer.names]
        LD, D = len(self._stack.cells), len(self._stack.directions)
        self._starts: list[list[_Rows]] = []  # for h and, of an LSTM, for c
        self._ends: list[list[tuple[slice, str]]] = []
        for role, initial, final, whole in zip(
            "hc", recurrence.initial, recurrence.final, recurrence.together, strict=False
        ):
            size = LD // len(initial)  # one name for each node, or for all of them
            self._starts.append([
                _Rows(
                    slice(k * size, k * size + size),
                    f"{keys[k]}.{role}" if not name or name in constants else "",
                    name,
                )
                for k, name in enumerate(initial)
            ])  # fmt: skip
            ends = [(slice(k * D, k * D + D), name) for k, name in enumerate(final) if name]
            self._ends.append(ends + ([(slice(None), whole)] if whole else []))
        # A single step is run as a stream's, on states that are kept by their batch size.
        self._steps_alone = not any(self._stack.directions) and D == 1
        self._is_computed_in = self._dtype == self._stack.dtype  # which float16 is not
        self._singles: dict[int, list[_Single]] = {}

    def states(self, B: int) -> States:
        """The states that it keeps in a stream, at the start."""
        states = {}
        for shape, parts in zip(self._stack.state_shapes(B), self._starts, strict=True):
            whole = np.zeros(shape, self._stack.dtype)
            for part in parts:
                if part.key:
                    self._start(whole[part.rows], part, self._constants, None)
                    states[part.key] = whole[part.rows].copy()
        return states

    def run(self, values: Values, states: States | None, run_options: Any) -> None:
        x = self._input(values[self._x])
        T, B, _ = x.shape
        if T == 1 and B > 0 and self._steps_alone and not self._lengths:
            self._step(x, values, states)
            return
        h0, c0 = self._zeros(B)
        self._begin(h0, c0, values, states)
        lengths = self._checked_lengths(values, T, B)
        order = None if lengths is None else np.argsort(-lengths, kind="stable")
        y, series = empty_y(self._stack, self._order, T, B, self._stack.dtype)
        args = Arguments(x, h0, c0, lengths, order, None, batched=True, state_is_new=True)
        _, h, c = walk.infer(self._stack, self._engine, self._prepared, args, series)
        self._finish(y, h, c, values, states)

    def _step(self, x: NDArray, values: Values, states: States | None) -> None:
        B = x.shape[1]
        try:
            single = self._singles[B].pop()
        except LookupError:
            single = self._single(B)
        for target, rows in single.starts:
            self._start(target, rows, values, states)
        y = np.empty(single.shape, self._stack.dtype)
        single.stepper(validate.contiguous(x[0]), y.reshape(single.rows), None)
        if self._y:
            values[self._y] = self._given_back(y)
        for a, name in single.ends:
            values[name] = self._given_back(a.copy())
        if states is not None:
            for target, rows in single.starts:
                if rows.key:
                    states[rows.key] = target.copy()
        if len(self._singles) > MOST_BATCHES:
            self._singles.clear()
        self._singles.setdefault(B, []).append(single)

    def _single(self, B: int) -> _Single:
        h, c = self._zeros(B)
        states, stack = [h] if c is None else [h, c], self._stack
        return _Single(
            self._engine.stepper(self._prepared, h, c),
            [(state[rows.rows], rows) for state, of in zip(states, self._starts, strict=False) for rows in of],
            [
                (state[rows].swapaxes(0, 1) if self._first else state[rows], name)
                for state, of in zip(states, self._ends, strict=False)
                for rows, name in of
            ],
            (B, 1, 1, stack.output_size) if self._first else (1, 1, B, stack.output_size),
            (B, stack.output_size),
        )  # fmt: skip

    def _input(self, given: NDArray) -> NDArray:
        """X as (T, B, I), in the layer's dtype."""
        if given.ndim != 3 or given.shape[2] != self._size or given.dtype != self._dtype:
            axes = "batch_size, seq_length" if self._first else "seq_length, batch_size"
            raise ValueError(
                f"{self._what}: X: expected {self._dtype} of shape ({axes}, {self._size}), "
                f"got {given.dtype} of {given.shape}"
            )
        x = given.swapaxes(0, 1) if self._first else given
        return validate.contiguous_rows(x if self._is_computed_in else x.astype(self._stack.dtype))

    def _checked_lengths(self, values: Values, T: int, B: int) -> NDArray[np.int64] | None:
        if not self._lengths:
            return None
        lengths = values[self._lengths]
        if lengths.shape != (B,):
            raise ValueError(f"{self._what}: sequence_lens: expected ({B},), got {lengths.shape}")
        try:
            return spec.checked_lengths(lengths, T)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self._what}: {error}") from None

    # ---- States ----

    def _zeros(self, B: int) -> tuple[NDArray, NDArray | None]:
        h, *c = (np.zeros(shape, self._stack.dtype) for shape in self._stack.state_shapes(B))
        return h, c[0] if c else None

    def _begin(self, h: NDArray, c: NDArray | None, values: Values, states: States | None) -> None:
        """Write the initial states."""
        for state, parts in zip((h, c), self._starts, strict=False):
            for part in parts:
                self._start(state[part.rows], part, values, states)  # type: ignore[index]

    def _start(self, target: NDArray, part: _Rows, values: Mapping[str, Any], states: States | None) -> None:
        _, key, name = part
        if key and states is not None:
            kept = states[key]
            if kept.shape != target.shape:
                raise ValueError(f"{self._what}: X: expected a batch of {kept.shape[1]}, got {target.shape[1]}")
            target[...] = kept
        elif name:
            a = values[name]
            if self._first and a.ndim == 3:
                a = a.swapaxes(0, 1)
            if a.shape != target.shape or a.dtype != self._dtype:
                raise ValueError(
                    f"{self._what}: {name}: expected {self._dtype} of shape {target.shape}, got {a.dtype} of {a.shape}"
                )
            target[...] = a
        else:
            target.fill(0)

    def _finish(self, y: NDArray, h: NDArray, c: NDArray | None, values: Values, states: States | None) -> None:
        """Hand on the results; h and c are nobody else's."""
        if self._y:
            values[self._y] = self._given_back(y)
        for state, starts, ends in zip((h, c), self._starts, self._ends, strict=False):
            assert state is not None
            if states is not None:
                for rows, key, _ in starts:
                    if key:
                        states[key] = state[rows].copy()
            for rows, name in ends:
                a = state[rows]
                values[name] = self._given_back(a.swapaxes(0, 1) if self._first else a)

    def _given_back(self, a: NDArray) -> NDArray:
        return a if self._is_computed_in else a.astype(self._dtype)


def _unique(name: str, taken: set[str]) -> str:
    """The name, with a number if it is taken; it is taken from now on."""
    numbered = (name if k == 1 else f"{name}#{k}" for k in itertools.count(1))
    taken.add(unique := next(name for name in numbered if name not in taken))
    return unique


# ---- ONNX Runtime ---------------------------------------------------------------------------------------------------


class Part:
    """A part of a model that ONNX Runtime runs."""

    def __init__(self, session: onnxruntime.InferenceSession, piece: Piece) -> None:
        self._inputs, self._outputs = piece.inputs, piece.outputs
        # What `session.run` calls after checks of names: these take as long as a small piece. If a release has it not,
        # `session.run` itself.
        self._run = getattr(getattr(session, "_sess", None), "run", session.run)

    def run(self, values: Values, states: States | None, run_options: Any) -> None:
        feed = {name: values[name] for name in self._inputs}
        values.update(zip(self._outputs, self._run(self._outputs, feed, run_options), strict=True))


class Runtime:
    """ONNX Runtime, with the options and the directory of a model."""

    def __init__(self, model: reading.Model, options: onnxruntime.SessionOptions | None) -> None:
        self._model, self._given = model, options
        self.tensors = model.tensors

    def _options(self) -> onnxruntime.SessionOptions:
        """The options that were given, or new ones."""
        options = self._given
        if options is None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = get_num_threads()
        entries = [SPINNING]
        if self._model.tensors.directory is not None:
            entries.append((FOLDER, self._model.tensors.directory))
        for key, value in entries:
            try:
                options.get_session_config_entry(key)
            except RuntimeError:  # there is none
                options.add_session_config_entry(key, value)
        return options

    def part(self, piece: Piece, types: dict[str, Any]) -> Part:
        """Make a piece ready, and add the types of its outputs to `types`."""
        missing = [name for name in piece.inputs if name not in types]
        if missing:
            raise CannotSplitError(f"{missing[0]!r} is no tensor")
        model, options = piece.model(types), self._options()
        self._hand_over(model, options)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=PROVIDERS)
        for argument in session.get_outputs():
            if argument.type in ELEMENTS:  # a shape without sizes may be one that is not known
                types[argument.name] = onnx.helper.make_tensor_type_proto(
                    ELEMENTS[argument.type], argument.shape or None
                )
        return Part(session, piece)

    def _hand_over(self, model: Any, options: onnxruntime.SessionOptions) -> None:
        """Give initializers as arrays, if there are too many for a serialized model."""
        tensors = [tensor for tensor in model.graph.initializer if not reading.is_external(tensor)]
        if sum(tensor.ByteSize() for tensor in tensors) <= MOST_BYTES:
            return
        if self._given is not None:  # arrays would stay in these options, which the next part cannot have
            raise ValueError(
                f"sess_options: expected None for a model with more than {MOST_BYTES} bytes of tensors in memory, got "
                "some; or save it with its tensors in a file of their own, and give its path"
            )
        names, arrays = [], []
        for tensor in tensors:
            if tensor.ByteSize() > SMALL_BYTES:
                names.append(tensor.name)
                arrays.append(onnxruntime.OrtValue.ortvalue_from_numpy(np.array(self._model.tensors.array(tensor))))
                stub = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
                stub.data_location = onnx.TensorProto.EXTERNAL
                stub.external_data.add(key="location", value="handed over")
                tensor.CopyFrom(stub)
        options.add_external_initializers(names, arrays)
