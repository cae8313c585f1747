from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.values import Position
from store.domain.maintenance_events import RolledBack
from store.domain.state import Build, Generation, State
from store.errors import DamagedHistoryError, ErrorKind, UnknownEventError
from store.policy.recovery import (
    Abandon,
    CacheFiles,
    ClearScratch,
    Project,
    SetAside,
    WriteSegment,
    check,
    plan,
)
from tests.played_builds import make

SHA = "cd" * 32


def generation(number, *, signatures=()):
    return Generation(
        number=number,
        origin=number,
        parent=None,
        before=Position(),
        seq=number,
        wall_ns=number,
        manifest_sha256=f"{number:064x}",
        body_sha256="",
        format=1,
        signatures=signatures,
        rolled_back=None,
    )


def state_of(count, **changes):
    return State(
        cache_id="c", generations={number: generation(number) for number in range(1, count + 1)}, **changes
    )


def observed(count, **changes):
    """What lies beside a journal of so many generations when nothing is missing."""
    numbers = range(1, count + 1)
    whole = CacheFiles(
        manifests={number: f"{number:08d}.json" for number in numbers},
        segments={number: f"{number:08d}.events" for number in numbers},
        signatures=frozenset(),
        highest_sha256=f"{count:064x}" if count else None,
    )
    return replace(whole, **changes)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_whole_cache_needs_nothing(count):
    assert plan(state_of(count), observed(count)) == ()


@given(st.integers(0, 5), st.data())
def test_what_is_missing_is_projected_in_order(count, data):
    numbers = st.sets(st.integers(1, count)) if count else st.just(set())
    manifests, segments = data.draw(numbers), data.draw(numbers)
    there = observed(
        count,
        manifests={number: f"{number}.json" for number in manifests},
        segments={number: f"{number}.events" for number in segments},
        highest_sha256=f"{max(manifests):064x}" if manifests else None,
    )
    missing = [number for number in range(1, count + 1) if number not in manifests & segments]
    assert plan(state_of(count), there) == tuple(map(Project, missing))


def test_signatures_are_missed_only_where_there_is_one():
    state = state_of(2)
    state.generations[1] = generation(1, signatures=(("key", "ab"),))
    assert plan(state, observed(2)) == (Project(1),)
    assert plan(state, observed(2, signatures=frozenset({(1, 1)}))) == ()
    state.generations[1] = generation(1, signatures=(("key", "ab"), ("more", "cd")))
    assert plan(state, observed(2, signatures=frozenset({(1, 1)}))) == (Project(1),)
    assert plan(state, observed(2, signatures=frozenset({(1, 1), (1, 2)}))) == ()


def test_signatures_of_no_generation_are_set_aside():
    loose = ((1, "00000001.sig"), (2, "00000002.sig"), (3, "00000003.sig"), (4, "00000004.sig2"))
    assert plan(state_of(2), observed(2, loose=loose)) == (
        SetAside("00000003.sig"),
        SetAside("00000004.sig2"),
    )


def test_of_a_retired_generation_only_the_segment_is_made_again():
    state = state_of(3, collected_generations=frozenset({1}))
    state.generations[1] = generation(1, signatures=(("key", "ab"),))
    there = observed(3, manifests={3: "3.json"}, segments={1: "1.events", 3: "3.events"})
    assert plan(state, there) == (Project(2),)
    there = observed(3, manifests={3: "3.json"}, segments={3: "3.events"})
    assert plan(state, there) == (Project(1), Project(2))


def test_a_head_that_is_not_whole_is_not_projected_over_what_is_visible():
    there = observed(1)
    assert plan(state_of(3), there) == (Project(2), Project(3))
    assert plan(state_of(3), there, head_is_whole=False) == (WriteSegment(2), WriteSegment(3))
    there = observed(2, manifests={2: "2.json"}, segments={2: "2.events"})
    assert plan(state_of(3), there, head_is_whole=False) == (Project(1), WriteSegment(3))
    there = observed(2, manifests={2: "2.json"}, segments={1: "1.events", 2: "2.events", 3: "3.events"})
    assert plan(state_of(3), there, head_is_whole=False) == (Project(1),)


def test_order_of_actions():
    build = Build(number=3, started_seq=1, started_ns=1, doing="cells 6/0/0")
    state = state_of(1, open_build=3, builds={3: build})
    there = observed(0, scratch=True)
    assert plan(state, there) == (ClearScratch(), Project(1), Abandon(3, "cells 6/0/0"))


@pytest.mark.parametrize(
    "there",
    [
        observed(3),
        observed(2, segments={3: "00000003.events"}),
        observed(0, manifests={9: "00000009.json"}, highest_sha256=SHA),
        observed(2, highest_sha256=SHA),
        observed(2, highest_sha256=None),
        observed(1, highest_sha256=f"{2:064x}"),
    ],
)
def test_a_journal_that_does_not_fit_the_files(there):
    for function in (check, plan):
        with pytest.raises(DamagedHistoryError) as damaged:
            function(state_of(2), there)
        assert damaged.value.kind is ErrorKind.JOURNAL_REPLACED
        assert damaged.value.hint


def test_a_rollback_without_its_commit_is_no_end_of_a_journal():
    """Both are one transaction; a reader that believes the first would fail at every later commit."""
    state = state_of(2, pending_rollback=make(RolledBack, left=2, target=1))
    for look in (check, plan):
        with pytest.raises(DamagedHistoryError) as damaged:
            look(state, observed(2))
        assert damaged.value.kind is ErrorKind.IMPOSSIBLE_HISTORY
        assert "c10 rebuild" in damaged.value.hint


def test_a_journal_of_a_later_version_is_read_and_not_written():
    state = state_of(1, unknown=("new v1", "newer v1"))
    check(state, observed(1))
    check(state, observed(3))  # what it cannot read may have committed them
    with pytest.raises(UnknownEventError, match="new v1") as unknown:
        plan(state, observed(1))
    assert unknown.value.kind is ErrorKind.UNKNOWN_EVENT
