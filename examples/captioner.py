"""Say what a picture shows: an encoder of images and an LSTM that writes captions, one to many.

    python examples/captioner.py --data DIR             # twemoji_captions: pictures of 24x24 pixels and their names
    python examples/captioner.py --quick                # scikit-learn's handwritten digits, spelled letter by letter

Each pass through the data shows the pictures moved by a few pixels. The baseline copies the caption of the training
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
from fastrnn.nn import parameters
from fastrnn.params import Gradients
from fastrnn.train import Trainer

BATCH = 32
QUICK_EXACT = 0.97  # share of the digits that --quick must spell right
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
    with (folder / "captions.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    images = np.load(folder / "images_24x24_rgba.npz")["images"].astype(np.float32) / 255
    captions = [re.findall(r"\w+", row["caption"].lower()) for row in rows]
    return images[..., 3:] * (1 - images[..., :3]), captions, np.array([row["split"] for row in rows])


def moved(images, rng, most):
    """Each image moved by up to `most` pixels in both directions, as drawn."""
    N, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    down, right = rng.integers(2 * most + 1, size=(2, N, 1, 1))
    return padded[np.arange(N)[:, None, None], down + np.arange(height)[:, None], right + np.arange(width)]


def nearest(train, captions, test):
    """For each test image the caption of the training image with the least squared difference."""
    train, test = train.reshape(len(train), -1), test.reshape(len(test), -1)
    distances = (train**2).sum(axis=1) - 2 * test @ train.T
    return [captions[k] for k in distances.argmin(axis=1)]


class Convolution(nn.Module):
    """A linear layer of each overlapping square of an image, all in one vector: (B, pixels) to (B, squares * filters).

    The kit's models take any part that has `forward` and `backward`, and `nn.load` builds one of them again from the
    names and options that its constructor hands on.
    """

    def __init__(self, linear, shape, size, stride):
        super().__init__({"linear": linear}, shape=list(shape), size=size, stride=stride)
        self.linear = linear
        pixels = np.arange(np.prod(shape)).reshape(shape)
        squares = np.lib.stride_tricks.sliding_window_view(pixels, (size, size), axis=(0, 1))[::stride, ::stride]
        self.squares = squares.reshape(-1, linear.in_features)
        self.output_size = len(self.squares) * linear.out_features

    def __call__(self, x):
        return self.forward(x)[0]

    def forward(self, x, *, rng=None):
        y, tape = self.linear.forward(x[:, self.squares])
        return y.reshape(len(x), -1), tape

    def backward(self, tape, dy):
        grads = self.linear.backward(tape, dy.reshape(len(dy), len(self.squares), -1))
        return Gradients(None, None, parameters({"linear": grads}))  # nobody asks for the gradient in the image


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="folder that has twemoji_captions/")
@click.option("--quick", is_flag=True, help="less training, and exit 1 if it was not enough")
@click.option("--hidden", default=256, show_default=True, help="units of the LSTM")
@click.option("--features", default=512, show_default=True, help="units of the image encoder")
@click.option("--dropout", default=0.4, show_default=True)
@click.option("--rate", default=2e-3, show_default=True, help="highest learning rate")
@click.option("--most", default=2, show_default=True, help="pixels by which images are moved at most")
@click.option("--epochs", default=100, show_default=True, help="passes through the data")
@click.option("--minutes", type=float, help="instead of --epochs; no two runs are quite alike then")
@click.option("--beams", default=5, show_default=True, help="captions kept at each step of the search")
@click.option("--save", type=click.Path(), help="where to keep the model: .npz or .safetensors")
@click.option("--seed", default=0, show_default=True)
def main(data, quick, hidden, features, dropout, rate, most, epochs, minutes, beams, save, seed):
    """Train an encoder and a decoder, and compare captions of test pictures with the nearest picture's."""
    if data is None:
        images, captions, parts = digits()
        size, stride, filters, dropout = 3, 1, 32, 0.3
        hidden, features, most, epochs = 64, 128, 1, 60 if quick else 80
    else:
        images, captions, parts = emoji(data / "twemoji_captions")
        size, stride, filters = 6, 3, 64

    def part(name):
        rows = np.flatnonzero(parts == name)
        return images[rows], [captions[k] for k in rows]

    (x, y), (x_dev, y_dev), (x_test, y_test) = part("train"), part("dev"), part("test")
    vocabulary = Vocabulary.build(y)
    rng = np.random.default_rng(seed)
    lstm = fastrnn.LSTM(64 + features, hidden, rng=rng)
    nn.set_forget_bias(lstm)
    pixels = nn.Linear(size * size * x.shape[-1], filters, rng=rng)
    convolution = Convolution(pixels, x.shape[1:], size, stride)
    encoder = nn.Sequential(
        convolution,
        nn.Activation("relu"),
        nn.Dropout(dropout),
        nn.Linear(convolution.output_size, features, rng=rng),
        nn.Activation("relu"),
        nn.Dropout(dropout),
    )
    decoder = nn.Decoder(
        nn.Embedding(len(vocabulary), 64, rng=rng),
        lstm,
        nn.Linear(hidden, len(vocabulary), rng=rng),
        bridge=nn.Linear(features, nn.state_size(lstm), rng=rng),
        dropout=dropout,
        feed=True,  # the picture is seen with each word, not only at the start
    )
    model = nn.OneToMany(decoder, encoder)
    model.vocabularies["captions"] = vocabulary

    def describe(images, beams=1):
        batches = Batches(Dataset(images.reshape(len(images), -1)), 128)
        return [vocabulary.decode(ids) for ids in model.predict(batches, beams=beams, max_length=20)]

    def exact(answers, captions):
        return np.mean([answer == caption for answer, caption in zip(answers, captions, strict=True)])

    targets = [vocabulary.encode(caption) for caption in y]

    def batches(rng):
        return Batches(Dataset(moved(x, rng, most).reshape(len(x), -1), targets), BATCH)(rng)

    start = time.perf_counter()
    trainer = Trainer(
        model,
        optim.AdamW(model.params, rate, weight_decay=0.05),
        batches,
        lambda _: metrics.token_f1(describe(x_dev), y_dev),
        maximize=True,
        evaluations=10,
        schedule=optim.warmup_cosine(0.05),
        seed=seed,
        **({"steps": epochs * -(-len(x) // BATCH)} if minutes is None else {"seconds": 60 * minutes}),
    )
    trainer.fit()
    took = (time.perf_counter() - start) / 60
    if save is not None:
        model.save(save)

    answers, copies = describe(x_test, beams), nearest(x, y, x_test)
    for answer, caption in list(zip(answers, y_test, strict=True))[:: len(y_test) // 8]:
        print(f"{' '.join(caption)}: {' '.join(answer)}")
    print(f"\n{len(x)} pictures to learn from, {len(x_test)} to test   token F1   exact")
    for name, found in (("nearest pixels' caption", copies), (f"LSTM, {hidden} units, {beams} beams", answers)):
        print(f"{name:45}{metrics.token_f1(found, y_test):9.3f}{exact(found, y_test):8.1%}")
    print(f"in {took:.1f} min")
    if quick and data is None and exact(answers, y_test) < QUICK_EXACT:
        sys.exit(f"expected at least {QUICK_EXACT:.0%} of the digits spelled exactly")


if __name__ == "__main__":
    main()
