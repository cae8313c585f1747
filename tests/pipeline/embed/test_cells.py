"""Windows and cells: every new digest is embedded once, and every cell gets exactly its rows."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.embed.cells import (
    CellAssembler,
    CellKey,
    Row,
    count_distinct,
    plan_windows,
    shared_digests,
)
from pipeline.tiles.tile import SourceTile
from store.base.identity import descriptor_id, tile_of
from store.formats.descriptor_block import decode, encode
from tests.embedding import cells_of_tiles, shown_tiles

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
    cells = cells_of_tiles(tiles)
    keys = [cell.key for cell in cells]
    assert keys == sorted(set(keys))
    for cell in cells:
        ids = cell.units.ids.tolist()
        assert ids == sorted(set(ids))
        assert {CellKey(z, x >> 4, y >> 4) for z, x, y, _ in map(tile_of, ids)} == {cell.key}
    assert Counter(each for cell in cells for each in cell.units.ids.tolist()) == Counter(
        descriptor_id(*each.place) for each in tiles
    )


@given(tile_sets, some_digests, st.integers(1, 40))
def test_windows_hold_each_new_digest_once(tiles, known, size):
    cells = cells_of_tiles(tiles)
    windows = list(
        plan_windows(cells, shown=shown_tiles(tiles), known=known, shared=shared_digests(cells), size=size)
    )
    planned = [each.sha256 for window in windows for each in window.tiles]
    assert planned == [each for window in windows for each in window.units.hex_digests]
    assert sorted(planned) == sorted({each.sha256 for each in tiles} - known)
    assert [window.number for window in windows] == list(range(len(windows)))
    keys = [key for window in windows for key in window.cells]
    assert keys == sorted(set(keys))
    largest = max((len(cell.units) for cell in cells), default=0)
    assert all(len(window.units) < size + largest for window in windows)
    assert all(len(window.units) >= size for window in windows[:-1])


@given(st.lists(st.integers(0, 256), min_size=1, max_size=40), st.sampled_from([1, 32, 48]))
def test_windows_get_smaller_until_all_is_given_away(sizes, batch):
    sides = [(number, n) for number, n in enumerate(sizes) if n]
    tiles = [tile(10, 16 * c + i // 16, i % 16, (c, i)) for c, n in sides for i in range(n)]
    cells, left = cells_of_tiles(tiles), len(tiles)
    windows = list(plan_windows(cells, shown=shown_tiles(tiles), shared={}, count=left, batch=batch))
    assert [each for window in windows for each in window.units.ids.tolist()] == [
        each for cell in cells for each in cell.units.ids.tolist()
    ]
    given_away = Counter[CellKey]()
    for window in windows:
        left -= len(window.units)
        # Every worker of four can still get one that is as large.
        assert len(window.units) <= max(4 * batch, (left + len(window.units)) / 2, 128)
        assert list(window.cells) == sorted(set(window.cells))
        given_away.update(
            CellKey(z, x >> 4, y >> 4) for z, x, y, _ in map(tile_of, window.units.ids.tolist())
        )
        divided = [key for key in window.cells if given_away[key] < sizes[key.x]]
        assert all(given_away[key] % batch == 0 for key in divided)
    assert left == 0


@given(tile_sets, some_digests, some_digests, st.randoms(use_true_random=False), st.integers(1, 30))
def test_cells_are_complete_in_any_order_of_results(tiles, known, bad, random, size):
    bad -= known
    cells = cells_of_tiles(tiles)
    by_key = {cell.key: cell for cell in cells}
    shared = shared_digests(cells)
    assembler = CellAssembler(dimensions=DIMENSIONS, shared=shared)
    rows = {digest: row_of(digest) for digest in known}
    out = []

    def add(cell):
        if (done := assembler.add(cell, rows)) is not None:
            out.append(done)

    windows = list(plan_windows(cells, shown=shown_tiles(tiles), known=known, shared=shared, size=size))
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
            for each in random.sample(list(window.tiles), len(window.tiles)):
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
        names = by_key[CellKey(*block.cell)].units.hex_digests
        ids = by_key[CellKey(*block.cell)].units.ids.tolist()
        good = [pair for pair in zip(ids, names, strict=True) if pair[1] not in bad]
        assert block.ids.tolist() == [identifier for identifier, _ in good]
        assert [bytes(each).hex() for each in block.digests] == [name for _, name in good]
        np.testing.assert_array_equal(
            block.vectors, np.array([row_of(name).vector for _, name in good]).reshape(-1, DIMENSIONS)
        )
        assert block.texture.tolist() == [row_of(name).texture for _, name in good]
        assert done.embedded + done.copied == len(good)
    assert sum(done.embedded for done in out) == len({each.sha256 for each in tiles} - known - bad)


def test_memory_holds_only_cells_in_progress():
    cells = cells_of_tiles(
        [tile(10, 16 * cell, y, f"{cell}/{y}" if y else "water") for cell in range(50) for y in range(9)]
    )
    assembler = CellAssembler(dimensions=DIMENSIONS, shared=shared_digests(cells))
    assembler.supply(digest_of("water"), row_of(digest_of("water")))
    for cell in cells:
        assert assembler.add(cell, {}) is None
        for name in cell.units.hex_digests[1:]:
            assembler.supply(name, row_of(name))
        assert assembler.pending == 0
        assert assembler.held == (1 if cell is not cells[-1] else 0)


def test_a_shared_row_does_not_keep_the_array_of_its_window():
    cells = cells_of_tiles([tile(10, 0, 0, "water"), tile(10, 16, 0, "water")])
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


@pytest.mark.parametrize("kinds", [1, 3, 40, 1000])
def test_distinct_digests_are_counted_even_if_they_begin_alike(kinds):
    drawn = np.random.default_rng(kinds).integers(0, kinds, 200)
    names = [hashlib.sha256(str(number).encode()).digest() for number in drawn.tolist()]
    names += [name[:8] + bytes([number % 3]) * 24 for number, name in enumerate(names)]
    digests = np.frombuffer(b"".join(names), np.uint8).reshape(-1, 32)
    assert count_distinct(digests) == len(set(names))
    assert count_distinct(digests[:0]) == 0
