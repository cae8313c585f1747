"""One area as two caches side by side (`docs/scale.md`): they share no tile, and answer as one cache does."""

import os
import re
from pathlib import Path

import mercantile
import pytest
from click.testing import CliRunner

from store.reader import ALLOW_UNSIGNED, FlightCache
from tests.child_python import run_python
from tests.tools.conftest import ACROSS, DOWN, LEFT, ROOT, TOP, ZOOM
from tools.cli import cli

CUT = LEFT + 2


@pytest.fixture
def regions(empty):
    """Two caches, of the columns before the cut and of those from it on."""
    text = Path(empty.request).read_text()
    roots = []
    for name, first, last in (("west", LEFT, CUT - 1), ("east", CUT, LEFT + ACROSS - 1)):
        west, east = mercantile.bounds(first, TOP, ZOOM).west, mercantile.bounds(last, TOP, ZOOM).east
        box = rf"bbox = [{west + 1e-4:.7f}, \1, {east - 1e-4:.7f},"
        request = empty.folder / f"{name}.toml"
        request.write_text(re.sub(r"bbox = \[[^,]+, ([^,]+), [^,]+,", box, text))
        roots.append(empty.folder / "regions" / name)
        roots[-1].parent.mkdir(exist_ok=True)
        built = CliRunner().invoke(cli, ["build", str(request), "--cache", str(roots[-1])])
        assert built.exit_code == 0, built.output
    return roots


def placed(root):
    with FlightCache.open(root, trusted_keys=ALLOW_UNSIGNED) as cache:
        return cache.manifest.tile_count, cache.manifest.vector_space


def test_opened_together_they_answer_as_the_whole(regions, built):
    (west, first), (east, second), (whole, third) = map(placed, (*regions, built.cache))
    assert (west, east, whole) == (2 * DOWN, (ACROSS - 2) * DOWN, ACROSS * DOWN)
    assert first == second == third
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "scale.md").read_text(), re.DOTALL)
    for column in range(ACROSS):
        picture = built.tile(LEFT + column, TOP + 1)
        done = run_python(
            code.replace('"place"', '"tiny"'), picture, *regions, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        found = [line.split() for line in done.stdout.splitlines()]
        assert found[0][1:] == [f"{ZOOM}/{LEFT + column}/{TOP + 1}", str(regions[column >= 2])]
        hits = built.json("query", str(picture), "--top", "3")["hits"]
        assert [line[1] for line in found] == [f"{hit['z']}/{hit['x']}/{hit['y']}" for hit in hits]
