"""What a recorded run did to a disk, and since when each part of it is durable, by what POSIX promises and no more.

Every recorded call becomes operations on inodes and names. An operation is durable when a later call has promised so:

- bytes and size of a file, when `fsync` or `fdatasync` of it returned, or at once through `O_DSYNC`;
- a name (of a new file, a folder or a link; or its removal), when `fsync` of the folder it is in returned. Nothing
  else makes names durable: not `fsync` of the file, not that of another folder.
"""

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

NEVER = 1 << 60

_WRITES = {"write", "pwrite64", "writev", "pwritev", "pwritev2"}
_SYNCS = {"fsync", "fdatasync"}
_UNMODELLED = {
    *("msync", "sendfile", "copy_file_range", "splice", "truncate", "sync_file_range", "syncfs", "sync"),
    *("symlink", "symlinkat", "rename", "renameat", "renameat2", "creat"),
}


class UnmodelledError(RuntimeError):
    """The writer did something to the cache that the model does not know."""


@dataclass(slots=True)
class Change:
    """Bytes of a file (`data` at `offset`) or its size (`data` is None, `offset` the size)."""

    at: int
    inode: int
    offset: int
    data: bytes | None
    durable: int = NEVER


@dataclass(slots=True)
class Naming:
    """A name that was given to an inode, or taken away (`inode` is None). `folder` is an inode."""

    at: int
    folder: int
    path: str
    inode: int | None
    durable: int = NEVER


@dataclass(slots=True)
class _Open:
    inode: int | None
    sync: bool = False
    append: bool = False
    position: int = 0


@dataclass(frozen=True, slots=True)
class Promise:
    """What the writer had acknowledged: newest generation, seq and chain."""

    generation: int = 0
    seq: int = 0
    chain: str = ""


@dataclass(slots=True)
class Recording:
    """All operations of a run on what lies below `top`, and what the writer promised meanwhile.

    Attributes:
        points: Number of calls that matter; a cut may be at each of them, and after the last.
        promises: (call, text) of every acknowledgement.
        base: Inode to bytes, for files that were there before; None for folders.
        names: Path to inode of what was there before; paths are relative to `top`.
        start: What had been promised before.
    """

    top: str
    promises_path: str
    points: int = 0
    promises: list[tuple[int, str]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    namings: list[Naming] = field(default_factory=list)
    base: dict[int, bytes | None] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    start: Promise = field(default_factory=Promise)
    _live: dict[str, int] = field(default_factory=dict)
    _sizes: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    _folders: set[int] = field(default_factory=set)
    _open: dict[int, _Open] = field(default_factory=dict)
    _inodes: int = 0

    def begin(self):
        """Take what is there now as durable."""
        self._name("", None, folder=True)
        for folder, below, files in os.walk(self.top):
            for name in (*below, *files):
                path = Path(folder, name)
                content = None if path.is_dir() else path.read_bytes()
                self._name(str(path.relative_to(self.top)), content, folder=content is None)

    def _name(self, path, content, *, folder):
        inode = self._inode(folder=folder)
        self.base[inode] = content
        self.names[path] = self._live[path] = inode
        self._sizes[inode] = len(content or b"")

    def _inode(self, *, folder=False):
        self._inodes += 1
        if folder:
            self._folders.add(self._inodes)
        return self._inodes

    def follow(self, calls):
        for call in calls:
            if call.name == "execve":
                if self.points:
                    raise UnmodelledError("the writer started another program after it began to write")
            elif self._one(call):
                self.points += 1

    def _one(self, call):
        """Follow one call; returns whether it matters."""
        match call.name:
            case "open" | "openat":
                return self._opens(call)
            case "dup" | "dup2" | "dup3":
                self._open[call.result] = self._open.get(call.number(0), _Open(None))
            case "fcntl" if "F_DUPFD" in call.arguments[1]:
                self._open[call.result] = self._open.get(call.number(0), _Open(None))
            case "close":
                self._open.pop(call.number(0), None)
            case "lseek":
                self._open.setdefault(call.number(0), _Open(None)).position = call.result
            case "mmap":
                self._maps(call)
            case "ftruncate" | "fallocate":
                return self._resizes(call)
            case "mkdir" | "mkdirat":
                path = self._path(call, 1 if call.name == "mkdirat" else 0)
                return self._gives(path, self._inode(folder=True))
            case "unlink" | "unlinkat" | "rmdir":
                return self._takes(self._path(call, 1 if call.name == "unlinkat" else 0))
            case "link" | "linkat":
                return self._links(call)
            case name if name in _WRITES:
                return self._writes(call)
            case name if name in _SYNCS:
                return self._syncs(call)
            case name if name in _UNMODELLED:
                if any(self._inside(text) is not None for text in call.strings) or self._known(call):
                    raise UnmodelledError(f"{call.name} of a file of the cache")
        return False

    def _known(self, call):
        first = call.arguments[0]
        return first.isdigit() and self._open.get(int(first), _Open(None)).inode is not None

    def _inside(self, text):
        """The path relative to `top`, or nothing if it is elsewhere."""
        path = os.path.normpath(os.fsdecode(text))
        if path == self.top:
            return ""
        return path[len(self.top) + 1 :] if path.startswith(self.top + "/") else None

    def _path(self, call, argument):
        """The path that an argument names, relative to `top`; a folder descriptor before it is honoured."""
        text = call.text(argument)
        before = call.arguments[argument - 1] if argument else ""
        if before.isdigit() and not text.startswith(b"/"):
            inode = self._open.get(int(before), _Open(None)).inode
            where = next((path for path, known in self._live.items() if known == inode), None)
            return None if where is None else os.path.normpath(f"{where}/{os.fsdecode(text)}".lstrip("/"))
        return self._inside(text)

    def _descriptor(self, text):
        """The inode behind /proc/self/fd/N, or nothing."""
        if text.startswith(b"/proc/self/fd/"):
            return self._open.get(int(text.rpartition(b"/")[2]), _Open(None)).inode
        return None

    def _opens(self, call):
        at = 1 if call.name == "openat" else 0
        flags = call.arguments[at + 1]
        text = call.text(at)
        inode, matters = self._descriptor(text), False
        if inode is None:
            path = self._path(call, at)
            if path is None and os.fsdecode(text) == self.promises_path:
                self._open[call.result] = _Open(-1)
                return False
            if path is None:
                self._open[call.result] = _Open(None)
                return False
            inode = self._live.get(path)
            if "O_TMPFILE" in flags:
                inode = self._inode()
            elif inode is None:
                if "O_CREAT" not in flags:
                    raise UnmodelledError(f"{path} was opened and nobody made it")
                inode = self._inode()
                matters = self._gives(path, inode)
        if "O_TRUNC" in flags and self._sizes[inode]:
            self._resize(inode, 0)
            matters = True
        self._open[call.result] = _Open(
            inode, sync="O_DSYNC" in flags or "O_SYNC" in flags, append="O_APPEND" in flags
        )
        return matters

    def _maps(self, call):
        if "MAP_SHARED" not in call.arguments[3] or "PROT_WRITE" not in call.arguments[2]:
            return
        inode = self._open.get(call.number(4), _Open(None)).inode if call.arguments[4].isdigit() else None
        if inode is not None and not any(
            path.endswith("-lock") for path, known in self._live.items() if known == inode
        ):
            raise UnmodelledError("a file of the cache was mapped for writing")

    def _writes(self, call):
        opened = self._open.get(call.number(0), _Open(None))
        if opened.inode is None:
            return False
        data = b"".join(call.strings)[: call.result]
        if opened.inode == -1:
            self.promises.append((self.points, data.decode()))
            return True
        if call.name in {"pwrite64", "pwritev", "pwritev2"}:
            offset = call.number(-2 if call.name == "pwritev2" else -1)
        else:
            offset = self._sizes[opened.inode] if opened.append else opened.position
            opened.position = offset + len(data)
        self._sizes[opened.inode] = max(self._sizes[opened.inode], offset + len(data))
        durable = self.points if opened.sync else NEVER
        self.changes.append(Change(self.points, opened.inode, offset, data, durable))
        return True

    def _resizes(self, call):
        inode = self._open.get(call.number(0), _Open(None)).inode
        if inode is None:
            return False
        if call.name == "ftruncate":
            self._resize(inode, call.number(1))
        else:
            if call.arguments[1] != "0":
                raise UnmodelledError(f"fallocate with mode {call.arguments[1]}")
            self._resize(inode, max(self._sizes[inode], call.number(2) + call.number(3)))
        return True

    def _resize(self, inode, size):
        self._sizes[inode] = size
        self.changes.append(Change(self.points, inode, size, None))

    def _syncs(self, call):
        inode = self._open.get(call.number(0), _Open(None)).inode
        if inode is None:
            return False
        for change in self.changes:
            if change.inode == inode and change.durable == NEVER:
                change.durable = self.points
        for naming in self.namings if call.name == "fsync" else ():
            if naming.folder == inode and naming.durable == NEVER:
                naming.durable = self.points
        return True

    def _gives(self, path, inode):
        if path is None:
            return False
        folder = self._live[str(PurePosixPath(path).parent) if "/" in path else ""]
        self._live[path] = inode
        self.namings.append(Naming(self.points, folder, path, inode))
        return True

    def _takes(self, path):
        if path is None:
            return False
        folder = self._live[str(PurePosixPath(path).parent) if "/" in path else ""]
        del self._live[path]
        self.namings.append(Naming(self.points, folder, path, None))
        return True

    def _links(self, call):
        old, new = (1, 3) if call.name == "linkat" else (0, 1)
        inode = self._descriptor(call.text(old))
        if inode is None:
            inode = self._live.get(self._path(call, old) or "")
        path = self._path(call, new)
        if path is not None and inode is None:
            raise UnmodelledError(f"{path} was linked from elsewhere")
        return self._gives(path, inode)
