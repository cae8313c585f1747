"""Turns the end of a compiler's child process into what the port promises. Pure."""

from typing import assert_never

from pipeline.errors import CompileError, ErrorKind
from pipeline.processes.outcome import Died, Failed, Finished, Outcome, OutOfMemory, TimedOut

_TAIL = 2_000
"""Characters of a log that go into a message; the journal keeps all of it."""


def compiled(outcome: Outcome, *, model: str) -> Finished:
    """Return the outcome of a child that answered.

    Raises:
        CompileError: With the kind that the outcome stands for.
    """
    match outcome:
        case Finished():
            return outcome
        case Failed(kind="CompileError", fields=(str(message), str(hint), str(kind), _, subject)):
            raise CompileError(message, hint, ErrorKind(kind), None, subject or model)
        case Failed(kind=kind, message=message, log=log):
            raise CompileError(
                f"expected an engine, found that the compiler failed: {kind}: {message}{_tail(log)}",
                "usual causes: an operator that the backend lacks, or a full disk",
                ErrorKind.COMPILE_FAILED,
                None,
                model,
            )
        case Died(signal=signal, log=log):
            raise CompileError(
                f"expected an engine, found that {signal} ended the compiler{_tail(log)}",
                "try another backend or library version",
                ErrorKind.COMPILE_CRASHED,
                None,
                model,
            )
        case OutOfMemory(message=message, log=log):
            raise CompileError(
                f"expected an engine, found that memory ran out: {message}{_tail(log)}",
                "free memory, or lower engine.workspace_mb or engine.batch",
                ErrorKind.COMPILE_OUT_OF_MEMORY,
                None,
                model,
            )
        case TimedOut(seconds=seconds, log=log):
            raise CompileError(
                f"expected an engine within {seconds:g} s, found none{_tail(log)}",
                "raise engine.timeout_s",
                ErrorKind.COMPILE_TIMEOUT,
                None,
                model,
            )
        case _:
            assert_never(outcome)


def _tail(log: str) -> str:
    return f"; its log ends: {log[-_TAIL:].strip()}" if log.strip() else ""
