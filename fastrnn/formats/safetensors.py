"""Arrays and words in a .safetensors: the length of a header in 8 bytes, the header in JSON, the arrays' bytes.

The format is https://github.com/huggingface/safetensors#format. Words are the header's "__metadata__"; the digest is
one of them.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastrnn.formats.reading import Budget, filled, json_object

__all__ = ["DIGEST", "read", "write"]

DIGEST = "fastrnn.sha256"  # the word of the digest
WORDS = "__metadata__"
LENGTH = struct.Struct("<Q")
LONGEST = 100_000_000  # bytes of a header, by the specification
DTYPES = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
HALF = "BF16"  # bfloat16, the upper half of a float32


def write(
    file: BinaryIO, arrays: dict[str, NDArray], words: dict[str, str], digest: str, halves: Collection[str]
) -> None:
    """Write C-contiguous arrays and words. Wider numbers come first, so that all are aligned in the file.

    `halves` are names of arrays of uint16 that are the bits of bfloat16.
    """
    header: dict[str, Any] = {WORDS: words | {DIGEST: digest}}
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))
    end = 0
    for name, value in arrays.items():
        dtype = HALF if name in halves else NAMES.get(value.dtype.newbyteorder("<").str)
        if dtype is None:
            raise ValueError(f"tensors[{name!r}]: expected an array that .safetensors can hold, got {value.dtype}")
        start, end = end, end + value.nbytes
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(LENGTH.pack(len(text)) + text)
    for value in arrays.values():
        file.write(value.astype(value.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data)


def read(file: BinaryIO, budget: Budget) -> tuple[dict[str, NDArray], dict[str, Any], str | None, list[str]]:
    """Return the arrays, the words, if there is one the digest, and the `halves` of a .safetensors."""
    start = file.read(LENGTH.size)
    if len(start) < LENGTH.size:
        raise ValueError("expected the length of a header, got the end of the file")
    (length,) = LENGTH.unpack(start)
    size = budget.file_size - LENGTH.size - length  # of all arrays
    if length > LONGEST or size < 0:
        raise ValueError(f"expected a header within the file, got one of {length} bytes")
    header = json_object(file.read(length), "header")
    words = header.pop(WORDS, {})
    if not isinstance(words, dict):
        raise ValueError(f"{WORDS}: expected an object, got {type(words).__name__}")
    places = sorted((*_place(name, entry), name) for name, entry in header.items())
    arrays, at = {}, 0
    for start_at, end, dtype, shape, name in places:
        if start_at != at:
            raise ValueError(f"{name!r}: expected bytes from {at} on, where the array before it ends, got {start_at}")
        at = end
        _check_size(name, dtype, shape, end - start_at, size - start_at)
        budget.take((end - start_at) * (2 if dtype == HALF else 1))  # which will be widened
        arrays[name] = _read_array(file, dtype, shape)
    if at != size:
        raise ValueError(f"expected {at} bytes of arrays, got {size}")
    return arrays, words, words.pop(DIGEST, None), [name for _, _, dtype, _, name in places if dtype == HALF]


def _place(name: str, entry: Any) -> tuple[int, int, str, tuple[int, ...]]:
    """Where an array begins and ends, its dtype and its shape."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r}: expected dtype, shape and data_offsets, got {entry!r}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{name!r}: expected a shape and two offsets, got {shape!r} and {offsets!r}")
    if not isinstance(dtype, str) or dtype not in (*DTYPES, HALF):
        raise ValueError(f"{name!r}: expected one of {', '.join((*DTYPES, HALF))}, got {dtype!r}, which NumPy lacks")
    return offsets[0], offsets[1], dtype, tuple(shape)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_size(name: str, dtype: str, shape: tuple[int, ...], got: int, left: int) -> None:
    expected = math.prod(shape) * np.dtype(DTYPES.get(dtype, "<u2")).itemsize
    if got != expected or got > left:
        raise ValueError(f"{name!r}: expected {expected} bytes for {dtype} {shape}, got {got}, and {left} in the file")


def _read_array(file: BinaryIO, dtype: str, shape: tuple[int, ...]) -> NDArray:
    """Read an array in the machine's byte order, of bfloat16 the bits."""
    array = filled(file, np.empty(shape, DTYPES.get(dtype, "<u2")))
    return array.astype(array.dtype.newbyteorder("="), copy=False)
