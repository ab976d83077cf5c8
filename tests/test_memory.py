"""Memory: nothing grows with the number of calls, and inference needs little beside its inputs and outputs."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

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


# In the place of glibc's functions, for the whole process.
COUNTING = """
#include <stdatomic.h>
#include <stddef.h>
#include <errno.h>
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
static atomic_long calls;
long allocations(void) { return calls; }
void *malloc(size_t size) { return calls++, __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return calls++, __libc_calloc(count, size); }
void *realloc(void *p, size_t size) { return calls++, __libc_realloc(p, size); }
void *memalign(size_t alignment, size_t size) { return calls++, __libc_memalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { return calls++, __libc_memalign(alignment, size); }
int posix_memalign(void **p, size_t alignment, size_t size) {
    calls++;
    return (*p = __libc_memalign(alignment, size)) ? 0 : ENOMEM;
}
"""

STEPS = """
import ctypes
from itertools import repeat
import numpy as np
import fastrnn
from generators import VARIANTS, build_layer

allocations = ctypes.CDLL(None).allocations
allocations.restype = ctypes.c_long

def count(times, out):
    steps, before = repeat(None, times), allocations()
    for _ in steps:
        stream.step(x, out)
    return allocations() - before

for variant in VARIANTS:
    for num_layers, batch_size in ((1, 1), (2, 5)):
        stream = build_layer(variant, 40, 83, num_layers=num_layers).freeze().stream(batch_size)
        x = np.ones((batch_size, 40), np.float32)
        out = np.empty((batch_size, stream.step(x).shape[1]), np.float32)
        count(3, out)
        idle = count(0, out)
        assert count(1000, None) >= 1000, "nothing is counted"
        print(variant, num_layers, batch_size, count(1000, out) - idle)
"""


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that counts what it allocates for whoever preloads it."""
    if shutil.which("cc") is None or platform.libc_ver()[0] != "glibc":
        pytest.skip("needs cc, and glibc's names of malloc")
    source = tmp_path_factory.mktemp("counting") / "counting.c"
    source.write_text(COUNTING)
    library = source.with_suffix(".so")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", source, "-o", library], check=True)
    return library


def test_a_step_with_out_allocates_nothing(compiled: str, counting: Path) -> None:
    """Not in Python, whose objects are counted here too, not in NumPy, not in C, not in BLAS."""
    environment = {"LD_PRELOAD": str(counting), "PYTHONMALLOC": "malloc", "FASTRNN_ENGINE": compiled}
    counts = [line.split() for line in output_of(STEPS, **environment).splitlines()]
    assert len(counts) > 10
    assert [line for line in counts if line[-1] != "0"] == []
