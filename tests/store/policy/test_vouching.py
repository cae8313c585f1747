"""Which results a builder with keys must not reuse, decided from events alone."""

import pytest

from store.domain import events as e
from store.domain.fold import fold
from store.domain.state import Build, RecordedEvent
from store.policy.vouching import OWN_RECORDS, Vouching, find_unvouched, merged, own_records_of, withdraw
from tests.played_builds import make, ref_of

CELL = ("s", 6, 0, 0)
SIGNED, UNSIGNED = 1, 2
"""Two builds, of which a key signed one."""


def engine(data, key="k"):
    return make(e.EngineCompiled, model="net", key=key, artifact=ref_of(data))


def passed(data, key="k", check="engine"):
    return make(e.CheckPassed, check=check, subject="net", key=key, artifact=ref_of(data).sha256)


def cell(data, key="c"):
    return make(e.CellEmbedded, space="s", zoom=6, key=key, block=ref_of(data))


def index(data, kind=e.IndexBuilt):
    return make(kind, key="i", artifact=ref_of(data))


def history(*steps):
    """Facts of builds, each of which starts and is abandoned, and the state that they fold to."""
    events = [(None, make(e.CacheCreated, cache_id="c" * 32))]
    for number, build in enumerate(steps, start=1):
        own = (make(e.BuildStarted), *build, make(e.BuildAbandoned))
        events += [(number, event) for event in own]
    facts = [
        RecordedEvent(seq=seq, chain=f"{seq:064x}", build=build, wall_ns=0, mono_ns=0, event=event)
        for seq, (build, event) in enumerate(events, start=1)
    ]
    return facts, fold(facts)


def usable(*steps, unsigned_until=1):
    """Step keys and cells that are left for reuse where the first build is signed, and the second is not."""
    facts, state = history(*steps)
    vouching = Vouching(builds=frozenset({SIGNED}), unsigned_until=unsigned_until)
    withdraw(state, find_unvouched(state, facts, vouching))
    steps = state.step_cache
    blocks = {(name, event.key, event.block) for name in steps.blocks for event in steps.blocks_of(name)}
    return {*steps.engines, *steps.indexes}, set(steps.passed), blocks


ALL = (engine(b"1"), passed(b"1"), cell(b"1"), index(b"1"), index(b"1", e.IndexExtended), passed(b"1", "i"))
EVERYTHING = (
    {"k", "i"},
    {("engine", "k"), ("engine", "i")},
    {(CELL, "c", ref_of(b"1"))},
)


def test_results_of_signed_builds_stay():
    assert usable(ALL, ()) == EVERYTHING


def test_results_from_before_the_first_signature_stay():
    assert usable((), ALL, unsigned_until=100) == EVERYTHING
    assert usable((), ALL) == (set(), set(), set())


def test_the_first_signed_commit_belongs_to_what_it_takes_over():
    vouching = Vouching(builds=frozenset({3}), unsigned_until=5)
    assert [vouching.covers(seq, None) for seq in (4, 5, 6)] == [True, True, False]
    assert [vouching.covers(6, build) for build in (2, 3)] == [False, True]


@pytest.mark.parametrize(
    ("event", "keys", "checks"),
    [
        (engine(b"2"), {"i"}, {("engine", "i")}),
        (engine(b"1"), {"i"}, {("engine", "i")}),
        (passed(b"1"), {"i"}, {("engine", "i")}),
        (passed(b"2", check="another"), {"i"}, {("engine", "i")}),
        (index(b"2"), {"k"}, {("engine", "k")}),
        (index(b"2", e.IndexExtended), {"k"}, {("engine", "k")}),
        (passed(b"1", "s", check="vectors"), {"k", "i"}, {("engine", "k"), ("engine", "i")}),
        (make(e.StepStarted), {"k", "i"}, {("engine", "k"), ("engine", "i")}),
    ],
)
def test_an_unsigned_result_or_check_takes_its_key_with_it(event, keys, checks):
    assert usable(ALL, (event,)) == (keys, checks, EVERYTHING[2])


def test_an_unsigned_check_counts_before_its_result_exists():
    facts, state = history((), (passed(b"9", "new"),))
    found = find_unvouched(state, facts, Vouching(builds=frozenset(), unsigned_until=1))
    assert [event.key for event in found.withdrawals] == ["new"]


def test_blocks_go_one_by_one():
    other = cell(b"2", "d")
    assert usable((cell(b"1"), other), (cell(b"3"),))[2] == {(CELL, "d", ref_of(b"2"))}
    assert usable((cell(b"1"),), (other,))[2] == {(CELL, "c", ref_of(b"1"))}


def test_checks_of_a_vector_space_go_one_by_one():
    signed, forged = passed(b"1", "s", check="vectors"), passed(b"1", "s", check="vectors")
    assert ("vectors", "s") in usable((*ALL, signed), ())[1]
    assert ("vectors", "s") in usable((*ALL, signed), (engine(b"2"),))[1]
    assert ("vectors", "s") not in usable((*ALL, signed), (forged,))[1]


def test_what_was_withdrawn_and_made_again_stays():
    """As a signed build does it: the failed check withdraws, the new result counts."""
    facts, state = history((), (engine(b"1"), passed(b"1"), cell(b"1")), (*ALL,))
    vouching = Vouching(builds=frozenset({3}), unsigned_until=1)
    assert [event.key for event in find_unvouched(state, facts, vouching).withdrawals] == ["k"]
    withdrawn = make(e.CheckFailed, key="k")
    facts, state = history((), (engine(b"1"), passed(b"1"), cell(b"1")), (withdrawn, *ALL))
    found = find_unvouched(state, facts, vouching)
    assert (found.withdrawals, found.cells, found.checks) == ((), frozenset(), frozenset())


def test_merged_ranges_are_in_order_and_apart():
    assert merged([(8, 9), (1, 2), (3, 4), (6, 6), (8, 8)]) == ((1, 4), (6, 6), (8, 9))
    assert merged([(1, 9), (3, 4), (6, 7), (9, 10)]) == ((1, 10),)
    assert merged([]) == ()


def test_of_very_many_ranges_the_newest_stay():
    ranges = [(2 * number, 2 * number) for number in range(1, 300)]
    assert merged(ranges) == tuple(ranges[-256:])


def test_records_of_signed_builds_of_own_ranges_and_from_before_the_first_signature_are_covered():
    vouching = Vouching(builds=frozenset({7}), unsigned_until=3, own=((5, 6), (9, 9)))
    covered = [seq for seq in range(1, 12) if vouching.covers(seq, None)]
    assert covered == [1, 2, 3, 5, 6, 9]
    assert vouching.covers(11, 7)
    assert not vouching.covers(11, 8)


@pytest.mark.parametrize(
    ("recorded", "found"),
    [
        (None, ()),
        ("", ()),
        ([2, [3], [4, 5, 6], ["7", 8], None], ()),
        ([[2, 3], [5, 9]], ((2, 3), (5, 9))),
        ([[0, 3], [1, 1]], ((1, 1),)),
        ([[3, 2]], ()),
        ([[5, 10]], ()),
    ],
)
def test_a_build_relied_only_on_records_before_it(recorded, found):
    host = {} if recorded is None else {OWN_RECORDS: recorded}
    assert own_records_of(Build(number=1, started_seq=10, started_ns=0, host=host)) == found
