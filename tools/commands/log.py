"""`log`: every build and rollback, newest first."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from store.cache.mirror_history import OTHER_CACHE
from store.disk.layout import Layout
from store.disk.manifest_files import read_manifest_file, shown_generation
from store.disk.repair_commands import mirroring_without
from store.domain.state import Build, BuildStatus, State
from store.errors import ErrorKind, NoGoError
from store.manifest.manifest import Manifest
from tools.command import NUMBER, Answer, Call, print_message, shared_options
from tools.forensics.cost import NO_COST, costs_of_builds, draw_trend
from tools.output import render
from tools.record_source import FoldedRecords, read_records, source_options

_TREND_BUILDS: Final = 60
_LEAST_TREND: Final = 3
_EMPTY: Final[dict[str, Any]] = {
    **dict.fromkeys(("type", "build", "generation", "status", "time", "seconds", "identity")),
    **dict.fromkeys(("tiles", "tiles_embedded", "chunks_embedded", "error", "note")),
    "collected": False,
    "accepted": False,
    **NO_COST,
}
"""The keys of every entry, in their order."""


@click.command()
@click.option("--failed", is_flag=True, help="List only builds that were not committed.")
@click.option("-n", "count", type=NUMBER, metavar="N", help="List only the newest N.")
@source_options
@shared_options()
def log(call: Call, *, failed: bool, count: int | None, journal: Path | None, bundle: Path | None) -> Answer:
    """List every build and rollback, newest first; of a mirror, those up to its newest generation."""
    entries = [
        entry
        for entry in _all_entries(call, journal, bundle)
        if not failed or entry["status"] in {"failed", "abandoned", "died", "refused", "denied"}
    ]
    entries = entries[: count or len(entries)]
    rows = [
        (
            entry["generation"],
            entry["build"],
            entry["time"][:16].replace("T", " "),
            "collected" if entry["collected"] else entry["status"],
            render.number(entry["tiles"]),
            None if entry["reuse_ppm"] is None else render.share(entry["reuse_ppm"]),
            None if entry["bytes"] is None else render.size(entry["bytes"]),
            _took(entry),
        )
        for entry in entries
    ]
    shown, *found = render.table_rows(
        ("gen", "build", "when (UTC)", "outcome", "tiles", "reused", "stored", "took"), rows, right="rr  rrrr"
    )
    # Notes go below their line, so that the columns stay narrow.
    for lines, entry in zip(found, entries, strict=True):
        shown += [*lines[:-1], f"{lines[-1]}  accepted" if entry["accepted"] else lines[-1]]
        shown.extend(render.wrap(entry["note"], indent=" " * 12) if entry["note"] else ())
    shown += _trend(entries)
    return Answer(document={"entries": entries}, lines=shown if entries else ["nothing yet"])


def _took(entry: Mapping[str, Any]) -> str | None:
    """Return how long it took, by the steady clock if it has ended, as a replay does."""
    if entry["seconds"] is None:
        return None
    took = entry["seconds"] if entry["ms"] is None else entry["ms"] / 1000
    return render.seconds(took)


def _trend(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the costs of committed builds as bars, the oldest first; nothing for a few builds."""
    built = [
        entry for entry in reversed(entries) if entry["type"] == "build" and entry["status"] == "committed"
    ]
    built = built[-_TREND_BUILDS:]
    if len(built) < _LEAST_TREND:
        return []
    rows = (("took", "ms"), ("stored", "bytes"), ("reused", "reuse_ppm"))
    bars = [(label, draw_trend([entry[name] for entry in built])) for label, name in rows]
    return ["", "trend of committed builds, the newest last", *(f"  {label:<8}{bar}" for label, bar in bars)]


def _all_entries(call: Call, journal: Path | None, bundle: Path | None) -> list[dict[str, Any]]:
    layout = call.layout() if journal is None and bundle is None else None
    if layout is None or not layout.is_mirror():
        return _entries(read_records(call, journal, bundle))
    recorded = _entries(read_records(call, None, None)) if layout.segment_files() else []
    if not layout.manifest_files() and recorded:
        print_message("c10: warning: no manifest is here: a mirror that was not finished")
        return recorded
    told = {entry["generation"] for entry in recorded}
    head = read_manifest_file(layout, shown_generation(layout)).manifest
    return [*_known_by_manifest(layout, head, told), *recorded]


def _known_by_manifest(layout: Layout, head: Manifest, told: Collection[int]) -> Iterator[dict[str, Any]]:
    """Yield the generations that no record tells, newest first: a segment holds everything before its commit."""
    for number in sorted(layout.manifest_files(), reverse=True):
        if number in told:
            continue
        shown = read_manifest_file(layout, number)
        if shown.manifest.envelope.cache_id != head.envelope.cache_id:
            where = f"manifests/{shown.name}"
            raise NoGoError(
                (f"{where}: {OTHER_CACHE}",),
                kind=ErrorKind.MANIFEST_INVALID,
                hint=mirroring_without(layout, where),
            )
        yield _shown_generation(shown.manifest)


def _shown_generation(manifest: Manifest) -> dict[str, Any]:
    """Return the entry of a generation of which a manifest alone tells."""
    return _EMPTY | {
        "type": "build",
        "build": manifest.envelope.origin,
        "generation": manifest.envelope.generation,
        "status": str(BuildStatus.COMMITTED),
        "time": render.iso(manifest.envelope.wall_ns),
        "identity": manifest.identity,
        "tiles": manifest.tile_count,
        "note": "known by its manifest alone; a rollback looks the same",
    }


def _entries(found: FoldedRecords) -> list[dict[str, Any]]:
    """Return an entry for every build, rollback and denied run, newest first."""
    entries = {seq: entry for listed in (_builds, _rollbacks, _denied_runs) for seq, entry in listed(found)}
    return [entries[seq] for seq in sorted(entries, reverse=True)]


def _builds(found: FoldedRecords) -> Iterator[tuple[int, dict[str, Any]]]:
    state, costs = found.state, costs_of_builds(found.records)
    generation_of = {
        generation.origin: generation.number
        for generation in state.generations.values()
        if generation.rolled_back is None
    }
    collected, accepted = state.collected, _accepted_builds(state)
    for build in state.builds.values():
        error, note, cost = None, build.ending, costs.get(build.number, NO_COST)
        if build.failure is not None:
            error = {name: getattr(build.failure, name) for name in ("kind", "step", "message")}
            note = f"{build.failure.step}: {build.failure.message}"
        yield (
            build.started_seq,
            _EMPTY
            | {
                "type": "build",
                "build": build.number,
                "generation": generation_of.get(build.number),
                "status": "died" if build.number == found.died else str(build.status),
                "time": render.iso(build.started_ns),
                "seconds": _wall_seconds(build, cost["ms"]),
                "identity": build.identity,
                "tiles": build.tiles.count if build.tiles else None,
                **(build.embedded if build.tiles else {}),
                "error": error,
                "note": note,
                "collected": build.number in collected,
                "accepted": build.number in accepted,
                **cost,
            },
        )


def _wall_seconds(build: Build, took_ms: int | None) -> float | None:
    """Return the seconds from start to end by the wall clock; None for a build that has not ended.

    That a build was abandoned is recorded later, by another process: its last own record ends it.
    """
    if build.ended_ns is None:
        return None
    if build.status is BuildStatus.ABANDONED and took_ms is not None:
        return took_ms / 1000
    return max(0.0, round((build.ended_ns - build.started_ns) / 1e9, 3))


def _rollbacks(found: FoldedRecords) -> Iterator[tuple[int, dict[str, Any]]]:
    state, accepted = found.state, _accepted_builds(found.state)
    for generation in state.generations.values():
        rollback = generation.rolled_back
        if rollback is None:
            continue
        yield (
            generation.seq,
            _EMPTY
            | {
                "type": "rollback",
                "build": generation.origin,
                "generation": generation.number,
                "status": "rolled back",
                "time": render.iso(generation.wall_ns),
                "identity": state.builds[generation.origin].identity,
                "note": f"left build {rollback.left}" + (f": {rollback.why}" if rollback.why else ""),
                "collected": generation.number in state.collected_generations,
                "accepted": generation.origin in accepted,
            },
        )


def _denied_runs(found: FoldedRecords) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the runs that never became a build, because the build lock was held."""
    for seq, event in found.state.denied.items():
        build, pid = event.holder.get("build"), event.holder.get("pid")
        holder = f"build {build}" if build else f"process {pid}" if pid else "another process"
        yield (
            seq,
            _EMPTY
            | {
                "type": "denied",
                "status": "denied",
                "time": render.iso(found.records[seq - 1].wall_ns),
                "seconds": event.waited_ms / 1000,
                "identity": event.identity or None,
                "note": f"{holder} held the build lock; c10 replay @{seq}",
            },
        )


def _accepted_builds(state: State) -> set[int]:
    return {state.generations[number].origin for number in state.accepted}
