"""The files of a descriptor index: one FAISS file, or the FAISS file of an earlier build and a delta. Pure."""

from collections.abc import Iterator

from store.base.values import ArtifactRef
from store.domain.events import Index, IndexExtended
from store.manifest.roles import DELTA, TABLE, WHOLE


def whole_of(index: Index) -> ArtifactRef:
    """Return the reference of the FAISS file."""
    return index.base if isinstance(index, IndexExtended) else index.artifact


def delta_of(index: Index) -> ArtifactRef | None:
    """Return the reference of the delta, if there is one."""
    return index.artifact if isinstance(index, IndexExtended) else None


def whole_rows(index: Index) -> int:
    """Return the number of rows in the FAISS file."""
    return index.rows - index.added + index.dropped if isinstance(index, IndexExtended) else index.rows


def named(index: Index) -> Iterator[tuple[str, ArtifactRef]]:
    """Yield role and reference of every file of an index, and of the table of its blocks."""
    yield WHOLE, whole_of(index)
    delta = delta_of(index)
    if delta is not None:
        yield DELTA, delta
    yield TABLE, index.blocks


def refs_of(index: Index) -> tuple[ArtifactRef, ...]:
    """Return the references of all files of an index and of its block table."""
    return tuple(ref for _, ref in named(index))
