"""Decide when a remote worker counts as hung, and how many workers to have. Pure."""

from collections.abc import Set as AbstractSet
from typing import Final

MIN_LIMIT_S: Final = 300.0
"""Least time limit of a window, seconds."""

SLOWDOWN: Final = 10.0
"""How many times as long per tile as the slowest window so far a window may take."""

FIRST_TILE_S: Final = 10.0
"""Seconds per tile before any window is done: more than a large network takes on one slow processor."""

MIN_TILES: Final = 32
"""A smaller window counts as one of so many tiles, since most of its time is not spent on tiles."""


class AdaptiveTimeout:
    """The time limit of a window, from the times of earlier windows.

    A window that exceeds its limit is tried elsewhere: a limit that is too short costs work, one that is too
    long costs waiting. It is long.
    """

    def __init__(self) -> None:
        """Begin without any times."""
        self._slowest_s: float | None = None

    def record(self, tiles: int, seconds: float) -> None:
        """Record that a window of so many tiles took so long."""
        self._slowest_s = max(self._slowest_s or 0.0, seconds / max(tiles, MIN_TILES))

    def limit_s(self, tiles: int) -> float:
        """Return the time limit of a window of so many tiles, seconds."""
        per_tile = FIRST_TILE_S if self._slowest_s is None else SLOWDOWN * self._slowest_s
        return max(MIN_LIMIT_S, per_tile * max(tiles, MIN_TILES))


class WorkerScaling:
    """How many workers to have: the number asked for, less those that nodes without memory may not have."""

    def __init__(self, asked: int) -> None:
        """Begin with the number asked for."""
        self._asked = asked
        self._fewer: dict[str, int] = {}

    @property
    def is_reduced(self) -> bool:
        """Whether some node may have fewer workers than it had."""
        return bool(self._fewer)

    def reduce_node(self, node: str, held: int) -> int:
        """Record that memory ran out on a node with `held` workers, including the one that ended.

        Returns:
            How many it may have from now on: half of them, at least one.
        """
        keep = max(1, held // 2)
        if keep < held:
            self._fewer[node] = self._fewer.get(node, 0) + held - keep
        return keep

    def reduce(self) -> bool:
        """Record that memory ran out on an unknown node; return whether fewer workers are wanted now."""
        self._asked, before = max(1, self._asked - 1), self._asked
        return self._asked < before

    def wanted(self, *, alive: AbstractSet[str], room: int) -> int:
        """Return how many workers to have, at least one.

        Nodes that are gone no longer count. While some node is reduced, no more workers are wanted than the
        cluster has room for: one that waits for room would take the place that was freed to save memory.
        `alive` are the ids of the living nodes, `room` is how many workers they hold together.
        """
        self._fewer = {node: count for node, count in self._fewer.items() if node in alive}
        if not self._fewer:
            return self._asked
        return max(1, min(self._asked, room) - sum(self._fewer.values()))
