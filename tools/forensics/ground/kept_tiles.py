"""The encoded tiles of a build that are kept beside its records: in packs that fly, or with a failure. Pure.

A tile counts only if its bytes have the digest that the tile table of the build names, so that what is shown is what
the build read. The packs are those of the build, or before it has any, the newest earlier pack of each cell.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from store.base.identity import descriptor_id, tile_of
from store.base.values import ArtifactRef
from store.domain import events as e
from store.domain.attachments import attached_to_failure
from store.errors import ArtifactError
from store.formats import carried_tiles, tile_pack
from store.formats.tables import TileTable, decode_packs, decode_tiles
from tools.forensics.failure import ArtifactReader, Place, tiles_at_fault
from tools.forensics.history import BuildHistory
from tools.forensics.timeline import BuildTimeline


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTiles:
    """Finds the kept tiles of a build, level by level.

    Attributes:
        artifacts: Reads packs.
        table: The tile table of the build; None if it cannot be read.
        packs: Each pack with its zoom level and number of tiles.
        failing: Descriptor id to the bytes that are kept with the failure of the build.
    """

    artifacts: ArtifactReader
    table: TileTable | None = None
    packs: tuple[tuple[int, int, ArtifactRef], ...] = ()
    failing: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """Why there are no tiles to be shown; empty if there may be some."""
        if self.table is None:
            return "the tile table cannot be read here"
        if self.packs and not self.failing and not any(self.artifacts.holds(ref) for _, _, ref in self.packs):
            return "the carried tiles are not here"
        return "" if self.packs or self.failing else "this build carries no tiles"

    def counts(self) -> Mapping[int, int]:
        """Return zoom level to how many tiles may be kept of it, at most."""
        found: Counter[int] = Counter()
        if self.table is not None:
            for zoom, tiles, ref in self.packs:
                found[zoom] += tiles if self.artifacts.holds(ref) else 0
            found.update(tile_of(identifier)[0] for identifier in self.failing)
        return +found

    def read(self, zoom: int) -> Iterator[tuple[Place, bytes]]:
        """Yield (zoom, x, y) and the encoded bytes of each kept tile of a level; a place may come twice."""
        for identifier, image in self._images(zoom):
            level, x, y, view = tile_of(identifier)
            if self.table is None or (level, view) != (zoom, 0):
                continue
            if self.table.digest(identifier) == hashlib.sha256(image).hexdigest():
                yield (level, x, y), image

    def _images(self, zoom: int) -> Iterator[tuple[int, bytes]]:
        yield from self.failing.items()
        for level, _, ref in self.packs:
            data = self.artifacts.read(ref) if level == zoom else None
            if data is not None:
                try:
                    yield from carried_tiles.decode(data).items()
                except ArtifactError:
                    continue


def kept_tiles(builds: BuildHistory, number: int) -> KeptTiles:
    """Return the kept tiles of a build.

    Raises:
        RequestRefusedError: There is no such build.
    """
    timeline, artifacts = builds.timeline(number), builds.source.artifacts
    return KeptTiles(
        artifacts=artifacts,
        table=_table(timeline, artifacts),
        packs=tuple(_packs(builds, timeline)),
        failing=_failing(timeline, artifacts),
    )


def _table(timeline: BuildTimeline, artifacts: ArtifactReader) -> TileTable | None:
    refs = (record.event.table for record in timeline.own if isinstance(record.event, e.TilesSelected))
    data = artifacts.read(ref) if (ref := next(refs, None)) is not None else None
    try:
        return None if data is None else decode_tiles(data)
    except ArtifactError:
        return None


def _packs(builds: BuildHistory, timeline: BuildTimeline) -> Iterator[tuple[int, int, ArtifactRef]]:
    for record in timeline.own:
        if isinstance(record.event, e.TilesCarried):
            data = builds.source.artifacts.read(record.event.table)
            try:
                rows = () if data is None else decode_packs(data)
            except ArtifactError:
                return
            yield from ((row.zoom, row.rows, row.ref) for row in rows)
            return
    newest = {
        (event.zoom, event.cell_x, event.cell_y): event
        for record in builds.source.history.until(timeline.own[-1].seq).records
        if isinstance(event := record.event, e.TilesPacked)
    }
    yield from ((event.zoom, event.tiles, event.pack) for event in newest.values())


def _failing(timeline: BuildTimeline, artifacts: ArtifactReader) -> dict[int, bytes]:
    event = timeline.own[-1].event
    refs = attached_to_failure(event) if isinstance(event, e.BuildFailed) else {}
    tile, window = (artifacts.read(refs[name]) if name in refs else None for name in ("tile", "window"))
    try:
        found = {} if window is None else dict(tile_pack.decode(window))
        places = tiles_at_fault(timeline) if tile is not None else []
        return found | {descriptor_id(*place): tile for place in places[:1] if tile is not None}
    except (ArtifactError, ValueError):
        return {}  # not the pack or the place of a build
