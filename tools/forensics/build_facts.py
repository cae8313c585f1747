"""What the records and the folded state say of one build. Pure.

`c10 show` and `c10 replay` both render these facts, so that they cannot disagree. Texts and documents are as
recorded: what comes from elsewhere is made safe where it is rendered.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from store.base.valueclass import valueclass
from store.domain import events as e
from store.domain.state import Build, BuildStatus, State
from tools.forensics.records import DecodedRecord


@valueclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What one check of a build found."""

    seq: int
    event: e.CheckPassed | e.CheckFailed

    @property
    def passed(self) -> bool:
        """Whether the check passed."""
        return isinstance(self.event, e.CheckPassed)

    @property
    def why(self) -> str:
        """Why it failed; empty if it passed."""
        return self.event.why if isinstance(self.event, e.CheckFailed) else ""


@valueclass(frozen=True, slots=True, kw_only=True)
class BuildFacts:
    """The facts about one build.

    Attributes:
        number: The build.
        state: What the records of the cache fold to.
        records: The records of the build, in order, at least one.
    """

    number: int
    state: State
    records: Sequence[DecodedRecord]

    @property
    def build(self) -> Build | None:
        """What the build folds to, if folding came that far."""
        return self.state.builds.get(self.number)

    @property
    def status(self) -> BuildStatus:
        """How the build ended, by its last record."""
        match self.records[-1].event:
            case e.BuildCommitted():
                return BuildStatus.COMMITTED
            case e.BuildFailed():
                return BuildStatus.FAILED
            case e.BuildAbandoned():
                return BuildStatus.ABANDONED
            case e.BuildRefused():
                return BuildStatus.REFUSED
            case _:
                return BuildStatus.OPEN

    @property
    def identity(self) -> str | None:
        """The identity of the request, if its inputs were read."""
        return self.build.identity if self.build else None

    @property
    def generations(self) -> list[int]:
        """The generations that show the build."""
        return [each.number for each in self.state.generations.values() if each.origin == self.number]

    @property
    def accepted(self) -> list[int]:
        """Those generations that were accepted."""
        return sorted(self.state.accepted.intersection(self.generations))

    @property
    def collected(self) -> bool:
        """Whether the files of the build were collected."""
        return self.number in self.state.collected

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The inputs that define the build."""
        return self.build.inputs if self.build else self._start.inputs if self._start else {}

    @property
    def host(self) -> Mapping[str, Any]:
        """Facts about the machine, the process and the request."""
        return self._start.host if self._start else {}

    @property
    def seconds(self) -> float | None:
        """The seconds from start to end by the wall clock; None for a build that has not ended."""
        ended = self.build.ended_ns if self.build else None
        if self.build is None or ended is None:
            return None
        if self.status is BuildStatus.ABANDONED:
            # Another process recorded that, maybe much later.
            ended = self.records[-2:][0].wall_ns
        return max(0.0, round((ended - self.build.started_ns) / 1e9, 3))

    @property
    def checks(self) -> Iterator[CheckResult]:
        """The checks, in the order in which they ran."""
        for record in self.records:
            if isinstance(record.event, e.CheckPassed | e.CheckFailed):
                yield CheckResult(seq=record.seq, event=record.event)

    @property
    def _start(self) -> e.BuildStarted | None:
        event = self.records[0].event
        return event if isinstance(event, e.BuildStarted) else None
