"""Fixtures of the store's tests."""

import os
import tempfile
from pathlib import Path

import pytest

from store.disk.layout import Layout
from tests.shared_engines import builds_in_few_processes

__all__ = ["builds_in_few_processes"]

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.fixture
def tmp_path():
    """A folder in memory: a cache has 256 folders, and hundreds of caches on a disk take minutes to remove."""
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="c10-store-") as folder:
        yield Path(folder)


@pytest.fixture
def layout(tmp_path):
    """Where a cache may be made."""
    return Layout(tmp_path / "cache")
