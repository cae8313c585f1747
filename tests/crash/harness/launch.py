"""Start sweeps, two at a time, and wait for their results."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.crash.harness import shim
from tests.crash.harness.sweep import LIBRARY, Plan

ROOT = Path(__file__).parents[3]
AT_ONCE = 2


def sweep(plan: Plan, library: Path, *, timeout_s: float | None = None) -> dict[str, Any]:
    """Carry out a plan in a process of its own; returns its result as a document.

    Raises:
        AssertionError: The sweep itself broke down.
    """
    environment = os.environ | {
        "LD_PRELOAD": str(library),
        LIBRARY: str(library),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    if plan.allocations:
        environment["PYTHONMALLOC"] = "malloc"
    command = [sys.executable, "-m", "tests.crash.harness.sweep", json.dumps(asdict(plan))]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout_s
    )
    if done.returncode:
        raise AssertionError(f"{plan}: the sweep broke down with {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def sweeps(plans: Iterable[Plan], folder: Path, *, at_once: int = AT_ONCE) -> list[dict[str, Any]]:
    """Carry out plans, some at once, in their order."""
    library = shim.build(folder)
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda plan: sweep(plan, library), plans))
