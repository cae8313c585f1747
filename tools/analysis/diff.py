"""Compare two builds: inputs, artifacts, checks, timings, host facts and tiles. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.planning.area_report import runs
from store.base.identity import tile_of
from store.base.values import ArtifactRef
from store.domain.events import CheckFailed, CheckPassed
from store.domain.index_files import delta_of, whole_of
from store.domain.proof import answers_of
from store.domain.state import Build
from store.manifest.roles import DELTA, PACKS, PROOF
from tools.forensics.cost import cost_of, duration
from tools.forensics.failure import ArtifactReader
from tools.forensics.ground.area import Tiles, read_tiles
from tools.forensics.step_keys import MAX_CHANGES, component_changes, has_inputs
from tools.forensics.timeline import BuildTimeline
from tools.output import render
from tools.output.sanitize import safe_data, safe_text

MAX_RUNS = 10_000
_NOT_HOST = ("request", "pid", "own_records")


def compare_builds(
    a: tuple[BuildTimeline, Build], b: tuple[BuildTimeline, Build], artifacts: ArtifactReader
) -> dict[str, Any]:
    """Return the differences between two builds; changes are from `a` to `b`."""
    one, other = a[1], b[1]
    costs = {name: cost_of(timeline) for name, (timeline, _) in (("a", a), ("b", b))}
    return {
        "format": 1,
        "a": _head(*a),
        "b": _head(*b),
        "same_identity": one.identity is not None and one.identity == other.identity,
        "inputs": _changed(*_comparable(one, other, one.inputs, other.inputs)),
        "host": _changed(*_comparable(one, other, _host(one), _host(other))),
        "artifacts": list(_artifacts(one, other)),
        "checks": list(_checks(a[0], b[0])),
        "steps": list(_steps(a[0], b[0])),
        "tiles": _tiles(one, other, artifacts),
        "cost": {
            name: {part: found[part] for part in ("ms", "bytes", "tiles", "embedded", "reuse_ppm")}
            for name, found in costs.items()
        },
    }


def _head(timeline: BuildTimeline, build: Build) -> dict[str, Any]:
    return {
        "build": build.number,
        "status": str(build.status),
        "identity": build.identity,
        "time": render.iso(build.started_ns),
        "ms": max(0, timeline.ms(timeline.own[-1])),
    }


def _comparable(
    one: Build, other: Build, old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return two documents, or only their common members if the inputs of a build were not all recorded."""
    if all(build.identity is not None and has_inputs(build) for build in (one, other)):
        return old, new
    names = old.keys() & new.keys()
    return {name: old[name] for name in names}, {name: new[name] for name in names}


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(component_changes(old, new))[:MAX_CHANGES]


def _host(build: Build) -> dict[str, Any]:
    return {name: value for name, value in build.host.items() if name not in _NOT_HOST}


def _artifacts(one: Build, other: Build) -> Iterator[dict[str, Any]]:
    left, right = dict(_refs(one)), dict(_refs(other))
    for role in sorted({*left, *right}):
        a, b = left.get(role), right.get(role)
        yield {
            "role": safe_text(role, 200),
            "a": a.sha256 if a else None,
            "b": b.sha256 if b else None,
            "same": a == b,
            "a_bytes": a.size if a else None,
            "b_bytes": b.size if b else None,
        }


def _refs(build: Build) -> Iterator[tuple[str, ArtifactRef]]:
    yield from build.given()
    if build.tiles is not None:
        yield "tile table", build.tiles.table
    for name, event in build.engines:
        yield f"engine {name}", event.artifact
    for name, event in build.stand_ins:
        yield "stand-in engine" if len(build.stand_ins) == 1 else f"stand-in engine {name}", event.artifact
    if build.index is not None:
        yield "index", whole_of(build.index)
        delta = delta_of(build.index)
        if delta is not None:
            yield DELTA, delta
        yield "block table", build.index.blocks
    if build.carried is not None:
        yield PACKS, build.carried.table
    if build.proof is not None:
        yield PROOF, answers_of(build.proof)
    if build.coverage is not None:
        yield "geographic report", build.coverage.geography


def _checks(one: BuildTimeline, other: BuildTimeline) -> Iterator[dict[str, Any]]:
    left, right = _check_results(one), _check_results(other)
    for check, subject in sorted({*left, *right}):
        yield {
            "check": safe_text(check, 64),
            "subject": safe_text(subject, 200),
            "a": left.get((check, subject)),
            "b": right.get((check, subject)),
        }


def _check_results(timeline: BuildTimeline) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (record.event.check, record.event.subject): {
            "passed": isinstance(record.event, CheckPassed),
            "measured": safe_data(record.event.measured),
        }
        for record in timeline.own
        if isinstance(record.event, CheckPassed | CheckFailed)
    }


def _steps(one: BuildTimeline, other: BuildTimeline) -> Iterator[dict[str, Any]]:
    left, right = _step_times(one), _step_times(other)
    for name in dict.fromkeys((*left, *right)):
        a, b = left.get(name, (None, None)), right.get(name, (None, None))
        yield {
            "kind": safe_text(name[0], 64),
            "subject": safe_text(name[1], 200),
            "a_ms": a[0],
            "b_ms": b[0],
            "a_outcome": a[1],
            "b_outcome": b[1],
        }


def _step_times(timeline: BuildTimeline) -> dict[tuple[str, str], tuple[int | None, str]]:
    return {(step.kind, step.subject): (duration(timeline, step), step.outcome) for step in timeline.steps}


def _tiles(one: Build, other: Build, artifacts: ArtifactReader) -> dict[str, Any]:
    found: dict[str, Any] = {
        "a": one.tiles.count if one.tiles else None,
        "b": other.tiles.count if other.tiles else None,
        **dict.fromkeys(("added", "removed", "changed", "same")),
        "runs": {"added": [], "removed": [], "changed": []},
    }
    left = read_tiles(one.tiles.table if one.tiles else None, one.inputs, artifacts)
    right = read_tiles(other.tiles.table if other.tiles else None, other.inputs, artifacts)
    if left is None or right is None:
        if one.tiles and other.tiles and one.tiles.digest == other.tiles.digest:
            found.update({"added": 0, "removed": 0, "changed": 0, "same": one.tiles.count})
        return found
    added = np.setdiff1d(right.ids, left.ids, assume_unique=True)
    removed = np.setdiff1d(left.ids, right.ids, assume_unique=True)
    changed, same = _changed_tiles(left, right)
    groups = {"added": added, "removed": removed, "changed": changed}
    found.update({name: len(ids) for name, ids in groups.items()})
    found["same"] = same
    found["runs"] = {
        name: runs(tile_of(identifier)[:3] for identifier in ids.tolist())[:MAX_RUNS]
        for name, ids in groups.items()
    }
    return found


def _changed_tiles(left: Tiles, right: Tiles) -> tuple[NDArray[np.uint64], int]:
    """Return the ids with different digests in the two tables, and the number of ids with the same digest."""
    ids, a, b = np.intersect1d(left.ids, right.ids, assume_unique=True, return_indices=True)
    differ = (left.table.digests[a] != right.table.digests[b]).any(axis=1)
    return ids[differ], int((~differ).sum())
