"""A tick of a service with many slow streams: some of them advance by one step. Run: python benchmarks/many_streams.py

Four ways of it take turns, with the weights and inputs of one LSTM:

- one call: `stream.step(x, out, rows)` of a stream with a row for each of them;
- single streams: `step(x, out)` of those that advance, one after the other;
- ONNX Runtime: `InferenceSession.run` for each that advances, with its state as inputs and outputs;
- the same batched by hand: states are gathered in NumPy, one `run` for all, and scattered again.

All results of a first tick are compared before anything is timed. The table has the time of the one call, and the times
of the others divided by it: each ratio is taken within a round, and the table has the median over the rounds. In each
tick other streams advance, in any order. With one thread, time is the CPU's, to which the work of others adds nothing;
with more, it is the clock's. onnx and onnxruntime are needed.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
import numpy as np

import fastrnn
from fastrnn.bench.worker import median_seconds, wait_until_idle

STREAMS = 1000
COUNTS = (1, 10, 100, 1000)
TICKS = 20  # that are prepared; then the first one comes again
NAMES = ("one call", "single streams", "ONNX Runtime", "batched by hand")


class Tick(NamedTuple):
    """What advances in a tick: the numbers of n streams, and their inputs; as arrays and one by one."""

    rows: np.ndarray  # (n,)
    x: np.ndarray  # (n, I)
    one_by_one: list[tuple[int, int, np.ndarray]]  # place in the tick, number of the stream, x (1, I)


Way = Callable[[Tick], np.ndarray]
"""A way of making a tick; it returns y (n, H)."""


def model_of(layer: fastrnn.LSTM) -> Any:
    """Return the layer as an ONNX model from X, h and c to Y, h and c."""
    import onnx
    from onnx import TensorProto, helper

    (tensors,) = fastrnn.weights.to_onnx(layer)
    sizes = {"X": (1, "B", layer.input_size), "h": (1, "B", layer.hidden_size), "c": (1, "B", layer.hidden_size)}
    sizes |= {"Y": (1, 1, "B", layer.hidden_size), "h_n": sizes["h"], "c_n": sizes["c"]}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in sizes.items()}
    inputs, outputs = ["X", "h", "c"], ["Y", "h_n", "c_n"]
    node = helper.make_node("LSTM", ["X", "W", "R", "B", "", "h", "c"], outputs, hidden_size=layer.hidden_size)
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph([node], "g", [values[i] for i in inputs], [values[o] for o in outputs], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def session_of(layer: fastrnn.LSTM, precision: str, threads: int) -> Any:
    """Return ONNX Runtime's session for the layer; with int8 weights as its own tool makes them."""
    import onnx
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model_of(layer), path)
        if precision == "int8":
            quantize_dynamic(path, path, per_channel=True)
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def ways(layer: fastrnn.LSTM, precision: str, threads: int) -> dict[str, Way]:
    """Return a function for each of `NAMES`; all start from zeros."""
    frozen, session = layer.freeze(precision=precision), session_of(layer, precision, threads)
    stream, singles = frozen.stream(STREAMS), [frozen.stream() for _ in range(STREAMS)]
    H = layer.hidden_size
    y = np.empty((STREAMS, H), np.float32)
    slots = [y[k : k + 1] for k in range(STREAMS)]
    states = [tuple(np.zeros((2, 1, 1, H), np.float32)) for _ in range(STREAMS)]
    outputs: list[Any] = [None] * STREAMS
    h, c = np.zeros((2, 1, STREAMS, H), np.float32)

    def one_call(tick: Tick) -> np.ndarray:
        return stream.step(tick.x, y[: len(tick.x)], rows=tick.rows)

    def single_streams(tick: Tick) -> np.ndarray:
        for k, row, x in tick.one_by_one:
            singles[row].step(x, slots[k])
        return y[: len(tick.x)]

    def onnx_runtime(tick: Tick) -> np.ndarray:
        for k, row, x in tick.one_by_one:
            h_k, c_k = states[row]
            outputs[k], h_k, c_k = session.run(None, {"X": x[None], "h": h_k, "c": c_k})
            states[row] = h_k, c_k
        return np.concatenate(outputs[: len(tick.x)])[:, 0, 0]

    def batched(tick: Tick) -> np.ndarray:
        rows = tick.rows
        y_n, h[:, rows], c[:, rows] = session.run(None, {"X": tick.x[None], "h": h[:, rows], "c": c[:, rows]})
        return y_n[0, 0]

    return dict(zip(NAMES, (one_call, single_streams, onnx_runtime, batched), strict=True))


def ticks_of(count: int, I: int) -> list[Tick]:
    """Return ticks in which `count` streams advance."""
    rng, ticks = np.random.default_rng(count), []
    for _ in range(TICKS):
        rows, x = rng.permutation(STREAMS)[:count], rng.standard_normal((count, I), np.float32)
        ticks.append(Tick(rows, x, [(k, row, x[k : k + 1]) for k, row in enumerate(rows.tolist())]))
    return ticks


def next_tick(way: Way, ticks: Iterator[Tick]) -> None:
    way(next(ticks))


def verify(given: dict[str, Way], tick: Tick, precision: str) -> None:
    """Fail unless all ways give the same outputs: ours the same bits, ONNX Runtime's within rounding."""
    expected = given["one call"](tick).copy()
    for name, way in given.items():
        if name == "one call":
            continue
        error = np.abs(way(tick) - expected).max()
        if not error <= (0 if name == "single streams" else 1e-5 if precision == "float32" else 0.02):
            raise SystemExit(f"{name}: outputs differ by {error:.1e}")


@click.command(help=__doc__)
@click.option("--hidden", default="64,128,256", show_default=True, help="Sizes H; the input size is H, too.")
@click.option("--precisions", default="float32", show_default=True, help="float32, int8 or both.")
@click.option("--threads", default="1,2", show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--seconds", default=0.05, show_default=True, help="For each measurement.")
def main(hidden: str, precisions: str, threads: str, rounds: int, seconds: float) -> None:
    columns = " ".join(f"{name:>15}" for name in NAMES[1:])
    click.echo(f"{'precision':9} {'H':>4} threads {'streams':>7} {NAMES[0]:>11} {columns}")
    for precision, H, number in itertools.product(precisions.split(","), hidden.split(","), threads.split(",")):
        layer = fastrnn.LSTM(int(H), int(H), rng=0)
        clock = time.process_time if number == "1" else time.perf_counter
        with fastrnn.num_threads(int(number)):
            given = ways(layer, precision, int(number))
            verify(given, ticks_of(100, int(H))[0], precision)
            for count in COUNTS:
                ticks: Iterator[Tick] = itertools.cycle(ticks_of(count, int(H)))
                times: dict[str, list[float]] = {name: [] for name in NAMES}
                for _ in range(rounds):
                    for name, way in given.items():
                        wait_until_idle()
                        times[name].append(median_seconds(partial(next_tick, way, ticks), seconds, clock))
                base = times[NAMES[0]]
                ratios = [median(a / b for a, b in zip(times[name], base, strict=True)) for name in NAMES[1:]]
                click.echo(
                    f"{precision:9} {H:>4} {number:>7} {count:>7} {median(base) * 1e6:8.1f} us "
                    + " ".join(f"{ratio:15.2f}" for ratio in ratios)
                )


if __name__ == "__main__":
    main()
