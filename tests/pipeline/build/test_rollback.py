"""Rollbacks through the provisioner, and builds after them."""

import dataclasses

import pytest

from journal import BuildLockHeldError
from pipeline.build.report import BuildOutcome
from pipeline.errors import CompileError
from pipeline.testing import raising
from store.domain.events import BuildRefused
from store.domain.maintenance_events import RolledBack
from store.domain.state import BuildStatus
from store.errors import ErrorKind, RequestRefusedError
from store.manifest.manifest import parse
from store.policy.rollback import plan, undone_hint, ways_forward
from store.reader import ALLOW_UNSIGNED, FlightCache
from tests.small_builds import ZOOM, tiny_network


@pytest.fixture
def three(site):
    """A site with three builds of three flights."""
    for flight in ("f1", "f2", "f3"):
        assert site.build(flight_id=flight).outcome is BuildOutcome.BUILT
    site.calls.made.clear()
    return site


def body(site, generation):
    raw = (site.layout.manifests / site.layout.manifest_files()[generation]).read_bytes()
    return raw, parse(raw)


def shown(site):
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()
        return cache.manifest.envelope.generation, cache.manifest.inputs["flight_id"]


def test_two_rollbacks_go_two_builds_back(three):
    first = three.provisioner().rollback(why="wrong tiles")
    assert (first.generation, first.origin, first.previous_origin, first.changed) == (4, 2, 3, True)
    assert shown(three) == (4, "f2")
    second = three.provisioner().rollback()
    assert (second.generation, second.origin, second.previous_origin) == (5, 1, 2)
    # The way forward: what was left last, and the newest.
    assert (first.forward, second.forward) == (((3, 3),), ((2, 2), (3, 3)))
    assert shown(three) == (5, "f1")
    with pytest.raises(RequestRefusedError) as caught:
        three.provisioner().rollback()
    assert caught.value.kind is ErrorKind.NOTHING_TO_ROLL_BACK
    assert shown(three) == (5, "f1")
    assert [event.why for event in three.events(RolledBack)] == ["wrong tiles", ""]
    assert three.calls.made == []


def test_the_body_that_is_shown_again_is_the_same_bytes(three):
    report = three.provisioner().rollback(to=1)
    (_, one), (_, four) = body(three, 1), body(three, 4)
    assert one.body_sha256 == four.body_sha256 == report.body_sha256
    assert one.raw.partition(b'"envelope"')[0] == four.raw.partition(b'"envelope"')[0]
    assert one.raw != four.raw
    assert four.envelope.origin == 1


def test_a_generation_stands_for_its_origin(three):
    three.provisioner().rollback(to=1)
    three.provisioner().rollback(to=3)
    again = three.provisioner().rollback(to=4)
    assert (again.generation, again.origin) == (6, 1)


def test_nothing_leads_forward_from_the_newest_build(three):
    assert three.provisioner().rollback(to=3).forward == ()
    three.provisioner().rollback(to=1)
    assert three.provisioner().rollback(to=2).forward == ((3, 3),)
    assert three.provisioner().rollback(to=3).forward == ()


def test_a_refused_build_says_which_rollback_left_it_and_what_brings_it_back(three):
    three.provisioner().rollback(why="fog")
    three.provisioner().rollback()
    for flight, said in (
        ("f3", "build 3, which was rolled back from in generation 4 (fog)"),
        ("f2", "generation 5"),
    ):
        refused = three.build(flight_id=flight)
        assert refused.error.message.endswith(said)
        assert refused.error.hint == (
            f"c10 rollback --to {flight[1]} --cache {three.layout.root} shows it again; c10 build --again builds it anew"
        )


def test_of_a_collected_build_only_a_new_one_comes_back(three):
    three.provisioner().rollback()
    state = three.state()
    assert ways_forward(state) == ((3, 3),)
    assert undone_hint(state, state.builds[3].identity).startswith("c10 rollback --to 3")
    state.collected_generations |= {3}
    assert ways_forward(state) == ()
    assert undone_hint(state, state.builds[3].identity) == "c10 build --again builds it anew"


def test_the_build_that_is_shown_is_no_change(three):
    before = three.head_bytes()
    report = three.provisioner().rollback(to=3)
    assert (report.changed, report.generation, report.origin, report.previous_origin) == (False, 3, 3, 3)
    assert three.head_bytes() == before
    assert len(three.layout.manifest_files()) == 3


@pytest.mark.parametrize("wanted", [0, 4, -1])
def test_unknown_generations_are_refused(three, wanted):
    with pytest.raises(RequestRefusedError) as caught:
        three.provisioner().rollback(to=wanted)
    assert caught.value.kind is ErrorKind.UNKNOWN_GENERATION


def test_without_a_cache_or_a_generation_there_is_nothing_to_go_back_from(site):
    with pytest.raises(RequestRefusedError) as caught:
        site.provisioner().rollback()
    assert caught.value.kind is ErrorKind.NO_CACHE
    assert not site.cache.exists()
    site.calls.faults["compile place"] = raising(
        CompileError("expected it to compile, found that it does not")
    )
    assert site.build().outcome is BuildOutcome.FAILED
    with pytest.raises(RequestRefusedError) as caught:
        site.provisioner().rollback()
    assert caught.value.kind is ErrorKind.NO_GENERATION


def test_after_a_rollback_the_head_is_up_to_date_and_the_undone_build_is_refused(three):
    three.provisioner().rollback()
    assert three.build(flight_id="f2").outcome is BuildOutcome.REUSED
    head = three.head_bytes()
    assert (
        "build 3, which was rolled back from"
        in three.provisioner().plan(three.request(flight_id="f3")).warnings[-1].message
    )
    refused = three.build(flight_id="f3")
    assert (refused.outcome, refused.generation) == (BuildOutcome.FAILED, None)
    assert (refused.error.kind, refused.error.step) == ("rolled-back", "start")
    assert "--again" in refused.error.hint
    (event,) = three.events(BuildRefused)
    assert event.identity == refused.identity
    assert three.state().builds[refused.build].status is BuildStatus.REFUSED
    assert three.head_bytes() == head
    again = three.build(flight_id="f3", force=True)
    assert (again.outcome, again.generation, again.tiles_embedded) == (BuildOutcome.BUILT, 5, 0)
    assert shown(three) == (5, "f3")
    # It was built again on purpose, and is an ordinary head from now on.
    assert three.build(flight_id="f3").outcome is BuildOutcome.REUSED
    assert not any(
        each.kind == "rolled-back-from"
        for each in three.provisioner().plan(three.request(flight_id="f3")).warnings
    )


def test_both_builds_that_were_left_are_refused_and_another_one_is_not(three):
    three.provisioner().rollback(to=1)
    for flight in ("f2", "f3"):
        assert three.build(flight_id=flight).error.kind == "rolled-back"
    report = three.build(flight_id="f4")
    assert (report.outcome, report.generation) == (BuildOutcome.BUILT, 5)
    # Its parent is the generation that was the head when it was built.
    assert three.provisioner().rollback().origin == 1


def test_a_target_with_a_missing_artifact_is_refused(three):
    three.tiles[ZOOM, 8, 12] = b"new"
    assert three.build(flight_id="f4").outcome is BuildOutcome.BUILT
    lost = three.state().builds[3].index.artifact
    assert lost != three.state().builds[4].index.artifact
    three.artifact(lost).unlink()
    head = three.head_bytes()
    with pytest.raises(RequestRefusedError) as caught:
        three.provisioner().rollback()
    assert caught.value.kind is ErrorKind.TARGET_DAMAGED
    assert lost.sha256[:12] in caught.value.message
    assert three.head_bytes() == head
    assert three.state().pending_rollback is None


@pytest.mark.parametrize("what", ["engine", "index", "block"])
def test_a_target_with_a_changed_byte_is_refused(three, what):
    """It has the right size: only hashing finds it, and the head was a GO."""
    build, (space, *_) = three.state().builds[3], next(iter(three.blocks()))
    refs = {"engine": build.engines[0][1].artifact, "index": build.index.artifact}
    lost = refs.get(what) or three.blocks()[space, ZOOM, 0, 0].block
    three.compiler.edition = "2"
    three.write("net.onnx", tiny_network(seed=9))
    assert three.build(flight_id="f4").outcome is BuildOutcome.BUILT
    path = three.artifact(lost)
    path.chmod(0o644)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    head = three.head_bytes()
    with pytest.raises(RequestRefusedError, match=f"{lost.sha256[:12]}: damaged") as caught:
        three.provisioner().rollback()
    assert caught.value.kind is ErrorKind.TARGET_DAMAGED
    assert three.head_bytes() == head


def test_a_target_with_a_missing_block_is_refused(three):
    old = {event.block.sha256 for event in three.blocks().values()}
    three.tiles[ZOOM, 8, 12] = b"new"
    assert three.build(flight_id="f4").outcome is BuildOutcome.BUILT
    (lost,) = old - {event.block.sha256 for event in three.blocks().values()}
    three.layout.artifact(lost).unlink()
    with pytest.raises(RequestRefusedError) as caught:
        three.provisioner().rollback(to=1)
    assert caught.value.kind is ErrorKind.TARGET_DAMAGED
    assert "block 6/0/0" in caught.value.message


def test_a_rollback_during_a_build_names_the_holder_of_the_lock(three):
    seen = []

    def go_back():
        with pytest.raises(BuildLockHeldError) as caught:
            three.provisioner().rollback()
        seen.append(caught.value)

    three.calls.faults["index"] = go_back
    three.tiles[ZOOM, 8, 12] = b"new"
    assert three.build().outcome is BuildOutcome.BUILT
    assert seen[0].holder["build"] == 4


def test_an_identical_build_after_other_flights_is_built_from_what_exists(three):
    report = three.build(flight_id="f1")
    assert (report.outcome, report.generation, report.build) == (BuildOutcome.BUILT, 4, 4)
    assert three.calls.made == []
    assert body(three, 1)[1].body_sha256 == report.body_sha256


def test_rows_of_the_generation_that_is_shown_again_are_not_embedded_again(three):
    kept = three.tiles[ZOOM, 8, 12]
    three.tiles[ZOOM, 8, 12] = b"new"
    assert three.build(flight_id="f4").tiles_embedded == 1
    three.provisioner().rollback()
    three.tiles[ZOOM, 8, 12] = kept
    three.calls.made.clear()
    report = three.build(flight_id="f5")
    assert (report.outcome, report.tiles_embedded) == (BuildOutcome.BUILT, 0)
    assert three.calls.made == []


def test_a_collected_parent_is_no_target(three):
    """The build that was shown before may be gone; that is said, and nothing is written."""
    three.provisioner().rollback(to=1)
    state = three.state()
    gone = dataclasses.replace(state, collected_generations=frozenset({1, 4}))
    gone.generations[5] = dataclasses.replace(state.generations[3], number=5, parent=1)
    with pytest.raises(RequestRefusedError, match="which was shown before build 3 to be kept") as caught:
        plan(gone, to=None, why="")
    assert caught.value.kind is ErrorKind.COLLECTED
