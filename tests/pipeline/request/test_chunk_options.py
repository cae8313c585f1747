"""Requests for chunks of ground."""

from pathlib import Path

import pytest

from pipeline.errors import RequestError
from pipeline.request.options import ChunkLevelOptions, ChunkOptions
from pipeline.request.request import BuildRequest
from pipeline.request.to_toml import to_toml
from tests.sample_request import REQUEST

HEAD, REST = REQUEST.split("\n[tiles]", 1)


def parse(top="", tables=""):
    return BuildRequest.parse(f"{HEAD}\n{top}\n[tiles]{REST}\n{tables}", base=Path("/requests"))


@pytest.mark.parametrize(
    ("top", "tables", "altitude", "chunks"),
    [
        ("", "", None, None),
        ("altitude_m = 120", "", (120, 120), None),
        ("altitude_m = [100, 220.5]", "[chunks]\noverlap = 0.5", (100, 220.5), ChunkOptions(overlap=0.5)),
        (
            "",
            "[[chunks.level]]\nside_m = 120\n[[chunks.level]]\nside_m = 200\noverlap = 0.75",
            None,
            ChunkOptions(level=(ChunkLevelOptions(side_m=120), ChunkLevelOptions(side_m=200, overlap=0.75))),
        ),
    ],
)
def test_a_request_means_the_same_after_it_was_written_again(top, tables, altitude, chunks):
    request = parse(top, tables)
    assert (request.altitude_m, request.chunks) == (altitude, chunks)
    assert request.cuts_chunks is bool(top or tables)
    assert BuildRequest.parse(to_toml(request), base=request.base) == request


@pytest.mark.parametrize(
    ("top", "tables", "words"),
    [
        ("altitude_m = 0", "", "altitude_m: expected a height above ground in metres, 1 to 30000"),
        ("altitude_m = [200, 100]", "", "put the lowest first"),
        ("altitude_m = [1, 2, 3]", "", "altitude_m"),
        ('altitude_m = "120"', "", "altitude_m"),
        ("altitude_m = nan", "", "altitude_m"),
        ("", "[chunks]", "expected altitude_m beside it"),
        ("altitude_m = 1", "[[chunks.level]]\nside_m = 3", "remove one"),
        (
            "altitude_m = 1",
            "[chunks]\noverlap = 1",
            "chunks.overlap: expected a finite number from 0 to 0.97",
        ),
        ("", "[[chunks.level]]\nside = 3", "did you mean 'side_m'"),
        ("", "[[chunks.level]]\noverlap = 0.5", "side_m"),
        ("", "[chunks]\nlevel = 3", "1 to 16 tables"),
        ("", "[chunks]\nlevel = [3]", "1 to 16 tables"),
        ("", "[[chunks.level]]\nside_m = 3\n" * 17, "1 to 16 tables"),
        ("chunks = 3", "", "chunks"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_key(top, tables, words):
    with pytest.raises(RequestError) as caught:
        parse(top, tables)
    assert words in str(caught.value)
