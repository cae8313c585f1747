"""Decoders of bytes from elsewhere raise the project's own errors, and nothing else."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.testing import payloads, records
from pipeline.errors import RequestError
from pipeline.request.request import BuildRequest
from store.domain import event_codec
from store.errors import NoGoError, StoreError
from store.manifest.manifest import parse
from tests.crash.rigs import rig

pytestmark = pytest.mark.deep

TAGS = (
    sorted(event_codec.TAGS)
    if hasattr(event_codec, "TAGS")
    else ["build.started", "build.committed", "cell.embedded"]
)


def test_almost_valid_inputs_are_accepted_or_refused():
    found = rig("fuzz.run")
    for name, target in found["targets"].items():
        assert target["inputs"] > 0, name
        assert target["accepted"] > 0, f"{name}: nothing came near"
        assert sum(target["refused"].values()) > 0, f"{name}: nothing was refused"


@given(records())
def test_any_record_is_an_event_or_an_error(record):
    try:
        event = event_codec.decode(record.tag, record.version, record.payload)
    except StoreError:
        return
    assert event_codec.encode(event)[:2] == (record.tag, record.version)


@given(st.sampled_from(TAGS), st.integers(-1, 3), payloads())
def test_any_payload_is_an_event_or_an_error(tag, version, payload):
    try:
        event_codec.decode(tag, version, payload)
    except StoreError as error:
        assert error.hint


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_any_json_is_a_manifest_or_an_error(tree):
    with pytest.raises(NoGoError):
        parse(json.dumps(tree).encode() + b"\n")


@settings(max_examples=60)
@given(st.text(max_size=200))
def test_any_text_is_a_request_or_an_error(tmp_path_factory, text):
    with pytest.raises(RequestError):
        BuildRequest.parse(text, base=tmp_path_factory.getbasetemp())
