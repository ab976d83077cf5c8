"""Training in less memory: a tape of states gives what one that keeps all gives, in the packed engine to the bit."""

import gc
from typing import Any

import numpy as np
import pytest
from generators import Case, build_layer, cases, random_call
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import train
from tolerances import assert_results_close

import fastrnn
from fastrnn import nn, segments
from fastrnn._core import native
from fastrnn.bench.memory import arrays_in, size_of
from fastrnn.data import Batch

KEEPS = st.sampled_from(["states", 1, 65, 256, 300])
# The engines sum over up to 256 steps before a run may be cut.
LENGTHS = st.sampled_from([1, 255, 256, 257, 512, 600])


def assert_same(actual: dict[str, NDArray], expected: dict[str, NDArray]) -> None:
    assert actual.keys() == expected.keys()
    for name, a in actual.items():
        np.testing.assert_array_equal(a.view(f"u{a.itemsize}"), expected[name].view(f"u{a.itemsize}"), err_msg=name)


def is_cut(layer: Any, call: Any, keep: Any) -> bool:
    return isinstance(layer.forward(call.x, call.state, **call.steps, keep=keep)[2]._kept, segments.Kept)


@given(
    case=cases(T=600, B=3, hidden_size=5, input_size=3), T=LENGTHS, B=st.sampled_from([1, 2, 5]), keep=KEEPS,
    dropout=st.sampled_from([0, 0.4]), noisy=st.booleans(), learnt=st.booleans(),
)  # fmt: skip
def test_the_same_bits(case: Case, T: int, B: int, keep: Any, dropout: float, noisy: bool, learnt: bool) -> None:
    case.T, case.B = T, B if case.batched else 1
    learnt = learnt and not case.resets
    case.state = case.state and not learnt
    noisy = noisy and case.variant.startswith(("rnn", "lstm", "gru"))  # the others have no such options
    noises = dict.fromkeys(("zoneout", "input_dropout", "state_dropout", "weight_dropout") if noisy else (), 0.3)
    layer = case.layer(dropout=dropout, learn_initial_state=learnt, **noises)
    if learnt:
        for name in layer.params:
            if name.startswith("initial"):
                layer.params[name][...] = 0.3
    call = case.call(layer)
    with fastrnn.engines.use("packed"):
        layer._rng, again = np.random.default_rng(1), np.random.default_rng(1)
        expected = train(layer, call)
        layer._rng = again
        assert_same(train(layer, call, keep=keep), expected)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["input_dropout", "state_dropout", "weight_dropout", "candidate_dropout", "zoneout"])
def test_the_same_masks(name: str, bidirectional: bool, num_layers: int) -> None:
    layer = fastrnn.GRU(3, 5, num_layers, bidirectional=bidirectional, rng=0, **{name: 0.3})
    call = random_call(layer, 300, 2, np.random.default_rng(1))
    assert is_cut(layer, call, 256)
    with fastrnn.engines.use("packed"):
        tapes = []
        for keep in ("all", "states"):
            layer._rng = np.random.default_rng(1)
            tapes.append(train(layer, call, keep=keep))
    assert_same(tapes[1], tapes[0])


def test_every_cell_is_cut_where_it_may_be(variant: str) -> None:
    """Where the engine's sums over steps may be: at 256 of them in a batch so small, at fewer of 70 rows."""
    for B in (2, 70):
        for options in ({}, {"num_layers": 2}, {"bidirectional": True}):
            layer = build_layer(variant, 3, 40, **options)
            with fastrnn.engines.use("packed"):
                n = max(fastrnn.engines.current().backward_steps(cell, B) for cell in layer._stack.cells)
                assert n == 256 if B == 2 else n < 256
                call = random_call(layer, 2 * n + 1, B, np.random.default_rng(3), lengths=True, resets=True)
                call.lengths[0] = 2 * n + 1
                if not is_cut(layer, call, 1):
                    assert variant.startswith("rnn")
                    assert options.get("num_layers", 1) == 1
                    continue
                kept = layer.forward(call.x, call.state, **call.steps, keep=1)[2]._kept
                assert kept.num_steps == n
                assert all(len(states) == 3 for states in kept.states)
                assert_same(train(layer, call, keep=1), train(layer, call))


def test_blocks_of_rows() -> None:
    """Steps so wide that a batch is run in blocks of rows: sums go over the blocks of each chunk of time."""
    layer = fastrnn.LSTM(90_000, 1, rng=0)
    call = random_call(layer, 3, 25, np.random.default_rng(0), lengths=True)
    call.lengths[:9] = 3
    assert is_cut(layer, call, 1)
    assert_same(train(layer, call, keep=1), train(layer, call))


@pytest.mark.parametrize("split", ["rows", "units"])
def test_the_same_bits_for_any_number_of_threads(split: str) -> None:
    layer = fastrnn.GRU(5, 70, num_layers=2, bidirectional=True, dropout=0.3, rng=0)
    call = random_call(layer, 100, 33, np.random.default_rng(0), lengths=True, resets=True)
    native.insist_on_teams(split)
    try:
        with fastrnn.engines.use("packed"):
            assert is_cut(layer, call, "states")
            expected = None
            for threads in (1, 3):
                layer._rng = np.random.default_rng(4)
                with fastrnn.num_threads(threads):
                    actual = train(layer, call, keep="states")
                expected = expected or actual
                assert_same(actual, expected)
            layer._rng = np.random.default_rng(4)
            assert_same(train(layer, call), expected)
    finally:
        native.insist_on_teams(None)


@settings(max_examples=10)
@given(case=cases(T=9, hidden_size=5, input_size=3), keep=st.sampled_from(["states", 1, 2, 5]))
def test_the_reference_agrees(case: Case, keep: Any) -> None:
    layer = case.layer()
    call = case.call(layer)
    with fastrnn.engines.use("reference"):
        assert_results_close(train(layer, call, keep=keep), train(layer, call))


def test_blas_agrees() -> None:
    layer = fastrnn.LSTM(5, 40, num_layers=2, rng=0)
    call = random_call(layer, 300, 20, np.random.default_rng(0), lengths=True, resets=True)
    with fastrnn.engines.use("blas"):
        assert is_cut(layer, call, "states")
        assert_results_close(train(layer, call, keep="states"), train(layer, call))


def test_special_values() -> None:
    """Of two runs to the same bits, also where they are not finite."""
    layer = fastrnn.LSTM(3, 5, rng=0)
    x = np.random.default_rng(0).standard_normal((600, 4, 3)).astype(np.float32)
    x[300, 1], x[100, 2], x[599, 3] = np.nan, np.inf, -np.inf
    call = random_call(layer, 600, 4, np.random.default_rng(1))
    call.x = x
    actual, expected = train(layer, call, keep=256), train(layer, call)
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


def test_only_some_gradients() -> None:
    layer = fastrnn.LSTM(3, 5, num_layers=2, bidirectional=True, rng=0)
    call = random_call(layer, 600, 4, np.random.default_rng(1))
    tapes = [layer.forward(call.x, keep=keep)[2] for keep in ("all", "states")]
    for dy, dstate in ((call.dy, None), (None, call.dstate)):
        expected, actual = (layer.backward(tape, dy, dstate, wants_x=False) for tape in tapes)
        assert actual.x is None
        assert_same(actual.params, expected.params)


def test_backward_is_pure() -> None:
    layer = fastrnn.GRU(3, 5, num_layers=2, dropout=0.5, rng=0)
    call = random_call(layer, 600, 4, np.random.default_rng(1))
    _, _, tape = layer.forward(call.x, keep="states")
    first, second = (layer.backward(tape, call.dy) for _ in range(2))
    np.testing.assert_array_equal(first.x, second.x)
    assert_same(first.params, second.params)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"batch_first": True}])
@pytest.mark.parametrize("masked", [False, True])
def test_gates_are_computed_again(options: dict[str, Any], masked: bool) -> None:
    layer = fastrnn.LSTM(3, 5, num_layers=2, dropout=0.5, rng=0, **options)
    call = random_call(layer, 600, 4, np.random.default_rng(1), mask=masked)
    tapes = [layer.forward(call.x, mask=call.mask, rng=9, keep=keep)[2] for keep in ("all", "states")]
    for layer_index in (0, 1):
        expected, actual = (tape.gates(layer_index) for tape in tapes)
        assert_same({k: np.ascontiguousarray(a) for k, a in actual.items()}, expected)
        assert not any(a.flags.writeable for a in actual.values())
    np.testing.assert_array_equal(tapes[0].lengths, tapes[1].lengths)


def test_a_tape_of_states_is_small() -> None:
    """Of 2,000 steps: states every 64 of them, and nothing of what the layers compute between."""
    layer = fastrnn.LSTM(8, 64, num_layers=2, rng=0)
    x = np.zeros((2000, 16, 8), np.float32)
    sizes = {}
    for keep in ("all", "states"):
        y, state, tape = layer.forward(x, keep=keep)
        sizes[keep] = size_of(arrays_in(tape), without=[x, y, *state, *layer.params.values()])
        del y, state, tape
        gc.collect()
    assert sizes["all"] > 2000 * 16 * 64 * 4 * 11
    assert sizes["states"] < 0.01 * sizes["all"]


def test_a_tape_of_states_does_not_hold_the_output() -> None:
    layer = fastrnn.LSTM(3, 5, rng=0)
    y, _, tape = layer.forward(np.zeros((600, 4, 3), np.float32), keep="states")
    assert not any(np.shares_memory(y, a) for a in arrays_in(tape))


def test_a_layer_may_keep_states_by_itself() -> None:
    layer = fastrnn.LSTM(3, 5, rng=0)
    assert layer.keep == "all"
    layer.keep = "states"
    call = random_call(layer, 600, 4, np.random.default_rng(1))
    assert is_cut(layer, call, None)
    assert not is_cut(layer, call, "all")


@pytest.mark.parametrize("keep", ["none", 0, -3, 2.5, True, ["all"]])
def test_a_wrong_keep_is_named(keep: Any) -> None:
    layer = fastrnn.LSTM(3, 5, rng=0)
    with pytest.raises((TypeError, ValueError), match=r'^keep: expected "all", "states" or a number of steps'):
        layer.forward(np.zeros((2, 1, 3), np.float32), keep=keep)
    with pytest.raises((TypeError, ValueError), match=r'^keep: expected "all", "states" or a number of steps'):
        layer.keep = keep


def test_models_train_in_less_memory() -> None:
    rng = np.random.default_rng(0)
    model = nn.ManyToMany(fastrnn.LSTM(4, 6, 2, dropout=0.3, rng=0), nn.Linear(6, 5, rng=1), nn.Embedding(5, 4, rng=2))
    ids = rng.integers(0, 5, (601, 3))
    batch = Batch(ids[:-1], y=ids[1:])
    assert model.keep == "all"
    losses = {}
    for keep in ("all", "states"):
        model.keep = keep
        assert model.keep == model.rnn.keep == keep
        losses[keep] = model.loss_and_grads(batch, rng=7)
    assert losses["all"].value == losses["states"].value
    for name, gradient in losses["all"].grads.items():
        np.testing.assert_array_equal(np.asarray(losses["states"].grads[name]), np.asarray(gradient), err_msg=name)
    with pytest.raises(ValueError, match=r'^keep: expected "all"'):
        model.keep = "none"


def test_all_parts_of_a_model_keep_the_same() -> None:
    decoder = nn.Decoder(nn.Embedding(9, 3), fastrnn.GRU(3, 4), nn.Linear(4, 9), nn.Linear(4, 4))
    model = nn.EncoderDecoder(fastrnn.GRU(3, 4), decoder, nn.Embedding(9, 3))
    model.keep = 300
    assert model.encoder.keep == decoder.rnn.keep == decoder.keep == 300
    decoder.keep = "all"
    assert model.keep == {"encoder": 300, "decoder": "all"}
