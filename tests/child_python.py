"""Run Python code in a process of its own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_python(code, *arguments, check=True, **options):
    """Return what the process wrote and how it ended; fail unless it succeeded, or `check` is false."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    settings = {"cwd": ROOT, "capture_output": True, "text": True} | options
    done = subprocess.run(command, check=False, **settings)
    assert not check or done.returncode == 0, done.stderr
    return done
