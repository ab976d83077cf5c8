"""The options of ``pytest benchmarks``, and the tasks of `fastrnn.bench` that they select, each on every engine."""

import pytest

from fastrnn import bench, engines, get_num_threads


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastrnn")
    group.addoption(
        "--full", action="store_true", help="every case and dtype, instead of those of fastrnn bench --quick"
    )
    group.addoption("--threads", type=int, default=get_num_threads(), help="for engines and reference alike")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"task", "engine"} <= set(metafunc.fixturenames):
        threads = [metafunc.config.getoption("--threads")]
        full = metafunc.config.getoption("--full")
        tasks = (
            bench.tasks(bench.CELLS, bench.KINDS, bench.CASES, bench.DTYPES, threads)
            if full
            else bench.quick_tasks(threads)
        )
        pairs = [(task, engine) for task in tasks for engine in engines.available()]
        ids = [f"{str(task).replace(' ', '-')}-{engine}" for task, engine in pairs]
        metafunc.parametrize(("task", "engine"), pairs, ids=ids)
