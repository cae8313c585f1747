"""Salvage a damaged journal in a fork instead of a fresh interpreter, whose start would take most of a point."""

import faulthandler
import os
import subprocess
import sys
from pathlib import Path

from journal import safe_reader, safe_reader_child
from journal.record import Head

_spawned = safe_reader._run_child


def salvage_in_forks() -> None:
    """From now on, for this process and its children."""
    safe_reader._run_child = _child_process


def _child_process(
    path: Path, verified: Head, mode: str, timeout_s: float
) -> subprocess.CompletedProcess[bytes]:
    # Only where the child maps no more than the file: its limit of memory counts what it inherits, too.
    if mode != "salvage":
        return _spawned(path, verified, mode, timeout_s)
    told, complaint = os.memfd_create("told"), os.memfd_create("complaint")
    try:
        parent, pid = os.getpid(), os.fork()
        if not pid:
            status = 1
            try:
                faulthandler.disable()
                sys.stdout, sys.stderr = os.fdopen(os.dup(told), "w"), os.fdopen(os.dup(complaint), "w")
                status = safe_reader_child.main(
                    [
                        str(path),
                        mode,
                        str(verified.seq),
                        verified.chain.hex(),
                        f"{timeout_s:.0f}",
                        str(parent),
                    ]
                )
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return subprocess.CompletedProcess([], status, _content(told), _content(complaint))
    finally:
        os.close(told)
        os.close(complaint)


def _content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)
