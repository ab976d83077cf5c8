"""How long a call takes."""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable
from statistics import median
from typing import Any

__all__ = ["median_seconds", "wait_until_idle"]


LONG_SECONDS = 0.1  # a run that takes longer warms itself up
SAMPLE_SECONDS = 2e-4  # runs shorter than this are timed several at once: the clock and its call take 0.1 us


def median_seconds(call: Callable[[], Any], seconds: float) -> float:
    """Call for about so many seconds after a warm-up; the median time of a call."""
    timer = timeit.Timer(call)  # it keeps the garbage collector out
    once = timer.timeit(1)
    if once > max(seconds, LONG_SECONDS):
        return once
    if once < 10 * SAMPLE_SECONDS:  # the first call of many is not like the others
        once = min(timer.repeat(5, 1))
    number = max(1, round(SAMPLE_SECONDS / max(once, 1e-9)))
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while not samples or time.perf_counter() < end:
        samples.append(timer.timeit(number) / number)
    return median(samples)


def wait_until_idle(at_most: float = 0.5, step: float = 0.005) -> None:
    """Wait until no thread of this process works.

    The threads of an OpenBLAS spin for 0.1 s after their work, which would halve the speed of who comes next.
    """
    end = time.perf_counter() + at_most
    while time.perf_counter() < end:
        begin, busy = time.perf_counter(), time.process_time()
        time.sleep(step)
        if time.process_time() - busy < 0.1 * (time.perf_counter() - begin):
            return
