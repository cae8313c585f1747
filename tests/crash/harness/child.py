"""Children of a sweep: one that does something and tells of it, and one that joins in when it is called."""

import contextlib
import faulthandler
import os
import re
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.crash.harness.bench import Acknowledged, Bench, acknowledge, acknowledged
from tests.crash.harness.drivers import Driver

ANSWER_S = 10
HANG_S = 300
"""When a child is taken for hung: a guard for a machine under ten times its load, not a measurement."""

_NATIVE = re.compile(r"(/\S+?)\([^)]*\)\s*\[0x[0-9a-f]+\]")
_PYTHON = re.compile(r'  File "([^"]+)", line (\d+)')
_BESIDE = ("c10-crash-shim", "libc.so", "libpthread", "libgcc_s", "ld-linux", "libm.so")
"""Native libraries that are not to blame for a death inside of them, but whoever called them."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a child ended: the signal or `hang`, or nothing; its lines."""

    how: str
    lines: list[str]

    @property
    def told(self) -> Acknowledged:
        return acknowledged(self.lines)

    def line(self, mark: str) -> list[str]:
        """The words of the last line with a mark."""
        found = [line.split(maxsplit=3) for line in self.lines if line.startswith(f"{mark} ")]
        return found[-1][1:] if found else []

    @property
    def place(self) -> str:
        """Where a signal met it, if that was told: the native library, and the line of Python that had called it."""
        native = [match[1] for line in self.lines if (match := _NATIVE.match(line))]
        blamed = next((Path(path).name for path in native if not any(each in path for each in _BESIDE)), "")
        python = next((match for line in self.lines if (match := _PYTHON.match(line))), None)
        return (
            f"{blamed.partition('.')[0] or 'somewhere'} from {'/'.join(Path(python[1]).parts[-2:])}:{python[2]}"
            if python
            else blamed
        )

    @property
    def starts_a_thread(self) -> bool:
        """Whether it waits for a thread that died at its first allocations, as CPython before 3.13 does for ever."""
        return any(re.search(r'/threading\.py", line \d+ in start$', line) for line in self.lines)


def child(work: Callable[[Bench], None], bench: Bench, *, hang_s: float = HANG_S) -> Ending:
    """Do something in a child that tells through a pipe. One that hangs is asked where, and killed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            os.close(reading)
            bench.pipe = writing
            faulthandler.enable(writing, all_threads=False)
            work(bench)
        os._exit(0)
    os.close(writing)
    data, signals = b"", [signal.SIGKILL, signal.SIGABRT]
    deadline = time.monotonic() + hang_s
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            if not signals:
                break
            os.kill(pid, signals.pop())
            deadline = time.monotonic() + ANSWER_S
            continue
        piece = os.read(reading, 65536)
        if not piece:
            break
        data += piece
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    how = "hang" if len(signals) < 2 else ""
    if not how and os.WIFSIGNALED(status):
        how = signal.Signals(os.WTERMSIG(status)).name
    return Ending(how, data.decode(errors="replace").splitlines())


class Helper:
    """A process that was forked before the writer began, and joins in when it is called."""

    def __init__(self, bench: Bench, driver: Driver):
        called, self._call = os.pipe()
        self._answered, answer = os.pipe()
        telling, self._tell = os.pipe()
        os.set_blocking(telling, False)
        self._telling, self._lines = telling, b""
        self.pid = os.fork()
        if not self.pid:
            os.close(self._call)
            with contextlib.suppress(BaseException):
                signal.alarm(HANG_S)
                own = Bench(bench.root, pipe=self._tell)
                acknowledge(own)
                while os.read(called, 1):
                    driver.beside(own)  # type: ignore[misc]
                    os.write(answer, b"d")
            os._exit(0)
        os.close(called)
        os.close(answer)
        os.close(self._tell)

    def call(self) -> None:
        """Let it do its part, and wait for that; in the writer's process."""
        os.write(self._call, b"c")
        if os.read(self._answered, 1) != b"d":
            raise AssertionError("the process beside did not do its part")

    def told(self) -> Acknowledged:
        """What it acknowledged."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._telling, 65536):
                self._lines += data
        return acknowledged(self._lines.decode().splitlines())

    def end(self) -> None:
        """Let it go."""
        for fd in (self._call, self._answered, self._telling):
            os.close(fd)
        os.waitpid(self.pid, 0)
