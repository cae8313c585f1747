"""The step cache: results that later builds may reuse, by step key, and the checks that they passed. Pure.

A key names what a result depends on, not its bytes, and a compiler does not give the same bytes twice. So a passed
check counts for the bytes that were checked, not for other bytes that later get the same key.
"""

from collections.abc import Iterable
from dataclasses import field
from typing import NamedTuple, TypeAlias

from store.backports import assert_never
from store.base.valueclass import valueclass
from store.domain.attachments import artifacts_of
from store.domain.events import (
    CellEmbedded,
    CheckFailed,
    CheckPassed,
    EngineCompiled,
    Index,
    IndexBuilt,
    IndexExtended,
    TilesPacked,
)
from store.domain.index_files import refs_of
from store.domain.proof import is_proof

CellName: TypeAlias = tuple[str, int, int, int]
"""(vector space, zoom, x >> 4, y >> 4)."""

Result: TypeAlias = EngineCompiled | Index | CellEmbedded | TilesPacked


class RecordedBy(NamedTuple):
    """The record and the build that recorded a result; no build if it came from an engine run or an import."""

    seq: int
    build: int | None


@valueclass(slots=True)
class StepCache:
    """Results by step key. Treat it as a value: only the state that owns it changes it.

    Attributes:
        engines: The latest engine of each key.
        indexes: The latest index of each key.
        packs: The latest pack of tiles of each key.
        blocks: The latest block of each cell.
        earlier: Superseded blocks of each cell, newest last, one per key: they fit again after a rollback.
        passed: The last passed check, by check and key.
        made: By artifact digest, where it was last recorded; superseded results are included.
    """

    engines: dict[str, EngineCompiled] = field(default_factory=dict)
    indexes: dict[str, Index] = field(default_factory=dict)
    blocks: dict[CellName, CellEmbedded] = field(default_factory=dict)
    passed: dict[tuple[str, str], CheckPassed] = field(default_factory=dict)
    earlier: dict[CellName, tuple[CellEmbedded, ...]] = field(default_factory=dict)
    made: dict[str, RecordedBy] = field(default_factory=dict)
    packs: dict[str, TilesPacked] = field(default_factory=dict)

    def copy(self) -> "StepCache":
        """Return a step cache that shares nothing mutable with this one."""
        return StepCache(
            engines=dict(self.engines),
            indexes=dict(self.indexes),
            blocks=dict(self.blocks),
            passed=dict(self.passed),
            earlier=dict(self.earlier),
            made=dict(self.made),
            packs=dict(self.packs),
        )

    def blocks_of(self, name: CellName) -> tuple[CellEmbedded, ...]:
        """Return every known block of a cell, newest last, one per key."""
        latest = self.blocks.get(name)
        return () if latest is None else (*self.earlier.get(name, ()), latest)

    def blocks_in(self, space: str) -> tuple[CellEmbedded, ...]:
        """Return every known block of a vector space; of one cell the newest last."""
        return tuple(event for name in self.blocks if name[0] == space for event in self.blocks_of(name))

    def record_result(self, result: Result, made: RecordedBy) -> None:
        """Record the result of a step; drop passed checks of other bytes with the same key."""
        match result:
            case CellEmbedded():
                name = (result.space, result.zoom, result.cell_x, result.cell_y)
                if name in self.blocks:
                    superseded = (event for event in self.blocks_of(name) if event.key != result.key)
                    self._keep(name, (*superseded, result))
                else:
                    self.blocks[name] = result
                self.made[result.block.sha256] = made
            case EngineCompiled(key=key):
                self.engines[key] = result
                self._void(key, keep=result.artifact.sha256)
                self.made |= dict.fromkeys((ref.sha256 for ref in artifacts_of(result)), made)
            case IndexBuilt(key=key) | IndexExtended(key=key):
                self.indexes[key] = result
                self._void(key, keep=result.artifact.sha256)
                self.made[result.artifact.sha256] = made
            case TilesPacked(key=key):
                self.packs[key] = result
                self.made[result.pack.sha256] = made
            case _:
                assert_never(result)

    def record_check(self, verdict: CheckPassed | CheckFailed) -> None:
        """Record the outcome of a check; a failed one removes the result and all its passed checks.

        If the key is a vector space, its blocks are removed.
        """
        if isinstance(verdict, CheckPassed):
            self.passed[verdict.check, verdict.key] = verdict
            return
        self._void(verdict.key)
        self.engines.pop(verdict.key, None)
        self.indexes.pop(verdict.key, None)
        for name in [name for name in self.blocks if name[0] == verdict.key]:
            del self.blocks[name]
            self.earlier.pop(name, None)

    def evict(self, digests: frozenset[str]) -> None:
        """Remove results whose artifacts were removed."""
        for digest in digests:
            self.made.pop(digest, None)
        for key in [key for key, event in self.engines.items() if event.artifact.sha256 in digests]:
            del self.engines[key]
            self._void(key)
        for key, index in list(self.indexes.items()):
            if not digests.isdisjoint(ref.sha256 for ref in refs_of(index)):
                del self.indexes[key]
                self._void(key)
        for key in [key for key, event in self.packs.items() if event.pack.sha256 in digests]:
            del self.packs[key]
        for proof in [
            name for name, check in self.passed.items() if is_proof(check) and check.artifact in digests
        ]:
            del self.passed[proof]
        for name in list(self.blocks):
            left = tuple(event for event in self.blocks_of(name) if event.block.sha256 not in digests)
            self._keep_only(name, left)

    def forget(self, cells: Iterable[tuple[CellName, str]], checks: Iterable[tuple[str, str]]) -> None:
        """Remove blocks by cell and key, and passed checks by name and key, whether they are there or not."""
        for name, key in cells:
            self._keep_only(name, tuple(event for event in self.blocks_of(name) if event.key != key))
        for check in checks:
            self.passed.pop(check, None)

    def has_passed(self, check: str, key: str, artifact: str) -> bool:
        """Whether these very bytes passed the check, as the result of the step with this key."""
        found = self.passed.get((check, key))
        return found is not None and found.artifact == artifact

    def checks_of(self, shown: Iterable[tuple[str, str]]) -> tuple[CheckPassed, ...]:
        """Return the passed checks of (key, artifact) pairs, sorted by check and subject."""
        wanted = frozenset(shown)
        found = [check for (_, key), check in self.passed.items() if (key, check.artifact) in wanted]
        return tuple(sorted(found, key=lambda check: (check.check, check.subject, check.key)))

    def _keep_only(self, name: CellName, left: tuple[CellEmbedded, ...]) -> None:
        if left != self.blocks_of(name):
            del self.blocks[name]
            self.earlier.pop(name, None)
            self._keep(name, left)

    def _keep(self, name: CellName, known: tuple[CellEmbedded, ...]) -> None:
        if known:
            self.blocks[name] = known[-1]
        if len(known) > 1:
            self.earlier[name] = known[:-1]
        else:
            self.earlier.pop(name, None)

    def _void(self, key: str, *, keep: str = "") -> None:
        for name in [
            name for name, check in self.passed.items() if name[1] == key and check.artifact != keep
        ]:
            del self.passed[name]
