"""Reads the files that a request names, each whole and bounded in size."""

import os
from pathlib import Path

from pipeline.errors import ErrorKind, RequestError
from pipeline.regular import open_regular, read_at


def read_named(path: Path, what: str, limit: int) -> bytes:
    """Return the bytes of a regular file.

    Args:
        path: Where it is.
        what: The field of the request that names it, for messages.
        limit: Greatest size, bytes.

    Raises:
        RequestError: REQUEST_UNREADABLE, it is missing, no regular file, not readable or too long.
    """
    try:
        fd = open_regular(path)
        try:
            data = read_at(fd, 0, limit + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise RequestError(
            f"{what}: expected a readable file, found {path}: {error.strerror or error}",
            "mend the path; it starts from the request's folder",
            ErrorKind.REQUEST_UNREADABLE,
            subject=str(path),
        ) from error
    if len(data) > limit:
        raise RequestError(
            f"{what}: expected at most {limit} bytes, found more in {path}",
            "name the right file",
            ErrorKind.REQUEST_UNREADABLE,
            subject=str(path),
        )
    return data
