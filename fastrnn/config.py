"""What this installation runs with: the instruction set, chosen here at import, and a report of all the rest."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import scipy

from fastrnn import engines
from fastrnn._core import native
from fastrnn.engines import blas, memory
from fastrnn.engines.threads import get_num_threads, get_threading
from fastrnn.pages import page
from fastrnn.version import __version__

__all__ = ["get_include", "show_config"]


_BRIDGES = ("torch", "keras", "onnx", "onnxruntime", "scikit-learn", "mpi4py")


def show_config() -> None:
    """Print versions, instruction set, engine, BLAS and threads, and the pages of the documentation that help."""
    rows = {
        "fastrnn": __version__,
        "python": f"{platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}",
        "machine": f"{platform.machine()}, {platform.system()}",
        "instruction set": f"{native.isa_selected()} (of {', '.join(native.isa_names())}; FASTRNN_ISA)",
        "engine": f"{engines.current().name} (of {', '.join(engines.available())}; FASTRNN_ENGINE)",
        "blas": f"{blas.name()}, {blas.integer_bytes * 8}-bit integers, "
        + ("held to one thread inside a team" if blas.threads_controlled else "threads of its own: teams of one"),
        "threading": f"{get_threading()} (of {', '.join(native.threading_names()) or 'none'}; FASTRNN_THREADING)",
        "memory": f"at most {memory.kept_mib()} MiB are kept for the next calls (FASTRNN_KEEP_MIB)",
        "threads": f"{get_num_threads()} (FASTRNN_NUM_THREADS)",
        "bridges": ", ".join(_versions(_BRIDGES)) or "none of the libraries that they are to",
    }
    _print(rows)
    print("\nIn the documentation:")
    _print({f"  {topic}": page(name) for topic, name in _topics().items()})


def _print(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows.items()))


def _versions(packages: Iterable[str]) -> Iterator[str]:
    """Of those that are installed; none of them is imported."""
    from importlib import metadata  # here: this takes a good part of the time that fastrnn takes to import

    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            yield f"{name} {metadata.version(name)}"


def _topics() -> dict[str, str]:
    """Topics and their pages: what this machine calls for, then what anybody may look for."""
    topics = {}
    if native.isa_selected() in ("scalar", "sse2"):
        topics["instruction sets: slow"] = "how-to/install"
    if not native.has_threads():
        topics["threads: none in this build"] = "how-to/install"
    if not blas.threads_controlled:
        topics["BLAS: threads of its own"] = "threads"
    return topics | {"start": "index", "threads": "threads", "speed": "performance", "other frameworks": "bridges"}


def get_include() -> str:
    """Return the folder of the C header <fastrnn/capi.h>, for extensions that run layers without Python.

    See docs/how-to/c-interface.md. Cython has it as ``from fastrnn.capi cimport ...``.
    """
    return str(Path(__file__).parent / "include")


def _select_instruction_set() -> None:
    name = os.environ.get("FASTRNN_ISA") or native.isa_names()[0]
    if not native.isa_select(name):
        raise ValueError(f"FASTRNN_ISA: expected one of {', '.join(native.isa_names())} on this machine, got {name!r}")


_select_instruction_set()
