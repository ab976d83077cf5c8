"""What is random within layers in training: the right values, reproducible, with their expectation and gradients."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from differences import central_differences
from generators import random_call
from numpy.typing import NDArray
from oracle import Call, infer, named_state, oracle, parts, train
from running import output_of
from tolerances import assert_close, assert_results_close

import fastrnn
from fastrnn import engines, run
from fastrnn._core import native
from fastrnn.arguments import arguments, weights
from fastrnn.engines import memory, philox
from fastrnn.engines.seam import ForwardArgs
from fastrnn.noise import Noise

DROPOUTS = ("input_dropout", "state_dropout", "candidate_dropout", "weight_dropout")
GATED = {"candidate_dropout": 0.2}
CELLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "rnn": (fastrnn.RNN, {}),
    "lstm": (fastrnn.LSTM, {"proj_size": 2, "peephole": True, "zoneout_cell": 0.25} | GATED),
    "lstm-coupled": (fastrnn.LSTM, {"coupled": True, "layer_norm": "sum", "zoneout_cell": 0.25} | GATED),
    "gru": (fastrnn.GRU, GATED),
    "gru-before": (fastrnn.GRU, {"reset_after": False, "layer_norm": "separate"} | GATED),
}


@pytest.fixture(params=CELLS)
def noisy(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Build a layer that has all that its cell may have: ``noisy(I, H, **options)``."""
    cell, own = CELLS[request.param]
    options = {"input_dropout": 0.2, "state_dropout": 0.3, "weight_dropout": 0.3, "zoneout": 0.3, "rng": 0} | own
    return lambda *sizes, **more: cell(*sizes, **(options | more))


@pytest.mark.parametrize("name", DROPOUTS)
def test_inference_knows_nothing_of_dropout(engine: str, name: str, rng: np.random.Generator) -> None:
    plain, dropping = fastrnn.GRU(3, 5, num_layers=2, rng=0), fastrnn.GRU(3, 5, num_layers=2, rng=0, **{name: 0.5})
    call = random_call(plain, 6, 4, rng)
    expected = infer(plain, call)
    for layer in (dropping, dropping.freeze()):
        assert_results_close(infer(layer, call), expected)
    assert (train(dropping, call)["y"] != expected["y"]).any()


@pytest.mark.parametrize("name", DROPOUTS)
def test_a_probability_may_be_assigned_and_is_checked(name: str) -> None:
    layer = fastrnn.LSTM(3, 5, rng=0, **{name: 0.25})
    assert getattr(layer, name) == 0.25
    assert f"{name}=0.25" in repr(layer)
    setattr(layer, name, 0)
    assert name not in repr(layer)
    for wrong, error in ((1.0, ValueError), (-0.1, ValueError), ("0.1", TypeError), (True, TypeError)):
        with pytest.raises(error, match=f"^{name}: expected"):
            setattr(layer, name, wrong)
        with pytest.raises(error, match=f"^{name}: expected"):
            fastrnn.LSTM(3, 5, **{name: wrong})


def test_a_seed_reproduces_it_and_a_call_draws_one_key(engine: str, noisy: Callable, rng: np.random.Generator) -> None:
    layer = noisy(3, 5, num_layers=2, bidirectional=True)
    x = rng.standard_normal((6, 4, 3), np.float32)
    (y, _, _), (again, _, _), (other, _, _) = (layer.forward(x, rng=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(again, y)
    assert (other != y).any()
    drawn, expected = np.random.default_rng(7), np.random.default_rng(7)
    layer.forward(x, rng=drawn)
    expected.integers(1 << 64, dtype=np.uint64)
    assert drawn.bit_generator.state == expected.bit_generator.state


@pytest.mark.parametrize("steps", [{"lengths": True, "resets": True}, {"mask": True, "resets": True}])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_engine_agrees_with_the_reference(
    compiled: str, noisy: Callable, steps: dict, dtype: type, rng: np.random.Generator
) -> None:
    for size, B, options in (((3, 5), 4, {"num_layers": 2, "bidirectional": True}), ((17, 83), 3, {})):
        layer = noisy(*size, dtype=dtype, **options)
        call = random_call(layer, 5, B, rng, **steps)
        expected = oracle(layer, call)  # of the numbers that the next run draws
        assert_results_close(train(layer, call), expected)


def test_gradients_against_central_differences(noisy: Callable) -> None:
    """Under one mask: every run starts from the same state of the random numbers. (Other engines agree: see above.)"""
    layer = noisy(2, 3, num_layers=2, dtype=np.float64)
    call = random_call(layer, 5, 3, np.random.default_rng(5), mask=True, resets=True)
    start = layer._rng.bit_generator.state

    def loss() -> NDArray:
        layer._rng.bit_generator.state = start
        y, state, _ = layer.forward(call.x, call.state, **call.steps)
        of_state = sum((d * s).sum() for d, s in zip(parts(call.dstate), parts(state), strict=True))
        return np.array([(call.dy * y).sum() + of_state])

    layer._rng.bit_generator.state = start
    exact = train(layer, call)
    variables = {"grad x": call.x} | {f"grad {name}": value for name, value in layer.params.items()}
    variables |= dict(zip(("grad h0", "grad c0"), parts(call.state), strict=False))
    for name, numeric in central_differences(loss, variables).items():
        assert_close(exact[name], numeric[0], "difference", name)


# ---- The same bits -------------------------------------------------------------------------------------------------


@pytest.fixture
def packed() -> Iterator[None]:
    with engines.use("packed"):
        yield
    native.insist_on_teams(None)


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize("size", [(17, 83), (70, 64)])
def test_any_number_of_threads_has_the_same_bits(noisy: Callable, size: tuple[int, int]) -> None:
    layer = noisy(*size, bidirectional=True)
    x = np.random.default_rng(5).standard_normal((6, 13, size[0])).astype(np.float32)

    def found(threads: int) -> list[NDArray]:
        with fastrnn.num_threads(threads):
            y, state, tape = layer.forward(x, lengths=np.arange(13) % 7, rng=3)
            grads = layer.backward(tape, y, state)
        return [y, *parts(state), grads.x, *parts(grads.state), *grads.params.values()]

    expected = found(1)
    for split, threads in (("rows", 2), ("units", 2), ("units", 5)):
        native.insist_on_teams(split)
        for actual, same in zip(found(threads), expected, strict=True):
            np.testing.assert_array_equal(actual, same)


@pytest.mark.usefixtures("packed")
def test_a_row_has_the_same_bits_in_any_batch(noisy: Callable, rng: np.random.Generator) -> None:
    """Rows keep their numbers: those of a smaller batch are the first of a larger one."""
    layer = noisy(3, 20)
    x, lengths = rng.standard_normal((6, 9, 3), np.float32), rng.integers(1, 7, 9)
    y = layer.forward(x, lengths=lengths, rng=7)[0]
    for B in (1, 4):
        np.testing.assert_array_equal(layer.forward(x[:, :B], lengths=lengths[:B], rng=7)[0], y[:, :B])


def test_time_may_be_cut_anywhere(engine: str, noisy: Callable, rng: np.random.Generator) -> None:
    """A run that begins at another step than the first, from the state that was left there, draws the same masks."""
    layer = noisy(3, 20)
    x = rng.standard_normal((7, 4, 3), np.float32)
    stack, using = layer._stack, engines.current()
    args = arguments(stack, x, None, None, None, None, "zero")
    noise = Noise(99, layer._dropouts, using.operations)
    prepared = run.prepare(stack, using, weights(stack, layer.params))

    def pieces(cuts: list[int]) -> tuple[NDArray, list[NDArray]]:
        h, c = args.h0[0].copy(), None if args.c0 is None else args.c0[0].copy()
        y, record = np.empty((7, 4, layer.output_size), np.float32), memory.new_record(layer.cell, 7, 4)
        for start, end in zip([0, *cuts], [*cuts, 7], strict=True):
            part = args.part(start, end - start)
            recorded = type(record)(*(None if a is None else a[start:end] for a in record))
            drawn = noise.steps(0, layer.cell, part)
            using.forward(
                [ForwardArgs(prepared[0], part.steps(False), part.x, h, c, y[start:end], h, c, recorded, drawn)]
            )
        kept = (h, c, record.gates, record.cells, record.fresh)
        return y, [a for a in kept if a is not None]

    expected, kept = pieces([])
    for cuts in ([1], [3, 5]):
        y, again = pieces(cuts)
        for actual, same in zip([y, *again], [expected, *kept], strict=True):
            if engine == "packed":
                np.testing.assert_array_equal(actual, same)
            assert_close(actual, same)


@pytest.mark.parametrize("B", [1, 3])
def test_every_instruction_set_draws_the_same_masks(isa: str, noisy: Callable, B: int) -> None:
    layer = noisy(5, 83, num_layers=2)
    call = random_call(layer, 4, B, np.random.default_rng(5), lengths=True)
    expected = oracle(layer, call)
    assert_results_close(train(layer, call), expected)


GUARDED = """
    import numpy as np
    import fastrnn
    from fastrnn._core import native
    from generators import random_call
    from guards import PLACES, guarded, guarded_results
    from oracle import infer, oracle, train
    from tolerances import assert_results_close

    native.insist_on_teams("units")
    noise = {"input_dropout": 0.2, "state_dropout": 0.3, "weight_dropout": 0.3, "zoneout": 0.3}
    for cell, own in (
        (fastrnn.RNN, {}), (fastrnn.LSTM, {"proj_size": 9, "candidate_dropout": 0.3, "zoneout_cell": 0.2}),
        (fastrnn.GRU, {"reset_after": False, "candidate_dropout": 0.3}),
    ):
        for (I, H, B), place in zip([(3, 17, 2), (17, 83, 7)] * len(PLACES), 2 * list(PLACES)):
            layer = cell(I, H, bidirectional=B == 2, **noise, **own)
            call = random_call(layer, 5, B, np.random.default_rng(0), lengths=True, resets=True)
            expected = oracle(layer, call)
            layer.params = {name: guarded(value, place) for name, value in layer.params.items()}
            call = call.map(lambda a: guarded(a, place))
            with guarded_results(place):
                assert_results_close(train(layer, call), expected)
                infer(layer, call)
    print("fine")
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_is_touched_outside_of_arrays(compiled: str, threads: int) -> None:
    environment = {"FASTRNN_ENGINE": compiled, "FASTRNN_NUM_THREADS": str(threads), "PYTHONFAULTHANDLER": "1"}
    assert output_of(GUARDED, **environment) == "fine\n"


def test_masked_steps_change_no_mask(engine: str, noisy: Callable, rng: np.random.Generator) -> None:
    """A sequence with masked steps is the sequence without them."""
    layer = noisy(3, 5, dtype=np.float64, bidirectional=True)
    x = rng.standard_normal((9, 4, 3))
    mask = rng.random((9, 4)) < [0.4, 0.9, 0.5, 0.7]
    y = layer.forward(x, mask=mask, rng=7)[0]
    moved = np.zeros_like(x)
    for b in range(4):
        moved[: mask[:, b].sum(), b] = x[mask[:, b], b]
    expected = layer.forward(moved, lengths=mask.sum(0), rng=7)[0]
    for b in range(4):
        assert_close(y[mask[:, b], b], expected[: mask[:, b].sum(), b])


# ---- Which values --------------------------------------------------------------------------------------------------


def assert_share(kept: NDArray, probability: float) -> None:
    """The share of values that stay is what chance gives, within six standard deviations; also along each axis."""
    assert abs(kept.mean() - (1 - probability)) < 6 * np.sqrt(probability * (1 - probability) / kept.size)
    for axis in range(kept.ndim):
        others = tuple(k for k in range(kept.ndim) if k != axis)
        n = kept.size / kept.shape[axis]
        assert np.abs(kept.mean(others) - (1 - probability)).max() < 6 * np.sqrt(probability * (1 - probability) / n)


@pytest.mark.parametrize("p", [0.1, 0.6])
def test_input_dropout_is_one_mask_for_a_sequence_of_each_layer(engine: str, p: float) -> None:
    """Layers that put out what they are given: y is the product of their masks."""
    layer = fastrnn.RNN(200, 200, nonlinearity="relu", input_dropout=p, rng=0)
    for param in layer.params.values():
        param[...] = 0
    layer.params["weight_ih_l0"][...] = np.eye(200)
    y, _, tape = layer.forward(np.ones((3, 100, 200), np.float32))
    kept = y[0] != 0
    np.testing.assert_allclose(y[0][kept], 1 / (1 - p), rtol=1e-6)
    np.testing.assert_array_equal(y[1:], y[:2])
    assert_share(kept, p)
    np.testing.assert_array_equal(layer.backward(tape, np.ones_like(y)).x, y)


@pytest.mark.parametrize("p", [0.1, 0.6])
def test_weight_dropout_is_one_mask_for_a_call(engine: str, p: float) -> None:
    """A layer of one step that shows U h0: with h0 = 1 it is a row's sum."""
    layer = fastrnn.RNN(1, 300, nonlinearity="relu", weight_dropout=p, num_layers=2, rng=0)
    for name, param in layer.params.items():
        param[...] = name.startswith("weight_hh")
    h0 = np.stack([np.eye(300, dtype=np.float32)] * 2)  # row b shows column b
    _, h, tape = layer.forward(np.zeros((1, 300, 1), np.float32), h0)
    kept = h != 0
    np.testing.assert_allclose(h[kept], 1 / (1 - p), rtol=1e-6)
    for mask in kept:
        assert_share(mask, p)
    assert abs((kept[0] == kept[1]).mean() - (p * p + (1 - p) ** 2)) < 0.02, "layers have masks of their own"
    grads = layer.backward(tape, None, np.ones_like(h))
    for k in range(2):
        np.testing.assert_array_equal(grads.params[f"weight_hh_l{k}"] != 0, kept[k].T)
    np.testing.assert_array_equal(layer.params["weight_hh_l0"], 1)


def recorded(layer: Any, x: NDArray, rng: int = 7) -> tuple[NDArray, dict[str, NDArray], Any]:
    y, _, tape = layer.forward(x, rng=rng)
    return y, tape.gates(), tape


@pytest.mark.parametrize("p", [0.1, 0.6])
def test_zoneout_keeps_units_of_h(engine: str, p: float, rng: np.random.Generator) -> None:
    """h stays bit for bit; the next step, another row and another unit draw anew."""
    y, gates, _ = recorded(fastrnn.GRU(3, 100, zoneout=p, rng=0), rng.standard_normal((30, 40, 3), np.float32))
    before = np.concatenate([np.zeros_like(y[:1]), y[:-1]])
    kept = y == before
    new = (1 - gates["z"]) * gates["n"] + gates["z"] * before
    np.testing.assert_allclose(y[~kept], new[~kept], rtol=1e-5, atol=1e-6)
    assert_share(~kept, p)
    assert_share(kept[1:] == kept[:-1], 2 * p * (1 - p))
    assert_share(kept[:, 1:] == kept[:, :-1], 2 * p * (1 - p))
    assert_share(kept[..., 1:] == kept[..., :-1], 2 * p * (1 - p))


def test_zoneout_of_c_has_masks_of_its_own_and_h_sees_the_new_c(engine: str, rng: np.random.Generator) -> None:
    layer = fastrnn.LSTM(3, 100, zoneout=0.4, zoneout_cell=0.3, rng=0)
    y, gates, _ = recorded(layer, rng.standard_normal((20, 30, 3), np.float32))
    i, f, g, o, c = (gates[name] for name in "ifgoc")
    before = np.concatenate([np.zeros_like(c[:1]), c[:-1]])
    new = f * before + i * g
    kept_c, kept_h = c == before, y == np.concatenate([np.zeros_like(y[:1]), y[:-1]])
    np.testing.assert_allclose(c[~kept_c], new[~kept_c], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y[~kept_h], (o * np.tanh(new))[~kept_h], rtol=1e-5, atol=1e-6)
    assert_share(~kept_c, 0.3)
    assert_share(~kept_h, 0.4)
    assert_share(kept_c & kept_h, 1 - 0.3 * 0.4)


def test_state_dropout_is_one_mask_for_a_sequence(engine: str) -> None:
    """Units that copy themselves: where the mask is zero they are zero from the second step on."""
    layer = fastrnn.RNN(1, 200, nonlinearity="relu", state_dropout=0.5, rng=0)
    for param in layer.params.values():
        param[...] = 0
    layer.params["weight_hh_l0"][...] = np.eye(200)
    y, _, _ = layer.forward(np.zeros((4, 60, 1), np.float32), np.ones((1, 60, 200), np.float32))
    kept = y[0] != 0
    assert_share(kept, 0.5)
    for t in range(4):
        np.testing.assert_array_equal(y[t], np.where(kept, 2.0 ** (t + 1), 0))


def test_candidate_dropout_draws_at_each_step(engine: str, rng: np.random.Generator) -> None:
    y, gates, _ = recorded(
        fastrnn.LSTM(3, 100, candidate_dropout=0.4, rng=0), rng.standard_normal((20, 30, 3), np.float32)
    )
    written = gates["c"] - gates["f"] * np.concatenate([np.zeros_like(y[:1]), gates["c"][:-1]])
    kept = np.abs(written) > 1e-6
    assert_share(kept, 0.4)
    np.testing.assert_allclose(written[kept], (gates["i"] * gates["g"])[kept] / 0.6, rtol=1e-2, atol=1e-6)
    assert_share(kept[1:] == kept[:-1], 2 * 0.4 * 0.6)


# ---- Inference with zoneout ----------------------------------------------------------------------------------------


@pytest.fixture(params=["rnn", "lstm", "gru-before"])
def zoned(request: pytest.FixtureRequest) -> Callable[..., Any]:
    cell, own = CELLS[request.param]
    return lambda *sizes, **more: cell(*sizes, **({"zoneout": 0.3, "rng": 0} | own | more))


def test_it_is_the_expectation_of_a_step(engine: str) -> None:
    layer = fastrnn.LSTM(3, 5, zoneout=0.3, zoneout_cell=0.2, dtype=np.float64, rng=0)
    plain = fastrnn.LSTM(3, 5, dtype=np.float64, rng=0)
    h, c, x = (np.random.default_rng(k).standard_normal((1, 4, n)) for k, n in enumerate((5, 5, 3)))
    (_, (new_h, new_c)), (y, (h_n, c_n)) = plain(x, (h, c)), layer(x, (h, c))
    assert_close(h_n, 0.3 * h + 0.7 * new_h)
    assert_close(c_n, 0.2 * c + 0.8 * new_c)
    np.testing.assert_array_equal(y, h_n)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_layers_frozen_layers_and_streams_agree(engine: str, zoned: Callable, precision: str) -> None:
    layer = zoned(6, 40, num_layers=2)
    call = random_call(layer, 7, 3, np.random.default_rng(1))
    with engines.use("reference"):
        expected = infer(layer.freeze(precision), call)
    frozen = layer.freeze(precision)
    whole = infer(frozen, call)
    assert_results_close(whole, expected) if precision == "float32" else assert_close(
        whole["y"], expected["y"], precision
    )
    stream = frozen.stream(3)
    stream.state = call.state
    found = {"y": np.stack([stream.step(x) for x in call.x]), **named_state(stream.state)}
    for name, value in found.items():
        if engine == "packed":
            np.testing.assert_array_equal(value, whole[name])
        assert_close(value, whole[name], "value" if precision == "float32" else precision)


def test_it_knows_lengths_masks_and_resets(compiled: str, zoned: Callable, rng: np.random.Generator) -> None:
    layer = zoned(3, 20, bidirectional=True)
    for steps in ({"lengths": True, "resets": True}, {"mask": True, "resets": True}):
        call = random_call(layer, 6, 4, rng, **steps)
        with engines.use("reference"):
            expected = infer(layer, call)
        assert_results_close(infer(layer, call), expected)


def test_files_and_pickles_keep_it(zoned: Callable, tmp_path: Path, rng: np.random.Generator) -> None:
    layer = zoned(3, 8, state_dropout=0.25)
    call = Call(rng.standard_normal((5, 2, 3), np.float32))
    expected = infer(layer, call)["y"]
    for one in (layer, layer.freeze()):
        fastrnn.weights.save(tmp_path / "layer.npz", one)
        for back in (fastrnn.weights.load(tmp_path / "layer.npz"), pickle.loads(pickle.dumps(one))):
            assert back.cell == layer.cell
            np.testing.assert_array_equal(infer(back, call)["y"], expected)
    assert fastrnn.weights.load(tmp_path / "layer.npz").cell.zoneout == 0.3
    with pytest.raises(ValueError, match="expected one that ONNX has"):
        fastrnn.weights.to_onnx(layer)


def test_words_are_the_references(isa: str) -> None:
    """Of the mask itself, at large numbers of steps and rows."""
    layer = fastrnn.GRU(1, 70, zoneout=0.5, rng=0)
    args = arguments(layer._stack, np.zeros((1, 2, 1), np.float32), None, None, None, None, "zero")
    args = args._replace(first_step=2**32 - 1)
    noise = Noise(2**64 - 1, layer._dropouts, engines.current().operations).steps(0, layer.cell, args)
    assert noise is not None
    noise = noise._replace(rows=np.array([2**32 - 1, 5]))
    kept = {}
    for name in ("packed", "reference"):
        engine = engines.named("name", name)
        h, y = np.full((2, 70), 0.5, np.float32), np.empty((1, 2, 70), np.float32)
        prepared = run.prepare(layer._stack, engine, weights(layer._stack, layer.params))
        args = arguments(layer._stack, np.zeros((1, 2, 1), np.float32), None, None, None, None, "zero")
        engine.forward([ForwardArgs(
            prepared[0], args.steps(False), args.x, h, None, y, np.empty_like(h), None, None, noise
        )])  # fmt: skip
        kept[name] = y == 0.5
    np.testing.assert_array_equal(kept["packed"], kept["reference"])
    expected = philox.stays(noise.key, 0, noise.rows, 2**32 - 1, 70, 0.5)
    np.testing.assert_array_equal(kept["packed"][0], ~expected)
