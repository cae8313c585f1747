"""Caches of areas that are no box: what is selected, made and counted, and that the shape goes where the cache goes."""

import json
from dataclasses import replace
from datetime import date
from itertools import product

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.build.report import BuildOutcome
from pipeline.errors import RequestError
from pipeline.request.area import Area, decode_shape
from pipeline.request.area_files.read_area import read_area
from pipeline.request.area_options import AreaOptions
from pipeline.request.geometry import degrees_to_e7
from pipeline.request.options import CoverageOptions
from pipeline.request.proof_options import ProofOptions
from store.base.geometry.lattice import middle_latitude_e7, middles
from store.base.geometry.level import Level, tile_side_m
from store.base.identity import build_identity
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.manifest.manifest import parse
from store.manifest.roles import AREA
from store.policy.retention import KeepPolicy
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.testing import FakeClock
from store.transfer.export import export
from store.transfer.import_bundle import import_bundle
from store.transfer.mirror import mirror
from store.verify.verify import Depth, verify
from tests.ground import (
    ALTITUDE_M,
    COLUMN,
    LEVEL,
    ROW,
    TILES,
    ZOOM,
    GroundSite,
    chunk_middle,
    frame_at,
    latitude,
    longitude,
    place_at,
)
from tests.small_builds import tree
from tools.cli import cli

pytestmark = pytest.mark.deep


def corner(column, row, first=COLUMN):
    """The north-west corner of a tile of the ground, as GeoJSON has it."""
    return [round(longitude(first + column), 7), round(latitude(ROW + row), 7)]


def ring(*corners, first=COLUMN):
    return [corner(*each, first=first) for each in (*corners, corners[0])]


WITH_HOLE = {
    "type": "Polygon",
    "coordinates": [
        ring((2, 2), (2, 10), (10, 10), (10, 5), (5, 2)),
        ring((4, 5), (7, 5), (7, 8), (4, 8)),
    ],
}
"""Five sides, and without nine tiles in its middle."""


WITHIN = ProofOptions(pictures="truth.csv", min=1, within_m=tile_side_m(ZOOM, 0) / 2)


def write_truth(site, places):
    """Write photographs of chunks, and the table of their places."""
    text = "file,lon,lat,altitude_m,heading_deg\n"
    for name, place in places.items():
        x, y = chunk_middle(*place)
        Image.fromarray(frame_at(x, y)).save(site.root / name)
        lon, lat = place_at(x, y)
        text += f"{name},{lon:.7f},{lat:.7f},{ALTITUDE_M},0\n"
    site.write("truth.csv", text.encode())


class AreaSite(GroundSite):
    """A site whose requests want the ground in a file."""

    def request(self, **fields):
        return super().request(**{"bbox": None, "area": AreaOptions(file="area.geojson")} | fields)

    def draw(self, geometry):
        self.write("area.geojson", json.dumps(geometry).encode())

    def manifest(self):
        return parse(self.head_bytes())

    def report(self):
        return json.loads(self.artifact(self.state().head_build.coverage.geography).read_bytes())


@pytest.fixture
def site(tmp_path):
    made = AreaSite(tmp_path / "site")
    made.draw(WITH_HOLE)
    return made


def built(site, **fields):
    report = site.build(**fields)
    assert report.outcome is BuildOutcome.BUILT, report.error
    return report


def places_of(level, ids):
    return {(int(each) >> 25 & (1 << 25) - 1, int(each) & (1 << 25) - 1) for each in ids}


def inside(site, level):
    """The steps of a level whose middle lies in the area, over the ground and around it."""
    area = read_area(site.request())
    found = set()
    for x, y in product(
        range((COLUMN - 1) * 2, (COLUMN + TILES + 1) * 2), range((ROW - 1) * 2, (ROW + TILES + 1) * 2)
    ):
        lon = float(middles(level, np.array([x]), np.array([y]))[0, 0])
        if area.contains(degrees_to_e7(round(lon, 7)), middle_latitude_e7(level, y)):
            found.add((x, y))
    return found


class TestPolygons:
    def test_chunks_are_those_whose_middle_lies_in_it(self, site):
        built(site)
        assert places_of(LEVEL, site.rows()) == inside(site, LEVEL)
        (level,) = site.report()["levels"]
        steps = inside(site, Level(ZOOM, 1, 1))
        assert (level["wanted"], level["present"], level["holes"]) == (len(steps), len(steps), [])
        manifest = site.manifest()
        assert json.loads(manifest.raw)["format"] == 3
        assert dict(manifest.artifacts())[AREA] == read_area(site.request()).ref
        assert manifest.inputs["bbox_e7"] == list(read_area(site.request()).bbox_e7)
        assert verify(site.layout, depth=Depth.FULL).go
        with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
            assert cache.manifest.area == manifest.area

    def test_a_missing_tile_is_a_hole_where_the_area_is_and_nowhere_else(self, site):
        (site.root / f"tiles/{ZOOM}/{COLUMN + 11}/{ROW}.png").unlink()
        built(site)
        assert site.report()["levels"][0]["holes"] == []
        (site.root / f"tiles/{ZOOM}/{COLUMN + 3}/{ROW + 8}.png").unlink()
        report = site.build(flight_id="f2", coverage=CoverageOptions(min_fraction=0.99))
        assert report.error.kind == "coverage-too-low"
        built(site, flight_id="f3")
        holes = {
            (x, y)
            for _, y, first, last in site.report()["levels"][0]["holes"]
            for x in range(first, last + 1)
        }
        assert holes
        assert holes <= inside(site, Level(ZOOM, 1, 1))

    def test_tiles_are_those_that_meet_it(self, site):
        report = built(site, chunks=None)
        area = read_area(site.request())
        # All but what the cut corner and the hole leave out; a tile under the cut is in.
        outside = {(10, y) for y in range(2, 10)} | {(8, 2), (9, 2), (9, 3), (7, 2)}
        expected = set(product(range(2, 10), range(2, 10))) - outside - set(product(range(4, 7), range(5, 8)))
        found = {(x - COLUMN, y - ROW) for x, y in places_of(None, site.rows())}
        assert expected - found <= {(7, 3), (6, 2), (8, 3), (8, 4), (9, 4)}
        assert found <= expected | {(7, 2), (8, 3)}
        assert report.wanted == len(found) == site.manifest().tile_count
        assert json.loads(site.head_bytes())["format"] == 3
        assert area.contains(*(degrees_to_e7(each) for each in corner(2, 2)))

    def test_the_same_ground_drawn_otherwise_is_the_same_build(self, site):
        built(site)
        before = tree(site.cache)
        shell, hole = WITH_HOLE["coordinates"]
        other = {"type": "Polygon", "coordinates": [shell[2:] + shell[1:3], hole[::-1]]}
        site.draw(
            {
                "type": "FeatureCollection",
                "features": [{"type": "Feature", "properties": None, "geometry": other}] * 2,
            }
        )
        assert site.build().outcome is BuildOutcome.REUSED
        assert tree(site.cache) == before
        site.draw({**WITH_HOLE, "coordinates": [shell]})
        assert built(site).chunks_copied > 0

    def test_an_origin_in_the_box_and_outside_of_the_area_is_told(self, site):
        kinds = [each.kind for each in built(site, origin=(*corner(9, 3), 0.0)).warnings]
        assert kinds.count("origin-outside") == 1
        assert "origin-outside" not in {
            each.kind for each in built(site, origin=(*corner(3, 9), 0.0)).warnings
        }

    def test_on_board_and_on_the_ground_the_shape_itself_is_asked(self, site):
        built(site)
        places = {(9, 3): False, (3, 9): True, (5.5, 6.5): False}
        with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
            for place, inside in places.items():
                assert cache.readiness(origin=corner(*place)).origin_inside is inside
        for place, inside in places.items():
            built(site, origin=(*corner(*place), 0.0), flight_id=str(place))
            told = CliRunner().invoke(cli, ["status", "--json", "--cache", str(site.cache)])
            assert json.loads(told.output)["readiness"]["origin_inside"] is inside
            found = verify(site.layout, depth=Depth.QUICK).readiness(date(2026, 11, 29))
            assert found.origin_inside is inside


class TestOtherAreas:
    def test_a_box_has_the_inputs_that_it_always_had(self, site):
        west, north, east, south = (*corner(2, 2), *corner(10, 10))
        box = (west, south, east, north)
        built(site, area=None, bbox=box)
        plain = site.manifest()
        assert "area" not in plain.inputs
        assert plain.area is None
        built(site, area=None, bboxes=(box,))
        several = site.manifest()
        assert several.inputs["bbox_e7"] == plain.inputs["bbox_e7"]
        assert {**several.inputs} == {**plain.inputs, "area": several.inputs["area"]}
        assert several.identity == build_identity(several.inputs) != plain.identity
        assert several.body["index"]["rows"] == plain.body["index"]["rows"]
        assert several.body["geography"]["wanted"] == plain.body["geography"]["wanted"]

    def test_several_boxes_far_apart(self, site):
        def box(column, row):
            (west, north), (east, south) = corner(column, row), corner(column + 1, row + 1)
            return west, south, east, north

        built(site, area=None, bboxes=(box(2, 2), box(8, 8)))
        found = places_of(LEVEL, site.rows())
        assert len(found) == 2 * len({(x, y) for x, y in found if x < 2 * COLUMN + 10})
        assert 8 <= len(found) < 24

    @pytest.mark.parametrize("column", [COLUMN, 2**ZOOM - 6])
    def test_a_route_also_across_the_antimeridian(self, tmp_path, column):
        site = AreaSite(tmp_path / "site", column=column)
        ends = corner(3, 6, first=column), corner(9, 6, first=column)
        site.draw({"type": "LineString", "coordinates": [[x - 360 if x > 180 else x, y] for x, y in ends]})
        area = AreaOptions(file="area.geojson", width_m=25_000)
        built(site, area=area)
        ids = site.rows()
        rows = {y for _, y in places_of(LEVEL, ids)}
        columns = {(x - 2 * column) % (2 ** (ZOOM + 1)) for x, _ in places_of(LEVEL, ids)}
        # Chunks of four steps: a middle is two steps on; ends are round, 1.3 tiles wide.
        assert rows == {2 * ROW + 12 - 4 + step for step in range(5)}
        assert columns == set(range(2, 19))
        west, _, east, _ = site.manifest().inputs["bbox_e7"]
        assert (west > east) == (column != COLUMN)
        assert site.report()["levels"][0]["holes"] == []

    @pytest.mark.parametrize(
        ("geometry", "width", "message"),
        [
            (
                {"type": "Polygon", "coordinates": [ring((3.1, 3.1), (3.2, 3.1), (3.2, 3.2))]},
                None,
                "found a smaller one",
            ),
            (
                {
                    "type": "MultiPolygon",
                    "coordinates": [WITH_HOLE["coordinates"], [ring((10.6, 3.1), (10.7, 3.1), (10.7, 3.2))]],
                },
                None,
                "found a polygon without one at longitude",
            ),
            (
                {"type": "LineString", "coordinates": [corner(3, 3), corner(9, 9)]},
                4000,
                "a corridor of 4000 m, narrower than a step",
            ),
            (
                {"type": "Polygon", "coordinates": [[[9, 9], [10, 9], [10, 10], [9, 9]]]},
                None,
                "expected some of the 90 tiles of zooms",
            ),
        ],
    )
    def test_what_would_be_lost_is_refused(self, site, geometry, width, message):
        site.draw(geometry)
        with pytest.raises(RequestError, match=message):
            site.build(area=AreaOptions(file="area.geojson", width_m=width))


class TestTheShape:
    def test_repair_makes_it_again_from_the_file(self, site):
        built(site)
        path = site.artifact(site.manifest().area)
        before = path.read_bytes()
        path.unlink()
        assert not verify(site.layout, depth=Depth.FULL).go
        repaired = site.provisioner().repair()
        assert repaired.go, repaired
        assert path.read_bytes() == before

    def test_repair_does_not_take_another_area_for_it(self, site):
        built(site)
        site.artifact(site.manifest().area).unlink()
        site.draw({**WITH_HOLE, "coordinates": WITH_HOLE["coordinates"][:1]})
        repaired = site.provisioner().repair()
        assert not repaired.go
        assert any(
            "area: expected the recorded one, found another" in each.action for each in repaired.actions
        )

    def test_other_artifacts_are_repaired_without_the_file(self, site):
        built(site)
        build = site.state().head_build
        (site.root / "area.geojson").unlink()
        for ref in (build.tiles.table, build.coverage.geography, build.index.blocks):
            site.artifact(ref).unlink()
        repaired = site.provisioner().repair()
        assert repaired.go, repaired

    def test_it_is_kept_with_its_build(self, site):
        built(site)
        first = site.manifest().area.sha256
        site.draw({**WITH_HOLE, "coordinates": WITH_HOLE["coordinates"][:1]})
        for number in range(2):
            built(site, flight_id=f"g{number}")
        site.provisioner().collect(KeepPolicy(keep=1), dry_run=False)
        assert not site.layout.artifact(first).exists()
        assert site.artifact(site.manifest().area).exists()
        assert verify(site.layout, depth=Depth.FULL).go

    @pytest.mark.parametrize("way", ["mirror", "bundle"])
    def test_copies_have_it(self, site, tmp_path, way):
        built(site)
        copy = Layout(tmp_path / "copy")
        if way == "mirror":
            mirror(site.layout, copy.root)
        else:
            export(site.layout, tmp_path / "bundle")
            import_bundle(copy, tmp_path / "bundle", clock=FakeClock(), host={})
        ref = site.manifest().area
        assert Artifacts(copy).read(ref) == Area.of_shape(read_area(site.request()).shape).encoded

    def test_a_large_one_leaves_the_manifest_small(self, site):
        west, south = corner(2, 10)
        east, north = corner(10, 2)
        teeth = [[west + (east - west) * at / 20_000, north - (at % 2) * 1e-4] for at in range(20_001)]
        site.draw({"type": "Polygon", "coordinates": [[*teeth, [east, south], [west, south], teeth[0]]]})
        built(site)
        assert site.manifest().area.size > 300_000
        assert len(site.head_bytes()) < 10_000


class TestProofs:
    def test_a_photograph_beside_the_area_counts_as_wrong(self, site):
        write_truth(site, {"in.png": (9, 7), "hole.png": (9, 12)})
        shell, _ = WITH_HOLE["coordinates"]
        x, y = place_at(*chunk_middle(9, 12))
        hole = [[x + i * 0.02, y + j * 0.02] for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]
        site.draw({"type": "Polygon", "coordinates": [shell, hole]})
        report = site.build(proof=replace(WITHIN, min=1.0))
        assert "1 of 2" in report.error.message
        assert "hole.png" in report.error.message
        assert "(outside of the area)" in report.error.message
        report = built(site, proof=replace(WITHIN, min=0.5))
        assert any("hole.png: outside of the area of the cache" in line for line in map(str, report.warnings))
        # Neither the file nor the photographs' places are needed to make the answers again, but the shape is.
        path = site.artifact(site.manifest().proof)
        before = path.read_bytes()
        path.unlink()
        (site.root / "area.geojson").unlink()
        assert site.provisioner().repair().go
        assert path.read_bytes() == before

    def test_prove_knows_the_area(self, site):
        write_truth(site, {"in.png": (9, 7), "hole.png": (9, 12)})
        built(site)
        (site.root / "area.geojson").unlink()
        truth = str(site.root / "truth.csv")
        result = CliRunner().invoke(cli, ["prove", truth, "--cache", str(site.cache), "--json"])
        assert result.exit_code == 0, result.output
        outside = {each["file"]: each["outside"] for each in json.loads(result.stdout)["answers"]}
        inside_of = read_shape(site)
        assert outside == {
            name: not inside_of.contains(*(degrees_to_e7(each) for each in place_at(*chunk_middle(*place))))
            for name, place in {"in.png": (9, 7), "hole.png": (9, 12)}.items()
        }


def read_shape(site):
    return Area.of_shape(decode_shape(site.artifact(site.manifest().area).read_bytes()))


def test_a_refused_file_is_recorded_and_judged_again(site):
    built(site)
    site.write("area.geojson", b"{}")
    with pytest.raises(RequestError):
        site.build(flight_id="f2")
    result = CliRunner().invoke(cli, ["replay", "2", "--rerun", "--json", "--cache", str(site.cache)])
    assert result.exit_code == 0, result.output
    assert "area.geojson, found something else" in json.dumps(json.loads(result.stdout)["rerun"])
