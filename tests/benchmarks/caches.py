"""Create caches, folders and archives for measurements: many tiles of few bytes, embedded without a network.

A fake batcher gives unit vectors made of the tiles' digests. Selection, journal, blocks, index, walk and
commit are the real ones.
"""

import sqlite3
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import mercantile
import numpy as np
from pmtiles.tile import Entry, zxy_to_tileid

from pipeline import C10ProvisionerConfig, CacheProvisioner, build_cache_provisioner
from pipeline.build.report import BuildOutcome, BuildReport
from pipeline.embed.batcher import OnDispatch, OnRetry, OnUnits
from pipeline.embed.cells import Window
from pipeline.embed.worker_messages import EngineSpec, WindowResult
from pipeline.request.options import IndexKind
from pipeline.request.request import BuildRequest
from pipeline.testing import Calls, FakeCompiler
from store.base.preprocessing import Preprocessing
from tests.small_builds import DIMENSIONS, Site
from tests.tile_archives import write_pmtiles_entries

ZOOM = 11
"""Of all tiles; a square of a million of them is a quarter of the world."""

_NORTH = 512
"""The first row: those near the poles lie beyond any box."""


class Synthetic:
    """Vectors from digests, a window at a time."""

    def embed(
        self,
        windows: Iterable[Window],
        *,
        engine: EngineSpec,
        preprocessing: Preprocessing,
        on_dispatch: OnDispatch | None = None,
        on_progress: OnUnits | None = None,
        on_retry: OnRetry | None = None,
    ) -> Generator[WindowResult, None, None]:
        """See `DescriptorBatcher.embed`."""
        for window in windows:
            if on_dispatch is not None:
                on_dispatch(window)
            seed = int(window.units.hex_digests[0][:16], 16)
            vectors = np.random.default_rng(seed).standard_normal(
                (len(window.units), engine.dimensions), np.float32
            )
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            if on_progress is not None:
                on_progress(len(window.units))
            yield WindowResult(
                window=window,
                units=window.units,
                vectors=vectors,
                texture=np.full(len(window.units), 9.0, np.float32),
                without=(),
                bad=(),
            )


class BigSite(Site):
    """A site of many tiles; its requests want all of them."""

    number: int = 0
    """How many tiles it has."""

    dimensions: int = DIMENSIONS
    """Of a descriptor."""

    kind: IndexKind = IndexKind.FLAT
    """Of the index."""

    key: Path | None = None
    """Signs its generations, if given."""

    def request(self, **fields: object) -> BuildRequest:
        """Return a request for exactly the square of tiles."""
        asked = super().request(**({"zoom": (ZOOM, ZOOM), "bbox": around(self.number)} | fields))
        return replace(asked, index=replace(asked.index, kind=self.kind))

    def provisioner(self, **ports: object) -> CacheProvisioner:
        """Return a provisioner that caches digests and embeds without a network."""
        config = C10ProvisionerConfig(
            cache_root=self.cache,
            digest_cache_folder=self.root / "memory",
            reserve_mb=0,
            allow_unknown_filesystem=True,
            signing_key=self.key,
        )
        synthetic = {
            "engine_compiler": FakeCompiler(calls=Calls(), dimensions=self.dimensions),
            "descriptor_batcher": Synthetic(),
            "host": {},
        }
        return build_cache_provisioner(config, **(synthetic | ports))

    def built(self, **fields: object) -> BuildReport:
        """Build; raise unless it worked."""
        report = self.provisioner().build_cache_artifacts(self.request(**fields))
        if report.outcome is not BuildOutcome.BUILT:
            raise SystemExit(f"expected a build, found {report.outcome}: {report.error}")
        return report

    def warm(self, **fields: object) -> None:
        """Build again; raise unless nothing was to do."""
        report = self.provisioner().build_cache_artifacts(self.request(**fields))
        if report.outcome is not BuildOutcome.REUSED or report.writes:
            raise SystemExit(f"expected nothing to do, found {report.outcome} with {report.writes} writes")


def side_of(number: int) -> int:
    """Return how many tiles the square has each way; the last column may be shorter."""
    return next(side for side in range(1, 1025) if side * side >= number)


def places(number: int) -> Iterator[tuple[int, int, int]]:
    """Yield places of one zoom, column by column of a square; at most a million."""
    side = side_of(number)
    for place in range(number):
        yield ZOOM, place // side, _NORTH + place % side


def around(number: int) -> tuple[float, float, float, float]:
    """Return a box a little smaller than such a square of tiles."""
    side = side_of(number)
    first, last = mercantile.bounds(0, _NORTH, ZOOM), mercantile.bounds(side - 1, _NORTH + side - 1, ZOOM)
    return first.west + 1e-3, last.south + 1e-3, last.east - 1e-3, first.north - 1e-3


def content(place: tuple[int, int, int], repeats: int = 16) -> bytes:
    """Return the bytes of a tile, which nobody decodes: 15 for each repeat."""
    return b"\x89PNG\r\n\x1a\n" + repr(place).encode() * repeats


def write_folder(root: Path, number: int) -> None:
    """Write tiles as single files."""
    for z, x, y in places(number):
        folder = root / str(z) / str(x)
        if y == _NORTH:
            folder.mkdir(parents=True)
        (folder / f"{y}.png").write_bytes(content((z, x, y)))


def write_mbtiles(path: Path, number: int, *, repeats: int = 16) -> None:
    """Write an MBTiles archive, with the index that its specification asks for; `repeats` is that of `content`."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE metadata (name TEXT, value TEXT)")
        database.execute("INSERT INTO metadata VALUES ('format', 'png')")
        database.execute(
            "CREATE TABLE tiles (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_data BLOB)"
        )
        database.executemany(
            "INSERT INTO tiles VALUES (?, ?, ?, ?)",
            ((z, x, (1 << z) - 1 - y, content((z, x, y), repeats)) for z, x, y in places(number)),
        )
        database.execute("CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row)")


def change_one(archive: Path, number: int) -> None:
    """Give one tile of an MBTiles archive other bytes."""
    z, x, y = next(places(1))
    with closing(sqlite3.connect(archive)) as database, database:
        database.execute(
            "UPDATE tiles SET tile_data = ? WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?",
            (content((z, x, y)) + f"changed {number}".encode(), z, x, (1 << z) - 1 - y),
        )


def write_pmtiles(path: Path, number: int, *, repeats: int = 16) -> None:
    """Write a PMTiles archive with leaf directories; `repeats` is that of `content`."""
    entries, data = [], bytearray()
    for number_on_curve, place in sorted((zxy_to_tileid(*place), place) for place in places(number)):
        tile = content(place, repeats)
        entries.append(Entry(number_on_curve, len(data), len(tile), 1))
        data += tile
    write_pmtiles_entries(path, entries, bytes(data), leaf_entries=4096)
