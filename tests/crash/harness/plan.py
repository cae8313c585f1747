"""What a sweep is to do, what came of it, and which points it takes."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tests.crash.harness.shim import Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a sweep does.

    Attributes:
        driver: The writer.
        actions: What happens to it, by name.
        most: At most so many calls of one name and folder, spread evenly; all of them if absent.
        calls: Only at calls of these names; at all of them if empty.
        reader: A reader that lives on meanwhile: one that "keeps" the journal open, one that "looks" again and again,
            or none.
        nested: After each kill, kill the next build at so many calls, too, chosen by chance; 0 for none.
        bug: A bug to switch on in the writer.
        allocations: Fail so many allocations instead, spread evenly; 0 for none.
        seed: Of what is chosen by chance.
        first: Pass over so many points at the beginning; an earlier sweep did them.
        points: Do at most so many points; 0 for all of them.
        seconds: Begin no further point after so many seconds, but do one; 0 for no limit.
    """

    driver: str
    actions: tuple[str, ...] = ()
    most: int | None = None
    calls: tuple[str, ...] = ()
    reader: str = ""
    nested: int = 0
    bug: str = ""
    allocations: int = 0
    seed: int = 1
    first: int = 0
    points: int = 0
    seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of it.

    Attributes:
        calls: How many calls the writer makes that count.
        of: How many points the plan has without its limits, those within a point not counted.
        done: How many of them it did.
        planned: Points: things that were to happen, nested ones included.
        happened: Points at which they did.
        endings: How often the writer ended how: killed, an exit code, a hang, a signal.
        errors: How often which error was met.
        deaths: Where how many failed allocations ended the process inside a foreign library.
        rounds: Rounds of live readers.
        bad: What was wrong, with its point.
        seconds: How long it took.
    """

    plan: Plan
    calls: int = 0
    of: int = 0
    done: int = 0
    planned: int = 0
    happened: int = 0
    endings: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    deaths: Counter[str] = field(default_factory=Counter[str])
    rounds: int = 0
    bad: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        counters = {name: dict(getattr(self, name)) for name in ("endings", "errors", "deaths")}
        return (
            {each.name: getattr(self, each.name) for each in fields(self)}
            | counters
            | {"plan": asdict(self.plan)}
        )


def plan_of(document: Mapping[str, Any]) -> Plan:
    """The plan of a document that JSON carried; what it does not name is as `Plan` has it."""
    return Plan(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in document.items()}
    )


def document_of(plan: Plan) -> dict[str, Any]:
    """A plan for JSON, without what is as `Plan` has it."""
    return {
        each.name: getattr(plan, each.name)
        for each in fields(plan)
        if getattr(plan, each.name) != each.default
    }


def thinned(points: Sequence[int], calls: Sequence[Seen], most: int | None, dice: random.Random) -> list[int]:
    """At most so many points of each kind of call in each folder: one by chance, or the first, the last and between."""
    if most is None:
        return list(points)
    groups: dict[tuple[str, str], list[int]] = {}
    for number in points:
        seen = calls[number - 1]
        folder = seen.path.split("/")[1] if seen.path.count("/") > 1 else seen.path
        groups.setdefault((seen.name, folder), []).append(number)
    chosen: set[int] = set()
    for group in groups.values():
        if len(group) <= most:
            chosen.update(group)
        elif most == 1:
            chosen.add(dice.choice(group))
        else:
            chosen.update(group[round(i * (len(group) - 1) / (most - 1))] for i in range(most))
    return sorted(chosen)
