"""Cells beside the loops of PyTorch's users and beside plain cells: verified, measured in turn, with their targets."""

import functools
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn.bench import Outcome, Sizes, Verification, loops, peers, processes
from fastrnn.bench.contenders import EngineRunner
from fastrnn.bench.loops import VARIANTS, Result, comparison
from fastrnn.bench.peers import ProcessContender
from fastrnn.bench.problems import Problem
from fastrnn.bench.processes import ContenderError, WorkerProcess
from fastrnn.bench.tasks import CELLS
from fastrnn.bench.verification import verified_task, verify

TINY = Sizes(4, 3, 5, 8)


@pytest.fixture(autouse=True)
def tiny_case(monkeypatch):
    monkeypatch.setitem(loops.CASES, "tiny", TINY)


def task(variant="lstm-coupled", kind="training"):
    (one,) = loops.tasks([variant], [kind], ["tiny"], [1])
    return one


# The real worker, in which the loops are fastrnn behind a mask.
MASKS = f"""
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("worker", {str(processes.WORKER)!r})
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)

def mistaken(problem):
    call, collect = worker.load_fastrnn(problem)
    return call, lambda: collect() | {{"y": collect()["y"] + 1}}

def failing(problem):
    raise ValueError("cannot\\nand says so at length")

masks = {{"twin": worker.load_fastrnn, "mistaken": mistaken, "failing": failing, "slow": lambda _: time.sleep(60)}}
worker.LOADERS["loop"] = (("fastrnn",), masks[os.environ.get("LOOP", "twin")])
worker.LOADERS["compiled"] = (("fastrnn",), masks[os.environ.get("COMPILED", "twin")])
worker.main()
"""


@pytest.fixture
def masks(monkeypatch, tmp_path):
    """Lets the loops be those of MASKS: the environment variables LOOP and COMPILED name them."""
    (tmp_path / "worker.py").write_text(MASKS)
    monkeypatch.setattr(processes, "WORKER", tmp_path / "worker.py")
    monkeypatch.setenv("PYTHONPATH", str(Path(fastrnn.__file__).parents[1]))


# ---- variants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=str)
def test_variants_are_layers_of_ours(variant):
    """Each is there, with its options; and the plain cell is the same without what the variant adds."""
    for one in loops.tasks([variant.name], variant.kinds, ["tiny"], [2]):
        problem = Problem.draw(one)
        assert problem.x.shape == (4, 3, 5)
        assert all(f"{name}={value!r}" in repr(problem.layer) for name, value in variant.added)
        assert one.beside.cell in CELLS
        assert not {name for name, _ in variant.added} & {name for name, _ in one.beside.options}
        assert one.flops > 0


def test_what_is_random_is_verified_without_and_in_training_only():
    assert task("lstm-zoneout").settled.options == (("zoneout", 0.0), ("zoneout_cell", 0.0))
    assert task("lstm-zoneout", "inference").settled.options == (("zoneout", 0.05), ("zoneout_cell", 0.5))
    assert task("lstm-coupled").settled == task("lstm-coupled")
    (long,) = loops.tasks(["mingru"], ["training"], ["lat256"], [1])
    assert long.settled.sizes == (20, 1, 256, 256)
    (one,) = loops.tasks(["gru-candidate"], ["inference", "training"], ["tiny"], [1])
    assert one.kind == "training"


def outcome(name, *ratios):
    return Outcome(name, Verification(4, {"y": 1e-7}, ()), [1e-3] * len(ratios), list(ratios))


def result(variant, kind="training", **ratios):
    outcomes = [outcome(name, ratio) for name, ratio in ratios.items()]
    return Result(task(variant, kind), [1e-3], outcomes, Verification(4, {"y": 1e-7}, ()))


def test_targets():
    coupled = VARIANTS["lstm-coupled"]  # 10 times the loop, at most 0.9 of the plain cell's time
    assert loops.cost(outcome("plain", 2.0, 4.0, 5.0)) == 0.25
    assert not loops.missed(coupled, outcome("plain", 1 / 0.89))
    assert loops.missed(coupled, outcome("plain", 1 / 0.91))
    assert not loops.missed(coupled, outcome("loop", 10.1))
    assert loops.missed(coupled, outcome("loop", 9.9))
    assert not loops.missed(coupled, outcome("compiled", 0.1)), "there is no target"
    assert not loops.missed(VARIANTS["mingru"], outcome("plain", 0.1)), "there is no target"
    assert not loops.missed(coupled, outcome("loop")), "it was not measured"


def test_summary_says_what_misses_its_target():
    results = [
        result("lstm-coupled", plain=1.25, loop=20.0, compiled=8.0),
        result("lstm-coupled", plain=1.0, loop=5.0),
        result("lstm-coupled", "inference", plain=1.25),
        result("minlstm", plain=2.0),
    ]
    assert loops.summary(results) == [
        "lstm-coupled training: 5.00 to 20.00 times as fast as the loop (target 10, missed in tiny (5.00)); "
        "8.00 to 8.00 times as fast as the compiled loop; 0.80 to 1.00 times the time of the plain lstm (target 0.9, "
        "missed in tiny (1.00))",
        "lstm-coupled inference: 0.80 to 0.80 times the time of the plain lstm (target 0.9)",
        "minlstm training: 0.50 to 0.50 times the time of the plain lstm",
    ]


# ---- measurement -----------------------------------------------------------------------------------------------------


class Fake:
    """A contender that computes what the reference does, in this process, and says how long it took."""

    def __init__(self, name, seconds, log):
        self.name, self._seconds, self._log = name, iter(seconds), log

    def load(self, chosen):
        self._task = chosen
        return self

    def results(self):
        problem = Problem.draw(verified_task(self._task)).at_rest()
        return EngineRunner("blas", 1, self._task.kind, problem).results()

    def measure(self, seconds):
        self._log.append((self.name, self._task.cell, dict(self._task.options)))
        return next(self._seconds)


def test_all_are_measured_in_turn_on_what_the_variant_is():
    log, own = [], {"coupled": True}
    fakes = [Fake("own", [2, 4], log), Fake("plain", [3, 3], log), Fake("loop", [20, 60], log)]
    (done,) = loops.run([task()], fakes[0], fakes[1], fakes[2:], rounds=2, seconds=0)
    assert log == [("own", "lstm", own), ("plain", "lstm", {}), ("loop", "lstm", own)] * 2
    assert done.base_seconds == [2, 4]
    assert {one.name: one.ratios for one in done.outcomes} == {"plain": [1.5, 0.75], "loop": [10, 15]}


def test_a_process_that_takes_too_long_is_ended(masks, monkeypatch):
    monkeypatch.setenv("LOOP", "slow")
    contender = ProcessContender("loop", sys.executable, limit=3)
    try:
        with pytest.raises(ContenderError, match=r"^took more than 3 s$"):
            contender.load(task())
        assert not contender.running
    finally:
        contender.close()


def test_a_limit_does_not_end_what_takes_less(masks):
    process = WorkerProcess("loop", sys.executable, limit=60)
    try:
        process.start(1)
        with pytest.raises(ContenderError, match="FileNotFoundError"):
            process.ask("load", path="nowhere.npz", cell="lstm", kind="inference", precision="float32")
        assert process.running
    finally:
        process.close()


# ---- the command -----------------------------------------------------------------------------------------------------

OPTIONS = ["--loops", "--cases", "tiny", "--cells", "lstm-coupled", "--threads", "1", "--rounds", "2", "--seconds", "0"]


def test_command_measures_who_is_there_and_names_the_others(bench_command, masks, monkeypatch, tmp_path):
    monkeypatch.setenv("COMPILED", "failing")
    path = tmp_path / "numbers.json"
    done = bench_command(*OPTIONS, "--engines", "blas", "--json", path)
    assert done.exit_code == 0, done.output
    assert f"loop {fastrnn.__version__}: {sys.executable}" in done.stdout
    assert "not measured: compiled in 2 tasks: ValueError: cannot\n" in done.stdout
    assert "lstm-coupled training: " in done.stdout
    numbers = json.loads(path.read_text())
    assert numbers["libraries"]["found"].keys() == {"loop", "compiled"}
    assert [one["kind"] for one in numbers["results"]] == ["inference", "training"]
    for one in numbers["results"]:
        assert one["variant"] == "lstm-coupled"
        assert one["targets"] == {"loop": 10, "of plain": 0.9}
        assert one["fastrnn"]["verified"]
        assert one["others"].keys() == {"plain", "loop"}
        loop = one["others"]["loop"]
        assert loop["ratios"][0] == pytest.approx(loop["rounds"][0] / one["fastrnn"]["rounds"][0])
        assert "loop" in one["missed"], "no twin is ten times as slow"


def test_command_says_what_is_wrong(bench_command, masks, monkeypatch):
    monkeypatch.setenv("LOOP", "mistaken")
    done = bench_command(*OPTIONS, "--quick", "--kinds", "inference")
    assert done.exit_code == 0, done.output
    assert "wrong: loop, lstm-coupled inference tiny float32 1 thread: scaled error" in done.stdout
    assert f"compiled {fastrnn.__version__}" not in done.stdout, "a quick look has no time to compile"


def test_command_without_pytorch_measures_the_plain_cell(bench_command, monkeypatch):
    monkeypatch.setattr(comparison, "RIVALS", ())
    monkeypatch.setattr(loops, "find", lambda *_: ([], {"loop": "No module named 'torch'"}))
    done = bench_command(*OPTIONS, "--kinds", "inference")
    assert done.exit_code == 0, done.output
    assert "missing: loop (No module named 'torch')" in done.stdout
    assert "times the time of the plain lstm" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--loops", "--cells", "lstm"], "--cells: expected some of rnn-norm, lstm-norm"),
        (["--cells", "lstm-norm"], "--cells: expected some of rnn, lstm, gru"),
        (["--loops", "--cases", "lat64"], "--cases: expected some of lat128"),
        (["--loops", "--dtypes", "float64"], "--dtypes, --precision: expected none with --loops"),
        (["--loops", "--plot", "chart.png"], "--plot: expected a mode with a chart, got --loops"),
        (["--loops", "--models"], "expected at most one of them, got 2"),
    ],
)
def test_wrong_options_are_found_before_anything_is_measured(bench_command, options, message):
    done = bench_command(*options)
    assert done.exit_code == 2
    assert message in done.stderr


# ---- PyTorch itself, where it is -------------------------------------------------------------------------------------

no_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


@no_torch
def test_live():
    """What is not random is right in the loops as they are measured; the rest in tests/bridges/test_live_loops.py."""
    contender = ProcessContender("loop", sys.executable)
    try:
        for one in loops.tasks(VARIANTS, ("inference", "training"), ["tiny"], [1]):
            assert verify(contender, one.settled, peers.expected(one.settled)).wrong == (), one
            assert contender.load(one).measure(0) > 0
    finally:
        contender.close()


@no_torch
@pytest.mark.parametrize("variant", ["lstm-norm-sum", "gru-norm-before", "lstm-zoneout", "slstm"])
def test_what_is_compiled_is_compiled_as_a_whole(variant, monkeypatch):
    """Nothing in a step makes torch.compile go back to Python."""
    import torch

    module = importlib.import_module("fastrnn.bench.loops.torch")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    layer = Problem.draw(task(variant, VARIANTS[variant].kinds[-1])).layer
    params = {name.removesuffix("_l0"): torch.tensor(np.array(value)) for name, value in layer.params.items()}
    loop = module.build(VARIANTS[variant].cell, dict(task(variant).options), params)
    x = torch.randn(4, 3, 5)
    with torch.no_grad():
        expected = loop.eval()(x)[0]
        module.compile_step(loop)
        np.testing.assert_allclose(loop(x)[0], expected, rtol=1e-5, atol=1e-6)
        assert loop.train()(x)[0].shape == expected.shape
