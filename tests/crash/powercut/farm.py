"""Many short trials in a few processes, of which each may die.

A worker says which trial it begins; if it dies, that trial has its answer, and another worker goes on behind it.
"""

import contextlib
import json
import os
import selectors
import signal
import traceback


@contextlib.contextmanager
def until_told():
    """Run until the end, or until SIGINT or SIGTERM: what was found by then is then the answer."""

    def interrupted(*_):
        raise KeyboardInterrupt

    told = {"interrupted": False}
    before = signal.signal(signal.SIGTERM, interrupted)
    try:
        yield told
    except KeyboardInterrupt:
        told["interrupted"] = True
    finally:
        signal.signal(signal.SIGTERM, before)


def run(work, *, workers):
    """Run `work(worker, done, workers)` in forked processes and gather what it yields.

    Args:
        work: A generator function of (number of this worker, trials it has begun before, how many workers); it yields
            one JSON value per trial.
        workers: How many processes.

    Yields:
        The values, and {"failed": ...} for a trial that ended its process.
    """
    selector = selectors.DefaultSelector()
    for number in range(workers):
        _start(selector, work, number, 0, workers)
    try:
        yield from _gather(selector, work, workers)
    finally:
        for key in list(selector.get_map().values()):
            os.kill(key.data["pid"], signal.SIGKILL)
            os.waitpid(key.data["pid"], 0)
            os.close(key.fd)
        selector.close()


def _gather(selector, work, workers):
    while selector.get_map():
        for key, _ in selector.select():
            seen = key.data
            data = os.read(key.fd, 1 << 16)
            seen["rest"] += data
            *lines, seen["rest"] = seen["rest"].split(b"\n")
            for line in lines:
                seen["done"] += 1
                yield json.loads(line)
            if data:
                continue
            selector.unregister(key.fd)
            os.close(key.fd)
            status = os.waitpid(seen["pid"], 0)[1]
            if os.WIFSIGNALED(status):
                yield {"failed": f"died: {signal.strsignal(os.WTERMSIG(status))}", "trial": seen["done"]}
                _start(selector, work, seen["number"], seen["done"] + 1, workers)
            elif status:
                yield {"failed": f"a worker ended with status {status}", "trial": seen["done"]}


def _start(selector, work, number, done, workers):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        status = 1
        try:
            for value in work(number, done, workers):
                os.write(writing, json.dumps(value).encode() + b"\n")
            status = 0
        except BaseException:  # noqa: BLE001 - the parent hears of it by the status
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    selector.register(
        reading, selectors.EVENT_READ, {"pid": pid, "number": number, "done": done, "rest": b""}
    )


def attempt(trial, *arguments):
    """What a trial returns, or the end of its traceback as a failure."""
    try:
        return trial(*arguments)
    except AssertionError as error:
        return {"failed": f"{error}"[:400]}
    except Exception:  # noqa: BLE001 - anything but the project's own errors is a finding
        return {"failed": traceback.format_exc()[-900:]}
