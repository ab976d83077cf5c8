"""Score many sequences with Dask: the model is sent once to each worker, and each task runs on one thread.

Here the cluster is two processes of this machine. `Client("scheduler:8786")` would be yours; nothing else changes.
"""

import os
import sys
import time

try:
    from distributed import Client, LocalCluster
except ImportError:
    sys.exit(print("Dask is not installed: pip install 'fastrnn[dask]'"))  # status 0: nothing is wrong

import numpy as np
from numpy.typing import NDArray

import fastrnn
from fastrnn import nn

PARTS, SEQUENCES, STEPS, FEATURES = (8, 64, 50, 16) if "--quick" in sys.argv else (200, 256, 100, 16)


def score(part: NDArray, model: nn.Model) -> tuple[NDArray, tuple[int, int], int]:
    """The classes of the sequences of a part; and where: the process and its model, the threads of a call."""
    return model(part).argmax(axis=1), (os.getpid(), id(model)), fastrnn.get_num_threads()


if __name__ == "__main__":  # the processes import this file
    rng = np.random.default_rng(0)
    model = nn.ManyToOne(fastrnn.GRU(FEATURES, 128, rng=rng), nn.Linear(128, 3, rng=rng))  # stands for yours
    frozen = model.freeze("int8")  # a quarter of the bytes to send
    parts = list(rng.standard_normal((PARTS, STEPS, SEQUENCES, FEATURES), np.float32))

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        sent = client.scatter(frozen, broadcast=True)  # once to each worker; tasks have a reference to it
        begin = time.perf_counter()
        answers = client.gather(client.map(score, parts, model=sent))
        seconds = time.perf_counter() - begin

    classes, where, threads = zip(*answers, strict=True)
    same = all(np.array_equal(a, frozen(part).argmax(axis=1)) for a, part in zip(classes, parts, strict=True))
    workers = {process for process, _ in where}
    print(f"{len(set(where))} models in {len(workers)} workers, threads of a call: {max(threads)}")
    print(f"{PARTS * SEQUENCES / seconds:,.0f} sequences/s")
    print(f"the same answers as here: {same}")
