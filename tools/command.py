"""What every command shares: its options, its answer, and how errors are reported.

A command is a function from options to an `Answer`. Nothing else prints to standard output, so that `--json`
prints exactly one line. An error becomes two lines on standard error (what was expected and found, and how to
fix it) and an exit code from `tools.exit_codes`.
"""

import errno
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from store.base.valueclass import valueclass
from store.disk.layout import Layout
from store.errors import ErrorKind, RequestRefusedError
from tools.exit_codes import ExitCode
from tools.output import page, render
from tools.output.colour import paint
from tools.output.sanitize import encodable
from tools.output.terminal import columns_of
from tools.process import discard_output

if TYPE_CHECKING:
    from store.trust.go_no_go import TrustedKeys

Command = TypeVar("Command", bound=Callable[..., Any])


class _Path(click.Path):
    """A path that is not empty: an empty one, as of a variable that is not set, would mean the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's signature
        """Return the path."""
        if value == "":
            raise RequestRefusedError(
                "expected a path, found an empty text",
                kind=ErrorKind.FILE_SYSTEM,
                hint="set the variable that the command line names, or write . for the current folder",
            )
        return super().convert(value, param, ctx)


PATH: Final = _Path()


class _LocalPath(_Path):
    """A folder or file of this machine. `host:path` would else be made here, and look as if it were there."""

    def __init__(self, what: str, example: str) -> None:
        super().__init__()
        self._what, self._example = what, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's signature
        """Return the path; refuse what a shell expands, and what rsync and scp take for an address.

        That is a colon before the first slash.
        """
        if str(value).startswith("~"):
            raise RequestRefusedError(
                f"expected a {self._what}, found {value}",
                kind=ErrorKind.FILE_SYSTEM,
                hint="write the whole path: only a shell expands ~, and not within quotes "
                f"(a {self._what} of that name is ./{value})",
            )
        if ":" in str(value).partition("/")[0]:
            what, example = self._what, self._example
            copied = f"use a local {example.rstrip('/')}, then copy it: rsync -a {example} {value}"
            if "://" in str(value) and not str(value).startswith("rsync:"):
                copied = f"use a local {example.rstrip('/')}: C10 fetches and sends nothing"
            raise RequestRefusedError(
                f"expected a {what} of this machine, found a remote address: {value}",
                kind=ErrorKind.FILE_SYSTEM,
                hint=f"{copied} (a {what} of that name is ./{value})",
            )
        return super().convert(value, param, ctx)


LOCAL_FOLDER: Final = _LocalPath("folder", "DIR/")
LOCAL_FILE: Final = _LocalPath("file", "FILE")
"""A file that the command writes."""


class Number(click.IntRange):
    """A whole number, such as that of a build, generation or record."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401 - click's signature
        """Return the number."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            most = "" if self.max is None else f" to {self.max:,}"
            self.fail(f"expected a whole number from {self.min}{most}, found {value!r}", param, ctx)


NUMBER: Final = Number(1)


def parse_measure(text: str) -> float:
    """Return a finite number with or without decimals, such as metres or degrees; the type of an option.

    Raises:
        click.BadParameter: It is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise click.BadParameter(f"expected a number with a decimal point, found {text!r}")
    return number


SETTING_PREFIX: Final = "C10_"
_CACHE, _CONFIG = "C10_CACHE", "C10_CONFIG"
"""Variables that stand for the options of that name; they are no settings."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The result of a command.

    Attributes:
        document: The map that `--json` prints as one line.
        lines: What it prints otherwise.
        raw: Bytes to print in place of both.
        code: Exit code.
        lasting: Whether the command did something that stays, also if its answer cannot be printed.
    """

    document: Mapping[str, Any] = field(default_factory=dict)
    lines: Sequence[str] = ()
    raw: bytes | None = None
    code: ExitCode = ExitCode.DONE
    lasting: bool = False


@valueclass(frozen=True, slots=True, kw_only=True)
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
            raise click.UsageError(f"expected --cache DIR (or the variable {_CACHE}), found none")
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
            pipeline.errors.RequestError: The file cannot be read, or a setting in it or in a variable is wrong.
        """
        flagged = {name: value for name, value in flags.items() if value is not None}
        named = {
            name: text
            for name, text in self.environ.items()
            if name.startswith(SETTING_PREFIX) and name not in {_CACHE, _CONFIG}
        }
        if self.config is None and not named:
            return flagged
        from tools.config_file import from_environment, read_settings  # noqa: PLC0415 - as above

        known, unknown = from_environment(named, prefix=SETTING_PREFIX, overridden=flagged)
        overriding = known | flagged
        from_file = read_settings(self.config, overridden=overriding) if self.config is not None else {}
        for name in unknown:
            print_message(f"c10: warning: {name} is no setting; it has no effect")
        return from_file | overriding

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
    click.option(
        "--config",
        type=PATH,
        metavar="FILE",
        envvar=_CONFIG,
        show_envvar=True,
        help="File of operator settings (c10.toml).",
    ),
    click.option(
        "--cache",
        type=LOCAL_FOLDER,
        metavar="DIR",
        envvar=_CACHE,
        show_envvar=True,
        help="Folder of the cache.",
    ),
)


def shared_options(*, cache: bool = True) -> Callable[[Command], Command]:
    """Give a command the options that all commands have. It receives them as a `Call`, its first argument."""

    def decorate(command: Command) -> Command:
        def called(
            context: click.Context, /, *, config: Path | None, as_json: bool, **rest: object
        ) -> object:
            _require_utf8(rest)
            environ: Mapping[str, str] = context.obj if isinstance(context.obj, Mapping) else {}
            folder = rest.pop("cache", None)
            call = Call(
                cache=folder if isinstance(folder, Path) else None,
                config=config,
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


def _require_utf8(values: Mapping[str, object]) -> None:
    """Refuse text that is no UTF-8, which no record can hold. Paths may be any bytes.

    Raises:
        click.UsageError: One of the values is such a text.
    """
    for name, value in values.items():
        try:
            _ = isinstance(value, str) and value.encode()
        except UnicodeEncodeError as error:
            raise click.UsageError(f"expected UTF-8 as {name}, found {value!a}") from error


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
    """Print a text on standard error, in one line or several; go on if nobody can read it."""
    with suppress(OSError), page.laid_out_for(columns_of(sys.stderr)):
        lines = (line for each in text.split("\n") for line in page.fit(render.plain(each)))
        click.echo("\n".join(lines), err=True)


def print_error(message: str, hint: str, problems: Sequence[object] = ()) -> None:
    """Print an error: one line that says what is wrong, and one that says how to fix it.

    If there are several problems, each has a line, and the message is what is before its first line end.
    """
    listed = problems if len(problems) > 1 else ()
    print_message(f"c10: error: {one_line(message.partition(chr(10))[0] if listed else message)}")
    for each in listed:
        print_message(f"  {one_line(str(each))}")
    if hint:
        print_message(f"  -> {one_line(hint)}")


def write(answer: Answer, *, as_json: bool, colour: bool = False) -> None:
    """Print an answer to standard output, in colour if wanted.

    Raises:
        BrokenPipeError: The reader went away.
        OSError: It is closed, or its disk is full.
    """
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed", "standard output")
    if answer.raw is not None:
        sys.stdout.buffer.write(answer.raw)
        sys.stdout.buffer.flush()
    elif as_json:
        import json  # noqa: PLC0415 - only --json needs it

        text = json.dumps(dict(answer.document))
        # Half of a surrogate pair: a byte of a name that is no UTF-8, which other readers of JSON refuse.
        click.echo(json.dumps(encodable(answer.document)) if "\\udc" in text else text)
    else:
        for line in answer.lines:
            for text in page.fit(render.plain(line)):
                click.echo(paint(line, text) if colour else text, color=colour)


def write_or_warn(answer: Answer, *, as_json: bool, colour: bool = False) -> ExitCode:
    """Print an answer and return its exit code: that of what was done, whoever can read it.

    A reader that went away is no error: it has read what it wanted.

    Raises:
        OSError: The answer cannot be printed, and it was all that the command was for.
    """
    try:
        write(answer, as_json=as_json, colour=colour)
    except BrokenPipeError:
        discard_output()  # a reader that has seen enough, such as `head`, makes no NO-GO a GO
    except OSError as error:
        discard_output()
        if not answer.lasting and answer.code is ExitCode.DONE:
            raise OSError(error.errno, error.strerror, "standard output") from error
        print_message(f"c10: warning: the answer could not be printed on standard output: {error.strerror}")
    return answer.code


def one_line(text: str) -> str:
    """Return a text as one line."""
    return " ".join(text.split())
