"""The options that say where the records of a replay come from: a cache, a copied journal or a bundle."""

from pathlib import Path

import click

from tools.command import Call, Command
from tools.forensics.history import Source
from tools.forensics.sources import from_bundle, from_cache, from_journal


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


def read_source(call: Call, journal: Path | None, bundle: Path | None) -> Source:
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
