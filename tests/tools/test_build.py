"""A build from source that cannot work ends with a sentence that says what is missing and where help is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("setuptools")

ROOT = Path(__file__).parents[2]
PAGE = "https://fastrnn.readthedocs.io/en/latest/how-to/install/"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="compilers are shell scripts here")


def last_line_of_build(tmp_path: Path, compiler: str) -> str:
    """The last line that a build prints whose compiler is this shell script; Cython, which comes first, is left out."""
    (tmp_path / "Cython").mkdir()
    (tmp_path / "Cython" / "__init__.py").touch()
    (tmp_path / "Cython" / "Build.py").write_text("def cythonize(extensions, **options): return extensions\n")
    program = tmp_path / "cc"
    program.write_text(f"#!/bin/sh\n{compiler}\n")
    program.chmod(0o755)
    folders = [f"--build-lib={tmp_path}/lib", f"--build-temp={tmp_path}/temp"]
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", *folders],
        cwd=ROOT, env=os.environ | {"CC": str(program), "LDSHARED": str(program), "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0, done.stdout
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        ("exit 127", "there is no C compiler that works"),
        ("! cat $(echo $* | tr ' ' '\\n' | grep '[.]c$') | grep Python.h", "the C compiler does not find Python.h"),
        ("! echo $* | grep csrc", "the C compiler did not accept fastrnn's code"),
    ],
)
def test_says_what_is_missing_and_where_help_is(tmp_path: Path, compiler: str, why: str) -> None:
    line = last_line_of_build(tmp_path, compiler)
    assert line.startswith(f"error: fastrnn cannot be compiled here, because {why}")
    assert PAGE in line
