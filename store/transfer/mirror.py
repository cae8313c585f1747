"""Mirror the head of a cache to a read-only copy, on a card or in another folder.

The copy has no journal but artifacts, segments, signatures, manifests and a mark: that is what the reader on board
needs, and `c10 rebuild` can make a journal from it. A mirror run copies only what is missing, each file
complete and durable before it gets its name: artifacts, segments, signatures, and last the manifest of the
head. A run that is killed leaves a copy that shows the old head or the new one, and the next run continues.

A copy has no history of its own. Every manifest and segment in it must be one of this cache, byte for byte.
Anything else is another cache, or a copy that was written to since, and is not touched.
"""

import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from journal.lock import BuildLock
from journal.record import EMPTY
from store.base import canonical_json
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.cache import segment
from store.cache.projections import signatures_of
from store.cache.view import HistoryView, read_history
from store.disk.artifacts import Artifacts, counted
from store.disk.folder_integrity import refuse_symlinked_folders
from store.disk.hard_links import require_hard_links
from store.disk.layout import MIRROR_MARK, Layout, lies_within, nearest_folder
from store.disk.repair_commands import rebuilding, repairing
from store.disk.scratch import clear_scratch
from store.disk.write_once import write_once
from store.domain.manifest_projection import project
from store.domain.state import Generation
from store.errors import (
    ArtifactError,
    DamagedHistoryError,
    DiskFullError,
    ErrorKind,
    NoGoError,
    RequestRefusedError,
    TranslateOSErrors,
)
from store.files.permissions import refuse_world_writable
from store.files.regular_file import read_regular
from store.manifest.file_names import MAX_MANIFEST_BYTES, signature_name
from store.manifest.manifest import Manifest, parse
from store.transfer.free_space import require_space
from store.trust.go_no_go import ALLOW_UNSIGNED, TrustedKeys
from store.trust.signatures import parse_trusted_keys, signature_problems
from store.verify.coverage import intact_artifacts, missing_artifacts, named_by

_MARK = (
    b"c10 mirror made this copy of a cache, whose journal is elsewhere. c10 verify --cache DIR checks it.\n"
)


@valueclass(frozen=True, slots=True, kw_only=True)
class MirrorResult:
    """The generation that the copy shows now and the previous one, and number and bytes of the copied files.

    `replaced` holds the digests of damaged artifacts of the copy that were replaced. `marked` says that a copy which an
    earlier version made got the mark of a mirror.
    """

    generation: int
    previous: int | None
    files: int
    size: int
    replaced: tuple[str, ...] = ()
    marked: bool = False

    @property
    def changed(self) -> bool:
        """Whether anything was copied, or the copy was marked."""
        return self.files > 0 or self.marked


@valueclass(frozen=True, slots=True)
class _File:
    """A small file of the copy: its folder, name and bytes."""

    folder: str
    name: str
    data: bytes


@valueclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What a copy must have: artifacts of the head by rising digest, segments of all generations."""

    view: HistoryView
    head: Generation
    manifest: Manifest
    artifacts: tuple[ArtifactRef, ...]
    segments: tuple[_File, ...]


@valueclass(frozen=True, slots=True, kw_only=True)
class _Missing:
    """The files that the copy lacks, its mark apart, and whether an earlier run left scratch files in it."""

    artifacts: tuple[ArtifactRef, ...]
    files: tuple[_File, ...]
    mark: bool
    leftovers: bool

    @property
    def size(self) -> int:
        return sum(ref.size for ref in self.artifacts) + sum(len(file.data) for file in self.files)

    @property
    def nothing(self) -> bool:
        return not self.artifacts and not self.files and not self.mark and not self.leftovers


def mirror(
    layout: Layout,
    destination: Path,
    *,
    trusted_keys: TrustedKeys = ALLOW_UNSIGNED,
    full: bool = False,
    lock_timeout_s: float = 5.0,
    on_total: Callable[[int], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> MirrorResult:
    """Update a copy of a cache to the cache's head.

    Args:
        layout: The cache, which is only read.
        destination: Folder of the copy, created if it does not exist.
        trusted_keys: One of them must have signed the head; or `ALLOW_UNSIGNED`.
        full: Whether to hash the artifacts of the copy, and replace damaged ones; otherwise their size
            counts.
        lock_timeout_s: How long to wait for another mirror run to the same folder, seconds.
        on_total: Called with the bytes that will be copied.
        on_bytes: Called with the bytes of each piece.

    Raises:
        RequestRefusedError: There is no cache, or no generation; or the destination has a history of its own.
        NoGoError: No trusted key signed the head; the copy was not touched.
        DamagedHistoryError, journal.JournalError: The journal cannot be trusted.
        UnknownEventError: A newer version wrote to the cache.
        ArtifactError: An artifact of the head is missing or damaged.
        StoreError: The destination cannot be used: no space, no hard links, permissions.
    """
    while True:
        source = _read_source(layout)
        _require_signed(source, trusted_keys)
        try:
            return _update_copy(
                source,
                destination,
                full=full,
                lock_timeout_s=lock_timeout_s,
                on_total=on_total,
                on_bytes=on_bytes,
            )
        except ArtifactError:
            # A build and a collection meanwhile remove artifacts of the head that this run began with.
            if read_history(layout).state.head == source.head:
                raise


def _update_copy(
    source: _Source,
    destination: Path,
    *,
    full: bool,
    lock_timeout_s: float,
    on_total: Callable[[int], None] | None,
    on_bytes: Callable[[int], None] | None,
) -> MirrorResult:
    layout = source.view.layout
    target = Layout(destination, layout.manifest_filename)
    _require_apart(layout, target)
    refuse_symlinked_folders(target)
    previous = _require_same_history(target, source)
    if not target.segment_files():
        require_hard_links(nearest_folder(target.root), target.root)
    refuse_world_writable(destination)
    lacking = _find_missing(source, target, full=full)
    if lacking.nothing:
        return MirrorResult(generation=source.head.number, previous=previous, files=0, size=0)
    if not target.root.exists():
        # Before a folder is made, which would stay behind empty.
        require_space(nearest_folder(target.root), lacking.size)
    target.make_root()
    with (
        _unfinished(target),
        BuildLock(target.build_lock, timeout_s=lock_timeout_s, command="c10 mirror"),
    ):
        previous = _require_same_history(target, source)
        target.create()
        with TranslateOSErrors(f"scratch folder {target.scratch}"):
            clear_scratch(target)
        lacking = _find_missing(source, target, full=full)
        require_space(target.root, lacking.size)
        if on_total is not None:
            on_total(lacking.size)
        replaced = _copy(layout, target, source, lacking, on_bytes)
    return MirrorResult(
        generation=source.head.number,
        previous=previous,
        files=len(lacking.artifacts) + len(lacking.files),
        size=lacking.size,
        replaced=replaced,
        marked=lacking.mark,
    )


@contextmanager
def _unfinished(target: Layout) -> Iterator[None]:
    """Let a full disk say what becomes of the copy that was begun."""
    try:
        yield
    except DiskFullError as error:
        error.hint = f"{error.hint}; {target.root} keeps what was copied, and the next run goes on there"
        raise


def _read_source(layout: Layout) -> _Source:
    view = read_history(layout)
    view.state.require_known("nothing was mirrored")
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
    with _errors_of_cache(layout):
        named = named_by(manifest, Artifacts(layout))
    return _Source(
        view=view,
        head=head,
        manifest=manifest,
        artifacts=tuple(ArtifactRef(sha256=digest, size=size) for digest, (_, size) in sorted(named.items())),
        segments=tuple(_segments(layout, view)),
    )


def _require_signed(source: _Source, trusted_keys: TrustedKeys) -> None:
    """Refuse to put a head on a copy that `c10 verify` calls a NO-GO for its signature."""
    if trusted_keys is ALLOW_UNSIGNED:
        return
    state, head = source.view.state, source.head
    keys = parse_trusted_keys(trusted_keys)
    reasons = signature_problems(project(state, head), signatures_of(head), generation=head.number, keys=keys)
    if reasons:
        raise NoGoError(
            reasons, kind=ErrorKind.SIGNATURE, hint=f"c10 sign {head.number}, then mirror it again"
        )


def _segments(layout: Layout, view: HistoryView) -> Iterator[_File]:
    before = EMPTY
    for number, generation in view.state.generations.items():
        data = segment.encode(number, before, view.entries[before.seq : generation.seq])
        yield _File("segments", layout.segment_name(number), data)
        before = view.entries[generation.seq - 1].head


def _require_apart(layout: Layout, target: Layout) -> None:
    if lies_within(layout.root, target.root) or lies_within(target.root, layout.root):
        raise RequestRefusedError(
            f"expected a folder apart from the cache, found {target.root} for {layout.root}",
            kind=ErrorKind.FILE_SYSTEM,
            hint="c10 mirror DEST, with DEST elsewhere",
        )


def _require_same_history(target: Layout, source: _Source) -> int | None:
    """Make sure that a copy has no history of its own, and return the generation that it shows."""
    if trace := target.journal_trace():
        error = _own_history_error(target, f"{trace}, by which it is a cache, even if it lost its journal")
        error.hint = f"choose an empty DEST; a journal that was lost comes back by {rebuilding(target)}"
        raise error
    manifests, segments = target.manifest_files(), target.segment_files()
    expected = {file.name: file.data for file in source.segments}
    for number, name in sorted(manifests.items()):
        generation = source.view.state.generations.get(number)
        raw = _read_file(target.manifests / name, MAX_MANIFEST_BYTES)
        if generation is None or raw is None or canonical_json.sha256(raw) != generation.manifest_sha256:
            raise _foreign_file_error(target, f"manifests/{name}")
    for name in sorted(segments.values()):
        data = expected.get(name)
        if data is None or _read_file(target.segments / name, len(data)) != data:
            raise _foreign_file_error(target, f"segments/{name}")
    return max(manifests, default=None)


def _read_file(path: Path, limit: int) -> bytes | None:
    with TranslateOSErrors(f"{path.parent.name}/{path.name}"):
        return read_regular(path, limit=limit)


def _foreign_file_error(target: Layout, name: str) -> RequestRefusedError:
    return _own_history_error(target, f"{name}, which is not one of this cache's, or damaged")


def _own_history_error(target: Layout, found: str) -> RequestRefusedError:
    return RequestRefusedError(
        f"expected an empty folder or a mirror of this cache in {target.root}, found {found}",
        kind=ErrorKind.OWN_HISTORY,
        hint="choose an empty DEST; if the file is damaged, remove it and run c10 mirror again",
    )


def _find_missing(source: _Source, target: Layout, *, full: bool) -> _Missing:
    """Return what the copy lacks, in the order in which it is copied; refuse a name that other bytes have."""
    artifacts = Artifacts(target)
    whole = intact_artifacts(artifacts, source.artifacts) if full else {}
    lacking = tuple(
        ref for ref in source.artifacts if (ref.sha256 not in whole if full else not artifacts.present(ref))
    )
    files = []
    for file in (*source.segments, *_manifests(source, target)):
        path = target.root / file.folder / file.name
        if not os.path.lexists(path):
            files.append(file)
        elif _read_file(path, len(file.data)) != file.data:
            raise _foreign_file_error(target, f"{file.folder}/{file.name}")
    leftovers = target.scratch.is_dir() and any(target.scratch.iterdir())
    return _Missing(artifacts=lacking, files=tuple(files), mark=not target.is_marked(), leftovers=leftovers)


def _manifests(source: _Source, target: Layout) -> Iterator[_File]:
    """Yield the signatures of all generations that the copy will have, then the manifest of the head."""
    head, state, layout = source.head, source.view.state, source.view.layout
    head_name = source.view.observed.manifests.get(head.number) or layout.manifest_name(head.number)
    names = {head.number: head_name} | target.manifest_files()
    for number, name in sorted(names.items()):
        for place, signature in enumerate(signatures_of(state.generations[number]), start=1):
            yield _File("manifests", signature_name(name, place), signature)
    yield _File("manifests", names[head.number], source.manifest.raw)


@contextmanager
def _errors_of_cache(layout: Layout) -> Iterator[None]:
    """Let errors say that the damaged artifact is one of the cache, not of the copy."""
    try:
        yield
    except ArtifactError as error:
        raise ArtifactError(
            f"in {layout.root}, {error.message}", kind=error.kind, hint=repairing(layout)
        ) from error


def _copy(
    layout: Layout,
    target: Layout,
    source: _Source,
    lacking: _Missing,
    on_bytes: Callable[[int], None] | None,
) -> tuple[str, ...]:
    """Copy what is missing, the head last; return the digests of damaged artifacts that were replaced."""
    ours, theirs = Artifacts(layout), Artifacts(target)
    for ref in lacking.artifacts:
        with _errors_of_cache(layout):
            theirs.take(ref, counted(ours.pieces(ref), on_bytes))
    problems = missing_artifacts(source.manifest, theirs)
    if problems:
        raise NoGoError(problems, kind=ErrorKind.ARTIFACT_DAMAGED, hint="c10 mirror DEST --full")
    _write(target, (file for file in lacking.files if file.folder == "segments"), on_bytes)
    # Before the head, so that a copy that shows one is known as a mirror; after segments, which make it no foreign
    # folder.
    if lacking.mark:
        with TranslateOSErrors(f"{MIRROR_MARK} in {target.root}"):
            write_once(target.root, MIRROR_MARK, _MARK, scratch=target.scratch)
    _write(target, (file for file in lacking.files if file.folder != "segments"), on_bytes)
    return tuple(digest for digest, _ in theirs.replaced)


def _write(target: Layout, files: Iterable[_File], on_bytes: Callable[[int], None] | None) -> None:
    for file in files:
        with TranslateOSErrors(f"{file.folder}/{file.name} in {target.root}"):
            write_once(target.root / file.folder, file.name, file.data, scratch=target.scratch)
        if on_bytes is not None:
            on_bytes(len(file.data))
