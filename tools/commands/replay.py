"""`replay`: what happened in a build, and why it failed."""

from pathlib import Path

import click

from tools.analysis import replay_text
from tools.analysis.replay_document import replay as told
from tools.command import Answer, Call, shared_options
from tools.output import render
from tools.record_source import read_source, source_options


@click.command()
@click.argument("build", metavar="[BUILD | @RECORD]", required=False)
@click.option("--at", type=click.IntRange(1), metavar="RECORD", help="As it was after this record.")
@click.option("--all", "whole", is_flag=True, help="Every record of the timeline.")
@click.option("--rerun", "again", is_flag=True, help="Run the failed step again, and tell what comes of it.")
@click.option("--trust-plugins", is_flag=True, help="With --rerun: load libraries that the request names.")
@source_options
@shared_options()
def replay(
    call: Call,
    *,
    build: str | None,
    at: int | None,
    whole: bool,
    again: bool,
    trust_plugins: bool,
    journal: Path | None,
    bundle: Path | None,
) -> Answer:
    """Tell what happened in a build: timeline, findings, and what failed on which inputs.

    Without BUILD, the newest that did not end in a commit. --rerun executes the recorded network and decodes the recorded
    tiles, in processes of their own: take it to bundles of people you trust.
    """
    if again and at is not None:
        raise click.UsageError("expected --rerun or --at, found both")
    if trust_plugins and not again:
        raise click.UsageError("expected --rerun with --trust-plugins, found it alone")
    source = read_source(call, journal, bundle)
    document = told(source, word=build, at=at)
    if again:
        from tools.analysis.rerun import rerun_lines, run_again  # noqa: PLC0415 - a look at a build starts without engines

        document["rerun"] = run_again(source, document["build"], trust_plugins=trust_plugins)
        shown = [
            *render.wrap(document["summary"]),
            *render.section("Run again", rerun_lines(document["rerun"])),
        ]
        return Answer(document=document, lines=shown)
    return Answer(document=document, lines=replay_text.replay_lines(document, whole=whole))
