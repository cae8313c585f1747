"""Index, retrieval and coverage judged again, from blocks and tables."""

from collections.abc import Sequence

import numpy as np

from pipeline.errors import CheckError, EmbedError, ErrorKind
from pipeline.planning.area_report import Place
from pipeline.planning.recorded_inputs import UnavailableError
from pipeline.rerun.inputs import RerunInputs
from pipeline.rerun.report import Comparison, InputStatus, StepFailure
from pipeline.rerun.rerun_engines import compare_measures
from pipeline.stages.checks import check_index, require_coverage
from pipeline.stages.embed import block_row
from pipeline.stages.index import StoredBlocks, index_job, survey_area, write_index
from pipeline.tiles.grid import wanted_count, wanted_tiles
from pipeline.tiles.selection import MAX_WANTED
from store.base import canonical_json
from store.base.identity import CELL_SHIFT, tile_of
from store.base.values import ArtifactRef
from store.disk.artifacts import ref_of
from store.domain.attachments import attached_to_failure
from store.domain.events import CellEmbedded, CheckFailed, IndexBuilt
from store.domain.index_files import delta_of, whole_of
from store.formats.tables import BlockRow, TileTable, decode_blocks, decode_tiles, encode_blocks
from store.manifest.roles import DELTA
from store.runtime.load import RuntimeUnavailableError


def rerun_index_check(supplies: RerunInputs) -> StepFailure | None:
    """Look for the index's own tiles once more; returns why it does not pass now.

    Raises:
        UnavailableError: Index or blocks are not beside the records, or no library loads them.
    """
    event = supplies.build.index
    if event is None:
        raise UnavailableError("expected the index in the records, found none")
    supplies.bring("index", event.kind, whole_of(event))
    delta = delta_of(event)
    if delta is not None:
        supplies.bring(DELTA, event.kind, delta)
    rows = decode_blocks(supplies.artifact("block table", f"{event.rows} rows", event.blocks))
    _bring_blocks(supplies, rows)
    least = supplies.request[0].checks.recall
    try:
        verdict = check_index(supplies.artifacts, event, rows, least=least)
    except RuntimeUnavailableError as error:
        raise UnavailableError(error.message) from error
    compare_measures(supplies, verdict.measured, "index")
    if isinstance(verdict, CheckFailed):
        return StepFailure(kind=str(ErrorKind.CHECK_FAILED), subject="index", message=verdict.why)
    return None


def rerun_index(supplies: RerunInputs) -> StepFailure | None:
    """Build the index once more from its blocks; returns how that fails now.

    Raises:
        UnavailableError: Blocks or tile table are not beside the records.
    """
    rows = _rows(supplies)
    _bring_blocks(supplies, rows)
    dimensions, builder = supplies.engine().signature["dimensions"], supplies.ports.index
    try:
        job = index_job(
            supplies.request[0].index,
            rows,
            table=ref_of(encode_blocks(rows)),
            space=_space(supplies),
            dimensions=dimensions,
            builder=builder,
        )
        with supplies.artifacts.draft() as new:
            made = write_index(job, StoredBlocks(supplies.artifacts, rows), builder=builder, new=new)
    except EmbedError as error:
        return StepFailure(kind=str(error.kind), subject=error.subject or "", message=error.message)
    built, found = supplies.build.index, made.event.artifact.sha256
    if isinstance(built, IndexBuilt):
        supplies.findings.compared.append(
            Comparison(what="index", recorded=built.artifact.sha256, found=found)
        )
    return None


def rerun_survey(supplies: RerunInputs) -> StepFailure | None:
    """Look at what became of every wanted tile once more; returns why that is too little now.

    Raises:
        UnavailableError: Tile table or blocks are not beside the records.
    """
    request, _ = supplies.request
    wanted = wanted_count(request.bbox_e7, request.zoom)
    if wanted > MAX_WANTED:
        raise UnavailableError(f"expected an area of at most {MAX_WANTED} tiles, found {wanted}")
    kept = supplies.attached("geography")
    known = canonical_json.decode(kept) if kept is not None else {}
    table = _table(supplies)
    rows = _rows(supplies)
    _bring_blocks(supplies, rows)
    excluded = _places(known.get("excluded", ())) if isinstance(known, dict) else ()
    there = {*excluded, *(tile_of(identifier)[:3] for identifier in table.ids.tolist())}
    geography = survey_area(
        rows,
        supplies.artifacts,
        wanted=wanted,
        present=table.ids.astype(np.int64),
        holes=tuple(
            (place.z, place.x, place.y)
            for place in wanted_tiles(request.bbox_e7, request.zoom)
            if place not in there
        ),
        excluded=excluded,
    )
    if kept is not None and supplies.failure is not None:
        expected = attached_to_failure(supplies.failure)["geography"].sha256
        supplies.note("geographic report", "area", expected, InputStatus.KEPT)
        found = ref_of(geography.encoded()).sha256
        supplies.findings.compared.append(
            Comparison(what="geographic report", recorded=expected, found=found)
        )
    try:
        require_coverage(geography.localisable, request.coverage.min_fraction)
    except CheckError as error:
        return StepFailure(kind=str(error.kind), subject="area", message=error.message)
    return None


def rerun_coverage_walk(supplies: RerunInputs) -> StepFailure | None:
    """Hold what the build made against what lies there now; returns the first thing that is wrong.

    Raises:
        UnavailableError: The records come without the cache, whose files are the input of this step.
    """
    if not supplies.record.own:
        raise UnavailableError(
            "what lies in the cache is what this step looks at, and only the cache has that"
        )
    build = supplies.build
    refs: list[tuple[str, str, ArtifactRef]] = [
        ("engine", name, event.artifact) for name, event in build.engines
    ]
    if build.index is not None:
        refs += [("index", build.index.kind, whole_of(build.index))]
        refs += [(DELTA, build.index.kind, delta) for delta in (delta_of(build.index),) if delta]
    refs += [("tile table", "tiles", build.tiles.table)] if build.tiles else []
    refs += [("block", f"{row.zoom}/{row.cell_x}/{row.cell_y}", row.ref) for row in _rows(supplies)]
    for role, name, ref in refs:
        if supplies.record.holdings.read(ref) is None:
            supplies.note(role, name, ref.sha256, InputStatus.GONE, "missing or damaged")
            return StepFailure(
                kind="coverage", subject="artifacts", message=f"{role} {name}: missing or damaged"
            )
    return None


def _table(supplies: RerunInputs) -> TileTable:
    tiles = supplies.build.tiles
    if tiles is None:
        raise UnavailableError("expected the tile table in the records, found none")
    return decode_tiles(supplies.artifact("tile table", f"{tiles.count} tiles", tiles.table))


def _rows(supplies: RerunInputs) -> Sequence[BlockRow]:
    """The blocks of the build: those of its table, or else the latest of each of its cells."""
    index = supplies.build.index
    if index is not None:
        return decode_blocks(supplies.artifact("block table", f"{index.rows} rows", index.blocks))
    cells = {
        (zoom, x >> CELL_SHIFT, y >> CELL_SHIFT)
        for zoom, x, y, _ in map(tile_of, _table(supplies).ids.tolist())
    }
    found = [
        block_row(event)
        for event in supplies.record.state.step_cache.blocks_in(_space(supplies))
        if (event.zoom, event.cell_x, event.cell_y) in cells
    ]
    return sorted(found, key=lambda row: (row.zoom, row.cell_x, row.cell_y))


def _space(supplies: RerunInputs) -> str:
    """The vector space of the build."""
    if supplies.build.index is not None:
        return str(supplies.build.index.components["space"])
    for fact in reversed(supplies.record.facts):
        if isinstance(fact.event, CellEmbedded) and fact.build == supplies.build.number:
            return fact.event.space
    raise UnavailableError("expected a block of this build in the records, found none")


def _bring_blocks(supplies: RerunInputs, rows: Sequence[BlockRow]) -> None:
    for row in rows:
        data = supplies.record.holdings.read(row.ref)
        if data is None:
            name = f"{row.zoom}/{row.cell_x}/{row.cell_y}"
            supplies.note(
                "block", name, row.ref.sha256, InputStatus.GONE, "not beside these records, or damaged"
            )
            raise UnavailableError(f"expected block {name} beside the records, found none")
        supplies.artifacts.put(data)


def _places(runs: object) -> tuple[Place, ...]:
    """The places of runs of a report."""
    found: list[Place] = []
    for zoom, y, first, last in runs if isinstance(runs, list) else ():
        if len(found) + last - first > MAX_WANTED:
            raise UnavailableError(f"expected at most {MAX_WANTED} tiles in the report, found more")
        found += [(zoom, x, y) for x in range(first, last + 1)]
    return tuple(found)
