"""The file of golden answers, what is attached to an engine, and the keys of parity records."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.preprocessing import Preprocessing
from store.base.values import ArtifactRef
from store.domain.attachments import (
    GOLDEN,
    TIMING_CACHE,
    artifacts_of,
    attached,
    attached_to_failure,
    with_attached,
    without_attached,
)
from store.domain.events import BuildFailed, EngineCompiled
from store.domain.state import STAND_IN, Build, State
from store.domain.step_cache import RecordedBy, StepCache
from store.errors import ArtifactError, DamagedHistoryError
from store.reader import engine_parity
from store.runtime.backends.gpu import Gpu
from store.runtime.golden_vectors import (
    ANSWERED,
    decode_answers,
    encode_answers,
    golden_images,
    golden_inputs,
    golden_samples,
)
from store.verify.coverage import referenced_by
from tests.played_builds import make, ref_of

CONTRACT = Preprocessing(
    size=(16, 24), colour="bgr", layout="nhwc", mean=(1.0, 2.0, 3.0), std=(255.0, 255.0, 255.0)
)


def test_answers_survive_encoding():
    vectors = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
    data = encode_answers(vectors)
    assert data[:16] == b"C10GOLD1\x03\x00\x00\x00\x05\x00\x00\x00"
    assert len(data) == 16 + 3 * 5 * 4
    found = decode_answers(data)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, vectors)
    np.testing.assert_array_equal(decode_answers(memoryview(data)), vectors)
    assert encode_answers(np.asfortranarray(vectors)) == data


def test_damaged_answers_are_refused():
    data = encode_answers(np.ones((2, 3), np.float32))
    for length in range(len(data)):
        with pytest.raises(ArtifactError):
            decode_answers(data[:length])
    for bad in (
        data + b"\0",
        b"C10GOLD2" + data[8:],
        encode_answers(np.full((2, 3), np.nan, np.float32)),
        encode_answers(np.full((1, 1), np.inf, np.float32)),
        encode_answers(np.empty((0, 3), np.float32)),
        encode_answers(np.empty((3, 0), np.float32)),
        b"C10GOLD1" + b"\xff" * 8,
        encode_answers(np.ones((1025, 1), np.float32)),
    ):
        with pytest.raises(ArtifactError):
            decode_answers(bad)


@given(st.binary(max_size=80))
def test_anything_else_is_refused(data):
    with pytest.raises(ArtifactError):
        decode_answers(data)


def test_samples_are_golden_images_as_a_network_takes_them():
    samples = golden_samples(CONTRACT, ANSWERED)
    assert (samples.shape, samples.dtype) == ((ANSWERED, 16, 24, 3), np.float32)
    image = golden_images(ANSWERED, 16, 24)[-1]
    np.testing.assert_array_equal(samples[-1], CONTRACT.apply(image))
    # The first images do not depend on how many follow.
    np.testing.assert_array_equal(golden_samples(CONTRACT, 1)[0], samples[0])


@pytest.mark.parametrize("shape", [(2, 3, 16, 24), (2, 16, 24, 3)])
def test_raw_samples_are_golden_images_in_the_layout_of_the_network(shape):
    found = golden_inputs(shape)
    assert (found.shape, found.dtype) == (shape, np.float32)
    images = found if shape[-1] == 3 else found.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(images, golden_images(2, 16, 24))


def test_raw_samples_of_another_shape_are_bytes_that_depend_on_the_seed():
    first, other = golden_inputs((4, 100)), golden_inputs((4, 100), seed=1)
    assert (first.shape, first.dtype) == ((4, 100), np.float32)
    assert 0 <= first.min() < 20
    assert 235 < first.max() <= 255
    assert (first == other).mean() < 0.1
    np.testing.assert_array_equal(golden_inputs((2, 200)).reshape(4, 100), first)


def compiled(**refs):
    return make(
        EngineCompiled,
        key="k",
        artifact=ref_of(b"engine"),
        signature=with_attached({"input": "x"}, refs),
        purpose=STAND_IN,
    )


def test_what_is_attached_to_an_engine():
    golden, cache = ref_of(b"golden"), ref_of(b"cache")
    event = compiled(**{GOLDEN: golden, TIMING_CACHE: cache})
    assert attached(event) == {GOLDEN: golden, TIMING_CACHE: cache}
    assert artifacts_of(event) == (event.artifact, golden, cache)
    assert without_attached(event.signature) == {"input": "x"}
    assert attached(compiled()) == {}
    assert compiled().signature == {"input": "x"}
    assert with_attached(event.signature, {}) == {"input": "x"}


@pytest.mark.parametrize(
    "found",
    [
        [],
        "x",
        {"golden": 1},
        {"golden": {"sha256": "ab" * 32}},
        {"golden": {"sha256": "x", "size": 1}},
        {"golden": {"sha256": "ab" * 32, "size": -1}},
        {"golden": {"sha256": "ab" * 32, "size": True}},
        {"golden": {"sha256": "ab" * 32, "size": 1, "name": "x"}},
    ],
)
def test_an_attachment_that_is_no_reference_is_no_history(found):
    event = make(EngineCompiled, signature={"attached": found})
    with pytest.raises(DamagedHistoryError, match="attachments of engine"):
        attached(event)


@pytest.mark.parametrize(
    "inputs", [{}, {"attached": []}, {"attached": {"tile": {"sha256": "x", "size": 1}, "window": 3}}]
)
def test_a_failure_with_strange_attachments_is_history(inputs):
    assert attached_to_failure(make(BuildFailed, inputs=inputs)) == {}


def test_attached_references_are_returned_beside_attachments_that_are_none():
    tile = ref_of(b"tile")
    whole = {"sha256": tile.sha256, "size": tile.size}
    event = make(BuildFailed, inputs={"attached": {"tile": whole, "window": {**whole, "more": 1}}})
    assert attached_to_failure(event) == {"tile": tile}


def test_what_is_attached_to_an_engine_is_referenced_with_it():
    golden = ref_of(b"golden")
    event = compiled(golden=golden)
    step_cache = StepCache()
    step_cache.record_result(event, RecordedBy(3, 1))
    both = {event.artifact.sha256, golden.sha256}
    assert {*step_cache.made} == both
    assert referenced_by(State(step_cache=step_cache)) == both
    build = Build(number=1, started_seq=1, started_ns=0, stand_ins=(("place", event),))
    assert referenced_by(State(builds={1: build})) == both
    step_cache.evict(frozenset({golden.sha256}))
    assert {*step_cache.engines} == {"k"}


def test_the_device_of_a_parity_key(monkeypatch):
    card = Gpu(index=0, name="Orin", capability="sm87", memory=1 << 33, driver="12.6")
    monkeypatch.setattr(engine_parity, "gpus", lambda: (card,))
    assert engine_parity.describe_device("tensorrt") == "sm87:Orin, CUDA 12.6"
    monkeypatch.setattr(engine_parity, "gpus", tuple)
    assert engine_parity.describe_device("tensorrt-rtx") == "no GPU"
    assert ": " in engine_parity.describe_device("onnxruntime")


def test_every_field_of_a_parity_key_counts():
    parts = {"engine": "e", "golden": "g", "backend": "openvino", "version": "1"}
    one = engine_parity.parity_key(**parts, preprocessing=CONTRACT)
    names = {one.name}
    for name in parts:
        names.add(engine_parity.parity_key(**(parts | {name: "other"}), preprocessing=CONTRACT).name)
    other = Preprocessing(size=(8, 8), colour="rgb", layout="nchw", mean=(0.0,) * 3, std=(1.0,) * 3)
    names.add(engine_parity.parity_key(**parts, preprocessing=other).name)
    assert len(names) == 6


def test_answers_of_another_shape_never_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_parity, "_measured", {})
    key = engine_parity.parity_key(engine="e", golden="g", backend="x", version="1", preprocessing=CONTRACT)
    with pytest.raises(engine_parity.NoGoError, match="found -1"):
        engine_parity.require_parity(
            key,
            lambda samples: np.ones((len(samples), 4), np.float32),
            answers=lambda: np.ones((2, 5), np.float32),
            preprocessing=CONTRACT,
            least_cosine=0.5,
            folder=tmp_path,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_reference_is_no_path():
    assert attached(compiled(golden=ArtifactRef(sha256="0" * 64, size=0)))[GOLDEN].size == 0
