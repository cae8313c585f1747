"""The command `c10`: its table of commands, and the only place that reads the environment.

A command is imported when it is called, so that reading a cache does not wait for the libraries that a build
needs.
"""

import gc
import importlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from store.base.valueclass import valueclass
from store.errors import TranslateShortages, import_takes
from tools import command, error_report, process
from tools.exit_codes import MEANINGS, ExitCode
from tools.output import page
from tools.output.colour import wants_colour
from tools.output.terminal import columns_of

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

WITHOUT_NUMPY: Final = frozenset({"accept", "doctor", "keygen", "log", "manifest", "show", "status"})
"""Commands whose modules do not import NumPy, and so start also where there is no room for it."""


@valueclass(frozen=True, slots=True)
class _Entry:
    """A command as the help and the errors know it, without importing it.

    Attributes:
        summary: What it does, in one line.
        shape: The keys that `--json` prints, before anything is known.
        module: Where it is, if not in `tools.commands` under its own name.
        function: What it is called there, if not by its own name.
    """

    summary: str
    shape: Mapping[str, Any] = field(default_factory=dict)
    module: str = ""
    function: str = ""

    def load(self, name: str) -> click.Command:
        """Import the command."""
        takes = 0 if name in WITHOUT_NUMPY else import_takes("numpy")
        with TranslateShortages(f"c10 {name}", takes=takes):
            module = importlib.import_module(self.module or f"tools.commands.{name}")
        found: click.Command = getattr(module, self.function or name)
        return found


def _keys(names: str, value: int | None = None) -> dict[str, int | None]:
    return dict.fromkeys(names.split(), value)


_SECTIONS: Final[Mapping[str, Mapping[str, _Entry]]] = {
    "Build": {
        "init": _Entry(
            "Write a request with comments for imagery that you have.",
            _keys("path calibration bbox zoom metres_per_pixel captured tiles wanted coverage"),
        ),
        "build": _Entry(
            "Build a flight cache; do nothing if it is there already.",
            {
                "outcome": "failed",
                **_keys("build generation identity manifest_sha256 body_sha256"),
                **_keys(
                    "tiles wanted engines_compiled tiles_embedded chunks chunks_embedded chunks_copied", 0
                ),
                **_keys("steps_reused files_checked writes seconds", 0),
                **_keys("error warnings missing holes localisable featureless skipped"),
            },
        ),
        "plan": _Entry(
            "Say what a build would do, and why, without doing it.",
            _keys("identity decision steps tiles wanted to_embed chunks levels seconds bytes warnings"),
        ),
        "rollback": _Entry(
            "Go back to an earlier build, as a new generation.",
            _keys("generation build previous_build changed manifest_sha256 body_sha256 forward warnings"),
        ),
        "engines": _Entry("Compile the networks only; do not wait for a build.", {"engines": []}),
    },
    "Keep": {
        "accept": _Entry(
            "Mark a generation as good, so that gc keeps it.", _keys("generation build changed accepted")
        ),
        "gc": _Entry(
            "List what no kept generation needs; --yes removes it.",
            _keys("done policy kept kept_files collected_generations removed projections files bytes"),
            module="tools.commands.collect_garbage",
        ),
    },
    "Read (never writes)": {
        "status": _Entry(
            "Show the current generation of the cache.",
            _keys(
                "generation build identity manifest_sha256 body_sha256 chain seq open_build flight_id sector "
                "tiles zoom levels wanted localisable featureless skipped index carried_bytes proof committed "
                "engines bbox captured rolled_back signed_by lately readiness warnings"
            ),
        ),
        "log": _Entry("List every build and rollback, newest first.", _keys("entries")),
        "show": _Entry(
            "Show one build: inputs, plan, steps, checks, failure.",
            _keys("build status identity inputs plan steps checks failure"),
        ),
        "manifest": _Entry("Print the head's manifest file, byte for byte."),
        "query": _Entry("Find where a picture was taken: search the index.", _keys("hits")),
    },
    "Investigate (never writes)": {
        "replay": _Entry(
            "Show what happened in a build, and why it failed.",
            _keys(
                "format source build at status summary identity flight_id sector generations accepted "
                "collected started ended ms inputs host request failure findings steps timeline "
                "timeline_cut checks keys area cost state compare verified"
            ),
        ),
        "report": _Entry(
            "Write the same as an HTML page with a map and pictures.",
            _keys("path bytes build at status summary"),
        ),
        "diff": _Entry(
            "Compare two builds.",
            _keys("source format a b same_identity inputs host artifacts checks steps tiles cost"),
        ),
        "why": _Entry(
            "Explain why a step ran, or what an artifact was made from.",
            _keys("format source subject build keys decisions artifact chain text"),
        ),
    },
    "Check (never writes)": {
        "verify": _Entry(
            "Check the cache: GO or NO-GO, and everything that is wrong.",
            _keys("go depth generation build identity problems warnings readiness"),
        ),
        "prove": _Entry(
            "Find photographs of known places; say how often that is right.",
            _keys("pictures within median_m margin answers warnings"),
        ),
        "doctor": _Entry(
            "Check this machine, its packages and the cache.", _keys("ok machine packages cache problems")
        ),
    },
    "Repair": {
        "repair": _Entry(
            "Repair what is damaged; keep the damaged bytes.",
            _keys("go generation dry_run repairs left problems"),
        ),
        "rebuild": _Entry(
            "Rebuild the journal from its segments.",
            _keys(
                "go generation records salvaged segments_replaced quarantine signatures "
                "signatures_left repairs left problems"
            ),
        ),
    },
    "Transfer": {
        "export": _Entry(
            "Write records, and artifacts by choice, to one file.",
            _keys("file sha256 bytes cache_id build records chain artifacts held missing"),
        ),
        "import": _Entry(
            "Create a cache from such a file, or update one.",
            _keys("outcome cache_id generation build manifest_sha256 records artifacts sha256"),
            module="tools.commands.import_",
            function="import_",
        ),
        "have": _Entry(
            "Print what a cache has, so that export leaves it out.",
            _keys("format cache_id records chain lacks extra"),
        ),
        "mirror": _Entry(
            "Update a read-only copy, for example on a card.",
            _keys("destination changed generation previous files bytes replaced"),
        ),
    },
    "Keys": {
        "keygen": _Entry(
            "Create a key pair: one to sign with, one to trust.", _keys("key_id public_key private public")
        ),
        "sign": _Entry(
            "Sign a generation that is already committed.",
            _keys("generation build key_id changed signed_by manifest_sha256"),
        ),
    },
    "Learn": {
        "schema": _Entry("Print the JSON Schema of requests, settings or an answer in JSON."),
        "demo": _Entry(
            "See all of it work on made-up terrain, in a minute.",
            _keys("ok seconds"),
            module="tools.demo.demo",
        ),
    },
}
_COMPLETE: Final = "_C10_COMPLETE"
"""The variable with which a shell asks for completions; its name is click's."""

_COMMANDS: Final = {name: entry for section in _SECTIONS.values() for name, entry in section.items()}


class _C10(click.Group):
    """Load commands by name, and turn every error into an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands, in the order of the help."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import one command."""
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        try:
            found = entry.load(cmd_name)
            # Imported objects live until the process ends: keep garbage collections from looking through them.
            gc.freeze()
        finally:
            gc.enable()
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the first word; propose the nearest one for a word that is none."""
        word = args[0]
        if word in _COMMANDS or word.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        import difflib  # noqa: PLC0415 - only errors need it

        near = difflib.get_close_matches(word.lower(), _COMMANDS, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise click.UsageError(f"expected a command, found {word!r}{meant}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """Write the commands by section, without importing any."""
        for title, entries in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<9}", entry.summary) for name, entry in entries.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """Write the exit codes."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(f"{code:<9d}", meaning) for code, meaning in MEANINGS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Return the commands that begin so, without importing any, or else the options."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only shells that complete need it

        names = [name for name in _COMMANDS if name.startswith(incomplete)]
        items = [CompletionItem(name, help=_COMMANDS[name].summary) for name in names]
        return items or click.Command.shell_complete(self, ctx, incomplete)

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,  # noqa: ARG002 - it has one name, however it was started
        **extra: Any,  # noqa: ANN401, ARG002 - click's signature
    ) -> NoReturn:
        """Run a command and leave with its exit code."""
        words = sys.argv[1:] if args is None else list(args)
        if words[:1] == ["help"]:  # as git and cargo have it
            words = [*words[1:2], "--help"]
        name = next((word for word in words if word in _COMMANDS), "")
        entry = _COMMANDS.get(name)
        as_json, columns = "--json" in words, columns_of(sys.stdout)
        process.prepare_streams()
        if instruction := os.environ.get(_COMPLETE):
            from click.shell_completion import shell_complete  # noqa: PLC0415 - as above

            raise SystemExit(shell_complete(self, {}, "c10", _COMPLETE, instruction))
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A character that the terminal cannot encode must not make a finished command fail.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            # Not click's own `main`: it makes one error of Ctrl-C and signals, and prints an empty line.
            with (
                process.signals_as_errors(),
                page.laid_out_for(columns),
                self.make_context(
                    "c10",
                    [*words],
                    obj=dict(os.environ),
                    # By itself click lays its help out for at least 50 columns.
                    terminal_width=None if columns is None else min(columns, page.WIDTH) - 2,
                ) as context,
            ):
                answer = self.invoke(context)
                terminal = sys.stdout is not None and sys.stdout.isatty()
                colour = wants_colour(os.environ, terminal=terminal)
                code = command.write_or_warn(answer, as_json=as_json, colour=colour)
        except click.exceptions.Exit as leaving:
            code = ExitCode(leaving.exit_code)
        except BaseException as error:  # noqa: BLE001 - the last place that can report it
            if isinstance(error, BrokenPipeError) and process.has_lost_reader():  # of the help or the version
                process.discard_output()
                code = ExitCode.DONE
            else:
                shape = entry.shape if entry else {}
                code = error_report.report_error(error, shape=shape, as_json=as_json, command=name)
        process.exit_with(code)


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's
    if wanted and not context.resilient_parsing:
        from importlib import metadata  # noqa: PLC0415 - a quarter of the time of `c10 status`

        try:
            version = metadata.version("c10")
        except metadata.PackageNotFoundError:
            version = "from source, not installed"
        click.echo(f"c10 {version}")
        context.exit()


@click.group(
    cls=_C10,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    invoke_without_command=True,
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(context: click.Context) -> command.Answer | None:
    """Build flight caches for drones that find their place by looking down.

    A build is a transaction: readers see all of it or nothing, and every step of it stays in the cache's
    journal. To see it work: c10 demo
    """
    if context.invoked_subcommand is None:
        command.print_message(context.get_help())
        return command.Answer(code=ExitCode.REFUSED)
    return None


def main() -> NoReturn:
    """Run the command line, in a process that ends with it."""
    _use_utf8()
    try:
        cli.main()
    finally:
        # The memory is returned as a whole when the process ends. Freeing every object first would take a
        # sixth of the time of a build that finds nothing to do.
        gc.freeze()


def _use_utf8() -> None:
    """Start this process again in Python's UTF-8 mode, and its children too, where the locale has another encoding.

    Requests and records are UTF-8, and the paths in them could not be opened as they are.
    """
    if sys.flags.utf8_mode or sys.getfilesystemencoding() == "utf-8" or not sys.executable:
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
