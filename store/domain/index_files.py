"""What the index of a build is made of: one file that faiss wrote, or that of an earlier build and a delta. Pure."""

from collections.abc import Iterator

from store.base.values import ArtifactRef
from store.domain.events import Index, IndexExtended
from store.manifest.roles import DELTA, TABLE, WHOLE


def whole_of(index: Index) -> ArtifactRef:
    """Return the file that faiss wrote."""
    return index.base if isinstance(index, IndexExtended) else index.artifact


def delta_of(index: Index) -> ArtifactRef | None:
    """Return what changed since that file was written, if anything did."""
    return index.artifact if isinstance(index, IndexExtended) else None


def whole_rows(index: Index) -> int:
    """Return how many rows the file has that faiss wrote."""
    return index.rows - index.added + index.dropped if isinstance(index, IndexExtended) else index.rows


def named(index: Index) -> Iterator[tuple[str, ArtifactRef]]:
    """Yield role and reference of every file of an index, and of the table of its blocks."""
    yield WHOLE, whole_of(index)
    delta = delta_of(index)
    if delta is not None:
        yield DELTA, delta
    yield TABLE, index.blocks


def refs_of(index: Index) -> tuple[ArtifactRef, ...]:
    """Return the references alone."""
    return tuple(ref for _, ref in named(index))
