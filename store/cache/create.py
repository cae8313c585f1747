"""Create a cache: its folders, then its journal with the first event, `CacheCreated`.

A build (with the build lock) and an engine run (without it) may both try: the second one uses the journal of the first.
"""

import secrets
from contextlib import suppress

from journal import Journal
from journal.errors import JournalExistsError
from store.base.clock import Clock, recorded_wall_ns
from store.cache.event_mapper import to_record
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.events import CacheCreated

WRITER = "c10"

FORMAT = 1
"""Format of the folder, recorded in the first event: docs/format.md."""


def ensure_cache(layout: Layout, *, clock: Clock) -> bool:
    """Create the cache if there is none.

    Returns:
        Whether this call created it.

    Raises:
        StoreError, journal.JournalError: The folder or file system cannot be used.
    """
    layout.create()
    if layout.exists():
        return False
    created = CacheCreated(cache_id=secrets.token_hex(16), format=FORMAT, writer=WRITER)
    record = to_record(created, build=None, wall_ns=recorded_wall_ns(clock), mono_ns=clock.mono_ns())
    # The shared lock keeps a concurrent recovery from removing the unfinished journal.
    with Artifacts(layout).shared_lock(), suppress(JournalExistsError):
        Journal.create(
            layout.journal,
            [record],
            scratch=layout.scratch,
            allow_unknown_filesystem=layout.allow_unknown_filesystem,
        )
        return True
    return False
