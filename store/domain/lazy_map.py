"""A map whose values are made when they are asked for. Pure.

A cache has cells by the hundred thousand, and few commands ask for all of them. So what is known of them may stay what
it was read as, until somebody looks: single values as bytes, and whole parts of the map as something that gives them.
To whoever looks it is a mutable mapping like any other, in the order in which its keys came. It is no `dict`: it joins no
other map with `|`, its views have no reverse, and what its parts are need not let itself be pickled.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, Final, Self, TypeAlias, TypeVar, cast

K = TypeVar("K")
V = TypeVar("V")

Part: TypeAlias = Callable[[], Iterable[tuple[K, V | bytes]]]
"""Gives keys with their values, or with the bytes of these; the same ones whenever it is called."""

_NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})


class Lazy(MutableMapping[K, V]):
    """Keys to values, none of which is of type bytes: bytes are what a value is made of.

    Args:
        make: What makes a value of bytes.
        known: Keys to values, or to the bytes of these.
        parts: What gives more of them.
    """

    __slots__ = ("_known", "_make", "_parts")

    def __init__(
        self,
        make: Callable[[bytes], V] | None = None,
        known: Mapping[K, V | bytes] = _NOTHING,
        parts: Iterable[Part[K, V]] = (),
    ) -> None:
        self._known = dict(known)
        self._parts = list(parts)
        self._make = make

    def add(self, part: Part[K, V], *, make: Callable[[bytes], V] | None = None) -> None:
        """Set keys to values later, when somebody looks; like `update` otherwise.

        Args:
            part: Gives them.
            make: What makes values of bytes, in this map: one function for all of them.
        """
        self._make = make or self._make
        self._parts.append(part)

    def stored(self) -> Mapping[K, V | bytes]:
        """What is there, values that nobody asked for as their bytes. Not for changing."""
        return self._all()

    def copy(self) -> Self:
        """Return a map that shares nothing mutable with this one."""
        return type(self)(self._make, self._known, self._parts)

    __copy__ = copy

    def __getitem__(self, key: K) -> V:
        """The value; made now if it was not before."""
        known = self._all()
        value = known[key]
        if type(value) is not bytes:
            return cast("V", value)
        if self._make is None:
            raise TypeError("expected a map that was told what makes values of bytes")
        made = known[key] = self._make(value)
        return made

    def __setitem__(self, key: K, value: V) -> None:
        """Set a value."""
        self._all()[key] = value

    def __delitem__(self, key: K) -> None:
        """Drop a key."""
        del self._all()[key]

    def __contains__(self, key: object) -> bool:
        """Whether there is such a key; makes no value."""
        return key in self._all()

    def __iter__(self) -> Iterator[K]:
        """The keys in the order in which they came."""
        return iter(self._all())

    def __reversed__(self) -> Iterator[K]:
        """The keys, those that came last first."""
        return reversed(self._all())

    def popitem(self) -> tuple[K, V]:
        """Take out the key that came last, and return it with its value.

        Raises:
            KeyError: There is none.
        """
        for key in self.__reversed__():
            return key, self.pop(key)
        raise KeyError("expected a key to take out, found none")

    def __len__(self) -> int:
        """How many there are."""
        return len(self._all())

    def __ior__(self, other: Mapping[K, V]) -> Self:
        """Set many values."""
        self._all().update(other)
        return self

    def __repr__(self) -> str:
        """As a dictionary."""
        return f"{type(self).__name__}({dict(self)!r})"

    def _all(self) -> dict[K, V | bytes]:
        if self._parts:
            for part in self._parts:
                self._known.update(part())
            # Not before all of it is there: where one was broken off, by a signal or for want of memory, whoever looks
            # next asks all of them again, which gives the same map.
            self._parts.clear()
        return self._known
