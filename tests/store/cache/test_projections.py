"""The files of a generation appear in one order, each durable: the manifest, which makes it visible, is the last."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.domain.maintenance_events import GenerationSigned
from store.domain.manifest_projection import project
from store.testing import FakeClock
from store.trust.signatures import Signer
from tests.durability import record_durability
from tests.played_builds import Scenario, make, play

ALICE, BOB = (Signer.of(Ed25519PrivateKey.from_private_bytes(name * 32)) for name in (b"a", b"b"))


def open_cache(layout):
    return CacheWriter.open(layout, clock=FakeClock(), create=True, reserve_bytes=0, signer=ALICE)


def test_signatures_come_before_their_manifest(tmp_path, monkeypatch):
    layout = Layout(tmp_path / "cache")
    with open_cache(layout) as store:
        play(store, Scenario())
        signature = BOB.sign(project(store.state, store.state.head))
        signed = make(GenerationSigned, generation=1, key_id=signature.key_id, signature=signature.signature)
        store.add_signature(signed)
    for folder in (layout.segments, layout.manifests):
        for path in folder.iterdir():
            path.unlink()
    calls = record_durability(monkeypatch)
    with open_cache(layout):
        pass
    files = [
        ("segments", "00000001.events"),
        ("manifests", "00000001.sig"),
        ("manifests", "00000001.sig2"),
        ("manifests", "00000001.json"),
    ]
    expected = [
        call for folder, name in files for call in (("fsync", "draft"), ("link", name), ("fsync", folder))
    ]
    assert [
        call for call in calls if call[1] in {"draft", "segments", "manifests"} or call[0] == "link"
    ] == expected
