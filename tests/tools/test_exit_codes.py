import errno

import pytest

from journal.errors import BuildLockHeldError, JournalDamagedError, JournalFullError
from pipeline.build.failure_record import failure_of
from pipeline.errors import CheckError, CompileError, RequestError, TileError
from pipeline.processes.framing import FrameError
from pipeline.processes.pool import WorkerStartError
from store.base.canonical_json import CanonicalError
from store.errors import (
    ArtifactError,
    CacheUnusableError,
    Category,
    DiskFullError,
    ErrorKind,
    IncompatibleDeviceError,
    ManifestCoverageError,
    NoGoError,
    UnprojectedError,
)
from store.files.regular_file import NotRegularError
from store.files.sealed_memory import SealError
from store.formats.descriptor_block import BlockError
from tools.exit_codes import CODES, MEANINGS, ExitCode, HungUpError, TerminatedError, code_of


def test_the_numbers_are_those_that_were_promised():
    assert {code.name: int(code) for code in ExitCode} == {
        "DONE": 0,
        "INTERNAL": 1,
        "REFUSED": 2,
        "BUILD_FAILED": 3,
        "LOCK_HELD": 4,
        "NO_GO": 5,
        "INCOMPATIBLE": 6,
        "DAMAGED": 7,
        "DISK_FULL": 8,
        "HUNG_UP": 129,
        "INTERRUPTED": 130,
        "TERMINATED": 143,
    }
    assert set(MEANINGS) == set(ExitCode)


FULL = DiskFullError("no space", kind=ErrorKind.DISK_FULL)
DENIED = CacheUnusableError("no", kind=ErrorKind.PERMISSION)


def shortage(cause):
    error = CacheUnusableError("short", kind=ErrorKind.RESOURCES)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "in_a_build"),
    [
        (RequestError("no"), 2, 2),
        (TileError("no"), 3, 3),
        (CompileError("no"), 3, 3),
        (CheckError("no"), 3, 3),
        (ManifestCoverageError(["x"]), 3, 3),
        (ArtifactError("x", kind=ErrorKind.ARTIFACT_DAMAGED), 5, 3),
        (NoGoError(["x"]), 5, 3),
        (IncompatibleDeviceError(["x"]), 6, 3),
        (BuildLockHeldError("x", holder=None), 4, 4),
        (JournalDamagedError("x"), 7, 7),
        (JournalFullError("x"), 8, 8),
        (FULL, 8, 8),
        (DENIED, 2, 2),
        (UnprojectedError(FULL, generation=3), 8, 8),
        (UnprojectedError(DENIED, generation=3), 2, 2),
        (OSError(errno.ENOSPC, "full"), 8, 8),
        (PermissionError(errno.EACCES, "no"), 2, 2),
        (SealError("x"), 5, 3),
        (BlockError("x"), 5, 3),
        (CanonicalError("x"), 1, 3),
        (WorkerStartError("x"), 3, 3),
        (FrameError("x"), 3, 3),
        (NotRegularError("x"), 2, 2),
        (KeyboardInterrupt(), 130, 130),
        (TerminatedError(), 143, 143),
        (HungUpError(), 129, 129),
        (ValueError("x"), 1, 3),
        (MemoryError(), 2, 3),
        (RecursionError("deep"), 2, 3),
        (RuntimeError("can't start new thread"), 2, 3),
        (RuntimeError("x"), 1, 3),
        (type("ForeignError", (Exception,), {"category": ["whatever"]})(), 1, 3),
        (OSError(errno.EMFILE, "many"), 2, 2),
        (BlockingIOError(errno.EAGAIN, "no process"), 2, 2),
        (CacheUnusableError("many", kind=ErrorKind.RESOURCES), 2, 2),
        (shortage(OSError(errno.EMFILE, "many")), 2, 2),
        (shortage(MemoryError()), 2, 3),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_codes(error, code, in_a_build):
    assert code_of(error) == code
    assert CODES[failure_of(error, "step", "subject").category] == in_a_build


def test_every_category_has_a_code_of_its_own():
    assert {*CODES} == {*Category}
    assert sorted(CODES.values()) == sorted({*ExitCode} - {ExitCode.DONE})


@pytest.mark.parametrize("error", [TerminatedError, HungUpError])
def test_signals_take_the_way_of_ctrl_c(error):
    assert issubclass(error, KeyboardInterrupt)
    assert not issubclass(error, Exception)
