"""The tape: what gates() shows, what it costs, and that backward is a pure function of it."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from generators import random_call
from oracle import Call, parts
from tolerances import assert_close

import fastrnn
from fastrnn.engines.reference import STEP
from fastrnn.engines.seam import Weights

NAMES = {"rnn": "h", "lstm": "i f g o c", "gru": "r z n hn", "gru-before": "r z n"}
OPTIONS = ("relu", "peephole", "proj", "replace")  # that change no names


def names_of(layer: Any, variant: str) -> list[str]:
    """By hand; of cells that are not computed by hand here as their description says."""
    plain = "-".join(word for word in variant.split("-") if word not in OPTIONS)
    if plain in NAMES:
        return NAMES[plain].split()
    return [*layer.cell.recorded, *layer.cell.states[1:]] or ["h"]


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def gates_by_hand(layer: Any, variant: str, suffix: str, x: np.ndarray, h: np.ndarray, c: Any) -> dict[str, np.ndarray]:
    """One step of one direction: the gates from its inputs, in plain NumPy."""
    p = {name.removesuffix(suffix): value for name, value in layer.params.items() if name.endswith(suffix)}
    W, U, b, d = p["weight_ih"], p["weight_hh"], p["bias_ih"], p["bias_hh"]
    H = layer.hidden_size
    if variant.startswith("rnn"):
        a = W @ x + b + U @ h + d
        return {"h": np.tanh(a) if variant == "rnn" else np.maximum(a, 0)}
    if variant.startswith("lstm"):
        a_i, a_f, a_g, a_o = np.split(W @ x + b + U @ h + d, 4)
        p_i, p_f, p_o = p.get("peephole", np.zeros((3, H)))
        i, f, g = sigmoid(a_i + p_i * c), sigmoid(a_f + p_f * c), np.tanh(a_g)
        c = f * c + i * g
        return {"i": i, "f": f, "g": g, "o": sigmoid(a_o + p_o * c), "c": c}
    r, z = np.split(sigmoid((W @ x + b + U @ h + d)[: 2 * H]), 2)
    hn = U[2 * H :] @ h + d[2 * H :]
    if "before" in variant:
        return {"r": r, "z": z, "n": np.tanh((W @ x + b)[2 * H :] + U[2 * H :] @ (r * h) + d[2 * H :])}
    return {"r": r, "z": z, "n": np.tanh((W @ x + b)[2 * H :] + r * hn), "hn": hn}


def step_by_reference(layer: Any, suffix: str, x: np.ndarray, h: np.ndarray, c: Any) -> tuple[dict, Any, Any]:
    """One step of one direction: the gates, h and c, by the reference engine's step for this cell."""
    w = Weights(**{name.removesuffix(suffix): value for name, value in layer.params.items() if name.endswith(suffix)})
    c = None if c is None else c[None]
    h, c, recorded = STEP[layer.cell.native](layer.cell, w, x[None], h[None], c)
    gates = dict(zip(layer.cell.recorded, (gate[0] for gate in recorded), strict=True))
    gates |= dict(zip(layer.cell.states[1:], np.split(c[0], layer.cell.has_c), strict=True)) if layer.cell.has_c else {}
    return gates or {"h": h[0]}, h[0], None if c is None else c[0]


class TestGates:
    @pytest.mark.parametrize("direction", [0, 1])
    @pytest.mark.parametrize("layer_index", [0, 1])
    def test_values(
        self, engine: str, build: Callable, variant: str, layer_index: int, direction: int, rng: np.random.Generator
    ) -> None:
        """At every step, in both layers and directions: a loop by hand, from the x and h that each step saw."""
        layer = build(3, 5, num_layers=2, bidirectional=True, dtype=np.float64)
        call = random_call(layer, 6, 3, rng)
        lengths = [6, 0, 4]
        tape = layer.forward(call.x, call.state, lengths=lengths)[2]
        gates = tape.gates(layer_index, direction)
        assert list(gates) == names_of(layer, variant)
        by_hand = {*variant.split("-")} <= {*"-".join(NAMES).split("-"), *OPTIONS}
        x = call.x
        if layer_index == 1:  # what layer 0 puts out, from a layer of its own
            bottom = build(3, 5, bidirectional=True, dtype=np.float64)
            bottom.params = {name: layer.params[name] for name in bottom.params}
            x, _ = bottom(call.x, first_half(call.state), lengths=lengths)
        suffix = f"_l{layer_index}" + "_reverse" * direction
        k = 2 * layer_index + direction
        for b, length in enumerate(lengths):
            h, *others = (part[k, b] for part in parts(call.state))
            c = np.concatenate(others) if others else None
            for t in reversed(range(length)) if direction else range(length):
                if by_hand:
                    expected = gates_by_hand(layer, variant, suffix, x[t, b], h, c)
                    h, c = self.next_state(layer, variant, suffix, expected, h)
                else:
                    expected, h, c = step_by_reference(layer, suffix, x[t, b], h, c)
                for name, value in expected.items():
                    assert_close(gates[name][t, b], value, name=f"{name} at {t}, {b}")
            for name in gates:
                assert (gates[name][length:, b] == 0).all(), "zero past the end"

    def next_state(self, layer: Any, variant: str, suffix: str, gates: dict, h: np.ndarray) -> tuple[Any, Any]:
        if "h" in gates:
            return gates["h"], None
        if "c" in gates:
            h = gates["o"] * np.tanh(gates["c"])
            return (layer.params[f"weight_hr{suffix}"] @ h if "proj" in variant else h), gates["c"]
        z = 1 - gates["z"] if "replace" in variant else gates["z"]
        return (1 - z) * gates["n"] + z * h, None

    @pytest.mark.parametrize("options", [{}, {"batch_first": True}])
    def test_are_read_only_views_of_steps_rows_units(
        self, engine: str, build: Callable, variant: str, options: dict, rng: np.random.Generator
    ) -> None:
        layer = build(3, 5, **options)
        y, _, tape = layer.forward(random_call(layer, 4, 2, rng).x)
        before = y.copy()
        for name, gate in tape.gates().items():
            assert gate.shape == (4, 2, 5), name
            assert gate.dtype == layer.dtype
            with pytest.raises(ValueError, match="read-only"):
                gate[0] = 0
            assert np.shares_memory(gate, tape.gates()[name]), "views, not copies"
        np.testing.assert_array_equal(y, before)
        y[0] = 1  # y itself stays the caller's to write

    def test_of_an_unbatched_run_have_a_batch_of_one(self, engine: str, build: Callable) -> None:
        tape = build(3, 5).forward(np.zeros((4, 3), np.float32))[2]
        assert {gate.shape for gate in tape.gates().values()} == {(4, 1, 5)}

    def test_of_no_steps(self, engine: str, build: Callable) -> None:
        tape = build(3, 5).forward(np.zeros((0, 2, 3), np.float32))[2]
        assert {gate.shape for gate in tape.gates().values()} == {(0, 2, 5)}

    @pytest.mark.parametrize(("layer", "direction"), [(2, 0), (0, 2), (-1, 0), (0, -1)])
    def test_that_are_not_there(self, engine: str, layer: int, direction: int) -> None:
        tape = fastrnn.GRU(3, 5, num_layers=2, bidirectional=True).forward(np.zeros((4, 2, 3), np.float32))[2]
        with pytest.raises(IndexError, match=r"^(layer|direction): expected"):
            tape.gates(layer, direction)


def first_half(state: Any) -> Any:
    return tuple(part[:2] for part in state) if isinstance(state, tuple) else state[:2]


class TestMemory:
    T, B, H = 300, 8, 32

    def owned(self, layer: Any) -> int:
        """Bytes that a tape keeps alive beyond what the caller has."""
        x = np.zeros((self.T, self.B, 16), np.float32)
        layer.forward(x)  # whatever is made once is made now
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        y, state, tape = layer.forward(x)
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert tape is not None
        return after - before - y.nbytes - sum(part.nbytes for part in parts(state))

    @pytest.mark.parametrize(
        ("cell", "options", "values"),
        [
            pytest.param(fastrnn.RNN, {}, 0, id="RNN: nothing but y"),
            pytest.param(fastrnn.GRU, {}, 4, id="GRU: G*H and H more for reset_after"),
            pytest.param(fastrnn.GRU, {"reset_after": False}, 3, id="GRU: G*H"),
            pytest.param(fastrnn.LSTM, {}, 5, id="LSTM: (G+1)*H"),
            pytest.param(fastrnn.LSTM, {"peephole": True, "proj_size": 16}, 5, id="LSTM: (G+1)*H with all options"),
            pytest.param(fastrnn.LSTM, {"bidirectional": True}, 10, id="LSTM: that for each direction"),
            pytest.param(fastrnn.GRU, {"num_layers": 2}, 4 + 1 + 4, id="GRU: H between layers"),
            pytest.param(
                fastrnn.GRU,
                {"num_layers": 2, "bidirectional": True},
                2 * (4 + 1 + 4),
                id="GRU: H for each direction",
            ),
            pytest.param(fastrnn.GRU, {"num_layers": 2, "dropout": 0.5}, 4 + 1 + 4, id="GRU: nothing for dropout"),
            pytest.param(
                fastrnn.LSTM, {"layer_norm": "separate"}, 5 + 8 + 4 / 32, id="LSTM: what was normalised, and 4 values"
            ),
            pytest.param(fastrnn.LSTM, {"layer_norm": "sum"}, 5 + 4 + 6 / 32, id="LSTM: what was normalised, and 6"),
        ],
    )
    def test_is_what_the_docstring_says(self, engine: str, cell: Callable, options: dict, values: int) -> None:
        stated = self.T * self.B * self.H * 4 * values
        owned = self.owned(cell(16, self.H, rng=0, **options))
        slack = 16 * 1024  # objects, and states of a row each
        assert stated - 1024 <= owned <= stated + slack, (stated, owned)

    def test_it_keeps_no_copy_of_x(self, engine: str) -> None:
        layer = fastrnn.RNN(16, 4, rng=0)
        x = np.zeros((self.T, self.B, 16), np.float32)
        tracemalloc.start()
        y, _, _tape = layer.forward(x)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert held < y.nbytes + x.nbytes // 4


class TestBackward:
    def test_twice_gives_the_same_bits(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        layer = build(17, 33, num_layers=2, bidirectional=True, dropout=0.3)
        call = random_call(layer, 9, 13, rng, lengths=True, resets=True)
        tape = layer.forward(call.x, call.state, lengths=call.lengths, resets=call.resets)[2]
        first, second = (flat(layer.backward(tape, call.dy, call.dstate)) for _ in range(2))
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)
            assert not np.shares_memory(a, b)

    def test_modifies_neither_tape_nor_arguments_nor_parameters(
        self, engine: str, build: Callable, rng: np.random.Generator
    ) -> None:
        layer = build(3, 5, num_layers=2, bidirectional=True)
        call = random_call(layer, 4, 2, rng, lengths=True)
        y, _, tape = layer.forward(call.x, call.state, lengths=call.lengths)
        watched = [y, *call.arrays(), *layer.params.values()]
        watched += [gate for k in range(4) for gate in tape.gates(k // 2, k % 2).values()]
        before = [a.copy() for a in watched]
        layer.backward(tape, call.dy, call.dstate)
        for a, b in zip(watched, before, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_without_the_gradient_in_x_the_others_are_the_same(
        self, engine: str, build: Callable, rng: np.random.Generator
    ) -> None:
        for options in ({}, {"num_layers": 2, "bidirectional": True, "batch_first": True}):
            layer = build(17, 33, **options)
            call = random_call(layer, 9, 13, rng, lengths=True)
            tape = layer.forward(call.x, call.state, lengths=call.lengths)[2]
            whole, rest = (layer.backward(tape, call.dy, call.dstate, wants_x=wants_x) for wants_x in (True, False))
            assert rest.x is None
            for a, b in zip(flat(whole)[1:], flat(rest)[1:], strict=True):
                np.testing.assert_array_equal(a, b)
        with pytest.raises(TypeError, match="wants_x: expected"):
            layer.backward(tape, call.dy, wants_x=1)

    def test_tapes_in_any_order(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        """Of runs of different shapes, differentiated late, out of order, with other runs in between."""
        layer = build(3, 5, num_layers=2)
        calls = [random_call(layer, T, B, rng) for T, B in [(4, 2), (1, 7), (6, 3)]]
        expected = [gradients(layer, call) for call in calls]
        tapes = [layer.forward(call.x, call.state)[2] for call in calls]
        for k in (1, 2, 0, 1):
            layer(calls[2].x)
            actual = flat(layer.backward(tapes[k], calls[k].dy, calls[k].dstate))
            for a, b in zip(actual, expected[k], strict=True):
                np.testing.assert_array_equal(a, b)

    def test_uses_the_parameters_of_its_run(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        """Parameters that were replaced since (not changed in place) do not matter."""
        layer = build(3, 5)
        call = random_call(layer, 4, 2, rng)
        expected = gradients(layer, call)
        tape = layer.forward(call.x, call.state)[2]
        layer.params = {name: value + 1 for name, value in layer.params.items()}
        for a, b in zip(flat(layer.backward(tape, call.dy, call.dstate)), expected, strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("options", [{}, {"batch_first": True, "bidirectional": True, "num_layers": 2}])
    def test_what_the_caller_does_to_array_objects_is_his(
        self, engine: str, build: Callable, options: dict, rng: np.random.Generator
    ) -> None:
        """Another shape or dtype of y, x and the state, which are the same memory: the tape has arrays of its own."""
        layer = build(3, 5, **options)
        call = random_call(layer, 4, 2, rng)
        dy = rng.standard_normal(layer(call.x)[0].shape).astype(layer.dtype)
        expected = layer.backward(layer.forward(call.x, call.state)[2], dy)
        x, state = call.x.copy(), call.state
        y, _, tape = layer.forward(x, state)
        for a in (y, x, *(state if isinstance(state, tuple) else (state,))):
            a.shape = (-1,) if a.flags.c_contiguous else a.shape
            a.dtype = np.uint8
        actual = layer.backward(tape, dy)
        np.testing.assert_array_equal(actual.x, expected.x)
        for name, gradient in expected.params.items():
            np.testing.assert_array_equal(actual.params[name], gradient)

    def test_of_parameters_whose_shape_was_assigned(self, compiled: str, rng: np.random.Generator) -> None:
        """The memory is the same, and so are the gradients."""
        layer = fastrnn.LSTM(3, 5, rng=0)
        x = rng.standard_normal((4, 2, 3), np.float32)
        y, _, tape = layer.forward(x)
        expected = layer.backward(tape, y)
        for a in layer.params.values():
            a.shape = (-1,)
            a.dtype = np.complex64 if a.size % 2 == 0 else np.int32
        actual = layer.backward(tape, y)
        for name, gradient in expected.params.items():
            np.testing.assert_array_equal(actual.params[name], gradient)

    def test_accumulates_nothing(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        """It is linear in the gradients that it is given."""
        layer = build(3, 5, num_layers=2, bidirectional=True, dtype=np.float64)
        call = random_call(layer, 4, 2, rng)
        tape = layer.forward(call.x, call.state)[2]
        one = flat(layer.backward(tape, call.dy, call.dstate))
        two = flat(layer.backward(tape, 2 * call.dy, twice(call.dstate)))
        for a, b in zip(one, two, strict=True):
            assert_close(2 * a, b, "gradient")

    def test_the_engine_of_the_run_differentiates_it(self, build: Callable, rng: np.random.Generator) -> None:
        """A record of one engine need mean nothing to another."""
        layer = build(3, 5)
        call = random_call(layer, 4, 2, rng)
        for engine in fastrnn.engines.available():
            with fastrnn.engines.use(engine):
                expected = gradients(layer, call)
                tape = layer.forward(call.x, call.state)[2]
            for other in fastrnn.engines.available():
                with fastrnn.engines.use(other):
                    actual = flat(layer.backward(tape, call.dy, call.dstate))
                for a, b in zip(actual, expected, strict=True):
                    np.testing.assert_array_equal(a, b)

    def test_names_of_gradients_are_those_of_parameters(self, engine: str, build: Callable) -> None:
        layer = build(3, 5, num_layers=2, bidirectional=True)
        y, _, tape = layer.forward(np.ones((4, 2, 3), np.float32))
        grads = layer.backward(tape, np.ones_like(y))
        assert list(grads.params) == list(layer.params)
        for name, param in layer.params.items():
            assert grads.params[name].shape == param.shape
            assert grads.params[name].dtype == param.dtype


def gradients(layer: Any, call: Call) -> list[np.ndarray]:
    return flat(layer.backward(layer.forward(call.x, call.state)[2], call.dy, call.dstate))


def flat(grads: fastrnn.Gradients) -> list[np.ndarray]:
    return [grads.x, *parts(grads.state), *grads.params.values()]


def twice(state: Any) -> Any:
    """Twice the state."""
    return tuple(2 * part for part in state) if isinstance(state, tuple) else 2 * state
