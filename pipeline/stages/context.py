"""One build in progress: what its stages share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.embed.batcher import DescriptorBatcher
from pipeline.embed.cells import Window
from pipeline.planning.area_report import AreaReport
from pipeline.planning.inputs import Inputs
from pipeline.ports import Ports
from store.base.values import ArtifactRef
from store.cache.writer import CacheWriter
from store.domain.events import EngineCompiled, Event, Repaired, StepReused

_GROUP_EVENTS = 64


@dataclass(slots=True, kw_only=True)
class BuildCounts:
    """What a run has done so far; `networks` names those that were compiled, for whatever device."""

    networks: set[str] = field(default_factory=set)
    embedded: int = 0
    reused: int = 0
    checked: int = 0


@dataclass(slots=True, kw_only=True)
class BuildContext:
    """One build in progress.

    Attributes:
        store: The cache, open for writing.
        inputs: What the build is defined by.
        ports: What does the work.
        batcher: Embeds tiles.
        number: The build's number.
        scratch: A folder for temporary files, outside of the cache.
        strict: Whether strangers in the cache's folders stop the build.
        engines: Model name to its engine, as far as the build has come.
        stand_in: What embeds tiles on behalf of a descriptor engine that does not run here.
        hashed: Digests of artifacts that were hashed in this run.
        step: What the build is doing, for the record of a failure.
        subject: What it is doing it to.
        counts: What it has done.
        windows: Number to window, of those that workers have and have not answered.
        geography: What became of the area's tiles, once somebody looked.
    """

    store: CacheWriter
    inputs: Inputs
    ports: Ports
    batcher: DescriptorBatcher
    number: int
    scratch: Path
    strict: bool
    engines: dict[str, EngineCompiled] = field(default_factory=dict)
    stand_in: EngineCompiled | None = None
    hashed: set[str] = field(default_factory=set)
    step: str = "start"
    subject: str = ""
    counts: BuildCounts = field(default_factory=BuildCounts)
    windows: dict[int, Window] = field(default_factory=dict)
    geography: AreaReport | None = None
    _pending: list[Event] = field(default_factory=list)

    @property
    def embedder(self) -> EngineCompiled:
        """The engine that embeds tiles in this build."""
        return self.stand_in or self.engines[self.inputs.descriptor.spec.name]

    def enter(self, step: str, subject: str = "") -> None:
        """Say what the build is doing now."""
        self.step, self.subject = step, subject

    def append(self, *events: Event) -> None:
        """Append events of this build in one durable transaction, after those that were put off.

        Repairs come last: the first event of a build must be its start, and that one may have repaired something.
        """
        everything = (*self._pending, *events, *self._repairs())
        self._pending = []
        if everything:
            self.store.append(*everything, build=self.number)

    def defer(self, event: Event) -> None:
        """Append an event together with others: with the next call of `append`, or as the 64th."""
        self._pending.append(event)
        if len(self._pending) >= _GROUP_EVENTS:
            self.append()

    def reuse(self, kind: str, keys: Mapping[str, str], *, count: int | None = None) -> None:
        """Record that results of steps are reused: as many as there are keys, unless `count` says otherwise."""
        number = len(keys) if count is None else count
        self.append(StepReused(kind=kind, count=number, keys=keys))
        self.counts.reused += number

    def put(self, data: bytes) -> ArtifactRef:
        """Store an artifact durably; its bytes were hashed on the way."""
        ref = self.store.artifacts.put(data)
        self.hashed.add(ref.sha256)
        return ref

    def drop_deferred(self) -> None:
        """Drop events that were put off; their artifacts stay as unreferenced files."""
        self._pending = []

    def _repairs(self) -> list[Event]:
        replaced, self.store.artifacts.replaced = self.store.artifacts.replaced, []
        return [
            Repaired(
                subject="artifact",
                sha256=digest,
                action="replaced by the step that made it",
                quarantine=where,
            )
            for digest, where in replaced
        ]
