"""fastrnn.distributed: several processes train as one, and a run of which one was killed goes on to the same bits.

Most of it runs on a group of threads, which is quicker to start than processes; MPI and gloo have a test each.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from running import output_of

import fastrnn
from fastrnn import distributed, nn, optim
from fastrnn.data import Batch, Batches, Chunks, Dataset, PartlyShown
from fastrnn.train import Trainer, evaluate

F8 = np.float64
LEAST = {"rtol": 1e-9, "atol": 1e-11}  # of float64 after some steps


class Team:
    """A group of threads; what each of them gets."""

    def __init__(self, size):
        self.size, self._barrier, self._given = size, threading.Barrier(size, timeout=60), [None] * size

    def run(self, work):
        """Call work(group) for each, the first one in this thread; one that raises ends the others."""

        def member(rank):
            try:
                return work(Member(self, rank))
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(max(1, self.size - 1)) as pool:
            others = [pool.submit(member, rank) for rank in range(1, self.size)]
            try:
                return [member(0), *(other.result() for other in others)]
            except threading.BrokenBarrierError:
                for other in others:
                    if not isinstance(other.exception(), (threading.BrokenBarrierError, type(None))):
                        raise other.exception() from None
                raise

    def exchange(self, rank, value):
        self._barrier.wait()
        self._given[rank] = value
        self._barrier.wait()
        return list(self._given)


class Member:
    def __init__(self, team, rank):
        self._team, self.rank, self.size = team, rank, team.size

    def all_reduce(self, array):
        array[...] = sum(self._team.exchange(self.rank, array.copy()))

    def broadcast(self, value):
        return self._team.exchange(self.rank, value)[0]

    def barrier(self):
        self._team.exchange(self.rank, None)


def problem(kind):
    """A model and sources; with each number of processes the batches are the same."""
    rng = np.random.default_rng(0)
    embedding = nn.Embedding(9, 6, rng=rng, dtype=F8)
    if kind == "chunks":  # the state is carried; 5 columns
        ids = rng.integers(0, 9, 400)
        model = nn.ManyToMany(fastrnn.LSTM(6, 8, 2, rng=rng, dtype=F8), nn.Linear(8, 9, rng=rng, dtype=F8), embedding)
        return model, Chunks(ids, 5, 8), Chunks.to_evaluate(ids[:100], 4, 8)
    if kind == "shown":
        x = [rng.integers(1, 8, (n, 1)) for n in rng.integers(1, 7, 31)]
        y = [rng.integers(0, 3, len(ids)) for ids in x]
        reads = nn.Embedding(9, 6, columns=1, rng=rng, dtype=F8)
        model = nn.ManyToMany(fastrnn.GRU(6, 8, rng=rng, dtype=F8), nn.Linear(8, 3, rng=rng, dtype=F8), reads)
        source = PartlyShown(Batches(Dataset(x, y), 6), np.array([8, 8, 8]), 0)
        return model, source, source
    ids = [rng.integers(1, 9, n) for n in rng.integers(1, 12, 61)]  # the last batch has one
    rnn = fastrnn.GRU(6, 8, bidirectional=True, rng=rng, dtype=F8)
    model = nn.ManyToOne(rnn, nn.Linear(16, 3, rng=rng, dtype=F8), embedding)
    dataset = Dataset(ids, np.where(rng.random(61) < 0.2, -100, rng.integers(0, 3, 61)))  # some do not count
    return model, Batches(dataset, 12, pool=2), Batches(dataset.take(np.arange(20)), 8)


def trainer_of(kind, group=None, **options):
    model, train, valid = problem(kind)
    if group is not None and group.rank:
        for p in model.params.values():
            p += 1  # process 0 has those that count
    options = {"valid": valid, "steps": 16, "evaluations": 4, "schedule": optim.warmup_cosine(0.1)} | options
    optimizer = optim.AdamW(model.params, 0.02, lazy=True)
    return Trainer(model, optimizer, train, group=group, **options)


def results(trainer):
    reports = list(trainer)
    score = trainer.fit(progress=False)
    state = trainer.model.state_dict() | {f"state.{k}": a for k, a in trainer.optimizer.state_dict().items()}
    return [report.loss for report in reports], [report.score for report in reports], score, trainer._at.targets, state


def assert_same(found, expected, exact):
    compare = np.testing.assert_array_equal if exact else lambda a, b: np.testing.assert_allclose(a, b, **LEAST)
    for a, b in zip(found[:4], expected[:4], strict=True):
        compare(np.array(a, F8), np.array(b, F8))
    assert found[4].keys() == expected[4].keys()
    for name, value in found[4].items():
        compare(value, expected[4][name])


# ---- several are one -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 7])  # of 7, some have no column, or no row of the last batch
@pytest.mark.parametrize("kind", ["chunks", "batches", "shown"])
def test_several_processes_compute_what_one_does(kind, size):
    expected = results(trainer_of(kind))
    found = Team(size).run(lambda group: results(trainer_of(kind, group)))
    assert_same(found[0], expected, exact=False)
    for other in found[1:]:
        assert_same(other, found[0], exact=True)


@pytest.mark.parametrize("kind", ["chunks", "batches"])
def test_a_checkpoint_goes_on_with_any_number_of_processes(kind, tmp_path):
    path = tmp_path / "run.npz"

    def left(group):
        for report in trainer_of(kind, group, checkpoint=path if group.rank == 0 else tmp_path / "not.npz", every=5):
            if report.step == 6:
                return

    whole = Team(2).run(lambda group: results(trainer_of(kind, group)))[0]
    for size in (2, 3, 1):
        path.unlink(missing_ok=True)
        Team(2).run(left)
        assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]
        resumed = Team(size).run(lambda group: results(trainer_of(kind, group, checkpoint=path)))[0]
        assert_same((resumed[0][-3:], None, *resumed[2:]), (whole[0][-3:], None, *whole[2:]), exact=size == 2)


def test_a_shard_has_every_count_th_example():
    for kind in ("chunks", "batches", "shown"):
        _, source, _ = problem(kind)
        shares = [source.shard(1, 2).shard(k, 2) for k in range(2)] + [source.shard(0, 2)]  # of 4: 1, 3; 0 and 2
        assert all(len(share) == len(source) for share in shares)
        every = zip(source(np.random.default_rng(3)), *(s(np.random.default_rng(3)) for s in shares), strict=True)
        for batch, one, three, even in every:
            for part, share in ((one, slice(1, None, 4)), (three, slice(3, None, 4)), (even, slice(0, None, 2))):
                if batch.y.shape[-1] <= share.start:
                    assert part is None
                    continue
                T = part.x.shape[0]
                np.testing.assert_array_equal(part.x, batch.x[:T, share])
                np.testing.assert_array_equal(part.y, batch.y[..., :T, share] if batch.y.ndim > 1 else batch.y[share])
                assert part.follows == batch.follows
    with pytest.raises(IndexError, match="index: expected 0 to 1, got 2"):
        source.shard(2, 2)


def test_dropout_differs_between_processes_and_is_repeatable():
    class Draws:
        params = {"p": np.zeros(2)}  # noqa: RUF012

        def __init__(self):
            self.drawn = []

        def loss_and_grads(self, batch, rng=None):
            self.drawn.append(rng.random())
            return 0.0, {"p": np.ones(2)}

    class Source:
        def __call__(self, rng):
            return [None, 1, 1]

        def shard(self, index, count):
            return lambda rng: [1, 1]

    def drawn(group):
        model = Draws()
        list(Trainer(model, optim.SGD(model.params, 0.0), Source(), steps=2, seed=3, group=group))
        return model.drawn

    first, again = (Team(2).run(drawn) for _ in range(2))
    assert first == again
    assert first[0] != first[1]
    assert first[0] == [np.random.default_rng([3, 2, step]).random() for step in range(2)]  # as one process


# ---- all decide alike ------------------------------------------------------------------------------------------------


def test_a_function_scores_in_process_0_and_patience_ends_all():
    calls = []

    def run(group):
        def score(model):
            calls.append(group.rank)
            return float(len(calls))

        return results(trainer_of("batches", group, valid=score, evaluations=8, patience=2))

    found = Team(3).run(run)
    assert calls == [0, 0, 0]
    for _, scores, best, _, _ in found:
        assert [score for score in scores if score is not None] == [1.0, 2.0, 3.0]
        assert best == 1.0


def test_a_budget_of_seconds_ends_all_at_one_step():
    steps = Team(2).run(lambda group: [r.step for r in trainer_of("batches", group, steps=None, seconds=0.2)])
    assert steps[0] == steps[1]


def test_ctrl_c_in_one_ends_all(tmp_path):
    def run(group):
        trainer = trainer_of("chunks", group, valid=lambda model: signal.raise_signal(signal.SIGINT) or 1.0,
                             steps=500, evaluations=200, checkpoint=tmp_path / "run.npz")  # fmt: skip
        trainer.fit(progress=False)
        return trainer.interrupted, trainer._at.step

    (first, second) = Team(2).run(run)
    assert first == second
    assert first[0] is True
    assert (tmp_path / "run.npz").exists()


def test_evaluation_together():
    model, batches, _ = problem("batches")
    expected = evaluate(model, batches)
    together = Team(3).run(lambda group: evaluate(model, batches, group))
    of_one = Team(3).run(lambda group: evaluate(model, list(batches), group))
    assert together[0] == together[1] == together[2] == pytest.approx(expected, rel=1e-12)
    assert of_one == [expected] * 3


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_trainings_that_differ():
    def run(**of_second):
        return lambda group: trainer_of("batches", group, **(of_second if group.rank else {}))

    with pytest.raises(
        ValueError, match=r"group: expected in each process what process 0 has, .*steps.* 16.*got .* 17"
    ):
        Team(2).run(run(steps=17))
    with pytest.raises(ValueError, match="group: expected in each process what process 0 has, True, got False"):
        Team(2).run(run(checkpoint="run.npz"))


def test_arguments():
    model, batches, _ = problem("batches")
    optimizer = optim.SGD(model.params, 0.1)
    with pytest.raises(TypeError, match="batches: expected a source with a method shard"):
        Team(2).run(lambda group: Trainer(model, optimizer, lambda rng: [Batch(np.ones(1))], steps=1, group=group))
    with pytest.raises(TypeError, match=r"group: expected one of fastrnn\.distributed, got str without rank"):
        Trainer(model, optimizer, batches, steps=1, group="mpi")
    with pytest.raises(TypeError, match=r"group: expected one of fastrnn\.distributed, got int without rank"):
        evaluate(model, batches, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"init_method": 3}, TypeError, "init_method: expected a str, got int"),
        ({"size": 0}, ValueError, "size: expected an integer of at least 1, got 0"),
        ({"rank": 2, "size": 2}, IndexError, "rank: expected 0 to 1, got 2"),
        ({"timeout": -1.0}, ValueError, "timeout: expected a number of at least 0, got -1.0"),
    ],
)
def test_arguments_of_gloo(arguments, error, message):
    with pytest.raises(error, match=message):
        distributed.gloo(**arguments)


@pytest.mark.parametrize(("name", "library"), [("mpi", "mpi4py"), ("gloo", "torch.distributed")])
def test_what_is_not_installed(name, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=f'{name} needs .*pip install "fastrnn'):
        getattr(distributed, name)()


# ---- processes -------------------------------------------------------------------------------------------------------

RUN = f"""
    import os, sys
    sys.path[:0] = [{str(Path(__file__).parent)!r}]
    import numpy as np, fastrnn
    fastrnn.set_num_threads(1)
    from test_distributed import results, trainer_of

    def digest(found):
        import hashlib
        return hashlib.sha256(b"".join(a.tobytes() for a in found[4].values())).hexdigest()

    def run(group, path, what):
        if what == "whole":
            whole, resumed = (results(trainer_of("chunks", group, checkpoint=c, every=5)) for c in (None, path))
            return [digest(whole), digest(resumed), repr(whole[2])]
        for report in trainer_of("chunks", group, checkpoint=path, every=5):
            if report.step == 8 and group.rank == 1:
                os.kill(os.getpid(), 9) if what == "die" else int("three")
"""


def test_mpi(tmp_path):
    """A process that is killed or raises ends both; then they go on to the bits of a run that was not stopped."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed: there is no MPI")
    mpiexec = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if mpiexec is None:
        pytest.skip("there is no mpiexec: pip install mpich")
    path = tmp_path / "run.npz"
    script = tmp_path / "script.py"
    script.write_text(
        "\n".join(line[4:] for line in RUN.splitlines()) + "\n"
        "group = fastrnn.distributed.mpi()\n"
        # mpiexec may end before it has passed on all that a process wrote.
        f"sys.stderr = open(f'{tmp_path}/{{group.rank}}.err', 'w')\n"
        f"found = run(group, {str(path)!r}, sys.argv[1])\n"
        f"open(f'{tmp_path}/{{group.rank}}.txt', 'w').write(' '.join(found or []))\n"
    )
    paths = [str(Path(fastrnn.__file__).parents[1]), str(Path(__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}

    def launched(what):
        command = [mpiexec, "-n", "2", sys.executable, str(script), what]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    assert launched("die").returncode != 0
    path.unlink(missing_ok=True)
    assert launched("raise").returncode != 0
    raised = (tmp_path / "1.err").read_text()
    assert "invalid literal for int() with base 10: 'three'" in raised
    assert "process 1 of 2 ends, and all others with it" in raised
    assert path.exists()
    done = launched("whole")
    assert done.returncode == 0, done.stderr
    answers = [(tmp_path / f"{rank}.txt").read_text().split() for rank in range(2)]
    assert answers[0] == answers[1]
    assert answers[0][0] == answers[0][1]
    assert float(answers[0][2]) == pytest.approx(results(trainer_of("chunks"))[2], rel=1e-9)


def test_gloo(tmp_path):
    """As with MPI. The processes are forked, since importing PyTorch takes long."""
    pytest.importorskip("torch", reason="PyTorch is not installed: there is no gloo")
    code = f"""{RUN}
    import torch.distributed

    def member(rank, what):
        group = fastrnn.distributed.gloo("file://{tmp_path}/" + what, rank=rank, size=2, timeout=60)
        found = run(group, "{tmp_path}/run.npz", what)
        torch.distributed.destroy_process_group()
        open(f"{tmp_path}/{{rank}}.txt", "w").write(" ".join(found))

    def start(rank, what):
        child = os.fork()
        if not child:
            try:
                member(rank, what)
            except RuntimeError as error:
                os._exit(3 if "process 0 of 2 lost another one" in str(error) else 4)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(5)
            os._exit(0)
        return child

    for what in ("die", "whole"):
        children = [start(rank, what) for rank in range(2)]
        print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
    """
    assert output_of(code, timeout=240).split("\n")[:2] == ["[3, -9]", "[0, 0]"]
    answers = [(tmp_path / f"{rank}.txt").read_text().split() for rank in range(2)]
    assert answers[0] == answers[1]
    assert answers[0][0] == answers[0][1]
    assert float(answers[0][2]) == pytest.approx(results(trainer_of("chunks"))[2], rel=1e-9)
