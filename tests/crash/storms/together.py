"""Several actors on one cache at the same time, each in a process of its own."""

import collections
import json
import os
import signal
import traceback


def run_together(actors):
    """Fork a process for each actor and wait for all.

    Args:
        actors: (name, function); a function is given `tell`, which takes a dict for the parent, and ends by itself.

    Returns:
        What was told, counted by name and key where it is a number; alarms; and processes that ended badly.
    """
    reading, writing = os.pipe()
    pids = []
    for name, act in actors:
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _act(name, act, writing)
        pids.append((name, pid))
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as file:
            told = [json.loads(line) for line in file]
    except KeyboardInterrupt:
        for _, pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise
    ended = []
    for name, pid in pids:
        status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status):
            ended.append(f"{name} died: {signal.strsignal(os.WTERMSIG(status))}")
        elif status:
            ended.append(f"{name} ended with status {os.waitstatus_to_exitcode(status)}")
    counted = collections.defaultdict(collections.Counter)
    for line in told:
        counted[line["name"]].update({key: value for key, value in line.items() if isinstance(value, int)})
    alarms = [line for line in told if "alarm" in line]
    return {"counted": counted, "alarms": len(alarms), "examples": alarms[:6], "ended_badly": ended}


def _act(name, act, writing):
    status = 1
    try:
        act(lambda **told: os.write(writing, json.dumps({"name": name, **told}).encode() + b"\n"))
        status = 0
    except BaseException:  # noqa: BLE001 - the parent hears of it by the status
        traceback.print_exc()
    finally:
        os._exit(status)
