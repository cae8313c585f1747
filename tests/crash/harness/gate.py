"""What a test module asks for: its sweeps, all started at the first question, two at a time."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.crash.harness import shim
from tests.crash.harness.launch import AT_ONCE, sweep
from tests.crash.harness.sweep import Plan


class Gate:
    """The results of some plans, by plan."""

    def __init__(self, plans: list[Plan], folder: Path):
        if shim.compiler() is None:
            pytest.skip("the library that kills and hinders writers is compiled with gcc, which is not here")
        library = shim.build(folder)
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._results: dict[Plan, Future[dict[str, Any]]] = {
            plan: self._pool.submit(sweep, plan, library) for plan in plans
        }

    def result(self, plan: Plan) -> dict[str, Any]:
        """Wait for the result of a plan."""
        return self._results[plan].result()

    def end(self) -> None:
        """Wait for what still runs, and start no more."""
        self._pool.shutdown(cancel_futures=True)


def named(plan: Plan) -> str:
    """What a test of a plan is called."""
    how = (
        f"-{plan.reader}"
        if plan.reader
        else "-nested"
        if plan.nested
        else "-memory"
        if plan.allocations
        else ""
    )
    what = "-".join(plan.actions) if len(plan.actions) < 3 else "all"
    return f"{plan.driver}{how}-{what}" if not plan.bug else f"{plan.bug}-{plan.driver}"


def summary(result: dict[str, Any]) -> str:
    """The figures of a result, in one line."""
    plan = result["plan"]
    return (
        f"{plan['driver']}: {result['calls']} calls, {result['planned']} points planned, {result['happened']} happened, "
        f"{result['endings']}, {len(result['bad'])} bad, seed {plan['seed']}, {result['seconds']:.0f} s"
    )
