"""Every kind of source tells how many of its tiles it has hashed or rendered."""

import pytest

from pipeline.testing import RecordingProgress
from pipeline.tiles.sources.registry import open_source
from tests import geotiffs, tile_archives
from tests.pipeline.tiles.sources.archives.test_geopackage import write_gpkg
from tests.tile_archives import WORLD, block

WRITE = {
    "folder": tile_archives.write_xyz,
    "mbtiles": lambda root, tiles: tile_archives.write_mbtiles(root / "x.mbtiles", tiles),
    "pmtiles": lambda root, tiles: tile_archives.write_pmtiles(root / "x.pmtiles", tiles),
    "geopackage": lambda root, tiles: write_gpkg(root / "x.gpkg", tiles),
}


@pytest.mark.parametrize("kind", WRITE)
def test_each_hashed_tile_is_counted_and_known_ones_are_not(kind, tmp_path):
    spec = WRITE[kind](tmp_path, block(5, 8, 8))
    told = RecordingProgress()
    source = open_source(spec, tmp_path, progress=told)
    assert len(source.query_by_bbox(WORLD, (5, 5))) == 16
    assert told.steps == [("hash tiles", 16, 16, "")]


def test_each_rendered_tile_is_counted(tmp_path):
    pytest.importorskip("rasterio")
    path = tmp_path / "ortho.tif"
    geotiffs.write_geotiff(path)
    told = RecordingProgress()
    source = open_source(path.name, tmp_path, progress=told)
    found = source.query_by_bbox(source.extent().box_e7, (source.extent().finest,) * 2)
    ((step, total, done, note),) = told.steps
    assert (step, note) == ("render tiles", "")
    assert total == done >= len(found) > 0
