"""What later steps may reuse: the latest result under each key, and what these very bytes have passed. Pure.

Keys name what a result depends on, not its bytes, and a compiler does not give the same bytes twice. So a check
counts for the bytes it looked at, and for no others that later take their place under the same key.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, assert_never

from store.domain.attachments import artifacts_of
from store.domain.events import (
    CellEmbedded,
    CheckFailed,
    CheckPassed,
    EngineCompiled,
    Index,
    IndexBuilt,
    IndexExtended,
)
from store.domain.index_files import refs_of

CellName: TypeAlias = tuple[str, int, int, int]
"""(vector space, zoom, x >> 4, y >> 4)."""

Result: TypeAlias = EngineCompiled | Index | CellEmbedded


class RecordedBy(NamedTuple):
    """When a result was recorded, and by which build; by none if it came from an engine run or an import."""

    seq: int
    build: int | None


@dataclass(slots=True)
class StepCache:
    """Results by key. Treat as a value: only the state that owns it changes it.

    Attributes:
        engines: The latest engine of each key.
        indexes: The latest index of each key.
        blocks: The latest block of each cell.
        earlier: The blocks that it superseded, newest last, one per key: after a rollback they are the ones that fit.
        passed: By check and key, what passed last.
        made: By digest of the artifact, who recorded it last; also of results that another took the place of.
    """

    engines: dict[str, EngineCompiled] = field(default_factory=dict)
    indexes: dict[str, Index] = field(default_factory=dict)
    blocks: dict[CellName, CellEmbedded] = field(default_factory=dict)
    passed: dict[tuple[str, str], CheckPassed] = field(default_factory=dict)
    earlier: dict[CellName, tuple[CellEmbedded, ...]] = field(default_factory=dict)
    made: dict[str, RecordedBy] = field(default_factory=dict)

    def copy(self) -> "StepCache":
        """Return a memo that shares nothing mutable with this one."""
        return StepCache(
            engines=dict(self.engines),
            indexes=dict(self.indexes),
            blocks=dict(self.blocks),
            passed=dict(self.passed),
            earlier=dict(self.earlier),
            made=dict(self.made),
        )

    def blocks_of(self, name: CellName) -> tuple[CellEmbedded, ...]:
        """Return every known block of a cell, newest last, one per key."""
        latest = self.blocks.get(name)
        return () if latest is None else (*self.earlier.get(name, ()), latest)

    def blocks_in(self, space: str) -> tuple[CellEmbedded, ...]:
        """Return every known block of a vector space; of one cell the newest last."""
        return tuple(event for name in self.blocks if name[0] == space for event in self.blocks_of(name))

    def remember(self, result: Result, made: RecordedBy) -> None:
        """Take a step's result; passes of other bytes under its key are void."""
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
            case _:
                assert_never(result)

    def judge(self, verdict: CheckPassed | CheckFailed) -> None:
        """Take a check's outcome; a failed one takes the result, and all its passes, away.

        The key may be a vector space: its blocks go then.
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
        """Forget results whose artifacts were removed."""
        for digest in digests:
            self.made.pop(digest, None)
        for key in [key for key, event in self.engines.items() if event.artifact.sha256 in digests]:
            del self.engines[key]
            self._void(key)
        for key, index in list(self.indexes.items()):
            if not digests.isdisjoint(ref.sha256 for ref in refs_of(index)):
                del self.indexes[key]
                self._void(key)
        for name in list(self.blocks):
            known = self.blocks_of(name)
            left = tuple(event for event in known if event.block.sha256 not in digests)
            if left != known:
                del self.blocks[name]
                self.earlier.pop(name, None)
                self._keep(name, left)

    def has_passed(self, check: str, key: str, artifact: str) -> bool:
        """Whether these very bytes passed the check, as the result of the step with this key."""
        found = self.passed.get((check, key))
        return found is not None and found.artifact == artifact

    def checks_of(self, shown: Iterable[tuple[str, str]]) -> tuple[CheckPassed, ...]:
        """Return the passes of (key, artifact) pairs, by check and subject."""
        wanted = frozenset(shown)
        found = [check for (_, key), check in self.passed.items() if (key, check.artifact) in wanted]
        return tuple(sorted(found, key=lambda check: (check.check, check.subject, check.key)))

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
