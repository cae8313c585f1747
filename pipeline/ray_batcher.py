"""Embeds on a Ray cluster: actors hold the engine, windows go out, descriptors come back; the journal stays here.

Tiles travel as bytes: this machine reads them and a node needs no access to the source. It costs the network about
what the tiles weigh, and whatever arrives is hashed again before it is decoded.

An actor that is lost, alone or with its node, costs the window it worked on, which is tried elsewhere; windows that
waited behind it are given away as if they had never been sent. An actor that is given up is never asked again, and
its answers are dropped with the references to them: one that arrives late is not looked at. A replacement is asked
for at once and joins when the cluster has room for it.
"""

import contextlib
import importlib
import importlib.util
import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, assert_never

from pipeline.cells import Window
from pipeline.child import FINISHED
from pipeline.children import QUEUE_DEPTH, START_LIMIT_S, failure
from pipeline.descriptors import (
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
from pipeline.errors import EmbedError, ErrorKind, RequestError, TileError
from pipeline.frames import Message, encode
from pipeline.outcomes import Died, Failed, Finished, Outcome, OutOfMemory, TimedOut
from pipeline.ray_actor import TileEmbedder, decoded, software
from pipeline.tiles.reading import read_tile
from store.preprocessing import Preprocessing

LOCAL: Final = "local"
"""The address that means: start a cluster on this machine for this build alone."""

AUTO: Final = "auto"
"""The address that means: the cluster that Ray finds by its own settings."""

ATTEMPTS: Final = 3
"""How often a window may end its worker before it is given up."""

_GLANCE_S: Final = 1.0
"""Longest wait in seconds before interrupts and the time are looked at."""

_FETCH_LIMIT_S: Final = 60.0
"""Longest time in seconds in which an answer that is ready may arrive."""

_PROBE_LIMIT_S: Final = 10.0
"""Longest time in seconds in which a cluster must take a connection."""

_WHY_LIMIT: Final = 300

_GPU_BACKENDS: Final = frozenset({"tensorrt", "tensorrt-rtx"})


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
        if importlib.util.find_spec("ray") is None:
            raise RequestError(
                "executor: expected the package ray for 'ray', found none", "pip install 'c10[ray]'"
            )
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
            EmbedError: Besides what the port names, the cluster cannot be reached or has no room for a worker.
        """
        feed = iter(windows)
        first = next(feed, None)
        if first is None:
            return
        with connected(self._address, self._workers) as ray:
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


@contextlib.contextmanager
def connected(address: str, workers: int | None) -> Iterator[Any]:
    """Connect this process to a cluster for as long as the context lasts; gives the `ray` module.

    Raises:
        EmbedError: There is no cluster at the address, or it cannot be used.
    """
    ray: Any = importlib.import_module("ray")
    if ray.is_initialized():
        yield ray
        return
    if address not in {LOCAL, AUTO}:
        _probe(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        # A cluster of one machine has nothing to say to others: neither to a network nor to Ray's makers.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options |= {"num_cpus": workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        with _own_signals():
            ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise _unreachable(address, error) from error
    try:
        yield ray
    finally:
        with _own_signals():
            ray.shutdown()


def _probe(address: str) -> None:
    """Knock at the cluster's door: Ray itself would try for minutes before it says that nobody is there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_LIMIT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> EmbedError:
    return EmbedError(
        f"expected a Ray cluster at {address!r} (HOST:PORT, auto or local), found: {_short(error)}",
        "start one with `ray start --head`, or check the address; Ray and Python must have the same versions there",
        ErrorKind.BACKEND_UNAVAILABLE,
    )


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Put the handler of SIGTERM back: Ray sets one of its own, past which a build could not record its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sent:
    """A window on its way: the reference to its answer, and the tiles that could not even be read."""

    ref: Any
    window: Window
    unread: dict[int, tuple[str, str]]


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker:
    actor: Any
    loading: Any
    ready: bool = False
    sent: deque[_Sent] = field(default_factory=deque)


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
        self._engine = ray.put(Path(engine.path).read_bytes())
        self._setup = setup
        self._resource = "GPU" if engine.backend in _GPU_BACKENDS else "CPU"
        self._count = workers or max(1, int(ray.cluster_resources().get(self._resource, 0)))
        self._workers: list[_Worker] = []
        self._attempts: dict[int, int] = {}
        self._starts_lost = 0
        self._nobody_since = time.monotonic()
        self._on_dispatch = on_dispatch
        self._on_progress = on_progress
        self._on_retry = on_retry

    def results(self) -> Generator[WindowResult, None, None]:
        """Yield results until every window has one."""
        self._hire()
        while True:
            self._fill()
            if not self._again and not any(worker.sent for worker in self._workers):
                return
            for worker, sent in self._arrived():
                if worker not in self._workers:
                    continue  # given up in this very round: what it says counts no more
                if sent is None:
                    self._welcome(worker)
                elif (result := self._settle(worker, sent)) is not None:
                    yield result
            self._mind_the_time()

    def dismiss(self) -> None:
        """End every actor."""
        while self._workers:
            self._give_up(self._workers[0])

    def _hire(self) -> None:
        """Ask for actors up to the number wanted; those without room wait in the cluster, not here."""
        kind = self._ray.remote(TileEmbedder).options(
            num_cpus=1,
            num_gpus=1 if self._resource == "GPU" else 0,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        while len(self._workers) < self._count:
            actor = kind.remote()
            self._workers.append(_Worker(actor=actor, loading=actor.load.remote(self._engine, self._setup)))

    def _fill(self) -> None:
        """Give windows to whoever is ready and has room, the least busy first."""
        while True:
            free = [each for each in self._workers if each.ready and len(each.sent) < QUEUE_DEPTH]
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
        if not self._again and not any(worker.sent for worker in self._workers):
            window = next(self._windows, None)
            if window is not None:
                self._again.append(window)

    def _send(self, worker: _Worker, window: Window) -> None:
        contents: list[list[object]] = []
        unread: dict[int, tuple[str, str]] = {}
        for number, tile in enumerate(window.tiles):
            try:
                contents.append([tile.sha256, read_tile(tile.locator)])
            except TileError as error:
                unread[number] = (str(error.kind), error.message)
        ref = worker.actor.embed.remote(encode(contents))
        worker.sent.append(_Sent(ref=ref, window=window, unread=unread))

    def _arrived(self) -> list[tuple[_Worker, _Sent | None]]:
        """Return whose answer is there: to a window, or to the engine (None)."""
        awaited: dict[Any, tuple[_Worker, _Sent | None]] = {}
        for worker in self._workers:
            if not worker.ready:
                awaited[worker.loading] = (worker, None)
            for sent in worker.sent:
                awaited[sent.ref] = (worker, sent)
        done, _ = self._ray.wait(list(awaited), num_returns=1, timeout=_GLANCE_S)
        return [awaited[ref] for ref in done]

    def _outcome(self, ref: Any) -> Outcome:  # noqa: ANN401 - Ray's reference
        try:
            kind, value = decoded(self._ray.get(ref, timeout=_FETCH_LIMIT_S))
        except self._ray.exceptions.RayError as error:
            return Died(signal=f"loss of its actor or node ({_short(error)})", log="")
        return Finished(value=value) if kind == FINISHED else failure(value, "")

    def _welcome(self, worker: _Worker) -> None:
        outcome = self._outcome(worker.loading)
        match outcome:
            case Finished():
                worker.ready = True
                self._starts_lost = 0
            case Failed(fields=(_, str(hint), *_)):
                raise EmbedError(
                    f"expected every node to load the engine, found: {told(outcome)}",
                    hint,
                    ErrorKind.EMBED_FAILED,
                )
            case Failed():
                raise embed_error(None, outcome)
            case Died() | OutOfMemory() | TimedOut():
                self._starts_lost += 1
                if self._starts_lost > max(ATTEMPTS, self._count):
                    raise embed_error(None, outcome)
                self._replace(worker, None, outcome)
            case _:
                assert_never(outcome)

    def _settle(self, worker: _Worker, sent: _Sent) -> WindowResult | None:
        outcome = self._outcome(sent.ref)
        match outcome:
            case Finished(value=value):
                worker.sent.remove(sent)
                self._attempts.pop(sent.window.number, None)
                result = window_result(sent.window, _whole(value, sent), self._spec.dimensions)
                if self._on_progress is not None:
                    self._on_progress(len(result.tiles))
                return result
            case Failed():
                raise embed_error(sent.window, outcome)
            case Died() | OutOfMemory() | TimedOut():
                # Actors work in order: the oldest window is the one that was under way.
                window = worker.sent.popleft().window
                self._attempts[window.number] += 1
                if self._attempts[window.number] >= ATTEMPTS:
                    raise embed_error(window, outcome)
                self._replace(worker, window, outcome)
                return None
            case _:
                assert_never(outcome)

    def _replace(self, worker: _Worker, window: Window | None, outcome: Outcome) -> None:
        """Go on without a worker: its windows go to others, and another is asked for."""
        self._again.extend(sent.window for sent in worker.sent)
        if window is not None:
            self._again.append(window)
        self._give_up(worker)
        if self._on_retry is not None:
            attempt = 1 if window is None else self._attempts[window.number]
            left = sum(each.ready for each in self._workers)
            self._on_retry(Retry(window=window, attempt=attempt, why=told(outcome), workers=left))
        self._hire()

    def _give_up(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(worker.actor, no_restart=True)

    def _mind_the_time(self) -> None:
        """Do not wait for ever for a cluster without room."""
        if any(worker.ready for worker in self._workers):
            self._nobody_since = time.monotonic()
        elif time.monotonic() - self._nobody_since > START_LIMIT_S:
            found = self._ray.available_resources().get(self._resource, 0)
            what = window_name(self._again[0]) if self._again else "the work"
            raise EmbedError(
                f"expected room for a worker (1 {self._resource}) within {START_LIMIT_S:g} s for {what}, found "
                f"{found:g} {self._resource} free in the cluster",
                "wait until the cluster has room, or build with --executor local",
                ErrorKind.WORKER_DIED,
            )


def _whole(value: Message, sent: _Sent) -> Message:
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


def _short(error: BaseException) -> str:
    """An error's class and the beginning of its text in one line: Ray's run over many."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_WHY_LIMIT]}"
