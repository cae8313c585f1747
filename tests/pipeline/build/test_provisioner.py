"""Which steps a build repeats and which it reuses, counted with fakes."""

import dataclasses
from datetime import date, timedelta
from hashlib import sha256

import pytest

from pipeline.build.report import BuildOutcome
from pipeline.errors import CheckError
from pipeline.request.options import (
    CoverageOptions,
    EngineOptions,
    ModelRole,
    ModelSpec,
    SectorClassification,
)
from pipeline.tiles.grid import tile_box_e7
from pipeline.tiles.tile import Place
from store.base.canonical_json import decode
from store.cache.event_store import EventStore
from store.domain.events import (
    BuildPlanned,
    BuildStarted,
    CellEmbedded,
    CheckPassed,
    StepReused,
    TilesSelected,
)
from store.formats.tables import decode_tiles
from store.manifest.manifest import parse
from tests.small_builds import WEST, WORLD, ZOOM, FakeSite, spread, tiny_network, tree, words


def aux(onnx):
    return ModelSpec(name="helper", role=ModelRole.AUXILIARY, onnx=onnx)


def geography(site):
    ref = site.state().head_build.coverage.geography
    return decode(site.artifact(ref).read_bytes())


def test_a_first_build_does_everything_once(site):
    report = site.build()
    assert (report.outcome, report.build, report.generation) == (BuildOutcome.BUILT, 1, 1)
    assert (report.tiles, report.tiles_embedded, report.engines_compiled) == (40, 40, 1)
    assert (report.steps_reused, report.error) == (0, None)
    assert site.calls.made == ["compile place", "embed", "window 0", "index"]
    assert parse(site.head_bytes()).envelope.generation == 1
    assert [step for step, *_ in site.progress.steps] == [
        "compile place",
        "check place",
        "embed",
        "index",
        "check index",
        "check area",
        "verify",
    ]
    for step, total, done, record_denied in site.progress.steps:
        assert record_denied is not None, step
        assert total in {None, done}, step


def test_writes_are_the_files_and_the_transactions_that_there_are(site, monkeypatch):
    """The new journal and the disk reserve count; folders and lock files do not."""
    transactions, append_on = [], EventStore.append_on
    monkeypatch.setattr(
        EventStore,
        "append_on",
        lambda *given, **options: (append_on(*given, **options), transactions.append(1)),
    )
    genesis = 1

    def files():
        found = [path for path in site.cache.rglob("*") if path.is_file()]
        return {path for path in found if path.name not in {"build.lock", ".lock", "journal.mdb-lock"}}

    first = site.provisioner(reserve_mb=1).build_cache_artifacts(site.request())
    assert site.layout.scratch / "reserve" in files()
    assert first.writes == len(files()) + len(transactions) + genesis
    before, genesis = files(), 0
    transactions.clear()
    site.artifact(site.state().head_build.index.artifact).unlink()
    site.artifact(site.state().head_build.index.artifact).write_bytes(b"damaged")
    second = site.provisioner(reserve_mb=1).build_cache_artifacts(site.request(flight_id="f2"))
    assert second.outcome is BuildOutcome.BUILT
    replaced = site.artifact(site.state().head_build.index.artifact) in before
    assert second.writes == len(files() - before) + replaced + len(transactions)


def test_capture_dates_enter_the_tile_table_and_not_the_identity(site):
    """The identity contains the set of selected tiles: docs/decisions/0002."""

    def build(day, **fields):
        options = {"captured": day, "as_of": date(2026, 3, 1), **fields.pop("tiles", {})}
        return site.build(tiles=options, **fields)

    def days():
        table = decode_tiles(site.artifact(parse(site.head_bytes()).tiles).read_bytes())
        return {date(1970, 1, 1) + timedelta(days=int(day)) for day in table.captured}

    old, new = date(2020, 1, 1), date(2026, 2, 1)
    first = build(old)
    assert days() == {old}
    assert "imagery-old" in {each.kind for each in first.warnings}
    second = build(new)
    assert (second.outcome, second.identity, second.writes) == (BuildOutcome.REUSED, first.identity, 0)
    assert days() == {old}, "the table says what the build knew that made it"
    (other,) = (each for each in second.warnings if each.kind == "capture-dates")
    assert (
        f"40 of 40 tiles have another capture date in this request ({new}) than in the cache ({old})"
        in other.message
    )
    assert other.hint == "c10 build --again records those of the request"
    assert "imagery-old" not in {each.kind for each in second.warnings}, "the request says how old they are"
    too_old = build(date(2019, 1, 1), tiles={"too_old": "fail"})
    assert (too_old.outcome, too_old.error.kind) == (BuildOutcome.FAILED, "tiles-too-old")
    third = build(new, force=True)
    assert (third.identity, third.tiles_embedded, days()) == (first.identity, 0, {new})
    assert not {"imagery-old", "capture-dates"} & {each.kind for each in third.warnings}
    assert "capture-dates" not in {each.kind for each in build(new).warnings}
    assert build(new, flight_id="f2").tiles_embedded == 0
    assert days() == {new}
    refused = build(old, flight_id="f2", tiles={"too_old": "exclude"})
    assert refused.outcome is BuildOutcome.FAILED, "dates that change the selection change what is built"


def test_an_up_to_date_run_calls_no_port_and_writes_nothing(site):
    first = site.build()
    site.calls.made.clear()
    before = tree(site.cache)
    warm = site.build()
    assert (warm.outcome, warm.build, warm.generation) == (BuildOutcome.REUSED, 1, 1)
    assert (warm.writes, warm.tiles_embedded, warm.engines_compiled) == (0, 0, 0)
    assert (warm.identity, warm.manifest_sha256, warm.body_sha256) == (
        first.identity,
        first.manifest_sha256,
        first.body_sha256,
    )
    # engine, 16 blocks, index, block table, tile table, calibration, geographic report, manifest
    assert warm.files_checked == 23
    assert warm.steps_reused == 18
    assert site.calls.made == []
    assert tree(site.cache) == before


def test_one_changed_tile_is_one_embedding(site):
    site.build()
    site.tiles[ZOOM, 8, 12] = b"another picture"
    report = site.build()
    assert (report.outcome, report.tiles_embedded, report.engines_compiled) == (BuildOutcome.BUILT, 1, 0)
    assert report.generation == 2
    cells = site.events(CellEmbedded)[16:]
    assert [(event.rows, event.embedded, event.copied) for event in cells] == [(4, 1, 3)]
    reused = [(event.kind, event.count) for event in site.events(StepReused)]
    assert reused == [("engine", 1), ("cells", 15)]


def test_a_wider_box_embeds_exactly_the_new_contents(site):
    narrow = site.build(bbox=WEST)
    assert narrow.tiles_embedded == 20
    wide = site.build(bbox=WORLD)
    assert wide.tiles_embedded == 20
    assert len(site.batcher.embedded) == len(set(site.batcher.embedded)) == 40


def test_equal_tiles_are_embedded_once_wherever_they_lie(quick_path):
    site = FakeSite(quick_path, dict.fromkeys(spread(content=words), b"water") | {(ZOOM, 1, 1): b"land"})
    report = site.build()
    assert (report.tiles, report.tiles_embedded) == (41, 2)
    assert sum(event.embedded for event in site.events(CellEmbedded)) == 2
    assert sum(event.rows for event in site.events(CellEmbedded)) == 41


def test_another_flight_is_another_identity_and_no_work(site):
    first, second = site.build(), site.build(flight_id="f2")
    assert (second.outcome, second.generation) == (BuildOutcome.BUILT, 2)
    assert (second.tiles_embedded, second.engines_compiled) == (0, 0)
    assert first.identity != second.identity
    assert first.body_sha256 != second.body_sha256
    assert site.calls.made == ["compile place", "embed", "window 0", "index"]


def test_a_moved_tile_is_copied(site):
    site.build()
    content = site.tiles.pop((ZOOM, 0, 0))
    site.tiles[ZOOM, 63, 63] = content
    site.calls.made.clear()
    report = site.build()
    assert (report.outcome, report.tiles_embedded) == (BuildOutcome.BUILT, 0)
    assert [name for name in site.calls.made if name.startswith("window")] == []
    moved = site.events(CellEmbedded)[-1]
    assert (moved.cell_x, moved.cell_y, moved.embedded, moved.copied) == (3, 3, 0, moved.rows)


def test_tiles_that_swap_places_are_copied(site):
    site.build()
    one, other = (ZOOM, 0, 0), (ZOOM, 56, 48)
    site.tiles[one], site.tiles[other] = site.tiles[other], site.tiles[one]
    assert site.build().tiles_embedded == 0


def test_another_option_of_a_model_compiles_that_model_only(site):
    site.write("helper.onnx", tiny_network(seed=5))
    place = site.request().models[0]
    site.build(models=(place, aux("helper.onnx")))
    assert site.calls.made[:2] == ["compile helper", "compile place"]
    site.calls.made.clear()
    site.write("helper.onnx", tiny_network(seed=6))
    changed = site.build(models=(place, aux("helper.onnx")))
    assert (changed.engines_compiled, changed.tiles_embedded) == (1, 0)
    assert site.calls.made == ["compile helper"]
    site.calls.made.clear()
    added = site.build(models=(place, aux("helper.onnx"), dataclasses.replace(aux("net.onnx"), name="third")))
    assert (added.engines_compiled, site.calls.made) == (1, ["compile third"])
    removed = site.build(models=(place,))
    assert (removed.engines_compiled, removed.tiles_embedded) == (0, 0)


def test_another_network_compiles_and_embeds_everything(site):
    site.build()
    site.write("net.onnx", tiny_network(seed=1))
    report = site.build()
    assert (report.engines_compiled, report.tiles_embedded) == (1, 40)
    site.write("net.onnx", tiny_network(seed=0))
    back = site.build(flight_id="back")
    assert (back.engines_compiled, back.tiles_embedded) == (0, 0)


def test_another_image_contract_embeds_and_does_not_compile(site):
    site.build()
    report = site.build(model={"mean": (1.0, 2.0, 3.0)})
    assert (report.engines_compiled, report.tiles_embedded) == (0, 40)
    planned = site.events(BuildPlanned)[-1].steps
    assert {step["why"] for step in planned if step["kind"] == "cells"} == {"new vector space"}


def test_the_journal_says_why_a_step_ran_again(site):
    site.build()
    site.write("net.onnx", tiny_network(seed=1))
    site.build()
    (engine,) = (step for step in site.events(BuildPlanned)[-1].steps if step["kind"] == "engine")
    assert (engine["decision"], engine["why"]) == ("run", "changed: onnx")


def test_checks_are_not_repeated_for_what_passed(site):
    site.build()
    passed = [event.check for event in site.events(CheckPassed)]
    assert passed == ["engine", "index"]
    site.build(flight_id="f2")
    assert [event.check for event in site.events(CheckPassed)] == passed


def test_inputs_are_recorded_as_they_enter_the_identity(site):
    report = site.build(sector=SectorClassification.ACTIVE_CONFLICT)
    (started,) = site.events(BuildStarted)
    assert started.identity == report.identity
    assert started.inputs["sector"] == "active_conflict"
    assert site.artifact(started.calibration).read_bytes() == b'{"focal": 35}'
    (selected,) = site.events(TilesSelected)
    assert (selected.count, selected.wanted, selected.excluded) == (40, 64 * 64, 0)


def test_geography_lists_holes_and_featureless_tiles(site):
    content = site.tiles[ZOOM, 8, 12]
    site.batcher.featureless.add(sha256(content).hexdigest())
    site.build()
    report = geography(site)
    assert (report["wanted"], report["present"]) == (4096, 40)
    assert report["featureless"] == [[ZOOM, 12, 8, 8]]
    assert report["skipped"] == report["excluded"] == []
    assert sum(last - first + 1 for _, _, first, last in report["holes"]) == 4096 - 40
    assert [ZOOM, 0, 1, 7] in report["holes"]


def test_least_coverage_is_held_at_its_very_edge(site):
    share = 40 / 4096
    refused = site.build(coverage=CoverageOptions(min_fraction=share + 1e-6))
    assert (refused.outcome, refused.error.kind) == (BuildOutcome.FAILED, "coverage-too-low")
    assert site.build(coverage=CoverageOptions(min_fraction=share)).outcome is BuildOutcome.BUILT


def test_nine_tenths_of_the_area_are_wanted_unless_the_request_says_otherwise(site):
    failed = site.build(coverage=CoverageOptions())
    assert (failed.outcome, failed.error.kind, site.calls.made) == (
        BuildOutcome.FAILED,
        "coverage-too-low",
        [],
    )
    with pytest.raises(CheckError, match=r"at least 0\.900"):
        site.provisioner().plan(site.request(coverage=CoverageOptions()))
    west, south, east, north = (edge / 1e7 for edge in tile_box_e7(Place(ZOOM, 8, 12)))
    box = (west + 0.01, south + 0.01, east - 0.01, north - 0.01)
    # What was built before it was so is another build, whose every result is reused.
    before = site.build(bbox=box, coverage=CoverageOptions(min_fraction=0.0))
    after = site.build(bbox=box, coverage=CoverageOptions())
    assert after.identity != before.identity
    assert (after.outcome, after.engines_compiled, after.tiles_embedded) == (BuildOutcome.BUILT, 0, 0)


def test_a_box_across_the_antimeridian(site):
    site.tiles |= {(ZOOM, 63, 12): b"east end", (ZOOM, 0, 13): b"west end", (ZOOM, 2, 13): b"outside"}
    report = site.build(bbox=(174.375, -85.0, -174.375, 85.0))
    selected = {place for place in site.tiles if place[1] in {63, 0}}
    assert report.outcome is BuildOutcome.BUILT
    assert report.tiles == len(selected) == 5 + 2
    assert geography(site)["wanted"] == 2 * 64


def test_a_box_of_one_tile(site):
    west, south, east, north = (edge / 1e7 for edge in tile_box_e7(Place(ZOOM, 8, 12)))
    box = (west + 0.01, south + 0.01, east - 0.01, north - 0.01)
    report = site.build(bbox=box)
    assert (report.outcome, report.tiles, report.tiles_embedded) == (BuildOutcome.BUILT, 1, 1)


def test_warnings_reach_the_report_and_the_journal(site):
    report = site.build(origin=(0.0, 86.0, 0.0))
    kinds = {"origin-outside", "imagery-undated", "tile-descriptors", "no-proof"}
    assert {each.kind for each in report.warnings} == kinds | {"holes"}
    recorded = site.events(TilesSelected)[0].warnings
    assert recorded == tuple(str(each) for each in report.warnings if each.kind in kinds)
    again = site.build(origin=(0.0, 86.0, 0.0))
    assert (again.outcome, again.warnings) == (BuildOutcome.REUSED, report.warnings)


def test_precision_of_the_composition_root_replaces_the_requests(site):
    provisioner = site.provisioner(precision="fp16")
    report = provisioner.build_cache_artifacts(site.request())
    assert report.outcome is BuildOutcome.FAILED
    assert "fp16" in report.error.message


def test_naming_the_default_target_changes_nothing(site):
    assert site.build().identity == site.build(engine=EngineOptions(target="cpu")).identity


def test_manifest_names_follow_the_template(site):
    provisioner = site.provisioner(manifest_filename="flight-{generation:08d}.json")
    assert provisioner.build_cache_artifacts(site.request()).outcome is BuildOutcome.BUILT
    assert [path.name for path in site.layout.manifests.iterdir()] == ["flight-00000001.json"]
    assert provisioner.build_cache_artifacts(site.request()).outcome is BuildOutcome.REUSED
    # Another template later does not hide the files that exist.
    assert site.build().outcome is BuildOutcome.REUSED
    assert site.build(flight_id="f2").outcome is BuildOutcome.BUILT
    assert len(site.layout.manifest_files()) == 2


@pytest.mark.parametrize("wrong_ns", [-(10**18), 3 * 10**20])
def test_a_clock_that_is_wrong_by_decades_stops_no_build(site, wrong_ns):
    site.clock.now_ns = wrong_ns
    assert site.build().outcome is BuildOutcome.BUILT
