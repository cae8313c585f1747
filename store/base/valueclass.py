"""Frozen dataclasses that cost little to define and to create.

`dataclasses` compiles three more functions for a frozen class than for a plain one, anew in every process, and sets
every field through a call. A command defines a hundred such classes, and a fold creates one for each record; what that
costs is in `docs/decisions/0007`. So a value is frozen for the type checker, which checks all of this code, and a plain
class with slots at run time.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as valueclass

    __all__ = ["valueclass"]
else:

    def valueclass(*, frozen: bool, slots: bool, kw_only: bool = False):  # noqa: ANN201 - typed in the other branch
        """Return a decorator; its options are those of `dataclass`, and both flags must be true."""
        if not (frozen and slots):
            raise TypeError("expected a frozen class with slots")
        return dataclass(slots=True, kw_only=kw_only, unsafe_hash=True)
