"""Find the one member of a portion that ends whoever works on it, by halving. Pure.

Of a portion of n members it takes at most ceil(log2 n) runs to point at one, and one more to see that this one does it
alone: nine runs for 256. Where no single member is to blame, since only several together are too much or since it does
not happen again, that is what the answer says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Member = TypeVar("Member")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bisection(Generic[Member]):
    """What came of it.

    Attributes:
        culprit: The member that does it alone, if there is one.
        smallest: The smallest portion that was seen to do it; empty if none did.
        runs: How many portions were tried.
    """

    culprit: Member | None
    smallest: tuple[Member, ...]
    runs: int


def bisect(members: Sequence[Member], ends: Callable[[Sequence[Member]], bool]) -> Bisection[Member]:
    """Search a portion.

    Args:
        members: The portion, at least one.
        ends: Tries some of them, in their order; whether that ended the work.
    """
    runs = 0
    seen: tuple[Member, ...] = ()

    def tried(portion: Sequence[Member]) -> bool:
        nonlocal runs, seen
        runs += 1
        ended = ends(portion)
        if ended and (not seen or len(portion) < len(seen)):
            seen = tuple(portion)
        return ended

    left = members
    while len(left) > 1:
        # The smaller part is tried: if it is not there, the other one needs no run of its own.
        middle = len(left) // 2
        left = left[:middle] if tried(left[:middle]) else left[middle:]
    if seen == tuple(left) or tried(left):
        return Bisection(culprit=left[0], smallest=tuple(left), runs=runs)
    if not seen and len(members) > 1:
        tried(members)
    return Bisection(culprit=None, smallest=seen, runs=runs)
