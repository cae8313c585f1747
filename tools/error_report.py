"""Report the error that ended a command: two lines on standard error, one line of JSON, and an exit code."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

from store.errors import is_shortage, lacks_memory_to_import
from tools.command import Answer, one_line, print_error, print_message, write
from tools.exit_codes import ExitCode, TerminatedError, code_of
from tools.ground_packages import HINT, missing_ground_package

_MAKE_ROOM: Final = (
    "end other programs or raise the limit (ulimit -v, -u, the container's), then run it again"
)
_NO_THREADS: Final = ("expected the system to start a thread, found that it starts no more", _MAKE_ROOM)


def report_error(
    error: BaseException, *, shape: Mapping[str, Any], as_json: bool, command: str = ""
) -> ExitCode:
    """Print an error that ended a command, and return its exit code.

    Args:
        error: What happened.
        shape: The keys that `--json` prints for this command, without their values.
        as_json: Whether to print them.
        command: The name of the command, if it is known.
    """
    if isinstance(error, MemoryError):
        # Free what the command had in memory: printing the message needs some.
        with suppress(MemoryError):
            import traceback  # noqa: PLC0415 - only errors need it

            traceback.clear_frames(error.__traceback__)
    kind, message, hint, code = _described(error, command)
    if kind == "bad-model" and (model := getattr(error, "subject", None)):
        message = f"model {model}: {message}"
    if code is ExitCode.INTERNAL:
        import traceback  # noqa: PLC0415 - as above

        print_message("".join(traceback.format_exception(error)).rstrip())
        hint = "this is a fault of C10: please report it with the lines above"
    print_error(message, hint, getattr(error, "problems", ()))
    if as_json:
        step = getattr(error, "step", None)
        document = {"kind": kind, "step": step, "message": one_line(message), "hint": one_line(hint)}
        with suppress(OSError):
            write(Answer(document={**shape, "error": document}), as_json=True)
    return code


def _described(error: BaseException, command: str) -> tuple[str, str, str, ExitCode]:
    """Return kind, message, hint and exit code of any error."""
    match error:
        case click.ClickException():
            return "usage", error.format_message(), f"{_command_of(error, command)} --help", ExitCode.REFUSED
        case TerminatedError():
            return error.kind, error.message, "run it again", code_of(error)
        case KeyboardInterrupt() if _can_start_threads():
            return "interrupted", "interrupted", "run it again", ExitCode.INTERRUPTED
        case ModuleNotFoundError() if package := missing_ground_package(error):
            return "missing-package", f"expected the package {package}, found none", HINT, ExitCode.REFUSED
        case _:
            pass
    code = code_of(error)
    if (shortage := _shortage(error)) is not None:
        return "resources", *shortage, ExitCode.REFUSED if code is ExitCode.INTERRUPTED else code
    kind, message = getattr(error, "kind", None), getattr(error, "message", None)
    if message is not None:
        named = _kebab(type(error).__name__) if kind is None else str(kind)
        return named, str(message), str(getattr(error, "hint", "")), code
    if isinstance(error, OSError):
        where = error.filename or _unnamed_file()
        found = error.strerror or str(error)
        hint = "fix it, or name another file"
        if code is ExitCode.DISK_FULL:
            hint = "free disk space, then run it again"
        elif isinstance(error, PermissionError):
            hint = "run as its owner, or fix its permissions"
        return "file-system", f"expected to use {where}, found: {found}", hint, code
    return "internal", f"expected no {type(error).__name__}, found: {error}", "", code


def _command_of(error: click.ClickException, command: str) -> str:
    if not isinstance(error, click.UsageError):
        return "c10"
    # An option without its value is refused before there is a context.
    return error.ctx.command_path if error.ctx else f"c10 {command}".rstrip()


def _shortage(error: BaseException) -> tuple[str, str] | None:
    """Return what this process ran out of and how to fix that, if that is what the error says."""
    match error:
        case MemoryError() | ImportError() | SystemError() if _lacks_memory(error):
            return "expected enough memory for this process to go on, found none left", _MAKE_ROOM
        case RecursionError():
            found = "expected data that this process can follow, found it nested too deeply"
            return found, "look at the file that was read last, then c10 doctor"
        case KeyboardInterrupt():
            # OpenBLAS interrupts its own process if it cannot start its threads.
            return _NO_THREADS
        case RuntimeError() if is_shortage(error):
            return _NO_THREADS
        case OSError() if is_shortage(error):
            found = f"expected enough memory and open files, found: {error.strerror}"
            return found, "raise the limit (ulimit -n), or end other programs"
        case _:
            return None


def _lacks_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or lacks_memory_to_import(error)


def _can_start_threads() -> bool:
    thread = threading.Thread(target=int)
    try:
        thread.start()
    except RuntimeError:
        return False
    thread.join()
    return True


def _unnamed_file() -> str:
    """Return what an error without a file's name is about: maybe a working directory that was removed."""
    try:
        Path.cwd()
    except OSError:
        return "the current folder"
    return "a file"


def _kebab(name: str) -> str:
    short = name.removesuffix("Error")
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in short).lstrip("-")
