"""A convolution of images: a linear layer that is applied to each square of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.nn.checks import part, same_shape
from fastrnn.nn.layers import FrozenLinear, Linear
from fastrnn.nn.module import Module, parameters
from fastrnn.params import Gradients

__all__ = ["Convolution"]


@dataclass(frozen=True, slots=True)
class ConvolutionTape:
    """What `Convolution.backward` needs: x's shape and the linear layer's tape."""

    shape: tuple[int, ...]
    linear: Any


class Convolution(Module):
    """A linear layer applied to each square of an image: a convolution without padding. Squares may overlap.

    Results are rows, and images may be rows, so that other parts can come before and after, such as `Dropout`, a
    `Linear`, or another `Convolution` whose `shape` is the `output_shape` of this one.

    Parameters
    ----------
    linear : Linear
        From the size * size * C values of a square, in the order row, column, channel, to F filters.
    shape : sequence of int
        (M, N, C): rows, columns and channels of an image.
    size : int
        Length of a square's sides, in pixels.
    stride : int, default 1
        Distance from one square to the next in both directions, in pixels.

    Attributes
    ----------
    output_shape : tuple of int
        Number of squares in a column, number of squares in a row, and F.
    params : dict of str to ndarray
        Those of "linear".

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value, or sizes do not fit.
    """

    def __init__(self, linear: Linear | FrozenLinear, shape: Sequence[int], size: int, stride: int = 1) -> None:
        self.linear: Any = linear
        self.size, self.stride = validate.size("size", size), validate.size("stride", stride)
        self.shape = tuple(validate.size("shape", n) for n in shape)
        if len(self.shape) != 3 or min(self.shape[:2]) < self.size:
            raise ValueError(f"shape: expected (M, N, C), M and N of at least the size {size}, got {self.shape}")
        part("linear", linear, Linear, FrozenLinear)
        values = self.size**2 * self.shape[2]
        if linear.in_features != values:
            raise ValueError(f"linear: expected in_features {values}, a square's values, got {linear.in_features}")
        rows, columns = (1 + (n - self.size) // self.stride for n in self.shape[:2])
        self.output_shape = (rows, columns, linear.out_features)
        super().__init__({"linear": linear}, shape=list(self.shape), size=self.size, stride=self.stride)

    @property
    def output_size(self) -> int:
        """The product of `output_shape`."""
        return int(np.prod(self.output_shape))

    def __call__(self, x: Any) -> NDArray:
        """Convolve and keep nothing: inference. As `forward`, without the tape."""
        squares = self._squares(x)
        return self.linear(squares).reshape(len(squares), self.output_size)

    def forward(self, x: Any, *, rng: Any = None) -> tuple[NDArray, ConvolutionTape]:
        """Convolve images.

        Parameters
        ----------
        x : array_like
            (B, M, N, C), or (B, M * N * C), of the layer's dtype.
        rng : optional
            Not used.

        Returns
        -------
        y : ndarray
            (B, `output_size`).
        tape : ConvolutionTape
            What `backward` needs.

        Raises
        ------
        TypeError, ValueError
            If `x` has a wrong dtype or shape.
        """
        squares = self._squares(x)
        y, tape = self.linear.forward(squares)
        return y.reshape(len(squares), self.output_size), ConvolutionTape(np.shape(x), tape)

    def backward(self, tape: ConvolutionTape, dy: Any) -> Gradients:
        """Differentiate `forward`. Pure.

        Parameters
        ----------
        tape : ConvolutionTape
            From `forward`.
        dy : array_like
            (B, `output_size`), the gradient of the loss with respect to y.

        Returns
        -------
        Gradients
            `x` and `params`.

        Raises
        ------
        TypeError, ValueError
            If `dy` has a wrong dtype or shape.
        """
        dy = validate.array("dy", dy, self.linear.dtype)
        same_shape("dy", dy, (tape.shape[0], self.output_size))
        grads = self.linear.backward(tape.linear, dy.reshape(len(dy), *self.output_shape))
        d_squares = grads.x.reshape(*grads.x.shape[:3], self.size**2, self.shape[2])
        dx = np.zeros((len(dy), *self.shape), dy.dtype)
        for k, pixels in enumerate(self._pixels()):
            dx[pixels] += d_squares[..., k, :]
        return Gradients(dx.reshape(tape.shape), None, parameters({"linear": grads}))

    def _squares(self, x: Any) -> NDArray:
        """The values of each square, (B, rows, columns, size * size * C)."""
        x = validate.array("x", x, self.linear.dtype)
        if x.shape[1:] not in (self.shape, (int(np.prod(self.shape)),)):
            raise ValueError(f"x: expected (B, {', '.join(map(str, self.shape))}) or these as rows, got {x.shape}")
        images = x.reshape(len(x), *self.shape)
        squares = np.empty((len(x), *self.output_shape[:2], self.size**2, self.shape[2]), x.dtype)
        for k, pixels in enumerate(self._pixels()):
            squares[..., k, :] = images[pixels]
        return squares.reshape(*squares.shape[:3], self.linear.in_features)

    def _pixels(self) -> Iterator[tuple[slice, ...]]:
        """Yield, for each place in a square, the index of the pixels at this place of all squares."""
        rows, columns = (self.stride * n for n in self.output_shape[:2])
        for i in range(self.size):
            for j in range(self.size):
                yield slice(None), slice(i, i + rows, self.stride), slice(j, j + columns, self.stride)
