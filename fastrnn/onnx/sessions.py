"""Whole ONNX models: recurrent nodes by fastrnn, all others by ONNX Runtime.

`split.py` says which nodes are run by what, and in which order; here the steps of its plan are made ready and run.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.formats.reading import refusing
from fastrnn.onnx.models import Loading, opened_model
from fastrnn.onnx.reading import text
from fastrnn.onnx.split import CannotSplitError, Moved, Node, Piece, Plan, Planner, Recurrence
from fastrnn.onnx.steps import ELEMENTS, Layers, Part, Runtime, ready

__all__ = ["Argument", "Session", "SessionStream", "session"]

log = logging.getLogger("fastrnn.onnx")


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
    with refusing(name):
        return Session(Loading(opened, precision, max_bytes), Runtime(opened, sess_options))


class Session:
    """A model that is ready to run, from `session`.

    Safe to share among threads: runs read it and write nothing but their own results.
    """

    def __init__(self, loading: Loading, runtime: Runtime) -> None:
        graph, planner = loading.proto.graph, Planner(loading)
        given = {tensor.name for tensor in graph.initializer}
        self._inputs = [_argument(value) for value in graph.input if value.name not in given]
        self._checks = [_Input(argument) for argument in self._inputs]
        self._outputs = [_argument(value) for value in graph.output]
        self._output_names = [argument.name for argument in self._outputs]
        try:
            made = planner.plan()
            self._steps = ready(made, loading, runtime)
        except CannotSplitError as error:
            log.info("ONNX Runtime runs the whole model: %s", error)
            made = planner.whole(str(error))
            self._steps = ready(made, loading, runtime)
        self._nodes, self._carried, self._constants = tuple(made.nodes), made.carried, made.constants
        self._shared = _shared(made, self._output_names)

    def __repr__(self) -> str:
        ours = sum(node.runs_in == "fastrnn" for node in self._nodes)
        parts = sum(isinstance(step, Part) for step in self._steps)
        return f"Session({ours} of {len(self._nodes)} recurrent nodes by fastrnn, {parts} part(s) by ONNX Runtime)"

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
        known = self._output_names
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
            if isinstance(step, Layers):
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


# ---- Inputs and outputs -------------------------------------------------------------------------------------------

# The names that ONNX Runtime has for the types of elements.
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
        wrong = self._shape and len(shape) != len(self._shape)
        for axis, size in () if wrong else self._fixed:
            wrong = wrong or shape[axis] != size
        if wrong:
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
