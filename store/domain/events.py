"""The events of a flight cache: a tagged union of past-tense dataclasses.

Every state, manifest and report is folded from these, and those of `maintenance_events`, and nothing else. An event says what happened and carries
what is needed to explain it or to go back; it never carries bulk: tile lists, blocks, engines and indexes are
artifacts, events hold their digests. Fields are plain data. A field name is its name on disk, so renaming one
needs a new version in `store.domain.event_codec`. Lengths of time are integers of milliseconds, ratios are parts per
million, so that everything projected from an event has one canonical form.
"""

from typing import TypeAlias

from store.base.canonical_json import Document
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.domain.maintenance_events import (
    Collected,
    CollectionPlanned,
    GenerationAccepted,
    GenerationSigned,
    Imported,
    Repaired,
    RolledBack,
)


@valueclass(frozen=True, slots=True, kw_only=True)
class CacheCreated:
    """The first event: a cache with a random id was created."""

    cache_id: str
    format: int
    writer: str


@valueclass(frozen=True, slots=True, kw_only=True)
class BuildStarted:
    """A build began; `identity` is absent when its inputs could not be read. `host` holds facts only."""

    identity: str | None
    inputs: Document
    calibration: ArtifactRef | None
    again: bool
    host: Document


@valueclass(frozen=True, slots=True, kw_only=True)
class BuildPlanned:
    """The plan of the build: per step its kind, subject, key, decision and reason."""

    steps: tuple[Document, ...]


@valueclass(frozen=True, slots=True, kw_only=True)
class TilesSelected:
    """The tiles of the area were chosen; `table` is the tile table, `wanted` counts the area's tiles."""

    digest: str
    table: ArtifactRef
    count: int
    wanted: int
    excluded: int
    warnings: tuple[str, ...]


@valueclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    """Work on a step began; for cells, one window of them was dispatched (`subjects` as zoom/x/y of cells).

    A large cell may be divided between several windows.
    """

    kind: str
    subjects: tuple[str, ...]
    key: str


@valueclass(frozen=True, slots=True, kw_only=True)
class StepRetried:
    """A worker failed and its work is tried again."""

    kind: str
    subjects: tuple[str, ...]
    attempt: int
    why: str


@valueclass(frozen=True, slots=True, kw_only=True)
class EngineCompiled:
    """A network was compiled. `signature` holds input and output names and shapes.

    `purpose` is "flight" for the engine that the manifest hands out, and "stand-in" for one that embeds tiles
    here on behalf of an engine for another device. `host` is empty within a build, whose start holds it.
    """

    model: str
    purpose: str
    key: str
    components: Document
    artifact: ArtifactRef
    signature: Document
    elapsed_ms: int
    log: str
    host: Document


@valueclass(frozen=True, slots=True, kw_only=True)
class CellEmbedded:
    """One cell's block was made: `rows` tiles, of which `embedded` digests went through the network.

    `engine` is the digest of the engine's bytes that embedded them: bytes are not reproducible, so that another
    engine of the same key must first show that it gives the same vectors.
    """

    space: str
    zoom: int
    cell_x: int
    cell_y: int
    key: str
    components: Document
    engine: str
    block: ArtifactRef
    rows: int
    embedded: int
    copied: int


@valueclass(frozen=True, slots=True, kw_only=True)
class TilesPacked:
    """The encoded tiles of one cell were packed for the aircraft (`store.formats.carried_tiles`)."""

    zoom: int
    cell_x: int
    cell_y: int
    key: str
    pack: ArtifactRef
    tiles: int


@valueclass(frozen=True, slots=True, kw_only=True)
class TilesCarried:
    """All tiles to be carried are in the packs that `table` (the pack table) lists; `size` is that of the tiles."""

    table: ArtifactRef
    tiles: int
    size: int


@valueclass(frozen=True, slots=True, kw_only=True)
class IndexBuilt:
    """The descriptor index was built from the blocks that `blocks` (the block table) lists."""

    key: str
    components: Document
    artifact: ArtifactRef
    blocks: ArtifactRef
    kind: str
    metric: str
    dimensions: int
    rows: int
    elapsed_ms: int


@valueclass(frozen=True, slots=True, kw_only=True)
class IndexExtended:
    """An index was extended by a delta: rows to search as well, and ids to leave out.

    `artifact` is the delta (`store.formats.index_delta`), `base` the index that it extends, `blocks` the block table of
    all `rows` found now. `kind`, `metric`, `dimensions` are those of the base, of `rows - added + dropped` rows.
    """

    key: str
    components: Document
    artifact: ArtifactRef
    base: ArtifactRef
    blocks: ArtifactRef
    kind: str
    metric: str
    dimensions: int
    rows: int
    added: int
    dropped: int
    elapsed_ms: int


@valueclass(frozen=True, slots=True, kw_only=True)
class StepReused:
    """Steps of one kind were not run, since the journal holds their results; `keys` maps subject to step key."""

    kind: str
    count: int
    keys: Document


@valueclass(frozen=True, slots=True, kw_only=True)
class CheckPassed:
    """A check on `subject` (a model, the index) with step key `key` passed, for the bytes of `artifact` alone."""

    check: str
    subject: str
    key: str
    artifact: str
    measured: Document


@valueclass(frozen=True, slots=True, kw_only=True)
class CheckFailed:
    """A check failed; the step result with this key must never be used again."""

    check: str
    subject: str
    key: str
    artifact: str
    measured: Document
    why: str


@valueclass(frozen=True, slots=True, kw_only=True)
class CoverageWalked:
    """Everything the manifest will name was found whole; `geography` is the geographic report.

    Of the tiles that the area wants, or, by the level that shows least, of its steps of ground: how many, how many
    are there, and in how many of these no place can be found. `skipped` are tiles without a descriptor.
    """

    files: int
    size: int
    unreferenced: int
    problems: tuple[str, ...]
    geography: ArtifactRef
    wanted: int
    present: int
    featureless: int
    skipped: int

    def localisable(self, *, chunks: bool) -> float | None:
        """Return the part of the area in which a place can be found, 0 to 1; None where nothing is wanted."""
        if not self.wanted:
            return None
        # The skipped tiles of chunks are no steps of ground.
        skipped = 0 if chunks else self.skipped
        return round((self.present - self.featureless - skipped) / self.wanted, 4)


@valueclass(frozen=True, slots=True, kw_only=True)
class BuildCommitted:
    """A generation was committed: the only commit point, for builds and for rollbacks.

    `format` is that of the manifest, which a later version must still be able to project.
    """

    format: int
    generation: int
    parent: int | None
    origin: int
    manifest_sha256: str
    body_sha256: str
    signature: str
    key_id: str


@valueclass(frozen=True, slots=True, kw_only=True)
class BuildFailed:
    """A build ended without a commit; holds everything needed to investigate."""

    step: str
    kind: str
    subject: str
    message: str
    hint: str
    traceback: str
    inputs: Document


@valueclass(frozen=True, slots=True, kw_only=True)
class BuildAbandoned:
    """A build's process died; appended by the next holder of the build lock. `step` is what the build was doing."""

    reason: str
    step: str
    host: Document


@valueclass(frozen=True, slots=True, kw_only=True)
class BuildRefused:
    """A build was refused, because its identity was rolled back from."""

    identity: str
    reason: str


@valueclass(frozen=True, slots=True, kw_only=True)
class BuildDenied:
    """A run did not start a build, because another process held the build lock; belongs to no build.

    `holder` is what the lock file said of the holder, `inputs` what the run wanted to build.
    """

    identity: str
    holder: Document
    waited_ms: int
    inputs: Document
    host: Document


Event: TypeAlias = (
    CacheCreated
    | BuildStarted
    | BuildPlanned
    | TilesSelected
    | StepStarted
    | StepRetried
    | EngineCompiled
    | CellEmbedded
    | TilesPacked
    | TilesCarried
    | IndexBuilt
    | IndexExtended
    | StepReused
    | CheckPassed
    | CheckFailed
    | CoverageWalked
    | BuildCommitted
    | BuildFailed
    | BuildAbandoned
    | BuildRefused
    | BuildDenied
    | RolledBack
    | GenerationAccepted
    | GenerationSigned
    | CollectionPlanned
    | Collected
    | Repaired
    | Imported
)

Index: TypeAlias = IndexBuilt | IndexExtended
"""The result of the index step of a build."""
