import errno
import os

import pytest

from store.errors import (
    ArtifactError,
    CacheUnusableError,
    DamagedHistoryError,
    DiskFullError,
    ErrorKind,
    IncompatibleDeviceError,
    ManifestCoverageError,
    NoGoError,
    RequestRefusedError,
    UnknownEventError,
    from_os_error,
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
        (errno.EMLINK, CacheUnusableError, ErrorKind.INPUT_OUTPUT),
    ],
)
def test_errors_of_the_system(code, cls, kind):
    error = from_os_error(OSError(code, os.strerror(code)), "file x")
    assert type(error) is cls
    assert error.kind is kind
    assert f"file x: {os.strerror(code)}" in error.message
    assert error.hint


def test_errors_without_a_number():
    assert "strange" in from_os_error(OSError("strange"), "file x").message
