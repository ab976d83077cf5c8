"""The roofline: what the machine is asked, the model, and the shares of it."""

import json

import numpy as np
import pytest

from fastrnn import bench
from fastrnn._core import native
from fastrnn.bench import CASES, EngineContender, Task, charts, roofline
from fastrnn.bench.roofline import Floor, Limits, Probe

pytestmark = pytest.mark.usefixtures("small_cases")


@pytest.fixture(autouse=True)
def small_probes(monkeypatch):
    monkeypatch.setattr(roofline, "PROBE_SECONDS", 0)
    monkeypatch.setattr(roofline, "GEMM_SECONDS", 0)
    monkeypatch.setattr(roofline, "GEMM_SIZE", 33)
    monkeypatch.setattr(roofline, "MEMORY_BYTES", 1 << 18)
    monkeypatch.setattr(roofline, "CALL_BYTES", 1 << 18)


def task(cell="lstm", kind="inference", case="tiny", precision="float32", threads=1):
    return Task(cell, kind, case, precision, threads, CASES[case])


# ---- probes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probes_do_what_they_count(isa, dtype):
    operations, result = native.probe_multiply_add(np.dtype(dtype).itemsize, 100)
    lanes = operations / (2 * 12 * 100)
    assert lanes in (1, 2, 4, 8, 16)
    assert result == 12  # each of the sums has come to 1
    data = roofline.touched(1 << 12, np.dtype(dtype))
    data[...] = 1
    count, result = native.probe_read(data, 3)
    assert count == 3 * data.nbytes
    assert result == count / data.itemsize / lanes  # what one lane has seen


@pytest.mark.parametrize("isa", native.isa_names(), indirect=True)
@pytest.mark.parametrize("bytes_of_a_value", [1, 2])
def test_probes_of_fewer_bits_do_no_less_than_those_of_float32(isa, bytes_of_a_value):
    operations, result = native.probe_multiply_add(bytes_of_a_value, 100)
    assert operations % native.probe_multiply_add(4, 100)[0] == 0
    assert result == 12  # each sum has come to 1 for each product


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("threads", [1, 2])
def test_everything_is_measured(threads, precision):
    probe = Probe(threads, precision)
    rates = probe.everything()
    products = {"multiply_add", "gemm"} if precision == "float32" else {"multiply_add"}
    assert rates.keys() == {*products, *probe.caches, "memory"}
    assert all(0 < rate < float("inf") for rate in rates.values())


def test_caches_grow_and_the_last_is_shared():
    alone, shared = roofline.caches(1), roofline.caches(4)
    assert list(alone.values()) == sorted(alone.values())
    assert shared["L1"] == alone["L1"]
    if "L3" in alone:
        assert shared["L3"] == alone["L3"] // 4


def test_buffers_are_aligned():
    buffer = roofline.touched(1000, np.dtype(np.float64))
    assert buffer.nbytes == 1000
    assert buffer.ctypes.data % 64 == 0


# ---- the model -------------------------------------------------------------------------------------------------------


def test_weights_are_those_that_each_step_reads():
    assert roofline.weights(task(case="lat256")) == (4 * 4 * 256 * 256, 100)
    assert roofline.weights(task(case="lat256", kind="training")) == (4 * 4 * 256 * 256, 200)
    assert roofline.weights(task("gru", case="lat256", precision="float64")) == (8 * 3 * 256 * 256, 100)
    assert roofline.weights(task("rnn", case="step64")) == (4 * 64 * (64 + 64), 1)
    assert roofline.weights(task("rnn", case="step64", precision="bfloat16")) == (2 * 64 * (64 + 64), 1)
    assert roofline.weights(task("rnn", case="step64", precision="int8")) == (64 * (64 + 64), 1)


def test_the_floor_is_the_slower_of_multiplying_and_reading():
    latency = task(case="lat256")
    assert roofline.floor_seconds(latency, Limits(1e9, 1e30, "L2")) == latency.flops / 1e9
    assert roofline.floor_seconds(latency, Limits(1e30, 1e9, "L2")) == 100 * 4 * 4 * 256 * 256 / 1e9


def test_a_threads_part_of_the_weights_decides_where_they_lie():
    sizes = {"L1": 1 << 15, "L2": 1 << 19}
    assert roofline.level_of(task("rnn", case="lat64"), sizes) == "L1"  # 16 KiB
    assert roofline.level_of(task(case="lat64"), sizes) == "L2"  # 64 KiB
    assert roofline.level_of(task(case="lat64", threads=2), sizes) == "L1"
    assert roofline.level_of(task(case="lat256"), sizes) == "memory"


# ---- shares ----------------------------------------------------------------------------------------------------------


def test_the_floor_is_measured_in_turn():
    floor, chosen = Floor(), task()
    (done,) = bench.run([chosen], [EngineContender("blas")], rounds=3, seconds=0, base=floor)
    limits = floor.measured[chosen]
    assert len(limits) == len(done.base_seconds) == 3
    assert done.base_seconds == [roofline.floor_seconds(chosen, one) for one in limits]
    (outcome,) = done.outcomes
    assert outcome.ratios == [least / own for least, own in zip(done.base_seconds, outcome.seconds, strict=True)]
    assert floor.bound(chosen).gemm == sorted(one.gemm for one in limits)[1]
    (line,) = roofline.summary([done])
    assert line.startswith("blas reached ")


def test_command(bench_command, tmp_path):
    path = tmp_path / "numbers.json"
    arguments = ["--cases", "tiny", "--cells", "gru,lstm", "--threads", "1,2", "--rounds", "1", "--seconds", "0"]
    done = bench_command("--roofline", *arguments, "--engines", "blas", "--json", path)
    assert done.exit_code == 0, done.output
    assert "float32, 2 threads: " in done.stdout
    assert "in registers" in done.stdout
    assert "share" in done.stdout
    numbers = json.loads(path.read_text())
    assert [one["threads"] for one in numbers["limits"]] == [1, 2]
    for one in numbers["results"]:
        assert one["limits"].keys() == {"gemm", "read", "level"}
        share = one["engines"]["blas"]["ratio"]
        assert share == pytest.approx(one["floor"]["seconds"] / one["engines"]["blas"]["seconds"])


def test_chart(tmp_path):
    pytest.importorskip("matplotlib")
    (done,) = bench.run([task()], [EngineContender("blas")], rounds=1, seconds=0, base=Floor())
    bench.plot(tmp_path / "chart.png", [done], bench.machine(), charts.AGAINST_FLOOR)
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
