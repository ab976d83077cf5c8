"""Spoken digits: a bidirectional LSTM reads the spectrum of a word and names the digit, whoever says it.

python examples/spoken_digits.py               # on generated words
python examples/spoken_digits.py --data DIR    # DIR/fsdd_logmel: Free Spoken Digit Dataset, 3,000 clips of 6 people

Two scores: on recordings held out (FSDD's official split), and on each speaker by a model that never heard him. Voices
are few, so training varies them: speed, formants, microphone, noise, and parts that are covered; and what is scored is
the mean of a few models. The baseline is the nearest neighbour, on all clips stretched to one length.
"""

import itertools
import sys
import time
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

import fastrnn
from fastrnn import inspect, metrics, nn, optim
from fastrnn.data import Batches, Dataset
from fastrnn.train import Trainer

DIGITS = 10
RESULT = "{:.1%}, 1-NN {:.1%}, without the clips' levels {:.1%}"
BANDS = 32
WARPS = np.linspace(0.8, 1.25, 19)  # of the frequency axis: lengths of vocal tracts differ by about so much


class Clips(NamedTuple):
    """Recordings, and who says what in them."""

    frames: list  # of (T, BANDS), logarithms of energies in bands
    digits: np.ndarray
    speakers: np.ndarray
    test: np.ndarray  # whether it is of the test split

    def take(self, mask):
        """Some of them, by a mask."""
        frames = [self.frames[k] for k in np.flatnonzero(mask)]
        return Clips(frames, self.digits[mask], self.speakers[mask], self.test[mask])


def generate(rng, speakers=4, repeats=10):
    """Return words in noise. Each digit leads a formant along three of four places in its own order.

    Speakers shift it and speak as fast as they like; a word begins when it will.
    """
    orders = list(itertools.permutations((6, 12, 18, 24), 3))[::2][:DIGITS]
    frames, labels = [], []
    for speaker in range(speakers):
        shift, speed = rng.uniform(0.85, 1.15), rng.uniform(0.7, 1.3)
        for digit, order in enumerate(orders):
            for repeat in range(repeats):
                n = int(24 / (speed * rng.uniform(0.8, 1.2)))
                formant = np.interp(np.linspace(0, 2, n), (0, 1, 2), order) * shift + rng.normal(scale=0.3)
                before, after = rng.integers(32, size=2)
                clip = 4 * np.exp(-((np.arange(BANDS) - formant[:, None]) ** 2) / 4)
                clip = np.pad(clip, ((before, after), (0, 0)))
                frames.append((clip + rng.normal(size=clip.shape)).astype(np.float32))
                labels.append((digit, speaker, repeat == 0))
    digits, speaker, test = (np.array(column) for column in zip(*labels, strict=True))
    return Clips(frames, digits, speaker, test)


def read(path):
    """Return the clips of the Free Spoken Digit Dataset; each speaker's first 5 recordings of a digit are the test."""
    with np.load(path) as file:
        low, high = file["scale"]
        frames = low + file["frames"].astype(np.float32) * ((high - low) / 255)
        clips = np.split(frames, file["offsets"][1:-1])
        return Clips(clips, file["digit"].astype(int), file["speaker"], file["index"] < 5)


def warp(factor):
    """A matrix that moves what is in band k to band k*factor."""
    source = np.clip(np.arange(BANDS) / factor, 0, BANDS - 1)
    return np.maximum(0, 1 - np.abs(np.arange(BANDS)[:, None] - source)).astype(np.float32)


MATRICES = [warp(factor) for factor in WARPS]


def vary(clip, rng):
    """Say it with another voice, speed, microphone and room; cover a few bands and steps (SpecAugment)."""
    n = max(4, round(len(clip) * rng.uniform(0.7, 1.4)))
    clip = clip[np.linspace(0, len(clip) - 1, n).round().astype(int)] @ MATRICES[rng.integers(len(MATRICES))]
    microphone = np.interp(np.arange(BANDS), np.linspace(0, BANDS, 6), rng.normal(size=6))
    room = np.interp(np.arange(BANDS), np.linspace(0, BANDS, 4), rng.normal(scale=1.5, size=4))
    noise = clip.max() - rng.uniform(4, 14) + room + np.log(rng.exponential(size=clip.shape) + 1e-3)
    clip = np.logaddexp(clip + microphone, noise)  # energies add up
    mean = clip.mean()
    band, width = rng.integers(BANDS), rng.integers(7)
    clip[:, band : band + width] = mean
    step, width = rng.integers(n), rng.integers(max(1, n // 5))
    clip[step : step + width] = mean
    return clip


def features(clip):
    """Without what is far below the peak, which is the room, and without the mean, which is the microphone.

    Two steps are laid side by side, which halves their number.
    """
    clip = np.maximum(clip, np.percentile(clip, 98) - 6)
    clip = (clip - clip.mean(axis=0)) / 3
    return clip[: len(clip) // 2 * 2].reshape(-1, 2 * BANDS).astype(np.float32)


def nearest_neighbour(train, test, *, level):
    """Name the digit of the training clip most like it, all stretched to 32 steps; with their levels or without."""

    def vector(clip):
        clip = clip if level else clip - clip.mean()
        return clip[np.linspace(0, len(clip) - 1, 32).round().astype(int)].ravel()

    a, b = (np.array([vector(clip) for clip in clips.frames]) for clips in (train, test))
    distances = (a**2).sum(axis=1) - 2 * b @ a.T
    return train.digits[distances.argmin(axis=1)]


def train(clips, *, share, hidden, dropout, lr, budget, seed):
    """Return a model trained on clips of which a share is varied, anew in each pass."""
    rng = np.random.default_rng(seed)
    rnn = fastrnn.LSTM(2 * BANDS, hidden, num_layers=2, dropout=dropout, bidirectional=True, rng=rng)
    model = nn.ManyToOne(rnn, nn.Linear(2 * hidden, DIGITS, rng=rng), pooling="max", dropout=dropout)

    def varied(rng):
        frames = [features(vary(c, rng) if share == 1 or rng.random() < share else c) for c in clips.frames]
        return Batches(Dataset(frames, clips.digits), 32)(rng)

    if "epochs" in budget:  # in steps, as a function has no length
        budget = {"steps": budget["epochs"] * -(-len(clips.digits) // 32)}
    schedule = optim.warmup_cosine(0.05)
    Trainer(model, optim.AdamW(model.params, lr), varied, schedule=schedule, seed=seed, **budget).fit(progress=False)
    return model


def heard(clips):
    """Return batches of the clips' features."""
    return Batches(Dataset([features(clip) for clip in clips.frames]), 64)


def name_digits(model, clips):
    """Return the digits that the model hears."""
    return np.array(model.predict(heard(clips)))


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="folder of the data sets")
@click.option("--quick", is_flag=True, help="small, generated data; fails below the bar")
@click.option("--split", type=click.Choice(["recordings", "speakers", "both"]), default="both")
@click.option("--share", default=1.0, help="of the clips that are varied in training: fewer where voices are known")
@click.option("--hidden", default=64)
@click.option("--dropout", default=0.4)
@click.option("--lr", default=3e-3)
@click.option("--epochs", default=24)
@click.option("--members", default=3, help="models, whose mean answers")
@click.option("--minutes", type=float, help="a budget for each model, instead of epochs")
@click.option("--precisions", is_flag=True, help="also compare float32, bfloat16 and int8")
@click.option("--seed", default=0)
def main(data, quick, split, share, hidden, dropout, lr, epochs, members, minutes, precisions, seed):
    """Train models for recordings held out, and for each speaker held out."""
    if data is None:
        clips = generate(np.random.default_rng([seed, 1]))
    else:
        clips = read(data / "fsdd_logmel" / "fsdd_logmel32.npz")
    if quick:
        hidden, epochs, lr, members = 32, 16, 5e-3, 1
    budget = {"epochs": epochs} if minutes is None else {"seconds": 60 * minutes}
    held_out = {"recordings": clips.test} if split != "speakers" else {}
    if split != "recordings":
        held_out |= {f"speaker {who}": clips.speakers == who for who in np.unique(clips.speakers)}

    scores = {}
    begin = time.perf_counter()
    for name, mask in held_out.items():
        learned, test = clips.take(~mask), clips.take(mask)
        options = {"share": share, "hidden": hidden, "dropout": dropout, "lr": lr, "budget": budget}
        model = nn.Ensemble(*(train(learned, seed=seed + k, **options) for k in range(members)))
        answers = [name_digits(model, test), *(nearest_neighbour(learned, test, level=on) for on in (True, False))]
        scores[name] = [metrics.accuracy(a, test.digits) for a in answers]
        print(f"{name} held out:", RESULT.format(*scores[name]), f"({time.perf_counter() - begin:.0f} s)", flush=True)
        if precisions:

            def accuracy(model, test=test):
                return metrics.accuracy(name_digits(model, test), test.digits)

            print(inspect.precision(model, heard(test), accuracy))
    recordings = scores.pop("recordings", None)
    if scores:
        score, *floors = np.mean(list(scores.values()), axis=0)
        print("mean over speakers:", RESULT.format(score, *floors))
        if quick and score < max(floors) + 0.1:
            sys.exit("missed the bar: 10 points above the nearest neighbour for new speakers")
    if quick and recordings and recordings[0] < max(recordings):
        sys.exit("missed the bar: not below the nearest neighbour for recordings held out")


if __name__ == "__main__":
    main()
