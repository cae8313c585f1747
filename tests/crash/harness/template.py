"""A small cache, remembered in memory, and put back as it was within two milliseconds.

A cache has 257 folders, most of them empty, and a trial changes few of them. So each file and folder bears a mark in
its time of modification: whatever still has it was not touched, and is left alone.
"""

import itertools
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_MARKS = itertools.count(1_000_000_000)
"""A time of modification for each template, in nanoseconds; no two have the same, and none is of this century."""

MAPPED = "-lock"
"""Files whose names end so are written through maps, which not every file system shows in the times."""


class _Kept(NamedTuple):
    mode: int
    data: bytes | None
    inode: int


@dataclass(slots=True)
class Template:
    """What a folder held when the template was taken: path to mode, content and inode; folders have no content.

    Attributes:
        root: The folder; it need not exist.
    """

    root: Path
    _mark: int = field(default_factory=lambda: next(_MARKS))
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _names: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.root.exists():
            self._take(str(self.root))

    def _take(self, folder: str) -> None:
        about = os.lstat(folder)
        names = os.listdir(folder)
        self._kept[folder] = _Kept(stat.S_IMODE(about.st_mode), None, about.st_ino)
        self._names[folder] = set(names)
        for name in names:
            path = f"{folder}/{name}"
            about = os.lstat(path)
            if stat.S_ISDIR(about.st_mode):
                self._take(path)
            elif stat.S_ISREG(about.st_mode):
                with open(path, "rb") as file:
                    data = file.read()
                self._kept[path] = _Kept(stat.S_IMODE(about.st_mode), data, about.st_ino)
                self._stamp(path)
            else:
                raise AssertionError(f"{path} is no file and no folder")
        self._stamp(folder)

    def _stamp(self, path: str) -> None:
        os.utime(path, ns=(self._mark, self._mark))

    def restore(self) -> None:
        """Make the folder what it was."""
        root = str(self.root)
        if root not in self._kept:
            if self.root.exists():
                remove_tree(root)
            return
        touched = list[str]()
        for path, kept in self._kept.items():
            if kept.data is None:
                self._restore_folder(path, kept, touched)
            else:
                self._restore_file(path, kept, kept.data)
        for path in touched:
            self._stamp(path)

    def _restore_folder(self, path: str, kept: _Kept, touched: list[str]) -> None:
        try:
            about = os.lstat(path)
        except FileNotFoundError:
            about = None
        if about is None or not stat.S_ISDIR(about.st_mode):
            if about is not None:
                os.unlink(path)
            os.mkdir(path)
            os.chmod(path, kept.mode)
            touched.append(path)
            return
        if stat.S_IMODE(about.st_mode) != kept.mode:
            os.chmod(path, kept.mode)
        if about.st_mtime_ns == self._mark and not any(name.endswith(MAPPED) for name in self._names[path]):
            return
        for name in os.listdir(path):
            inner = f"{path}/{name}"
            if name not in self._names[path]:
                if os.path.isdir(inner) and not os.path.islink(inner):
                    remove_tree(inner)
                else:
                    os.unlink(inner)
        touched.append(path)

    def _restore_file(self, path: str, kept: _Kept, data: bytes) -> None:
        try:
            about = os.lstat(path)
        except FileNotFoundError:
            pass
        else:
            if (
                (about.st_ino, about.st_size, about.st_mtime_ns) == (kept.inode, len(data), self._mark)
                and about.st_nlink == 1
                and stat.S_ISREG(about.st_mode)
                and not path.endswith(MAPPED)
            ):
                if stat.S_IMODE(about.st_mode) != kept.mode:
                    os.chmod(path, kept.mode)
                return
            if stat.S_ISDIR(about.st_mode):
                remove_tree(path)
            else:
                os.unlink(path)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, kept.mode)
        try:
            os.write(fd, data)
            os.fchmod(fd, kept.mode)
            self._kept[path] = kept._replace(inode=os.fstat(fd).st_ino)
        finally:
            os.close(fd)
        self._stamp(path)


def remove_tree(folder: Path | str) -> None:
    """Remove a small folder and everything in it; without effect if there is none."""
    for at, names, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(f"{at}/{name}")
        for name in names:
            if os.path.islink(f"{at}/{name}"):
                os.unlink(f"{at}/{name}")
            else:
                os.rmdir(f"{at}/{name}")
    if os.path.lexists(folder):
        os.rmdir(folder)
