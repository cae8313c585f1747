"""One area as two caches side by side (`docs/scale.md`): they share no chunk, and answer as one cache does."""

import re
import sys

import pytest
from click.testing import CliRunner
from PIL import Image

from store.reader import ALLOW_UNSIGNED, FlightCache
from tests.ground import (
    ALTITUDE_M,
    COLUMN,
    ROW,
    TILES,
    GroundSite,
    chunk_middle,
    frame_at,
    latitude,
    longitude,
)
from tests.tools.conftest import ROOT
from tools.cli import cli

CUT = 6.1
"""Where the regions touch, in columns of tiles: no chunk has its middle there."""


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Caches of the columns before the cut, of those from it on, and of all."""
    folder, found = tmp_path_factory.mktemp("regions"), {}
    for name, first, last in (("west", 2, CUT), ("east", CUT, TILES - 2), ("whole", 2, TILES - 2)):
        site = GroundSite(folder / name)
        south, north = latitude(ROW + TILES - 2), latitude(ROW + 2)
        report = site.build(bbox=(longitude(COLUMN + first), south, longitude(COLUMN + last), north))
        assert report.error is None, report.error
        found[name] = (site.layout.root, report.chunks)
    return found


def test_opened_together_they_answer_as_the_whole(roots, tmp_path, monkeypatch, capsys):
    (west, first), (east, second), (whole, third) = roots.values()
    assert min(first, second) > 0
    assert first + second == third
    spaces = set()
    for root in (west, east, whole):
        with FlightCache.open(root, trusted_keys=ALLOW_UNSIGNED) as cache:
            spaces.add(cache.manifest.vector_space)
    assert len(spaces) == 1
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "scale.md").read_text(), re.DOTALL)
    told = str(ALTITUDE_M), "0"
    sides = set()
    for column in range(4, 18, 2):
        photo = tmp_path / f"{column}.png"
        Image.fromarray(frame_at(*chunk_middle(column, 9))).save(photo)
        monkeypatch.setattr(sys, "argv", ["search.py", *map(str, (photo, *told, west, east))])
        exec(compile(code, "docs/scale.md", "exec"), {"__name__": "__main__"})
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        words = [
            "query",
            str(photo),
            "--altitude",
            told[0],
            "--heading",
            told[1],
            "--top",
            "3",
            "--cache",
            str(whole),
        ]
        table = CliRunner().invoke(cli, words).stdout.splitlines()[1:4]
        assert [line[1:3] for line in lines] == [row.split()[1:3] for row in table]
        sides |= {line[3] for line in lines[:1]}
    assert sides == {str(west), str(east)}
