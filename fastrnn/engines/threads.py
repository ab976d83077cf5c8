"""How many threads a call may use: for the process, for the calling thread, and by default."""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from fastrnn import validate
from fastrnn._core import native
from fastrnn.pages import page

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
        raise ValueError(
            f"{source}: expected one of those that this build has ({there}), got {name!r}; {page('threads')}"
        )


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


def _cgroup_quota(root: Path = Path("/")) -> int | None:
    """CPUs granted by the bandwidth limits of this process's cgroups, rounded up; None without one."""
    granted = [cpus for group in _cgroups(root) if (cpus := _granted(group)) is not None]
    return math.ceil(min(granted)) if granted else None


_MOUNT = re.compile(r"\S+ \S+ \S+ (?P<top>\S+) (?P<folder>\S+) .* - (?P<kind>cgroup2?) \S+ (?P<options>\S+)")
"""A line of mountinfo: the group `top` and those inside it are folders at `folder`. See proc(5)."""


def _cgroups(root: Path) -> Iterator[Path]:
    """Folders of the groups that may limit the CPUs: this process's own and those around it. Versions 2 and 1."""
    try:
        groups = [words for line in _lines(root / "proc/self/cgroup") if len(words := line.split(":", 2)) == 3]
        mounts = [_MOUNT.match(line) for line in _lines(root / "proc/self/mountinfo")]
    except OSError:  # not on Linux
        return
    own = {"cgroup2" if not names else "cgroup": path for _, names, path in groups if not names or _has_cpu(names)}
    for mount in filter(None, mounts):
        kind, top = mount["kind"], mount["top"]
        if kind not in own or (kind == "cgroup" and not _has_cpu(mount["options"])):
            continue
        below = PurePosixPath(os.path.relpath(own[kind], top))
        if ".." in below.parts:  # not inside what is mounted: containers see another tree than their host
            below = PurePosixPath()
        for group in (below, *below.parents):
            yield root / mount["folder"].lstrip("/") / group


def _lines(file: Path) -> list[str]:
    return file.read_text(errors="surrogateescape").splitlines()


def _has_cpu(names: str) -> bool:
    return "cpu" in names.split(",")


def _granted(group: Path) -> float | None:
    """CPUs that a cgroup's own limit grants; None without one."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = (int(word) for name in files for word in _lines(group / name)[0].split())
        except (OSError, ValueError, IndexError):  # no such file; "max"
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


native.set_threads(_default())
if os.environ.get("FASTRNN_THREADING"):
    _select("FASTRNN_THREADING", os.environ["FASTRNN_THREADING"])
