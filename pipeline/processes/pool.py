"""Runs modules of this project in spawned child processes, so that a crash is an outcome and not an end.

A compiler or a network can fail in ways that Python cannot catch: a segmentation fault, the kernel's out-of-memory
killer, a call that never returns. Here every such end becomes a value, an `Outcome`.

Children are started with `subprocess`, never forked: a forked child would share the journal's memory map and keep the
build lock alive. They talk in frames (`pipeline.processes.framing`) over pipes; they inherit no other file. Start them from the
main thread: the kernel's parent-death signal follows the *thread* that started the child.
"""

import contextlib
import selectors
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from pipeline.processes.framing import Message, Payload
from pipeline.processes.outcome import Failed, Finished, Outcome, OutOfMemory, TimedOut
from pipeline.processes.process import Child
from pipeline.processes.serve import FAILED, FINISHED, PROGRESS, READY
from store.errors import Category

QUEUE_DEPTH: Final = 2
"""Tasks a worker holds: one that it works on and one that is ready when it is done."""

START_LIMIT_S: Final = 120.0
"""Least time in seconds that a worker has to get ready, where tasks have a limit at all: a busy machine starts slowly."""

_GLANCE_S: Final = 0.02


class WorkerStartError(Exception):
    """A worker of a pool ended before it was ready; `outcome` says how."""

    category = Category.BUILD_FAILED

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"a worker did not start: {outcome}")
        self.outcome = outcome


def run_once(
    module: str,
    request: Payload,
    *,
    timeout_s: float | None = None,
    on_progress: Callable[[Message], None] | None = None,
    farewell_s: float = 0.0,
) -> Outcome:
    """Run one request in a child of its own and wait for its end.

    The child is killed when the time is up, when ``on_progress`` raises and on an interrupt.

    Args:
        module: Dotted name of a module that calls `pipeline.processes.serve.serve`.
        request: Plain data; the child receives an initial request of None first.
        timeout_s: Longest time for the request in seconds, once the child is ready; None for no limit.
        on_progress: Called with each value that the child reports.
        farewell_s: When ``on_progress`` raises and on an interrupt, the child is asked to end first (SIGTERM) and has
            so many seconds for it.
    """
    with WorkerPool(module, 1, None, timeout_s=timeout_s, farewell_s=farewell_s) as pool:
        pool.submit(0, request)
        try:
            for _, outcome in pool.results(on_progress=on_progress):
                return outcome
        except WorkerStartError as error:
            return error.outcome
    raise AssertionError("a pool with a task yields an outcome")


@dataclass(slots=True, eq=False)
class _Worker:
    child: Child
    tasks: deque[int]
    since: float
    ready: bool = False


class WorkerPool:
    """Some children that run the same module and share the tasks given to them.

    A worker that dies is not replaced: ``alive`` tells how many are left, and its second task, which it had not
    begun, goes to another one. When nobody is left, ``results`` ends and ``waiting`` tells what was not done.
    """

    def __init__(
        self,
        module: str,
        count: int,
        init_request: Payload,
        *,
        timeout_s: float | None = None,
        farewell_s: float = 0.0,
    ) -> None:
        """Start the workers.

        Args:
            module: Dotted name of a module that calls `pipeline.processes.serve.serve`.
            count: Number of workers, at least 1.
            init_request: Given to each worker first.
            timeout_s: Longest time for one task in seconds, None for no limit.
            farewell_s: Seconds in which workers may end by themselves when this is left with an exception.
        """
        self._timeout_s = timeout_s
        self._farewell_s = farewell_s
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._names: dict[int, Hashable] = {}
        self._requests: dict[int, Payload] = {}
        self._queue: deque[int] = deque()
        self._last = 0
        try:
            for _ in range(count):
                self._start(module, init_request)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None and self._farewell_s:
                self._dismiss()
        finally:
            self.close()

    @property
    def alive(self) -> int:
        """Workers that are left."""
        return len(self._workers)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that are left."""
        return tuple(worker.child.process.pid for worker in self._workers)

    @property
    def waiting(self) -> tuple[Hashable, ...]:
        """Tasks without an outcome, in the order in which they were submitted."""
        return tuple(self._names[number] for number in sorted(self._names))

    def submit(self, task_id: Hashable, request: Payload) -> None:
        """Hand in a task. It is sent to the worker with the fewest, or waits until one has room."""
        self._last += 1
        self._names[self._last] = task_id
        self._requests[self._last] = request
        self._queue.append(self._last)
        self._dispatch()

    def withdraw(self) -> None:
        """Take back the tasks that were not sent to a worker yet; they get no outcome."""
        for number in self._queue:
            del self._names[number], self._requests[number]
        self._queue.clear()

    def results(
        self, *, on_progress: Callable[[Message], None] | None = None
    ) -> Iterator[tuple[Hashable, Outcome]]:
        """Yield (task id, outcome) as tasks end, until none is waiting or no worker is left.

        More tasks may be submitted while this runs.

        Raises:
            WorkerStartError: A worker ended before it was ready.
        """
        while self._names and self._workers:
            for key, _ in self._selector.select(self._patience()):
                worker: _Worker = key.data
                if worker not in self._workers:
                    continue
                if key.fd == worker.child.stderr:
                    if not worker.child.drain():
                        self._forget(key.fd)
                elif key.fd == worker.child.stdin:
                    worker.child.write()
                else:
                    yield from self._receive(worker, on_progress)
            yield from self._expire()
            self._watch_writers()

    def close(self) -> None:
        """Kill every worker and wait for its end."""
        for worker in self._workers:
            worker.child.kill()
        self._workers.clear()
        self._selector.close()

    def _dismiss(self) -> None:
        """Ask every worker to end and give them time, during which what they say is still taken in."""
        until = time.monotonic() + self._farewell_s
        for worker in self._workers:
            worker.child.dismiss()
        for worker in self._workers:
            while not worker.child.gone and time.monotonic() < until:
                worker.child.read()
                worker.child.drain()
                time.sleep(_GLANCE_S)

    def _start(self, module: str, init_request: Payload) -> None:
        worker = _Worker(child=Child(module), tasks=deque(), since=time.monotonic())
        self._workers.append(worker)
        for descriptor in (worker.child.stdout, worker.child.stderr):
            self._selector.register(descriptor, selectors.EVENT_READ, worker)
        worker.child.send(init_request)

    def _dispatch(self) -> None:
        while self._queue and self._workers:
            worker = min(self._workers, key=lambda each: len(each.tasks))
            if len(worker.tasks) >= QUEUE_DEPTH:
                break
            number = self._queue.popleft()
            if not worker.tasks:
                worker.since = time.monotonic()
            worker.tasks.append(number)
            worker.child.send([number, self._requests[number]])
        self._watch_writers()

    def _watch_writers(self) -> None:
        """Ask for room in exactly those pipes that have something left to take."""
        watched = self._selector.get_map()
        for worker in self._workers:
            if worker.child.writing and worker.child.stdin not in watched:
                self._selector.register(worker.child.stdin, selectors.EVENT_WRITE, worker)
            elif not worker.child.writing and worker.child.stdin in watched:
                self._selector.unregister(worker.child.stdin)

    def _receive(
        self, worker: _Worker, on_progress: Callable[[Message], None] | None
    ) -> Iterator[tuple[Hashable, Outcome]]:
        for kind, number, value in worker.child.read():
            if kind == READY:
                worker.ready = True
                worker.since = time.monotonic()
            elif kind == PROGRESS:
                if on_progress is not None:
                    on_progress(value)
            elif number is None:
                self._bury(worker)
                raise WorkerStartError(failure(value, worker.child.log))
            else:
                worker.tasks.remove(number)
                worker.since = time.monotonic()
                yield self._settle(number, _verdict(kind, value, worker.child))
                self._dispatch()
        if worker.child.ended:
            yield from self._mourn(worker, worker.child.obituary())

    def _mourn(self, worker: _Worker, outcome: Outcome) -> Iterator[tuple[Hashable, Outcome]]:
        """Take a worker out whose end is known: its first task shares its fate, the others had not begun."""
        self._bury(worker)
        if not worker.ready:
            self._queue.extendleft(reversed(worker.tasks))
            raise WorkerStartError(outcome)
        culprit = worker.tasks.popleft() if worker.tasks else None
        self._queue.extendleft(reversed(worker.tasks))
        self._dispatch()
        if culprit is not None:
            yield self._settle(culprit, outcome)

    def _expire(self) -> Iterator[tuple[Hashable, Outcome]]:
        for worker in list(self._workers):
            limit = self._limit(worker)
            if limit is not None and worker.tasks and time.monotonic() - worker.since >= limit:
                worker.child.kill()
                yield from self._mourn(worker, TimedOut(seconds=limit, log=worker.child.log))

    def _patience(self) -> float | None:
        """Seconds until the next task may have taken too long."""
        ends = [
            worker.since + limit
            for worker in self._workers
            if worker.tasks and (limit := self._limit(worker)) is not None
        ]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _limit(self, worker: _Worker) -> float | None:
        """Return how long a worker may take for what it does now, in seconds."""
        if self._timeout_s is None or worker.ready:
            return self._timeout_s
        return max(self._timeout_s, START_LIMIT_S)

    def _settle(self, number: int, outcome: Outcome) -> tuple[Hashable, Outcome]:
        del self._requests[number]
        return self._names.pop(number), outcome

    def _bury(self, worker: _Worker) -> None:
        for descriptor in (worker.child.stdin, worker.child.stdout, worker.child.stderr):
            self._forget(descriptor)
        worker.child.kill()
        self._workers.remove(worker)

    def _forget(self, descriptor: int) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(descriptor)


def _verdict(kind: str, value: Message, child: Child) -> Outcome:
    child.drain()
    if kind == FINISHED:
        return Finished(value=value, log=child.log)
    if kind == FAILED:
        return failure(value, child.log)
    return Failed(kind="FrameError", message=f"unknown message {kind!r}", traceback="", log=child.log)


def failure(value: Message, log: str) -> Outcome:
    """Return what an error that a child described means: memory ran out, or it failed."""
    kind, message = value["kind"], value["message"]
    # An error of this package says itself what it is; of a library's only the words tell.
    if not value["fields"] and (
        kind == "MemoryError" or "bad_alloc" in message or "Failed to allocate memory" in message
    ):
        return OutOfMemory(message=message or kind, log=log)
    return Failed(
        kind=kind, message=message, traceback=value["traceback"], log=log, fields=tuple(value["fields"])
    )
