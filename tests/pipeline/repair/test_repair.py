"""Repair: the step of a damaged artifact runs again, or the report says why not."""

import contextlib
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.request.options import (
    CheckOptions,
    EngineOptions,
    IndexOptions,
    ModelRole,
    ModelSpec,
    ShapeProfile,
    TileOptions,
)
from pipeline.request.request import BuildRequest
from pipeline.request.to_toml import MAX_TEXT_BYTES, parse_recorded_request, request_record, to_toml
from pipeline.stages import index
from pipeline.testing import FakeCompiler
from store.disk.layout import FOLDERS
from store.domain.events import CellEmbedded, EngineCompiled, IndexBuilt
from store.domain.maintenance_events import Repaired
from store.errors import DamagedHistoryError, RequestRefusedError
from store.formats.tables import decode_blocks
from store.verify.report import Depth
from store.verify.verify import verify
from tests.damaging import flip, replace_by
from tests.played_builds import StopDeadError
from tests.small_builds import (
    DIMENSIONS,
    ROLES,
    WORK,
    FakeSite,
    picture,
    ref_of,
    spread,
    tiny_network,
    tree,
    words,
)

pytestmark = pytest.mark.deep

MEMORY_DISK = Path("/dev/shm")
NAMES = {
    "engine": "engine place",
    "index": "descriptor index",
    "block": "block 6/0/0",
    "geography": "geographic report",
}


def harm(path, how):
    """Damage a file; return the bytes that must be kept in quarantine, if any."""
    replace_by(path, how)
    return path.read_bytes() if how in {"flipped", "shorter"} else None


def is_go(site):
    return verify(site.layout, depth=Depth.FULL).problems == ()


def content(site):
    """Everything but the journal, locks, and quarantine."""
    return {
        name: found[4]
        for name, found in tree(site.cache).items()
        if not name.startswith(("quarantine/", "journal.mdb", "tmp/"))
    }


@pytest.fixture(scope="module")
def prepared():
    """A folder with two builds that share an engine and most blocks, and a copy of it."""
    parent = Path(tempfile.mkdtemp(prefix="c10-test-", dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None))
    site = FakeSite(parent / "site")
    assert site.build().error is None
    site.tiles[6, 0, 0] = words(-1)
    assert site.build(flight_id="f2").error is None
    shutil.copytree(site.root, parent / "saved")
    yield parent
    shutil.rmtree(parent)


@pytest.fixture
def two(prepared):
    """The site of two builds, as new."""
    shutil.rmtree(prepared / "site")
    shutil.copytree(prepared / "saved", prepared / "site")
    site = FakeSite(prepared / "site")
    site.tiles[6, 0, 0] = words(-1)
    return site


@pytest.mark.parametrize("how", ["flipped", "shorter", "missing", "full folder", "pipe", "dangling"])
@pytest.mark.parametrize("role", ROLES)
def test_an_artifact_is_repaired_by_its_own_step(two, role, how):
    before, ref = content(two), ref_of(two, role)
    evidence = harm(two.artifact(ref), how)
    assert not is_go(two)
    report = two.provisioner().repair()
    # Anything but a regular file is set aside first; then the artifact is missing.
    *aside, action = report.actions
    assert len(aside) == (how in {"full folder", "pipe", "dangling"})
    assert (action.what, action.ok, action.sha256) == (NAMES.get(role, role), True, ref.sha256)
    assert report.go
    assert is_go(two)
    assert content(two) == before
    assert two.calls.made == WORK.get(role, [])
    repaired = two.events(Repaired)[-1]
    assert (repaired.subject, repaired.sha256) == (NAMES.get(role, role), ref.sha256)
    assert (two.events(Repaired)[0].quarantine == "") is (how == "missing")
    if evidence is not None:
        assert (two.cache / repaired.quarantine).read_bytes() == evidence
    again = two.provisioner().repair()
    assert again.actions == ()
    assert two.build(flight_id="f2").writes == 0


@pytest.mark.parametrize("role", ["index", "block", "block table", "tile table"])
def test_an_earlier_generation_is_repaired_from_the_inputs_of_its_own_build(two, role):
    """Its tiles are the recorded ones; those of the head have changed."""
    ref, head = ref_of(two, role, generation=1), ref_of(two, role)
    assert ref != head
    two.tiles[6, 0, 0] = words(0)
    flip(two.artifact(ref))
    report = two.provisioner().repair()
    assert [action.ok for action in report.actions] == [True]
    assert is_go(two)


def test_everything_at_once(two):
    before = content(two)
    for path in [two.artifact(ref_of(two, role)) for role in ROLES]:
        flip(path)
    for folder in (two.layout.manifests, two.layout.segments):
        for path in folder.iterdir():
            flip(path)
    report = two.provisioner().repair()
    assert all(action.ok for action in report.actions)
    assert len(report.actions) == len(ROLES) + 4
    assert is_go(two)
    assert content(two) == before


def test_the_results_of_steps_that_ran_again_are_recorded_without_a_build(two):
    for role in ("engine", "index", "block"):
        flip(two.artifact(ref_of(two, role)))
    counts = {kind: len(two.events(kind)) for kind in (EngineCompiled, IndexBuilt, CellEmbedded)}
    memo = two.state().step_cache
    two.provisioner().repair()
    assert {kind: len(two.events(kind)) - counts[kind] for kind in counts} == dict.fromkeys(counts, 1)
    after = two.state().step_cache
    assert after.passed == memo.passed
    assert {key: event.artifact for key, event in after.engines.items()} == {
        key: event.artifact for key, event in memo.engines.items()
    }
    report = two.build(flight_id="f3")
    assert (report.engines_compiled, report.tiles_embedded) == (0, 0)


def test_a_result_that_another_took_the_place_of_does_not_become_the_latest(two):
    """The engine was compiled again with other bytes: the old ones are repaired and not reused."""
    old = ref_of(two, "engine")
    two.artifact(old).unlink()
    two.compiler.edition = "second"
    two.build(flight_id="f3", checks=CheckOptions(parity=0.1))
    latest = two.events(EngineCompiled)[-1]
    assert latest.artifact != old
    two.compiler.edition = ""
    report = two.provisioner().repair()
    assert [(action.what, action.ok) for action in report.actions] == [("engine place", True)]
    assert two.events(EngineCompiled)[-1] == latest
    assert is_go(two)


class TakesLibraries(FakeCompiler):
    """A compiler that accepts libraries with operators, as TensorRT does."""

    def key_components(self, job):
        options = {"plugins": [digest for _, digest in job.plugins]}
        return {**super().key_components(replace(job, plugins=())), "options": options}


class TestWhatCannotBeRepaired:
    def test_an_engine_of_other_bytes_is_reported_and_left(self, two):
        ref = ref_of(two, "engine")
        evidence = flip(two.artifact(ref))
        two.compiler.edition = "another"
        report = two.provisioner().repair()
        (action,) = report.actions
        assert not action.ok
        assert "expected SHA-256" in action.action
        assert "c10 build --again REQUEST" in action.action
        assert not report.go
        assert two.artifact(ref).read_bytes() == evidence
        assert two.events(Repaired) == []

    def test_a_network_that_changed_is_named_and_the_rest_is_repaired(self, two):
        two.write("net.onnx", tiny_network(seed=7))
        flip(two.artifact(ref_of(two, "engine")))
        flip(two.artifact(ref_of(two, "index")))
        report = two.provisioner().repair()
        found = {action.what: action for action in report.actions}
        assert "found onnx changed" in found["engine place"].action
        assert found["descriptor index"].ok
        assert two.calls.made == ["index"]

    def test_libraries_are_not_loaded_because_a_record_names_them(self, tmp_path):
        site = FakeSite(tmp_path / "site")
        site.compiler = TakesLibraries(calls=site.calls, dimensions=DIMENSIONS)
        site.write("ops.so", b"\x7fELF that nobody may load")
        assert site.build(engine=EngineOptions(plugins=("ops.so",))).error is None
        flip(site.artifact(ref_of(site, "engine")))
        del site.calls.made[:]
        (action,) = site.provisioner().repair().actions
        assert not action.ok
        assert "not loaded on a record's word; --trust-plugins loads them" in action.action
        assert site.calls.made == []
        site.write("ops.so", b"\x7fELF that came later")
        (action,) = site.provisioner().repair(trust_plugins=True).actions
        assert "found options.plugins changed" in action.action
        assert site.calls.made == []
        site.write("ops.so", b"\x7fELF that nobody may load")
        assert site.provisioner().repair(trust_plugins=True).go
        assert site.calls.made == ["compile place"]

    def test_tiles_that_changed_are_named_and_other_cells_are_repaired(self, two):
        table = decode_blocks(two.artifact(ref_of(two, "block table")).read_bytes())
        for row in table[:2]:
            flip(two.artifact(row.ref))
        flip(two.artifact(ref_of(two, "tile table")))
        two.tiles[6, 0, 0] = words(-2)
        report = two.provisioner().repair()
        found = {action.what: action for action in report.actions}
        assert not found["tile table"].ok
        assert "expected the set" in found["tile table"].action
        first, second = (f"block {row.zoom}/{row.cell_x}/{row.cell_y}" for row in table[:2])
        assert "expected those of cell 6/0/0 as recorded" in found[first].action
        assert found[second].ok

    @pytest.mark.parametrize(("name", "role"), [("camera.json", "calibration"), ("net.onnx", "engine")])
    def test_a_file_that_is_gone_is_named(self, two, name, role):
        flip(two.artifact(ref_of(two, role)))
        (two.root / name).unlink()
        (action,) = two.provisioner().repair().actions
        assert not action.ok
        assert name in action.action

    def test_a_calibration_that_changed_is_named(self, two):
        flip(two.artifact(ref_of(two, "calibration")))
        two.write("camera.json", b'{"focal": 36}')
        (action,) = two.provisioner().repair().actions
        assert "expected SHA-256" in action.action
        assert not action.ok

    def test_without_a_recorded_request_what_needs_none_is_repaired(self, site, monkeypatch):
        monkeypatch.setattr("pipeline.build.attempt.request_record", lambda *_: {})
        site.build()
        for role in ("engine", "index"):
            flip(site.artifact(ref_of(site, role)))
        found = {action.what: action for action in site.provisioner().repair().actions}
        assert found["descriptor index"].ok
        assert "to have recorded its request, found none" in found["engine place"].action


class TestBesideTheJournal:
    @pytest.mark.parametrize("how", ["flipped", "shorter", "missing", "full folder", "pipe", "dangling"])
    @pytest.mark.parametrize(
        "name", [f"{kind}/0000000{number}" for kind in ("manifests", "segments") for number in (1, 2)]
    )
    def test_projections_are_repaired(self, two, name, how):
        before = content(two)
        (path,) = two.cache.glob(f"{name}.*")
        evidence = harm(path, how)
        report = two.provisioner().repair()
        assert [(action.what, action.ok) for action in report.actions] == [
            (str(path.relative_to(two.cache)), True)
        ]
        assert report.go
        assert is_go(two)
        assert content(two) == before
        assert two.calls.made == []
        if evidence is not None:
            (repaired,) = two.events(Repaired)
            assert (two.cache / repaired.quarantine).read_bytes() == evidence

    def test_every_byte_of_a_manifest_may_be_wrong(self, site):
        """Also if the file still parses: the chain or the segment shows which of the two is damaged."""
        site.build()
        path = site.layout.manifests / "00000001.json"
        whole = path.read_bytes()
        for place in range(len(whole) - 460, len(whole), 7):
            path.chmod(0o644)
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert site.provisioner().repair().go, place
            assert path.read_bytes() == whole

    def test_exchanged_segments_are_repaired(self, two):
        first, second = sorted(two.layout.segments.iterdir())
        before = content(two)
        data = first.read_bytes(), second.read_bytes()
        for path, other in ((first, data[1]), (second, data[0])):
            path.chmod(0o644)
            path.write_bytes(other)
        assert two.provisioner().repair().go
        assert content(two) == before

    @pytest.mark.parametrize("kind", ["manifests", "segments"])
    def test_one_file_of_another_cache_is_set_aside(self, two, quick_path, kind):
        other = FakeSite(quick_path / "other")
        other.build()
        other.build(flight_id="f2")
        before = content(two)
        for path in sorted((other.cache / kind).iterdir())[-1:]:
            target = two.cache / kind / path.name
            target.chmod(0o644)
            target.write_bytes(path.read_bytes())
        assert two.provisioner().repair().go
        assert content(two) == before

    def test_foreign_files_are_set_aside(self, two):
        before = content(two)
        (two.cache / "notes: expected.txt").write_text("hello")
        latin = os.fsdecode(b"caf\xe9.jpg")
        (two.layout.artifacts / "ab" / latin).touch()
        (two.layout.artifacts / "ab" / "draft").write_text("hello")
        (two.layout.artifacts / "zzz").mkdir()
        (two.layout.manifests / "00000009.json").write_text("{}")
        (two.layout.segments / "00000009.events").write_text("")
        (two.layout.artifacts / "00").rmdir()
        (two.layout.artifacts / "00").symlink_to("/nowhere")
        report = two.provisioner().repair()
        assert len(report.actions) == 7
        assert report.go
        assert report.left == ()
        assert (two.layout.quarantine / f"{latin}.0").exists()
        assert any("caf" in event.subject for event in two.events(Repaired))
        assert is_go(two)
        assert content(two) == before
        assert (two.layout.quarantine / "notes: expected.txt.0").read_text() == "hello"

    def test_missing_folders_are_made(self, two):
        for name in ("quarantine", "tmp", "segments"):
            shutil.rmtree(two.cache / name)
        assert two.provisioner().repair().go
        assert is_go(two)

    def test_a_journal_that_lost_its_tail_is_not_repaired_over(self, site):
        site.build()
        kept = site.layout.journal.read_bytes()
        site.build(flight_id="f2")
        site.layout.journal.write_bytes(kept)
        for name in ("", "segments/00000002.events", "manifests/00000002.json"):
            if name:
                shutil.move(site.cache / name, site.root / "away")
            before = tree(site.cache)
            with pytest.raises(DamagedHistoryError, match=r"generation 2|does not hold") as caught:
                site.provisioner().repair()
            assert caught.value.hint == f"c10 rebuild --cache {site.cache}"
            assert tree(site.cache) == before
            if name:
                shutil.move(site.root / "away", site.cache / name)

    def test_the_journal_of_another_cache_is_not_repaired_over(self, two, quick_path):
        other = FakeSite(quick_path / "other")
        other.build()
        other.build(flight_id="f2")
        two.layout.journal.write_bytes(other.layout.journal.read_bytes())
        before = content(two)
        with pytest.raises(DamagedHistoryError, match="another cache's") as caught:
            two.provisioner().repair()
        assert "c10 rebuild" in caught.value.hint
        assert content(two) == before


@pytest.mark.deep
@pytest.mark.parametrize("after", [False, True])
def test_a_repair_may_die_at_every_step(two, after, monkeypatch):
    """What was set aside is then missing; the next repair, or any writer, writes it again."""
    before = content(two)
    for path in (
        two.artifact(ref_of(two, "index")),
        two.artifact(ref_of(two, "calibration")),
        two.layout.manifests / "00000002.json",
    ):
        flip(path)
    shutil.copytree(two.root, two.root.with_name("damaged"))
    points, dead = 0, True
    while dead:
        shutil.rmtree(two.root)
        shutil.copytree(two.root.with_name("damaged"), two.root)
        with monkeypatch.context() as patch:
            died = dying_at(patch, points, after=after)
            with contextlib.suppress(StopDeadError):
                two.provisioner().repair()
            dead = bool(died)
        points += dead
        assert two.provisioner().repair().go
        assert is_go(two)
        assert content(two) == before
    shutil.rmtree(two.root.with_name("damaged"))
    assert points >= 10


def dying_at(patch, at, *, after):
    """Make the process die at the n-th link or unlink below the cache: that one, and all after it, raise."""
    calls, died = [], []

    def deadly(real):
        def call(*args, **kwargs):
            if not died:
                calls.append(args)
                if len(calls) <= at:
                    return real(*args, **kwargs)
                died.append(args)
                if after:
                    real(*args, **kwargs)
            raise StopDeadError

        return call

    for name in ("link", "unlink"):
        patch.setattr(os, name, deadly(getattr(os, name)))
    return died


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("journal", ["whole", "damaged"])
def test_a_link_in_the_place_of_a_folder_is_set_aside_and_nothing_behind_it_touched(
    two, name, journal, tmp_path
):
    """Every writer clears the scratch folder: through a link, it would clear whatever that leads to."""
    folder, elsewhere = two.layout.root / name, tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    shutil.rmtree(folder)
    folder.symlink_to(elsewhere)
    if journal == "damaged" and name != "segments":
        two.layout.journal.write_bytes(b"x")
        two.provisioner().rebuild()
    # The tiles of the first build have changed, so only the artifacts of the head can be made again.
    assert two.provisioner().repair().go
    assert is_go(two) or name == "artifacts"
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]
    assert not folder.is_symlink()
    kept = [path for path in two.layout.quarantine.iterdir() if path.is_symlink()]
    assert [path.readlink() for path in kept] == [elsewhere]


def test_a_dry_run_writes_nothing_and_names_everything(two):
    flip(two.artifact(ref_of(two, "engine")))
    flip(two.layout.manifests / "00000002.json")
    (two.cache / "notes.txt").write_text("hello")
    before = tree(two.cache)
    report = two.provisioner().repair(dry_run=True)
    assert tree(two.cache) == before
    assert (report.dry_run, report.go, len(report.actions)) == (True, False, 3)
    assert not any(action.ok for action in report.actions)


def test_without_a_cache_there_is_nothing_to_repair(site):
    with pytest.raises(RequestRefusedError, match="expected a cache"):
        site.provisioner().repair()
    with pytest.raises(RequestRefusedError, match="expected a cache"):
        site.provisioner().rebuild()
    assert not site.cache.exists()


def test_a_repair_on_a_second_machine_with_real_parts(real_site):
    """Real engines, blocks and indexes come out the same, whichever window they were made in."""
    real_site.write_tiles(spread(content=picture))
    assert real_site.build().error is None
    before = content(real_site)
    for path in [real_site.artifact(ref_of(real_site, role)) for role in ROLES]:
        flip(path)
    report = real_site.provisioner().repair()
    assert [action.action for action in report.actions if not action.ok] == []
    assert is_go(real_site)
    assert content(real_site) == before


class TestRecordedRequest:
    def test_it_means_the_same(self, tmp_path):
        request = BuildRequest(
            flight_id='quo"te \\ ünïcödé 😀',
            sector="active_conflict",
            bbox=(-118.31981234567, 36.5611, 179.0, 36.593),
            zoom=(3, 5),
            origin=(-0.00000004, -36.5, -12.3456),
            calibration="dir/cam era.json",
            tiles=TileOptions(source="x.pmtiles", captured="dates.csv", max_age_days=3, too_old="exclude"),
            models=(
                ModelSpec(
                    name="place",
                    role=ModelRole.DESCRIPTOR,
                    onnx="n.onnx",
                    size=(32, 64),
                    mean=(1.5, 0.0, 1e-7),
                    std=(255.0, 1e-6, 1e6),
                    profile=ShapeProfile(min=(1, 3), opt=(2, 3), max=(8, 3)),
                ),
                ModelSpec(name="other", role=ModelRole.AUXILIARY, onnx="o.onnx", layout="nhwc", colour="bgr"),
            ),
            engine=EngineOptions(timeout_s=1.5, tf32=True, batch=4),
            index=IndexOptions(kind="hnsw", m=16),
            checks=CheckOptions(parity=0.123456789),
            base=tmp_path,
        )
        again, precision = parse_recorded_request(request_record(request, "fp16"))
        assert precision == "fp16"
        assert to_toml(again) == to_toml(request)
        assert (again.bbox_e7, again.origin_e7, again.altitude_mm) == (
            request.bbox_e7,
            request.origin_e7,
            request.altitude_mm,
        )
        assert (again.tiles, again.models, again.engine, again.index, again.checks, again.base) == (
            request.tiles,
            request.models,
            request.engine,
            request.index,
            request.checks,
            request.base,
        )

    def test_what_is_too_long_or_no_text_is_left_out(self, site):
        request = site.request(base="/" + "x" * MAX_TEXT_BYTES)
        assert request_record(request, None) == {}
        assert request_record(site.request(base="/\udcff"), None) == {}
        assert parse_recorded_request({}) is None
        assert parse_recorded_request({"request": {"text": 3}}) is None


def test_a_repair_makes_a_withheld_head_visible_but_hides_none(two):
    """A head that is not whole stays invisible until it is made again; one that was visible stays visible."""
    head = two.state().head_build
    manifest = two.layout.manifests / two.layout.manifest_files()[2]
    for site_file in (manifest, two.artifact(head.index.artifact)):
        site_file.unlink()
    assert two.provisioner().repair().verification.go
    assert is_go(two)
    assert manifest.exists()
    flip(manifest)
    two.artifact(head.tiles.table).unlink()
    two.tiles = {}
    two.provisioner().repair()
    assert manifest.exists()


@pytest.mark.parametrize("older", [False, True])
def test_a_graph_with_equal_rows_is_written_again_as_it_was(real_site, monkeypatch, older):
    """Graphs of earlier versions link equal rows too, and their options do not say otherwise."""
    if older:
        planned = index.plan_index
        monkeypatch.setattr(index, "plan_index", lambda *a, **b: replace(planned(*a, **b), links_equal=True))
    real_site.write_tiles(spread(content=lambda seed: picture(max(seed, 60))))
    assert real_site.build(index=IndexOptions(kind="hnsw")).error is None
    (built,) = real_site.events(IndexBuilt)
    assert ("graph" in built.components["options"]) != older
    monkeypatch.undo()
    flip(real_site.artifact(built.artifact))
    real_site.provisioner().repair()
    assert is_go(real_site)
