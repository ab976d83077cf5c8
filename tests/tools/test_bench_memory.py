"""The benchmark's view of memory: scratch and tapes are measured as they are, and too much of either shows."""

import json

import numpy as np
import pytest
from running import output_of

import fastrnn
from fastrnn.bench import CASES, Sizes, Task, memory
from fastrnn.bench.memory import Usage

pytestmark = [
    pytest.mark.usefixtures("small_cases"),
    pytest.mark.skipif(not memory.available(), reason="the system does not tell a process's peak"),
]


def task(cell="lstm", kind="training", sizes=(4, 3, 5, 67), precision="float32"):
    return Task(cell, kind, "tiny", precision, 1, Sizes(*sizes))


@pytest.mark.parametrize(("cell", "values"), [("rnn", 1), ("lstm", 5), ("gru", 4)])
def test_tapes_hold_what_the_design_says(cell, values):
    chosen = task(cell)
    assert memory.tape_limit(chosen) == values * 4 * 3 * 67 * 4
    held = memory.measured(chosen)["tape"]
    assert held == (0 if cell == "rnn" else memory.tape_limit(chosen))  # an RNN's is its y


def test_inference_has_no_tape():
    assert memory.tape_limit(task(kind="inference")) == 0


def test_what_a_call_frees_again_counts():
    """In a process of its own: in one that trains by fastrnn.torch so much may come from memory that is kept."""
    code = """
import numpy as np
from fastrnn.bench import memory
print(*memory.grows(lambda: np.ones(64 << 20, np.uint8).sum()))
"""
    returned, grown = map(int, output_of(code).split())
    assert returned == 64 << 20
    assert 60 << 20 < grown < 70 << 20  # the kernel counts in batches of pages


def test_scratch_is_that_of_a_call_in_a_fresh_process():
    """W x of a chunk: 256 steps of 4 rows, 4*64 values, are 1 MiB; of all 4,000 they would be 15."""
    usage = memory.in_fresh_process(task("lstm", "inference", (4000, 4, 64, 64)), "packed")
    assert 1 << 19 < usage.scratch < 3 << 20


@pytest.mark.parametrize("precision", memory.WEIGHTS_LIMIT)
def test_frozen_weights_of_fewer_bits_are_as_small_as_promised(precision):
    chosen = task("gru", "inference", (2, 1, 128, 128), precision)
    with fastrnn.engines.use("packed"):
        usage = Usage(chosen, "packed", 0, 0, **memory.weights_of(chosen))
    values = 2 * 3 * 128 * (128 + 128)  # the parameters, and packed
    assert 4 * values < usage.full_weights < 4.5 * values
    assert 0.9 * memory.WEIGHTS_LIMIT[precision] < usage.weights_share <= usage.weights_limit


def test_sequences_are_made_longer_but_steps_stay_steps():
    lat64 = Task("lstm", "inference", "lat64", "float32", 1, CASES["lat64"])
    assert memory.long_task(lat64).sizes == (memory.LONGEST, *CASES["lat64"][1:])
    large = Task("lstm", "training", "b64h1024", "float64", 1, CASES["b64h1024"])
    assert memory.long_task(large) == large  # no more are affordable
    step = Task("lstm", "inference", "step64", "float32", 1, CASES["step64"])
    assert memory.long_task(step) == step


def test_arrays_are_found_and_counted_once():
    class Holder:
        __slots__ = ("held",)

    whole = np.zeros(100)
    holder = Holder()
    holder.held = {"views": [whole[:10], whole[5:]], "other": (np.zeros(3), fastrnn.LSTM)}
    assert memory.size_of(memory.arrays_in(holder)) == 8 * 103
    assert memory.size_of(memory.arrays_in(holder), without=[whole[50:]]) == 8 * 3


def test_summary_names_broken_promises():
    good = Usage(task("gru", "inference"), "packed", 1 << 20, 0)
    greedy = Usage(task("rnn", "inference"), "packed", 9 << 20, 0)
    hoarder = Usage(task(), "packed", 0, memory.tape_limit(task()) + 1)
    heavy, light = (
        Usage(task(kind="inference", sizes=(1, 1, size, size), precision="int8"), "packed", 0, 0, 28, 100)
        for size in (128, 64)  # the second is too small to count
    )
    assert memory.summary([good, greedy, hoarder, heavy, light]) == [
        "inference: at most 9.0 of 8 MiB of scratch (rnn inference tiny float32 1 thread)",
        "training: at most 0.0 MiB of scratch (lstm training tiny float32 1 thread)",
        "int8: frozen layers of at most 0.280 of 0.27 of float32's (lstm inference tiny int8 1 thread)",
        "tapes as the design says, or smaller: 0 of 1",
        "rnn inference tiny float32 1 thread: scratch above 8 MiB",
        "lstm training tiny float32 1 thread: tape above the design's",
        "lstm inference tiny int8 1 thread: weights above 0.27 of float32's",
    ]


def test_command(bench_command, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "LONGEST", 50)
    path = tmp_path / "numbers.json"
    done = bench_command("--memory", "--cases", "tiny,step", "--cells", "lstm", "--threads", "1", "--json", path)
    assert done.exit_code == 0, done.output
    assert "tapes as the design says, or smaller: 1 of 1" in done.stdout
    entries = json.loads(path.read_text())["results"]
    assert [(one["kind"], one["sizes"]["T"]) for one in entries] == [
        ("inference", 50),
        ("inference", 1),
        ("training", 50),
    ]
    assert entries[2]["tape"] == entries[2]["tape_limit"] == entries[2]["states_tape"] == 5 * 50 * 3 * 67 * 4


def test_a_tape_of_states_is_measured():
    """Of 2,000 steps those between two of 16 segments are recorded at a time, 64 rows of 8 steps."""
    usage = memory.in_fresh_process(task("lstm", "training", (2000, 64, 32, 64)), "packed")
    assert usage.tape == memory.tape_limit(usage.task)
    assert 0 < usage.states_tape < 0.06 * usage.tape
    assert usage.states_tape + usage.states_scratch < 0.5 * usage.tape
    assert "keep=" in memory.summary([usage])[2]


def test_command_fails_on_a_broken_promise(bench_command, monkeypatch):
    monkeypatch.setattr(memory, "in_fresh_process", lambda task, engine: Usage(task, engine, 9 << 20, 0))
    done = bench_command("--memory", "--cases", "tiny", "--kinds", "inference", "--cells", "rnn")
    assert done.exit_code == 1
    assert "scratch above 8 MiB" in done.stdout
