"""`replay`: what happened in a build, and why it failed."""

from pathlib import Path

import click

from store.base.clock import SystemClock, utc_day
from tools.analysis import replay_text
from tools.analysis.replay_document import replay as replay_document
from tools.command import NUMBER, Answer, Call, shared_options
from tools.output import render
from tools.record_source import read_source, source_options


@click.command()
@click.argument("build", metavar="[BUILD | @RECORD]", required=False)
@click.option("--at", type=NUMBER, metavar="RECORD", help="Show the state after this record.")
@click.option("--all", "whole", is_flag=True, help="Show every record of the timeline.")
@click.option("--rerun", "run_step", is_flag=True, help="Run the failed step again and report the result.")
@click.option(
    "--trust-plugins", is_flag=True, help="With --rerun: load the libraries that the request names."
)
@source_options
@shared_options()
def replay(
    call: Call,
    *,
    build: str | None,
    at: int | None,
    whole: bool,
    run_step: bool,
    trust_plugins: bool,
    journal: Path | None,
    bundle: Path | None,
) -> Answer:
    """Show what happened in a build: timeline, findings, and what failed on which inputs.

    Default: the newest build that was not committed. --rerun executes the recorded network and decodes the
    recorded tiles, in separate processes: use it only on bundles from people you trust.
    """
    if run_step and at is not None:
        raise click.UsageError("expected --rerun or --at, found both")
    if trust_plugins and not run_step:
        raise click.UsageError("expected --rerun with --trust-plugins, found it alone")
    source = read_source(call, journal, bundle)
    document = replay_document(source, word=build, at=at, today=utc_day(SystemClock()))
    if run_step:
        from tools.analysis.rerun import rerun_lines, run_again  # noqa: PLC0415 - imports the engines

        document["rerun"] = run_again(source, document["build"], trust_plugins=trust_plugins)
        shown = [
            *render.wrap(document["summary"]),
            *render.section("Run again", rerun_lines(document["rerun"])),
        ]
        return Answer(document=document, lines=shown)
    return Answer(document=document, lines=replay_text.replay_lines(document, whole=whole))
