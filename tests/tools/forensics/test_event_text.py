"""One line for people about every kind of event."""

from typing import get_args

import pytest

from store.domain import events as e
from store.domain import maintenance_events
from tests.played_builds import make, ref_of
from tools.forensics.event_text import describe
from tools.forensics.records import DecodedRecord


def record(event, **more):
    fields = {"seq": 1, "chain": "", "build": 1, "wall_ns": 0, "mono_ns": 0, "tag": "x", "version": 1}
    return DecodedRecord(**(fields | more), event=event)


BYTES = ref_of(b"x" * 2048)
ONE, TWO = ("a" * 64,), ("a" * 64, "b" * 64)
KILLED = "was killed"
LINES = [
    (
        make(e.CacheCreated, cache_id="0123456789abcdef", writer="c10 1.0"),
        "cache 0123456789ab created by c10 1.0",
    ),
    (make(e.BuildStarted, inputs={"flight_id": "f1"}), "build of 'f1' began"),
    (make(e.BuildStarted, again=True), "build of None began, although it was rolled back from or is there"),
    (make(e.BuildPlanned), "planned: nothing"),
    (
        make(
            e.BuildPlanned,
            steps=(
                {"kind": "engine", "subject": "net", "decision": "run"},
                {"kind": "cells", "subject": None, "decision": "reuse"},
            ),
        ),
        "planned: engine net run, cells reuse",
    ),
    (make(e.TilesSelected, count=1, wanted=1), "1 tile selected of 1 wanted"),
    (
        make(e.TilesSelected, count=1900, wanted=2000, excluded=3),
        "1,900 tiles selected of 2,000 wanted, 3 left out",
    ),
    (make(e.StepReused, kind="cells", count=7), "7 steps reused: cells"),
    (make(e.CoverageWalked, files=4, present=5, wanted=6), "4 files walked, 5 of 6 present"),
    (make(e.StepStarted, kind="index"), "index begun"),
    (
        make(e.StepStarted, kind="cells", subjects=("6/0/0", "6/0/1", "6/0/2", "6/0/3")),
        "cells begun: 6/0/0, 6/0/1, 6/0/2 and 1 more",
    ),
    (
        make(e.StepRetried, kind="cells", subjects=("6/0/0",), attempt=2, why=KILLED),
        "cells again, attempt 2 failed: was killed (6/0/0)",
    ),
    (
        make(e.EngineCompiled, model="net", purpose="flight", artifact=BYTES, elapsed_ms=1500),
        "engine net compiled: 2.0 KiB in 1.5 s",
    ),
    (
        make(e.EngineCompiled, model="net", purpose="stand-in", artifact=BYTES),
        "engine net compiled as stand-in: 2.0 KiB in 0 ms",
    ),
    (
        make(e.TilesPacked, zoom=6, cell_x=1, cell_y=2, tiles=9, pack=BYTES),
        "cell 6/1/2: 9 tiles packed, 2.0 KiB",
    ),
    (make(e.TilesCarried, tiles=1, size=2048), "1 tile to be carried, 2.0 KiB"),
    (
        make(e.CellEmbedded, zoom=6, cell_x=1, cell_y=2, rows=9, embedded=5, copied=4),
        "cell 6/1/2: 9 rows, 5 embedded, 4 copied",
    ),
    (
        make(e.IndexBuilt, kind="flat", rows=1000, artifact=BYTES, elapsed_ms=20),
        "index flat built: 1,000 rows, 2.0 KiB in 20 ms",
    ),
    (
        make(e.IndexExtended, kind="hnsw", rows=1000, added=3, dropped=2, artifact=BYTES, elapsed_ms=20),
        "index hnsw extended: 1,000 rows, 3 added, 2 left out, 2.0 KiB in 20 ms",
    ),
    (make(e.CheckPassed, check="engine", subject="net"), "check engine of net passed"),
    (
        make(
            e.CheckPassed, check="proof", subject="photographs", measured={"right": 3, "margins": [[1, 4, 3]]}
        ),
        "check proof of photographs passed: right 3",
    ),
    (
        make(e.CheckPassed, check="engine", subject="net", measured={"cosine_ppm": 999, "images": 3}),
        "check engine of net passed: cosine 0.000999, images 3",
    ),
    (
        make(e.CheckFailed, check="index", subject="index", why="it is off"),
        "check index of index FAILED: it is off",
    ),
    (make(e.BuildCommitted, generation=3, origin=2), "generation 3 committed, shows build 2"),
    (
        make(e.BuildCommitted, generation=3, origin=2, signature="s", key_id="k1"),
        "generation 3 committed, shows build 2, signed by k1",
    ),
    (
        make(e.BuildFailed, step="cells", subject="6/1/2", message="no picture"),
        "failed at cells 6/1/2: no picture",
    ),
    (make(e.BuildAbandoned, reason=KILLED), "abandoned, it was at its start: was killed"),
    (make(e.BuildAbandoned, reason=KILLED, step="index"), "abandoned, it was at index: was killed"),
    (make(e.BuildRefused, reason="rolled back"), "refused: rolled back"),
    (make(e.BuildDenied, waited_ms=2500), "a run waited 2.5 s for the build lock, in vain"),
    (
        make(maintenance_events.RolledBack, left=3, target=1),
        "rolled back from build 3 to build 1: no reason given",
    ),
    (
        make(maintenance_events.RolledBack, left=3, target=1, why="fog"),
        "rolled back from build 3 to build 1: fog",
    ),
    (make(maintenance_events.GenerationAccepted, generation=2), "generation 2 accepted: no reason given"),
    (make(maintenance_events.GenerationAccepted, generation=2, why="flown"), "generation 2 accepted: flown"),
    (make(maintenance_events.GenerationSigned, generation=2, key_id="k1"), "generation 2 signed by k1"),
    (
        make(maintenance_events.CollectionPlanned, digests=ONE, size=2048),
        "1 artifact about to be collected, 2.0 KiB",
    ),
    (make(maintenance_events.Collected, digests=TWO, size=3), "2 artifacts collected, 3 B"),
    (
        make(maintenance_events.Repaired, subject="engine net", sha256="ab" * 32, action="built anew"),
        "engine net abababababab: built anew",
    ),
    (make(maintenance_events.Imported, artifacts=2, source="b.c10"), "2 artifacts imported from b.c10"),
]


@pytest.mark.parametrize(("event", "line"), LINES)
def test_what_a_record_says(event, line):
    assert describe(record(event)) == line


def test_every_kind_of_event_is_told():
    assert {type(event) for event, _ in LINES} == set(get_args(e.Event))


def test_what_is_not_understood_is_told_as_it_stands():
    later = record(None, payload={"of": "sheep"})
    assert describe(later) == "written by a later version: {'of': 'sheep'}"
    broken = record(None, payload={"of": "sheep"}, problem="expected a text\x1b, found 7")
    assert describe(broken) == "cannot be read: expected a text\\x1b, found 7"


def test_a_line_stays_one_line_of_bounded_length():
    told = describe(record(make(e.BuildRefused, reason="a\n" + "b" * 5000)))
    assert told.startswith("refused: a\\n")
    assert told.endswith("more characters)")
    assert len(told) < 650
