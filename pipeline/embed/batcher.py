"""Turns windows of tiles into descriptors with worker processes: the DescriptorBatcher port and the local one.

Throughput comes from processes with one thread each, not from threads: two of them embed almost twice what one with
two threads does. A worker that dies takes nothing with it but the window it worked on, which is tried again with
fewer workers, since the usual cause is memory.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, assert_never

import numpy as np
from numpy.typing import NDArray

from pipeline.embed.cells import Window
from pipeline.errors import EmbedError, ErrorKind
from pipeline.processes.framing import Message, Payload
from pipeline.processes.outcome import Died, Failed, Finished, Lost, Outcome, OutOfMemory, TimedOut
from pipeline.processes.pool import QUEUE_DEPTH, WorkerPool, WorkerStartError
from pipeline.tiles.tile import SourceTile
from store.base.preprocessing import Preprocessing

ATTEMPTS_ALONE: Final = 2
"""How often a window may end a worker that has the machine to itself."""

WORKER: Final = "pipeline.embed.worker"
"""The module that workers run."""

_LOG_TAIL: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """An engine for workers to load.

    Attributes:
        path: Where its bytes are.
        sha256: Their digest; a worker refuses others.
        backend: Backend that compiled it.
        version: Full version of the backend's library.
        input: Name of the input tensor.
        output: Name of the output tensor.
        batch: Fixed batch size.
        dimensions: Length of a descriptor.
        precision: Arithmetic of the engine, for backends whose engines do not tell it themselves.
    """

    path: str
    sha256: str
    backend: str
    version: str
    input: str
    output: str
    batch: int
    dimensions: int
    precision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BadTile:
    """A tile that got no descriptor.

    Attributes:
        tile: The tile.
        kind: Value of an `ErrorKind`: "bad-tile", "source-changed", "bad-vectors" or another of a tile source.
        message: What was expected and what was found.
    """

    tile: SourceTile
    kind: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowResult:
    """What became of a window.

    Attributes:
        window: The window.
        tiles: Its tiles that have a descriptor, in order.
        vectors: Their descriptors, float32 [n, d], finite.
        texture: Their texture scores, float32 [n].
        bad: Its other tiles.
    """

    window: Window
    tiles: tuple[SourceTile, ...]
    vectors: NDArray[np.float32]
    texture: NDArray[np.float32]
    bad: tuple[BadTile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A window whose worker failed and that will be tried again.

    Attributes:
        window: The window; None when a worker ended before it was ready for any.
        attempt: How often it has been tried.
        why: How the worker ended.
        workers: How many workers will be left.
    """

    window: Window | None
    attempt: int
    why: str
    workers: int


OnDispatch = Callable[[Window], None]
OnRetry = Callable[[Retry], None]
OnTiles = Callable[[int], None]


class DescriptorBatcher(Protocol):
    """Embeds tiles."""

    def embed(
        self,
        windows: Iterable[Window],
        *,
        engine: EngineSpec,
        preprocessing: Preprocessing,
        on_dispatch: OnDispatch | None = None,
        on_progress: OnTiles | None = None,
        on_retry: OnRetry | None = None,
    ) -> Generator[WindowResult, None, None]:
        """Embed windows and yield their results in the order in which they are done.

        Windows are taken one at a time as there is room for them, so that they may be planned lazily. Close the
        iterator to stop early.

        Args:
            windows: The work.
            engine: The engine to run.
            preprocessing: The image contract between tile and engine.
            on_dispatch: Called with each window before it is given to a worker for the first time.
            on_progress: Called with the number of tiles that were embedded since the last call.
            on_retry: Called when a worker failed and its window will be tried again.

        Raises:
            EmbedError: A window ended its worker again and again, or the workers do not start.
        """
        ...


class LocalDescriptorBatcher:
    """Embeds with processes on this machine."""

    def __init__(self, *, workers: int, timeout_s: float | None = None) -> None:
        """Choose the number of processes; none is started yet.

        Args:
            workers: Processes with one thread each, at least 1.
            timeout_s: Longest time for one window in seconds, None for no limit.
        """
        if workers < 1:
            raise ValueError(f"expected at least 1 worker, found {workers}")
        self._workers = workers
        self._timeout_s = timeout_s

    def embed(
        self,
        windows: Iterable[Window],
        *,
        engine: EngineSpec,
        preprocessing: Preprocessing,
        on_dispatch: OnDispatch | None = None,
        on_progress: OnTiles | None = None,
        on_retry: OnRetry | None = None,
    ) -> Generator[WindowResult, None, None]:
        """Embed windows; see `DescriptorBatcher.embed`."""
        run = _Run(
            windows=iter(windows),
            setup=worker_setup(engine, preprocessing),
            dimensions=engine.dimensions,
            workers=self._workers,
            timeout_s=self._timeout_s,
            on_dispatch=on_dispatch,
            on_progress=on_progress,
            on_retry=on_retry,
        )
        return run.results()


class _Run:
    """One call of `embed`: pools of workers, each smaller than the one before, until the work is done."""

    def __init__(
        self,
        *,
        windows: Iterator[Window],
        setup: Payload,
        dimensions: int,
        workers: int,
        timeout_s: float | None,
        on_dispatch: OnDispatch | None,
        on_progress: OnTiles | None,
        on_retry: OnRetry | None,
    ) -> None:
        self._windows = windows
        self._setup = setup
        self._dimensions = dimensions
        self._workers = workers
        self._timeout_s = timeout_s
        self._on_dispatch = on_dispatch
        self._on_progress = on_progress
        self._on_retry = on_retry
        self._under_way: dict[int, Window] = {}
        self._again: deque[Window] = deque()
        self._attempts: dict[int, int] = {}
        self._alone: dict[int | None, int] = {}

    def results(self) -> Generator[WindowResult, None, None]:
        window = self._next()
        while window is not None:
            self._again.appendleft(window)
            with WorkerPool(WORKER, self._workers, self._setup, timeout_s=self._timeout_s) as pool:
                yield from self._drive(pool)
            self._again.extendleft(reversed(self._under_way.values()))
            self._under_way.clear()
            window = self._next()

    def _drive(self, pool: WorkerPool) -> Iterator[WindowResult]:
        """Work with one pool until all is done or a worker failed; then let the others finish what they hold."""
        self._fill(pool)
        failed = False
        try:
            for number, outcome in pool.results():
                window = self._under_way.pop(_integer(number))
                match outcome:
                    case Finished(value=value):
                        yield self._result(window, value)
                    case Failed():
                        raise embed_error(window, outcome)
                    case Died() | OutOfMemory() | TimedOut():
                        failed = True
                        self._retry(window, outcome)
                        pool.withdraw()
                    case _:
                        assert_never(outcome)
                if not failed:
                    self._fill(pool)
        except WorkerStartError as error:
            if isinstance(error.outcome, Failed):
                raise embed_error(None, error.outcome) from error
            self._retry(None, error.outcome)

    def _next(self) -> Window | None:
        if self._again:
            return self._again.popleft()
        return next(self._windows, None)

    def _fill(self, pool: WorkerPool) -> None:
        while len(self._under_way) < QUEUE_DEPTH * pool.alive and (window := self._next()) is not None:
            self._under_way[window.number] = window
            if window.number not in self._attempts:
                self._attempts[window.number] = 0
                if self._on_dispatch is not None:
                    self._on_dispatch(window)
            pool.submit(window.number, worker_request(window.tiles))

    def _retry(self, window: Window | None, outcome: Outcome) -> None:
        """Count a failure, and shrink; or give up when even a lone worker cannot do it."""
        number = None if window is None else window.number
        if self._workers == 1:
            self._alone[number] = self._alone.get(number, 0) + 1
            if self._alone[number] >= ATTEMPTS_ALONE:
                raise embed_error(window, outcome)
        self._workers = max(1, self._workers // 2)
        attempt = 1
        if window is not None:
            attempt = self._attempts[window.number] = self._attempts[window.number] + 1
            self._again.append(window)
        if self._on_retry is not None:
            self._on_retry(Retry(window=window, attempt=attempt, why=told(outcome), workers=self._workers))

    def _result(self, window: Window, value: Message) -> WindowResult:
        self._attempts.pop(window.number, None)
        result = window_result(window, value, self._dimensions)
        if self._on_progress is not None:
            self._on_progress(len(result.tiles))
        return result


def window_result(window: Window, value: Message, dimensions: int) -> WindowResult:
    """Return a window's result from a worker's answer.

    Raises:
        EmbedError: The answer has other rows than there are good tiles, or rows of another length.
    """
    bad = {
        index: BadTile(tile=window.tiles[index], kind=kind, message=message)
        for index, kind, message in value["bad"]
    }
    tiles = tuple(tile for index, tile in enumerate(window.tiles) if index not in bad)
    vectors, texture = value["vectors"], value["texture"]
    if vectors.shape != (len(tiles), dimensions) or texture.shape != (len(tiles),):
        raise EmbedError(
            f"expected descriptors as [{len(tiles)}, {dimensions}], found {list(vectors.shape)}",
            hint="compile the engine again",
            kind=ErrorKind.BAD_VECTORS,
            subject=window_name(window),
        )
    return WindowResult(
        window=window,
        tiles=tiles,
        vectors=vectors,
        texture=texture,
        bad=tuple(bad[index] for index in sorted(bad)),
    )


def worker_setup(engine: EngineSpec, preprocessing: Preprocessing) -> Payload:
    """Return the first message of a worker: the engine to load, and the image contract."""
    return {
        "engine": engine.path,
        "sha256": engine.sha256,
        "backend": engine.backend,
        "version": engine.version,
        "input": engine.input,
        "output": engine.output,
        "batch": engine.batch,
        "precision": engine.precision,
        "preprocessing": preprocessing.to_document(),
    }


def worker_request(tiles: Iterable[SourceTile]) -> Payload:
    """Return the message that asks a worker for the descriptors of some tiles."""
    return [[tile.sha256, list(tile.locator)] for tile in tiles]


def _integer(number: object) -> int:
    if not isinstance(number, int):
        raise TypeError(f"expected a window's number, found {number!r}")
    return number


def window_name(window: Window | None) -> str:
    """Name a window by its number and its first and last cell."""
    if window is None:
        return "a worker's start"
    first, last = window.subjects[0], window.subjects[-1]
    cells = first if first == last else f"{first} to {last}"
    return f"window {window.number} (cells {cells}, {len(window.tiles)} tiles)"


def told(outcome: Outcome | Lost) -> str:
    """Say how a worker's work on a window ended."""
    match outcome:
        case Finished():
            return "finished"
        case Failed(kind=kind, message=message):
            return f"{kind}: {message}"
        case Died(signal=signal):
            return f"died by {signal}"
        case OutOfMemory(message=message):
            return f"out of memory: {message}"
        case TimedOut(seconds=seconds):
            return f"no answer within {seconds:g} s"
        case Lost(message=message):
            return f"lost: {message}"
        case _:
            assert_never(outcome)


def embed_error(window: Window | None, outcome: Outcome | Lost) -> EmbedError:
    """Return the error that says that a window, or a worker's start, was given up."""
    log = "" if isinstance(outcome, Finished) else outcome.log.strip()[-_LOG_TAIL:]
    died = not isinstance(outcome, Failed)
    match outcome:
        case Failed():
            hint = "check the engine with `c10 engines`, then build again"
        case Lost():
            hint = "see to the network, the memory and the disks of the cluster's nodes, then build again"
        case _:
            hint = "use fewer workers or a smaller engine.batch; `c10 replay` shows the window's tiles"
    return EmbedError(
        f"expected descriptors for {window_name(window)}, found: {told(outcome)}"
        + (f"; its log ends: {log}" if log else ""),
        hint=hint,
        kind=ErrorKind.WORKER_DIED if died else ErrorKind.EMBED_FAILED,
        subject=window_name(window),
    )
