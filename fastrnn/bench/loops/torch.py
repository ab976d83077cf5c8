"""The cells as users of PyTorch write them, who find them in none of its layers: a step in Python, in a loop over time.

`fastrnn bench --loops` times them, in a process that has PyTorch and NumPy and may have no fastrnn. Tests compare
fastrnn's results and gradients with theirs. Options have fastrnn's names, and so have parameters, without the layer's
suffix: so both are called alike.

What people use was the model, in the equations and in what is computed when. The cells with layer normalisation are
those of PyTorch's benchmarks/fastrnns/custom_lstms.py, zoneout is ESPnet's, weight dropout that of AWD-LSTM and fastai,
sLSTM the vanilla backend of NX-AI's xlstm; minGRU and minLSTM are those of lucidrains' minGRU-pytorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

__all__ = ["LAYERS", "Layer", "WeightDrop", "build", "compile_step", "named"]

State = tuple[Any, ...]


class Layer(nn.Module):
    """A layer of one direction: parameters, options, and a call that runs a sequence.

    Parameters
    ----------
    params : dict of str to Tensor
    **options
        Those of fastrnn's layer.
    """

    DEFAULTS: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, params: dict[str, Any], **options: Any) -> None:
        super().__init__()
        unknown = set(options) - set(self.DEFAULTS)
        if unknown:
            raise TypeError(f"{type(self).__name__}: has no {', '.join(sorted(unknown))}")
        for name, value in (self.DEFAULTS | options).items():
            setattr(self, name, value)
        for name in dict.fromkeys(("weight_ih", "weight_hh", "bias_ih", "bias_hh", "bias_c", *params)):
            self.register_parameter(name, nn.Parameter(params[name]) if name in params else None)

    def forward(self, x: Any, state: State | None = None) -> tuple[Any, State]:
        """Run a sequence x (T, B, I); return y (T, B, H) and the final state, a tuple of (B, H)."""
        if state is None:
            state = self.zeros(x)
        inputs, once = self.begin(x, state)
        outputs = []
        for x_t in inputs.unbind(0):
            state = self.step(x_t, state, *once)
            outputs.append(state[0])
        return torch.stack(outputs), state

    def zeros(self, x: Any) -> State:
        """Return the state at the beginning."""
        raise NotImplementedError

    def begin(self, x: Any, state: State) -> tuple[Any, tuple[Any, ...]]:
        """Return the inputs of the steps, and what is computed or drawn once a sequence."""
        raise NotImplementedError

    def step(self, x: Any, state: State, *once: Any) -> State:
        """Return the state after a step; its first part is y."""
        raise NotImplementedError


# ---- RNN, LSTM and GRU, with layer normalisation, zoneout and dropouts ----------------------------------------------


class Recurrent(Layer):
    """What RNN, LSTM and GRU share."""

    parts = 1  # of the state
    DEFAULTS = {  # noqa: RUF012
        "layer_norm": None, "layer_norm_eps": 1e-5, "zoneout": 0.0, "state_dropout": 0.0, "input_dropout": 0.0,
        "weight_dropout": 0.0,
    }  # fmt: skip

    def zeros(self, x: Any) -> State:
        return (x.new_zeros(x.shape[1], self.weight_hh.shape[1]),) * self.parts

    def begin(self, x: Any, state: State) -> tuple[Any, tuple[Any, ...]]:
        """Also return U with dropout, and the mask of h where it meets U, or None."""
        if self.input_dropout:
            x = x * self.drop("input_dropout", torch.ones_like(x[0]))
        U = self.drop("weight_dropout", self.weight_hh) if self.weight_dropout else self.weight_hh
        return x, (U, self.drop("state_dropout", torch.ones_like(state[0])) if self.state_dropout else None)

    # What is random. A test puts masks that it knows in place of these two.

    def drop(self, option: str, a: Any) -> Any:
        """Zero values with the option's probability, and scale the others."""
        return functional.dropout(a, getattr(self, option), self.training)

    def hold(self, option: str, new: Any, old: Any) -> Any:
        """Zoneout: with the option's probability a value stays the old one. In inference, the expectation of that."""
        p = getattr(self, option)
        if not p:
            return new
        mask = torch.empty_like(new).bernoulli_(p) if self.training else p
        return mask * old + (1 - mask) * new

    # Pre-activations.

    def both(self, x: Any, h: Any, U: Any) -> Any:
        """Return what x and h give all gates together, (B, G*H)."""
        if self.layer_norm != "sum":
            return self.of_input(x) + self.of_state(h, U, slice(None))
        a = functional.linear(x, self.weight_ih) + functional.linear(h, U)
        gates = a.unflatten(1, (-1, h.shape[1]))  # each is normalised over its own values
        a = functional.layer_norm(gates, h.shape[1:], eps=self.layer_norm_eps).flatten(1)
        return a * self.norm if self.bias_ih is None else torch.addcmul(self.bias_ih + self.bias_hh, a, self.norm)

    def of_input(self, x: Any) -> Any:
        if not self.layer_norm:
            return functional.linear(x, self.weight_ih, self.bias_ih)
        return self.normalised(functional.linear(x, self.weight_ih), self.norm_ih, self.bias_ih)

    def of_state(self, h: Any, U: Any, rows: slice) -> Any:
        """Return what h gives the gates of some rows."""
        bias = None if self.bias_hh is None else self.bias_hh[rows]
        if not self.layer_norm:
            return functional.linear(h, U[rows], bias)
        return self.normalised(functional.linear(h, U[rows]), self.norm_hh[rows], bias)

    def normalised(self, a: Any, gain: Any, bias: Any) -> Any:
        return functional.layer_norm(a, a.shape[-1:], gain, bias, self.layer_norm_eps)


class RNN(Recurrent):
    """An Elman cell."""

    DEFAULTS = Recurrent.DEFAULTS | {"nonlinearity": "tanh"}

    def step(self, x: Any, state: State, U: Any, mask: Any) -> State:
        (h,) = state
        a = self.both(x, h if mask is None else h * mask, U)
        new = torch.tanh(a) if self.nonlinearity == "tanh" else torch.relu(a)
        return (self.hold("zoneout", new, h),)


class LSTM(Recurrent):
    """Long short-term memory, with gates i, f, g, o, or i, g, o where they are coupled."""

    parts = 2
    DEFAULTS = Recurrent.DEFAULTS | {"coupled": False, "zoneout_cell": 0.0, "candidate_dropout": 0.0}

    def step(self, x: Any, state: State, U: Any, mask: Any) -> State:
        h, c = state
        a = self.both(x, h if mask is None else h * mask, U)
        if self.coupled:
            i, g, o = a.chunk(3, 1)
            i = torch.sigmoid(i)
            f = 1 - i
        else:
            i, f, g, o = a.chunk(4, 1)
            i, f = torch.sigmoid(i), torch.sigmoid(f)
        g = torch.tanh(g)
        if self.candidate_dropout:
            g = self.drop("candidate_dropout", g)
        new_c = f * c + i * g
        shown = self.normalised(new_c, self.norm_c, self.bias_c) if self.layer_norm else new_c
        new_h = torch.sigmoid(o) * torch.tanh(shown)
        return self.hold("zoneout", new_h, h), self.hold("zoneout_cell", new_c, c)


class GRU(Recurrent):
    """A gated recurrent unit, with gates r, z, n."""

    DEFAULTS = Recurrent.DEFAULTS | {"reset_after": True, "update_gate": "keep", "candidate_dropout": 0.0}

    def step(self, x: Any, state: State, U: Any, mask: Any) -> State:
        (h,) = state
        seen = h if mask is None else h * mask
        H = h.shape[1]
        x_r, x_z, x_n = self.of_input(x).chunk(3, 1)
        if self.reset_after:
            h_r, h_z, h_n = self.of_state(seen, U, slice(None)).chunk(3, 1)
            r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
            n = torch.tanh(x_n + r * h_n)
        else:
            h_r, h_z = self.of_state(seen, U, slice(2 * H)).chunk(2, 1)
            r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
            n = torch.tanh(x_n + self.of_state(r * seen, U, slice(2 * H, None)))
        if self.candidate_dropout:
            n = self.drop("candidate_dropout", n)
        new = torch.lerp(n, h, z) if self.update_gate == "keep" else torch.lerp(h, n, z)
        return (self.hold("zoneout", new, h),)


class WeightDrop(nn.Module):
    """A layer of PyTorch's own, LSTM or GRU, with a new dropout of U at each call."""

    def __init__(self, layer: Any, params: dict[str, Any], weight_dropout: float) -> None:
        super().__init__()
        self.layer, self.weight_dropout = layer, weight_dropout
        layer.load_state_dict({f"{name}_l0": value for name, value in params.items()})
        del layer._parameters["weight_hh_l0"]
        self.weight_hh = nn.Parameter(params["weight_hh"])

    def forward(self, x: Any, state: Any = None) -> tuple[Any, State]:
        self.layer.weight_hh_l0 = self.drop("weight_dropout", self.weight_hh)
        return self.layer(x, state)

    def drop(self, option: str, a: Any) -> Any:
        return functional.dropout(a, self.weight_dropout, self.training)


# ---- sLSTM ----------------------------------------------------------------------------------------------------------


class SLSTM(Layer):
    """A scalar LSTM of xLSTM, with gates i, f, z, o and heads; its state is h, c, n, m."""

    DEFAULTS = {"num_heads": 1}  # noqa: RUF012

    def zeros(self, x: Any) -> State:
        return (x.new_zeros(x.shape[1], len(self.weight_ih) // 4),) * 4

    def begin(self, x: Any, state: State) -> tuple[Any, tuple[Any, ...]]:
        """The inputs of all steps are projected at once."""
        D = self.weight_hh.shape[1]
        R = self.weight_hh.reshape(4, self.num_heads, D, D).permute(1, 3, 0, 2).reshape(self.num_heads, D, 4 * D)
        a = functional.linear(x, self.weight_ih, self.bias_ih)
        return (a if self.bias_hh is None else a + self.bias_hh), (R,)

    def step(self, x: Any, state: State, R: Any) -> State:
        h, c, n, m = state
        B, K = len(h), self.num_heads
        recurrent = torch.bmm(h.reshape(B, K, -1).transpose(0, 1), R)  # (K, B, 4*D)
        recurrent = recurrent.reshape(K, B, 4, -1).permute(1, 2, 0, 3).reshape(B, -1)
        i, f, z, o = (x + recurrent).chunk(4, 1)
        kept = m + functional.logsigmoid(f)
        new_m = torch.where(n == 0, i, torch.maximum(i, kept))
        i, f = torch.exp(i - new_m), torch.exp(kept - new_m)
        new_c = f * c + i * torch.tanh(z)
        new_n = f * n + i
        return torch.sigmoid(o) * new_c / new_n, new_c, new_n, new_m


# ---- minGRU and minLSTM ---------------------------------------------------------------------------------------------


class Minimal(Layer):
    """What minGRU and minLSTM share: gates that do not see the state, so that one scan in log space computes all steps.

    The state that it begins with is positive or zero, as all states of these cells are.
    """

    def forward(self, x: Any, state: State | None = None) -> tuple[Any, State]:
        """See `Layer.forward`."""
        kept, written, candidate = self.logarithms(functional.linear(x, self.weight_ih, self.bias_ih))
        values = written + torch.where(candidate >= 0, (functional.relu(candidate) + 0.5).log(),
                                       -functional.softplus(-candidate))  # fmt: skip
        if state is not None:
            values = torch.cat((state[0].log()[None], values))
            kept = functional.pad(kept, (0, 0, 0, 0, 1, 0))
        total = kept.cumsum(0)
        y = (total + (values - total).logcumsumexp(0)).exp()[-len(x) :]
        return y, (y[-1],)

    def logarithms(self, a: Any) -> tuple[Any, Any, Any]:
        """Return the logarithms of how much is kept and how much is written, and the candidate's pre-activation."""
        raise NotImplementedError


class MinGRU(Minimal):
    """h = (1 - z)*h' + z*g(a)."""

    def logarithms(self, a: Any) -> tuple[Any, Any, Any]:
        z, candidate = a.chunk(2, -1)
        return -functional.softplus(z), -functional.softplus(-z), candidate


class MinLSTM(Minimal):
    """h = f*h' + i*g(a), where f and i are divided by their sum."""

    def logarithms(self, a: Any) -> tuple[Any, Any, Any]:
        i, f, candidate = a.chunk(3, -1)
        difference = functional.softplus(-f) - functional.softplus(-i)
        return -functional.softplus(difference), -functional.softplus(-difference), candidate


# ---- All of them ----------------------------------------------------------------------------------------------------

# The names are those of `fastrnn.layers.LAYERS`.
LAYERS: dict[str, Callable[..., Any]] = {
    "rnn": RNN, "lstm": LSTM, "gru": GRU, "slstm": SLSTM, "mingru": MinGRU, "minlstm": MinLSTM,
}  # fmt: skip


def build(cell: str, options: dict[str, Any], params: dict[str, Any]) -> Any:
    """Return a module that computes what fastrnn's layer with these options does.

    Parameters
    ----------
    cell : str
        A key of `LAYERS`.
    options : dict of str to value
        Those of fastrnn's layer.
    params : dict of str to Tensor
        Of one layer, without its suffix.

    Returns
    -------
    Module
        From x (T, B, I), and a state if it shall not begin with zeros, to y and the final state.
    """
    if options.keys() == {"weight_dropout"} and cell in ("lstm", "gru"):  # as people do it: PyTorch's own layer
        I, H = params["weight_ih"].shape[1], params["weight_hh"].shape[1]
        layer = getattr(nn, cell.upper())(I, H, bias="bias_ih" in params, dtype=params["weight_ih"].dtype)
        return WeightDrop(layer, params, **options)
    return LAYERS[cell](params, **options)


def compile_step(module: Any) -> None:
    """Let torch.compile make what runs again and again faster: the step of a loop, or else the whole call.

    A loop over 100 steps as a whole would be compiled for many minutes.
    """
    torch.compiler.reset()
    if isinstance(module, Layer) and not isinstance(module, Minimal):
        module.step = torch.compile(module.step, fullgraph=True, dynamic=False)  # type: ignore[method-assign]
    else:
        module.compile(dynamic=False)


def named(module: Any) -> dict[str, Any]:
    """Return the parameters under fastrnn's names."""
    return {f"{name.rpartition('.')[2].removesuffix('_l0')}_l0": value for name, value in module.named_parameters()}
