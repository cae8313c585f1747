"""Caches written through the store with tiny artifacts and a fake clock; see `store.testing`."""

from store.cache.writer import CacheWriter
from store.testing import FakeClock, play


def open_writer(layout, **options):
    """Open a cache for writing, and create it if there is none; it needs no free space."""
    settings = {"clock": FakeClock(), "create": True, "reserve_bytes": 0}
    return CacheWriter.open(layout, **(settings | options))


def record_builds(layout, *scenarios, **options):
    """Record the builds of some scenarios in one session."""
    with open_writer(layout, **options) as store:
        for scenario in scenarios:
            play(store, scenario)
