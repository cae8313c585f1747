"""Estimate the bytes that a build will write, and require that they are free.

The estimate is a little too high on purpose: an engine takes up to twice its network's size, a block 4 bytes
per number and 44 per row, an index the vectors again, 8 bytes per row and its links. Existing artifacts are
not counted. `PER_FILE` covers the journal's record, its copy in a segment and the rounding of the file
system.
"""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from pipeline.engines.models.model import Model
from pipeline.engines.models.network import HEAD
from pipeline.index.plan import IndexPlan, can_extend, delta_limits, likely_index
from pipeline.planning.inputs import Inputs
from pipeline.planning.plan import BuildPlan, Decision, make_plan, reusable_artifacts
from pipeline.planning.tile_packs import carried_cells
from pipeline.request.options import IndexKind, Storage
from store.base.identity import index_components, joined_space
from store.base.valueclass import valueclass
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.events import IndexExtended
from store.domain.index_files import refs_of, whole_of
from store.domain.state import State
from store.errors import DiskFullError, ErrorKind, TranslateOSErrors
from store.verify.coverage import sizes

PER_FILE = 8192
"""Bytes beside the content: two copies of a record of about 1 KiB, and a block of the file system."""

ASSUMED_DIMENSIONS = 1024
"""Length of a descriptor before the network was inspected: twice that of most."""

_ENGINE_FACTOR = 2
_BLOCK_ROW = 44
_INDEX_ROW = 8
_TILE_ROW = 44
_CELL_ROW = 56
_PACK_ROW = 16
_LINK_LEVELS = 1.1
_LINK = 4
_ANSWER = 1200
"""Bytes of the answer for a photograph with ten candidates, beside its name."""
_FIXED = 1 << 18
"""Manifest, segment head, geographic report, pages that LMDB rewrites."""

NEW_CACHE = 2 << 20
"""A new cache: its folders and the first pages of its journal."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes to write, by kind of content."""

    engines: int = 0
    blocks: int = 0
    index: int = 0
    tables: int = 0
    other: int = 0
    packs: int = 0

    @property
    def total(self) -> int:
        """The sum of all kinds."""
        return self.engines + self.blocks + self.index + self.tables + self.other + self.packs

    def __str__(self) -> str:
        """Return the estimate for people, in MiB."""
        parts = {"engines": self.engines, "blocks": self.blocks, "index": self.index, "tables": self.tables}
        parts |= {"carried tiles": self.packs}
        shown = (f"{name} {size / (1 << 20):.1f}" for name, size in parts.items() if size)
        return ", ".join(shown) + " MiB" if any(parts.values()) else "next to nothing"


def engine_size(model: Model) -> int:
    """Return the size of a network's engine in bytes, at most; and of the network, if it is stored as well."""
    network = model.size + PER_FILE if HEAD in model.components else 0
    return _ENGINE_FACTOR * model.size + PER_FILE + network


def estimate(inputs: Inputs, plan: BuildPlan, state: State, present: Mapping[str, int]) -> Estimate:
    """Estimate what a build will write.

    Args:
        inputs: What the build is defined by.
        plan: Which of its steps run.
        state: The folded journal.
        present: Digest to size of the artifacts of known indexes that are present.
    """
    rows, cells = inputs.selection.unit_count, len(plan.cells)
    each_length = {model.spec.name: descriptor_length(model, plan) for model in inputs.descriptors}
    dimensions, space = sum(each_length.values()), joined_space(inputs.networks)
    engines = (*plan.engines, *plan.stand_ins)
    stale = [len(cell.cell.units) for cell in plan.stale]
    index_there = (
        not stale
        and not plan.index_why
        and any(
            index.components.get("space") == space and index.rows == rows and index.artifact.sha256 in present
            for index in state.step_cache.indexes.values()
        )
    )
    resolved = None if index_there else likely_index(inputs.request.index, count=rows, dimensions=dimensions)
    index = 0 if resolved is None else index_bytes(resolved, rows=rows, dimensions=dimensions) + PER_FILE
    delta_rows = (
        None
        if resolved is None
        else _delta_rows(inputs, resolved, state, present, rows=rows, changed=sum(stale))
    )
    if delta_rows is not None:
        index = delta_rows * (4 * dimensions + _INDEX_ROW) + PER_FILE
    return Estimate(
        engines=sum(engine_size(each.model) for each in engines if each.decision is Decision.RUN),
        blocks=sum(
            len(cell.cell.units) * (4 * each_length[cell.network.spec.name] + _BLOCK_ROW) + PER_FILE
            for cell in plan.stale
        ),
        index=index,
        tables=len(inputs.selection.tiles) * _TILE_ROW + cells * _CELL_ROW + 2 * PER_FILE,
        other=_small_files(inputs) + _answers_size(inputs, plan) + _FIXED,
        packs=sum(
            each.size + each.tiles * _PACK_ROW + _CELL_ROW + PER_FILE
            for each in plan.packs
            if each.decision is Decision.RUN
        ),
    )


def _answers_size(inputs: Inputs, plan: BuildPlan) -> int:
    if inputs.proof is None or plan.proof is None or plan.proof.decision is Decision.REUSE:
        return 0
    return sum(_ANSWER + len(row.file.encode()) for row in inputs.proof.photographs)


def flown_size(inputs: Inputs) -> int:
    """Return about how many bytes a manifest will name in all; of carried tiles the very number.

    It is rather too low than too high: a request is refused by it, and the commit looks at the true size.
    """
    rows, networks = inputs.selection.unit_count, inputs.descriptors
    dimensions = sum(model.dimensions or ASSUMED_DIMENSIONS for model in networks)
    shown = inputs.selection.shown_tiles()
    packs = carried_cells(shown, inputs.selection.units.ids) if inputs.request.carries_tiles else ()
    index = likely_index(inputs.request.index, count=rows, dimensions=dimensions)
    return (
        sum(model.size for model in inputs.models)
        + rows * (4 * dimensions + _BLOCK_ROW * len(networks))
        + index_bytes(index, rows=rows, dimensions=dimensions)
        + len(inputs.selection.tiles) * _TILE_ROW
        + sum(cell.size + len(cell.tiles) * _PACK_ROW for cell in packs)
        + _small_files(inputs)
    )


def _small_files(inputs: Inputs) -> int:
    """Return the bytes of calibration and area."""
    return len(inputs.calibration) + len(inputs.area.encoded or b"")


def estimate_build(layout: Layout, state: State, inputs: Inputs, plan: BuildPlan) -> Estimate:
    """Estimate what a build will write into a cache, which need not exist."""
    head = state.head_build
    indexes = [*state.step_cache.indexes.values(), *((head.index,) if head and head.index else ())]
    present = sizes(Artifacts(layout), (ref for index in indexes for ref in refs_of(index)))
    return estimate(inputs, plan, state, present)


def _delta_rows(
    inputs: Inputs, plan: IndexPlan, state: State, present: Mapping[str, int], *, rows: int, changed: int
) -> int | None:
    """Return how many rows a delta will have at most; None if a new index will be written.

    All rows of a changed cell count as changed.
    """
    head = state.head_build
    index = None if head is None else head.index
    if index is None or not inputs.request.index.delta or whole_of(index).sha256 not in present:
        return None
    wanted = index_components(
        networks=inputs.networks,
        blocks="",
        options=plan.to_document(),
        library=inputs.document["index"]["library"],
    )
    added, dropped = (index.added, index.dropped) if isinstance(index, IndexExtended) else (0, 0)
    dropped += changed + abs(rows - index.rows)
    most, most_dropped = delta_limits(plan, rows, index.dimensions)
    fits = added + changed + dropped <= most and dropped <= most_dropped
    return added + changed + dropped if fits and can_extend(plan, rows, index.components, wanted) else None


def index_bytes(plan: IndexPlan, *, rows: int, dimensions: int) -> int:
    """Return the approximate size of an index of so many rows."""
    per_number = 4 if plan.storage is Storage.FP32 else 2
    match plan.kind:
        case IndexKind.HNSW:
            links = round(2 * plan.m * _LINK * _LINK_LEVELS) + 2 * _INDEX_ROW
            return rows * (per_number * dimensions + _INDEX_ROW + links)
        case IndexKind.IVF_PQ:
            centroids = 4 * dimensions * (plan.lists + 256)
            return rows * (plan.m + 2 * _INDEX_ROW) + centroids
        case _:
            return rows * (per_number * dimensions + _INDEX_ROW)


def descriptor_length(model: Model, plan: BuildPlan) -> int:
    """Return the length of a network's descriptors, or one that is rather too great."""
    name = model.spec.name
    known = next((engine.known for engine in plan.engines if engine.model.spec.name == name), None)
    if known is not None:
        return int(known.signature["dimensions"])
    return model.dimensions or ASSUMED_DIMENSIONS


def free_bytes(folder: Path) -> int:
    """Return how many bytes this user may write to the file system of a folder, which need not exist yet.

    Raises:
        StoreError: The file system does not answer.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with TranslateOSErrors(f"file system of {folder}"):
        found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def require_space_for_build(layout: Layout, state: State, inputs: Inputs, free: int) -> None:
    """Require that what a build will write fits on the disk.

    Args:
        layout: Paths of the cache, which need not exist.
        state: The folded journal; an empty one if there is none.
        inputs: What the build is defined by.
        free: Bytes that may be used, without the disk reserve.

    Raises:
        DiskFullError: There is not enough; nothing was written.
    """
    artifacts = Artifacts(layout)
    planned = make_plan(state, inputs, sizes(artifacts, reusable_artifacts(state, inputs)))
    found = estimate_build(layout, state, inputs, planned)
    new_cache = 0 if state.cache_id else NEW_CACHE
    _require_free(layout, found.total + new_cache, free, f"this build ({found})")


def require_space_for_engines(layout: Layout, models: tuple[Model, ...], free: int) -> None:
    """Require that the engines of these networks fit on the disk.

    Raises:
        DiskFullError: There is not enough; nothing was written.
    """
    names = ", ".join(model.spec.name for model in models)
    _require_free(layout, sum(map(engine_size, models)), free, f"the engines of {names}")


def _require_free(layout: Layout, wanted: int, free: int, what: str) -> None:
    if wanted <= free:
        return
    # `free` is below zero where not even the disk reserve fits: that has to be freed, too.
    collecting = f", or c10 gc --cache {shlex.quote(str(layout.root))} (says what can go)"
    raise DiskFullError(
        f"expected {wanted:,} bytes free in {layout.root} for {what}, found {max(free, 0):,} beside the"
        " reserve (reserve_mb); nothing was begun",
        kind=ErrorKind.DISK_FULL,
        hint=f"free {wanted - free:,} bytes{collecting if layout.exists() else ''}",
    )
