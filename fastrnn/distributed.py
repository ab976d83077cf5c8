"""Processes that train one model together: groups by MPI (mpi4py) or PyTorch's gloo, and the sum of gradients.

Something else starts the processes: mpiexec, torchrun, a scheduler. Each of them makes its group and hands it to
`fastrnn.train.Trainer`, which does the rest.
"""

from __future__ import annotations

import atexit
import datetime
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.pages import needs
from fastrnn.params import RowGradient

__all__ = ["Group", "gloo", "mpi"]

FORWARDING = 0.5  # seconds for mpiexec to pass on an error's text: at an abort it ends with what it has read till then


class Group(Protocol):
    """What a group can do. An object of your own with these will do.

    Each of the three methods is called by all processes, in the same order.

    Attributes
    ----------
    rank : int
        The number of this process, 0 to size - 1.
    size : int
        How many processes there are.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_reduce(self, array: NDArray) -> None:
        """Replace an array by the sum of those of all processes, which has the same bits in each.

        Parameters
        ----------
        array : ndarray
            float32 or float64, C-contiguous; of the same shape and dtype in all processes.
        """

    def broadcast(self, value: Any) -> Any:
        """Return the value of process 0, any object that can be pickled."""

    def barrier(self) -> None:
        """Wait until all processes have come here."""


class Alone:
    """The group of one process."""

    rank, size = 0, 1

    def all_reduce(self, array: NDArray) -> None:
        """See `Group`."""

    def broadcast(self, value: Any) -> Any:
        """See `Group`."""
        return value

    def barrier(self) -> None:
        """See `Group`."""


def checked_group(group: Any) -> Group:
    """Return a group, that of one process for None; an error unless it can do what a group can."""
    for name in ("rank", "size", "all_reduce", "broadcast", "barrier"):
        if group is not None and not hasattr(group, name):
            raise TypeError(f"group: expected one of fastrnn.distributed, got {type(group).__name__} without {name}")
    return Alone() if group is None else group


class _MPI:
    def __init__(self, comm: Any) -> None:
        from mpi4py import MPI

        self._comm, self._in_place = comm, MPI.IN_PLACE
        self.rank, self.size = comm.Get_rank(), comm.Get_size()

    def all_reduce(self, array: NDArray) -> None:
        self._comm.Allreduce(self._in_place, _checked(array))  # MPI has the sum the same in all processes

    def broadcast(self, value: Any) -> Any:
        return self._comm.bcast(value)

    def barrier(self) -> None:
        self._comm.Barrier()


class _Gloo:
    def __init__(self, distributed: Any) -> None:
        self._distributed = distributed
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def all_reduce(self, array: NDArray) -> None:
        import torch

        with self._others_there():
            self._distributed.all_reduce(torch.from_numpy(_checked(array)))

    def broadcast(self, value: Any) -> Any:
        values = [value]
        with self._others_there():
            self._distributed.broadcast_object_list(values)
        return values[0]

    def barrier(self) -> None:
        with self._others_there():
            self._distributed.barrier()

    @contextmanager
    def _others_there(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"group: process {self.rank} of {self.size} lost another one, which ended or did not answer in time "
                f"({str(error).splitlines()[0]})"
            ) from error


def mpi(comm: Any = None) -> Group:
    """Return the group of the processes that mpiexec, or a scheduler, has started.

    From then on, an exception that nothing catches ends all processes of the group, not only its own.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        The processes. Default: all, ``MPI.COMM_WORLD``.

    Returns
    -------
    Group

    Raises
    ------
    ImportError
        If mpi4py, or the MPI library that it calls, is not installed.
    TypeError
        If `comm` is not a communicator.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: there is no MPI library
        why = str(error).splitlines()[0]
        said = needs("mpi", "mpi4py and an MPI library (mpich, say)", "fastrnn[mpi]", "how-to/clusters")
        raise ImportError(f"{said} ({why})") from None
    if comm is None:
        comm = MPI.COMM_WORLD
    if not isinstance(comm, MPI.Intracomm):
        raise TypeError(f"comm: expected an mpi4py.MPI.Intracomm, got {type(comm).__name__}")
    group = _MPI(comm)
    if group.size > 1:
        _abort_where_nothing_catches(comm)
    return group


def gloo(
    init_method: str = "env://", *, rank: int | None = None, size: int | None = None, timeout: float = 1800.0
) -> Group:
    """Return the group of processes that find each other by ``torch.distributed``, and exchange by its backend gloo.

    Under torchrun no argument is needed. If the process has a default process group already, the group is that one.

    Parameters
    ----------
    init_method : str, default "env://"
        Where the processes meet: "tcp://host:port" of process 0, "file:///path" that all can write, or, by default,
        what the environment variables MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE say.
    rank, size : int, optional
        The number of this process, from 0, and how many there are. Default: what the environment variables say.
    timeout : float, default 1800.0
        For how many seconds an exchange waits for the other processes, before it is an error.

    Returns
    -------
    Group

    Raises
    ------
    ImportError
        If PyTorch is not installed.
    TypeError, ValueError, IndexError
        If an argument has a wrong type or value, or an environment variable is missing.
    RuntimeError
        If the other processes cannot be found.
    """
    if not isinstance(init_method, str):
        raise TypeError(f"init_method: expected a str, got {type(init_method).__name__}")
    timeout = validate.at_least_zero("timeout", timeout)
    count = -1 if size is None else validate.size("size", size)
    number = -1 if rank is None else validate.index("rank", rank, sys.maxsize if size is None else count)
    try:
        import torch.distributed
    except ImportError:
        raise ImportError(needs("gloo", "PyTorch", "fastrnn[torch]", "how-to/clusters")) from None
    distributed = torch.distributed
    if not distributed.is_initialized():
        distributed.init_process_group(
            "gloo", init_method, datetime.timedelta(seconds=timeout), rank=number, world_size=count
        )
        # A thread of PyTorch's that still runs when the process ends may abort it, after all of its work is done.
        atexit.register(_end, distributed)
    return _Gloo(distributed)


def _end(distributed: Any) -> None:
    """End the default process group, if that has not been done yet."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _abort_where_nothing_catches(comm: Any) -> None:
    """End all processes after an exception that ends this one; they would wait for it forever."""
    before = sys.excepthook

    def abort(*error: Any) -> None:
        before(*error)
        print(f"process {comm.Get_rank()} of {comm.Get_size()} ends, and all others with it", file=sys.stderr)
        sys.stderr.flush()
        time.sleep(FORWARDING)
        comm.Abort(1)

    sys.excepthook = abort


def _checked(array: Any) -> NDArray:
    if not isinstance(array, np.ndarray) or array.dtype not in validate.DTYPES:
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"array: expected a NumPy array of float32 or float64, got {kind}")
    if not (array.flags.c_contiguous and array.flags.writeable):
        raise ValueError("array: expected a C-contiguous array that can be written")
    return array


class Summed(NamedTuple):
    """What all processes computed in a step.

    Attributes
    ----------
    loss : float
        The mean over the targets of all.
    grads : dict of str to ndarray or RowGradient
        Of that mean. They share the memory of the next step's.
    targets : int
        Of all.
    stop : bool
        Whether one of them wants to stop.
    """

    loss: float
    grads: dict[str, Any]
    targets: int
    stop: bool


class Exchange:
    """Sums what the processes computed in a step: one buffer, and one all-reduce.

    The loss of a process is a mean over its targets, so it counts as often as it has targets. The buffer begins with
    the sums of targets, losses and wishes to stop. A mark for each row that was read is behind a gradient of rows.
    """

    FIRST = 3  # numbers before the gradients

    def __init__(self, group: Group, params: dict[str, NDArray]) -> None:
        self._group, self._params = group, params
        self._tables: frozenset[str] | None = None  # whose gradients are of rows; known after the first step

    def __call__(self, loss: float, grads: dict[str, Any], targets: int, stop: bool) -> Summed:
        """Return the sums. A process without targets may give no gradients."""
        if self._tables is None:
            self._begin(grads)
        buffer = self._buffer
        buffer[: self.FIRST] = targets, loss * targets if targets else 0, stop
        for name, (sums, marks) in self._parts.items():
            g = grads.get(name)
            sums[...] = 0
            if marks is None:
                if targets:
                    np.multiply(np.asarray(g), targets, out=sums)
                continue
            marks[...] = 0
            if isinstance(g, RowGradient):
                marks[g.ids] = 1
                if targets:
                    sums[g.ids] = g.rows * targets
            elif targets:
                marks[...] = 1
                np.multiply(np.asarray(g), targets, out=sums)
        self._group.all_reduce(buffer)
        count = float(buffer[0])
        buffer[self.FIRST :] /= max(count, 1.0)
        return Summed(float(buffer[1]) / max(count, 1.0), self._of_parts(), round(count), bool(buffer[2]))

    def _begin(self, grads: dict[str, Any]) -> None:
        """Agree on which gradients are of rows, as a process without targets does not know; lay out the buffer."""
        of_rows = np.array([isinstance(grads.get(name), RowGradient) for name in self._params], np.float64)
        self._group.all_reduce(of_rows)
        self._tables = frozenset(name for name, some in zip(self._params, of_rows, strict=True) if some)
        sizes = [p.size + (len(p) if name in self._tables else 0) for name, p in self._params.items()]
        self._buffer = np.empty(self.FIRST + sum(sizes), np.result_type(*self._params.values()))
        self._parts, end = {}, self.FIRST
        for (name, p), size in zip(self._params.items(), sizes, strict=True):
            part = self._buffer[end : end + size]
            self._parts[name] = part[: p.size].reshape(p.shape), part[p.size :] if name in self._tables else None
            end += size

    def _of_parts(self) -> dict[str, Any]:
        grads: dict[str, Any] = {}
        for name, (sums, marks) in self._parts.items():
            dtype = self._params[name].dtype
            if marks is None:
                grads[name] = sums.astype(dtype, copy=False)
            else:
                ids = np.flatnonzero(marks)
                grads[name] = RowGradient(ids, sums[ids].astype(dtype, copy=False), sums.shape)
        return grads
