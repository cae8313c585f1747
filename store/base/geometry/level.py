"""Level: the size and spacing of chunks of ground. Pure, and quick to import."""

import math
from typing import Final

from store.base.identity import MAX_ZOOM
from store.base.valueclass import valueclass

MAX_K: Final = 7
MAX_M: Final = 31

EARTH_M: Final = 40_075_016.686
"""Length of the equator."""

_M_BITS: Final = 5


@valueclass(frozen=True, slots=True)
class Level:
    """The size and spacing of chunks.

    Attributes:
        zoom: Zoom of the imagery.
        k: A step is 1/2^k of a tile's side; 0 to 7.
        m: Side of a chunk in steps; 1 to 31.

    Raises:
        ValueError: At construction: a part is out of range, or zoom + k is above 25.
    """

    zoom: int
    k: int
    m: int

    def __post_init__(self) -> None:
        """Check the parts."""
        if not (self.zoom >= 0 and 0 <= self.k <= MAX_K and self.zoom + self.k <= MAX_ZOOM):
            raise ValueError(
                f"no level of zoom {self.zoom} and k {self.k}: "
                f"k is 0 to {MAX_K}, and zoom + k at most {MAX_ZOOM}"
            )
        if not 1 <= self.m <= MAX_M:
            raise ValueError(f"expected a chunk's side from 1 to {MAX_M} steps, found {self.m}")

    @property
    def lattice_zoom(self) -> int:
        """Zoom whose tiles are as large as a step."""
        return self.zoom + self.k

    @property
    def view(self) -> int:
        """View field of the ids of its chunks; never 0, which is the tile itself."""
        return self.k << _M_BITS | self.m

    @property
    def steps_per_tile(self) -> int:
        """Steps along the side of a tile."""
        return 1 << self.k

    @property
    def steps_around(self) -> int:
        """Steps around the globe, and from its first row to its last."""
        return 1 << self.lattice_zoom

    @classmethod
    def from_id_fields(cls, lattice_zoom: int, view: int) -> "Level":
        """Return the level that the zoom field and the view of an id tell.

        Raises:
            ValueError: They belong to no chunk.
        """
        k = view >> _M_BITS
        return cls(lattice_zoom - k, k, view & MAX_M)


def tile_side_m(zoom: int, latitude_deg: float) -> float:
    """Return the side of a tile in metres at a latitude."""
    return EARTH_M * math.cos(math.radians(latitude_deg)) / (1 << zoom)


def metres_per_pixel(zoom: int, tile_edge: int, latitude_deg: float) -> float:
    """Return the side of a pixel of the imagery in metres at a latitude, for tiles of `tile_edge` pixels."""
    return tile_side_m(zoom, latitude_deg) / tile_edge


def pixel_m(projected_mm: int | None, latitude_deg: float) -> float:
    """Return how many metres some millimetres of the Web Mercator projection are at a latitude; 0 of None."""
    return (projected_mm or 0) / 1000 * math.cos(math.radians(latitude_deg))


def side_m(level: Level, latitude_deg: float) -> float:
    """Return the side of a chunk in metres at a latitude."""
    return level.m * tile_side_m(level.lattice_zoom, latitude_deg)
