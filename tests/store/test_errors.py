import errno
import os
import subprocess
import sys

import pytest

from journal.errors import JournalFullError, JournalResourcesError
from journal.storage.error_mapping import to_journal_error
from store.errors import (
    ArtifactError,
    CacheUnusableError,
    Category,
    DamagedHistoryError,
    DiskFullError,
    ErrorKind,
    IncompatibleDeviceError,
    ManifestCoverageError,
    NoGoError,
    RequestRefusedError,
    TranslateShortages,
    UnknownEventError,
    category_of,
    from_os_error,
    import_takes,
    is_shortage,
    lacks_resources,
)


def test_kinds_of_errors_do_not_change():
    """Kinds are only ever added."""
    assert {kind.value for kind in ErrorKind} >= {
        *(
            "no-cache",
            "no-generation",
            "unknown-generation",
            "nothing-to-roll-back",
            "target-damaged",
            "rolled-back",
        ),
        *("file-system", "permission", "input-output", "disk-full", "journal-replaced", "journal-incomplete"),
        *(
            "unknown-event",
            "invalid-event",
            "impossible-history",
            "artifact-missing",
            "artifact-damaged",
            "coverage",
        ),
        *("geography", "manifest-invalid", "verification", "signature", "floor", "device", "withdrawn"),
    }


@pytest.mark.parametrize(
    "cls",
    [
        RequestRefusedError,
        CacheUnusableError,
        DiskFullError,
        DamagedHistoryError,
        UnknownEventError,
        ArtifactError,
    ],
)
def test_errors_have_kind_message_and_hint(cls):
    error = cls("expected a, found b", kind=ErrorKind.NO_CACHE, hint="do c")
    assert (error.kind, error.message, error.hint, str(error)) == (
        ErrorKind.NO_CACHE,
        "expected a, found b",
        "do c",
        "expected a, found b",
    )
    assert cls("x", kind=ErrorKind.NO_CACHE).hint == ""


def test_all_problems_are_listed():
    error = ManifestCoverageError(["a", "b", "c"], hint="h")
    assert (error.problems, error.kind) == (("a", "b", "c"), ErrorKind.COVERAGE)
    assert "a (and 2 more)" in error.message
    assert "more" not in ManifestCoverageError(["a"]).message
    error = NoGoError(["a", "b"])
    assert (error.reasons, error.message, error.kind) == (("a", "b"), "NO-GO: a; b", ErrorKind.VERIFICATION)
    error = IncompatibleDeviceError(["a"], hint="h")
    assert isinstance(error, NoGoError)
    assert (error.kind, error.hint, error.reasons) == (ErrorKind.DEVICE, "h", ("a",))


@pytest.mark.parametrize(
    ("code", "cls", "kind"),
    [
        (errno.ENOSPC, DiskFullError, ErrorKind.DISK_FULL),
        (errno.EDQUOT, DiskFullError, ErrorKind.DISK_FULL),
        (errno.EACCES, CacheUnusableError, ErrorKind.PERMISSION),
        (errno.EPERM, CacheUnusableError, ErrorKind.PERMISSION),
        (errno.EROFS, CacheUnusableError, ErrorKind.PERMISSION),
        (errno.EIO, CacheUnusableError, ErrorKind.INPUT_OUTPUT),
        (errno.ENAMETOOLONG, CacheUnusableError, ErrorKind.FILE_SYSTEM),
        (errno.EMLINK, CacheUnusableError, ErrorKind.INPUT_OUTPUT),
    ],
)
def test_errors_of_the_system(code, cls, kind):
    error = from_os_error(OSError(code, os.strerror(code)), "file x")
    assert type(error) is cls
    assert error.kind is kind
    assert f"file x: {os.strerror(code)}" in error.message
    assert "cache" not in error.message, "a request and a bundle are written by the same function"
    assert error.hint


def test_errors_without_a_number():
    assert "strange" in from_os_error(OSError("strange"), "file x").message


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("can't start new thread"), True),
        (SystemError("<built-in function compile> returned NULL without setting an exception"), True),
        (ImportError("libx.so: failed to map segment from shared object"), True),
        (ImportError("array.so: cannot create shared object descriptor"), True),
        (RuntimeError("thread: Resource temporarily unavailable"), True),
        (RuntimeError("pthread_create failed"), True),
        (OSError(errno.EMFILE, "many"), True),
        (ArtifactError("std::bad_alloc", kind=ErrorKind.ARTIFACT_DAMAGED), True),
        (CacheUnusableError("std::bad_alloc", kind=ErrorKind.RESOURCES), False),
        (RuntimeError("bad magic"), False),
        (OSError(errno.EIO, "disk"), False),
        (KeyboardInterrupt("bad_alloc"), False),
    ],
)
def test_a_shortage_is_told_from_other_errors(error, short):
    assert lacks_resources(error) is short
    wrapped = ArtifactError("nothing said", kind=ErrorKind.ARTIFACT_DAMAGED)
    wrapped.__cause__ = error
    assert lacks_resources(wrapped) is short


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_store_and_journal_agree_on_what_is_a_shortage_and_what_a_full_disk(code, tmp_path):
    error = OSError(code, os.strerror(code))
    ours, (theirs, _) = from_os_error(error, "x"), to_journal_error(error, tmp_path / "journal.mdb", "x")
    # A file that may not grow is a journal that is full.
    shortage = is_shortage(error) and code != errno.EFBIG
    assert shortage is isinstance(theirs, JournalResourcesError)
    assert (isinstance(ours, DiskFullError) or code == errno.EFBIG) is isinstance(theirs, JournalFullError)


def test_address_space_that_is_not_there_is_a_shortage():
    with (
        pytest.raises(CacheUnusableError, match="a library") as error,
        TranslateShortages("a library", takes=1 << 60),
    ):
        pytest.fail("it was there")
    assert error.value.kind is ErrorKind.RESOURCES


@pytest.mark.parametrize("threads", ["", "1", "2", "999", "many", "0"])
def test_a_library_takes_a_buffer_for_each_thread(monkeypatch, threads):
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(8)})
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    expected = {"1": 1, "2": 2}.get(threads, 8)
    assert import_takes("faiss") == (expected + 1) << 27
    monkeypatch.setitem(sys.modules, "faiss", object())
    assert import_takes("faiss") == 0


@pytest.mark.parametrize("library", ["numpy", "faiss"])
def test_a_library_takes_no_more_than_is_asked_for(library):
    """Only so the check before an import keeps a library from ending the process."""
    program = (
        "import os, sys; from store.errors import import_takes; room = import_takes(sys.argv[1])\n"
        "if sys.argv[1] == 'faiss': import numpy\n"
        "pages = lambda: int(open('/proc/self/statm').read().split()[0]) * os.sysconf('SC_PAGESIZE')\n"
        "before = pages(); __import__(sys.argv[1]); print(room - (pages() - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, library], capture_output=True, text=True, check=True
    )
    assert 0 <= int(done.stdout) < 256 << 20


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (ImportError("libjpeg.so: failed to map segment from shared object"), Category.REFUSED),
        (ImportError("No module named 'nothing'"), Category.INTERNAL),
        (SystemError("<built-in> returned NULL without setting an exception"), Category.REFUSED),
        (SystemError("error return without exception set"), Category.REFUSED),
    ],
)
def test_an_import_for_which_there_is_no_memory_is_refused(error, category):
    assert category_of(error) is category
