"""`status`: the current generation of the cache. It runs most often, so it imports as little as possible."""

import click

from store.cache.view import View, open_view
from store.domain.events import IndexExtended
from store.domain.state import Build, BuildStatus, Generation
from tools.command import Answer, Call, shared_options
from tools.output import render


@click.command()
@shared_options()
def status(call: Call) -> Answer:
    """Show the current generation of the cache."""
    view = open_view(call.layout())
    state, head = view.state, view.state.head
    build = state.head_build
    document = {
        "generation": head.number if head else None,
        "build": head.origin if head else None,
        "identity": build.identity if build else None,
        "manifest_sha256": head.manifest_sha256 if head else None,
        "body_sha256": head.body_sha256 if head else None,
        "chain": view.head.chain.hex(),
        "seq": view.head.seq,
        "open_build": state.open_build,
    }
    return Answer(document=document, lines=[*_head_lines(view, head, build), *_journal_lines(view)])


def _head_lines(view: View, head: Generation | None, build: Build | None) -> list[str]:
    if head is None or build is None:
        return render.fields(("cache", view.layout.root), ("generation", "none committed yet"))
    inputs, tiles = build.inputs, build.tiles
    shows = f"{head.number}, shows build {head.origin}"
    if head.rolled_back is not None:
        why = f": {head.rolled_back.why}" if head.rolled_back.why else ""
        shows += f" (rolled back from build {head.rolled_back.left}{why})"
    zooms = "-".join(str(zoom) for zoom in dict.fromkeys(inputs.get("zoom", ())))
    return render.fields(
        ("cache", view.layout.root),
        ("generation", shows),
        ("flight", f"{inputs.get('flight_id')} ({inputs.get('sector')})"),
        ("tiles", f"{render.number(tiles.count)} at zoom {zooms}" if tiles else None),
        ("area", _area(build)),
        ("index", _index(build)),
        ("committed", f"{render.when(head.wall_ns)} UTC"),
        ("identity", build.identity),
        ("manifest", head.manifest_sha256),
        ("signed by", ", ".join(key_id for key_id, _ in head.signatures) or None),
    )


def _index(build: Build) -> str | None:
    index = build.index
    if index is None:
        return None
    shown = f"{index.kind}, {index.dimensions} dimensions"
    if isinstance(index, IndexExtended):
        shown += f", and beside it {index.added:,} added and {index.dropped:,} left out"
    return shown


def _area(build: Build) -> str | None:
    area = build.coverage
    if area is None:
        return None
    parts = [f"{render.number(area.present)} of {render.number(area.wanted)} wanted tiles"]
    parts += [
        f"{count:,} {what}"
        for count, what in ((area.featureless, "featureless"), (area.skipped, "skipped"))
        if count
    ]
    return ", ".join(parts)


def _journal_lines(view: View) -> list[str]:
    state = view.state
    last = state.builds.get(len(state.builds))
    lately = None
    if last is not None and last.status is not BuildStatus.COMMITTED:
        doing = (
            f" at {last.failure.step if last.failure else last.doing}" if last.failure or last.doing else ""
        )
        status = str(last.status)
        if last.status is BuildStatus.OPEN:
            from journal.lock import lock_holder  # noqa: PLC0415 - slow, and rarely needed

            status = "died" if lock_holder(view.layout.build_lock) is None else status
        lately = f"build {last.number} {status}{doing}; c10 show {last.number}"
    return render.fields(
        ("journal", f"{render.plural(view.head.seq, 'record')}, chain {view.head.chain.hex()[:16]}"),
        ("lately", lately),
    )
