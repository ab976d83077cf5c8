"""Sentiment of Korean film reviews: a bidirectional LSTM reads syllables, the maximum over time says good or bad.

python examples/sentiment.py --quick          # reviews made from templates: no download
python examples/sentiment.py --data DIR       # DIR/nsmc: the Naver sentiment movie corpus

Beside it in the same run: naive Bayes on pairs of syllables, which knows what is said but not in which order.
"""

import gzip
import sys
from pathlib import Path

import click
import numpy as np

import fastrnn
from fastrnn import inspect, metrics, nn, optim
from fastrnn.data import Batches, Dataset, Vocabulary
from fastrnn.train import Trainer

BAR = 0.95  # accuracy on the templates
TOPICS = ["연기는", "이야기는", "음악은", "화면은", "결말은", "배우는", "대사는", "감독은"]
GOOD = ["좋았", "훌륭했", "재미있었", "감동적이었"], ["좋지", "훌륭하지", "재미있지", "감동적이지"]
BAD = ["지루했", "엉성했", "뻔했", "별로였"], ["지루하지", "엉성하지", "뻔하지", "별로이지"]


def template_reviews(count, rng):
    """Reviews whose last clause decides, unless it is negated."""
    texts, labels = [], rng.integers(2, size=count)
    for label in labels:
        clauses, says = [], label
        for k in range(rng.integers(1, 3)):  # from the last clause to the first, which says the opposite
            negated = rng.random() < 0.4
            stem = rng.choice((BAD, GOOD)[says ^ negated][int(negated)])
            ending = "지만" if k else "다"
            clauses.insert(0, f"{rng.choice(TOPICS)} {stem}{' 않았' * negated}{ending}")
            says = 1 - says
        texts.append(" ".join(clauses))
    return texts, labels


def read_nsmc(path):
    """Texts and labels, 0 or 1, of a table with id, document and label."""
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    rows = [line.split("\t") for line in lines[1:] if line]
    return [row[1] for row in rows], np.array([int(row[2]) for row in rows])


def pairs(text):
    """Each syllable with the one before it."""
    return [before + syllable for before, syllable in zip(" " + text, text, strict=False)]


def naive_bayes(train, test, size):
    """Accuracy of the log-odds of pairs, one added to each count."""
    log_odds = np.zeros(size)
    for label, sign in ((1, 1), (0, -1)):
        counts = 1 + np.bincount(np.concatenate(list(train.take(train.y == label).x))[:, 1], minlength=size)
        log_odds += sign * np.log(counts / counts.sum())
    return metrics.accuracy([log_odds[x[:, 1]].sum() > 0 for x in test.x], test.y)


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="the folder that holds nsmc/")
@click.option("--quick", is_flag=True, help="templates; exit status 1 if the bar is missed")
@click.option("--epochs", type=int, help="passes of training  [default: 3; templates: 6]")
@click.option("--minutes", type=float, help="a budget of time instead")
@click.option("--seed", default=0, show_default=True)
@click.option("--hidden", default=128, show_default=True, help="H, in each direction")
@click.option("--dropout", default=0.4, show_default=True)
@click.option("--lr", default=2e-3, show_default=True)
@click.option("--precisions", is_flag=True, help="also compare float32, bfloat16 and int8")
@click.option("--save", type=click.Path(), help="a file for the model: .npz or .safetensors")
def main(data, quick, epochs, minutes, seed, hidden, dropout, lr, precisions, save):
    """Train, and print the accuracy beside that of naive Bayes."""
    rng = np.random.default_rng(seed)
    if data and not quick:
        (texts, labels), (test_texts, test_labels) = (
            read_nsmc(data / f"nsmc/ratings_{p}.txt.gz") for p in ("train", "test")
        )
        size, batch, least, epochs = 64, 128, 8, epochs or 3
    else:
        (texts, labels), (test_texts, test_labels) = template_reviews(3000, rng), template_reviews(1000, rng)
        size, batch, least, hidden, epochs, lr = 16, 32, 2, 32, epochs or 6, 5e-3
    vocabulary = Vocabulary.build([[*text, *pairs(text)] for text in texts], min_count=least, max_size=40_000)

    def dataset(texts, labels):
        encode = vocabulary.encode
        return Dataset([np.stack([encode(text), encode(pairs(text))], axis=1) for text in texts], labels)

    everything, test = dataset(texts, labels), dataset(test_texts, test_labels)
    order = rng.permutation(len(everything))
    held_out = len(order) // 30
    valid, train = everything.take(order[:held_out]), everything.take(order[held_out:])

    embedding = nn.Embedding(len(vocabulary), size, columns=2, scale=0.1, rng=rng)
    rnn = fastrnn.LSTM(embedding.output_size, hidden, bidirectional=True, rng=rng)
    model = nn.ManyToOne(rnn, nn.Linear(2 * hidden, 2, rng=rng), embedding, pooling="max", dropout=dropout)
    model.vocabularies["syllables"] = vocabulary

    def accuracy(model, data=test):
        return metrics.accuracy(model.predict(Batches(data, 256)), data.y)

    trainer = Trainer(
        model,
        optim.AdamW(model.params, lr),
        Batches(train, batch),
        lambda model: accuracy(model, valid),
        maximize=True,
        schedule=optim.warmup_cosine(),
        evaluations=6 if minutes else None,
        seed=seed,
        unit="reviews",
        **({"seconds": 60 * minutes} if minutes else {"epochs": epochs}),
    )
    trainer.fit()
    if save:
        model.save(save)  # nn.load(save) reads it

    baseline = naive_bayes(train, test, len(vocabulary))
    score = accuracy(model)
    print(f"accuracy {score:.4f}, naive Bayes {baseline:.4f}, on {len(test):,} reviews that were not read before")
    if precisions:
        print(inspect.precision(model, Batches(test, 256), accuracy))
    if quick and score < BAR:
        sys.exit(f"expected an accuracy of at least {BAR}")


if __name__ == "__main__":
    main()
