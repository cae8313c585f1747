"""The rigs of the long run. A slice of a rig is a command, so that the same command does the same again."""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.crash.fuzz.targets import TARGETS
from tests.crash.harness import shim
from tests.crash.harness.drivers import DRIVERS
from tests.crash.harness.plan import Plan, document_of
from tests.crash.longrun.sweeps import plans
from tests.crash.powercut import bugs, replay

Answer = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one slice of a rig is about: a history, a kind of input, a sweep.

    Attributes:
        name: What it is called; empty if the rig has one part.
        command: The words of its command, from a size and a seed.
        size: How much the first slice asks for; later ones as much as fits into a slice.
        goes_on: Whether it stops by itself when its time is up, and the next slice goes on there. Its command then
            takes `--first` and `--seconds`, or `--points`, its answer has `first`, `done` and `of`, and its size does
            not count.
    """

    name: str
    command: Callable[[int, int], list[str]]
    size: int
    goes_on: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """Something that tries to break the product.

    Attributes:
        name: What it is called.
        unit: What is counted.
        parts: Its parts, which take turns.
        count: The number of units, from its answer and the size that was asked for.
        missing: What this machine lacks for it, or nothing; most rigs find out by themselves.
        by_status: Whether it answers by its exit status alone.
    """

    name: str
    unit: str
    parts: tuple[Part, ...]
    count: Callable[[Answer, int], int]
    missing: str = ""
    by_status: bool = False


def rigs(*, most: int | None, workers: int, bug: str = "") -> list[Rig]:
    """Return all rigs in the order of their turns.

    Args:
        most: At most so many calls of one kind in one folder in sweeps; all if None.
        workers: Processes of a rig that works in several.
        bug: A bug to switch on in the writers of the rigs that know it.
    """
    return [
        *_sweeps(most, bug),
        Rig(
            name="kills of real workers",
            unit="kills",
            parts=(_by_pytest("tests/crash/test_kill.py", count="C10_KILLS", seed="C10_KILL_SEED", size=1),),
            # So many in each of four phases and at birth, and one while workers start.
            count=lambda _, size: 5 * size + 1,
            missing=_without_pytest(),
            by_status=True,
        ),
        Rig(
            name="power cuts",
            unit="disk states",
            parts=tuple(_power_cuts(history, workers, bug) for history in replay.WEIGHTS),
            count=lambda found, _: found["states"],
        ),
        *(
            Rig(
                name=name,
                unit="cuts",
                parts=(_program(f"tests.crash.powercut.{module}", "--cuts", 8, more=_known_bug(bug)),),
                count=lambda found, _: found["cuts"],
            )
            for name, module in (("cuts of a real ext4", "ext4"), ("cuts of blocks below ext4", "blocks"))
        ),
        *(
            Rig(
                name=name,
                unit="damages",
                parts=(
                    _program("tests.crash.damage.trials", "--trials", 40, more=[*more, *_at_once(workers)]),
                ),
                count=lambda found, _: found["trials"],
            )
            for name, more in (("damage", []), ("damage to chunks and proofs", ["--proven"]))
        ),
        Rig(
            name="verification beside a builder",
            unit="looks",
            parts=(_program("tests.crash.damage.beside", "--seconds", 4, seeded=False),),
            count=_looks,
        ),
        Rig(
            name="hostile input",
            unit="inputs",
            parts=tuple(
                _program("tests.crash.fuzz.run", f"--{kind}", 200, name=kind, more=_at_once(workers))
                for kind in TARGETS
            ),
            count=lambda found, _: sum(each["inputs"] for each in found["targets"].values()),
        ),
        Rig(
            name="storm of commits",
            unit="looks",
            parts=(_program("tests.crash.storms.storm", "--seconds", 4, seeded=False),),
            count=_looks,
        ),
        Rig(
            name="random histories",
            unit="operations",
            parts=(_program("tests.crash.storms.histories", "--operations", 20),),
            count=lambda found, _: found["operations"],
        ),
        Rig(
            name="state machine of the store",
            unit="histories",
            parts=(_by_pytest("tests/stateful/test_store_machine.py", count="C10_STORE_MACHINE", size=4),),
            count=lambda _, size: size,
            missing=_without_pytest(),
            by_status=True,
        ),
    ]


def _sweeps(most: int | None, bug: str) -> list[Rig]:
    """Kills, errors and allocations; kills and errors of mirrors apart."""
    parts: dict[str, list[Part]] = {}
    for row, plan in plans(most, seed=0, bug=bug):
        mirrors = DRIVERS[plan.driver].copies and row in {"kills", "errors"}
        parts.setdefault("mirror" if mirrors else row, []).append(_sweep(plan))
    missing = (
        "" if shim.compiler() else "needs gcc, which compiles the library that kills and hinders writers"
    )
    return [
        Rig(
            name=name,
            unit="points",
            parts=tuple(each),
            count=lambda found, _: found["points"],
            missing=missing,
        )
        for name, each in parts.items()
    ]


def _sweep(plan: Plan) -> Part:
    def command(_: int, seed: int) -> list[str]:
        chosen = replace(plan, seed=seed)
        return ["python", "-m", "tests.crash.soak", "--plan", json.dumps(document_of(chosen))]

    how = "allocations" if plan.allocations else " ".join(plan.actions)
    name = " ".join(filter(None, (plan.driver, how, plan.reader)))
    return Part(name=name, command=command, size=1, goes_on=True)


def _power_cuts(history: str, workers: int, bug: str) -> Part:
    more = ["--history", history, *_at_once(workers), *_known_bug(bug)]
    return _program("tests.crash.powercut.replay", "--states", 100, name=history, more=more)


def _known_bug(bug: str) -> list[str]:
    return ["--bug", bug] if bug in bugs.BUGS else []


def _at_once(workers: int) -> list[str]:
    return ["--workers", str(workers)]


def _program(
    module: str, option: str, size: int, *, name: str = "", more: Sequence[str] = (), seeded: bool = True
) -> Part:
    """A rig that prints its answer; `option` takes the size. Without a seed, chance is in the timing alone."""

    def command(size: int, seed: int) -> list[str]:
        chosen = ["--seed", str(seed)] if seeded else []
        return ["python", "-m", module, *more, option, str(size), *chosen]

    return Part(name=name, command=command, size=size)


def _by_pytest(file: str, *, count: str, size: int, seed: str = "") -> Part:
    """A rig that is a test module, with its size and perhaps its seed in variables of the environment."""

    def command(size: int, number: int) -> list[str]:
        variables = [f"{count}={size}", *([f"{seed}={number}"] if seed else [])]
        chosen = [] if seed else [f"--hypothesis-seed={number}"]
        options = ["-q", "-n0", "-p", "no:cacheprovider", "-m", "deep or not deep"]
        return ["env", *variables, "python", "-m", "pytest", *options, *chosen, file]

    return Part(name="", command=command, size=size)


def _without_pytest() -> str:
    return "" if importlib.util.find_spec("hypothesis") else "needs the extra `test`"


def _looks(found: Answer, _: int) -> int:
    return sum(each.get("looks", 0) for each in found["counted"].values())
