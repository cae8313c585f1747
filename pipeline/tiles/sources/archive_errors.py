"""What every source of tiles says alike when something is wrong with it."""

from pathlib import Path

from pipeline.errors import ErrorKind, TileError
from pipeline.tiles.digest_cache import Fingerprint


def bad_archive(
    name: str, expected: str, found: str, hint: str = "fetch or export the archive again"
) -> TileError:
    """The error for an archive that is damaged."""
    return TileError(
        f"{name}: expected {expected}, found {found}", hint=hint, kind=ErrorKind.BAD_ARCHIVE, subject=name
    )


def unsupported_archive(name: str, expected: str, found: str, hint: str) -> TileError:
    """The error for an archive that is whole, but not of a kind that can be used."""
    return TileError(
        f"{name}: expected {expected}, found {found}",
        hint=hint,
        kind=ErrorKind.UNSUPPORTED_ARCHIVE,
        subject=name,
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
            hint="wait until nothing writes to it, then build again",
            kind=ErrorKind.SOURCE_CHANGED,
            subject=str(path),
        )
