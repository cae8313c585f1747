"""The area of a build, cell by cell: reused, embedded, failing, dispatched or waiting. Pure.

The tile table and the levels of chunks say which cells there are. If it cannot be read, the records name the cells that were
dispatched or done. No record names the reused cells: they follow from the tiles and the step cache, as they
did for the build.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from itertools import accumulate
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.embed.cells import group_cells
from pipeline.errors import RequestError
from pipeline.planning.area_report import TileRun, mask_runs, runs, shown_runs
from pipeline.request.area import Area, Ring, area_of_inputs
from pipeline.request.geometry import HALF_TURN_E7, MERCATOR_LIMIT_E7
from pipeline.tiles.chunks import area_patches, chunks_of, units_of_table, wanted_total
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.wanted import wanted_tiles_of
from store.base import canonical_json
from store.base.canonical_json import CanonicalError, Document
from store.base.geometry.level import Level
from store.base.identity import MAX_ZOOM, cell_components, cell_key, digest_packed_tiles
from store.base.values import ArtifactRef
from store.domain import events as e
from store.domain.attachments import attached_to_failure
from store.domain.step_cache import StepCache
from store.errors import ArtifactError
from store.formats.tables import TileTable, decode_tiles
from store.manifest.area import area_of
from store.manifest.levels import ChunkLevel, parse_levels
from tools.forensics.failure import ArtifactReader, cells_at_fault, tiles_at_fault
from tools.forensics.ground.imagery_ages import MAX_RUNS, ages_document, runs_of_places
from tools.forensics.timeline import BuildTimeline
from tools.output.sanitize import is_number, safe_data

_FOREIGN: Final = (KeyError, TypeError, ValueError, AttributeError)
"""Errors of inputs that no request has, but foreign records may."""

MAX_CELLS: Final = 200_000
MAX_WANTED: Final = 20_000_000
MAX_OUTLINE: Final = 50_000
"""Points of an outline that are drawn at most."""

CellPlace = tuple[int, int, int]
"""(zoom, x >> 4, y >> 4)."""


@dataclass(slots=True)
class _Cell:
    tiles: int | None = None
    dispatched: int | None = None
    done: int | None = None
    status: str = "waiting"
    embedded: int | None = None
    described: int | None = None

    def take(self, blocks: Sequence[e.CellEmbedded], *, reused: bool = False) -> None:
        """Count what got a descriptor of every network, and what went through any."""
        embedded = 0 if reused else max((event.embedded for event in blocks), default=0)
        self.embedded = max(self.embedded or 0, embedded)
        self.described = min(
            [event.rows for event in blocks]
            + [(self.tiles or 0) if self.described is None else self.described]
        )


@dataclass(slots=True)
class Tiles:
    """The tiles of a build from its tile table, in rising id, and what got a descriptor: the tiles or chunks."""

    ids: NDArray[np.uint64]
    table: TileTable
    units: RetrievalUnits
    places: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        """Unpack the ids into rows of (zoom, x, y)."""
        ids = self.ids.astype(np.int64)
        axis = (1 << 25) - 1
        self.places = np.stack([ids >> 58 & 31, ids >> 25 & axis, ids & axis], axis=1)

    def cells(self) -> Mapping[CellPlace, RetrievalUnits]:
        """Return the units of each cell, in rising id."""
        return {(cell.key.zoom, cell.key.x, cell.key.y): cell.units for cell in group_cells(self.units)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What is known of the ground of a build: its area, its tiles, and the content of its geographic report."""

    area: Area | None
    tiles: Tiles | None
    report: Mapping[str, Any] | None


def read_tiles(ref: ArtifactRef | None, inputs: Document, artifacts: ArtifactReader) -> Tiles | None:
    """Return the tiles of a tile table; None if it cannot be read, or not with these inputs of a build."""
    data = artifacts.read(ref) if ref is not None else None
    if data is None:
        return None
    try:
        table = decode_tiles(data)
        return Tiles(table.ids, table, units_of_table(table, inputs, partial(_read_area, inputs, artifacts)))
    except (ArtifactError, *_FOREIGN):
        return None


def _read_area(inputs: Document, artifacts: ArtifactReader) -> Area:
    """Return the area that the inputs of a build name; raise one of `_FOREIGN` if they name none."""
    ref = area_of(inputs)
    found = area_of_inputs(inputs, None if ref is None else artifacts.read(ref))
    if not _is_area(found.bbox_e7):
        raise ValueError("no area of a request")
    return found


def _known_area(inputs: Document, artifacts: ArtifactReader) -> Area | None:
    try:
        return _read_area(inputs, artifacts)
    except _FOREIGN:
        return None


def known_levels(inputs: Document) -> tuple[ChunkLevel, ...]:
    """Return the levels of chunks in the inputs of a build; none if they cannot be read."""
    try:
        return parse_levels(inputs)
    except _FOREIGN:
        return ()


def area_document(
    timeline: BuildTimeline,
    inputs: Document,
    artifacts: ArtifactReader,
    *,
    spaces: Sequence[str],
    before: StepCache | None,
    today: date | None = None,
) -> dict[str, Any] | None:
    """Return the area of a build; None if nothing is known of it.

    Args:
        timeline: The build.
        inputs: The inputs that define it.
        artifacts: Reads artifacts.
        spaces: Its vector spaces, one for each network; none if they are not known.
        before: The step cache when it reused its cells, if that is known.
        today: The day for the ages of its imagery; without it none are told.
    """
    selected = next((m.event for m in timeline.own if isinstance(m.event, e.TilesSelected)), None)
    box, zoom = _integers(inputs.get("bbox_e7"), 4), _integers(inputs.get("zoom"), 2)
    tiles = read_tiles(selected.table if selected else None, inputs, artifacts)
    cells = _cells(timeline, tiles, spaces, before)
    if not cells and box is None:
        return None
    ground = Ground(
        area=_known_area(inputs, artifacts), tiles=tiles, report=_geographic_report(timeline, artifacts)
    )
    return {
        "bbox_e7": box,
        **ground_document(ground, inputs, today),
        "wanted": selected.wanted if selected else None,
        "present": selected.count if selected else None,
        "cells": [
            [*place, cell.tiles, cell.status, cell.dispatched, cell.done]
            for place, cell in sorted(cells.items())[:MAX_CELLS]
        ],
        "descriptors": [
            None if cell.embedded is None else [cell.embedded, cell.described]
            for _, cell in sorted(cells.items())[:MAX_CELLS]
        ],
        "tiles": {
            **_tile_runs(ground, zoom, known_levels(inputs)),
            "failing": runs(tiles_at_fault(timeline)),
        },
    }


def planned_area(
    ground: Ground, inputs: Document, cells: Mapping[CellPlace, tuple[int, bool]], today: date
) -> dict[str, Any]:
    """Return the area of a build that is only planned, as `area_document` does.

    Args:
        ground: What is there.
        inputs: The inputs that would define it.
        cells: How many units each cell has, and whether its block is reused.
        today: The day for the ages of its imagery.
    """
    report = ground.report or {}
    return {
        "bbox_e7": list(inputs["bbox_e7"]),
        **ground_document(ground, inputs, today),
        "wanted": report.get("wanted"),
        "present": report.get("present"),
        "cells": [
            [*place, units, *(("reused", None, 0) if reused else ("waiting", None, None))]
            for place, (units, reused) in sorted(cells.items())[:MAX_CELLS]
        ],
        "descriptors": [
            [0, units] if reused else None for _, (units, reused) in sorted(cells.items())[:MAX_CELLS]
        ],
        "tiles": {**_tile_runs(ground, list(inputs["zoom"]), known_levels(inputs)), "failing": []},
    }


def ground_document(ground: Ground, inputs: Document, today: date | None) -> dict[str, Any]:
    """Return what does not depend on what a build has done: shape, zooms, levels, ages of the imagery."""
    tiles = ground.tiles
    return {
        **_drawn(ground.area),
        "zoom": _integers(inputs.get("zoom"), 2),
        "origin": safe_data(inputs.get("origin")),
        "known": "cells" if tiles is None else "tiles",
        "report": ground.report is not None,
        "levels": [level.to_document() for level in known_levels(inputs)],
        "ages": None
        if tiles is None or today is None
        else ages_document(tiles.places, tiles.table.captured, today),
    }


def _cells(
    timeline: BuildTimeline, tiles: Tiles | None, spaces: Sequence[str], before: StepCache | None
) -> dict[CellPlace, _Cell]:
    members = tiles.cells() if tiles is not None else {}
    found = {place: _Cell(tiles=len(rows)) for place, rows in members.items()}
    reused_at: int | None = None
    for record in timeline.own:
        match record.event:
            case e.StepStarted(kind="cells", subjects=subjects):
                for place in _places(subjects):
                    cell = found.setdefault(place, _Cell())
                    cell.status, cell.dispatched = "dispatched", cell.dispatched or record.seq
            case e.CellEmbedded() as made:
                cell = found.setdefault((made.zoom, made.cell_x, made.cell_y), _Cell(tiles=made.rows))
                cell.status, cell.done = "embedded", record.seq
                cell.take([made])
            case e.StepReused(kind="cells"):
                reused_at = record.seq
            case _:
                continue
    if reused_at is not None and tiles is not None:
        for place, blocks in _reused(found, members, spaces, before):
            cell = found[place]
            cell.status, cell.done = "reused", reused_at
            cell.take(blocks, reused=True)
    for place in cells_at_fault(timeline):
        # A tile under chunks is in none of their cells.
        if place in found or tiles is None:
            found.setdefault(place, _Cell()).status = "failing"
    return found


def _reused(
    found: Mapping[CellPlace, _Cell],
    members: Mapping[CellPlace, RetrievalUnits],
    spaces: Sequence[str],
    before: StepCache | None,
) -> Iterator[tuple[CellPlace, list[e.CellEmbedded]]]:
    """Yield the cells with a block of their tiles, and these blocks; without a step cache, those that no record names."""
    for place, cell in found.items():
        if cell.status != "waiting":
            continue
        if before is None or not spaces:
            yield place, []
            continue
        units = digest_packed_tiles(members[place].packed())
        keys = {space: cell_key(cell_components(space=space, tiles=units)) for space in spaces}
        blocks = [
            next((event for event in before.blocks_of((space, *place)) if event.key == key), None)
            for space, key in keys.items()
        ]
        if None not in blocks:
            yield place, [event for event in blocks if event is not None]


def _geographic_report(timeline: BuildTimeline, artifacts: ArtifactReader) -> Mapping[str, Any] | None:
    """Return the geographic report of the coverage walk, or the one attached to a failure."""
    for record in reversed(timeline.own):
        ref: ArtifactRef | None = None
        match record.event:
            case e.CoverageWalked(geography=geography):
                ref = geography
            case e.BuildFailed() as event:
                ref = attached_to_failure(event).get("geography")
            case _:
                continue
        data = artifacts.read(ref) if ref is not None else None
        if data is None:
            continue
        try:
            document = canonical_json.decode(data)
        except CanonicalError:
            continue
        if isinstance(document, Mapping):
            return document
    return None


def _tile_runs(
    ground: Ground, zoom: list[int] | None, levels: Sequence[ChunkLevel]
) -> dict[str, list[TileRun]]:
    area, tiles, report = ground.area, ground.tiles, ground.report
    names = ("holes", "excluded", "skipped", "featureless")
    found = {name: _runs_in(report.get(name)) if report is not None else [] for name in names}
    # Steps of ground are tiles of a higher zoom, and drawn as such.
    for level in _levels_in(report):
        for name in ("holes", "featureless"):
            found[name] += _runs_in(level.get(name))
    if tiles is not None:
        found["present"] = runs_of_places(tiles.places)[:MAX_RUNS]
        found["present"] += [] if area is None else _shown_steps(tiles, levels, area)
        if report is None and area is not None and zoom is not None and not levels:
            found["holes"] = _holes(tiles, area, zoom)
    else:
        found["present"] = []
    return found


def _drawn(area: Area | None) -> dict[str, list[Ring]]:
    """Return what is drawn of an area that is no box, as far as that is not too many points."""
    if area is None or area.shape is None:
        return {}
    rings = [ring for polygon in area.shape.polygons for ring in polygon]
    return {"rings": _first_points(rings), "routes": _first_points(area.shape.routes)}


def _first_points(lines: Sequence[Ring]) -> list[Ring]:
    points = accumulate(map(len, lines))
    return [line for line, drawn in zip(lines, points, strict=True) if drawn <= MAX_OUTLINE]


def _shown_steps(tiles: Tiles, levels: Sequence[ChunkLevel], area: Area) -> list[TileRun]:
    """Return the runs of the steps that chunks show."""
    found: list[TileRun] = []
    for each in levels:
        level, ids = each.level, tiles.units.ids
        step = Level(level.zoom, level.k, 1)
        if wanted_total(step, area) <= MAX_WANTED:
            found += shown_runs(level, area_patches(step, area), ids[chunks_of(level, ids)])
    return found[:MAX_RUNS]


def _is_area(box: Sequence[int]) -> bool:
    """Whether a box can be that of a request; foreign records can have another."""
    west, south, east, north = box
    return max(abs(west), abs(east)) <= HALF_TURN_E7 and (
        -MERCATOR_LIMIT_E7 <= south < north <= MERCATOR_LIMIT_E7
    )


def _levels_in(report: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    levels = report.get("levels") if report is not None else None
    return [level for level in levels if isinstance(level, Mapping)] if isinstance(levels, Sequence) else []


def _holes(tiles: Tiles, area: Area, zoom: Sequence[int]) -> list[TileRun]:
    """Return the wanted tiles that the table lacks, from the area alone."""
    lowest, highest = zoom
    found: list[TileRun] = []
    if not 0 <= lowest <= highest <= MAX_ZOOM:
        return found
    try:
        wanted = wanted_tiles_of(area, (lowest, highest))
    except RequestError:
        return found
    for each in wanted:
        steps, absent = each.rectangle, each.absent(tiles.places)
        found += mask_runs(Level(each.part.z, 0, 1), steps, absent)
        if len(found) > MAX_RUNS:
            break
    return found[:MAX_RUNS]


def _runs_in(value: object) -> list[TileRun]:
    """Return the valid runs of a report."""
    found = (_integers(run, 4) for run in value) if isinstance(value, Sequence) else ()
    return [run for run in found if run is not None][:MAX_RUNS]


def _places(subjects: Iterable[str]) -> Iterator[CellPlace]:
    for subject in subjects:
        parts = subject.split("/")
        if len(parts) == 3 and all(is_number(part, 9) for part in parts):
            yield int(parts[0]), int(parts[1]), int(parts[2])


def _integers(value: object, count: int) -> list[int] | None:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != count:
        return None
    return list(value) if all(type(number) is int for number in value) else None
