"""Small copies of kept tiles under the map: which tiles, how many bytes, and what the page says without them."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from store.disk.layout import Layout
from tests.tools.conftest import LEFT, TOP, ZOOM, World, make_world
from tools.cli import cli
from tools.forensics.ground.kept_tiles import kept_tiles
from tools.forensics.history import BuildHistory
from tools.forensics.sources import from_cache
from tools.report import imagery
from tools.report.imagery import imagery_document


def encoded(pixels, kind="PNG"):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def plain(colour, side=32):
    return encoded(np.full((side, side, 3), colour, np.uint8))


def noise(seed):
    return encoded(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8))


def told_by(path):
    text = path.read_text()
    return json.loads(re.search(r'id="imagery-data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture(scope="module")
def carrying(tmp_path_factory):
    """Build 1 carries its tiles, build 2 failed at a corrupt one. Never change it."""
    world = make_world(tmp_path_factory.mktemp("carrying"))
    text = (world.folder / "request.toml").read_text()
    (world.folder / "request.toml").write_text(text.replace("[tiles]", "[carry]\ntiles = true\n[tiles]"))
    assert world.json("build", world.request)["outcome"] == "built"
    world.tile().write_bytes(world.tile().read_bytes()[:100])
    world.json("build", world.request, code=3)
    return world


def kept(world, number):
    found = kept_tiles(BuildHistory(source=from_cache(Layout(world.cache))), number)
    return found, dict(found.read(ZOOM))


def test_pictures_are_the_tiles_in_their_places():
    colours = {(5, 3, 2): (250, 0, 0), (5, 4, 3): (0, 250, 0), (5, 17, 2): (0, 0, 250)}
    found = imagery_document(
        {5: 3}, lambda _: [(place, plain(colour)) for place, colour in colours.items()], ""
    )
    (level,) = found["levels"]
    assert (level["zoom"], level["tiles"], level["side"], found["note"]) == (5, 3, 64, "")
    assert level["runs"] == [[5, 2, 3, 3], [5, 2, 17, 17], [5, 3, 4, 4]]
    assert [picture[:4] for picture in level["pictures"]] == [[3, 2, 2, 2], [17, 2, 1, 1]]
    for left, top, across, down, data in level["pictures"]:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert pixels.shape == (down * 64, across * 64, 3)
        for (_, x, y), colour in colours.items():
            if left <= x < left + across and top <= y < top + down:
                middle = pixels[(y - top) * 64 + 32, (x - left) * 64 + 32]
                assert np.abs(middle.astype(int) - colour).max() < 12


@pytest.mark.parametrize(("side", "space"), [(1, 30_000), (20, 30_000), (20, 2_000)])
def test_pictures_are_bounded_whatever_the_tiles(monkeypatch, side, space):
    monkeypatch.setattr(imagery, "MAX_BYTES", space)
    tiles = [((9, x, y), noise(x * side + y)) for x in range(side) for y in range(side)]
    found = imagery_document({9: side * side}, lambda _: tiles, "")
    size = sum(len(picture[4]) for level in found["levels"] for picture in level["pictures"])
    assert size * 3 / 4 <= space
    if space > 2_000:
        assert found["levels"][0]["tiles"] == side * side
    else:
        assert "level 9" in found["note"]


def test_coarse_levels_come_first_and_what_is_left_out_is_said(monkeypatch):
    monkeypatch.setattr(imagery, "MAX_TILES", 5)
    read = []

    def tiles_of(zoom):
        read.append(zoom)
        return [((zoom, x, 0), plain((9, 99, 9))) for x in range(4)]

    found = imagery_document({7: 4, 8: 2, 6: 1}, tiles_of, "")
    assert [level["zoom"] for level in found["levels"]] == [6, 7]
    assert read == [6, 7]
    assert "level 8 " in found["note"]
    assert "5 tiles" in found["note"]


def test_hostile_tiles_are_left_out():
    tiles = [
        ((3, 0, 0), b""),
        ((3, 1, 0), b"\xff\xd8\xff nothing"),
        ((3, 2, 0), encoded(np.zeros((1, 1 << 21, 3), np.uint8))),
    ]
    assert imagery_document({3: 3}, lambda _: tiles, "") == {
        "levels": [],
        "note": "No imagery: none of the tiles that are kept can be shown.",
    }


class TestKept:
    def test_carried_tiles_are_the_very_tiles(self, carrying):
        found, tiles = kept(carrying, 1)
        assert found.counts() == {ZOOM: 20}
        other = {place: image for place, image in tiles.items() if place != (ZOOM, LEFT, TOP)}
        assert len(tiles) == 20
        for (_, x, y), image in other.items():
            assert image == carrying.tile(x, y).read_bytes()

    def test_of_a_failed_build_only_tiles_that_it_read(self, carrying):
        _, tiles = kept(carrying, 2)
        # An earlier build carries another tile for that place; the failure keeps the one that is meant.
        assert tiles[ZOOM, LEFT, TOP] == carrying.tile().read_bytes()
        assert len(tiles) == 20

    def test_damaged_or_missing_packs_show_nothing(self, carrying, tmp_path):
        shutil.copytree(carrying.folder, tmp_path / "copy")
        world = World(tmp_path / "copy")
        found, _ = kept(world, 1)
        for _, _, ref in found.packs:
            path = world.artifact(ref.sha256)
            path.chmod(0o600)
            path.write_bytes(path.read_bytes()[:-1] + b"?")
        assert kept(world, 1)[1] == {}
        for _, _, ref in found.packs:
            world.artifact(ref.sha256).unlink()
        found, tiles = kept(world, 1)
        assert (tiles, found.reason) == ({}, "the carried tiles are not here")


class TestPage:
    def test_a_page_has_the_imagery_of_its_build(self, carrying, tmp_path):
        assert carrying.run("report", "2", "-o", str(tmp_path / "page.html")).exit_code == 0
        (level,) = told_by(tmp_path / "page.html")["levels"]
        # The corrupt tile cannot be shown.
        assert (level["zoom"], level["tiles"]) == (ZOOM, 19)

    def test_a_page_without_says_why(self, built, carrying, tmp_path):
        assert built.run("report", "1", "-o", str(tmp_path / "page.html")).exit_code == 0
        assert told_by(tmp_path / "page.html") == {
            "levels": [],
            "note": "No imagery: this build carries no tiles.",
        }
        journal = tmp_path / "journal.mdb"
        journal.write_bytes((carrying.cache / "journal.mdb").read_bytes())
        again = CliRunner().invoke(
            cli, ["report", "1", "-o", str(tmp_path / "page.html"), "--journal", str(journal)]
        )
        assert again.exit_code == 0, again.output
        assert told_by(tmp_path / "page.html")["note"] == "No imagery: the tile table cannot be read here."


@pytest.mark.deep
class TestDrawn:
    def show(self, tab, world, folder, number="2"):
        assert world.run("report", number, "-o", str(folder / "page.html")).exit_code == 0
        tab.open(folder / "page.html")
        tab.js(
            "new Promise((done) => { const ask = () => (document.documentElement.dataset.imagery ? done() : setTimeout(ask, 20)); ask(); })"
        )
        assert tab.complaints() == []
        return tab

    def test_imagery_lies_under_the_cells_and_can_be_hidden(self, tab, carrying, tmp_path):
        self.show(tab, carrying, tmp_path)
        box = "[...document.querySelectorAll('#legend label')].find((each) => each.innerText.includes('imagery')).querySelector('input')"
        assert "19 tiles of zoom level 12" in tab.js("document.getElementById('legend').innerText")
        colours = """(() => { const map = document.getElementById('map'), { data } = map.getContext('2d').getImageData(0, 0, map.width, map.height), found = new Set();
            for (let at = 0; at < data.length; at += 4) found.add((data[at] >> 3) * 1024 + (data[at + 1] >> 3) * 32 + (data[at + 2] >> 3)); return found.size; })()"""
        whole = tab.js("document.getElementById('map').toDataURL()")
        varied = tab.js(colours)
        tab.js(f"{box}.click()")
        # Random pictures have many colours; cells have few.
        assert varied > 2 * tab.js(colours)
        tab.js(f"{box}.click()")
        assert tab.js("document.getElementById('map').toDataURL()") == whole

    def test_without_imagery_the_map_is_as_before_and_says_why(self, tab, built, tmp_path):
        self.show(tab, built, tmp_path, "1")
        assert "this build carries no tiles" in tab.js("document.getElementById('legend').innerText")
        assert "show imagery" not in tab.js("document.getElementById('legend').innerText")
