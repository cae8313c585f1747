"""Decide which recorded results a builder with keys may reuse. Pure.

A signature covers the records up to the commit of its generation. Whoever can write to the folder can append
records behind it, and they look like the owner's. So a builder with keys reuses the results of builds that one of
its keys signed, and makes all others again. Records from before the first signature of the cache count as well:
the first key that signs takes over a cache that nobody had signed. So do records that the builder's machine appended
itself with its key (`store.cache.own_records`), and those of which a signed build says so.
"""

from bisect import bisect_right
from collections.abc import Iterable
from operator import itemgetter
from typing import TypeAlias

from store.base.valueclass import valueclass
from store.domain.events import (
    CellEmbedded,
    CheckFailed,
    CheckPassed,
    EngineCompiled,
    IndexBuilt,
    IndexExtended,
)
from store.domain.state import Build, RecordedEvent, State
from store.domain.step_cache import CellName

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""First and last numbers of records, in order and apart."""

OWN_RECORDS = "own_records"
"""The fact about the host of a build under which it records such ranges."""
_MAX_RANGES = 256

DECISIVE = frozenset({EngineCompiled, CellEmbedded, IndexBuilt, IndexExtended, CheckPassed, CheckFailed})
"""The events that decide what may be reused: `find_unvouched` needs no others."""

UNSIGNED = "signature"
"""Name of the check that results fail for which no key vouches."""
_WHY = "it was recorded outside of any build that a key of this builder signed; it is made again"


@valueclass(frozen=True, slots=True, kw_only=True)
class Vouching:
    """The builds that keys vouch for; and, in `unsigned_until`, the last record from before the first signature.

    `own` are further records, which the builder appended itself with its key. `refused` says why the newest generation
    that somebody else signed, or a key that may no longer, does not count.
    """

    builds: frozenset[int]
    unsigned_until: int
    own: Ranges = ()
    refused: tuple[str, ...] = ()

    def covers(self, seq: int, build: int | None) -> bool:
        """Whether a record, of a build or of none, may be relied on."""
        return seq <= self.unsigned_until or build in self.builds or self._is_own(seq)

    def _is_own(self, seq: int) -> bool:
        place = bisect_right(self.own, seq, key=itemgetter(0)) - 1
        return place >= 0 and seq <= self.own[place][1]


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return ranges in order, adjacent ones joined; of very many the newest."""
    found = list[tuple[int, int]]()
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found[-_MAX_RANGES:])


def own_records_of(build: Build) -> Ranges:
    """Return the earlier records that a build relied on, since its machine had appended them with the same key."""
    recorded, found = build.host.get(OWN_RECORDS), list[tuple[int, int]]()
    for each in recorded if isinstance(recorded, (list, tuple)) else ():
        match each:
            case [int(first), int(last)] if 0 < first <= last < build.started_seq:
                found.append((first, last))
            case _:
                pass
    return merged(found)


@valueclass(frozen=True, slots=True, kw_only=True)
class Unvouched:
    """Results that must not be reused.

    Attributes:
        withdrawals: To be appended: they withdraw engines and indexes with all their checks.
        cells: Blocks that the step cache in memory has to forget, by cell and step key.
        checks: Checks of vector spaces that it has to forget, by check and space.
        why: Why the newest generation whose signatures do not count is refused; nothing if there is none.
    """

    withdrawals: tuple[CheckFailed, ...] = ()
    cells: frozenset[tuple[CellName, str]] = frozenset()
    checks: frozenset[tuple[str, str]] = frozenset()
    why: tuple[str, ...] = ()


def find_unvouched(state: State, facts: Iterable[RecordedEvent], vouching: Vouching) -> Unvouched:
    """Return the results of a history that nobody vouches for and that could still be reused.

    Args:
        state: The state of the same history.
        facts: Its events, from the first that is decisive and not vouched for on, or from an earlier one.
        vouching: Which records may be relied on.
    """
    cells, keys = set[tuple[CellName, str]](), dict[str, CheckFailed]()
    for fact in facts:
        event, covered = fact.event, vouching.covers(fact.seq, fact.build)
        match event:
            case CellEmbedded(key=key):
                place = ((event.space, event.zoom, event.cell_x, event.cell_y), key)
                if covered:
                    cells.discard(place)
                else:
                    cells.add(place)
            case CheckFailed(key=key):
                keys.pop(key, None)
            case EngineCompiled(key=key, model=subject, artifact=ref) if not covered:
                keys[key] = _withdrawal(subject, key, ref.sha256)
            case IndexBuilt(key=key, artifact=ref) | IndexExtended(key=key, artifact=ref) if not covered:
                keys[key] = _withdrawal("index", key, ref.sha256)
            case CheckPassed(key=key, subject=subject, artifact=digest) if not covered:
                keys[key] = _withdrawal(subject, key, digest)
            case _:
                pass
    steps = state.step_cache
    spaces = {name[0] for name in steps.blocks}
    usable = {*steps.engines, *steps.indexes, *(key for _, key in steps.passed)} - spaces
    return Unvouched(
        withdrawals=tuple(event for key, event in keys.items() if key in usable),
        cells=frozenset(cells),
        checks=frozenset(name for name in steps.passed if name[1] in spaces and name[1] in keys),
        why=vouching.refused,
    )


def withdraw(state: State, found: Unvouched) -> None:
    """Make the step cache of a state, which the caller owns, forget results.

    The blocks are forgotten in memory alone: no manifest depends on the step cache's blocks.
    """
    for event in found.withdrawals:
        state.step_cache.record_check(event)
    state.step_cache.forget(found.cells, found.checks)


def _withdrawal(subject: str, key: str, digest: str) -> CheckFailed:
    return CheckFailed(check=UNSIGNED, subject=subject, key=key, artifact=digest, measured={}, why=_WHY)
