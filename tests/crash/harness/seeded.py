"""Bugs to switch on in a writer, so that the rigs can be seen to find them. They live in the writer's process alone.

Each takes one promise of the product back. A rig that finds none of them would find nothing else either.
"""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from journal import Journal, log, safe_reader
from journal.record import EMPTY, encode, extend
from journal.storage import create
from store.base.values import ArtifactRef
from store.cache import projections as projecting
from store.cache import writer
from store.cache.event_mapper import to_recorded_events
from store.cache.event_store import EventStore
from store.cache.projections import Projections
from store.cache.writer import CacheWriter
from store.disk import artifacts as artifacts_module
from store.disk import write_once
from store.disk.artifacts import Artifacts
from store.domain.fold import fold_into
from store.domain.state import State
from store.maintenance import collect_garbage
from store.transfer import mirror
from tests.crash.harness.bench import Bench


def acknowledge_first(bench: Bench) -> None:
    """Tell of an append before it is made."""
    append = Journal.append

    def told_first(self: Journal, records: Any, *args: Any, **options: Any) -> Any:
        if records:
            head = extend(self._verified, map(encode, records))
            bench.say(f"A {head.seq} {head.chain.hex()}")
        return append(self, records, *args, **options)

    Journal.append = told_first  # type: ignore[method-assign]


def commit_first(_: Bench) -> None:
    """Record what names an artifact before the artifact is there."""
    waiting: list[tuple[Artifacts, bytes]] = []
    put, append = Artifacts.put, EventStore.append_on

    def put_later(self: Artifacts, data: bytes) -> ArtifactRef:
        waiting.append((self, bytes(data)))
        return ArtifactRef(sha256=hashlib.sha256(data).hexdigest(), size=len(data))

    def append_then_put(self: EventStore, *args: Any, **options: Any) -> None:
        append(self, *args, **options)
        while waiting:
            owner, data = waiting.pop(0)
            put(owner, data)

    Artifacts.put = put_later  # type: ignore[method-assign, assignment]
    EventStore.append_on = append_then_put  # type: ignore[method-assign]


def visible_first(_: Bench) -> None:
    """Link the manifest before the commit that it shows."""
    append = EventStore.append_on

    def show_then_append(self: EventStore, head: Any, records: Any, projections: Any = None) -> None:
        raw = (projections or {}).get(b"manifest")
        if raw is not None and records:
            number = len(self.state.generations) + 1
            layout = self.layout
            write_once.write_once(layout.manifests, layout.manifest_name(number), raw, scratch=layout.scratch)
        append(self, head, records, projections or {})

    EventStore.append_on = show_then_append  # type: ignore[method-assign, assignment]


def in_place(_: Bench) -> None:
    """Write files under their final names."""

    def publish(self: write_once.Draft, folder: Path, name: str) -> None:
        fd = os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444)
        size = os.fstat(self.fd).st_size
        os.write(fd, os.pread(self.fd, size, 0))
        os.fsync(fd)
        os.close(fd)

    write_once.Draft.publish = publish  # type: ignore[method-assign]


def stale_head(_: Bench) -> None:
    """Trust a head that was read before the write transaction."""
    append = Journal.append

    def without_expectation(
        self: Journal, records: Any, projections: Any = None, *, expect: Any = None
    ) -> Any:
        del expect
        return append(self, records, projections or {})

    Journal.append = without_expectation  # type: ignore[method-assign]


def lagging_head(bench: Bench) -> None:
    """Decide on what a read transaction shows, which lags after the death of a writer while a reader lives.

    Opening a journal for writing ends the lag, since py-lmdb opens its databases in a write transaction.
    """
    opened, seen = Journal.open.__func__, {}  # type: ignore[attr-defined]

    def look_then_open(cls: type[Journal], path: Path, **options: Any) -> Journal:
        entries = safe_reader.snapshot(path).entries
        journal: Journal = opened(cls, path, **options)
        seen[id(journal)] = entries
        return journal

    def reload(self: EventStore) -> None:
        self._state = State()
        fold_into(self._state, to_recorded_events(seen[id(self.journal)]))
        self._in_step = True

    Journal.open = classmethod(look_then_open)  # type: ignore[assignment]
    EventStore._reload = reload  # type: ignore[method-assign]
    stale_head(bench)


def plain_birth(_: Bench | None = None) -> None:
    """Make a new journal under its name."""

    def create_journal(path: Path, records: Any, *, projections: Any, **_: Any) -> Any:
        raws = [create.encode(record) for record in records]
        return create._write_journal(path, raws, projections, create.MAP_BYTES) if raws else EMPTY

    create.create_journal = log.create_journal = create_journal  # type: ignore[attr-defined, assignment]


def manifest_first(_: Bench | None = None) -> None:
    """Link manifests before segments and signatures."""
    put, write = Projections._put, Projections.write

    def write_backwards(self: Projections, event_store: EventStore, generation: Any) -> None:
        waiting: list[tuple[Path, str, bytes]] = []

        def later(_: Projections, folder: Path, name: str, data: bytes) -> None:
            waiting.append((folder, name, data))

        Projections._put = later  # type: ignore[method-assign]
        try:
            write(self, event_store, generation)
        finally:
            Projections._put = put  # type: ignore[method-assign]
        for folder, name, data in reversed(waiting):
            put(self, folder, name, data)

    Projections.write = write_backwards  # type: ignore[method-assign]


def early_exit(_: Bench) -> None:
    """Call a commit done before its files are there."""
    writer.CacheWriter._make_visible = lambda _, generation: generation  # type: ignore[method-assign]


def sticky_lock(_: Bench) -> None:
    """Mark the lock as taken by a file that somebody has to delete."""
    enter = CacheWriter._recover

    def recover(self: CacheWriter) -> None:
        mark = self.layout.root / "build.lock.d"
        mark.mkdir()
        enter(self)
        mark.rmdir()

    CacheWriter._recover = recover  # type: ignore[method-assign]


def retire_backwards(_: Bench) -> None:
    """Remove the manifest of a generation before its signature, which nothing finds any more."""
    projections = collect_garbage._projections

    def backwards(*args: Any) -> Any:
        return {number: paths[::-1] for number, paths in projections(*args).items()}

    collect_garbage._projections = backwards


def retire_unplanned(_: Bench) -> None:
    """Remove what a collection decided before the journal knows of it."""
    projections = collect_garbage._projections

    def remove_at_once(layout: Any, state: Any, decision: Any) -> Any:
        found = projections(layout, state, decision)
        collect_garbage._remove(layout, found, decision.removals)
        return found

    collect_garbage._projections = remove_at_once


def mirror_head_first(_: Bench) -> None:
    """Give a copy the manifest of the new head before the artifacts that it names."""
    copy = mirror._copy

    def head_then_copy(*args: Any) -> Any:
        _, target, _, lacking, _ = args
        file = lacking.files[-1]
        write_once.write_once(target.root / file.folder, file.name, file.data, scratch=target.scratch)
        return copy(*args)

    mirror._copy = head_then_copy


def untidy_errors(_: Bench) -> None:
    """Let the errors of the system pass as they are."""
    for module in (artifacts_module, projecting, writer):
        module.from_os_error = lambda error, _what: error  # type: ignore[attr-defined, assignment]


def no_file_sync(_: Bench) -> None:
    """Sync no file that is linked into place."""
    write_once.os = _WithoutSync(folders=True)  # type: ignore[attr-defined]


def no_folder_sync(_: Bench) -> None:
    """Sync no folder that got a name."""
    write_once.os = _WithoutSync(folders=False)  # type: ignore[attr-defined]
    write_once.fsync_dir = lambda _: None  # type: ignore[attr-defined, assignment]


class _WithoutSync:
    """The module `os`, whose `fsync` does nothing for files, or for folders."""

    def __init__(self, *, folders: bool):
        self._folders = folders

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode) == self._folders:
            os.fsync(fd)


BUGS: dict[str, Callable[[Bench], None]] = {
    bug.__name__: bug
    for bug in (
        acknowledge_first,
        commit_first,
        visible_first,
        in_place,
        stale_head,
        lagging_head,
        plain_birth,
        manifest_first,
        early_exit,
        sticky_lock,
        retire_backwards,
        retire_unplanned,
        mirror_head_first,
        untidy_errors,
        no_file_sync,
        no_folder_sync,
    )
}
"""Every bug by its name."""

LASTING = frozenset({"lagging_head"})
"""Those that whoever comes after the writer has, too."""


def switch_on(name: str, bench: Bench) -> None:
    """Switch a bug on in this process for good; none for an empty name."""
    if name:
        BUGS[name](bench)
