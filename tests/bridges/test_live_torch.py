"""fastrnn against PyTorch and ONNX's reference evaluator, live, where they are installed; else these tests skip.

The sizes are drawn from wider ranges than those of the golden files, to reach full tiles of the kernels and their
remainders. What no PyTorch layer has (peepholes, a reset before the matmul, the other update gate, resets of the
state) is compared with a plain loop over its equations, differentiated by PyTorch.
"""

import zlib
from typing import Any

import numpy as np
import pytest

import fastrnn

TOLERANCE = {"float64": {"output": 1e-11, "gradient": 1e-10}, "float32": {"output": 1e-5, "gradient": 5e-5}}


def import_torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with live")


def generator(seed: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(seed).encode()))


def assert_close(name: str, actual: np.ndarray, expected: np.ndarray, kind: str) -> None:
    tolerance = TOLERANCE[str(expected.dtype)][kind]
    assert actual.dtype == expected.dtype, name
    # An element that is small because large terms cancel has the error of the large terms.
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * scale, err_msg=name)


def parts(state: Any) -> tuple[Any, ...]:
    """A state as a tuple: (h, c), or of another number of parts."""
    return state if isinstance(state, tuple) else (state,)


class Trial:
    """A layer with random sizes, inputs and cotangents, and the comparison of all it computes with PyTorch's."""

    def __init__(self, cell: str, kwargs: dict[str, Any], dtype: str, lengths: bool, resets: bool = False) -> None:
        rng = generator((cell, sorted(kwargs.items()), dtype, lengths, resets))
        self.cell, self.kwargs, self.dtype = cell, kwargs, dtype
        steps, batch, self.input_size = (int(size) for size in rng.integers((2, 1, 1), (13, 10, 40)))
        self.hidden_size = int(rng.integers(3, 40)) * kwargs.get("num_heads", 1)
        self.layer = getattr(fastrnn, cell)(self.input_size, self.hidden_size, **kwargs, dtype=np.dtype(dtype), rng=rng)
        directions = 2 if kwargs.get("bidirectional") else 1
        output_size = kwargs.get("proj_size") or self.hidden_size

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(dtype)

        self.x, self.dy = normal(steps, batch, self.input_size), normal(steps, batch, directions * output_size)
        self.state = [normal(*shape) for shape in self.layer.state_shapes(batch)]
        self.dstate = [normal(*shape) for shape in self.layer.state_shapes(batch)]
        self.lengths = rng.integers(1, steps + 1, batch) if lengths else None
        self.resets = rng.random((steps, batch)) < 0.3 if resets else None

    def wrap(self, state: list[Any]) -> Any:
        return tuple(state) if len(state) > 1 else state[0]

    def tensors(self, torch: Any) -> dict[str, Any]:
        """Everything that gets a gradient, as leaves of PyTorch's graph. (Copies: PyTorch wants writeable arrays.)"""
        arrays = {"x": self.x} | {f"{k}": value for k, value in enumerate(self.state)} | self.layer.params
        return {name: torch.tensor(np.array(value), requires_grad=True) for name, value in arrays.items()}

    def compare(self, torch: Any, y: Any, state: Any, leaves: dict[str, Any]) -> None:
        """y and state are PyTorch's, with the graph down to the leaves."""
        cotangents = [torch.from_numpy(value) for value in (self.dy, *self.dstate)]
        expected = torch.autograd.grad([y, *parts(state)], list(leaves.values()), cotangents)
        expected_gradients = {name: value.numpy() for name, value in zip(leaves, expected, strict=True)}

        run = {"lengths": self.lengths} | ({} if self.resets is None else {"resets": self.resets})
        y_inferred, state_inferred = self.layer(self.x, self.wrap(self.state), **run)
        y_actual, state_actual, tape = self.layer.forward(self.x, self.wrap(self.state), **run)
        grads = self.layer.backward(tape, self.dy, self.wrap(self.dstate))

        assert_close("y of inference", y_inferred, y.detach().numpy(), "output")
        assert_close("y", y_actual, y.detach().numpy(), "output")
        for k, value in enumerate(parts(state)):
            assert_close(f"state_n[{k}] of inference", parts(state_inferred)[k], value.detach().numpy(), "output")
            assert_close(f"state_n[{k}]", parts(state_actual)[k], value.detach().numpy(), "output")
            assert_close(f"grads.state[{k}]", parts(grads.state)[k], expected_gradients[f"{k}"], "gradient")
        assert_close("grads.x", grads.x, expected_gradients["x"], "gradient")
        assert set(grads.params) == set(self.layer.params)
        for name, value in grads.params.items():
            assert_close(f"grads.params[{name!r}]", value, expected_gradients[name], "gradient")


# Layers that PyTorch has -------------------------------------------------------------------------------------------

TORCH_LAYERS: list[tuple[str, dict[str, Any], str, bool]] = [
    ("LSTM", {}, "float64", False),
    ("LSTM", {}, "float32", False),
    ("LSTM", {"bias": False}, "float64", True),
    ("LSTM", {"num_layers": 3, "bidirectional": True}, "float64", True),
    ("LSTM", {"num_layers": 2, "bidirectional": True}, "float32", True),
    ("LSTM", {"proj_size": 2}, "float32", False),
    ("LSTM", {"proj_size": 2, "num_layers": 2, "bidirectional": True, "bias": False}, "float64", True),
    ("GRU", {}, "float64", False),
    ("GRU", {}, "float32", True),
    ("GRU", {"bias": False}, "float64", False),
    ("GRU", {"num_layers": 3}, "float32", False),
    ("GRU", {"num_layers": 2, "bidirectional": True}, "float64", True),
    ("RNN", {}, "float64", True),
    ("RNN", {"num_layers": 2, "bidirectional": True}, "float32", True),
    ("RNN", {"nonlinearity": "relu", "bias": False}, "float64", False),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2, "bidirectional": True}, "float64", True),
]


def identify(cell: str, kwargs: dict[str, Any], dtype: str = "float64", *features: bool) -> str:
    """The name of a case in pytest's output; features say whether there are lengths and resets."""
    present = [name for name, given in zip(("lengths", "resets"), features, strict=False) if given]
    return "-".join([cell, *(f"{name}={value}" for name, value in kwargs.items()), dtype, *present])


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    ("cell", "kwargs", "dtype", "lengths"), TORCH_LAYERS, ids=[identify(*case) for case in TORCH_LAYERS]
)
def test_torch_layer(cell: str, kwargs: dict[str, Any], dtype: str, lengths: bool, engine: Any) -> None:
    torch = import_torch()
    trial = Trial(cell, kwargs, dtype, lengths)
    leaves = trial.tensors(torch)
    state = trial.wrap([leaves[f"{k}"] for k in range(len(trial.state))])
    layer = getattr(torch.nn, cell)(trial.input_size, trial.hidden_size, **kwargs, dtype=getattr(torch, dtype))
    # The layer's own parameters are the leaves whose gradients count.
    layer.load_state_dict({name: leaves[name] for name in trial.layer.params})
    leaves |= dict(layer.named_parameters())
    if trial.lengths is None:
        y, state_n = layer(leaves["x"], state)
    else:
        pack, unpack = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
        y, state_n = layer(pack(leaves["x"], torch.from_numpy(trial.lengths), enforce_sorted=False), state)
        y, _ = unpack(y, total_length=len(trial.x))
    trial.compare(torch, y, state_n, leaves)


# What only the equations have --------------------------------------------------------------------------------------


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "MinGRU": 2, "MinLSTM": 3}


def equations(torch: Any, cell: str, kwargs: dict[str, Any], w: dict[str, Any], x: Any, h: Any, c: Any) -> Any:
    """One step for all rows, straight from the equations: the new (h, c). c is None but for an LSTM."""

    def gates_of(v: Any, kind: str) -> Any:
        bias = w.get(f"bias_{kind}", torch.zeros(len(w["weight_ih"]), dtype=v.dtype))
        return (v @ w[f"weight_{kind}"].T + bias).split(len(w["weight_ih"]) // GATES[cell], 1)

    def clip(a: Any) -> Any:
        return a if kwargs.get("clip") is None else a.clamp(-kwargs["clip"], kwargs["clip"])

    ih = gates_of(x, "ih")
    if cell in ("MinGRU", "MinLSTM"):
        n = (
            ih[-1]
            if kwargs.get("nonlinearity") == "linear"
            else torch.where(ih[-1] < 0, ih[-1].sigmoid(), ih[-1] + 0.5)
        )
        if cell == "MinGRU":
            return torch.lerp(h, n, torch.sigmoid(ih[0])), None
        i, f = torch.sigmoid(ih[0]), torch.sigmoid(ih[1])
        return (f * h + i * n) / (f + i), None
    hh = gates_of(h, "hh")
    if cell == "RNN":
        return getattr(torch, kwargs.get("nonlinearity", "tanh"))(clip(ih[0] + hh[0])), None
    if cell == "LSTM":
        p_i, p_f, p_o = w["peephole"] if "peephole" in w else torch.zeros(3, c.shape[1], dtype=c.dtype)
        i = torch.sigmoid(clip(ih[0] + hh[0] + p_i * c))
        f = torch.sigmoid(clip(ih[1] + hh[1] + p_f * c))
        c = f * c + i * torch.tanh(clip(ih[2] + hh[2]))
        h = torch.sigmoid(clip(ih[3] + hh[3] + p_o * c)) * torch.tanh(clip(c))
        return (h @ w["weight_hr"].T if "weight_hr" in w else h), c
    r, z = torch.sigmoid(clip(ih[0] + hh[0])), torch.sigmoid(clip(ih[1] + hh[1]))
    n = torch.tanh(clip(ih[2] + (r * hh[2] if kwargs.get("reset_after", True) else gates_of(r * h, "hh")[2])))
    keep = z if kwargs.get("update_gate", "keep") == "keep" else 1 - z
    return (1 - keep) * n + keep * h, None


def run_equations(
    torch: Any,
    cell: str,
    kwargs: dict[str, Any],
    params: dict[str, Any],
    x: Any,
    state: list[Any],
    lengths: np.ndarray | None,
    resets: np.ndarray | None,
) -> tuple[Any, list[Any]]:
    """A whole stack, one row of the batch at a time: a row is cut to its length, so nothing needs a mask."""
    directions = 2 if kwargs.get("bidirectional") else 1
    num_layers = kwargs.get("num_layers", 1)
    steps, batch, _ = x.shape
    y_rows, state_rows = [], []
    for b in range(batch):
        length = steps if lengths is None else int(lengths[b])
        below = x[:length, b]
        finals: list[list[Any]] = [[] for _ in state]
        for index in range(num_layers):
            above = []
            for direction in range(directions):
                suffix = f"_l{index}" + ("_reverse" if direction else "")
                w = {name.removesuffix(suffix): value for name, value in params.items() if name.endswith(suffix)}
                row = index * directions + direction
                h, c = ([part[row, b : b + 1] for part in state] + [None])[:2]
                outputs: list[Any] = [None] * length
                order = range(length) if direction == 0 else range(length - 1, -1, -1)
                for position, t in enumerate(order):
                    # A reset at t is the boundary between t-1 and t, from whichever side it is reached. Before
                    # its first step the backward direction crosses none.
                    boundary = t if direction == 0 else t + 1
                    if resets is not None and (direction == 0 or position > 0) and resets[boundary, b]:
                        h, c = torch.zeros_like(h), None if c is None else torch.zeros_like(c)
                    h, c = equations(torch, cell, kwargs, w, below[t : t + 1], h, c)
                    outputs[t] = h
                above.append(torch.cat(outputs))
                for final, part in zip(finals, (h, c), strict=False):
                    final.append(part)
            below = torch.cat(above, dim=1)
        y_rows.append(torch.cat([below, torch.zeros(steps - length, below.shape[1], dtype=x.dtype)]))
        state_rows.append([torch.cat(final) for final in finals])
    return torch.stack(y_rows, dim=1), [torch.stack(rows, dim=1) for rows in zip(*state_rows, strict=True)]


EQUATIONS: list[tuple[str, dict[str, Any], str, bool, bool]] = [
    ("LSTM", {"peephole": True}, "float64", False, False),
    ("LSTM", {"peephole": True}, "float32", True, False),
    ("LSTM", {"peephole": True, "num_layers": 2, "bidirectional": True}, "float64", True, True),
    ("LSTM", {"peephole": True, "proj_size": 2, "bidirectional": True, "bias": False}, "float64", True, False),
    ("LSTM", {"proj_size": 2, "num_layers": 2, "bidirectional": True}, "float64", True, True),
    ("LSTM", {}, "float32", False, True),
    ("GRU", {"reset_after": False}, "float64", False, False),
    ("GRU", {"reset_after": False, "bias": False}, "float32", True, False),
    ("GRU", {"reset_after": False, "num_layers": 2, "bidirectional": True}, "float64", True, True),
    ("GRU", {"reset_after": False, "update_gate": "replace"}, "float64", True, False),
    ("GRU", {"update_gate": "replace", "num_layers": 2, "bidirectional": True}, "float64", True, True),
    ("GRU", {"update_gate": "replace", "bias": False}, "float32", False, False),
    ("RNN", {"num_layers": 2, "bidirectional": True}, "float64", True, True),
    ("RNN", {"nonlinearity": "relu"}, "float32", False, True),
    ("LSTM", {"clip": 0.5, "peephole": True, "proj_size": 2, "bidirectional": True}, "float64", True, True),
    ("LSTM", {"clip": 1.0}, "float32", False, False),
    ("GRU", {"clip": 0.5}, "float32", True, True),
    ("GRU", {"clip": 0.5, "reset_after": False, "update_gate": "replace"}, "float64", False, False),
    ("RNN", {"clip": 0.7}, "float32", False, True),
    ("RNN", {"clip": 0.3, "nonlinearity": "relu", "bidirectional": True}, "float64", True, False),
    ("MinGRU", {"num_layers": 2, "bidirectional": True}, "float64", True, True),
    ("MinGRU", {"nonlinearity": "linear", "bias": False}, "float32", False, False),
    ("MinLSTM", {}, "float32", True, False),
    ("MinLSTM", {"nonlinearity": "linear", "num_layers": 2, "bidirectional": True}, "float64", True, True),
]


@pytest.mark.parametrize(
    ("cell", "kwargs", "dtype", "lengths", "resets"), EQUATIONS, ids=[identify(*case) for case in EQUATIONS]
)
def test_equations(cell: str, kwargs: dict[str, Any], dtype: str, lengths: bool, resets: bool, engine: Any) -> None:
    torch = import_torch()
    trial = Trial(cell, kwargs, dtype, lengths, resets)
    leaves = trial.tensors(torch)
    params = {name: leaves[name] for name in trial.layer.params}
    state = [leaves[f"{k}"] for k in range(len(trial.state))]
    y, state_n = run_equations(torch, cell, kwargs, params, leaves["x"], state, trial.lengths, trial.resets)
    trial.compare(torch, y, tuple(state_n), leaves)


@pytest.mark.parametrize("cell", ["MinGRU", "MinLSTM"])
def test_scan_in_logarithms(cell: str, engine: Any) -> None:
    """The parallel scan of the paper's appendix B, as the packages of PyTorch's users have it."""
    torch = import_torch()
    functional = torch.nn.functional
    trial = Trial(cell, {}, "float64", False)
    trial.state = [np.abs(trial.state[0])]  # it has a logarithm
    leaves = trial.tensors(torch)
    a = leaves["x"] @ leaves["weight_ih_l0"].T + leaves["bias_ih_l0"]
    *gates, candidate = a.chunk(GATES[cell], -1)
    ratio = gates[0]  # ln(i'/f'), ln(z/(1 - z))
    if cell == "MinLSTM":
        ratio = functional.softplus(-gates[1]) - functional.softplus(-gates[0])
    log_n = torch.where(candidate >= 0, (torch.relu(candidate) + 0.5).log(), -functional.softplus(-candidate))
    kept, values = -functional.softplus(ratio), -functional.softplus(-ratio) + log_n
    star = kept.cumsum(0)
    y = (star + torch.cat((leaves["0"].log(), values - star)).logcumsumexp(0)[1:]).exp()
    trial.compare(torch, y, y[-1:], leaves)


# ONNX --------------------------------------------------------------------------------------------------------------

# Where ONNX's gates stand among fastrnn's: ONNX has LSTM i, o, f, c, GRU z, r, h and peepholes i, o, f.
ONNX_ORDER = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2], "RNN": [0]}
ONNX_PEEPHOLE_ORDER = [0, 2, 1]

ONNX_LAYERS: list[tuple[str, dict[str, Any]]] = [
    (cell, kwargs | direction)
    for cell, kwargs in (
        ("LSTM", {}),
        ("LSTM", {"peephole": True}),
        ("GRU", {"reset_after": False}),
        ("GRU", {"reset_after": True}),
        ("RNN", {}),
    )
    for direction in ({}, {"bidirectional": True})
]


@pytest.mark.parametrize(("cell", "kwargs"), ONNX_LAYERS, ids=[identify(*case) for case in ONNX_LAYERS])
def test_onnx_reference_evaluator(cell: str, kwargs: dict[str, Any], engine: Any) -> None:
    onnx = pytest.importorskip("onnx", reason="ONNX is not installed: nothing to compare with live")
    evaluator = pytest.importorskip("onnx.reference", reason="this ONNX has no reference evaluator")
    trial = Trial(cell, kwargs, "float64", lengths=False)  # the evaluator ignores sequence_lens
    suffixes = ("l0", "l0_reverse")[: 2 if kwargs.get("bidirectional") else 1]

    def stack(kind: str) -> np.ndarray:
        """(directions, ...) of one kind of parameter, gates in ONNX's order."""
        order = ONNX_PEEPHOLE_ORDER if kind == "peephole" else ONNX_ORDER[cell]
        blocks = [np.split(trial.layer.params[f"{kind}_{suffix}"], len(order)) for suffix in suffixes]
        return np.stack([np.concatenate([block[gate] for gate in order]) for block in blocks])

    feeds = {"X": trial.x, "W": stack("weight_ih"), "R": stack("weight_hh"), "initial_h": trial.state[0]}
    feeds["B"] = np.concatenate([stack("bias_ih"), stack("bias_hh")], axis=1)
    if cell == "LSTM":
        feeds["initial_c"] = trial.state[1]
    if kwargs.get("peephole"):
        feeds["P"] = stack("peephole").reshape(len(suffixes), -1)
    attributes: dict[str, Any] = {"direction": "bidirectional" if len(suffixes) == 2 else "forward"}
    if cell == "GRU":
        attributes["linear_before_reset"] = int(kwargs["reset_after"])
    inputs = [name if name in feeds else "" for name in ("X", "W", "R", "B", "", "initial_h", "initial_c", "P")]
    outputs = ["Y", "Y_h", "Y_c"][: 1 + len(trial.state)]
    node = onnx.helper.make_node(
        cell, inputs if cell == "LSTM" else inputs[:6], outputs, hidden_size=trial.hidden_size, **attributes
    )
    double = onnx.TensorProto.DOUBLE
    graph = onnx.helper.make_graph(
        [node],
        "one layer",
        [onnx.helper.make_tensor_value_info(name, double, array.shape) for name, array in feeds.items()],
        [onnx.helper.make_tensor_value_info(name, double, None) for name in outputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)])
    y_expected, *state_expected = evaluator.ReferenceEvaluator(model).run(None, feeds)  # y (T, D, B, H)

    y, state = trial.layer(trial.x, trial.wrap(trial.state))
    assert_close("y", y, y_expected.swapaxes(1, 2).reshape(y.shape), "output")
    for k, expected in enumerate(state_expected):
        assert_close(f"state_n[{k}]", parts(state)[k], expected, "output")
