"""`status`: the current generation of the cache. It runs most often, so it imports as little as possible."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from store.base.cache_warning import CacheWarning
from store.base.canonical_json import sha256
from store.base.clock import SystemClock, utc_day
from store.cache.view import View, died_build, open_view
from store.disk.area_shapes import stored_area_shape
from store.disk.artifacts import Artifacts
from store.disk.capture_dates import stored_capture_dates
from store.disk.layout import Layout
from store.disk.repair_commands import mirroring_without, warned_of_mirror
from store.domain.manifest_projection import project
from store.domain.state import BuildStatus
from store.formats.capture_dates import CaptureDates
from store.manifest.file_names import signature_name
from store.manifest.manifest import EngineEntry, Manifest, parse
from store.policy.rollback import ways_forward
from store.trust.readiness import Readiness, judge
from store.trust.readiness_facts import Signature, facts_of_manifest
from tools.command import Answer, Call, shared_options
from tools.output import render
from tools.output.readiness import fields

_MILLION: Final = 1_000_000
_E7: Final = 10_000_000


class _Head(NamedTuple):
    """The generation that is shown: its manifest, and the ids of the keys that signed it, unchecked.

    `unsound` says which signature files of a mirror are none.
    """

    manifest: Manifest
    signed_by: list[str]
    unsound: Sequence[CacheWarning] = ()


@click.command()
@shared_options()
def status(call: Call) -> Answer:
    """Show the current generation of the cache, or of a mirror."""
    layout = call.layout()
    if layout.is_mirror():
        records: dict[str, Any] = dict.fromkeys(_JOURNAL_FACTS)
        head: _Head | None = _head_of_mirror(layout)
    else:
        view = open_view(layout)
        head, records = _head_of_journal(view), _journal_facts(view)
    rolled_back = records.pop("rolled_back")
    dates = _capture_dates(layout, head.manifest) if head else None
    readiness = _readiness(layout, head, dates) if head else None
    document = {
        **_head_names(head),
        **records,
        **_head_facts(head, dates),
        "rolled_back": rolled_back,
        "signed_by": head.signed_by if head else None,
        "readiness": readiness.to_document() if readiness else None,
        "warnings": [each.to_document() for each in readiness.warnings] if readiness else [],
    }
    return Answer(document=document, lines=_lines(layout.root, document))


def _head_of_journal(view: View) -> _Head | None:
    head = view.state.head
    if head is None:
        return None
    return _Head(parse(project(view.state, head)), [key_id for key_id, _ in head.signatures])


def _head_of_mirror(layout: Layout) -> _Head:
    # Few caches are mirrors.
    from store.cache.mirror_history import read_shown  # noqa: PLC0415
    from store.trust.signatures import parse_signature  # noqa: PLC0415

    file = read_shown(layout)
    found = {signature_name(file.name, place): parse_signature(data) for place, data in file.signed.items()}
    unsound = [
        CacheWarning(
            kind="signature-damaged",
            message=f"manifests/{name} is no signature",
            hint=mirroring_without(layout, f"manifests/{name}"),
        )
        for name, signature in found.items()
        if signature is None
    ]
    return _Head(file.manifest, [each.key_id for each in found.values() if each], unsound)


_JOURNAL_FACTS: Final = ("chain", "seq", "open_build", "lately", "rolled_back")
"""What a journal alone says."""


def _journal_facts(view: View) -> dict[str, Any]:
    rollback = view.state.head.rolled_back if view.state.head else None
    return {
        "chain": view.head.chain.hex(),
        "seq": view.head.seq,
        "open_build": view.state.open_build,
        "lately": _last_build(view),
        "rolled_back": {
            "left": rollback.left,
            "why": rollback.why,
            "forward": [{"generation": made, "build": build} for made, build in ways_forward(view.state)],
        }
        if rollback
        else None,
    }


def _head_names(head: _Head | None) -> dict[str, Any]:
    manifest = head.manifest if head else None
    return {
        "generation": manifest.envelope.generation if manifest else None,
        "build": manifest.envelope.origin if manifest else None,
        "identity": manifest.identity if manifest else None,
        "manifest_sha256": sha256(manifest.raw) if manifest else None,
        "body_sha256": manifest.body_sha256 if manifest else None,
    }


def _head_facts(head: _Head | None, dates: CaptureDates | None) -> dict[str, Any]:
    """Return what the generation is that the head shows; every value is None if there is none."""
    if head is None:
        return dict.fromkeys(_HEAD_FACTS)
    manifest, inputs, index = head.manifest, head.manifest.inputs, head.manifest.index
    area, delta = manifest.body["geography"], manifest.index.delta
    facts = facts_of_manifest(manifest, dates=None)
    return {
        "flight_id": inputs.get("flight_id"),
        "sector": inputs.get("sector"),
        "tiles": manifest.tile_count,
        "zoom": list(inputs.get("zoom", ())),
        "levels": _levels(inputs),
        "wanted": area["wanted"],
        "localisable": None if facts.coverage is None else round(facts.coverage, 4),
        "featureless": area["featureless"],
        "skipped": area["skipped"],
        "index": {
            "kind": index.kind,
            "dimensions": index.dimensions,
            "added": delta.added if delta else 0,
            "dropped": delta.dropped if delta else 0,
            "networks": _networks(inputs),
        },
        "carried_bytes": manifest.carried.size if manifest.carried else 0,
        "proof": facts.proof,
        "committed": render.iso(manifest.envelope.wall_ns),
        "engines": [_engine(manifest, each) for each in manifest.engines],
        "bbox": [value / _E7 for value in facts.area] if facts.area else None,
        "captured": {
            "oldest": dates.oldest.isoformat() if dates.oldest else None,
            "newest": dates.newest.isoformat() if dates.newest else None,
            "undated": dates.undated,
        }
        if dates
        else None,
    }


_HEAD_FACTS: Final = (
    *("flight_id", "sector", "tiles", "zoom", "levels", "wanted", "localisable", "featureless", "skipped"),
    *("index", "carried_bytes", "proof", "committed", "engines", "bbox", "captured"),
)
"""The keys of `_head_facts`."""


def _capture_dates(layout: Layout, manifest: Manifest) -> CaptureDates | None:
    return stored_capture_dates(Artifacts(layout), manifest.tiles, tiles=manifest.tile_count)


def _engine(manifest: Manifest, engine: EngineEntry) -> dict[str, Any]:
    """Return what runs a network, and where."""
    return {
        "name": engine.model,
        "role": engine.role,
        "backend": engine.backend,
        "version": engine.version,
        "target": engine.target,
        "precision": engine.precision,
        "batch": engine.batch,
        "stand_in": engine.model in manifest.stand_ins,
    }


def _readiness(layout: Layout, head: _Head, dates: CaptureDates | None) -> Readiness:
    """Judge the head by its manifest and the dates of its tiles; that its files are whole is not the question."""
    facts = facts_of_manifest(
        head.manifest,
        dates=dates,
        # Whose signature there is; nobody checked it here.
        signature=None if head.signed_by or head.unsound else Signature.ABSENT,
        signed_by=next(iter(head.signed_by), None),
        shape=stored_area_shape(Artifacts(layout), head.manifest.area),
    )
    found = judge(facts, today=utc_day(SystemClock()))
    warnings = (*found.warnings, *head.unsound)
    return replace(found, warnings=tuple(map(warned_of_mirror, warnings)) if layout.is_mirror() else warnings)


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
        ("journal", _journal(document)),
        ("lately", lately),
    )
    return [*lines, *(["", *render.warning_lines(document["warnings"])] if document["warnings"] else [])]


def _journal(document: Mapping[str, Any]) -> str:
    if document["seq"] is None:
        return "elsewhere: this is a mirror"
    return f"{render.plural(document['seq'], 'record')}, chain {document['chain'][:16]}"


def _head_fields(document: Mapping[str, Any]) -> list[tuple[str, Any]]:
    shows, back = f"{document['generation']}, shows build {document['build']}", document["rolled_back"]
    if back is not None:
        shows += f" (rolled back from build {back['left']}" + (f": {back['why']})" if back["why"] else ")")
    zooms, tiles = "-".join(map(str, dict.fromkeys(document["zoom"]))), document["tiles"]
    return [
        ("generation", shows),
        *(render.forward(back["forward"]) if back else ()),
        ("readiness", _judged(len(document["warnings"]))),
        ("flight", f"{document['flight_id']} ({document['sector']})"),
        ("tiles", None if tiles is None else f"{render.number(tiles)} at zoom {zooms}"),
        ("box", _box(document["bbox"])),
        ("chunks", render.levels(document["levels"])),
        ("area", render.area(document)),
        *(("engine", _engine_text(each)) for each in document["engines"]),
        ("index", _index(document["index"])),
        (
            "carried",
            f"{render.size(document['carried_bytes'])} of tiles" if document["carried_bytes"] else None,
        ),
        *fields(
            {**document["readiness"], "coverage": None}, newest=(document["captured"] or {}).get("newest")
        ),
        ("committed", render.utc(document["committed"])),
        ("identity", document["identity"]),
        ("manifest", document["manifest_sha256"]),
        ("signed by", _signers(document["signed_by"])),
    ]


def _judged(warnings: int) -> str:
    """Say what is known against a flight; only `c10 verify` looks at files, signatures and this machine."""
    found = f"{render.plural(warnings, 'warning')}, below" if warnings else "nothing speaks against a flight"
    return f"{found}; c10 verify says GO or NO-GO"


def _box(bbox: Sequence[float] | None) -> str | None:
    """Return west, south, east and north as a request has them."""
    return "[" + ", ".join(f"{degrees:.7f}" for degrees in bbox) + "]" if bbox else None


def _engine_text(engine: Mapping[str, Any]) -> str:
    stand_in = "; its stand-in computed the descriptors" if engine["stand_in"] else ""
    kind = "" if engine["role"] == "descriptor" else f" ({engine['role']})"
    return (
        f"{engine['name']}{kind}: {engine['backend']} {engine['version']} for {engine['target']}, "
        f"{engine['precision']}{stand_in}"
    )


def _signers(keys: Sequence[str]) -> str:
    """Return the keys that are said to have signed; `c10 verify` checks that."""
    return f"{', '.join(keys)} (not checked here: c10 verify)" if keys else "nobody"


def _index(index: Mapping[str, Any] | None) -> str | None:
    if index is None:
        return None
    shown, networks = f"{index['kind']}, {index['dimensions']} dimensions", index["networks"]
    if len(networks) > 1:
        shown += " of " + " and ".join(f"{each['name']} (weight {each['weight']:g})" for each in networks)
    if index["added"] or index["dropped"]:
        shown += f", and beside it {index['added']:,} added and {index['dropped']:,} left out"
    return shown
