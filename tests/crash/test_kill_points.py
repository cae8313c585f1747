"""Writers killed before, half-way and after the calls that change something, with and without a live reader.

After each kill the cache opens with nobody's help, shows the old or the new generation and verifies in full; nothing
that was acknowledged is lost; the next build makes nothing again that the journal holds; and nothing is left that a
collection would not remove. `tests/crash/soak.py` does every call of every writer.
"""

import pytest

from tests.crash.harness.drivers import DRIVERS
from tests.crash.harness.gate import of_plans, points
from tests.crash.harness.plan import Plan

pytestmark = pytest.mark.deep

SEED = 1
NESTED = 1
"""Kills of the next build after each kill of the first."""

LEAST_POINTS = 1000
"""All plans together."""

LEFT_OUT = ("build", "prove-birth", "prove-rollback")
"""The first is below; the others do in parts what writers do that are quicker, and are in the long run."""

READERS = [("birth", "looks"), ("rollback", "keeps"), ("gc", "looks")]

PLANS = [
    *(Plan(driver=name, actions=("kill",), most=1, seed=SEED) for name in DRIVERS if name not in LEFT_OUT),
    Plan(driver="build", actions=("kill",), most=1, nested=NESTED, seed=SEED),
    *(
        Plan(driver=name, actions=("torn",), most=2, seed=SEED)
        for name in ("birth", "build", "rollback", "gc")
    ),
    *(Plan(driver=name, actions=("after",), most=1, reader=reader, seed=SEED) for name, reader in READERS),
]


@of_plans(PLANS)
def test_a_kill_costs_nothing(gate, plan):
    result = gate[plan].wait()
    assert result["bad"] == []
    assert result["planned"] == result["happened"] > 0
    assert result["endings"] == {"killed": result["planned"]}
    # One round before and one after, at least.
    assert result["rounds"] >= 2 * result["planned"] * bool(plan.reader)


def test_the_plans_are_many_points(gate):
    assert points(gate) >= LEAST_POINTS
