"""The one write path of a cache: artifacts durable, events appended, one commit, projections on disk.

The order is the invariant everything rests on. (1) An artifact's bytes are durable before (2) the event that
names it is appended in a durable transaction. (3) Checks and the coverage walk run over all that the manifest
will name. (4) One transaction appends `BuildCommitted` and is the only commit point. (5) Segment, signature
and, last, manifest are linked into place; the manifest's presence makes the generation visible. A crash
between 4 and 5 is repaired by the next writer from the journal alone.

A `CacheWriter` is used under the build lock. Others may append meanwhile (engine runs, acceptance), so the journal
position that a manifest names is confirmed inside the commit transaction; if it moved, the build is compared with the
journal again, and its manifest is projected for the new position.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from journal import HeadMovedError, Journal, JournalDamagedError, JournalFullError
from journal.record import Head, encode, extend
from store.base import canonical_json
from store.base.canonical_json import Document
from store.base.clock import Clock, recorded_wall_ns
from store.base.values import Position
from store.cache import journal_consistency
from store.cache.create import ensure_cache
from store.cache.event_store import RETRYABLE, EventStore, withdrawn
from store.cache.projections import Projections, is_whole, set_head_projections
from store.cache.view import list_cache_files, require_cache
from store.disk.artifacts import Artifacts
from store.disk.folder_integrity import refuse_symlinked_folders, refuse_unfit_folder
from store.disk.layout import FOLDERS, Layout
from store.disk.quarantine import move_to_quarantine
from store.disk.repair_commands import rebuilding
from store.disk.scratch import clear_scratch, fill_reserve, release_reserve
from store.domain.events import BuildAbandoned, BuildCommitted, BuildFailed, BuildStarted, Event
from store.domain.index_files import refs_of
from store.domain.maintenance_events import GenerationSigned, Repaired, RolledBack
from store.domain.manifest_projection import body_of, format_of, head_projections, render
from store.domain.state import Build, Generation, State, checks_of
from store.errors import (
    DamagedHistoryError,
    DiskFullError,
    ErrorKind,
    StoreError,
    TranslateOSErrors,
    UnprojectedError,
)
from store.manifest import manifest
from store.policy.recovery import Abandon, Action, ClearScratch, Project, SetAside, WriteSegment, plan
from store.policy.rollback import RollbackPlan
from store.trust.signatures import Signature, Signer

DEFAULT_RESERVE_BYTES = 8 << 20
_CREATION_WRITES = 2
"""The journal file, and the transaction with the first event."""


@dataclass(slots=True, kw_only=True)
class CacheWriter:
    """A cache opened for writing.

    Attributes:
        layout: Where it is.
        event_store: Its journal and state.
        artifacts: Its artifacts.
        projections: Its projections on disk.
        host: Facts about this machine, recorded with what no build explains.
        signer: Signs what is committed, if anything does.
        recovered: What recovery did when the cache was opened.
        head_is_whole: Off if an earlier generation is visible and not the head, since artifacts of the head are missing.
        made: Writes of creation, of the reserve, and of files moved to quarantine.
    """

    layout: Layout
    event_store: EventStore
    artifacts: Artifacts
    projections: Projections
    host: Document = field(default_factory=dict)
    signer: Signer | None = None
    recovered: tuple[Action, ...] = ()
    head_is_whole: bool = True
    made: int = 0

    @classmethod
    @contextmanager
    def open(
        cls,
        layout: Layout,
        *,
        clock: Clock,
        create: bool = False,
        reserve_bytes: int = DEFAULT_RESERVE_BYTES,
        host: Document | None = None,
        exclusive_within_s: float | None = None,
        signer: Signer | None = None,
    ) -> Iterator["CacheWriter"]:
        """Open a cache for writing, under the build lock that the caller holds, and recover it.

        Args:
            layout: Where it is.
            clock: Where times come from.
            create: Whether to create the cache if there is none.
            reserve_bytes: Size of the disk reserve that lets a failure be recorded on a full disk.
            host: Facts about this machine.
            exclusive_within_s: To remove artifacts: take the artifact lock exclusively, waiting at most so many
                seconds, and leave the disk reserve as it is.
            signer: Signs what is committed; without one, generations are unsigned.

        Raises:
            RequestRefusedError: There is no cache, and `create` is off.
            DamagedHistoryError: The journal does not fit the files beside it; nothing was written.
            ArtifactsBusyError: Others write artifacts, and did not finish in time.
            StoreError, journal.JournalError: The folder or the journal cannot be used.
        """
        refuse_unfit_folder(layout)
        refuse_symlinked_folders(layout)
        created = create and ensure_cache(layout, clock=clock)
        require_cache(layout)
        if not all((layout.root / name).is_dir() for name in FOLDERS):
            # Backups that keep no empty folders lose some.
            layout.create()
        try:
            event_store = _open_event_store(layout, clock)
        except JournalDamagedError as error:
            error.hint = rebuilding(layout)
            raise
        store = cls(
            layout=layout,
            event_store=event_store,
            artifacts=Artifacts(layout),
            projections=Projections(layout),
            host=host or {},
            signer=signer,
            made=_CREATION_WRITES if created else 0,
        )
        try:
            store._recover()
            if exclusive_within_s is not None:
                with store.artifacts.exclusive_lock(exclusive_within_s):
                    yield store
            else:
                with store.artifacts.shared_lock():
                    store.made += fill_reserve(layout, reserve_bytes)
                    yield store
        finally:
            store.event_store.close()

    @property
    def state(self) -> State:
        """What the journal folds to."""
        return self.event_store.state

    @property
    def journal(self) -> Journal:
        """The open journal."""
        return self.event_store.journal

    @property
    def writes(self) -> int:
        """Files made or enlarged in the cache, plus transactions that changed the journal.

        Files are the journal at birth, the reserve, artifacts, segments, signatures, manifests and what was set aside
        in quarantine. Folders, lock files, and what is gone again before the store is closed, are none.
        """
        return self.made + self.event_store.appended + self.projections.written + self.artifacts.created

    def append(self, *events: Event, build: int | None) -> None:
        """Append events in one durable transaction and fold them.

        Raises:
            DamagedHistoryError: They cannot follow what is there; none of them was appended.
            RequestRefusedError: They rely on what was withdrawn meanwhile; none of them was appended.
            journal.JournalError: They could not be made durable; none of them is.
        """
        self.event_store.append([self.event_store.record(event, build=build) for event in events])

    def append_at_any_cost(
        self, event: BuildFailed | BuildAbandoned, *, build: int, started: BuildStarted | None = None
    ) -> None:
        """Append the end of a build, using the reserve on a full disk; do nothing if the build has ended already.

        After a disk error the LMDB environment is closed and opened again; an append is never retried on the
        environment that failed.

        Args:
            event: The end.
            build: Number of the build.
            started: Its start, appended with the end if it could not be written before.

        Raises:
            journal.JournalError: Not even the reserve was enough.
        """
        try:
            self._end(event, build, started)
        except RETRYABLE:
            release_reserve(self.layout)
            self.event_store.reopen()
            self._end(event, build, started)

    def _end(self, event: BuildFailed | BuildAbandoned, build: int, started: BuildStarted | None) -> None:
        # A commit may have become durable just before the interruption.
        self.event_store.refresh()
        if self.state.open_build == build:
            self.append(event, build=build)
        elif started is not None and self.state.next_build == build:
            self.append(started, event, build=build)

    def commit(self, build: int) -> Generation:
        """Commit an open build as the next generation and project it.

        Raises:
            DamagedHistoryError: The build lacks a part that a manifest names.
            RequestRefusedError: Something that the build shows was withdrawn meanwhile by another process.
            journal.JournalError: The commit could not be made durable; the head did not move.
            UnprojectedError: The generation is committed, but its files could not be written.
        """
        head = self.state.head
        return self._commit(build, parent=head.origin if head else None, rollback=None)

    def roll_back(self, planned: RollbackPlan) -> Generation:
        """Append a generation that shows the planned build, and project it; raises as `commit` does."""
        event = RolledBack(
            left=planned.left,
            target=planned.target,
            requested=planned.requested,
            why=planned.why,
            host=self.host,
        )
        return self._commit(planned.target, parent=planned.parent, rollback=event)

    def add_signature(self, event: GenerationSigned) -> Generation:
        """Append one more signature of a committed generation, and project it.

        Raises:
            DamagedHistoryError: It cannot be signed any more; nothing was appended.
            journal.JournalError: The signature could not be made durable.
            UnprojectedError: It is in the journal, but its file could not be written.
        """
        self.append(event, build=None)
        return self._make_visible(self.state.generations[event.generation])

    def _commit(self, number: int, *, parent: int | None, rollback: RolledBack | None) -> Generation:
        while True:
            build, head = self.state.builds[number], self.event_store.head
            if rollback is None:
                _require_still_valid(self.state, build)
            now = recorded_wall_ns(self.event_store.clock)
            first = [] if rollback is None else [self.event_store.record(rollback, build=None, wall_ns=now)]
            raw, body_sha256 = self._render(build, extend(head, map(encode, first)), now)
            signed = Signature() if self.signer is None else self.signer.sign(raw)
            event = BuildCommitted(
                format=build.format or format_of(build),
                generation=len(self.state.generations) + 1,
                parent=parent,
                origin=number,
                manifest_sha256=canonical_json.sha256(raw),
                body_sha256=body_sha256,
                signature=signed.signature,
                key_id=signed.key_id,
            )
            last = self.event_store.record(event, build=number, wall_ns=now)
            projections = dict(head_projections(event.generation, raw))
            try:
                self.event_store.append_on(head, [*first, last], projections)
            except HeadMovedError:
                self.event_store.refresh()
            else:
                return self._make_visible(self.state.generations[event.generation])

    def _render(self, build: Build, before: Head, wall_ns: int) -> tuple[bytes, str]:
        """Return the manifest of the next generation and the digest of its body, after parsing it as a reader would."""
        body = body_of(self.state, build)
        envelope = manifest.Envelope(
            cache_id=self.state.cache_id,
            generation=len(self.state.generations) + 1,
            origin=build.number,
            before=Position(before.seq, before.chain.hex()),
            wall_ns=wall_ns,
        )
        raw = render(body, envelope)
        manifest.parse(raw)
        return raw, manifest.body_digest(body)

    def _make_visible(self, generation: Generation) -> Generation:
        """Project a generation that was just committed, using the reserve if the disk is full."""
        try:
            try:
                self.project(generation)
            except DiskFullError:
                release_reserve(self.layout)
                self.project(generation)
        except StoreError as error:
            raise UnprojectedError(error, generation=generation.number) from error
        return generation

    def project(self, generation: Generation) -> None:
        """Write the missing files of a generation; see `Projections.write`."""
        self.projections.write(self.event_store, generation)

    def _recover(self) -> None:
        # After a SIGKILL of a writer, a read may lag one commit behind the durable state while another process
        # holds the file; a write transaction corrects that.
        self.event_store.journal.append([])
        if not self.state.cache_id:
            raise DamagedHistoryError(
                "expected a journal that begins with the genesis of a cache, found an empty one",
                kind=ErrorKind.IMPOSSIBLE_HISTORY,
                hint="move the cache away and build again",
            )
        observed, head = list_cache_files(self.layout), self.state.head
        if head is not None and observed.manifests and head.number not in observed.manifests:
            self.head_is_whole = is_whole(self.state, head, self.artifacts)
        try:
            self.recovered = plan(self.state, observed, head_is_whole=self.head_is_whole)
        except DamagedHistoryError as error:
            chains = [entry.chain.hex() for entry in self.journal.entries(1)]
            raise journal_consistency.explain_disagreement(self.layout, self.state, chains, error) from error
        self.recover(self.recovered)
        set_head_projections(self.event_store)

    def recover(self, actions: Sequence[Action]) -> None:
        """Carry out a recovery plan; it may be interrupted anywhere and run again."""
        for action in actions:
            match action:
                case ClearScratch():
                    self._clear_scratch()
                case SetAside(name=name):
                    self._set_aside(self.layout.manifests / name)
                case Project(generation=number):
                    self._make_visible(self.state.generations[number])
                case WriteSegment(generation=number):
                    self.projections.write_segment(self.event_store, self.state.generations[number])
                case Abandon(build=number, step=step):
                    reason = "its process ended without a word"
                    abandoned = BuildAbandoned(reason=reason, step=step, host=self.host)
                    self.append_at_any_cost(abandoned, build=number)

    def _set_aside(self, path: Path) -> None:
        """Move a file to quarantine, and record that."""
        if not os.path.lexists(path):
            return
        subject = str(path.relative_to(self.layout.root))
        with TranslateOSErrors(subject):
            kept = move_to_quarantine(self.layout, path)
        self.made += 1
        self.append(Repaired(subject=subject, sha256="", action="set aside", quarantine=kept), build=None)

    def _clear_scratch(self) -> None:
        """Remove what a dead process left, unless another process is writing artifacts."""
        with self.artifacts.try_exclusive_lock() as alone:
            if alone:
                with TranslateOSErrors(f"scratch folder {self.layout.scratch}"):
                    clear_scratch(self.layout)


def _open_event_store(layout: Layout, clock: Clock) -> EventStore:
    """Open the journal; on a full disk, release the reserve first, so that there is space for the lock file."""
    try:
        return EventStore.open(layout, clock)
    except JournalFullError:
        if not release_reserve(layout):
            raise
        return EventStore.open(layout, clock)


def _require_still_valid(state: State, build: Build) -> None:
    """Compare engines, index and proof of a build with the journal: another process may have withdrawn them."""
    used = [*build.engines, *build.stand_ins]
    shown = [(state.step_cache.engines.get(event.key), event, name) for name, event in used]
    if build.index is not None:
        index = state.step_cache.indexes.get(build.index.key)
        if index is None or refs_of(index) != refs_of(build.index):
            raise withdrawn("the index")
    for known, event, name in shown:
        if known is None or known.artifact != event.artifact:
            raise withdrawn(f"engine {name}")
    if build.proof is not None and build.proof not in checks_of(state, build):
        raise withdrawn("the proof by photographs")
