"""Signals: Python's handlers run while a long call does, and end it if they raise."""

import os
import signal
from textwrap import indent

import pytest
from running import output_of

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers with signals here")

# `long_call(work)` runs work(size) for a size that takes long enough for several ticks of the timer. The handler counts
# them: without ours Python runs it once, after the call.
PREAMBLE = """
import os, signal, time, tracemalloc
import numpy as np
import fastrnn
from fastrnn import nn
from fastrnn._core import native

rng = np.random.default_rng(0)
ticks, on_tick = [], lambda: None

def handler(*_):
    ticks.append(time.perf_counter())
    on_tick()

def long_call(work):
    size = 200
    while True:
        call = work(size)
        begin = time.perf_counter()
        call()
        if (seconds := time.perf_counter() - begin) > 0.5:
            return call
        size = int(size * min(8.0, 1.0 / seconds)) + 1

def lstm(size, **options):
    layer = fastrnn.LSTM(16, 96, rng=0, **options)
    return layer, rng.standard_normal((size, 8, 16), np.float32)

def inference(size, **options):
    layer, x = lstm(size, **options)
    return lambda: layer(x)[0]

def backward(size, **options):
    layer, x = lstm(size, **options)
    y, _, tape = layer.forward(x)
    return lambda: layer.backward(tape, y).params["weight_hh_l0"]

def linear(size):
    layer, x = nn.Linear(256, 512, rng=0), rng.standard_normal((10 * size, 256), np.float32)
    return lambda: layer.forward(x)[0]

def linear_backward(size):
    layer, x = nn.Linear(256, 512, rng=0), rng.standard_normal((10 * size, 256), np.float32)
    y, tape = layer.forward(x)
    return lambda: layer.backward(tape, y).x

def cross_entropy(size):
    output, x = nn.Linear(64, 2000, rng=0), rng.standard_normal((size, 64), np.float32)
    loss, targets = nn.SoftmaxCrossEntropy(), np.zeros(size, np.int64)
    return lambda: loss.of_output(output, x, targets)

def sees_ticks(call, right=lambda result: True):
    start()
    assert right(call())
    stop()
    return len(ticks) >= 2

def some_time(attempt):
    # The machine's speed changes, so a call may be too short for what is to happen in it.
    for _ in range(10):
        if attempt():
            return
    raise AssertionError("it did not happen")

def same(a, b):
    # To the bit; with BLAS, whose sums depend on how many threads a call gets, within rounding.
    exact = fastrnn.engines.current().name == "packed"
    return np.array_equal(a, b) if exact else np.allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())

def start():
    ticks.clear()
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)

def stop():
    signal.setitimer(signal.ITIMER_REAL, 0)
"""


def child(code: str, engine: str = "packed", split: str = "None") -> None:
    """Run code after the preamble, with two threads that share work as `split` says."""
    begin = f"fastrnn.set_num_threads(2)\nnative.insist_on_teams({split})\nwith fastrnn.engines.use({engine!r}):\n"
    assert output_of(PREAMBLE + begin + indent(code, "    ")) == "done\n"


@pytest.mark.parametrize(("engine", "split"), [("packed", "'rows'"), ("packed", "'units'"), ("blas", "None")])
@pytest.mark.parametrize(("work", "options"), [("inference", ""), ("backward", ", bidirectional=True")])
def test_handlers_run_during_a_call_of_a_layer(work: str, options: str, engine: str, split: str) -> None:
    """They run several times, and may raise; the next call is whole again, and memory is given back."""
    code = f"""
call = long_call(lambda size: {work}(size{options}))
expected = call()
some_time(lambda: sees_ticks(call, lambda result: same(result, expected)))

def on_tick():
    stop()
    raise KeyboardInterrupt

tracemalloc.start()
begin = time.perf_counter()
try:
    start()
    call()
except KeyboardInterrupt:
    assert ticks[-1] > begin
else:
    raise AssertionError("not interrupted")
assert tracemalloc.get_traced_memory()[0] < 100_000
assert same(call(), expected)
print("done")
"""
    child(code, engine, split)


@pytest.mark.parametrize("work", ["linear", "linear_backward", "cross_entropy"])
def test_handlers_run_during_a_product(work: str) -> None:
    """The kit's long products, too."""
    code = f"""
call = long_call({work})
some_time(lambda: sees_ticks(call))

def on_tick():
    stop()
    raise KeyboardInterrupt

try:
    start()
    call()
except KeyboardInterrupt:
    print("done")
"""
    child(code)


@pytest.mark.parametrize("split", ["'rows'", "'units'"])
def test_a_handler_may_call_us(split: str) -> None:
    """A call inside a call; and the handler's own float flags are the caller's, not the call's."""
    code = """
call, small = long_call(inference), inference(3)
expected, expected_small = call(), small()
found, tiny = [], np.float32(1e-30)

def on_tick():
    found.append(same(small(), expected_small) and tiny * np.float32(1e-12) > 0)

def several_ticks():
    start()
    assert same(call(), expected)
    stop()
    assert all(found), found
    return len(found) >= 2

some_time(several_ticks)
print("done")
"""
    child(code, split=split)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
@pytest.mark.parametrize(("engine", "split"), [("packed", "'rows'"), ("packed", "'units'"), ("blas", "None")])
def test_a_handler_may_fork(engine: str, split: str) -> None:
    """The child's call cannot go on without its threads, and says so. Its next call can, and so can the parent's."""
    code = """
from running import ended

call, small = long_call(lambda size: backward(size, bidirectional=True)), inference(3)
expected, expected_small = call(), small()
children = []

def on_tick():
    if len(ticks) == 2:  # the first may come before C runs
        stop()  # or else the next tick may come while this one forks
        children.append(os.fork())

def child_in_a_call():
    children.clear()
    start()
    try:
        whole = same(call(), expected)
    except RuntimeError as error:
        os._exit(7 if "forked" in str(error) and same(small(), expected_small) else 1)
    stop()
    assert whole
    if not children:
        return False
    if children[0] == 0:  # born after the call
        os._exit(0)
    status = os.waitstatus_to_exitcode(ended(children[0]))
    assert status in (0, 7), status
    return status == 7

some_time(child_in_a_call)
print("done")
"""
    child(code, engine, split)
