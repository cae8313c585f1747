import enum
import hashlib
import math
import random
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.errors import JournalDamagedError, RecordError
from journal.record import (
    EMPTY,
    GENESIS,
    MAX_DEPTH,
    MAX_MEMBERS,
    MAX_RECORD_BYTES,
    Entry,
    Head,
    Record,
    decode,
    decode_fields,
    encode,
    extend,
    link,
    pack_projection,
    stored_bytes,
    unpack_projection,
    verify_chain,
)
from journal.testing import payloads, records, sample_record
from tests.examples_tried import examples

ROOT = Path(__file__).parents[2]


class Number(enum.IntEnum):
    ONE = 1


def with_payload(payload):
    return sample_record(1)._replace(payload=payload)


def shuffled(tree, order):
    if isinstance(tree, dict):
        keys = list(tree)
        order.shuffle(keys)
        return {key: shuffled(tree[key], order) for key in keys}
    if isinstance(tree, list):
        return [shuffled(member, order) for member in tree]
    return tree


def chained(raws):
    head = EMPTY
    entries = []
    for raw in raws:
        head = Head(head.seq + 1, link(head.chain, raw))
        entries.append(Entry(seq=head.seq, chain=head.chain, raw=raw))
    return entries


@given(records())
def test_encoded_records_decode_to_themselves(record):
    raw = encode(record)
    back = decode(raw)
    assert back == record
    assert encode(back) == raw


@given(payloads(), st.randoms(use_true_random=False))
def test_order_of_maps_never_matters(payload, order):
    assert encode(with_payload(shuffled(payload, order))) == encode(with_payload(payload))


def test_bytes_are_what_the_format_says():
    record = Record(tag="a", version=1, build=None, wall_ns=2, mono_ns=3, payload={"b": 1, "a": [True, None]})
    assert encode(record).hex() == "96a16101c0020382a16192c3c0a16201"
    record = Record(tag="a.b", version=1, build=None, wall_ns=256, mono_ns=0, payload={"k": -1})
    written = encode(record).hex(" ")
    assert f"`{written}`" in (ROOT / "journal/FORMAT.md").read_text(encoding="utf-8")


@settings(max_examples=examples(400))
@given(st.binary(max_size=300))
def test_any_bytes_decode_or_raise_record_error(data):
    try:
        record = decode(data)
    except RecordError:
        return
    assert encode(record) == data


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(1 << 63), (1 << 64) - 1)
        | st.floats()
        | st.text()
        | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary() | st.none(), inner),
        max_leaves=20,
    )
)
def test_any_msgpack_decodes_or_raises_record_error(tree):
    try:
        decode(msgpack.packb(["tag", 1, None, 0, 0, tree]))
        decode(msgpack.packb(tree))
    except RecordError:
        pass


def test_mutated_records_are_refused_or_canonical():
    order = random.Random(7)
    raw = encode(with_payload({"a": [1, 2.5, "text", b"bytes", None, True], "b": {"c": -1, "d": 1 << 40}}))
    refused = 0
    for _ in range(4000):
        data = bytearray(raw)
        for _ in range(order.randint(1, 3)):
            match order.randrange(3):
                case 0:
                    data[order.randrange(len(data))] = order.randrange(256)
                case 1:
                    del data[order.randrange(len(data))]
                case _:
                    data.insert(order.randrange(len(data) + 1), order.randrange(256))
        try:
            assert encode(decode(bytes(data))) == bytes(data)
        except RecordError:
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize(
    "payload",
    [
        math.nan,
        math.inf,
        -math.inf,
        (1, 2),
        {1: 2},
        {b"a": 1},
        {None: 1},
        1 << 64,
        -(1 << 63) - 1,
        Number.ONE,
        {"a": Number.ONE},
        bytearray(b"x"),
        pytest.param(memoryview(b"x"), id="memoryview"),
        {1, 2},
        pytest.param(object(), id="object"),
        "\ud800",
        {"\ud800": 1},
        msgpack.Timestamp(1, 0),
        msgpack.ExtType(5, b"x"),
        [0] * (MAX_MEMBERS + 1),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_payload_that_no_record_can_hold_is_refused(payload):
    with pytest.raises(RecordError) as caught:
        encode(with_payload(payload))
    assert caught.value.category == "refused"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tag", ""),
        ("tag", "a" * 65),
        ("tag", "Upper"),
        ("tag", "line\n"),
        ("tag", "é"),
        ("tag", b"bytes"),
        ("version", 0),
        ("version", 1 << 31),
        ("version", True),
        ("version", 1.0),
        ("build", -1),
        ("build", False),
        ("build", 1 << 63),
        ("wall_ns", None),
        ("wall_ns", 1 << 63),
        ("mono_ns", -1),
    ],
)
def test_envelope_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(RecordError, match=field):
        encode(sample_record(1)._replace(**{field: value}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x95",
        b"\xc1",
        b"\xc0",
        msgpack.packb(["a", 1, None, 0, 0]),
        msgpack.packb(["a", 1, None, 0, 0, 0, 0]),
        msgpack.packb(["a", 1, None, 0, 0, 0]) + b"\x00",
        bytes.fromhex("96a16101c0020382a16201a16101"),  # keys out of order
        bytes.fromhex("96a16101c0020382a16101a16102"),  # the same key twice
        bytes.fromhex("96a16101c00203cc01"),  # an integer longer than it has to be
        bytes.fromhex("96a16101c00203d10100"),  # 256 as a signed integer
        bytes.fromhex("96a16101c00203ca3f800000"),  # a float of 32 bits
        bytes.fromhex("96a16101c00203d60000000000"),  # a timestamp
        bytes.fromhex("96a16101c00203a1ff"),  # text that is not UTF-8
        bytes.fromhex("96a16101c00203ddffffffff"),  # an array that claims four thousand million members
        bytes.fromhex("96a16101c00203dfffffffff"),
        b"\x91" * 100_000,
        b"\x96\xa1a\x01\xc0\x02\x03" + b"\x91" * 900 + b"\xc0",
        b"\xdd\x00\x00\xff\xff" * 2000,
        b"x" * (MAX_RECORD_BYTES + 1),
    ],
)
def test_hostile_bytes_are_refused(data):
    with pytest.raises(RecordError) as caught:
        decode(data)
    assert caught.value.category == "damaged"


@pytest.mark.parametrize(
    "data",
    [
        "96a16101c0020382a16201a16101",  # keys out of order
        "96a16101c00203cc01",  # an integer longer than it has to be
    ],
)
def test_only_lean_decoding_accepts_another_encoding_of_a_record(data):
    raw = bytes.fromhex(data)
    assert decode_fields(raw, canonical=False)[0] == "a"
    with pytest.raises(RecordError, match="not canonical"):
        decode_fields(raw)


@settings(max_examples=examples(400))
@given(
    st.binary(max_size=200)
    | st.builds(lambda tail: b"\x96\xa1a\x01\xc0\x02\x03" + tail, st.binary(max_size=50))
)
def test_lean_decoding_gives_a_record_or_an_error(data):
    try:
        tag, version, build, wall_ns, mono_ns, _ = decode_fields(data, canonical=False)
    except RecordError:
        return
    assert encode(
        Record(tag=tag, version=version, build=build, wall_ns=wall_ns, mono_ns=mono_ns, payload=None)
    )


def nested(depth):
    tree = []
    for _ in range(depth - 1):
        tree = [tree]
    return tree


def test_depth_has_a_limit():
    record = with_payload(nested(MAX_DEPTH))
    assert decode(encode(record)) == record
    with pytest.raises(RecordError, match="nested lists"):
        encode(with_payload(nested(MAX_DEPTH + 1)))


def test_list_that_contains_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(RecordError):
        encode(with_payload(loop))


def test_size_has_a_limit():
    over = len(encode(with_payload(bytes(1 << 19)))) - (1 << 19)
    fits = with_payload(bytes(MAX_RECORD_BYTES - over))
    assert len(encode(fits)) == MAX_RECORD_BYTES
    assert decode(encode(fits)) == fits
    with pytest.raises(RecordError, match="artifact"):
        encode(with_payload(bytes(MAX_RECORD_BYTES - over + 1)))


def test_chain_is_sha256_over_domain_previous_and_bytes():
    assert bytes(32) == GENESIS
    assert link(GENESIS, b"abc") == hashlib.sha256(b"c10/journal/chain/v1\0" + bytes(32) + b"abc").digest()


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8))
def test_extend_links_one_record_after_the_other(raws):
    head = extend(EMPTY, raws)
    entries = chained(raws)
    assert head == (entries[-1].head if entries else EMPTY)
    assert list(verify_chain(EMPTY, [(entry.seq, stored_bytes(entry)) for entry in entries])) == entries


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=6), st.data())
def test_any_change_of_a_stored_value_breaks_the_chain_there_or_before(raws, data):
    values = [(entry.seq, stored_bytes(entry)) for entry in chained(raws)]
    where = data.draw(st.integers(0, len(values) - 1))
    seq, value = values[where]
    at = data.draw(st.integers(0, len(value) * 8 - 1))
    flipped = bytearray(value)
    flipped[at // 8] ^= 1 << at % 8
    values[where] = (seq, bytes(flipped))
    with pytest.raises(JournalDamagedError) as caught:
        list(verify_chain(EMPTY, values))
    assert caught.value.seq == seq


def test_missing_swapped_and_empty_records_are_named():
    values = [(entry.seq, stored_bytes(entry)) for entry in chained([b"a", b"b", b"c"])]
    for broken, seq in (
        (values[1:], 1),
        ([values[0], values[2]], 2),
        ([values[0], (2, values[2][1]), (3, values[1][1])], 2),
        ([values[0], (2, b"")], 2),
        ([values[0], (2, bytes(32))], 2),
    ):
        with pytest.raises(JournalDamagedError) as caught:
            list(verify_chain(EMPTY, broken))
        assert caught.value.seq == seq


@given(st.binary(min_size=1, max_size=20), st.binary(max_size=40))
def test_a_projection_is_unpacked_under_its_own_name_only(name, value):
    assert unpack_projection(name, pack_projection(name, value)) == value
    with pytest.raises(JournalDamagedError):
        unpack_projection(name + b"x", pack_projection(name, value))
    with pytest.raises(JournalDamagedError):
        unpack_projection(name, pack_projection(name, value)[:-1])


def test_times_of_a_record_without_a_build_are_checked():
    with pytest.raises(RecordError, match="wall_ns"):
        encode(Record(tag="a", version=1, build=None, wall_ns=1 << 63, mono_ns=0, payload={}))
