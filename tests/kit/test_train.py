"""fastrnn.train: what is learned, the budget, evaluations, and that a killed run goes on to the same bits."""

import io
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from models import build_model
from running import output_of, run_python

import fastrnn
from fastrnn import nn, optim, serialization
from fastrnn.data import Batches, Chunks, Dataset
from fastrnn.train import Trainer, evaluate

RUN = """
    import os, sys
    import numpy as np, fastrnn
    from fastrnn import nn, optim
    from fastrnn.data import Batches, Chunks, Dataset
    from fastrnn.train import Trainer

    def trainer(kind, checkpoint, **options):
        rng = np.random.default_rng(0)
        if kind == "chunks":  # the state is carried, and all kinds of noise are there
            ids = rng.integers(0, 7, 700)
            rnn = fastrnn.LSTM(16, 16, 2, dropout=0.3, weight_dropout=0.2, input_dropout=0.1, zoneout=0.1, rng=rng)
            embedding = nn.Embedding(7, 16, embedding_dropout=0.1, rng=rng)
            model = nn.ManyToMany(rnn, nn.Linear(16, 7, rng=rng), embedding, dropout=(0.2, 0.3), locked=True,
                                  tied=True, ar=0.2, tar=0.1)
            train, valid = Chunks(ids, 4, 8), Chunks.to_evaluate(ids[:100], 4, 8)
        else:
            ids = [rng.integers(1, 9, n) for n in rng.integers(0, 12, 60)]
            model = nn.ManyToOne(fastrnn.GRU(6, 16, bidirectional=True, rng=rng), nn.Linear(32, 3, rng=rng),
                                 nn.Embedding(9, 6, rng=rng), dropout=0.3)
            dataset = Dataset(ids, rng.integers(0, 3, 60))
            train, valid = Batches(dataset, 8, pool=2), Batches(dataset.take(np.arange(20)), 8)
        options = {"steps": 50, "evaluations": 7, "schedule": optim.warmup_cosine(0.1), "seed": 4} | options
        optimizer = optim.AdamW(model.params, 0.02)
        if kind == "chunks":
            optimizer = optim.Averaged(optimizer, 0.9)
        return Trainer(model, optimizer, train, valid, checkpoint=checkpoint, **options)

    def bits(trainer):
        import hashlib
        trainer.fit(progress=False)
        digest = hashlib.sha256(repr(trainer.best_score).encode())
        for arrays in (trainer.model.params, trainer.optimizer.state_dict()):
            for name, value in sorted(arrays.items()):
                digest.update(name.encode() + value.tobytes())
        return digest.hexdigest()
"""


def test_a_carried_state_of_four_arrays_is_in_a_checkpoint(tmp_path):
    def trainer(steps):
        rnn, ids = fastrnn.SLSTM(4, 4, rng=0), np.random.default_rng(0).integers(0, 4, 200)
        model = nn.ManyToMany(rnn, nn.Linear(4, 4, rng=0), nn.Embedding(4, 4, rng=0))
        path = tmp_path / "run.npz" if steps else None
        return Trainer(model, optim.SGD(model.params, 0.1), Chunks(ids, 2, 5), checkpoint=path, steps=8, every=steps)

    for report in trainer(3):
        if report.step == 4:
            break
    again, whole = trainer(3), trainer(None)
    again.fit(progress=False)
    whole.fit(progress=False)
    for name, p in whole.model.params.items():
        np.testing.assert_array_equal(again.model.params[name], p)


# ---- killed and resumed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["chunks", "batches"])
def test_a_killed_run_goes_on_to_the_same_bits(kind, tmp_path):
    whole = output_of(f"{RUN}\n    print(bits(trainer({kind!r}, None)))")
    path = tmp_path / "run.npz"
    for last in (13, 14, 41):  # dies after these steps, the last checkpoint some steps ago
        killed = run_python(
            f"""{RUN}
    for report in trainer({kind!r}, {str(path)!r}, every=5):
        if report.step == {last}:
            os.kill(os.getpid(), 9)
"""
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert 0 < json.loads(serialization.load(path)[1]["progress"])["step"] <= last
    resumed = output_of(f"{RUN}\n    print(bits(trainer({kind!r}, {str(path)!r}, every=5)))")
    assert resumed == whole
    assert (
        output_of(f"{RUN}\n    print(bits(trainer({kind!r}, {str(path)!r}, every=5)))") == whole
    )  # at the end already


def test_a_run_is_the_same_with_any_number_of_threads():
    one, two = (output_of(f"{RUN}\n    print(bits(trainer('chunks', None)))", FASTRNN_NUM_THREADS=n) for n in "12")
    assert one == two


def small_trainer(checkpoint=None, **options):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3)).astype(np.float32)
    y = rng.integers(0, 2, 40)
    model = nn.ManyToOne(fastrnn.RNN(1, 4, rng=0), nn.Linear(4, 2, rng=0))
    batches = Batches(Dataset([row[:, None] for row in x], y), 8)
    options = {"valid": batches, "steps": 10} | options
    return Trainer(model, optim.SGD(model.params, 0.1), batches, checkpoint=checkpoint, **options)


def test_a_run_that_was_left_goes_on_in_the_same_process_and_in_a_new_one(tmp_path):
    whole = small_trainer()
    whole.fit(progress=False)
    left = small_trainer(tmp_path / "a.npz")
    for report in left:
        if report.step == 4:
            left.save()
            break
    again = small_trainer(tmp_path / "a.npz")
    steps = [[report.step for report in trainer] for trainer in (left, again)]
    assert steps == [[5, 6, 7, 8, 9, 10]] * 2
    for trainer in (left, again):
        for name, value in whole.model.params.items():
            np.testing.assert_array_equal(trainer.best_params[name], whole.best_params[name])
            np.testing.assert_array_equal(trainer.best_params[name], value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "not a checkpoint of this training .*expected the checkpoint of a training with"),
        ({"steps": 11}, "not a checkpoint of this training"),
        ({"max_norm": 2.0}, "not a checkpoint of this training"),
    ],
)
def test_a_checkpoint_of_another_run(options, message, tmp_path):
    small_trainer(tmp_path / "a.npz").fit(progress=False)
    with pytest.raises(ValueError, match=message):
        small_trainer(tmp_path / "a.npz", **options)


def test_a_damaged_checkpoint_changes_nothing(tmp_path):
    trainer = small_trainer(tmp_path / "a.npz")
    trainer.fit(progress=False)
    tensors, words = serialization.load(tmp_path / "a.npz")
    fresh = small_trainer().model.state_dict()
    for change in (
        lambda t, w: t.pop("params.output.weight"),
        lambda t, w: t.pop("optimizer.step"),
        lambda t, w: t.update({"best.output.weight": np.zeros(3)}),
        lambda t, w: w.update(progress="{}"[1:]),
        lambda t, w: w.update(progress='{"more": 1}'),
        lambda t, w: w.update(format="another"),
    ):
        broken, changed = dict(tensors), dict(words)
        change(broken, changed)
        serialization.save(tmp_path / "b.npz", broken, changed)
        model = nn.ManyToOne(fastrnn.RNN(1, 4, rng=0), nn.Linear(4, 2, rng=0))
        source = small_trainer().batches
        with pytest.raises(ValueError, match=r"b\.npz: not a checkpoint"):
            Trainer(model, optim.SGD(model.params, 0.1), source, source, steps=10, checkpoint=tmp_path / "b.npz")
        for name, value in model.params.items():
            np.testing.assert_array_equal(value, fresh[name])


# ---- learning, budgets, evaluations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["last", "tagger", "words", "caption", "attend", "one_number"])
def test_every_pattern_learns_its_batch(name):
    model, batch = build_model(name)
    before = model.loss(batch).value
    trainer = Trainer(model, optim.Adam(model.params, 0.02), lambda rng: [batch], [batch], steps=150)
    assert trainer.fit(progress=False) == pytest.approx(model.loss(batch).value, rel=1e-12)
    assert model.loss(batch).value < 0.2 * before


def test_early_stopping_keeps_the_best():
    scores = iter([3.0, 5.0, 4.0, 5.0, 4.9, 1.0])
    kept = []

    def score(model):
        kept.append(model.state_dict())
        return next(scores)

    trainer = small_trainer(valid=score, maximize=True, steps=60, evaluations=6, patience=3)
    reports = list(trainer)
    assert [report.score for report in reports if report.score is not None] == [3.0, 5.0, 4.0, 5.0, 4.9]
    assert reports[-1].step == 50
    assert reports[-1].fraction == 1
    assert trainer.best_score == 5.0
    assert trainer.fit(progress=False) == 5.0
    for name, value in trainer.model.params.items():
        np.testing.assert_array_equal(value, kept[1][name])


def test_epochs_are_whole_passes_with_an_evaluation_each():
    trainer = small_trainer(steps=None, epochs=3)
    reports = list(trainer)
    assert [report.step for report in reports if report.score is not None] == [5, 10, 15]
    assert [report.epoch for report in reports] == [0] * 5 + [1] * 5 + [2] * 5
    assert all(report.rate > 0 for report in reports)


def test_time_is_a_budget():
    begin = time.perf_counter()
    reports = list(small_trainer(steps=None, seconds=0.2))
    assert time.perf_counter() - begin >= 0.2
    assert [report.fraction for report in reports] == sorted(report.fraction for report in reports)
    assert reports[-1].fraction == 1
    assert reports[-1].score is not None
    assert len(list(small_trainer(steps=None, seconds=0.0))) == 1


def test_the_schedule_is_followed_and_bad_gradients_are_left_out():
    class Odd:
        params = {"p": np.ones(2)}  # noqa: RUF012
        calls = 0

        def loss_and_grads(self, batch, rng=None):
            self.calls += 1
            return 1.0, {"p": np.array([np.nan, 1.0]) if self.calls == 2 else np.ones(2)}

    rates = []
    model = Odd()
    trainer = Trainer(
        model, optim.SGD(model.params, 0.5), lambda rng: [None], steps=4, schedule=optim.warmup_linear(0.5), max_norm=9
    )
    for _ in trainer:
        rates.append(trainer.optimizer.lr)
    assert rates == [0.25, 0.5, 0.25, 0.0]
    np.testing.assert_array_equal(model.params["p"], 1 - 0.25 - 0.25)


class Descent:
    """An optimiser of somebody else."""

    def __init__(self, params, lr):
        self.params, self.lr = params, lr

    def step(self, grads):
        for name, p in self.params.items():
            p -= self.lr * grads[name].reshape(p.shape)  # plain arrays, an embedding's, too

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class OwnSGD(optim.SGD):
    """A subclass whose step takes nothing but gradients."""

    def step(self, grads):
        super().step(grads)


@pytest.mark.parametrize("kind", [Descent, OwnSGD])
def test_an_optimizer_that_does_not_clip(kind):
    models, losses = [], []
    for optimizer in (kind, optim.SGD):
        rng = np.random.default_rng(0)
        models.append(nn.ManyToMany(fastrnn.GRU(3, 4, rng=rng), nn.Linear(4, 5, rng=rng), nn.Embedding(5, 3, rng=rng)))
        chunks = Chunks(np.random.default_rng(0).integers(0, 5, 300), 3, 10)
        trainer = Trainer(models[-1], optimizer(models[-1].params, 0.5), chunks, steps=8, max_norm=0.1)
        losses.append([report.loss for report in trainer])
    np.testing.assert_allclose(*losses, rtol=1e-6)
    for name, p in models[0].params.items():
        np.testing.assert_allclose(p, models[1].params[name], rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_not_finite_shows_once_and_stays_out_of_the_mean():
    class Odd:
        params = {"p": np.ones(1)}  # noqa: RUF012

        def loss_and_grads(self, batch, rng=None):
            return batch, {"p": np.full(1, 0.0 if math.isfinite(batch) else math.nan)}

    model, losses = Odd(), [math.nan, 4.0, math.inf, 2.0, 3.0]
    reports = list(Trainer(model, optim.SGD(model.params, 0.5), lambda rng: losses, steps=5))
    np.testing.assert_array_equal([report.loss for report in reports], [math.nan, 4.0, math.inf, 3.0, 3.0])


def test_schedules():
    for schedule in (optim.warmup_cosine(0.1, 0.05), optim.warmup_linear(0.1, 0.05)):
        assert schedule(0.05) == pytest.approx(0.5)
        assert schedule(0.1) == 1
        assert schedule(0.55) == pytest.approx(0.525)
        assert schedule(1.0) == pytest.approx(0.05)
    steps = optim.step_decay((0.5, 0.75), 0.1)
    assert [steps(k) for k in (0, 0.49, 0.5, 0.8)] == pytest.approx([1, 1, 0.1, 0.01])
    assert optim.constant()(0.3) == 1
    assert optim.constant(0.2)(0.1) == 0.5


def test_evaluation_is_the_mean_over_targets_with_the_state_carried():
    model = nn.ManyToMany(fastrnn.GRU(3, 4, rng=0), nn.Linear(4, 5, rng=0), nn.Embedding(5, 3, rng=0))
    ids = np.random.default_rng(0).integers(0, 5, 100)
    expected = model.loss(next(iter(Chunks(ids, 1, 99)))).value
    assert evaluate(model, Chunks.to_evaluate(ids)) == pytest.approx(expected, rel=1e-6)
    assert evaluate(model, Chunks(ids, 1, 7)) == pytest.approx(expected, rel=1e-6)
    assert math.isnan(evaluate(model, []))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system does not show the time of each thread")
def test_training_leaves_numpys_blas_alone():
    """Its threads would spin after a product, and take cores from ours. Here ours are one, so no other may compute."""
    code = """
        from pathlib import Path
        import numpy as np, fastrnn
        from fastrnn import nn, optim
        from fastrnn.data import Batch
        from fastrnn.train import Trainer

        fastrnn.set_num_threads(1)
        encoder, rnn = fastrnn.GRU(32, 64, bidirectional=True, rng=0), fastrnn.LSTM(32, 96, rng=0)
        decoder = nn.Decoder(nn.Embedding(900, 32), rnn, nn.Linear(96, 900), nn.Linear(128, nn.state_size(rnn)),
                             nn.Attention(96, 128), dropout=0.2)
        model = nn.EncoderDecoder(encoder, decoder, nn.Embedding(900, 32))
        ids = np.random.default_rng(0).integers(4, 900, (40, 64))
        trainer = Trainer(model, optim.AdamW(model.params), lambda rng: [Batch(ids, ids)] * 9, steps=8)

        def others():
            ticks = [task.joinpath("stat").read_text().rpartition(")")[2].split() for task in tasks]
            return sum(int(fields[11]) + int(fields[12]) for fields in ticks)

        tasks = sorted(Path("/proc/self/task").iterdir(), key=lambda task: int(task.name))[1:]
        before = others()
        trainer.fit(progress=False)
        model.predict_batch(Batch(ids[:5]), max_length=5)
        print(len(tasks), others() - before)
        """
    others, ticks = output_of(code).split()
    assert int(ticks) <= 1, f"{others} other threads took {ticks} ticks"


# ---- what is shown, Ctrl-C, errors -----------------------------------------------------------------------------------


def test_a_terminal_sees_a_progress_bar():
    console = pytest.importorskip("rich.console").Console(force_terminal=True, file=io.StringIO(), width=120)
    small_trainer(unit="sequences").fit(console=console)
    assert "100 %" in console.file.getvalue()
    assert "sequences/s" in console.file.getvalue()


def test_without_rich_there_are_lines(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    small_trainer(evaluations=2).fit()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "step 10" in lines[1]
    assert "score" in lines[1]


def test_ctrl_c_ends_with_a_checkpoint(tmp_path):
    path = tmp_path / "run.npz"
    code = f"""
import numpy as np, sys
sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}
from test_train import small_trainer
def schedule(fraction):
    print("a step begins", flush=True)
    return 1.0
trainer = small_trainer({str(path)!r}, steps=None, seconds=300.0, schedule=schedule)
trainer.fit(progress=False)
print(trainer.interrupted, flush=True)
"""
    environment = {"PYTHONPATH": str(Path(fastrnn.__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        for _ in range(2):
            assert process.stdout.readline() == "a step begins\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[0].endswith("True\n")
    finally:
        process.kill()
    assert json.loads(serialization.load(path)[1]["progress"])["step"] > 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": None}, ValueError, "epochs, steps, seconds: expected one of them, got None, None, None"),
        ({"epochs": 1}, ValueError, "epochs, steps, seconds: expected one of them"),
        ({"steps": 0}, ValueError, "steps: .* got 0"),
        ({"patience": 0}, ValueError, "patience: .* got 0"),
        ({"evaluations": 2.5}, TypeError, "evaluations: expected an integer"),
        ({"checkpoint": "run.pt"}, ValueError, "path: expected a name that ends in .npz"),
    ],
)
def test_options_that_make_no_sense(options, error, message):
    with pytest.raises(error, match=message):
        small_trainer(**options)


def test_sources_that_are_none():
    model, batch = build_model("last")
    optimizer = optim.SGD(model.params, 0.1)
    with pytest.raises(TypeError, match="batches: expected a function of a Generator, got list"):
        Trainer(model, optimizer, [batch], steps=1)
    with pytest.raises(TypeError, match="batches: expected a source with a length"):
        Trainer(model, optimizer, lambda rng: [batch], epochs=1)
    with pytest.raises(ValueError, match="batches: expected at least one batch in a pass, got none"):
        Trainer(model, optimizer, lambda rng: [], steps=1).fit(progress=False)
    with pytest.raises(ValueError, match="checkpoint: expected a path"):
        Trainer(model, optimizer, lambda rng: [batch], steps=1).save()
