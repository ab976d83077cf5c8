"""What is random within the layers in training: dropout of inputs, states, candidates and weights, and zoneout.

All of it is a function of one key, which `forward` draws from the layer's generator. So a tape keeps the key, and
`backward` computes the same masks again. docs/math.md says which random word decides about which value.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastrnn.arguments import Arguments
from fastrnn.engines import Operations, memory
from fastrnn.engines.cell import Cell
from fastrnn.engines.seam import StepNoise, Weights

__all__ = ["NO_DROPOUTS", "Dropouts", "Noise", "masked"]

# What a key is for: of inputs for each layer, of the others for each layer and direction.
INPUT, WEIGHT, STATE, STEPS = range(4)


class Dropouts(NamedTuple):
    """The probabilities with which values become zero in training, each from 0 up to but not including 1."""

    input_dropout: float = 0.0  # of the values of x of each layer: one mask a sequence
    state_dropout: float = 0.0  # of h_{t-1} where it meets U: likewise
    candidate_dropout: float = 0.0  # of g or n: a mask for each step
    weight_dropout: float = 0.0  # of the elements of U: one mask a call


NO_DROPOUTS = Dropouts()


class Noise(NamedTuple):
    """What is random in one run for training."""

    key: int
    dropouts: Dropouts
    operations: Operations
    first: int = 0  # which of all cells of the layer is the first of the run's

    def weights(self, weights: list[Weights]) -> list[Weights]:
        """The weights that the run uses, of which some elements of U are zero; or the gradients in the layer's own."""
        p = self.dropouts.weight_dropout
        if not p:
            return weights
        return [w._replace(weight_hh=self._drop(w.weight_hh, k, WEIGHT, p)) for k, w in enumerate(weights)]

    def input_mask(self, layer: int, x: NDArray, args: Arguments) -> NDArray | None:
        """What each row of a layer's x is multiplied by, and of its gradient; None if by nothing."""
        p = self.dropouts.input_dropout
        if not p:
            return None
        mask = self._drop(np.ones((args.h0.shape[1], x.shape[2]), x.dtype), layer, INPUT, p)
        if args.valid is None or args.starts is None:
            return mask
        # The valid rows lie one after another, of each step those of the longest sequences first.
        ranks = np.arange(len(x)) - np.repeat(args.starts, np.diff(args.starts, append=len(x)))
        return mask[args.valid.order[ranks], None]

    def within(self, first: int) -> Noise:
        """What is random in a run of some of the layer's cells alone, from this one on, but for its inputs."""
        return self._replace(first=first, dropouts=self.dropouts._replace(input_dropout=0.0))

    def steps(self, k: int, cell: Cell, args: Arguments) -> StepNoise | None:
        """What is random in the steps of a layer and direction."""
        p = self.dropouts.state_dropout
        if not p and not self.dropouts.candidate_dropout and not any(cell.zoneouts):
            return None
        rows = None if args.valid is None else args.valid.order
        state = None
        if p:
            state = self._drop(np.ones((args.h0.shape[1], cell.output_size), cell.dtype), self.first + k, STATE, p)
            state = state if rows is None else state[rows]
        key = self._key(self.first + k, STEPS)
        return StepNoise(key, self.dropouts.candidate_dropout, state, args.first_step, rows)

    def _drop(self, a: NDArray, place: int, purpose: int, probability: float) -> NDArray:
        """Zero some values, and scale those that stay so that the expectation does."""
        return self.operations.dropout(a, self._key(place, purpose), probability)

    def _key(self, place: int, purpose: int) -> int:
        """The keys follow each other: those of a counter-based generator may be near, and its words do not show it."""
        return (self.key + 4 * place + purpose) % (1 << 64)


def masked(x: NDArray, mask: NDArray | None, out: NDArray | None = None) -> NDArray:
    """The product of both, in new memory or `out`; x itself if there is no mask."""
    if mask is None:
        return x
    with np.errstate(all="ignore"):  # infinities and NaN travel as IEEE says, silently
        return np.multiply(x, mask, out=memory.empty(x.shape, x.dtype) if out is None else out)
