"""Translate English into Korean: encoder-decoders with attention, and a consensus of what they write.

    python examples/translator.py --data DIR            # tatoeba_kor_eng: 10 % of the English sentences are the test
    python examples/translator.py --quick               # dates in many formats to ISO 8601, in half a minute
    python examples/translator.py --quick --plot docs/figures/attention.png     # needs matplotlib

English is read word by word, each as itself and as its letters, Korean written syllable by syllable, which are its
characters; dates are read and written character by character. The baseline copies the translation of the training
sentence nearest to the one asked for.

The answer is the candidate most like all others: those are drawn from the mean of several models, and the translations
of the nearest training sentences, which count the more, the nearer their sentences are.
"""

import datetime
import gzip
import re
import sys
import time
import zlib
from pathlib import Path

import click
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

import fastrnn
from fastrnn import inspect, metrics, nn, optim
from fastrnn.data import BOS, PAD, UNK, Batches, Dataset, Vocabulary, encode_words
from fastrnn.train import Trainer

QUICK_EXACT = 0.99  # share of the dates that --quick must get right
LONGEST = 60  # syllables of a translation
BANNED = (PAD, BOS, UNK)  # what is never written
BEAMS, PENALTY = 5, 1.2  # of the search for the likeliest translation
SAMPLES, TEMPERATURE = 30, 0.6  # translations drawn for each sentence; colder is more careful
NEAREST, TRUST = 40, 0.75  # training sentences whose translations are candidates, and what they count
FORMS = ("day, ", "the ", "/")  # of the dates that are drawn
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


def nearest(train, sources, count):
    """For each source how near the training sentences most like it are, by tf-idf, and their translations."""
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(2, 4))
    known = vectorizer.fit_transform([source for source, _ in train])
    likeness = (vectorizer.transform(sources) @ known.T).toarray()
    best = (-likeness).argsort(axis=1, kind="stable")[:, :count]
    return np.take_along_axis(likeness, best, 1), [[train[k][1] for k in row] for row in best]


def consensus(own, near, copies, trust):
    """The text with the highest mean chrF against the models' own and, by `trust` and nearness squared, the copies."""
    weights = np.concatenate([np.full(len(own), 1 / len(own)), trust * near**2])
    texts = [*own, *copies]
    return texts[(metrics.chrf_matrix(texts, texts) @ weights).argmax()]


def draw(path, model, batch, sources, targets):
    """Draw what the decoder's attention reads while it writes each of a few answers, a panel each."""
    from matplotlib.figure import Figure

    vector, memory = model.encode(batch.x, batch.x_lengths)
    tape = model.decoder.forward(vector, batch.y, batch.y_lengths, memory, batch.x_lengths)[1]
    figure = Figure((3.2 * len(batch.rows), 4.4), dpi=100, layout="constrained")
    for k, (ax, x, y) in enumerate(zip(figure.subplots(1, len(batch.rows)), batch.x.T, batch.y.T, strict=True)):
        read = sources.decode(x[x != PAD])
        written = [*targets.decode(y[y != PAD]), "end"]
        ax.imshow(tape.attention.weights[k, : len(written), : len(read)].T, cmap="Blues", vmin=0, aspect="auto")
        ax.set_xticks(range(len(written)), written)
        ax.set_yticks(range(len(read)), [letter.strip() or "\N{OPEN BOX}" for letter in read], fontsize=8)
        ax.set_xlabel("written")
    figure.axes[0].set_ylabel("read")
    figure.savefig(path)
    print(f"drew {path}")


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="folder that has tatoeba_kor_eng/")
@click.option("--quick", is_flag=True, help="less training, and exit 1 if it was not enough")
@click.option("--members", default=4, show_default=True, help="models, which differ in the seed")
@click.option("--hidden", default=256, show_default=True, help="units of the decoder, and of each half of the encoder")
@click.option("--embedding", default=128, show_default=True, help="length of a word's or character's vector")
@click.option("--dropout", default=0.5, show_default=True)
@click.option("--word-dropout", default=0.2, show_default=True, help="share of words and syllables read as unknown")
@click.option("--rate", default=3e-3, show_default=True, help="highest learning rate")
@click.option("--batch", default=32, show_default=True, help="sentences of a training step")
@click.option("--epochs", default=40, show_default=True, help="passes through the data")
@click.option("--keep", type=click.Path(path_type=Path), help="folder of the models: trained if they are not there")
@click.option("--precisions", is_flag=True, help="also compare float32, bfloat16 and int8")
@click.option("--plot", type=click.Path(), help="where to draw what is read while three dates are written")
@click.option("--seed", default=0, show_default=True)
def main(
    data, quick, members, hidden, embedding, dropout, word_dropout, rate, batch, epochs, keep, precisions, plot, seed
):  # fmt: skip
    """Train encoder-decoders, and compare their translations of test sentences with the nearest one's."""
    if data is None:
        held = 400 if quick else 1000
        pairs = dates(14_000 + 2 * held, np.random.default_rng(seed))
        train, dev, test = pairs[2 * held :], pairs[:held], pairs[held : 2 * held]
        members, hidden, embedding, rate, epochs = 1, 64, 32, 1e-2, 2 if quick else 8
        dropout = word_dropout = trust = 0.0  # what the nearest dates are does not help
        scale = 1.0
    else:
        train, dev, test = sentences(data / "tatoeba_kor_eng" / "kor.txt.gz")
        trust, scale = TRUST, 0.1  # small vectors at the start: what is rare stays little noise

    # Words that occur once are unknown: so the model learns what to do with those of the test that never did.
    tokens, rare = (list, 1) if data is None else (words, 2)
    sources = Vocabulary.build([tokens(source) for source, _ in train], min_count=rare)
    letters = Vocabulary.build([source.lower() for source, _ in train])
    targets = Vocabulary.build([target for _, target in train])

    def encoded(pairs):
        read = [tokens(source) for source, _ in pairs]
        ids = map(sources.encode, read) if data is None else (encode_words(s, sources, letters) for s in read)
        return Dataset(list(ids), [targets.encode(target) for _, target in pairs])

    def build(rng):
        read, written = (
            nn.Embedding(len(vocabulary), embedding, scale=scale, rng=rng, word_dropout=share)
            for vocabulary, share in ((sources, 0.0), (targets, word_dropout))
        )
        if data is not None:
            spelled = fastrnn.LSTM(32, 48, bidirectional=True, rng=rng)
            by_letters = nn.Embedding(len(letters), 32, scale=scale, rng=rng)
            read = nn.WordEncoder(by_letters, spelled, read, dropout=dropout / 2, word_dropout=word_dropout)
        encoder = fastrnn.LSTM(read.output_size, hidden, bidirectional=True, rng=rng)
        rnn = fastrnn.LSTM(embedding, hidden, rng=rng)
        nn.set_forget_bias(encoder)
        nn.set_forget_bias(rnn)
        decoder = nn.Decoder(
            written,
            rnn,
            nn.Linear(hidden, len(targets), rng=rng),
            bridge=nn.Linear(2 * hidden, nn.state_size(rnn), rng=rng),
            attention=nn.Attention(hidden, 2 * hidden, rng=rng),
            dropout=dropout,
        )
        model = nn.EncoderDecoder(encoder, decoder, read, dropout=dropout)
        model.vocabularies |= {"sources": sources, "letters": letters, "targets": targets}
        return model

    def joined(sequences):
        return ["".join(targets.decode(ids)) for ids in sequences]

    def greedy(model):  # its score goes on rising when the loss does, too
        answers = model.predict(Batches(encoded(dev), 64), max_length=LONGEST)
        return metrics.chrf(joined(answers), [target for _, target in dev])

    def trained(seed):
        model = build(np.random.default_rng(seed))
        short = [pair for pair in train if len(pair[1]) <= LONGEST]  # the few others only cost time
        trainer = Trainer(
            model,
            optim.AdamW(model.params, rate),
            Batches(encoded(short), batch),
            greedy,
            maximize=True,
            epochs=epochs,
            evaluations=5,
            schedule=optim.warmup_cosine(0.05),
            seed=seed,
            unit="characters",
        )
        trainer.fit()
        return model

    start, models = time.perf_counter(), []
    for member in range(seed, seed + members):
        path = keep and keep / f"translator_{member}.npz"
        models.append(nn.load(path) if path and path.exists() else trained(member))
        if path:
            keep.mkdir(parents=True, exist_ok=True)
            models[-1].save(path)

    ensemble = nn.WriterEnsemble(*models)

    def translate(pairs, near):
        rng, answers = np.random.default_rng(seed), {}
        for batch in Batches(encoded(pairs), 64):

            def steps(width, batch=batch):
                return ensemble.steps(batch.x, batch.x_lengths, width)

            likeliest = joined(nn.beam_search(steps(BEAMS), LONGEST, PENALTY, BANNED))
            drawn = joined(nn.sample(steps(SAMPLES), LONGEST, TEMPERATURE, rng, BANNED))
            for k, row in enumerate(batch.rows):
                own = [likeliest[k], *drawn[k * SAMPLES : (k + 1) * SAMPLES]]
                answers[row] = consensus(own, near[0][row], near[1][row], trust)
        return [answers[row] for row in range(len(pairs))]

    for part, pairs in {"dev": dev, "test": test}.items():
        near, truths = nearest(train, [source for source, _ in pairs], NEAREST), [target for _, target in pairs]
        answers = translate(pairs, near)
        print(f"\n{len(pairs)} pairs of the {part} part, {len(train)} to learn from    chrF   exact")
        for name, texts in {"nearest": [copies[0] for copies in near[1]], f"{members} LSTMs": answers}.items():
            exact = np.mean([text == truth for text, truth in zip(texts, truths, strict=True)])
            print(f"{name:20}{metrics.chrf(texts, truths):9.1f}{exact:8.1%}")
    for (source, target), answer in list(zip(test, answers, strict=True))[:: len(test) // 8]:
        print(f"{source}\n    {answer}    (expected: {target})")
    print(f"in {(time.perf_counter() - start) / 60:.1f} min")
    if precisions:  # the score is that of the likeliest translations of the dev part
        print(inspect.precision(ensemble, Batches(encoded(dev), 64), greedy))
    if plot and data is None:
        shown = [max((pair for pair in test if form in pair[0]), key=lambda pair: len(pair[0])) for form in FORMS]
        draw(plot, models[0], encoded(shown).batch(np.arange(len(shown))), sources, targets)
    if quick and data is None and exact < QUICK_EXACT:
        sys.exit(f"expected at least {QUICK_EXACT:.0%} of the dates exactly")


if __name__ == "__main__":
    main()
