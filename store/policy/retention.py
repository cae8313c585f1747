"""The retention policy: what garbage collection keeps and what it removes, from the state and the files. Pure.

Retention counts origins, because generations of one origin show the same files. It keeps the last `keep` origins that
were shown, every accepted one, and the one that a rollback without a target would show. For each of them it keeps
everything that the manifest names, the blocks and packs of its tables, the stand-in engine that made its vectors, and the
attachments of its engines.

Three more kinds of artifacts are kept although no kept generation names them:
- finished steps of a build whose process died or was interrupted, until another build commits: the next build reuses
  them;
- results made outside of builds (engine runs, imports), if younger than the oldest of the last `keep` origins;
- calibration, tile table and attachments of failed builds, if younger than that.

Every other well-named artifact is removed. Collection never costs more than work: a step whose result was removed
runs again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from store.backports import StrEnum
from store.base.canonical_json import Document
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.domain.attachments import artifacts_of, attached_to_failure
from store.domain.index_files import refs_of
from store.domain.proof import answers_of
from store.domain.state import Build, BuildStatus, State
from store.domain.step_cache import RecordedBy

INTERRUPTED = "interrupted"
"""Kind of the failure of a build that a person or the system stopped: nothing was wrong with its work."""

Reason = TypeVar("Reason", bound=StrEnum)

Tables = Mapping[int, Sequence[ArtifactRef]]
"""Build to what its block table and its pack table list."""


@valueclass(frozen=True, slots=True, kw_only=True)
class KeepPolicy:
    """The settings of the retention policy.

    Attributes:
        keep: How many origins, the newest first; at least 1.
        unfinished: Whether the finished steps of a build that died or was interrupted stay.
    """

    keep: int = 3
    unfinished: bool = True

    def __post_init__(self) -> None:
        """Check what the types cannot.

        Raises:
            ValueError: Less than one origin.
        """
        if self.keep < 1:
            raise ValueError(f"expected to keep at least 1 origin, found {self.keep}")

    def to_document(self) -> Document:
        """Return the policy for the journal."""
        return {"keep": self.keep, "unfinished": self.unfinished}


class OriginReason(StrEnum):
    """Why an origin is kept; the first that applies."""

    HEAD = "shown"
    RECENT = "recent"
    ACCEPTED = "accepted"
    ROLLBACK = "for a rollback"


class KeepReason(StrEnum):
    """Why an artifact is kept; the first that applies."""

    GENERATIONS = "kept generations"
    UNFINISHED = "unfinished builds"
    APART = "made outside of builds"
    INPUTS = "inputs of failed builds"


class RemovalReason(StrEnum):
    """Why an artifact is removed; the first that applies."""

    COLLECTED = "collected generations"
    SUPERSEDED = "results no kept build needs"
    FAILED = "inputs of old failed builds"
    UNREFERENCED = "nothing names them"


@valueclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """An artifact to remove, its size in bytes, and why."""

    sha256: str
    size: int
    why: RemovalReason


@valueclass(frozen=True, slots=True, kw_only=True)
class CollectionPlan:
    """What a collection keeps and removes.

    Attributes:
        policy: What it follows.
        origins: Kept origins, and why.
        collected_generations: Generations whose files are removed; a rollback to them becomes impossible.
        removals: Artifacts to remove, by digest.
        kept: Per reason, the number of kept artifacts and their size in bytes.
    """

    policy: KeepPolicy
    origins: Mapping[int, OriginReason]
    collected_generations: tuple[int, ...]
    removals: tuple[Removal, ...]
    kept: Mapping[KeepReason, tuple[int, int]]

    @property
    def size(self) -> int:
        """Size of the removed artifacts in bytes."""
        return sum(each.size for each in self.removals)

    @property
    def removed(self) -> dict[RemovalReason, tuple[int, int]]:
        """Per reason, the number of removed artifacts and their size in bytes."""
        return _tally((each.why, each.size) for each in self.removals)


def kept_origins(state: State, policy: KeepPolicy) -> dict[int, OriginReason]:
    """Return the kept origins, and why each is kept."""
    head = state.head
    if head is None:
        return {}
    collected = state.collected
    shown = [origin for origin in _origins(state) if origin not in collected]
    kept = {head.origin: OriginReason.HEAD}
    for origin in shown[: policy.keep]:
        kept.setdefault(origin, OriginReason.RECENT)
    for number in sorted(state.accepted):
        kept.setdefault(state.generations[number].origin, OriginReason.ACCEPTED)
    if head.parent is not None and head.parent not in collected:
        kept.setdefault(head.parent, OriginReason.ROLLBACK)
    return kept


def keep_without(state: State, generations: Iterable[int]) -> int:
    """Return the largest `keep` with which a collection removes all of these generations; 0 if there is none."""
    origins = {state.generations[number].origin for number in generations}
    if not origins or not origins.isdisjoint(kept_origins(state, KeepPolicy(keep=1))):
        return 0
    collected = state.collected
    shown = [origin for origin in _origins(state) if origin not in collected]
    return min((place for place, origin in enumerate(shown) if origin in origins), default=0)


def origins_going(state: State, policy: KeepPolicy) -> list[int]:
    """Return the origins that are not kept; their tables say whose the files were, and may be missing."""
    kept = kept_origins(state, policy)
    return [origin for origin in _origins(state) if origin not in kept]


def decide(state: State, policy: KeepPolicy, *, tables: Tables, present: Mapping[str, int]) -> CollectionPlan:
    """Decide a collection.

    Args:
        state: The folded journal.
        policy: What to keep.
        tables: The tables of `kept_origins`, all of them, and of `origins_going`, as far as they are there.
        present: Digest to size in bytes of the regular, well-named files in the tree.
    """
    origins = kept_origins(state, policy)
    needed = _needed(state, policy, origins, tables)
    gone = {digest: size for digest, size in present.items() if digest not in needed}
    collected = set(_digests_of(state, set(_origins(state)) - origins.keys(), tables))
    inputs = {ref.sha256 for build in state.builds.values() for ref in refs_of_build(build)}

    def why(digest: str) -> RemovalReason:
        if digest in collected:
            return RemovalReason.COLLECTED
        if digest in state.step_cache.made:
            return RemovalReason.SUPERSEDED
        return RemovalReason.FAILED if digest in inputs else RemovalReason.UNREFERENCED

    return CollectionPlan(
        policy=policy,
        origins=origins,
        collected_generations=tuple(
            number
            for number, found in state.generations.items()
            if found.origin not in origins and number not in state.collected_generations
        ),
        removals=tuple(Removal(sha256=digest, size=gone[digest], why=why(digest)) for digest in sorted(gone)),
        kept=_tally((needed[digest], size) for digest, size in present.items() if digest in needed),
    )


def _needed(
    state: State, policy: KeepPolicy, origins: Mapping[int, OriginReason], tables: Tables
) -> dict[str, KeepReason]:
    found = dict.fromkeys(_digests_of(state, origins, tables), KeepReason.GENERATIONS)
    horizon = _horizon(state, policy)
    unfinished = _unfinished(state) if policy.unfinished else frozenset[int]()
    for number in unfinished:
        for ref in refs_of_build(state.builds[number]):
            found.setdefault(ref.sha256, KeepReason.UNFINISHED)
    for made, digests in _results(state):
        for digest in digests:
            if made.build in unfinished:
                found.setdefault(digest, KeepReason.UNFINISHED)
            elif made.build is None and made.seq > horizon:
                found.setdefault(digest, KeepReason.APART)
    for build in state.builds.values():
        if build.status is not BuildStatus.COMMITTED and build.started_seq > horizon:
            for digest in _inputs(build):
                found.setdefault(digest, KeepReason.INPUTS)
    return found


def _origins(state: State) -> list[int]:
    """Return all origins, the last shown first."""
    return list(dict.fromkeys(found.origin for _, found in sorted(state.generations.items(), reverse=True)))


def _horizon(state: State, policy: KeepPolicy) -> int:
    """Return the seq before which artifacts of no kept generation are too old to keep; 0 while origins are few."""
    origins = _origins(state)
    if len(origins) <= policy.keep:
        return 0
    return min(state.builds[origin].ended_seq or 0 for origin in origins[: policy.keep])


def _unfinished(state: State) -> frozenset[int]:
    """Return the builds after the last commit that died or were interrupted, through no fault of their own."""
    committed = max((build.number for build in state.builds.values() if _committed(build)), default=0)
    return frozenset(
        build.number
        for build in state.builds.values()
        if build.number > committed
        and (
            build.status in {BuildStatus.OPEN, BuildStatus.ABANDONED}
            or (build.failure is not None and build.failure.kind == INTERRUPTED)
        )
    )


def _committed(build: Build) -> bool:
    return build.status is BuildStatus.COMMITTED


def _results(state: State) -> Iterator[tuple[RecordedBy, tuple[str, ...]]]:
    """Yield the results that later builds could reuse: where each was recorded, and the digests of its files."""
    memo = state.step_cache
    for engine in memo.engines.values():
        yield memo.made[engine.artifact.sha256], tuple(ref.sha256 for ref in artifacts_of(engine))
    for index in memo.indexes.values():
        yield memo.made[index.artifact.sha256], tuple(ref.sha256 for ref in refs_of(index))
    for pack in memo.packs.values():
        yield memo.made[pack.pack.sha256], (pack.pack.sha256,)
    for name in memo.blocks:
        for cell in memo.blocks_of(name):
            yield memo.made[cell.block.sha256], (cell.block.sha256,)


def _digests_of(state: State, origins: Iterable[int], tables: Tables) -> Iterator[str]:
    """Yield the digests of everything that origins name, as far as their tables are known."""
    for origin in origins:
        for ref in refs_of_build(state.builds[origin]):
            yield ref.sha256
        for ref in tables.get(origin, ()):
            yield ref.sha256


def refs_of_build(build: Build) -> Iterator[ArtifactRef]:
    """Yield everything that the events of one build name, except blocks and packs."""
    for _, engine in (*build.engines, *build.stand_ins):
        yield from artifacts_of(engine)
    yield from (ref for _, ref in build.given())
    if build.tiles is not None:
        yield build.tiles.table
    if build.coverage is not None:
        yield build.coverage.geography
    if build.index is not None:
        yield from refs_of(build.index)
    if build.carried is not None:
        yield build.carried.table
    if build.proof is not None:
        yield answers_of(build.proof)
    if build.failure is not None:
        yield from attached_to_failure(build.failure).values()


def _inputs(build: Build) -> Iterator[str]:
    yield from (ref.sha256 for _, ref in build.given())
    if build.tiles is not None:
        yield build.tiles.table.sha256
    if build.failure is not None:
        yield from (ref.sha256 for ref in attached_to_failure(build.failure).values())


def _tally(pairs: Iterable[tuple[Reason, int]]) -> dict[Reason, tuple[int, int]]:
    found: dict[Reason, tuple[int, int]] = {}
    for why, size in pairs:
        files, total = found.get(why, (0, 0))
        found[why] = files + 1, total + size
    return found
