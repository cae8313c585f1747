"""`show`: everything the journal says of one build."""

from pathlib import Path
from typing import Any

import click

from store.base.canonical_json import CanonicalError, decode
from store.domain.state import Build
from store.errors import ErrorKind, RequestRefusedError
from tools.analysis.show_document import show_document
from tools.analysis.show_text import show_lines
from tools.command import NUMBER, Answer, Call, shared_options
from tools.forensics.build_facts import BuildFacts
from tools.forensics.failure import ArtifactReader
from tools.record_source import read_records, source_options


@click.command()
@click.argument("number", metavar="[BUILD]", type=NUMBER, required=False)
@source_options
@shared_options()
def show(call: Call, *, number: int | None, journal: Path | None, bundle: Path | None) -> Answer:
    """Show one build: its identity, inputs, plan, steps, checks and failure. Default: the newest build."""
    found = read_records(call, journal, bundle)
    newest = len(found.state.builds)
    if number is None and not newest:
        raise RequestRefusedError(
            "expected a build to show, found none",
            kind=ErrorKind.NO_GENERATION,
            hint="c10 build REQUEST --cache DIR",
        )
    number = newest if number is None else number
    build = found.state.builds.get(number)
    if build is None:
        raise RequestRefusedError(
            f"expected a build from 1 to {newest}, found {number}",
            kind=ErrorKind.UNKNOWN_BUILD,
            hint=found.listing,
        )
    records = [record for record in found.records if record.build == number]
    facts = BuildFacts(number=number, state=found.state, records=records)
    document = show_document(facts, build) | {"area": _area_report(found.artifacts, build)}
    if found.died == number:
        document["status"] = "died"
    return Answer(document=document, lines=show_lines(document))


def _area_report(artifacts: ArtifactReader, build: Build) -> dict[str, Any] | None:
    """Return the geographic report of a build; None if it has none, or its file is damaged."""
    if build.coverage is None:
        return None
    data = artifacts.read(build.coverage.geography)
    try:
        found = decode(b"" if data is None else data)
    except CanonicalError:
        return None
    return found if isinstance(found, dict) else None
