"""`status`: the current generation of the cache. It runs most often, so it imports as little as possible."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from store.base.clock import SystemClock, utc_day
from store.cache.view import View, died_build, open_view
from store.disk.artifacts import Artifacts
from store.disk.capture_dates import stored_capture_dates
from store.domain.events import IndexExtended
from store.domain.manifest_projection import project
from store.domain.proof import figures_of
from store.domain.state import BuildStatus
from store.manifest.manifest import parse
from store.trust.readiness import Readiness, judge
from store.trust.readiness_facts import Signature, facts_of_manifest
from tools.command import Answer, Call, shared_options
from tools.output import render
from tools.output.readiness import fields

_MILLION: Final = 1_000_000


@click.command()
@shared_options()
def status(call: Call) -> Answer:
    """Show the current generation of the cache."""
    view = open_view(call.layout())
    readiness = _readiness(view)
    document = {
        **_journal_facts(view),
        **_head_facts(view),
        "readiness": readiness.to_document() if readiness else None,
        "warnings": [each.to_document() for each in readiness.warnings] if readiness else [],
    }
    return Answer(document=document, lines=_lines(view.layout.root, document))


def _journal_facts(view: View) -> dict[str, Any]:
    head, build = view.state.head, view.state.head_build
    return {
        "generation": head.number if head else None,
        "build": head.origin if head else None,
        "identity": build.identity if build else None,
        "manifest_sha256": head.manifest_sha256 if head else None,
        "body_sha256": head.body_sha256 if head else None,
        "chain": view.head.chain.hex(),
        "seq": view.head.seq,
        "open_build": view.state.open_build,
        "lately": _last_build(view),
    }


def _head_facts(view: View) -> dict[str, Any]:
    """Return what the generation is that the head shows; every value is None if there is none."""
    head, build = view.state.head, view.state.head_build
    area, index = (build.coverage, build.index) if build else (None, None)
    rollback = head.rolled_back if head else None
    return {
        "flight_id": build.inputs.get("flight_id") if build else None,
        "sector": build.inputs.get("sector") if build else None,
        "tiles": build.tiles.count if build and build.tiles else None,
        "zoom": list(build.inputs.get("zoom", ())) if build else None,
        "levels": _levels(build.inputs) if build else None,
        "wanted": area.wanted if area else None,
        "localisable": area.localisable(chunks="chunks" in build.inputs) if build and area else None,
        "featureless": area.featureless if area else None,
        "skipped": area.skipped if area else None,
        "index": {
            "kind": index.kind,
            "dimensions": index.dimensions,
            "added": index.added if isinstance(index, IndexExtended) else 0,
            "dropped": index.dropped if isinstance(index, IndexExtended) else 0,
            "networks": _networks(build.inputs) if build else [],
        }
        if index
        else None,
        "carried_bytes": build.carried.size if build and build.carried else 0 if build else None,
        "proof": figures_of(build.proof) if build and build.proof else None,
        "committed": render.iso(head.wall_ns) if head else None,
        "rolled_back": {"left": rollback.left, "why": rollback.why} if rollback else None,
        "signed_by": [key_id for key_id, _ in head.signatures] if head else None,
    }


def _readiness(view: View) -> Readiness | None:
    """Judge the head by its records and the dates of its tiles; that its files are whole is not the question."""
    head = view.state.head
    if head is None:
        return None
    manifest = parse(project(view.state, head))
    facts = facts_of_manifest(
        manifest,
        dates=stored_capture_dates(Artifacts(view.layout), manifest.tiles, tiles=manifest.tile_count),
        # Whose signature the records name: nobody checked it here.
        signature=None if head.signatures else Signature.ABSENT,
        signed_by=next((key_id for key_id, _ in head.signatures), None),
    )
    return judge(facts, today=utc_day(SystemClock()))


def _networks(inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return name and weight of each network whose descriptors the index joins."""
    return [
        {"name": model["name"], "weight": model.get("weight_ppm", _MILLION) / _MILLION}
        for model in inputs.get("models", ())
        if model["role"] == "descriptor"
    ]


def _levels(inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the levels of chunks, by rising side at the take-off point; none where tiles have the descriptors."""
    if "chunks" not in inputs:
        return []
    # Needs NumPy, which takes longer to load than all else of this command.
    from pipeline.planning.chunk_levels import described_levels  # noqa: PLC0415

    return [level.to_document() for level in described_levels(inputs)]


def _last_build(view: View) -> dict[str, Any] | None:
    """Return the last build and how it ended, if it was not committed."""
    state = view.state
    last = state.builds.get(len(state.builds))
    if last is None or last.status is BuildStatus.COMMITTED:
        return None
    return {
        "build": last.number,
        "status": "died" if died_build(view) == last.number else str(last.status),
        "step": last.failure.step if last.failure else last.doing,
    }


def _lines(root: Path, document: Mapping[str, Any]) -> list[str]:
    lately, head = document["lately"], [("generation", "none committed yet")]
    if document["generation"] is not None:
        head = _head_fields(document)
    if lately is not None:
        step = f" at {lately['step']}" if lately["step"] else ""
        lately = f"build {lately['build']} {lately['status']}{step}; c10 show {lately['build']}"
    lines = render.fields(
        ("cache", root),
        *head,
        ("journal", f"{render.plural(document['seq'], 'record')}, chain {document['chain'][:16]}"),
        ("lately", lately),
    )
    return [*lines, *(["", *render.warning_lines(document["warnings"])] if document["warnings"] else [])]


def _head_fields(document: Mapping[str, Any]) -> list[tuple[str, Any]]:
    shows, back = f"{document['generation']}, shows build {document['build']}", document["rolled_back"]
    if back is not None:
        shows += f" (rolled back from build {back['left']}" + (f": {back['why']})" if back["why"] else ")")
    zooms, tiles = "-".join(map(str, dict.fromkeys(document["zoom"]))), document["tiles"]
    return [
        ("generation", shows),
        ("flight", f"{document['flight_id']} ({document['sector']})"),
        ("tiles", None if tiles is None else f"{render.number(tiles)} at zoom {zooms}"),
        ("chunks", render.levels(document["levels"])),
        ("area", render.area(document)),
        ("index", _index(document["index"])),
        (
            "carried",
            f"{render.size(document['carried_bytes'])} of tiles" if document["carried_bytes"] else None,
        ),
        *fields({**document["readiness"], "coverage": None}),
        ("committed", render.utc(document["committed"])),
        ("identity", document["identity"]),
        ("manifest", document["manifest_sha256"]),
        ("signed by", ", ".join(document["signed_by"])),
    ]


def _index(index: Mapping[str, Any] | None) -> str | None:
    if index is None:
        return None
    shown, networks = f"{index['kind']}, {index['dimensions']} dimensions", index["networks"]
    if len(networks) > 1:
        shown += " of " + " and ".join(f"{each['name']} (weight {each['weight']:g})" for each in networks)
    if index["added"] or index["dropped"]:
        shown += f", and beside it {index['added']:,} added and {index['dropped']:,} left out"
    return shown
