"""Say in one sentence why a build failed, died or was denied. Pure."""

from collections.abc import Mapping
from typing import Any

from store.base.canonical_json import Document
from store.domain import events as e
from store.domain.proof import PROOF
from tools.forensics.timeline import BuildTimeline, boot_of
from tools.output.render import plural, seconds, size
from tools.output.sanitize import safe_text

_BY_KIND: Mapping[str, str] = {
    "bad-tile": "a tile of the source cannot be decoded: its bytes are damaged, and were when they were selected",
    "source-changed": "the tile source changed while the build read it: a tile has other bytes than were selected",
    "bad-archive": "the tile archive is damaged",
    "bad-vectors": "the network gave a descriptor that is no finite vector of length 1",
    "bad-model": "the network is no ONNX file that the backend can compile",
    "backend-unavailable": "the backend that was asked for is not installed, or not for this device",
    "compile-failed": "the compiler refused the network",
    "compile-crashed": "the compiler crashed on the network",
    "compile-timeout": "the compiler did not finish in time",
    "compile-out-of-memory": "memory ran out while the network was compiled",
    "worker-died": "a worker process died again and again on the same tiles",
    "embed-failed": "the engine could not run on these tiles",
    "index-failed": "the index could not be built from the blocks",
    "coverage-too-low": "too little of the area can be localised",
    "coverage": "what the manifest would name is not what lies in the cache",
    "artifact-missing": "an artifact that the step needs is gone",
    "artifact-damaged": "an artifact that the step needs has other bytes than when it was stored",
    "disk-full": "the disk was full",
    "permission": "this user may not write there",
    "input-output": "the disk did not answer as it should",
    "resources": "the process ran out of memory or open files",
    "interrupted": "somebody interrupted it (Ctrl-C, SIGTERM, a closed terminal); nothing was wrong with its work",
    "unexpected": "an error that nobody foresaw: a fault of C10, or memory ran out",
    "tiles-too-old": "tiles are older than the request allows, judged by the clock of that machine or by as_of",
    "tile-age-unknown": "tiles have no capture date, and the request wants one",
    "no-tiles": "the tile source holds nothing of the area",
    "rolled-back": "this very request was rolled back from, and not asked for again with --again",
}


def cause_of_failure(event: e.BuildFailed, timeline: BuildTimeline) -> str:
    """Say why a build failed."""
    known = _BY_KIND.get(event.kind)
    if event.kind == "worker-died" and not event.inputs.get("window"):
        known = "worker processes died again and again, at their start or on tiles that were not recorded"
    details = [
        _check(event, timeline),
        _worker(event, timeline),
        _tile(event),
        _coverage(event),
        _machine(event),
    ]
    told = "; ".join(part for part in details if part)
    if event.kind == "check-failed":
        known = "a check said no"
    return "; ".join(part for part in (known or f"it failed with {safe_text(event.kind, 64)}", told) if part)


def cause_of_death(timeline: BuildTimeline, ending: e.BuildAbandoned | None) -> str:
    """Say why a build ended without a record of its end, as far as the clocks show."""
    last = timeline.last
    was = f"its process ended without a word after record {last.seq}"
    if ending is None:
        return (
            f"{was}, and nobody held the build lock any more: it was killed (by hand, or by the kernel for memory),"
            " it crashed, or the machine went down"
        )
    boots = timeline.boot, boot_of(timeline.own[-1])
    if not all(boots):
        return f"{was}: it was killed, it crashed, or the machine went down"
    if boots[0] != boots[1]:
        return f"{was}, and the machine was restarted before anybody noticed: power, kernel, or a reboot"
    noticed = seconds(max(0, timeline.between(last, timeline.own[-1])) / 1000)
    return (
        f"{was}, with the machine still up {noticed} later: it was killed (by hand, or by the kernel for memory)"
        " or it crashed"
    )


def cause_of_denial(event: e.BuildDenied) -> str:
    """Say who held the build lock."""
    holder = event.holder
    who = ", ".join(
        f"{name} {safe_text(holder[name], 100)}"
        for name in ("build", "command", "pid", "host", "since")
        if holder.get(name) is not None
    )
    waited = seconds(event.waited_ms / 1000)
    return f"another process held the build lock for all of the {waited} that were waited" + (
        f": {who}" if who else ""
    )


def _check(event: e.BuildFailed, timeline: BuildTimeline) -> str:
    failed = [m.event for m in timeline.own if isinstance(m.event, e.CheckFailed)]
    if event.kind != "check-failed" or not failed:
        return ""
    last = failed[-1]
    measured = ", ".join(
        f"{safe_text(name, 40)} {safe_text(value, 40)}"
        for name, value in last.measured.items()
        # Why a proof failed says what it found.
        if not isinstance(value, (list, tuple)) and last.check != PROOF
    )
    what = {
        "engine": "the engine does not agree with its network",
        "index": "the index does not find its own tiles",
        PROOF: "too few photographs of known places are found",
    }
    return f"{what.get(last.check, safe_text(last.check, 64))}: {safe_text(last.why, 500)}" + (
        f" ({measured})" if measured else ""
    )


def _worker(event: e.BuildFailed, timeline: BuildTimeline) -> str:
    ends = [m.event for m in timeline.own if isinstance(m.event, e.StepRetried)]
    if event.kind != "worker-died" or not ends:
        return ""
    last = ends[-1].why
    killed = ": SIGKILL is what the kernel sends when memory runs out" if "SIGKILL" in last else ""
    return f"{plural(len(ends), 'earlier attempt')}, the last one: {safe_text(last, 300)}{killed}"


def _tile(event: e.BuildFailed) -> str:
    tile = _map(event.inputs, "tile")
    if "unreadable" in tile:
        return f"afterwards it could not be read at all: {safe_text(tile['unreadable'], 300)}"
    expected, found = tile.get("sha256"), tile.get("found_sha256")
    if not isinstance(expected, str) or not isinstance(found, str):
        return ""
    if expected == found:
        return "" if event.kind == "bad-tile" else "its bytes are still the ones that were selected"
    return f"selected with SHA-256 {safe_text(expected[:12])}, found {safe_text(found[:12])} afterwards"


def _coverage(event: e.BuildFailed) -> str:
    problems = event.inputs.get("problems")
    if not isinstance(problems, list | tuple) or not problems:
        return ""
    return f"{plural(len(problems), 'problem')}, first: {safe_text(problems[0], 300)}"


def _machine(event: e.BuildFailed) -> str:
    disk, memory = _map(event.inputs, "disk"), _map(event.inputs, "memory")
    if event.kind == "disk-full" and isinstance(disk.get("free"), int):
        return f"{size(max(0, disk['free']))} were free afterwards"
    if event.kind in {"worker-died", "compile-out-of-memory", "compile-crashed"} and isinstance(
        memory.get("available"), int
    ):
        return f"{size(max(0, memory['available']))} of memory were available afterwards"
    return ""


def _map(document: Document, name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}
