"""Kill or hinder one writer at every planned call, and judge the cache after each: `python -m … PLAN` prints a result.

Started with the library of `shim.c` preloaded. This process loads everything once and forks a child for each thing
that happens, so that a point costs milliseconds. It never opens a cache itself: LMDB, faiss and ONNX Runtime must not
be used before a fork.
"""

import contextlib
import gc
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from journal import environment
from tests.crash.harness import seeded
from tests.crash.harness.bench import Acknowledged, Bench, acknowledge, acknowledged, copy_tree, remove_tree
from tests.crash.harness.check import Before, Judge, remember
from tests.crash.harness.drivers import DRIVERS, Driver
from tests.crash.harness.readers import LiveReader
from tests.crash.harness.shim import ACTIONS, Action, Seen, Shim
from tools.exit_codes import ExitCode, code_of

LIBRARY = "C10_TEST_CRASH_SHIM"
HANG_S = 30
_TRIES = 5
OWN = ("journal.", "store.", "pipeline.", "tools.")


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


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of it.

    Attributes:
        calls: How many calls the writer makes that count.
        planned: Points: things that were to happen, nested ones included.
        happened: Points at which they did.
        endings: How often the writer ended how: killed, an exit code, a hang, a signal.
        errors: How often which error was met.
        rounds: Rounds of live readers.
        bad: What was wrong, with its point.
        seconds: How long it took.
    """

    plan: Plan
    calls: int = 0
    planned: int = 0
    happened: int = 0
    endings: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    errors: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    rounds: int = 0
    bad: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How a child ended: the signal or `hang`, or nothing; its lines."""

    how: str
    lines: list[str]

    @property
    def told(self) -> Acknowledged:
        return acknowledged(self.lines)

    def line(self, mark: str) -> list[str]:
        """The words of the last line with a mark."""
        found = [line.split(maxsplit=3) for line in self.lines if line.startswith(f"{mark} ")]
        return found[-1][1:] if found else []


def child(work: Callable[[Bench], None], bench: Bench) -> Ending:
    """Do something in a child that tells through a pipe."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            os.close(reading)
            bench.pipe = writing
            work(bench)
        os._exit(0)
    os.close(writing)
    data, hung, deadline = b"", False, time.monotonic() + HANG_S
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(pid, signal.SIGKILL)
            hung = True
            break
        piece = os.read(reading, 65536)
        if not piece:
            break
        data += piece
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    how = "hang" if hung else ""
    if not hung and os.WIFSIGNALED(status):
        how = signal.Signals(os.WTERMSIG(status)).name
    return Ending(how, data.decode(errors="replace").splitlines())


class Sweep:
    """One plan, carried out."""

    def __init__(self, plan: Plan, work: Path, shim: Shim):
        self.plan, self.work, self.shim = plan, work, shim
        self.driver: Driver = DRIVERS[plan.driver]
        self.root, self.template, self.kept = work / "bench", work / "template", work / "kept"
        self.bench = Bench(self.root, signer=self.driver.signer)
        self.dice = random.Random(f"{plan.seed} {plan.driver}")
        self.result = Result(plan=plan)
        self.before = Before()
        self.commits = self.driver.commits
        self.helper: _Helper | None = None

    def run(self) -> Result:
        """Rehearse, then do every point."""
        began = time.monotonic()
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
        if self.bench.layout.root.exists():
            copy_tree(self.bench.layout.root, self.template)

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

    def _fresh(self, source: Path | None = None) -> None:
        remove_tree(self.bench.layout.root)
        source = self.template if source is None else source
        if source.exists():
            copy_tree(source, self.bench.layout.root)

    # -- children -----------------------------------------------------------------------------------------------

    def _act(self, arm: Callable[[], None], *, again: bool = False) -> Ending:
        """The writer, with something planned for it; perhaps it then builds again in the same process."""

        def work(bench: Bench) -> None:
            acknowledge(bench)
            seeded.switch_on(self.plan.bug, bench)
            gc.disable()
            arm()
            code = self._attempt(bench, self.driver.act)
            self.shim.disarm()
            gc.enable()
            if again and code:
                self._attempt(bench, self._once_more, mark="R")

        return child(work, self.bench)

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
        helper = _Helper(self.bench, self.driver) if self.driver.beside else None
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
        self._fresh()
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
        for number in thinned(points, calls, self.plan.most, self.dice):
            self._point(action, number, calls[number - 1])

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
        self._fresh()
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
            if action is None and self.driver.heavy and ending.how == "SIGSEGV":
                # NumPy does not survive every failed allocation; the cache must survive that like any other death.
                return
            self._bad(where, [f"it ended with {ending.how or 'nothing said'}"])
            return
        code, kind, text = int(found[0]), found[1], found[2]
        self.result.endings[f"exit {code}"] += 1
        if kind != "-":
            self.result.errors[kind] += 1
        of_ours = kind == "-" or kind.startswith(OWN)
        # Python itself turns some failed allocations into other errors, a TypeError of `stat` among them.
        memory = action is None and kind.startswith("builtins.")
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
        remove_tree(self.kept)
        if self.bench.layout.root.exists():
            copy_tree(self.bench.layout.root, self.kept)

        def build(arm: Callable[[], None]) -> Ending:
            def work(bench: Bench) -> None:
                acknowledge(bench)
                arm()
                self._attempt(bench, lambda found: self.driver.build(found, "nested"))

            return child(work, self.bench)

        self.shim.reset()
        build(lambda: self.shim.arm(None, 0))
        count = self.shim.told.count
        for number in sorted(self.dice.sample(range(1, count + 1), min(self.plan.nested, count))):
            action = ACTIONS[self.dice.choice(("kill", "after"))]
            self._fresh(self.kept)
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
        self._fresh(self.kept)

    # -- allocations --------------------------------------------------------------------------------------------

    def _sweep_allocations(self) -> None:
        self._fresh()
        self.shim.reset()
        ending = self._act(lambda: self.shim.arm_allocations(0, for_good=False))
        count = self.shim.told.allocations
        if ending.line("E")[:2] != [str(int(ExitCode.DONE)), "-"] or not count:
            raise AssertionError(f"the rehearsal of {self.plan.driver} failed: {ending}, {count} allocations")
        self.result.calls = count
        step = max(1, count // self.plan.allocations)
        first = self.dice.randrange(1, step + 1)
        for number in range(first, count - count // 50, step):
            self._fresh()
            self.shim.reset()
            self.result.planned += 1
            ending = self._act(
                lambda number=number: self.shim.arm_allocations(number, for_good=False), again=number % 2 == 1
            )
            self.result.happened += self.shim.told.happened > 0
            where = f"allocation {number} of {count}"
            if not self.shim.told.happened:
                self._bad(where, ["it did not happen"])
            self._note(None, ending, where, again=number % 2 == 1)
            self._bad(where, self._judge(ending.told, self.commits + 1))

    def _bad(self, where: str, problems: Sequence[str]) -> None:
        self.result.bad.extend(f"{where}: {problem}" for problem in problems)


class _Helper:
    """A process that was forked before the writer began, and joins in when it is called."""

    def __init__(self, bench: Bench, driver: Driver):
        called, self._call = os.pipe()
        self._answered, answer = os.pipe()
        telling, self._tell = os.pipe()
        os.set_blocking(telling, False)
        self._telling, self._lines = telling, b""
        self.pid = os.fork()
        if not self.pid:
            os.close(self._call)
            with contextlib.suppress(BaseException):
                signal.alarm(HANG_S)
                own = Bench(bench.root, pipe=self._tell)
                acknowledge(own)
                while os.read(called, 1):
                    driver.beside(own)  # type: ignore[misc]
                    os.write(answer, b"d")
            os._exit(0)
        os.close(called)
        os.close(answer)
        os.close(self._tell)

    def call(self) -> None:
        """Let it do its part, and wait for that; in the writer's process."""
        os.write(self._call, b"c")
        if os.read(self._answered, 1) != b"d":
            raise AssertionError("the process beside did not do its part")

    def told(self) -> Acknowledged:
        """What it acknowledged."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._telling, 65536):
                self._lines += data
        return acknowledged(self._lines.decode().splitlines())

    def end(self) -> None:
        """Let it go."""
        for fd in (self._call, self._answered, self._telling):
            os.close(fd)
        os.waitpid(self.pid, 0)


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


def main(text: str) -> None:
    values = json.loads(text)
    plan = Plan(**values | {name: tuple(values.get(name, ())) for name in ("actions", "calls")})
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
    work = Path(tempfile.mkdtemp(prefix="c10-crash-", dir=base))
    tempfile.tempdir = str(work)
    try:
        if DRIVERS[plan.driver].heavy:
            import faiss  # noqa: F401 - loaded once, before the first fork
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401

            import tests.small_builds  # noqa: F401
        shim = Shim(os.environ[LIBRARY], work / "bench" / "cache")
        # Children then copy fewer pages. Their looks at a quiet journal need no pause for writers.
        gc.collect()
        gc.freeze()
        environment._GLANCE_S = 0.0
        result = Sweep(plan, work, shim).run()
    finally:
        remove_tree(work)
    result.endings, result.errors = dict(result.endings), dict(result.errors)
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main(sys.argv[1])
