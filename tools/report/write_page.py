"""Write a page or another small file: whole or not at all, a page never over anything but an earlier page."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from store.disk.layout import lies_within
from store.errors import ErrorKind, RequestRefusedError, TranslateOSErrors
from store.files.regular_file import open_regular
from tools.report.page import MARK

_HEAD: Final = 512
"""Length of the beginning of a page that holds its mark, bytes."""
_NAME: Final = 40
"""So many characters of a file's name has that of its draft, which may have 255 bytes."""


def check_target(target: Path, cache: Path | None, *, option: str = "-o") -> None:
    """Refuse to write into a cache, or over anything that is not an earlier page.

    Raises:
        RequestRefusedError: `target` is such a place; the hint names the `option` that gave it.
    """
    if cache is not None and lies_within(target, cache):
        raise _refused(target, "one inside of the cache", option)
    if not target.parent.is_dir():
        raise _refused(target, "that there is no folder for it", option)
    if os.path.lexists(target) and not _is_page(target):
        raise _refused(target, "something else under this name", option)


def _is_page(target: Path) -> bool:
    with TranslateOSErrors(f"page {target}"):
        if not stat.S_ISREG(target.lstat().st_mode):
            return False
        with target.open("rb") as file:
            return MARK in file.read(_HEAD)


def write_page(target: Path, data: bytes) -> None:
    """Write a page over an earlier one; see `write_whole`."""
    write_whole(target, data, what="page", over=True)


def write_whole(target: Path, data: bytes, *, what: str, over: bool) -> None:
    """Write a file beside its place and move it there, so that an earlier one stays until the new one is whole.

    Args:
        target: Its place.
        data: What it will hold.
        what: What to call it in messages.
        over: Whether it may take the place of another file. If not, and there is one, that stays.

    Raises:
        StoreError: It cannot be written, or has no right to its place; what was there is as it was.
    """
    draft = target.with_name(f".{target.name[:_NAME]}.{os.getpid()}.part")
    with TranslateOSErrors(f"{what} {target}"):
        claimed = False
        try:
            with os.fdopen(open_regular(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if not over:
                os.close(open_regular(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
                claimed = True
            draft.replace(target)
        except BaseException:
            for left in (draft, target) if claimed else (draft,):
                with suppress(OSError):
                    left.unlink()
            raise


def _refused(target: Path, found: str, option: str) -> RequestRefusedError:
    return RequestRefusedError(
        f"expected a new file for the page or an earlier page, outside of the cache, found {found}: {target}",
        kind=ErrorKind.FILE_SYSTEM,
        hint=f"choose another {option} FILE",
    )
