"""The same ground in every layout and kind of source is the same build; GeoTIFF and tiles made of it agree."""

import io
import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline import BuildOutcome
from store.formats import descriptor_block
from tests.small_builds import ZOOM, Site, spread
from tools.cli import cli


def south(y):
    return (1 << ZOOM) - 1 - y


LAYOUTS = {
    "zyx": ("zyx/{z}/{y}/{x}.png", lambda x, y: f"zyx/{ZOOM}/{y}/{x}.png"),
    "tms": ("tms/{z}/{x}/{-y}.png", lambda x, y: f"tms/{ZOOM}/{x}/{south(y)}.png"),
    "size": ("size/{z}/{x}/{y}@2x.png", lambda x, y: f"size/{ZOOM}/{x}/{y}@2x.png"),
    "mixed": ("mixed", lambda x, y: f"mixed/{ZOOM}/{x}/{y}{('', '.png', '.PNG')[x % 3]}"),
    "gdal2tiles": ("gdal2tiles", lambda x, y: f"gdal2tiles/{ZOOM}/{x}/{south(y)}.png"),
    "flat": ("flat/{z}_{x}_{y}.png", lambda x, y: f"flat/{ZOOM}_{x}_{y}.png"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("layouts"))
    site.write_tiles(spread())
    assert site.build().outcome is BuildOutcome.BUILT
    return site


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_the_same_build(name, site):
    spec, name_of = LAYOUTS[name]
    for (_, x, y), content in spread().items():
        site.write(name_of(x, y), content)
    site.write(
        "gdal2tiles/tilemapresource.xml", b'<TileMap><TileSets profile="mercator"></TileSets></TileMap>'
    )
    assert site.build(source=spec).outcome is BuildOutcome.REUSED


def test_a_geopackage_is_the_same_build(site):
    module = pytest.importorskip("tests.pipeline.tiles.sources.archives.test_geopackage")
    module.write_gpkg(site.root / "a.gpkg", spread())
    assert site.build(source="a.gpkg").outcome is BuildOutcome.REUSED


def run_plan(site, **fields):
    """Exit code and answer of `c10 plan`."""
    request = site.write_request(**fields)
    found = CliRunner().invoke(cli, ["plan", str(request), "--cache", str(site.root / "none"), "--json"])
    return found.exit_code, json.loads(found.stdout)


@pytest.mark.parametrize(
    ("source", "code"), [("none/{z}/{x}/{x}.png", 2), (("a.mbtiles", "b.mbtiles"), 2), ("none", 2)]
)
def test_what_is_no_source_ends_with_code_2(source, code, site):
    exit_code, found = run_plan(site, source=source)
    assert exit_code == code
    assert found["error"]["hint"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A site, and its request for a GeoTIFF and for the tiles that GDAL's own warp makes of it."""
    rasterio = pytest.importorskip("rasterio", reason="needs rasterio: pip install 'c10[gdal]'")
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    from tests.geotiffs import HALF_WORLD_M, MIDDLE, PIXEL_M, write_geotiff

    site = Site(tmp_path_factory.mktemp("geotiff"))
    rng = np.random.default_rng(4)
    noise = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).resize((1300, 1300), 3)
    write_geotiff(
        site.root / "ortho.tif",
        crs="EPSG:32633",
        size=1300,
        pixel=PIXEL_M * 0.6,
        change=lambda rgb: (rgb // 2 + np.asarray(noise) // 2).astype(np.uint8),
    )
    zoom = 15
    span = 2 * HALF_WORLD_M / (1 << zoom)
    with rasterio.open(site.root / "ortho.tif") as file:
        for x in range(17602, 17607):
            for y in range(10744, 10749):
                place = rasterio.Affine(
                    span / 256, 0, x * span - HALF_WORLD_M, 0, -span / 256, HALF_WORLD_M - y * span
                )
                with WarpedVRT(
                    file,
                    crs="EPSG:3857",
                    transform=place,
                    width=256,
                    height=256,
                    resampling=Resampling.cubic,
                    add_alpha=True,
                ) as warped:
                    pixels = np.moveaxis(warped.read(), 0, 2)
                if (pixels[:, :, 3] == 255).all():
                    buffer = io.BytesIO()
                    Image.fromarray(pixels[:, :, :3]).save(buffer, "jpeg", quality=92)
                    site.write(f"tiles/{zoom}/{x}/{y}.jpg", buffer.getvalue())
    fields = {
        "bbox": (MIDDLE[0] - 0.03, MIDDLE[1] - 0.02, MIDDLE[0] + 0.03, MIDDLE[1] + 0.02),
        "zoom": (zoom, zoom),
        "origin": (*MIDDLE, 100.0),
        "network": "builtin:place",
    }
    return site, fields


@pytest.mark.gdal
def test_geotiff_and_tiles_made_of_it_agree(both):
    site, fields = both
    rows = []
    for name, source in (("tif", "ortho.tif"), ("jpg", "tiles")):
        one = Site(site.root, cache=site.root / f"cache-{name}")
        report = one.build(source=source, **fields)
        assert report.outcome is BuildOutcome.BUILT
        found = {}
        for event in one.blocks().values():
            block = descriptor_block.decode(one.artifact(event.block).read_bytes())
            found |= dict(zip(block.ids.tolist(), np.asarray(block.vectors, np.float32), strict=True))
        rows.append(found)
    rendered, cut = rows
    assert len(cut) > 3
    assert cut.keys() <= rendered.keys()
    assert min(float(rendered[each] @ cut[each]) for each in cut) >= 0.999


@pytest.mark.gdal
def test_a_second_build_renders_nothing_and_the_library_is_recorded(both, monkeypatch):
    site, fields = both
    one = Site(site.root, cache=site.root / "cache-again")
    ports = {"digest_cache_folder": site.root / "digests"}
    request = one.request(source=("ortho.tif",), **fields)
    assert one.provisioner(**ports).build_cache_artifacts(request).outcome is BuildOutcome.BUILT
    (build,) = one.state().builds.values()
    assert "GDAL" in build.host["imagery"]
    assert build.host["source"] == "ortho.tif"
    assert one.provisioner(**ports).build_cache_artifacts(request).outcome is BuildOutcome.REUSED


@pytest.mark.gdal
def test_without_georeference_plan_ends_with_code_2(both):
    site, fields = both
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(site.root / "bare.tif")
    exit_code, found = run_plan(site, source="bare.tif", **fields)
    assert exit_code == 2
    assert "-a_srs" in found["error"]["hint"]


@pytest.mark.gdal
def test_a_damaged_part_is_skipped_if_the_request_says_so(both):
    rasterio = pytest.importorskip("rasterio", reason="needs rasterio: pip install 'c10[gdal]'")
    site, fields = both
    with rasterio.open(site.root / "ortho.tif") as file:
        profile, pixels = file.profile, file.read()
    with rasterio.open(site.root / "packed.tif", "w", **(profile | {"compress": "deflate"})) as file:
        file.write(pixels)
    with rasterio.open(site.root / "packed.tif") as file:
        at = int(file.get_tag_item("BLOCK_OFFSET_2_2", "TIFF", bidx=1))
    data = bytearray((site.root / "packed.tif").read_bytes())
    data[at : at + 2000] = bytes(2000)
    site.write("packed.tif", bytes(data))
    one = Site(site.root, cache=site.root / "cache-damaged")
    failed = one.build(source="packed.tif", **fields)
    assert failed.outcome is BuildOutcome.FAILED
    assert failed.error.kind == "bad-tile"
    assert "a part of a GeoTIFF that cannot be read" in failed.error.message
    skipped = one.build(source="packed.tif", tiles={"on_bad": "skip"}, **fields)
    assert skipped.outcome is BuildOutcome.BUILT
