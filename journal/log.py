"""Append records to the journal and read them back; every record is checked against the hash chain.

An append is one durable transaction, acknowledged after its commit. Head, seq and previous digest are read
inside that transaction, because a read transaction may lag behind after a writer was killed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final

from journal import errors
from journal.record import (
    CHAIN_BYTES,
    EMPTY,
    Chain,
    Entry,
    Head,
    Record,
    encode,
    link,
    pack_projection,
    unpack_projection,
    verify_chain,
)
from journal.safe_reader import head_in_child
from journal.storage.create import FORMAT, create_journal, require_one_name
from journal.storage.environment import MAX_NAME_BYTES, Environment, ReadTransaction, open_environment
from journal.storage.error_mapping import translating_errors
from journal.storage.filesystem import filesystem_type, require_supported_filesystem
from journal.storage.integrity import require_sound
from journal.storage.open_environment import MAP_BYTES

MAX_PROJECTION_BYTES: Final = 1 << 24

_BATCH_RECORDS: Final = 1024
_BATCH_BYTES: Final = 4 << 20
_NO_CHANGES: Final[Mapping[bytes, bytes | None]] = MappingProxyType({})


class Journal:
    """An open journal, as a context manager. Do not share it between threads or across forks.

    Attributes:
        path: The file.
        readonly: Whether appending is refused.
    """

    def __init__(self, environment: Environment, verified: Head) -> None:
        self.path = environment.path
        self.readonly = environment.readonly
        self._environment = environment
        self._verified = verified

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        readonly: bool = False,
        scratch: Path | None = None,
        allow_unknown_filesystem: bool = False,
        map_bytes: int = MAP_BYTES,
    ) -> "Journal":
        """Check a journal and open it. Create an empty one if it is missing, unless `readonly`.

        Args:
            path: The file, usually `journal.mdb`. LMDB keeps a lock file beside it.
            readonly: Never write to the file (LMDB's lock file is still written).
            scratch: Folder on the same file system where a new journal is created; by default `tmp` beside
                it.
            allow_unknown_filesystem: Accept a local file system that was never tested.
            map_bytes: Address space to reserve.

        Raises:
            JournalMissingError: `readonly`, and there is no journal.
            JournalDamagedError: The file is damaged.
            JournalVersionError: A newer release wrote it, and `readonly` is False.
            JournalFilesystemError: The file system cannot hold a journal; or the file has several names, and
                `readonly` is False.
            JournalPermissionError: This user may not open it.
            JournalMisuseError: This process has it open already.
        """
        path = Path(path)
        try:
            checked = require_sound(path)
        except errors.JournalMissingError:
            if readonly:
                raise
            scratch = path.parent / "tmp" if scratch is None else scratch
            with suppress(errors.JournalExistsError):  # another process created it first
                cls.create(path, [], scratch=scratch, allow_unknown_filesystem=allow_unknown_filesystem)
            checked = require_sound(path)
        with translating_errors(path, "asking for the file system"):
            require_supported_filesystem(filesystem_type(path), path, allow_unknown=allow_unknown_filesystem)
        if not readonly:
            require_one_name(path, path.parent / "tmp" if scratch is None else scratch)
        if not checked:
            head_in_child(path)
        environment = open_environment(path, readonly=readonly, map_bytes=map_bytes)
        try:
            journal = cls(environment, EMPTY)
            journal._check_format()
            for _ in journal.entries():
                pass
        except BaseException:
            environment.close()
            raise
        return journal

    @classmethod
    def create(
        cls,
        path: Path | str,
        records: Sequence[Record],
        *,
        scratch: Path,
        projections: Mapping[bytes, bytes] = MappingProxyType({}),
        allow_unknown_filesystem: bool = False,
    ) -> Head:
        """Create a journal with its first records, without opening it; it exists completely or not at all.

        Args:
            path: The file; its folder exists.
            records: The first records, in order.
            scratch: Folder on the same file system where the file is written; created if it is missing.
            projections: The first named values.
            allow_unknown_filesystem: Accept a local file system that was never tested.

        Returns:
            The head of the new journal.

        Raises:
            JournalExistsError: Something has that name; it was not touched.
            RecordError: A record cannot be encoded.
            JournalFilesystemError: The file system cannot hold a journal, or hard links do not work.
            JournalFullError: No space.
            JournalPermissionError: This user may not write there.
        """
        _check_projections(projections)
        return create_journal(
            Path(path),
            records,
            scratch=scratch,
            projections=projections,
            allow_unknown_filesystem=allow_unknown_filesystem,
        )

    @property
    def head(self) -> Head:
        """The newest record now, whichever process appended it; its chain is checked. Never goes backwards.

        Raises:
            JournalDamagedError: A record does not continue the chain.
        """
        with self._environment.read() as reader:
            self._verify_new_records(reader)
        return self._verified

    def append(
        self,
        records: Sequence[Record],
        projections: Mapping[bytes, bytes | None] = _NO_CHANGES,
        *,
        expect: Head | None = None,
    ) -> Head:
        """Append records and replace projections in one durable transaction: all or nothing.

        Args:
            records: In order; may be empty.
            projections: Named values to set, or to delete where the value is None. A name has 1 to 511 bytes,
                a value at most 16 MiB.
            expect: The head that the caller based its decision on.

        Returns:
            The new head, after the commit: it survives a power cut.

        Raises:
            HeadMovedError: The head is not `expect`; nothing was appended.
            RecordError: A record cannot be encoded; nothing was appended.
            JournalFullError: No space; nothing was appended. Open the journal again, unless the map was full.
            JournalDamagedError: A record in the journal does not continue the chain.
            JournalMisuseError: Read-only, closed, or opened before a fork.
        """
        raws = [encode(record) for record in records]
        _check_projections(projections)
        with self._environment.write() as writer:
            if self._verify_new_records(writer) < self._verified.seq:
                raise errors.JournalDamagedError(
                    f"{self.path}: record {self._verified.seq} is missing, it was read before",
                    seq=self._verified.seq,
                )
            head = self._verified
            if expect is not None and expect != head:
                raise errors.HeadMovedError(
                    f"{self.path}: head expected at record {expect.seq}, found at {head.seq}",
                    expected=expect,
                    found=head,
                )
            seq, chain = head
            for raw in raws:
                seq, chain = seq + 1, link(chain, raw)
                writer.put_record(seq, chain + raw)
            for name, value in projections.items():
                if value is None:
                    writer.delete_projection(name)
                else:
                    writer.put_projection(name, pack_projection(name, value))
        self._verified = Head(seq, chain)
        return self._verified

    def read(self, start: int = 1, stop: int | None = None) -> Iterator[Record]:
        """Yield the records from `start` up to, not including, `stop`; see `entries`.

        Raises:
            JournalDamagedError: Also if a record continues the chain, but cannot be decoded.
        """
        for entry in self.entries(start, stop):
            try:
                record = entry.record
            except errors.RecordError as error:
                raise errors.JournalDamagedError(
                    f"{self.path}: record {entry.seq} is sound and cannot be decoded: {error.message}",
                    seq=entry.seq,
                ) from error
            yield record

    def entries(self, start: int = 1, stop: int | None = None) -> Iterator[Entry]:
        """Yield the entries from `start` up to, not including, `stop`, or to the newest when reading began.

        Entries are read in batches, each in its own transaction, which is closed before the batch is yielded.
        So the caller may append, or take long, in between.

        Raises:
            JournalDamagedError: A record does not continue the chain; `seq` says which.
            JournalMisuseError: `start` is less than 1.
        """
        if start < 1:
            raise errors.JournalMisuseError(f"records are counted from 1, found start={start}")
        head: Head | None = None
        while stop is None or start < stop:
            with self._environment.read() as reader:
                if stop is None:
                    last = reader.last()
                    stop = 1 if last is None else last[0] + 1
                head = self._head_before(reader, start) if head is None else head
                batch = [] if head is None else _read_batch(reader, head, stop)
            if not batch:
                return
            head = batch[-1].head
            if head.seq > self._verified.seq:
                self._verified = head
            start = head.seq + 1
            yield from batch

    def projection(self, name: bytes) -> bytes | None:
        """Return a named value, checked against its digest; None if there is none.

        Raises:
            JournalDamagedError: It was changed outside of a transaction.
        """
        with self._environment.read() as reader:
            packed = reader.projection(name)
        return None if packed is None else unpack_projection(name, packed)

    def projections(self) -> dict[bytes, bytes]:
        """Return all named values from one transaction, checked against their digests.

        Raises:
            JournalDamagedError: One was changed outside of a transaction.
        """
        with self._environment.read() as reader:
            found = list(reader.projections())
        return {name: unpack_projection(name, packed) for name, packed in found}

    def verify(self) -> Head:
        """Check the structure of the file, the chain from the first record, and all projections.

        While another process keeps committing, the structure cannot be checked; the rest is.

        Returns:
            The head. The loss of the newest records cannot be noticed; compare it with a head kept elsewhere.

        Raises:
            JournalDamagedError: Something is not as it was written.
        """
        require_sound(self.path)
        self._check_format()
        with self._environment.read() as reader:
            last = reader.last()
            end, count = (0 if last is None else last[0]), reader.count()
        if count != end:
            raise errors.JournalDamagedError(
                f"{self.path}: {end} records expected by their keys, LMDB counts {count}"
            )
        head = EMPTY
        for entry in self.entries(1, end + 1):
            head = entry.head
        self.projections()
        return head

    def close(self) -> None:
        """Close the file; without effect if it is closed."""
        self._environment.close()

    def __enter__(self) -> "Journal":  # noqa: PYI034 - `Self` came with Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _verify_new_records(self, reader: ReadTransaction) -> int:
        """Check what other processes appended; return the newest seq that this transaction sees."""
        last = reader.last()
        seq, value = (0, b"") if last is None else last
        if seq > self._verified.seq:
            for entry in verify_chain(self._verified, reader.records(self._verified.seq + 1)):
                self._verified = entry.head
        elif seq == self._verified.seq and value[:CHAIN_BYTES] != (self._verified.chain if seq else b""):
            raise errors.JournalDamagedError(f"{self.path}: record {seq} has been replaced", seq=seq)
        return seq

    def _head_before(self, reader: ReadTransaction, start: int) -> Head | None:
        """Return the head before `start`; None if the journal ends before it."""
        if start == 1:
            return EMPTY
        if start == self._verified.seq + 1:
            return self._verified
        value = reader.record(start - 1)
        return None if value is None else Head(start - 1, Chain(value[:CHAIN_BYTES]))

    def _check_format(self) -> None:
        with self._environment.read() as reader:
            text = reader.meta(b"format")
        if text is None or not text.isdigit() or int(text) < 1:
            raise errors.JournalDamagedError(f"{self.path}: a format number expected, found {text!r}")
        if int(text) > FORMAT and not self.readonly:
            raise errors.JournalVersionError(
                f"{self.path}: format {FORMAT} expected, found {int(text)}, written by a newer release",
                hint="use that release, or open it for reading only",
            )


def _read_batch(reader: ReadTransaction, head: Head, stop: int) -> list[Entry]:
    batch: list[Entry] = []
    size = 0
    for entry in verify_chain(head, reader.records(head.seq + 1)):
        if entry.seq >= stop:
            break
        batch.append(entry)
        size += len(entry.raw)
        if len(batch) >= _BATCH_RECORDS or size >= _BATCH_BYTES:
            break
    return batch


def _check_projections(projections: Mapping[bytes, bytes | None]) -> None:
    for name, value in projections.items():
        if not 1 <= len(name) <= MAX_NAME_BYTES:
            raise errors.JournalMisuseError(
                f"projection name: 1 to {MAX_NAME_BYTES:,} bytes expected, found {len(name)}"
            )
        if value is not None and len(value) > MAX_PROJECTION_BYTES:
            raise errors.JournalMisuseError(
                f"projection {name!r}: at most {MAX_PROJECTION_BYTES:,} bytes expected, found {len(value)}",
                hint="store large content as an artifact",
            )
