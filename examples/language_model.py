"""Write like Shakespeare, a character at a time: an LSTM as a language model.

    python examples/language_model.py --data DIR        # tinyshakespeare: its last 10 % are held out
    python examples/language_model.py --quick           # the manual that comes with Python, in half a minute

The text is cut into columns that are read side by side, in chunks. The state is carried from chunk to chunk and no
gradient goes back beyond one: truncated backpropagation through time. The baseline is an n-gram model.
"""

import gzip
import sys
import time
from pathlib import Path

import click
import numpy as np

import fastrnn
from fastrnn import metrics, nn, optim
from fastrnn.data import Chunks, Vocabulary
from fastrnn.train import Trainer

QUICK_MARGIN = 0.3  # nats below the n-gram model, at least


def python_manual():
    """What help() prints about the language, which every Python has: 0.7 million characters."""
    from pydoc_data.topics import topics

    return "".join(c if c.isascii() else "?" for name in sorted(topics) for c in topics[name])


def ngram_loss(train, held_out, size, order):
    """Mean loss of an n-gram model of ids 0 to size-1 with Witten-Bell smoothing.

    A context of n ids that was seen `total` times with `kinds` different successors is trusted by
    total / (total + kinds); what is left goes by the context of n-1.
    """

    def grams(ids, n):  # the n ids before each id, and it, as one number
        return sum(ids[order - 1 - k : len(ids) - k].astype(np.int64) * size**k for k in range(n + 1))

    def look_up(table, values, keys):
        at = np.searchsorted(table, keys).clip(max=len(table) - 1)
        return np.where(table[at] == keys, values[at], 0)

    p = np.full(len(held_out) - order + 1, 1 / size)
    for n in range(order):
        asked = grams(held_out, n)
        seen, counts = np.unique(grams(train, n), return_counts=True)
        contexts, first, kinds = np.unique(seen // size, return_index=True, return_counts=True)
        total = look_up(contexts, np.add.reduceat(counts, first), asked // size)
        kinds = np.maximum(look_up(contexts, kinds, asked // size), total == 0)  # an unseen context: p stays
        p = (look_up(seen, counts, asked) + kinds * p) / (total + kinds)
    return -np.log(p).mean()


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="folder that has tinyshakespeare/")
@click.option("--quick", is_flag=True, help="a small model for a short time; exit 1 if it is not good enough")
@click.option("--hidden", default=512, show_default=True, help="units of each layer")
@click.option("--layers", default=1, show_default=True, help="recurrent layers")
@click.option("--dropout", default=0.3, show_default=True, help="between layers, before and after them")
@click.option("--rate", default=8e-3, show_default=True, help="highest learning rate")
@click.option("--columns", default=32, show_default=True, help="how many places of the text are read side by side")
@click.option("--chunk", default=64, show_default=True, help="steps that a gradient goes back")
@click.option("--epochs", default=14, show_default=True, help="passes through the text")
@click.option("--minutes", type=float, help="instead of --epochs; no two runs are quite alike then")
@click.option("--save", type=click.Path(), help="where to keep the model: .npz or .safetensors")
@click.option("--seed", default=0, show_default=True)
def main(data, quick, hidden, layers, dropout, rate, columns, chunk, epochs, minutes, save, seed):
    """Train a character-level language model, print its loss on text held out, and what it writes."""
    text, order = python_manual(), 5
    if data is not None:
        text = gzip.decompress((data / "tinyshakespeare" / "input.txt.gz").read_bytes()).decode()
    if quick:
        text, order = text[:300_000], 3
        hidden, layers, dropout, rate, chunk, epochs = 128, 2, 0.0, 1e-2, 64, 7

    split = len(text) * 9 // 10
    vocabulary = Vocabulary.build([text[:split]], specials=("<unk>",))
    train, held_out = vocabulary.encode(text[:split]), vocabulary.encode(text[split:])
    V = len(vocabulary)
    baseline = ngram_loss(train, held_out, V, order)

    rng = np.random.default_rng(seed)
    lstm = fastrnn.LSTM(64, hidden, num_layers=layers, dropout=dropout if layers > 1 else 0.0, rng=rng)
    nn.set_forget_bias(lstm)
    model = nn.ManyToMany(lstm, nn.Linear(hidden, V, rng=rng), nn.Embedding(V, 64, rng=rng), dropout=dropout)
    model.vocabularies["characters"] = vocabulary
    start = time.perf_counter()
    trainer = Trainer(
        model,
        optim.AdamW(model.params, rate, betas=(0.9, 0.99)),
        Chunks(train, columns, chunk),
        Chunks.to_evaluate(held_out, columns=16),
        schedule=optim.warmup_cosine(),
        seed=seed,
        unit="characters",
        **({"epochs": epochs} if minutes is None else {"seconds": 60 * minutes}),
    )
    loss = trainer.fit()
    took = (time.perf_counter() - start) / 60
    if save is not None:
        model.save(save)

    written = model.generate(vocabulary.encode("\n"), temperature=0.8, rng=seed, banned=[vocabulary.unknown])
    print("".join(vocabulary.tokens[next(written)] for _ in range(400)), "\n")
    print(f"{'':24}nats/character  perplexity")
    print(f"{f'{order}-gram, Witten-Bell':24}{baseline:14.3f}  {metrics.perplexity(baseline):10.2f}")
    print(f"{f'LSTM, {layers} x {hidden}':24}{loss:14.3f}  {metrics.perplexity(loss):10.2f}   in {took:.1f} min")
    if quick and loss > baseline - QUICK_MARGIN:
        sys.exit(f"expected at least {QUICK_MARGIN} nats less than the baseline")


if __name__ == "__main__":
    main()
