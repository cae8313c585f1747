"""Caches for the security tests."""

import shutil
import tempfile
from pathlib import Path

import pytest

from store.disk.layout import Layout
from store.trust.key_files import write_key_pair
from tests.security.cards import FIRST, MEMORY, SECOND, Card, built
from tests.shared_engines import builds_in_few_processes
from tests.small_builds import Site, spread

__all__ = ["builds_in_few_processes"]


@pytest.fixture(scope="module")
def template():
    """Two signed generations with different tiles and engines. Never change it."""
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="c10-security-") as folder:
        yield built(Path(folder, "cache"), FIRST, SECOND)


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="c10-security-") as folder:
        yield Path(folder)


@pytest.fixture
def card(template, folder):
    shutil.copytree(template.root, folder / "cache")
    return Card(Layout(folder / "cache"))


@pytest.fixture(scope="module")
def flown(tmp_path_factory):
    """A signed cache with a real engine and a real index, built through the provisioner. Never change it."""
    folder = tmp_path_factory.mktemp("flown")
    key = write_key_pair(folder / "key")
    site = Site(folder)
    site.write_tiles(spread(4, 3))
    report = site.provisioner(signing_key=key.private, workers=1).build_cache_artifacts(site.request())
    assert report.error is None, report.error
    return site.layout, key.public_bytes


@pytest.fixture
def real(flown, tmp_path):
    """A copy of that cache, and the key."""
    shutil.copytree(flown[0].root, tmp_path / "cache")
    return Layout(tmp_path / "cache"), flown[1]


@pytest.fixture
def no_library(monkeypatch):
    """Fail if bytes reach the libraries that run engines and read indexes."""
    for name in ("loading.load_engine", "loading.load_index"):
        monkeypatch.setattr(f"store.reader.{name}", lambda *_, **__: pytest.fail("bytes reached a library"))
