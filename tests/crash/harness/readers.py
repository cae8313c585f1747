"""A reader that lives on while a writer dies.

One kind keeps the journal open all the time, so that LMDB's lock file has a living user when the writer's death leaves
its mutex behind; the other looks at the cache again and again, as commands do. Both fly whatever is shown.
"""

import contextlib
import os
import signal
import time

from journal import Journal
from journal.errors import JournalMissingError
from store.cache.view import open_view
from store.errors import NoGoError, RequestRefusedError
from tests.crash.harness.bench import Bench

PAUSE_S = 0.001
HANG_S = 900
"""A guard: it lives as long as its point and what judges it."""


class LiveReader:
    """A forked process that reads until it is told to stop."""

    def __init__(self, bench: Bench, *, keeps: bool):
        stop, self._stop = os.pipe()
        self._told, tell = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self._stop)
                signal.alarm(HANG_S)
                _read(bench, stop, tell, keeps=keeps)
                os._exit(0)
            except BaseException as error:  # noqa: BLE001 - told to whoever started it
                os.write(tell, f"! {type(error).__name__}: {error}\n".encode())
                os._exit(1)
        os.close(stop)
        os.close(tell)
        self._buffer = b""
        self._wait_for_a_round()

    def _wait_for_a_round(self) -> None:
        while b"\n" not in self._buffer:
            data = os.read(self._told, 4096)
            if not data:
                return
            self._buffer += data

    def end(self) -> tuple[int, list[str]]:
        """Stop it; returns how many rounds it made and what it found wrong."""
        # One more whole round over what was left behind.
        with contextlib.suppress(BrokenPipeError):
            # A reader that found something wrong has ended already, and has told of it.
            os.write(self._stop, b"s")
        os.close(self._stop)
        while data := os.read(self._told, 65536):
            self._buffer += data
        os.close(self._told)
        _, status = os.waitpid(self.pid, 0)
        lines = self._buffer.decode().split("\n")
        problems = [f"reader: {line[2:]}" for line in lines if line.startswith("!")]
        if status and not problems:
            problems.append(f"reader: ended with status {status}")
        return sum(line == "round" for line in lines), problems


def _read(bench: Bench, stop: int, tell: int, *, keeps: bool) -> None:
    os.set_blocking(stop, False)
    layout, journal, last, seq = bench.layout, None, 0, 0
    ending = False
    while True:
        try:
            with bench.fly() as cache:
                cache.verify()
                number = cache.manifest.envelope.generation
        except NoGoError:
            number = 0
        assert number >= last, f"generation {last} was shown, then {number}"
        last = number
        if not keeps:
            try:
                found = open_view(layout).head.seq
            except RequestRefusedError:
                found = 0
        else:
            if journal is None:
                try:
                    journal = Journal.open(layout.journal, readonly=True)
                except JournalMissingError:
                    pass
            found = journal.head.seq if journal is not None else 0
        assert found >= seq, f"record {seq} was read, then only {found}"
        seq = found
        os.write(tell, b"round\n")
        if ending:
            break
        time.sleep(PAUSE_S)
        try:
            ending = bool(os.read(stop, 1))
        except BlockingIOError:
            ending = False
    if journal is not None:
        journal.close()
