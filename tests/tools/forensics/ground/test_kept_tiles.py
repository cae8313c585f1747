"""Which kept tiles a build has: only bytes that its tile table names, from packs and failures, however they are spoiled."""

import hashlib

import pytest

from store.base.identity import descriptor_id
from store.domain import events as e
from store.formats import carried_tiles, tile_pack
from store.formats.tables import BlockRow, encode_packs, encode_tiles
from tests.played_builds import make, ref_of
from tests.tools.stories import Story
from tools.forensics.ground.kept_tiles import kept_tiles

PLACES = [(6, 1, 1), (6, 2, 1), (6, 1, 2)]
IMAGES = {descriptor_id(*place): f"tile {place}".encode() for place in PLACES}
TABLE = encode_tiles((each, hashlib.sha256(image).hexdigest(), None) for each, image in IMAGES.items())
PACK = carried_tiles.encode(IMAGES)


def selecting(table=TABLE):
    return Story().add(make(e.BuildStarted)).add(make(e.TilesSelected, table=ref_of(table), count=3))


def packing(pack, zoom=6, **more):
    return selecting().add(make(e.TilesPacked, zoom=zoom, pack=ref_of(pack), tiles=3, **more))


def failing(**attached):
    refs = {name: {"sha256": ref_of(data).sha256, "size": len(data)} for name, data in attached.items()}
    inputs = {"attached": refs, "tile": {"place": "6/2/1"}}
    return selecting().add(make(e.BuildFailed, step="cells", subject="6/2/1", inputs=inputs))


def read(story, *artifacts, zoom=6):
    found = kept_tiles(story.builds(*artifacts), 1)
    return found, dict(found.read(zoom))


def test_packs_of_a_build_that_carried_nothing_yet():
    found, tiles = read(packing(PACK), TABLE, PACK)
    assert tiles == {place: IMAGES[descriptor_id(*place)] for place in PLACES}
    assert (found.counts(), found.reason) == ({6: 3}, "")
    assert read(packing(PACK), TABLE, PACK, zoom=7)[1] == {}


def test_the_pack_table_names_the_packs():
    older = carried_tiles.encode(dict.fromkeys(IMAGES, b"other"))
    table = encode_packs([BlockRow(zoom=6, cell_x=0, cell_y=0, rows=3, ref=ref_of(PACK))])
    story = packing(older).add(make(e.TilesCarried, table=ref_of(table), tiles=3, size=9))
    assert len(read(story, TABLE, PACK, older, table)[1]) == 3
    spoiled = packing(PACK).add(make(e.TilesCarried, table=ref_of(b"no table"), tiles=3, size=9))
    found, tiles = read(spoiled, TABLE, PACK, b"no table")
    assert (tiles, found.reason) == ({}, "this build carries no tiles")


def test_other_bytes_than_the_table_names_are_not_shown():
    first, second, third = IMAGES
    pack = carried_tiles.encode({first: IMAGES[first], second: b"other", third + 1: IMAGES[third]})
    assert list(read(packing(pack), TABLE, pack)[1]) == [PLACES[0]]


@pytest.mark.parametrize("zoom", [5, 6])
def test_a_pack_of_another_level_than_it_says_shows_nothing_there(zoom):
    assert len(read(packing(PACK, zoom=zoom), TABLE, PACK, zoom=zoom)[1]) == (3 if zoom == 6 else 0)


def test_what_is_no_pack_is_no_pack():
    assert read(packing(b"no pack"), TABLE, b"no pack")[1] == {}
    assert read(failing(window=b"no pack"), TABLE, b"no pack")[1] == {}


def test_a_failure_keeps_its_tile_and_its_window():
    first, second, third = IMAGES
    window = tile_pack.encode([(first, IMAGES[first]), (third, IMAGES[third])])
    found, tiles = read(failing(tile=IMAGES[second], window=window), TABLE, IMAGES[second], window)
    assert set(tiles) == set(PLACES)
    assert (found.counts(), found.reason) == ({6: 3}, "")


@pytest.mark.parametrize("table", [None, b"no table"])
def test_without_the_tile_table_nothing_can_be_checked(table):
    found, tiles = read(selecting(table or TABLE), *([table] if table else []))
    assert (tiles, dict(found.counts())) == ({}, {})
    assert found.reason == "the tile table cannot be read here"


def test_later_builds_pack_nothing_for_earlier_ones():
    story = selecting().add(make(e.BuildFailed, step="cells"))
    story.add(make(e.TilesPacked, zoom=6, pack=ref_of(PACK), tiles=3), build=2)
    assert read(story, TABLE, PACK)[0].reason == "this build carries no tiles"
