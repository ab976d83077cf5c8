"""What is measured: models, their sizes, and data of the sizes and lengths of the real data, from a fixed seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn.bench.models import kit
from fastrnn.data import SPECIALS, Batch, Batches, Dataset

__all__ = ["QUICK_ROWS", "ROWS", "Row", "draw"]

SEED = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A model with its sizes, and what is done with it.

    Attributes
    ----------
    name : str
    model : str
        A key of the `MODELS` of kit.py, torch.py and jax.py.
    unit : str
        What a target is: the speed is in targets per second.
    sizes : mapping of str to number
        What the model's class and the function that draws its data read. B is the number of sequences in a batch.
    kind : {"training", "inference"}, default "training"
        "inference" is greedy decoding of ``sizes["length"]`` ids.
    batches : int, default 4
        How many batches a measurement goes through.
    """

    name: str
    model: str
    unit: str
    sizes: Mapping[str, Any]
    kind: str = "training"
    batches: int = 4

    def __str__(self) -> str:
        return self.name

    def targets(self, batches: list[Batch]) -> int:
        """Return how many targets the batches have; in inference, how many ids are written."""
        if self.kind == "inference":
            return sum(batch.x.shape[1] * self.sizes["length"] for batch in batches)
        if self.model == "Translator":  # the end of each sentence is a target, too
            return sum(steps_of(batch.y, batch.y_lengths) + batch.x.shape[1] for batch in batches)
        return sum(steps_of(batch.y, batch.x_lengths if self.model == "Tagger" else None) for batch in batches)


def steps_of(y: Any, lengths: NDArray | None) -> int:
    return int(np.size(y) if lengths is None else lengths.sum())


# The sizes of small and medium are those of W. Zaremba et al., arXiv:1409.2329; the dropout of small is that of
# PyTorch's word_language_model. Sentiment, tagger, translator, forecaster and digits are those of examples/, with
# vocabularies and lengths of the data that they name.
TRANSLATOR = {"V": 1529, "targets": 960, "E": 128, "H": 256, "dropout": 0.5, "B": 64}
ROWS = (
    Row("characters", "LanguageModel", "characters",
        {"V": 66, "E": 64, "H": 512, "L": 1, "T": 64, "B": 32, "dropout": 0.3}),
    Row("words-small", "LanguageModel", "words",
        {"V": 10_000, "E": 200, "H": 200, "L": 2, "T": 35, "B": 20, "dropout": 0.2}),
    Row("words-medium", "LanguageModel", "words",
        {"V": 10_000, "E": 650, "H": 650, "L": 2, "T": 35, "B": 20, "dropout": 0.5}, batches=2),
    Row("sentiment", "Sentiment", "reviews",
        {"V": 32_374, "columns": 2, "E": 64, "H": 128, "K": 2, "shortest": 10, "longest": 140, "dropout": 0.4,
         "B": 64}),
    Row("tagger", "Tagger", "words",
        {"V": 9877, "E": 96, "characters": 112, "character_E": 32, "character_H": 64, "H": 128, "K": 17,
         "longest": 60, "dropout": 0.4, "word_dropout": 0.15, "B": 32}),
    Row("translator", "Translator", "syllables", TRANSLATOR),
    Row("translating", "Translator", "syllables", {**TRANSLATOR, "length": 30}, "inference", batches=2),
    Row("forecaster", "Forecaster", "numbers", {"F": 17, "H": 48, "K": 48, "T": 96, "dropout": 0.5, "B": 64}),
    Row("digits", "Digits", "words", {"F": 64, "H": 64, "L": 2, "K": 10, "longest": 40, "dropout": 0.4, "B": 32}),
)  # fmt: skip
QUICK_ROWS = tuple(row for row in ROWS if row.name in ("characters", "words-small", "sentiment", "forecaster"))


def draw(row: Row) -> tuple[dict[str, NDArray], list[Batch]]:
    """Return the initial parameters of a row's model and its batches, in float32: the same each time."""
    rng, sizes = np.random.default_rng(SEED), SimpleNamespace(**row.sizes)
    params = kit.MODELS[row.model](sizes, np.float32, rng).params
    return params, DATA[row.model](sizes, row.batches, rng)


def language(sizes: Any, count: int, rng: np.random.Generator) -> list[Batch]:
    """Chunks of a text: each follows the one before."""
    text = frequent(rng, sizes.V, (count * sizes.T + 1, sizes.B))
    cuts = [slice(k * sizes.T, (k + 1) * sizes.T) for k in range(count)]
    return [Batch(text[:-1][cut], text[1:][cut], follows=k > 0) for k, cut in enumerate(cuts)]


def reviews(sizes: Any, count: int, rng: np.random.Generator) -> list[Batch]:
    """Reviews of Korean films, as examples/sentiment.py reads them: each step is a syllable and a pair of syllables."""
    lengths = (sizes.shortest + rng.exponential(25, count * sizes.B)).astype(int).clip(max=sizes.longest)
    texts = [frequent(rng, sizes.V, (n, sizes.columns)) for n in lengths]
    return batched(Dataset(texts, rng.integers(sizes.K, size=len(texts))), sizes, rng)


def sentences(sizes: Any, count: int, rng: np.random.Generator) -> list[Batch]:
    """English sentences with their words' letters, and a tag for each word."""
    letters = np.zeros((3 * sizes.V, 16), np.int32)  # of all words, most of which have no id of their own
    lengths = rng.negative_binomial(3, 0.4, len(letters)).clip(1, 15)
    for word, n in zip(letters, lengths, strict=True):
        word[:n] = rng.integers(len(SPECIALS), sizes.characters, n)
    found = [
        frequent(rng, len(letters), (n,)) for n in rng.geometric(1 / 17, count * sizes.B).clip(max=sizes.longest)
    ]  # fmt: skip
    x = [np.column_stack([np.where(words < sizes.V, words, 1), letters[words]]) for words in found]
    return batched(Dataset(x, [rng.integers(sizes.K, size=len(words)) for words in found]), sizes, rng)


def translations(sizes: Any, count: int, rng: np.random.Generator) -> list[Batch]:
    """Short sentences, and translations a good two times as long."""
    lengths = rng.negative_binomial(6, 0.5, count * sizes.B).clip(2, 24)
    x = [frequent(rng, sizes.V, (n,)) for n in lengths]
    y = [frequent(rng, sizes.targets, (n,)) for n in (lengths * rng.uniform(1.6, 3, lengths.shape)).astype(int)]
    return batched(Dataset(x, y), sizes, rng)


def weather(sizes: Any, count: int, rng: np.random.Generator) -> list[Batch]:
    """Windows on a series, and the numbers to come."""
    x = rng.standard_normal((count, sizes.T, sizes.B, sizes.F), np.float32)
    y = rng.standard_normal((count, sizes.B, sizes.K), np.float32)
    return [Batch(*pair) for pair in zip(x, y, strict=True)]


def recordings(sizes: Any, count: int, rng: np.random.Generator) -> list[Batch]:
    """Spectra of words."""
    lengths = rng.normal(20, 6, count * sizes.B).astype(int).clip(6, sizes.longest)
    frames = [rng.standard_normal((n, sizes.F), np.float32) for n in lengths]
    return batched(Dataset(frames, rng.integers(sizes.K, size=len(frames))), sizes, rng)


DATA: dict[str, Callable[[Any, int, np.random.Generator], list[Batch]]] = {
    "LanguageModel": language,
    "Sentiment": reviews,
    "Tagger": sentences,
    "Translator": translations,
    "Forecaster": weather,
    "Digits": recordings,
}


def frequent(rng: np.random.Generator, V: int, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Draw ids without the special ones, whose frequencies fall with the id as those of words do (Zipf's law)."""
    chances = 1 / (np.arange(V - len(SPECIALS)) + 10.0)
    places = rng.random(shape) * chances.sum()
    return (len(SPECIALS) + np.searchsorted(chances.cumsum(), places)).clip(max=V - 1).astype(np.int32)


def batched(dataset: Dataset, sizes: Any, rng: np.random.Generator) -> list[Batch]:
    """Return padded batches of sequences of similar lengths, as training has them."""
    return list(Batches(dataset, sizes.B)(rng))
