"""Before anything is begun: is there room for what will be written?"""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from pipeline.engines.models.model import Model
from pipeline.inputs import Inputs
from pipeline.plan import needed, plan
from pipeline.space import BIRTH, engine_size, estimate
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.index_files import refs_of
from store.domain.state import State
from store.errors import DiskFullError, ErrorKind, from_os_error
from store.verify.coverage import sizes

FreeBytes = Callable[[Path], int]
"""How many bytes this user may still write to the file system of a folder."""


def free_bytes(folder: Path) -> int:
    """Ask the file system of the nearest folder that exists.

    Raises:
        StoreError: It does not answer.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        found = os.statvfs(folder)
    except OSError as error:
        raise from_os_error(error, f"file system of {folder}") from error
    return found.f_bavail * found.f_frsize


def require_space_for_build(layout: Layout, state: State, inputs: Inputs, free: int) -> None:
    """Hold the estimate of what a build writes against what is free.

    Args:
        layout: Where the cache is or will be.
        state: The folded journal; an empty one if there is none.
        inputs: What the build is defined by.
        free: Bytes that may be used, the disk reserve taken off.

    Raises:
        DiskFullError: There is not enough; nothing was written.
    """
    artifacts = Artifacts(layout)
    planned = plan(state, inputs, sizes(artifacts, needed(state, inputs)))
    head = state.head_build
    indexes = [*state.memo.indexes.values(), *((head.index,) if head and head.index else ())]
    present = sizes(artifacts, (ref for index in indexes for ref in refs_of(index)))
    found = estimate(inputs, planned, state, present)
    born = 0 if state.cache_id else BIRTH
    _require(layout, found.total + born, free, f"this build ({found})")


def require_space_for_engines(layout: Layout, models: tuple[Model, ...], free: int) -> None:
    """Hold what the engines of these networks may take against what is free.

    Raises:
        DiskFullError: There is not enough; nothing was written.
    """
    names = ", ".join(model.spec.name for model in models)
    _require(layout, sum(map(engine_size, models)), free, f"the engines of {names}")


def _require(layout: Layout, wanted: int, free: int, what: str) -> None:
    if wanted <= free:
        return
    # Below zero where not even the disk reserve fits: that has to be freed, too.
    collecting = f", or c10 gc --cache {shlex.quote(str(layout.root))} (says what can go)"
    raise DiskFullError(
        ErrorKind.DISK_FULL,
        f"expected {wanted:,} bytes free in {layout.root} for {what}, found {max(free, 0):,} that may be used;"
        " nothing was begun",
        hint=f"free {wanted - free:,} bytes{collecting if layout.exists() else ''}",
    )
