"""Tiles rendered from GeoTIFF: in every projection at their place, the same each time, and what is refused."""

import hashlib
import io
import warnings

import msgpack
import numpy as np
import pytest
from PIL import Image

try:
    import rasterio
    import rasterio.shutil
except ImportError:
    pytest.skip("needs rasterio: pip install 'c10[gdal]'", allow_module_level=True)
from pipeline.errors import ErrorKind, RequestError, TileError
from pipeline.request.geometry import degrees_to_e7
from pipeline.tiles.images.decode import decode_picture
from pipeline.tiles.sources import raster_file
from pipeline.tiles.sources.raster import read_rendered
from pipeline.tiles.sources.read_tile import read_tile
from pipeline.tiles.sources.registry import open_source
from tests.geotiffs import HALF_WORLD_M, MIDDLE, PIXEL_M, SPAN_M, ZOOM, ground_tile, mercator, write_geotiff

pytestmark = [pytest.mark.gdal, pytest.mark.usefixtures("closed_archives")]

BOX = tuple(map(degrees_to_e7, (13.35, 52.49, 13.46, 52.55)))
RED_FIRST = [
    rasterio.enums.ColorInterp.red,
    rasterio.enums.ColorInterp.green,
    rasterio.enums.ColorInterp.blue,
]


def column_and_row(x, y):
    return int((x + HALF_WORLD_M) // SPAN_M), int((HALF_WORLD_M - y) // SPAN_M)


CENTRE = column_and_row(*mercator(*MIDDLE))


def tiles_of(spec, base, zoom=(ZOOM, ZOOM), box=BOX, **options):
    return open_source(spec, base, **options).query_by_bbox(box, zoom)


def pixels_of(tile):
    """The pixels of a tile, uint8 [256, 256, 3], and how much of it is transparent."""
    content = read_tile(msgpack.unpackb(msgpack.packb(tile.locator)))
    assert hashlib.sha256(content).hexdigest() == tile.sha256
    assert len(content) == tile.size
    return decode_picture(content)


def off(tile):
    """Mean difference of a tile to the ground, in grey levels."""
    return float(np.abs(pixels_of(tile).pixels.astype(int) - ground_tile(*tile.place)).mean())


def at(tiles, place):
    return next(tile for tile in tiles if tile.place == place)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"crs": "EPSG:32633"},
        {"crs": "EPSG:4326"},
        {"crs": "EPSG:3035"},
        {"crs": "EPSG:32633", "turn": 31.0, "size": 800},
        {"turn": -90.0},
        {"crs": "EPSG:32633", "size": 1400, "overviews": (2, 4, 8), "pixel": PIXEL_M * 0.6 / 2},
        {"crs": "+proj=aeqd +lat_0=52 +lon_0=13 +datum=WGS84", "tiled": False},
        {"crs": "EPSG:32633", "compress": "jpeg", "photometric": "ycbcr"},
        {"crs": "EPSG:32633", "compress": "deflate", "interleave": "band"},
        {"colours": RED_FIRST, "photometric": "MINISBLACK"},
    ],
    ids=str,
)
def test_every_projection_is_rendered_at_its_place(how, tmp_path):
    write_geotiff(tmp_path / "a.tif", **how)
    tiles = tiles_of("a.tif", tmp_path)
    whole = [tile for tile in tiles if pixels_of(tile).transparent == 0]
    assert (ZOOM, *CENTRE) in [tile.place for tile in tiles]
    assert whole
    assert all(off(tile) < 4 for tile in whole)
    assert {tile.place.z for tile in tiles} == {ZOOM}
    assert len({tile.sha256 for tile in tiles}) == len(tiles)


def test_a_cloud_optimised_geotiff(tmp_path):
    write_geotiff(tmp_path / "a.tif", crs="EPSG:32633", overviews=(2, 4))
    with rasterio.open(tmp_path / "a.tif") as file:
        rasterio.shutil.copy(file, tmp_path / "cog.tif", driver="COG", compress="deflate")
    plain, cog = (tiles_of(name, tmp_path) for name in ("a.tif", "cog.tif"))
    assert [(tile.place, tile.sha256) for tile in cog] == [(tile.place, tile.sha256) for tile in plain]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.gpkg", {"driver": "GPKG", "TILING_SCHEME": "GoogleMapsCompatible", "TILE_FORMAT": "PNG"}),
        ("a.mbtiles", {"driver": "MBTILES", "TILE_FORMAT": "PNG"}),
    ],
)
def test_archives_that_gdal_makes_of_a_file_have_its_tiles(name, options, tmp_path):
    write_geotiff(tmp_path / "a.tif")
    with rasterio.open(tmp_path / "a.tif") as file:
        rasterio.shutil.copy(file, tmp_path / name, **options)
    made, rendered = tiles_of(name, tmp_path), tiles_of("a.tif", tmp_path)
    assert [tile.place for tile in made] == [tile.place for tile in rendered]
    assert off(at(made, (ZOOM, *CENTRE))) < 4
    if name == "a.gpkg":
        with rasterio.open(tmp_path / "a.tif") as file:
            rasterio.shutil.copy(file, tmp_path / "b.gpkg", driver="GPKG")
        with pytest.raises(TileError, match="Web Mercator grid"):
            open_source("b.gpkg", tmp_path)


@pytest.mark.parametrize("overviews", [(), (2, 4, 8, 16), (8,)])
def test_low_zooms_come_from_overviews_or_from_the_tiles_below(overviews, tmp_path):
    write_geotiff(tmp_path / "a.tif", size=1200, pixel=PIXEL_M / 2, overviews=overviews)
    for z in (ZOOM - 1, ZOOM, ZOOM + 1):
        for tile in tiles_of("a.tif", tmp_path, (z, z)):
            rgba = np.asarray(Image.open(io.BytesIO(read_tile(tile.locator))).convert("RGBA")).astype(int)
            there = rgba[:, :, 3] == 255
            assert (rgba[~there] == 0).all()
            assert np.abs(rgba[:, :, :3] - ground_tile(*tile.place))[there].mean() < 6


def test_the_means_of_the_tiles_below_weigh_only_what_is_there(tmp_path):
    parts = [np.zeros((256, 256, 4), np.uint8) for _ in range(4)]
    parts[0][:] = (10, 20, 30, 255)
    parts[0][0, 0] = parts[0][0, 1] = parts[0][1, 0] = 0
    parts[1][:] = (1, 2, 3, 255)
    parts[1][0, 0] = (2, 4, 6, 255)
    parts[1][0, 1] = 0
    halved = raster_file._halved([parts[0], parts[1], None, None])
    assert halved[0, 0].tolist() == [0, 0, 0, 0]
    assert halved[1, 1].tolist() == [10, 20, 30, 255]
    assert halved[0, 128].tolist() == [1, 3, 4, 255]
    assert not halved[128:].any()


def test_the_same_bytes_in_any_order_and_from_any_number_of_threads(tmp_path, monkeypatch):
    write_geotiff(tmp_path / "a.tif", crs="EPSG:32633")
    tiles = tiles_of("a.tif", tmp_path)
    assert [read_tile(tile.locator) for tile in reversed(tiles)] == [
        read_tile(tile.locator) for tile in tiles
    ][::-1]
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(7))
    assert [tile.sha256 for tile in tiles_of("a.tif", tmp_path)] == [tile.sha256 for tile in tiles]
    one = [tile.sha256 for tile in tiles if tile.place == (ZOOM, *CENTRE)]
    x, y = (MIDDLE[0], MIDDLE[1])
    small = tuple(map(degrees_to_e7, (x - 1e-6, y - 1e-6, x + 1e-6, y + 1e-6)))
    assert [tile.sha256 for tile in tiles_of("a.tif", tmp_path, box=small)] == one


class TestHoles:
    def holed(self, rgb):
        rgb[:660, :660] = 0
        return rgb

    def with_alpha(self, rgb):
        alpha = np.full((*rgb.shape[:2], 1), 255, np.uint8)
        alpha[:660, :660] = 0
        return np.concatenate([rgb, alpha], axis=2)

    def check(self, tiles):
        full = [tile for tile in tiles if pixels_of(tile).transparent == 0]
        partly = [tile for tile in tiles if 0 < pixels_of(tile).transparent < 1]
        assert full
        assert partly
        assert all(off(tile) < 4 for tile in full)
        wanted = open_source("whole.tif", self.base).query_by_bbox(BOX, (ZOOM, ZOOM))
        assert len(tiles) < len(wanted)

    @pytest.mark.parametrize("how", ["nodata", "alpha", "mask"])
    def test_nodata_alpha_and_masks_are_holes(self, how, tmp_path):
        self.base = tmp_path
        write_geotiff(tmp_path / "whole.tif", size=1300)
        path = tmp_path / "a.tif"
        if how == "nodata":
            write_geotiff(path, size=1300, change=self.holed, nodata=0)
        elif how == "alpha":
            write_geotiff(
                path,
                size=1300,
                change=self.with_alpha,
                colours=[*RED_FIRST, rasterio.enums.ColorInterp.alpha],
            )
        else:
            write_geotiff(path, size=1300)
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
                mask = np.full((1300, 1300), 255, np.uint8)
                mask[:660, :660] = 0
                file.write_mask(mask)
        self.check(tiles_of("a.tif", tmp_path))

    def test_the_edge_of_a_file_is_transparent(self, tmp_path):
        write_geotiff(tmp_path / "a.tif", crs="EPSG:32633")
        parts = {tile.place: pixels_of(tile).transparent for tile in tiles_of("a.tif", tmp_path)}
        assert parts[(ZOOM, *CENTRE)] == 0
        assert max(parts.values()) > 0.2

    def test_nothing_but_nodata_is_no_tile(self, tmp_path):
        write_geotiff(tmp_path / "a.tif", change=np.zeros_like, nodata=0)
        assert len(tiles_of("a.tif", tmp_path)) == 0


class TestMosaic:
    def write(self, base):
        """Two files that overlap, of other colours."""
        west, east = (MIDDLE[0] - 0.001, MIDDLE[1]), (MIDDLE[0] + 0.001, MIDDLE[1])
        (base / "m").mkdir()
        write_geotiff(base / "m/1.tif", crs="EPSG:32633", middle=west)
        write_geotiff(base / "m/2.TIF", middle=east, change=lambda rgb: 255 - rgb)

    def is_inverted(self, tile):
        return off(tile) > 20

    def test_later_files_are_on_top(self, tmp_path):
        self.write(tmp_path)
        middle = (ZOOM, *CENTRE)
        assert self.is_inverted(at(tiles_of(["m/1.tif", "m/2.TIF"], tmp_path), middle))
        assert not self.is_inverted(at(tiles_of(["m/2.TIF", "m/1.tif"], tmp_path), middle))
        both = [(tile.place, tile.sha256) for tile in tiles_of(["m/1.tif", "m/2.TIF"], tmp_path)]
        for spec in ("m", "m/"):
            assert [(tile.place, tile.sha256) for tile in tiles_of(spec, tmp_path)] == both
        assert not self.is_inverted(at(tiles_of(["m", "m/1.tif"], tmp_path), middle)), "named again, on top"
        (tmp_path / "m/2.TIF").rename(tmp_path / "m/2.tif")
        assert [(tile.place, tile.sha256) for tile in tiles_of("m/*.tif", tmp_path)] == both
        (tmp_path / "m").rename(tmp_path / "[2]")
        assert [(tile.place, tile.sha256) for tile in tiles_of("*.tif", tmp_path / "[2]")] == both

    def test_there_is_no_seam(self, tmp_path):
        """One picture cut in two, with pixels that no tile's pixels coincide with."""
        write_geotiff(tmp_path / "whole.tif", crs="EPSG:32633")
        with rasterio.open(tmp_path / "whole.tif") as file:
            pixels, place, profile = file.read(), file.transform, file.profile
        for name, part in (("a.tif", slice(0, 317)), ("b.tif", slice(317, 560))):
            cut = pixels[:, :, part]
            moved = place @ type(place).translation(part.start, 0)
            with rasterio.open(
                tmp_path / name, "w", **(profile | {"transform": moved, "width": cut.shape[2]})
            ) as file:
                file.write(cut)
        whole, parts = tiles_of("whole.tif", tmp_path), tiles_of(["a.tif", "b.tif"], tmp_path)
        assert [tile.place for tile in parts] == [tile.place for tile in whole]
        for one, other in zip(whole, parts, strict=True):
            if pixels_of(one).transparent == 0:
                assert pixels_of(other).transparent == 0
                assert np.abs(pixels_of(one).pixels.astype(int) - pixels_of(other).pixels).mean() < 0.3

    def test_files_far_from_a_tile_are_not_opened_for_it(self, tmp_path):
        self.write(tmp_path)
        write_geotiff(tmp_path / "m/far.tif", middle=(20.0, 50.0), size=64)
        for tile in tiles_of("m", tmp_path):
            assert "far.tif" not in str(tile.locator[1])

    def test_lists_hold_nothing_else(self, tmp_path, archives):
        self.write(tmp_path)
        archives.write_mbtiles(tmp_path / "a.mbtiles", archives.block(3, 0, 0))
        with pytest.raises(RequestError, match=r"only GeoTIFF files in a list, found 'a\.mbtiles'"):
            open_source(["m/1.tif", "a.mbtiles"], tmp_path)
        with pytest.raises(RequestError, match="expected GeoTIFF files"):
            open_source("m/none*.tif", tmp_path)


class TestColours:
    @pytest.mark.parametrize(
        ("bands", "colours"),
        [
            (1, None),
            (2, ["gray", "alpha"]),
            (4, ["red", "green", "blue", "undefined"]),
            (4, ["blue", "green", "red", "undefined"]),
            (5, ["red", "green", "blue", "undefined", "alpha"]),
        ],
    )
    def test_bands(self, bands, colours, tmp_path):
        kinds = [rasterio.enums.ColorInterp[name] for name in colours or ["gray"]]
        places = {"red": 0, "green": 1, "blue": 2, "gray": 1}

        def change(rgb):
            opaque, infrared = np.full(rgb.shape[:2], 255, np.uint8), np.full(rgb.shape[:2], 77, np.uint8)
            extra = {"alpha": opaque, "undefined": infrared}
            named = [
                rgb[:, :, places[name]] if name in places else extra[name] for name in colours or ["gray"]
            ]
            return np.stack(named, axis=2)

        write_geotiff(tmp_path / "a.tif", change=change, colours=kinds)
        tile = at(tiles_of("a.tif", tmp_path), (ZOOM, *CENTRE))
        expected = ground_tile(*tile.place)
        if bands < 3:
            expected = np.repeat(expected[:, :, 1:2], 3, axis=2)
        assert np.abs(pixels_of(tile).pixels.astype(int) - expected).mean() < 4

    def test_a_palette(self, tmp_path):
        palette = {number: (number, 255 - number, 7, 0 if number == 3 else 255) for number in range(256)}

        def change(rgb):
            index = rgb[:, :, :1].copy()
            index[360:, 360:] = 3
            return index

        write_geotiff(
            tmp_path / "a.tif", change=change, palette=palette, colours=[rasterio.enums.ColorInterp.palette]
        )
        for tile in tiles_of("a.tif", tmp_path):
            found = pixels_of(tile)
            if found.transparent == 0:
                assert (found.pixels[:, :, 2] == 7).all()
                assert (found.pixels[:, :, 0].astype(int) + found.pixels[:, :, 1] == 255).all()
        assert any(pixels_of(tile).transparent > 0.5 for tile in tiles_of("a.tif", tmp_path))

    @pytest.mark.parametrize(
        ("change", "options", "said", "mend"),
        [
            (
                lambda rgb: rgb.astype(np.uint16) * 200,
                {},
                "found uint16",
                "-ot Byte -scale LOWEST HIGHEST 0 255",
            ),
            (lambda rgb: rgb.astype(np.float32), {}, "found float32", "-ot Byte -scale"),
            (lambda rgb: rgb[:, :, :2], {}, "found 2 bands", "-colorinterp red,green,blue"),
            (
                lambda rgb: np.concatenate([rgb, rgb], axis=2),
                {"photometric": "MINISBLACK"},
                "found 6 bands",
                "-colorinterp red,green,blue",
            ),
            (lambda rgb: rgb[:, :, [0, 1, 2, 0]], {"photometric": "CMYK"}, "4 bands (CMYK", "-colorinterp"),
            (lambda rgb: rgb, {"photometric": "MINISBLACK"}, "found 3 bands", "-colorinterp red,green,blue"),
            (lambda rgb: rgb[:, :, :1], {"photometric": "MINISWHITE"}, "found 0 as white", "-scale"),
            (lambda rgb: rgb[:, :, :1] >> 4, {"nbits": 4}, "found 4 bits", "-scale"),
        ],
    )
    def test_what_has_no_certain_look_is_refused(self, change, options, said, mend, tmp_path):
        write_geotiff(tmp_path / "a b.tif", size=64, change=change, **options)
        with pytest.raises(RequestError) as caught:
            open_source("a b.tif", tmp_path)
        assert said in caught.value.message
        assert mend in caught.value.hint
        assert "'a b.tif'" in caught.value.hint


def shaded_as_infrared(rgb):
    return np.concatenate([rgb, rgb[:, :, 1:2] // 2 + 60], axis=2)


def half_transparent(rgb):
    return np.concatenate([rgb, np.full_like(rgb[:, :, :1], 128)], axis=2)


def grey_and_shades(rgb):
    return rgb[:, :, :2]


class TestAlphaThatIsNone:
    def write(self, base, change, **options):
        bands = change(np.zeros((1, 1, 3), np.uint8)).shape[2]
        colours = RED_FIRST if bands == 4 else [rasterio.enums.ColorInterp.gray]
        return write_geotiff(
            base / "a b.tif", change=change, colours=[*colours, rasterio.enums.ColorInterp.alpha], **options
        )

    @pytest.mark.parametrize(
        ("change", "mend"),
        [
            (shaded_as_infrared, "gdal_translate -b 1 -b 2 -b 3 -of COG 'a b.tif' X.tif"),
            (half_transparent, "gdal_translate -b 1 -b 2 -b 3 -of COG 'a b.tif' X.tif"),
            (grey_and_shades, "gdal_translate -b 1 -of COG 'a b.tif' X.tif"),
        ],
    )
    @pytest.mark.parametrize("size", [40, 560])
    def test_a_band_of_shades_is_refused_with_what_leaves_it_out(self, change, mend, size, tmp_path):
        self.write(tmp_path, change, size=size)
        with pytest.raises(RequestError) as caught:
            open_source("a b.tif", tmp_path)
        assert "expected an alpha band that says which pixels are there" in caught.value.message
        assert mend in caught.value.hint

    @pytest.mark.parametrize("island", [False, True])
    def test_soft_edges_are_none_of_it(self, island, tmp_path):
        def feathered(rgb):
            edge = np.minimum(np.arange(rgb.shape[0]), np.arange(rgb.shape[0])[::-1]) * 12
            alpha = np.clip(np.minimum.outer(edge, edge), 0, 255).astype(np.uint8)
            if island:
                alpha[:] = 0
                alpha[240:320, 240:320] = 100
            return np.concatenate([rgb, alpha[:, :, None]], axis=2)

        self.write(tmp_path, feathered)
        assert open_source("a b.tif", tmp_path).extent().finest is not None


def write_black(path, **settings):
    """Write a black GeoTIFF of 8 x 8 pixels."""
    shape = {"driver": "GTiff", "width": 8, "height": 8, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", **shape, **settings) as file:
        file.write(np.zeros((3, 8, 8), np.uint8))


class TestRefused:
    def refused(self, base, kind=RequestError):
        with pytest.raises(kind) as caught:
            open_source("a.tif", base)
        return caught.value

    @pytest.mark.parametrize(
        ("options", "mend"),
        [
            (
                {"crs": None, "transform": None},
                "-a_srs EPSG:NUMBER -a_ullr WEST NORTH EAST SOUTH -of COG a.tif",
            ),
            ({"crs": None}, "-a_srs EPSG:NUMBER -of COG a.tif"),
            ({"transform": None}, "-a_srs EPSG:NUMBER -a_ullr WEST NORTH"),
        ],
    )
    def test_a_file_without_georeference(self, options, mend, tmp_path):
        place = rasterio.Affine(1, 0, 1e6, 0, -1, 6e6)
        settings = {"crs": "EPSG:3857", "transform": place} | options
        settings = {name: value for name, value in settings.items() if value is not None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write_black(tmp_path / "a.tif", **settings)
        error = self.refused(tmp_path)
        assert "a georeference" in error.message
        assert mend in error.hint

    def test_a_file_with_points_alone(self, tmp_path):
        points = [
            rasterio.control.GroundControlPoint(row=row, col=column, x=1e6 + column, y=6e6 - row)
            for row, column in ((0, 0), (0, 8), (8, 0))
        ]
        write_black(tmp_path / "a.tif", gcps=points, crs="EPSG:3857")
        assert "gdalwarp -t_srs EPSG:3857" in self.refused(tmp_path).hint

    @pytest.mark.parametrize(
        ("crs", "corner"),
        [
            ('LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]', (5, 5)),
            ("EPSG:32633", (1e12, 1e12)),
        ],
    )
    def test_a_projection_that_cannot_be_warped(self, crs, corner, tmp_path):
        place = rasterio.Affine(1, 0, corner[0], 0, -1, corner[1])
        write_black(tmp_path / "a.tif", crs=crs, transform=place)
        error = self.refused(tmp_path)
        assert "a projection that can be warped" in error.message
        assert "gdalwarp -s_srs EPSG:NUMBER -t_srs EPSG:3857" in error.hint

    def test_what_is_no_tiff(self, tmp_path):
        (tmp_path / "a.tif").write_bytes(b"<!DOCTYPE html><html>log in")
        error = self.refused(tmp_path, TileError)
        assert error.kind is ErrorKind.BAD_ARCHIVE
        assert "in a browser" in error.hint
        (tmp_path / "a.tif").write_bytes(b"II*\0" + bytes(500))
        assert "that GDAL can read" in self.refused(tmp_path, TileError).message
        (tmp_path / "a.tif").unlink()
        assert self.refused(tmp_path).kind is ErrorKind.SOURCE_UNREADABLE

    def test_a_damaged_part_is_a_bad_tile_and_the_others_are_read(self, tmp_path):
        path = write_geotiff(tmp_path / "a.tif", compress="deflate")
        sound = tiles_of("a.tif", tmp_path)
        with rasterio.open(path) as file:
            offset = int(file.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
        data = bytearray(path.read_bytes())
        data[offset : offset + 400] = bytes(400)
        path.write_bytes(data)
        damaged = tiles_of("a.tif", tmp_path)
        assert [tile.place for tile in damaged] == [tile.place for tile in sound]
        bad = []
        for one, other in zip(sound, damaged, strict=True):
            if one.sha256 != other.sha256:
                with pytest.raises(TileError, match="a part of a GeoTIFF that cannot be read"):
                    pixels_of(other)
                bad.append(other.place)
        assert 0 < len(bad) < len(sound)
        (warning,) = damaged.warnings
        assert warning.startswith(f"{len(bad)} of {len(sound)} tiles cannot be read from a.tif")
        assert sound.warnings == ()

    def test_zooms_that_would_take_hours_without_overviews(self, tmp_path, monkeypatch):
        write_geotiff(tmp_path / "a.tif")
        monkeypatch.setattr("pipeline.tiles.sources.raster._SLOW_PIXELS", 1000)
        with pytest.raises(RequestError) as caught:
            tiles_of("a.tif", tmp_path, (ZOOM - 5, ZOOM))
        assert "gdaladdo -r average" in caught.value.hint
        assert tiles_of("a.tif", tmp_path)


def test_a_zoom_much_finer_than_the_imagery_is_a_warning(tmp_path):
    write_geotiff(tmp_path / "a.tif", size=300)
    fine = tiles_of("a.tif", tmp_path, (ZOOM + 3, ZOOM + 3))
    (warning,) = fine.warnings
    assert f"zoom {ZOOM + 3} is 8 times finer than a.tif" in warning
    assert f"the detail of zoom {ZOOM}" in warning
    assert tiles_of("a.tif", tmp_path, (ZOOM, ZOOM + 1)).warnings == ()


def test_an_area_outside_has_no_tiles_and_the_extent_says_so(tmp_path):
    write_geotiff(tmp_path / "a.tif")
    source = open_source("a.tif", tmp_path)
    elsewhere = tuple(map(degrees_to_e7, (20.0, 50.0, 20.1, 50.1)))
    assert len(source.query_by_bbox(elsewhere, (ZOOM, ZOOM))) == 0
    west, south, east, north = source.extent().box_e7
    assert west < degrees_to_e7(MIDDLE[0]) < east
    assert south < degrees_to_e7(MIDDLE[1]) < north


class TestCache:
    def find(self, base, box=BOX):
        return tiles_of("a.tif", base, box=box, digest_cache_folder=base / "cache", now_ns=lambda: 4 * 10**18)

    def test_nothing_is_rendered_again(self, tmp_path, monkeypatch):
        write_geotiff(tmp_path / "a.tif", size=512)
        cold = self.find(tmp_path)
        monkeypatch.setattr("pipeline.tiles.sources.raster.RasterMosaic._render", None)
        assert self.find(tmp_path) == cold

    def test_a_wider_area_renders_only_what_is_new(self, tmp_path, monkeypatch):
        write_geotiff(tmp_path / "a.tif", size=512)
        x, y = MIDDLE
        first = self.find(tmp_path, tuple(map(degrees_to_e7, (x - 1e-6, y - 1e-6, x + 1e-6, y + 1e-6))))
        rendered = []
        real = raster_file.RasterFile.render
        monkeypatch.setattr(
            raster_file.RasterFile,
            "render",
            lambda self, *place: rendered.append(place) or real(self, *place),
        )
        assert len(self.find(tmp_path)) > len(first) == 1
        assert (ZOOM, *CENTRE) not in rendered

    def test_a_changed_file_is_rendered_again_and_so_is_one_with_new_overviews(self, tmp_path):
        write_geotiff(tmp_path / "a.tif", size=512)
        before = [tile.sha256 for tile in self.find(tmp_path)]
        write_geotiff(tmp_path / "a.tif", size=512, change=lambda rgb: 255 - rgb)
        assert [tile.sha256 for tile in self.find(tmp_path)] != before

    def test_other_versions_of_gdal_render_again(self, tmp_path, monkeypatch):
        write_geotiff(tmp_path / "a.tif", size=512)
        self.find(tmp_path)
        monkeypatch.setattr("pipeline.tiles.sources.raster.library_versions", lambda: "GDAL 9")
        monkeypatch.setattr("pipeline.tiles.sources.raster.RasterMosaic._render", None)
        with pytest.raises(TypeError):
            self.find(tmp_path)

    def test_a_file_that_changes_meanwhile(self, tmp_path):
        path = write_geotiff(tmp_path / "a.tif", size=512)
        source = open_source("a.tif", tmp_path)
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(TileError) as caught:
            source.query_by_bbox(BOX, (ZOOM, ZOOM))
        assert caught.value.kind is ErrorKind.SOURCE_CHANGED


def test_a_tile_that_is_gone_when_it_is_read(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", size=64)
    with pytest.raises(TileError) as caught:
        read_rendered(str(path), ZOOM, 0, 0)
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED
    with pytest.raises(TileError):
        read_tile(("raster", str(tmp_path / "none.tif"), ZOOM, *CENTRE))


def write_noise(path, crs, west, north, pixel):
    """Write 600 x 600 pixels of noise whose north-west corner lies at a place of a projection."""
    noise = np.random.default_rng(0).integers(1, 255, (3, 600, 600), np.uint8)
    place = rasterio.transform.Affine(pixel, 0, west, 0, -pixel, north)
    settings = {"driver": "GTiff", "width": 600, "height": 600, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", crs=crs, transform=place, **settings) as file:
        file.write(noise)


@pytest.mark.parametrize(
    ("crs", "west", "pixel"),
    [
        ("EPSG:4326", 180.0, 0.00004),
        ("EPSG:4326", -180.024, 0.00004),
        ("EPSG:3857", 20_037_508.34, 4.0),
        ("EPSG:3857", -20_037_508.34 - 2_400, 4.0),
    ],
)
def test_a_file_that_begins_at_180_degrees_and_lies_beyond_is_refused_too(crs, west, pixel, tmp_path):
    write_noise(tmp_path / "x.tif", crs, west, 10.01, pixel)
    with pytest.raises(RequestError, match="longitudes that are all beyond 180 degrees"):
        open_source("x.tif", tmp_path)


@pytest.mark.parametrize(
    ("west", "mend"),
    [(190.0, "-a_ullr -170 10.01 -169.976 9.986"), (-190.0, "-a_ullr 170 10.01 170.024 9.986")],
)
def test_longitudes_that_are_all_beyond_180_degrees_are_refused_with_what_moves_them(west, mend, tmp_path):
    metres = west / 180 * 20_037_508.342789244
    write_noise(tmp_path / "x.tif", "EPSG:3857", metres, 1_100_000.0, 4.0)
    with pytest.raises(RequestError, match="longitudes that are all beyond 180 degrees") as caught:
        open_source("x.tif", tmp_path)
    moved = float(caught.value.hint.split("-a_ullr")[1].split()[0])
    assert moved == pytest.approx(metres - np.sign(west) * 40_075_016.6856, abs=0.001)
    write_noise(tmp_path / "x.tif", "EPSG:4326", west, 10.01, 0.00004)
    with pytest.raises(RequestError, match="longitudes that are all beyond 180 degrees") as caught:
        open_source("x.tif", tmp_path)
    assert mend in caught.value.hint
    moved = float(mend.split()[1])
    write_noise(tmp_path / "x.tif", "EPSG:4326", moved, 10.01, 0.00004)
    assert tiles_of("x.tif", tmp_path, box=tuple(map(degrees_to_e7, (moved, 9.99, moved + 0.02, 10.0))))


def test_imagery_of_a_pole_alone_is_refused(tmp_path):
    write_noise(tmp_path / "x.tif", "EPSG:4326", 10.0, 90.0, 0.0001)
    with pytest.raises(RequestError, match="places beyond latitude 85") as caught:
        open_source("x.tif", tmp_path)
    assert caught.value.kind is ErrorKind.UNSUPPORTED_ARCHIVE


def test_imagery_around_a_pole_has_the_detail_of_its_pixels_elsewhere(tmp_path):
    write_noise(tmp_path / "x.tif", "EPSG:3413", -3_000_000, 3_000_000, 10_000)
    source = open_source("x.tif", tmp_path)
    # 10 km on the ground, at latitude 60 and below twice as much in the projection of the tiles.
    assert source.extent().finest == 3
    assert source.extent().box_e7[3] == 850_511_288
