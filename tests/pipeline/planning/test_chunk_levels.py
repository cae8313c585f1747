"""Levels of chunks that a request wants."""

import itertools
import json
from dataclasses import replace
from datetime import date
from functools import cache

import numpy as np
import pytest

from pipeline.errors import ErrorKind, RequestError
from pipeline.planning.chunk_levels import (
    choose_levels,
    described_levels,
    imagery_document,
    levels_document,
)
from pipeline.request.options import ChunkLevelOptions, ChunkOptions
from pipeline.testing import FakeTiles
from pipeline.tiles.selection import select_tiles
from pipeline.tiles.sources.xyz import XYZFolder
from store.base.geometry.level import Level, side_m
from tests.geotiffs import PIXEL_M
from tests.small_builds import Site, encoded

CAMERA = {"width": 1000, "height": 562, "fx": 755.9, "fy": 755.9, "cx": 500, "cy": 281}


@cache
def noise(edge):
    return encoded(np.random.default_rng(edge).integers(0, 256, (edge, edge, 3), np.uint8))


class Files:
    """Tiles in files of their own, as the level's edge is read from their headers."""

    def __init__(self, site, edges):
        from pipeline.tiles.sources.registry import open_source

        for (z, x, y), edge in edges.items():
            site.write(f"tiles/{z}/{x}/{y}.png", noise(edge))
        self.source = open_source("tiles/{z}/{x}/{y}.png", site.root)


def around(zoom, edge=256, side=3):
    middle = 2**zoom // 2
    return {(zoom, middle + i, middle + j): edge for i in range(-side, side) for j in range(-side, side)}


def choose(site, edges, *, camera=None, size=256, **fields):
    settings = {"bbox": (-0.002, -0.002, 0.002, 0.002), "origin": (0.0, 0.0, 0.0)}
    request = site.request(**settings | fields)
    calibration = json.dumps(CAMERA if camera is None else camera).encode()
    return choose_levels(request, calibration, Files(site, edges).source, input_side_px=size)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_a_request_for_tiles_has_no_levels(site):
    assert choose(site, around(17), zoom=(17, 17)) == ()
    assert levels_document(()) is None


def test_an_altitude_and_a_camera_give_the_side_that_the_camera_sees(site):
    (level,) = choose(site, around(19), zoom=(19, 19), altitude_m=(120.0, 120.0))
    assert level.wanted_m == pytest.approx(119.0, abs=0.1)
    assert level.described.number == 1
    assert level.chunks.level == Level(19, 2, 6)
    assert level.asked == pytest.approx(level.described.side_m / 256)
    assert level.available == pytest.approx(40_075_016.686 / 2**19 / 256)


def test_a_range_of_altitudes_is_covered_in_steps(site):
    levels = choose(site, around(19), zoom=(19, 19), altitude_m=(100.0, 220.0))
    sides = [each.wanted_m for each in levels]
    assert sides == sorted(sides)
    assert [each.described.number for each in levels] == list(range(1, len(levels) + 1))
    lowest, highest = (119.0 / 120 * altitude for altitude in (100, 220))
    assert sides[0] == pytest.approx(lowest, abs=0.2)
    assert sides[-1] >= highest / 1.12 - 0.2
    assert all(after / before <= 1.2501 for before, after in itertools.pairwise(sides))


@pytest.mark.deep
def test_the_coarsest_zoom_that_is_fine_enough_is_taken(site):
    sides = ChunkOptions(level=(ChunkLevelOptions(side_m=120, overlap=0.85),))
    both = around(18) | around(19) | around(17)
    (level,) = choose(site, both, zoom=(17, 19), chunks=sides)
    assert level.chunks.level.zoom == 19, "0.47 m asked, 0.60 m at zoom 18"
    (level,) = choose(site, dict.fromkeys(both, 512), zoom=(17, 19), chunks=sides)
    assert (level.chunks.level.zoom, level.chunks.tile_edge) == (18, 512)
    (level,) = choose(site, both, zoom=(17, 18), chunks=sides)
    assert level.chunks.level.zoom == 18


def test_a_source_of_stored_tiles_is_not_searched_for_how_fine_its_imagery_was(site, monkeypatch):
    """Of an archive of two million tiles that took 1.6 s, in a run with nothing to do too."""
    monkeypatch.setattr(XYZFolder, "extent", lambda _: pytest.fail("all tiles are listed"))
    sides = ChunkOptions(level=(ChunkLevelOptions(side_m=120),))
    (level,) = choose(site, around(19), zoom=(19, 19), chunks=sides)
    assert level.source_mm is None


def test_the_usual_edge_counts_and_not_that_of_one_tile(site):
    sides = ChunkOptions(level=(ChunkLevelOptions(side_m=120, overlap=0.85),))
    edges = around(19) | {(19, 2**18, 2**18): 64}
    (level,) = choose(site, edges, zoom=(19, 19), chunks=sides)
    assert level.chunks.tile_edge == 256


def test_sides_that_fall_on_the_same_lattice_are_one_level(site):
    sides = ChunkOptions(level=tuple(ChunkLevelOptions(side_m=side) for side in (120, 121, 200)))
    found = choose(site, around(19), zoom=(19, 19), chunks=sides)
    assert [(level.wanted_m, level.also_wanted_m) for level in found] == [(120, (121,)), (200, ())]
    first, second = (list(level.warnings((0, 0, 1000, 1000), 0.0)) for level in found)
    assert "sides of 120, 121 m are the same chunks" in first[0].message
    assert "[[chunks.level]]" in first[0].hint
    assert second == []


def test_sides_that_follow_from_heights_are_no_warning(site):
    levels = choose(site, around(19), camera=CAMERA, zoom=(19, 19), altitude_m=(20.0, 60.0))
    assert {level.also_wanted_m for level in levels} == {()}


@pytest.mark.parametrize("camera", [{}, {**CAMERA, "fx": 0}, {**CAMERA, "fx": None}, {"width": 3}])
def test_an_altitude_without_a_camera_is_refused_with_what_mends_it(site, camera):
    with pytest.raises(RequestError) as caught:
        choose(site, around(19), camera=camera, zoom=(19, 19), altitude_m=(120.0, 120.0))
    assert caught.value.message.startswith("calibration: ")
    assert "fx" in caught.value.hint


def test_a_zoom_without_imagery_is_refused(site):
    sides = ChunkOptions(level=(ChunkLevelOptions(side_m=120),))
    with pytest.raises(RequestError, match=r"zooms 20 to 20 .* holds zooms 19 to 19") as caught:
        choose(site, around(19), zoom=(20, 20), chunks=sides)
    assert caught.value.kind is ErrorKind.NO_TILES


def test_tiles_that_are_no_images_are_named_and_not_the_zoom(site):
    tiles = Files(site, around(19)).source
    for file in site.root.glob("tiles/*/*/*.png"):
        file.write_bytes(b"<html>429 Too Many Requests")
    request = site.request(
        bbox=(-0.002, -0.002, 0.002, 0.002), origin=(0.0, 0.0, 0.0), zoom=(19, 19), altitude_m=(120.0, 120.0)
    )
    with pytest.raises(
        RequestError, match=r"tiles that can be read .* tile 19/\d+/\d+: .*a web page"
    ) as caught:
        choose_levels(request, json.dumps(CAMERA).encode(), tiles, input_side_px=256)
    assert caught.value.kind is ErrorKind.BAD_TILE


def test_heights_that_take_too_many_levels_are_refused(site):
    with pytest.raises(RequestError, match="16 sizes"):
        choose(site, around(19), zoom=(19, 19), altitude_m=(20.0, 2000.0))


def test_a_tall_area_is_warned_of(site):
    sides = ChunkOptions(level=(ChunkLevelOptions(side_m=40),))
    (level,) = choose(site, around(17), zoom=(17, 17), chunks=sides)
    assert list(level.warnings((0, 0, 10_000_000, 10_000_000), 0.0)) == []
    (found,) = level.warnings((0, 0, 1, 400_000_000), 0.0)
    assert (found.kind, "elsewhere in the area" in found.message) == ("uneven-sides", True)
    at_30 = replace(level, described=replace(level.described, side_m=side_m(level.chunks.level, 30)))
    (found,) = at_30.warnings((0, -300_000_000, 1, 300_000_000), 30.0)
    assert f"{level.described.side_m:.0f} m elsewhere" in found.message, "the equator lies between"


def test_a_box_over_the_antimeridian_has_its_middle_there(site):
    edges = {(12, x % 4096, y): 64 for x in range(4094, 4098) for y in range(2046, 2050)}
    sides = ChunkOptions(level=(ChunkLevelOptions(side_m=20_000, overlap=0.75),))
    (level,) = choose(
        site,
        edges,
        size=32,
        zoom=(12, 12),
        chunks=sides,
        bbox=(179.9, -0.1, -179.9, 0.1),
        origin=(180.0, 0.0, 0.0),
    )
    assert level.chunks.tile_edge == 64


def test_what_a_build_records_gives_the_levels_again(site):
    levels = choose(site, around(19), zoom=(19, 19), altitude_m=(100.0, 150.0))
    inputs = {"chunks": levels_document(levels), "origin": {"lat_e7": 0}}
    assert described_levels(inputs) == [each.described for each in levels]
    document = levels[0].to_document(7)
    assert document["chunks"] == 7
    assert {"level", "zoom", "k", "m", "side_m", "overlap", "metres_per_pixel"} <= set(document)


def test_too_many_chunks_are_refused(site):
    sides = ChunkOptions(level=(ChunkLevelOptions(side_m=120, overlap=0.85),))
    request = site.request(chunks=sides, zoom=(19, 19), bbox=(-20.0, -20.0, 20.0, 20.0))
    level = choose(site, around(19), zoom=(19, 19), chunks=sides)[0].chunks
    with pytest.raises(RequestError, match="chunks") as caught:
        select_tiles(request, FakeTiles(tiles={}), today=date(2026, 1, 1), levels=[level])
    assert caught.value.kind is ErrorKind.TOO_MANY_TILES


@pytest.mark.gdal
def test_a_geotiff_that_is_coarser_than_its_tiles_is_told(site):
    pytest.importorskip("rasterio")
    from pipeline.tiles.sources.registry import open_source
    from tests.geotiffs import write_geotiff

    write_geotiff(site.root / "coarse.tif", pixel=4 * PIXEL_M, size=400, middle=(0.0, 0.0))
    source = open_source("coarse.tif", site.root)

    def chosen(zoom):
        request = site.request(
            bbox=(-0.002, -0.002, 0.002, 0.002),
            origin=(0.0, 0.0, 0.0),
            zoom=(zoom, zoom),
            chunks=ChunkOptions(level=(ChunkLevelOptions(side_m=900.0),)),
        )
        return choose_levels(request, b"{}", source, input_side_px=256)

    (fine,), (own,) = chosen(16), chosen(13)
    assert fine.source_mm == round(4 * PIXEL_M * 1000)
    assert fine.available == pytest.approx(4 * PIXEL_M, abs=1e-3)
    assert own.available == pytest.approx(4 * PIXEL_M, abs=1e-3)
    assert imagery_document([own]) is None
    assert imagery_document([own, fine]) == {"pixel_mm": [0, fine.source_mm]}
