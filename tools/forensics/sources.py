"""Read records from a cache, a copied journal, a bundle, or the segments of a mirror. Never writes.

A cache is read with the safe reader, also during a build. Of a damaged journal, the readable records from its
beginning are used; if there are none, the segments beside it are read.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from journal import Entry, JournalDamagedError, JournalMissingError, safe_reader
from journal.lock import lock_holder
from journal.record import EMPTY
from journal.storage.meta_pages import is_lmdb
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.cache import mirror_history
from store.cache.view import require_cache
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.disk.repair_commands import mirroring
from store.errors import StoreError
from store.transfer.bundle import read_bundle
from tools.forensics.history import Source
from tools.forensics.records import RecordHistory, read

MAX_ARTIFACT_BYTES = 1 << 30
"""Larger artifacts are not read into memory."""


@valueclass(frozen=True, slots=True)
class CacheArtifacts:
    """The artifacts of a cache."""

    artifacts: Artifacts

    def read(self, ref: ArtifactRef) -> bytes | None:
        """Return the bytes of an artifact after checking them, or nothing."""
        if ref.size > MAX_ARTIFACT_BYTES:
            return None
        try:
            return self.artifacts.read(ref)
        except StoreError:
            return None

    def holds(self, ref: ArtifactRef) -> bool:
        """Whether an artifact is there with its size."""
        return self.artifacts.present(ref)


@valueclass(frozen=True, slots=True)
class NoArtifacts:
    """A source without artifacts."""

    def read(self, ref: ArtifactRef) -> bytes | None:  # noqa: ARG002 - the port's signature
        """Return nothing."""
        return None

    def holds(self, ref: ArtifactRef) -> bool:  # noqa: ARG002 - as above
        """Return false."""
        return False


def from_cache(layout: Layout) -> Source:
    """Read a cache, or a mirror of one.

    Raises:
        RequestRefusedError: There is no cache.
        DamagedHistoryError: Nothing of its journal and segments can be read.
        journal.JournalError: The journal cannot be read by this user.
    """
    artifacts, shown = CacheArtifacts(Artifacts(layout)), str(layout.root)
    if layout.journal.exists():
        history, locked = (
            _read_journal(layout.journal, foreign=False),
            lock_holder(layout.build_lock) is not None,
        )
        if history.records or not layout.segment_files():
            return Source(kind="cache", path=shown, history=history, artifacts=artifacts, lock_held=locked)
    elif not layout.segment_files():
        require_cache(layout)
    return Source(kind="segments", path=shown, history=_read_segments(layout), artifacts=artifacts)


def from_journal(path: Path) -> Source:
    """Read a copied journal; only its bytes are trusted.

    Raises:
        journal.JournalError: There is none, this user may not read it, or nothing of it can be read.
    """
    try:
        history = _read_journal(path, foreign=True)
    except JournalDamagedError as error:
        if not is_lmdb(path):
            raise JournalMissingError(
                f"expected a copied journal.mdb, found no journal: {error.message}",
                hint="name the journal.mdb of a cache; --bundle FILE takes a bundle, --cache DIR a cache or mirror",
            ) from error
        # The journal in a cache could be rebuilt from segments; a copy has none.
        error.hint = "copy it once more, or look into its cache: c10 replay --cache DIR"
        raise
    return Source(
        kind="journal",
        path=str(path),
        history=history,
        artifacts=NoArtifacts(),
        has_artifacts=False,
    )


def from_bundle(path: Path) -> Source:
    """Read a bundle; its artifacts are read when they are needed.

    Raises:
        BundleError: It is no bundle, or not whole.
        StoreError: It cannot be read.
    """
    found = read_bundle(path)
    return Source(
        kind="bundle",
        path=str(path),
        history=read(_values(found.entries)),
        artifacts=found,
        # A bundle of a build that was still running names no build.
        lock_held=None if found.header.build is None else False,
        has_artifacts=found.header.artifacts > 0,
        build=found.header.build,
    )


def _read_journal(path: Path, *, foreign: bool) -> RecordHistory:
    try:
        return read(_values(safe_reader.snapshot(path, foreign=foreign).entries))
    except JournalDamagedError as error:
        entries = safe_reader.salvage_records(path)
        if not entries:
            raise
        return read(_values(entries), problem=f"the journal is damaged: {error.message}")


def _read_segments(layout: Layout) -> RecordHistory:
    """Read all segments that follow each other; of a mirror nothing more is expected."""
    if layout.is_mirror():
        entries, problem = mirror_history.read_records(layout)
        return replace(read(_values(entries), problem=problem), mend=mirroring(layout))
    entries, head = list[Entry](), EMPTY
    problem = "there is no journal: what came after the last commit is not known"
    names = layout.segment_files()
    for number in range(1, max(names, default=0) + 1):
        found = mirror_history.read_segment(layout, number, names.get(number))
        if isinstance(found, str) or found.before != head:
            wrong = found if isinstance(found, str) else "it does not continue the one before"
            problem = f"segment {number}: {wrong}"
            break
        entries.extend(found.entries)
        head = entries[-1].head if entries else head
    return read(_values(entries), problem=problem)


def _values(entries: Iterable[Entry]) -> Iterator[tuple[int, bytes, bytes]]:
    return ((entry.seq, entry.chain, entry.raw) for entry in entries)
