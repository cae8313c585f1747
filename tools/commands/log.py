"""`log`, `show` and `manifest`: what the journal says, without writing and without heavy libraries."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from journal.lock import lock_holder
from store.base.canonical_json import CanonicalError, decode, sha256
from store.cache.view import HistoryView, View, open_view, read_history
from store.disk.artifacts import Artifacts
from store.domain.events import BuildDenied
from store.domain.manifest_projection import project
from store.domain.state import Build, BuildStatus, Generation, State
from store.errors import ErrorKind, RequestRefusedError, StoreError
from store.files.regular_file import read_regular
from store.manifest.file_names import MAX_MANIFEST_BYTES
from tools.command import Answer, Call, say, shared_options
from tools.forensics.cost import NO_COST, costs_of, trend
from tools.output import build_view, render

_TREND_BUILDS: Final = 60
_LEAST_TREND: Final = 3


@click.command()
@click.option("--failed", is_flag=True, help="Only builds that did not end in a commit.")
@click.option("-n", "count", type=click.IntRange(1), metavar="N", help="Only the newest N.")
@shared_options()
def log(call: Call, *, failed: bool, count: int | None) -> Answer:
    """List every build and rollback, newest first."""
    view = read_history(call.layout())
    costs = costs_of(view.facts)
    dead = view.state.open_build is not None and lock_holder(view.layout.build_lock) is None
    entries = [
        entry | costs.get(entry["build"] if entry["type"] == "build" else 0, NO_COST)
        for entry in _entries(view)
        if not failed
        or entry["status"] in {"failed", "abandoned", "refused", "denied"}
        or (dead and entry["status"] == BuildStatus.OPEN)
    ]
    entries = entries[: count or len(entries)]
    rows = [
        (
            entry["generation"],
            entry["build"],
            entry["time"][:16].replace("T", " "),
            _shown_status(entry, dead=dead),
            render.number(entry["tiles"]),
            None if entry["reuse_ppm"] is None else render.share(entry["reuse_ppm"]),
            None if entry["bytes"] is None else render.size(entry["bytes"]),
            _took(entry),
        )
        for entry in entries
    ]
    lines = render.table(
        ("gen", "build", "when (UTC)", "outcome", "tiles", "reused", "stored", "took"), rows, right="rr  rrrr"
    )
    # What a line has to add stands below it, so that the columns stay narrow.
    shown = [lines[0]]
    for line, entry in zip(lines[1:], entries, strict=True):
        shown.append(f"{line}  accepted" if entry["accepted"] else line)
        shown.extend(render.wrap(entry["note"], indent=" " * 12) if entry["note"] else ())
    shown += _trend(entries)
    return Answer(document={"entries": entries}, lines=shown if entries else ["nothing yet"])


@click.command()
@click.argument("number", metavar="BUILD", type=click.IntRange(1))
@shared_options()
def show(call: Call, *, number: int) -> Answer:
    """Show one build: its identity, inputs, plan, steps, checks and failure."""
    view = read_history(call.layout())
    build = view.state.builds.get(number)
    if build is None:
        raise RequestRefusedError(
            f"expected a build from 1 to {len(view.state.builds)}, found {number}",
            kind=ErrorKind.UNKNOWN_GENERATION,
            hint=f"c10 log --cache {call.root}",
        )
    facts = [fact for fact in view.facts if fact.build == number]
    document = build_view.document_of(view.state, build, facts) | {"area": _report(view, build)}
    return Answer(document=document, lines=build_view.lines_of(document))


@click.command()
@shared_options()
def manifest(call: Call) -> Answer:
    """Print the manifest file of the head, byte for byte."""
    view = open_view(call.layout())
    head = view.state.head
    if head is None:
        raise RequestRefusedError(
            f"expected a committed generation in {call.root}, found none",
            kind=ErrorKind.NO_GENERATION,
            hint=f"c10 build REQUEST --cache {call.root}",
        )
    name = view.observed.manifests.get(head.number)
    raw = read_regular(view.layout.manifests / name, limit=MAX_MANIFEST_BYTES) if name else None
    if raw is None or sha256(raw) != head.manifest_sha256:
        say("c10: warning: the manifest file is not there yet; this is what the journal projects")
        raw = project(view.state, head)
    return Answer(raw=raw)


def _shown_status(entry: Mapping[str, Any], *, dead: bool) -> str:
    """How a build ended; an open one whose process holds no lock any more is dead."""
    if entry["collected"]:
        return "collected"
    return "died" if dead and entry["status"] == BuildStatus.OPEN else str(entry["status"])


def _took(entry: Mapping[str, Any]) -> str | None:
    """How long it took: of what is over by the clock that never steps back, as a replay tells it."""
    if entry["seconds"] is None:
        return None
    took = entry["seconds"] if entry["ms"] is None else entry["ms"] / 1000
    return render.seconds(took)


def _trend(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What committed builds cost, the oldest first, as bars; nothing for a few."""
    built = [
        entry for entry in reversed(entries) if entry["type"] == "build" and entry["status"] == "committed"
    ]
    built = built[-_TREND_BUILDS:]
    if len(built) < _LEAST_TREND:
        return []
    rows = (("took", "ms"), ("stored", "bytes"), ("reused", "reuse_ppm"))
    bars = [(label, trend([entry[name] for entry in built])) for label, name in rows]
    return ["", "trend of committed builds, the newest last", *(f"  {label:<8}{bar}" for label, bar in bars)]


def _report(view: View, build: Build) -> dict[str, Any] | None:
    """The geographic report of a build; nothing if it has none, or its file is not whole."""
    if build.coverage is None:
        return None
    try:
        found = decode(Artifacts(view.layout).read(build.coverage.geography))
    except (StoreError, CanonicalError):
        return None
    return found if isinstance(found, dict) else None


def _entries(view: HistoryView) -> list[dict[str, Any]]:
    state = view.state
    generation_of = {
        generation.origin: generation.number
        for generation in state.generations.values()
        if generation.rolled_back is None
    }
    collected, accepted = state.collected, {state.generations[number].origin for number in state.accepted}
    placed = [
        (
            build.started_seq,
            _build_entry(build, generation_of.get(build.number))
            | {"collected": build.number in collected, "accepted": build.number in accepted},
        )
        for build in state.builds.values()
    ]
    placed += [
        (
            generation.seq,
            _rollback_entry(generation, state)
            | {
                "collected": generation.number in state.collected_generations,
                "accepted": generation.origin in accepted,
            },
        )
        for generation in state.generations.values()
        if generation.rolled_back is not None
    ]
    placed += [
        (seq, _denied_entry(view.facts[seq - 1].wall_ns, seq, event)) for seq, event in state.denied.items()
    ]
    return [entry for _, entry in sorted(placed, key=lambda item: item[0], reverse=True)]


def _build_entry(build: Build, generation: int | None) -> dict[str, Any]:
    error = None
    if build.failure is not None:
        error = {"kind": build.failure.kind, "step": build.failure.step, "message": build.failure.message}
    note = f"{error['step']}: {error['message']}" if error else build.ending
    return {
        "type": "build",
        "build": build.number,
        "generation": generation,
        "status": str(build.status),
        "time": render.iso(build.started_ns),
        "seconds": build_view.elapsed(build),
        "identity": build.identity,
        "tiles": build.tiles.count if build.tiles else None,
        "tiles_embedded": build.tiles_embedded if build.tiles else None,
        "error": error,
        "note": note,
    }


def _denied_entry(wall_ns: int, seq: int, event: BuildDenied) -> dict[str, Any]:
    """A run that never became a build, since the build lock was held."""
    return {
        "type": "denied",
        "build": None,
        "generation": None,
        "status": "denied",
        "time": render.iso(wall_ns),
        "seconds": event.waited_ms / 1000,
        "identity": event.identity or None,
        "tiles": None,
        "tiles_embedded": None,
        "error": None,
        "note": f"{_holder(event)} held the build lock; c10 replay @{seq}",
        "collected": False,
        "accepted": False,
    }


def _holder(event: BuildDenied) -> str:
    """Who held the build lock, in a few words."""
    build, pid = event.holder.get("build"), event.holder.get("pid")
    return f"build {build}" if build else f"process {pid}" if pid else "another process"


def _rollback_entry(generation: Generation, state: State) -> dict[str, Any]:
    left = generation.rolled_back.left if generation.rolled_back else None
    why = generation.rolled_back.why if generation.rolled_back else ""
    return {
        "type": "rollback",
        "build": generation.origin,
        "generation": generation.number,
        "status": "rolled back",
        "time": render.iso(generation.wall_ns),
        "seconds": None,
        "identity": state.builds[generation.origin].identity,
        "tiles": None,
        "tiles_embedded": None,
        "error": None,
        "note": f"left build {left}" + (f": {why}" if why else ""),
    }
