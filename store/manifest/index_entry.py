"""The index as a manifest names it: what faiss wrote, what changed since, and the blocks of all rows. Pure.

Where nothing changed since, the manifest has format 1. An index with a delta is format 2: who knows only the first would
search the file of faiss alone, and is to refuse the manifest instead.
"""

from dataclasses import dataclass

from store.base import validators
from store.base.canonical_json import Document
from store.base.values import ArtifactRef

PLAIN = 1
"""Format of a manifest whose index is one file."""

EXTENDED = 2
"""Format of one whose index has a delta."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaEntry:
    """What changed since the index was written (`store.formats.index_delta`): how many rows came, and how many are to be left out."""

    artifact: ArtifactRef
    added: int
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """The descriptor index and the block table of its rows.

    Attributes:
        artifact: What faiss wrote.
        delta: What changed since, or nothing.
        blocks: The block table.
        step_key: Key of the step that gave it.
        kind: Structure of what faiss wrote.
        metric: "ip", the inner product.
        dimensions: Length of a descriptor.
        rows: Rows that are found: those of the file and of the delta, without those that are left out.
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
        """Rows of the file that faiss wrote."""
        return self.rows if self.delta is None else self.rows - self.delta.added + self.delta.dropped


def parse(document: Document, *, number: int) -> IndexEntry:
    """Read the entry, trusting nothing in it.

    Args:
        document: `body.index` of a manifest.
        number: The format that the manifest says it has.

    Raises:
        KeyError, TypeError, ValueError: It is not of that format, or says two different things.
    """
    if ("delta" in document) != (number == EXTENDED):
        raise ValueError(
            f"a manifest of format {number} {'with' if 'delta' in document else 'without'} an index delta"
        )
    entry = IndexEntry(
        artifact=validators.artifact_ref(document["artifact"]),
        delta=_delta(document["delta"]) if number == EXTENDED else None,
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


def _delta(document: Document) -> DeltaEntry:
    if document.keys() != {"artifact", "added", "dropped"}:
        raise ValueError(f"index delta holds {sorted(document)}")
    return DeltaEntry(
        artifact=validators.artifact_ref(document["artifact"]),
        added=validators.count(document["added"]),
        dropped=validators.count(document["dropped"]),
    )


def artifact_document(ref: ArtifactRef) -> Document:
    """Return how a manifest names an artifact."""
    return {"sha256": ref.sha256, "size": ref.size}
