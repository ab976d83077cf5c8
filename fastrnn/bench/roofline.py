"""What share of this machine's limits a task reaches: the least time that it could take, divided by the time it took.

Machines drift, limits too, so what bounds a task is measured in every round beside the engines: the floor is one more
contender.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastrnn._core import native
from fastrnn.bench.contenders import Results
from fastrnn.bench.measuring import Result
from fastrnn.bench.tasks import Task
from fastrnn.bench.worker import wait_until_idle
from fastrnn.engines import blas

__all__ = ["Floor", "Limits", "Probe", "caches", "floor_seconds", "level_of", "summary", "weights"]


# ---- The model -----------------------------------------------------------------------------------------------------


class Limits(NamedTuple):
    """What bounds a task, on all its threads together.

    Attributes
    ----------
    gemm : float
        Operations a second of the machine's best large matrix product.
    read : float
        Bytes a second, read from where the task's weights lie.
    level : str
        Where that is: "L1", "L2", "L3" or "memory".
    """

    gemm: float
    read: float
    level: str


def weights(task: Task) -> tuple[int, int]:
    """Return how many bytes of weights must be at hand at each step, and how many times they are read.

    That is U for a sequence, whose inputs are projected many steps at once: W is read once for all of these. For a
    single step it is both. Gradients read U once more, for the way back.
    """
    T, _, I, H = task.sizes
    row_bytes = np.dtype(task.dtype).itemsize * len(task.description.gates)
    return row_bytes * H * (H if T > 1 else H + I), T * (2 if task.kind == "training" else 1)


def floor_seconds(task: Task, limits: Limits) -> float:
    """Return the least time that a task can take by this model: the slower of multiplying and reading weights.

    It assumes that

    - threads share the units, so that each reads its own part of the weights, and all read at once;
    - this part stays in the smallest cache that holds it (`level_of`) and is read whole at each step, for all rows;
    - products go as fast as the best large one; training has three times the products of inference (`Task.flops`);
    - all else is free: gates, barriers, the tape, x and y.

    A share above 1 is possible where an assumption fails: our own products may beat BLAS's, and a part of what exceeds
    a cache may stay there.
    """
    size, times = weights(task)
    return max(task.flops / limits.gemm, size * times / limits.read)


def level_of(task: Task, sizes: dict[str, int]) -> str:
    """The first level of `sizes`, bytes a thread, that holds a thread's part of the weights; else "memory"."""
    part = weights(task)[0] / task.threads
    return next((level for level, size in sizes.items() if part <= size), "memory")


# ---- The limits ----------------------------------------------------------------------------------------------------

ASSUMED = {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}  # where the system does not say
SHARED_LEVEL = "L3"
MEMORY_BYTES = 256 << 20  # of all threads together, when memory is read; a machine with more L3 shows its L3 instead
PROBE_SECONDS = 0.01
GEMM_SECONDS = 0.04
GEMM_SIZE = 1536
CALL_BYTES = 32 << 20  # read in one call of C, so that Python's part does not count


def caches(threads: int) -> dict[str, int]:
    """Return the bytes of each level of data cache that one of so many threads has to itself, smallest first."""
    return {level: size // (threads if level == SHARED_LEVEL else 1) for level, size in machine_caches().items()}


@lru_cache(maxsize=1)
def machine_caches() -> dict[str, int]:
    """L1, L2 and L3 in bytes, from Linux's description of the first CPU that we may use; `ASSUMED` elsewhere."""
    sizes = {}
    cpu = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    for folder in sorted(Path(f"/sys/devices/system/cpu/cpu{cpu}/cache").glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:  # a virtual machine may hide some
            continue
        if kind != "Instruction" and f"L{level}" in ASSUMED and size.endswith("K"):
            sizes[f"L{level}"] = int(size[:-1]) << 10
    return {level: sizes[level] for level in ASSUMED if level in sizes} or dict(ASSUMED)


class Probe:
    """Measures what so many threads can do at once, with the selected instruction set."""

    def __init__(self, threads: int, dtype: str) -> None:
        self._threads, self._dtype = threads, np.dtype(dtype)
        self.caches = caches(threads)
        self._buffers: dict[str, list[NDArray]] = {}
        self._factors: list[NDArray] = []

    def multiply_add(self) -> float:
        """Operations a second in registers: no product can be faster."""
        repeats = 100_000
        return self._at_once(lambda _: native.probe_multiply_add(self._dtype.itemsize, repeats)[0])

    def read(self, level: str) -> float:
        """Bytes a second that all threads read from a level, each from memory of its own."""
        if level not in self._buffers:
            self._buffers[level] = [touched(self._read_size(level), self._dtype) for _ in range(self._threads)]
        buffers = self._buffers[level]
        repeats = max(1, CALL_BYTES // buffers[0].nbytes)
        return self._at_once(lambda index: native.probe_read(buffers[index], repeats)[0])

    def gemm(self) -> float:
        """Operations a second of the better of SciPy's and NumPy's BLAS in a large product on these threads."""
        if not self._factors:
            self._factors = [touched(GEMM_SIZE**2 * self._dtype.itemsize, self._dtype) for _ in range(3)]
        a, b, c = (factor[: GEMM_SIZE**2].reshape(GEMM_SIZE, GEMM_SIZE) for factor in self._factors)
        products: Sequence[Callable[[], object]] = (
            lambda: native.gemm(False, False, a, b, False, c),
            lambda: np.matmul(a, b, out=c),
        )
        with blas.scipy_threads(self._threads), blas.numpy_threads(self._threads):
            least = min(self._quickest(product) for product in products)
        wait_until_idle()
        return 2 * GEMM_SIZE**3 / least

    def everything(self) -> dict[str, float]:
        """All of these: "multiply_add" and "gemm" in operations a second, each level in bytes a second."""
        rates = {"multiply_add": self.multiply_add(), "gemm": self.gemm()}
        return rates | {level: self.read(level) for level in (*self.caches, "memory")}

    def _read_size(self, level: str) -> int:
        """Half a cache, so that what else lies there does not push it out; of a large L3 what surely exceeds L2."""
        if level == "memory":
            return MEMORY_BYTES // self._threads
        half = self.caches[level] // 2
        return min(half, 4 * self.caches.get("L2", half)) if level == SHARED_LEVEL else half

    def _at_once(self, work: Callable[[int], int]) -> float:
        """The sum over threads of what work(index) says it did a second, in all of them at the same time."""
        barrier = threading.Barrier(self._threads)

        def rate(index: int) -> float:
            work(index)  # warms up
            barrier.wait()
            begin, done = time.perf_counter(), 0
            while True:
                done += work(index)
                taken = time.perf_counter() - begin
                if taken >= PROBE_SECONDS:
                    return done / taken

        with ThreadPoolExecutor(self._threads) as pool:
            return sum(pool.map(rate, range(self._threads)))

    @staticmethod
    def _quickest(call: Callable[[], object]) -> float:
        call()  # warms up
        end = time.perf_counter() + GEMM_SECONDS
        least = float("inf")
        while (begin := time.perf_counter()) < end or least == float("inf"):
            call()
            least = min(least, time.perf_counter() - begin)
        return least


def touched(size: int, dtype: np.dtype) -> NDArray:
    """An array of about `size` bytes, 64-byte aligned, with pages of its own; untouched ones are all the same page."""
    block = np.empty(size + 64, np.uint8)
    block[...] = 0
    start = -block.ctypes.data % 64
    return block[start : start + size // dtype.itemsize * dtype.itemsize].view(dtype)


# ---- The floor as a contender --------------------------------------------------------------------------------------


class Floor:
    """Its time is the least that the machine, as it is in that moment, could take.

    Attributes
    ----------
    measured : dict of Task to list of Limits
        What bounded each task, a value a round.
    """

    name = "floor"

    def __init__(self) -> None:
        self.measured: dict[Task, list[Limits]] = {}
        self._probe = lru_cache(maxsize=1)(Probe)  # one set of buffers at a time

    def probe(self, threads: int, dtype: str) -> Probe:
        """What measures the limits."""
        return self._probe(threads, dtype)

    def load(self, task: Task) -> FloorRunner:
        """See `Contender.load`."""
        return FloorRunner(task, self.probe(task.threads, task.dtype), self.measured.setdefault(task, []))

    def bound(self, task: Task) -> Limits:
        """The medians of what bounded a task."""
        gemms, reads, levels = zip(*self.measured[task], strict=True)
        return Limits(median(gemms), median(reads), levels[0])


class FloorRunner:
    """A task's floor."""

    def __init__(self, task: Task, probe: Probe, measured: list[Limits]) -> None:
        self._task, self._probe, self._measured = task, probe, measured

    def results(self) -> Results:
        """It computes nothing."""
        return {}

    def measure(self, seconds: float) -> float:
        """See `Runner.measure`; how long it takes is not the caller's choice."""
        level = level_of(self._task, self._probe.caches)
        self._measured.append(Limits(self._probe.gemm(), self._probe.read(level), level))
        return floor_seconds(self._task, self._measured[-1])


def summary(results: Sequence[Result]) -> list[str]:
    """Return for each engine the median and the extremes of the shares that it reached."""
    lines = []
    for name in dict.fromkeys(outcome.name for result in results for outcome in result.outcomes):
        shares = {r.task: median(o.ratios) for r in results for o in r.outcomes if o.name == name and o.ratios}
        if shares:
            least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
            lines.append(
                f"{name} reached {median(shares.values()):.0%} of the floor (median of {len(shares)}), "
                f"{shares[least]:.0%} at least ({least}), {shares[most]:.0%} at most ({most})"
            )
    return lines
