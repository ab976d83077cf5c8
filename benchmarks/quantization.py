"""What other schemes of int8 would cost: the table of docs/math.md, "Why this scheme".

    python examples/pos_tagger.py --data DIR --save english.npz
    python benchmarks/quantization.py --data DIR english=english.npz

The systems are english and korean (pos_tagger.py), sentiment (sentiment.py) and characters (language_model.py); --save
of each example keeps its model. The matrices of all recurrent layers, and what they multiply, are rounded as a scheme
says; the rest of a model stays in float32. Two numbers are printed: the error of y of the main recurrent layer, as the
root mean square of the difference in percent of that of y, and the score on the test data. Scales that are static come
from other data.
"""

import copy
import gzip
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from fastrnn import engines, metrics, nn, train
from fastrnn.data import Batches, Chunks, Dataset, encode_words, read_blocks
from fastrnn.engines.precision import Narrow
from fastrnn.frozen import Frozen


def rounded(a, largest):
    """The nearest of 255 levels from -largest to largest."""
    scale = np.float32(np.maximum(largest, 1e-30)) / 127
    return np.clip(np.rint(a / scale), -127, 127) * scale


def by_rows(a):
    """Symmetric, with a scale for each row."""
    return rounded(a, np.abs(a).max(axis=1, keepdims=True))


def clipped(percentile):
    """Symmetric: the largest level of a row is this percentile of its magnitudes."""
    return lambda a: rounded(a, np.percentile(np.abs(a), percentile, axis=1, keepdims=True))


def as_a_whole(a):
    """Symmetric, with one scale for all rows."""
    return rounded(a, np.abs(a).max())


def asymmetric(a):
    """The nearest of 255 levels from the least to the largest value of each row; 0 is one of them."""
    low, high = np.minimum(a.min(axis=1, keepdims=True), 0), np.maximum(a.max(axis=1, keepdims=True), 0)
    scale = np.maximum(high - low, 1e-30) / 254
    zero = np.rint(-low / scale)
    return (np.clip(np.rint(a / scale) + zero, 0, 254) - zero) * scale


def static(percentile):
    """Symmetric, with a scale from the magnitudes that were seen before."""
    return lambda seen: partial(rounded, largest=np.percentile(seen, percentile))


class Scheme(NamedTuple):
    """How the factors of a product are rounded. x and h are functions of what was seen before."""

    weights: Callable = by_rows
    x: Callable = lambda seen: by_rows
    h: Callable = lambda seen: by_rows


def activations(rounding):
    return Scheme(x=lambda seen: rounding, h=lambda seen: rounding)


SCHEMES = {
    "ours: a scale a row, symmetric": Scheme(),
    "weights: one scale a matrix": Scheme(weights=as_a_whole),
    "weights: asymmetric": Scheme(weights=asymmetric),
    "weights: scales of the 99.9th percentile": Scheme(weights=clipped(99.9)),
    "weights: scales of the 99th percentile": Scheme(weights=clipped(99)),
    "activations: one scale for the step of a batch": activations(as_a_whole),
    "activations: asymmetric": activations(asymmetric),
    "h: fixed scale, 1/127": Scheme(h=lambda seen: partial(rounded, largest=1.0)),
    "activations: static, largest value seen": Scheme(x=static(100), h=static(100)),
    "activations: static, 99.9th percentile": Scheme(x=static(99.9), h=static(99.9)),
}


class Matrix(Narrow):
    """A matrix whose products round their other factor first, in the reference engine."""

    precision, nbytes, shape = "int8", 0, None

    def __init__(self, weights, rounding):
        self.weights, self.rounding = weights, rounding

    def copy(self):
        return self

    def product(self, x):
        return self.rounding(x) @ self.weights.T


class Trial:
    """A model whose recurrent layers compute by a scheme."""

    def __init__(self, model):
        self.model, self.seen = model, {}

    def calibrated(self, batches):
        """Note a sample of the magnitudes that each matrix multiplies."""

        def watch(name):
            def note(x):
                self.seen.setdefault(name, []).append(np.abs(x).ravel()[::7])
                return x

            return note

        train.evaluate(self._with(lambda name, weights: Matrix(weights, watch(name))), batches)
        self.seen = {name: np.concatenate(parts) for name, parts in self.seen.items()}
        return self

    def under(self, scheme):
        """The model by this scheme."""

        def matrix(name, weights):
            kind = scheme.x if "weight_ih" in name else scheme.h
            return Matrix(scheme.weights(weights), kind(self.seen[name]))

        return self._with(matrix)

    def _with(self, matrix):
        model = copy.copy(self.model)
        model.rnn = self._layer("rnn", model.rnn, matrix)
        if hasattr(model.embedding, "rnn"):  # which reads the characters of words
            model.embedding = copy.copy(model.embedding)
            model.embedding.rnn = self._layer("embedding", model.embedding.rnn, matrix)
        return model

    @staticmethod
    def _layer(layer, recurrent, matrix):
        frozen = recurrent.freeze()
        weights = [
            w._replace(**{name: matrix(f"{layer}.{k}.{name}", getattr(w, name)) for name in ("weight_ih", "weight_hh")})
            for k, w in enumerate(frozen._weights)
        ]
        return Frozen(frozen._stack, engines.named("engine", "reference"), weights, frozen._initial)


def tagger(data, model, treebank):
    """Batches to calibrate with, batches to test, and the score."""
    words, characters, tags = (model.vocabularies[name] for name in ("words", "characters", "tags"))

    def dataset(part):
        rows = [list(zip(*block, strict=True)) for block in read_blocks(data / treebank / f"{part}.tsv.gz")]
        return Dataset([encode_words(r[0], words, characters) for r in rows], [tags.encode(r[1]) for r in rows])

    return accuracies(dataset("dev"), dataset("test"))


def sentiment(data, model):
    """Batches to calibrate with, batches to test, and the score."""
    vocabulary = model.vocabularies["syllables"]

    def dataset(part):
        text = gzip.decompress((data / "nsmc" / f"ratings_{part}.txt.gz").read_bytes()).decode()
        rows = [line.split("\t") for line in text.split("\n")[1:5001] if line]
        pairs = ([a + b for a, b in zip(" " + row[1], row[1], strict=False)] for row in rows)
        x = [np.stack([vocabulary.encode(row[1]), vocabulary.encode(p)], 1) for row, p in zip(rows, pairs, strict=True)]
        return Dataset(x, np.array([int(row[2]) for row in rows]))

    return accuracies(dataset("train"), dataset("test"))


def accuracies(other, test):
    def accuracy(model):
        return 100 * metrics.accuracy(model.predict(Batches(test, 64)), test.y)

    return list(Batches(other.take(range(500)), 64)), list(Batches(test, 64)), accuracy


def characters(data, model):
    """Batches to calibrate with, batches to test, and the score."""
    text = gzip.decompress((data / "tinyshakespeare" / "input.txt.gz").read_bytes()).decode()
    ids = model.vocabularies["characters"].encode(text)
    split = len(ids) * 9 // 10
    test = list(Chunks.to_evaluate(ids[split : split + 20_000], columns=16))
    other = list(Chunks.to_evaluate(ids[split - 20_000 : split], columns=16))
    return other, test, lambda model: metrics.perplexity(train.evaluate(model, test))


SYSTEMS = {
    "english": lambda data, model: tagger(data, model, "ud_english_ewt"),
    "korean": lambda data, model: tagger(data, model, "ud_korean_kaist"),
    "sentiment": sentiment,
    "characters": characters,
}


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="folder of the data sets")
@click.argument("systems", metavar="SYSTEM=FILE...", nargs=-1)
def main(data, systems):
    """Print errors and scores of each system by each scheme."""
    for name, path in (system.split("=", 1) for system in systems):
        model = nn.load(path)
        other, batches, score = SYSTEMS[name](data, model)
        trial = Trial(model).calibrated(other)
        x = [(model.embedding(batch.x), batch.x_lengths) for batch in batches[:8]]
        exact = [model.rnn(each, lengths=lengths)[0] for each, lengths in x]
        print(f"{name:48}error of y, %   score\n{'float32':48}{0:12.3f}{score(model):10.3f}", flush=True)
        for scheme, how in SCHEMES.items():
            rough = trial.under(how)
            found = [rough.rnn(each, lengths=lengths)[0] for each, lengths in x]
            error = sum(((a - b) ** 2).sum() for a, b in zip(found, exact, strict=True))
            relative = 100 * np.sqrt(error / sum((a**2).sum() for a in exact))
            print(f"{scheme:48}{relative:12.3f}{score(rough):10.3f}", flush=True)


if __name__ == "__main__":
    main()
