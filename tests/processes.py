"""The child processes of the tests' own process."""

import os
from pathlib import Path


def child_pids():
    """Return the pids of the children, as text, that were started from the main thread."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
