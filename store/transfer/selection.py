"""Select the artifacts that a bundle carries. Pure.

A fact names every stored artifact before anything uses it, so the facts alone say which artifacts a bundle
may hold. To analyse a failure and run its step again, another machine needs what was attached to the failure,
tables and reports for the map, and, depending on the step, engines, index and blocks.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields

from store.base.identity import spaces_of_index
from store.base.values import ArtifactRef
from store.domain.attachments import artifacts_of, attached, attached_to_failure
from store.domain.events import (
    BuildFailed,
    BuildStarted,
    CellEmbedded,
    CheckFailed,
    CheckPassed,
    EngineCompiled,
)
from store.domain.index_files import refs_of
from store.domain.maintenance_events import CollectionPlanned, Imported
from store.domain.proof import answers_of, is_proof
from store.domain.state import Build, RecordedEvent, State, Unknown
from store.manifest.area import area_of
from store.manifest.roles import AREA

_WITH_ENGINES = frozenset({"cells", "check", "engine", "stand-in"})
_WITH_INDEX = frozenset({"index", "coverage", "commit"})


def artifacts_named(facts: Iterable[RecordedEvent]) -> dict[str, ArtifactRef]:
    """Return digest to reference of every artifact that facts name, still needed or not.

    Raises:
        DamagedHistoryError: What is attached to an engine is no map of references.
    """
    return {ref.sha256: ref for fact in facts for ref in _refs_of(fact)}


def digests_collected(facts: Iterable[RecordedEvent]) -> frozenset[str]:
    """Return the digests that garbage collections have removed."""
    plans = (fact.event for fact in facts if isinstance(fact.event, CollectionPlanned))
    return frozenset(digest for plan in plans for digest in plan.digests)


def artifacts_expected(facts: Sequence[RecordedEvent]) -> dict[str, ArtifactRef]:
    """Return digest to reference of the artifacts that a cache with these facts has, unless some got lost.

    The same facts give the same answer everywhere: what `c10 have` prints counts on that.
    """
    collected = digests_collected(facts)
    return {digest: ref for digest, ref in artifacts_named(facts).items() if digest not in collected}


def artifacts_of_failing_step(
    state: State, number: int, facts: Iterable[RecordedEvent]
) -> dict[str, ArtifactRef]:
    """Return digest to reference of what the failing step of a build worked on.

    Args:
        state: The state at the end of that build.
        number: The build; if it was committed, its last step counts.
        facts: The events of the journal, up to there.
    """
    build = state.builds[number]
    shown = state.shown_at(build.started_seq)
    refs = [*_tables(build), *_of_step(state, build, facts)]
    if shown is not None:
        # A failed build is compared with the last good one.
        refs += _tables(state.builds[shown])
    return {ref.sha256: ref for ref in refs}


def last_step(build: Build) -> tuple[str, str]:
    """Return kind and subject of the step that a build failed at, or was last at."""
    if build.failure is not None:
        return build.failure.step, build.failure.subject
    kind, _, subject = build.doing.partition(" ")
    return kind, subject


def _of_step(state: State, build: Build, facts: Iterable[RecordedEvent]) -> Iterator[ArtifactRef]:
    step, subject = last_step(build)
    if build.failure is not None:
        yield from attached_to_failure(build.failure).values()
    if step in _WITH_ENGINES and subject != "index":
        for _, engine in (*build.engines, *build.stand_ins):
            yield from artifacts_of(engine)
    if step in _WITH_INDEX or subject == "index":
        if build.index is not None:
            yield from refs_of(build.index)
        for space in _spaces(build, facts):
            yield from (event.block for event in state.step_cache.blocks_in(space))


def _spaces(build: Build, facts: Iterable[RecordedEvent]) -> set[str]:
    spaces = {
        fact.event.space
        for fact in facts
        if fact.build == build.number and isinstance(fact.event, CellEmbedded)
    }
    if build.index is not None:
        spaces.update(spaces_of_index(build.index.components))
    return spaces


def _tables(build: Build) -> Iterator[ArtifactRef]:
    yield from (ref for _, ref in build.given())
    if build.tiles is not None:
        yield build.tiles.table
    if build.coverage is not None:
        yield build.coverage.geography
    if build.proof is not None:
        yield answers_of(build.proof)


def _refs_of(fact: RecordedEvent) -> Iterator[ArtifactRef]:
    event = fact.event
    if isinstance(event, Unknown | Imported):
        # The event names the bundle itself, which is no artifact of the cache.
        return
    for each in fields(event):
        value: object = getattr(event, each.name)
        if isinstance(value, ArtifactRef):
            yield value
    more: Mapping[str, ArtifactRef] = {}
    if isinstance(event, BuildStarted):
        area = area_of(event.inputs)
        more = {} if area is None else {AREA: area}
    elif isinstance(event, EngineCompiled):
        more = attached(event)
    elif isinstance(event, BuildFailed):
        more = attached_to_failure(event)
    elif isinstance(event, CheckPassed | CheckFailed) and is_proof(event):
        more = {event.check: answers_of(event)}
    yield from more.values()
