"""Read when the tiles of a stored tile table were captured, without reading the rest of it."""

import os

from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.errors import from_os_error, is_shortage
from store.files.regular_file import open_regular
from store.formats.capture_dates import DAY_BYTES, CaptureDates, parse_capture_column


def stored_capture_dates(artifacts: Artifacts, table: ArtifactRef, *, tiles: int) -> CaptureDates | None:
    """Return when the tiles of a table were captured; None if it cannot be read, which `c10 verify` reports.

    Arguments and errors as of `stored_capture_column`.
    """
    column = stored_capture_column(artifacts, table, tiles=tiles)
    try:
        return None if column is None else parse_capture_column(column)
    except ValueError:
        return None


def stored_capture_column(artifacts: Artifacts, table: ArtifactRef, *, tiles: int) -> bytes | None:
    """Return the column of days of a tile table, as `parse_capture_column` takes it; None if it cannot be read.

    Its bytes are not hashed.

    Args:
        artifacts: Holds the table.
        table: The tile table.
        tiles: How many tiles it has.

    Raises:
        CacheUnusableError: This process lacks memory or open files.
    """
    size = tiles * DAY_BYTES
    if artifacts.size(table.sha256) != table.size or table.size < size:
        return None
    try:
        fd = open_regular(artifacts.layout.artifact(table.sha256))
        try:
            return os.pread(fd, size, table.size - size)
        finally:
            os.close(fd)
    except OSError as error:
        if is_shortage(error):
            raise from_os_error(error, f"artifact {table.sha256}") from error
        return None
