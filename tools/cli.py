"""The command `c10`: its table of commands, and the one place that reads the environment.

Commands are imported when they are called, so that a look at a cache does not wait for the libraries that a build
needs.
"""

import gc
import importlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import click

from tools import command
from tools.exit_codes import MEANINGS, ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A command: where it is, what it does in one line, and what its JSON looks like before anything is known.

    `function` is its name in the module where that is not the command's own.
    """

    module: str
    summary: str
    function: str = ""
    shape: Mapping[str, Any] = field(default_factory=dict)


def _nulls(*names: str) -> dict[str, None]:
    return dict.fromkeys(names)


def _zeros(*names: str) -> dict[str, int]:
    return dict.fromkeys(names, 0)


_SECTIONS: Final[Mapping[str, Mapping[str, _Entry]]] = {
    "Build": {
        "build": _Entry(
            module="tools.commands.build",
            summary="Build a flight cache, or find that it is built already.",
            shape={
                "outcome": "failed",
                **_nulls("build", "generation", "identity", "manifest_sha256", "body_sha256"),
                **_zeros("tiles", "engines_compiled", "tiles_embedded", "steps_reused", "files_checked"),
                **_zeros("writes", "seconds"),
            },
        ),
        "plan": _Entry(
            module="tools.commands.build",
            summary="Say what a build would do, and why; do nothing.",
            shape=_nulls("identity", "decision", "steps", "tiles", "wanted", "to_embed", "warnings"),
        ),
        "rollback": _Entry(
            module="tools.commands.build",
            summary="Go back to an earlier build, as a new generation.",
            shape=_nulls(
                "generation", "build", "previous_build", "changed", "manifest_sha256", "body_sha256"
            ),
        ),
        "engines": _Entry(
            module="tools.commands.engines",
            summary="Compile the networks alone, beside whatever runs.",
            shape={"engines": []},
        ),
    },
    "Keep": {
        "accept": _Entry(
            module="tools.commands.accept",
            summary="Mark a generation as good, so that it is kept.",
            shape=_nulls("generation", "build", "changed", "accepted"),
        ),
        "gc": _Entry(
            module="tools.commands.collect_garbage",
            summary="Say what no kept generation needs; remove it with --yes.",
            shape=_nulls(
                "done",
                "policy",
                "kept",
                "kept_files",
                "collected_generations",
                "removed",
                "projections",
                "files",
                "bytes",
            ),
        ),
    },
    "Look (never writes)": {
        "status": _Entry(
            module="tools.commands.status",
            summary="What the cache shows now.",
            shape=_nulls(
                "generation",
                "build",
                "identity",
                "manifest_sha256",
                "body_sha256",
                "chain",
                "seq",
                "open_build",
            ),
        ),
        "log": _Entry(
            module="tools.commands.log",
            summary="Every build and rollback, newest first.",
            shape=_nulls("entries"),
        ),
        "show": _Entry(
            module="tools.commands.log",
            summary="One build: inputs, plan, steps, checks, failure.",
            shape=_nulls("build", "status", "identity", "inputs", "plan", "steps", "checks", "failure"),
        ),
        "manifest": _Entry(
            module="tools.commands.log", summary="Print the head's manifest file, byte for byte."
        ),
        "query": _Entry(
            module="tools.commands.query",
            summary="Where was this picture taken? Search the index.",
            shape=_nulls("hits"),
        ),
    },
    "Look into (never writes)": {
        "replay": _Entry(
            module="tools.commands.replay",
            summary="What happened in a build, and why it failed.",
            shape=_nulls(
                *("format", "source", "build", "at", "status", "summary", "identity", "flight_id", "sector"),
                *(
                    "generations",
                    "accepted",
                    "collected",
                    "started",
                    "ended",
                    "ms",
                    "inputs",
                    "host",
                    "request",
                ),
                *(
                    "failure",
                    "findings",
                    "steps",
                    "timeline",
                    "timeline_cut",
                    "checks",
                    "keys",
                    "area",
                    "cost",
                ),
                *("state", "compare", "verified"),
            ),
        ),
        "report": _Entry(
            module="tools.commands.report",
            summary="The same as a page to look at: map, replay, inputs.",
            shape=_nulls("path", "bytes", "build", "at", "status", "summary"),
        ),
        "diff": _Entry(
            module="tools.commands.replay",
            summary="Two builds side by side.",
            shape=_nulls(
                *("source", "format", "a", "b", "same_identity", "inputs", "host", "artifacts", "checks"),
                *("steps", "tiles", "cost"),
            ),
        ),
        "why": _Entry(
            module="tools.commands.replay",
            summary="Why a step ran; where an artifact or tile comes from.",
            shape=_nulls(
                *("format", "source", "subject", "build", "keys", "decisions", "artifact", "chain", "text"),
            ),
        ),
    },
    "Trust (never writes)": {
        "verify": _Entry(
            module="tools.commands.verify",
            summary="GO or NO-GO, with everything that is wrong.",
            shape=_nulls("go", "depth", "generation", "build", "identity", "problems"),
        ),
        "doctor": _Entry(
            module="tools.commands.doctor",
            summary="What this machine and cache are fit for.",
            shape=_nulls("ok", "machine", "packages", "cache", "problems"),
        ),
    },
    "Mend": {
        "repair": _Entry(
            module="tools.commands.repair",
            summary="Heal what is damaged; keep the evidence.",
            shape=_nulls("go", "generation", "dry_run", "repairs", "left", "problems"),
        ),
        "rebuild": _Entry(
            module="tools.commands.rebuild",
            summary="Make the journal again from its segments.",
            shape=_nulls(
                *("go", "generation", "records", "salvaged", "segments_replaced", "quarantine"),
                *("signatures", "signatures_left", "repairs", "left", "problems"),
            ),
        ),
    },
    "Carry": {
        "export": _Entry(
            module="tools.commands.transfer",
            summary="Records, and artifacts by choice, in one file.",
            shape=_nulls(
                *("file", "sha256", "bytes", "cache_id", "build", "records", "chain", "artifacts", "missing")
            ),
        ),
        "import": _Entry(
            module="tools.commands.transfer",
            function="import_",
            summary="Make a cache of such a file, or bring one up to it.",
            shape=_nulls(
                *("outcome", "cache_id", "generation", "build", "manifest_sha256", "records"),
                *("artifacts", "sha256"),
            ),
        ),
        "mirror": _Entry(
            module="tools.commands.transfer",
            summary="Bring a read-only copy, such as a card, to the head.",
            shape=_nulls("destination", "changed", "generation", "previous", "files", "bytes", "replaced"),
        ),
    },
    "Keys": {
        "keygen": _Entry(
            module="tools.commands.keygen",
            summary="Make a key to sign caches with, and one to trust.",
            shape=_nulls("key_id", "public_key", "private", "public"),
        ),
        "sign": _Entry(
            module="tools.commands.sign",
            summary="Sign a generation that is committed already.",
            shape=_nulls("generation", "build", "key_id", "changed", "signed_by", "manifest_sha256"),
        ),
    },
    "Learn": {
        "demo": _Entry(
            module="tools.demo.demo",
            summary="See all of it work on made-up terrain, in a minute.",
            shape=_nulls("ok", "sections"),
        )
    },
}
_COMMANDS: Final = {name: entry for section in _SECTIONS.values() for name, entry in section.items()}


class _C10(click.Group):
    """Loads commands by name, and turns everything that can go wrong into an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names of all commands, in the order of the help."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import one command."""
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        # What is imported stays until the end; no collection, and the last one least of all, has to look through it.
        gc.disable()
        try:
            found: click.Command = getattr(importlib.import_module(entry.module), entry.function or cmd_name)
            gc.freeze()
        finally:
            gc.enable()
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """Write the commands by section, without importing any."""
        for title, entries in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<9}", entry.summary) for name, entry in entries.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """Write the exit codes."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(f"{code:<9d}", meaning) for code, meaning in MEANINGS.items()])

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,  # noqa: ARG002 - it has one name, however it was started
        **extra: Any,  # noqa: ANN401, ARG002 - click's signature
    ) -> NoReturn:
        """Run a command and leave with its exit code."""
        words = sys.argv[1:] if args is None else list(args)
        name = next((word for word in words if word in _COMMANDS), "")
        entry = _COMMANDS.get(name)
        as_json = "--json" in words
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A name that the terminal's encoding lacks must not end a command that is otherwise done.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            # Not through click's own `main`, which would turn both interruptions into one and print an empty line.
            with command.termination(), self.make_context("c10", [*words], obj=dict(os.environ)) as context:
                answer = self.invoke(context)
                command.write(answer, as_json=as_json)
                code = answer.code
        except click.exceptions.Exit as leaving:
            code = ExitCode(leaving.exit_code)
        except BrokenPipeError:
            command.abandon_output()
            code = ExitCode.DONE
        except BaseException as error:  # noqa: BLE001 - the last place where anything can be said about it
            shape = entry.shape if entry else {}
            code = command.report(error, shape=shape, as_json=as_json, command=name)
        command.leave(code)


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's
    if wanted and not context.resilient_parsing:
        from importlib import metadata  # noqa: PLC0415 - a quarter of what a look at a cache costs

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

    A build is a transaction: it shows whole or not at all, and every step of it stays in the cache's journal. A
    first look: c10 demo
    """
    if context.invoked_subcommand is None:
        command.say(context.get_help())
        return command.Answer(code=ExitCode.REFUSED)
    return None


def main() -> NoReturn:
    """Run the command line, in a process that ends with it."""
    try:
        cli.main()
    finally:
        # The memory goes back as a whole; to take it apart first would take a sixth of a command that finds nothing to do.
        gc.freeze()


if __name__ == "__main__":
    main()
