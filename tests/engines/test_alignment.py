"""C is given aligned arrays only, whatever callers pass: it may use them as numbers."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from generators import LAYOUTS, random_call
from numpy.typing import NDArray
from oracle import infer, train

from fastrnn import nn, optim
from fastrnn._core import native
from fastrnn.engines import compiled as compiled_engine
from fastrnn.engines import compiled_operations
from fastrnn.params import RowGradient

misaligned = LAYOUTS["misaligned"]


class Watched:
    """The functions of C, which look at the arrays that they are given."""

    def __init__(self) -> None:
        self.arrays = 0

    def __getattr__(self, name: str) -> Any:
        return self.watch(getattr(native, name))

    def watch(self, value: Any) -> Any:
        if not callable(value):
            return value

        def call(*args: Any) -> Any:
            self.look(args)
            return self.watch(value(*args))

        return call

    def look(self, value: Any) -> None:
        if isinstance(value, (list, tuple)):
            for item in value:
                self.look(item)
        elif isinstance(value, np.ndarray):
            assert value.flags.aligned
            self.arrays += 1


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    watch = Watched()
    monkeypatch.setattr(compiled_engine, "native", watch)
    monkeypatch.setattr(compiled_operations, "native", watch)
    yield
    assert watch.arrays > 0


def numbers(*shape: int) -> NDArray:
    return misaligned(np.random.default_rng(3).random(shape, np.float32))


def shift(params: dict[str, NDArray]) -> None:
    params |= {name: misaligned(value) for name, value in params.items()}


@pytest.mark.parametrize("batch_first", [False, True])
def test_by_layers(compiled: str, build: Callable, batch_first: bool, rng: np.random.Generator) -> None:
    layer = build(3, 5, num_layers=2, bidirectional=True, batch_first=batch_first)
    shift(layer.params)
    call = random_call(layer, 4, 3, rng, lengths=True, resets=True).map(misaligned)
    train(layer, call)
    infer(layer, call)
    infer(layer.freeze(), call)


def test_by_streams(compiled: str, build: Callable) -> None:
    layer = build(3, 5)
    shift(layer.params)
    stream = layer.freeze().stream(2)
    stream.step(numbers(2, 3))
    stream.step(numbers(2, 3), np.empty((2, layer.output_size), np.float32))
    with pytest.raises(ValueError, match="out"):
        stream.step(numbers(2, 3), numbers(2, layer.output_size))
    stream.state = tuple(map(misaligned, stream.state)) if isinstance(stream.state, tuple) else misaligned(stream.state)
    stream.step(numbers(2, 3))


def test_by_the_kit(compiled: str) -> None:
    linear, embedding = nn.Linear(4, 3, rng=0), nn.Embedding(6, 4, rng=0)
    attention = nn.Attention(4, 4, rng=0)
    for part in (linear, embedding, attention.keys, attention.combine):
        shift(part.params)
    x = numbers(2, 5, 4)
    y, tape = linear.forward(x)
    linear.backward(tape, misaligned(y))
    linear.freeze()(x[0])
    nn.SoftmaxCrossEntropy().of_output(linear, x, misaligned(np.zeros((2, 5), int)))
    dropout = nn.Dropout(0.5)
    dropout.backward(dropout.forward(x, rng=0)[1], x)
    embedding.backward(embedding.forward(misaligned(np.arange(3)))[1], numbers(3, 4))
    memory = attention.remember(x)
    attended, tape = attention.forward(x, memory)
    attention.backward(tape, misaligned(attended))
    nn.draw(numbers(2, 5), rng=0)


@pytest.mark.parametrize("rule", [optim.SGD, optim.Adam])
def test_by_optimisers(compiled: str, rule: type) -> None:
    params = {"a": np.ones((4, 3), np.float32), "b": np.ones(5, np.float32)}
    ids = misaligned(np.array([1, 3]))
    rule(params, 0.1).step({"a": RowGradient(ids, numbers(2, 3), (4, 3)), "b": numbers(5)}, max_norm=1)
    optim.clip_grad_norm({"b": numbers(5)}, 1)
