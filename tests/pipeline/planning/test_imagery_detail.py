"""How fine imagery is said to be whose tiles are rendered."""

import pytest

from pipeline.planning.imagery_detail import upsampled_pixel_mm
from pipeline.request.area import Area
from pipeline.tiles.grid import tile_box_e7
from pipeline.tiles.tile import Place
from store.base.geometry.level import EARTH_M

NOMINAL = EARTH_M / 2**15 / 256
ALL = tile_box_e7(Place(10, 500, 300))
WEST = tile_box_e7(Place(11, 1000, 600))


def pixel_mm(*pixels, area=ALL):
    return upsampled_pixel_mm(Area(area) if isinstance(area, tuple) else area, 15, 256, pixels)


def test_stored_tiles_say_nothing():
    assert pixel_mm() is None


@pytest.mark.parametrize(
    ("times", "told"), [(0.5, False), (1.0, False), (1.4, False), (1.5, True), (4, True)]
)
def test_it_is_told_where_another_zoom_is_nearer_to_the_imagery(times, told):
    assert pixel_mm((ALL, times * NOMINAL)) == (round(times * NOMINAL * 1000) if told else None)


def test_the_coarsest_ground_counts_and_on_it_the_finest_file():
    assert pixel_mm((ALL, 4 * NOMINAL), (WEST, NOMINAL)) == round(4 * NOMINAL * 1000)
    assert pixel_mm((ALL, 4 * NOMINAL), (WEST, NOMINAL), area=WEST) is None
    assert pixel_mm((ALL, 4 * NOMINAL), (ALL, 2 * NOMINAL), (WEST, NOMINAL)) == round(2 * NOMINAL * 1000)


def test_ground_without_imagery_is_a_hole_and_has_no_detail():
    assert pixel_mm((WEST, NOMINAL)) is None
    assert pixel_mm((WEST, 4 * NOMINAL), area=ALL) == round(4 * NOMINAL * 1000)


def test_of_a_shape_what_it_wants():
    inside = Area.of_boxes([tile_box_e7(Place(13, 4000, 2400)), tile_box_e7(Place(13, 4003, 2403))])
    outside = Area.of_boxes([tile_box_e7(Place(13, 4000, 2400)), tile_box_e7(Place(13, 4006, 2406))])
    files = (ALL, 4 * NOMINAL), (WEST, NOMINAL)
    assert pixel_mm(*files, area=inside) is None
    assert pixel_mm(*files, area=outside) == round(4 * NOMINAL * 1000)


def test_across_the_antimeridian():
    _, south, east, north = tile_box_e7(Place(11, 0, 600))
    west = tile_box_e7(Place(11, 2047, 600))[0]
    box = (west, south, east, north)
    assert pixel_mm((box, 3 * NOMINAL), area=box) == round(3 * NOMINAL * 1000)
    east_half = (-1_800_000_000, south, east, north)
    assert pixel_mm((box, 3 * NOMINAL), (east_half, NOMINAL), area=box) == round(3 * NOMINAL * 1000)
    assert pixel_mm((box, 3 * NOMINAL), (east_half, NOMINAL), area=east_half) is None


def test_a_large_area_is_looked_at_in_larger_tiles(monkeypatch):
    monkeypatch.setattr("pipeline.planning.imagery_detail._MOST_TILES", 20)
    assert pixel_mm((ALL, 4 * NOMINAL), (WEST, NOMINAL)) == round(4 * NOMINAL * 1000)
    assert pixel_mm((ALL, 4 * NOMINAL), (WEST, NOMINAL), area=WEST) is None
