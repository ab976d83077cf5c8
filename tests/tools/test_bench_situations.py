"""Calls where others want the cores, too: each situation is there while it is measured, and nothing of it stays."""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

import fastrnn
from fastrnn._core import native
from fastrnn.bench import Sizes, situations
from fastrnn.bench.situations import SITUATIONS, Case, Conditions, Job, Timing

pytestmark = [
    pytest.mark.usefixtures("thread_count", "threading_choice"),
    pytest.mark.skipif(not native.has_threads(), reason="this build has no threads"),
]

TINY = Case("tiny", "training", Sizes(2, 3, 5, 7), bidirectional=True)
SHORT = Conditions("packed", 2, rounds=2, seconds=0)
PROVIDERS = native.threading_names()
QUICK = ["--quick", "--cases", "lat256", "--rounds", "1", "--seconds", "0", "--threads", "2"]


@pytest.fixture
def threading_choice():
    """Restores the provider of threads."""
    before = fastrnn.get_threading()
    yield
    if before != "none":
        fastrnn.set_threading(before)


@pytest.fixture
def processes(monkeypatch):
    """The processes that are started, in order."""
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    return started


# ---- situations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SITUATIONS if name != "bursts"])
def test_situations_measure_and_leave_no_thread(name):
    threads = threading.active_count()
    for enter in SITUATIONS[name].values():
        try:
            with enter() as measure:
                assert measure(lambda: None, 0) >= 0
        except situations.UnavailableError as error:
            pytest.skip(str(error))
    assert threading.active_count() == threads


def test_the_names_are_those_of_the_issue():
    assert list(SITUATIONS) == ["idle", "busy", "openblas", "onnxruntime", "torch", "bursts", "callers", "one-core"]
    assert list(SITUATIONS["bursts"]) == [f"bursts, {rest} ms" for rest in (1, 5, 20, 50, 120, 200)]
    assert list(SITUATIONS["callers"]) == [f"{n} callers" for n in (2, 4, 8)]


def test_the_busy_process_ends_also_after_an_interrupt(processes):
    with situations.busy():
        assert processes[0].poll() is None
    with pytest.raises(KeyboardInterrupt), situations.busy():
        raise KeyboardInterrupt
    assert len(processes) == 2
    assert all(process.returncode is not None for process in processes)


def test_the_busy_process_ends_when_its_parent_is_gone():
    with subprocess.Popen(
        [sys.executable, "-c", situations.SPIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as one:
        assert one.stdout.readline()
        one.stdin.close()  # as the system does for a process that ends
        assert one.wait(60) == 0


def test_what_comes_before_calls_comes_before_each_burst():
    log = []
    situations.after(lambda: log.append("rest"), 3)(lambda: log.append("call"), 0)
    assert log == ["rest", "call", *["rest", "call", "call", "call"] * situations.LEAST_SAMPLES]


@pytest.mark.parametrize("n", [2, 4])
def test_callers_call_at_once(n):
    barrier = threading.Barrier(n)
    with situations.callers(n) as measure:
        assert measure(lambda: barrier.wait(60), 0) > 0
    assert not barrier.broken


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not hold processes to CPUs")
def test_one_core_holds_every_thread_and_lets_it_go():
    begun, ask, asked = threading.Event(), threading.Event(), []

    def other():
        begun.set()
        ask.wait(60)
        asked.append(os.sched_getaffinity(0))

    before = os.sched_getaffinity(0)
    thread = threading.Thread(target=other)
    thread.start()
    begun.wait(60)
    with situations.one_core():
        assert len(os.sched_getaffinity(0)) == 1
        ask.set()
        thread.join()
    assert len(asked[0]) == 1
    assert os.sched_getaffinity(0) == before


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    job = Job("torch", "workers", "torch", TINY)
    (timing,) = situations.measured([job], SHORT)
    assert timing.task == job
    assert timing.ratios == []
    assert "torch" in timing.skipped
    assert situations.summary([timing]) == [f"not measured: torch: {timing.skipped}"]


# ---- measurement -----------------------------------------------------------------------------------------------------


def test_one_thread_and_all_threads_are_measured_in_turn(monkeypatch):
    log = []
    times = iter([1, 3, 2, 2, 4, 1, 5, 10])

    @contextmanager
    def fake():
        def measure(call, seconds):
            call()
            log.append((fastrnn.get_threading(), fastrnn.get_num_threads()))
            return next(times)

        yield measure

    monkeypatch.setitem(SITUATIONS, "fake", {"fake": fake, "other": fake})
    selected = situations.jobs(["fake"], PROVIDERS[:1], [TINY])
    first, second = situations.measured(selected, SHORT)
    assert log == [(PROVIDERS[0], 1), (PROVIDERS[0], 2)] * 4
    assert (first.task, second.task) == tuple(selected)
    assert (first.one_thread, first.all_threads, first.ratios) == ([1, 2], [3, 2], [3, 1])
    assert (second.one_thread, second.all_threads, second.ratios) == ([4, 5], [1, 10], [0.25, 2])


def test_cases_are_those_that_the_issue_names():
    sizes = [(case.sizes.T, case.sizes.B, case.sizes.H, case.kind, case.bidirectional) for case in situations.CASES]
    assert sizes == [
        (50, 32, 128, "inference", False), (50, 32, 128, "training", False), (100, 256, 64, "inference", False),
        (100, 8, 256, "inference", False), (100, 1, 256, "inference", False), (30, 1, 512, "inference", True),
    ]  # fmt: skip
    problem = TINY.problem()
    assert problem.x.shape == (2, 3, 5)
    assert problem.dy.shape == (2, 3, 14)


def test_summary_names_losses():
    results = [
        Timing(Job("idle", "openmp", "idle", TINY), [1, 1, 1], [0.5, 0.6, 9]),
        Timing(Job("idle", "workers", "idle", TINY), [1, 1, 1], [1.15, 1.15, 1.15]),
        Timing(Job("busy", "openmp", "busy", TINY), [2, 2, 2], [4, 5, 1]),
        Timing(Job("busy", "workers", "busy", TINY), [2, 2, 2], [2, 2, 2]),
    ]
    assert situations.summary(results) == [
        "openmp: more than 1.15 of one thread's time in 1 of 2",
        "  busy, training tiny, openmp: 2.00",
        "workers: more than 1.15 of one thread's time in 0 of 2",
    ]


def test_a_situation_ends_with_whoever_wanted_it(processes):
    endless = Case("endless", "training", Sizes(100, 64, 256, 256))
    conditions = Conditions("packed", 2, rounds=50, seconds=0)
    timings = situations.run(["busy"], PROVIDERS, [TINY, endless], conditions)
    next(timings)  # the other one has begun, or soon will
    timings.close()
    (process,) = processes
    assert process.returncode == 0  # it has ended its busy process, too


def test_a_process_that_fails_is_an_error(processes, capfd):
    conditions = Conditions("steam", 2, rounds=1, seconds=0)
    with pytest.raises(subprocess.CalledProcessError):
        list(situations.run(["idle"], PROVIDERS, [TINY], conditions))
    assert "FASTRNN_ENGINE" in capfd.readouterr().err
    assert processes[0].returncode


# ---- the command -----------------------------------------------------------------------------------------------------


def test_command(bench_command, processes, tmp_path):
    path = tmp_path / "numbers.json"
    done = bench_command("--situations", "idle,busy", "--threading", PROVIDERS[0], *QUICK, "--json", path)
    assert done.exit_code == 0, done.output
    assert f"{PROVIDERS[0]}: more than 1.15 of one thread's time in " in done.stdout
    assert "100,1,256" in done.stdout
    numbers = json.loads(path.read_text())
    assert (numbers["threads"], numbers["settings"]["mode"], numbers["settings"]["complete"]) == (2, "situations", True)
    assert [(one["situation"], one["threading"], one["variant"], one["case"]) for one in numbers["results"]] == [
        ("idle", PROVIDERS[0], "idle", "lat256"),
        ("busy", PROVIDERS[0], "busy", "lat256"),
    ]
    for one in numbers["results"]:
        own = one["all threads"]
        assert own["ratios"][0] == pytest.approx(own["rounds"][0] / one["one thread"]["rounds"][0])
        assert own["ratio"] == own["ratios"][0]
    assert [process.returncode for process in processes] == [0, 0]


def test_command_marks_losses(bench_command, monkeypatch):
    found = [
        Timing(Job("idle", "openmp", "idle", TINY), [1, 1], [1, 1]),
        Timing(Job("idle", "workers", "idle", TINY), [1, 1], [0.5, 0.5]),
        Timing(Job("busy", "openmp", "busy", TINY), [1, 1], [1, 4]),
        Timing(Job("busy", "workers", "busy", TINY), [1, 1], [1.5, 1.75]),
        Timing(Job("torch", "workers", "torch", TINY), [], [], "no torch"),
    ]
    monkeypatch.setattr(situations, "run", lambda *_: iter(found))
    done = bench_command("--situations", "idle,busy,torch", *QUICK)
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["idle", "workers", "0.50"] in rows
    assert ["busy", "openmp", "2.50!~"] in rows
    assert ["busy", "workers", "1.62!"] in rows
    assert "not measured: torch: no torch" in done.stdout
    assert "  busy, training tiny, workers: 1.62" in done.stdout.splitlines()
