"""An append-only, hash-chained log of records in one LMDB file, and the build lock.

The journal knows bytes. The packages above it know what a record means and what a build is; it imports none
of them. `FORMAT.md` in this folder describes every byte on disk.
"""

from journal.errors import (
    BuildLockHeldError,
    HeadMovedError,
    JournalDamagedError,
    JournalError,
    JournalExistsError,
    JournalFilesystemError,
    JournalFullError,
    JournalMissingError,
    JournalPermissionError,
    JournalVersionError,
    RecordError,
)
from journal.log import Journal
from journal.record import Entry, Head, Record

__all__ = [
    "BuildLockHeldError",
    "Entry",
    "Head",
    "HeadMovedError",
    "Journal",
    "JournalDamagedError",
    "JournalError",
    "JournalExistsError",
    "JournalFilesystemError",
    "JournalFullError",
    "JournalMissingError",
    "JournalPermissionError",
    "JournalVersionError",
    "Record",
    "RecordError",
]
