"""Which exit code an error becomes: one table, by class. Pure.

Classes are named by their full path and not imported: the commands that only read must start without the
libraries that the pipeline needs, and an error of a class exists only where its module was loaded already. A
class that is not listed takes the code of its nearest listed base.
"""

import errno
from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """What the shell sees. Numbers are never reused."""

    DONE = 0
    INTERNAL = 1
    REFUSED = 2
    BUILD_FAILED = 3
    LOCK_HELD = 4
    NO_GO = 5
    INCOMPATIBLE = 6
    DAMAGED = 7
    DISK_FULL = 8
    INTERRUPTED = 130
    TERMINATED = 143


class TerminatedError(KeyboardInterrupt):
    """SIGTERM arrived. It takes the way of Ctrl-C, so that whoever cleans up after the one does after the other."""


MEANINGS: Final[Mapping[ExitCode, str]] = {
    ExitCode.DONE: "done",
    ExitCode.INTERNAL: "internal error",
    ExitCode.REFUSED: "bad request or usage, permission, file system, no cache; too little memory",
    ExitCode.BUILD_FAILED: "build failed; the cache still shows what it showed",
    ExitCode.LOCK_HELD: "another process holds the build lock",
    ExitCode.NO_GO: "verification says NO-GO",
    ExitCode.INCOMPATIBLE: "made for another device or library version",
    ExitCode.DAMAGED: "damaged journal or history",
    ExitCode.DISK_FULL: "disk full",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C); recorded as failed",
    ExitCode.TERMINATED: "terminated (SIGTERM); recorded as failed",
}

BY_CLASS: Final[Mapping[str, ExitCode]] = {
    "builtins.BaseException": ExitCode.INTERNAL,
    "builtins.OSError": ExitCode.REFUSED,
    "builtins.MemoryError": ExitCode.REFUSED,
    "builtins.RecursionError": ExitCode.REFUSED,
    "builtins.KeyboardInterrupt": ExitCode.INTERRUPTED,
    "tools.exit_codes.TerminatedError": ExitCode.TERMINATED,
    "journal.errors.JournalError": ExitCode.DAMAGED,
    "journal.errors.JournalDamagedError": ExitCode.DAMAGED,
    "journal.errors.RecordError": ExitCode.DAMAGED,
    "journal.errors.JournalVersionError": ExitCode.REFUSED,
    "journal.errors.JournalFullError": ExitCode.DISK_FULL,
    "journal.errors.BuildLockHeldError": ExitCode.LOCK_HELD,
    "journal.errors.JournalPermissionError": ExitCode.REFUSED,
    "journal.errors.JournalFilesystemError": ExitCode.REFUSED,
    "journal.errors.JournalMissingError": ExitCode.REFUSED,
    "journal.errors.JournalExistsError": ExitCode.REFUSED,
    "journal.errors.JournalIOError": ExitCode.REFUSED,
    "journal.errors.HeadMovedError": ExitCode.INTERNAL,
    "journal.errors.JournalMisuseError": ExitCode.INTERNAL,
    "journal.errors.JournalClosedError": ExitCode.INTERNAL,
    "store.errors.StoreError": ExitCode.NO_GO,
    "store.errors.RequestRefusedError": ExitCode.REFUSED,
    "store.errors.CacheUnusableError": ExitCode.REFUSED,
    "store.errors.DiskFullError": ExitCode.DISK_FULL,
    "store.errors.UnprojectedError": ExitCode.REFUSED,
    "store.errors.ArtifactsBusyError": ExitCode.LOCK_HELD,
    "store.errors.DamagedHistoryError": ExitCode.DAMAGED,
    "store.errors.UnknownEventError": ExitCode.REFUSED,
    "store.errors.ArtifactError": ExitCode.NO_GO,
    "store.errors.BundleError": ExitCode.NO_GO,
    "store.errors.ManifestCoverageError": ExitCode.BUILD_FAILED,
    "store.errors.NoGoError": ExitCode.NO_GO,
    "store.errors.IncompatibleDeviceError": ExitCode.INCOMPATIBLE,
    "store.files.sealed_memory.SealError": ExitCode.NO_GO,
    "store.formats.descriptor_block.BlockError": ExitCode.NO_GO,
    "store.base.canonical_json.CanonicalError": ExitCode.INTERNAL,
    "store.runtime.backends.base.ExecutionError": ExitCode.INCOMPATIBLE,
    "store.runtime.backends.base.RuntimeUnavailableError": ExitCode.REFUSED,
    "store.runtime.backends.base.EngineLoadError": ExitCode.INCOMPATIBLE,
    "store.runtime.backends.base.EngineRunError": ExitCode.INCOMPATIBLE,
    "store.runtime.backends.base.IndexLoadError": ExitCode.NO_GO,
    "store.runtime.backends.base.IndexSearchError": ExitCode.INTERNAL,
    "pipeline.errors.PipelineError": ExitCode.BUILD_FAILED,
    "pipeline.errors.RequestError": ExitCode.REFUSED,
    "pipeline.errors.TileError": ExitCode.BUILD_FAILED,
    "pipeline.errors.CompileError": ExitCode.BUILD_FAILED,
    "pipeline.errors.EmbedError": ExitCode.BUILD_FAILED,
    "pipeline.errors.CheckError": ExitCode.BUILD_FAILED,
    "pipeline.processes.pool.WorkerStartError": ExitCode.BUILD_FAILED,
    "store.files.regular_file.NotRegularError": ExitCode.REFUSED,
    "pipeline.processes.framing.FrameError": ExitCode.BUILD_FAILED,
}
"""Full path of a class to the code of its errors."""

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def code_of(error: BaseException) -> ExitCode:
    """Return the exit code of an error that ended a command."""
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return ExitCode.DISK_FULL
    if lacks_threads(error):
        return ExitCode.REFUSED
    # A generation that was committed without its files says itself what kept them from being written.
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return code_of(reason)
    for cls in type(error).__mro__:
        code = BY_CLASS.get(f"{cls.__module__}.{cls.__qualname__}")
        if code is not None:
            return code
    return ExitCode.INTERNAL


def lacks_threads(error: BaseException) -> bool:
    """Whether the system gave this process no further thread, for which Python has no class of its own."""
    return isinstance(error, RuntimeError) and str(error).startswith("can't start new thread")


def code_of_failure(cause: BaseException | None) -> ExitCode:
    """Return the exit code of a build that ended as failed because of `cause`.

    What would be a NO-GO, or unfit, for somebody who looks at a cache is a failure of the step that met it; so is
    a step that memory did not suffice for, and an error that nobody foresaw, whose traceback is in the journal.
    """
    if cause is None or isinstance(cause, (MemoryError, RecursionError)) or lacks_threads(cause):
        return ExitCode.BUILD_FAILED
    code = code_of(cause)
    of_a_step = {ExitCode.NO_GO, ExitCode.INCOMPATIBLE, ExitCode.INTERNAL}
    return ExitCode.BUILD_FAILED if code in of_a_step else code
