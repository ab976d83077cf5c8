"""Random words that are functions of a key and a place: Philox4x32-10, in NumPy.

A counter-based generator has no state: word k of a key can be computed by itself, in any order, and again. So dropout
keeps a key instead of a mask. csrc/kernels/dropout_body.h computes the same words with vectors.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["new_key", "philox", "stays", "threshold", "words"]

LOW = 0xFFFFFFFF  # the bits of a word
GROUP = 16  # blocks whose words are interleaved


def new_key(rng: np.random.Generator) -> int:
    """Draw a key, 64 bits."""
    return int(rng.integers(1 << 64, dtype=np.uint64))


def philox(counters: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """Return the blocks of four words, (4, N), of counters of four words, (4, N), under a key of two words."""
    x0, x1, x2, x3 = counters
    k0, k1 = key & LOW, key >> 32
    for _ in range(10):
        a, b = 0xD2511F53 * x0, 0xCD9E8D57 * x2
        x0, x1, x2, x3 = (b >> 32) ^ x1 ^ k0, b & LOW, (a >> 32) ^ x3 ^ k1, a & LOW
        k0, k1 = (k0 + 0x9E3779B9) & LOW, (k1 + 0xBB67AE85) & LOW
    return np.stack([x0, x1, x2, x3])


def words(key: int, count: int, first: int = 0) -> NDArray[np.uint64]:
    """Return `count` words of a key from word `first` on. Word 64*g + 16*w + j is word w of block 16*g + j."""
    group, before = divmod(first, 4 * GROUP)
    blocks = np.arange(group * GROUP, (group - (-(before + count) // (4 * GROUP))) * GROUP, dtype=np.uint64)
    none = np.zeros_like(blocks)
    found = philox(np.stack([blocks & LOW, blocks >> 32, none, none]), key)
    return found.reshape(4, -1, GROUP).swapaxes(0, 1).reshape(-1)[before : before + count]


def stays(
    key: int, what: int, rows: NDArray[np.int64], step: int, count: int, probability: float
) -> NDArray[np.bool_]:  # fmt: skip
    """Whether each value (rows, count) of a step stays: unit 64*g + 16*w + j has word w of block 16*g + j.

    The other words of a block's counter are what is drawn, the row's number and the step's.
    """
    blocks = np.arange(-(-count // (4 * GROUP)) * GROUP, dtype=np.uint64)
    counters = [*np.broadcast_arrays(blocks, np.uint64(what), rows.astype(np.uint64)[:, None] & LOW, np.uint64(step))]
    found = philox(np.stack([a.reshape(-1) for a in counters]), key).reshape(4, len(rows), len(blocks) // GROUP, GROUP)
    return found.transpose(1, 2, 0, 3).reshape(len(rows), 4 * len(blocks))[:, :count] >= threshold(probability)


def threshold(probability: float) -> int:
    """The least word of 32 bits with which a value stays."""
    return int(probability * 2**32)
