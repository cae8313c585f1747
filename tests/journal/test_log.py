import errno
import gc
import os
from pathlib import Path

import pytest

from journal import (
    Head,
    HeadMovedError,
    Journal,
    JournalDamagedError,
    JournalExistsError,
    JournalFilesystemError,
    JournalFullError,
    JournalMissingError,
    JournalVersionError,
    RecordError,
)
from journal import log as log_module
from journal.errors import JournalClosedError, JournalMisuseError
from journal.record import EMPTY, Record, encode, extend
from journal.storage.environment import open_environment
from journal.storage.open_environment import MAP_BYTES
from journal.testing import sample_record
from tests.child_python import run_python

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.mdb"


def some(first, last):
    return [sample_record(number) for number in range(first, last + 1)]


def names(folder):
    return sorted(found.name for found in folder.iterdir())


def in_child(script, *arguments):
    done = run_python(script, *arguments)
    return done.stdout.strip()


def test_a_missing_journal_is_created_empty(path):
    with Journal.open(path) as journal:
        assert journal.head == EMPTY
        assert list(journal.read()) == []
        assert journal.verify() == EMPTY
        assert not journal.readonly
        assert journal.path == path
    assert names(path.parent) == ["journal.mdb", "journal.mdb-lock", "tmp"]
    assert names(path.parent / "tmp") == []
    assert path.stat().st_nlink == 1


def test_a_reader_does_not_create_a_journal(path):
    with pytest.raises(JournalMissingError):
        Journal.open(path, readonly=True)
    assert names(path.parent) == []


def test_appended_records_are_read_back(path):
    with Journal.open(path) as journal:
        first = journal.append(some(1, 2))
        head = journal.append(some(3, 3), expect=first)
        assert head == journal.head == extend(EMPTY, map(encode, some(1, 3)))
    with Journal.open(path, readonly=True) as journal:
        assert journal.head == head
        assert list(journal.read()) == some(1, 3)
        assert list(journal.read(2)) == some(2, 3)
        assert list(journal.read(1, 3)) == some(1, 2)
        assert list(journal.read(3, 3)) == list(journal.read(4)) == list(journal.read(400)) == []
        assert list(journal.read(1, 400)) == some(1, 3)
        assert [entry.head for entry in journal.entries(2, 3)] == [first]
        assert journal.verify() == head
        with pytest.raises(JournalMisuseError):
            next(journal.read(0))


def test_a_long_journal_is_read_in_batches_while_it_grows(path):
    with Journal.open(path) as journal:
        journal.append(some(1, 2500))
        entries = journal.entries()
        found = [next(entries)]
        journal.append(some(2501, 2600))
        found += list(entries)
        assert [entry.record for entry in found] == some(1, 2500)
        assert [entry.record for entry in journal.entries(2490)] == some(2490, 2600)


def test_large_records(path):
    record = sample_record(1, size=(1 << 20) - 200)
    with Journal.open(path) as journal:
        journal.append([record] * 9)
        assert list(journal.read()) == [record] * 9
        assert journal.verify().seq == 9


def test_moved_head_appends_nothing(path):
    with Journal.open(path) as journal:
        head = journal.append(some(1, 1))
        with pytest.raises(HeadMovedError) as caught:
            journal.append(some(2, 2), {b"name": b"value"}, expect=EMPTY)
        assert (caught.value.expected, caught.value.found) == (EMPTY, head)
        assert journal.head == head
        assert journal.projections() == {}
        journal.append(some(2, 2), expect=head)


def test_record_that_cannot_be_encoded_appends_nothing(path):
    bad = Record(tag="BAD", version=1, build=None, wall_ns=0, mono_ns=0, payload=None)
    with Journal.open(path) as journal:
        with pytest.raises(RecordError):
            journal.append([sample_record(1), bad], {b"name": b"value"})
        assert journal.head == EMPTY
        assert journal.projection(b"name") is None


def test_projections_change_with_the_transaction(path):
    with Journal.open(path) as journal:
        journal.append(some(1, 1), {b"a": b"1", b"b": b""})
        assert journal.projections() == {b"a": b"1", b"b": b""}
        journal.append([], {b"a": None, b"never": None, b"c": b"x" * 9000})
        assert journal.projection(b"a") is None
        journal.append([], {b"c": b"y"})
        assert journal.projections() == {b"b": b"", b"c": b"y"}
        assert journal.head.seq == 1
        journal.verify()
    with Journal.open(path, readonly=True) as journal:
        assert journal.projection(b"c") == b"y"


@pytest.mark.parametrize("projections", [{b"": b""}, {b"x" * 512: b""}, {b"x": b"y" * ((1 << 24) + 1)}])
def test_projections_out_of_range(path, projections):
    with Journal.open(path) as journal:
        with pytest.raises(JournalMisuseError):
            journal.append(some(1, 1), projections)
        assert journal.head == EMPTY
        journal.append([], {b"x" * 511: b"longest name"})


def test_large_values_overwritten_by_small_ones_leave_a_sound_structure(path):
    # The value fills its own pages first and fewer later; overwritten in place, lmdb.verify would report damage.
    with Journal.open(path) as journal:
        for size in (9000, 3000, 5000, 10, 9000, 8000, 2100, 0, 20000):
            journal.append([], {b"name": bytes(size)})
            journal.verify()


def test_second_process_appends_in_between(path):
    script = """
import sys
from journal import Journal
from journal.testing import sample_record
with Journal.open(sys.argv[1]) as journal:
    print(journal.append([sample_record(2), sample_record(3)]).seq)
"""
    with Journal.open(path) as journal, Journal.open(path.with_name("other.mdb")):
        journal.append(some(1, 1))
        assert in_child(script, path) == "3"
        assert journal.head.seq == 3
        with pytest.raises(HeadMovedError):
            journal.append(some(4, 4), expect=Head(1, journal.head.chain))
        assert journal.append(some(4, 4)).seq == 4
        assert list(journal.read()) == some(1, 4)


def test_a_process_opens_a_journal_once(path):
    with Journal.open(path):
        for readonly in (True, False):
            with pytest.raises(JournalMisuseError, match="already open"):
                Journal.open(path, readonly=readonly)
    Journal.open(path).close()


def test_a_journal_that_was_never_closed_does_not_block_the_next(path):
    journal = Journal.open(path)
    journal.append(some(1, 1))
    del journal
    gc.collect()
    with Journal.open(path) as journal:
        assert journal.head.seq == 1


def test_closed_journal_says_so(path):
    journal = Journal.open(path)
    journal.close()
    journal.close()
    for use in (
        lambda: journal.head,
        lambda: journal.append([]),
        lambda: list(journal.read()),
        journal.verify,
    ):
        with pytest.raises(JournalClosedError, match="closed"):
            use()


def test_reader_does_not_append(path):
    Journal.open(path).close()
    before = path.read_bytes(), path.stat().st_mtime_ns
    with (
        Journal.open(path, readonly=True) as journal,
        pytest.raises(JournalMisuseError, match="reading only"),
    ):
        journal.append(some(1, 1))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_opening_for_writing_writes_nothing(path):
    with Journal.open(path) as journal:
        journal.append(some(1, 1))
    before = path.read_bytes(), path.stat().st_mtime_ns
    Journal.open(path).close()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_fork_is_refused(path):
    script = """
import os, sys
from journal import Journal, JournalError
from journal.testing import sample_record
journal = Journal.open(sys.argv[1])
journal.append([sample_record(1)])
if os.fork() == 0:
    try:
        journal.append([sample_record(2)])
    except JournalError as error:
        print(error.kind, flush=True)
    journal.close()
    os._exit(0)
os.wait()
print(journal.append([sample_record(2)]).seq)
"""
    assert in_child(script, path).split() == ["journal-misuse", "2"]


def test_create_refuses_a_taken_name(path):
    head = Journal.create(path, some(1, 2), scratch=path.parent / "tmp", projections={b"a": b"b"})
    before = path.read_bytes()
    with pytest.raises(JournalExistsError):
        Journal.create(path, some(1, 1), scratch=path.parent / "tmp")
    assert path.read_bytes() == before
    assert names(path.parent / "tmp") == []
    with Journal.open(path) as journal:
        assert (journal.head, journal.projections()) == (head, {b"a": b"b"})


def test_create_leaves_nothing_when_another_process_is_faster(path, monkeypatch):
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    path.write_bytes(b"somebody was faster")
    with pytest.raises(JournalExistsError):
        Journal.create(path, [], scratch=path.parent / "tmp")
    assert names(path.parent / "tmp") == []


def test_create_with_an_invalid_record_leaves_nothing(path):
    with pytest.raises(RecordError):
        Journal.create(
            path,
            [Record(tag="", version=1, build=None, wall_ns=0, mono_ns=0, payload=0)],
            scratch=path.parent / "tmp",
        )
    with pytest.raises(JournalMissingError):
        Journal.create(path.parent / "none" / "journal.mdb", [], scratch=path.parent / "tmp")
    assert not path.exists()


@pytest.mark.parametrize("code", [errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP])
def test_create_needs_hard_links(path, monkeypatch, code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(JournalFilesystemError, match="hard link"):
        Journal.create(path, [], scratch=path.parent / "tmp")
    assert names(path.parent / "tmp") == []


def rewrite(path, change):
    environment = open_environment(path, readonly=False)
    with environment.write() as writer:
        change(writer)
    environment.close()


def test_newer_format_is_read_and_not_written(path):
    Journal.create(path, some(1, 2), scratch=path.parent / "tmp")
    rewrite(path, lambda writer: writer.put_meta(b"format", b"2"))
    with pytest.raises(JournalVersionError, match="format 1 expected, found 2"):
        Journal.open(path)
    with Journal.open(path, readonly=True) as journal:
        assert list(journal.read()) == some(1, 2)


@pytest.mark.parametrize("text", [b"", b"x", b"-1", b"0", b"1.0"])
def test_nonsense_format_is_damage(path, text):
    Journal.create(path, [], scratch=path.parent / "tmp")
    rewrite(path, lambda writer: writer.put_meta(b"format", text))
    with pytest.raises(JournalDamagedError, match="format number"):
        Journal.open(path, readonly=True)


def test_changed_record_is_found_wherever_it_is(path):
    Journal.create(path, some(1, 20), scratch=path.parent / "tmp")
    data = path.read_bytes()
    at = data.index(encode(sample_record(7))) + 30
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(JournalDamagedError) as caught:
        Journal.open(path)
    assert caught.value.seq == 7


def test_changed_projection_is_found(path):
    Journal.create(path, [], scratch=path.parent / "tmp", projections={b"name": b"precious value"})
    data = path.read_bytes()
    path.write_bytes(data.replace(b"precious", b"preci0us"))
    with Journal.open(path) as journal:
        with pytest.raises(JournalDamagedError, match="name"):
            journal.projection(b"name")
        with pytest.raises(JournalDamagedError, match="name"):
            journal.verify()


def test_sound_record_that_does_not_decode_is_named(path):
    Journal.create(path, some(1, 1), scratch=path.parent / "tmp")
    raw = b"\xc1 from the future"
    head = extend(EMPTY, [encode(sample_record(1)), raw])
    rewrite(path, lambda writer: writer.put_record(2, head.chain + raw))
    with Journal.open(path, readonly=True) as journal:
        assert journal.head == head
        assert [entry.raw for entry in journal.entries(2)] == [raw]
        with pytest.raises(JournalDamagedError, match="cannot be decoded") as caught:
            list(journal.read())
        assert caught.value.seq == 2


def test_record_without_its_predecessor_is_named(path):
    Journal.create(path, some(1, 1), scratch=path.parent / "tmp")
    rewrite(path, lambda writer: writer.put_record(3, bytes(40)))
    with pytest.raises(JournalDamagedError, match="record 2 expected") as caught:
        Journal.open(path)
    assert caught.value.seq == 2


def test_replaced_or_missing_records_are_not_appended_to(path):
    other = path.with_name("other.mdb")
    Journal.create(other, [sample_record(9)], scratch=path.parent / "tmp")
    with Journal.open(path) as journal:
        journal.append(some(1, 1))
        journal._verified = Head(1, Journal.open(other).head.chain)
        with pytest.raises(JournalDamagedError, match="has been replaced"):
            journal.append(some(2, 2))
        journal._verified = Head(7, journal._verified.chain)
        with pytest.raises(JournalDamagedError, match="is missing"):
            journal.append(some(2, 2))


def test_full_map_keeps_what_was_there(path):
    Journal.create(path, [], scratch=path.parent / "tmp")
    with Journal.open(path, map_bytes=1 << 20) as journal:
        head = journal.append(some(1, 10))
        with pytest.raises(JournalFullError, match="MAP_FULL"):
            journal.append([sample_record(number, size=100_000) for number in range(20)])
        assert journal.head == head
        assert journal.append(some(11, 11)).seq == 11
        journal.verify()


def test_a_full_disk_closes_the_environment_and_loses_nothing(path):
    # A limit on the size of files acts as a full disk: the write fails with EFBIG.
    script = """
import os, resource, signal, sys
from journal import Journal, JournalFullError
from journal.errors import JournalClosedError
from journal.testing import sample_record
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Journal.open(sys.argv[1]) as journal:
    journal.append([sample_record(number, size=500) for number in range(1, 41)])
    size = os.stat(sys.argv[1]).st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        journal.append([sample_record(number, size=5000) for number in range(41, 90)])
    except JournalFullError as error:
        print("full")
    try:
        journal.append([sample_record(41)])
    except JournalClosedError as error:
        print("closed after" if "closed after an error" in str(error) else error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
with Journal.open(sys.argv[1]) as journal:
    print(journal.append([sample_record(41)]).seq)
"""
    assert in_child(script, path).split("\n") == ["full", "closed after", "41"]


def test_map_is_address_space_only(path):
    with Journal.open(path) as journal:
        journal.append(some(1, 1))
        assert path.stat().st_size < 1 << 20 < MAP_BYTES


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root to lose permission")
def test_no_permission(path):
    Journal.create(path, some(1, 1), scratch=path.parent / "tmp")
    script = """
import ctypes, os, sys
from journal import Journal, JournalPermissionError
os.setegid(65534); os.seteuid(65534)
for readonly in (True, False):
    try:
        Journal.open(sys.argv[1], readonly=readonly)
    except JournalPermissionError as error:
        print(error.kind)
"""
    for folder in (path.parent, path.parent.parent):
        folder.chmod(0o755)
    path.parent.parent.parent.chmod(0o755)
    assert in_child(script, path).split() == ["journal-permission"] * 2
    path.chmod(0)
    assert in_child(script, path).split() == ["journal-permission"] * 2


@pytest.mark.parametrize("more", [0, 1, 2])
def test_every_record_behind_a_full_batch_is_read(path, more):
    count = 1024 + more
    with Journal.open(path) as journal:
        journal.append([sample_record(number) for number in range(count)])
        assert [entry.seq for entry in journal.entries()] == [*range(1, count + 1)]


def test_a_file_whose_structure_could_not_be_checked_is_opened_in_a_child_first(path, monkeypatch):
    """While others keep committing. LMDB may end the process that opens a damaged file."""
    Journal.open(path).close()

    def refuse(_):
        raise JournalDamagedError("the child died")

    monkeypatch.setattr(log_module, "require_sound", lambda _: False)
    monkeypatch.setattr(log_module, "head_in_child", refuse)
    with pytest.raises(JournalDamagedError, match="the child died"):
        Journal.open(path)
    monkeypatch.undo()
    Journal.open(path).close()
