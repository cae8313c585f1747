"""How long the steps of a build will take, from what such steps took on this machine before. Pure.

Only builds of the same machine count, and of them only steps like the one that is planned: for an engine the
same network, backend, precision and device; for embedding the same vector space with as many workers; for an
index the same kind and length of vectors. Where there was none, nothing is said, and why not.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pipeline.engines.models.model import Model
from pipeline.index.plan import IndexPlan
from pipeline.planning.inputs import Inputs
from pipeline.planning.plan import BuildPlan, Decision
from store.base.canonical_json import Document
from store.base.valueclass import valueclass
from store.domain.events import (
    BuildStarted,
    CellEmbedded,
    EngineCompiled,
    IndexBuilt,
    StepStarted,
    TilesCarried,
    TilesPacked,
)
from store.domain.state import RecordedEvent

EXECUTOR: Final = "embeds_with"
"""Name of the fact of a build's host that says with what and how many workers it embeds."""

MEASURED: Final = "measured now"
COMPILE, STAND_IN, EMBED, INDEX, CARRY = "compile", "stand-in", "embed", "index", "carry"

_SAME_MACHINE: Final = ("host", "machine", "processor", "processors")
_SAME_ENGINE: Final = ("onnx", "backend", "precision", "target")
_COMPARABLE: Final = 4
"""How many times the work of an earlier step may be planned: most of the time of a few tiles is the start."""


@valueclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """How long a step that runs will take.

    Attributes:
        step: "compile", "stand-in" (compiled to embed here for another device), "embed", "index" or "carry".
        subject: The network, if it is about one.
        seconds: None if that is not known.
        basis: From what it follows: "build 3" or "measured now"; empty if it is not known.
        why: Why it is not known.
    """

    step: str
    subject: str = ""
    seconds: float | None = None
    basis: str = ""
    why: str = ""

    def to_document(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "step": self.step,
            "subject": self.subject,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "basis": self.basis or None,
            "why": self.why or None,
        }


class IndexToWrite(NamedTuple):
    """An index that will be written: its options, its rows, and the length of its vectors."""

    plan: IndexPlan
    rows: int
    dimensions: int


@valueclass(frozen=True, slots=True, kw_only=True)
class PlannedWork:
    """The work of a build.

    Attributes:
        inputs: What the build is defined by.
        plan: Which steps run.
        to_embed: How many digests go through the network, by vector space.
        index: The index that will be written; None if none will.
    """

    inputs: Inputs
    plan: BuildPlan
    to_embed: Mapping[str, int]
    index: IndexToWrite | None


class Took(NamedTuple):
    """Work that was done here: units of it, seconds, and the build; None outside of a build."""

    work: int
    seconds: float
    build: int | None

    @property
    def basis(self) -> str:
        """Where it is recorded, for people."""
        return "c10 engines" if self.build is None else f"build {self.build}"


@dataclass(slots=True)
class RecordedTimes:
    """What steps took on one machine, oldest first.

    Attributes:
        engines: By network, backend, precision and target.
        spaces: Embedding, by vector space and what embedded.
        indexes: Writing of an index, by its kind and the length of its vectors.
        packs: Packing of tiles; its work is bytes.
    """

    engines: dict[tuple[str, ...], list[Took]] = field(default_factory=dict)
    spaces: dict[tuple[str, str], list[Took]] = field(default_factory=dict)
    indexes: dict[tuple[str, int], list[Took]] = field(default_factory=dict)
    packs: list[Took] = field(default_factory=list)


def recorded_times(facts: Iterable[RecordedEvent], here: Mapping[str, object]) -> RecordedTimes:
    """Return what steps took on the machine with these facts, `here`."""
    found = RecordedTimes()
    hosts: dict[int | None, Document] = {}
    for build, events in _by_build(facts).items():
        for entry in events:
            match entry.event:
                case BuildStarted(host=host):
                    hosts[build] = host
                case EngineCompiled() as made if _is_here(made.host or hosts.get(build, {}), here):
                    took = Took(1, made.elapsed_ms / 1e3, build)
                    found.engines.setdefault(_engine_name(made.components), []).append(took)
                case IndexBuilt() as made if _is_here(hosts.get(build, {}), here):
                    took = Took(made.rows, made.elapsed_ms / 1e3, build)
                    found.indexes.setdefault((made.kind, made.dimensions), []).append(took)
                case _:
                    continue
        if build is not None and _is_here(hosts.get(build, {}), here):
            _add_spans(found, events, build, str(hosts[build].get(EXECUTOR)))
    return found


def _by_build(facts: Iterable[RecordedEvent]) -> dict[int | None, list[RecordedEvent]]:
    found: dict[int | None, list[RecordedEvent]] = {}
    for entry in facts:
        found.setdefault(entry.build, []).append(entry)
    return found


def _is_here(host: Document, here: Mapping[str, object]) -> bool:
    """Whether a build ran on this machine, as far as its facts tell."""
    return all(name in host and host[name] == here.get(name) for name in _SAME_MACHINE)


def _engine_name(components: Document) -> tuple[str, ...]:
    return tuple(str(components[name]) for name in _SAME_ENGINE)


def _add_spans(found: RecordedTimes, events: Iterable[RecordedEvent], build: int, executor: str) -> None:
    """Add the steps of a build whose work is in several records."""
    began: dict[str, int] = {}
    spaces: dict[str, Took] = {}
    packed = 0
    for entry in events:
        match entry.event:
            case StepStarted(kind="cells", key=space):
                began.setdefault(space, entry.mono_ns)
            case StepStarted(kind="packs"):
                began["packs"] = entry.mono_ns
            case CellEmbedded(space=space) as made if space in began:
                work = made.embedded + (spaces[space].work if space in spaces else 0)
                spaces[space] = Took(work, (entry.mono_ns - began[space]) / 1e9, build)
            case TilesPacked() as made:
                packed += made.pack.size
            case TilesCarried() if "packs" in began:
                found.packs.append(Took(packed, (entry.mono_ns - began["packs"]) / 1e9, build))
            case _:
                continue
    for space, took in spaces.items():
        found.spaces.setdefault((space, executor), []).append(took)


def planned_times(work: PlannedWork, times: RecordedTimes, here: Mapping[str, object]) -> Iterator[StepTime]:
    """Yield how long each step takes that runs, in their order; `here` are the facts of this machine."""
    plan, executor = work.plan, str(here.get(EXECUTOR))
    for step, engines in ((COMPILE, plan.engines), (STAND_IN, plan.stand_ins)):
        for each in engines:
            if each.decision is Decision.RUN:
                took = times.engines.get(_engine_name(each.model.components), ())
                yield _scaled(step, 1, took, each.model)
    for model in work.inputs.descriptors:
        number = work.to_embed.get(model.space, 0)
        if number:
            yield _scaled(EMBED, number, times.spaces.get((model.space, executor), ()), model)
    if work.index is not None:
        index = work.index
        yield _scaled(INDEX, index.rows, times.indexes.get((str(index.plan.kind), index.dimensions), ()))
    size = sum(each.size for each in plan.packs if each.decision is Decision.RUN)
    if size:
        yield _scaled(CARRY, size, times.packs)


def _scaled(step: str, work: int, earlier: Iterable[Took], model: Model | None = None) -> StepTime:
    """Return the time of some work from the last earlier step that is comparable."""
    subject = "" if model is None else model.spec.name
    known = [took for took in earlier if took.work > 0]
    if not known:
        return StepTime(step=step, subject=subject, why="there was none like it on this machine")
    comparable = [took for took in known if took.work * _COMPARABLE >= work]
    if not comparable:
        most = max(took.work for took in known)
        return StepTime(
            step=step, subject=subject, why=f"the largest one on this machine had {most:,} of {work:,}"
        )
    last = comparable[-1]
    # A little work takes at least as long as the start: starting workers, loading an engine.
    seconds = max(last.seconds / last.work * work, min(took.seconds for took in known))
    return StepTime(step=step, subject=subject, seconds=seconds, basis=last.basis)


def whole_time(times: Iterable[StepTime]) -> float | None:
    """Return how long all steps take; None if that of one is not known."""
    seconds = [each.seconds for each in times]
    known = [each for each in seconds if each is not None]
    return round(sum(known), 1) if len(known) == len(seconds) else None
