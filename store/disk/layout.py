"""Where things lie in a cache, and how its folders come to be.

Every path of the cache is made here. Folders are made once, at birth, and made durable; what lies in them is
write-once. Of the names, only digests and generation numbers vary, so that no text from a request or manifest
ever becomes a path.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from journal.fsync import fsync_dir
from journal.storage.filesystem import (
    filesystem_type,
    is_untested_filesystem,
    require_supported_filesystem,
)
from store.base.valueclass import valueclass
from store.disk.hard_links import require_hard_links
from store.errors import CacheUnusableError, ErrorKind, RequestRefusedError, TranslateOSErrors, from_os_error
from store.manifest.file_names import MANIFEST_NAME

_SEGMENT_NAME = re.compile(r"([0-9]{8,18})\.events")
_JOURNAL_ASIDE = r"journal\.mdb\.([0-9]{1,18})"
_KERNELS_OWN = {
    0x9FA0: "procfs",
    0x62656572: "sysfs",
    0x64626720: "debugfs",
    0x27E0EB: "cgroup",
    0x63677270: "cgroup2",
    0x1CD1: "devpts",
}
"""Type numbers of file systems (linux/magic.h) in which the kernel shows itself."""

FOLDERS = ("artifacts", "manifests", "segments", "quarantine", "tmp")
LOCKS = ("journal.mdb-lock", "build.lock")
KNOWN_ENTRIES = frozenset({*FOLDERS, *LOCKS, "journal.mdb", "lost+found"})
"""What may lie in the root; a cache may be the root of its own file system."""

MIRROR_MARK = "mirror.txt"
"""The file by which a mirror is known. `c10 mirror` writes it, and whatever gives the folder a journal removes it."""


@valueclass(frozen=True, slots=True)
class Layout:
    """The paths of one cache.

    Attributes:
        root: Its folder.
        manifest_filename: A format string on `generation`.
        allow_unknown_filesystem: Whether a local file system that nobody tried may hold the cache.
    """

    root: Path
    manifest_filename: str = "{generation:08d}.json"
    allow_unknown_filesystem: bool = False

    def __post_init__(self) -> None:
        """Hold the template to names that the reader finds.

        Raises:
            RequestRefusedError: It is no such template.
        """
        if not all(self._finds(generation) for generation in (7, 12_345_678_901)):
            made = self._filled(7)
            raise RequestRefusedError(
                "expected a manifest_filename such as '{generation:08d}.json' or 'flight-{generation:08d}.json', since"
                " readers know a manifest by its name: at most a label of 1 to 32 letters, digits, _ and -, the first a"
                " letter, and a hyphen; then the generation in 8 to 18 digits; then .json; found"
                f" {self.manifest_filename!r}" + ("" if made is None else f", which makes {made!r}"),
                kind=ErrorKind.ARGUMENT,
                hint="leave manifest_filename out",
            )

    def _finds(self, generation: int) -> bool:
        found = MANIFEST_NAME.fullmatch(self._filled(generation) or "")
        return found is not None and int(found[1]) == generation

    def _filled(self, generation: int) -> str | None:
        """The template with a generation in it; nothing if it cannot be filled."""
        try:
            return self.manifest_filename.format(generation=generation)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError):
            return None

    @property
    def journal(self) -> Path:
        """The LMDB file."""
        return self.root / "journal.mdb"

    @property
    def build_lock(self) -> Path:
        """The lock file of everything that commits."""
        return self.root / "build.lock"

    @property
    def artifacts(self) -> Path:
        """The folder of the content-addressed files."""
        return self.root / "artifacts"

    @property
    def artifacts_lock(self) -> Path:
        """Held shared by writers of artifacts, exclusively by collection."""
        return self.root / "artifacts" / ".lock"

    @property
    def manifests(self) -> Path:
        """The folder of the projected manifests and signatures."""
        return self.root / "manifests"

    @property
    def segments(self) -> Path:
        """The folder of the journal's segments."""
        return self.root / "segments"

    @property
    def quarantine(self) -> Path:
        """The folder of damaged objects kept as evidence."""
        return self.root / "quarantine"

    @property
    def scratch(self) -> Path:
        """The folder of files without a future; garbage after a crash."""
        return self.root / "tmp"

    def artifact_folder(self, digest: str) -> Path:
        """The folder of one artifact."""
        return self.artifacts / digest[:2]

    def artifact(self, digest: str) -> Path:
        """The path of one artifact."""
        return self.artifact_folder(digest) / digest

    def artifact_file(self, digest: str) -> str:
        """The path of one artifact as text: of thousands that are looked at, a path object each takes the longest."""
        return f"{self.root}/artifacts/{digest[:2]}/{digest}"

    def manifest_name(self, generation: int) -> str:
        """The name of a manifest file."""
        return self.manifest_filename.format(generation=generation)

    def segment_name(self, generation: int) -> str:
        """The name of a segment file."""
        return f"{generation:08d}.events"

    def exists(self) -> bool:
        """Whether there is a cache or a mirror, whole or not; mere folders are what a death before its birth leaves."""
        return self.journal.exists() or self.lost_journal() or self.is_marked()

    def lost_journal(self) -> bool:
        """Whether there are traces of a journal beside its name: its projections, or what a rebuild set aside."""
        return bool(self.manifest_files() or self.segment_files() or self.journals_set_aside())

    def may_be_mirror(self) -> bool:
        """Whether what lies here is what `c10 mirror` makes: projections, and no trace of a journal that ever was here.

        A cache that lost its journal with the lock file beside it looks the same.
        """
        return not self.journal_trace()

    def journal_trace(self) -> str:
        """Return the name of what says that a journal is or was here: itself, its lock file, or one set aside."""
        lock = f"{self.journal.name}-lock"
        beside = [name for name in (self.journal.name, lock) if os.path.lexists(self.root / name)]
        aside = [f"quarantine/{path.name}" for path in self.journals_set_aside()]
        return next(iter((*beside, *aside)), "")

    def is_marked(self) -> bool:
        """Whether the mark of a mirror is here."""
        try:
            return stat.S_ISREG((self.root / MIRROR_MARK).lstat().st_mode)
        except OSError:
            return False

    def is_mirror(self) -> bool:
        """Whether this is a mirror: it has the mark, and no trace of a journal of its own."""
        return self.is_marked() and self.may_be_mirror()

    def journals_set_aside(self) -> tuple[Path, ...]:
        """The journals that rebuilds put into quarantine, newest first."""
        paths = list(self.quarantine.iterdir()) if self.quarantine.is_dir() else []
        found = {int(match[1]): path for path in paths if (match := re.fullmatch(_JOURNAL_ASIDE, path.name))}
        return tuple(found[number] for number in sorted(found, reverse=True))

    def require_filesystem(self) -> None:
        """Refuse a file system that cannot hold a cache, before anything is made on it.

        Where the type of it says nothing, hard links are tried first: without them nobody can allow it.

        Raises:
            journal.JournalFilesystemError: It is remote, unfit or unknown.
            CacheUnusableError: The folder cannot be reached, or there are no hard links.
        """
        existing = nearest_folder(self.root)
        try:
            number = filesystem_type(existing)
        except OSError as error:
            raise from_os_error(error, f"cache folder {self.root}") from error
        # `make_root` says what is wrong with one of the kernel's own.
        if number not in _KERNELS_OWN:
            if is_untested_filesystem(number):
                require_hard_links(existing, self.root)
            require_supported_filesystem(number, self.journal, allow_unknown=self.allow_unknown_filesystem)

    def create(self) -> None:
        """Make the folders and make them durable; folders that exist are kept.

        Raises:
            CacheUnusableError: The folder cannot be made or is not ours to fill.
            DiskFullError: No space.
        """
        self.make_root()
        with TranslateOSErrors(f"cache folder {self.root}"):
            for name in FOLDERS:
                (self.root / name).mkdir(exist_ok=True, mode=0o755)
            with os.scandir(self.artifacts) as entries:
                there = {entry.name for entry in entries if entry.is_dir()}
            for first in range(256):
                if (name := f"{first:02x}") not in there:
                    (self.artifacts / name).mkdir(exist_ok=True, mode=0o755)
            for folder in (self.artifacts, self.root):
                fsync_dir(folder)

    def make_root(self) -> None:
        """Make the cache's own folder, and those above it, and make their names durable.

        Raises:
            CacheUnusableError: The folder cannot be made or is not ours to fill.
            DiskFullError: No space.
        """
        try:
            self._refuse_foreign()
            missing = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
            for folder in reversed(missing):
                folder.mkdir(exist_ok=True, mode=0o755)
                fsync_dir(folder.parent)
        except OSError as error:
            if shown := _kernels_own(self.root):
                raise CacheUnusableError(
                    f"expected a disk for the cache, found {self.root} on {shown}, which keeps no files",
                    kind=ErrorKind.FILE_SYSTEM,
                    hint="choose another --cache DIR, on ext4, xfs, btrfs, f2fs or tmpfs",
                ) from error
            raise from_os_error(error, f"cache folder {self.root}") from error

    def manifest_files(self) -> dict[int, str]:
        """Return generation to file name of the manifests that are there."""
        return dict(_numbered(self.manifests, MANIFEST_NAME))

    def segment_files(self) -> dict[int, str]:
        """Return generation to file name of the segments that are there."""
        return dict(_numbered(self.segments, _SEGMENT_NAME))

    def _refuse_foreign(self) -> None:
        if os.path.lexists(self.root) and not self.root.is_dir():
            found = "a link that leads to no folder" if self.root.is_symlink() else "a file"
            raise CacheUnusableError(
                f"expected a folder for the cache, found {found}: {self.root}",
                kind=ErrorKind.FILE_SYSTEM,
                hint="choose another folder",
            )
        if self.root.is_dir() and not self.exists():
            strange = sorted(entry.name for entry in os.scandir(self.root) if entry.name not in KNOWN_ENTRIES)
            if strange:
                raise CacheUnusableError(
                    f"expected an empty folder or a cache, found {strange[0]!r} in {self.root}",
                    kind=ErrorKind.FILE_SYSTEM,
                    hint=f"choose another folder, such as {quote(str(self.root / 'c10'))}",
                )


def _kernels_own(path: Path) -> str:
    """Return the name of the file system of the kernel's own that a path would lie on; empty for any other."""
    try:
        return _KERNELS_OWN.get(filesystem_type(nearest_folder(path)), "")
    except OSError:
        return ""


def nearest_folder(path: Path) -> Path:
    """Return a path, or the nearest one above it that exists."""
    return next((above for above in (path, *path.parents) if above.exists()), path)


def lies_within(path: Path, folder: Path) -> bool:
    """Return whether a path leads to a folder or into it; neither needs to exist, and links may go round in circles."""
    # Not `Path.resolve`: before Python 3.13 it has no error of the system's for a circle of links.
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _numbered(folder: Path, pattern: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        found = pattern.fullmatch(entry.name)
        if found and int(found[1]) > 0:
            yield int(found[1]), entry.name
