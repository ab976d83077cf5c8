"""Memory: nothing grows with the number of calls, and inference needs little beside its inputs and outputs."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from running import output_of, run_python

import fastrnn
from fastrnn._core import native

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

warm = run(3000)  # until malloc has settled
print(run(2000) - warm)
"""
)


def test_nothing_grows_with_the_number_of_calls(compiled: str) -> None:
    """2,000 runs of random shapes, forwards, backwards, frozen, streamed and failing.

    They work on some 100 KB each: were one in a hundred to lose its workspace, that would show.
    """
    grown = int(output_of(RANDOM_SHAPES, FASTRNN_ENGINE=compiled))
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


@pytest.mark.parametrize(
    ("layer", "shape", "masked", "frozen"),  # the last two depend on neither
    [
        ("fastrnn.LSTM(8, 64, rng=0)", (10_000, 4), False, False),
        ("fastrnn.LSTM(8, 64, rng=0)", (10_000, 4), True, True),
        ("fastrnn.GRU(8, 64, rng=0)", (10_000, 4), False, True),
        ("fastrnn.GRU(8, 64, reset_after=False, rng=0)", (10_000, 4), True, False),
        ("fastrnn.LSTM(8, 64, num_layers=2, rng=0)", (10_000, 4), True, True),
        ("fastrnn.GRU(8, 64, num_layers=3, rng=0)", (10_000, 4), False, False),
        ("fastrnn.LSTM(8, 64, bidirectional=True, rng=0)", (10_000, 4), False, False),
        ("fastrnn.LSTM(8, 64, bidirectional=True, rng=0)", (10_000, 4), True, True),
        ("fastrnn.LSTM(8, 16, rng=0)", (100_000, 1), True, True),
        ("fastrnn.LSTM(8, 16, num_layers=2, rng=0)", (60, 4000), True, False),
        ("fastrnn.GRU(8, 1, rng=0)", (100, 2000), False, True),  # far fewer units than a vector has
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


class TestKept:
    """Memory of a finished call serves the next: tapes, outputs, workspaces."""

    def test_one_array_at_a_time_has_it(self) -> None:
        shape = (64, 1024)
        a, b = native.empty(shape, np.dtype(np.float32)), native.empty(shape, np.dtype(np.float32))
        a.fill(1)
        b.fill(2)
        view = a[3:, ::2]
        freed = b.ctypes.data
        del a, b
        c, d = native.empty(shape, np.dtype(np.float32)), native.empty(shape, np.dtype(np.float32))
        assert freed in (c.ctypes.data, d.ctypes.data)
        c.fill(3)
        d.fill(4)
        assert (view == 1).all()  # a view keeps its memory

    @pytest.mark.parametrize("shape", [(), (0, 3), (2, 3), (64, 1024)])
    def test_zeros_are_zeros_in_it(self, shape: tuple[int, ...]) -> None:
        native.empty(shape, np.dtype(np.float32)).fill(7)  # and gone
        found = native.zeros(shape, np.dtype(np.float32))
        assert found.shape == shape
        assert not found.any()

    def test_too_many_axes_and_sizes_that_are_none_are_errors(self) -> None:
        for make in (native.empty, native.zeros):
            with pytest.raises(ValueError, match="shape: expected at most 4 axes, got 5"):
                make((1,) * 5, np.dtype(np.float32))
            with pytest.raises(ValueError, match="negative dimensions"):
                make((-1, 3), np.dtype(np.float32))

    def test_results_stay_as_they_are_while_later_calls_run(self) -> None:
        layer = fastrnn.LSTM(64, 64, rng=0)
        x = np.random.default_rng(0).standard_normal((100, 16, 64), np.float32)
        y, _, tape = layer.forward(x)
        grads = layer.backward(tape, y)
        before = y.copy(), grads.x.copy(), tape.gates()["i"].copy()
        for _ in range(3):
            other, _, second = layer.forward(-x)
            layer.backward(second, other)
        for now, then in zip((y, grads.x, tape.gates()["i"]), before, strict=True):
            np.testing.assert_array_equal(now, then)

    def test_it_is_limited(self) -> None:
        code = READ + (
            "import numpy as np\nfrom fastrnn._core import native\nimport fastrnn\n"
            "def use():\n"
            "    arrays = [native.empty((1 << 20,), np.dtype(np.float32)) for _ in range(40)]\n"
            "    for a in arrays: a.fill(1)\n"
            "use(); before = status('VmRSS'); use(); print(status('VmRSS'))\n"
        )
        kept = {limit: int(output_of(code, FASTRNN_KEEP_MIB=limit)) for limit in ("0", "16", "64")}
        assert kept["16"] - kept["0"] <= 20 * 2**20
        assert 40 * 2**20 <= kept["64"] - kept["0"] <= 70 * 2**20

    def test_a_limit_that_is_no_number_is_an_error(self) -> None:
        assert "FASTRNN_KEEP_MIB: expected a number" in run_python("import fastrnn", FASTRNN_KEEP_MIB="much").stderr


def test_a_view_keeps_the_owner_of_its_memory_and_has_its_strides() -> None:
    owner = np.arange(24.0).reshape(2, 3, 4)
    expected = owner.copy()
    views = [
        (native.view(owner.ctypes.data, owner.shape, None, owner.dtype, owner), expected),
        (native.view(owner.ctypes.data, (4, 3), (1, 4), owner.dtype, owner), expected[0].T),
    ]
    del owner
    for view, values in views:
        np.testing.assert_array_equal(view, values)
        assert not view.flags.owndata
        assert view.flags.c_contiguous == values.flags.c_contiguous
    views[0][0][0, 0, 1] = -1
    assert views[1][0][1, 0] == -1
    with pytest.raises(ValueError, match="shape: expected at most 4 axes, got 5"):
        native.view(0, (1,) * 5, None, np.dtype(np.float32), None)


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
        stream.step(x, out, rows)
    return allocations() - before

for variant in VARIANTS:
    for num_layers, batch_size, rows in ((1, 1, None), (2, 5, None), (2, 9, np.array([7, 2, 3]))):
        stream = build_layer(variant, 40, 83, num_layers=num_layers).freeze().stream(batch_size)
        x = np.ones((batch_size if rows is None else len(rows), 40), np.float32)
        out = np.empty_like(stream.step(x, rows=rows))
        count(3, out)
        idle = count(0, out)
        assert count(1000, None) >= 1000, "nothing is counted"
        print(variant, num_layers, batch_size, rows is None, count(1000, out) - idle)
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
