"""The schemas of events and manifests take what the code takes, and refuse another shape."""

import json
import re
from pathlib import Path
from typing import get_type_hints

import pytest
from jsonschema import Draft202012Validator

from store.base.identity import build_identity
from store.domain import event_codec
from store.domain.event_codec import TABLE
from store.domain.json_schema import events_schema, manifest_schema
from store.errors import DamagedHistoryError, NoGoError
from store.manifest.manifest import parse
from tests.examples_tried import mostly_deep
from tests.golden.stored import manifests_of, state_of
from tests.played_builds import make

EVENTS, MANIFESTS = (Draft202012Validator(schema()) for schema in (events_schema, manifest_schema))
GOLDEN = Path(__file__).parents[2] / "golden"
STRANGE = (None, True, 1, -1, "x", [], [1], {}, {"sha256": "ab", "size": 1}, 1.5)


def event_takes(tag, payload):
    try:
        event_codec.decode(tag, 1, payload)
    except DamagedHistoryError:
        return False
    return True


@pytest.mark.parametrize("tag", TABLE)
def test_an_event_is_taken_by_both_or_by_none(tag):
    _, version, payload = event_codec.encode(make(TABLE[tag][1]))
    documents = [payload, payload | {"another": 1}]
    documents += [{key: value for key, value in payload.items() if key != name} for name in payload]
    documents += [payload | {name: value} for name in payload for value in STRANGE]
    own = described_alone(tag)
    taken = [own.is_valid({"tag": tag, "version": version, "payload": each}) for each in documents]
    assert taken == [event_takes(tag, each) for each in documents]
    assert EVENTS.is_valid({"tag": tag, "version": version, "payload": payload})
    assert not all(taken)


def described_alone(tag):
    """The part for one tag, which every other part refuses at once: to ask all of them takes 28 times as long."""
    schema = events_schema()
    (own,) = (each for each in schema["oneOf"] if each["properties"]["tag"] == {"const": tag})
    assert "tag" in own["required"]
    return Draft202012Validator({**schema, "oneOf": [own]})


def test_an_event_of_another_version_or_tag_is_not_described():
    _, version, payload = event_codec.encode(make(TABLE["collected"][1]))
    assert not EVENTS.is_valid({"tag": "collected", "version": version + 1, "payload": payload})
    assert not EVENTS.is_valid({"tag": "collecting", "version": version, "payload": payload})


@pytest.mark.parametrize("name", ["store_v1", "store_v2", "store_v3"])
def test_golden_caches_are_described(name):
    assert state_of(GOLDEN / name).generations
    for raw in manifests_of(GOLDEN / name).values():
        MANIFESTS.validate(json.loads(raw))


def paths_of(value, here=()):
    if here:
        yield here
    if isinstance(value, dict):
        for name, item in value.items():
            yield from paths_of(item, (*here, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from paths_of(item, (*here, number))


def changed(document, path, value):
    document = json.loads(json.dumps(document))
    *above, last = path
    holder = document
    for name in above:
        holder = holder[name]
    if value is changed:
        del holder[last]
    else:
        holder[last] = value
    document.get("body", {}).get("inputs") and document["body"].update(
        identity=build_identity(document["body"]["inputs"])
    )
    return document


@pytest.mark.parametrize("name", mostly_deep(("store_v1", "store_v2", "store_v3"), "store_v3"))
def test_what_the_reader_takes_of_a_changed_manifest_is_described(name):
    """A member that is missing or of another kind is refused by the schema wherever the reader refuses it."""
    raw = list(manifests_of(GOLDEN / name).values())[-1]
    document, refused = json.loads(raw), 0
    for path in paths_of(document):
        for value in (changed, None, -1, {}):
            try:
                other = changed(document, path, value)
            except (TypeError, ValueError, AttributeError):
                continue
            if not described(other):
                refused += 1
                continue
            assert is_taken(other) or is_inconsistent(path), (path, value)
    assert refused > 100


def described(document):
    return MANIFESTS.is_valid(document)


def is_taken(document):
    try:
        parse(json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    except NoGoError:
        return False
    return True


def is_inconsistent(path):
    """Whether what is there must also agree with another part, which no schema says."""
    return path[1:3] in {
        ("inputs", "models"),
        ("engines", 0),
        ("inputs", "chunks"),
        ("index", "delta"),
    } or path in {
        ("body", "engines"),
        ("body", "index"),
    }


DOCS = Path(__file__).parents[3] / "docs"


def names_in(schema):
    """Yield the names of all members that a schema describes."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for part in schema.values():
            yield from names_in(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from names_in(part)


@pytest.mark.parametrize(("page", "schema"), [("events.md", events_schema), ("manifest.md", manifest_schema)])
def test_the_documents_have_every_member(page, schema):
    words = set(re.findall(r"[a-z0-9_]+", " ".join(re.findall(r"`[^`\n]+`", (DOCS / page).read_text()))))
    assert set(names_in(schema())) - words == set()


def test_the_documents_have_the_fields_of_every_event():
    rows = re.findall(r"^\| `([a-z.]+)` \| (.*) \|$", (DOCS / "events.md").read_text(), re.MULTILINE)
    told = {tag: text for tag, text in reversed(rows) if tag in TABLE}  # the first table
    same = {"check.failed": "check.passed"}
    assert told.keys() == TABLE.keys()
    for tag, (_, cls) in TABLE.items():
        text = told[tag] + told.get(same.get(tag), "")
        assert {name for name in get_type_hints(cls) if f"`{name}`" not in text} == set(), tag
