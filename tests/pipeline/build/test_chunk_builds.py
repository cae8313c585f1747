"""Caches whose descriptors are those of chunks of ground: what is made, what is reused, and what is missing."""

import json
import shutil
from collections import Counter
from itertools import product

import numpy as np
import pytest

from pipeline.build.host_facts import host_facts
from pipeline.build.report import BuildOutcome
from pipeline.errors import RequestError
from pipeline.request.options import ChunkLevelOptions, ChunkOptions, CoverageOptions
from store.base.geometry.lattice import chunk_digest, chunk_ids, chunk_of, tile_span
from store.base.geometry.level import Level
from store.base.geometry.mosaic import render_chunks
from store.base.identity import descriptor_id
from store.base.preprocessing import Preprocessing
from store.disk.artifacts import Artifacts
from store.domain.events import CellEmbedded, EngineCompiled
from store.formats import descriptor_block
from store.formats.tables import decode_blocks
from store.manifest.manifest import parse
from store.runtime.load import load_engine
from store.verify.verify import Depth, verify
from tests.examples_tried import mostly_deep
from tests.small_builds import Site, picture, plain, tree

ZOOM = 12
FIRST = 2043
EDGE = 32
LEVEL = Level(ZOOM, 1, 4)
"""Two steps to a tile of 9.8 km, chunks of four steps."""


def longitude(column):
    return column / 2**ZOOM * 360 - 180


def latitude(row):
    return float(np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * row / 2**ZOOM)))))


def box(west, east, north, south):
    """The box of some columns and rows of tiles, without their outer edges."""
    return (longitude(west), latitude(south), longitude(east), latitude(north))


AREA = box(FIRST + 3, FIRST + 7, FIRST + 3, FIRST + 7)
"""The four by four tiles in the middle of ten by ten."""
SIDES = ChunkOptions(level=(ChunkLevelOptions(side_m=19_600, overlap=0.75),))


def grid(first=FIRST, side=10):
    return {
        (ZOOM, x, y): picture(1000 * x + y)
        for x, y in product(range(first, first + side), range(first, first + side))
    }


class ChunkSite(Site):
    """A site whose requests want chunks."""

    def request(self, **fields):
        settings = {"bbox": AREA, "zoom": (ZOOM, ZOOM), "chunks": SIDES}
        return super().request(**settings | fields)

    def rows(self):
        """Descriptor id to digest and vector of the head's rows."""
        artifacts = Artifacts(self.layout)
        found = {}
        for row in decode_blocks(artifacts.read(self.state().head_build.index.blocks)):
            block = descriptor_block.decode(artifacts.read(row.ref))
            assert (row.zoom, row.cell_x, row.cell_y) == block.cell
            for identifier, digest, vector in zip(
                block.ids.tolist(), block.digests, block.vectors, strict=True
            ):
                found[identifier] = (bytes(digest).hex(), vector.tobytes())
        return found

    def report(self):
        area = self.state().head_build.coverage
        return json.loads(self.artifact(area.geography).read_bytes())


@pytest.fixture
def site(tmp_path):
    made = ChunkSite(tmp_path)
    made.write_tiles(grid())
    return made


@pytest.fixture(scope="module")
def built_once(tmp_path_factory):
    made = ChunkSite(tmp_path_factory.mktemp("built"))
    made.write_tiles(grid())
    built(made.build())
    return made


@pytest.fixture
def built_site(built_once, tmp_path):
    """A copy of a site with one generation."""
    shutil.copytree(built_once.root, tmp_path / "site", copy_function=shutil.copy2)
    return ChunkSite(tmp_path / "site")


def touching(ids, x, y):
    """The chunks under which a tile lies."""
    found = set()
    for identifier in ids:
        level, chunk_x, chunk_y = chunk_of(identifier)
        x0, nx, y0, ny = tile_span(level, chunk_x, chunk_y)
        if x0 <= x < x0 + nx and y0 <= y < y0 + ny:
            found.add(identifier)
    return found


def built(report):
    assert report.outcome is BuildOutcome.BUILT, report.error
    return report


def test_a_build_makes_every_chunk_whose_middle_lies_in_the_area(site):
    report = built(site.build())
    first = 2 * (FIRST + 3)
    # Middles on both edges of the area count: nine in each direction.
    steps = range(first - 2, first + 7)
    wanted = {int(each) for x in steps for each in chunk_ids(LEVEL, np.full(9, x), np.array(steps))}
    assert set(site.rows()) == wanted
    assert (report.chunks, report.chunks_embedded, report.chunks_copied) == (81, 81, 0)
    assert (report.tiles_embedded, report.holes) == (0, 0)
    assert report.to_document()["localisable"] == 1.0
    assert verify(site.layout, depth=Depth.FULL).go


def test_a_row_is_the_network_on_the_picture_cut_from_the_whole_mosaic(built_site):
    (event,) = built_site.events(EngineCompiled)
    engine = load_engine(
        built_site.artifact(event.artifact).read_bytes(),
        **{name: event.components[name] for name in ("backend", "version", "batch", "precision")},
        **{name: event.signature[name] for name in ("input", "output")},
        threads=1,
    )
    from pipeline.tiles.images.decode import decode

    tiles = {(x, y): decode(content) for (_, x, y), content in grid().items()}
    preprocessing = Preprocessing(size=(32, 32))
    rows = built_site.rows()
    ids = sorted(rows)
    places = [chunk_of(each)[1:] for each in ids]
    pictures = list(render_chunks(LEVEL, places, tiles, (32, 32)))
    vectors = engine.run(np.stack([preprocessing.apply(each) for each in pictures]))
    for identifier, vector in zip(ids, vectors, strict=True):
        assert rows[identifier][1] == vector.tobytes()
    contents = {place: digest(content) for place, content in grid().items()}
    for identifier in ids:
        _, x, y = chunk_of(identifier)
        x0, nx, y0, ny = tile_span(LEVEL, x, y)
        under = np.array(
            [[contents[ZOOM, x0 + i, y0 + j] for i in range(nx)] for j in range(ny)], np.uint8
        ).reshape(ny, nx, 32)
        assert rows[identifier][0] == chunk_digest(LEVEL, x, y, EDGE, under)


def digest(content):
    from hashlib import sha256

    return list(sha256(content).digest())


def test_a_changed_tile_embeds_exactly_the_chunks_that_touch_it(built_site):
    before = built_site.rows()
    built_site.write_tiles({(ZOOM, FIRST + 5, FIRST + 4): picture(7)})
    report = built(built_site.build())
    after = built_site.rows()
    changed = {each for each in after if after[each] != before[each]}
    assert changed == touching(after, FIRST + 5, FIRST + 4)
    assert (report.chunks_embedded, report.chunks_copied) == (len(changed), 81 - len(changed))


def test_a_wider_area_embeds_exactly_the_new_chunks(built_site):
    before = built_site.rows()
    report = built(built_site.build(bbox=box(FIRST + 2, FIRST + 7, FIRST + 3, FIRST + 7)))
    after = built_site.rows()
    assert report.chunks_embedded == len(after) - len(before) == 18
    assert {each: after[each] for each in before} == before


def test_another_overlap_on_the_same_lattice_embeds_nothing(built_site):
    sides = ChunkOptions(level=(ChunkLevelOptions(side_m=19_500, overlap=0.76),))
    report = built_site.provisioner().build_cache_artifacts(built_site.request(chunks=sides))
    assert (report.outcome, report.writes) == (BuildOutcome.REUSED, 0)


def test_nothing_is_done_twice(built_site):
    before = tree(built_site.cache)
    report = built_site.build()
    assert (report.outcome, report.chunks, report.chunks_embedded) == (BuildOutcome.REUSED, 81, 0)
    assert tree(built_site.cache) == before


def test_two_levels_share_cells_and_a_second_one_copies_the_rows_of_the_first(built_site):
    before = built_site.rows()
    both = ChunkOptions(level=(*SIDES.level, ChunkLevelOptions(side_m=24_500, overlap=0.8)))
    report = built(built_site.build(chunks=both))
    after = built_site.rows()
    new = [chunk_of(each)[0] for each in set(after) - set(before)]
    assert set(new) == {Level(ZOOM, 1, 5)}
    assert (report.chunks_embedded, report.chunks) == (len(new), len(after))
    assert {each: after[each] for each in before} == before
    cells = Counter((row.zoom, row.cell_x, row.cell_y) for row in blocks_of(built_site))
    assert set(cells.values()) == {1}
    manifest = parse(built_site.head_bytes())
    assert [each.level for each in manifest.levels] == [LEVEL, Level(ZOOM, 1, 5)]
    assert json.loads(built_site.head_bytes())["format"] == 3


def test_levels_of_other_sizes_want_their_own_tiles(site):
    three = ChunkOptions(
        level=tuple(ChunkLevelOptions(side_m=side, overlap=0.75) for side in (19_600, 29_300, 39_000))
    )
    report = built(site.build(chunks=three))
    assert (report.holes, report.tiles, report.wanted) == (0, 64, 64)
    levels = Counter(chunk_of(each)[0] for each in site.rows())
    assert levels == {LEVEL: 81, Level(ZOOM, 1, 6): 81, Level(ZOOM, 0, 4): 25}


def blocks_of(site):
    return decode_blocks(Artifacts(site.layout).read(site.state().head_build.index.blocks))


def test_a_missing_tile_takes_its_chunks_and_leaves_no_hole_where_others_show_the_ground(tmp_path):
    site = ChunkSite(tmp_path)
    tiles = grid()
    missing = (ZOOM, FIRST + 5, FIRST + 4)
    whole = {each: content for each, content in tiles.items() if each != missing}
    site.write_tiles(whole)
    report = built(site.build())
    rows = site.rows()
    gone = 81 - len(rows)
    assert touching(rows, *missing[1:]) == set()
    assert gone == 25
    assert report.holes == 4, "the four steps of the missing tile"
    found = site.report()
    assert found["format"] == 2
    assert found["holes"] == [[ZOOM, FIRST + 4, FIRST + 5, FIRST + 5]]
    (level,) = found["levels"]
    x, y = 2 * (FIRST + 5), 2 * (FIRST + 4)
    assert level["holes"] == [[ZOOM + 1, y, x, x + 1], [ZOOM + 1, y + 1, x, x + 1]]
    assert (level["wanted"], level["present"], level["chunks"]) == (64, 60, 56)
    assert any("under no chunk" in each.message for each in report.warnings)


def test_every_level_must_show_enough_of_the_ground(tmp_path):
    site = ChunkSite(tmp_path)
    missing = (ZOOM, FIRST + 5, FIRST + 4)
    site.write_tiles({each: content for each, content in grid().items() if each != missing})
    report = site.build(coverage=CoverageOptions(min_fraction=0.95))
    assert report.outcome is BuildOutcome.FAILED
    assert report.error.kind == "coverage-too-low"
    assert "0.938" in report.error.message
    built(site.build(coverage=CoverageOptions(min_fraction=0.93)))


def test_a_bad_tile_fails_a_build_by_its_name_and_is_left_out_where_asked(site):
    bad = (ZOOM, FIRST + 5, FIRST + 4)
    site.write_tiles({bad: b"no picture"})
    report = site.build()
    assert report.error.kind == "bad-tile"
    assert report.error.subject == f"{ZOOM}/{FIRST + 5}/{FIRST + 4}"
    report = built(site.build(tiles={"on_bad": "skip"}))
    assert len(site.rows()) == 56
    assert site.report()["skipped"] == [[ZOOM, FIRST + 4, FIRST + 5, FIRST + 5]]
    assert report.area.skipped == 1
    assert verify(site.layout, depth=Depth.FULL).go


def test_a_tile_of_another_size_is_bad(site):
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, "PNG")
    site.write_tiles({(ZOOM, FIRST + 4, FIRST + 4): buffer.getvalue()})
    report = site.build()
    assert report.error.kind == "bad-tile"
    assert "32 pixels" in report.error.message


def test_ground_without_features_is_not_localisable(site):
    blank = {(ZOOM, x, y): plain(90) for x in range(FIRST + 4, FIRST + 9) for y in range(FIRST, FIRST + 10)}
    site.write_tiles(blank)
    report = built(site.build())
    (level,) = site.report()["levels"]
    assert level["holes"] == []
    assert level["featureless"], "chunks that show one grey"
    assert report.to_document()["localisable"] < 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bbox": (0.001, 0.001, 0.002, 0.002)}, "smaller"),
        ({"zoom": (13, 13)}, "holds zooms 12 to 12"),
        ({"chunks": ChunkOptions(level=(ChunkLevelOptions(side_m=100_000, overlap=0.97),))}, "31"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_what_mends_it(site, fields, words):
    with pytest.raises(RequestError) as caught:
        site.build(**fields)
    assert words in caught.value.message
    assert caught.value.hint


def test_an_area_over_the_antimeridian_is_one_area(tmp_path):
    site = ChunkSite(tmp_path)
    around = 2**ZOOM
    site.write_tiles(
        {
            (ZOOM, x % around, y): picture(1000 * x + y)
            for x in range(around - 5, around + 5)
            for y in range(FIRST, FIRST + 10)
        }
    )
    west, _, _, _ = box(around - 2, 0, FIRST + 3, FIRST + 7)
    area = (west, latitude(FIRST + 7), longitude(2), latitude(FIRST + 3))
    report = built(site.build(bbox=area))
    assert (report.chunks, report.holes) == (81, 0)
    xs = {chunk_of(each)[1] for each in site.rows()}
    assert xs == {(2 * (around - 2) - 2 + step) % (2 * around) for step in range(9)}
    assert verify(site.layout, depth=Depth.FULL).go


@pytest.mark.parametrize(
    "role", mostly_deep(("block", "geography", "block table", "tile table", "index"), "block", "index")
)
def test_what_is_damaged_is_repaired_to_the_same_bytes(site, role):
    from tests.small_builds import ref_of

    built(site.build())
    path = site.artifact(ref_of(site, role))
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert not verify(site.layout, depth=Depth.FULL).go
    site.provisioner().repair()
    assert path.read_bytes() == data
    assert verify(site.layout, depth=Depth.FULL).go


def test_events_name_the_cells_of_the_lattice(built_site):
    cells = {(each.zoom, each.cell_x, each.cell_y) for each in built_site.events(CellEmbedded)}
    x, y = 2 * (FIRST + 3) - 2, 2 * (FIRST + 3) - 2
    assert cells == {
        (ZOOM + 1, column >> 4, row >> 4) for column in range(x, x + 9) for row in range(y, y + 9)
    }
    assert descriptor_id(ZOOM + 1, x, y, LEVEL.view) in built_site.rows()


@pytest.mark.usefixtures("real_workers")
def test_a_plan_tells_levels_chunks_bytes_and_once_a_rate_is_known_seconds(site):
    here = {"host": host_facts()}
    plan = site.provisioner(**here).plan(site.request())
    assert (plan.chunks, plan.to_embed, plan.seconds) == (81, 81, None)
    assert plan.bytes > 0
    (level,) = plan.levels
    assert (level["level"], level["zoom"], level["k"], level["m"]) == (1, ZOOM, 1, 4)
    assert level["metres_per_pixel"]["available"] == pytest.approx(9_783.9 / EDGE, abs=0.1)
    built(site.provisioner(**here).build_cache_artifacts(site.request()))
    idle = site.provisioner(**here).plan(site.request())
    assert (idle.decision, idle.seconds) == ("reused", 0.0)
    site.write_tiles({(ZOOM, FIRST + 5, FIRST + 4): picture(7)})
    changed = site.provisioner(**here).plan(site.request())
    assert changed.to_embed == 25
    assert changed.seconds > 0
    assert {each["basis"] for each in changed.time} == {"build 1"}


def test_the_flight_recorder_counts_chunks(site):
    from click.testing import CliRunner

    from tools.cli import cli

    def ask(*words):
        done = CliRunner().invoke(cli, [*words, "--cache", str(site.cache), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    built(site.build())
    site.write_tiles({(ZOOM, FIRST + 5, FIRST + 4): picture(7)})
    built(site.build())
    newest, first = ask("log")["entries"]
    assert (newest["tiles_embedded"], newest["chunks_embedded"], first["chunks_embedded"]) == (0, 25, 81)
    assert newest["reuse_ppm"] == round(1e6 * 56 / 81)
    told = ask("replay", "2")
    cells = next(step for step in told["steps"] if (step["kind"], step["outcome"]) == ("cells", "done"))
    assert (cells["count"], cells["unit"]) == (25, "chunks")
    area = told["area"]
    assert sum(cell[3] for cell in area["cells"]) == 81
    assert area["levels"] == [{"zoom": ZOOM, "k": 1, "m": 4, "tile_edge": EDGE}]
    steps = [run for run in area["tiles"]["present"] if run[0] == ZOOM + 1]
    assert sum(last - first + 1 for _, _, first, last in steps) == 64
    identifier = min(site.rows())
    links = ask("why", "/".join(map(str, (ZOOM + 1, *chunk_of(identifier)[1:], LEVEL.view))))["chain"]
    assert [each["what"] for each in links][:3] == ["index", "block", "chunk"]
    assert len([each for each in links if each["what"] == "tile"]) in {4, 6, 9}
    (tile,) = ask("why", f"{ZOOM}/{FIRST + 5}/{FIRST + 4}")["chain"]
    assert tile["what"] == "tile"
    for nothing in (
        f"{ZOOM}/0/0",
        f"{ZOOM + 1}/0/{2 ** (ZOOM + 1) - 1}/{LEVEL.view}",
        f"{ZOOM + 1}/0/0/{LEVEL.view}",
    ):
        refused = CliRunner().invoke(cli, ["why", nothing, "--cache", str(site.cache)])
        assert refused.exit_code == 2
    status = ask("status")
    assert status["levels"][0]["m"] == 4
    assert status["localisable"] == 1.0
