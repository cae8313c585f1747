"""Errors of the system at the calls that change something, once and for good, and allocations that fail.

The writer ends with one of the project's own errors and a documented exit code, or well, and never hangs or dies by a
signal; the cache is then as whole as after a kill. Where the error came once, the same process builds again at once.
"""

import pytest

from tests.crash.harness.gate import of_plans, points
from tests.crash.harness.plan import Plan
from tests.crash.harness.shim import ERRORS
from tools.exit_codes import ExitCode

pytestmark = pytest.mark.deep

SEED = 1
ALLOCATIONS = 40
"""Of hundreds of thousands; `tests/crash/soak.py` takes more of them."""

LEAST_POINTS = 600
FEW = ("ENOSPC", "EIO+")
MAIN = ("short", "ENOSPC", "ENOSPC+", "EIO", "EIO+")
OTHERS = tuple(name for name in ERRORS if name not in MAIN)

PLANS = [
    Plan(driver="build", actions=MAIN, most=1, seed=SEED),
    Plan(driver="build", actions=OTHERS, calls=("open", "link", "write", "pwrite"), most=1, seed=SEED),
    *(
        Plan(driver=name, actions=FEW, most=1, seed=SEED)
        for name in ("birth", "rollback", "recovery-commit", "gc", "proven")
    ),
    Plan(driver="rebuild", actions=("EIO",), most=1, seed=SEED),
    Plan(driver="provision", actions=FEW, most=1, seed=SEED),
    Plan(driver="prove", actions=("ENOSPC",), most=1, seed=SEED),
    Plan(driver="import", actions=("ENOSPC",), most=1, seed=SEED),
    *(
        Plan(driver=name, actions=("ENOSPC",), most=1, seed=SEED)
        for name in ("provision-repair", "provision-engines")
    ),
    Plan(driver="build", allocations=ALLOCATIONS, seed=SEED),
    Plan(driver="provision", allocations=ALLOCATIONS, seed=SEED),
]
CODES = {f"exit {code}" for code in range(9)} - {f"exit {ExitCode.INTERNAL:d}"}


@of_plans(PLANS)
def test_an_error_ends_cleanly(gate, plan):
    result = gate[plan].wait()
    assert result["bad"] == []
    assert result["planned"] == result["happened"] == sum(result["endings"].values()) > 0
    if not plan.allocations:
        assert set(result["endings"]) <= CODES
        assert set(result["endings"]) - {"exit 0"}, "some errors were noticed"


def test_the_plans_are_many_points(gate):
    assert points(gate) >= LEAST_POINTS
