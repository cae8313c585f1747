"""What somebody who looks into a build should see first: from clocks, gaps, retries and comparison. Pure."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

from store.domain import events as e
from tools.forensics.cost import Rates, duration, is_slow, normal_ms
from tools.forensics.records import History, Moment
from tools.forensics.state_at import Folded
from tools.forensics.timeline import Track, boot_of
from tools.output import render
from tools.output.sanitize import joined, text

GAP_MS: Final = 60_000
"""Silence in a build that is worth a word, unless one step accounts for it."""

JUMP_MS: Final = 1_000
_JUMP_SHARE: Final = 1_000
"""Clocks may drift apart by a part in so many, as they do when one of them is being disciplined."""

_EXPLAINED: Final = 0.8
_RANKS: Final = {"error": 0, "warning": 1, "note": 2}
_MAX_EACH: Final = 50


def findings(track: Track, history: History, folded: Folded, rates: Rates) -> list[dict[str, Any]]:
    """Return everything worth a word, worst first, in the order of the records among equals."""
    found = [
        *_damage(history, folded),
        *_unknown(track.moments),
        *_clocks(track, history),
        *_gaps(track),
        *_retries(track),
        *_slow(track, rates),
        *_checks(track),
        *_others(track),
    ]
    return sorted(found, key=lambda each: (_RANKS[each["severity"]], each["seq"] or 0))


def finding(kind: str, severity: str, seq: int | None, told: str, mend: str = "") -> dict[str, Any]:
    """One row of the findings."""
    return {"kind": kind, "severity": severity, "seq": seq, "text": text(told), "mend": text(mend)}


def _damage(history: History, folded: Folded) -> Iterator[dict[str, Any]]:
    if history.problem:
        told = f"reading ends after record {history.head[0]}: {history.problem}"
        yield finding("damaged-journal", "error", history.head[0], told, "c10 rebuild")
    if folded.problem:
        seq = folded.state.position.seq
        told = f"the state is known up to record {seq} only: {folded.problem}"
        yield finding("impossible-history", "error", seq, told, "c10 verify --full")
    for each in folded.projected:
        if not each.projects:
            told = f"generation {each.generation} does not project to the body that was committed"
            yield finding(
                "projection", "error", each.seq, told, "use the C10 that wrote it, or c10 verify --full"
            )


def _unknown(moments: Sequence[Moment]) -> Iterator[dict[str, Any]]:
    for moment in [each for each in moments if each.event is None][:_MAX_EACH]:
        if moment.problem:
            told = f"record {moment.seq} ({moment.tag}) cannot be read: {moment.problem}"
            yield finding("damaged-record", "error", moment.seq, told, "c10 verify --full")
        else:
            told = f"record {moment.seq} is a {moment.tag!r} of version {moment.version}, which is not known here"
            yield finding("unknown-event", "warning", moment.seq, told, "use the newer C10 that wrote it")


def _clocks(track: Track, history: History) -> Iterator[dict[str, Any]]:
    """The wall clock against the one that never steps back, from record to record of one process or one boot."""
    own = [moment for moment in track.own if not isinstance(moment.event, e.BuildAbandoned)]
    own = [*_earlier(track, history), *own]
    jumps = 0
    for earlier, later in pairwise(own):
        wall = (later.wall_ns - earlier.wall_ns) // 1_000_000
        mono = (later.mono_ns - earlier.mono_ns) // 1_000_000
        if mono < 0:
            told = f"the steady clock went back between records {earlier.seq} and {later.seq}: another boot or machine"
            yield finding("boot-change", "error", later.seq, told)
            continue
        off = wall - mono
        if abs(off) > max(JUMP_MS, mono // _JUMP_SHARE) and jumps < _MAX_EACH:
            jumps += 1
            way = "forward" if off > 0 else "back"
            told = (
                f"the wall clock jumped {way} by {render.seconds(abs(off) / 1000)} between records {earlier.seq} and"
                f" {later.seq}: it was set" + (", or the machine slept" if off > 0 else "")
            )
            mend = "check the clock (chronyc tracking, timedatectl); ages of tiles were judged by it"
            yield finding("clock-jump", "warning", later.seq, told, mend)
    ending = track.own[-1]
    restarted = track.boot and boot_of(ending) and boot_of(ending) != track.boot
    if isinstance(ending.event, e.BuildAbandoned) and restarted:
        told = "the machine was restarted, or the cache moved to another, before the end of this build was recorded"
        yield finding("boot-change", "warning", ending.seq, told)


def _earlier(track: Track, history: History) -> list[Moment]:
    """The record before a build, if it is known to have been written in the same boot."""
    before = history.moments[: track.start.seq - 1]
    for moment in reversed(before):
        boot = boot_of(moment)
        if boot and (moment is before[-1] or moment.build == before[-1].build):
            return [before[-1]] if boot == track.boot else []
    return []


def _gaps(track: Track) -> Iterator[dict[str, Any]]:
    for earlier, later in pairwise(track.own):
        gap = track.between(earlier, later)
        if gap < GAP_MS or isinstance(later.event, e.BuildAbandoned):
            continue
        took = getattr(later.event, "elapsed_ms", 0)
        if took >= gap * _EXPLAINED:
            continue
        place = track.step_of.get(later.seq)
        doing = (
            f" (at {track.steps[place].kind} {track.steps[place].subject})".replace(" )", ")")
            if place is not None
            else ""
        )
        told = f"nothing was recorded for {render.seconds(gap / 1000)} before record {later.seq}{doing}"
        yield finding("gap", "warning", later.seq, told)


def _retries(track: Track) -> Iterator[dict[str, Any]]:
    retries = [(m.seq, m.event) for m in track.own if isinstance(m.event, e.StepRetried)]
    for seq, event in retries[:_MAX_EACH]:
        told = " ".join(filter(None, (event.kind, joined(event.subjects), f"was tried again: {event.why}")))
        yield finding("retry", "warning", seq, told, "fewer workers, or a smaller engine.batch")


def _slow(track: Track, rates: Rates) -> Iterator[dict[str, Any]]:
    for step in track.steps:
        took, usual = duration(track, step), normal_ms(step, rates)
        if took is not None and usual is not None and is_slow(took, usual):
            told = (
                f"{step.kind} {step.subject}".rstrip()
                + f" took {render.seconds(took / 1000)}; as much work took {render.seconds(usual / 1000)} in earlier builds"
            )
            yield finding("slow-step", "warning", step.begun.seq, told)


def _checks(track: Track) -> Iterator[dict[str, Any]]:
    for moment in track.own:
        match moment.event:
            case e.CheckFailed() as event:
                told = f"check {event.check} of {event.subject} failed: {event.why}"
                yield finding("check-failed", "error", moment.seq, told)
            case e.Repaired() as event:
                told = f"{event.subject} {event.sha256[:12]} was damaged: {event.action}"
                yield finding("repaired", "warning", moment.seq, told)
            case e.CoverageWalked(problems=problems) if problems:
                told = f"{render.plural(len(problems), 'stranger')} in the cache: {joined(problems)}"
                yield finding("strangers", "warning", moment.seq, told)
            case e.TilesSelected(warnings=warnings):
                for warning in warnings[:_MAX_EACH]:
                    yield finding("warning", "note", moment.seq, warning)
            case _:
                continue


def _others(track: Track) -> Iterator[dict[str, Any]]:
    """What happened beside the build."""
    for moment in track.moments:
        if isinstance(moment.event, e.BuildDenied):
            told = f"another run waited for the build lock in vain (record {moment.seq}: c10 replay @{moment.seq})"
            yield finding("denied", "note", moment.seq, told)
    beside = [m for m in track.moments if m.build != track.number and not isinstance(m.event, e.BuildDenied)]
    if beside:
        told = f"{render.plural(len(beside), 'record')} of no build between: {joined(sorted({m.tag for m in beside}))}"
        yield finding("beside", "note", beside[0].seq, told)
