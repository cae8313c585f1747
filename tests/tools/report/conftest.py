"""A browser for all tests of the page, and documents of builds that were committed, failed or died."""

import json
import shutil
from datetime import date

import pytest

from store.disk.layout import Layout
from tests.shared_engines import few_processes
from tests.tools.conftest import World, make_world
from tests.tools.report import browser
from tools.analysis.replay_document import replay
from tools.forensics.sources import from_cache
from tools.report.page import page


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    if browser.program() is None:
        pytest.skip(
            "Chromium is not installed (apt-get install chromium), so that the page cannot be looked at"
        )
    with browser.chromium(tmp_path_factory.mktemp("profile")) as pipe:
        yield pipe


@pytest.fixture(scope="session")
def _tab(chromium):
    return browser.Page(chromium)


@pytest.fixture
def tab(_tab):
    """A tab as wide as a desk, in light colours."""
    _tab.size(1280, 900)
    _tab.media(prefers_color_scheme="light", prefers_reduced_motion="no-preference")
    return _tab


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Build 1 was committed, build 2 failed at a corrupt tile. Never change it."""
    world = make_world(tmp_path_factory.mktemp("report"))
    with few_processes():
        assert world.json("build", world.request)["outcome"] == "built"
        original = world.tile().read_bytes()
        world.tile().write_bytes(original[: len(original) // 2])
        world.json("build", world.request, code=3)
    return world


@pytest.fixture
def copied(site, tmp_path):
    """A copy to be changed."""
    shutil.copytree(site.folder, tmp_path / "copy")
    return World(tmp_path / "copy")


@pytest.fixture(scope="session")
def failed(site):
    """The document of the failed build; make a copy to change it."""
    return json.dumps(replay(from_cache(Layout(site.cache)), word="2"))


@pytest.fixture(scope="session")
def committed(site):
    return json.dumps(replay(from_cache(Layout(site.cache)), word="1", today=date(2027, 3, 1)))


@pytest.fixture
def draw(tab, tmp_path):
    """Draw a document and wait for it; the page must not complain, nor ask for anything."""

    def drawn(document, *, quiet=True):
        path = tmp_path / "report.html"
        path.write_text(page(json.loads(document) if isinstance(document, str) else document))
        tab.open(path)
        if quiet:
            assert tab.js("document.documentElement.dataset.ready") == "yes"
            assert tab.complaints() == []
            assert [url for url in tab.requests() if not url.startswith("data:")] == [path.as_uri()]
        return tab

    return drawn
