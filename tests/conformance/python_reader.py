"""What C10's own reader says of a case, in the form of `cases.json`."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from store.base.geometry.lattice import chunk_digest, chunk_of, middle, tile_span
from store.base.identity import tile_of
from store.errors import NoGoError
from store.formats import descriptor_block
from store.formats.capture_dates import UNKNOWN_DATE
from store.formats.joined_blocks import read_block
from store.formats.tables import BlockRow
from store.reader import ALLOW_UNSIGNED, FlightCache, table_checks
from store.reader.verify_content import delta_of
from store.runtime.backends.gpu import Gpu
from store.trust.signatures import parse_keys

Document = dict[str, Any]


@contextmanager
def device(described: Mapping[str, Any]) -> Iterator[None]:
    """Let this machine be the device of a case; what runs where is decided by C10's own code."""
    gpu = described["gpu"]
    gpus = () if gpu is None else (Gpu(index=0, memory=0, driver="12.6", **gpu),)
    with (
        mock.patch("store.runtime.capabilities.library_version", described["libraries"].get),
        mock.patch("store.runtime.backends.tensorrt.gpus", return_value=gpus),
        mock.patch(
            "store.runtime.backends.openvino.OpenVino.device",
            return_value=described["openvino_target"] or "none",
        ),
    ):
        yield


def verdict(cache: Path, ask: Mapping[str, Any]) -> Document:
    """Return the verdict on a cache."""
    try:
        keys = ALLOW_UNSIGNED if ask["keys"] is None else parse_keys(ask["keys"])
    except ValueError:
        return {"go": False, "kind": "keys"}
    try:
        with (
            device(ask["device"]),
            FlightCache.open(
                cache, trusted_keys=keys, floor=ask["floor"], generation=ask["generation"]
            ) as flight,
        ):
            flight.verify()
            return _told(flight, [int(each) for each in ask["find"]])
    except NoGoError as error:
        return {"go": False, "kind": str(error.kind)}


def _told(flight: FlightCache, find: list[int]) -> Document:
    manifest, files = flight.manifest, flight._files
    blocks = table_checks.blocks_of(manifest, files.view("block table", manifest.index.blocks))
    packs: tuple[BlockRow, ...] = ()
    if manifest.carried is not None:
        packs = table_checks.packs_of(manifest, files.view("pack table", manifest.carried.packs))
    refs = [ref for _, ref in manifest.artifacts()] + [ref for row in (*blocks, *packs) for ref in row.refs]
    delta = delta_of(manifest, files)
    return {
        "go": True,
        "generation": manifest.envelope.generation,
        "origin": manifest.envelope.origin,
        "cache_id": manifest.envelope.cache_id,
        "format": _format_of(manifest.raw),
        "identity": manifest.identity,
        "manifest_sha256": manifest.sha256,
        "body_sha256": manifest.body_sha256,
        "signed_by": flight._signed_by,
        "files": sorted([digest, size] for digest, size in {(ref.sha256, ref.size) for ref in refs}),
        "engines": {each.model: [each.role, each.artifact.sha256] for each in manifest.engines},
        "rows": manifest.index.rows,
        "delta": None
        if delta is None
        else {
            "added": [str(each) for each in delta.added.ids.tolist()],
            "dropped": [str(each) for each in delta.dropped.ids.tolist()],
        },
        "found": [_found(flight, blocks, each) for each in find],
    }


def _format_of(raw: bytes) -> int:
    return int(raw.rpartition(b'"format":')[2].rstrip(b"}\n"))


def _found(flight: FlightCache, blocks: tuple[BlockRow, ...], number: int) -> Document:
    zoom, x, y, view = tile_of(number)
    table, row, vectors = flight._tile_table(), None, None
    tile = table.digest(number)
    for each in blocks:
        if each.cell == (zoom, x >> 4, y >> 4):
            joined = read_block(each, flight._files.read_block)
            if number in joined.ids.tolist():
                row = joined.digests[joined.ids.tolist().index(number)].tobytes().hex()
                vectors = [_vector(flight._files.read_block(ref), number) for ref in each.refs]
    if row is not None:
        assert row == (_digest_of_chunk(flight, number) if view else tile)
    return {
        "id": str(number),
        "zoom": zoom,
        "view": view,
        "x": x,
        "y": y,
        "tile": tile,
        "captured": None if tile is None else _day(flight, number),
        "carried": None if flight.manifest.carried is None else _carried(flight, number),
        "row": row,
        "vectors": vectors,
        "middle_e7": [round(each * 1e7) for each in middle(*chunk_of(number))]
        if row is not None and view
        else None,
    }


def _digest_of_chunk(flight: FlightCache, number: int) -> str:
    """Return the digest of a chunk from the tile table."""
    level, x, y = chunk_of(number)
    (edge,) = (each.tile_edge for each in flight.manifest.levels if each.level == level)
    x0, nx, y0, ny = tile_span(level, x, y)
    ids = flight._tile_table().ids.tolist()
    rows = [
        [
            ids.index(level.zoom << 58 | (x0 + column) % (1 << level.zoom) << 25 | y0 + row)
            for column in range(nx)
        ]
        for row in range(ny)
    ]
    return chunk_digest(level, x, y, edge, flight._tile_table().digests[rows])


def _vector(block: bytes | memoryview, number: int) -> str:
    found = descriptor_block.decode(block)
    return hashlib.sha256(found.vectors[found.ids.tolist().index(number)].tobytes()).hexdigest()


def _day(flight: FlightCache, number: int) -> int | str:
    table = flight._tile_table()
    day = int(table.captured[table.ids.tolist().index(number)])
    return "unknown" if day == UNKNOWN_DATE else day


def _carried(flight: FlightCache, number: int) -> str | None:
    zoom, x, y, view = tile_of(number)
    try:
        return None if view else hashlib.sha256(flight.tile_bytes(zoom, x, y)).hexdigest()
    except KeyError:
        return None
