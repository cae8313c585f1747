"""One build as a row of moments and of steps with their durations. Pure.

Durations come from the clock that never steps back, which is comparable within one boot. All records of a build were
written by one process, except that a build whose process died is abandoned by another one, maybe after a restart: where
the boots differ, or one of them is not known, the wall clock has to do.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from store.domain import events as e
from tools.forensics.event_text import tell
from tools.forensics.records import Moment
from tools.forensics.steps import Step, Walker
from tools.output import render
from tools.output.sanitize import text, tree

MAX_ROWS = 20_000
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """The records of one build from its start to its end, and of no build between them.

    Attributes:
        number: The build.
        moments: All of them, in order.
        own: Those of the build.
        steps: In the order of their begin.
        step_of: Record to index of its step.
    """

    number: int
    moments: Sequence[Moment]
    own: Sequence[Moment]
    steps: Sequence[Step]
    step_of: Mapping[int, int]

    @property
    def start(self) -> Moment:
        """The first record."""
        return self.own[0]

    @property
    def boot(self) -> str:
        """The boot during which the build ran, as far as it is known."""
        return boot_of(self.start)

    @property
    def end(self) -> Moment | None:
        """The record that ended the build, if any."""
        last = self.own[-1]
        return last if isinstance(last.event, ENDINGS) else None

    def ms(self, moment: Moment) -> int:
        """Milliseconds from the start of the build to a moment."""
        return self.between(self.start, moment)

    def between(self, earlier: Moment, later: Moment) -> int:
        """Milliseconds between two moments, by the better clock that can be believed for both."""
        if self.same_boot(earlier) and self.same_boot(later):
            return (later.mono_ns - earlier.mono_ns) // _MILLION
        return (later.wall_ns - earlier.wall_ns) // _MILLION

    def same_boot(self, moment: Moment) -> bool:
        """Whether the monotonic clock of a record can be held against that of the build's."""
        if moment.build == self.number and not isinstance(moment.event, e.BuildAbandoned):
            return True
        return bool(self.boot) and boot_of(moment) == self.boot


ENDINGS = (e.BuildCommitted, e.BuildFailed, e.BuildAbandoned, e.BuildRefused)


def boot_of(moment: Moment) -> str:
    """The boot that a record says it was written in, or nothing."""
    host = getattr(moment.event, "host", None)
    found = host.get("boot") if isinstance(host, Mapping) else None
    return found if isinstance(found, str) else ""


def builds_in(moments: Sequence[Moment]) -> dict[int, tuple[int, int]]:
    """Number of each build to its first and last record, from its start to its end: places in `moments`."""
    found: dict[int, tuple[int, int]] = {}
    ended: set[int] = set()
    for place, moment in enumerate(moments):
        number = moment.build
        if number is None or number in ended:
            continue
        found[number] = found.get(number, (place, place))[0], place
        if isinstance(moment.event, ENDINGS):
            ended.add(number)
    return found


def track(moments: Sequence[Moment], number: int, span: tuple[int, int] | None = None) -> Track:
    """Put the records of one build together.

    Args:
        moments: All records, from the first on.
        number: The build.
        span: From `builds_in`, if it is known.

    Raises:
        KeyError: There is no such build.
    """
    first, last = span if span is not None else builds_in(moments)[number]
    between = tuple(moments[first : last + 1])
    own = tuple(moment for moment in between if moment.build == number)
    walker = Walker()
    for earlier, moment in pairwise((own[0], *own)):
        walker.take(earlier, moment)
    steps, step_of = walker.finish(None if isinstance(own[-1].event, ENDINGS) else own[-1])
    return Track(number=number, moments=between, own=own, steps=steps, step_of=step_of)


def rows(found: Track) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of the timeline, and how many were left out of the middle."""
    moments, cut = found.moments, 0
    if len(moments) > MAX_ROWS:
        half = MAX_ROWS // 2
        cut = len(moments) - 2 * half
        moments = (*moments[:half], *moments[-half:])
    return list(_rows(found, moments)), cut


def _rows(found: Track, moments: Sequence[Moment]) -> Iterator[dict[str, Any]]:
    for earlier, moment in pairwise((found.start, *moments)):
        yield {
            "seq": moment.seq,
            "time": render.iso(moment.wall_ns),
            "ms": found.ms(moment),
            "since_ms": found.between(earlier, moment),
            "tag": text(moment.tag, 64),
            "text": tell(moment),
            "step": found.step_of.get(moment.seq),
            "unknown": moment.event is None,
            "problem": text(moment.problem, 300),
            "build": moment.build,
            "payload": tree(moment.payload) if moment.event is None else None,
        }
