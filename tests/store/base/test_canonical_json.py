import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.canonical_json import CanonicalError, decode, digest, encode, is_digest, sha256

integers = st.integers(-(2**63), 2**64 - 1)
leaves = st.none() | st.booleans() | integers | st.text()
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)


@given(values)
def test_encoded_values_decode_to_themselves(value):
    data = encode(value)
    assert decode(data) == value
    assert encode(decode(data)) == data
    assert data.isascii()
    assert json.loads(data) == value


@given(st.dictionaries(st.text(max_size=5), integers, min_size=2), st.randoms(use_true_random=False))
def test_order_of_maps_never_matters(document, order):
    items = list(document.items())
    order.shuffle(items)
    assert encode(dict(items)) == encode(document)


@given(values, values)
def test_different_values_have_different_bytes(one, other):
    # JSON's true is not 1, though Python's is.
    assert (encode(one) == encode(other)) == (
        json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    )


def test_tuples_are_lists():
    assert encode((1, ("a",))) == b'[1,["a"]]'


@pytest.mark.parametrize(
    "value",
    [
        *(1.0, float("nan"), b"x", {1: 2}, {None: 1}, {"a": {"b": 0.5}}, [object()], {"a": {1}}, bytearray()),
        *(2**64, -(2**63) - 1, [{"a": 2**64}]),
    ],
)
def test_values_without_a_canonical_form(value):
    with pytest.raises(CanonicalError):
        encode(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"1 ",
        b" 1",
        b"1\n",
        b"01",
        b"-0",
        b"1.0",
        b"1e3",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b'{"a": 1}',
        b"[1, 2]",
        b'"\\u0041"',
        b'"\\/"',
        '"é"'.encode(),
        b"\xff",
        '{"a":1}'.encode("utf-16"),
        b"[" * 100_000,
        b"9" * 5000,
        b"18446744073709551616",
        b"-9223372036854775809",
        b"[" * 65 + b"]" * 65,
        b'"\\ud800"',
        b'{"\\udc00\\ud800":1}',
        b"nul",
    ],
)
def test_bytes_in_another_form_are_refused(data):
    with pytest.raises(CanonicalError):
        decode(data)


@given(st.binary(max_size=40))
def test_bytes_are_canonical_or_refused(data):
    try:
        value = decode(data)
    except CanonicalError:
        return
    assert encode(value) == data


def test_keys_are_sorted_by_code_point():
    assert encode({"\U00010000": 1, "\uffff": 2, "a": 3, "B": 4}) == (
        b'{"B":4,"a":3,"\\uffff":2,"\\ud800\\udc00":1}'
    )


def test_the_limits_of_what_any_language_can_read():
    for data in (
        b"18446744073709551615",
        b"-9223372036854775808",
        b"[" * 64 + b"]" * 64,
        b'"\\ud800\\udc00"',
    ):
        assert encode(decode(data)) == data


def test_digests():
    assert sha256(b"abc") == hashlib.sha256(b"abc").hexdigest() == sha256(memoryview(b"abc"))
    assert digest("d", {"a": 1}) == hashlib.sha256(b'd\0{"a":1}').hexdigest()
    assert digest("d", [1]) != digest("e", [1])


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("a" * 64, True),
        ("0123456789abcdef" * 4, True),
        ("A" * 64, False),
        ("a" * 63, False),
        ("a" * 65, False),
        ("../" + "a" * 61, False),
        ("", False),
        (None, False),
        (b"a" * 64, False),
    ],
)
def test_is_digest(text, good):
    assert is_digest(text) is good
