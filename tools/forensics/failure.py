"""The failed step of a build: its inputs, what went wrong, and the failing bytes if they were kept. Pure."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Protocol

from store.base.canonical_json import is_digest
from store.base.identity import tile_of
from store.base.values import ArtifactRef
from store.domain import events as e
from store.domain.attachments import attached_to_failure
from store.domain.events import Index
from store.domain.index_files import delta_of, whole_of
from store.domain.state import Build, State
from store.errors import ArtifactError
from store.formats import tile_pack
from store.manifest.roles import AREA, DELTA
from store.policy.rollback import undone_hint
from store.toml import tomllib
from tools.forensics.root_cause import cause_of_death, cause_of_failure
from tools.forensics.timeline import BuildTimeline
from tools.output.sanitize import safe_data, safe_lines, safe_text

MAX_PICTURES: Final = 8
MAX_PICTURE_BYTES: Final = 1 << 18
MAX_TILES: Final = 1_000

_PLACE = re.compile(r"([0-9]{1,2})/([0-9]{1,8})/([0-9]{1,8})")
_MEDIA: Final = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))
_NO_PICTURE: Final = "application/octet-stream"

Place = tuple[int, int, int]
"""(zoom, x, y)."""


class ArtifactReader(Protocol):
    """Reads the artifacts that come with a history."""

    def read(self, ref: ArtifactRef) -> bytes | None:
        """Return the checked bytes of an artifact, or None."""
        ...

    def holds(self, ref: ArtifactRef) -> bool:
        """Return whether an artifact is there, with its size."""
        ...


def failure_document(
    timeline: BuildTimeline, state: State, artifacts: ArtifactReader, *, dead: bool
) -> dict[str, Any] | None:
    """Return what is known of the failure of a build; None if it was committed or is running.

    Args:
        timeline: The build.
        state: What the records fold to; of damaged ones, it may lack the build.
        artifacts: Reads artifacts.
        dead: Whether the process of an open build is known to be dead.
    """
    build = state.builds.get(timeline.number)
    match timeline.own[-1].event:
        case e.BuildFailed() as event:
            return _failed(timeline, build, artifacts, event)
        case e.BuildAbandoned() as event:
            return _died(timeline, build, artifacts, event)
        case e.BuildRefused() as event:
            return {
                **_failure_fields(
                    timeline.own[-1].seq,
                    "start",
                    "rolled-back",
                    "",
                    event.reason,
                    safe_text(undone_hint(state, event.identity)),
                ),
                "cause": "this very request was rolled back from, and not asked for again with --again",
                "inputs": [],
                "recorded": {"identity": safe_text(event.identity, 64)},
            }
        case e.BuildCommitted():
            return None
        case _:
            return _died(timeline, build, artifacts, None) if dead else None


def denial_document(event: e.BuildDenied, seq: int, cause: str) -> dict[str, Any]:
    """Return the failure of a run that never became a build."""
    holder = safe_data(event.holder)
    hint = "wait for the other build, or end it, then build again"
    return {
        **_failure_fields(seq, "lock", "build-lock-held", "build.lock", cause, hint),
        "cause": cause,
        "inputs": [_input("lock", "build.lock", found=holder)],
        "recorded": {**safe_data(event.inputs), "holder": holder, "waited_ms": event.waited_ms},
    }


def tiles_at_fault(timeline: BuildTimeline) -> list[Place]:
    """Return the tiles that the failure of a build names: the failing tile, or those of its window."""
    event = timeline.own[-1].event
    if not isinstance(event, e.BuildFailed):
        return []
    tile, window = _map(event.inputs.get("tile")), _map(event.inputs.get("window"))
    named = [tile.get("place"), event.subject if event.step in {"cells", "check", "tiles"} else None]
    places = [place for name in named if (place := _place(name)) is not None]
    if not places:
        entries = window.get("tiles")
        for entry in entries if isinstance(entries, Sequence) else ():
            place = _place(entry[0]) if isinstance(entry, Sequence) and entry else None
            if place is not None:
                places.append(place)
    return list(dict.fromkeys(places))[:MAX_TILES]


def cells_at_fault(timeline: BuildTimeline) -> set[Place]:
    """Return the cells of the failing tiles, or else those of the failing window."""
    places = tiles_at_fault(timeline)
    if places:
        return {(zoom, x >> 4, y >> 4) for zoom, x, y in places}
    event = timeline.own[-1].event
    named = _map(event.inputs.get("window")).get("cells") if isinstance(event, e.BuildFailed) else None
    found = (_place(name) for name in named) if isinstance(named, Sequence) else ()
    return {place for place in found if place is not None}


def media_of(data: bytes) -> str:
    """Return the media type of a picture by its first bytes."""
    for magic, media in _MEDIA:
        if data.startswith(magic):
            return media
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else _NO_PICTURE


def _failed(
    timeline: BuildTimeline, build: Build | None, artifacts: ArtifactReader, event: e.BuildFailed
) -> dict[str, Any]:
    return {
        **_failure_fields(
            timeline.own[-1].seq, event.step, event.kind, event.subject, event.message, event.hint
        ),
        "traceback": safe_lines(event.traceback),
        "cause": cause_of_failure(event, timeline),
        "inputs": list(_inputs(build, artifacts, event.step, event)),
        "recorded": safe_data(event.inputs),
        "pictures": list(_pictures(event, artifacts)),
        "tiles": [list(place) for place in tiles_at_fault(timeline)],
    }


def _died(
    timeline: BuildTimeline, build: Build | None, artifacts: ArtifactReader, event: e.BuildAbandoned | None
) -> dict[str, Any]:
    cut = [step for step in timeline.steps if step.outcome == "cut"]
    step = cut[-1] if cut else None
    kind = step.kind if step else (event.step.split(" ")[0] if event else "") or "start"
    waiting = [part for part in step.parts if part.left] if step else []
    subject = step.subject if step else ""
    if waiting:
        subject = ", ".join(sorted(name for part in waiting for name in part.left)[:8])
    reason = event.reason if event else "its process ended without a word"
    return {
        **_failure_fields(
            timeline.own[-1].seq,
            kind,
            "died",
            subject,
            reason,
            "c10 build REQUEST (takes up what was finished)",
        ),
        "cause": cause_of_death(timeline, event),
        "inputs": list(_inputs(build, artifacts, kind, None)),
        "recorded": {
            "windows": [
                {"seq": part.begin.seq, "cells": sorted(part.left)[:MAX_TILES], "attempts": part.attempts}
                for part in waiting[:100]
            ]
        },
    }


def _failure_fields(  # noqa: PLR0917 - the fields of a failure, in their order
    seq: int, step: str, kind: str, subject: str, message: str, hint: str
) -> dict[str, Any]:
    return {
        "step": safe_text(step, 64),
        "kind": safe_text(kind, 64),
        "subject": safe_text(subject),
        "message": safe_text(message),
        "hint": safe_text(hint),
        "traceback": [],
        "seq": seq,
        "cause": "",
        "inputs": [],
        "recorded": {},
        "pictures": [],
        "cells": [],
        "tiles": [],
    }


def _inputs(
    build: Build | None, artifacts: ArtifactReader, step: str, event: e.BuildFailed | None
) -> Iterator[dict[str, Any]]:
    """Yield the inputs of the failed step: those recorded with it, and the results of earlier steps."""
    recorded: Mapping[str, Any] = {} if event is None else event.inputs
    refs = {} if event is None else attached_to_failure(event)
    kept = {name: artifacts.holds(ref) for name, ref in refs.items()}
    tile, network = _map(recorded.get("tile")), _map(recorded.get("network"))
    if tile:
        found = tile.get("found_sha256") or tile.get("unreadable")
        found = None if found == tile.get("sha256") else found
        yield _input("tile", tile.get("place"), tile.get("sha256"), tile.get("size"), found, kept.get("tile"))
    if network:
        name = f"{network.get('model')} ({network.get('file')})"
        yield _input("network", name, network.get("onnx"), network.get("size"), None, kept.get("network"))
    window = _map(recorded.get("window"))
    if window:
        ref = refs.get("window")
        entries = window.get("tiles")
        count = len(entries) if isinstance(entries, Sequence) else 0
        name = f"window {window.get('number')}: {count} tiles"
        yield _input(
            "cells", name, ref.sha256 if ref else None, ref.size if ref else None, None, kept.get("window")
        )
    yield from _earlier_results(build, artifacts, step, event.subject if event else "")
    if build is not None and step == "inputs":
        yield from _requested_files(build, event.subject if event else "")
    if build is not None and step in {"cells", "tiles", "inputs"}:
        yield _input("source", build.host.get("source") or build.inputs.get("source"))
    problems = recorded.get("problems")
    if isinstance(problems, Sequence):
        for problem in islice(problems, MAX_PICTURES):
            name, wrong = (*str(problem).rsplit(": ", 1), "")[:2]
            yield _input("artifact", name, found=wrong)


def _requested_files(build: Build, subject: str) -> Iterator[dict[str, Any]]:
    """Yield the networks and the calibration that the recorded request names, or only the failed network."""
    request = _map(build.host.get("request"))
    try:
        document = tomllib.loads(str(request.get("text", "")))
    except (tomllib.TOMLDecodeError, RecursionError):
        return
    models = document.get("models")
    networks = [each for each in models if isinstance(each, Mapping)] if isinstance(models, list) else []
    named = [each for each in networks if each.get("name") == subject]
    for each in (named or networks)[:MAX_PICTURES]:
        yield _input("network", f"{each.get('name')} ({each.get('onnx')})")
    if not named and document.get("calibration") is not None:
        yield _input("calibration", document["calibration"])
    area = document.get("area")
    if not named and isinstance(area, Mapping):
        yield _input(AREA, area.get("file"))


def _index_inputs(index: Index, artifacts: ArtifactReader) -> Iterator[dict[str, Any]]:
    yield _artifact_input("index", index.kind, whole_of(index), artifacts)
    delta = delta_of(index)
    if delta is not None:
        yield _artifact_input(DELTA, index.kind, delta, artifacts)
    yield _artifact_input("block table", f"{index.rows} rows", index.blocks, artifacts)


def _earlier_results(
    build: Build | None, artifacts: ArtifactReader, step: str, subject: str
) -> Iterator[dict[str, Any]]:
    if build is None:
        return
    if step in {"cells", "check"} and subject != "index":
        for name, engine in build.engines:
            if step == "cells" or name == subject:
                yield _artifact_input("engine", name, engine.artifact, artifacts)
    if build.tiles is not None and step in {"cells", "coverage", "tiles"}:
        yield _artifact_input("tile table", f"{build.tiles.count} tiles", build.tiles.table, artifacts)
    if build.index is not None and (step in {"index", "coverage", "commit"} or subject == "index"):
        yield from _index_inputs(build.index, artifacts)
    if build.failure is not None and step == "coverage":
        geography = attached_to_failure(build.failure).get("geography")
        if geography is not None:
            yield _artifact_input("geographic report", "area", geography, artifacts)
    if step == "start":
        yield from _given_inputs(build, artifacts)


def _given_inputs(build: Build, artifacts: ArtifactReader) -> Iterator[dict[str, Any]]:
    names = {"calibration": "camera", AREA: "polygons and routes"}
    for role, ref in build.given():
        yield _artifact_input(role, names[role], ref, artifacts)


def _artifact_input(role: str, name: str, ref: ArtifactRef, artifacts: ArtifactReader) -> dict[str, Any]:
    return _input(role, name, ref.sha256, ref.size, None, artifacts.holds(ref))


def _input(  # noqa: PLR0917 - a row of a table
    role: str,
    name: object,
    sha256: object = None,
    size: object = None,
    found: object = None,
    present: bool | None = None,  # noqa: FBT001 - as above
) -> dict[str, Any]:
    return {
        "role": role,
        "name": safe_text(name, 500) if name is not None else "",
        "sha256": sha256 if is_digest(sha256) else None,
        "size": size if isinstance(size, int) else None,
        "found": safe_data(found),
        "present": present,
    }


def _pictures(event: e.BuildFailed, artifacts: ArtifactReader) -> Iterator[dict[str, Any]]:
    refs = attached_to_failure(event)
    single, several = refs.get("tile"), refs.get("window")
    if single is not None:
        name = _map(event.inputs.get("tile")).get("place") or event.subject
        yield _picture(str(name), artifacts.read(single), single)
    data = artifacts.read(several) if several is not None else None
    if data is not None:
        try:
            tiles = tile_pack.decode(data)
        except ArtifactError:
            return
        for identifier, image in tiles[:MAX_PICTURES]:
            yield _picture("/".join(map(str, tile_of(identifier)[:3])), image, None)


def _picture(name: str, data: bytes | None, ref: ArtifactRef | None) -> dict[str, Any]:
    small = data is not None and len(data) <= MAX_PICTURE_BYTES
    return {
        "tile": safe_text(name, 100),
        "media": _NO_PICTURE if data is None else media_of(data),
        "sha256": ref.sha256 if ref else None,
        "size": ref.size if ref else None if data is None else len(data),
        "data": base64.b64encode(data).decode("ascii") if small and data is not None else None,
    }


def _place(name: object) -> Place | None:
    found = _PLACE.fullmatch(name) if isinstance(name, str) else None
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
