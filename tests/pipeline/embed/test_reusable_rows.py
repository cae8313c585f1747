"""Existing descriptors are found in blocks by tile digest."""

from hashlib import sha256

import numpy as np
import pytest

from pipeline.embed.reusable_rows import ReusableRows
from pipeline.testing import TEXTURED, fake_vector
from store.disk.artifacts import Artifacts
from tests.damaging import flip
from tests.small_builds import DIMENSIONS, ZOOM


@pytest.fixture
def built(site):
    site.build()
    return site


def rows_of(site, wanted, blocks=None):
    blocks = list(site.blocks().values()) if blocks is None else blocks
    digests = np.frombuffer(bytes.fromhex("".join(wanted)), np.uint8).reshape(-1, 32)
    return ReusableRows(Artifacts(site.layout), blocks, digests)


def known(site):
    return rows_of(site, [sha256(data).hexdigest() for data in site.tiles.values()])


def digest(site, place):
    return sha256(site.tiles[place]).hexdigest()


def test_every_row_is_found_by_its_digest(built):
    rows = known(built)
    assert len(rows) == 40
    digests = {digest(built, place) for place in built.tiles}
    assert all(each in rows for each in digests)
    found = rows.rows(digests)
    assert found.keys() == digests
    for each, row in found.items():
        np.testing.assert_array_equal(row.vector, fake_vector(each, DIMENSIONS))
        assert row.texture == TEXTURED


def test_digests_without_a_row_are_left_out(built):
    rows = known(built)
    assert "00" * 32 not in rows
    assert None not in rows
    assert rows.rows(["00" * 32, digest(built, (ZOOM, 0, 0))]).keys() == {digest(built, (ZOOM, 0, 0))}


def test_only_wanted_digests_are_kept(built):
    there = digest(built, (ZOOM, 0, 0))
    like_it = there[:16] + "00" * 24
    rows = rows_of(built, [there, like_it, "00" * 32, there, like_it])
    assert (len(rows), rows.missing, there in rows, like_it in rows) == (1, 2, True, False)
    assert digest(built, (ZOOM, 56, 48)) not in rows
    assert len(rows_of(built, [])) == rows_of(built, []).missing == 0


def test_no_blocks_no_rows(built):
    rows = rows_of(built, [digest(built, (ZOOM, 0, 0))], blocks=[])
    assert (len(rows), rows.missing) == (0, 1)
    assert rows.rows([digest(built, (ZOOM, 0, 0))]) == {}


def block_of(site, place):
    return next(
        event
        for event in site.blocks().values()
        if (event.cell_x, event.cell_y) == (place[1] >> 4, place[2] >> 4)
    ).block


@pytest.mark.parametrize("harm", ["gone", "cut", "empty", "other"])
def test_a_block_without_keys_holds_nothing(built, harm):
    place = (ZOOM, 0, 0)
    path = built.artifact(block_of(built, place))
    data = path.read_bytes()
    path.unlink()
    match harm:
        case "cut":
            path.write_bytes(data[:80])
        case "empty":
            path.write_bytes(b"")
        case "other":
            path.write_bytes(b"\x00" * len(data))
    rows = known(built)
    assert digest(built, place) not in rows
    assert len(rows) == 36
    assert digest(built, (ZOOM, 56, 48)) in rows


def test_a_block_with_damaged_vectors_is_dropped_when_it_is_read(built):
    place = (ZOOM, 0, 0)
    flip(built.artifact(block_of(built, place)), -1)
    rows = known(built)
    each = digest(built, place)
    assert each in rows, "only the keys were read"
    assert rows.rows([each]) == {}
    assert each not in rows


def test_rows_do_not_keep_their_block_in_memory(built):
    rows = known(built).rows([digest(built, (ZOOM, 0, 0))])
    (row,) = rows.values()
    assert row.vector.base is None


def test_more_blocks_than_are_kept_in_memory(built):
    rows = known(built)
    digests = [digest(built, place) for place in built.tiles]
    for _ in range(2):
        assert len(rows.rows(digests)) == 40
