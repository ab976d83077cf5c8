"""The patterns: gradients against differences, padding that does not matter, streams, generation, files."""

import copy
import dataclasses
import itertools
import json
import operator
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import CELLS, MODELS, build_model

import fastrnn
from fastrnn import metrics, nn, optim, serialization
from fastrnn.data import BOS, EOS, PAD, UNK, Batch, Batches, Dataset, Vocabulary
from fastrnn.inspect import check_gradients

F8 = {"dtype": np.float64, "rng": 0}
GRADIENT = 1e-6  # differences with step 1e-5 of losses near 1: 1e-11 of rounding, over gradients of 1e-3 and less


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("bidirectional", "dropout"), [(False, 0.0), (True, 0.3)])  # neither depends on the other
@pytest.mark.parametrize("name", MODELS)
def test_gradients_by_differences(name, cell, bidirectional, dropout):
    model, batch = build_model(name, cell, bidirectional=bidirectional, dropout=dropout)
    errors = check_gradients(model, batch, samples=3)
    assert errors.keys() == model.params.keys()
    assert max(errors.values()) < GRADIENT, errors


@pytest.mark.parametrize("name", MODELS)
def test_a_loss_is_that_of_inference_and_the_model_is_only_read(name):
    model, batch = build_model(name, dropout=0.4)
    before = model.state_dict()
    plain = model.loss(batch)
    first, again, other = (model.loss_and_grads(batch, rng=seed) for seed in (1, 1, 2))
    assert first.value == again.value != other.value
    assert plain.grads == {}
    assert plain.targets == first.targets > 1
    for grad, same in zip(first.grads.values(), again.grads.values(), strict=True):
        np.testing.assert_array_equal(grad, same)
    for value, kept in zip(model.params.values(), before.values(), strict=True):
        np.testing.assert_array_equal(value, kept)
    model, batch = build_model(name)
    assert model.loss(batch).value == pytest.approx(model.loss_and_grads(batch).value, abs=1e-12)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_batch_is_the_mean_over_its_rows(name, bidirectional):
    """Padding changes nothing: the loss of a batch is that of its rows one by one."""
    model, batch = build_model(name, bidirectional=bidirectional)
    total, count, answers = 0.0, 0, []
    for row in range(4):
        alone = Batch(*(a if a is None else _row(a, row, n) for a, n in _columns(batch)))
        loss = model.loss(alone)
        total, count = total + loss.value * loss.targets, count + loss.targets
        answers += model.predict_batch(alone)
    assert model.loss(batch).value == pytest.approx(total / count, rel=1e-12)
    assert model.loss(batch).targets == count
    for answer, expected in zip(model.predict_batch(batch), answers, strict=True):
        np.testing.assert_allclose(answer, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["max", "one_number", "tagger", "regressor", "taggers"])
def test_weights_of_examples_multiply_their_losses(name):
    model, batch = build_model(name)
    weights = np.array([2.0, 0.5, 0.0, 1.0])
    alone = [model.loss(dataclasses.replace(batch, weights=row)) for row in np.eye(4)]
    total = sum(weight * loss.value * loss.targets for weight, loss in zip(weights, alone, strict=True))
    count = sum(loss.targets for weight, loss in zip(weights, alone, strict=True) if weight)
    weighted = dataclasses.replace(batch, weights=weights)
    assert model.loss(weighted).value == pytest.approx(total / count, rel=1e-12)
    assert model.loss(weighted).targets == count
    assert max(check_gradients(model, weighted, samples=3).values()) < GRADIENT
    assert model.loss(dataclasses.replace(batch, weights=np.ones(4))).value == model.loss(batch).value


def test_the_loss_has_the_penalties_of_the_outputs_in_training():
    """The formulas of Merity et al. (2017), over the valid steps."""
    model, batch = build_model("regularized")
    y, _ = model.rnn(model.embedding(batch.x), lengths=batch.x_lengths)
    ends = list(zip(y.swapaxes(0, 1), batch.x_lengths, strict=True))
    ar = np.mean(np.square(np.concatenate([row[:n] for row, n in ends])))
    tar = np.mean(np.square(np.concatenate([np.diff(row[:n], axis=0) for row, n in ends])))
    plain = model.loss(batch).value
    for weights in ({"ar": 2.0}, {"tar": 3.0}, {"ar": 2.0, "tar": 3.0}):
        penal = nn.ManyToMany(model.rnn, model.output, model.embedding, **weights)
        expected = plain + weights.get("ar", 0) * ar + weights.get("tar", 0) * tar
        assert penal.loss_and_grads(batch).value == pytest.approx(expected, rel=1e-12)
        assert penal.loss(batch).value == plain
    whole = Batch(batch.x[:3, [0, 3]], batch.y[:3, [0, 3]])
    y, _ = model.rnn(model.embedding(whole.x))
    penal = nn.ManyToMany(model.rnn, model.output, model.embedding, tar=3.0)
    expected = penal.loss(whole).value + 3 * np.mean(np.square(np.diff(y, axis=0)))
    assert penal.loss_and_grads(whole).value == pytest.approx(expected, rel=1e-12)


def test_tied_weights_are_one_array_that_is_trained_as_one(tmp_path):
    model, batch = build_model("regularized", "gru", dropout=0.25)
    for tied in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert tied.output.params["weight"] is tied.embedding.params["weight"]
    model.save(tmp_path / "m.npz")
    loaded = nn.load(tmp_path / "m.npz")
    assert loaded.output.params["weight"] is loaded.embedding.params["weight"]
    grads = model.loss_and_grads(batch, rng=1).grads
    whole = np.asarray(grads["embedding.weight"]) + grads["output.weight"]
    before = model.state_dict()
    optimizer = optim.Adam(model.params, 0.01)
    assert optimizer.step(grads, np.inf) == pytest.approx(
        np.sqrt(sum(np.square(g).sum() for name, g in grads.items() if "weight" not in name or "rnn" in name)
                + np.square(whole).sum())
    )  # fmt: skip
    alone = {"table": before["embedding.weight"].copy()}
    optim.Adam(alone, 0.01).step({"table": whole})
    np.testing.assert_allclose(model.embedding.params["weight"], alone["table"], rtol=1e-12)
    assert "m.output.weight" not in optimizer.state_dict()


def test_a_locked_model_drops_the_same_units_at_all_steps():
    rnn = fastrnn.GRU(4, 6, **F8)
    model = nn.ManyToMany(rnn, nn.Linear(6, 3, **F8), dropout=(0.0, 0.5), locked=True)
    model.output.params["weight"][:] = 0
    x, y = np.random.default_rng(0).standard_normal((7, 2, 4)), np.zeros((7, 2), int)
    y[:, 1] = -100
    y[3:, 0] = -100  # the output's weight has a gradient where a unit of row 0 stays
    first, all_steps = (
        model.loss_and_grads(Batch(x, t), rng=3).grads["output.weight"] for t in (y, np.zeros((7, 2), int))
    )
    dropped = (first == 0).all(axis=0)
    assert 0 < dropped.sum() < 6
    assert (np.delete(all_steps, np.flatnonzero(dropped), axis=1) != 0).all()
    later = np.full((7, 2), -100)
    later[5:, 0] = 0
    found = model.loss_and_grads(Batch(x, later), rng=3).grads["output.weight"]
    np.testing.assert_array_equal((found == 0).all(axis=0), dropped)


def _columns(batch):
    return (batch.x, batch.x_lengths), (batch.y, batch.y_lengths)


def _row(a, row, lengths):
    return a[row : row + 1] if lengths is None else a[: lengths[row], row : row + 1]


def test_pooling_of_a_sequence_without_steps_is_zero():
    for pooling in ("last", "mean", "max"):
        model = nn.ManyToOne(fastrnn.GRU(2, 3, **F8), nn.Linear(3, 2, **F8), pooling=pooling)
        for x, lengths in ((np.zeros((0, 1, 2)), None), (np.ones((4, 1, 2)), [0])):
            np.testing.assert_array_equal(model(x, lengths), model.output.params["bias"][None])


def test_a_state_is_carried_and_gradients_are_not():
    model, _ = build_model("tagger")
    ids = np.random.default_rng(0).integers(1, 9, (8, 2))
    whole = model.loss_and_grads(Batch(ids, ids % 3))
    first = model.loss_and_grads(Batch(ids[:5], ids[:5] % 3))
    second = model.loss_and_grads(Batch(ids[5:], ids[5:] % 3, state=first.state))
    assert (first.value * 10 + second.value * 6) / 16 == pytest.approx(whole.value, rel=1e-12)
    np.testing.assert_allclose(second.state[1], whole.state[1], rtol=1e-12)


# ---- word encoder ----------------------------------------------------------------------------------------------------


def test_a_word_is_read_the_same_wherever_it_stands():
    words = nn.WordEncoder(
        nn.Embedding(7, 3, **F8), fastrnn.GRU(3, 2, bidirectional=True, **F8), nn.Embedding(5, 2, **F8)
    )
    ids = np.array([[[1, 2, 3, 0], [4, 5, 0, 0]], [[1, 2, 3, 0], [0, 0, 0, 0]]])
    y = words(ids)
    assert y.shape == (2, 2, words.output_size) == (2, 2, 6)
    np.testing.assert_array_equal(y[0, 0], y[1, 0])
    np.testing.assert_array_equal(y[..., :2], words.words(ids[..., 0]))
    _, state = words.rnn(words.characters(np.array([2, 3])[:, None]))
    np.testing.assert_allclose(y[0, 0, 2:], state[:, 0].reshape(-1), rtol=1e-12)
    np.testing.assert_array_equal(y[1, 1, 2:], 0)  # no characters
    np.testing.assert_allclose(words.forward(ids)[0], y, rtol=1e-12)
    assert words(np.zeros((0, 3, 4), int)).shape == (0, 3, 6)


def test_a_word_that_drops_out_is_read_by_its_characters():
    rng = np.random.default_rng(0)
    words = nn.WordEncoder(
        nn.Embedding(5, 3, rng=rng), fastrnn.GRU(3, 4, rng=rng), nn.Embedding(9, 2, rng=rng), word_dropout=0.5
    )
    ids = np.array([5, 1, 2])[None].repeat(1000, axis=0)
    before = ids.copy()
    y, tape = words.forward(ids, rng=1)
    np.testing.assert_array_equal(ids, before)
    hidden = (y[:, :2] == words.words(UNK)).all(axis=1)
    assert 400 < hidden.sum() < 600
    np.testing.assert_allclose(y[~hidden], words(ids[~hidden]), rtol=1e-6)  # inference: none drops out
    np.testing.assert_allclose(y[hidden], words(np.array([[UNK, 1, 2]]))[[0] * hidden.sum()], rtol=1e-6)
    reached = np.flatnonzero(words.backward(tape, np.ones_like(y)).params["words.weight"].dense().any(axis=1))
    np.testing.assert_array_equal(reached, [UNK, 5])
    assert nn.WordEncoder.rebuilt(words.parts, words.options).word_dropout == 0.5


# ---- ensembles -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["last", "tagger"])
def test_an_ensemble_is_the_mean_of_its_models(name, tmp_path):
    models = [build_model(name, cell)[0] for cell in CELLS]
    _, batch = build_model(name)
    outputs = [model(batch.x, batch.x_lengths) for model in models]
    mean = np.mean([nn.softmax(o[0] if isinstance(o, tuple) else o) for o in outputs], axis=0)
    ensemble = nn.Ensemble(*models)
    np.testing.assert_allclose(ensemble(batch.x, batch.x_lengths), mean, rtol=1e-12)
    for k, answer in enumerate(ensemble.predict_batch(batch)):
        own = mean[k] if name == "last" else mean[: batch.x_lengths[k], k]
        np.testing.assert_array_equal(answer, own.argmax(axis=-1))
    for k, answer in enumerate(ensemble.predict_batch(batch, probabilities=True)):
        np.testing.assert_allclose(answer, mean[k] if name == "last" else mean[: batch.x_lengths[k], k], rtol=1e-12)
    alone = nn.Ensemble(models[0]).predict_batch(batch)
    for answer, expected in zip(alone, models[0].predict_batch(batch), strict=True):
        np.testing.assert_array_equal(answer, expected)
    ensemble.save(tmp_path / "e.npz")
    loaded = nn.load(tmp_path / "e.npz")
    np.testing.assert_array_equal(loaded(batch.x, batch.x_lengths), ensemble(batch.x, batch.x_lengths))


# ---- filling in ------------------------------------------------------------------------------------------------------


def test_steps_are_filled_in_the_surest_first_and_read_by_the_others():
    seen = []

    def model(x):
        """The surest step is the last that is not filled in; each answers what is shown after it, and 1 more."""
        seen.append(x[:, 0, 0].tolist())
        logits = np.zeros((len(x), 1, 4))
        for k in range(len(x)):
            after = x[k + 1, 0, 0] - 5 if k + 1 < len(x) else 0
            logits[k, 0, (after + 1) % 4] = 1 + k
        return logits, None

    x = np.full((3, 2), 4)
    np.testing.assert_array_equal(nn.fill(model, x, np.arange(4) + 5, 0), [3, 2, 1])
    assert seen == [[4, 4, 4], [4, 4, 6], [4, 7, 6]]
    assert (x == 4).all()
    np.testing.assert_array_equal(nn.fill(model, x, np.arange(4) + 5, 0, [[1, 1, 1, 0]] * 3), [0, 2, 1])
    with pytest.raises(ValueError, match="allowed"):
        nn.fill(model, x, np.arange(4) + 5, 0, np.zeros((3, 4)))


# ---- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ["last", "mean", "max", "tagger", "words"])
def test_a_stream_gives_what_the_whole_gives(name, cell):
    model, batch = build_model(name, cell)
    stream = model.stream(4)
    for _ in range(2):
        for t, x in enumerate(batch.x):
            outputs = stream.step(x)
            whole = model(batch.x[: t + 1])
            expected = whole[0][-1] if isinstance(whole, tuple) else whole
            np.testing.assert_allclose(outputs, expected, rtol=1e-9, atol=1e-12)
        stream.reset()
    stream.step(batch.x[0])
    stream.reset([1])
    outputs = stream.step(batch.x[1])
    whole = model(batch.x[1:2, 1:2])
    np.testing.assert_allclose(outputs[1], (whole[0][-1] if isinstance(whole, tuple) else whole)[0], atol=1e-12)


def test_a_stream_is_copied_with_its_state_and_parameters():
    model, batch = build_model("tagger")
    stream = model.stream(4)
    stream.step(batch.x[0])
    copies = [copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))]
    expected = stream.step(batch.x[1])
    for value in model.parts["output"].params.values():
        value += 1
    for each in copies:
        np.testing.assert_array_equal(each.step(batch.x[1]), expected)


def test_a_bidirectional_model_has_no_stream():
    with pytest.raises(ValueError, match="stream: expected a unidirectional layer"):
        build_model("last", bidirectional=True)[0].stream()


# ---- generation ------------------------------------------------------------------------------------------------------


def all_sequences(model, batch, row, max_length):
    """Every sequence of ids 4 and 5 and unknown that ends, with its log-probability, by the model's own loss."""
    scores = {}
    for n in range(max_length):
        for ids in itertools.product([1, 4, 5, 6, 7, 8], repeat=n):
            alone = Batch(_row(batch.x, row, batch.x_lengths), np.array(ids, int).reshape(n, 1))
            loss = model.loss(alone)
            scores[ids] = -loss.value * loss.targets
    return scores


@pytest.mark.parametrize("name", ["caption", "caption_fed", "translate", "attend"])
def test_a_wide_beam_finds_the_likeliest_sequence(name):
    model, batch = build_model(name)
    model.decoder.output.params["weight"] *= 8  # sharper, and with ends in some
    model.decoder.output.params["bias"][EOS] += 2
    ended = 0
    for row in (0, 3):
        scores = all_sequences(model, batch, row, 4)
        alone = Batch(_row(batch.x, row, batch.x_lengths))
        for penalty in (0.0, 1.0):
            (found,) = model.predict_batch(alone, beams=300, max_length=4, length_penalty=penalty)
            if len(found) < 4:  # else it was cut before its end
                ended += 1
                means = {ids: score / (len(ids) + 1) ** penalty for ids, score in scores.items()}
                assert means[tuple(found.tolist())] == pytest.approx(max(means.values()))
    assert ended


@pytest.mark.parametrize("name", ["caption_fed", "attend"])
def test_a_beam_of_one_and_a_temperature_of_zero_are_greedy(name):
    model, batch = build_model(name)
    greedy = model.predict_batch(batch, max_length=9)
    cold = model.generate(batch.x, batch.x_lengths, temperature=0, max_length=9)
    for a, b in zip(greedy, cold, strict=True):
        np.testing.assert_array_equal(a, b)
    drawn, again = (model.generate(batch.x, batch.x_lengths, max_length=9, rng=1) for _ in range(2))
    assert [a.tolist() for a in drawn] == [a.tolist() for a in again]
    assert {PAD, BOS, EOS}.isdisjoint(np.concatenate(drawn))
    assert all(len(a) == 0 for a in model.predict_batch(batch, max_length=0))


def test_an_ensemble_writes_by_the_mean_of_its_models():
    one, batch = build_model("attend")
    other, _ = build_model("attend")
    other.decoder.output.params["weight"] *= -1
    inputs = batch.x, batch.x_lengths
    ids, parents = np.arange(8) % 4 + 4, np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
    steps = nn.WriterEnsemble(one, other).steps(*inputs, 2)
    members = [model.steps(*inputs, 2) for model in (one, other)]
    for _ in range(2):
        mean = sum(nn.softmax(member.step(ids)) for member in members) / 2
        np.testing.assert_allclose(np.exp(steps.step(ids)), mean, rtol=1e-9)
        for moved in (steps, *members):
            moved.select(parents)
    twice = nn.beam_search(nn.WriterEnsemble(one, one).steps(*inputs, 3), 9)
    for found, expected in zip(twice, one.predict_batch(batch, beams=3, max_length=9), strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="models: expected at least one, got none"):
        nn.WriterEnsemble()


def test_a_consensus_leaves_out_what_few_say():
    drawn = [[5, 6, 7], [5, 6, 8], [5, 6, 9], [4]]
    assert nn.consensus(drawn, metrics.token_f1) == [5, 6]
    assert nn.consensus([[7, 5], [7, 5], [5, 7, 7]], metrics.token_f1) == [7, 5]
    assert nn.consensus([[], [], [4]], metrics.token_f1) == []
    exact = [np.array(ids) for ids in ([5, 6], [6, 5], [6, 5], [7])]
    assert nn.consensus(exact, lambda answers, truths: sum(map(operator.eq, answers, truths))) == [6, 5]


def test_predictions_are_in_the_order_of_the_data():
    model, _ = build_model("attend")
    rng = np.random.default_rng(0)
    dataset = Dataset([rng.integers(1, 9, n) for n in rng.integers(0, 9, 20)])
    answers = model.predict(Batches(dataset, 6), beams=3, max_length=6)
    for k, answer in enumerate(answers):
        (expected,) = model.predict_batch(dataset.batch(np.array([k])), beams=3, max_length=6)
        np.testing.assert_array_equal(answer, expected)


@given(st.floats(0, 3), st.integers(0, 99))
def test_draws_follow_the_odds(temperature, seed):
    logits = np.array([[0.0, 1.0, -np.inf, 2.0]]).repeat(2000, axis=0)
    ids = nn.draw(logits, temperature, seed, banned=[3])
    odds = nn.softmax(np.array([0, 1]) / temperature) if temperature > 1e-3 else np.array([0, 1])
    assert set(ids.tolist()) <= {0, 1}
    assert abs((ids == 1).mean() - odds[1]) < 0.06
    np.testing.assert_array_equal(ids, nn.draw(logits, temperature, seed, banned=[3]))


def test_draws_at_extremes():
    assert nn.draw(np.array([[1.0, 2.0]]), 1e-300, 0) == 1
    with pytest.raises(ValueError, match="temperature: expected a number of at least 0, got -1"):
        nn.draw(np.zeros((1, 2)), -1)


def test_draws_check_their_logits():
    for logits in (np.zeros(3), np.zeros((2, 0))):
        with pytest.raises(ValueError, match=r"logits: expected \(B, V\), V at least 1, got"):
            nn.draw(logits)
    with pytest.raises(IndexError):
        nn.draw(np.zeros((2, 3)), banned=[3])
    assert nn.draw(np.zeros((2, 3), np.float16)[:, ::-1], 0, banned=[0, -2]).tolist() == [2, 2]


class Table:
    """`Steps` whose logits, (V, V), are those of the id before."""

    def __init__(self, logits, batch, width):
        self.logits, self.batch, self.width = logits, batch, width

    def step(self, ids):
        return self.logits[ids]

    def select(self, parents):
        pass  # the ids say it all


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_searches_end_whatever_the_logits_are(engine, bad):
    logits = np.random.default_rng(0).standard_normal((9, 9))
    whole = np.full((9, 9), bad)
    for table in (np.where(logits > 0.5, bad, logits), whole):
        for width in (1, 3, 12):
            steps = Table(table, 2, width)
            for found in (nn.beam_search(steps, 5), nn.sample(steps, 5, rng=0), nn.sample(steps, 5, 0)):
                assert all(len(ids) <= 5 and ((ids >= 0) & (ids < 9)).all() for ids in found)


def test_beam_search_finds_the_best_of_all(engine):
    """With as many beams as there are sequences."""
    table = np.random.default_rng(1).standard_normal((6, 6)).astype(np.float32)
    gains = nn.log_softmax(table.astype(np.float64))
    scores = {}
    for ids in itertools.product(range(6), repeat=3):
        if not {PAD, BOS}.isdisjoint(ids):
            continue
        ids = ids[: ids.index(EOS) + 1] if EOS in ids else ids
        scores[ids] = sum(gains[a, b] for a, b in itertools.pairwise((BOS, *ids))) / len(ids)
    best = max(scores, key=scores.get)
    for found in nn.beam_search(Table(table, 2, 80), 3):
        assert found.tolist() == [k for k in best if k != EOS]
    (greedy,) = nn.beam_search(Table(table, 1, 1), 3)
    last = BOS
    for k in greedy:
        table[last, [PAD, BOS]] = -np.inf
        assert k == table[last].argmax()
        last = k


def test_a_language_model_goes_on_with_a_prompt():
    model = nn.ManyToMany(fastrnn.LSTM(4, 5, **F8), nn.Linear(5, 9, **F8), nn.Embedding(9, 4, **F8))
    prompt = [3, 1, 2]
    written = list(itertools.islice(model.generate(prompt, 0), 12))
    outputs, _ = model(np.array(prompt + written)[:-1, None])
    assert outputs[2:, 0].argmax(axis=1).tolist() == written
    warm = itertools.islice(model.generate(prompt, 5.0, 0, banned=range(7)), 50)
    assert set(warm) == {7, 8}
    with pytest.raises(ValueError, match="prompt: expected at least one id"):
        next(model.generate([]))


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_from_its_file(name, suffix, tmp_path):
    model, batch = build_model(name, "gru", dropout=0.25)
    model.vocabularies = {"words": Vocabulary(["고양이", "\ud800"]), "tags": Vocabulary(["a"], ())}
    model.notes = {"mean": [0.1, 1e-300], "unit": None, "deep": {"a": True}}
    path = tmp_path / f"model.{suffix}"
    model.save(path, {"more": "words"})
    loaded = nn.load(path)
    assert type(loaded) is type(model)
    assert loaded.options == model.options
    assert loaded.vocabularies == model.vocabularies
    assert loaded.notes == model.notes
    assert loaded.params.keys() == model.params.keys()
    assert loaded.loss(batch).value == model.loss(batch).value
    assert loaded.loss_and_grads(batch, rng=1).value == model.loss_and_grads(batch, rng=1).value  # dropout, too
    assert serialization.load(path)[1]["more"] == "words"


def test_options_that_weights_do_not_show_come_back(tmp_path):
    rnn = fastrnn.GRU(4, 3, reset_after=False, update_gate="replace", **F8)
    model = nn.ManyToMany(rnn, nn.Linear(3, 2, bias=False, **F8))
    model.save(tmp_path / "m.npz")
    x = np.random.default_rng(0).standard_normal((5, 2, 4))
    np.testing.assert_array_equal(nn.load(tmp_path / "m.npz")(x)[0], model(x)[0])
    np.testing.assert_array_equal(fastrnn.load(tmp_path / "m.npz", prefix="rnn.")(x)[0], rnn(x)[0])
    peephole = nn.ManyToMany(fastrnn.LSTM(4, 3, peephole=True, **F8), nn.Activation("relu"))
    peephole.save(tmp_path / "p.npz")
    np.testing.assert_array_equal(nn.load(tmp_path / "p.npz")(x)[0], peephole(x)[0])


class Twice(nn.Model):
    """A model of a user's: a mean over two layers' outputs, and a number for it."""

    def __init__(self, first, second, scale):
        self.first, self.second, self.scale = first, second, scale
        super().__init__({"first": first, "second": second}, scale=scale)

    def loss_and_grads(self, batch, rng=None):
        (a, tape_a), (b, tape_b) = self.first.forward(batch.x), self.second.forward(batch.x)
        value = float((a * b).sum()) * self.scale
        found = {"first": self.first.backward(tape_a, b * self.scale)}
        found["second"] = self.second.backward(tape_b, a * self.scale)
        return value, nn.parameters(found)


def test_a_users_model_is_checked_and_kept(tmp_path):
    model = Twice(nn.Linear(3, 2, **F8), nn.Linear(3, 2, dtype=np.float64, rng=1), 0.5)
    batch = Batch(np.random.default_rng(0).standard_normal((4, 3)))
    assert max(check_gradients(model, batch).values()) < GRADIENT
    model.save(tmp_path / "m.npz")
    with pytest.raises(ValueError, match=r"m\.npz: not a model .*or of classes=, got 'Twice'"):
        nn.load(tmp_path / "m.npz")
    loaded = nn.load(tmp_path / "m.npz", classes=[Twice])
    assert loaded.loss_and_grads(batch)[0] == model.loss_and_grads(batch)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, t: d["model"].update({"class": "os.system"}), "got 'os.system'"),
        (lambda d, t: d["model"].update({"class": "Linear"}), "not a model"),
        (lambda d, t: d["model"]["parts"]["rnn"].update({"class": "GRU"}), "expected GRU, got LSTM"),
        (lambda d, t: d["model"]["options"].update(pooling="median"), "pooling: expected one of"),
        (lambda d, t: d["model"]["options"].update(more=1), "unexpected keyword"),
        (lambda d, t: d["model"]["parts"].pop("embedding"), "embedding.weight"),
        (lambda d, t: d.pop("notes"), "KeyError"),
        (lambda d, t: d.update(model=[1]), "TypeError"),
        (lambda d, t: t.pop("output.weight"), "weight: expected a matrix"),
        (lambda d, t: t.update({"output.weight": np.zeros((3, 7))}), "output: expected in_features 5, got 7"),
        (lambda d, t: t.update({"extra": np.zeros(1)}), "got ['extra'] too"),
        (
            lambda d, t: t.update({"embedding.weight": np.zeros((3, 4), np.float32)}),
            "parts: expected parameters of one",
        ),
    ],
)
def test_files_that_are_no_models(change, message, tmp_path):
    model, _ = build_model("last")
    model.save(tmp_path / "m.npz")
    tensors, words = serialization.load(tmp_path / "m.npz")
    described = json.loads(words["fastrnn.model"])
    change(described, tensors)
    serialization.save(tmp_path / "m.npz", tensors, {**words, "fastrnn.model": json.dumps(described)})
    with pytest.raises(ValueError, match=r"m\.npz: not a model") as caught:
        nn.load(tmp_path / "m.npz")
    assert message in str(caught.value)


def test_notes_that_json_cannot_hold(tmp_path):
    model, _ = build_model("last")
    model.notes["array"] = np.zeros(2)
    with pytest.raises(TypeError, match="JSON"):
        model.save(tmp_path / "m.npz")
    assert list(tmp_path.iterdir()) == []


# ---- parts and errors ------------------------------------------------------------------------------------------------


def test_dropout_keeps_the_expectation():
    x = np.ones((400, 500), np.float32)
    drop = nn.Dropout(0.25)
    y, tape = drop.forward(x, rng=0)
    assert abs((y == 0).mean() - 0.25) < 0.005
    np.testing.assert_array_equal(y[y > 0], np.float32(1 / 0.75))
    np.testing.assert_array_equal(drop.backward(tape, x).x, y)
    assert drop(x) is x
    assert nn.Dropout(0.0).forward(x)[0] is x


def test_forget_gates_are_opened():
    lstm = fastrnn.LSTM(3, 4, 2, bidirectional=True, rng=0)
    nn.set_forget_bias(lstm, 2.0)
    for name, bias in lstm.params.items():
        if name.startswith("bias"):
            assert (bias[4:8] == (2.0 if "_ih_" in name else 0.0)).all()
            assert (bias[:4] != 0).all()
    for layer, error in ((fastrnn.GRU(3, 4), TypeError), (fastrnn.LSTM(3, 4, bias=False), ValueError)):
        with pytest.raises(error, match="layer: expected an LSTM"):
            nn.set_forget_bias(layer)


def test_squared_error_is_its_formula():
    p, t = np.array([[1.0, 2.0], [3.0, np.inf]]), np.array([[0.0, 4.0], [np.nan, 1.0]])
    criterion = nn.MeanSquaredError()
    loss, tape = criterion.forward(p, t, weights=[[1, 3], [1, 0]])
    assert loss == (1 + 3 * 4) / 4
    np.testing.assert_array_equal(criterion.backward(tape, 2.0).x, [[1, -6], [0, 0]])
    assert tape.count == 2
    assert criterion(p, np.full((2, 2), np.nan)) == 0.0
    for targets, error, message in (
        (t[:1], ValueError, r"targets: expected \(2, 2\)"),
        (t.astype(np.float32), TypeError, "targets: expected an array of float64"),
    ):
        with pytest.raises(error, match=message):
            criterion(p, targets)


def linear(i, o):
    return nn.Linear(i, o, rng=0)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: nn.ManyToOne(linear(2, 2), linear(2, 2)), TypeError, "rnn: expected an RNN, LSTM or GRU, got Linear"),
        (
            lambda: nn.ManyToOne(fastrnn.GRU(2, 3, batch_first=True), linear(3, 2)),
            ValueError,
            "rnn: expected batch_first",
        ),
        (lambda: nn.ManyToOne(fastrnn.GRU(2, 3), linear(2, 2)), ValueError, "output: expected in_features 3, got 2"),
        (
            lambda: nn.ManyToMany(fastrnn.GRU(2, 3), linear(3, 2), nn.Embedding(5, 4)),
            ValueError,
            "rnn: expected input_size 4, what it reads, got 2",
        ),
        (lambda: nn.ManyToOne(fastrnn.GRU(2, 3), linear(3, 2), pooling="sum"), ValueError, "pooling: expected one of"),
        (lambda: nn.ManyToOne(fastrnn.GRU(2, 3), linear(3, 2), loss="mae"), ValueError, "loss: expected one of"),
        (lambda: nn.ManyToOne(fastrnn.GRU(2, 3), linear(3, 2), dropout=1.0), ValueError, "probability: expected"),
        (lambda: nn.ManyToOne(fastrnn.GRU(2, 3), linear(3, 2), dropout=[0.1]), ValueError, "dropout: .* a pair, got 1"),
        (lambda: nn.ManyToMany(fastrnn.GRU(2, 3), linear(3, 2), locked=None), TypeError, "locked: expected True or"),
        (lambda: nn.ManyToMany(fastrnn.GRU(2, 3), linear(3, 2), tar=-1.0), ValueError, "tar: .* got -1"),
        (
            lambda: nn.ManyToMany(fastrnn.GRU(3, 3), linear(3, 2), nn.Embedding(5, 3), tied=True),
            ValueError,
            r"tied: expected an output whose weight is like the table \(5, 3\), got \(2, 3\)",
        ),
        (
            lambda: nn.ManyToMany(fastrnn.GRU(3, 3), linear(3, 3), tied=True),
            TypeError,
            "embedding: expected Embedding or FrozenEmbedding, got NoneType",
        ),
        (
            lambda: nn.ManyToOne(fastrnn.GRU(2, 3, dtype=np.float64), linear(3, 2)),
            TypeError,
            "parts: expected parameters of one dtype",
        ),
        (
            lambda: nn.Decoder(nn.Embedding(9, 2), fastrnn.LSTM(2, 3), linear(3, 9), linear(4, 3)),
            ValueError,
            "bridge: expected out_features 6, the state's, got 3",
        ),
        (
            lambda: nn.Decoder(nn.Embedding(9, 2), fastrnn.LSTM(2, 3, bidirectional=True), linear(6, 9), linear(4, 12)),
            ValueError,
            "rnn: expected a unidirectional layer",
        ),
        (
            lambda: nn.Decoder(nn.Embedding(9, 2), fastrnn.GRU(2, 3), linear(3, 9), linear(4, 3), nn.Attention(4, 4)),
            ValueError,
            "attention: expected query_size 3, got 4",
        ),
        (nn.Ensemble, ValueError, "models: expected at least one, got none"),
        (
            lambda: nn.EncoderDecoder(
                fastrnn.GRU(2, 5), nn.Decoder(nn.Embedding(9, 2), fastrnn.GRU(2, 3), linear(3, 9), linear(4, 3))
            ),
            ValueError,
            "decoder: expected a bridge with in_features 5, got 4",
        ),
    ],
)
def test_parts_that_do_not_fit(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_batches_that_do_not_fit():
    model, batch = build_model("tagger")
    with pytest.raises(ValueError, match=r"batch\.y: expected \(6, 4\) and maybe more axes"):
        model.loss(dataclasses.replace(batch, y=batch.y[:-1]))
    with pytest.raises(ValueError, match=r"batch\.weights: expected \(4,\), one for each example, got \(3,\)"):
        model.loss(dataclasses.replace(batch, weights=np.ones(3)))
    with pytest.raises(ValueError, match="batches: expected batches of a data set"):
        model.predict([Batch(batch.x)])
    with pytest.raises(ValueError, match=r"batch\.x: expected a batch of sequences, got one sequence, \(6,\)"):
        model.predict_batch(Batch(batch.x[:, 0]))
    model, batch = build_model("attend")
    with pytest.raises(ValueError, match=r"batch\.y: expected ids \(U, B\), got None"):
        model.loss(dataclasses.replace(batch, y=None))
    with pytest.raises(ValueError, match=r"batch\.weights: expected None"):
        model.loss(dataclasses.replace(batch, weights=np.ones(4)))
