"""From whatever a step raised to what is reported and recorded of it."""

import traceback
from collections.abc import Mapping

from journal import JournalError
from pipeline.errors import PipelineError
from pipeline.report import Failure
from store.domain.events import BuildFailed
from store.errors import ErrorKind, StoreError, from_os_error

_TRACEBACK_LIMIT = 16_384
_TEXT_LIMIT = 32_768


def failure_of(error: BaseException, step: str, subject: str) -> Failure:
    """Return what a report says of an error, raised at `step` while it worked on `subject`."""
    match error:
        case PipelineError():
            found = error.subject or subject
            return Failure(
                kind=str(error.kind),
                step=error.step or step,
                message=error.message,
                hint=error.hint,
                subject=found,
            )
        case StoreError() | JournalError():
            return Failure(
                kind=str(error.kind), step=step, message=error.message, hint=error.hint, subject=subject
            )
        case OSError():
            return failure_of(from_os_error(error, f"{step} {subject}".strip()), step, subject)
        case MemoryError():
            return Failure(
                kind=str(ErrorKind.RESOURCES),
                step=step,
                message=f"MemoryError: expected enough memory for this step, found none left{_told(error)}",
                hint="end other programs, or set fewer workers or a smaller batch, then run it again",
                subject=subject,
            )
        case KeyboardInterrupt() | SystemExit():
            return Failure(
                kind="interrupted", step=step, message="interrupted", hint="run it again", subject=subject
            )
        case _:
            message = f"{type(error).__name__}: {error}"
            return Failure(
                kind="unexpected",
                step=step,
                message=message,
                hint="c10 show (has the traceback)",
                subject=subject,
            )


def failed_event(failure: Failure, error: BaseException, inputs: Mapping[str, object]) -> BuildFailed:
    """Return the event that records a failure, with its traceback."""
    trace = "".join(traceback.format_exception(error))
    return BuildFailed(
        step=failure.step,
        kind=failure.kind,
        subject=_text(failure.subject),
        message=_text(failure.message),
        hint=_text(failure.hint),
        traceback=_text(trace[-_TRACEBACK_LIMIT:]),
        inputs={name: _text(value) if isinstance(value, str) else value for name, value in inputs.items()},
    )


def _told(error: BaseException) -> str:
    return f": {error}" if str(error) else ""


def _text(text: str) -> str:
    """The same text, with what UTF-8 cannot hold (bytes of a file name) written as escapes."""
    return text[:_TEXT_LIMIT].encode("utf-8", "backslashreplace").decode("utf-8")
