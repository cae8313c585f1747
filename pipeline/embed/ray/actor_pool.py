"""The actors of one build on a Ray cluster: asked for, placed, given up, and fewer where memory is short."""

import contextlib
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipeline.embed.batcher import EngineSpec
from pipeline.embed.cells import Window
from pipeline.embed.ray.actor import TileEmbedder, decoded
from pipeline.embed.ray.cluster import Nodes, actor_options, nodes_of, resource_of, short
from pipeline.embed.ray.scaling import Headcount
from pipeline.errors import EmbedError, ErrorKind
from pipeline.processes.outcome import Died, Finished, Lost, Outcome, OutOfMemory, TimedOut
from pipeline.processes.pool import outcome_of_error
from pipeline.processes.serve import FINISHED

ROOM_LIMIT_S: Final = 600.0
"""Longest time in seconds without any worker: clusters that grow on demand take minutes."""

LOAD_LIMIT_S: Final = 600.0
"""Longest time in seconds in which a worker must load its engine."""

_RECOUNT_S: Final = 5.0
"""Seconds between two looks at the nodes, while one of them has fewer workers for want of memory."""

_FETCH_LIMIT_S: Final = 60.0
"""Longest time in seconds in which an answer that is ready may arrive."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sent:
    """A window on its way.

    Attributes:
        ref: Ray's reference to the answer.
        window: The window.
        unread: For each tile that could not even be read its place in the window, an `ErrorKind` and a message.
    """

    ref: Any
    window: Window
    unread: dict[int, tuple[str, str]]


@dataclass(slots=True, kw_only=True, eq=False)
class Worker:
    """An actor: first it is placed on a node, then it loads the engine, then it works in order on what it was sent.

    Attributes:
        actor: Ray's handle.
        placing: Reference to the id of its node.
        loading: Reference to what became of loading the engine.
        node: Id of its node; None until it is placed.
        ready: Whether it has loaded the engine.
        sent: What it was sent and has not answered, oldest first.
        waited_s: How long it was watched at what it does now, without this process's own work in between, seconds.
    """

    actor: Any
    placing: Any
    loading: Any
    node: str | None = None
    ready: bool = False
    sent: deque[Sent] = field(default_factory=deque)
    waited_s: float = 0.0


class Crew:
    """The actors of one build.

    Attributes:
        workers: Those that count, in the order in which they were asked for.
    """

    def __init__(
        self,
        ray: Any,  # noqa: ANN401 - an optional package without a place in our types
        spec: EngineSpec,
        setup: bytes,
        asked: int | None,
    ) -> None:
        """Ask for nobody yet.

        Args:
            ray: The module, connected to a cluster.
            spec: The engine; its bytes are put into the cluster's store.
            setup: The frame that `TileEmbedder.load` takes.
            asked: Workers to have; by default as many as the cluster holds.
        """
        self._ray = ray
        self._setup = setup
        self._engine = ray.put(Path(spec.path).read_bytes())
        self._resource = resource_of(spec.backend)
        self._kind = ray.remote(TileEmbedder).options(**actor_options(spec.backend))
        self._headcount = Headcount(asked or max(1, self._nodes().room))
        self._nobody_since = self._counted = time.monotonic()
        self.workers: list[Worker] = []

    def hire(self) -> None:
        """Have as many actors as are wanted; those without room wait in the cluster, not here."""
        nodes, self._counted = self._nodes(), time.monotonic()
        wanted = self._headcount.wanted(alive=nodes.alive, room=nodes.room)
        for worker in reversed([each for each in self.workers if each.node is None]):
            if len(self.workers) > wanted:
                self.give_up(worker)
        while len(self.workers) < wanted:
            actor = self._kind.remote()
            placing, loading = actor.node.remote(), actor.load.remote(self._engine, self._setup)
            self.workers.append(Worker(actor=actor, placing=placing, loading=loading))

    def recount(self, what: str) -> None:
        """Have more actors again where a node that was short of memory is gone.

        Args:
            what: What waits for a worker.

        Raises:
            EmbedError: The cluster has had no room for any worker for too long.
        """
        now = time.monotonic()
        if self._headcount.lowered and now - self._counted > _RECOUNT_S:
            self.hire()
        if any(worker.node is not None for worker in self.workers):
            self._nobody_since = now
        elif now - self._nobody_since > ROOM_LIMIT_S:
            free = self._ray.available_resources().get(self._resource, 0)
            raise EmbedError(
                f"expected room for a worker (1 {self._resource}) within {ROOM_LIMIT_S:g} s for {what}, found "
                f"{free:g} {self._resource} free in the cluster",
                hint="wait until the cluster has room, or build with --executor local",
                kind=ErrorKind.WORKER_DIED,
            )

    def give_up(self, worker: Worker) -> list[Window]:
        """End an actor; returns the windows that it was sent and has not answered."""
        self.workers.remove(worker)
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(worker.actor, no_restart=True)
        return [sent.window for sent in worker.sent]

    def relieve(self, worker: Worker, outcome: Outcome | Lost) -> tuple[bool, list[Window]]:
        """Where memory seems to have run out, have fewer workers.

        Args:
            worker: The one that ended.
            outcome: How.

        Returns:
            Whether there are fewer from now on, and the windows of those that were ended for it.
        """
        if isinstance(outcome, (TimedOut, Lost)):
            return False, []
        if worker.node is None:
            return isinstance(outcome, OutOfMemory) and self._headcount.concede(), []
        if isinstance(outcome, Died) and worker.node not in self._nodes().alive:
            return False, []
        others = [each for each in self.workers if each.node == worker.node and each is not worker]
        keep = self._headcount.shorten(worker.node, len(others) + 1)
        too_many = sorted(others, key=lambda each: len(each.sent))[: max(0, len(others) - keep)]
        return keep <= len(others), [window for each in too_many for window in self.give_up(each)]

    def outcome(self, ref: Any) -> Outcome | Lost:  # noqa: ANN401 - Ray's reference
        """Return what became of a call whose answer is there.

        Only the end of a process speaks of its node's memory. What keeps an answer from arriving (a slow network, a
        lost object, a full store) says nothing of it.
        """
        kinds = self._ray.exceptions
        try:
            kind, value = decoded(self._ray.get(ref, timeout=_FETCH_LIMIT_S))
        except kinds.OutOfMemoryError as error:
            return OutOfMemory(message=short(error), log="")
        except (kinds.ActorDiedError, kinds.WorkerCrashedError) as error:
            return Died(signal=f"loss of its actor or node ({short(error)})", log="")
        except kinds.RayError as error:
            return Lost(message=short(error))
        return Finished(value=value) if kind == FINISHED else outcome_of_error(value, "")

    def _nodes(self) -> Nodes:
        return nodes_of(self._ray.nodes(), self._resource)
