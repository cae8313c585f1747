"""A tile of a source, and the interface of a source of tiles. Pure.

Tiles are in the XYZ scheme of the Web Mercator square: x grows eastwards, y grows southwards from the north
edge.
"""

from collections.abc import Sequence
from datetime import date
from typing import NamedTuple, Protocol, runtime_checkable

from pipeline.request.geometry import BoxE7
from store.base.valueclass import valueclass

ZoomRange = tuple[int, int]
"""Lowest and highest zoom, inclusive."""

Locator = tuple[str | int, ...]
"""From where a worker process reads a tile's encoded bytes, as plain data: ("pmtiles", path, offset, length).

First comes the name of the kind of source, then the values that its row of `pipeline.tiles.sources.registry`
lists. Paths are absolute; y counts from the north.
"""


class Place(NamedTuple):
    """Where a tile is in the grid: zoom, column, row."""

    z: int
    x: int
    y: int

    def __str__(self) -> str:
        return f"{self.z}/{self.x}/{self.y}"


@valueclass(frozen=True, slots=True, kw_only=True)
class SourceTile:
    """One tile that a source holds.

    Attributes:
        z: Zoom.
        x: Column, eastwards.
        y: Row, southwards.
        sha256: Digest of the encoded image, lower-case hexadecimal.
        size: Length of the encoded image in bytes.
        captured: Day on which the ground was photographed, when known.
        locator: From where to read it again.
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


@valueclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Zooms and bounds of a whole source.

    Attributes:
        zoom: Lowest and highest zoom that it holds; None when it holds nothing.
        box_e7: Bounds in 1e-7 degree, when known.
        finest: Of imagery of which tiles are rendered, for any zoom, the one whose pixels are as large as its own.
        captured: The first day on which it was photographed, where its files say so.
        written: The day on which the first of its files was made, likewise.
    """

    zoom: ZoomRange | None
    box_e7: BoxE7 | None
    finest: int | None = None
    captured: date | None = None
    written: date | None = None


class TileMetadataStore(Protocol):
    """A source of tiles: lists them without their pixels."""

    @property
    def name(self) -> str:
        """The source's name in messages."""
        ...

    def query_by_bbox(self, bbox_e7: BoxE7, zoom: ZoomRange) -> Sequence[SourceTile]:
        """Return every tile that the source holds in a box, for every zoom of a range.

        Args:
            bbox_e7: West, south, east, north in 1e-7 degree; west greater than east crosses the antimeridian.
            zoom: Lowest and highest zoom, inclusive.

        Returns:
            Tiles sorted by (z, x, y), without duplicates.

        Raises:
            TileError: when the source is damaged, or changes meanwhile.
        """
        ...

    def extent(self) -> Extent:
        """Return zooms and bounds of the whole source."""
        ...


@runtime_checkable
class RendersTiles(Protocol):
    """What a source can answer if its tiles are rendered; of stored ones nothing says how fine the imagery was."""

    def pixel_sides(self) -> Sequence[tuple[BoxE7, float]]:
        """Return box and side of a pixel, in metres of the Web Mercator projection, of each file of the imagery."""
        ...
