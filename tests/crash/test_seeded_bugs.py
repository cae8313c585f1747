"""The rigs are tested with bugs that are switched on in the writer: what a kill can show, they find.

A missing sync is not among it: the death of a process takes nothing from the kernel. That a kill does not see it is
held here, too, so that nobody takes these rigs for more than they are; `tests/crash/powercut` finds those.
"""

from dataclasses import replace

import pytest

from tests.crash.harness.gate import of_plans
from tests.crash.harness.plan import Plan
from tests.crash.harness.seeded import BUGS

pytestmark = pytest.mark.deep

SEED = 1
UNSEEN = ("no_file_sync", "no_folder_sync")

FOUND = {
    # the plan that finds it: what is said of it
    Plan(
        driver="build", bug="acknowledge_first", actions=("kill",), calls=("pwrite",), most=5
    ): "acknowledged and is gone",
    Plan(driver="build", bug="commit_first", actions=("kill",), calls=("link",)): "was never stored",
    Plan(driver="build", bug="visible_first", actions=("after",), calls=("link",)): "lost its newest records",
    Plan(driver="build", bug="in_place", actions=("torn",), calls=("write",)): "is torn",
    Plan(driver="build", bug="early_exit", actions=("kill",), calls=("close",), most=2): "readers see 1",
    Plan(driver="build", bug="sticky_lock", actions=("kill",), calls=("rmdir",)): "build.lock.d",
    Plan(driver="build", bug="untidy_errors", actions=("EIO",), calls=("link",)): "builtins.OSError",
    Plan(
        driver="birth", bug="plain_birth", actions=("torn",), calls=("pwrite", "writev"), most=2
    ): "JournalDamaged",
    Plan(
        driver="signed", bug="manifest_first", actions=("kill",), calls=("link",), most=2
    ): "before its segment",
    Plan(driver="gc-signed", bug="retire_backwards", actions=("kill",), calls=("unlink",)): "00000002.sig",
    Plan(
        driver="gc-signed", bug="retire_unplanned", actions=("kill",), calls=("unlink",), most=2
    ): "nobody planned it",
    Plan(
        driver="mirror", bug="mirror_head_first", actions=("kill",), calls=("link",), most=2
    ): "before its segment",
    Plan(driver="mirror", bug="in_place", actions=("torn",), calls=("write",), most=1): "is torn",
    Plan(driver="company", bug="stale_head", actions=("kill",), calls=("link",), most=2): "to project to",
    Plan(
        driver="rollback", bug="lagging_head", actions=("after",), calls=("pwrite",), reader="keeps"
    ): "cannot follow",
}
NOT_FOUND = [
    Plan(driver="build", bug=bug, actions=("kill",), calls=("link", "fsync", "pwrite"), most=2, seed=SEED)
    for bug in UNSEEN
]
HEALTHY = [
    replace(plan, bug="", seed=SEED)
    for plan in FOUND
    if plan.bug in {"plain_birth", "lagging_head", "stale_head", "retire_backwards"}
]
"""The same plans without the bug: it is the bug that they find."""

PLANS = [*FOUND, *NOT_FOUND, *HEALTHY]


@of_plans(FOUND)
def test_a_seeded_bug_is_found(gate, plan):
    result = gate[plan].wait()
    assert any(FOUND[plan] in line for line in result["bad"]), result["bad"][:3]


@of_plans(NOT_FOUND)
def test_a_kill_cannot_show_a_missing_sync(gate, plan):
    assert gate[plan].wait()["bad"] == []


@of_plans(HEALTHY)
def test_without_the_bug_nothing_is_found(gate, plan):
    assert gate[plan].wait()["bad"] == []


def test_every_seeded_bug_is_tried():
    assert {plan.bug for plan in (*FOUND, *NOT_FOUND)} == set(BUGS)
