"""Recorded text and data, made fit to be shown."""

import json
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.testing import payloads
from tools.output import sanitize


def texts_of(value):
    match value:
        case str():
            yield value
        case list():
            for member in value:
                yield from texts_of(member)
        case dict():
            for name, inner in value.items():
                yield name
                yield from texts_of(inner)


@given(payloads())
def test_whatever_was_recorded_is_json_that_prints(value):
    shown = json.loads(json.dumps(sanitize.safe_data(value), allow_nan=False))
    assert all(text.isprintable() for text in texts_of(shown))


@given(st.text() | st.text(alphabet="\x1b[2J\x9b\r\n\x00\u202e\ud800a"), st.integers(0, 50))
def test_a_text_of_one_line_prints_and_keeps_what_prints(value, limit):
    shown = sanitize.safe_text(value, limit)
    assert shown.isprintable()
    if value.isprintable() and len(value) <= limit:
        assert shown == value
    assert ("more characters" in shown) >= (len(value) > limit)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (1 << 53, 1 << 53),
        (-(1 << 53) - 1, str(-(1 << 53) - 1)),
        (0.5, 0.5),
        (b"\x00\xff", "00ff"),
        (b"a" * 33, f"{'61' * 32}… (33 bytes)"),
        ((1, "\n"), [1, "\\n"]),
        ({"\x1b": 1}, {"\\x1b": 1}),
        (PurePosixPath("a/b"), "a/b"),
        (frozenset({3}), "frozenset({3})"),
    ],
)
def test_values(value, shown):
    assert sanitize.safe_data(value) == shown


def test_what_is_long_is_cut_and_says_so():
    many = sanitize.MAX_MEMBERS + 2
    assert sanitize.safe_data(list(range(many)))[-2:] == [sanitize.MAX_MEMBERS - 1, "… (2 more)"]
    shown = sanitize.safe_data({str(number): number for number in range(many)})
    assert (len(shown), shown["…"]) == (sanitize.MAX_MEMBERS + 1, "… (2 more)")
    told = sanitize.safe_lines("\n".join(map(str, range(sanitize.MAX_LINES + 5))) + "\n\n")
    assert told[:2] == ["… (5 earlier lines)", "5"]
    assert sanitize.safe_lines("a\nb\n") == ["a", "b"]


def test_what_is_nested_too_deep_is_not_shown():
    value = "in"
    for _ in range(sanitize.MAX_DEPTH + 1):
        value = [value]
    shown = sanitize.safe_data(value)
    for _ in range(sanitize.MAX_DEPTH):
        (shown,) = shown
    assert shown == "… (nested too deep)"


def test_names_in_a_row():
    assert sanitize.join_first([]) == ""
    assert sanitize.join_first(["a", "b\n", "c"]) == "a, b\\n, c"
    assert sanitize.join_first("abcde", limit=2) == "a, b and 3 more"


@pytest.mark.parametrize(
    ("word", "is_number"),
    [("12", True), ("", False), ("-1", False), ("²", False), ("٣", False), ("1" * 19, False)],
)
def test_numbers(word, is_number):
    assert sanitize.is_number(word) is is_number


def test_a_document_whose_texts_can_be_encoded():
    odd = b"caf\xe9 \xc3\xa9".decode("utf-8", "surrogateescape")
    found = sanitize.encodable({odd: [odd, (odd, 3)], "path": None, "emoji": "\U0001f600"})
    assert found == {
        "caf\\udce9 é": ["caf\\udce9 é", ["caf\\udce9 é", 3]],
        "path": None,
        "emoji": "\U0001f600",
    }
