"""How a cache comes to be: its folders, then its journal with the genesis event, once.

Anybody may be first: a build under the build lock, or an engine run without it. Whoever is second finds the journal
of the first, which is as good.
"""

import secrets
from contextlib import suppress

from journal import Journal
from journal.errors import JournalExistsError
from store.base.clock import Clock
from store.cache.event_mapper import to_record
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.events import CacheCreated

WRITER = "c10"

FORMAT = 1
"""What the genesis event says of the folder: docs/format.md."""


def ensure_cache(layout: Layout, *, clock: Clock) -> bool:
    """Make the cache if there is none.

    Returns:
        Whether this call made it.

    Raises:
        StoreError, journal.JournalError: The folder or file system cannot be used.
    """
    layout.create()
    if layout.exists():
        return False
    created = CacheCreated(cache_id=secrets.token_hex(16), format=FORMAT, writer=WRITER)
    record = to_record(created, build=None, wall_ns=clock.wall_ns(), mono_ns=clock.mono_ns())
    # Shared, so that a recovery beside this one does not take the newborn for garbage.
    with Artifacts(layout).sharing(), suppress(JournalExistsError):
        Journal.create(
            layout.journal,
            [record],
            scratch=layout.scratch,
            allow_unknown_filesystem=layout.allow_unknown_filesystem,
        )
        return True
    return False
