"""Parse the index entry of a manifest: the file of faiss, its delta, and the blocks of all rows. Pure.

A manifest whose index has a delta has format 2 (or more), one without may have format 1. A program that knows only format 1
would search the file of faiss alone, so it must refuse format 2.
"""

from store.base import validators
from store.base.canonical_json import Document
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef

PLAIN = 1
"""Format of a manifest whose index is a single file."""

EXTENDED = 2
"""Format of a manifest whose index has a delta."""


@valueclass(frozen=True, slots=True, kw_only=True)
class DeltaEntry:
    """The delta of an index (`store.formats.index_delta`), and how many rows it adds and drops."""

    artifact: ArtifactRef
    added: int
    dropped: int


@valueclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """The descriptor index and the block table of its rows.

    Attributes:
        artifact: The file that faiss wrote.
        delta: What changed since, or None.
        blocks: The block table.
        step_key: Key of the step that built the index.
        kind: Kind of the index in the file.
        metric: "ip", the inner product.
        dimensions: Length of a descriptor.
        rows: Number of rows that can be found: those of the file and the added ones, without the dropped
            ones.
    """

    artifact: ArtifactRef
    delta: DeltaEntry | None
    blocks: ArtifactRef
    step_key: str
    kind: str
    metric: str
    dimensions: int
    rows: int

    @property
    def whole_rows(self) -> int:
        """Number of rows in the file that faiss wrote."""
        return self.rows if self.delta is None else self.rows - self.delta.added + self.delta.dropped


def parse(document: Document, *, number: int) -> IndexEntry:
    """Parse an untrusted entry.

    Args:
        document: `body.index` of a manifest.
        number: The format of the manifest.

    Raises:
        KeyError, TypeError, ValueError: It does not have that format, or contradicts itself.
    """
    extended = "delta" in document
    if (extended and number == PLAIN) or (not extended and number == EXTENDED):
        raise ValueError(f"a manifest of format {number} {'with' if extended else 'without'} an index delta")
    entry = IndexEntry(
        artifact=validators.artifact_ref(document["artifact"]),
        delta=_parse_delta(document["delta"]) if extended else None,
        blocks=validators.artifact_ref(document["blocks"]),
        step_key=validators.digest(document["step_key"]),
        kind=validators.text(document["kind"]),
        metric=validators.text(document["metric"]),
        dimensions=validators.count(document["dimensions"]),
        rows=validators.count(document["rows"]),
    )
    if entry.delta is not None and not entry.delta.added <= entry.rows:
        raise ValueError(f"a delta of {entry.delta.added} rows in an index of {entry.rows}")
    return entry


def _parse_delta(document: Document) -> DeltaEntry:
    if document.keys() != {"artifact", "added", "dropped"}:
        raise ValueError(f"index delta holds {sorted(document)}")
    return DeltaEntry(
        artifact=validators.artifact_ref(document["artifact"]),
        added=validators.count(document["added"]),
        dropped=validators.count(document["dropped"]),
    )


def artifact_document(ref: ArtifactRef) -> Document:
    """Return the document that names an artifact in a manifest."""
    return {"sha256": ref.sha256, "size": ref.size}
