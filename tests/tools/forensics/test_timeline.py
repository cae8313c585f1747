"""Clocks, gaps, steps and findings, from records made by hand."""

import pytest

from store.domain import events as e
from store.domain import maintenance_events
from tests.played_builds import make, ref_of
from tests.tools.stories import SECOND, Story
from tools.forensics.cost import cost_of, index_rows, normal_ms
from tools.forensics.steps import Step
from tools.forensics.timeline import builds_in, timeline_rows


def started(**host):
    return make(e.BuildStarted, host=host)


def test_steps_of_a_whole_build():
    found = Story().build(1).timeline()
    assert [(step.kind, step.subject, step.outcome, step.count) for step in found.steps] == [
        ("plan", "", "done", 10),
        ("engine", "net", "done", 0),
        ("check", "net", "done", 0),
        ("cells", "", "done", 10),
        ("index", "", "done", 10),
        ("coverage", "", "done", 3),
        ("commit", "", "done", 0),
    ]
    told = cost_of(found)
    assert [step["ms"] for step in told["steps"]] == [500, 2000, 250, 1000, 125, 125, 62]
    assert (told["ms"], told["embedded"], told["reused_tiles"], told["reuse_ppm"]) == (4062, 10, 0, 0)
    assert told["bytes"] == 5 + 3
    assert Story().build(1).findings() == []


@pytest.mark.parametrize(
    ("embedded", "ppm"), [(0, 1_000_000), (1, 999_999), (3_999_999, 1), (4_000_000, 0), (5_000_000, 0)]
)
def test_reuse_is_all_or_nothing_only_if_it_was(embedded, ppm):
    story = Story().add(started()).add(make(e.TilesSelected, count=4_000_000))
    story.add(make(e.CellEmbedded, embedded=embedded)).add(make(e.IndexBuilt))
    assert cost_of(story.timeline())["reuse_ppm"] == ppm


def test_the_chunks_of_a_build_that_reuses_its_index_are_those_of_the_index():
    """A block that was made again may have the same bytes, and with it the index."""
    story = Story().add(make(e.IndexBuilt, key="k", rows=50), build=None)
    story.add(make(e.BuildStarted, inputs={"chunks": {}})).add(make(e.TilesSelected, count=7))
    story.add(make(e.CellEmbedded, embedded=10)).add(make(e.StepReused, kind="index", keys={"": "k"}))
    story.add(make(e.CoverageWalked))
    told = cost_of(story.timeline(), index_rows(story.records))
    assert (told["tiles"], told["embedded"], told["reused_tiles"], told["reuse_ppm"]) == (7, 10, 40, 800_000)
    # Of an index whose records are not here nobody knows.
    assert cost_of(story.timeline())["reuse_ppm"] is None


def test_a_clock_that_jumps_is_found_and_does_not_change_durations():
    story = Story().add(started(boot="b")).add(make(e.TilesSelected), after=1, jump=-3600)
    story.add(make(e.BuildPlanned), after=1).add(
        make(e.StepStarted, kind="engine", subjects=("n",)), jump=0.5
    )
    (jump,) = story.findings()
    assert (jump["kind"], jump["severity"], jump["seq"]) == ("clock-jump", "warning", 2)
    assert "jumped back by 1 h 00 min" in jump["text"]
    assert [row["ms"] for row in timeline_rows(story.timeline())[0]] == [0, 1000, 2000, 2000]


@pytest.mark.parametrize(
    ("after", "jump", "kinds"), [(100_000, 50, ["gap"]), (100_000, 200, ["clock-jump", "gap"])]
)
def test_clocks_may_drift_apart_slowly(after, jump, kinds):
    story = Story().add(started()).add(make(e.BuildPlanned), after=after, jump=jump)
    assert sorted(story.kinds()) == kinds


def test_a_steady_clock_that_goes_back_is_another_boot():
    story = Story().add(started()).add(make(e.BuildPlanned), after=-5)
    assert story.kinds() == ["boot-change"]


def test_silence_is_found_unless_a_step_accounts_for_it():
    story = Story().add(started()).add(make(e.StepStarted, kind="engine", subjects=("n",)))
    story.add(make(e.EngineCompiled, model="n", elapsed_ms=119_000), after=120)
    assert story.kinds() == []
    story.add(make(e.CheckPassed, subject="n"), after=61)
    (gap,) = story.findings()
    assert (gap["kind"], gap["seq"]) == ("gap", 4)


def test_what_took_longer_than_before_is_slow():
    story = Story().build(1).build(2).build(3, compiling=9.0)
    (slow,) = story.findings(3, earlier=(1, 2))
    assert (slow["kind"], slow["seq"]) == ("slow-step", 28)
    assert "engine net took 9.0 s" in slow["text"]
    assert story.findings(2, earlier=(1,)) == []


def test_more_work_may_take_longer():
    story = Story().build(1).build(2, embedding=10.0, count=100)
    assert story.findings(2, earlier=(1,)) == []


def test_little_work_takes_what_it_takes_to_begin():
    story = Story().build(1, embedding=5.0, count=100).build(2, embedding=5.5, count=1)
    assert story.findings(2, earlier=(1,)) == []


def test_retries_are_found_and_counted():
    story = Story().add(started()).add(make(e.StepStarted, kind="cells", subjects=("6/0/0", "6/0/1")))
    story.add(
        make(e.StepRetried, kind="cells", subjects=("6/0/0", "6/0/1"), attempt=1, why="died by SIGKILL")
    )
    assert story.kinds() == ["retry"]
    (part,) = story.timeline().steps[1].parts
    assert (part.attempts, part.end, part.left) == (2, None, {"6/0/0", "6/0/1"})


def test_a_divided_cell_ends_all_windows_that_have_a_part_of_it():
    story = Story().add(started())
    for cells in (("6/0/0", "6/0/1"), ("6/0/1",), ("6/0/1", "6/0/2")):
        story.add(make(e.StepStarted, kind="cells", subjects=cells))
    story.add(make(e.StepRetried, kind="cells", subjects=("6/0/1",), attempt=1, why="died by SIGKILL"))
    for y in range(3):
        story.add(make(e.CellEmbedded, zoom=6, cell_x=0, cell_y=y), after=1)
    parts = story.timeline().steps[1].parts
    assert [part.attempts for part in parts] == [1, 2, 1]
    assert [part.end.seq - parts[0].begin.seq for part in parts] == [5, 5, 6]
    # Another network embeds the same cells.
    story.add(make(e.StepStarted, kind="cells", subjects=("6/0/0", "6/0/1")))
    story.add(make(e.CellEmbedded, zoom=6, cell_x=0, cell_y=0), after=1)
    parts = story.timeline().steps[1].parts
    assert [part.left for part in parts] == [set(), set(), set(), {"6/0/1"}]
    assert parts[0].end.seq - parts[0].begin.seq == 5


def test_a_retry_counts_for_a_window_that_failed_as_often():
    story = Story().add(started())
    for cells in (("6/0/0",), ("6/0/0", "6/0/1"), ("6/0/0",), ("6/0/0",)):
        story.add(make(e.StepStarted, kind="cells", subjects=cells))
    for attempt in (1, 2, 1):
        story.add(make(e.StepRetried, kind="cells", subjects=("6/0/0",), attempt=attempt, why="died"))
    # Of which of the three it is the first failure, no record says.
    assert [part.attempts for part in story.timeline().steps[1].parts] == [1, 1, 2, 3]


def test_a_build_that_ends_without_a_word_leaves_its_steps_cut():
    story = Story().add(started()).add(make(e.StepStarted, kind="cells", subjects=("6/0/0", "6/0/1")))
    story.add(make(e.CellEmbedded, zoom=6, cell_x=0, cell_y=0), after=1)
    assert [(step.kind, step.outcome) for step in story.timeline().steps] == [
        ("plan", "cut"),
        ("cells", "cut"),
    ]


@pytest.mark.parametrize(
    ("last", "step"),
    [
        (make(e.CoverageWalked), "commit"),
        (make(e.TilesCarried), "coverage"),
        (make(e.IndexBuilt), "check"),
        (make(e.CheckPassed, subject="index"), "coverage"),
        (make(e.CheckPassed, check="proof", subject="photographs"), "coverage"),
        (make(e.StepReused, kind="proof", count=1), "coverage"),
        (make(e.StepReused, kind="cells", count=3), "index"),
        (make(e.BuildPlanned), "plan"),
        (make(e.CheckPassed, subject="net"), "cells"),
        (make(e.CellEmbedded), "index"),
    ],
)
def test_a_death_between_two_steps(last, step):
    story = Story().add(started(boot="b")).add(make(e.BuildPlanned)).add(last)
    assert (story.timeline().steps[-1].kind, story.timeline().steps[-1].outcome) == (step, "cut")
    story.add(make(e.BuildAbandoned, host={"boot": "b"}), after=60)
    found = story.timeline()
    assert (found.steps[-1].kind, found.steps[-1].outcome) == (step, "cut")
    assert timeline_rows(found)[0][-1]["ms"] == 60_000


def test_inputs_that_cannot_be_read_cut_no_step_short():
    story = Story().add(started(boot="b")).add(make(e.BuildFailed, step="inputs", kind="bad-model"))
    assert [(step.kind, step.outcome) for step in story.timeline().steps] == [("plan", "failed")]


def test_after_a_restart_the_wall_clock_has_to_do():
    story = Story().add(started(boot="b")).add(make(e.BuildPlanned), after=1)
    story.mono = 5
    story.wall += 3600 * SECOND
    story.add(make(e.BuildAbandoned, host={"boot": "c"}))
    assert timeline_rows(story.timeline())[0][-1]["ms"] == 3_601_000
    assert "boot-change" in story.kinds()


def test_a_later_rollback_to_a_build_is_not_part_of_it():
    story = Story().build(1).build(2).add(make(maintenance_events.RolledBack), build=None)
    story.add(make(e.BuildCommitted, generation=3, origin=1), build=1)
    assert builds_in(story.records) == {1: (0, 11), 2: (12, 23)}
    assert len(story.timeline().own) == 12


def test_what_happens_beside_a_build_is_in_its_timeline():
    story = (
        Story()
        .add(started(boot="b"))
        .add(make(maintenance_events.GenerationAccepted), build=None, tag="generation.accepted")
    )
    story.add(make(e.BuildDenied, host={"boot": "b"}), build=None, after=1).add(make(e.BuildPlanned), after=1)
    shown, cut = timeline_rows(story.timeline())
    assert [row["build"] for row in shown] == [1, None, None, 1]
    assert cut == 0
    assert sorted(story.kinds()) == ["beside", "denied"]


def test_a_failed_check_before_the_failure_is_the_failed_step():
    story = Story().add(started()).add(make(e.CheckFailed, check="engine", subject="n", why="off"))
    story.add(make(e.BuildFailed, step="check", subject="n"), after=1)
    assert [(step.kind, step.outcome) for step in story.timeline().steps] == [
        ("plan", "cut"),
        ("check", "failed"),
    ]
    (finding,) = story.findings()
    assert (finding["kind"], finding["severity"], finding["seq"]) == ("check-failed", "error", 2)
    assert finding["text"] == "check engine of n failed: off"


def test_long_timelines_are_cut_in_the_middle():
    story = Story().add(started())
    for _ in range(20_010):
        story.add(make(e.BuildPlanned), after=0.001)
    shown, cut = timeline_rows(story.timeline())
    assert (len(shown), cut, shown[9_999]["seq"], shown[10_000]["seq"]) == (20_000, 11, 10_000, 10_012)


def test_what_was_found_in_the_cache_is_worth_a_word():
    story = (
        Story()
        .add(started())
        .add(make(maintenance_events.Repaired, subject="engine net", sha256="ab" * 32, action="built anew"))
    )
    story.add(make(e.TilesSelected, warnings=("3 tiles are missing",)))
    story.add(make(e.CoverageWalked, problems=("ab/cd: nobody's",)))
    assert [(each["kind"], each["severity"], each["text"]) for each in story.findings()] == [
        ("repaired", "warning", "engine net abababababab was damaged: built anew"),
        ("strangers", "warning", "1 stranger in the cache: ab/cd: nobody's"),
        ("warning", "note", "3 tiles are missing"),
    ]


def test_records_that_are_not_understood_are_worth_a_word():
    story = (
        Story()
        .add(started())
        .add(None, tag="sheep.dreamt")
        .add(None, tag="build.planned", problem="no steps")
    )
    damaged, unknown = story.findings()
    assert (damaged["kind"], damaged["severity"], damaged["seq"]) == ("damaged-record", "error", 3)
    assert damaged["text"] == "record 3 (build.planned) cannot be read: no steps"
    assert (unknown["kind"], unknown["severity"], unknown["seq"]) == ("unknown-event", "warning", 2)
    assert "'sheep.dreamt' of version 1" in unknown["text"]


@pytest.mark.parametrize("step", ["tiles", "plan", "start"])
def test_a_failure_before_the_plan_is_done_is_one_of_planning(step):
    story = Story().add(started()).add(make(e.BuildFailed, step=step), after=1)
    (found,) = story.timeline().steps
    assert (found.kind, found.outcome, found.end.seq) == ("plan", "failed", 2)


def test_a_retry_of_what_nobody_began_is_a_finding_and_no_step():
    story = Story().add(started()).add(make(e.StepRetried, kind="engine", why="it crashed"))
    assert [step.kind for step in story.timeline().steps] == ["plan"]
    assert [each["text"] for each in story.findings()] == ["engine was tried again: it crashed"]


def test_cells_and_tiles_that_nobody_began_are_steps():
    story = Story().add(make(e.TilesSelected, count=3)).add(make(e.BuildPlanned))
    story.add(make(e.CellEmbedded, zoom=6, embedded=3, block=ref_of(b"123")), after=1)
    story.add(make(e.IndexBuilt, rows=3), after=1)
    found = story.timeline().steps
    assert [(step.kind, step.outcome, step.count) for step in found[:2]] == [
        ("plan", "done", 3),
        ("cells", "done", 3),
    ]
    assert (found[1].begin.seq, found[1].size) == (2, 3)


@pytest.mark.parametrize(
    ("outcome", "count", "expected"),
    [
        ("failed", 0, None),
        ("cut", 0, None),
        ("failed", 3, 600),
        ("done", 0, 500),
        ("done", 8, 1600),
        ("done", 40, 8000),
        ("done", 41, None),
    ],
)
def test_a_step_that_came_to_nothing_has_no_usual_time(outcome, count, expected):
    rates = {("cells", ""): [(2000, 10), (500, 1)], ("engine", "net"): [(500, 1)]}
    step = Step(kind="cells", subject="", begin=None, outcome=outcome, count=count)
    assert normal_ms(step, rates) == expected
    engine = Step(kind="engine", subject="net", begin=None, outcome=outcome)
    assert normal_ms(engine, rates) == 500


def test_a_build_of_one_tile_does_not_spoil_the_usual_times():
    story = Story().genesis().build(1, embedding=8.0, count=400)
    for number in (2, 3, 4):
        story.build(number, embedding=1.5, count=1)
    story.build(5, embedding=8.0, count=400)
    document = story.builds().rates(5)
    (step,) = [each for each in story.timeline(5).steps if each.kind == "cells"]
    assert normal_ms(step, document) == 8000


def test_an_abandoned_build_took_no_longer_than_its_own_records():
    story = Story().add(make(e.BuildStarted, host={"boot": "b"})).add(make(e.BuildPlanned), after=2)
    story.add(make(e.BuildAbandoned, host={"boot": "b"}), after=900)
    assert story.timeline().took_ms == cost_of(story.timeline())["ms"] == 2000
