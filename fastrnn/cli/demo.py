"""``fastrnn demo``: train a character language model, write text with it, and time it against NumPy."""

from __future__ import annotations

import gzip
import os
import statistics
import tempfile
import time
import zlib
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from fastrnn import engines, nn, optim, serialization
from fastrnn.bench import wait_until_idle
from fastrnn.cli.errors import Failure
from fastrnn.cli.ranges import COUNT, SEED, FiniteRange
from fastrnn.cli.sample import CHARACTERS, print_sample, sample_options
from fastrnn.data import Chunks, Vocabulary
from fastrnn.engines.cell import CELLS
from fastrnn.layers import LAYERS
from fastrnn.train import Trainer

__all__ = ["demo"]

HELD_OUT = 0.1  # the last tenth of the text is not trained on
VALID_LIMIT = 200_000  # characters of the held-out part that are read for validation
QUICK_LIMIT = 200_000  # characters of the text that --quick takes
QUICK = {"hidden": 64, "minutes": 0.1, "batch": 32, "seq_len": 32}
USUAL = {"hidden": 256, "minutes": 3.0, "batch": 32, "seq_len": 64}
EMBEDDING_SIZE = 64
LR = 15e-3  # the highest learning rate, of AdamW


@click.command()
@click.option("--text", type=click.Path(), help="UTF-8 text, or .gz of it. [default: Python's own help topics]")
@click.option("--cell", type=click.Choice(sorted(LAYERS)), default="lstm", show_default=True)
@click.option("--hidden", type=click.IntRange(1, 1 << 16), help=f"Hidden units. [default: {USUAL['hidden']}]")
@click.option("--layers", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--seq-len", type=click.IntRange(1, 1 << 16), help=f"Steps of a chunk. [default: {USUAL['seq_len']}]")
@click.option("--batch", type=click.IntRange(1, 1 << 16), help=f"Texts side by side. [default: {USUAL['batch']}]")
@click.option("--minutes", type=FiniteRange(0, 1e6), help=f"To train. [default: {USUAL['minutes']:g}]")
@click.option("--steps", type=COUNT, help="To train, instead of --minutes: reproducible.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--out", type=click.Path(), help="Save the model with the best validation loss: .npz or .safetensors.")
@click.option("--quick", is_flag=True, help="A small model on a little text, over in less than 20 seconds.")
@sample_options
def demo(
    text: str | None, cell: str, hidden: int | None, layers: int, seq_len: int | None, batch: int | None,
    minutes: float | None, steps: int | None, seed: int, out: str | None, quick: bool, prompt: str, length: int,
    temperature: float,
) -> None:  # fmt: skip
    """Train a character language model on a text, write text with it, and time it against NumPy."""
    console = Console(stderr=True, highlight=False)
    usual = QUICK if quick else USUAL
    hidden = hidden or int(usual["hidden"])
    batch = batch or int(usual["batch"])
    seq_len = seq_len or int(usual["seq_len"])
    if steps is None and minutes is None:
        minutes = usual["minutes"]
    if steps is not None and minutes is not None:
        raise Failure("--minutes, --steps: expected one of them, got both")
    if out is not None:
        check_writable(out, 0)

    source, content = read_text(text)
    if quick:
        content = content[:QUICK_LIMIT]
    cut = len(content) - int(len(content) * HELD_OUT)
    train_text, valid_text = content[:cut], content[cut:][:VALID_LIMIT]
    if cut <= batch * seq_len or len(valid_text) < 2:
        raise Failure(
            f"{source}: too short: expected at least {(batch * seq_len + 1) / (1 - HELD_OUT) + 1:.0f} characters "
            f"for --batch {batch} and --seq-len {seq_len}, got {len(content)}"
        )
    vocabulary = Vocabulary(sorted(set(train_text)), specials=["<unk>"])
    check_memory(len(vocabulary), cell, hidden, layers, batch, seq_len)
    model = character_model(vocabulary, cell, hidden, layers, seed)
    if out is not None:
        check_writable(out, sum(p.nbytes for p in model.params.values()))
    trainer = Trainer(
        model, optim.AdamW(model.params, LR, betas=(0.9, 0.99)), Chunks(vocabulary.encode(train_text), batch, seq_len),
        Chunks.to_evaluate(vocabulary.encode(valid_text)), seconds=None if minutes is None else 60 * minutes,
        steps=steps, schedule=optim.warmup_cosine(), seed=seed, unit="characters",
    )  # fmt: skip
    click.echo(f"text: {source}, {len(train_text):,} characters to train on, {len(vocabulary) - 1} distinct")
    part = "all" if len(valid_text) == len(content) - cut else "the beginning"
    click.echo(f"validation: {part} of the last {HELD_OUT:.0%}, {len(valid_text):,} characters, state carried through")
    count = sum(p.size for p in model.params.values())
    engine = engines.current().name
    click.echo(f"model: {layers} x {cell} of {hidden} units, {count:,} parameters, engine {engine}")

    trainer.fit(console=console)
    score = "nan" if trainer.best_score is None else f"{trainer.best_score:.4f}"
    if trainer.best_score is not None:
        click.echo(f"best validation loss: {score} nats per character")
    if out is not None:
        words = {"text": source, "seed": f"{seed}", "valid_loss": score, "batch": f"{batch}", "seq_len": f"{seq_len}"}
        try:
            model.save(out, words)
        except OSError as error:
            raise Failure(f"{out}: {error.strerror or error}") from error
        click.echo(f"{'interrupted: ' if trainer.interrupted else ''}saved {out}")
    if trainer.interrupted:
        raise click.exceptions.Exit(130)

    click.echo(f"sample, temperature {temperature:g}:\n")
    print_sample(model, prompt, length, temperature, seed)
    click.echo()
    compare_engines(trainer)


def character_model(vocabulary: Vocabulary, cell: str, hidden: int, layers: int, seed: int) -> nn.ManyToMany:
    """Build a language model of characters: after each one it gives the probabilities of the next."""
    rng = np.random.default_rng(seed)
    embedding = nn.Embedding(len(vocabulary), EMBEDDING_SIZE, rng=rng)
    embedding.params["weight"][vocabulary.unknown] = 0  # zero, because this id does not occur in training
    rnn = LAYERS[cell](EMBEDDING_SIZE, hidden, layers, rng=rng)
    if "f" in rnn.cell.gates:
        nn.set_forget_bias(rnn)
    model = nn.ManyToMany(rnn, nn.Linear(hidden, len(vocabulary), rng=rng), embedding)
    model.vocabularies[CHARACTERS] = vocabulary
    return model


def compare_engines(trainer: Trainer, repeats: int = 3) -> None:
    """Print the time of the same training step on the reference engine and on the current one, in turn."""
    fast = engines.current().name
    batch = next(iter(trainer.batches(np.random.default_rng(0))))
    trainer.optimizer.lr = 0.0  # the model stays as it is
    seconds: dict[str, list[float]] = {"reference": [], fast: []}
    for repeat in range(repeats + 1):
        for name, times in seconds.items():
            wait_until_idle()
            with engines.use(name):
                begin = time.perf_counter()
                trainer.learn(batch)
                if repeat:  # the first round only warms up
                    times.append(time.perf_counter() - begin)
    slow_time, fast_time = statistics.median(seconds["reference"]), statistics.median(seconds[fast])
    click.echo(
        f"a training step of {batch.x.size:,} characters: reference (NumPy) {slow_time * 1e3:.1f} ms, "
        f"{fast} {fast_time * 1e3:.1f} ms: {slow_time / fast_time:.1f} times as fast"
    )


def read_text(path: str | None) -> tuple[str, str]:
    """Return the source of a text, and the text: that of a file, which may be .gz, or Python's help topics."""
    if path is None:
        try:
            from pydoc_data.topics import topics
        except ImportError:
            raise Failure("--text: expected a file, for this Python comes without its help topics") from None
        return "Python's help topics", "\n\n".join(topics[name] for name in sorted(topics))
    if not os.path.exists(path) and os.path.exists(f"{path}.gz"):
        path = f"{path}.gz"
        click.echo(f"using {path}")
    try:
        data = Path(path).read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return path, data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Failure(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Failure(f"{path}: damaged .gz file ({error})") from error
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from error


def check_writable(path: str, size: int) -> None:
    """Fail now, not after minutes of training, if a model of so many bytes cannot be saved at `path`."""
    try:
        serialization.check_path(path)
        if os.path.isdir(path):
            raise IsADirectoryError(21, "Is a directory")
        with tempfile.TemporaryFile(dir=os.path.dirname(os.path.realpath(path))) as file:
            file.write(bytes(size))
    except OSError as error:
        raise Failure(f"{path}: cannot write ({error.strerror or error})") from error
    except (ValueError, ImportError) as error:
        raise Failure(str(error)) from error


def check_memory(vocabulary: int, cell: str, hidden: int, layers: int, batch: int, seq_len: int) -> None:
    """Fail if training needs more memory than the machine has. Linux would allocate it, and kill the process later."""
    gates = len(CELLS[cell](EMBEDDING_SIZE, hidden, np.dtype(np.float32)).gates)
    params = vocabulary * (EMBEDDING_SIZE + hidden) + gates * hidden * (EMBEDDING_SIZE + hidden * (2 * layers - 1))
    step = seq_len * batch * (3 * vocabulary + layers * hidden * (gates + 4))
    # Parameters, the best ones, gradients, two moments, and weights packed for forward and for backward.
    needed = 4 * (7 * params + step)
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return
    if needed > there:
        raise MemoryError(
            f"--hidden {hidden}, --layers {layers}, --batch {batch}, --seq-len {seq_len} need about "
            f"{needed / 2**30:.1f} GiB, this machine has {there / 2**30:.1f}"
        )
