"""The commands that mend a cache, as they are to be typed."""

import shlex

from store.layout import Layout


def rebuilding(layout: Layout) -> str:
    """Return the command that makes the journal of this cache again."""
    return f"c10 rebuild --cache {shlex.quote(str(layout.root))}"


def replaying(layout: Layout) -> str:
    """Return the command that looks into this cache, or into a mirror of one."""
    return f"c10 replay --cache {shlex.quote(str(layout.root))}"


def repairing(layout: Layout) -> str:
    """Return the command that heals what lies beside the journal of this cache."""
    return f"c10 repair --cache {shlex.quote(str(layout.root))}"
