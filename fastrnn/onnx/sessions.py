"""Whole ONNX models: recurrent nodes by fastrnn, all others by ONNX Runtime.

`split.py` says which nodes are run by what, and in which order; here the steps of its plan are made ready and run.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from fastrnn import run as walk
from fastrnn import validate
from fastrnn.arguments import Arguments
from fastrnn.engines.threads import get_num_threads
from fastrnn.formats.reading import refusing
from fastrnn.frozen import Frozen
from fastrnn.onnx import reading, spec
from fastrnn.onnx.models import Loading, opened_model
from fastrnn.onnx.reading import text
from fastrnn.onnx.split import CannotSplitError, Moved, Node, Piece, Plan, Planner, Recurrence, empty_y

__all__ = ["Argument", "Session", "SessionStream", "session"]

log = logging.getLogger("fastrnn.onnx")

PROVIDERS = ["CPUExecutionProvider"]

# ONNX Runtime's threads spin during a run, and sleep after it: else they would keep ours from their cores.
SPINNING = ("session.force_spinning_stop", "1")
FOLDER = "session.model_external_initializers_file_folder_path"

MOST_BYTES = 1 << 30  # of initializers in a serialized piece, for protobuf ends at 2 GiB; the others are handed over


class Argument(NamedTuple):
    """An input or output of a model, with the fields of onnxruntime's NodeArg."""

    name: str
    """Its name."""
    type: str
    """Its type, for example "tensor(float)"."""
    shape: list[int | str | None]
    """Its sizes; a name or None where the model does not fix one."""


def session(
    model: Any, *, precision: str | None = None, max_bytes: int | None = None,
    sess_options: onnxruntime.SessionOptions | None = None,
) -> Session:  # fmt: skip
    """Make a whole model ready to run: its recurrent nodes by fastrnn, all others by ONNX Runtime on the CPU.

    Parameters
    ----------
    model : onnx.ModelProto or path-like
        A model, or the file of one, in ONNX's binary format. Tensors in files of their own must lie in the model's
        directory.
    precision : {"float32", "bfloat16", "int8"}, optional
        What the weights of recurrent nodes are frozen to, as for `load`. Default: what they are in the model.
    max_bytes : int, optional
        How much memory recurrent layers, and what is computed for them, may take, as for `load`. ONNX Runtime runs the
        nodes that would take more.
    sess_options : onnxruntime.SessionOptions, optional
        For all that ONNX Runtime runs of the model. Default: `get_num_threads()` threads. An entry is added that lets
        its threads sleep after a run, unless there is one.

    Returns
    -------
    Session
        Has the methods of an onnxruntime.InferenceSession: `run`, `get_inputs` and `get_outputs`.

    Raises
    ------
    ImportError
        If onnx or onnxruntime is not installed.
    TypeError
        If it is neither a model nor a path, `precision` is no str, or `sess_options` are none.
    ValueError
        If `precision` is another one, or the model is damaged, or ONNX Runtime does not take it. The message names the
        path.
    OSError
        If a file cannot be read.
    """
    if sess_options is not None and not isinstance(sess_options, onnxruntime.SessionOptions):
        raise TypeError(f"sess_options: expected onnxruntime.SessionOptions, got {type(sess_options).__name__}")
    opened, name = opened_model(model, precision, max_bytes)
    options = sess_options
    if options is None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = get_num_threads()
    with refusing(name):
        return Session(Loading(opened, precision, max_bytes), _Runtime(opened, options))


class Session:
    """A model that is ready to run, from `session`.

    Safe to share among threads: runs read it and write nothing but their own results.
    """

    def __init__(self, loading: Loading, runtime: _Runtime) -> None:
        graph, planner = loading.proto.graph, Planner(loading)
        given = {tensor.name for tensor in graph.initializer}
        self._inputs = [_argument(value) for value in graph.input if value.name not in given]
        self._checks = [_Input(argument) for argument in self._inputs]
        self._outputs = [_argument(value) for value in graph.output]
        try:
            made = planner.plan()
            self._steps = _ready(made, loading, runtime)
        except CannotSplitError as error:
            log.info("ONNX Runtime runs the whole model: %s", error)
            made = planner.whole(str(error))
            self._steps = _ready(made, loading, runtime)
        self._nodes, self._carried, self._constants = tuple(made.nodes), made.carried, made.constants
        self._shared = _shared(made, [argument.name for argument in self._outputs])

    def __repr__(self) -> str:
        ours = sum(node.runs_in == "fastrnn" for node in self._nodes)
        pieces = sum(isinstance(step, _Piece) for step in self._steps)
        return f"Session({ours} of {len(self._nodes)} recurrent nodes by fastrnn, {pieces} piece(s) by ONNX Runtime)"

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The recurrent nodes of the model, each with what runs it: name, op_type, runs_in and reason."""
        return self._nodes

    def get_inputs(self) -> list[Argument]:
        """Return name, type and shape of each input."""
        return list(self._inputs)

    def get_outputs(self) -> list[Argument]:
        """Return name, type and shape of each output, as far as the model has them."""
        return list(self._outputs)

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any],
        run_options: onnxruntime.RunOptions | None = None,
    ) -> list[Any]:  # fmt: skip
        """Run the model.

        Parameters
        ----------
        output_names : sequence of str or None
            What to return. None is all outputs.
        input_feed : mapping of str to array_like
            Each input, of the model's dtype.
        run_options : onnxruntime.RunOptions, optional
            For what ONNX Runtime runs.

        Returns
        -------
        list of ndarray
            The outputs in the order of `output_names`. What is no tensor is as ONNX Runtime gives it.

        Raises
        ------
        TypeError, ValueError
            If a name is unknown or missing, or an input has a wrong dtype or shape. ONNX Runtime raises errors of its
            own for what its nodes do not take.
        """
        names = self._names(output_names)
        return self._results(names, self._run(self._values(input_feed, ()), None, run_options))

    def stream(self, batch_size: int = 1, *, states: Mapping[str, str] | None = None) -> SessionStream:
        """Return a stream: runs of which each goes on from the states that the one before has left.

        Carried are the states of recurrent nodes that start from zeros or constants, and inputs that are the initial
        states of recurrent nodes where an output is their final states. The model must take a series in parts in all
        else; a convolution over time, for example, must have what it needs of earlier parts as an input and an output.

        Parameters
        ----------
        batch_size : int, default 1
            B, how many sequences advance together.
        states : mapping of str to str, optional
            More inputs that are carried, each with the output that becomes the input of the next run; they start from
            zeros. With it, states that a stream cannot find are left to the caller.

        Raises
        ------
        TypeError, ValueError
            If `batch_size` is not an integer of at least 1, `states` names an input or output that is not there, or the
            model has recurrent nodes whose states cannot be carried: those that start at the end, and those that ONNX
            Runtime runs unless their states are inputs and outputs.
        """
        batch_size = validate.size("batch_size", batch_size)
        more = {} if states is None else states
        if not isinstance(more, Mapping):
            raise TypeError(f"states: expected a mapping from inputs to outputs, got {type(more).__name__}")
        known = [argument.name for argument in self._inputs], [argument.name for argument in self._outputs]
        for pair in more.items():
            for what, name, names in zip(("inputs", "outputs"), pair, known, strict=True):
                if name not in names:
                    raise ValueError(f"states: expected {what} among {', '.join(names)}, got {name!r}")
        if self._carried.obstacles and states is None:
            raise ValueError(
                f"stream: expected recurrent nodes whose states can be carried: {'; '.join(self._carried.obstacles)}. "
                "Give states={input: output} where the model has them"
            )
        return SessionStream(self, batch_size, {**self._carried.pairs, **more})

    # ---- One run ----

    def _names(self, output_names: Sequence[str] | None) -> list[str]:
        known = [argument.name for argument in self._outputs]
        if output_names is None:
            return known
        if isinstance(output_names, str) or not isinstance(output_names, Sequence):
            raise TypeError(f"output_names: expected a sequence of names, got {type(output_names).__name__}")
        for name in output_names:
            if name not in known:
                raise ValueError(f"output_names: expected names among {', '.join(known)}, got {name!r}")
        return list(output_names)

    def _values(self, input_feed: Mapping[str, Any], carried: Iterable[str]) -> dict[str, Any]:
        """The inputs, checked, and the constants."""
        if not isinstance(input_feed, Mapping):
            raise TypeError(f"input_feed: expected a mapping from names, got {type(input_feed).__name__}")
        values = dict(self._constants)
        for check in self._checks:
            if check.name in input_feed:
                values[check.name] = check(input_feed[check.name])
            elif check.name not in carried:
                raise ValueError(f"input_feed: expected a value for {check.name!r}, got none")
        if len(input_feed) + len(self._constants) > len(values):
            known = [argument.name for argument in self._inputs]
            unknown = [name for name in input_feed if name not in known]
            raise ValueError(f"input_feed: expected names among {', '.join(known)}, got {', '.join(map(str, unknown))}")
        return values

    def _run(
        self, values: dict[str, Any], states: dict[str, NDArray] | None, run_options: Any
    ) -> dict[str, Any]:  # fmt: skip
        """All values; where there are states of recurrent nodes, they are replaced by those at the end."""
        for step in self._steps:
            step.run(values, states, run_options)
        return values

    def _results(self, names: list[str], values: Mapping[str, Any]) -> list[Any]:
        results = []
        for name in names:
            value = values[name]
            if isinstance(value, np.ndarray) and (name in self._shared or not value.flags.c_contiguous):
                value = value.copy()
            results.append(value)
        return results


class SessionStream:
    """Runs of a model of which each goes on from the states that the one before has left.

    One thread at a time may use a stream; any number of streams may run at once on one session. A run that raises
    leaves the states as they were.
    """

    def __init__(self, owner: Session, batch_size: int, pairs: dict[str, str]) -> None:
        self._session, self._batch_size, self._pairs = owner, batch_size, pairs
        arguments = {argument.name: argument for argument in owner.get_inputs()}
        self._axes: dict[str, int | None] = {}  # where the batch is
        self._zero: dict[str, NDArray] = {}
        for step in owner._steps:
            if isinstance(step, _Recurrent):
                self._zero |= step.states(batch_size)
        self._axes = dict.fromkeys(self._zero, 1)
        self._inside = list(self._zero)
        for name in pairs:
            self._zero[name], self._axes[name] = _zeros(arguments[name], batch_size)
        self._state = dict(self._zero)
        carried = set(pairs.values())
        self._outputs = [argument.name for argument in owner.get_outputs() if argument.name not in carried]
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"SessionStream({self._session!r}, batch_size={self._batch_size})"

    @property
    def batch_size(self) -> int:
        """B: sequences that advance together."""
        return self._batch_size

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any],
        run_options: onnxruntime.RunOptions | None = None,
    ) -> list[Any]:  # fmt: skip
        """Run the model on the next part of each sequence.

        Parameters
        ----------
        output_names : sequence of str or None
            What to return. None is all outputs but those that are carried.
        input_feed : mapping of str to array_like
            Each input but those that are carried.
        run_options : onnxruntime.RunOptions, optional
            For what ONNX Runtime runs.

        Returns
        -------
        list of ndarray
            As `Session.run`.

        Raises
        ------
        TypeError, ValueError
            As `Session.run`, and if an input is carried, or has another batch size than the stream.
        RuntimeError
            If another thread's run of this stream has not ended.
        """
        names = self._outputs if output_names is None else self._session._names(output_names)
        values = self._session._values(input_feed, self._pairs)
        taken = [name for name in self._pairs if name in values]
        if taken:
            raise ValueError(f"input_feed: expected no value for {', '.join(taken)}, which the stream carries, got one")
        with self._alone():
            values |= {name: self._state[name] for name in self._pairs}
            states = {name: self._state[name] for name in self._inside}
            values = self._session._run(values, states, run_options)
            for name, output in self._pairs.items():
                new, old = np.array(values[output]), self._state[name]
                if new.shape != old.shape or new.dtype != old.dtype:
                    raise ValueError(
                        f"{output}: expected {old.dtype} {old.shape}, as {name} is, got {new.dtype} {new.shape}"
                    )
                states[name] = new
            results = self._session._results(names, values)
            self._state = states
        return results

    def reset(self, rows: Any = None) -> None:
        """Set the states to what they are at a sequence's start.

        Parameters
        ----------
        rows : int, array_like of int or array_like of bool, optional
            Which rows of the batch. Default: all.

        Raises
        ------
        TypeError, ValueError, IndexError
            If `rows` is none of these, names a row that is not there, or a carried input does not say which of its axes
            is the batch.
        """
        if rows is None or self._batch_size == 1:
            if rows is not None:
                validate.rows("rows", rows, 1)
            with self._alone():
                self._state = dict(self._zero)
            return
        index = validate.rows("rows", rows, self._batch_size)
        with self._alone():
            state = dict(self._state)
            for name, a in state.items():
                axis = self._axes[name]
                if axis is None:
                    raise ValueError(f"rows: expected None, for no axis of {name!r} is known to be the batch, got some")
                place = (slice(None),) * axis + (index,)
                state[name] = a.copy()
                state[name][place] = self._zero[name][place]
            self._state = state

    @property
    def state(self) -> dict[str, NDArray]:
        """A copy of the states. Assign to set them; None is a reset.

        By the names of carried inputs, and "NODE.h" and "NODE.c", (D, B, H), for those that nodes keep.
        """
        return {name: a.copy() for name, a in self._state.items()}

    @state.setter
    def state(self, value: Any) -> None:
        if value is None:
            self.reset()
            return
        if not isinstance(value, Mapping):
            raise TypeError(f"state: expected a mapping from names, or None, got {type(value).__name__}")
        if set(value) != set(self._zero):
            raise ValueError(f"state: expected {', '.join(self._zero) or 'nothing'}, got {', '.join(map(str, value))}")
        new = {}
        for name, zero in self._zero.items():
            a = validate.array(f"state[{name!r}]", value[name], zero.dtype)
            if a.shape != zero.shape:
                raise ValueError(f"state[{name!r}]: expected {zero.shape}, got {a.shape}")
            new[name] = np.array(a, order="C")
        with self._alone():
            self._state = new

    def _alone(self) -> _Alone:
        return _Alone(self._lock)


class _Alone:
    """One thread at a time; for the others it is an error, as in a layer's stream."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("the stream is in use by another thread, whose call has not ended")

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


# ---- Steps: each reads values by their names, and adds to them ------------------------------------------------------


def _ready(made: Plan, loading: Loading, runtime: _Runtime) -> list[Any]:
    """The steps of a plan, with their weights."""
    types, steps = dict(made.types), list[Any]()
    frozen: dict[Any, Frozen] = {}
    names: set[str] = set()
    for step in made.steps:
        if isinstance(step, Piece):
            steps.append(runtime.piece(step, types))
        elif isinstance(step, Moved):
            steps.append(_Moving(step))
        else:
            key = (step.layer.stack, tuple(map(id, step.layer.calls)))
            if key not in frozen:
                try:
                    frozen[key] = loading.frozen(step.layer)
                except ValueError as error:  # it takes more memory than it may
                    raise CannotSplitError(str(error)) from None
            steps.append(_Recurrent(step, frozen[key], made.constants, names))
    return steps


class _Moving:
    """A node that only moves axes."""

    def __init__(self, moved: Moved) -> None:
        self._move, self._data, self._names = moved.move, moved.data, list(moved.node.output)

    def run(self, values: dict[str, Any], states: dict[str, NDArray] | None, run_options: Any) -> None:
        values.update(zip(self._names, self._move([values[name] for name in self._data]), strict=True))


class _Recurrent:
    """Recurrent nodes that are one layer."""

    def __init__(
        self, recurrence: Recurrence, frozen: Frozen, constants: Mapping[str, NDArray], taken: set[str]
    ) -> None:  # fmt: skip
        self._x, self._lengths, self._y, self._order = (
            recurrence.x,
            recurrence.lengths,
            recurrence.y,
            recurrence.order,
        )
        self._initial, self._final = recurrence.initial, recurrence.final
        self._frozen, self._stack, self._dtype = frozen, frozen._stack, recurrence.layer.calls[0].dtype
        self._what, self._directions = ", ".join(recurrence.layer.names), len(frozen._stack.directions)
        self._constants = {name: a for name, a in constants.items() if any(name in names for names in self._initial)}
        # For h and c, and for each node: the state's name in a stream; empty where the state comes from a value.
        keys = [_unique(name, taken) for name in recurrence.layer.names]
        self._kept = [
            [f"{key}.{role}" if not name or name in constants else "" for key, name in zip(keys, names, strict=True)]
            for role, names in zip("hc", self._initial, strict=False)
        ]

    def states(self, B: int) -> dict[str, NDArray]:
        """The states that it keeps in a stream, at the start."""
        D, dtype = self._directions, self._stack.dtype
        states = {}
        for shape, keys, of_role in zip(self._stack.state_shapes(B), self._kept, self._initial, strict=True):
            for key, name in zip(keys, of_role, strict=True):
                if key:
                    a = np.zeros((D, *shape[1:]), dtype)
                    if name:
                        a[...] = self._state(name, self._constants[name], (D, *shape[1:]))
                    states[key] = a
        return states

    def run(self, values: dict[str, Any], states: dict[str, NDArray] | None, run_options: Any) -> None:
        stack, first, D = self._stack, self._stack.batch_first, self._directions
        given = values[self._x]
        x = given.swapaxes(0, 1) if first and given.ndim == 3 else given
        if x.ndim != 3 or x.shape[2] != stack.cells[0].input_size or x.dtype != self._dtype:
            axes = "(batch_size, seq_length, " if first else "(seq_length, batch_size, "
            raise ValueError(
                f"{self._what}: X: expected {self._dtype} {axes}{stack.cells[0].input_size}), "
                f"got {given.dtype} {given.shape}"
            )
        T, B, _ = x.shape
        x = validate.contiguous_rows(x.astype(stack.dtype, copy=False))
        lengths = order = None
        if self._lengths:
            lengths = values[self._lengths]
            if lengths.shape != (B,):
                raise ValueError(f"{self._what}: sequence_lens: expected ({B},), got {lengths.shape}")
            try:
                lengths = spec.checked_lengths(lengths, T)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{self._what}: {error}") from None
            assert lengths is not None
            order = np.argsort(-lengths, kind="stable")
        initial: list[NDArray] = []
        for shape, keys, of_role in zip(stack.state_shapes(B), self._kept, self._initial, strict=True):
            state = np.zeros(shape, stack.dtype)
            for k, (key, name) in enumerate(zip(keys, of_role, strict=True)):
                if key and states is not None:
                    if states[key].shape[1] != B:
                        raise ValueError(f"{self._what}: X: expected a batch of {states[key].shape[1]}, got {B}")
                    state[k * D : k * D + D] = states[key]
                elif name:
                    state[k * D : k * D + D] = self._state(name, values[name], (D, *shape[1:]))
            initial.append(state)
        h0, c0 = initial[0], initial[1] if stack.has_c else None
        y, series = empty_y(stack, self._order, T, B, stack.dtype)
        args = Arguments(x, h0, c0, lengths, order, None, batched=True, state_is_new=True)
        _, h, c = walk.infer(stack, self._frozen._engine, self._frozen._prepared, args, series)
        if self._y:
            values[self._y] = y.astype(self._dtype, copy=False)
        for state, keys, of_role in zip((h, h if c is None else c), self._kept, self._final, strict=False):
            for k, (key, name) in enumerate(zip(keys, of_role, strict=True)):
                part = state[k * D : k * D + D]
                if key and states is not None:
                    states[key] = part.copy()
                if name:
                    values[name] = (part.swapaxes(0, 1) if first else part).astype(self._dtype, copy=False)

    def _state(self, name: str, value: NDArray, shape: tuple[int, ...]) -> NDArray:
        """A state that a node is given, as (D, B, H)."""
        a = value.swapaxes(0, 1) if self._stack.batch_first and value.ndim == 3 else value
        if a.shape != shape or a.dtype != self._dtype:
            raise ValueError(f"{self._what}: {name}: expected {self._dtype} of shape {shape}, got {a.dtype} {a.shape}")
        return a


class _Piece:
    """A part of the model that ONNX Runtime runs."""

    def __init__(self, runtime: onnxruntime.InferenceSession, piece: Piece) -> None:
        self._session, self._inputs, self._outputs = runtime, piece.inputs, piece.outputs

    def run(self, values: dict[str, Any], states: dict[str, NDArray] | None, run_options: Any) -> None:
        feed = {name: values[name] for name in self._inputs}
        values.update(zip(self._outputs, self._session.run(self._outputs, feed, run_options), strict=True))


class _Runtime:
    """ONNX Runtime, with the options and the directory of a model."""

    def __init__(self, model: reading.Model, options: onnxruntime.SessionOptions) -> None:
        self._model, self._options = model, options
        self._add(*SPINNING)
        if model.tensors.directory is not None:
            self._add(FOLDER, model.tensors.directory)

    def _add(self, key: str, value: str) -> None:
        try:
            self._options.get_session_config_entry(key)
        except Exception:  # there is none
            self._options.add_session_config_entry(key, value)

    def piece(self, piece: Piece, types: dict[str, Any]) -> _Piece:
        """Make a piece ready, and add the types of its outputs to `types`."""
        missing = [name for name in piece.inputs if name not in types]
        if missing:
            raise CannotSplitError(f"{missing[0]!r} is no tensor")
        model = piece.model(types)
        self._hand_over(model)
        runtime = onnxruntime.InferenceSession(model.SerializeToString(), self._options, providers=PROVIDERS)
        for argument in runtime.get_outputs():
            if argument.type in ELEMENTS:  # a shape without sizes may be one that is not known
                types[argument.name] = onnx.helper.make_tensor_type_proto(
                    ELEMENTS[argument.type], argument.shape or None
                )
        return _Piece(runtime, piece)

    def _hand_over(self, model: Any) -> None:
        """Give large initializers as arrays."""
        tensors = [tensor for tensor in model.graph.initializer if not reading.is_external(tensor)]
        if sum(tensor.ByteSize() for tensor in tensors) <= MOST_BYTES:
            return
        names, arrays = [], []
        for tensor in tensors:
            if tensor.ByteSize() > 1024:
                names.append(tensor.name)
                arrays.append(onnxruntime.OrtValue.ortvalue_from_numpy(np.array(self._model.tensors.array(tensor))))
                stub = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
                stub.data_location = onnx.TensorProto.EXTERNAL
                stub.external_data.add(key="location", value="handed over")
                tensor.CopyFrom(stub)
        self._options.add_external_initializers(names, arrays)


# ---- Inputs and outputs -------------------------------------------------------------------------------------------

# Types of elements by the names that ONNX Runtime has for them.
ELEMENTS = {f"tensor({name.lower()})": number for name, number in onnx.TensorProto.DataType.items()}
NAMES = {number: name for name, number in ELEMENTS.items()}


class _Input:
    """Checks what is given for an input."""

    def __init__(self, argument: Argument) -> None:
        self.name, self._shape = argument.name, argument.shape
        number = ELEMENTS.get(argument.type, onnx.TensorProto.UNDEFINED)
        plain = number not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)
        self.dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number)) if plain else None
        self._fixed = [(axis, size) for axis, size in enumerate(argument.shape) if isinstance(size, int)]

    def __call__(self, value: Any) -> Any:
        if self.dtype is None:  # ONNX Runtime checks what is no tensor of numbers
            return value
        a = value if type(value) is np.ndarray else validate.array(self.name, value, self.dtype)
        if a.dtype != self.dtype:
            raise TypeError(f"{self.name}: expected an array of {self.dtype}, got {a.dtype}")
        shape = a.shape
        if self._shape and (len(shape) != len(self._shape) or any(shape[axis] != size for axis, size in self._fixed)):
            sizes = ", ".join("any" if size is None else str(size) for size in self._shape)
            raise ValueError(f"{self.name}: expected ({sizes}), got {shape}")
        return a


def _argument(value: Any) -> Argument:
    """What a model says of an input or output."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "unknown"
        return Argument(text(value.name), kind.removesuffix("_type"), [])
    sizes = [d.dim_value if d.HasField("dim_value") else text(d.dim_param) or None for d in tensor.shape.dim]
    return Argument(text(value.name), NAMES.get(tensor.elem_type, "unknown"), sizes)


def _shared(made: Plan, outputs: list[str]) -> set[str]:
    """The outputs whose memory is also that of another output, of an input or of a constant."""
    memory: dict[str, str] = {}
    for step in made.steps:
        if isinstance(step, Moved):
            for name in step.results:
                memory[name] = name if len(step.data) > 1 else memory.get(step.data[0], step.data[0])
    of_pieces = {name for step in made.steps if isinstance(step, Piece) for name in step.outputs}
    of_recurrences = {name for step in made.steps if isinstance(step, Recurrence) for name in step.results}
    counts = Counter(memory.get(name, name) for name in set(outputs))
    alone = {name for name in outputs if counts[memory.get(name, name)] == 1}
    return set(outputs) - of_pieces - (alone & (of_recurrences | memory.keys()))


def _zeros(argument: Argument, B: int) -> tuple[NDArray, int | None]:
    """What an input that is carried starts from, and which axis is the batch, if that is known."""
    dtype = _Input(argument).dtype
    free = [axis for axis, size in enumerate(argument.shape) if not isinstance(size, int)]
    if dtype is None or len(free) > 1:
        raise ValueError(
            f"states: expected inputs whose sizes are fixed but for the batch, got {argument.name!r}, {argument.type} "
            f"of {argument.shape}"
        )
    zeros = np.zeros([size if isinstance(size, int) else B for size in argument.shape], dtype)
    batch = free or [axis for axis, size in enumerate(argument.shape) if size == B]
    return zeros, batch[0] if len(batch) == 1 else None


def _unique(name: str, taken: set[str]) -> str:
    """The name, with a number if it is taken; it is taken from now on."""
    numbered = (name if k == 1 else f"{name}#{k}" for k in itertools.count(1))
    taken.add(unique := next(name for name in numbered if name not in taken))
    return unique
