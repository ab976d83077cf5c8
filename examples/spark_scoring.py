"""Score a column of a Spark DataFrame: the model is sent once to each machine, and each task runs on one thread.

Here the cluster is two Python workers of this machine. Needs Java 17 or later.
"""

import os
import shutil
import sys
import time

import numpy as np
from numpy.typing import NDArray

import fastrnn
from fastrnn import nn

try:
    import pandas as pd
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql import SparkSession
    from pyspark.sql.types import LongType, StructField, StructType
except ImportError:
    sys.exit(print("Spark is not installed: pip install 'fastrnn[spark]'"))  # status 0: nothing is wrong
if "JAVA_HOME" not in os.environ and shutil.which("java") is None:
    sys.exit(print("Spark needs Java 17 or later, and there is none: install one, or set JAVA_HOME"))

ROWS, STEPS, FEATURES = (500, 50, 16) if "--quick" in sys.argv else (20_000, 100, 16)
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)

rng = np.random.default_rng(0)
model = nn.ManyToOne(fastrnn.GRU(FEATURES, 128, rng=rng), nn.Linear(128, 3, rng=rng))  # stands for yours
frozen = model.freeze("int8")  # a quarter of the bytes to send
series = rng.standard_normal((ROWS, STEPS * FEATURES), np.float32)

options = {"spark.ui.enabled": "false", "spark.default.parallelism": "4"}
spark = SparkSession.builder.master("local[2]").config(map=options).getOrCreate()
spark.sparkContext.setLogLevel("ERROR")
table = spark.createDataFrame(pd.DataFrame({"series": list(series)}))  # 4 partitions: 4 tasks
sent = spark.sparkContext.broadcast(frozen)


def make_predict():  # type: ignore[no-untyped-def]
    """Called once in each Python worker."""
    model, process = sent.value, os.getpid()

    def predict(x: NDArray) -> dict[str, NDArray]:
        """Score rows x (B, T, F)."""
        found = model(x.swapaxes(0, 1)).argmax(axis=1)
        about = {"process": process, "model": id(model), "threads": fastrnn.get_num_threads()}
        return {"class": found} | {name: np.full(len(x), value) for name, value in about.items()}

    return predict


fields = [StructField(name, LongType()) for name in ("class", "process", "model", "threads")]
score = predict_batch_udf(
    make_predict, return_type=StructType(fields), batch_size=256, input_tensor_shapes=[[STEPS, FEATURES]]
)
begin = time.perf_counter()
answers = table.select("series", score("series").alias("found")).select("series", "found.*").toPandas()
seconds = time.perf_counter() - begin
spark.stop()

there = np.stack(answers["series"].to_list()).reshape(-1, STEPS, FEATURES)
same = np.array_equal(frozen(there.swapaxes(0, 1)).argmax(axis=1), answers["class"])
models = answers[["process", "model"]].drop_duplicates()
threads = answers["threads"].max()
print(f"{len(models)} models in {models['process'].nunique()} workers, threads of a call: {threads}")
print(f"{ROWS / seconds:,.0f} sequences/s")
print(f"the same answers as here: {same}")
