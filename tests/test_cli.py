"""The command line and the character model under it: what is learned, saved, sampled; errors; Ctrl-C."""

import gzip
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrnn import nn, serialization
from fastrnn.text import UNKNOWN, CharModel, Training, Vocabulary, evaluate

click_testing = pytest.importorskip("click.testing")
pytest.importorskip("rich")

from rich.console import Console  # noqa: E402

import fastrnn.cli  # noqa: E402
from fastrnn.cli import demo as demo_module  # noqa: E402

TEXT = "The cat sat on the mat. 고양이가 앉았다.\n" * 40
TINY = ["--hidden", "8", "--batch", "4", "--seq-len", "8", "--length", "20"]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def run():
    runner = click_testing.CliRunner()

    def run(*arguments):
        return runner.invoke(fastrnn.cli.group(), [str(argument) for argument in arguments])

    return run


def error_line(result):
    """The one line on stderr of a user's error."""
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("fastrnn: error: ")
    return lines[0]


# ---- the model and training ------------------------------------------------------------------------------------------


@given(st.text(), st.text())
def test_vocabulary_encodes_what_it_knows(text, other):
    vocabulary = Vocabulary(text)
    assert vocabulary.characters[0] == UNKNOWN
    assert vocabulary.decode(vocabulary.encode(text)) == text
    expected = "".join(c if c in text else UNKNOWN for c in other)
    assert vocabulary.decode(vocabulary.encode(other)) == expected
    assert Vocabulary(vocabulary.characters).characters == vocabulary.characters


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_model_gradients_by_differences(cell):
    rng = np.random.default_rng(0)
    model = CharModel(Vocabulary("abc"), cell, 5, 2, 3, rng)
    ids, targets = rng.integers(0, 4, (2, 6, 3))
    loss, grads, _ = model.gradients(ids, targets)
    assert loss == pytest.approx(model.loss(ids, targets)[0], rel=1e-6)
    assert grads.keys() == model.params.keys()
    # The model is float32: compare the slope along one random direction, in which rounding averages out.
    direction = {name: rng.standard_normal(p.shape).astype(np.float32) for name, p in model.params.items()}
    slope = sum(float((grads[name] * direction[name]).sum()) for name in grads)
    losses = []
    for step in (1e-2, -1e-2):
        moved = CharModel(model.vocabulary, cell, 5, 2, 3)
        nn.load_parameters(
            moved.parts, {name: p + np.float32(step) * direction[name] for name, p in model.params.items()}
        )
        losses.append(moved.loss(ids, targets)[0])
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(slope, rel=2e-2)


def test_evaluation_is_the_mean_over_the_text():
    model = CharModel(Vocabulary("ab"), "gru", 4, 1, 3, 0)
    ids = np.random.default_rng(0).integers(1, 3, 100)
    expected, _ = model.loss(ids[:-1, None], ids[1:, None])
    assert evaluate(model, ids) == pytest.approx(expected, rel=1e-6)  # short: one column
    long = np.random.default_rng(0).integers(1, 3, 128 * 3 + 1)
    columns = [model.loss(long[k : k + 128, None], long[k + 1 : k + 129, None])[0] for k in (0, 128, 256)]
    assert evaluate(model, long) == pytest.approx(np.mean(columns), rel=1e-6)


def test_chunks_follow_each_other_and_carry_the_state():
    ids = np.arange(1, 60)
    model = CharModel(Vocabulary("abc"), "rnn", 2, 1, 2, 0)
    chunks = Training(model, ids, ids, batch=3, seq_len=4, steps=1, rng=0).chunks()
    before = None
    for _ in range(20):
        inputs, targets, first = next(chunks)
        np.testing.assert_array_equal(targets, inputs + 1)
        assert inputs.shape == (4, 3)
        if not first:
            np.testing.assert_array_equal(inputs[0], before + 1)
        before = inputs[-1]


def test_training_learns_is_reproducible_and_keeps_the_best():
    vocabulary = Vocabulary(TEXT)
    ids = vocabulary.encode(TEXT)

    def trained():
        model = CharModel(vocabulary, "lstm", 16, 1, 8, 0)
        training = Training(model, ids, ids[:200], batch=4, seq_len=16, steps=60, lr=2e-2, rng=0)
        return model, training, list(training)

    (model, training, reports), (_, again, _) = trained(), trained()
    losses = [report.valid_loss for report in reports if report.valid_loss is not None]
    assert reports[-1].step == 60
    assert reports[-1].fraction == 1
    assert len(losses) == 10
    assert training.best_loss == min(losses) < 1.0 < losses[0]
    for name, value in training.best_params.items():
        np.testing.assert_array_equal(value, again.best_params[name])
    nn.load_parameters(model.parts, training.best_params)
    assert evaluate(model, ids[:200]) == training.best_loss


def test_a_model_comes_back_and_goes_on_with_the_text(tmp_path):
    model = CharModel(Vocabulary("ab\n"), "gru", 6, 2, 3, 0)
    model.save(tmp_path / "m.npz", metadata={"note": "x"})
    loaded = CharModel.load(tmp_path / "m.npz")
    for name, value in model.params.items():
        np.testing.assert_array_equal(loaded.params[name], value)

    def text(model, temperature, seed):
        characters = model.sample("ab?", temperature, seed)
        return "".join(next(characters) for _ in range(50))

    assert text(model, 1.0, 3) == text(loaded, 1.0, 3) != text(model, 1.0, 4)
    assert UNKNOWN not in text(model, 50.0, 0)
    likeliest = text(model, 0.0, 0)
    assert likeliest == text(model, 1e-300, 1)
    # Streaming one character at a time is the same as reading the text in one go.
    ids = model.vocabulary.encode("ab?" + likeliest)
    logits = model.output(model.rnn(model.embedding(ids[:-1, None]))[0])[2:, 0]
    logits[:, 0] = -np.inf
    np.testing.assert_array_equal(logits.argmax(axis=1), ids[3:])


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_demo_trains_saves_samples_and_compares(run, text, tmp_path, cell):
    out = tmp_path / "model.npz"
    result = run("demo", "--text", text, "--cell", cell, "--steps", 20, "--out", out, "--layers", 2, *TINY)
    assert result.exit_code == 0, result.output
    assert "best validation loss: " in result.stdout
    assert "times as fast" in result.stdout
    tensors, metadata = serialization.load(out)
    assert metadata["cell"] == cell
    assert "고" in metadata["characters"]
    assert tensors["rnn.weight_hh_l1"].shape[1] == 8
    first = run("sample", out, "--seed", 5, "--length", 30, "--prompt", "The ")
    again = run("sample", out, "--seed", 5, "--length", 30, "--prompt", "The ")
    assert first.exit_code == 0
    assert first.stdout == again.stdout
    assert first.stdout.startswith("The ")
    assert len(first.stdout) == 35


def test_steps_and_seed_make_a_demo_reproducible(run, text, tmp_path):
    for name in ("a.npz", "b.npz"):
        assert run("demo", "--text", text, "--steps", 5, "--seed", 3, "--out", tmp_path / name, *TINY).exit_code == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_terminal_sees_a_progress_bar():
    ids = Vocabulary(TEXT).encode(TEXT)
    training = Training(CharModel(Vocabulary(TEXT), "rnn", 4, 1, 4, 0), ids, ids, batch=4, seq_len=8, steps=5)
    console = Console(force_terminal=True, file=io.StringIO(), width=120)
    assert demo_module.train(training, console) is False
    assert "100 %" in console.file.getvalue()
    assert "characters/s" in console.file.getvalue()


def test_demo_has_a_text_of_its_own(run):
    result = run("demo", "--steps", 2, *TINY)
    assert result.exit_code == 0
    assert "help topics" in result.stdout


def test_demo_reads_gz_beside_a_missing_file(run, tmp_path):
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    result = run("demo", "--text", tmp_path / "text.txt", "--steps", 2, *TINY)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"using {tmp_path / 'text.txt.gz'}")
    assert run("demo", "--text", tmp_path / "text.txt.gz", "--steps", 2, *TINY).exit_code == 0


def test_info(run, monkeypatch):
    monkeypatch.setattr(fastrnn, "show_config", lambda: print("configuration"), raising=False)
    result = run("info")
    assert result.exit_code == 0
    assert result.stdout == "configuration\n"


def test_samples_cannot_control_the_terminal(run, tmp_path):
    model = CharModel(Vocabulary("\x1b\x07"), "rnn", 2, 1, 2, 0)
    model.save(tmp_path / "m.npz")
    result = run("sample", tmp_path / "m.npz", "--length", 20, "--prompt", "\x1b[2J")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("directory", "directory"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"", "too short"),
        (b"short", "too short: expected at least"),
        (gzip.compress(TEXT.encode())[:60], "damaged .gz"),
        (gzip.compress(b"\xff\xff"), "not UTF-8 text"),
    ],
)
def test_texts_that_cannot_be_read(run, tmp_path, content, message):
    path = tmp_path / "text"
    if content == "directory":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    line = error_line(run("demo", "--text", path, *TINY))
    assert message in line
    assert str(path) in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hidden", "1000000000"], "--hidden"),
        (["--hidden", "-1"], "--hidden"),
        (["--hidden", "many"], "--hidden"),
        (["--hidden", "65536", "--layers", "64"], "not enough memory: --hidden 65536"),
        (["--batch", "0"], "--batch"),
        (["--seq-len", "65536", "--batch", "65536"], "too short"),
        (["--minutes", "-1"], "--minutes"),
        (["--minutes", "1", "--steps", "1"], "--minutes, --steps"),
        (["--cell", "transformer"], "--cell"),
        (["--temperature", "-1"], "--temperature"),
        (["--prompt", ""], "--prompt"),
        (["--out", "model.pt"], ".safetensors"),
        (["--out", "missing/model.npz"], "missing/model.npz: cannot write"),
        (["--out", "."], "path: expected a name"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_options_that_make_no_sense(run, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_module, "train", lambda *_: pytest.fail("trained first"))
    line = error_line(run("demo", *arguments))
    assert message in line
    assert os.listdir(tmp_path) == []


def test_a_directory_in_place_of_the_output(run, tmp_path):
    (tmp_path / "m.npz").mkdir()
    assert "cannot write (Is a directory)" in error_line(run("demo", "--out", tmp_path / "m.npz"))


def test_memory_errors_are_one_line(run, text, monkeypatch):
    def greedy(*_):
        raise MemoryError("Unable to allocate 7 TiB")

    monkeypatch.setattr(demo_module, "CharModel", greedy)
    assert "not enough memory: Unable to allocate 7 TiB" in error_line(run("demo", "--text", text, *TINY))


def test_models_that_cannot_be_read(run, tmp_path):
    assert "No such file" in error_line(run("sample", tmp_path / "none.npz"))
    assert "expected a name" in error_line(run("sample", tmp_path / "none.txt"))
    (tmp_path / "junk.npz").write_bytes(b"junk")
    assert "junk.npz: not a readable" in error_line(run("sample", tmp_path / "junk.npz"))
    model = CharModel(Vocabulary("ab"), "gru", 4, 1, 3, 0)
    words = {"format": "fastrnn character model 1", "cell": "gru", "characters": model.vocabulary.characters}
    for changed in (
        {"format": "another"},
        {"cell": "transformer"},
        {"characters": "a"},
        {"characters": ""},
        {"cell": "lstm"},
    ):
        serialization.save(tmp_path / "odd.npz", model.params, {**words, **changed})
        assert "odd.npz: not a character model" in error_line(run("sample", tmp_path / "odd.npz"))
    serialization.save(tmp_path / "odd.npz", {"a": np.zeros(3)}, words)
    assert "odd.npz: not a character model" in error_line(run("sample", tmp_path / "odd.npz"))


def test_missing_packages_are_one_line():
    code = "import sys; sys.modules['click'] = None; import fastrnn.cli; fastrnn.cli.main(['info'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert result.returncode == 2
    assert result.stderr == 'fastrnn: the command line needs click: pip install "fastrnn[cli]"\n'


def test_no_command_prints_help():
    result = subprocess.run([sys.executable, "-m", "fastrnn"], capture_output=True, text=True, env=environment())
    assert result.returncode == 2
    assert "Commands:" in result.stderr


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------


def environment():
    """The environment of a subprocess that imports the same package."""
    return {**os.environ, "PYTHONPATH": str(Path(fastrnn.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send to one process")
def test_ctrl_c_stops_training_and_saves(text, tmp_path):
    out = tmp_path / "model.npz"
    command = [sys.executable, "-m", "fastrnn", "demo", "--text", str(text), "--minutes", "5", "--out", str(out), *TINY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("model:"):
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert f"interrupted: saved {out}" in stdout
    assert "Traceback" not in stderr
    CharModel.load(out)
