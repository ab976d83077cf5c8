"""Every engine, the reference among them, on the same tasks: verified, then timed. A task is a benchmark group.

The figures of a group are taken one after the other, not in turn: see README.md for what may be concluded from them.
"""

from functools import lru_cache

import pytest

from fastrnn import bench


@lru_cache(maxsize=1)  # the engines of a task follow each other
def expected(task: bench.Task) -> bench.Results:
    return bench.expected(task)


@pytest.mark.benchmark(max_time=0.2, min_rounds=3, warmup=False)
def test_task(benchmark, task: bench.Task, engine: str) -> None:
    contender = bench.EngineContender(engine)
    verification = bench.verify(contender, task, expected(task))
    assert not verification.wrong, str(verification)
    benchmark.group = str(task)
    benchmark.extra_info["flops"] = task.flops
    with contender.load(task).ready() as call:
        call()  # warms up caches and threads
        benchmark(call)
