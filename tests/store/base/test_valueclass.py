"""Values are what frozen dataclasses are, but for what it costs to make them."""

from dataclasses import dataclass, field, fields, replace

import pytest

from store.base.valueclass import valueclass


@valueclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A value."""

    x: int
    y: tuple[int, ...] = ()
    note: str = field(default="", compare=False, repr=False)


@valueclass(frozen=True, slots=True, kw_only=True)
class Space(Point):
    """A value with more to it."""

    z: int = 0


@valueclass(frozen=True, slots=True)
class Nothing:
    """A value without fields."""


@valueclass(frozen=True, slots=True)
class Loud:
    """A value that shows itself."""

    word: str

    def __repr__(self):
        return self.word.upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    x: int
    y: tuple[int, ...] = ()


def test_equal_fields_make_equal_values():
    assert Point(x=1) == Point(x=1, note="of no account")
    assert Point(x=1) != Point(x=2)
    assert Point(x=1) != Other(x=1)
    assert Point(x=1) != Space(x=1)
    assert Space(x=1, z=2) == Space(x=1, z=2) != Space(x=1, z=3)
    assert Nothing() == Nothing()
    assert {Point(x=1), Point(x=1), Space(x=1), Nothing(), Nothing()} == {Point(x=1), Space(x=1), Nothing()}


@valueclass(frozen=True, slots=True)
class Checked:
    """A value that looks at itself, and of which one field need not be named."""

    word: str
    more: list[int] = field(default_factory=list)

    def __post_init__(self):
        if not self.word:
            raise ValueError("expected a word")


def test_the_first_value_is_made_as_all_that_follow():
    for _ in range(2):
        assert Checked("a", [1]) == Checked(word="a", more=[1])
        assert Checked("a").more is not Checked("a").more
        with pytest.raises(ValueError, match="a word"):
            Checked("")
        with pytest.raises(TypeError, match="missing 1 required positional"):
            Checked()
        with pytest.raises(TypeError, match="unexpected keyword"):
            Point(x=1, w=2)
        with pytest.raises(TypeError, match="positional"):
            Point(1)
        assert Space(x=1).z == 0


def test_they_are_dataclasses():
    assert [each.name for each in fields(Space)] == ["x", "y", "note", "z"]
    assert replace(Space(x=1), y=(2,)) == Space(x=1, y=(2,))
    assert repr(Space(x=1)) == "Space(x=1, y=(), z=0)"
    assert repr(Loud("a")) == "A"
    match Loud("b"):
        case Loud(word):
            assert word == "b"


def test_they_take_no_field_that_is_none_of_theirs():
    with pytest.raises(AttributeError):
        Point(x=1).w = 1
    with pytest.raises(TypeError):
        Point(1)


@pytest.mark.parametrize("options", [{"frozen": False, "slots": True}, {"frozen": True, "slots": False}])
def test_nothing_else_is_a_value(options):
    with pytest.raises(TypeError, match="frozen class with slots"):
        valueclass(**options)
