"""Reports of a build, a plan and a rollback."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pipeline.planning.area_report import AreaReport
from pipeline.planning.inputs import Inputs
from pipeline.planning.plan import BuildPlan
from store.backports import StrEnum
from store.base.cache_warning import CacheWarning
from store.domain.events import CoverageWalked
from store.errors import Category
from store.trust.readiness_facts import AreaCounts


class BuildOutcome(StrEnum):
    """How a build ended."""

    BUILT = "built"
    REUSED = "reused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a build failed: a stable kind, step and subject, what was expected and found, and how to fix it.

    `category` decides the exit code. It is not recorded in the journal.
    """

    kind: str
    category: Category
    step: str
    message: str
    hint: str
    subject: str = ""

    def to_document(self) -> dict[str, Any]:
        """Return the `error` map of the JSON report."""
        return {"kind": self.kind, "step": self.step, "message": self.message, "hint": self.hint}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """The result of one build.

    Attributes:
        outcome: How it ended.
        build: Its number; for `reused`, the build that the head shows; None if it was never recorded.
        generation: The generation that it made or reused.
        identity: Its identity, if its inputs could be read.
        manifest_sha256: Digest of the manifest file of `generation`.
        body_sha256: Digest of that manifest's body.
        tiles: Tiles selected.
        wanted: Tiles that the area wants.
        area: What was found in the area, if the build came that far.
        engines_compiled: Networks compiled in this run; one that was compiled for two devices counts once.
        tiles_embedded: Tile digests that went through the network in this run; 0 where chunks do.
        chunks: Chunks of ground, for all levels; 0 where the tiles get the descriptors.
        chunks_embedded: Chunk digests that went through the network in this run.
        chunks_copied: Chunks whose descriptor was made before, or for another chunk.
        steps_reused: Engines, cells and indexes taken from the journal.
        files_checked: Files whose presence, size or digest was verified.
        writes: Files created or enlarged in the cache plus transactions that changed the journal; folders and
            lock files do not count.
        seconds: Wall time.
        error: Why it failed.
        warnings: Warnings for a person.
    """

    outcome: BuildOutcome
    build: int | None = None
    generation: int | None = None
    identity: str | None = None
    manifest_sha256: str | None = None
    body_sha256: str | None = None
    tiles: int = 0
    wanted: int = 0
    area: CoverageWalked | None = None
    engines_compiled: int = 0
    tiles_embedded: int = 0
    chunks: int = 0
    chunks_embedded: int = 0
    chunks_copied: int = 0
    steps_reused: int = 0
    files_checked: int = 0
    writes: int = 0
    seconds: float = 0.0
    error: Failure | None = None
    warnings: tuple[CacheWarning, ...] = ()

    @property
    def holes(self) -> int | None:
        """Wanted tiles that are missing, or steps of ground that no chunk shows; None if that is not known."""
        if self.chunks == 0:
            return self.wanted - self.tiles
        return self.area.wanted - self.area.present if self.area else None

    def to_document(self) -> dict[str, Any]:
        """Return the JSON report."""
        document = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "area"}
        return {
            **document,
            "outcome": str(self.outcome),
            "seconds": round(self.seconds, 3),
            "error": self.error.to_document() if self.error else None,
            "warnings": [each.to_document() for each in self.warnings],
            "missing": self.wanted - self.tiles,
            "holes": self.holes,
            "localisable": self.area.localisable(chunks=bool(self.chunks)) if self.area else None,
            "featureless": self.area.featureless if self.area else None,
            "skipped": self.area.skipped if self.area else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """What a build would do.

    Attributes:
        identity: Identity of the build.
        decision: "build", or "reused" if there is nothing to do.
        steps: Maps of kind, subject, decision, why and count.
        tiles: Tiles selected.
        wanted: Tiles that the area wants.
        to_embed: Digests of tiles or chunks that will go through the network.
        chunks: Chunks of ground, for all levels; 0 where the tiles get the descriptors.
        levels: The levels of chunks (`ChosenLevel.to_document`).
        seconds: How long the steps that run will take; None if that of one is not known.
        time: Of each of them, how long, and from what that follows (`StepTime.to_document`).
        bytes: Bytes to write, at most, with what a new cache sets aside.
        reserve_bytes: Of these the disk reserve of a new cache, which lets a failure be recorded on a full disk.
        proof: The photographs that must be found, as the request asks for them, and whether the answers of an
            earlier build hold; None if none must.
        warnings: Warnings for a person.
    """

    identity: str
    decision: str
    steps: tuple[Mapping[str, Any], ...]
    tiles: int
    wanted: int
    to_embed: int
    chunks: int = 0
    levels: tuple[Mapping[str, Any], ...] = ()
    seconds: float | None = None
    time: tuple[Mapping[str, Any], ...] = ()
    bytes: int = 0
    reserve_bytes: int = 0
    proof: Mapping[str, Any] | None = None
    warnings: tuple[CacheWarning, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """Return the JSON report."""
        document = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            **document,
            "steps": [dict(step) for step in self.steps],
            "time": [dict(step) for step in self.time],
            "levels": [dict(level) for level in self.levels],
            "warnings": [each.to_document() for each in self.warnings],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a build would make: of its inputs, by its plan, in its area as it is before anything is embedded."""

    inputs: Inputs
    plan: BuildPlan
    area: AreaReport


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackReport:
    """The result of a rollback; `changed` is false if the target was shown already.

    `forward` has generation and build of what a rollback to it shows again, by rising build.
    """

    generation: int
    origin: int
    previous_origin: int
    changed: bool
    manifest_sha256: str
    body_sha256: str
    forward: tuple[tuple[int, int], ...] = ()
    warnings: tuple[CacheWarning, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """Return the JSON report."""
        return {
            "generation": self.generation,
            "build": self.origin,
            "previous_build": self.previous_origin,
            "changed": self.changed,
            "manifest_sha256": self.manifest_sha256,
            "body_sha256": self.body_sha256,
            "forward": [{"generation": generation, "build": build} for generation, build in self.forward],
            "warnings": [each.to_document() for each in self.warnings],
        }


def counts_of(area: CoverageWalked | None) -> AreaCounts | None:
    """Return what is there of an area that was walked."""
    if area is None:
        return None
    return AreaCounts(
        wanted=area.wanted, present=area.present, featureless=area.featureless, skipped=area.skipped
    )
