"""Frame-level video classification: name the phase of a gesture that each frame shows, with a bidirectional LSTM.

python examples/frames.py                  # on generated gestures
python examples/frames.py --data DIR       # DIR/gesture_phase: 7 videos of 3 people, by a Kinect (UCI Gesture Phase)

Each video is left out in turn and classified by a model trained on the others: neighbouring frames are alike, so random
frames would be known from training. The baseline is the same network, trained upon windows of a single frame.
"""

import csv
import gzip
import sys
import time
from pathlib import Path

import click
import numpy as np

import fastrnn
from fastrnn import metrics, nn, optim
from fastrnn.data import Batches, Dataset, Ragged, Vocabulary
from fastrnn.train import Trainer

PHASES = {"D": "rest", "P": "preparation", "S": "stroke", "H": "hold", "R": "retraction"}
phases = Vocabulary(PHASES, specials=())


def standardize(x):
    """Each feature of a video, in its own units: people and their distances from the camera differ."""
    return np.clip((x - x.mean(axis=0)) / x.std(axis=0), -5, 5).astype(np.float32)


def generate(rng, gestures=16):
    """Return velocities of a hand (T, 4) and phases (T,); in a rest and in a hold, nothing moves but noise."""
    rest = place = np.zeros(3)
    path, labels = [place[None]], ""
    for _ in range(gestures):
        raised = rng.normal(size=3)
        struck = raised + rng.normal(size=3)
        moves = zip("DPSHR", (10, 6, 8, 5, 6), (rest, raised, struck, struck, rest), strict=True)
        for phase, shortest, to in moves:
            n = rng.integers(shortest, 2 * shortest)
            u = np.linspace(0, 1, n + 1)[1:, None]
            path.append(place + (to - place) * u * u * (3 - 2 * u))  # from halt to halt
            place, labels = to, labels + phase * n
    positions = np.concatenate(path)
    velocities = np.diff(positions + rng.normal(scale=0.02, size=positions.shape), axis=0)
    x = np.column_stack([velocities, np.linalg.norm(velocities, axis=1)])
    return standardize(x), phases.encode(labels)


def read(folder, name):
    """Return a video's features (T, 44) and phases (T,): positions from the body, velocities and accelerations."""
    with gzip.open(folder / f"{name}_va3.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    with gzip.open(folder / f"{name}_raw.csv.gz", "rt", encoding="utf-8") as file:
        raw = np.array([row[:18] for row in list(csv.reader(file))[1:]], float).reshape(-1, 6, 3)
    head, spine = raw[:, 2:3], raw[:, 3:4]
    joints = (raw[:, [0, 1, 4, 5]] - spine) / np.linalg.norm(head - spine, axis=2, keepdims=True)
    moves = np.array([row[:32] for row in rows], float)
    x = np.column_stack([joints.reshape(len(raw), 12)[4 : 4 + len(rows)], moves])  # the first 4 frames have no velocity
    return standardize(x), phases.encode(row[32] for row in rows)


def train(videos, frames, *, stride, batch, hidden, dropout, lr, budget, seed):
    """Return a model that classifies each frame, trained upon windows of so many frames."""
    x, y = (np.concatenate(parts) for parts in zip(*videos, strict=True))
    lengths = [len(labels) for _, labels in videos]
    begins = np.cumsum([0, *lengths[:-1]])
    within = [b + np.arange(0, n - frames + 1, stride) for b, n in zip(begins, lengths, strict=True)]
    starts = np.concatenate(within)  # no window reaches into another video
    windows = Dataset(Ragged.windows(x, frames, starts), Ragged.windows(y, frames, starts))
    rng = np.random.default_rng(seed)
    model = nn.ManyToMany(
        fastrnn.LSTM(x.shape[1], hidden, bidirectional=True, rng=rng),
        nn.Linear(2 * hidden, len(phases), rng=rng),
        dropout=dropout,
    )
    optimizer = optim.AdamW(model.params, lr, weight_decay=0.05)
    schedule = optim.warmup_cosine()
    Trainer(model, optimizer, Batches(windows, batch), schedule=schedule, seed=seed, **budget).fit(progress=False)
    return model


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="folder of the data sets")
@click.option("--quick", is_flag=True, help="small, generated data; fails below the bar")
@click.option("--window", default=160, help="frames of a window in training")
@click.option("--hidden", default=64)
@click.option("--dropout", default=0.4)
@click.option("--lr", default=4e-3)
@click.option("--epochs", default=10, help="passes through the windows, which overlap")
@click.option("--minutes", type=float, help="a budget for all of it, instead of epochs")
@click.option("--seed", default=0)
def main(data, quick, window, hidden, dropout, lr, epochs, minutes, seed):
    """Classify the frames of each video by a model of the others."""
    if data is None:
        rng = np.random.default_rng([seed, 1])
        videos = {f"generated {k}": generate(rng) for k in range(3 if quick else 7)}
    else:
        videos = {name: read(data / "gesture_phase", name) for name in ("a1", "a2", "a3", "b1", "b3", "c1", "c3")}
    if quick:
        window, hidden, epochs = 60, 24, 15
    budget = {"epochs": epochs} if minutes is None else {"seconds": 60 * minutes / 2 / len(videos)}
    options = {"hidden": hidden, "dropout": dropout, "lr": lr, "budget": budget, "seed": seed}

    answers, alone, truth = [], [], []
    begin = time.perf_counter()
    for name, (x, y) in videos.items():
        others = [video for other, video in videos.items() if other != name]
        model = train(others, window, stride=window // 8, batch=16, **options)
        baseline = train(others, 1, stride=1, batch=128, **options)
        answers.append(model(x[:, None])[0][:, 0].argmax(axis=1))  # the whole video at once
        alone.append(baseline(x[None])[0][0].argmax(axis=1))  # each frame a sequence of its own
        truth.append(y)
        score, floor = metrics.accuracy(answers[-1], y), metrics.accuracy(alone[-1], y)
        print(f"{name}: accuracy {score:.1%}, frame by frame {floor:.1%}  ({time.perf_counter() - begin:.0f} s)")

    f1, floor = metrics.macro_f1(answers, truth), metrics.macro_f1(alone, truth)
    print(f"macro F1 {f1:.3f}, accuracy {metrics.accuracy(answers, truth):.1%}")
    print(f"baseline, frame by frame: macro F1 {floor:.3f}, accuracy {metrics.accuracy(alone, truth):.1%}")
    guess, right = np.concatenate(answers), np.concatenate(truth)
    table = np.array([[np.mean(guess[right == k] == j) for j in range(len(phases))] for k in range(len(phases))])
    print("of the frames of        taken for " + "".join(f"{PHASES[phase]:>12}" for phase in phases.tokens))
    for phase, row in zip(phases.tokens, table, strict=True):
        print(f"{PHASES[phase]:>34}" + "".join(f"{share:12.0%}" for share in row))
    if quick and f1 < floor + 0.2:
        sys.exit("missed the bar: macro F1 0.2 above the baseline's")


if __name__ == "__main__":
    main()
