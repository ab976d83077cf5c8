"""Translate English into Korean: an encoder-decoder with attention and beam search.

    python examples/translator.py --data DIR            # tatoeba_kor_eng: 10 % of the English sentences are the test
    python examples/translator.py --quick               # dates in many formats to ISO 8601, in half a minute

English is read word by word, Korean written syllable by syllable, which are its characters; dates are read and written
character by character. The baseline copies the translation of the training sentence nearest to the one asked for.
"""

import datetime
import gzip
import re
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import click
import numpy as np
from scipy.sparse import csr_array

import fastrnn
from fastrnn import metrics, nn, optim
from fastrnn.data import Batches, Dataset, Vocabulary
from fastrnn.train import Trainer

QUICK_EXACT = 0.99  # share of the dates that --quick must get right
MONTHS = [datetime.date(2000, month, 1).strftime("%B") for month in range(1, 13)]
DAYS = [datetime.date(2001, 1, day).strftime("%A") for day in range(1, 8)]  # the first was a Monday


def dates(count, rng):
    """Pairs of a date as people write it, and as ISO 8601 has it; each date once."""
    days = rng.choice(datetime.date(2100, 1, 1).toordinal() - (first := datetime.date(1900, 1, 1).toordinal()), count)
    pairs = []
    for day in (datetime.date.fromordinal(first + int(k)) for k in np.unique(days)):
        y, m, d = day.year, MONTHS[day.month - 1], day.day
        ending = "th" if 10 < d < 20 else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th")
        forms = [
            f"{d} {m} {y}", f"{m} {d}, {y}", f"{m[:3]} {d} {y}", f"{d}-{m[:3]}-{y}", f"{m} {d}{ending}, {y}",
            f"the {d}{ending} of {m} {y}", f"{DAYS[day.weekday()]}, {d} {m} {y}",
            f"{DAYS[day.weekday()][:3]} {m[:3]} {d} {y}",
            f"{d}.{day.month}.{y}", f"{day.month}/{d}/{y}", f"{y}/{day.month:02}/{d:02}", f"{y}{day.month:02}{d:02}",
        ]  # fmt: skip
        form = forms[rng.integers(len(forms))]
        pairs.append(([form, form.upper(), form.lower()][rng.integers(3)], day.isoformat()))
    rng.shuffle(pairs)
    return [tuple(pair) for pair in pairs]


def sentences(path):
    """Pairs of an English sentence and a Korean one, by part of the data: what the CRC of the English one says."""
    parts = {"train": [], "dev": [], "test": []}
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        english, korean = line.split("\t")[:2]
        part = {0: "test", 1: "dev"}.get(zlib.crc32(english.encode()) % 10, "train")
        parts[part].append((english, korean))
    return parts.values()


def words(text):
    """What a sentence is read as: its words in lower case, and punctuation."""
    return re.findall(r"[\w'-]+|[^\w\s]", text.lower())


def nearest(train, sources):
    """For each source the translation of the training sentence most like it, by tf-idf of n-grams."""

    def grams(text):
        return Counter(f" {text.lower()} "[k : k + n] for n in (2, 3, 4) for k in range(len(text) + 3 - n))

    known = [grams(source) for source, _ in train]
    idf = {gram: np.log(len(known) / count) for gram, count in Counter(g for bag in known for g in bag).items()}
    columns = {gram: k for k, gram in enumerate(idf)}

    def vectors(bags):
        cells = [(row, columns[g], n * idf[g]) for row, bag in enumerate(bags) for g, n in bag.items() if g in idf]
        rows, places, values = map(np.array, zip(*cells, strict=True))
        norms = np.sqrt(np.bincount(rows, values**2, len(bags)))
        return csr_array((values / norms[rows], (rows, places)), (len(bags), len(idf)))

    likeness = vectors([grams(source) for source in sources]) @ vectors(known).T
    return [train[k][1] for k in likeness.toarray().argmax(axis=1)]


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="folder that has tatoeba_kor_eng/")
@click.option("--quick", is_flag=True, help="less training, and exit 1 if it was not enough")
@click.option("--hidden", default=256, show_default=True, help="units of the decoder, and of each half of the encoder")
@click.option("--embedding", default=128, show_default=True, help="length of a word's or character's vector")
@click.option("--dropout", default=0.4, show_default=True)
@click.option("--rate", default=3e-3, show_default=True, help="highest learning rate")
@click.option("--batch", default=32, show_default=True, help="sentences of a training step")
@click.option("--epochs", default=40, show_default=True, help="passes through the data")
@click.option("--minutes", type=float, help="instead of --epochs; no two runs are quite alike then")
@click.option("--beams", default=5, show_default=True, help="translations kept at each step of the search")
@click.option("--save", type=click.Path(), help="where to keep the model: .npz or .safetensors")
@click.option("--seed", default=0, show_default=True)
def main(data, quick, hidden, embedding, dropout, rate, batch, epochs, minutes, beams, save, seed):
    """Train an encoder-decoder, and compare its translations of test sentences with the nearest one's."""
    rng = np.random.default_rng(seed)
    if data is None:
        pairs = dates(16_000, rng)
        train, dev, test = pairs[2000:], pairs[:1000], pairs[1000:2000]
        hidden, embedding, dropout, rate, epochs = 64, 32, 0.0, 1e-2, 3 if quick else 8
    else:
        train, dev, test = sentences(data / "tatoeba_kor_eng" / "kor.txt.gz")

    # Words that occur once are unknown: so the model learns what to do with those of the test that never did.
    tokens, rare = (list, 1) if data is None else (words, 2)
    sources = Vocabulary.build([tokens(source) for source, _ in train], min_count=rare)
    targets = Vocabulary.build([target for _, target in train])

    def encoded(pairs):
        return Dataset([sources.encode(tokens(s)) for s, _ in pairs], [targets.encode(t) for _, t in pairs])

    encoder = fastrnn.LSTM(embedding, hidden, bidirectional=True, rng=rng)
    rnn = fastrnn.LSTM(embedding, hidden, rng=rng)
    nn.set_forget_bias(encoder)
    nn.set_forget_bias(rnn)
    decoder = nn.Decoder(
        nn.Embedding(len(targets), embedding, rng=rng),
        rnn,
        nn.Linear(hidden, len(targets), rng=rng),
        bridge=nn.Linear(2 * hidden, nn.state_size(rnn), rng=rng),
        attention=nn.Attention(hidden, 2 * hidden, rng=rng),
        dropout=dropout,
    )
    model = nn.EncoderDecoder(encoder, decoder, nn.Embedding(len(sources), embedding, rng=rng), dropout=dropout)
    model.vocabularies |= {"sources": sources, "targets": targets}

    def translate(pairs, beams=1):
        answers = model.predict(Batches(encoded(pairs), 64), beams=beams, max_length=60)
        return ["".join(targets.decode(ids)) for ids in answers]

    def exact(answers, pairs):
        return np.mean([answer == target for answer, (_, target) in zip(answers, pairs, strict=True)])

    def chrf(answers, pairs):
        return metrics.chrf(answers, [target for _, target in pairs])

    start = time.perf_counter()
    trainer = Trainer(
        model,
        optim.AdamW(model.params, rate),
        Batches(encoded(train), batch),
        lambda _: chrf(translate(dev), dev),  # the loss is no guide to the best translations
        maximize=True,
        evaluations=10,
        schedule=optim.warmup_cosine(0.05),
        seed=seed,
        unit="characters",
        **({"epochs": epochs} if minutes is None else {"seconds": 60 * minutes}),
    )
    trainer.fit()
    took = (time.perf_counter() - start) / 60
    if save is not None:
        model.save(save)

    answers, copies = translate(test, beams), nearest(train, [source for source, _ in test])
    for (source, target), answer in list(zip(test, answers, strict=True))[:: len(test) // 8]:
        print(f"{source}\n    {answer}    (expected: {target})")
    print(f"\n{len(train)} pairs to learn from, {len(test)} to test    chrF   exact")
    print(f"{'nearest training sentence, copied':41}{chrf(copies, test):9.1f}{exact(copies, test):8.1%}")
    name = f"LSTM, {hidden} units, attention, {beams} beams"
    print(f"{name:41}{chrf(answers, test):9.1f}{exact(answers, test):8.1%}   in {took:.1f} min")
    if quick and data is None and exact(answers, test) < QUICK_EXACT:
        sys.exit(f"expected at least {QUICK_EXACT:.0%} of the dates exactly")


if __name__ == "__main__":
    main()
