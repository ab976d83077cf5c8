"""What the benchmark's own processes have in common."""

from __future__ import annotations

import os
from pathlib import Path

import fastrnn

__all__ = ["python_path"]


def python_path() -> dict[str, str]:
    """Return the environment variable with which another interpreter imports this fastrnn."""
    package = str(Path(fastrnn.__file__).resolve().parents[1])
    return {"PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])}
