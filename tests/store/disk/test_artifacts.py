import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from store.base.values import ArtifactRef
from store.cache.writer import CacheWriter
from store.disk.artifacts import Artifacts, ref_of_draft
from store.disk.layout import Layout, lies_within
from store.disk.quarantine import move_to_quarantine
from store.disk.write_once import draft, write_once
from store.errors import (
    ArtifactError,
    CacheUnusableError,
    DiskFullError,
    ErrorKind,
    ManifestCoverageError,
    RequestRefusedError,
)
from store.manifest.manifest import parse
from store.testing import FakeClock
from store.verify.coverage import (
    Coverage,
    intact_artifacts,
    missing_artifacts,
    named_by,
    referenced_by,
    sizes,
    walk,
)
from tests.damaging import flip, replace_by
from tests.played_builds import Scenario, play, ref_of
from tests.store_caches import open_writer

SHA = hashlib.sha256(b"data").hexdigest()
REF = ref_of(b"data")


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path / "cache")
    layout.create()
    return layout


@pytest.fixture
def artifacts(layout):
    return Artifacts(layout)


@pytest.fixture
def without_tmpfile(monkeypatch):
    """A file system that knows no nameless files."""
    opened = os.open

    def refuse(path, flags, *arguments, **named):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return opened(path, flags, *arguments, **named)

    monkeypatch.setattr(os, "open", refuse)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestWriteOnce:
    def test_a_file_appears_whole_and_read_only(self, layout):
        assert write_once(layout.segments, "x", b"data", scratch=layout.scratch)
        path = layout.segments / "x"
        assert path.read_bytes() == b"data"
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        assert path.stat().st_nlink == 1
        assert names(layout.scratch) == []

    def test_the_same_bytes_are_kept(self, layout):
        write_once(layout.segments, "x", b"data", scratch=layout.scratch)
        before = (layout.segments / "x").stat()
        assert not write_once(layout.segments, "x", b"data", scratch=layout.scratch)
        after = (layout.segments / "x").stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)

    @pytest.mark.parametrize("there", ["flipped", "longer", "folder", "pipe", "link", "dangling"])
    def test_a_name_that_is_taken_is_left_alone(self, layout, there):
        path = layout.segments / "x"
        path.write_bytes(b"data")
        replace_by(path, there)
        before = describe(path)
        with pytest.raises(FileExistsError):
            write_once(layout.segments, "x", b"data", scratch=layout.scratch)
        assert describe(path) == before
        assert names(layout.scratch) == []

    @pytest.mark.usefixtures("without_tmpfile")
    def test_without_nameless_files(self, layout):
        assert write_once(layout.segments, "x", b"data", scratch=layout.scratch)
        with draft(layout.scratch) as new:
            new.write(memoryview(b"abcd").cast("H"))
            assert Path(new.path).read_bytes() == b"abcd"
            assert len(names(layout.scratch)) == 1
        assert names(layout.scratch) == []
        assert (layout.segments / "x").read_bytes() == b"data"

    def test_errors_of_the_system_are_passed_on(self, layout):
        with pytest.raises(FileNotFoundError), draft(layout.root / "nowhere"):
            pytest.fail("there is no such folder")
        with draft(layout.scratch) as new, pytest.raises(FileNotFoundError):
            new.publish(layout.root / "nowhere", "x")

    def test_a_draft_that_is_not_published_leaves_nothing(self, layout):
        with draft(layout.scratch) as new:
            new.write(b"x" * 10_000)
        assert names(layout.scratch) == []


def describe(path):
    found = os.lstat(path)
    return (
        found.st_ino,
        found.st_mode,
        found.st_mtime_ns,
        path.read_bytes() if stat.S_ISREG(found.st_mode) else None,
    )


class TestArtifacts:
    def test_bytes_come_back(self, artifacts, layout):
        ref = artifacts.put(b"data")
        assert ref == REF
        assert layout.artifact(SHA) == layout.artifacts / SHA[:2] / SHA
        assert artifacts.read(ref) == b"data"
        assert (artifacts.present(ref), artifacts.damage(ref), artifacts.size(SHA)) == (True, None, 4)
        assert artifacts.created == 1
        assert [digest for digest, _ in artifacts.names()] == [SHA]

    def test_drafts_are_hashed_from_the_file(self, artifacts):
        with artifacts.draft() as new:
            new.write(b"da")
            new.write(b"ta")
            assert artifacts.publish(new, ref_of_draft(new)) == REF
        assert artifacts.read(REF) == b"data"

    @pytest.mark.parametrize(
        ("pieces", "found"),
        [((b"da", b"t"), "3"), ((b"data", b"more"), "more"), ((b"tada",), "SHA-256")],
    )
    def test_pieces_of_other_bytes_are_refused(self, artifacts, pieces, found):
        with pytest.raises(ArtifactError, match=f"found {found}|expected {found}"):
            artifacts.take(REF, pieces)
        assert artifacts.size(SHA) is None
        artifacts.take(REF, (b"da", b"ta"))
        assert artifacts.read(REF) == b"data"

    def test_putting_again_makes_no_copy(self, artifacts, layout):
        artifacts.put(b"data")
        before = describe(layout.artifact(SHA))
        assert artifacts.put(memoryview(b"data")) == REF
        assert describe(layout.artifact(SHA)) == before
        assert (artifacts.created, artifacts.replaced) == (1, [])

    @pytest.mark.parametrize("there", ["flipped", "longer", "shorter", "pipe", "link", "dangling"])
    def test_a_damaged_object_is_replaced_and_kept_as_evidence(self, artifacts, layout, there):
        path = layout.artifact(SHA)
        path.write_bytes(b"data")
        replace_by(path, there)
        before = describe(path)
        assert artifacts.damage(REF)
        assert artifacts.put(b"data") == REF
        assert path.read_bytes() == b"data"
        assert not path.is_symlink()
        kept = f"quarantine/{SHA}.0"
        assert describe(layout.root / kept) == before
        assert (artifacts.created, artifacts.replaced) == (2, [(SHA, kept)]), "the object and its evidence"

    def test_evidence_is_never_overwritten(self, artifacts, layout):
        for number in range(3):
            path = layout.artifact(SHA)
            path.unlink(missing_ok=True)
            path.write_bytes(b"%d" % number)
            artifacts.put(b"data")
        assert [(layout.quarantine / f"{SHA}.{number}").read_bytes() for number in range(3)] == [
            b"0",
            b"1",
            b"2",
        ]

    def test_a_name_that_leaves_no_room_for_a_number_is_kept_in_part(self, layout):
        layout.create()
        path, kept_part = layout.root / ("x" + "\u00e9" * 127), "x" + "\u00e9" * 99
        for number in range(2):
            path.write_bytes(b"x")
            kept = move_to_quarantine(layout, path)
            assert kept == f"quarantine/{kept_part}.{number}"
            assert (layout.root / kept).read_bytes() == b"x"

    def test_a_folder_in_the_place_of_an_object(self, artifacts, layout):
        replace_by(layout.artifact(SHA), "folder")
        (layout.artifact(SHA) / "within").write_bytes(b"x")
        assert artifacts.put(b"data") == REF
        assert artifacts.read(REF) == b"data"
        assert (layout.quarantine / f"{SHA}.0" / "within").read_bytes() == b"x"

    @pytest.mark.parametrize(
        ("there", "kind", "text"),
        [
            (None, ErrorKind.ARTIFACT_MISSING, "missing"),
            ("flipped", ErrorKind.ARTIFACT_DAMAGED, "other bytes"),
            ("longer", ErrorKind.ARTIFACT_DAMAGED, "expected 4 bytes, found 5"),
            ("folder", ErrorKind.ARTIFACT_DAMAGED, "not a regular file"),
            ("pipe", ErrorKind.ARTIFACT_DAMAGED, "not a regular file"),
            ("link", ErrorKind.ARTIFACT_DAMAGED, "not a regular file"),
        ],
    )
    def test_reading_what_is_not_there(self, artifacts, layout, there, kind, text):
        if there:
            layout.artifact(SHA).write_bytes(b"data")
            replace_by(layout.artifact(SHA), there)
        with pytest.raises(ArtifactError, match=text) as error:
            artifacts.read(REF)
        assert error.value.kind is kind
        assert artifacts.present(REF) == (there == "flipped")
        assert artifacts.damage(REF)

    def test_collection_has_to_be_alone(self, artifacts, layout):
        with (
            artifacts.shared_lock(),
            Artifacts(layout).shared_lock(),
            artifacts.try_exclusive_lock() as alone,
        ):
            assert not alone
        with artifacts.try_exclusive_lock() as alone:
            assert alone
            with Artifacts(layout).try_exclusive_lock() as another:
                assert not another

    def test_a_full_disk_is_said(self, artifacts):
        with pytest.raises(DiskFullError), artifacts.draft():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def test_missing_folders_are_said(self, artifacts, layout):
        layout.artifact_folder(SHA).rmdir()
        with pytest.raises(CacheUnusableError):
            artifacts.put(b"data")
        layout.artifacts_lock.mkdir()
        with pytest.raises(CacheUnusableError, match="regular file as lock"), artifacts.shared_lock():
            pytest.fail("the lock file is a folder")

    def test_names_that_are_none(self, artifacts, layout):
        artifacts.put(b"data")
        strange = [
            layout.artifacts / "zz" / "x",
            layout.artifacts / "00" / SHA,
            layout.artifacts / SHA[:2] / "short",
        ]
        for path in strange:
            path.parent.mkdir(exist_ok=True)
            path.touch()
        (layout.artifacts / "stray").touch()
        (layout.artifacts / "ff").rmdir()
        (layout.artifacts / "ff").symlink_to("00")
        with artifacts.shared_lock():
            found = {
                Path(entry.path).relative_to(layout.artifacts): digest for digest, entry in artifacts.names()
            }
        assert {str(path) for path, digest in found.items() if digest} == {f"{SHA[:2]}/{SHA}"}
        assert {str(path) for path, digest in found.items() if not digest} == {
            "zz/x",
            f"00/{SHA}",
            f"{SHA[:2]}/short",
            "stray",
            "ff",
        }


class TestLayout:
    def test_folders_are_made_once(self, layout):
        assert names(layout.root) == ["artifacts", "manifests", "quarantine", "segments", "tmp"]
        assert len(names(layout.artifacts)) == 256
        before = {path: path.stat().st_mtime_ns for path in layout.root.rglob("*")}
        layout.create()
        assert {path: path.stat().st_mtime_ns for path in layout.root.rglob("*")} == before

    @pytest.mark.parametrize(
        "template", ["{generation:08d}.json", "flight-{generation:08d}.json", "A_b-{generation:010d}.json"]
    )
    def test_manifest_names(self, tmp_path, template):
        layout = Layout(tmp_path, template)
        layout.manifests.mkdir()
        (layout.manifests / layout.manifest_name(12)).touch()
        (layout.manifests / "other.json").touch()
        assert layout.manifest_files() == {12: template.format(generation=12)}

    @pytest.mark.parametrize(
        "template",
        [
            "",
            "Manifest.json",
            "00000001.json",
            "00000007.json",
            "{generation.nothing:08d}.json",
            "{generation}.json",
            "{number:08d}.json",
            "{0:08d}.json",
            "{generation:08x}",
            "../{generation:08d}.json",
            "{generation:08d}.json\n",
            "{generation:08d}/x.json",
            "{generation!x}",
            "{generation:zz}.json",
            "{generation.__class__}",
            "{generation[0]:08d}.json",
        ],
    )
    def test_templates_that_the_reader_would_not_find(self, tmp_path, template):
        with pytest.raises(RequestRefusedError, match=r"manifest_filename.*8 to 18 digits"):
            Layout(tmp_path, template)

    def test_a_template_of_another_form_is_refused_with_what_it_makes(self, tmp_path):
        with pytest.raises(RequestRefusedError) as caught:
            Layout(tmp_path, "m{generation:04d}.json")
        assert caught.value.message.endswith("found 'm{generation:04d}.json', which makes 'm0007.json'")

    def test_strange_names_are_no_generations(self, layout):
        for name in (
            "1.json",
            "0000001.json",
            "00000001.JSON",
            "00000001.json.tmp",
            "-00000001.json",
            "\u0660\u0661\u0661\u0661\u0661\u0661\u0661\u0661.json",
        ):
            (layout.manifests / name).touch()
        for name in ("1.events", "x-00000001.events", "00000001.event"):
            (layout.segments / name).touch()
        assert (layout.manifest_files(), layout.segment_files()) == ({}, {})

    @pytest.mark.parametrize("name", ["tmp", "manifests", "artifacts/7f"])
    def test_folders_that_are_files(self, layout, name):
        (layout.root / name).rmdir()
        (layout.root / name).touch()
        with pytest.raises(CacheUnusableError):
            layout.create()

    def test_a_foreign_folder_is_not_filled(self, tmp_path):
        (tmp_path / "photos").mkdir()
        with pytest.raises(CacheUnusableError, match="photos"):
            Layout(tmp_path).create()
        assert names(tmp_path) == ["photos"]
        (tmp_path / "file").touch()
        with pytest.raises(CacheUnusableError, match="found a file"):
            Layout(tmp_path / "file").create()
        with pytest.raises(CacheUnusableError, match="expected a name") as caught:
            Layout(tmp_path / "file" / "cache").create()
        assert caught.value.kind is ErrorKind.FILE_SYSTEM

    def test_a_link_that_leads_nowhere_is_no_folder(self, tmp_path):
        (tmp_path / "link").symlink_to("nowhere")
        with pytest.raises(CacheUnusableError, match="a link that leads to no folder"):
            Layout(tmp_path / "link").create()
        assert names(tmp_path) == ["link"]

    def test_what_lies_within_a_folder(self, tmp_path):
        (tmp_path / "circle").symlink_to("circle")
        (tmp_path / "link").symlink_to("cache")
        assert lies_within(tmp_path / "link" / "file", tmp_path / "cache")
        assert not lies_within(tmp_path / "circle" / "file", tmp_path / "cache")
        assert not lies_within(tmp_path / "cache", tmp_path / "circle")

    def test_the_root_of_a_file_system_may_be_a_cache(self, tmp_path):
        (tmp_path / "lost+found").mkdir()
        layout = Layout(tmp_path)
        assert not layout.exists()
        layout.create()
        assert not layout.exists(), "folders alone are what a death before the birth leaves"
        layout.create()
        (layout.segments / layout.segment_name(1)).touch()
        assert layout.exists()

    def test_nothing_there(self, tmp_path):
        layout = Layout(tmp_path / "nowhere")
        assert (layout.exists(), layout.manifest_files(), layout.segment_files()) == (False, {}, {})


@pytest.fixture
def built(layout):
    """A cache with one generation; what its manifest names."""
    with open_writer(layout) as store:
        play(store, Scenario())
        state = store.state.copy()
    manifest = parse((layout.manifests / layout.manifest_name(1)).read_bytes())
    return manifest, state, named_by(manifest, Artifacts(layout))


class TestCoverage:
    def walked(self, layout, built, *, full=True, **changes):
        _, state, named = built
        return walk(Artifacts(layout), named, referenced=referenced_by(state), full=full, **changes)

    def test_a_whole_cache(self, layout, built):
        seen = []
        found = self.walked(layout, built, on_progress=seen.append, threads=1)
        assert (found.problems, found.unreferenced, found.unreferenced_size) == ((), (), 0)
        assert found.files == len(built[2]) == 8
        assert found.size == sum(size for _, size in built[2].values()) == sum(seen)
        found.require(strict=True, hint="")
        assert missing_artifacts(built[0], Artifacts(layout)) == ()
        assert sorted(role for role, _ in built[2].values()) == [
            "block 6/0/0",
            "block 6/1/0",
            "block table",
            "calibration",
            "descriptor index",
            "engine place",
            "geographic report",
            "tile table",
        ]

    def test_all_problems_in_one_pass(self, layout, built):
        by_role = {role: digest for digest, (role, _) in built[2].items()}
        layout.artifact(by_role["engine place"]).unlink()
        replace_by(layout.artifact(by_role["descriptor index"]), "shorter")
        flip(layout.artifact(by_role["tile table"]))
        replace_by(layout.artifact(by_role["calibration"]), "pipe")
        replace_by(layout.artifact(by_role["geographic report"]), "dangling")
        replace_by(layout.artifact(by_role["block 6/0/0"]), "folder")
        (layout.root / "stray").touch()
        (layout.manifests / "stray").touch()
        (layout.manifests / "00000002.sig").touch()
        (layout.segments / "stray").touch()
        (layout.artifacts / "00" / "stray").touch()
        found = self.walked(layout, built)
        assert {problem.split(":")[0].rsplit(" ", 1)[0] for problem in found.damaged} == {
            "engine place",
            "descriptor index",
            "tile table",
            "calibration",
            "geographic report",
            "block 6/0/0",
        }
        assert {path for path, _ in found.foreign_files} == {
            "stray",
            "manifests/stray",
            "manifests/00000002.sig",
            "segments/stray",
            "artifacts/00/stray",
        }
        with pytest.raises(ManifestCoverageError) as error:
            found.require(strict=False, hint="h")
        assert error.value.problems == found.problems
        assert (error.value.hint, error.value.kind) == ("h", ErrorKind.COVERAGE)
        quick = self.walked(layout, built, full=False)
        assert len(quick.damaged) == len(found.damaged) - 1, "a quick look does not hash"
        hashed = self.walked(layout, built, hashed=frozenset({by_role["tile table"]}))
        assert hashed.damaged == quick.damaged
        assert len(missing_artifacts(built[0], Artifacts(layout))) == 4, (
            "blocks are not looked for without their table"
        )

    def test_foreign_files_matter_when_strict(self, layout, built):
        (layout.root / "stray").touch()
        found = self.walked(layout, built)
        found.require(strict=False, hint="")
        with pytest.raises(ManifestCoverageError):
            found.require(strict=True, hint="")

    def test_what_nothing_names_is_information(self, layout, built):
        ref = Artifacts(layout).put(b"left over")
        found = self.walked(layout, built)
        assert (found.problems, found.unreferenced, found.unreferenced_size) == ((), (ref.sha256,), 9)

    @pytest.mark.parametrize("what", ["folder", "pipe", "dangling"])
    def test_what_has_the_name_of_an_artifact_and_is_no_file_is_foreign(self, layout, built, what):
        replace_by(layout.artifact("00" * 32), what)
        found = self.walked(layout, built)
        assert (len(found.foreign_files), found.unreferenced) == (1, ())

    def test_what_the_journal_knows_is_referenced(self, layout, built):
        with CacheWriter.open(layout, clock=FakeClock(), reserve_bytes=0) as store:
            play(store, Scenario(engine="flipped", fail_at="index"))
            state = store.state.copy()
        found = self.walked(layout, (built[0], state, built[2]))
        # The blocks of the failed build are still of use; its tile table and calibration are shared.
        assert found.problems == found.unreferenced == ()

    def test_quick_check_of_blocks(self, layout, built):
        by_role = {role: digest for digest, (role, _) in built[2].items()}
        layout.artifact(by_role["block 6/1/0"]).unlink()
        assert missing_artifacts(built[0], Artifacts(layout)) == (
            f"block 6/1/0 {by_role['block 6/1/0'][:12]}: missing",
        )
        flip(layout.artifact(by_role["block table"]))
        (problem,) = missing_artifacts(built[0], Artifacts(layout))
        assert problem.startswith("block table: ")

    def test_which_are_sound(self, layout, built):
        artifacts = Artifacts(layout)
        refs = [ArtifactRef(sha256=digest, size=size) for digest, (_, size) in built[2].items()]
        seen = []
        assert intact_artifacts(artifacts, [*refs, *refs], on_progress=seen.append) == {
            ref.sha256: ref.size for ref in refs
        }
        assert sum(seen) == sum(ref.size for ref in refs)
        flip(layout.artifact(refs[0].sha256))
        replace_by(layout.artifact(refs[1].sha256), "pipe")
        assert refs[0].sha256 not in intact_artifacts(artifacts, refs)
        assert set(sizes(artifacts, refs)) == {ref.sha256 for ref in refs} - {refs[1].sha256}

    def test_no_problem_is_no_error(self):
        nothing = Coverage(
            files=0, size=0, damaged=(), foreign_files=(), unreferenced=("x",), unreferenced_size=1
        )
        nothing.require(strict=True, hint="")
