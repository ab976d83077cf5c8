"""Training with accelerated layers does not give memory back to the system at each step."""

import sys

import pytest
from running import output_of

torch = pytest.importorskip("torch")

CODE = """
    import resource, statistics
    import torch, fastrnn.torch
    from fastrnn.torch.heap import keep_freed_memory

    rnn, output = fastrnn.torch.LSTM(32, 64), torch.nn.Linear(64, 5000)
    x, y = torch.randn(20, 20, 32), torch.randint(5000, (400,))
    faults = []
    for _ in range(24):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        rnn.zero_grad(), output.zero_grad()
        torch.nn.functional.cross_entropy(output(rnn(x)[0]).flatten(0, 1), y).backward()
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    print(keep_freed_memory(), statistics.median(faults))
    """


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_memory_stays_for_the_next_step() -> None:
    told, faults = output_of(CODE).split()
    if told == "False":
        pytest.skip("another libc, or the environment tells malloc what to keep")
    assert float(faults) < 500  # logits and their gradients are 2,000 pages each; at first all are new


def test_nothing_is_told_where_nothing_is_to_be_kept() -> None:
    assert output_of(CODE, FASTRNN_KEEP_MIB="0").split()[0] == "False"
    assert output_of(CODE, MALLOC_TRIM_THRESHOLD_="131072").split()[0] == "False"
