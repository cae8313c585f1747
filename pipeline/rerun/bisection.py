"""Find the one member of a sequence that makes a test fail, by bisection. Pure.

Of n members it takes at most ceil(log2 n) runs to point at one, and one more to see that it fails alone: nine
runs for 256. If no single member fails alone, the result says so: several together may be too much, or it
happens by chance.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from store.base.valueclass import valueclass

Member = TypeVar("Member")


@valueclass(frozen=True, slots=True, kw_only=True)
class Bisection(Generic[Member]):
    """The result of a bisection.

    Attributes:
        culprit: The member that fails alone, if there is one.
        smallest: The smallest part that failed; empty if none did.
        runs: How many parts were tried.
    """

    culprit: Member | None
    smallest: tuple[Member, ...]
    runs: int


def bisect(members: Sequence[Member], fails: Callable[[Sequence[Member]], bool]) -> Bisection[Member]:
    """Search at least one member; `fails` tries some of them, in their order, and says whether they fail."""
    runs = 0
    smallest: tuple[Member, ...] = ()

    def try_part(part: Sequence[Member]) -> bool:
        nonlocal runs, smallest
        runs += 1
        failed = fails(part)
        if failed and (not smallest or len(part) < len(smallest)):
            smallest = tuple(part)
        return failed

    left = members
    while len(left) > 1:
        # The smaller half is tried: if it passes, the other one needs no run of its own.
        middle = len(left) // 2
        left = left[:middle] if try_part(left[:middle]) else left[middle:]
    if smallest == tuple(left) or try_part(left):
        return Bisection(culprit=left[0], smallest=tuple(left), runs=runs)
    if not smallest and len(members) > 1:
        try_part(members)
    return Bisection(culprit=None, smallest=smallest, runs=runs)
