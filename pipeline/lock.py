"""The build lock: at most one build of a cache runs."""

from journal.lock import BuildLock
from store.backports import Self
from store.disk.folder_integrity import refuse_unfit_folder
from store.disk.layout import Layout


class CacheLock:
    """The lock file of a cache, whose folder is created first if there is none."""

    def __init__(self, layout: Layout, timeout_s: float) -> None:
        self._layout = layout
        self._lock = BuildLock(layout.build_lock, timeout_s=timeout_s, command="c10")

    def __enter__(self) -> Self:
        """Acquire the lock.

        Raises:
            BuildLockHeldError: Another build holds it.
            StoreError, journal.JournalError: The folder cannot hold a cache, or anybody may write to it.
        """
        refuse_unfit_folder(self._layout)
        self._layout.make_root()
        self._lock.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def describe(self, *, build: int | None) -> None:
        """Write down which build holds it."""
        self._lock.describe(build=build)
