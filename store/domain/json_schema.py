"""JSON Schema of events and manifests, for programs that are not C10. Pure.

That of events follows from their classes. That of manifests says what C10 writes; `docs/manifest.md` says what a
reader must check besides.
"""

from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints

from store.base.canonical_json import Document
from store.base.values import ArtifactRef
from store.domain.event_codec import TABLE
from store.manifest.levels import MAX_LEVELS

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_TEXT: Final[Document] = {"type": "string", "maxLength": 256}
_DIGEST: Final[Document] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_COUNT: Final[Document] = {"type": "integer", "minimum": 0, "maximum": (1 << 63) - 1}
_INTEGER: Final[Document] = {"type": "integer", "minimum": -(1 << 63), "maximum": (1 << 64) - 1}
_ARTIFACT: Final[Document] = {"$ref": "#/$defs/artifact"}
_MAP: Final[Document] = {"type": "object"}


def events_schema() -> Document:
    """Return the schema of a record without its envelope: tag, version and payload."""
    return {
        "$schema": _DRAFT,
        "title": "An event of a C10 flight cache",
        "oneOf": [_event(tag) for tag in TABLE],
        "$defs": {"artifact": _artifact()},
    }


def manifest_schema() -> Document:
    """Return the schema of a manifest of format 1 to 3."""
    return {
        "$schema": _DRAFT,
        "title": "A manifest of a C10 flight cache",
        **_closed({"format": {"enum": [1, 2, 3]}, "body": _body(), "envelope": _envelope()}),
        "$defs": {"artifact": _artifact()},
    }


def _event(tag: str) -> Document:
    version, cls = TABLE[tag]
    hints = get_type_hints(cls)
    return _closed(
        {
            "tag": {"const": tag},
            "version": {"const": version},
            "payload": {
                **_closed({item.name: _of_hint(hints[item.name]) for item in fields(cls)}),
                "description": " ".join((cls.__doc__ or "").split()),
            },
        }
    )


def _of_hint(hint: Any) -> Document:  # noqa: ANN401 - a type, of whatever kind
    if get_origin(hint) is UnionType:
        (given,) = (option for option in get_args(hint) if option is not NoneType)
        return {"anyOf": [_of_hint(given), {"type": "null"}]}
    if get_origin(hint) is tuple:
        return {"type": "array", "items": _of_hint(get_args(hint)[0])}
    plain: dict[Any, Document] = {
        str: {"type": "string"},
        int: _INTEGER,
        bool: {"type": "boolean"},
        ArtifactRef: _ARTIFACT,
    }
    return plain.get(hint, _MAP)


def _closed(properties: Document) -> Document:
    """Return the schema of a map that has all these members and no other."""
    return {**_open(properties), "additionalProperties": False}


def _open(required: Document, **optional: Document) -> Document:
    """Return the schema of a map that has these members, may have the optional ones, and others."""
    return {"type": "object", "properties": {**required, **optional}, "required": [*required]}


def _artifact() -> Document:
    return _closed({"sha256": _DIGEST, "size": _COUNT})


def _envelope() -> Document:
    return _closed(
        {
            "cache_id": _TEXT,
            "generation": {**_COUNT, "minimum": 1},
            "origin": _COUNT,
            "prev_head": _open({"seq": _COUNT, "chain": _DIGEST}),
            "time_ns": _COUNT,
        }
    )


def _body() -> Document:
    required = {
        "identity": _DIGEST,
        "inputs": _inputs(),
        "tiles": _open({"count": _COUNT, "digest": _DIGEST, "table": _ARTIFACT}),
        "calibration": _ARTIFACT,
        "vector_space": _DIGEST,
        "index": _index(),
        "geography": _open(
            {
                "report": _ARTIFACT,
                **dict.fromkeys(("wanted", "present", "featureless", "skipped"), _COUNT),
            }
        ),
        "checks": {"type": "array", "items": _check()},
    }
    optional: dict[str, Document] = {
        "engines": {"type": "array", "minItems": 1, "items": _engine()},
        "descriptors": {
            "type": "array",
            "minItems": 2,
            "items": _open({"model": _TEXT, "vector_space": _DIGEST}, embedded_by=_embedded_by()),
        },
        "carried": _closed({"packs": _ARTIFACT, "tiles": _COUNT, "size": _COUNT}),
        "proof": _ARTIFACT,
        "networks": _networks(),
    }
    return {
        **_open(required, **optional),
        "oneOf": [{"required": ["engines"]}, {"required": ["networks"]}],
    }


def _inputs() -> Document:
    required: dict[str, Document] = {
        "flight_id": {"type": "string"},
        "sector": {"type": "string"},
        "bbox_e7": {"type": "array", "items": _INTEGER, "minItems": 4, "maxItems": 4},
        "zoom": {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2},
        "origin": _open(dict.fromkeys(("lon_e7", "lat_e7", "altitude_mm"), _INTEGER)),
        "calibration": _DIGEST,
        "tiles": _open({"digest": _DIGEST}, on_bad={"enum": ["fail", "skip"]}),
        "engine": _open({"backend": _TEXT, "version": _TEXT}),
        "index": _MAP,
        "checks": _open({}, **dict.fromkeys(("parity_ppb", "recall_ppb", "min_fraction_ppb"), _COUNT)),
        "recipes": {"type": "object", "additionalProperties": _COUNT},
    }
    level = _closed(dict.fromkeys(("zoom", "k", "m", "tile_edge"), _COUNT))
    levels = {"type": "array", "items": level, "minItems": 1, "maxItems": MAX_LEVELS}
    return _open(
        required,
        models={"type": "array", "minItems": 1, "items": _model()},
        area=_ARTIFACT,
        chunks=_closed({"levels": levels}),
        carry=_closed({"tiles": {"const": True}}),
        proof=_MAP,
    )


def _model() -> Document:
    return _open(
        {"name": _name(), "role": {"enum": ["descriptor", "auxiliary"]}, "preprocessing": _MAP},
        weight_ppm={**_COUNT, "minimum": 1},
        engine=_MAP,
        stand_in=_MAP,
    )


def _name() -> Document:
    return {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$"}


def _engine() -> Document:
    return _open(
        {
            "model": _name(),
            "role": _TEXT,
            "artifact": _ARTIFACT,
            "step_key": _DIGEST,
            **dict.fromkeys(("backend", "version", "target", "precision"), _TEXT),
            "batch": _COUNT,
            "signature": _MAP,
            "preprocessing": _MAP,
        }
    )


def _embedded_by() -> Document:
    named = {"step_key": _DIGEST, "sha256": _DIGEST}
    return _open({**named, **dict.fromkeys(("backend", "version", "target"), _TEXT)}, golden=_ARTIFACT)


def _index() -> Document:
    required = {
        "artifact": _ARTIFACT,
        "blocks": _ARTIFACT,
        "step_key": _DIGEST,
        **dict.fromkeys(("kind", "metric"), _TEXT),
        **dict.fromkeys(("dimensions", "rows"), _COUNT),
    }
    delta = _closed({"artifact": _ARTIFACT, "added": _COUNT, "dropped": _COUNT})
    return _open(required, delta=delta, embedded_by=_embedded_by())


def _check() -> Document:
    text = {"type": "string"}
    return _open({"check": text, "subject": text, "key": text, "artifact": text, "measured": _MAP})


def _networks() -> Document:
    column = {"anyOf": [{"type": "array"}, {"type": "string", "pattern": "^[a-z_]+/"}]}
    return {
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "propertyNames": {"pattern": "^/"},
            "additionalProperties": column,
        },
        "required": ["models", "engines"],
    }
