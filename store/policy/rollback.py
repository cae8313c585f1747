"""Decide a rollback: which build the new generation shows, and say what leads forward again. Pure.

Without a target the head's parent is shown. The parent of a rollback is the parent of the build it shows, so
that two rollbacks in a row go two builds back and never forward onto the one that was left. A generation given
as target stands for its origin; the build shown already is no change.
"""

from store.base.valueclass import valueclass
from store.domain.fold import builds_left_behind
from store.domain.state import State
from store.errors import ErrorKind, RequestRefusedError


@valueclass(frozen=True, slots=True, kw_only=True)
class RollbackPlan:
    """What a rollback will do; `left`, `target` and `parent` are builds, `requested` a generation."""

    left: int
    target: int
    parent: int | None
    requested: int | None
    why: str


def plan(state: State, *, to: int | None, why: str, option: str = "") -> RollbackPlan | None:
    """Decide a rollback; nothing if the target is shown already.

    Args:
        state: The folded journal.
        to: The generation to go back to; None for what was shown before.
        why: For people.
        option: What commands in hints need to find the cache, after a space.

    Raises:
        RequestRefusedError: There is no generation, no parent, no such target, or it was collected.
    """
    head = state.head
    if head is None:
        raise RequestRefusedError(
            "expected a committed generation to roll back from, found none",
            kind=ErrorKind.NO_GENERATION,
            hint=f"c10 log{option}",
        )
    if to is None:
        if head.parent is None:
            raise RequestRefusedError(
                f"expected a build before build {head.origin}, which generation {head.number} shows, found none",
                kind=ErrorKind.NOTHING_TO_ROLL_BACK,
                hint=f"c10 log{option}, then c10 rollback --to GENERATION{option}",
            )
        target = head.parent
        _require_kept(state, target, f"build {target}, which was shown before build {head.origin}", option)
    elif to in state.generations:
        target = state.generations[to].origin
        _require_kept(state, target, f"generation {to} (build {target})", option)
    else:
        raise RequestRefusedError(
            f"expected a generation from 1 to {head.number}, found {to}",
            kind=ErrorKind.UNKNOWN_GENERATION,
            hint=f"c10 log{option}",
        )
    if target == head.origin:
        return None
    return RollbackPlan(
        left=head.origin, target=target, parent=state.builds[target].parent, requested=to, why=why
    )


def ways_forward(state: State) -> tuple[tuple[int, int], ...]:
    """Return generation and build of what a rollback may show again, by rising build.

    These are the build that the head's rollback left and the newest one, if they are newer than the one that is
    shown and kept. A head that is no rollback leaves none behind.
    """
    head = state.head
    if head is None or head.rolled_back is None:
        return ()
    made = {each.origin: number for number, each in state.generations.items() if each.rolled_back is None}
    newer = {build for build in (head.rolled_back.left, max(made)) if build > head.origin}
    return tuple((made[build], build) for build in sorted(newer - state.collected))


def undone_text(state: State, identity: str) -> str | None:
    """Return which build of an identity was rolled back from, where and why; None if none was."""
    build = state.undone.get(identity)
    if build is None:
        return None
    parents = {number: each.parent for number, each in state.builds.items()}
    where, why = next(
        (number, each.rolled_back.why)
        for number, each in reversed(state.generations.items())
        if each.rolled_back is not None
        and build in builds_left_behind(parents, left=each.rolled_back.left, target=each.rolled_back.target)
    )
    return f"build {build}, which was rolled back from in generation {where}" + (f" ({why})" if why else "")


def undone_hint(state: State, identity: str, *, option: str = "") -> str:
    """Return what brings a build back that was rolled back from; if it is not known or kept, builds it anew.

    `option` is what a command needs to find the cache, after a space.
    """
    build, again = state.undone.get(identity), "c10 build --again builds it anew"
    if build is None or build in state.collected:
        return again
    made = next(number for number, each in state.generations.items() if each.origin == build)
    return f"c10 rollback --to {made}{option} shows it again; {again}"


def _require_kept(state: State, target: int, what: str, option: str) -> None:
    collected = state.collected
    if target not in collected:
        return
    left = [number for number, found in state.generations.items() if found.origin not in collected]
    raise RequestRefusedError(
        f"expected {what} to be kept, found it collected: its files are gone",
        kind=ErrorKind.COLLECTED,
        hint=f"c10 rollback --to GENERATION{option}, with one of {_listed(left)}; or build that request --again",
    )


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[-8:]))
    return f"..., {shown}" if len(numbers) > 8 else shown
