"""The library of `shim.c` from Python: built once, loaded into sweeps, armed in their children."""

import ctypes
import errno
import hashlib
import mmap
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("shim.c")
CHANGES, OPENS = 1, 2
_BEFORE, _TORN, _AFTER, _ONCE, _FOR_GOOD, _SHORT = range(1, 7)


class Call(ctypes.Structure):
    """A call as the library notes it."""

    _fields_ = (
        ("name", ctypes.c_char * 12),
        ("writes", ctypes.c_int32),
        ("size", ctypes.c_int64),
        ("path", ctypes.c_char * 104),
    )


class Told(ctypes.Structure):
    """What the library tells whoever shares the memory."""

    _fields_ = (
        ("count", ctypes.c_int64),
        ("happened", ctypes.c_int64),
        ("allocations", ctypes.c_int64),
        ("calls", Call * 8192),
    )


class Seen(NamedTuple):
    """A call: its name, the path below the cache, and the bytes it was to write, 0 where it writes none."""

    name: str
    path: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What is to happen at a call.

    Attributes:
        name: What it is called in plans and reports.
        code: What it is called in the library.
        number: The error number, if it is an error.
        kinds: Which calls count: those that change something, and perhaps all that open something.
    """

    name: str
    code: int
    number: int = 0
    kinds: int = CHANGES

    @property
    def kills(self) -> bool:
        """Whether the process dies of it."""
        return self.code in {_BEFORE, _TORN, _AFTER}

    @property
    def lasting(self) -> bool:
        """Whether it goes on from there."""
        return self.code == _FOR_GOOD

    def fits(self, seen: Seen) -> bool:
        """Whether it makes sense at this call."""
        if self.code in {_TORN, _SHORT}:
            return seen.size > 1
        return self.number != errno.EMFILE or seen.name == "open"


ACTIONS = {
    action.name: action
    for action in (
        Action(name="kill", code=_BEFORE),
        Action(name="torn", code=_TORN),
        Action(name="after", code=_AFTER),
        Action(name="short", code=_SHORT),
        *(
            Action(name=name + more, code=code, number=getattr(errno, name), kinds=kinds)
            for name, kinds in (
                ("ENOSPC", CHANGES),
                ("EIO", CHANGES),
                ("EDQUOT", CHANGES),
                ("EROFS", CHANGES),
                ("EMFILE", CHANGES | OPENS),
            )
            for more, code in (("", _ONCE), ("+", _FOR_GOOD))
        ),
    )
}
"""Every action by its name; a plus stands for an error that stays."""

KILLS = ("kill", "torn", "after")
ERRORS = tuple(name for name in ACTIONS if name not in KILLS)


def compiler() -> str | None:
    """Where gcc is, if anywhere."""
    return shutil.which("gcc")


def build(folder: Path) -> Path:
    """Compile the library into a folder, unless it is there; returns its path."""
    text = SOURCE.read_bytes()
    path = folder / f"c10-crash-shim-{hashlib.sha256(text).hexdigest()[:16]}.so"
    if not path.exists():
        fresh = path.with_suffix(f".{os.getpid()}")
        command = [
            "gcc",
            "-O1",
            "-Wall",
            "-Wextra",
            "-shared",
            "-fPIC",
            str(SOURCE),
            "-o",
            str(fresh),
            "-ldl",
        ]
        subprocess.run(command, check=True, capture_output=True)
        fresh.rename(path)
    return path


class Shim:
    """The library in this process, which was started with it preloaded, and the memory it tells through."""

    def __init__(self, library: str, root: Path):
        self._library = ctypes.CDLL(library)
        self._library.shim_arm.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int]
        self._library.shim_arm_allocations.argtypes = [ctypes.c_long, ctypes.c_int]
        self._library.shim_tell.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._library.shim_trace_deaths.argtypes = [ctypes.c_int]
        self._memory = mmap.mmap(-1, ctypes.sizeof(Told))
        self.told = Told.from_buffer(self._memory)
        self._library.shim_tell(ctypes.addressof(self.told), os.fsencode(root))

    def reset(self) -> None:
        """Forget what was told."""
        self.told.count = self.told.happened = self.told.allocations = 0

    def arm(self, action: Action | None, call: int, *, kinds: int = CHANGES) -> None:
        """Let something happen at a call of this process, counted from 1; without an action only count."""
        if action is None:
            self._library.shim_arm(0, 0, 0, kinds)
        else:
            self._library.shim_arm(call, action.code, action.number, action.kinds)

    def arm_allocations(self, number: int, *, for_good: bool) -> None:
        """Let an allocation of this process fail, counted from 1; with 0 only count."""
        self._library.shim_arm_allocations(number, int(for_good))

    def trace_deaths(self, fd: int) -> None:
        """Let this process tell, when a signal ends it, in which native functions it was."""
        self._library.shim_trace_deaths(fd)

    def disarm(self) -> None:
        """Let everything pass."""
        self._library.shim_disarm()

    def calls(self) -> list[Seen]:
        """The calls of the last run, in order."""
        count = self.told.count
        if count > len(self.told.calls):
            raise AssertionError(f"expected at most {len(self.told.calls)} calls, found {count}")
        return [
            Seen(call.name.decode(), call.path.decode(errors="replace"), call.size if call.writes else 0)
            for call in self.told.calls[:count]
        ]
