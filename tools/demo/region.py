"""The made-up region of the demonstration: terrain cut into a folder of tiles, and a request for it."""

import io
import json
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from store.base.preprocessing import Pixels
from store.base.valueclass import valueclass
from tools.demo.terrain import terrain, view

Place = tuple[int, int, int]
"""Zoom, x, y of a tile."""

ZOOM: Final = (16, 18)
TILE: Final = 256
_CORNER: Final = (27_304, 23_596)
"""The north-west tile at the lowest zoom: open sea north of the Azores, so that it is no real place."""
_ACROSS: Final = 4
_SEED: Final = 7
_QUALITY: Final = 88

_REQUEST: Final = """\
flight_id = "demo"
sector = "stable_rear"
bbox = [{west:.7f}, {south:.7f}, {east:.7f}, {north:.7f}]
zoom = [{least}, {greatest}]
origin = [{lon:.7f}, {lat:.7f}, 60.0]
calibration = "camera.json"

[tiles]
source = "tiles/{{z}}/{{x}}/{{y}}.jpg"
captured = 2026-01-15
as_of = 2026-02-01

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
        mosaic: The region at the highest zoom, uint8 [4096, 4096, 3].
        tiles: How many tiles there are.
    """

    folder: Path
    mosaic: Pixels
    tiles: int

    @property
    def request(self) -> Path:
        """Path of the request file."""
        return self.folder / "request.toml"

    @property
    def width_m(self) -> float:
        """East-west extent, metres on the ground at its middle."""
        return float(self.mosaic.shape[1]) * metres_per_pixel(self.at_pixel(2048, 2048)[1])

    def path(self, place: Place) -> Path:
        """Return the path of a tile."""
        z, x, y = place
        return self.folder / "tiles" / str(z) / str(x) / f"{y}.jpg"

    def at_pixel(self, x: float, y: float) -> tuple[float, float]:
        """Return longitude and latitude, degrees, of a point of the mosaic."""
        left, top = _corner(ZOOM[1])
        span = 2.0 ** ZOOM[1]
        lon = (left + x / TILE) / span * 360 - 180
        # Inverse of the spherical Mercator projection (EPSG 3857).
        lat = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * (top + y / TILE) / span))))
        return float(lon), float(lat)

    def tile_at_pixel(self, x: float, y: float) -> Place:
        """Return the tile at the highest zoom that contains a point of the mosaic."""
        left, top = _corner(ZOOM[1])
        return ZOOM[1], left + int(x // TILE), top + int(y // TILE)

    def photograph(self, x: float, y: float, *, heading_deg: float) -> Pixels:
        """Return what a camera over a point of the mosaic sees at dusk: turned, darker, softer, lower."""
        rng = np.random.default_rng(_SEED)
        return view(
            self.mosaic,
            (x, y),
            heading_deg=heading_deg,
            scale=1.05,
            blur_px=0.7,
            contrast=0.85,
            brightness=-45,
            vignette=0.15,
            noise=3,
            jpeg_quality=75,
            rng=rng,
        )


def make_region(folder: Path) -> DemoRegion:
    """Paint the region and write tiles, request and calibration."""
    mosaic = terrain(_ACROSS * TILE << (ZOOM[1] - ZOOM[0]), _SEED)
    made = DemoRegion(folder=folder, mosaic=mosaic, tiles=sum(_count(zoom) ** 2 for zoom in _zooms()))
    picture = Image.fromarray(mosaic)
    for zoom in reversed(_zooms()):
        left, top = _corner(zoom)
        for x in range(_count(zoom)):
            made.path((zoom, left + x, top)).parent.mkdir(parents=True, exist_ok=True)
            for y in range(_count(zoom)):
                box = (x * TILE, y * TILE, (x + 1) * TILE, (y + 1) * TILE)
                made.path((zoom, left + x, top + y)).write_bytes(jpeg(np.asarray(picture.crop(box))))
        picture = picture.reduce(2)
    west, north = made.at_pixel(1, 1)
    east, south = made.at_pixel(mosaic.shape[1] - 1, mosaic.shape[0] - 1)
    lon, lat = made.at_pixel(mosaic.shape[1] / 2, mosaic.shape[0] / 2)
    bounds = {"west": west, "south": south, "east": east, "north": north, "lon": lon, "lat": lat}
    made.request.write_text(_REQUEST.format(**bounds, least=ZOOM[0], greatest=ZOOM[1]), encoding="utf-8")
    camera = {"model": "pinhole", "width": 256, "height": 256, "fx": 320.0, "fy": 320.0}
    (folder / "camera.json").write_text(json.dumps(camera) + "\n", encoding="utf-8")
    return made


def with_new_roof(tile: bytes) -> bytes:
    """Return the tile with a new house on it."""
    with Image.open(io.BytesIO(tile)) as picture:
        pixels = np.array(picture.convert("RGB"))
    pixels[96:160, 88:172] = (46, 48, 52)
    pixels[92:156, 84:168] = (176, 84, 62)
    pixels[92:156, 125:127] = (140, 62, 46)
    return jpeg(pixels)


def jpeg(pixels: Pixels) -> bytes:
    """Encode a picture, uint8 [h, w, 3]."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


def metres_per_pixel(latitude: float) -> float:
    """Return the ground length of a pixel at the highest zoom: that on the equator times the cosine."""
    return 40_075_016.686 / (TILE << ZOOM[1]) * float(np.cos(np.radians(latitude)))


def _zooms() -> range:
    return range(ZOOM[0], ZOOM[1] + 1)


def _count(zoom: int) -> int:
    return _ACROSS << (zoom - ZOOM[0])


def _corner(zoom: int) -> tuple[int, int]:
    return _CORNER[0] << (zoom - ZOOM[0]), _CORNER[1] << (zoom - ZOOM[0])
