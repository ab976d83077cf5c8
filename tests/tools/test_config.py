"""fastrnn.show_config() says what a bug report needs."""

import numpy as np
import pytest
import scipy

import fastrnn


def shown(capsys: pytest.CaptureFixture) -> dict[str, str]:
    """What it prints, a line each of a name and a value."""
    assert fastrnn.show_config() is None
    out, err = capsys.readouterr()
    assert not err
    rows, pages = out.lower().split("\nin the documentation:\n")
    assert all("https://" in line for line in pages.splitlines())
    return dict(line.split(maxsplit=1) for line in rows.splitlines())


def test_it_prints_what_this_installation_runs_with(capsys: pytest.CaptureFixture) -> None:
    rows = shown(capsys)
    text = " ".join(f"{name} {value}" for name, value in rows.items())
    assert rows["fastrnn"] == fastrnn.__version__
    for word in ("instruction set", "engine", "blas", "threading", "threads"):
        assert word in text
    for version in (np.__version__, scipy.__version__):
        assert version in text
    for name in fastrnn.engines.available():
        assert name in rows["engine"]


def test_it_prints_the_settings_in_force(capsys: pytest.CaptureFixture) -> None:
    for engine, count in zip(fastrnn.engines.available(), (3, 5), strict=False):
        with fastrnn.engines.use(engine), fastrnn.num_threads(count):
            rows = shown(capsys)
        assert rows["engine"].startswith(engine)
        assert rows["threads"].startswith(str(count))


def test_it_names_the_environment_variables(capsys: pytest.CaptureFixture) -> None:
    text = " ".join(shown(capsys).values())
    for variable in ("FASTRNN_ISA", "FASTRNN_ENGINE", "FASTRNN_NUM_THREADS"):
        assert variable.lower() in text
