"""Create a long journal without tiles: a real cache, then a build that embeds many cells and never commits.

Records, transactions and states are real, in the order in which a build appends them: for each window its
start, then its cells. Only the blocks that the cells name are missing, so that the cost of a journal of very
many cells can be measured without their vectors.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, Final

from pipeline.embed.cells import CELL_SHIFT
from store.base.values import ArtifactRef
from store.cache.view import open_view, read_history
from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.domain.events import BuildStarted, CellEmbedded, StepStarted
from tests.benchmarks.caches import BigSite, write_mbtiles
from tests.benchmarks.measuring import retained, wall

_TURNS: Final = 3

_CELLS = 2
"""In a window of full cells: 512 tiles."""

_ROWS = 1 << 2 * CELL_SHIFT


def one_journal(folder: Path, count: int, dimensions: int) -> Mapping[str, Any]:
    """Append so many cells to a cache of one cell; measure the file, the fold and the state."""
    site = BigSite(folder / "site")
    site.number, site.dimensions = _ROWS, dimensions
    write_mbtiles(site.root / "tiles.mbtiles", _ROWS)
    site.built(source="tiles.mbtiles")
    layout = Layout(site.cache)
    facts = read_history(layout).facts
    started = next(fact.event for fact in facts if isinstance(fact.event, BuildStarted))
    like = next(fact.event for fact in facts if isinstance(fact.event, CellEmbedded))
    before = layout.journal.stat().st_blocks
    with site.provisioner()._open(create=False) as store:
        number = store.state.next_build
        store.append(replace(started, identity="e" * 64), build=number)
        began = time.perf_counter()
        for first in range(0, count, _CELLS):
            _append(store, number, like, first)
        took = time.perf_counter() - began
    memory, _ = retained(lambda: open_view(layout).state)
    return {
        "journal_bytes": (layout.journal.stat().st_blocks - before) * 512,
        "append_s": took,
        "fold_s": median(wall(lambda: open_view(layout)) for _ in range(_TURNS)),
        "state_memory": memory,
    }


def _append(store: CacheWriter, number: int, like: CellEmbedded, first: int) -> None:
    """Append what a build appends for one window."""
    cells = [_cell(like, each) for each in range(first, first + _CELLS)]
    subjects = tuple(f"{cell.zoom}/{cell.cell_x}/{cell.cell_y}" for cell in cells)
    store.append(StepStarted(kind="cells", subjects=subjects, key=like.space), build=number)
    store.append(*cells, build=number)


def _cell(like: CellEmbedded, number: int) -> CellEmbedded:
    name = sha256(str(number).encode()).hexdigest()
    return replace(
        like,
        zoom=18,
        cell_x=number % 16_384,
        cell_y=number // 16_384,
        key=sha256(name.encode()).hexdigest(),
        components={**like.components, "tiles": name},
        block=ArtifactRef(sha256=name, size=like.block.size),
    )
