"""Caches that are signed: commits, healing, keys that change, and ground verification."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from store.cache.view import open_view, read_history
from store.domain.events import BuildCommitted
from store.domain.maintenance_events import GenerationAccepted
from store.errors import ErrorKind, NoGoError
from store.policy import rollback
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.runtime.capabilities import library_version
from store.trust.signatures import TrustedKey, signature_file
from store.verify.report import Depth, ProblemKind
from store.verify.verify import verify
from tests.cache_facts import warnings_of
from tests.child_python import run_python
from tests.played_builds import Scenario, make, play
from tests.store_caches import ALICE, BOB, open_writer, record_builds

ROOT = Path(__file__).parents[3]
VERSION = library_version("onnxruntime") or "1"


def fly(layout, *keys, **changes):
    return FlightCache.open(layout.root, trusted_keys=keys, **changes)


def no_go(layout, *keys, kind=ErrorKind.SIGNATURE, **changes):
    with pytest.raises(NoGoError) as error:
        fly(layout, *keys, **changes).close()
    assert error.value.kind is kind
    return error.value.reasons


FIRST, SECOND = Scenario(version=VERSION), Scenario(version=VERSION, flight="f2")


class TestCommit:
    def test_builds_and_rollbacks_are_signed(self, layout):
        with open_writer(layout, signer=ALICE) as store:
            play(store, FIRST)
            play(store, SECOND)
            store.roll_back(rollback.plan(store.state, to=None, why=""))
        for generation in (1, 2, 3):
            fly(layout, ALICE.public, generation=generation).close()
            no_go(layout, BOB.public, generation=generation)
        events = [fact.event for fact in read_history(layout).facts if isinstance(fact.event, BuildCommitted)]
        assert {event.key_id for event in events} == {ALICE.key_id}
        assert len({event.signature for event in events}) == 3
        assert verify(layout, depth=Depth.FULL, trusted_keys=[ALICE.public]).signed_by == ALICE.key_id

    def test_recovery_needs_no_private_key(self, layout):
        record_builds(layout, FIRST, signer=ALICE)
        path = layout.manifests / "00000001.sig"
        before = path.read_bytes()
        path.unlink()
        no_go(layout, ALICE.public)
        with open_writer(layout) as store:
            assert len(store.recovered) == 1
        assert path.read_bytes() == before
        fly(layout, ALICE.public).close()

    def test_a_head_that_moved_is_signed_again(self, layout):
        """Somebody appends between signing and committing: the manifest is another then, and so is its signature."""
        with open_writer(layout) as store:

            class Slow:
                count = 0

                def sign(self, raw):
                    self.count += 1
                    if self.count == 1:
                        store.event_store.journal.append([store.event_store.record(accepted, build=None)])
                    return ALICE.sign(raw)

            play(store, FIRST)
            accepted = make(GenerationAccepted, generation=1)
            store.signer = Slow()
            play(store, SECOND)
            assert store.signer.count == 2
        fly(layout, ALICE.public).close()

    def test_names_of_manifests_do_not_matter(self, layout):
        renamed = replace(layout, manifest_filename="flight-{generation:08d}.json")
        record_builds(renamed, FIRST, signer=ALICE)
        assert (layout.manifests / "flight-00000001.sig").exists()
        fly(layout, ALICE.public).close()

    def test_signed_and_unsigned_generations_in_one_cache(self, layout):
        for signer, scenario in ((None, FIRST), (ALICE, SECOND)):
            record_builds(layout, scenario, signer=signer)
        fly(layout, ALICE.public).close()
        assert "found no regular file" in no_go(layout, ALICE.public, generation=1)[0]
        assert verify(layout, trusted_keys=[ALICE.public]).go

    def test_keys_are_exchanged_by_generation(self, layout):
        record_builds(layout, FIRST, signer=ALICE)
        keys = (TrustedKey(ALICE.public, 1), TrustedKey(BOB.public))
        fly(layout, *keys).close()
        record_builds(layout, SECOND, signer=ALICE)
        assert "not_after" in no_go(layout, *keys)[0]
        record_builds(layout, replace(SECOND, flight="f3"), signer=BOB)
        fly(layout, *keys).close()

    def test_another_name_does_not_stretch_a_bound(self, layout):
        """The bound is held to the file's name before parsing, and the name to the content after it."""
        record_builds(layout, FIRST, SECOND, signer=ALICE)
        for name in ("json", "sig"):
            path = layout.manifests / f"00000001.{name}"
            path.unlink()
            os.link(layout.manifests / f"00000002.{name}", path)
        reasons = no_go(layout, TrustedKey(ALICE.public, 1), generation=1, kind=ErrorKind.VERIFICATION)
        assert "expected generation 1 as its name says, found 2" in reasons[0]


class TestGround:
    def test_ground_and_aircraft_agree(self, layout):
        record_builds(layout, FIRST)
        result = verify(layout, trusted_keys=[ALICE.public])
        assert [problem.kind for problem in result.problems] == [ProblemKind.SIGNATURE]
        assert "signing_key" in result.problems[0].fix
        assert (result.signed_by, result.head_sound, result.only_device) == (None, False, False)
        assert str(result.problems[0]) == no_go(layout, ALICE.public)[0]

    def test_what_was_not_checked_is_said(self, layout):
        record_builds(layout, FIRST, signer=ALICE)
        result = verify(layout, trusted_keys=ALLOW_UNSIGNED)
        assert (result.go, result.signed_by) == (True, None)
        assert "signature-unchecked" in dict(warnings_of(result))
        result = verify(layout, trusted_keys=[BOB.public])
        assert (result.go, result.signed_by) == (False, None)
        result = verify(layout, trusted_keys=[BOB.public, ALICE.public])
        assert (result.go, result.signed_by) == (True, ALICE.key_id)
        assert not {"signature-unchecked", "unsigned"} & dict(warnings_of(result)).keys()
        record_builds(layout, SECOND)
        assert "unsigned" in dict(warnings_of(verify(layout, trusted_keys=ALLOW_UNSIGNED)))

    @pytest.mark.parametrize("change", ["flip", "other", "raw", "empty"])
    def test_a_damaged_signature_file_is_found(self, layout, change):
        record_builds(layout, FIRST, SECOND, signer=ALICE)
        path = layout.manifests / "00000002.sig"
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(
            {
                "flip": data[:70] + bytes([data[70] ^ 1]) + data[71:],
                "other": (layout.manifests / "00000001.sig").read_bytes(),
                "raw": bytes.fromhex(open_view(layout).state.generations[2].signatures[0][1]),
                "empty": b"",
            }[change]
        )
        no_go(layout, ALICE.public)
        for depth in Depth:
            (problem,) = verify(layout, depth=depth, trusted_keys=[ALICE.public]).problems
            assert (problem.kind, problem.path) == (ProblemKind.PROJECTION_DAMAGED, "manifests/00000002.sig")

    def test_a_signature_that_nobody_made(self, layout):
        record_builds(layout, FIRST)
        (layout.manifests / "00000001.sig").write_bytes(signature_file(ALICE.sign(b"other")))
        (problem,) = verify(layout).problems
        assert (problem.kind, problem.path) == (ProblemKind.STRANGER, "manifests/00000001.sig")

    def test_a_signed_cache_of_another_device_is_still_signed(self, layout):
        record_builds(layout, replace(FIRST, target="orin"), signer=ALICE)
        result = verify(layout, trusted_keys=[ALICE.public])
        assert (result.only_device, result.signed_by) == (True, ALICE.key_id)


def test_cryptography_is_imported_only_if_keys_are_given(layout):
    record_builds(layout, FIRST, signer=ALICE)
    code = (
        "import sys; from store.reader import FlightCache, ALLOW_UNSIGNED\n"
        "FlightCache.open(sys.argv[1], trusted_keys=ALLOW_UNSIGNED).close(); print('cryptography' in sys.modules)\n"
        "FlightCache.open(sys.argv[1], trusted_keys=[bytes.fromhex(sys.argv[2])]).close()\n"
        "print('cryptography' in sys.modules, 'journal' in sys.modules)"
    )
    assert run_python(code, str(layout.root), ALICE.public.hex()).stdout.strip().split() == [
        "False",
        "True",
        "False",
    ]
    code = (
        "import sys; from tools.cli import cli\n"
        "try:\n    cli.main(['status', '--cache', sys.argv[1]])\n"
        "except SystemExit as end:\n    print(end.code, 'cryptography' in sys.modules)"
    )
    assert run_python(code, str(layout.root)).stdout.strip().split("\n")[-1] == "0 False"
