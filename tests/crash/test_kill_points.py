"""Writers killed before, half-way and after the calls that change something, with and without a live reader.

After each kill the cache opens with nobody's help, shows the old or the new generation and verifies in full; nothing
that was acknowledged is lost; the next build makes nothing again that the journal holds; and nothing is left that a
collection would not remove. `tests/crash/soak.py` does every call of every writer.
"""

import os

import pytest

from tests.crash.harness.drivers import DRIVERS
from tests.crash.harness.gate import Gate, named, summary
from tests.crash.harness.sweep import Plan

pytestmark = pytest.mark.skipif(
    not os.environ.get("C10_RIGS"), reason="takes minutes on a quiet machine: run it with C10_RIGS=1"
)

SEED = 1
NESTED = 1
"""Kills of the next build after each kill of the first."""

LEAST_POINTS = 400
"""All plans together."""

LIGHT = [name for name, driver in DRIVERS.items() if not driver.heavy]
HEAVY = ["provision", "provision-damaged", "provision-engines", "provision-repair"]
READERS = [("birth", "looks"), ("rollback", "keeps"), ("gc", "looks")]

PLANS = [
    *(Plan(driver=name, actions=("kill",), most=1, seed=SEED) for name in LIGHT),
    *(
        Plan(driver=name, actions=("torn",), most=2, seed=SEED)
        for name in ("birth", "build", "rollback", "gc")
    ),
    *(Plan(driver=name, actions=("kill",), most=1, seed=SEED) for name in HEAVY),
    *(Plan(driver=name, actions=("after",), most=1, reader=reader, seed=SEED) for name, reader in READERS),
    Plan(driver="build", actions=("kill",), most=1, nested=NESTED, seed=SEED),
]


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    gate = Gate(PLANS, tmp_path_factory.mktemp("shim"))
    yield gate
    gate.end()


@pytest.mark.parametrize("plan", PLANS, ids=named)
def test_a_kill_costs_nothing(gate, plan):
    result = gate.result(plan)
    print(summary(result))
    assert result["bad"] == []
    assert result["planned"] == result["happened"] > 0
    assert result["endings"] == {"killed": result["planned"]}
    # One round before and one after, at least.
    assert result["rounds"] >= 2 * result["planned"] * bool(plan.reader)


def test_the_plans_are_many_points(gate):
    assert sum(gate.result(plan)["happened"] for plan in PLANS) >= LEAST_POINTS
