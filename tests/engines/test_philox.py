"""Random words from a counter, and dropout by them: the same mask in every engine, dtype, instruction set and team."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastrnn
from fastrnn._core import native
from fastrnn.engines import philox
from fastrnn.engines.compiled_operations import CompiledOperations
from fastrnn.engines.reference_operations import ReferenceOperations

KEYS = st.integers(0, 2**64 - 1)
PROBABILITIES = st.floats(0, 1, exclude_max=True)
ONES = 2**32 - 1


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "digits of pi"],
)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    """Those that its authors publish: kat_vectors of Random123."""
    found = philox.philox(np.array(counter, np.uint64)[:, None], key[0] + (key[1] << 32))
    assert tuple(found[:, 0].tolist()) == expected


def test_each_word_is_used_once() -> None:
    blocks = np.arange(48, dtype=np.uint64)
    none = np.zeros_like(blocks)
    found = philox.philox(np.stack([blocks, none, none, none]), 5)
    assert sorted(philox.words(5, 192).tolist()) == sorted(found.reshape(-1).tolist())
    assert philox.words(5, 192)[64 + 16 * 3 + 7] == found[3, 16 + 7]


@given(n=st.integers(0, 700), key=KEYS, probability=PROBABILITIES, dtype=st.sampled_from([np.float32, np.float64]))
def test_every_instruction_set_has_the_bits_of_the_reference(
    isa: str, n: int, key: int, probability: float, dtype: type
) -> None:
    x = np.random.default_rng(n).standard_normal(n).astype(dtype)
    before = x.copy()
    expected, actual = (o.dropout(x, key, probability) for o in (ReferenceOperations(), CompiledOperations()))
    assert actual.dtype == expected.dtype == dtype
    np.testing.assert_array_equal(actual.view(np.uint8), expected.view(np.uint8))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("split", ["rows", "units"])
def test_every_number_of_threads_has_the_same_bits(dtype: type, split: str) -> None:
    x = np.random.default_rng(0).standard_normal(10_007).astype(dtype)
    expected = ReferenceOperations().dropout(x, 77, 0.4)
    native.insist_on_teams(split)
    try:
        for threads in (1, 2, 3, 8):
            with fastrnn.num_threads(threads):
                np.testing.assert_array_equal(CompiledOperations().dropout(x, 77, 0.4), expected)
    finally:
        native.insist_on_teams(None)


@given(n=st.integers(0, 400), first=st.integers(0, 400), key=KEYS, dtype=st.sampled_from([np.float32, np.float64]))
def test_a_part_has_the_mask_of_its_place(n: int, first: int, key: int, dtype: type) -> None:
    x = np.random.default_rng(n).standard_normal(first + n).astype(dtype)
    for operations in (ReferenceOperations(), CompiledOperations()):
        whole, part = operations.dropout(x, key, 0.4), operations.dropout(x[first:].copy(), key, 0.4, first)
        np.testing.assert_array_equal(part, whole[first:])


@given(key=KEYS, probability=PROBABILITIES)
def test_both_dtypes_have_the_same_mask(key: int, probability: float) -> None:
    masks = [CompiledOperations().dropout(np.ones(300, dtype), key, probability) != 0 for dtype in ("f4", "f8")]
    np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize("operations", [ReferenceOperations(), CompiledOperations()])
def test_a_value_that_is_dropped_is_zero_whatever_it_was(operations: ReferenceOperations) -> None:
    x = np.array([np.nan, np.inf, -np.inf, -1.0] * 100)
    y = operations.dropout(x, 3, 0.5)
    stays = operations.dropout(np.ones(400), 3, 0.5) != 0
    assert 100 < stays.sum() < 300
    np.testing.assert_array_equal(y[stays], 2 * x[stays])
    np.testing.assert_array_equal(y[~stays].view(np.uint64), 0)  # not even -0


class TestStatistics:
    """Counts of values that stay, within six standard deviations of what chance gives."""

    N = 200_000

    def kept(self, key: int, probability: float) -> np.ndarray:
        return CompiledOperations().dropout(np.ones(self.N, np.float32), key, probability) != 0

    def close(self, count: int, share: float, of: int) -> bool:
        return abs(count - share * of) < 6 * np.sqrt(share * (1 - share) * of)

    @pytest.mark.parametrize("probability", [0.01, 0.1, 0.5, 0.9, 0.99])
    def test_rate(self, probability: float) -> None:
        for key in (0, 1, 2**63):
            assert self.close(self.kept(key, probability).sum(), 1 - probability, self.N)

    @pytest.mark.parametrize("distance", [1, 2, 3, 4, 15, 16, 17, 32, 48, 63, 64, 65, 256, 1024, 65536])
    def test_places_are_independent(self, distance: int) -> None:
        kept = self.kept(12345, 0.5)
        equal = kept[distance:] == kept[:-distance]
        assert self.close(equal.sum(), 0.5, equal.size)

    @pytest.mark.parametrize("bit", [0, 1, 31, 32, 33, 63])
    def test_keys_are_independent(self, bit: int) -> None:
        equal = self.kept(12345, 0.5) == self.kept(12345 ^ (1 << bit), 0.5)
        assert self.close(equal.sum(), 0.5, self.N)

    def test_a_key_has_64_random_bits(self) -> None:
        rng = np.random.default_rng(0)
        keys = [philox.new_key(rng) for _ in range(1000)]
        assert len(set(keys)) == 1000
        for bit in range(64):
            assert self.close(sum(key >> bit & 1 for key in keys), 0.5, 1000)
