"""An append-only, hash-chained log of records in one LMDB file, and the lock that lets one build write it.

The journal knows bytes: what a record means, which records belong together and what a build is, is known above.
`FORMAT.md` in this folder describes every byte on disk.
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
