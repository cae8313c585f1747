"""A mirror killed before, half-way and after every call that changes the copy, and errors of the disk at all of them.

The copy shows the old head or the new, whole and signed; the next run moves the bytes that are missing, and no others.
"""

import pytest

from tests.crash.harness.gate import of_plans
from tests.crash.harness.plan import Plan
from tests.crash.harness.shim import KILLS
from tools.exit_codes import ExitCode

pytestmark = pytest.mark.deep

SEED = 1
KILLED = [
    Plan(driver="mirror", actions=KILLS, seed=SEED),
    Plan(driver="mirror-birth", actions=("kill",), most=3, seed=SEED),
]
HINDERED = [Plan(driver="mirror", actions=("ENOSPC", "EIO+", "EROFS+", "EMFILE", "short"), most=1, seed=SEED)]
PLANS = [*KILLED, *HINDERED]
CODES = {f"exit {code:d}" for code in (ExitCode.DONE, ExitCode.REFUSED, ExitCode.DISK_FULL)}


@of_plans(KILLED)
def test_a_killed_mirror_shows_the_old_head_or_the_new(gate, plan):
    result = gate[plan].wait()
    assert result["bad"] == []
    assert result["planned"] == result["happened"] > 0
    assert result["endings"] == {"killed": result["planned"]}
    if plan.most is None:
        assert result["planned"] > result["calls"]


@of_plans(HINDERED)
def test_a_hindered_mirror_ends_cleanly(gate, plan):
    result = gate[plan].wait()
    assert result["bad"] == []
    assert result["planned"] == result["happened"] > 0
    assert set(result["endings"]) <= CODES
    assert set(result["endings"]) - {"exit 0"}, "some errors were noticed"
