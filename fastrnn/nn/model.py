"""Models, which are trained, evaluated, and stored in one file with their vocabularies."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from numpy.typing import NDArray

from fastrnn import serialization
from fastrnn.data import Batch, Vocabulary
from fastrnn.formats.reading import json_object, refusing
from fastrnn.frozen import Frozen
from fastrnn.layers import Recurrent
from fastrnn.nn.module import Module
from fastrnn.weights import files
from fastrnn.weights.parts import Layer

__all__ = ["Loss", "Model", "load"]

# The key of a model's description in a file's metadata. The options of recurrent layers have keys of their own.
KEY = "fastrnn.model"


class Loss(NamedTuple):
    """The loss of a batch.

    Attributes
    ----------
    value : float
        The mean over targets.
    grads : dict of str to ndarray or RowGradient
        Gradients of the model's parameters, under their names; empty if none were asked for.
    targets : int
        The number of targets.
    state : ndarray, tuple of ndarray or None
        The final state, from which a batch that follows can start.
    """

    value: float
    grads: dict[str, Any]
    targets: int = 1
    state: Any = None


class Model(Module):
    """A module with a loss. Subclasses define `loss`, `loss_and_grads` and, for `predict`, `predict_batch`.

    Attributes
    ----------
    vocabularies : dict of str to Vocabulary
        Vocabularies that are stored with the model.
    notes : dict of str to object
        More that is stored with the model, such as means and scales of features: numbers, strings, booleans, None, and
        lists and dicts of these.
    """

    def __init__(self, parts: Mapping[str, Any], **options: Any) -> None:
        super().__init__(parts, **options)
        self.vocabularies: dict[str, Vocabulary] = {}
        self.notes: dict[str, Any] = {}

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of a batch as in inference: without dropout and without gradients."""
        raise NotImplementedError

    def loss_and_grads(self, batch: Batch, rng: Any = None) -> Loss:
        """Return the loss of a batch and its gradients. The model is not changed.

        Parameters
        ----------
        batch : Batch
            Examples.
        rng : seed or numpy.random.Generator, optional
            Source of dropout. Default: different values each time.
        """
        raise NotImplementedError

    def predict_batch(self, *args: Any, **options: Any) -> Sequence[Any]:
        """Return the model's prediction for each example of a batch, which is the first argument."""
        raise NotImplementedError

    def predict(self, batches: Iterable[Batch], **options: Any) -> list[Any]:
        """Return the model's predictions in the order of the data set.

        Parameters
        ----------
        batches : iterable of Batch
            Usually a `fastrnn.data.Batches`. y is ignored.
        **options
            As for `predict_batch`.
        """
        answers: dict[int, Any] = {}
        for batch in batches:
            if batch.rows is None:
                raise ValueError("batches: expected batches of a data set, which say which rows they are, got others")
            answers |= zip(batch.rows.tolist(), self.predict_batch(batch, **options), strict=True)
        return [answers[row] for row in sorted(answers)]

    def freeze(self, precision: str | None = None, keep: Iterable[str] = ()) -> Any:
        """See `Module.freeze`; `vocabularies` and `notes` are copied, too."""
        frozen = super().freeze(precision, keep)
        frozen.vocabularies, frozen.notes = dict(self.vocabularies), copy.deepcopy(self.notes)
        return frozen

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
        """Write the model, with `vocabularies` and `notes`, to a file that `fastrnn.nn.load` reads.

        A recurrent layer in the file can also be read alone: ``fastrnn.load(path, prefix="rnn.")``. A frozen model is
        written as it is kept, in fewer bits maybe, and read back frozen.

        Parameters
        ----------
        path : path-like
            Ends in .npz or .safetensors, which selects the format.
        metadata : mapping of str to str, optional
            More metadata for the file.

        Raises
        ------
        TypeError, ValueError
            If JSON cannot store `notes` or an option.
        OSError
            As `fastrnn.serialization.save`.
        """
        description = {
            "model": _describe(self),
            "vocabularies": {
                name: {"specials": v.specials, "tokens": v.tokens[len(v.specials) :]}
                for name, v in self.vocabularies.items()
            },
            "notes": self.notes,
        }
        words = {**(metadata or {}), **_layer_words(self, ""), KEY: json.dumps(description)}
        files.write(path, self.params, words)


def load(
    path: str | os.PathLike[str], classes: Iterable[type[Module]] = (), *, max_bytes: int | None = None
) -> Any:  # fmt: skip
    """Read a model that `Model.save` wrote. Nothing in the file is executed.

    Parameters
    ----------
    path : path-like
        Ends in .npz or .safetensors, which selects the format.
    classes : iterable of type, optional
        Classes of your own modules and models in the file; those of this package are known.
    max_bytes : int, optional
        As for `fastrnn.serialization.load`.

    Returns
    -------
    Model
        With parameters, `vocabularies` and `notes`.

    Raises
    ------
    ValueError
        If the file is damaged, holds no such model or takes more than `max_bytes`; the message names the path.
    OSError
        If the file cannot be read.
    """
    known = _known(classes)
    tensors, words = serialization.load(path, max_bytes=max_bytes)
    with refusing(path, "a model"):
        if KEY not in words:
            raise ValueError(f"expected {KEY!r} among the file's words, got {sorted(words)}")
        description = json_object(words[KEY], KEY)
        used: set[str] = set()
        model = _rebuild(description["model"], "", tensors, words, known, used)
        if not isinstance(model, Model):
            raise ValueError(f"expected a model, got {type(model).__name__}")
        if unknown := sorted(tensors.keys() - used):
            raise ValueError(f"expected only the model's arrays, got {unknown} too")
        model.vocabularies = {name: Vocabulary(**v) for name, v in description["vocabularies"].items()}
        model.notes = dict(description["notes"])
    return model


def _describe(part: Any) -> dict[str, Any]:
    """Return a part as JSON: its class, options and parts. `_layer_words` has the options of recurrent layers."""
    described: dict[str, Any] = {"class": type(part).__name__}
    if not isinstance(part, (Recurrent, Frozen)):
        described["options"] = part.options
    if isinstance(part, Module):
        described["parts"] = {name: _describe(inner) for name, inner in part.parts.items()}
    return described


def _layer_words(module: Module, prefix: str) -> dict[str, str]:
    words: dict[str, str] = {}
    for name, part in module.parts.items():
        if isinstance(part, Module):
            words |= _layer_words(part, f"{prefix}{name}.")
        elif isinstance(part, (Recurrent, Frozen)):
            words |= files.describe(cast("Layer | Frozen", part), f"{prefix}{name}.")
    return words


def _rebuild(
    described: dict[str, Any], prefix: str, tensors: Mapping[str, NDArray], words: Mapping[str, str],
    known: Mapping[str, Any], used: set[str],
) -> Any:  # fmt: skip
    """Return the part that `described` describes, with its arrays (`prefix` and a name); add their names to `used`."""
    cls = known.get(described["class"])
    if cls is None:
        raise ValueError(f"expected one of {', '.join(sorted(known))}, or of classes=, got {described['class']!r}")
    if issubclass(cls, Module):
        parts = {
            name: _rebuild(inner, f"{prefix}{name}.", tensors, words, known, used)
            for name, inner in described["parts"].items()
        }
        return cls.rebuilt(parts, described["options"])
    arrays = {name.removeprefix(prefix): a for name, a in tensors.items() if name.startswith(prefix)}
    if again := sorted(prefix + name for name in arrays if prefix + name in used):
        raise ValueError(f"expected arrays of one part each, got {again} in two")
    used |= {prefix + name for name in arrays}
    if issubclass(cls, (Recurrent, Frozen)):
        layer = files.rebuild(tensors, words, prefix)
        if type(layer) is not cls:
            raise ValueError(f"{prefix}: expected {cls.__name__}, got {type(layer).__name__}")
        return layer
    # A layer with parameters gets its sizes from these alone: options could ask for any size.
    options = described["options"]
    return cls.from_arrays(arrays, **options) if arrays or hasattr(cls, "from_arrays") else cls(**options)


def _known(classes: Iterable[type[Module]]) -> dict[str, Any]:
    """Return the classes that files may name."""
    from fastrnn import layers, nn

    ours: list[Any] = [*layers.LAYERS.values(), Frozen]
    ours += [value for name in nn.__all__ if isinstance(value := getattr(nn, name), type) and hasattr(value, "rebuilt")]
    ours += [nn.Embedding, nn.FrozenEmbedding, nn.Linear, nn.FrozenLinear, nn.Activation, nn.Dropout, nn.Masking]
    for cls in (classes := tuple(classes)):
        if not isinstance(cls, type):
            raise TypeError(f"classes: expected types, got {type(cls).__name__}")
    return {cls.__name__: cls for cls in [*ours, *classes]}
