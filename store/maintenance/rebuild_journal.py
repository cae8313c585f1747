"""Rebuild the journal from its segments, and from the readable records of the damaged file.

Segments 1 to n hold every record up to the last commit, framed and chained. Only the journal holds what was
appended after it. Those records, and the records of a missing or broken segment, are salvaged from the
damaged file as far as it can be read and continues the chain. Before the first commit that file is all there
is.

A rebuild believes nothing. It computes every link of the chain again, folds every event, compares the
projection of every generation with its committed manifest, and compares the files beside the journal. Only
then does it link the damaged file into `quarantine/`, unlink it, and read it once more: a writer whose
records are durable checked the file's name after its commit, so the second reading includes them. Signatures
that were lost with the newest records are appended again from their files, if a trusted key made them
(`store.maintenance.recover_signatures`).

The new file gets its name complete or not at all. A rebuild that is killed in between leaves no journal,
which every command reports, and the next rebuild reads the file in quarantine.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from journal import Entry, Head, Journal, JournalExistsError, RecordError, safe_reader
from journal.fsync import fsync_dir
from journal.record import EMPTY, encode, extend
from store.base import canonical_json
from store.base.clock import Clock, SystemClock, recorded_wall_ns
from store.base.valueclass import valueclass
from store.cache import journal_consistency, segment
from store.cache.event_mapper import to_record, to_recorded_event
from store.disk.layout import MIRROR_MARK, Layout
from store.disk.quarantine import move_to_quarantine
from store.domain.fold import fold_into
from store.domain.maintenance_events import GenerationSigned
from store.domain.manifest_projection import head_projections, project
from store.domain.state import Generation, State
from store.errors import DamagedHistoryError, ErrorKind, TranslateOSErrors, from_os_error
from store.maintenance.recover_signatures import RecoveredSignatures, recover_signatures
from store.trust.go_no_go import ALLOW_UNSIGNED, TrustedKeys

_SOURCES = 4
"""How many files of earlier rebuilds are read, newest first: an interrupted one moved its own last."""
_ATTEMPTS = 3


@valueclass(frozen=True, slots=True, kw_only=True)
class RebuildResult:
    """The new journal.

    Attributes:
        salvaged: How many of its records came from a damaged file, because no segment holds them.
        segments_replaced: Generations whose segment was missing or broken, and whose records were salvaged.
        quarantine: Where the damaged file is, relative to the cache; empty if there was none.
        signatures: How many signatures were recorded again from their files.
        signatures_left: Signature files, relative to the cache, that no record holds and no trusted key made.
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
    """Replace the journal by a rebuilt one; the caller holds the build lock.

    Args:
        layout: The cache.
        trusted_keys: Keys whose signatures are recorded again if their records are lost.
        clock: The clock for those records; the machine's by default.
        host: Facts about this machine, recorded with them.

    Raises:
        DamagedHistoryError: The records are incomplete, or do not fit the manifests; the journal was not
            touched.
        UnknownEventError: There are events of a newer version; the journal was not touched.
        StoreError, journal.JournalError: The folder cannot be used; the old journal was put back.
    """
    history = _read_history(layout)
    history.check(layout)
    layout.create()
    kept, late = "", RecoveredSignatures()
    for attempt in range(_ATTEMPTS):
        taken = _move_journal_away(layout)
        kept = kept or taken
        try:
            history = _read_history(layout)
            history.check(layout)
            late = recover_signatures(layout, history.state, trusted_keys=trusted_keys, host=host or {})
            history.add_signatures(late.events, clock or SystemClock())
            _create_journal(layout, history)
        except JournalExistsError:
            # Another process found no journal and created one; without the build lock it cannot commit to it.
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
class _RebuiltHistory:
    """The records of the new journal so far."""

    state: State = field(default_factory=State)
    entries: list[Entry] = field(default_factory=list)
    salvaged: int = 0
    replaced: list[int] = field(default_factory=list)

    @property
    def head(self) -> Head:
        return self.entries[-1].head if self.entries else EMPTY

    def add(self, entries: Sequence[Entry]) -> None:
        fold_into(self.state, map(to_recorded_event, entries))
        self.entries.extend(entries)

    def add_signatures(self, events: Sequence[GenerationSigned], clock: Clock) -> None:
        for event in events:
            record = to_record(event, build=None, wall_ns=recorded_wall_ns(clock), mono_ns=clock.mono_ns())
            raw = encode(record)
            head = extend(self.head, (raw,))
            self.add((Entry(seq=head.seq, chain=head.chain, raw=raw),))

    def check(self, layout: Layout) -> None:
        """Compare the records with each other and with the manifests."""
        self.state.require_known("nothing was changed")
        for generation in self.state.generations.values():
            _require_projection(self.state, generation)
        chains = [entry.chain.hex() for entry in self.entries]
        found = journal_consistency.compare_files(layout, self.state, chains, segments=False)
        if found.contradiction:
            raise _incomplete(f"the segments of this cache, all of them; {found.contradiction}")


def _read_history(layout: Layout) -> _RebuiltHistory:
    history, files = _RebuiltHistory(), layout.segment_files()
    for number in range(1, max(files, default=0) + 1):
        found, wrong = _read_segment(layout, files.get(number), number, history.head)
        if wrong:
            found = _salvage_generation(layout, number, history)
            if not found:
                raise _incomplete(
                    f"segment {number}: {wrong}; nor does a journal that still reads hold its records"
                )
            history.replaced.append(number)
            history.salvaged += len(found)
        history.add(found)
        if len(history.state.generations) != number:
            raise _incomplete(f"segment {number} to end with the commit of generation {number}")
    history.state.require_known("nothing was changed")
    tail = _valid_beginning(history.state, _salvage(layout, history.head))
    history.add(tail)
    history.salvaged += len(tail)
    if not history.entries:
        raise DamagedHistoryError(
            f"expected segments, or a journal that still reads, in {layout.root}, found neither: nothing was committed",
            kind=ErrorKind.JOURNAL_INCOMPLETE,
            hint="move journal.mdb out of the cache, then c10 build begins anew",
        )
    return history


def _read_segment(layout: Layout, name: str | None, number: int, head: Head) -> tuple[Sequence[Entry], str]:
    """Return the records of a segment, or what is wrong with it."""
    if name is None:
        return (), "expected a file, found none"
    path = layout.segments / name
    try:
        found = segment.read(path)
    except FileNotFoundError:
        return (), "expected a file, found none"
    except OSError as error:
        raise from_os_error(error, f"segment {name}") from error
    except DamagedHistoryError as error:
        return (), error.message
    if found.generation != number or found.before != head or not found.entries:
        return (), f"expected it to continue at record {head.seq + 1}, found another place"
    return found.entries, ""


def _salvage(layout: Layout, after: Head) -> tuple[Entry, ...]:
    """Return the most records after a head, of the journal or of those that earlier rebuilds moved."""
    sources = (layout.journal, *layout.journals_set_aside()[:_SOURCES])
    return max((safe_reader.salvage_records(path, after=after) for path in sources), key=len)


def _salvage_generation(layout: Layout, number: int, history: _RebuiltHistory) -> list[Entry]:
    """Return the records up to the commit of a generation; none if they do not reach it."""
    state, found = history.state.copy(), list[Entry]()
    for entry in _valid_beginning(history.state, _salvage(layout, history.head)):
        fold_into(state, (to_recorded_event(entry),))
        found.append(entry)
        if len(state.generations) == number:
            return found
    return []


def _valid_beginning(state: State, entries: Sequence[Entry]) -> list[Entry]:
    """Return the longest beginning of salvaged records that is valid and ends with a transaction."""
    trial, valid = state.copy(), 0
    for count, entry in enumerate(entries, start=1):
        committed = len(trial.generations)
        try:
            fold_into(trial, (to_recorded_event(entry),))
            head = trial.head
            if head is not None and head.number > committed:
                _require_projection(trial, head)
        except (DamagedHistoryError, RecordError):
            break
        trial.require_known("nothing was changed")
        # A rollback and its commit are one transaction.
        if trial.pending_rollback is None:
            valid = count
    return list(entries[:valid])


def _require_projection(state: State, generation: Generation) -> None:
    if canonical_json.sha256(project(state, generation)) != generation.manifest_sha256:
        raise _incomplete(
            f"the records of generation {generation.number} to project to the manifest they commit"
        )


def _move_journal_away(layout: Layout) -> str:
    """Move the damaged file to quarantine; return where it is."""
    if not os.path.lexists(layout.journal):
        return ""
    with TranslateOSErrors(f"journal {layout.journal}"):
        return move_to_quarantine(layout, layout.journal)


def _create_journal(layout: Layout, history: _RebuiltHistory) -> None:
    head = history.state.head
    projections = {} if head is None else head_projections(head.number, project(history.state, head))
    with TranslateOSErrors(f"journal {layout.journal}"):
        # The old lock file lists transactions of the old file, which would mislead readers of the new one.
        layout.journal.with_name(layout.journal.name + "-lock").unlink(missing_ok=True)
        if layout.is_marked():
            # With a journal this is a cache: if it loses that journal, it must not be taken for a mirror.
            (layout.root / MIRROR_MARK).unlink()
        fsync_dir(layout.root)
    Journal.create(
        layout.journal,
        [entry.record for entry in history.entries],
        scratch=layout.scratch,
        projections=projections,
        allow_unknown_filesystem=layout.allow_unknown_filesystem,
    )


def _put_back(layout: Layout, kept: str) -> None:
    """Give the damaged file its name back after a failure; if that fails too, the next rebuild finds it."""
    if not kept or os.path.lexists(layout.journal):
        return
    path = layout.root / kept
    with suppress(OSError):
        os.link(path, layout.journal, follow_symlinks=False)
        fsync_dir(layout.root)
        path.unlink()


def _incomplete(expected: str) -> DamagedHistoryError:
    return DamagedHistoryError(
        f"expected {expected}",
        kind=ErrorKind.JOURNAL_INCOMPLETE,
        hint="restore the segments from a mirror of this cache",
    )
