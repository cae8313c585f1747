"""`show`: everything the journal says of one build."""

from typing import Any

import click

from store.base.canonical_json import CanonicalError, decode
from store.cache.view import View, read_history
from store.disk.artifacts import Artifacts
from store.domain.state import Build
from store.errors import ErrorKind, RequestRefusedError, StoreError
from tools.command import Answer, Call, shared_options
from tools.output import build_view


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
    facts = [fact for fact in view.facts if fact.build == number]
    document = build_view.document_of(view.state, build, facts) | {"area": _report(view, build)}
    return Answer(document=document, lines=build_view.lines_of(document))


def _report(view: View, build: Build) -> dict[str, Any] | None:
    """The geographic report of a build; nothing if it has none, or its file is not whole."""
    if build.coverage is None:
        return None
    try:
        found = decode(Artifacts(view.layout).read(build.coverage.geography))
    except (StoreError, CanonicalError):
        return None
    return found if isinstance(found, dict) else None
