"""Check artifacts by size, by digest and against their manifest, and report the damaged and the foreign ones."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.disk.cell_tables import tables_of_manifest
from store.errors import UNREADABLE, ArtifactError, CacheUnusableError, is_shortage
from store.manifest.manifest import Manifest
from store.manifest.roles import DELTA, PACKS, WHOLE
from store.manifest.roles import TABLE as TABLE_ROLE
from store.reader import table_checks
from store.trust.go_no_go import TrustedKeys
from store.verify.coverage import CHANGED, map_in_threads, walk
from store.verify.report import Depth, Finding, HashedAmount, ProblemKind

ENGINE, INDEX, TABLE, BLOCK = range(4)
"""The order in which a check with a time budget hashes artifacts."""

_AT_ONCE = 8
"""How many files are hashed before the clock is read again; more threads than this wait for the disk."""


@valueclass(frozen=True, slots=True)
class Options:
    """The arguments of `store.verify.verify.verify`."""

    depth: Depth
    budget_s: float
    seed: int
    trusted_keys: TrustedKeys
    monotonic: Callable[[], float]
    on_total: Callable[[int], None] | None
    on_bytes: Callable[[int], None] | None


@valueclass(frozen=True, slots=True)
class NamedArtifact:
    """An artifact that a manifest names."""

    digest: str
    role: str
    size: int

    @property
    def urgency(self) -> int:
        """The lower, the earlier it is hashed."""
        if self.role.startswith("engine "):
            return ENGINE
        if self.role.startswith(("block ", "pack ")) and self.role not in {TABLE_ROLE, PACKS}:
            return BLOCK
        return INDEX if self.role in {WHOLE, DELTA} else TABLE


@dataclass(slots=True, kw_only=True)
class ArtifactCheck:
    """A check of the artifacts in `named`, digest to (role, size); `damaged` holds their digests."""

    artifacts: Artifacts
    on_bytes: Callable[[int], None] | None
    named: dict[str, tuple[str, int]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)
    _hashed_files: int = 0
    _hashed_size: int = 0

    def add(self, origin: int, manifest: Manifest) -> None:
        """Add the artifacts that the manifest of a build names; of a table that cannot be read, the table alone."""
        self.named.update({ref.sha256: (role, ref.size) for role, ref in manifest.artifacts()})
        for table in tables_of_manifest(manifest):
            try:
                files = table.files(self.artifacts)
            except ArtifactError:
                what = "blocks" if table.role == TABLE_ROLE else "packs"
                self.notes.append(
                    f"the {what} of build {origin} were not looked at: their table is not readable"
                )
                self._report(NamedArtifact(table.ref.sha256, table.role, table.ref.size))
            else:
                self.named.update({ref.sha256: (role, ref.size) for role, ref in files})

    def check_sizes(self) -> list[NamedArtifact]:
        """Check type and size of all artifacts; return those that may be whole, most urgent first."""
        items = [NamedArtifact(digest, role, size) for digest, (role, size) in self.named.items()]
        items.sort(key=lambda item: (item.urgency, item.role, item.digest))
        for item in items:
            if item.digest not in self.damaged and self.artifacts.size(item.digest) != item.size:
                self._report(item)
        return [item for item in items if item.digest not in self.damaged]

    def hash_until(self, items: Sequence[NamedArtifact], is_over: Callable[[], bool]) -> None:
        """Hash a few artifacts at a time until the time is over."""
        for start in range(0, len(items), _AT_ONCE):
            if is_over():
                return
            self.hash(items[start : start + _AT_ONCE])

    def hash(self, items: Sequence[NamedArtifact], *, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Hash artifacts in parallel, the largest first, so that no processor is busy with it alone."""

        def check(item: NamedArtifact) -> str | None:
            wrong = self.artifacts.damage(ArtifactRef(sha256=item.digest, size=item.size))
            if self.on_bytes is not None:
                self.on_bytes(item.size)
            return wrong

        by_size = sorted(items, key=lambda item: -item.size)
        sizes = [item.size for item in by_size]
        problems = map_in_threads(check, by_size, sizes, meanwhile=meanwhile)
        found = dict(zip((item.digest for item in by_size), problems, strict=True))
        self._hashed_files += len(items)
        self._hashed_size += sum(sizes)
        for item in items:
            if (wrong := found[item.digest]) is not None:
                self._report(item, wrong)

    def hashed(self) -> HashedAmount:
        """Return how much was hashed, and how much there is."""
        return HashedAmount(
            files=self._hashed_files,
            size=self._hashed_size,
            files_total=len(self.named),
            size_total=sum(size for _, size in self.named.values()),
        )

    def _report(self, item: NamedArtifact, wrong: str | None = None) -> None:
        """Report an artifact as damaged; hash it if it is not known what is wrong."""
        if wrong is None:
            ref = ArtifactRef(sha256=item.digest, size=item.size)
            wrong = self.artifacts.damage(ref) or CHANGED
        self.damaged.add(item.digest)
        layout = self.artifacts.layout
        path = str(layout.artifact(item.digest).relative_to(layout.root))
        kind = ProblemKind.ABSENT if wrong == "missing" else ProblemKind.DAMAGED
        self.findings.append(
            Finding(kind=kind, subject=item.role, found=wrong, path=path, digest=item.digest)
        )


def hash_artifacts(
    check: ArtifactCheck,
    intact: Sequence[NamedArtifact],
    options: Options,
    *,
    meanwhile: Callable[[], object],
) -> None:
    """Hash artifacts of the right size, as far as the options say; `meanwhile` runs beside a full check."""
    if options.on_total is not None:
        options.on_total(sum(item.size for item in intact))
    if options.depth is Depth.BUDGET:
        blocks = [item for item in intact if item.urgency == BLOCK]
        random.Random(options.seed).shuffle(blocks)  # noqa: S311 - a sample, not a secret
        check.hash_until([item for item in intact if item.urgency < BLOCK], lambda: False)
        deadline = options.monotonic() + options.budget_s
        check.hash_until(blocks, lambda: options.monotonic() >= deadline)
    elif options.depth is Depth.FULL:
        check.hash(intact, meanwhile=meanwhile)


def find_unnamed_files(
    artifacts: Artifacts, referenced: frozenset[str], findings: list[Finding]
) -> tuple[int, int]:
    """Add foreign files to the findings; return number and bytes of artifacts that nothing refers to."""
    try:
        found = walk(artifacts, {}, referenced=referenced, full=False)
    except CacheUnusableError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or is_shortage(cause):
            raise
        path = os.path.relpath(str(cause.filename or "."), artifacts.layout.root)
        text = f"{UNREADABLE} ({cause.strerror}): nobody knows what is in it"
        findings.append(Finding(kind=ProblemKind.STRANGER, subject=path, found=text, path=path))
        return 0, 0
    for path, text in found.foreign_files:
        findings.append(Finding(kind=ProblemKind.STRANGER, subject=path, found=text, path=path))
    return len(found.unreferenced), found.unreferenced_size


def table_findings(manifest: Manifest, artifacts: Artifacts, damaged: set[str]) -> Iterator[Finding]:
    """Compare the tables and the delta of a generation with its manifest, if none of them is damaged."""
    delta = manifest.index.delta
    tables: list[tuple[ArtifactRef, Callable[[Manifest, bytes], object]]] = [
        (manifest.tiles, table_checks.tiles_of),
        (manifest.index.blocks, table_checks.blocks_of),
        *([(delta.artifact, table_checks.delta_of)] if delta else []),
        *([(manifest.carried.packs, table_checks.packs_of)] if manifest.carried else []),
    ]
    if not damaged.isdisjoint(ref.sha256 for ref, _ in tables):
        return
    for ref, check in tables:
        try:
            check(manifest, artifacts.read(ref))
        except (ArtifactError, ValueError) as error:
            yield Finding(
                kind=ProblemKind.CONTENT,
                subject="tables",
                found=str(error),
                generation=manifest.envelope.generation,
            )
