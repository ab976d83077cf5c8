"""State dicts as torch.save writes them. PyTorch reads them itself, and executes nothing of them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from typing import Any

from fastrnn.formats.reading import opened
from fastrnn.pages import page

__all__ = ["SUFFIXES", "state_dict"]

SUFFIXES = (".pt", ".pth")


def state_dict(path: str | os.PathLike[str], max_bytes: int | None) -> dict[str, Any]:
    """Return the tensors in a file, on the CPU; names of dicts in dicts are joined by dots.

    Raises
    ------
    ValueError, OSError
        As `fastrnn.serialization.load`.
    ImportError
        If PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"{os.fspath(path)}: needs PyTorch (pip install torch); to convert it where that is installed: "
            f"safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors'); {page('bridges')}"
        ) from None
    found: dict[str, Any] = {}
    with opened(path, "a file of tensors that torch.load(weights_only=True) reads", max_bytes) as (file, budget):
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:  # PyTorch unpacks what is compressed, whatever its size
                budget.take(sum(info.file_size for info in archive.infolist()))
        file.seek(0)
        pending = [("", torch.load(file, map_location="cpu", weights_only=True))]
        while pending:
            name, value = pending.pop()
            if isinstance(value, torch.Tensor):
                # One value may stand for many elements, by strides of zero, and become as many when it is copied.
                if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                    raise ValueError(f"{name!r}: expected a tensor no larger than its storage, got {value.shape}")
                found[name] = value
            elif isinstance(value, Mapping):
                pending += [(f"{name}.{key}" if name else str(key), inner) for key, inner in value.items()]
    return found
