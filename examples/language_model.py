"""Write like Shakespeare, a character or a word at a time: an LSTM as a language model.

    python examples/language_model.py --data DIR            # tinyshakespeare: its last 10 % are held out
    python examples/language_model.py --data DIR --words    # by words
    python examples/language_model.py --quick               # the manual that comes with Python, in half a minute;
                                                            # also with --words

The text is cut into columns that are read side by side, in chunks. The state is carried from chunk to chunk and no
gradient goes back beyond one: truncated backpropagation through time. The baseline is an n-gram model.

A text has far fewer words than characters, and far more different ones, so a model of words learns it by heart. What
AWD-LSTM does against that is AWD below; `--without all` shows the same model with dropout alone, `--without tied` and
so on what one of its means gives.
"""

import gzip
import re
import sys
import time
from pathlib import Path

import click
import numpy as np

import fastrnn
from fastrnn import inspect, metrics, nn, optim
from fastrnn.data import Chunks, Vocabulary
from fastrnn.train import Trainer

QUICK_MARGIN = 0.3  # nats below the n-gram model, at least
CHARACTERS = {
    "embedding": 64, "hidden": 512, "layers": 1, "dropout": 0.3, "rate": 8e-3, "columns": 32, "chunk": 64, "epochs": 14,
}  # fmt: skip
WORDS = {
    "hidden": 128, "layers": 2, "dropout": 0.3, "rate": 5e-3, "columns": 20, "chunk": 35, "epochs": 10,
    "vocabulary": 5_000,
}  # fmt: skip
# The means of AWD-LSTM, S. Merity et al., arXiv:1708.02182: dropout of weights, of each layer's input and of the output
# with masks that are locked over time, of words' vectors; penalties of outputs; one table for the input and the output.
AWD = {"weight": 0.2, "locked": 0.2, "embedding": 0.05, "penalties": (1.0, 0.5), "tied": True}
NONE = {"weight": 0.0, "locked": 0.0, "embedding": 0.0, "penalties": (0.0, 0.0), "tied": False}


def python_manual():
    """What help() prints about the language, which every Python has: 0.7 million characters."""
    from pydoc_data.topics import topics

    return "".join(c if c.isascii() else "?" for name in sorted(topics) for c in topics[name])


def read(data):
    """The text of DIR/tinyshakespeare, or Python's manual."""
    if data is None:
        return python_manual()
    return gzip.decompress((data / "tinyshakespeare" / "input.txt.gz").read_bytes()).decode()


def encode(text, words, most=10_000):
    """Return a vocabulary of the first 90 % of a text, their ids, and those of the rest.

    Words are in lower case; punctuation and the ends of lines are words, too. All but the `most` frequent are <unk>.
    """
    split = len(text) * 9 // 10
    parts = text[:split], text[split:]
    if words:
        parts = [re.findall(r"\n|\w+(?:['-]\w+)*|[^\w\s]", part.lower()) for part in parts]
    vocabulary = Vocabulary.build(parts[:1], max_size=most if words else None, specials=("<unk>",))
    return vocabulary, *map(vocabulary.encode, parts)


def ngram_loss(train, held_out, size, order):
    """Mean loss of an n-gram model of ids 0 to size-1 with interpolated modified Kneser-Ney smoothing.

    The longest n-grams are counted; of a shorter one it counts how many different ids stand before it. Each count gives
    up a discount, and what all successors of a context give up goes by the context that is one id shorter.
    S. F. Chen, J. Goodman, "An empirical study of smoothing techniques for language modeling" (1999).
    """

    def grams(ids, n):  # the n ids before each id, and it, as one number
        return sum(ids[order - 1 - k : len(ids) - k].astype(np.int64) * size**k for k in range(n + 1))

    def look_up(table, values, keys):
        at = np.searchsorted(table, keys).clip(max=len(table) - 1)
        return np.where(table[at] == keys, values[at], 0)

    p = np.full(len(held_out) - order + 1, 1 / size)
    for n in range(order):
        found = grams(train, n) if n == order - 1 else np.unique(grams(train, n + 1)) % size ** (n + 1)
        seen, counts = np.unique(found, return_counts=True)
        once, twice, *more = (max(1, np.sum(counts == k)) for k in (1, 2, 3, 4))  # few data may lack some: not 0
        share = once / (once + 2 * twice)
        steps = zip((1, 2, 3), (once, twice, more[0]), (twice, *more), strict=True)
        discounts = np.array([0, *(np.clip(k - (k + 1) * share * above / own, 0, k) for k, own, above in steps)])

        asked = grams(held_out, n)
        contexts, first = np.unique(seen // size, return_index=True)
        total = look_up(contexts, np.add.reduceat(counts, first), asked // size)
        given_up = look_up(contexts, np.add.reduceat(discounts[counts.clip(max=3)], first), asked // size)
        counts = look_up(seen, counts, asked)
        own, given_up = (
            counts - discounts[counts.clip(max=3)],
            np.where(total, given_up, 1),
        )  # an unseen context: p stays
        p = (own + given_up * p) / np.maximum(total, 1)
    return -np.log(p).mean()


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="folder that has tinyshakespeare/")
@click.option("--words", is_flag=True, help="read and write words instead of characters")
@click.option("--without", multiple=True, type=click.Choice([*AWD, "all"]), help="leave out a means of AWD-LSTM's")
@click.option("--quick", is_flag=True, help="a small model for a short time; exit 1 if it is not good enough")
@click.option("--hidden", type=int, help="units of each layer  [default: 512; words: 128]")
@click.option("--layers", type=int, help="recurrent layers  [default: 1; words: 2]")
@click.option("--dropout", type=float, help="between layers, before and after them  [default: 0.3]")
@click.option("--rate", type=float, help="highest learning rate  [default: 0.008; words: 0.005]")
@click.option("--columns", type=int, help="places of the text that are read side by side  [default: 32; words: 20]")
@click.option("--chunk", type=int, help="steps that a gradient goes back  [default: 64; words: 35]")
@click.option("--vocabulary", type=int, help="how many words are known, with --words  [default: 5000]")
@click.option("--epochs", type=int, help="passes through the text  [default: 14; words: 10]")
@click.option("--minutes", type=float, help="instead of --epochs; no two runs are quite alike then")
@click.option("--precisions", is_flag=True, help="also compare float32, bfloat16 and int8")
@click.option("--save", type=click.Path(), help="where to keep the model: .npz or .safetensors")
@click.option("--seed", default=0, show_default=True)
def main(data, words, without, quick, minutes, precisions, save, seed, **given):
    """Train a language model, print its loss on text held out, and what it writes."""
    text, order, unit = read(data), 4 if words else 5, "word" if words else "character"
    settings = {
        **(WORDS if words else CHARACTERS),
        **{name: value for name, value in given.items() if value is not None},
    }
    if quick:
        text, order = text[:300_000], 3
        settings |= {"hidden": 128, "layers": 2, "dropout": 0.0, "rate": 1e-2, "chunk": 64, "epochs": 7}
        if words:  # the manual repeats itself so much that longer n-grams need more than a quick model
            order = 1
            settings |= {"hidden": 64, "dropout": 0.3, "chunk": 35, "epochs": 4, "vocabulary": 2000}
    H, layers, dropout = (settings[name] for name in ("hidden", "layers", "dropout"))
    E = settings.get("embedding", H)  # of words, H: as tied weights have it

    vocabulary, train, held_out = encode(text, words, settings.get("vocabulary"))
    V = len(vocabulary)
    baseline = ngram_loss(train, held_out, V, order)

    awd = {name: NONE[name] if not words or {name, "all"} & set(without) else AWD[name] for name in AWD}
    locked, (ar, tar) = awd["locked"] > 0, awd["penalties"]
    rng = np.random.default_rng(seed)
    lstm = fastrnn.LSTM(
        E, H, num_layers=layers, dropout=0.0 if locked or layers == 1 else dropout,
        input_dropout=awd["locked"], weight_dropout=awd["weight"], rng=rng,
    )  # fmt: skip
    nn.set_forget_bias(lstm)
    embedding = nn.Embedding(V, E, scale=0.1 if words else 1.0, embedding_dropout=awd["embedding"], rng=rng)
    model = nn.ManyToMany(
        lstm, nn.Linear(H, V, rng=rng), embedding, dropout=(0.0, dropout) if locked else dropout, locked=locked,
        tied=awd["tied"], ar=ar, tar=tar,
    )  # fmt: skip
    model.vocabularies[f"{unit}s"] = vocabulary
    start = time.perf_counter()
    trainer = Trainer(
        model,
        optim.AdamW(model.params, settings["rate"], betas=(0.9, 0.99)),
        Chunks(train, settings["columns"], settings["chunk"]),
        Chunks.to_evaluate(held_out, columns=16),
        schedule=optim.warmup_cosine(),
        seed=seed,
        unit=f"{unit}s",
        **({"epochs": settings["epochs"]} if minutes is None else {"seconds": 60 * minutes}),
    )
    loss = trainer.fit()
    took = (time.perf_counter() - start) / 60
    if save is not None:
        model.save(save)

    written = model.generate(vocabulary.encode("\n"), temperature=0.8, rng=seed, banned=[vocabulary.unknown])
    between = " " if words else ""
    print(between.join(vocabulary.tokens[next(written)] for _ in range(120 if words else 400)), "\n")
    print(f"{'':24}{f'nats/{unit}':>14}  perplexity")
    print(f"{f'{order}-gram, Kneser-Ney':24}{baseline:14.3f}  {metrics.perplexity(baseline):10.2f}")
    print(f"{f'LSTM, {layers} x {H}':24}{loss:14.3f}  {metrics.perplexity(loss):10.2f}   in {took:.1f} min")
    if precisions:
        print(inspect.precision(model, Chunks.to_evaluate(held_out, columns=16)))
    if quick and loss > baseline - QUICK_MARGIN:
        sys.exit(f"expected at least {QUICK_MARGIN} nats less than the baseline")


if __name__ == "__main__":
    main()
