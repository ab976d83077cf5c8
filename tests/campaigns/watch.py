"""What no input may do, whatever it is: run code, touch other files or the network, take memory without bounds."""

from __future__ import annotations

import os
import resource
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["ForbiddenError", "Watch", "limit_memory", "resident", "signature"]

# Audit events (https://docs.python.org/3/library/audit_events.html) that no loader causes.
_NEVER = {
    "ctypes.dlopen", "os.exec", "os.fork", "os.forkpty", "os.mkdir", "os.posix_spawn", "os.putenv", "os.remove",
    "os.rename", "os.rmdir", "os.spawn", "os.system", "pickle.find_class", "pty.spawn", "shutil.rmtree",
    "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "urllib.Request",
}  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class ForbiddenError(BaseException):
    """Something that no input may do. Not an Exception, so that no handler between takes it for an error."""


class Watch:
    """Sees what the interpreter does while an input is read, and fails if it is more than reading.

    An audit hook cannot be removed, so a process has one of these, and it is not for the process of the tests.

    Parameters
    ----------
    folder : path
        Where files may be read, beside those of Python and its packages. Nothing may be written but the input itself:
        files there whose names begin with "input".
    """

    def __init__(self, folder: Path) -> None:
        self._on = False
        self._seen: list[str] = []
        self._input = str(folder / "input")
        ours = [Path(__file__).parents[2] / name for name in ("fastrnn", "tests")]
        places = [folder, sys.prefix, sys.base_prefix, *ours, "/usr/lib", "/proc/self", "/sys/devices/system/cpu"]
        self._readable = tuple({form for place in places for form in (str(place), os.path.realpath(place))})
        sys.addaudithook(self._hook)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raise ForbiddenError after the block if anything in it did what it may not."""
        self._seen, self._on = [], True
        try:
            yield
        finally:
            self._on = False
            if self._seen:
                raise ForbiddenError("; ".join(self._seen))

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._on:
            return
        wrong = event in _NEVER
        if event == "exec":  # of a module that is imported, or of a text, which has no file
            wrong = not args[0].co_filename.startswith((*self._readable, "<frozen"))
        elif event == "import":  # of a package that this process had no use for so far
            package = args[0].partition(".")[0]
            wrong = package not in sys.modules and package not in sys.stdlib_module_names
        elif event == "open" and not isinstance(args[0], int):
            path = os.path.abspath(os.fsdecode(args[0]))
            writes = bool((args[2] or 0) & _WRITES)
            wrong = not path.startswith(self._input if writes else self._readable)
        if wrong:
            self._seen.append(f"{event} {args!r:.200}")


def limit_memory(more: int) -> None:
    """Let this process have `more` bytes of addresses beyond what it has now; then allocations fail."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more,) * 2)


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def signature(error: BaseException) -> str:
    """A short name that errors of one cause share: the type, and the place in fastrnn, else the innermost one."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "fastrnn" in Path(frame.filename).parts]
    place = (ours or frames)[-1]
    return f"{type(error).__name__}-{Path(place.filename).stem}-{place.name.strip('<>')}"
