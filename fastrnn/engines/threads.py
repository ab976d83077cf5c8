"""How many threads a call may use: for the process, for the calling thread, and by default."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastrnn import validate
from fastrnn._core import native

__all__ = ["get_num_threads", "get_threading", "num_threads", "set_num_threads", "set_threading"]


def get_num_threads() -> int:
    """Return the number of threads that a call from this thread may use.

    Small work stays on one thread whatever this says.
    """
    return native.get_threads()


def set_num_threads(n: int) -> None:
    """Set the number of threads that a call may use, for the whole process.

    Parameters
    ----------
    n : int
        1 to `MAX_THREADS`, which is 1,024. More than the machine has is allowed, and slow.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer, or not in that range.
    """
    native.set_threads(_checked("n", n))


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Set the number of threads for calls from the calling thread, inside a ``with`` block.

    Parameters
    ----------
    n : int
        1 to `MAX_THREADS`.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer, or not in that range.
    """
    before = native.set_own_threads(_checked("n", n))
    try:
        yield
    finally:
        native.set_own_threads(before)


def set_threading(name: str) -> None:
    """Choose what gives calls their threads, for the whole process.

    Parameters
    ----------
    name : {"workers", "openmp"}
        "workers", the default: threads of our own, which sleep between calls. "openmp": threads of the OpenMP library
        that the compiler brought, where it has one.

    Raises
    ------
    TypeError, ValueError
        If `name` is not a string, unknown, or not there in this build.
    """
    _select("name", validate.choice("name", name, ("workers", "openmp")))


def get_threading() -> str:
    """Return what gives calls their threads: "workers" or "openmp"; "none" in a build without threads."""
    return native.threading_selected()


def _select(source: str, name: str) -> None:
    if not native.threading_select(name):
        there = ", ".join(native.threading_names()) or "none: it was built without threads"
        raise ValueError(f"{source}: expected one of those that this build has ({there}), got {name!r}")


MAX_THREADS = native.MOST_THREADS


def _checked(name: str, n: int) -> int:
    if isinstance(n, bool):
        raise TypeError(f"{name}: expected an integer number of threads, got a bool")
    try:
        n = operator.index(n)
    except TypeError:
        raise TypeError(f"{name}: expected an integer number of threads, got {type(n).__name__}") from None
    if not 1 <= n <= MAX_THREADS:
        raise ValueError(f"{name}: expected 1 to {MAX_THREADS} threads, got {n}")
    return n


def _default() -> int:
    """The environment's word, else the CPUs that this process may run on, within its cgroup's quota."""
    text = os.environ.get("FASTRNN_NUM_THREADS", "").strip()
    if text:
        if not text.isdecimal():
            raise ValueError(f"FASTRNN_NUM_THREADS: expected 1 to {MAX_THREADS} threads, got {text!r}")
        return _checked("FASTRNN_NUM_THREADS", int(text))
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list has a value a nesting level
    if text.isdecimal() and 1 <= int(text) <= MAX_THREADS:  # if it makes no sense, it is not ours to judge
        return int(text)
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cpus = os.cpu_count() or 1
    return min(max(1, min(cpus, _cgroup_quota() or cpus)), MAX_THREADS)


def _cgroup_quota(root: str = "/sys/fs/cgroup") -> int | None:
    """CPUs granted by the cgroup's bandwidth limit, rounded up; None without one. Versions 2 and 1."""
    try:
        quota, period = Path(root, "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota = Path(root, "cpu/cpu.cfs_quota_us").read_text()
            period = Path(root, "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        limit, per = int(quota), int(period)
    except ValueError:  # "max"
        return None
    return max(1, -(-limit // per)) if limit > 0 and per > 0 else None


native.set_threads(_default())
if os.environ.get("FASTRNN_THREADING"):
    _select("FASTRNN_THREADING", os.environ["FASTRNN_THREADING"])
