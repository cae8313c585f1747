"""Folders that this user may not write or read: refused with a remedy, and nothing is changed."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.build.report import BuildOutcome
from tests.child_python import ROOT, run_python
from tests.small_builds import Site, spread, tree

NOBODY = 65_534

# What is imported late must have been imported while the interpreter's own folder could be read.
CHILD = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from tests.small_builds import FakeSite, Site
site, rehearsal = Site(sys.argv[2]), FakeSite(sys.argv[3])
for flight in ("f1", "f2"):
    assert rehearsal.build(flight_id=flight).error is None
    Site(sys.argv[3]).provisioner().plan(site.request())
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(sys.argv[4]))
    os.setuid(int(sys.argv[4]))
for flight in ("f1", "f2"):
    try:
        report = site.build(flight_id=flight)
        print(json.dumps([report.outcome, report.error and report.error.kind, report.error and report.error.hint]))
    except Exception as error:
        print(json.dumps([type(error).__name__, str(getattr(error, "kind", "")), getattr(error, "hint", "")]))
"""


@pytest.fixture
def folder():
    """A folder that anybody may enter."""
    path = Path(tempfile.mkdtemp(prefix="c10-test-"))
    path.chmod(0o755)
    yield path
    for below, names, _ in os.walk(path):
        for name in names:
            (Path(below) / name).chmod(0o755)
    shutil.rmtree(path)


@pytest.fixture
def site(folder):
    site = Site(folder / "site")
    site.write_tiles(spread(2, 2))
    return site


def build_as_nobody(site, tmp_path):
    """Outcomes of a build of f1 and one of f2 by a user who owns nothing: [outcome or error, kind, hint]."""
    rehearsal = tmp_path / "rehearsal"
    done = run_python(CHILD, ROOT, site.root, rehearsal, NOBODY, cwd="/")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_cache_that_may_not_be_made(site, tmp_path):
    site.root.chmod(0o555)
    for error, kind, hint in build_as_nobody(site, tmp_path):
        assert (error, kind) == ("CacheUnusableError", "permission")
        assert "permissions" in hint
    assert not site.cache.exists()


def test_a_cache_that_may_not_be_written(site, tmp_path):
    assert site.build().outcome is BuildOutcome.BUILT
    before = tree(site.cache)
    for path in (site.cache, *site.cache.rglob("*")):
        path.chmod(path.stat().st_mode & 0o555)
    for error, kind, hint in build_as_nobody(site, tmp_path):
        assert error in {"JournalPermissionError", "CacheUnusableError"}
        assert "permission" in kind
        assert hint
    assert {name: found[4] for name, found in tree(site.cache).items()} == {
        name: found[4] for name, found in before.items()
    }


def anybody_may_enter(path):
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


@pytest.mark.skipif(
    os.geteuid() == 0 and not anybody_may_enter(Path(np.__file__).parent),
    reason="the Python environment is closed to other users: a build by one finds no packages",
)
def test_tiles_that_may_not_be_read(site, tmp_path):
    (site.root / "tiles/6/8").chmod(0o000)
    site.cache.mkdir(mode=0o777)
    site.cache.chmod(0o777)
    for error, kind, hint in build_as_nobody(site, tmp_path):
        assert (error, kind) == ("RequestError", "source-unreadable")
        assert hint
    assert list(site.cache.iterdir()) == []
