"""The commands that repair a cache, as a person types them."""

from typing import Final

from store.base.cache_warning import CacheWarning
from store.disk.layout import Layout

_CHANGING: Final = ("c10 build", "c10 sign")


def rebuilding(layout: Layout) -> str:
    """Return the command that makes the journal of this cache again."""
    return f"c10 rebuild{cache_option(layout)}"


def cache_option(layout: Layout) -> str:
    """Return the option by which any command finds this cache, after a space."""
    return f" --cache {_quoted(layout)}"


def listing(layout: Layout) -> str:
    """Return the command that lists the builds and generations of this cache."""
    return f"c10 log{cache_option(layout)}"


def mirroring(layout: Layout) -> str:
    """Return the command that heals this mirror."""
    return f"c10 mirror {_quoted(layout)}, in the cache that this is a mirror of"


def mirroring_without(layout: Layout, path: str) -> str:
    """Return the commands that bring this mirror a file in place of the one at a path in it."""
    import shlex  # noqa: PLC0415 - as below

    return f"rm {shlex.quote(str(layout.root / path))}, then {mirroring(layout)}"


def warned_of_mirror(warning: CacheWarning) -> CacheWarning:
    """Return a warning of a mirror: what changes a cache is to be done in the one that it was made of."""
    if not any(command in warning.hint for command in _CHANGING):
        return warning
    hint = f"{warning.hint}; in the cache that this is a mirror of"
    return CacheWarning(kind=warning.kind, message=warning.message, hint=hint)


def repairing(layout: Layout) -> str:
    """Return the command that heals what lies beside the journal of this cache."""
    return f"c10 repair{cache_option(layout)}"


def _quoted(layout: Layout) -> str:
    import shlex  # noqa: PLC0415 - only what went wrong needs a remedy

    return shlex.quote(str(layout.root))
