"""Run modules of this project in spawned child processes, so that a crash of a child becomes a value.

A compiler or a network can fail in ways that Python cannot catch: a segmentation fault, the kernel's
out-of-memory killer, a call that never returns. Each of them is an `Outcome` here.

Children are started with `subprocess`, never forked: a forked child would share the journal's memory map and
hold the build lock. They exchange frames (`pipeline.processes.framing`) over pipes and inherit no other file.
Start them from the main thread: the kernel's parent-death signal is sent when the *thread* that started the
child ends.
"""

import contextlib
import selectors
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, MutableSequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from pipeline.processes.framing import Message, Payload
from pipeline.processes.outcome import Failed, Finished, Outcome, OutOfMemory, TimedOut
from pipeline.processes.process import Child
from pipeline.processes.serve import FAILED, FINISHED, PROGRESS, READY
from store.backports import Self
from store.errors import Category

QUEUE_DEPTH: Final = 2
"""Tasks that a worker holds: the current one and the next one."""

START_LIMIT_S: Final = 120.0
"""Least time limit in seconds for the start of a worker, which is slow on a busy machine."""

_POLL_S: Final = 0.02

OnReport = Callable[[Hashable, Message], None]
"""Called with the id of a task, and a value that its worker reports."""


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
    grace_s: float = 0.0,
) -> Outcome:
    """Run one request in its own child and wait for the outcome.

    The child is killed at the time limit, when ``on_progress`` raises and on an interrupt.

    Args:
        module: Dotted name of a module that calls `pipeline.processes.serve.serve`.
        request: Plain data; the child receives an initial request of None first.
        timeout_s: Longest time for the request in seconds, once the child is ready; None for no limit.
        on_progress: Called with each value that the child reports.
        grace_s: When ``on_progress`` raises and on an interrupt, seconds between SIGTERM and the kill.
    """
    report = None if on_progress is None else lambda _, value: on_progress(value)
    with WorkerPool(module, 1, None, timeout_s=timeout_s, grace_s=grace_s) as pool:
        pool.submit(0, request)
        try:
            for _, outcome in pool.results(on_progress=report):
                return outcome
        except WorkerStartError as error:
            return error.outcome
    raise AssertionError("a pool with a task yields an outcome")


@dataclass(slots=True, eq=False)
class _PoolWorker:
    child: Child
    tasks: deque[int]
    since: float
    ready: bool = False


class WorkerPool:
    """Children that run the same module and share the submitted tasks.

    A worker that dies is not replaced: ``alive`` is the number of workers left, and another worker gets its
    second task, which it had not begun. When no worker is left, ``results`` ends and ``waiting`` has the
    tasks left.
    """

    def __init__(
        self,
        module: str,
        count: int,
        init_request: Payload,
        *,
        timeout_s: float | None = None,
        grace_s: float = 0.0,
        started: MutableSequence[Child] | None = None,
    ) -> None:
        """Start the workers.

        Args:
            module: Dotted name of a module that calls `pipeline.processes.serve.serve`.
            count: Number of workers, at least 1.
            init_request: The first request to each worker.
            timeout_s: Longest time for one task in seconds, None for no limit.
            grace_s: When the ``with`` block raises, seconds between SIGTERM and the kill.
            started: Children that run the module and wait for their first request: they are removed from the
                list and used first.
        """
        self._timeout_s = timeout_s
        self._farewell_s = grace_s
        self._selector = selectors.DefaultSelector()
        self._workers: list[_PoolWorker] = []
        self._names: dict[int, Hashable] = {}
        self._requests: dict[int, Payload] = {}
        self._queue: deque[int] = deque()
        self._last = 0
        try:
            for _ in range(count):
                self._start(started.pop() if started else Child(module), init_request)
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
                self._terminate_workers()
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
        """Add a task. The worker with the fewest tasks gets it, or it waits until one has room."""
        self._last += 1
        self._names[self._last] = task_id
        self._requests[self._last] = request
        self._queue.append(self._last)
        self._dispatch()

    def withdraw(self) -> None:
        """Remove the tasks that no worker has received yet; they get no outcome."""
        for number in self._queue:
            del self._names[number], self._requests[number]
        self._queue.clear()

    def results(self, *, on_progress: OnReport | None = None) -> Iterator[tuple[Hashable, Outcome]]:
        """Yield (task id, outcome) as tasks end, until none is waiting or no worker is left.

        More tasks may be submitted while this runs. `on_progress` gets what workers report of their tasks.

        Raises:
            WorkerStartError: A worker ended before it was ready.
        """
        while self._names and self._workers:
            for key, _ in self._selector.select(self._next_timeout()):
                worker: _PoolWorker = key.data
                if worker not in self._workers:
                    continue
                if key.fd == worker.child.stderr:
                    if not worker.child.drain():
                        self._unregister(key.fd)
                elif key.fd == worker.child.stdin:
                    worker.child.write()
                else:
                    yield from self._receive(worker, on_progress)
            yield from self._time_out()
            self._watch_writers()

    def close(self) -> None:
        """Kill every worker and wait for its end."""
        for worker in self._workers:
            worker.child.kill()
        self._workers.clear()
        self._selector.close()

    def _terminate_workers(self) -> None:
        """Ask every worker to end, and read answers and log until they have, or the grace period is over."""
        until = time.monotonic() + self._farewell_s
        for worker in self._workers:
            worker.child.terminate()
        for worker in self._workers:
            while not worker.child.exited and time.monotonic() < until:
                worker.child.read()
                worker.child.drain()
                time.sleep(_POLL_S)

    def _start(self, child: Child, init_request: Payload) -> None:
        worker = _PoolWorker(child=child, tasks=deque(), since=time.monotonic())
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
        """Watch for room in exactly those pipes that have more to write."""
        watched = self._selector.get_map()
        for worker in self._workers:
            if worker.child.writing and worker.child.stdin not in watched:
                self._selector.register(worker.child.stdin, selectors.EVENT_WRITE, worker)
            elif not worker.child.writing and worker.child.stdin in watched:
                self._selector.unregister(worker.child.stdin)

    def _receive(
        self, worker: _PoolWorker, on_progress: OnReport | None
    ) -> Iterator[tuple[Hashable, Outcome]]:
        for kind, number, value in worker.child.read():
            if kind == READY:
                worker.ready = True
                worker.since = time.monotonic()
            elif kind == PROGRESS:
                if on_progress is not None:
                    on_progress(self._names[number], value)
            elif number is None:
                self._remove_worker(worker)
                raise WorkerStartError(outcome_of_error(value, worker.child.log))
            else:
                worker.tasks.remove(number)
                worker.since = time.monotonic()
                yield self._complete(number, _outcome_of_answer(kind, value, worker.child))
                self._dispatch()
        if worker.child.ended:
            yield from self._handle_exit(worker, worker.child.exit_outcome())

    def _handle_exit(self, worker: _PoolWorker, outcome: Outcome) -> Iterator[tuple[Hashable, Outcome]]:
        """Remove a worker that ended: its first task gets the outcome, the others are queued again."""
        self._remove_worker(worker)
        if not worker.ready:
            self._queue.extendleft(reversed(worker.tasks))
            raise WorkerStartError(outcome)
        failed_task = worker.tasks.popleft() if worker.tasks else None
        self._queue.extendleft(reversed(worker.tasks))
        self._dispatch()
        if failed_task is not None:
            yield self._complete(failed_task, outcome)

    def _time_out(self) -> Iterator[tuple[Hashable, Outcome]]:
        for worker in list(self._workers):
            limit = self._limit(worker)
            if limit is not None and worker.tasks and time.monotonic() - worker.since >= limit:
                worker.child.kill()
                yield from self._handle_exit(worker, TimedOut(seconds=limit, log=worker.child.log))

    def _next_timeout(self) -> float | None:
        """Return the seconds until the next task reaches its time limit."""
        ends = [
            worker.since + limit
            for worker in self._workers
            if worker.tasks and (limit := self._limit(worker)) is not None
        ]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _limit(self, worker: _PoolWorker) -> float | None:
        """Return the time limit of a worker's current task or start, in seconds."""
        if self._timeout_s is None or worker.ready:
            return self._timeout_s
        return max(self._timeout_s, START_LIMIT_S)

    def _complete(self, number: int, outcome: Outcome) -> tuple[Hashable, Outcome]:
        del self._requests[number]
        return self._names.pop(number), outcome

    def _remove_worker(self, worker: _PoolWorker) -> None:
        for descriptor in (worker.child.stdin, worker.child.stdout, worker.child.stderr):
            self._unregister(descriptor)
        worker.child.kill()
        self._workers.remove(worker)

    def _unregister(self, descriptor: int) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(descriptor)


def _outcome_of_answer(kind: str, value: Message, child: Child) -> Outcome:
    child.drain()
    if kind == FINISHED:
        return Finished(value=value, log=child.log)
    if kind == FAILED:
        return outcome_of_error(value, child.log)
    return Failed(kind="FrameError", message=f"unknown message {kind!r}", traceback="", log=child.log)


def outcome_of_error(value: Message, log: str) -> Outcome:
    """Return the outcome for an error that a child described: memory ran out, or it failed."""
    kind, message = value["kind"], value["message"]
    # An error of this package has its kind; a library's is recognised by its text.
    if not value["fields"] and (
        kind == "MemoryError" or "bad_alloc" in message or "Failed to allocate memory" in message
    ):
        return OutOfMemory(message=message or kind, log=log)
    return Failed(
        kind=kind, message=message, traceback=value["traceback"], log=log, fields=tuple(value["fields"])
    )
