"""Changes of files that keep their form: JSON stays JSON, checksums and lengths are right again.

A flipped bit in a zip file is stopped by its CRC, and never reaches the code that reads an array's header. So these
take a file apart, change one part of it and put it together again. Each function takes a file, a source of random
numbers and a function that changes bytes; it returns None if the file cannot be taken apart.
"""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

__all__ = ["HUGE", "Bytes", "Mutation", "changed_bytes", "onnx", "safetensors", "zipped"]

Bytes = Callable[[bytes, random.Random], bytes]
Mutation = Callable[[bytes, random.Random, Bytes], "bytes | None"]

HUGE = (2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**30)
_NUMBERS = (-1, 0, 1, 2, 3, 5, 255, 2**16, 10**6, *HUGE)
_TEXTS = (
    "",
    "x",
    "\0",
    "../../x",
    "__class__",
    "lstm",
    "GRU",
    "LSTM",
    "tanh",
    "float32",
    "{}",
    "[]",
    "null",
    "é\ud800",
)
_VALUES = (None, True, False, 1.5, -0.0, 1e308, float("nan"), float("inf"), [], {}, [[]], [1], [3, 4], {"a": 1})
_DTYPES = (
    "<f4", "<f8", ">f4", "<f2", "<i8", "|u1", "|b1", "<c8", "|O", "<U3", "|S4", "|V8", "<M8[s]", "<f16", "x", "",
    "('<f4', (2, 3))", "[('a', '<f4')]", "[('a', '|O')]",
)  # fmt: skip
_SHAPES = (
    "()", "(0,)", "(1,)", "(12,)", "(3, 4)", "(16, 3)", "(2, -1)", "(1.5,)", "('a',)", "3", "None", "(True,)", "[3, 4]",
    "(1,) * 9", "(0, 1000000000000)", "(999999999, 999999999)", "(" * 300, f"({'1, ' * 40})",
)  # fmt: skip
_HEADERS = (
    "", "{", "1", "[]", "{}", "{'descr': '<f4'}", "__import__('os').system('true')", "{" * 500, "\t\n  x", "'\\",
    f"{'-' * 400}1", "{1: 2, (3,): {4}}", "{[]: 1}",
)  # fmt: skip


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, inserted, left out, repeated or set, at one place."""
    place, size = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 4, 8, 40))
    before, part, after = data[:place], data[place : place + size], data[place + size :]
    return before + rng.choice((
        bytes(b ^ 1 << rng.randrange(8) for b in part),
        rng.randbytes(size) + part,
        b"",
        part * 2,
        rng.choice((b"\x00", b"\xff", b"\x7f")) * len(part),
    )) + after  # fmt: skip


# ---- JSON ----------------------------------------------------------------------------------------------------------


def _json(text: str, rng: random.Random) -> str:
    """Another value at one place, also in JSON that a string holds."""
    try:
        return json.dumps(_value(json.loads(text), rng))
    except (ValueError, RecursionError):
        return rng.choice(("{}", "[]", "null", "1", '"x"', "[" * 5000, '{"a":' * 3000, ""))


def _value(value: Any, rng: random.Random) -> Any:
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        value = value.copy()
        action = rng.random()
        if action < 0.1:
            del value[key]
        elif action < 0.2 and isinstance(value, dict):
            value[rng.choice((*_TEXTS, *keys)) + rng.choice(("", "0", "_l1"))] = value.pop(key)
        elif action < 0.2:
            value.insert(key, value[rng.choice(keys)])
        else:
            value[key] = _value(value[key], rng)
        return value
    if isinstance(value, str) and value[:1] in ("{", "[") and rng.random() < 0.9:
        return _json(value, rng)
    if isinstance(value, int) and rng.random() < 0.3:
        return value + rng.choice((-1, 1))
    return rng.choice((*_NUMBERS, *_TEXTS, *_VALUES))


# ---- .npy, and zip files -------------------------------------------------------------------------------------------


def _npy(data: bytes, rng: random.Random, change: Bytes) -> bytes:
    """An array with another header, or other values; an array of JSON with other JSON."""
    major = data[6]
    width = 2 if major == 1 else 4
    size = int.from_bytes(data[8 : 8 + width], "little")
    header, values = data[8 + width : 8 + width + size].decode("latin1"), data[8 + width + size :]
    if values[:1] == b"{" and rng.random() < 0.9:
        values = _json(values.decode("utf-8", "replace"), rng).encode("utf-8", "replace")
        header = re.sub(r"\(\d+,\)", f"({len(values)},)", header)
    else:
        action = rng.random()
        if action < 0.3:
            header = re.sub(r"'shape': \(.*?\)", lambda _: f"'shape': {rng.choice(_SHAPES)}", header)
        elif action < 0.5:
            numbers = [m.span() for m in re.finditer(r"\d+", header.partition("shape")[2])]
            if numbers:
                shift = len(header.partition("shape")[0]) + len("shape")
                (start, end) = rng.choice(numbers)
                number = rng.choice((*_NUMBERS, int(header[shift + start : shift + end]) + rng.choice((-1, 1))))
                header = f"{header[: shift + start]}{number}{header[shift + end :]}"
        elif action < 0.65:
            dtype = rng.choice(_DTYPES)
            quoted = dtype if dtype[:1] in ("(", "[") else repr(dtype)
            header = re.sub(r"'descr': '.*?'", lambda _: f"'descr': {quoted}", header)
        elif action < 0.72:
            header = header.replace("False", rng.choice(("True", "1", "None", "[]")))
        elif action < 0.78:
            header = rng.choice(_HEADERS)
        elif action < 0.86:
            header = change(header.encode("latin1"), rng).decode("latin1")
        elif action < 0.9:
            major, width = rng.choice(((1, 2), (2, 4), (3, 4), (9, 4)))
        else:
            values = change(values, rng)
    text = header.encode("latin1", "replace")[: 2**15]
    return b"\x93NUMPY" + bytes((major, 0)) + len(text).to_bytes(width, "little") + text + values


def _entry(data: bytes, rng: random.Random, change: Bytes) -> bytes:
    """The content of one entry of a zip file, by what it is."""
    if data[:6] == b"\x93NUMPY" and len(data) > 12:
        return _npy(data, rng, change)
    if data[:1] in (b"{", b"[") and rng.random() < 0.9:
        return _json(data.decode("utf-8", "replace"), rng).encode("utf-8", "replace")
    return change(data, rng)


def zipped(data: bytes, rng: random.Random, change: Bytes) -> bytes | None:
    """A zip file with another entry, one less or one more, or another order of them; without the digest's comment."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:
        return None
    if not entries:
        return None
    for _ in range(rng.choice((1, 1, 2))):
        k = rng.randrange(len(entries))
        name, content = entries[k]
        action = rng.random()
        if action < 0.7:
            entries[k] = name, _entry(content, rng, change)
        elif action < 0.8:
            entries[k] = _renamed(name, rng), content
        elif action < 0.85 and len(entries) > 1:
            del entries[k]
        elif action < 0.9:
            entries.append((name if rng.random() < 0.5 else _renamed(name, rng), content))
        elif action < 0.95:
            other = rng.randrange(len(entries))
            entries[k], entries[other] = (name, entries[other][1]), (entries[other][0], content)
        else:
            rng.shuffle(entries)
    method = rng.choice((zipfile.ZIP_STORED,) * 6 + (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return change(file.getvalue(), rng) if rng.random() < 0.05 else file.getvalue()


def _renamed(name: str, rng: random.Random) -> str:
    number = re.search(r"\d+", name)
    if number and rng.random() < 0.5:
        return f"{name[: number.start()]}{rng.choice(_NUMBERS)}{name[number.end() :]}"
    old, new = rng.choice((
        ("weight", "bias"), ("ih", "hh"), ("hh", "hr"), ("_l0", "_l1"), ("_l0", "_l0_reverse"), (".npy", ""),
        ("", "a."), (".", "/"), ("params", "best"), ("best", "state"), ("weight", "peephole"), ("0", "1"), ("l", "L"),
    ))  # fmt: skip
    return name.replace(old, new, 1)[:200]


# ---- .safetensors --------------------------------------------------------------------------------------------------


def safetensors(data: bytes, rng: random.Random, change: Bytes) -> bytes | None:
    """A .safetensors file with another header, whose length is right, or other values."""
    if len(data) < 10:
        return None
    (size,) = struct.unpack_from("<Q", data)
    header, values = data[8 : 8 + size], data[8 + size :]
    action = rng.random()
    if action < 0.8:
        header = _json(header.decode("utf-8", "replace"), rng).encode("utf-8", "surrogatepass")
    elif action < 0.9:
        header = change(header, rng)
    else:
        values = change(values, rng)
    return struct.pack("<Q", abs(len(header) + rng.choice((0,) * 30 + (-1, 1, 2**62)))) + header + values


# ---- ONNX ----------------------------------------------------------------------------------------------------------


def onnx(data: bytes, rng: random.Random, change: Bytes) -> bytes | None:
    """A model with another value, or one less or one more, in one of its messages."""
    import onnx as package

    model = package.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:
        return None
    for _ in range(rng.choice((1, 1, 2, 3))):
        messages = list(_messages(model))
        _message(rng.choice(messages), messages, rng, change)
    return model.SerializeToString()


def _messages(message: Any) -> Any:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if _repeated(field) else [value]:
                yield from _messages(inner)


def _message(message: Any, others: list[Any], rng: random.Random, change: Bytes) -> None:
    there = [field for field, _ in message.ListFields()]
    field = rng.choice(there if there and rng.random() < 0.8 else list(message.DESCRIPTOR.fields))
    if _repeated(field):
        values = getattr(message, field.name)
        action = rng.random()
        if values and action < 0.3:
            del values[rng.randrange(len(values))]
        elif field.message_type is not None:
            copy = _another(field, others, rng)
            new = values.add()
            if copy is not None:
                new.CopyFrom(copy)
        elif values and action < 0.8:
            k = rng.randrange(len(values))
            values[k] = _scalar(field, values[k], rng, change)
        else:
            values.append(_scalar(field, None, rng, change))
    elif field.message_type is not None:
        copy = _another(field, others, rng)
        if copy is not None and rng.random() < 0.5:
            getattr(message, field.name).CopyFrom(copy)
        elif rng.random() < 0.5:
            message.ClearField(field.name)
    elif rng.random() < 0.1:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _scalar(field, getattr(message, field.name), rng, change))


def _another(field: Any, others: list[Any], rng: random.Random) -> Any:
    """A copy of some message that the field may hold. protobuf crashes if one is copied straight into a part of it."""
    alike = [other for other in others if other.DESCRIPTOR is field.message_type]
    if not alike:
        return None
    copy = type(alike[0])()
    copy.CopyFrom(rng.choice(alike))
    return copy


_OPERATORS = ("LSTM", "GRU", "RNN", "Constant", "ConstantOfShape", "Tile", "Range", "Concat", "Transpose", "Cast",
"Slice", "DynamicQuantizeLSTM", "QuantizeLinear", "DequantizeLinear",
    "Identity", "RandomNormalLike", "If", "Loop", "Scan", "Reshape", "Expand", "Split", "Gather", "Pad",
    "x")  # fmt: skip
_NAMES = ("", "X", "W", "R", "B", "P", "Y", "activations", "direction", "hidden_size", "layout", "clip",
"bidirectional",
    "reverse", "Tanh", "Relu", "location", "../x", "offset", "length", "ai.onnx",
    "com.microsoft", "axis", "a")  # fmt: skip


def _scalar(field: Any, value: Any, rng: random.Random, change: Bytes) -> Any:
    if field.enum_type is not None:
        return rng.choice([option.number for option in field.enum_type.values])
    kind = field.cpp_type
    if kind in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice((0.0, -1.0, 1.5, 1e30, float("nan"), float("inf")))
    if kind in (field.CPPTYPE_INT32, field.CPPTYPE_INT64, field.CPPTYPE_UINT32, field.CPPTYPE_UINT64):
        bits = 31 if kind in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 63
        number = rng.choice((*_NUMBERS, *range(1, 30), (value or 0) + 1, (value or 0) - 1))
        lowest = 0 if kind in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64) else -(2**bits)
        return max(lowest, min(number, 2**bits - 1))
    if kind == field.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if field.type == field.TYPE_BYTES:
        return change(value or b"", rng)
    return rng.choice((*_NAMES, *_OPERATORS))


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
