"""Records that are alike: one is read strictly, and thousands are known to be as sound without being read. Pure.

Most records of a journal are of one kind and differ in their values alone: their digests, counts and times. Where two
records have as many bytes, and the same bytes wherever MessagePack says what comes next, they are the same tree with
other values in the same places. What a value must be, so that there is no other form of it, is then a question about
single bytes, which is asked of all records at once.

Whatever is unusual counts as part of the form and has to be the same, byte by byte: text beyond ASCII, negative
numbers, floats and bytes. So do the tag and the version of a record, and whether it belongs to a build.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, TypeAlias

import msgpack
import numpy as np
from numpy.typing import NDArray

from journal.record import decode_fields

Rows: TypeAlias = NDArray[np.uint8]
"""Records of one length, a row of bytes each: `(records, bytes)`."""

Path: TypeAlias = tuple[str | int, ...]
"""The keys and places that lead to a value of a payload."""

_FIELDS_BEFORE: Final = 2
"""Tag and version; then come the build, two times, and the payload."""

_WHOLE: Final = 0xFF
_TOP: Final = 0x80
"""The bit that no byte of ASCII has, that no integer of one byte alone has, and that the byte after 0xCC always has."""

_FEW: Final = {0x80: 0x0F, 0x90: 0x0F, 0xA0: 0x1F, 0xB0: 0x1F}
"""Bits that hold the length in the mark of a short map, list and text, by the upper half of the mark."""
_MANY: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
"""Bytes that hold the length after the mark of bytes, text, lists and maps."""
_UNSIGNED: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_OTHER: Final = {0xCB: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
"""Bytes of floats and negative integers. What else there is has none: nil, false, true and -32 to -1."""
_TEXTS: Final = frozenset({0xA0, 0xB0, 0xD9, 0xDA, 0xDB})
_LISTS: Final = frozenset({0x90, 0xDC, 0xDD})
_MAPS: Final = frozenset({0x80, 0xDE, 0xDF})


class Leaf(NamedTuple):
    """A value that may be another one in each record.

    Attributes:
        at: Where its bytes begin.
        width: How many there are.
        is_text: Whether they are ASCII text; an unsigned big-endian integer otherwise.
    """

    at: int
    width: int
    is_text: bool


@dataclass(frozen=True)
class Form:
    """What a record has in common with all that are alike; made by `form_of`.

    Attributes:
        reference: The bytes of that record.
        payload: Where its payload begins.
        build: The build it belongs to; nothing if it belongs to none.
        times: When it was recorded, by either clock.
        leaves: The values of its payload, by their path.
    """

    reference: bytes
    payload: int
    build: Leaf | None
    times: tuple[Leaf, ...]
    leaves: dict[Path, Leaf]

    def holds(self, rows: Rows) -> NDArray[np.bool_]:
        """Tell of each record whether it is alike, and with that: canonical, and a tree of the same form.

        Args:
            rows: Records of the length of the reference, whatever is in them.
        """
        mask, expected = self._asked
        alike: NDArray[np.bool_] = ~((rows & mask) != expected).any(axis=1)
        for leaf in (*self.leaves.values(), *self._envelope):
            if not leaf.is_text and leaf.width > 1:
                # The shortest form: what fits into half as many bytes is written so.
                alike &= rows[:, leaf.at : leaf.at + leaf.width // 2].any(axis=1)
        return alike

    @property
    def _envelope(self) -> tuple[Leaf, ...]:
        """The values before the payload."""
        return self.times if self.build is None else (self.build, *self.times)

    @cached_property
    def _asked(self) -> tuple[Rows, Rows]:
        """Which bits of a record are asked for, and what they have to be."""
        reference = np.frombuffer(self.reference, np.uint8)
        mask = np.full(len(reference), _WHOLE, np.uint8)
        for at, width, is_text in (*self.leaves.values(), *self._envelope):
            mask[at : at + width] = _TOP if is_text or width == 1 else 0
        for at, _, _ in self._envelope:
            # They end where a signed integer of 64 bits does; a payload may hold one bit more.
            mask[at] |= _TOP
        return mask, reference & mask


def form_of(raw: bytes) -> Form:
    """The form of a record.

    Raises:
        RecordError: The bytes are no canonical record.
    """
    decode_fields(raw)
    at, build, times, leaves = 1, *(list[tuple[Path, Leaf]]() for _ in range(3))
    for _ in range(_FIELDS_BEFORE):
        at = _walk(raw, at, (), [])
    at = _walk(raw, at, (), build)
    payload = _walk(raw, _walk(raw, at, (), times), (), times)
    _walk(raw, payload, (), leaves)
    return Form(
        reference=raw,
        payload=payload,
        build=build[0][1] if build else None,
        times=tuple(leaf for _, leaf in times),
        leaves=dict(leaves),
    )


def rows_of(raws: Sequence[bytes]) -> Rows:
    """Records of one length as rows of bytes."""
    return np.frombuffer(b"".join(raws), np.uint8).reshape(len(raws), -1)


def texts(rows: Rows, leaf: Leaf) -> list[str]:
    """The text that a leaf is in each record; one object for all of them where it is the same everywhere."""
    found = rows[:, leaf.at : leaf.at + leaf.width]
    if (found == found[0]).all():
        return [found[0].tobytes().decode("ascii")] * len(found)
    joined, width = found.tobytes().decode("ascii"), leaf.width
    return [joined[at : at + width] for at in range(0, len(joined), width)]


def integers(rows: Rows, leaf: Leaf) -> list[int]:
    """The integer that a leaf is in each record."""
    found = np.ascontiguousarray(rows[:, leaf.at : leaf.at + leaf.width]).view(f">u{leaf.width}")
    numbers: list[int] = found[:, 0].tolist()
    return numbers


def _walk(raw: bytes, at: int, path: Path, leaves: list[tuple[Path, Leaf]]) -> int:
    """Gather the leaves of the value at a place of canonical MessagePack; returns where it ends."""
    mark, at = raw[at], at + 1
    if mark < _TOP:
        leaves.append((path, Leaf(at - 1, 1, is_text=False)))
        return at
    if mark in _UNSIGNED:
        leaves.append((path, Leaf(at, _UNSIGNED[mark], is_text=False)))
        return at + _UNSIGNED[mark]
    if mark & 0xF0 in _FEW:
        mark, count = mark & 0xF0, mark & _FEW[mark & 0xF0]
    elif mark in _MANY:
        count, at = int.from_bytes(raw[at : at + _MANY[mark]], "big"), at + _MANY[mark]
    else:
        return at + _OTHER.get(mark, 0)
    if mark in _MAPS:
        for _ in range(count):
            end = _walk(raw, at, (), [])  # a key is part of the form
            at = _walk(raw, end, (*path, msgpack.unpackb(raw[at:end])), leaves)
        return at
    if mark in _LISTS:
        for place in range(count):
            at = _walk(raw, at, (*path, place), leaves)
        return at
    if mark in _TEXTS and raw[at : at + count].isascii():
        leaves.append((path, Leaf(at, count, is_text=True)))
    return at + count
