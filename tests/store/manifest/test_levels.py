"""The levels of chunks in the inputs of a build."""

import pytest

from store.base.geometry.level import Level
from store.manifest.levels import ChunkLevel, parse_levels

ONE = {"zoom": 20, "k": 1, "m": 7, "tile_edge": 256}


def test_inputs_without_chunks_have_no_levels():
    assert parse_levels({"zoom": [20, 20]}) == ()


def test_levels_keep_their_order_and_become_the_same_document():
    named = [ONE, {**ONE, "m": 9}]
    found = parse_levels({"chunks": {"levels": named}})
    assert found == (
        ChunkLevel(level=Level(20, 1, 7), tile_edge=256),
        ChunkLevel(level=Level(20, 1, 9), tile_edge=256),
    )
    assert [each.to_document() for each in found] == named


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ({"levels": []}, "1 to 16"),
        ({"levels": [{**ONE, "m": m} for m in range(2, 19)]}, "1 to 16"),
        ({"levels": [ONE], "overlap": 1}, "1 to 16"),
        ({"levels": [ONE, ONE]}, "twice"),
        ({"levels": [{**ONE, "side": 1}]}, "holds"),
        ({"levels": [{**ONE, "tile_edge": 0}]}, "0 pixels"),
        ({"levels": [{**ONE, "m": 32}]}, "31"),
        ({"levels": [{**ONE, "zoom": 25}]}, "25"),
        ({"levels": [{**ONE, "zoom": True}]}, "True"),
        ({"levels": [{**ONE, "k": -1}]}, "-1"),
    ],
)
def test_other_levels_are_refused(chunks, words):
    with pytest.raises(ValueError, match=words):
        parse_levels({"chunks": chunks})


@pytest.mark.parametrize("chunks", [None, [], "levels", {"levels": [1]}])
def test_what_is_no_map_is_refused(chunks):
    with pytest.raises((TypeError, AttributeError)):
        parse_levels({"chunks": chunks})
