"""What tests of this package and of those above need: a journal in memory, a lock without a file, made-up records.

`MemoryJournal` behaves as `journal.log.Journal` does where values are concerned, and has neither file nor disk errors.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Final, Self

from hypothesis import strategies as st

from journal.errors import BuildLockHeldError, HeadMovedError, JournalClosedError, JournalMisuseError
from journal.record import EMPTY, Entry, Head, Payload, Record, encode, link

_NONE: Final[Mapping[bytes, bytes | None]] = MappingProxyType({})
_INT64: Final = 1 << 63


class MemoryJournal:
    """A list that keeps the promises of a `Journal`.

    Attributes:
        readonly: Whether appending is refused.
        transactions: Number of appends so far, for tests that count writes.
    """

    def __init__(self, *, readonly: bool = False) -> None:
        self.readonly = readonly
        self.transactions = 0
        self._entries: list[Entry] = []
        self._projections: dict[bytes, bytes] = {}
        self._closed = False

    @property
    def head(self) -> Head:
        """The newest record."""
        self._usable()
        return self._entries[-1].head if self._entries else EMPTY

    def append(
        self,
        records: Sequence[Record],
        projections: Mapping[bytes, bytes | None] = _NONE,
        *,
        expect: Head | None = None,
    ) -> Head:
        """Append records and replace projections: all of it or nothing.

        Raises:
            HeadMovedError: The head is another one than `expect`.
            RecordError: A record cannot be encoded.
            JournalMisuseError: Closed or read-only.
        """
        head = self.head
        if self.readonly:
            raise JournalMisuseError("open for reading only", hint="open it with readonly=False")
        raws = [encode(record) for record in records]
        if expect is not None and expect != head:
            raise HeadMovedError(
                f"head expected at record {expect.seq}, found at {head.seq}", expected=expect, found=head
            )
        for raw in raws:
            head = Head(head.seq + 1, link(head.chain, raw))
            self._entries.append(Entry(seq=head.seq, chain=head.chain, raw=raw))
        for name, value in projections.items():
            if value is None:
                self._projections.pop(name, None)
            else:
                self._projections[name] = value
        self.transactions += 1
        return head

    def entries(self, start: int = 1, stop: int | None = None) -> Iterator[Entry]:
        """Entries from `start` up to, not including, `stop`, or to what is the newest now."""
        self._usable()
        if start < 1:
            raise JournalMisuseError(f"records are counted from 1, found start={start}")
        yield from self._entries[start - 1 : None if stop is None else max(stop - 1, 0)]

    def read(self, start: int = 1, stop: int | None = None) -> Iterator[Record]:
        """Records from `start` up to, not including, `stop`."""
        for entry in self.entries(start, stop):
            yield entry.record

    def projection(self, name: bytes) -> bytes | None:
        """A named value; None if there is none."""
        self._usable()
        return self._projections.get(name)

    def projections(self) -> dict[bytes, bytes]:
        """All named values, by name."""
        self._usable()
        return dict(sorted(self._projections.items()))

    def verify(self) -> Head:
        """Nothing can be wrong with a list."""
        return self.head

    def close(self) -> None:
        """Refuse all further use."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _usable(self) -> None:
        if self._closed:
            raise JournalClosedError("an open journal expected, it was closed", hint="open it again")


class FakeBuildLock:
    """A build lock without a file.

    Attributes:
        holder: Set it to make the next attempt fail as if this process held the lock.
        acquired: Whether the lock is held by this object.
        build: What it was described with.
        acquisitions: How often it was taken.
    """

    def __init__(self, holder: Mapping[str, object] | None = None) -> None:
        self.holder = holder
        self.acquired = False
        self.build: int | None = None
        self.acquisitions = 0

    def acquire(self) -> None:
        """Take it.

        Raises:
            BuildLockHeldError: `holder` is set.
            JournalMisuseError: It is taken already.
        """
        if self.holder is not None:
            raise BuildLockHeldError("the build lock is held", holder=self.holder)
        if self.acquired:
            raise JournalMisuseError("the build lock is already held by this object")
        self.acquired = True
        self.acquisitions += 1

    def describe(self, *, build: int | None) -> None:
        """Say which build it is held for."""
        if not self.acquired:
            raise JournalMisuseError("the build lock is not held")
        self.build = build

    def release(self) -> None:
        """Free it."""
        self.acquired = False

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def payloads(*, max_leaves: int = 20) -> st.SearchStrategy[Payload]:
    """Any tree that a record can hold."""
    leaves: st.SearchStrategy[Payload] = (
        st.none()
        | st.booleans()
        | st.integers(-_INT64, 2 * _INT64 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=40)
        | st.binary(max_size=40)
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
        max_leaves=max_leaves,
    )


def records(*, max_leaves: int = 20) -> st.SearchStrategy[Record]:
    """Any record."""
    return st.builds(
        Record,
        tag=st.from_regex(r"[a-z0-9._-]{1,64}", fullmatch=True),
        version=st.integers(1, (1 << 31) - 1),
        build=st.none() | st.integers(0, _INT64 - 1),
        wall_ns=st.integers(-_INT64, _INT64 - 1),
        mono_ns=st.integers(0, _INT64 - 1),
        payload=payloads(max_leaves=max_leaves),
    )


def sample_record(number: int, *, tag: str = "made-up", size: int = 0) -> Record:
    """A record that depends on its arguments alone.

    Args:
        number: Goes into every field that can hold it.
        tag: Of the record.
        size: Bytes of filling.
    """
    filling = (number.to_bytes(8, "big") * (size // 8 + 1))[:size]
    return Record(
        tag=tag,
        version=1,
        build=number // 10,
        wall_ns=1_700_000_000_000_000_000 + number,
        mono_ns=number,
        payload={"number": number, "filling": filling},
    )
