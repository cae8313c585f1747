"""Read a photograph: a picture that is no tile, and so may have any shape."""

from pathlib import Path
from typing import Final

from pipeline.errors import ErrorKind, RequestError, TileError
from pipeline.request.files import hint_for_path
from pipeline.tiles.images.decode import PIXEL_CEILING, checked_header, decode
from pipeline.tiles.images.image_header import read_header, sniff
from store.base.preprocessing import Pixels
from store.files.regular_file import read_start

_MAX_BYTES: Final = 256 << 20
_HINT: Final = "name a JPEG, PNG or WebP file"
_KIND_HINT: Final = "save it as one RGB picture with 8 bits per channel, in JPEG, PNG or WebP"
_DAMAGED_HINT: Final = "the file is damaged or incomplete: copy it again from where it came from"


def read_photograph(path: Path) -> bytes:
    """Return the bytes of a picture's file.

    Raises:
        RequestError: It cannot be read, or is too long.
    """
    try:
        data = read_start(path, _MAX_BYTES + 1, follow_symlinks=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(
            f"expected a picture, found {path}: {reason}",
            hint=hint_for_path(path) or "check the path, and that you may read the file",
            kind=ErrorKind.REQUEST_UNREADABLE,
        ) from error
    if len(data) > _MAX_BYTES:
        raise RequestError(
            f"expected a picture of at most {_MAX_BYTES:,} bytes, found more in {path}", hint="shrink it"
        )
    return data


def photograph_size(data: bytes, path: Path) -> tuple[int, int]:
    """Return width and height of a picture in pixels, from its header alone; the path is for messages.

    Raises:
        RequestError: It does not begin as a JPEG, PNG or WebP picture does.
    """
    header = read_header(data)
    if header is None:
        kind = sniff(data)
        found = "an empty file" if not data else f"a damaged {kind} header" if kind else "something else"
        raise RequestError(
            f"{path}: expected a JPEG, PNG or WebP image, found {found}",
            hint=_DAMAGED_HINT if kind else _HINT,
        )
    return header.width, header.height


def decode_photograph(data: bytes, path: Path) -> Pixels:
    """Return the pixels of a picture, uint8 [height, width, 3], RGB; the path is for messages.

    Raises:
        RequestError: It is no whole JPEG, PNG or WebP picture.
    """
    hint = _KIND_HINT if read_header(data) else _DAMAGED_HINT if sniff(data) else _HINT
    try:
        checked_header(data, PIXEL_CEILING, None)
        hint = _DAMAGED_HINT
        return decode(data, max_pixels=PIXEL_CEILING, subject=None)
    except TileError as error:
        raise RequestError(f"{path}: {error.message}", hint=hint) from error
