"""What can happen to the files of a cache that nobody writes. Each damage says which files it touched."""

import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

PAGE, SECTOR = 4096, 512
META_BYTES, HEADER_BYTES = 160, 80


def flip_bit(data, dice):
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def change_byte(data, dice):
    data[dice.randrange(len(data))] ^= dice.randrange(1, 256)


def zero_sector(data, dice):
    at = dice.randrange(len(data)) // SECTOR * SECTOR
    size = min(SECTOR, len(data) - at)
    data[at : at + size] = bytes(size)


def zero_page(data, dice):
    at = dice.randrange(len(data)) // PAGE * PAGE
    size = min(PAGE, len(data) - at)
    data[at : at + size] = bytes(size)


def junk_page(data, dice):
    at = dice.randrange(len(data)) // PAGE * PAGE
    size = min(PAGE, len(data) - at)
    data[at : at + size] = dice.randbytes(size)


def swap_pages(data, dice):
    unit = PAGE if len(data) >= 2 * PAGE else max(1, len(data) // 3)
    one, two = (dice.randrange(len(data) // unit) * unit for _ in range(2))
    first, second = bytes(data[one : one + unit]), bytes(data[two : two + unit])
    data[one : one + unit], data[two : two + unit] = second, first


def cut_short(data, dice):
    del data[dice.randrange(len(data)) :]


def grow(data, dice):
    data += dice.randbytes(dice.choice((1, SECTOR, PAGE)))


def flip_meta_bit(data, dice):
    data[min(dice.randrange(2) * PAGE + dice.randrange(META_BYTES), len(data) - 1)] ^= 1 << dice.randrange(8)


def flip_header_bit(data, dice):
    at = dice.randrange(len(data)) // PAGE * PAGE + dice.randrange(HEADER_BYTES)
    data[min(at, len(data) - 1)] ^= 1 << dice.randrange(8)


CONTENT = (flip_bit, change_byte, zero_sector, zero_page, junk_page, swap_pages, cut_short, grow)
STRUCTURE = (flip_meta_bit, flip_header_bit)


@dataclass(frozen=True, slots=True)
class Damaged:
    """What was done: a name for the kind, and the touched paths relative to the cache."""

    kind: str
    touched: tuple[str, ...]


@dataclass(slots=True)
class Cache:
    """A cache whose sound content is known, so that it can be damaged and mended again and again.

    Attributes:
        root: Where it is.
        sound: Path to bytes of every file that means something.
        strata: Name of a stratum to the paths in it.
    """

    root: Path
    sound: dict[str, bytes] = field(default_factory=dict)
    strata: dict[str, list[str]] = field(default_factory=dict)

    def learn(self, role_of):
        """Take what is there as sound; `role_of` tells the stratum of a path, or nothing if it means nothing."""
        for folder, _, files in sorted(os.walk(self.root)):
            for name in sorted(files):
                path = str(Path(folder, name).relative_to(self.root))
                if (stratum := role_of(path)) is not None:
                    self.sound[path] = (self.root / path).read_bytes()
                    self.strata.setdefault(stratum, []).append(path)

    def fix(self, damaged):
        for path in damaged.touched:
            at = self.root / path
            if at.is_dir() and not at.is_symlink():
                shutil.rmtree(at)
            else:
                at.unlink(missing_ok=True)
            if path in self.sound:
                at.write_bytes(self.sound[path])
                at.chmod(0o644 if path == "journal.mdb" else 0o444)

    def damage(self, stratum, dice):
        """Damage a file of a stratum in a way that suits it."""
        path = dice.choice(self.strata[stratum])
        kinds = [*CONTENT, *CONTENT, self._delete, self._exchange, self._add, self._replace]
        if stratum == "journal":
            kinds += [*STRUCTURE, *STRUCTURE, *STRUCTURE]
        kind = dice.choice(kinds)
        if kind in {*CONTENT, *STRUCTURE}:
            data = bytearray(self.sound[path])
            kind(data, dice)
            self._put(path, bytes(data))
            return Damaged(kind.__name__, (path,))
        return kind(path, dice)

    def changed(self, damaged):
        """The touched paths that are not as they were."""
        return tuple(path for path in damaged.touched if not self._same(path))

    def _same(self, path):
        at = self.root / path
        if at.is_symlink() or not at.is_file():
            return False
        return path in self.sound and at.read_bytes() == self.sound[path]

    def _put(self, path, data):
        at = self.root / path
        at.unlink(missing_ok=True)
        at.write_bytes(data)

    def _delete(self, path, dice):
        (self.root / path).unlink()
        return Damaged("delete", (path,))

    def _exchange(self, path, dice):
        """Two files of the cache change places."""
        other = dice.choice([other for other in self.sound if other not in {path, "journal.mdb"}])
        if path == "journal.mdb":
            self._put(path, self.sound[other])
            return Damaged("exchange", (path,))
        self._put(path, self.sound[other])
        self._put(other, self.sound[path])
        return Damaged("exchange", (path, other))

    def _add(self, path, dice):
        """A file that nobody of ours could have put there."""
        folder = str(Path(path).parent)
        name = dice.choice(("notes.txt", "00000099.tmp", ".hidden", dice.randbytes(32).hex()[:63]))
        added = name if folder == "." else f"{folder}/{name}"
        self._put(added, dice.randbytes(20))
        return Damaged("add", (added,))

    def _replace(self, path, dice):
        """The name stands for something that is no regular file."""
        at = self.root / path
        at.unlink()
        match dice.randrange(4):
            case 0:
                at.mkdir()
                return Damaged("folder", (path,))
            case 1:
                os.mkfifo(at)
                return Damaged("pipe", (path,))
            case 2:
                at.symlink_to("/dev/zero")
                return Damaged("device", (path,))
            case _:
                copy = at.with_name(at.name + ".copy")
                copy.write_bytes(self.sound[path])
                at.symlink_to(copy.name)
                return Damaged("link", (path, str(copy.relative_to(self.root))))


def dice_for(seed, trial):
    return random.Random(f"{seed} {trial}")
