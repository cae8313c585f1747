"""Start a rig in a process of its own and read its answer.

A rig forks, loads libraries after that, dies at times and needs an interpreter without the libraries of other tests.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def rig(module, *arguments, expect=0):
    """The answer of `python -m tests.crash.MODULE ARGUMENTS`; skips where the rig says why it cannot run."""
    command = [sys.executable, "-m", f"tests.crash.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr[-2000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    if "skipped" in answer:
        pytest.skip(answer["skipped"])
    if expect is not None:
        assert answer["failures"] == expect, answer["examples"]
    return answer
