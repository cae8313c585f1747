"""What every command shares: its options, its answer, and how errors are reported.

A command is a function from options to an `Answer`. Nothing else prints to standard output, so that `--json`
prints exactly one line. An error becomes two lines on standard error (what was expected and found, and how to
fix it) and an exit code from `tools.exit_codes`.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from store.disk.layout import Layout
from store.errors import ErrorKind, RequestRefusedError, is_shortage, lacks_threads
from tools.exit_codes import ExitCode, TerminatedError, code_of
from tools.output import render

if TYPE_CHECKING:
    from store.trust.go_no_go import TrustedKeys

Command = TypeVar("Command", bound=Callable[..., Any])

PATH: Final = click.Path(path_type=Path, readable=False)


class _LocalFolder(click.ParamType[Path]):
    """A folder of this machine. `host:path` would else become a folder here, and look as if it were there."""

    name = "DIR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ANN401, ARG002 - click's signature
        """Return the path; refuse what rsync and scp take for an address: a colon before the first slash."""
        if ":" in str(value).partition("/")[0]:
            raise RequestRefusedError(
                f"expected a folder of this machine, found a remote address: {value}",
                kind=ErrorKind.FILE_SYSTEM,
                hint=f"use a local DIR, then copy it: rsync -a DIR/ {value} (a folder of that name is ./{value})",
            )
        return Path(value)


LOCAL_FOLDER: Final = _LocalFolder()
SETTING_PREFIX: Final = "C10_"
_MAKE_ROOM: Final = (
    "end other programs or raise the limit (ulimit -v, -u, the container's), then run it again"
)
_NO_SETTINGS: Final = frozenset({"C10_CACHE", "C10_CONFIG"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The result of a command.

    Attributes:
        document: The map that `--json` prints as one line.
        lines: What it prints otherwise.
        raw: Bytes to print in place of both.
        code: Exit code.
    """

    document: Mapping[str, Any] = field(default_factory=dict)
    lines: Sequence[str] = ()
    raw: bytes | None = None
    code: ExitCode = ExitCode.DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The options that all commands share, and the environment.

    Attributes:
        cache: Folder of the cache, if one was named.
        config: The settings file.
        as_json: Whether to print one line of JSON.
        environ: The environment variables, read once in `tools.cli`.
    """

    cache: Path | None
    config: Path | None
    as_json: bool
    environ: Mapping[str, str]

    @property
    def root(self) -> Path:
        """Folder of the cache.

        Raises:
            click.UsageError: None was given.
        """
        if self.cache is None:
            raise click.UsageError("expected --cache DIR, found none")
        return self.cache

    def layout(self) -> Layout:
        """Return where the files of the cache are.

        Raises:
            pipeline.errors.RequestError: A setting is wrong.
        """
        settings = self.settings()
        if not settings:
            return Layout(self.root)
        from pipeline.config import C10ProvisionerConfig  # noqa: PLC0415 - slow to import

        config = C10ProvisionerConfig.from_settings(settings, cache_root=self.root)
        return Layout(self.root, config.manifest_filename, config.allow_unknown_filesystem)

    def settings(self, **flags: object) -> dict[str, Any]:
        """Return the settings. A flag overrides the environment, and the environment overrides the file.

        Raises:
            pipeline.errors.RequestError: The file cannot be read.
        """
        flagged = {name: value for name, value in flags.items() if value is not None}
        named = {
            name: text
            for name, text in self.environ.items()
            if name.startswith(SETTING_PREFIX) and name not in _NO_SETTINGS
        }
        if self.config is None and not named:
            return flagged
        from tools.config_file import from_environment, read_settings  # noqa: PLC0415 - as above

        from_file = read_settings(self.config) if self.config is not None else {}
        known, unknown = from_environment(named, prefix=SETTING_PREFIX)
        for name in unknown:
            print_message(f"c10: warning: {name} is no setting; it has no effect")
        return {**from_file, **known, **flagged}

    def trusted_keys(self, keys: Sequence[str] = (), *, unsigned: bool = False) -> "TrustedKeys":
        """Return whose signatures are accepted: `keys`, or those of the settings if there are none.

        Args:
            keys: Lines of key files, or paths of such files.
            unsigned: Whether to accept a cache without signatures, whatever the settings say.

        Raises:
            click.UsageError: Both were given.
            pipeline.errors.RequestError: A setting is wrong.
            RequestRefusedError: A key cannot be used.
        """
        settings = self.settings(trusted_keys=self.trusted_keys_setting(keys, unsigned=unsigned))
        if not settings.get("trusted_keys"):
            from store.trust.go_no_go import ALLOW_UNSIGNED  # noqa: PLC0415 - as above

            return ALLOW_UNSIGNED
        from pipeline.config import C10ProvisionerConfig  # noqa: PLC0415 - as above
        from store.trust.key_files import read_trusted  # noqa: PLC0415 - as above

        config = C10ProvisionerConfig.from_settings(settings, cache_root=self.root)
        return read_trusted(config.trusted_keys, cache=self.root)

    @staticmethod
    def trusted_keys_setting(keys: Sequence[str], *, unsigned: bool) -> list[str] | None:
        """Return the value that flags give to the setting `trusted_keys`; None if they do not set it.

        Raises:
            click.UsageError: Keys were given, and `unsigned` too.
        """
        if unsigned and keys:
            raise click.UsageError("expected --trusted-key or --unsigned, found both")
        return [] if unsigned else list(keys) or None

    def digest_cache_folder(self) -> Path | None:
        """Return the user's folder for digests of tiles and networks; None if there is no home."""
        base, home = Path(self.environ.get("XDG_CACHE_HOME", "")), Path(self.environ.get("HOME", ""))
        if base.is_absolute():
            return base / "c10"
        return home / ".cache" / "c10" if home.is_absolute() else None


_SHARED_OPTIONS: Final = (
    click.option("--json", "as_json", is_flag=True, help="Print one line of JSON."),
    click.option("--config", type=PATH, metavar="FILE", help="File of operator settings (c10.toml)."),
    click.option("--cache", type=LOCAL_FOLDER, metavar="DIR", help="Folder of the cache."),
)


def shared_options(*, cache: bool = True) -> Callable[[Command], Command]:
    """Give a command the options that all commands have. It receives them as a `Call`, its first argument."""

    def decorate(command: Command) -> Command:
        def called(
            context: click.Context, /, *, config: Path | None, as_json: bool, **rest: object
        ) -> object:
            environ: Mapping[str, str] = context.obj if isinstance(context.obj, Mapping) else {}
            folder, named = rest.pop("cache", None), environ.get("C10_CACHE")
            if cache and folder is None and named:
                folder = LOCAL_FOLDER(named)
            call = Call(
                cache=folder if isinstance(folder, Path) else None,
                config=config or _path(environ.get("C10_CONFIG")),
                as_json=as_json,
                environ=environ,
            )
            return command(call, **rest)

        called.__doc__ = command.__doc__
        called.__name__ = getattr(command, "__name__", "command")
        called.__dict__.update(command.__dict__)
        wrapped: Any = click.pass_context(called)
        for option in _SHARED_OPTIONS if cache else _SHARED_OPTIONS[:-1]:
            wrapped = option(wrapped)
        done: Command = wrapped
        return done

    return decorate


def trust_options(command: Command) -> Command:
    """Give a command the options that say whose signatures it accepts."""
    unsigned = click.option(
        "--unsigned", is_flag=True, help="Accept a cache without signatures, whatever the settings say."
    )
    key = click.option(
        "--trusted-key",
        "trusted_key",
        multiple=True,
        metavar="KEY",
        help="Accept signatures of this key: a NAME.pub, a file of keys, or 64 hexadecimal digits.",
    )
    return key(unsigned(command))


def print_message(text: str) -> None:
    """Print a text on standard error, in one line or several."""
    click.echo("\n".join(map(render.plain, text.split("\n"))), err=True)


def print_error(message: str, hint: str) -> None:
    """Print an error: one line that says what is wrong, and one that says how to fix it."""
    print_message(f"c10: error: {_one_line(message)}")
    if hint:
        print_message(f"  -> {_one_line(hint)}")


def write(answer: Answer, *, as_json: bool) -> None:
    """Print an answer to standard output.

    Raises:
        BrokenPipeError: The reader went away.
    """
    if answer.raw is not None:
        sys.stdout.buffer.write(answer.raw)
        sys.stdout.buffer.flush()
    elif as_json:
        import json  # noqa: PLC0415 - only --json needs it

        click.echo(json.dumps(dict(answer.document)))
    else:
        for line in answer.lines:
            click.echo(render.plain(line))


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
        import traceback  # noqa: PLC0415 - only errors need it

        traceback.clear_frames(error.__traceback__)
    kind, message, hint, code = _described(error, command)
    if code is ExitCode.INTERNAL:
        import traceback  # noqa: PLC0415 - as above

        print_message("".join(traceback.format_exception(error)).rstrip())
        hint = "this is a fault of C10: please report it with the lines above"
    print_error(message, hint)
    if as_json:
        step = getattr(error, "step", None)
        document = {"kind": kind, "step": step, "message": _one_line(message), "hint": _one_line(hint)}
        with suppress(BrokenPipeError):
            write(Answer(document={**shape, "error": document}), as_json=True)
    return code


def exit_with(code: ExitCode) -> NoReturn:
    """End the process once everything is written. A reader that went away is no error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
    raise SystemExit(int(code))


def discard_output() -> None:
    """Discard unwritten output, so that the interpreter does not report a broken pipe at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextmanager
def sigterm_as_error() -> Iterator[None]:
    """Turn SIGTERM into an exception in the main thread, and ignore a second one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raised(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, raised)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _described(error: BaseException, command: str) -> tuple[str, str, str, ExitCode]:
    """Return kind, message, hint and exit code of any error."""
    match error:
        case click.UsageError():
            context = error.ctx
            # An option without its value is refused before there is a context.
            name = context.command_path if context else f"c10 {command}".rstrip()
            return "usage", error.format_message(), f"{name} --help", ExitCode.REFUSED
        case click.ClickException():
            return "usage", error.format_message(), "c10 --help", ExitCode.REFUSED
        case TerminatedError():
            return "terminated", "terminated by SIGTERM", "run it again", ExitCode.TERMINATED
        case KeyboardInterrupt():
            return "interrupted", "interrupted", "run it again", ExitCode.INTERRUPTED
        case _:
            pass
    code = code_of(error)
    if (shortage := _shortage(error)) is not None:
        return "resources", *shortage, code
    kind, message = getattr(error, "kind", None), getattr(error, "message", None)
    if message is not None:
        named = _kebab(type(error).__name__) if kind is None else str(kind)
        return named, str(message), str(getattr(error, "hint", "")), code
    if isinstance(error, OSError):
        where = error.filename or "a file"
        found = error.strerror or str(error)
        hint = "fix it, or name another file"
        if code is ExitCode.DISK_FULL:
            hint = "free disk space, then run it again"
        elif isinstance(error, PermissionError):
            hint = "run as its owner, or fix its permissions"
        return "file-system", f"expected to use {where}, found: {found}", hint, code
    return "internal", f"expected no {type(error).__name__}, found: {error}", "", code


def _shortage(error: BaseException) -> tuple[str, str] | None:
    """Return what this process ran out of and how to fix that, if that is what the error says."""
    match error:
        case MemoryError():
            return "expected enough memory for this process to go on, found none left", _MAKE_ROOM
        case RecursionError():
            found = "expected data that this process can follow, found it nested too deeply"
            return found, "look at the file that was read last, then c10 doctor"
        case RuntimeError() if lacks_threads(error):
            return "expected the system to start a thread, found that it starts no more", _MAKE_ROOM
        case OSError() if is_shortage(error):
            found = f"expected enough memory and open files, found: {error.strerror}"
            return found, "raise the limit (ulimit -n), or end other programs"
        case _:
            return None


def _kebab(name: str) -> str:
    short = name.removesuffix("Error")
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in short).lstrip("-")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
