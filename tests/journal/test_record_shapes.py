"""Records that are alike: what is not read is known to be as sound as what was."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.errors import RecordError
from journal.record import Record, decode, encode
from journal.record_shapes import form_of, integers, rows_of, texts
from journal.testing import payloads, records

EVERYTHING = {
    "bytes": b"\x00",
    "float": 2.5,
    "integers": [0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63, 2**64 - 1],
    "less": [-1, -32, -33, -129, -32_769, -(2**31) - 1],
    "long": {str(number): number for number in range(20)},
    "longer": [0] * 300,
    "many": "x" * 300,
    "none": [None, True, False],
    "short": {"a": "", "b": "b" * 20, "c": "c" * 200},
    "umlaut": "ä",
}


def record(payload, *, wall_ns=1 << 60, mono_ns=7, build=1):
    return Record(tag="cell", version=1, build=build, wall_ns=wall_ns, mono_ns=mono_ns, payload=payload)


def shape(tree):
    """A tree with what may differ replaced: the type of each value, and what counts as form as it is."""
    match tree:
        case dict():
            return {key: shape(value) for key, value in tree.items()}
        case list():
            return [shape(value) for value in tree]
        case str() if tree.isascii():
            return str, len(tree)
        case bool() | None:
            return tree
        case int() if tree >= 0:
            return int
        case _:
            return tree


def at_path(tree, path):
    for step in path:
        tree = tree[step]
    return tree


def mutated(raw, order):
    data = bytearray(raw)
    for _ in range(order.randint(0, 3)):
        # Bytes that mean something to MessagePack more often than others.
        data[order.randrange(len(data))] = order.choice(
            (0, 0x7F, 0x80, 0xA1, 0xC0, 0xC4, 0xCB, 0xCC, 0xCD, 0xCF, 0xD9, 0xFF, order.randrange(256))
        )
    return bytes(data)


def sound(raw):
    try:
        return decode(raw)
    except RecordError:
        return None


@settings(max_examples=300, deadline=None)
@given(records(), st.randoms(use_true_random=False))
def test_what_is_alike_is_canonical_and_of_one_form(known, order):
    raw = encode(known)
    form = form_of(raw)
    candidates = [raw, *(mutated(raw, order) for _ in range(60))]
    rows = rows_of(candidates)
    alike = form.holds(rows)
    assert alike[0]
    for taken, candidate in zip(alike, candidates, strict=True):
        if taken:
            found = decode(candidate)
            assert encode(found) == candidate
            assert (found.tag, found.version) == (known.tag, known.version)
            assert (found.build is None) == (known.build is None) == (form.build is None)
            assert shape(found.payload) == shape(decode(raw).payload)
    taken = [decode(candidate) for candidate, is_taken in zip(candidates, alike, strict=True) if is_taken]
    if form.build is not None:
        assert integers(rows[alike], form.build) == [found.build for found in taken]
    for path, leaf in form.leaves.items():
        read = texts if leaf.is_text else integers
        assert read(rows[alike], leaf) == [at_path(found.payload, path) for found in taken]


def test_nothing_that_is_no_record_is_alike():
    """Every byte of a record with every kind of value, changed to every other."""
    raw = encode(record(EVERYTHING))
    order = random.Random(3)
    places = [*range(100), *order.sample(range(100, len(raw)), 60)]
    changed = [raw[:at] + bytes([byte]) + raw[at + 1 :] for at in places for byte in range(256)]
    alike = form_of(raw).holds(rows_of(changed))
    assert alike.any()
    for taken, candidate in zip(alike, changed, strict=True):
        assert not taken or shape(decode(candidate).payload) == shape(EVERYTHING)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 127}),
        ({"a": 128}, {"a": 255}),
        ({"a": 256}, {"a": 65_535}),
        ({"a": 65_536}, {"a": 2**32 - 1}),
        ({"a": 2**32}, {"a": 2**64 - 1}),
        ({"a": "x" * 64}, {"a": "y" * 64}),
        ({"a": [{"b": "x"}]}, {"a": [{"b": "y"}]}),
        ({"a": ["x" * 70_000]}, {"a": ["y" * 70_000]}),
        (7, 8),
    ],
)
def test_values_may_differ(one, other):
    raws = [encode(record(one)), encode(record(other, wall_ns=(1 << 61) + 5, mono_ns=100))]
    form = form_of(raws[0])
    assert form.holds(rows_of(raws)).all()
    assert raws[0][form.payload :] in encode(record(one, wall_ns=1))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"b": 1}),
        ({"a": True}, {"a": False}),
        ({"a": -1}, {"a": -2}),
        ({"a": 2.5}, {"a": 3.5}),
        ({"a": b"x"}, {"a": b"y"}),
        ({"a": "ä"}, {"a": "ö"}),
        ({"a": "xx"}, {"a": "ö"}),
        ({"a": 1}, {"a": -1}),
        ({"a": None}, {"a": 1}),
        ({"a": "x"}, {"a": b""}),
    ],
)
def test_what_counts_as_form_may_not(one, other):
    raws = [encode(record(one)), encode(record(other))]
    assert len(raws[0]) == len(raws[1])
    assert form_of(raws[0]).holds(rows_of(raws)).tolist() == [True, False]


@pytest.mark.parametrize(
    ("one", "other"), [(0, 127), (128, 255), (256, 32_767), (65_536, 2**31 - 1), (2**32, 2**63 - 1)]
)
def test_records_of_two_builds_may_be_alike(one, other):
    raws = [encode(record({}, build=one)), encode(record({}, build=other, mono_ns=8))]
    form, rows = form_of(raws[0]), rows_of(raws)
    assert form.holds(rows).all()
    assert integers(rows, form.build) == [one, other]


def test_a_record_of_no_build_is_like_none_of_a_build():
    raws = [encode(record({}, build=build)) for build in (None, 1, None)]
    assert form_of(raws[0]).build is None
    assert form_of(raws[0]).holds(rows_of(raws)).tolist() == [True, False, True]
    assert form_of(raws[1]).holds(rows_of(raws)).tolist() == [False, True, False]


def test_a_build_that_no_record_can_have_is_not_alike():
    for build, byte in ((2**63 - 1, 0x80), (200, 0x7F), (300, 0x00), (70_000, 0x00), (2**32, 0x00)):
        raw = encode(record({}, build=build))
        form, wrong = form_of(raw), bytearray(raw)
        half = max(form.build.width // 2, 1)
        wrong[form.build.at : form.build.at + half] = bytes([byte]) * half
        assert sound(bytes(wrong)) is None
        assert form.holds(rows_of([raw, bytes(wrong)])).tolist() == [True, False]


@pytest.mark.parametrize(
    ("form", "at", "byte"),
    [
        ({"a": 200}, -1, 0x7F),
        ({"a": 300}, -2, 0x00),
        ({"a": 70_000}, -3, 0x00),
        ({"a": 2**32}, -5, 0x00),
        ({"a": "x"}, -1, 0xE9),
    ],
)
def test_another_form_of_the_same_value_is_not_alike(form, at, byte):
    raw = encode(record(form))
    other = bytearray(raw)
    other[at] = byte
    assert sound(bytes(other)) is None
    assert form_of(raw).holds(rows_of([raw, bytes(other)])).tolist() == [True, False]


def test_a_time_beyond_its_range_is_not_alike():
    raw = encode(record({}, wall_ns=(1 << 63) - 1, mono_ns=(1 << 63) - 1))
    for at in (raw.index(b"\xcf"), raw.rindex(b"\xcf")):
        beyond = bytearray(raw)
        beyond[at + 1] = 0x80
        assert form_of(raw).holds(rows_of([bytes(beyond)])).tolist() == [False]


@given(payloads())
def test_each_record_has_a_form_that_ends_with_it(payload):
    raw = encode(record(payload))
    form = form_of(raw)
    ends = [leaf.at + leaf.width for leaf in form.leaves.values()]
    assert max(ends, default=0) <= len(raw)
    assert form.payload >= form.times[-1].at
    for path, leaf in form.leaves.items():
        assert (
            at_path(decode(raw).payload, path)
            == (texts if leaf.is_text else integers)(rows_of([raw]), leaf)[0]
        )


def test_equal_text_is_one_object():
    raws = [encode(record({"a": "x" * 64, "b": str(number)})) for number in range(4)]
    form, rows = form_of(raws[0]), rows_of(raws)
    one, *others = texts(rows, form.leaves["a",])
    assert all(other is one for other in others)
    assert texts(rows, form.leaves["b",]) == ["0", "1", "2", "3"]
    assert rows.dtype == np.uint8


def test_what_is_no_record_has_no_form():
    with pytest.raises(RecordError):
        form_of(b"\x96")
