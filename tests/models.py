"""A small model of every pattern of fastrnn.nn, in float64 or float32, each with a batch.

Sequences of the batch have different lengths; one of them is empty.
"""

from typing import Any

import numpy as np

import fastrnn
from fastrnn import nn
from fastrnn.data import Batch, Dataset

__all__ = ["CELLS", "MODELS", "build_model"]

CELLS = {"lstm": fastrnn.LSTM, "gru": fastrnn.GRU, "rnn": fastrnn.RNN}
MODELS = (
    "last", "mean", "max", "one_number", "tagger", "regressor", "regularized", "words", "words_and_more", "caption",
    "caption_fed", "picture", "translate", "attend", "ensemble", "taggers",
)  # fmt: skip
LENGTHS = (5, 3, 0, 6)
V, E, H, K = 9, 4, 5, 3


def build_model(
    name: str, cell: str = "lstm", *, bidirectional: bool = False, dropout: float = 0.0, dtype: Any = np.float64
) -> tuple[Any, Batch]:
    """Return the model of this name (of MODELS) and a batch of four rows for it."""
    rng = np.random.default_rng(3)
    how: dict[str, Any] = {"dtype": dtype, "rng": rng}
    D = 1 + bidirectional
    B, rows = len(LENGTHS), np.arange(len(LENGTHS))
    options = {"bidirectional": bidirectional, "dropout": dropout, **how}
    ids = [rng.integers(1, V, n) for n in LENGTHS]
    features = [rng.standard_normal((n, E)).astype(dtype) for n in LENGTHS]
    written = [rng.integers(4, V, n) for n in (2, 0, 4, 3)]
    tags = [rng.integers(0, K, n) for n in LENGTHS]

    def reader() -> Any:
        return CELLS[cell](E, H, 2, **options)

    def decoder(reads: int, **more: Any) -> nn.Decoder:
        rnn = CELLS[cell](E + (reads if more.get("feed") else 0), H + 1, 2, dropout=dropout, **how)
        bridge = nn.Linear(reads, nn.state_size(rnn), **how)
        return nn.Decoder(
            nn.Embedding(V, E, word_dropout=dropout, **how),
            rnn,
            nn.Linear(H + 1, V, **how),
            bridge,
            dropout=dropout,
            **more,
        )

    if name in ("last", "mean", "max"):
        model = nn.ManyToOne(
            reader(), nn.Linear(D * H, K, **how), nn.Embedding(V, E, **how), pooling=name, dropout=dropout
        )  # fmt: skip
        return model, Dataset(ids, [0, 2, 1, -100]).batch(rows)
    if name == "one_number":
        model = nn.ManyToOne(reader(), nn.Linear(D * H, 2, **how), loss="mse", dropout=dropout)
        targets = rng.standard_normal((B, 2)).astype(dtype)
        targets[1, 0] = np.nan
        return model, Dataset(features, targets).batch(rows)
    if name in ("tagger", "taggers"):
        embeddings = [nn.Embedding(V, E, **how) for _ in range(1 + (name == "taggers"))]
        models = [nn.ManyToMany(reader(), nn.Linear(D * H, K, **how), e, dropout=dropout) for e in embeddings]
        model = nn.Ensemble(*models) if name == "taggers" else models[0]
        tags[0][1] = -100
        return model, Dataset(ids, tags).batch(rows)
    if name == "regressor":
        output = nn.Sequential(
            nn.Linear(D * H, 6, **how), nn.Activation("tanh"), nn.Dropout(dropout), nn.Linear(6, 2, **how)
        )
        model = nn.ManyToMany(reader(), output, loss="mse")
        return model, Dataset(features, [rng.standard_normal((n, 2)).astype(dtype) for n in LENGTHS]).batch(rows)
    if name == "regularized":
        size = D * H
        rnn = CELLS[cell](size, H, 2, input_dropout=dropout, weight_dropout=dropout, zoneout=dropout, **options)
        embedding = nn.Embedding(V, size, embedding_dropout=dropout, **how)
        model = nn.ManyToMany(
            rnn, nn.Linear(size, V, **how), embedding, dropout=(dropout, dropout / 2), locked=True, tied=True,
            ar=dropout, tar=dropout)  # fmt: skip
        return model, Dataset(ids, [rng.integers(0, V, n) for n in LENGTHS]).batch(rows)
    if name in ("words", "words_and_more"):
        more = name == "words_and_more"
        letters = fastrnn.LSTM(3, 2, bidirectional=bidirectional, **how)
        words = nn.WordEncoder(
            nn.Embedding(7, 3, **how), letters, nn.Embedding(V, E, columns=2 if more else None, **how),
            dropout=dropout)  # fmt: skip
        model = nn.ManyToMany(CELLS[cell](words.output_size, H, **options), nn.Linear(D * H, K, **how), words)
        spelled = [np.concatenate([i[:, None], np.repeat(i[:, None], 4, 1) % 7 * [1, 1, 0, 0]], axis=1) for i in ids]
        if more:
            spelled = [np.concatenate([s[:, :1] * 5 % V, s], axis=1) for s in spelled]
        return model, Dataset(spelled, tags).batch(rows)
    if name in ("caption", "caption_fed"):
        encoder = nn.Sequential(nn.Linear(6, 4, **how), nn.Activation("relu"), nn.Dropout(dropout))
        model = nn.OneToMany(decoder(4, feed=name == "caption_fed"), encoder)
        return model, Dataset(rng.standard_normal((B, 6)).astype(dtype), written).batch(rows)
    if name == "picture":
        first = nn.Convolution(nn.Linear(2 * 3 * 3, 3, **how), (6, 5, 2), 3)
        second = nn.Convolution(nn.Linear(3 * 2 * 2, 2, **how), first.output_shape, 2, 2)  # leaves out the last column
        encoder = nn.Sequential(first, nn.Activation("tanh"), second)
        return nn.OneToMany(decoder(4), encoder), Dataset(rng.standard_normal((B, 60)).astype(dtype), written).batch(
            rows
        )

    def translator() -> nn.EncoderDecoder:
        attention = nn.Attention(H + 1, D * H, **how) if name == "attend" else None
        return nn.EncoderDecoder(
            reader(), decoder(D * H, attention=attention), nn.Embedding(V, E, **how), dropout=dropout
        )  # fmt: skip

    model = nn.WriterEnsemble(translator(), translator()) if name == "ensemble" else translator()
    return model, Dataset(ids, written).batch(rows)
