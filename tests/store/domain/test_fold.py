import copy
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.base.values import ArtifactRef, Position
from store.domain import events as e
from store.domain import maintenance_events
from store.domain.fold import evolve, fold
from store.domain.state import FLIGHT, STAND_IN, BuildStatus, RecordedEvent, State, Unknown, checks_of
from store.errors import DamagedHistoryError, ErrorKind, RequestRefusedError
from store.manifest.file_names import MAX_SIGNATURES
from store.policy.rollback import plan
from tests.examples_tried import examples
from tests.played_builds import make

REF = ArtifactRef(sha256="ab" * 32, size=3)
GENESIS = e.CacheCreated(cache_id="c1", format=1, writer="test")


def ref(number):
    return ArtifactRef(sha256=f"{number:064x}", size=number)


def facts(*pairs, start=1):
    """Facts of (build, event) in a row."""
    return [
        RecordedEvent(seq=seq, chain=f"{seq:064x}", build=build, wall_ns=seq * 10, mono_ns=seq, event=event)
        for seq, (build, event) in enumerate(pairs, start)
    ]


def started(identity="i1"):
    return make(e.BuildStarted, identity=identity, inputs={"models": []}, calibration=REF, host={"name": "h"})


def tiles():
    return make(e.TilesSelected, digest="t", table=REF, count=1, wanted=2, excluded=1, warnings=("w",))


def engine(key="k1", model="place", number=1, purpose=FLIGHT):
    return make(e.EngineCompiled, model=model, key=key, artifact=ref(number), purpose=purpose)


def passed(key="k1", check="parity", subject="place", number=1):
    return make(e.CheckPassed, check=check, subject=subject, key=key, artifact=ref(number).sha256)


def failed_check(key="k1", check="parity"):
    return make(e.CheckFailed, check=check, subject="place", key=key, why="differs")


def cell(space="k1", x=0, number=2):
    return make(
        e.CellEmbedded,
        space=space,
        zoom=6,
        cell_x=x,
        key=f"cell-{number}",
        block=ref(number),
        rows=3,
        embedded=2,
    )


def index(key="x1", number=3):
    return make(e.IndexBuilt, key=key, artifact=ref(number), blocks=ref(number + 100), kind="flat", rows=3)


def reused(kind="engine", **keys):
    return e.StepReused(kind=kind, count=len(keys), keys=keys)


def walked():
    return make(e.CoverageWalked, files=1, geography=REF)


def committed(generation, origin, parent=None, **changes):
    fields = {
        "format": 1,
        "generation": generation,
        "parent": parent,
        "origin": origin,
        "manifest_sha256": f"{generation:064x}",
        "body_sha256": f"{origin:064x}",
    }
    return make(e.BuildCommitted, **(fields | changes))


def failed():
    return make(e.BuildFailed, step="tiles", message="m")


def rolled_back(left, target, requested=None):
    return make(maintenance_events.RolledBack, left=left, target=target, requested=requested, why="test")


def whole(number, generation, parent, identity="i1"):
    """Every event of a build that is committed."""
    events = (
        started(identity),
        e.BuildPlanned(steps=({"kind": "engine"},)),
        tiles(),
        e.StepStarted(kind="engine", subjects=("place", "other"), key="k1"),
        e.StepRetried(kind="engine", subjects=("place",), attempt=2, why="died"),
        engine(),
        passed(),
        cell(),
        index(),
        passed("x1", "retrieval", "index", 3),
        maintenance_events.Repaired(
            subject="block", sha256="ab" * 32, action="replaced", quarantine="quarantine/x"
        ),
        walked(),
        committed(generation, number, parent),
    )
    return [(number, event) for event in events]


def signature(generation, number=0):
    return make(
        maintenance_events.GenerationSigned, generation=generation, signature="ab", key_id=f"k{number}"
    )


def collecting(*generations):
    return (None, make(maintenance_events.CollectionPlanned, digests=(), generations=generations))


THREE = [
    (None, GENESIS),
    *whole(1, 1, None),
    *whole(2, 2, 1, "i2"),
    (3, started("i3")),
    (3, failed()),
    *whole(4, 3, 2, "i4"),
]
"""Builds 1, 2 and 4 are committed as generations 1, 2 and 3; build 3 failed."""


def test_nothing_folds_to_nothing():
    state = fold([])
    assert state == State()
    assert (state.head, state.head_build, state.next_build) == (None, None, 1)
    assert state.position == Position(0, "0" * 64)


def test_a_committed_build():
    state = fold(facts(*THREE[:14]))
    assert state.cache_id == "c1"
    assert state.created_ns == 10
    assert state.position == Position(14, f"{14:064x}")
    build = state.head_build
    assert (build.number, build.identity, build.status) == (1, "i1", BuildStatus.COMMITTED)
    assert (build.started_seq, build.started_ns, build.ended_seq, build.ended_ns) == (2, 20, 14, 140)
    assert (build.cells_embedded, build.tiles_embedded, build.retries, build.steps_reused) == (1, 2, 1, 0)
    assert build.doing == "engine place"
    assert build.engines == (("place", engine()),)
    assert (build.index, build.tiles, build.coverage) == (index(), tiles(), walked())
    assert build.checks == (passed(), passed("x1", "retrieval", "index", 3))
    assert build.plan == ({"kind": "engine"},)
    assert (build.calibration, build.host, build.inputs) == (REF, {"name": "h"}, {"models": []})
    assert state.step_cache.engines == {"k1": engine()}
    assert state.step_cache.indexes == {"x1": index()}
    assert state.step_cache.blocks == {("k1", 6, 0, 0): cell()}
    head = state.head
    assert (head.number, head.origin, head.parent, head.seq, head.wall_ns) == (1, 1, None, 14, 140)
    assert head.before == Position(13, f"{13:064x}")
    assert (head.manifest_sha256, head.body_sha256) == (f"{1:064x}", f"{1:064x}")
    assert (state.open_build, state.next_build) == (None, 2)


def test_how_builds_end():
    state = fold(
        facts(
            (None, GENESIS),
            (1, started()),
            (1, failed()),
            (2, started(None)),
            (2, make(e.BuildAbandoned, reason="died", step="cells")),
            (3, e.BuildRefused(identity="i9", reason="rolled back")),
        )
    )
    assert [(build.status, build.ending) for build in state.builds.values()] == [
        (BuildStatus.FAILED, "m"),
        (BuildStatus.ABANDONED, "died"),
        (BuildStatus.REFUSED, "rolled back"),
    ]
    assert state.builds[1].failure == failed()
    assert state.builds[2].identity is None
    assert state.builds[3].identity == "i9"
    assert state.open_build is None
    assert state.generations == {}


def test_two_rollbacks_in_a_row_go_two_builds_back():
    events = list(THREE)
    for generation, expected in ((4, (4, 2, 1)), (5, (2, 1, None))):
        planned = plan(fold(facts(*events)), to=None, why="bad")
        assert (planned.left, planned.target, planned.parent) == expected
        assert (planned.requested, planned.why) == (None, "bad")
        events += [
            (None, rolled_back(planned.left, planned.target)),
            (planned.target, committed(generation, planned.target, planned.parent)),
        ]
    state = fold(facts(*events))
    assert state.head.rolled_back == rolled_back(2, 1)
    assert state.head.before == Position(len(events) - 1, f"{len(events) - 1:064x}")
    assert state.undone == {"i2": 2, "i4": 4}
    assert state.pending_rollback is None
    with pytest.raises(RequestRefusedError) as refused:
        plan(state, to=None, why="")
    assert refused.value.kind is ErrorKind.NOTHING_TO_ROLL_BACK


def test_rollback_to_a_generation_means_its_origin():
    state = fold(facts(*THREE, (None, rolled_back(4, 1)), (1, committed(4, 1))))
    assert state.undone == {"i4": 4, "i2": 2}
    assert plan(state, to=4, why="") is None
    assert plan(state, to=1, why="") is None
    forward = plan(state, to=3, why="")
    assert (forward.left, forward.target, forward.parent, forward.requested) == (1, 4, 2, 3)
    state = fold(facts((None, rolled_back(1, 4, 3)), (4, committed(5, 4, 2)), start=len(THREE) + 3), state)
    assert state.undone == {"i2": 2}, "going forward leaves nothing behind"
    for missing in (0, 6, -1):
        with pytest.raises(RequestRefusedError) as refused:
            plan(state, to=missing, why="")
        assert refused.value.kind is ErrorKind.UNKNOWN_GENERATION


def test_nothing_to_roll_back_from():
    with pytest.raises(RequestRefusedError) as refused:
        plan(fold(facts((None, GENESIS))), to=None, why="")
    assert refused.value.kind is ErrorKind.NO_GENERATION


def test_what_is_shown_is_never_undone():
    """The build that was left may have had the identity of the one that is shown."""
    history = [(None, GENESIS), *whole(1, 1, None), *whole(2, 2, 1)]
    state = fold(facts(*history, (None, rolled_back(2, 1)), (1, committed(3, 1))))
    assert state.head_build.identity == "i1"
    assert state.undone == {}


def test_building_what_was_left_makes_it_done():
    history = [*THREE, (None, rolled_back(4, 2)), (2, committed(4, 2, 1)), *whole(5, 5, 2, "i4")]
    assert fold(facts(*history)).undone == {}


def test_reused_steps_are_part_of_the_build():
    history = [
        *THREE,
        (5, started("i5")),
        (5, reused(place="k1", twin="k1")),
        (5, reused("index", index="x1")),
    ]
    build = fold(facts(*history)).builds[5]
    assert build.engines == (("place", engine()), ("twin", engine()))
    assert build.index == index()
    assert build.steps_reused == 3


@pytest.mark.parametrize(
    "event",
    [
        reused(place="k9"),
        reused(place=["k1"]),
        reused(place=None),
        reused("index", index="k1"),
        reused("index", index={}),
        reused("cells", cell="cell-2"),
    ],
)
def test_nothing_is_reused_that_was_not_made(event):
    impossible([*THREE, (5, started()), (5, event)], "reused")


def test_results_may_come_without_a_build():
    """An engine run compiles, and an import brings results, outside of any build."""
    state = fold(
        facts((None, GENESIS), (None, engine("k7")), (None, passed("k7")), (None, index()), (None, cell()))
    )
    assert state.step_cache.engines == {"k7": engine("k7")}
    assert state.step_cache.has_passed("parity", "k7", ref(1).sha256)
    assert not state.step_cache.has_passed("parity", "k7", ref(2).sha256)
    assert not state.step_cache.has_passed("other", "k7", ref(1).sha256)
    assert (set(state.step_cache.indexes), len(state.step_cache.blocks)) == ({"x1"}, 1)
    state = fold(facts((None, failed_check("k7")), start=6), state)
    assert (state.step_cache.engines, state.step_cache.passed) == ({}, {})


def test_a_failed_check_takes_the_result_away():
    state = fold(facts(*THREE, (5, started()), (5, failed_check("k1")), (5, failed_check("x1", "retrieval"))))
    memo = state.step_cache
    assert (memo.engines, memo.indexes, memo.blocks, memo.passed) == ({}, {}, {}, {})
    assert state.builds[1].checks == (passed(), passed("x1", "retrieval", "index", 3))


def test_a_check_holds_for_the_very_bytes_it_looked_at():
    """A compiler gives other bytes under the same key, which have passed nothing."""
    again = [(5, started()), (5, engine(number=7))]
    state = fold(facts(*THREE, *again))
    assert set(state.step_cache.passed) == {("retrieval", "x1")}
    assert checks_of(state, state.builds[5]) == ()
    assert state.builds[1].checks[0] == passed()
    state = fold(facts(*THREE, *again, (5, passed(number=1)), (5, index(number=8))))
    assert checks_of(state, state.builds[5]) == ()
    state = fold(facts(*THREE, *again, (5, passed(number=7))))
    assert checks_of(state, state.builds[5]) == (passed(number=7),)


def test_a_stand_in_embeds_and_is_not_handed_out():
    stand_in = engine("k2", number=9, purpose=STAND_IN)
    history = [*THREE, (5, started()), (5, engine()), (5, stand_in)]
    build = fold(facts(*history)).builds[5]
    assert (build.engines, build.stand_in_of("place")) == ((("place", engine()),), stand_in)
    again = [*history, (5, failed()), (6, started()), (6, reused("stand-in", place="k2"))]
    build = fold(facts(*again)).builds[6]
    assert (build.engines, build.stand_in_of("place")) == ((), stand_in)


def test_one_engine_serves_as_what_a_build_takes_it_for():
    """What stood in here is handed out by a build for this machine, and the other way round."""
    stand_in = engine("k2", number=9, purpose=STAND_IN)
    history = [*THREE, (5, started()), (5, engine()), (5, stand_in), (5, failed()), (6, started())]
    build = fold(facts(*history, (6, reused(place="k2")))).builds[6]
    assert (build.engines, build.stand_in_of("place")) == (
        (("place", replace(stand_in, purpose=FLIGHT)),),
        None,
    )
    build = fold(facts(*history, (6, reused("stand-in", place="k1")))).builds[6]
    assert (build.engines, build.stand_in_of("place")) == ((), replace(engine(), purpose=STAND_IN))


def test_a_build_shows_the_checks_of_its_stand_in():
    stand_in = engine("k2", number=9, purpose=STAND_IN)
    check = passed("k2", number=9)
    state = fold(facts(*THREE, (5, started()), (5, stand_in), (5, check)))
    assert checks_of(state, state.builds[5]) == (check,)


@pytest.mark.parametrize(
    "later", [engine("k2"), index("x2"), cell(x=9), reused(place="k1"), reused("index", index="x1")]
)
def test_coverage_is_of_all_that_is_shown(later):
    """What changes what a build shows makes an earlier walk worthless."""
    history = [*THREE, (5, started()), (5, walked())]
    assert fold(facts(*history)).builds[5].coverage == walked()
    assert fold(facts(*history, (5, later))).builds[5].coverage is None


CHECKS = (("parity", "k1"), ("retrieval", "x1"))


@pytest.mark.parametrize(
    ("number", "left"), [(1, (0, 1, 1)), (2, (1, 1, 0)), (3, (1, 0, 1)), (103, (1, 0, 1)), (9, (1, 1, 1))]
)
def test_what_was_collected_is_not_reused(number, left):
    collected = make(maintenance_events.Collected, digests=(ref(number).sha256,), generations=(1,))
    state = fold(facts(*THREE, (None, collected)))
    assert (
        len(state.step_cache.engines),
        len(state.step_cache.indexes),
        len(state.step_cache.blocks),
    ) == left


def test_every_block_of_a_cell_stays_usable():
    """Blocks of other tiles of the same cell, newest last, one per key."""
    name = ("k1", 6, 0, 0)
    history = [(None, GENESIS), *((None, cell(number=number)) for number in (2, 5, 6)), (None, cell(x=1))]
    state = fold(facts(*history))
    assert state.step_cache.blocks_of(name) == (cell(number=2), cell(number=5), cell(number=6))
    assert state.step_cache.blocks[name] == cell(number=6)
    assert state.step_cache.blocks_of(("k1", 6, 7, 7)) == ()
    assert [event.cell_x for event in state.step_cache.blocks_in("k1")] == [0, 0, 0, 1]
    assert state.step_cache.blocks_in("k2") == ()
    again = fold(facts((None, cell(number=5)), start=6), state)
    assert again.step_cache.blocks_of(name) == (cell(number=2), cell(number=6), cell(number=5))
    for number, left in ((2, (5, 6)), (6, (2, 5)), (5, (2, 6))):
        collected = make(maintenance_events.Collected, digests=(ref(number).sha256,))
        gone = fold(facts((None, collected), start=6), state).step_cache
        assert gone.blocks_of(name) == tuple(cell(number=number) for number in left)
    collected = make(maintenance_events.Collected, digests=tuple(ref(number).sha256 for number in (2, 5, 6)))
    gone = fold(facts((None, collected), start=6), state).step_cache
    assert (gone.blocks, gone.earlier) == ({}, {})
    refused = fold(facts((None, failed_check("k1", "reproduces")), start=6), state).step_cache
    assert (refused.blocks, refused.earlier) == ({}, {})
    assert len(state.step_cache.blocks_of(name)) == 3


def test_facts_that_change_nothing():
    quiet = [
        e.StepStarted(kind="engine", subjects=(), key="k"),
        make(maintenance_events.CollectionPlanned),
        maintenance_events.Repaired(subject="", sha256="", action="", quarantine=""),
        make(maintenance_events.Imported),
    ]
    before = fold(facts(*THREE))
    after = fold(facts(*((None, event) for event in quiet), start=len(THREE) + 1), before)
    assert replace(after, position=before.position) == before


def test_acceptance_is_kept():
    accepted = [
        (None, make(maintenance_events.GenerationAccepted, generation=number)) for number in (1, 2, 1)
    ]
    assert fold(facts(*THREE, *accepted)).accepted == {1, 2}


def test_what_is_planned_to_go_is_gone_before_it_is_removed():
    state = fold(facts(*THREE, collecting(1)))
    assert (state.collected_generations, state.collected) == ({1}, {1})
    assert fold(
        facts(*THREE, collecting(1), (None, make(maintenance_events.Collected, digests=(), generations=(1,))))
    ).collected_generations == {1}


def test_builds_that_were_denied_the_lock_are_kept_by_their_record():
    denied = make(e.BuildDenied)
    assert fold(facts(*THREE, (None, denied))).denied == {len(THREE) + 1: denied}


def test_signatures_are_added():
    signed = make(maintenance_events.GenerationSigned, generation=2, signature="ab", key_id="k")
    state = fold(facts(*THREE, (None, signed), (None, replace(signed, key_id="l"))))
    assert [generation.signatures for generation in state.generations.values()] == [
        (),
        (("k", "ab"), ("l", "ab")),
        (),
    ]
    history = [*THREE, (5, started()), (5, committed(4, 5, 4, signature="cd", key_id="m"))]
    assert fold(facts(*history)).head.signatures == (("m", "cd"),)


def test_forensics_read_on_around_what_is_not_understood():
    history = [*THREE, (5, Unknown(tag="build.begun", version=1)), (5, tiles()), (6, started())]
    state = fold(facts(*history))
    assert state.position.seq == len(history)
    assert state.head.number == 3
    impossible([*THREE, (5, tiles())], "not open")


def test_events_of_a_later_version_keep_their_place():
    state = fold(
        facts(*THREE, (5, Unknown(tag="new", version=2)), (None, Unknown(tag="collected", version=9)))
    )
    assert state.unknown == ("new v2", "collected v9")
    assert state.position.seq == len(THREE) + 2


def test_checks_of_a_build_without_an_index():
    state = fold(facts((None, GENESIS), (1, started()), (1, engine()), (1, passed()), (1, passed("other"))))
    assert checks_of(state, state.builds[1]) == (passed(),)


def impossible(history, text=""):
    with pytest.raises(DamagedHistoryError, match=text) as found:
        fold(facts(*history))
    assert found.value.kind is ErrorKind.IMPOSSIBLE_HISTORY
    assert f"record {len(history)} " in found.value.message


@pytest.mark.parametrize(
    ("history", "text"),
    [
        ([(1, started())], "genesis"),
        ([(None, Unknown(tag="x", version=1))], "genesis"),
        ([(None, GENESIS), (None, GENESIS)], "twice"),
        ([(None, GENESIS), (1, GENESIS)], "not open"),
        ([*THREE, (5, started()), (5, GENESIS)], "no open build"),
        ([*THREE, (5, started()), (5, rolled_back(4, 1))], "no open build"),
        ([(None, GENESIS), (None, started())], "needs a build"),
        ([(None, GENESIS), (None, walked())], "needs a build"),
        ([(None, GENESIS), (2, started())], "expected build 1"),
        ([*THREE, (4, started())], "expected build 5"),
        ([*THREE, (5, started()), (6, started())], "while build 5 was open"),
        ([*THREE, (5, started()), (6, e.BuildRefused(identity="", reason=""))], "while build 5 was open"),
        ([*THREE, (4, tiles())], "not open"),
        ([*THREE, (5, started()), (4, tiles())], "not open"),
        ([*THREE, (3, committed(4, 3, 4))], "without being open"),
        ([*THREE, (4, committed(4, 4, 4))], "without being open"),
        ([*THREE, (5, started()), (5, committed(3, 5, 4))], "expected generation 4"),
        ([*THREE, (5, started()), (5, committed(4, 4, 4))], "expected generation 4"),
        ([*THREE, (9, committed(4, 9, 4))], "expected generation 4"),
        ([*THREE, (5, started()), (5, committed(4, 5, None))], "expected parent 4"),
        ([*THREE, (5, started()), (5, committed(4, 5, 99))], "expected parent 4"),
        ([*THREE, (None, rolled_back(4, 3)), (3, committed(4, 3, 2))], "never committed"),
        ([*THREE, (None, rolled_back(4, 2)), (1, committed(4, 1))], "never committed"),
        ([*THREE, (None, rolled_back(4, 2)), (2, committed(4, 2, 2))], "expected parent 1"),
        ([*THREE, (None, make(maintenance_events.GenerationAccepted, generation=4))], "no generation 4"),
        ([*THREE, (None, make(maintenance_events.GenerationSigned, generation=0))], "no generation 0"),
        ([*THREE, (None, rolled_back(4, 2)), (2, committed(4, 2, 1, body_sha256="x"))], "another body"),
        ([*THREE, (None, rolled_back(4, 2)), (2, committed(4, 2, 1, format=2))], "another body"),
        ([*THREE, (None, rolled_back(77, 2)), (2, committed(4, 2, 1))], "after build 4"),
        ([*THREE, collecting(4)], "no generation 4"),
        ([*THREE, collecting(3)], "shown or accepted"),
        (
            [*THREE, (None, make(maintenance_events.GenerationAccepted, generation=1)), collecting(1)],
            "shown or accepted",
        ),
        (
            [*THREE, collecting(1), (None, make(maintenance_events.GenerationAccepted, generation=1))],
            "had been collected",
        ),
        ([*THREE, (None, make(maintenance_events.Collected, generations=(4,)))], "no generation 4"),
        ([*THREE, (None, make(maintenance_events.Collected, generations=(3,)))], "shown or accepted"),
        *(
            ([*THREE, (None, rolled_back(4, 2)), after], "not followed by its commit")
            for after in (
                (5, started()),
                (None, make(maintenance_events.Imported)),
                (None, rolled_back(4, 2)),
            )
        ),
        ([*THREE, collecting(1), (None, signature(1))], "no more signatures"),
        ([*THREE, *((None, signature(2, n)) for n in range(MAX_SIGNATURES + 1))], "no more signatures"),
        (
            [*THREE, collecting(2), (None, rolled_back(4, 2)), (2, committed(4, 2, 1))],
            "build 2, which had been collected",
        ),
    ],
)
def test_histories_that_nothing_could_have_written(history, text):
    impossible(history, text)


@pytest.mark.parametrize("seq", [0, 1, len(THREE), len(THREE) + 2])
def test_a_fact_out_of_its_place(seq):
    state = fold(facts(*THREE))
    with pytest.raises(DamagedHistoryError, match="expected seq"):
        evolve(state, replace(facts((None, make(maintenance_events.Imported)))[0], seq=seq))


EVENTS = [
    *((None, event) for event in (GENESIS, engine("k2"), passed("k2"), failed_check(), rolled_back(4, 2))),
    *(
        (build, event)
        for build in (1, 2, 5)
        for event in (started(), tiles(), engine("k3", "b"), index("x2"))
    ),
    *(
        (build, committed(generation, build, parent))
        for build in (2, 5)
        for generation in (4, 5)
        for parent in (1, 4)
    ),
    (5, failed()),
    (5, reused(place="k1")),
    (5, reused("index", index="x1")),
    (5, failed_check()),
    (5, cell(x=7)),
    (None, make(maintenance_events.Collected, digests=(ref(1).sha256, ref(2).sha256))),
    (None, make(maintenance_events.GenerationAccepted, generation=1)),
    (6, Unknown(tag="new", version=1)),
]


@settings(max_examples=examples(150))
@given(st.integers(0, len(THREE)), st.lists(st.sampled_from(EVENTS), max_size=12))
def test_evolve_changes_nothing_and_fold_is_evolve_again_and_again(kept, more):
    state = fold(facts(*THREE[:kept]))
    at = kept
    for pair in more:
        (fact,) = facts(pair, start=at + 1)
        before = copy.deepcopy(state)
        try:
            after = evolve(state, fact)
        except DamagedHistoryError:
            assert state == before
            continue
        assert state == before
        assert after.position == Position(fact.seq, fact.chain)
        state, at = after, at + 1


@settings(max_examples=examples(100))
@given(st.integers(0, len(THREE)), st.integers(0, len(THREE)))
def test_fold_may_be_done_in_pieces(one, other):
    first, last = sorted((one, other))
    history = facts(*THREE)
    pieces = fold(history[last:], fold(history[first:last], fold(history[:first])))
    step_by_step = State()
    for fact in history:
        step_by_step = evolve(step_by_step, fact)
    assert pieces == step_by_step == fold(history)


@settings(max_examples=examples(150))
@given(st.data())
def test_shuffled_histories_fold_or_are_refused(data):
    """Dropping, doubling and swapping facts gives a state or our error, never another one."""
    history = [*THREE, (None, rolled_back(4, 2)), (2, committed(4, 2, 1))]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(history) - 1))
        match data.draw(st.sampled_from(["drop", "double", "swap", "insert"])):
            case "drop":
                del history[at]
            case "double":
                history.insert(at, history[at])
            case "swap":
                other = data.draw(st.integers(0, len(history) - 1))
                history[at], history[other] = history[other], history[at]
            case "insert":
                history.insert(at, data.draw(st.sampled_from(EVENTS)))
        if not history:
            return
    try:
        state = fold(facts(*history))
    except DamagedHistoryError as error:
        assert error.kind is ErrorKind.IMPOSSIBLE_HISTORY
        return
    assert state.position.seq == len(history)
    assert list(state.generations) == list(range(1, len(state.generations) + 1))
    assert all(generation.parent != generation.origin for generation in state.generations.values())
