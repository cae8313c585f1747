"""The coverage walk: hold what a manifest names against what lies in the tree, all problems in one pass.

An artifact that is named must be a regular file of its size, and, in a full walk, of its digest. A well-named
artifact that nothing names is *unreferenced*: every kill leaves some, and collection removes them. Anything
else in the tree is an error, since nothing of C10's could have put it there.
"""

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.disk.layout import FOLDERS, KNOWN_ENTRIES, LOCKS
from store.domain.attachments import artifacts_of, attached_to_failure
from store.domain.index_files import refs_of
from store.domain.state import State
from store.errors import ArtifactError, ManifestCoverageError, from_os_error
from store.formats.tables import BlockRow, decode_blocks
from store.manifest.file_names import signed_manifest
from store.manifest.manifest import Manifest

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")
_ALONE = 32 << 20
"""Bytes that are hashed sooner than threads start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What a walk found. Sizes in bytes; `unreferenced` holds the digests that nothing names."""

    files: int
    size: int
    damaged: tuple[str, ...]
    foreign_files: tuple[str, ...]
    unreferenced: tuple[str, ...]
    unreferenced_size: int

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that is wrong."""
        return (*self.damaged, *self.foreign_files)

    def require(self, *, strict: bool, hint: str) -> None:
        """Raise if what is named is not whole, or, when strict, if there are strangers.

        Raises:
            ManifestCoverageError: With every problem of the walk.
        """
        if self.damaged:
            raise ManifestCoverageError(self.problems, hint=hint)
        if strict:
            refuse_foreign_files(self.foreign_files)


def named_by(manifest: Manifest, artifacts: Artifacts) -> dict[str, tuple[str, int]]:
    """Return digest to (role, size) of all artifacts of a manifest, blocks included.

    Raises:
        ArtifactError: The block table is missing or damaged.
    """
    named = {ref.sha256: (role, ref.size) for role, ref in manifest.artifacts()}
    for row in decode_blocks(artifacts.read(manifest.index.blocks)):
        named[row.ref.sha256] = (block_role(row), row.ref.size)
    return named


def missing(manifest: Manifest, artifacts: Artifacts) -> tuple[str, ...]:
    """Return what quick verification finds: artifacts that are no regular file of their exact size."""
    problems = [
        f"{role} {ref.sha256[:12]}: {_shape(artifacts, ref)}"
        for role, ref in manifest.artifacts()
        if not artifacts.present(ref)
    ]
    if problems:
        return tuple(problems)
    try:
        named = named_by(manifest, artifacts)
    except ArtifactError as error:
        return (f"block table: {error.message}",)
    refs = ((role, ArtifactRef(sha256=digest, size=size)) for digest, (role, size) in named.items())
    return tuple(
        f"{role} {ref.sha256[:12]}: {_shape(artifacts, ref)}"
        for role, ref in refs
        if not artifacts.present(ref)
    )


def walk(
    artifacts: Artifacts,
    named: Mapping[str, tuple[str, int]],
    *,
    referenced: frozenset[str],
    full: bool,
    hashed: frozenset[str] = frozenset(),
    threads: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Coverage:
    """Walk the whole tree once.

    Args:
        artifacts: The folder.
        named: Digest to (role, size) of what must be there.
        referenced: Digests that the journal knows of, named here or not.
        full: Whether to hash every named artifact, or to look at type and size alone.
        hashed: Digests that the caller hashed under the same lock; their type and size are looked at again.
        threads: How many to hash with; hashing runs outside of Python's lock.
        on_progress: Called with the bytes of each artifact that was hashed.
    """
    try:
        foreign, entries = list(_strangers(artifacts)), list(artifacts.names())
    except OSError as error:
        raise from_os_error(error, f"walking {artifacts.layout.root}") from error
    unreferenced, unreferenced_size = list[str](), 0
    for digest, found, path in entries:
        if not digest:
            foreign.append(f"{path.relative_to(artifacts.layout.root)}: expected nothing of this name")
        elif digest not in named and not stat.S_ISREG(found.st_mode):
            foreign.append(f"{path.relative_to(artifacts.layout.root)}: expected a regular file")
        elif digest not in named and digest not in referenced:
            unreferenced.append(digest)
            unreferenced_size += found.st_size
    # The largest first: one that comes last would keep one processor busy, and one alone.
    items = sorted(((digest, role, size) for digest, (role, size) in named.items()), key=_by_size)

    def look(item: tuple[str, str, int]) -> str | None:
        digest, role, size = item
        ref = ArtifactRef(sha256=digest, size=size)
        hash_it = full and digest not in hashed
        wrong = artifacts.damage(ref) if hash_it else _shape(artifacts, ref)
        if on_progress is not None and hash_it:
            on_progress(size)
        return None if wrong is None else f"{role} {digest[:12]}: {wrong}"

    weight = sum(size for digest, _, size in items if digest not in hashed) if full else 0
    damaged = tuple(problem for problem in each(look, items, weight, threads) if problem is not None)
    return Coverage(
        files=len(items),
        size=sum(size for _, _, size in items),
        damaged=damaged,
        foreign_files=tuple(foreign),
        unreferenced=tuple(unreferenced),
        unreferenced_size=unreferenced_size,
    )


def _by_size(item: tuple[str, str, int]) -> tuple[int, str]:
    digest, _, size = item
    return -size, digest


def sound(
    artifacts: Artifacts, refs: Iterable[ArtifactRef], *, on_progress: Callable[[int], None] | None = None
) -> dict[str, int]:
    """Hash artifacts in parallel and return digest to size of those that are whole."""

    def look(ref: ArtifactRef) -> bool:
        whole = artifacts.damage(ref) is None
        if on_progress is not None:
            on_progress(ref.size)
        return whole

    distinct = list({ref.sha256: ref for ref in refs}.values())
    found = each(look, distinct, sum(ref.size for ref in distinct))
    return {ref.sha256: ref.size for ref, whole in zip(distinct, found, strict=True) if whole}


def sizes(artifacts: Artifacts, refs: Iterable[ArtifactRef]) -> dict[str, int]:
    """Return digest to size of the artifacts that are regular files; looks at no content."""
    found = ((ref.sha256, artifacts.size(ref.sha256)) for ref in refs)
    return {digest: size for digest, size in found if size is not None}


def each(
    look: Callable[[_Item], _Answer], items: Sequence[_Item], weight: int, threads: int | None = None
) -> list[_Answer]:
    """Look at every item, in threads where so many bytes are to be hashed that they pay."""
    if weight < _ALONE:
        return [look(item) for item in items]
    with ThreadPoolExecutor(threads or processors()) as pool:
        return list(pool.map(look, items))


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def foreign_files(artifacts: Artifacts) -> tuple[str, ...]:
    """Return what lies in the cache and cannot be C10's, before any work is done.

    Raises:
        CacheUnusableError: A folder cannot be read.
    """
    try:
        return tuple(_strangers(artifacts))
    except OSError as error:
        raise from_os_error(error, f"walking {artifacts.layout.root}") from error


def refuse_foreign_files(found: Sequence[str]) -> None:
    """Raise if there is anything foreign.

    Raises:
        ManifestCoverageError: With all of it.
    """
    if found:
        name = found[0].partition(":")[0]
        hint = f"move {name} out of the cache, or set coverage_strict = false"
        raise ManifestCoverageError(found, hint=hint)


def referenced_by(state: State, tables: Iterable[Sequence[BlockRow]] = ()) -> frozenset[str]:
    """Return the digests that the journal's facts name: of all builds, failed ones too, and of what may be reused.

    Args:
        state: The folded journal.
        tables: Block tables of builds, whose blocks later builds may have superseded.
    """
    digests: set[str] = set()
    collected = state.collected
    for build in state.builds.values():
        if build.number in collected:
            continue
        engines = (*(event for _, event in build.engines), *filter(None, (build.stand_in,)))
        digests.update(ref.sha256 for event in engines for ref in artifacts_of(event))
        digests.update(ref.sha256 for ref in (build.calibration,) if ref)
        digests.update(event.table.sha256 for event in (build.tiles,) if event)
        digests.update(event.geography.sha256 for event in (build.coverage,) if event)
        digests.update(
            ref.sha256 for event in (build.failure,) if event for ref in attached_to_failure(event).values()
        )
        digests.update(ref.sha256 for event in (build.index,) if event for ref in refs_of(event))
    digests.update(ref.sha256 for event in state.step_cache.engines.values() for ref in artifacts_of(event))
    digests.update(ref.sha256 for event in state.step_cache.indexes.values() for ref in refs_of(event))
    for name in state.step_cache.blocks:
        digests.update(event.block.sha256 for event in state.step_cache.blocks_of(name))
    digests.update(row.ref.sha256 for table in tables for row in table)
    return frozenset(digests)


def block_role(row: BlockRow) -> str:
    """What a block is called in findings."""
    return f"block {row.zoom}/{row.cell_x}/{row.cell_y}"


def _shape(artifacts: Artifacts, ref: ArtifactRef) -> str | None:
    size = artifacts.size(ref.sha256)
    if size is None:
        return artifacts.damage(ref) or "changed while it was looked at"
    return None if size == ref.size else f"expected {ref.size} bytes, found {size}"


def _strangers(artifacts: Artifacts) -> Iterable[str]:
    layout = artifacts.layout
    for entry in sorted(os.scandir(layout.root), key=lambda found: found.name):
        if entry.name not in KNOWN_ENTRIES:
            yield f"{entry.name}: expected nothing of this name"
        elif entry.name in FOLDERS and not entry.is_dir(follow_symlinks=False):
            yield f"{entry.name}: expected a folder of the cache, found something else"
        elif entry.name in LOCKS and not entry.is_file(follow_symlinks=False):
            yield f"{entry.name}: expected a regular file, found something else"
    expected = {
        layout.manifests: {*layout.manifest_files().values()},
        layout.segments: {*layout.segment_files().values()},
    }
    for folder, names in expected.items():
        if folder.is_symlink() or not folder.is_dir():
            continue  # a folder that is gone is told of by what it should hold
        for entry in sorted(os.scandir(folder), key=lambda found: found.name):
            signed = signed_manifest(entry.name)
            if entry.name not in names and (signed is None or signed[0] not in names):
                yield f"{folder.name}/{entry.name}: expected nothing of this name"
