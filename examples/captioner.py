"""Say what a picture shows: encoders of images and LSTMs that write captions, one to many.

    python examples/captioner.py --data DIR             # twemoji_captions: pictures of 24x24 pixels and their names
    python examples/captioner.py --quick                # scikit-learn's handwritten digits, spelled letter by letter

Each pass through the data shows the pictures moved by a few pixels. Several models learn side by side and write as one.
Their answer is the caption that agrees best with many that are drawn. The baseline copies the caption of the training
picture whose pixels are nearest.
"""

import csv
import re
import sys
import time
from pathlib import Path

import click
import numpy as np

import fastrnn
from fastrnn import metrics, nn, optim
from fastrnn.data import Batches, Dataset, Vocabulary
from fastrnn.train import Trainer

BATCH = 32
QUICK_EXACT = 0.95  # share of the digits that --quick must spell right; seeds and machines give 0.967 to 0.986
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def digits():
    """Images (N, 8, 8, 1), their names as lists of letters, and the part of each: every fifth is for the test."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    parts = np.where(order % 5 == 0, "test", np.where(order % 10 == 1, "dev", "train"))
    images = images.reshape(-1, 8, 8, 1).astype(np.float32) / 16
    return images, [list(DIGITS[k]) for k in classes], parts


def emoji(folder):
    """Images (N, 24, 24, 3) on white, which is 0; their names as lists of words; the part of each."""
    lines = (folder / "captions.tsv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    images = np.load(folder / "images_24x24_rgba.npz")["images"].astype(np.float32) / 255
    captions = [re.findall(r"\w+", row["caption"].lower()) for row in rows]
    return images[..., 3:] * (1 - images[..., :3]), captions, np.array([row["split"] for row in rows])


def moved(images, rng, most):
    """Each image moved by up to `most` pixels in both directions, as drawn."""
    N, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    down, right = rng.integers(2 * most + 1, size=(2, N, 1, 1))
    return padded[np.arange(N)[:, None, None], down + np.arange(height)[:, None], right + np.arange(width)]


def nearest(train, test):
    """For each test image, the number of the training image with the least squared difference."""
    train, test = train.reshape(len(train), -1), test.reshape(len(test), -1)
    distances = (train**2).sum(axis=1) - 2 * test @ train.T
    return distances.argmin(axis=1)


def captioner(shape, filters, vocabulary, hidden, features, dropout, rng):
    """A model: convolutions, each (size, stride, filters), then a vector of the whole, which the LSTM starts from."""
    parts = []
    for size, stride, count in filters:
        convolution = nn.Convolution(nn.Linear(size * size * shape[-1], count, rng=rng), shape, size, stride)
        convolution.linear.params["weight"] *= np.float32(np.sqrt(6))  # He's scale, which keeps the variance past relu
        parts += [convolution, nn.Activation("relu")]
        shape = convolution.output_shape
    lstm = fastrnn.LSTM(64 + features, hidden, rng=rng)
    nn.set_forget_bias(lstm)
    decoder = nn.Decoder(
        nn.Embedding(len(vocabulary), 64, rng=rng),
        lstm,
        nn.Linear(hidden, len(vocabulary), rng=rng),
        bridge=nn.Linear(features, nn.state_size(lstm), rng=rng),
        dropout=dropout,
        feed=True,  # the picture is seen with each word, not only at the start
    )
    whole = nn.Linear(convolution.output_size, features, rng=rng)
    parts += [nn.Dropout(dropout), whole, nn.Activation("relu"), nn.Dropout(dropout)]
    return nn.OneToMany(decoder, nn.Sequential(*parts))


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="folder that has twemoji_captions/")
@click.option("--quick", is_flag=True, help="less training, and exit 1 if it was not enough")
@click.option("--members", default=3, show_default=True, help="models that write as one")
@click.option("--hidden", default=256, show_default=True, help="units of an LSTM")
@click.option("--dropout", default=0.3, show_default=True)
@click.option("--rate", default=1.5e-3, show_default=True, help="highest learning rate")
@click.option("--epochs", default=50, show_default=True, help="passes through the data")
@click.option("--draws", default=60, show_default=True, help="captions drawn, of which one that agrees best is taken")
@click.option("--save", type=click.Path(), help="where to keep the model: .npz or .safetensors")
@click.option("--seed", default=0, show_default=True)
def main(data, quick, members, hidden, dropout, rate, epochs, draws, save, seed):
    """Train models together, and compare captions of test pictures with the nearest picture's."""
    if data is None:
        (images, captions, parts), filters, features, most = digits(), [(3, 1, 32)], 128, 1
        members, hidden, rate, epochs = 1, 64, 2e-3, 60 if quick else 80
    else:
        (images, captions, parts), filters = emoji(data / "twemoji_captions"), [(4, 2, 32), (3, 2, 64)]
        features, most = 512, 2

    def part(name):
        rows = np.flatnonzero(parts == name)
        return images[rows], [captions[k] for k in rows]

    (x, y), (x_dev, y_dev), (x_test, y_test) = part("train"), part("dev"), part("test")
    vocabulary = Vocabulary.build(y)
    sizes = (x.shape[1:], filters, vocabulary, hidden, features, dropout, np.random.default_rng(seed))
    model = nn.WriterEnsemble(*(captioner(*sizes) for _ in range(members)))
    model.vocabularies["captions"] = vocabulary
    targets = [vocabulary.encode(caption) for caption in y]

    def batches(rng):
        return Batches(Dataset(moved(x, rng, most), targets), BATCH)(rng)

    def exact(answers, captions):
        return np.mean([answer == caption for answer, caption in zip(answers, captions, strict=True)])

    score = exact if data is None else metrics.token_f1  # what counts, and so what draws are to agree by

    def likeliest(images):
        answers = model.predict(Batches(Dataset(images), 128), beams=5, max_length=20)
        return [vocabulary.decode(ids) for ids in answers]

    def agreed(image):
        drawn = nn.sample(model.steps(image[None], width=draws), max_length=20, rng=seed)
        return nn.consensus([vocabulary.decode(ids) for ids in drawn], score)

    start = time.perf_counter()
    trainer = Trainer(
        model,
        optim.AdamW(model.params, rate, weight_decay=0.05),
        batches,
        lambda _: score(likeliest(x_dev), y_dev),
        maximize=True,
        evaluations=6,
        schedule=optim.warmup_cosine(0.05),
        seed=seed,
        steps=epochs * -(-len(x) // BATCH),
    )
    trainer.fit()
    took = (time.perf_counter() - start) / 60
    if save is not None:
        model.save(save)

    found = {
        "nearest pixels' caption": [y[k] for k in nearest(x, x_test)],
        f"{members} x LSTM of {hidden}, likeliest caption": likeliest(x_test),
        f"the same, consensus of {draws} drawn": [agreed(image) for image in x_test],
    }
    *_, guesses, answers = found.values()
    for caption, guess, answer in list(zip(y_test, guesses, answers, strict=True))[:: len(y_test) // 8]:
        print(f"{' '.join(caption)}: {' '.join(guess)} | {' '.join(answer)}")
    print(f"\n{len(x)} pictures to learn from, {len(x_test)} to test   token F1   exact")
    for name, captions in found.items():
        print(f"{name:45}{metrics.token_f1(captions, y_test):9.3f}{exact(captions, y_test):8.1%}")
    print(f"in {took:.1f} min")
    if quick and data is None and exact(answers, y_test) < QUICK_EXACT:
        sys.exit(f"expected at least {QUICK_EXACT:.0%} of the digits spelled exactly")


if __name__ == "__main__":
    main()
