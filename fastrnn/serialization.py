"""Arrays and metadata in one file: .npz, or .safetensors if that package is installed.

Reading a file never executes code from it. A file is written under a temporary name and then renamed, so that after a
crash there is either the old file or the new one.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate

__all__ = ["check_path", "load", "save"]

# The entry of an .npz that holds the metadata, JSON in UTF-8. Other readers see it as one more array, of bytes.
METADATA = "__metadata__"


def save(
    path: str | os.PathLike[str], tensors: Mapping[str, NDArray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays to a file. An existing file is replaced when all is written.

    Parameters
    ----------
    path : path-like
        Ends in .npz or .safetensors, which selects the format.
    tensors : mapping of str to ndarray
        Arrays of booleans or numbers, not of objects or text. safetensors has no complex128 and no longdouble.
    metadata : mapping of str to str, optional
        Texts to keep with the arrays.

    Raises
    ------
    TypeError, ValueError
        If a name or an array cannot be stored, or the path's suffix is unknown. Nothing is written then.
    ImportError
        If the path ends in .safetensors and safetensors is not installed.
    OSError
        If the file cannot be written. An existing file is then unchanged.
    """
    check_path(path)
    tensors = validate.mapping("tensors", tensors)
    metadata = {} if metadata is None else validate.mapping("metadata", metadata)
    arrays = {_text("tensors", name): _plain(name, value) for name, value in tensors.items()}
    words = {_text("metadata", key): _text(f"metadata[{key!r}]", value) for key, value in metadata.items()}
    for name in arrays:
        if name == METADATA or "\0" in name:  # zipfile cuts names at a null character
            raise ValueError(
                f"tensors: expected names without null characters and other than {METADATA!r}, got {name!r}"
            )
    target = Path(os.path.realpath(path))  # a symbolic link stays, and the file that it points to is replaced
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if _suffix(path) == ".npz":
                _write_npz(file, arrays, words)
            else:
                _write_safetensors(file, arrays, words)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray], dict[str, str]]:
    """Read what `save` wrote, or any .npz or .safetensors file of plain arrays.

    Parameters
    ----------
    path : path-like
        Ends in .npz or .safetensors, which selects the format.

    Returns
    -------
    tensors : dict of str to ndarray
    metadata : dict of str to str
        Empty if the file has none.

    Raises
    ------
    ValueError
        If the file is damaged, is not of its format or holds objects. The message names the path.
    ImportError
        If the path ends in .safetensors and safetensors is not installed.
    OSError
        If the file cannot be read.
    """
    check_path(path)
    with open(path, "rb") as file:
        try:
            return _read_npz(file) if _suffix(path) == ".npz" else _read_safetensors(file)
        except _DAMAGE as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            raise ValueError(
                f"{os.fspath(path)}: not a readable {_suffix(path)} file of plain arrays ({error})"
            ) from error


def check_path(path: str | os.PathLike[str]) -> None:
    """Raise what `save` and `load` would raise for the path's suffix, without touching the file system.

    Raises
    ------
    ValueError
        If the path does not end in .npz or .safetensors.
    ImportError
        If it ends in .safetensors and safetensors is not installed.
    """
    if _suffix(path) not in (".npz", ".safetensors"):
        raise ValueError(f"path: expected a name that ends in .npz or .safetensors, got {os.fspath(path)!r}")
    if _suffix(path) == ".safetensors":
        try:
            import safetensors.numpy  # noqa: F401
        except ImportError:
            raise ImportError(
                f"{os.fspath(path)}: .safetensors needs the safetensors package: pip install safetensors, or use .npz"
            ) from None


# What the readers raise for damaged files. A MemoryError may come from a header that claims an array much larger than
# the file. The others come from zipfile, and OSError (EINVAL) from seeking to a position that the file gives.
_DAMAGE = (
    ValueError, MemoryError, OverflowError, EOFError, NotImplementedError, RuntimeError, struct.error, OSError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def _write_npz(file: BinaryIO, arrays: dict[str, NDArray], words: dict[str, str]) -> None:
    if words:
        arrays = arrays | {METADATA: np.frombuffer(json.dumps(words).encode(), np.uint8)}
    # np.savez(file, **arrays) would refuse arrays named "file" or "allow_pickle".
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, value in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, value, allow_pickle=False)


def _read_npz(file: BinaryIO) -> tuple[dict[str, NDArray], dict[str, str]]:
    tensors: dict[str, NDArray] = {}
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            with archive.open(info) as entry:
                tensors[info.filename.removesuffix(".npy")] = np.lib.format.read_array(entry, allow_pickle=False)
    words = json.loads(tensors.pop(METADATA).tobytes()) if METADATA in tensors else {}
    if not isinstance(words, dict) or not all(isinstance(value, str) for value in words.values()):
        raise ValueError(f"{METADATA}: expected a JSON object of strings")
    return tensors, words


def _write_safetensors(file: BinaryIO, arrays: dict[str, NDArray], words: dict[str, str]) -> None:
    import safetensors.numpy

    try:
        file.write(safetensors.numpy.save(arrays, words or None))
    except safetensors.SafetensorError as error:
        raise ValueError(f"tensors: expected arrays that .safetensors can hold ({error})") from error


def _read_safetensors(file: BinaryIO) -> tuple[dict[str, NDArray], dict[str, str]]:
    import safetensors.numpy

    data = file.read()
    try:
        tensors = safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from error
    except KeyError as error:  # bfloat16 and float8
        raise ValueError(f"dtype {error.args[0]}, which NumPy does not have") from error
    (size,) = struct.unpack_from("<Q", data)  # of the header, which `load` above has checked
    return tensors, json.loads(data[8 : 8 + size]).get("__metadata__", {})


def _plain(name: str, value: NDArray) -> NDArray:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"tensors[{name!r}]: expected a NumPy array, got {type(value).__name__}")
    if value.dtype.kind not in "biufc":
        raise TypeError(f"tensors[{name!r}]: expected an array of booleans or numbers, got {value.dtype}")
    return value if value.flags.c_contiguous else np.ascontiguousarray(value)


def _text(argument: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{argument}: expected str, got {type(value).__name__}")
    return value


def _suffix(path: str | os.PathLike[str]) -> str:
    return Path(path).suffix.lower()
