"""Errors of the store, grouped by what a handler would do.

Every error carries a stable `kind`, one sentence that says what was expected and what was found, and a hint:
the one command or action that mends it. Kinds are append-only, because scripts match on them. The message comes first,
everything else is given by name; an error whose message is made of findings takes these in its place.
"""

import errno
from collections.abc import Sequence
from enum import StrEnum


class Category(StrEnum):
    """What a handler does about an error. Every error class names its own; `tools.exit_codes` has a code for each.

    The one enum is here because the aircraft's code, which needs it, must not import the journal, and the journal
    must not import the store: errors of the journal give the value of a category as text.
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


class ErrorKind(StrEnum):
    """Stable names of what went wrong."""

    NO_CACHE = "no-cache"
    NO_GENERATION = "no-generation"
    UNKNOWN_GENERATION = "unknown-generation"
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
    OWN_HISTORY = "own-history"


class StoreError(Exception):
    """Base of the tree."""

    category = Category.NO_GO

    def __init__(self, message: str, *, kind: ErrorKind, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint


class RequestRefusedError(StoreError):
    """The caller asked for something this cache cannot do; nothing was changed. Ask for something else."""

    category = Category.REFUSED


class CacheUnusableError(StoreError):
    """The folder, file system or permissions do not allow it. Mend the machine, not the cache."""

    category = Category.REFUSED


class DiskFullError(StoreError):
    """No space is left. Free some; the head did not move."""

    category = Category.DISK_FULL


class DamagedHistoryError(StoreError):
    """The journal does not fit the files beside it, or cannot be understood. Never write to it."""

    category = Category.DAMAGED


class ArtifactsBusyError(StoreError):
    """Somebody writes artifacts beside us and does not finish. Nothing was changed; try again."""

    category = Category.LOCK_HELD


class UnprojectedError(StoreError):
    """A generation is committed, but its files could not be written; the next command that writes does it.

    Attributes:
        generation: The generation, which readers cannot see yet.
        reason: What kept its files from being written; its category is that of this error, too.
    """

    category = Category.REFUSED

    def __init__(self, reason: StoreError, *, generation: int) -> None:
        super().__init__(
            f"generation {generation} is committed, but its files could not be written: {reason.message}",
            kind=reason.kind,
            hint=reason.hint
            if reason.kind is ErrorKind.JOURNAL_REPLACED
            else "mend that, then run the same command again: it writes them first",
        )
        self.category = reason.category
        self.generation = generation
        self.reason = reason


class UnknownEventError(StoreError):
    """The journal holds events of a newer version. Reading goes on without them; writing is refused."""

    category = Category.REFUSED


class ArtifactError(StoreError):
    """An artifact is missing or its bytes are not the ones named. Run its step again."""


class BundleError(StoreError):
    """A file is no bundle, or not a whole one. Get it again; nothing was taken from it."""


class ManifestCoverageError(StoreError):
    """What the manifest would name is not what lies in the tree; lists every problem of one pass."""

    category = Category.BUILD_FAILED

    def __init__(
        self, problems: Sequence[str], *, kind: ErrorKind = ErrorKind.COVERAGE, hint: str = ""
    ) -> None:
        self.problems = tuple(problems)
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        super().__init__(f"the coverage walk found: {self.problems[0]}{more}", kind=kind, hint=hint)


class NoGoError(StoreError):
    """The cache must not be flown; carries every reason."""

    def __init__(
        self, reasons: Sequence[str], *, kind: ErrorKind = ErrorKind.VERIFICATION, hint: str = ""
    ) -> None:
        self.reasons = tuple(reasons)
        super().__init__("NO-GO: " + "; ".join(self.reasons), kind=kind, hint=hint)


class IncompatibleDeviceError(NoGoError):
    """The cache is sound but made for another device or library version."""

    category = Category.INCOMPATIBLE

    def __init__(self, reasons: Sequence[str], *, hint: str = "") -> None:
        super().__init__(reasons, kind=ErrorKind.DEVICE, hint=hint)


UNREADABLE = "unreadable"
"""How it is said that the operating system refused to read: nothing is known of the content."""

FAILING = "cannot be read"
"""How it is said that the disk failed: whatever it holds there is lost, and is made again."""

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})


def is_shortage(error: OSError) -> bool:
    """Whether this process lacks memory or open files, or was interrupted: that says nothing about what it looked at."""
    return error.errno in _SHORTAGES


def lacks_threads(error: BaseException) -> bool:
    """Whether the system gave this process no further thread, for which Python has no class of its own."""
    return isinstance(error, RuntimeError) and str(error).startswith("can't start new thread")


def category_of(error: BaseException) -> Category:
    """Return the category of any error: its own, or the one of an error of Python or of the operating system."""
    own = getattr(error, "category", None)
    for category in Category:
        if own == category:
            return category
    match error:
        case OSError() if error.errno in _DISK_FULL:
            return Category.DISK_FULL
        case OSError() | MemoryError() | RecursionError():
            return Category.REFUSED
        case KeyboardInterrupt():
            return Category.INTERRUPTED
        case _:
            return Category.REFUSED if lacks_threads(error) else Category.INTERNAL


def describe_read_error(error: OSError) -> str:
    """Say why a file that is there was not read."""
    return f"{FAILING if error.errno == errno.EIO else UNREADABLE} ({error.strerror})"


def from_os_error(error: OSError, what: str) -> StoreError:
    """Translate an error of the operating system once, at the boundary."""
    found = f"{what}: {error.strerror or error}"
    if is_shortage(error):
        return CacheUnusableError(
            f"expected enough memory and open files for this process, found {found}",
            kind=ErrorKind.RESOURCES,
            hint="raise the limit (ulimit -n) or end other programs, then run it again",
        )
    if error.errno in _DISK_FULL:
        return DiskFullError(
            f"no space left: {found}", kind=ErrorKind.DISK_FULL, hint="free disk space, then run it again"
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return CacheUnusableError(
            f"expected a writable cache, found {found}",
            kind=ErrorKind.PERMISSION,
            hint="mend the permissions or mount",
        )
    return CacheUnusableError(
        f"expected the disk to answer, found {found}", kind=ErrorKind.INPUT_OUTPUT, hint="c10 doctor"
    )
