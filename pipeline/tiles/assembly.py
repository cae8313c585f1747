"""Turns columns of numbers into the sorted list of tiles that every source returns, and words their errors alike."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import ErrorKind, TileError
from pipeline.tiles.memory import Digests, Fingerprint
from pipeline.tiles.tile import Locator, Tile

Numbers = npt.NDArray[np.int64]


def assemble(
    z: Iterable[int],
    x: Iterable[int],
    y: Iterable[int],
    *,
    digests: Digests,
    sizes: Iterable[int],
    locators: Iterable[Locator],
) -> list[Tile]:
    """Tiles from columns of equal length that are sorted by (z, x, y) already.

    Args:
        z: Zooms.
        x: Columns.
        y: Rows.
        digests: uint8 [n, 32].
        sizes: Encoded lengths in bytes.
        locators: Where to read each again.
    """
    digits = digests.tobytes().hex()
    names = (digits[start : start + 64] for start in range(0, len(digits), 64))
    columns = zip(z, x, y, names, sizes, locators, strict=True)
    return [
        Tile(z=tz, x=tx, y=ty, sha256=name, size=size, captured=None, locator=locator)
        for tz, tx, ty, name, size, locator in columns
    ]


def bad_archive(
    name: str, expected: str, found: str, hint: str = "fetch or export the archive again"
) -> TileError:
    """The error for an archive that is damaged."""
    return TileError(f"{name}: expected {expected}, found {found}", hint, ErrorKind.BAD_ARCHIVE, subject=name)


def unsupported_archive(name: str, expected: str, found: str, hint: str) -> TileError:
    """The error for an archive that is whole, but not of a kind that can be used."""
    return TileError(
        f"{name}: expected {expected}, found {found}", hint, ErrorKind.UNSUPPORTED_ARCHIVE, subject=name
    )


def require_unchanged(path: Path, before: Fingerprint) -> None:
    """Raise TileError unless the file at a path is still the one that was opened."""
    try:
        now = Fingerprint.of(path.stat())
    except OSError:
        now = None
    if now != before:
        raise TileError(
            f"{path}: expected it to stay the same while it is used, found it changed",
            "wait until nothing writes to it, then build again",
            ErrorKind.SOURCE_CHANGED,
            subject=str(path),
        )
