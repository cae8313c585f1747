"""One look at a history: folded as far as is wanted, and asked for its builds. Pure."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from store.domain import events as e
from store.domain.state import Build, BuildStatus, State
from store.domain.step_cache import StepCache
from store.errors import ErrorKind, RequestRefusedError
from tools.forensics.cost import Rates, rates_of
from tools.forensics.failure import ArtifactReader
from tools.forensics.records import DecodedRecord, RecordHistory
from tools.forensics.state_at import FoldedState, fold_stepwise
from tools.forensics.timeline import BuildTimeline, build_timeline, builds_in
from tools.output.sanitize import is_number, safe_text

_EARLIER: Final = 20
"""Of how many earlier builds the pace is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where records come from.

    Attributes:
        kind: "cache", "journal", "bundle" or "segments".
        path: What a person called it.
        history: The records.
        artifacts: The artifacts that can be read beside them.
        lock_held: Whether somebody holds the build lock; None where that cannot be asked.
        has_artifacts: Whether there may be any artifacts.
    """

    kind: str
    path: str
    history: RecordHistory
    artifacts: ArtifactReader
    lock_held: bool | None = None
    has_artifacts: bool = True

    @property
    def option(self) -> str:
        """What a command takes to read the same records, after a blank; nothing for a cache."""
        match self.kind:
            case "bundle" | "journal":
                return f" --{self.kind} {shlex.quote(safe_text(self.path))}"
            case _:
                return ""

    @property
    def listing(self) -> str:
        """The command that shows which builds there are: `log` needs the journal of a cache."""
        return "c10 log" if self.kind == "cache" else f"c10 replay{self.option}"

    def to_document(self) -> dict[str, Any]:
        """Return what an answer says of it."""
        seq, chain = self.history.head
        first = self.history.records[0].event if self.history.records else None
        return {
            "kind": self.kind,
            "path": safe_text(self.path),
            "cache_id": safe_text(first.cache_id, 64) if isinstance(first, e.CacheCreated) else None,
            "records": seq,
            "seq": seq,
            "chain": chain,
            "artifacts": self.has_artifacts,
            "problem": safe_text(self.history.problem),
        }


@dataclass(frozen=True, slots=True)
class DeniedRun:
    """A run that never became a build: its record, and what that says."""

    record: DecodedRecord
    event: e.BuildDenied


@dataclass(slots=True, kw_only=True)
class BuildHistory:
    """One look at a history: folded once, up to a record, and asked for builds.

    Attributes:
        source: Where it comes from.
        at: The last record that is folded; None for all.
    """

    source: Source
    at: int | None = None
    folded: FoldedState = field(default_factory=FoldedState)
    _moments: Sequence[DecodedRecord] = ()
    _spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    _memos: dict[int, StepCache] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Fold, and keep what could be reused when each build came to its cells."""
        history = self.source.history
        if self.at is not None and not 1 <= self.at <= history.head[0]:
            raise RequestRefusedError(
                f"expected a record from 1 to {history.head[0]}, found {self.at}",
                kind=ErrorKind.UNKNOWN_GENERATION,
                hint=f"c10 replay{self.source.option} (its first column)",
            )
        self._moments = history.records if self.at is None else history.until(self.at).records
        self._spans = builds_in(self._moments)

    @property
    def state(self) -> State:
        """What the records fold to."""
        return self.folded.state

    def fold(self, wanted: int | None = None) -> "BuildHistory":
        """Fold the records; keep the memo of `wanted` as it was when that build came to its cells."""
        for record in fold_stepwise(self._moments, self.folded):
            match record.event:
                case e.StepReused(kind="cells") if wanted is not None and record.build == wanted:
                    self._memos[wanted] = self.state.step_cache.copy()
                case _:
                    pass
        return self

    def choose(self, word: str | None) -> int | DeniedRun:
        """Return the build that a word names, or the run that never became one.

        Raises:
            RequestRefusedError: There is no such build or record, or the word is neither.
        """
        if word is None:
            return self._newest()
        if is_number(word):
            if int(word) in self._spans:
                return int(word)
            raise self._no_build(int(word))
        if word.startswith("@") and is_number(word[1:]):
            return self._of_record(int(word[1:]))
        raise self.unknown("the number of a build, or @ and the number of a record", repr(word))

    def timeline(self, number: int) -> BuildTimeline:
        """Return the records of a build.

        Raises:
            RequestRefusedError: There is no such build.
        """
        if number not in self._spans:
            raise self._no_build(number)
        return build_timeline(self._moments, number, self._spans[number])

    def build(self, number: int) -> Build | None:
        """Return what a build folds to, if folding came so far."""
        return self.state.builds.get(number)

    def rates(self, before: int) -> Rates:
        """Return the pace of the steps of builds before one."""
        numbers = [number for number in sorted(self._spans) if number < before][-_EARLIER:]
        return rates_of(self.timeline(number) for number in numbers)

    def last_good(self, before: int) -> int | None:
        """Return the newest committed build before one."""
        good = (
            number
            for number, build in self.state.builds.items()
            if number < before and build.status is BuildStatus.COMMITTED and number in self._spans
        )
        return max(good, default=None)

    def step_cache(self, number: int) -> StepCache | None:
        """Return what could be reused when a build came to its cells, if it was asked for when folding."""
        return self._memos.get(number)

    def unknown(self, expected: str, found: str) -> RequestRefusedError:
        """Return the error of a name that means nothing here."""
        return RequestRefusedError(
            f"expected {expected}, found {safe_text(found, 200)}",
            kind=ErrorKind.UNKNOWN_GENERATION,
            hint=self.source.listing,
        )

    def _newest(self) -> int | DeniedRun:
        """The newest build or run that did not end in a commit; else the newest."""
        for record in reversed(self._moments):
            if isinstance(record.event, e.BuildDenied):
                return DeniedRun(record, record.event)
            if record.build is not None:
                last = self._moments[self._spans[record.build][1]]
                if not isinstance(last.event, e.BuildCommitted):
                    return record.build
        if not self._spans:
            raise RequestRefusedError(
                "expected a build to replay, found none",
                kind=ErrorKind.NO_GENERATION,
                hint="c10 build REQUEST --cache DIR",
            )
        return max(self._spans)

    def _no_build(self, number: int) -> RequestRefusedError:
        """The error of a build that there is not, or not yet at the record that is looked at."""
        later = builds_in(self.source.history.records).get(number) if self.at is not None else None
        if later is None:
            return self.unknown(f"a build from 1 to {max(self._spans, default=0)}", str(number))
        first = self.source.history.records[later[0]].seq
        return RequestRefusedError(
            f"expected build {number} by record {self.at}, found that it began at record {first}",
            kind=ErrorKind.UNKNOWN_GENERATION,
            hint=f"c10 replay {number} --at {first}{self.source.option}, or a later record",
        )

    def _of_record(self, seq: int) -> int | DeniedRun:
        if not 1 <= seq <= len(self._moments):
            raise self.unknown(f"a record from 1 to {len(self._moments)}", f"@{seq}")
        record = self._moments[seq - 1]
        if isinstance(record.event, e.BuildDenied):
            return DeniedRun(record, record.event)
        if record.build is None:
            raise self.unknown(
                "a record of a build", f"@{seq}, {safe_text(record.tag, 64)}, which belongs to none"
            )
        return record.build
