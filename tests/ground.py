"""Ground of a few kilobytes, cut into tiles, with requests that want chunks of it and frames that show it."""

from itertools import product

import numpy as np

from pipeline.request.options import ChunkLevelOptions, ChunkOptions
from store.base.geometry.level import Level, tile_side_m
from store.disk.artifacts import Artifacts
from store.formats import descriptor_block
from store.formats.tables import decode_blocks
from tests.small_builds import Site, encoded

ZOOM = 12
EDGE = 32
TILES = 12
"""Tiles along each side of the ground."""
ROW = 2042
"""Its first row; its middle is on the equator."""
COLUMN = 2042
LEVEL = Level(ZOOM, 1, 4)
"""Two steps to a tile, chunks of 2 x 2 tiles: 64 pixels of the ground."""
SIDE_PX = 64
PIXEL_M = tile_side_m(ZOOM, 0) / EDGE
SIDES = ChunkOptions(level=(ChunkLevelOptions(side_m=2 * tile_side_m(ZOOM, 0), overlap=0.75),))
PLACES = {"one.png": (9, 7), "two.png": (8, 12), "three.png": (13, 9)}
"""Photographs of three chunks, by the first steps of these from those of the ground."""
CAMERA = b'{"width": 80, "height": 64, "fx": 50, "fy": 50, "cx": 39.5, "cy": 31.5}'
ALTITUDE_M = 50 * PIXEL_M
"""From here a pixel of the camera shows a pixel of the ground."""


def picture_of(seed=0, side=TILES * EDGE):
    """Smooth colours without symmetry, uint8 [side, side, 3]."""
    from PIL import Image

    coarse = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


GROUND = picture_of()


def frame_at(x, y, *, width=80, height=64, ground=GROUND):
    """What a camera shows whose middle is over a pixel corner of the ground, north up."""
    return np.ascontiguousarray(ground[y - height // 2 : y + height // 2, x - width // 2 : x + width // 2])


def chunk_middle(column, row):
    """The pixel corner of the ground in the middle of a chunk, whose first steps count from the ground's."""
    return column * EDGE // 2 + SIDE_PX // 2, row * EDGE // 2 + SIDE_PX // 2


def longitude(column):
    return column / 2**ZOOM * 360 - 180


def latitude(row):
    return float(np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * row / 2**ZOOM)))))


class GroundSite(Site):
    """A site with tiles of the ground; its requests want chunks whose middle is two tiles from its edges."""

    def __init__(self, root, *, column=COLUMN, **options):
        super().__init__(root, **options)
        self.column = column
        if (self.root / "camera.json").read_bytes() != CAMERA:
            self.write("camera.json", CAMERA)
        self.write_ground(GROUND)

    def write_ground(self, ground, tiles=None):
        """Write the tiles of a picture of the ground; some or all."""
        for column, row in tiles or product(range(TILES), range(TILES)):
            pixels = ground[row * EDGE : (row + 1) * EDGE, column * EDGE : (column + 1) * EDGE]
            x = (self.column + column) % 2**ZOOM
            self.write(f"tiles/{ZOOM}/{x}/{ROW + row}.png", encoded(pixels))

    def request(self, **fields):
        west, east = longitude(self.column + 2), longitude(self.column + TILES - 2)
        box = (west, latitude(ROW + TILES - 2), east - 360 if east > 180 else east, latitude(ROW + 2))
        return super().request(**{"bbox": box, "zoom": (ZOOM, ZOOM), "chunks": SIDES} | fields)

    def rows(self):
        """Descriptor id to vector of the head's rows, as they were embedded."""
        artifacts, found = Artifacts(self.layout), {}
        for row in decode_blocks(artifacts.read(self.state().head_build.index.blocks)):
            block = descriptor_block.decode(artifacts.read(row.ref))
            found |= {int(each): vector.copy() for each, vector in zip(block.ids, block.vectors, strict=True)}
        return found


def place_at(x, y):
    """Longitude and latitude of a pixel corner of the ground."""
    return longitude(COLUMN + x / EDGE), latitude(ROW + y / EDGE)
