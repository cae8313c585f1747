"""`show`: everything the journal says of one build."""

from typing import Any

import click

from store.base.canonical_json import CanonicalError, decode
from store.cache.view import View, read_history
from store.disk.artifacts import Artifacts
from store.domain.state import Build
from store.errors import ErrorKind, RequestRefusedError, StoreError
from tools.analysis.show_document import show_document
from tools.analysis.show_text import show_lines
from tools.command import Answer, Call, shared_options
from tools.forensics.build_facts import BuildFacts
from tools.forensics.records import DecodedRecord


@click.command()
@click.argument("number", metavar="BUILD", type=click.IntRange(1))
@shared_options()
def show(call: Call, *, number: int) -> Answer:
    """Show one build: its identity, inputs, plan, steps, checks and failure."""
    view = read_history(call.layout())
    build = view.state.builds.get(number)
    if build is None:
        raise RequestRefusedError(
            f"expected a build from 1 to {len(view.state.builds)}, found {number}",
            kind=ErrorKind.UNKNOWN_GENERATION,
            hint=f"c10 log --cache {call.root}",
        )
    records = [DecodedRecord.of(fact) for fact in view.facts if fact.build == number]
    facts = BuildFacts(number=number, state=view.state, records=records)
    document = show_document(facts, build) | {"area": _area_report(view, build)}
    return Answer(document=document, lines=show_lines(document))


def _area_report(view: View, build: Build) -> dict[str, Any] | None:
    """Return the geographic report of a build; None if it has none, or its file is damaged."""
    if build.coverage is None:
        return None
    try:
        found = decode(Artifacts(view.layout).read(build.coverage.geography))
    except (StoreError, CanonicalError):
        return None
    return found if isinstance(found, dict) else None
