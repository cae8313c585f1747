"""The records and the steps of one build, with their durations. Pure.

Durations come from the monotonic clock, which can be compared within one boot. One process writes all records
of a build, except that another process, maybe after a restart, abandons a build whose process died. If the
boots differ, or one of them is not known, the wall clock is used.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from store.base.valueclass import valueclass
from store.domain import events as e
from tools.forensics.event_text import describe
from tools.forensics.records import DecodedRecord
from tools.forensics.steps import Step, StepReconstructor
from tools.output import render
from tools.output.sanitize import safe_data, safe_text

MAX_ROWS = 20_000
_MILLION = 1_000_000


@valueclass(frozen=True, slots=True, kw_only=True)
class BuildTimeline:
    """The records of one build from its start to its end, and the records of no build between them.

    Attributes:
        number: The build.
        records: All these records, in order.
        own: Those of the build.
        steps: The steps, in the order in which they began.
        step_of: The index of the step of each record.
    """

    number: int
    records: Sequence[DecodedRecord]
    own: Sequence[DecodedRecord]
    steps: Sequence[Step]
    step_of: Mapping[int, int]

    @property
    def start(self) -> DecodedRecord:
        """The first record."""
        return self.own[0]

    @property
    def boot(self) -> str:
        """The boot in which the build ran; empty if it is not known."""
        return boot_of(self.start)

    @property
    def end(self) -> DecodedRecord | None:
        """The record that ended the build, if any."""
        last = self.own[-1]
        return last if isinstance(last.event, ENDINGS) else None

    @property
    def last(self) -> DecodedRecord:
        """The last record of the build's own process; another one records that a build was abandoned."""
        return self.own[-2 if len(self.own) > 1 and isinstance(self.own[-1].event, e.BuildAbandoned) else -1]

    @property
    def took_ms(self) -> int:
        """The milliseconds from the first record to the last of the build's own process."""
        return max(0, self.ms(self.last))

    def ms(self, record: DecodedRecord) -> int:
        """Return the milliseconds from the start of the build to a record."""
        return self.between(self.start, record)

    def between(self, earlier: DecodedRecord, later: DecodedRecord) -> int:
        """Return the milliseconds between two records, by the monotonic clock if the boot is the same."""
        if self.same_boot(earlier) and self.same_boot(later):
            return (later.mono_ns - earlier.mono_ns) // _MILLION
        return (later.wall_ns - earlier.wall_ns) // _MILLION

    def same_boot(self, record: DecodedRecord) -> bool:
        """Return whether the monotonic clock of a record can be compared with the build's."""
        if record.build == self.number and not isinstance(record.event, e.BuildAbandoned):
            return True
        return bool(self.boot) and boot_of(record) == self.boot


ENDINGS = (e.BuildCommitted, e.BuildFailed, e.BuildAbandoned, e.BuildRefused)


def boot_of(record: DecodedRecord) -> str:
    """Return the boot that a record was written in; empty if it does not say."""
    host = getattr(record.event, "host", None)
    found = host.get("boot") if isinstance(host, Mapping) else None
    return found if isinstance(found, str) else ""


def builds_in(records: Sequence[DecodedRecord]) -> dict[int, tuple[int, int]]:
    """Return the first and last record of each build, start and end, as indexes into `records`."""
    found: dict[int, tuple[int, int]] = {}
    ended: set[int] = set()
    for place, record in enumerate(records):
        number = record.build
        if number is None or number in ended:
            continue
        found[number] = found.get(number, (place, place))[0], place
        if isinstance(record.event, ENDINGS):
            ended.add(number)
    return found


def build_timeline(
    records: Sequence[DecodedRecord], number: int, span: tuple[int, int] | None = None
) -> BuildTimeline:
    """Return the timeline of one build.

    Args:
        records: All records, from the first on.
        number: The build.
        span: From `builds_in`, if it is known.

    Raises:
        KeyError: There is no such build.
    """
    first, last = span if span is not None else builds_in(records)[number]
    between = tuple(records[first : last + 1])
    own = tuple(record for record in between if record.build == number)
    walker = StepReconstructor()
    for earlier, record in pairwise((own[0], *own)):
        walker.add(earlier, record)
    steps, step_of = walker.finish(None if isinstance(own[-1].event, ENDINGS) else own[-1])
    return BuildTimeline(number=number, records=between, own=own, steps=steps, step_of=step_of)


def timeline_rows(found: BuildTimeline) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of the timeline, and how many were left out of the middle."""
    records, cut = found.records, 0
    if len(records) > MAX_ROWS:
        half = MAX_ROWS // 2
        cut = len(records) - 2 * half
        records = (*records[:half], *records[-half:])
    return list(_rows(found, records)), cut


def _rows(found: BuildTimeline, records: Sequence[DecodedRecord]) -> Iterator[dict[str, Any]]:
    for earlier, record in pairwise((found.start, *records)):
        yield {
            "seq": record.seq,
            "time": render.iso(record.wall_ns),
            "ms": found.ms(record),
            "since_ms": found.between(earlier, record),
            "tag": safe_text(record.tag, 64),
            "text": describe(record),
            "step": found.step_of.get(record.seq),
            "unknown": record.event is None,
            "problem": safe_text(record.problem, 300),
            "build": record.build,
            "payload": safe_data(record.payload) if record.event is None else None,
        }
