"""The area of a build, from its records and from whatever else can be read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning.area_report import runs
from pipeline.request.geometry import HALF_TURN_E7, MERCATOR_LIMIT_E7
from pipeline.tiles.grid import wanted_tiles
from store.base import canonical_json
from store.base.identity import cell_components, cell_key, descriptor_id
from store.domain import events as e
from store.domain.step_cache import RecordedBy, StepCache
from store.formats.tables import encode_tiles
from tests.played_builds import make, ref_of
from tests.tools.stories import Shelf, Story
from tools.forensics.ground import area as areas
from tools.forensics.ground.area import area_document

SPACE = "5" * 64
WORLD = [-HALF_TURN_E7, -MERCATOR_LIMIT_E7, HALF_TURN_E7, MERCATOR_LIMIT_E7]
NO_REQUEST_HAS = [
    (WORLD, [3, 2]),
    (WORLD, [-1, 2]),
    (WORLD, [0, 26]),
    ([0, -900_000_000, 10, 0], [6, 6]),
    ([0, 0, 10, 900_000_000], [6, 6]),
    ([0, 10, 10, 0], [6, 6]),
    ([-(10**400), 0, 10, 10], [6, 6]),
    (WORLD, [0, 25]),
]


def table(*places):
    """A tile table; the digest of each tile is that of its place."""
    return encode_tiles(
        (descriptor_id(*place), ref_of(repr(place).encode()).sha256, None) for place in places
    )


def told(story, *artifacts, space=SPACE, before=None, **inputs):
    return area_document(
        story.timeline(), inputs, Shelf(*artifacts), spaces=(space,) if space else (), before=before
    )


def selecting(data, **more):
    return Story().add(make(e.BuildStarted)).add(make(e.TilesSelected, table=ref_of(data), **more))


def statuses(document):
    return {tuple(cell[:3]): cell[4] for cell in document["cells"]}


def test_a_build_that_names_no_area_has_none():
    assert told(Story().add(make(e.BuildStarted))) is None
    assert told(Story().add(make(e.BuildStarted)), bbox_e7="west", zoom=[1]) is None
    assert told(Story().add(make(e.BuildStarted)), bbox_e7=[1, 2, 3, True]) is None


def test_before_tiles_are_selected_there_is_the_box_alone():
    document = told(
        Story().add(make(e.BuildStarted)), bbox_e7=[0, 0, 9, 9], zoom=[6, 7], origin={"lat_e7": 1}
    )
    assert (document["bbox_e7"], document["zoom"], document["origin"]) == (
        [0, 0, 9, 9],
        [6, 7],
        {"lat_e7": 1},
    )
    assert (document["wanted"], document["present"], document["known"]) == (None, None, "cells")
    assert document["cells"] == []


def test_cells_and_holes_from_the_table_alone():
    places = [(6, x, y) for x in range(20) for y in range(64) if (x, y) not in {(3, 5), (4, 5), (6, 5)}]
    data = table(*places)
    west = [-HALF_TURN_E7, -MERCATOR_LIMIT_E7, -HALF_TURN_E7 + 20 * HALF_TURN_E7 // 32, MERCATOR_LIMIT_E7]
    document = told(selecting(data, count=len(places), wanted=1280), data, bbox_e7=west, zoom=[6, 6])
    assert (document["known"], document["present"], document["wanted"]) == ("tiles", 1277, 1280)
    assert statuses(document) == {(6, x, y): "waiting" for x in (0, 1) for y in range(4)}
    assert [cell[3] for cell in document["cells"]] == [253, 256, 256, 256, 64, 64, 64, 64]
    assert document["tiles"]["holes"] == [[6, 5, 3, 4], [6, 5, 6, 6]]
    assert document["tiles"]["present"] == runs(places)


@given(st.sets(st.tuples(st.just(3), st.integers(0, 7), st.integers(0, 7))), st.data())
def test_present_tiles_and_holes_are_what_is_wanted(places, data):
    west, east = sorted(data.draw(st.sets(st.integers(-18, 18), min_size=2, max_size=2)))
    south, north = sorted(data.draw(st.sets(st.integers(-8, 8), min_size=2, max_size=2)))
    box = [degrees * 100_000_000 for degrees in (west, south, east, north)]
    encoded = table(*places)
    document = told(selecting(encoded), encoded, bbox_e7=box, zoom=[3, 3])
    wanted = {tuple(place) for place in wanted_tiles(tuple(box), (3, 3))}
    assert document["tiles"]["holes"] == runs(wanted - places)
    assert document["tiles"]["present"] == runs(places)
    assert sum(cell[3] for cell in document["cells"]) == len(places)


@pytest.mark.parametrize(("box", "zoom"), NO_REQUEST_HAS)
def test_an_area_that_no_request_has_shows_no_holes(box, zoom):
    data = table((6, 1, 1))
    document = told(selecting(data), data, bbox_e7=box, zoom=zoom)
    assert document["tiles"]["holes"] == []
    assert document["tiles"]["present"] == [[6, 1, 1, 1]]


def test_many_holes_are_cut(monkeypatch):
    monkeypatch.setattr(areas, "MAX_RUNS", 5)
    data = table(*((3, x, y) for x in range(0, 8, 2) for y in range(8)))
    assert told(selecting(data), data, bbox_e7=WORLD, zoom=[3, 3])["tiles"]["holes"] == [
        *([3, 0, x, x] for x in (1, 3, 5, 7)),
        [3, 1, 1, 1],
    ]


def test_a_table_that_is_none_is_not_believed():
    data = b"no table at all"
    story = selecting(data).add(make(e.StepStarted, kind="cells", subjects=("6/0/1",)))
    document = told(story, data)
    assert (document["known"], document["cells"]) == ("cells", [[6, 0, 1, None, "dispatched", 3, None]])
    assert document["tiles"]["present"] == []


def test_without_a_table_the_records_tell_which_cells_were_worked_on():
    story = Story().add(make(e.BuildStarted))
    story.add(make(e.StepStarted, kind="cells", subjects=("6/0/0", "6/0/1", "6/0", "x/y/z", "6/0/-1")))
    story.add(make(e.StepStarted, kind="cells", subjects=("6/0/1",)))
    story.add(make(e.StepReused, kind="cells", count=9))
    story.add(make(e.CellEmbedded, zoom=6, cell_x=0, cell_y=0, rows=7))
    story.add(make(e.CellEmbedded, zoom=6, cell_x=5, cell_y=0, rows=8))
    story.add(make(e.BuildFailed, step="cells", inputs={"window": {"cells": ["6/9/9", 7]}}))
    assert told(story)["cells"] == [
        [6, 0, 0, None, "embedded", 2, 5],
        [6, 0, 1, None, "dispatched", 2, None],
        [6, 5, 0, 8, "embedded", None, 6],
        [6, 9, 9, None, "failing", None, None],
    ]


def block(place, space=SPACE):
    """The record of a block of one tile."""
    zoom, x, y = place
    tiles = [(descriptor_id(*place), ref_of(repr(place).encode()).sha256)]
    key = cell_key(cell_components(space=space, tiles=tiles))
    return make(e.CellEmbedded, space=space, zoom=zoom, cell_x=x >> 4, cell_y=y >> 4, key=key)


def test_cells_were_reused_whose_very_tiles_had_a_block():
    data = table((6, 0, 0), (6, 16, 0), (6, 32, 0))
    before = StepCache()
    before.record_result(block((6, 0, 0)), RecordedBy(1, 1))
    before.record_result(block((6, 16, 1)), RecordedBy(2, 1))
    story = selecting(data).add(make(e.StepReused, kind="cells", count=1))
    story.add(make(e.StepReused, kind="engine", count=1))
    story.add(make(e.StepStarted, kind="cells", subjects=("6/1/0",)))
    document = told(story, data, before=before)
    assert statuses(document) == {(6, 0, 0): "reused", (6, 1, 0): "dispatched", (6, 2, 0): "waiting"}
    assert document["cells"][0][6] == 3


@pytest.mark.parametrize(("before", "space"), [(None, SPACE), (StepCache(), "")])
def test_where_nobody_knows_what_could_be_reused_untouched_cells_were(before, space):
    data = table((6, 0, 0), (6, 16, 0))
    story = selecting(data).add(make(e.StepReused, kind="cells", count=1))
    story.add(make(e.CellEmbedded, zoom=6, cell_x=1, cell_y=0))
    assert statuses(told(story, data, before=before, space=space)) == {
        (6, 0, 0): "reused",
        (6, 1, 0): "embedded",
    }


REPORT = canonical_json.encode(
    {"holes": [[6, 0, 1, 2], [6, 0, 1], "no run"], "featureless": 7, "skipped": [[6, 1, 0, 0]]}
)


def test_the_report_of_a_walk_is_believed_rather_than_the_table():
    data = table((6, 0, 0))
    story = selecting(data).add(make(e.CoverageWalked, geography=ref_of(REPORT)))
    document = told(story, data, REPORT, bbox_e7=WORLD, zoom=[6, 6])
    assert document["report"] is True
    assert {name: found for name, found in document["tiles"].items() if found} == {
        "holes": [[6, 0, 1, 2]],
        "skipped": [[6, 1, 0, 0]],
        "present": [[6, 0, 0, 0]],
    }


def failing(data):
    attached = {"geography": {"sha256": ref_of(data).sha256, "size": len(data)}}
    return make(e.BuildFailed, step="coverage", inputs={"attached": attached})


@pytest.mark.parametrize("other", [b"\xff no document", b"[1]", None])
def test_a_report_that_is_none_is_passed_over(other):
    story = Story().add(make(e.BuildStarted)).add(make(e.CoverageWalked, geography=ref_of(REPORT)))
    story.add(failing(b"lost" if other is None else other))
    document = told(story, REPORT, *([] if other is None else [other]), bbox_e7=WORLD)
    assert document["tiles"]["holes"] == [[6, 0, 1, 2]]
    story = Story().add(make(e.BuildStarted)).add(failing(REPORT))
    assert told(story, REPORT, bbox_e7=WORLD)["report"] is True
    assert told(story, bbox_e7=WORLD)["report"] is False


def test_a_table_without_tiles_has_no_cells():
    data = table()
    document = told(selecting(data), data, bbox_e7=WORLD, zoom=[0, 0])
    assert (document["known"], document["cells"]) == ("tiles", [])
    assert document["tiles"]["holes"] == [[0, 0, 0, 0]]


def test_failing_tiles_are_shown_as_runs():
    window = {"tiles": [["6/1/2", "aa"], ["6/2/2", "bb"], [], "6/3/2", ["x"]]}
    story = (
        Story().add(make(e.BuildStarted)).add(make(e.BuildFailed, step="cells", inputs={"window": window}))
    )
    document = told(story, bbox_e7=WORLD)
    assert document["tiles"]["failing"] == [[6, 2, 1, 2]]
    assert statuses(document) == {(6, 0, 0): "failing"}


def test_levels_that_no_build_has_are_none():
    data = table((6, 0, 0))
    document = told(selecting(data), data, bbox_e7=WORLD, zoom=[6, 6], chunks={"levels": "all"})
    assert (document["levels"], document["known"], document["tiles"]["present"]) == ([], "cells", [])


def test_an_area_of_too_many_steps_is_not_drawn():
    data = table((6, 0, 0))
    levels = [{"zoom": 18, "k": 7, "m": 31, "tile_edge": 256}]
    last_row = [WORLD[0], WORLD[1], WORLD[2], WORLD[1] + 8]
    document = told(selecting(data), data, bbox_e7=last_row, zoom=[18, 18], chunks={"levels": levels})
    assert document["levels"] == levels
    assert document["tiles"]["present"] == [[6, 0, 0, 0]]


def test_ids_of_any_bits_are_tiles_somewhere():
    ids = np.array([0, 1 << 62, (1 << 64) - 1], np.uint64)
    data = encode_tiles((int(identifier), "00" * 32, None) for identifier in ids)
    document = told(selecting(data), data, bbox_e7=WORLD, zoom=[0, 0])
    assert sum(cell[3] for cell in document["cells"]) == 3
