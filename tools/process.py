"""The process of a command: its standard streams, its signals and its end."""

import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, NoReturn

from tools.exit_codes import ExitCode, HungUpError, TerminatedError

_SIGNALS: Final = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: TerminatedError,
    signal.SIGHUP: HungUpError,
}

_PAUSE_S: Final = 0.1
"""Time between looks whether an import has ended."""


def prepare_streams() -> None:
    """Open the null device for every standard stream that is closed, and let writing to them block.

    Otherwise the next file that is opened, maybe the journal, gets its number, and what a library prints goes there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - a system call
        else:
            if number > 0:
                # Some programs leave it so that a write fails where the reader is slow.
                os.set_blocking(number, True)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - open as long as the process


def exit_with(code: ExitCode) -> NoReturn:
    """End the process once everything is written. A reader that went away is no error."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        discard_output()
    raise SystemExit(int(code))


def has_lost_reader() -> bool:
    """Whether standard output is a pipe or socket that nobody reads any more."""
    import select  # noqa: PLC0415 - only asked where a pipe broke

    poll = select.poll()
    poll.register(1, 0)
    return bool(poll.poll(0))


def discard_output() -> None:
    """Discard unwritten output, so that the interpreter does not report a broken pipe at its end; a closed output has none."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class _Arrival:
    """What becomes of a signal that arrives; `ignored` are the signals that are ignored from then on.

    Attributes:
        raised: The error that was raised last; None before.
    """

    def __init__(self, ignored: Iterable[int]) -> None:
        self.raised: BaseException | None = None
        self._ignored = tuple(ignored)
        self._waiting: int | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise the error of a signal, or wait for the end of an import; a second Ctrl-C does not wait."""
        if not _is_in_import(frame) or (self._waiting is not None and number == signal.SIGINT):
            self._throw(number)
        self._waiting = number
        signal.signal(signal.SIGALRM, self._look_again)
        signal.setitimer(signal.ITIMER_REAL, _PAUSE_S, _PAUSE_S)

    def _look_again(self, _number: int, frame: FrameType | None) -> None:
        if self._waiting is not None and not _is_in_import(frame):
            self._throw(self._waiting)

    def _throw(self, number: int) -> NoReturn:
        self._waiting = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        if number != signal.SIGINT:
            for each in self._ignored:
                signal.signal(each, signal.SIG_IGN)
        self.raised = _SIGNALS[signal.Signals(number)]()
        raise self.raised


@contextmanager
def signals_as_errors() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into exceptions in the main thread.

    An import is finished first: compiled modules that are interrupted while they are loaded keep the exception for
    themselves or crash, ONNX Runtime for example. What has done its work within a tenth of a second after that ends
    as if no signal had come.

    After SIGTERM or SIGHUP further ones are ignored, so that they do not disturb what cleans up. What was ignored at
    the start stays so: that is how `nohup` works.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: handler for number, handler in found.items() if handler is not signal.SIG_IGN}
    alarm = signal.getsignal(signal.SIGALRM)
    arrival = _Arrival(before.keys() & {signal.SIGTERM, signal.SIGHUP})
    try:
        for number in before:
            signal.signal(number, arrival.handle)
        yield
    except KeyboardInterrupt as error:
        # A library may drop the error: SQLite says only that something interrupted its search.
        if isinstance(arrival.raised, TerminatedError) and not isinstance(error, TerminatedError):
            raise arrival.raised from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in (*before.items(), (signal.SIGALRM, alarm)):
            signal.signal(number, handler)


def _is_in_import(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib."):
            return True
        frame = frame.f_back
    return False
