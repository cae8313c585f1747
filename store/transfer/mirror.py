"""Mirror: a read-only copy of what a cache shows, on a card or in another folder, brought to the same head.

The copy has no journal: artifacts, segments, signatures and manifests, which is what the reader on board needs, and from
which `c10 rebuild` makes a journal where one is wanted. Only what is missing is moved, each file complete and durable
before it has its name: artifacts, segments, signatures, and last the manifest of the head. Whoever dies in between leaves
a copy that shows what it showed before, or the new head, and the next run goes on from there.

A copy has no history of its own. Every manifest and segment in it must be one of this cache, byte for byte; anything else
is another cache, or what became of this one elsewhere, and is not touched.
"""

import errno
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from journal.lock import BuildLock
from journal.record import EMPTY
from store.base import canonical_json
from store.base.values import ArtifactRef
from store.cache import segment
from store.cache.projections import signatures_of
from store.cache.view import HistoryView, read_history
from store.disk.artifacts import Artifacts, counted
from store.disk.folder_integrity import refuse_symlinked_folders
from store.disk.layout import Layout
from store.disk.repair_commands import repairing
from store.disk.scratch import clear_scratch
from store.disk.write_once import write_once
from store.domain.manifest_projection import project
from store.domain.state import Generation
from store.errors import (
    ArtifactError,
    CacheUnusableError,
    DamagedHistoryError,
    DiskFullError,
    ErrorKind,
    NoGoError,
    RequestRefusedError,
    UnknownEventError,
    from_os_error,
)
from store.files.permissions import refuse_exposed
from store.files.regular_file import read_regular
from store.manifest.file_names import MAX_MANIFEST_BYTES, signature_name
from store.manifest.manifest import Manifest, parse
from store.verify.coverage import missing, named_by, sound

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK})


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorResult:
    """What was done.

    Attributes:
        generation: What the copy shows now.
        previous: What it showed before; none if it was new.
        files: How many files were moved.
        size: Their bytes.
        replaced: Digests of damaged artifacts of the copy that were replaced.
    """

    generation: int
    previous: int | None
    files: int
    size: int
    replaced: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether anything was moved."""
        return self.files > 0


@dataclass(frozen=True, slots=True)
class _File:
    """A small file of the copy: its folder, name and bytes."""

    folder: str
    name: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What a copy is to hold of the cache.

    Attributes:
        view: The cache.
        head: What it shows.
        manifest: Of the head.
        artifacts: What that names, blocks included, by rising digest.
        segments: Of all generations.
    """

    view: HistoryView
    head: Generation
    manifest: Manifest
    artifacts: tuple[ArtifactRef, ...]
    segments: tuple[_File, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Missing:
    """What the copy lacks."""

    artifacts: tuple[ArtifactRef, ...]
    files: tuple[_File, ...]
    leftovers: bool

    @property
    def size(self) -> int:
        return sum(ref.size for ref in self.artifacts) + sum(len(file.data) for file in self.files)

    @property
    def nothing(self) -> bool:
        return not self.artifacts and not self.files and not self.leftovers


def mirror(
    layout: Layout,
    destination: Path,
    *,
    full: bool = False,
    lock_timeout_s: float = 5.0,
    on_total: Callable[[int], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> MirrorResult:
    """Bring a copy of a cache to the cache's head.

    Args:
        layout: The cache; nothing of it is written.
        destination: Folder of the copy, made if it is missing.
        full: Whether to hash the artifacts that the copy has, and replace damaged ones; otherwise their size counts.
        lock_timeout_s: How long to wait for another mirror to the same place, seconds.
        on_total: Called with the bytes that will be moved.
        on_bytes: Called with the bytes of each piece.

    Raises:
        RequestRefusedError: There is no cache, or nothing to show; or the destination has a history of its own.
        DamagedHistoryError, journal.JournalError: The journal cannot be believed.
        UnknownEventError: A newer version wrote to the cache.
        ArtifactError: What the head shows is not whole.
        StoreError: The destination cannot be used: no space, no hard links, permissions.
    """
    while True:
        source = _source(layout)
        try:
            return _bring(source, destination, full, lock_timeout_s, on_total, on_bytes)
        except ArtifactError:
            # Whoever commits and collects beside this copy takes away what is no longer shown.
            if read_history(layout).state.head == source.head:
                raise


def _bring(  # noqa: PLR0917 - what `mirror` was given
    source: _Source,
    destination: Path,
    full: bool,  # noqa: FBT001 - as above
    lock_timeout_s: float,
    on_total: Callable[[int], None] | None,
    on_bytes: Callable[[int], None] | None,
) -> MirrorResult:
    layout = source.view.layout
    target = Layout(destination, layout.manifest_filename)
    _require_apart(layout, target)
    refuse_exposed(destination)
    refuse_symlinked_folders(target)
    previous = _require_ours(target, source)
    lacking = _missing(source, target, full=full)
    if lacking.nothing:
        return MirrorResult(generation=source.head.number, previous=previous, files=0, size=0)
    target.make_root()
    with BuildLock(target.build_lock, timeout_s=lock_timeout_s, command="c10 mirror"):
        previous = _require_ours(target, source)
        target.create()
        try:
            clear_scratch(target)
        except OSError as error:
            raise from_os_error(error, f"scratch folder {target.scratch}") from error
        _require_links(target)
        lacking = _missing(source, target, full=full)
        _require_space(target, lacking.size)
        if on_total is not None:
            on_total(lacking.size)
        replaced = _move(layout, target, source, lacking, on_bytes)
    return MirrorResult(
        generation=source.head.number,
        previous=previous,
        files=len(lacking.artifacts) + len(lacking.files),
        size=lacking.size,
        replaced=replaced,
    )


def _source(layout: Layout) -> _Source:
    view = read_history(layout)
    if view.state.unknown:
        raise UnknownEventError(
            f"expected events this version knows, found {view.state.unknown[0]}",
            kind=ErrorKind.UNKNOWN_EVENT,
            hint="use the newer C10 that wrote this cache",
        )
    head = view.state.head
    if head is None:
        raise RequestRefusedError(
            f"expected a committed generation in {layout.root}, found none",
            kind=ErrorKind.NO_GENERATION,
            hint=f"c10 build REQUEST --cache {shlex.quote(str(layout.root))}",
        )
    raw = project(view.state, head)
    if canonical_json.sha256(raw) != head.manifest_sha256:
        raise DamagedHistoryError(
            f"expected generation {head.number} to project to the manifest that it committed, found another one",
            kind=ErrorKind.IMPOSSIBLE_HISTORY,
            hint="use the C10 that committed it: c10 show names its version",
        )
    manifest = parse(raw)
    with _of_the_cache(layout):
        named = named_by(manifest, Artifacts(layout))
    return _Source(
        view=view,
        head=head,
        manifest=manifest,
        artifacts=tuple(ArtifactRef(sha256=digest, size=size) for digest, (_, size) in sorted(named.items())),
        segments=tuple(_segments(layout, view)),
    )


def _segments(layout: Layout, view: HistoryView) -> Iterator[_File]:
    before = EMPTY
    for number, generation in view.state.generations.items():
        data = segment.encode(number, before, view.entries[before.seq : generation.seq])
        yield _File("segments", layout.segment_name(number), data)
        before = view.entries[generation.seq - 1].head


def _require_apart(layout: Layout, target: Layout) -> None:
    ours, theirs = layout.root.resolve(), target.root.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise RequestRefusedError(
            f"expected a folder apart from the cache, found {target.root} for {layout.root}",
            kind=ErrorKind.FILE_SYSTEM,
            hint="c10 mirror DEST, with DEST elsewhere",
        )


def _require_ours(target: Layout, source: _Source) -> int | None:
    """Make sure that a copy has no history of its own; returns the generation that it shows.

    Raises:
        RequestRefusedError: It has one.
        CacheUnusableError: It cannot be read.
    """
    if os.path.lexists(target.journal) or target.journals_set_aside():
        raise _of_its_own(target, "a journal, with which it goes its own way")
    manifests, segments = target.manifest_files(), target.segment_files()
    expected = {file.name: file.data for file in source.segments}
    for number, name in sorted(manifests.items()):
        generation = source.view.state.generations.get(number)
        raw = _bytes(target.manifests / name, MAX_MANIFEST_BYTES)
        if generation is None or raw is None or canonical_json.sha256(raw) != generation.manifest_sha256:
            raise _of_its_own(target, f"manifests/{name}, which is not one of this cache's, or damaged")
    for name in sorted(segments.values()):
        data = expected.get(name)
        if data is None or _bytes(target.segments / name, len(data)) != data:
            raise _of_its_own(target, f"segments/{name}, which is not one of this cache's, or damaged")
    return max(manifests, default=None)


def _bytes(path: Path, limit: int) -> bytes | None:
    try:
        return read_regular(path, limit=limit)
    except OSError as error:
        raise from_os_error(error, f"{path.parent.name}/{path.name}") from error


def _of_its_own(target: Layout, found: str) -> RequestRefusedError:
    return RequestRefusedError(
        f"expected an empty folder or a mirror of this cache in {target.root}, found {found}",
        kind=ErrorKind.OWN_HISTORY,
        hint="choose an empty DEST; if the file is damaged, remove it and run c10 mirror again",
    )


def _missing(source: _Source, target: Layout, *, full: bool) -> _Missing:
    """What the copy lacks, in the order in which it is moved; a name that is taken by other bytes is refused."""
    artifacts = Artifacts(target)
    whole = sound(artifacts, source.artifacts) if full else {}
    lacking = tuple(
        ref for ref in source.artifacts if (ref.sha256 not in whole if full else not artifacts.present(ref))
    )
    files = []
    for file in (*source.segments, *_manifests(source, target)):
        path = target.root / file.folder / file.name
        if not os.path.lexists(path):
            files.append(file)
        elif _bytes(path, len(file.data)) != file.data:
            raise _of_its_own(
                target, f"{file.folder}/{file.name}, which is not one of this cache's, or damaged"
            )
    leftovers = target.scratch.is_dir() and any(target.scratch.iterdir())
    return _Missing(artifacts=lacking, files=tuple(files), leftovers=leftovers)


def _manifests(source: _Source, target: Layout) -> Iterator[_File]:
    """The signatures of all generations that the copy has, or is to have, and last the manifest of the head."""
    head, state, layout = source.head, source.view.state, source.view.layout
    there = target.manifest_files()
    name = source.view.observed.manifests.get(head.number) or layout.manifest_name(head.number)
    names = {head.number: name} | there
    for number, shown in sorted(names.items()):
        for place, signed in enumerate(signatures_of(state.generations[number]), start=1):
            yield _File("manifests", signature_name(shown, place), signed)
    yield _File("manifests", names[head.number], source.manifest.raw)


def _require_links(target: Layout) -> None:
    """Try, before anything is moved, whether files can get their names; where some have, they can.

    Raises:
        CacheUnusableError: The file system has no hard links.
    """
    if target.segment_files():
        return
    first, second = target.scratch / "probe", target.scratch / "probe-linked"
    try:
        first.touch()
        os.link(first, second)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise from_os_error(error, f"mirror {target.root}") from error
        raise CacheUnusableError(
            f"expected a file system with hard links in {target.root}, found: {error.strerror}",
            kind=ErrorKind.FILE_SYSTEM,
            hint="use a card with ext4 or f2fs, or take a bundle along: c10 export -o FILE",
        ) from error
    finally:
        with suppress(OSError):
            second.unlink(missing_ok=True)
            first.unlink(missing_ok=True)


def _require_space(target: Layout, needed: int) -> None:
    try:
        free = shutil.disk_usage(target.root).free
    except OSError as error:
        raise from_os_error(error, f"mirror {target.root}") from error
    if needed > free:
        raise DiskFullError(
            f"expected {needed} bytes of free space in {target.root}, found {free}",
            kind=ErrorKind.DISK_FULL,
            hint="free disk space there, then run it again",
        )


@contextmanager
def _of_the_cache(layout: Layout) -> Iterator[None]:
    """Say of a damaged artifact that it is the cache's, not the copy's."""
    try:
        yield
    except ArtifactError as error:
        raise ArtifactError(
            f"in {layout.root}, {error.message}", kind=error.kind, hint=repairing(layout)
        ) from error


def _move(
    layout: Layout,
    target: Layout,
    source: _Source,
    lacking: _Missing,
    on_bytes: Callable[[int], None] | None,
) -> tuple[str, ...]:
    """Move what is missing, the head last; returns the digests of damaged artifacts that were replaced."""
    ours, theirs = Artifacts(layout), Artifacts(target)
    for ref in lacking.artifacts:
        with _of_the_cache(layout):
            theirs.take(ref, counted(ours.pieces(ref), on_bytes))
    problems = missing(source.manifest, theirs)
    if problems:
        raise NoGoError(problems, kind=ErrorKind.ARTIFACT_DAMAGED, hint="c10 mirror DEST --full")
    for file in lacking.files:
        try:
            write_once(target.root / file.folder, file.name, file.data, scratch=target.scratch)
        except OSError as error:
            raise from_os_error(error, f"{file.folder}/{file.name} in {target.root}") from error
        if on_bytes is not None:
            on_bytes(len(file.data))
    return tuple(digest for digest, _ in theirs.replaced)
