"""fastrnn.data: vocabularies, padding, batches and chunks hold what they were given, each once, in a known order."""

import gzip
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrnn import data
from fastrnn.data import BOS, EOS, PAD, SPECIALS, UNK, Batches, Chunks, Dataset, Ragged, Vocabulary

RNG = np.random.default_rng(5)
SEQUENCES = st.lists(st.lists(st.integers(1, 9), max_size=6), max_size=12)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_blocks_of_a_table(tmp_path):
    text = "# a comment\n나는\tPRON\n간다\tVERB\n\n\n# nothing\n\n끝\t\n"
    blocks = [[["나는", "PRON"], ["간다", "VERB"]], [["끝", ""]]]
    (tmp_path / "a.tsv").write_bytes(text.encode())
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "windows.tsv").write_bytes(text.replace("\n", "\r\n").encode())
    for name in ("a.tsv", "a.tsv.gz", "windows.tsv"):
        assert list(data.read_blocks(tmp_path / name)) == blocks
        assert list(data.read_blocks(str(tmp_path / name))) == blocks
    (tmp_path / "empty").touch()
    assert list(data.read_blocks(tmp_path / "empty")) == []


# ---- vocabularies ----------------------------------------------------------------------------------------------------


@given(st.text(), st.text())
def test_a_vocabulary_encodes_what_it_knows(text, other):
    vocabulary = Vocabulary.build([text])
    assert "".join(vocabulary.decode(vocabulary.encode(text))) == text
    expected = [c if c in text else "<unk>" for c in other]
    assert vocabulary.decode(vocabulary.encode(other)) == expected


def test_special_tokens_are_where_decoders_look_for_them():
    vocabulary = Vocabulary(["a"])
    assert [vocabulary.id(token) for token in SPECIALS] == [PAD, UNK, BOS, EOS] == [0, 1, 2, 3]
    assert vocabulary.decode([BOS, 4, UNK, EOS, PAD]) == ["a", "<unk>"]
    assert len(vocabulary) == 5
    assert "a" in vocabulary
    assert "b" not in vocabulary


def test_build_orders_by_frequency_and_cuts():
    words = [["b", "a", "c"], ["b", "c"], ["b", "<unk>"]]
    assert Vocabulary.build(words).tokens == (*SPECIALS, "b", "c", "a")
    assert Vocabulary.build(words, min_count=2).tokens == (*SPECIALS, "b", "c")
    assert Vocabulary.build(words, max_size=5).tokens == (*SPECIALS, "b")
    assert Vocabulary.build(words, specials=()).tokens == ("b", "c", "<unk>", "a")


def test_a_vocabulary_of_tags_is_strict():
    tags = Vocabulary(["NOUN", "VERB"], specials=())
    np.testing.assert_array_equal(tags.encode(["VERB", "NOUN"]), [1, 0])
    with pytest.raises(KeyError, match=r"token: expected one of the vocabulary.*got 'ADJ'"):
        tags.encode(["ADJ"])
    with pytest.raises(ValueError, match="tokens: expected each once, got 'a'"):
        Vocabulary("aba")
    with pytest.raises(TypeError, match="tokens: expected strings, got int"):
        Vocabulary([1])


def test_words_with_their_characters():
    words, characters = Vocabulary(["the", "cat"]), Vocabulary("abcdeht")
    ids = data.encode_words(["the", "dog", "cataract"], words, characters, 5)
    assert ids.shape == (3, 6)
    assert ids[:, 0].tolist() == [words.id("the"), UNK, UNK]
    assert characters.decode(ids[0, 1:]) == list("the")
    assert ids[0, 4:].tolist() == [0, 0]
    assert characters.decode(ids[2, 1:]) == ["c", "a", "t", "c", "t"]  # three of its start, two of its end
    more = data.encode_words(["the", "cat"], words, characters, 5, more=[["cat", "?"], ["the", "the"]])
    np.testing.assert_array_equal(more[:, [0, *range(3, 8)]], data.encode_words(["the", "cat"], words, characters, 5))
    assert more[:, 1:3].tolist() == [[words.id("cat"), UNK], [words.id("the")] * 2]
    with pytest.raises(ValueError, match="characters: expected a vocabulary with '<pad>' at 0"):
        data.encode_words(["a"], words, Vocabulary("a", ()))


# ---- padding and batches ---------------------------------------------------------------------------------------------


@given(SEQUENCES)
def test_padding_keeps_every_value(sequences):
    ragged = Ragged.of(sequences)
    assert [row.tolist() for row in ragged] == sequences
    padded, lengths = ragged.pad()
    T = max(map(len, sequences), default=0)
    assert padded.shape == (T, len(sequences))
    for k, sequence in enumerate(sequences):
        assert padded[:, k].tolist() == sequence + [0] * (T - len(sequence))
    assert lengths is None or lengths.tolist() == [len(sequence) for sequence in sequences]
    assert (lengths is None) == (len({len(sequence) for sequence in sequences}) <= 1)


def test_padding_of_features_and_windows():
    frames = [RNG.standard_normal((n, 3)).astype(np.float32) for n in (2, 0, 4)]
    padded, lengths = Ragged.of(frames).pad([2, 0])
    assert padded.dtype == np.float32
    assert lengths.tolist() == [4, 2]
    np.testing.assert_array_equal(padded[:2, 1], frames[0])
    assert not padded[2:, 1].any()
    series = np.arange(20.0).reshape(10, 2)
    windows = Ragged.windows(series, 4, [0, 1, 6])
    padded, lengths = windows.pad()
    assert lengths is None
    np.testing.assert_array_equal(padded[:, 2], series[6:])
    assert np.shares_memory(windows[1], series)
    with pytest.raises(ValueError, match="starts, lengths: expected pieces of 10 values"):
        Ragged.windows(series, 4, [7])


@pytest.mark.parametrize("series", [np.zeros((500_000, 2)), np.zeros((2, 500_000)).T], ids=["contiguous", "columns"])
def test_a_batch_of_a_long_series_copies_its_windows_only(series):
    """Also where the series is not contiguous, as a table that is kept by columns."""
    windows = Ragged.windows(series, 4, np.arange(1000))
    tracemalloc.start()
    padded, _ = windows.pad([3, 4])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert padded.shape == (4, 2, 2)
    assert most < 64 * 1024 < series.nbytes


@given(SEQUENCES, st.integers(1, 5), st.integers(1, 3), st.integers(0, 9))
def test_batches_hold_every_example_once(sequences, size, pool, seed):
    dataset = Dataset(Ragged.of(sequences), np.arange(len(sequences)))
    batches = Batches(dataset, size, pool=pool)
    for drawn in (list(batches), list(batches(np.random.default_rng(seed)))):
        assert len(drawn) == len(batches)
        assert sorted(k for batch in drawn for k in batch.y.tolist()) == list(range(len(sequences)))
        for batch in drawn:
            np.testing.assert_array_equal(batch.rows, batch.y)
            lengths = batch.x_lengths if batch.x_lengths is not None else [len(batch.x)] * len(batch.y)
            for column, length, row in zip(batch.x.T, lengths, batch.rows, strict=True):
                assert column[:length].tolist() == sequences[row]


def test_batches_are_of_like_lengths_and_a_function_of_the_generator():
    lengths = RNG.integers(1, 100, 1000)
    dataset = Dataset([np.ones(n, int) for n in lengths], lengths)
    batches = Batches(dataset, 20)

    def padding(drawn):
        return np.mean([1 - (b.x != 0).mean() for b in drawn])

    assert padding(batches(np.random.default_rng(0))) < 0.05
    assert padding(Batches(dataset, 20, pool=1)(np.random.default_rng(0))) > 0.3
    first, again, other = ([b.rows.tolist() for b in batches(np.random.default_rng(k))] for k in (1, 1, 2))
    assert first == again != other
    assert [len(b.x) for b in batches] == sorted(len(b.x) for b in batches)


def test_columns_of_a_data_set():
    dataset = Dataset(np.zeros((3, 2), np.float32), [[1], [2, 3], []])
    batch = dataset.batch(np.array([1, 2]))
    assert batch.x.shape == (2, 2)
    assert batch.x_lengths is None
    assert batch.y.tolist() == [[2, 0], [3, 0]]
    assert batch.y_lengths.tolist() == [2, 0]
    part = dataset.take(np.array([False, True, True]))
    assert len(part) == 2
    assert [y.tolist() for y in part.y] == [[2, 3], []]
    with pytest.raises(ValueError, match="y: expected as many examples as x, 1, got 2"):
        Dataset([1], [1, 2])
    with pytest.raises(ValueError, match=r"weights: expected \(2,\), one for each example, got \(1,\)"):
        Dataset([1, 2], [1, 2], [0.5])


def test_weights_stay_with_their_examples():
    dataset = Dataset([[1, 2], [3], [4]], [0, 1, 0], [0.5, 1.0, 2.0])
    assert dataset.take([2, 0]).batch(np.array([0, 1])).weights.tolist() == [2.0, 0.5]
    assert Dataset([1, 2]).batch(np.array([0])).weights is None


# ---- chunks of a text ------------------------------------------------------------------------------------------------


def test_chunks_follow_each_other():
    ids = np.arange(1, 60)
    chunks = Chunks(ids, 3, 4)
    starts = set()
    for seed in range(20):
        passed = list(chunks(np.random.default_rng(seed)))
        assert len(passed) == len(chunks)
        assert [batch.follows for batch in passed] == [False] + [True] * (len(passed) - 1)
        before = None
        for batch in passed:
            assert batch.x.shape == (4, 3)
            np.testing.assert_array_equal(batch.y, batch.x + 1)
            assert before is None or (batch.x[0] == before + 1).all()
            before = batch.x[-1]
        starts.add(passed[0].x[0, 0])
    assert starts == {1, 2, 3, 4}


@given(st.integers(2, 700))
def test_chunks_to_evaluate_are_nearly_all_of_the_text(n):
    chunks = list(Chunks.to_evaluate(np.arange(n), 4, 16))
    columns = chunks[0].x.shape[1]
    assert columns == max(1, min(4, (n - 1) // 16))
    seen = np.concatenate([batch.y for batch in chunks])
    assert seen.size > n - 1 - columns
    np.testing.assert_array_equal(np.sort(seen.reshape(-1)), np.arange(1, seen.size + 1))


def test_too_short_texts_say_so():
    with pytest.raises(ValueError, match=r"ids: expected \(n,\) with n of at least 4, got \(3,\)"):
        Chunks(np.arange(3), 3, 4)
    with pytest.raises(ValueError, match=r"ids: expected at least 13 to train on .* got 12"):
        list(Chunks(np.arange(12), 3, 4)(RNG))
    assert len(list(Chunks(np.arange(13), 3, 4)(RNG))) == len(Chunks(np.arange(13), 3, 4)) == 1


def test_some_targets_are_shown_and_the_others_are_to_be_learned():
    y = [RNG.integers(0, 3, n) for n in (4, 9, 9, 6) * 20]
    y[0][:] = -100
    batches = Batches(Dataset([np.stack([0 * a, 0 * a + 9], axis=1) for a in y], y), 8)
    source, ids = data.PartlyShown(batches, np.array([5, 6, 7]), column=0), np.array([5, 6, 7])
    assert len(source) == len(batches) == 10
    shares = []
    for batch, plain in zip(source(np.random.default_rng(1)), batches(np.random.default_rng(1)), strict=False):
        assert (batch.x[..., 1] == plain.x[..., 1]).all()
        shown = batch.x[..., 0] != 0
        np.testing.assert_array_equal(batch.x[..., 0][shown], ids[plain.y[shown]])
        np.testing.assert_array_equal(batch.y, np.where(shown, -100, plain.y))
        shares += shown.mean(axis=0).tolist()
    assert min(shares) < 0.2 < 0.4 < np.mean(shares) < 0.6 < 0.8 < max(shares)
    for batch, plain in zip(source, batches, strict=True):
        np.testing.assert_array_equal(batch.x, plain.x)
        np.testing.assert_array_equal(batch.y, plain.y)
    with pytest.raises(ValueError, match="expected targets"):
        next(data.PartlyShown(Batches(Dataset([[1]]), 1), ids, 0)(np.random.default_rng(1)))
