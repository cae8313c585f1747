"""Engines compiled outside of builds, and collection through the provisioner."""

from dataclasses import replace

import pytest

from journal import BuildLockHeldError
from journal.lock import BuildLock
from pipeline.build.engines_only import EngineOutcome
from pipeline.build.report import BuildOutcome
from pipeline.errors import CompileError, RequestError
from pipeline.request.options import ModelRole, ModelSpec
from pipeline.testing import raising
from store.disk.artifacts import Artifacts
from store.domain.events import CheckFailed, CheckPassed, EngineCompiled
from store.domain.maintenance_events import Repaired
from store.errors import ArtifactsBusyError, DiskFullError, RequestRefusedError
from store.policy.retention import KeepPolicy, KeepReason
from store.reader import ALLOW_UNSIGNED, FlightCache
from tests.child_python import ROOT, run_python
from tests.examples_tried import mostly_deep
from tests.small_builds import FakeSite, spread, tiny_network, tree, words

ONE = KeepPolicy(keep=1)


def engines(site, **ports):
    return site.provisioner(**ports).compile_engines_for_corpus(site.request())


def outcomes(report):
    return [str(each.outcome) for each in report.engines]


def compiles(site):
    return [name for name in site.calls.made if name.startswith("compile")]


def gc(site, policy=ONE, **ports):
    return site.provisioner(**ports).collect(policy, dry_run=False)


def test_engines_make_the_cache_and_the_next_build_takes_them_up(site):
    report = engines(site, host={"host": "bench"})
    assert (outcomes(report), report.error) == (["compiled"], None)
    (compiled,) = site.events(EngineCompiled)
    (passed,) = site.events(CheckPassed)
    assert (compiled.host, compiled.artifact) == ({"host": "bench"}, report.engines[0].artifact)
    assert passed.artifact == compiled.artifact.sha256
    assert site.state().builds == {}
    assert (outcomes(engines(site)), compiles(site)) == (["reused"], ["compile place"])
    built = site.provisioner().build_cache_artifacts(site.request())
    assert (built.outcome, built.engines_compiled) == (BuildOutcome.BUILT, 0)
    assert compiles(site) == ["compile place"]
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()
    assert outcomes(engines(site)) == ["reused"]


def test_a_second_run_writes_nothing(site):
    engines(site)
    before = tree(site.cache)
    engines(site)
    assert tree(site.cache) == before


def test_every_network_is_compiled_and_one_that_fails_keeps_none_back(site):
    for seed, name in enumerate("ab", 5):
        site.write(f"{name}.onnx", tiny_network(seed=seed))
    models = [
        ModelSpec(name=name, role=role, onnx=f"{name}.onnx")
        for name, role in (("a", ModelRole.AUXILIARY), ("b", ModelRole.AUXILIARY))
    ]
    request = site.request()
    request = replace(request, models=(*request.models, *models))
    site.calls.faults["compile a"] = raising(CompileError("expected it to compile, found that it does not"))
    report = site.provisioner().compile_engines_for_corpus(request)
    assert [(each.model, str(each.outcome)) for each in report.engines] == [
        ("a", "failed"),
        ("b", "compiled"),
        ("place", "compiled"),
    ]
    assert (report.error.kind, report.error.step, report.error.subject) == ("compile-failed", "engine", "a")
    document = report.to_document()
    assert document["engines"][0] == {
        "model": "a",
        "outcome": "failed",
        "sha256": None,
        "bytes": None,
        "seconds": document["engines"][0]["seconds"],
    }
    del site.calls.faults["compile a"]
    again = site.provisioner().compile_engines_for_corpus(request)
    assert outcomes(again) == ["compiled", "reused", "reused"]


def test_an_engine_that_disagrees_with_its_network_is_recorded_and_not_used(site):
    site.compiler.instead["place"] = site.write("wrong.onnx", tiny_network(seed=9))
    report = engines(site)
    assert (outcomes(report), report.error.kind) == (["failed"], "check-failed")
    assert len(site.events(CheckFailed)) == 1
    assert site.state().step_cache.engines == {}
    del site.compiler.instead["place"]
    assert outcomes(engines(site)) == ["compiled"]
    assert gc(site).files == 1, "the engine that failed"


def test_an_engine_whose_maker_did_not_come_to_its_check_is_checked(site):
    engines(site)
    state = site.state()
    (known,) = state.step_cache.engines.values()
    # Recorded again by a process that died before the check: the pass of the same bytes still counts.
    assert state.step_cache.has_passed("engine", known.key, known.artifact.sha256)
    other = replace(known, artifact=Artifacts(site.layout).put(tiny_network() + b"2\x00"))
    from store.cache.optimistic_append import open_for_append

    with open_for_append(site.layout, clock=site.clock) as beside:
        beside.append(lambda _: [other])
    assert outcomes(engines(site)) == ["reused"]
    assert compiles(site) == ["compile place"]
    assert site.state().step_cache.has_passed("engine", known.key, other.artifact.sha256)


@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_a_damaged_engine_is_compiled_again(site, damage):
    path = site.artifact(engines(site).engines[0].artifact)
    data = path.read_bytes()
    path.unlink()
    if damage == "flipped":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert outcomes(engines(site)) == ["compiled"]
    assert path.read_bytes() == data
    assert len(site.events(Repaired)) == (damage == "flipped")
    assert len(list(site.layout.quarantine.iterdir())) == (damage == "flipped")


def test_no_build_lock_is_needed(site):
    site.provisioner().build_cache_artifacts(site.request())
    with BuildLock(site.layout.build_lock):
        site.write("net.onnx", tiny_network(seed=3))
        assert outcomes(engines(site)) == ["compiled"]
        with pytest.raises(BuildLockHeldError):
            gc(site)


BESIDE = """
import sys
sys.path.insert(0, sys.argv[1])
from pipeline.testing import FakeCompiler
from tests.small_builds import FakeSite
site = FakeSite(sys.argv[2], {})
site.compiler.edition = sys.argv[3]
report = site.provisioner().compile_engines_for_corpus(site.request())
print(report.engines[0].outcome)
"""


def beside(site, edition=""):
    """An engine run of another process."""
    return run_python(BESIDE, ROOT, site.root, edition, cwd="/").stdout.strip()


@pytest.mark.parametrize("moment", mostly_deep(("compile place", "embed", "index"), "embed"))
def test_an_engine_run_during_a_build_harms_neither(site, moment):
    """Two runs compile the same network, with a compiler that gives other bytes each time."""
    found = []
    site.calls.faults[moment] = lambda: found.append(beside(site, "other"))
    report = site.provisioner().build_cache_artifacts(site.request())
    assert report.outcome is BuildOutcome.BUILT, report.error
    assert found == ["compiled" if moment == "compile place" else "reused"]
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()
    site.calls.faults.clear()
    assert site.provisioner().build_cache_artifacts(site.request()).outcome is BuildOutcome.REUSED


def test_of_two_that_compile_the_same_the_first_stands(site):
    found = []
    site.calls.faults["compile place"] = lambda: found.append(beside(site, "other"))
    report = engines(site)
    assert (found, outcomes(report)) == (["compiled"], ["reused"])
    (known,) = site.state().step_cache.engines.values()
    assert report.engines[0].artifact == known.artifact
    assert len(site.events(EngineCompiled)) == 1


def test_an_engine_outlives_a_collection_between_its_compile_and_its_record(site):
    """Its bytes and its record are written under the lock that excludes garbage collection."""
    site.provisioner().build_cache_artifacts(site.request())
    site.write("net.onnx", tiny_network(seed=3))
    put, seen = Artifacts.put, []

    def watched(artifacts, data):
        ref = put(artifacts, data)
        with pytest.raises(ArtifactsBusyError), artifacts.exclusive_lock(0):
            pytest.fail("a collection got between")
        seen.append(ref)
        return ref

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Artifacts, "put", watched)
        report = engines(site)
    assert [each.artifact for each in report.engines] == seen
    kept = gc(site).decision.kept
    assert kept[KeepReason.APART][0] == 1, "no build has used it yet"
    assert outcomes(engines(site)) == ["reused"]


def test_without_space_nothing_is_begun(site):
    with pytest.raises(DiskFullError, match="engines of place, found 1,000"):
        engines(site, free_bytes=lambda _: 1000)
    assert not site.cache.exists()
    assert compiles(site) == []
    engines(site)
    assert outcomes(engines(site, free_bytes=lambda _: 0)) == ["reused"], "what is there needs no space"


def test_a_network_that_does_not_exist_is_a_bad_request(site):
    (site.root / "net.onnx").unlink()
    with pytest.raises(RequestError, match=r"net\.onnx"):
        engines(site)
    assert not site.cache.exists()


def test_collection_through_the_provisioner(quick_path):
    site = FakeSite(quick_path, spread(4, 4, content=words))
    with pytest.raises(RequestRefusedError, match="expected a cache"):
        gc(site)
    assert not site.cache.exists()
    for number in (1, 2, 3):
        site.tiles = spread(4, 4, first=number, content=words)
        report = site.provisioner().build_cache_artifacts(site.request(flight_id=f"f{number}"))
        assert report.outcome is BuildOutcome.BUILT
    before = tree(site.cache)
    told = site.provisioner().collect(ONE)
    assert tree(site.cache) == before
    done = gc(site, host={"host": "h"})
    assert (done.decision, done.decision.collected_generations) == (told.decision, (1,))
    assert gc(site).empty
    assert (
        site.provisioner().build_cache_artifacts(site.request(flight_id="f3")).outcome is BuildOutcome.REUSED
    )
    with pytest.raises(RequestRefusedError, match="collected"):
        site.provisioner().rollback(to=1)
    assert site.provisioner().rollback().origin == 2
    site.tiles = spread(4, 4, first=1, content=words)
    again = site.provisioner().build_cache_artifacts(site.request(flight_id="f1"))
    assert (again.outcome, again.generation, again.engines_compiled) == (BuildOutcome.BUILT, 5, 0)
    assert again.tiles_embedded == len(
        {*site.tiles.values()}
        - {*spread(4, 4, first=2, content=words).values()}
        - {*spread(4, 4, first=3, content=words).values()}
    )
    assert {each.outcome for each in engines(site).engines} == {EngineOutcome.REUSED}


def test_a_build_that_died_is_taken_up_after_a_collection(site):
    site.provisioner().build_cache_artifacts(site.request())
    site.tiles = spread(first=7, content=words)
    site.calls.faults["index"] = raising(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        site.provisioner().build_cache_artifacts(site.request())
    site.calls.faults.clear()
    site.batcher.embedded.clear()
    assert gc(site).decision.kept[KeepReason.UNFINISHED][0] > 0
    report = site.provisioner().build_cache_artifacts(site.request())
    assert (report.outcome, report.tiles_embedded) == (BuildOutcome.BUILT, 0)
    assert site.batcher.embedded == []
