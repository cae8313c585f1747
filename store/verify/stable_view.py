"""Read a cache while another process may write it.

A commit comes before its files, so that a reader may see a generation without manifest. That is no damage:
while somebody holds the build lock, the reader waits for absent files, and does not judge a cache whose writer is
slow or suspended.
"""

import os
import time

from journal.lock import lock_holder
from store.cache import journal_consistency
from store.cache.view import View, open_view, read_history
from store.disk.layout import Layout
from store.errors import ArtifactsBusyError, DamagedHistoryError, ErrorKind

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
        ArtifactsBusyError: A writer committed and did not write the files in time.
        DamagedHistoryError, journal.JournalError: The journal cannot be trusted.
    """
    attempt = 1
    while True:
        view = _read_view(layout, whole=whole)
        if not _lacks_manifest(view):
            return view
        # Read twice in any case: the writer may have written the files and ended since the first began.
        holder = lock_holder(layout.build_lock)
        if attempt > 1 and holder is None:
            return view
        if attempt == _ATTEMPTS:
            if holder and holder.get("pid") == os.getpid():
                return view
            raise ArtifactsBusyError(
                f"expected the process that holds {layout.build_lock} to write the manifest of the generation that it"
                " committed, found none yet",
                kind=ErrorKind.BUSY,
                hint="wait for that process, which may be suspended, or end it; then run this again",
            )
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
