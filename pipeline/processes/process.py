"""One spawned child process with its pipes: start it, transfer bytes, and return how it ended.

Nothing here waits for input or output; `pipeline.processes.pool` does that for all children together.
"""

import contextlib
import importlib.util
import os
import signal
import site
import subprocess
import sys
from pathlib import Path
from typing import Final

from pipeline.processes.framing import FrameError, FrameReader, Message, Payload, encode
from pipeline.processes.outcome import Died, Failed, Outcome, OutOfMemory

LOG_LIMIT: Final = 64 * 1024
"""The last bytes of a child's standard error, which are kept."""

_EXIT_WAIT_S: Final = 5.0
"""Longest time in seconds from the end of a child's answers to its exit."""

START_MODULE: Final = (
    "import sys; sys.path[: sys.path[0] == ''] = []; "
    "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
"""A program that runs the module in its first argument like `python -P -m`, which Python has from 3.11 on: it
imports nothing from the current folder."""

_READ_SIZE: Final = 1 << 20
_NOT_INHERITED: Final = frozenset({"NVIDIA_TF32_OVERRIDE", "ORT_LOAD_CONFIG_FROM_MODEL"})
"""Settings of TensorRT and ONNX Runtime that change what an engine computes and are part of no step key."""

_ONE_THREAD: Final = {
    # Throughput comes from processes. With a thread per core in each of them, the threads only wait for each
    # other.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    # A segmentation fault then writes the Python stack to the log.
    "PYTHONFAULTHANDLER": "1",
}


class Child:
    """One process with its three pipes. Input and output never block; the pool waits for them.

    Attributes:
        process: The process.
        stdin: File descriptor that takes requests.
        stdout: File descriptor that gives answers.
        stderr: File descriptor that gives the log.
        ended: Whether the stream of answers has ended.
        stream_error: The error in the answers, if they were no frames.
    """

    def __init__(self, module: str, *libraries: str) -> None:
        """Start a module, which first imports what it can of some libraries."""
        self._oom_kills = _count_oom_kills()
        inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        self.process = subprocess.Popen(
            [sys.executable, "-c", START_MODULE, module, str(os.getpid()), *libraries],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**inherited, **_ONE_THREAD, "PYTHONPATH": _python_path(module)},
            bufsize=0,
            close_fds=True,
            # Its own session: Ctrl-C reaches the parent alone, which then decides.
            start_new_session=True,
        )
        pipes = (self.process.stdin, self.process.stdout, self.process.stderr)
        self.stdin, self.stdout, self.stderr = (pipe.fileno() for pipe in pipes if pipe is not None)
        for descriptor in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(descriptor, False)
        self._outgoing = bytearray()
        self._incoming = FrameReader()
        self._log = bytearray()
        self._closed = False
        self.ended = False
        self.stream_error: FrameError | None = None

    def send(self, message: Payload) -> None:
        """Queue a message, and write as much as the pipe accepts now.

        Raises:
            FrameError: The message is not plain data.
        """
        self._outgoing += encode(message)
        self.write()

    @property
    def writing(self) -> bool:
        """Whether there is more to write."""
        return bool(self._outgoing) and not self.ended

    def write(self) -> None:
        """Write as much as the pipe accepts now."""
        while self._outgoing:
            try:
                written = os.write(self.stdin, memoryview(self._outgoing)[:_READ_SIZE])
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._outgoing.clear()
                return
            del self._outgoing[:written]

    def read(self) -> list[Message]:
        """Return the messages that have arrived; set ``ended`` at the end of the stream."""
        messages: list[Message] = []
        try:
            while data := os.read(self.stdout, _READ_SIZE):
                messages.extend(self._incoming.feed(data))
        except BlockingIOError:
            return messages
        except FrameError as error:
            self.stream_error = error
        self.ended = True
        return messages

    def drain(self) -> bool:
        """Read the log; return whether more may come."""
        try:
            while data := os.read(self.stderr, _READ_SIZE):
                self._log += data
                del self._log[:-LOG_LIMIT]
        except BlockingIOError:
            return True
        return False

    @property
    def log(self) -> str:
        """The last 64 KiB of standard error that were read."""
        return self._log.decode("utf-8", "replace")

    def terminate(self) -> None:
        """Ask the child to end: close its input, and send SIGTERM to stop the current request."""
        if self._closed or self.exited or self.process.stdin is None:
            return
        self._outgoing.clear()
        self.process.stdin.close()
        self.process.terminate()

    @property
    def exited(self) -> bool:
        """Whether the child has ended."""
        return self.process.poll() is not None

    def kill(self) -> None:
        """Kill the child and the processes that it started. Does nothing if it has ended."""
        if self._closed:
            return
        self._closed = True
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.drain()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def exit_outcome(self) -> Outcome:
        """Wait for a child whose answers have ended, and return how it ended."""
        try:
            status = self.process.wait(timeout=_EXIT_WAIT_S)
        except subprocess.TimeoutExpired:  # it closed its standard output and still runs
            status = 0
        self.drain()
        if self.stream_error is not None:
            return Failed(kind="FrameError", message=str(self.stream_error), traceback="", log=self.log)
        if status >= 0:
            return Failed(
                kind="ChildExit",
                message=f"expected an answer, found that the child ended with status {status}",
                traceback="",
                log=self.log,
            )
        name = signal.Signals(-status).name
        if name == "SIGKILL" and (self._oom_kills is None or _count_oom_kills() != self._oom_kills):
            return OutOfMemory(message="the kernel killed the process (SIGKILL)", log=self.log)
        return Died(signal=name, log=self.log)


def _count_oom_kills() -> int | None:
    """Return how many processes the kernel has killed for lack of memory; None if it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def _python_path(module: str) -> str:
    """Return a PYTHONPATH with which a child finds the same packages as this process.

    Packages that are not installed are found through the working directory, which ``-P`` removes in the
    child, or through a path that a test runner added, which a child does not inherit.
    """
    roots = [_package_root(module), _package_root(__name__)]
    installed = {*site.getsitepackages(), site.getusersitepackages()}
    paths = [root for root in dict.fromkeys(roots) if root not in installed]
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*paths, inherited] if inherited else paths)


def _package_root(module: str) -> str:
    """Return the folder from which the top-level package of ``module`` is imported."""
    top = module.partition(".")[0]
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise ModuleNotFoundError(f"expected a module {top!r} to run in a child, found none", name=top)
    if spec.submodule_search_locations:
        return str(Path(next(iter(spec.submodule_search_locations))).resolve().parent)
    return str(Path(spec.origin or "").resolve().parent)
