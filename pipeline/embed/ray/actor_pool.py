"""The actors of one build on a Ray cluster: create them, end them, and have fewer where memory runs out."""

import contextlib
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pipeline.embed.batcher import WindowQueue
from pipeline.embed.cells import Window
from pipeline.embed.ray.actor import TileEmbedder, decode_frame
from pipeline.embed.ray.cluster import ClusterNodes, actor_options, living_nodes, resource_of, summarise_error
from pipeline.embed.ray.scaling import WorkerScaling
from pipeline.embed.worker_messages import EngineSpec, window_name
from pipeline.errors import EmbedError, ErrorKind
from pipeline.processes.outcome import Died, Finished, Lost, Outcome, OutOfMemory, TimedOut
from pipeline.processes.pool import outcome_of_error
from pipeline.processes.serve import FINISHED
from store.errors import TranslateOSErrors
from store.runtime.backends.base import Untyped

ROOM_LIMIT_S: Final = 600.0
"""Longest time in seconds without any worker; clusters that grow on demand take minutes."""

LOAD_LIMIT_S: Final = 600.0
"""Longest time in seconds for loading the engine."""

_RESCALE_S: Final = 5.0
"""Seconds between two counts of the nodes while one of them has fewer workers because memory ran out."""

_FETCH_LIMIT_S: Final = 60.0
"""Longest time in seconds for fetching an answer that is ready."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SentWindow:
    """A window that was sent to an actor.

    Attributes:
        ref: Ray's reference to the answer.
        window: The window.
    """

    ref: Untyped
    window: Window


@dataclass(slots=True, kw_only=True, eq=False)
class ActorWorker:
    """An actor. It is placed on a node, loads the engine, then embeds the windows that it is sent, in order.

    Attributes:
        actor: Ray's handle.
        placing: Reference to the id of its node.
        loading: Reference to the outcome of loading the engine.
        node: Id of its node; None until it is placed.
        ready: Whether it has loaded the engine.
        sent: Windows that it was sent and has not answered, oldest first.
        waited_s: How long this process has waited for its present task, seconds.
    """

    actor: Untyped
    placing: Untyped
    loading: Untyped
    node: str | None = None
    ready: bool = False
    sent: deque[SentWindow] = field(default_factory=deque)
    waited_s: float = 0.0


class ActorPool:
    """The actors of one build.

    Attributes:
        workers: Those that were not ended, in the order in which they were created.
    """

    def __init__(self, ray: Untyped, spec: EngineSpec, setup: bytes, wanted: int | None) -> None:
        """Put the engine into the cluster's object store; no actor is created yet.

        `setup` is the frame that `TileEmbedder.load` takes, `wanted` the number of workers; by default as
        many as the cluster has room for.

        Raises:
            StoreError: The engine cannot be read.
        """
        self._ray = ray
        self._setup = setup
        with TranslateOSErrors(f"engine {spec.sha256[:12]}"):
            data = Path(spec.path).read_bytes()
        self._engine = ray.put(data)
        self._resource = resource_of(spec.backend)
        self._actor_class = ray.remote(TileEmbedder).options(**actor_options(spec.backend))
        self._scaling = WorkerScaling(wanted or max(1, self._nodes().room))
        self._no_worker_since = self._scaled_at = time.monotonic()
        self.workers: list[ActorWorker] = []

    def scale(self) -> None:
        """Create or end actors until there are as many as wanted; those without room wait in the cluster."""
        nodes, self._scaled_at = self._nodes(), time.monotonic()
        wanted = self._scaling.wanted(alive=nodes.alive, room=nodes.room)
        for worker in reversed([each for each in self.workers if each.node is None]):
            if len(self.workers) > wanted:
                self.end(worker)
        while len(self.workers) < wanted:
            actor = self._actor_class.remote()
            placing, loading = actor.node.remote(), actor.load.remote(self._engine, self._setup)
            self.workers.append(ActorWorker(actor=actor, placing=placing, loading=loading))

    def check_room(self, queue: WindowQueue) -> None:
        """Scale up again once a node that ran out of memory is gone; `queue` has the waiting windows.

        Raises:
            EmbedError: The cluster has had no room for any worker for too long.
        """
        now = time.monotonic()
        if self._scaling.is_reduced and now - self._scaled_at > _RESCALE_S:
            self.scale()
        if any(worker.node is not None for worker in self.workers):
            self._no_worker_since = now
        elif now - self._no_worker_since > ROOM_LIMIT_S:
            free = self._ray.available_resources().get(self._resource, 0)
            raise EmbedError(
                f"expected room for a worker (1 {self._resource}) within {ROOM_LIMIT_S:g} s for "
                f"{window_name(queue.peek())}, found {free:g} {self._resource} free in the cluster",
                hint="wait until the cluster has room, or build with --executor local",
                kind=ErrorKind.WORKER_DIED,
            )

    def close(self) -> None:
        """End all actors."""
        while self.workers:
            self.end(self.workers[0])

    def end(self, worker: ActorWorker) -> list[Window]:
        """End an actor; return the windows that it was sent and has not answered."""
        self.workers.remove(worker)
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(worker.actor, no_restart=True)
        return [sent.window for sent in worker.sent]

    def reduce_after(self, worker: ActorWorker, outcome: Outcome | Lost) -> tuple[bool, list[Window]]:
        """Have fewer workers if memory seems to have run out where one failed.

        Returns:
            Whether fewer are wanted from now on, and the windows of the workers that were ended for that.
        """
        if isinstance(outcome, (TimedOut, Lost)):
            return False, []
        if worker.node is None:
            return isinstance(outcome, OutOfMemory) and self._scaling.reduce(), []
        if isinstance(outcome, Died) and worker.node not in self._nodes().alive:
            return False, []
        others = [each for each in self.workers if each.node == worker.node and each is not worker]
        keep = self._scaling.reduce_node(worker.node, len(others) + 1)
        too_many = sorted(others, key=lambda each: len(each.sent))[: max(0, len(others) - keep)]
        return keep <= len(others), [window for each in too_many for window in self.end(each)]

    def outcome(self, ref: Untyped) -> Outcome | Lost:
        """Return the outcome of a call whose answer is ready.

        Only the end of a process says that its node's memory may have run out. A failed fetch (a slow
        network, a lost object, a full store) does not.
        """
        kinds = self._ray.exceptions
        try:
            kind, value = decode_frame(self._ray.get(ref, timeout=_FETCH_LIMIT_S))
        except kinds.OutOfMemoryError as error:
            return OutOfMemory(message=summarise_error(error), log="")
        except (kinds.ActorDiedError, kinds.WorkerCrashedError) as error:
            return Died(signal=f"loss of its actor or node ({summarise_error(error)})", log="")
        except kinds.RayError as error:
            return Lost(message=summarise_error(error))
        return Finished(value=value) if kind == FINISHED else outcome_of_error(value, "")

    def _nodes(self) -> ClusterNodes:
        return living_nodes(self._ray.nodes(), self._resource)
