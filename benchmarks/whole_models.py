"""Whole models beside PyTorch and JAX: ``fastrnn bench --models``, and its options. README.md says what is measured.

    python benchmarks/whole_models.py --threads 2                       # all rows: some minutes
    python benchmarks/whole_models.py --quick
    python benchmarks/whole_models.py --only words-medium --rounds 11 --json numbers.json

With --to-loss, the row words-medium is trained on the text of examples/language_model.py --words instead, from the same
weights on the same batches, until the loss on the text held out (nats per word) is reached:

    python benchmarks/whole_models.py --to-loss 5.0 --data DIR --threads 2
"""

import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

import fastrnn
from fastrnn.bench import models
from fastrnn.cli import main
from fastrnn.data import Chunks

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))


@click.command()
@click.option("--to-loss", "goal", type=float, required=True, help="nats per word at which training stops")
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="folder that has tinyshakespeare/")
@click.option("--row", "name", default="words-medium", show_default=True, help="a language model of words")
@click.option("--libraries", default="torch,kit,accelerate", show_default=True, help="and jax")
@click.option("--threads", default=fastrnn.get_num_threads(), show_default=True)
@click.option("--steps", default=100, show_default=True, help="between two looks at the loss")
@click.option("--minutes", default=60.0, show_default=True, help="of training, at most, for each library")
def to_loss(goal, data, name, libraries, threads, steps, minutes):
    """Train a language model in each library, some steps in turn, and print the seconds of training to a loss."""
    from language_model import encode, read

    vocabulary, train, held_out = encode(read(data), words=True)
    row = next(row for row in models.ROWS if row.name == name)
    row = replace(row, sizes={**row.sizes, "V": len(vocabulary)})
    batches, valid = (
        list(Chunks(ids, row.sizes["B"], row.sizes["T"])(np.random.default_rng(0))) for ids in (train, held_out)
    )
    found, missing = models.find([sys.executable], threads, fastrnn.engines.current().name)
    chosen = [process for process in found if process.name in libraries.split(",")]
    print(f"{len(batches)} steps in a pass; missing: {', '.join(missing) or 'none'}")
    last = {}
    for place in models.to_loss(row, batches, valid, chosen, threads, goal, steps, minutes):
        print(f"{place.name:12}{place.steps:8} steps{place.seconds:9.1f} s   loss {place.loss:.4f}", flush=True)
        last[place.name] = place
    print()
    for place in last.values():
        base = f"   {last['torch'].seconds / place.seconds:.2f} x" if "torch" in last else ""
        reached = "" if place.loss <= goal else f"   not reached: {place.loss:.4f}"
        print(f"{place.name:12}{place.seconds:9.1f} s to {goal} nats{base}{reached}")


if __name__ == "__main__":
    if any(word.startswith("--to-loss") for word in sys.argv):
        to_loss()
    else:
        sys.argv[1:1] = ["bench", "--models"]
        main()
