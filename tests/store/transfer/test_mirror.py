"""Mirrors: what is copied, what is refused, and that the reader on board can use the copy."""

import errno
import itertools
import os
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from journal import Journal
from journal.errors import BuildLockHeldError
from journal.lock import BuildLock
from journal.record import Record
from store.cache import segment
from store.cache.view import open_view, read_history
from store.cache.writer import CacheWriter
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.disk.quarantine import move_to_quarantine
from store.domain.maintenance_events import GenerationSigned
from store.domain.manifest_projection import project
from store.errors import (
    ArtifactError,
    CacheUnusableError,
    DiskFullError,
    ErrorKind,
    RequestRefusedError,
    UnknownEventError,
)
from store.maintenance.collect_garbage import collect
from store.maintenance.rebuild_journal import rebuild
from store.manifest.manifest import parse
from store.policy import rollback
from store.policy.retention import KeepPolicy
from store.reader import FlightCache, NoGoError
from store.testing import FakeClock
from store.transfer import mirror as module
from store.transfer.bundle_history import ImportOutcome
from store.transfer.export import export
from store.transfer.import_bundle import import_bundle
from store.transfer.mirror import mirror
from store.verify.coverage import named_by
from tests.child_python import run_python
from tests.damaging import replace_by
from tests.played_builds import Scenario, StopDeadError, play
from tests.small_builds import tree
from tests.store_caches import ALICE, BOB, open_writer

OTHER = {(0, 0): "a", (1, 0): "b2", (20, 3): "c"}


def build(layout, **fields):
    with open_writer(layout, signer=ALICE) as store:
        generation, _ = play(store, Scenario(version=metadata.version("onnxruntime"), **fields))
    return generation


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """One signed generation and its mirror, then a second. Never change it."""
    root = tmp_path_factory.mktemp("pristine")
    layout = Layout(root / "cache")
    build(layout)
    mirror(layout, root / "copy")
    build(layout, flight="f2", tiles=OTHER)
    return root


@pytest.fixture
def layout(pristine, tmp_path):
    shutil.copytree(pristine / "cache", tmp_path / "cache", symlinks=True)
    return Layout(tmp_path / "cache")


@pytest.fixture
def copy(pristine, tmp_path):
    """A copy that shows the first generation."""
    shutil.copytree(pristine / "copy", tmp_path / "copy", symlinks=True)
    return Layout(tmp_path / "copy")


def files(root):
    """Return path to size of every file that a mirror run copies."""
    found = (path for name in ("artifacts", "segments", "manifests") for path in (root / name).rglob("*"))
    return {str(path.relative_to(root)): path.stat().st_size for path in found if path.is_file()}


def fly(root, keys=(ALICE.public,), generation=None):
    with FlightCache.open(root, trusted_keys=list(keys), generation=generation) as cache:
        cache.verify()
        return cache.manifest.envelope.generation


def test_a_new_copy(layout, tmp_path):
    root, told = tmp_path / "deep" / "copy", []
    done = mirror(layout, root, on_total=told.append, on_bytes=told.append)
    found = files(root)
    assert (done.generation, done.previous, done.files) == (2, None, len(found))
    assert done.size == sum(found.values()) == told[0] == sum(told[1:])
    assert fly(root) == 2
    state = open_view(layout).state
    named = named_by(parse(project(state, state.head)), Artifacts(layout))
    assert {Path(name).name for name in found if name.startswith("artifacts")} == set(named)
    assert {name for name in found if not name.startswith("artifacts")} == {
        *("segments/00000001.events", "segments/00000002.events"),
        *("manifests/00000002.json", "manifests/00000002.sig"),
    }
    assert not (root / "journal.mdb").exists()
    for name in found:
        assert (root / name).read_bytes() == (layout.root / name).read_bytes()
        assert (root / name).stat().st_mode & 0o777 == 0o444


def test_a_copy_that_shows_a_head_is_marked_wherever_a_run_ends(layout, tmp_path, monkeypatch):
    link, last = os.link, 0
    for last in itertools.count():
        calls, target = itertools.count(), Layout(tmp_path / f"copy-{last}")

        def stop(*args, at=last, calls=calls, **kwargs):
            if next(calls) == at:
                raise StopDeadError
            link(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, "link", stop)
            try:
                mirror(layout, target.root)
                break
            except StopDeadError:
                assert target.is_mirror() or not target.manifest_files()
        assert mirror(layout, target.root).generation == 2
        assert target.is_mirror()
    assert last > 10


def test_only_missing_files_are_copied(layout, copy):
    before = files(copy.root)
    inodes = {name: (copy.root / name).stat().st_ino for name in before}
    done = mirror(layout, copy.root)
    after = files(copy.root)
    new = {name: size for name, size in after.items() if name not in before}
    assert (done.generation, done.previous) == (2, 1)
    assert (done.files, done.size) == (len(new), sum(new.values()))
    assert 0 < done.files < len(after)
    assert {name: (copy.root / name).stat().st_ino for name in before} == inodes
    # The generation before is still there.
    assert (fly(copy.root), fly(copy.root, generation=1)) == (2, 1)


def test_a_copy_that_is_up_to_date_is_not_touched(layout, copy):
    mirror(layout, copy.root)
    before, ours = tree(copy.root), tree(layout.root)
    with BuildLock(layout.build_lock):
        done = mirror(layout, copy.root)
    assert (done.changed, done.generation, done.previous, done.size) == (False, 2, 2, 0)
    assert mirror(layout, copy.root, full=True).changed is False
    assert tree(copy.root) == before
    assert tree(layout.root) == ours


def test_a_head_that_no_trusted_key_signed_does_not_get_onto_a_copy(layout, copy):
    before = tree(copy.root)
    with pytest.raises(NoGoError, match="signature: expected one by") as refused:
        mirror(layout, copy.root, trusted_keys=[BOB.public])
    assert refused.value.kind is ErrorKind.SIGNATURE
    assert tree(copy.root) == before
    assert mirror(layout, copy.root, trusted_keys=[BOB.public, ALICE.public]).generation == 2


def test_rollbacks_and_later_signatures_are_copied(layout, copy):
    mirror(layout, copy.root)
    with open_writer(layout, signer=ALICE) as store:
        raw = project(store.state, store.state.head)
        signed = BOB.sign(raw)
        event = GenerationSigned(generation=2, signature=signed.signature, key_id=signed.key_id, host={})
        store.add_signature(event)
    done = mirror(layout, copy.root)
    assert (done.files, done.generation, done.previous) == (1, 2, 2)
    assert fly(copy.root, keys=[BOB.public]) == 2
    with open_writer(layout, signer=ALICE) as store:
        store.roll_back(rollback.plan(store.state, to=None, why="worse"))
    done = mirror(layout, copy.root)
    assert (done.files, done.generation) == (3, 3)
    assert fly(copy.root) == 3


def test_artifacts_of_an_unfinished_build_are_not_copied(layout, copy):
    mirror(layout, copy.root)
    build(layout, flight="f3", engine="other", fail_at="index")
    assert mirror(layout, copy.root).changed is False


def test_the_names_of_manifests_may_differ(layout, copy):
    named = Layout(layout.root, "flight-{generation:08d}.json")
    build(layout, flight="f3")
    mirror(named, copy.root)
    assert mirror(named, copy.root).changed is False
    with CacheWriter.open(named, clock=FakeClock(), reserve_bytes=0, signer=ALICE) as store:
        play(store, Scenario(flight="f4", version=metadata.version("onnxruntime")))
    mirror(named, copy.root)
    assert (copy.manifests / "flight-00000004.sig").exists()
    assert fly(copy.root) == 4
    assert mirror(layout, copy.root).changed is False


def test_a_copy_becomes_a_cache_that_follows(layout, copy, tmp_path):
    mirror(layout, copy.root)
    rebuild(copy)
    assert read_history(copy).entries == read_history(layout).entries
    build(layout, flight="f3")
    with pytest.raises(RequestRefusedError) as caught:
        mirror(layout, copy.root)
    assert caught.value.kind == ErrorKind.OWN_HISTORY
    path = export(layout, tmp_path / "b").path
    done = import_bundle(copy, path, clock=FakeClock(), host={}, follows=True)
    assert (done.outcome, done.state.head.number) == (ImportOutcome.ADVANCED, 3)
    assert fly(copy.root) == 3


def test_a_collected_generation_stays_on_the_copy(layout, copy):
    with open_writer(layout, exclusive_within_s=1.0, signer=ALICE) as store:
        collect(store, KeepPolicy(keep=1, unfinished=False))
        play(store, Scenario(flight="f3", version=metadata.version("onnxruntime")))
        play(store, Scenario(flight="f4", version=metadata.version("onnxruntime")))
        collect(store, KeepPolicy(keep=1, unfinished=False))
    assert 1 in open_view(layout).state.collected_generations
    mirror(layout, copy.root)
    assert (fly(copy.root), fly(copy.root, generation=1)) == (4, 1)


# Whose copy it is.


def test_a_destination_with_a_history_of_its_own(layout, copy, tmp_path):
    def refused(root):
        before = tree(root)
        with pytest.raises(RequestRefusedError) as caught:
            mirror(layout, root)
        assert caught.value.kind == ErrorKind.OWN_HISTORY
        assert tree(root) == before

    other = Layout(tmp_path / "other")
    build(other)
    refused(other.root)
    mirror(other, tmp_path / "copy of another")
    refused(tmp_path / "copy of another")
    # Another copy of the cache that shares the first generation, and then a history of its own.
    shutil.copytree(layout.root, tmp_path / "fork")
    fork = Layout(tmp_path / "fork")
    build(fork, flight="f3")
    build(layout, flight="f4")
    mirror(fork, tmp_path / "copy of the fork")
    refused(tmp_path / "copy of the fork")
    # An interrupted rebuild.
    mirror(layout, copy.root)
    copy.journal.write_bytes(b"")
    refused(copy.root)
    move_to_quarantine(copy, copy.journal)
    refused(copy.root)


def test_a_copy_that_is_ahead(layout, copy, pristine, tmp_path):
    """The cache was put back to an older state: its copy is newer."""
    build(layout, flight="f3")
    mirror(layout, copy.root)
    with pytest.raises(RequestRefusedError, match="00000003"):
        mirror(Layout(pristine / "cache"), copy.root)


@pytest.mark.parametrize(
    "name", ["manifests/00000001.json", "manifests/00000001.sig", "segments/00000001.events"]
)
@pytest.mark.parametrize("how", ["flipped", "longer", "shorter", "folder", "link"])
def test_files_of_other_bytes_are_refused(layout, copy, name, how):
    replace_by(copy.root / name, how)
    with pytest.raises(RequestRefusedError) as caught:
        mirror(layout, copy.root)
    assert caught.value.kind == ErrorKind.OWN_HISTORY
    assert name in caught.value.message
    assert "remove it" in caught.value.hint
    assert not (copy.manifests / "00000002.json").exists()


def test_folders_that_cannot_be_a_copy_are_refused(layout, tmp_path):
    for inside in (layout.root, layout.root / "copy", layout.root.parent):
        with pytest.raises(RequestRefusedError):
            mirror(layout, inside)
    (tmp_path / "link").symlink_to(layout.root)
    with pytest.raises(RequestRefusedError):
        mirror(layout, tmp_path / "link")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "beach.jpg").write_bytes(b"")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for place in ("file", "photos", "open"):
        with pytest.raises(CacheUnusableError):
            mirror(layout, tmp_path / place)
    assert not (tmp_path / "open" / "artifacts").exists()


def test_two_mirror_runs_wait_for_each_other(layout, copy):
    with BuildLock(copy.build_lock), pytest.raises(BuildLockHeldError):
        mirror(layout, copy.root, lock_timeout_s=0)
    assert fly(copy.root) == 1


# What keeps it from being made.


def test_a_cache_without_a_generation_cannot_be_mirrored(tmp_path):
    layout = Layout(tmp_path / "cache")
    with pytest.raises(RequestRefusedError) as caught:
        mirror(layout, tmp_path / "copy")
    assert caught.value.kind == ErrorKind.NO_CACHE
    build(layout, fail_at="index")
    with pytest.raises(RequestRefusedError) as caught:
        mirror(layout, tmp_path / "copy")
    assert caught.value.kind == ErrorKind.NO_GENERATION
    build(layout)
    with Journal.open(layout.journal) as journal:
        journal.append([Record(tag="later", version=1, build=None, wall_ns=0, mono_ns=0, payload=None)])
    with pytest.raises(UnknownEventError):
        mirror(layout, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("how", ["missing", "shorter", "flipped"])
@pytest.mark.parametrize("role", ["descriptor index", "block table"])
def test_a_damaged_artifact_of_the_cache_is_not_copied(layout, copy, how, role):
    state = open_view(layout).state
    ref = dict(parse(project(state, state.head)).artifacts())[role]
    replace_by(layout.artifact(ref.sha256), how)
    with pytest.raises(ArtifactError) as caught:
        mirror(layout, copy.root)
    assert str(layout.root) in caught.value.message
    assert "c10 repair" in caught.value.hint
    assert fly(copy.root) == 1
    assert not copy.artifact(ref.sha256).exists()


def test_a_damaged_artifact_of_the_copy(layout, copy):
    mirror(layout, copy.root)
    digest = open_view(layout).state.head_build.index.artifact.sha256
    path = copy.artifact(digest)
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    # The size is right, and only `full=True` hashes.
    assert mirror(layout, copy.root).changed is False
    with pytest.raises(NoGoError):
        fly(copy.root)
    done = mirror(layout, copy.root, full=True)
    assert (done.files, done.replaced) == (1, (digest,))
    assert fly(copy.root) == 2
    path.chmod(0o644)
    path.write_bytes(data[:-1])
    assert mirror(layout, copy.root).replaced == (digest,)
    assert path.read_bytes() == data


def test_a_card_without_space(layout, copy, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFullError):
        mirror(layout, copy.root)
    assert fly(copy.root) == 1


def test_a_new_card_without_space_gets_no_folder(layout, tmp_path, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFullError, match=r"bytes of free space in .*, found 10"):
        mirror(layout, tmp_path / "new/card")
    assert not (tmp_path / "new").exists()


def test_space_that_a_killed_mirror_took_is_free_for_the_next(layout, tmp_path, monkeypatch):
    card = Layout(tmp_path / "card")
    mirror(layout, card.root)
    shutil.rmtree(card.manifests)
    left = card.scratch / "draft-1-x"
    left.write_bytes(b"half")
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10 if left.exists() else 1 << 40))
    assert mirror(layout, card.root).changed


def test_a_card_that_gets_full_meanwhile_says_what_stays_there(layout, tmp_path, monkeypatch):
    free = iter([1 << 40, 10])
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=next(free)))
    with pytest.raises(DiskFullError) as caught:
        mirror(layout, tmp_path / "card")
    assert f"{tmp_path / 'card'} keeps what was copied, and the next run goes on there" in caught.value.hint
    monkeypatch.undo()
    assert mirror(layout, tmp_path / "card").changed


def test_leftovers_of_a_killed_mirror_are_removed(layout, copy):
    mirror(layout, copy.root)
    (copy.scratch / "draft-1-x").write_bytes(b"half")
    (copy.scratch / "probe").write_bytes(b"")
    done = mirror(layout, copy.root)
    assert (done.changed, done.files) == (False, 0)
    assert not list(copy.scratch.iterdir())


def test_segments_hold_every_record_up_to_the_head(layout, copy):
    mirror(layout, copy.root)
    found = [segment.decode(path.read_bytes()) for path in sorted(copy.segments.iterdir())]
    entries = [entry for each in found for entry in each.entries]
    head = open_view(layout).state.head
    assert tuple(entries) == read_history(layout).entries[: head.seq]


def test_a_collection_during_a_mirror_run_is_noticed(layout, copy, monkeypatch):
    real, heads = module._update_copy, []

    def overtaken(source, destination, **options):
        heads.append(source.head.number)
        if len(heads) == 1:
            with open_writer(layout, exclusive_within_s=1.0, signer=ALICE) as store:
                for flight in ("f3", "f4"):
                    tiles = {(0, 0): flight}
                    play(store, Scenario(flight=flight, tiles=tiles, version=metadata.version("onnxruntime")))
                collect(store, KeepPolicy(keep=1, unfinished=False))
        return real(source, destination, **options)

    monkeypatch.setattr(module, "_update_copy", overtaken)
    assert mirror(layout, copy.root).generation == 4
    assert heads == [2, 4]
    assert fly(copy.root) == 4


def test_a_damaged_copy_of_what_a_new_head_names_keeps_the_head_away(layout, copy):
    """The block table of both generations is damaged on the copy and has its size: the new head must not appear."""
    build(layout, flight="f3")
    table = open_view(layout).state.head_build.index.blocks
    path = copy.artifact(table.sha256)
    path.chmod(0o644)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    before = sorted(copy.manifests.iterdir())
    with pytest.raises(NoGoError, match="block table") as caught:
        mirror(layout, copy.root)
    assert caught.value.kind is ErrorKind.ARTIFACT_DAMAGED
    assert sorted(copy.manifests.iterdir()) == before
    assert mirror(layout, copy.root, full=True).replaced == (table.sha256,)
    assert fly(copy.root) == 3


@pytest.mark.parametrize("there", [False, True], ids=["new", "anybody may write to it"])
def test_a_file_system_without_hard_links_is_the_first_reason_and_nothing_is_left(
    layout, tmp_path, monkeypatch, there
):
    """A card with exFAT, on which every folder looks as if anybody may write to it."""
    card = tmp_path / "card"
    card.mkdir()
    if there:
        (card / "c10").mkdir()
        (card / "c10").chmod(0o777)

    def no_links(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(CacheUnusableError, match="hard links") as caught:
        mirror(layout, card / "c10")
    assert caught.value.kind == ErrorKind.FILE_SYSTEM
    assert "c10 export" in caught.value.hint
    assert [path.name for path in card.rglob("*")] == ["c10"] * there


def test_what_a_killed_mirror_tried_the_file_system_with_is_removed_by_the_next(layout, tmp_path):
    killed = """
import os, pathlib, sys
pathlib.Path.unlink = lambda self, missing_ok=False: self.exists() and os._exit(9)
from store.disk.layout import Layout
from store.transfer.mirror import mirror
mirror(Layout(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2]))
"""
    card = tmp_path / "card"
    card.mkdir()
    assert run_python(killed, layout.root, card / "c10", check=False).returncode == 9
    assert list(card.iterdir())
    mirror(layout, card / "c10")
    assert [path.name for path in card.iterdir()] == ["c10"]
