"""What collection decides, over histories that really happened."""

import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.disk.layout import Layout
from store.domain.events import BuildFailed, BuildStarted
from store.domain.fold import fold
from store.domain.maintenance_events import CollectionPlanned, GenerationAccepted
from store.domain.manifest_projection import project
from store.domain.state import STAND_IN, RecordedEvent, State
from store.maintenance.collect_garbage import _decide
from store.manifest.manifest import parse
from store.policy import rollback
from store.policy.retention import (
    KeepPolicy,
    KeepReason,
    OriginReason,
    RemovalReason,
    keep_without,
    kept_origins,
)
from store.verify.coverage import named_by
from tests.examples_tried import examples
from tests.played_builds import Scenario, StopDeadError, make, play
from tests.store_caches import open_writer

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@contextmanager
def opened(layout):
    with open_writer(layout) as store:
        yield store


def built(store, number, **changes):
    """A build of other tiles, hence of another block, index and table, with the engine of all others."""
    tiles = {(0, 0): f"a{number}", (20, 3): "c"}
    return play(store, Scenario(**({"flight": f"f{number}", "tiles": tiles} | changes)))[0]


def interrupted(store, number, **changes):
    try:
        built(store, number, **changes)
    except StopDeadError:
        store._recover()


@pytest.fixture
def store(layout):
    with opened(layout) as store:
        yield store


def decided(store, **policy):
    return _decide(store.state, KeepPolicy(**policy), store.artifacts)


def gone(decision, why=None):
    return {each.sha256 for each in decision.removals if why in {None, each.why}}


def named(store, generation):
    manifest = parse(project(store.state, store.state.generations[generation]))
    return set(named_by(manifest, store.artifacts))


def accept(store, number):
    store.append(make(GenerationAccepted, generation=number), build=None)


def test_nothing_was_committed_and_nothing_is_kept_for_it(store):
    store.artifacts.put(b"stray")
    decision = decided(store)
    assert (decision.origins, decision.collected_generations) == ({}, ())
    assert [each.why for each in decision.removals] == [RemovalReason.UNREFERENCED]
    assert kept_origins(State(), KeepPolicy()) == {}


def test_the_last_origins_are_kept(store):
    for number in range(1, 6):
        built(store, number)
    decision = decided(store, keep=3)
    assert decision.origins == {5: OriginReason.HEAD, 4: OriginReason.RECENT, 3: OriginReason.RECENT}
    assert decision.collected_generations == (1, 2)
    needed = named(store, 3) | named(store, 4) | named(store, 5)
    assert gone(decision) == (named(store, 1) | named(store, 2)) - needed
    assert {each.why for each in decision.removals} == {RemovalReason.COLLECTED}
    assert sum(files for files, _ in decision.kept.values()) == len(needed)
    assert decision.size == sum(store.artifacts.size(digest) for digest in gone(decision))


def test_a_rollback_stays_possible_when_one_origin_is_kept(store):
    for number in range(1, 4):
        built(store, number)
    assert decided(store, keep=1).origins == {3: OriginReason.HEAD, 2: OriginReason.ROLLBACK}
    store.roll_back(rollback.plan(store.state, to=None, why=""))
    assert decided(store, keep=1).origins == {2: OriginReason.HEAD, 1: OriginReason.ROLLBACK}
    assert decided(store, keep=1).collected_generations == (3,)
    store.roll_back(rollback.plan(store.state, to=1, why=""))
    assert decided(store, keep=1).origins == {1: OriginReason.HEAD}
    assert decided(store, keep=2).origins == {1: OriginReason.HEAD, 2: OriginReason.RECENT}


def test_what_was_accepted_stays_with_every_generation_that_shows_it(store):
    for number in range(1, 6):
        built(store, number)
    accept(store, 2)
    decision = decided(store, keep=1)
    assert decision.origins == {5: OriginReason.HEAD, 4: OriginReason.ROLLBACK, 2: OriginReason.ACCEPTED}
    assert decision.collected_generations == (1, 3)
    assert named(store, 2).isdisjoint(gone(decision))


def test_origins_are_counted_and_not_generations(store):
    built(store, 1)
    built(store, 2)
    for target in (1, 2, 1, 2):
        store.roll_back(rollback.plan(store.state, to=target, why=""))
    assert decided(store, keep=2).collected_generations == ()


def test_the_work_of_a_build_that_died_waits_for_the_next(store):
    built(store, 1)
    interrupted(store, 2, die_at="index")
    mine = {sha for sha, made_by in store.state.step_cache.made.items() if made_by.build == 2}
    assert len(mine) == 2, "a block and an index"
    assert mine.isdisjoint(gone(decided(store)))
    assert decided(store).kept[KeepReason.UNFINISHED][0] >= 2
    assert mine <= gone(decided(store, unfinished=False))
    built(store, 3)
    assert mine <= gone(decided(store), RemovalReason.SUPERSEDED), "another build committed"


@pytest.mark.parametrize(
    ("kind", "stays"), [("interrupted", True), ("bad-tile", False), ("disk-full", False)]
)
def test_the_work_of_a_build_that_failed_goes_unless_it_was_interrupted(store, kind, stays):
    built(store, 1)
    with pytest.raises(StopDeadError):
        built(store, 2, die_at="index")
    store.append(make(BuildFailed, kind=kind), build=2)
    build = store.state.builds[2]
    mine = {sha for sha, made_by in store.state.step_cache.made.items() if made_by.build == 2}
    assert mine.isdisjoint(gone(decided(store))) is stays
    inputs = {build.calibration.sha256, build.tiles.table.sha256}
    assert inputs.isdisjoint(gone(decided(store))), "they may be looked into for a while"


def test_inputs_of_failed_builds_go_when_they_are_older_than_what_is_kept(store):
    built(store, 1)
    built(store, 2, fail_at="cells", tiles={(5, 5): "gone"})
    table = store.state.builds[2].tiles.table.sha256
    built(store, 3)
    assert table not in gone(decided(store, keep=2))
    built(store, 4)
    assert table in gone(decided(store, keep=2), RemovalReason.FAILED)
    assert table not in gone(decided(store, keep=3))
    accept(store, 1)
    assert table in gone(decided(store, keep=2)), "an old accepted build keeps no rubbish of its days"


def test_what_is_attached_to_a_failure_stays_with_its_inputs(store):
    built(store, 1)
    with pytest.raises(StopDeadError):
        built(store, 2, die_at="cells")
    tile = store.artifacts.put(b"a tile")
    attached = {"attached": {"tile": {"sha256": tile.sha256, "size": tile.size}}}
    store.append(make(BuildFailed, kind="bad-tile", inputs=attached), build=2)
    assert tile.sha256 not in gone(decided(store))
    for number in range(3, 7):
        built(store, number)
    assert tile.sha256 in gone(decided(store), RemovalReason.FAILED)


def test_the_setting_that_gives_a_generation_up(store):
    for number in range(1, 5):
        built(store, number)
    assert [keep_without(store.state, some) for some in ([1], [2], [1, 2])] == [3, 2, 2]
    assert [keep_without(store.state, some) for some in ([], [3], [4], [1, 3])] == [0, 0, 0, 0], "none"
    collected = replace(store.state, collected_generations=frozenset({1}))
    assert [keep_without(collected, some) for some in ([1], [2], [1, 2])] == [0, 2, 2]


def test_what_was_made_outside_of_builds_stays_as_long_as_inputs_of_failed_builds(store):
    for number in (1, 2):
        built(store, number)
    event = replace(
        next(iter(store.state.step_cache.engines.values())),
        key="ahead",
        artifact=store.artifacts.put(b"ahead"),
    )
    store.append(event, build=None)
    ahead = event.artifact.sha256
    assert decided(store, keep=2).kept[KeepReason.APART] == (1, 5)
    built(store, 3)
    assert ahead not in gone(decided(store, keep=2))
    built(store, 4)
    assert ahead in gone(decided(store, keep=1))
    built(store, 5)
    assert ahead in gone(decided(store, keep=2), RemovalReason.SUPERSEDED)


def test_an_open_build_is_treated_as_the_dead_one_it_would_be_under_the_lock(layout):
    with opened(layout) as store:
        built(store, 1)
        with pytest.raises(StopDeadError):
            built(store, 2, die_at="index")
        before = decided(store)
        store._recover()
        assert decided(store) == before


def test_a_build_whose_inputs_could_not_be_read_names_nothing(store):
    built(store, 1)
    before = decided(store)
    store.append(make(BuildStarted, identity=None, calibration=None), build=2)
    assert decided(store) == before
    store.append(make(BuildFailed, kind="bad-archive"), build=2)
    assert decided(store) == before


def test_a_stand_in_waits_with_the_work_of_its_build(store):
    built(store, 1)
    engine = next(iter(store.state.step_cache.engines.values()))
    stand_in = replace(engine, key="here", purpose=STAND_IN, artifact=store.artifacts.put(b"stand-in"))
    store.append(make(BuildStarted, calibration=None), stand_in, build=2)
    assert store.state.builds[2].stand_in_of("place") == stand_in
    assert stand_in.artifact.sha256 not in gone(decided(store))
    assert stand_in.artifact.sha256 in gone(decided(store, unfinished=False), RemovalReason.SUPERSEDED)


def test_a_policy_keeps_something():
    with pytest.raises(ValueError, match="at least 1"):
        KeepPolicy(keep=0)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("build"), st.integers(0, 5)),
        st.tuples(st.just("fail"), st.integers(0, 5)),
        st.tuples(st.just("die"), st.integers(0, 5)),
        st.tuples(st.just("roll back"), st.integers(1, 8)),
        st.tuples(st.just("accept"), st.integers(1, 8)),
        st.tuples(st.just("collect"), st.integers(1, 3)),
    ),
    min_size=3,
    max_size=14,
)


@settings(max_examples=examples(25), deadline=None)
@given(OPERATIONS, st.integers(1, 4))
def test_what_is_kept_is_whole_and_what_goes_goes_once(operations, keep):
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, opened(Layout(Path(folder) / "cache")) as store:
        for what, number in operations:
            happen(store, what, number)
        state, policy = store.state, KeepPolicy(keep=keep)
        if state.head is None:
            return
        decision = decided(store, keep=keep)
        origins = decision.origins
        assert origins[state.head.origin] is OriginReason.HEAD
        assert {state.generations[number].origin for number in state.accepted} <= origins.keys()
        assert state.head.parent in {None, *state.collected, *origins}
        removals = gone(decision)
        for generation in state.generations.values():
            if generation.number in {*decision.collected_generations, *state.collected_generations}:
                assert generation.origin not in origins
            else:
                assert generation.origin in origins
                assert named(store, generation.number).isdisjoint(removals)
        assert removals <= gone(decided(store, keep=keep, unfinished=False))
        assert gone(decided(store, keep=keep + 1)) <= removals, "who keeps more removes less"
        # What was planned and not removed is still seen to be nobody's, and no generation goes twice.
        after = _decide(planned(state, decision), policy, store.artifacts)
        assert (gone(after), after.collected_generations) == (removals, ())


def happen(store, what, number):
    generations = store.state.generations
    match what:
        case "build":
            built(store, number)
        case "fail":
            built(store, number, fail_at="coverage")
        case "die":
            interrupted(store, number, die_at="coverage")
        case "accept" if number in generations and number not in store.state.collected_generations:
            accept(store, number)
        case "roll back" if number in generations and generations[number].origin not in store.state.collected:
            wanted = rollback.plan(store.state, to=number, why="")
            if wanted is not None:
                store.roll_back(wanted)
        case "collect":
            decision = decided(store, keep=number)
            store.append(plan_event(decision), build=None)
            for digest in gone(decision):
                store.layout.artifact(digest).unlink()


def plan_event(decision):
    digests = tuple(sorted(gone(decision)))
    return make(CollectionPlanned, digests=digests, generations=decision.collected_generations)


def planned(state, decision):
    fact = RecordedEvent(
        seq=state.position.seq + 1,
        chain="00" * 32,
        build=None,
        wall_ns=1,
        mono_ns=1,
        event=plan_event(decision),
    )
    return fold((fact,), state)
