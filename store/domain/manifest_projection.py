"""Project the manifest of a generation from the state that the events folded to. Pure.

The same events give the same bytes, for ever: a body is written in the format that it was committed with.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from store.base.canonical_json import Document, Value, encode, sha256
from store.base.identity import spaces_of_index
from store.domain.attachments import GOLDEN, attached, without_attached
from store.domain.events import EngineCompiled, Index, IndexExtended
from store.domain.index_files import whole_of
from store.domain.proof import answers_of
from store.domain.state import Build, BuildStatus, Generation, State, checks_of
from store.errors import DamagedHistoryError, ErrorKind
from store.manifest.index_entry import EXTENDED, PLAIN, artifact_document
from store.manifest.levels import CHUNKS
from store.manifest.manifest import Envelope
from store.manifest.networks import COLUMNS, descriptors_of, joins_networks, with_columns


def project(state: State, generation: Generation) -> bytes:
    """Return the manifest file of a generation, from the state alone; the same bytes at any later state."""
    envelope = Envelope(
        cache_id=state.cache_id,
        generation=generation.number,
        origin=generation.origin,
        before=generation.before,
        wall_ns=generation.wall_ns,
    )
    return render(body_of(state, state.builds[generation.origin]), envelope)


def render(body: Document, envelope: Envelope) -> bytes:
    """Return the manifest file of this body and envelope."""
    document: Document = {
        "format": CHUNKS
        if COLUMNS in body
        else _number_of(body["inputs"], extended="delta" in body["index"]),
        "body": body,
        "envelope": {
            "cache_id": envelope.cache_id,
            "generation": envelope.generation,
            "origin": envelope.origin,
            "prev_head": {"seq": envelope.before.seq, "chain": envelope.before.chain},
            "time_ns": envelope.wall_ns,
        },
    }
    return encode(document) + b"\n"


def body_of(state: State, build: Build) -> Document:
    """Return the body of `build`, open or committed, in the format it was committed with.

    Raises:
        KeyError: A later version committed it in a format that this one does not know.
        DamagedHistoryError: The build lacks a part that a manifest names.
    """
    try:
        return _body(state, build)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedHistoryError(
            f"expected the facts of build {build.number} to name what a manifest holds, found {error!r}",
            kind=ErrorKind.IMPOSSIBLE_HISTORY,
            hint="c10 verify --full",
        ) from error


def _body(state: State, build: Build) -> Document:
    number = format_of(build)
    if build.format not in {0, number}:
        raise KeyError(f"format {build.format}")
    return _BODIES[number](state, build)


def format_of(build: Build) -> int:
    """Return the format in which the manifest of a build is written."""
    return _number_of(build.inputs, extended=isinstance(build.index, IndexExtended))


def _number_of(inputs: Document, *, extended: bool) -> int:
    if "chunks" in inputs or "carry" in inputs or joins_networks(inputs):
        return CHUNKS
    return EXTENDED if extended else PLAIN


def _plain_body(state: State, build: Build) -> Document:
    tiles, index, coverage, calibration = build.tiles, build.index, build.coverage, build.calibration
    if tiles is None or index is None or coverage is None or calibration is None or not build.engines:
        raise DamagedHistoryError(
            f"expected build {build.number} to have tiles, engines, index and coverage before its commit",
            kind=ErrorKind.IMPOSSIBLE_HISTORY,
            hint="c10 verify --full",
        )
    models = {model["name"]: model for model in build.inputs["models"]}
    networks = [str(model["name"]) for model in descriptors_of(build.inputs)]
    several = len(networks) > 1
    return {
        "identity": build.identity,
        "inputs": build.inputs,
        "tiles": {"count": tiles.count, "digest": tiles.digest, "table": artifact_document(tiles.table)},
        "calibration": artifact_document(calibration),
        "engines": [_engine(models[name], event) for name, event in build.engines],
        "vector_space": index.components["space"],
        "index": {
            **index_document(index),
            **({} if several else {"embedded_by": _embedded_by(build, "".join(networks))}),
        },
        **({"descriptors": [*_descriptors(build, index, networks)]} if several else {}),
        **_carried(build),
        **_proof(build),
        "geography": {
            "report": artifact_document(coverage.geography),
            "wanted": coverage.wanted,
            "present": coverage.present,
            "featureless": coverage.featureless,
            "skipped": coverage.skipped,
        },
        "checks": [
            {
                "check": check.check,
                "subject": check.subject,
                "key": check.key,
                "artifact": check.artifact,
                "measured": check.measured,
            }
            for check in (checks_of(state, build) if build.status is BuildStatus.OPEN else build.checks)
        ],
    }


def _body_of_chunks(state: State, build: Build) -> Document:
    return with_columns(_plain_body(state, build))


_BODIES: Mapping[int, Callable[[State, Build], Document]] = {
    PLAIN: _plain_body,
    EXTENDED: _plain_body,
    CHUNKS: _body_of_chunks,
}
"""How a body is written, by format. A body that was committed must be written the same way for ever."""


def _carried(build: Build) -> dict[str, Value]:
    """What the cache carries of its tiles; nothing, not even a name, where none were asked for."""
    if "carry" not in build.inputs:
        return {}
    carried = build.carried
    if carried is None:
        raise TypeError("no carried tiles")
    return {
        "carried": {
            "packs": artifact_document(carried.table),
            "tiles": carried.tiles,
            "size": carried.size,
        }
    }


def head_projections(generation: int, raw: bytes) -> dict[bytes, bytes]:
    """Return the journal's own projections of its head: which generation it is, and its manifest file."""
    return {b"head": encode({"generation": generation, "manifest_sha256": sha256(raw)}), b"manifest": raw}


def _proof(build: Build) -> dict[str, Value]:
    """The answers for photographs of known places; nothing, not even a name, where no proof was asked for."""
    if "proof" not in build.inputs:
        return {}
    if build.proof is None:
        raise TypeError("no proof")
    return {"proof": artifact_document(answers_of(build.proof))}


def _descriptors(build: Build, index: Index, networks: Sequence[str]) -> Iterator[dict[str, Value]]:
    """Say of each of several networks what its descriptors are, and which engine made them if it is not flown."""
    stand_ins = dict(build.stand_ins)
    for name, space in zip(networks, spaces_of_index(index.components), strict=True):
        by = {"embedded_by": _embedded_by(build, name)} if name in stand_ins else {}
        yield {"model": name, "vector_space": space, **by}


def _embedded_by(build: Build, network: str) -> dict[str, Value]:
    """Which engine made a network's descriptors: the one handed out, or a stand-in of the same network."""
    stand_in = build.stand_in_of(network)
    event = stand_in or dict(build.engines).get(network)
    if event is None:
        return {}
    components = event.components
    return _golden(stand_in) | {
        "step_key": event.key,
        "sha256": event.artifact.sha256,
        "backend": components["backend"],
        "version": components["version"],
        "target": components["target"],
    }


def _golden(stand_in: EngineCompiled | None) -> dict[str, Value]:
    """What a stand-in answered: on board the engine that it stands in for is held against it."""
    found = None if stand_in is None else attached(stand_in).get(GOLDEN)
    return {} if found is None else {"golden": artifact_document(found)}


def _engine(model: Document, event: EngineCompiled) -> Document:
    components = event.components
    return {
        "model": model["name"],
        "role": model["role"],
        "artifact": artifact_document(event.artifact),
        "step_key": event.key,
        "backend": components["backend"],
        "version": components["version"],
        "target": components["target"],
        "precision": components["precision"],
        "batch": components["batch"],
        "signature": without_attached(event.signature),
        "preprocessing": model["preprocessing"],
    }


def index_document(index: Index) -> Document:
    """Return the entry as it stands in the body of a manifest."""
    plain = {
        "artifact": artifact_document(whole_of(index)),
        "blocks": artifact_document(index.blocks),
        "step_key": index.key,
        "kind": index.kind,
        "metric": index.metric,
        "dimensions": index.dimensions,
        "rows": index.rows,
    }
    if not isinstance(index, IndexExtended):
        return plain
    delta = {"artifact": artifact_document(index.artifact), "added": index.added, "dropped": index.dropped}
    return plain | {"delta": delta}
