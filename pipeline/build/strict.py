"""Refuse a build that has something to warn of, where the operator wants none. Imports little."""

from collections.abc import Sequence

from pipeline.errors import CheckError, ErrorKind
from store.base.cache_warning import CacheWarning

STEP = "readiness"
"""The step that fails where warnings are forbidden."""


def refuse_warnings(found: Sequence[CacheWarning]) -> None:
    """Raise `CheckError` if there is a warning."""
    if found:
        raise warnings_error(found)


def warnings_error(found: Sequence[CacheWarning]) -> CheckError:
    """Return the error of a build that must not commit what it warns of."""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return CheckError(
        f"expected nothing to warn of under --strict, found: {found[0].message}{more}",
        hint=found[0].hint or "build without --strict",
        kind=ErrorKind.WARNINGS,
    )
