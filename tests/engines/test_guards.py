"""No read or write goes beyond an array: they end or begin at pages that nobody may touch, and inputs are read-only.

Sanitizers (.ci/sanitize) do not see all of this: masked loads and stores are not instrumented.
"""

import signal
import sys
from textwrap import dedent

import instruction_sets
import pytest
from running import output_of, run_python

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="maps pages as Linux does")

TOUCH = """
    import numpy as np
    from guards import guarded
    from numpy.lib.stride_tricks import as_strided

    a = guarded(np.ones(1000, np.float32), {place!r}, writeable={writeable})
    assert a.sum() == 1000
    print("reading", flush=True)
    wider = as_strided(a{first}, (1001,), (4,))
    {touch}
"""


@pytest.mark.parametrize(
    ("place", "first", "touch"),
    [
        ("end", "", "print(wider[1000])"),
        ("end", "", "wider[1000] = 0"),
        ("start", "[:1]", "print(as_strided(wider, (2,), (-4,))[1])"),
    ],
)
def test_the_guards_are_there(place: str, first: str, touch: str) -> None:
    done = run_python(TOUCH.format(place=place, first=first, touch=touch, writeable=True))
    assert done.stdout == "reading\n", done.stderr
    assert done.returncode in (-signal.SIGSEGV, -signal.SIGBUS)


def test_inputs_cannot_be_written() -> None:
    done = run_python(TOUCH.format(place="end", first="", touch="wider[5] = 0", writeable=False))
    assert done.returncode in (-signal.SIGSEGV, -signal.SIGBUS)


PRODUCTS = """
    import itertools
    import numpy as np
    from fastrnn._core import native
    from guards import PLACES, guarded
    from tolerances import assert_close

    def room(rows, columns, dtype):
        return np.zeros((-(-columns // lanes), rows, lanes), dtype)

    def packed(r, transposed=False):
        result = guarded(room(*r.shape, r.dtype), place, writeable=True)
        native.pack(guarded(r.T if transposed else r, place), transposed, result)
        return guarded(result, place)

    rng = np.random.default_rng(0)
    native.isa_select({isa!r})
    K = 37
    for place, dtype in itertools.product(PLACES, (np.float32, np.float64)):
        lanes = native.lanes(np.dtype(dtype).itemsize)
        for rows, columns in itertools.product((1, 2, 5, 6, 7, 8, 9, 13), (1, 2, 3, 7, 15, 17, 31, 40, 63, 83, 130)):
            a, r = (rng.standard_normal(shape).astype(dtype) for shape in ((rows, K), (K, columns)))
            for beta, descending, transposed in itertools.product((False, True), repeat=3):
                c = guarded(np.ones((rows, columns), dtype), place, writeable=True)
                native.multiply(guarded(a, place), packed(r, transposed), K, beta, c, descending)
                assert_close(c, beta + a.astype(np.float64) @ r)
            c = guarded(np.ones((rows, columns), dtype), place, writeable=True)
            native.multiply(packed(a), packed(r), K, True, c, False)
            assert_close(c, 1 + a.astype(np.float64) @ r)
            c = guarded(np.ones((rows, columns), dtype), place, writeable=True)
            native.add_gradient(packed(np.ascontiguousarray(a.T)), packed(r), K, c)
            assert_close(c, 1 + a.astype(np.float64) @ r)
        for n in range(1, 40):
            r = rng.standard_normal((K, n)).astype(dtype)
            total = guarded(np.ones(n, dtype), place, writeable=True)
            native.add_columns(packed(r), K, total)
            assert_close(total, 1 + r.sum(axis=0, dtype=np.float64))
            by_rows = guarded(room(K, n, dtype), place, writeable=True)
            for k in range(K):
                native.pack_row(guarded(r[k], place), by_rows, k)
            np.testing.assert_array_equal(by_rows, packed(r))
            x, y = guarded(r[0], place), guarded(r[0], place, writeable=True)
            native.activation("tanh", x, y)
            assert_close(y, np.tanh(x.astype(np.float64)))
            native.activation("sigmoid", x, y)
            assert_close(y, 1 / (1 + np.exp(-x.astype(np.float64))))
    print("fine")
"""


@pytest.mark.parametrize("isa", instruction_sets.DISTINCT)
def test_products_and_activations(isa: str) -> None:
    assert output_of(PRODUCTS.format(isa=isa), PYTHONFAULTHANDLER="1") == "fine\n"


LAYERS = """
    import itertools
    import numpy as np
    import fastrnn
    from generators import VARIANTS, build_layer, random_call
    from guards import PLACES, guarded, guarded_results
    from oracle import infer, oracle, train
    from tolerances import assert_close, assert_results_close

    SIZES = [(1, 1, 1), (3, 7, 2), (7, 17, 7), (2, 15, 13), (17, 83, 1), (83, 33, 9)]  # I, H, B
    for variant, (k, (I, H, B)), place in itertools.product(VARIANTS, enumerate(SIZES), PLACES):
        dtype = (np.float32, np.float64)[k % 2]
        masked = k % 3 == 1
        layer = build_layer(variant, I, H, dtype=dtype, bidirectional=k % 4 == 3)
        call = random_call(layer, 5, B, np.random.default_rng(k), lengths=masked, resets=masked)
        if variant == "rnn-relu":  # rounding may decide a gradient at the kink
            call.dstate = call.dy = None
        expected = oracle(layer, call)
        layer.params = {name: guarded(value, place) for name, value in layer.params.items()}
        call = call.map(lambda a: guarded(a, place))
        with guarded_results(place):
            actual = train(layer, call)
            assert_results_close(actual, expected)
            inferred = infer(layer, call)
            assert_results_close(inferred, {name: expected[name] for name in inferred})
            if masked or layer.bidirectional:
                continue
            stream = layer.freeze().stream(B)
            stream.state = call.state
            for x, y in zip(call.x, expected["y"]):
                assert_close(stream.step(guarded(x, place)), y)
            rows = np.arange(B)[::-2].astype(np.int64)
            stream.state = call.state
            some = stream.step(guarded(call.x[0, rows], place), rows=guarded(rows, place))
            assert_close(some, expected["y"][0, rows])
    print("fine")
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", instruction_sets.DISTINCT)
def test_layers(compiled: str, isa: str, threads: int) -> None:
    """Parameters, arguments, results, gradients, tapes and states of layers and streams, alone and in teams."""
    prelude = "from fastrnn._core import native; native.insist_on_teams('units')\n" if threads > 1 else ""
    code = prelude + dedent(LAYERS)
    environment = {"FASTRNN_ISA": isa, "FASTRNN_ENGINE": compiled, "FASTRNN_NUM_THREADS": str(threads)}
    assert output_of(code, PYTHONFAULTHANDLER="1", **environment) == "fine\n"


NARROW_LINEAR = """
    import itertools
    import numpy as np
    from fastrnn import engines, nn
    from guards import PLACES, guarded, guarded_results

    for (I, O, N), place in itertools.product([(1, 1, 1), (7, 17, 3), (67, 131, 9)], PLACES):
        layer, x = nn.Linear(I, O, rng=0), np.random.default_rng(0).standard_normal((N, I), np.float32)
        for precision in ("bfloat16", "int8"):
            params = layer.freeze(precision).params
            arrays = {name: guarded(value, place) for name, value in params.items()}
            frozen = nn.FrozenLinear.from_arrays(arrays, precision)
            with guarded_results(place):
                y = frozen(guarded(x, place))
            with engines.use("reference"):
                np.testing.assert_allclose(y, layer.freeze(precision)(x), atol=0 if precision == "int8" else 0.05)
    print("fine")
"""


@pytest.mark.parametrize("isa", instruction_sets.ALL)
def test_linear_layers_of_fewer_bits(isa: str) -> None:
    assert output_of(NARROW_LINEAR, PYTHONFAULTHANDLER="1", FASTRNN_ISA=isa, FASTRNN_NUM_THREADS="2") == "fine\n"
