"""The models in fastrnn's kit, as a user writes them. Parameters have the names that the other libraries use, too."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

import fastrnn
from fastrnn import nn, optim
from fastrnn.data import BOS, EOS, PAD, Batch
from fastrnn.train import Trainer, evaluate

__all__ = ["MODELS", "load"]


def language_model(s: Any, dtype: Any, rng: Any) -> nn.Model:
    """Return a language model of characters or words."""
    rnn = fastrnn.LSTM(s.E, s.H, s.L, dropout=s.dropout if s.L > 1 else 0.0, dtype=dtype, rng=rng)
    embedding = nn.Embedding(s.V, s.E, scale=0.1, dtype=dtype, rng=rng)
    return nn.ManyToMany(rnn, nn.Linear(s.H, s.V, dtype=dtype, rng=rng), embedding, dropout=s.dropout)


def sentiment(s: Any, dtype: Any, rng: Any) -> nn.Model:
    """Return the model of examples/sentiment.py."""
    embedding = nn.Embedding(s.V, s.E, columns=s.columns, scale=0.1, dtype=dtype, rng=rng)
    rnn = fastrnn.LSTM(embedding.output_size, s.H, bidirectional=True, dtype=dtype, rng=rng)
    output = nn.Linear(2 * s.H, s.K, dtype=dtype, rng=rng)
    return nn.ManyToOne(rnn, output, embedding, pooling="max", dropout=s.dropout)


def tagger(s: Any, dtype: Any, rng: Any) -> nn.Model:
    """Return the model of examples/pos_tagger.py."""
    embedding = nn.WordEncoder(
        nn.Embedding(s.characters, s.character_E, scale=0.1, dtype=dtype, rng=rng),
        fastrnn.LSTM(s.character_E, s.character_H, bidirectional=True, dtype=dtype, rng=rng),
        nn.Embedding(s.V, s.E, scale=0.1, dtype=dtype, rng=rng),
        word_dropout=s.word_dropout,
    )
    rnn = fastrnn.LSTM(embedding.output_size, s.H, bidirectional=True, dtype=dtype, rng=rng)
    return nn.ManyToMany(rnn, nn.Linear(2 * s.H, s.K, dtype=dtype, rng=rng), embedding, dropout=s.dropout)


def translator(s: Any, dtype: Any, rng: Any) -> nn.Model:
    """Return the model of examples/translator.py, but words are read as ids only."""
    rnn = fastrnn.LSTM(s.E, s.H, dtype=dtype, rng=rng)
    decoder = nn.Decoder(
        nn.Embedding(s.targets, s.E, scale=0.1, dtype=dtype, rng=rng),
        rnn,
        nn.Linear(s.H, s.targets, dtype=dtype, rng=rng),
        bridge=nn.Linear(2 * s.H, nn.state_size(rnn), dtype=dtype, rng=rng),
        attention=nn.Attention(s.H, 2 * s.H, dtype=dtype, rng=rng),
        dropout=s.dropout,
    )
    encoder = fastrnn.LSTM(s.E, s.H, bidirectional=True, dtype=dtype, rng=rng)
    embedding = nn.Embedding(s.V, s.E, scale=0.1, dtype=dtype, rng=rng)
    return nn.EncoderDecoder(encoder, decoder, embedding, dropout=s.dropout)


def forecaster(s: Any, dtype: Any, rng: Any) -> nn.Model:
    """Return the model of examples/forecaster.py."""
    output = nn.Sequential(nn.Dropout(s.dropout), nn.Linear(s.H, s.K, dtype=dtype, rng=rng))
    return nn.ManyToOne(fastrnn.LSTM(s.F, s.H, dtype=dtype, rng=rng), output, loss="mse")


def digits(s: Any, dtype: Any, rng: Any) -> nn.Model:
    """Return the model of examples/spoken_digits.py."""
    rnn = fastrnn.LSTM(s.F, s.H, s.L, dropout=s.dropout, bidirectional=True, dtype=dtype, rng=rng)
    return nn.ManyToOne(rnn, nn.Linear(2 * s.H, s.K, dtype=dtype, rng=rng), pooling="max", dropout=s.dropout)


# Each takes sizes (see `rows.Row`), a dtype, and the source of the initial parameters.
MODELS: dict[str, Callable[[Any, Any, Any], nn.Model]] = {
    "LanguageModel": language_model,
    "Sentiment": sentiment,
    "Tagger": tagger,
    "Translator": translator,
    "Forecaster": forecaster,
    "Digits": digits,
}


def load(problem: Any) -> tuple[Callable[[], Any], Callable[[], dict[str, Any]]]:
    """Prepare a model.

    Parameters
    ----------
    problem : namespace
        model, sizes, kind: those of a `rows.Row`; params, by name; batches and valid, with the fields of a
        `fastrnn.data.Batch`; steps, how many batches a call takes. In torch.py and jax.py also threads, and
        accelerated: whether fastrnn's kernels run PyTorch's layers.

    Returns
    -------
    call : callable
        Trains on the next batches, over and over; or decodes all.
    collect : callable
        Returns results by name without dropout, and changes nothing: in training the "loss" of each batch, and
        "grad <param>", the sum over the batches; with valid batches only their mean "loss"; in inference the "ids" of
        each row.
    """
    build, sizes, dtype = MODELS[problem.model], problem.sizes, next(iter(problem.params.values())).dtype
    model = build(sizes, dtype, 0)
    model.load_state_dict(problem.params)
    batches, valid = ([Batch(**vars(batch)) for batch in given] for given in (problem.batches, problem.valid))
    count = problem.steps
    if problem.kind == "inference":
        return lambda: decode(model, batches, sizes.length), lambda: {"ids": decode(model, batches, sizes.length)}

    steps = iter(Trainer(model, optim.AdamW(model.params), lambda rng: itertools.cycle(batches), steps=10**9))

    def train() -> None:
        for _ in range(count):
            next(steps)

    def collect() -> dict[str, Any]:
        if valid:
            return {"loss": evaluate(model, valid)}
        without = {name: 0.0 for name in vars(sizes) if name.endswith("dropout")}
        plain = build(SimpleNamespace(**{**vars(sizes), **without}), dtype, 0)
        plain.load_state_dict(model.params)
        return gradients(plain, batches)

    return train, collect


def gradients(model: nn.Model, batches: list[Batch]) -> dict[str, Any]:
    losses, total, state = [], {name: np.zeros_like(value) for name, value in model.params.items()}, None
    for batch in batches:
        loss = model.loss_and_grads(dataclasses.replace(batch, state=state if batch.follows else None))
        losses.append(loss.value)
        for name, value in loss.grads.items():
            total[name] += value
        state = loss.state
    return {"loss": np.array(losses), **{f"grad {name}": value for name, value in total.items()}}


def decode(model: nn.Model, batches: list[Batch], length: int) -> Any:
    """Return as many ids for each sentence: none ends earlier."""
    return np.array([model.predict_batch(batch, max_length=length, banned=(PAD, BOS, EOS)) for batch in batches])
