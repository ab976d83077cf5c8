"""The training loop: batches, steps, evaluations, the best parameters, checkpoints, progress.

All random numbers of a step depend only on the seed and the number of the step, and the order of batches only on the
seed and the number of the pass. So a checkpoint needs no state of a generator, and a run that was killed and resumed
has the same bits at its end as one that was not.

Several processes train as one: each computes its share of every batch, the gradients are summed, and each takes the
same step with the sum. What decides how training goes on is told by process 0 or summed, so that all decide alike.
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
from fastrnn._core import native
from fastrnn.data import Batch
from fastrnn.distributed import Exchange, Group, checked_group
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
    carried: str | None = None  # the kind of the carried state: "h", "hc" or "hcnm"
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
    "str | None": lambda value: value in (None, "h", "hc", "hcnm"),
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
        clips, and hands it plain arrays. Of a `fastrnn.optim.Averaged` the means are evaluated, and kept as the best.
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
    group : fastrnn.distributed.Group, optional
        Processes that train as one. Each makes a trainer with the same arguments, and gets the parameters of process 0.
        `batches` gives the batches of all together; it has ``shard(index, count)``, which returns the source of this
        process's share, with None in the place of a batch of which it has none. `valid` is evaluated by all if it has a
        `shard`, else by process 0. That process alone shows progress, and reads and writes the checkpoint. Dropout
        differs from process to process, so with it n processes compute other numbers than one. Default: this process
        alone.

    Attributes
    ----------
    best_score : float or None
        The best score so far; None before the first evaluation.
    best_params : dict of str to ndarray
        Copies of the parameters that had the best score; the model's own arrays, or their means, before the first
        evaluation.
    interrupted : bool
        Whether Ctrl-C ended `fit`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value, the checkpoint is one of another training, or the processes of the
        group do not have the same arguments, parameters' shapes and instruction set.
    """

    def __init__(
        self, model: Trainable, optimizer: optim.Optimizer, batches: Source, valid: Any = None, *,
        maximize: bool = False, epochs: int | None = None, steps: int | None = None, seconds: float | None = None,
        schedule: optim.Schedule | None = None, max_norm: float = 1.0, evaluations: int | None = None,
        patience: int | None = None, checkpoint: str | os.PathLike[str] | None = None, every: int | None = None,
        seed: int = 0, unit: str = "targets", group: Group | None = None,
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
        self.group = checked_group(group)
        self._clips = _takes(optimizer.step, "max_norm")
        self.lr = optimizer.lr
        self.interrupted = False
        self.best_params = getattr(optimizer, "averages", model.params)
        self._at = _Progress()
        self._state: Any = None  # the recurrent state that is carried from batch to batch
        self._interrupted: Callable[[], bool] = bool  # whether Ctrl-C was noted: not yet
        self._source, self._stop = batches, False
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        if self.checkpoint is not None:
            serialization.check_path(self.checkpoint)
        if self.group.size > 1:
            self._join()
        found = None
        if self.checkpoint is not None and self.group.rank == 0 and self.checkpoint.exists():
            found = serialization.load(self.checkpoint)
        found = self.group.broadcast(found)
        if self.checkpoint is not None and found is not None:
            self._resume(self.checkpoint, *found)

    def _join(self) -> None:
        """Begin as one of several processes: with the same training, and the parameters of process 0."""
        group, params = self.group, self.model.params
        if not hasattr(self.batches, "shard"):
            raise TypeError("batches: expected a source with a method shard, as there is a group, got one without")
        shapes = {name: (p.shape, p.dtype.name) for name, p in params.items()}
        mine = (self._run(), self.checkpoint is None, native.isa_selected(), shapes)
        if mine != (first := group.broadcast(mine)):
            differ = ((a, b) for a, b in zip(first, mine, strict=True) if a != b)
            raise ValueError("group: expected in each process what process 0 has, {}, got {}".format(*next(differ)))
        copy_in(params, group.broadcast(params))
        self._source = self.batches.shard(group.rank, group.size)
        self._exchange = Exchange(group, params)

    @property
    def best_score(self) -> float | None:
        """The best score so far; None before the first evaluation."""
        return self._at.best_score

    def fit(self, *, progress: bool = True, console: Any = None) -> float | None:
        """Train to the end, and leave the best parameters in the model.

        The first Ctrl-C ends training after the current step and writes the checkpoint, if there is one. A second one
        raises KeyboardInterrupt as usual. In a group, all processes end when one of them is interrupted.

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
        shown = progress and self.group.rank == 0
        with _interrupt_noted() as noted, _Display(self, shown, console) as display:
            self._interrupted = noted.is_set
            for report in self:
                display.show(report)
                if self._stop if self.group.size > 1 else noted.is_set():
                    self.interrupted = True
                    if self.checkpoint is not None:
                        self.save()
                    break
        self._interrupted = bool
        copy_in(self.model.params, self.best_params)
        return self.best_score

    def __iter__(self) -> Iterator[Report]:
        """Train until the end; yield a report after each step. The best parameters are in `best_params`."""
        at = self._at
        before = time.perf_counter() - at.seconds
        while not at.finished:
            rng, none_yet = np.random.default_rng([self.seed, 1, at.epoch]), True
            for batch in itertools.islice(self._source(rng), at.position, None):
                none_yet = False
                self.optimizer.lr = self.lr * self.schedule(self._fraction(at.step + 1))
                loss = self._mean_with(self.learn(batch))
                at.step, at.position = at.step + 1, at.position + 1
                at.seconds = self._since(before)
                score = self._evaluate_when_due()
                at.seconds = self._since(before)
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
        """Take one training step, at the optimizer's learning rate, and return the loss.

        In a group, all processes take it together, each with its share of the batch, or None if it has none.
        """
        loss, grads, targets = 0.0, dict[str, Any](), 0
        if batch is not None or self.group.size == 1:
            if getattr(batch, "follows", False):
                batch = dataclasses.replace(batch, state=self._state)
            rank = [self.group.rank] if self.group.rank else []
            rng = np.random.default_rng([self.seed, 2, self._at.step, *rank])
            result = self.model.loss_and_grads(batch, rng=rng)
            loss, grads, targets = result[0], result[1], result[2] if len(result) > 2 else 1
            self._state = result[3] if len(result) > 3 else None
        if self.group.size > 1:
            loss, grads, targets, self._stop = self._exchange(loss, grads, targets, self._interrupted())
        self._at.targets += targets
        if self._clips:
            self.optimizer.step(grads, max_norm=self.max_norm)
        elif math.isfinite(optim.clip_grad_norm(grads, self.max_norm)):
            self.optimizer.step({name: np.asarray(g) for name, g in grads.items()})
        return float(loss)

    def save(self) -> None:
        """Write the checkpoint now. In a group, all processes call this together, and process 0 writes it.

        Raises
        ------
        ValueError
            If there is no `checkpoint`.
        OSError
            If the file cannot be written. An existing file is then unchanged.
        """
        if self.checkpoint is None:
            raise ValueError("checkpoint: expected a path, given to the trainer, got None")
        state = self._whole_state()
        if self.group.rank != 0:
            return
        self._at.carried = None if self._state is None else "hcnm"[: len(state)]
        tensors = {f"params.{name}": p for name, p in self.model.params.items()}
        if self._at.best_score is not None:
            tensors |= {f"best.{name}": p for name, p in self.best_params.items()}
        tensors |= {f"optimizer.{name}": a for name, a in self.optimizer.state_dict().items()}
        tensors |= {f"state.{k}": part for k, part in enumerate(state)}
        words = {"format": FORMAT, "progress": json.dumps(dataclasses.asdict(self._at)), "run": self._run()}
        serialization.save(self.checkpoint, tensors, words)

    def _whole_state(self) -> tuple[NDArray, ...]:
        """Return the parts of the carried state, of all processes together in the order of the columns."""
        state: tuple[NDArray, ...] = ()
        if self._state is not None:
            state = self._state if isinstance(self._state, tuple) else (self._state,)
        group = self.group
        if group.size == 1:
            return state
        columns = np.array([float(state[0].shape[1]) if state else 0.0])
        group.all_reduce(columns)
        whole = []
        for k, (shape, dtype) in enumerate(group.broadcast([(part.shape, part.dtype) for part in state])):
            part = np.zeros((shape[0], int(columns[0]), *shape[2:]), dtype)
            if state:
                part[:, group.rank :: group.size] = state[k]
            group.all_reduce(part)
            whole.append(part)
        return tuple(whole)

    def _resume(self, path: Path, tensors: dict[str, NDArray], words: dict[str, str]) -> None:
        """Continue from what a checkpoint holds. On an error, nothing is changed."""
        with refusing(path, "a checkpoint of this training"):
            if words.get("format") != FORMAT:
                raise ValueError(f"expected a {FORMAT!r}, got {words.get('format', 'no format')!r}")
            if words["run"] != self._run():
                raise ValueError(f"expected the checkpoint of a training with {self._run()}, got {words['run']}")
            at = _Progress.of(json_object(words["progress"], "progress"))
            params, best, optimizer, state = (_under(tensors, f"{part}.") for part in PARTS)
            if unknown := [name for name in tensors if name.partition(".")[0] not in PARTS]:
                raise ValueError(f"expected arrays of {', '.join(PARTS)}, got {unknown} too")
            check_names("state", state, "0123"[: len(at.carried or "")])
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
        if self.group.size > 1:
            state = {k: part[:, self.group.rank :: self.group.size] for k, part in state.items()}
        parts = tuple(state[name] for name in sorted(state))
        self._state = None if at.carried is None else parts[0] if at.carried == "h" else parts
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

    def _since(self, begin: float) -> float:
        """Return the seconds since `begin`: where they are the budget, those of process 0, as all must end alike."""
        seconds = time.perf_counter() - begin
        return seconds if self.seconds is None else self.group.broadcast(seconds)

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
        with self._averaged():
            if hasattr(self.valid, "__iter__"):
                score = evaluate(self.model, self.valid, self.group)
            else:
                score = self.group.broadcast(float(self.valid(self.model)) if self.group.rank == 0 else None)
            better = at.best_score is None or (score > at.best_score if self.maximize else score < at.best_score)
            if better:
                self.best_params = {name: p.copy() for name, p in self.model.params.items()}
        at.evaluating += time.perf_counter() - begin
        if better:
            at.best_score, at.since_best = score, 0
        else:
            at.since_best += 1
            at.finished |= self.patience is not None and at.since_best >= self.patience
        return score

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Evaluate the means of the parameters, where the optimiser has some, in place of the parameters."""
        means, params = getattr(self.optimizer, "averages", None), self.model.params
        if means is None:
            yield
            return
        last = {name: p.copy() for name, p in params.items()}
        copy_in(params, means)
        try:
            yield
        finally:
            copy_in(params, last)

    def _mean_with(self, loss: float) -> float:
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


def evaluate(model: Any, batches: Iterable[Batch], group: Group | None = None) -> float:
    """Return the mean loss over all targets of the batches, as inference computes it.

    Where a batch follows the one before, the state is carried.

    Parameters
    ----------
    model : Model
        Or any object whose `loss` takes a batch and returns a `fastrnn.nn.Loss`.
    batches : iterable of Batch
        In their order.
    group : fastrnn.distributed.Group, optional
        Processes that evaluate together. Each computes its share if `batches` has a `shard`; if not, process 0 computes
        all. Each returns the same number.

    Returns
    -------
    float
        NaN if there are no targets.
    """
    total, count, state = 0.0, 0, None
    if not callable(getattr(model, "loss", None)):
        raise TypeError(f"model: expected one with a loss, got {type(model).__name__}")
    group = checked_group(group)
    if group.size > 1:
        if hasattr(batches, "shard"):
            batches = batches.shard(group.rank, group.size)
        elif group.rank != 0:
            batches = ()
    for batch in batches:
        if getattr(batch, "follows", False):
            batch = dataclasses.replace(batch, state=state)
        loss = model.loss(batch)
        total, count, state = total + loss.value * loss.targets, count + loss.targets, loss.state
    if group.size > 1:
        sums = np.array([total, count], np.float64)
        group.all_reduce(sums)
        total, count = sums.tolist()
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
