"""Embed on a Ray cluster: windows go to actors that hold the engine; only this process writes to the journal.

Tiles travel as bytes: this machine reads them, and a node needs no access to the source. The network carries
about what the tiles weigh. A node hashes the bytes again before it decodes them.

When an actor is lost, the window that it worked on is tried elsewhere; windows that it had not begun are
handed out as if they had never been sent. An actor that was lost with its node is asked for again at once,
and joins when the cluster has room. An actor that ended on a living node has most likely run out of memory:
that node continues with half of its actors, as local workers do. An actor that takes much longer than others
is ended, and so is one whose answer cannot be fetched. An ended actor gets no more windows, and its answers
are dropped.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Final

from pipeline.embed.batcher import EmbedCallbacks, WindowQueue, describe_outcome, embed_error
from pipeline.embed.cells import Window
from pipeline.embed.ray.actor import software
from pipeline.embed.ray.actor_pool import LOAD_LIMIT_S, ActorPool, ActorWorker, SentWindow
from pipeline.embed.ray.cluster import LOCAL, cluster_error, connected, require_ray
from pipeline.embed.ray.scaling import AdaptiveTimeout
from pipeline.embed.worker_messages import EngineSpec, WindowResult, worker_request, worker_setup
from pipeline.errors import EmbedError, ErrorKind, TileError
from pipeline.processes.framing import Payload, encode
from pipeline.processes.outcome import Died, Failed, Finished, Lost, Outcome, OutOfMemory, TimedOut
from pipeline.processes.pool import QUEUE_DEPTH
from pipeline.tiles.sources.read_tile import read_tile
from store.backports import Unpack, assert_never
from store.base.preprocessing import Preprocessing
from store.runtime.backends.base import Untyped

ATTEMPTS: Final = 3
"""How often a window may end a worker, where fewer workers would not help, before the build fails."""

_WAIT_S: Final = 1.0
"""Longest wait in seconds between two checks for interrupts and timeouts."""


class RayDescriptorBatcher:
    """Embeds with actors on a Ray cluster."""

    def __init__(self, *, address: str = LOCAL, workers: int | None = None) -> None:
        """Choose the cluster; nothing is sent to it yet.

        Args:
            address: `HOST:PORT` of a cluster, "auto" for the one that Ray finds, or "local". A process that
                is already connected to a cluster keeps that one.
            workers: Number of actors, at least 1; by default one for each processor of the cluster, or for
                each GPU where the engine needs one.

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
        **callbacks: Unpack[EmbedCallbacks],
    ) -> Generator[WindowResult, None, None]:
        """Embed windows; see `DescriptorBatcher.embed`.

        Raises:
            EmbedError: As for the port; or the cluster cannot be reached, or it has no room for a worker or
                in its object store.
            DiskFullError: The disk to which this machine's node spills objects is full.
        """
        queue = WindowQueue(windows, engine, callbacks)
        if queue.peek() is None:
            return
        setup = encode({**worker_setup(engine, preprocessing), "software": dict(software())})
        with connected(self._address, self._workers) as ray:
            try:
                actors = ActorPool(ray, engine, setup, self._workers)
                try:
                    yield from _RayRun(ray, queue, actors).results()
                finally:
                    actors.close()
            except ray.exceptions.RayError as error:
                raise cluster_error(ray, error) from error


_HandleAnswer = Callable[[], WindowResult | None]


class _RayRun:
    """One call of `embed`."""

    def __init__(self, ray: Untyped, queue: WindowQueue, actors: ActorPool) -> None:
        self._ray = ray
        self._queue = queue
        self._actors = actors
        self._timeout = AdaptiveTimeout()
        self._failures: Counter[int | None] = Counter()

    def results(self) -> Generator[WindowResult, None, None]:
        """Yield results until every window has one."""
        self._actors.scale()
        while True:
            self._send_windows()
            if not any(worker.sent for worker in self._actors.workers) and self._queue.peek() is None:
                return
            for worker, handle in self._ready_answers():
                # The answer of a worker that was ended in this very round no longer counts.
                if worker in self._actors.workers and (result := handle()) is not None:
                    yield result
            self._end_late_workers()
            self._actors.check_room(self._queue)

    def _send_windows(self) -> None:
        """Send windows to workers that are ready and have room, the least busy first."""
        while free := [each for each in self._actors.workers if each.ready and len(each.sent) < QUEUE_DEPTH]:
            window = self._queue.take()
            if window is None:
                return
            self._send(min(free, key=lambda each: len(each.sent)), window)

    def _send(self, worker: ActorWorker, window: Window) -> None:
        content: list[Payload] = []
        for tile in window.tiles:
            try:
                content.append(read_tile(tile.locator))
            except TileError as error:
                content.append({"kind": str(error.kind), "message": error.message})
        ref = worker.actor.embed.remote(encode(worker_request(window, content)))
        if not worker.sent:
            worker.waited_s = 0.0
        worker.sent.append(SentWindow(ref=ref, window=window))

    def _ready_answers(self) -> list[tuple[ActorWorker, _HandleAnswer]]:
        """Wait for answers; return the handlers of those that have arrived, each worker's oldest first."""
        awaited: dict[Untyped, tuple[ActorWorker, _HandleAnswer]] = {}
        for worker in self._actors.workers:
            if worker.node is None:
                awaited[worker.placing] = (worker, partial(self._handle_placed, worker))
            elif not worker.ready:
                awaited[worker.loading] = (worker, partial(self._handle_loaded, worker))
            for sent in worker.sent:
                awaited[sent.ref] = (worker, partial(self._handle_embedded, worker, sent))
        refs, began = list(awaited), time.monotonic()
        done = set()
        if self._ray.wait(refs, num_returns=1, timeout=_WAIT_S)[0]:
            done = set(self._ray.wait(refs, num_returns=len(refs), timeout=0)[0])
        for worker in self._actors.workers:
            # Bounded: while this machine slept or this process was stopped, it did not watch the workers.
            worker.waited_s += min(time.monotonic() - began, 2 * _WAIT_S)
        return [handler for ref, handler in awaited.items() if ref in done]

    def _handle_placed(self, worker: ActorWorker) -> None:
        outcome = self._actors.outcome(worker.placing)
        if isinstance(outcome, Finished):
            worker.node = outcome.value
            worker.waited_s = 0.0
        else:
            self._replace(worker, outcome)

    def _handle_loaded(self, worker: ActorWorker) -> None:
        outcome = self._actors.outcome(worker.loading)
        match outcome:
            case Finished():
                worker.ready = True
                self._failures.pop(None, None)
            case Failed(fields=(_, str(hint), *_)):
                raise EmbedError(
                    f"expected every node to load the engine, found: {describe_outcome(outcome)}",
                    hint=hint,
                    kind=ErrorKind.EMBED_FAILED,
                )
            case Failed():
                raise embed_error(None, outcome)
            case Died() | OutOfMemory() | TimedOut() | Lost():
                self._replace(worker, outcome)
            case _:
                assert_never(outcome)

    def _handle_embedded(self, worker: ActorWorker, sent: SentWindow) -> WindowResult | None:
        outcome = self._actors.outcome(sent.ref)
        match outcome:
            case Finished(value=(seconds, answer)):
                worker.sent.remove(sent)
                # Not the time on the clock: the caller may have kept this loop from running for an hour.
                self._timeout.record(len(sent.window.units), max(seconds, worker.waited_s))
                worker.waited_s = 0.0
                return self._queue.finish(sent.window, answer)
            case Failed() | Finished():
                raise embed_error(sent.window, outcome)
            case Died() | OutOfMemory() | TimedOut() | Lost():
                self._replace(worker, outcome)
                return None
            case _:
                assert_never(outcome)

    def _replace(self, worker: ActorWorker, outcome: Outcome | Lost) -> None:
        """Continue without a worker that failed, with fewer if memory ran out; others get its windows.

        Raises:
            EmbedError: A window, or the start of workers, failed too often.
        """
        # Actors work in order: the oldest window is the one that was in progress.
        window = worker.sent.popleft().window if worker.sent else None
        number = None if window is None else window.number
        fewer, unfinished = self._actors.reduce_after(worker, outcome)
        if not fewer:
            self._failures[number] += 1
            if self._failures[number] >= ATTEMPTS + (len(self._actors.workers) if window is None else 0):
                raise embed_error(window, outcome)
        unfinished += self._actors.end(worker)
        self._queue.retry(window, outcome, workers=sum(each.ready for each in self._actors.workers))
        self._queue.put_last(unfinished)
        self._actors.scale()

    def _end_late_workers(self) -> None:
        for worker in list(self._actors.workers):
            exceeded = self._exceeded_limit_s(worker) if worker in self._actors.workers else None
            if exceeded is not None:
                self._replace(worker, TimedOut(seconds=exceeded, log=""))

    def _exceeded_limit_s(self, worker: ActorWorker) -> float | None:
        """Return the time limit that a worker has exceeded, seconds; None if it has not."""
        if worker.node is not None and not worker.ready:
            ref, limit = worker.loading, LOAD_LIMIT_S
        elif worker.sent:
            ref, limit = worker.sent[0].ref, self._timeout.limit_s(len(worker.sent[0].window.units))
        else:
            return None
        late = worker.waited_s > limit and not self._ray.wait([ref], num_returns=1, timeout=0)[0]
        return limit if late else None
