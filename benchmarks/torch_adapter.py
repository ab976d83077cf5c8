"""fastrnn.torch against torch.nn: forward and backward of the same layer through PyTorch, measured in turn.

    python benchmarks/torch_adapter.py                    # all cases, some minutes
    python benchmarks/torch_adapter.py --quick            # one case for each claim
    python benchmarks/torch_adapter.py --only packed --cells GRU

Both run in each round, in an order that alternates from round to round. "x" is PyTorch's time divided by fastrnn's in
the same round, as the median over the rounds. Before a case is timed, the gradients of both are compared. A case whose
x is below its floor, the factor that is promised, is marked as a loss and named again at the end.

"packed" runs on a PackedSequence. "padded" also times how PyTorch's own function makes the PackedSequence from padded
sequences, for both. "frame" and "short" are inference: single frames, and a few steps. The last table shows the cost of
the adapter itself: a call whose engine does nothing.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastrnn
import fastrnn.torch

SIZES = {
    "b32h128": (50, 32, 128, 128),
    "b64h256": (50, 64, 256, 256),
    "b256h64": (100, 256, 64, 64),
    "b20h650": (35, 20, 650, 650),
}
ONE_SIZES = {"b1h64": (200, 1, 64, 64), "b1h128": (200, 1, 128, 128), "b1h256": (200, 1, 256, 256)}
FRAME_SIZES = {f"h{H}": (1, 1, H, H) for H in (16, 64, 256, 1024)}
SHORT_SIZES = {"t5b1h64": (5, 1, 64, 64), "t2b4h256": (2, 4, 256, 256), "t8b4h512": (8, 4, 512, 512)}
CELLS = ("LSTM", "GRU", "RNN")
FLOORS = {"dense": {"LSTM": 1.15, "GRU": 2.0, "RNN": 1.3}, "packed": 3.0, "padded": 3.0, "float64": 2.0, "one": 2.0}
FLOORS |= {"frame": 1.0, "short": 1.0}


def floor(kind: str, cell: str) -> float:
    """Return how many times as fast as PyTorch the adapter is promised to be."""
    found = FLOORS[kind]
    return found[cell] if isinstance(found, dict) else found


def build(cell: str, kind: str, sizes: tuple[int, int, int, int]) -> tuple[torch.nn.Module, Any, torch.Tensor]:
    """Return PyTorch's layer, its input and the gradient of its output."""
    T, B, I, H = sizes
    torch.manual_seed(0)
    dtype = torch.float64 if kind == "float64" else torch.float32
    layer = getattr(torch.nn, cell)(I, H, dtype=dtype)
    x = torch.randn(T, B, I, dtype=dtype, requires_grad=True)
    if kind not in ("packed", "padded"):
        return layer, x, torch.randn(T, B, H, dtype=dtype)
    lengths = torch.randint(1, T + 1, (B,))
    lengths[0] = T
    dy = torch.randn(int(lengths.sum()), H, dtype=dtype)
    if kind == "padded":
        return layer, (x, lengths), dy
    packed = pack_padded_sequence(x.detach(), lengths, enforce_sorted=False)
    packed.data.requires_grad_()
    return layer, packed, dy


def train(layer: torch.nn.Module, x: Any, dy: torch.Tensor) -> list[torch.Tensor]:
    """Run forward and backward once; return the leaf tensors, which then hold the gradients of this run."""
    leaf = x.data if isinstance(x, PackedSequence) else x[0] if type(x) is tuple else x
    leaves = [leaf, *layer.parameters()]
    for leaf in leaves:
        leaf.grad = None
    if type(x) is tuple:
        x = pack_padded_sequence(*x, enforce_sorted=False)
    y = layer(x)[0]
    y = y.data if isinstance(y, PackedSequence) else y
    torch.autograd.backward(y, dy)
    return leaves


def infer(layer: torch.nn.Module, x: torch.Tensor, dy: torch.Tensor) -> None:
    """Run forward once, without a graph."""
    with torch.no_grad():
        layer(x)


def gradients(layer: torch.nn.Module, x: Any, dy: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradients of a run."""
    return [leaf.grad for leaf in train(layer, x, dy)]


def verify(own: torch.nn.Module, fast: torch.nn.Module, x: Any, dy: torch.Tensor) -> None:
    """Fail unless both give the same gradients."""
    for expected, actual in zip(gradients(own, x, dy), gradients(fast, x, dy), strict=True):
        scale = max(1.0, float(expected.abs().max()))
        error = float((expected - actual).abs().max()) / scale
        if not error <= (1e-10 if expected.dtype == torch.float64 else 1e-4):
            raise SystemExit(f"gradients differ by {error:.1e}")


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Return the mean time of a run, after one that is not counted.

    After that one the caches are warm and the other library's threads are asleep.
    """
    run()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def compare(own: Callable[[], Any], fast: Callable[[], Any], rounds: int) -> tuple[float, float, list[float]]:
    """Return the median times of both, and the ratio of each round."""
    repeats = max(1, int(0.05 / max(seconds(own, 1), 1e-6)))
    times: dict[Callable[[], Any], list[float]] = {own: [], fast: []}
    for k in range(rounds):
        for run in (own, fast) if k % 2 == 0 else (fast, own):
            times[run].append(seconds(run, repeats))
    ratios = [a / b for a, b in zip(times[own], times[fast], strict=True)]
    return statistics.median(times[own]), statistics.median(times[fast]), ratios


def speed(kinds: list[str], cells: list[str], quick: bool, rounds: int) -> None:
    """Print the table of all cases, and the losses."""
    losses = []
    print(f"{'case':<26}{'torch ms':>10}{'fastrnn ms':>12}{'x':>8}{'least':>8}{'floor':>8}")
    for kind in kinds:
        sizes = {"one": ONE_SIZES, "frame": FRAME_SIZES, "short": SHORT_SIZES}.get(kind, SIZES)
        work = infer if kind in ("frame", "short") else train
        for cell in cells:
            for name in list(sizes)[: 1 if quick else None]:
                layer, x, dy = build(cell, kind, sizes[name])
                fast = fastrnn.torch.accelerate(copy.deepcopy(layer))
                verify(layer, fast, x, dy)
                own_s, fast_s, ratios = compare(partial(work, layer, x, dy), partial(work, fast, x, dy), rounds)
                ratio, least = statistics.median(ratios), floor(kind, cell)
                case = f"{kind} {cell} {name}"
                losses += [f"{case} ({ratio:.2f} of {least})"] if ratio < least else []
                print(
                    f"{case:<26}{own_s * 1e3:>10.2f}{fast_s * 1e3:>12.2f}{ratio:>8.2f}{min(ratios):>8.2f}{least:>8}"
                    + ("  loss" if ratio < least else ""),
                    flush=True,
                )
    print("losses: " + (", ".join(losses) or "none"))


# ---- The adapter's own cost ---------------------------------------------------------------------------------------


class Nothing:
    """An engine that computes nothing, so that only the adapter and PyTorch take time."""

    name = "nothing"
    operations = None

    def prepare(self, *_: Any, **__: Any) -> None: ...

    forward = backward = stepper = prepare


class Node(torch.autograd.Function):
    """The least that PyTorch needs for an autograd node with these inputs and outputs."""

    @staticmethod
    def forward(ctx: Any, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return RESULTS

    @staticmethod
    def backward(ctx: Any, *dresults: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return ctx.saved_tensors


RESULTS: tuple[torch.Tensor, ...] = ()


def microseconds(run: Callable[[], Any], n: int = 2000) -> float:
    """Return the time of a run in microseconds of this thread's processor time: the median of 20 means."""
    run()
    parts = []
    for _ in range(20):
        start = time.thread_time()
        for _ in range(n // 20):
            run()
        parts.append((time.thread_time() - start) / (n // 20))
    return statistics.median(parts) * 1e6


def cost_of(cell: str) -> tuple[float, ...]:
    """Return microseconds of an inference, a forward and a backward; then of an empty node's forward and backward."""
    layer, x, dy = getattr(fastrnn.torch, cell)(1, 1), torch.randn(4, 1, 1), torch.ones(4, 1, 1)
    tensors = [x, *layer.parameters()]

    def forward() -> torch.Tensor:
        return layer(x)[0]

    def node() -> torch.Tensor:
        global RESULTS
        RESULTS = (dy.clone(), dy.clone())
        return Node.apply(*tensors)[0]

    def both(forward: Callable[[], torch.Tensor]) -> None:
        torch.autograd.backward(forward(), dy)
        for t in tensors:
            t.grad = None

    with torch.no_grad():
        inference = microseconds(forward)
    forwards = [microseconds(run) for run in (forward, node)]
    backwards = [microseconds(lambda run=run: both(run)) for run in (forward, node)]
    return inference, forwards[0], backwards[0] - forwards[0], forwards[1], backwards[1] - forwards[1]


def cost(cells: list[str]) -> None:
    """Print what a call costs whose engine does nothing, and which part of it PyTorch needs for any node."""
    fastrnn.engines._ENGINES["nothing"] = Nothing()  # type: ignore[assignment]
    print("\nthe adapter's own cost, us a call: an engine that does nothing, T, B, I, H = 4, 1, 1, 1")
    print(f"{'':<8}{'inference':>10}{'forward':>10}{'backward':>10}   of which an empty node's")
    with fastrnn.engines.use("nothing"):
        for cell in cells:
            inference, forward, backward, *node = cost_of(cell)
            print(f"{cell:<8}{inference:>10.1f}{forward:>10.1f}{backward:>10.1f}   {node[0]:.1f} and {node[1]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(FLOORS), help="one claim")
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"PyTorch {torch.__version__}, fastrnn {fastrnn.__version__}, {options.threads} threads\n")
    cells = options.cells.split(",")
    speed([options.only] if options.only else list(FLOORS), cells, options.quick, options.rounds)
    cost(cells)


if __name__ == "__main__":
    main()
