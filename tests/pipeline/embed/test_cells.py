"""Windows and cells: every new digest is embedded once, and every cell gets exactly its rows."""

import hashlib
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.embed.cells import (
    CellAssembler,
    CellKey,
    Row,
    group_cells,
    plan_windows,
    shared_digests,
)
from pipeline.tiles.tile import SourceTile
from store.base.identity import descriptor_id
from store.formats.descriptor_block import decode, encode

DIMENSIONS = 3


def digest_of(content):
    return hashlib.sha256(str(content).encode()).hexdigest()


def tile(zoom, x, y, content):
    return SourceTile(
        z=zoom, x=x, y=y, sha256=digest_of(content), size=1, captured=None, locator=("file", f"/{content}")
    )


def row_of(digest):
    seed = int(digest[:8], 16)
    return Row(np.array([seed, seed + 1, seed + 2], np.float32), float(seed % 97))


places = st.tuples(st.integers(6, 7), st.integers(0, 63), st.integers(0, 63))
tile_sets = st.dictionaries(places, st.integers(0, 25), max_size=60).map(
    lambda content: [tile(*place, number) for place, number in content.items()]
)
some_digests = st.sets(st.integers(0, 25).map(digest_of))


@given(tile_sets)
def test_cells_hold_every_tile_once_in_the_order_of_ids(tiles):
    cells = group_cells(tiles)
    keys = [cell.key for cell in cells]
    assert keys == sorted(set(keys))
    for cell in cells:
        ids = [descriptor_id(each.z, each.x, each.y) for each in cell.tiles]
        assert ids == sorted(set(ids))
        assert {CellKey(each.z, each.x >> 4, each.y >> 4) for each in cell.tiles} == {cell.key}
    assert Counter(each.place for cell in cells for each in cell.tiles) == Counter(
        each.place for each in tiles
    )


@given(tile_sets, some_digests, st.integers(1, 40))
def test_windows_hold_each_new_digest_once(tiles, known, size):
    cells = group_cells(tiles)
    windows = list(plan_windows(cells, known=known, shared=shared_digests(cells), size=size))
    planned = [each.sha256 for window in windows for each in window.tiles]
    assert sorted(planned) == sorted({each.sha256 for each in tiles} - known)
    assert [window.number for window in windows] == list(range(len(windows)))
    keys = [key for window in windows for key in window.cells]
    assert keys == sorted(set(keys))
    largest = max((len(cell.tiles) for cell in cells), default=0)
    assert all(len(window.tiles) < size + largest for window in windows)
    assert all(len(window.tiles) >= size for window in windows[:-1])


@given(tile_sets, some_digests, some_digests, st.randoms(use_true_random=False), st.integers(1, 30))
def test_cells_are_complete_in_any_order_of_results(tiles, known, bad, random, size):
    bad -= known
    cells = group_cells(tiles)
    by_key = {cell.key: cell for cell in cells}
    shared = shared_digests(cells)
    assembler = CellAssembler(dimensions=DIMENSIONS, shared=shared)
    rows = {digest: row_of(digest) for digest in known}
    out = []

    def add(cell):
        if (done := assembler.add(cell, rows)) is not None:
            out.append(done)

    windows = list(plan_windows(cells, known=known, shared=shared, size=size))
    idle = set(by_key) - {key for window in windows for key in window.cells}
    late = {key for key in idle if random.random() < 0.5}
    for key in sorted(idle - late):
        add(by_key[key])
    pending = list(windows)
    under_way = []
    while pending or under_way:
        if pending and (not under_way or random.random() < 0.5):
            window = pending.pop(0)
            for key in window.cells:
                add(by_key[key])
            under_way.append(window)
        else:
            window = under_way.pop(random.randrange(len(under_way)))
            for each in random.sample(window.tiles, len(window.tiles)):
                digest = each.sha256
                out.extend(
                    assembler.drop(digest) if digest in bad else assembler.supply(digest, row_of(digest))
                )
    for key in sorted(late):
        add(by_key[key])

    assert (assembler.pending, assembler.held) == (0, 0)
    assert sorted(done.block.cell for done in out) == [tuple(cell.key) for cell in cells]
    for done in out:
        block = decode(encode(done.block))
        good = [each for each in by_key[CellKey(*block.cell)].tiles if each.sha256 not in bad]
        assert block.ids.tolist() == [descriptor_id(each.z, each.x, each.y) for each in good]
        assert [bytes(each).hex() for each in block.digests] == [each.sha256 for each in good]
        np.testing.assert_array_equal(
            block.vectors, np.array([row_of(each.sha256).vector for each in good]).reshape(-1, DIMENSIONS)
        )
        assert block.texture.tolist() == [row_of(each.sha256).texture for each in good]
        assert done.embedded + done.copied == len(good)
    assert sum(done.embedded for done in out) == len({each.sha256 for each in tiles} - known - bad)


def test_memory_holds_only_cells_in_progress():
    cells = group_cells(
        [tile(10, 16 * cell, y, f"{cell}/{y}" if y else "water") for cell in range(50) for y in range(9)]
    )
    assembler = CellAssembler(dimensions=DIMENSIONS, shared=shared_digests(cells))
    assembler.supply(digest_of("water"), row_of(digest_of("water")))
    for cell in cells:
        assert assembler.add(cell, {}) is None
        for each in cell.tiles[1:]:
            assembler.supply(each.sha256, row_of(each.sha256))
        assert assembler.pending == 0
        assert assembler.held == (1 if cell is not cells[-1] else 0)


def test_a_shared_row_does_not_keep_the_array_of_its_window():
    cells = group_cells([tile(10, 0, 0, "water"), tile(10, 16, 0, "water")])
    assembler = CellAssembler(dimensions=DIMENSIONS, shared=shared_digests(cells))
    window = np.ones((1000, DIMENSIONS), np.float32)
    assembler.supply(digest_of("water"), Row(window[5], 1.0))
    first = assembler.add(cells[0], {})
    window[5] = 7
    second = assembler.add(cells[1], {})
    assert first.block.vectors.tolist() == second.block.vectors.tolist() == [[1, 1, 1]]


def test_rows_that_no_cell_needs_are_ignored():
    assembler = CellAssembler(dimensions=DIMENSIONS, shared={})
    assert assembler.supply(digest_of("stray"), row_of(digest_of("stray"))) == []
    assert assembler.drop(digest_of("stray")) == []
    assert assembler.held == 0
