"""Read a cache while another process may write it.

A commit comes before its files, so that a reader may see a generation without manifest. That is no damage:
while somebody holds the build lock, the reader waits for absent files.
"""

import time

from journal.lock import lock_holder
from store.cache import journal_consistency
from store.cache.view import View, open_view, read_history
from store.disk.layout import Layout
from store.errors import DamagedHistoryError, ErrorKind

_ATTEMPTS, _PAUSE_S = 20, 0.05


def stable_view(layout: Layout, *, whole: bool) -> View:
    """Read a cache, and read it again while a living writer may still write files.

    Args:
        layout: The cache.
        whole: Whether to keep every record and to decode it strictly; see `read`.

    Returns:
        The view; with its history if that was asked for, or if files do not fit the journal and the files are
        wrong.

    Raises:
        RequestRefusedError: There is no cache.
        DamagedHistoryError, journal.JournalError: The journal cannot be trusted.
    """
    attempt = 1
    while True:
        view = _read_view(layout, whole=whole)
        if attempt == _ATTEMPTS or not _lacks_manifest(view):
            return view
        # Read twice in any case: the writer may have written the files and ended since the first began.
        if attempt > 1 and lock_holder(layout.build_lock) is None:
            return view
        time.sleep(_PAUSE_S)
        attempt += 1


def _lacks_manifest(view: View) -> bool:
    """Whether the newest generation lacks its manifest, which is written last."""
    head = view.state.head
    return head is not None and head.number not in view.layout.manifest_files()


def _read_view(layout: Layout, *, whole: bool) -> View:
    """Read the cache; if files disagree with the journal, make sure that the files are wrong."""
    try:
        return read_history(layout) if whole else open_view(layout)
    except DamagedHistoryError as error:
        if error.kind is not ErrorKind.JOURNAL_REPLACED or not layout.journal.exists():
            raise
        history = read_history(layout, strict=False)
        journal_consistency.require_consistent_journal(layout, history.state, history.chains)
        return history
