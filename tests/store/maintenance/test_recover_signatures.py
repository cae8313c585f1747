"""Signatures that no record holds: which of them a rebuild of the journal records again."""

import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from store.cache.view import open_view, read_history
from store.disk.layout import Layout
from store.domain.maintenance_events import GenerationSigned
from store.maintenance import sign
from store.maintenance.collect_garbage import collect
from store.maintenance.rebuild_journal import rebuild
from store.manifest.file_names import MAX_SIGNATURES
from store.policy.retention import KeepPolicy, keep_without
from store.testing import FakeClock
from store.trust.signatures import Signer, TrustedKey, parse_signature, signature_file
from tests.damaging import replace_by
from tests.played_builds import Scenario, play
from tests.store_caches import ALICE, BOB, open_writer


@pytest.fixture
def layout(tmp_path):
    """Three generations: Alice signed each at its commit, Bob all of them after the last."""
    layout = Layout(tmp_path / "cache")
    with open_writer(layout, signer=ALICE) as store:
        for number in range(1, 4):
            play(store, Scenario(flight=f"f{number}"))
        for number in range(1, 4):
            sign.sign(store, number, BOB)
    return layout


def lose(layout):
    layout.journal.unlink()
    layout.journal.write_bytes(b"garbage")


def signers(layout):
    return {
        number: [key_id for key_id, _ in generation.signatures]
        for number, generation in open_view(layout).state.generations.items()
    }


def test_recovered_signatures_have_time_and_host(layout):
    before = {path.name: path.read_bytes() for path in layout.manifests.iterdir()}
    lose(layout)
    rebuilt = rebuild(layout, trusted_keys=(BOB.public,), clock=FakeClock(), host={"name": "here"})
    assert (rebuilt.signatures, rebuilt.signatures_left) == (3, ())
    assert signers(layout) == {number: [ALICE.key_id, BOB.key_id] for number in (1, 2, 3)}
    late = [fact for fact in read_history(layout).facts if isinstance(fact.event, GenerationSigned)]
    assert [(fact.event.generation, fact.event.host, fact.build) for fact in late] == [
        (number, {"name": "here"}, None) for number in (1, 2, 3)
    ]
    with open_writer(layout) as store:
        assert (store.recovered, store.writes) == ((), 0)
    assert {path.name: path.read_bytes() for path in layout.manifests.iterdir()} == before


@pytest.mark.parametrize("keys", [(), (ALICE.public,), (TrustedKey(BOB.public, 0),)])
def test_signatures_without_a_trusted_key_are_reported(layout, keys):
    lose(layout)
    rebuilt = rebuild(layout, **({"trusted_keys": keys} if keys else {}))
    assert rebuilt.signatures == 0
    assert rebuilt.signatures_left == tuple(f"manifests/0000000{number}.sig2" for number in (1, 2, 3))
    assert signers(layout) == {number: [ALICE.key_id] for number in (1, 2, 3)}


def test_a_recorded_signature_is_not_recorded_twice(layout):
    shutil.copy(layout.manifests / "00000003.sig2", layout.manifests / "00000003.sig3")
    rebuilt = rebuild(layout, trusted_keys=(ALICE.public, BOB.public))
    assert (rebuilt.signatures, rebuilt.signatures_left) == (0, ())


@pytest.mark.parametrize("spoil", ["link", "folder", "pipe", "sparse"])
def test_a_file_that_is_no_signature_is_not_recovered(layout, spoil):
    replace_by(layout.manifests / "00000003.sig2", spoil)
    lose(layout)
    assert rebuild(layout, trusted_keys=(BOB.public,)).signatures == 2
    assert signers(layout)[3] == [ALICE.key_id]


def test_the_name_in_quarantine_does_not_matter(layout):
    path = layout.manifests / "00000002.sig2"
    (layout.quarantine / "00000002.sig9.17").write_bytes(path.read_bytes())
    path.unlink()
    lose(layout)
    assert rebuild(layout, trusted_keys=(BOB.public,)).signatures == 3


def test_signatures_of_a_collected_generation_are_not_recovered(layout):
    kept = (layout.manifests / "00000001.sig2").read_bytes()
    with open_writer(layout, exclusive_within_s=1) as store:
        collect(store, KeepPolicy(keep=1))
        assert store.state.collected_generations == {1}
        play(store, Scenario(flight="f4"))
    (layout.quarantine / "00000001.sig2.0").write_bytes(kept)
    lose(layout)
    rebuilt = rebuild(layout, trusted_keys=(BOB.public,))
    # The collection is in a segment, and so are the signatures that were added before the newest commit.
    assert (rebuilt.signatures, rebuilt.signatures_left) == (0, ())


def test_no_more_signatures_are_recovered_than_a_generation_can_have(tmp_path):
    layout = Layout(tmp_path / "cache")
    many = [
        Signer.of(Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)))
        for number in range(1, MAX_SIGNATURES + 2)
    ]
    with open_writer(layout) as store:
        play(store, Scenario())
        for signer in many[:-1]:
            sign.sign(store, None, signer)
    manifest = (layout.manifests / "00000001.json").read_bytes()
    (layout.quarantine / "00000001.sig.0").write_bytes(signature_file(many[-1].sign(manifest)))
    lose(layout)
    assert rebuild(layout, trusted_keys=[each.public for each in many]).signatures == MAX_SIGNATURES
    with open_writer(layout) as store:
        assert len(store.state.generations[1].signatures) == MAX_SIGNATURES


def test_a_signature_file_has_one_form():
    signature = ALICE.sign(b"manifest")
    data = signature_file(signature)
    assert parse_signature(data) == signature
    assert parse_signature(data + b"\n") is None
    assert parse_signature(b"") is None


def test_how_many_builds_a_collection_may_keep_to_remove_some_generations(layout):
    state = open_view(layout).state
    assert keep_without(state, (1,)) == 2
    # The head, and what a rollback would show, stay under any policy.
    assert [keep_without(state, of) for of in ((2,), (3,), (1, 2), ())] == [0, 0, 0, 0]
    with open_writer(layout) as store:
        play(store, Scenario(flight="f4"))
        assert [keep_without(store.state, of) for of in ((1,), (2,), (1, 2), (3,))] == [3, 2, 2, 0]
