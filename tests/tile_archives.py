"""Write small tile archives of every kind, valid or slightly wrong, for tests (fixture `archives`)."""

import gzip
import hashlib
import io
import sqlite3
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pmtiles.tile import (
    Compression,
    Entry,
    TileType,
    serialize_directory,
    serialize_header,
    zxy_to_tileid,
)

from pipeline.errors import TileError
from pipeline.tiles.sources.read_tile import close_archives, read_tile
from pipeline.tiles.sources.registry import open_source

Tiles = Mapping[tuple[int, int, int], bytes]

WORLD = (-1_800_000_000, -850_000_000, 1_800_000_000, 850_000_000)
WHITNEY_E7 = (-1_183_198_000, 365_611_000, -1_182_607_000, 365_930_000)
"""A box of 43 tiles at zooms 13 to 15."""


def picture(seed: int, *, height: int = 32, width: int = 32, mode: str = "RGB") -> Image.Image:
    """Smooth coloured noise: JPEG-friendly, and different for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 4), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height)).convert(mode)


@lru_cache(maxsize=4096)
def image(seed: int, *, height: int = 32, width: int = 32, encoding: str = "png", mode: str = "RGB") -> bytes:
    """An encoded picture."""
    buffer = io.BytesIO()
    options = {"lossless": True} if encoding == "webp" else {}
    picture(seed, height=height, width=width, mode=mode).save(buffer, encoding, **options)
    return buffer.getvalue()


def block(
    z: int, x: int, y: int, *, columns: int = 4, rows: int = 4, encoding: str = "png"
) -> dict[tuple[int, int, int], bytes]:
    """A rectangle of tiles, each different."""
    return {
        (z, x + i, y + j): image(1000 * i + j, encoding=encoding) for i in range(columns) for j in range(rows)
    }


def write_xyz(root: Path, tiles: Tiles, *, extension: str = "png") -> str:
    """Write a folder of tiles; returns the pattern that names it."""
    for (z, x, y), content in tiles.items():
        file = root / str(z) / str(x) / f"{y}.{extension}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return f"{root}/{{z}}/{{x}}/{{y}}.{extension}"


def write_mbtiles(path: Path, tiles: Tiles, *, encoding: str | None = "png", view: bool = False) -> str:
    """Write an MBTiles archive, `tiles` as a table or as a view; returns its path."""
    database = sqlite3.connect(path)
    with database:
        database.execute("CREATE TABLE metadata (name TEXT, value TEXT)")
        if encoding is not None:
            database.execute("INSERT INTO metadata VALUES ('format', ?)", (encoding,))
        if view:
            database.execute(
                "CREATE TABLE map (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, id INTEGER)"
            )
            database.execute("CREATE TABLE images (id INTEGER PRIMARY KEY, tile_data BLOB)")
            database.execute(
                "CREATE VIEW tiles AS SELECT zoom_level, tile_column, tile_row, tile_data FROM map JOIN images USING (id)"
            )
        else:
            database.execute(
                "CREATE TABLE tiles (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_data BLOB)"
            )
        for number, ((z, x, y), content) in enumerate(tiles.items()):
            row = (1 << z) - 1 - y
            if view:
                database.execute("INSERT INTO images VALUES (?, ?)", (number, content))
                database.execute("INSERT INTO map VALUES (?, ?, ?, ?)", (z, x, row, number))
            else:
                database.execute("INSERT INTO tiles VALUES (?, ?, ?, ?)", (z, x, row, content))
    database.close()
    return str(path)


def write_pmtiles(
    path: Path,
    tiles: Tiles,
    *,
    tile_type: TileType = TileType.PNG,
    leaf_entries: int = 0,
    gzipped: bool = True,
    **header: object,
) -> str:
    """Write a PMTiles archive, with leaf directories of `leaf_entries` entries when that is not 0.

    Equal contents are stored once, and neighbours on the curve that share one become a run.
    """
    ids = {zxy_to_tileid(*place): content for place, content in tiles.items()}
    data, starts, entries = bytearray(), {}, []
    for tile_id, content in sorted(ids.items()):
        start = starts.setdefault(content, len(data))
        if start == len(data):
            data += content
        last = entries[-1] if entries else None
        if last and last.offset == start and last.tile_id + last.run_length == tile_id:
            last.run_length += 1
        else:
            entries.append(Entry(tile_id, start, len(content), 1))
    return write_pmtiles_entries(
        path, entries, bytes(data), tile_type=tile_type, leaf_entries=leaf_entries, gzipped=gzipped, **header
    )


def write_pmtiles_entries(
    path: Path,
    entries: list[Entry],
    data: bytes,
    *,
    tile_type: TileType = TileType.PNG,
    leaf_entries: int = 0,
    gzipped: bool = True,
    **header: object,
) -> str:
    """Write a PMTiles archive with exactly these directory entries."""
    leaves = bytearray()
    root = entries
    if leaf_entries:
        root = []
        for start in range(0, len(entries), leaf_entries):
            packed = _directory(entries[start : start + leaf_entries], gzipped=gzipped)
            root.append(Entry(entries[start].tile_id, len(leaves), len(packed), 0))
            leaves += packed
    packed_root = _directory(root, gzipped=gzipped)
    zooms = [((3 * entry.tile_id + 1).bit_length() - 1) // 2 for entry in entries] or [0]
    at = 127
    fields = {
        "root_offset": at,
        "root_length": len(packed_root),
        "metadata_offset": at + len(packed_root),
        "metadata_length": 0,
        "leaf_directory_offset": at + len(packed_root),
        "leaf_directory_length": len(leaves),
        "tile_data_offset": at + len(packed_root) + len(leaves),
        "tile_data_length": len(data),
        "clustered": True,
        "internal_compression": Compression.GZIP if gzipped else Compression.NONE,
        "tile_compression": Compression.NONE,
        "tile_type": tile_type,
        "min_zoom": min(zooms),
        "max_zoom": max(zooms),
    }
    path.write_bytes(serialize_header(fields | header) + packed_root + bytes(leaves) + data)
    return str(path)


def _directory(entries: list[Entry], *, gzipped: bool) -> bytes:
    packed = serialize_directory(entries)
    return packed if gzipped else gzip.decompress(packed)


def refused(spec: str, base: Path, *, query: bool = True) -> TileError:
    """The error of a source that cannot be opened or, unless `query` is false, read."""

    def use():
        source = open_source(spec, base)
        if query:
            source.query_by_bbox(WORLD, (0, 25))

    with pytest.raises(TileError) as caught:
        use()
    assert str(base) in caught.value.message or "tile" in caught.value.message
    assert caught.value.hint
    return caught.value


def damage(whole: bytes, path: Path, base: Path, *, rounds: int) -> None:
    """Flip single bytes all over a file; only our own errors may come of it."""
    random = np.random.default_rng(7)
    refused_count = 0
    for _ in range(rounds):
        content = bytearray(whole)
        # Half of the damage goes where the structure is.
        at = int(random.integers(0, len(whole) if random.integers(2) else 400))
        content[at] ^= int(random.integers(1, 256))
        path.write_bytes(content)
        try:
            for tile in open_source(path.name, base).query_by_bbox(WORLD, (0, 6)):
                assert hashlib.sha256(read_tile(tile.locator)).hexdigest() == tile.sha256
        except TileError:
            refused_count += 1
        close_archives()
    assert 0 < refused_count < rounds
