"""Errors of the store, grouped by what a handler does about them.

Every error has a stable `kind`, a message that says what was expected and found, and a hint: the command or
action that fixes it. Kinds are added, never changed, because scripts match on them.
"""

import errno
import mmap
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from store.backports import StrEnum


class Category(StrEnum):
    """What a handler does about an error. `tools.exit_codes` has an exit code for each.

    Errors of the journal give the value of a category as text, because the journal must not import the store.
    """

    INTERNAL = "internal"
    REFUSED = "refused"
    BUILD_FAILED = "build-failed"
    LOCK_HELD = "lock-held"
    NO_GO = "no-go"
    INCOMPATIBLE = "incompatible"
    DAMAGED = "damaged"
    DISK_FULL = "disk-full"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"
    HUNG_UP = "hung-up"


class ErrorKind(StrEnum):
    """Stable names of what went wrong."""

    NO_CACHE = "no-cache"
    NO_GENERATION = "no-generation"
    UNKNOWN_GENERATION = "unknown-generation"
    UNKNOWN_BUILD = "unknown-build"
    UNKNOWN_RECORD = "unknown-record"
    NOTHING_TO_ROLL_BACK = "nothing-to-roll-back"
    TARGET_DAMAGED = "target-damaged"
    ROLLED_BACK = "rolled-back"
    WITHDRAWN = "withdrawn"
    COLLECTED = "collected"
    BUSY = "busy"
    FILE_SYSTEM = "file-system"
    PERMISSION = "permission"
    INPUT_OUTPUT = "input-output"
    RESOURCES = "resources"
    DISK_FULL = "disk-full"
    JOURNAL_REPLACED = "journal-replaced"
    JOURNAL_INCOMPLETE = "journal-incomplete"
    UNKNOWN_EVENT = "unknown-event"
    INVALID_EVENT = "invalid-event"
    IMPOSSIBLE_HISTORY = "impossible-history"
    ARTIFACT_MISSING = "artifact-missing"
    ARTIFACT_DAMAGED = "artifact-damaged"
    COVERAGE = "coverage"
    GEOGRAPHY = "geography"
    MANIFEST_INVALID = "manifest-invalid"
    VERIFICATION = "verification"
    SIGNATURE = "signature"
    KEY = "key"
    FLOOR = "floor"
    DEVICE = "device"
    PARITY = "parity"
    BUNDLE = "bundle"
    PACKAGE = "package"
    CLOSED = "closed"
    NOT_CARRIED = "not-carried"
    EXECUTION = "execution"
    RUNTIME_UNAVAILABLE = "runtime-unavailable"
    ENGINE_LOAD = "engine-load"
    ENGINE_RUN = "engine-run"
    INDEX_LOAD = "index-load"
    INDEX_SEARCH = "index-search"
    OWN_HISTORY = "own-history"
    ARGUMENT = "argument"
    READINESS = "readiness"
    MIRROR = "mirror"


class StoreError(Exception):
    """The base class of all errors of the store."""

    category = Category.NO_GO

    def __init__(self, message: str, *, kind: ErrorKind, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint


class RequestRefusedError(StoreError):
    """The cache cannot do what the caller asked for; nothing was changed. Ask for something else."""

    category = Category.REFUSED


class ArgumentError(RequestRefusedError, ValueError):
    """What a program passed to the reader is no usable value."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, kind=ErrorKind.ARGUMENT, hint=hint)


class CacheUnusableError(StoreError):
    """The folder, file system or permissions do not allow it. Fix the machine, not the cache."""

    category = Category.REFUSED


class DiskFullError(StoreError):
    """No space is left. Free some; the head did not move."""

    category = Category.DISK_FULL


class DamagedHistoryError(StoreError):
    """The journal contradicts the files of the cache, or cannot be understood. Never write to it."""

    category = Category.DAMAGED


class ArtifactsBusyError(StoreError):
    """Another process is writing artifacts and does not finish. Nothing was changed; try again."""

    category = Category.LOCK_HELD


class UnprojectedError(StoreError):
    """A generation is committed, but its files could not be written; the next writer writes them.

    Attributes:
        generation: The generation, which readers cannot see yet.
        reason: Why its files could not be written; this error has the same category.
    """

    category = Category.REFUSED

    def __init__(self, reason: StoreError, *, generation: int) -> None:
        super().__init__(
            f"generation {generation} is committed, but its files could not be written: {reason.message}",
            kind=reason.kind,
            hint=reason.hint
            if reason.kind is ErrorKind.JOURNAL_REPLACED
            else "fix that, then run the same command again: it writes them first",
        )
        self.category = reason.category
        self.generation = generation
        self.reason = reason


class UnknownEventError(StoreError):
    """The journal has events of a newer version. Reading ignores them; writing is refused."""

    category = Category.REFUSED


class ArtifactError(StoreError):
    """An artifact is missing, or its content does not match its digest. Run its step again."""


class BundleError(StoreError):
    """A file is no bundle, or an incomplete one. Get it again; nothing was imported."""


class ManifestCoverageError(StoreError):
    """The artifacts do not match what the manifest would name; lists every problem."""

    category = Category.BUILD_FAILED

    def __init__(
        self, problems: Sequence[str], *, kind: ErrorKind = ErrorKind.COVERAGE, hint: str = ""
    ) -> None:
        self.problems = tuple(problems)
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        super().__init__(f"the coverage walk found: {self.problems[0]}{more}", kind=kind, hint=hint)


class NoGoError(StoreError):
    """The cache must not be flown; lists every reason."""

    def __init__(
        self, reasons: Sequence[str], *, kind: ErrorKind = ErrorKind.VERIFICATION, hint: str = ""
    ) -> None:
        self.reasons = tuple(reasons)
        super().__init__("NO-GO: " + "; ".join(self.reasons), kind=kind, hint=hint)


class IncompatibleDeviceError(NoGoError):
    """The cache is sound, but was built for another device or library version."""

    category = Category.INCOMPATIBLE

    def __init__(self, reasons: Sequence[str], *, hint: str = "") -> None:
        super().__init__(reasons, kind=ErrorKind.DEVICE, hint=hint)


UNREADABLE = "unreadable"
"""Says that the operating system refused to read a file: its content is unknown."""

FAILING = "cannot be read"
"""Says that the disk failed: the content is lost and must be rebuilt."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_SHORTAGES = frozenset({errno.EAGAIN, errno.EFBIG, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""As `journal.errors`, which the aircraft's code must not import, but for EFBIG, a full journal there."""
_LACKS_RESOURCES = (
    *("bad_alloc", "allocate memory", "allocate segment", "allocate buffer", "failed to allocate"),
    *("map memory", "map segment", "map buffer", "start new thread", "pthread_create", "too many open files"),
    *("resource temporarily unavailable", "returned null without setting", "error return without exception"),
    *("cannot create shared object", "cannot create search", "cannot create scope", "cannot create cache"),
    "cannot create tls",
)
"""What the loader, ONNX Runtime, OpenVINO, FAISS and Python say, in any case; none of them has an error class for it."""


_IMPORT_TAKES = {
    "faiss": (128 << 20, 128 << 20, ("OMP_NUM_THREADS",)),
    "onnxruntime": (64 << 20, 0, ()),
    "numpy": (56 << 20, 42 << 20, ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")),
}
"""Library to its code and one thread's buffer, bytes, and what limits its threads; measured and rounded up."""


_RESERVE_BYTES = 64 << 10
"""Below the size for which the allocator asks the system, so that small objects find room in what is given back."""
_RESERVE = [bytearray(_RESERVE_BYTES)]
"""Given back before an error is looked at: to judge it, and to tell it, takes memory, which may have run out."""


def is_shortage(error: BaseException) -> bool:
    """Return whether the system refused this process memory, a thread, a process or an open file.

    Also whether it may not write so much, or was interrupted. Python has no class of its own for a refused thread.
    """
    match error:
        case OSError():
            return error.errno in _SHORTAGES
        case RuntimeError():
            return str(error).startswith("can't start new thread")
        case _:
            return isinstance(error, MemoryError)


def lacks_resources(error: BaseException) -> bool:
    """Return whether an error is a shortage (`is_shortage`), or its text, maybe a library's, says so."""
    if isinstance(error, OSError) or is_shortage(error):
        return is_shortage(error)
    if isinstance(error, StoreError):
        if error.kind is ErrorKind.RESOURCES:
            return False
        # An error that wraps a library's may have left out the text of that.
        if error.__cause__ is not None and lacks_resources(error.__cause__):
            return True
    if not isinstance(error, Exception):
        return False
    said = str(error).lower()
    return any(each in said for each in _LACKS_RESOURCES)


def lacks_memory_to_import(error: BaseException) -> bool:
    """Return whether a library was not imported because this process lacks the memory for it."""
    return isinstance(error, ImportError | SystemError) and lacks_resources(error)


def category_of(error: BaseException) -> Category:
    """Return the category of any error, also of errors of Python and the operating system."""
    own = getattr(error, "category", None)
    for category in Category:
        if own == category:
            return category
    match error:
        case OSError() if error.errno in DISK_FULL:
            return Category.DISK_FULL
        case OSError() | RecursionError():
            return Category.REFUSED
        case KeyboardInterrupt():
            return Category.INTERRUPTED
        case _:
            short = is_shortage(error) or lacks_memory_to_import(error)
            return Category.REFUSED if short else Category.INTERNAL


def describe_read_error(error: OSError) -> str:
    """Return why an existing file could not be read."""
    return f"{FAILING if error.errno == errno.EIO else UNREADABLE} ({error.strerror})"


def from_os_error(error: OSError, what: str) -> StoreError:
    """Return the store's error for an error of the operating system; `what` names the file or action."""
    found = f"{what}: {error.strerror or error}"
    if is_shortage(error):
        return _shortage(found)
    if error.errno in DISK_FULL:
        return DiskFullError(
            f"no space left: {found}", kind=ErrorKind.DISK_FULL, hint="free disk space, then run it again"
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return CacheUnusableError(
            f"expected a file or folder that this user may use, found {found}",
            kind=ErrorKind.PERMISSION,
            hint="mount its file system for writing, or name another place"
            if error.errno == errno.EROFS
            else "fix the permissions of it or of its folder, or name another place",
        )
    if error.errno in {errno.ENOTDIR, errno.ENAMETOOLONG}:
        return CacheUnusableError(
            f"expected a name that a file or folder can have, found {found}",
            kind=ErrorKind.FILE_SYSTEM,
            hint="name another place",
        )
    return CacheUnusableError(
        f"expected the disk to answer, found {found}", kind=ErrorKind.INPUT_OUTPUT, hint="c10 doctor"
    )


class TranslateOSErrors:
    """Raise errors of the operating system inside of a `with` block as the store's; `what` as in `from_os_error`."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise from_os_error(error, self._what) from error


def import_takes(library: str) -> int:
    """Return the address space, in bytes, that importing a library takes; 0 if it is imported or never ends badly.

    Where they do not get it, NumPy and ONNX Runtime end or interrupt the process and faiss crashes: the linear
    algebra of two of them wants a buffer for each of its threads.
    """
    if library in sys.modules or library not in _IMPORT_TAKES:
        return 0
    code, buffer, variables = _IMPORT_TAKES[library]
    limits = (os.environ.get(name, "") for name in variables)
    processors = len(os.sched_getaffinity(0))
    limit = next((int(each) for each in limits if each.isdecimal() and int(each)), processors)
    return code + buffer * min(limit, processors)


class TranslateShortages:
    """Raise errors inside of a `with` block that are shortages (`lacks_resources`) as such; `what` is in the message.

    `takes` is address space in bytes that must be free at the start, for libraries that end the process instead
    of raising an error.
    """

    def __init__(self, what: str, *, takes: int = 0) -> None:
        self._what = what
        self._takes = takes

    def __enter__(self) -> None:
        if not _RESERVE:
            with suppress(MemoryError):
                _RESERVE.append(bytearray(_RESERVE_BYTES))
        if self._takes:
            try:
                mmap.mmap(-1, self._takes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0).close()
            except OSError as error:
                raise from_os_error(error, self._what) from error

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        _RESERVE.clear()
        if lacks_resources(error):
            raise _shortage(f"{self._what}: {str(error) or type(error).__name__}") from error


def _shortage(found: str) -> CacheUnusableError:
    return CacheUnusableError(
        f"expected enough memory and open files for this process, found {found}",
        kind=ErrorKind.RESOURCES,
        hint="raise the limit (ulimit -n, -v, -f) or end other programs, then run it again",
    )


def missing_package(name: str, does: str, error: ImportError | None = None) -> CacheUnusableError:
    """Return the error of a Python package that is not installed, or does not load; `does` is what it is for."""
    return CacheUnusableError(
        f"expected the Python package {name}, which {does}, found none{f': {error}' if error else ''}",
        kind=ErrorKind.PACKAGE,
        hint=f"pip install {name}",
    )
