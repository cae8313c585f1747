"""Standard input and output as a file: where a command takes a FILE, `-` is one of them, and `./-` a file of that name.

Neither is a terminal: bytes that nobody can read are refused there, as is waiting for what nobody types.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from store.errors import CacheUnusableError, ErrorKind, RequestRefusedError, from_os_error
from tools.command import LOCAL_FILE, PATH

_INPUT: Final = "standard input"
_OUTPUT: Final = "standard output"


class _FileOrStream(click.Path):
    """A path, or the text `-`."""

    def __init__(self, file: click.Path) -> None:
        super().__init__(path_type=Path, readable=False)
        self._file = file

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's signature
        """Return the path, or `-` as it is."""
        return value if value == "-" else self._file.convert(value, param, ctx)


FILE_OR_STDIN: Final = _FileOrStream(PATH)
FILE_OR_STDOUT: Final = _FileOrStream(LOCAL_FILE)


def standard_input(expected: str) -> BinaryIO:
    """Return standard input, whose reads wait for the other side.

    Args:
        expected: What is read from it, for the error.

    Raises:
        RequestRefusedError: It is a terminal, or closed.
    """
    if sys.stdin is None or sys.stdin.isatty():
        found = "it is closed" if sys.stdin is None else "a terminal"
        raise _stream_error(
            f"{expected} on {_INPUT}", found, "name a FILE, or pipe it in: ssh HOST ... | c10 ..."
        )
    with suppress(OSError, ValueError):  # a test's has no descriptor
        os.set_blocking(sys.stdin.fileno(), True)
    return sys.stdin.buffer


@contextmanager
def standard_output(expected: str) -> Iterator[Callable[[bytes], object]]:
    """Yield the function that writes to standard output, all of it before the block ends.

    Args:
        expected: What is written to it, for the error.

    Raises:
        RequestRefusedError: It is a terminal, or closed.
        DiskFullError: It is a file on a disk that is full.
        CacheUnusableError: The reader went away before the end, or it cannot be written.
    """
    if sys.stdout is None or sys.stdout.isatty():
        found = "it is closed" if sys.stdout is None else "a terminal"
        raise _stream_error(
            f"a pipe or file as {_OUTPUT} for {expected}", found, "c10 ... -o FILE, or pipe it on"
        )
    output = sys.stdout.buffer

    def put(data: bytes) -> None:
        try:
            output.write(data)
        except OSError as error:
            raise _output_error(error, expected) from error

    yield put
    try:
        output.flush()
    except OSError as error:
        raise _output_error(error, expected) from error


def _output_error(error: OSError, expected: str) -> Exception:
    if error.errno == errno.EPIPE:
        return CacheUnusableError(
            f"expected {_OUTPUT} to take the whole of {expected}, found that its reader went away",
            kind=ErrorKind.INPUT_OUTPUT,
            hint="the reader's error says why; mend that, then run both again",
        )
    return from_os_error(error, f"{expected} on {_OUTPUT}")


def _stream_error(expected: str, found: str, hint: str) -> RequestRefusedError:
    return RequestRefusedError(f"expected {expected}, found {found}", kind=ErrorKind.FILE_SYSTEM, hint=hint)
