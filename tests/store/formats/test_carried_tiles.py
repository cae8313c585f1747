import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import ArtifactError
from store.formats import carried_tiles
from store.formats.carried_tiles import HEADER_SIZE, decode, decode_index, encode, index_size

TILES = st.dictionaries(st.integers(0, (1 << 63) - 1), st.binary(max_size=50), min_size=1, max_size=8)
GOLDEN = b"".join(
    (
        b"C10PACK1" + struct.pack("<Q", 2),
        struct.pack("<2Q", 5, 9),
        struct.pack("<2Q", 3, 4),
        b"abcd",
    )
)
"""A pack of the tiles 5, "abc", and 9, "d", as `docs/format.md` has it."""


def test_the_bytes_of_a_pack_are_what_they_were():
    assert encode({9: b"d", 5: b"abc"}) == GOLDEN
    assert decode(GOLDEN) == {5: b"abc", 9: b"d"}


@given(TILES)
def test_one_tile_is_found_without_the_rest(tiles):
    whole = encode(tiles)
    index = whole[: index_size(whole[:HEADER_SIZE], len(whole))]
    assert len(index) == 16 + 16 * len(tiles)
    places = decode_index(index, len(whole))
    assert {each: whole[at : at + length] for each, (at, length) in places.items()} == tiles
    assert list(places) == sorted(tiles)


@given(TILES, st.data())
def test_a_truncated_or_extended_pack_is_refused(tiles, data):
    whole = encode(tiles)
    for wrong in (whole[: data.draw(st.integers(0, len(whole) - 1))], whole + b"\0"):
        with pytest.raises(ArtifactError):
            decode(wrong)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_pack_or_an_error(data):
    for candidate in (data, GOLDEN[:8] + data, GOLDEN[:16] + data):
        try:
            tiles = decode(candidate)
        except ArtifactError:
            continue
        assert encode(tiles) == candidate


@pytest.mark.parametrize("count", [0, 1 << 16 | 1, (1 << 64) - 1])
def test_a_count_that_no_pack_has_is_refused_before_anything_is_read(count):
    with pytest.raises(ArtifactError):
        index_size(GOLDEN[:8] + struct.pack("<Q", count), 1 << 62)
    assert carried_tiles.MAX_TILES == 1 << 16


def test_an_index_that_is_cut_short_is_refused():
    with pytest.raises(ArtifactError):
        decode_index(GOLDEN[:40], len(GOLDEN))
    with pytest.raises(ArtifactError, match="before the first tile"):
        decode_index(GOLDEN[:-1][: carried_tiles.HEADER_SIZE + 1], len(GOLDEN))


def test_ids_that_do_not_ascend_are_refused():
    index = GOLDEN[:8] + struct.pack("<5Q", 2, 5, 5, 1, 2)
    with pytest.raises(ArtifactError, match="ascending"):
        decode_index(index, len(index) + 2)
