"""A map whose values are made when they are asked for is, to whoever asks, any other map."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.domain.lazy_map import Lazy

KEYS = st.integers(0, 6)


def made(data):
    return int(data)


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.tuples(KEYS, KEYS), max_size=4)),
        st.tuples(st.just("set"), KEYS, KEYS),
        st.tuples(st.just("drop"), KEYS),
        st.tuples(st.just("update"), st.dictionaries(KEYS, KEYS)),
        st.tuples(st.just("look"), KEYS),
        st.tuples(st.just("take")),
        st.tuples(st.just("copy"), st.sampled_from([Lazy.copy, copy.copy])),
    )
)


@given(ACTS)
def test_it_behaves_as_a_dictionary(acts):
    lazy, plain = Lazy(made), {}
    copies = []
    for act, *words in acts:
        match act, *words:
            case "add", pairs:
                lazy.add(lambda pairs=pairs: ((key, b"%d" % value) for key, value in pairs))
                plain.update(pairs)
            case "set", key, value:
                lazy[key] = plain[key] = value
            case "drop", key:
                assert (lazy.pop(key, None), key in lazy) == (plain.pop(key, None), False)
            case "update", pairs:
                lazy |= pairs
                plain |= pairs
            case "look", key:
                assert (key in lazy, lazy.get(key)) == (key in plain, plain.get(key))
            case ("take",):
                assert (lazy.popitem() if lazy else None) == (plain.popitem() if plain else None)
            case _, how:
                copies.append((lazy, dict(plain)))
                lazy = how(lazy)
    for found, expected in [*copies, (lazy, plain)]:
        assert found == expected
        assert [*found.items()] == [*expected.items()]
        assert [*reversed(found)] == [*reversed(expected)]
        assert (len(found), bool(found), repr(found)) == (len(expected), bool(expected), f"Lazy({expected})")


def test_values_are_made_once_and_only_when_asked_for():
    asked = []

    def counted(data):
        asked.append(data)
        return data.decode()

    lazy = Lazy()
    lazy.add(lambda: [(1, b"one"), (2, b"two")], make=counted)
    assert (len(lazy), 1 in lazy, [*lazy]) == (2, True, [1, 2])
    assert lazy.stored() == {1: b"one", 2: b"two"}
    assert asked == []
    assert (lazy[1], lazy[1], lazy.copy()[1]) == ("one", "one", "one")
    assert lazy.stored() == {1: "one", 2: b"two"}
    assert asked == [b"one"]


def test_a_part_is_asked_when_somebody_looks_and_by_every_copy():
    asked = []
    lazy = Lazy()
    lazy.add(lambda: asked.append(1) or [("a", 1)])
    other = lazy.copy()
    assert asked == []
    assert other == lazy == {"a": 1}
    assert asked == [1, 1]


def test_bytes_without_what_makes_a_value_of_them_are_a_mistake():
    with pytest.raises(TypeError, match="was told"):
        Lazy(known={1: b""})[1]
    with pytest.raises(KeyError):
        Lazy()[1]


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_where_a_part_was_broken_off_the_next_look_finds_everything(broken):
    """By a signal, or for want of memory: whoever catches that and goes on must not go on with a shorter map."""
    left = [MemoryError(), KeyboardInterrupt()]

    def part(number):
        yield number, b"1"
        if number == broken and left:
            raise left.pop()
        yield "last", b"%d" % number

    lazy = Lazy(made, {"first": 7})
    for number in range(3):
        lazy.add(lambda number=number: part(number))
    for error in (KeyboardInterrupt, MemoryError):
        with pytest.raises(error):
            len(lazy)
    other = lazy.copy()
    for found in (lazy, other):
        assert [*found.items()] == [("first", 7), (0, 1), ("last", 2), (1, 1), (2, 1)]


def test_of_an_empty_one_nothing_is_taken():
    with pytest.raises(KeyError, match="found none"):
        Lazy().popitem()
