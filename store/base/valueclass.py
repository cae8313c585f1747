"""Dataclasses that cost little to define and to create.

`dataclasses` compiles a function per method and class, anew in every process, three more of them for a frozen class,
which then sets every field through a call. A command defines a hundred such classes and creates values of a third of
them, and a fold creates one value for each record; what that costs is in `docs/decisions/0007`. So a frozen class is
frozen for the type checker, which checks all of this code, and at run time it is a plain class with slots. Its
constructor, the one function that is compiled, is made for the first value.
"""

from dataclasses import dataclass, fields, replace
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as valueclass

    __all__ = ["valueclass"]
else:

    def valueclass(*, slots: bool, frozen: bool = False, kw_only: bool = False):  # noqa: ANN201 - typed in the other branch
        """Return a decorator; its options are those of `dataclass`, and `slots` must be true."""
        if not slots:
            raise TypeError("expected a class with slots")
        return partial(_make_valueclass, frozen=frozen, kw_only=kw_only)

    def _make_valueclass(cls, *, frozen, kw_only):  # noqa: ANN001, ANN202
        body = {name: each for name, each in vars(cls).items() if name not in {"__dict__", "__weakref__"}}
        names = tuple(body.get("__annotations__", ()))
        members = {
            "__eq__": _eq,
            "__hash__": _hash if frozen else None,
            "__repr__": _repr,
            "__replace__": replace,
        }
        members |= {name: each for name, each in body.items() if name not in names}
        members |= {name: _MadeAtFirstUse(body, kw_only=kw_only) for name in _MadeAtFirstUse.NAMES}
        members["__slots__"] = names
        made = type(cls)(cls.__name__, cls.__bases__, members)
        made.__qualname__ = cls.__qualname__
        return made

    class _MadeAtFirstUse:
        """Stands for what `dataclass` makes and for what is compared, until one of them is asked for."""

        OF_DATACLASS = ("__init__", "__match_args__", "__dataclass_fields__", "__dataclass_params__")
        NAMES = (*OF_DATACLASS, "__compared__")

        def __init__(self, body, *, kw_only) -> None:  # noqa: ANN001
            self._body, self._kw_only = body, kw_only

        def __set_name__(self, owner, name):  # noqa: ANN001, ANN204
            self._owner, self._name = owner, name

        def __get__(self, value, asked):  # noqa: ANN001, ANN204
            owner = self._owner
            # A class of its own, since `dataclass` takes defaults away: threads may come here at once.
            made = type(owner)(owner.__name__, owner.__bases__, dict(self._body))
            made = dataclass(kw_only=self._kw_only, eq=False, repr=False)(made)
            compared = [each.name for each in fields(made) if each.compare] or ["__class__"]
            for name in self.OF_DATACLASS:
                setattr(owner, name, vars(made)[name])
            # The getter of a single name would return no tuple.
            owner.__compared__ = attrgetter(*compared, compared[0])
            # Not what `asked` has of that name, which may be a class derived from the owner.
            found = vars(owner)[self._name]
            return found.__get__(value, asked) if self._name == "__init__" else found

    def _eq(self, other):  # noqa: ANN001, ANN202
        same = other.__class__ is self.__class__
        return self.__compared__(self) == self.__compared__(other) if same else NotImplemented

    def _hash(self):  # noqa: ANN001, ANN202
        return hash(self.__compared__(self))

    def _repr(self):  # noqa: ANN001, ANN202
        shown = (f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
        return f"{type(self).__qualname__}({', '.join(shown)})"
