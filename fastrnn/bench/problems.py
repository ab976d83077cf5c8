"""What a task computes: its layer and numbers, and the calls of fastrnn that solve it.

This module imports neither contenders.py nor worker.py: engines of this process and fastrnn in a process of its own are
both made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn.bench.tasks import Task
from fastrnn.layers import LAYERS

__all__ = ["Problem", "Results", "Solution", "solve", "to_layer"]

Results = dict[str, NDArray]
# Of a final state, and of the gradients in an initial one: as many as a cell has states.
FINAL, INITIAL = ("h_n", "c_n", "n_n", "m_n"), ("grad h0", "grad c0", "grad n0", "grad m0")
# What is timed, and what collects the results of one such run.
Solution = tuple[Callable[[], Any], Callable[[], Results]]


@dataclass(frozen=True, slots=True)
class Problem:
    """A layer, its inputs, and the gradients of a loss in its outputs.

    If `state` is empty, the layer starts from zeros. If `dstate` is empty, the loss depends on y alone. `precision` is
    that of the frozen layer's weights; None: the layer's dtype. `options` are the layer's, as in `tasks.Task`.
    """

    layer: Any
    x: NDArray
    state: tuple[NDArray, ...]
    dy: NDArray
    dstate: tuple[NDArray, ...]
    precision: str | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def draw(cls, task: Task) -> Problem:
        """Draw a task's parameters and inputs from a fixed seed, so that they are the same each time."""
        rng = np.random.default_rng(0)
        T, B, I, H = task.sizes

        def normal(*shape: int) -> NDArray:
            return rng.standard_normal(shape).astype(task.dtype)

        def state() -> tuple[NDArray, ...]:
            return tuple(normal(*shape) for shape in layer.state_shapes(B))

        layer = LAYERS[task.cell](I, H, dtype=task.dtype, rng=rng, **dict(task.options))
        return cls(layer, normal(T, B, I), state(), normal(T, B, H), state(), task.precision, task.options)

    def at_rest(self) -> Problem:
        """Return the same problem with a state of zeros and a loss that depends on y alone."""
        return replace(self, state=(), dstate=())

    def in_float64(self) -> Problem:
        """Return the same problem with its numbers, and the frozen layer's weights, in float64."""

        def wide(arrays: tuple[NDArray, ...]) -> tuple[NDArray, ...]:
            return tuple(a.astype(np.float64) for a in arrays)

        sizes = self.layer.input_size, self.layer.hidden_size
        layer = type(self.layer)(*sizes, dtype=np.float64, **dict(self.options))
        layer.load_state_dict({name: value.astype(np.float64) for name, value in self.layer.params.items()})
        x, dy = wide((self.x, self.dy))
        return Problem(layer, x, wide(self.state), dy, wide(self.dstate), options=self.options)


def solve(kind: str, problem: Problem) -> Solution:
    """Prepare a problem for tasks of this kind (see `tasks.Task`)."""
    if kind == "training":
        return solve_training(problem)
    return solve_step(problem) if len(problem.x) == 1 else solve_inference(problem)


def solve_inference(problem: Problem) -> Solution:
    frozen = problem.layer.freeze(precision=problem.precision)
    x, state = problem.x, to_layer(problem.state)

    def call() -> Any:
        return frozen(x, state)

    def collect() -> Results:
        y, state_n = call()
        return {"y": y, **named(state_n, *FINAL)}

    return call, collect


def solve_step(problem: Problem) -> Solution:
    stream = problem.layer.freeze(precision=problem.precision).stream(problem.x.shape[1])
    x, out = problem.x[0], np.empty_like(problem.dy[0])

    def call() -> Any:
        return stream.step(x, out)

    def collect() -> Results:
        stream.state = to_layer(problem.state)
        return {"y": call()[None].copy(), **named(stream.state, *FINAL)}

    return call, collect


def solve_training(problem: Problem) -> Solution:
    layer, x, dy = problem.layer, problem.x, problem.dy
    state, dstate = to_layer(problem.state), to_layer(problem.dstate)

    def call() -> Any:
        y, state_n, tape = layer.forward(x, state)
        return y, state_n, layer.backward(tape, dy, dstate)

    def collect() -> Results:
        y, state_n, grads = call()
        params = {f"grad {name}": value for name, value in grads.params.items()}
        states = named(state_n, *FINAL) | named(grads.state, *INITIAL)
        return {"y": y, **states, "grad x": grads.x, **params}

    return call, collect


def to_layer(parts: tuple[NDArray, ...]) -> Any:
    """Return a state in the form that layers take: (h, c), (h, c, n, m), h, or None for zeros."""
    return parts if len(parts) > 1 else parts[0] if parts else None


def named(state: Any, *names: str) -> Results:
    return dict(zip(names, state if isinstance(state, tuple) else (state,), strict=False))
