"""Processes that carry out plans, two at a time, and their results as they come."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from store.backports import Self
from tests.crash.harness.drivers import DRIVERS
from tests.crash.harness.plan import Plan
from tests.crash.harness.serve import HEAVY, LIBRARY, LIGHT

ROOT = Path(__file__).parents[3]
AT_ONCE = 2

Result = dict[str, Any]


class Kind(NamedTuple):
    """What a process must be like to carry out a plan."""

    heavy: bool
    allocations: bool


def kind_of(plan: Plan) -> Kind:
    """The kind of process that a plan needs."""
    return Kind(DRIVERS[plan.driver].heavy, bool(plan.allocations))


class Sweeper:
    """A process that carries out plans of one kind."""

    def __init__(self, kind: Kind, library: Path):
        self.kind = kind
        environment = os.environ | {
            "LD_PRELOAD": str(library),
            LIBRARY: str(library),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        if kind.allocations:
            environment["PYTHONMALLOC"] = "malloc"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.harness.serve", HEAVY if kind.heavy else LIGHT],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def sweep(self, plan: Plan) -> Result:
        """Carry out a plan.

        Raises:
            AssertionError: The sweep itself broke down.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(plan)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        found: Result = json.loads(line) if line else {"broken": f"ended with {self._process.wait()}"}
        if "broken" in found:
            raise AssertionError(f"{plan}: the sweep broke down:\n{found['broken'][-3000:]}")
        return found

    def stop(self) -> None:
        """End it in the middle of a plan."""
        self._process.terminate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let it end."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()


class Sweepers:
    """Carries out plans in their order, some at once."""

    def __init__(self, plans: Iterable[Plan], library: Path, *, at_once: int = AT_ONCE):
        self.results: dict[Plan, Future[Result]] = {plan: Future() for plan in plans}
        self._library, self._lock = library, threading.Lock()
        self._left = deque(self.results)
        self._started: list[Sweeper] = []
        self._threads = [threading.Thread(target=self._work) for _ in range(at_once)]
        for thread in self._threads:
            thread.start()

    def _next(self) -> Plan | None:
        with self._lock:
            return self._left.popleft() if self._left else None

    def _work(self) -> None:
        with contextlib.ExitStack() as stack:
            started: dict[Kind, Sweeper] = {}
            while plan := self._next():
                kind = kind_of(plan)
                try:
                    if kind not in started:
                        started[kind] = stack.enter_context(Sweeper(kind, self._library))
                        self._started.append(started[kind])
                    self.results[plan].set_result(started[kind].sweep(plan))
                except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the result
                    started.pop(kind, None)
                    self.results[plan].set_exception(error)

    def leave_out(self) -> None:
        """Begin no more plans; those that were not begun are cancelled."""
        with self._lock:
            for plan in self._left:
                self.results[plan].cancel()
            self._left.clear()

    def stop(self) -> None:
        """End what was begun in the middle, and begin no more."""
        self.leave_out()
        for sweeper in self._started:
            sweeper.stop()

    def end(self) -> None:
        """Wait for what was begun, and begin no more."""
        self.leave_out()
        for thread in self._threads:
            thread.join()
