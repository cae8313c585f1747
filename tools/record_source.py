"""Options that say where records are read from: a cache, a copied journal or a bundle."""

from collections.abc import Sequence
from pathlib import Path

import click

from store.base.valueclass import valueclass
from store.cache.view import died_build, read_history
from store.disk.artifacts import Artifacts
from store.disk.repair_commands import listing
from store.domain.state import State
from tools.command import PATH, Call, Command, print_message
from tools.forensics.failure import ArtifactReader
from tools.forensics.history import BuildHistory, Source
from tools.forensics.records import DecodedRecord
from tools.forensics.sources import CacheArtifacts, from_bundle, from_cache, from_journal


@valueclass(frozen=True, slots=True, kw_only=True)
class FoldedRecords:
    """The records of a source and what they fold to.

    Attributes:
        died: The build whose process ended without recording an end, if that is known.
        listing: The command that lists the builds.
    """

    state: State
    records: Sequence[DecodedRecord]
    artifacts: ArtifactReader
    died: int | None
    listing: str


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
    given = {"--journal": journal is not None, "--bundle": bundle is not None, "--cache": _is_cache_typed()}
    if sum(given.values()) > 1:
        found = " and ".join(name for name, is_given in given.items() if is_given)
        raise click.UsageError(f"expected one of --cache, --journal and --bundle, found {found}")
    if journal is not None:
        return from_journal(journal)
    if bundle is not None:
        return from_bundle(bundle)
    return from_cache(call.layout())


def _is_cache_typed() -> bool:
    """Whether the command line names a cache; the variable does not count, it only stands in for the option."""
    source = click.get_current_context().get_parameter_source("cache")
    return source is click.core.ParameterSource.COMMANDLINE


def read_records(call: Call, journal: Path | None, bundle: Path | None) -> FoldedRecords:
    """Read and fold the records of the source that the options name.

    Of a cache, the journal must fit the files beside it. Of anything else, a mirror among it, what can be read is used, with a warning.

    Raises:
        click.UsageError: They name two sources, or none.
    """
    if journal is None and bundle is None and not call.layout().is_mirror():
        view = read_history(call.layout())
        return FoldedRecords(
            state=view.state,
            records=[DecodedRecord.of(fact) for fact in view.facts],
            artifacts=CacheArtifacts(Artifacts(view.layout)),
            died=died_build(view),
            listing=listing(view.layout),
        )
    source = read_source(call, journal, bundle)
    builds = BuildHistory(source=source).fold()
    for problem in filter(None, (source.history.problem, builds.folded.problem)):
        print_message(f"c10: warning: {problem}")
    return FoldedRecords(
        state=builds.state,
        records=source.history.records,
        artifacts=source.artifacts,
        died=builds.state.open_build if source.lock_held is False else None,
        listing=f"c10 log{source.option}",
    )
