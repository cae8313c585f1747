"""The first process to open a journal sets LMDB's lock file up, and dies at it while others wait for it.

LMDB lets them go on with what it left. Then a sound journal looks like no journal, or what is committed next is lost.
"""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from journal import Journal, JournalFilesystemError
from journal.safe_reader import snapshot
from journal.storage import open_environment
from journal.testing import sample_record

ROOT = Path(__file__).parents[3]
RECORDS = 30

READ = """
import sys
from journal.safe_reader import snapshot
print(snapshot(sys.argv[1]).head.seq)
"""
APPEND = """
import sys
from journal import Journal
from journal.testing import sample_record
with Journal.open(sys.argv[1]) as journal:
    print(journal.append([sample_record(99)]).seq)
"""
HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(fd, fcntl.LOCK_SH, 1, 0)
print("held", flush=True)
sys.stdin.read()
"""


def without_a_mark(raw):
    return bytes(len(raw))


def counting_from_zero(raw):
    # Where the count lies depends on the size of a mutex: 40 bytes on x86-64, 48 on aarch64.
    at = next(
        at for at in (48, 56) if RECORDS <= int.from_bytes(raw[at : at + 8], sys.byteorder) < 2 * RECORDS
    )
    return raw[:at] + bytes(8) + raw[at + 8 :]


LEFT = [without_a_mark, counting_from_zero]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "journal.mdb"
    with Journal.open(path) as journal:
        for number in range(RECORDS):
            journal.append([sample_record(number)])
    return path


def lock_file(path):
    return Path(f"{path}-lock")


def wait_until_it_waits(process):
    """Until a process waits for the lock of another one."""
    while not any(
        "->" in line and line.split()[5] == str(process.pid)
        for line in Path("/proc/locks").read_text().splitlines()
    ):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("script", "wanted"), [(READ, RECORDS), (APPEND, RECORDS + 1)], ids=["read", "append"]
)
@pytest.mark.parametrize("left", LEFT)
def test_a_waiting_process_initialises_the_lock_file_again(path, left, script, wanted):
    fd = os.open(lock_file(path), os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, 0)
    os.pwrite(fd, left(lock_file(path).read_bytes()), 0)
    # Reading the file closed a descriptor of it, and with that the lock.
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, 0)
    with subprocess.Popen(
        [sys.executable, "-c", script, path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        wait_until_it_waits(waiting)
        os.close(fd)  # as the death of the first one does
        out, err = waiting.communicate()
    assert (out.strip(), err) == (str(wanted), "")
    assert snapshot(path).head.seq == wanted


@pytest.mark.parametrize("left", LEFT)
def test_a_lock_file_held_uninitialised_is_an_error(path, left, monkeypatch):
    monkeypatch.setattr(open_environment, "_INIT_TIMEOUT_S", 0.05)
    raw = lock_file(path).read_bytes()
    lock_file(path).write_bytes(left(raw))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, lock_file(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            JournalFilesystemError, match=r"journal\.mdb-lock: an initialised lock file expected"
        ):
            Journal.open(path)
        holder.stdin.close()
    with Journal.open(path) as journal:
        assert journal.head.seq == RECORDS
