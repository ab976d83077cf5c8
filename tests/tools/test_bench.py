"""The benchmark: what it verifies, how it measures, what it reports, and how it ends."""

import json
import math
import sys
import threading
import time

import numpy as np
import pytest

import fastrnn
from fastrnn import bench, engines
from fastrnn.bench import CASES, EngineContender, Outcome, Result, Task, Verification, contenders, reports
from fastrnn.bench.verification import TOLERANCE, scaled_error, verified_task
from fastrnn.engines import blas
from fastrnn.engines.compiled import BlasEngine

pytestmark = pytest.mark.usefixtures("small_cases")

TINY = ["--cases", "tiny", "--threads", "1", "--rounds", "2", "--seconds", "0"]


class Wrong(BlasEngine):
    """An engine whose outputs and gradients have a mistake each."""

    name = "wrong"
    mistake = ""

    def forward(self, runs):
        super().forward(runs)
        for run in runs:
            if self.mistake == "y":
                run.y[-1, -1, -1] += 1e-3
            if self.mistake == "nan":
                run.y[0, 0, 0] = np.nan

    def backward(self, runs):
        super().backward(runs)
        for run in runs:
            if self.mistake == "grad":
                run.dweights.weight_hh[...] *= 1.001

    def stepper(self, prepared, h, c):
        def step(x, out, rows):
            advance(x, out, rows)
            if self.mistake == "y":
                h[...] = 0

        advance = super().stepper(prepared, h, c)
        return step


@pytest.fixture
def wrong(monkeypatch):
    """Adds the engine "wrong"; its class, whose `mistake` may be set."""
    monkeypatch.setitem(engines._ENGINES, "wrong", Wrong())
    monkeypatch.setattr(Wrong, "mistake", "y")
    return Wrong


@pytest.fixture
def run(bench_command):
    return bench_command


def task(cell="lstm", kind="training", case="tiny", precision="float32"):
    return Task(cell, kind, case, precision, 1, CASES[case])


def result(ratios, *, case="tiny", wrong=(), name="blas", **options):
    verification = Verification(4, {"y": math.inf if wrong else 1e-7}, wrong)
    outcome = Outcome(name, verification, [1e-3] * len(ratios), ratios)
    return Result(task(case=case, **options), [1e-3 * ratio for ratio in ratios], [outcome])


# ---- tasks -----------------------------------------------------------------------------------------------------------


def test_tasks_are_all_combinations_but_training_of_single_steps():
    found = bench.tasks(["rnn", "gru"], ["inference", "training"], ["step64", "lat64"], ["float32"], [1, 2])
    assert len(found) == len(set(found)) == 2 * 2 * 3
    assert all(task.sizes == CASES[task.case] for task in found)
    assert {task.case for task in found if task.kind == "training"} == {"lat64"}


def test_fewer_bits_are_for_inference():
    found = bench.tasks(["lstm"], ["inference", "training"], ["lat64"], ["float32", "int8"], [1])
    assert [(task.kind, task.precision) for task in found] == [
        ("inference", "float32"),
        ("training", "float32"),
        ("inference", "int8"),
    ]
    assert {task.dtype for task in found} == {"float32"}
    assert all(task.precision == "int8" and task.kind == "inference" for task in bench.quick_tasks([1], ["int8"]))


def test_quick_tasks_hold_what_they_promise():
    found = bench.quick_tasks([2])
    single = [task for task in found if task.dtype == "float32"]
    kinds = {(task.cell, task.kind) for task in single}
    assert len(kinds) == 6
    for cell, kind in kinds:
        cases = {task.case for task in single if (task.cell, task.kind) == (cell, kind)}
        assert cases >= {bench.HEADLINE_CASE, "lat64", "odd"}
    assert CASES[bench.HEADLINE_CASE] == (100, 32, 128, 128)
    assert any(task.dtype == "float64" for task in found)


def test_flops_are_those_of_the_matrix_products():
    forward = 2 * 4 * 3 * 4 * 67 * (5 + 67)
    assert task(kind="inference").flops == forward
    assert task().flops == 3 * forward
    assert task("gru").flops == task("rnn").flops * 3


# ---- verification ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", bench.DTYPES)
@pytest.mark.parametrize("cell", bench.CELLS)
@pytest.mark.parametrize(("kind", "case"), [("inference", "tiny"), ("inference", "step"), ("training", "tiny")])
def test_engines_are_found_right(engine, cell, kind, case, dtype):
    chosen = task(cell, kind, case, dtype)
    verification = bench.verify(EngineContender(engine), chosen, bench.expected(chosen))
    assert verification.wrong == ()
    assert verification.T == chosen.sizes.T
    described = chosen.description
    results = {"y", *(f"{state}_n" for state in described.states)}
    if kind == "training":
        results |= {"grad x", *(f"grad {state}0" for state in described.states)}
        results |= {f"grad {name}_l0" for name in described.shapes()}
    assert verification.errors.keys() == results


@pytest.mark.parametrize(
    ("mistake", "kind", "case", "caught"),
    [
        ("y", "inference", "tiny", {"y"}),
        ("y", "inference", "step", {"h_n"}),
        ("nan", "inference", "tiny", {"y"}),
        ("grad", "training", "tiny", {"grad weight_hh_l0"}),
    ],
)
@pytest.mark.parametrize("dtype", bench.DTYPES)
def test_a_wrong_engine_is_caught(wrong, mistake, kind, case, caught, dtype):
    chosen = task("gru", kind, case, dtype)
    expectation = bench.expected(chosen)
    wrong.mistake = ""
    assert bench.verify(EngineContender("wrong"), chosen, expectation).wrong == ()
    wrong.mistake = mistake
    verification = bench.verify(EngineContender("wrong"), chosen, expectation)
    assert caught == set(verification.wrong)
    assert all(name in str(verification) for name in caught)


def test_missing_and_misshapen_results_are_infinitely_wrong():
    assert scaled_error(None, np.zeros(3)) == math.inf
    assert scaled_error(np.zeros(2), np.zeros(3)) == math.inf


def test_large_tasks_are_verified_on_fewer_steps():
    large = Task("lstm", "training", "b64h1024", "float32", 1, CASES["b64h1024"])
    T, *others = verified_task(large).sizes
    assert 2 <= T < large.sizes.T
    assert others == list(large.sizes[1:])
    assert verified_task(task()) == task()


# ---- measurement -----------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch, wrong):
    """Engines and thread counts in the order of measurement; the reference takes 6, 8, 4 ms, other engines 2."""
    wrong.mistake = ""
    log = []
    reference_times = iter((6e-3, 8e-3, 4e-3))

    def median_seconds(call, seconds):
        call()
        log.append((engines.current().name, fastrnn.get_num_threads()))
        return next(reference_times) if engines.current().name == "reference" else 2e-3

    monkeypatch.setattr(contenders, "median_seconds", median_seconds)
    return log


def test_contenders_are_measured_in_turn(measured):
    contenders = [EngineContender("blas"), EngineContender("wrong")]
    (done,) = bench.run([task()], contenders, rounds=3, seconds=0)
    assert measured == [("reference", 1), ("blas", 1), ("wrong", 1)] * 3
    assert done.base_seconds == [6e-3, 8e-3, 4e-3]
    assert [outcome.name for outcome in done.outcomes] == ["blas", "wrong"]
    for outcome in done.outcomes:
        assert outcome.seconds == [2e-3] * 3
        assert outcome.ratios == pytest.approx([3, 4, 2])
        assert done.gflops(outcome) == pytest.approx(task().flops / 2e-3 / 1e9)


def test_what_is_wrong_is_not_timed(measured, wrong):
    wrong.mistake = "y"
    (done,) = bench.run([task()], [EngineContender("wrong"), EngineContender("blas")], rounds=1, seconds=0)
    assert measured == [("reference", 1), ("blas", 1)]
    assert not done.outcomes[0].seconds
    (done,) = bench.run([task()], [EngineContender("wrong")], rounds=1, seconds=0)
    assert not done.base_seconds


def test_threads_are_compared_in_turn(measured):
    base, other = EngineContender("blas", 1), EngineContender("blas", 2)
    (done,) = bench.run([task()], [other], rounds=2, seconds=0, base=base)
    assert measured == [("blas", 1), ("blas", 2)] * 2
    assert [outcome.name for outcome in done.outcomes] == ["2 threads"]


def test_a_spent_budget_leaves_one_round(measured):
    done = list(bench.run([task(), task("rnn")], [EngineContender("blas")], rounds=3, seconds=10, budget=0))
    assert [len(one.base_seconds) for one in done] == [1, 1]


def test_median_seconds():
    assert 0.01 <= bench.median_seconds(lambda: time.sleep(0.01), 0.03) < 1
    calls = []
    assert bench.median_seconds(lambda: calls.append(1), 0) < 1e-3
    assert len(calls) > 100  # too short for the clock: many at once


def test_wait_until_idle_waits_for_threads():
    end = time.perf_counter() + 0.15

    def work():
        while time.perf_counter() < end:
            pass

    thread = threading.Thread(target=work)
    thread.start()
    bench.wait_until_idle(at_most=5)
    assert time.perf_counter() > end
    thread.join()


def test_threads_of_numpys_blas_are_put_back():
    control = blas.numpy_control()
    if control is None:
        pytest.skip("NumPy's BLAS does not let itself be told")
    before = control[1]()
    with blas.numpy_threads(1):
        assert control[1]() == 1
    assert control[1]() == before


# ---- reports ---------------------------------------------------------------------------------------------------------


def test_summary_says_whether_an_engine_was_ahead():
    line, *rest = bench.summary([result([3, 4, 9]), result([1.5], cell="gru"), result([0.5], case="step")])
    assert line == (
        "blas was ahead in every case of H >= 64 (2 of 2), by 1.5 x at least (gru training tiny float32 1 thread)"
    )
    assert rest == []


def test_summary_names_losses_and_mistakes():
    results = [result([2]), result([0.5], cell="gru"), result([], cell="rnn", wrong=("y",))]
    assert bench.summary(results) == [
        "blas was ahead in 1 of 3 cases of H >= 64; behind in gru training tiny float32 1 thread (0.50 x); "
        "wrong in rnn training tiny float32 1 thread"
    ]


def test_summary_quotes_the_headline_case():
    results = [result([7], case="t100b32h128"), result([5], cell="gru", case="t100b32h128")]
    assert bench.summary(results)[1:] == [
        "blas at T=100, B=32, I=128, H=128, float32, 1 thread: lstm training 7.0 x, gru training 5.0 x"
    ]


def test_summary_of_threads_names_what_became_slower():
    results = [result([0.5], name="2 threads"), result([0.95], cell="gru", name="2 threads")]
    assert reports.scaling_summary(results) == [
        "2 threads took at most 2.00 times as long as 1 thread (lstm training tiny float32); "
        "more than 1.1 times in lstm training tiny float32 (2.00) of 2 tasks"
    ]


def test_summary_of_precisions_names_losses_and_errors():
    results = [
        result([ratio], kind="inference", cell=cell, precision="int8") for cell, ratio in (("lstm", 2), ("gru", 1))
    ]
    results.append(result([3], kind="inference", precision="bfloat16"))
    assert reports.precision_summary(results) == [
        "int8 was 1.50 times as fast as float32 (median of 2 tasks), not faster in gru inference tiny int8 (1.00); "
        "largest error 1e-07 (lstm inference tiny int8)",
        "bfloat16 was 3.00 times as fast as float32 (median of 1 task), not faster in none; "
        "largest error 1e-07 (lstm inference tiny bfloat16)",
    ]


def test_figures_are_uncertain_where_rounds_differ():
    assert not result([1.0, 1.9]).outcomes[0].uncertain
    assert result([1.0]).outcomes[0].uncertain
    assert result([1.0, 2.1]).outcomes[0].uncertain
    assert not result([], wrong=("y",)).outcomes[0].uncertain


def test_machine_is_described():
    described = bench.machine()
    assert described["cpu"]
    assert described["cores"] >= 1
    assert described["fastrnn"] == fastrnn.__version__
    assert described["numpy"] == np.__version__
    json.dumps(described, allow_nan=False)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_plot(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    results = [
        result([2, 3, 4]), result([0.5], cell="gru"), result([], cell="rnn", wrong=("y",)),
        result([5], kind="inference", precision="float64"),
    ]  # fmt: skip
    path = tmp_path / f"chart.{suffix}"
    bench.plot(path, results, bench.machine())
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)
    if suffix == "svg":
        assert path.stat().st_size > 10_000


# ---- the command -----------------------------------------------------------------------------------------------------


def test_command_measures_and_writes_numbers(run, tmp_path):
    path = tmp_path / "numbers.json"
    done = run(*TINY, "--cells", "lstm,gru", "--dtypes", "float32,float64", "--json", path)
    assert done.exit_code == 0, done.output
    assert "4,3,5,67" in done.stdout
    assert "float64, 1 thread" in done.stdout
    assert "of H >= 64" in done.stdout
    numbers = json.loads(path.read_text())
    assert numbers.keys() == {"machine", "settings", "summary", "results"}
    assert numbers["settings"]["complete"]
    results = numbers["results"]
    assert len(results) == 2 * 2 * 2
    assert {one["cell"] for one in results} == {"lstm", "gru"}
    for one in results:
        assert (one["T"], one["B"], one["I"], one["H"], one["threads"]) == (4, 3, 5, 67, 1)
        reference, blas = one["reference"], one["engines"]["blas"]
        assert blas["verified"]
        assert len(reference["rounds"]) == len(blas["rounds"]) == len(blas["ratios"]) == 2
        assert blas["ratios"][0] == pytest.approx(reference["rounds"][0] / blas["rounds"][0])
        assert blas["ratio"] == pytest.approx(np.median(blas["ratios"]))
        assert blas["gflops"] == pytest.approx(one["flops"] / blas["seconds"] / 1e9)


def test_command_writes_a_chart(run, tmp_path):
    pytest.importorskip("matplotlib")
    assert run(*TINY, "--cells", "rnn", "--plot", tmp_path / "chart.png").exit_code == 0
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_command_compares_numbers_of_threads(run, tmp_path):
    path = tmp_path / "numbers.json"
    arguments = [*TINY, "--cells", "gru", "--engines", "blas", "--json", path]
    done = run("--scaling", *arguments, "--threads", "1,2,3")
    assert done.exit_code == 0, done.output
    assert "3 threads took at most " in done.stdout
    numbers = json.loads(path.read_text())
    assert numbers["engine"] == "blas"
    assert len(numbers["results"]) == 2
    for one in numbers["results"]:
        assert one["1 thread"]["rounds"]
        assert one["others"].keys() == {"2 threads", "3 threads"}


def test_command_compares_precisions_with_float32(run, tmp_path):
    path = tmp_path / "numbers.json"
    done = run("--precision", "int8,bfloat16,float32", *TINY, "--cells", "lstm,gru", "--json", path)
    assert done.exit_code == 0, done.output
    assert "int8, 1 thread" in done.stdout
    assert "bfloat16 was " in done.stdout
    numbers = json.loads(path.read_text())
    results = numbers["results"]
    assert [(one["precision"], one["cell"]) for one in results] == [
        ("int8", "lstm"), ("int8", "gru"), ("bfloat16", "lstm"), ("bfloat16", "gru"),
    ]  # fmt: skip
    for one in results:
        fewer = one["engines"][numbers["engine"]]
        assert fewer["ratios"][0] == pytest.approx(one["float32"]["rounds"][0] / fewer["rounds"][0])
        assert TOLERANCE["float32"]["value"] < fewer["errors"]["y"] < TOLERANCE[one["precision"]]["value"]


def test_command_fails_on_a_wrong_engine(run, wrong, tmp_path):
    path = tmp_path / "numbers.json"
    wrong.mistake = "nan"
    done = run(*TINY, "--cells", "lstm", "--kinds", "inference", "--json", path)
    assert done.exit_code == 1
    assert "wrong: wrong, lstm inference tiny float32 1 thread: scaled error inf in y" in done.stdout
    assert "blas was ahead in " in done.stdout
    (one,) = json.loads(path.read_text())["results"]
    assert not one["engines"]["wrong"]["verified"]
    assert one["engines"]["wrong"]["errors"]["y"] is None
    assert one["engines"]["wrong"]["ratio"] is None
    assert one["engines"]["blas"]["ratio"] is not None
    assert run(*TINY, "--cells", "lstm", "--engines", "blas").exit_code == 0


def test_quick_takes_its_own_tasks(run, monkeypatch):
    calls = []
    monkeypatch.setattr(bench, "run", lambda *arguments: calls.append(arguments) or [])
    assert run("--quick", "--cells", "gru", "--threads", "1,2").exit_code == 0
    ((selected, contenders, _, _, budget),) = calls
    assert selected == [task for task in bench.quick_tasks([1, 2]) if task.cell == "gru"]
    assert [contender.name for contender in contenders] == [name for name in engines.available() if name != "reference"]
    assert budget < 60


def test_an_interrupt_leaves_what_there_is(run, monkeypatch, tmp_path):
    def interrupted(*_):
        yield result([3.25])
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "run", interrupted)
    done = run(*TINY, "--json", tmp_path / "numbers.json")
    assert done.exit_code == 130
    assert "3.25" in done.stdout
    assert "not completed" in done.stdout
    assert "Traceback" not in done.output
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert not numbers["settings"]["complete"]
    assert len(numbers["results"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cells", "transformer"], "--cells': expected one or more of rnn, lstm, gru"),
        (["--cells", ""], "--cells"),
        (["--kinds", "inference,prayer"], "got 'prayer'"),
        (["--cases", "lat64,huge"], "got 'huge'"),
        (["--dtypes", "float16"], "--dtypes': expected one or more of float32, float64"),
        (["--engines", "steam"], "--engines': expected one or more of "),
        (["--engines", "reference"], "got 'reference'"),
        (["--threads", "0"], "--threads': expected integers from 1 to 1024"),
        (["--threads", "1,two"], "got 'two'"),
        (["--threads", "1025"], "--threads"),
        (["--rounds", "0"], "--rounds"),
        (["--seconds", "-1"], "--seconds"),
        (["--kinds", "training", "--cases", "step64"], "selection without any task"),
        (["--quick", "--cases", "b64h1024"], "selection without any task"),
        (["--json", "missing/numbers.json"], "--json: missing/numbers.json: cannot write (No such file"),
        (["--json", "."], "--json: .: cannot write (Is a directory)"),
        (["--plot", "chart.gif"], "--plot: expected a name that ends in .png, .svg, .pdf, got 'chart.gif'"),
        (["--plot", "missing/chart.png"], "missing/chart.png"),
        (["--memory", "--plot", "chart.png"], "--plot: expected times to draw, got --memory"),
        (["--peers-python", "no/python", "--peers"], "--peers-python': expected a Python interpreter, got 'no/python'"),
        (["--peers", "--memory"], "--peers, --memory: expected at most one of them, got 2"),
        (["--peers-python", sys.executable], "--peers-python: expected --peers, --loops or --models with it"),
        (["--peers", "--engines", "packed,blas"], "--engines: expected one with --peers, got packed, blas"),
        (["--scaling", "--threads", "2"], "--scaling: expected several numbers in --threads, got 2"),
        (["--situations", "idle,noon"], "--situations': expected one or more of idle, busy, openblas, onnxruntime"),
        (["--threading", "steam"], "--threading': expected one or more of "),
        (["--situations", "idle", "--memory"], "--memory, --situations: expected at most one of them, got 2"),
        (["--situations", "idle", "--threads", "1"], "--threads: expected one number of at least 2 with --situations"),
        (["--situations", "idle", "--threads", "2,3"], "of at least 2 with --situations, got 2, 3"),
        (["--situations", "idle", "--cells", "gru"], "--cells, --dtypes, --precision: expected none with --situa"),
        (["--precision", "int4"], "--precision': expected one or more of float32, bfloat16, int8"),
        (["--precision", "float32"], "--precision: expected inference in bfloat16 or int8, to measure against float32"),
        (["--precision", "int8", "--kinds", "training"], "selection without any task"),
        (["--precision", "int8", "--dtypes", "float64"], "--dtypes: expected none with --precision"),
        (["--precision", "int8", "--engines", "packed,blas"], "--engines: expected one with --precision, got packed"),
        (["--situations", "idle", "--plot", "chart.png"], "--plot: expected a mode with a chart, got --situations"),
        (["--situations", "idle", "--cases", "step64"], "b256h64, b8h256, lat256, bi512 with --situations, got step64"),
        (["--cases", "lat64,bi512"], "without a mode, got lat64, bi512"),
    ],
)
def test_options_that_make_no_sense(run, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "run", lambda *_: pytest.fail("measured first"))
    if arguments[0] == "--plot" and arguments[1] != "chart.gif":
        pytest.importorskip("matplotlib")
    done = run(*arguments)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_a_chart_without_matplotlib(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run("--plot", tmp_path / "chart.png")
    assert done.exit_code == 2
    assert done.stderr.startswith('fastrnn: error: --plot needs matplotlib: pip install "fastrnn[bench]"; https://')


def test_checking_a_path_leaves_the_file(run, monkeypatch, tmp_path):
    path = tmp_path / "numbers.json"
    path.write_text("old")
    monkeypatch.setattr(bench, "run", lambda *_: [])
    assert run(*TINY, "--json", path).exit_code == 0
    assert path.read_text() == "old"
