"""Dataclasses that are frozen for the type checker alone, since a command defines a hundred and a fold makes one a record.

To the type checker, which is strict everywhere, a value is a frozen dataclass, and no code that is checked changes one.
When it runs it is a plain dataclass with slots: what refuses a change is compiled anew for every class in every process,
and sets every field through a call (`docs/decisions/0007-what-does-not-pay.md`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as valueclass

    __all__ = ["valueclass"]
else:

    def valueclass(*, frozen: bool, slots: bool, kw_only: bool = False):  # noqa: ANN201 - the other branch has the types
        """Make a value of a class; the options say what it is to the reader and to the type checker."""
        if not (frozen and slots):
            raise TypeError("expected a frozen class with slots, which is what a value is")
        return dataclass(slots=True, kw_only=kw_only, unsafe_hash=True)
