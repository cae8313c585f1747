"""Artifacts and caches that are damaged between builds."""

import shutil
from itertools import cycle

import pytest

from pipeline.build.report import BuildOutcome
from store.domain.events import CellEmbedded, EngineCompiled, IndexBuilt, TilesSelected
from store.domain.maintenance_events import Repaired
from store.errors import DamagedHistoryError, RequestRefusedError
from store.reader import ALLOW_UNSIGNED, FlightCache
from tests.damaging import flip
from tests.examples_tried import mostly_deep
from tests.small_builds import ROLES, WORK, FakeSite, ref_of, tree


@pytest.mark.parametrize("role", mostly_deep(ROLES, "engine", "block", "block table", "geography"))
def test_a_flipped_byte_is_repaired_by_the_step_that_made_it(site, role):
    first = site.build()
    ref = ref_of(site, role)
    evidence = flip(site.artifact(ref))
    site.calls.made.clear()
    # Quick verification checks names and sizes only, except for a block table, which it reads.
    warm = site.build()
    assert (warm.outcome is BuildOutcome.REUSED) is (role != "block table")
    report = site.build(flight_id="f2")
    assert report.outcome is BuildOutcome.BUILT
    assert site.calls.made == WORK.get(role, [])
    assert report.engines_compiled == (1 if role == "engine" else 0)
    if role == "block":
        assert report.tiles_embedded == site.events(CellEmbedded)[-1].embedded > 0
    else:
        assert report.tiles_embedded == 0
    if role in {"engine", "index", "block"}:
        # The records tell it, whether the step makes the same bytes again or others.
        (told,) = [each for each in report.warnings if each.kind == "damaged-artifacts"]
        assert ref.sha256[:12] in told.message
        assert str(told) in site.events(TilesSelected)[-1].warnings
    (repaired,) = site.events(Repaired)
    assert repaired.sha256 == ref.sha256
    kept = site.cache / repaired.quarantine
    assert kept.parent == site.layout.quarantine
    assert kept.read_bytes() == evidence
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()
    assert first.body_sha256 != report.body_sha256


@pytest.mark.parametrize(
    ("role", "harm"),
    [
        *zip(ROLES, cycle(("deleted", "truncated", "link")), strict=False),
        *(
            pytest.param(role, harm, marks=pytest.mark.deep)
            for at, role in enumerate(ROLES)
            for other, harm in enumerate(("deleted", "truncated", "link"))
            if at % 3 != other
        ),
    ],
)
def test_a_run_finds_what_is_missing_or_short_and_makes_it_again(site, role, harm):
    first = site.build()
    path = site.artifact(ref_of(site, role))
    whole = path.read_bytes()
    path.chmod(0o644)
    match harm:
        case "deleted":
            path.unlink()
        case "truncated":
            path.write_bytes(whole[:-1])
        case "link":
            elsewhere = site.root / "elsewhere"
            elsewhere.write_bytes(whole)
            path.unlink()
            path.symlink_to(elsewhere)
    site.calls.made.clear()
    report = site.build()
    assert (report.outcome, report.generation) == (BuildOutcome.BUILT, 2)
    assert report.body_sha256 == first.body_sha256
    assert report.identity == first.identity
    assert site.calls.made == WORK.get(role, [])
    assert len(site.events(Repaired)) == (0 if harm == "deleted" else 1)
    assert site.build().outcome is BuildOutcome.REUSED
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()


def test_a_folder_in_an_artifacts_place_is_set_aside(site):
    site.build()
    path = site.artifact(ref_of(site, "index"))
    before = path.read_bytes()
    path.unlink()
    path.mkdir()
    (path / "within").write_text("x")
    assert site.build().outcome is BuildOutcome.BUILT
    assert path.read_bytes() == before
    assert (site.layout.quarantine / f"{path.name}.0" / "within").read_text() == "x"


def test_a_recompiled_engine_of_other_bytes_keeps_the_blocks_if_it_gives_the_same_vectors(site):
    # The fake's vectors are not the engine's: with real ones the blocks stay, see test_build_real.
    site.build()
    site.artifact(ref_of(site, "engine")).unlink()
    site.compiler.edition = "second"
    report = site.build()
    assert (report.outcome, report.engines_compiled, report.tiles_embedded) == (BuildOutcome.FAILED, 1, 0)
    assert report.error.step == "check"
    assert len(site.events(EngineCompiled)) == 2


def test_a_missing_projection_is_repaired_and_counted(site):
    site.build()
    manifest = site.layout.manifests / "00000001.json"
    segment = site.layout.segments / "00000001.events"
    kept = manifest.read_bytes(), segment.read_bytes()
    manifest.unlink()
    segment.unlink()
    site.calls.made.clear()
    report = site.build()
    assert (report.outcome, report.writes) == (BuildOutcome.REUSED, 2)
    assert (manifest.read_bytes(), segment.read_bytes()) == kept
    assert site.calls.made == []
    assert site.build().writes == 0


def test_garbage_in_the_scratch_folder_is_no_reason_to_write(site):
    site.build()
    (site.layout.scratch / "draft-1-x").write_text("left by somebody who died")
    report = site.build()
    assert (report.outcome, report.writes) == (BuildOutcome.REUSED, 0)
    site.build(flight_id="f2")
    assert list(site.layout.scratch.iterdir()) in ([], [site.layout.scratch / "reserve"])


def test_another_caches_journal_is_refused_and_nothing_is_written(quick_path):
    site, other = FakeSite(quick_path / "a"), FakeSite(quick_path / "b")
    for flight in ("f1", "f2"):
        site.build(flight_id=flight)
    other.build(flight_id="f1")
    shutil.copy(other.layout.journal, site.layout.journal)
    before = tree(site.cache)
    for call in (
        lambda: site.build(flight_id="f2"),
        lambda: site.build(flight_id="f9"),
        site.provisioner().rollback,
    ):
        with pytest.raises(DamagedHistoryError) as caught:
            call()
        assert "rebuild" in caught.value.hint or "verify" in caught.value.hint
    assert tree(site.cache) == before


def test_a_journal_that_lost_its_newest_records_is_refused(site):
    site.build()
    kept = site.layout.journal.read_bytes()
    site.build(flight_id="f2")
    site.layout.journal.write_bytes(kept)
    before = tree(site.cache)
    with pytest.raises(DamagedHistoryError, match="generation 2"):
        site.build()
    assert tree(site.cache) == before


def test_a_missing_journal_is_not_created_again(site):
    site.build()
    site.layout.journal.unlink()
    with pytest.raises(DamagedHistoryError):
        site.build()
    assert not site.layout.journal.exists()


@pytest.mark.parametrize(
    "folders", [(), ("artifacts",), ("artifacts", "manifests", "segments", "quarantine", "tmp")]
)
def test_folders_of_a_cache_without_a_journal_are_no_obstacle(site, folders):
    for name in folders:
        (site.cache / name).mkdir(parents=True)
    assert site.provisioner().plan(site.request()).decision == "build"
    with pytest.raises(RequestRefusedError, match="expected a cache"):
        site.provisioner().rollback()
    assert site.build().outcome is BuildOutcome.BUILT


def test_index_of_the_same_blocks_is_made_once(site):
    site.build()
    site.build(flight_id="f2")
    site.build(flight_id="f3")
    assert len(site.events(IndexBuilt)) == 1
