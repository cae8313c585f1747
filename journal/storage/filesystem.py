"""Know file systems: refuse those that cannot hold a journal, and tell which keep change times.

LMDB needs one coherent page cache and working locks; the journal needs durable file names and hard links.
Local file systems known to have these are allowed. Remote ones are refused. Others were never tested and need
an explicit setting.
"""

import os
from pathlib import Path
from typing import Final

from journal.errors import JournalFilesystemError

_OVERLAY: Final = 0x794C7630

# From linux/magic.h; f_type of statfs(2).
_ALLOWED: Final = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0xF2F52010: "f2fs",
    0x01021994: "tmpfs",
    _OVERLAY: "overlay",
}
_REMOTE: Final = {
    0x6969: "nfs",
    0x517B: "smb",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x00C36400: "ceph",
    0x01021997: "9p",
    0x5346414F: "afs",
    0x6B414653: "afs",
    0x73757245: "coda",
    0x0BD00BD0: "lustre",
    0x47504653: "gpfs",
    0x01161970: "gfs2",
    0x7461636F: "ocfs2",
    0x786F4256: "vboxsf",
}
_UNFIT: Final = {0x4D44: "FAT", 0x2011BAB0: "exFAT"}
"""They have neither hard links nor permissions."""

_STATFS_BYTES: Final = 256  # struct statfs has 120 bytes on 64-bit Linux; f_type is its first word
_TYPE_BYTES: Final = 8


def filesystem_type(path: Path) -> int:
    """Return the type number of the file system of an existing path: `f_type` of statfs(2).

    Raises:
        OSError: The path does not exist or cannot be accessed.
    """
    import ctypes  # noqa: PLC0415 - heavy, and not needed for reading

    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if libc.statfs(os.fsencode(path), buffer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return int.from_bytes(buffer.raw[:_TYPE_BYTES], "little") & 0xFFFFFFFF


def keeps_change_times(path: Path) -> bool:
    """Tell whether every change of the file at a path must give it another change time.

    Local file systems do that, since no program can set a change time. Images (squashfs, erofs, ISO, ext4
    mounted read-only) show the times that their maker wrote, often the same ones in each release. Servers
    show what they like. The files of an overlay may come from an image. A folder that a container sees read-only
    (`-v /tiles:/tiles:ro`) is as reliable as the file system that it is in.
    """
    try:
        number = filesystem_type(path)
        if number not in _ALLOWED or number == _OVERLAY:
            return False
        return not os.statvfs(path).f_flag & os.ST_RDONLY or _is_written_elsewhere(path)
    except OSError:
        return False


def _is_written_elsewhere(path: Path) -> bool:
    """Tell whether a file system is writable as a whole, although a path is in a part that is mounted read-only."""
    device = path.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        mount, _, system = line.partition(" - ")
        if mount.split()[2] == name:
            return "rw" in system.split()[2].split(",")
    return False


def is_untested_filesystem(number: int) -> bool:
    """Tell whether nothing is known of a file system but its type number. FUSE has one for all of its own."""
    return number not in _ALLOWED.keys() | _REMOTE.keys() | _UNFIT.keys()


def require_supported_filesystem(number: int, path: Path, *, allow_unknown: bool) -> None:
    """Refuse a file system by its type number.

    Raises:
        JournalFilesystemError: It is remote or has no hard links, or it is unknown while `allow_unknown` is False.
    """
    if number in _ALLOWED:
        return
    expected = f"{path}: a local file system expected ({', '.join(_ALLOWED.values())})"
    if number in _REMOTE:
        raise JournalFilesystemError(
            f"{expected}, found {_REMOTE[number]}, which is remote", hint="put the cache on a local disk"
        )
    if number in _UNFIT:
        raise JournalFilesystemError(
            f"{expected}, found {_UNFIT[number]}, which has no hard links",
            hint="use a disk or card with ext4 or f2fs; a bundle may lie anywhere: c10 export -o FILE",
        )
    if not allow_unknown:
        raise JournalFilesystemError(
            f"{expected}, found type 0x{number:X}, which was never tested",
            hint="put the cache on one of these, or allow unknown file systems in the configuration",
        )
