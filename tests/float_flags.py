"""The calling thread's floating-point control flags: rounding, traps, and what happens to denormals."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["FLUSH", "ROUND_UP", "control", "controlled", "readable"]

_X86, _ARM = platform.machine() in ("x86_64", "AMD64"), platform.machine() == "aarch64"
readable = (_X86 or _ARM) and platform.libc_ver()[0] == "glibc"
"""Only where glibc's fenv_t is known: x86-64, with MXCSR at 28, and aarch64, with FPCR at 0."""

FLUSH = 0x8040 if _X86 else 1 << 24
"""Denormal results are zero; on x86 operands are too."""
ROUND_UP = 0x4000 if _X86 else 1 << 22

_AT = 28 if _X86 else 0
_STATUS = 0x3F if _X86 else 0  # which exceptions there were: they share the word with the flags on x86

if readable:
    _libm = ctypes.CDLL("libm.so.6")


def control() -> int:
    """The flags of now; 0 where they cannot be read."""
    if not readable:
        return 0
    return _word(_environment()) & ~_STATUS


@contextmanager
def controlled(flags: int) -> Iterator[None]:
    """With `flags` set beside those that are."""
    before = _environment()
    changed = ctypes.create_string_buffer(before.raw, len(before))
    changed[_AT : _AT + 4] = (_word(before) | flags).to_bytes(4, "little")
    _libm.fesetenv(changed)
    try:
        yield
    finally:
        _libm.fesetenv(before)


def _environment() -> ctypes.Array:
    environment = ctypes.create_string_buffer(64)  # fenv_t has 32 or 8
    _libm.fegetenv(environment)
    return environment


def _word(environment: ctypes.Array) -> int:
    return int.from_bytes(environment[_AT : _AT + 4], "little")
