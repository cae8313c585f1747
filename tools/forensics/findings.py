"""What to look at first in a build: damage, clock jumps, gaps, retries, slow steps and more. Pure."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

from store.domain import events as e
from store.domain import maintenance_events, problem_lines
from store.policy.vouching import UNSIGNED
from tools.forensics.cost import Rates, duration, is_slow, normal_ms
from tools.forensics.records import DecodedRecord, RecordHistory
from tools.forensics.state_at import FoldedState
from tools.forensics.timeline import BuildTimeline, boot_of
from tools.output import render
from tools.output.sanitize import join_first, safe_text

GAP_MS: Final = 60_000
"""A gap between two records that is reported, unless one step explains it."""

JUMP_MS: Final = 1_000
_JUMP_SHARE: Final = 1_000
"""The two clocks may drift apart by one part in this many, as they do when one of them is being adjusted."""

_EXPLAINED: Final = 0.8
_RANKS: Final = {"error": 0, "warning": 1, "note": 2}
_MAX_EACH: Final = 50


def findings_of(
    timeline: BuildTimeline, history: RecordHistory, folded: FoldedState, rates: Rates
) -> list[dict[str, Any]]:
    """Return the findings, worst first, then in the order of the records."""
    found = [
        *_damage(history, folded),
        *_unknown(timeline.records),
        *_clocks(timeline, history),
        *_gaps(timeline),
        *_retries(timeline),
        *_slow(timeline, rates),
        *_checks(timeline),
        *_other_records(timeline),
    ]
    return sorted(found, key=lambda each: (_RANKS[each["severity"]], each["seq"] or 0))


def make_finding(kind: str, severity: str, seq: int | None, message: str, fix: str = "") -> dict[str, Any]:
    """Return one finding."""
    return {
        "kind": kind,
        "severity": severity,
        "seq": seq,
        "text": safe_text(message),
        "mend": safe_text(fix),
    }


def _damage(history: RecordHistory, folded: FoldedState) -> Iterator[dict[str, Any]]:
    if history.problem:
        message = f"reading ends after record {history.head[0]}: {history.problem}"
        yield make_finding("damaged-journal", "error", history.head[0], message, history.mend)
    if folded.problem:
        seq = folded.state.position.seq
        message = f"the state is known up to record {seq} only: {folded.problem}"
        yield make_finding("impossible-history", "error", seq, message, "c10 verify --full")
    for each in folded.commits:
        if not each.matches:
            message = f"generation {each.generation} does not project to the body that was committed"
            yield make_finding(
                "projection", "error", each.seq, message, "use the C10 that wrote it, or c10 verify --full"
            )


def _unknown(records: Sequence[DecodedRecord]) -> Iterator[dict[str, Any]]:
    for record in [each for each in records if each.event is None][:_MAX_EACH]:
        if record.problem:
            message = f"record {record.seq} ({record.tag}) cannot be read: {record.problem}"
            yield make_finding("damaged-record", "error", record.seq, message, "c10 verify --full")
        else:
            message = f"record {record.seq} is a {record.tag!r} of version {record.version}, which is not known here"
            yield make_finding(
                "unknown-event", "warning", record.seq, message, "use the newer C10 that wrote it"
            )


def _clocks(timeline: BuildTimeline, history: RecordHistory) -> Iterator[dict[str, Any]]:
    """Compare the wall clock with the monotonic one, between the records of one process or one boot."""
    own = [record for record in timeline.own if not isinstance(record.event, e.BuildAbandoned)]
    own = [*_earlier(timeline, history), *own]
    jumps = 0
    for earlier, later in pairwise(own):
        wall = (later.wall_ns - earlier.wall_ns) // 1_000_000
        mono = (later.mono_ns - earlier.mono_ns) // 1_000_000
        if mono < 0:
            message = f"the steady clock went back between records {earlier.seq} and {later.seq}: another boot or machine"
            yield make_finding("boot-change", "error", later.seq, message)
            continue
        off = wall - mono
        if abs(off) > max(JUMP_MS, mono // _JUMP_SHARE) and jumps < _MAX_EACH:
            jumps += 1
            way = "forward" if off > 0 else "back"
            message = (
                f"the wall clock jumped {way} by {render.milliseconds(abs(off))} between records {earlier.seq} and"
                f" {later.seq}: it was set" + (", or the machine slept" if off > 0 else "")
            )
            fix = "check the clock (chronyc tracking, timedatectl); ages of tiles were judged by it"
            yield make_finding("clock-jump", "warning", later.seq, message, fix)
    ending = timeline.own[-1]
    restarted = timeline.boot and boot_of(ending) and boot_of(ending) != timeline.boot
    if isinstance(ending.event, e.BuildAbandoned) and restarted:
        message = "the machine was restarted, or the cache moved to another, before the end of this build was recorded"
        yield make_finding("boot-change", "warning", ending.seq, message)


def _earlier(timeline: BuildTimeline, history: RecordHistory) -> list[DecodedRecord]:
    """Return the record before a build, if it is known to be of the same boot."""
    before = history.records[: timeline.start.seq - 1]
    for record in reversed(before):
        boot = boot_of(record)
        if boot and (record is before[-1] or record.build == before[-1].build):
            return [before[-1]] if boot == timeline.boot else []
    return []


def _gaps(timeline: BuildTimeline) -> Iterator[dict[str, Any]]:
    for earlier, later in pairwise(timeline.own):
        gap = timeline.between(earlier, later)
        if gap < GAP_MS or isinstance(later.event, e.BuildAbandoned):
            continue
        took = getattr(later.event, "elapsed_ms", 0)
        if took >= gap * _EXPLAINED:
            continue
        place = timeline.step_of.get(later.seq)
        doing = (
            f" (at {timeline.steps[place].kind} {timeline.steps[place].subject})".replace(" )", ")")
            if place is not None
            else ""
        )
        message = f"nothing was recorded for {render.milliseconds(gap)} before record {later.seq}{doing}"
        yield make_finding("gap", "warning", later.seq, message)


def _retries(timeline: BuildTimeline) -> Iterator[dict[str, Any]]:
    retries = [(m.seq, m.event) for m in timeline.own if isinstance(m.event, e.StepRetried)]
    for seq, event in retries[:_MAX_EACH]:
        message = " ".join(
            filter(None, (event.kind, join_first(event.subjects), f"was tried again: {event.why}"))
        )
        yield make_finding("retry", "warning", seq, message, "fewer workers, or a smaller engine.batch")


def _slow(timeline: BuildTimeline, rates: Rates) -> Iterator[dict[str, Any]]:
    for step in timeline.steps:
        took, usual = duration(timeline, step), normal_ms(step, rates)
        if took is not None and usual is not None and is_slow(took, usual):
            message = (
                f"{step.kind} {step.subject}".rstrip()
                + f" took {render.milliseconds(took)}; as much work took {render.milliseconds(usual)} in earlier builds"
            )
            yield make_finding("slow-step", "warning", step.begin.seq, message)


def _checks(timeline: BuildTimeline) -> Iterator[dict[str, Any]]:
    for record in timeline.own:
        match record.event:
            case e.CheckFailed() as event:
                message = f"check {event.check} of {event.subject} failed: {event.why}"
                severity = "warning" if event.check == UNSIGNED else "error"
                yield make_finding("check-failed", severity, record.seq, message)
            case maintenance_events.Repaired() as event:
                message = f"{event.subject} {event.sha256[:12]} was damaged: {event.action}"
                yield make_finding("repaired", "warning", record.seq, message)
            case e.CoverageWalked(problems=problems) if problems:
                total = problem_lines.count(problems)
                message = (
                    f"{render.plural(total, 'stranger')} in the cache: {join_first(problems, total=total)}"
                )
                yield make_finding("strangers", "warning", record.seq, message)
            case e.TilesSelected(warnings=warnings):
                for warning in warnings[:_MAX_EACH]:
                    yield make_finding("warning", "note", record.seq, warning)
            case _:
                continue


def _other_records(timeline: BuildTimeline) -> Iterator[dict[str, Any]]:
    """Report records that do not belong to the build."""
    for record in timeline.records:
        if isinstance(record.event, e.BuildDenied):
            message = f"another run waited for the build lock in vain (record {record.seq}: c10 replay @{record.seq})"
            yield make_finding("denied", "note", record.seq, message)
    beside = [
        m for m in timeline.records if m.build != timeline.number and not isinstance(m.event, e.BuildDenied)
    ]
    if beside:
        message = f"{render.plural(len(beside), 'record')} of no build between: {join_first(sorted({m.tag for m in beside}))}"
        yield make_finding("beside", "note", beside[0].seq, message)
