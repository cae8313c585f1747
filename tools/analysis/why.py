"""Why: which component of which key changed, where an artifact comes from, and what a descriptor is made of. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from store.domain import events as e
from store.domain.state import Build
from store.errors import ErrorKind, RequestRefusedError
from tools.analysis.provenance import (
    NamedArtifact,
    artifact,
    descriptor,
    named_artifacts,
    parse_descriptor_id,
)
from tools.forensics.area import read_tiles
from tools.forensics.history import BuildHistory, Source
from tools.forensics.step_keys import explain_keys
from tools.output.sanitize import safe_data, safe_text

_STEPS: Final = ("build", "engine", "stand-in", "cells", "index", "tiles")
_LEAST_DIGITS: Final = 8
_HEX: Final = frozenset("0123456789abcdef")
_SHOWN: Final = 200


def why(source: Source, subject: str, *, number: int | None = None) -> dict[str, Any]:
    """Explain a step, an artifact or a descriptor.

    Args:
        source: The records.
        subject: What to explain; the forms are listed in `docs/replay.md`.
        number: Of which build; by default the one that is shown, or else the newest.

    Raises:
        RequestRefusedError: There is no such build, or nothing of that name.
    """
    builds = BuildHistory(source=source).fold()
    digests = _digest_named(builds, subject)
    if digests is not None:
        found = artifact(digests, builds)
        return _answer(
            builds, subject, found["build"], {"artifact": found, "text": list(_of_artifact(found))}
        )
    build = _build(builds, number)
    head, *rest = subject.split("/")
    if head in _STEPS:
        return _step(builds, build, head, "/".join(rest), subject)
    identifier = parse_descriptor_id(subject)
    if identifier is None:
        identifier = _tile_with(build, builds, subject)
    links = descriptor(identifier, build, builds) if identifier is not None else []
    if not links:
        raise RequestRefusedError(
            f"expected a step ({', '.join(_STEPS)}), 8 or more digits of an artifact, or a tile of build"
            f" {build.number} as zoom/x/y, found {safe_text(subject, 200)!r}",
            kind=ErrorKind.UNKNOWN_GENERATION,
            hint="c10 why --help",
        )
    return _answer(builds, subject, build.number, {"chain": links, "text": list(_of_chain(links))})


def _answer(
    builds: BuildHistory, subject: str, number: int | None, more: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "format": 1,
        "source": builds.source.to_document(),
        "subject": safe_text(subject, 300),
        "build": number,
        "keys": [],
        "decisions": [],
        "artifact": None,
        "chain": [],
        "text": [],
        **more,
    }


def _build(builds: BuildHistory, number: int | None) -> Build:
    state = builds.state
    if number is None and state.builds:
        number = state.head.origin if state.head is not None else max(state.builds)
    build = state.builds.get(number) if number is not None else None
    if build is None:
        raise RequestRefusedError(
            f"expected a build from 1 to {max(state.builds, default=0)}, found {number}",
            kind=ErrorKind.UNKNOWN_GENERATION,
            hint=builds.source.listing,
        )
    return build


def _step(builds: BuildHistory, build: Build, kind: str, name: str, subject: str) -> dict[str, Any]:
    keys = [
        key
        for key in explain_keys(builds.state, build.number)
        if key["kind"] == ("build" if kind == "tiles" else kind)
        and (not name or kind == "cells" or key["subject"] == name)
    ]
    if kind == "tiles":
        keys = [_only(key, "tiles") for key in keys]
    decisions = [
        {
            "kind": safe_data(step.get("kind")),
            "subject": safe_data(step.get("subject")),
            "decision": safe_data(step.get("decision")),
            "why": safe_data(step.get("why")),
            "count": safe_data(step.get("count")),
        }
        for step in build.plan
        if step.get("kind") == kind and (not name or kind == "cells" or step.get("subject") == name)
    ]
    told = [*_of_keys(keys), *_of_decisions(decisions)]
    if kind == "cells" and name:
        told = [*_of_cell(builds, build, name), *told]
    if not told:
        told = [f"build {build.number} did not come as far as {subject}"]
    return _answer(
        builds,
        subject,
        build.number,
        {"keys": keys, "decisions": decisions, "text": [safe_text(line) for line in told]},
    )


def _only(key: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The part of a key that one component is."""
    changed = [change for change in key["changed"] if change["path"].split(".")[0] == part]
    return {**key, "kind": part, "components": key["components"].get(part), "changed": changed}


def _of_keys(keys: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for key in keys:
        name = f"{key['kind']} {key['subject']}".strip()
        yield f"{name}: key {key['key'][:16]}, first in build {key['since']}"
        before = key["before"]
        if before is None:
            yield f"{name}: no build before had one"
            continue
        yield f"{name}: build {before['build']} had key {before['key'][:16]}; what changed:"
        for change in key["changed"][:_SHOWN]:
            yield f"  {change['path']}: {_short(change['old'])} -> {_short(change['new'])}"
        if not key["changed"]:
            yield "  nothing: another build of the same"


def _of_decisions(decisions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for each in decisions:
        count = f" ({each['count']})" if isinstance(each["count"], int) and each["count"] > 1 else ""
        what = f"{each['kind']} {each['subject'] or ''}".rstrip()
        yield f"planned: {each['decision']} {what}{count}: {each['why']}"


def _of_cell(builds: BuildHistory, build: Build, name: str) -> Iterator[str]:
    """When the block of a cell was made, for every time that it was, up to the end of the build."""
    previous: e.CellEmbedded | None = None
    for record in builds.source.history.records[: build.ended_seq]:
        made = record.event
        if isinstance(made, e.CellEmbedded) and f"{made.zoom}/{made.cell_x}/{made.cell_y}" == name:
            reason = "first time"
            if previous is not None:
                names = [
                    part
                    for part in ("space", "tiles")
                    if previous.components.get(part) != made.components.get(part)
                ]
                reason = f"changed: {', '.join(names)}" if names else "the same key again: its block was gone"
            yield (
                f"cell {name}: record {record.seq}, build {record.build}: {made.rows} rows, {made.embedded} embedded"
                f" ({reason})"
            )
            previous = made


def _of_artifact(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['role']}, {found['size']:,} bytes, SHA-256 {found['sha256']}"
    yield f"made by build {found['build'] or '- (outside of builds)'}, record {found['seq']}"
    if found["key"]:
        yield f"step key {found['key']}"
    shown = ", ".join(map(str, found["generations"])) or "none"
    yield f"builds {', '.join(map(str, found['builds'])) or 'none'} name it; generations that show it: {shown}"
    yield "present" if found["present"] else "collected" if found["collected"] else "not to be read here"


def _of_chain(links: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for link in links:
        digest = f" {link['sha256']}" if link["sha256"] else ""
        where = f" (record {link['seq']}, build {link['build']})" if link["seq"] else ""
        yield f"{link['what']} {link['name']}{digest}{where}"
        facts = ", ".join(
            f"{name} {_short(value)}" for name, value in link["facts"].items() if value is not None
        )
        if facts:
            yield f"  {facts}"


def _digest_named(builds: BuildHistory, word: str) -> NamedArtifact | None:
    """The newest record of the artifact whose digest begins like that.

    Raises:
        RequestRefusedError: Several do.
    """
    if len(word) < _LEAST_DIGITS or not set(word) <= _HEX:
        return None
    found = [
        each for each in named_artifacts(builds.source.history.records) if each.ref.sha256.startswith(word)
    ]
    digests = sorted({each.ref.sha256 for each in found})
    if len(digests) > 1:
        raise RequestRefusedError(
            f"expected the digits of one artifact, found {len(digests)} that begin with {word}",
            kind=ErrorKind.UNKNOWN_GENERATION,
            hint="give more digits",
        )
    return found[-1] if found else None


def _tile_with(build: Build, builds: BuildHistory, word: str) -> int | None:
    """The first tile of a build whose encoded bytes have a digest that begins like that."""
    if len(word) < _LEAST_DIGITS or not set(word) <= _HEX:
        return None
    tiles = read_tiles(build.tiles.table if build.tiles else None, builds.source.artifacts)
    if tiles is None:
        return None
    rows = (row for row in range(len(tiles.table)) if bytes(tiles.table.digests[row]).hex().startswith(word))
    row = next(rows, None)
    return None if row is None else int(tiles.ids[row])


def _short(value: object) -> str:
    return safe_text(value if value is not None else "none", 80)
