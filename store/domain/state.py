"""The state of a cache at one position of its journal: builds, generations, and results that may be reused. Pure.

Here are the values alone; `store.domain.fold` computes them from events.
"""

from collections.abc import Iterator
from dataclasses import field, replace

from store.backports import StrEnum
from store.base.canonical_json import Document
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef, Position
from store.domain import events as e
from store.domain import maintenance_events
from store.domain.events import Event
from store.domain.step_cache import StepCache
from store.errors import ErrorKind, UnknownEventError
from store.manifest.area import area_of
from store.manifest.roles import AREA

FLIGHT = "flight"
STAND_IN = "stand-in"
"""Purposes of an engine: to fly, or to embed on this machine in place of an engine for another device."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """An event of a newer version: it keeps its place, and this version cannot read it."""

    tag: str
    version: int


@valueclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """An event as it is recorded: `seq` from 1, `chain` the digest up to and including it, times in nanoseconds."""

    seq: int
    chain: str
    build: int | None
    wall_ns: int
    mono_ns: int
    event: Event | Unknown


class BuildStatus(StrEnum):
    """The status of a build."""

    OPEN = "open"
    COMMITTED = "committed"
    FAILED = "failed"
    ABANDONED = "abandoned"
    REFUSED = "refused"


@valueclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One build attempt and what it has produced so far.

    `tiles_embedded` counts digests that went through the network, also where these are of chunks.
    """

    number: int
    started_seq: int
    started_ns: int
    identity: str | None = None
    inputs: Document = field(default_factory=dict)
    host: Document = field(default_factory=dict)
    calibration: ArtifactRef | None = None
    status: BuildStatus = BuildStatus.OPEN
    ended_seq: int | None = None
    ended_ns: int | None = None
    plan: tuple[Document, ...] = ()
    tiles: e.TilesSelected | None = None
    engines: tuple[tuple[str, e.EngineCompiled], ...] = ()
    stand_ins: tuple[tuple[str, e.EngineCompiled], ...] = ()
    index: e.Index | None = None
    carried: e.TilesCarried | None = None
    proof: e.CheckPassed | None = None
    checks: tuple[e.CheckPassed, ...] = ()
    coverage: e.CoverageWalked | None = None
    cells_embedded: int = 0
    tiles_embedded: int = 0
    steps_reused: int = 0
    retries: int = 0
    doing: str = ""
    failure: e.BuildFailed | None = None
    ending: str = ""
    format: int = 0
    body_sha256: str = ""
    parent: int | None = None

    def stand_in_of(self, network: str) -> e.EngineCompiled | None:
        """Return what embedded in place of a network's engine, if something did."""
        models = self.inputs.get("models", ())
        if len(self.stand_ins) == 1 and sum(model["role"] == "descriptor" for model in models) <= 1:
            # It may carry an earlier name of its network.
            return self.stand_ins[0][1]
        return dict(self.stand_ins).get(network)

    @property
    def area(self) -> ArtifactRef | None:
        """The artifact of its area; None for a box."""
        return area_of(self.inputs)

    def given(self) -> Iterator[tuple[str, ArtifactRef]]:
        """Yield the role and artifact of what it was given as files and keeps: calibration and area."""
        for role, ref in (("calibration", self.calibration), (AREA, self.area)):
            if ref is not None:
                yield role, ref

    @property
    def embedded(self) -> dict[str, int]:
        """How many digests went through the network, as reports name them."""
        if "chunks" in self.inputs:
            return {"tiles_embedded": 0, "chunks_embedded": self.tiles_embedded}
        return {"tiles_embedded": self.tiles_embedded, "chunks_embedded": 0}


@valueclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One commit. `origin` is the build that it shows, `parent` the build that a rollback goes back to.

    `signatures` are pairs of key id and signature; `format` is that of the manifest.
    """

    number: int
    origin: int
    parent: int | None
    before: Position
    seq: int
    wall_ns: int
    manifest_sha256: str
    body_sha256: str
    format: int
    signatures: tuple[tuple[str, str], ...]
    rolled_back: maintenance_events.RolledBack | None


@valueclass(slots=True, kw_only=True)
class State:
    """The folded state. Treat it as a value: only `store.domain.fold` changes one, and only its own copy."""

    position: Position = field(default_factory=Position)
    cache_id: str = ""
    created_ns: int = 0
    builds: dict[int, Build] = field(default_factory=dict)
    generations: dict[int, Generation] = field(default_factory=dict)
    step_cache: StepCache = field(default_factory=StepCache)
    undone: dict[str, int] = field(default_factory=dict)
    accepted: frozenset[int] = frozenset()
    collected_generations: frozenset[int] = frozenset()
    open_build: int | None = None
    pending_rollback: maintenance_events.RolledBack | None = None
    unknown: tuple[str, ...] = ()
    denied: dict[int, e.BuildDenied] = field(default_factory=dict)

    @property
    def head(self) -> Generation | None:
        """The newest generation, if any."""
        return self.generations[len(self.generations)] if self.generations else None

    @property
    def head_build(self) -> Build | None:
        """The build that the head shows."""
        return self.builds[self.head.origin] if self.head else None

    def shown_at(self, seq: int) -> int | None:
        """Return the build that was shown before a record, if any."""
        before = [found.origin for found in self.generations.values() if found.seq < seq]
        return before[-1] if before else None

    @property
    def collected(self) -> frozenset[int]:
        """Builds that were committed and whose generations' files have all been collected, or are about to be."""
        shown = {
            found.origin
            for number, found in self.generations.items()
            if number not in self.collected_generations
        }
        return frozenset(self.generations[number].origin for number in self.collected_generations) - shown

    @property
    def next_build(self) -> int:
        """Number of the build to come."""
        return max(self.builds, default=0) + 1

    def require_known(self, so: str, hint: str = "use the newer C10 that wrote this cache") -> None:
        """Refuse a journal with events of a newer version; `so` says what follows from them.

        Raises:
            UnknownEventError: There are such events.
        """
        if self.unknown:
            raise UnknownEventError(
                f"expected events this version knows, found {self.unknown[0]}; {so}",
                kind=ErrorKind.UNKNOWN_EVENT,
                hint=hint,
            )

    def copy(self) -> "State":
        """Return a state that shares nothing mutable with this one."""
        return replace(
            self,
            builds=dict(self.builds),
            generations=dict(self.generations),
            step_cache=self.step_cache.copy(),
            undone=dict(self.undone),
            denied=dict(self.denied),
        )


def checks_of(state: State, build: Build) -> tuple[e.CheckPassed, ...]:
    """Return the passed checks of the very bytes that `build` shows or embedded with, by check and subject."""
    shown = {(event.key, event.artifact.sha256) for _, event in (*build.engines, *build.stand_ins)}
    if build.index is not None:
        shown.add((build.index.key, build.index.artifact.sha256))
    if build.proof is not None:
        shown.add((build.proof.key, build.proof.artifact))
    return state.step_cache.checks_of(shown)
