"""Signatures after the commit: several keys, one at a time, and what a killed signing leaves."""

import os
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from store.cache.projections import Projections
from store.cache.view import open_view, read_history
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.maintenance_events import GenerationSigned, Repaired
from store.errors import (
    DamagedHistoryError,
    ErrorKind,
    NoGoError,
    RequestRefusedError,
    UnprojectedError,
)
from store.maintenance.collect_garbage import collect
from store.maintenance.sign import sign
from store.manifest.file_names import MAX_SIGNATURES
from store.policy import rollback
from store.policy.recovery import Project, SetAside
from store.policy.retention import KeepPolicy
from store.reader import FlightCache
from store.runtime.capabilities import library_version
from store.trust.signatures import Signer, TrustedKey, signature_file
from store.verify.coverage import find_foreign_files
from store.verify.report import Depth, ProblemKind
from store.verify.verify import verify
from tests.damaging import replace_by
from tests.played_builds import Scenario, StopDeadError, play
from tests.store_caches import open_writer, record_builds

FIRST = Scenario(version=library_version("onnxruntime") or "1")
SECOND = replace(FIRST, flight="f2")


def signer(number):
    return Signer.of(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


ALICE, BOB, CAROL = signer(1), signer(2), signer(3)


@pytest.fixture
def layout(tmp_path):
    """Two unsigned generations."""
    layout = Layout(tmp_path / "cache")
    record_builds(layout, FIRST, SECOND)
    return layout


def signed(layout, by, number=None):
    with open_writer(layout) as store:
        return sign(store, number, by)


def flies(layout, *keys, generation=None):
    try:
        FlightCache.open(layout.root, trusted_keys=keys, generation=generation).close()
    except NoGoError as error:
        assert error.kind is ErrorKind.SIGNATURE
        return False
    return True


def signatures(layout):
    return sorted(path.name for path in layout.manifests.iterdir() if ".sig" in path.name)


def wrong(layout, *keys):
    """Return the problems of a full verification, without those of the played engine and index."""
    found = verify(layout, depth=Depth.FULL, **({"trusted_keys": keys} if keys else {}))
    return [problem for problem in found.problems if problem.kind is not ProblemKind.CONTENT]


def refused(layout, by=ALICE, number=None):
    before = (open_view(layout).head, signatures(layout))
    with pytest.raises(RequestRefusedError) as error:
        signed(layout, by, number)
    assert (open_view(layout).head, signatures(layout)) == before
    return error.value


def test_an_unsigned_cache_is_signed_later(layout):
    before = (layout.manifests / "00000002.json").read_bytes()
    done = signed(layout, ALICE)
    assert (done.generation, done.changed, done.signed_by) == (2, True, (ALICE.key_id,))
    assert signatures(layout) == ["00000002.sig"]
    assert (layout.manifests / "00000002.json").read_bytes() == before
    assert flies(layout, ALICE.public)
    assert not flies(layout, ALICE.public, generation=1)
    assert signed(layout, ALICE, 1).changed
    assert flies(layout, ALICE.public, generation=1)
    assert wrong(layout, ALICE.public) == []
    assert verify(layout, trusted_keys=[ALICE.public]).signed_by == ALICE.key_id


def test_a_key_that_signed_it_already_changes_nothing(layout):
    signed(layout, ALICE)
    head = open_view(layout).head
    with open_writer(layout) as store:
        done = sign(store, 2, ALICE)
        assert (done.changed, store.writes) == (False, 0)
    assert open_view(layout).head == head


def test_one_trusted_key_of_several_is_enough(layout):
    for key in (ALICE, BOB, CAROL):
        signed(layout, key)
    assert signatures(layout) == ["00000002.sig", "00000002.sig2", "00000002.sig3"]
    assert all((layout.manifests / name).stat().st_size == 184 for name in signatures(layout))
    for key in (ALICE, BOB, CAROL):
        assert flies(layout, key.public)
        assert verify(layout, trusted_keys=[key.public]).signed_by == key.key_id
    assert not flies(layout, signer(9).public)
    assert not flies(layout, TrustedKey(ALICE.public, 1), TrustedKey(BOB.public, 1))
    collected_generations = (TrustedKey(ALICE.public, 1), TrustedKey(BOB.public))
    assert verify(layout, depth=Depth.FULL, trusted_keys=collected_generations).signed_by == BOB.key_id
    assert find_foreign_files(Artifacts(layout)) == ()


@pytest.mark.parametrize("change", ["gone", "garbage", "link", "folder"])
def test_a_damaged_signature_does_not_invalidate_the_others(layout, change):
    for key in (ALICE, BOB):
        signed(layout, key)
    path = layout.manifests / "00000002.sig"
    path.unlink()
    match change:
        case "garbage":
            path.write_bytes(b"x" * 184)
        case "link":
            path.symlink_to("00000002.sig2")
        case "folder":
            path.mkdir()
    assert flies(layout, BOB.public)
    assert not flies(layout, ALICE.public)
    assert not verify(layout, trusted_keys=[BOB.public]).go


def test_the_next_writer_writes_the_signature_file_of_a_killed_one(layout, monkeypatch):
    signed(layout, ALICE)

    def dies(*_):
        raise StopDeadError

    with monkeypatch.context() as patched:
        patched.setattr(Projections, "write", dies)
        with pytest.raises(StopDeadError):
            signed(layout, BOB)
    assert signatures(layout) == ["00000002.sig"]
    assert not flies(layout, BOB.public)
    assert flies(layout, ALICE.public)
    with open_writer(layout) as store:
        assert store.recovered == (Project(2),)
        assert sign(store, None, BOB).changed is False
    assert signatures(layout) == ["00000002.sig", "00000002.sig2"]
    assert flies(layout, BOB.public)
    with open_writer(layout) as store:
        assert (store.recovered, store.writes) == ((), 0)


def test_lost_signature_files_are_written_again_without_a_key(layout):
    for key in (ALICE, BOB):
        signed(layout, key)
    before = [(layout.manifests / name).read_bytes() for name in signatures(layout)]
    for name in signatures(layout):
        (layout.manifests / name).unlink()
    with open_writer(layout):
        pass
    assert [(layout.manifests / name).read_bytes() for name in signatures(layout)] == before


def test_a_retired_key_signs_up_to_its_limit_alone(layout):
    limited = TrustedKey(ALICE.public, 1)
    with open_writer(layout) as store:
        with pytest.raises(RequestRefusedError, match="limits to generation 1") as caught:
            sign(store, 2, ALICE, keys=[TrustedKey(ALICE.public), limited])
        assert caught.value.kind is ErrorKind.KEY
        assert sign(store, 1, ALICE, keys=[limited]).changed
    assert signatures(layout) == ["00000001.sig"]
    assert flies(layout, limited, generation=1)


def test_a_manifest_that_is_not_the_projection_is_not_signed(layout):
    path = layout.manifests / "00000001.json"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data.replace(b"f1", b"f9"))
    error = refused(layout, number=1)
    assert (error.kind, error.hint) == (ErrorKind.TARGET_DAMAGED, f"c10 repair --cache {layout.root}")
    assert "manifests/00000001.json" in error.message
    path.unlink()
    path.mkdir()
    assert refused(layout, number=1).kind is ErrorKind.TARGET_DAMAGED


def test_a_taken_file_name_is_refused_before_anything_is_appended(layout):
    (layout.manifests / "00000002.sig").write_bytes(signature_file(BOB.sign(b"other")))
    error = refused(layout)
    assert error.kind is ErrorKind.TARGET_DAMAGED
    assert "manifests/00000002.sig" in error.message
    (layout.manifests / "00000002.sig").unlink()
    # The very bytes that would be written are as good as written.
    (layout.manifests / "00000002.sig").write_bytes(
        signature_file(ALICE.sign((layout.manifests / "00000002.json").read_bytes()))
    )
    assert signed(layout, ALICE).changed
    assert flies(layout, ALICE.public)


@pytest.mark.parametrize(
    ("number", "kind"), [(3, ErrorKind.UNKNOWN_GENERATION), (0, ErrorKind.UNKNOWN_GENERATION)]
)
def test_an_unknown_generation_is_refused(layout, number, kind):
    assert refused(layout, number=number).kind is kind


def test_a_cache_without_a_generation(tmp_path):
    with open_writer(Layout(tmp_path / "new")) as store, pytest.raises(RequestRefusedError) as error:
        sign(store, None, ALICE)
    assert error.value.kind is ErrorKind.NO_GENERATION


def test_a_generation_has_a_limited_number_of_signatures(layout):
    with open_writer(layout) as store:
        for number in range(MAX_SIGNATURES):
            sign(store, None, signer(100 + number))
        with pytest.raises(RequestRefusedError) as error:
            sign(store, None, ALICE)
        assert error.value.kind is ErrorKind.SIGNATURE
        event = GenerationSigned(generation=2, signature="ab" * 64, key_id="k", host={})
        with pytest.raises(DamagedHistoryError, match="took no more signatures"):
            store.append(event, build=None)
    assert flies(layout, signer(100 + MAX_SIGNATURES - 1).public)


def test_a_collection_removes_all_signatures_and_forbids_new_ones(layout):
    for key in (ALICE, BOB):
        signed(layout, key, 1)
        signed(layout, key, 2)
    record_builds(layout, replace(FIRST, flight="f3"))
    with open_writer(layout, create=False, exclusive_within_s=1.0) as store:
        done = collect(store, KeepPolicy(keep=1))
        assert done.decision.collected_generations == (1,)
    assert signatures(layout) == ["00000002.sig", "00000002.sig2"]
    assert refused(layout, number=1).kind is ErrorKind.COLLECTED
    with open_writer(layout) as store:
        assert store.recovered == ()
    assert wrong(layout) == []


class TestInTheWay:
    """A signature file of a generation that is not committed yet."""

    @pytest.mark.parametrize("shape", ["file", "dangling", "pipe", "full folder"])
    @pytest.mark.parametrize("name", ["00000003.sig", "00000003.sig2", "flight-00000007.sig"])
    def test_it_is_moved_to_quarantine_and_the_build_continues(self, layout, name, shape):
        path = layout.manifests / name
        path.write_bytes(b"x")
        if shape != "file":
            replace_by(path, shape)
        with open_writer(layout, signer=ALICE) as store:
            assert store.recovered == (SetAside(name),)
            generation, _ = play(store, replace(FIRST, flight="f3"))
        assert generation.number == 3
        assert flies(layout, ALICE.public)
        kept = layout.quarantine / f"{name}.0"
        assert os.path.lexists(kept)
        if shape in {"file", "full folder"}:
            assert (kept / "within" if shape == "full folder" else kept).read_bytes() == b"x"
        (event,) = [fact.event for fact in read_history(layout).facts if isinstance(fact.event, Repaired)]
        assert (event.subject, event.quarantine) == (f"manifests/{name}", f"quarantine/{name}.0")
        assert wrong(layout, ALICE.public) == []
        with open_writer(layout) as store:
            assert store.recovered == ()

    def test_one_that_appears_during_a_build_is_reported_with_its_fix(self, layout):
        with open_writer(layout, signer=ALICE) as store:
            (layout.manifests / "00000003.sig").write_bytes(b"planted")
            with pytest.raises(UnprojectedError) as error:
                store.roll_back(rollback.plan(store.state, to=1, why=""))
        assert "manifests/00000003.sig" in error.value.message
        assert error.value.hint.startswith(f"c10 repair --cache {layout.root}")

    @pytest.mark.parametrize("folder", ["manifests", "segments"])
    @pytest.mark.parametrize("number", [3, 9])
    def test_a_manifest_or_segment_is_reported_with_its_fix(self, layout, folder, number):
        name = f"{number:08d}.{'json' if folder == 'manifests' else 'events'}"
        (layout.root / folder / name).write_bytes(b"planted")
        for act in (lambda: open_view(layout), lambda: open_writer(layout).__enter__()):
            with pytest.raises(DamagedHistoryError) as error:
                act()
            assert f"{folder}/{name}" in error.value.message
            assert error.value.hint.startswith(f"c10 repair --cache {layout.root} ")
