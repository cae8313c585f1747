"""Appending beside a build, without its lock."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from journal import Journal
from journal.record import Record
from store.cache.create import ensure_cache
from store.cache.optimistic_append import accept, open_for_append
from store.cache.view import open_view, read_history
from store.disk.layout import Layout
from store.domain.events import StepStarted
from store.domain.maintenance_events import CollectionPlanned, GenerationAccepted
from store.domain.state import BuildStatus
from store.errors import DamagedHistoryError, ErrorKind, RequestRefusedError, UnknownEventError
from store.testing import FakeClock
from store.verify.coverage import walk
from tests.played_builds import Scenario, StopDeadError, make, play
from tests.small_builds import tree
from tests.store_caches import open_writer, record_builds

ROOT = Path(__file__).parents[3]
START = """
import sys
from pathlib import Path
from store.cache.create import ensure_cache
from store.disk.layout import Layout
from store.base.clock import SystemClock
sys.stdin.readline()
for name in sys.argv[1:]:
    ensure_cache(Layout(Path(name)), clock=SystemClock())
"""
ACCEPT = """
import sys
from pathlib import Path
from store.cache.optimistic_append import accept
from store.disk.layout import Layout
from store.testing import FakeClock
for number in sys.argv[2:]:
    accept(Layout(Path(sys.argv[1])), int(number), why="beside", host={}, clock=FakeClock())
"""


def child(code, *words, **options):
    command = [sys.executable, "-c", code, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **options)


def say_good(layout, generation, why="flown"):
    return accept(layout, generation, why=why, host={"host": "h"}, clock=FakeClock())


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path / "cache")
    with open_writer(layout) as store:
        for number in (1, 2):
            play(store, Scenario(flight=f"f{number}"))
    return layout


def test_a_generation_is_accepted_once(layout):
    found = say_good(layout, 1)
    assert (found.generation, found.origin, found.changed, found.accepted) == (1, 1, True, (1,))
    event = read_history(layout).facts[-1].event
    assert event == GenerationAccepted(generation=1, why="flown", host={"host": "h"})
    before = tree(layout.root)
    assert say_good(layout, 1, "again").changed is False
    assert {name: each[4] for name, each in tree(layout.root).items() if name != "journal.mdb"} == {
        name: each[4] for name, each in before.items() if name != "journal.mdb"
    }
    assert read_history(layout).facts[-1].event == event
    assert say_good(layout, 2).accepted == (1, 2)


@pytest.mark.parametrize("number", [0, 3, -1])
def test_an_unknown_generation_is_refused(layout, number):
    with pytest.raises(RequestRefusedError, match=f"from 1 to 2, found {number}") as refused:
        say_good(layout, number)
    assert refused.value.kind is ErrorKind.UNKNOWN_GENERATION


def test_a_collected_generation_is_refused(layout):
    with open_writer(layout) as store:
        store.append(make(CollectionPlanned, generations=(1,)), build=None)
    with pytest.raises(RequestRefusedError, match="generation 1 to be kept") as refused:
        say_good(layout, 1)
    assert refused.value.kind is ErrorKind.COLLECTED
    assert open_view(layout).state.accepted == frozenset()


def test_where_there_is_no_cache_none_is_made(tmp_path):
    with pytest.raises(RequestRefusedError, match="expected a cache"):
        say_good(Layout(tmp_path / "none"), 1)
    assert not (tmp_path / "none").exists()


def test_a_cache_without_generations_has_nothing_to_accept(tmp_path):
    layout = Layout(tmp_path / "cache")
    ensure_cache(layout, clock=FakeClock())
    with pytest.raises(RequestRefusedError, match="to accept, found none"):
        say_good(layout, 1)


def test_nothing_is_recovered_during_a_build(layout):
    """An open build may be alive: only who holds the build lock may say that it is not."""
    with open_writer(layout) as store:
        with pytest.raises(StopDeadError):
            play(store, Scenario(flight="f3", die_at="index"))
        (layout.scratch / "draft").write_bytes(b"of somebody")
        (layout.manifests / layout.manifest_name(1)).unlink()
    say_good(layout, 2)
    assert open_view(layout).state.builds[3].status is BuildStatus.OPEN
    assert (layout.scratch / "draft").exists()
    assert 1 not in layout.manifest_files()


def test_a_journal_that_lost_its_tail_is_not_written_to(layout, tmp_path):
    shutil.copyfile(layout.journal, tmp_path / "old")
    record_builds(layout, Scenario(flight="f3"))
    shutil.copyfile(tmp_path / "old", layout.journal)
    before = layout.journal.read_bytes()
    with pytest.raises(DamagedHistoryError):
        say_good(layout, 1)
    assert layout.journal.read_bytes()[8192:] == before[8192:]


def test_a_journal_of_a_newer_version_is_not_written_to(layout):
    with Journal.open(layout.journal) as journal:
        strange = Record(tag="new", version=1, build=None, wall_ns=1, mono_ns=1, payload={})
        head = journal.append([strange])
    with pytest.raises(UnknownEventError, match="new v1"):
        say_good(layout, 1)
    assert open_view(layout).head == head


def test_what_is_decided_is_decided_on_the_head_that_it_is_appended_to(layout):
    seen = []

    def decide(state):
        seen.append((state.position.seq, state.accepted))
        if len(seen) == 1:
            assert child(ACCEPT, layout.root, 2).wait() == 0
        return [make(StepStarted)] if 2 not in state.accepted else []

    with open_for_append(layout, clock=FakeClock()) as beside:
        assert beside.append(decide) is False
    assert [accepted for _, accepted in seen] == [frozenset(), {2}]


def test_many_that_accept_at_once_lose_nothing(layout):
    with open_writer(layout) as store:
        for number in range(3, 9):
            play(store, Scenario(flight=f"f{number}"))
    children = [child(ACCEPT, layout.root, *range(first, 9, 4)) for first in range(1, 5)]
    record_builds(layout, Scenario(flight="f9"))
    assert [each.wait() for each in children] == [0] * 4
    state = open_view(layout).state
    assert state.accepted == frozenset(range(1, 9))
    assert state.head.number == 9


def test_a_cache_is_created_once_however_many_are_first(tmp_path):
    roots = [tmp_path / f"cache-{number}" for number in range(12)]
    children = [child(START, *roots, stdin=subprocess.PIPE) for _ in range(4)]
    for each in children:
        each.stdin.write(b"go\n")
        each.stdin.close()
    assert [each.wait() for each in children] == [0] * 4
    for root in roots:
        layout = Layout(root)
        assert open_view(layout).head.seq == 1
        with open_writer(layout) as store:
            assert walk(store.artifacts, {}, referenced=frozenset(), full=False).foreign_files == ()
