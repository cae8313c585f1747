"""What Python 3.10 lacks or does otherwise: the code takes it from here. Pure.

The journal stands below this module and does without.
"""

import re
import sys
from datetime import date
from typing import TYPE_CHECKING, NoReturn

if sys.version_info >= (3, 11):
    from enum import StrEnum
    from typing import Self, Unpack
else:
    from enum import Enum
    from typing import TypeVar

    if TYPE_CHECKING:
        from typing_extensions import Self, Unpack
    else:
        # Only type checkers ask what they mean; at run time `typing_extensions` need not be installed.
        Self, Unpack = TypeVar("Self"), type

    class StrEnum(str, Enum):
        """An enumeration of strings whose members print as their values."""

        __str__ = str.__str__


__all__ = ["Self", "StrEnum", "Unpack", "assert_never", "parse_day"]

_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"


def assert_never(value: NoReturn) -> NoReturn:
    """Fail the type check unless this line cannot be reached, and the program if it is reached all the same."""
    raise AssertionError(f"expected no such value, found {value!r}")


def parse_day(text: str) -> date:
    """Return the day that is written as in `2026-03-01`; newer versions of Python take other forms as well.

    Raises:
        ValueError: It is none.
    """
    if not re.fullmatch(_DAY, text):
        raise ValueError(f"expected a day such as 2026-03-01, found {text[:40]!r}")
    return date.fromisoformat(text)
