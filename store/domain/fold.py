"""State from events: `evolve` applies one, `fold` many. It also decides which event may follow which.

It is pure: the same events give the same state on any machine, at any time; nothing here reads a clock, a file or the
environment. `evolve` never changes the state it is given. `fold` works on a private copy, so that folding a million
events does not copy a million maps. An event that no C10 could have recorded in this place is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from store.base.valueclass import valueclass
from store.base.values import Position
from store.domain import events as e
from store.domain import maintenance_events
from store.domain.events import Event
from store.domain.proof import PROOF, answers_of, figures_of, is_proof
from store.domain.state import (
    FLIGHT,
    STAND_IN,
    Build,
    BuildStatus,
    Generation,
    RecordedEvent,
    State,
    Unknown,
    checks_of,
)
from store.domain.step_cache import RecordedBy
from store.errors import DamagedHistoryError, ErrorKind
from store.manifest.file_names import MAX_SIGNATURES

_PURPOSES: Mapping[str, str] = {"engine": FLIGHT, "stand-in": STAND_IN}
"""Kind of a step that was reused, to what its engine is for."""


def evolve(state: State, fact: RecordedEvent) -> State:
    """Return the state after `fact`; leave `state` as it was.

    Raises:
        DamagedHistoryError: No C10 could have recorded this event in this state.
    """
    return fold((fact,), state)


def fold(facts: Iterable[RecordedEvent], start: State | None = None) -> State:
    """Return the state after all events, from nothing or from `start`.

    Raises:
        DamagedHistoryError: No C10 could have recorded these events in this order.
    """
    state = start.copy() if start is not None else State()
    fold_into(state, facts)
    return state


def fold_into(state: State, facts: Iterable[RecordedEvent]) -> None:
    """Fold events into a state that the caller owns, in place.

    Raises:
        DamagedHistoryError: No C10 could have recorded these events in this order.
    """
    run = _CellCounts()
    try:
        for fact in facts:
            event = fact.event
            if (
                type(event) is e.CellEmbedded
                and fact.build is not None
                and fact.build == state.open_build
                and fact.seq == state.position.seq + 1
            ):
                # Nearly all events are these: counts are added to the build once for a run of them.
                state.step_cache.record_result(event, RecordedBy(fact.seq, fact.build))
                state.position = Position(fact.seq, fact.chain)
                run.cells += 1
                run.tiles += event.embedded
            else:
                run.end(state)
                _apply(state, fact)
    finally:
        run.end(state)


@valueclass(slots=True)
class _CellCounts:
    """Counts of consecutive embedded cells of the open build."""

    cells: int = 0
    tiles: int = 0

    def end(self, state: State) -> None:
        """Add the counts to the build."""
        if self.cells and state.open_build is not None:
            build = state.builds[state.open_build]
            state.builds[state.open_build] = replace(
                build,
                coverage=None,
                cells_embedded=build.cells_embedded + self.cells,
                tiles_embedded=build.tiles_embedded + self.tiles,
            )
        self.cells = self.tiles = 0


def _apply(state: State, fact: RecordedEvent) -> None:
    if fact.seq != state.position.seq + 1:
        raise _impossible(fact, f"expected seq {state.position.seq + 1}")
    event = fact.event
    if not state.cache_id and not isinstance(event, e.CacheCreated):
        raise _impossible(fact, "expected the genesis event first")
    if state.pending_rollback is not None and not isinstance(event, e.BuildCommitted | Unknown):
        raise _impossible(fact, "a rollback was not followed by its commit")
    if isinstance(event, Unknown):
        state.unknown = (*state.unknown, f"{event.tag} v{event.version}")
    else:
        try:
            if fact.build is None:
                _apply_to_cache(state, fact, event)
            else:
                _apply_to_build(state, fact, fact.build, event)
        except DamagedHistoryError:
            # An event may depend on an unknown one before it; forensics read on.
            if not state.unknown:
                raise
    state.position = Position(fact.seq, fact.chain)


def _apply_to_cache(state: State, fact: RecordedEvent, event: Event) -> None:
    match event:
        case e.CacheCreated(cache_id=cache_id):
            if state.cache_id:
                raise _impossible(fact, "the cache was created twice")
            state.cache_id, state.created_ns = cache_id, fact.wall_ns
        case e.EngineCompiled() | e.IndexBuilt() | e.IndexExtended() | e.CellEmbedded() | e.TilesPacked():
            state.step_cache.record_result(event, RecordedBy(fact.seq, None))
        case e.CheckPassed() | e.CheckFailed():
            state.step_cache.record_check(event)
        case maintenance_events.RolledBack():
            state.pending_rollback = event
        case e.BuildDenied():
            state.denied[fact.seq] = event
        case e.StepStarted() | maintenance_events.Repaired() | maintenance_events.Imported():
            pass
        case _:
            _apply_to_generation(state, fact, event)


def _apply_to_generation(state: State, fact: RecordedEvent, event: Event) -> None:
    """Apply an event about generations after their commit."""
    match event:
        case maintenance_events.GenerationAccepted(generation=number):
            _require_generation(state, fact, number)
            if number in state.collected_generations:
                raise _impossible(fact, f"generation {number} was accepted after it had been collected")
            state.accepted |= {number}
        case maintenance_events.GenerationSigned(generation=number, key_id=key_id, signature=signature):
            generation = _require_generation(state, fact, number)
            if number in state.collected_generations or len(generation.signatures) == MAX_SIGNATURES:
                raise _impossible(fact, f"generation {number} took no more signatures")
            signatures = (*generation.signatures, (key_id, signature))
            state.generations[number] = replace(generation, signatures=signatures)
        case maintenance_events.CollectionPlanned(digests=digests, generations=numbers):
            # From the plan on, not from the result: a process that died in between has begun to remove.
            _collect_generations(state, fact, frozenset(numbers))
            state.step_cache.evict(frozenset(digests))
        case maintenance_events.Collected(digests=digests, generations=numbers):
            _collect_generations(state, fact, frozenset(numbers))
            state.step_cache.evict(frozenset(digests))
        case _:
            raise _impossible(fact, f"{type(event).__name__} needs a build")


def _require_generation(state: State, fact: RecordedEvent, number: int) -> Generation:
    if number not in state.generations:
        raise _impossible(fact, f"there is no generation {number}")
    return state.generations[number]


def _collect_generations(state: State, fact: RecordedEvent, numbers: frozenset[int]) -> None:
    for number in numbers:
        origin = _require_generation(state, fact, number).origin
        if state.head is None or origin == state.head.origin or number in state.accepted:
            raise _impossible(fact, f"generation {number} was collected while it was shown or accepted")
    state.collected_generations |= numbers


def _apply_to_build(state: State, fact: RecordedEvent, number: int, event: Event) -> None:
    match event:
        case e.BuildStarted():
            _start(state, fact, number, event)
        case e.BuildRefused(identity=identity, reason=reason):
            _start(state, fact, number, None)
            build = replace(state.builds[number], identity=identity)
            state.builds[number] = _end(state, fact, build, BuildStatus.REFUSED, reason)
        case e.BuildCommitted():
            _commit(state, fact, number, event)
        case _ if state.open_build != number:
            raise _impossible(fact, f"{type(event).__name__} for build {number}, which is not open")
        case _:
            state.builds[number] = _apply_to_open_build(state, fact, state.builds[number], event)


def _apply_to_open_build(state: State, fact: RecordedEvent, build: Build, event: Event) -> Build:
    """Apply an event that changes what later builds may reuse, or that ends the build."""
    match event:
        case e.EngineCompiled():
            state.step_cache.record_result(event, RecordedBy(fact.seq, build.number))
            return _with_engine(build, event, event.model)
        case e.IndexBuilt() | e.IndexExtended():
            state.step_cache.record_result(event, RecordedBy(fact.seq, build.number))
            return replace(build, coverage=None, index=event)
        case e.TilesPacked():
            state.step_cache.record_result(event, RecordedBy(fact.seq, build.number))
            return replace(build, coverage=None)
        case e.CheckPassed() | e.CheckFailed():
            state.step_cache.record_check(event)
            return _with_check(build, event)
        case e.StepReused():
            return _reuse(state, fact, build, event)
        case e.BuildFailed(message=message):
            return _end(state, fact, replace(build, failure=event), BuildStatus.FAILED, message)
        case e.BuildAbandoned(reason=reason):
            return _end(state, fact, build, BuildStatus.ABANDONED, reason)
        case _:
            return _note_in_build(fact, build, event)


def _end(state: State, fact: RecordedEvent, build: Build, status: BuildStatus, ending: str) -> Build:
    state.open_build = None
    return replace(build, status=status, ending=ending, ended_seq=fact.seq, ended_ns=fact.wall_ns)


def _note_in_build(fact: RecordedEvent, build: Build, event: Event) -> Build:
    """Apply an event that concerns its build alone."""
    match event:
        case e.BuildPlanned(steps=steps):
            return replace(build, plan=steps)
        case e.TilesSelected():
            return replace(build, tiles=event)
        case e.TilesCarried():
            return replace(build, coverage=None, carried=event)
        case e.StepStarted(kind=kind, subjects=subjects):
            return replace(build, doing=" ".join((kind, *subjects[:1])))
        case e.StepRetried():
            return replace(build, retries=build.retries + 1)
        case e.CoverageWalked():
            return replace(build, coverage=event)
        case maintenance_events.Repaired():
            return build
        case _:
            raise _impossible(fact, f"{type(event).__name__} belongs to no open build")


def _start(state: State, fact: RecordedEvent, number: int, event: e.BuildStarted | None) -> None:
    if state.open_build is not None:
        raise _impossible(fact, f"build {number} began while build {state.open_build} was open")
    if number != state.next_build:
        raise _impossible(fact, f"expected build {state.next_build}, found {number}")
    build = Build(number=number, started_seq=fact.seq, started_ns=fact.wall_ns)
    if event is not None:
        build = replace(
            build,
            identity=event.identity,
            inputs=event.inputs,
            host=event.host,
            calibration=event.calibration,
        )
    state.builds[number] = build
    state.open_build = number


def _commit(state: State, fact: RecordedEvent, number: int, event: e.BuildCommitted) -> None:
    expected = len(state.generations) + 1
    if event.generation != expected or event.origin != number or number not in state.builds:
        raise _impossible(fact, f"expected generation {expected} of a known build, found {event.generation}")
    rollback, build = state.pending_rollback, state.builds[number]
    if rollback is None and state.open_build != number:
        raise _impossible(fact, f"build {number} was committed without being open")
    if rollback is not None:
        if build.status is not BuildStatus.COMMITTED or rollback.target != number:
            raise _impossible(fact, f"rolled back to build {number}, which was never committed")
        if number in state.collected:
            raise _impossible(fact, f"rolled back to build {number}, which had been collected")
        if (event.body_sha256, event.format) != (build.body_sha256, build.format):
            raise _impossible(fact, f"build {number} is shown with another body than it was committed with")
    shown = state.head.origin if state.head else None
    parent = shown if rollback is None else build.parent
    if event.parent != parent or (rollback is not None and rollback.left != shown):
        raise _impossible(fact, f"expected parent {parent} after build {shown}, found {event.parent}")
    state.generations[expected] = Generation(
        number=expected,
        origin=number,
        parent=event.parent,
        before=state.position,
        seq=fact.seq,
        wall_ns=fact.wall_ns,
        manifest_sha256=event.manifest_sha256,
        body_sha256=event.body_sha256,
        format=event.format,
        signatures=((event.key_id, event.signature),) if event.signature else (),
        rolled_back=rollback,
    )
    if rollback is not None:
        _mark_undone(state, rollback)
        state.pending_rollback = None
        return
    state.open_build = None
    state.undone.pop(build.identity or "", None)
    state.builds[number] = replace(
        build,
        status=BuildStatus.COMMITTED,
        parent=event.parent,
        format=event.format,
        body_sha256=event.body_sha256,
        checks=checks_of(state, build),
        ended_seq=fact.seq,
        ended_ns=fact.wall_ns,
    )


def _mark_undone(state: State, rollback: maintenance_events.RolledBack) -> None:
    """Mark the identities of the builds that the rollback left."""
    parents = {number: build.parent for number, build in state.builds.items()}
    for origin in builds_left_behind(parents, left=rollback.left, target=rollback.target):
        state.undone[state.builds[origin].identity or ""] = origin
    # Last, since a build that was left may have had the very identity that is shown now.
    state.undone.pop(state.builds[rollback.target].identity or "", None)


def _with_check(build: Build, event: e.CheckPassed | e.CheckFailed) -> Build:
    """Return a build with its proof, if the check is that; no manifest names one that failed.

    Raises:
        DamagedHistoryError: It does not say what a proof says.
    """
    if not is_proof(event):
        return build
    answers_of(event)
    figures_of(event)
    return replace(build, coverage=None, proof=event if isinstance(event, e.CheckPassed) else None)


def _with_engine(build: Build, event: e.EngineCompiled, model: str) -> Build:
    if event.purpose == STAND_IN:
        return replace(build, coverage=None, stand_ins=_with_entry(build.stand_ins, model, event))
    return replace(build, coverage=None, engines=_with_entry(build.engines, model, event))


def _with_entry(
    known: tuple[tuple[str, e.EngineCompiled], ...], model: str, event: e.EngineCompiled
) -> tuple[tuple[str, e.EngineCompiled], ...]:
    return tuple(sorted((dict(known) | {model: event}).items(), key=lambda item: item[0]))


def _reuse(state: State, fact: RecordedEvent, build: Build, event: e.StepReused) -> Build:
    build = replace(build, steps_reused=build.steps_reused + event.count)
    for subject, key in event.keys.items():
        if event.kind in _PURPOSES and isinstance(key, str) and key in state.step_cache.engines:
            # One engine may serve both purposes, in different builds: the purpose in this build counts.
            reused = replace(state.step_cache.engines[key], purpose=_PURPOSES[event.kind])
            build = _with_engine(build, reused, subject)
        elif event.kind == "index" and isinstance(key, str) and key in state.step_cache.indexes:
            build = replace(build, coverage=None, index=state.step_cache.indexes[key])
        elif event.kind == PROOF and isinstance(key, str) and (PROOF, key) in state.step_cache.passed:
            build = _with_check(build, state.step_cache.passed[PROOF, key])
        else:
            raise _impossible(fact, f"{event.kind} {subject} was reused without having been made")
    return build


def _impossible(fact: RecordedEvent, found: str) -> DamagedHistoryError:
    return DamagedHistoryError(
        f"record {fact.seq} cannot follow: {found}",
        kind=ErrorKind.IMPOSSIBLE_HISTORY,
        hint="c10 rebuild (makes the journal again from its segments, and from the records up to that one)",
    )


def ancestors(parents: Mapping[int, int | None], origin: int) -> list[int]:
    """Return a build and its ancestors, newest first."""
    found: list[int] = []
    at: int | None = origin
    while at is not None and at not in found:
        found.append(at)
        at = parents[at]
    return found


def builds_left_behind(parents: Mapping[int, int | None], *, left: int, target: int) -> list[int]:
    """Return the builds that a change from `left` to `target` undoes, newest first.

    If `target` is an ancestor, these are the builds from `left` down to it; otherwise `left` alone. A change to a
    descendant of `left` undoes nothing.
    """
    if left in ancestors(parents, target):
        return []
    down = ancestors(parents, left)
    return down[: down.index(target)] if target in down else down[:1]
