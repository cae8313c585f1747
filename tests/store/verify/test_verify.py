import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.errors import JournalDamagedError
from store.cache.view import open_view, read_history
from store.cache.writer import CacheWriter
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.events import CellEmbedded
from store.domain.manifest_projection import project
from store.domain.state import BuildStatus
from store.errors import (
    DamagedHistoryError,
    IncompatibleDeviceError,
    ManifestCoverageError,
    NoGoError,
    RequestRefusedError,
)
from store.manifest.manifest import parse
from store.policy import rollback
from store.testing import FakeClock
from store.verify.coverage import find_foreign_files, refuse_foreign_files
from store.verify.report import Depth, Finding, HashedAmount, ProblemKind, VerifyReport, diagnose
from store.verify.verify import verify
from tests.cache_facts import make_facts
from tests.damaging import replace_by
from tests.played_builds import Scenario, StopDeadError, play
from tests.store_caches import open_writer, record_builds

FIRST = Scenario()
SECOND = Scenario(tiles={(0, 0): "a", (1, 0): "B", (20, 3): "c"})


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """Generation 1: build 1. Generation 2: build 2 with one other cell. Never change it."""
    layout = Layout(tmp_path_factory.mktemp("pristine") / "cache")
    record_builds(layout, FIRST, SECOND)
    return layout


@pytest.fixture
def layout(pristine, tmp_path):
    shutil.copytree(pristine.root, tmp_path / "cache")
    return Layout(tmp_path / "cache")


def manifest_of(layout, generation):
    state = open_view(layout, strict=False).state
    return parse(project(state, state.generations[generation]))


def rewrite(path, change):
    path.chmod(0o644)
    path.write_bytes(change(path.read_bytes()))


def flip(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def problems_of(result):
    """Return the problems but those of the device: no installed library has the version of the played engine."""
    return [problem for problem in result.problems if problem.kind is not ProblemKind.DEVICE]


@pytest.mark.parametrize("depth", [Depth.QUICK, Depth.BUDGET])
def test_an_intact_cache_has_no_problem_but_the_other_device(layout, depth):
    result = verify(layout, depth=depth, budget_s=60)
    assert problems_of(result) == []
    assert (result.generation, result.origin) == (2, 2)
    assert result.manifest_sha256 == manifest_of(layout, 2).sha256
    assert result.looked_at == result.hashed.files_total > 0
    if result.problems:
        assert result.only_device
        with pytest.raises(IncompatibleDeviceError):
            result.require()


def test_quick_hashes_nothing_and_budget_says_what_it_hashed(layout):
    quick = verify(layout)
    assert (quick.hashed.files, quick.hashed.size) == (0, 0)
    assert quick.seed is None
    some = verify(layout, depth=Depth.BUDGET, budget_s=0, seed=4)
    blocks = 2  # one per cell
    assert some.hashed.files == some.hashed.files_total - blocks
    assert 0 < some.hashed.size < some.hashed.size_total
    assert some.seed == 4
    everything = verify(layout, depth=Depth.BUDGET, budget_s=3600)
    assert everything.hashed.files == everything.hashed.files_total
    assert everything.hashed.size == everything.hashed.size_total


def test_full_hashes_what_any_generation_names(layout):
    full, quick = verify(layout, depth=Depth.FULL), verify(layout)
    assert problems_of(full) == []
    assert full.hashed.files == full.hashed.files_total > quick.hashed.files_total


def test_nothing_is_written(layout):
    before = {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in layout.root.rglob("*")}
    for depth in Depth:
        verify(layout, depth=depth, budget_s=1)
    after = {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in layout.root.rglob("*")}
    lock = layout.root / "journal.mdb-lock"
    assert {path for path in before | after if before.get(path) != after.get(path)} <= {lock, layout.root}


def test_a_missing_engine_concerns_both_generations(layout):
    ref = manifest_of(layout, 2).descriptor_engine.artifact
    layout.artifact(ref.sha256).unlink()
    result = verify(layout)
    (problem,) = problems_of(result)
    assert problem.kind is ProblemKind.ABSENT
    assert problem.subject == "engine place"
    assert problem.generations == (1, 2)
    assert problem.fix == f"c10 repair --cache {layout.root}"
    assert not result.head_sound
    with pytest.raises(NoGoError, match="engine place"):
        result.require()


def test_all_problems_are_named_at_once(layout):
    manifest = manifest_of(layout, 2)
    layout.artifact(manifest.calibration.sha256).unlink()
    rewrite(layout.artifact(manifest.index.artifact.sha256), lambda data: data[:-1])
    rewrite(layout.artifact(manifest.tiles.sha256), lambda data: data + b"x")
    found = {problem.subject: problem.kind for problem in problems_of(verify(layout))}
    assert found == {
        "calibration": ProblemKind.ABSENT,
        "descriptor index": ProblemKind.DAMAGED,
        "tile table": ProblemKind.DAMAGED,
    }


def test_a_flipped_bit_is_found_by_hashing_alone(layout):
    ref = manifest_of(layout, 2).index.artifact
    rewrite(layout.artifact(ref.sha256), flip)
    assert problems_of(verify(layout)) == []
    for depth in (Depth.FULL, Depth.BUDGET):
        (problem,) = problems_of(verify(layout, depth=depth))
        assert problem.kind is ProblemKind.DAMAGED
        assert problem.generations == (2,)
        assert problem.fix == f"c10 repair --cache {layout.root}"


def test_damage_of_an_older_generation_leaves_the_head_sound(layout):
    only_first = manifest_of(layout, 1).index.artifact
    rewrite(layout.artifact(only_first.sha256), flip)
    assert problems_of(verify(layout)) == []
    result = verify(layout, depth=Depth.FULL)
    (problem,) = problems_of(result)
    assert problem.generations == (1,)
    assert "c10 repair" in problem.fix
    assert not result.go


def test_the_blocks_of_a_broken_block_table_are_not_checked_and_a_note_says_so(layout):
    ref = manifest_of(layout, 2).index.blocks
    rewrite(layout.artifact(ref.sha256), flip)
    for depth in Depth:
        result = verify(layout, depth=depth)
        assert [problem.subject for problem in problems_of(result)] == ["block table"]
        assert any("not readable" in note for note in result.notes)


@pytest.mark.parametrize("replacement", ["folder", "link", "pipe"])
def test_an_artifact_that_is_no_regular_file_is_damaged(layout, replacement):
    replace_by(layout.artifact(manifest_of(layout, 2).calibration.sha256), replacement)
    (problem,) = problems_of(verify(layout))
    assert problem.subject == "calibration"


@pytest.mark.parametrize("generation", [1, 2])
def test_a_missing_segment_is_found_quickly(layout, generation):
    (layout.segments / layout.segment_name(generation)).unlink()
    (problem,) = problems_of(verify(layout))
    assert problem.kind is ProblemKind.PROJECTION_ABSENT
    assert problem.generations == (generation,)


def test_a_missing_head_manifest_is_no_go(layout):
    (layout.manifests / layout.manifest_name(2)).unlink()
    result = verify(layout)
    assert [problem.path for problem in result.problems] == ["manifests/00000002.json"]
    assert not result.head_sound


@pytest.mark.parametrize(
    "name", ["segments/00000001.events", "segments/00000002.events", "manifests/00000001.json"]
)
def test_changed_projections_are_found_by_a_full_run(layout, name):
    rewrite(layout.root / name, flip)
    assert problems_of(verify(layout)) == []
    (problem,) = problems_of(verify(layout, depth=Depth.FULL))
    assert problem.kind is ProblemKind.PROJECTION_DAMAGED
    assert problem.subject == name


def test_a_segment_of_another_cache_is_found(layout, tmp_path):
    other = Layout(tmp_path / "other")
    record_builds(other, FIRST)
    name = layout.segment_name(1)
    rewrite(layout.segments / name, lambda _: (other.segments / name).read_bytes())
    (problem,) = problems_of(verify(layout, depth=Depth.FULL))
    assert problem.subject == f"segments/{name}"


def test_a_folder_that_cannot_be_read_is_no_go(layout):
    folder = layout.artifacts / "00"
    folder.rmdir()
    folder.symlink_to(layout.root / "nowhere")
    (problem,) = problems_of(verify(layout, depth=Depth.FULL))
    assert (problem.kind, problem.path) == (ProblemKind.STRANGER, "artifacts/00")


def test_foreign_files_are_no_go_and_unreferenced_artifacts_are_not(layout):
    (layout.root / "notes: b.txt").write_text("hello")
    (layout.artifacts / "ab" / "draft").write_text("hello")
    orphan = "ab" + "0" * 62
    (layout.artifacts / "ab" / orphan).write_text("hello")
    result = verify(layout, depth=Depth.FULL)
    assert {problem.subject for problem in problems_of(result)} == {"notes: b.txt", "artifacts/ab/draft"}
    with pytest.raises(ManifestCoverageError) as refused:
        refuse_foreign_files(find_foreign_files(Artifacts(layout)))
    assert refused.value.hint.startswith("move notes: b.txt out of the cache")
    assert all(problem.generations == () for problem in problems_of(result))
    assert (result.unreferenced, result.unreferenced_size) == (1, 5)


def test_a_damaged_newest_manifest_is_no_replaced_journal(layout):
    path = layout.manifests / layout.manifest_name(2)
    rewrite(path, lambda data: data[:100])
    for depth in Depth:
        (problem,) = problems_of(verify(layout, depth=depth))
        assert (problem.kind, problem.path) == (
            ProblemKind.PROJECTION_DAMAGED,
            str(path.relative_to(layout.root)),
        )
        assert problem.fix == f"c10 repair --cache {layout.root}"


def test_a_journal_that_lost_its_newest_records_is_damaged(layout, tmp_path):
    older = Layout(tmp_path / "older")
    record_builds(older, FIRST)
    shutil.copy(older.journal, layout.journal)
    with pytest.raises(DamagedHistoryError, match="lost its newest records") as damaged:
        verify(layout)
    assert damaged.value.hint == f"c10 rebuild --cache {layout.root}"


def test_a_truncated_journal_is_damaged(layout):
    rewrite(layout.journal, lambda data: data[: len(data) // 2])
    with pytest.raises(JournalDamagedError) as damaged:
        verify(layout)
    assert damaged.value.hint == f"c10 rebuild --cache {layout.root}"


def test_without_a_commit_there_is_nothing_to_fly(tmp_path):
    layout = Layout(tmp_path / "cache")
    with pytest.raises(RequestRefusedError):
        verify(layout)
    record_builds(layout, Scenario(fail_at="engine"))
    with pytest.raises(NoGoError, match="committed generation"):
        verify(layout)


def test_after_a_rollback_the_build_of_the_new_head_is_verified(layout):
    with CacheWriter.open(layout, clock=FakeClock(), reserve_bytes=0) as store:
        planned = rollback.plan(store.state, to=None, why="")
        assert planned is not None
        store.roll_back(planned)
    only_first = manifest_of(layout, 1).index.artifact
    layout.artifact(only_first.sha256).unlink()
    result = verify(layout)
    assert (result.generation, result.origin) == (3, 1)
    (problem,) = problems_of(result)
    assert problem.generations == (1, 3)


def test_a_dead_build_is_a_note_and_no_problem_of_the_head(layout):
    with (
        pytest.raises(StopDeadError),
        CacheWriter.open(layout, clock=FakeClock(), reserve_bytes=0) as store,
    ):
        play(store, Scenario(flight="f2", die_at="cells"))
    assert open_view(layout).state.builds[3].status is BuildStatus.OPEN
    result = verify(layout)
    assert problems_of(result) == []
    assert any("build 3" in note for note in result.notes)


@pytest.fixture(scope="session")
def wide(tmp_path_factory):
    """A cache of 16 blocks, all of them damaged. Never change it."""
    layout = Layout(tmp_path_factory.mktemp("wide") / "cache")
    tiles = {(16 * column, 16 * row): f"{column} {row}" for column in range(4) for row in range(4)}
    with open_writer(layout) as store:
        play(store, Scenario(tiles=tiles))
        blocks = [
            event.block
            for fact in read_history(layout).facts
            if isinstance(event := fact.event, CellEmbedded)
        ]
    for ref in blocks:
        rewrite(layout.artifact(ref.sha256), flip)
    return layout


def sample(layout, seed):
    """Return the problems that a run finds whose time is up after the first few blocks."""
    moments = iter([0.0, 0.5, 2.0])
    result = verify(layout, depth=Depth.BUDGET, budget_s=1.0, seed=seed, monotonic=lambda: next(moments))
    assert result.hashed.files == result.hashed.files_total - 8
    return {problem.subject for problem in problems_of(result)}


def test_the_sample_is_cut_short_by_the_clock_and_chosen_by_the_seed(wide):
    found = {seed: sample(wide, seed) for seed in range(6)}
    assert all(len(subjects) == 8 for subjects in found.values())
    assert sample(wide, 3) == found[3]
    assert len({frozenset(subjects) for subjects in found.values()}) > 1


@given(
    kind=st.sampled_from(ProblemKind),
    digest=st.sampled_from(["", "a" * 64, "b" * 64]),
    generation=st.none() | st.integers(1, 4),
)
def test_every_problem_names_generations_and_a_fix(tmp_path_factory, kind, digest, generation):
    root = tmp_path_factory.getbasetemp()
    finding = Finding(kind=kind, subject="s", found="f", path="p", digest=digest, generation=generation)
    (problem,) = diagnose([finding], root=root, named_in={"a" * 64: [3, 1]}, head=4, keep_without=lambda _: 2)
    assert problem.fix
    assert bool(problem.last_resort) is (digest == "a" * 64)
    assert problem.last_resort in problem.fix
    expected = {"": (generation,) if generation else (), "a" * 64: (1, 3), "b" * 64: ()}[digest]
    assert problem.generations == expected


def test_an_unreadable_file_is_not_moved_aside(tmp_path):
    finding = Finding(
        kind=ProblemKind.DAMAGED,
        subject="s",
        found="unreadable (Permission denied)",
        path="p",
        digest="a" * 64,
    )
    (problem,) = diagnose(
        [finding], root=tmp_path, named_in={"a" * 64: [1]}, head=2, keep_without=lambda _: 1
    )
    assert problem.fix.startswith(f"fix the permissions of {tmp_path / 'p'}")


def test_a_report_without_problems_is_go():
    result = VerifyReport(
        depth=Depth.QUICK,
        generation=1,
        origin=1,
        identity=None,
        manifest_sha256="",
        body_sha256="",
        looked_at=0,
        hashed=HashedAmount(files=0, size=0, files_total=0, size_total=0),
        problems=(),
        notes=(),
        facts=make_facts(),
    )
    assert result.go
    assert result.head_sound
    assert not result.only_device
    result.require()
