"""Read the small files that people write: requests, settings and capture dates.

A shell may pass a pipe in place of a file, as in `c10 build <(make-request)`, under a name such as
`/dev/fd/63`. Such a pipe is read to its end, with a limit on its size and on the time without data. A named
pipe is refused, since nobody may ever write to it.
"""

import os
import re
import select
import stat
from pathlib import Path
from typing import Final

from pipeline.errors import ErrorKind, RequestError
from store.files.regular_file import NotRegularError, read_start

MAX_REQUEST_BYTES = 1 << 20
SILENCE_S: Final = 60.0
"""How long a pipe may send nothing, seconds."""

_HOME: Final = re.compile(r"(?:^|/)~")
_ADDRESS: Final = re.compile(r"(?:^|/)[a-zA-Z][a-zA-Z0-9+.-]+:/")
"""In a path, which may begin with the folder of a request, and has one slash where there were two."""
_DESCRIPTORS: Final = frozenset({"/dev/fd", "/proc/self/fd"})
_READ_BYTES: Final = 1 << 16


def base_folder(path: Path) -> Path:
    """Return the folder that relative paths in a file start from: its own, or the current one for a pipe."""
    return Path.cwd() if _is_descriptor(path) else path.parent


def hint_for_path(path: str | Path) -> str | None:
    """Return what to do about a path that is not there if only a shell or a browser would follow it; else None."""
    if _HOME.search(str(path)):
        return "write the whole path: only a shell expands ~, and not within quotes"
    if _ADDRESS.search(str(path)):
        return "download it first: C10 fetches nothing"
    return None


def read_request_text(path: Path, *, what: str = "a request file", limit: int = MAX_REQUEST_BYTES) -> str:
    """Return the text of a file that a person wrote.

    Args:
        path: Where it is.
        what: What to call it in messages.
        limit: Greatest size, bytes.

    Raises:
        RequestError: when it is missing, neither a regular file nor an open pipe, too long, not readable or
            not UTF-8.
    """
    try:
        content = _read_content(path, limit)
        if len(content) <= limit:
            return content.decode("utf-8-sig")
        found, hint = f"more than {limit:,} bytes", "check that it is the right file"
    except UnicodeDecodeError as error:
        found, hint = f"bytes that are not UTF-8 at offset {error.start}", "save it as UTF-8"
    except TimeoutError:
        found = f"a pipe that gave nothing for {SILENCE_S:g} s"
        hint = "write the request into it and close it, or name a file"
    except FileNotFoundError:
        found, hint = "no such file", hint_for_path(path) or "check the path"
    except NotRegularError:
        found = "something that is neither a regular file nor a pipe of the shell's, such as <(…)"
        hint = "name a file"
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        found, hint = f"one that cannot be read: {reason}", "check its permissions"
    raise _unreadable(path, f"{path}: expected {what}, found {found}", hint)


def read_named_file(path: Path, what: str, limit: int) -> bytes:
    """Return the bytes of a regular file.

    Args:
        path: Where it is.
        what: The field of the request that names it, for messages.
        limit: Greatest size, bytes.

    Raises:
        RequestError: REQUEST_UNREADABLE, it is missing, no regular file, not readable or too long.
    """
    try:
        data = read_start(path, limit + 1, follow_symlinks=True)
    except OSError as error:
        found = f"found {path}: {error.strerror or error}"
        hint = hint_for_path(path) or "correct the path; it starts from the request's folder"
        raise _unreadable(path, f"{what}: expected a readable file, {found}", hint) from error
    if len(data) > limit:
        message = f"{what}: expected at most {limit:,} bytes, found more in {path}"
        raise _unreadable(path, message, "name the right file")
    return data


def _read_content(path: Path, limit: int) -> bytes:
    """Return the content, cut after one byte more than the limit.

    Raises:
        TimeoutError: when a pipe stays open and sends nothing.
        NotRegularError: for anything but a regular file and an open pipe.
        OSError: when it cannot be read.
    """
    try:
        return read_start(path, limit + 1, follow_symlinks=True)
    except NotRegularError:
        if not _is_descriptor(path):
            raise
    return _read_pipe(path, limit)


def _read_pipe(path: Path, limit: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            raise NotRegularError(f"{path} is neither a regular file nor a pipe")
        poll, content = select.poll(), b""
        poll.register(descriptor, select.POLLIN)
        while len(content) <= limit:
            if not poll.poll(SILENCE_S * 1000):
                raise TimeoutError
            try:
                data = os.read(descriptor, min(_READ_BYTES, limit + 1 - len(content)))
            except BlockingIOError:
                continue  # another reader of the pipe was faster
            if not data:
                break
            content += data
        return content
    finally:
        os.close(descriptor)


def _is_descriptor(path: Path) -> bool:
    return str(path) == "/dev/stdin" or str(path.parent) in _DESCRIPTORS


def _unreadable(path: Path, message: str, hint: str) -> RequestError:
    return RequestError(message, hint=hint, kind=ErrorKind.REQUEST_UNREADABLE, subject=str(path))
