"""Hash the tiles of an archive, with every processor where there are many.

Nothing but its bytes proves what a tile is. SQLite keeps no digest or version of a row: one may be replaced by
another of equal length, and VACUUM moves all of them. A PMTiles directory says where the bytes of a tile lie, and a
program may write others there. So after any change of the file every wanted tile is read and hashed again, as if
for the first time; only processors save time.

Whether the file changed is for `archive_cache` to say, by device, inode, size and times: a copy with an older
modification time is another inode, and has another change time, which no program sets. Where times say nothing of
changes, or the file was just written, nothing is kept for the next run. An archive that changes while it is read has
another status afterwards, which `TileArchive` refuses, so that tasks cannot mix two states of it. A WAL with unmerged
changes is refused before; one that comes later leaves the file as it is until it is merged, and then the status
differs. Each tile is compared with its digest once more when it is read to be embedded.

The work is cut into tasks of some thousand tiles, each with its own handle of the archive. It gives back columns
of numbers, so that only those are ever in memory. Worker processes take the tasks when there are many tiles. Threads
would not do: Python hashes less than 2 KiB without letting another thread run.

A worker cannot make a digest wrong, only the work slow: whatever happens to it (killed, stopped, out of memory, not
started, an error in a tile), this process does the task itself, and reports the error that it then meets. Storage
that never answers is no fault of a worker: it stops this process, too.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

import numpy as np

from pipeline.processes.outcome import Finished
from pipeline.processes.pool import WorkerPool, WorkerStartError
from pipeline.progress import HASHING, Progress
from pipeline.tiles.tile_columns import Digests, Numbers
from store.base.valueclass import valueclass

WORKER: Final = "pipeline.tiles.sources.archives.hash_worker"
TASK_TILES: Final = 8192
"""Tiles of a task, unless a single column of the grid has more."""
LEAST_FOR_WORKERS: Final = 65_536
"""Fewer tiles are hashed here: 0.2 s of work, and the workers need as long to start."""
TASK_LIMIT_S: Final = 300.0
"""A worker that needs more seconds for a task is killed: it was stopped, or hangs. A slow disk needs a third."""

Answer: TypeAlias = tuple[Numbers, Digests]
"""Numbers of tiles, int64 [n, k], and the digests of their images, uint8 [n, 32]."""


@valueclass(frozen=True, slots=True, kw_only=True)
class HashTask:
    """Some tiles to hash.

    Attributes:
        function: Does it, in any process.
        arguments: Of the function: plain data and arrays of numbers.
        tiles: How many tiles are expected, for progress.
    """

    function: Callable[..., Answer]
    arguments: tuple[object, ...]
    tiles: int


def hash_tiles(tasks: Sequence[HashTask], progress: Progress) -> list[Answer]:
    """Do some tasks; return the answers in their order.

    Raises:
        TileError: The archive is damaged.
        OSError: It cannot be read.
    """
    total = sum(task.tiles for task in tasks)
    workers = min(len(os.sched_getaffinity(0)), len(tasks))
    answers: dict[int, Answer] = {}
    progress.start(HASHING, total=total, unit="tiles")
    if workers > 1 and total >= LEAST_FOR_WORKERS:
        for number, answer in _ask_workers(tasks, workers):
            answers[number] = answer
            progress.advance(tasks[number].tiles)
    for number, task in enumerate(tasks):
        if number not in answers:
            answers[number] = task.function(*task.arguments)
            progress.advance(task.tiles)
    progress.finish()
    return [answers[number] for number in range(len(tasks))]


def _ask_workers(tasks: Sequence[HashTask], workers: int) -> Iterator[tuple[int, Answer]]:
    """Yield the number and the answer of each task that a worker has done."""
    try:
        pool = WorkerPool(WORKER, workers, None, timeout_s=TASK_LIMIT_S)
    except OSError:  # no more processes, open files or memory
        return
    with suppress(WorkerStartError), pool:
        for number, task in enumerate(tasks):
            pool.submit(number, [task.function.__module__, task.function.__name__, list(task.arguments)])
        for name, outcome in pool.results():
            if isinstance(outcome, Finished) and isinstance(name, int):
                numbers, digests = outcome.value
                yield name, (numbers, digests)


def joined(answers: Sequence[Answer], columns: int) -> Answer:
    """Return the answers of all tasks as one; `columns` is how many numbers each tile has."""
    numbers = [np.zeros((0, columns), np.int64), *(each for each, _ in answers)]
    return np.concatenate(numbers), np.concatenate(
        [np.zeros((0, 32), np.uint8), *(each for _, each in answers)]
    )
