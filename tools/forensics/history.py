"""The history of a cache, folded up to a record, and the builds in it. Pure."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from store.base.valueclass import valueclass
from store.domain import events as e
from store.domain.state import Build, State
from store.domain.step_cache import StepCache
from store.errors import ErrorKind, RequestRefusedError
from tools.forensics.cost import Rates, rates_of
from tools.forensics.failure import ArtifactReader
from tools.forensics.records import DecodedRecord, RecordHistory
from tools.forensics.state_at import FoldedState, fold_stepwise
from tools.forensics.timeline import BuildTimeline, build_timeline, builds_in
from tools.output.sanitize import is_number, safe_text

_EARLIER: Final = 20
"""The usual pace of a step is computed from this many earlier builds."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where records were read from.

    Attributes:
        kind: "cache", "journal", "bundle" or "segments".
        path: The path as the user gave it.
        history: The records.
        artifacts: The artifacts that can be read beside them.
        lock_held: Whether a process holds the build lock; None if that is not known.
        has_artifacts: Whether the source has any artifacts.
        build: The build that it was made for, if it is a bundle of one.
    """

    kind: str
    path: str
    history: RecordHistory
    artifacts: ArtifactReader
    lock_held: bool | None = None
    has_artifacts: bool = True
    build: int | None = None

    @property
    def option(self) -> str:
        """The option that makes a command read the same source, after a space; empty for a cache."""
        match self.kind:
            case "bundle" | "journal":
                return f" --{self.kind} {shlex.quote(safe_text(self.path))}"
            case _:
                return ""

    @property
    def listing(self) -> str:
        """The command that lists the builds; `c10 log` needs the journal of a cache."""
        return "c10 log" if self.kind == "cache" else f"c10 replay{self.option}"

    def to_document(self) -> dict[str, Any]:
        """Return the description of the source in answers."""
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


@valueclass(frozen=True, slots=True)
class DeniedRun:
    """A run that never became a build: its record and its event."""

    record: DecodedRecord
    event: e.BuildDenied


@dataclass(slots=True, kw_only=True)
class BuildHistory:
    """The builds of a cache, as they were after a record.

    Attributes:
        source: Where the records were read from.
        at: The last record to look at; None for all.
    """

    source: Source
    at: int | None = None
    folded: FoldedState = field(default_factory=FoldedState)
    _records: Sequence[DecodedRecord] = ()
    _spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    _step_caches: dict[int, StepCache] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Find the records and the builds up to `at`."""
        history = self.source.history
        if self.at is not None and not 1 <= self.at <= history.head[0]:
            raise RequestRefusedError(
                f"expected a record from 1 to {history.head[0]}, found {self.at}",
                kind=ErrorKind.UNKNOWN_RECORD,
                hint=f"c10 replay{self.source.option} (its first column)",
            )
        self._records = history.records if self.at is None else history.until(self.at).records
        self._spans = builds_in(self._records)

    @property
    def state(self) -> State:
        """What the records fold to."""
        return self.folded.state

    def fold(self, wanted: int | None = None) -> "BuildHistory":
        """Fold the records. Keep the step cache as it was when the build `wanted` reused its cells."""
        for record in fold_stepwise(self._records, self.folded):
            match record.event:
                case e.StepReused(kind="cells") if wanted is not None and record.build == wanted:
                    self._step_caches[wanted] = self.state.step_cache.copy()
                case _:
                    pass
        return self

    def choose(self, word: str | None) -> int | DeniedRun:
        """Return the build that a word names, or the run that was denied the lock.

        Without a word: the build that the source was made for, or else the newest that was not committed.

        Raises:
            RequestRefusedError: There is no such build or record, or the word is neither.
        """
        if word is None:
            made_for = self.source.build
            return made_for if made_for in self._spans and made_for is not None else self._newest()
        if is_number(word):
            if int(word) in self._spans:
                return int(word)
            raise self._no_build(int(word))
        if word.startswith("@") and is_number(word[1:]):
            return self._of_record(int(word[1:]))
        raise self.unknown(
            "the number of a build, or @ and the number of a record", repr(word), ErrorKind.ARGUMENT
        )

    def timeline(self, number: int) -> BuildTimeline:
        """Return the records of a build.

        Raises:
            RequestRefusedError: There is no such build.
        """
        if number not in self._spans:
            raise self._no_build(number)
        return build_timeline(self._records, number, self._spans[number])

    def build(self, number: int) -> Build | None:
        """Return the folded build, if folding reached it."""
        return self.state.builds.get(number)

    def rates(self, before: int) -> Rates:
        """Return the usual pace of steps in the builds before a build."""
        numbers = [number for number in sorted(self._spans) if number < before][-_EARLIER:]
        return rates_of(self.timeline(number) for number in numbers)

    def last_good(self, before: int) -> int | None:
        """Return the build that the cache showed when a build began."""
        build = self.build(before)
        shown = build and self.state.shown_at(build.started_seq)
        return shown if shown in self._spans else None

    def step_cache(self, number: int) -> StepCache | None:
        """Return the step cache from when a build reused its cells, if `fold` was asked to keep it."""
        return self._step_caches.get(number)

    def unknown(self, expected: str, found: str, kind: ErrorKind) -> RequestRefusedError:
        """Return the error of a word that names nothing here."""
        return RequestRefusedError(
            f"expected {expected}, found {safe_text(found, 200)}",
            kind=kind,
            hint=self.source.listing,
        )

    def _newest(self) -> int | DeniedRun:
        """Return the newest build or run that was not committed, or else the newest build."""
        for record in reversed(self._records):
            if isinstance(record.event, e.BuildDenied):
                return DeniedRun(record, record.event)
            if record.build is not None:
                last = self._records[self._spans[record.build][1]]
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
        """Return the error of a build that does not exist, or not yet at the record `at`."""
        later = builds_in(self.source.history.records).get(number) if self.at is not None else None
        if later is None:
            most = max(self._spans, default=0)
            return self.unknown(f"a build from 1 to {most}", str(number), ErrorKind.UNKNOWN_BUILD)
        first = self.source.history.records[later[0]].seq
        return RequestRefusedError(
            f"expected build {number} by record {self.at}, found that it began at record {first}",
            kind=ErrorKind.UNKNOWN_BUILD,
            hint=f"c10 replay {number} --at {first}{self.source.option}, or a later record",
        )

    def _of_record(self, seq: int) -> int | DeniedRun:
        if not 1 <= seq <= len(self._records):
            raise self.unknown(
                f"a record from 1 to {len(self._records)}", f"@{seq}", ErrorKind.UNKNOWN_RECORD
            )
        record = self._records[seq - 1]
        if isinstance(record.event, e.BuildDenied):
            return DeniedRun(record, record.event)
        if record.build is None:
            found = f"@{seq}, {safe_text(record.tag, 64)}, which belongs to none"
            raise self.unknown("a record of a build", found, ErrorKind.UNKNOWN_RECORD)
        return record.build
