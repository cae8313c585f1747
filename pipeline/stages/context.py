"""The state of one running build, which its stages share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.embed.batcher import DescriptorBatcher
from pipeline.embed.cells import Window
from pipeline.engines.models.model import Model
from pipeline.planning.area_report import AreaReport
from pipeline.planning.inputs import Inputs
from pipeline.ports import Ports
from pipeline.stages.survey import SurveyedRows
from store.base.cache_warning import CacheWarning
from store.base.values import ArtifactRef
from store.cache.writer import CacheWriter
from store.domain.events import EngineCompiled, Event, StepReused
from store.domain.maintenance_events import Repaired
from store.policy.vouching import Ranges
from store.trust.signatures import TrustedKey

_GROUP_EVENTS = 64
_DAMAGED_SHOWN = 8


@dataclass(slots=True, kw_only=True)
class BuildCounts:
    """What a build has done so far; `networks` names those that were compiled, for any device."""

    networks: set[str] = field(default_factory=set)
    embedded: int = 0
    copied: int = 0
    reused: int = 0
    checked: int = 0


@dataclass(slots=True, kw_only=True)
class BuildContext:
    """One running build.

    Attributes:
        scratch: A folder for temporary files, outside of the cache.
        strict: Whether foreign files in the cache's folders stop the build.
        refuses_warnings: Whether a warning stops the build before its commit.
        keys: Keys whose builds' results may be reused; without any, all results may be.
        own_records: Records whose results may be reused as well, since this machine appended them with its key.
        own_records_now: Returns them as another process of this machine has added to them since.
        engines: Model name to its engine, of those that exist so far.
        stand_ins: Model name to what embeds in place of a descriptor engine that does not run here.
        embedding: Name of the network that embeds now.
        hashed: Digests of artifacts that this build has hashed.
        step: The current step, recorded if it fails.
        subject: What the step works on.
        machine_warnings: What the settings of this machine give rise to.
        damaged: Digests of artifacts that were to be reused and have other bytes than when they were stored.
        withdrawn: What is made again because no key of this builder vouches for it, and why, for people.
        windows: Number to window, of those that workers have not answered yet.
        surveyed: What the report of the area needs of the blocks, if the check of the index read them all.
        geography: The report of the area, once it was made.
        proof: The answers for photographs, once they were asked for.
    """

    store: CacheWriter
    inputs: Inputs
    ports: Ports
    batcher: DescriptorBatcher
    number: int
    scratch: Path
    strict: bool
    refuses_warnings: bool = False
    machine_warnings: tuple[CacheWarning, ...] = ()
    keys: tuple[TrustedKey, ...] = ()
    own_records: Ranges = ()
    own_records_now: Callable[[], Ranges] = tuple
    engines: dict[str, EngineCompiled] = field(default_factory=dict)
    stand_ins: dict[str, EngineCompiled] = field(default_factory=dict)
    embedding: str = ""
    hashed: set[str] = field(default_factory=set)
    damaged: list[str] = field(default_factory=list)
    withdrawn: str = ""
    step: str = "start"
    subject: str = ""
    counts: BuildCounts = field(default_factory=BuildCounts)
    windows: dict[int, Window] = field(default_factory=dict)
    surveyed: SurveyedRows | None = None
    geography: AreaReport | None = None
    proof: bytes | None = None
    _deferred: list[Event] = field(default_factory=list)

    @property
    def warnings(self) -> tuple[CacheWarning, ...]:
        """The warnings about what the build began with, but for its readiness."""
        found = [*self.inputs.warnings, *self.machine_warnings]
        if self.damaged:
            names = ", ".join(digest[:12] for digest in self.damaged[:_DAMAGED_SHOWN])
            more = len(self.damaged) - _DAMAGED_SHOWN
            names += f" and {more} more" if more > 0 else ""
            found.append(
                CacheWarning(
                    kind="damaged-artifacts",
                    message=f"artifacts of earlier builds were damaged and are made again: {names}",
                    hint="c10 verify --full looks at the others",
                )
            )
        if self.withdrawn:
            found.append(
                CacheWarning(
                    kind="unvouched",
                    message=f"no key of this builder vouches for what is made again: {self.withdrawn}",
                )
            )
        return tuple(found)

    def embedder(self, model: Model) -> EngineCompiled:
        """Return the engine that embeds with a network in this build."""
        return self.stand_ins.get(model.spec.name) or self.engines[model.spec.name]

    def enter(self, step: str, subject: str = "") -> None:
        """Set the current step and its subject."""
        self.step, self.subject = step, subject

    def append(self, *events: Event) -> None:
        """Append events of this build in one durable transaction, after the deferred ones.

        Repairs come last, since a build's first event must be its start, and starting may already repair
        something.
        """
        ordered = (*self._deferred, *events, *self._repairs())
        self._deferred = []
        if ordered:
            self.store.append(*ordered, build=self.number)

    def defer(self, event: Event) -> None:
        """Append an event later, in one transaction with others: at the next `append`, or when 64 wait."""
        self._deferred.append(event)
        if len(self._deferred) >= _GROUP_EVENTS:
            self.append()

    def reuse(self, kind: str, keys: Mapping[str, str], *, count: int | None = None) -> None:
        """Record that results of steps are reused: `count` of them, by default one for each key."""
        number = len(keys) if count is None else count
        self.append(StepReused(kind=kind, count=number, keys=keys))
        self.counts.reused += number

    def put(self, data: bytes) -> ArtifactRef:
        """Store an artifact durably."""
        ref = self.store.artifacts.put(data)
        self.hashed.add(ref.sha256)
        return ref

    def drop_deferred(self) -> None:
        """Drop the deferred events; their artifacts stay as unreferenced files."""
        self._deferred = []

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
