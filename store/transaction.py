"""The one write path of a cache: artifacts durable, events appended, one commit, projections on disk.

The order is the invariant everything rests on. (1) An artifact's bytes are durable before (2) the event that
names it is appended in a durable transaction. (3) Checks and the coverage walk run over all that the manifest
will name. (4) One transaction appends `BuildCommitted` and is the only commit point. (5) Segment, signature
and, last, manifest are linked into place; the manifest's presence makes the generation visible. A crash
between 4 and 5 is healed by the next writer from the journal alone.

A `Store` is used under the build lock. Others may append beside it (engine runs, acceptance), so the place in
the journal that a manifest names is confirmed inside the commit transaction, and the manifest is projected
again if it moved.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from journal import HeadMovedError, Journal, JournalFullError
from journal.errors import JournalDamagedError, JournalIOError
from journal.record import EMPTY, Chain, Head, Record, encode, extend
from store import canonical, manifest, segment
from store.artifacts import Artifacts
from store.errors import (
    DamagedHistoryError,
    DiskFullError,
    ErrorKind,
    RequestRefusedError,
    StoreError,
    UnprojectedError,
    from_os_error,
)
from store.events import BuildAbandoned, BuildCommitted, CacheCreated, Event, RolledBack
from store.facts import Clock, to_facts, to_record
from store.layout import Layout
from store.recovery import Abandon, Action, ClearScratch, Project, plan
from store.rollback import RollbackPlan
from store.state import Build, Generation, Position, State, absorb
from store.view import RESERVE_NAME, observe, require_cache
from store.writeonce import write_once

WRITER = "c10"
DEFAULT_RESERVE_BYTES = 8 << 20


@dataclass(slots=True)
class Store:
    """A cache opened for writing. `writes` counts files made and transactions committed through it."""

    layout: Layout
    journal: Journal
    clock: Clock
    artifacts: Artifacts
    state: State = field(default_factory=State)
    recovered: tuple[Action, ...] = ()
    _appended: int = 0
    _projected: int = 0

    @classmethod
    @contextmanager
    def open(
        cls, layout: Layout, *, clock: Clock, create: bool = False, reserve_bytes: int = DEFAULT_RESERVE_BYTES
    ) -> Iterator["Store"]:
        """Open a cache for writing, under the build lock that the caller holds, and recover it.

        Args:
            layout: Where it is.
            clock: Where times come from.
            create: Whether to make the cache if there is none.
            reserve_bytes: Size of the disk reserve that lets a failure be recorded on a full disk.

        Raises:
            RequestRefusedError: There is no cache, and `create` is off.
            DamagedHistoryError: The journal does not fit the files beside it; nothing was written.
            StoreError, journal.JournalError: The folder or the journal cannot be used.
        """
        if create:
            layout.create()
        if create and not (layout.journal.exists() or layout.manifest_files() or layout.segment_files()):
            _birth(layout, clock)
        require_cache(layout)
        store = cls(
            layout=layout, journal=Journal.open(layout.journal), clock=clock, artifacts=Artifacts(layout)
        )
        try:
            store.refresh()
            if not store.state.cache_id:
                raise DamagedHistoryError(
                    ErrorKind.IMPOSSIBLE_HISTORY,
                    "expected a journal that begins with the genesis of a cache, found an empty one",
                    hint="move the cache away and build again",
                )
            store.recovered = plan(store.state, observe(layout))
            store.recover(store.recovered)
            store.project_head()
            with store.artifacts.sharing():
                store.fill_reserve(reserve_bytes)
                yield store
        finally:
            store.journal.close()  # not always the one of the beginning: see `append_at_any_cost`

    @property
    def writes(self) -> int:
        """Files created in the cache plus write transactions."""
        return self._appended + self._projected + self.artifacts.created

    def refresh(self) -> None:
        """Fold what was appended since the last look, by this store or beside it."""
        absorb(self.state, to_facts(self.journal.entries(self.state.position.seq + 1)))

    def append(self, *events: Event, build: int | None) -> None:
        """Append events in one durable transaction and fold them.

        Raises:
            journal.JournalError: They could not be made durable; none of them is.
        """
        self.journal.append([self._record(event, build, self.clock.wall_ns()) for event in events])
        self._appended += 1
        self.refresh()

    def commit(self, build: int) -> Generation:
        """Commit an open build as the next generation and project it.

        Raises:
            DamagedHistoryError: The build lacks a part that a manifest names.
            journal.JournalError: The commit could not be made durable; the head did not move.
            UnprojectedError: The generation is committed, but its files could not be written.
        """
        head = self.state.head
        return self._commit(self.state.builds[build], parent=head.origin if head else None, rollback=None)

    def roll_back(self, planned: RollbackPlan) -> Generation:
        """Append a generation that shows the planned build, and project it."""
        event = RolledBack(
            left=planned.left, target=planned.target, requested=planned.requested, why=planned.why
        )
        return self._commit(self.state.builds[planned.target], parent=planned.parent, rollback=event)

    def _commit(self, build: Build, *, parent: int | None, rollback: RolledBack | None) -> Generation:
        while True:
            expected = _head_of(self.state.position)
            now = self.clock.wall_ns()
            first = [] if rollback is None else [self._record(rollback, None, now)]
            before = extend(expected, [encode(record) for record in first])
            body = manifest.body_of(self.state, build)
            raw = manifest.render(
                body,
                manifest.Envelope(
                    cache_id=self.state.cache_id,
                    generation=len(self.state.generations) + 1,
                    origin=build.number,
                    before=Position(before.seq, before.chain.hex()),
                    wall_ns=now,
                ),
            )
            if len(raw) > manifest.MAX_BYTES:
                raise RequestRefusedError(
                    ErrorKind.MANIFEST_INVALID,
                    f"expected a manifest of at most {manifest.MAX_BYTES} bytes, this build needs {len(raw)}",
                    hint="use fewer models per cache",
                )
            event = BuildCommitted(
                generation=len(self.state.generations) + 1,
                parent=parent,
                origin=build.number,
                manifest_sha256=canonical.sha256(raw),
                body_sha256=manifest.body_digest(body),
                signature="",
                key_id="",
            )
            try:
                records = [*first, self._record(event, build.number, now)]
                projections = manifest.head_projections(event.generation, raw)
                self.journal.append(records, projections, expect=expected)
            except HeadMovedError:
                self.refresh()
                continue
            self._appended += 1
            self.refresh()
            return self._make_visible(self.state.generations[event.generation])

    def _make_visible(self, generation: Generation) -> Generation:
        """Project a generation that was just committed, from the reserve if need be."""
        try:
            try:
                self.project(generation)
            except DiskFullError:
                self.release_reserve()
                self.project(generation)
        except StoreError as error:
            raise UnprojectedError(generation.number, error) from error
        return generation

    def project(self, generation: Generation) -> None:
        """Write what is missing on disk of a generation: segment, signature, and last the manifest.

        Raises:
            DamagedHistoryError: A name is taken by other bytes: the journal lost its tail or was replaced.
        """
        previous = self.state.generations.get(generation.number - 1)
        before = Head(previous.seq, self._chain_at(previous.seq)) if previous else EMPTY
        entries = list(self.journal.entries(before.seq + 1, generation.seq + 1))
        raw = manifest.project(self.state, generation)
        if canonical.sha256(raw) != generation.manifest_sha256:
            raise DamagedHistoryError(
                ErrorKind.IMPOSSIBLE_HISTORY,
                f"expected generation {generation.number} to project to {generation.manifest_sha256[:12]}, found"
                f" {canonical.sha256(raw)[:12]}",
                hint="use the C10 that committed it",
            )
        taken = self.layout.manifest_files().get(generation.number)
        name = taken or self.layout.manifest_name(generation.number)
        self._write(
            self.layout.segments,
            self.layout.segment_name(generation.number),
            segment.encode(generation.number, before, entries),
        )
        if generation.signature:
            signature = bytes.fromhex(generation.signature)
            self._write(self.layout.manifests, name.removesuffix(".json") + ".sig", signature)
        self._write(self.layout.manifests, name, raw)

    def project_head(self) -> None:
        """Set the journal's own projections of the head again where they are missing, damaged or stale.

        Raises:
            journal.JournalError: They could not be set.
        """
        head = self.state.head
        if head is None:
            return
        expected = manifest.head_projections(head.number, manifest.project(self.state, head))
        if any(self._projection(name) != value for name, value in expected.items()):
            self.journal.append([], expected)
            self._appended += 1

    def _projection(self, name: bytes) -> bytes | None:
        try:
            return self.journal.projection(name)
        except JournalDamagedError:
            return None

    def recover(self, actions: Sequence[Action]) -> None:
        """Carry out a recovery plan; may be interrupted anywhere and done again."""
        for action in actions:
            match action:
                case ClearScratch():
                    try:
                        _clear(self.layout)
                    except OSError as error:
                        raise from_os_error(error, f"scratch folder {self.layout.scratch}") from error
                case Project(generation=number):
                    self.project(self.state.generations[number])
                case Abandon(build=number, step=step):
                    self.append(
                        BuildAbandoned(reason="its process ended without a word", step=step), build=number
                    )

    def fill_reserve(self, size: int) -> None:
        """Set disk space aside; without effect where there is too little."""
        path = self.layout.scratch / RESERVE_NAME
        try:
            fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                if size and os.fstat(fd).st_size < size:
                    os.posix_fallocate(fd, 0, size)
            finally:
                os.close(fd)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise from_os_error(error, f"disk reserve of {size} bytes in {self.layout.scratch}") from error

    def release_reserve(self) -> None:
        """Give the disk space back that was set aside."""
        (self.layout.scratch / RESERVE_NAME).unlink(missing_ok=True)

    def append_at_any_cost(self, event: Event, *, build: int) -> None:
        """Append one event even on a full disk, from the reserve.

        After an error of the disk LMDB's environment is given up and opened again; an append is never retried
        on the environment that failed.
        """
        try:
            self.append(event, build=build)
        except (JournalFullError, JournalIOError):
            self.release_reserve()
            self.journal.close()
            self.journal = Journal.open(self.layout.journal)
            self.refresh()
            if self.state.open_build == build:
                self.append(event, build=build)

    def _record(self, event: Event, build: int | None, wall_ns: int) -> Record:
        return to_record(event, build=build, wall_ns=wall_ns, mono_ns=self.clock.mono_ns())

    def _chain_at(self, seq: int) -> Chain:
        (entry,) = self.journal.entries(seq, seq + 1)
        return entry.chain

    def _write(self, folder: Path, name: str, data: bytes) -> None:
        try:
            self._projected += write_once(folder, name, data, scratch=self.layout.scratch)
        except FileExistsError as error:
            raise DamagedHistoryError(
                ErrorKind.JOURNAL_REPLACED,
                f"expected {folder.name}/{name} to be free or the same, found other bytes: the journal lost its newest"
                " records or is another cache's",
                hint="c10 rebuild (makes the journal again from its segments)",
            ) from error
        except OSError as error:
            raise from_os_error(error, f"{folder.name}/{name}") from error


def _birth(layout: Layout, clock: Clock) -> None:
    created = CacheCreated(cache_id=secrets.token_hex(16), format=manifest.FORMAT, writer=WRITER)
    record = to_record(created, build=None, wall_ns=clock.wall_ns(), mono_ns=clock.mono_ns())
    Journal.create(layout.journal, [record], scratch=layout.scratch)


def _head_of(position: Position) -> Head:
    return Head(position.seq, Chain(bytes.fromhex(position.chain)))


def _clear(layout: Layout) -> None:
    for folder, names, files in os.walk(layout.scratch, topdown=False):
        at = layout.root / folder
        for name in files:
            if name != RESERVE_NAME:
                (at / name).unlink(missing_ok=True)
        for name in names:
            path = at / name
            path.unlink(missing_ok=True) if path.is_symlink() else path.rmdir()
