"""Errors of a build's work, one class for each way to handle them.

Every error says what was expected, what was found and how to fix it: `kind` is for programs, `message` and
`hint` are for people, `step` and `subject` name the place, `category` gives the exit code.
"""

from typing import NamedTuple

from store.backports import StrEnum
from store.errors import Category


class ErrorKind(StrEnum):
    """Stable names of failures. Append only: scripts and journals match on them."""

    BAD_REQUEST = "bad-request"
    REQUEST_UNREADABLE = "request-unreadable"
    SOURCE_UNREADABLE = "source-unreadable"

    BAD_TILE = "bad-tile"
    BAD_ARCHIVE = "bad-archive"
    UNSUPPORTED_ARCHIVE = "unsupported-archive"
    SOURCE_CHANGED = "source-changed"
    BAD_CAPTURE_DATES = "bad-capture-dates"
    NO_TILES = "no-tiles"
    TOO_MANY_TILES = "too-many-tiles"
    TILES_TOO_OLD = "tiles-too-old"
    TILE_AGE_UNKNOWN = "tile-age-unknown"

    BACKEND_UNAVAILABLE = "backend-unavailable"
    BAD_MODEL = "bad-model"
    COMPILE_FAILED = "compile-failed"
    COMPILE_CRASHED = "compile-crashed"
    COMPILE_TIMEOUT = "compile-timeout"
    COMPILE_OUT_OF_MEMORY = "compile-out-of-memory"
    COMPILE_CANCELLED = "compile-cancelled"

    EMBED_FAILED = "embed-failed"
    WORKER_DIED = "worker-died"
    BAD_VECTORS = "bad-vectors"
    INDEX_FAILED = "index-failed"

    CHECK_FAILED = "check-failed"
    COVERAGE_TOO_LOW = "coverage-too-low"
    WARNINGS = "warnings"


class Problem(NamedTuple):
    """One thing wrong with a request: the dotted key as in the file, and a sentence about it."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}" if self.key else self.text


class PipelineError(Exception):
    """The work failed.

    Attributes:
        message: What was expected and what was found.
        hint: The command or action that fixes it; empty when there is none.
        kind: Stable name of the failure; by default that of the class.
        step: The build step that failed, when one was running.
        subject: What the step worked on: "z/x/y" of a tile, a path, a model name.
    """

    kind: ErrorKind
    category = Category.BUILD_FAILED

    def __init__(
        self,
        message: str,
        *,
        kind: ErrorKind | None = None,
        hint: str = "",
        step: str | None = None,
        subject: str | None = None,
    ) -> None:
        super().__init__(message)
        if kind is not None:
            self.kind = kind
        self.message = message
        self.hint = hint
        self.step = step
        self.subject = subject

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class RequestError(PipelineError):
    """A person must change the request, or a file that it names, before anything can run.

    Attributes:
        problems: Every problem found in one pass; empty when the request could not be read at all.
    """

    kind = ErrorKind.BAD_REQUEST
    category = Category.REFUSED

    def __init__(
        self,
        message: str,
        *,
        kind: ErrorKind | None = None,
        hint: str = "",
        step: str | None = None,
        subject: str | None = None,
        problems: tuple[Problem, ...] = (),
    ) -> None:
        super().__init__(message, kind=kind, hint=hint, step=step, subject=subject)
        self.problems = problems


class TileError(PipelineError):
    """A tile or a tile archive is damaged, unsuitable, too old, or changed while it was used."""

    kind = ErrorKind.BAD_TILE


class CompileError(PipelineError):
    """A model could not be turned into an engine for this device."""

    kind = ErrorKind.COMPILE_FAILED


class EmbedError(PipelineError):
    """Tiles could not be turned into descriptors, or descriptors into an index."""

    kind = ErrorKind.EMBED_FAILED


class CheckError(PipelineError):
    """A check before the commit failed."""

    kind = ErrorKind.CHECK_FAILED
