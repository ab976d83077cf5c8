"""How near a task comes to the limits of this machine: the least time that it could take, divided by the time it took.

The least time is called the floor. The speed of a machine changes over time, and so do its limits. So they are measured
in every round beside the engines: the floor is one more contender.
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
from fastrnn.bench.measuring import Result
from fastrnn.bench.problems import Results
from fastrnn.bench.tasks import DTYPES, WEIGHT_BYTES, Task
from fastrnn.bench.worker import wait_until_idle
from fastrnn.engines import blas

__all__ = ["Floor", "Limits", "Probe", "caches", "floor_seconds", "level_of", "summary", "weights"]


# ---- The model -----------------------------------------------------------------------------------------------------


class Limits(NamedTuple):
    """The limits that bound a task, for all its threads together.

    Attributes
    ----------
    gemm : float
        Operations per second of the fastest large matrix product; with fewer bits than float32, for which BLAS has
        none, of multiply-adds in registers.
    read : float
        Bytes per second that are read from the level of memory which holds the task's weights.
    level : str
        That level: "L1", "L2", "L3" or "memory".
    """

    gemm: float
    read: float
    level: str


def weights(task: Task) -> tuple[int, int]:
    """Return how many bytes of weights are needed at each step, and how many times they are read.

    For a sequence these are the weights U. Its inputs are projected for many steps at once, so W is read only once for
    all of them. For a single step they are both U and W. Gradients read U a second time at each step.
    """
    T, _, I, H = task.sizes
    row_bytes = WEIGHT_BYTES[task.precision] * len(task.description.gates)
    return row_bytes * H * (H if T > 1 else H + I), T * (2 if task.kind == "training" else 1)


def floor_seconds(task: Task, limits: Limits) -> float:
    """Return the least time that a task can take in this model: that of multiplying or of reading weights, if longer.

    It assumes that

    - threads share the units, so that each reads its own part of the weights, and all read at the same time;
    - this part stays in the smallest cache that holds it (`level_of`), and all of it is read at each step, once for all
      rows;
    - products are as fast as the fastest large one; training has three times the products of inference (`Task.flops`);
    - nothing else takes time: gates, barriers, the tape, x and y; with fewer bits, rounding x and h.

    A share above 1 is possible if an assumption does not hold: our own products may be faster than those of BLAS, and a
    part of weights that exceed a cache may stay in it.
    """
    size, times = weights(task)
    return max(task.flops / limits.gemm, size * times / limits.read)


def level_of(task: Task, sizes: dict[str, int]) -> str:
    """Return the first level of `sizes` (bytes per thread) that holds a thread's part of the weights, or "memory"."""
    part = weights(task)[0] / task.threads
    return next((level for level, size in sizes.items() if part <= size), "memory")


# ---- The limits ----------------------------------------------------------------------------------------------------

ASSUMED = {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}  # where the system does not report them
SHARED_LEVEL = "L3"
MEMORY_BYTES = 256 << 20  # read by all threads together; it must exceed L3, else L3 is measured
PROBE_SECONDS = 0.01
GEMM_SECONDS = 0.04
GEMM_SIZE = 1536
CALL_BYTES = 32 << 20  # read in one call of C, so that the time of the call itself does not count


def caches(threads: int) -> dict[str, int]:
    """Return for each level of data cache how many bytes each of `threads` threads has to itself, smallest first."""
    return {level: size // (threads if level == SHARED_LEVEL else 1) for level, size in machine_caches().items()}


@lru_cache(maxsize=1)
def machine_caches() -> dict[str, int]:
    """Return the bytes of L1, L2 and L3 of the first CPU that we may use, as Linux reports them, or `ASSUMED`."""
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
    """Measures what a number of threads can do at the same time, with the selected instruction set."""

    def __init__(self, threads: int, precision: str) -> None:
        self._threads, self._precision = threads, precision
        self._dtype = np.dtype(precision if precision in DTYPES else "float32")
        self.caches = caches(threads)
        self._buffers: dict[str, list[NDArray]] = {}
        self._factors: list[NDArray] = []

    def multiply_add(self) -> float:
        """Operations per second on values in registers: no product can be faster."""
        repeats, size = 100_000, WEIGHT_BYTES[self._precision]
        return self._at_once(lambda _: native.probe_multiply_add(size, repeats)[0])

    def read(self, level: str) -> float:
        """Bytes per second that all threads together read from a level, each from an array of its own."""
        if level not in self._buffers:
            self._buffers[level] = [touched(self._read_size(level), self._dtype) for _ in range(self._threads)]
        buffers = self._buffers[level]
        repeats = max(1, CALL_BYTES // buffers[0].nbytes)
        return self._at_once(lambda index: native.probe_read(buffers[index], repeats)[0])

    def gemm(self) -> float:
        """Operations per second of a large product on these threads: the faster of SciPy's and NumPy's BLAS."""
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

    def product(self) -> float:
        """Operations per second that bound a product: see `Limits.gemm`."""
        return self.gemm() if self._precision in DTYPES else self.multiply_add()

    def everything(self) -> dict[str, float]:
        """All rates: "multiply_add" and "gemm" in operations per second, and each level in bytes per second.

        With fewer bits than float32 there is no "gemm".
        """
        rates = {"multiply_add": self.multiply_add()}
        if self._precision in DTYPES:
            rates["gemm"] = self.gemm()
        return rates | {level: self.read(level) for level in (*self.caches, "memory")}

    def _read_size(self, level: str) -> int:
        """How many bytes a thread reads to measure a level.

        Half of the cache, so that other data in it does not evict them. Of a large L3 less: what surely exceeds L2.
        """
        if level == "memory":
            return MEMORY_BYTES // self._threads
        half = self.caches[level] // 2
        return min(half, 4 * self.caches.get("L2", half)) if level == SHARED_LEVEL else half

    def _at_once(self, work: Callable[[int], int]) -> float:
        """Run work(index) in all threads at the same time; return the sum of the rates at which they did it."""
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
    """Return an aligned array of about `size` bytes, written to: pages not written yet are all one page of zeros."""
    block = np.empty(size + 64, np.uint8)
    block[...] = 0
    start = -block.ctypes.data % 64
    return block[start : start + size // dtype.itemsize * dtype.itemsize].view(dtype)


# ---- The floor as a contender --------------------------------------------------------------------------------------


class Floor:
    """A contender whose time is the least that the machine could take, by its limits at that moment.

    Attributes
    ----------
    measured : dict of Task to list of Limits
        The limits of each task, one value for each round.
    """

    name = "floor"

    def __init__(self) -> None:
        self.measured: dict[Task, list[Limits]] = {}
        self._probe = lru_cache(maxsize=1)(Probe)  # keeps one set of buffers only

    def probe(self, threads: int, precision: str) -> Probe:
        """Return the probe that measures the limits."""
        return self._probe(threads, precision)

    def load(self, task: Task) -> FloorRunner:
        """See `Contender.load`."""
        return FloorRunner(task, self.probe(task.threads, task.precision), self.measured.setdefault(task, []))

    def bound(self, task: Task) -> Limits:
        """Return the medians over the rounds of a task's limits."""
        gemms, reads, levels = zip(*self.measured[task], strict=True)
        return Limits(median(gemms), median(reads), levels[0])


class FloorRunner:
    """A task's floor."""

    def __init__(self, task: Task, probe: Probe, measured: list[Limits]) -> None:
        self._task, self._probe, self._measured = task, probe, measured

    def results(self) -> Results:
        """There are none: the floor computes nothing."""
        return {}

    def measure(self, seconds: float) -> float:
        """See `Runner.measure`. `seconds` is ignored: the probe decides how long it measures."""
        level = level_of(self._task, self._probe.caches)
        self._measured.append(Limits(self._probe.product(), self._probe.read(level), level))
        return floor_seconds(self._task, self._measured[-1])


def summary(results: Sequence[Result]) -> list[str]:
    """Return for each engine a line with the median, the least and the greatest of the shares that it reached."""
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
