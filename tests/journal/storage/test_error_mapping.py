import errno

import lmdb
import pytest

from journal import (
    JournalDamagedError,
    JournalFilesystemError,
    JournalFullError,
    JournalMissingError,
)
from journal.errors import JournalIOError, JournalPermissionError, JournalResourcesError
from journal.storage import error_mapping as foreign_module
from journal.storage.error_mapping import to_journal_error, translating_errors


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.mdb"


def coded(code):
    error = lmdb.Error("x")
    error.code = code
    return error


@pytest.mark.parametrize(
    ("foreign", "expected", "disk"),
    [
        (lmdb.MapFullError("x"), JournalFullError, False),
        (lmdb.DiskError("x"), JournalFullError, True),
        (coded(errno.EDQUOT), JournalFullError, True),
        (coded(errno.EIO), JournalIOError, True),
        (coded(errno.EACCES), JournalPermissionError, False),
        (coded(errno.ENOMEM), JournalResourcesError, False),
        (OSError(errno.EMFILE, "x"), JournalResourcesError, False),
        (lmdb.ReadonlyError("x"), JournalPermissionError, False),
        (lmdb.CorruptedError("x"), JournalDamagedError, True),
        (lmdb.PanicError("x"), JournalDamagedError, True),
        (lmdb.LockError("x"), JournalFilesystemError, False),
        (lmdb.ReadersFullError("x"), JournalFilesystemError, False),
        (OSError(errno.ENOSPC, "x"), JournalFullError, True),
        (OSError(errno.ENOENT, "x"), JournalMissingError, False),
        (OSError(errno.ENOLCK, "x"), JournalFilesystemError, False),
        (OSError("without a number"), JournalIOError, True),
    ],
)
def test_errors_of_lmdb_and_the_system_are_mapped(path, foreign, expected, disk):
    error, was_disk = to_journal_error(foreign, path, "testing")
    assert type(error) is expected
    assert was_disk is disk
    assert str(path) in error.message


def test_every_error_of_lmdb_is_mapped(path):
    for kind in lmdb.Error.__subclasses__():
        error, _ = to_journal_error(kind("x"), path, "testing")
        assert error.message


def test_write_cut_short_on_a_full_disk_is_no_io_error(path, monkeypatch):
    monkeypatch.setattr(foreign_module, "_NEARLY_FULL_BYTES", 1 << 80)
    error, _ = to_journal_error(coded(errno.EIO), path, "testing")
    assert type(error) is JournalFullError


def test_without_its_folder_a_file_system_is_not_called_full(tmp_path):
    error, was_disk = to_journal_error(coded(errno.EIO), tmp_path / "none" / "journal.mdb", "testing")
    assert (type(error), was_disk) == (JournalIOError, True)


def test_other_errors_are_not_mapped(path):
    with (
        pytest.raises(JournalPermissionError, match="trying failed") as raised,
        translating_errors(path, "trying"),
    ):
        raise PermissionError(errno.EACCES, "no")
    assert isinstance(raised.value.__cause__, PermissionError)
    with pytest.raises(ValueError, match="ours"), translating_errors(path, "trying"):
        raise ValueError("ours")
