import dataclasses
import types
from collections.abc import Mapping
from typing import get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.record import GENESIS, Entry, encode, link
from journal.testing import payloads
from store.base.clock import SystemClock
from store.base.values import ArtifactRef
from store.cache.event_mapper import to_record, to_recorded_event, to_recorded_events
from store.domain import event_codec
from store.domain.events import CacheCreated, CellEmbedded, Event
from store.domain.maintenance_events import GenerationAccepted
from store.domain.state import Unknown
from store.errors import DamagedHistoryError, ErrorKind, UnknownEventError
from tests.examples_tried import examples
from tests.played_builds import make

CLASSES = get_args(Event)
SHA = "ab" * 32

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
integers = st.integers(-(1 << 63), (1 << 64) - 1)
documents = st.dictionaries(
    text,
    st.recursive(
        st.none() | st.booleans() | integers | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
refs = st.builds(
    ArtifactRef, sha256=st.binary(min_size=32, max_size=32).map(bytes.hex), size=st.integers(0, (1 << 63) - 1)
)


def of_hint(hint):
    """A strategy for the type of an event's field."""
    origin = get_origin(hint)
    if origin is types.UnionType:
        return st.one_of(*map(of_hint, get_args(hint)))
    if origin is tuple:
        return st.lists(of_hint(get_args(hint)[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return documents
    return {
        ArtifactRef: refs,
        int: integers,
        str: text,
        bool: st.booleans(),
        types.NoneType: st.none(),
    }[hint]


def of_class(cls):
    return st.builds(cls, **{name: of_hint(hint) for name, hint in get_type_hints(cls).items()})


events = st.one_of(*map(of_class, CLASSES))


def entry_of(record):
    raw = encode(record)
    return Entry(seq=1, chain=link(GENESIS, raw), raw=raw)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_kind_of_event_comes_back(cls):
    @settings(max_examples=examples(25))
    @given(of_class(cls))
    def check(event):
        record = to_record(event, build=3, wall_ns=5, mono_ns=7)
        assert event_codec.TABLE[record.tag][1] is cls
        fact = to_recorded_event(entry_of(record))
        assert fact.event == event
        assert type(fact.event) is cls
        assert (fact.seq, fact.build, fact.wall_ns, fact.mono_ns) == (1, 3, 5, 7)
        assert event_codec.encode(fact.event) == event_codec.encode(event)

    check()


def test_table_names_every_event_once():
    assert {cls for _, cls in event_codec.TABLE.values()} == set(CLASSES)
    assert len(event_codec.TABLE) == len(CLASSES)


def test_tags_and_versions_are_what_they_were():
    """A tag is on disk for ever: this list grows and never changes."""
    assert {tag: version for tag, (version, _) in event_codec.TABLE.items()} == dict.fromkeys(
        (
            "cache.created",
            "build.started",
            "build.planned",
            "tiles.selected",
            "step.started",
            "step.retried",
            "engine.compiled",
            "cell.embedded",
            "index.built",
            "index.extended",
            "step.reused",
            "check.passed",
            "check.failed",
            "coverage.walked",
            "build.committed",
            "build.failed",
            "build.abandoned",
            "build.refused",
            "build.denied",
            "rolled.back",
            "generation.accepted",
            "generation.signed",
            "collection.planned",
            "collected",
            "repaired",
            "imported",
            "tiles.packed",
            "tiles.carried",
        ),
        1,
    )


def test_events_have_slots_and_known_shapes():
    for cls in CLASSES:
        assert "__slots__" in vars(cls)
        assert all(field.kw_only for field in dataclasses.fields(cls))
        for hint in get_type_hints(cls).values():
            of_hint(hint)


@given(st.sampled_from(sorted(event_codec.TABLE)), payloads())
def test_hostile_payloads_are_refused(tag, payload):
    try:
        event = event_codec.decode(tag, 1, payload)
    except DamagedHistoryError as error:
        assert error.kind is ErrorKind.INVALID_EVENT
        return
    assert event_codec.encode(event) == (tag, 1, payload)


@given(events, st.data())
def test_changed_payloads_are_refused_or_mean_what_they_say(event, data):
    tag, version, payload = event_codec.encode(event)
    name = data.draw(st.sampled_from(sorted(payload)))
    match data.draw(st.sampled_from(["change", "drop", "add"])):
        case "change":
            payload[name] = data.draw(payloads(max_leaves=4))
        case "drop":
            del payload[name]
        case "add":
            payload[name + "x"] = None
    try:
        again = event_codec.decode(tag, version, payload)
    except DamagedHistoryError as error:
        assert error.kind is ErrorKind.INVALID_EVENT
        assert tag in error.message
        return
    assert payload.keys() == event_codec.encode(event)[2].keys()
    assert event_codec.encode(again)[2] == payload


@pytest.mark.parametrize(
    "ref",
    [
        None,
        {},
        [],
        SHA,
        {"sha256": SHA},
        {"sha256": SHA, "size": -1},
        {"sha256": SHA, "size": True},
        {"sha256": SHA, "size": 1.0},
        {"sha256": SHA, "size": 1, "name": "x"},
        {"sha256": SHA.upper(), "size": 1},
        {"sha256": "../" * 21 + "x", "size": 1},
        {"sha256": SHA[:-1], "size": 1},
        {"sha256": bytes.fromhex(SHA), "size": 1},
    ],
)
def test_references_that_are_none(ref):
    payload = event_codec.encode(make(CellEmbedded))[2]
    payload["block"] = ref
    with pytest.raises(DamagedHistoryError, match=r"cell\.embedded\.block"):
        event_codec.decode("cell.embedded", 1, payload)


def test_true_is_no_number_and_floats_are_nothing():
    for bad in (True, 1.0, "1", None, b"1"):
        with pytest.raises(DamagedHistoryError, match="generation"):
            event_codec.decode("generation.accepted", 1, {"generation": bad, "why": "", "host": {}})
    for bad in (None, {}, "x", ("x",), [1]):
        with pytest.raises(DamagedHistoryError, match="digests"):
            event_codec.decode("collected", 1, {"digests": bad, "generations": [], "size": 0, "host": {}})
    for bad in (None, [], "x", 1):
        with pytest.raises(DamagedHistoryError, match="instead of a map"):
            event_codec.decode("step.reused", 1, {"kind": "", "count": 1, "keys": bad})
    with pytest.raises(DamagedHistoryError, match="float inside a document"):
        event_codec.decode("step.reused", 1, {"kind": "", "count": 1, "keys": {"a": [{"b": 0.5}]}})


@pytest.mark.parametrize(("tag", "version"), [("cache.created", 2), ("cache.destroyed", 1), ("", 1)])
def test_events_of_a_later_version(tag, version):
    with pytest.raises(UnknownEventError) as unknown:
        event_codec.decode(tag, version, {})
    assert unknown.value.kind is ErrorKind.UNKNOWN_EVENT
    record = to_record(accepted(), build=None, wall_ns=1, mono_ns=1)._replace(version=version)
    if tag:
        record = record._replace(tag=tag, payload=["anything"])
        (fact,) = to_recorded_events([entry_of(record)])
        assert fact.event == Unknown(tag=tag, version=version)


def test_a_version_that_never_was():
    with pytest.raises(DamagedHistoryError, match="version 0"):
        event_codec.decode("cache.created", 0, {})


def accepted():
    return make(GenerationAccepted, generation=1)


def test_old_payloads_are_cast_up_step_by_step(monkeypatch):
    def from_one(payload):
        return {"name": payload["cache_id"]}

    def from_two(payload):
        return {"cache_id": payload["name"], "format": 3, "writer": "old"}

    monkeypatch.setattr(event_codec, "TABLE", {"cache.created": (3, CacheCreated)})
    monkeypatch.setattr(
        event_codec, "UPCASTERS", {("cache.created", 1): from_one, ("cache.created", 2): from_two}
    )
    old = {"cache_id": "a"}
    assert event_codec.decode("cache.created", 1, old) == CacheCreated(cache_id="a", format=3, writer="old")
    assert old == {"cache_id": "a"}
    assert event_codec.decode("cache.created", 2, {"name": "b"}).cache_id == "b"


def test_system_clock_moves():
    clock = SystemClock()
    assert 0 < clock.mono_ns() <= clock.mono_ns()
    assert clock.wall_ns() > 1_600_000_000_000_000_000


def test_documents_nest_only_so_deep():
    deep = {"a": 1}
    for _ in range(40):
        deep = {"a": deep}
    with pytest.raises(DamagedHistoryError, match="inside each other"):
        event_codec.decode(
            "build.started",
            1,
            {"identity": None, "inputs": deep, "calibration": None, "again": False, "host": {}},
        )


def test_text_that_is_no_utf8_is_recorded_as_escapes():
    name = b"caf\xe9 \xc3\xa9".decode("utf-8", "surrogateescape")
    event = GenerationAccepted(generation=1, why=name, host={name: [{"file": name}]})
    record = to_record(event, build=None, wall_ns=0, mono_ns=0)
    escaped = "caf\\udce9 \xe9"
    raw = encode(record)
    found = to_recorded_event(Entry(seq=1, chain=link(GENESIS, raw), raw=raw)).event
    assert found == GenerationAccepted(generation=1, why=escaped, host={escaped: [{"file": escaped}]})
