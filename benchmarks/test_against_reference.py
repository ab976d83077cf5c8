"""Every engine, and the reference, on the same tasks: verified first, then timed. Each task is a benchmark group.

The engines of a group are measured one after the other, not in turn. README.md says what may be concluded from that.
"""

from functools import lru_cache

import pytest

from fastrnn import bench


@lru_cache(maxsize=1)  # all engines of a task come one after the other
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
