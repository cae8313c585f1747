"""What running a step again shows, as values. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from pipeline.tiles.tile import Place
from store.base.values import ArtifactRef
from store.domain.state import Build, RecordedEvent, State


class ArtifactReader(Protocol):
    """The artifacts that can be read beside the records, if any."""

    def read(self, ref: ArtifactRef) -> bytes | None:
        """Return the bytes of an artifact after checking them, or nothing."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRecord:
    """What is known of a build.

    Attributes:
        build: What it folds to.
        facts: The records of the journal up to its end.
        state: What they fold to.
        holdings: Where artifacts may be read.
        own: Whether the records lie beside the cache that they tell of, whose files are then what the build made.
        trust_plugins: Whether libraries that its request names may be loaded; records never decide that themselves.
        listing: The command that shows which builds there are.
    """

    build: Build
    facts: Sequence[RecordedEvent]
    state: State
    holdings: ArtifactReader
    own: bool
    trust_plugins: bool = False
    listing: str = "c10 log"


class RerunVerdict(StrEnum):
    """What became of the step."""

    REPRODUCED = "reproduced"
    FAILED_DIFFERENTLY = "failed-otherwise"
    PASSED = "passed"
    IMPOSSIBLE = "impossible"


class InputStatus(StrEnum):
    """How an input of the step stands today."""

    KEPT = "kept"
    SAME = "same"
    DIFFERS = "differs"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInput:
    """An input: what it is, its digest as recorded, and how it stands.

    Attributes:
        role: As in the inputs of a failure.
        name: What a person calls it.
        sha256: As recorded, if it was.
        standing: "kept": its bytes lie beside the records; "same": they were found where they were recorded; "differs"
            and "gone" speak for themselves.
        found: Digest that was found instead, or why it cannot be read.
    """

    role: str
    name: str
    sha256: str | None
    standing: InputStatus
    found: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailure:
    """How a step failed: kind, subject and message, as a failed build records them."""

    kind: str
    subject: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A digest or measure, as recorded and as found now."""

    what: str
    recorded: str
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One portion of a window that a worker was given: how many tiles, the first and last, and how it ended."""

    tiles: int
    first: str
    last: str
    ended: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TileIdentity:
    """A tile of a window: its place and its digest as selected."""

    place: Place
    sha256: str


@dataclass(slots=True, kw_only=True)
class Findings:
    """What a step leaves behind while it is run again, whether it fails or not.

    Attributes:
        inputs: What it needed, and how that stands.
        compared: Digests and measures.
        tries: Portions of a window.
        culprit: The one tile that ends a worker.
        suspects: The smallest set of tiles that was seen to end one, where none does it alone.
        differences: What here is another than when it was recorded.
        notes: What else a person should know.
    """

    inputs: list[StepInput] = field(default_factory=list)
    compared: list[Comparison] = field(default_factory=list)
    tries: list[Trial] = field(default_factory=list)
    culprit: TileIdentity | None = None
    suspects: tuple[TileIdentity, ...] = ()
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def compare(self, what: str, recorded: Mapping[str, object], found: Mapping[str, object]) -> None:
        """Note measures side by side, by name."""
        for name in sorted({*recorded, *found}):
            sides = (str(side[name]) if name in side else "" for side in (recorded, found))
            self.compared.append(Comparison(what=f"{what} {name}", recorded=next(sides), found=next(sides)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """A step that was run again.

    Attributes:
        step: Its kind.
        subject: Its subject.
        verdict: What became of it.
        recorded: How it failed then.
        found: How it failed now; nothing if it did not, or could not be run.
        why: Why it could not be run, or why it is no surprise that it passed.
        findings: All that was seen on the way.
    """

    step: str
    subject: str
    verdict: RerunVerdict
    recorded: StepFailure
    found: StepFailure | None
    why: str
    findings: Findings
