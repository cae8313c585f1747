"""Recovery after a crash: what a writer must repair before it does anything else. Pure.

The plan is decided from the state and the files on disk: what must be written, or that nothing may be written.
A build whose process died is marked as abandoned; its finished steps stay usable, since they are in the
journal. Manifests, signatures and segments that are missing are projected again from the journal alone; but
no manifest becomes the newest one whose artifacts are missing, since what flies now would fly no more.

Nothing inside a journal reveals that its newest records are gone. So the plan compares it with the files: the
highest manifest or segment must belong to a generation that the journal holds, and the highest manifest must be the
one that the journal committed. If not, the journal lost its tail or belongs to another cache, and nothing is written.
"""

from collections.abc import Mapping
from typing import TypeAlias

from store.base.valueclass import valueclass
from store.domain.state import State
from store.errors import DamagedHistoryError, ErrorKind


@valueclass(frozen=True, slots=True, kw_only=True)
class CacheFiles:
    """The files beside the journal.

    Attributes:
        manifests: Generation to file name of the manifests.
        segments: Generation to file name of the segments.
        signatures: Generation and place, from 1, of the signature files beside their manifests.
        loose: Generation and name of signature files without a manifest.
        highest_sha256: Digest of the manifest file with the highest generation, if there is one.
        scratch: Whether the scratch folder holds anything.
    """

    manifests: Mapping[int, str]
    segments: Mapping[int, str]
    signatures: frozenset[tuple[int, int]]
    highest_sha256: str | None
    loose: tuple[tuple[int, str], ...] = ()
    scratch: bool = False


@valueclass(frozen=True, slots=True)
class Abandon:
    """Append `BuildAbandoned` for this build."""

    build: int
    step: str


@valueclass(frozen=True, slots=True)
class Project:
    """Write what is missing of this generation: segment, signature, manifest, in this order."""

    generation: int


@valueclass(frozen=True, slots=True)
class WriteSegment:
    """Write the segment of this generation alone."""

    generation: int


@valueclass(frozen=True, slots=True)
class ClearScratch:
    """Remove what a dead process left in the scratch folder."""


@valueclass(frozen=True, slots=True)
class SetAside:
    """Move this file of the manifest folder to quarantine: a signature of a generation that the journal does not hold.

    Commits write signatures after segments and before manifests, so such a file alone does not prove a commit, and it
    would block the name of the next generation.
    """

    name: str


Action: TypeAlias = Abandon | Project | WriteSegment | ClearScratch | SetAside


def check(state: State, observed: CacheFiles) -> None:
    """Compare the journal with the files beside it.

    Raises:
        DamagedHistoryError: The journal is not the one that made these files, or lost its newest records.
    """
    if state.unknown:
        # An unknown event may have committed these files: no sign of damage.
        return
    if state.pending_rollback is not None:
        raise DamagedHistoryError(
            "expected the journal to end a rollback with its commit, found that it ends in between",
            kind=ErrorKind.IMPOSSIBLE_HISTORY,
            hint="c10 rebuild (makes the journal again from its segments, and from the records before)",
        )
    committed = len(state.generations)
    highest = max((*observed.manifests, *observed.segments), default=0)
    if highest > committed:
        raise DamagedHistoryError(
            f"expected the journal to hold generation {highest}, of which files exist, found {committed} generations:"
            " it lost its newest records or is another cache's",
            kind=ErrorKind.JOURNAL_REPLACED,
            hint="c10 rebuild (makes the journal again from its segments)",
        )
    if observed.manifests:
        last = max(observed.manifests)
        expected = state.generations[last].manifest_sha256
        if observed.highest_sha256 != expected:
            raise DamagedHistoryError(
                f"expected manifest {observed.manifests[last]} with SHA-256 {expected[:12]} as the journal committed"
                f" it, found {(observed.highest_sha256 or 'none')[:12]}: the journal was replaced, or the file damaged",
                kind=ErrorKind.JOURNAL_REPLACED,
                hint="c10 verify --full (says which of them)",
            )


def plan(state: State, observed: CacheFiles, *, head_is_whole: bool = True) -> tuple[Action, ...]:
    """Return what a writer must do first; nothing for an intact cache.

    Args:
        state: The folded journal.
        observed: The files beside it.
        head_is_whole: Off if artifacts of the newest generation are missing while an earlier one is visible.

    Raises:
        DamagedHistoryError: See `check`.
        UnknownEventError: The journal holds events of a newer version.
    """
    state.require_known("the cache may be read, not written")
    check(state, observed)
    actions: list[Action] = [ClearScratch()] if observed.scratch else []
    actions.extend(SetAside(name) for number, name in observed.loose if number > len(state.generations))
    last = len(state.generations) if head_is_whole else max(observed.manifests)
    for number, generation in state.generations.items():
        if number > last:
            # A segment makes nothing visible, and until it is there the journal has no second copy of these records.
            if number not in observed.segments:
                actions.append(WriteSegment(number))
            continue
        # Garbage collection removes manifest and signature; segments stay: they are the second copy of the journal.
        places = range(1, len(generation.signatures) + 1)
        signed = all((number, place) in observed.signatures for place in places)
        visible = number in state.collected_generations or (number in observed.manifests and signed)
        if not visible or number not in observed.segments:
            actions.append(Project(number))
    if state.open_build is not None:
        actions.append(Abandon(state.open_build, state.builds[state.open_build].doing))
    return tuple(actions)
