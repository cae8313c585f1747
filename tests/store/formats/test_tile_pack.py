import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import ArtifactError
from store.formats import tile_pack

TILES = st.lists(st.tuples(st.integers(0, (1 << 63) - 1), st.binary(max_size=50)), max_size=8)


@given(TILES)
def test_a_pack_is_encoded_and_decoded(tiles):
    assert tile_pack.decode(tile_pack.encode(tiles)) == tuple(tiles)


@given(TILES, st.data())
def test_a_truncated_or_extended_pack_is_refused(tiles, data):
    whole = tile_pack.encode(tiles)
    with pytest.raises(ArtifactError):
        tile_pack.decode(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ArtifactError):
        tile_pack.decode(whole + b"\0")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_pack_or_an_error(data):
    for candidate in (data, tile_pack.MAGIC + data):
        try:
            tiles = tile_pack.decode(candidate)
        except ArtifactError:
            continue
        assert tile_pack.encode(tiles) == candidate
