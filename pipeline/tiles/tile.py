"""What a tile is, and what a source of tiles can do. Pure.

Tiles are in the XYZ scheme of the Web Mercator square: x grows eastwards, y grows southwards from the north edge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple, Protocol

from pipeline.request.geometry import BoxE7

ZoomRange = tuple[int, int]
"""Lowest and highest zoom, inclusive."""

Locator = tuple[str | int, ...]
"""Where a worker process finds the encoded bytes again, as plain data: ("file", path), ("pmtiles", path, offset, length).

First the name of the kind of source, then what `pipeline.tiles.sources.registry.SOURCES` says of it. Paths are absolute, y counts
from the north.
"""


class Place(NamedTuple):
    """A tile's place: zoom, column, row."""

    z: int
    x: int
    y: int

    def __str__(self) -> str:
        return f"{self.z}/{self.x}/{self.y}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One tile that a source holds.

    Attributes:
        z: Zoom.
        x: Column, eastwards.
        y: Row, southwards.
        sha256: Digest of the encoded image, lower-case hexadecimal.
        size: Length of the encoded image in bytes.
        captured: Day on which the ground was photographed, when known.
        locator: Where to read it again.
    """

    z: int
    x: int
    y: int
    sha256: str
    size: int
    captured: date | None
    locator: Locator

    @property
    def place(self) -> Place:
        """The tile's place."""
        return Place(self.z, self.x, self.y)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What a source covers as a whole.

    Attributes:
        zoom: Lowest and highest zoom that it holds; None when it holds nothing.
        box_e7: Bounds in 1e-7 degree, when known.
    """

    zoom: ZoomRange | None
    box_e7: BoxE7 | None


class TileMetadataStore(Protocol):
    """A source of tiles, seen through their metadata."""

    @property
    def name(self) -> str:
        """What messages call the source."""
        ...

    @property
    def tile_format(self) -> str:
        """Encoding of the tiles: "jpeg", "png" or "webp"."""
        ...

    def query_by_bbox(self, bbox_e7: BoxE7, zoom: ZoomRange) -> Sequence[Tile]:
        """Every tile that the source holds in a box, for every zoom of a range.

        Args:
            bbox_e7: West, south, east, north in 1e-7 degree; west greater than east crosses the antimeridian.
            zoom: Lowest and highest zoom, inclusive.

        Returns:
            Tiles sorted by (z, x, y), without duplicates.

        Raises:
            TileError: when the source is damaged, or changes while it is read.
        """
        ...

    def extent(self) -> Extent:
        """What the source covers as a whole."""
        ...
