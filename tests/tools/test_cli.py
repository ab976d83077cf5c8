"""The command line: what is learned, saved, sampled; errors; Ctrl-C."""

import gzip
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastrnn import nn, serialization
from fastrnn.data import Vocabulary

click_testing = pytest.importorskip("click.testing")
pytest.importorskip("rich")

import fastrnn.cli  # noqa: E402
from fastrnn.cli import demo as demo_module  # noqa: E402
from fastrnn.cli.sample import CHARACTERS  # noqa: E402
from fastrnn.pages import page  # noqa: E402

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


def character_model(characters, cell="gru"):
    return demo_module.character_model(Vocabulary(characters, ["<unk>"]), cell, 4, 1, 0)


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_demo_trains_saves_samples_and_compares(run, text, tmp_path, cell):
    out = tmp_path / "model.npz"
    result = run("demo", "--text", text, "--cell", cell, "--steps", 20, "--out", out, "--layers", 2, *TINY)
    assert result.exit_code == 0, result.output
    assert "best validation loss: " in result.stdout
    assert "times as fast" in result.stdout
    tensors, metadata = serialization.load(out)
    model = nn.load(out)
    assert type(model.rnn).__name__.lower() == cell
    assert "고" in model.vocabularies[CHARACTERS]
    assert metadata["seed"] == "0"
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
    character_model("\x1b\x07").save(tmp_path / "m.npz")
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
        (gzip.compress(TEXT.encode(), mtime=0)[:60], "damaged .gz"),
        (gzip.compress(b"\xff\xff", mtime=0), "not UTF-8 text"),
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
        (["--temperature", "nan"], "--temperature"),
        (["--temperature", "inf"], "--temperature"),
        (["--minutes", "nan"], "--minutes"),
        (["--steps", "1" + 30 * "0"], "--steps"),
        (["--seed", "1" + 30 * "0"], "--seed"),
        (["--length", "1" + 30 * "0"], "--length"),
        (["--prompt", ""], "--prompt"),
        (["--out", "model.pt"], ".safetensors"),
        (["--out", "missing/model.npz"], "missing/model.npz: cannot write"),
        (["--out", "."], "path: expected a name"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_options_that_make_no_sense(run, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_module, "Trainer", lambda *_, **__: pytest.fail("trained first"))
    line = error_line(run("demo", *arguments))
    assert message in line
    assert os.listdir(tmp_path) == []


def test_a_directory_in_place_of_the_output(run, tmp_path):
    (tmp_path / "m.npz").mkdir()
    assert "cannot write (Is a directory)" in error_line(run("demo", "--out", tmp_path / "m.npz"))


def test_memory_errors_are_one_line(run, text, monkeypatch):
    def greedy(*_):
        raise MemoryError("Unable to allocate 7 TiB")

    monkeypatch.setattr(demo_module, "character_model", greedy)
    assert "not enough memory: Unable to allocate 7 TiB" in error_line(run("demo", "--text", text, *TINY))


def test_models_that_cannot_be_read(run, tmp_path):
    assert "No such file" in error_line(run("sample", tmp_path / "none.npz"))
    assert "expected a name" in error_line(run("sample", tmp_path / "none.txt"))
    (tmp_path / "junk.npz").write_bytes(b"junk")
    assert "junk.npz: not a readable" in error_line(run("sample", tmp_path / "junk.npz"))
    model = character_model("ab")
    for vocabularies in ({}, {CHARACTERS: Vocabulary("a", ["<unk>"])}, {CHARACTERS: Vocabulary("abc", [])}):
        model.vocabularies = vocabularies
        model.save(tmp_path / "odd.npz")
        assert "odd.npz: not a character model" in error_line(run("sample", tmp_path / "odd.npz"))
    serialization.save(tmp_path / "odd.npz", {"a": np.zeros(3)})
    assert "odd.npz: not a model" in error_line(run("sample", tmp_path / "odd.npz"))


@pytest.mark.parametrize("arguments", [["info"], ["demo", "--quick"]])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is full")
def test_a_full_disk_behind_stdout_is_one_line(arguments):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "fastrnn", *arguments]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment(), timeout=60)
    assert result.returncode == 2
    assert result.stderr == "fastrnn: error: output: No space left on device\n"


@pytest.mark.skipif(sys.platform == "win32", reason="files have no limit there")
def test_a_disk_without_room_for_the_model_is_found_before_training(text, tmp_path):
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); import fastrnn.cli; "
    arguments = ["demo", "--text", str(text), "--minutes", "5", "--out", str(tmp_path / "model.npz"), *TINY]
    command = [sys.executable, "-c", f"{code} fastrnn.cli.main({arguments})"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == f"fastrnn: error: {tmp_path / 'model.npz'}: cannot write (File too large)\n"
    assert os.listdir(tmp_path) == ["text.txt"]


@pytest.mark.parametrize("variable", ["FASTRNN_ISA", "FASTRNN_ENGINE", "FASTRNN_NUM_THREADS", "FASTRNN_KEEP_MIB"])
@pytest.mark.parametrize("how", ["script", "module"])
def test_wrong_environment_variables_are_one_line(variable, how, tmp_path):
    (tmp_path / "fastrnn").write_text("import sys; from fastrnn.cli import main; sys.exit(main())")  # as pip makes it
    words = [str(tmp_path / "fastrnn")] if how == "script" else ["-m", "fastrnn"]
    command = [sys.executable, *words, "info"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment() | {variable: "foo"})
    assert result.returncode == 2
    assert result.stderr.startswith(f"fastrnn: error: {variable}: expected ")
    assert len(result.stderr.splitlines()) == 1


def test_missing_packages_are_one_line():
    code = "import sys; sys.modules['click'] = None; import fastrnn.cli; fastrnn.cli.main(['info'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert result.returncode == 2
    said = 'fastrnn: the command line needs click: pip install "fastrnn[cli]"; '
    assert result.stderr == f"{said}{page('how-to/install')}\n"


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
    arguments = ["demo", "--text", str(text), "--minutes", "0.5", "--out", str(out), *TINY]
    command = [sys.executable, "-m", "fastrnn", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith(" 10%"):
                break
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert f"interrupted: saved {out}" in stdout
    assert "Traceback" not in stderr
    nn.load(out)
