"""threadpoolctl lists fastrnn and limits its threads, and what joblib and scikit-learn set reaches fastrnn."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from running import in_threads, output_of

import fastrnn
from fastrnn._core import native

pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
from threadpoolctl import ThreadpoolController, threadpool_info, threadpool_limits

pytestmark = pytest.mark.usefixtures("thread_count")


def listed() -> dict[str, Any]:
    """The one entry of fastrnn."""
    (entry,) = [entry for entry in threadpool_info() if entry["user_api"] == "fastrnn"]
    return entry


def of_process() -> int:
    """The process's number of threads, as a thread of its own sees it."""
    (number,) = in_threads("reference", [fastrnn.get_num_threads])
    return number


class TestInfo:
    def test_says_what_this_installation_runs_with(self) -> None:
        entry = listed()
        assert entry["internal_api"] == "fastrnn"
        assert entry["version"] == fastrnn.__version__
        assert entry["architecture"] == native.isa_selected()
        assert entry["threading_layer"] in (("workers", "openmp") if native.has_threads() else ("none",))
        assert os.path.samefile(entry["filepath"], native.__file__)

    def test_has_the_number_in_force(self) -> None:
        for number in (3, 5):
            fastrnn.set_num_threads(number)
            assert listed()["num_threads"] == number
            with fastrnn.num_threads(2):  # of this thread alone
                assert listed()["num_threads"] == number

    def test_has_no_other_package_s_module_of_that_name(self, tmp_path: Path) -> None:
        code = f"""
            import ctypes, os, shutil
            import numpy.random.bit_generator as other
            import fastrnn, threadpoolctl
            from fastrnn._core import native

            copy = os.path.join({str(tmp_path)!r}, os.path.basename(native.__file__))
            shutil.copy(other.__file__, copy)
            library = ctypes.CDLL(copy)
            entries = [e for e in threadpoolctl.threadpool_info() if e["user_api"] == "fastrnn"]
            print([os.path.samefile(e["filepath"], native.__file__) for e in entries])
        """
        assert output_of(code).strip() == "[True]"


class TestLimits:
    @pytest.mark.parametrize("user_api", [None, "fastrnn"])
    def test_act_on_the_process_and_are_undone(self, user_api: str | None) -> None:
        fastrnn.set_num_threads(5)
        with threadpool_limits(3, user_api=user_api):
            assert fastrnn.get_num_threads() == of_process() == listed()["num_threads"] == 3
        assert fastrnn.get_num_threads() == of_process() == 5
        with ThreadpoolController().limit(limits=2, user_api=user_api):
            assert of_process() == 2
        assert of_process() == 5

    def test_nest(self) -> None:
        fastrnn.set_num_threads(5)
        with threadpool_limits(3):
            with threadpool_limits(1):
                assert of_process() == 1
            with threadpool_limits({"fastrnn": 4}):
                assert of_process() == 4
            with threadpool_limits(1, user_api="blas"):
                assert of_process() == 3
            assert of_process() == 3
        assert of_process() == 5

    def test_hold_until_they_are_undone_without_a_block(self) -> None:
        fastrnn.set_num_threads(5)
        limits = threadpool_limits(3)
        assert of_process() == 3
        limits.restore_original_limits()
        assert of_process() == 5

    def test_decorate_a_function(self) -> None:
        fastrnn.set_num_threads(5)
        assert threadpool_limits.wrap(3)(of_process)() == 3
        assert of_process() == 5

    def test_are_undone_after_an_error(self) -> None:
        fastrnn.set_num_threads(5)
        with pytest.raises(KeyError), threadpool_limits(3):
            raise KeyError
        assert of_process() == 5

    def test_leave_the_calling_thread_its_own_number(self) -> None:
        fastrnn.set_num_threads(5)
        with fastrnn.num_threads(2):
            with threadpool_limits(3):
                assert fastrnn.get_num_threads() == 2
                assert of_process() == 3
            assert fastrnn.get_num_threads() == 2
            assert of_process() == 5
        with threadpool_limits(3), fastrnn.num_threads(2):
            assert fastrnn.get_num_threads() == 2
        assert fastrnn.get_num_threads() == 5

    @pytest.mark.parametrize(("asked", "number"), [(0, 1), (-1, 1), (1_000_000, 1024)])
    def test_stay_in_range(self, asked: int, number: int) -> None:
        with threadpool_limits(asked, user_api="fastrnn"):
            assert of_process() == number

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
    @pytest.mark.skipif(not native.has_threads(), reason="built without threads")
    def test_hold_for_calls(self) -> None:
        """A call under a limit of one creates no thread; the same call without it does."""
        code = """
            import os
            import numpy as np, threadpoolctl
            import fastrnn
            from fastrnn._core import native

            native.insist_on_teams("rows")
            fastrnn.set_num_threads(3)
            frozen = fastrnn.LSTM(24, 80, rng=0).freeze()
            x = np.zeros((20, 33, 24), np.float32)
            counts = [len(os.listdir("/proc/self/task"))]
            with threadpoolctl.threadpool_limits(1):
                frozen(x)
            counts.append(len(os.listdir("/proc/self/task")))
            frozen(x)
            counts.append(len(os.listdir("/proc/self/task")))
            print(*np.diff(counts))
        """
        assert output_of(code).split() == ["0", "2"]


class TestImport:
    @pytest.mark.parametrize(
        "imports",
        [
            "import threadpoolctl; import fastrnn",
            "import fastrnn; import threadpoolctl",
            "import threadpoolctl; threadpoolctl.threadpool_info(); import fastrnn",
        ],
    )
    def test_in_any_order(self, imports: str) -> None:
        code = f"""
            {imports}
            before = fastrnn.get_num_threads()
            with threadpoolctl.threadpool_limits(before + 1, user_api="fastrnn"):
                print([e["num_threads"] for e in threadpoolctl.threadpool_info() if e["user_api"] == "fastrnn"])
            assert fastrnn.get_num_threads() == before
        """
        assert output_of(code, FASTRNN_NUM_THREADS="3").strip() == "[4]"

    @pytest.mark.parametrize("found", ["None", "types.ModuleType('threadpoolctl')"], ids=["absent", "too old"])
    def test_without_it(self, found: str) -> None:
        code = f"import sys, types; sys.modules['threadpoolctl'] = {found}; import fastrnn; print('fine')"
        assert output_of(code).strip() == "fine"


JOBS = """
    import joblib, threadpoolctl
    import numpy as np
    import fastrnn

    frozen = fastrnn.LSTM(8, 16, rng=0).freeze()
    x = np.random.default_rng(0).standard_normal((5, 3, 8), np.float32)

    def job():
        return fastrnn.get_num_threads(), frozen(x)[0]

    def numbers(n_jobs, backend, **options):
        with joblib.parallel_config(backend, n_jobs=n_jobs, **options):
            done = joblib.Parallel()(joblib.delayed(job)() for _ in range(6))
        expected = frozen(x)[0]
        assert all(np.array_equal(y, expected) for _, y in done)
        (number,) = {number for number, _ in done}  # the same in all
        return number
"""


class TestJoblib:
    @pytest.fixture(autouse=True)
    def joblib(self) -> Any:
        return pytest.importorskip("joblib", reason="joblib is not installed")

    @pytest.mark.parametrize(
        ("environment", "options", "number"),
        [
            ({}, "", None),  # joblib's default
            ({}, "inner_max_num_threads=3", 3),
            ({"OMP_NUM_THREADS": "5"}, "", 5),
            ({"OMP_NUM_THREADS": "5"}, "inner_max_num_threads=3", 3),
            ({"FASTRNN_NUM_THREADS": "4"}, "inner_max_num_threads=3", 4),  # which goes before
        ],
    )
    def test_loky(self, joblib: Any, environment: dict[str, str], options: str, number: int | None) -> None:
        """Each worker process has the number that joblib sets for it, in OMP_NUM_THREADS."""
        seen = int(output_of(JOBS + f"    print(numbers(2, 'loky', {options}))", **environment))
        assert seen == (number or max(joblib.cpu_count() // 2, 1))

    def test_threading(self) -> None:
        """joblib sets nothing for its threads; a limit around them is the process's."""
        outside = "    print(numbers(2, 'threading'))\n"
        inside = f"    with threadpoolctl.threadpool_limits(1):\n    {outside}"
        assert output_of(JOBS + outside + inside + outside, FASTRNN_NUM_THREADS="5").split() == ["5", "1", "5"]


def test_scikit_learn() -> None:
    """A limit around a fit holds inside; scikit-learn's own, which are for BLAS, leave the number as it was."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    code = """
        import numpy as np, threadpoolctl
        from sklearn.cluster import KMeans
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import FunctionTransformer
        import fastrnn

        frozen = fastrnn.GRU(3, 8, batch_first=True, rng=0).freeze()
        seen = []

        def encode(x):
            seen.append(fastrnn.get_num_threads())
            return frozen(x)[0][:, -1]

        fastrnn.set_num_threads(5)
        x = np.random.default_rng(0).standard_normal((40, 6, 3), np.float32)
        pipeline = make_pipeline(FunctionTransformer(encode), KMeans(2, n_init=1, random_state=0))
        with threadpoolctl.threadpool_limits(3):
            pipeline.fit(x)
            seen.append(fastrnn.get_num_threads())
        pipeline.fit(x)
        print(*seen, fastrnn.get_num_threads())
    """
    assert output_of(code).split() == ["3", "3", "5", "5"]
