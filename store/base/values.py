"""Values that events, state and manifests share: artifact references and journal positions. Pure."""

import operator
from typing import Final

from store.base.valueclass import valueclass


@valueclass(frozen=True, slots=True, kw_only=True)
class ArtifactRef:
    """A write-once file: its SHA-256 (hexadecimal, also its name) and its size in bytes."""

    sha256: str
    size: int


GENESIS_CHAIN = "0" * 64

MAX_THREADS: Final = 1024


@valueclass(frozen=True, slots=True)
class Position:
    """A position in the journal: the number of records, and the chain digest up to there."""

    seq: int = 0
    chain: str = GENESIS_CHAIN


def whole_number(value: object) -> int | None:
    """Return a whole number, of numpy too, as `int`; None for anything else, and for a truth value."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def require_whole_number(name: str, value: object, *, least: int) -> int:
    """Return an argument as `int`.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is below `least`.
    """
    number = whole_number(value)
    if number is None:
        raise TypeError(f"expected {name} as a whole number, found {shown(value)}")
    if number < least:
        raise ValueError(f"expected {name} of at least {least}, found {shown(number)}")
    return number


def require_threads(value: object) -> int:
    """Return a number of threads.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is not from 1 to 1,024: libraries that cannot start so many end the process.
    """
    number = require_whole_number("threads", value, least=1)
    if number > MAX_THREADS:
        raise ValueError(f"expected threads of at most {MAX_THREADS}, found {shown(number)}")
    return number


def shown(value: object, most: int = 60) -> str:
    """Return the beginning of a value's `repr`, for errors."""
    try:
        return repr(value)[:most]
    except ValueError:  # Python writes no whole number of more than 4,300 digits.
        return f"{type(value).__name__} that is too long to show"
