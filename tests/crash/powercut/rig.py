"""What the two rigs on a real file system share: a writer that is stopped in the middle, and the judgement after."""

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.powercut import writer
from tests.crash.powercut.farm import attempt
from tests.crash.powercut.judge import judge
from tests.crash.powercut.model import Promise

IMAGE_BYTES = 48 << 20


def unable():
    """Why this machine cannot run these rigs, or nothing."""
    if os.geteuid() != 0:
        return "needs root, for loop devices"
    if not Path("/dev/loop-control").exists():
        return "needs /dev/loop-control"
    missing = [name for name in ("mkfs.ext4", "mount", "umount") if shutil.which(name) is None]
    if missing:
        return f"needs {missing[0]}"
    with tempfile.TemporaryDirectory(prefix="c10-mount-") as name:
        try:
            with mounted(blank(Path(name)), Path(name, "try")):
                pass
        except RuntimeError as error:
            return f"needs to mount an image: {error}"
    return None


def sh(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()[-300:]}")


def blank(folder):
    """An image with an empty ext4."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "blank"
    with open(image, "wb") as file:
        file.truncate(IMAGE_BYTES)
    sh("mkfs.ext4", "-q", "-F", image)
    return image


def fresh(image):
    """Copy an image, so that it can be mounted whatever else is: returns the path of the copy; the image is gone.

    A mount namespace that somebody makes meanwhile keeps a copy of a mount, and so the file system and its loop device,
    after the unmounting here. To mount the same file again then shows that one file system, as it was.
    """
    copy = image.with_name(f"{image.name}-{time.monotonic_ns()}")
    sh("cp", "--sparse=always", image, copy)
    image.unlink()
    return copy


@contextlib.contextmanager
def mounted(image, at, *options):
    """Mount an image; what was torn off is repaired by the file system's own journal here."""
    at.mkdir(exist_ok=True)
    sh("mount", "-o", ",".join(("loop", *options)), image, at)
    try:
        yield at
    finally:
        unmount(at)


def unmount(at):
    """Unmount, as soon as the last descriptor of a killed process is gone."""
    for _ in range(100):
        try:
            sh("umount", at)
        except RuntimeError:
            time.sleep(0.02)
        else:
            return
    sh("umount", "-l", at)


class Served:
    """A forked writer that builds until it is killed; its promises come through a pipe."""

    def __init__(self, top, *, bug=""):
        self.text = b""
        self.reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)
                os.close(self.reading)
                with open(os.devnull, "w") as null:
                    os.dup2(null.fileno(), 2)
                writer.main("serves", str(top), f"/proc/self/fd/{writing}", bug)
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        fcntl.fcntl(self.reading, fcntl.F_SETFL, os.O_NONBLOCK)

    def until(self, lines, *, limit_s=60.0):
        """Wait for so many acknowledgements."""
        end = time.monotonic() + limit_s
        while self.text.count(b"\n") < lines and time.monotonic() < end:
            if not self._take():
                time.sleep(0.0005)

    def _take(self):
        try:
            data = os.read(self.reading, 1 << 16)
        except BlockingIOError:
            return False
        self.text += data
        return bool(data)

    def stop(self):
        os.kill(self.pid, signal.SIGSTOP)

    def end(self):
        """Kill it; what it had said by then was promised."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        while self._take():
            pass
        os.close(self.reading)
        return promise_of(self.text.decode())


def promise_of(text):
    """The newest promise in a text of whole lines."""
    found = Promise()
    for line in text.splitlines():
        kind, *words = line.split()
        if kind == "generation":
            found = Promise(int(words[0]), found.seq, found.chain)
        else:
            found = Promise(found.generation, int(words[0]), words[1])
    return found


def judged(top, promise, past=None):
    """Judge in a child process, so that a death is an answer; returns what is wrong, or nothing."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            result = attempt(lambda: judge(top, promise, past))
            os.write(writing, result.get("failed", "").encode()[:4000])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        text = file.read().decode(errors="replace")
    status = os.waitpid(pid, 0)[1]
    return f"died: {signal.strsignal(os.WTERMSIG(status))}" if os.WIFSIGNALED(status) else text


def report(found, **facts):
    """Print the one line of a rig; returns its exit status."""
    bad = [text for text in found if text]
    json.dump({**facts, "cuts": len(found), "failures": len(bad), "examples": bad[:5]}, sys.stdout)
    sys.stdout.write("\n")
    return 1 if bad else 0
