"""Embed windows of tiles: the port `DescriptorBatcher`, and worker processes on this machine.

Workers are processes with one thread each: two of them embed almost twice as fast as one with two threads.
When a worker dies, only the window that it worked on is lost. It is tried again with fewer workers, since the
usual cause is that memory ran out.
"""

from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Final, Protocol, TypedDict, Unpack, assert_never

import numpy as np
from numpy.typing import NDArray

from pipeline.embed.cells import Window
from pipeline.errors import EmbedError, ErrorKind
from pipeline.processes.framing import Message, Payload
from pipeline.processes.outcome import Died, Failed, Finished, Lost, Outcome, OutOfMemory, TimedOut
from pipeline.processes.pool import QUEUE_DEPTH, WorkerPool, WorkerStartError
from pipeline.tiles.retrieval_units import RetrievalUnits, unit_name
from store.base.preprocessing import Preprocessing
from store.base.valueclass import valueclass

ATTEMPTS_ALONE: Final = 2
"""How often a window may end a worker that is the only one."""

WORKER: Final = "pipeline.embed.worker"
"""The module of a worker process."""

_LOG_TAIL: Final = 2_000


@valueclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """An engine for workers to load.

    Attributes:
        path: Its file.
        sha256: Its digest; a worker refuses other bytes.
        backend: Backend that compiled it.
        version: Full version of the backend's library.
        input: Name of the input tensor.
        output: Name of the output tensor.
        batch: Fixed batch size.
        dimensions: Length of a descriptor.
        precision: Arithmetic of the engine, for backends whose engines do not state it.
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


@valueclass(frozen=True, slots=True, kw_only=True)
class BadImage:
    """A tile that cannot be used, or a unit whose descriptor cannot.

    Attributes:
        identifier: Descriptor id of the tile or chunk.
        sha256: Its digest, hexadecimal.
        kind: The value of an `ErrorKind`, such as "bad-tile".
        message: What is wrong.
    """

    identifier: int
    sha256: str
    kind: str
    message: str

    @property
    def name(self) -> str:
        """The name of the tile or chunk."""
        return unit_name(self.identifier)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowResult:
    """The descriptors of a window.

    Attributes:
        window: The window.
        units: Its units that have a descriptor, in order.
        vectors: Their descriptors, float32 [n, d], finite.
        texture: Their texture scores, float32 [n].
        without: Digests of its other units, hexadecimal.
        bad: Why these have none: its bad tiles, then units whose descriptor cannot be used.
    """

    window: Window
    units: RetrievalUnits
    vectors: NDArray[np.float32]
    texture: NDArray[np.float32]
    without: tuple[str, ...]
    bad: tuple[BadImage, ...]


@valueclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A window that will be tried again because its worker failed.

    Attributes:
        window: The window; None when a worker ended before it was ready.
        attempt: How often the window has failed.
        why: How the worker ended.
        workers: How many workers will be left.
    """

    window: Window | None
    attempt: int
    why: str
    workers: int


OnDispatch = Callable[[Window], None]
OnRetry = Callable[[Retry], None]
OnUnits = Callable[[int], None]


class EmbedCallbacks(TypedDict, total=False):
    """What `DescriptorBatcher.embed` reports, each to an optional function.

    Attributes:
        on_dispatch: Called with each window before it is given to a worker for the first time.
        on_progress: Called with the number of units embedded since the last call.
        on_retry: Called when a worker failed and its window will be tried again.
    """

    on_dispatch: OnDispatch | None
    on_progress: OnUnits | None
    on_retry: OnRetry | None


class DescriptorBatcher(Protocol):
    """Embeds tiles, or chunks of ground."""

    def embed(
        self,
        windows: Iterable[Window],
        *,
        engine: EngineSpec,
        preprocessing: Preprocessing,
        **callbacks: Unpack[EmbedCallbacks],
    ) -> Generator[WindowResult, None, None]:
        """Embed windows and yield their results as they are done.

        Windows are taken one at a time when a worker has room for one, so that they can be planned lazily.
        Close the generator to stop early.

        Args:
            windows: The windows to embed.
            engine: The engine to run.
            preprocessing: How pictures become samples of the engine.
            callbacks: What to report.

        Raises:
            EmbedError: A window ended its workers too often, or the workers do not start.
        """
        ...


class WindowQueue:
    """The windows of one call of `embed` that still need a worker: new ones, and those to try again."""

    def __init__(self, windows: Iterable[Window], engine: EngineSpec, callbacks: EmbedCallbacks) -> None:
        """Take the arguments of `DescriptorBatcher.embed`."""
        self._new = iter(windows)
        self._again: deque[Window] = deque()
        self._failures: dict[int, int] = {}
        self._dimensions = engine.dimensions
        self._on_dispatch = callbacks.get("on_dispatch")
        self._on_progress = callbacks.get("on_progress")
        self._on_retry = callbacks.get("on_retry")

    def peek(self) -> Window | None:
        """Return the next window and leave it in the queue; None if there is none."""
        if not self._again:
            self._again.extend(islice(self._new, 1))
        return self._again[0] if self._again else None

    def take(self) -> Window | None:
        """Remove and return the next window, and report the dispatch of a new one; None if there is none."""
        window = self.peek()
        if window is not None:
            self._again.popleft()
            if window.number not in self._failures:
                self._failures[window.number] = 0
                if self._on_dispatch is not None:
                    self._on_dispatch(window)
        return window

    def put_first(self, windows: Iterable[Window]) -> None:
        """Put windows back at the front; their order stays."""
        self._again.extendleft(reversed(list(windows)))

    def put_last(self, windows: Iterable[Window]) -> None:
        """Put windows back at the end."""
        self._again.extend(windows)

    def retry(self, window: Window | None, outcome: Outcome | Lost, *, workers: int) -> None:
        """Put back a window whose worker failed, if it had begun one, and report that; `workers` are left."""
        attempt = 1
        if window is not None:
            attempt = self._failures[window.number] = self._failures[window.number] + 1
            self._again.append(window)
        if self._on_retry is not None:
            why = describe_outcome(outcome)
            self._on_retry(Retry(window=window, attempt=attempt, why=why, workers=workers))

    def finish(self, window: Window, answer: Message) -> WindowResult:
        """Return the result of a window from a worker's answer, and report its units.

        Raises:
            EmbedError: As for `window_result`.
        """
        self._failures.pop(window.number, None)
        result = window_result(window, answer, self._dimensions)
        if self._on_progress is not None:
            self._on_progress(len(result.units))
        return result


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
        **callbacks: Unpack[EmbedCallbacks],
    ) -> Generator[WindowResult, None, None]:
        """Embed windows; see `DescriptorBatcher.embed`."""
        queue = WindowQueue(windows, engine, callbacks)
        setup = worker_setup(engine, preprocessing)
        return _LocalRun(queue, setup, workers=self._workers, timeout_s=self._timeout_s).results()


class _LocalRun:
    """One call of `embed`: pools of workers, each smaller than the one before, until the work is done."""

    def __init__(self, queue: WindowQueue, setup: Payload, *, workers: int, timeout_s: float | None) -> None:
        self._queue = queue
        self._setup = setup
        self._workers = workers
        self._timeout_s = timeout_s
        self._in_progress: dict[Hashable, Window] = {}
        self._failures_alone: Counter[int | None] = Counter()

    def results(self) -> Generator[WindowResult, None, None]:
        while self._queue.peek() is not None:
            with WorkerPool(WORKER, self._workers, self._setup, timeout_s=self._timeout_s) as pool:
                yield from self._use_pool(pool)
            self._queue.put_first(self._in_progress.values())
            self._in_progress.clear()

    def _use_pool(self, pool: WorkerPool) -> Iterator[WindowResult]:
        """Use one pool until all is done or a worker fails; then let the others finish their windows."""
        self._submit_windows(pool)
        failed = False
        try:
            for number, outcome in pool.results():
                window = self._in_progress.pop(number)
                match outcome:
                    case Finished(value=answer):
                        yield self._queue.finish(window, answer)
                    case Failed():
                        raise embed_error(window, outcome)
                    case Died() | OutOfMemory() | TimedOut():
                        failed = True
                        self._retry(window, outcome)
                        pool.withdraw()
                    case _:
                        assert_never(outcome)
                if not failed:
                    self._submit_windows(pool)
        except WorkerStartError as error:
            if isinstance(error.outcome, Failed):
                raise embed_error(None, error.outcome) from error
            self._retry(None, error.outcome)

    def _submit_windows(self, pool: WorkerPool) -> None:
        while (
            len(self._in_progress) < QUEUE_DEPTH * pool.alive and (window := self._queue.take()) is not None
        ):
            self._in_progress[window.number] = window
            pool.submit(window.number, worker_request(window, [list(tile.locator) for tile in window.tiles]))

    def _retry(self, window: Window | None, outcome: Outcome) -> None:
        """Try again with fewer workers; raise `EmbedError` when a lone worker failed too often."""
        number = None if window is None else window.number
        if self._workers == 1:
            self._failures_alone[number] += 1
            if self._failures_alone[number] >= ATTEMPTS_ALONE:
                raise embed_error(window, outcome)
        self._workers = max(1, self._workers // 2)
        self._queue.retry(window, outcome, workers=self._workers)


def window_result(window: Window, value: Message, dimensions: int) -> WindowResult:
    """Return a window's result from a worker's answer; `pipeline.embed.worker` describes the message.

    Raises:
        EmbedError: BAD_VECTORS, the number of rows is not that of the good units, or a row has another
            length.
    """
    good = np.asarray(value["good"], np.intp)
    vectors, texture = value["vectors"], value["texture"]
    if vectors.shape != (len(good), dimensions) or texture.shape != (len(good),):
        raise EmbedError(
            f"expected descriptors as [{len(good)}, {dimensions}], found {list(vectors.shape)}",
            hint="compile the engine again",
            kind=ErrorKind.BAD_VECTORS,
            subject=window_name(window),
        )
    bad = np.ones(len(window.units), np.bool_)
    bad[good] = False
    return WindowResult(
        window=window,
        units=window.units.take(good),
        vectors=vectors,
        texture=texture,
        without=tuple(window.units.take(bad).hex_digests),
        bad=(
            *_bad_images(RetrievalUnits.of_tiles(window.tiles), value["bad_tiles"]),
            *_bad_images(window.units, value["bad_vectors"]),
        ),
    )


def _bad_images(units: RetrievalUnits, problems: Iterable[tuple[int, str, str]]) -> Iterator[BadImage]:
    for index, kind, message in problems:
        yield BadImage(
            identifier=int(units.ids[index]),
            sha256=units.digests[index].tobytes().hex(),
            kind=kind,
            message=message,
        )


def worker_setup(engine: EngineSpec, preprocessing: Preprocessing) -> dict[str, Payload]:
    """Return the first message to a worker: the engine to load, and the preprocessing."""
    return {"engine": asdict(engine), "preprocessing": preprocessing.to_document()}


def worker_request(window: Window, content: Sequence[Payload]) -> Payload:
    """Return the message that asks a worker for the descriptors of a window.

    Args:
        window: The window.
        content: For each tile its locator, or its encoded bytes, or why there are none, as `kind` and `message`.
    """
    tiles = window.tiles
    return {
        "tiles": [list(each) for each in zip(tiles.ids.tolist(), tiles.hex_digests, content, strict=True)],
        "chunks": window.units.ids if window.shows_chunks else None,
        "tile_edges": [list(each) for each in window.tile_edges.items()],
    }


def window_name(window: Window | None) -> str:
    """Return a window's name for messages; None stands for the start of a worker."""
    if window is None:
        return "a worker's start"
    first, last = window.subjects[0], window.subjects[-1]
    cells = first if first == last else f"{first} to {last}"
    what = "chunks" if window.shows_chunks else "tiles"
    return f"window {window.number} (cells {cells}, {len(window.units)} {what})"


def describe_outcome(outcome: Outcome | Lost) -> str:
    """Return how a worker's task ended, in a few words."""
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
    """Return the error for a window, or for a worker's start (None), that will not be tried again."""
    log = "" if isinstance(outcome, Finished) else outcome.log.strip()[-_LOG_TAIL:]
    died = not isinstance(outcome, Failed)
    match outcome:
        case Failed():
            hint = "check the engine with `c10 engines`, then build again"
        case Lost():
            hint = "check the network, the memory and the disks of the cluster's nodes, then build again"
        case _:
            hint = "use fewer workers or a smaller engine.batch; `c10 replay` shows the window's tiles"
    return EmbedError(
        f"expected descriptors for {window_name(window)}, found: {describe_outcome(outcome)}"
        + (f"; its log ends: {log}" if log else ""),
        hint=hint,
        kind=ErrorKind.WORKER_DIED if died else ErrorKind.EMBED_FAILED,
        subject=window_name(window),
    )
