"""Each instruction set that this machine has computes what the oracle computes, and is the one that was asked for."""

import platform
from pathlib import Path

import instruction_sets
import pytest
from running import output_of

from fastrnn._core import native

CHECK = """
    import numpy as np
    import fastrnn
    from generators import VARIANTS, WIDTHS, build_layer, random_call
    from oracle import infer, oracle, train
    from tolerances import assert_close, assert_results_close

    fastrnn.show_config()
    for variant in VARIANTS:
        for k, hidden_size in enumerate(WIDTHS):
            dtype = (np.float32, np.float64)[k % 2]
            layer = build_layer(variant, 1 + 7 * k % 19, hidden_size, dtype=dtype, bidirectional=k % 3 == 0)
            call = random_call(layer, 3, 1 + 5 * k % 12, np.random.default_rng(k), lengths=k % 4 == 0)
            expected, actual = oracle(layer, call), train(layer, call)
            if variant == "rnn-relu":  # rounding may decide a gradient at the kink
                call.dy = call.dstate = None
                expected, actual = oracle(layer, call), train(layer, call)
            assert_results_close(actual, expected)
            assert_results_close(infer(layer, call), {n: v for n, v in expected.items() if not n.startswith("grad")})
    print("fine")
"""


def test_there_is_one() -> None:
    assert native.isa_names()
    assert len(set(native.isa_names())) == len(native.isa_names())


@pytest.mark.skipif(platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="Linux on x86-64 only")
def test_those_of_the_machine_are_there() -> None:
    """As the kernel lists them: a compiler's library may know less."""
    flags = set(Path("/proc/cpuinfo").read_text().split("flags", 1)[1].splitlines()[0].split())
    assert ("avx2" in native.isa_names()) == ({"avx2", "fma"} <= flags)
    assert ("avx512" in native.isa_names()) == ({"avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl"} <= flags)


@pytest.mark.parametrize("isa", instruction_sets.DISTINCT)
def test_each_gives_what_the_oracle_gives(compiled: str, isa: str) -> None:
    *config, last = output_of(CHECK, FASTRNN_ISA=isa, FASTRNN_ENGINE=compiled).splitlines()
    assert last == "fine"
    (row,) = [line for line in config if line.startswith("instruction set")]
    assert row.split()[2] == isa


def test_the_best_is_the_default() -> None:
    out = output_of("import fastrnn; fastrnn.show_config()")
    (row,) = [line for line in out.splitlines() if line.startswith("instruction set")]
    assert row.split()[2] == native.isa_names()[0]
