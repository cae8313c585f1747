"""Embed windows of tiles: the port `DescriptorBatcher`, and worker processes on this machine.

Workers are processes with one thread each: two of them embed almost twice as fast as one with two threads.
When a worker dies, only the window that it worked on is lost. It is tried again with fewer workers, since the
usual cause is that memory ran out.
"""

from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final, Protocol, TypedDict

from pipeline.embed.cells import Window
from pipeline.embed.worker_messages import (
    EngineSpec,
    WindowResult,
    window_name,
    window_result,
    worker_request,
    worker_setup,
)
from pipeline.errors import EmbedError, ErrorKind
from pipeline.processes.framing import Message, Payload
from pipeline.processes.outcome import Died, Failed, Finished, Lost, Outcome, OutOfMemory, TimedOut
from pipeline.processes.pool import QUEUE_DEPTH, WorkerPool, WorkerStartError
from pipeline.processes.process import Child
from store.backports import Unpack, assert_never
from store.base.preprocessing import Preprocessing
from store.base.valueclass import valueclass

ATTEMPTS_ALONE: Final = 2
"""How often a window may end a worker that is the only one."""

WORKER: Final = "pipeline.embed.worker"
"""The module of a worker process."""

_LOG_TAIL: Final = 2_000


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
        on_progress: Called with the number of units that were done since the last call. A window that is tried
            again counts once.
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
        self._reported: dict[int, int] = {}
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
        """Return the result of a window from a worker's answer, and report the rest of its units.

        Raises:
            EmbedError: As for `window_result`.
        """
        self._failures.pop(window.number, None)
        result = window_result(window, answer, self._dimensions)
        self.report(window, len(window.units))
        self._reported.pop(window.number, None)
        return result

    def report(self, window: Window, done: int) -> None:
        """Report how many units of a window are done, if that is more than before."""
        before = self._reported.get(window.number, 0)
        if done > before:
            self._reported[window.number] = done
            if self._on_progress is not None:
                self._on_progress(done - before)


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
        self._started: list[Child] = []

    @contextmanager
    def started(self, *libraries: str) -> Iterator[None]:
        """Start the workers now, so that they have imported some libraries when `embed` needs them.

        Those that are not used are killed at the end.
        """
        try:
            self._started.extend(Child(WORKER, *libraries) for _ in range(self._workers))
            yield
        finally:
            while self._started:
                self._started.pop().kill()

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
        return _LocalRun(queue, setup, self._workers, self._timeout_s, self._started).results()


class _LocalRun:
    """One call of `embed`: pools of workers, each smaller than the one before, until the work is done."""

    def __init__(
        self,
        queue: WindowQueue,
        setup: Payload,
        workers: int,
        timeout_s: float | None,
        started: list[Child],
    ) -> None:
        self._queue = queue
        self._setup = setup
        self._workers = workers
        self._timeout_s = timeout_s
        self._started = started
        self._in_progress: dict[Hashable, Window] = {}
        self._failures_alone: Counter[int | None] = Counter()
        self._depth = QUEUE_DEPTH

    def results(self) -> Generator[WindowResult, None, None]:
        while self._queue.peek() is not None:
            with WorkerPool(
                WORKER, self._workers, self._setup, timeout_s=self._timeout_s, started=self._started
            ) as pool:
                yield from self._use_pool(pool)
            self._queue.put_first(self._in_progress.values())
            self._in_progress.clear()

    def _use_pool(self, pool: WorkerPool) -> Iterator[WindowResult]:
        """Use one pool until all is done or a worker fails; then let the others finish their windows."""
        self._submit_windows(pool)
        failed = False
        try:
            for number, outcome in pool.results(on_progress=self._report):
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

    def _report(self, number: Hashable, done: Message) -> None:
        self._queue.report(self._in_progress[number], done)

    def _submit_windows(self, pool: WorkerPool) -> None:
        while (
            len(self._in_progress) < self._depth * pool.alive and (window := self._queue.take()) is not None
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
        # A worker may begin with the next window: alone, it is certain which of them ends a worker.
        self._depth = 1
        self._queue.retry(window, outcome, workers=self._workers)


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
