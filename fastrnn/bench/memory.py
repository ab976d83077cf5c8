"""How much memory tasks take, each in a fresh process: frozen weights, the scratch memory of a call, and the tape.

What a call takes is measured as the growth of the process's peak resident size, which Linux reports. So memory that C
allocates counts as well. The limits are those that docs/memory.md promises.
"""

from __future__ import annotations

import functools
import gc
import json
import math
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastrnn import engines
from fastrnn.bench.problems import Problem, to_layer
from fastrnn.bench.processes import python_path
from fastrnn.bench.tasks import CASES, KINDS, Sizes, Task
from fastrnn.bench.worker import MEASURES_MEMORY, memory_size, reset_memory_peak
from fastrnn.engines.threads import num_threads
from fastrnn.layers import LAYERS

__all__ = ["SCRATCH_LIMIT", "WEIGHTS_LIMIT", "Usage", "available", "long_task", "run", "summary", "tape_limit"]

SCRATCH_LIMIT = 8 << 20  # of inference, for any T
WEIGHTS_LIMIT = {"int8": 0.27, "bfloat16": 0.52}  # of a frozen layer's size in float32
WEIGHTS_LEAST = 128  # if I and H are at least that: in small layers, scales and biases count
# Sequences are longer than those of the cases, so that memory which grows with T becomes visible. The limits below keep
# them from taking too much time and memory.
LONGEST = 10_000
LONG_BYTES = 32 << 20  # of x or y
LONG_FLOPS = 5 * 10**10


@dataclass(frozen=True, slots=True)
class Usage:
    """What a task took, in bytes.

    Attributes
    ----------
    task : Task
        As it was run: mostly with more steps than its case has.
    engine : str
    scratch : int
        Growth of the peak resident size during a call, without what the call returned and without the tape. In
        training the call is forward and backward.
    tape : int
        Size of the arrays that only the tape holds; 0 in inference.
    weights, full_weights : int
        What a frozen layer keeps, in the task's precision and in its dtype: parameters, and packed weights; 0 in
        training.
    states_scratch, states_tape : int
        `scratch` and `tape` of training with ``keep="states"``; 0 in inference.
    """

    task: Task
    engine: str
    scratch: int
    tape: int
    weights: int = 0
    full_weights: int = 0
    states_scratch: int = 0
    states_tape: int = 0

    @property
    def states_share(self) -> float:
        """What a tape that keeps states takes at most, with the record that backward makes, beside the whole tape."""
        return (self.states_tape + max(0, self.states_scratch - self.scratch)) / max(1, self.tape)

    @property
    def weights_share(self) -> float:
        """A frozen layer's size beside that in its dtype."""
        return self.weights / max(1, self.full_weights)

    @property
    def weights_limit(self) -> float:
        """What `weights_share` may be. An engine that does not pack float32 weights packs those of fewer bits."""
        promised = self.engine == "packed" and min(self.task.sizes.I, self.task.sizes.H) >= WEIGHTS_LEAST
        return WEIGHTS_LIMIT.get(self.task.precision, math.inf) if promised else math.inf

    @property
    def broken(self) -> tuple[str, ...]:
        """The promises that this breaks, in words."""
        kept = {
            f"weights above {self.weights_limit} of float32's": self.weights_share <= self.weights_limit,
            f"scratch above {SCRATCH_LIMIT >> 20} MiB": self.task.kind != "inference" or self.scratch <= SCRATCH_LIMIT,
            "tape above the design's": self.tape <= tape_limit(self.task),
        }
        return tuple(words for words, holds in kept.items() if not holds)


def tape_limit(task: Task) -> int:
    """Return how many bytes a tape may have: for each step and row 5*H values of an LSTM, 4*H of a GRU, H of an RNN.

    They are those of every gate, an LSTM's c and, of a GRU that resets after the product, U_n h + b_hn. Those of an RNN
    are its y, which the tape shares with the caller.
    """
    T, B, _, H = task.sizes
    cell = task.description
    values = max(1, len(cell.recorded) + cell.has_c) if task.kind == "training" else 0
    return values * T * B * H * np.dtype(task.dtype).itemsize


def long_task(task: Task) -> Task:
    """Return the task with as many steps as the limits above allow; a task of a single step stays as it is."""
    T, B, I, H = task.sizes
    if T == 1:
        return task
    a_step = B * max(I, H) * np.dtype(task.dtype).itemsize
    steps = min(LONGEST, LONG_BYTES // a_step, LONG_FLOPS * T // task.flops)
    return replace(task, sizes=task.sizes._replace(T=max(T, steps)))


def available() -> bool:
    """Whether the system reports the peak size of a process and allows it to be reset."""
    return MEASURES_MEMORY


def run(selected: Iterable[Task], engine: str) -> Iterator[Usage]:
    """Run each task in a process of its own, with as many steps as `long_task` gives it.

    Parameters
    ----------
    selected : iterable of Task
    engine : str

    Yields
    ------
    Usage
    """
    for task in selected:
        yield in_fresh_process(long_task(task), engine)


def in_fresh_process(task: Task, engine: str) -> Usage:
    figures = figures_of(task, engine, "all")
    if task.kind == "training":
        figures |= {f"states_{name}": size for name, size in figures_of(task, engine, "states").items()}
    return Usage(task, engine, **figures)


def figures_of(task: Task, engine: str, keep: str) -> dict[str, int]:
    """Return what `measured` finds in a fresh process."""
    environment = {
        **os.environ,
        **python_path(),
        # glibc shall return freed memory at once. Else what one call left would hide what the next one takes.
        "MALLOC_MMAP_THRESHOLD_": str(1 << 16), "MALLOC_TRIM_THRESHOLD_": str(1 << 16),
    }  # fmt: skip
    done = subprocess.run(
        [
            sys.executable, "-c", "from fastrnn.bench import memory; memory.main()", json.dumps(asdict(task)), engine,
            keep,
        ],
        env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    figures: dict[str, int] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Run in the fresh process: read task, engine and what is kept from its arguments, and print what was measured."""
    fields = json.loads(sys.argv[1])
    task = Task(**{**fields, "sizes": Sizes(*fields["sizes"])})
    with engines.use(sys.argv[2]), num_threads(task.threads):
        print(json.dumps(measured(task, sys.argv[3])))


def measured(task: Task, keep: str = "all") -> dict[str, int]:
    """Return the figures of a `Usage`, measured in this process; of training with a tape that keeps this."""
    short = replace(task, sizes=task.sizes._replace(T=min(task.sizes.T, CASES["lat64"].T)))
    work = infer if task.kind == "inference" else functools.partial(train, keep=keep)
    work(Problem.draw(short))  # loads code, starts threads and fills BLAS's buffers: these come once
    return work(Problem.draw(task)) | (weights_of(task) if task.kind == "inference" else {})


def weights_of(task: Task) -> dict[str, int]:
    """Return how many bytes the weights of a frozen layer take, in the task's precision and in its dtype."""
    layer = LAYERS[task.cell](task.sizes.I, task.sizes.H, dtype=task.dtype)
    sizes = {}
    for name, precision in {"weights": task.precision, "full_weights": task.dtype}.items():
        frozen = layer.freeze(precision=precision)
        packed = sum(getattr(prepared, "packed_bytes", 0) for prepared in frozen._prepared)
        sizes[name] = frozen.weight_bytes + packed
    return sizes


def infer(problem: Problem) -> dict[str, int]:
    frozen = problem.layer.freeze(precision=problem.precision)  # weights are packed here
    state = to_layer(problem.state)
    if len(problem.x) == 1:
        stream, out = frozen.stream(problem.x.shape[1]), np.zeros_like(problem.dy[0])
        _, grown = grows(lambda: stream.step(problem.x[0], out))
        return {"scratch": grown, "tape": 0}
    returned, grown = grows(lambda: frozen(problem.x, state))
    return {"scratch": grown - size_of(arrays_in(returned)), "tape": 0}


def train(problem: Problem, keep: str) -> dict[str, int]:
    layer, x, dy = problem.layer, problem.x, problem.dy
    state, dstate = to_layer(problem.state), to_layer(problem.dstate)

    def call() -> Any:
        y, state_n, tape = layer.forward(x, state, keep=keep)
        return y, state_n, tape, layer.backward(tape, dy, dstate)

    (y, state_n, tape, grads), grown = grows(call)
    returned = [*arrays_in((y, state_n)), grads.x, *arrays_in(grads.state), *grads.params.values()]
    given = [x, *problem.state, *layer.params.values()]
    held = size_of(arrays_in(tape), without=[*returned, *given])
    return {"scratch": grown - size_of(returned) - held, "tape": held}


Returned = TypeVar("Returned")


def grows(call: Callable[[], Returned]) -> tuple[Returned, int]:
    """Return what a call returns, and by how many bytes the peak resident size exceeds the size before the call."""
    gc.collect()
    before = memory_size("VmRSS")
    reset_memory_peak()
    returned = call()
    return returned, max(0, memory_size("VmHWM") - before)


def arrays_in(root: Any) -> list[NDArray]:
    """Return the arrays that an object holds at any depth, but not those that its class or a module holds."""
    found, seen, waiting = [], set(), [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, type | types.ModuleType | types.FunctionType):
            continue
        seen.add(id(value))
        if isinstance(value, np.ndarray):
            found.append(value)
        else:
            waiting.extend(gc.get_referents(value))
    return found


def size_of(arrays: Iterable[NDArray], without: Iterable[NDArray] = ()) -> int:
    """Return the bytes of the memory blocks that arrays lie in, each block once, without the blocks of `without`."""
    blocks = {id(owner(a)): owner(a) for a in arrays}
    others = {id(owner(a)) for a in without}
    return sum(block.nbytes for key, block in blocks.items() if key not in others)


def owner(array: NDArray) -> NDArray:
    """Return the array that owns the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def summary(results: Iterable[Usage]) -> list[str]:
    """Return lines about the largest scratch memory, the tapes compared with the design, and each broken promise."""
    usages, lines = list(results), []
    for kind in KINDS:
        part = [usage for usage in usages if usage.task.kind == kind]
        if part:
            most = max(part, key=lambda usage: usage.scratch)
            limit = f" of {SCRATCH_LIMIT >> 20}" if kind == "inference" else ""
            lines.append(f"{kind}: at most {most.scratch / 2**20:.1f}{limit} MiB of scratch ({most.task})")
    for precision, share in WEIGHTS_LIMIT.items():
        frozen = [u for u in usages if u.task.precision == precision and u.weights_limit < math.inf]
        if frozen:
            most = max(frozen, key=lambda usage: usage.weights_share)
            lines.append(
                f"{precision}: frozen layers of at most {most.weights_share:.3f} of {share} of float32's ({most.task})"
            )
    tapes = [usage for usage in usages if usage.task.kind == "training"]
    if tapes:
        within = sum(usage.tape <= tape_limit(usage.task) for usage in tapes)
        lines.append(f"tapes as the design says, or smaller: {within} of {len(tapes)}")
    of_states = [usage for usage in tapes if 0 < usage.states_tape < usage.tape]
    if of_states:
        least = min(of_states, key=lambda usage: usage.states_share)
        lines.append(
            f'keep="states": tape and record of {least.states_share:.3f} of the whole tape and more ({least.task})'
        )
    lines += [f"{usage.task}: {', '.join(usage.broken)}" for usage in usages if usage.broken]
    return lines
