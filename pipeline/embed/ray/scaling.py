"""When a worker far away counts as hung, and how many of them are wanted. Pure."""

from collections.abc import Set as AbstractSet
from typing import Final

FLOOR_S: Final = 300.0
"""Seconds that any window may take."""

FACTOR: Final = 10.0
"""How much slower than the slowest window so far one may be, tile by tile."""

UNKNOWN_S: Final = 10.0
"""Seconds for each tile while nothing is known: more than a large network takes on one slow processor."""

LEAST_TILES: Final = 32
"""Tiles that a smaller window counts for: what it takes besides its tiles says nothing about a larger one."""


class Patience:
    """What windows took so far, and how long one may take therefore.

    A window that is given up is tried elsewhere, so that a limit that is too short costs work and one that is too
    long costs waiting; it is long.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._slowest_s: float | None = None

    def learn(self, tiles: int, seconds: float) -> None:
        """Take in that a window of so many tiles took so long."""
        self._slowest_s = max(self._slowest_s or 0.0, seconds / max(tiles, LEAST_TILES))

    def limit_s(self, tiles: int) -> float:
        """Return how long a window of so many tiles may take, seconds."""
        each = UNKNOWN_S if self._slowest_s is None else FACTOR * self._slowest_s
        return max(FLOOR_S, each * max(tiles, LEAST_TILES))


class Headcount:
    """How many workers are wanted: those asked for, less those that nodes short of memory are not to have again."""

    def __init__(self, asked: int) -> None:
        """Want what was asked for."""
        self._asked = asked
        self._fewer: dict[str, int] = {}

    @property
    def lowered(self) -> bool:
        """Whether any node may have fewer than it had."""
        return bool(self._fewer)

    def shorten(self, node: str, held: int) -> int:
        """Take in that memory ran out on a node.

        Args:
            node: Its id.
            held: How many workers it had, the one that ended among them.

        Returns:
            How many it may have from now on: half of them, or one.
        """
        keep = max(1, held // 2)
        if keep < held:
            self._fewer[node] = self._fewer.get(node, 0) + held - keep
        return keep

    def concede(self) -> bool:
        """Take in that memory ran out who knows where; return whether fewer are wanted from now on."""
        self._asked, before = max(1, self._asked - 1), self._asked
        return self._asked < before

    def wanted(self, *, alive: AbstractSet[str], room: int) -> int:
        """Return how many workers to have, at least one.

        A node that is gone is short of nothing. As long as one is short, nobody waits for room beyond what the cluster
        has: a worker that waits would take the place that was freed for want of memory.

        Args:
            alive: Ids of the nodes that there are.
            room: How many workers they hold together.
        """
        self._fewer = {node: count for node, count in self._fewer.items() if node in alive}
        if not self._fewer:
            return self._asked
        return max(1, min(self._asked, room) - sum(self._fewer.values()))
