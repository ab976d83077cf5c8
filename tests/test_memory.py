"""Memory: nothing grows with the number of calls, and inference needs little beside its inputs and outputs."""

import sys

import pytest
from running import output_of

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc as Linux has it")

# Read from the kernel, so that what C allocates counts as well.
READ = """
def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))
"""

RANDOM_SHAPES = (
    READ
    + """
import gc
import numpy as np
import fastrnn

rng = np.random.default_rng(0)
layers = [
    fastrnn.RNN(9, 17, rng=0), fastrnn.LSTM(9, 33, num_layers=2, bidirectional=True, rng=0),
    fastrnn.LSTM(9, 20, proj_size=7, peephole=True, rng=0), fastrnn.GRU(9, 64, dropout=0.2, num_layers=2, rng=0),
    fastrnn.GRU(9, 31, reset_after=False, batch_first=True, rng=0),
]

def run(times):
    for _ in range(times):
        layer = layers[rng.integers(len(layers))]
        a, b = rng.integers(0, 14, 2)
        x = rng.standard_normal((a, b, 9)).astype(np.float32)
        lengths = rng.integers(0, (b if layer.batch_first else a) + 1, a if layer.batch_first else b)
        with fastrnn.num_threads(int(rng.integers(1, 3))):
            y, _, tape = layer.forward(x, lengths=lengths)
            layer.backward(tape, y)
            frozen = layer.freeze()
            frozen(x)
            if not layer.bidirectional:
                frozen.stream(4).step(np.zeros((4, 9), np.float32))
            try:
                layer(x, lengths=lengths + 100)
            except ValueError:
                pass
    gc.collect()
    return status("VmRSS")

warm = run(600)
print(run(2000) - warm)
"""
)


def test_nothing_grows_with_the_number_of_calls(engine: str) -> None:
    """2,000 runs of random shapes, forwards, backwards, frozen, streamed and failing.

    They work on some 100 KB each: were one in a hundred to lose its workspace, that would show.
    """
    grown = int(output_of(RANDOM_SHAPES, FASTRNN_ENGINE=engine))
    assert grown <= 1.5 * 2**20, f"{grown / 2**20:.1f} MiB more after 2,000 calls"


LONG_INFERENCE = (
    READ
    + """
import numpy as np
import fastrnn

layer = {layer}
T, B = {shape}
options = {{}}
if {masked}:
    options = dict(lengths=np.full(B, T - 1), resets=np.zeros((T, B), bool))
call = layer.freeze() if {frozen} else layer
warm = np.ones((50, B, layer.input_size), np.float32)
fastrnn.set_num_threads(2)
call(warm)                                       # code, threads and BLAS's own buffers come once
x = np.ones((T, B, layer.input_size), np.float32)
before = status("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")                              # the peak starts from here
y, state = call(x, **options)
print(status("VmHWM") - before - y.nbytes)
"""
)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ("fastrnn.LSTM(8, 64, rng=0)", (10_000, 4)),
        ("fastrnn.GRU(8, 64, rng=0)", (10_000, 4)),
        ("fastrnn.GRU(8, 64, reset_after=False, rng=0)", (10_000, 4)),
        ("fastrnn.LSTM(8, 64, num_layers=2, rng=0)", (10_000, 4)),
        ("fastrnn.GRU(8, 64, num_layers=3, rng=0)", (10_000, 4)),
        ("fastrnn.LSTM(8, 64, bidirectional=True, rng=0)", (10_000, 4)),
        ("fastrnn.LSTM(8, 16, rng=0)", (100_000, 1)),
        ("fastrnn.LSTM(8, 16, num_layers=2, rng=0)", (60, 4000)),
        ("fastrnn.GRU(8, 1, rng=0)", (100, 2000)),  # far fewer units than a vector has
    ],
)
def test_inference_needs_at_most_8_mib_of_scratch(
    compiled: str, layer: str, shape: tuple[int, int], masked: bool, frozen: bool
) -> None:
    """Beyond inputs, outputs and weights, however long the sequences: gates of all steps would take 25 MB and more.

    What lengths and resets are turned into, 8 bytes a row and 1 a step and row, counts as scratch too.
    """
    code = LONG_INFERENCE.format(layer=layer, shape=shape, masked=masked, frozen=frozen)
    scratch = int(output_of(code, FASTRNN_ENGINE=compiled))
    assert scratch <= 8 * 2**20, f"{scratch / 2**20:.1f} MiB"
