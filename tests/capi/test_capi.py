"""The C interface: a package of somebody else's (package/), built by pip, gives what Python gives, to the bit."""

import gc
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from generators import VARIANTS, build_layer
from numpy.typing import NDArray
from running import output_of

import fastrnn

pytest.importorskip("Cython", reason="building the package needs Cython")
pytest.importorskip("setuptools", reason="building the package needs setuptools")
pytest.importorskip("pip", reason="building the package needs pip")

FLAGS = {"CFLAGS": "-O0 -Wall -Wextra", "CXXFLAGS": "-O0 -Wall -Wextra"} if sys.platform != "win32" else {}


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package is installed in; one for all processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    target, done = base / "capi", base / "capi-done"
    try:
        target.mkdir()
    except FileExistsError:  # another process builds it
        for _ in range(1200):
            if done.exists():
                return target
            time.sleep(0.1)
        pytest.fail("the package was not built in time")
    source = shutil.copytree(Path(__file__).parent / "package", base / "capi-source")
    paths = [str(Path(fastrnn.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    build = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "-q"]
    run = subprocess.run(
        [*build, "--target", str(target), str(source)],
        env=os.environ | FLAGS | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    done.touch()
    assert run.returncode == 0, run.stdout + run.stderr
    return target


@pytest.fixture
def c(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module in C, which has a function for each one of the interface."""
    monkeypatch.syspath_prepend(str(installed))
    from capi_user import from_c

    return from_c


# ---- Runs ------------------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    y: NDArray
    h: NDArray
    c: NDArray | None


def arguments(layer: Any, handle: Any, x: NDArray, /, **changes: Any) -> dict[str, Any]:
    """The arguments of from_c.layer_run for x (T, B, I), and new arrays for its results."""
    T, B, I = x.shape
    LD, _, O = layer.state_shapes(B)[0]
    widths = [O, layer.cell.has_c * layer.hidden_size][: 1 + (layer.cell.has_c > 0)]
    states = [np.full((LD, B, width), np.nan, layer.dtype) for width in widths] + [None]
    return {
        "layer": handle, "dtype": int(layer.dtype == np.float64), "threads": 0, "T": T, "B": B, "input_size": I,
        "output_size": layer.output_size, "x": x, "x_step": 0, "x_row": 0,
        "y": np.full((T, B, layer.output_size), np.nan, layer.dtype), "y_step": 0, "y_row": 0,
        "h0": None, "c0": None, "h_n": states[0], "c_n": states[1], "lengths": None, "resets": None,
    } | changes  # fmt: skip


def run(c: Any, layer: Any, handle: Any, x: NDArray, /, **changes: Any) -> Result:
    args = arguments(layer, handle, x, **changes)
    c.layer_run(**args)
    return Result(args["y"], args["h_n"], args["c_n"])


def expected(y: NDArray, state: Any) -> Result:
    return Result(y, *beside(state)) if isinstance(state, tuple) else Result(y, state, None)


def beside(state: tuple[NDArray, ...]) -> tuple[NDArray, ...]:
    """h and what else there is side by side in c, as the C interface has it."""
    return (state[0], np.concatenate(state[1:], axis=-1)) if len(state) > 1 else state


def assert_same(got: Result, want: Result) -> None:
    for name, a, b in zip(Result._fields, got, want, strict=True):
        assert (a is None) == (b is None), name
        if a is not None and b is not None:
            np.testing.assert_array_equal(a, b, err_msg=name)


def drawn(layer: Any, T: int, B: int, seed: int = 0) -> tuple[NDArray, tuple[NDArray, ...]]:
    """x (T, B, I) and a state."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((T, B, layer.input_size)).astype(layer.dtype)
    return x, tuple(rng.standard_normal(shape).astype(layer.dtype) for shape in layer.state_shapes(B))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_frozen_layer_gives_the_same_bits(c: Any, variant: str, dtype: Any) -> None:
    layer = build_layer(variant, 5, 17, dtype=dtype, num_layers=2, bidirectional=True)
    frozen = layer.freeze()
    x, state = drawn(layer, 9, 3)
    lengths, resets = np.array([4, 9, 0]), np.random.default_rng(1).random((9, 3)) < 0.3
    with fastrnn.engines.use("packed"):
        frozen = layer.freeze()
    given = state if len(state) > 1 else state[0]
    want = expected(*frozen(x, given, lengths=lengths, resets=resets))
    handle = c.layer_from_object(frozen)
    changes: dict[str, Any] = {"lengths": lengths, "resets": resets.view(np.uint8)}
    changes |= dict(zip(("h0", "c0"), beside(state), strict=False))
    for threads in (0, 1, 3):
        assert_same(run(c, layer, handle, x, threads=threads, **changes), want)
    name, *numbers = c.layer_info(handle)
    O = frozen.output_size // 2
    assert name == frozen.cell.native
    assert numbers == [int(dtype == np.float64), 2, 2, 0, len(state) - 1, 0, 5, 17, O, 2 * O]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_a_stack_goes_through_time_in_chunks(c: Any, precision: str, with_lengths: bool) -> None:
    layer = fastrnn.LSTM(3, 40, num_layers=3, rng=0)
    with fastrnn.engines.use("packed"):
        frozen = layer.freeze(precision=precision)
    x, _ = drawn(layer, 2000, 4)  # a chunk is 819 steps
    lengths = np.array([2000, 1, 819, 900]) if with_lengths else None
    resets = np.random.default_rng(1).random((2000, 4)) < 0.01
    want = expected(*frozen(x, lengths=lengths, resets=resets))
    got = run(c, layer, c.layer_from_object(frozen), x, lengths=lengths, resets=resets.view(np.uint8), threads=1)
    assert_same(got, want)


def test_arrays_may_be_batch_first_and_states_in_place(c: Any) -> None:
    layer = fastrnn.GRU(4, 6, batch_first=True, rng=0)
    with fastrnn.engines.use("packed"):
        frozen = layer.freeze()
    x, (h,) = drawn(layer, 3, 5)  # as (B, T, I) it has the sizes B = 3, T = 5
    want = expected(*frozen(x, h[:, :3].copy()))
    state, y = h[:, :3].copy(), np.empty((3, 5, 6), np.float32)
    c.layer_run(**arguments(
        layer, c.layer_from_object(frozen), x, T=5, B=3, x_step=4, x_row=20, y=y, y_step=6, y_row=30, h0=state,
        h_n=state,
    ))  # fmt: skip
    assert_same(Result(y, state, None), want)


@pytest.mark.parametrize("engine_name", ["blas", "reference"])
def test_a_layer_of_another_engine_is_packed(c: Any, engine_name: str) -> None:
    layer = fastrnn.LSTM(4, 6, rng=0)
    x, _ = drawn(layer, 7, 2)
    with fastrnn.engines.use("packed"):
        want = expected(*layer.freeze()(x))
    with fastrnn.engines.use(engine_name):
        handle = c.layer_from_object(layer.freeze())
    assert_same(run(c, layer, handle, x), want)


def test_nothing_to_run(c: Any) -> None:
    layer = fastrnn.LSTM(4, 6, num_layers=2, rng=0)
    handle = c.layer_from_object(layer.freeze())
    for T, B in ((0, 2), (3, 0), (0, 0)):
        x, (h, cell) = drawn(layer, T, B)
        assert_same(run(c, layer, handle, x, h0=h, c0=cell), Result(np.empty((T, B, 6), np.float32), h, cell))
        assert_same(run(c, layer, handle, x, lengths=np.zeros(B, np.int64), h_n=None, c_n=None), Result(
            np.empty((T, B, 6), np.float32), None, None))  # fmt: skip


NORMS = {None: 0, "separate": 1, "sum": 2}  # FASTRNN_NORM_...


def spec_of(cell: Any) -> dict[str, Any]:
    """The fields of a FastRNN_LayerSpec that are options of the cell."""
    options = cell.options
    same = {name: options[name] for name in ("proj_size", "num_heads", "layer_norm_eps") if name in options}
    zoneouts = dict(zip(("zoneout", "zoneout_cell"), cell.zoneouts, strict=True))
    return same | zoneouts | {
        "clip": options.get("clip") or 0.0, "layer_norm": NORMS[options.get("layer_norm")],
        "linear": int(options.get("nonlinearity") == "linear"),
    }  # fmt: skip


@pytest.mark.parametrize("zoneout", [False, True])
def test_a_layer_of_arrays(c: Any, variant: str, zoneout: bool) -> None:
    zoneouts = {name: 0.1 for name in ("zoneout", "zoneout_cell") if name in VARIANTS[variant][0]._cell.defaults()}
    for bias, dtype, directions in ((True, np.float32, 2), (False, np.float64, 1)):
        options = {"bias": bias, "dtype": dtype, "bidirectional": directions == 2} | (zoneouts if zoneout else {})
        layer = build_layer(variant, 5, 18, num_layers=2, **options)
        with fastrnn.engines.use("packed"):
            frozen = layer.freeze()
        stack, cell = frozen._stack, frozen.cell
        weights = tuple(
            {field: layer.params[name] for field, (name, _) in stack.names(k).items()} for k in range(2 * directions)
        )
        handle = c.layer_new(
            cell.native, int(dtype == np.float64), 2, directions, 0, int(cell.replaces), 5, 18, weights, **spec_of(cell)
        )
        x, _ = drawn(layer, 6, 3)
        assert_same(run(c, layer, handle, x), expected(*frozen(x)))


def test_a_layer_that_runs_backwards(c: Any) -> None:
    layer = fastrnn.GRU(4, 6, rng=0)
    weights = {name.removesuffix("_l0"): a for name, a in layer.params.items()}
    handle = c.layer_new("gru_after", 0, 1, 1, 1, 0, 4, 6, (weights,))
    x, _ = drawn(layer, 5, 2)
    with fastrnn.engines.use("packed"):
        y, h = layer.freeze()(x[::-1].copy())
    assert_same(run(c, layer, handle, x), Result(y[::-1], h, None))
    with pytest.raises(ValueError, match="layer: expected one that runs forwards only"):
        c.stream_new(handle, 1, 1)


def test_a_learnt_initial_state(c: Any) -> None:
    layer = fastrnn.LSTM(4, 6, num_layers=2, learn_initial_state=True, rng=0)
    for name, a in layer.params.items():
        if name.startswith("initial"):
            a[...] = np.random.default_rng(len(name)).standard_normal(a.shape)
    with fastrnn.engines.use("packed"):
        frozen = layer.freeze()
    handle = c.layer_from_object(frozen)
    x, _ = drawn(layer, 5, 3)
    assert_same(run(c, layer, handle, x), expected(*frozen(x)))
    with pytest.raises(ValueError, match="resets: expected NULL"):
        run(c, layer, handle, x, resets=np.zeros((5, 3), np.uint8))
    stream, twin, y = c.stream_new(handle, 3, 1), frozen.stream(3), np.empty((3, 6), np.float32)
    for t in range(2):
        c.stream_step(stream, 3, None, x[t], x[t].nbytes, y, y.nbytes)
        np.testing.assert_array_equal(y, twin.step(x[t]))


def test_zoneout(c: Any) -> None:
    layer = fastrnn.LSTM(4, 20, num_layers=2, zoneout=0.3, zoneout_cell=0.2, rng=0)
    with fastrnn.engines.use("packed"):
        frozen = layer.freeze()
    handle, (x, _) = c.layer_from_object(frozen), drawn(layer, 5, 3)
    assert_same(run(c, layer, handle, x), expected(*frozen(x)))
    assert (frozen(x)[0] != fastrnn.LSTM(4, 20, num_layers=2, rng=0)(x)[0]).any()


def test_a_layer_outlives_python_s_object(c: Any) -> None:
    layer = fastrnn.LSTM(200, 100, rng=0)  # packed in a block that is kept for the next calls
    with fastrnn.engines.use("packed"):
        frozen = layer.freeze()
        x, _ = drawn(layer, 4, 2)
        want = expected(*frozen(x))
        handle = c.layer_from_object(frozen)
        del frozen
        gc.collect()
        others = [fastrnn.LSTM(200, 100, rng=k).freeze() for k in range(1, 4)]
    assert_same(run(c, layer, handle, x), want)
    stream = c.stream_new(handle, 1, 1)
    del handle, others
    gc.collect()
    y = np.empty((1, 100), np.float32)
    c.stream_step(stream, 1, None, x[0, :1], 800, y, y.nbytes)
    np.testing.assert_array_equal(y[0], want.y[0, 0])


def test_one_layer_in_several_threads(c: Any) -> None:
    layer = fastrnn.LSTM(8, 33, num_layers=2, bidirectional=True, rng=0)
    with fastrnn.engines.use("packed"):
        frozen = layer.freeze()
    handle = c.layer_from_object(frozen)

    def job(seed: int) -> Result:
        return run(c, layer, handle, drawn(layer, 20, 4, seed)[0], threads=1 + seed % 2)

    with ThreadPoolExecutor(4) as pool:
        for seed, got in enumerate(pool.map(job, range(16))):
            assert_same(got, expected(*frozen(drawn(layer, 20, 4, seed)[0])))


# ---- Streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_layers", [1, 3])
def test_a_stream_gives_the_same_bits(c: Any, variant: str, num_layers: int) -> None:
    layer = build_layer(variant, 5, 17, num_layers=num_layers)
    with fastrnn.engines.use("packed"):
        frozen = layer.freeze()
    twin, stream, O = frozen.stream(4), c.stream_new(c.layer_from_object(frozen), 4, 0), frozen.output_size
    x, state = drawn(layer, 6, 4)
    sizes = [size for a in (*beside(state), None)[:2] for size in (a, 0 if a is None else a.nbytes)]
    c.stream_state(stream, True, *sizes)
    twin.state = state if len(state) > 1 else state[0]
    for t, rows in enumerate((None, [2], [3, 0], None, [], [1, 0, 2, 3])):
        index = None if rows is None else np.array(rows, np.int64)
        part = x[t] if index is None else x[t, index].copy()
        y = np.empty((len(part), O), np.float32)
        c.stream_step(stream, len(part), index, part, part.nbytes, y, y.nbytes)
        np.testing.assert_array_equal(y, twin.step(part, rows=index))
        if t == 3:
            c.stream_reset(stream, 2, np.array([3, 1]))
            twin.reset([3, 1])
    found = tuple(np.empty_like(a) for a in beside(state))
    sizes = [size for a in (*found, None)[:2] for size in (a, 0 if a is None else a.nbytes)]
    c.stream_state(stream, False, *sizes)
    given = beside(twin.state) if isinstance(twin.state, tuple) else (twin.state,)
    for a, b in zip(found, given, strict=True):
        np.testing.assert_array_equal(a, b)
    c.stream_reset(stream, 4, None)
    c.stream_state(stream, False, *sizes)
    assert not any(a.any() for a in found)


def test_threads_that_python_does_not_know(installed: Path) -> None:
    """In a process of its own, for it would hang if a thread waited for the GIL, which the caller of C++ holds."""
    output_of(f"""
        import sys
        import numpy as np
        import fastrnn
        sys.path.insert(0, {str(installed)!r})
        from capi_user import from_cpp

        fastrnn.set_num_threads(1)
        for precision in ("float32", "int8"):
            frozen = fastrnn.GRU(6, 20, num_layers=2, rng=0).freeze(precision=precision)
            x = np.random.default_rng(0).standard_normal((50, 6), np.float32)
            y = np.empty((4, 50, 20), np.float32)
            assert from_cpp.streams_in_threads(frozen, x, y, 4, 4) == 4
            assert (y == frozen(x)[0]).all()
        done, busy = from_cpp.share_a_stream(frozen, 2000)
        assert done + busy == 4000 and done > 0, (done, busy)
        assert from_cpp.time_steps(frozen, 1, 10) > 0

        # longer than 0.1 s, after which a call of Python asks whether a signal came
        frozen = fastrnn.LSTM(64, 256, rng=0).freeze()
        x, y = np.ones((8000, 64), np.float32), np.empty((8000, 256), np.float32)
        assert from_cpp.run_in_thread(frozen, x, y, 4) == 0
        assert (y[-1] == frozen(x)[0][-1]).all()
    """)


def test_the_page_shows_what_is_built_here() -> None:
    package = Path(__file__).parent / "package"
    page = Path(__file__).parents[2] / "docs" / "how-to" / "c-interface.md"
    for kind, file in (
        ("toml", "pyproject.toml"), ("py", "setup.py"), ("cython", "capi_user/from_cython.pyx"),
        ("c", "capi_user/example.c"),
    ):  # fmt: skip
        assert f"```{kind}\n{(package / file).read_text('utf-8')}```" in page.read_text("utf-8"), file


def test_c(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(installed))
    from capi_user import example

    with fastrnn.engines.use("packed"):
        frozen = fastrnn.GRU(5, 9, num_layers=2, rng=0).freeze()
    x, y = np.random.default_rng(0).standard_normal((7, 5), np.float32), np.empty((7, 9), np.float32)
    example.steps(frozen, x, y)
    np.testing.assert_array_equal(y, frozen(x)[0])
    with pytest.raises(ValueError, match="y: expected T"):
        example.steps(frozen, x, y[:6])
    with pytest.raises(ValueError, match="layer: expected one that runs forwards only"):
        example.steps(fastrnn.GRU(5, 9, bidirectional=True).freeze(), x, np.empty((7, 18), np.float32))
    with pytest.raises(TypeError, match=r"frozen: expected a fastrnn\.Frozen"):
        example.steps(None, x, y)


def test_cython(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(installed))
    from capi_user.from_cython import Runner

    with fastrnn.engines.use("packed"):
        frozen = fastrnn.LSTM(5, 9, num_layers=2, rng=0).freeze(precision="bfloat16")
    x = np.random.default_rng(0).standard_normal((7, 3, 5), np.float32)
    y, want = np.empty((7, 3, 9), np.float32), frozen(x)[0]
    runner = Runner(frozen)
    runner.run(x, y)
    np.testing.assert_array_equal(y, want)
    y = np.empty((7, 9), np.float32)
    runner.steps(x[:, 0].copy(), y)
    np.testing.assert_array_equal(y, want[:, 0])
    with pytest.raises(ValueError, match="output_size: expected the layer's, 9, got 8"):
        runner.run(x, np.empty((7, 3, 8), np.float32))
    with pytest.raises(ValueError, match="x_bytes: expected 20, got 16"):
        runner.steps(np.empty((7, 4), np.float32), y)
    with pytest.raises(TypeError, match=r"frozen: expected a fastrnn\.Frozen, from a layer's freeze\(\), got LSTM"):
        Runner(fastrnn.LSTM(5, 9))
    with pytest.raises(ValueError, match="layer: expected one that runs forwards only"):
        Runner(fastrnn.LSTM(5, 9, bidirectional=True).freeze())


# ---- Errors ----------------------------------------------------------------------------------------------------------

LONG = np.zeros(300, np.float32)
NOT_ALIGNED = np.zeros(200, np.uint8)[1:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": None}, "layer: expected an address, got NULL"),
        ({"size": 8}, r"FastRNN_Run\.size: expected sizeof\(FastRNN_Run\), \d+, got 8"),
        ({"dtype": 1}, "dtype: expected the layer's, 0, got 1"),
        ({"threads": -1}, "threads: expected 0 to 1024, got -1"),
        ({"threads": 1025}, "threads: expected 0 to 1024, got 1025"),
        ({"T": -1}, "T, B: expected sizes of at least 0, got -1, 2"),
        ({"T": 2**60}, "T, B: expected sizes of arrays that can be addressed"),
        ({"B": 2**62}, "T, B: expected sizes of arrays that can be addressed"),
        ({"input_size": 3}, "input_size: expected the layer's, 4, got 3"),
        ({"output_size": 4}, "output_size: expected the layer's, 6, got 4"),
        ({"x": None}, "x: expected an array, got NULL"),
        ({"y": None}, "y: expected an array, got NULL"),
        ({"x": NOT_ALIGNED}, "x: expected an address that is a multiple of 4"),
        ({"h0": NOT_ALIGNED, "c0": LONG}, "h0: expected an address that is a multiple of 4"),
        ({"h0": LONG}, "h0, c0: expected both or none"),
        ({"x_step": -8, "x_row": 4}, r"x: expected strides that are not negative, got -8 \(step\) and 4 \(row\)"),
        ({"x_step": 2**60, "x_row": 4}, "x: expected strides within an address"),
        ({"y_step": 6, "y_row": 6}, "y: expected strides with which rows do not overlap"),
        ({"y_step": 5, "y_row": 100}, "y: expected strides with which rows do not overlap"),
        ({"y": LONG, "x": LONG}, "y, x: expected arrays that do not overlap"),
        ({"y": LONG, "h_n": LONG}, "y, h_n: expected arrays that do not overlap"),
        ({"h_n": LONG, "c_n": LONG}, "h_n, c_n: expected arrays that do not overlap"),
        ({"h0": LONG, "c0": LONG[50:], "h_n": LONG[1:]}, "h_n, h0: expected arrays that do not overlap"),
        ({"h0": LONG, "c0": LONG[50:], "h_n": LONG[50:]}, "h_n, c0: expected arrays that do not overlap"),
        ({"lengths": np.array([1, 4])}, r"lengths\[1\]: expected 0 to 3, got 4"),
        ({"lengths": np.array([-1, 2])}, r"lengths\[0\]: expected 0 to 3, got -1"),
    ],
)
def test_a_run_s_errors(c: Any, changes: dict[str, Any], message: str) -> None:
    layer = fastrnn.LSTM(4, 6, rng=0)
    args = arguments(layer, c.layer_from_object(layer.freeze()), np.ones((3, 2, 4), np.float32), **changes)
    with pytest.raises(ValueError, match=message):
        c.layer_run(**args)
    for name in {"y", "h_n", "c_n"} - changes.keys():
        assert np.isnan(args[name]).all()  # nothing was done


def test_a_layer_s_errors(c: Any) -> None:
    a = np.zeros(2000, np.float32)
    w = dict.fromkeys(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), a)
    good: dict[str, Any] = {
        "cell": "lstm", "dtype": 0, "num_layers": 1, "num_directions": 1, "reverse": 0, "update_replaces": 0,
        "input_size": 4, "hidden_size": 6, "weights": (w,),
    }  # fmt: skip
    c.layer_new(**good)
    finite = "expected a number from 0 up to but not including"
    norm_c = w | {"norm_c": a}
    for changes, message in (
        ({"cell": "elman"}, "cell: expected one of rnn_tanh rnn_relu lstm lstm_coupled .* min_lstm, got elman"),
        ({"cell": None}, "cell: expected one of .*, got NULL"),
        ({"dtype": 2}, "dtype: expected FASTRNN_FLOAT32 or FASTRNN_FLOAT64, got 2"),
        ({"num_layers": 0}, "num_layers: expected 1 to 100000, got 0"),
        ({"num_layers": 2}, "count: expected 2 weights, one for each direction of each layer, got 1"),
        ({"num_directions": 3}, "num_directions: expected 1 or 2, got 3"),
        ({"num_directions": 2, "reverse": 1, "weights": (w, w)}, "reverse: expected 0 with two directions"),
        ({"input_size": 0}, "input_size: expected at least 1, got 0"),
        ({"hidden_size": 0}, "hidden_size: expected at least 1, got 0"),
        ({"hidden_size": 2**40}, "input_size, hidden_size: expected weights that can be addressed"),
        ({"input_size": 2**62}, "input_size, hidden_size: expected weights that can be addressed"),
        ({"proj_size": 6}, "proj_size: expected 0 to 5, got 6"),
        ({"cell": "slstm", "num_heads": 4}, r"num_heads: expected a divisor of hidden_size \(6\), got 4"),
        ({"cell": "slstm", "num_heads": -1}, r"num_heads: expected a divisor of hidden_size \(6\), got -1"),
        ({"size": 47}, r"FastRNN_LayerSpec\.size"),
        # options that the cell has not
        ({"update_replaces": 1}, "update_replaces: expected 0 of a cell that is not a GRU, got 1"),
        ({"cell": "gru_after", "proj_size": 2}, "proj_size: expected 0 of a cell that is not an LSTM, got 2"),
        ({"num_heads": 2}, "num_heads: expected 0 of a cell that is not an sLSTM, got 2"),
        ({"linear": 1}, "linear: expected 0 of a cell that is not a minGRU or minLSTM, got 1"),
        ({"cell": "slstm", "layer_norm": 1}, "layer_norm: expected 0 of a cell that is not an RNN, LSTM or GRU, got 1"),
        ({"cell": "slstm", "clip": 1.5}, "clip: expected 0 of a cell that is not an RNN, LSTM or GRU, got 1.5"),
        ({"cell": "min_gru", "zoneout": 0.5}, "zoneout: expected 0 of a cell that is not an RNN, LSTM or GRU"),
        ({"cell": "gru_after", "zoneout_cell": 0.5}, "zoneout_cell: expected 0 of a cell that is not an LSTM"),
        # options that cannot be
        ({"layer_norm": 3}, "layer_norm: expected one that lstm has, got 3"),
        ({"layer_norm": -1}, "layer_norm: expected one that lstm has, got -1"),
        ({"cell": "gru_after", "layer_norm": 2}, "layer_norm: expected one that gru_after has, got 2"),
        ({"layer_norm": 1, "clip": 1.0}, "clip: expected 0 where there is layer normalisation, got 1"),
        ({"clip": -1.0}, "clip: expected 0 or a number from 1.17549e-38 to 3.40282e[+]38, got -1"),
        ({"clip": np.nan}, "clip: expected 0 or a number"),
        ({"layer_norm_eps": np.inf}, f"layer_norm_eps: {finite} inf, got inf"),
        ({"layer_norm_eps": np.nan}, f"layer_norm_eps: {finite} inf"),
        ({"zoneout": 1.0}, f"zoneout: {finite} 1, got 1"),
        ({"zoneout_cell": -0.5}, f"zoneout_cell: {finite} 1, got -0.5"),
        # weights
        ({"proj_size": 2}, "weight_hr: expected an array, got NULL"),
        ({"weights": (w | {"weight_hr": a},)}, "weight_hr: expected NULL for proj_size is 0"),
        ({"weights": (w | {"weight_hh": None},)}, "weight_hh: expected an array, got NULL"),
        ({"weights": (w | {"bias_hh": None},)}, "bias_hh: expected an array, got NULL"),
        ({"weights": (w | {"bias_ih": None},)}, "bias_hh: expected NULL as bias_ih is, got an array"),
        ({"weights": (w | {"weight_ih": NOT_ALIGNED},)}, "weight_ih: expected an address that is a multiple"),
        ({"cell": "rnn_relu", "weights": (w | {"peephole": a},)}, "peephole: expected NULL of a cell that is no LSTM"),
        ({"cell": "min_gru"}, "weight_hh: expected NULL of a cell whose gates do not see the state"),
        ({"cell": "min_gru", "weights": ({"weight_ih": a, "bias_hh": a},)}, "bias_hh: expected NULL of a cell whose"),
        ({"weights": (w | {"norm_ih": a},)}, "norm_ih: expected NULL but for FASTRNN_NORM_SEPARATE"),
        ({"weights": (w | {"norm_hh": a},), "layer_norm": 2}, "norm_hh: expected NULL but for FASTRNN_NORM_SEPARATE"),
        ({"weights": (w | {"norm": a},)}, "norm: expected NULL but for FASTRNN_NORM_SUM"),
        ({"layer_norm": 1}, "norm_ih: expected an array, got NULL"),
        ({"layer_norm": 2}, "norm: expected an array, got NULL"),
        ({"layer_norm": 2, "weights": (w | {"norm": a},)}, "norm_c: expected an array, got NULL"),
        ({"weights": (norm_c,)}, "norm_c: expected NULL but for an LSTM with layer normalisation"),
        ({"weights": (w | {"bias_c": a},)}, "bias_c: expected NULL but for an LSTM with layer normalisation"),
        ({"cell": "rnn_tanh", "layer_norm": 2, "weights": (norm_c | {"norm": a},)}, "norm_c: expected NULL but for an"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            c.layer_new(**good | changes)


def test_a_stream_s_errors(c: Any) -> None:
    layer = fastrnn.LSTM(4, 6, rng=0)
    handle = c.layer_from_object(layer.freeze())
    x, y = np.ones((3, 4), np.float32), np.full((3, 6), np.nan, np.float32)
    stream = c.stream_new(handle, 3, 1)

    def step(*, to: Any = stream, n: int = 3, rows: Any = None, x: Any = x, y: Any = y, size: int = 48) -> None:
        c.stream_step(to, n, rows, x, size, y, 0 if y is None else y.nbytes)

    errors: list[tuple[Callable[[], None], str]] = [
        (lambda: step(to=None), "stream: expected an address, got NULL"),
        (lambda: step(n=2), "n: expected 3, all rows, got 2"),
        (lambda: step(n=4, rows=np.arange(4)), "n: expected 0 to 3, got 4"),
        (lambda: step(rows=np.array([0, 1, 1])), r"rows: expected distinct rows in 0\.\.2, got others"),
        (lambda: step(rows=np.array([0, 1, 3])), r"rows: expected distinct rows in 0\.\.2, got others"),
        (lambda: step(rows=np.array([0, 1, -1])), r"rows: expected distinct rows in 0\.\.2, got others"),
        (lambda: step(size=47), "x_bytes: expected 48, got 47"),
        (lambda: step(y=y[:2]), "y_bytes: expected 72, got 48"),
        (lambda: step(x=None), "x: expected an array, got NULL"),
        (lambda: step(x=NOT_ALIGNED), "x: expected an address that is a multiple of 4"),
        (lambda: step(x=y), "x, y: expected arrays that do not overlap"),
        (lambda: c.stream_reset(stream, 1, None), "n: expected 3, all rows, got 1"),
        (lambda: c.stream_state(stream, True, y, 72, None, 0), "c_bytes: expected 72, got 0"),
        (lambda: c.stream_state(stream, False, None, 72, y, 72), "h, c: expected arrays"),
        (lambda: c.stream_new(handle, 0, 1), "B: expected at least 1"),
        (lambda: c.stream_new(handle, 2**60, 1), "B: expected at least 1, and states that can be addressed"),
        (lambda: c.stream_new(handle, 1, -1), "threads: expected 0 to 1024, got -1"),
    ]
    for call, message in errors:
        with pytest.raises(ValueError, match=message):
            call()
    assert np.isnan(y).all()
    step()
    np.testing.assert_array_equal(y, layer.freeze().stream(3).step(x))


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ((1, 0, 0), "built for version 1 of its C interface, and the installed one has version 0; install a newer"),
        ((1, 1, -8), "built for version 1 of its C interface, .* install a newer fastrnn"),
        ((2, 1, 0), "built for the ABI 1 of its C interface, and the installed version has the ABI 2; build .* again"),
        (None, "the installed version has no C interface; install a newer one"),
    ],
)
def test_another_version(c: Any, monkeypatch: pytest.MonkeyPatch, version: Any, message: str) -> None:
    if version is None:
        monkeypatch.delattr(fastrnn, "_C_API")
    else:
        monkeypatch.setattr(fastrnn, "_C_API", c.capsule_of_version(*version))
    with pytest.raises(ImportError, match=message):
        c.import_again()


def test_a_newer_version(c: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastrnn, "_C_API", c.capsule_of_version(1, 2, 80))
    with fastrnn.num_threads(3):
        assert c.import_again() == 3


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no compiler of that name")
@pytest.mark.parametrize("language", ["c -std=c99", "c -std=c17", "c++ -std=c++11"])
def test_the_header_is_standard(language: str) -> None:
    check = ["cc", "-x", *language.split(), "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    code = "#include <fastrnn/capi.h>\nint use(const FastRNN_API *api);\n"
    done = subprocess.run([*check, "-I", fastrnn.get_include(), "-"], input=code, text=True, check=False)
    assert done.returncode == 0
