"""Runs modules of this project in spawned child processes, so that a crash is an outcome and not an end.

A compiler or a network can fail in ways that Python cannot catch: a segmentation fault, the kernel's out-of-memory
killer, a call that never returns. Here every such end becomes a value, an `Outcome`.

Children are started with `subprocess`, never forked: a forked child would share the journal's memory map and keep the
build lock alive. They talk in frames (`pipeline.frames`) over pipes; they inherit no other file. Start them from the
main thread: the kernel's parent-death signal follows the *thread* that started the child.
"""

import contextlib
import importlib.util
import os
import selectors
import signal
import site
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pipeline.child import FAILED, FINISHED, PROGRESS, READY
from pipeline.frames import FrameError, FrameReader, Message, Payload, encode

LOG_LIMIT: Final = 64 * 1024
"""Bytes of a child's standard error that are kept: the last ones."""

QUEUE_DEPTH: Final = 2
"""Tasks a worker holds: one that it works on and one that is ready when it is done."""

_FAREWELL_S: Final = 5.0
"""Seconds between the end of a child's answers and its own."""

_READ_SIZE: Final = 1 << 20
_ONE_THREAD: Final = {
    # Throughput comes from processes. A library that starts a thread per core in each of them only fights itself.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    # A segmentation fault then leaves the stack of the Python frames in the log.
    "PYTHONFAULTHANDLER": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The child answered.

    Attributes:
        value: Its answer.
        log: What it wrote to standard error until then.
    """

    value: Message
    log: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The child raised an exception, or ended in good order without an answer.

    Attributes:
        kind: Name of the exception's class.
        message: Its text.
        traceback: Where it was raised, in the child.
        log: What the child wrote to standard error.
    """

    kind: str
    message: str
    traceback: str
    log: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """A signal ended the child.

    Attributes:
        signal: The signal's name, such as "SIGSEGV".
        log: What the child wrote to standard error.
    """

    signal: str
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """Memory ran out: the kernel killed the child, or an allocation in it failed.

    Attributes:
        message: How that showed.
        log: What the child wrote to standard error.
    """

    message: str
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOut:
    """The child was killed because it took too long.

    Attributes:
        seconds: The limit that it passed.
        log: What the child wrote to standard error.
    """

    seconds: float
    log: str


Outcome = Finished | Failed | Died | OutOfMemory | TimedOut


class WorkerStartError(Exception):
    """A worker of a pool ended before it was ready; `outcome` says how."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"a worker did not start: {outcome}")
        self.outcome = outcome


class _Child:
    """One process with its three pipes. All input and output is non-blocking; somebody else waits."""

    def __init__(self, module: str) -> None:
        self._oom_kills = _oom_kills()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": _python_path(module)},
            bufsize=0,
            close_fds=True,
            # Its own session: Ctrl-C reaches the parent alone, which then decides.
            start_new_session=True,
        )
        pipes = (self.process.stdin, self.process.stdout, self.process.stderr)
        self.stdin, self.stdout, self.stderr = (pipe.fileno() for pipe in pipes if pipe is not None)
        for descriptor in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(descriptor, False)
        self._outgoing = bytearray()
        self._incoming = FrameReader()
        self._log = bytearray()
        self._closed = False
        self.ended = False
        self.broken: FrameError | None = None

    def send(self, message: Payload) -> None:
        self._outgoing += encode(message)
        self.write()

    @property
    def writing(self) -> bool:
        return bool(self._outgoing) and not self.ended

    def write(self) -> None:
        """Write what the pipe takes now."""
        while self._outgoing:
            try:
                written = os.write(self.stdin, memoryview(self._outgoing)[:_READ_SIZE])
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._outgoing.clear()
                return
            del self._outgoing[:written]

    def read(self) -> list[Message]:
        """Return the messages that have arrived; set ``ended`` at the end of the stream."""
        messages: list[Message] = []
        try:
            while data := os.read(self.stdout, _READ_SIZE):
                messages.extend(self._incoming.feed(data))
        except BlockingIOError:
            return messages
        except FrameError as error:
            self.broken = error
        self.ended = True
        return messages

    def drain(self) -> bool:
        """Take in the log; return whether more may come."""
        try:
            while data := os.read(self.stderr, _READ_SIZE):
                self._log += data
                del self._log[:-LOG_LIMIT]
        except BlockingIOError:
            return True
        return False

    @property
    def log(self) -> str:
        return self._log.decode("utf-8", "replace")

    def kill(self) -> None:
        """Kill the child and what it may have started. Harmless when it is gone already."""
        if self._closed:
            return
        self._closed = True
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.drain()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def obituary(self) -> Outcome:
        """Say how a child ended whose answers have ended. Reaps it."""
        try:
            status = self.process.wait(timeout=_FAREWELL_S)
        except subprocess.TimeoutExpired:  # it closed its standard output and lives on
            status = 0
        self.drain()
        if self.broken is not None:
            return Failed(kind="FrameError", message=str(self.broken), traceback="", log=self.log)
        if status >= 0:
            return Failed(
                kind="ChildExit",
                message=f"expected an answer, found that the child ended with status {status}",
                traceback="",
                log=self.log,
            )
        name = signal.Signals(-status).name
        if name == "SIGKILL" and (self._oom_kills is None or _oom_kills() != self._oom_kills):
            return OutOfMemory(message="the kernel killed the process (SIGKILL)", log=self.log)
        return Died(signal=name, log=self.log)


def run_once(
    module: str,
    request: Payload,
    *,
    timeout_s: float | None = None,
    on_progress: Callable[[Message], None] | None = None,
) -> Outcome:
    """Run one request in a child of its own and wait for its end.

    The child is killed when the time is up, when ``on_progress`` raises and on an interrupt.

    Args:
        module: Dotted name of a module that calls `pipeline.child.serve`.
        request: Plain data; the child receives an initial request of None first.
        timeout_s: Longest time from start to answer in seconds, None for no limit.
        on_progress: Called with each value that the child reports.
    """
    with WorkerPool(module, 1, None, timeout_s=timeout_s) as pool:
        pool.submit(0, request)
        try:
            for _, outcome in pool.results(on_progress=on_progress):
                return outcome
        except WorkerStartError as error:
            return error.outcome
    raise AssertionError("a pool with a task yields an outcome")


@dataclass(slots=True, eq=False)
class _Worker:
    child: _Child
    tasks: deque[int]
    since: float
    ready: bool = False


class WorkerPool:
    """Some children that run the same module and share the tasks given to them.

    A worker that dies is not replaced: ``alive`` tells how many are left, and its second task, which it had not
    begun, goes to another one. When nobody is left, ``results`` ends and ``waiting`` tells what was not done.
    """

    def __init__(
        self, module: str, count: int, init_request: Payload, *, timeout_s: float | None = None
    ) -> None:
        """Start the workers.

        Args:
            module: Dotted name of a module that calls `pipeline.child.serve`.
            count: Number of workers, at least 1.
            init_request: Given to each worker first.
            timeout_s: Longest time for one task in seconds, None for no limit.
        """
        self._timeout_s = timeout_s
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

    def _start(self, module: str, init_request: Payload) -> None:
        worker = _Worker(child=_Child(module), tasks=deque(), since=time.monotonic())
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
            elif kind == PROGRESS:
                if on_progress is not None:
                    on_progress(value)
            elif number is None:
                self._bury(worker)
                raise WorkerStartError(_failure(value, worker.child.log))
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
        if self._timeout_s is None:
            return
        limit = self._timeout_s
        for worker in list(self._workers):
            if worker.tasks and time.monotonic() - worker.since >= limit:
                worker.ready = True
                worker.child.kill()
                yield from self._mourn(worker, TimedOut(seconds=limit, log=worker.child.log))

    def _patience(self) -> float | None:
        """Seconds until the next task may have taken too long."""
        busy = [worker.since for worker in self._workers if worker.tasks]
        if self._timeout_s is None or not busy:
            return None
        return max(0.0, min(busy) + self._timeout_s - time.monotonic())

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


def _verdict(kind: str, value: Message, child: _Child) -> Outcome:
    child.drain()
    if kind == FINISHED:
        return Finished(value=value, log=child.log)
    if kind == FAILED:
        return _failure(value, child.log)
    return Failed(kind="FrameError", message=f"unknown message {kind!r}", traceback="", log=child.log)


def _failure(value: Message, log: str) -> Outcome:
    kind, message = value["kind"], value["message"]
    if kind == "MemoryError" or "bad_alloc" in message or "Failed to allocate memory" in message:
        return OutOfMemory(message=message or kind, log=log)
    return Failed(kind=kind, message=message, traceback=value["traceback"], log=log)


def _oom_kills() -> int | None:
    """Return how many processes the kernel has killed for want of memory since it started, None if it keeps that secret."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def _python_path(module: str) -> str:
    """Return a PYTHONPATH under which a child finds the same packages as this process, wherever that was started.

    Without installation the packages are found through the working directory or through what a test runner put on
    the path; ``-P`` takes the former away from the child and the latter is not inherited.
    """
    roots = [_root(module), _root(__name__)]
    installed = {*site.getsitepackages(), site.getusersitepackages()}
    paths = [root for root in dict.fromkeys(roots) if root not in installed]
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*paths, inherited] if inherited else paths)


def _root(module: str) -> str:
    """Return the folder from which the top-level package of ``module`` is imported."""
    top = module.partition(".")[0]
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise ModuleNotFoundError(f"expected a module {top!r} to run in a child, found none", name=top)
    if spec.submodule_search_locations:
        return str(Path(next(iter(spec.submodule_search_locations))).resolve().parent)
    return str(Path(spec.origin or "").resolve().parent)
