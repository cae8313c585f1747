"""A look at a cache beside a writer: which side is wrong where files and journal disagree, and whether any is.

A commit comes before its files. Who looks in between sees a generation without manifest, and no damage: while
somebody holds the build lock, absent files are waited for.
"""

import time

from journal.lock import lock_holder
from store.cache import journal_consistency
from store.cache.view import View, open_view, read_history
from store.disk.layout import Layout
from store.errors import DamagedHistoryError, ErrorKind

_LOOKS, _PAUSE_S = 20, 0.05


def stable_view(layout: Layout, *, whole: bool) -> View:
    """Look at a cache, again and again while a writer that lives may owe it files.

    Args:
        layout: Where it is.
        whole: Whether to keep every record and to decode it strictly; see `read`.

    Returns:
        What is there: with its history if that was asked for, or where the files do not fit the journal and it is the
        files that are wrong.

    Raises:
        RequestRefusedError: There is no cache.
        DamagedHistoryError, journal.JournalError: The journal cannot be believed.
    """
    looks = 1
    while True:
        view = _look(layout, whole=whole)
        if looks == _LOOKS or not _absent(view):
            return view
        # Once more in any case: who committed may have written the files, and gone, since the look began.
        if looks > 1 and lock_holder(layout.build_lock) is None:
            return view
        time.sleep(_PAUSE_S)
        looks += 1


def _absent(view: View) -> bool:
    """Whether the newest generation lacks its manifest, which is the last of its files."""
    head = view.state.head
    return head is not None and head.number not in view.layout.manifest_files()


def _look(layout: Layout, *, whole: bool) -> View:
    """Look at the cache; where files disagree with the journal, say whether it is the files that are wrong."""
    try:
        return read_history(layout) if whole else open_view(layout)
    except DamagedHistoryError as error:
        if error.kind is not ErrorKind.JOURNAL_REPLACED or not layout.journal.exists():
            raise
        history = read_history(layout, strict=False)
        journal_consistency.require_consistent_journal(layout, history.state, history.chains)
        return history
