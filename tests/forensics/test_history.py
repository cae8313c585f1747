"""Replay to every event of a real journal gives, at each committed build, the very body that its manifest holds.

`C10_HISTORY_EVENTS=100000` makes the history as long as one of years; in a usual run it is short.
"""

import json
import os
import shutil

import pytest

from pipeline.testing import raising
from store import canonical, manifest
from tests.pipeline.conftest import quick_path  # noqa: F401 - a fixture
from tests.small_builds import FakeSite, tiny_network, words
from tools.folding import Folded, steps
from tools.replay import replay
from tools.sources import from_cache, from_journal

EVENTS = int(os.environ.get("C10_HISTORY_EVENTS", "600"))
ZOOM, SIDE = (8, 16) if EVENTS > 10_000 else (7, 8)
BUILDS = max(3, EVENTS // (SIDE * SIDE + 10))
LOOKS = 12


@pytest.fixture
def site(quick_path):  # noqa: F811 - the fixture
    """A cache with a history of builds, failures and rollbacks; every build embeds every cell anew."""
    places = ((x, y) for x in range(SIDE) for y in range(SIDE))
    site = FakeSite(quick_path, tiles={(ZOOM, 16 * x, 16 * y): words(256 * x + y) for x, y in places})
    for number in range(BUILDS):
        site.write("net.onnx", tiny_network(seed=number))
        if number % 5 == 3:
            site.calls.faults["index"] = raising(OSError(28, "planted"))
            assert site.build(zoom=(ZOOM, ZOOM)).error is not None
            site.calls.faults.clear()
        assert site.build(zoom=(ZOOM, ZOOM)).generation is not None
        if number % 5 == 4:
            site.provisioner().rollback()
    return site


def bodies_on_disk(site):
    """Generation to the bytes of its body, as its manifest file holds it."""
    found = {}
    for generation, name in site.layout.manifest_files().items():
        document = json.loads((site.layout.manifests / name).read_bytes())
        found[generation] = canonical.encode(document["body"])
    return found


def test_every_event_of_a_real_history(site, tmp_path):
    source = from_cache(site.layout)
    moments, expected = source.history.moments, bodies_on_disk(site)
    print(f"{len(moments)} events, {len(expected)} generations")
    assert len(moments) >= EVENTS * 0.9
    folded, seen = Folded(), {}
    for moment in steps(moments, folded):
        assert folded.state.position.seq == moment.seq
        head = folded.state.head
        if head is not None:
            if head.number not in seen:
                seen[head.number] = canonical.encode(manifest.body_of(folded.state, folded.state.head_build))
                assert (moment.seq, seen[head.number]) == (head.seq, expected[head.number])
            assert canonical.sha256(seen[head.number]) == canonical.sha256(expected[head.number])
    assert seen == expected
    assert all(each.projects for each in folded.projected)
    copy = shutil.copy(site.layout.journal, tmp_path / "copy.mdb")
    copied = from_journal(copy)
    generations = [*folded.state.generations.values()]
    for generation in generations[:: -(-len(generations) // LOOKS)]:
        told = replay(copied, word=str(generation.origin), at=generation.seq)
        assert (told["state"]["generation"], told["state"]["seq"]) == (generation.number, generation.seq)
        assert told["state"]["body_sha256"] == generation.body_sha256
        assert told["verified"][-1]["projects"]
