"""Explain why a step ran, which step made an artifact, and what a descriptor was made from. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
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
from tools.forensics.ground.area import read_tiles
from tools.forensics.history import BuildHistory, DeniedRun, Source
from tools.forensics.step_keys import explain_keys, has_inputs, step_keys_of
from tools.output.recorded_value import change_text, label_of, value_text
from tools.output.sanitize import safe_data, safe_text

_STEPS: Final = ("build", "engine", "stand-in", "cells", "index", "tiles")
_LEAST_DIGITS: Final = 8
_HEX: Final = frozenset("0123456789abcdef")
_SHOWN: Final = 200
_MOST_TILES: Final = 4
"""Tiles under a chunk that are all listed in the text; of more, the first ones."""
_TILES_SHOWN: Final = 3


def why(source: Source, subject: str, *, number: int | None = None) -> dict[str, Any]:
    """Explain a step, an artifact or a descriptor.

    Args:
        source: The records.
        subject: What to explain; `docs/replay.md` lists the forms.
        number: The build; by default the one that the head shows, or else the newest; of a bundle, the one that
            `c10 replay` shows.

    Raises:
        RequestRefusedError: There is no such build, or nothing of that name.
    """
    builds = BuildHistory(source=source).fold()
    named = _find_artifact(builds, subject)
    if named is not None:
        found = artifact(named, builds)
        return _answer(
            builds, subject, found["build"], {"artifact": found, "text": list(_artifact_lines(found))}
        )
    build = _build(builds, number)
    head, *rest = subject.split("/")
    if head in _STEPS:
        return _step(builds, build, head, "/".join(rest), subject)
    identifier = parse_descriptor_id(subject)
    if identifier is None:
        identifier = _find_tile(build, builds, subject)
    links = descriptor(identifier, build, builds) if identifier is not None else []
    if not links:
        raise RequestRefusedError(
            f"expected a step ({', '.join(_STEPS)}), 8 or more digits of an artifact, or a tile of build"
            f" {build.number} as zoom/x/y (a chunk as zoom/x/y/view, or the descriptor_id of a candidate of"
            f" c10 query --json), found {safe_text(subject, 200)!r}",
            kind=ErrorKind.ARGUMENT,
            hint="c10 why --help",
        )
    return _answer(builds, subject, build.number, {"chain": links, "text": list(_chain_lines(links))})


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
    if number is None and state.builds and builds.source.kind == "bundle":
        chosen = builds.choose(None)
        number = None if isinstance(chosen, DeniedRun) else chosen
    if number is None and state.builds:
        number = state.head.origin if state.head is not None else max(state.builds)
    build = state.builds.get(number) if number is not None else None
    if build is None:
        raise RequestRefusedError(
            f"expected a build from 1 to {max(state.builds, default=0)}, found {number}",
            kind=ErrorKind.UNKNOWN_BUILD,
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
        keys = [_narrow_to(key, "tiles") for key in keys]
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
    lines = [*_key_lines(keys), *_decision_lines(decisions)]
    if kind == "cells" and name:
        lines = [*_cell_lines(builds, build, name), *lines]
    if not lines:
        lines = [
            f"build {build.number} did not come as far as {subject}"
            if has_inputs(build)
            else f"build {build.number} was refused at its start: its inputs were not recorded"
        ]
    return _answer(
        builds,
        subject,
        build.number,
        {"keys": keys, "decisions": decisions, "text": [safe_text(line) for line in lines]},
    )


def _narrow_to(key: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return a key narrowed to one of its components."""
    changed = [change for change in key["changed"] if change["path"].split(".")[0] == part]
    return {**key, "kind": part, "components": key["components"].get(part), "changed": changed}


def _key_lines(keys: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for key in keys:
        name = f"{key['kind']} {key['subject']}".strip()
        before = key["before"]
        back = (
            f", and again after build {before['build']}" if before and key["since"] < before["build"] else ""
        )
        yield f"{name}: key {key['key'][:16]}, first in build {key['since']}{back}"
        if before is None:
            yield f"{name}: no build before had one"
            continue
        yield f"{name}: build {before['build']} had key {before['key'][:16]}; what changed:"
        for change in key["changed"][:_SHOWN]:
            yield f"  {change_text(change['path'], change['old'], change['new'])}"
        if not key["changed"]:
            # The tiles are a part of the build's key.
            others = key["kind"] == "tiles" and key["key"] != before["key"]
            yield (
                "  nothing here, but other parts of the build"
                if others
                else "  nothing: another build of the same"
            )


def _decision_lines(decisions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for each in decisions:
        count = f" ({each['count']})" if isinstance(each["count"], int) and each["count"] > 1 else ""
        what = f"{each['kind']} {each['subject'] or ''}".rstrip()
        yield f"planned: {each['decision']} {what}{count}: {each['why']}"


def _cell_lines(builds: BuildHistory, build: Build, name: str) -> Iterator[str]:
    """Yield a line for every time that the block of a cell was made, up to the end of the build."""
    names_by_space = {key.key: key.subject for key in step_keys_of(build) if key.kind == "cells"}
    several, blocks = len(names_by_space) > 1, dict[str, e.CellEmbedded]()
    for record in builds.source.history.records[: build.ended_seq]:
        made = record.event
        if isinstance(made, e.CellEmbedded) and f"{made.zoom}/{made.cell_x}/{made.cell_y}" == name:
            # Of one network, a block in another vector space takes the place of the one before.
            own = made.space if several else ""
            reason, previous = "first time", blocks.get(own)
            if previous is not None:
                names = [
                    part
                    for part in ("space", "tiles")
                    if previous.components.get(part) != made.components.get(part)
                ]
                reason = f"changed: {', '.join(names)}" if names else "the same key again: its block was gone"
            network = names_by_space.get(made.space, "another network") if several else ""
            yield (
                f"cell {name}{f' of {network}' if network else ''}: record {record.seq}, build {record.build}: {made.rows} rows, {made.embedded} embedded"
                f" ({reason})"
            )
            blocks[own] = made


def _artifact_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['role']}, {found['size']:,} bytes, SHA-256 {found['sha256']}"
    yield f"made by build {found['build'] or '- (outside of builds)'}, record {found['seq']}"
    if found["key"]:
        yield f"step key {found['key']}"
    shown = ", ".join(map(str, found["generations"])) or "none"
    yield f"builds {', '.join(map(str, found['builds'])) or 'none'} name it; generations that show it: {shown}"
    yield "present" if found["present"] else "collected" if found["collected"] else "not to be read here"


def _chain_lines(links: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for is_tile, found in groupby(links, key=lambda link: link["what"] == "tile"):
        some = list(found)
        shown = some[:_TILES_SHOWN] if is_tile and len(some) > _MOST_TILES else some
        if shown != some:
            yield _tiles_line(some)
        yield from _link_lines(shown)
        if shown != some:
            yield f"and {len(some) - len(shown)} more tiles; --json has them"


def _tiles_line(tiles: Sequence[Mapping[str, Any]]) -> str:
    """Return how many tiles a chunk shows, from which to which, and how old they are."""
    days = sorted({each["facts"].get("captured") or "" for each in tiles})
    known = [day for day in days if day]
    age = " to ".join(dict.fromkeys((known[0], known[-1]))) if known else "at no known date"
    others = ", others at no known date" if known and "" in days else ""
    return f"{len(tiles)} tiles, from {tiles[0]['name']} to {tiles[-1]['name']}, captured {age}{others}"


def _link_lines(links: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for link in links:
        digest = f" {link['sha256']}" if link["sha256"] else ""
        where = f" (record {link['seq']}, build {link['build']})" if link["seq"] else ""
        yield f"{link['what']} {link['name']}{digest}{where}"
        facts = ", ".join(
            f"{label_of(name)} {value_text(name, value)}"
            for name, value in link["facts"].items()
            if value is not None
        )
        if facts:
            yield f"  {facts}"


def _find_artifact(builds: BuildHistory, word: str) -> NamedArtifact | None:
    """Return the newest record of the artifact whose digest begins with a word; None if there is none.

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
            kind=ErrorKind.ARGUMENT,
            hint="give more digits",
        )
    return found[-1] if found else None


def _find_tile(build: Build, builds: BuildHistory, word: str) -> int | None:
    """Return the first tile of a build whose digest begins with a word; None if there is none."""
    if len(word) < _LEAST_DIGITS or not set(word) <= _HEX:
        return None
    tiles = read_tiles(build.tiles.table if build.tiles else None, build.inputs, builds.source.artifacts)
    if tiles is None:
        return None
    rows = (row for row in range(len(tiles.table)) if bytes(tiles.table.digests[row]).hex().startswith(word))
    row = next(rows, None)
    return None if row is None else int(tiles.ids[row])
