"""Why a step ran again, and what a descriptor and an artifact come from, in histories made by hand."""

import datetime as dt

import numpy as np
import pytest

from store.base.identity import descriptor_id
from store.base.values import ArtifactRef
from store.domain import events as e
from store.domain import maintenance_events
from store.domain.state import STAND_IN
from store.errors import RequestRefusedError
from store.formats import descriptor_block
from store.formats.descriptor_block import Block
from store.formats.tables import BlockRow, encode_blocks, encode_tiles
from tests.played_builds import make, ref_of
from tests.tools.stories import Story
from tools.analysis.provenance import parse_descriptor_id
from tools.analysis.replay_document import replay
from tools.analysis.replay_text import diff_lines, replay_lines, why_lines
from tools.analysis.why import why

ENGINE, CAMERA = b"engine", b"camera"
TILE, SKIPPED = (6, 17, 3), (6, 18, 3)
CELL = (6, 1, 0)
SHA = {place: ref_of(repr(place).encode()).sha256 for place in (TILE, SKIPPED)}


def identifier(place):
    return descriptor_id(*place)


TABLE = encode_tiles((identifier(place), sha, None) for place, sha in SHA.items())
BLOCK = descriptor_block.encode(
    Block(
        zoom=6,
        cell_x=1,
        cell_y=0,
        dimensions=2,
        ids=np.array([identifier(TILE)], np.uint64),
        digests=np.frombuffer(bytes.fromhex(SHA[TILE]), np.uint8).reshape(1, 32),
        vectors=np.array([[0.6, 0.8]], np.float32),
        texture=np.array([0.25], np.float32),
    )
)
BLOCKS = encode_blocks([BlockRow(zoom=6, cell_x=1, cell_y=0, rows=1, ref=ref_of(BLOCK))])
CAMERA_REF = ref_of(CAMERA)
ALL = (ENGINE, CAMERA, TABLE, BLOCK, BLOCKS)


def compiled(**more):
    components = {"backend": "onnxruntime", "onnx": "d" * 64}
    fields = {"model": "net", "key": "k", "components": components, "artifact": ref_of(ENGINE)}
    return make(e.EngineCompiled, **(fields | more))


def cell(block=BLOCK, space="s", tiles="t", **more):
    components = {"space": space, "tiles": tiles}
    fields = {"zoom": 6, "cell_x": 1, "cell_y": 0, "rows": 1, "embedded": 1, "engine": ref_of(ENGINE).sha256}
    return make(e.CellEmbedded, block=ref_of(block), components=components, **(fields | more))


def index(table=BLOCKS):
    return make(e.IndexBuilt, kind="flat", rows=1, artifact=ref_of(b"index"), blocks=ref_of(table))


def history(*events, table=TABLE, calibration=CAMERA_REF):
    """A build of some events after its start and the selection of tiles."""
    story = Story().genesis().add(make(e.BuildStarted, calibration=calibration, host={"source": "tiles"}))
    if table is not None:
        story.add(make(e.TilesSelected, count=2, table=ref_of(table)))
    for event in events:
        story.add(event)
    return story


def chain(story, *artifacts, word="6/17/3"):
    return {link["what"]: link for link in why(story.source(*artifacts), word)["chain"]}


def refusal(story, *args, **more):
    with pytest.raises(RequestRefusedError) as caught:
        why(story.source(*ALL), *args, **more)
    return str(caught.value)


def test_a_descriptor_is_followed_back_to_the_calibration():
    links = chain(history(compiled(), cell(), index()), *ALL)
    assert list(links) == ["index", "block", "tile", "engine", "network", "calibration"]
    assert links["block"]["facts"] == {
        "rows": 1,
        "space": "",
        "embedded": 1,
        "row": 0,
        "texture": 0.25,
        "tile": SHA[TILE],
        "vector": [0.6, 0.8],
    }
    assert links["tile"]["sha256"] == SHA[TILE]
    assert links["tile"]["facts"] == {"view": 0, "source": "tiles", "captured": None}
    assert (links["engine"]["seq"], links["network"]["sha256"]) == (4, "d" * 64)


@pytest.mark.parametrize("word", [str(identifier(TILE)), SHA[TILE][:8], "6/17/3/0"])
def test_a_descriptor_has_several_names(word):
    story = history(compiled(), cell(), index())
    assert chain(story, *ALL, word=word) == chain(story, *ALL)


def test_lines_about_a_descriptor():
    text = why(history(compiled(), cell(), index()).source(*ALL), "6/17/3")["text"]
    assert text[2] == f"block 6/1/0 {ref_of(BLOCK).sha256} (record 5, build 1)"
    assert text[3].startswith("  rows 1, space , embedded 1, row 0, texture 0.25")
    assert text[-2:] == [f"calibration camera {ref_of(CAMERA).sha256}", "  size 6"]


def test_a_tile_that_was_skipped_has_no_row():
    facts = chain(history(compiled(), cell(), index()), *ALL, word="6/18/3")["block"]["facts"]
    assert (facts["row"], facts["why"]) == (
        None,
        "it was skipped: no image that can be decoded, or no descriptor",
    )


def test_of_several_blocks_of_a_cell_the_one_that_is_shown_is_meant():
    story = history(compiled(), cell(), cell(block=b"later"), cell(cell_x=2), index())
    assert chain(story, *ALL)["block"]["seq"] == 5
    assert chain(story, TABLE)["block"]["seq"] == 6
    other = encode_blocks([BlockRow(zoom=6, cell_x=9, cell_y=0, rows=1, ref=ref_of(BLOCK))])
    elsewhere = history(cell(), index(other))
    assert chain(elsewhere, other, TABLE)["block"]["seq"] == 4


@pytest.mark.parametrize("data", [b"no table", b""])
def test_what_cannot_be_read_is_left_out(data):
    story = history(compiled(), cell(block=data), index(table=data))
    assert "row" not in chain(story, TABLE, data)["block"]["facts"]
    assert list(chain(story)) == ["index", "block", "tile", "engine", "network", "calibration"]
    assert (chain(story)["tile"]["sha256"], "captured" in chain(story)["tile"]["facts"]) == (None, False)


def test_a_build_that_did_not_come_far_has_a_short_chain():
    story = history(table=None, calibration=None)
    assert [(what, link["name"]) for what, link in chain(story).items()] == [
        ("index", "none was built"),
        ("tile", "6/17/3"),
    ]
    assert list(chain(history(compiled()), *ALL)) == ["index", "tile", "engine", "network", "calibration"]


def test_an_engine_that_is_not_in_the_records_gives_way_to_the_stand_in():
    stand_in = compiled(purpose=STAND_IN, artifact=ref_of(b"stand-in"), components={"onnx": 7})
    links = chain(history(compiled(), stand_in, cell(engine="f" * 64), index()), *ALL)
    assert (links["engine"]["sha256"], links["engine"]["seq"]) == (ref_of(b"stand-in").sha256, None)
    assert links["network"]["sha256"] is None


@pytest.mark.parametrize(
    ("days", "told"),
    [(20_468, "2026-01-15"), (365_000, "2969-05-03"), (365_001, None), (-365_000, "0970-08-31")],
)
def test_when_a_tile_was_captured(days, told):
    row = (identifier(TILE), SHA[TILE], dt.date(1970, 1, 1) + dt.timedelta(days=days))
    table = encode_tiles([row])
    assert chain(history(table=table), table)["tile"]["facts"]["captured"] == told


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("6/17/3", identifier(TILE)),
        ("6/17/3/2", descriptor_id(6, 17, 3, 2)),
        ("26/1/1", None),
        ("6/64/0", None),
        ("6/1/1/256", None),
        ("6/1", None),
        ("7", 7),
        (str((1 << 63) - 1), (1 << 63) - 1),
        (str(1 << 63), None),
        ("seven", None),
    ],
)
def test_words_that_name_a_descriptor(word, found):
    assert parse_descriptor_id(word) == found


@pytest.mark.parametrize("word", ["6/20/3", "00000000", "nonsense", "ABCDEF01"])
def test_what_no_build_has_is_refused(word):
    assert "tile of build 1 as zoom/x/y" in refusal(history(compiled(), cell(), index()), word)
    assert "tile of build 1 as zoom/x/y" in refusal(history(table=b"no table"), "deadbeef")


def test_a_cache_without_builds_has_nothing_to_explain():
    assert "expected a build from 1 to 0, found None" in refusal(Story().genesis(), "build")
    assert "expected a build from 1 to 1, found 5" in refusal(history(), "build", number=5)


def test_why_a_cell_was_embedded_each_time():
    story = history(cell(), cell(), cell(tiles="u"), cell(tiles="v", space="z"), cell(cell_x=2))
    text = why(story.source(), "cells/6/1/0")["text"]
    assert text == [
        "cell 6/1/0: record 4, build 1: 1 rows, 1 embedded (first time)",
        "cell 6/1/0: record 5, build 1: 1 rows, 1 embedded (the same key again: its block was gone)",
        "cell 6/1/0: record 6, build 1: 1 rows, 1 embedded (changed: tiles)",
        "cell 6/1/0: record 7, build 1: 1 rows, 1 embedded (changed: space, tiles)",
    ]
    assert why(story.source(), "cells/6/9/9")["text"] == ["build 1 did not come as far as cells/6/9/9"]


def planned(*steps):
    return make(e.BuildPlanned, steps=steps)


def test_what_was_planned_is_told():
    plan = planned(
        {"kind": "engine", "subject": "net", "decision": "run", "why": "never compiled"},
        {"kind": "engine", "subject": "map", "decision": "reuse", "why": "known"},
        {"kind": "cells", "decision": "run", "why": "new tiles", "count": 3},
    )
    source = history(plan).source()
    assert why(source, "engine")["text"] == [
        "planned: run engine net: never compiled",
        "planned: reuse engine map: known",
    ]
    assert why(source, "engine/net")["text"] == ["planned: run engine net: never compiled"]
    assert why(source, "cells")["text"] == ["planned: run cells (3): new tiles"]
    assert why(source, "index")["text"] == ["build 1 did not come as far as index"]


def test_a_key_that_changed_in_nothing_that_can_be_seen():
    story = history(compiled())
    story.add(make(e.BuildFailed, step="cells"))
    story.add(make(e.BuildStarted), build=2).add(compiled(key="other"), build=2)
    assert why(story.source(), "engine/net", number=2)["text"] == [
        "engine net: key other, first in build 2",
        "engine net: build 1 had key k; what changed:",
        "  nothing: another build of the same",
    ]


def test_an_artifact_is_told_with_its_fate():
    story = history(compiled(), cell(), index())
    found = why(story.source(ENGINE), ref_of(ENGINE).sha256[:8])
    assert (found["artifact"]["role"], found["artifact"]["builds"], found["build"]) == ("engine net", [1], 1)
    assert found["text"][1:] == [
        "made by build 1, record 4",
        "step key k",
        "builds 1 name it; generations that show it: none",
        "present",
    ]
    assert why(story.source(), ref_of(ENGINE).sha256)["text"][-1] == "not to be read here"
    story.add(make(e.BuildFailed, step="cells")).add(
        make(maintenance_events.Collected, digests=(ref_of(ENGINE).sha256,)), build=None
    )
    assert why(story.source(), ref_of(ENGINE).sha256)["text"][-1] == "collected"


@pytest.mark.parametrize(
    ("event", "role"),
    [
        (make(e.BuildStarted, calibration=ref_of(b"x")), "calibration"),
        (make(e.TilesSelected, table=ref_of(b"x")), "tile table"),
        (make(e.CoverageWalked, geography=ref_of(b"x")), "geographic report"),
        (cell(block=b"x"), "block 6/1/0"),
        (index(table=b"x"), "block table"),
        (
            make(e.BuildFailed, inputs={"attached": {"tile": {"sha256": ref_of(b"x").sha256, "size": 1}}}),
            "tile of a failure",
        ),
    ],
)
def test_every_record_that_names_an_artifact_is_known(event, role):
    story = Story().genesis()
    if not isinstance(event, e.BuildStarted):
        story.add(make(e.BuildStarted))
    document = why(story.add(event).source(), ref_of(b"x").sha256)
    assert document["artifact"]["role"] == role
    assert document["artifact"]["seq"] == story.records[-1].seq
    assert document["artifact"]["builds"] == ([1] if not role.startswith("block 6") else [])


def test_what_was_made_outside_of_builds():
    story = Story().genesis().add(compiled(key=""), build=None)
    text = why(story.source(), ref_of(ENGINE).sha256)["text"]
    assert text[1:3] == [
        "made by build - (outside of builds), record 2",
        "builds none name it; generations that show it: none",
    ]


def test_digits_of_several_artifacts_are_too_few():
    refs = [ArtifactRef(sha256="ab" * 4 + digit * 56, size=1) for digit in "cd"]
    story = history(*(compiled(artifact=ref) for ref in refs))
    assert "expected the digits of one artifact, found 2 that begin with abababab" in refusal(
        story, "abababab"
    )
    assert why(story.source(), "ababababc")["artifact"]["sha256"] == refs[0].sha256


def test_lines_fit_a_terminal_and_hold_whole_names():
    story = history(compiled())
    lines = why_lines(why(story.source(), ref_of(ENGINE).sha256[:12]))
    assert max(map(len, lines)) <= 80
    assert lines[1] == "    " + ref_of(ENGINE).sha256


def refused(**more):
    """A replay of a build that could not read its inputs, after a good one."""
    story = Story().genesis().build(1)
    story.add(make(e.BuildStarted, identity=None, inputs={"source": "x"}, host={"source": "s" * 50}), build=2)
    story.add(make(e.BuildFailed, step="inputs", traceback="one\ntwo", **more), build=2)
    return replay(story.source(), word="2")


def test_inputs_that_were_not_read_are_not_said_to_differ():
    document = refused(kind="bad-model")
    assert document["compare"]["inputs"] == []
    lines = replay_lines(document)
    assert any("the inputs of build 2 were not read to their end" in line for line in lines)
    assert [line.split() for line in lines if line.startswith("  source  ")] == [
        ["source", "…" + "s" * 30, "-", "-", "-"]
    ]
    assert f"  source: {'s' * 50}" in lines
    assert any("only in a" in line for line in diff_lines(document["compare"]))


def test_only_of_an_error_that_nobody_foresaw_the_traceback_is_shown_at_once():
    foreseen = refused(kind="bad-model")
    assert "  2 lines (--all shows them)" in replay_lines(foreseen)
    assert "  two" in replay_lines(foreseen, whole=True)
    assert "  two" in replay_lines(refused(kind="unexpected"))


def test_a_long_timeline_is_cut_unless_all_is_wanted():
    story = history(*(make(e.StepStarted, kind="cells", subjects=("6/0/0",)) for _ in range(60)))
    document = replay(story.source())
    short, whole = replay_lines(document), replay_lines(document, whole=True)
    assert [line for line in short if "records (--all shows them)" in line] == [
        "   …  22 records (--all shows them)"
    ]
    assert len(whole) == len(short) + 21


class TestChunk:
    """A chunk of 3 by 3 tiles, half a tile to the east and to the south: (7, 2 * 17 + 1, 2 * 3 + 1)."""

    def lines(self, days, *, m=4):
        places = [(6, x, y) for y in range(3, 6) for x in range(17, 20)]
        table = encode_tiles(
            (identifier(place), ref_of(repr(place).encode()).sha256, day)
            for place, day in sorted(zip(places, days, strict=True))
        )
        levels = [{"zoom": 6, "k": 1, "m": 4, "tile_edge": 32}]
        inputs = {
            "chunks": {"levels": levels},
            "bbox_e7": [-840_000_000, 820_000_000, -700_000_000, 830_000_000],
        }
        story = Story().genesis().add(make(e.BuildStarted, calibration=CAMERA_REF, inputs=inputs))
        story.add(make(e.TilesSelected, table=ref_of(table), count=9))
        found = why(story.source(CAMERA, table), f"7/35/7/{1 << 5 | m}")
        assert len([link for link in found["chain"] if link["what"] == "tile"]) == (9 if m == 4 else 4)
        return [line for line in found["text"] if "tile" in line]

    def test_many_tiles_are_told_in_short(self):
        days = [dt.date(2026, 6, 1), dt.date(2026, 5, 3), *[None] * 6, dt.date(2026, 5, 9)]
        lines = self.lines(days)
        assert lines[0] == (
            "9 tiles, from 6/17/3 to 6/19/5, captured 2026-05-03 to 2026-06-01, others at no known date"
        )
        assert [line.split()[1] for line in lines[1:-1]] == ["6/17/3", "6/17/4", "6/17/5"]
        assert lines[-1] == "and 6 more tiles; --json has them"

    def test_ages_that_are_equal_or_unknown(self):
        assert self.lines([dt.date(2026, 6, 1)] * 9)[0].endswith("to 6/19/5, captured 2026-06-01")
        assert self.lines([None] * 9)[0].endswith("captured at no known date")

    def test_few_tiles_are_all_told(self):
        lines = self.lines([None] * 9, m=2)
        assert [line.split()[1] for line in lines] == ["6/17/3", "6/17/4", "6/18/3", "6/18/4"]
