"""Validate fields of untrusted documents: return the value, or raise an error that quotes it. Pure."""

from store.base.canonical_json import Document, is_digest
from store.base.values import ArtifactRef


def artifact_ref(document: Document) -> ArtifactRef:
    """Return a reference that has a digest and a size, and no other field.

    Raises:
        ValueError, TypeError, AttributeError: It is something else.
    """
    if document.keys() != {"sha256", "size"}:
        raise ValueError("an artifact is named by digest and size alone")
    return ArtifactRef(sha256=digest(document["sha256"]), size=count(document["size"]))


def digest(value: object) -> str:
    """Return a SHA-256 in hexadecimal.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, str) or not is_digest(value):
        raise ValueError(f"expected 64 hexadecimal digits, found {value!r:.80}")
    return value


def count(value: object) -> int:
    """Return an integer of 0 to 2^63 - 1.

    Raises:
        ValueError: It is something else.
    """
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"expected a count, found {value!r:.80}")
    return value


def text(value: object) -> str:
    """Return a text of at most 256 characters.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, str) or len(value) > 256:
        raise ValueError(f"expected a short text, found {value!r:.80}")
    return value


def document(value: object) -> Document:
    """Return a map.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(value, dict):
        raise TypeError(f"expected a map, found {value!r:.80}")
    return value
