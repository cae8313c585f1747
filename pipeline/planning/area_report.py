"""The geographic report: which wanted tiles are present, missing, featureless or skipped. Pure.

Tiles are written as runs along a row of one zoom, `[zoom, y, first x, last x]`, so that a large hole takes
little space. A *featureless* tile (water, cloud, a provider's "no imagery") is present, but looks like others.
"""

from collections.abc import Iterable

from store.base import canonical_json
from store.base.canonical_json import Document
from store.base.valueclass import valueclass

Place = tuple[int, int, int]
"""(zoom, x, y)."""

TileRun = list[int]
"""[zoom, y, first x, last x]."""


@valueclass(frozen=True, slots=True, kw_only=True)
class AreaReport:
    """The tiles of an area by their state; `wanted` and `present` are numbers of tiles."""

    wanted: int
    present: int
    holes: tuple[Place, ...]
    featureless: tuple[Place, ...]
    skipped: tuple[Place, ...]
    excluded: tuple[Place, ...]

    @property
    def localisable(self) -> float:
        """Fraction of the wanted tiles that can be localised: present, indexed and not featureless."""
        return (
            (self.present - len(self.featureless) - len(self.skipped)) / self.wanted if self.wanted else 0.0
        )

    def warnings(self) -> tuple[str, ...]:
        """Return one sentence for each reason why a part of the area cannot be localised."""
        return localisation_warnings(
            wanted=self.wanted,
            present=self.present,
            featureless=len(self.featureless),
            skipped=len(self.skipped),
        )

    def encoded(self) -> bytes:
        """Return the bytes of the report artifact."""
        return canonical_json.encode(self.to_document())

    def to_document(self) -> Document:
        """Return the report artifact's content."""
        return {
            "format": 1,
            "wanted": self.wanted,
            "present": self.present,
            "holes": runs(self.holes),
            "featureless": runs(self.featureless),
            "skipped": runs(self.skipped),
            "excluded": runs(self.excluded),
        }


def localisation_warnings(*, wanted: int, present: int, featureless: int, skipped: int) -> tuple[str, ...]:
    """Return one sentence for each reason why a part of an area cannot be localised."""
    found = []
    if present < wanted:
        found.append(f"{wanted - present} of {wanted} wanted tiles are missing from the source or left out")
    if skipped:
        share = f"{skipped} of {present} tiles ({max(1, round(100 * skipped / present))} %)"
        most = ": most of the area is not covered, look at the source" if 2 * skipped > present else ""
        found.append(f"{share} could not be used (no image, or no descriptor) and were skipped{most}")
    if featureless:
        what = "tiles are" if featureless > 1 else "tile is"
        why = "water, no data, more than a quarter transparent, black or white, or the same as another tile"
        found.append(f"{featureless} {what} featureless ({why}): nobody finds a place there")
    return tuple(found)


def runs(places: Iterable[Place]) -> list[TileRun]:
    """Return places as runs, by zoom, y and x; a place that occurs twice counts once."""
    found: list[TileRun] = []
    for zoom, y, x in sorted({(zoom, y, x) for zoom, x, y in places}):
        last = found[-1] if found else None
        if last is not None and last[:2] == [zoom, y] and last[3] + 1 == x:
            last[3] = x
        else:
            found.append([zoom, y, x, x])
    return found
