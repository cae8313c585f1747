"""Embeds on a Ray cluster: actors hold the engine, windows go out, descriptors come back; the journal stays here.

Tiles travel as bytes: this machine reads them and a node needs no access to the source. It costs the network about
what the tiles weigh, and whatever arrives is hashed again before it is decoded.

An actor that is lost costs the window it worked on, which is tried elsewhere; windows that waited behind it are given
away as if they had never been sent. One that went with its node is asked for again at once, and joins when the cluster
has room for it. One that ended on a node that lives on has most likely run out of memory: that node goes on with half
of its actors, as local workers do. One that does not answer for much longer than others took is given up, and so is one
whose answer cannot be fetched. Who is given up is never asked again, and its answers are dropped with the references to
them.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import Any, Final, assert_never

from pipeline.embed.batcher import (
    EngineSpec,
    OnDispatch,
    OnRetry,
    OnTiles,
    Retry,
    WindowResult,
    embed_error,
    told,
    window_name,
    window_result,
    worker_setup,
)
from pipeline.embed.cells import Window
from pipeline.embed.ray.actor import software
from pipeline.embed.ray.actor_pool import LOAD_LIMIT_S, Crew, Sent, Worker
from pipeline.embed.ray.cluster import LOCAL, connected, require_ray, unusable
from pipeline.embed.ray.scaling import Patience
from pipeline.errors import EmbedError, ErrorKind, TileError
from pipeline.processes.framing import Message, encode
from pipeline.processes.outcome import Died, Failed, Finished, Lost, Outcome, OutOfMemory, TimedOut
from pipeline.processes.pool import QUEUE_DEPTH
from pipeline.tiles.sources.read_tile import read_tile
from store.base.preprocessing import Preprocessing

ATTEMPTS: Final = 3
"""How often a window may end a worker, where fewer workers would be no remedy, before it is given up."""

_GLANCE_S: Final = 1.0
"""Longest wait in seconds before interrupts and the time are looked at."""


class RayDescriptorBatcher:
    """Embeds with actors on a Ray cluster."""

    def __init__(self, *, address: str = LOCAL, workers: int | None = None) -> None:
        """Choose the cluster; it is not asked for anything yet.

        Args:
            address: `HOST:PORT` of a cluster, "auto" for the one that Ray finds, or "local". A process that is
                connected to a cluster already stays with that one.
            workers: Actors, at least 1; by default one for each processor of the cluster, or for each GPU where the
                engine needs one.

        Raises:
            RequestError: Ray is not installed.
        """
        if workers is not None and workers < 1:
            raise ValueError(f"expected at least 1 worker, found {workers}")
        require_ray()
        self._address = address
        self._workers = workers

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
        """Embed windows; see `DescriptorBatcher.embed`.

        Raises:
            EmbedError: Besides what the port names, the cluster cannot be reached or has no room for a worker, or
                what is sent has no room in its store.
            DiskFullError: The disk that this machine's part of the store spills to is full.
        """
        feed = iter(windows)
        first = next(feed, None)
        if first is None:
            return
        with connected(self._address, self._workers) as ray:
            try:
                run = _Run(
                    ray=ray,
                    windows=feed,
                    first=first,
                    engine=engine,
                    setup=encode({**_map(worker_setup(engine, preprocessing)), "software": dict(software())}),
                    workers=self._workers,
                    on_dispatch=on_dispatch,
                    on_progress=on_progress,
                    on_retry=on_retry,
                )
                try:
                    yield from run.results()
                finally:
                    run.dismiss()
            except ray.exceptions.RayError as error:
                raise unusable(ray, error) from error


_Taken = Callable[[], WindowResult | None]
"""Takes in an answer that is there."""


class _Run:
    """One call of `embed`."""

    def __init__(
        self,
        *,
        ray: Any,  # noqa: ANN401 - an optional package without a place in our types
        windows: Iterator[Window],
        first: Window,
        engine: EngineSpec,
        setup: bytes,
        workers: int | None,
        on_dispatch: OnDispatch | None,
        on_progress: OnTiles | None,
        on_retry: OnRetry | None,
    ) -> None:
        self._ray = ray
        self._windows = windows
        self._again = deque([first])
        self._spec = engine
        self._crew = Crew(ray, engine, setup, workers)
        self._patience = Patience()
        self._attempts: dict[int, int] = {}
        self._blamed: dict[int | None, int] = {}
        self._on_dispatch = on_dispatch
        self._on_progress = on_progress
        self._on_retry = on_retry

    def results(self) -> Generator[WindowResult, None, None]:
        """Yield results until every window has one."""
        self._crew.hire()
        while True:
            self._fill()
            if not self._again and not any(worker.sent for worker in self._crew.workers):
                return
            for worker, take in self._arrived():
                # One that was given up in this very round says nothing that counts any more.
                if worker in self._crew.workers and (result := take()) is not None:
                    yield result
            self._mind_the_time()

    def dismiss(self) -> None:
        """End every actor."""
        while self._crew.workers:
            self._crew.give_up(self._crew.workers[0])

    def _fill(self) -> None:
        """Give windows to whoever is ready and has room, the least busy first."""
        while True:
            free = [each for each in self._crew.workers if each.ready and len(each.sent) < QUEUE_DEPTH]
            if not free:
                # Nothing may be taken that nobody has room for, but the loop must know that there is more.
                self._peek()
                return
            window = self._next()
            if window is None:
                return
            if window.number not in self._attempts:
                self._attempts[window.number] = 0
                if self._on_dispatch is not None:
                    self._on_dispatch(window)
            self._send(min(free, key=lambda each: len(each.sent)), window)

    def _next(self) -> Window | None:
        if self._again:
            return self._again.popleft()
        return next(self._windows, None)

    def _peek(self) -> None:
        if not self._again and not any(worker.sent for worker in self._crew.workers):
            window = next(self._windows, None)
            if window is not None:
                self._again.append(window)

    def _send(self, worker: Worker, window: Window) -> None:
        contents: list[list[object]] = []
        unread: dict[int, tuple[str, str]] = {}
        for number, tile in enumerate(window.tiles):
            try:
                contents.append([tile.sha256, read_tile(tile.locator)])
            except TileError as error:
                unread[number] = (str(error.kind), error.message)
        ref = worker.actor.embed.remote(encode(contents))
        if not worker.sent:
            worker.waited_s = 0.0
        worker.sent.append(Sent(ref=ref, window=window, unread=unread))

    def _arrived(self) -> list[tuple[Worker, _Taken]]:
        """Return what takes in the answers that are there, each worker's oldest first."""
        awaited: dict[Any, tuple[Worker, _Taken]] = {}
        for worker in self._crew.workers:
            if worker.node is None:
                awaited[worker.placing] = (worker, partial(self._place, worker))
            elif not worker.ready:
                awaited[worker.loading] = (worker, partial(self._welcome, worker))
            for sent in worker.sent:
                awaited[sent.ref] = (worker, partial(self._settle, worker, sent))
        refs, began = list(awaited), time.monotonic()
        if self._ray.wait(refs, num_returns=1, timeout=_GLANCE_S)[0]:
            done = set(self._ray.wait(refs, num_returns=len(refs), timeout=0)[0])
        else:
            done = set()
        for worker in self._crew.workers:
            # A machine that slept, or a process that was stopped, has not watched anybody.
            worker.waited_s += min(time.monotonic() - began, 2 * _GLANCE_S)
        return [taken for ref, taken in awaited.items() if ref in done]

    def _place(self, worker: Worker) -> None:
        outcome = self._crew.outcome(worker.placing)
        if isinstance(outcome, Finished):
            worker.node = outcome.value
            worker.waited_s = 0.0
        else:
            self._lose(worker, outcome)

    def _welcome(self, worker: Worker) -> None:
        outcome = self._crew.outcome(worker.loading)
        match outcome:
            case Finished():
                worker.ready = True
                self._blamed.pop(None, None)
            case Failed(fields=(_, str(hint), *_)):
                raise EmbedError(
                    f"expected every node to load the engine, found: {told(outcome)}",
                    hint=hint,
                    kind=ErrorKind.EMBED_FAILED,
                )
            case Failed():
                raise embed_error(None, outcome)
            case Died() | OutOfMemory() | TimedOut() | Lost():
                self._lose(worker, outcome)
            case _:
                assert_never(outcome)

    def _settle(self, worker: Worker, sent: Sent) -> WindowResult | None:
        outcome = self._crew.outcome(sent.ref)
        match outcome:
            case Finished(value=(seconds, answer)):
                worker.sent.remove(sent)
                # Not what passed on the clock: whoever takes our results may have kept us from looking for an hour.
                self._patience.learn(len(sent.window.tiles), max(seconds, worker.waited_s))
                worker.waited_s = 0.0
                self._attempts.pop(sent.window.number, None)
                result = window_result(sent.window, _whole(answer, sent), self._spec.dimensions)
                if self._on_progress is not None:
                    self._on_progress(len(result.tiles))
                return result
            case Failed() | Finished():
                raise embed_error(sent.window, outcome)
            case Died() | OutOfMemory() | TimedOut() | Lost():
                self._lose(worker, outcome)
                return None
            case _:
                assert_never(outcome)

    def _lose(self, worker: Worker, outcome: Outcome | Lost) -> None:
        """Go on without a worker, with fewer where memory is short; its windows go to others.

        Raises:
            EmbedError: A window, or the start of workers, was tried often enough.
        """
        # Actors work in order: the oldest window is the one that was under way.
        window = worker.sent.popleft().window if worker.sent else None
        number = None if window is None else window.number
        attempt = 1
        if window is not None:
            attempt = self._attempts[window.number] = self._attempts[window.number] + 1
            self._again.append(window)
        relieved, left_over = self._crew.relieve(worker, outcome)
        self._again.extend(left_over)
        if not relieved:
            self._blamed[number] = self._blamed.get(number, 0) + 1
            if self._blamed[number] >= ATTEMPTS + (len(self._crew.workers) if window is None else 0):
                raise embed_error(window, outcome)
        self._again.extend(self._crew.give_up(worker))
        if self._on_retry is not None:
            left = sum(each.ready for each in self._crew.workers)
            self._on_retry(Retry(window=window, attempt=attempt, why=told(outcome), workers=left))
        self._crew.hire()

    def _mind_the_time(self) -> None:
        """Do not wait for ever: for workers that do not answer, for a cluster without room."""
        for worker in list(self._crew.workers):
            passed = self._passed_s(worker) if worker in self._crew.workers else None
            if passed is not None:
                self._lose(worker, TimedOut(seconds=passed, log=""))
        self._crew.recount(window_name(self._again[0]) if self._again else "the work")

    def _passed_s(self, worker: Worker) -> float | None:
        """Return the limit in seconds that a worker has passed without an answer, None if it has not."""
        if worker.node is not None and not worker.ready:
            ref, limit = worker.loading, LOAD_LIMIT_S
        elif worker.sent:
            ref, limit = worker.sent[0].ref, self._patience.limit_s(len(worker.sent[0].window.tiles))
        else:
            return None
        late = worker.waited_s > limit and not self._ray.wait([ref], num_returns=1, timeout=0)[0]
        return limit if late else None


def _whole(value: Message, sent: Sent) -> Message:
    """Put tiles that were never sent among the bad ones, and number the others as in their window."""
    if not sent.unread:
        return value
    places = [number for number in range(len(sent.window.tiles)) if number not in sent.unread]
    bad = [[places[index], kind, message] for index, kind, message in value["bad"]]
    bad += [[number, kind, message] for number, (kind, message) in sent.unread.items()]
    return {**value, "bad": sorted(bad)}


def _map(payload: object) -> dict[str, object]:
    if not isinstance(payload, dict):
        raise TypeError(f"expected a map, found {type(payload).__name__}")
    return payload
