"""Choose the index of a build: every option that the request leaves open. Pure."""

from typing import Final

from pipeline.errors import EmbedError, ErrorKind
from pipeline.request.options import IndexKind, IndexOptions, Storage
from store.base.canonical_json import Document
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef

FLAT_BELOW: Final = 20_000
"""Below this number of rows `auto` searches exhaustively: exact, and a query takes less than 10 ms."""

MAX_CHANGED_DIVISOR: Final = 20
"""An index is extended until one in so many rows has changed. Beyond, searching the changed rows one by one
costs more than searching the index."""

MAX_LEFT_OUT_OF_GRAPH: Final = 512
"""Each node left out of a graph makes a search broader by one: this many, nine times at the default `ef`."""

MAX_DELTA_BYTES: Final = 256 << 20

EF_CONSTRUCTION: Final = 40
"""Breadth of the search for neighbours while a graph is built: faiss's default, pinned."""

METRIC: Final = "ip"
"""The inner product, which is the cosine of unit vectors."""

PQ_BITS: Final = 8
MIN_TRAINING_ROWS: Final = 1 << PQ_BITS

DEFAULT_M: Final = 32
DEFAULT_EF: Final = 64
_DEFAULT_NPROBE: Final = 16
_DEFAULT_SUBSPACES: Final = 64
_FEW_SUBSPACES: Final = 16
"""Below, a product quantiser rounds so much that tiles do not find themselves."""

_MOST_LISTS: Final = 4_096
_ROWS_PER_LIST: Final = 64


@valueclass(frozen=True, slots=True, kw_only=True)
class IndexPlan:
    """Index options, all of them chosen.

    Attributes:
        kind: FLAT, HNSW or IVF_PQ, never AUTO.
        storage: How vectors are kept.
        m: Links per node of the graph, or subspaces of the product quantiser; 0 where not used.
        ef: Breadth of a search in the graph; 0 where not used.
        lists: Inverted lists; 0 where not used.
        nprobe: Lists that a search visits; 0 where not used.
        links_equal: Whether a graph links equal rows too, as older graphs do; they are only written again.
    """

    kind: IndexKind
    storage: Storage
    m: int = 0
    ef: int = 0
    lists: int = 0
    nprobe: int = 0
    links_equal: bool = False

    def to_document(self) -> Document:
        """Return the plan for the index's step key."""
        return {
            **({} if self.links_equal else graph_recipe(self.kind)),
            "kind": str(self.kind),
            "metric": METRIC,
            "storage": str(self.storage),
            "m": self.m,
            "ef": self.ef,
            "ef_construction": EF_CONSTRUCTION if self.kind is IndexKind.HNSW else 0,
            "lists": self.lists,
            "nprobe": self.nprobe,
        }


@valueclass(frozen=True, slots=True, kw_only=True)
class IndexJob:
    """An index to write.

    Attributes:
        count: Number of rows.
        dimensions: Length of a descriptor.
        plan: Its options.
        components: Components of its step key.
        table: The block table of its rows.
    """

    count: int
    dimensions: int
    plan: IndexPlan
    components: Document
    table: ArtifactRef


def plan_index(options: IndexOptions, *, count: int, dimensions: int) -> IndexPlan:
    """Choose every option that the request leaves open.

    Args:
        options: As requested.
        count: Rows that the index will have.
        dimensions: Length of a descriptor.

    Raises:
        EmbedError: INDEX_FAILED, the request cannot be met with these rows.
    """
    plan = likely_index(options, count=count, dimensions=dimensions)
    if plan.kind is IndexKind.IVF_PQ:
        _require_trainable(plan.m, count, dimensions)
    return plan


def likely_index(options: IndexOptions, *, count: int, dimensions: int) -> IndexPlan:
    """Choose as `plan_index`, and refuse nothing: for an estimate, before the true length of a descriptor is known."""
    kind = chosen_kind(options.kind, count)
    match kind:
        case IndexKind.FLAT:
            return IndexPlan(kind=kind, storage=options.storage)
        case IndexKind.HNSW:
            return IndexPlan(
                kind=kind, storage=options.storage, m=options.m or DEFAULT_M, ef=options.ef or DEFAULT_EF
            )
        case _:
            lists = _lists(count)
            return IndexPlan(
                kind=kind,
                storage=options.storage,
                m=options.m or _subspaces(_divisors(dimensions)),
                lists=lists,
                nprobe=min(options.nprobe or _DEFAULT_NPROBE, lists),
            )


def chosen_kind(kind: IndexKind, count: int) -> IndexKind:
    """Return the kind of an index with so many rows."""
    if kind is IndexKind.AUTO:
        return IndexKind.FLAT if count < FLAT_BELOW else IndexKind.HNSW
    return kind


def graph_recipe(kind: IndexKind) -> Document:
    """Return what distinguishes graphs from older ones, in which equal rows hid others; nothing for other kinds.

    It is raised in place of the recipe of all indexes when only graphs are built in another way.
    """
    return {"graph": 2} if kind is IndexKind.HNSW else {}


def can_extend(plan: IndexPlan, count: int, known: Document, wanted: Document) -> bool:
    """Whether the changes may extend an index that exists, instead of a new index.

    A small index is quickly written. The scores of a quantiser cannot be compared with those of vectors.

    Args:
        plan: The index that is wanted.
        count: Rows that it will have.
        known: Components of the step key of the existing index.
        wanted: Components of the step key of a new index.
    """
    same = all(known.get(name) == wanted[name] for name in wanted if name != "blocks")
    return same and plan.kind is not IndexKind.IVF_PQ and count >= FLAT_BELOW


def delta_limits(plan: IndexPlan, count: int, dimensions: int) -> tuple[int, int]:
    """Return how many rows a delta may hold, and how many rows it may leave out of the index.

    Args:
        plan: The index that is extended.
        count: Rows of index and delta together.
        dimensions: Length of a descriptor.
    """
    changed = min(count // MAX_CHANGED_DIVISOR, FLAT_BELOW, MAX_DELTA_BYTES // (4 * dimensions))
    return changed, min(changed, MAX_LEFT_OUT_OF_GRAPH) if plan.kind is IndexKind.HNSW else changed


def _require_trainable(m: int, count: int, dimensions: int) -> None:
    if count < MIN_TRAINING_ROWS:
        raise index_error(
            f"expected at least {MIN_TRAINING_ROWS} tiles to train an ivf-pq index, found {count}",
            'set index.kind = "flat"',
        )
    if dimensions % m:
        raise index_error(
            f"expected index.m to divide the {dimensions} dimensions of the descriptor, found {m}",
            f"set index.m to one of {_divisors(dimensions)}",
        )


def _lists(count: int) -> int:
    lists = 1
    while lists * 2 * _ROWS_PER_LIST <= count and lists < _MOST_LISTS:
        lists *= 2
    return lists


def _divisors(dimensions: int) -> list[int]:
    return [m for m in range(1, dimensions + 1) if dimensions % m == 0]


def _subspaces(divisors: list[int]) -> int:
    """Return the greatest divisor up to the usual number; if that is small, the next one, as for a prime."""
    usual = [m for m in divisors if m <= _DEFAULT_SUBSPACES]
    return divisors[len(usual)] if usual[-1] < min(_FEW_SUBSPACES, divisors[-1]) else usual[-1]


def index_error(message: str, hint: str) -> EmbedError:
    """Return the error of an index that cannot be built."""
    return EmbedError(message, hint=hint, kind=ErrorKind.INDEX_FAILED)
