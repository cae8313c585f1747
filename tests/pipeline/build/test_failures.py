"""Whatever fails, the head stays and the journal records the failure."""

import errno
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from pipeline.build.report import BuildOutcome
from pipeline.errors import CompileError, EmbedError, ErrorKind
from pipeline.request.options import CheckOptions, CoverageOptions, EngineOptions
from pipeline.stages import checks
from pipeline.stages.engines import check_engine
from pipeline.testing import raising
from store.base.canonical_json import decode
from store.domain import problem_lines
from store.domain.events import (
    BuildFailed,
    CellEmbedded,
    CheckFailed,
    CheckPassed,
    CoverageWalked,
    EngineCompiled,
    StepStarted,
)
from store.domain.state import BuildStatus
from store.reader import ALLOW_UNSIGNED, FlightCache
from tests.examples_tried import mostly_deep
from tests.processes import child_pids
from tests.small_builds import ZOOM, FakeSite, Site, spread, tiny_network

BAD = sha256(b"bad").hexdigest()


def bad_tile(site):
    site.tiles[ZOOM, 8, 12] = b"bad"
    site.batcher.bad[BAD] = ("bad-tile", "expected a whole png image, found the half of one")


def changed_tile(site):
    bad_tile(site)
    site.batcher.bad[BAD] = ("source-changed", "expected a tile with SHA-256 aa, found bb")


def spoil(change):
    def plant(site):
        site.tiles[ZOOM, 8, 12] = b"bad"
        site.batcher.spoil = change

    return plant


def more_work(site):
    site.tiles[ZOOM, 8, 12] = b"bad"


def fault(name, make):
    return lambda site: site.calls.faults.__setitem__(name, raising(make()))


def half_finite(vectors):
    vectors[0, 0] = np.nan
    return vectors


def foreign_network(site):
    site.compiler.instead["place"] = site.write("foreign.onnx", tiny_network(seed=9))


def no_network(site):
    site.compiler.instead["place"] = site.write("garbage.onnx", b"no engine at all")


def lost_engine(site):
    engine = site.state().head_build.engines[0][1].artifact

    def remove():
        site.artifact(engine).unlink()

    site.calls.faults["index"] = remove


def cut_block(site):
    """Return a fault that truncates the last block of the head."""
    path = site.artifact([event.block for event in site.blocks().values()][-1])

    def cut():
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1])

    return cut


def block_cut_before_the_index(site):
    site.calls.faults["index"] = cut_block(site)


def block_cut_before_the_walk(site):
    cut = cut_block(site)
    site.progress.on_start = lambda step: cut() if step == "verify" else None


def stranger(site):
    site.calls.faults["index"] = lambda: (site.layout.artifacts / "00" / "notes.txt").write_text("hello")


def network_changes(site):
    site.write("net.onnx", tiny_network(seed=3))


def nothing(_site):
    """Plant nothing."""


def mixed(*plants):
    return lambda site: [plant(site) for plant in plants]


FAILURES = {
    # name: the fault, options of the request, step, kind, subject, part of the message
    "compiler raises": (
        mixed(network_changes, fault("compile place", lambda: CompileError("expected A, found B", hint="C"))),
        {},
        ("engine", "compile-failed", "place", "expected A, found B"),
    ),
    "compiler breaks": (
        mixed(network_changes, fault("compile place", lambda: ZeroDivisionError("oops"))),
        {},
        ("engine", "unexpected", "place", "ZeroDivisionError: oops"),
    ),
    "engine is no engine": (
        mixed(network_changes, no_network),
        {},
        ("check", "check-failed", "place", "does not run"),
    ),
    "engine of another network": (
        mixed(network_changes, foreign_network),
        {},
        ("check", "check-failed", "place", "a cosine of"),
    ),
    "damaged tile": (bad_tile, {}, ("cells", "bad-tile", "6/8/12", "tile 6/8/12: expected a whole png")),
    "changed tile": (changed_tile, {}, ("cells", "source-changed", "6/8/12", "found bb")),
    "changed tile while bad ones are skipped": (
        changed_tile,
        {"tiles": {"on_bad": "skip"}},
        ("cells", "source-changed", "6/8/12", "found bb"),
    ),
    "embedder raises": (
        mixed(
            more_work,
            fault("window 0", lambda: EmbedError("expected A, found B", hint="", kind=ErrorKind.WORKER_DIED)),
        ),
        {},
        ("cells", "worker-died", "", "expected A"),
    ),
    "embedder runs out of memory": (
        mixed(more_work, fault("window 0", MemoryError)),
        {},
        ("cells", "resources", "", "MemoryError"),
    ),
    "embedder gets no thread": (
        mixed(more_work, fault("window 0", lambda: RuntimeError("can't start new thread"))),
        {},
        ("cells", "resources", "", "can't start new thread"),
    ),
    "embedder gets no process": (
        mixed(more_work, fault("window 0", lambda: BlockingIOError(errno.EAGAIN, "no process"))),
        {},
        ("cells", "resources", "", "no process"),
    ),
    "not a number": (spoil(half_finite), {}, ("cells", "bad-vectors", "6/8/12", "found nan")),
    "not of length 1": (
        spoil(lambda vectors: vectors * 2),
        {},
        ("cells", "bad-vectors", "6/8/12", "found 2"),
    ),
    "nothing but zeros": (
        spoil(lambda vectors: vectors * 0),
        {},
        ("cells", "bad-vectors", "6/8/12", "found 0"),
    ),
    "index builder raises": (
        mixed(
            more_work,
            fault("index", lambda: EmbedError("expected A, found B", hint="", kind=ErrorKind.INDEX_FAILED)),
        ),
        {},
        ("index", "index-failed", "", "expected A"),
    ),
    "index finds nothing": (
        mixed(more_work, lambda site: setattr(site.indexer, "wrong", True)),
        {},
        ("check", "check-failed", "index", "find themselves"),
    ),
    "engine disappears": (
        mixed(more_work, lost_engine),
        {},
        ("coverage", "coverage", "artifacts", "engine place"),
    ),
    "block is cut before the index": (
        mixed(more_work, block_cut_before_the_index),
        {},
        ("index", "artifact-damaged", "", "bytes, found"),
    ),
    "block is cut before the walk": (
        block_cut_before_the_walk,
        {},
        ("coverage", "coverage", "artifacts", "block 6/"),
    ),
    "a stranger appears": (
        mixed(more_work, stranger),
        {},
        ("coverage", "coverage", "artifacts", "notes.txt"),
    ),
    "too little of the area": (
        nothing,
        {"coverage": CoverageOptions(min_fraction=0.5)},
        ("coverage", "coverage-too-low", "area", "at least 0.500"),
    ),
    "file system raises": (
        mixed(more_work, fault("index", lambda: PermissionError(13, "Permission denied"))),
        {},
        ("index", "permission", "", "Permission denied"),
    ),
}


KEPT = (
    *("compiler raises", "engine of another network", "damaged tile", "embedder gets no process"),
    *("not a number", "index finds nothing", "too little of the area", "file system raises"),
)
"""One or two of each step; the deep tests try all."""


@pytest.mark.parametrize(
    "name",
    mostly_deep(FAILURES, *KEPT, "engine disappears", "block is cut before the index", "a stranger appears"),
)
def test_failure_is_recorded_and_harms_nothing(site, name):
    plant, options, (step, kind, subject, words) = FAILURES[name]
    site.build()
    plant(site)
    head = site.head_bytes()
    report = site.build(flight_id="f2", **options)
    assert report.outcome is BuildOutcome.FAILED
    assert (report.build, report.generation, report.manifest_sha256) == (2, None, None)
    assert (report.error.step, report.error.kind, report.error.subject) == (step, kind, subject)
    assert words in report.error.message
    assert site.head_bytes() == head
    assert len(site.layout.manifest_files()) == 1
    (failed,) = site.events(BuildFailed)
    assert (failed.step, failed.kind, failed.subject) == (step, kind, subject)
    assert words in failed.message
    assert "Traceback" in failed.traceback
    assert failed.inputs["step"] == report.error.step or failed.inputs["step"] == "check"
    assert site.state().builds[2].status is BuildStatus.FAILED
    if name not in HARMED_FROM_OUTSIDE:
        with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
            cache.verify()
            assert cache.manifest.envelope.generation == 1


HARMED_FROM_OUTSIDE = {
    "engine disappears",
    "block is cut before the index",
    "block is cut before the walk",
}
"""Faults that damage an artifact of the head."""


@pytest.mark.parametrize("name", mostly_deep(sorted(FAILURES.keys() - HARMED_FROM_OUTSIDE), *KEPT[::2]))
def test_after_a_failure_the_next_build_needs_no_operator(site, name):
    plant, options, _ = FAILURES[name]
    plant(site)
    assert site.build(**options).outcome is BuildOutcome.FAILED
    (site.layout.artifacts / "00" / "notes.txt").unlink(missing_ok=True)
    site.calls.faults.clear()
    site.compiler.instead.clear()
    site.batcher.bad.clear()
    site.batcher.spoil = None
    site.indexer.wrong = False
    report = site.build()
    assert (report.outcome, report.build, report.generation) == (BuildOutcome.BUILT, 2, 1)
    assert len(site.batcher.embedded) >= 40


def test_what_a_failed_build_finished_is_not_done_again(site):
    site.calls.faults["index"] = raising(RuntimeError("out of luck"))
    failed = site.build()
    assert (failed.outcome, failed.tiles_embedded, failed.engines_compiled) == (BuildOutcome.FAILED, 40, 1)
    site.calls.faults.clear()
    site.calls.made.clear()
    report = site.build()
    assert (report.outcome, report.tiles_embedded, report.engines_compiled) == (BuildOutcome.BUILT, 0, 0)
    assert site.calls.made == ["index"]


def test_a_refused_engine_and_index_are_made_again(site):
    foreign_network(site)
    assert site.build().error.kind == "check-failed"
    site.compiler.instead.clear()
    site.indexer.wrong = True
    assert site.build().error.subject == "index"
    site.indexer.wrong = False
    assert site.build().outcome is BuildOutcome.BUILT
    assert site.calls.made == [
        *("compile place",),
        *("compile place", "embed", "window 0", "index"),
        *("index",),
    ]
    assert [event.check for event in site.events(CheckFailed)] == ["engine", "index"]


def test_skipped_tiles_are_reported_and_have_no_row(site):
    bad_tile(site)
    report = site.build(tiles={"on_bad": "skip"})
    assert (report.outcome, report.tiles, report.tiles_embedded) == (BuildOutcome.BUILT, 40, 39)
    build = site.state().head_build
    assert (build.coverage.skipped, build.index.rows, build.tiles.count) == (1, 39, 40)
    document = decode(site.artifact(build.coverage.geography).read_bytes())
    assert document["skipped"] == [[ZOOM, 12, 8, 8]]
    assert site.progress.said == ["skipped tile 6/8/12: expected a whole png image, found the half of one"]
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()
        assert cache.descriptor_index().ntotal == 39
    assert site.build(tiles={"on_bad": "skip"}).outcome is BuildOutcome.REUSED


def test_a_skipped_tile_fails_a_later_build_that_skips_none(site):
    bad_tile(site)
    assert site.build(tiles={"on_bad": "skip"}).outcome is BuildOutcome.BUILT
    report = site.build()
    assert (report.outcome, report.tiles_embedded) == (BuildOutcome.FAILED, 0)
    assert (report.error.kind, report.error.subject) == ("bad-tile", "6/8/12")


def test_a_skipped_tile_that_can_be_read_later_gets_its_row(site):
    bad_tile(site)
    assert site.build(tiles={"on_bad": "skip"}).outcome is BuildOutcome.BUILT
    site.batcher.bad.clear()
    report = site.build()
    assert (report.outcome, report.tiles_embedded) == (BuildOutcome.BUILT, 1)
    assert site.state().head_build.index.rows == 40


@pytest.mark.parametrize("call", ["compile place", "window 0", "index"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)], ids=["ctrl-c", "exit"])
def test_interrupts_are_recorded_and_passed_on(site, call, error):
    site.calls.faults[call] = raising(error)
    with pytest.raises(type(error)) as caught:
        site.build()
    assert caught.value is error
    (failed,) = site.events(BuildFailed)
    assert failed.kind == "interrupted"
    assert failed.step == {"compile place": "engine", "window 0": "cells", "index": "index"}[call]
    assert site.state().head is None
    assert site.state().open_build is None
    site.calls.faults.clear()
    assert site.build().outcome is BuildOutcome.BUILT


def test_failed_step_is_named_even_when_events_were_put_off(site):
    # Events of finished cells are deferred; an error must keep the order of the written ones.
    site.calls.faults["index"] = raising(RuntimeError("late"))
    site.build()
    assert site.state().builds[1].cells_embedded == 16
    assert site.state().builds[1].failure.step == "index"


def test_foreign_files_are_recorded_but_no_obstacle_unless_strict(site):
    site.build()
    (site.layout.artifacts / "00" / "notes.txt").write_text("hello")
    report = site.provisioner(coverage_strict=False).build_cache_artifacts(site.request(flight_id="f2"))
    assert report.outcome is BuildOutcome.BUILT
    assert "notes.txt" in site.events(CoverageWalked)[-1].problems[0]


@pytest.mark.parametrize(
    "names",
    [[b"caf\xe9.jpg"], [b"%06d" % number + b"x" * 190 for number in range(6_000)]],
    ids=["no UTF-8", "more than a record holds"],
)
def test_a_build_records_whatever_foreign_files_there_are(site, names):
    site.build()
    folder = os.fsencode(site.layout.artifacts / "00")
    for name in names:
        Path(os.fsdecode(folder + b"/" + name)).touch()
    report = site.provisioner(coverage_strict=False).build_cache_artifacts(site.request(flight_id="f2"))
    assert report.outcome is BuildOutcome.BUILT
    assert problem_lines.count(site.events(CoverageWalked)[-1].problems) == len(names)
    (told,) = (each.message for each in report.warnings if each.kind == "foreign-files")
    assert told.startswith(f"{len(names)} file")
    site.build(flight_id="f3")
    assert site.state().builds[3].failure.kind == "coverage"
    assert problem_lines.count(site.state().builds[3].failure.inputs["problems"]) == len(names)


def test_an_engine_that_was_never_checked_is_checked_by_the_next_build(site, monkeypatch):
    # The build stops between the engine's event and that of its check.
    monkeypatch.setattr("pipeline.stages.engines.compile.check_engine", lambda *_, **__: dying_politely())
    with pytest.raises(KeyboardInterrupt):
        site.build()
    monkeypatch.undo()
    assert (len(site.events(EngineCompiled)), site.events(CheckPassed)) == (1, [])
    report = site.build()
    assert (report.outcome, report.engines_compiled) == (BuildOutcome.BUILT, 0)
    assert [event.check for event in site.events(CheckPassed)] == ["engine", "index"]


def test_the_check_of_an_earlier_engine_does_not_count_for_the_one_that_replaces_it(site, monkeypatch):
    site.build()
    site.artifact(site.state().head_build.engines[0][1].artifact).unlink()
    site.compiler.edition = "second"
    monkeypatch.setattr("pipeline.stages.engines.compile.check_engine", lambda *_, **__: dying_politely())
    with pytest.raises(KeyboardInterrupt):
        site.build()
    monkeypatch.undo()
    assert len(site.events(EngineCompiled)) == 2
    site.build()
    assert [event.check for event in site.events(CheckPassed)].count("engine") == 2


def test_an_index_that_replaces_a_damaged_one_is_checked(site):
    site.build()
    site.artifact(site.state().head_build.index.artifact).unlink()
    site.indexer.wrong = True
    assert site.build().error.subject == "index"
    site.indexer.wrong = False
    assert site.build().outcome is BuildOutcome.BUILT


def dying_politely():
    raise KeyboardInterrupt


def test_an_engine_that_passed_for_less_is_checked_again_when_more_is_asked_for(site, monkeypatch):
    monkeypatch.setattr(check_engine, "parity", lambda *_: 0.9)
    for least, outcome, compiled in (
        (0.8, BuildOutcome.BUILT, 1),
        (0.85, BuildOutcome.BUILT, 0),
        (0.95, BuildOutcome.FAILED, 0),
        (0.8, BuildOutcome.BUILT, 1),
    ):
        report = site.build(checks=CheckOptions(parity=least, recall=0.25), force=True)
        assert (report.outcome, report.engines_compiled) == (outcome, compiled), least
    assert "below 0.95" in site.events(BuildFailed)[-1].message


def test_an_index_that_passed_for_less_is_checked_again_when_more_is_asked_for(site, monkeypatch):
    monkeypatch.setattr(checks, "recall", lambda *_: 0.5)
    wanted = (0.25, BuildOutcome.BUILT), (0.4, BuildOutcome.BUILT), (0.9, BuildOutcome.FAILED)
    for least, outcome in wanted:
        assert site.build(checks=CheckOptions(recall=least), force=True).outcome is outcome, least
    assert "below 0.9" in site.events(BuildFailed)[-1].message
    assert [event.check for event in site.events(CheckPassed)] == ["engine", "index"]


def test_recall_and_parity_thresholds_are_measured_in_the_journal(site):
    site.build(checks=CheckOptions(parity=0.5, recall=0.25))
    engine, index = site.events(CheckPassed)
    assert engine.measured["least_cosine_ppb"] == 500_000_000
    assert engine.measured["cosine_ppb"] > 999_999_000
    assert index.measured == {"rows": 40, "sample": 40, "recall_ppm": 1_000_000, "least_recall_ppm": 250_000}


@pytest.mark.parametrize("backend", ["onnxruntime", "auto"])
@pytest.mark.usefixtures("real_workers")
def test_workers_start_beside_the_compile_and_end_if_the_check_fails(tmp_path, backend):
    site = FakeSite(tmp_path)
    site.write_tiles(spread(2, 1))
    foreign_network(site)
    before, started = child_pids(), []
    site.calls.faults["compile place"] = lambda: started.extend(child_pids() - before)
    ports = {"engine_compiler": site.compiler, "workers": 2}
    request = site.request(engine=EngineOptions(backend=backend))
    report = Site.provisioner(site, **ports).build_cache_artifacts(request)
    assert (report.outcome, report.error.kind) == (BuildOutcome.FAILED, "check-failed")
    assert (len(started), child_pids() - before) == (2, set())
    assert site.events(CellEmbedded) == []
    assert [event.kind for event in site.events(StepStarted)] == ["engine"]
