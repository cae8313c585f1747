"""The made-up region of the demonstration: terrain cut into a folder of tiles, and a request for it."""

import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from store.base.clock import SystemClock, utc_day
from store.base.geometry.level import metres_per_pixel
from store.base.preprocessing import Pixels
from store.base.valueclass import valueclass
from tools.demo.terrain import terrain
from tools.demo.terrain_ground import Look

Place = tuple[int, int, int]
"""Zoom, x, y of a tile."""

ZOOM: Final = 18
TILE: Final = 256
CAMERA: Final = {"width": 640, "height": 360, "fx": 484.0, "fy": 484.0, "cx": 319.5, "cy": 179.5}
"""Sees 264 x 149 m from 200 m above ground; pixels of the calibration, whose upper left one is (0, 0)."""
ALTITUDE_M: Final = 200
_CORNER: Final = (109_216, 94_384)
"""The north-west tile: open sea north of the Azores, so that it is no real place."""
_ACROSS: Final = 8
_AGE: Final = timedelta(days=60)
_SEED: Final = 7
LATER: Final = Look(shadows=(-1.6, 0.7), canopy=(104, 84, 44), crops=1)
"""An autumn morning, when the photographs are taken: the sun is low in the east, other crops are in the fields."""

_REQUEST: Final = """\
flight_id = "demo"
sector = "stable_rear"
bbox = [{west:.7f}, {south:.7f}, {east:.7f}, {north:.7f}]
zoom = [{zoom}, {zoom}]
origin = [{lon:.7f}, {lat:.7f}, 60.0]
calibration = "camera.json"
altitude_m = {altitude}

[tiles]
source = "tiles/{{z}}/{{x}}/{{y}}.jpg"
captured = {captured}

[engine]
backend = "onnxruntime"
precision = "fp32"

[[models]]
name = "place"
role = "descriptor"
onnx = "builtin:place"

[index]
kind = "auto"
"""


@valueclass(frozen=True, slots=True, kw_only=True)
class DemoRegion:
    """The region on disk and in memory.

    Attributes:
        folder: Where request, calibration and tiles are.
        mosaic: Its imagery, uint8 [2048, 2048, 3].
    """

    folder: Path
    mosaic: Pixels

    @property
    def request(self) -> Path:
        """Path of the request file."""
        return self.folder / "request.toml"

    @property
    def tiles(self) -> int:
        """How many tiles there are."""
        return _ACROSS**2

    @property
    def metres_per_pixel(self) -> float:
        """Ground length of a pixel at its middle: that on the equator times the cosine of the latitude."""
        middle = self.mosaic.shape[0] / 2
        return metres_per_pixel(ZOOM, TILE, self.at_pixel(middle, middle)[1])

    @property
    def width_m(self) -> float:
        """East-west extent, metres on the ground at its middle."""
        return float(self.mosaic.shape[1]) * self.metres_per_pixel

    @property
    def middle_tile(self) -> Place:
        """The tile south-east of its middle."""
        return self.tile_at_pixel(self.mosaic.shape[1] / 2, self.mosaic.shape[0] / 2)

    def path(self, place: Place) -> Path:
        """Return the path of a tile."""
        z, x, y = place
        return self.folder / "tiles" / str(z) / str(x) / f"{y}.jpg"

    def at_pixel(self, x: float, y: float) -> tuple[float, float]:
        """Return longitude and latitude, degrees, of a point of the mosaic."""
        span = 2.0**ZOOM
        lon = (_CORNER[0] + x / TILE) / span * 360 - 180
        # Inverse of the spherical Mercator projection (EPSG 3857).
        lat = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * (_CORNER[1] + y / TILE) / span))))
        return float(lon), float(lat)

    def tile_at_pixel(self, x: float, y: float) -> Place:
        """Return the tile that contains a point of the mosaic."""
        return ZOOM, _CORNER[0] + int(x // TILE), _CORNER[1] + int(y // TILE)

    def on_a_later_day(self) -> Pixels:
        """Return the same ground in another season and light, as the mosaic."""
        return terrain(self.mosaic.shape[0], _SEED, LATER)


def make_region(folder: Path) -> DemoRegion:
    """Paint the region and write tiles, request and calibration."""
    made = DemoRegion(folder=folder, mosaic=terrain(_ACROSS * TILE, _SEED))
    for x in range(_ACROSS):
        made.path((ZOOM, _CORNER[0] + x, 0)).parent.mkdir(parents=True, exist_ok=True)
        for y in range(_ACROSS):
            tile = made.mosaic[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE]
            made.path((ZOOM, _CORNER[0] + x, _CORNER[1] + y)).write_bytes(jpeg(tile, quality=88))
    side = made.mosaic.shape[0]
    # A tile less on each side: chunks reach half their side beyond the area.
    west, north = made.at_pixel(TILE + 1, TILE + 1)
    east, south = made.at_pixel(side - TILE - 1, side - TILE - 1)
    lon, lat = made.at_pixel(side / 2, side / 2)
    bounds = {"west": west, "south": south, "east": east, "north": north, "lon": lon, "lat": lat}
    request = _REQUEST.format(
        captured=utc_day(SystemClock()) - _AGE, **bounds, zoom=ZOOM, altitude=ALTITUDE_M
    )
    made.request.write_text(request, encoding="utf-8")
    (folder / "camera.json").write_text(json.dumps(CAMERA) + "\n", encoding="utf-8")
    return made


def land_elsewhere() -> Pixels:
    """Return ground of another place, 541 m wide, on the day of the photographs."""
    return terrain(1280, _SEED + 1, LATER)


def with_new_roof(tile: bytes) -> bytes:
    """Return the tile with a new house on it."""
    with Image.open(io.BytesIO(tile)) as picture:
        pixels = np.array(picture.convert("RGB"))
    pixels[96:160, 88:172] = (46, 48, 52)
    pixels[92:156, 84:168] = (176, 84, 62)
    pixels[92:156, 125:127] = (140, 62, 46)
    return jpeg(pixels, quality=88)


def jpeg(pixels: Pixels, *, quality: int) -> bytes:
    """Encode a picture, uint8 [h, w, 3]."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()
