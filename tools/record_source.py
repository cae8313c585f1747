"""Options that say where records are read from: a cache, a copied journal or a bundle."""

from pathlib import Path

import click

from tools.command import PATH, Call, Command
from tools.forensics.history import Source
from tools.forensics.sources import from_bundle, from_cache, from_journal


def source_options(command: Command) -> Command:
    """Give a command the options that say where its records are read from."""
    bundle = click.option(
        "--bundle",
        type=PATH,
        metavar="FILE",
        help="Read a bundle, not a cache.",
    )
    journal = click.option(
        "--journal",
        type=PATH,
        metavar="FILE",
        help="Read a copied journal.mdb, not a cache.",
    )
    return journal(bundle(command))


def read_source(call: Call, journal: Path | None, bundle: Path | None) -> Source:
    """Open the source that the options name.

    Raises:
        click.UsageError: They name two sources, or none.
    """
    if journal is not None and bundle is not None:
        raise click.UsageError("expected --journal or --bundle, found both")
    if journal is not None:
        return from_journal(journal)
    if bundle is not None:
        return from_bundle(bundle)
    return from_cache(call.layout())
