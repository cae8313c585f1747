"""What the test modules of the sweeps have in common: a module has `PLANS`, and asks for the result of one of them.

All plans that were selected are begun at the first question, two at a time.
"""

from typing import Any

import pytest

from tests.crash.harness import shim
from tests.crash.harness.launch import Sweepers
from tests.crash.harness.plan import Plan


@pytest.fixture(scope="module")
def gate(request, tmp_path_factory):
    """The results of the module's plans, by plan."""
    if shim.compiler() is None:
        pytest.skip("the library that kills and hinders writers is compiled with gcc, which is not here")
    sweepers = Sweepers(_asked(request), shim.build(tmp_path_factory.mktemp("shim")))
    yield {plan: Promise(future) for plan, future in sweepers.results.items()}
    sweepers.end()


def _asked(request) -> list[Plan]:
    """The plans that selected tests of this module want: all of them if a test wants more than its own."""
    asked = list[Plan]()
    for item in request.session.items:
        if item.module is request.module and "gate" in getattr(item, "fixturenames", ()):
            plan = item.callspec.params.get("plan") if hasattr(item, "callspec") else None
            asked += list(request.module.PLANS) if plan is None else [plan]
    return list(dict.fromkeys(asked))


class Promise:
    """A result that may still be under way."""

    def __init__(self, future):
        self._future = future

    def wait(self) -> dict[str, Any]:
        """The result, when it is there."""
        result = self._future.result()
        print(summary(result))
        return result


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
    return f"{plan.driver}{how}-{'-'.join(plan.actions)}" if not plan.bug else f"{plan.bug}-{plan.driver}"


def of_plans(plans):
    """A test for each plan."""
    return pytest.mark.parametrize("plan", plans, ids=named)


def points(gate) -> int:
    """How many things happened in all plans together."""
    return sum(promise.wait()["happened"] for promise in gate.values())


def summary(result: dict[str, Any]) -> str:
    """The figures of a result, in one line."""
    plan = result["plan"]
    return (
        f"{plan['driver']}: {result['calls']} calls, {result['planned']} points planned, {result['happened']} happened, "
        f"{result['endings']}, {len(result['bad'])} bad, seed {plan['seed']}, {result['seconds']:.0f} s"
    )
