"""Build and check the index and the coverage again, from recorded blocks and tables."""

from collections.abc import Sequence

import numpy as np

from pipeline.errors import CheckError, EmbedError, ErrorKind
from pipeline.planning.area_report import Place
from pipeline.planning.recorded_inputs import UnavailableError, last_event
from pipeline.rerun.inputs import NOT_WITH_RECORDS, RerunInputs
from pipeline.rerun.report import Comparison, InputStatus, StepFailure
from pipeline.rerun.rerun_engines import compare_measures
from pipeline.stages.checks import check_index, require_coverage
from pipeline.stages.embed import block_row, join_rows
from pipeline.stages.index import index_job, write_index
from pipeline.stages.survey import StoredBlocks, survey_selection
from pipeline.tiles.grid import MAX_WANTED
from pipeline.tiles.selection import selection_of
from pipeline.tiles.tile_columns import TileColumns
from pipeline.tiles.wanted import wanted_tiles_of
from store.base import canonical_json
from store.base.identity import CELL_SHIFT, ONE_PPM, space_of_model, tile_of
from store.base.values import ArtifactRef
from store.disk.artifacts import ref_of
from store.domain.attachments import attached_to_failure
from store.domain.events import CellEmbedded, CheckFailed, IndexBuilt
from store.domain.index_files import delta_of, whole_of
from store.formats.joined_blocks import read_block
from store.formats.tables import BlockRow, TileTable, decode_blocks, decode_tiles, encode_blocks
from store.manifest.levels import parse_levels
from store.manifest.roles import DELTA
from store.runtime.load import RuntimeUnavailableError


def rerun_index_check(inputs: RerunInputs) -> StepFailure | None:
    """Search the index for its own tiles again; return why it does not pass now, or None.

    Raises:
        UnavailableError: Index or blocks do not lie with the records, or no library loads them.
    """
    event = inputs.build.index
    if event is None:
        raise UnavailableError("expected the index in the records, found none")
    inputs.copy_artifact("index", event.kind, whole_of(event))
    delta = delta_of(event)
    if delta is not None:
        inputs.copy_artifact(DELTA, event.kind, delta)
    rows = decode_blocks(inputs.artifact("block table", f"{event.rows} rows", event.blocks))
    _copy_blocks(inputs, rows)
    least = inputs.recorded_inputs.request.checks.recall
    try:
        verdict = check_index(inputs.scratch_artifacts, event, rows, least=least)
    except RuntimeUnavailableError as error:
        raise UnavailableError(error.message) from error
    compare_measures(inputs, verdict.measured, "index")
    if isinstance(verdict, CheckFailed):
        return StepFailure(kind=str(ErrorKind.CHECK_FAILED), subject="index", message=verdict.why)
    return None


def rerun_index(inputs: RerunInputs) -> StepFailure | None:
    """Build the index again from its blocks; return how that fails now, or None.

    Raises:
        UnavailableError: Blocks or tile table do not lie with the records.
    """
    rows = _block_rows(inputs)
    _copy_blocks(inputs, rows)
    builder, first = inputs.ports.index, read_block(rows[0], inputs.scratch_artifacts.read) if rows else None
    dimensions = inputs.engine().signature["dimensions"] if first is None else first.dimensions
    try:
        job = index_job(
            inputs.recorded_inputs.request.index,
            rows,
            table=ref_of(encode_blocks(rows)),
            networks=_networks(inputs),
            dimensions=dimensions,
            builder=builder,
        )
        with inputs.scratch_artifacts.draft() as new:
            made = write_index(job, StoredBlocks(inputs.scratch_artifacts, rows), builder=builder, new=new)
    except EmbedError as error:
        return StepFailure(kind=str(error.kind), subject=error.subject or "", message=error.message)
    built, found = inputs.build.index, made.event.artifact.sha256
    if isinstance(built, IndexBuilt):
        inputs.findings.compared.append(Comparison(what="index", recorded=built.artifact.sha256, found=found))
    return None


def rerun_survey(inputs: RerunInputs) -> StepFailure | None:
    """Report on the area again; return why too little of it can be localised now, or None.

    Raises:
        UnavailableError: Tile table or blocks do not lie with the records.
    """
    request = inputs.recorded_inputs.request
    kept = inputs.attached("geography")
    known = canonical_json.decode(kept) if kept is not None else {}
    table = _tile_table(inputs)
    rows = None if inputs.build.index is None else _block_rows(inputs)
    if rows is not None:
        _copy_blocks(inputs, rows)
    excluded = _places(known.get("excluded", ()) if isinstance(known, dict) else ())
    area, levels = inputs.recorded_inputs.area(), parse_levels(inputs.build.inputs)
    selection = selection_of(
        TileColumns.from_table(table),
        area=area,
        levels=levels,
        wanted=wanted_tiles_of(area, request.zoom, levels),
        excluded=excluded,
    )
    geography = survey_selection(selection, rows, inputs.scratch_artifacts)
    if kept is not None and inputs.failure is not None:
        expected = attached_to_failure(inputs.failure)["geography"].sha256
        inputs.note("geographic report", "area", expected, InputStatus.KEPT)
        found = ref_of(geography.encoded()).sha256
        inputs.findings.compared.append(Comparison(what="geographic report", recorded=expected, found=found))
    try:
        require_coverage(geography, request.coverage.min_fraction)
    except CheckError as error:
        return StepFailure(kind=str(error.kind), subject="area", message=error.message)
    return None


def rerun_coverage_walk(inputs: RerunInputs) -> StepFailure | None:
    """Check every artifact of the build again; return the first that is wrong, or None.

    Raises:
        UnavailableError: The records come without the cache whose files are the input of this step.
    """
    if not inputs.record.own:
        raise UnavailableError(
            "what lies in the cache is what this step looks at, and only the cache has that"
        )
    build = inputs.build
    refs: list[tuple[str, str, ArtifactRef]] = [
        ("engine", name, event.artifact) for name, event in build.engines
    ]
    if build.index is not None:
        refs += [("index", build.index.kind, whole_of(build.index))]
        refs += [(DELTA, build.index.kind, delta) for delta in (delta_of(build.index),) if delta]
    refs += [("tile table", "tiles", build.tiles.table)] if build.tiles else []
    for row in _block_rows(inputs):
        refs += [("block", role.partition(" ")[2], ref) for role, ref in row.files("block")]
    for role, name, ref in refs:
        if inputs.record.artifacts.read(ref) is None:
            inputs.note(role, name, ref.sha256, InputStatus.GONE, "missing or damaged")
            return StepFailure(
                kind="coverage", subject="artifacts", message=f"{role} {name}: missing or damaged"
            )
    return None


def _tile_table(inputs: RerunInputs) -> TileTable:
    tiles = inputs.build.tiles
    if tiles is None:
        raise UnavailableError("expected the tile table in the records, found none")
    return decode_tiles(inputs.artifact("tile table", f"{tiles.count} tiles", tiles.table))


def _block_rows(inputs: RerunInputs) -> Sequence[BlockRow]:
    """Return the blocks of the build: those of its table, or else the latest of each of its cells."""
    index = inputs.build.index
    if index is not None:
        return decode_blocks(inputs.artifact("block table", f"{index.rows} rows", index.blocks))
    cells = {
        (zoom, x >> CELL_SHIFT, y >> CELL_SHIFT)
        for zoom, x, y, _ in map(tile_of, _tile_table(inputs).ids.tolist())
    }
    blocks = [
        [
            block_row(event)
            for event in inputs.record.state.step_cache.blocks_in(space)
            if (event.zoom, event.cell_x, event.cell_y) in cells
        ]
        for space, _ in _networks(inputs)
    ]
    _copy_blocks(inputs, [row for rows in blocks for row in rows])
    return join_rows(blocks, [weight for _, weight in _networks(inputs)], inputs.scratch_artifacts)


def _networks(inputs: RerunInputs) -> tuple[tuple[str, int], ...]:
    """Return vector space and weight of the descriptor networks of the build."""
    models = [model for model in inputs.build.inputs["models"] if model["role"] == "descriptor"]
    last = last_event(inputs.record.own_history, CellEmbedded)
    if inputs.build.index is None and last is None:
        raise UnavailableError("expected a block of this build in the records, found none")
    recipe = inputs.build.inputs["recipes"]["cell"]
    return tuple((space_of_model(model, recipe=recipe), model.get("weight_ppm", ONE_PPM)) for model in models)


def _copy_blocks(inputs: RerunInputs, rows: Sequence[BlockRow]) -> None:
    for role, ref in (found for row in rows for found in row.files("block")):
        data = inputs.record.artifacts.read(ref)
        if data is None:
            name = role.partition(" ")[2]
            inputs.note("block", name, ref.sha256, InputStatus.GONE, NOT_WITH_RECORDS)
            raise UnavailableError(f"expected block {name} beside the records, found none")
        inputs.scratch_artifacts.put(data)


def _places(runs: object) -> TileColumns:
    """Return the places in the runs of a report."""
    found: list[Place] = []
    for zoom, y, first, last in runs if isinstance(runs, list) else ():
        if len(found) + last - first > MAX_WANTED:
            raise UnavailableError(f"expected at most {MAX_WANTED} tiles in the report, found more")
        found += [(zoom, x, y) for x in range(first, last + 1)]
    return TileColumns.at(np.array(found, np.int32).reshape(-1, 3))
