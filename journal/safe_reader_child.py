"""The child process of `journal.safe_reader`: read a journal and write it to a pipe.

Frames on standard output, integers big-endian: `R` seq (8) length (4) stored value; `P` length of name (2)
length of value (4) name, stored value; `H` seq (8) chain (32), the last frame. An error is one JSON object on
standard error and exit status 3. One transaction reads everything, so the state is consistent.
"""

import os
import signal
import struct
import sys
from pathlib import Path
from typing import Final

from journal.errors import JournalDamagedError, JournalError, io_error
from journal.record import EMPTY, Chain, Head, stored_bytes, verify_chain
from journal.storage.environment import open_environment
from journal.storage.open_environment import MAP_BYTES

RECORD: Final = struct.Struct(">cQI")
PROJECTION: Final = struct.Struct(">cHI")
HEAD: Final = struct.Struct(">cQ32s")
STATUS_ERROR: Final = 3

_PR_SET_PDEATHSIG: Final = 1
_HEAP_BYTES: Final = 2 << 30
_WRITE_BYTES: Final = 1 << 20


def main(arguments: list[str]) -> int:
    """Read a journal.

    Args:
        arguments: Path; `live`, `foreign` or `salvage`; seq and hexadecimal chain of the head after which to
            salvage; limit of processor time in seconds; pid of the parent.

    Returns:
        Exit status.
    """
    path, mode, seq, chain, seconds, parent = arguments
    _limit_resources(int(seconds), int(parent))
    try:
        if mode == "salvage":
            _salvage(Path(path), Head(int(seq), Chain(bytes.fromhex(chain))))
        else:
            _read(Path(path), foreign=mode == "foreign")
        sys.stdout.buffer.flush()
    except JournalError as error:
        return _report(error)
    except (MemoryError, OSError) as error:
        return _report(io_error(f"{path}: reading it failed: {type(error).__name__}: {error}", error))
    except Exception as error:  # noqa: BLE001  (damaged bytes may raise anything)
        return _report(JournalDamagedError(f"reading it failed: {type(error).__name__}: {error}"))
    return 0


def _report(error: JournalError) -> int:
    import json  # noqa: PLC0415 - as in `_limit_resources`

    place = error.seq if isinstance(error, JournalDamagedError) else None
    sys.stderr.write(
        json.dumps({"kind": error.kind, "message": error.message, "hint": error.hint, "seq": place})
    )
    return STATUS_ERROR


def _limit_resources(seconds: int, parent: int) -> None:
    """End this process with its parent, write no core file, and limit processor time and memory.

    At the limit of processor time SIGXCPU ends this process. So SIGKILL always came from outside.
    """
    import ctypes  # noqa: PLC0415 - the parent imports this module too, and does not need it
    import resource  # noqa: PLC0415 - as above

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(STATUS_ERROR)  # the parent died before the line above
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(
        resource.RLIMIT_CPU, (seconds if hard == resource.RLIM_INFINITY else min(seconds, hard), hard)
    )
    for which, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, MAP_BYTES + _HEAP_BYTES),
        (resource.RLIMIT_FSIZE, _WRITE_BYTES),
    ):
        hard = resource.getrlimit(which)[1]
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(which, (allowed, allowed))


def _read(path: Path, *, foreign: bool) -> None:
    out = sys.stdout.buffer
    # Nobody writes a foreign file, so no lock is needed; its lock file is not trusted.
    map_bytes = max(path.stat().st_size, 1 << 20) if foreign else MAP_BYTES
    environment = open_environment(path, readonly=True, lock=not foreign, map_bytes=map_bytes)
    with environment.read() as reader:
        head = EMPTY
        for entry in verify_chain(EMPTY, reader.records(1)):
            head = entry.head
            value = stored_bytes(entry)
            out.write(RECORD.pack(b"R", entry.seq, len(value)) + value)
        projections = 0
        for name, packed in reader.projections():
            projections += 1
            out.write(PROJECTION.pack(b"P", len(name), len(packed)) + name + packed)
        _require_count(head.seq, reader.count(), "records")
        _require_count(projections, reader.projection_count(), "projections")
    out.write(HEAD.pack(b"H", head.seq, head.chain))
    environment.close()


def _salvage(path: Path, after: Head) -> None:
    """Write the records after a head and flush each one, so that none is lost if this process dies."""
    environment = open_environment(
        path, readonly=True, lock=False, map_bytes=max(path.stat().st_size, 1 << 20)
    )
    with environment.read() as reader:
        # Check the chain here too: a damaged tree can have a cycle, a chain cannot.
        for entry in verify_chain(after, reader.records(after.seq + 1)):
            value = stored_bytes(entry)
            sys.stdout.buffer.write(RECORD.pack(b"R", entry.seq, len(value)) + value)
            sys.stdout.buffer.flush()


def _require_count(found: int, counted: int, what: str) -> None:
    # A damaged page can hide entries. The chain reveals missing records, except the newest, but no
    # projections.
    if found != counted:
        raise JournalDamagedError(f"{counted} {what} expected by the count that LMDB keeps, {found} found")
