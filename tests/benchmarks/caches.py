"""Caches, folders and archives to measure on: many tiles of few bytes, embedded by no network at all.

What stands in for the network gives unit vectors made of the tiles' digests; selection, journal, blocks, index, walk
and commit are the real ones.
"""

import sqlite3
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from pmtiles.tile import Entry

from pipeline import C10ProvisionerConfig, CacheProvisioner, build_cache_provisioner
from pipeline.cells import Window
from pipeline.descriptors import EngineSpec, OnDispatch, OnRetry, OnTiles, WindowResult
from pipeline.report import BuildOutcome, BuildReport
from pipeline.request import BuildRequest, IndexKind
from pipeline.testing import Calls, FakeCompiler
from store.preprocessing import Preprocessing
from tests.small_builds import DIMENSIONS, Site
from tests.tile_archives import write_pmtiles_entries

_COLUMNS = 1024


class Synthetic:
    """Vectors from digests, a window at a time."""

    def embed(
        self,
        windows: Iterable[Window],
        *,
        engine: EngineSpec,
        preprocessing: Preprocessing,
        on_dispatch: OnDispatch | None = None,
        on_progress: OnTiles | None = None,
        on_retry: OnRetry | None = None,
    ) -> Generator[WindowResult, None, None]:
        """See `DescriptorBatcher.embed`."""
        for window in windows:
            if on_dispatch is not None:
                on_dispatch(window)
            seed = int(window.tiles[0].sha256[:16], 16)
            vectors = np.random.default_rng(seed).standard_normal(
                (len(window.tiles), engine.dimensions), np.float32
            )
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            if on_progress is not None:
                on_progress(len(window.tiles))
            yield WindowResult(
                window=window,
                tiles=tuple(window.tiles),
                vectors=vectors,
                texture=np.full(len(window.tiles), 9.0, np.float32),
                bad=(),
            )


class BigSite(Site):
    """A site of many tiles; its requests want all of them, and a flat index."""

    key: Path | None = None
    """Signs its generations, if given."""

    def request(self, **fields: object) -> BuildRequest:
        """A request for all tiles of zooms 0 to 20."""
        asked = super().request(**({"zoom": (10, 10)} | fields))
        return replace(asked, index=replace(asked.index, kind=IndexKind.FLAT))

    def provisioner(self, **ports: object) -> CacheProvisioner:
        """A provisioner that remembers digests, and embeds with no network."""
        config = C10ProvisionerConfig(
            cache_root=self.cache,
            memory_folder=self.root / "memory",
            reserve_mb=0,
            allow_unknown_filesystem=True,
            signing_key=self.key,
        )
        synthetic = {
            "engine_compiler": FakeCompiler(calls=Calls(), dimensions=DIMENSIONS),
            "descriptor_batcher": Synthetic(),
            "host": {},
        }
        return build_cache_provisioner(config, **(synthetic | ports))

    def built(self, **fields: object) -> BuildReport:
        """Build, and insist that it worked."""
        report = self.provisioner().build_cache_artifacts(self.request(**fields))
        if report.outcome is not BuildOutcome.BUILT:
            raise SystemExit(f"expected a build, found {report.outcome}: {report.error}")
        return report

    def warm(self, **fields: object) -> None:
        """Build again, and insist that nothing was to do."""
        report = self.provisioner().build_cache_artifacts(self.request(**fields))
        if report.outcome is not BuildOutcome.REUSED or report.writes:
            raise SystemExit(f"expected a warm run, found {report.outcome} with {report.writes} writes")


def places(number: int) -> Iterator[tuple[int, int, int]]:
    """Places of zoom 10, row by row of a square; at most a million of them."""
    side = next(side for side in range(1, _COLUMNS + 1) if side * side >= number)
    for place in range(number):
        yield 10, place // side, place % side


def content(place: tuple[int, int, int]) -> bytes:
    """The bytes of a tile that nobody decodes."""
    return b"\x89PNG\r\n\x1a\n" + repr(place).encode() * 16


def write_folder(root: Path, number: int) -> None:
    """Write tiles as single files."""
    for z, x, y in places(number):
        folder = root / str(z) / str(x)
        if y == 0:
            folder.mkdir(parents=True)
        (folder / f"{y}.png").write_bytes(content((z, x, y)))


def write_mbtiles(path: Path, number: int) -> None:
    """Write an MBTiles archive, with the index that its specification asks for."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE metadata (name TEXT, value TEXT)")
        database.execute("INSERT INTO metadata VALUES ('format', 'png')")
        database.execute(
            "CREATE TABLE tiles (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_data BLOB)"
        )
        database.executemany(
            "INSERT INTO tiles VALUES (?, ?, ?, ?)",
            ((z, x, (1 << z) - 1 - y, content((z, x, y))) for z, x, y in places(number)),
        )
        database.execute("CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row)")


def write_pmtiles(path: Path, number: int) -> None:
    """Write a PMTiles archive with leaf directories; its tiles follow the curve from the start of zoom 10."""
    entries, data = [], bytearray()
    first = sum(4**zoom for zoom in range(10))
    for place in range(number):
        tile = content((10, 0, place))
        entries.append(Entry(first + place, len(data), len(tile), 1))
        data += tile
    write_pmtiles_entries(path, entries, bytes(data), leaf_entries=4096)
