"""Which builds descend from which: what a rollback leaves behind. Pure."""

from collections.abc import Mapping


def line(parents: Mapping[int, int | None], origin: int) -> list[int]:
    """Return a build, its parent, that one's parent and so on."""
    found: list[int] = []
    at: int | None = origin
    while at is not None and at not in found:
        found.append(at)
        at = parents[at]
    return found


def left_behind(parents: Mapping[int, int | None], *, left: int, target: int) -> list[int]:
    """Return the builds that going from `left` to `target` undoes, newest first.

    They are those down the line of parents to the target, or else the last one alone. Going forward, to a build
    that descends from the one shown, leaves nothing behind.
    """
    if left in line(parents, target):
        return []
    down = line(parents, left)
    return down[: down.index(target)] if target in down else down[:1]
