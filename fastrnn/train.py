"""The training loop: batches, steps, evaluations, the best parameters, checkpoints, progress.

All random numbers of a step depend only on the seed and the number of the step, and the order of batches only on the
seed and the number of the pass. So a checkpoint needs no state of a generator, and a run that was killed and resumed
has the same bits at its end as one that was not.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastrnn import optim, serialization, validate
from fastrnn.data import Batch
from fastrnn.formats.reading import json_object, refusing
from fastrnn.params import check_names, copy_in

__all__ = ["Report", "Source", "Trainable", "Trainer", "evaluate"]

FORMAT = "fastrnn.checkpoint 1"
PARTS = ("params", "best", "optimizer", "state")  # of a checkpoint: what the names of its arrays begin with
MEAN_OVER = 50  # the running mean of the loss is over about this many steps

Source: TypeAlias = Callable[[np.random.Generator], Iterable[Any]]


class Trainable(Protocol):
    """What can be trained: a `fastrnn.nn.Model`, or any object with these two. A batch is what the source yields."""

    @property
    def params(self) -> dict[str, NDArray]: ...

    def loss_and_grads(self, batch: Any, rng: Any = None) -> Any:
        """Return (loss, gradients), or a `fastrnn.nn.Loss`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """Where a training is after a step.

    Attributes
    ----------
    step : int
        Steps so far.
    epoch : int
        Completed passes through the data.
    fraction : float
        Share of the budget that is used, 0 to 1.
    loss : float
        Training loss: a running mean over about the last 50 steps. A loss that is not finite stays out of the mean; the
        report of its own step gives it as it is, so that a training which diverges shows it.
    rate : float
        Targets per second of training; the time of evaluations does not count.
    score : float or None
        The score, if this step was followed by an evaluation.
    """

    step: int
    epoch: int
    fraction: float
    loss: float
    rate: float
    score: float | None


@dataclasses.dataclass
class _Progress:
    """The part of a checkpoint that is not arrays: plain numbers only."""

    step: int = 0
    epoch: int = 0
    position: int = 0  # completed batches of the epoch
    evaluations: int = 0
    since_best: int = 0  # evaluations without a better score
    best_score: float | None = None
    mean_loss: float = 0.0
    losses: int = 0  # in the mean: those that are finite
    targets: int = 0
    seconds: float = 0.0  # so far, evaluations included
    evaluating: float = 0.0  # seconds of evaluations
    carried: str | None = None  # the kind of the carried state: "h" or "hc"
    finished: bool = False

    @classmethod
    def of(cls, found: dict[str, Any]) -> _Progress:
        """The progress in a file, after checking that each number is one."""
        types = {field.name: field.type for field in dataclasses.fields(cls)}
        for name, value in found.items():
            if name not in types or not _FITS[types[name]](value):
                raise ValueError(f"progress: expected {name} to be {types.get(name, 'left out')}, got {value!r}")
        return cls(**found)


# What a checkpoint may have for a field of `_Progress` of this type.
_FITS: dict[Any, Callable[[Any], bool]] = {
    "int": lambda value: type(value) is int and 0 <= value < 1 << 63,
    "float": lambda value: type(value) in (int, float) and math.isfinite(value),
    "float | None": lambda value: value is None or type(value) in (int, float),
    "str | None": lambda value: value in (None, "h", "hc"),
    "bool": lambda value: type(value) is bool,
}


class Trainer:
    """Trains a model in place, until the budget is used or the score no longer improves.

    ``trainer.fit()`` runs the whole training, with a progress bar. ``for report in trainer`` runs one step at a time.

    Parameters
    ----------
    model : Model or Trainable
        Has `params` and `loss_and_grads`.
    optimizer : fastrnn.optim.Optimizer
        Of ``model.params``. Its learning rate is the highest of the training; the schedule lowers it. Another object
        with `lr`, `step`, `state_dict` and `load_state_dict` will do; if its `step` takes no `max_norm`, the trainer
        clips, and hands it plain arrays.
    batches : callable
        From a Generator to the batches of one pass: a `fastrnn.data.Batches`, a `Chunks`, or a function. The same state
        of the generator must give the same batches.
    valid : iterable of batches or callable, optional
        How the model is evaluated: by its mean loss on these batches, or by a function of the model that returns a
        score, such as an accuracy. Default: no evaluation; then the last parameters are the result.
    maximize : bool, default False
        Whether a higher score is better.
    epochs, steps, seconds : number, optional
        The budget; exactly one must be given. `epochs` counts passes, for which `batches` must have a length; `steps`
        counts steps; `seconds` is time, evaluations included, so that the result depends on the machine's speed.
    schedule : callable, default optim.constant()
        From the share of the budget that is used to the factor of the learning rate.
    max_norm : float, default 1.0
        The norm to which gradients are clipped; infinity for no clipping. A step whose gradients are not finite is
        skipped.
    evaluations : int, optional
        How many evaluations there are: at even distances, the last one at the end. Default: `epochs`, else 10.
    patience : int, optional
        Training ends after this many evaluations without a better score. Default: it does not.
    checkpoint : path-like, optional
        A file, .npz or .safetensors, that is written after each evaluation, when `fit` is interrupted, and at the end.
        If it exists at the start, training goes on from it. The model, the data and all arguments must be the same.
    every : int, optional
        Additionally, a checkpoint is written each time this many steps are done.
    seed : int, default 0
        Seed of the order of batches and of dropout.
    unit : str, default "targets"
        The name of what speed is measured in, for the display.

    Attributes
    ----------
    best_score : float or None
        The best score so far; None before the first evaluation.
    best_params : dict of str to ndarray
        Copies of the parameters that had the best score; the model's own arrays before the first evaluation.
    interrupted : bool
        Whether Ctrl-C ended `fit`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value, or the checkpoint is one of another training.
    """

    def __init__(
        self, model: Trainable, optimizer: optim.Optimizer, batches: Source, valid: Any = None, *,
        maximize: bool = False, epochs: int | None = None, steps: int | None = None, seconds: float | None = None,
        schedule: optim.Schedule | None = None, max_norm: float = 1.0, evaluations: int | None = None,
        patience: int | None = None, checkpoint: str | os.PathLike[str] | None = None, every: int | None = None,
        seed: int = 0, unit: str = "targets",
    ) -> None:  # fmt: skip
        if sum(budget is not None for budget in (epochs, steps, seconds)) != 1:
            raise ValueError(f"epochs, steps, seconds: expected one of them, got {epochs}, {steps}, {seconds}")
        if not callable(batches):
            raise TypeError(f"batches: expected a function of a Generator, got {type(batches).__name__}")
        if epochs is not None:
            epochs = validate.size("epochs", epochs)
            if not hasattr(batches, "__len__"):
                raise TypeError("batches: expected a source with a length, as epochs are counted, got one without")
            steps = epochs * len(batches)
        self.model, self.optimizer, self.batches, self.valid = model, optimizer, batches, valid
        self.maximize, self.seconds = validate.flag("maximize", maximize), seconds
        self.steps = None if steps is None else validate.size("steps", steps)
        self.schedule, self.max_norm = schedule or optim.constant(), max_norm
        self.evaluations = validate.size("evaluations", evaluations or epochs or 10)
        self.patience = None if patience is None else validate.size("patience", patience)
        self.every = None if every is None else validate.size("every", every)
        self.seed, self.unit = validate.size("seed", seed, minimum=0), unit
        self._clips = _takes(optimizer.step, "max_norm")
        self.lr = optimizer.lr
        self.interrupted = False
        self.best_params = model.params
        self._at = _Progress()
        self._state: Any = None  # the recurrent state that is carried from batch to batch
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        if self.checkpoint is not None:
            serialization.check_path(self.checkpoint)
            if self.checkpoint.exists():
                self._resume(self.checkpoint)

    @property
    def best_score(self) -> float | None:
        """The best score so far; None before the first evaluation."""
        return self._at.best_score

    def fit(self, *, progress: bool = True, console: Any = None) -> float | None:
        """Train to the end, and leave the best parameters in the model.

        The first Ctrl-C ends training after the current step and writes the checkpoint, if there is one. A second one
        raises KeyboardInterrupt as usual.

        Parameters
        ----------
        progress : bool, default True
            Whether to print a line for each evaluation and, on a terminal and if rich is installed, a progress bar.
        console : rich.console.Console, optional
            Where to print. Default: stderr.

        Returns
        -------
        float or None
            The best score; None where nothing was evaluated.
        """
        with _interrupt_noted() as noted, _Display(self, progress, console) as display:
            for report in self:
                display.show(report)
                if noted.is_set():
                    self.interrupted = True
                    if self.checkpoint is not None:
                        self.save()
                    break
        copy_in(self.model.params, self.best_params)
        return self.best_score

    def __iter__(self) -> Iterator[Report]:
        """Train until the end; yield a report after each step. The best parameters are in `best_params`."""
        at = self._at
        before = time.perf_counter() - at.seconds
        while not at.finished:
            rng, none_yet = np.random.default_rng([self.seed, 1, at.epoch]), True
            for batch in itertools.islice(self.batches(rng), at.position, None):
                none_yet = False
                self.optimizer.lr = self.lr * self.schedule(self._fraction(at.step + 1))
                loss = self._averaged(self.learn(batch))
                at.step, at.position = at.step + 1, at.position + 1
                at.seconds = time.perf_counter() - before
                score = self._evaluate_when_due()
                at.seconds = time.perf_counter() - before
                at.finished |= self._fraction(at.step) >= 1
                due = at.finished or score is not None or (self.every is not None and at.step % self.every == 0)
                if due and self.checkpoint is not None:
                    self.save()
                yield self._report(loss, score)
                if at.finished:
                    return
            if none_yet and not at.position:
                raise ValueError("batches: expected at least one batch in a pass, got none")
            at.epoch, at.position = at.epoch + 1, 0

    def learn(self, batch: Any) -> float:
        """Take one training step, at the optimizer's learning rate, and return the loss."""
        if getattr(batch, "follows", False):
            batch = dataclasses.replace(batch, state=self._state)
        result = self.model.loss_and_grads(batch, rng=np.random.default_rng([self.seed, 2, self._at.step]))
        loss, grads = result[0], result[1]
        self._at.targets += result[2] if len(result) > 2 else 1
        self._state = result[3] if len(result) > 3 else None
        if self._clips:
            self.optimizer.step(grads, max_norm=self.max_norm)
        elif math.isfinite(optim.clip_grad_norm(grads, self.max_norm)):
            self.optimizer.step({name: np.asarray(g) for name, g in grads.items()})
        return float(loss)

    def save(self) -> None:
        """Write the checkpoint now.

        Raises
        ------
        ValueError
            If there is no `checkpoint`.
        OSError
            If the file cannot be written. An existing file is then unchanged.
        """
        if self.checkpoint is None:
            raise ValueError("checkpoint: expected a path, given to the trainer, got None")
        state: tuple[NDArray, ...] = ()
        if self._state is not None:
            state = self._state if isinstance(self._state, tuple) else (self._state,)
        self._at.carried = None if self._state is None else "hc" if isinstance(self._state, tuple) else "h"
        tensors = {f"params.{name}": p for name, p in self.model.params.items()}
        if self._at.best_score is not None:
            tensors |= {f"best.{name}": p for name, p in self.best_params.items()}
        tensors |= {f"optimizer.{name}": a for name, a in self.optimizer.state_dict().items()}
        tensors |= {f"state.{k}": part for k, part in enumerate(state)}
        words = {"format": FORMAT, "progress": json.dumps(dataclasses.asdict(self._at)), "run": self._run()}
        serialization.save(self.checkpoint, tensors, words)

    def _resume(self, path: Path) -> None:
        """Continue from a checkpoint. On an error, nothing is changed."""
        tensors, words = serialization.load(path)
        with refusing(path, "a checkpoint of this training"):
            if words.get("format") != FORMAT:
                raise ValueError(f"expected a {FORMAT!r}, got {words.get('format', 'no format')!r}")
            if words["run"] != self._run():
                raise ValueError(f"expected the checkpoint of a training with {self._run()}, got {words['run']}")
            at = _Progress.of(json_object(words["progress"], "progress"))
            params, best, optimizer, state = (_under(tensors, f"{part}.") for part in PARTS)
            if unknown := [name for name in tensors if name.partition(".")[0] not in PARTS]:
                raise ValueError(f"expected arrays of {', '.join(PARTS)}, got {unknown} too")
            check_names("state", state, "01"[: len(at.carried or "")])
            copies = {name: p.copy() for name, p in self.model.params.items()}
            copy_in(copies if at.best_score is not None else {}, best)
            before = {name: p.copy() for name, p in self.model.params.items()}
            copy_in(self.model.params, params)
            try:
                self.optimizer.load_state_dict(optimizer)
            except Exception:
                copy_in(self.model.params, before)
                raise
        self._at = at
        self._state = None if at.carried is None else state["0"] if at.carried == "h" else (state["0"], state["1"])
        if best:
            self.best_params = copies

    def _run(self) -> str:
        """Return the arguments that are compared to detect the checkpoint of another training. They are not all."""
        words = {
            "optimizer": type(self.optimizer).__name__, "lr": float(self.lr), "seed": self.seed, "steps": self.steps,
            "seconds": self.seconds, "evaluations": self.evaluations, "patience": self.patience,
            "max_norm": float(self.max_norm), "maximize": self.maximize,
        }  # fmt: skip
        return json.dumps(words)

    def _fraction(self, step: int) -> float:
        if self.steps is not None:
            return min(1.0, step / self.steps)
        return min(1.0, self._at.seconds / max(self.seconds or 0.0, 1e-9))

    def _evaluate_when_due(self) -> float | None:
        """If an evaluation is due, evaluate, keep the parameters if they are the best, and return the score."""
        at = self._at
        due = (
            at.step * self.evaluations // self.steps  # in integers: exact at the end of an epoch
            if self.steps is not None
            else int(self._fraction(at.step) * self.evaluations)
        )
        if self.valid is None or due <= at.evaluations:
            return None
        at.evaluations = due
        begin = time.perf_counter()
        score = float(evaluate(self.model, self.valid) if hasattr(self.valid, "__iter__") else self.valid(self.model))
        at.evaluating += time.perf_counter() - begin
        if at.best_score is None or (score > at.best_score if self.maximize else score < at.best_score):
            at.best_score, at.since_best = score, 0
            self.best_params = {name: p.copy() for name, p in self.model.params.items()}
        else:
            at.since_best += 1
            at.finished |= self.patience is not None and at.since_best >= self.patience
        return score

    def _averaged(self, loss: float) -> float:
        """Return the running mean with this step's loss in it, or the loss alone where it is not finite."""
        if not math.isfinite(loss):
            return loss
        at = self._at
        at.losses += 1
        at.mean_loss += (loss - at.mean_loss) / min(at.losses, MEAN_OVER)
        return at.mean_loss

    def _report(self, loss: float, score: float | None) -> Report:
        at = self._at
        rate = at.targets / max(at.seconds - at.evaluating, 1e-9)
        fraction = 1.0 if at.finished else self._fraction(at.step)
        return Report(at.step, at.epoch, fraction, loss, rate, score)


def evaluate(model: Any, batches: Iterable[Batch]) -> float:
    """Return the mean loss over all targets of the batches, as inference computes it.

    Where a batch follows the one before, the state is carried.

    Parameters
    ----------
    model : Model
        Or any object whose `loss` takes a batch and returns a `fastrnn.nn.Loss`.
    batches : iterable of Batch
        In their order.

    Returns
    -------
    float
        NaN if there are no targets.
    """
    total, count, state = 0.0, 0, None
    if not callable(getattr(model, "loss", None)):
        raise TypeError(f"model: expected one with a loss, got {type(model).__name__}")
    for batch in batches:
        if getattr(batch, "follows", False):
            batch = dataclasses.replace(batch, state=state)
        loss = model.loss(batch)
        total, count, state = total + loss.value * loss.targets, count + loss.targets, loss.state
    return total / count if count else math.nan


def _takes(function: Callable[..., Any], argument: str) -> bool:
    """Whether a function has an argument of this name."""
    try:
        return argument in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some functions in C say nothing of their arguments
        return False


def _under(tensors: dict[str, NDArray], prefix: str) -> dict[str, NDArray]:
    return {name.removeprefix(prefix): a for name, a in tensors.items() if name.startswith(prefix)}


@contextmanager
def _interrupt_noted() -> Iterator[threading.Event]:
    """Set the event at the first Ctrl-C, so that no step is interrupted in the middle; a second one raises as usual."""
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield noted
        return

    def note(*_: object) -> None:
        noted.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


class _Display:
    """Prints a line for each evaluation and, with rich on a terminal, a progress bar."""

    def __init__(self, trainer: Trainer, on: bool, console: Any) -> None:
        self._trainer, self._on, self._console = trainer, on, console
        self._bar: Any = None
        if on and console is None:
            try:
                from rich.console import Console

                self._console = Console(stderr=True, highlight=False)
            except ImportError:  # without rich, lines only
                pass

    def __enter__(self) -> _Display:
        if self._on and self._console is not None and self._console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
            self._bar = Progress(*columns, TextColumn("{task.description}"), console=self._console)
            self._bar.start()
            self._task = self._bar.add_task("", total=1.0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, report: Report) -> None:
        best, unit = self._trainer.best_score, self._trainer.unit
        speed = f"{report.rate:,.0f} {unit}/s"
        if self._bar is not None:
            shown = "" if best is None else f", best score {best:.3f}"
            description = f"loss {report.loss:.3f}{shown}, {speed}"
            self._bar.update(self._task, completed=report.fraction, description=description)
        if self._on and (report.score is not None or report.fraction == 1):
            score = "" if report.score is None else f"  score {report.score:.4f}"
            line = f"{report.fraction:4.0%}  step {report.step:,}  loss {report.loss:.4f}{score}  {speed}"
            if self._console is not None:
                self._console.print(line)
            else:
                import sys

                print(line, file=sys.stderr)
