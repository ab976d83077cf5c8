"""The models in PyTorch, as a user of it writes them. Modules have the names of the kit's parts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

__all__ = ["MODELS", "load"]

UNK, BOS, EOS = 1, 2, 3
BANNED = [0, BOS, EOS]  # what greedy decoding does not write

# Each model takes sizes (see `rows.Row`). A call with a batch returns its loss and, for a language model, the state.


class LanguageModel(nn.Module):
    def __init__(self, s: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(s.V, s.E)
        self.rnn = nn.LSTM(s.E, s.H, s.L, dropout=s.dropout if s.L > 1 else 0.0)
        self.output = nn.Linear(s.H, s.V)
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, batch: Any, state: Any) -> tuple[Any, Any]:
        y, (h, c) = self.rnn(self.dropout(self.embedding(batch.x)), state)
        logits = self.output(self.dropout(y))
        return functional.cross_entropy(logits.flatten(0, 1), batch.y.flatten()), (h.detach(), c.detach())


class Sentiment(nn.Module):
    def __init__(self, s: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(s.V, s.E)
        self.rnn = nn.LSTM(s.columns * s.E, s.H, bidirectional=True)
        self.output = nn.Linear(2 * s.H, s.K)
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, batch: Any, _: Any) -> tuple[Any, Any]:
        x = self.dropout(self.embedding(batch.x).flatten(2))
        pooled = maximum(self.rnn, x, batch.x_lengths)
        return functional.cross_entropy(self.output(self.dropout(pooled)), batch.y), None


class Digits(nn.Module):
    def __init__(self, s: Any) -> None:
        super().__init__()
        self.rnn = nn.LSTM(s.F, s.H, s.L, dropout=s.dropout, bidirectional=True)
        self.output = nn.Linear(2 * s.H, s.K)
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, batch: Any, _: Any) -> tuple[Any, Any]:
        pooled = maximum(self.rnn, self.dropout(batch.x), batch.x_lengths)
        return functional.cross_entropy(self.output(self.dropout(pooled)), batch.y), None


def maximum(rnn: Any, x: Any, lengths: Any) -> Any:
    """Return the maximum over time of what a layer makes of x."""
    y, _ = rnn(pack_padded_sequence(x, lengths, enforce_sorted=False))
    return pad_packed_sequence(y, padding_value=-torch.inf)[0].max(0).values


class Tagger(nn.Module):
    def __init__(self, s: Any) -> None:
        super().__init__()
        self.embedding = WordEncoder(s)
        self.rnn = nn.LSTM(s.E + 2 * s.character_H, s.H, bidirectional=True)
        self.output = nn.Linear(2 * s.H, s.K)
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, batch: Any, _: Any) -> tuple[Any, Any]:
        words = pack_padded_sequence(batch.x, batch.x_lengths, enforce_sorted=False)
        y, _ = self.rnn(words._replace(data=self.dropout(self.embedding(words.data))))
        tags = pack_padded_sequence(batch.y, batch.x_lengths, enforce_sorted=False)
        return functional.cross_entropy(self.output(self.dropout(y.data)), tags.data), None


class WordEncoder(nn.Module):
    def __init__(self, s: Any) -> None:
        super().__init__()
        self.characters = nn.Embedding(s.characters, s.character_E)
        self.rnn = nn.LSTM(s.character_E, s.character_H, bidirectional=True)
        self.words = nn.Embedding(s.V, s.E)
        self.word_dropout = s.word_dropout

    def forward(self, ids: Any) -> Any:
        own = ids[:, 0]
        if self.training:
            own = own.masked_fill(torch.rand(len(own)) < self.word_dropout, UNK)
        spelled, which = torch.unique(ids[:, 1:], dim=0, return_inverse=True)  # so each word is read only once
        lengths = (spelled != 0).sum(1)
        packed = pack_padded_sequence(self.characters(spelled[:, : lengths.max()].T), lengths, enforce_sorted=False)
        _, (h, _) = self.rnn(packed)
        return torch.cat([self.words(own), torch.cat([h[0], h[1]], 1)[which]], 1)


class Translator(nn.Module):
    def __init__(self, s: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(s.V, s.E)
        self.encoder = nn.LSTM(s.E, s.H, bidirectional=True)
        self.decoder = Decoder(s)
        self.dropout = nn.Dropout(s.dropout)

    def encode(self, batch: Any) -> tuple[Any, Any, Any]:
        """Return the memory (B, S, 2H), where it is padding (B, 1, S), and the decoder's initial state."""
        x = self.dropout(self.embedding(batch.x))
        y, (h, _) = self.encoder(pack_padded_sequence(x, batch.x_lengths, enforce_sorted=False))
        memory = pad_packed_sequence(y, batch_first=True)[0]
        past = torch.arange(memory.shape[1]) >= batch.x_lengths[:, None]
        start = torch.tanh(self.decoder.bridge(torch.cat([h[0], h[1]], 1)))
        return memory, past[:, None], tuple(part.contiguous() for part in start[None].chunk(2, 2))

    def forward(self, batch: Any, _: Any) -> tuple[Any, Any]:
        memory, past, state = self.encode(batch)
        U, B = batch.y.shape
        written = torch.cat([torch.full((1, B), BOS), batch.y])
        targets = torch.cat([batch.y, torch.zeros((1, B), dtype=torch.long)])
        targets[batch.y_lengths, torch.arange(B)] = EOS
        valid = torch.arange(U + 1)[:, None] <= batch.y_lengths
        y, _ = self.decoder(self.dropout(self.decoder.embedding(written)), state, memory, past)
        return functional.cross_entropy(self.decoder.output(self.dropout(y[valid])), targets[valid]), None

    def decode(self, batch: Any, length: int) -> Any:
        """Return `length` ids for each sentence, each the likeliest one after those before it: (B, length)."""
        memory, past, state = self.encode(batch)
        keys = self.decoder.attention.keys(memory)
        ids, found = torch.full((batch.x.shape[1],), BOS), []
        for _ in range(length):
            y, state = self.decoder(self.decoder.embedding(ids)[None], state, memory, past, keys)
            logits = self.decoder.output(y[0])
            logits[:, BANNED] = -torch.inf
            ids = logits.argmax(1)
            found.append(ids)
        return torch.stack(found, 1)


class Decoder(nn.Module):
    def __init__(self, s: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(s.targets, s.E)
        self.rnn = nn.LSTM(s.E, s.H)
        self.output = nn.Linear(s.H, s.targets)
        self.bridge = nn.Linear(2 * s.H, 2 * s.H)
        self.attention = Attention(s.H, 2 * s.H)

    def forward(self, x: Any, state: Any, memory: Any, past: Any, keys: Any = None) -> tuple[Any, Any]:
        y, state = self.rnn(x, state)
        return self.attention(y, memory, past, self.attention.keys(memory) if keys is None else keys), state


class Attention(nn.Module):
    def __init__(self, query_size: int, memory_size: int) -> None:
        super().__init__()
        self.keys = nn.Linear(memory_size, query_size, bias=False)
        self.combine = nn.Linear(memory_size + query_size, query_size)

    def forward(self, queries: Any, memory: Any, past: Any, keys: Any) -> Any:
        q = queries.transpose(0, 1)
        weights = torch.softmax((q @ keys.transpose(1, 2)).masked_fill(past, -torch.inf), -1)
        return torch.tanh(self.combine(torch.cat([weights @ memory, q], -1))).transpose(0, 1)


class Forecaster(nn.Module):
    def __init__(self, s: Any) -> None:
        super().__init__()
        self.rnn = nn.LSTM(s.F, s.H)
        self.output = nn.Sequential(nn.Dropout(s.dropout), nn.Linear(s.H, s.K))

    def forward(self, batch: Any, _: Any) -> tuple[Any, Any]:
        _, (h, _) = self.rnn(batch.x)
        return functional.mse_loss(self.output(h[0]), batch.y), None


MODELS: dict[str, Callable[[Any], nn.Module]] = {
    "LanguageModel": LanguageModel,
    "Sentiment": Sentiment,
    "Tagger": Tagger,
    "Translator": Translator,
    "Forecaster": Forecaster,
    "Digits": Digits,
}


def load(problem: Any) -> tuple[Callable[[], Any], Callable[[], dict[str, Any]]]:
    """Prepare a model; see `kit.load`."""
    torch.set_num_threads(problem.threads)
    torch.manual_seed(0)
    model = MODELS[problem.model](problem.sizes)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in problem.params.items()})
    if problem.accelerated:
        import fastrnn.torch

        fastrnn.torch.accelerate(model)
    batches, valid, count = problem.batches, problem.valid, problem.steps
    for batch in (*batches, *valid):
        batch.x, batch.y = tensor(batch.x), tensor(batch.y)
        batch.x_lengths, batch.y_lengths = lengths_of(batch.x, batch.x_lengths), lengths_of(batch.y, batch.y_lengths)
    if problem.kind == "inference":
        length = problem.sizes.length

        def decode() -> Any:
            with torch.inference_mode():
                return torch.stack([model.decode(batch, length) for batch in batches])

        model.eval()
        return decode, lambda: {"ids": decode()}

    optimizer = torch.optim.AdamW(model.parameters(), fused=True)  # faster than the default, on a CPU too

    def training() -> Iterator[None]:
        state = None
        for batch in itertools.cycle(batches):
            optimizer.zero_grad()
            loss, state = model(batch, state if batch.follows else None)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            yield

    steps = training()

    def train() -> None:
        for _ in range(count):
            next(steps)

    def losses(given: Any) -> Iterator[Any]:
        state = None
        for batch in given:
            loss, state = model(batch, state if batch.follows else None)
            yield loss

    def collect() -> dict[str, Any]:
        model.eval()
        if valid:
            with torch.no_grad():
                found = {"loss": torch.stack(list(losses(valid))).mean()}
        else:
            optimizer.zero_grad()
            values = []
            for loss in losses(batches):
                loss.backward()  # adds to the gradients
                values.append(loss.detach())
            found = {"loss": torch.stack(values)}
            found |= {f"grad {name}": p.grad for name, p in model.named_parameters()}
        model.train()
        return found

    return train, collect


def tensor(array: Any) -> Any:
    """Return an array as a tensor, ids as PyTorch's integers."""
    found = torch.from_numpy(array)
    return found if found.is_floating_point() else found.long()


def lengths_of(padded: Any, lengths: Any) -> Any:
    """Return the lengths of sequences, which are not given where all are equal."""
    if lengths is not None:
        return torch.from_numpy(lengths)
    return torch.full((padded.shape[1],), len(padded)) if padded.ndim > 1 else None
