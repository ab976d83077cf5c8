"""fastrnn's cells against the loops that PyTorch's users write for them, live, where PyTorch is installed.

The loops are those that `fastrnn bench --loops` measures. What they compute is differentiated by PyTorch.
"""

import itertools
from typing import Any

import numpy as np
import pytest
from test_live_torch import Trial, assert_close, generator, identify, import_torch, parts

import fastrnn

# Cells without randomness ------------------------------------------------------------------------------------------

STACK = {"num_layers": 2, "bidirectional": True}

CELLS: list[tuple[str, dict[str, Any], str, bool, bool]] = [
    ("RNN", {"layer_norm": "separate"}, "float64", True, False),
    ("RNN", {"layer_norm": "sum", "nonlinearity": "relu"}, "float32", False, True),
    ("LSTM", {"layer_norm": "separate"}, "float32", False, False),
    ("LSTM", {"layer_norm": "separate"} | STACK, "float64", True, True),
    ("LSTM", {"layer_norm": "separate", "bias": False}, "float64", True, False),
    ("LSTM", {"layer_norm": "separate", "coupled": True, "layer_norm_eps": 1e-2}, "float64", False, True),
    ("LSTM", {"layer_norm": "sum"}, "float32", True, False),
    ("LSTM", {"layer_norm": "sum", "bias": False} | STACK, "float64", True, True),
    ("GRU", {"layer_norm": "separate"}, "float32", True, False),
    ("GRU", {"layer_norm": "separate"} | STACK, "float64", True, True),
    ("GRU", {"layer_norm": "separate", "reset_after": False}, "float64", False, False),
    ("GRU", {"layer_norm": "separate", "reset_after": False, "bias": False} | STACK, "float64", True, True),
    ("LSTM", {"coupled": True}, "float32", True, False),
    ("LSTM", {"coupled": True} | STACK, "float64", True, True),
    ("SLSTM", {}, "float64", False, False),
    ("SLSTM", {"num_heads": 3}, "float32", True, False),
    ("SLSTM", {"num_heads": 2} | STACK, "float64", True, True),
    ("MinGRU", {}, "float32", True, False),
    ("MinGRU", STACK, "float64", True, True),
    ("MinLSTM", {}, "float32", False, True),
    ("MinLSTM", {"bias": False} | STACK, "float64", True, True),
]


def loops() -> Any:
    """The module with the loops; skips where there is no PyTorch."""
    import_torch()
    from fastrnn.bench.loops import torch as module

    return module


def loops_of(trial: Trial) -> dict[str, Any]:
    """For the suffix of each layer and direction the loop over its steps, with the layer's parameters."""
    torch, module = import_torch(), loops()
    of_stack = ("num_layers", "bidirectional", "bias")
    options = {name: value for name, value in trial.kwargs.items() if name not in of_stack}
    params = {name: torch.tensor(np.array(value)) for name, value in trial.layer.params.items()}
    suffixes = dict.fromkeys(name[name.index("_l") :] for name in params)
    return {
        suffix: module.build(
            trial.cell.lower(), options,
            {name.removesuffix(suffix): value for name, value in params.items() if name.endswith(suffix)},
        )
        for suffix in suffixes
    }  # fmt: skip


def run_stack(torch: Any, trial: Trial, stack: dict[str, Any], x: Any, state: list[Any]) -> tuple[Any, Any]:
    """All layers and directions, one row of the batch at a time: a row is cut at its length and at its resets."""
    directions = 2 if trial.kwargs.get("bidirectional") else 1
    steps, batch, _ = x.shape
    y_rows, state_rows = [], []
    for b in range(batch):
        length = steps if trial.lengths is None else int(trial.lengths[b])
        cuts = [] if trial.resets is None else [t for t in range(length) if trial.resets[t, b]]
        below, finals = x[:length, b : b + 1], []
        for index in range(len(stack) // directions):
            above = []
            for direction in range(directions):
                loop = stack[f"_l{index}" + ("_reverse" if direction else "")]
                h = tuple(part[index * directions + direction, b : b + 1] for part in state)
                # Backwards, nothing is before the reset at 0.
                bounds = [0, *(cuts if direction == 0 else [length - t for t in reversed(cuts) if t]), length]
                read, pieces = below.flip(0) if direction else below, []
                for begin, end in itertools.pairwise(bounds):
                    if pieces or begin == end:
                        h = None
                    if begin < end:
                        y, h = loop(read[begin:end], h)
                        pieces.append(y)
                y = torch.cat(pieces)
                above.append(y.flip(0) if direction else y)
                finals.append(h)
            below = torch.cat(above, dim=2)
        y_rows.append(torch.nn.functional.pad(below, (0, 0, 0, 0, 0, steps - length)))
        state_rows.append([torch.stack(part) for part in zip(*finals, strict=True)])
    return torch.cat(y_rows, dim=1), tuple(torch.cat(rows, dim=1) for rows in zip(*state_rows, strict=True))


@pytest.mark.parametrize(
    ("cell", "kwargs", "dtype", "lengths", "resets"), CELLS, ids=[identify(*case) for case in CELLS]
)
def test_cell(cell: str, kwargs: dict[str, Any], dtype: str, lengths: bool, resets: bool, engine: str) -> None:
    torch, module = import_torch(), loops()
    trial = Trial(cell, kwargs, dtype, lengths, resets)
    if cell.startswith("Min"):
        trial.state = [np.abs(part) for part in trial.state]  # the loops compute with logarithms
    stack, leaves = loops_of(trial), trial.tensors(torch)
    for suffix, loop in stack.items():
        leaves |= {f"{name.removesuffix('_l0')}{suffix}": value for name, value in module.named(loop).items()}
    y, state_n = run_stack(torch, trial, stack, leaves["x"], [leaves[f"{k}"] for k in range(len(trial.state))])
    trial.compare(torch, y, state_n, leaves)


# Random cells ------------------------------------------------------------------------------------------------------
#
# A mask shows in what a training run returns. So it is read from there, and a loop with that mask computes the rest.

RANDOM: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {"zoneout": 0.3}),
    ("LSTM", {"zoneout": 0.3}),
    ("LSTM", {"zoneout_cell": 0.4}),
    ("GRU", {"zoneout": 0.3, "reset_after": False}),
    ("LSTM", {"candidate_dropout": 0.3}),
    ("LSTM", {"candidate_dropout": 0.3, "coupled": True}),
    ("GRU", {"candidate_dropout": 0.3}),
    ("RNN", {"state_dropout": 0.4}),
    ("LSTM", {"state_dropout": 0.4}),
    ("GRU", {"state_dropout": 0.4}),
    ("GRU", {"state_dropout": 0.4, "reset_after": False}),
    ("LSTM", {"input_dropout": 0.4}),
    ("RNN", {"weight_dropout": 0.3}),
    ("LSTM", {"weight_dropout": 0.3}),
    ("GRU", {"weight_dropout": 0.3}),
    ("GRU", {"weight_dropout": 0.3, "reset_after": False}),
    ("LSTM", {"zoneout": 0.2, "layer_norm": "separate"}),
    ("GRU", {"state_dropout": 0.4, "layer_norm": "separate"}),
]


def mask_of(option: str, layer: Any, y: np.ndarray, state: list[np.ndarray], tape: Any, grads: Any) -> np.ndarray:
    """True where a value was held, or dropped. One sequence, so that no other adds to the gradients of weights."""
    gates = tape.gates()
    if option == "zoneout":
        return y == np.concatenate([state[0], y[:-1]])
    if option == "zoneout_cell":
        return gates["c"] == np.concatenate([state[1], gates["c"][:-1]])
    if option == "candidate_dropout":  # nothing is written
        if isinstance(layer, fastrnn.GRU):
            written = y - gates["z"] * np.concatenate([state[0], y[:-1]])
        else:
            kept = gates["f"] if "f" in gates else 1 - gates["i"]
            written = gates["c"] - kept * np.concatenate([state[1], gates["c"][:-1]])
        return np.abs(written) < 1e-12
    of_weight = grads.params["weight_ih_l0" if option == "input_dropout" else "weight_hh_l0"]
    return of_weight == 0 if option == "weight_dropout" else (of_weight == 0).all(axis=0)[None]


class Masked:
    """Takes the place of a loop's `drop` and `hold`."""

    def __init__(self, torch: Any, option: str, probability: float, mask: np.ndarray) -> None:
        self.torch, self.option, self.probability = torch, option, probability
        self.masks = iter([mask] if option == "weight_dropout" or len(mask) == 1 else mask)

    def drop(self, option: str, a: Any) -> Any:
        assert option == self.option
        kept = self.torch.from_numpy(~next(self.masks).reshape(a.shape))
        return a * kept / (1 - self.probability)

    def hold(self, option: str, new: Any, old: Any) -> Any:
        return self.torch.where(self.torch.from_numpy(next(self.masks)), old, new) if option == self.option else new


@pytest.mark.parametrize(("cell", "kwargs"), RANDOM, ids=[identify(*case) for case in RANDOM])
def test_random_cell(cell: str, kwargs: dict[str, Any], engine: str) -> None:
    torch, module = import_torch(), loops()
    rng, (option, probability) = generator((cell, sorted(kwargs))), next(iter(kwargs.items()))
    layer = getattr(fastrnn, cell)(7, 19, **kwargs, dtype=np.float64, rng=rng)
    x, dy, *drawn = (rng.standard_normal(shape) for shape in ((9, 1, 7), (9, 1, 19), *2 * layer.state_shapes(1)))
    state, dstate = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
    as_layers_take_it = (lambda given: tuple(given)) if len(state) > 1 else (lambda given: given[0])
    y, state_n, tape = layer.forward(x, as_layers_take_it(state))
    grads = layer.backward(tape, dy, as_layers_take_it(dstate))
    mask = mask_of(option, layer, y, state, tape, grads)
    assert 0.3 * probability < mask.mean() < 0.5 + 0.5 * probability

    loop = module.build(
        cell.lower(), kwargs, {name.removesuffix("_l0"): torch.tensor(value) for name, value in layer.params.items()}
    )
    masked = Masked(torch, option, probability, mask)
    loop.drop, loop.hold = masked.drop, masked.hold
    leaves = [torch.tensor(value, requires_grad=True) for value in (x, *state)]
    rows = tuple(part[0] for part in leaves[1:])
    first = rows if isinstance(loop, module.Layer) else as_layers_take_it(leaves[1:])
    y_expected, expected_n = loop(leaves[0], first)
    expected_n = [part.reshape(shape) for part, shape in zip(parts(expected_n), layer.state_shapes(1), strict=True)]
    named = module.named(loop)
    expected = torch.autograd.grad(
        [y_expected, *expected_n], [*leaves, *named.values()], [torch.from_numpy(value) for value in (dy, *dstate)]
    )
    assert_close("y", y, y_expected.detach().numpy(), "output")
    for k, part in enumerate(expected_n):
        assert_close(f"state_n[{k}]", parts(state_n)[k], part.detach().numpy(), "output")
    actual = [grads.x, *parts(grads.state), *(grads.params[name] for name in named)]
    for name, ours, theirs in zip(["x", *"hc"[: len(state)], *named], actual, expected, strict=True):
        assert_close(f"gradient of {name}", ours, theirs.numpy(), "gradient")


@pytest.mark.parametrize(
    ("cell", "kwargs"),
    [("LSTM", {"zoneout": 0.2, "zoneout_cell": 0.4}), ("GRU", {"zoneout": 0.3}), ("RNN", {"zoneout": 0.3})],
)
def test_zoneout_in_inference_is_its_expectation(cell: str, kwargs: dict[str, Any], engine: str) -> None:
    torch = import_torch()
    trial = Trial(cell, kwargs, "float64", lengths=False)
    (loop,) = loops_of(trial).values()
    y, state_n = loop.eval()(torch.from_numpy(trial.x), tuple(torch.from_numpy(part[0]) for part in trial.state))
    actual, actual_n = trial.layer(trial.x, trial.wrap(trial.state))
    assert_close("y", actual, y.detach().numpy(), "output")
    for ours, theirs in zip(parts(actual_n), state_n, strict=True):
        assert_close("state_n", ours[0], theirs.detach().numpy(), "output")
