"""Nodes of a Ray cluster that are processes of their own, on one network of this machine or each in a namespace."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MARK = "C10_TEST_RAY_NODE"
START_S = 90.0


def processes(mark):
    """Return the number and the command of every process that has an entry of its environment, such as `A=1`."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().split(b"\0")[0].decode()
    return found


def free_port(address):
    with socket.socket() as found:
        found.bind((address, 0))
        return found.getsockname()[1]


class Node:
    """One node with one processor, begun with `ray start`."""

    def __init__(self, name, arguments, *, prefix=()):
        self.mark = mark_of(name)
        variables = dict([self.mark.split("=")]) | {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_period_ms": "500",
        }
        command = [*prefix, sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]
        done = subprocess.run(
            [*command, "--num-cpus", "1", "--disable-usage-stats"],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=START_S,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]

    def actors(self):
        """The processes of C10's actors on it."""
        return [
            pid for pid, command in processes(self.mark).items() if command.startswith("ray::TileEmbedder")
        ]

    def kill(self):
        """End everything of it at once, as a loss of power does; returns the commands that were ended."""
        return end(self.mark)


def end(mark):
    """End all processes with that mark, and those that they begin meanwhile; returns their commands."""
    ended = []
    while left := processes(mark):
        for pid, command in left.items():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                ended.append(command)
        time.sleep(0.05)
    return ended


def mark_of(name):
    return f"{MARK}={os.getpid()}-{name}"


def why_no_namespaces():
    """Why no network namespaces can be made here, or nothing."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if shutil.which("ip") is None:
        return "needs the command ip"
    name = f"c10-try-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return "needs network namespaces"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


@contextlib.contextmanager
def cable():
    """A network of two ends: this process is at one, a namespace at the other.

    Yields:
        The address here, the address there, and what a command begins with that is to run there.
    """
    name, number = f"c10-{os.getpid()}", os.getpid() % 250
    here, there = f"10.213.{number}.1", f"10.213.{number}.2"
    near, far = f"c10a{number}", f"c10b{number}"
    steps = [
        ["netns", "add", name],
        ["link", "add", near, "type", "veth", "peer", "name", far, "netns", name],
        ["addr", "add", f"{here}/30", "dev", near],
        ["link", "set", near, "up"],
        ["-n", name, "addr", "add", f"{there}/30", "dev", far],
        ["-n", name, "link", "set", far, "up"],
        ["-n", name, "link", "set", "lo", "up"],
    ]
    try:
        for step in steps:
            subprocess.run(["ip", *step], check=True)
        yield here, there, ("ip", "netns", "exec", name)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


@contextlib.contextmanager
def two_nodes(here, there, *, prefix=()):
    """A head, on which this process builds, and another node.

    Yields:
        The address of the cluster and both nodes.
    """
    folder = tempfile.mkdtemp(prefix="c10ray")
    nodes = []
    try:
        address = f"{here}:{free_port(here)}"
        head = ["--head", "--node-ip-address", here, "--port", address.rpartition(":")[2]]
        nodes.append(Node("head", [*head, "--temp-dir", folder, "--include-dashboard=false"]))
        nodes.append(Node("far", ["--address", address, "--node-ip-address", there], prefix=prefix))
        yield address, *nodes
    finally:
        for name in ("far", "head"):
            end(mark_of(name))
        shutil.rmtree(folder, ignore_errors=True)
