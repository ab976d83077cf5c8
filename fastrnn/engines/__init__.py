"""The engines: which there are, and which one a call uses. `seam.py` says what an engine is."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fastrnn.engines.compiled import BlasEngine, PackedEngine
from fastrnn.engines.operations import Operations
from fastrnn.engines.reference import ReferenceEngine
from fastrnn.engines.seam import Engine

__all__ = ["Engine", "Operations", "available", "current", "named", "use"]


def available() -> tuple[str, ...]:
    """Return the names of the engines, fastest first."""
    return tuple(_ENGINES)


def current() -> Engine:
    """Return the engine that a call from this thread uses."""
    return getattr(_local, "engine", None) or _default


@contextmanager
def use(name: str) -> Iterator[None]:
    """Select an engine for calls from the calling thread, inside a ``with`` block.

    Parameters
    ----------
    name : str
        One of `available()`.

    Raises
    ------
    ValueError
        If there is no such engine.
    """
    engine = named("name", name)
    before = getattr(_local, "engine", None)
    _local.engine = engine
    try:
        yield
    finally:
        _local.engine = before


def named(source: str, name: str) -> Engine:
    """The engine of that name; `source` is what an error calls it."""
    if name not in _ENGINES:
        raise ValueError(f"{source}: expected one of {', '.join(_ENGINES)}, got {name!r}")
    return _ENGINES[name]


_ENGINES: dict[str, Engine] = {engine.name: engine for engine in (PackedEngine(), BlasEngine(), ReferenceEngine())}
_local = threading.local()
_default = named("FASTRNN_ENGINE", os.environ.get("FASTRNN_ENGINE") or next(iter(_ENGINES)))
