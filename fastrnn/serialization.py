"""Arrays and metadata in one file: .npz or .safetensors.

Reading a file never executes code from it, and takes no more memory than the file may ask for. A file is written under
a temporary name and then renamed, so that after a crash there is either the old file or the new one. What is written
carries a digest of all its contents, so that damage is found when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.formats import npz, safetensors
from fastrnn.formats.reading import opened

__all__ = ["check_path", "load", "save"]

FORMATS = {".npz": npz, ".safetensors": safetensors}


def save(
    path: str | os.PathLike[str], tensors: Mapping[str, NDArray], metadata: Mapping[str, str] | None = None, *,
    bfloat16: Collection[str] = (),
) -> None:  # fmt: skip
    """Write arrays to a file. An existing file is replaced when all is written.

    Parameters
    ----------
    path : path-like
        Ends in .npz or .safetensors, which selects the format.
    tensors : mapping of str to ndarray
        Arrays of booleans or numbers, not of objects or text. safetensors has no complex128 and no longdouble.
    metadata : mapping of str to str, optional
        Texts to keep with the arrays.
    bfloat16 : collection of str, optional
        Names of arrays of uint16 whose values are the bits of bfloat16. A .safetensors says so; an .npz has the bits.

    Raises
    ------
    TypeError, ValueError
        If a name or an array cannot be stored, or the path's suffix is unknown. Nothing is written then.
    OSError
        If the file cannot be written. An existing file is then unchanged.
    """
    check_path(path)
    tensors = validate.mapping("tensors", tensors)
    metadata = {} if metadata is None else validate.mapping("metadata", metadata)
    arrays = {_text("tensors", name): _plain(name, value) for name, value in tensors.items()}
    words = {_text("metadata", key): _text(f"metadata[{key!r}]", value) for key, value in metadata.items()}
    for name in bfloat16:
        if name not in arrays or arrays[name].dtype != np.uint16:
            got = arrays[name].dtype if name in arrays else "no such array"
            raise TypeError(f"bfloat16: expected names of arrays of uint16, got {name!r}, {got}")
    for name in arrays:
        if name == npz.WORDS or "\0" in name:  # zipfile cuts names at a null character
            raise ValueError(
                f"tensors: expected names without null characters and other than {npz.WORDS!r}, got {name!r}"
            )
    if safetensors.DIGEST in words:
        raise ValueError(f"metadata: expected keys other than {safetensors.DIGEST!r}, got it")
    target = Path(os.path.realpath(path))  # a symbolic link stays, and the file that it points to is replaced
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            FORMATS[_suffix(path)].write(file, arrays, words, _digest(arrays, words), bfloat16)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> tuple[dict[str, NDArray], dict[str, str]]:
    """Read what `save` wrote, or any .npz or .safetensors file of plain arrays.

    Parameters
    ----------
    path : path-like
        Ends in .npz or .safetensors, which selects the format.
    max_bytes : int, optional
        How many bytes the contents may take. Default: 16 times the size of the file, and at least 64 MiB. Only a
        compressed file can need more than its size.

    Returns
    -------
    tensors : dict of str to ndarray
        bfloat16, which NumPy does not have, is widened to float32.
    metadata : dict of str to str
        Empty if the file has none.

    Raises
    ------
    ValueError
        If the file is damaged, is not of its format, holds objects or takes more than `max_bytes`. The message names
        the path. Of a file that `save` wrote, any change of a bit is found that changes what is returned; a file of
        others may have no checksums, as .safetensors has none.
    OSError
        If the file cannot be read.
    """
    check_path(path)
    with opened(path, f"a readable {_suffix(path)} file of plain arrays", max_bytes) as (file, budget):
        tensors, words, digest, halves = FORMATS[_suffix(path)].read(file, budget)
        for key, value in words.items():
            if not isinstance(value, str):
                raise ValueError(f"metadata[{key!r}]: expected text, got {type(value).__name__}")
        if digest is not None and digest != _digest(tensors, words):
            raise ValueError("expected the contents that fastrnn wrote with this digest, got others")
        for key, value in words.items() if digest is None else ():
            if len(value) == 64 and value == _digest(tensors, {k: v for k, v in words.items() if k != key}):
                raise ValueError(f"metadata: expected the name of the digest, got {key!r}")  # its own name is damaged
        for name in halves:
            tensors[name] = (tensors[name].astype(np.uint32) << 16).view(np.float32)
    return tensors, words


def check_path(path: str | os.PathLike[str]) -> None:
    """Raise what `save` and `load` would raise for the path's suffix, without touching the file system.

    Raises
    ------
    ValueError
        If the path does not end in .npz or .safetensors.
    """
    if _suffix(path) not in FORMATS:
        raise ValueError(f"path: expected a name that ends in .npz or .safetensors, got {os.fspath(path)!r}")


def _digest(tensors: Mapping[str, NDArray], words: Mapping[str, str]) -> str:
    """The SHA-256 of all words and arrays with their names, whatever their order and the machine's order of bytes."""
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name].astype(tensors[name].dtype.newbyteorder("<"), order="C", copy=False)
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


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
