"""What all readers share: errors of a file, bounds on what it may ask for, and JSON.

A file may be damaged, or made to do harm. No reader executes anything of it or follows a name in it to another file,
and what a reader allocates is bounded by what the file holds.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate

__all__ = ["Budget", "filled", "json_object", "opened", "refusing"]

# How much the contents of a file may be larger than the file. Weights hardly compress; the zeros of a bomb compress to
# a thousandth.
TIMES, AT_LEAST = 16, 64 << 20
STEP = 1 << 20  # bytes that are read at once; a decompressor holds as many more
LONGEST = 400  # characters of an error's text: names in a file may be of any length


class Budget:
    """How many bytes the contents of a file may still take in memory."""

    def __init__(self, file_size: int, max_bytes: int | None) -> None:
        self.file_size = file_size
        self._limit = max(TIMES * file_size, AT_LEAST) if max_bytes is None else max_bytes
        self._left = self._limit

    def take(self, size: int) -> None:
        """Raise if contents of this size are more than is left."""
        self._left -= size
        if self._left < 0:
            raise ValueError(
                f"expected contents of at most {self._limit} bytes, got more from a file of {self.file_size} bytes; "
                "if you trust it, give max_bytes=..."
            )


@contextmanager
def opened(path: str | os.PathLike[str], what: str, max_bytes: int | None) -> Iterator[tuple[BinaryIO, Budget]]:
    """Open a file for a reader, with its `Budget`; errors are those of `refusing`."""
    if max_bytes is not None:
        max_bytes = validate.size("max_bytes", max_bytes, minimum=0)
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):  # `open` would wait for a pipe's writer; of a directory it says so
        raise OSError(errno.EINVAL, "expected a regular file", os.fspath(path))
    with open(path, "rb") as file, refusing(path, what):
        yield file, Budget(os.fstat(file.fileno()).st_size, max_bytes)


@contextmanager
def refusing(path: str | os.PathLike[str], what: str = "") -> Iterator[None]:
    """Turn whatever goes wrong with the contents of a file into a ValueError that names it and says it is not `what`.

    Parsers raise all kinds of errors for damage, so all are caught here, and in no other place. Those of the file
    system stay what they are.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        # EINVAL comes from a seek to a position that the file gives, and an error without a number from a parser.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        wrong = f"not {what} ({_in_short(error)})" if what else _in_short(error)
        raise ValueError(f"{os.fspath(path)}: {wrong}") from error


def filled(file: Any, array: NDArray) -> NDArray:
    """Read a contiguous array's bytes from a file."""
    view, at = array.reshape(-1).view(np.uint8).data, 0
    while at < len(view):
        count = file.readinto(view[at : at + STEP])
        if not count:
            raise EOFError(f"expected {len(view)} bytes of an array, got {at}")
        at += count
    return array


def json_object(text: str | bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object, in which no key is there twice."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(f"{what}: expected a JSON object, got one that is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{what}: expected a JSON object, got other text ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{what}: expected a JSON object, got {_in_short(repr(value))}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _in_short(error: object) -> str:
    """An error's text, or its type if it has none, in one line that is not too long."""
    if isinstance(error, (KeyError, IndexError, AttributeError, TypeError, RecursionError)) or not str(error):
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    else:
        text = str(error)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
