"""fastrnn.nn: results against formulas, gradients against central differences, purity, and errors before any work."""

import copy
import math
import pickle

import numpy as np
import pytest
import scipy.signal
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastrnn import GRU, nn
from fastrnn.data import UNK
from fastrnn.engines import philox

RNG = np.random.default_rng(7)


def numeric_gradient(loss, array, eps=1e-6):
    """Central differences of loss() in each element of `array`, which loss() must see."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + eps
        above = loss()
        array[index] = kept - eps
        below = loss()
        array[index] = kept
        gradient[index] = (above - below) / (2 * eps)
    return gradient


def close(a, b, tolerance=1e-8):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# ---- Linear ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 5, 3), (0, 3), (2, 0, 3)])
def test_linear_is_its_formula_and_its_gradients_are_right(shape, bias):
    layer = nn.Linear(3, 2, bias, dtype=np.float64, rng=0)
    x, cotangent = RNG.standard_normal(shape), RNG.standard_normal((*shape[:-1], 2))
    y, tape = layer.forward(x)
    close(y, np.einsum("...i,oi->...o", x, layer.params["weight"]) + layer.params.get("bias", 0.0))
    np.testing.assert_array_equal(layer(x), y)
    grads = layer.backward(tape, cotangent)

    def loss():
        return float((layer(x) * cotangent).sum())

    close(grads.x, numeric_gradient(loss, x))
    assert grads.params.keys() == layer.params.keys() == ({"weight", "bias"} if bias else {"weight"})
    for name, value in layer.params.items():
        close(grads.params[name], numeric_gradient(loss, value))


def test_linear_takes_any_layout():
    layer = nn.Linear(6, 4, rng=0)
    base = RNG.standard_normal((5, 6, 7)).astype(np.float32)
    for x in (base.transpose(0, 2, 1), np.asfortranarray(base[:, :, 0]), base[::-1, :, 0], base[::2, :, 3]):
        close(layer(x), layer(x.copy()), 1e-6)
        grads = layer.backward(layer.forward(x)[1], np.ones((*x.shape[:-1], 4), np.float32))
        close(grads.params["weight"], np.tile(x.reshape(-1, 6).sum(axis=0), (4, 1)), 1e-5)


def test_initial_values_are_torchs():
    bound = 1 / math.sqrt(25)
    layer = nn.Linear(25, 400, rng=0)
    for value in layer.params.values():
        assert value.dtype == np.float32
        assert bound * 0.98 < np.abs(value).max() <= bound
        assert abs(value.std() - bound / math.sqrt(3)) < 0.02 * bound * 5
    weight = nn.Embedding(500, 40, rng=0).params["weight"]
    assert abs(weight.mean()) < 0.02
    assert abs(weight.std() - 1) < 0.02
    np.testing.assert_array_equal(weight, nn.Embedding(500, 40, rng=np.random.default_rng(0)).params["weight"])
    np.testing.assert_array_equal(nn.Embedding(500, 40, scale=0.5, rng=0).params["weight"], weight / 2)


@pytest.mark.parametrize("bias", [True, False])
def test_a_frozen_linear_layer_keeps_the_parameters_of_its_time(bias):
    layer = nn.Linear(6, 40, bias, rng=0)
    x = RNG.standard_normal((5, 6)).astype(np.float32)
    frozen, expected = layer.freeze(), layer(x)
    for value in layer.params.values():
        value += 1
    for each in (frozen, copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        close(each(x), expected, 1e-6)
    for wrong in (x[:, :5], x[0, :5], x[0, 0], x.astype(np.float64)):
        with pytest.raises((TypeError, ValueError), match="x: expected"):
            frozen(wrong)


# ---- Losses of an output part ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, [[1.0, 0.0], [2.0, 0.5], [0.0, 1.0]]])
@pytest.mark.parametrize("bias", [True, False])
def test_the_loss_of_an_output_is_that_of_its_logits(bias, weights):
    output, criterion = nn.Linear(4, 7, bias, dtype=np.float64, rng=0), nn.SoftmaxCrossEntropy()
    x, targets = RNG.standard_normal((3, 2, 4)), np.array([[6, 0], [-100, 2], [3, 3]])
    fused = criterion.of_output(output, x, targets, weights=weights)
    apart = criterion.of_output(nn.Sequential(output), x, targets, weights=weights)
    logits, output_tape = output.forward(x)
    loss, tape = criterion.forward(logits, targets, weights=weights)
    expected = output.backward(output_tape, criterion.backward(tape).x)
    for found, prefix in ((fused, ""), (apart, "0.")):
        close(found.value, loss, 1e-14)
        assert found.targets == tape.count
        close(found.grads.x, expected.x, 1e-14)
        for name, value in expected.params.items():
            close(found.grads.params[prefix + name], value, 1e-14)
        assert criterion.of_output(output, x, targets, weights=weights, grads=False) == (fused.value, tape.count, None)


def test_the_loss_of_an_output_checks_its_arguments():
    output, criterion = nn.Linear(4, 7, rng=0), nn.SoftmaxCrossEntropy()
    x = np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match="x: expected"):
        criterion.of_output(output, x[:, :3], [0, 1, 2])
    with pytest.raises(TypeError, match="x: expected"):
        criterion.of_output(output, x.astype(np.float64), [0, 1, 2])
    with pytest.raises(ValueError, match="targets: expected"):
        criterion.of_output(output, x, [0, 1])
    with pytest.raises(IndexError, match="targets: expected"):
        criterion.of_output(output, x, [0, 1, 7])
    with pytest.raises(ValueError, match="weights: expected"):
        criterion.of_output(output, x, [0, 1, 2], weights=[1, -1, 1])
    found = criterion.of_output(output, x, [-100, -100, -100])
    assert found.value == found.targets == 0
    assert not any(g.any() for g in found.grads.params.values())


# ---- Embedding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (9,), (4, 5), (0, 3)])
def test_embedding_gradient_adds_up_repeated_ids(shape, dtype):
    layer = nn.Embedding(6, 3, dtype=dtype, rng=0)
    ids = RNG.integers(0, 5, shape)  # the last row is never asked for
    dy = RNG.standard_normal((*shape, 3)).astype(dtype)
    y, tape = layer.forward(ids)
    np.testing.assert_array_equal(y, layer.params["weight"][ids])
    grads = layer.backward(tape, dy)
    expected = np.zeros((6, 3))
    np.add.at(expected, ids, dy)
    assert grads.x is None
    assert grads.params["weight"].dtype == dtype
    close(grads.params["weight"], expected, 1e-5)


def test_embedding_gradient_keeps_nan_to_its_row():
    layer = nn.Embedding(3, 2, rng=0)
    dy = np.array([[np.nan, 1], [2, 3]], np.float32)
    weight = layer.backward(layer.forward([2, 0])[1], dy).params["weight"]
    np.testing.assert_array_equal(weight, np.array([[2, 3], [0, 0], [np.nan, 1]], np.float32))


def test_ids_that_drop_out_are_read_as_unknown():
    embedding = nn.Embedding(9, 2, word_dropout=0.5, rng=0)
    ids = np.full((10, 100), 5)
    y, tape = embedding.forward(ids, rng=1)
    hidden = (y == embedding(UNK)).all(axis=-1)
    assert 400 < hidden.sum() < 600
    np.testing.assert_array_equal(y, embedding(np.where(hidden, UNK, 5)))  # inference: none drops out
    counts = embedding.backward(tape, np.ones_like(y)).params["weight"].dense()[:, 0]
    assert counts[UNK] == hidden.sum() == 1000 - counts[5]
    assert nn.Embedding.from_arrays(embedding.params, **embedding.options).word_dropout == 0.5


def test_a_row_that_is_dropped_is_zero_wherever_it_is_read(engine):
    embedding = nn.Embedding(200, 3, embedding_dropout=0.25, dtype=np.float64, rng=0)
    embedding.params["weight"][7] = np.inf
    ids = RNG.integers(0, 200, (20, 50))
    y, tape = embedding.forward(ids, rng=1)
    stays = philox.words(tape.dropped.key, 200) >= 2**30
    expected = np.where(stays[ids][..., None], embedding(ids) / 0.75, 0)
    np.testing.assert_allclose(y, expected, rtol=1e-15)
    np.testing.assert_array_equal(embedding.forward(ids, rng=1)[0], y)
    assert (embedding.forward(ids, rng=2)[0] != y).any()
    dy = RNG.standard_normal(y.shape)
    plain = nn.Embedding.from_arrays(embedding.params)
    whole = plain.backward(plain.forward(ids)[1], dy).params["weight"].dense()
    for _ in range(2):  # a tape keeps what it was made with
        found = embedding.backward(tape, dy).params["weight"].dense()
        np.testing.assert_allclose(found, np.where(stays[:, None], whole / 0.75, 0), rtol=1e-14)
        embedding.embedding_dropout = 0.5
    joined = nn.Embedding(200, 3, columns=2, embedding_dropout=0.25, rng=0)
    pairs, pairs_tape = joined.forward(ids.reshape(20, 25, 2), rng=1)
    shown = np.repeat(philox.words(pairs_tape.dropped.key, 200)[ids].reshape(20, 25, 2) >= 2**30, 3, axis=-1)
    np.testing.assert_array_equal(pairs != 0, shown)
    assert nn.Embedding.from_arrays(joined.params, **joined.options).embedding_dropout == 0.25


@pytest.mark.parametrize("ids", [np.uint8([1, 2]), np.int16([[1], [2]])[::-1], [0, 1], []])
def test_embedding_takes_any_integers(ids):
    assert nn.Embedding(3, 2, rng=0)(ids).shape == (*np.shape(ids), 2)


@pytest.mark.parametrize("shape", [(2,), (4, 2), (3, 5, 2), (0, 2), (3, 0, 2)])
def test_embedding_joins_the_vectors_of_several_ids(shape):
    layer, single = nn.Embedding(6, 3, columns=2, dtype=np.float64, rng=0), nn.Embedding(6, 3, dtype=np.float64, rng=0)
    ids = RNG.integers(0, 6, shape)
    dy = RNG.standard_normal((*shape[:-1], 6))
    y, tape = layer.forward(ids)
    assert layer.output_size == 6
    np.testing.assert_array_equal(y, np.concatenate([single(ids[..., 0]), single(ids[..., 1])], axis=-1))
    expected = single.backward(single.forward(ids)[1], dy.reshape(*shape, 3)).params["weight"]
    np.testing.assert_array_equal(layer.backward(tape, dy).params["weight"], expected)
    again = nn.Embedding.from_arrays(layer.params, **layer.options)
    np.testing.assert_array_equal(again(ids), y)


# ---- dropout ---------------------------------------------------------------------------------------------------------


LAYOUTS = {
    "C": lambda a: a,
    "transposed": lambda a: a.T.copy().T,
    "every other": lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a,
    "backwards": lambda a: np.flip(np.flip(a).copy()),
}


@given(
    shape=hnp.array_shapes(min_dims=0, max_dims=6, min_side=0, max_side=5),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from([np.float32, np.float64]),
    probability=st.floats(0.01, 0.99),
)
def test_dropout_multiplies_by_the_same_mask_both_ways(engine, shape, layout, dtype, probability):
    rng = np.random.default_rng(0)
    x, dy = (LAYOUTS[layout](rng.standard_normal(shape).astype(dtype)) for _ in range(2))
    before = x.copy()
    layer = nn.Dropout(probability)
    y, tape = layer.forward(x, rng=7)
    mask = philox.words(tape.key, x.size).reshape(shape) >= int(probability * 2**32)
    scale = dtype(1 / (1 - probability))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, np.where(mask, x * scale, 0))
    layer.probability = 0.5  # a tape keeps what it was made with
    for _ in range(2):
        dx = layer.backward(tape, dy).x
        np.testing.assert_array_equal(dx, np.where(mask, dy * scale, 0))
    np.testing.assert_array_equal(x, before)
    assert not np.shares_memory(x, y)
    assert not np.shares_memory(dy, dx)


def test_dropout_keeps_a_key_and_no_mask():
    layer, x = nn.Dropout(0.5), np.ones((300, 100), np.float32)
    generator = np.random.default_rng(3)
    (first, tape), (second, _) = (layer.forward(x, rng=generator) for _ in range(2))
    assert (first != second).any()
    assert (tape.probability, tape.shape) == (0.5, x.shape)
    assert 0 <= tape.key < 2**64
    np.testing.assert_array_equal(layer.forward(x, rng=3)[0], first)
    assert (layer.forward(x)[0] != layer.forward(x)[0]).any()  # without a source, another choice each time


@given(
    shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_locked_dropout_has_one_mask_for_all_steps(engine, shape, layout, dtype):
    x, dy = (LAYOUTS[layout](np.random.default_rng(k).standard_normal(shape).astype(dtype)) for k in range(2))
    layer, x = nn.Dropout(0.3, locked=True), x
    y, tape = layer.forward(x, rng=7)
    mask = philox.words(tape.key, math.prod(shape[1:])).reshape(shape[1:]) >= int(0.3 * 2**32)
    scale = dtype(1 / (1 - 0.3))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, np.where(mask, x * scale, 0))
    np.testing.assert_array_equal(layer.backward(tape, dy).x, np.where(mask, dy * scale, 0))
    np.testing.assert_array_equal(layer.forward(x[:2], rng=7)[0], y[:2])  # however many steps there are
    assert layer(x) is x
    assert nn.Dropout(**layer.options).locked


def test_locked_dropout_takes_what_is_not_finite():
    x = np.full((3, 50), np.inf, np.float32)
    y, tape = nn.Dropout(0.5, locked=True).forward(x, rng=0)
    assert set(y.reshape(-1)) == {0, np.inf}
    np.testing.assert_array_equal(nn.Dropout(0.5, locked=True).backward(tape, x).x, y)


# ---- cross-entropy ---------------------------------------------------------------------------------------------------


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(-1e4, 1e4)),
    st.data(),
)
def test_softmax_and_log_softmax_are_scipys(logits, data):
    axis = data.draw(st.integers(-2, 1))
    close(nn.softmax(logits, axis), scipy.special.softmax(logits, axis), 1e-12)
    close(nn.log_softmax(logits, axis), scipy.special.log_softmax(logits, axis), 1e-11)


def test_softmax_keeps_dtype_and_takes_integers():
    assert nn.softmax(np.zeros((2, 3), np.float32)).dtype == np.float32
    close(nn.softmax([0, 0]), [0.5, 0.5])
    assert nn.softmax(np.zeros((0, 3))).shape == (0, 3)


@given(st.data())
def test_loss_and_gradient_are_the_formulas(data):
    shape = data.draw(st.sampled_from([(1,), (3,), (2, 3), (0,), ()]))
    count = data.draw(st.integers(1, 5))
    logits = data.draw(hnp.arrays(np.float64, (*shape, count), elements=st.floats(-20, 20)))
    targets = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(-1, count - 1)))  # -1 is ignored
    weights = data.draw(st.none() | hnp.arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.5, 2.0])))
    criterion = nn.SoftmaxCrossEntropy(ignore_index=-1)
    loss, tape = criterion.forward(logits, targets, weights=weights)
    counts = np.where(targets == -1, 0.0, 1.0 if weights is None else weights)
    total = counts.sum()
    shares = counts / total if total else counts
    log_p = scipy.special.log_softmax(logits, -1)
    chosen = np.take_along_axis(log_p, np.maximum(targets, 0)[..., None], -1)[..., 0]
    assert loss == pytest.approx(-(chosen * shares).sum(), abs=1e-12)
    one_hot = np.maximum(targets, 0)[..., None] == np.arange(count)
    expected = (np.exp(log_p) - one_hot) * shares[..., None]
    close(criterion.backward(tape, 3.0).x, 3 * expected, 1e-12)


def test_loss_gradient_by_differences():
    criterion, logits, targets = nn.SoftmaxCrossEntropy(), RNG.standard_normal((4, 2, 5)), RNG.integers(0, 5, (4, 2))
    weights = np.array([1.0, 0.25])
    gradient = criterion.backward(criterion.forward(logits, targets, weights=weights)[1]).x
    close(gradient, numeric_gradient(lambda: criterion(logits, targets, weights=weights), logits))


def test_loss_is_stable_in_float32():
    criterion = nn.SoftmaxCrossEntropy()
    logits = np.array([[3e38, -3e38], [0, -200]], np.float32) / 2
    loss, tape = criterion.forward(logits, [0, 1])
    assert loss == pytest.approx(50)
    close(criterion.backward(tape).x, [[0, 0], [0.5, -0.5]])
    assert criterion(np.array([[-np.inf, 0]], np.float32), [1]) == 0


def test_silent_targets_count_for_nothing_whatever_their_logits():
    criterion = nn.SoftmaxCrossEntropy()
    logits = np.array([[1, 2, 0], [np.nan, 0, 0], [-np.inf, 0, 1]], np.float32)
    loss, tape = criterion.forward(logits, [0, 2, -100], weights=[1, 0, 1])
    assert loss == criterion(logits[:1], [0])
    np.testing.assert_array_equal(criterion.backward(tape).x[1:], 0)


def test_no_weight_at_all_is_a_loss_of_zero():
    criterion = nn.SoftmaxCrossEntropy()
    for targets, weights in (([-100, -100], None), ([0, 1], [0, 0])):
        loss, tape = criterion.forward(np.ones((2, 3)), targets, weights=weights)
        assert loss == 0.0
        np.testing.assert_array_equal(criterion.backward(tape).x, np.zeros((2, 3)))


# ---- purity and parameters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize("batch", [0, 2])
def test_convolution_is_the_correlation_with_each_filter(size, stride, batch):
    layer = nn.Convolution(nn.Linear(size * size * 3, 4, dtype=np.float64, rng=0), (5, 6, 3), size, stride)
    weight, bias = layer.params["linear.weight"], layer.params["linear.bias"]
    x = RNG.standard_normal((batch, 5, 6, 3))
    y, tape = layer.forward(x)
    assert y.shape == (batch, layer.output_size)
    for image, filtered in zip(x, y.reshape(batch, *layer.output_shape), strict=True):
        for k, kernel in enumerate(weight.reshape(-1, size, size, 3)):
            whole = scipy.signal.correlate(image, kernel, mode="valid")[::stride, ::stride, 0]
            close(filtered[..., k], whole + bias[k])
    np.testing.assert_array_equal(layer(x.reshape(batch, 90)), y)
    cotangent = RNG.standard_normal(y.shape)
    grads = layer.backward(tape, cotangent)

    def loss():
        return float((layer(x) * cotangent).sum())

    close(grads.x, numeric_gradient(loss, x))
    for name, value in layer.params.items():
        close(grads.params[name], numeric_gradient(loss, value))


def test_inputs_are_not_modified_and_backward_is_pure():
    embedding, linear, criterion = nn.Embedding(5, 4, rng=0), nn.Linear(4, 5, rng=1), nn.SoftmaxCrossEntropy()
    ids, targets = RNG.integers(0, 5, (3, 2)), RNG.integers(0, 5, (3, 2))
    ids.flags.writeable = targets.flags.writeable = False
    vectors, embedding_tape = embedding.forward(ids)
    vectors.flags.writeable = False
    logits, linear_tape = linear.forward(vectors)
    logits.flags.writeable = False
    loss, loss_tape = criterion.forward(logits, targets)

    def gradients():
        d_logits = criterion.backward(loss_tape).x
        d_logits.flags.writeable = False
        d_linear = linear.backward(linear_tape, d_logits)
        d_linear.x.flags.writeable = False
        return d_logits, *d_linear.params.values(), *embedding.backward(embedding_tape, d_linear.x).params.values()

    for first, second in zip(gradients(), gradients(), strict=True):
        np.testing.assert_array_equal(first, second)
    assert criterion(logits, targets) == loss


def test_parameters_are_shared_and_loaded_whole_or_not_at_all():
    parts = {"embedding": nn.Embedding(5, 4, rng=0), "output": nn.Linear(4, 5, rng=1)}
    params = nn.parameters(parts)
    assert list(params) == ["embedding.weight", "output.weight", "output.bias"]
    assert params["output.bias"] is parts["output"].params["bias"]
    other = {"embedding": nn.Embedding(5, 4, rng=2), "output": nn.Linear(4, 5, rng=3)}
    nn.load_parameters(other, params)
    for name, value in nn.parameters(other).items():
        np.testing.assert_array_equal(value, params[name])
        assert value is not params[name]
    before = params["embedding.weight"].copy()
    zeros = {name: np.zeros_like(value) for name, value in params.items()}
    for broken, error in (
        ({**zeros, "output.bias": np.zeros(4, np.float32)}, ValueError),
        ({**zeros, "output.bias": np.zeros(5)}, TypeError),
        ({**zeros, "output.bais": zeros["output.bias"]}, ValueError),
        ({name: zeros[name] for name in list(zeros)[:2]}, ValueError),
        ([1], TypeError),
    ):
        with pytest.raises(error):
            nn.load_parameters(parts, broken)
    np.testing.assert_array_equal(params["embedding.weight"], before)


def test_state_dict_is_a_copy_that_loads_back():
    layer = nn.Linear(3, 2, rng=0)
    state = layer.state_dict()
    layer.params["weight"] += 1
    layer.load_state_dict(state)
    np.testing.assert_array_equal(layer.params["weight"], nn.Linear(3, 2, rng=0).params["weight"])
    assert state["weight"] is not layer.params["weight"]


# ---- errors ----------------------------------------------------------------------------------------------------------

LINEAR = nn.Linear(3, 2, rng=0)
EMBEDDING = nn.Embedding(5, 4, rng=0)
DROPOUT = nn.Dropout(0.5)
LOSS = nn.SoftmaxCrossEntropy()
LOGITS = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LINEAR(np.zeros((2, 4), np.float32)), ValueError, r"x: expected \(\.\.\., 3\), got \(2, 4\)"),
        (lambda: LINEAR(np.zeros((2, 3))), TypeError, r"x: expected .*float32, got float64.*astype"),
        (lambda: LINEAR(np.float32(1)), ValueError, r"x: expected"),
        (
            lambda: LINEAR.backward(LINEAR.forward(LOGITS)[1], LOGITS),
            ValueError,
            r"dy: expected \(2, 2\), got \(2, 3\)",
        ),
        (lambda: EMBEDDING([1.5]), TypeError, r"ids: expected integers, got float64"),
        (lambda: EMBEDDING([True]), TypeError, r"ids: expected integers, got bool"),
        (lambda: EMBEDDING([0, 5]), IndexError, r"ids: expected integers in 0\.\.4, got 5"),
        (lambda: EMBEDDING([-1, 0]), IndexError, r"ids: expected integers in 0\.\.4, got -1"),
        (lambda: EMBEDDING.backward(EMBEDDING.forward([1])[1], LOGITS), ValueError, r"dy: expected \(1, 4\)"),
        (lambda: DROPOUT.forward([1, 2]), TypeError, r"x: expected float32 or float64, got int64"),
        (lambda: nn.Dropout(0.5, locked=True).forward(LOGITS[0, 0]), ValueError, r"x: expected \(T, \.\.\.\)"),
        (lambda: nn.Dropout(0.5, locked=1), TypeError, r"locked: expected True or False"),
        (lambda: nn.Embedding(2, 2, embedding_dropout=1), ValueError, r"embedding_dropout: .* got 1"),
        (lambda: DROPOUT.forward("text"), TypeError, r"x: expected float32 or float64, got"),
        (
            lambda: DROPOUT.backward(DROPOUT.forward(LOGITS)[1], LOGITS.T),
            ValueError,
            r"dy: expected \(2, 3\), got \(3, 2\)",
        ),
        (lambda: DROPOUT.backward(DROPOUT.forward(LOGITS)[1], None), TypeError, r"dy: expected an array of numbers"),
        (lambda: LOSS(LOGITS, [0, 3]), IndexError, r"targets: expected integers in 0\.\.2, got 3"),
        (lambda: LOSS(LOGITS, [0, -1]), IndexError, r"targets: .* got -1"),
        (lambda: LOSS(LOGITS, [0.0, 1.0]), TypeError, r"targets: expected integers"),
        (lambda: LOSS(LOGITS, [0]), ValueError, r"targets: expected \(2,\), got \(1,\)"),
        (lambda: LOSS(LOGITS.astype(int), [0, 1]), TypeError, r"logits: expected float32 or float64, got int64"),
        (lambda: LOSS(LOGITS[:, :0], [0, 1]), ValueError, r"logits: expected"),
        (lambda: LOSS(LOGITS, [0, 1], weights=[1, -1]), ValueError, r"weights: .* at least 0, got -1"),
        (lambda: LOSS(LOGITS, [0, 1], weights=[1, np.nan]), ValueError, r"weights: .* got nan"),
        (lambda: LOSS(LOGITS, [0, 1], weights=[1, 2, 3]), ValueError, r"weights: .*broadcasts to \(2,\), got \(3,\)"),
        (lambda: LOSS(LOGITS, [0, 1], weights=["a", "b"]), TypeError, r"weights: expected numbers"),
        (lambda: nn.Linear(0, 2), ValueError, r"in_features: .* got 0"),
        (lambda: nn.Linear(2, 2.5), TypeError, r"out_features: expected an integer"),
        (lambda: nn.Linear(2, 2, dtype=np.int32), TypeError, r"dtype: expected float32 or float64, got int32"),
        (lambda: nn.Convolution(LINEAR, (4, 4), 2), ValueError, r"shape: expected \(M, N, C\)"),
        (
            lambda: nn.Convolution(LINEAR, (4, 1, 1), 2),
            ValueError,
            r"shape: .* of at least the size 2, got \(4, 1, 1\)",
        ),
        (lambda: nn.Convolution(LINEAR, (4, 4, 1), 2), ValueError, r"linear: expected in_features 4, .* got 3"),
        (lambda: nn.Convolution(LINEAR, (4, 4, 3), 1)(LOGITS), ValueError, r"x: expected \(B, 4, 4, 3\)"),
        (lambda: nn.Embedding(-1, 2), ValueError, r"num_embeddings: .* got -1"),
        (lambda: nn.Embedding(2, 2, scale=-1), ValueError, r"scale: expected a number of at least 0, got -1"),
        (lambda: nn.Embedding(2, 2, columns=0), ValueError, r"columns: .* got 0"),
        (lambda: nn.Embedding(2, 2, columns=3)([[0, 1]]), ValueError, r"ids: expected \(..., 3\), got \(1, 2\)"),
        (lambda: nn.Embedding(2, True), TypeError, r"embedding_dim: expected an integer"),
    ],
)
def test_errors_name_the_argument_what_was_expected_and_what_came(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_replaced_parameter_is_checked():
    layer = nn.Linear(3, 2, rng=0)
    layer.params["weight"] = np.zeros((2, 3))
    with pytest.raises(TypeError, match=r"weight: expected .*float32"):
        layer(LOGITS)


# ---- Attention -------------------------------------------------------------------------------------------------------


def test_attention_leaves_out_what_does_not_count():
    """Queries after the end of their sequence have no output and no part in gradients; the others are as alone."""
    attention = nn.Attention(5, 4, dtype=np.float64, rng=0)
    memory, queries = RNG.standard_normal((7, 3, 4)), RNG.standard_normal((6, 3, 5))
    memory_lengths, lengths = np.array([7, 2, 0]), np.array([6, 0, 3])
    past = np.arange(6)[:, None] >= lengths
    memory[np.arange(7)[:, None] >= memory_lengths] = 0
    y, tape = attention.forward(queries, attention.remember(memory, memory_lengths), lengths)
    whole, whole_tape = attention.forward(queries, attention.remember(memory, memory_lengths))
    close(y, np.where(past[..., None], 0, whole))

    dy = np.where(past[..., None], 0, RNG.standard_normal(y.shape))
    found, expected = attention.backward(tape, dy + past[..., None]), attention.backward(whole_tape, dy)
    for a, b in zip(found[:2], expected[:2], strict=True):
        close(a, b)
    for name, value in expected[2].params.items():
        close(found[2].params[name], value)
    with pytest.raises(ValueError, match="lengths: expected"):
        attention.forward(queries, attention.remember(memory), lengths[:2])


@pytest.mark.parametrize(
    ("dy", "error"),
    [
        (np.zeros((5, 2, 2), np.float16), TypeError),
        (np.zeros((5, 2, 2), np.float64), TypeError),
        (np.zeros((5, 2, 3), np.float32), ValueError),
        (np.zeros((2, 5, 2), np.float32), ValueError),
        ("x", TypeError),
    ],
)
def test_gradients_of_words_that_are_none(dy, error):
    """A gradient of another dtype or shape is refused; of float16 it overran the heap once."""
    words = nn.WordEncoder(nn.Embedding(6, 3, rng=0), GRU(3, 2, rng=0))
    _, tape = words.forward(np.ones((5, 2, 4), int))
    with pytest.raises(error, match=r"dy: expected"):
        words.backward(tape, dy)
