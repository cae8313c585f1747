"""The result of running a step again, as values. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.tiles.retrieval_units import unit_name
from store.backports import StrEnum
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.domain.state import Build, RecordedEvent, State


class ArtifactReader(Protocol):
    """Reads the artifacts that lie with the records, if any."""

    def read(self, ref: ArtifactRef) -> bytes | None:
        """Return the verified bytes of an artifact, or None."""
        ...


@valueclass(frozen=True, slots=True, kw_only=True)
class BuildRecord:
    """What the records say of a build.

    Attributes:
        build: The folded build.
        history: The records of the journal up to its end.
        state: The folded records.
        artifacts: Reads the artifacts that lie with the records.
        own: Whether the records lie in the cache that they describe, so that its files are what the build
            made.
        trust_plugins: Whether libraries that its request names may be loaded; records never decide that
            themselves.
        listing: The command that lists the builds.
    """

    build: Build
    history: Sequence[RecordedEvent]
    state: State
    artifacts: ArtifactReader
    own: bool
    trust_plugins: bool = False
    listing: str = "c10 log"

    @property
    def own_history(self) -> tuple[RecordedEvent, ...]:
        """The records of this build alone."""
        return tuple(entry for entry in self.history if entry.build == self.build.number)


class RerunVerdict(StrEnum):
    """How the step ended this time."""

    REPRODUCED = "reproduced"
    FAILED_DIFFERENTLY = "failed-otherwise"
    PASSED = "passed"
    IMPOSSIBLE = "impossible"


class InputStatus(StrEnum):
    """Whether an input of the step is still available."""

    KEPT = "kept"
    SAME = "same"
    DIFFERS = "differs"
    GONE = "gone"


@valueclass(frozen=True, slots=True, kw_only=True)
class StepInput:
    """An input of the step.

    Attributes:
        role: Its name among the inputs of a failure.
        name: Its name for people.
        sha256: Its recorded digest, if there is one.
        status: "kept": its bytes lie with the records; "same": they were found where they were recorded;
            "differs": other bytes were found there; "gone": it cannot be read.
        found: The digest that was found instead, or why it cannot be read.
    """

    role: str
    name: str
    sha256: str | None
    status: InputStatus
    found: str = ""


@valueclass(frozen=True, slots=True, kw_only=True)
class StepFailure:
    """How a step failed: kind, subject and message, as a failed build records them."""

    kind: str
    subject: str
    message: str


@valueclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A digest or measured value, as recorded and as found now."""

    what: str
    recorded: str
    found: str


@valueclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A tried part of a window: number of tiles or chunks, the first and last, and how the worker ended."""

    tiles: int
    first: str
    last: str
    ended: str


@valueclass(frozen=True, slots=True, kw_only=True)
class UnitIdentity:
    """A tile or chunk: its descriptor id, and its digest as selected."""

    identifier: int
    sha256: str

    @property
    def name(self) -> str:
        """Its name: zoom/x/y of a tile, zoom/x/y/view of a chunk."""
        return unit_name(self.identifier)


@dataclass(slots=True, kw_only=True)
class Findings:
    """What was observed while a step ran again, whether it failed or not.

    Attributes:
        inputs: Its inputs and whether they are available.
        compared: Digests and measured values, then and now.
        tries: Parts of a window that were tried.
        culprit: The one tile or chunk that ends a worker.
        suspects: The smallest set of them that ended one, if no single one does.
        differences: What is different here from when the step was recorded.
        notes: Other remarks for a person.
    """

    inputs: list[StepInput] = field(default_factory=list)
    compared: list[Comparison] = field(default_factory=list)
    tries: list[Trial] = field(default_factory=list)
    culprit: UnitIdentity | None = None
    suspects: tuple[UnitIdentity, ...] = ()
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def compare(self, what: str, recorded: Mapping[str, object], found: Mapping[str, object]) -> None:
        """Add measured values of then and now, by name."""
        for name in sorted({*recorded, *found}):
            sides = (str(side[name]) if name in side else "" for side in (recorded, found))
            self.compared.append(Comparison(what=f"{what} {name}", recorded=next(sides), found=next(sides)))


@valueclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """A step that ran again.

    Attributes:
        verdict: How it ended this time.
        recorded: How it failed then.
        found: How it failed now; None if it did not, or could not run.
        why: Why it could not run, or why it may have passed.
    """

    step: str
    subject: str
    verdict: RerunVerdict
    recorded: StepFailure
    found: StepFailure | None
    why: str
    findings: Findings
