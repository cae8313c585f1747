"""Random histories of requests: a build embeds exactly what no block has, and the plan predicts it."""

import shutil
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.build.report import BuildOutcome
from pipeline.errors import RequestError
from store.base.identity import tile_of
from store.errors import RequestRefusedError
from store.formats import descriptor_block
from tests.small_builds import WEST, WORLD, ZOOM, FakeSite, tiny_network

HISTORIES = 6
"""Number of histories in an ordinary run; a long run takes 300."""

PLACES = [(ZOOM, x, y) for x, y in ((0, 0), (1, 0), (16, 0), (40, 40), (41, 40))]
CONTENTS = [b"water", b"wood", b"town"]
LANDMARK = ((ZOOM, 20, 20), b"castle")
"""A tile unlike all others. Without one nothing may be localisable, and a build of that fails."""
MEMORY_DISK = Path("/dev/shm")

ACTIONS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(PLACES), st.sampled_from(CONTENTS)),
    st.tuples(st.just("put"), st.sampled_from(PLACES), st.sampled_from(CONTENTS)),
    st.tuples(st.just("remove"), st.sampled_from(PLACES)),
    st.tuples(st.just("box"), st.sampled_from([WEST, WORLD])),
    st.tuples(st.just("flight"), st.sampled_from(["f1", "f2"])),
    st.tuples(st.just("network"), st.integers(0, 1)),
    st.tuples(st.just("lose"), st.integers(0, 5)),
    st.tuples(st.just("rollback")),
)


class Model:
    """The existing blocks: for each vector space and cell, every set of tiles that was assembled."""

    def __init__(self):
        self.blocks = set()
        self.lost = set()

    def rows(self, space):
        return {digest for of, _, tiles in self.blocks if of == space for _, digest in tiles}

    def build(self, space, tiles):
        """Add a build; return how many digests it must embed."""
        wanted = {}
        for (z, x, y), content in tiles.items():
            cell = wanted.setdefault((z, x >> 4, y >> 4), set())
            cell.add(((x, y), sha256(content).hexdigest()))
        asked = {(space, cell, frozenset(found)) for cell, found in wanted.items()}
        stale = asked - self.blocks
        needed = {digest for _, _, found in stale for _, digest in found} - self.rows(space)
        # The same file again, in any space, so it is restored for every space that had lost it.
        made = {block[1:] for block in stale}
        self.blocks |= stale | {block for block in self.lost if block[1:] in made}
        self.lost -= self.blocks
        return len(needed)

    def lose(self, cell, tiles):
        """Remove a file. All spaces share it, since the fake's vectors depend on the tiles alone."""
        gone = {block for block in self.blocks if block[1:] == (cell, tiles)}
        self.blocks -= gone
        self.lost |= gone


@settings(max_examples=HISTORIES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(ACTIONS, min_size=1, max_size=2), min_size=2, max_size=8))
def test_builds_embed_exactly_what_no_block_has(changes):
    root = Path(tempfile.mkdtemp(prefix="c10-test-", dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None))
    try:
        play(FakeSite(root, {PLACES[0]: CONTENTS[0], PLACES[3]: CONTENTS[1]}), changes)
    finally:
        shutil.rmtree(root)


def play(site, changes):
    model, request = Model(), {"bbox": WORLD, "flight_id": "f1"}
    for actions in [[], *changes]:
        for action in actions:
            apply(site, model, request, action)
        build(site, model, request)


def apply(site, model, request, action):
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


def lose_a_block(site, model, number):
    refs = sorted({event.block for event in site.blocks().values()}, key=lambda ref: ref.sha256)
    path = site.artifact(refs[number % len(refs)])
    if path.exists():
        block = descriptor_block.decode(path.read_bytes())
        places = [tile_of(int(each))[1:3] for each in block.ids]
        digests = [bytes(each).hex() for each in block.digests]
        path.unlink()
        model.lose(block.cell, frozenset(zip(places, digests, strict=True)))


def go_back(site):
    try:
        site.provisioner().rollback()
    except RequestRefusedError as error:
        if error.kind not in {"no-generation", "nothing-to-roll-back", "target-damaged"}:
            raise


def build(site, model, request):
    west = request["bbox"] == WEST
    site.tiles.pop(LANDMARK[0], None)
    wanted = {place: content for place, content in site.tiles.items() if not west or place[1] < 32}
    if not wanted:
        with pytest.raises(RequestError) as caught:
            site.build(**request)
        assert caught.value.kind == "no-tiles"
        return
    for tiles in (site.tiles, wanted):
        tiles.update([LANDMARK])
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
