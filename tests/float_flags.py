"""The calling thread's floating-point control flags: rounding, traps, and what happens to denormals."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["FLUSH", "ROUND_UP", "control", "controlled", "readable"]

_X86, _ARM = platform.machine() in ("x86_64", "AMD64"), platform.machine() == "aarch64"
readable = (_X86 or _ARM) and platform.libc_ver()[0] == "glibc"
"""Whether the flags can be read. Known is glibc's fenv_t on x86-64 (MXCSR at 28) and on aarch64 (FPCR at 0)."""

FLUSH = 0x8040 if _X86 else 1 << 24
"""The flags that make denormal results zero, and on x86 denormal operands too."""
ROUND_UP = 0x4000 if _X86 else 1 << 22
"""The flag for rounding towards infinity, instead of to nearest."""

_AT = 28 if _X86 else 0
_STATUS = 0x3F if _X86 else 0  # on x86 the same word also records which exceptions there were

if readable:
    _libm = ctypes.CDLL("libm.so.6")


def control() -> int:
    """Return the current flags; 0 where they cannot be read."""
    if not readable:
        return 0
    return _word(_environment()) & ~_STATUS


@contextmanager
def controlled(flags: int) -> Iterator[None]:
    """Within it, `flags` are set in addition to the current ones."""
    before = _environment()
    changed = ctypes.create_string_buffer(before.raw, len(before))
    changed[_AT : _AT + 4] = (_word(before) | flags).to_bytes(4, "little")
    _libm.fesetenv(changed)
    try:
        yield
    finally:
        _libm.fesetenv(before)


def _environment() -> ctypes.Array:
    environment = ctypes.create_string_buffer(64)  # fenv_t has 32 bytes (x86-64) or 8 (aarch64)
    _libm.fegetenv(environment)
    return environment


def _word(environment: ctypes.Array) -> int:
    return int.from_bytes(environment[_AT : _AT + 4], "little")
