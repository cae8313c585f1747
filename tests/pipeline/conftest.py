"""Fixtures for tests of whole builds."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from pipeline.tiles.sources.read_tile import close_archives
from tests.small_builds import FakeSite, Site

MEMORY_DISK = Path("/dev/shm")


@pytest.fixture
def quick_path(tmp_path):
    """A folder in memory where there is one: builds with fakes spend their time in fsync."""
    if not os.access(MEMORY_DISK, os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="c10-test-", dir=MEMORY_DISK))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def site(quick_path):
    """A site whose ports are fakes."""
    return FakeSite(quick_path)


@pytest.fixture
def real_site(tmp_path):
    """A site whose ports are real."""
    return Site(tmp_path)


@pytest.fixture
def refused(archives):
    """Opens a source that must be refused, and returns the error."""
    return archives.refused


@pytest.fixture
def closed_archives():
    """Archives that this process keeps open for reading tiles are closed when a test ends."""
    yield
    close_archives()
