"""Threads: any number gives the same results, they are ours to limit, and they live with Python's and with fork()."""

import itertools
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generators import build_layer, random_call
from oracle import Call, infer, oracle, train
from running import in_threads, output_of, run_python
from tolerances import assert_results_close

import fastrnn
from fastrnn._core import native
from fastrnn.engines import blas, threads

linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads /proc or sets affinity as Linux does"
)
posix_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")

# Large enough to be worth more than one thread: in rows, in hidden units, in the gradients of the weights.
LARGE = [(20, 33, 24, 80), (30, 1, 24, 257), (3, 150, 70, 40), (64, 8, 100, 130)]


@pytest.fixture(params=["rows", "units"])
def whole_teams(request: pytest.FixtureRequest) -> Iterator[None]:
    """As many threads as asked, which small work and busy cores would not get."""
    native.insist_on_teams(request.param)
    yield
    native.insist_on_teams(None)


@pytest.mark.usefixtures("whole_teams")
class TestCounts:
    @pytest.mark.parametrize(("T", "B", "I", "H"), LARGE)
    @pytest.mark.parametrize("variant", ["rnn", "lstm-peephole-proj-clip", "gru", "gru-before"])
    def test_any_gives_the_same(self, compiled: str, variant: str, T: int, B: int, I: int, H: int) -> None:
        """Results, gradients in weights too, streams; with lengths and resets, which split work unevenly."""
        layer = build_layer(variant, I, H)
        call = random_call(layer, T, B, np.random.default_rng(7), lengths=B > 1, resets=True)
        expected = oracle(layer, call)
        first = oracle(layer, Call(call.x[:1], call.state))["y"][0]
        for count in (1, 2, 3, 7):
            with fastrnn.num_threads(count):
                actual = train(layer, call)
                inferred = infer(layer, call)
                stream = layer.freeze().stream(B)
                stream.state = call.state
                stepped = stream.step(call.x[0])
            assert_results_close(actual, expected)
            assert_results_close(inferred, {k: v for k, v in expected.items() if not k.startswith("grad")})
            assert_results_close({"y": stepped}, {"y": first})

    def test_more_threads_than_rows_and_units(self, compiled: str, build: Callable) -> None:
        layer = build(1, 2, bidirectional=True, num_layers=2)
        call = random_call(layer, 3, 2, np.random.default_rng(7), lengths=True)
        with fastrnn.num_threads(64):
            actual = train(layer, call)
        assert_results_close(actual, oracle(layer, call))


@pytest.mark.usefixtures("thread_count")
class TestSettings:
    def test_of_the_process(self) -> None:
        fastrnn.set_num_threads(3)
        assert fastrnn.get_num_threads() == 3
        seen = in_threads("reference", [fastrnn.get_num_threads] * 2)
        assert seen == [3, 3]
        fastrnn.set_num_threads(np.int64(2))
        assert fastrnn.get_num_threads() == 2
        assert type(fastrnn.get_num_threads()) is int

    def test_of_the_calling_thread(self) -> None:
        fastrnn.set_num_threads(4)
        with fastrnn.num_threads(2):
            assert fastrnn.get_num_threads() == 2
            assert in_threads("reference", [fastrnn.get_num_threads]) == [4]
            with fastrnn.num_threads(1):
                assert fastrnn.get_num_threads() == 1
            assert fastrnn.get_num_threads() == 2
            fastrnn.set_num_threads(5)  # the process's; this thread has its own
            assert fastrnn.get_num_threads() == 2
        assert fastrnn.get_num_threads() == 5

    def test_two_threads_each_their_own(self) -> None:
        barrier = threading.Barrier(2)

        def within(count: int) -> int:
            with fastrnn.num_threads(count):
                barrier.wait(60)  # both are inside
                seen = fastrnn.get_num_threads()
                barrier.wait(60)
            return seen

        assert in_threads("reference", [lambda: within(2), lambda: within(3)]) == [2, 3]

    def test_are_put_back_after_an_error(self) -> None:
        before = fastrnn.get_num_threads()
        with pytest.raises(KeyError), fastrnn.num_threads(before + 1):
            raise KeyError
        assert fastrnn.get_num_threads() == before


class TestThreading:
    """What gives calls their threads: `workers` or `openmp`."""

    @pytest.fixture(autouse=True)
    def put_back(self) -> Iterator[None]:
        before = fastrnn.get_threading()
        yield
        if before != "none":
            fastrnn.set_threading(before)

    def test_any_gives_the_same_bits(self, compiled: str, build: Callable, whole_teams: None) -> None:
        layer = build(24, 80)
        call = random_call(layer, 20, 33, np.random.default_rng(7), lengths=True, resets=True)
        results = []
        for name in native.threading_names():
            fastrnn.set_threading(name)
            assert fastrnn.get_threading() == name
            with fastrnn.num_threads(3):
                results.append(train(layer, call))
        for other in results[1:]:
            for key, value in results[0].items():
                np.testing.assert_array_equal(other[key], value, err_msg=key)

    @pytest.mark.parametrize("name", native.threading_names())
    def test_several_callers_at_once(self, compiled: str, build: Callable, name: str) -> None:
        """More callers than cores, each asking for several threads: right results, and an end."""
        fastrnn.set_threading(name)
        layer = build(24, 257)
        call = random_call(layer, 12, 5, np.random.default_rng(7))
        expected = infer(layer, call)

        def job() -> None:
            with fastrnn.num_threads(4):
                for _ in range(5):
                    assert_results_close(infer(layer, call), expected)

        in_threads(compiled, [job] * 6)

    @pytest.mark.parametrize(
        ("name", "error"), [("tbb", ValueError), ("", ValueError), (3, TypeError), (None, TypeError)]
    )
    def test_unknown(self, name: Any, error: type[Exception]) -> None:
        before = fastrnn.get_threading()
        with pytest.raises(error, match=r"^name: expected one of 'workers', 'openmp'"):
            fastrnn.set_threading(name)
        assert fastrnn.get_threading() == before

    def test_environment(self) -> None:
        code = "import fastrnn; print(fastrnn.get_threading())"
        for name in native.threading_names():
            assert output_of(code, FASTRNN_THREADING=name).strip() == name
        done = run_python(code, FASTRNN_THREADING="tbb")
        assert done.returncode != 0
        assert "FASTRNN_THREADING: expected one of those that this build has" in done.stderr


class TestLargerMachines:
    """What the cost model chooses where there are more cores than here."""

    @pytest.mark.parametrize("backward", [False, True])
    @pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru_after", "gru_before"])
    def test_more_threads_are_never_slower(self, cell: str, backward: bool) -> None:
        for B, H, directions in itertools.product((1, 3, 8, 31, 256), (16, 83, 256, 1024), (1, 2)):
            counts = range(1, 65)
            times = [native.simulate_plan(cell, backward, 20, B, H, H, directions, 16, n)[0] for n in counts]
            assert all(b <= a for a, b in itertools.pairwise(times)), (B, H, directions)

    def test_sixteen(self) -> None:
        for B, H, split, factor in ((256, 256, "rows", 12), (1, 1024, "units", 6)):
            alone, *_ = native.simulate_plan("lstm", False, 50, B, H, H, 1, 16, 1)
            time, members, found = native.simulate_plan("lstm", False, 50, B, H, H, 1, 16, 16)
            assert (members, found) == (16, split)
            assert alone / time >= factor

    @pytest.mark.parametrize("name", native.threading_names())
    def test_sixteen_on_few_cores(self, compiled: str, name: str, whole_teams: None) -> None:
        """Many more threads than cores: slow, but right, and it ends."""
        before = fastrnn.get_threading()
        fastrnn.set_threading(name)
        try:
            layer = build_layer("lstm", 24, 520)
            call = random_call(layer, 4, 33, np.random.default_rng(7))
            with fastrnn.num_threads(16):
                actual = train(layer, call)
        finally:
            fastrnn.set_threading(before)
        assert_results_close(actual, oracle(layer, call))


class TestDefault:
    CODE = "import fastrnn; print(fastrnn.get_num_threads())"

    @linux_only
    def test_is_the_cpus_this_process_may_use(self) -> None:
        one = min(os.sched_getaffinity(0))
        bound = f"import os; os.sched_setaffinity(0, {{{one}}}); {self.CODE}"
        assert int(output_of(bound)) == 1
        available = len(os.sched_getaffinity(0))
        assert int(output_of(self.CODE)) == min(available, threads._cgroup_quota() or available)

    @pytest.mark.parametrize(
        ("environment", "count"),
        [
            ({"FASTRNN_NUM_THREADS": "3"}, 3),
            ({"OMP_NUM_THREADS": "5"}, 5),
            ({"OMP_NUM_THREADS": "4,2"}, 4),
            ({"FASTRNN_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
            ({"FASTRNN_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, 5),
        ],
    )
    def test_is_what_the_environment_says(self, environment: dict[str, str], count: int) -> None:
        assert int(output_of(self.CODE, **environment)) == count

    @pytest.mark.parametrize("value", ["0", "-1", "many", "100000"])
    def test_is_not_spoilt_by_a_variable_of_others(self, value: str) -> None:
        """OpenMP programs ignore what they cannot follow in OMP_NUM_THREADS; importing this package must not fail."""
        assert int(output_of(self.CODE, OMP_NUM_THREADS=value)) >= 1

    V2 = "0::/a/b\n"
    V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    V1 = "9:name=systemd:/a/b\n2:cpu,cpuacct:/a/b\n1:cpuset:/\n"
    V1_MOUNT = "30 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n31 31 0:30 / /x rw - tmpfs x rw\n"

    @pytest.mark.parametrize(
        ("files", "quota"),
        [
            ({}, None),
            ({"cpu.max": "max 100000\n"}, None),
            ({"cpu.max": "200000 100000\n"}, 2),
            ({"cpu.max": "150000 100000\n"}, 2),
            ({"cpu.max": "1 100000\n"}, 1),
            ({"cpu.max": "400000\n"}, None),
            ({"cpu.max": ""}, None),
            ({"cpu.max": "garbage here\n"}, None),
            ({"cpu.max": "100000 0\n"}, None),
            ({"a/b/cpu.max": "300000 100000\n"}, 3),
            ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2),
            ({"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "200000 100000\n", "cpu.max": "max 100000\n"}, 2),
            ({"a/b/cpu.max": "100000 100000\n", "a/cpu.max": "200000 100000\n"}, 1),
            ({"a/c/cpu.max": "100000 100000\n"}, None),  # another one's
        ],
    )
    def test_reads_the_limits_of_cgroups(self, files: dict[str, str], quota: int | None, tmp_path: Path) -> None:
        """Of the process's own and of all around it: the smallest counts."""
        self.write(tmp_path, files, self.V2, self.V2_MOUNT)
        assert threads._cgroup_quota(tmp_path) == quota

    @pytest.mark.parametrize(
        ("limits", "quota"),
        [
            ({"": (-1, 100000)}, None),
            ({"": (300000, 100000)}, 3),
            ({"": (300000,)}, None),
            ({"a/b": (150000, 100000), "a": (-1, 100000)}, 2),
            ({"a/b": (300000, 100000), "a": (100000, 100000)}, 1),
        ],
    )
    def test_reads_the_limits_of_cgroups_of_version_1(
        self, limits: dict[str, tuple[int, ...]], quota: int | None, tmp_path: Path
    ) -> None:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        files = {
            f"cpu/{group}/{name}": f"{value}\n"
            for group, values in limits.items()
            for name, value in zip(names, values, strict=False)
        }
        self.write(tmp_path, files, self.V1 + "0::/\n", self.V1_MOUNT)
        assert threads._cgroup_quota(tmp_path) == quota

    @pytest.mark.parametrize(
        ("group", "top"), [("/docker/1", "/docker/1"), ("/", "/docker/1"), ("/../2", "/"), ("/", "/..")]
    )
    def test_reads_the_limit_of_a_container(self, group: str, top: str, tmp_path: Path) -> None:
        """What is mounted there is the container's own group, under whatever name."""
        mount = self.V2_MOUNT.replace(" / ", f" {top} ", 1)
        self.write(tmp_path, {"cpu.max": "200000 100000\n"}, f"0::{group}\n", mount)
        assert threads._cgroup_quota(tmp_path) == 2

    @pytest.mark.parametrize(("cgroup", "mountinfo"), [("", ""), ("x\n", "x\n"), (V2, V1_MOUNT), (V1, V2_MOUNT)])
    def test_does_without_cgroups(self, cgroup: str, mountinfo: str, tmp_path: Path) -> None:
        self.write(tmp_path, {"cpu.max": "200000 100000\n"}, cgroup, mountinfo)
        assert threads._cgroup_quota(tmp_path) is None

    def write(self, root: Path, files: dict[str, str], cgroup: str, mountinfo: str) -> None:
        """Write the files of cgroups, and what /proc says of them."""
        proc = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo}
        for name, text in ({f"sys/fs/cgroup/{name}": text for name, text in files.items()} | proc).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)


class TestPythonThreads:
    @pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python always has a GIL")
    def test_have_no_gil_where_python_has_none(self) -> None:
        """Python would turn it on, with a warning, for an extension that does not say that it can do without."""
        assert output_of("import sys, fastrnn; print(sys._is_gil_enabled())", PYTHONWARNINGS="error") == "False\n"

    def test_share_a_layer_and_its_gradients(self, compiled: str, build: Callable) -> None:
        """Forward and backward of one layer, and backward of one tape, in many threads at once."""
        layer = build(17, 33, num_layers=2, bidirectional=True)
        rng = np.random.default_rng(3)
        calls = [
            random_call(layer, T, B, rng, lengths=True, resets=True) for T, B in [(20, 3), (5, 20), (30, 1), (9, 9)]
        ]
        expected = [train(layer, call) for call in calls]
        shared = layer.forward(calls[0].x, calls[0].state, lengths=calls[0].lengths, resets=calls[0].resets)[2]

        def work(call: Call) -> list[Any]:
            results = []
            for _ in range(3):
                results.append((train(layer, call), layer.backward(shared, calls[0].dy, calls[0].dstate)))
            return results

        for results, once in zip(in_threads(compiled, [lambda c=c: work(c) for c in calls]), expected, strict=True):
            for result, grads in results:
                assert_results_close(result, once)
                params = {f"grad {name}": value for name, value in grads.params.items()}
                assert_results_close(params, {name: expected[0][name] for name in params})

    def test_each_with_its_own_number_of_threads(self, engine: str) -> None:
        layer = build_layer("lstm", 24, 80)
        call = random_call(layer, 20, 33, np.random.default_rng(3))
        expected = oracle(layer, call)

        def work(count: int) -> list[Any]:
            with fastrnn.num_threads(count):
                return [train(layer, call) for _ in range(3)]

        for results in in_threads(engine, [lambda n=n: work(n) for n in (1, 2, 3)]):
            for result in results:
                assert_results_close(result, expected)

    def test_run_while_a_call_works(self, engine: str) -> None:
        """The GIL is released: another Python thread goes on during a long call."""
        layer = build_layer("lstm", 64, 256)
        frozen = layer.freeze()
        T = 200
        while True:  # until the call is long enough to see something during it
            x = np.zeros((T, 32, 64), np.float32)
            started, done = threading.Event(), threading.Event()
            lasted = []

            def call(x: np.ndarray = x, started: Any = started, done: Any = done, lasted: list = lasted) -> None:
                started.set()
                begin = time.perf_counter()
                frozen(x)
                lasted.append(time.perf_counter() - begin)
                done.set()

            thread = threading.Thread(target=call)
            thread.start()
            started.wait()
            ticks = 0
            while not done.is_set():
                time.sleep(0.001)
                ticks += 1
            thread.join()
            if lasted[0] > 0.25:
                break
            T *= 2
        assert ticks >= 10  # were the GIL held, there would be one or two


@posix_only
@pytest.mark.parametrize("threading", native.threading_names())
@pytest.mark.parametrize("after", ["call", "backward", "stream"])
def test_fork_after_threads(compiled: str, after: str, threading: str) -> None:
    """A child computes what its parent does, whatever the parent ran before, and the parent goes on."""
    code = f"""
        import os, signal, sys, time
        import numpy as np
        import fastrnn

        layer = fastrnn.LSTM(32, 96, rng=0)
        x = np.random.default_rng(0).standard_normal((10, 32, 32)).astype(np.float32)
        frozen = layer.freeze()

        def everything():
            y, state, tape = layer.forward(x)
            grads = layer.backward(tape, y)
            stream = frozen.stream(32)
            return [layer(x)[0], y, grads.x, grads.params["weight_hh_l0"], frozen(x)[0], stream.step(x[0])]

        def same(results):
            return all(np.allclose(a, b, atol=1e-4) for a, b in zip(results, expected))

        fastrnn.set_num_threads(2)
        expected = everything()
        for _ in range(2):
            if {after!r} == "call":
                layer(x)
            elif {after!r} == "backward":
                everything()
            else:
                frozen.stream(32).step(x[0])
            child = os.fork()
            if child == 0:
                ok = same(everything())
                os._exit(0 if ok else 3)
            assert same(everything())  # while the child works
            for _ in range(600):
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    break
                time.sleep(0.1)
            else:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                sys.exit("the child hangs")
            assert os.waitstatus_to_exitcode(status) == 0, status
            assert same(everything())
        print("fine")
    """
    assert output_of(code, FASTRNN_ENGINE=compiled, FASTRNN_THREADING=threading).strip() == "fine"


@posix_only
@pytest.mark.skipif(not blas.threads_controlled, reason="SciPy's BLAS does not let its threads be set")
def test_a_child_of_a_computing_parent_has_all_threads_of_blas() -> None:
    """Though another thread of the parent was in a call, which holds BLAS to one thread."""
    code = """
        import os, threading
        import numpy as np
        import fastrnn
        from fastrnn.engines import blas
        from running import ended

        set_threads, get_threads = blas._control(blas.cython_blas.__file__)
        set_threads(3)
        layer = fastrnn.LSTM(64, 512, rng=0)
        x = np.zeros((500, 8, 64), np.float32)
        stop = False

        def work():
            while not stop:
                layer(x)

        thread = threading.Thread(target=work)
        thread.start()
        for _ in range(3):
            while get_threads() != 1:
                pass
            child = os.fork()
            if child == 0:
                os._exit(get_threads())
            print(os.waitstatus_to_exitcode(ended(child)))
        stop = True
        thread.join()
        print(get_threads())
    """
    assert output_of(code, FASTRNN_ENGINE="blas").split() == ["3"] * 4


# Samples a background thread that computes: which other threads of this process are runnable, and what CPU time passes.
WATCH = """
    import os, threading, time
    import numpy as np
    import fastrnn

    layer = fastrnn.LSTM({sizes}, rng=0)
    x = np.random.default_rng(0).standard_normal(({shape}, layer.input_size)).astype(np.float32)
    stop = threading.Event()

    def work():
        with fastrnn.num_threads({count}):
            y, _, tape = layer.forward(x)
            layer.backward(tape, y)
            ready.set()
            while not stop.is_set():
                y, _, tape = layer.forward(x)
                layer.backward(tape, y)
                layer(x)

    ready = threading.Event()
    worker = threading.Thread(target=work)
    worker.start()
    ready.wait()
    me = str(threading.get_native_id())
    counts = []
    cpu = time.process_time() - time.thread_time()  # without the time that sampling takes
    begin = time.perf_counter()
    while time.perf_counter() - begin < 1.5:
        runnable = 0
        for task in os.listdir("/proc/self/task"):
            if task != me:
                try:
                    with open(f"/proc/self/task/{{task}}/stat") as file:
                        runnable += file.read().rsplit(")", 1)[1].split()[0] == "R"
                except OSError:  # it has ended
                    pass
        counts.append(runnable)
        time.sleep(0.002)
    busy = (time.process_time() - time.thread_time() - cpu) / (time.perf_counter() - begin)
    stop.set()
    worker.join()
    print(busy, *counts)
"""


@linux_only
@pytest.mark.parametrize("threading", native.threading_names())
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("sizes", "shape"),
    [pytest.param("64, 256", "100, 32", id="batch"), pytest.param("256, 512", "60, 1", id="one row")],
)
def test_thread_pools_never_stack(compiled: str, sizes: str, shape: str, count: int, threading: str) -> None:
    """No more threads run at once than were allowed: BLAS's do not run on top of ours, nor beside them.

    A sample looks at one thread after the other, and may rarely count two that ran in turn: the 98 % quantile counts.
    """
    code = WATCH.format(sizes=sizes, shape=shape, count=count)
    busy, *counts = output_of(code, FASTRNN_ENGINE=compiled, FASTRNN_THREADING=threading).split()
    runnable = np.array(counts, int)
    assert len(runnable) >= 50, "too few samples to say anything"
    assert np.quantile(runnable, 0.98) <= count, np.bincount(runnable)
    assert runnable.max() >= 1
    assert float(busy) <= count + 0.1
