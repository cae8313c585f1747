"""Values are what frozen dataclasses are, but for what it costs to define them."""

from dataclasses import dataclass, field, replace

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    x: int
    y: tuple[int, ...] = ()


def test_equal_fields_make_equal_values():
    assert Point(x=1) == Point(x=1, note="of no account")
    assert Point(x=1) != Point(x=2)
    assert Point(x=1) != Other(x=1)
    assert Point(x=1) != Space(x=1)
    assert Space(x=1, z=2) == replace(Space(x=1), z=2) != Space(x=1, z=3)
    assert {Point(x=1), Point(x=1), Space(x=1)} == {Point(x=1), Space(x=1)}


def test_they_take_no_field_that_is_none_of_theirs():
    with pytest.raises(AttributeError):
        Point(x=1).w = 1
    with pytest.raises(TypeError):
        Point(1)


@pytest.mark.parametrize("options", [{"frozen": False, "slots": True}, {"frozen": True, "slots": False}])
def test_nothing_else_is_a_value(options):
    with pytest.raises(TypeError, match="frozen class with slots"):
        valueclass(**options)
