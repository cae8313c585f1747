"""Kill or hinder one writer at every planned call, and judge the cache after each.

Runs in a process with the library of `shim.c` preloaded, which loads everything once and forks a child for each thing
that happens, so that a point costs milliseconds. It never opens a cache itself: LMDB, faiss and ONNX Runtime must not
be used before a fork.
"""

import contextlib
import gc
import importlib
import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.crash.harness import seeded
from tests.crash.harness.bench import Acknowledged, Bench, acknowledge
from tests.crash.harness.check import Before, Judge, remember
from tests.crash.harness.child import HANG_S, Ending, Helper, child
from tests.crash.harness.drivers import DRIVERS, Driver
from tests.crash.harness.plan import Plan, Result, thinned
from tests.crash.harness.readers import LiveReader
from tests.crash.harness.shim import ACTIONS, Action, Seen, Shim
from tests.crash.harness.template import Template
from tools.exit_codes import ExitCode, code_of

_TRIES = 5
ALLOCATION_HANG_S = 60
"""Shorter than other guards, since a failed allocation does make CPython hang now and then."""
SOUND_WITHOUT_MEMORY = sys.version_info < (3, 13)
"""Whether a process can be judged by what it does after a failed allocation.

CPython 3.13 frees the code of a function that it had no memory to make, which then stays in use.
"""
OWN = ("journal.", "store.", "pipeline.", "tools.")


class Sweep:
    """One plan, carried out."""

    def __init__(self, plan: Plan, work: Path, shim: Shim):
        self.plan, self.work, self.shim = plan, work, shim
        self.driver: Driver = DRIVERS[plan.driver]
        self.root = work / "bench"
        self.bench = Bench(self.root, signer=self.driver.signer)
        if self.driver.heavy:
            # As the sites of the tests have it; another size would be a change to the cache.
            self.bench.reserve_bytes = 0
        self.dice = random.Random(f"{plan.seed} {plan.driver}")
        self.result = Result(plan=plan)
        self.before = Before()
        self.template = Template(self.bench.layout.root)
        self.commits = self.driver.commits
        self.helper: Helper | None = None
        self.began = time.monotonic()

    def run(self) -> Result:
        """Rehearse, then do every point."""
        began = self.began
        self._prepare()
        if self.plan.allocations:
            self._sweep_allocations()
        for name in self.plan.actions:
            self._sweep(ACTIONS[name])
        self.result.seconds = time.monotonic() - began
        return self.result

    # -- the cache ----------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        self.root.mkdir()
        ending = child(self._make_template, self.bench)
        found = ending.line("B")
        if not found:
            raise AssertionError(f"{self.plan.driver} could not be prepared: {ending}")
        values = json.loads(" ".join(found))
        values["files"] = tuple(map(tuple, values["files"]))
        self.before = Before(**values)
        self.template = Template(self.bench.layout.root)

    def _make_template(self, bench: Bench) -> None:
        try:
            self.driver.prepare(bench)
            if self.driver.heavy:
                from tests.crash.harness.drivers import site_of

                site_of(bench)
            bench.say(f"B {json.dumps(asdict(remember(bench.layout, damaged=self.driver.mends)))}")
        except BaseException:
            import traceback

            bench.say("X " + traceback.format_exc().replace("\n", " | "))
            raise

    # -- children -----------------------------------------------------------------------------------------------

    def _act(self, arm: Callable[[], None], *, again: bool = False) -> Ending:
        """The writer, with something planned for it; perhaps it then builds again in the same process."""

        def work(bench: Bench) -> None:
            acknowledge(bench)
            seeded.switch_on(self.plan.bug, bench)
            gc.disable()
            if self.plan.allocations:
                self.shim.trace_deaths(bench.pipe)
            arm()
            code = self._attempt(bench, self.driver.act)
            self.shim.disarm()
            gc.enable()
            if again and code:
                self._attempt(bench, self._once_more, mark="R")

        return child(work, self.bench, hang_s=ALLOCATION_HANG_S if self.plan.allocations else HANG_S)

    def _once_more(self, bench: Bench) -> None:
        if self.driver.mends:
            self.driver.act(bench)
        self.driver.build(bench, "again")

    def _attempt(self, bench: Bench, work: Callable[[Bench], object], *, mark: str = "E") -> int:
        try:
            code = work(bench) or ExitCode.DONE
        except BaseException as error:  # noqa: BLE001 - what the command line would make of it
            self.shim.disarm()
            code = code_of(error)
            kind = type(error)
            bench.say(f"{mark} {int(code)} {kind.__module__}.{kind.__qualname__} {str(error)!r}"[:900])
        else:
            bench.say(f"{mark} {int(code)} - -")
        return int(code)  # type: ignore[call-overload]

    def _judge(self, told: Acknowledged, commits: int) -> list[str]:
        def work(bench: Bench) -> None:
            acknowledge(bench)
            if self.plan.bug in seeded.LASTING:
                seeded.switch_on(self.plan.bug, bench)
            for problem in Judge(self.driver, bench, self.before, told, commits).judge():
                bench.say(f"P {problem}")
            bench.say("D")

        ending = child(work, self.bench)
        problems = [line[2:] for line in ending.lines if line.startswith("P ")]
        if "D" not in ending.lines:
            problems.append(f"judging ended with {ending.how or 'an error'}: {ending.lines[-1:]}")
        return problems

    @contextlib.contextmanager
    def _company(self, number: int) -> Iterator[None]:
        """A live reader and a process that joins in, where the plan or the driver wants one."""
        reader = LiveReader(self.bench, keeps=self.plan.reader == "keeps") if self.plan.reader else None
        helper = Helper(self.bench, self.driver) if self.driver.beside else None
        self.helper, self.bench.helper = helper, helper.call if helper else None
        try:
            yield
        finally:
            self.helper, self.bench.helper = None, None
            if helper is not None:
                helper.end()
            if reader is not None:
                rounds, problems = reader.end()
                self.result.rounds += rounds
                self._bad(f"point {number}", problems)

    # -- points -------------------------------------------------------------------------------------------------

    def _rehearse(self, kinds: int) -> list[Seen]:
        self.template.restore()
        with self._company(0):
            self.shim.reset()
            ending = self._act(lambda: self.shim.arm(None, 0, kinds=kinds))
            calls = self.shim.calls()
        if ending.how or not ending.line("E") or ending.line("E")[1] != "-" or not calls:
            raise AssertionError(f"the rehearsal of {self.plan.driver} failed: {ending}")
        renamed = [seen for seen in calls if seen.name == "rename"]
        if renamed:
            raise AssertionError(f"the product renames: {renamed}")
        return calls

    def _sweep(self, action: Action) -> None:
        calls = self._rehearse(action.kinds)
        self.result.calls = max(self.result.calls, len(calls))
        points = [
            number
            for number, seen in enumerate(calls, 1)
            if action.fits(seen) and (not self.plan.calls or seen.name in self.plan.calls)
        ]
        for number in self._taken(thinned(points, calls, self.plan.most, self.dice)):
            self._point(action, number, calls[number - 1])

    def _taken(self, points: Iterable[int]) -> Iterator[int]:
        """Yield the points that the limits of the plan leave, and count all of them."""
        plan, result = self.plan, self.result
        for number in points:
            result.of += 1
            late = plan.seconds and result.done and time.monotonic() - self.began > plan.seconds
            if result.of <= plan.first or (plan.points and result.done >= plan.points) or late:
                continue
            result.done += 1
            yield number

    def _point(self, action: Action, number: int, seen: Seen) -> None:
        where = f"{action.name} at call {number} ({seen.name} {seen.path})"
        self.result.planned += 1
        again = not action.kills and not action.lasting and number % 2 == 1
        # A writer with company may make a call less than in the rehearsal: LMDB does without some when its lock file is
        # in use. The point is then tried a call earlier.
        tries = _TRIES if self.plan.reader else 1
        for earlier in range(tries):
            last = earlier + 1 == tries
            if self._try(action, number - earlier, where, again=again, last=last):
                self.result.happened += 1
                return
        self._bad(where, ["it did not happen"])

    def _try(self, action: Action, number: int, where: str, *, again: bool, last: bool) -> bool:
        """Do one point; returns whether it happened."""
        self.template.restore()
        self.shim.reset()
        with self._company(number):
            ending = self._act(lambda: self.shim.arm(action, number), again=again)
            happened = self.shim.told.happened > 0
            if not happened and not last:
                return False
            told = ending.told + (self.helper.told() if self.helper else Acknowledged())
            self._note(action, ending, where, again=again)
            if self.plan.nested and ending.how == "SIGKILL":
                self._nested(told, where)
            self._bad(where, self._judge(told, self.commits + (1 if again else 0)))
        return happened

    def _note(self, action: Action | None, ending: Ending, where: str, *, again: bool = False) -> None:
        """Book how the writer ended, and whether it may."""
        if action is not None and action.kills:
            self.result.endings["killed" if ending.how == "SIGKILL" else ending.how or "survived"] += 1
            if ending.how != "SIGKILL":
                self._bad(where, [f"expected it to be killed, found {ending.how or ending.lines[-1:]}"])
            return
        found = ending.line("E")
        if ending.how or not found:
            self.result.endings[ending.how or "silence"] += 1
            dead = ending.how.startswith("SIG") and foreign(ending.place)
            if action is None and (dead or (ending.how == "hang" and ending.starts_a_thread)):
                # Not every library survives every failed allocation; the cache must survive that like any other death.
                self.result.deaths[f"{ending.how} in {ending.place}"] += 1
                return
            self._bad(where, [f"it ended with {ending.how or 'nothing said'} {ending.place}"])
            return
        code, kind, text = int(found[0]), found[1], found[2]
        self.result.endings[f"exit {code}"] += 1
        if kind != "-":
            self.result.errors[kind] += 1
        of_ours = kind == "-" or kind.startswith(OWN)
        # Python itself turns some failed allocations into other errors, a TypeError of `stat` among them, and numpy
        # has a MemoryError of its own.
        memory = action is None and kind.startswith(("builtins.", "numpy."))
        wrong = not of_ours or code not in range(9) or code == ExitCode.INTERNAL
        # Whatever the disk refuses, the journal is sound: to call it damaged would send people to rebuild it.
        alarm = code == ExitCode.DAMAGED and not self.driver.mends
        if (wrong and not memory) or alarm:
            self._bad(where, [f"it ended with exit code {code} and {kind}: {text}"])
        if again and code:
            found = ending.line("R")
            if not found or found[1] != "-":
                self._bad(where, [f"the next build of the same process: {found or ending.how}"])

    def _nested(self, told: Acknowledged, where: str) -> None:
        """Kill the next build, too, and look at what that leaves; the cache is then as the first kill left it."""
        kept = Template(self.bench.layout.root)
        # Of the point alone: a sweep that begins later takes the same.
        dice = random.Random(f"{self.plan.seed} {self.plan.driver} {where}")

        def build(arm: Callable[[], None]) -> Ending:
            def work(bench: Bench) -> None:
                acknowledge(bench)
                arm()
                self._attempt(bench, lambda found: self.driver.build(found, "nested"))

            return child(work, self.bench)

        self.shim.reset()
        build(lambda: self.shim.arm(None, 0))
        count = self.shim.told.count
        for number in sorted(dice.sample(range(1, count + 1), min(self.plan.nested, count))):
            action = ACTIONS[dice.choice(("kill", "after"))]
            kept.restore()
            self.shim.reset()
            self.result.planned += 1
            ending = build(lambda action=action, number=number: self.shim.arm(action, number))
            happened = self.shim.told.happened
            self.result.happened += happened > 0
            inner = f"{where}, then {action.name} at call {number} of the next build"
            if not happened:
                self._bad(inner, ["it did not happen"])
            self._note(action, ending, inner)
            self._bad(inner, self._judge(told + ending.told, self.commits + 1))
        kept.restore()

    # -- allocations --------------------------------------------------------------------------------------------

    def _load_modules(self) -> None:
        """Import here, before any fork, what the writer imports when it first needs it.

        An allocation that fails while CPython reads a compiled module is a test of CPython, and 3.13 fails it.
        """

        def work(bench: Bench) -> None:
            acknowledge(bench)
            self._attempt(bench, self.driver.act)
            self._attempt(bench, self._once_more, mark="R")
            bench.say(f"M {' '.join(sorted(sys.modules))}")

        self.template.restore()
        ending = child(work, self.bench)
        if not ending.lines or not ending.lines[-1].startswith("M "):
            raise AssertionError(f"{self.plan.driver} did not tell its modules: {ending}")
        for name in ending.lines[-1].split()[1:]:
            # Some entries are no modules of their own.
            with contextlib.suppress(ImportError):
                importlib.import_module(name)

    def _sweep_allocations(self) -> None:
        self._load_modules()
        self.template.restore()
        self.shim.reset()
        ending = self._act(lambda: self.shim.arm_allocations(0, for_good=False))
        count = self.shim.told.allocations
        if ending.line("E")[:2] != [str(int(ExitCode.DONE)), "-"] or not count:
            raise AssertionError(f"the rehearsal of {self.plan.driver} failed: {ending}, {count} allocations")
        self.result.calls = count
        step = max(1, count // self.plan.allocations)
        first = self.dice.randrange(1, step + 1)
        for number in self._taken(range(first, count - count // 50, step)):
            self.template.restore()
            self.shim.reset()
            self.result.planned += 1
            again = SOUND_WITHOUT_MEMORY and number % 2 == 1
            ending = self._act(
                lambda number=number: self.shim.arm_allocations(number, for_good=False), again=again
            )
            self.result.happened += self.shim.told.happened > 0
            where = f"allocation {number} of {count}"
            if not self.shim.told.happened:
                self._bad(where, ["it did not happen"])
            self._note(None, ending, where, again=again)
            self._bad(where, self._judge(ending.told, self.commits + 1))

    def _bad(self, where: str, problems: Sequence[str]) -> None:
        self.result.bad.extend(f"{where}: {problem}" for problem in problems)


def foreign(place: str) -> bool:
    """Whether a death happened in a library that C10 does not write its cache with."""
    return bool(place) and not place.startswith(("somewhere", "_lmdb", "lmdb", "cpython"))
