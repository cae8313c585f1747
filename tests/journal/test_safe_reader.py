import errno
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lmdb
import pytest

from journal import Journal, JournalDamagedError, JournalMissingError, safe_reader
from journal.errors import JournalFullError, JournalIOError, JournalPermissionError, JournalResourcesError
from journal.record import EMPTY, encode, extend, link
from journal.safe_reader import head_in_child, snapshot
from journal.safe_reader_child import HEAD, RECORD
from journal.storage.environment import open_environment
from journal.storage.error_mapping import to_journal_error
from journal.storage.integrity import check_structure
from journal.testing import sample_record
from tests.child_python import run_python
from tests.examples_tried import mostly_deep
from tests.small_disk import free_bytes, small_disk

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "journal.mdb"
    with Journal.open(path) as journal:
        journal.append(
            [sample_record(number, size=100) for number in range(1, 201)], {b"name": b"value", b"empty": b""}
        )
    return path


@pytest.fixture
def busy_writer(path):
    writer = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("fast_writer.py"), path],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
    )
    writer.stdout.readline()
    os.set_blocking(writer.stdout.fileno(), False)
    yield writer
    assert writer.poll() is None, "the writer died: nobody was there to be disturbed by"
    writer.kill()
    writer.wait()
    writer.stdout.close()


def test_the_child_imports_nothing_from_the_current_folder(path, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("struct", "os", "journal", "lmdb", "msgpack"):
        (elsewhere / f"{name}.py").write_text("raise SystemExit('a file of the current folder')")
    monkeypatch.chdir(elsewhere)
    assert snapshot(path, foreign=True).head.seq == 200


@pytest.mark.parametrize("foreign", [False, True])
def test_snapshot_is_the_journal(path, foreign):
    found = snapshot(path, foreign=foreign)
    assert found.head == extend(EMPTY, [encode(sample_record(number, size=100)) for number in range(1, 201)])
    assert [entry.record for entry in found.entries] == [
        sample_record(number, size=100) for number in range(1, 201)
    ]
    assert found.projections == {b"name": b"value", b"empty": b""}


def test_journal_that_this_process_has_open(path):
    with Journal.open(path) as journal:
        journal.append([sample_record(201)])
        assert snapshot(path).head == journal.head
        assert journal.append([sample_record(202)]).seq == 202


def test_foreign_file_is_left_as_it_is(path, tmp_path):
    lone = tmp_path / "elsewhere"
    lone.mkdir()
    shutil.copy(path, lone / "journal.mdb")
    (lone / "journal.mdb-lock").write_bytes(b"junk" * 5000)
    before = (lone / "journal.mdb").stat().st_mtime_ns
    assert snapshot(lone / "journal.mdb", foreign=True).head.seq == 200
    assert (lone / "journal.mdb-lock").read_bytes() == b"junk" * 5000
    assert (lone / "journal.mdb").stat().st_mtime_ns == before


def test_missing_file(tmp_path):
    for foreign in (False, True):
        with pytest.raises(JournalMissingError):
            snapshot(tmp_path / "none.mdb", foreign=foreign)


def test_empty_journal(tmp_path):
    Journal.open(tmp_path / "journal.mdb").close()
    for foreign in (False, True):
        assert snapshot(tmp_path / "journal.mdb", foreign=foreign).head == EMPTY


def test_truncated_foreign_file_kills_the_child_only(path):
    os.truncate(path, 5 * 4096)
    with pytest.raises(JournalDamagedError):
        snapshot(path, foreign=True)


def test_changed_record_is_named_across_the_pipe(path):
    data = path.read_bytes()
    at = data.index(encode(sample_record(77, size=100))) + 50
    path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
    for foreign in (False, True):
        with pytest.raises(JournalDamagedError) as caught:
            snapshot(path, foreign=foreign)
        assert caught.value.seq == 77


def test_changed_projection_is_found_across_the_pipe(path):
    data = path.read_bytes()
    path.write_bytes(
        data.replace(b"namevalue", b"namevalve") if b"namevalue" in data else data.replace(b"value", b"valve")
    )
    for foreign in (False, True):
        found = snapshot(path, foreign=foreign)
        assert found.damaged == (b"name",)
        assert b"name" not in found.projections


def read(path):
    return snapshot(path, foreign=True, timeout_s=0.2)


def salvage(path):
    return safe_reader.salvage_records(path, timeout_s=0.2)


@pytest.mark.parametrize("use", mostly_deep((read, salvage), read))
@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("import time; time.sleep(60)", "took longer"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "took longer"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was ended: -9"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "was ended: -15"),
        ("raise MemoryError", "MemoryError"),
        ("import sys; sys.exit('cannot map libc.so.6')", "cannot map"),
        (
            """from journal import safe_reader_child as child
child.open_environment = lambda *_, **__: [0] * (1 << 62)
sys.exit(child.main(sys.argv[2:]))""",
            "MemoryError",
        ),
    ],
)
def test_a_shortage_of_time_or_memory_is_no_damage(path, monkeypatch, use, script, says):
    start = "import sys; sys.path.insert(0, sys.argv[1])\n"
    monkeypatch.setattr(safe_reader, "_START_CHILD", start + script)
    with pytest.raises(JournalResourcesError, match=says):
        use(path)


@pytest.mark.parametrize("use", [read, salvage])
@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.EAGAIN, "resources"), (errno.ENOMEM, "resources"), (errno.EACCES, "journal-io")],
)
def test_a_child_that_cannot_be_started_is_no_damage(path, monkeypatch, use, code, kind):
    def refused(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(subprocess, "run", refused)
    with pytest.raises(JournalIOError, match="a child process") as caught:
        use(path)
    assert caught.value.kind == kind


def test_a_file_that_never_ends_is_damaged(path, monkeypatch):
    endless = (
        "import sys; sys.path.insert(0, sys.argv[1]); from journal.safe_reader_child import _limit_resources\n"
        "_limit_resources(1, int(sys.argv[-1]))\n"
        "while True: pass"
    )
    monkeypatch.setattr(safe_reader, "_START_CHILD", endless)
    with pytest.raises(JournalDamagedError, match="CPU time limit exceeded"):
        snapshot(path, foreign=True)


def test_a_process_whose_number_another_container_uses_reads_in_a_child(path, monkeypatch):
    def refused(*_, **__):
        raise to_journal_error(lmdb.LockError("Resource temporarily unavailable"), path, "reading")[0]

    monkeypatch.setattr(safe_reader, "open_environment", refused)
    assert snapshot(path).head.seq == 200


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("import os; os.kill(os.getpid(), 11)", "Segmentation fault"),
        ("import os; os.abort()", "Aborted"),
        ("import sys; sys.exit(0)", "no complete answer"),
        ("import sys; sys.exit(3)", "failed"),
        ("import sys; sys.stderr.write('{}'); sys.exit(3)", "failed"),
        ("import sys; sys.stdout.write('R'); sys.exit(0)", "no complete answer"),
        ("import sys; sys.stdout.write('P' * 50)", "no complete answer"),
        ("import sys; sys.stdout.write('H' * 50)", "no complete answer"),
        ("import sys; sys.stdout.write('H' * 41); sys.exit(0)", "no complete answer"),
    ],
)
def test_every_end_of_the_child_has_an_error(path, monkeypatch, script, says):
    monkeypatch.setattr(safe_reader, "_START_CHILD", script)
    with pytest.raises(JournalDamagedError, match=says):
        snapshot(path, foreign=True)


def test_output_of_the_child_is_checked(path, monkeypatch):
    raw = encode(sample_record(1))
    good = link(EMPTY.chain, raw)
    for chain, head in ((bytes(32), bytes(32)), (good, bytes(32)), (bytes(32), good)):
        output = RECORD.pack(b"R", 1, 32 + len(raw)) + chain + raw + HEAD.pack(b"H", 1, head)
        monkeypatch.setattr(
            safe_reader,
            "_START_CHILD",
            f"import sys; sys.stdout.buffer.write(bytes.fromhex('{output.hex()}'))",
        )
        with pytest.raises(JournalDamagedError):
            snapshot(path, foreign=True)


def test_child_dies_with_its_parent(path):
    script = """
import os, sys
from journal import safe_reader_child
safe_reader_child._limit_resources(60, os.getppid() + 1)
"""
    done = run_python(script, path, check=False)
    assert done.returncode == 3


@pytest.mark.deep
@pytest.mark.usefixtures("busy_writer")
def test_no_false_alarm_while_a_fast_writer_appends(path):
    known = EMPTY
    chains = {}
    here = 0
    for _ in range(100):
        found = snapshot(path)
        assert found.head.seq >= known.seq
        for entry in found.entries:
            assert chains.setdefault(entry.seq, entry.chain) == entry.chain
        known = found.head
        here += check_structure(path, attempts=1) == ()
    assert known.seq > 1000
    assert here < 100
    assert sorted(chains) == list(range(1, known.seq + 1))
    assert snapshot(path).head.seq >= known.seq


@pytest.mark.usefixtures("busy_writer")
def test_journal_opens_and_appends_while_a_fast_writer_does(path):
    for _ in range(10):
        with Journal.open(path) as journal:
            before = journal.head
            assert journal.append([sample_record(0, tag="guest")]).seq > before.seq
            time.sleep(0.01)
            assert journal.verify().seq > before.seq


def test_head_in_child(path):
    assert head_in_child(path) == snapshot(path).head


def test_a_failure_while_another_process_writes_is_retried(path, monkeypatch):
    environment = open_environment(path, readonly=False)
    real = safe_reader._read_in_child
    calls = []

    def fail_first(*arguments, **options):
        calls.append(arguments)
        if len(calls) < 3:
            with environment.write() as writer:
                writer.put_meta(b"noise", b"%d" % len(calls))
            raise JournalDamagedError("a state that was overwritten meanwhile")
        return real(*arguments, **options)

    monkeypatch.setattr(safe_reader, "_read_in_child", fail_first)
    assert snapshot(path).head.seq == 200
    assert len(calls) == 3
    environment.close()


def test_a_failure_while_nobody_writes_is_not_retried(path, monkeypatch):
    calls = []

    def fail(*arguments, **_):
        calls.append(arguments)
        raise JournalDamagedError("damage")

    monkeypatch.setattr(safe_reader, "_read_in_child", fail)
    with pytest.raises(JournalDamagedError):
        head_in_child(path)
    assert len(calls) == 1


@pytest.fixture
def without_lock(path, monkeypatch):
    """A user who cannot write the lock file; returns what happens after each read of the file itself."""
    after = []
    read_in_child = safe_reader._read_in_child

    def read(file, *, foreign, timeout_s):
        if not foreign:
            raise JournalPermissionError("no permission to write the lock file")
        found = read_in_child(file, foreign=True, timeout_s=timeout_s)
        for happens in after if file == path else ():
            happens()
        return found

    def refuse(*_, **__):
        raise JournalPermissionError("no permission to write the lock file")

    monkeypatch.setattr(safe_reader, "open_environment", refuse)
    monkeypatch.setattr(safe_reader, "_read_in_child", read)
    return after


def commit(path):
    with Journal.open(path) as journal:
        journal.append([sample_record(201)])


def tear():
    raise JournalDamagedError("a page was used again")


@pytest.mark.parametrize(
    ("busy", "torn"),
    [
        *((False, True), (True, False)),
        *(pytest.param(each, each, marks=pytest.mark.deep) for each in (False, True)),
    ],
)
def test_without_a_lock_what_was_written_meanwhile_is_no_damage(path, without_lock, monkeypatch, busy, torn):
    if busy:
        monkeypatch.setattr(safe_reader, "require_sound", lambda _: False)
    assert snapshot(path).head.seq == 200
    without_lock.append(lambda: commit(path))
    if torn:
        without_lock.append(tear)
    assert snapshot(path).head.seq == 201


def test_without_a_lock_damage_is_damage_while_nobody_writes(path, without_lock):
    without_lock.append(tear)
    with pytest.raises(JournalDamagedError, match="used again"):
        snapshot(path)


def test_without_a_lock_and_without_a_pause_the_journal_is_too_busy(path, without_lock, monkeypatch):
    commits = itertools.count()
    monkeypatch.setattr(safe_reader, "read_meta_pages", lambda _: next(commits))
    with pytest.raises(JournalIOError, match="written all the time"):
        snapshot(path)


@pytest.mark.parametrize("mebibytes", [1, 0], ids=["too small", "not there"])
def test_without_a_lock_and_without_room_for_a_copy_the_temporary_folder_is_named(
    path, without_lock, monkeypatch, tmp_path, mebibytes
):
    without_lock.append(lambda: commit(path))
    with small_disk(tmp_path / "small", mebibytes=1) as folder:
        monkeypatch.setattr(tempfile, "tempdir", str(folder if mebibytes else folder / "none"))
        (folder / "other").write_bytes(bytes(free_bytes(folder) - 4096))
        with pytest.raises(JournalFullError if mebibytes else JournalIOError, match=str(folder)) as caught:
            snapshot(path)
    assert "TMPDIR" in caught.value.hint
