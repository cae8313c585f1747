import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import tilepack
from store.errors import ArtifactError

TILES = st.lists(st.tuples(st.integers(0, (1 << 63) - 1), st.binary(max_size=50)), max_size=8)


@given(TILES)
def test_what_goes_in_comes_out(tiles):
    assert tilepack.decode(tilepack.encode(tiles)) == tuple(tiles)


@given(TILES, st.data())
def test_a_file_that_is_cut_or_grown_is_none(tiles, data):
    whole = tilepack.encode(tiles)
    with pytest.raises(ArtifactError):
        tilepack.decode(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ArtifactError):
        tilepack.decode(whole + b"\0")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_file_or_an_error(data):
    for candidate in (data, tilepack.MAGIC + data):
        try:
            tiles = tilepack.decode(candidate)
        except ArtifactError:
            continue
        assert tilepack.encode(tiles) == candidate
