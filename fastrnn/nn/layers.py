"""The layers around a recurrent layer: embedding, linear, activation, dropout, and several in a row.

They work like the recurrent layers: `forward` returns a tape with what `backward` needs, `backward` is a pure function
of that tape, parameters are plain arrays in `params`, and inputs are never modified. Every `forward` takes `rng`, the
source of random numbers, so that layers can replace each other; only dropout and word dropout use it. `freeze` makes
the layer for inference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastrnn import engines, validate
from fastrnn.data import UNK
from fastrnn.engines import philox
from fastrnn.engines.operations import LinearGradients
from fastrnn.engines.precision import Narrow, narrowed, precisions_of, restored, stored
from fastrnn.layers import Recurrent
from fastrnn.nn.checks import as_rows, floats, integers, same_shape, within
from fastrnn.nn.module import Module, parameters
from fastrnn.params import FrozenParameters, Gradients, Parameters, RowGradient, check_names

__all__ = [
    "Activation", "Dropout", "Embedding", "FrozenEmbedding", "FrozenLinear", "Linear", "Part", "Sequential",
]  # fmt: skip


class Part(Protocol):
    """A part of a model other than a recurrent layer: a class of this module, or a user's with these methods."""

    @property
    def params(self) -> dict[str, NDArray]: ...
    @property
    def output_size(self) -> int | None:
        """The length of y's last axis; None if it is that of x."""

    def __call__(self, x: Any) -> NDArray: ...
    def forward(self, x: Any, *, rng: Any = None) -> tuple[NDArray, Any]: ...
    def backward(self, tape: Any, dy: Any) -> Gradients: ...


class Layer(Parameters):
    """The base class of layers with parameters, which are checked each time they are used."""

    def __init__(self, dtype: DTypeLike, shapes: dict[str, tuple[int, ...]]) -> None:
        self.dtype = validate.dtype(dtype)
        self._shapes = shapes
        self.params: dict[str, NDArray] = {}
        self.options: dict[str, Any] = {}  # constructor arguments that cannot be told from the parameters, for files

    def _param(self, name: str) -> NDArray:
        return validate.parameter(name, self.params[name], self._shapes[name], self.dtype)

    def _frozen_weight(self, kind: type, precision: str | None) -> Any:
        """A copy of the weight in this precision; None: the layer's dtype."""
        if type(self) is not kind:  # it may compute something else
            raise TypeError(f"freeze: expected a {kind.__name__}, got a {type(self).__name__} without its own `freeze`")
        precision = self.dtype.name if precision is None else precision
        return narrowed(self._param("weight"), validate.choice("precision", precision, precisions_of(self.dtype)))


class FrozenLayer(FrozenParameters):
    """The base class of frozen layers with a weight.

    Attributes
    ----------
    dtype : dtype
        Of inputs and outputs, but for ids.
    precision : str
        What the weight is kept in.
    params : dict of str to ndarray
        The parameters as they are kept, read-only: a weight of int8 has the scales of its rows beside it, as
        "weight.scale", one of bfloat16 is its bits, as uint16.
    """

    def __init__(self, weight: NDArray | Narrow) -> None:
        self._weight, self.dtype = weight, weight.dtype
        self.precision = weight.precision if isinstance(weight, Narrow) else weight.dtype.name
        self.params = stored("weight", weight)
        self.options: dict[str, Any] = {"precision": self.precision}  # for files


@dataclass(frozen=True, slots=True)
class DropoutTape:
    """What `Dropout.backward` needs: the key of the mask, which is computed again."""

    key: int
    probability: float
    shape: tuple[int, ...]
    locked: bool = False


@dataclass(frozen=True, slots=True)
class EmbeddingTape:
    """What `Embedding.backward` needs: a copy of the ids, and which rows of the table were dropped."""

    ids: NDArray
    dropped: DropoutTape | None = None


class _Table:
    """What an embedding says of itself, frozen or not."""

    num_embeddings: int
    embedding_dim: int
    columns: int | None

    @property
    def output_size(self) -> int:
        """E, or columns * E."""
        return self.embedding_dim * (self.columns or 1)

    def _checked(self, ids: Any) -> NDArray[np.intp]:
        """The ids, if they are such as `Embedding.forward` takes."""
        ids = integers("ids", ids)
        within("ids", ids, self.num_embeddings)
        if self.columns is not None and ids.shape[-1:] != (self.columns,):
            raise ValueError(f"ids: expected (..., {self.columns}), got {ids.shape}")
        return ids

    def _joined(self, ids: NDArray) -> tuple[int, ...]:
        """The shape of y."""
        if self.columns is None:
            return (*ids.shape, self.embedding_dim)
        return (*ids.shape[:-1], self.columns * self.embedding_dim)


class Embedding(_Table, Layer):
    """A table of vectors, one for each id.

    Parameters
    ----------
    num_embeddings : int
        V, the number of ids.
    embedding_dim : int
        E, the length of each vector.
    dtype : float32 or float64, default float32
        Of parameters and outputs.
    scale : float, default 1.0
        Standard deviation of the initial parameters; 1 as in PyTorch. With 0.1, the vectors of rare ids, which training
        hardly changes, add little noise.
    columns : int, optional
        Each step has this many ids, (..., columns), whose vectors are joined. So a word can be read by its own id and
        by others, such as those of its first and its last letters. Default: one id for each step, without that axis.
    word_dropout : float, default 0.0
        Probability with which `forward` replaces an id with that of "<unk>", separately for each occurrence. A decoder
        then has to rely less on the ids that it has written.
    embedding_dropout : float, default 0.0
        Probability with which a call of `forward` sets the vector of an id to zeros, wherever the id occurs in that
        call. The other vectors are scaled to keep the expected value.
    rng : seed or numpy.random.Generator, optional
        Source of the initial parameters, normal(0, scale**2).

    Attributes
    ----------
    params : dict of str to ndarray
        weight (V, E).

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

    References
    ----------
    Embedding dropout: Y. Gal, Z. Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural
    Networks", NeurIPS 2016.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, scale: float = 1.0, columns: int | None = None,
        word_dropout: float = 0.0, embedding_dropout: float = 0.0, dtype: DTypeLike = np.float32, rng: Any = None,
    ) -> None:  # fmt: skip
        self.num_embeddings = validate.size("num_embeddings", num_embeddings)
        self.embedding_dim = validate.size("embedding_dim", embedding_dim)
        self.columns = None if columns is None else validate.size("columns", columns)
        shape = (self.num_embeddings, self.embedding_dim)
        super().__init__(dtype, {"weight": shape})
        self.word_dropout = validate.probability("word_dropout", word_dropout)
        self.embedding_dropout = validate.probability("embedding_dropout", embedding_dropout)
        scale = self.dtype.type(validate.at_least_zero("scale", scale))
        self.params["weight"] = validate.generator("rng", rng).standard_normal(shape, self.dtype.type) * scale
        options = {name: getattr(self, name) for name in ("columns", "word_dropout", "embedding_dropout")}
        self.options = {name: value for name, value in options.items() if value}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray], **options: Any) -> Embedding:
        """Build the layer from its parameters, which give the sizes."""
        weight = _matrix("weight", arrays)
        layer = cls(*weight.shape, dtype=weight.dtype, **options)
        layer.load_state_dict(arrays)
        return layer

    def __call__(self, ids: Any) -> NDArray:
        """Look up the vectors and keep nothing: inference. As `forward`, without the tape."""
        ids = self._checked(ids)
        return self._param("weight").take(ids, axis=0).reshape(self._joined(ids))

    def forward(self, ids: Any, *, rng: Any = None) -> tuple[NDArray, EmbeddingTape]:
        """Look up the vectors of ids.

        Parameters
        ----------
        ids : array_like of int
            (...) or, with `columns`, (..., columns), each in 0..V-1; negative ids do not count from the end.
        rng : seed or numpy.random.Generator, optional
            Source of word dropout and embedding dropout.

        Returns
        -------
        y : ndarray
            (..., output_size).
        tape : EmbeddingTape
            What `backward` needs.

        Raises
        ------
        TypeError
            If `ids` are not integers.
        ValueError
            If there are not `columns` of them.
        IndexError
            If an id is outside 0..V-1.
        """
        ids, dropped = integers("ids", ids), None
        rng = validate.generator("rng", rng) if self.word_dropout or self.embedding_dropout else None
        if self.word_dropout:
            ids = np.where(rng.random(ids.shape) < self.word_dropout, UNK, ids)
        y = self(ids)
        if self.embedding_dropout:
            dropped = DropoutTape(philox.new_key(rng), self.embedding_dropout, (self.num_embeddings, 1))
            y = _times(y.reshape(*ids.shape, self.embedding_dim), self._row_mask(dropped)[ids]).reshape(y.shape)
        return y, EmbeddingTape(ids.copy(), dropped)

    def backward(self, tape: EmbeddingTape, dy: Any) -> Gradients:
        """Differentiate `forward`. Pure; the rows of dy of an id are added in their order, the same in every run.

        Parameters
        ----------
        tape : EmbeddingTape
            From `forward`.
        dy : array_like
            (..., output_size), the gradient of the loss with respect to y.

        Returns
        -------
        Gradients
            `params`, with a `fastrnn.RowGradient` of the ids and their rows; the rest is None.

        Raises
        ------
        TypeError, ValueError
            If `dy` has a wrong dtype or shape.
        """
        dy = validate.array("dy", dy, self.dtype)
        same_shape("dy", dy, self._joined(tape.ids))
        within("tape.ids", tape.ids, self.num_embeddings)
        ids, rows = sum_rows(tape.ids.reshape(-1), dy.reshape(tape.ids.size, self.embedding_dim))
        if tape.dropped is not None:
            rows = _times(rows, self._row_mask(tape.dropped)[ids])
        return Gradients(None, None, {"weight": RowGradient(ids, rows, self._shapes["weight"])})

    def _row_mask(self, dropped: DropoutTape) -> NDArray:
        """What the rows of the table are multiplied by, (V, 1)."""
        return _drop(np.ones(dropped.shape, self.dtype), dropped)

    def freeze(self, precision: str | None = None) -> FrozenEmbedding:
        """Return the layer for inference, with a copy of the table as it is now.

        Parameters
        ----------
        precision : {"float32", "bfloat16", "int8"}, optional
            What the table is kept in. A vector is widened when it is looked up. Default: the layer's dtype.

        Raises
        ------
        TypeError, ValueError
            If `precision` is none of these, the layer is not float32 and fewer bits are asked for, or a value that
            becomes int8 is not finite.
        """
        return FrozenEmbedding(self._frozen_weight(Embedding, precision), self.columns)


class FrozenEmbedding(_Table, FrozenLayer):
    """An `Embedding` for inference, made by its `freeze`."""

    def __init__(self, weight: NDArray | Narrow, columns: int | None = None) -> None:
        super().__init__(weight)
        self.num_embeddings, self.embedding_dim = weight.shape
        self.columns = None if columns is None else validate.size("columns", columns)
        self.options |= {} if columns is None else {"columns": self.columns}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray], precision: str, columns: int | None = None) -> FrozenEmbedding:
        """Build the layer from its `params`."""
        layer = cls(restored("weight", arrays, precision), columns)
        check_names("arrays", arrays, layer.params)
        return layer

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._weight, self.columns)

    def __repr__(self) -> str:
        return f"FrozenEmbedding({self.num_embeddings}, {self.embedding_dim}, precision={self.precision!r})"

    def __call__(self, ids: Any) -> NDArray:
        """Look up the vectors of ids; as `Embedding.forward`, without the tape."""
        ids = self._checked(ids)
        return self._weight.take(ids, axis=0).reshape(self._joined(ids))


@dataclass(frozen=True, slots=True)
class LinearTape:
    """What `Linear.backward` needs. It shares x and the weight: do not change them in place before `backward`."""

    x: NDArray
    weight: NDArray


class Linear(Layer):
    """An affine map of the last axis: y = x W^T + b.

    Parameters
    ----------
    in_features, out_features : int
        I and O, the length of the last axis before and after.
    bias : bool, default True
        Whether there is b.
    dtype : float32 or float64, default float32
        Of parameters, inputs and outputs.
    rng : seed or numpy.random.Generator, optional
        Source of the initial parameters, uniform in +-1/sqrt(I) as in PyTorch.

    Attributes
    ----------
    params : dict of str to ndarray
        weight (O, I) and, with `bias`, bias (O,).

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, dtype: DTypeLike = np.float32, rng: Any = None
    ) -> None:
        self.in_features = validate.size("in_features", in_features)
        self.out_features = validate.size("out_features", out_features)
        self.bias = validate.flag("bias", bias)
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        if self.bias:
            shapes["bias"] = (self.out_features,)
        super().__init__(dtype, shapes)
        generator = validate.generator("rng", rng)
        bound = 1 / np.sqrt(self.in_features)
        for name, shape in shapes.items():
            self.params[name] = generator.uniform(-bound, bound, shape).astype(self.dtype)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray], **options: Any) -> Linear:
        """Build the layer from its parameters, which give the sizes."""
        weight = _matrix("weight", arrays)
        layer = cls(weight.shape[1], weight.shape[0], "bias" in arrays, dtype=weight.dtype, **options)
        layer.load_state_dict(arrays)
        return layer

    @property
    def output_size(self) -> int:
        """O."""
        return self.out_features

    def __call__(self, x: Any) -> NDArray:
        """Map x and keep nothing: inference. As `forward`, without the tape."""
        return self.forward(x)[0]

    def forward(self, x: Any, *, rng: Any = None) -> tuple[NDArray, LinearTape]:
        """Map x.

        Parameters
        ----------
        x : array_like
            (..., I), of the layer's dtype.
        rng : optional
            Not used.

        Returns
        -------
        y : ndarray
            (..., O).
        tape : LinearTape
            What `backward` needs.

        Raises
        ------
        TypeError, ValueError
            If `x` has a wrong dtype or shape.
        """
        x, weight, bias = self.checked(x)
        y = engines.current().operations.linear(as_rows(x), weight, bias)
        return y.reshape(*x.shape[:-1], self.out_features), LinearTape(x, weight)

    def freeze(self, precision: str | None = None) -> FrozenLinear:
        """Return the layer for inference, with copies of the parameters as they are now.

        Parameters
        ----------
        precision : {"float32", "bfloat16", "int8"}, optional
            What the weight is kept in. Inputs, outputs and the bias stay float32. Default: the layer's dtype.

        Raises
        ------
        TypeError, ValueError
            If `precision` is none of these, the layer is not float32 and fewer bits are asked for, or a weight that
            becomes int8 is not finite.
        """
        bias = self._param("bias").copy() if self.bias else None
        return FrozenLinear(self._frozen_weight(Linear, precision), bias)

    def checked(self, x: Any) -> tuple[NDArray, NDArray, NDArray | None]:
        """Return x, the weight and the bias as operations take them, or raise what `forward` raises."""
        x = validate.array("x", x, self.dtype)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"x: expected (..., {self.in_features}), got {x.shape}")
        return x, self._param("weight"), self._param("bias") if self.bias else None

    def backward(self, tape: LinearTape, dy: Any) -> Gradients:
        """Differentiate `forward`: dx = dy W, dW = dy^T x, db = dy summed over all rows. Pure.

        Parameters
        ----------
        tape : LinearTape
            From `forward`.
        dy : array_like
            (..., O), the gradient of the loss with respect to y.

        Returns
        -------
        Gradients
            `x` and `params`.

        Raises
        ------
        TypeError, ValueError
            If `dy` has a wrong dtype or shape.
        """
        dy = validate.array("dy", dy, self.dtype)
        same_shape("dy", dy, (*tape.x.shape[:-1], self.out_features))
        bias = self._param("bias") if self.bias else None
        grads = engines.current().operations.linear_backward(as_rows(tape.x), tape.weight, bias, as_rows(dy))
        return self.gradients(grads, tape.x.shape)

    def gradients(self, grads: LinearGradients, shape: tuple[int, ...]) -> Gradients:
        """As `backward` returns them, with x in `shape`."""
        params = {"weight": grads.weight}
        if grads.bias is not None:
            params["bias"] = grads.bias
        return Gradients(None if grads.x is None else grads.x.reshape(shape), None, params)


class FrozenLinear(FrozenLayer):
    """A `Linear` for inference, made by its `freeze`. Its weight is packed once: for many calls with few rows."""

    def __init__(self, weight: NDArray | Narrow, bias: NDArray | None) -> None:
        super().__init__(weight)
        self.out_features, self.in_features = weight.shape
        self.params |= {} if bias is None else stored("bias", bias)
        self._bias = bias
        self._run = engines.current().operations.packed_linear(weight, bias)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray], precision: str) -> FrozenLinear:
        """Build the layer from its `params`."""
        weight, bias = restored("weight", arrays, precision), arrays.get("bias")
        if bias is not None:
            bias = validate.parameter("bias", bias, weight.shape[:1], weight.dtype)
        layer = cls(weight, bias)
        check_names("arrays", arrays, layer.params)
        return layer

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._weight, self._bias)

    def __repr__(self) -> str:
        return f"FrozenLinear({self.in_features}, {self.out_features}, precision={self.precision!r})"

    @property
    def output_size(self) -> int:
        """O."""
        return self.out_features

    def __call__(self, x: Any) -> NDArray:
        """Return y (..., O) for x (..., I), of the layer's dtype."""
        x = validate.array("x", x, self.dtype)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"x: expected (..., {self.in_features}), got {x.shape}")
        if x.ndim == 2:  # the usual case, where there is no time to lose
            return self._run(validate.contiguous(x))
        return self._run(as_rows(x)).reshape(*x.shape[:-1], self.out_features)


def packed(part: Any) -> Any:
    """A recurrent or linear layer as it is now, packed for many short calls; any other part as it is."""
    return part.freeze() if isinstance(part, Recurrent) or type(part) is Linear else part


class Activation:
    """tanh, relu or sigmoid of each value, or softmax over the last axis.

    Parameters
    ----------
    kind : {"tanh", "relu", "sigmoid", "softmax"}
        Which.

    Raises
    ------
    TypeError, ValueError
        If `kind` is none of these.
    """

    output_size = None

    def __init__(self, kind: str) -> None:
        self.kind = validate.choice("kind", kind, ("tanh", "relu", "sigmoid", "softmax"))
        self.params: dict[str, NDArray] = {}
        self.options = {"kind": self.kind}

    def __call__(self, x: Any) -> NDArray:
        """Return the values and keep nothing: inference."""
        return self.forward(x)[0]

    def forward(self, x: Any, *, rng: Any = None) -> tuple[NDArray, NDArray]:
        """Return y, of x's shape, and the tape, which is y: do not change it in place before `backward`."""
        if self.kind == "tanh":
            y = np.tanh(x)
        elif self.kind == "relu":
            y = np.maximum(x, 0)
        elif self.kind == "sigmoid":
            y = (1 + np.tanh(np.multiply(x, 0.5))) * 0.5
        else:
            e = np.exp(x - np.max(x, axis=-1, keepdims=True, initial=-np.inf))
            y = e / e.sum(axis=-1, keepdims=True)
        return y, y

    def backward(self, tape: NDArray, dy: Any) -> Gradients:
        """Differentiate `forward`. Pure. `dy`, and `x` of the result, have y's shape."""
        y, dy = tape, floats("dy", dy)
        same_shape("dy", dy, y.shape)
        if self.kind == "softmax":
            return Gradients(y * (dy - (dy * y).sum(axis=-1, keepdims=True)), None, {})
        slope = 1 - y * y if self.kind == "tanh" else y > 0 if self.kind == "relu" else y * (1 - y)
        return Gradients(dy * slope, None, {})


class Dropout:
    """In `forward`, sets each value to 0 with a probability, and scales the others to keep the expected value.

    Parameters
    ----------
    probability : float
        In [0, 1). The attribute may be assigned.
    locked : bool, default False
        Whether the first axis of x is time, and all steps have the same mask: variational dropout.

    Raises
    ------
    TypeError, ValueError
        If `probability` is not a number in [0, 1), or `locked` no boolean.

    References
    ----------
    Variational dropout: Y. Gal, Z. Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural
    Networks", NeurIPS 2016.
    """

    output_size = None

    def __init__(self, probability: float, *, locked: bool = False) -> None:
        self.probability = validate.probability("probability", probability)
        self.locked = validate.flag("locked", locked)
        self.params: dict[str, NDArray] = {}

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"probability": self.probability} | ({"locked": True} if self.locked else {})

    def __call__(self, x: NDArray) -> NDArray:
        """Return x: inference."""
        return x

    def forward(self, x: Any, *, rng: Any = None) -> tuple[NDArray, DropoutTape | None]:
        """Drop values. Which ones depends on their places in x and on a key that is drawn from `rng`.

        Parameters
        ----------
        x : array_like
            float32 or float64, any shape; (T, ...) if `locked`.
        rng : seed or numpy.random.Generator, optional
            Source of the choice. Default: a different choice each time.

        Returns
        -------
        y : ndarray
            x's shape; x itself if the probability is 0.
        tape : DropoutTape or None
            What `backward` needs, a few numbers; None if the probability is 0.

        Raises
        ------
        TypeError, ValueError
            If `x` has a wrong dtype, or no axis of time if `locked`.
        """
        if not self.probability:
            return x, None
        x = floats("x", x)
        if self.locked and not x.ndim:
            raise ValueError("x: expected (T, ...), as all steps have the same mask, got ()")
        tape = DropoutTape(philox.new_key(validate.generator("rng", rng)), self.probability, x.shape, self.locked)
        return _drop(x, tape), tape

    def backward(self, tape: DropoutTape | None, dy: Any) -> Gradients:
        """Differentiate `forward`. Pure.

        Parameters
        ----------
        tape : DropoutTape or None
            From `forward`.
        dy : array_like
            y's shape, the gradient of the loss with respect to y.

        Returns
        -------
        Gradients
            `x`: dy itself if the probability is 0.

        Raises
        ------
        TypeError, ValueError
            If `dy` has a wrong dtype or shape.
        """
        if tape is None:
            return Gradients(dy, None, {})
        dy = floats("dy", dy)
        same_shape("dy", dy, tape.shape)
        return Gradients(_drop(dy, tape), None, {})


class Sequential(Module):
    """Parts one after the other: each reads what the one before it returns.

    Parameters
    ----------
    *parts : Part
        The first reads x.

    Attributes
    ----------
    params : dict of str to ndarray
        The parts' parameters under "0.name", "1.name" and so on.
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__({str(k): part for k, part in enumerate(parts)})

    @classmethod
    def rebuilt(cls, parts: dict[str, Any], options: dict[str, Any]) -> Sequential:
        """Build the module from its parts; see `Module`."""
        return cls(*parts.values(), **options)

    @property
    def output_size(self) -> int | None:
        """The length of y's last axis; None if it is that of x."""
        sizes = [part.output_size for part in self.parts.values() if part.output_size is not None]
        return sizes[-1] if sizes else None

    def __call__(self, x: Any) -> NDArray:
        """Run all parts and keep nothing: inference."""
        for part in self.parts.values():
            x = part(x)
        return x

    def forward(self, x: Any, *, rng: Any = None) -> tuple[NDArray, list[Any]]:
        """Run all parts; return y and the tapes. `rng`, a Generator, is passed to each part."""
        tapes = []
        for part in self.parts.values():
            x, tape = part.forward(x, rng=rng)
            tapes.append(tape)
        return x, tapes

    def backward(self, tape: list[Any], dy: Any) -> Gradients:
        """Differentiate `forward`. Pure. `x` of the result is None if that of the first part is."""
        found: dict[str, Gradients] = {}
        for (name, part), part_tape in zip(reversed(self.parts.items()), reversed(tape), strict=True):
            found[name] = part.backward(part_tape, dy)
            dy = found[name].x
        return Gradients(dy, None, parameters({name: found[name] for name in self.parts}))


def sum_rows(ids: NDArray, values: NDArray) -> tuple[NDArray[np.int64], NDArray]:
    """Return the distinct ids, rising, and for each the sum of the rows of `values` (N, E) with it, in their order.

    `ids` (N,) are at least 0.
    """
    ids = validate.contiguous(ids.astype(np.int64, copy=False))
    largest = int(ids.max(initial=0))
    return engines.current().operations.sum_rows(ids, largest, validate.contiguous(values))


def _drop(a: NDArray, tape: DropoutTape) -> NDArray:
    if tape.locked:
        step = DropoutTape(tape.key, tape.probability, tape.shape[1:])
        return _times(a, _drop(np.ones(step.shape, a.dtype), step))
    return engines.current().operations.dropout(validate.contiguous(a), tape.key, tape.probability)


def _times(a: NDArray, mask: NDArray) -> NDArray:
    """a times a mask that broadcasts to it, with zeros where the mask has some, even if a is not finite there."""
    return np.multiply(a, mask, where=mask != 0, out=np.zeros(a.shape, a.dtype))


def _matrix(name: str, arrays: Mapping[str, NDArray]) -> NDArray:
    if name not in arrays or arrays[name].ndim != 2:
        got = arrays[name].shape if name in arrays else "no such array"
        raise ValueError(f"{name}: expected a matrix, got {got}")
    return arrays[name]
