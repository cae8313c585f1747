"""Builds in processes of their own, and the results of sweeps."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.harness.gate import gate  # noqa: F401 - a fixture
from tests.small_builds import Site, spread

CHILD = Path(__file__).with_name("build_child.py")


class Builder:
    """A process that builds. Its lines are read one by one."""

    def __init__(self, site, *actions, wrapper=()):
        # Scratch folders of a killed build stay behind; they must not stay in the machine's.
        scratch = site.root / "scratch"
        scratch.mkdir(exist_ok=True)
        command = [*wrapper, sys.executable, str(CHILD), str(site.root), *map(json.dumps, actions)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(scratch)}
        )
        self.lines = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def until(self, wanted, *, times=1):
        """Read up to and with the n-th line that begins so; returns it."""
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            times -= line.startswith(wanted)
            if not times:
                return self.lines[-1]
        raise AssertionError(f"expected {wanted!r}, found {self.lines[-5:]} and the end")

    def report(self):
        """The next report."""
        return json.loads(self.until("report").partition(" ")[2])

    def finish(self):
        """All reports and errors that are still to come."""
        self.lines.extend(line.rstrip("\n") for line in self.process.stdout)
        assert self.process.wait() == 0
        return [
            json.loads(line.partition(" ")[2])
            for line in self.lines
            if line.startswith(("report ", "error "))
        ]

    def descendants(self):
        """Pids of the processes below this one."""
        found, todo = [], [self.process.pid]
        while todo:
            below = [pid for parent in [todo.pop()] for pid in children_of(parent)]
            found += below
            todo += below
        return found

    def kill(self):
        """End it as `kill -9` does; returns the pids of those that were below it."""
        below = self.descendants()
        self.process.kill()
        self.process.wait()
        return below


def children_of(pid):
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [int(word) for word in path.read_text().split()]
    return found


@pytest.fixture
def site(tmp_path):
    """A site with forty tiles and one generation."""
    site = Site(tmp_path)
    site.write_tiles(spread())
    assert site.build().outcome == "built"
    return site


@pytest.fixture
def builder():
    """Starts builders, and ends them."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(Builder(*args, **options))
