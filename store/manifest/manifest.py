"""Parse manifests: each says what a generation contains, as a projection of the journal. Pure.

A manifest file is one line of canonical JSON and a newline, `{"body": ..., "envelope": ..., "format": 1}`.
The format is 2 if the index has a delta (`store.manifest.index_entry`), 3 if chunks of ground have the
descriptors (`store.manifest.levels`), several networks describe (`store.manifest.networks`), it carries tiles or
its area is no box (`store.manifest.area`). The *body* says what the cache contains and what it was built from;
generations of one origin have the same body, byte for byte. The *envelope* says which generation this is:
cache id, generation, origin, the position in the journal just before its commit, and the time of the commit.
`body_sha256` is the digest of the body's canonical form. The journal keeps the digest of the whole file,
`manifest_sha256`.

A manifest names artifacts by digest alone, so it cannot name files elsewhere. It stays below
`MAX_MANIFEST_BYTES` for any number of tiles, because tile table, block table and geographic report are
artifacts, and in format 3 for the most networks that a request may have, because many are written in columns
(`store.manifest.columns`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from store.base import validators
from store.base.canonical_json import CanonicalError, Document, decode, encode, sha256
from store.base.identity import build_identity, joined_space
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef, Position
from store.errors import ErrorKind, NoGoError
from store.manifest import index_entry
from store.manifest.file_names import MAX_MANIFEST_BYTES
from store.manifest.index_entry import IndexEntry
from store.manifest.levels import CHUNKS, ChunkLevel, parse_levels
from store.manifest.networks import (
    descriptors_of,
    joins_networks,
    weight_of,
    with_columns,
    without_columns,
)
from store.manifest.roles import AREA, DELTA, PACKS, PROOF, TABLE, WHOLE, golden_role

FORMATS = (index_entry.PLAIN, index_entry.EXTENDED, CHUNKS)
"""The formats that this version reads and writes."""

_BILLION = 1_000_000_000
_MODEL_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
"""Valid names of models; never used as a path."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """Which generation a manifest is; `wall_ns` is the commit time, nanoseconds since 1970-01-01 UTC."""

    cache_id: str
    generation: int
    origin: int
    before: Position
    wall_ns: int


@valueclass(frozen=True, slots=True, kw_only=True)
class EngineEntry:
    """A compiled network: its artifact, and the backend and device that run it."""

    model: str
    role: str
    artifact: ArtifactRef
    step_key: str
    backend: str
    version: str
    target: str
    precision: str
    batch: int
    signature: Document
    preprocessing: Document


@valueclass(frozen=True, slots=True, kw_only=True)
class StandInEntry:
    """The engine that computed the descriptors instead of the flown engine, which is for another device.

    Attributes:
        step_key: Step key of the stand-in.
        sha256: Digest of its bytes, which are not flown.
        backend: Backend that compiled it.
        version: Version of that library.
        target: Device that it ran on.
        golden: Its answers to the golden images (`store.runtime.golden_vectors`).
        least_cosine: Lowest cosine similarity required between these and the answers of the flown engine.
    """

    step_key: str
    sha256: str
    backend: str
    version: str
    target: str
    golden: ArtifactRef
    least_cosine: float


@valueclass(frozen=True, slots=True, kw_only=True)
class CarriedEntry:
    """The encoded tiles that are carried: their pack table, how many they are, and their bytes in all."""

    packs: ArtifactRef
    tiles: int
    size: int


@valueclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A parsed manifest file.

    Attributes:
        raw: Its exact bytes.
        body: Its body, with every network written out.
        stand_ins: Model name to what embedded in place of its engine.
        weights: The weight of each descriptor network in units of 1e-6, in the order of their names.
    """

    raw: bytes
    body: Document
    body_sha256: str
    envelope: Envelope
    identity: str
    inputs: Document
    tiles: ArtifactRef
    tile_count: int
    tile_set: str
    calibration: ArtifactRef
    geography: ArtifactRef
    vector_space: str
    engines: tuple[EngineEntry, ...]
    index: IndexEntry
    stand_ins: Mapping[str, StandInEntry]
    levels: tuple[ChunkLevel, ...]
    carried: CarriedEntry | None
    proof: ArtifactRef | None
    area: ArtifactRef | None
    weights: tuple[int, ...]

    @property
    def sha256(self) -> str:
        """Digest of the file."""
        return sha256(self.raw)

    @property
    def descriptor_engine(self) -> EngineEntry:
        """The engine whose output is searched in the index; of several, the first by name."""
        return self.descriptor_engines[0]

    @property
    def descriptor_engines(self) -> tuple[EngineEntry, ...]:
        """The engines whose joined output is searched in the index, in the order of their names."""
        return tuple(engine for engine in self.engines if engine.role == "descriptor")

    def artifacts(self) -> Iterator[tuple[str, ArtifactRef]]:
        """Yield (role, reference) of every artifact that the manifest names, except blocks and packs in their tables."""
        yield "calibration", self.calibration
        if self.area is not None:
            yield AREA, self.area
        yield "tile table", self.tiles
        yield "geographic report", self.geography
        for engine in self.engines:
            yield f"engine {engine.model}", engine.artifact
        for model, stand_in in self.stand_ins.items():
            yield golden_role(model, alone=len(self.weights) == 1), stand_in.golden
        yield WHOLE, self.index.artifact
        if self.index.delta is not None:
            yield DELTA, self.index.delta.artifact
        yield TABLE, self.index.blocks
        if self.carried is not None:
            yield PACKS, self.carried.packs
        if self.proof is not None:
            yield PROOF, self.proof


def body_digest(body: Document) -> str:
    """Return `body_sha256` of a body."""
    return sha256(encode(body))


def parse(raw: bytes) -> Manifest:
    """Parse an untrusted manifest file.

    Raises:
        NoGoError: It is too long, not canonical, of an unknown format, or contradicts itself.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise _invalid(f"at most {MAX_MANIFEST_BYTES:,} bytes", f"{len(raw):,}")
    if not raw.endswith(b"\n"):
        raise _invalid("a final newline", "none; the file may be cut short")
    try:
        document = decode(raw[:-1])
    except CanonicalError as error:
        raise _invalid("canonical JSON", str(error)) from error
    match document:
        case {"format": int(number), "body": dict(body), "envelope": dict(envelope), **rest} if (
            number is not True and number in FORMATS and not rest
        ):
            try:
                return _parse_body(raw, body, _parse_envelope(envelope), number)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                found = f"{type(error).__name__}: {error}"
                raise _invalid(f"the fields of format {number}", found) from error
        case {"format": int(number)} if number not in FORMATS:
            raise _invalid("format 1 to 3", f"format {number}, written by another version of C10")
        case _:
            raise _invalid("body and envelope", "something else")


def _invalid(expected: str, found: str) -> NoGoError:
    return NoGoError(
        (f"manifest: expected {expected}, found {found}",),
        kind=ErrorKind.MANIFEST_INVALID,
        hint="c10 verify --full on the ground",
    )


def _parse_envelope(document: Document) -> Envelope:
    before = document["prev_head"]
    if document.keys() != {"cache_id", "generation", "origin", "prev_head", "time_ns"}:
        raise ValueError(f"envelope holds {sorted(document)}")
    return Envelope(
        cache_id=validators.text(document["cache_id"]),
        generation=validators.count(document["generation"]),
        origin=validators.count(document["origin"]),
        before=Position(validators.count(before["seq"]), validators.digest(before["chain"])),
        wall_ns=validators.count(document["time_ns"]),
    )


def _parse_body(raw: bytes, written: Document, envelope: Envelope, number: int) -> Manifest:
    body = without_columns(written)
    if (with_columns(body) if number == CHUNKS else body) != written:
        raise ValueError("the networks are not written as format 3 has them")
    inputs, index, tiles = body["inputs"], body["index"], body["tiles"]
    if body["identity"] != build_identity(inputs):
        raise ValueError("the identity is not that of the inputs")
    if inputs["tiles"]["digest"] != tiles["digest"] or inputs["calibration"] != body["calibration"]["sha256"]:
        raise ValueError("the inputs name another tile set or calibration")
    engines = tuple(_parse_engine(engine) for engine in body["engines"])
    _require_requested_engines(inputs["models"], engines)
    _require_facts(body)
    levels = parse_levels(inputs)
    carried = _parse_carried(body, inputs)
    proof = _parse_proof(body, inputs, levels)
    area = validators.artifact_ref(inputs["area"]) if "area" in inputs else None
    _require_format(number, chunks=bool(levels or carried or area or joins_networks(inputs)))
    return Manifest(
        raw=raw,
        body=body,
        body_sha256=body_digest(written),
        envelope=envelope,
        identity=validators.digest(body["identity"]),
        inputs=inputs,
        tiles=validators.artifact_ref(tiles["table"]),
        tile_count=validators.count(tiles["count"]),
        tile_set=validators.digest(tiles["digest"]),
        calibration=validators.artifact_ref(body["calibration"]),
        geography=validators.artifact_ref(body["geography"]["report"]),
        vector_space=validators.digest(body["vector_space"]),
        engines=engines,
        index=index_entry.parse(index, number=number),
        stand_ins=_parse_stand_ins(body, engines, inputs),
        levels=levels,
        carried=carried,
        proof=proof,
        area=area,
        weights=tuple(map(weight_of, descriptors_of(inputs))),
    )


def _require_facts(body: Document) -> None:
    """Check what a reader shows and does not open: counts of the area, and checks."""
    for name in ("wanted", "present", "featureless", "skipped"):
        validators.count(body["geography"][name])
    if not isinstance(body["checks"], list):
        raise TypeError("checks that are no list")
    for check in body["checks"]:
        if not all(isinstance(check[name], str) for name in ("check", "subject", "key", "artifact")):
            raise ValueError(f"a check of {check!r:.80}")
        validators.document(check["measured"])


def _require_format(number: int, *, chunks: bool) -> None:
    if chunks != (number == CHUNKS):
        found = "with" if chunks else "without"
        raise ValueError(
            f"a manifest of format {number} {found} levels of chunks, several networks, carried tiles or an area"
        )


def _parse_carried(body: Document, inputs: Document) -> CarriedEntry | None:
    asked = "carry" in inputs
    # Compared as they are written: to Python, 1 is true.
    if asked != ("carried" in body) or (asked and encode(inputs["carry"]) != encode({"tiles": True})):
        raise ValueError("the carried tiles are not those asked for")
    if "carried" not in body:
        return None
    document = body["carried"]
    if document.keys() != {"packs", "tiles", "size"}:
        raise ValueError(f"carried tiles hold {sorted(document)}")
    return CarriedEntry(
        packs=validators.artifact_ref(document["packs"]),
        tiles=validators.count(document["tiles"]),
        size=validators.count(document["size"]),
    )


def _parse_proof(body: Document, inputs: Document, levels: Sequence[ChunkLevel]) -> ArtifactRef | None:
    if ("proof" in inputs) != ("proof" in body) or ("proof" in inputs and not levels):
        raise ValueError("the proof is not the one asked for")
    return validators.artifact_ref(body["proof"]) if "proof" in body else None


def _require_requested_engines(models: Sequence[Document], engines: tuple[EngineEntry, ...]) -> None:
    asked = {model["name"]: encode([model["role"], model["preprocessing"]]) for model in models}
    found = {engine.model: encode([engine.role, engine.preprocessing]) for engine in engines}
    if asked != found or len(found) != len(engines):
        raise ValueError("the engines are not those of the models asked for")
    if [model["name"] for model in models] != sorted(asked):
        raise ValueError("the models asked for are not in the order of their names, each once")
    described = [engine.model for engine in engines if engine.role == "descriptor"]
    if not described or described != sorted(described):
        raise ValueError("no engine has the role of descriptor, or they are not in the order of their names")


def _parse_engine(document: Document) -> EngineEntry:
    model = validators.text(document["model"])
    if not re.fullmatch(_MODEL_NAME, model):
        raise ValueError(f"model name {model!r}")
    return EngineEntry(
        model=model,
        role=validators.text(document["role"]),
        artifact=validators.artifact_ref(document["artifact"]),
        step_key=validators.digest(document["step_key"]),
        backend=validators.text(document["backend"]),
        version=validators.text(document["version"]),
        target=validators.text(document["target"]),
        precision=validators.text(document["precision"]),
        batch=validators.count(document["batch"]),
        signature=validators.document(document["signature"]),
        preprocessing=validators.document(document["preprocessing"]),
    )


def _parse_stand_ins(
    body: Document, engines: tuple[EngineEntry, ...], inputs: Document
) -> Mapping[str, StandInEntry]:
    described = [engine for engine in engines if engine.role == "descriptor"]
    if len(described) == 1:
        documents = [body["index"].get("embedded_by", {})]
    else:
        named = body["descriptors"]
        if [each["model"] for each in named] != [engine.model for engine in described]:
            raise ValueError("the descriptors are not those of the networks asked for")
        spaces = [
            (validators.digest(each["vector_space"]), weight_of(model))
            for each, model in zip(named, descriptors_of(inputs), strict=True)
        ]
        if joined_space(spaces) != body["vector_space"]:
            raise ValueError("the vector space is not that of the networks")
        documents = [each.get("embedded_by", {}) for each in named]
    found = {
        engine.model: _parse_stand_in(document, engine, inputs)
        for engine, document in zip(described, documents, strict=True)
    }
    return {model: stand_in for model, stand_in in found.items() if stand_in is not None}


def _parse_stand_in(document: Document, descriptor: EngineEntry, inputs: Document) -> StandInEntry | None:
    if "golden" not in document:
        if document.get("step_key", descriptor.step_key) != descriptor.step_key:
            raise ValueError(
                "another engine embedded the tiles than the one handed out, and nothing compares them"
            )
        return None
    return StandInEntry(
        step_key=validators.digest(document["step_key"]),
        sha256=validators.digest(document["sha256"]),
        backend=validators.text(document["backend"]),
        version=validators.text(document["version"]),
        target=validators.text(document["target"]),
        golden=validators.artifact_ref(document["golden"]),
        least_cosine=validators.count(inputs["checks"]["parity_ppb"]) / _BILLION,
    )
