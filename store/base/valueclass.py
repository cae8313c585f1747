"""Frozen dataclasses that cost little to define and to create.

`dataclasses` compiles a function per method and class, anew in every process, three more of them for a frozen class,
which then sets every field through a call. A command defines a hundred such classes, and a fold creates one for each
record; what that costs is in `docs/decisions/0007`. So a value is frozen for the type checker, which checks all of this
code, and at run time a plain class with slots, of which only the constructor is compiled.
"""

from dataclasses import dataclass, fields
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as valueclass

    __all__ = ["valueclass"]
else:

    def valueclass(*, frozen: bool, slots: bool, kw_only: bool = False):  # noqa: ANN201 - typed in the other branch
        """Return a decorator; its options are those of `dataclass`, and both flags must be true."""
        if not (frozen and slots):
            raise TypeError("expected a frozen class with slots")
        return partial(_make_valueclass, kw_only=kw_only)

    def _make_valueclass(cls, *, kw_only):  # noqa: ANN001, ANN202
        made = dataclass(slots=True, kw_only=kw_only, eq=False, repr=False)(cls)
        compared = [each.name for each in fields(made) if each.compare]
        # The getter of a single name would return no tuple.
        values = attrgetter(*compared, *compared[:1]) if compared else lambda _: ()

        def __eq__(self, other):  # noqa: ANN001, ANN202, N807
            return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

        def __hash__(self):  # noqa: ANN001, ANN202, N807
            return hash(values(self))

        for name, method in {"__eq__": __eq__, "__hash__": __hash__, "__repr__": _repr}.items():
            if vars(made).get(name) is None:
                setattr(made, name, method)
        return made

    def _repr(self):  # noqa: ANN001, ANN202
        shown = (f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
        return f"{type(self).__qualname__}({', '.join(shown)})"
