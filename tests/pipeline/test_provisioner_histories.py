"""Random histories of requests: what is embedded is what no block has, and the plan knows it before."""

import shutil
import tempfile
from hashlib import sha256
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.report import BuildOutcome
from store.errors import RequestRefusedError
from tests.small_builds import WEST, WORLD, ZOOM, FakeSite, tiny_network

HISTORIES = 25
"""Histories in an ordinary run; 500 were run once."""

PLACES = [(ZOOM, x, y) for x, y in ((0, 0), (1, 0), (15, 15), (16, 0), (40, 40), (41, 40))]
CONTENTS = [b"water", b"wood", b"field", b"town"]
MEMORY_DISK = Path("/dev/shm")

ACTIONS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(PLACES), st.sampled_from(CONTENTS)),
    st.tuples(st.just("remove"), st.sampled_from(PLACES)),
    st.tuples(st.just("box"), st.sampled_from([WEST, WORLD])),
    st.tuples(st.just("flight"), st.sampled_from(["f1", "f2"])),
    st.tuples(st.just("network"), st.integers(0, 1)),
    st.tuples(st.just("lose"), st.integers(0, 5)),
    st.tuples(st.just("rollback")),
    st.tuples(st.just("build")),
)


class Model:
    """The rows that blocks hold: per vector space and cell those of the latest block."""

    def __init__(self):
        self.cells = {}

    def rows(self, space):
        return {digest for (of, _), cell in self.cells.items() if of == space for _, digest in cell}

    def build(self, space, tiles):
        """Take in a build; returns how many digests it must embed."""
        wanted = {}
        for (z, x, y), content in tiles.items():
            cell = wanted.setdefault((z, x >> 4, y >> 4), set())
            cell.add(((x, y), sha256(content).hexdigest()))
        stale = {cell: found for cell, found in wanted.items() if self.cells.get((space, cell)) != found}
        needed = {digest for found in stale.values() for _, digest in found} - self.rows(space)
        self.cells |= {(space, cell): found for cell, found in stale.items()}
        return len(needed)

    def lose(self, space, cell):
        self.cells.pop((space, cell), None)


@settings(max_examples=HISTORIES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ACTIONS, min_size=3, max_size=10))
def test_builds_embed_exactly_what_no_block_has(actions):
    root = Path(tempfile.mkdtemp(prefix="c10-test-", dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None))
    try:
        play(FakeSite(root, {PLACES[0]: CONTENTS[0], PLACES[4]: CONTENTS[1]}), [*actions, ("build",)])
    finally:
        shutil.rmtree(root)


def play(site, actions):
    model, request = Model(), {"bbox": WORLD, "flight_id": "f1"}
    for action in actions:
        match action:
            case ("put", place, content):
                site.tiles[place] = content
            case ("remove", place):
                site.tiles.pop(place, None)
            case ("box", box):
                request["bbox"] = box
            case ("flight", flight):
                request["flight_id"] = flight
            case ("network", seed):
                site.write("net.onnx", tiny_network(seed=seed))
            case ("lose", number):
                lose_a_block(site, model, number)
            case ("rollback",):
                go_back(site)
            case ("build",):
                build(site, model, request)


def lose_a_block(site, model, number):
    blocks = sorted(site.blocks().items()) if site.cache.exists() else []
    if blocks:
        (space, zoom, x, y), event = blocks[number % len(blocks)]
        sharing = [name for name, other in blocks if other.block == event.block]
        site.artifact(event.block).unlink(missing_ok=True)
        assert sharing == [(space, zoom, x, y)], "a block belongs to one cell of one space"
        model.lose(space, (zoom, x, y))


def go_back(site):
    try:
        site.provisioner().rollback()
    except RequestRefusedError as error:
        assert error.kind in {"no-cache", "no-generation", "nothing-to-roll-back", "target-damaged"}


def build(site, model, request):
    west = request["bbox"] == WEST
    wanted = {place: content for place, content in site.tiles.items() if not west or place[1] < 32}
    if not wanted:
        assert site.build(**request).error.kind == "no-tiles"
        return
    planned = site.provisioner().plan(site.request(**request))
    site.batcher.embedded.clear()
    report = site.build(**request)
    assert planned.identity == report.identity
    assert len(site.batcher.embedded) == len(set(site.batcher.embedded)) == report.tiles_embedded
    match report.outcome:
        case BuildOutcome.BUILT:
            space = site.state().head_build.index.components["space"]
            assert planned.decision == "build"
            assert report.tiles_embedded == planned.to_embed == model.build(space, wanted)
        case BuildOutcome.REUSED:
            assert (planned.decision, planned.to_embed) == ("reused", 0)
            assert (report.tiles_embedded, report.writes) == (0, 0)
        case BuildOutcome.FAILED:
            assert report.error.kind == "rolled-back"
            assert report.tiles_embedded == 0
