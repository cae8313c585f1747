"""Builds for another device: the flight engine is compiled but not run, and a stand-in embeds the tiles."""

import json

import numpy as np
import pytest

from pipeline.build.report import BuildOutcome
from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.errors import CompileError, ErrorKind
from pipeline.request.options import CheckOptions, EngineOptions, ModelRole, ModelSpec
from pipeline.testing import FakeCompiler, raising
from store.domain.attachments import GOLDEN, TIMING_CACHE, attached
from store.domain.events import (
    CellEmbedded,
    CheckFailed,
    CheckPassed,
    EngineCompiled,
    StepReused,
    StepStarted,
)
from store.domain.state import FLIGHT, STAND_IN
from store.errors import ArtifactError, IncompatibleDeviceError, NoGoError
from store.errors import ErrorKind as StoreKind
from store.policy.retention import KeepPolicy
from store.reader import ALLOW_UNSIGNED, FlightCache, engine_parity
from store.runtime.golden_vectors import ANSWERED, decode_answers
from store.verify.report import Depth
from store.verify.verify import verify
from tests.cache_facts import warnings_of
from tests.examples_tried import mostly_deep
from tests.small_builds import DIMENSIONS, FakeSite, tiny_network, tree
from tools.commands.query import search

ELSEWHERE = "sm99"


class TwoDevices(FakeSite):
    """A site whose engines are for another device, and whose tiles a stand-in embeds."""

    def __init__(self, root):
        super().__init__(root)
        self.compiler.device = ELSEWHERE
        self.stand_in = FakeCompiler(calls=self.calls, dimensions=DIMENSIONS, edition="here")

    def provisioner(self, **ports):
        return super().provisioner(**({"stand_in_compiler": self.stand_in} | ports))

    def made(self, **fields):
        report = self.provisioner().build_cache_artifacts(self.request(**fields))
        assert report.error is None, report.error
        return report

    def compiles(self):
        found = [name for name in self.calls.made if name.startswith("compile")]
        self.calls.made.clear()
        return found

    def manifest(self):
        return json.loads(self.head_bytes())["body"]

    def golden(self):
        return attached(self.state().head_build.stand_in_of("place"))[GOLDEN]


@pytest.fixture
def site(quick_path, monkeypatch):
    monkeypatch.setattr(engine_parity, "_measured", {})
    return TwoDevices(quick_path)


@pytest.fixture
def aboard(site, monkeypatch):
    """Build, and then turn this machine into the other device, with engines of the same backend."""

    def board():
        site.made()
        monkeypatch.setattr("store.runtime.backends.onnxruntime.TARGET", ELSEWHERE)

    return board


def test_the_descriptors_are_those_of_a_stand_in(site):
    report = site.made()
    assert (report.outcome, report.engines_compiled) == (BuildOutcome.BUILT, 1)
    assert site.compiles() == [f"compile place for {ELSEWHERE}", "compile place"]
    flight, stand_in = site.events(EngineCompiled)
    assert [event.purpose for event in (flight, stand_in)] == [FLIGHT, STAND_IN]
    assert [event.components["target"] for event in (flight, stand_in)] == [ELSEWHERE, "cpu"]
    first, second, _ = site.events(CheckPassed)
    assert (first.key, dict(first.measured)) == (
        flight.key,
        {"size": flight.artifact.size, "executed": False},
    )
    assert second.key == stand_in.key
    assert second.measured["cosine_ppb"] > 999_999_000
    cells = site.events(CellEmbedded)
    assert {event.engine for event in cells} == {stand_in.artifact.sha256}
    body = site.manifest()
    (named,) = body["engines"]
    assert (named["target"], named["step_key"]) == (ELSEWHERE, flight.key)
    assert "attached" not in named["signature"]
    embedded_by = body["index"]["embedded_by"]
    assert (embedded_by["target"], embedded_by["step_key"]) == ("cpu", stand_in.key)
    golden = site.golden()
    assert embedded_by["golden"] == {"sha256": golden.sha256, "size": golden.size}
    answers = decode_answers(site.artifact(golden).read_bytes())
    assert answers.shape == (ANSWERED, DIMENSIONS)
    np.testing.assert_allclose(np.linalg.norm(answers, axis=1), 1, atol=1e-5)
    assert {check["key"] for check in body["checks"]} >= {flight.key, stand_in.key}


def two_networks(site):
    site.write("other.onnx", tiny_network(seed=1))
    return tuple(
        ModelSpec(name=name, role=ModelRole.DESCRIPTOR, onnx=onnx)
        for name, onnx in (("other", "other.onnx"), ("place", "net.onnx"))
    )


def test_each_of_several_networks_has_a_stand_in(site):
    models = two_networks(site)
    site.made(models=models)
    assert sorted(site.compiles()) == sorted(
        each for name in ("other", "place") for each in (f"compile {name} for {ELSEWHERE}", f"compile {name}")
    )
    named = {each["model"]: each["embedded_by"] for each in site.manifest()["descriptors"]}
    assert [each["target"] for each in named.values()] == ["cpu", "cpu"]
    assert named["other"]["golden"] != named["place"]["golden"]
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED, flown=False) as cache:
        roles = [role for role, _ in cache.manifest.artifacts() if role.startswith("golden")]
        assert roles == ["golden answers other", "golden answers place"]
    assert verify(site.layout, depth=Depth.FULL).problems == ()
    report = site.made(models=models, flight_id="f2")
    assert (report.engines_compiled, report.tiles_embedded, site.compiles()) == (0, 0, [])
    site.artifact(site.state().head_build.stand_in_of("other").artifact).unlink()
    said = warnings_of(verify(site.layout, depth=Depth.FULL))
    lost = [text for kind, text in said if kind == "stand-in-damaged"]
    assert lost == ["stand-in engine other, which does not fly: missing"]
    assert all(action.ok for action in site.provisioner().repair().actions)


@pytest.mark.parametrize("name", ["other", "place"])
def test_one_of_several_engines_that_answers_otherwise_is_not_flown(site, name, monkeypatch):
    site.compiler.instead[name] = site.write("else.onnx", tiny_network(seed=9))
    site.made(models=two_networks(site))
    monkeypatch.setattr("store.runtime.backends.onnxruntime.TARGET", ELSEWHERE)
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        with pytest.raises(NoGoError, match="expected answers as its stand-in gave"):
            cache.engine(name)
        assert cache.engine("place" if name == "other" else "other")
        with pytest.raises(NoGoError, match="expected answers as its stand-in gave"):
            cache.describe(np.zeros((32, 32, 3), np.uint8))


def test_a_second_build_compiles_nothing(site):
    site.made()
    site.compiles()
    before = tree(site.cache)
    assert site.made().outcome is BuildOutcome.REUSED
    assert (site.compiles(), tree(site.cache)) == ([], before)
    report = site.made(flight_id="f2")
    assert (report.engines_compiled, report.tiles_embedded) == (0, 0)
    assert [event.kind for event in site.events(StepReused)] == ["engine", "stand-in", "cells", "index"]
    assert site.state().head_build.stand_in_of("place") == site.state().builds[1].stand_in_of("place")


def test_another_device_is_another_identity_and_the_same_vectors(site):
    one = site.made()
    site.compiles()
    site.compiler.device = "sm98"
    two = site.made()
    assert one.identity != two.identity
    assert (two.engines_compiled, two.tiles_embedded) == (1, 0)
    assert site.compiles() == ["compile place for sm98"]


def test_precision_is_that_of_the_engine_alone(site):
    site.made()
    site.compiles()
    report = site.made(engine=EngineOptions(precision="bf16"))
    assert (report.engines_compiled, report.tiles_embedded) == (1, 0)
    build = site.state().head_build
    assert build.inputs["checks"]["parity_ppb"] == 990_000_000
    assert build.stand_in_of("place").components["precision"] == "fp32"


def test_what_the_stand_in_depends_on_is_in_the_identity(site):
    one = site.made()
    (model,) = site.manifest()["inputs"]["models"]
    assert model["stand_in"]["target"] == "cpu"
    site.compiler.device = None
    two = site.made()
    assert one.identity != two.identity
    assert "stand_in" not in site.manifest()["inputs"]["models"][0]


def test_an_engine_of_this_machine_stands_in_without_being_compiled_again(site):
    site.compiler.device = None
    site.made()
    site.compiles()
    site.compiler.device = ELSEWHERE
    report = site.made()
    assert site.compiles() == [f"compile place for {ELSEWHERE}"]
    assert report.tiles_embedded == 0
    one, _, again = site.events(EngineCompiled)
    assert (again.artifact, again.purpose, GOLDEN in attached(again)) == (one.artifact, STAND_IN, True)
    site.compiler.device = None
    site.made(flight_id="f3")
    body = site.manifest()
    assert site.compiles() == []
    assert "golden" not in body["index"]["embedded_by"]
    assert "attached" not in body["engines"][0]["signature"]


def test_the_plan_says_who_embeds(site):
    def planned():
        report = site.provisioner().plan(site.request())
        return {
            step["kind"]: (step["decision"], step["why"])
            for step in report.steps
            if step["subject"] == "place"
        }

    assert planned() == {
        "engine": ("run", "never compiled in this cache"),
        "stand-in": ("run", f"place is compiled for {ELSEWHERE}, which this machine is not"),
    }
    site.made()
    assert planned() == dict.fromkeys(("engine", "stand-in"), ("reuse", "same key, checked"))
    (site.artifact(site.golden())).unlink()
    assert planned()["stand-in"] == ("reuse", "same key, its golden answers are still to be given")
    site.write("net.onnx", tiny_network(seed=5))
    assert planned()["stand-in"] == ("run", "changed: onnx")


def test_lost_answers_are_given_again_and_nothing_is_compiled(site):
    site.made()
    golden = site.golden()
    site.artifact(golden).unlink()
    site.compiles()
    report = site.made()
    assert (report.outcome, site.compiles()) == (BuildOutcome.BUILT, [])
    assert site.golden() == golden
    assert verify(site.layout, depth=Depth.FULL).problems == ()


def test_the_ground_verifies_what_it_cannot_fly(site):
    site.made()
    found = verify(site.layout, depth=Depth.FULL)
    assert found.problems == ()
    (said,) = [text for kind, text in warnings_of(found) if kind == "other-device"]
    assert ELSEWHERE in said
    assert "stand-in" in said
    with pytest.raises(IncompatibleDeviceError, match=ELSEWHERE):
        FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED)
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED, flown=False) as cache:
        cache.verify()
        assert cache.elsewhere.keys() == {"place"}
        assert cache.descriptor_index().ntotal == len(site.tiles)
        with pytest.raises(IncompatibleDeviceError, match=ELSEWHERE):
            cache.engine("place")


def test_a_lost_stand_in_is_a_warning_and_is_repaired(site):
    site.made()
    site.artifact(site.state().head_build.stand_in_of("place").artifact).unlink()
    found = verify(site.layout, depth=Depth.FULL)
    assert found.problems == ()
    assert "stand-in-damaged" in dict(warnings_of(found))
    report = site.provisioner().repair()
    assert [(action.what, action.ok) for action in report.actions] == [("stand-in engine place", True)]
    assert "stand-in-damaged" not in dict(warnings_of(verify(site.layout, depth=Depth.FULL)))


def test_queries_on_the_ground_ask_the_stand_in(site):
    site.made()
    shown = np.zeros((32, 32, 3), np.uint8) + np.arange(32, dtype=np.uint8)[:, None]
    assert len(search(site.cache, shown, top=2)) == 2
    site.artifact(site.state().head_build.stand_in_of("place").artifact).unlink()
    with pytest.raises(ArtifactError):
        search(site.cache, shown, top=2)


def test_a_rebuilt_journal_knows_what_stood_in(site):
    site.made()
    before, golden = site.head_bytes(), site.golden()
    site.layout.journal.unlink()
    site.provisioner().rebuild()
    assert (site.head_bytes(), site.golden()) == (before, golden)
    assert verify(site.layout, depth=Depth.FULL).problems == ()
    assert site.made().outcome is BuildOutcome.REUSED


def test_a_rollback_shows_the_stand_in_of_its_build(site):
    site.made()
    golden = site.golden()
    site.write("net.onnx", tiny_network(seed=5))
    site.made()
    assert site.golden() != golden
    site.provisioner().rollback()
    assert site.manifest()["index"]["embedded_by"]["golden"]["sha256"] == golden.sha256
    site.artifact(site.state().builds[2].stand_in_of("place").artifact).unlink()
    assert verify(site.layout, depth=Depth.FULL).problems == ()


@pytest.mark.parametrize("with_engine", [False, True])
def test_answers_are_repaired(site, with_engine):
    site.made()
    golden = site.golden()
    site.artifact(golden).unlink()
    (problem,) = verify(site.layout).problems
    assert problem.subject == "golden answers"
    if with_engine:
        site.artifact(site.state().head_build.stand_in_of("place").artifact).unlink()
    report = site.provisioner().repair()
    assert all(action.ok for action in report.actions), report.actions
    assert [action.what for action in report.actions][-1] == "golden answers"
    assert verify(site.layout, depth=Depth.FULL).problems == ()


def test_collection_keeps_what_belongs_to_an_engine(site):
    site.compiler.timing_cache = b"kernels"
    site.made()
    flight = site.state().head_build.engines[0][1]
    learnt = attached(flight)[TIMING_CACHE]
    site.provisioner().collect(KeepPolicy(keep=1), dry_run=False)
    assert site.artifact(learnt).read_bytes() == b"kernels"
    assert site.artifact(site.golden()).exists()
    assert verify(site.layout, depth=Depth.FULL).unreferenced == 0
    first = site.golden()
    site.write("net.onnx", tiny_network(seed=9))
    site.compiler.timing_cache = b"more kernels"
    site.made()
    site.provisioner().collect(KeepPolicy(keep=1), dry_run=False)
    # What a rollback would show is kept, too; two builds later it is not.
    site.write("net.onnx", tiny_network(seed=10))
    site.compiler.timing_cache = b"most kernels"
    site.made()
    site.provisioner().collect(KeepPolicy(keep=1), dry_run=False)
    assert not site.artifact(learnt).exists()
    assert not site.artifact(first).exists()
    assert site.artifact(site.golden()).exists()


def test_what_a_compiler_learnt_is_given_to_the_next(site):
    site.compiler.timing_cache = b"kernels"
    site.made()
    assert site.compiler.given_timing_caches == [None]
    site.write("net.onnx", tiny_network(seed=9))
    site.made()
    assert site.compiler.given_timing_caches == [None, b"kernels"]
    assert site.stand_in.given_timing_caches == [None, None]
    site.compiler.device = "sm98"
    site.made()
    assert site.compiler.given_timing_caches[-1] is None
    site.compiler.device, site.compiler.timing_cache = ELSEWHERE, None
    for event in site.events(EngineCompiled):
        for name, ref in attached(event).items():
            if name == TIMING_CACHE:
                site.artifact(ref).unlink(missing_ok=True)
    site.write("net.onnx", tiny_network(seed=10))
    site.made()
    assert site.compiler.given_timing_caches[-1] is None


def test_engines_alone_need_no_stand_in(site):
    site.compiler.timing_cache = b"kernels"
    report = site.provisioner().compile_engines_for_corpus(site.request())
    assert (report.error, site.compiles()) == (None, [f"compile place for {ELSEWHERE}"])
    (event,) = site.events(EngineCompiled)
    assert site.artifact(attached(event)[TIMING_CACHE]).read_bytes() == b"kernels"
    (passed,) = site.events(CheckPassed)
    assert passed.measured["executed"] is False
    assert str(site.provisioner().compile_engines_for_corpus(site.request()).engines[0].outcome) == "reused"
    site.made()
    assert site.compiles() == ["compile place"]


def test_a_pass_without_a_run_is_none_where_the_engine_runs(site, monkeypatch):
    """A build on board, on the same cache: there the flight engine is checked and embeds."""
    site.made()
    site.compiles()
    monkeypatch.setattr(FakeCompiler, "runs_here", lambda *_: True)
    site.made()
    assert site.compiles() == []
    flight = site.state().head_build.engines[0][1]
    executed = [event for event in site.events(CheckPassed) if event.key == flight.key]
    assert [event.measured.get("executed", True) for event in executed] == [False, True]
    assert site.state().head_build.stand_in_of("place") is None
    assert str(site.provisioner().compile_engines_for_corpus(site.request()).engines[0].outcome) == "reused"


def test_auxiliary_engines_for_another_device_are_not_run_either(site):
    site.write("aux.onnx", tiny_network(seed=5))
    extra = ModelSpec(name="aux", role=ModelRole.AUXILIARY, onnx="aux.onnx")
    site.made(models=(*site.request().models, extra))
    assert site.compiles() == [
        f"compile aux for {ELSEWHERE}",
        f"compile place for {ELSEWHERE}",
        "compile place",
    ]
    (passed,) = [event for event in site.events(CheckPassed) if event.subject == "aux"]
    assert passed.measured["executed"] is False


def test_a_stand_in_that_disagrees_with_its_network_stops_the_build(site):
    site.stand_in.instead["place"] = site.write("other.onnx", tiny_network(seed=3))
    report = site.provisioner().build_cache_artifacts(site.request())
    assert report.outcome is BuildOutcome.FAILED
    assert "stand-in of engine place" in report.error.message
    (failed,) = site.events(CheckFailed)
    assert failed.key not in site.state().step_cache.engines
    site.stand_in.instead.clear()
    site.made()


def test_a_stand_in_that_does_not_run_stops_the_build(site):
    site.stand_in.instead["place"] = site.write("bad.onnx", b"no network")
    report = site.provisioner().build_cache_artifacts(site.request())
    assert report.outcome is BuildOutcome.FAILED
    assert "does not run" in report.error.message


def test_a_stand_in_that_does_not_compile_stops_the_build(site):
    site.calls.faults["compile place"] = raising(CompileError("expected a kernel, found none"))
    report = site.provisioner().build_cache_artifacts(site.request())
    assert (report.error.kind, report.error.step) == ("compile-failed", "stand-in")
    kinds = [event.kind for event in site.events(StepStarted)]
    assert kinds == ["engine", "stand-in"]
    site.calls.faults.clear()
    site.made()
    assert [name for name in site.compiles() if ELSEWHERE in name] == [f"compile place for {ELSEWHERE}"]


def test_descriptors_of_another_length_stop_the_build(site):
    site.compiler.dimensions = DIMENSIONS + 1
    report = site.provisioner().build_cache_artifacts(site.request())
    assert "one length, found 17 and 16" in report.error.message


def test_nothing_here_can_stand_in(site):
    class Absent(OnnxRuntimeCompiler):
        def key_components(self, job):
            raise CompileError("expected a package", hint="install it", kind=ErrorKind.BACKEND_UNAVAILABLE)

    report = site.provisioner(stand_in_compiler=Absent()).build_cache_artifacts(site.request())
    assert report.error.kind == ErrorKind.BACKEND_UNAVAILABLE
    assert "embedded by a stand-in: expected a package" in report.error.message
    engines = site.provisioner(stand_in_compiler=Absent()).compile_engines_for_corpus(site.request())
    assert engines.error is None


@pytest.fixture
def asked(monkeypatch):
    """Record the number of golden answers of every engine run."""
    found = []

    def counting(data):
        found.append(len(data))
        return decode_answers(data)

    monkeypatch.setattr("store.reader.engine_parity.decode_answers", counting)
    return found


def fly(site, **options):
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED, **options) as cache:
        return cache.engine("place").run(np.zeros((1, 3, 32, 32), np.float32))


@pytest.fixture
def fly_anew(site, monkeypatch):
    """Fly as a new process would, which knows no parity record but those of the folder."""

    def flown(proofs):
        monkeypatch.setattr(engine_parity, "_measured", {})
        fly(site, proofs=proofs)

    return flown


def test_on_board_the_engine_is_asked_once(site, aboard, asked, quick_path, fly_anew):
    aboard()
    kept = quick_path / "proofs"
    assert fly(site).shape == (1, DIMENSIONS)
    fly(site)
    assert len(asked) == 1
    fly_anew(kept)
    fly(site, proofs=str(kept))
    assert len(asked) == 2
    fly_anew(kept)
    assert len(asked) == 2
    (proof,) = kept.iterdir()
    assert proof.stat().st_mode & 0o222 == 0
    fly_anew(quick_path / "others")
    assert len(asked) == 3


DAMAGE = {
    "flipped": lambda path, data: path.write_bytes(data.replace(b"100000", b"999999", 1)),
    "one bit": lambda path, data: path.write_bytes(bytes([data[0] ^ 1]) + data[1:]),
    "short": lambda path, data: path.write_bytes(data[:-10]),
    "empty": lambda path, _: path.write_bytes(b""),
    "longer": lambda path, data: path.write_bytes(data + b" "),
    "huge": lambda path, data: path.write_bytes(data * 100),
    "no text": lambda path, _: path.write_bytes(bytes(range(256))),
    "folder": lambda path, _: path.mkdir(),
    "link": lambda path, _: path.symlink_to("/nowhere"),
}


@pytest.mark.parametrize("how", mostly_deep(DAMAGE, "one bit", "short", "link"))
def test_a_damaged_parity_record_counts_for_nothing(site, aboard, asked, quick_path, fly_anew, how):
    aboard()
    kept = quick_path / "proofs"
    fly(site, proofs=kept)
    (path,) = kept.iterdir()
    data = path.read_bytes()
    path.unlink()
    DAMAGE[how](path, data)
    fly_anew(kept)
    assert len(asked) == 2
    if how != "folder":
        assert path.read_bytes() == data
        assert not path.is_symlink()
        fly_anew(kept)
        assert len(asked) == 2
    assert [each.name for each in kept.iterdir()] == [path.name]


def test_a_parity_record_of_something_else_counts_for_nothing(
    site, aboard, asked, quick_path, monkeypatch, fly_anew
):
    aboard()
    kept = quick_path / "proofs"
    fly(site, proofs=kept)
    (path,) = kept.iterdir()
    data = path.read_bytes()
    monkeypatch.setattr(engine_parity, "_processor", lambda: "another one")
    fly_anew(kept)
    assert len(asked) == 2
    (other,) = [each for each in kept.iterdir() if each != path]
    other.unlink()
    other.write_bytes(data)
    fly_anew(kept)
    assert len(asked) == 3


def test_a_folder_that_cannot_keep_parity_records_costs_no_flight(site, aboard, asked, quick_path, fly_anew):
    aboard()
    folder = quick_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    for unfit in (quick_path / "a" / "b", site.root / "camera.json", folder):
        for _ in range(2):
            fly_anew(unfit)
    assert len(asked) == 6
    assert list(folder.iterdir()) == []


def test_an_engine_that_answers_otherwise_is_refused(site, aboard, asked, quick_path):
    """The cosine of the drifted network is about 0.98: too little by default, enough if less is required."""
    site.compiler.instead["place"] = site.write("drifted.onnx", tiny_network(drift=0.2))
    aboard()
    kept = quick_path / "proofs"
    for _ in range(2):
        with pytest.raises(NoGoError, match="stand-in gave") as refused:
            fly(site, proofs=kept)
        assert refused.value.kind is StoreKind.PARITY
    assert len(asked) == 2
    assert not kept.exists()
    (problem,) = verify(site.layout, depth=Depth.FULL).problems
    assert "stand-in" in problem.found
    site.made(checks=CheckOptions(parity=0.9))
    fly(site, proofs=kept)
    site.made(checks=CheckOptions(parity=0.9999))
    with pytest.raises(NoGoError):
        fly(site, proofs=kept)


def test_an_engine_whose_rows_hang_on_their_neighbours_is_refused(site, aboard, monkeypatch):
    aboard()
    measured = engine_parity.agreement
    calls = []

    def second_differs(answers, others):
        calls.append(len(answers))
        return measured(answers, others) if len(calls) == 1 else 0.5

    monkeypatch.setattr(engine_parity, "agreement", second_differs)
    with pytest.raises(NoGoError, match=r"found 0\.5"):
        fly(site)
    assert calls == [ANSWERED, ANSWERED]


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_damaged_answers_are_a_no_go(site, aboard, how):
    aboard()
    path = site.artifact(site.golden())
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.unlink()
    if how != "missing":
        path.write_bytes(data)
    with pytest.raises(NoGoError) as refused:
        fly(site)
    assert refused.value.kind is StoreKind.ARTIFACT_DAMAGED
    assert "golden answers" in refused.value.message
