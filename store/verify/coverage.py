"""Compare the artifacts that a manifest names with the files of the cache, all problems in one pass.

An artifact that is named must be a regular file of its size, and, in a full walk, of its digest. An artifact
that nothing names is *unreferenced*: every killed writer leaves some, and garbage collection removes them.
Any other file is foreign: C10 did not put it there.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.disk.cell_tables import tables_of_manifest
from store.disk.layout import FOLDERS, KNOWN_ENTRIES, LOCKS, MIRROR_MARK, Layout
from store.domain.attachments import artifacts_of
from store.domain.index_files import refs_of
from store.domain.state import State
from store.errors import ArtifactError, ManifestCoverageError, TranslateOSErrors
from store.manifest.file_names import parse_signature_name
from store.manifest.manifest import Manifest
from store.policy.retention import refs_of_build

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_THREADS_FROM = 32 << 20
"""Fewer bytes than these are hashed sooner than threads start."""
_BYTES_FOR_A_THREAD = 128 << 10
"""A file of fewer bytes is hashed sooner than a thread takes it over."""


_NO_SUCH_NAME = "expected nothing of this name"

CHANGED = "changed while it was looked at"
"""Said of an artifact that was wrong, and a moment later was not."""


class ForeignFile(NamedTuple):
    """Something in the cache that is not C10's: its path, relative to the cache, and what was expected there."""

    path: str
    expected: str

    def __str__(self) -> str:
        """One line. Do not split it: a path may hold any characters."""
        return f"{self.path}: {self.expected}"


@valueclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The result of a walk. Sizes in bytes; `unreferenced` holds the digests that nothing names."""

    files: int
    size: int
    damaged: tuple[str, ...]
    foreign_files: tuple[ForeignFile, ...]
    unreferenced: tuple[str, ...]
    unreferenced_size: int

    @property
    def problems(self) -> tuple[str, ...]:
        """All damaged artifacts and foreign files."""
        return (*self.damaged, *map(str, self.foreign_files))

    def require(self, *, strict: bool, hint: str) -> None:
        """Raise if an artifact is damaged, or, when strict, if there are foreign files.

        Raises:
            ManifestCoverageError: With every problem of the walk.
        """
        if self.damaged:
            raise ManifestCoverageError(self.problems, hint=hint)
        if strict:
            refuse_foreign_files(self.foreign_files)


def named_by(manifest: Manifest, artifacts: Artifacts) -> dict[str, tuple[str, int]]:
    """Return digest to (role, size) of all artifacts of a manifest, blocks and packs included.

    Raises:
        ArtifactError: The block table or the pack table is missing or damaged.
    """
    named = {ref.sha256: (role, ref.size) for role, ref in manifest.artifacts()}
    for table in tables_of_manifest(manifest):
        named.update({ref.sha256: (role, ref.size) for role, ref in table.files(artifacts)})
    return named


def known_digests(manifest: Manifest, artifacts: Artifacts) -> set[str]:
    """Return the digests of all artifacts of a manifest, without those in tables if one is damaged."""
    try:
        return set(named_by(manifest, artifacts))
    except ArtifactError:
        return {ref.sha256 for _, ref in manifest.artifacts()}


def missing_artifacts(manifest: Manifest, artifacts: Artifacts) -> tuple[str, ...]:
    """Return a line for each artifact of a manifest that is no regular file of its exact size."""
    if problems := _absent(manifest.artifacts(), artifacts):
        return problems
    listed: dict[str, tuple[str, ArtifactRef]] = {}
    for table in tables_of_manifest(manifest):
        try:
            listed |= {ref.sha256: (role, ref) for role, ref in table.files(artifacts)}
        except ArtifactError as error:
            return (f"{table.role}: {error.message}",)
    return _absent(listed.values(), artifacts)


def damaged_artifacts(
    manifest: Manifest, artifacts: Artifacts, *, on_progress: Callable[[int], None]
) -> tuple[str, ...]:
    """Hash all artifacts of a manifest, and return a line for each that is damaged.

    Raises:
        ArtifactError: The block table or the pack table is missing or damaged.
    """
    named = named_by(manifest, artifacts)
    refs = [ArtifactRef(sha256=digest, size=size) for digest, (_, size) in named.items()]
    intact = intact_artifacts(artifacts, refs, on_progress=on_progress)
    return tuple(
        f"{role} {digest[:12]}: damaged" for digest, (role, _) in named.items() if digest not in intact
    )


def _absent(refs: Iterable[tuple[str, ArtifactRef]], artifacts: Artifacts) -> tuple[str, ...]:
    return tuple(
        f"{role} {ref.sha256[:12]}: {_size_problem(artifacts, ref)}"
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
    """Check every file of the cache once.

    Args:
        artifacts: The artifacts of the cache.
        named: Digest to (role, size) of the artifacts that must be there.
        referenced: Digests that the journal knows, named here or not.
        full: Whether to hash every named artifact, or to check type and size alone.
        hashed: Digests that the caller hashed under the same lock; only their type and size are checked
            again.
        threads: How many threads hash; one per processor by default. Hashing runs outside of Python's lock.
        on_progress: Called with the bytes of each artifact that was hashed.
    """
    unreferenced, unreferenced_size = list[str](), 0
    with TranslateOSErrors(f"walking {artifacts.layout.root}"):
        entries = list(artifacts.names())
        foreign = [*_foreign_files(artifacts), *_misnamed(artifacts.layout, entries)]
        for digest, entry in entries:
            if not digest or digest in named:
                continue
            if not entry.is_file(follow_symlinks=False):
                foreign.append(ForeignFile(_relative(entry, artifacts.layout), "expected a regular file"))
            elif digest not in referenced:
                # A collection may have removed it since its folder was listed.
                with suppress(FileNotFoundError):
                    unreferenced_size += entry.stat(follow_symlinks=False).st_size
                    unreferenced.append(digest)
    # The largest first: if it came last, one processor would hash it while the others wait.
    items = [(digest, role, size) for digest, (role, size) in named.items()]
    items.sort(key=lambda item: (-item[2], item[0]))

    def check(item: tuple[str, str, int]) -> str | None:
        digest, role, size = item
        ref = ArtifactRef(sha256=digest, size=size)
        hash_it = full and digest not in hashed
        wrong = artifacts.damage(ref) if hash_it else _size_problem(artifacts, ref)
        if on_progress is not None and hash_it:
            on_progress(size)
        return None if wrong is None else f"{role} {digest[:12]}: {wrong}"

    to_hash = [size if full and digest not in hashed else 0 for digest, _, size in items]
    problems = map_in_threads(check, items, to_hash, threads)
    damaged = tuple(problem for problem in problems if problem is not None)
    return Coverage(
        files=len(items),
        size=sum(size for _, _, size in items),
        damaged=damaged,
        foreign_files=tuple(foreign),
        unreferenced=tuple(unreferenced),
        unreferenced_size=unreferenced_size,
    )


def intact_artifacts(
    artifacts: Artifacts, refs: Iterable[ArtifactRef], *, on_progress: Callable[[int], None] | None = None
) -> dict[str, int]:
    """Hash artifacts in parallel, and return digest to size of those that are not damaged."""

    def check(ref: ArtifactRef) -> bool:
        intact = artifacts.damage(ref) is None
        if on_progress is not None:
            on_progress(ref.size)
        return intact

    distinct = list({ref.sha256: ref for ref in refs}.values())
    found = map_in_threads(check, distinct, [ref.size for ref in distinct])
    return {ref.sha256: ref.size for ref, intact in zip(distinct, found, strict=True) if intact}


def sizes(artifacts: Artifacts, refs: Iterable[ArtifactRef]) -> dict[str, int]:
    """Return digest to size of the artifacts that are regular files, without reading them."""
    found = ((ref.sha256, artifacts.size(ref.sha256)) for ref in refs)
    return {digest: size for digest, size in found if size is not None}


def map_in_threads(
    check: Callable[[_Item], _Result],
    items: Sequence[_Item],
    sizes: Sequence[int],
    threads: int | None = None,
    *,
    meanwhile: Callable[[], object] = lambda: None,
) -> list[_Result]:
    """Check every item, the large ones in threads if they pay; `meanwhile` and the others run beside them.

    `sizes` is how many bytes of each item are hashed.
    """
    large = [at for at, size in enumerate(sizes) if size >= _BYTES_FOR_A_THREAD]
    if sum(sizes[at] for at in large) < _THREADS_FROM:
        meanwhile()
        return [check(item) for item in items]
    pool = ThreadPoolExecutor(threads or processors())
    try:
        pending = {at: pool.submit(check, items[at]) for at in large}
        meanwhile()
        here = {at: check(item) for at, item in enumerate(items) if at not in pending}
        return [pending[at].result() if at in pending else here[at] for at in range(len(items))]
    finally:
        # After an error or Ctrl-C nobody needs the rest.
        pool.shutdown(cancel_futures=True)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def find_foreign_files(artifacts: Artifacts) -> tuple[ForeignFile, ...]:
    """Return each file in the cache that is not C10's.

    Raises:
        CacheUnusableError: A folder cannot be read.
    """
    with TranslateOSErrors(f"walking {artifacts.layout.root}"):
        return (*_foreign_files(artifacts), *_misnamed(artifacts.layout, artifacts.names()))


def refuse_foreign_files(found: Sequence[ForeignFile]) -> None:
    """Raise if there are foreign files.

    Raises:
        ManifestCoverageError: With all of them.
    """
    if found:
        hint = f"move {found[0].path} out of the cache, or set coverage_strict = false"
        raise ManifestCoverageError([str(each) for each in found], hint=hint)


def referenced_by(state: State, listed: Iterable[ArtifactRef] = ()) -> frozenset[str]:
    """Return the digests that the journal names: of all builds, failed ones too, and of reusable steps.

    Args:
        state: The folded journal.
        listed: What tables of builds list; later builds may have replaced their blocks.
    """
    collected = state.collected
    builds = (build for build in state.builds.values() if build.number not in collected)
    digests = {ref.sha256 for build in builds for ref in refs_of_build(build)}
    digests.update(ref.sha256 for event in state.step_cache.engines.values() for ref in artifacts_of(event))
    digests.update(ref.sha256 for event in state.step_cache.indexes.values() for ref in refs_of(event))
    for name in state.step_cache.blocks:
        digests.update(event.block.sha256 for event in state.step_cache.blocks_of(name))
    digests.update(event.pack.sha256 for event in state.step_cache.packs.values())
    digests.update(ref.sha256 for ref in listed)
    return frozenset(digests)


def _size_problem(artifacts: Artifacts, ref: ArtifactRef) -> str | None:
    size = artifacts.size(ref.sha256)
    if size is None:
        return artifacts.damage(ref) or CHANGED
    return None if size == ref.size else f"expected {ref.size:,} bytes, found {size:,}"


def _misnamed(layout: Layout, entries: Iterable[tuple[str, os.DirEntry[str]]]) -> Iterator[ForeignFile]:
    for digest, entry in entries:
        if not digest:
            yield ForeignFile(_relative(entry, layout), _NO_SUCH_NAME)


def _relative(entry: os.DirEntry[str], layout: Layout) -> str:
    return str(Path(entry.path).relative_to(layout.root))


def _foreign_files(artifacts: Artifacts) -> Iterator[ForeignFile]:
    layout = artifacts.layout
    known = KNOWN_ENTRIES | {MIRROR_MARK} if layout.is_mirror() else KNOWN_ENTRIES
    for entry in sorted(os.scandir(layout.root), key=lambda found: found.name):
        if entry.name not in known:
            yield ForeignFile(entry.name, _NO_SUCH_NAME)
        elif entry.name in FOLDERS and not entry.is_dir(follow_symlinks=False):
            yield ForeignFile(entry.name, "expected a folder of the cache, found something else")
        elif entry.name in LOCKS and not entry.is_file(follow_symlinks=False):
            yield ForeignFile(entry.name, "expected a regular file, found something else")
    expected = {
        layout.manifests: {*layout.manifest_files().values()},
        layout.segments: {*layout.segment_files().values()},
    }
    for folder, names in expected.items():
        if folder.is_symlink() or not folder.is_dir():
            continue  # the files that it should hold are reported as missing
        for entry in sorted(os.scandir(folder), key=lambda found: found.name):
            signed = parse_signature_name(entry.name)
            if entry.name not in names and (signed is None or signed[0] not in names):
                yield ForeignFile(f"{folder.name}/{entry.name}", _NO_SUCH_NAME)
