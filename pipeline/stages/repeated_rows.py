"""Find rows that nobody can tell apart: nearly the same picture at different places. Pure.

A provider's "no imagery" picture comes as files of different quality, so that its descriptors are near each
other, but not equal. Comparing all rows with all others would take too long. Instead each row gets a signature
of 128 bits, the signs of fixed projections. Near rows differ in few bits, so that in several orders by
different bits they become neighbours in at least one; only neighbours are compared (M. Charikar, Similarity
Estimation Techniques from Rounding Algorithms, STOC 2002).

How near is near depends on the network: some give similar descriptors to all pictures. So distances are
measured against the greatest one of the build.

All sums are of whole numbers that the floating-point type holds exactly, so that every machine finds the same.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]
Words = NDArray[np.uint64]

_ONE: Final = 1 << 15
"""The number 1 after rounding to whole numbers. A sum of 65,536 of a unit vector stays below 2**24."""
_SIGNATURE_BITS: Final = 128
_ORDERS: Final = 8
_NEIGHBOURS: Final = 2
_MOST_BITS: Final = 16
"""Differing bits of rows that are compared; of near rows 4 differ, give or take 2, of others dozens."""
_NEAR: Final = 0.005
"""Near are rows at most this part of the greatest squared distance apart: a cosine of 0.995. Measured with
`builtin:place`: one placeholder at many qualities 0.995 and more, neighbouring ground at most 0.61."""
_GREATEST: Final = 2.0
"""Of the greatest squared distance at most this counts: that of vectors at right angles."""
_BITS_IN_BYTE: Final = np.array([value.bit_count() for value in range(256)], np.uint8)


class RowSignatures:
    """The signatures of rows, which are added part by part, and how far they are apart at most."""

    def __init__(self) -> None:
        self._signatures = [np.zeros((0, _SIGNATURE_BITS // 8), np.uint8)]
        self._greatest = 0.0
        self._first = np.zeros(0)
        self._signs = np.zeros((0, 0), np.float32)

    def add(self, part: Floats) -> None:
        """Add the next rows: unit vectors, float32 [k, d]."""
        if not len(part):
            return
        whole = _whole(part)
        if not len(self._first):
            self._first = whole[0].astype(np.float64)
            # Numpy keeps these numbers the same in all its versions.
            words = np.random.PCG64(0).random_raw(part.shape[1] * _SIGNATURE_BITS // 64)
            bits = np.unpackbits(words.astype("<u8").view(np.uint8)).reshape(part.shape[1], _SIGNATURE_BITS)
            self._signs = bits * np.float32(2) - np.float32(1)
        self._signatures.append(np.packbits(whole @ self._signs > 0, axis=1))
        differences = whole - self._first
        self._greatest = max(self._greatest, float(np.einsum("nd,nd->n", differences, differences).max()))

    def repeated(
        self, places: NDArray[np.int64], vectors_of: Callable[[Rows], Iterable[Floats]], *, apart: int = 0
    ) -> NDArray[np.bool_]:
        """Say of each row whether another one, far enough away, is nearly equal.

        Args:
            places: A place for each row, whole numbers of any unit, int64 [n, 2].
            vectors_of: Given ascending numbers of rows, returns their vectors in parts, in this order; called only
                if rows may be near.
            apart: Only rows are compared whose places differ by more than this along an axis.

        Returns:
            bool [n].

        Raises:
            Exception: As raised by `vectors_of`.
        """
        found = np.zeros(len(places), np.bool_)
        if len(found) < 2:
            return found
        partners, bits = _likely_partners(np.concatenate(self._signatures), places, apart)
        rows = np.flatnonzero(bits <= _MOST_BITS)
        most = _NEAR * min(self._greatest / _ONE**2, _GREATEST)
        rows = rows[_squared_distances(vectors_of, rows, partners[rows], len(found)) <= most]
        found[rows] = found[partners[rows]] = True
        return found


def _whole(vectors: Floats) -> Floats:
    whole: Floats = np.rint(vectors * np.float32(_ONE))
    return whole


def _likely_partners(
    signatures: NDArray[np.uint8], places: NDArray[np.int64], apart: int
) -> tuple[Rows, NDArray[np.uint8]]:
    """Return for each row the one that is likely its nearest, and in how many bits they differ.

    Rows that differ from all their neighbours in more than `_MOST_BITS` have 255.
    """
    bits = np.full(len(signatures), 255, np.uint8)
    partners = np.zeros(len(signatures), np.intp)
    # Two columns on their own: NumPy is slow along an axis of two.
    words = [column.astype(np.uint64) for column in signatures.view(">u8").T]
    step = signatures.shape[1] // _ORDERS
    for turn in range(_ORDERS):
        order = _stable_order(_turned(words, 8 * turn * step))
        first, second = (word[order] for word in words)
        for ahead in range(1, _NEIGHBOURS + 1):
            differing = count_bits(first[:-ahead] ^ first[ahead:])
            differing += count_bits(second[:-ahead] ^ second[ahead:])
            near = np.flatnonzero(differing <= _MOST_BITS)
            one, other = order[near], order[near + ahead]
            far = (np.abs(places[one] - places[other]) > apart).any(axis=1)
            one, other, differing = one[far], other[far], differing[near[far]]
            for these, those in ((one, other), (other, one)):
                better = differing < bits[these]
                bits[these[better]], partners[these[better]] = differing[better], those[better]
    return partners, bits


def _turned(words: Sequence[Words], shift: int) -> Words:
    """Return the first 64 bits of each signature, two words, after it was turned right by some bits."""
    word, rest = divmod(shift, 64)
    first, before = words[word], words[word - 1]
    return first if not rest else (before << np.uint64(64 - rest)) | (first >> np.uint64(rest))


def _stable_order(keys: Words) -> Rows:
    """Return the rows by rising key, and of equal keys in their order.

    A stable order does not use the vector instructions of a processor, and sorting numbers is faster than sorting rows
    by them. So the number of each row replaces the last bits of its key; what has equal first bits is then sorted by
    the whole keys.
    """
    numbers = np.uint64((1 << len(keys).bit_length()) - 1)
    packed = np.sort(keys & ~numbers | np.arange(len(keys), dtype=np.uint64))
    order = (packed & numbers).astype(np.intp)
    equal = (packed[1:] ^ packed[:-1]) <= numbers
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    rows = order[tied]
    order[tied] = rows[np.argsort(keys[rows], kind="stable")]
    return order


def count_bits(words: Words) -> NDArray[np.uint8]:
    """Return how many bits are set in each word."""
    if hasattr(np, "bitwise_count"):
        found: NDArray[np.uint8] = np.bitwise_count(words)
    else:  # NumPy 1 cannot count them
        found = _BITS_IN_BYTE[words.view(np.uint8)].reshape(-1, 8).sum(axis=1, dtype=np.uint8)
    return found


def _squared_distances(
    vectors_of: Callable[[Rows], Iterable[Floats]], rows: Rows, partners: Rows, count: int
) -> NDArray[np.float64]:
    """Return the squared distance of each row, of `count`, from its partner; only these rows are kept in memory."""
    if not len(rows):
        return np.zeros(0)
    wanted = np.zeros(count, np.bool_)
    wanted[rows] = wanted[partners] = True
    needed, places = np.flatnonzero(wanted), np.cumsum(wanted) - 1
    whole = np.concatenate(
        [
            _whole(part).astype(np.int32).clip(-_ONE, _ONE - 1).astype(np.int16)
            for part in vectors_of(needed)
            if len(part)
        ]
    )
    found = np.empty(len(rows))
    for at in range(0, len(rows), 4096):
        chunk = slice(at, at + 4096)
        one, other = (whole[places[each[chunk]]] for each in (rows, partners))
        differences = one.astype(np.float64) - other
        found[chunk] = np.einsum("nd,nd->n", differences, differences)
    return found / _ONE**2
