from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from store.disk.layout import Layout
from store.errors import ErrorKind, IncompatibleDeviceError, NoGoError
from store.trust.go_no_go import ALLOW_UNSIGNED, Policy, check_flightworthy, foreign_engines
from store.trust.signatures import Signer, signature_file
from tests.played_builds import Scenario, play
from tests.store_caches import open_writer

SIGNER = Signer.of(Ed25519PrivateKey.from_private_bytes(b"a" * 32))

HERE = Policy(
    trusted_keys=ALLOW_UNSIGNED,
    installed={"onnxruntime": "1"}.get,
    runs_here=lambda backend, target: (backend, target) == ("onnxruntime", "cpu"),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Bytes of a manifest of generation 2, and its cache id."""
    layout = Layout(tmp_path_factory.mktemp("verdict") / "cache")
    with open_writer(layout) as store:
        play(store, Scenario())
        play(store, Scenario(flight="f2"))
        cache_id = store.state.cache_id
    return (layout.manifests / layout.manifest_name(2)).read_bytes(), cache_id


def no_go(raw, *, signature=None, generation=2, error=NoGoError, **policy):
    files = () if signature is None else (signature,)
    with pytest.raises(error) as found:
        check_flightworthy(raw, files, generation=generation, policy=replace(HERE, **policy))
    return found.value


def test_go(cache):
    raw, cache_id = cache
    for floor in (None, 0, 1, 2, {cache_id: 2}, {cache_id: 0, "other": 9}):
        found = check_flightworthy(raw, (), generation=2, policy=replace(HERE, floor=floor))
        assert (found.raw, found.envelope.generation) == (raw, 2)


def test_a_trusted_signature_is_enough(cache):
    signature = signature_file(SIGNER.sign(cache[0]))
    policy = replace(HERE, trusted_keys=[SIGNER.public])
    assert check_flightworthy(cache[0], (signature,), generation=2, policy=policy).raw == cache[0]


@pytest.mark.parametrize("signature", [None, b"", b"x" * 64])
def test_signature_comes_first(signature):
    error = no_go(b"hostile", signature=signature, trusted_keys=[bytes(32)])
    assert error.kind is ErrorKind.SIGNATURE


def test_an_empty_list_of_keys_refuses_everything(cache):
    assert no_go(cache[0], trusted_keys=()).kind is ErrorKind.SIGNATURE


def test_a_check_on_the_ground_skips_only_the_device(cache):
    ground = replace(HERE, runs_here=lambda *_: False, installed={"onnxruntime": "2"}.get, flown=False)
    found = check_flightworthy(cache[0], (), generation=2, policy=ground)
    assert foreign_engines(found, ground).keys() == {"place"}
    assert foreign_engines(found, HERE) == {}
    other_version = replace(HERE, installed={"onnxruntime": "2"}.get, flown=False)
    found = check_flightworthy(cache[0], (), generation=2, policy=other_version)
    assert "made by onnxruntime 1" in foreign_engines(found, other_version)["place"]
    assert no_go(cache[0], runs_here=lambda *_: False, floor=3, flown=False).kind is ErrorKind.FLOOR


def test_manifest_comes_before_floor_and_device():
    assert no_go(b"hostile", floor=9, runs_here=lambda *_: False).kind is ErrorKind.MANIFEST_INVALID


@pytest.mark.parametrize("generation", [0, 1, 3])
def test_a_generation_under_another_name(cache, generation):
    error = no_go(cache[0], generation=generation)
    assert error.kind is ErrorKind.VERIFICATION
    assert f"expected generation {generation}" in error.message


def test_floor(cache):
    raw, cache_id = cache
    for floor in (3, {cache_id: 3}):
        error = no_go(raw, floor=floor, runs_here=lambda *_: False)
        assert error.kind is ErrorKind.FLOOR
        assert "expected 3 or newer, found 2" in error.message
    error = no_go(raw, floor={"other": 0})
    assert error.kind is ErrorKind.FLOOR
    assert cache_id in error.message
    assert no_go(raw, floor={}).kind is ErrorKind.FLOOR


def test_device(cache):
    raw, _ = cache
    for policy in (
        {"runs_here": lambda *_: False},
        {"runs_here": lambda _, target: target == "orin"},
        {"installed": {"onnxruntime": "2"}.get},
    ):
        error = no_go(raw, error=IncompatibleDeviceError, **policy)
        assert error.kind is ErrorKind.DEVICE
        assert "engine place" in error.message
    assert check_flightworthy(raw, (), generation=2, policy=replace(HERE, installed={}.get))
