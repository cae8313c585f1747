"""A file system of a few mebibytes in memory, to be filled to its last byte."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(at: Path, *, mebibytes: int) -> Iterator[Path]:
    """Mount one on a new folder; skips the test where this user may not mount."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    at.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "c10-test", str(at)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def free_bytes(at: Path) -> int:
    """How much may still be written there."""
    about = os.statvfs(at)
    return about.f_bavail * about.f_frsize
