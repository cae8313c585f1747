import errno
import importlib
import inspect

import pytest

import journal.errors
import pipeline.errors
import store.errors
import store.runtime.backends.base
from journal.errors import BuildLockHeldError, JournalDamagedError, JournalFullError
from pipeline.errors import CheckError, CompileError, RequestError, TileError
from store.errors import (
    ArtifactError,
    CacheUnusableError,
    DiskFullError,
    ErrorKind,
    IncompatibleDeviceError,
    ManifestCoverageError,
    NoGoError,
    UnprojectedError,
)
from tools.exit_codes import BY_CLASS, MEANINGS, ExitCode, TerminatedError, code_of, code_of_failure

MODULES = (journal.errors, store.errors, store.runtime.backends.base, pipeline.errors)


def error_classes():
    for module in MODULES:
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, BaseException) and cls.__module__ == module.__name__:
                yield cls


@pytest.mark.parametrize("cls", list(error_classes()), ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_every_error_class_has_its_own_line(cls):
    assert f"{cls.__module__}.{cls.__qualname__}" in BY_CLASS


@pytest.mark.parametrize("path", BY_CLASS)
def test_every_line_names_a_class_that_exists(path):
    module, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    assert issubclass(cls, BaseException)
    assert f"{cls.__module__}.{cls.__qualname__}" == path


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
        "INTERRUPTED": 130,
        "TERMINATED": 143,
    }
    assert set(MEANINGS) == set(ExitCode)


FULL = DiskFullError(ErrorKind.DISK_FULL, "no space")
DENIED = CacheUnusableError(ErrorKind.PERMISSION, "no")


@pytest.mark.parametrize(
    ("error", "code", "in_a_build"),
    [
        (RequestError("no"), 2, 2),
        (TileError("no"), 3, 3),
        (CompileError("no"), 3, 3),
        (CheckError("no"), 3, 3),
        (ManifestCoverageError(["x"]), 3, 3),
        (ArtifactError(ErrorKind.ARTIFACT_DAMAGED, "x"), 5, 3),
        (NoGoError(["x"]), 5, 3),
        (IncompatibleDeviceError(["x"]), 6, 3),
        (BuildLockHeldError("x", holder=None), 4, 4),
        (JournalDamagedError("x"), 7, 7),
        (JournalFullError("x"), 8, 8),
        (FULL, 8, 8),
        (DENIED, 2, 2),
        (UnprojectedError(3, FULL), 8, 8),
        (UnprojectedError(3, DENIED), 2, 2),
        (OSError(errno.ENOSPC, "full"), 8, 8),
        (PermissionError(errno.EACCES, "no"), 2, 2),
        (KeyboardInterrupt(), 130, 130),
        (TerminatedError(), 143, 143),
        (ValueError("x"), 1, 3),
        (MemoryError(), 2, 3),
        (RecursionError("deep"), 2, 3),
        (RuntimeError("can't start new thread"), 2, 3),
        (RuntimeError("x"), 1, 3),
        (OSError(errno.EMFILE, "many"), 2, 2),
        (CacheUnusableError(ErrorKind.RESOURCES, "many"), 2, 2),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_codes(error, code, in_a_build):
    assert code_of(error) == code
    assert code_of_failure(error) == in_a_build


def test_a_failure_without_a_cause_is_a_failed_build():
    assert code_of_failure(None) is ExitCode.BUILD_FAILED


def test_a_new_subclass_takes_the_code_of_its_base():
    class NewerError(TileError):
        pass

    assert code_of(NewerError("x")) is ExitCode.BUILD_FAILED


def test_sigterm_takes_the_way_of_ctrl_c():
    assert issubclass(TerminatedError, KeyboardInterrupt)
    assert not issubclass(TerminatedError, Exception)
