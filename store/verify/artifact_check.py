"""Check artifacts by size and by digest, and report the damaged ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.disk.cell_tables import tables_of_manifest
from store.errors import ArtifactError
from store.manifest.manifest import Manifest
from store.manifest.roles import DELTA, PACKS, WHOLE
from store.manifest.roles import TABLE as TABLE_ROLE
from store.verify.coverage import CHANGED, map_in_threads
from store.verify.report import Finding, HashedAmount, ProblemKind

ENGINE, INDEX, TABLE, BLOCK = range(4)
"""The order in which a check with a time budget hashes artifacts."""

_AT_ONCE = 8
"""How many files are hashed before the clock is read again; more threads than this wait for the disk."""


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

    def hash(self, items: Sequence[NamedArtifact]) -> None:
        """Hash artifacts in parallel, the largest first, so that no processor is busy with it alone."""

        def check(item: NamedArtifact) -> str | None:
            wrong = self.artifacts.damage(ArtifactRef(sha256=item.digest, size=item.size))
            if self.on_bytes is not None:
                self.on_bytes(item.size)
            return wrong

        size = sum(item.size for item in items)
        by_size = sorted(items, key=lambda item: -item.size)
        problems = map_in_threads(check, by_size, size)
        found = dict(zip((item.digest for item in by_size), problems, strict=True))
        self._hashed_files += len(items)
        self._hashed_size += size
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
