"""fastrnn beside its peers: each in a process of its own, verified, measured in turn; what is missing is named."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

import fastrnn
from fastrnn import bench
from fastrnn.bench import CASES, KINDS, Outcome, Result, Task, Verification, charts, peers, processes, verify
from fastrnn.bench.contenders import EngineRunner
from fastrnn.bench.peers import Peer, ProcessContender
from fastrnn.bench.problems import Problem
from fastrnn.bench.processes import ContenderError
from fastrnn.bench.verification import TOLERANCE, verified_task

pytestmark = pytest.mark.usefixtures("small_cases")

TINY = ["--cases", "tiny", "--cells", "lstm", "--threads", "1", "--rounds", "2", "--seconds", "0"]

# The real worker, with contenders that are fastrnn behind a mask.
MASKS = f"""
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("worker", {str(processes.WORKER)!r})
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)

def mistaken(problem):
    call, collect = worker.load_fastrnn(problem)
    return call, lambda: collect() | {{"y": collect()["y"] + 1}}

def failing(problem):
    print("no answer of mine")
    raise ValueError("cannot")

def dying(problem):
    print("last words", file=sys.stderr)
    os._exit(3)

for name, load in {{"twin": worker.load_fastrnn, "mistaken": mistaken, "failing": failing, "dying": dying}}.items():
    worker.LOADERS[name] = (("fastrnn",), load)
worker.LOADERS["absent"] = (("fastrnn", "no_such_library"), None)
if "OWN_MASK" in os.environ:
    worker.LOADERS["fastrnn"] = worker.LOADERS[os.environ["OWN_MASK"]]
worker.main()
"""


@pytest.fixture
def masks(monkeypatch, tmp_path):
    """Lets contenders be those of MASKS; sets which of them are the peers."""
    worker = tmp_path / "worker.py"
    worker.write_text(MASKS)
    monkeypatch.setattr(processes, "WORKER", worker)
    monkeypatch.setenv("PYTHONPATH", str(Path(fastrnn.__file__).parents[1]))

    def choose(**chosen):
        monkeypatch.setattr(peers, "PEERS", chosen)

    return choose


def task(cell="lstm", kind="training", precision="float32"):
    return Task(cell, kind, "tiny", precision, 1, CASES["tiny"])


# ---- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", bench.DTYPES)
def test_fastrnn_in_its_own_process_is_right(dtype):
    own = peers.own_contender("blas")
    try:
        for kind in KINDS:
            for cell in bench.CELLS:
                chosen = task(cell, kind, dtype)
                verification = verify(own, chosen, peers.expected(chosen))
                assert verification.wrong == ()
                named = {"y", "grad x", *(f"grad {name}_l0" for name in chosen.description.shapes())}
                assert verification.errors.keys() == (named if kind == "training" else {"y"})
        assert own.load(chosen).measure(0) > 0
        assert own.version == fastrnn.__version__
    finally:
        own.close()


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_fastrnn_in_its_own_process_takes_a_precision(precision):
    own, chosen = peers.own_contender("packed"), task("gru", "inference", precision)
    try:
        verification = verify(own, chosen, peers.expected(chosen))
        assert verification.wrong == ()
        assert verification.errors["y"] > TOLERANCE["float32"]["value"]  # it was not float32 that was computed
    finally:
        own.close()


def test_a_process_serves_again_after_an_error_and_starts_again_after_its_end(masks):
    contender = ProcessContender("twin", sys.executable)
    try:
        contender.start(1)
        with pytest.raises(ContenderError, match="FileNotFoundError"):
            contender.ask("load", path="nowhere.npz", cell="rnn", kind="inference", precision="float32")
        assert contender.load(task()).measure(0) > 0
        contender._process.kill()
        with pytest.raises(ContenderError, match="ended with status -9: nothing on stderr"):
            contender.load(task("gru"))
        assert contender.load(task("gru")).measure(0) > 0
    finally:
        contender.close()


def test_an_interpreter_that_is_none():
    with pytest.raises(ContenderError, match="/nowhere/python: No such file"):
        ProcessContender("torch", "/nowhere/python").start(1)


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
        self._log.append(self.name)
        return next(self._seconds)


def test_peers_are_measured_in_turn_and_their_time_is_divided_by_ours(monkeypatch):
    monkeypatch.setattr(peers, "PEERS", {"slow": Peer("Slow"), "quick": Peer("Quick")})
    log = []
    own, slow, quick = Fake("own", [2, 4], log), Fake("slow", [6, 16], log), Fake("quick", [1, 1], log)
    (done,) = peers.run([task()], own, [slow, quick], rounds=2, seconds=0)
    assert log == ["own", "slow", "quick"] * 2
    assert done.base_seconds == [2, 4]
    assert [outcome.ratios for outcome in done.outcomes] == [[3, 4], [0.5, 0.25]]
    assert peers.fastest(done).name == "quick"


def result(cell, **ratios):
    verification = Verification(4, {"y": 1e-7}, ())
    outcomes = [Outcome(name, verification, [ratio * 1e-3], [ratio]) for name, ratio in ratios.items()]
    return Result(task(cell), [1e-3], outcomes, verification)


def test_peers_say_which_precision_and_cell_they_do_not_have():
    peer = peers.PEERS["onnxruntime"]
    assert peer.declines(task("lstm", "inference", "int8")) is None
    assert peer.declines(task("gru", "inference", "int8")) == "no int8 gru"
    assert peer.declines(task("lstm", "inference", "bfloat16")) == "no bfloat16"


def test_summary_names_the_fastest_and_the_losses():
    results = [result("lstm", torch=3.0, jax=2.0), result("gru", torch=5.0, jax=0.5), result("rnn", torch=4.0)]
    assert peers.summary(results) == [
        "ahead of every peer in 2 of 3: median 2.00 x, least 0.50 x jax (gru training tiny float32 1 thread); "
        "behind in gru training tiny float32 1 thread (0.50 x jax)",
        "ahead of torch in 3 of 3: median 4.00 x, least 3.00 x (lstm training tiny float32 1 thread)",
        "ahead of jax in 1 of 2: median 1.25 x, least 0.50 x (gru training tiny float32 1 thread); "
        "behind in gru training tiny float32 1 thread (0.50 x)",
    ]


def test_chart(tmp_path):
    pytest.importorskip("matplotlib")
    charts.plot_peers(tmp_path / "chart.png", [result("gru", torch=3.0, jax=0.5)], bench.machine())
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


# ---- the command -----------------------------------------------------------------------------------------------------


def test_command_measures_who_is_there_and_names_the_others(bench_command, masks, tmp_path):
    masks(
        twin=Peer("Twin"), picky=Peer("Picky"), mistaken=Peer("Mistaken"), failing=Peer("Failing", ("inference",)),
        dying=Peer("Dying", precisions={"float32": ("lstm",)}), absent=Peer("Absent"),
    )  # fmt: skip
    path = tmp_path / "numbers.json"
    done = bench_command("--peers", *TINY, "--engines", "blas", "--json", path)
    assert done.exit_code == 0, done.output
    assert f"twin {fastrnn.__version__}: {sys.executable}" in done.stdout
    assert "missing: absent" in done.stdout
    assert "No module named 'no_such_library'" in done.stdout
    assert "missing: picky" in done.stdout
    assert "wrong: mistaken, lstm training tiny float32 1 thread: scaled error" in done.stdout
    assert "not measured: failing in 1 task: ValueError: cannot" in done.stdout
    assert "not measured: failing in 1 task: no training" in done.stdout
    assert "not measured: dying in 2 tasks: its process ended with status 3: last words" in done.stdout
    assert "of 2: median" in done.stdout
    numbers = json.loads(path.read_text())
    assert numbers["libraries"]["engine"] == "blas"
    assert numbers["libraries"]["found"].keys() == {"twin", "mistaken", "failing", "dying"}
    assert numbers["libraries"]["missing"].keys() == {"picky", "absent"}
    for one in numbers["results"]:
        assert one["fastrnn"]["verified"]
        twin = one["peers"]["twin"]
        assert twin["ratios"][0] == pytest.approx(twin["rounds"][0] / one["fastrnn"]["rounds"][0])
        assert not one["peers"]["mistaken"]["verified"]
        assert one["peers"]["mistaken"]["ratio"] is None
        assert one["skipped"].keys() == {"failing", "dying"}


def test_command_fails_where_fastrnn_is_wrong(bench_command, masks, monkeypatch):
    masks(twin=Peer("Twin"))
    monkeypatch.setenv("OWN_MASK", "mistaken")
    done = bench_command("--peers", *TINY, "--kinds", "inference")
    assert done.exit_code == 1
    assert "wrong: fastrnn, lstm inference tiny float32 1 thread: scaled error" in done.stdout
    assert "ahead" not in done.stdout


@pytest.mark.parametrize(
    ("own", "message"),
    [("twin", "expected Absent or some of them, got none in"), ("dying", "fastrnn's process: its process ended")],
)
def test_command_without_peers_or_without_us(bench_command, masks, monkeypatch, own, message):
    masks(**({"absent": Peer("Absent")} if own == "twin" else {"twin": Peer("Twin")}))
    monkeypatch.setenv("OWN_MASK", own)
    done = bench_command("--peers", *TINY)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert message in line


# ---- the libraries themselves, where they are ------------------------------------------------------------------------


@pytest.mark.parametrize("name", peers.PEERS)
def test_live(name):
    needed = {"onnxruntime": ["onnxruntime", "onnx"], "openvino": ["openvino", "onnx"]}.get(name, [name])
    lacking = [module for module in needed if importlib.util.find_spec(module) is None]
    if lacking:
        pytest.skip(f"{', '.join(lacking)} not installed: nothing to compare with live")
    contender = ProcessContender(name, sys.executable)
    chosen = [task(cell, kind, dtype) for cell in bench.CELLS for kind in KINDS for dtype in bench.DTYPES]
    chosen += [task(cell, "inference", precision) for cell in bench.CELLS for precision in ("bfloat16", "int8")]
    try:
        for one in (one for one in chosen if peers.PEERS[name].declines(one) is None):
            assert verify(contender, one, peers.expected(one)).wrong == (), one
            assert contender.load(one).measure(0) > 0
    finally:
        contender.close()
