"""The commands that repair a cache, as a person types them."""

from store.disk.layout import Layout


def rebuilding(layout: Layout) -> str:
    """Return the command that makes the journal of this cache again."""
    return f"c10 rebuild --cache {_quoted(layout)}"


def mirroring(layout: Layout) -> str:
    """Return the command that heals this mirror."""
    return f"c10 mirror {_quoted(layout)}, in the cache that this is a mirror of"


def mirroring_without(layout: Layout, path: str) -> str:
    """Return the commands that bring this mirror a file in place of the one at a path in it."""
    import shlex  # noqa: PLC0415 - as below

    return f"rm {shlex.quote(str(layout.root / path))}, then {mirroring(layout)}"


def repairing(layout: Layout) -> str:
    """Return the command that heals what lies beside the journal of this cache."""
    return f"c10 repair --cache {_quoted(layout)}"


def _quoted(layout: Layout) -> str:
    import shlex  # noqa: PLC0415 - only what went wrong needs a remedy

    return shlex.quote(str(layout.root))
