"""The child's side of `pipeline.processes.pool`: answer requests and report progress.

A child module is run as ``python -P -m MODULE PARENT_PID [LIBRARY...]`` and calls ``serve``. Standard input carries
requests and standard output carries answers. Both are redirected first, so that a library that prints cannot
damage the stream: its text goes to standard error, which the parent keeps as the log.

The child ends when its parent ends in any way: the kernel kills it (PR_SET_PDEATHSIG), and if the parent
ended before that was set, the parent's pid has changed. The end of the input ends it too.
"""

import ctypes
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, runtime_checkable

from pipeline.errors import PipelineError
from pipeline.processes.framing import FrameReader, Message, Payload, encode
from store.errors import StoreError

Progress = Callable[[Payload], None]
Handler = Callable[[Message, Progress], Payload]
"""Takes a request and a way to report progress, returns the answer. An exception is the answer "failed"."""


@runtime_checkable
class ReadsAhead(Protocol):
    """A handler that begins with later requests while it answers one."""

    def read_ahead(self, requests: Iterator[Message]) -> Iterator[tuple[int, Any]]:
        """Yield the number of each request, and what is then given to the handler in its place.

        An error of one request is raised when the handler answers it, not here.

        Args:
            requests: Number and request, in the order in which they arrive; the next one may be long in coming.
        """
        ...

    def __call__(self, request: Any, progress: Progress) -> Payload:  # noqa: ANN401 - the handler's own
        """Answer what `read_ahead` yielded."""
        ...


READY, PROGRESS, FINISHED, FAILED = "ready", "progress", "finished", "failed"

_PR_SET_PDEATHSIG: Final = 1
_OOM_SCORE_ADJ: Final = "500"
"""As if this process used half of all memory in addition (proc(5))."""

_READ_SIZE: Final = 1 << 20
_MESSAGE_LIMIT: Final = 4_000
_TRACEBACK_LIMIT: Final = 16_000


def die_with_parent(parent: int) -> None:
    """Make this process end with its parent, and ignore interrupts, which the parent handles.

    Args:
        parent: Pid of the process that started this one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(0)


def die_before_parent() -> None:
    """Ask the kernel to kill this process, which can be started again, when memory runs out, and not its parent."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE_ADJ, encoding="ascii")


def serve(start: Callable[[Message], Handler | ReadsAhead]) -> None:
    """Answer requests until standard input ends.

    Args:
        start: Takes the first message, the initial request, and returns the handler of all that follow; it may
            be one that `ReadsAhead`.
    """
    die_with_parent(int(sys.argv[1]))
    die_before_parent()
    requests, answers = _claim_streams()
    for library in sys.argv[2:]:
        # What is missing is reported by what needs it.
        with suppress(Exception):
            importlib.import_module(library)
    messages = _read_messages(requests)
    try:
        handler = start(next(messages))
    except StopIteration:
        return
    except Exception as error:  # noqa: BLE001 - every failure must reach the parent
        _send(answers, [FAILED, None, describe_error(error)])
        return
    _send(answers, [READY, None, None])
    asked = handler.read_ahead(messages) if isinstance(handler, ReadsAhead) else messages
    try:
        for number, request in asked:
            _answer(answers, number, request, handler)
    except BaseException:  # noqa: BLE001 - the process ends with all of them
        # Leaving would close `asked`, which waits for its thread, and that for requests that do not come.
        try:
            traceback.print_exc()
            sys.stdout.flush()
        finally:
            os._exit(1)


def _answer(answers: BinaryIO, number: int, request: Payload, handler: Handler) -> None:
    def report(value: Payload) -> None:
        _send(answers, [PROGRESS, number, value])

    try:
        frame = encode([FINISHED, number, handler(request, report)])
    except Exception as error:  # noqa: BLE001 - every failure must reach the parent
        frame = encode([FAILED, number, describe_error(error)])
    answers.write(frame)
    answers.flush()


def describe_error(error: Exception) -> Payload:
    """Return an error as a message to the parent: class, text, traceback and, for one of ours, its fields."""
    text = "".join(traceback.format_exception(error))
    # A `PipelineError` has its hint among the fields.
    message = f"{error}; {error.hint}" if isinstance(error, StoreError) and error.hint else str(error)
    out_of_memory = any(isinstance(each, MemoryError) for each in (error, error.__cause__))
    return {
        # Libraries have subclasses with other names, such as NumPy's.
        "kind": MemoryError.__name__ if out_of_memory else type(error).__name__,
        "message": message[:_MESSAGE_LIMIT],
        "traceback": text[-_TRACEBACK_LIMIT:],
        "fields": [error.message[:_MESSAGE_LIMIT], error.hint, str(error.kind), error.step, error.subject]
        if isinstance(error, PipelineError)
        else [],
    }


def _send(answers: BinaryIO, message: Payload) -> None:
    answers.write(encode(message))
    answers.flush()


def _claim_streams() -> tuple[int, BinaryIO]:
    requests = os.dup(0)
    answers = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device, not a file of ours
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return requests, answers


def _read_messages(requests: int) -> Iterator[Message]:
    reader = FrameReader()
    while data := os.read(requests, _READ_SIZE):
        yield from reader.feed(data)
