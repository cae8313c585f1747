"""Builds with real parts on two nodes that are processes of their own, one of which is lost while it embeds.

The nodes are on the loopback, and once more on two ends of a cable: the other node in a network namespace.
"""

import contextlib
import functools
import importlib.util
import os
import signal
import time
from itertools import product

import pytest

from pipeline.build.report import BuildOutcome
from pipeline.embed.cells import plan_windows
from pipeline.embed.ray.batcher import RayDescriptorBatcher
from pipeline.request.options import CarryOptions
from store.disk.artifacts import Artifacts
from store.domain.events import StepRetried
from store.manifest.manifest import parse
from store.verify.coverage import named_by
from store.verify.verify import Depth, verify
from tests.ground import COLUMN, EDGE, ROW, GroundSite, latitude, longitude, picture_of
from tests.ray_nodes import cable, two_nodes, why_no_namespaces

pytestmark = [
    pytest.mark.ray,
    pytest.mark.deep,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`"),
    # Ray leaves resources open that C10 cannot close.
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
    ),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TILES = 28
"""Tiles along each side of the ground, so that its chunks are in sixteen cells."""

STOPPED, LOST = 5, 9
"""The windows at whose dispatch the actor is stopped, and its node lost."""

LIMIT_S = 60.0


class WideSite(GroundSite):
    """A site with more ground, of which all tiles are carried."""

    def write_ground(self, ground, tiles=None):
        wide = picture_of(side=TILES * EDGE)
        super().write_ground(wide, tiles or product(range(TILES), range(TILES)))

    def request(self, **fields):
        west, east = longitude(COLUMN + 2), longitude(COLUMN + TILES - 2)
        box = (west, latitude(ROW + TILES - 2), east, latitude(ROW + 2))
        return super().request(**{"bbox": box, "carry": CarryOptions(tiles=True)} | fields)


@contextlib.contextmanager
def on_loopback():
    with two_nodes("127.0.0.1", "127.0.0.2") as found:
        yield found


@contextlib.contextmanager
def on_a_cable():
    if reason := why_no_namespaces():
        pytest.skip(reason)
    with cable() as (here, there, prefix), two_nodes(here, there, prefix=prefix) as found:
        yield found


class LosesANode(RayDescriptorBatcher):
    """Loses the far node half-way, while its actor works on a window."""

    def __init__(self, address, far):
        super().__init__(address=address)
        self._far = far
        self.ended = []

    def embed(self, windows, *, on_dispatch, **rest):
        def dispatched(window):
            on_dispatch(window)
            if window.number == 0:
                self._wait_for_both()
            elif window.number == STOPPED:
                # It goes on getting windows, and is certainly in the middle of one when its node is lost.
                for actor in self._far.actors():
                    os.kill(actor, signal.SIGSTOP)
            elif window.number == LOST:
                self.ended = self._far.kill()

        return super().embed(windows, on_dispatch=dispatched, **rest)

    def _wait_for_both(self):
        ends = time.monotonic() + LIMIT_S
        while not self._far.actors():
            assert time.monotonic() < ends, "expected an actor on the far node"
            time.sleep(0.1)
        # The time to load its engine.
        time.sleep(2)


def named(site):
    """Digest to role of every artifact that the head's manifest names."""
    found = named_by(parse(site.head_bytes()), Artifacts(site.layout))
    return {digest: role for digest, (role, _) in found.items()}


@pytest.mark.parametrize("network", [on_loopback, on_a_cable])
def test_a_build_of_chunks_that_loses_a_node_has_the_bytes_of_a_local_one(tmp_path, monkeypatch, network):
    monkeypatch.setattr("pipeline.stages.embed.plan_windows", functools.partial(plan_windows, size=1))
    far, near = WideSite(tmp_path / "far"), WideSite(tmp_path / "near")
    before = signal.getsignal(signal.SIGTERM)
    try:
        with network() as (address, _, other):
            batcher = LosesANode(address, other)
            remote = far.provisioner(descriptor_batcher=batcher).build_cache_artifacts(far.request())
    finally:
        signal.signal(signal.SIGTERM, before)
    local = near.build()
    assert remote.outcome is local.outcome is BuildOutcome.BUILT, (remote.error, local.error)
    assert any("raylet" in command for command in batcher.ended), (batcher.ended, far.events(StepRetried))
    assert any(command.startswith("ray::TileEmbedder") for command in batcher.ended)
    retried = far.events(StepRetried)
    assert retried
    assert all(each.subjects for each in retried)
    assert not near.events(StepRetried)
    assert (remote.identity, remote.body_sha256) == (local.identity, local.body_sha256)
    assert named(far) == named(near)
    assert {"block", "engine", "pack"} <= {role.partition(" ")[0] for role in named(far).values()}
    assert verify(far.layout, depth=Depth.FULL).go
    assert far.build().outcome is BuildOutcome.REUSED
