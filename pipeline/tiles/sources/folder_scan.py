"""Find the tile files of a folder by their names. A symbolic link is followed if its target is inside the folder."""

import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from stat import S_ISREG

import numpy as np
import numpy.typing as npt

from pipeline.errors import ErrorKind, RequestError
from pipeline.tiles.digest_cache import Fingerprint
from pipeline.tiles.grid import TileRange
from pipeline.tiles.sources.archive import bad_archive
from pipeline.tiles.sources.layout import Layout, Level
from pipeline.tiles.sources.row_order import mirrored

_INT64 = (1 << 63) - 1
_Name = tuple[tuple[int, ...], int]
"""The numbers in a file's name, and the number of its ending."""


class TileFiles:
    """Tile files as columns: a hundred thousand small objects would slow the garbage collector down.

    Args:
        layout: How they are named.
        from_south: Whether their rows are counted from the south.
    """

    def __init__(self, layout: Layout, *, from_south: bool) -> None:
        self._by_folder = [axis for level in layout.folders for axis in level.axes]
        self._by_name = layout.files.axes
        self._from_south = from_south
        self._folders: list[tuple[int, ...]] = []
        self._ended = 0
        self.numbers = array("i")
        """Of each tile, the numbers in its file's name."""
        self.endings = array("i")
        """Number of each tile's ending."""
        self.stamps = array("q")
        """Five integers for each tile, its fingerprint."""

    def end_folder(self, numbers: Sequence[int]) -> None:
        """Assign all files since the last call to a folder; `numbers` are those in the names on the way to it."""
        self._folders.append((*numbers, len(self.endings) - self._ended))
        self._ended = len(self.endings)

    @property
    def places(self) -> npt.NDArray[np.int32]:
        """Zoom, column and row from the north of each, int32 [n, 3]."""
        places = np.empty((len(self.endings), 3), np.int32)
        folders = np.array(self._folders, np.int64).reshape(-1, len(self._by_folder) + 1)
        places[:, self._by_folder] = np.repeat(folders[:, :-1], folders[:, -1], axis=0)
        places[:, self._by_name] = np.array(self.numbers, np.int32).reshape(-1, len(self._by_name))
        if self._from_south:
            places[:, 2] = (1 << places[:, 0].astype(np.int64)) - 1 - places[:, 2]
        return places

    @property
    def keys(self) -> npt.NDArray[np.int64]:
        """The fingerprints, int64 [n, 5]."""
        return np.array(self.stamps, np.int64).reshape(-1, 5)


class _Names(dict[str, _Name | None]):
    """File name to its numbers and the number of its ending; None for a name that is no tile's.

    Most folders have the same names, so each is parsed once. Names of no tile are not kept, since their number
    has no limit, nor are any where each occurs once.
    """

    def __init__(self, level: Level) -> None:
        super().__init__()
        self._level = level
        self.endings: list[str] = []

    def __missing__(self, name: str) -> _Name | None:
        parsed = self._level.parse(name)
        if parsed is None:
            return None
        numbers, ending = parsed
        if ending not in self.endings:
            self.endings.append(ending)
        found = numbers, self.endings.index(ending)
        if len(numbers) == 1:
            self[name] = found
        return found


class FolderScan:
    """Finds the tiles of a folder.

    Args:
        root: The folder, absolute and without links.
        layout: How its tiles are named.
    """

    def __init__(self, root: str, layout: Layout) -> None:
        self._root, self._layout = root, layout
        self._names = _Names(layout.files)

    @property
    def endings(self) -> Sequence[str]:
        """The endings of the tiles that were found, by their number."""
        return self._names.endings

    def find(self, ranges: Sequence[TileRange], *, from_south: bool, stamped: bool = True) -> TileFiles:
        """Return the tiles of some rectangles.

        Args:
            ranges: The rectangles, rows counted from the north.
            from_south: Whether the files count them from the south.
            stamped: Whether fingerprints are wanted. An up-to-date build spends most of its time on them.

        Raises:
            TileError: There is something else in place of a tile, or a link out of the folder.
            RequestError: A folder or file cannot be examined.
        """
        files = TileFiles(self._layout, from_south=from_south)
        for part in mirrored(ranges) if from_south else ranges:
            bounds = ((part.z, part.z), (part.x0, part.x1), (part.y0, part.y1))
            for folder, numbers in self._folders(bounds):
                self._scan_folder(folder, bounds, files, stamped=stamped)
                files.end_folder(numbers)
        return files

    def path_of(self, place: Sequence[int], ending: int) -> str:
        """Return the path of a tile's file.

        Args:
            place: Zoom, column and row as the file counts it.
            ending: The number of its ending.
        """
        names = [level.name(place) for level in (*self._layout.folders, self._layout.files)]
        return "/".join((self._root.rstrip("/"), *names)) + self.endings[ending]

    def _folders(self, bounds: Sequence[tuple[int, int]]) -> list[tuple[str, tuple[int, ...]]]:
        """Return the folders of tiles whose numbers are within bounds, and their numbers."""
        found: list[tuple[str, tuple[int, ...]]] = [(self._root.rstrip("/"), ())]
        for level in self._layout.folders:
            found = [
                (f"{folder}/{name}", (*numbers, *own))
                for folder, numbers in found
                for own, name in _subfolders(folder or "/", level, bounds)
            ]
        return found

    def _scan_folder(
        self, folder: str, bounds: Sequence[tuple[int, int]], files: TileFiles, *, stamped: bool
    ) -> None:
        """Append the tile files of one folder."""
        if os.path.realpath(folder) != folder and folder:
            self._require_inside(folder)
        wanted = [bounds[axis] for axis in self._layout.files.axes]
        (first, last), more, names = wanted[0], wanted[1:], self._names
        add_numbers, add_ending, add_stamp = files.numbers.extend, files.endings.append, files.stamps.extend
        try:
            # Relative to an open folder, the system does not resolve the whole path for each file.
            with _open_folder(folder or "/") as descriptor, os.scandir(descriptor) as entries:
                for entry in entries:
                    found = names[entry.name]
                    if found is None or not first <= found[0][0] <= last:
                        continue
                    if more and not all(
                        low <= number <= high for number, (low, high) in zip(found[0][1:], more, strict=True)
                    ):
                        continue
                    add_numbers(found[0])
                    add_ending(found[1])
                    if stamped:
                        add_stamp(self._stamp(entry, f"{folder}/{entry.name}"))
        except FileNotFoundError:
            return
        except OSError as error:
            raise unreadable(folder, error) from error

    def _stamp(self, entry: "os.DirEntry[str]", path: str) -> tuple[int, int, int, int, int]:
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError as error:
            raise unreadable(path, error) from error
        if not S_ISREG(status.st_mode):
            status = self._stat_link_target(entry, path)
        device, inode = status.st_dev, status.st_ino
        if device > _INT64 or inode > _INT64:
            device, inode = Fingerprint.of(status)[:2]
        return device, inode, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _stat_link_target(self, entry: "os.DirEntry[str]", path: str) -> os.stat_result:
        """Return the status of the file that a link in place of a tile points to.

        Raises:
            TileError: It is no link to a file, or its target is outside the folder.
            RequestError: It cannot be examined.
        """
        try:
            if entry.is_symlink():
                self._require_inside(path)
            status = entry.stat()
        except OSError as error:
            raise unreadable(path, error) from error
        if not S_ISREG(status.st_mode):
            raise bad_archive(path, "a regular file as a tile", "something else", "remove it")
        return status

    def _require_inside(self, path: str) -> None:
        real = os.path.realpath(path)
        if not real.startswith(self._root.rstrip("/") + "/"):
            raise bad_archive(
                path, "a link that stays in the tile folder", f"one to {real}", "copy the file there"
            )


def _subfolders(
    folder: str, level: Level, bounds: Sequence[tuple[int, int]]
) -> list[tuple[tuple[int, ...], str]]:
    """Return numbers and names of the folders in a folder that a level names, ascending; none if it is missing."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                parsed = level.parse(entry.name)
                if (
                    parsed is not None
                    and all(
                        bounds[axis][0] <= number <= bounds[axis][1]
                        for axis, number in zip(level.axes, parsed[0], strict=True)
                    )
                    and entry.is_dir()
                ):
                    found.append((parsed[0], entry.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(folder, error) from error
    return sorted(found)


@contextmanager
def _open_folder(folder: str) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def unreadable(path: str, error: OSError) -> RequestError:
    """Return the error for a folder or file that cannot be read."""
    return RequestError(
        f"{path}: expected readable tiles, found {error.strerror or error}",
        hint="check that it is there, and its permissions",
        kind=ErrorKind.SOURCE_UNREADABLE,
        subject=path,
    )
