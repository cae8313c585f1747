import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import portalocker
import pytest

from journal.errors import (
    BuildLockHeldError,
    JournalFilesystemError,
    JournalMissingError,
    JournalMisuseError,
    JournalPermissionError,
)
from journal.lock import BuildLock, lock_holder
from tests.child_python import run_python

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from journal.lock import BuildLock
with BuildLock(Path(sys.argv[1]), command="holding") as lock:
    lock.describe(build=7)
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def holder(path):
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert child.stdout.readline() == b"held\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "build.lock"


def test_release_frees_the_lock_and_keeps_the_file(path):
    for _ in range(2):
        with BuildLock(path, timeout_s=0) as lock:
            assert lock.acquired
            assert lock_holder(path)["pid"] == os.getpid()
        assert not lock.acquired
        assert lock_holder(path) is None
    assert path.exists()


def test_holder_is_named(path):
    with holder(path) as child:
        found = lock_holder(path)
        assert (found["pid"], found["build"], found["command"]) == (child.pid, 7, "holding")
        assert set(found) == {"pid", "host", "boot_id", "since", "build", "command"}
        with pytest.raises(BuildLockHeldError) as caught:
            BuildLock(path, timeout_s=0.05).acquire()
        assert caught.value.holder == found
        for word in (str(child.pid), found["host"], found["since"], "build 7"):
            assert word in str(caught.value)


def test_lock_of_a_killed_holder_is_free(path):
    with holder(path) as child:
        waiting = BuildLock(path, timeout_s=10)
        child.kill()
        child.wait()
        waiting.acquire()  # what the kernel freed needs no second attempt
        assert lock_holder(path)["pid"] == os.getpid()
        waiting.release()


def test_waiting_ends_when_the_holder_ends(path):
    with holder(path) as child:
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(BuildLockHeldError):
            BuildLock(path, timeout_s=0.02).acquire()
        os.kill(child.pid, signal.SIGKILL)
        with BuildLock(path, timeout_s=10) as lock:
            assert lock.acquired


def test_asking_for_the_holder_does_not_disturb_locking(path):
    with BuildLock(path):
        pass
    script = "import sys\nfrom pathlib import Path\nfrom journal.lock import lock_holder\nprint(flush=True)\nwhile True: lock_holder(Path(sys.argv[1]))"
    prober = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        prober.stdout.readline()
        for _ in range(300):
            with BuildLock(path, timeout_s=0):
                pass
    finally:
        prober.kill()
        prober.wait()
        prober.stdout.close()


def test_second_object_of_one_process_is_refused(path):
    with BuildLock(path), pytest.raises(BuildLockHeldError):
        BuildLock(path, timeout_s=0).acquire()


def test_not_reentrant(path):
    with BuildLock(path) as lock, pytest.raises(JournalMisuseError):
        lock.acquire()


def test_only_the_holder_can_describe(path):
    with pytest.raises(JournalMisuseError):
        BuildLock(path).describe(build=1)


def test_a_replaced_lock_file_is_locked_anew(path):
    with BuildLock(path):
        path.unlink()
        # The name is free; the next process locks the new file and not the old one.
        with BuildLock(path, timeout_s=0.5) as second:
            assert os.path.samestat(os.fstat(second._fd), path.stat())


def test_file_replaced_between_opening_and_locking(path, monkeypatch):
    real = portalocker.lock
    replaced = []

    def replace_first(fd, flags):
        if not replaced:
            path.unlink()
            path.touch()
            replaced.append(fd)
        real(fd, flags)

    monkeypatch.setattr(portalocker, "lock", replace_first)
    with BuildLock(path, timeout_s=5) as lock:
        assert os.path.samestat(os.fstat(lock._fd), path.stat())
    assert replaced


def test_descriptor_is_not_inherited_by_programs(path):
    with BuildLock(path) as lock:
        assert not os.get_inheritable(lock._fd)
        assert fcntl.fcntl(lock._fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_a_forked_child_does_not_keep_the_lock(path):
    script = """
import os, sys, time
from pathlib import Path
from journal.lock import BuildLock
lock = BuildLock(Path(sys.argv[1])); lock.acquire()
if os.fork() == 0:
    assert not lock.acquired
    print("forked", os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, cwd=ROOT)
    child = int(parent.stdout.readline().split()[1])
    try:
        assert lock_holder(path)["pid"] == parent.pid
        parent.kill()
        parent.wait()
        with BuildLock(path, timeout_s=5) as lock:
            assert lock.acquired
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        parent.kill()
        parent.wait()
        parent.stdout.close()


def test_an_unlocked_file_has_no_holder(path):
    assert lock_holder(path) is None
    path.write_text("not json")
    assert lock_holder(path) is None


@pytest.mark.parametrize("text", ["", "not json", "[1]", '{"pid": 1', "[" * 5000])
def test_a_holder_without_a_valid_document(path, text):
    with BuildLock(path) as lock:
        path.write_text(text)
        assert lock_holder(path) == {}
        with pytest.raises(BuildLockHeldError, match="not written who") as caught:
            BuildLock(path, timeout_s=0).acquire()
        assert caught.value.holder is None
        lock.describe(build=2)
        assert json.loads(path.read_text())["build"] == 2


def test_missing_folder(tmp_path):
    with pytest.raises(JournalMissingError):
        BuildLock(tmp_path / "none" / "build.lock").acquire()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("elsewhere")])
def test_only_a_regular_file_is_a_lock(path, make):
    make(path)
    with pytest.raises(JournalFilesystemError):
        BuildLock(path, timeout_s=0).acquire()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root to lose permission")
def test_no_permission(path):
    with BuildLock(path):
        pass
    path.chmod(0o400)
    path.parent.chmod(0o755)
    script = "import os, portalocker, sys\nfrom pathlib import Path\nfrom journal.lock import BuildLock\nfrom journal.errors import JournalPermissionError\nos.seteuid(65534)\ntry: BuildLock(Path(sys.argv[1])).acquire()\nexcept JournalPermissionError: print('refused')"
    done = run_python(script, path, check=False)
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_error_of_a_lock_file_that_cannot_be_opened(path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("journal.lock.os.open", refuse)
    with pytest.raises(JournalPermissionError) as caught:
        BuildLock(path).acquire()
    assert (
        caught.value.message
        == f"expected permission to open the lock file {path}, found: {os.strerror(number)}"
    )


def test_permission_error_has_its_kind():
    assert JournalPermissionError("x").kind == "journal-permission"


def test_a_disk_error_neither_keeps_the_lock_nor_hides_the_result(tmp_path, monkeypatch):
    path = tmp_path / "build.lock"

    def fail(*_):
        raise OSError(5, "Input/output error")

    with BuildLock(path, timeout_s=0):
        monkeypatch.setattr("journal.lock.os.ftruncate", fail)
    monkeypatch.undo()
    with BuildLock(path, timeout_s=0):
        pass


@pytest.mark.parametrize("where", ["fcntl.fcntl", "os.uname"])
def test_an_interruption_while_the_lock_is_taken_does_not_keep_it(tmp_path, monkeypatch, where):
    path = tmp_path / "build.lock"

    def interrupted(*_):
        raise KeyboardInterrupt

    lock = BuildLock(path, timeout_s=0)
    monkeypatch.setattr(f"journal.lock.{where}", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lock.acquire()
    monkeypatch.undo()
    assert not lock.acquired
    with BuildLock(path, timeout_s=0):
        pass


@pytest.mark.parametrize("error", [ValueError, OverflowError])
def test_a_clock_that_is_wrong_by_millennia_locks_all_the_same(path, monkeypatch, error):
    class Wrong:
        @staticmethod
        def now(_):
            raise error("year 10000 is out of range")

    monkeypatch.setattr("journal.lock.datetime", Wrong)
    with BuildLock(path, timeout_s=0):
        assert lock_holder(path)["since"] == ""


def test_what_a_holder_wrote_reaches_no_terminal_unescaped(path, caplog):
    with holder(path):
        path.write_text(json.dumps({"pid": 1, "host": "a\x1b[2Jb\nc", "since": "today", "command": "c10"}))
        with pytest.raises(BuildLockHeldError):
            BuildLock(path, timeout_s=0.8).acquire()
    (record,) = caplog.records
    assert "on a\\x1b[2Jb\\nc since today" in record.getMessage()


def test_a_wait_is_told_once_after_half_a_second(path, caplog):
    with holder(path) as process:
        started = time.monotonic()
        with pytest.raises(BuildLockHeldError):
            BuildLock(path, timeout_s=0.3).acquire()
        assert caplog.records == []
        with pytest.raises(BuildLockHeldError):
            BuildLock(path, timeout_s=1.5).acquire()
        assert time.monotonic() - started >= 1.8
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    told = record.getMessage()
    assert told.startswith(
        f"waiting up to 1 s for the build lock {str(path)!a}, held by pid {process.pid} on "
    )
    assert "C10_LOCK_TIMEOUT_S" in told
