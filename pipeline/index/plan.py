"""Which index a build gets: every choice that the request leaves open, made. Pure."""

from dataclasses import dataclass
from typing import Final

from pipeline.errors import EmbedError, ErrorKind
from pipeline.request.options import IndexKind, IndexOptions, Storage
from store.base.canonical_json import Document
from store.base.values import ArtifactRef

FLAT_BELOW: Final = 20_000
"""Rows below which `auto` searches exhaustively: exact, and a query still takes under 10 ms."""

LARGEST_PART: Final = 20
"""An index is extended until this part of its rows has changed: beyond, the few that are searched one by one cost more
than the many."""

MOST_LEFT_OUT_OF_A_GRAPH: Final = 512
"""Each node of a graph that is left out makes a search as much broader: with so many nine times, at the usual `ef`."""

MOST_DELTA_BYTES: Final = 256 << 20

EF_CONSTRUCTION: Final = 40
"""Breadth of the search for neighbours while a graph grows: faiss's default, pinned."""

METRIC: Final = "ip"
"""The inner product, which is the cosine of unit vectors."""

PQ_BITS: Final = 8
LEAST_TRAINING_ROWS: Final = 1 << PQ_BITS

_DEFAULT_M: Final = 32
_DEFAULT_EF: Final = 64
_DEFAULT_NPROBE: Final = 16
_DEFAULT_SUBSPACES: Final = 64
_MOST_LISTS: Final = 4_096
_ROWS_PER_LIST: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPlan:
    """Index options with every choice made.

    Attributes:
        kind: FLAT, HNSW or IVF_PQ, never AUTO.
        storage: How vectors are kept.
        m: Links per node of the graph, or subspaces of the product quantiser; 0 where it means nothing.
        ef: Breadth of a search in the graph; 0 where it means nothing.
        lists: Inverted lists; 0 where it means nothing.
        nprobe: Lists that a search visits; 0 where it means nothing.
    """

    kind: IndexKind
    storage: Storage
    m: int = 0
    ef: int = 0
    lists: int = 0
    nprobe: int = 0

    def to_document(self) -> Document:
        """Return the plan for the index's step key."""
        return {
            "kind": str(self.kind),
            "metric": METRIC,
            "storage": str(self.storage),
            "m": self.m,
            "ef": self.ef,
            "ef_construction": EF_CONSTRUCTION if self.kind is IndexKind.HNSW else 0,
            "lists": self.lists,
            "nprobe": self.nprobe,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexJob:
    """An index that is to be written.

    Attributes:
        count: Rows that it will have.
        dimensions: Length of a descriptor.
        plan: Its options.
        components: What its key is the digest of.
        table: The block table of its rows.
    """

    count: int
    dimensions: int
    plan: IndexPlan
    components: Document
    table: ArtifactRef


def resolve(options: IndexOptions, *, count: int, dimensions: int) -> IndexPlan:
    """Make every choice that the request leaves open. Pure.

    Args:
        options: As requested.
        count: Rows that the index will have.
        dimensions: Length of a descriptor.

    Raises:
        EmbedError: INDEX_FAILED, the request cannot be met with these rows.
    """
    kind = options.kind
    if kind is IndexKind.AUTO:
        kind = IndexKind.FLAT if count < FLAT_BELOW else IndexKind.HNSW
    match kind:
        case IndexKind.FLAT:
            return IndexPlan(kind=kind, storage=options.storage)
        case IndexKind.HNSW:
            return IndexPlan(
                kind=kind, storage=options.storage, m=options.m or _DEFAULT_M, ef=options.ef or _DEFAULT_EF
            )
        case _:
            return _resolve_ivf_pq(options, count, dimensions)


def extends(plan: IndexPlan, count: int, known: Document, wanted: Document) -> bool:
    """Tell whether an index may be extended by what changed, instead of being written anew. Pure.

    A small one is written in no time. The scores of a quantiser do not bear comparing with those of vectors.

    Args:
        plan: The index that is wanted.
        count: Rows that it will have.
        known: Components of the key of the index that is there.
        wanted: Those of the index that is wanted, if it were written anew.
    """
    same = all(known.get(name) == wanted[name] for name in wanted if name != "blocks")
    return same and plan.kind is not IndexKind.IVF_PQ and count >= FLAT_BELOW


def most_changed(plan: IndexPlan, count: int, dimensions: int) -> tuple[int, int]:
    """Return how many rows a delta may hold in all, and how many of them may be left out of the index. Pure.

    Args:
        plan: The index that is extended.
        count: Rows that are found in both together.
        dimensions: Length of a descriptor.
    """
    changed = min(count // LARGEST_PART, FLAT_BELOW, MOST_DELTA_BYTES // (4 * dimensions))
    return changed, min(changed, MOST_LEFT_OUT_OF_A_GRAPH) if plan.kind is IndexKind.HNSW else changed


def _resolve_ivf_pq(options: IndexOptions, count: int, dimensions: int) -> IndexPlan:
    if count < LEAST_TRAINING_ROWS:
        raise failed(
            f"expected at least {LEAST_TRAINING_ROWS} tiles to train an ivf-pq index, found {count}",
            'set index.kind = "flat"',
        )
    divisors = [m for m in range(1, _DEFAULT_SUBSPACES + 1) if dimensions % m == 0]
    m = options.m or divisors[-1]
    if dimensions % m:
        raise failed(
            f"expected index.m to divide the {dimensions} dimensions of the descriptor, found {m}",
            f"set index.m to one of {divisors}",
        )
    lists = 1
    while lists * 2 * _ROWS_PER_LIST <= count and lists < _MOST_LISTS:
        lists *= 2
    nprobe = min(options.nprobe or _DEFAULT_NPROBE, lists)
    return IndexPlan(kind=IndexKind.IVF_PQ, storage=options.storage, m=m, lists=lists, nprobe=nprobe)


def failed(message: str, hint: str) -> EmbedError:
    """Return the error of an index that cannot be built."""
    return EmbedError(message, hint=hint, kind=ErrorKind.INDEX_FAILED)
