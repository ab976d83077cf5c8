"""How training and scoring scale with processes on one machine. Run: python benchmarks/clusters.py

Needs `pip install "fastrnn[mpi,dask,spark,torch]" mpich click`; what is not installed is left out. Each way is measured
in turn, for some rounds; the table has the medians, relative to one process with one thread.

Training: 40 steps of an LSTM of 256 units on batches of 64 sequences of 100 steps, of all processes together; beside it
what an all-reduce of its gradients takes. Scoring: a GRU of 128 units on sequences of 100 steps. Under Dask, a task
makes its own sequences, as if it had read them; under Spark they are a column of a table that is in memory.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

import fastrnn
from fastrnn import distributed, nn, optim
from fastrnn.data import Batches, Dataset
from fastrnn.train import Trainer

STEPS, T, B, I, H = 40, 100, 64, 64, 256
FEATURES, SEQUENCES, PARTS = 16, 256, 32
BESIDE = Path(sys.executable).parent


# ---- training -------------------------------------------------------------------------------------------------------


def train(kind: str, threads: int) -> None:
    """What each process runs. Process 0 prints sequences per second and the milliseconds of an all-reduce."""
    fastrnn.set_num_threads(threads)
    group = {"alone": lambda: None, "mpi": distributed.mpi, "gloo": distributed.gloo}[kind]()
    rng = np.random.default_rng(0)
    model = nn.ManyToOne(fastrnn.LSTM(I, H, rng=rng), nn.Linear(H, 10, rng=rng))
    dataset = Dataset(list(rng.standard_normal((4 * B, T, I), np.float32)), rng.integers(0, 10, 4 * B))
    trainer = Trainer(model, optim.AdamW(model.params), Batches(dataset, B), steps=STEPS + 1, group=group)
    ends = [time.perf_counter() for _ in trainer]
    rate = STEPS * B / (ends[-1] - ends[0])
    gradient, times = np.ones(sum(p.size for p in model.params.values()), np.float32), []
    for _ in range(30):
        start = time.perf_counter()
        trainer.group.all_reduce(gradient)
        times.append(time.perf_counter() - start)
    if trainer.group.rank == 0:
        print(json.dumps({"rate": rate, "exchange": 1e3 * median(times), "bytes": gradient.nbytes}))


def launched(kind: str, processes: int, threads: int) -> dict[str, float]:
    """What process 0 prints."""
    own = [sys.executable, __file__, "--train", kind, "--threads", str(threads)]
    environments = [dict(os.environ)]
    if kind == "mpi":
        own = [shutil.which("mpiexec", path=f"{BESIDE}{os.pathsep}{os.environ['PATH']}"), "-n", str(processes), *own]
    elif kind == "gloo":
        with socket.create_server(("127.0.0.1", 0)) as server:
            at = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
        ranks = ({"RANK": str(rank), "WORLD_SIZE": str(processes)} for rank in range(processes))
        environments = [os.environ | at | rank for rank in ranks]
    running = [subprocess.Popen(own, env=env, stdout=subprocess.PIPE, text=True) for env in environments]
    printed = [process.communicate(timeout=600)[0] for process in running]
    return json.loads(printed[0].strip().splitlines()[-1])


# ---- scoring --------------------------------------------------------------------------------------------------------


def sequences(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((T, SEQUENCES, FEATURES), np.float32)


def score(seed: int, model: Any) -> np.ndarray:
    return model(sequences(seed)).argmax(axis=1)


def frozen() -> Any:
    return nn.ManyToOne(fastrnn.GRU(FEATURES, 128, rng=0), nn.Linear(128, 3, rng=0)).freeze()


def timed(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return PARTS * SEQUENCES / (time.perf_counter() - begin)


def here(threads: int, rounds: int) -> float:
    model = frozen()
    with fastrnn.num_threads(threads):
        score(0, model)
        return median(timed(lambda: [score(seed, model) for seed in range(PARTS)]) for _ in range(rounds))


def dask(workers: int, rounds: int) -> float:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        sent = client.scatter(frozen(), broadcast=True)
        run = lambda: client.gather(client.map(score, range(PARTS), model=sent, pure=False))  # noqa: E731
        run()
        return median(timed(run) for _ in range(rounds))


def spark(workers: int, rounds: int) -> float:
    import pandas as pd
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql import SparkSession
    from pyspark.sql.types import LongType

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = SparkSession.builder.master(f"local[{workers}]").config("spark.ui.enabled", "false").getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    sent = session.sparkContext.broadcast(frozen())

    def make_predict() -> Callable[[np.ndarray], np.ndarray]:
        model = sent.value
        return lambda x: model(x.swapaxes(0, 1)).argmax(axis=1)

    udf = predict_batch_udf(
        make_predict, return_type=LongType(), batch_size=SEQUENCES, input_tensor_shapes=[[T, FEATURES]]
    )
    rows = np.concatenate([sequences(seed).swapaxes(0, 1).reshape(SEQUENCES, -1) for seed in range(PARTS)])
    table = session.createDataFrame(pd.DataFrame({"x": list(rows)})).repartition(4).cache()
    table.count()
    run = lambda: table.select(udf("x").alias("y")).groupBy().sum("y").collect()  # noqa: E731
    run()
    found = median(timed(run) for _ in range(rounds))
    session.stop()
    return found


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True)
@click.option("--train", "kind", hidden=True)
@click.option("--threads", default=1, hidden=True)
def main(rounds: int, kind: str | None, threads: int) -> None:
    if kind:
        return train(kind, threads)
    there = {name: importlib.util.find_spec(name) is not None for name in ("mpi4py", "torch", "distributed", "pyspark")}
    ways = [("alone", 1, 1), ("alone", 1, 2)]
    ways += [("mpi", 2, 1)] * there["mpi4py"] + [("gloo", 2, 1)] * there["torch"]
    found = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            found[way].append(launched(*way))
    print("training: sequences/s, times one thread; ms of an all-reduce")
    base = median(answer["rate"] for answer in found[ways[0]])
    for (kind, processes, threads), answers in found.items():
        rate, exchange = (median(answer[key] for answer in answers) for key in ("rate", "exchange"))
        print(f"{kind:6} {processes} x {threads} {rate:9,.0f} {rate / base:5.2f} {exchange:7.2f}")
    print(f"gradients: {answers[0]['bytes']:,} bytes")

    print("scoring: sequences/s, times one thread")
    base = here(1, rounds)
    rows = [("here, one thread", base), ("here, two threads", here(2, rounds))]
    rows += [(f"Dask, {n} workers", dask(n, rounds)) for n in (1, 2) if there["distributed"]]
    rows += [(f"Spark, {n} workers", spark(n, rounds)) for n in (1, 2) if there["pyspark"]]
    for name, rate in rows:
        print(f"{name:18} {rate:9,.0f} {rate / base:5.2f}")


if __name__ == "__main__":
    main()
