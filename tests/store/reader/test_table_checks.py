"""Tables and deltas are compared with their manifest."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from store.base.identity import digest_tile_set
from store.errors import ArtifactError
from store.formats.index_delta import Delta, Rows, empty_delta, encode
from store.formats.tables import BlockRow, encode_blocks, encode_tiles
from store.manifest.index_entry import DeltaEntry
from store.reader import table_checks
from tests.played_builds import ref_of

TILES = [(5, "a" * 64, None), (9, "b" * 64, None)]
BLOCKS = [BlockRow(zoom=3, cell_x=0, cell_y=0, rows=2, ref=ref_of(b"block"))]
DELTA = Delta(Rows(np.array([5], np.uint64), np.ones((1, 4), np.float32)), empty_delta(4).dropped)


JOINED = [replace(BLOCKS[0], further=(ref_of(b"another"),), weights=(500_000, 1_000_000))]


def manifest(*, weights=(1_000_000,), **index):
    """A manifest with the fields that these functions read."""
    entry = {
        "rows": 2,
        "dimensions": 4,
        "delta": DeltaEntry(artifact=ref_of(b""), added=1, dropped=0),
    } | index
    named = [(identifier, digest) for identifier, digest, _ in TILES]
    return SimpleNamespace(
        tile_count=2, tile_set=digest_tile_set(named), index=SimpleNamespace(**entry), weights=weights
    )


def test_tables_that_fit_are_returned():
    assert table_checks.tiles_of(manifest(), encode_tiles(TILES)).ids.tolist() == [5, 9]
    assert table_checks.blocks_of(manifest(), encode_blocks(BLOCKS)) == tuple(BLOCKS)
    assert table_checks.delta_of(manifest(), encode(DELTA)).added.ids.tolist() == [5]
    joined = manifest(weights=(500_000, 1_000_000))
    assert table_checks.blocks_of(joined, encode_blocks(JOINED)) == tuple(JOINED)


@pytest.mark.parametrize(
    ("read", "data", "reason"),
    [
        (table_checks.tiles_of, encode_tiles(TILES[:1]), "expected 2 tiles in the tile table, found 1"),
        (table_checks.tiles_of, encode_tiles([TILES[0], (9, "c" * 64, None)]), "the tile set of the build"),
        (table_checks.tiles_of, b"", "a header"),
        (
            table_checks.blocks_of,
            encode_blocks([replace(BLOCKS[0], rows=3)]),
            "expected 2 rows in the block table, found 3",
        ),
        (table_checks.blocks_of, b"", "a header"),
        (table_checks.delta_of, b"", "a header"),
        (table_checks.delta_of, encode(empty_delta(4)), r"of \(1, 0, 4\) rows added.* found \(0, 0, 4\)"),
        (
            table_checks.delta_of,
            encode(Delta(Rows(DELTA.added.ids, np.ones((1, 3), np.float32)), empty_delta(3).dropped)),
            "3",
        ),
    ],
)
def test_tables_that_do_not_fit_are_refused(read, data, reason):
    with pytest.raises(ArtifactError, match=reason):
        read(manifest(), data)


@pytest.mark.parametrize(
    ("weights", "rows"),
    [
        ((500_000, 1_000_001), JOINED),
        ((1_000_000, 500_000), JOINED),
        ((500_000, 1_000_000, 1_000_000), JOINED),
        ((1_000_000,), JOINED),
        ((1_000_000, 1_000_000), BLOCKS),
    ],
)
def test_blocks_of_other_networks_are_refused(weights, rows):
    with pytest.raises(ArtifactError, match="networks of weights"):
        table_checks.blocks_of(manifest(weights=weights), encode_blocks(rows))


def test_a_delta_that_the_manifest_does_not_name_is_refused():
    with pytest.raises(ArtifactError, match="of None rows"):
        table_checks.delta_of(manifest(delta=None), encode(DELTA))
