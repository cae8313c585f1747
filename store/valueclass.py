"""Dataclasses that cost little to define, since a command defines some fifty, and to make, since a fold makes a million.

What `dataclasses` writes out for a frozen class is compiled anew in every process, and sets every field through a call.
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
            made = dataclass(slots=True, kw_only=kw_only, eq=False, repr=False)(cls)
            names = [field.name for field in fields(made) if field.compare]
            made._compared = staticmethod(attrgetter(*names) if names else bool)  # noqa: SLF001 - ours
            for name, shared in _SHARED.items():
                if name not in cls.__dict__:
                    setattr(made, name, shared)
            return made

        return decorate


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
