"""Arrays and words in an .npz: a zip archive of .npy files.

Words are an entry of their own, JSON in UTF-8, which other readers see as one more array of bytes. The digest is the
archive's comment. An archive is read only if it is whole: its entries lie one after another from the first byte to the
directory at the end, which names them all, and each is read to its end, where its checksum is.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import zipfile
from collections.abc import Collection
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastrnn.formats.reading import Budget, check_entry, filled, json_object

__all__ = ["WORDS", "read", "write"]

WORDS = "__metadata__"  # the entry of the words
WORDS_AT_LEAST = 1 << 20  # bytes of words that any file may have; other limits do not count what JSON becomes in memory
COMMENT = b"fastrnn sha256 "

LOCAL_HEADER = struct.Struct("<26xHH")  # lengths of the name and of what follows it
END = struct.Struct("<4s16xH")  # after the directory: a signature, and the length of the comment, which ends the file
HAS_DESCRIPTOR = 1 << 3  # the flag of an entry whose sizes are written once more behind it, in so many bytes:
DESCRIPTORS = (12, 16, 20, 24)

# The header of an .npy file is a Python literal. No parser of Python sees it; blanks are taken out before.
ITEM = r"'(descr|fortran_order|shape)':('[<>|=]?[biufcSU]\d{1,9}'|True|False|\((?:\d{1,19}L?,)*(?:\d{1,19}L?)?\))"
HEADER = re.compile(rf"\{{(?:{ITEM},?){{3}}\}}".replace("'", "['\"]"), re.ASCII)
FIELD = re.compile(ITEM.replace("'", "['\"]"), re.ASCII)


def write(
    file: BinaryIO, arrays: dict[str, NDArray], words: dict[str, str], digest: str, halves: Collection[str] = ()
) -> None:
    """Write C-contiguous arrays and words. The format has no word for `halves`."""
    if words:
        arrays = arrays | {WORDS: np.frombuffer(json.dumps(words).encode(), np.uint8)}
    # np.savez(file, **arrays) would refuse arrays named "file" or "allow_pickle".
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = COMMENT + digest.encode()
        for name, value in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, value, allow_pickle=False)


def read(file: BinaryIO, budget: Budget) -> tuple[dict[str, NDArray], dict[str, Any], str | None, list[str]]:
    """Return the arrays, the words, if there is one the digest, and no `halves` of an .npz."""
    arrays: dict[str, NDArray] = {}
    with zipfile.ZipFile(file) as archive:
        _check_whole(file, archive)
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"expected each array once, got {name!r} twice")
            if name == WORDS and info.file_size > max(WORDS_AT_LEAST, budget.file_size):
                raise ValueError(f"{WORDS}: expected no more words than the file has bytes, got {info.file_size}")
            check_entry(info, budget)
            with archive.open(info) as entry:
                arrays[name] = _read_array(name, entry, info.file_size)
        comment = archive.comment
    words = json_object(arrays.pop(WORDS).tobytes(), WORDS) if WORDS in arrays else {}
    digest = comment.removeprefix(COMMENT).decode("ascii", "replace") if comment.startswith(COMMENT) else None
    return arrays, words, digest, []


def _check_whole(file: BinaryIO, archive: zipfile.ZipFile) -> None:
    """Raise if the entries that the directory names are not all that is before it, or something is after it."""
    end = 0
    gaps: tuple[int, ...] = (0,)
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        _check_gap(info.header_offset - end, gaps)
        file.seek(info.header_offset)
        end = info.header_offset + LOCAL_HEADER.size + sum(LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size)))
        end += info.compress_size
        gaps = DESCRIPTORS if info.flag_bits & HAS_DESCRIPTOR else (0,)
    _check_gap(archive.start_dir - end, gaps)
    file.seek(-END.size - len(archive.comment), os.SEEK_END)
    if END.unpack(file.read(END.size)) != (b"PK\5\6", len(archive.comment)):
        raise ValueError("expected an archive that ends with its comment, got a part of it, or more")


def _check_gap(gap: int, allowed: tuple[int, ...]) -> None:
    if gap not in allowed:
        raise ValueError("expected an archive whose directory names each entry, got one with others, or damage")


def _read_array(name: str, entry: IO[bytes], size: int) -> NDArray:
    """Read an .npy file of `size` bytes to its end, where zipfile compares the checksum."""
    magic, major = entry.read(6), entry.read(2)[:1]
    if magic != b"\x93NUMPY" or major not in (b"\1", b"\2"):
        raise ValueError(f"{name!r}: expected an .npy file of version 1 or 2, got another file")
    width = 2 if major == b"\1" else 4
    length = int.from_bytes(entry.read(width), "little")
    if length > min(size, 1 << 16):
        raise ValueError(f"{name!r}: expected the header of an array, got one of {length} bytes")
    shape, fortran, dtype = _header(name, entry.read(length))
    count = math.prod(shape)
    if count * dtype.itemsize != size - 8 - width - length:
        got = f"{size - 8 - width - length} bytes"
        raise ValueError(f"{name!r}: expected {count * dtype.itemsize} bytes for {dtype} {shape}, got {got}")
    array = filled(entry, np.empty(count, dtype))
    entry.read(1)  # at the end, where nothing is left, the checksum is compared
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _header(name: str, header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape, the order and the dtype that the header of an .npy file gives."""
    text = "".join(header.decode("latin-1").split())
    found = dict(FIELD.findall(text)) if HEADER.fullmatch(text) else {}
    descr, order, shape = (found.get(key, "") for key in ("descr", "fortran_order", "shape"))
    if descr[:1] not in ("'", '"') or order not in ("True", "False") or shape[:1] != "(":
        raise ValueError(f"{name!r}: expected the header of an array of numbers or text, got {text!r}")
    sizes = tuple(int(size.rstrip("L")) for size in shape[1:-1].split(",") if size)  # L: Python 2's NumPy
    return sizes, order == "True", np.dtype(descr[1:-1])
