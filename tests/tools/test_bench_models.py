"""Whole models beside PyTorch and JAX: the same results everywhere, measured in turn; what is missing is named."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fastrnn
from fastrnn.bench import Outcome, Verification, models, processes
from fastrnn.bench.models import CONTENDERS, ROWS, Result, comparison, kit
from fastrnn.bench.models.comparison import Contender
from fastrnn.bench.processes import WorkerProcess
from fastrnn.cli.bench import OWN_CASES

SMALL = {
    "V": 11, "targets": 13, "E": 3, "H": 4, "T": 5, "B": 3, "characters": 9, "character_E": 2, "character_H": 3, "K": 4,
    "longest": 12, "shortest": 2, "F": 3, "length": 4,
}  # fmt: skip
SMALL_ROWS = tuple(
    replace(row, sizes={name: min(value, SMALL.get(name, value)) for name, value in row.sizes.items()}) for row in ROWS
)
BY_NAME = {row.name: row for row in SMALL_ROWS}

# The real worker, with contenders that are the kit behind a mask.
MASKS = f"""
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("worker", {str(processes.WORKER)!r})
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)

class Masked(worker.Worker):
    def results(self, path):
        if self._contender == "mistaken":
            call, collect = self._solution
            self._solution = call, lambda: collect() | {{"loss": collect()["loss"] + 1}}
        return super().results(path)

    def measure(self, seconds):
        if self._contender == "dying":
            print("last words", file=sys.stderr)
            os._exit(3)
        return super().measure(seconds)

for name in ("torch", "accelerate", "jax", "mistaken", "dying"):
    worker.MODELS[name] = (("fastrnn",), "kit")
    worker.LOADERS.pop(name, None)
worker.MODELS["absent"] = (("fastrnn", "no_such_library"), "kit")
worker.Worker = Masked
worker.main()
"""


@pytest.fixture
def masks(monkeypatch, tmp_path):
    """Lets contenders be those of MASKS; sets which there are beside the kit, and the rows."""
    (tmp_path / "models").symlink_to(processes.WORKER.parent / "models")
    (tmp_path / "worker.py").write_text(MASKS)
    monkeypatch.setattr(processes, "WORKER", tmp_path / "worker.py")
    monkeypatch.setenv("PYTHONPATH", str(Path(fastrnn.__file__).parents[1]))

    def choose(**chosen):
        for name in CONTENDERS.keys() - {"kit"}:
            monkeypatch.delitem(CONTENDERS, name)
        for name, contender in chosen.items():
            monkeypatch.setitem(CONTENDERS, name, contender)

    monkeypatch.setitem(OWN_CASES, "models", (SMALL_ROWS, SMALL_ROWS[:1]))
    return choose


# ---- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_data_is_the_same_each_time_and_of_the_row_s_sizes(row):
    (params, batches), (again, others) = models.draw(row), models.draw(row)
    assert all((params[name] == again[name]).all() for name in params)
    assert len(batches) == len(others) == row.batches
    for batch, other in zip(batches, others, strict=True):
        assert (batch.x == other.x).all()
        assert (batch.y == other.y).all()
        assert batch.x.shape[1] == row.sizes["B"]
        assert batch.x_lengths is None or batch.x_lengths.max() == len(batch.x) <= row.sizes.get("longest", 24)


def test_targets_are_those_that_the_loss_counts():
    for row in SMALL_ROWS:
        _, batches = models.draw(row)
        model = kit.MODELS[row.model](SimpleNamespace(**row.sizes), np.float32, 0)
        counted = sum(model.loss(batch).targets for batch in batches)
        assert row.targets(batches) == (counted if row.kind == "training" else row.batches * 3 * 4)


# ---- measurement -----------------------------------------------------------------------------------------------------


class Fake:
    """A contender in this process, which says how long it took."""

    def __init__(self, name, seconds, log):
        self.name, self._seconds, self._log = name, iter([0, *seconds]), log

    def start(self, threads):
        self._results = comparison.expected(BY_NAME["characters"], *models.draw(BY_NAME["characters"]))

    def send(self, *_, **__): ...

    def results(self):
        return self._results

    def ask(self, do):
        return {"peak": 5 << 20, "before": 1 << 20}

    def measure(self, seconds):
        self._log.append(self.name)
        return next(self._seconds)

    def close(self): ...


def test_contenders_are_measured_in_turn_and_pytorch_s_time_is_divided_by_theirs():
    log = []
    fakes = [Fake("torch", [6, 16], log), Fake("kit", [2, 4], log), Fake("jax", [12, 16], log)]
    row = BY_NAME["characters"]
    (done,) = models.run([row], fakes, threads=1, rounds=2, seconds=0, budget=float("inf"))
    assert log == ["torch", "kit", "jax"] * 3  # the first warms up
    assert [outcome.ratios for outcome in done.outcomes] == [[1, 1], [3, 4], [0.5, 1]]
    assert done.speed(done.outcomes[1]) == done.targets / 3
    assert done.memory["kit"].above == 4 << 20


def result(name, **ratios):
    outcomes = [Outcome(who, Verification(5, {"loss": 1e-7}, ()), [1.0], [ratio]) for who, ratio in ratios.items()]
    return Result(BY_NAME[name], 60, outcomes)


def test_summary_has_the_mean_and_the_losses():
    results = [result("characters", torch=1.0, kit=4.0, jax=0.5), result("digits", torch=1.0, kit=1.0)]
    assert models.summary(results) == [
        "kit: 2.00 times as fast as PyTorch in the geometric mean of 2, at least 1.00 (digits); "
        "behind in digits (1.00)",
        "jax: 0.50 times as fast as PyTorch in the geometric mean of 1, at least 0.50 (characters); "
        "behind in characters (0.50)",
    ]


@pytest.mark.parametrize("name", ["loss", "grad output.weight", "ids"])
def test_errors_are_relative_to_the_largest_value_and_nothing_missing_is_right(name):
    expectation = np.full((64, 3), 1e-6) if name != "ids" else np.ones((64, 3), int)
    assert not comparison.verify({name: expectation}, {name: expectation}, 5).wrong
    assert comparison.verify({name: expectation * 2}, {name: expectation}, 5).wrong == (name,)
    assert comparison.verify({name: expectation[:1]}, {name: expectation}, 5).wrong == (name,)
    assert comparison.verify({name: np.full((64, 3), np.nan)}, {name: expectation}, 5).wrong == (name,)
    assert comparison.verify({}, {name: expectation}, 5).wrong == (name,)


def test_training_to_a_loss_goes_in_turn_and_stops_where_it_is_reached(masks):
    masks(torch=Contender("T"))
    row = replace(BY_NAME["words-small"], sizes={**BY_NAME["words-small"].sizes, "dropout": 0.0})
    _, batches = models.draw(row)
    found, missing = models.find([sys.executable], 1, "packed")
    assert not missing
    places = list(models.to_loss(row, batches, batches, found, 1, goal=0, steps=3, minutes=0))
    assert [(place.name, place.steps) for place in places] == [("kit", 3), ("torch", 3)]
    assert places[0].loss == places[1].loss  # the mask of "torch" is the kit
    goal = places[0].loss - 1e-3
    places = list(models.to_loss(row, batches, batches, found[:1], 1, goal, steps=3, minutes=1))
    assert places[-1].steps > 3
    assert places[-1].loss <= goal < places[-2].loss


# ---- the command -----------------------------------------------------------------------------------------------------

OPTIONS = ["--models", "--threads", "1", "--rounds", "2", "--seconds", "0", "--engines", "packed"]


def test_command_measures_who_is_there_and_names_the_others(bench_command, masks, tmp_path):
    masks(torch=Contender("T"), absent=Contender("A"), jax=Contender("J", models=("Tagger",)), dying=Contender("D"))
    path = tmp_path / "numbers.json"
    done = bench_command(*OPTIONS, "--only", "tagger,translating", "--json", path)
    assert done.exit_code == 0, done.output
    assert f"torch {fastrnn.__version__}: {sys.executable}" in done.stdout
    assert "missing: absent" in done.stdout
    assert "not measured: jax in 1 task: has no Translator" in done.stdout
    assert "not measured: dying in 2 tasks: its process ended with status 3: last words" in done.stdout
    assert "kit: " in done.stdout
    numbers = json.loads(path.read_text())
    assert [one["row"] for one in numbers["results"]] == ["tagger", "translating"]
    for one in numbers["results"]:
        own, base = one["contenders"]["kit"], one["contenders"]["torch"]
        assert own["verified"]
        assert own["ratios"][0] == pytest.approx(base["rounds"][0] / own["rounds"][0])
        assert own["memory"]["peak"] >= own["memory"]["before"]


def test_command_fails_where_a_library_computes_something_else(bench_command, masks):
    masks(torch=Contender("T"), mistaken=Contender("M"))
    done = bench_command(*OPTIONS, "--only", "characters")
    assert done.exit_code == 1
    assert "wrong: mistaken, characters: scaled error" in done.stdout
    assert "geometric mean" not in done.stdout


def test_command_without_pytorch_shows_our_speed(bench_command, masks):
    masks(absent=Contender("A"))
    done = bench_command(*OPTIONS, "--only", "forecaster")
    assert done.exit_code == 0, done.output
    assert "forecaster" in done.stdout
    assert "geometric mean" not in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "lat64"], "--cases: expected some of characters, words-small"),
        (["--cells", "lstm"], "--cells, --dtypes, --precision: expected none with --models"),
        (["--threads", "1,2"], "--threads: expected one number with --models, got 1, 2"),
        (["--plot", "chart.png"], "--plot: expected a mode with a chart, got --models"),
    ],
)
def test_wrong_options_are_found_before_anything_is_measured(bench_command, options, message):
    done = bench_command("--models", *options)
    assert done.exit_code == 2
    assert message in done.stderr


# ---- the libraries themselves, where they are ------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(CONTENDERS))
def test_live(name):
    needed = {"kit": "fastrnn", "accelerate": "torch"}.get(name, name)
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} not installed: nothing to compare with live")
    process = WorkerProcess(name, sys.executable, processes.python_path())
    try:
        process.start(1)
        for row in (row for row in SMALL_ROWS if row.model in CONTENDERS[name].models):
            params, batches = models.draw(row)
            comparison.build(process, row, params, batches)
            expectation = comparison.expected(row, params, batches)
            assert comparison.verify(process.results(), expectation, 5).wrong == (), row
            assert process.measure(0) > 0
    finally:
        process.close()


def test_all_take_the_same_steps_without_dropout():
    """Two passes over the batches: the same losses, so the same clipping and the same AdamW, also in JAX."""
    torch = pytest.importorskip("torch")
    found = {}
    contenders = {"kit": kit, "torch": importlib.import_module("fastrnn.bench.models.torch")}
    if importlib.util.find_spec("jax") is not None:
        contenders["jax"] = importlib.import_module("fastrnn.bench.models.jax")
    row = BY_NAME["characters"]
    threads = torch.get_num_threads()
    for name, module in contenders.items():
        params, batches = models.draw(row)
        given, valid = (
            [SimpleNamespace(x=b.x, y=b.y, x_lengths=None, y_lengths=None, follows=b.follows) for b in batches]
            for _ in range(2)
        )
        sizes = SimpleNamespace(**{**row.sizes, "dropout": 0.0})
        call, collect = module.load(
            SimpleNamespace(
                model=row.model, sizes=sizes, kind="training", batches=given, valid=valid, steps=len(given),
                params=params, threads=threads, accelerated=False,
            )
        )  # fmt: skip
        call()
        call()
        found[name] = np.asarray(collect()["loss"])
    for losses in found.values():
        np.testing.assert_allclose(losses, found["kit"], rtol=1e-5)
