"""Several models as one: its probabilities are the mean of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.data import Batch
from fastrnn.nn.generation import MeanSteps, Steps
from fastrnn.nn.losses import softmax
from fastrnn.nn.model import Loss, Model
from fastrnn.nn.patterns import Writer, cut

__all__ = ["Ensemble", "WriterEnsemble"]


class _Together(Model):
    """The base class of ensembles: the models, and their mean loss."""

    def __init__(self, *models: Any) -> None:
        if not models:
            raise ValueError("models: expected at least one, got none")
        self.models = models
        super().__init__({str(k): model for k, model in enumerate(models)})

    @classmethod
    def rebuilt(cls, parts: dict[str, Any], options: dict[str, Any]) -> Any:
        """Build the ensemble from its models; see `Module`."""
        return cls(*parts.values(), **options)

    def loss(self, batch: Batch) -> Loss:
        """Return the mean of the models' losses, as inference computes them."""
        return self._mean([model.loss(batch) for model in self.models])

    def loss_and_grads(self, batch: Batch, rng: Any = None) -> Loss:
        """Return the mean of the models' losses and its gradients. See `Model`."""
        rng = validate.generator("rng", rng)
        return self._mean([model.loss_and_grads(batch, rng) for model in self.models])

    def _mean(self, losses: list[Loss]) -> Loss:
        n = len(losses)
        grads = {f"{k}.{name}": g / n for k, loss in enumerate(losses) for name, g in loss.grads.items()}
        return Loss(sum(loss.value for loss in losses) / n, grads, losses[0].targets)


class Ensemble(_Together):
    """Several models that predict classes, as one; usually of the same kind, from different seeds.

    Models can be trained before they are joined, one by one. An ensemble can also be trained as one model: all read the
    same batches, each with its own dropout, and gradients are clipped by the norm of all of them together.

    Parameters
    ----------
    *models : ManyToOne or ManyToMany
        At least one, all with the same classes.

    Attributes
    ----------
    params : dict of str to ndarray
        The models' parameters under "0.name", "1.name" and so on.

    Raises
    ------
    ValueError
        If there is no model.
    """

    def __call__(self, x: Any, lengths: Any = None) -> NDArray:
        """Return the mean probabilities for x (T, B, ...) of `lengths` (B,): (B, K), or (T, B, K) of each step."""
        outputs = (model(x, lengths) for model in self.models)
        return np.mean([softmax(o[0] if isinstance(o, tuple) else o) for o in outputs], axis=0)

    def predict_batch(self, batch: Batch, *, probabilities: bool = False) -> Sequence[Any]:
        """Return each example's class, or the classes (T,) of its steps.

        With `probabilities`, these are returned instead: (K,), or (T, K).
        """
        mean = self(batch.x, batch.x_lengths)
        answers = mean if probabilities else mean.argmax(axis=-1)
        return cut(answers, batch) if mean.ndim == 3 else list(answers)


class WriterEnsemble(_Together, Writer):
    """Several models that write sequences, as one. They are trained like those of an `Ensemble`.

    Parameters
    ----------
    *models : OneToMany or EncoderDecoder
        At least one, all with the same ids.

    Attributes
    ----------
    params : dict of str to ndarray
        The models' parameters under "0.name", "1.name" and so on.

    Raises
    ------
    ValueError
        If there is no model.
    """

    def steps(self, x: Any, lengths: Any = None, width: int = 1) -> Steps:
        """Return the steps of all models together, before the first id, with `width` rows for each x."""
        return MeanSteps([model.steps(x, lengths, width) for model in self.models])
