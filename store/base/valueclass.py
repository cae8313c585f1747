"""Dataclasses that cost little to define, since a command defines some fifty, and to make, since a fold makes a million.

What `dataclasses` writes out for a frozen class is compiled anew in every process, and sets every field through a call.
Here nothing is compiled for a class of which there is no value, which is most of them in any one command.
For the type checker a value is that frozen dataclass, so that no code which is checked changes one; when it runs, it is
a plain one with slots, and compares, hashes and shows itself through functions that all values share.
"""

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as valueclass

    __all__ = ["valueclass"]
else:

    def valueclass(*, frozen: bool, slots: bool, kw_only: bool = False):  # noqa: ANN201 - the other branch has the types
        """Make a value of a class; the options say what it is to the reader and to the type checker."""
        if not (frozen and slots):
            raise TypeError("expected a frozen class with slots, which is what a value is")

        def decorate(cls: type) -> type:
            made = dataclass(slots=True, kw_only=kw_only, init=False, eq=False, repr=False)(cls)
            made.__init__ = _first_init(made)
            names = [field.name for field in fields(made) if field.compare]
            made._compared = staticmethod(attrgetter(*names) if names else bool)  # noqa: SLF001 - ours
            for name, shared in _SHARED.items():
                if name not in cls.__dict__:
                    setattr(made, name, shared)
            return made

        return decorate


def _first_init(made: Any) -> Any:  # noqa: ANN401 - a class, and a function
    """Return what makes the first value of a class: it has the function written out that makes all of them."""

    def __init__(self: Any, *args: Any, **values: Any) -> None:  # noqa: ANN401, N807 - it stands in for that one
        members: dict[str, Any] = {field.name: field for field in fields(made)}
        members["__annotations__"] = {name: field.type for name, field in members.items()}
        if hasattr(made, "__post_init__"):
            members["__post_init__"] = made.__post_init__
        written: Any = dataclass(eq=False, repr=False)(type(made.__name__, (), members))
        made.__init__ = written.__init__
        written.__init__(self, *args, **values)

    return __init__


def _eq(self: Any, other: Any) -> Any:  # noqa: ANN401 - as `object.__eq__`
    if other.__class__ is not self.__class__:
        return NotImplemented
    return self._compared(self) == self._compared(other)


def _hash(self: Any) -> int:  # noqa: ANN401 - any value
    return hash(self._compared(self))


def _repr(self: Any) -> str:  # noqa: ANN401 - any value
    shown = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr)
    return f"{type(self).__qualname__}({shown})"


_SHARED = {"__eq__": _eq, "__hash__": _hash, "__repr__": _repr}
