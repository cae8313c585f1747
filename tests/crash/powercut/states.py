"""Which states a disk may be in after a power cut.

At a cut after or within a call the durable operations are there. Of the pending ones any subset may be, in any
order, but what happened to one name happened in order. A pending write may be there in part: any of its 512 byte
sectors, or as zeros where it made the file longer. A file is there if a name of it and of all folders above it is.
"""

import hashlib
import os
import random
from collections import defaultdict
from pathlib import PurePosixPath

from tests.crash.powercut.model import Promise

SECTOR = 512
TORN = 0.3
SHARES = (0.0, 0.05, 0.3, 0.5, 0.7, 0.95, 1.0)
"""How much of what is pending arrives, on average."""

PASSING = ("tmp/reserve", "artifacts/.lock", "build.lock", "-lock")
"""Files whose content means nothing: states that differ in these alone count as one."""


class Cuts:
    """The states after a cut of one recording, drawn at random; the same seed gives the same states."""

    def __init__(self, recording, *, seed):
        self.recording = recording
        self.seed = seed
        self.by_inode = defaultdict(list)
        for change in recording.changes:
            self.by_inode[change.inode].append(change)

    def promise(self, point):
        """What was acknowledged before the cut."""
        found = self.recording.start
        for at, text in self.recording.promises:
            if at < point:
                for line in text.splitlines():
                    kind, *words = line.split()
                    if kind == "generation":
                        found = Promise(int(words[0]), found.seq, found.chain)
                    else:
                        found = Promise(found.generation, int(words[0]), words[1])
        return found

    def draw(self, point, number):
        """The n-th state after a cut at a point: path to bytes, None for a folder."""
        dice = random.Random(f"{self.seed} {point} {number}")
        share = dice.choice(SHARES)
        names = self._names(point, share, dice)
        files = {}
        contents = {}
        for path, inode in sorted(names.items()):
            if path and str(PurePosixPath(path).parent) not in files and "/" in path:
                continue
            if inode in self.recording._folders:
                files[path] = None
                continue
            if inode not in contents:
                contents[inode] = self._content(inode, point, share, dice)
            files[path] = contents[inode]
        files.pop("", None)
        return files

    def _names(self, point, share, dice):
        names, stopped = dict(self.recording.names), set()
        for naming in self.recording.namings:
            if naming.at > point:
                break
            if naming.durable >= point and (naming.path in stopped or dice.random() >= share):
                stopped.add(naming.path)
                continue
            if naming.inode is None:
                names.pop(naming.path, None)
            else:
                names[naming.path] = naming.inode
        return names

    def _content(self, inode, point, share, dice):
        content = bytearray(self.recording.base.get(inode) or b"")
        for change in self.by_inode[inode]:
            if change.at > point:
                break
            pending = change.durable >= point
            if pending and dice.random() >= share:
                continue
            if change.data is None:
                _resize(content, change.offset)
            elif pending and dice.random() < TORN:
                _tear(content, change, dice)
            else:
                _put(content, change.offset, change.data)
        return bytes(content)


def _resize(content, size):
    del content[size:]
    content.extend(bytes(size - len(content)))


def _put(content, offset, data):
    if len(content) < offset + len(data):
        _resize(content, offset + len(data))
    content[offset : offset + len(data)] = data


def _tear(content, change, dice):
    """Let some sectors of a write reach the disk: a prefix, a suffix, some, or only that the file became longer."""
    first = change.offset // SECTOR
    last = (change.offset + len(change.data) - 1) // SECTOR
    sectors = range(first, last + 1)
    cut = dice.randrange(first, last + 2)
    match dice.randrange(4):
        case 0:
            kept = range(first, cut)
        case 1:
            kept = range(cut, last + 1)
        case 2:
            kept = [sector for sector in sectors if dice.random() < 0.5]
        case _:
            kept = []
            _resize(content, max(len(content), change.offset + len(change.data)))
    for sector in kept:
        begin = max(sector * SECTOR, change.offset)
        end = min((sector + 1) * SECTOR, change.offset + len(change.data))
        _put(content, begin, change.data[begin - change.offset : end - change.offset])


def fingerprint(files, promise):
    """Equal for states that differ in nothing that matters."""
    state = hashlib.sha256(repr(promise).encode())
    for path, content in sorted(files.items()):
        if not path.endswith(PASSING):
            state.update(repr((path, None if content is None else hashlib.sha256(content).digest())).encode())
    return state.digest()


def materialise(files, target):
    """Make a folder hold exactly a state; what it held before is taken away, folders that stay are kept."""
    target.mkdir(exist_ok=True)
    folders = {os.path.join(target, path) for path, content in files.items() if content is None}
    _empty(str(target), folders)
    for path, content in files.items():
        at = os.path.join(target, path)
        if content is None:
            if at in folders:
                os.mkdir(at)
        else:
            with open(at, "wb") as file:
                file.write(content)


def _empty(folder, wanted):
    """Remove everything but the wanted folders, which are struck off the list."""
    for entry in list(os.scandir(folder)):
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry)
        else:
            _empty(entry.path, wanted)
            if entry.path in wanted:
                wanted.discard(entry.path)
            else:
                os.rmdir(entry)
