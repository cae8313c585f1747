"""Builds with keys over records that nobody signed: what stands behind the signed head is made again."""

from dataclasses import replace

import pytest

from pipeline.build.engines_only import EngineOutcome
from pipeline.build.report import BuildOutcome
from pipeline.request.options import ModelRole, ModelSpec
from store.cache.view import read_history
from store.cache.writer import CacheWriter
from store.domain.events import BuildAbandoned, BuildStarted, CheckPassed
from store.domain.maintenance_events import GenerationSigned
from store.domain.manifest_projection import project
from store.errors import ErrorKind, NoGoError, RequestRefusedError
from store.formats import descriptor_block
from store.manifest.manifest import parse
from store.testing import FakeClock
from store.trust.key_files import write_key_pair
from store.trust.signatures import TrustedKey
from store.verify.coverage import named_by
from store.verify.report import Depth
from store.verify.verify import verify
from tests.child_python import run_python
from tests.played_builds import make
from tests.small_builds import tiny_network

pytestmark = pytest.mark.deep


@pytest.fixture
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {name: write_key_pair(folder / name) for name in ("ground", "other")}


def build(site, pair=None, *, flight, **settings):
    key = {} if pair is None else {"signing_key": pair.private}
    return site.provisioner(**key, **settings).build_cache_artifacts(site.request(flight_id=flight))


def forge(store, what):
    """Events that replace results under keys which the next build reuses, and the digests of their bytes."""
    state, put = store.state, store.artifacts.put
    head = state.builds[state.head.origin]
    found = []
    _, engine = head.engines[0]
    if what == "engine":
        # An ONNX file with an empty documentation string behind it is the same network in other bytes.
        found = [replace(engine, artifact=put(store.artifacts.read(engine.artifact) + b"\x32\x00"))]
        space = next(iter(state.step_cache.blocks))[0]
        same_vectors = make(CheckPassed, check="vectors", key=space, artifact=found[0].artifact.sha256)
    elif what == "index":
        found = [replace(head.index, artifact=put(b"a stranger's index"))]
    elif what == "blocks":
        for event in state.step_cache.blocks.values():
            block = descriptor_block.decode(store.artifacts.read(event.block))
            data = descriptor_block.encode(replace(block, vectors=-block.vectors))
            found.append(replace(event, block=put(data)))
    digests = {event.block.sha256 if what == "blocks" else event.artifact.sha256 for event in found}
    if what != "blocks":
        result = found[0] if found else engine
        for (_, key), passed in state.step_cache.passed.items():
            if key == result.key:
                measured = {**passed.measured, "forged": True}
                found.append(replace(passed, artifact=result.artifact.sha256, measured=measured))
    return [*found, same_vectors] if what == "engine" else found, digests


def append_unsigned(site, what, how):
    with CacheWriter.open(site.layout, clock=FakeClock(), reserve_bytes=0) as store:
        events, digests = forge(store, what)
        number = None
        if how == "failed build":
            number = store.state.next_build
            store.append(make(BuildStarted), build=number)
        store.append(*events, build=number)
        if number is not None:
            store.append(make(BuildAbandoned), build=number)
    return digests


ACCEPT = """
import sys
from pathlib import Path
from store.cache.optimistic_append import accept
from store.disk.layout import Layout
from store.testing import FakeClock
accept(Layout(Path(sys.argv[1])), 1, why="", host={}, clock=FakeClock())
"""
FORGE = """
import sys
from pathlib import Path
from store.cache.optimistic_append import open_for_append
from store.disk.layout import Layout
from store.testing import FakeClock
from tests.pipeline.build.test_vouching import forge
with open_for_append(Layout(Path(sys.argv[1])), clock=FakeClock()) as store:
    events, digests = forge(store, sys.argv[2])
    before = store.state.position
    store.append(lambda state: events if state.position == before else ())
print(*digests)
"""


def head(site):
    raw = site.head_bytes()
    manifest = parse(raw)
    with CacheWriter.open(site.layout, clock=FakeClock(), reserve_bytes=0) as store:
        return raw, set(named_by(manifest, store.artifacts))


@pytest.mark.parametrize("how", ["no build", "failed build", "committed build"])
@pytest.mark.parametrize("what", ["engine", "index", "blocks", "checks"])
def test_unsigned_results_behind_a_signed_head_are_made_again(site, keys, what, how):
    ground = keys["ground"]
    assert build(site, ground, flight="f1").outcome is BuildOutcome.BUILT
    forged = append_unsigned(site, what, how)
    if how == "committed build":
        assert build(site, flight="f2").outcome is BuildOutcome.BUILT
        assert forged <= head(site)[1]
        assert what == "blocks" or b"forged" in head(site)[0]
    planned = site.provisioner(signing_key=ground.private).plan(site.request(flight_id="f3"))
    site.calls.made.clear()
    report = build(site, ground, flight="f3")
    assert report.outcome is BuildOutcome.BUILT
    told = [each.message for each in report.warnings if each.kind == "unvouched"]
    made_again = {"engine": "engine ", "checks": "engine ", "blocks": "cells of tiles", "index": "the index"}
    assert [made_again[what] in each for each in told] == [True]
    raw, named = head(site)
    assert not forged & named
    assert b"forged" not in raw
    assert planned.to_embed == report.tiles_embedded == (len(site.tiles) if what == "blocks" else 0)
    assert report.engines_compiled == (what in {"engine", "checks"})
    assert verify(site.layout, depth=Depth.FULL, trusted_keys=[ground.public_bytes]).go
    # What a signed build made is reused, and nothing comes back.
    again = build(site, ground, flight="f4")
    assert not [each for each in again.warnings if each.kind == "unvouched"]
    assert (again.engines_compiled, again.tiles_embedded) == (0, 0)
    assert not forged & head(site)[1]
    if how == "committed build":
        with pytest.raises(NoGoError, match="to be signed by") as caught:
            site.provisioner(signing_key=ground.private, trusted_keys=(str(ground.public),)).rollback(to=2)
        assert caught.value.kind is ErrorKind.SIGNATURE
        assert " or " not in str(caught.value)
    assert site.provisioner(signing_key=ground.private).rollback(to=1).origin == 1


@pytest.mark.parametrize("what", ["acceptance", "blocks", "index", "engine", "checks"])
def test_unsigned_results_stay_away_if_others_append_meanwhile(site, keys, what):
    """An append by another process makes a build fold its state again, with all that it forgot in memory."""
    ground = keys["ground"]
    build(site, ground, flight="f1")
    forged = append_unsigned(site, "blocks", "no build") if what == "acceptance" else set()
    site.write("other.onnx", tiny_network(seed=7))

    def append():
        if what == "acceptance":
            run_python(ACCEPT, site.cache)
        else:
            forged.update(run_python(FORGE, site.cache, what).stdout.split())

    site.calls.faults["compile other"] = append
    descriptor = ModelSpec(name="place", role=ModelRole.DESCRIPTOR, onnx="net.onnx")
    other = ModelSpec(name="other", role=ModelRole.AUXILIARY, onnx="other.onnx")
    request = site.request(flight_id="f2", models=(other, descriptor))
    report = site.provisioner(signing_key=ground.private).build_cache_artifacts(request)
    assert report.outcome is BuildOutcome.BUILT, report.error
    raw, named = head(site)
    assert forged or what == "checks"
    assert not forged & named
    assert b"forged" not in raw
    assert verify(site.layout, depth=Depth.FULL, trusted_keys=[ground.public_bytes]).go


CHECKS = """
import sys
from dataclasses import replace
from pathlib import Path
from store.cache.optimistic_append import open_for_append
from store.disk.layout import Layout
from store.testing import FakeClock
with open_for_append(Layout(Path(sys.argv[1])), clock=FakeClock()) as store:
    *_, known = (check for check in store.state.step_cache.passed.values() if check.check == "engine")
    event = replace(known, check=sys.argv[2], measured={**known.measured, "forged": True})
    before = store.state.position
    store.append(lambda state: [event] if state.position == before else ())
"""


def test_another_check_that_others_append_meanwhile_gets_into_no_manifest(site, keys):
    """What a build forgets meanwhile it also records as withdrawn, so that the journal gives the very manifest."""
    ground = keys["ground"]
    build(site, ground, flight="f1")
    site.write("other.onnx", tiny_network(seed=7))
    site.calls.faults["compile other"] = lambda: run_python(CHECKS, site.cache, "another")
    descriptor = ModelSpec(name="place", role=ModelRole.DESCRIPTOR, onnx="net.onnx")
    other = ModelSpec(name="other", role=ModelRole.AUXILIARY, onnx="other.onnx")
    request = site.request(flight_id="f2", models=(other, descriptor))
    report = site.provisioner(signing_key=ground.private).build_cache_artifacts(request)
    assert report.outcome is BuildOutcome.BUILT, report.error
    assert b"forged" not in site.head_bytes()
    assert project(site.state(), site.state().head) == site.head_bytes()


def test_a_check_of_its_own_engine_that_others_append_meanwhile_ends_a_build(site, keys):
    ground = keys["ground"]
    build(site, ground, flight="f1")
    site.write("net.onnx", tiny_network(seed=7))
    site.calls.faults["index"] = lambda: run_python(CHECKS, site.cache, "engine")
    report = build(site, ground, flight="f2")
    assert (report.outcome, report.error.kind) == (BuildOutcome.FAILED, "withdrawn")
    assert site.state().head.number == 1
    del site.calls.faults["index"]
    assert build(site, ground, flight="f2").outcome is BuildOutcome.BUILT
    assert b"forged" not in site.head_bytes()
    assert project(site.state(), site.state().head) == site.head_bytes()


def test_the_first_signature_takes_over_what_nobody_signed(site, keys):
    build(site, flight="f1")
    report = build(site, keys["ground"], flight="f1", trusted_keys=(str(keys["ground"].public),))
    assert (report.outcome, report.engines_compiled, report.tiles_embedded) == (BuildOutcome.BUILT, 0, 0)
    assert build(site, keys["ground"], flight="f2").tiles_embedded == 0


def test_results_of_builds_that_another_trusted_key_signed_are_reused(site, keys):
    build(site, keys["other"], flight="f1")
    site.tiles = {place: data + b"2" for place, data in site.tiles.items()}
    build(site, keys["other"], flight="f1")
    trusted = (str(keys["other"].public),)
    assert build(site, keys["ground"], flight="f2", trusted_keys=trusted).tiles_embedded == 0
    site.cache.rename(site.root / "away")
    build(site, keys["other"], flight="f1")
    site.tiles = {place: data + b"3" for place, data in site.tiles.items()}
    build(site, keys["other"], flight="f1")
    assert build(site, keys["ground"], flight="f2").tiles_embedded == len(site.tiles)


@pytest.mark.parametrize("signed", ["not at all", "by a stranger", "too late"])
def test_a_build_that_only_trusts_agrees_with_verify(site, keys, signed):
    """Without a key of its own it never says that there is nothing to do where `verify` says NO-GO."""
    ground, other = keys["ground"], keys["other"]
    build(site, {"not at all": None, "by a stranger": other, "too late": ground}[signed], flight="f1")
    line = ground.public_bytes.hex() + (" not_after=0" if signed == "too late" else "")
    trusted = {"trusted_keys": (line,)}
    limit = 0 if signed == "too late" else None
    assert not verify(site.layout, trusted_keys=[TrustedKey(ground.public_bytes, limit)]).go
    before = read_history(site.layout).state.position
    for call in ("plan", "build_cache_artifacts"):
        with pytest.raises(NoGoError, match="signature: expected") as caught:
            getattr(site.provisioner(**trusted), call)(site.request(flight_id="f1"))
        assert caught.value.kind is ErrorKind.SIGNATURE
        assert "c10 sign 1" in caught.value.hint
    assert read_history(site.layout).state.position == before
    changed = build(site, flight="f2", **trusted)
    assert changed.outcome is BuildOutcome.BUILT
    assert any(each.hint == "c10 sign 2" for each in changed.warnings)


def test_a_build_that_only_trusts_has_nothing_to_do_after_a_trusted_signature(site, keys):
    build(site, keys["other"], flight="f1")
    trusted = {"trusted_keys": (str(keys["other"].public),)}
    assert build(site, flight="f1", **trusted).outcome is BuildOutcome.REUSED
    assert site.provisioner(**trusted).plan(site.request(flight_id="f1")).decision == "reused"


def test_a_build_says_that_its_own_key_is_not_among_the_trusted_ones(site, keys):
    ground, other = keys["ground"], keys["other"]
    told = f"signing_key: expected {ground.key_id} among trusted_keys, found other ones"
    for trusted, expected in (((ground,), 0), ((other,), 1), ((other, ground), 0), ((), 0)):
        lines = tuple(pair.public_bytes.hex() for pair in trusted)
        for outcome in (BuildOutcome.BUILT, BuildOutcome.REUSED):
            report = build(site, ground, flight=f"f{len(trusted)}{expected}", trusted_keys=lines)
            assert report.outcome is outcome
            assert sum(told in str(each) for each in report.warnings) == expected


@pytest.mark.parametrize("limited", [False, True])
def test_a_build_says_what_it_makes_again_for_a_key_that_no_longer_counts(site, keys, limited):
    ground, other = keys["ground"], keys["other"]
    build(site, other, flight="f1")
    lines = (f"{other.public_bytes.hex()} not_after=0",) if limited else ()
    report = build(site, ground, flight="f1", trusted_keys=lines)
    assert (report.engines_compiled, report.tiles_embedded) == (1, len(site.tiles))
    (told,) = (each.message for each in report.warnings if each.kind == "unvouched")
    assert "engine place, 16 cells of tiles, the index; generation 1, signature: expected" in told
    assert (
        f"key {other.key_id} to sign up to generation 0 (not_after), found generation 1"
        if limited
        else f"one by {ground.key_id}, found one by {other.key_id}"
    ) in told


def test_a_key_that_is_retired_here_signs_no_further_generation(site, keys):
    ground, other = keys["ground"], keys["other"]
    lines = (f"{ground.public_bytes.hex()} not_after=1", other.public_bytes.hex())
    build(site, ground, flight="f1", trusted_keys=lines)
    assert build(site, ground, flight="f1", trusted_keys=lines).outcome is BuildOutcome.REUSED
    before = read_history(site.layout).state.position
    with pytest.raises(RequestRefusedError, match="may sign generation 2") as caught:
        build(site, ground, flight="f2", trusted_keys=lines)
    assert caught.value.kind is ErrorKind.KEY
    assert read_history(site.layout).state.position == before
    build(site, other, flight="f2", trusted_keys=lines)
    with pytest.raises(RequestRefusedError, match="may sign generation 3"):
        site.provisioner(signing_key=ground.private, trusted_keys=lines).rollback()


def test_the_name_of_a_key_is_no_signature(site, keys):
    """A generation that claims the builder's key does not pass as up to date."""
    ground = keys["ground"]
    build(site, flight="f1")
    with CacheWriter.open(site.layout, clock=FakeClock(), reserve_bytes=0) as store:
        store.append(
            GenerationSigned(generation=1, key_id=ground.key_id, signature="0" * 128, host={}), build=None
        )
    assert build(site, ground, flight="f1").outcome is BuildOutcome.BUILT
    assert build(site, ground, flight="f1").outcome is BuildOutcome.REUSED


def test_an_engine_run_uses_no_engine_of_a_stranger(site, keys):
    assert build(site, keys["ground"], flight="f1").error is None
    evil = append_unsigned(site, "engine", "no build")
    with_key = site.provisioner(signing_key=keys["ground"].private)
    for provisioner, outcome in (
        (with_key, EngineOutcome.COMPILED),
        (site.provisioner(), EngineOutcome.REUSED),
    ):
        (engine,) = provisioner.compile_engines_for_corpus(site.request()).engines
        assert engine.outcome is outcome
        assert engine.artifact.sha256 not in evil
