"""Events to and from (tag, version, payload): an explicit table.

Tags are short, stable and never a class path: a class may move or be renamed, a tag may not. The payload is a
map from field name to plain data; its shape is fixed by the version beside the tag. Reading is strict, since a
journal may come from elsewhere: a missing, surplus or mistyped field is an error, never a default. When a
version 2 of a tag appears, its upcaster goes into `UPCASTERS`, works on payloads, in memory, after the chain
was verified; stored records are never rewritten.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeAlias, get_args, get_origin, get_type_hints

from store.base.canonical_json import Document, is_digest
from store.base.values import ArtifactRef
from store.domain import events as e
from store.domain import maintenance_events
from store.domain.events import Event
from store.errors import DamagedHistoryError, ErrorKind, UnknownEventError

TABLE: Mapping[str, tuple[int, type[Event]]] = {
    "cache.created": (1, e.CacheCreated),
    "build.started": (1, e.BuildStarted),
    "build.planned": (1, e.BuildPlanned),
    "tiles.selected": (1, e.TilesSelected),
    "step.started": (1, e.StepStarted),
    "step.retried": (1, e.StepRetried),
    "engine.compiled": (1, e.EngineCompiled),
    "cell.embedded": (1, e.CellEmbedded),
    "tiles.packed": (1, e.TilesPacked),
    "tiles.carried": (1, e.TilesCarried),
    "index.built": (1, e.IndexBuilt),
    "index.extended": (1, e.IndexExtended),
    "step.reused": (1, e.StepReused),
    "check.passed": (1, e.CheckPassed),
    "check.failed": (1, e.CheckFailed),
    "coverage.walked": (1, e.CoverageWalked),
    "build.committed": (1, e.BuildCommitted),
    "build.failed": (1, e.BuildFailed),
    "build.abandoned": (1, e.BuildAbandoned),
    "build.refused": (1, e.BuildRefused),
    "build.denied": (1, e.BuildDenied),
    "rolled.back": (1, maintenance_events.RolledBack),
    "generation.accepted": (1, maintenance_events.GenerationAccepted),
    "generation.signed": (1, maintenance_events.GenerationSigned),
    "collection.planned": (1, maintenance_events.CollectionPlanned),
    "collected": (1, maintenance_events.Collected),
    "repaired": (1, maintenance_events.Repaired),
    "imported": (1, maintenance_events.Imported),
}
"""Tag to (current version, class)."""

Upcaster: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]

_PLAIN = frozenset({NoneType, bool, int, str})
_MAX_DEPTH = 32
"""Lists and maps inside each other in a document, as in a record."""
_REFERENCE = frozenset({"sha256", "size"})

UPCASTERS: Mapping[tuple[str, int], Upcaster] = {}
"""(tag, old version) to a function that turns that payload into the next version's. Version 1 needs none."""

_TAG_OF: Mapping[type[Event], str] = {cls: tag for tag, (_, cls) in TABLE.items()}


def encode(event: Event) -> tuple[str, int, dict[str, Any]]:
    """Return (tag, version, payload) of the event."""
    tag = _TAG_OF[type(event)]
    payload = {field.name: _plain(getattr(event, field.name)) for field in fields(event)}
    return tag, TABLE[tag][0], payload


def decode(tag: str, version: int, payload: object) -> Event:
    """Return the event.

    Raises:
        UnknownEventError: No such tag, or a newer version: written by a later C10.
        DamagedHistoryError: The payload does not have the shape its version fixes.
    """
    known = TABLE.get(tag)
    if known is None or version > known[0]:
        raise UnknownEventError(
            f"expected an event this version knows, found {tag!r} version {version}",
            kind=ErrorKind.UNKNOWN_EVENT,
            hint="use the newer C10 that wrote this cache",
        )
    current, cls = known
    if not isinstance(payload, dict):
        raise invalid(tag, f"a {type(payload).__name__} as payload")
    if version < 1:
        raise invalid(tag, f"version {version}")
    for step in range(version, current):
        payload = UPCASTERS[tag, step](payload)
    shape = _shape(tag)
    if payload.keys() != shape.names:
        found = sorted(map(str, payload.keys() ^ shape.names))
        raise invalid(tag, f"fields {found} missing or surplus")
    for name, kind in shape.plain:
        if type(payload[name]) is not kind:
            raise invalid(f"{tag}.{name}", f"{type(payload[name]).__name__} instead of {kind.__name__}")
    values = payload.copy()
    for name, read, where in shape.made:
        values[name] = read(values[name], where)
    return cls(**values)


def invalid(where: str, found: str) -> DamagedHistoryError:
    """Return the error for malformed event data: `where` it is, and what was found there."""
    return DamagedHistoryError(
        f"expected a well-formed {where}, found {found}",
        kind=ErrorKind.INVALID_EVENT,
        hint="c10 verify --full",
    )


def _plain(value: object) -> object:
    match value:
        case ArtifactRef(sha256=sha256, size=size):
            return {"sha256": sha256, "size": size}
        case tuple() | list():
            return [_plain(item) for item in value]
        case Mapping():
            return {_plain(key): _plain(item) for key, item in value.items()}
        case str() if not value.isascii():
            # Names of files may be bytes that are no UTF-8, which no record can hold: these become escapes.
            return value.encode("utf-8", "backslashreplace").decode("utf-8")
        case _:
            return value


_Read: TypeAlias = Callable[[Any, str], Any]
"""Reads a field from plain data; the text says where the data is, for errors."""


class _Shape(NamedTuple):
    """How an event type is decoded; computed from its annotations once, not once for each of a million records.

    Attributes:
        names: Names of the fields.
        plain: Name and type of the fields that are plain data.
        made: Name, reader and place (for errors) of the other fields.
    """

    names: frozenset[str]
    plain: tuple[tuple[str, type], ...]
    made: tuple[tuple[str, _Read, str], ...]


@cache
def _shape(tag: str) -> _Shape:
    hints = get_type_hints(TABLE[tag][1])
    return _Shape(
        names=frozenset(hints),
        plain=tuple((name, hint) for name, hint in hints.items() if hint in _PLAIN),
        made=tuple(
            (name, _reader(hint), f"{tag}.{name}") for name, hint in hints.items() if hint not in _PLAIN
        ),
    )


def _reader(hint: Any) -> _Read:  # noqa: ANN401 - a type, of whatever kind
    origin = get_origin(hint)
    if origin is Mapping:
        return _document
    if hint is ArtifactRef:
        return _artifact
    if origin is UnionType:
        (given,) = [_reader(option) for option in get_args(hint) if option is not NoneType]
        return lambda value, where: None if value is None else given(value, where)
    if origin is tuple:
        return _several(_reader(get_args(hint)[0]))
    return _exactly(hint)


def _several(item: _Read) -> _Read:
    def read(value: object, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise invalid(where, type(value).__name__)
        return tuple(item(each, where) for each in value)

    return read


def _exactly(kind: type) -> _Read:
    def read(value: object, where: str) -> object:
        if type(value) is not kind:
            raise invalid(where, f"{type(value).__name__} instead of {kind.__name__}")
        return value

    return read


def _artifact(value: object, where: str) -> ArtifactRef:
    if isinstance(value, dict) and value.keys() == _REFERENCE:
        sha256, size = value["sha256"], value["size"]
        if is_digest(sha256) and type(size) is int and size >= 0:
            return ArtifactRef(sha256=sha256, size=size)
    raise invalid(where, "no artifact reference")


def _document(value: Any, where: str) -> Document:  # noqa: ANN401 - hostile until checked
    if not isinstance(value, dict):
        raise invalid(where, f"{type(value).__name__} instead of a map")
    if not _PLAIN.issuperset(map(type, value.values())):
        _plain_data(value, where, 1)
    return value


def _plain_data(value: object, where: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise invalid(where, f"more than {_MAX_DEPTH} lists and maps inside each other")
    match value:
        case None | bool() | int() | str():
            return
        case dict():
            for item in value.values():
                _plain_data(item, where, depth + 1)
        case list():
            for item in value:
                _plain_data(item, where, depth + 1)
        case _:
            raise invalid(where, f"{type(value).__name__} inside a document")
