import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from journal import Journal, JournalDamagedError, JournalFilesystemError
from journal import log as log_module
from journal.errors import JournalClosedError, JournalIOError, JournalMisuseError, JournalPermissionError
from journal.storage.environment import open_environment
from journal.storage.filesystem import filesystem_type, require_supported_filesystem
from journal.storage.meta_pages import read_meta_pages
from journal.testing import sample_record
from tests.child_python import run_python
from tests.examples_tried import mostly_deep

ROOT = Path(__file__).parents[3]
LAST_PAGE = 16 + 24 + 2 * 48


def patched(path, at, data):
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(whole)


def test_sound_file_passes(path):
    first, second = read_meta_pages(path)
    assert abs(first - second) == 1


def test_commits_change_the_transactions(path):
    before = read_meta_pages(path)
    with Journal.open(path) as journal:
        journal.append([sample_record(1)])
    assert read_meta_pages(path) != before


@pytest.mark.parametrize("size", [0, 1, 100, 4095, 4096, 4216, 8191])
def test_file_without_two_pages_is_refused(path, size):
    os.truncate(path, size)
    with pytest.raises(JournalDamagedError, match="meta pages"):
        read_meta_pages(path)
    with pytest.raises(JournalDamagedError):
        Journal.open(path)


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (16, b"\0\0\0\0"),
        (20, b"\x03"),
        (40, b"\0\0\0\0"),
        (40, struct.pack("=I", 3000)),
        (40, struct.pack("=I", 1 << 30)),
        (40, struct.pack("=I", 512)),
        (4096 + 16, b"junk"),
        (4096 + 40, struct.pack("=I", 8192)),
        (LAST_PAGE, bytes(8)),
    ],
)
def test_damaged_meta_page_is_refused(path, at, data):
    patched(path, at, data)
    with pytest.raises(JournalDamagedError, match="meta page"):
        read_meta_pages(path)


@pytest.mark.parametrize(
    "make",
    [
        Path.mkdir,
        os.mkfifo,
        lambda path: path.symlink_to("real.mdb"),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.write_bytes(b"not a journal" * 1000),
    ],
    ids=["folder", "pipe", "link", "device", "text"],
)
def test_other_files_are_refused(tmp_path, make):
    Journal.create(tmp_path / "real.mdb", [], scratch=tmp_path / "tmp")
    path = tmp_path / "journal.mdb"
    make(path)
    for readonly in (True, False):
        with pytest.raises(JournalDamagedError):
            Journal.open(path, readonly=readonly)


def test_a_writer_removes_killed_readers(path):
    script = """
import os, signal, sys
from pathlib import Path
from journal.storage.environment import open_environment
with open_environment(Path(sys.argv[1]), readonly=True).read() as reader:
    reader.last()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    # Somebody keeps the reader table alive, or the next opener would begin a new one.
    with Journal.open(path, readonly=True) as keeper:
        killed = subprocess.Popen([sys.executable, "-c", script, path], cwd=ROOT)
        assert killed.wait() < 0
        assert str(killed.pid) in keeper._environment._env.readers()
        other = "import sys\nfrom journal import Journal\nJournal.open(sys.argv[1]).close()"
        run_python(other, path)
        assert str(killed.pid) not in keeper._environment._env.readers()


def test_settings_that_durability_needs(path):
    environment = open_environment(path, readonly=False)
    flags = environment._env.flags()
    assert (flags["sync"], flags["metasync"], flags["writemap"], flags["map_async"]) == (
        True,
        True,
        False,
        False,
    )
    assert environment._env.lib_version()[:2] == (0, 9)
    environment.close()


def test_read_only_environment_has_no_write_transaction(path):
    environment = open_environment(path, readonly=True)
    with pytest.raises(JournalMisuseError), environment.write():
        pass
    environment.close()


def in_child(script, path):
    return subprocess.run(
        [sys.executable, "-c", script, path], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()


def replaced(path):
    path.rename(path.with_name("other"))
    path.touch()


def test_nothing_is_loaded_inside_a_transaction(path):
    script = """
import sys
from pathlib import Path
from journal.storage.environment import open_environment
environment = open_environment(Path(sys.argv[1]), readonly=False)
before = {*sys.modules}
with environment.write() as txn:
    txn.put_meta(b"a", b"b")
print(*({*sys.modules} - before))
"""
    assert in_child(script, path) == []


@pytest.mark.parametrize(
    ("take_away", "found"),
    [(lambda path: path.rename(path.with_name("other")), "none"), (replaced, "another one in its place")],
)
def test_a_replaced_or_removed_file_is_not_written(path, take_away, found):
    environment = open_environment(path, readonly=False)
    with environment.write() as txn:
        txn.put_meta(b"a", b"b")
    take_away(path)
    with (
        pytest.raises(JournalDamagedError, match=f"file that was opened, found {found}"),
        environment.write(),
    ):
        pytest.fail("expected the transaction to be refused before it began")
    environment.close()


class LeavingPath(type(Path())):
    """A path whose file gets another name right after somebody has looked at it so many times."""

    looks = 0

    def stat(self, **options):
        found = super().stat(**options)
        if self.suffix == ".mdb" and LeavingPath.looks:
            LeavingPath.looks -= 1
            if not LeavingPath.looks:
                self.rename(self.with_name("away"))
        return found


def test_a_file_that_leaves_during_a_commit_acknowledges_nothing(path):
    """A rebuild may have read it just before: whoever appended must know that this may be lost."""
    environment = open_environment(LeavingPath(path), readonly=False)
    with pytest.raises(JournalDamagedError, match="was opened, found none"), environment.write() as txn:  # noqa: PT012
        LeavingPath.looks = 1
        txn.put_meta(b"a", b"b")
    environment.close()
    with open_environment(path.with_name("away"), readonly=True, lock=False).read() as reader:
        assert reader.meta(b"a") == b"b"


@pytest.mark.parametrize("replace", [False, True])
def test_without_its_lock_file_nothing_is_written(path, replace):
    """Another process would make a new one, and both would write at once."""
    environment = open_environment(path, readonly=False)
    lock = path.with_name(f"{path.name}-lock")
    with environment.write() as txn:
        txn.put_meta(b"a", b"b")
    lock.rename(path.with_name("away"))
    if replace:
        lock.touch()
    with pytest.raises(JournalIOError, match="lock file that was opened, found"), environment.write():
        pytest.fail("expected the transaction to be refused before it began")
    with pytest.raises(JournalClosedError), environment.write():
        pass


def test_an_older_copy_written_over_the_lock_file_undoes_no_commit(path):
    """LMDB takes the number of the newest transaction from the lock file."""
    environment = open_environment(path, readonly=False)
    lock = path.with_name(f"{path.name}-lock")
    older = lock.read_bytes()
    for name in (b"a", b"b", b"c"):
        with environment.write() as txn:
            txn.put_meta(name, name)
    with lock.open("r+b") as file:
        file.write(older)
    with pytest.raises(JournalIOError, match="found other contents"), environment.write():
        pytest.fail("expected the transaction to be refused before it began")
    with open_environment(path, readonly=False).write() as txn:
        assert [txn.meta(name) for name in (b"a", b"b", b"c")] == [b"a", b"b", b"c"]


CUT_OFF = """
import os, sys
from pathlib import Path
from journal.errors import JournalClosedError, JournalIOError
from journal.storage.environment import open_environment
path, size, use = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
environment = open_environment(path, readonly=use == "readonly")
if use != "readonly":
    with environment.write() as txn:
        txn.put_meta(b"a", b"b")
os.truncate(f"{path}-lock", size)
if use != "close":
    try:
        with environment.write() if use == "write" else environment.read():
            print("began")
    except JournalIOError as error:
        print(error.message.partition("] ")[2])
    try:
        environment.read().__enter__()
    except JournalClosedError:
        print("closed")
environment.close()
"""


@pytest.mark.parametrize("size", mostly_deep((0, 1, 4096), 1))
@pytest.mark.parametrize("use", ["write", "read", "readonly", "close"])
def test_a_lock_file_cut_off_in_place_ends_no_process(path, size, use):
    """LMDB has it mapped, and looks at it even when it closes the environment."""
    ended = run_python(CUT_OFF, path, size, use)
    told = [] if use == "close" else ["expected the lock file that was opened, found it cut off", "closed"]
    assert ended.stdout.splitlines() == told
    with open_environment(path, readonly=False).write() as txn:
        assert txn.meta(b"a") == (None if use == "readonly" else b"b")


def test_a_lock_file_of_zeros_undoes_no_commit(path):
    environment = open_environment(path, readonly=False)
    with environment.write() as txn:
        txn.put_meta(b"a", b"b")
    lock = path.with_name(f"{path.name}-lock")
    with lock.open("r+b") as file:
        file.write(bytes(lock.stat().st_size))
    with pytest.raises(JournalIOError, match="found other contents"), environment.write():
        pytest.fail("expected the transaction to be refused before it began")
    with open_environment(path, readonly=False).write() as txn:
        assert txn.meta(b"a") == b"b"


def test_a_shorter_lock_file_in_the_place_of_the_opened_one_is_left_alone(path):
    environment = open_environment(path, readonly=False)
    lock = path.with_name(f"{path.name}-lock")
    lock.rename(path.with_name("away"))
    lock.touch()
    with environment.read():
        pass
    environment.close()
    assert lock.stat().st_size == 0


def test_a_lock_file_removed_during_a_transaction_ends_it_before_its_commit(path):
    """Another process may have committed since, and this commit would undo that one."""
    environment = open_environment(path, readonly=False)
    with pytest.raises(JournalIOError, match="found none"), environment.write() as txn:  # noqa: PT012
        txn.put_meta(b"a", b"b")
        path.with_name(f"{path.name}-lock").unlink()
    with open_environment(path, readonly=True).read() as reader:
        assert reader.meta(b"a") is None


@pytest.mark.parametrize("number", [0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994, 0x794C7630])
def test_local_file_systems_are_allowed(tmp_path, number):
    require_supported_filesystem(number, tmp_path, allow_unknown=False)


@pytest.mark.parametrize("number", [0x6969, 0xFF534D42, 0xFE534D42, 0x01021997])
def test_remote_file_systems_are_refused_in_any_case(tmp_path, number):
    with pytest.raises(JournalFilesystemError, match="remote"):
        require_supported_filesystem(number, tmp_path, allow_unknown=True)


def test_unknown_file_systems_need_a_setting(tmp_path):
    with pytest.raises(JournalFilesystemError, match="0xABC"):
        require_supported_filesystem(0xABC, tmp_path, allow_unknown=False)
    require_supported_filesystem(0xABC, tmp_path, allow_unknown=True)


def test_type_of_the_file_system(tmp_path):
    assert filesystem_type(Path("/proc")) == 0x9FA0
    with pytest.raises(FileNotFoundError):
        filesystem_type(tmp_path / "none")


def test_journal_refuses_and_accepts_unknown_file_systems(path, monkeypatch):
    monkeypatch.setattr(log_module, "filesystem_type", lambda _: 0xABC)
    with pytest.raises(JournalFilesystemError):
        Journal.open(path)
    Journal.open(path, allow_unknown_filesystem=True).close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(path):
    path.chmod(0)
    with pytest.raises(JournalPermissionError):
        read_meta_pages(path)


def test_too_little_address_space_is_a_shortage(tmp_path):
    Journal.open(tmp_path / "journal.mdb").close()
    script = """
import resource, sys
from journal import Journal
from journal.errors import JournalResourcesError
resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
try:
    Journal.open(sys.argv[1])
except JournalResourcesError as error:
    print(error.kind, error.category, error.hint)
"""
    command = [sys.executable, "-c", script, tmp_path / "journal.mdb"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("resources refused")
    assert "ulimit" in done.stdout
