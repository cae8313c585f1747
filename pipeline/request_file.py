"""Reads the text of the small files that people write: requests and capture dates."""

import os
from pathlib import Path

from pipeline.errors import ErrorKind, RequestError
from pipeline.regular import NotRegularError, open_regular, read_at

MAX_REQUEST_BYTES = 1 << 20


def read_request_text(path: Path, *, what: str = "a request file", limit: int = MAX_REQUEST_BYTES) -> str:
    """The text of a file that a person wrote.

    Args:
        path: Where it is.
        what: What messages say was expected there.
        limit: Greatest size, bytes.

    Raises:
        RequestError: when it is missing, no regular file, too long, not readable or not UTF-8.
    """
    try:
        descriptor = open_regular(path)
        try:
            content = read_at(descriptor, 0, limit + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise _unreadable(path, what, "no such file", "check the path") from None
    except NotRegularError:
        raise _unreadable(path, what, "something that is not a regular file", "name a file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _unreadable(
            path, what, f"one that cannot be read: {reason}", "check its permissions"
        ) from error
    if len(content) > limit:
        raise _unreadable(path, what, f"more than {limit} bytes", "check that it is the right file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(
            path, what, f"bytes that are not UTF-8 at offset {error.start}", "save it as UTF-8"
        ) from None


def _unreadable(path: Path, what: str, found: str, hint: str) -> RequestError:
    message = f"{path}: expected {what}, found {found}"
    return RequestError(message, hint, ErrorKind.REQUEST_UNREADABLE, subject=str(path))
