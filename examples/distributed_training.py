"""Train one model in several processes, on one machine or on many: as one process would, up to rounding.

Start it with what your cluster has. Each process computes its share of every batch, on one thread; the gradients are
summed by MPI, or by PyTorch's gloo under torchrun:

    mpiexec -n 2 python examples/distributed_training.py
    torchrun --nproc-per-node 2 examples/distributed_training.py

The task: read sequences of letters, and say whether the first letter comes again later.
"""

import os
import sys

import numpy as np

import fastrnn
from fastrnn import distributed, nn, optim
from fastrnn.data import Batches, Dataset
from fastrnn.train import Trainer

try:
    group = distributed.gloo() if "RANK" in os.environ else distributed.mpi()
except ImportError as error:
    sys.exit(print(error))  # status 0: nothing is wrong

fastrnn.set_num_threads(1)  # a process for each core; or fewer processes, and more threads each
quick = "--quick" in sys.argv

rng = np.random.default_rng(0)
letters = [rng.integers(0, 20, length) for length in rng.integers(5, 30, 500 if quick else 5000)]
dataset = Dataset(letters, np.array([int(word[0] in word[1:]) for word in letters]))
valid, train = dataset.take(np.arange(200)), dataset.take(np.arange(200, len(dataset)))

model = nn.ManyToOne(fastrnn.LSTM(16, 64, rng=rng), nn.Linear(64, 2, rng=rng), nn.Embedding(20, 16, rng=rng))
trainer = Trainer(
    model,
    optim.AdamW(model.params, 0.01),
    Batches(train, 64),  # of all processes together
    Batches(valid, 64),
    epochs=2 if quick else 20,
    unit="words",
    group=group,
)
score = trainer.fit()  # process 0 shows the progress
if group.rank == 0:
    print(f"{group.size} processes: loss {score:.4f}")
