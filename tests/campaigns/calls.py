"""Random calls of the whole public API with arguments that are wrong.

    python tests/campaigns/calls.py                             # 20,000 calls
    python tests/campaigns/calls.py --calls 1000000 --jobs 2
    python tests/campaigns/calls.py --only Stream.step --seed 3

A call takes a function of catalogue.py with arguments that work, and puts something else in the place of one or two of
them. It may work all the same, or raise TypeError, ValueError, or an error that its docstring names. Findings are: any
other error, a crash, a call of more than 30 seconds, an argument or an object that is not as it was before a call that
failed, memory that grows. Calls run in fresh processes, 10,000 in each; the exit status is 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import decimal
import faulthandler
import gc
import inspect
import json
import logging
import operator
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import watch
from catalogue import Entry, catalogue
from mutations import HUGE
from targets import copied, same

CALLS = 10_000  # of one process
FRESH = 100  # calls after which all objects are made anew
LONGEST_CALL = 30  # seconds
GROWTH = 64 << 20  # bytes that a process may hold more at its end than after its first calls
LONG = ("max_length", "samples", "steps", "epochs", "evaluations", "seconds")  # more of these takes longer, rightly
ALLOWED = ("TypeError", "ValueError")


# ---- What is passed ------------------------------------------------------------------------------------------------


class OwnError(Exception):
    """An error of the caller's own object, which may come through."""


class Raising:
    """Raises whatever it is asked."""

    def _raise(self, *args: Any, **options: Any) -> Any:
        raise OwnError

    __array__ = __index__ = __float__ = __int__ = __len__ = __iter__ = __getitem__ = __bool__ = __call__ = _raise
    __fspath__ = __enter__ = __exit__ = __next__ = __contains__ = _raise


class Lying:
    """Says that it is an array, a sequence and a number, each time another."""

    def __init__(self) -> None:
        self._count = 0

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        self._count += 1
        return np.zeros((self._count, 3), np.float32)

    def __index__(self) -> int:
        self._count += 1
        return self._count

    def __len__(self) -> int:
        return 2

    def __getitem__(self, key: Any) -> Any:
        if self._count > 9:
            raise IndexError
        self._count += 1
        return self


class Sub(np.ndarray):
    """A subclass of arrays."""


_INTEGERS = (-1, 0, 1, 2, 3, 4, 7, 100, -(2**63), *HUGE)
_FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e308, 5e-324, float("nan"), float("inf"), -float("inf"))
_DTYPES = ("f4", "f8", ">f4", "f2", "g", "i1", "i8", "u8", "?", "c8", "U3", "S2", "O", "V4", "M8[s]", "f4,i4")
_SHAPES = (
    (),
    (0,),
    (1,),
    (2,),
    (3,),
    (4,),
    (2, 3),
    (5, 2, 3),
    (2, 5, 3),
    (0, 2, 3),
    (5, 0, 3),
    (1, 2, 4),
    (2, 2, 4),
    (1,) * 8,
)
_TEXTS = (
    "",
    "x",
    "lstm",
    "relu",
    "float32",
    "\0",
    "é\ud800",
    "a.npz",
    "a.safetensors",
    "missing.npz",
    "/",
    "x" * 300,
    b"x",
)


def _array(rng: random.Random) -> Any:
    shape, dtype = rng.choice(_SHAPES), np.dtype(rng.choice(_DTYPES))
    with np.errstate(all="ignore"):
        a = (
            np.zeros(shape, dtype)
            if dtype.kind in "VM"
            else (np.arange(np.prod(shape)) - 3).reshape(shape).astype(dtype)
        )
    if rng.random() < 0.1 and dtype.kind == "f":
        a.flat[:1] = rng.choice((np.nan, np.inf))
    layout = rng.randrange(12)
    if layout == 0:
        a.flags.writeable = False
    elif layout == 1:
        a = np.asfortranarray(a)
    elif layout == 2 and a.ndim:
        a = a[::-1]
    elif layout == 3:
        a = np.broadcast_to(a, (3, *shape))
    elif layout == 4 and dtype.kind != "O":
        room = np.zeros(a.nbytes + 1, np.uint8)
        a = np.ndarray(shape, dtype, room.data, 1)
    elif layout == 5:
        a = a.view(Sub)
    elif layout == 6:
        a = np.ma.MaskedArray(a)
    elif layout == 7:
        a = a.tolist()
    elif layout == 8 and a.ndim and dtype.kind not in "OV":
        a = np.lib.stride_tricks.as_strided(a, strides=(0,) * a.ndim)
    return a


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


_OBJECTS: tuple[Callable[[], Any], ...] = (
    lambda: None, lambda: True, lambda: np.bool_(False), object, Raising, Lying, lambda: int, lambda: len, lambda: 1j,
    list, dict, tuple, set, lambda: [1, [2]], lambda: [None], lambda: {"x": 1}, lambda: {1: 2}, _circle,
    lambda: range(3),
    lambda: iter([1, 2]), lambda: decimal.Decimal(1), lambda: np.float32(1), lambda: np.int64(2),
    lambda: memoryview(b"ab"),
    lambda: bytearray(8), lambda: slice(None), lambda: Ellipsis, lambda: [3] * 5, lambda: ("a", "b"),
    lambda: {"W": None},
    lambda: {"weight_ih_l0": np.zeros((16, 3), np.float32)}, lambda: [np.zeros((3, 16)), np.zeros((4, 16))],
    lambda: print,
    lambda: np.random.default_rng(0), lambda: np.random.RandomState(0), lambda: np.dtype("f4"), lambda: Exception("x"),
)  # fmt: skip


def anything(rng: random.Random) -> Any:
    """A value that is most likely wrong, new each time."""
    kind = rng.random()
    if kind < 0.35:
        return _array(rng)
    if kind < 0.55:
        return rng.choice(_INTEGERS)
    if kind < 0.63:
        return rng.choice(_FLOATS)
    return rng.choice(_TEXTS) if kind < 0.72 else rng.choice(_OBJECTS)()


def spoilt(value: Any, rng: random.Random) -> Any:
    """Something else, or the value with something else in it."""
    if isinstance(value, np.ndarray) and value.ndim and rng.random() < 0.35:
        change = rng.randrange(6)
        if change == 0:
            return value[..., :-1]
        if change == 1:
            return value[None]
        if change == 2:
            return value.astype(rng.choice(("f4", "f8", "i8", "f2", ">f4")))
        if change == 3:
            return value * rng.choice((np.nan, np.inf, -1, 10**6)) if value.dtype.kind == "f" else ~value
        if change == 4:
            return np.full_like(value, rng.choice((127, -128, 0)))
        return value.T
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.5:
        items = list(value)
        k = rng.randrange(len(items))
        items[k : k + 1] = rng.choice(([], [spoilt(items[k], rng)], [items[k]] * 2))
        return type(value)(items) if type(value) in (list, tuple) else items
    if isinstance(value, dict) and value and rng.random() < 0.6:
        key = rng.choice(list(value))
        if rng.random() < 0.2:
            return {name: inner for name, inner in value.items() if name is not key}
        return {**value, (key if rng.random() < 0.9 else rng.choice(("x", 1, None))): spoilt(value[key], rng)}
    return anything(rng)


# ---- Calls ---------------------------------------------------------------------------------------------------------


def allowed(entry: Entry) -> tuple[str, ...]:
    """The names of the errors that the function's docstring, or its class's, has in its section Raises."""
    documented = "\n".join(inspect.getdoc(subject) or "" for subject in entry.documented)
    return *ALLOWED, *re.findall(r"\b[A-Z]\w*(?:Error|Exception)\b", documented.partition("Raises\n------")[2])


def arguments_of(entry: Entry) -> list[str]:
    """The names of all arguments: those of the entry, and those of the signature that it leaves at their defaults."""
    try:
        signature = inspect.signature(entry.function)
    except (TypeError, ValueError):
        return list(entry.arguments)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return list(dict.fromkeys([*entry.arguments, *(p.name for p in signature.parameters.values() if p.kind in kinds)]))


class Finding(Exception):  # noqa: N818
    """A call that raised nothing, or what it may, but did something wrong."""


def call(name: str, entry: Entry, rng: random.Random) -> str:
    """Call with one or two wrong arguments; return the name of the error, or "" if there was none."""
    given = dict(entry.arguments)
    names = arguments_of(entry)
    for argument in rng.sample(names, min(len(names), rng.choice((1, 1, 2)))):
        given[argument] = spoilt(given[argument], rng) if argument in given else anything(rng)
        if argument in LONG and _integer(given[argument]) > 100:
            given[argument] = 100
    if rng.random() < 0.02:
        given.pop(rng.choice(list(given)), None) if given else given.update(x=1)
    before, state = copied(given), copied(entry.state())
    try:
        entry.function(**given)
    except OwnError:
        pass
    except Exception as error:
        if isinstance(error, MemoryError) and _large(given):
            return "MemoryError"
        if not any(cls.__name__ in allowed(entry) for cls in type(error).__mro__) and not _clean(error):
            raise
        if not same(state, entry.state()):
            raise Finding(f"{name} changed its object before it raised {error!r}") from error
        if not same(before, given):
            raise Finding(f"{name} changed its arguments before it raised {error!r}") from error
        if not str(error):
            raise Finding(f"{name} raised a {type(error).__name__} that says nothing") from error
        return type(error).__name__
    return ""


def _integer(value: Any) -> int:
    """An argument that counts as an integer, as which; 0 for others."""
    try:
        return operator.index(value)
    except (TypeError, ValueError, OwnError):
        return 0


def _clean(error: Exception) -> bool:
    """Whether it is the IndexError of a check, which names the argument, in a part that documents it."""
    return isinstance(error, IndexError) and re.match(r"\S+: expected .* got ", str(error)) is not None


def _large(given: dict[str, Any]) -> bool:
    """Whether an argument asks for more than there is."""
    return any(isinstance(value, int) and value > 2**20 for value in given.values())


def some(seed: int, first: int, count: int, only: str | None, progress: int) -> dict[str, Any]:
    """Make calls `first` to `first + count` of a seed; return what became of them, and findings by their causes."""
    outcomes: Counter[str] = Counter()
    findings: dict[str, str] = {}
    base = 0
    for n in range(first, first + count):
        if n % FRESH == 0 or n == first:
            entries = catalogue()
            names = [name for name in entries if only is None or name.startswith(only)]
        if n % 10 == 0 or n == first:  # a watchdog is a thread, which costs as much as a call
            faulthandler.dump_traceback_later(LONGEST_CALL, exit=True)
        if n - first == count // 4:
            base = memory()
        rng = random.Random(seed << 40 | n)
        name = rng.choice(names)
        os.pwrite(progress, f"{n} {name}\n".ljust(80).encode(), 0)
        try:
            outcomes[call(name, entries[name], rng) or "no error"] += 1
        except Exception as error:
            findings.setdefault(
                f"{name}: {watch.signature(error)}", f"{error!r:.200} (--seed {seed} --first {n} --calls 1)"
            )
            outcomes["findings"] += 1
    faulthandler.cancel_dump_traceback_later()
    if base and (grown := memory() - base) > GROWTH:
        findings["memory"] = f"grew by {grown >> 20} MiB in {count - count // 4:,} calls"
    return {"outcomes": outcomes, "findings": findings}


def memory() -> int:
    """Bytes that this process holds, after garbage is collected and given back to the system."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return watch.resident()


def child(seed: int, first: int, count: int, only: str | None, folder: Path) -> None:
    """One process of calls, in a folder of its own."""
    warnings.simplefilter("ignore")
    logging.disable()
    os.chdir(folder)
    progress = os.open("progress", os.O_RDWR | os.O_CREAT)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (some calls print)
    catalogue()
    watch.limit_memory(2 << 30)
    Path("result.json").write_text(json.dumps(some(seed, first, count, only, progress)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first call")
    parser.add_argument("--only", metavar="NAME", help="functions whose names begin so")
    parser.add_argument("--child", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.seed, arguments.first, arguments.calls, arguments.only, arguments.child)
        return
    outcomes: Counter[str] = Counter()
    findings: dict[str, str] = {}

    def process(first: int) -> None:
        folder = Path(tempfile.mkdtemp(prefix="fastrnn-calls-"))
        count = min(CALLS, arguments.first + arguments.calls - first)
        command = [
            sys.executable,
            "-X",
            "faulthandler",
            __file__,
            "--child",
            str(folder),
            "--seed",
            str(arguments.seed),
        ]
        command += ["--first", str(first), "--calls", str(count)]
        command += ["--only", arguments.only] if arguments.only else []
        done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
        if (folder / "result.json").exists():
            result = json.loads((folder / "result.json").read_text())
            outcomes.update(result["outcomes"])
            for cause, what in result["findings"].items():
                findings.setdefault(cause, what)
        else:
            progress = (folder / "progress").read_text().split() if (folder / "progress").exists() else ["?", "start"]
            findings.setdefault(
                f"{progress[1]}: exit status {done.returncode}", f"call {progress[0]}\n{done.stderr[:3000]}"
            )
        shutil.rmtree(folder)
        print(f"{first + count:12,} calls, {len(findings)} findings", flush=True)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(process, range(arguments.first, arguments.first + arguments.calls, CALLS)))
    total = sum(outcomes.values())
    print(f"\n{total:,} calls: " + ", ".join(f"{count:,} {name}" for name, count in outcomes.most_common()))
    print(f"{len(findings)} findings")
    for cause, what in sorted(findings.items()):
        print(f"  {cause}\n    {what}")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
