"""`replay`, `diff` and `why`: what the journal tells of its builds. They read, and write nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tools.analysis import replay_text
from tools.analysis.replay_document import compared
from tools.analysis.replay_document import replay as told
from tools.analysis.why import why as explanation
from tools.command import Answer, Call, shared_options
from tools.forensics.history import Look, Source
from tools.forensics.sources import from_bundle, from_cache, from_journal
from tools.output import render

Command = TypeVar("Command", bound=Callable[..., Any])


def source_options(command: Command) -> Command:
    """Give a command the options that say where its records come from."""
    bundle = click.option(
        "--bundle",
        type=click.Path(path_type=Path, readable=False),
        metavar="FILE",
        help="A bundle, in place of a cache.",
    )
    journal = click.option(
        "--journal",
        type=click.Path(path_type=Path, readable=False),
        metavar="FILE",
        help="A copied journal.mdb, in place of a cache.",
    )
    return journal(bundle(command))


def chosen_source(call: Call, journal: Path | None, bundle: Path | None) -> Source:
    """Read what the options name.

    Raises:
        click.UsageError: They name two things, or nothing.
    """
    if journal is not None and bundle is not None:
        raise click.UsageError("expected --journal or --bundle, found both")
    if journal is not None:
        return from_journal(journal)
    if bundle is not None:
        return from_bundle(bundle)
    return from_cache(call.layout())


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
    source = chosen_source(call, journal, bundle)
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


@click.command()
@click.argument("a", type=click.IntRange(1))
@click.argument("b", type=click.IntRange(1))
@source_options
@shared_options()
def diff(call: Call, *, a: int, b: int, journal: Path | None, bundle: Path | None) -> Answer:
    """Hold build B against build A: inputs, artifacts, checks, timings, host, tiles."""
    document = compared(Look(source=chosen_source(call, journal, bundle)), a, b)
    return Answer(document=document, lines=replay_text.diff_lines(document))


@click.command()
@click.argument("subject")
@click.option(
    "--build", "number", type=click.IntRange(1), metavar="BUILD", help="Of which build; the one shown."
)
@source_options
@shared_options()
def why(call: Call, *, subject: str, number: int | None, journal: Path | None, bundle: Path | None) -> Answer:
    """Explain SUBJECT: a step (build, engine/NAME, cells, index, tiles), an artifact, a tile.

    A step: which component of its key changed, since which build. An artifact, by 8 or more digits: what made it. A tile, as
    zoom/x/y or descriptor id: from its row of the index to engine, network and calibration.
    """
    document = explanation(chosen_source(call, journal, bundle), subject, number=number)
    return Answer(document=document, lines=replay_text.why_lines(document))
