"""Make the journal again: from its segments, and from what still reads of the damaged file.

Segments 1 to n hold every record up to the last commit, framed and chained. What was appended after it exists in the
journal alone; of that, and of the records of a segment that is missing or broken, everything is taken from the damaged
file that still reads and continues the chain. Before the first commit that file is all there is.

Nothing is believed for being there. Every link of the chain is computed again, every event is folded, every generation
must project to the manifest it committed, and the manifests beside it must not say otherwise. Only then is the
damaged file unlinked, after it was linked into `quarantine/`, and read once more: a writer beside this one that was
told that its records are durable asked for the file's name after its commit, so that they are in what is read now.
Signatures that were lost with records after the last commit are appended again from their files, where a trusted key
vouches for them (`store.maintenance.recover_signatures`). The new file appears complete under the name, or not at all. Whoever dies in between leaves no journal, which every command
says, and the next rebuild reads what lies in quarantine.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from journal import Entry, Head, Journal, JournalExistsError, RecordError, safe_reader
from journal.fsync import fsync_dir
from journal.record import EMPTY, encode, extend
from store.base import canonical_json
from store.base.clock import Clock, SystemClock
from store.cache import journal_consistency, segment
from store.cache.event_mapper import to_record, to_recorded_event
from store.disk.layout import Layout
from store.disk.quarantine import move_to_quarantine
from store.domain.events import GenerationSigned
from store.domain.fold import fold_into
from store.domain.manifest_projection import head_projections, project
from store.domain.state import State
from store.errors import DamagedHistoryError, ErrorKind, UnknownEventError, from_os_error
from store.files.regular_file import read_regular
from store.maintenance.recover_signatures import RecoveredSignatures, recover_signatures
from store.trust.go_no_go import ALLOW_UNSIGNED, TrustedKeys

_SOURCES = 4
"""How many files of earlier rebuilds are looked into, newest first; one that was interrupted left its own last."""
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildResult:
    """What was made.

    Attributes:
        state: What the new journal folds to.
        records: How many records it holds.
        salvaged: How many of them came from a damaged file, since no segment holds them.
        segments_replaced: Generations whose segment was missing or broken, and whose records were salvaged.
        quarantine: Where the damaged file lies, relative to the cache; empty if there was none.
        signatures: How many signatures were recorded again from their files.
        signatures_left: Signature files, relative to the cache, that no record holds and no trusted key vouches for.
    """

    state: State
    records: int
    salvaged: int
    segments_replaced: tuple[int, ...] = ()
    quarantine: str = ""
    signatures: int = 0
    signatures_left: tuple[str, ...] = ()


def rebuild(
    layout: Layout,
    *,
    trusted_keys: TrustedKeys = ALLOW_UNSIGNED,
    clock: Clock | None = None,
    host: canonical_json.Document | None = None,
) -> RebuildResult:
    """Replace the journal by one made again; the caller holds the build lock.

    Args:
        layout: Where the cache is.
        trusted_keys: Whose signatures are recorded again where their records are lost.
        clock: Where the times of those records come from; the machine's if it is not given.
        host: Facts about this machine, recorded with them.

    Raises:
        DamagedHistoryError: The records are incomplete, or do not fit the manifests; the journal was not touched.
        UnknownEventError: They hold events of a newer version, which that version must judge; as above.
        StoreError, journal.JournalError: The folder cannot be used; the journal that was there is there again.
    """
    history = _read(layout)
    history.require(layout)
    layout.create()
    kept, late = "", RecoveredSignatures()
    for attempt in range(_ATTEMPTS):
        taken = _set_aside(layout)
        kept = kept or taken
        try:
            history = _read(layout)
            history.require(layout)
            late = recover_signatures(layout, history.state, trusted_keys=trusted_keys, host=host or {})
            history.sign(late.events, clock or SystemClock())
            _give_birth(layout, history)
        except JournalExistsError:
            # Somebody who found no journal began one; without the build lock nobody can commit to it.
            if attempt + 1 == _ATTEMPTS:
                raise
            continue
        except BaseException:
            _put_back(layout, kept)
            raise
        break
    return RebuildResult(
        state=history.state,
        records=len(history.entries),
        salvaged=history.salvaged,
        segments_replaced=tuple(history.replaced),
        quarantine=kept,
        signatures=len(late.events),
        signatures_left=late.left,
    )


@dataclass(slots=True)
class _History:
    """Records under way to a new journal, folded as far as they go."""

    state: State = field(default_factory=State)
    entries: list[Entry] = field(default_factory=list)
    salvaged: int = 0
    replaced: list[int] = field(default_factory=list)

    @property
    def head(self) -> Head:
        return self.entries[-1].head if self.entries else EMPTY

    def take(self, entries: Sequence[Entry]) -> None:
        fold_into(self.state, map(to_recorded_event, entries))
        self.entries.extend(entries)

    def sign(self, events: Sequence[GenerationSigned], clock: Clock) -> None:
        """Append signatures that are recorded again."""
        for event in events:
            record = to_record(event, build=None, wall_ns=clock.wall_ns(), mono_ns=clock.mono_ns())
            raw = encode(record)
            head = extend(self.head, (raw,))
            self.take((Entry(seq=head.seq, chain=head.chain, raw=raw),))

    def require(self, layout: Layout) -> None:
        """Hold it against itself and the manifests."""
        _require_known(self.state)
        for number, generation in self.state.generations.items():
            if canonical_json.sha256(project(self.state, generation)) != generation.manifest_sha256:
                raise _broken(f"the records of generation {number} to project to the manifest they commit")
        chains = [entry.chain.hex() for entry in self.entries]
        against = journal_consistency.compare_files(layout, self.state, chains, segments=False).contradiction
        if against:
            raise _broken(f"the segments of this cache, all of them; {against}")


def _read(layout: Layout) -> _History:
    history, files = _History(), layout.segment_files()
    for number in range(1, max(files, default=0) + 1):
        found, wrong = _segment(layout, files.get(number), number, history.head)
        if wrong:
            found = _salvage_generation(layout, number, history)
            if not found:
                raise _broken(
                    f"segment {number}: {wrong}; nor does a journal that still reads hold its records"
                )
            history.replaced.append(number)
            history.salvaged += len(found)
        history.take(found)
        if len(history.state.generations) != number:
            raise _broken(f"segment {number} to end with the commit of generation {number}")
    _require_known(history.state)
    tail = _acceptable(history.state, _salvage(layout, history.head))
    history.take(tail)
    history.salvaged += len(tail)
    if not history.entries:
        raise DamagedHistoryError(
            f"expected segments, or a journal that still reads, in {layout.root}, found neither: nothing was committed",
            kind=ErrorKind.JOURNAL_INCOMPLETE,
            hint="move journal.mdb out of the cache, then c10 build begins anew",
        )
    return history


def _segment(layout: Layout, name: str | None, number: int, head: Head) -> tuple[Sequence[Entry], str]:
    """Return the records of a segment, or what is wrong with it."""
    if name is None:
        return (), "expected a file, found none"
    path = layout.segments / name
    try:
        data = read_regular(path, limit=path.lstat().st_size)
    except FileNotFoundError:
        return (), "expected a file, found none"
    except OSError as error:
        raise from_os_error(error, f"segment {name}") from error
    if data is None:
        return (), "expected a regular file, found something else"
    try:
        found = segment.decode(data)
    except DamagedHistoryError as error:
        return (), error.message
    if found.generation != number or found.before != head or not found.entries:
        return (), f"expected it to continue at record {head.seq + 1}, found another place"
    return found.entries, ""


def _salvage(layout: Layout, after: Head) -> tuple[Entry, ...]:
    """Return what continues a head in the journal, or in those that earlier rebuilds set aside: the most of it."""
    sources = (layout.journal, *layout.journals_set_aside()[:_SOURCES])
    return max((safe_reader.salvage_records(path, after=after) for path in sources), key=len)


def _salvage_generation(layout: Layout, number: int, history: _History) -> list[Entry]:
    """Return the records up to the commit of a generation; none if they do not reach it."""
    state, found = history.state.copy(), list[Entry]()
    for entry in _acceptable(history.state, _salvage(layout, history.head)):
        fold_into(state, (to_recorded_event(entry),))
        found.append(entry)
        if len(state.generations) == number:
            return found
    return []


def _acceptable(state: State, entries: Sequence[Entry]) -> list[Entry]:
    """Return the longest beginning of salvaged records that could have been appended, whole transactions alone.

    Raises:
        UnknownEventError: An event of a newer version is among them; leaving it out would lose it in silence.
    """
    good = 0
    for count, trial in enumerate(_folded(state, entries), start=1):
        _require_known(trial)
        # A rollback and its commit are one transaction.
        if trial.pending_rollback is None:
            good = count
    return list(entries[:good])


def _folded(state: State, entries: Sequence[Entry]) -> Iterator[State]:
    trial = state.copy()
    for entry in entries:
        committed = len(trial.generations)
        try:
            fold_into(trial, (to_recorded_event(entry),))
            head = trial.head
            if head is not None and head.number > committed:
                wrong = canonical_json.sha256(project(trial, head)) != head.manifest_sha256
                if wrong:
                    return
        except (DamagedHistoryError, RecordError):
            return
        yield trial


def _require_known(state: State) -> None:
    if state.unknown:
        raise UnknownEventError(
            f"expected events this version knows, found {state.unknown[0]}; nothing was changed",
            kind=ErrorKind.UNKNOWN_EVENT,
            hint="use the newer C10 that wrote this cache",
        )


def _set_aside(layout: Layout) -> str:
    """Keep the damaged file as evidence and free its name; returns where it lies."""
    if not os.path.lexists(layout.journal):
        return ""
    try:
        return move_to_quarantine(layout, layout.journal)
    except OSError as error:
        raise from_os_error(error, f"journal {layout.journal}") from error


def _give_birth(layout: Layout, history: _History) -> None:
    head = history.state.head
    projections = {} if head is None else head_projections(head.number, project(history.state, head))
    try:
        # The old lock file knows the transactions of the old file, and would lead readers of the new one astray.
        layout.journal.with_name(layout.journal.name + "-lock").unlink(missing_ok=True)
        fsync_dir(layout.root)
    except OSError as error:
        raise from_os_error(error, f"journal {layout.journal}") from error
    Journal.create(
        layout.journal,
        [entry.record for entry in history.entries],
        scratch=layout.scratch,
        projections=projections,
        allow_unknown_filesystem=layout.allow_unknown_filesystem,
    )


def _put_back(layout: Layout, kept: str) -> None:
    """Give the damaged file its name again after a failure; where even that fails, the next rebuild finds it."""
    if not kept or os.path.lexists(layout.journal):
        return
    path = layout.root / kept
    with suppress(OSError):
        os.link(path, layout.journal, follow_symlinks=False)
        fsync_dir(layout.root)
        path.unlink()


def _broken(expected: str) -> DamagedHistoryError:
    return DamagedHistoryError(
        f"expected {expected}",
        kind=ErrorKind.JOURNAL_INCOMPLETE,
        hint="restore the segments from a mirror of this cache",
    )
