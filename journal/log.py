"""The journal: append records, read them back, and know that they are the ones that were appended.

Everything that leaves this module as a record was checked against the chain. An append is one durable transaction and
is acknowledged after its commit; head, seq and previous digest are read inside that transaction, because a read
transaction may lag behind after a writer was killed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

from journal.errors import (
    HeadMovedError,
    JournalDamagedError,
    JournalExistsError,
    JournalMissingError,
    JournalMisuseError,
    JournalVersionError,
    RecordError,
)
from journal.record import CHAIN_BYTES, EMPTY, Chain, Entry, Head, Record, encode, follow, link, seal, unseal
from journal.safe_reader import head_in_child
from journal.storage.create import FORMAT, create_journal
from journal.storage.environment import MAX_NAME_BYTES, Environment, Reader, open_environment
from journal.storage.error_mapping import translating_errors
from journal.storage.filesystem import filesystem_type, require_supported_filesystem
from journal.storage.integrity import Quietness, require_sound
from journal.storage.open_environment import MAP_BYTES

MAX_PROJECTION_BYTES: Final = 1 << 24

_CHUNK_RECORDS: Final = 1024
_CHUNK_BYTES: Final = 4 << 20
_NONE: Final[Mapping[bytes, bytes | None]] = MappingProxyType({})


class Journal:
    """An open journal, as a context manager; made by `Journal.open`. Not for sharing between threads or across forks.

    Attributes:
        path: The file.
        readonly: Whether appending is refused.
    """

    def __init__(self, environment: Environment, verified: Head) -> None:
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
    ) -> Self:
        """Check a journal and open it. Create an empty one if it is missing, unless `readonly`.

        Args:
            path: The file, by custom `journal.mdb`. LMDB keeps a lock file beside it.
            readonly: Never write to the file (LMDB's lock file is still written).
            scratch: Folder on the same file system where a new journal is created; by default `tmp` beside it.
            allow_unknown_filesystem: Accept a local file system that was never tested.
            map_bytes: Address space to reserve.

        Raises:
            JournalMissingError: `readonly`, and there is none.
            JournalDamagedError: The file is not sound.
            JournalVersionError: A newer release wrote it, and `readonly` is False.
            JournalFilesystemError: The file system cannot be trusted with a journal.
            JournalPermissionError: This user may not.
            JournalMisuseError: This process has it open already.
        """
        path = Path(path)
        try:
            busy = require_sound(path) is Quietness.BUSY
        except JournalMissingError:
            if readonly:
                raise
            scratch = path.parent / "tmp" if scratch is None else scratch
            with suppress(JournalExistsError):  # somebody else was faster, and theirs is as good
                cls.create(path, [], scratch=scratch, allow_unknown_filesystem=allow_unknown_filesystem)
            busy = require_sound(path) is Quietness.BUSY
        with translating_errors(path, "asking for the file system"):
            require_supported_filesystem(filesystem_type(path), path, allow_unknown=allow_unknown_filesystem)
        if busy:
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
        """Create a journal with its first records; afterwards it exists completely or not at all.

        Args:
            path: The file; its folder exists.
            records: The first records, in order.
            scratch: Folder on the same file system where the file is made; it is made if it is missing.
            projections: Named values to begin with.
            allow_unknown_filesystem: Accept a local file system that was never tested.

        Returns:
            The head of the new journal, which is not open.

        Raises:
            JournalExistsError: There is something under that name; it was not touched.
            RecordError: A record cannot be encoded.
            JournalFilesystemError: The file system cannot be trusted, or hard links do not work.
            JournalFullError: No space.
            JournalPermissionError: This user may not.
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
    def path(self) -> Path:
        """The file."""
        return self._environment.path

    @property
    def readonly(self) -> bool:
        """Whether appending is refused."""
        return self._environment.readonly

    @property
    def head(self) -> Head:
        """The newest record now, whichever process appended it; its chain checked. Never goes backwards.

        Raises:
            JournalDamagedError: A record does not continue the chain.
        """
        with self._environment.read() as reader:
            self._advance(reader)
        return self._verified

    def append(
        self,
        records: Sequence[Record],
        projections: Mapping[bytes, bytes | None] = _NONE,
        *,
        expect: Head | None = None,
    ) -> Head:
        """Append records and replace projections in one durable transaction: all of it or nothing.

        Args:
            records: In order; may be empty.
            projections: Named values to set, or to drop where the value is None. A name has 1 to 511 bytes, a value at
                most 16 MiB.
            expect: The head the caller decided upon.

        Returns:
            The new head, after the commit: it survives a power cut from now on.

        Raises:
            HeadMovedError: The head is another one than `expect`; nothing was appended.
            RecordError: A record cannot be encoded; nothing was appended.
            JournalFullError: No space; nothing was appended, and unless the map was full the journal has to be opened again.
            JournalDamagedError: What is in the journal does not continue the chain.
            JournalMisuseError: Read-only, closed, or opened before a fork.
        """
        raws = [encode(record) for record in records]
        _check_projections(projections)
        with self._environment.write() as writer:
            if self._advance(writer) < self._verified.seq:
                raise JournalDamagedError(
                    f"{self.path}: record {self._verified.seq} was here before and is gone",
                    seq=self._verified.seq,
                )
            head = self._verified
            if expect is not None and expect != head:
                raise HeadMovedError(
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
                    writer.put_projection(name, seal(name, value))
        self._verified = Head(seq, chain)
        return self._verified

    def read(self, start: int = 1, stop: int | None = None) -> Iterator[Record]:
        """Records from `start` up to, not including, `stop`; see `entries`.

        Raises:
            JournalDamagedError: Also if a record continues the chain and is still none this release can decode.
        """
        for entry in self.entries(start, stop):
            try:
                record = entry.record
            except RecordError as error:
                raise JournalDamagedError(
                    f"{self.path}: record {entry.seq} is sound and cannot be decoded: {error.message}",
                    seq=entry.seq,
                ) from error
            yield record

    def entries(self, start: int = 1, stop: int | None = None) -> Iterator[Entry]:
        """Entries from `start` up to, not including, `stop`, or to what was the newest when the reading began.

        They are read in pieces, each in a transaction of its own that is closed before the first of them is handed
        out; so it is fine to append, or to take long, in between.

        Raises:
            JournalDamagedError: A record does not continue the chain; `seq` says which.
            JournalMisuseError: `start` is less than 1.
        """
        if start < 1:
            raise JournalMisuseError(f"records are counted from 1, found start={start}")
        head: Head | None = None
        while stop is None or start < stop:
            with self._environment.read() as reader:
                if stop is None:
                    last = reader.last()
                    stop = 1 if last is None else last[0] + 1
                head = self._before(reader, start) if head is None else head
                piece = [] if head is None else _piece(reader, head, stop)
            if not piece:
                return
            head = piece[-1].head
            if head.seq > self._verified.seq:
                self._verified = head
            start = head.seq + 1
            yield from piece

    def projection(self, name: bytes) -> bytes | None:
        """A named value, checked against its digest; None if there is none.

        Raises:
            JournalDamagedError: It was changed outside of a transaction.
        """
        with self._environment.read() as reader:
            sealed = reader.projection(name)
        return None if sealed is None else unseal(name, sealed)

    def projections(self) -> dict[bytes, bytes]:
        """All named values, of one moment, checked against their digests.

        Raises:
            JournalDamagedError: One was changed outside of a transaction.
        """
        with self._environment.read() as reader:
            found = list(reader.projections())
        return {name: unseal(name, sealed) for name, sealed in found}

    def verify(self) -> Head:
        """Check everything: structure of the file, the chain from the first record, all projections.

        Beside a writer that keeps committing the structure cannot be judged, and only the rest is checked.

        Returns:
            The head. That it is the newest there ever was cannot be known from the file; compare it with one kept
            elsewhere.

        Raises:
            JournalDamagedError: Something is not as it was written.
        """
        require_sound(self.path)
        self._check_format()
        with self._environment.read() as reader:
            last = reader.last()
            end, count = (0 if last is None else last[0]), reader.count()
        if count != end:
            raise JournalDamagedError(
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _advance(self, reader: Reader) -> int:
        """Check what others appended since; returns the newest seq that this transaction sees."""
        last = reader.last()
        seq, value = (0, b"") if last is None else last
        if seq > self._verified.seq:
            for entry in follow(self._verified, reader.records(self._verified.seq + 1)):
                self._verified = entry.head
        elif seq == self._verified.seq and value[:CHAIN_BYTES] != (self._verified.chain if seq else b""):
            raise JournalDamagedError(f"{self.path}: record {seq} is another one than before", seq=seq)
        return seq

    def _before(self, reader: Reader, start: int) -> Head | None:
        """The head before `start`; None if the journal does not reach that far."""
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
            raise JournalDamagedError(f"{self.path}: a format number expected, found {text!r}")
        if int(text) > FORMAT and not self.readonly:
            raise JournalVersionError(
                f"{self.path}: format {FORMAT} expected, found {int(text)}, written by a newer release",
                hint="use that release, or open it for reading only",
            )


def _piece(reader: Reader, head: Head, stop: int) -> list[Entry]:
    piece: list[Entry] = []
    size = 0
    for entry in follow(head, reader.records(head.seq + 1)):
        if entry.seq >= stop:
            break
        piece.append(entry)
        size += len(entry.raw)
        if len(piece) >= _CHUNK_RECORDS or size >= _CHUNK_BYTES:
            break
    return piece


def _check_projections(projections: Mapping[bytes, bytes | None]) -> None:
    for name, value in projections.items():
        if not 1 <= len(name) <= MAX_NAME_BYTES:
            raise JournalMisuseError(
                f"projection name: 1 to {MAX_NAME_BYTES} bytes expected, found {len(name)}"
            )
        if value is not None and len(value) > MAX_PROJECTION_BYTES:
            raise JournalMisuseError(
                f"projection {name!r}: at most {MAX_PROJECTION_BYTES} bytes expected, found {len(value)}",
                hint="store large content as an artifact",
            )
